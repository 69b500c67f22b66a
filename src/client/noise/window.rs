//! Which numbers have been seen: a datagram that somebody repeats is refused.

/// How far behind the highest number a datagram may arrive.
pub(super) const WINDOW: u64 = 2048;

const WORDS: usize = (WINDOW / 64) as usize;

/// A ring of bits, one for each of the last [`WINDOW`] numbers.
pub(super) struct Window {
    /// The next number above all that were seen.
    next: u64,
    bits: [u64; WORDS],
}

impl Window {
    pub(super) const fn new() -> Self {
        Self {
            next: 0,
            bits: [0; WORDS],
        }
    }

    fn bit(number: u64) -> (usize, u64) {
        let at = number % WINDOW;
        ((at / 64) as usize, 1 << (at % 64))
    }

    /// Whether a datagram with this number could be a new one. To be asked before decryption,
    /// which costs more; [`Window::take`] decides after it.
    pub(super) fn is_new(&self, number: u64) -> bool {
        if number >= self.next {
            return true;
        }
        let (word, bit) = Self::bit(number);
        self.next - number <= WINDOW && self.bits[word] & bit == 0
    }

    /// Marks the number of a datagram that was authenticated; false when it is not new.
    pub(super) fn take(&mut self, number: u64) -> bool {
        if !self.is_new(number) {
            return false;
        }
        if number >= self.next {
            if number - self.next >= WINDOW {
                self.bits = [0; WORDS];
            } else {
                // What was skipped has not been seen yet, whatever the ring still says.
                for skipped in self.next..number {
                    let (word, bit) = Self::bit(skipped);
                    self.bits[word] &= !bit;
                }
            }
            // The last number is never used, see `Secure::seal`.
            self.next = number.saturating_add(1);
        }
        let (word, bit) = Self::bit(number);
        self.bits[word] |= bit;
        true
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn agrees_with_a_set_of_all_numbers(
            steps in prop::collection::vec((0_u64..6, 0_u64..5000), 1..300),
        ) {
            let mut window = Window::new();
            let mut seen = HashSet::new();
            let mut highest = 0;
            for (kind, offset) in steps {
                let number = match kind {
                    0 | 1 => highest + offset % 4,
                    2 => highest + offset,
                    _ => highest.saturating_sub(offset),
                };
                let in_window = seen.is_empty() || number + WINDOW > highest;
                let new = in_window && !seen.contains(&number);
                prop_assert_eq!(window.is_new(number), new);
                prop_assert_eq!(window.take(number), new);
                if new {
                    seen.insert(number);
                    highest = highest.max(number);
                }
            }
        }
    }

    #[test]
    fn the_ends_of_the_range() {
        let mut window = Window::new();
        assert!(window.take(u64::MAX - 1));
        assert!(!window.take(u64::MAX - 1));
        assert!(window.take(u64::MAX - WINDOW));
        assert!(!window.take(u64::MAX - WINDOW - 1));
    }
}
