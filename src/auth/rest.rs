//! Time-limited credentials (the TURN REST draft, draft-uberti-behave-turn-rest): whoever shares
//! the secret makes user names that carry their own expiry, and nothing has to be stored.

use std::fmt;
use std::sync::Arc;

use crate::proto::credentials::Identity;
use crate::wire::{Key, PasswordAlgorithm};

/// How time-limited credentials are judged.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RestOptions {
    /// Seconds for which a credential is accepted after its expiry.
    pub leeway: u64,
    /// Passwords are HMAC-SHA256 rather than HMAC-SHA1.
    pub sha256: bool,
}

/// The secrets, as keys of the HMAC that makes passwords. All are tried, so that one can be
/// replaced by another without a gap.
pub(super) struct RestSecrets {
    secrets: Vec<Key>,
    options: RestOptions,
}

impl fmt::Debug for RestSecrets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RestSecrets({}, {:?})", self.secrets.len(), self.options)
    }
}

/// A user name that carries an expiry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct RestName<'a> {
    /// Unix time in seconds.
    pub(super) expiry: u64,
    /// The user part; `None` when there is only the expiry.
    pub(super) user: Option<&'a str>,
}

impl<'a> RestName<'a> {
    /// Reads `EXPIRY`, `EXPIRY:user` or `user:EXPIRY`. The first part that is a number is the
    /// expiry; the user part may hold further colons.
    pub(super) fn parse(name: &'a str) -> Option<Self> {
        let named = |expiry, user: &'a str| Self {
            expiry,
            user: (!user.is_empty()).then_some(user),
        };
        let Some((first, rest)) = name.split_once(':') else {
            return seconds(name).map(|expiry| named(expiry, ""));
        };
        if let Some(expiry) = seconds(first) {
            return Some(named(expiry, rest));
        }
        let (rest, last) = name.rsplit_once(':')?;
        seconds(last).map(|expiry| named(expiry, rest))
    }
}

/// Digits only: no sign, no blanks.
pub(super) fn seconds(text: &str) -> Option<u64> {
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    digits.then(|| text.parse().ok()).flatten()
}

impl RestSecrets {
    pub(super) fn new<'a>(secrets: impl Iterator<Item = &'a [u8]>, options: RestOptions) -> Self {
        Self {
            secrets: secrets.map(Key::from_bytes).collect(),
            options,
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.secrets.is_empty()
    }

    /// Tries the key that each secret gives for `name`.
    ///
    /// What is not a live time-limited name costs the same: the keys are computed and checked all
    /// the same, and their answer does not count.
    pub(super) fn authenticate(
        &self,
        name: &[u8],
        realm: &str,
        algorithm: PasswordAlgorithm,
        unix: u64,
        check: &mut dyn FnMut(&Key) -> bool,
    ) -> Option<Identity> {
        let text = std::str::from_utf8(name).ok();
        let live = text
            .and_then(|text| RestName::parse(text).map(|parsed| (text, parsed)))
            .filter(|(_, parsed)| unix < parsed.expiry.saturating_add(self.options.leeway));
        for secret in &self.secrets {
            let password = secret.rest_password(name, self.options.sha256);
            let key = Key::long_term(algorithm, name, realm.as_bytes(), password.as_bytes());
            if !check(&key) {
                continue;
            }
            if let Some((text, parsed)) = live {
                let username: Arc<str> = text.into();
                return Some(Identity {
                    user_id: parsed.user.map_or_else(|| Arc::clone(&username), Arc::from),
                    username,
                    key: Arc::new(key),
                    expires: Some(parsed.expiry.saturating_add(self.options.leeway)),
                    pair: None,
                });
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(name: &str) -> Option<(u64, Option<&str>)> {
        RestName::parse(name).map(|parsed| (parsed.expiry, parsed.user))
    }

    #[test]
    fn all_three_forms_are_read() {
        assert_eq!(parse("1700000000"), Some((1_700_000_000, None)));
        assert_eq!(
            parse("1700000000:alice"),
            Some((1_700_000_000, Some("alice")))
        );
        assert_eq!(
            parse("alice:1700000000"),
            Some((1_700_000_000, Some("alice")))
        );
        assert_eq!(parse("1700000000:a:b"), Some((1_700_000_000, Some("a:b"))));
        assert_eq!(parse("a:b:1700000000"), Some((1_700_000_000, Some("a:b"))));
        assert_eq!(parse("17:1700000000"), Some((17, Some("1700000000"))));
        assert_eq!(parse("1700000000:"), Some((1_700_000_000, None)));
        assert_eq!(parse(":1700000000"), Some((1_700_000_000, None)));
    }

    #[test]
    fn what_is_not_an_expiry_is_none() {
        for name in [
            "",
            ":",
            "alice",
            "alice:bob",
            "+17:a",
            "-1",
            " 17",
            "1.5",
            "a:17:b",
        ] {
            assert_eq!(parse(name), None, "{name:?}");
        }
        assert_eq!(
            parse("99999999999999999999999:a"),
            None,
            "more than 64 bits"
        );
    }
}
