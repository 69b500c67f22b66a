//! Every key there is, once: the reader, the error texts and the reload report all look here.

/// When a changed key takes effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Applies {
    /// On reload, for what happens from then on. Existing allocations live on.
    Live,
    /// After a restart only.
    Restart,
}

/// One key of the configuration file.
pub(super) struct Key {
    /// Section and name; the entries of a `[[listener]]` have the section `listener`.
    pub(super) path: &'static str,
    /// A value as it would be written.
    pub(super) example: &'static str,
    /// When a change takes effect.
    pub(super) applies: Applies,
}

const fn live(path: &'static str, example: &'static str) -> Key {
    Key {
        path,
        example,
        applies: Applies::Live,
    }
}

const fn restart(path: &'static str, example: &'static str) -> Key {
    Key {
        path,
        example,
        applies: Applies::Restart,
    }
}

/// All keys in the order in which they are shown.
pub(super) const KEYS: &[Key] = &[
    restart("realm", r#""example.org""#),
    restart("listener.protocol", r#""udp""#),
    restart("listener.address", r#"["0.0.0.0:3478", "[::]:3478"]"#),
    restart("listener.certificate", r#""cert.pem""#),
    restart("listener.key", r#""key.pem""#),
    restart("relay.address", r#"["192.0.2.1", "2001:db8::1"]"#),
    restart("relay.public_address", r#""203.0.113.7""#),
    restart("relay.ports", r#""49152-65535""#),
    restart("relay.families", r#"["ipv4", "ipv6"]"#),
    live("relay.default_family", r#""ipv4""#),
    live("relay.rfc5766_channels", "true"),
    live("auth.secrets", r#"["a-long-random-secret"]"#),
    live("auth.secrets_file", r#""secrets""#),
    live("auth.users", r#"{ alice = "her-password" }"#),
    restart("auth.nonce_key", r#""64 hexadecimal digits""#),
    restart("auth.nonce_lifetime", "600"),
    live("auth.expiry_leeway", "0"),
    live("auth.rest_hash", r#""sha1""#),
    live("auth.password_algorithms", "true"),
    live("auth.match_user_id", "false"),
    live("auth.credential_ttl", "86400"),
    restart("stun.behaviour_discovery", "true"),
    live("limits.allocations_per_user", "1024"),
    live("limits.allocations", "0"),
    live("limits.permissions_per_allocation", "4096"),
    live("limits.channels_per_allocation", "4096"),
    live("limits.bandwidth_per_allocation", "0"),
    live("limits.unauthenticated_replies", "10"),
    restart("limits.unauthenticated_connections", "4096"),
    restart("limits.unauthenticated_connections_per_source", "256"),
    restart("limits.first_byte_timeout", "5"),
    restart("limits.authentication_timeout", "15"),
    live("limits.default_lifetime", "600"),
    live("limits.max_lifetime", "3600"),
    live("peers.allow", r#"["10.1.0.0/16"]"#),
    live("peers.deny", r#"["198.51.100.0/24"]"#),
    live("peers.nat64", r#"["2001:db8:64::/96"]"#),
    live("log.level", r#""info""#),
    restart("log.format", r#""auto""#),
    restart("ops.address", r#""127.0.0.1:9641""#),
    restart("signaling.address", r#""0.0.0.0:8080""#),
    restart("signaling.certificate", r#""cert.pem""#),
    restart("signaling.key", r#""key.pem""#),
    restart("signaling.max_wait", "30"),
    restart("signaling.joins_per_minute", "300"),
    restart("signaling.waiting", "100000"),
    restart("signaling.connections_per_source", "2048"),
    restart("signaling.credential_ttl", "3600"),
    restart("signaling.pair_lifetime", "2592000"),
    restart("signaling.relay_share", "75"),
    restart("signaling.allocations_per_source", "128"),
    restart("signaling.bandwidth_per_allocation", "12500000"),
    restart("signaling.stunturn", "false"),
    restart("signaling.fractal", r#""0.0.0.0:48800""#),
    restart("signaling.fractal_first", r#""0.0.0.0:48801""#),
    restart("runtime.threads", "4"),
    restart("runtime.data_path", r#""auto""#),
    restart("runtime.segmentation", "true"),
    live("drain.deadline", "60"),
    live("drain.alternate", r#"["192.0.2.2:3478"]"#),
];

/// The sections of the file; `listener` is written `[[listener]]`.
pub(super) const SECTIONS: &[&str] = &[
    "listener",
    "relay",
    "auth",
    "stun",
    "limits",
    "peers",
    "log",
    "ops",
    "signaling",
    "runtime",
    "drain",
];

/// The full name of every key, in the order of the documentation.
pub fn keys() -> impl Iterator<Item = &'static str> {
    KEYS.iter().map(|key| key.path)
}

/// The key with this path.
pub(super) fn find(path: &str) -> Option<&'static Key> {
    KEYS.iter().find(|key| key.path == path)
}

/// Splits a path into section (empty for the top level) and name.
pub(super) fn split(path: &str) -> (&str, &str) {
    path.split_once('.').unwrap_or(("", path))
}

/// How a section is opened in the file.
pub(super) fn header(section: &str) -> String {
    match section {
        "" => "the top of the file".into(),
        "listener" => "[[listener]]".into(),
        _ => format!("[{section}]"),
    }
}

/// The known name nearest to a misspelt one, if any is near.
pub(super) fn nearest<'a>(name: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let folded = name.to_ascii_lowercase().replace('-', "_");
    // Short names are judged by the letters that are wrong: two swapped ones count as one.
    let near = |candidate: &str, likeness: f64| {
        likeness > 0.8 || strsim::osa_distance(&folded, candidate) <= folded.len() / 3
    };
    known
        .into_iter()
        .map(|candidate| (strsim::jaro_winkler(&folded, candidate), candidate))
        .filter(|(likeness, candidate)| near(candidate, *likeness))
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, candidate)| candidate)
}
