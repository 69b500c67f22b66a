//! The way through a TURN server (RFC 8656): an allocation over UDP, TCP or TLS, whichever works
//! first, with a channel to each peer. It is refreshed, and made again when it is lost, until its
//! [`Relay`] is dropped; then it is given back.

mod link;
mod pipe;
mod race;
mod reach;
mod servers;

use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use tokio::sync::{mpsc, watch};
use tokio::time::sleep;

use super::turn::Failure;
use crate::pairing::IceServer;
use link::{Happened, Link};
pub use reach::answers_by_udp;
pub use servers::{Host, Transport, TurnServer, stun_servers, turn_servers};

/// What waits in either direction at most; the rest is dropped, as on a full socket.
const QUEUE: usize = 1024;
/// What of the queue data leaves free.
const RESERVED: usize = 64;
/// Between attempts, doubled up to [`LONGEST_PAUSE`].
const PAUSE: Duration = Duration::from_millis(250);
const LONGEST_PAUSE: Duration = Duration::from_secs(16);
/// An allocation that lasted so long is made again at once when it is lost.
const LASTED: Duration = Duration::from_secs(1);

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
    /// There is no allocation (any more). It is tried again, unless there is no server.
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
        let task = Task {
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

    /// Asks for a way to a peer. It is asked for again after the allocation was lost.
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

struct Task {
    servers: watch::Receiver<Vec<TurnServer>>,
    bind: Option<IpAddr>,
    patience: Duration,
    commands: mpsc::Receiver<Command>,
    events: mpsc::Sender<RelayEvent>,
    peers: Vec<SocketAddr>,
}

impl Task {
    async fn run(mut self) {
        if self.servers.borrow().is_empty() {
            self.tell(RelayEvent::Lost(RelayError::NoServer));
            return;
        }
        let mut pause = PAUSE;
        loop {
            let servers = self.servers.borrow_and_update().clone();
            let race = race::allocate(servers, self.patience, self.bind);
            let lost = match self.orders_during(race).await {
                None => return,
                Some(Ok(link)) => {
                    pause = PAUSE;
                    let since = now();
                    match self.serve(link).await {
                        None => return,
                        Some(lost) if now() >= since + LASTED => {
                            self.tell(RelayEvent::Lost(lost));
                            continue;
                        }
                        Some(lost) => lost,
                    }
                }
                Some(Err(lost)) => lost,
            };
            self.tell(RelayEvent::Lost(lost));
            if self.orders_during(sleep(pause)).await.is_none() {
                return;
            }
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    /// Data is dropped when nobody takes it, like on a full socket; what changes finds room.
    fn tell(&self, event: RelayEvent) {
        if matches!(event, RelayEvent::Data(..)) && self.events.capacity() <= RESERVED {
            return;
        }
        let _ = self.events.try_send(event);
    }

    /// Does something while orders come in; `None` when the owner is gone.
    async fn orders_during<T>(&mut self, work: impl Future<Output = T>) -> Option<T> {
        tokio::pin!(work);
        loop {
            tokio::select! {
                done = &mut work => return Some(done),
                command = self.commands.recv() => match command? {
                    Command::Reach(peer) => self.peers.push(peer),
                    Command::Check | Command::Send(..) => {}
                },
            }
        }
    }

    /// Keeps an allocation until it is lost, or `None` until the owner is gone.
    async fn serve(&mut self, mut link: Link) -> Option<RelayError> {
        if let Some(allocation) = link.allocation() {
            self.tell(RelayEvent::Allocated {
                relayed: allocation.relayed,
                local: link.local_addr(),
                reliable: link.is_reliable(),
            });
        }
        for &peer in &self.peers {
            link.reach(peer);
        }
        loop {
            tokio::select! {
                Ok(()) = self.servers.changed() => {
                    link.renew(&self.servers.borrow_and_update());
                }
                command = self.commands.recv() => match command {
                    Some(Command::Reach(peer)) => {
                        if !self.peers.contains(&peer) {
                            self.peers.push(peer);
                        }
                        link.reach(peer);
                    }
                    Some(Command::Check) => link.check(),
                    Some(Command::Send(peer, data)) => link.send(peer, &data),
                    None => {
                        link.release().await;
                        return None;
                    }
                },
                happened = link.next() => self.tell(match happened {
                    Ok(Happened::Reachable(peer)) => RelayEvent::Reachable(peer),
                    Ok(Happened::Refused(peer, failure)) => RelayEvent::Refused(peer, failure),
                    Ok(Happened::Data(peer, data)) => RelayEvent::Data(peer, data),
                    Err(lost) => return Some(lost),
                }),
            }
        }
    }
}
