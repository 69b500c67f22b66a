//! One session of two paired devices: its sockets, its relay, its punching agent and its sealed
//! datagrams, driven by one task.
//!
//! Datagrams flow through the relay as soon as both sides have one. The agent looks for a direct
//! path meanwhile, and the session moves to it when it is proven, back when it dies, and forth
//! again, without its user noticing more than that a path has changed. What both sides need to
//! tell each other goes through the pairing server, and through the session itself once there is
//! a path, so that a session outlives its pairing server.

mod alone;
mod discovery;
mod driver;
mod gather;
pub(crate) mod interfaces;
mod loss;
mod note;
mod outbox;
mod outer_port;
mod packets;
mod paths;
mod proof;
mod sockets;
mod telling;
mod turn;

use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::AtomicU8;
#[cfg(feature = "client")]
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use tokio::net::UdpSocket;
use tokio::sync::{mpsc, oneshot, watch};

use crate::client::noise::{Kind, LARGEST_DATAGRAM};
use crate::client::punch::NatHint;
use crate::client::relay::{Host, Relay};
use crate::client::tcp::Offer;
use crate::pairing::{
    AccessKey, ClientMessage, IceServer, Outcome, Role, SessionId, SessionSecrets,
};

pub use outer_port::OuterPort;
pub use paths::PathInfo;

/// What waits in one direction at most. In front of the sockets a sender waits; what arrives and
/// is not taken is dropped, as on a full socket.
const QUEUE: usize = 1024;

/// What the session tells while it goes on; for people and for programs.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Progress {
    /// The pairing server answered, and the initiator waits so many seconds at most.
    Waiting {
        /// Where the server sees us.
        observed: SocketAddr,
        /// For so long.
        wait: Duration,
    },
    /// The pairing server cannot be reached, or is gone; a host tries again.
    Retrying {
        /// Why, in words.
        reason: String,
        /// After so long.
        pause: Duration,
    },
    /// Both are there.
    Paired {
        /// Where the server sees the peer.
        peer: SocketAddr,
    },
    /// A host had no room for a device, which was told so.
    TurnedAway {
        /// Where the server sees the device.
        peer: SocketAddr,
    },
    /// There is a relayed address.
    Allocated(SocketAddr),
    /// There is no relay (any more), in words. It is tried again, and told again only with other
    /// words or after there was one.
    NoRelay(String),
    /// What the own NAT does.
    Nat(NatHint),
    /// The way to the peer is another one, has another reason, or takes 20 ms more or less.
    Path(PathInfo),
    /// An attempt at a direct path has failed, in words.
    GaveUp(String),
}

/// What goes between the session and the pairing server.
pub(crate) struct Post {
    /// For the server.
    pub(crate) outgoing: mpsc::Sender<ClientMessage>,
    pub(crate) incoming: mpsc::Receiver<Letter>,
}

/// What the pairing server has for a session.
pub(crate) enum Letter {
    /// From the peer.
    Blob(String),
    /// The peer has left the server.
    Left {
        /// Because it has no room for this session now.
        busy: bool,
    },
}

/// What a session begins with.
pub(crate) struct Setup {
    pub(crate) role: Role,
    pub(crate) session: SessionId,
    pub(crate) key: AccessKey,
    pub(crate) ice_servers: Vec<IceServer>,
    /// Further servers that answer STUN over UDP.
    pub(crate) stun: Vec<Host>,
    pub(crate) bind: Option<IpAddr>,
    /// Whether addresses of this very machine are of use.
    pub(crate) loopback: bool,
    /// Whether to look for a direct path.
    pub(crate) direct: bool,
    /// Whether to ask a router for an outer port.
    pub(crate) port_mapping: bool,
    pub(crate) tries: Option<u32>,
    pub(crate) attempt: Option<Duration>,
    /// Started earlier, for these servers.
    pub(crate) relay: Option<Relay>,
    /// After so much silence of UDP a relay is looked for by streams.
    pub(crate) patience: Duration,
    pub(crate) post: Post,
    pub(crate) progress: Option<mpsc::UnboundedSender<Progress>>,
    /// Where the secrets go when the peer's salt is there.
    pub(crate) keyed: Option<oneshot::Sender<SessionSecrets>>,
    /// What the peer is told of TCP.
    pub(crate) offer: Option<Offer>,
    /// Where what the peer tells of TCP goes.
    pub(crate) peers: Option<mpsc::Sender<SocketAddr>>,
}

/// How a session ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ended {
    /// This side closed it, and the peer knows.
    Here,
    /// The peer closed it, with this code: 0 when everything was in order.
    ByPeer(u8),
    /// The peer was silent for 35 s.
    Silent,
    /// Somebody without the access key is at the other end.
    NotThePeer,
    /// The socket was taken out.
    Taken,
    /// The system refused something.
    Failed(String),
}

