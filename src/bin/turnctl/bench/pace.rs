//! An even flow of packets, and what to do when this machine cannot keep up with it.

use std::time::{Duration, Instant};

/// How late a packet may be before it is skipped: longer stalls would end in a burst that no
/// caller would send.
const LATE: Duration = Duration::from_millis(2);
/// From this rate on, packets per second, packets are sent and taken in every tick: waking up for
/// each of them would cost more than the packets.
const BUSY: f64 = 20_000.0;
const TICK: Duration = Duration::from_micros(100);

/// What to do until the next packet is due.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Pause {
    /// Take what comes, as it comes, for so long.
    Wait(Duration),
    /// Look at nothing for so long.
    Nap(Duration),
}

/// Says how many packets are due.
pub(super) struct Pace {
    start: Instant,
    rate: f64,
    /// Packets that were taken or skipped.
    done: u64,
    skipped: u64,
}

impl Pace {
    /// `rate` packets per second from `start` on.
    pub(super) fn new(start: Instant, rate: f64) -> Self {
        Self {
            start,
            rate,
            done: 0,
            skipped: 0,
        }
    }

    /// Takes the packets that are due, at most `most`.
    pub(super) fn take(&mut self, at: Instant, most: u64) -> u64 {
        let due = ((at - self.start).as_secs_f64() * self.rate) as u64;
        let patience = ((LATE.as_secs_f64() * self.rate) as u64).max(most);
        let late = due.saturating_sub(self.done + patience);
        self.skipped += late;
        self.done += late;
        let taken = due.saturating_sub(self.done).min(most);
        self.done += taken;
        taken
    }

    /// What to do while nothing is due.
    pub(super) fn pause(&self, at: Instant) -> Pause {
        let next = Duration::from_secs_f64((self.done + 1) as f64 / self.rate);
        let wait = (self.start + next).saturating_duration_since(at);
        match self.rate < BUSY || wait.is_zero() {
            true => Pause::Wait(wait),
            false => Pause::Nap(wait.max(TICK)),
        }
    }

    pub(super) fn skipped(&self) -> u64 {
        self.skipped
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::poll::now;

    #[test]
    fn every_packet_is_taken_once() {
        let start = now();
        let mut pace = Pace::new(start, 1000.0);
        let taken: u64 = (0..=1000)
            .map(|ms| pace.take(start + Duration::from_millis(ms), 64))
            .sum();
        assert_eq!((taken, pace.skipped()), (1000, 0));
        let pause = pace.pause(start + Duration::from_micros(1_000_400));
        assert_eq!(pause, Pause::Wait(Duration::from_micros(600)));
    }

    #[test]
    fn a_stall_ends_in_no_burst() {
        let start = now();
        let mut pace = Pace::new(start, 100_000.0);
        let late = start + Duration::from_secs(1);
        let mut taken = 0;
        loop {
            match pace.take(late, 64) {
                0 => break,
                count => taken += count,
            }
        }
        assert_eq!(taken + pace.skipped(), 100_000);
        assert_eq!(taken, 200, "two milliseconds' worth");
        assert_eq!(pace.pause(late), Pause::Nap(TICK));
    }
}
