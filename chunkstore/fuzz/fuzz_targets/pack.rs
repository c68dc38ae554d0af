//! Any bytes as a pack file.

#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| vitrail_chunkstore::fuzzing::read_pack(bytes));
