//! The vocabulary that the core shares with whoever drives it: time, addresses by role, and
//! what the core answers. All of it is plain data; nothing here decides anything.

use std::fmt;
use std::hash::{Hash, Hasher};
use std::net::{IpAddr, SocketAddr};
use std::ops::Range;

/// A point on the driver's monotonic clock, in microseconds since an arbitrary start.
///
/// All shards of a process share one start, so that instants of one shard can be compared with
/// those of another. All timers of the core (allocations, permissions, channels) run on it, so
/// a wall clock that is set forward or back never ends an allocation.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Mono(pub u64);

impl Mono {
    /// The instant `seconds` later; saturates.
    pub const fn plus_secs(self, seconds: u64) -> Self {
        Self(self.0.saturating_add(seconds.saturating_mul(1_000_000)))
    }

    /// Microseconds from `earlier` to `self`, 0 when `earlier` is later.
    pub const fn micros_since(self, earlier: Self) -> u64 {
        self.0.saturating_sub(earlier.0)
    }

    /// Whole seconds from `earlier` to `self`, rounded down, 0 when `earlier` is later.
    pub const fn secs_since(self, earlier: Self) -> u64 {
        self.micros_since(earlier) / 1_000_000
    }
}

/// The two clocks of one moment. The driver reads them once a batch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Now {
    /// Monotonic time: timers.
    pub mono: Mono,
    /// Unix time in seconds: nonces and the expiry of time-limited credentials.
    pub unix: u64,
}

/// The transport between client and server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Transport {
    /// One STUN message or ChannelData message per datagram.
    Udp,
    /// A framed byte stream.
    Tcp,
    /// A framed byte stream under TLS.
    Tls,
}

impl Transport {
    /// Whether messages travel in a byte stream (ChannelData is padded to 4 there,
    /// RFC 8656 section 12.5, and a request is never retransmitted).
    pub const fn is_stream(self) -> bool {
        !matches!(self, Self::Udp)
    }

    /// The lower-case name used in logs and metrics.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Udp => "udp",
            Self::Tcp => "tcp",
            Self::Tls => "tls",
        }
    }
}

/// The 5-tuple that identifies an allocation (RFC 8656 section 3.2): transport, the client's
/// address, and the server address that the client reached.
///
/// IPv4-mapped IPv6 addresses never occur in a `Flow`: the driver unmaps both addresses first.
#[derive(Clone, Copy, Debug)]
pub struct Flow {
    /// Transport between client and server.
    pub transport: Transport,
    /// The client's address as the server sees it.
    pub client: SocketAddr,
    /// The server address that the client reached (never a wildcard).
    pub local: SocketAddr,
    /// The driver's handle for the socket or connection that carries this flow. The core never
    /// looks at it and gives it back whenever something is to be sent. It is unique to a
    /// connection for streams, and fixed per listener for UDP.
    pub link: u64,
}

impl PartialEq for Flow {
    fn eq(&self, other: &Self) -> bool {
        self.link == other.link
            && self.client == other.client
            && self.local == other.local
            && self.transport == other.transport
    }
}

impl Eq for Flow {}

impl Hash for Flow {
    fn hash<H: Hasher>(&self, state: &mut H) {
        // One write of a fixed size is several times cheaper than the derived field-by-field
        // hash, and this runs once for every relayed datagram.
        let mut key = [0_u8; 44];
        pack(&mut key[..18], self.client);
        pack(&mut key[18..36], self.local);
        key[36..].copy_from_slice(&(self.link ^ ((self.transport as u64) << 62)).to_le_bytes());
        state.write(&key);
    }
}

/// Writes an address into 18 bytes: 16 of IP (IPv4 as ::a.b.c.d), 2 of port.
fn pack(out: &mut [u8], addr: SocketAddr) {
    match addr.ip() {
        IpAddr::V4(ip) => out[12..16].copy_from_slice(&ip.octets()),
        IpAddr::V6(ip) => out[..16].copy_from_slice(&ip.octets()),
    }
    out[16..18].copy_from_slice(&addr.port().to_le_bytes());
}

/// IP address family of a relayed transport address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Family {
    /// REQUESTED-ADDRESS-FAMILY 0x01.
    V4,
    /// REQUESTED-ADDRESS-FAMILY 0x02.
    V6,
}

impl Family {
    /// The family of an address.
    pub const fn of(ip: &IpAddr) -> Self {
        match ip {
            IpAddr::V4(_) => Self::V4,
            IpAddr::V6(_) => Self::V6,
        }
    }

