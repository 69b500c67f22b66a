//! One allocation over one connection.

use std::collections::VecDeque;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};

use tokio::time::{sleep_until, timeout};

use super::pipe::Pipe;
use super::servers::TurnServer;
use super::{RelayError, now};
use crate::client::turn::{
    Allocation, Client, Event, Failure, Ids, Incoming, MAX_REQUEST, send_indication,
};
use crate::wire::{CHANNELS, ChannelData, Class, Method};

/// How many peers are reached at most.
const MOST_PEERS: usize = 16;
/// Towards a server over UDP something is sent this often, so that NATs remember it.
const KEEPALIVE: Duration = Duration::from_secs(15);
/// How long giving the allocation back may take.
const RELEASE: Duration = Duration::from_millis(700);
/// What a Send indication has around its data, at most.
const INDICATION: usize = 64;

/// How far a peer's channel is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Progress {
    Asked,
    Bound,
    Refused,
}

struct Peer {
    address: SocketAddr,
    channel: u16,
    progress: Progress,
}

/// What happened.
pub(super) enum Happened {
    /// This peer can be reached now.
    Reachable(SocketAddr),
    /// The server does not let this peer be reached.
    Refused(SocketAddr, Failure),
    /// A peer sent these bytes.
    Data(SocketAddr, Vec<u8>),
}

/// An allocation and its connection.
pub(super) struct Link {
    server: TurnServer,
    pipe: Pipe,
    client: Client,
    ids: Ids,
    peers: Vec<Peer>,
    /// Those whose channel is asked for, in the order of the requests.
    asked: VecDeque<SocketAddr>,
    idle_since: Instant,
    /// The way to the other allocations of the pair on this relay is asked for and not refused.
    ahead: bool,
    scratch: Vec<u8>,
    happened: VecDeque<Happened>,
    failed: Option<RelayError>,
    released: bool,
}

impl Link {
    /// Connects to one of the server's addresses and allocates. `heard` is set as soon as the
    /// server has answered anything.
    pub(super) async fn open(
        server: &TurnServer,
        address: SocketAddr,
        bind: Option<IpAddr>,
        heard: &[&AtomicBool],
    ) -> Result<Self, RelayError> {
        let name = &server.host.name;
        let pipe = Pipe::open(address, name, server.transport, bind).await?;
        let mut seed = [0; 32];
        getrandom::fill(&mut seed).map_err(|error| RelayError::Io(io::Error::other(error)))?;
        let credentials = Arc::clone(&server.credentials);
        let mut link = Self {
            server: server.clone(),
            client: Client::new(credentials, pipe.is_reliable()),
            pipe,
            ids: Ids::new(seed),
            peers: Vec::new(),
            asked: VecDeque::new(),
            idle_since: now(),
            ahead: false,
            scratch: vec![0; MAX_REQUEST],
            happened: VecDeque::new(),
            failed: None,
            released: false,
        };
        link.client.allocate(now(), &mut link.ids);
        while link.client.allocation().is_none() {
            let received = link.step().await?;
            for heard in heard {
                heard.fetch_or(received, Relaxed);
            }
        }
        // The permission goes out in front of all else.
        link.take_events();
        Ok(link)
    }

    /// Takes other credentials of the same user from now on.
    pub(super) fn renew(&mut self, servers: &[TurnServer]) {
        let same = |known: &&TurnServer| {
            (&known.host, known.transport) == (&self.server.host, self.server.transport)
        };
        let Some(server) = servers.iter().find(same).or(servers.first()) else {
            return;
        };
        let credentials = Arc::clone(&server.credentials);
        if credentials.username() != self.server.credentials.username() {
            self.server.credentials = Arc::clone(&credentials);
            self.client.renew(credentials, now(), &mut self.ids);
        }
    }

    /// The allocation; `None` after it was lost.
    pub(super) const fn allocation(&self) -> Option<&Allocation> {
        self.client.allocation()
    }

    /// This end of the connection to the server.
    pub(super) const fn local_addr(&self) -> SocketAddr {
        self.pipe.local_addr()
    }

    /// How the server is reached.
    pub(super) const fn is_reliable(&self) -> bool {
        self.pipe.is_reliable()
    }

    /// Asks for a peer, once.
    pub(super) fn reach(&mut self, peer: SocketAddr) {
        let known = self.peers.iter().any(|known| known.address == peer);
        if known || self.peers.len() == MOST_PEERS {
            return;
        }
        let channel = CHANNELS.start() + self.peers.len() as u16;
        self.peers.push(Peer {
            address: peer,
            channel,
            progress: Progress::Asked,
        });
        self.asked.push_back(peer);
        if self.is_ahead(peer) {
            self.happened.push_back(Happened::Reachable(peer));
        }
        self.client
            .bind_channel(channel, peer, now(), &mut self.ids);
    }

    /// Whether this peer may be sent to before it has a channel: it is an allocation on the same
    /// relay address, to which the way was asked for when there was an own one.
    fn is_ahead(&self, peer: SocketAddr) -> bool {
        let own = self.allocation().map(|allocation| allocation.relayed.ip());
        self.ahead && own == Some(peer.ip())
    }

    /// Asks the server whether the allocation is still there.
    pub(super) fn check(&mut self) {
        self.client.refresh(now(), &mut self.ids);
    }

