//! What is rebuilt when the index has lost its last writes, or everything?

use std::path::Path;

use vitrail_chunkstore::{Error, Options, Store};
use vitrail_proto::id::ChunkId;

use crate::support::images::{Run, image, noise, text};
use crate::support::{Site, copy_directory, ingest, options, pack_files, read_all, verified};

fn replace_index(path: &Path, saved: &Path) {
    std::fs::remove_dir_all(path.join("index")).unwrap();
    copy_directory(saved, &path.join("index"));
}

fn chunks_of(store: &Store, image: &[u8]) -> Vec<ChunkId> {
    let id = ingest(store, image).unwrap();
    let manifest = store.manifest(id).unwrap();
    manifest.chunks().map(|(id, _)| id).collect()
}

/// Sealed packs and an open one, more with each call.
fn grow(site: &mut Site, round: u64) {
    let runs = [
        Run::Text(round, 700_000),
        Run::Zeros(50_000),
        Run::Noise(round, 400_000),
    ];
    site.add(image(&runs));
}

#[test]
fn an_index_that_lost_its_last_writes() {
    let mut site = Site::new();
    let saved = tempfile::tempdir().unwrap();
    for round in 0..6 {
        grow(&mut site, round);
        site.close();
        copy_directory(
            &site.path().join("index"),
            &saved.path().join(round.to_string()),
        );
        site.open();
    }
    let ids: Vec<_> = (0..6)
        .map(|round| {
            image(&[
                Run::Text(round, 700_000),
                Run::Zeros(50_000),
                Run::Noise(round, 400_000),
            ])
        })
        .map(|bytes| (chunks_of(site.store(), &bytes), bytes))
        .collect();
    // Backwards, since each opening writes the index anew.
    for round in (0..6).rev() {
        let saved = saved.path().join(round.to_string());
        site.reopen_after(|path| replace_index(path, &saved));
        // All chunks are back; the manifests that were not in this index are not.
        for (round_of_image, (chunks, bytes)) in ids.iter().enumerate() {
            assert_eq!(site.store().missing(chunks).unwrap(), Vec::<usize>::new());
            let found = site.store().chunks(chunks).unwrap();
            assert!(
                found
                    .iter()
                    .zip(chunks)
                    .all(|(chunk, id)| chunk.id() == *id)
            );
            let manifest = site
                .images
                .iter()
                .find(|(_, image)| *image == bytes)
                .unwrap()
                .0;
            match read_all(site.store(), *manifest) {
                Ok(found) => assert!(found == *bytes),
                Err(Error::MissingManifest(_)) => assert!(round_of_image as u64 > round),
                Err(other) => panic!("{other}"),
            }
        }
        assert!(verified(site.store()).ok());
    }
}

#[test]
fn an_index_from_before_a_collection() {
    let mut site = Site::new();
    grow(&mut site, 1);
    let gone = site.add(noise(7, 1_500_000));
    site.close();
    let saved = tempfile::tempdir().unwrap();
    copy_directory(&site.path().join("index"), saved.path());
    site.open();
    site.images.remove(&gone);
    assert!(site.collect().packs_removed > 0);
    grow(&mut site, 2);
    let added_later: Vec<_> = site.images.clone().into_iter().collect();

    site.reopen_after(|path| replace_index(path, saved.path()));
    // The old index names packs that are gone and places that have moved.
    assert!(matches!(
        read_all(site.store(), gone),
        Err(Error::MissingChunk(_))
    ));
    for (_, image) in added_later {
        let before = site.store().stats().unwrap().unique_bytes;
        ingest(site.store(), &image).unwrap();
        assert_eq!(site.store().stats().unwrap().unique_bytes, before);
    }
    site.assert_clean();
}

#[test]
fn an_index_that_is_gone() {
    let mut site = Site::new();
    (0..3).for_each(|round| grow(&mut site, round));
    let packs = pack_files(site.path()).len();
    let unique = site.store().stats().unwrap().unique_bytes;
    site.reopen_after(|path| std::fs::remove_dir_all(path.join("index")).unwrap());
    let stats = site.store().stats().unwrap();
    assert_eq!((stats.packs, stats.unique_bytes), (packs as u64, unique));
    assert_eq!(stats.manifests, 0);
    // Storing the images again stores their manifests only.
    for (id, image) in &site.images {
        assert_eq!(ingest(site.store(), image).unwrap(), *id);
    }
    assert_eq!(site.store().stats().unwrap().unique_bytes, unique);
    site.assert_clean();
}

