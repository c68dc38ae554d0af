//! Any frames and any footer in a pack whose checksums are right.

#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| vitrail_chunkstore::fuzzing::read_assembled_pack(bytes));
