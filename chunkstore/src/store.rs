//! The store: where every chunk and manifest is, and the rules for adding to it.

use std::collections::{BTreeMap, HashSet};
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use bytes::Bytes;
use parking_lot::Mutex;
use quick_cache::Weighter;
use quick_cache::sync::Cache;
use vitrail_proto::chunk::VerifiedChunk;
use vitrail_proto::codec::{Reader, put_varint};
use vitrail_proto::id::{ChunkId, ManifestId};
use vitrail_proto::manifest::Manifest;

use crate::db::{Batch, DB_MEMORY, Db, Durability};
use crate::directory::claim;
use crate::disk::{Disk, DiskFile, LocalDisk};
use crate::error::{Damage, Error, Result};
use crate::frame::decode;
use crate::lease::{Lease, Leases};
use crate::memory::MemoryBudget;
use crate::pack::{EntryRef, PackId, read_entry};
use crate::rows::{
    CHUNKS, FACTS, Location, MANIFESTS, META, NEXT_PACK, PACKS, PackRow, put_pack_row,
};
use crate::writing::Writing;

/// Pack files open at once.
const OPEN_FILES_MAX: usize = 256;

/// How a store works. The defaults fit a small site.
#[derive(Debug, Clone)]
pub struct Options {
    /// Ceiling in bytes for caches and buffers together, obeyed to within one unit of reading per client.
    /// Default 256 MiB.
    pub memory: u64,
    /// Bytes of packs beyond which nothing is added. Default: no limit but the disk.
    pub capacity: Option<u64>,
    /// Bytes that stay free on the disk for the index and other programs. Default 64 MiB.
    pub reserve: u64,
    /// zstd level of stored frames, 1 to 22. Default 3: 9 saves 5% for four times the time.
    pub zstd_level: i32,
    /// Uncompressed bytes at which a frame is closed. Larger frames compress better; a random read
    /// decodes a whole frame, 1.6 ms per MiB. At most 1 MiB.
    pub frame_len: u32,
    /// Bytes at which a pack is sealed. Default 64 MiB.
    pub pack_len: u64,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            memory: 256 * 1024 * 1024,
            capacity: None,
            reserve: 64 * 1024 * 1024,
            zstd_level: 3,
            frame_len: 512 * 1024,
            pack_len: 64 * 1024 * 1024,
        }
    }
}

/// An open store. Clones are handles to the same one.
#[derive(Clone)]
pub struct Store {
    pub(crate) inner: Arc<Inner>,
}

pub(crate) struct Inner {
    pub(crate) directory: PathBuf,
    pub(crate) disk: Box<dyn Disk>,
    pub(crate) options: Options,
    pub(crate) db: Db,
    pub(crate) leases: Arc<Leases>,
    pub(crate) packs: Mutex<BTreeMap<PackId, PackRow>>,
    pub(crate) writing: Mutex<Writing>,
    pub(crate) commit: Mutex<()>,
    pub(crate) next_pack: AtomicU64,
    files: Cache<PackId, Arc<dyn DiskFile>>,
    frames: Cache<EntryRef, Arc<[VerifiedChunk]>, FrameWeight>,
    manifests: Cache<ManifestId, Arc<Manifest>, ManifestWeight>,
    memory: MemoryBudget,
    /// A sync failed: nobody knows what the disk holds, so nothing is written until it is reopened.
    pub(crate) poisoned: AtomicBool,
    pub(crate) damaged: AtomicU64,
    _lock: File,
}

#[derive(Clone)]
struct FrameWeight;

impl Weighter<EntryRef, Arc<[VerifiedChunk]>> for FrameWeight {
    fn weight(&self, _: &EntryRef, chunks: &Arc<[VerifiedChunk]>) -> u64 {
        chunks.iter().map(|c| u64::from(c.len()) + 100).sum()
    }
}

#[derive(Clone)]
struct ManifestWeight;

impl Weighter<ManifestId, Arc<Manifest>> for ManifestWeight {
    fn weight(&self, _: &ManifestId, manifest: &Arc<Manifest>) -> u64 {
        200 + 40 * manifest.segments().len() as u64
    }
}

