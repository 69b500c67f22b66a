//! Who waits for whom, and what passes between two who found each other. Sans-IO: time is passed
//! in, and what one connection is told because of another goes to its mailbox.
//!
//! Nobody removes what somebody else put in: every connection has a seat, which owns its waiting
//! entry and its part of sessions, and whose guard ([`Seat`]) takes all of it away on drop.

mod address;
mod ended;
mod few;
mod guard;
mod shares;
mod table;
#[cfg(test)]
mod tests;

use std::net::{IpAddr, SocketAddr};

use crate::pairing::{ErrorCode, Protocol, Reason, RendezvousId, Role, SessionId};

pub(super) use address::Address;
pub use guard::{Room, Seat};
pub(super) use shares::{Full, SITE, Shares, Site, Source};

/// How much the room holds. One source is an IPv4 address or an IPv6 /64, and an IPv6 /48 may
/// have four times as much. In a full table one that comes takes the place of the newest of those
/// who hold most.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RoomLimits {
    /// Waiting initiators and hosts in all.
    pub waiting: usize,
    /// Of those from one source.
    pub waiting_per_source: usize,
    /// Of those under one rendezvous id.
    pub waiting_per_id: usize,
    /// Sessions in all: of two that can signal to each other.
    pub sessions: usize,
    /// Of those with receivers from one source.
    pub sessions_per_source: usize,
    /// Sessions of one connection.
    pub sessions_per_seat: usize,
    /// Signals that one side of a session may send in one go; two more come with every second.
    pub signals: u32,
    /// The longest wait of an initiator in seconds.
    pub max_wait_s: u64,
    /// For how many seconds a host stays registered that is not heard of.
    pub host_silence_s: u64,
}

impl Default for RoomLimits {
    fn default() -> Self {
        Self {
            waiting: 100_000,
            waiting_per_source: 2048,
            waiting_per_id: 16,
            sessions: 100_000,
            sessions_per_source: 2048,
            sessions_per_seat: 1024,
            signals: 128,
            max_wait_s: 30,
            host_silence_s: 60,
        }
    }
}

/// An initiator's wish to wait.
#[derive(Clone, Debug)]
pub struct Wait {
    /// Where.
    pub id: RendezvousId,
    /// What it wants.
    pub protocol: Protocol,
    /// The only address whose receiver pairs.
    pub target_ip: Option<IpAddr>,
    /// How long, in seconds; the room caps it. Of no account for a host.
    pub wait_s: u64,
    /// Stays after a receiver came.
    pub host: bool,
    /// What the receiver is told of it, in clear.
    pub endpoints: Vec<SocketAddr>,
}

/// What a waiting initiator is told at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Waiting {
    /// The session that is to be; `None` for a host.
    pub session: Option<SessionId>,
    /// The wait ends after so many seconds; a host's begins anew with every sign of life.
    pub wait_s: u64,
}

/// Two found each other; told to each of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pairing {
    /// Names the pair.
    pub session: SessionId,
    /// Which side the reader is.
    pub role: Role,
    /// The initiator's choice.
    pub protocol: Protocol,
    /// Where the server sees the reader.
    pub observed: SocketAddr,
    /// Where the server sees the peer.
    pub peer_observed: SocketAddr,
    /// What the peer told of itself.
    pub peer_endpoints: Vec<SocketAddr>,
    /// The initiator is a host.
    pub host: bool,
}

/// What one connection is told because of another, or of the time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A receiver came.
    Paired(Pairing),
    /// No receiver came in time.
    TimedOut,
    /// From the peer of a session.
    Signal {
        /// Of which pair.
        session: SessionId,
        /// As the peer sent it.
        blob: String,
    },
    /// The peer's connection has ended, or it left the session.
    PeerLeft {
        /// Of which pair.
        session: SessionId,
        /// The peer has no room for this session now.
        busy: bool,
    },
    /// The room is full, and the wait has ended for one from elsewhere.
    Displaced,
    /// The server is going away, and the wait has ended.
    GoingAway,
}

/// Why the room refuses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Denied {
    /// The kind.
    pub code: ErrorCode,
    /// Of what there is too much, with [`ErrorCode::TooMany`].
    pub reason: Option<Reason>,
}

impl From<ErrorCode> for Denied {
    fn from(code: ErrorCode) -> Self {
        Self { code, reason: None }
    }
}

impl From<Reason> for Denied {
    fn from(reason: Reason) -> Self {
        Self {
            code: ErrorCode::TooMany,
            reason: Some(reason),
        }
    }
}

/// Whoever reads has gone, or can not keep up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gone;

/// Where a connection is told things. Called under the room's lock: it must not block or call the
/// room.
pub trait Mailbox {
    /// Leaves an event for the reader.
    ///
    /// # Errors
    /// When it will not be read.
    fn deliver(&self, event: Event) -> Result<(), Gone>;
}

/// What is kept for one that waits, and then for its session. All of it is called under the
/// room's lock, the end by drop, too: it must not block or call the room.
pub trait Hold {
    /// The wait became a pair. Never called when it ends in another way.
    fn paired(&mut self);
}

impl Hold for () {
    fn paired(&mut self) {}
}

impl<H: Hold + ?Sized> Hold for Box<H> {
    fn paired(&mut self) {
        (**self).paired();
    }
}

/// Begins what is held for one that waits for the other side of a session: for an initiator that
/// can be told of it, not for a host, whose sessions begin with their receivers.
pub type Holding<G> = Box<dyn Fn(&SessionId) -> G + Send + Sync>;
