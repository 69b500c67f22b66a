//! A queue that does not go away. A burst, or a moment without the processor, makes datagrams
//! wait and is soon worked off; a load over the capacity makes every datagram wait, the longer
//! the more memory the sockets have. Then what is late is dropped, so that the rest is on time
//! (after RFC 8289, which tells the two apart by time).

use crate::proto::Mono;

/// What waited longer has stood in a queue, in microseconds.
const TARGET: u64 = 10_000;

/// Longer than a burst takes to be worked off, in microseconds.
const INTERVAL: u64 = 100_000;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct StandingQueue {
    /// Since when everything has waited longer than the target.
    above_since: Option<Mono>,
    /// Until when what is late is dropped.
    dropping_until: Option<Mono>,
}

impl StandingQueue {
    /// Whether a datagram that waited for so many microseconds is to be dropped.
    pub(super) fn is_late(&mut self, now: Mono, waited: u64) -> bool {
        if waited < TARGET {
            self.above_since = None;
            return false;
        }
        let since = *self.above_since.get_or_insert(now);
        let stands = now.micros_since(since) >= INTERVAL;
        let dropping = self.dropping_until.is_some_and(|until| now < until);
        if stands || dropping {
            self.dropping_until = Some(Mono(now.0 + INTERVAL));
        }
        stands || dropping
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One shard that handles 100 datagrams a millisecond or drops ten times as many, with so
    /// many arriving in each of some milliseconds: how many were dropped, and the longest wait of
    /// those handled in the last quarter, in microseconds.
    fn run(arrivals: impl Fn(u64) -> u64, millis: u64) -> (u64, u64) {
        let mut queue = std::collections::VecDeque::new();
        let mut standing = StandingQueue::default();
        let (mut dropped, mut longest) = (0, 0);
        for now in 1..=millis {
            queue.extend((0..arrivals(now)).map(|_| now));
            let mut budget = 1000;
            while budget >= 10
                && let Some(at) = queue.pop_front()
            {
                let waited = (now - at) * 1000;
                if standing.is_late(Mono(now * 1000), waited) {
                    dropped += 1;
                    budget -= 1;
                } else {
                    budget -= 10;
                    longest = longest.max(if now * 4 > millis * 3 { waited } else { 0 });
                }
            }
        }
        (dropped, longest)
    }

    #[test]
    fn bursts_and_stalls_lose_nothing() {
        assert_eq!(run(|_| 95, 10_000).0, 0);
        let burst = |now| if now % 500 == 0 { 4000 } else { 50 };
        assert_eq!(run(burst, 10_000).0, 0, "40 ms of work every half second");
    }

    #[test]
    fn a_load_over_the_capacity_waits_no_longer_than_the_target() {
        for load in [105, 130, 200, 400] {
            let (dropped, longest) = run(|_| load, 10_000);
            assert!(dropped > 0, "{load}");
            assert!(longest <= TARGET, "{load}: {longest} us");
        }
    }

    #[test]
    fn dropping_ends_with_the_overload() {
        let load = |now| if now < 2_000 { 200 } else { 50 };
        let (during, _) = run(load, 2_200);
        assert!(during > 0);
        assert_eq!(run(load, 10_000).0, during);
    }
}
