//! How many messages may go out, so that a server that counts them takes all of them.

use std::time::{Duration, Instant};

/// So many in one go, and one more each time that passes.
#[derive(Debug)]
pub(crate) struct Budget {
    most: u32,
    each: Duration,
    left: u32,
    /// Since when the next one accrues.
    since: Instant,
}

impl Budget {
    /// A full one.
    pub(crate) const fn new(most: u32, each: Duration, now: Instant) -> Self {
        Self {
            most,
            each,
            left: most,
            since: now,
        }
    }

    /// When the next one may go out, where that is later than now.
    pub(crate) fn later(&mut self, now: Instant) -> Option<Instant> {
        while self.left < self.most && self.since + self.each <= now {
            self.left += 1;
            self.since += self.each;
        }
        if self.left == self.most {
            self.since = now;
        }
        (self.left == 0).then(|| self.since + self.each)
    }

    /// One goes out.
    pub(crate) const fn spend(&mut self) {
        self.left = self.left.saturating_sub(1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::origin;

    #[test]
    fn a_burst_and_then_one_by_one() {
        let start = origin();
        let each = Duration::from_millis(100);
        let mut budget = Budget::new(3, each, start);
        let mut spend = |now| {
            let later = budget.later(now);
            if later.is_none() {
                budget.spend();
            }
            later
        };
        let at = |milliseconds| start + Duration::from_millis(milliseconds);
        assert_eq!(
            [0, 0, 50, 60].map(|ms| spend(at(ms))),
            [None, None, None, Some(at(100))]
        );
        assert_eq!([100, 101].map(|ms| spend(at(ms))), [None, Some(at(200))]);
        // After a rest a burst again, and no more than that.
        let later = [9000, 9000, 9000, 9000].map(|ms| spend(at(ms)));
        assert_eq!(later, [None, None, None, Some(at(9100))]);
    }
}
