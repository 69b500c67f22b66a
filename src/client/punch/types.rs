//! What goes in and out of the agent.

use std::fmt;
use std::net::SocketAddr;
use std::time::Duration;

use zeroize::ZeroizeOnDrop;

use super::{CandidateKind, Description};
use crate::pairing::Role;

/// Which way a datagram goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Via {
    /// A socket of the driver: 0 is the main one, the others are its to number.
    Socket(u16),
    /// The TURN allocation. The agent sends nothing that way.
    Relay,
}

/// How to punch.
#[derive(Clone, ZeroizeOnDrop)]
pub struct Config {
    /// Which side this is. The initiator nominates.
    #[zeroize(skip)]
    pub role: Role,
    /// Keys the checks: [`check`](crate::pairing::SessionSecrets::check). Without it, nothing is
    /// sent or taken until [`Agent::begin`](super::Agent::begin).
    pub check: Option<[u8; 32]>,
    /// How long one attempt lasts, at most a day, as the other times. Default: 10 s.
    #[zeroize(skip)]
    pub timeout: Duration,
    /// How many checks each pair gets in one attempt at most. Default: 100.
    #[zeroize(skip)]
    pub tries: u32,
    /// The shortest time between two checks (Ta of RFC 8445 section 14.2). Default: 5 ms.
    #[zeroize(skip)]
    pub pace: Duration,
    /// How often an idle path is refreshed. Default: 15 s.
    #[zeroize(skip)]
    pub keepalive: Duration,
    /// Whether to probe random ports for a NAT that gives random ones. Default: true.
    #[zeroize(skip)]
    pub birthday: bool,
}

impl Config {
    /// The defaults.
    pub const fn new(role: Role, check: [u8; 32]) -> Self {
        Self::with(role, Some(check))
    }

    /// The defaults, before the peer's salt and thus the key is known.
    pub const fn keyless(role: Role) -> Self {
        Self::with(role, None)
    }

    const fn with(role: Role, check: Option<[u8; 32]>) -> Self {
        Self {
            role,
            check,
            timeout: Duration::from_secs(10),
            tries: 100,
            pace: Duration::from_millis(5),
            keepalive: Duration::from_secs(15),
            birthday: true,
        }
    }
}

impl fmt::Debug for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Config")
            .field("role", &self.role)
            .finish_non_exhaustive()
    }
}

/// A datagram to send.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Transmit {
    /// From this socket.
    pub via: Via,
    /// To this address.
    pub to: SocketAddr,
    /// With this time to live; `None`: the system's. Where it cannot be set, the datagram is
    /// better not sent than sent with another.
    pub ttl: Option<u8>,
    /// The datagram.
    pub bytes: Vec<u8>,
}

/// Whether what arrived was for the agent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Handled {
    /// A check under the session's key: nobody else needs to see it.
    Consumed,
    /// Something else, or a forgery.
    NotMine,
}

/// A path without a relay.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Path {
    /// Send from this socket.
    pub via: Via,
    /// Send to this address.
    pub remote: SocketAddr,
    /// The own address as the peer sees it.
    pub local: Option<SocketAddr>,
    /// How the peer's address was found.
    pub kind: CandidateKind,
    /// The round-trip time.
    pub rtt: Duration,
}

/// Why there is no direct path (any more). `Display` says it in words for people.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// The path went silent.
    Silent,
    /// The driver removed the socket.
    SocketGone,
    /// The peer has told no address that makes sense.
    NothingTold,
    /// There is no address of the peer that an own socket can send to.
    NothingInCommon,
    /// No server saw an own address, and the own addresses did not do: UDP is blocked here.
    NothingSeenHere,
    /// The same at the peer's side.
    NothingSeenThere,
    /// The ports of neither side can be known beforehand.
    BothHard,
    /// One side has random ports, and probing did not meet one.
    ProbingFailed,
    /// Nothing came through.
    Unanswered,
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Silent => "the direct path went silent",
            Self::SocketGone => "the socket of the direct path is gone",
            Self::NothingTold => "the peer tells no address to try: it may want the relay only",
            Self::NothingInCommon => "the two have no kind of address in common",
            Self::NothingSeenHere => "UDP seems to be blocked here: no server saw an address",
            Self::NothingSeenThere => {
                "UDP seems to be blocked at the peer's side: no server saw an address"
            }
            Self::BothHard => {
                "both NATs give every destination another port, and at least one a random one"
            }
            Self::ProbingFailed => {
                "one NAT gives every destination a random port, and probing met none of them"
            }
            Self::Unanswered => "no check came through in both directions",
        })
    }
}

/// What the driver is to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// Send this to the peer through the signalling server, as it sends its own descriptions.
    /// Where that cannot be, it may be left out.
    Signal(Description),
    /// Open so many more IPv4 sockets and tell by [`add_sockets`](super::Agent::add_sockets).
    /// Told once in a session.
    OpenSockets(u16),
    /// Close the sockets that were opened so, but not this one. 0 is none of them.
    CloseSocketsExcept(u16),
    /// Both NATs count their ports, and are further on in this attempt: look at the own one again
    /// ([`refine`](super::refine)) from fresh sockets that take 16 ports or more, call [`set_local_nat`](super::Agent::set_local_nat), and tell
    /// the peer.
    Measure,
    /// Use this path, the first one or another. Both directions passed.
    Selected(Path),
    /// There is no direct path any more: use the relay. Punching goes on.
    Lost(Reason),
    /// This attempt did not find a path. There will be others, at longer and longer intervals.
    GaveUp(Reason),
}

/// What an agent did and refused.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Checks sent, with openers and probes.
    pub checks: u64,
    /// Of them: probes of random ports.
    pub probes: u64,
    /// Fresh checks of the peer.
    pub heard: u64,
    /// Answers to own checks.
    pub answers: u64,
    /// Refused: taken before, or too old to tell.
    pub replays: u64,
    /// Refused: own checks that came back.
    pub reflections: u64,
}
