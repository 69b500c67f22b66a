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
use crate::wire::{CHANNELS, ChannelData, Method};

/// How many peers are kept within reach: the one that was asked for last, and the one before,
/// should what it sent be late.
pub(super) const MOST_PEERS: usize = 2;
/// How many are remembered with their channels, which stay theirs for ten minutes (RFC 8656
/// section 12).
const MOST_KNOWN: usize = 64;
/// Something is sent to the server this often, so that NATs remember it.
const KEEPALIVE: Duration = Duration::from_secs(15);
/// After so much silence the server is asked whether it still knows us: it may have been started
/// again, or a NAT may have given us another address. Where data came last, more may be on its way
/// to an address that is no longer ours.
const QUIET: Duration = Duration::from_secs(5);
const QUIET_AFTER_DATA: Duration = Duration::from_secs(2);
/// A server that has been asked and says nothing for so long is silent.
const ANSWER: Duration = Duration::from_secs(6);
/// How long giving the allocation back may take.
const RELEASE: Duration = Duration::from_millis(700);
/// What a Send indication has around its data, at most: a header, an IPv6 address, padding.
const INDICATION: usize = 20 + 24 + 4 + 3;
/// What fits a datagram that every IPv6 path carries (RFC 8200 section 5).
const FITS_IPV6: usize = 1280 - 40 - 8;
/// How many datagrams wait for a channel because they do not fit an indication.
const MOST_HELD: usize = 16;

/// How far a peer's channel is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Progress {
    Asked,
    Bound,
    Refused,
    /// It is kept no longer: the peer is elsewhere.
    Left,
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
    /// The server has been asked whether it still knows us, and said nothing for long.
    Silent,
    /// It has said something again.
    Heard,
}

/// Whether an error of a datagram socket is about what was sent before, and says nothing of what is
/// sent later.
fn is_passing(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionRefused
            | io::ErrorKind::HostUnreachable
            | io::ErrorKind::NetworkUnreachable
    )
}

/// An allocation and its connection.
pub(super) struct Link {
    server: TurnServer,
    pipe: Pipe,
    client: Client,
    ids: Ids,
    /// The one that was asked for last stands last.
    peers: Vec<Peer>,
    next_channel: u16,
    /// When something was sent last.
    sent: Instant,
    /// Since when the server is silent, and whether data came last.
    heard: (Instant, bool),
    /// Since when the server is asked whether it still knows us.
    asked: Option<Instant>,
    /// That was for too long.
    silent: bool,
    /// What waits for a channel.
    held: VecDeque<(SocketAddr, Vec<u8>)>,
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
            next_channel: *CHANNELS.start(),
            sent: now(),
            heard: (now(), false),
            asked: None,
            silent: false,
            held: VecDeque::new(),
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

    /// Asks for a peer. Those that were asked for long before are let go.
    pub(super) fn reach(&mut self, address: SocketAddr) {
        let known = self.peers.iter().position(|peer| peer.address == address);
        let mut peer = match known.map(|known| self.peers.remove(known)) {
            Some(peer) => peer,
            None if CHANNELS.contains(&self.next_channel) => {
                self.next_channel += 1;
                Peer {
                    address,
                    channel: self.next_channel - 1,
                    progress: Progress::Left,
                }
            }
            None => {
                let failure = Failure::Protocol("the allocation has no channel left");
                self.failed = Some(RelayError::Turn(failure));
                return;
            }
        };
        if peer.progress == Progress::Bound || self.is_ahead(address) {
            self.happened.push_back(Happened::Reachable(address));
        }
        let asks = matches!(peer.progress, Progress::Left | Progress::Refused);
        if asks {
            peer.progress = Progress::Asked;
        }
        let channel = peer.channel;
        self.peers.push(peer);
        self.let_go_of_old();
        if asks {
            self.client
                .bind_channel(channel, address, now(), &mut self.ids);
        }
    }

    fn let_go_of_old(&mut self) {
        let old = self.peers.len().saturating_sub(MOST_PEERS);
        for peer in &mut self.peers[..old] {
            if peer.progress != Progress::Left {
                peer.progress = Progress::Left;
                self.client.let_go(peer.channel);
            }
        }
        if self.peers.len() > MOST_KNOWN {
            self.peers.remove(0);
        }
    }

    /// Whether this peer may be sent to before it has a channel: it is an allocation on the same
    /// relay address, to which the way was asked for when there was an own one.
    fn is_ahead(&self, peer: SocketAddr) -> bool {
        let own = self.allocation().map(|allocation| allocation.relayed.ip());
        self.ahead && own == Some(peer.ip())
    }

    /// Asks the server whether the allocation is still there.
    pub(super) fn check(&mut self) {
        if self.asked.is_none() {
            self.asked = Some(now());
            self.client.refresh(now(), &mut self.ids);
        }
    }

