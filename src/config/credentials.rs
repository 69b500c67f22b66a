//! `[auth]`: who may allocate.

use std::path::{Path, PathBuf};

use base64::Engine as _;
use zeroize::Zeroizing;

use super::load::refuse_twice;
use super::overrides::{ENV_NONCE_KEY, ENV_SECRETS, ENV_USERS, Overrides};
use super::problem::{At, Problem, Problems};
use super::reader::{Found, Section};
use super::secret::{Secret, SecretKey};
use super::settings::{Auth, RestHash, User};
use crate::opaque::{OpaqueError, opaque_string};

/// The most bytes of a username (RFC 8489 section 14.3: fewer than 509).
const USERNAME_MAX: usize = 508;

/// What this project's own texts show in the place of secrets and passwords: everybody knows it.
const PLACEHOLDERS: [&str; 4] = [
    "fill in a long random secret",
    "her password",
    "his password",
    "…",
];
const OWN_SECRET: &str = "fill in the output of: openssl rand -hex 32";

/// `pairs`: there are also those whom the pairing endpoint gives credentials.
pub(super) fn auth(
    section: &Section<'_>,
    overrides: &Overrides,
    directory: &Path,
    pairs: bool,
    problems: &Problems,
) -> Auth {
    let before = problems.len();
    let mut secrets = secrets(section, overrides, problems);
    let secrets_file = secrets_file(section, overrides, directory, &mut secrets, problems);
    let users = users(section, overrides, problems);
    if secrets.is_empty() && users.is_empty() && !pairs && problems.len() == before {
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
                 alice = \"…\"            # a password of her own\n\
                 or set {ENV_SECRETS} or {ENV_USERS} in the environment;\n\
                 or serve devices that are paired here, and nobody else:\n  \
                 [signaling]"
            )),
        );
    }
    let default = Auth::default();
    Auth {
        secrets,
        secrets_file,
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
    let found = overrides.secrets().or(in_file).unwrap_or_default();
    found
        .into_iter()
        .filter_map(|found| secret(found, "a secret in `auth.secrets`", problems))
        .collect()
}

fn secret(found: Found<String>, name: &str, problems: &Problems) -> Option<Secret> {
    let (what, reason) = if found.value.is_empty() {
        ("is empty", "anybody could guess it")
    } else if PLACEHOLDERS.contains(&found.value.as_str()) {
        ("is the placeholder of the example", "everybody knows it")
    } else {
        return Some(Secret::new(found.value));
    };
    problems.push(Problem::new(found.at, format!("{name} {what}"), reason).help(OWN_SECRET));
    None
}

/// The file of `auth.secrets_file`: one secret a line, blank lines and lines that begin with `#`
/// apart. What it holds is added to `secrets`.
fn secrets_file(
    section: &Section<'_>,
    overrides: &Overrides,
    directory: &Path,
    secrets: &mut Vec<Secret>,
    problems: &Problems,
) -> Option<PathBuf> {
    let in_file = section.text("secrets_file");
    let (found, path) = match overrides.secrets_file() {
        Some(outside) => {
            let path = PathBuf::from(&outside.value);
            (outside, path)
        }
        None => {
            let found = in_file?;
            let path = directory.join(&found.value);
            (found, path)
        }
    };
    let fail = |reason: String, help: &str| {
        let title = format!("cannot take secrets from {}", path.display());
        problems.push(Problem::new(found.at.clone(), title, reason).help(help));
    };
    let text = match std::fs::read(&path).map(String::from_utf8) {
        Ok(Ok(text)) => Zeroizing::new(text),
        Ok(Err(_)) => {
            fail("it is not text".into(), "write one secret a line, as UTF-8");
            return None;
        }
        Err(error) => {
            let help = match (error.kind(), &found.at) {
                (std::io::ErrorKind::PermissionDenied, _) => {
                    "make it readable for the user that turnserver runs as"
                }
                (_, At::Outside(_)) => "write the file's full path",
                _ => "a relative path is relative to the directory of this file",
            };
            fail(super::io_reason(&error), help);
            return None;
        }
    };
    let (held, wrong) = (secrets.len(), problems.len());
    for (index, line) in text.lines().map(str::trim).enumerate() {
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let line = Found {
            value: line.to_owned(),
            at: found.at.clone(),
        };
        let name = format!("the secret in line {} of {}", index + 1, path.display());
        secrets.extend(secret(line, &name, problems));
    }
    if secrets.len() == held && problems.len() == wrong {
        fail("there is none in it".into(), OWN_SECRET);
    }
    Some(path)
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
    // Two spellings of one name are one user (RFC 8265 section 4.2).
    let prepared: Vec<Found<String>> = pairs
        .iter()
        .map(|(name, _)| Found {
            value: opaque_string(&name.value).map_or_else(|_| name.value.clone(), Into::into),
            at: name.at.clone(),
        })
        .collect();
    refuse_twice(&prepared, "user", problems);
    let mut users = Vec::new();
    for ((name, password), prepared) in pairs.into_iter().zip(prepared) {
        let (at, title, reason) = if let Err(error) = opaque_string(&name.value) {
            let title = match error {
                OpaqueError::Empty => "a username is empty",
                _ => "a username cannot be used",
            };
            (name.at, title.into(), explain(error, "1 to 508 bytes"))
        } else if prepared.value.len() > USERNAME_MAX {
            let title = "a username is too long".into();
            let reason = "at most 508 bytes (RFC 8489 section 14.3)".into();
            (name.at, title, reason)
        } else if let Err(error) = opaque_string(&password.value) {
            let what = match error {
                OpaqueError::Empty => "is empty",
                _ => "cannot be used",
            };
            let title = format!("the password of user `{}` {what}", name.value);
            (password.at, title, explain(error, "anybody could guess it"))
        } else if PLACEHOLDERS.contains(&password.value.as_str()) {
            let title = format!(
                "the password of user `{}` is the placeholder of the example",
                name.value
            );
            (password.at, title, "everybody knows it".into())
        } else {
            users.push(User {
                name: name.value,
                password: Secret::new(password.value),
            });
            continue;
        };
        problems.push(
            Problem::new(at, title, reason)
                .help("write a name and a password of your own: alice = \"…\""),
        );
    }
    users.sort_by(|a, b| a.name.cmp(&b.name));
    users
}

/// What is wrong with a text that has no OpaqueString form.
fn explain(error: OpaqueError, empty: &str) -> String {
    match error {
        OpaqueError::Empty => empty.into(),
        error => format!("it {error}"),
    }
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
