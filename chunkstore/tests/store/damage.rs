//! What becomes of flipped bits, cut-off and missing packs while the index is whole?

use std::sync::Arc;

use vitrail_chunkstore::gc::Collection;
use vitrail_chunkstore::{Error, ImageReader, Options, PackId};
use vitrail_proto::chunk::VerifiedChunk;
use vitrail_proto::id::ManifestId;

use crate::support::disk::FaultyDisk;
use crate::support::images::noise;
use crate::support::{Site, ingest, options, read, read_all, verified};

/// A small chunk: what does not compress, and zeros up to a page.
const PAGE: usize = 4096;
const NOISE: usize = 200;
/// An image has such a page, then a hole, and so on.
const STRIDE: usize = 5 * PAGE;

/// A store that caches nothing and seals a pack after each chunk, with one image of `count` small chunks.
fn site(count: usize) -> (Site, FaultyDisk, ManifestId) {
    let disk = FaultyDisk::default();
    let options = Options {
        memory: 0,
        frame_len: 1,
        pack_len: 1,
        ..options()
    };
    let mut site = Site::on(&disk, options);
    let mut image = vec![0; count * STRIDE];
    for (n, page) in image.chunks_mut(STRIDE).enumerate() {
        page[..NOISE].copy_from_slice(&noise(n as u64, NOISE));
    }
    let id = site.add(image);
    assert_eq!(disk.packs().len(), count);
    (site, disk, id)
}

fn len_of(disk: &FaultyDisk, pack: PackId) -> usize {
    let mut len = 0;
    disk.edit(pack, |bytes| len = bytes.len());
    len
}

/// Longest pack of a store of this kind, in bytes.
fn pack_len() -> usize {
    let (_, disk, _) = site(20);
    let packs = disk.packs();
    packs
        .into_iter()
        .map(|pack| len_of(&disk, pack))
        .max()
        .unwrap()
}

/// Reads the `n`th chunk: the right bytes, or an error after which it counts as missing. Never wrong bytes.
/// Tells whether it was right.
fn right_or_damaged(site: &Site, id: ManifestId, n: usize) -> bool {
    let reader = ImageReader::open(site.store(), id).unwrap();
    let range = n * STRIDE..n * STRIDE + PAGE;
    let read = || read(&reader, range.start as u64..range.end as u64);
    match read() {
        Ok(found) => {
            assert!(
                found == site.images[&id][range.clone()],
                "wrong bytes in chunk {n}"
            );
            true
        }
        Err(Error::Damaged(_)) => {
            assert!(matches!(read(), Err(Error::MissingChunk(_))));
            false
        }
        Err(Error::MissingChunk(_)) => false,
        Err(other) => panic!("{other}"),
    }
}

/// Storing the image again and a collection make everything right.
fn heal(site: &Site, id: ManifestId) {
    assert_eq!(ingest(site.store(), &site.images[&id]).unwrap(), id);
    site.assert_clean();
}

fn flip_one_in_each(disk: &FaultyDisk) {
    for (n, pack) in disk.packs().into_iter().enumerate() {
        disk.edit(pack, |bytes| {
            let at = n.min(bytes.len() - 1);
            bytes[at] ^= 1 << (n % 8);
        });
    }
}

#[test]
fn each_byte_of_a_pack_read() {
    let count = pack_len();
    let (site, disk, id) = site(count);
    flip_one_in_each(&disk);
    let wrong = (0..count)
        .filter(|&n| !right_or_damaged(&site, id, n))
        .count();
    assert!(wrong > NOISE && wrong < count, "{wrong} of {count}");
    assert_eq!(site.store().stats().unwrap().damaged_chunks, wrong as u64);
    // What reading did not need, headers, footers and checksums, verify finds.
    let report = verified(site.store());
    assert_eq!(report.damaged.len(), count - wrong);
    assert!(
        report.missing.len() > wrong,
        "a wrong checksum costs a chunk"
    );
    heal(&site, id);
}