    /// Sends to a peer, or drops what cannot be sent (yet).
    pub(super) fn send(&mut self, peer: SocketAddr, data: &[u8]) {
        let bound = |known: &&Peer| known.address == peer && known.progress == Progress::Bound;
        let Some(channel) = self.peers.iter().find(bound).map(|peer| peer.channel) else {
            if self.is_ahead(peer) {
                self.send_ahead(peer, data);
            }
            return;
        };
        let Ok(len) = u16::try_from(data.len()) else {
            return;
        };
        self.scratch.clear();
        self.scratch.extend(ChannelData::header(channel, len));
        self.scratch.extend_from_slice(data);
        self.pipe.send(&self.scratch);
        self.idle_since = now();
    }

    /// Sends without a channel, behind the request for the permission: the round trip of its
    /// answer is saved. Where the two change places on their way, or that one is lost, this is
    /// a lost datagram.
    fn send_ahead(&mut self, peer: SocketAddr, data: &[u8]) {
        self.transmit();
        let mut bytes = vec![0; data.len() + INDICATION];
        if let Some(len) = send_indication(&mut bytes, peer, data, &mut self.ids) {
            self.pipe.send(&bytes[..len]);
            self.idle_since = now();
        }
    }

    /// Waits until something happened that its owner has to know.
    ///
    /// # Errors
    /// When the allocation is lost.
    pub(super) async fn next(&mut self) -> Result<Happened, RelayError> {
        loop {
            if let Some(happened) = self.happened.pop_front() {
                return Ok(happened);
            }
            self.step().await?;
        }
    }

    /// One wait, and what follows from it. True when something has arrived.
    async fn step(&mut self) -> Result<bool, RelayError> {
        self.transmit();
        self.take_events();
        if let Some(failed) = self.failed.take() {
            return Err(failed);
        }
        if !self.happened.is_empty() {
            return Ok(false);
        }
        let keepalive = self.idle_since + KEEPALIVE;
        let due = self.client.poll_timeout();
        let due = due.map_or(keepalive, |due| due.min(keepalive));
        tokio::select! {
            received = self.pipe.receive() => {
                let incoming = self.client.handle(now(), received?, &mut self.ids);
                match incoming {
                    Some(Incoming::Channel(number, data)) => {
                        let peer = self.peers.iter().find(|peer| peer.channel == number);
                        if let Some(peer) = peer {
                            self.happened.push_back(Happened::Data(peer.address, data.to_vec()));
                        }
                    }
                    Some(Incoming::Indication(peer, data)) => {
                        self.happened.push_back(Happened::Data(peer, data.to_vec()));
                    }
                    None => {}
                }
                Ok(true)
            }
            () = sleep_until(due.into()) => {
                self.client.handle_timeout(now(), &mut self.ids);
                if keepalive <= now() {
                    self.keep_alive();
                }
                Ok(false)
            }
        }
    }

    fn transmit(&mut self) {
        self.scratch.resize(MAX_REQUEST.max(self.scratch.len()), 0);
        while let Some(len) = self.client.poll_transmit(now(), &mut self.scratch) {
            self.pipe.send(&self.scratch[..len]);
            self.idle_since = now();
        }
    }

    /// RFC 8489 section 10: an indication, which nobody answers.
    fn keep_alive(&mut self) {
        self.idle_since = now();
        let id = self.ids.next_id();
        let mut bytes = [0; 64];
        let mut builder =
            crate::wire::Builder::new(&mut bytes, Class::Indication, Method::BINDING, id);
        builder.fingerprint();
        if let Ok(len) = builder.finish() {
            self.pipe.send(&bytes[..len]);
        }
    }

    fn take_events(&mut self) {
        while let Some(event) = self.client.poll_event() {
            match event {
                Event::Allocated(allocation) => {
                    // RFC 8656 section 9: a permission is for an IP address and all its ports.
                    let relay = SocketAddr::new(allocation.relayed.ip(), 0);
                    self.ahead = true;
                    self.client.permit(relay, now(), &mut self.ids);
                }
                Event::Permitted(_) => {}
                // A relay that does not allow it that early: each channel brings its own.
                Event::Failed(Method::CREATE_PERMISSION, _) => self.ahead = false,
                Event::Released => self.released = true,
                Event::Bound(_, peer) => {
                    self.asked.retain(|asked| *asked != peer);
                    self.progress(peer, Progress::Bound);
                    self.happened.push_back(Happened::Reachable(peer));
                }
                Event::Failed(Method::CHANNEL_BIND, failure) => {
                    // Requests go out one at a time, in order. One that is none of the first
                    // ones is a refresh.
                    let Some(peer) = self.asked.pop_front() else {
                        self.failed = Some(RelayError::Turn(failure));
                        continue;
                    };
                    self.progress(peer, Progress::Refused);
                    self.happened.push_back(Happened::Refused(peer, failure));
                }
                Event::Failed(_, failure) => self.failed = Some(RelayError::Turn(failure)),
            }
        }
    }

    fn progress(&mut self, peer: SocketAddr, progress: Progress) {
        if let Some(known) = self.peers.iter_mut().find(|known| known.address == peer) {
            known.progress = progress;
        }
    }

    /// Gives the allocation back, as far as that is quick.
    pub(super) async fn release(mut self) {
        if self.client.allocation().is_none() {
            return;
        }
        self.client.release(now(), &mut self.ids);
        let release = async {
            while !self.released {
                if self.step().await.is_err() {
                    return;
                }
                self.happened.clear();
            }
            let _ = self.pipe.flush().await;
        };
        let _ = timeout(RELEASE, release).await;
    }
}
