//! How often one source may join, and how often receivers may come under one id: tables of fixed
//! size, so that no number of sources or ids grows them.

use std::hash::Hash;
use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};

use ahash::RandomState;

use crate::pairing::RendezvousId;
use crate::proto::Mono;

use super::room::Source;

/// Places in a table. Those that fall on one place share its budget.
const PLACES: usize = 1 << 15;

/// A budget for each of whatever is told apart, full at first.
pub(super) struct Rate {
    /// What a place holds at most; also what a minute brings.
    per_minute: u64,
    hasher: RandomState,
    /// What was used of each place's budget, and when it was looked at last.
    places: Mutex<Vec<(u64, Mono)>>,
}

const SCALE: u64 = 60_000_000;

impl Rate {
    /// `per_minute` of each a minute; 0: no limit.
    pub(super) fn new(per_minute: u32, seed: u64) -> Self {
        let hasher = RandomState::with_seeds(seed, !seed, seed.rotate_left(32), 1);
        let places = if per_minute == 0 { 0 } else { PLACES };
        Self {
            per_minute: u64::from(per_minute),
            hasher,
            places: Mutex::new(vec![(0, Mono(0)); places]),
        }
    }

    /// Whether one more passes now; it is counted then.
    pub(super) fn pass(&self, now: Mono, of: &impl Hash) -> bool {
        self.at(now, of, SCALE)
    }

    /// Whether one more would pass now.
    fn has_room(&self, now: Mono, of: &impl Hash) -> bool {
        self.at(now, of, 0)
    }

    /// Whether there is room for one more; `cost` is taken then.
    fn at(&self, now: Mono, of: &impl Hash, cost: u64) -> bool {
        if self.per_minute == 0 {
            return true;
        }
        let hash = self.hasher.hash_one(of);
        let mut places = self.places.lock().unwrap_or_else(PoisonError::into_inner);
        // PLACES is a power of two, so that this takes the low bits.
        let (used, at) = &mut places[hash as usize & (PLACES - 1)];
        // One costs a minute's worth of microseconds, and each microsecond brings `per_minute`.
        let regained = now.micros_since(*at).saturating_mul(self.per_minute);
        *used = used.saturating_sub(regained);
        *at = now.max(*at);
        let passes = *used + SCALE <= self.per_minute * SCALE;
        if passes {
            *used += cost;
        }
        passes
    }
}

/// How often receivers may be paired under one id: each costs the initiator something, who is
/// mostly a host.
pub(super) struct Receivers {
    of_id: Rate,
    of_source: Rate,
}

impl Receivers {
    /// So many under one id a minute, and of those from one source; 0: no limit.
    pub(super) fn new([of_id, of_source]: [u32; 2], seed: u64) -> Self {
        Self {
            of_id: Rate::new(of_id, seed),
            of_source: Rate::new(of_source, !seed),
        }
    }

    /// Whether one more may be paired now.
    pub(super) fn has_room(&self, now: Mono, id: &RendezvousId, ip: IpAddr) -> bool {
        let of_source = self.of_source.has_room(now, &(id, Source::from(ip)));
        of_source && self.of_id.has_room(now, id)
    }

    /// One was paired.
    pub(super) fn count(&self, now: Mono, id: &RendezvousId, ip: IpAddr) {
        self.of_source.pass(now, &(id, Source::from(ip)));
        self.of_id.pass(now, id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_source_gets_its_budget_and_others_theirs() {
        let rate = Rate::new(60, 7);
        let now = Mono(5_000_000);
        let source = |text: &str| Source::from(text.parse::<IpAddr>().expect("an address"));
        let [a, b] = ["192.0.2.1", "2001:db8::1"].map(source);
        assert_eq!((0..100).filter(|_| rate.pass(now, &a)).count(), 60);
        let same_subscriber = source("2001:db8::ffff");
        assert_eq!((0..50).filter(|_| rate.pass(now, &b)).count(), 50);
        let rest = (0..50).filter(|_| rate.pass(now, &same_subscriber));
        assert_eq!(rest.count(), 10);
        let later = now.plus_secs(10);
        assert_eq!((0..100).filter(|_| rate.pass(later, &a)).count(), 10);
        let free = Rate::new(0, 7);
        assert!((0..10_000).all(|_| free.pass(now, &a)));
    }

    #[test]
    fn receivers_are_counted_by_id_and_by_source() {
        let receivers = Receivers::new([5, 3], 7);
        let now = Mono(5_000_000);
        let ids = [1, 2].map(|byte| RendezvousId([byte; 16]));
        let come = |id, from: &str| {
            let ip = from.parse().expect("an address");
            let room = receivers.has_room(now, id, ip);
            if room {
                receivers.count(now, id, ip);
            }
            room
        };
        let [one, two] = &ids;
        assert_eq!(
            [(); 4].map(|()| come(one, "192.0.2.1")),
            [true, true, true, false]
        );
        assert_eq!(
            [(); 3].map(|()| come(one, "192.0.2.2")),
            [true, true, false]
        );
        assert!(come(two, "192.0.2.1"), "another id");
    }
}
