//! Whether the other end of a connection is the peer: a keyed exchange of nonces, both ways,
//! without sockets.
//!
//! 1. Each side sends [`HELLO`] bytes: 4 that name the protocol, 16 of nonce.
//! 2. Each side sends a proof of 32 bytes: HMAC-SHA256 over what it is for, the sender's role,
//!    the initiator's nonce and the receiver's. Neither is good in another connection, nor sent
//!    back to whom it came from.
//! 3. On one connection the initiator sends a second proof, "this one", and the receiver
//!    confirms with one of its own. Then the connection is the session's, and the others are
//!    closed.
//!
//! The key is derived from the session's check secret, so somebody who knows the addresses, or
//! sees the exchange, or relays the signalling, has nothing to answer with.

use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

use crate::pairing::Role;

/// Length of the first message.
pub(super) const HELLO: usize = 20;
/// Length of each further one.
pub(super) const PROOF: usize = 32;

/// Says what follows; no other protocol answers with it.
const MAGIC: [u8; 4] = *b"tpn1";

/// The other end is not the peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct NotThePeer;

/// The key of one session.
#[derive(Clone)]
pub(super) struct Verifier {
    mac: Hmac<Sha256>,
    role: Role,
}

/// One connection, whose two nonces are known.
pub(super) struct Exchange {
    mac: Hmac<Sha256>,
    role: Role,
}

impl Verifier {
    /// For one side of a session.
    pub(super) fn new(check: &[u8; 32], role: Role) -> Self {
        let mut derive = keyed(check);
        derive.update(b"tcp punch");
        Self {
            mac: keyed(&derive.finalize().into_bytes()),
            role,
        }
    }

    /// The first message, with a nonce that is random and of this connection alone.
    pub(super) fn hello(nonce: [u8; 16]) -> [u8; HELLO] {
        let mut hello = [0; HELLO];
        hello[..4].copy_from_slice(&MAGIC);
        hello[4..].copy_from_slice(&nonce);
        hello
    }

    /// Takes the other end's first message.
    pub(super) fn greeted(
        &self,
        own: &[u8; HELLO],
        other: &[u8; HELLO],
    ) -> Result<Exchange, NotThePeer> {
        if other[..4] != MAGIC {
            return Err(NotThePeer);
        }
        let mut mac = self.mac.clone();
        let (first, second) = match self.role {
            Role::Initiator => (own, other),
            Role::Receiver => (other, own),
        };
        mac.update(first);
        mac.update(second);
        Ok(Exchange {
            mac,
            role: self.role,
        })
    }
}

/// What a proof is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// The sender knows the secret.
    Proof = 1,
    /// The initiator has chosen this connection, or the receiver agrees.
    Choice = 2,
}

impl Exchange {
    /// What this side sends.
    pub(super) fn send(&self, step: Step) -> [u8; PROOF] {
        self.tagged(step, self.role).finalize().into_bytes().into()
    }

    /// Checks what the other side sent.
    pub(super) fn check(&self, step: Step, proof: &[u8; PROOF]) -> Result<(), NotThePeer> {
        let other = match self.role {
            Role::Initiator => Role::Receiver,
            Role::Receiver => Role::Initiator,
        };
        let tagged = self.tagged(step, other);
        tagged.verify_slice(proof).map_err(|_| NotThePeer)
    }

    fn tagged(&self, step: Step, sender: Role) -> Hmac<Sha256> {
        let mut mac = self.mac.clone();
        let sender = match sender {
            Role::Initiator => 1,
            Role::Receiver => 2,
        };
        mac.update(&[step as u8, sender]);
        mac
    }
}

fn keyed(key: &[u8]) -> Hmac<Sha256> {
    Hmac::new_from_slice(key).expect("HMAC takes keys of any length")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sides() -> (Exchange, Exchange) {
        let initiator = Verifier::new(&[7; 32], Role::Initiator);
        let receiver = Verifier::new(&[7; 32], Role::Receiver);
        let (one, two) = (Verifier::hello([1; 16]), Verifier::hello([2; 16]));
        let initiator = initiator.greeted(&one, &two).expect("a greeting");
        (initiator, receiver.greeted(&two, &one).expect("a greeting"))
    }

    #[test]
    fn the_peer_is_known_by_its_secret() {
        let (initiator, receiver) = sides();
        for step in [Step::Proof, Step::Choice] {
            assert_eq!(receiver.check(step, &initiator.send(step)), Ok(()));
            assert_eq!(initiator.check(step, &receiver.send(step)), Ok(()));
        }
    }

    #[test]
    fn nothing_else_passes() {
        let (initiator, receiver) = sides();
        let proof = receiver.send(Step::Proof);
        let refused = |proof: &[u8; PROOF]| {
            assert_eq!(initiator.check(Step::Proof, proof), Err(NotThePeer));
        };
        refused(&initiator.send(Step::Proof)); // sent back
        refused(&receiver.send(Step::Choice)); // for something else
        for bit in 0..8 * PROOF {
            let mut changed = proof;
            changed[bit / 8] ^= 1 << (bit % 8);
            refused(&changed);
        }
        // Another key, and the same one with other nonces: a replay.
        let (one, two) = (Verifier::hello([1; 16]), Verifier::hello([2; 16]));
        let stranger = Verifier::new(&[8; 32], Role::Receiver);
        refused(
            &stranger
                .greeted(&two, &one)
                .expect("a greeting")
                .send(Step::Proof),
        );
        let peer = Verifier::new(&[7; 32], Role::Receiver);
        let three = Verifier::hello([3; 16]);
        refused(
            &peer
                .greeted(&three, &one)
                .expect("a greeting")
                .send(Step::Proof),
        );
        refused(
            &peer
                .greeted(&two, &three)
                .expect("a greeting")
                .send(Step::Proof),
        );
    }

    #[test]
    fn other_protocols_are_seen_at_once() {
        let verifier = Verifier::new(&[7; 32], Role::Initiator);
        let own = Verifier::hello([1; 16]);
        assert!(verifier.greeted(&own, b"HTTP/1.1 400 Bad Req").is_err());
    }
}
