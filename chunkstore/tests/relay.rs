//! Do frames carry chunks from one store to another, whatever is wanted?

use std::sync::Arc;

use vitrail_chunkstore::frame::{Encoder, decode};
use vitrail_chunkstore::{Ingest, Options, Store};
use vitrail_proto::id::ChunkId;
use vitrail_proto::manifest::FormatFacts;

fn text(len: usize) -> Vec<u8> {
    // Compressible and without repeats.
    (0..len / 8)
        .flat_map(|i| format!("{i:07}\n").into_bytes())
        .collect()
}

#[test]
fn frames_move_between_stores() {
    let (a_dir, b_dir) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let a = Store::open(a_dir.path(), Options::default(), &[]).unwrap();
    let b = Store::open(b_dir.path(), Options::default(), &[]).unwrap();
    let image = text(4 << 20);
    let mut ingest = Ingest::begin(&a).unwrap();
    ingest.push(&image).unwrap();
    let format = FormatFacts {
        name: "raw".into(),
        virtual_size: None,
    };
    let manifest = ingest.finish(format).unwrap().manifest;
    let ids: Vec<ChunkId> = manifest.chunks().map(|(id, _)| id).collect();
    let mut encoder = Encoder::new(3).unwrap();

    // First every third chunk, then the rest: both relayed and re-encoded frames occur.
    let third: Vec<ChunkId> = ids.iter().copied().step_by(3).collect();
    for wanted in [&third, &ids] {
        let lease = Arc::new(b.lease());
        wanted.iter().for_each(|id| {
            lease.add_chunk(*id);
        });
        let mut writer = b.writer(lease).unwrap();
        for frame in a.frames(wanted, &mut encoder).unwrap() {
            let chunks = decode(&frame).unwrap();
            let frame_ids: Vec<_> = chunks.iter().map(|c| c.id()).collect();
            let missing = b.missing(&frame_ids).unwrap();
            let mask: Vec<bool> = (0..chunks.len()).map(|i| missing.contains(&i)).collect();
            writer.put_frame(&frame, chunks, &mask).unwrap();
            assert_eq!(b.missing(&frame_ids).unwrap(), []);
        }
        writer.commit().unwrap();
    }
    let bytes: Vec<u8> = b
        .chunks(&ids)
        .unwrap()
        .iter()
        .flat_map(|c| c.bytes().to_vec())
        .collect();
    assert!(bytes == image);
    assert_eq!(
        b.stats().unwrap().unique_bytes,
        a.stats().unwrap().unique_bytes
    );
}
