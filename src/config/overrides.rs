//! What stands above the file: environment variables, and flags above those.

use std::fmt;

use zeroize::Zeroizing;

use super::keys;
use super::problem::At;
use super::reader::Found;
use super::secret::Secret;
use super::warnings::Warning;

/// Comma-separated shared secrets; replace `auth.secrets`.
pub const ENV_SECRETS: &str = "TURNSERVER_SECRETS";
/// The path of a file of secrets; replaces `auth.secrets_file`. A relative one is relative to the
/// directory that the process runs in.
pub const ENV_SECRETS_FILE: &str = "TURNSERVER_SECRETS_FILE";
/// Static users as `name:password,name:password`; replace `auth.users`.
pub const ENV_USERS: &str = "TURNSERVER_USERS";
/// Replaces `auth.nonce_key`.
pub const ENV_NONCE_KEY: &str = "TURNSERVER_NONCE_KEY";
/// Replaces `realm`.
pub const ENV_REALM: &str = "TURNSERVER_REALM";
/// Comma-separated addresses; replace `relay.public_address`.
pub const ENV_PUBLIC_ADDRESS: &str = "TURNSERVER_PUBLIC_ADDRESS";
/// Replaces `log.level`.
pub const ENV_LOG_LEVEL: &str = "TURNSERVER_LOG_LEVEL";
/// Replaces `runtime.data_path`.
pub const ENV_DATA_PATH: &str = "TURNSERVER_DATA_PATH";

const PREFIX: &str = "TURNSERVER_";

/// All variables that are looked at.
const VARIABLES: [&str; 8] = [
    ENV_SECRETS,
    ENV_SECRETS_FILE,
    ENV_USERS,
    ENV_NONCE_KEY,
    ENV_REALM,
    ENV_PUBLIC_ADDRESS,
    ENV_LOG_LEVEL,
    ENV_DATA_PATH,
];

/// Warns of variables that look like ours and are not: misspelt, they have no effect.
pub fn unknown_variables(names: impl IntoIterator<Item = String>) -> Vec<Warning> {
    let known: Vec<String> = VARIABLES
        .iter()
        .map(|name| name[PREFIX.len()..].to_ascii_lowercase())
        .collect();
    let mut found: Vec<Warning> = names
        .into_iter()
        .filter(|name| !VARIABLES.contains(&name.as_str()))
        .filter_map(|name| {
            let word = name.strip_prefix(PREFIX)?;
            // Kubernetes sets these by itself next to a Service of the name "turnserver".
            if word == "PORT" || word.starts_with("PORT_") || word.starts_with("SERVICE_") {
                return None;
            }
            let help = match keys::nearest(word, known.iter().map(String::as_str)) {
                Some(near) => format!("did you mean {PREFIX}{}?", near.to_ascii_uppercase()),
                None => format!("known are: {}", VARIABLES.join(", ")),
            };
            Some(Warning {
                message: format!("the environment variable {name} is not known and has no effect"),
                help,
            })
        })
        .collect();
    found.sort_by(|a, b| a.message.cmp(&b.message));
    found
}

/// A key of the file that has no effect, because environment or flags stand above it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Overridden {
    /// The key, for example `auth.secrets`.
    pub key: &'static str,
    /// The variable or flag that stands above it.
    pub source: &'static str,
    /// What the file says, to tell whether that changed.
    value: Secret,
}

impl fmt::Display for Overridden {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { key, source, .. } = self;
        write!(f, "`{key}` in the file is overridden by {source}")
    }
}

/// What flags say; `None` where a flag was not given.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Flags {
    /// `--realm`.
    pub realm: Option<String>,
    /// `--public-address`, as often as it was given.
    pub public_address: Vec<String>,
    /// `--log-level`.
    pub log_level: Option<String>,
}

/// A value from outside the file and the name of the variable or flag that it came from.
#[derive(Clone)]
struct Outside {
    value: Zeroizing<String>,
    source: &'static str,
}

/// Environment and flags together. They are read once at start and kept for reloads: a reload
/// reads the file anew under the same overrides.
#[derive(Clone, Default)]
pub struct Overrides {
    secrets: Option<Outside>,
    secrets_file: Option<Outside>,
    users: Option<Outside>,
    nonce_key: Option<Outside>,
    realm: Option<Outside>,
    public_address: Option<Outside>,
    log_level: Option<Outside>,
    data_path: Option<Outside>,
}

impl Overrides {
    /// Nothing above the file.
    pub fn none() -> Self {
        Self::default()
    }

    /// The overrides of the process's environment, with flags above them.
    pub fn from_process(flags: &Flags) -> Self {
        Self::new(|name| std::env::var(name).ok(), flags)
    }

