//! The bytes of connectivity checks, and what makes them trustworthy: a request is taken once,
//! from the other role, under the session's key; an answer only for a request that is open, from
//! where that request went.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use rand_chacha::ChaCha12Rng;
use rand_core::Rng;

use super::Via;
use crate::pairing::Role;
use crate::wire::{Builder, Class, Integrity, Key, Message, Method, TransactionId, attr};

/// The longest request has 88 bytes, the longest answer 92.
const ROOM: usize = 128;

const FITS: &str = "the room is longer than any check";

/// An answer that takes longer is of no use: the path would be declared dead before.
const OPEN_FOR: Duration = Duration::from_secs(4);

/// The most requests that wait for an answer. Probing sends 1,024 within a second.
const MOST_OPEN: usize = 4096;

/// A request of ours that may still be answered.
#[derive(Clone, Copy, Debug)]
pub(super) struct Open {
    id: TransactionId,
    pub(super) via: Via,
    pub(super) to: SocketAddr,
    pub(super) at: Instant,
}

/// What a message turned out to be.
#[derive(Debug)]
pub(super) enum Heard {
    /// Not under the session's key, or no check at all.
    NotMine,
    /// A request that was taken before, or one that is too old to tell.
    Replay,
    /// One of our own requests, sent back to us.
    Reflection,
    /// A fresh check of the peer.
    Check {
        id: TransactionId,
        priority: u32,
        nominates: bool,
    },
    /// The answer to an open request: our address as the peer saw it, and whether the peer
    /// agrees to the nomination.
    Answer {
        open: Open,
        mapped: Option<SocketAddr>,
        confirms: bool,
    },
}

/// Builds and reads checks.
pub(super) struct Checks {
    key: Key,
    role: Role,
    sent: u64,
    seen: Window,
    open: VecDeque<Open>,
}

/// The attribute that tells the role of the sender of a request. Its value is not a tie-breaker,
/// for there is no tie, but the number of the request.
const fn role_attribute(role: Role) -> u16 {
    match role {
        Role::Initiator => attr::ICE_CONTROLLING,
        Role::Receiver => attr::ICE_CONTROLLED,
    }
}

const fn other(role: Role) -> Role {
    match role {
        Role::Initiator => Role::Receiver,
        Role::Receiver => Role::Initiator,
    }
}

impl Checks {
    pub(super) fn new(secret: &[u8; 32], role: Role) -> Self {
        Self {
            key: Key::from_bytes(secret),
            role,
            sent: 0,
            seen: Window::new(),
            open: VecDeque::new(),
        }
    }

    /// A new request. Every one has an id and a number of its own, also when it repeats another.
    pub(super) fn request(
        &mut self,
        now: Instant,
        (via, to): (Via, SocketAddr),
        priority: u32,
        nominates: bool,
        rng: &mut ChaCha12Rng,
    ) -> Vec<u8> {
        let mut id = [0; 12];
        rng.fill_bytes(&mut id);
        let id = TransactionId(id);
        self.sent += 1;
        self.expire(now);
        if self.open.len() == MOST_OPEN {
            self.open.pop_front();
        }
        let at = now;
        self.open.push_back(Open { id, via, to, at });
        let mut room = [0; ROOM];
        let mut builder = Builder::new(&mut room, Class::Request, Method::BINDING, id);
        builder
            .u32(attr::PRIORITY, priority)
            .attribute(role_attribute(self.role), &self.sent.to_be_bytes());
        if nominates {
            builder.empty(attr::USE_CANDIDATE);
        }
        let len = self.signed(builder);
        room[..len].to_vec()
    }

    /// Ends a message with what proves it; returns its length.
    fn signed(&self, mut builder: Builder<'_>) -> usize {
        builder
            .integrity(Integrity::Sha256, &self.key)
            .fingerprint();
        builder.finish().expect(FITS)
    }

    /// The answer to a request that came from `from`.
    pub(super) fn answer(&self, id: TransactionId, from: SocketAddr, confirms: bool) -> Vec<u8> {
        let mut room = [0; ROOM];
        let mut builder = Builder::new(&mut room, Class::Success, Method::BINDING, id);
        builder.xor_address(attr::XOR_MAPPED_ADDRESS, from);
        if confirms {
            builder.empty(attr::USE_CANDIDATE);
        }
        let len = self.signed(builder);
        room[..len].to_vec()
    }

    /// Reads what came.
    pub(super) fn read(
        &mut self,
        now: Instant,
        (via, from): (Via, SocketAddr),
        bytes: &[u8],
    ) -> Heard {
        let Ok(message) = Message::parse(bytes) else {
            return Heard::NotMine;
        };
        let complete = message.integrity() == Some(Integrity::Sha256) && message.has_fingerprint();
        if message.method() != Method::BINDING || !complete {
            return Heard::NotMine;
        }
        match message.class() {
            Class::Request => self.read_request(&message),
            Class::Success => self.read_answer(now, via, from, &message),
            Class::Indication | Class::Error => Heard::NotMine,
        }
    }

