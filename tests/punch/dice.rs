//! Everything that happens by chance comes from one seed.

use rand_chacha::ChaCha12Rng;
use rand_core::{Rng, SeedableRng};

pub(crate) struct Dice(ChaCha12Rng);

impl Dice {
    pub(crate) fn new(seed: u64) -> Self {
        Self(ChaCha12Rng::seed_from_u64(seed))
    }

    pub(crate) fn below(&mut self, end: u64) -> u64 {
        self.0.next_u64() % end
    }

    pub(crate) fn chance(&mut self, probability: f64) -> bool {
        (self.0.next_u64() as f64) < probability * u64::MAX as f64
    }

    pub(crate) fn seed(&mut self) -> [u8; 32] {
        let mut seed = [0; 32];
        self.0.fill_bytes(&mut seed);
        seed
    }
}
