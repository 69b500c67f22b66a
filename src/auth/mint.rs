//! Making time-limited credentials, as `turnserver credentials` and HTTP endpoints do.

use crate::wire::rest_password;

/// A user name and password valid for `ttl` seconds from the Unix time `unix`: the user name is
/// `EXPIRY:user`, or `EXPIRY` without a user. `sha256` as in
/// [`RestOptions`](super::RestOptions::sha256).
pub fn mint(
    user: Option<&str>,
    ttl: u64,
    secret: &[u8],
    unix: u64,
    sha256: bool,
) -> (String, String) {
    let expiry = unix.saturating_add(ttl);
    let username = match user {
        Some(user) if !user.is_empty() => format!("{expiry}:{user}"),
        _ => expiry.to_string(),
    };
    let password = rest_password(secret, username.as_bytes(), sha256);
    (username, password)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_known_answer() {
        // printf %s 1700000060:alice | openssl dgst -sha1 -hmac north -binary | base64
        let (username, password) = mint(Some("alice"), 60, b"north", 1_700_000_000, false);
        assert_eq!(username, "1700000060:alice");
        assert_eq!(password, "b/MNJ/XdPk4NPaXAvztSvEoz3wM=");
        // The same with -sha256.
        let (username, password) = mint(None, 60, b"north", 1_700_000_000, true);
        assert_eq!(username, "1700000060");
        assert_eq!(password, "E2N6Brze4CozU0SWIe5oaV0yqfm1Vd7QYaHNt+RnqaM=");
    }
}
