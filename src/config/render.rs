//! Settings as text: the effective configuration that `check` prints, and the flat list of
//! entries that a reload compares. Secrets never appear.

use std::fmt::Write as _;
use std::path::Path;

use zeroize::Zeroizing;

use super::keys::{self, Applies};
use super::secret::REDACTED;
use super::settings::{Certificate, Listener, Settings, Signaling};

/// One setting: its key, what is shown of it and what is compared.
pub(super) struct Entry {
    pub(super) key: String,
    /// As TOML, secrets redacted.
    pub(super) shown: String,
    /// Differs whenever the setting does, also where `shown` hides it.
    pub(super) exact: Zeroizing<String>,
    pub(super) applies: Applies,
}

impl Entry {
    fn open(path: &'static str, shown: impl ToString) -> Self {
        let shown = shown.to_string();
        Self {
            key: path.into(),
            exact: Zeroizing::new(shown.clone()),
            shown,
            applies: applies(path),
        }
    }

    fn hidden(path: &'static str, key: String, shown: String, exact: String) -> Self {
        Self {
            key,
            shown,
            exact: Zeroizing::new(exact),
            applies: applies(path),
        }
    }
}

fn applies(path: &str) -> Applies {
    keys::find(path).map_or(Applies::Restart, |key| key.applies)
}

/// Every setting, in the order of the file. Keys of users and listeners name them, so that one
/// that is added or removed is told from one that changed.
pub(super) fn entries(settings: &Settings) -> Vec<Entry> {
    let Settings {
        realm,
        listeners,
        relay,
        auth,
        stun,
        limits,
        peers,
        log,
        ops,
        signaling,
        runtime,
        drain,
        overridden: _,
    } = settings;
    let mut all = vec![Entry::open("realm", quote(realm))];
    for listener in listeners {
        for address in &listener.addresses {
            let key = format!("listener {} {address}", listener.protocol.name());
            let shown = certificate(listener);
            let exact = shown.clone();
            all.push(Entry::hidden("listener.address", key, shown, exact));
        }
    }
    let (low, high) = (relay.ports.start(), relay.ports.end());
    all.extend([
        Entry::open(
            "relay.address",
            list(relay.addresses.iter().map(|a| a.local)),
        ),
        Entry::open(
            "relay.public_address",
            list(relay.addresses.iter().map(|a| a.public)),
        ),
        Entry::open("relay.ports", quote(&format!("{low}-{high}"))),
        Entry::open("relay.default_family", quote(relay.default_family.name())),
        Entry::open("relay.rfc5766_channels", relay.rfc5766_channels),
    ]);
    let secrets: Vec<&str> = auth.secrets.iter().map(|secret| secret.expose()).collect();
    all.push(Entry::hidden(
        "auth.secrets",
        "auth.secrets".into(),
        list(secrets.iter().map(|_| REDACTED)),
        secrets.join("\0"),
    ));
    all.push(Entry::open(
        "auth.secrets_file",
        auth.secrets_file
            .as_ref()
            .map_or_else(String::new, |path| quote(&path.to_string_lossy())),
    ));
    for user in &auth.users {
        all.push(Entry::hidden(
            "auth.users",
            format!("auth.users.{}", toml_key(&user.name)),
            quote(REDACTED),
            user.password.expose().into(),
        ));
    }
    all.push(Entry::hidden(
        "auth.nonce_key",
        "auth.nonce_key".into(),
        match auth.nonce_key {
            Some(_) => quote(REDACTED),
            None => String::new(),
        },
        auth.nonce_key
            .as_ref()
            .map_or_else(String::new, |key| format!("{:?}", key.expose())),
    ));
    all.extend([
        Entry::open("auth.nonce_lifetime", auth.nonce_lifetime),
        Entry::open("auth.expiry_leeway", auth.expiry_leeway),
        Entry::open("auth.rest_hash", quote(auth.rest_hash.name())),
        Entry::open("auth.password_algorithms", auth.password_algorithms),
        Entry::open("auth.match_user_id", auth.match_user_id),
        Entry::open("auth.credential_ttl", auth.credential_ttl),
        Entry::open("stun.behaviour_discovery", stun.behaviour_discovery),
        Entry::open("limits.allocations_per_user", limits.allocations_per_user),
        Entry::open("limits.allocations", limits.allocations),
        Entry::open(
            "limits.permissions_per_allocation",
            limits.permissions_per_allocation,
        ),
        Entry::open(
            "limits.channels_per_allocation",
            limits.channels_per_allocation,
        ),
        Entry::open(
            "limits.bandwidth_per_allocation",
            limits.bandwidth_per_allocation,
        ),
        Entry::open(
            "limits.unauthenticated_replies",
            limits.unauthenticated_replies,
        ),
        Entry::open(
            "limits.unauthenticated_connections",
            limits.unauthenticated_connections,
        ),
        Entry::open(
            "limits.unauthenticated_connections_per_source",
            limits.unauthenticated_connections_per_source,
        ),
        Entry::open(
            "limits.first_byte_timeout",
            limits.first_byte_timeout.as_secs(),
        ),
        Entry::open(
            "limits.authentication_timeout",
            limits.authentication_timeout.as_secs(),
        ),
        Entry::open("limits.default_lifetime", limits.default_lifetime),
        Entry::open("limits.max_lifetime", limits.max_lifetime),
        Entry::open("peers.allow", list(&peers.allow)),
        Entry::open("peers.deny", list(&peers.deny)),
        Entry::open("peers.nat64", list(&peers.nat64)),
        Entry::open("log.level", quote(log.level.name())),
        Entry::open("log.format", quote(log.format.name())),
        Entry::open(
            "ops.address",
            ops.address
                .map_or_else(String::new, |address| quote(&address.to_string())),
        ),
    ]);
    if let Some(signaling) = signaling {
        all.extend(pairing(signaling));
    }
    all.extend([
        Entry::open(
            "runtime.threads",
            runtime
                .threads
                .map_or_else(String::new, |threads| threads.to_string()),
        ),
        Entry::open("runtime.data_path", quote(runtime.data_path.name())),
        Entry::open("runtime.segmentation", runtime.segmentation),
        Entry::open("drain.deadline", drain.deadline.as_secs()),
        Entry::open("drain.alternate", list(&drain.alternate)),
    ]);
    all
}

