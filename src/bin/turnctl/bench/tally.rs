//! Counting: what was sent, what came, once or twice, and how long it took.

use hdrhistogram::Histogram;

/// How many packets back a duplicate is told from a new one.
const WINDOW: u32 = 1024;

/// Which packets of one flow have come.
#[derive(Clone)]
pub(super) struct Window {
    /// One above the highest sequence number that has come.
    next: u32,
    bits: [u64; WINDOW as usize / 64],
}

/// What a sequence number is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Arrival {
    New,
    Duplicate,
    /// So late that nobody can tell.
    TooLate,
}

impl Window {
    pub(super) const EMPTY: Self = Self {
        next: 0,
        bits: [0; WINDOW as usize / 64],
    };

    pub(super) fn arrive(&mut self, sequence: u32) -> Arrival {
        if sequence >= self.next {
            if sequence - self.next >= WINDOW {
                self.bits = [0; WINDOW as usize / 64];
            } else {
                for skipped in self.next..sequence {
                    let (word, bit) = Self::place(skipped);
                    self.bits[word] &= !bit;
                }
            }
            self.next = sequence + 1;
        } else if self.next - sequence > WINDOW {
            return Arrival::TooLate;
        } else {
            let (word, bit) = Self::place(sequence);
            if self.bits[word] & bit != 0 {
                return Arrival::Duplicate;
            }
        }
        let (word, bit) = Self::place(sequence);
        self.bits[word] |= bit;
        Arrival::New
    }

    const fn place(sequence: u32) -> (usize, u64) {
        let at = sequence % WINDOW;
        (at as usize / 64, 1 << (at % 64))
    }
}

/// The counts of one measurement, or of one thread's part in it.
#[derive(Clone, Debug)]
pub(super) struct Tally {
    /// Packets that the kernel or a full stream took, up and down.
    pub(super) sent: [u64; 2],
    /// Packets that came in time, each counted once, up and down.
    pub(super) received: [u64; 2],
    pub(super) duplicated: u64,
    /// Not as sent, or at the wrong end.
    pub(super) corrupted: u64,
    /// Too late to say whether they are duplicates; not counted as received.
    pub(super) too_late: u64,
    /// Came after --max-delay; not counted as received.
    pub(super) overdue: u64,
    /// Of the lost ones, those that found a full stream.
    pub(super) not_taken: u64,
    /// Packets that this machine did not send: its buffers were full, or it had no way.
    pub(super) refused: u64,
    pub(super) refusal: Option<i32>,
    /// Packets that were due when this machine was too slow to send them.
    pub(super) skipped: u64,
    /// Packets that this machine's own receive buffers had no room for; they are lost packets,
    /// but not the server's.
    pub(super) own_drops: u64,
    /// One way, nanoseconds.
    pub(super) latency: Histogram<u32>,
}

impl Tally {
    pub(super) fn new() -> Self {
        Self {
            sent: [0; 2],
            received: [0; 2],
            duplicated: 0,
            corrupted: 0,
            too_late: 0,
            overdue: 0,
            not_taken: 0,
            refused: 0,
            refusal: None,
            skipped: 0,
            own_drops: 0,
            latency: histogram(),
        }
    }

    pub(super) fn add(&mut self, other: &Self) {
        for way in 0..2 {
            self.sent[way] += other.sent[way];
            self.received[way] += other.received[way];
        }
        self.duplicated += other.duplicated;
        self.corrupted += other.corrupted;
        self.too_late += other.too_late;
        self.overdue += other.overdue;
        self.not_taken += other.not_taken;
        self.refused += other.refused;
        self.refusal = self.refusal.or(other.refusal);
        self.skipped += other.skipped;
        self.own_drops += other.own_drops;
        merge(&mut self.latency, &other.latency);
    }

    pub(super) fn all_sent(&self) -> u64 {
        self.sent.iter().sum()
    }

    pub(super) fn all_received(&self) -> u64 {
        self.received.iter().sum()
    }

    pub(super) fn lost(&self) -> u64 {
        self.all_sent().saturating_sub(self.all_received())
    }

    /// Packets that may still come.
    pub(super) fn missing(&self) -> u64 {
        self.lost().saturating_sub(self.overdue + self.not_taken)
    }

    /// Lost packets in percent of those sent.
    pub(super) fn loss(&self) -> f64 {
        match self.all_sent() {
            0 => 0.0,
            sent => 100.0 * self.lost() as f64 / sent as f64,
        }
    }

    /// Packets that came again in percent of those sent, with those that may have: a duplicate
    /// does no good for being late.
    pub(super) fn duplication(&self) -> f64 {
        let again = self.duplicated + self.too_late;
        match self.all_sent() {
            0 => 0.0,
            sent => 100.0 * again as f64 / sent as f64,
        }
    }
}

/// Nanoseconds from one microsecond to a minute, with three digits.
pub(super) fn histogram() -> Histogram<u32> {
    Histogram::new_with_bounds(1000, 60_000_000_000, 3).expect("bounds in order, few digits")
}

pub(super) fn record(histogram: &mut Histogram<u32>, nanoseconds: u64) {
    histogram.saturating_record(nanoseconds);
}

pub(super) fn merge(into: &mut Histogram<u32>, from: &Histogram<u32>) {
    into.add(from).expect("all have the same bounds");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arrivals_are_told_apart() {
        let mut window = Window::EMPTY;
        for sequence in [0, 1, 5, 3, 2000, 1999, 976 + 1] {
            assert_eq!(window.arrive(sequence), Arrival::New, "{sequence}");
        }
        for sequence in [2000, 1999, 977] {
            assert_eq!(window.arrive(sequence), Arrival::Duplicate, "{sequence}");
        }
        assert_eq!(window.arrive(976), Arrival::TooLate);
        assert_eq!(window.arrive(5), Arrival::TooLate);
    }

    #[test]
    fn gaps_stay_open_while_the_window_moves() {
        let mut window = Window::EMPTY;
        for sequence in (0..10_000).step_by(2) {
            assert_eq!(window.arrive(sequence), Arrival::New);
        }
        for sequence in 9001..9999 {
            let expected = match sequence % 2 {
                0 => Arrival::Duplicate,
                _ => Arrival::New,
            };
            assert_eq!(window.arrive(sequence), expected, "{sequence}");
        }
    }

    #[test]
    fn tallies_add_up() {
        let mut one = Tally::new();
        one.sent = [10, 20];
        one.received = [9, 20];
        record(&mut one.latency, 5000);
        let mut two = one.clone();
        two.duplicated = 3;
        one.add(&two);
        assert_eq!((one.all_sent(), one.lost(), one.duplicated), (60, 2, 3));
        assert_eq!(one.latency.len(), 2);
        assert!((one.loss() - 100.0 / 30.0).abs() < 1e-9);
        assert_eq!(Tally::new().loss(), 0.0);
        assert!((one.duplication() - 5.0).abs() < 1e-9);
        one.too_late = 3;
        assert!((one.duplication() - 10.0).abs() < 1e-9);
        assert_eq!(Tally::new().duplication(), 0.0);
    }
}
