//! What stands above the file: environment variables, and flags above those.

use std::fmt;

use zeroize::Zeroizing;

use super::problem::At;
use super::reader::Found;

/// Comma-separated shared secrets; replace `auth.secrets`.
pub const ENV_SECRETS: &str = "TURNSERVER_SECRETS";
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
        self.secrets.is_some() || self.users.is_some()
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
        [
            &self.realm,
            &self.public_address,
            &self.secrets,
            &self.users,
            &self.nonce_key,
            &self.log_level,
            &self.data_path,
        ]
        .into_iter()
        .flatten()
        .map(|outside| outside.source)
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
