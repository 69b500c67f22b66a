//! The validated configuration as plain data: what the rest of the server is built from.
//!
//! Every default is stated here once, on the field and in the `Default` of its section.

mod signaling;

use std::net::{IpAddr, SocketAddr};
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

use ipnet::{IpNet, Ipv6Net};

use super::overrides::Overridden;
use super::secret::{Secret, SecretKey};

pub use signaling::Signaling;

/// Everything that can be configured, checked for consistency by [`super::load`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// The realm of the long-term credentials (RFC 8489 section 14.9): 1 to 127 characters.
    pub realm: String,
    /// Where clients are served. Default: UDP and TCP on port 3478 of all addresses.
    pub listeners: Vec<Listener>,
    /// Where relayed transport addresses are opened.
    pub relay: Relay,
    /// Who may allocate. At least one user or one secret, or `signaling`: then pairs do.
    pub auth: Auth,
    /// What Bindings are answered with.
    pub stun: Stun,
    /// How much anyone may use.
    pub limits: Limits,
    /// Which peers may be reached.
    pub peers: Peers,
    /// What is logged, and how.
    pub log: Log,
    /// Metrics and health.
    pub ops: Ops,
    /// Where devices are paired. Default: nowhere.
    pub signaling: Option<Signaling>,
    /// Threads.
    pub runtime: Runtime,
    /// What happens on SIGTERM.
    pub drain: Drain,
    /// What the file says in vain, because environment or flags stand above it.
    pub overridden: Vec<Overridden>,
}

/// The transport that a listener serves.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Protocol {
    /// `"udp"`.
    Udp,
    /// `"tcp"`. With a certificate it also speaks TLS, told apart by the first byte.
    Tcp,
    /// `"tls"`: TLS only.
    Tls,
}

impl Protocol {
    /// The name used in the configuration file.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Udp => "udp",
            Self::Tcp => "tcp",
            Self::Tls => "tls",
        }
    }
}

/// One `[[listener]]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listener {
    /// The transport.
    pub protocol: Protocol,
    /// One or more addresses. A wildcard serves every address of its family (IPv6 wildcards
    /// serve IPv6 only); port 0 takes any free port.
    pub addresses: Vec<SocketAddr>,
    /// Present on every `tls` listener, optional on `tcp`, never on `udp`.
    pub certificate: Option<Certificate>,
}

/// A certificate chain with its key, both PEM files. Relative paths were resolved against the
/// directory of the configuration file.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Certificate {
    /// The chain, the server's own certificate first.
    pub chain: PathBuf,
    /// The private key.
    pub key: PathBuf,
}

/// `[relay]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Relay {
    /// Where relayed transport addresses are opened; several addresses of one family form a
    /// pool. Never empty, no wildcard, `public` of the same family as `local`.
    ///
    /// Default: the addresses of the listeners that are no wildcards (loopback only when there
    /// is no other); for a wildcard listener the machine's address of that family, found by
    /// asking the routing table.
    pub addresses: Vec<RelayAddress>,
    /// The ports of relayed transport addresses, on each address. Never below 1024.
    /// Default 49152-65535 (RFC 8656 section 7.2).
    pub ports: RangeInclusive<u16>,
    /// The family of an allocation whose request names none.
    pub default_family: DefaultFamily,
    /// Let clients of RFC 5766 bind the channel numbers that RFC 8656 took away, 0x5000 to
    /// 0x7FFF. Clients that know RFC 8489 never get them. Default true.
    pub rfc5766_channels: bool,
}

/// An address that relays.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct RelayAddress {
    /// What sockets are bound to.
    pub local: IpAddr,
    /// What the world sees: differs from `local` behind a 1:1 NAT.
    pub public: IpAddr,
}

/// `relay.default_family`: the family of an allocation when the request carries no
/// REQUESTED-ADDRESS-FAMILY.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DefaultFamily {
    /// `"ipv4"`, the default and what RFC 8656 section 7.2 asks for.
    #[default]
    Ipv4,
    /// `"ipv6"`.
    Ipv6,
    /// `"client"`: the family that the client reached the server by.
    Client,
}

impl DefaultFamily {
    /// The name used in the configuration file.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Ipv4 => "ipv4",
            Self::Ipv6 => "ipv6",
            Self::Client => "client",
        }
    }
}

