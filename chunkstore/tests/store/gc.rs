//! Does a collection take everything that nothing names, and nothing else?

use std::collections::BTreeSet;
use std::sync::Arc;

use proptest::prelude::*;
use vitrail_chunkstore::gc::{Collection, GcSummary};
use vitrail_chunkstore::{Error, ImageReader, Ingest, Lease, Store, Writer};
use vitrail_proto::chunk::VerifiedChunk;
use vitrail_proto::id::ManifestId;

use crate::support::disk::{FaultyDisk, Plan};
use crate::support::images::{KIB, Run, any_image, image, noise, text};
use crate::support::{
    Site, assert_no_orphans, collect, ingest, options, pack_files, raw, read, read_all, verified,
};

fn disk_bytes(site: &Site) -> u64 {
    let files = pack_files(site.path()).into_values();
    files
        .map(|file| std::fs::metadata(file).unwrap().len())
        .sum()
}

#[test]
fn a_dead_image_frees_its_packs() {
    let mut site = Site::new();
    let kept = site.add(text(1, 700 * KIB));
    site.collect();
    let before = disk_bytes(&site);
    let dead = site.add(noise(2, 3 << 20));
    site.images.remove(&dead);
    let summary = site.collect();
    assert_eq!(summary.dead_manifests, 1);
    assert_eq!(summary.dead_bytes, 3 << 20);
    assert!(summary.packs_removed >= 5, "{summary:?}");
    assert!(summary.reclaimed_bytes > 3 << 20, "{summary:?}");
    assert!(disk_bytes(&site) <= before);
    assert!(matches!(
        read_all(site.store(), dead),
        Err(Error::MissingManifest(_))
    ));
    assert!(read_all(site.store(), kept).is_ok());
    site.assert_clean();
}

/// Pieces with holes between them, so that each has chunks of its own.
fn pieces(numbers: impl IntoIterator<Item = u64>) -> Vec<u8> {
    let runs = numbers
        .into_iter()
        .flat_map(|n| [Run::Noise(n, 60 * KIB), Run::Zeros(20 * KIB)]);
    image(&runs.collect::<Vec<_>>())
}

#[test]
fn sparse_packs_are_rewritten() {
    let mut site = Site::new();
    let all = site.add(pieces(0..24));
    let kept = site.add(pieces((0..24).step_by(3)));
    // Seals what is open, which adds a footer.
    site.collect();
    site.images.remove(&all);
    let before = disk_bytes(&site);
    let summary = site.collect();
    let after = disk_bytes(&site);
    assert!(summary.packs_compacted > 1, "{summary:?}");
    assert!(after < before * 4 / 10, "{before} before, {after} after");
    assert_eq!(before - after, summary.reclaimed_bytes);
    assert!(read_all(site.store(), kept).unwrap() == site.images[&kept]);
    site.reopen_after(|_| {});
    site.assert_clean();
}

#[test]
fn small_packs_are_merged_once() {
    let mut site = Site::new();
    for n in 0..8 {
        site.add(noise(n, 20 * KIB));
        // Closing gives the pack up.
        site.reopen_after(|_| {});
    }
    assert_eq!(pack_files(site.path()).len(), 8);
    site.collect();
    assert_eq!(pack_files(site.path()).len(), 1);
    assert_eq!(
        site.collect(),
        GcSummary {
            live_chunks: 8,
            ..GcSummary::default()
        }
    );
    site.assert_clean();
}

#[test]
fn a_plan_that_is_dropped_changes_nothing() {
    let mut site = Site::new();
    site.add(text(1, 300 * KIB));
    let images = std::mem::take(&mut site.images);
    let plan = Collection::begin(site.store()).unwrap().plan([]).unwrap();
    assert!(plan.summary.dead_chunks > 0);
    assert!(Collection::begin(site.store()).is_none(), "one at a time");
    drop(plan);
    site.images = images;
    site.assert_clean();
}

#[test]
fn a_root_that_this_site_never_had_is_no_error() {
    let mut site = Site::new();
    site.add(text(1, 100 * KIB));
    let foreign = ManifestId::of(b"elsewhere");
    let roots = site.roots().into_iter().chain([foreign]);
    collect(site.store(), roots.collect::<Vec<_>>());
    site.assert_clean();
}

#[test]
fn an_ingested_images_lease_keeps_it_until_it_ends() {
    let site = Site::new();
    let bytes = text(1, 400 * KIB);
    let mut ingest = Ingest::begin(site.store()).unwrap();
    ingest.push(&bytes).unwrap();
    let ingested = ingest.finish(raw()).unwrap();
    collect(site.store(), []);
    assert!(read_all(site.store(), ingested.id).unwrap() == bytes);
    drop(ingested.lease);
    collect(site.store(), []);
    assert_no_orphans(site.store(), &BTreeSet::new());
}

