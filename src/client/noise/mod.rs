//! Datagrams between the two devices of a session, secured end to end, whatever path they take:
//! `Noise_NNpsk0_25519_ChaChaPoly_BLAKE2s` (the Noise Protocol Framework, revision 34) with the
//! pre-shared key of the session. Nothing here touches sockets or clocks.
//!
//! The first byte of every datagram says what it is. The values are those that no protocol on
//! such a socket uses (RFC 7983 section 7, RFC 9443), so that neither STUN nor ChannelData can be
//! mistaken for ours:
//!
//! | byte 0 | then |
//! |---|---|
//! | 10 | the first handshake message, 48 bytes, from the initiator |
//! | 11 | the second one, 48 bytes, from the receiver |
//! | 12 | a number of 8 bytes, big-endian, and what is sealed under it: 1 byte of [`Kind`], data, 16 bytes of tag |
//!
//! The initiator repeats its message until it has the answer, and the receiver its answer until
//! the initiator's first sealed datagram shows that it came; the same message is always answered
//! by the same bytes. Both are ready only then, so that both directions have been proven.
//! Each direction counts its datagrams from 0. One that comes twice, or more than 2047 numbers
//! behind the latest, is dropped.
//!
//! A sealed ping goes out when nothing else did for 10 s, and is answered; a peer that is silent
//! for 35 s is gone. Closing is repeated until it is confirmed.

mod handshake;
#[cfg(test)]
mod tests;
mod types;
mod window;

use std::collections::VecDeque;
use std::fmt;
use std::time::{Duration, Instant};

use zeroize::Zeroizing;

use crate::pairing::{Role, SessionId};
use handshake::{Agreed, Keys};
pub use types::{Event, Kind, Received, SendError};
use types::{Repeat, Said, State};
use window::Window;

/// A datagram up to this length fits every path: with what Noise and a relay put in front, an
/// IPv6 packet of 1280 bytes holds it.
pub const MAX_DATAGRAM: usize = 1200;
/// Longer ones than this are not sent at all. Between the two limits a datagram may be cut into
/// IP fragments on its way, which some networks drop.
pub const LARGEST_DATAGRAM: usize = 16 * 1024;
/// What sealing adds to a datagram, in bytes.
pub const OVERHEAD: usize = HEADER + 1 + TAG;

const FIRST: u8 = 10;
const SECOND: u8 = 11;
const SEALED: u8 = 12;
const HEADER: usize = 9;
const TAG: usize = 16;

/// A ping goes out when nothing was sent for so long: NATs forget after 30 s and more.
const KEEPALIVE: Duration = Duration::from_secs(10);
/// Three pings and their answers were lost.
const DEAD: Duration = Duration::from_secs(35);
/// How often closing is told until it is confirmed, and how soon again: who is not told finds out half
/// a minute later.
const CLOSES: u32 = 8;
const CLOSE_AGAIN: Duration = Duration::from_millis(250);

/// What follows the numbers of [`Kind`].
const PING: u8 = 3;
const PONG: u8 = 4;
const CLOSE: u8 = 5;
const CLOSED: u8 = 6;

/// The keys of a session, once there are any.
struct Channel {
    agreed: Agreed,
    next: u64,
    window: Window,
}

/// One side of a session.
///
/// The driver, after every call that takes the time: send what [`Secure::poll_transmit`] gives
/// over whatever paths there are, take what [`Secure::poll_event`] gives, and call
/// [`Secure::handle_timeout`] at [`Secure::poll_timeout`].
pub struct Secure {
    keys: Keys,
    state: State,
    channel: Option<Channel>,
    /// The first message, which only the receiver compares, and the second one.
    answered: Option<(Vec<u8>, Vec<u8>)>,
    out: VecDeque<Vec<u8>>,
    events: VecDeque<Event>,
    scratch: Zeroizing<Vec<u8>>,
    refused: u64,
    last_sent: Instant,
    last_received: Instant,
    /// The number of the ping that is under way, and when it went out.
    ping: Option<(u32, Instant)>,
    pings: u32,
}