/// `[auth]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Auth {
    /// Shared secrets of time-limited credentials; all of them are accepted, so that one can be
    /// replaced without a gap. The first one mints. Those of `secrets_file` come last.
    /// Default: none.
    pub secrets: Vec<Secret>,
    /// A file of more secrets, one a line, which was read with the configuration. Default: none.
    pub secrets_file: Option<PathBuf>,
    /// Static users, sorted by name, each name once. Default: none.
    pub users: Vec<User>,
    /// The key of the nonces' MAC. Default (`None`): random at start, so that clients go through
    /// one more 438 after a restart; set it to the same value on sibling servers.
    pub nonce_key: Option<SecretKey>,
    /// How long a nonce is valid, in seconds: 10 to 86400, default 600.
    pub nonce_lifetime: u64,
    /// Seconds for which a time-limited credential is accepted after its expiry: 0 to 86400,
    /// default 0.
    pub expiry_leeway: u64,
    /// The hash of time-limited passwords. Default SHA-1, what every client library mints.
    pub rest_hash: RestHash,
    /// Offer SHA-256 by PASSWORD-ALGORITHMS (RFC 8489 section 9.2). Default true.
    pub password_algorithms: bool,
    /// Count and compare users by the user part of a time-limited username, so that a client may
    /// refresh an allocation with a newer credential. Default false (RFC 8656 section 7.3 asks
    /// for the very same username).
    pub match_user_id: bool,
    /// Seconds that a minted credential is valid: 1 to 31536000, default 86400.
    pub credential_ttl: u64,
}

impl Default for Auth {
    fn default() -> Self {
        Self {
            secrets: Vec::new(),
            secrets_file: None,
            users: Vec::new(),
            nonce_key: None,
            nonce_lifetime: 600,
            expiry_leeway: 0,
            rest_hash: RestHash::Sha1,
            password_algorithms: true,
            match_user_id: false,
            credential_ttl: 86_400,
        }
    }
}

/// A static user.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct User {
    /// The name as configured (OpaqueString is applied where it is used).
    pub name: String,
    /// The password.
    pub password: Secret,
}

/// `auth.rest_hash`: the HMAC of time-limited passwords.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum RestHash {
    /// `"sha1"`.
    #[default]
    Sha1,
    /// `"sha256"`.
    Sha256,
}

impl RestHash {
    /// The name used in the configuration file.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Sha1 => "sha1",
            Self::Sha256 => "sha256",
        }
    }
}

/// `[limits]`. The defaults are such that no honest user meets them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Allocations that one user may hold; 0 lifts it. Default 1024: whole applications often
    /// share one static user.
    pub allocations_per_user: u32,
    /// Allocations in all; 0 lifts it. Default 0.
    pub allocations: u32,
    /// Permissions of one allocation: 1 to 1000000, default 4096.
    pub permissions_per_allocation: u32,
    /// Channels of one allocation: 1 to 4096, default 4096, which is every channel number that
    /// RFC 8656 section 12 has.
    pub channels_per_allocation: u32,
    /// Bytes per second of one allocation, both directions together; what is over is dropped. 0
    /// lifts it. Default 0.
    pub bandwidth_per_allocation: u64,
    /// Answers per second that one source address gets over UDP without valid credentials; 0
    /// lifts this, the per-prefix budget and the budget for wrong passwords. Default 10.
    pub unauthenticated_replies: u32,
    /// TCP and TLS connections without valid credentials in all: 1 to 1000000, default 4096.
    pub unauthenticated_connections: u32,
    /// The same from one source address, default 256. At the cap the oldest one of that source
    /// is closed and the newcomer served.
    pub unauthenticated_connections_per_source: u32,
    /// How long a new connection may stay silent: 1 to 3600 s, default 5 s.
    pub first_byte_timeout: Duration,
    /// How long a connection may last without a request that carries valid credentials:
    /// 1 to 3600 s, default 15 s.
    pub authentication_timeout: Duration,
    /// Seconds of an allocation whose request names none, and the least that is granted: 1 to
    /// `max_lifetime`. Default 600 (RFC 8656 section 3.2) or `max_lifetime`, if that is lower.
    pub default_lifetime: u32,
    /// The longest lifetime that is granted, in seconds: 1 to 86400, default 3600
    /// (RFC 8656 section 7.2).
    pub max_lifetime: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            allocations_per_user: 1024,
            allocations: 0,
            permissions_per_allocation: 4096,
            channels_per_allocation: 4096,
            bandwidth_per_allocation: 0,
            unauthenticated_replies: 10,
            unauthenticated_connections: 4096,
            unauthenticated_connections_per_source: 256,
            first_byte_timeout: Duration::from_secs(5),
            authentication_timeout: Duration::from_secs(15),
            default_lifetime: 600,
            max_lifetime: 3600,
        }
    }
}

/// `[peers]`, on top of the built-in deny list of special-purpose addresses.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Peers {
    /// Networks that may be reached although the built-in list denies them. Default: none.
    pub allow: Vec<IpNet>,
    /// Networks that may not be reached, whatever else says so. Default: none.
    pub deny: Vec<IpNet>,
    /// NAT64 prefixes of the network the server is in, besides 64:ff9b::/96: /32, /40, /48, /56,
    /// /64 or /96 (RFC 6052). Addresses in them are judged by the IPv4 address inside.
    pub nat64: Vec<Ipv6Net>,
}

