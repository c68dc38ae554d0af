//! Is what is already there stored again?

use std::sync::Arc;

use bytes::Bytes;
use vitrail_chunkstore::Ingest;
use vitrail_chunkstore::frame::{Encoder, decode};
use vitrail_proto::chunk::VerifiedChunk;

use crate::support::images::{KIB, Run, image, noise};
use crate::support::{Site, raw};

fn stored_bytes(site: &Site, bytes: &[u8]) -> u64 {
    let mut ingest = Ingest::begin(site.store()).unwrap();
    ingest.push(bytes).unwrap();
    ingest.finish(raw()).unwrap().stored_bytes
}

#[test]
fn the_same_image_twice_costs_nothing() {
    let site = Site::new();
    let bytes = noise(1, 3 << 20);
    assert!(stored_bytes(&site, &bytes) > 3 << 20);
    assert_eq!(stored_bytes(&site, &bytes), 0);
    let stats = site.store().stats().unwrap();
    assert_eq!(stats.manifests, 1);
    assert_eq!(stats.unique_bytes, 3 << 20);
}

#[test]
fn repeats_within_an_image_are_stored_once() {
    let site = Site::new();
    let part = noise(1, 1 << 20);
    let stored = stored_bytes(&site, &part.repeat(5));
    // The parts meet in chunks of their own.
    assert!(stored < (1 << 20) + 2 * 256 * KIB as u64, "{stored}");
    assert!(stored_bytes(&site, &vec![0xff; 30 << 20]) < 1000);
}

#[test]
fn an_image_with_a_change_costs_about_the_change() {
    let site = Site::new();
    let before = image(&[
        Run::Noise(1, 4 << 20),
        Run::Zeros(100 * KIB),
        Run::Noise(2, 4 << 20),
    ]);
    let mut after = before.clone();
    after.splice(2 << 20..2 << 20, noise(3, 5000));
    stored_bytes(&site, &before);
    let stored = stored_bytes(&site, &after);
    assert!(stored < 600 * KIB as u64, "{stored}");
}

#[test]
fn dedup_survives_a_reopening_and_an_abandoned_ingest() {
    let mut site = Site::new();
    let bytes = noise(1, 2 << 20);
    let mut ingest = Ingest::begin(site.store()).unwrap();
    ingest.push(&bytes).unwrap();
    drop(ingest);
    // Chunks of the abandoned one are there already, as far as its threads had got.
    assert!(stored_bytes(&site, &bytes) <= (2 << 20) + 4096);
    site.reopen_after(|_| {});
    assert_eq!(stored_bytes(&site, &bytes), 0);
}

#[test]
fn more_tiny_chunks_than_a_frame_may_have() {
    let site = Site::new();
    let lease = Arc::new(site.store().lease());
    let mut writer = site.store().writer(lease.clone()).unwrap();
    let chunks: Vec<_> = (0..10_000u32)
        .map(|n| VerifiedChunk::hash(Bytes::copy_from_slice(&n.to_le_bytes())).unwrap())
        .collect();
    for chunk in &chunks {
        assert!(lease.add_chunk(chunk.id()));
        writer.put(chunk.clone()).unwrap();
    }
    writer.commit().unwrap();
    let ids: Vec<_> = chunks.iter().map(VerifiedChunk::id).collect();
    assert_eq!(site.store().missing(&ids).unwrap(), Vec::<usize>::new());
    assert_eq!(site.store().chunks(&ids).unwrap(), chunks);
    // Nor has a frame that is made for sending.
    let every_other: Vec<_> = ids.iter().copied().step_by(2).collect();
    let mut encoder = Encoder::new(3).unwrap();
    let frames = site.store().frames(&every_other, &mut encoder).unwrap();
    let sent = frames.iter().flat_map(|frame| decode(frame).unwrap());
    assert!(sent.map(|chunk| chunk.id()).eq(every_other));
}
