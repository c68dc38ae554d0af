//! The store: where every chunk and manifest is, and the rules for adding to it.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use bytes::Bytes;
use parking_lot::Mutex;
use quick_cache::Weighter;
use quick_cache::sync::Cache;
use vitrail_proto::chunk::VerifiedChunk;
use vitrail_proto::codec::{DecodeError, Reader, put_varint};
use vitrail_proto::id::{ChunkId, ManifestId};
use vitrail_proto::manifest::Manifest;

use crate::db::{Batch, DB_MEMORY, Db, Durability};
use crate::disk::{Disk, DiskFile, LocalDisk};
use crate::error::{Damage, Error, Result};
use crate::frame::{EncodedFrame, Encoder, decode};
use crate::lease::{Lease, Leases};
use crate::memory::MemoryBudget;
use crate::pack::{EntryRef, PackId, PackWriter, read_entry};

pub(crate) const CHUNKS: &str = "chunks";
pub(crate) const PACKS: &str = "packs";
pub(crate) const MANIFESTS: &str = "manifests";
pub(crate) const FACTS: &str = "manifest-facts";
const META: &str = "meta";
const NEXT_PACK: &[u8] = b"next-pack";

const FORMAT_FILE: &str = "FORMAT";
const FORMAT_PREFIX: &str = "vitrail-store ";
/// Version of the layout that this program reads and writes.
pub const FORMAT_VERSION: u32 = 1;

/// Pack files open at once.
const OPEN_FILES_MAX: usize = 256;
/// Appended bytes after which a writer commits by itself; what a crash of the machine can cost of an
/// unfinished transfer.
const COMMIT_INTERVAL: u64 = 64 * 1024 * 1024;

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
    commit: Mutex<()>,
    next_pack: AtomicU64,
    files: Cache<PackId, Arc<dyn DiskFile>>,
    frames: Cache<EntryRef, Arc<[VerifiedChunk]>, FrameWeight>,
    manifests: Cache<ManifestId, Arc<Manifest>, ManifestWeight>,
    memory: MemoryBudget,
    /// A sync failed: nobody knows what the disk holds, so nothing is written until it is reopened.
    poisoned: AtomicBool,
    damaged: AtomicU64,
    _lock: File,
}

/// What writers have done since the last commit, and the packs they have open.
#[derive(Default)]
pub(crate) struct Writing {
    pending: HashMap<ChunkId, Location>,
    dirty: BTreeMap<PackId, Dirty>,
    idle: Vec<PackWriter>,
    pub(crate) in_use: HashSet<PackId>,
}

struct Dirty {
    file: Arc<dyn DiskFile>,
    len: u64,
}

/// Where a chunk is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Location {
    pub(crate) entry: EntryRef,
    /// Its number in the frame.
    pub(crate) number: u32,
    pub(crate) raw_len: u32,
}

/// What the index knows of a pack.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct PackRow {
    /// Bytes that are durable.
    pub(crate) len: u64,
    pub(crate) sealed: bool,
    /// Chunks whose row points here.
    pub(crate) chunks: u64,
    /// Their uncompressed bytes.
    pub(crate) raw_bytes: u64,
    /// Uncompressed bytes of everything ever written here; the share of it that still has rows tells
    /// whether the pack is worth rewriting.
    pub(crate) raw_written: u64,
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

impl Location {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(16);
        let numbers = [
            self.entry.pack.0,
            self.entry.offset,
            self.entry.len.into(),
            self.number.into(),
            self.raw_len.into(),
        ];
        numbers.into_iter().for_each(|n| put_varint(&mut out, n));
        out
    }

    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(bytes);
        let pack = PackId(reader.varint(u64::MAX, "chunk row pack")?);
        let offset = reader.varint(u64::MAX, "chunk row offset")?;
        let mut small = |what| reader.varint(u32::MAX.into(), what).map(|n| n as u32);
        let len = small("chunk row length")?;
        let number = small("chunk row number")?;
        let raw_len = small("chunk row raw length")?;
        reader.finish("chunk row")?;
        Ok(Self {
            entry: EntryRef { pack, offset, len },
            number,
            raw_len,
        })
    }
}