    /// 0 for IPv4, 1 for IPv6: for tables with one slot per family.
    pub const fn index(self) -> usize {
        self as usize
    }
}

/// Names one relayed transport address of one shard's core.
///
/// The generation makes a stale id harmless: an event that was queued for a socket that is gone
/// finds nothing.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RelayId {
    /// Slot in the core's table.
    pub index: u32,
    /// How often the slot was reused; never 0.
    pub generation: u32,
}

impl RelayId {
    /// The id in 64 bits, for a socket token.
    pub const fn to_bits(self) -> u64 {
        (self.generation as u64) << 32 | self.index as u64
    }

    /// The reverse of [`RelayId::to_bits`].
    pub const fn from_bits(bits: u64) -> Self {
        Self {
            index: bits as u32,
            generation: (bits >> 32) as u32,
        }
    }
}

impl fmt::Debug for RelayId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "relay {}/{}", self.index, self.generation)
    }
}

/// The most bytes that the core ever puts in front of a payload: a Data indication header with
/// an IPv6 XOR-PEER-ADDRESS and the header of DATA.
pub const MAX_PREFIX: usize = 48;

/// Bytes to send in front of a payload, held inline so that nothing is allocated.
#[derive(Clone, Copy)]
pub struct Prefix {
    bytes: [u8; MAX_PREFIX],
    len: u8,
}

impl Prefix {
    /// A prefix built by `write`, which gets the whole space and returns how much it used.
    ///
    /// # Panics
    /// When `write` returns more than [`MAX_PREFIX`].
    pub fn build(write: impl FnOnce(&mut [u8; MAX_PREFIX]) -> usize) -> Self {
        let mut bytes = [0; MAX_PREFIX];
        let len = write(&mut bytes);
        assert!(
            len <= MAX_PREFIX,
            "a prefix has room for {MAX_PREFIX} bytes"
        );
        Self {
            bytes,
            len: len as u8,
        }
    }

    /// The bytes.
    pub fn as_slice(&self) -> &[u8] {
        &self.bytes[..usize::from(self.len)]
    }
}

impl fmt::Debug for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Prefix({} bytes)", self.len)
    }
}

/// What is to become of the bytes that were just handled.
#[derive(Clone, Debug)]
pub enum Disposition {
    /// Send part of the handled bytes from a relay socket to a peer.
    ToPeer {
        /// The relay socket to send from.
        relay: RelayId,
        /// Where to: for a relayed transport address of another shard of this server this is
        /// already the local address that its socket is bound to.
        peer: SocketAddr,
        /// Which of the handled bytes; may be empty.
        payload: Range<usize>,
        /// Send with the DF bit set (RFC 8656 section 14).
        dont_fragment: bool,
    },
    /// Send part of the handled bytes to a client: `prefix`, then `payload`, then `padding`
    /// zero bytes. The client may be another one than the sender's (relay to relay).
    ToClient {
        /// The client's flow.
        flow: Flow,
        /// Bytes to put in front.
        prefix: Prefix,
        /// Which of the handled bytes; may be empty.
        payload: Range<usize>,
        /// 0 to 3 zero bytes to put behind.
        padding: u8,
    },
    /// Send the first `len` bytes of the caller's reply buffer to `flow`.
    Reply {
        /// Where to.
        flow: Flow,
        /// Length of the message in the reply buffer.
        len: usize,
        /// Whether the request carried valid credentials: the connection that it came on is no
        /// longer an unauthenticated one.
        authenticated: bool,
    },
    /// Nothing to send yet: an answer follows from [`super::Relay::relay_opened`].
    Waiting,
    /// Nothing to send, and why.
    Drop(DropReason),
}

