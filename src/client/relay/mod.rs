//! The way through a TURN server (RFC 8656): an allocation over UDP, TCP or TLS, whichever works
//! first, with a channel to each peer. It is refreshed, and made again when it is lost, until its
//! [`Relay`] is dropped; then it is given back.

mod link;
mod pipe;
mod race;
mod reach;
mod servers;
mod task;

use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use tokio::sync::{mpsc, watch};

use super::turn::Failure;
use crate::pairing::IceServer;
pub use reach::answers_by_udp;
pub use servers::{Host, Transport, TurnServer, stun_servers, turn_servers};

/// What waits in either direction at most; the rest is dropped, as on a full socket.
const QUEUE: usize = 1024;
/// The monotonic clock, which follows a paused one in tests.
pub(super) fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}

/// Why there is no relay.
#[derive(Debug)]
pub enum RelayError {
    /// The pairing server named none.
    NoServer,
    /// The connection failed, or the server does not exist.
    Io(io::Error),
    /// The server said no, or nothing.
    Turn(Failure),
}

impl fmt::Display for RelayError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoServer => f.write_str("the pairing server offers no relay"),
            Self::Io(error) => write!(f, "the relay cannot be reached: {error}"),
            Self::Turn(failure) => write!(f, "the relay refuses: {failure}"),
        }
    }
}

impl std::error::Error for RelayError {}

impl From<io::Error> for RelayError {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

/// What happened.
#[derive(Debug)]
pub enum RelayEvent {
    /// There is an allocation.
    Allocated {
        /// Where peers send to.
        relayed: SocketAddr,
        /// This end of the connection to the server.
        local: SocketAddr,
        /// How the server is reached: UDP or a stream.
        reliable: bool,
    },
    /// This peer can be reached now.
    Reachable(SocketAddr),
    /// The server does not let this peer be reached.
    Refused(SocketAddr, Failure),
    /// A peer sent these bytes.
    Data(SocketAddr, Vec<u8>),
    /// There is no allocation (any more), or its server has fallen silent. It is tried again,
    /// unless there is no server; the one that there was may be [allocated](Self::Allocated) again.
    Lost(RelayError),
}

enum Command {
    Reach(SocketAddr),
    Check,
    Send(SocketAddr, Vec<u8>),
}

/// A relay and the task that keeps it.
pub struct Relay {
    commands: mpsc::Sender<Command>,
    servers: watch::Sender<Vec<TurnServer>>,
    events: mpsc::Receiver<RelayEvent>,
}

impl fmt::Debug for Relay {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Relay")
    }
}

impl Relay {
    /// Starts to allocate on one of these servers, from this local address. `patience`: after so
    /// much silence of UDP streams are tried as well; a little more than a round trip to the
    /// server.
    pub fn start(servers: &[IceServer], bind: Option<IpAddr>, patience: Duration) -> Self {
        let (commands, ordered) = mpsc::channel(QUEUE);
        let (happened, events) = mpsc::channel(QUEUE);
        let (tell_servers, servers) = watch::channel(turn_servers(servers));
        let task = task::Task {
            servers,
            bind,
            patience,
            commands: ordered,
            events: happened,
            peers: Vec::new(),
        };
        tokio::spawn(task.run());
        Self {
            commands,
            servers: tell_servers,
            events,
        }
    }

    /// Takes these servers and their credentials from now on. An allocation that there is stays
    /// and is refreshed with them.
    pub fn renew(&self, servers: &[IceServer]) {
        self.servers.send_replace(turn_servers(servers));
    }

    /// Asks for a way to a peer, also after the allocation was lost and made again. The peer that
    /// is asked for last and the one before are kept within reach.
    pub fn reach(&self, peer: SocketAddr) {
        let _ = self.commands.try_send(Command::Reach(peer));
    }

    /// Makes sure that the server still knows us: a NAT that gives us another address does not
    /// tell. An allocation that is lost so is made again.
    pub fn check(&self) {
        let _ = self.commands.try_send(Command::Check);
    }

    /// Sends to a peer that is reachable, or drops what cannot be sent.
    pub fn send(&self, peer: SocketAddr, data: Vec<u8>) {
        let _ = self.commands.try_send(Command::Send(peer, data));
    }

    /// Waits for what happens next. Nothing is lost when the waiting is broken off. `None`: there
    /// will never be a relay.
    pub async fn next(&mut self) -> Option<RelayEvent> {
        self.events.recv().await
    }
}