impl PackRow {
    fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(16);
        let numbers = [
            self.len,
            self.sealed.into(),
            self.chunks,
            self.raw_bytes,
            self.raw_written,
        ];
        numbers.into_iter().for_each(|n| put_varint(&mut out, n));
        out
    }

    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(bytes);
        let row = Self {
            len: reader.varint(u64::MAX, "pack row length")?,
            sealed: reader.varint(1, "pack row seal")? == 1,
            chunks: reader.varint(u64::MAX, "pack row chunks")?,
            raw_bytes: reader.varint(u64::MAX, "pack row bytes")?,
            raw_written: reader.varint(u64::MAX, "pack row bytes written")?,
        };
        reader.finish("pack row")?;
        Ok(row)
    }

    /// Counts a chunk that was written here; `row` tells whether its row points here.
    pub(crate) fn add(&mut self, location: &Location, row: bool) {
        let len = u64::from(location.raw_len);
        self.raw_written += len;
        if row {
            self.chunks += 1;
            self.raw_bytes += len;
        }
    }

    pub(crate) fn remove(&mut self, location: &Location) {
        self.chunks = self.chunks.saturating_sub(1);
        self.raw_bytes = self.raw_bytes.saturating_sub(location.raw_len.into());
    }
}

/// Puts a pack's row into a batch.
pub(crate) fn put_pack_row(batch: &mut Batch, id: PackId, row: &PackRow) {
    batch.put(PACKS, &id.0.to_be_bytes(), row.encode());
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

    /// Begins adding chunks under `lease`.
    pub fn writer(&self, lease: Arc<Lease>) -> Result<Writer> {
        let encoder = Encoder::new(self.inner.options.zstd_level)
            .map_err(|e| Error::io("making a zstd encoder", e))?;
        Ok(Writer {
            store: self.clone(),
            encoder,
            pack: None,
            frame: Vec::new(),
            frame_len: 0,
            uncommitted: 0,
            stored: 0,
            _lease: lease,
        })
    }

    /// Makes every chunk put so far durable and visible after a crash.
    pub fn commit(&self) -> Result<()> {
        let _commit = self.inner.commit.lock();
        let (pending, dirty) = {
            let mut writing = self.inner.writing.lock();
            let pending: Vec<_> = writing.pending.iter().map(|(id, at)| (*id, *at)).collect();
            (pending, std::mem::take(&mut writing.dirty))
        };
        if dirty.is_empty() && pending.is_empty() {
            return Ok(());
        }
        self.check_poisoned()?;
        for (id, dirty) in &dirty {
            if let Err(error) = dirty.file.sync() {
                self.inner.poisoned.store(true, Ordering::SeqCst);
                return Err(Error::io(format!("syncing pack {id}"), error));
            }
        }
        let keys = pending.iter().map(|(id, _)| id.as_bytes().as_slice());
        let existing = self.inner.db.get_many(CHUNKS, keys)?;

        let mut packs = self.inner.packs.lock();
        let mut rows = BTreeMap::new();
        for (id, dirty) in &dirty {
            let row = PackRow {
                len: dirty.len,
                ..packs.get(id).copied().unwrap_or_default()
            };
            rows.insert(*id, row);
        }
        let mut batch = Batch::new();
        for ((id, location), existing) in pending.iter().zip(existing) {
            // Two writers may have stored a chunk at the same time; the first row stays.
            if existing.is_none() {
                batch.put(CHUNKS, id.as_bytes(), location.encode());
            }
            let pack = location.entry.pack;
            rows.entry(pack)
                .or_insert_with(|| packs.get(&pack).copied().unwrap_or_default())
                .add(location, existing.is_none());
        }
        for (id, row) in &rows {
            put_pack_row(&mut batch, *id, row);
        }
        if let Err(error) = self.inner.db.write(batch, Durability::Synced) {
            // The chunks stay pending and the packs dirty: the next commit tries again.
            let mut writing = self.inner.writing.lock();
            for (id, old) in dirty {
                writing.dirty.entry(id).or_insert(old);
            }
            return Err(error);
        }
        packs.extend(rows);
        drop(packs);
        let mut writing = self.inner.writing.lock();
        for (id, location) in &pending {
            if writing.pending.get(id) == Some(location) {
                writing.pending.remove(id);
            }
        }
        Ok(())
    }

    fn check_poisoned(&self) -> Result<()> {
        if self.inner.poisoned.load(Ordering::SeqCst) {
            return Err(Error::Index(
                "an earlier sync failed; nothing is written until the daemon is restarted".into(),
            ));
        }
        Ok(())
    }

    /// Fails if `len` more bytes would exceed the capacity or the disk's reserve.
    fn check_room(&self, len: u64) -> Result<()> {
        if let Some(capacity) = self.inner.options.capacity {
            let used: u64 = self.inner.packs.lock().values().map(|row| row.len).sum();
            if used + len > capacity {
                return Err(Error::Full(format!(
                    "{used} bytes of its capacity of {capacity} are used"
                )));
            }
        }
        let free = self
            .inner
            .disk
            .free_bytes()
            .map_err(|e| Error::io("asking for free space", e))?;
        let reserve = self.inner.options.reserve;
        if free < reserve + len {
            return Err(Error::Full(format!(
                "the disk has {free} bytes free, of which {reserve} are reserved"
            )));
        }
        Ok(())
    }

    /// A pack to append to: one that another writer left, or a new one.
    pub(crate) fn take_pack(&self) -> Result<PackWriter> {
        let mut writing = self.inner.writing.lock();
        let pack = match writing.idle.pop() {
            Some(pack) => pack,
            None => self.new_pack()?,
        };
        writing.in_use.insert(pack.id());
        Ok(pack)
    }

    fn new_pack(&self) -> Result<PackWriter> {
        let id = PackId(self.inner.next_pack.fetch_add(1, Ordering::SeqCst));
        let mut batch = Batch::new();
        batch.put(META, NEXT_PACK, (id.0 + 1).to_le_bytes().to_vec());
        self.inner.db.write(batch, Durability::Buffered)?;
        PackWriter::create(&*self.inner.disk, id)
    }

    pub(crate) fn return_pack(&self, pack: PackWriter) {
        let mut writing = self.inner.writing.lock();
        writing.in_use.remove(&pack.id());
        if !pack.failed() {
            writing.idle.push(pack);
        }
    }

    pub(crate) fn take_idle_packs(&self) -> Vec<PackWriter> {
        let mut writing = self.inner.writing.lock();
        let idle = std::mem::take(&mut writing.idle);
        writing.in_use.extend(idle.iter().map(PackWriter::id));
        idle
    }

    /// Appends a frame and makes its chunks readable here; chunks that are pending already stay where they
    /// are.
    pub(crate) fn append(&self, pack: &mut PackWriter, frame: &EncodedFrame) -> Result<()> {
        self.check_poisoned()?;
        let entry = pack.append(&frame.head, &frame.bytes)?;
        let mut writing = self.inner.writing.lock();
        writing.dirty.insert(
            pack.id(),
            Dirty {
                file: pack.file().clone(),
                len: pack.len(),
            },
        );
        for (number, chunk) in frame.head.chunks.iter().enumerate() {
            let location = Location {
                entry,
                number: number as u32,
                raw_len: chunk.len,
            };
            writing.pending.entry(chunk.id).or_insert(location);
        }
        Ok(())
    }

    /// Commits, then closes a pack for good.
    pub(crate) fn seal(&self, mut pack: PackWriter) -> Result<()> {
        self.commit()?;
        let sealed = pack.seal();
        self.inner.writing.lock().in_use.remove(&pack.id());
        sealed?;
        let _commit = self.inner.commit.lock();
        let mut packs = self.inner.packs.lock();
        let row = packs.entry(pack.id()).or_default();
        row.len = pack.len();
        row.sealed = true;
        let mut batch = Batch::new();
        put_pack_row(&mut batch, pack.id(), row);
        self.inner.db.write(batch, Durability::Buffered)
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

    /// What the store holds. Cost: one row per manifest.
    pub fn stats(&self) -> Result<Stats> {
        let mut stats = Stats {
            format: FORMAT_VERSION,
            capacity_bytes: self.inner.options.capacity,
            damaged_chunks: self.inner.damaged.load(Ordering::Relaxed),
            ..Stats::default()
        };
        for row in self.inner.db.rows(FACTS, &[])? {
            let (_, value) = row?;
            let mut reader = Reader::new(&value);
            stats.manifests += 1;
            stats.logical_bytes += reader.varint(u64::MAX, "manifest facts size")?;
            stats.data_bytes += reader.varint(u64::MAX, "manifest facts data size")?;
        }
        for row in self.inner.packs.lock().values() {
            stats.packs += 1;
            stats.chunks += row.chunks;
            stats.unique_bytes += row.raw_bytes;
        }
        let files = self
            .inner
            .disk
            .list()
            .map_err(|e| Error::io("listing packs", e))?;
        stats.pack_bytes = files.iter().map(|(_, len)| len).sum();
        let index = self.inner.directory.join("index");
        let files = std::fs::read_dir(&index)
            .map_err(|e| Error::io(format!("listing {}", index.display()), e))?;
        // Files of the index come and go while we look.
        stats.index_bytes = files
            .flatten()
            .flat_map(|f| f.metadata())
            .map(|m| m.len())
            .sum();
        stats.free_bytes = self
            .inner
            .disk
            .free_bytes()
            .map_err(|e| Error::io("asking for free space", e))?;
        Ok(stats)
    }
}

/// What a store holds, in bytes and counts.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Stats {
    /// Version of the layout on disk.
    pub format: u32,
    /// Manifests, that is distinct images.
    pub manifests: u64,
    /// Distinct chunks.
    pub chunks: u64,
    /// Pack files.
    pub packs: u64,
    /// Sum of the sizes of all manifests.
    pub logical_bytes: u64,
    /// The same without holes.
    pub data_bytes: u64,
    /// Uncompressed bytes of the distinct chunks.
    pub unique_bytes: u64,
    /// Bytes of pack files on disk.
    pub pack_bytes: u64,
    /// Bytes of index files on disk.
    pub index_bytes: u64,
    /// The configured limit of pack bytes.
    pub capacity_bytes: Option<u64>,
    /// Bytes free on the disk.
    pub free_bytes: u64,
    /// Chunks found damaged and taken out of the index since the store was opened.
    pub damaged_chunks: u64,
}

