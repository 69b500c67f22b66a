//! Requests: their bytes, and when to send them again.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use super::credentials::{Challenge, Credentials, Ids};
use crate::wire::{Builder, Class, Integrity, Method, TransactionId, attr};

/// First retransmission after this time, each next one after twice the time before (RFC 8489
/// section 6.2.1), up to [`LONGEST`]: a server that was started again is found soon.
const RTO: Duration = Duration::from_millis(500);
const LONGEST: Duration = Duration::from_secs(2);
/// Sends of one request (RFC 8489 section 6.2.1: Rc). The last one is waited for as long as the
/// first (Rm would be 16 times that, which nobody at a terminal waits for).
const SENDS: u32 = 7;
/// The same of a Refresh: an allocation is not given up as long as it may be there.
const REFRESHES: u32 = 32;
/// How long an answer over a stream may take (RFC 8489 section 6.2.2: Ti).
const STREAM_TIMEOUT: Duration = Duration::from_millis(39_500);

/// What is asked of the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ask {
    Allocate,
    Refresh,
    Release,
    Permission(SocketAddr),
    Channel(u16, SocketAddr),
}

impl Ask {
    pub(super) const fn method(self) -> Method {
        match self {
            Self::Allocate => Method::ALLOCATE,
            Self::Refresh | Self::Release => Method::REFRESH,
            Self::Permission(_) => Method::CREATE_PERMISSION,
            Self::Channel(..) => Method::CHANNEL_BIND,
        }
    }

    pub(super) fn is_channel(self, number: u16) -> bool {
        matches!(self, Self::Channel(own, _) if own == number)
    }
}

/// One request under way. Its bytes are made anew for each retransmission, and are the same.
#[derive(Debug)]
pub(super) struct Transaction {
    pub(super) id: TransactionId,
    pub(super) ask: Ask,
    /// Challenges answered so far.
    pub(super) challenges: u8,
    sends: u32,
    reliable: bool,
    next_at: Instant,
}

impl Transaction {
    pub(super) fn new(ask: Ask, now: Instant, ids: &mut Ids, reliable: bool) -> Self {
        Self {
            id: ids.next_id(),
            ask,
            challenges: 0,
            sends: 0,
            reliable,
            next_at: now,
        }
    }

    /// The same question with a fresh challenge, as a new transaction (RFC 8489
    /// section 9.2.5).
    pub(super) fn again(&mut self, now: Instant, ids: &mut Ids) {
        let challenges = self.challenges + 1;
        *self = Self::new(self.ask, now, ids, self.reliable);
        self.challenges = challenges;
    }

    /// When to send it, send it again, or give up.
    pub(super) const fn due(&self) -> Instant {
        self.next_at
    }

    fn most_sends(&self) -> u32 {
        match (self.reliable, self.ask) {
            (true, _) => 1,
            (false, Ask::Refresh) => REFRESHES,
            (false, _) => SENDS,
        }
    }

    /// Whether every send was made and waited for.
    pub(super) fn is_over(&self, now: Instant) -> bool {
        self.sends >= self.most_sends() && now >= self.next_at
    }

    /// Whether to send it now; arms the next time.
    pub(super) fn take_turn(&mut self, now: Instant) -> bool {
        if now < self.next_at || self.sends >= self.most_sends() {
            return false;
        }
        let wait = match (self.reliable, self.sends) {
            (true, _) => STREAM_TIMEOUT,
            (false, sends) if sends + 1 == self.most_sends() => RTO,
            // Twice the second one is the longest.
            (false, sends) => (RTO * (1 << sends.min(2))).min(LONGEST),
        };
        self.sends += 1;
        self.next_at = now + wait;
        true
    }

    /// Writes the request; `None` when it does not fit.
    pub(super) fn build(
        &self,
        out: &mut [u8],
        credentials: &Credentials,
        challenge: Option<&Challenge>,
    ) -> Option<usize> {
        let mut builder = Builder::new(out, Class::Request, self.ask.method(), self.id);
        match self.ask {
            Ask::Allocate => {
                builder.u8_rffu(attr::REQUESTED_TRANSPORT, attr::TRANSPORT_UDP);
            }
            // RFC 8656 section 8.1: without LIFETIME the server's default counts.
            Ask::Refresh => {}
            Ask::Release => {
                builder.u32(attr::LIFETIME, 0);
            }
            Ask::Permission(peer) => {
                builder.xor_address(attr::XOR_PEER_ADDRESS, peer);
            }
            Ask::Channel(number, peer) => {
                builder
                    .channel_number(number)
                    .xor_address(attr::XOR_PEER_ADDRESS, peer);
            }
        }
        if let Some(challenge) = challenge {
            builder
                .attribute(attr::USERNAME, credentials.username().as_bytes())
                .attribute(attr::REALM, &challenge.realm)
                .attribute(attr::NONCE, &challenge.nonce)
                .integrity(Integrity::Sha1, &challenge.key);
        }
        builder.fingerprint();
        builder.finish().ok()
    }
}