#[test]
fn a_lease_that_ends_during_a_collection_counts_to_its_end() {
    let site = Site::new();
    let mut ingest = Ingest::begin(site.store()).unwrap();
    ingest.push(&text(1, 400 * KIB)).unwrap();
    let ingested = ingest.finish(raw()).unwrap();
    let collection = Collection::begin(site.store()).unwrap();
    // The catalogue has made it a root now, which this collection has not seen.
    drop(ingested.lease);
    collection.plan([]).unwrap().execute(|_, _| {}).unwrap();
    assert!(read_all(site.store(), ingested.id).is_ok());
    collect(site.store(), [ingested.id]);
    assert!(verified(site.store()).ok());
    collect(site.store(), []);
    assert_no_orphans(site.store(), &BTreeSet::new());
}

#[test]
fn a_leased_chunk_that_was_found_stays() {
    let site = Site::new();
    let id = ingest(site.store(), &noise(1, 400 * KIB)).unwrap();
    let chunks: Vec<_> = site.store().manifest(id).unwrap().chunks().collect();
    let plan = Collection::begin(site.store()).unwrap().plan([]).unwrap();
    assert_eq!(plan.summary.dead_chunks, chunks.len() as u64);
    // A fetch of another image that has this chunk begins.
    let lease = site.store().lease();
    assert!(lease.add_chunk(chunks[1].0));
    assert_eq!(
        site.store().missing(&[chunks[1].0]).unwrap(),
        Vec::<usize>::new()
    );
    let summary = plan.execute(|_, _| {}).unwrap();
    assert_eq!(summary.dead_chunks, chunks.len() as u64 - 1);
    assert_eq!(summary.live_chunks, 1);
    let ids: Vec<_> = chunks.iter().map(|(id, _)| *id).collect();
    assert_eq!(site.store().missing(&ids).unwrap().len(), ids.len() - 1);
    assert!(site.store().chunks(&ids[1..2]).is_ok());
    drop(lease);
    collect(site.store(), []);
    assert_no_orphans(site.store(), &BTreeSet::new());
}

#[test]
fn a_reader_keeps_its_image() {
    let mut site = Site::new();
    let bytes = image(&[Run::Text(1, 500 * KIB), Run::Noise(2, 500 * KIB)]);
    let id = site.add(bytes.clone());
    let before = ImageReader::open(site.store(), id).unwrap();
    let plan = Collection::begin(site.store()).unwrap().plan([]).unwrap();
    assert_eq!(plan.summary.dead_manifests, 0);
    drop(before);
    drop(plan);
    // The same for one that comes when the image has been found dead.
    let plan = Collection::begin(site.store()).unwrap().plan([]).unwrap();
    assert_eq!(plan.summary.dead_manifests, 1);
    let reader = ImageReader::open(site.store(), id).unwrap();
    let summary = plan.execute(|_, _| {}).unwrap();
    assert_eq!((summary.dead_manifests, summary.dead_chunks), (0, 0));
    assert!(read(&reader, 0..u64::MAX).unwrap() == bytes);
    drop(reader);
    collect(site.store(), []);
    assert!(matches!(
        read_all(site.store(), id),
        Err(Error::MissingManifest(_))
    ));
    assert_no_orphans(site.store(), &BTreeSet::new());
}

#[test]
fn an_image_that_comes_back_during_a_collection_stays() {
    let site = Site::new();
    let bytes = image(&[
        Run::Text(1, 500 * KIB),
        Run::Zeros(40 * KIB),
        Run::Noise(2, 500 * KIB),
    ]);
    let id = ingest(site.store(), &bytes).unwrap();
    let plan = Collection::begin(site.store()).unwrap().plan([]).unwrap();
    // Whole before the sweep.
    assert_eq!(ingest(site.store(), &bytes).unwrap(), id);
    plan.execute(|_, _| {}).unwrap();
    assert!(read_all(site.store(), id).unwrap() == bytes);
    // Begun before the sweep and finished after it.
    let plan = Collection::begin(site.store()).unwrap().plan([]).unwrap();
    let mut ingest = Ingest::begin(site.store()).unwrap();
    ingest.push(&bytes[..600 * KIB]).unwrap();
    plan.execute(|_, _| {}).unwrap();
    ingest.push(&bytes[600 * KIB..]).unwrap();
    let ingested = ingest.finish(raw()).unwrap();
    assert_eq!(ingested.id, id);
    assert!(read_all(site.store(), id).unwrap() == bytes);
    drop(ingested);
    collect(site.store(), [id]);
    assert_no_orphans(site.store(), &BTreeSet::from([id]));
}

