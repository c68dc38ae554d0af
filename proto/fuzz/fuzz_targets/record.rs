//! Any bytes as two image records, split in the middle. What is accepted has one encoding only, and merging the two either
//! way comes to the same.

#![no_main]

use libfuzzer_sys::fuzz_target;
use vitrail_proto::record::{FIELDS_MAX, Record};

fuzz_target!(|bytes: &[u8]| {
    let Some((&at, rest)) = bytes.split_first() else {
        return;
    };
    let (a, b) = rest.split_at(rest.len() * usize::from(at) / 255);
    let decoded = [a, b].map(|bytes| {
        let record = Record::decode(bytes).ok()?;
        assert_eq!(record.encode(), bytes);
        assert!(record.field_count() <= FIELDS_MAX);
        Some(record)
    });
    if let [Some(a), Some(b)] = decoded
        && a.id == b.id
    {
        let (mut ab, mut ba) = (a.clone(), b.clone());
        ab.merge(b);
        ba.merge(a);
        assert_eq!(ab, ba);
        let again = ab.clone();
        ab.merge(again.clone());
        assert_eq!(ab, again);
    }
});