    /// The overrides that `variable` and the flags give. An empty variable counts as unset.
    pub fn new(variable: impl Fn(&str) -> Option<String>, flags: &Flags) -> Self {
        let env = |name: &'static str| {
            variable(name)
                .filter(|value| !value.trim().is_empty())
                .map(|value| Outside {
                    value: Zeroizing::new(value),
                    source: name,
                })
        };
        let flag = |value: Option<String>, source: &'static str| {
            value.map(|value| Outside {
                value: Zeroizing::new(value),
                source,
            })
        };
        let addresses = Some(flags.public_address.join(",")).filter(|list| !list.is_empty());
        Self {
            secrets: env(ENV_SECRETS),
            secrets_file: env(ENV_SECRETS_FILE),
            users: env(ENV_USERS),
            nonce_key: env(ENV_NONCE_KEY),
            realm: flag(flags.realm.clone(), "--realm").or_else(|| env(ENV_REALM)),
            public_address: flag(addresses, "--public-address").or_else(|| env(ENV_PUBLIC_ADDRESS)),
            log_level: flag(flags.log_level.clone(), "--log-level").or_else(|| env(ENV_LOG_LEVEL)),
            data_path: env(ENV_DATA_PATH),
        }
    }

    /// Whether there is a secret or a user among them.
    pub fn has_credentials(&self) -> bool {
        self.secrets.is_some() || self.secrets_file.is_some() || self.users.is_some()
    }

    /// The same with one static user, for a server that nobody has configured. The name has no
    /// colon or comma, the password no comma.
    #[must_use]
    pub fn with_user(&self, name: &str, password: &str) -> Self {
        Self {
            users: Some(Outside {
                value: Zeroizing::new(format!("{name}:{password}")),
                source: "the generated user",
            }),
            ..self.clone()
        }
    }

    pub(super) fn secrets(&self) -> Option<Vec<Found<String>>> {
        self.secrets.as_ref().map(Outside::list)
    }

    pub(super) fn secrets_file(&self) -> Option<Found<String>> {
        self.secrets_file.as_ref().map(Outside::one)
    }

    pub(super) fn users(&self) -> Option<Vec<Found<String>>> {
        self.users.as_ref().map(Outside::list)
    }

    pub(super) fn nonce_key(&self) -> Option<Found<String>> {
        self.nonce_key.as_ref().map(Outside::one)
    }

    pub(super) fn realm(&self) -> Option<Found<String>> {
        self.realm.as_ref().map(Outside::one)
    }

    pub(super) fn public_address(&self) -> Option<Vec<Found<String>>> {
        self.public_address.as_ref().map(Outside::list)
    }

    pub(super) fn log_level(&self) -> Option<Found<String>> {
        self.log_level.as_ref().map(Outside::one)
    }

    pub(super) fn data_path(&self) -> Option<Found<String>> {
        self.data_path.as_ref().map(Outside::one)
    }

    /// Names of the variables and flags that are in force.
    pub fn sources(&self) -> Vec<&'static str> {
        self.in_force().map(|(_, source)| source).collect()
    }

    /// The keys that are overridden, each with the variable or flag that does it.
    fn in_force(&self) -> impl Iterator<Item = (&'static str, &'static str)> {
        [
            ("realm", &self.realm),
            ("relay.public_address", &self.public_address),
            ("auth.secrets", &self.secrets),
            ("auth.secrets_file", &self.secrets_file),
            ("auth.users", &self.users),
            ("auth.nonce_key", &self.nonce_key),
            ("log.level", &self.log_level),
            ("runtime.data_path", &self.data_path),
        ]
        .into_iter()
        .filter_map(|(key, outside)| Some((key, outside.as_ref()?.source)))
    }

    /// What a file with this text says in vain.
    pub(super) fn hide(&self, text: &str) -> Vec<Overridden> {
        let mut overridden = self.in_force().peekable();
        if overridden.peek().is_none() {
            return Vec::new();
        }
        let table: toml::Table = toml::from_str(text).unwrap_or_default();
        overridden
            .filter_map(|(key, source)| {
                let value = match keys::split(key) {
                    ("", name) => table.get(name),
                    (section, name) => table.get(section).and_then(|table| table.get(name)),
                }?;
                Some(Overridden {
                    key,
                    source,
                    value: Secret::new(value.to_string()),
                })
            })
            .collect()
    }
}

impl fmt::Debug for Overrides {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Overrides").field(&self.sources()).finish()
    }
}

impl Outside {
    fn one(&self) -> Found<String> {
        Found {
            value: self.value.trim().into(),
            at: At::Outside(self.source),
        }
    }

    fn list(&self) -> Vec<Found<String>> {
        self.value
            .split(',')
            .map(str::trim)
            .filter(|item| !item.is_empty())
            .map(|item| Found {
                value: item.into(),
                at: At::Outside(self.source),
            })
            .collect()
    }
}
