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
