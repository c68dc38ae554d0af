//! What happens when there is no room, or little memory?

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use vitrail_chunkstore::db::{Batch, Durability};
use vitrail_chunkstore::{Error, Options, Store};
use vitrail_proto::chunk::VerifiedChunk;

use crate::support::disk::FaultyDisk;
use crate::support::images::{KIB, Run, image, noise};
use crate::support::{Site, assert_intact, collect, ingest, options, read_all};

/// Adds images until the store is full. Returns how many it took.
fn fill(site: &mut Site, first: u64) -> u64 {
    for n in first..first + 100 {
        match ingest(site.store(), &noise(n, 300 * KIB)) {
            Ok(id) => site.images.insert(id, noise(n, 300 * KIB)),
            Err(Error::Full(_)) => return n - first,
            Err(other) => panic!("{other}"),
        };
    }
    panic!("it never gets full");
}

#[test]
fn a_capacity_is_kept_and_a_collection_makes_room() {
    let mut site = Site::with(Options {
        capacity: Some(2 << 20),
        ..options()
    });
    assert_eq!(fill(&mut site, 0), 6);
    let stats = site.store().stats().unwrap();
    assert!(
        stats.pack_bytes < (2 << 20) + 64 * KIB as u64,
        "{}",
        stats.pack_bytes
    );
    site.assert_intact();
    // What is there already needs no room.
    let known = site.images.values().next().unwrap().clone();
    ingest(site.store(), &known).unwrap();

    site.images.pop_first();
    site.images.pop_first();
    site.collect();
    assert!(fill(&mut site, 100) >= 1);
    site.assert_clean();
    site.reopen_after(|_| {});
    site.assert_clean();
}

#[test]
fn a_put_that_failed_for_lack_of_room_can_be_repeated() {
    let mut site = Site::with(Options {
        capacity: Some(1 << 20),
        ..options()
    });
    let dead = site.add(noise(1, 700 * KIB));
    let store = site.store().clone();
    let lease = Arc::new(store.lease());
    let mut writer = store.writer(lease.clone()).unwrap();
    let chunks: Vec<_> = (0..10)
        .map(|n| VerifiedChunk::hash(noise(100 + n, 60 * KIB).into()).unwrap())
        .collect();
    let mut refusals = 0;
    for chunk in &chunks {
        lease.add_chunk(chunk.id());
        while let Err(error) = writer.put(chunk.clone()) {
            assert!(matches!(error, Error::Full(_)), "{error}");
            refusals += 1;
            assert_eq!(refusals, 1, "a collection makes room");
            site.images.remove(&dead);
            site.collect();
        }
    }
    writer.commit().unwrap();
    assert_eq!(refusals, 1);
    let ids: Vec<_> = chunks.iter().map(VerifiedChunk::id).collect();
    assert_eq!(store.chunks(&ids).unwrap(), chunks);
}

#[test]
fn the_reserve_of_the_disk_is_kept() {
    let disk = FaultyDisk::default();
    let mut site = Site::on(
        &disk,
        Options {
            reserve: 1 << 20,
            ..options()
        },
    );
    disk.set_free((2 << 20) + 1000);
    fill(&mut site, 0);
    assert!(disk.free() >= 1 << 20, "{}", disk.free());
    site.assert_intact();
}

#[test]
fn a_collection_works_on_a_full_disk() {
    let disk = FaultyDisk::default();
    let mut site = Site::on(&disk, options());
    let runs = |n| [Run::Noise(n, 250 * KIB), Run::Noise(n + 1, 250 * KIB)];
    let all: Vec<_> = (0..8).map(|n| site.add(image(&runs(n)))).collect();
    for id in &all[..6] {
        site.images.remove(id);
    }
    // Room for nothing at all: dead packs go.
    disk.set_free(0);
    let summary = site.collect();
    assert!(summary.packs_removed > 0 && disk.free() > 0, "{summary:?}");
    assert_eq!(summary.packs_compacted, 0);
    site.assert_intact();
    // With some room, the others are rewritten.
    disk.set_free(20 << 20);
    site.assert_clean();
}

#[test]
fn waiting_ingests_get_their_turn() {
    let site = Site::with(Options {
        // Room for one ingest at a time.
        memory: 70 << 20,
        ..options()
    });
    let store = site.store();
    std::thread::scope(|scope| {
        for n in 0..5 {
            scope.spawn(move || {
                let bytes = noise(n, 400 * KIB);
                let id = ingest(store, &bytes).unwrap();
                assert!(read_all(store, id).unwrap() == bytes);
            });
        }
    });
    assert_eq!(store.memory().used(), 0);
}

/// With a directory on a small file system of some 40 MiB, such as a tmpfs, in `VITRAIL_SMALL_DISK`.
#[test]
#[ignore = "needs a small file system"]
fn a_real_disk_that_is_full() {
    let directory = std::env::var("VITRAIL_SMALL_DISK").expect("VITRAIL_SMALL_DISK is set");
    let directory = tempfile::tempdir_in(directory).unwrap();
    // No reserve, so that the index meets the end of the disk, too.
    let open = || Store::open(&directory.path().join("store"), options(), &["filling"]).unwrap();
    let store = open();
    let other = directory.path().join("of somebody else");
    std::fs::write(&other, noise(1, 8 << 20)).unwrap();
    let mut images = BTreeMap::new();
    let error = loop {
        let bytes = noise(images.len() as u64, 300 * KIB);
        match ingest(&store, &bytes) {
            Ok(id) => assert!(images.insert(id, bytes).is_none()),
            Err(error) => break error,
        }
    };
    assert!(matches!(error, Error::Full(_)), "{error}");
    assert!(images.len() > 50);
    let mut rows = 0u64;
    let mut write = || {
        rows += 1;
        let mut batch = Batch::new();
        batch.put("filling", &rows.to_le_bytes(), noise(rows, 10_000));
        store.db().write(batch, Durability::Synced)
    };
    let error = (0..10_000).find_map(|_| write().err());
    assert!(matches!(error, Some(Error::Full(_))), "{error:?}");
    assert_intact(&store, &images);

    // RocksDB looks for room every few seconds.
    std::fs::remove_file(&other).unwrap();
    let recovered = (0..60).any(|_| {
        std::thread::sleep(Duration::from_millis(500));
        write().is_ok()
    });
    assert!(recovered);
    assert_intact(&store, &images);
    drop(store);
    let store = open();
    assert_intact(&store, &images);
    while images.len() > 10 {
        images.pop_first();
    }
    collect(&store, images.keys().copied());
    for n in 1000..1030 {
        images.insert(
            ingest(&store, &noise(n, 300 * KIB)).unwrap(),
            noise(n, 300 * KIB),
        );
    }
    assert_intact(&store, &images);
}
