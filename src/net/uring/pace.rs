//! When to wait a little for more. A wake-up costs several times what a datagram costs, so under
//! load the shard takes what has come after a moment rather than each datagram by itself; with
//! little load it never waits.

use crate::net::sys::uring::Gather;
use crate::proto::Mono;

/// The load is measured over this time, in microseconds.
const WINDOW: u64 = 1000;

/// From so many datagrams in a window on the shard waits for more.
const BUSY: u64 = 30;

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
    busy: bool,
}

impl Pace {
    /// A batch that began at `now` had so many datagrams, or streams that had something.
    pub(super) fn note(&mut self, now: Mono, datagrams: usize) {
        self.datagrams += datagrams as u64;
        let elapsed = now.micros_since(self.start);
        if elapsed >= WINDOW {
            self.busy = self.datagrams * WINDOW >= BUSY * elapsed;
            self.start = now;
            self.datagrams = 0;
        }
    }

    /// How to wait for the next batch.
    pub(super) fn gather(&self) -> Option<Gather> {
        self.busy.then_some(GATHER)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_busy_shard_waits_for_more() {
        let mut pace = Pace::default();
        let mut now = 1_000_000;
        let mut run = |each: u64, turns: usize| {
            for _ in 0..turns {
                now += each;
                pace.note(Mono(now), 1);
            }
            pace.gather().is_some()
        };
        assert!(!run(1000, 100), "1,000 a second");
        assert!(!run(40, 100), "25,000 a second");
        assert!(run(25, 100), "40,000 a second");
        assert!(run(4, 1000), "250,000 a second");
        assert!(!run(1_000_000, 1), "a pause ends it");
    }

    #[test]
    fn a_burst_after_a_pause_is_not_delayed_at_first() {
        let mut pace = Pace::default();
        pace.note(Mono(5_000_000), 0);
        pace.note(Mono(5_000_100), 200);
        assert_eq!(pace.gather(), None);
        pace.note(Mono(5_001_000), 0);
        assert_eq!(pace.gather(), Some(GATHER));
    }
}
