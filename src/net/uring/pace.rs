//! When to wait a little for more. A wake-up costs several times what a datagram costs, so under
//! load the shard takes what has come after a moment rather than each datagram by itself. With
//! little load it never waits. With much, something comes while it is at work, and it waits where
//! what waits together leaves in one, or when it needs every batch as large as it can be.

use std::ops::Range;

use super::runs::{Runs, pays};
use crate::net::sys::uring::Gather;
use crate::proto::Mono;

/// The load is measured over this time, in microseconds.
const WINDOW: u64 = 1000;

/// From so many datagrams in a window on the shard waits for more.
const BUSY: u64 = 30;

/// From so many on there is something to do most times, and a wait saves no wake-up, up to those
/// that a core can hardly carry.
const PLENTY: Range<u64> = 100..250;

/// The longest that a datagram waits for others: a hundredth of what an ear or an eye notices.
/// Each wait programs a timer, which in a virtual machine costs about as much as a datagram, so a
/// short one saves nothing; at high rates the count ends it first.
const GATHER: Gather = Gather {
    count: 24,
    micros: 300,
};

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Pace {
    start: Mono,
    datagrams: u64,
    /// Of these, those that were sent, and how many requests that took.
    sent: usize,
    requests: usize,
    gathers: bool,
}

impl Pace {
    /// A batch that began at `now` had so many datagrams, or streams that had something, and these
    /// are to be sent for it.
    pub(super) fn note(&mut self, now: Mono, datagrams: usize, runs: &Runs) {
        self.datagrams += datagrams as u64;
        self.sent += runs.datagrams();
        self.requests += runs.len();
        let elapsed = now.micros_since(self.start);
        if elapsed >= WINDOW {
            let load = self.datagrams * WINDOW / elapsed;
            self.gathers = match PLENTY.contains(&load) {
                true => pays(self.sent, self.requests),
                false => load >= BUSY,
            };
            *self = Self {
                start: now,
                gathers: self.gathers,
                ..Self::default()
            };
        }
    }

    /// How to wait for the next batch.
    pub(super) fn gather(&self) -> Option<Gather> {
        self.gathers.then_some(GATHER)
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::super::{Sent, Socket};
    use super::*;
    use crate::net::sys::Segments;

    /// Datagrams of so many flows that take turns.
    fn sends(flows: u16, count: u16) -> Runs {
        let (mut runs, mut segments) = (Runs::new(), Segments::new(true));
        for number in 0..count {
            let send = Sent {
                socket: Socket::Listener(0),
                bytes: 0..100,
                to: (Ipv4Addr::LOCALHOST, number % flows).into(),
                from: None,
            };
            runs.add(send, &mut segments);
        }
        runs
    }

    #[test]
    fn a_wait_is_for_fewer_wake_ups_or_for_what_leaves_in_one() {
        let mut pace = Pace::default();
        let mut now = 1_000_000;
        let mut run = |each: u64, turns: usize, runs: &Runs| {
            for _ in 0..turns {
                now += each;
                pace.note(Mono(now), runs.datagrams(), runs);
            }
            pace.gather().is_some()
        };
        let one = sends(1, 1);
        assert!(!run(1000, 100, &one), "1,000 a second");
        assert!(!run(40, 100, &one), "25,000 a second");
        assert!(run(25, 100, &one), "40,000 a second");
        assert!(run(11, 1000, &one), "90,000 a second");
        assert!(!run(9, 1000, &one), "110,000 a second");
        assert!(!run(5, 1000, &one), "200,000 a second");
        assert!(run(4, 1000, &one), "250,000 a second");
        assert!(!run(100, 100, &sends(20, 20)), "each of another flow");
        assert!(run(100, 100, &sends(16, 20)), "four of twenty with others");
        assert!(!run(100, 100, &sends(17, 20)), "three of twenty");
        assert!(run(100, 100, &sends(1, 20)), "one flow");
        assert!(!run(1_000_000, 1, &sends(1, 20)), "a pause ends it");
    }

    #[test]
    fn a_burst_after_a_pause_is_not_delayed_at_first() {
        let mut pace = Pace::default();
        let none = Runs::new();
        pace.note(Mono(5_000_000), 0, &none);
        pace.note(Mono(5_000_100), 500, &none);
        assert_eq!(pace.gather(), None);
        pace.note(Mono(5_001_000), 0, &none);
        assert_eq!(pace.gather(), Some(GATHER));
    }
}
