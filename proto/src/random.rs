//! The generator of all chance here and in the simulator (SplitMix64, Steele et al. 2014): equal seeds make equal decisions.
//! Not for secrets.

use std::time::Duration;

/// A seeded generator.
#[derive(Debug, Clone)]
pub struct Random(u64);

impl Random {
    /// Equal seeds give equal numbers.
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// Any number.
    pub fn number(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        mix(self.0)
    }

    /// Below `bound`; 0 if that is 0.
    pub fn below(&mut self, bound: usize) -> usize {
        (self.number() % bound.max(1) as u64) as usize
    }

    /// True once in `many`.
    pub fn once_in(&mut self, many: usize) -> bool {
        self.below(many) == 0
    }

    /// One of these, of which there is at least one.
    pub fn pick<T: Copy>(&mut self, of: &[T]) -> T {
        of[self.below(of.len())]
    }

    /// Between nothing and `most`.
    pub fn delay(&mut self, most: Duration) -> Duration {
        most.mul_f64(self.number() as f64 / u64::MAX as f64)
    }

    /// `about` give or take a quarter.
    pub fn around(&mut self, about: Duration) -> Duration {
        about.mul_f64(0.75) + self.delay(about.mul_f64(0.5))
    }
}

/// Scrambles a number, so that orders by it are alike to no other.
pub fn mix(number: u64) -> u64 {
    let z = (number ^ (number >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}
