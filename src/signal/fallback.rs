//! What a pair gets besides each other: STUN and TURN servers, with credentials of its own.

use std::any::Any;
use std::net::{IpAddr, SocketAddr};

use crate::pairing::{IceServer, Role, SessionId};

/// One side of a pair, as it asks for servers.
#[derive(Clone, Copy, Debug)]
pub struct Asking<'a> {
    /// Credentials are bound to it; without one there is nothing to bind them to.
    pub session: Option<&'a SessionId>,
    /// Which side.
    pub role: Role,
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

/// Lives as long as what was opened for a pair.
pub type Grant = Box<dyn Any + Send + Sync>;

/// Where the two sides of a pair get STUN and TURN from. None of it may block.
pub trait Fallback: Send + Sync + 'static {
    /// The servers for one side.
    fn ice_servers(&self, asking: Asking<'_>) -> Vec<IceServer>;

    /// For how many seconds the credentials among them are good.
    fn ttl_s(&self) -> u64;

    /// Fresh credentials for a side that shows valid ones; `None` when they are not valid, or
    /// that can not be. By default it can not.
    fn renew(&self, _: Renewing<'_>) -> Option<Renewed> {
        None
    }

    /// Called when two are paired, before either of them knows: lets their allocations reach these
    /// addresses, until the grant is dropped.
    fn open(&self, session: &SessionId, sides: [IpAddr; 2]) -> Grant;
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

    fn open(&self, _: &SessionId, _: [IpAddr; 2]) -> Grant {
        Box::new(())
    }
}