impl fmt::Debug for Secure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Secure")
            .field("ready", &self.is_ready())
            .field("refused", &self.refused)
            .finish_non_exhaustive()
    }
}

impl Secure {
    /// One side of a session. The initiator has something to send from the start. The key is
    /// [`AccessKey::psk`](crate::pairing::AccessKey::psk).
    pub fn new(psk: &[u8; 32], session: SessionId, role: Role, now: Instant) -> Self {
        let keys = Keys::new(psk, session);
        let state = match role {
            Role::Initiator => {
                let mut handshake = Box::new(keys.state(role));
                let first = handshake::write(&mut handshake).expect("the initiator begins");
                State::Calling {
                    handshake,
                    first: [&[FIRST], &first[..]].concat(),
                    repeat: Repeat::new(now),
                }
            }
            Role::Receiver => State::Listening,
        };
        let mut new = Self {
            keys,
            state,
            channel: None,
            answered: None,
            out: VecDeque::new(),
            events: VecDeque::new(),
            scratch: Zeroizing::new(Vec::new()),
            refused: 0,
            last_sent: now,
            last_received: now,
            ping: None,
            pings: 0,
        };
        new.handle_timeout(now);
        new
    }

    /// Whether the peer has proven itself and the session is open.
    pub const fn is_ready(&self) -> bool {
        matches!(self.state, State::Ready)
    }

    /// How many datagrams were refused: from somebody without the access key, or repeated.
    pub const fn refused(&self) -> u64 {
        self.refused
    }

    /// A secret of this very handshake, for what is derived from it; once there is one.
    pub fn binding(&self) -> Option<[u8; 32]> {
        self.channel.as_ref().map(|channel| *channel.agreed.binding)
    }

    /// When the peer was last heard.
    pub const fn last_received(&self) -> Instant {
        self.last_received
    }

    /// There is a new path: what waits for an answer is said again at once, and pings measure it.
    pub fn path_changed(&mut self, now: Instant) {
        match &mut self.state {
            State::Calling { repeat, .. } | State::Answering { repeat } => {
                *repeat = Repeat::new(now);
            }
            _ => self.probe(now),
        }
        self.handle_timeout(now);
    }

    /// Asks the peer for a sign of life.
    pub fn probe(&mut self, now: Instant) {
        if self.is_ready() {
            self.ping(now);
        }
    }

    /// Seals a datagram into `out`, whatever was in it.
    ///
    /// # Errors
    /// See [`SendError`].
    pub fn seal(
        &mut self,
        now: Instant,
        kind: Kind,
        data: &[u8],
        out: &mut Vec<u8>,
    ) -> Result<(), SendError> {
        if !self.is_ready() {
            return Err(SendError::NotReady);
        }
        if data.len() > LARGEST_DATAGRAM {
            return Err(SendError::TooLong);
        }
        self.seal_raw(now, kind as u8, data, out)
    }

    fn seal_raw(
        &mut self,
        now: Instant,
        kind: u8,
        data: &[u8],
        out: &mut Vec<u8>,
    ) -> Result<(), SendError> {
        let channel = self.channel.as_mut().ok_or(SendError::NotReady)?;
        self.scratch.clear();
        self.scratch.push(kind);
        self.scratch.extend_from_slice(data);
        out.clear();
        out.push(SEALED);
        out.extend_from_slice(&channel.next.to_be_bytes());
        out.resize(HEADER + self.scratch.len() + TAG, 0);
        let transport = &channel.agreed.transport;
        let sealed = transport.write_message(channel.next, &self.scratch, &mut out[HEADER..]);
        // The library refuses the last number, which no session lives long enough to reach.
        let len = sealed.map_err(|_| SendError::NotReady)?;
        out.truncate(HEADER + len);
        channel.next += 1;
        self.last_sent = now;
        Ok(())
    }

