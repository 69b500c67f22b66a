//! What a reload changes: the differences between two configurations, and which of them can be
//! taken over while the server runs.

use std::collections::BTreeMap;
use std::fmt;

use super::keys::Applies;
use super::overrides::Overridden;
use super::render::{Entry, entries};
use super::secret::REDACTED;
use super::settings::{Auth, Limits, Relay, Settings};

/// Shown in place of a value that is not there: of a user or listener added or removed.
pub const ABSENT: &str = "(absent)";

/// One changed setting.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// The key, for example `limits.max_lifetime`, `auth.users.alice` or
    /// `listener udp 0.0.0.0:3478`.
    pub key: String,
    /// The old value, secrets redacted; [`ABSENT`] when there was none.
    pub old: String,
    /// The new value, secrets redacted; [`ABSENT`] when it is gone.
    pub new: String,
    /// When the change takes effect.
    pub applies: Applies,
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: ", self.key)?;
        if self.old == ABSENT {
            f.write_str("added")?;
        } else if self.new == ABSENT {
            f.write_str("removed")?;
        } else if self.new.contains(REDACTED) {
            f.write_str("changed")?;
        } else {
            write!(f, "{} -> {}", self.old, self.new)?;
        }
        match self.applies {
            Applies::Live => Ok(()),
            Applies::Restart => f.write_str(" (needs a restart)"),
        }
    }
}

/// Everything that differs, in the order of the file; what was removed comes last.
pub fn diff(old: &Settings, new: &Settings) -> Vec<Change> {
    let mut before: BTreeMap<String, Entry> = entries(old)
        .into_iter()
        .map(|entry| (entry.key.clone(), entry))
        .collect();
    let mut changes = Vec::new();
    for entry in entries(new) {
        let old = before.remove(&entry.key);
        if old.as_ref().is_some_and(|old| old.exact == entry.exact) {
            continue;
        }
        changes.push(Change {
            key: entry.key,
            old: old.map_or_else(|| ABSENT.into(), |old| show(old.shown)),
            new: show(entry.shown),
            applies: entry.applies,
        });
    }
    changes.extend(before.into_values().map(|entry| Change {
        key: entry.key,
        old: show(entry.shown),
        new: ABSENT.into(),
        applies: entry.applies,
    }));
    changes
}

/// A key without a value is at its default, which is no value either.
fn show(value: String) -> String {
    if value.is_empty() {
        "(not set)".into()
    } else {
        value
    }
}

/// The running settings with everything taken over from `new` that applies live: what a server
/// acts on after a reload, while the rest waits for a restart.
pub fn adopt(running: &Settings, new: &Settings) -> Settings {
    Settings {
        realm: running.realm.clone(),
        listeners: running.listeners.clone(),
        relay: Relay {
            default_family: new.relay.default_family,
            rfc5766_channels: new.relay.rfc5766_channels,
            ..running.relay.clone()
        },
        auth: Auth {
            nonce_key: running.auth.nonce_key.clone(),
            nonce_lifetime: running.auth.nonce_lifetime,
            ..new.auth.clone()
        },
        stun: running.stun,
        limits: Limits {
            unauthenticated_connections: running.limits.unauthenticated_connections,
            unauthenticated_connections_per_source: running
                .limits
                .unauthenticated_connections_per_source,
            first_byte_timeout: running.limits.first_byte_timeout,
            authentication_timeout: running.limits.authentication_timeout,
            ..new.limits.clone()
        },
        peers: new.peers.clone(),
        log: super::settings::Log {
            level: new.log.level,
            format: running.log.format,
        },
        ops: running.ops,
        signaling: running.signaling.clone(),
        runtime: running.runtime,
        drain: new.drain.clone(),
        overridden: new.overridden.clone(),
    }
}

/// What changed in the file without any effect, because environment or flags stand above it.
pub fn without_effect<'a>(old: &Settings, new: &'a Settings) -> Vec<&'a Overridden> {
    let mut changed: Vec<&Overridden> = new.overridden.iter().collect();
    changed.retain(|now| !old.overridden.contains(now));
    changed
}
