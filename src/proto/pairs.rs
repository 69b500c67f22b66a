//! Pairs: two devices that a pairing server brings together, and with whom their relay may talk.
//!
//! Whoever may be paired gets credentials, so that they must not be worth more than a path to
//! the other side. An allocation that was made with credentials of a pair talks only to the
//! relayed transport addresses of the same pair, and to the IP addresses from which the server
//! itself saw the two sides. This narrows what the peer gate leaves open and opens nothing.
//!
//! Which relayed transport addresses belong to a pair is known to
//! [`RelayAddresses`](super::ports::RelayAddresses). The IP addresses are part of what the
//! credentials say, so that they are known as long as those are good and wherever they are; they
//! are looked at when a permission is installed, never for a datagram.
//!
//! One that still waits for the other side gets credentials, too, so that its relay is there when
//! the other side comes. They are good only while it waits ([`Waits`](super::waits::Waits)), and
//! what all pairs together may hold leaves room for other users
//! ([`PairPlaces`](super::places::PairPlaces)).

use std::fmt;
use std::net::IpAddr;
use std::num::NonZeroU64;

/// The most allocations that one side of a pair may hold: two families, and a second set while a
/// client moves to another network. One that waits has one for each family.
pub const ALLOCATIONS_PER_SIDE: u32 = 4;

/// Which relay port one side of a pair gets when it is free: the same one after a restart of the
/// server, where the two have nobody but the relay to tell each other new addresses. `user_id`
/// names the session, whose 128 random bits nobody else can know: to others the port is as random
/// as any (RFC 6056).
pub(super) fn place(user_id: &str) -> u64 {
    // FNV-1a: the hashes of the standard library may differ from one build to the next.
    let hash = user_id
        .bytes()
        .fold(0xCBF2_9CE4_8422_2325_u64, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01B3)
        });
    hash ^ hash >> 32
}

/// Names a pair.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PairId(NonZeroU64);

impl PairId {
    /// The pair of a session, whose 16 bytes are random.
    pub const fn of_session(session: &[u8; 16]) -> Self {
        let [a, b, c, d, e, f, g, h, ..] = *session;
        Self::from_bits(u64::from_be_bytes([a, b, c, d, e, f, g, h]))
    }

    const fn from_bits(bits: u64) -> Self {
        match NonZeroU64::new(bits) {
            Some(bits) => Self(bits),
            None => Self(NonZeroU64::MIN),
        }
    }

    /// For the table of ports, where 0 is no pair.
    pub(super) const fn to_bits(self) -> u64 {
        self.0.get()
    }
}

impl fmt::Debug for PairId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "pair {:016x}", self.0)
    }
}

/// What credentials say of the pair that they are bound to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PairScope {
    /// Which pair.
    pub pair: PairId,
    /// From where the pairing server saw the initiator and the receiver, in canonical form;
    /// `None` while the initiator waits for a receiver.
    pub sides: Option<[IpAddr; 2]>,
}

impl PairScope {
    /// The scope of one that waits.
    pub const fn waiting(pair: PairId) -> Self {
        Self { pair, sides: None }
    }

    /// The scope of two that were seen from these addresses.
    pub fn paired(pair: PairId, sides: [IpAddr; 2]) -> Self {
        Self {
            pair,
            sides: Some(sides.map(|ip| ip.to_canonical())),
        }
    }

    /// Whether there is only one side yet.
    pub const fn is_waiting(&self) -> bool {
        self.sides.is_none()
    }

    /// Whether an address is one of the pair's.
    pub fn allows(&self, ip: IpAddr) -> bool {
        let ip = ip.to_canonical();
        self.sides.is_some_and(|sides| sides.contains(&ip))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn a_scope_has_the_addresses_of_both_sides_and_no_others() {
        let pair = PairId::of_session(&[7; 16]);
        let scope = PairScope::paired(pair, [ip("192.0.2.1"), ip("::ffff:192.0.2.2")]);
        assert!(scope.allows(ip("::ffff:192.0.2.1")));
        assert!(scope.allows(ip("192.0.2.2")));
        assert!(!scope.allows(ip("192.0.2.3")));
        assert!(!scope.is_waiting());
        let waiting = PairScope::waiting(pair);
        assert!(waiting.is_waiting() && !waiting.allows(ip("192.0.2.1")));
    }

    #[test]
    fn no_session_is_no_pair() {
        let zero = PairId::of_session(&[0; 16]);
        assert_ne!(zero.to_bits(), 0);
        let mut tail = [9; 16];
        tail[15] = 1;
        assert_eq!(PairId::of_session(&tail), PairId::of_session(&[9; 16]));
        assert_ne!(zero, PairId::of_session(&[9; 16]));
    }
}