#[test]
fn a_healed_chunk_stays_healed_when_the_index_is_lost() {
    let mut site = Site::with(Options {
        memory: 0,
        pack_len: 1,
        ..options()
    });
    let id = site.add(noise(1, 5000));
    let file = pack_files(site.path()).into_values().next().unwrap();
    let mut bytes = std::fs::read(&file).unwrap();
    bytes[1000] ^= 1;
    std::fs::write(&file, bytes).unwrap();
    assert!(matches!(read_all(site.store(), id), Err(Error::Damaged(_))));
    let image = site.images[&id].clone();
    ingest(site.store(), &image).unwrap();
    // Both packs are there still; the old one's footer names the chunk, too.
    assert_eq!(pack_files(site.path()).len(), 2);
    site.reopen_after(|path| std::fs::remove_dir_all(path.join("index")).unwrap());
    ingest(site.store(), &image).unwrap();
    site.assert_clean();
}

/// The write-ahead log of the index cut off at some places: what a power cut can do to a log.
#[test]
fn an_index_whose_log_is_cut_off() {
    let mut site = Site::new();
    grow(&mut site, 1);
    let first = site.images.clone();
    site.close();
    let log = |path: &Path| {
        let files = std::fs::read_dir(path.join("index")).unwrap();
        let mut logs: Vec<_> = files
            .map(|file| file.unwrap().path())
            .filter(|path| path.extension().is_some_and(|e| e == "log"))
            .collect();
        logs.sort();
        logs.pop().expect("a log")
    };
    site.open();
    let kept = std::fs::metadata(log(site.path())).unwrap().len();
    grow(&mut site, 2);
    site.close();
    let saved = tempfile::tempdir().unwrap();
    copy_directory(site.path(), saved.path());
    let len = std::fs::metadata(log(saved.path())).unwrap().len();
    assert!(len > kept);
    for cut in (kept..len).step_by(((len - kept) / 12) as usize) {
        let copy = tempfile::tempdir().unwrap();
        copy_directory(saved.path(), copy.path());
        let file = std::fs::OpenOptions::new()
            .write(true)
            .open(log(copy.path()))
            .unwrap();
        file.set_len(cut).unwrap();
        let store = Store::open(copy.path(), options(), &[]).unwrap();
        crate::support::assert_intact(&store, &first);
        for image in site.images.values() {
            let before = store.stats().unwrap().unique_bytes;
            ingest(&store, image).unwrap();
            assert_eq!(
                store.stats().unwrap().unique_bytes,
                before,
                "cut at {cut} of {len}"
            );
        }
        assert!(verified(&store).ok());
    }
}

/// What a crash leaves behind what is committed: a part of an entry, of a footer, or anything.
#[test]
fn bytes_behind_a_pack_are_cut_off() {
    let mut site = Site::new();
    grow(&mut site, 1);
    site.collect();
    site.add(noise(3, 50_000));
    let files = pack_files(site.path());
    let sealed = files.values().next().unwrap().clone();
    let open = files.values().next_back().unwrap().clone();
    let good = std::fs::read(&sealed).unwrap();
    let entry = good[32..5000].to_vec();
    let trailer = good.len() - 16;
    let footer = u64::from_le_bytes(good[trailer..trailer + 8].try_into().unwrap()) as usize;
    let footer = good[footer..footer + 60].to_vec();
    for tail in [vec![0; 100], vec![7; 5], entry, footer] {
        for file in [&sealed, &open] {
            let before = std::fs::read(file).unwrap();
            site.reopen_after(|_| std::fs::write(file, [&before[..], &tail].concat()).unwrap());
            let after = std::fs::read(file).unwrap();
            assert!(after == before, "{} then {}", before.len(), after.len());
            site.assert_intact();
        }
    }
    site.assert_clean();
}

/// An unsealed pack whose index is lost, with a byte flipped: what is behind the place is found too.
#[test]
fn a_damaged_pack_without_an_index() {
    let mut site = Site::with(Options {
        pack_len: 64 << 20,
        ..options()
    });
    site.add(text(1, 900_000));
    let stats = site.store().stats().unwrap();
    let file = pack_files(site.path()).into_values().next().unwrap();
    for at in [8, 37, 100_000] {
        site.close();
        std::fs::remove_dir_all(site.path().join("index")).unwrap();
        let good = std::fs::read(&file).unwrap();
        let mut bad = good.clone();
        bad[at] ^= 1;
        std::fs::write(&file, bad).unwrap();
        site.open();
        let found = site.store().stats().unwrap().unique_bytes;
        let frame = u64::from(site.options.frame_len);
        if at == 37 {
            // In the length of the first entry: nothing tells where the next one is.
            assert_eq!(found, 0);
        } else {
            assert!(
                found + frame >= stats.unique_bytes,
                "{found} of {}",
                stats.unique_bytes
            );
        }
        site.close();
        std::fs::write(&file, good).unwrap();
        site.open();
    }
}
