//! A queue that does not go away. A burst, or a moment without the processor, makes datagrams
//! wait and is soon worked off; a load over the capacity makes every datagram wait, the longer
//! the more memory the sockets have. Then what is late is dropped, so that the rest is on time
//! (after RFC 8289, which tells the two apart by time).

use crate::proto::Mono;

/// What waited longer has stood in a queue, in microseconds.
const TARGET: u64 = 10_000;

/// Longer than a burst takes to be worked off, in microseconds.
const INTERVAL: u64 = 100_000;

/// So many late datagrams in an interval are a queue. With fewer there may be nothing between two
/// of them that could have been on time, and each of them may have waited for the processor, on a
/// machine that has other things to do.
const QUEUE: u32 = 1000;

/// With so many late ones in an interval, and [`QUEUE`] of all, a queue that stood has not gone.
const REST: u32 = 100;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct StandingQueue {
    /// Where counting began; unless datagrams are being dropped, none was on time since.
    since: Option<Mono>,
    /// How many came since then, and how many of them were late.
    all: u32,
    late: u32,
    /// When the last one was late.
    last: Mono,
    /// Until when what is late is dropped.
    dropping_until: Option<Mono>,
}

impl StandingQueue {
    /// Whether a datagram that waited for so many microseconds is to be dropped.
    pub(super) fn is_late(&mut self, now: Mono, waited: u64) -> bool {
        let dropping = self.dropping_until.is_some_and(|until| now < until);
        if waited < TARGET {
            match dropping {
                true => self.all += 1,
                false => self.since = None,
            }
            return false;
        }
        // With nothing for so long, there was no queue.
        if self.since.is_none() || now.micros_since(self.last) >= INTERVAL {
            self.count_from(now);
        }
        self.last = now;
        self.all += 1;
        self.late += 1;
        let over = self
            .since
            .is_some_and(|at| now.micros_since(at) >= INTERVAL);
        let stands = over && self.late >= QUEUE;
        let remains = dropping && self.late >= REST && self.all >= QUEUE;
        if stands || remains {
            self.dropping_until = Some(Mono(now.0 + INTERVAL));
        }
        if over || remains {
            self.count_from(now);
        }
        stands || dropping
    }

    const fn count_from(&mut self, now: Mono) {
        self.since = Some(now);
        self.all = 0;
        self.late = 0;
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
    fn a_shard_that_waits_for_the_processor_loses_nothing() {
        let often = [(1, 1), (9, 23), (100, 33)];
        let seldom = [(1, 1_000), (1_100, 1_000), (1_100, 150)];
        for (burst, every) in often.into_iter().chain(seldom) {
            let mut standing = StandingQueue::default();
            for now in (0..10_000).step_by(every) {
                let late = |_| standing.is_late(Mono(now * 1000), 2 * TARGET);
                assert!(
                    !(0..burst).any(late),
                    "{burst} every {every} ms, at {now} ms"
                );
            }
        }
    }

    #[test]
    fn one_that_was_overloaded_before_loses_no_more() {
        let mut standing = StandingQueue::default();
        let overload = (0..200_000).filter(|now| standing.is_late(Mono(*now), 2 * TARGET));
        assert!(overload.count() > 0);
        // It runs every 33 ms, and finds what came meanwhile.
        for now in (200..20_000).step_by(33) {
            let late = |age: &u64| standing.is_late(Mono(now * 1000), age * 330);
            let dropped = (0..100).filter(late).count();
            assert!(dropped == 0 || now < 1000, "{dropped} at {now} ms");
        }
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