/// How a session stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct State {
    /// Whether the peer has proven itself.
    pub(crate) ready: bool,
    /// Since when the own first blob is on its way, without which the peer can say nothing.
    pub(crate) begun: Option<Instant>,
    /// Whether something came that only a holder of the key can have made.
    pub(crate) heard: bool,
    /// The last one, while two that were connected have none.
    pub(crate) path: PathInfo,
    /// Whether the peer's connection to the pairing server has ended.
    pub(crate) peer_left: bool,
    /// And that was because it has no room for this session.
    pub(crate) peer_busy: bool,
    /// Somebody without the access key has tried to shake hands where only the peer should be.
    pub(crate) refused: bool,
    /// An attempt at a direct path has failed since the last one was there.
    pub(crate) gave_up: bool,
    /// Why there is no relay.
    pub(crate) no_relay: Option<String>,
    /// Of this very handshake.
    pub(crate) binding: Option<[u8; 32]>,
    pub(crate) ended: Option<Ended>,
    /// An outer port of a router has not been given back yet.
    pub(crate) holds_port: bool,
}

type Taken = (UdpSocket, Option<OuterPort>);

impl State {
    pub(crate) const fn new(path: PathInfo) -> Self {
        Self {
            ready: false,
            begun: None,
            heard: false,
            path,
            peer_left: false,
            peer_busy: false,
            refused: false,
            gave_up: false,
            no_relay: None,
            binding: None,
            ended: None,
            holds_port: false,
        }
    }

    /// Through the relay, because of `reason`.
    #[cfg(test)]
    pub(crate) fn relayed(reason: &str) -> Self {
        Self::new(PathInfo {
            path: crate::pairing::PathKind::Relayed,
            local: None,
            remote: None,
            rtt: None,
            nat: None,
            reason: reason.to_owned(),
        })
    }
}

enum Command {
    Send(Kind, Vec<u8>),
    Take(oneshot::Sender<io::Result<Taken>>),
    /// Looks for paths anew.
    Restart,
    /// Why there is no direct path.
    Because(String),
    /// What the peer is told of TCP besides.
    Offer(Offer),
    /// What the server is told at the end.
    Outcome(Outcome),
    /// Loses so many percent of what goes directly.
    Lose(u8),
    /// The credentials for the relay are these from now on.
    Renewed(Vec<IceServer>),
    Close(u8),
}

/// A session and the way to its task. When the last one is dropped the session is closed.
#[derive(Clone)]
pub(crate) struct Session {
    commands: mpsc::Sender<Command>,
    state: watch::Receiver<State>,
    data: Arc<tokio::sync::Mutex<mpsc::Receiver<Vec<u8>>>>,
    /// What the peer is told when the last one is dropped.
    #[cfg_attr(
        not(feature = "client"),
        expect(dead_code, reason = "only byte streams break off")
    )]
    parting: Arc<AtomicU8>,
}

/// Makes the direct path of a session worse than it is, in both directions, to try out what then
/// happens. It works also after the connection became streams.
#[derive(Clone)]
pub struct DirectLoss(mpsc::WeakSender<Command>);

impl fmt::Debug for DirectLoss {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("DirectLoss")
    }
}

impl DirectLoss {
    /// Loses so many percent of what is sent and received directly from now on: from 0, as it is,
    /// to 100, a dead network. Without effect after the end of the session.
    pub async fn set(&self, percent: u8) {
        if let Some(commands) = self.0.upgrade() {
            let _ = commands.send(Command::Lose(percent.min(100))).await;
        }
    }
}

/// For who renews the credentials of a session. It does not keep the session alive.
pub(crate) struct Renewal {
    commands: mpsc::WeakSender<Command>,
    state: watch::Receiver<State>,
}

impl Renewal {
    /// Waits until the session is over.
    pub(crate) async fn ended(&self) {
        let mut state = self.state.clone();
        let _ = state.wait_for(|state| state.ended.is_some()).await;
    }

    /// Hands fresh credentials in.
    pub(crate) async fn renewed(&self, ice_servers: Vec<IceServer>) {
        if let Some(commands) = self.commands.upgrade() {
            let _ = commands.send(Command::Renewed(ice_servers)).await;
        }
    }
}

/// What the byte streams' datagrams come out of.
pub(crate) type StreamDatagrams = mpsc::Receiver<Vec<u8>>;

impl Session {
    /// Starts a session.
    ///
    /// # Errors
    /// When no socket can be opened.
    pub(crate) fn start(setup: Setup) -> io::Result<(Self, StreamDatagrams)> {
        let (commands, ordered) = mpsc::channel(QUEUE);
        let (to_user, data) = mpsc::channel(QUEUE);
        let (to_streams, streams) = mpsc::channel(QUEUE);
        let parting = Arc::new(AtomicU8::new(0));
        let orders = (ordered, Arc::clone(&parting));
        let state = driver::start(setup, orders, to_user, to_streams)?;
        let session = Self {
            commands,
            state,
            data: Arc::new(tokio::sync::Mutex::new(data)),
            parting,
        };
        Ok((session, streams))
    }