#[test]
fn each_byte_of_a_pack_verified() {
    let count = pack_len();
    let (site, disk, id) = site(count);
    flip_one_in_each(&disk);
    let report = verified(site.store());
    assert_eq!(report.damaged.len(), count);
    let right = (0..count)
        .filter(|&n| right_or_damaged(&site, id, n))
        .count();
    assert_eq!(report.missing.len(), count - right);
    heal(&site, id);
}

#[test]
fn packs_cut_off_at_every_length() {
    let count = pack_len();
    let (site, disk, id) = site(count);
    for (len, pack) in disk.packs().into_iter().enumerate() {
        disk.edit(pack, |bytes| bytes.truncate(len.min(bytes.len() - 1)));
    }
    let right = (0..count)
        .filter(|&n| right_or_damaged(&site, id, n))
        .count();
    assert!(right > 0 && right < count);
    let report = verified(site.store());
    // All have lost their footer.
    assert_eq!(
        (report.missing.len(), report.damaged.len()),
        (count - right, count)
    );
    heal(&site, id);
}

#[test]
fn packs_cut_off_at_every_length_while_the_store_is_closed() {
    let count = pack_len();
    let (mut site, disk, id) = site(count);
    site.reopen_after(|_| {
        for (len, pack) in disk.packs().into_iter().enumerate() {
            disk.edit(pack, |bytes| bytes.truncate(len.min(bytes.len() - 1)));
        }
    });
    let right = (0..count)
        .filter(|&n| right_or_damaged(&site, id, n))
        .count();
    let report = verified(site.store());
    assert_eq!(report.damaged, [], "opening has sorted it out");
    assert_eq!(report.missing.len(), count - right);
    heal(&site, id);
}

#[test]
fn packs_that_are_gone() {
    let (mut site, disk, id) = site(6);
    let packs = disk.packs();
    // While it is closed, while it is open and not read before, and after it was read.
    site.reopen_after(|_| disk.lose(packs[0]));
    assert!(right_or_damaged(&site, id, 2));
    disk.lose(packs[1]);
    disk.lose(packs[2]);
    let right: Vec<_> = (0..6).map(|n| right_or_damaged(&site, id, n)).collect();
    assert_eq!(right, [false, false, true, true, true, true]);
    assert_eq!(verified(site.store()).missing.len(), 2);
    site.reopen_after(|_| {});
    assert!(!right_or_damaged(&site, id, 2));
    heal(&site, id);
}

#[test]
fn a_pack_that_verify_finds_gone() {
    let (mut site, disk, id) = site(6);
    site.reopen_after(|_| {});
    disk.lose(disk.packs()[3]);
    let report = verified(site.store());
    assert_eq!((report.damaged.len(), report.missing.len()), (1, 1));
    assert!(!right_or_damaged(&site, id, 3));
    heal(&site, id);
}

#[test]
fn chunks_beside_a_damaged_one_stay() {
    let disk = FaultyDisk::default();
    let options = Options {
        memory: 0,
        ..options()
    };
    let mut site = Site::on(&disk, options);
    let good = site.add(noise(1, 600_000));
    let bad = site.add(noise(2, 600_000));
    let last = disk.packs().pop().unwrap();
    disk.edit(last, |bytes| bytes[50_000] ^= 1);
    assert!(matches!(
        read_all(site.store(), bad),
        Err(Error::Damaged(_))
    ));
    assert!(read_all(site.store(), good).unwrap() == site.images[&good]);
    // A collection keeps them where the image needs them.
    site.collect();
    let missing = verified(site.store()).missing;
    assert!((1..=3).contains(&missing.len()), "{missing:?}");
    heal(&site, bad);
}

#[test]
fn a_chunk_that_is_damaged_before_its_commit() {
    let disk = FaultyDisk::default();
    let options = Options {
        memory: 0,
        frame_len: 1,
        ..options()
    };
    let site = Site::on(&disk, options);
    let store = site.store();
    let lease = Arc::new(store.lease());
    let mut writer = store.writer(lease.clone()).unwrap();
    // The second closes the frame of the first.
    let [first, second] = [1, 2].map(|n| VerifiedChunk::hash(noise(n, 100).into()).unwrap());
    for chunk in [&first, &second] {
        lease.add_chunk(chunk.id());
        writer.put(chunk.clone()).unwrap();
    }
    disk.edit(disk.packs()[0], |bytes| bytes[100] ^= 1);
    let id = first.id();
    let read = || store.chunks(&[id]);
    assert!(matches!(read(), Err(Error::Damaged(_))));
    assert_eq!(store.missing(&[id]).unwrap(), [0]);
    writer.put(first.clone()).unwrap();
    writer.commit().unwrap();
    assert_eq!(read().unwrap(), [first]);
}

