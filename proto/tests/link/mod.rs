//! A network in virtual time for tests of congestion control.
//!
//! [`path`] is the link model, [`flow`] a transport without bytes that drives one algorithm,
//! [`rival`] TCP's algorithms to compete with, [`network`] the event loop that joins them.
//! [`endpoints`] runs real QUIC endpoints over the same link model.

// Each test binary uses a part of it, and what cannot be set up fails the test.
#![allow(dead_code, clippy::unwrap_used)]

pub(crate) mod endpoints;
pub(crate) mod flow;
pub(crate) mod network;
pub(crate) mod path;
pub(crate) mod rival;

/// xorshift64*: a seed gives the same scenario on every machine.
#[derive(Clone, Debug)]
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        // Neighbouring seeds must not give neighbouring numbers.
        let mut random = Self(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ 0x5DEE_CE66_D1CE_5EED | 1);
        for _ in 0..8 {
            random.next();
        }
        random
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D)
    }

    /// Uniform in [0, 1).
    pub(crate) fn unit(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1u64 << 53) as f64
    }

    pub(crate) fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }

    pub(crate) fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len() as u64) as usize]
    }
}