impl Store {
    /// Opens the store in `directory`, or makes one if the directory is missing or empty, and repairs
    /// what a crash left. `spaces` are the caller's own spaces in the database.
    pub fn open(directory: &Path, options: Options, spaces: &[&'static str]) -> Result<Self> {
        let packs = directory.join("packs");
        let lock = claim(directory)?;
        let disk = LocalDisk::new(&packs)
            .map_err(|e| Error::io(format!("opening {}", packs.display()), e))?;
        Self::open_on(directory, options, spaces, Box::new(disk), lock)
    }

    /// As [`Store::open`], with the packs on `disk`.
    pub fn open_with_disk(
        directory: &Path,
        options: Options,
        spaces: &[&'static str],
        disk: Box<dyn Disk>,
    ) -> Result<Self> {
        let lock = claim(directory)?;
        Self::open_on(directory, options, spaces, disk, lock)
    }

    fn open_on(
        directory: &Path,
        options: Options,
        spaces: &[&'static str],
        disk: Box<dyn Disk>,
        lock: File,
    ) -> Result<Self> {
        let mut all = vec![CHUNKS, PACKS, MANIFESTS, FACTS, META];
        all.extend(spaces);
        let db = Db::open(&directory.join("index"), &all)?;
        let packs = db
            .rows(PACKS, &[])?
            .map(|row| {
                let (key, value) = row?;
                let key = Reader::new(&key).array("pack row id")?;
                Ok((PackId(u64::from_be_bytes(key)), PackRow::decode(&value)?))
            })
            .collect::<Result<BTreeMap<_, _>>>()?;
        let next_pack = match db.get(META, NEXT_PACK)? {
            Some(bytes) => Reader::new(&bytes).u64("next pack")?,
            None => 1,
        };
        let highest = packs.keys().next_back().map_or(0, |id| id.0 + 1);

        let free = options.memory.saturating_sub(DB_MEMORY);
        let inner = Inner {
            directory: directory.to_owned(),
            disk,
            db,
            leases: Arc::default(),
            packs: Mutex::new(packs),
            writing: Mutex::default(),
            commit: Mutex::new(()),
            next_pack: AtomicU64::new(next_pack.max(highest)),
            files: Cache::new(OPEN_FILES_MAX),
            frames: Cache::with_weighter(1024, free * 3 / 8, FrameWeight),
            manifests: Cache::with_weighter(64, free / 8, ManifestWeight),
            memory: MemoryBudget::new(free / 2),
            poisoned: AtomicBool::new(false),
            damaged: AtomicU64::new(0),
            options,
            _lock: lock,
        };
        let store = Self {
            inner: Arc::new(inner),
        };
        crate::recover::recover(&store)?;
        Ok(store)
    }

    /// The database, for the caller's own spaces.
    pub fn db(&self) -> &Db {
        &self.inner.db
    }

    /// The account of buffers: half of [`Options::memory`] less the index's share.
    pub fn memory(&self) -> &MemoryBudget {
        &self.inner.memory
    }

    /// Begins a lease.
    pub fn lease(&self) -> Lease {
        self.inner.leases.begin()
    }

    /// Which of `ids` the store does not have, by position. A caller that means to use those it has
    /// must hold a lease with them *before* it asks.
    pub fn missing(&self, ids: &[ChunkId]) -> Result<Vec<usize>> {
        let locations = self.locations(ids)?;
        Ok((0..ids.len()).filter(|&i| locations[i].is_none()).collect())
    }

    /// The chunks of `ids` in their order, verified, from as few frames as possible.
    pub fn chunks(&self, ids: &[ChunkId]) -> Result<Vec<VerifiedChunk>> {
        // A pack may be compacted away between the look-up and the read; the second look-up finds the
        // new place. It cannot happen twice in a row except by a collection each time.
        const TRIES: u32 = 3;
        let mut tries = 0;
        loop {
            tries += 1;
            match self.try_chunks(ids) {
                Err(Error::Io { source, .. })
                    if source.kind() == std::io::ErrorKind::NotFound && tries < TRIES => {}
                other => return other,
            }
        }
    }

    fn try_chunks(&self, ids: &[ChunkId]) -> Result<Vec<VerifiedChunk>> {
        let locations = self.locations(ids)?;
        let mut last: Option<(EntryRef, Arc<[VerifiedChunk]>)> = None;
        let mut chunks = Vec::with_capacity(ids.len());
        for (&id, location) in ids.iter().zip(locations) {
            let location = location.ok_or(Error::MissingChunk(id))?;
            let frame = match &last {
                Some((entry, frame)) if *entry == location.entry => frame,
                _ => {
                    &last
                        .insert((location.entry, self.frame(location.entry, id)?))
                        .1
                }
            };
            match frame.get(location.number as usize) {
                Some(chunk) if chunk.id() == id => chunks.push(chunk.clone()),
                _ => {
                    let EntryRef { pack, offset, .. } = location.entry;
                    let reason = format!("chunk {id} is not in the frame that the index names");
                    self.quarantine(id, location.entry)?;
                    return Err(Damage {
                        pack,
                        offset,
                        reason,
                    }
                    .into());
                }
            }
        }
        Ok(chunks)
    }

    /// A decoded frame, from the cache or disk; one reader decodes, others wait for it.
    fn frame(&self, entry: EntryRef, wanted: ChunkId) -> Result<Arc<[VerifiedChunk]>> {
        let result = self
            .inner
            .frames
            .get_or_insert_with(&entry, || self.read_frame(entry).map(Into::into));
        if let Err(Error::Damaged(damage)) = &result {
            tracing::error!(%damage, chunk = %wanted, "quarantined");
            self.quarantine(wanted, entry)?;
        }
        result
    }

    /// Reads, decodes and verifies a frame, past the cache.
    pub(crate) fn read_frame(&self, entry: EntryRef) -> Result<Vec<VerifiedChunk>> {
        let frame = self.read_entry(entry)?;
        decode(&frame).map_err(|error| {
            Damage {
                pack: entry.pack,
                offset: entry.offset,
                reason: error.to_string(),
            }
            .into()
        })
    }

    pub(crate) fn read_entry(&self, entry: EntryRef) -> Result<Bytes> {
        read_entry(&*self.file(entry.pack)?, entry)
    }

    pub(crate) fn file(&self, pack: PackId) -> Result<Arc<dyn DiskFile>> {
        self.inner.files.get_or_insert_with(&pack, || {
            let opened = self.inner.disk.open(&pack.file_name());
            opened.map_err(|e| Error::io(format!("opening pack {pack}"), e))
        })
    }

    /// Takes a chunk out of the index, if it is still where it was found damaged, so that it counts as
    /// missing and can be stored anew.
    fn quarantine(&self, id: ChunkId, entry: EntryRef) -> Result<()> {
        let _commit = self.inner.commit.lock();
        let Some(row) = self.inner.db.get(CHUNKS, id.as_bytes())? else {
            return Ok(());
        };
        let location = Location::decode(&row)?;
        if location.entry == entry {
            self.remove_rows(&[(id, location)])?;
            self.inner.damaged.fetch_add(1, Ordering::Relaxed);
        }
        Ok(())
    }

    /// Deletes rows and takes them off their packs' counts. The caller keeps commits away.
    pub(crate) fn remove_rows(&self, rows: &[(ChunkId, Location)]) -> Result<()> {
        let mut packs = self.inner.packs.lock();
        let mut batch = Batch::new();
        let mut touched = HashSet::new();
        for (id, location) in rows {
            batch.delete(CHUNKS, id.as_bytes());
            if let Some(row) = packs.get_mut(&location.entry.pack) {
                row.remove(location);
                touched.insert(location.entry.pack);
            }
        }
        for id in touched {
            put_pack_row(&mut batch, id, &packs[&id]);
        }
        self.inner.db.write(batch, Durability::Buffered)
    }

    pub(crate) fn commit_lock(&self) -> parking_lot::MutexGuard<'_, ()> {
        self.inner.commit.lock()
    }

    /// Where chunks are, by position.
    pub(crate) fn locations(&self, ids: &[ChunkId]) -> Result<Vec<Option<Location>>> {
        let mut found: Vec<Option<Location>> = {
            let writing = self.inner.writing.lock();
            ids.iter()
                .map(|id| writing.pending.get(id).copied())
                .collect()
        };
        let open: Vec<usize> = (0..ids.len()).filter(|&i| found[i].is_none()).collect();
        let keys = open.iter().map(|&i| ids[i].as_bytes().as_slice());
        for (&i, row) in open.iter().zip(self.inner.db.get_many(CHUNKS, keys)?) {
            found[i] = row.map(|bytes| Location::decode(&bytes)).transpose()?;
        }
        Ok(found)
    }

    /// A manifest.
    pub fn manifest(&self, id: ManifestId) -> Result<Arc<Manifest>> {
        self.inner.manifests.get_or_insert_with(&id, || {
            let bytes = self.inner.db.get(MANIFESTS, id.as_bytes())?;
            let bytes = bytes.ok_or(Error::MissingManifest(id))?;
            Ok(Arc::new(Manifest::decode(&bytes)?))
        })
    }

    /// Stores a manifest, durably. It is collected with its chunks once no root names it; until the caller
    /// has made it a root, `lease` keeps it.
    pub fn put_manifest(&self, manifest: &Manifest, lease: &Lease) -> Result<ManifestId> {
        let bytes = manifest.encode();
        let id = ManifestId::of(&bytes);
        lease.add_manifest(id);
        let mut facts = Vec::new();
        let numbers = [
            manifest.size(),
            manifest.data_size(),
            manifest.segments().len() as u64,
        ];
        numbers.into_iter().for_each(|n| put_varint(&mut facts, n));
        let mut batch = Batch::new();
        batch.put(MANIFESTS, id.as_bytes(), bytes);
        batch.put(FACTS, id.as_bytes(), facts);
        self.inner.db.write(batch, Durability::Synced)?;
        Ok(id)
    }

    pub(crate) fn forget_pack(&self, id: PackId) {
        self.inner.files.remove(&id);
    }

    pub(crate) fn forget_manifest(&self, id: ManifestId) {
        self.inner.manifests.remove(&id);
    }

    pub(crate) fn reserve_pack_ids(&self, next: u64) {
        self.inner.next_pack.fetch_max(next, Ordering::SeqCst);
    }
}
