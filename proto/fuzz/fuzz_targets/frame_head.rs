//! Any bytes as a frame's head. What is accepted has one encoding only and keeps the bounds.

#![no_main]

use libfuzzer_sys::fuzz_target;
use vitrail_proto::codec::Reader;
use vitrail_proto::frame::{FRAME_CHUNKS_MAX, FRAME_LEN_MAX, FRAME_RAW_MAX, FrameHead};

fuzz_target!(|bytes: &[u8]| {
    let mut reader = Reader::new(bytes);
    if let Ok(head) = FrameHead::decode(&mut reader) {
        let mut again = Vec::new();
        head.encode(&mut again);
        assert_eq!(again, bytes[..bytes.len() - reader.remaining()]);
        assert!(!head.chunks.is_empty() && head.chunks.len() as u64 <= FRAME_CHUNKS_MAX);
        assert!(head.raw_len() <= FRAME_RAW_MAX && head.body_len <= head.raw_len());
        assert!(again.len() as u64 + u64::from(head.body_len) <= FRAME_LEN_MAX);
    }
});