macro_rules! drop_reasons {
    ($($(#[$doc:meta])* $name:ident = $text:literal,)*) => {
        /// Why something received was dropped rather than answered or relayed. Each reason is a
        /// counter and a bounded metrics label.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[repr(usize)]
        pub enum DropReason { $($(#[$doc])* $name,)* }

        impl DropReason {
            /// All reasons, in the order of their discriminants.
            pub const ALL: &'static [Self] = &[$(Self::$name,)*];

            /// The label used in logs and metrics.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$name => $text,)* }
            }
        }
    };
}

drop_reasons! {
    /// Neither STUN nor ChannelData, or not well-formed.
    Malformed = "malformed",
    /// FINGERPRINT is wrong: the bytes are not STUN (RFC 8489 section 7).
    Fingerprint = "fingerprint",
    /// A STUN response or an indication that a server does not take.
    Unexpected = "unexpected",
    /// An indication with an unknown comprehension-required attribute.
    UnknownAttribute = "unknown_attribute",
    /// Data on a 5-tuple without an allocation.
    NoAllocation = "no_allocation",
    /// Data on a channel number that is not bound.
    NoChannel = "no_channel",
    /// No live permission for the peer.
    NoPermission = "no_permission",
    /// The peer's address is refused by the peer gate.
    PeerDenied = "peer_denied",
    /// The peer is of another address family than every relayed transport address.
    PeerFamily = "peer_family",
    /// The allocation is over its bandwidth.
    Bandwidth = "bandwidth",
    /// The reply budget for unauthenticated sources is spent.
    ReplyBudget = "reply_budget",
    /// The source address cannot be answered (port 0, multicast, unspecified).
    BadSource = "bad_source",
    /// Data that waited too long for a server over its capacity.
    Late = "late",
    /// The relay socket is gone.
    NoRelay = "no_relay",
    /// The payload does not fit a datagram.
    TooLarge = "too_large",
    /// The kernel refused to send it (unreachable, filtered, buffer full).
    SendFailed = "send_failed",
    /// A client's write queue was full.
    QueueFull = "queue_full",
    /// An ICMP error that RFC 8656 section 11.5 does not forward.
    Icmp = "icmp",
}

/// An ICMP error about a datagram that a relay socket sent (RFC 8656 section 11.5).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IcmpError {
    /// Where the datagram that caused the error was going to.
    pub destination: SocketAddr,
    /// ICMP or ICMPv6 type.
    pub icmp_type: u8,
    /// ICMP or ICMPv6 code.
    pub code: u8,
    /// The rest of the header: the MTU for "too big" messages, else 0.
    pub data: u32,
}

/// The 8 bytes of a RESERVATION-TOKEN.
pub type ReservationToken = [u8; 8];

/// Which relay socket to open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OpenSpec {
    /// Any free port of the range.
    Any {
        /// Family of the relayed transport address.
        family: Family,
    },
    /// The port that a number stands for, the same one whenever it is asked for; any other one
    /// where that is taken.
    At {
        /// Family of the relayed transport address.
        family: Family,
        /// Any number.
        place: u64,
    },
    /// An even port (EVEN-PORT with R=0).
    Even {
        /// Family of the relayed transport address.
        family: Family,
    },
    /// An even port, with the next higher port bound too and held under a token
    /// (EVEN-PORT with R=1). The core releases it by [`Effect::ReleaseReserved`].
    EvenAndReserve {
        /// Family of the relayed transport address.
        family: Family,
        /// The token that a later Allocate presents.
        token: ReservationToken,
    },
    /// The socket that is held under a token, whichever shard opened it.
    Reserved {
        /// The token.
        token: ReservationToken,
    },
}

/// A relay socket as the driver opened it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OpenedRelay {
    /// What the socket is bound to.
    pub local: SocketAddr,
    /// What the world sees: the relayed transport address that the client is told.
    pub public: SocketAddr,
}

/// Why no relay socket could be opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OpenError {
    /// No port of the range is free (508).
    NoPort,
    /// No socket is held under the token (508).
    NoReservation,
    /// The kernel refused: file descriptors or memory (508).
    Exhausted,
}

/// Cold work that the core asks of its driver. Drain it after every call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Open a relay socket and report by [`super::Relay::relay_opened`].
    OpenRelay {
        /// Which relayed transport address it is for.
        relay: RelayId,
        /// What to open.
        spec: OpenSpec,
    },
    /// Close a relay socket; its port is free again once it is closed.
    CloseRelay {
        /// Which one.
        relay: RelayId,
    },
    /// Close the socket held under a token, if it is still held.
    ReleaseReserved {
        /// The token.
        token: ReservationToken,
    },
    /// An allocation on a stream ended by itself: close the connection when it carries nothing
    /// else.
    CloseFlow {
        /// The client's flow.
        flow: Flow,
    },
    /// A line for the log, as [`super::audit::Audit::AuthenticationFailed`]: by itself, because
    /// whoever has no password must not make the server allocate memory.
    AuthenticationFailed {
        /// The client's flow.
        flow: Flow,
    },
    /// Something worth a line in the log.
    Audit(Box<super::audit::Audit>),
}
