//! Until a path has proven itself: what the handshake says goes through the pairing server too, so
//! that it is over when the path is there, and the path is asked for a sign of life.

use std::time::{Duration, Instant};

use super::driver::Driver;
use crate::pairing::Outcome;

/// Datagrams that go through the pairing server at most. A handshake takes four.
const MOST_POSTED: usize = 8;
/// Handshake messages have a first byte up to this; what is sealed has a higher one.
const LAST_OF_HANDSHAKE: u8 = 11;
/// How long a handshake message is, as a datagram.
const HANDSHAKE: usize = 49;
/// The first question of a path is repeated after this time, doubled up to [`SLOWEST`].
const FASTEST: Duration = Duration::from_millis(50);
const SLOWEST: Duration = Duration::from_secs(1);

/// Whether something of the peer has come by a path.
#[derive(Debug, Default)]
pub(super) struct Proof {
    proven: bool,
    posted: Vec<Vec<u8>>,
    /// A handshake failed where nobody but the peer should be.
    refuted: bool,
    /// When to ask next, and how long after that.
    next: Option<(Instant, Duration)>,
}

impl Proof {
    /// Something of the peer came by a path.
    pub(super) fn proven(&mut self) {
        self.proven = true;
        self.posted = Vec::new();
        self.next = None;
    }

    /// A handshake failed that came where nobody but the peer should be.
    pub(super) const fn refuted(&mut self) {
        self.refuted = true;
    }

    pub(super) const fn is_refuted(&self) -> bool {
        self.refuted
    }

    pub(super) const fn is_proven(&self) -> bool {
        self.proven
    }

    /// Whether this datagram is to go through the pairing server. `homeless`: there is no other
    /// way. What is sealed goes one way only: its second arrival would look like an attack.
    pub(super) fn posts(&mut self, bytes: &[u8], homeless: bool) -> bool {
        let handshake = bytes
            .first()
            .is_some_and(|first| *first <= LAST_OF_HANDSHAKE);
        let known = self.posted.iter().any(|posted| posted == bytes);
        let full = self.posted.len() >= MOST_POSTED;
        if self.proven || known || full || !(handshake || homeless) {
            return false;
        }
        self.posted.push(bytes.to_vec());
        true
    }

    /// Whether to ask the path now; arms the next time.
    pub(super) fn asks(&mut self, now: Instant) -> bool {
        if self.proven {
            return false;
        }
        let (due, wait) = *self.next.get_or_insert((now + FASTEST, FASTEST * 2));
        if now < due {
            return false;
        }
        self.next = Some((now + wait, (wait * 2).min(SLOWEST)));
        true
    }

    /// When to ask.
    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        self.next.map(|next| next.0)
    }
}

/// Whether a datagram has the form of a handshake message.
pub(super) fn is_handshake(bytes: &[u8]) -> bool {
    bytes.len() == HANDSHAKE && bytes[0] <= LAST_OF_HANDSHAKE
}

impl Driver {
    /// Connected are the two when both have proven themselves, and a path has proven to lead
    /// here.
    pub(super) fn connected(&mut self) {
        let before = self.state.borrow().ready;
        if before || !self.secure.is_ready() || !self.proof.is_proven() || !self.paths.is_any() {
            return;
        }
        if self.outcome == Outcome::Failed {
            self.outcome = Outcome::Relayed;
        }
        let binding = self.secure.binding();
        let path = self.paths.info();
        self.state.send_modify(|state| {
            state.ready = true;
            // Who waited asks for it next.
            state.path = path;
            state.binding = binding;
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::origin;

    #[test]
    fn the_handshake_is_posted_once_and_the_rest_without_a_way() {
        let mut proof = Proof::default();
        assert!(proof.posts(&[10, 1], false) && !proof.posts(&[10, 1], false));
        assert!(proof.posts(&[11, 1], true));
        assert!(!proof.posts(&[12, 1], false) && proof.posts(&[12, 1], true));
        for number in 3..MOST_POSTED as u8 {
            assert!(proof.posts(&[12, number], true));
        }
        assert!(!proof.posts(&[12, 99], true), "no more of them");
        let mut proof = Proof::default();
        proof.proven();
        assert!(proof.is_proven() && !proof.posts(&[10, 1], true));
    }

    #[test]
    fn a_path_is_asked_until_it_answers() {
        let (mut proof, start) = (Proof::default(), origin());
        let at = |milliseconds| start + Duration::from_millis(milliseconds);
        assert!(!proof.asks(start), "something is on its way already");
        assert_eq!(proof.poll_timeout(), Some(at(50)));
        let due: Vec<u64> = (0..3000).filter(|now| proof.asks(at(*now))).collect();
        assert_eq!(due, [50, 150, 350, 750, 1550, 2550]);
        proof.proven();
        assert!(!proof.asks(at(9000)) && proof.poll_timeout().is_none());
    }
}
