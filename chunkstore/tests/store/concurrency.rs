//! Do writers, readers and collections get in each other's way?

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use vitrail_chunkstore::gc::Collection;
use vitrail_chunkstore::{Ingest, Options, Store};
use vitrail_proto::chunk::VerifiedChunk;

use crate::support::images::{Run, image, noise};
use crate::support::{
    Site, assert_intact, assert_no_orphans, collect, ingest, options, raw, read_all, verified,
};

/// Images that share two of their three runs with their neighbours.
fn family(n: u64) -> Vec<u8> {
    image(&[
        Run::Text(n, 300_000),
        Run::Zeros(20_000),
        Run::Noise(n + 1, 300_000),
        Run::Text(n + 1, 200_000),
    ])
}

#[test]
fn the_same_image_from_several_at_once() {
    let mut site = Site::new();
    let bytes = family(1);
    let ids: BTreeSet<_> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..4)
            .map(|_| scope.spawn(|| ingest(site.store(), &bytes).unwrap()))
            .collect();
        threads.into_iter().map(|t| t.join().unwrap()).collect()
    });
    assert_eq!(ids.len(), 1);
    site.images
        .extend(ids.into_iter().map(|id| (id, bytes.clone())));
    site.assert_clean();
    site.reopen_after(|_| {});
    site.assert_clean();
}

#[test]
fn different_images_from_several_at_once() {
    let mut site = Site::new();
    let added: Vec<_> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..6)
            .map(|n| {
                let store = site.store();
                scope.spawn(move || (ingest(store, &family(n)).unwrap(), family(n)))
            })
            .collect();
        threads.into_iter().map(|t| t.join().unwrap()).collect()
    });
    site.images.extend(added);
    site.reopen_after(|_| {});
    site.assert_clean();
}

/// Ingests, abandoned ingests, deletions, readers and collections, all at once for a number of rounds.
#[test]
fn everything_at_once() {
    let site = Site::with(Options {
        // Three ingests and the readers compete for this.
        memory: 200 << 20,
        pack_len: 256 * 1024,
        ..options()
    });
    let store = site.store();
    let kept: Vec<_> = (100..103)
        .map(|n| (ingest(store, &family(n)).unwrap(), family(n)))
        .collect();
    let roots = parking_lot::Mutex::new(kept.iter().map(|(id, _)| *id).collect::<BTreeSet<_>>());
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..3)
            .map(|worker| {
                scope.spawn({
                    let roots = &roots;
                    move || churn(store, roots, worker)
                })
            })
            .collect();
        let reader = scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                for (id, bytes) in &kept {
                    assert!(read_all(store, *id).unwrap() == *bytes);
                }
            }
        });
        let collector = scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                let collection = Collection::begin(store).expect("the only one");
                let now = roots.lock().clone();
                let plan = collection.plan(now).unwrap();
                plan.execute(|_, _| {}).unwrap();
            }
        });
        for worker in workers {
            worker.join().unwrap();
        }
        done.store(true, Ordering::Relaxed);
        reader.join().unwrap();
        collector.join().unwrap();
    });
    let roots = roots.into_inner();
    collect(store, roots.iter().copied());
    assert_no_orphans(store, &roots);
    assert!(verified(store).ok());
    assert_intact(store, kept.iter().map(|(id, bytes)| (id, bytes)));
}

/// Adds images, checks them, deletes most again; abandons one now and then.
fn churn(
    store: &Store,
    roots: &parking_lot::Mutex<BTreeSet<vitrail_proto::id::ManifestId>>,
    worker: u64,
) {
    for round in 0..12 {
        // Neighbours of what the other workers do, and the same as they do in every third round.
        let bytes = family(if round % 3 == 0 {
            round
        } else {
            round * 3 + worker
        });
        let mut ingest = Ingest::begin(store).unwrap();
        if round % 5 == 4 {
            ingest.push(&bytes[..bytes.len() / 2]).unwrap();
            continue;
        }
        ingest.push(&bytes).unwrap();
        let ingested = ingest.finish(raw()).unwrap();
        roots.lock().insert(ingested.id);
        drop(ingested.lease);
        // Another worker may delete the same image.
        let id = ingested.id;
        if roots.lock().contains(&id) {
            match read_all(store, id) {
                Ok(found) => assert!(found == bytes),
                Err(error) => assert!(!roots.lock().contains(&id), "{error}"),
            }
        }
        if round % 4 != 0 {
            roots.lock().remove(&id);
        }
    }
}

/// Writers that come and go give packs back at any moment of a collection.
#[test]
fn packs_that_change_hands_during_collections() {
    let site = Site::with(Options {
        pack_len: 20_000,
        ..options()
    });
    let store = site.store();
    let lease = Arc::new(store.lease());
    let done = AtomicBool::new(false);
    let ids: Vec<_> = std::thread::scope(|scope| {
        let collector = scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                collect(store, []);
            }
        });
        let ids = (0..120).map(|n| {
            let chunk = VerifiedChunk::hash(noise(n, 1000).into()).unwrap();
            lease.add_chunk(chunk.id());
            let mut writer = store.writer(lease.clone()).unwrap();
            writer.put(chunk.clone()).unwrap();
            writer.commit().unwrap();
            chunk.id()
        });
        let ids = ids.collect();
        done.store(true, Ordering::Relaxed);
        collector.join().unwrap();
        ids
    });
    assert_eq!(store.missing(&ids).unwrap(), Vec::<usize>::new());
    assert_eq!(store.chunks(&ids).unwrap().len(), ids.len());
    assert!(verified(store).ok());
}

#[test]
fn an_abandoned_ingest_keeps_nothing() {
    let mut site = Site::new();
    for _ in 0..10 {
        let mut ingest = Ingest::begin(site.store()).unwrap();
        ingest.push(&family(1).repeat(3)).unwrap();
        let memory = site.store().memory().clone();
        assert!(memory.used() > 0);
        drop(ingest);
        assert_eq!(memory.used(), 0);
        // Its threads have let go of the store, or this would find it locked.
        site.reopen_after(|_| {});
    }
    site.assert_clean();
}
