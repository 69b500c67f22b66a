//! Events worth a line in the log, as data: the core has no logger.

use std::net::SocketAddr;
use std::sync::Arc;

use super::types::{Flow, RelayId};

/// Why an allocation ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum EndReason {
    /// Refresh with LIFETIME 0.
    Deleted,
    /// Its lifetime ran out.
    Expired,
    /// The client's connection closed.
    Disconnected,
    /// The server shut down.
    Shutdown,
    /// Nobody came to be paired with.
    Unpaired,
}

impl EndReason {
    /// The label used in logs and metrics.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Deleted => "deleted",
            Self::Expired => "expired",
            Self::Disconnected => "disconnected",
            Self::Shutdown => "shutdown",
            Self::Unpaired => "unpaired",
        }
    }
}

/// Traffic of one allocation, seen from the server.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Traffic {
    /// Packets from the client that were relayed.
    pub packets_up: u64,
    /// Application bytes from the client that were relayed.
    pub bytes_up: u64,
    /// Packets relayed to the client.
    pub packets_down: u64,
    /// Application bytes relayed to the client.
    pub bytes_down: u64,
    /// Packets dropped in either direction.
    pub dropped: u64,
}

/// An event of an allocation's life, or a refusal that a person will look for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Audit {
    /// An allocation was made.
    Created {
        /// Its first relayed transport address.
        relay: RelayId,
        /// The client's flow.
        flow: Flow,
        /// Who owns it.
        username: Arc<str>,
        /// The relayed transport addresses as the client was told.
        relayed: Vec<SocketAddr>,
    },
    /// An allocation ended: the one summary line.
    Ended {
        /// The client's flow.
        flow: Flow,
        /// Who owned it.
        username: Arc<str>,
        /// The relayed transport addresses.
        relayed: Vec<SocketAddr>,
        /// Why.
        reason: EndReason,
        /// How long it lived, in seconds.
        seconds: u64,
        /// How many different peers had permissions installed.
        peers: u32,
        /// What it carried.
        traffic: Traffic,
    },
    /// A peer was refused by the gate (403). Rate-limited by the logger.
    PeerRefused {
        /// The client's flow.
        flow: Flow,
        /// Who asked.
        username: Arc<str>,
        /// The peer.
        peer: SocketAddr,
    },
    /// An Allocate was refused with this error code (486, 508, 403).
    AllocateRefused {
        /// The client's flow.
        flow: Flow,
        /// Who asked.
        username: Arc<str>,
        /// The STUN error code.
        code: u16,
    },
    /// A request failed authentication (401 after credentials were presented).
    AuthenticationFailed {
        /// The client's flow.
        flow: Flow,
    },
}