    /// Sends to a peer, or drops what cannot be sent (yet).
    pub(super) fn send(&mut self, peer: SocketAddr, data: &[u8]) {
        let bound = |known: &&Peer| known.address == peer && known.progress == Progress::Bound;
        let Some(channel) = self.peers.iter().find(bound).map(|peer| peer.channel) else {
            if self.is_ahead(peer) && self.fits(data) {
                self.send_ahead(peer, data);
            } else if self.is_ahead(peer) && self.held.len() < MOST_HELD {
                self.held.push_back((peer, data.to_vec()));
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
        self.sent = now();
    }

    /// Sends without a channel, behind the request for the permission: the round trip of its
    /// answer is saved. Where the two change places on their way, or that one is lost, this is
    /// a lost datagram.
    fn send_ahead(&mut self, peer: SocketAddr, data: &[u8]) {
        self.transmit();
        let mut bytes = vec![0; data.len() + INDICATION];
        if let Some(len) = send_indication(&mut bytes, peer, data, &mut self.ids) {
            self.pipe.send(&bytes[..len]);
            self.sent = now();
        }
    }

    /// Whether an indication with this data comes through wherever a datagram of the session does.
    fn fits(&self, data: &[u8]) -> bool {
        let narrow = self.local_addr().is_ipv6() && !self.is_reliable();
        !narrow || data.len() + INDICATION <= FITS_IPV6
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

    /// One wait, and what follows from it. True when something has arrived. There is nothing to
    /// wait for any more where something has happened, or the allocation was given back.
    async fn step(&mut self) -> Result<bool, RelayError> {
        self.transmit();
        self.take_events();
        if let Some(failed) = self.failed.take() {
            return Err(failed);
        }
        if self.released || !self.happened.is_empty() {
            return Ok(false);
        }
        let doubt = self.doubt();
        let due = self.client.poll_timeout().into_iter().chain(doubt).min();
        let due = due.unwrap_or_else(|| now() + KEEPALIVE);
        tokio::select! {
            received = self.pipe.receive() => {
                let received = match received {
                    Ok(received) => received,
                    // What ICMP says of a datagram: as long as the server is being started again,
                    // the allocation is asked for; its peer may know no other address.
                    Err(error) if self.client.allocation().is_some() && is_passing(&error) => {
                        self.check();
                        return Ok(false);
                    }
                    Err(error) => return Err(error.into()),
                };
                let incoming = self.client.handle(now(), received, &mut self.ids);
                self.heard = (now(), incoming.is_some());
                self.asked = None;
                if std::mem::take(&mut self.silent) {
                    self.happened.push_back(Happened::Heard);
                }
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
                if doubt.is_some_and(|at| at <= now()) {
                    match self.asked {
                        Some(_) => {
                            self.silent = true;
                            self.happened.push_back(Happened::Silent);
                        }
                        None => self.check(),
                    }
                }
                Ok(false)
            }
        }
    }

    /// When the server is to be asked whether it still knows us, or taken for silent.
    fn doubt(&self) -> Option<Instant> {
        if self.silent || self.client.allocation().is_none() {
            return None;
        }
        if let Some(asked) = self.asked {
            return Some(asked + ANSWER);
        }
        let (since, data) = self.heard;
        let quiet = if data { QUIET_AFTER_DATA } else { QUIET };
        Some((since + quiet).min(self.sent + KEEPALIVE))
    }

    fn transmit(&mut self) {
        self.scratch.resize(MAX_REQUEST.max(self.scratch.len()), 0);
        while let Some(len) = self.client.poll_transmit(now(), &mut self.scratch) {
            self.pipe.send(&self.scratch[..len]);
            self.sent = now();
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
                Event::Bound(channel, peer) => self.bound(channel, peer),
                Event::Failed(Method::CHANNEL_BIND, failure) => self.refused(&failure),
                Event::Failed(_, failure) => self.failed = Some(RelayError::Turn(failure)),
            }
        }
    }

    fn bound(&mut self, channel: u16, address: SocketAddr) {
        let asked = |peer: &&mut Peer| peer.channel == channel && peer.progress == Progress::Asked;
        let Some(peer) = self.peers.iter_mut().find(asked) else {
            // It was let go meanwhile.
            self.client.let_go(channel);
            return;
        };
        peer.progress = Progress::Bound;
        self.happened.push_back(Happened::Reachable(address));
        for (peer, data) in std::mem::take(&mut self.held) {
            self.send(peer, &data);
        }
    }

    /// A channel was not given, or not given again.
    fn refused(&mut self, failure: &Failure) {
        let latest = self.peers.last().map(|peer| peer.address);
        for peer in &mut self.peers {
            let lost = !self.client.has_channel(peer.channel);
            match peer.progress {
                Progress::Asked | Progress::Bound if lost => {}
                _ => continue,
            }
            let was = std::mem::replace(&mut peer.progress, Progress::Refused);
            // Of a peer that has gone elsewhere it says nothing.
            if Some(peer.address) == latest {
                match was {
                    Progress::Bound => self.failed = Some(RelayError::Turn(failure.clone())),
                    _ => {
                        let refused = Happened::Refused(peer.address, failure.clone());
                        self.happened.push_back(refused);
                    }
                }
            }
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

#[cfg(test)]
mod tests;
