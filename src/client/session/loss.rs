//! What a [`DirectLoss`](super::DirectLoss) takes.

use rand_chacha::ChaCha12Rng;
use rand_core::{Rng, SeedableRng};

/// Loses datagrams of the direct path, to try out what then happens.
pub(super) struct Loss {
    pub(super) percent: u8,
    rng: ChaCha12Rng,
}

impl Loss {
    pub(super) fn new(seed: [u8; 32]) -> Self {
        Self {
            percent: 0,
            rng: ChaCha12Rng::from_seed(seed),
        }
    }

    /// Whether the next datagram is lost.
    pub(super) fn takes(&mut self) -> bool {
        self.percent > 0 && self.rng.next_u32() % 100 < u32::from(self.percent)
    }
}