#[test]
fn a_chunk_that_is_damaged_and_healed_while_its_pack_is_rewritten() {
    let disk = FaultyDisk::default();
    let options = Options {
        memory: 0,
        ..options()
    };
    let mut site = Site::on(&disk, options);
    // Small sealed packs, which a collection merges.
    let ids: Vec<_> = (0..3)
        .map(|n| {
            let id = site.add(noise(n, 20_000));
            site.reopen_after(|_| {});
            id
        })
        .collect();
    let first = disk.packs()[0];
    let image = &site.images[&ids[0]];
    let plan = Collection::begin(site.store())
        .unwrap()
        .plan(ids.clone())
        .unwrap();
    let summary = plan.execute(|done, _| {
        if done == 1 {
            // Copied by now, and the rows not moved yet.
            disk.edit(first, |bytes| bytes[5000] ^= 1);
            assert!(matches!(
                read_all(site.store(), ids[0]),
                Err(Error::Damaged(_))
            ));
            assert_eq!(ingest(site.store(), image).unwrap(), ids[0]);
        }
    });
    assert_eq!(summary.unwrap().packs_compacted, 3);
    site.assert_clean();
}

#[test]
fn an_unreadable_sector_is_reported_and_may_come_back() {
    use crate::support::disk::Plan;
    let (mut site, disk, id) = site(3);
    site.reopen_after(|_| {});
    // Opening the first pack, its header, trailer and footer, and the same for the others; then this.
    disk.plan(13, Plan::Fail(std::io::ErrorKind::Other));
    let report = verified(site.store());
    assert!(!disk.is_planned());
    assert_eq!((report.damaged.len(), report.missing.len()), (1, 0));
    assert!(verified(site.store()).ok());
    heal(&site, id);
}

#[test]
fn a_lying_manifest_is_an_error() {
    use vitrail_proto::manifest::{Manifest, Segment};
    let (site, _, id) = site(1);
    let honest = site.store().manifest(id).unwrap();
    let Segment::Chunk { id: chunk, len } = honest.segments()[0] else {
        panic!("one chunk");
    };
    for lie in [1, len - 1, len + 1, 200_000] {
        let segments = vec![Segment::Chunk {
            id: chunk,
            len: lie,
        }];
        let lying = Manifest::new(
            honest.chunker(),
            *honest.md5(),
            *honest.sha512(),
            honest.format().clone(),
            segments,
        );
        let lease = site.store().lease();
        let id = site.store().put_manifest(&lying.unwrap(), &lease).unwrap();
        let found = read_all(site.store(), id);
        assert!(matches!(found, Err(Error::DamagedManifest { id: named, .. }) if named == id));
    }
    site.assert_intact();
}

#[test]
fn a_damaged_manifest_is_reported_and_stops_collections_until_it_is_healed() {
    use vitrail_chunkstore::db::{Batch, Durability};
    let (site, _, id) = site(1);
    let bytes = site
        .store()
        .db()
        .get("manifests", id.as_bytes())
        .unwrap()
        .unwrap();
    for at in (0..bytes.len()).step_by(5) {
        let mut bad = bytes.clone();
        bad[at] ^= 1;
        let mut batch = Batch::new();
        batch.put("manifests", id.as_bytes(), bad);
        site.store().db().write(batch, Durability::Synced).unwrap();
        let found = read_all(site.store(), id);
        assert!(matches!(found, Err(Error::DamagedManifest { id: named, .. }) if named == id));
        assert_eq!(verified(site.store()).damaged_manifests, [id]);
        let plan = Collection::begin(site.store()).unwrap().plan([id]);
        assert!(
            matches!(plan.err(), Some(Error::DamagedManifest { id: named, .. }) if named == id)
        );
    }
    heal(&site, id);
}