/// `[log]`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Log {
    /// The least severe level that is logged. Default `info`.
    pub level: Level,
    /// Default `auto`.
    pub format: LogFormat,
}

/// `log.level`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// Nothing.
    Off,
    /// What needs somebody.
    Error,
    /// What may need somebody.
    Warn,
    /// Start, stop, reload, and one line per ended allocation.
    #[default]
    Info,
    /// Every control message.
    Debug,
    /// Every packet.
    Trace,
}

impl Level {
    /// All levels, from silent to chatty.
    pub const ALL: [Self; 6] = [
        Self::Off,
        Self::Error,
        Self::Warn,
        Self::Info,
        Self::Debug,
        Self::Trace,
    ];

    /// The name used in the configuration file (and understood by `tracing`).
    pub const fn name(self) -> &'static str {
        match self {
            Self::Off => "off",
            Self::Error => "error",
            Self::Warn => "warn",
            Self::Info => "info",
            Self::Debug => "debug",
            Self::Trace => "trace",
        }
    }
}

/// `log.format`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LogFormat {
    /// `"auto"`: human on a terminal, JSON otherwise.
    #[default]
    Auto,
    /// `"human"`.
    Human,
    /// `"json"`: one object a line.
    Json,
}

impl LogFormat {
    /// The name used in the configuration file.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Human => "human",
            Self::Json => "json",
        }
    }
}

/// `[stun]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stun {
    /// Serve NAT behaviour discovery (RFC 5780) where UDP is served on two ports of two relay
    /// addresses. Default true.
    pub behaviour_discovery: bool,
}

impl Default for Stun {
    fn default() -> Self {
        Self {
            behaviour_discovery: true,
        }
    }
}

/// `[ops]`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ops {
    /// Where `/metrics`, `/healthz` and `/readyz` are served over plain HTTP. Default: nowhere.
    pub address: Option<SocketAddr>,
}

/// `[runtime]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Runtime {
    /// Relaying threads, 1 to 1024. Default (`None`): as many as CPU affinity and the cgroup's
    /// quota allow.
    pub threads: Option<usize>,
    /// How datagrams are moved.
    pub data_path: DataPath,
    /// Equal datagrams of one flow that wait together, such as the packets of a video frame,
    /// leave in one, which the kernel or the network device cuts, and come in one. Default: `true`.
    pub segmentation: bool,
}

impl Default for Runtime {
    fn default() -> Self {
        Self {
            threads: None,
            data_path: DataPath::default(),
            segmentation: true,
        }
    }
}

/// `runtime.data_path`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DataPath {
    /// `"auto"`: io_uring where it works, else mmsg.
    #[default]
    Auto,
    /// `"io_uring"`: one system call for thousands of sockets. Needs Linux 6.1; the server does
    /// not start where it does not work.
    IoUring,
    /// `"mmsg"`: epoll, recvmmsg and sendmmsg, which work everywhere.
    Mmsg,
}

impl DataPath {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Auto, Self::IoUring, Self::Mmsg];

    /// The name used in the configuration file.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::IoUring => "io_uring",
            Self::Mmsg => "mmsg",
        }
    }
}

/// `[drain]`: SIGTERM stops new allocations and waits for the live ones.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Drain {
    /// How long the live allocations are waited for: 0 to 86400 s, default 60 s.
    pub deadline: Duration,
    /// A sibling server that clients are sent to by 300 (Try Alternate), at most one address per
    /// family. Default: none, clients get 508.
    pub alternate: Vec<SocketAddr>,
}

impl Default for Drain {
    fn default() -> Self {
        Self {
            deadline: Duration::from_secs(60),
            alternate: Vec::new(),
        }
    }
}

impl Settings {
    /// Whether nobody but the pairs of the pairing endpoint may allocate.
    pub fn serves_pairs_only(&self) -> bool {
        let Auth { secrets, users, .. } = &self.auth;
        self.signaling.is_some() && secrets.is_empty() && users.is_empty()
    }

    /// Every certificate that a listener or the pairing endpoint uses, each once.
    pub fn certificates(&self) -> Vec<&Certificate> {
        let mut found: Vec<&Certificate> = Vec::new();
        let listeners = self.listeners.iter().map(|l| &l.certificate);
        let signaling = self.signaling.iter().map(|s| &s.certificate);
        for certificate in listeners.chain(signaling).flatten() {
            if !found.contains(&certificate) {
                found.push(certificate);
            }
        }
        found
    }

    /// How many relayed transport addresses there are: addresses times ports.
    pub fn capacity(&self) -> usize {
        self.relay.addresses.len() * self.relay.ports.len()
    }
}