fn pairing(signaling: &Signaling) -> [Entry; 15] {
    let path = |part: fn(&Certificate) -> &Path| {
        let certificate = signaling.certificate.as_ref();
        certificate.map_or_else(String::new, |used| quote(&part(used).to_string_lossy()))
    };
    [
        Entry::open("signaling.address", list(&signaling.addresses)),
        Entry::open("signaling.certificate", path(|used| &used.chain)),
        Entry::open("signaling.key", path(|used| &used.key)),
        Entry::open("signaling.max_wait", signaling.max_wait.as_secs()),
        Entry::open("signaling.joins_per_minute", signaling.joins_per_minute),
        Entry::open("signaling.waiting", signaling.waiting),
        Entry::open(
            "signaling.connections_per_source",
            signaling.connections_per_source,
        ),
        Entry::open("signaling.credential_ttl", signaling.credential_ttl),
        Entry::open("signaling.pair_lifetime", signaling.pair_lifetime),
        Entry::open("signaling.relay_share", signaling.relay_share),
        Entry::open(
            "signaling.allocations_per_source",
            signaling.allocations_per_source,
        ),
        Entry::open(
            "signaling.bandwidth_per_allocation",
            signaling.bandwidth_per_allocation,
        ),
        Entry::open("signaling.stunturn", signaling.stunturn),
        Entry::open("signaling.fractal", list(&signaling.fractal)),
        Entry::open("signaling.fractal_first", list(&signaling.fractal_first)),
    ]
}

/// The effective configuration as TOML, defaults filled in, secrets redacted. Keys without a
/// value are left as comments.
pub fn effective(settings: &Settings) -> String {
    let mut out = String::new();
    let mut open = "";
    for entry in entries(settings) {
        if entry.key.starts_with("listener ") {
            // Printed as sections below, where their addresses stand together.
            if open != "listener" {
                open = "listener";
                settings
                    .listeners
                    .iter()
                    .for_each(|listener| push_listener(&mut out, listener));
            }
            continue;
        }
        let (section, name) = keys::split(&entry.key);
        if section != open {
            open = keys::SECTIONS
                .iter()
                .find(|known| **known == section)
                .copied()
                .unwrap_or_default();
            let _ = write!(out, "\n[{section}]\n");
        }
        let _ = match entry.shown.as_str() {
            "" => writeln!(out, "# {name}: not set"),
            shown => writeln!(out, "{name} = {shown}"),
        };
    }
    out
}

fn push_listener(out: &mut String, listener: &Listener) {
    let _ = writeln!(
        out,
        "\n[[listener]]\nprotocol = {}\naddress = {}",
        quote(listener.protocol.name()),
        list(&listener.addresses)
    );
    if let Some(certificate) = &listener.certificate {
        let _ = writeln!(
            out,
            "certificate = {}\nkey = {}",
            quote(&certificate.chain.to_string_lossy()),
            quote(&certificate.key.to_string_lossy())
        );
    }
}

fn certificate(listener: &Listener) -> String {
    listener
        .certificate
        .as_ref()
        .map_or_else(String::new, |certificate| {
            quote(&certificate.chain.to_string_lossy())
        })
}

fn list<T: ToString>(items: impl IntoIterator<Item = T>) -> String {
    let items: Vec<String> = items
        .into_iter()
        .map(|item| quote(&item.to_string()))
        .collect();
    format!("[{}]", items.join(", "))
}

fn quote(text: &str) -> String {
    toml::Value::String(text.into()).to_string()
}

/// A bare key where TOML allows one.
fn toml_key(name: &str) -> String {
    let bare = |b: u8| b.is_ascii_alphanumeric() || b == b'-' || b == b'_';
    if !name.is_empty() && name.bytes().all(bare) {
        name.into()
    } else {
        quote(name)
    }
}
