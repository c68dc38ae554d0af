//! Images whose content follows from numbers.

use proptest::prelude::*;
use rand::{RngExt, SeedableRng};

pub(crate) const KIB: usize = 1024;

/// Bytes that do not compress.
pub(crate) fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    rand::rngs::SmallRng::seed_from_u64(seed).fill(&mut bytes[..]);
    bytes
}

/// Bytes that compress and do not repeat.
pub(crate) fn text(seed: u64, len: usize) -> Vec<u8> {
    let words: Vec<Vec<u8>> = (0..64)
        .map(|n| noise(seed ^ n, 2 + n as usize % 9))
        .collect();
    let mut rng = rand::rngs::SmallRng::seed_from_u64(seed);
    let mut bytes = Vec::with_capacity(len + 16);
    while bytes.len() < len {
        bytes.extend(&words[rng.random_range(0..words.len())]);
    }
    bytes.truncate(len);
    bytes
}

/// A part of an image.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Run {
    Noise(u64, usize),
    Text(u64, usize),
    Zeros(usize),
}

pub(crate) fn image(runs: &[Run]) -> Vec<u8> {
    let mut out = Vec::new();
    for run in runs {
        match *run {
            Run::Noise(seed, len) => out.extend(noise(seed, len)),
            Run::Text(seed, len) => out.extend(text(seed, len)),
            Run::Zeros(len) => out.resize(out.len() + len, 0),
        }
    }
    out
}

/// Images of at most about a megabyte, many of which share runs.
pub(crate) fn any_image() -> impl Strategy<Value = Vec<u8>> {
    let len = prop_oneof![
        1usize..200 * KIB,
        (0usize..50).prop_map(|pages| pages * 4096)
    ];
    let run = (0..3, 0u64..6, len).prop_map(|(kind, seed, len)| match kind {
        0 => Run::Noise(seed, len),
        1 => Run::Text(seed, len),
        _ => Run::Zeros(len),
    });
    proptest::collection::vec(run, 0..6).prop_map(|runs| image(&runs))
}
