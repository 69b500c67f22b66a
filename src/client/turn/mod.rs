//! A TURN client without sockets or clocks: it is told what arrived and what time it is, and says
//! what to send, when to wake it, and what happened.
//!
//! One [`Client`] is one allocation on one 5-tuple. Requests go out one at a time, in the order
//! they were asked for; allocation, permissions and channels are refreshed by themselves until
//! [`Client::release`].
//!
//! The driver, after every call that takes the time: send what [`Client::poll_transmit`] gives
//! until it gives nothing, take what [`Client::poll_event`] gives, and call
//! [`Client::handle_timeout`] at [`Client::poll_timeout`].

mod answer;
mod credentials;
mod request;

use std::collections::VecDeque;
use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::wire::{CHANNELS, ChannelData, Class, ErrorCode, Message, Method, attr};

use credentials::Challenge;
pub use credentials::{Credentials, Ids};
use request::{Ask, Transaction};

/// No message that a client sends is longer: both names at their limits, and a nonce.
pub const MAX_REQUEST: usize = 2560;

/// A permission lives for 300 s (RFC 8656 section 9); renewed this early, a lost request or two
/// do no harm.
const PERMISSION_REFRESH: Duration = Duration::from_secs(240);

/// What happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// The allocation is made.
    Allocated(Allocation),
    /// Peers with this address may be reached, and reach us. Told once, not for refreshes.
    Permitted(SocketAddr),
    /// The channel is bound to the peer. Told once, not for refreshes.
    Bound(u16, SocketAddr),
    /// The allocation is released.
    Released,
    /// A request failed. After a failed Allocate or Refresh there is no allocation.
    Failed(Method, Failure),
}

/// What the server allocated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Allocation {
    /// The relayed transport address: where peers send to.
    pub relayed: SocketAddr,
    /// This client's address as the server sees it.
    pub mapped: SocketAddr,
    /// How long the allocation lives without a refresh.
    pub lifetime: Duration,
}

/// Why a request failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Failure {
    /// The server said no, with its words.
    Refused(ErrorCode, Box<str>),
    /// No answer to any of the retransmissions.
    TimedOut,
    /// What came is not the answer to what was asked.
    Protocol(&'static str),
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Refused(code, reason) => {
                let known = code.reason();
                let reason = if reason.is_empty() { known } else { reason };
                write!(f, "{} {reason}", code.value())
            }
            Self::TimedOut => f.write_str("no answer"),
            Self::Protocol(what) => f.write_str(what),
        }
    }
}

