//! Sockets and threads: the driver of the core.
//!
//! [`bind()`] opens every listening socket, once for each shard; [`Bound::start`] runs one
//! thread for each shard, with a core of its own. The kernel spreads flows over the shards
//! (SO_REUSEPORT) and an allocation's relay sockets are opened by the shard that its client
//! reaches, so both directions of a flow stay on one thread and nothing is locked on the way of
//! a datagram. TCP and TLS connections live in the same loop.

mod admission;
mod bind;
pub mod clock;
mod connection;
mod control;
mod data_path;
mod descriptors;
mod merged;
mod mmsg;
mod outbox;
mod patience;
mod plane;
mod relays;
mod shard;
mod standing;
mod streams;
mod sys;
pub mod tls;
mod uring;
mod write_queue;

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

pub use bind::{BindError, BindProblem, Bound, bind, bind_patiently};
pub use control::{Shards, Steering};
pub use data_path::{DataPath, Serving, Unavailable};
pub use patience::Patience;

use crate::proto::audit::Audit;

/// Takes the audit events of all shards, on their threads.
pub type AuditSink = Arc<dyn Fn(&Audit) + Send + Sync>;

/// What a listener speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Protocol {
    /// Datagrams.
    Udp,
    /// Framed streams; with a certificate also TLS, told by the first byte.
    Tcp,
    /// Framed streams under TLS, and nothing else.
    Tls,
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Udp => "udp",
            Self::Tcp => "tcp",
            Self::Tls => "tls",
        })
    }
}

/// What a UDP listener is for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Service {
    /// STUN and TURN.
    #[default]
    Turn,
    /// The same, and what is neither is answered by the sender's address as text.
    TurnAndEcho,
    /// Bindings and nothing else.
    Discovery {
        /// Also answers what is no STUN, by the sender's address as text.
        echo: bool,
    },
}

impl Service {
    /// Whether clients allocate there.
    pub const fn is_turn(self) -> bool {
        matches!(self, Self::Turn | Self::TurnAndEcho)
    }
}

/// One listening address.
#[derive(Clone, Debug)]
pub struct ListenerConfig {
    /// What is spoken there.
    pub protocol: Protocol,
    /// Where. Port 0: any free one. A wildcard address answers from the address reached.
    pub address: SocketAddr,
    /// The certificate: needed for `Tls`, possible for `Tcp`.
    pub tls: Option<Arc<tls::Certificates>>,
    /// What it is for. Only UDP has a choice.
    pub service: Service,
}

/// A listening address as it is bound.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BoundAddress {
    /// What is spoken there.
    pub protocol: Protocol,
    /// Where, with the real port.
    pub address: SocketAddr,
    /// What it is for.
    pub service: Service,
}

/// What [`bind()`] opens.
#[derive(Clone, Debug)]
pub struct NetConfig {
    /// Number of shards; 0: one for each CPU that affinity and cgroup quota allow.
    pub threads: usize,
    /// Keep each shard on a CPU of its own, when there are several shards and CPUs for all.
    pub pin: bool,
    /// How datagrams are moved.
    pub data_path: DataPath,
    /// Equal datagrams of one flow that wait together leave in one, which the kernel, or the
    /// network device, cuts (UDP_SEGMENT); those that come in bursts come in one (UDP_GRO).
    pub segmentation: bool,
    /// The listeners.
    pub listeners: Vec<ListenerConfig>,
    /// Bounds on TCP and TLS connections.
    pub streams: StreamLimits,
    /// Receive and send buffer asked for each UDP listener, in bytes.
    pub receive_buffer: usize,
    /// Receive buffer asked for each relay socket, in bytes.
    pub relay_buffer: usize,
}

impl Default for NetConfig {
    fn default() -> Self {
        Self {
            threads: 0,
            pin: true,
            data_path: DataPath::Auto,
            segmentation: true,
            listeners: Vec::new(),
            streams: StreamLimits::default(),
            receive_buffer: 4 << 20,
            relay_buffer: 1 << 20,
        }
    }
}

/// Bounds on TCP and TLS connections.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StreamLimits {
    /// How long a connection may say nothing at all.
    pub first_byte: Duration,
    /// How long a connection may take until a request with valid credentials, from its opening
    /// on: TLS handshake included.
    pub authenticated: Duration,
    /// How long a frame may stay incomplete.
    pub frame: Duration,
    /// How long an authenticated connection without an allocation may be idle.
    pub idle: Duration,
    /// How long what is queued may take to be written once a connection is being closed.
    pub linger: Duration,
    /// Unauthenticated connections of one source (an IPv4 address or an IPv6 /64): one more
    /// closes the oldest of that source.
    pub per_source: usize,
    /// Unauthenticated connections of all sources and shards: one more closes the oldest. A
    /// quarter of the file-descriptor limit is the most.
    pub total: usize,
    /// What may wait to be written to one connection, in bytes: beyond it the oldest relayed
    /// data is dropped.
    pub write_queue_bytes: usize,
    /// How long relayed data may wait for a connection that takes nothing.
    pub write_queue_age: Duration,
}

impl Default for StreamLimits {
    fn default() -> Self {
        Self {
            first_byte: Duration::from_secs(5),
            authenticated: Duration::from_secs(15),
            frame: Duration::from_secs(10),
            idle: Duration::from_secs(60),
            linger: Duration::from_secs(5),
            per_source: 256,
            total: 16_384,
            write_queue_bytes: 512 * 1024,
            write_queue_age: Duration::from_secs(1),
        }
    }
}

/// [`StreamLimits`] as the shards use them: times in microseconds.
#[derive(Clone, Copy, Debug)]
struct Limits {
    first_byte: u64,
    authenticated: u64,
    frame: u64,
    idle: u64,
    linger: u64,
    write_queue_bytes: usize,
    write_queue_age: u64,
}

impl From<&StreamLimits> for Limits {
    fn from(limits: &StreamLimits) -> Self {
        let micros = |time: Duration| u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
        Self {
            first_byte: micros(limits.first_byte),
            authenticated: micros(limits.authenticated),
            frame: micros(limits.frame),
            idle: micros(limits.idle),
            linger: micros(limits.linger),
            write_queue_bytes: limits.write_queue_bytes,
            write_queue_age: micros(limits.write_queue_age),
        }
    }
}
