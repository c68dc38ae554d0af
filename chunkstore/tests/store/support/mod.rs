//! What the tests share: images with known content, a store with its images beside it, a faulty disk.

pub(crate) mod disk;
pub(crate) mod images;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use self::disk::FaultyDisk;
use tempfile::TempDir;
use vitrail_chunkstore::gc::{Collection, GcSummary};
use vitrail_chunkstore::verify::{VerifyReport, verify};
use vitrail_chunkstore::{ImageReader, Ingest, Options, PackId, Result, Store};
use vitrail_proto::id::{ChunkId, ManifestId};
use vitrail_proto::manifest::FormatFacts;

/// Small packs and frames, so that small images make many of them.
pub(crate) fn options() -> Options {
    Options {
        memory: 96 * 1024 * 1024,
        reserve: 0,
        frame_len: 128 * 1024,
        pack_len: 512 * 1024,
        ..Options::default()
    }
}

pub(crate) fn raw() -> FormatFacts {
    FormatFacts {
        name: "raw".into(),
        virtual_size: None,
    }
}

/// Takes an image in; the ingest's lease ends on return.
pub(crate) fn ingest(store: &Store, image: &[u8]) -> Result<ManifestId> {
    let mut ingest = Ingest::begin(store)?;
    ingest.push(image)?;
    Ok(ingest.finish(raw())?.id)
}

/// The bytes of a range, unit by unit. Units must follow each other without a gap.
pub(crate) fn read(reader: &ImageReader, range: std::ops::Range<u64>) -> Result<Vec<u8>> {
    let mut out = Vec::new();
    let mut at = range.start;
    while let Some(unit) = reader.unit(at..range.end) {
        assert_eq!(unit.range.start, at);
        assert!(unit.range.end > at && unit.range.end <= range.end);
        let before = out.len() as u64;
        for piece in reader.read(&unit)? {
            out.extend_from_slice(&piece);
        }
        assert_eq!(out.len() as u64 - before, unit.range.end - at);
        at = unit.range.end;
    }
    Ok(out)
}

pub(crate) fn read_all(store: &Store, id: ManifestId) -> Result<Vec<u8>> {
    read(&ImageReader::open(store, id)?, 0..u64::MAX)
}

pub(crate) fn verified(store: &Store) -> VerifyReport {
    verify(store, |_| {}).expect("verify runs")
}

pub(crate) fn collect(store: &Store, roots: impl IntoIterator<Item = ManifestId>) -> GcSummary {
    let collection = Collection::begin(store).expect("no other collection");
    let plan = collection.plan(roots).expect("plan");
    plan.execute(|_, _| {}).expect("collection")
}

/// Every image is there, right to the last byte.
pub(crate) fn assert_intact<'a>(
    store: &Store,
    images: impl IntoIterator<Item = (&'a ManifestId, &'a Vec<u8>)>,
) {
    for (id, image) in images {
        let found = read_all(store, *id).expect("an acknowledged image");
        assert!(found == *image, "wrong bytes in {id}");
    }
}

/// After a collection with these roots and no writers, nothing but what they need is left.
pub(crate) fn assert_no_orphans(store: &Store, roots: &BTreeSet<ManifestId>) {
    let stats = store.stats().expect("stats");
    let needed: BTreeSet<ChunkId> = roots
        .iter()
        .flat_map(|id| {
            store
                .manifest(*id)
                .expect("a root")
                .chunks()
                .collect::<Vec<_>>()
        })
        .map(|(id, _)| id)
        .collect();
    assert_eq!(stats.manifests, roots.len() as u64);
    assert_eq!(stats.chunks, needed.len() as u64);
    assert_eq!(stats.packs == 0, needed.is_empty());
}

/// A store in a directory of its own, and what should be in it.
pub(crate) struct Site {
    pub(crate) directory: TempDir,
    pub(crate) options: Options,
    pub(crate) images: BTreeMap<ManifestId, Vec<u8>>,
    disk: Option<FaultyDisk>,
    store: Option<Store>,
}

impl Site {
    pub(crate) fn new() -> Self {
        Self::with(options())
    }

    pub(crate) fn with(options: Options) -> Self {
        Self::make(options, None)
    }

    /// With the packs on `disk`.
    pub(crate) fn on(disk: &FaultyDisk, options: Options) -> Self {
        Self::make(options, Some(disk.clone()))
    }

    fn make(options: Options, disk: Option<FaultyDisk>) -> Self {
        let mut site = Self {
            directory: tempfile::tempdir().expect("a temporary directory"),
            options,
            images: BTreeMap::new(),
            disk,
            store: None,
        };
        site.open();
        site
    }

    pub(crate) fn path(&self) -> &Path {
        self.directory.path()
    }

    pub(crate) fn store(&self) -> &Store {
        self.store.as_ref().expect("open")
    }

    pub(crate) fn roots(&self) -> BTreeSet<ManifestId> {
        self.images.keys().copied().collect()
    }

    /// Takes an image in and makes it a root.
    pub(crate) fn add(&mut self, image: Vec<u8>) -> ManifestId {
        let id = ingest(self.store(), &image).expect("ingest");
        self.images.insert(id, image);
        id
    }

    pub(crate) fn collect(&self) -> GcSummary {
        collect(self.store(), self.roots())
    }

    /// Closes the store, lets `change` have its directory, and opens it again.
    pub(crate) fn reopen_after(&mut self, change: impl FnOnce(&Path)) {
        self.close();
        change(self.directory.path());
        self.open();
    }

    pub(crate) fn close(&mut self) {
        self.store = None;
    }

    pub(crate) fn open(&mut self) {
        self.store = Some(self.try_open().expect("the store opens"));
    }

    pub(crate) fn try_open(&self) -> Result<Store> {
        let (path, options) = (self.directory.path(), self.options.clone());
        match self.disk.clone() {
            None => Store::open(path, options, &[]),
            Some(disk) => Store::open_with_disk(path, options, &[], Box::new(disk)),
        }
    }

    pub(crate) fn assert_intact(&self) {
        assert_intact(self.store(), &self.images);
    }

    /// Collects, and checks that what is left is right and nothing else.
    pub(crate) fn assert_clean(&self) {
        self.assert_intact();
        self.collect();
        assert_no_orphans(self.store(), &self.roots());
        self.assert_intact();
        let report = verified(self.store());
        assert!(
            report.ok(),
            "{:?}, {} missing",
            report.damaged.first(),
            report.missing.len()
        );
        let files = match &self.disk {
            None => pack_files(self.path()).len(),
            Some(disk) => disk.packs().len(),
        };
        assert_eq!(files as u64, self.store().stats().expect("stats").packs);
    }
}

/// The pack files of a data directory, by pack.
pub(crate) fn pack_files(directory: &Path) -> BTreeMap<PackId, std::path::PathBuf> {
    let entries = std::fs::read_dir(directory.join("packs")).expect("a packs directory");
    entries
        .map(|entry| entry.expect("an entry").path())
        .map(|path| {
            let name = path.file_name().expect("a name").to_str().expect("UTF-8");
            (PackId::from_file_name(name).expect("only packs"), path)
        })
        .collect()
}

pub(crate) fn copy_directory(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).expect("a directory");
    for entry in std::fs::read_dir(from).expect("a directory") {
        let entry = entry.expect("an entry");
        let target = to.join(entry.file_name());
        if entry.file_type().expect("a type").is_dir() {
            copy_directory(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), target).expect("a copy");
        }
    }
}