/// A writer's pack is not touched while it has it, nor after it has left it for the next one.
#[test]
fn open_packs_are_left_alone() {
    let site = Site::new();
    let lease = Arc::new(site.store().lease());
    let mut writer = site.store().writer(lease.clone()).unwrap();
    let mut ids = Vec::new();
    let mut put = |writer: &mut Writer, n| {
        let chunk = VerifiedChunk::hash(noise(n, 9000).into()).unwrap();
        lease.add_chunk(chunk.id());
        ids.push(chunk.id());
        writer.put(chunk).unwrap();
    };
    for round in 0..4 {
        put(&mut writer, round * 10);
        writer.commit().unwrap();
        put(&mut writer, round * 10 + 1);
        collect(site.store(), []);
        if round == 2 {
            writer = site.store().writer(Arc::new(site.store().lease())).unwrap();
        }
    }
    writer.commit().unwrap();
    let missing = site.store().missing(&ids).unwrap();
    // Only what the second round's writer had not got to put anywhere when it was dropped.
    assert!(missing.len() <= 1, "{missing:?}");
    let found: Vec<_> = (0..ids.len())
        .filter(|n| !missing.contains(n))
        .map(|n| ids[n])
        .collect();
    assert_eq!(site.store().chunks(&found).unwrap().len(), found.len());
    assert!(verified(site.store()).ok());
}

fn chunk(n: u64) -> VerifiedChunk {
    VerifiedChunk::hash(noise(n, 1000).into()).unwrap()
}

/// Lets `act` happen in a collection after it has sealed a pack that lay idle, and before it looks for packs to
/// rewrite or remove. Then a writer goes on, and chunks 2 to 4 must be there.
fn after_the_sealing(act: impl FnOnce(&Store, &FaultyDisk, Arc<Lease>) + Send + 'static) {
    let disk = FaultyDisk::default();
    let site = Site::on(&disk, options());
    let store = site.store();
    let lease = Arc::new(store.lease());
    for n in 2..5 {
        lease.add_chunk(chunk(n).id());
    }
    let mut writer = store.writer(lease.clone()).unwrap();
    writer.put(chunk(0)).unwrap();
    writer.commit().unwrap();
    drop(writer);

    let plan = Collection::begin(store).unwrap().plan([]).unwrap();
    let call = {
        let (store, disk, lease) = (store.clone(), disk.clone(), lease.clone());
        Box::new(move || act(&store, &disk, lease))
    };
    disk.plan(0, Plan::Call(call));
    plan.execute(|_, _| {}).unwrap();
    assert!(!disk.is_planned());

    let mut writer = store.writer(lease).unwrap();
    writer.put(chunk(4)).unwrap();
    writer.commit().unwrap();
    let ids = [2, 3, 4].map(|n| chunk(n).id());
    assert_eq!(store.chunks(&ids).unwrap().len(), 3);
    assert!(verified(store).ok());
}

#[test]
fn packs_that_are_given_back_are_not_rewritten() {
    after_the_sealing(|store, _, lease| {
        // Two, of which one could be taken to rewrite the other.
        let mut writers = [2, 3].map(|n| (n, store.writer(lease.clone()).unwrap()));
        for (n, writer) in &mut writers {
            writer.put(chunk(*n)).unwrap();
            writer.commit().unwrap();
        }
    });
}

#[test]
fn a_pack_that_was_given_up_is_not_removed_before_its_chunks_are_committed() {
    after_the_sealing(|store, disk, lease| {
        let mut writer = store.writer(lease.clone()).unwrap();
        // Nobody leases the first, so that the pack has no chunk left, but those that are to come.
        writer.put(chunk(1)).unwrap();
        writer.commit().unwrap();
        for n in 2..4 {
            writer.put(chunk(n)).unwrap();
            writer.flush().unwrap();
        }
        writer.put(chunk(9)).unwrap();
        // After the question for room.
        disk.plan(1, Plan::Fail(std::io::ErrorKind::Other));
        assert!(writer.flush().is_err());
        assert!(!disk.is_planned());
    });
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]
    #[test]
    fn a_dry_run_says_what_happens(
        images in proptest::collection::vec((any_image(), any::<bool>()), 1..8),
    ) {
        let mut site = Site::new();
        for (image, keep) in images {
            let id = site.add(image);
            if !keep {
                site.images.remove(&id);
            }
        }
        let plan = || {
            let collection = Collection::begin(site.store()).expect("the only one");
            collection.plan(site.roots()).expect("a plan")
        };
        let dry = plan().summary;
        let wet = plan().execute(|_, _| {}).expect("a collection");
        let but_bytes = |summary: &GcSummary| GcSummary { reclaimed_bytes: 0, ..summary.clone() };
        prop_assert_eq!(but_bytes(&dry), but_bytes(&wet));
        assert_no_orphans(site.store(), &site.roots());
        site.assert_intact();
        // Nothing is left to do, save that merged packs may be small enough to be merged again.
        let again = plan().summary;
        prop_assert_eq!((again.dead_chunks, again.dead_manifests, again.packs_removed), (0, 0, 0));
    }
}
