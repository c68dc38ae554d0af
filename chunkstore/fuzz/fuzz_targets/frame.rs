//! Any bytes as a frame. With an odd first byte, the rest is its body, and the head is made to fit: one chunk
//! that is what the body holds, if it is zstd, or that claims to.

#![no_main]

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use vitrail_chunkstore::frame::decode;
use vitrail_proto::chunk::CHUNK_LEN_MAX;
use vitrail_proto::frame::{ChunkEntry, Codec, FRAME_RAW_MAX, FrameHead};
use vitrail_proto::id::ChunkId;

fuzz_target!(|input: &[u8]| {
    let Some((&kind, rest)) = input.split_first() else {
        return;
    };
    let frame = if kind % 2 == 0 {
        rest.to_vec()
    } else {
        around(rest, u32::from(kind))
    };
    if let Ok(chunks) = decode(&Bytes::from(frame)) {
        let len: u32 = chunks.iter().map(|chunk| chunk.len()).sum();
        assert!(!chunks.is_empty() && len <= FRAME_RAW_MAX);
        assert!(
            chunks
                .iter()
                .all(|chunk| ChunkId::of(chunk.bytes()) == chunk.id())
        );
    }
});

/// A frame with this body.
fn around(body: &[u8], salt: u32) -> Vec<u8> {
    let raw = zstd::bulk::decompress(body, CHUNK_LEN_MAX as usize).unwrap_or_default();
    let claimed = (body.len() as u32 * salt / 16).clamp(body.len() as u32, CHUNK_LEN_MAX);
    let head = FrameHead {
        codec: Codec::Zstd,
        chunks: vec![ChunkEntry {
            id: ChunkId::of(&raw),
            len: if raw.is_empty() {
                claimed
            } else {
                raw.len() as u32
            },
        }],
        references: Vec::new(),
        body_len: body.len() as u32,
    };
    let mut frame = Vec::new();
    head.encode(&mut frame);
    frame.extend_from_slice(body);
    frame
}
