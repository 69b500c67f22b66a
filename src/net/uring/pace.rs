//! When to wait a little for more. A wake-up costs several times what a datagram costs, so under
//! load the shard takes what has come after a moment rather than each datagram by itself. With
//! little load it never waits. With much, something comes while it is at work, and it waits where
//! what waits together leaves in one, for streams, since it reads all that one has, and near its
//! capacity, where larger batches cost less.

use super::runs::{Runs, pays};
use crate::net::sys::uring::Gather;
use crate::proto::Mono;

/// The load is measured over this time, in microseconds.
const WINDOW: u64 = 1000;

/// From so many datagrams in a window on the shard waits for more.
const BUSY: u64 = 30;

/// From so many on there is something to do most times, and a wait saves no wake-up.
const PLENTY: u64 = 100;

/// Datagrams that the batches have by themselves near the capacity, on average.
const LARGE: u64 = 48;

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
    batches: u64,
    datagrams: u64,
    streams: u64,
    /// Datagrams that were sent, and how many requests that took.
    sent: usize,
    requests: usize,
    gathers: bool,
}

impl Pace {
    /// A batch that began at `now` had so many datagrams, and streams that had something, and these
    /// are to be sent for it.
    pub(super) fn note(&mut self, now: Mono, datagrams: usize, streams: usize, runs: &Runs) {
        self.batches += 1;
        self.datagrams += datagrams as u64;
        self.streams += streams as u64;
        self.sent += runs.datagrams();
        self.requests += runs.len();
        let elapsed = now.micros_since(self.start);
        if elapsed >= WINDOW {
            *self = Self {
                start: now,
                gathers: self.gains(elapsed),
                ..Self::default()
            };
        }
    }

    /// Whether gathering would have gained something in a window of so many microseconds.
    fn gains(&self, elapsed: u64) -> bool {
        let each = self.datagrams + self.streams;
        let load = each * WINDOW / elapsed;
        let plenty = load >= PLENTY && self.streams < self.datagrams;
        load >= BUSY && (!plenty || each >= LARGE * self.batches || pays(self.sent, self.requests))
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
        // Batches of this time each, in microseconds.
        let mut run = |each: u64, (datagrams, streams): (usize, usize), runs: &Runs| {
            for _ in 0..1000 {
                now += each;
                pace.note(Mono(now), datagrams, streams, runs);
            }
            pace.gather().is_some()
        };
        let none = Runs::new();
        assert!(!run(1000, (1, 0), &none), "1,000 a second");
        assert!(!run(40, (1, 0), &none), "25,000 a second");
        assert!(run(25, (1, 0), &none), "40,000 a second");
        assert!(run(11, (1, 0), &none), "90,000 a second");
        assert!(!run(9, (1, 0), &none), "110,000 a second");
        assert!(run(9, (0, 1), &none), "110,000 a second over streams");
        assert!(!run(150, (30, 0), &none), "200,000 a second");
        assert!(run(200, (50, 0), &none), "batches are large");
        assert!(!run(100, (20, 0), &sends(20, 20)), "each of another flow");
        assert!(run(100, (20, 0), &sends(16, 20)), "four with others");
        assert!(!run(100, (20, 0), &sends(17, 20)), "three with others");
        assert!(run(100, (20, 0), &sends(1, 20)), "one flow");
        assert!(!run(1_000_000, (20, 0), &sends(1, 20)), "a pause ends it");
    }

    #[test]
    fn a_burst_after_a_pause_is_not_delayed_at_first() {
        let mut pace = Pace::default();
        let none = Runs::new();
        pace.note(Mono(5_000_000), 0, 0, &none);
        pace.note(Mono(5_000_100), 500, 0, &none);
        assert_eq!(pace.gather(), None);
        pace.note(Mono(5_001_000), 0, 0, &none);
        assert_eq!(pace.gather(), Some(GATHER));
    }
}