/// Adds chunks to a store. One thread; several writers may work side by side, each on a pack of its own.
pub struct Writer {
    store: Store,
    encoder: Encoder,
    pack: Option<PackWriter>,
    frame: Vec<VerifiedChunk>,
    frame_len: u32,
    uncommitted: u64,
    stored: u64,
    _lease: Arc<Lease>,
}

impl Writer {
    /// Adds a chunk that the lease names and the store was found to miss. It is readable after the frame
    /// it is in is full, or after [`Writer::commit`], and durable after a commit.
    pub fn put(&mut self, chunk: VerifiedChunk) -> Result<()> {
        if self.frame_len + chunk.len() > self.store.inner.options.frame_len {
            self.close_frame()?;
        }
        self.frame_len += chunk.len();
        self.frame.push(chunk);
        Ok(())
    }

    /// Makes everything put so far durable.
    pub fn commit(&mut self) -> Result<()> {
        self.close_frame()?;
        self.uncommitted = 0;
        self.store.commit()
    }

    /// Bytes appended to packs by this writer.
    pub fn stored_bytes(&self) -> u64 {
        self.stored
    }

    fn close_frame(&mut self) -> Result<()> {
        if self.frame.is_empty() {
            return Ok(());
        }
        let frame = self
            .encoder
            .encode(&self.frame)
            .map_err(|e| Error::io("encoding a frame", e))?;
        self.frame.clear();
        self.frame_len = 0;
        self.append(&frame)
    }

