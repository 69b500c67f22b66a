//! Pairs: two devices that a pairing server brings together, and with whom their relay may talk.
//!
//! Whoever may be paired gets credentials, so that they must not be worth more than a path to
//! the other side. An allocation that was made with credentials of a pair talks only to the
//! relayed transport addresses of the same pair, and to the IP addresses from which the server
//! itself saw the two sides. This narrows what the peer gate leaves open and opens nothing.
//!
//! Which relayed transport addresses belong to a pair is known to
//! [`RelayAddresses`](super::ports::RelayAddresses); here are the IP addresses. They are looked
//! at when a permission is installed, never for a datagram.

use std::collections::HashMap;
use std::fmt;
use std::net::IpAddr;
use std::num::NonZeroU64;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use arrayvec::ArrayVec;

/// The most IP addresses of one pair: two sides, each over IPv4 and IPv6.
pub const MAX_ADDRESSES: usize = 4;

/// The most allocations that one side of a pair may hold: two families, and a second set while a
/// client moves to another network.
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

/// The IP addresses of all pairs. One for the process.
#[derive(Debug, Default)]
pub struct PairScopes(Mutex<HashMap<PairId, Scope>>);

#[derive(Debug, Default)]
struct Scope {
    addresses: ArrayVec<IpAddr, MAX_ADDRESSES>,
    guards: usize,
}

impl Scope {
    fn add(&mut self, ip: IpAddr) -> bool {
        let ip = ip.to_canonical();
        self.addresses.contains(&ip) || self.addresses.try_push(ip).is_ok()
    }
}

impl PairScopes {
    /// No pairs.
    pub fn new() -> Arc<Self> {
        Arc::default()
    }

    /// Opens the scope of a pair, with the addresses that are known so far. It is forgotten when
    /// the last guard of the pair is dropped; permissions that were installed by then live on
    /// until they expire.
    ///
    /// Addresses beyond [`MAX_ADDRESSES`] are left out.
    pub fn open(
        self: &Arc<Self>,
        pair: PairId,
        addresses: impl IntoIterator<Item = IpAddr>,
    ) -> PairGuard {
        let mut table = self.table();
        let scope = table.entry(pair).or_default();
        scope.guards += 1;
        for ip in addresses {
            scope.add(ip);
        }
        drop(table);
        PairGuard {
            scopes: Arc::clone(self),
            pair,
        }
    }

    /// Adds an address to an open pair. False when the pair is not open, or full.
    pub fn add(&self, pair: PairId, ip: IpAddr) -> bool {
        let mut table = self.table();
        table.get_mut(&pair).is_some_and(|scope| scope.add(ip))
    }

    /// Whether an address is one of the pair's.
    pub fn allows(&self, pair: PairId, ip: IpAddr) -> bool {
        let table = self.table();
        let scope = table.get(&pair);
        scope.is_some_and(|scope| scope.addresses.contains(&ip.to_canonical()))
    }

    /// How many pairs are open.
    pub fn len(&self) -> usize {
        self.table().len()
    }

    /// Whether no pair is open.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The table is never left half-changed, so a panic elsewhere does not spoil it.
    fn table(&self) -> MutexGuard<'_, HashMap<PairId, Scope>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Keeps the scope of a pair open until dropped.
#[derive(Debug)]
pub struct PairGuard {
    scopes: Arc<PairScopes>,
    pair: PairId,
}

impl PairGuard {
    /// Which pair.
    pub const fn pair(&self) -> PairId {
        self.pair
    }

    /// Adds an address. False when the pair has [`MAX_ADDRESSES`] others already.
    pub fn add(&self, ip: IpAddr) -> bool {
        self.scopes.add(self.pair, ip)
    }
}

impl Drop for PairGuard {
    fn drop(&mut self) {
        let mut table = self.scopes.table();
        match table.get_mut(&self.pair) {
            Some(scope) if scope.guards > 1 => scope.guards -= 1,
            _ => drop(table.remove(&self.pair)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn a_scope_lives_as_long_as_its_last_guard() {
        let scopes = PairScopes::new();
        let pair = PairId::of_session(&[7; 16]);
        let first = scopes.open(pair, [ip("192.0.2.1")]);
        let second = scopes.open(pair, [ip("::ffff:192.0.2.2")]);
        assert!(scopes.allows(pair, ip("::ffff:192.0.2.1")));
        assert!(scopes.allows(pair, ip("192.0.2.2")));
        assert!(!scopes.allows(pair, ip("192.0.2.3")));
        assert!(!scopes.allows(PairId::of_session(&[8; 16]), ip("192.0.2.1")));
        drop(first);
        assert!(scopes.allows(pair, ip("192.0.2.1")));
        assert_eq!(second.pair(), pair);
        drop(second);
        assert!(!scopes.allows(pair, ip("192.0.2.1")));
        assert!(
            !scopes.add(pair, ip("192.0.2.1")),
            "nothing is left to add to"
        );
        assert!(scopes.is_empty());
    }

    #[test]
    fn a_scope_is_bounded() {
        let scopes = PairScopes::new();
        let guard = scopes.open(PairId::of_session(&[7; 16]), []);
        for last in 1..=MAX_ADDRESSES {
            assert!(guard.add(ip(&format!("192.0.2.{last}"))));
        }
        assert!(!guard.add(ip("192.0.2.99")));
        assert!(!scopes.allows(guard.pair(), ip("192.0.2.99")));
        assert!(guard.add(ip("192.0.2.1")), "known already");
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
