//! Disks to push.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

pub(crate) const MIB: u64 = 1 << 20;

/// A sparse disk of 24 MiB: random data with a long hole in the middle, a short one, and one at
/// its end. Answers the bytes that are not holes.
pub(crate) fn write_disk(path: &Path, seed: u64) -> u64 {
    let disk = File::create(path).unwrap();
    let mut random = SmallRng::seed_from_u64(seed);
    let mut written = 0;
    for (start, len) in [
        (0, 3 * MIB),
        (12 * MIB, 4 * MIB),
        (16 * MIB + 8192, MIB + 1),
    ] {
        let mut data = vec![0; len as usize];
        random.fill_bytes(&mut data);
        disk.write_all_at(&data, start).unwrap();
        written += len;
    }
    disk.set_len(24 * MIB).unwrap();
    written
}

/// Overwrites 1 MiB in the middle of the data, as an update would.
pub(crate) fn update_disk(path: &Path, seed: u64) {
    let disk = File::options().write(true).open(path).unwrap();
    let mut data = vec![0; MIB as usize];
    SmallRng::seed_from_u64(seed).fill_bytes(&mut data);
    disk.write_all_at(&data, 13 * MIB).unwrap();
}
