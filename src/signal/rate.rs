//! How often one source may join: a table of fixed size, so that no number of sources grows it.

use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};

use ahash::RandomState;

use crate::proto::Mono;

use super::room::Source;

/// Places in the table. Sources that fall on one place share its budget.
const PLACES: usize = 1 << 15;

/// A budget of joins for each source, full at first.
pub(super) struct JoinRate {
    /// Micro-joins that a place holds at most; also what a minute brings.
    per_minute: u64,
    hasher: RandomState,
    /// What was used of each place's budget, and when it was looked at last.
    places: Mutex<Vec<(u64, Mono)>>,
}

const SCALE: u64 = 60_000_000;

impl JoinRate {
    /// `per_minute` joins of one source a minute; 0: no limit.
    pub(super) fn new(per_minute: u32, seed: u64) -> Self {
        let hasher = RandomState::with_seeds(seed, !seed, seed.rotate_left(32), 1);
        let places = if per_minute == 0 { 0 } else { PLACES };
        Self {
            per_minute: u64::from(per_minute),
            hasher,
            places: Mutex::new(vec![(0, Mono(0)); places]),
        }
    }

    /// Whether a join from `ip` passes now; it is counted then.
    pub(super) fn pass(&self, now: Mono, ip: IpAddr) -> bool {
        if self.per_minute == 0 {
            return true;
        }
        let hash = self.hasher.hash_one(Source::from(ip));
        let mut places = self.places.lock().unwrap_or_else(PoisonError::into_inner);
        // PLACES is a power of two, so that this takes the low bits.
        let (used, at) = &mut places[hash as usize & (PLACES - 1)];
        // A join costs a minute's worth of microseconds, and each microsecond brings `per_minute`.
        let regained = now.micros_since(*at).saturating_mul(self.per_minute);
        *used = used.saturating_sub(regained);
        *at = now.max(*at);
        let passes = *used + SCALE <= self.per_minute * SCALE;
        if passes {
            *used += SCALE;
        }
        passes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_source_gets_its_budget_and_others_theirs() {
        let rate = JoinRate::new(60, 7);
        let now = Mono(5_000_000);
        let [a, b] = ["192.0.2.1", "2001:db8::1"].map(|ip| ip.parse().expect("an address"));
        assert_eq!((0..100).filter(|_| rate.pass(now, a)).count(), 60);
        let same_subscriber = "2001:db8::ffff".parse().expect("an address");
        assert_eq!((0..50).filter(|_| rate.pass(now, b)).count(), 50);
        let rest = (0..50).filter(|_| rate.pass(now, same_subscriber));
        assert_eq!(rest.count(), 10);
        let later = now.plus_secs(10);
        assert_eq!((0..100).filter(|_| rate.pass(later, a)).count(), 10);
        let free = JoinRate::new(0, 7);
        assert!((0..10_000).all(|_| free.pass(now, a)));
    }
}
