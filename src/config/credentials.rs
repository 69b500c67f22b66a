//! `[auth]`: who may allocate.

use base64::Engine as _;
use zeroize::Zeroizing;

use super::load::refuse_twice;
use super::overrides::{ENV_NONCE_KEY, ENV_SECRETS, ENV_USERS, Overrides};
use super::problem::{Problem, Problems};
use super::reader::{Found, Section};
use super::secret::{Secret, SecretKey};
use super::settings::{Auth, RestHash, User};

/// The most bytes of a username (RFC 8489 section 14.3: fewer than 509).
const USERNAME_MAX: usize = 508;

pub(super) fn auth(section: &Section<'_>, overrides: &Overrides, problems: &Problems) -> Auth {
    let before = problems.len();
    let secrets = secrets(section, overrides, problems);
    let users = users(section, overrides, problems);
    if secrets.is_empty() && users.is_empty() && problems.len() == before {
        problems.push(
            Problem::new(
                section.at(),
                "no credentials are configured",
                "without a user or a secret nobody could allocate",
            )
            .help(format!(
                "add time-limited credentials, made by your application from a secret:\n  \
                 [auth]\n  \
                 secrets = [\"…\"]        # fill in the output of: openssl rand -hex 32\n\
                 or a static user:\n  \
                 [auth.users]\n  \
                 alice = \"her password\"\n\
                 or set {ENV_SECRETS} or {ENV_USERS} in the environment"
            )),
        );
    }
    let default = Auth::default();
    Auth {
        secrets,
        users,
        nonce_key: nonce_key(section, overrides, problems),
        nonce_lifetime: section
            .number("nonce_lifetime", 10..=86_400)
            .map_or(default.nonce_lifetime, |found| found.value),
        expiry_leeway: section
            .number("expiry_leeway", 0..=86_400)
            .map_or(default.expiry_leeway, |found| found.value),
        rest_hash: section
            .choice(
                "rest_hash",
                &[RestHash::Sha1, RestHash::Sha256].map(|hash| (hash.name(), hash)),
            )
            .map_or(default.rest_hash, |found| found.value),
        password_algorithms: section
            .flag("password_algorithms")
            .unwrap_or(default.password_algorithms),
        match_user_id: section
            .flag("match_user_id")
            .unwrap_or(default.match_user_id),
        credential_ttl: section
            .number("credential_ttl", 1..=31_536_000)
            .map_or(default.credential_ttl, |found| found.value),
    }
}

fn secrets(section: &Section<'_>, overrides: &Overrides, problems: &Problems) -> Vec<Secret> {
    let in_file = section.texts("secrets");
    let mut secrets = Vec::new();
    for secret in overrides.secrets().or(in_file).unwrap_or_default() {
        if secret.value.is_empty() {
            problems.push(
                Problem::new(
                    secret.at,
                    "a secret in `auth.secrets` is empty",
                    "anybody could guess it",
                )
                .help("fill in the output of: openssl rand -hex 32"),
            );
        } else {
            secrets.push(Secret::new(secret.value));
        }
    }
    secrets
}

fn users(section: &Section<'_>, overrides: &Overrides, problems: &Problems) -> Vec<User> {
    let in_file = section.pairs("users");
    let pairs = match overrides.users() {
        Some(items) => items
            .into_iter()
            .filter_map(|item| split_user(item, problems))
            .collect(),
        None => in_file,
    };
    refuse_twice(pairs.iter().map(|(name, _)| name), "user", problems);
    let mut users = Vec::new();
    for (name, password) in pairs {
        let (at, title, reason) = if name.value.is_empty() {
            (name.at, "a username is empty".into(), "1 to 508 bytes")
        } else if name.value.len() > USERNAME_MAX {
            let title = "a username is too long".into();
            (name.at, title, "at most 508 bytes (RFC 8489 section 14.3)")
        } else if password.value.is_empty() {
            let title = format!("the password of user `{}` is empty", name.value);
            (password.at, title, "anybody could guess it")
        } else {
            users.push(User {
                name: name.value,
                password: Secret::new(password.value),
            });
            continue;
        };
        problems.push(
            Problem::new(at, title, reason).help("write for example: alice = \"her password\""),
        );
    }
    users.sort_by(|a, b| a.name.cmp(&b.name));
    users
}

/// `name:password`, as the environment has it. The password may hold colons.
fn split_user(item: Found<String>, problems: &Problems) -> Option<(Found<String>, Found<String>)> {
    let Found { value, at } = item;
    let value = Zeroizing::new(value);
    let Some((name, password)) = value.split_once(':') else {
        problems.push(
            Problem::new(at, "a user has no password", "there is no colon in it")
                .help(format!("write {ENV_USERS}=\"alice:password,bob:password\"")),
        );
        return None;
    };
    let found = |value: &str| Found {
        value: value.into(),
        at: at.clone(),
    };
    Some((found(name), found(password)))
}

fn nonce_key(
    section: &Section<'_>,
    overrides: &Overrides,
    problems: &Problems,
) -> Option<SecretKey> {
    let in_file = section.text("nonce_key");
    let found = overrides.nonce_key().or(in_file)?;
    let text = Zeroizing::new(found.value);
    let bytes = Zeroizing::new(decode(&text).unwrap_or_default());
    match <[u8; 32]>::try_from(bytes.as_slice()) {
        Ok(key) => Some(SecretKey::new(key)),
        Err(_) => {
            problems.push(
                Problem::new(
                    found.at,
                    "`auth.nonce_key` is not a key of 32 bytes",
                    "must be 64 hexadecimal digits, or base64 of 32 bytes",
                )
                .help(format!(
                    "fill in the output of: openssl rand -hex 32 (or leave it out, or set {ENV_NONCE_KEY})"
                )),
            );
            None
        }
    }
}

fn decode(text: &str) -> Option<Vec<u8>> {
    use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD, URL_SAFE, URL_SAFE_NO_PAD};
    if text.len() == 64 && text.bytes().all(|b| b.is_ascii_hexdigit()) {
        return text
            .as_bytes()
            .chunks(2)
            .map(|pair| {
                let digits = std::str::from_utf8(pair).ok()?;
                u8::from_str_radix(digits, 16).ok()
            })
            .collect();
    }
    [STANDARD, STANDARD_NO_PAD, URL_SAFE, URL_SAFE_NO_PAD]
        .iter()
        .find_map(|engine| engine.decode(text).ok())
}
