//! Which directories are opened, and what is left of those that are not?

use std::collections::BTreeMap;
use std::path::Path;

use vitrail_chunkstore::{Error, FORMAT_VERSION, Store};

use crate::support::{Site, options};

fn open(path: &Path) -> Result<Store, Error> {
    Store::open(path, options(), &[])
}

/// Every file with its content.
fn listing(path: &Path) -> BTreeMap<String, Vec<u8>> {
    let entries = std::fs::read_dir(path).unwrap();
    entries
        .map(|entry| entry.unwrap())
        .map(|entry| {
            let content = std::fs::read(entry.path()).unwrap_or_default();
            (entry.file_name().into_string().unwrap(), content)
        })
        .collect()
}

#[test]
fn a_missing_directory_and_an_empty_one_become_stores() {
    let directory = tempfile::tempdir().unwrap();
    for path in [directory.path().join("a/b"), directory.path().join("c")] {
        if path.ends_with("c") {
            std::fs::create_dir(&path).unwrap();
            std::fs::create_dir(path.join("lost+found")).unwrap();
        }
        let store = open(&path).unwrap();
        assert_eq!(store.stats().unwrap().format, FORMAT_VERSION);
        let format = std::fs::read_to_string(path.join("FORMAT")).unwrap();
        assert_eq!(format, "vitrail-store 1\n");
    }
}

#[test]
fn a_store_of_another_version_is_refused_and_left_alone() {
    for (format, words) in [
        ("vitrail-store 2\n", "has format 2; this program knows 1"),
        ("vitrail-store 01x", "not one of a store"),
        ("vitrail-store", "not one of a store"),
        ("something else", "not one of a store"),
        ("", "not one of a store"),
    ] {
        let mut site = Site::new();
        site.add(vec![1, 2, 3]);
        site.close();
        std::fs::write(site.path().join("FORMAT"), format).unwrap();
        let before = listing(site.path());
        let error = open(site.path()).err().expect("refused");
        assert!(matches!(error, Error::Unsupported { .. }), "{error}");
        assert!(error.to_string().contains(words), "{error}");
        assert_eq!(listing(site.path()), before);
        // Nothing was harmed.
        std::fs::write(site.path().join("FORMAT"), "vitrail-store 1\n").unwrap();
        site.open();
        site.assert_clean();
    }
}

#[test]
fn a_foreign_directory_is_refused_and_left_alone() {
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join("holiday.jpg"), "sea").unwrap();
    let before = listing(directory.path());
    let error = open(directory.path()).err().expect("refused");
    assert!(matches!(error, Error::Unsupported { .. }), "{error}");
    assert!(error.to_string().contains("holiday.jpg"), "{error}");
    assert_eq!(listing(directory.path()), before);
}

#[test]
fn what_an_interrupted_first_open_leaves_is_no_obstacle() {
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join("LOCK"), "").unwrap();
    std::fs::write(directory.path().join("FORMAT.new"), "vitrail-st").unwrap();
    drop(open(directory.path()).unwrap());
    open(directory.path()).unwrap();
}

#[test]
fn a_store_is_open_once() {
    let mut site = Site::new();
    let error = open(site.path()).err().expect("refused");
    assert!(matches!(error, Error::Locked(_)), "{error}");
    // A handle is enough to keep it.
    let handle = site.store().clone();
    site.close();
    assert!(matches!(open(site.path()), Err(Error::Locked(_))));
    drop(handle);
    open(site.path()).unwrap();
}

#[test]
fn a_callers_spaces_stay_when_another_does_not_name_them() {
    use vitrail_chunkstore::db::{Batch, Durability};
    let directory = tempfile::tempdir().unwrap();
    let store = Store::open(directory.path(), options(), &["images"]).unwrap();
    let mut batch = Batch::new();
    batch.put("images", b"key", b"value".to_vec());
    store.db().write(batch, Durability::Synced).unwrap();
    drop(store);
    let store = open(directory.path()).unwrap();
    assert!(store.db().get("pets", b"key").is_err());
    drop(store);
    let store = Store::open(directory.path(), options(), &["images"]).unwrap();
    assert_eq!(
        store.db().get("images", b"key").unwrap().as_deref(),
        Some(&b"value"[..])
    );
}

#[test]
fn strangers_among_the_packs_are_left_alone() {
    let mut site = Site::new();
    site.add(vec![9; 100_000]);
    let stranger = site.path().join("packs/notes.txt");
    site.reopen_after(|path| std::fs::write(path.join("packs/notes.txt"), "hello").unwrap());
    site.assert_intact();
    site.collect();
    assert_eq!(std::fs::read_to_string(stranger).unwrap(), "hello");
}
