//! What a pair gets besides each other: STUN and TURN servers, with credentials of its own.

use std::net::{IpAddr, SocketAddr};

use crate::pairing::{IceServer, Role, SessionId};

use super::room::Hold;

/// What credentials are bound to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bond {
    /// A host that waits: nothing, so that there are no credentials.
    Host,
    /// An initiator that waits.
    Wait {
        /// Of the pair that is to be.
        session: SessionId,
        /// The wait ends after so many seconds.
        wait_s: u64,
    },
    /// One side of a pair.
    Pair {
        /// Names the pair.
        session: SessionId,
        /// Which side.
        role: Role,
        /// From where the initiator and the receiver are seen.
        sides: [IpAddr; 2],
    },
}

/// Who asks for servers.
#[derive(Clone, Copy, Debug)]
pub struct Asking<'a> {
    /// For what.
    pub bond: Bond,
    /// The address of the server that the request reached.
    pub reached: SocketAddr,
    /// The name by which the request called the server, if it is one.
    pub host: Option<&'a str>,
}

/// Asks for fresh credentials of a pair.
#[derive(Clone, Copy)]
pub struct Renewing<'a> {
    /// The name that was given.
    pub username: &'a str,
    /// The password that was given with it.
    pub credential: &'a str,
    /// As in [`Asking`].
    pub reached: SocketAddr,
    /// As in [`Asking`].
    pub host: Option<&'a str>,
}

/// Fresh credentials of one side of a pair.
#[derive(Clone, Debug)]
pub struct Renewed {
    /// Of which pair.
    pub session: SessionId,
    /// The servers, as in [`Fallback::ice_servers`].
    pub ice_servers: Vec<IceServer>,
    /// For how many seconds the credentials are good.
    pub ttl_s: u64,
}

/// Lives as long as a wait, and the session that came of it.
pub type Grant = Box<dyn Hold + Send + Sync>;

/// Where the two sides of a pair get STUN and TURN from. None of it may block.
pub trait Fallback: Send + Sync + 'static {
    /// The servers for one side.
    fn ice_servers(&self, asking: Asking<'_>) -> Vec<IceServer>;

    /// For how many seconds the credentials of a pair are good.
    fn ttl_s(&self) -> u64;

    /// Fresh credentials for a side that shows valid ones; `None` when they are not valid, or
    /// that can not be. By default it can not.
    fn renew(&self, _: Renewing<'_>) -> Option<Renewed> {
        None
    }

    /// Called when an initiator begins to wait that is told of servers, before it knows. The
    /// grant is told of its pair, and dropped when the wait ends without one, or the session does.
    /// By default nothing is held.
    fn hold(&self, _: &SessionId) -> Grant {
        Box::new(())
    }
}

/// A server of pairing alone: the two have each other and nothing else.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoFallback;

impl Fallback for NoFallback {
    fn ice_servers(&self, _: Asking<'_>) -> Vec<IceServer> {
        Vec::new()
    }

    fn ttl_s(&self) -> u64 {
        0
    }
}
