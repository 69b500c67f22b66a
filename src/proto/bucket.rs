//! A token bucket: the bandwidth of one allocation.

use super::types::Mono;

/// Micro-bytes in a byte: tokens are kept that fine so that nothing is lost to rounding.
const SCALE: i64 = 1_000_000;

/// Lets through so many bytes a second on average, with bursts.
///
/// Over any stretch of `t` seconds no more than `t × rate + burst` bytes pass; a single packet
/// larger than the burst passes when the bucket is full, and the debt is waited off.
#[derive(Clone, Debug)]
pub struct TokenBucket {
    /// Bytes a second; 0: everything passes.
    rate: u64,
    burst: i64,
    level: i64,
    at: Mono,
}

impl TokenBucket {
    /// A full bucket of `burst` bytes, filled at `bytes_per_second`; 0 lets everything pass.
    pub fn new(bytes_per_second: u64, burst: u64) -> Self {
        let burst = scaled(burst);
        Self {
            rate: bytes_per_second,
            burst,
            level: burst,
            at: Mono(0),
        }
    }

    /// Whether everything passes.
    pub fn is_unlimited(&self) -> bool {
        self.rate == 0
    }

    /// Takes `bytes`, or refuses and takes nothing.
    #[inline]
    pub fn take(&mut self, now: Mono, bytes: usize) -> bool {
        if self.rate == 0 {
            return true;
        }
        let filled = now.micros_since(self.at).saturating_mul(self.rate);
        self.level = self
            .level
            .saturating_add(i64::try_from(filled).unwrap_or(i64::MAX))
            .min(self.burst);
        self.at = self.at.max(now);
        let cost = scaled(bytes as u64);
        let passes = self.level >= cost || self.level == self.burst;
        if passes {
            self.level = self.level.saturating_sub(cost);
        }
        passes
    }
}

fn scaled(bytes: u64) -> i64 {
    i64::try_from(bytes)
        .unwrap_or(i64::MAX)
        .saturating_mul(SCALE)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_full_bucket_then_the_rate() {
        let mut bucket = TokenBucket::new(1000, 3000);
        let start = Mono(77_000_000);
        assert!(bucket.take(start, 2000));
        assert!(bucket.take(start, 1000));
        assert!(!bucket.take(start, 1));
        assert!(!bucket.take(start.plus_secs(1), 1001));
        assert!(bucket.take(start.plus_secs(1), 1000));
        assert!(!bucket.take(Mono(start.0 + 1_000_999), 1));
        assert!(bucket.take(Mono(start.0 + 1_001_000), 1));
        assert!(bucket.take(start.plus_secs(1000), 3000));
        assert!(
            !bucket.take(start.plus_secs(1000), 1),
            "no more than the burst is kept"
        );
    }

    #[test]
    fn zero_is_unlimited() {
        let mut bucket = TokenBucket::new(0, 0);
        assert!(bucket.is_unlimited());
        assert!((0..1000).all(|_| bucket.take(Mono(0), usize::MAX)));
    }

    #[test]
    fn a_packet_larger_than_the_burst_passes_and_is_paid_for() {
        let mut bucket = TokenBucket::new(100, 50);
        assert!(bucket.take(Mono(0), 150));
        assert!(!bucket.take(Mono(1_000_000), 10));
        assert!(bucket.take(Mono(1_100_000), 10));
    }

    #[test]
    fn extremes_do_not_overflow() {
        let mut bucket = TokenBucket::new(u64::MAX, u64::MAX);
        assert!(bucket.take(Mono(u64::MAX), usize::MAX));
        assert!(!bucket.take(Mono(u64::MAX), 1));
        assert!(!bucket.take(Mono(0), 1), "time that runs back adds nothing");
    }

    proptest! {
        #[test]
        fn never_more_than_rate_and_burst(
            rate in 1_u64..1_000_000,
            burst in 1500_u64..100_000,
            packets in prop::collection::vec((0_u64..200_000, 0_usize..1500), 1..300),
        ) {
            let mut bucket = TokenBucket::new(rate, burst);
            let mut now = Mono(0);
            let mut passed = Vec::new();
            for (gap, len) in packets {
                now.0 += gap;
                if bucket.take(now, len) {
                    passed.push((now, len as u64));
                }
            }
            for (i, (start, _)) in passed.iter().enumerate() {
                let mut sum = 0;
                for (end, len) in &passed[i..] {
                    sum += len;
                    let allowed = burst * 1_000_000 + end.micros_since(*start) * rate;
                    prop_assert!(sum * 1_000_000 <= allowed);
                }
            }
        }
    }
}
