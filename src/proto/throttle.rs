//! One log line a second for each kind of trouble, and a count of those left out: what a client
//! can cause at will must not flood the log.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use super::types::Mono;

/// Lets one line a second pass. Any thread may ask.
#[derive(Debug)]
pub struct Throttle {
    /// Second of the last line plus one; 0: there was none yet.
    last: AtomicU64,
    suppressed: AtomicU64,
}

impl Throttle {
    /// A throttle that lets the first line pass.
    pub const fn new() -> Self {
        Self {
            last: AtomicU64::new(0),
            suppressed: AtomicU64::new(0),
        }
    }

    /// Whether to write a line now: then, how many were left out since the last one.
    pub fn pass(&self, now: Mono) -> Option<u64> {
        let this = now.0 / 1_000_000 + 1;
        let last = self.last.load(Relaxed);
        let first = last != this
            && self
                .last
                .compare_exchange(last, this, Relaxed, Relaxed)
                .is_ok();
        if first {
            return Some(self.suppressed.swap(0, Relaxed));
        }
        self.suppressed.fetch_add(1, Relaxed);
        None
    }
}

impl Default for Throttle {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_line_a_second_and_the_rest_is_counted() {
        let throttle = Throttle::new();
        assert_eq!(throttle.pass(Mono(0)), Some(0));
        for micros in 1..6 {
            assert_eq!(throttle.pass(Mono(micros)), None);
        }
        assert_eq!(throttle.pass(Mono(1_000_000)), Some(5));
        assert_eq!(throttle.pass(Mono(1_999_999)), None);
    }
}