/// What arrived, when it is application data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Incoming<'a> {
    /// In ChannelData on a channel that this client has bound.
    Channel(u16, &'a [u8]),
    /// In a Data indication from this peer.
    Indication(SocketAddr, &'a [u8]),
}

/// A permission or channel that is kept alive.
#[derive(Clone, Copy, Debug)]
struct Kept {
    ask: Ask,
    renew_at: Instant,
}

/// One allocation.
#[derive(Debug)]
pub struct Client {
    credentials: Arc<Credentials>,
    /// To use from the next request on.
    renewed: Option<Arc<Credentials>>,
    /// Over a stream nothing is retransmitted (RFC 8489 section 6.2.2).
    reliable: bool,
    challenge: Option<Challenge>,
    transaction: Option<Transaction>,
    waiting: VecDeque<Ask>,
    kept: Vec<Kept>,
    allocation: Option<Allocation>,
    refresh_at: Option<Instant>,
    events: VecDeque<Event>,
}

impl Client {
    /// A client that has not asked for anything yet. `reliable`: over TCP or TLS.
    pub fn new(credentials: Arc<Credentials>, reliable: bool) -> Self {
        Self {
            credentials,
            renewed: None,
            reliable,
            challenge: None,
            transaction: None,
            waiting: VecDeque::new(),
            kept: Vec::new(),
            allocation: None,
            refresh_at: None,
            events: VecDeque::new(),
        }
    }

    /// The allocation, once it is made.
    pub const fn allocation(&self) -> Option<&Allocation> {
        self.allocation.as_ref()
    }

    /// Whether a request is under way or waits for its turn.
    pub fn is_busy(&self) -> bool {
        self.transaction.is_some() || !self.waiting.is_empty()
    }

    /// Asks for an allocation of UDP: an Allocate without credentials to learn realm and nonce,
    /// then one with them (RFC 8656 section 7.1).
    pub fn allocate(&mut self, now: Instant, ids: &mut Ids) {
        self.ask(Ask::Allocate, now, ids);
    }

    /// Asks for a permission for a peer's IP address (RFC 8656 section 10.1).
    pub fn permit(&mut self, peer: SocketAddr, now: Instant, ids: &mut Ids) {
        self.ask(Ask::Permission(peer), now, ids);
    }

    /// Asks for a channel to a peer, which brings a permission along (RFC 8656 section 12.1).
    ///
    /// # Panics
    /// When the number is not one of [`CHANNELS`].
    pub fn bind_channel(&mut self, number: u16, peer: SocketAddr, now: Instant, ids: &mut Ids) {
        assert!(CHANNELS.contains(&number), "RFC 8656 section 12");
        self.ask(Ask::Channel(number, peer), now, ids);
    }

    /// Refreshes the allocation before it is due, unless the server is being asked for something
    /// already: the answer tells whether it still knows this 5-tuple.
    pub fn refresh(&mut self, now: Instant, ids: &mut Ids) {
        if self.allocation.is_some() && !self.is_busy() {
            self.ask(Ask::Refresh, now, ids);
        }
    }

    /// Whether a channel is asked for, or bound and kept.
    pub fn has_channel(&self, number: u16) -> bool {
        let kept = self.kept.iter().map(|kept| kept.ask);
        let under_way = self.transaction.as_ref().map(|transaction| transaction.ask);
        let mut asks = kept.chain(self.waiting.iter().copied()).chain(under_way);
        asks.any(|ask| ask.is_channel(number))
    }

    /// Keeps a channel no longer: it ends with its lifetime (RFC 8656 section 12). Until then the
    /// number stands for the same peer.
    pub fn let_go(&mut self, number: u16) {
        self.kept.retain(|kept| !kept.ask.is_channel(number));
        self.waiting.retain(|ask| !ask.is_channel(number));
    }

    /// Gives the allocation back: a Refresh with LIFETIME 0 (RFC 8656 section 8.1). What still
    /// waits for its turn is forgotten.
    pub fn release(&mut self, now: Instant, ids: &mut Ids) {
        self.waiting.clear();
        self.kept.clear();
        self.refresh_at = None;
        self.ask(Ask::Release, now, ids);
    }

    /// Uses other credentials of the same user from the next request on. An allocation is
    /// refreshed at once, so that the server knows them before the old ones end.
    pub fn renew(&mut self, credentials: Arc<Credentials>, now: Instant, ids: &mut Ids) {
        self.renewed = Some(credentials);
        if self.allocation.is_some() {
            self.waiting.push_back(Ask::Refresh);
        }
        self.start_next(now, ids);
    }

    fn ask(&mut self, ask: Ask, now: Instant, ids: &mut Ids) {
        self.waiting.push_back(ask);
        self.start_next(now, ids);
    }

    fn start_next(&mut self, now: Instant, ids: &mut Ids) {
        if self.transaction.is_some() {
            return;
        }
        // Not while a request is under way: it would be sent again as another one.
        if let Some(renewed) = self.renewed.take() {
            if let Some(challenge) = &mut self.challenge {
                challenge.key = renewed.key(&challenge.realm);
            }
            self.credentials = renewed;
        }
        if let Some(ask) = self.waiting.pop_front() {
            self.transaction = Some(Transaction::new(ask, now, ids, self.reliable));
        }
    }

    /// Takes one datagram, or one message of a stream. Whatever is neither data for this client
    /// nor the answer to its request is ignored.
    pub fn handle<'a>(
        &mut self,
        now: Instant,
        bytes: &'a [u8],
        ids: &mut Ids,
    ) -> Option<Incoming<'a>> {
        if bytes.first().is_some_and(|first| (64..128).contains(first)) {
            let message = ChannelData::parse(bytes, self.reliable).ok()?;
            return Some(Incoming::Channel(message.number, message.data));
        }
        let message = Message::parse(bytes).ok()?;
        match (message.class(), message.method()) {
            (Class::Indication, Method::DATA) => {
                let attributes = message.unprotected();
                let peer = attributes.peer().ok()??;
                Some(Incoming::Indication(peer, attributes.data()?))
            }
            (Class::Success | Class::Error, _) => {
                self.handle_answer(now, &message, ids);
                None
            }
            _ => None,
        }
    }

    /// Writes the next message that is to be sent now; `None` when there is none.
    ///
    /// # Panics
    /// When `out` is shorter than [`MAX_REQUEST`].
    pub fn poll_transmit(&mut self, now: Instant, out: &mut [u8]) -> Option<usize> {
        assert!(out.len() >= MAX_REQUEST, "room for any request");
        let transaction = self.transaction.as_mut()?;
        if !transaction.take_turn(now) {
            return None;
        }
        let challenge = self.challenge.as_ref();
        let built = transaction.build(out, &self.credentials, challenge);
        if built.is_none() {
            self.end(Err(Failure::Protocol(
                "the credentials do not fit a request",
            )));
        }
        built
    }

    /// What happened since.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// When to call [`Client::handle_timeout`] at the latest.
    pub fn poll_timeout(&self) -> Option<Instant> {
        let waiting = self.transaction.as_ref().map(Transaction::due);
        let kept = self.kept.iter().map(|kept| kept.renew_at);
        kept.chain(waiting).chain(self.refresh_at).min()
    }

    /// Does what is due: retransmissions, refreshes, giving up.
    pub fn handle_timeout(&mut self, now: Instant, ids: &mut Ids) {
        if self.transaction.as_ref().is_some_and(|t| t.is_over(now)) {
            self.end(Err(Failure::TimedOut));
        }
        if self.refresh_at.is_some_and(|at| at <= now) {
            self.refresh_at = None;
            self.waiting.push_back(Ask::Refresh);
        }
        for kept in &mut self.kept {
            if kept.renew_at <= now {
                kept.renew_at = now + PERMISSION_REFRESH;
                self.waiting.push_back(kept.ask);
            }
        }
        self.start_next(now, ids);
    }

    /// Ends the transaction and tells how.
    fn end(&mut self, result: Result<Event, Failure>) {
        let Some(transaction) = self.transaction.take() else {
            return;
        };
        let event = result.unwrap_or_else(|failure| {
            let ask = transaction.ask;
            self.kept.retain(|kept| kept.ask != ask);
            if matches!(ask, Ask::Allocate | Ask::Refresh | Ask::Release) {
                self.forget();
            }
            Event::Failed(ask.method(), failure)
        });
        self.events.push_back(event);
    }

    /// There is no allocation, or none any more.
    fn forget(&mut self) {
        self.allocation = None;
        self.refresh_at = None;
        self.kept.clear();
        self.waiting.clear();
    }
}

/// Writes a Send indication (RFC 8656 section 11.1) and returns its length; `None` when it does
/// not fit.
pub fn send_indication(
    out: &mut [u8],
    peer: SocketAddr,
    data: &[u8],
    ids: &mut Ids,
) -> Option<usize> {
    let id = ids.next_id();
    let mut builder = crate::wire::Builder::new(out, Class::Indication, Method::SEND, id);
    builder
        .xor_address(attr::XOR_PEER_ADDRESS, peer)
        .attribute(attr::DATA, data);
    builder.finish().ok()
}

#[cfg(test)]
mod tests;
