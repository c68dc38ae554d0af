//! Any bytes as a manifest. What is accepted has one encoding only and segments that add up.

#![no_main]

use libfuzzer_sys::fuzz_target;
use vitrail_proto::id::ManifestId;
use vitrail_proto::manifest::{IMAGE_SIZE_MAX, Manifest};

fuzz_target!(|bytes: &[u8]| {
    if let Ok(manifest) = Manifest::decode(bytes) {
        assert_eq!(manifest.encode(), bytes);
        assert_eq!(manifest.id(), ManifestId::of(bytes));
        let len: u64 = manifest
            .segments()
            .iter()
            .map(|segment| segment.len())
            .sum();
        assert!(len == manifest.size() && len <= IMAGE_SIZE_MAX);
        assert!(manifest.data_size() <= len);
    }
});