    fn append(&mut self, frame: &EncodedFrame) -> Result<()> {
        let len = frame.bytes.len() as u64;
        self.store.check_room(len)?;
        let pack = match &mut self.pack {
            Some(pack) => pack,
            None => self.pack.insert(self.store.take_pack()?),
        };
        self.store.append(pack, frame)?;
        self.stored += len;
        self.uncommitted += len;
        if pack.len() >= self.store.inner.options.pack_len {
            if let Some(pack) = self.pack.take() {
                self.store.seal(pack)?;
            }
            self.uncommitted = 0;
        } else if self.uncommitted >= COMMIT_INTERVAL {
            self.store.commit()?;
            self.uncommitted = 0;
        }
        Ok(())
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        if let Some(pack) = self.pack.take() {
            self.store.return_pack(pack);
        }
    }
}

/// Takes the directory for this process and checks or writes its format.
fn claim(directory: &Path) -> Result<File> {
    let io = |what: &str| {
        let what = format!("{what} {}", directory.display());
        move |e| Error::io(what, e)
    };
    std::fs::create_dir_all(directory).map_err(io("making"))?;
    let lock = File::create(directory.join("LOCK")).map_err(io("locking"))?;
    match rustix::fs::flock(&lock, rustix::fs::FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => {}
        Err(rustix::io::Errno::WOULDBLOCK) => return Err(Error::Locked(directory.to_owned())),
        Err(error) => return Err(io("locking")(error.into())),
    }
    let unsupported = |why: String| Error::Unsupported {
        path: directory.to_owned(),
        why,
    };
    let format = directory.join(FORMAT_FILE);
    match std::fs::read_to_string(&format) {
        Ok(text) => {
            let version = text.trim_end().strip_prefix(FORMAT_PREFIX);
            match version.and_then(|v| v.parse::<u32>().ok()) {
                Some(FORMAT_VERSION) => Ok(lock),
                Some(other) => Err(unsupported(format!(
                    "the store has format {other}; this program knows {FORMAT_VERSION}. Use the \
                     version of vitraild that wrote it"
                ))),
                None => Err(unsupported("its FORMAT file is not one of a store".into())),
            }
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            let stranger = std::fs::read_dir(directory)
                .map_err(io("reading"))?
                .flatten()
                .find(|f| {
                    !["LOCK", "FORMAT.new", "lost+found"]
                        .iter()
                        .any(|n| f.file_name() == *n)
                });
            if let Some(file) = stranger {
                return Err(unsupported(format!(
                    "it is not a store and not empty (it has {:?}); choose another directory",
                    file.file_name()
                )));
            }
            let text = format!("{FORMAT_PREFIX}{FORMAT_VERSION}\n");
            write_durably(directory, FORMAT_FILE, &text).map_err(io("writing FORMAT in"))?;
            Ok(lock)
        }
        Err(error) => Err(io("reading FORMAT in")(error)),
    }
}

fn write_durably(directory: &Path, name: &str, text: &str) -> std::io::Result<()> {
    let temporary = directory.join(format!("{name}.new"));
    std::fs::write(&temporary, text)?;
    File::open(&temporary)?.sync_all()?;
    std::fs::rename(&temporary, directory.join(name))?;
    File::open(directory)?.sync_all()
}