    fn read_request(&mut self, message: &Message<'_>) -> Heard {
        let Ok(attributes) = message.verify(&self.key) else {
            return Heard::NotMine;
        };
        if attributes.contains(role_attribute(self.role)) {
            return Heard::Reflection;
        }
        let number = attributes.get(role_attribute(other(self.role)));
        let number = number.and_then(|value| value.try_into().ok());
        let priority = attributes.get(attr::PRIORITY);
        let priority = priority.and_then(|value| value.try_into().ok());
        let (Some(number), Some(priority)) = (number, priority) else {
            return Heard::NotMine;
        };
        if !self.seen.take(u64::from_be_bytes(number)) {
            return Heard::Replay;
        }
        Heard::Check {
            id: message.transaction_id(),
            priority: u32::from_be_bytes(priority),
            nominates: attributes.contains(attr::USE_CANDIDATE),
        }
    }

    fn read_answer(
        &mut self,
        now: Instant,
        via: Via,
        from: SocketAddr,
        message: &Message<'_>,
    ) -> Heard {
        self.expire(now);
        let id = message.transaction_id();
        // Before the key is asked: a flood of forged answers costs no HMAC.
        let at = self.open.iter().position(|open| open.id == id);
        let Some((at, open)) = at.and_then(|at| Some((at, *self.open.get(at)?))) else {
            return Heard::NotMine;
        };
        // RFC 8445 section 7.2.5.2.1: from where the request went, to where it came from.
        if (open.via, open.to) != (via, from) {
            return Heard::NotMine;
        }
        let Ok(attributes) = message.verify(&self.key) else {
            return Heard::NotMine;
        };
        self.open.remove(at);
        Heard::Answer {
            open,
            mapped: attributes.xor_mapped_address().ok().flatten(),
            confirms: attributes.contains(attr::USE_CANDIDATE),
        }
    }

    fn expire(&mut self, now: Instant) {
        while let Some(oldest) = self.open.front()
            && now.saturating_duration_since(oldest.at) > OPEN_FOR
        {
            self.open.pop_front();
        }
    }
}

/// How far a request may come behind a later one: more than are sent within a burst.
const WINDOW: u64 = 4096;

/// Which numbers were taken, of the highest [`WINDOW`] ones.
struct Window {
    highest: u64,
    taken: Box<[u64; WINDOW as usize / 64]>,
}

impl Window {
    fn new() -> Self {
        Self {
            highest: 0,
            taken: Box::new([0; WINDOW as usize / 64]),
        }
    }

    /// Takes a number; false when it was taken before, or is too old to tell.
    fn take(&mut self, number: u64) -> bool {
        if number == 0 || number.saturating_add(WINDOW) <= self.highest {
            return false;
        }
        if number > self.highest {
            if number - self.highest >= WINDOW {
                self.taken.fill(0);
            } else {
                for skipped in self.highest + 1..number {
                    self.set(skipped, false);
                }
            }
            self.highest = number;
        } else if self.is_set(number) {
            return false;
        }
        self.set(number, true);
        true
    }

    const fn place(number: u64) -> (usize, u32) {
        let at = number % WINDOW;
        ((at / 64) as usize, (at % 64) as u32)
    }

    fn is_set(&self, number: u64) -> bool {
        let (word, bit) = Self::place(number);
        self.taken[word] >> bit & 1 != 0
    }

    fn set(&mut self, number: u64, value: bool) {
        let (word, bit) = Self::place(number);
        self.taken[word] = self.taken[word] & !(1 << bit) | u64::from(value) << bit;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_is_taken_once() {
        let mut window = Window::new();
        assert!(!window.take(0), "numbers start at 1");
        for number in [1, 3, 2, 4096, 5] {
            assert!(window.take(number), "{number}");
            assert!(!window.take(number), "{number} again");
        }
        assert!(window.take(4097));
        assert!(!window.take(1), "too old to tell");
        assert!(!window.take(3));
        assert!(window.take(4), "old, but not taken");
        assert!(window.take(1_000_000));
        assert!(!window.take(4097));
        assert!(window.take(1_000_000 - 4095));
        assert!(!window.take(1_000_000 - 4096));
        assert!(window.take(u64::MAX) && !window.take(u64::MAX));
    }

    #[test]
    fn every_number_once_in_any_order() {
        let mut window = Window::new();
        let mut taken = 0;
        for round in 0..3_u64 {
            for step in 0..20_000_u64 {
                // Blocks of 100 backwards, each block three times.
                let number = (step / 100) * 100 + (99 - step % 100) + 1;
                taken += u64::from(window.take(number));
            }
            assert_eq!(taken, 20_000, "round {round}");
        }
    }
}