    pub(crate) fn state(&self) -> watch::Receiver<State> {
        self.state.clone()
    }

    pub(crate) async fn send(&self, kind: Kind, data: Vec<u8>) -> io::Result<()> {
        if data.len() > LARGEST_DATAGRAM {
            return Err(too_long());
        }
        let sent = self.commands.send(Command::Send(kind, data)).await;
        sent.map_err(|_| self.ended_error())
    }

    /// Sends unless somebody would have to wait for it.
    #[cfg(feature = "client")]
    pub(crate) fn try_send(&self, kind: Kind, data: Vec<u8>) -> io::Result<()> {
        match self.commands.try_send(Command::Send(kind, data)) {
            Ok(()) => Ok(()),
            Err(mpsc::error::TrySendError::Full(_)) => Err(io::ErrorKind::WouldBlock.into()),
            Err(mpsc::error::TrySendError::Closed(_)) => Err(self.ended_error()),
        }
    }

    /// Waits until [`Session::try_send`] may work.
    #[cfg(feature = "client")]
    pub(crate) async fn writable(&self) -> io::Result<()> {
        let room = self.commands.reserve().await;
        room.map(drop).map_err(|_| self.ended_error())
    }

    /// The next datagram of the peer; `None` after the end.
    pub(crate) async fn recv(&self) -> Option<Vec<u8>> {
        self.data.lock().await.recv().await
    }

    /// Looks for paths anew.
    pub(crate) async fn restart(&self) {
        let _ = self.commands.send(Command::Restart).await;
    }

    /// Tells why there is no direct path, where the session does not look for one itself.
    pub(crate) async fn because(&self, reason: String) {
        let _ = self.commands.send(Command::Because(reason)).await;
    }

    /// Tells the peer where else it may dial.
    pub(crate) async fn offer(&self, offer: Offer) {
        let _ = self.commands.send(Command::Offer(offer)).await;
    }

    /// Tells what became of the pair beside this session.
    pub(crate) async fn outcome(&self, outcome: Outcome) {
        let _ = self.commands.send(Command::Outcome(outcome)).await;
    }

    pub(crate) fn renewal(&self) -> Renewal {
        Renewal {
            commands: self.commands.downgrade(),
            state: self.state.clone(),
        }
    }

    pub(crate) fn direct_loss(&self) -> DirectLoss {
        DirectLoss(self.commands.downgrade())
    }

    /// Takes the socket of the direct path out, connected, and the router's port that may lead to
    /// it. The session ends without a word.
    pub(crate) async fn take(&self) -> io::Result<Taken> {
        let (answer, taken) = oneshot::channel();
        let asked = self.commands.send(Command::Take(answer)).await;
        asked.map_err(|_| self.ended_error())?;
        taken.await.unwrap_or_else(|_| Err(self.ended_error()))
    }

    /// Closes and waits until the peer knows, or for 2 s, and until a router knows, or for 1 s.
    pub(crate) async fn close(&self, code: u8) {
        let _ = self.commands.send(Command::Close(code)).await;
        let mut state = self.state.clone();
        let over = |state: &State| state.ended.is_some() && !state.holds_port;
        let _ = state.wait_for(over).await;
    }

    /// The peer is to be told that it was broken off, unless it is closed otherwise before.
    #[cfg(feature = "client")]
    pub(crate) fn breaks_off(&self) {
        self.parting.store(1, Relaxed);
    }

    /// Why nothing more can be sent.
    pub(crate) fn ended_error(&self) -> io::Error {
        self.state.borrow().ended_error()
    }
}

impl State {
    /// Why nothing more comes or goes.
    pub(crate) fn ended_error(&self) -> io::Error {
        let (kind, why) = match &self.ended {
            Some(Ended::Here | Ended::ByPeer(0)) => (io::ErrorKind::BrokenPipe, "it was closed"),
            Some(Ended::ByPeer(_)) => return broken_off(),
            Some(Ended::Silent) => return silent(),
            Some(Ended::NotThePeer) => (io::ErrorKind::PermissionDenied, "it is not the peer"),
            Some(Ended::Taken) => (io::ErrorKind::NotConnected, "its socket was taken out"),
            Some(Ended::Failed(why)) => return io::Error::other(why.clone()),
            None => (io::ErrorKind::BrokenPipe, "it has ended"),
        };
        io::Error::new(kind, why)
    }
}

pub(crate) fn broken_off() -> io::Error {
    io::Error::new(io::ErrorKind::ConnectionReset, "the peer broke it off")
}

pub(crate) fn silent() -> io::Error {
    io::Error::new(io::ErrorKind::TimedOut, "the peer has gone silent")
}

pub(crate) fn too_long() -> io::Error {
    let why = format!("a datagram has at most {LARGEST_DATAGRAM} bytes");
    io::Error::new(io::ErrorKind::InvalidInput, why)
}