    /// Queues a sealed message of the protocol itself.
    fn queue(&mut self, now: Instant, kind: u8, data: &[u8]) {
        let mut message = Vec::new();
        if self.seal_raw(now, kind, data, &mut message).is_ok() {
            self.out.push_back(message);
        }
    }

    fn ping(&mut self, now: Instant) {
        self.pings = self.pings.wrapping_add(1);
        self.ping = Some((self.pings, now));
        self.queue(now, PING, &self.pings.to_be_bytes());
    }

    /// Takes a datagram from any path.
    pub fn handle<'a>(
        &mut self,
        now: Instant,
        bytes: &[u8],
        plain: &'a mut Vec<u8>,
    ) -> Received<'a> {
        let Some((&first, rest)) = bytes.split_first() else {
            return Received::Foreign;
        };
        let said = match first {
            FIRST => self.handle_first(now, bytes, rest),
            SECOND => self.handle_second(now, rest),
            SEALED => return self.handle_sealed(now, rest, plain),
            _ => return Received::Foreign,
        };
        match said {
            Said::New => {
                self.last_received = now;
                Received::Alive
            }
            Said::Again => Received::Repeated,
            Said::BySomebody => {
                self.refused += 1;
                Received::Refused
            }
        }
    }

    fn handle_first(&mut self, now: Instant, bytes: &[u8], rest: &[u8]) -> Said {
        if let Some((known, answer)) = &self.answered
            && known == bytes
        {
            // The answer was lost, or somebody repeats what the peer said; both are answered by
            // the same bytes.
            if matches!(self.state, State::Answering { .. }) {
                let answer = answer.clone();
                self.out.push_back(answer);
            }
            return Said::Again;
        }
        if !matches!(self.state, State::Listening) || rest.len() != handshake::LEN {
            return Said::BySomebody;
        }
        let Some((answer, agreed)) = self.keys.answer(rest) else {
            return Said::BySomebody;
        };
        self.agree(agreed);
        let answer = [&[SECOND], &answer[..]].concat();
        self.answered = Some((bytes.to_vec(), answer));
        self.state = State::Answering {
            repeat: Repeat::new(now),
        };
        self.handle_timeout(now);
        Said::New
    }

    fn handle_second(&mut self, now: Instant, rest: &[u8]) -> Said {
        if self
            .answered
            .as_ref()
            .is_some_and(|(_, known)| known == rest)
        {
            // The receiver repeats it because our first sealed datagram was lost.
            if self.is_ready() {
                self.ping(now);
            }
            return Said::Again;
        }
        let State::Calling { handshake, .. } = &mut self.state else {
            return Said::BySomebody;
        };
        if rest.len() != handshake::LEN || handshake.read_message(rest, &mut []).is_err() {
            return Said::BySomebody;
        }
        let calling = std::mem::replace(&mut self.state, State::Ready);
        if let State::Calling { handshake, .. } = calling {
            self.agree(Agreed::new(*handshake));
        }
        self.answered = Some((Vec::new(), rest.to_vec()));
        self.events.push_back(Event::Ready);
        self.ping(now);
        Said::New
    }

    fn agree(&mut self, agreed: Agreed) {
        self.channel = Some(Channel {
            agreed,
            next: 0,
            window: Window::new(),
        });
    }

    fn handle_sealed<'a>(
        &mut self,
        now: Instant,
        rest: &[u8],
        plain: &'a mut Vec<u8>,
    ) -> Received<'a> {
        let Some((number, sealed)) = rest.split_first_chunk() else {
            self.refused += 1;
            return Received::Refused;
        };
        let number = u64::from_be_bytes(*number);
        let Some(channel) = &mut self.channel else {
            // It overtook the handshake: nobody can tell yet whose it is.
            return Received::Foreign;
        };
        plain.clear();
        plain.resize(sealed.len(), 0);
        let transport = &channel.agreed.transport;
        let opened = match channel.window.is_new(number) {
            true => transport.read_message(number, sealed, plain).ok(),
            false => None,
        };
        let Some(len) = opened.filter(|_| channel.window.take(number)) else {
            self.refused += 1;
            return Received::Refused;
        };
        self.last_received = now;
        if matches!(self.state, State::Answering { .. }) {
            self.state = State::Ready;
            self.events.push_back(Event::Ready);
            self.ping(now);
        }
        let Some((&kind, data)) = plain[..len].split_first() else {
            return Received::Alive;
        };
        let kind = match kind {
            0 => Kind::Data,
            1 => Kind::Stream,
            2 => Kind::Control,
            _ => {
                self.handle_own(now, kind, data);
                return Received::Alive;
            }
        };
        match self.is_ready() {
            true => Received::Message(kind, data),
            false => Received::Alive,
        }
    }

    fn handle_own(&mut self, now: Instant, kind: u8, data: &[u8]) {
        match kind {
            PING if self.is_ready() => self.queue(now, PONG, data),
            PONG => {
                if let Some((number, sent)) = self.ping
                    && number.to_be_bytes() == *data
                {
                    self.ping = None;
                    self.events.push_back(Event::RoundTrip(now - sent));
                }
            }
            CLOSE => {
                self.queue(now, CLOSED, &[]);
                let code = data.first().copied().unwrap_or_default();
                match self.state {
                    State::Ready => {
                        self.state = State::Closed;
                        self.events.push_back(Event::Closed(code));
                    }
                    // Both at once.
                    State::Closing { .. } => self.leave(),
                    _ => {}
                }
            }
            CLOSED if matches!(self.state, State::Closing { .. }) => self.leave(),
            // Of a later version.
            _ => {}
        }
    }

    fn leave(&mut self) {
        self.state = State::Over;
        self.events.push_back(Event::Left);
    }

    /// Closes in order: nothing of the application is sent or given out any more. `code` is for
    /// the peer. [`Event::Left`] comes when it is confirmed, at once when there is no session.
    pub fn close(&mut self, now: Instant, code: u8) {
        match self.state {
            State::Closing { .. } | State::Over => return,
            State::Ready => {
                self.state = State::Closing {
                    code,
                    repeat: Repeat::every(CLOSE_AGAIN, now),
                    left: CLOSES,
                };
            }
            _ => self.leave(),
        }
        self.handle_timeout(now);
    }

    /// The next datagram to send, by every path that might work.
    pub fn poll_transmit(&mut self) -> Option<Vec<u8>> {
        self.out.pop_front()
    }

    /// What happened since.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// When to call [`Secure::handle_timeout`] at the latest.
    pub fn poll_timeout(&self) -> Option<Instant> {
        match &self.state {
            State::Calling { repeat, .. }
            | State::Answering { repeat }
            | State::Closing { repeat, .. } => Some(repeat.at),
            State::Ready => {
                let dead = self.last_received + DEAD;
                Some(dead.min(self.last_sent + KEEPALIVE))
            }
            State::Listening | State::Closed | State::Over => None,
        }
    }

    /// Does what is due: repetitions, pings, giving up.
    pub fn handle_timeout(&mut self, now: Instant) {
        match &mut self.state {
            State::Calling { first, repeat, .. } => {
                if repeat.is_due(now) {
                    let first = first.clone();
                    self.out.push_back(first);
                }
            }
            State::Answering { repeat } => {
                if repeat.is_due(now)
                    && let Some((_, answer)) = &self.answered
                {
                    let answer = answer.clone();
                    self.out.push_back(answer);
                }
            }
            State::Closing { code, repeat, left } => {
                if repeat.is_due(now) {
                    let code = *code;
                    if *left == 0 {
                        return self.leave();
                    }
                    *left -= 1;
                    self.queue(now, CLOSE, &[code]);
                }
            }
            State::Ready => {
                if self.last_received + DEAD <= now {
                    self.state = State::Over;
                    self.events.push_back(Event::Dead);
                } else if self.last_sent + KEEPALIVE <= now {
                    self.ping(now);
                }
            }
            State::Listening | State::Closed | State::Over => {}
        }
    }
}
