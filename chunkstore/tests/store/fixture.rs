//! Is a store that version 1 wrote still read?
//!
//! `tests/fixtures/v1` is frozen: a program that cannot read it has another format.

use std::path::Path;

use vitrail_chunkstore::Store;

use crate::support::{
    Site, assert_intact, collect, copy_directory, ingest, options, pack_files, verified,
};

const FIXTURE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/v1");

/// Noise that no update of a crate can change: xorshift64*.
fn noise(mut state: u64, len: usize) -> Vec<u8> {
    let mut out = Vec::with_capacity(len + 8);
    while out.len() < len {
        state ^= state >> 12;
        state ^= state << 25;
        state ^= state >> 27;
        out.extend(state.wrapping_mul(0x2545_f491_4f6c_dd1d).to_le_bytes());
    }
    out.truncate(len);
    out
}

/// Noise of few values, so that it compresses.
fn text(seed: u64, len: usize) -> Vec<u8> {
    noise(seed, len)
        .into_iter()
        .map(|byte| b"vitrail "[usize::from(byte % 8)])
        .collect()
}

/// The images in it: shared runs, a hole, one byte, none.
fn images() -> Vec<Vec<u8>> {
    vec![
        [text(1, 60_000), vec![0; 50_000], noise(2, 20_000)].concat(),
        [text(3, 30_000), vec![0; 40_000], noise(2, 20_000)].concat(),
        vec![7],
        vec![],
    ]
}

#[test]
fn version_1_is_read() {
    let directory = tempfile::tempdir().unwrap();
    copy_directory(Path::new(FIXTURE), directory.path());
    let names = std::fs::read_to_string(Path::new(FIXTURE).join("manifests")).unwrap();
    std::fs::remove_file(directory.path().join("manifests")).unwrap();
    let ids: Vec<_> = names.lines().map(|line| line.parse().unwrap()).collect();
    let images = images();
    assert_eq!(ids.len(), images.len());

    let store = Store::open(directory.path(), options(), &[]).unwrap();
    assert_intact(&store, ids.iter().zip(&images));
    let report = verified(&store);
    assert!(report.ok(), "{report:?}");
    assert_eq!(report.manifests, 4);
    // Sealed packs and one that is not.
    assert_eq!(report.packs, 2);

    // It can be worked with, and still cuts and names as it did.
    let before = store.stats().unwrap().chunks;
    for (id, image) in ids.iter().zip(&images) {
        assert_eq!(ingest(&store, image).unwrap(), *id);
    }
    assert_eq!(store.stats().unwrap().chunks, before);
    collect(&store, ids.iter().copied());
    assert_intact(&store, ids.iter().zip(&images));
    assert!(verified(&store).ok());
}

#[test]
#[ignore = "writes the fixture, which is frozen"]
fn write_version_1() {
    let mut site = Site::new();
    let images = images();
    let first = site.add(images[0].clone());
    site.collect();
    let mut ids = vec![first];
    ids.extend(images[1..].iter().map(|image| site.add(image.clone())));
    assert_eq!(pack_files(site.path()).len(), 2);
    site.close();
    let target = Path::new(FIXTURE);
    assert!(!target.exists(), "it is frozen");
    copy_directory(site.path(), target);
    for entry in std::fs::read_dir(target.join("index")).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap().to_owned();
        // Diaries with paths and dates, which reading needs not.
        if ["LOG", "OPTIONS", "LOCK", "IDENTITY"]
            .iter()
            .any(|n| name.starts_with(n))
        {
            std::fs::remove_file(path).unwrap();
        }
    }
    std::fs::remove_file(target.join("LOCK")).unwrap();
    let names: String = ids.iter().map(|id| format!("{id}\n")).collect();
    std::fs::write(target.join("manifests"), names).unwrap();
}
