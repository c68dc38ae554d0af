//! The store: where every chunk and manifest is, and the rules for adding to it.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use bytes::Bytes;
use parking_lot::{Mutex, MutexGuard};
use quick_cache::Weighter;
use quick_cache::sync::Cache;
use vitrail_proto::chunk::VerifiedChunk;
use vitrail_proto::codec::{DecodeError, Reader, put_varint};
use vitrail_proto::frame::FRAME_RAW_MAX;
use vitrail_proto::id::{ChunkId, ManifestId};
use vitrail_proto::manifest::{MANIFEST_LEN_MAX, Manifest};

use crate::db::{Batch, DB_MEMORY, Db, Durability};
use crate::directory::{claim, sync_names};
use crate::disk::{Disk, DiskFile, LocalDisk};
use crate::error::{Damage, Error, Result};
use crate::frame::decode;
use crate::lease::{Lease, Leases};
use crate::memory::MemoryBudget;
use crate::pack::{EntryRef, PackId, read_entry, read_unchecked};
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
    /// decodes a whole frame, 1.6 ms per MiB. More than 1 MiB is taken as that.
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
    pub(crate) next_pack: Mutex<u64>,
    files: Cache<PackId, Arc<dyn DiskFile>>,
    frames: Cache<EntryRef, Frame, FrameWeight>,
    manifests: Cache<ManifestId, Arc<Manifest>, ManifestWeight>,
    memory: MemoryBudget,
    /// A sync failed, see [`Error::Poisoned`].
    pub(crate) poisoned: AtomicBool,
    pub(crate) damaged: AtomicU64,
    _lock: File,
}

/// A decoded frame.
type Frame = Arc<[VerifiedChunk]>;

/// How an attempt to read chunks ended.
enum Attempt {
    Done(Vec<VerifiedChunk>),
    /// A place was found damaged that the index does not name any more.
    Moved(Damage),
}

/// What rows that were deleted had named.
#[derive(Default)]
pub(crate) struct Removed {
    pub(crate) chunks: u64,
    pub(crate) raw_bytes: u64,
}

#[derive(Clone)]
struct FrameWeight;

impl Weighter<EntryRef, Frame> for FrameWeight {
    fn weight(&self, _: &EntryRef, chunks: &Frame) -> u64 {
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
        mut options: Options,
        spaces: &[&'static str],
        disk: Box<dyn Disk>,
        lock: File,
    ) -> Result<Self> {
        options.frame_len = options.frame_len.min(FRAME_RAW_MAX);
        let mut all = vec![CHUNKS, PACKS, MANIFESTS, FACTS, META];
        all.extend(spaces);
        let db = Db::open(&directory.join("index"), &all)?;
        sync_names(directory)?;
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
            next_pack: Mutex::new(next_pack.max(highest)),
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

    /// The chunks of `ids` in their order, verified, from as few frames as possible. A chunk whose bytes
    /// are wrong leaves the index and is [`Error::Damaged`]; from then on it is [`Error::MissingChunk`],
    /// until it is stored anew.
    pub fn chunks(&self, ids: &[ChunkId]) -> Result<Vec<VerifiedChunk>> {
        // A collection may move a chunk and remove its pack between the look-up and the read. The next
        // look-up finds the new place, so it takes a collection each time to fail once more.
        const TRIES: u32 = 3;
        let mut tries = 1;
        loop {
            match self.try_chunks(ids)? {
                Attempt::Done(chunks) => return Ok(chunks),
                Attempt::Moved(_) if tries < TRIES => tries += 1,
                Attempt::Moved(damage) => return Err(damage.into()),
            }
        }
    }

    fn try_chunks(&self, ids: &[ChunkId]) -> Result<Attempt> {
        let locations = self.locations(ids)?;
        let mut last: Option<(EntryRef, Frame)> = None;
        let mut chunks = Vec::with_capacity(ids.len());
        for (&id, location) in ids.iter().zip(&locations) {
            let location = location.ok_or(Error::MissingChunk(id))?;
            let entry = location.entry;
            let frame = match last.take_if(|(at, _)| *at == entry) {
                Some((_, frame)) => Ok(frame),
                None => self.frame(entry),
            };
            match frame.and_then(|frame| Ok((chunk_of(&frame, id, &location)?, frame))) {
                Ok((chunk, frame)) => {
                    chunks.push(chunk);
                    last = Some((entry, frame));
                }
                Err(Error::Damaged(damage)) => {
                    // All that was asked for from there: whoever brings them anew brings them together.
                    let there = |at: &Option<Location>| at.is_some_and(|at| at.entry == entry);
                    let lost: Vec<ChunkId> = ids
                        .iter()
                        .zip(&locations)
                        .filter_map(|(id, at)| there(at).then_some(*id))
                        .collect();
                    return match self.quarantine(&damage, entry, &lost)? {
                        0 => Ok(Attempt::Moved(damage)),
                        _ => Err(damage.into()),
                    };
                }
                Err(error) => return Err(error),
            }
        }
        Ok(Attempt::Done(chunks))
    }

    /// A decoded frame, from the cache or disk; one reader decodes, others wait for it.
    fn frame(&self, entry: EntryRef) -> Result<Frame> {
        self.inner.frames.get_or_insert_with(&entry, || {
            let frame = self.read_with(entry, read_unchecked)?;
            decoded(&frame, entry).map(Into::into)
        })
    }

    /// Reads a frame past the cache and checks all of it: checksum, encoding, every chunk.
    pub(crate) fn read_frame(&self, entry: EntryRef) -> Result<Vec<VerifiedChunk>> {
        decoded(&self.read_entry(entry)?, entry)
    }

    /// Reads an entry's frame and checks its checksum.
    pub(crate) fn read_entry(&self, entry: EntryRef) -> Result<Bytes> {
        self.read_with(entry, read_entry)
    }

    /// A pack that is gone counts as damaged.
    fn read_with(
        &self,
        entry: EntryRef,
        read: fn(&dyn DiskFile, EntryRef) -> Result<Bytes>,
    ) -> Result<Bytes> {
        match self.file(entry.pack) {
            Ok(file) => read(&*file, entry),
            Err(Error::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
                Err(entry.damage("the pack's file is gone".into()).into())
            }
            Err(error) => Err(error),
        }
    }

    pub(crate) fn file(&self, pack: PackId) -> Result<Arc<dyn DiskFile>> {
        self.inner.files.get_or_insert_with(&pack, || {
            let opened = self.inner.disk.open(&pack.file_name());
            opened.map_err(|e| Error::io(format!("opening pack {pack}"), e))
        })
    }

    /// Takes those of `ids` out of the index that still are in `entry`, which was found damaged, so that
    /// they count as missing and can be stored anew. Tells how many were.
    pub(crate) fn quarantine(
        &self,
        damage: &Damage,
        entry: EntryRef,
        ids: &[ChunkId],
    ) -> Result<u64> {
        let commit = self.inner.commit.lock();
        let pending = {
            let mut writing = self.inner.writing.lock();
            let mut take = |id: &&ChunkId| {
                let here = writing.pending.get(*id).is_some_and(|at| at.entry == entry);
                here.then(|| writing.pending.remove(*id)).is_some()
            };
            ids.iter().filter(&mut take).count() as u64
        };
        let keys = ids.iter().map(|id| id.as_bytes().as_slice());
        let mut here = Vec::new();
        for (&id, row) in ids.iter().zip(self.inner.db.get_many(CHUNKS, keys)?) {
            let location = row.map(|bytes| Location::decode(&bytes)).transpose()?;
            here.extend(location.filter(|at| at.entry == entry).map(|at| (id, at)));
        }
        let count = pending + self.remove_rows(&commit, &here)?.chunks;
        if count > 0 {
            self.inner.damaged.fetch_add(count, Ordering::Relaxed);
            tracing::error!(%damage, chunks = count, "quarantined");
        }
        Ok(count)
    }

    /// Deletes those of `rows` that still are so and takes them off their packs' counts. Tells what they
    /// were. Holding the commit lock keeps others from changing rows meanwhile.
    pub(crate) fn remove_rows(
        &self,
        _commit: &MutexGuard<'_, ()>,
        rows: &[(ChunkId, Location)],
    ) -> Result<Removed> {
        let mut removed = Removed::default();
        if rows.is_empty() {
            return Ok(removed);
        }
        let keys = rows.iter().map(|(id, _)| id.as_bytes().as_slice());
        let current = self.inner.db.get_many(CHUNKS, keys)?;
        let mut packs = self.inner.packs.lock();
        let mut touched = BTreeMap::new();
        let mut batch = Batch::new();
        for ((id, location), current) in rows.iter().zip(current) {
            if current.as_deref() != Some(&location.encode()[..]) {
                continue;
            }
            batch.delete(CHUNKS, id.as_bytes());
            removed.chunks += 1;
            removed.raw_bytes += u64::from(location.raw_len);
            let pack = location.entry.pack;
            if let Some(row) = packs.get(&pack) {
                touched.entry(pack).or_insert(*row).remove(location);
            }
        }
        for (id, row) in &touched {
            put_pack_row(&mut batch, *id, row);
        }
        self.inner.db.write(batch, Durability::Buffered)?;
        packs.extend(touched);
        Ok(removed)
    }

    pub(crate) fn commit_lock(&self) -> MutexGuard<'_, ()> {
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

    /// A manifest, verified against its id.
    pub fn manifest(&self, id: ManifestId) -> Result<Arc<Manifest>> {
        self.inner.manifests.get_or_insert_with(&id, || {
            let bytes = self.inner.db.get(MANIFESTS, id.as_bytes())?;
            let bytes = bytes.ok_or(Error::MissingManifest(id))?;
            let damaged = |reason| Error::DamagedManifest { id, reason };
            if ManifestId::of(&bytes) != id {
                return Err(damaged("its bytes have another hash".into()));
            }
            let manifest = Manifest::decode(&bytes).map_err(|e| damaged(e.to_string()))?;
            Ok(Arc::new(manifest))
        })
    }

    /// Stores a manifest, durably, whether its chunks are there or not. It is collected with its chunks once
    /// no root names it; until the caller has made it a root, `lease` keeps it. Chunks that the caller counts
    /// on must be in a lease of their own, added before it looked for them.
    pub fn put_manifest(&self, manifest: &Manifest, lease: &Lease) -> Result<ManifestId> {
        self.check_poisoned()?;
        let bytes = manifest.encode();
        if bytes.len() as u64 > MANIFEST_LEN_MAX {
            let error = DecodeError::TooLarge {
                what: "manifest length",
                value: bytes.len() as u64,
                max: MANIFEST_LEN_MAX,
            };
            return Err(error.into());
        }
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

    /// Removes a pack's file, if it is there. Readers that have it open go on.
    pub(crate) fn remove_pack(&self, id: PackId) -> Result<()> {
        let removed = self.inner.disk.remove(&id.file_name());
        // After the removal, so that nobody opens it into the cache again.
        self.inner.files.remove(&id);
        match removed {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(Error::io(format!("removing pack {id}"), error))
            }
            _ => Ok(()),
        }
    }

    pub(crate) fn forget_manifest(&self, id: ManifestId) {
        self.inner.manifests.remove(&id);
    }

    pub(crate) fn reserve_pack_ids(&self, next: u64) {
        let mut current = self.inner.next_pack.lock();
        *current = next.max(*current);
    }
}

fn decoded(frame: &Bytes, entry: EntryRef) -> Result<Vec<VerifiedChunk>> {
    decode(frame).map_err(|error| entry.damage(error.to_string()).into())
}

fn chunk_of(frame: &Frame, id: ChunkId, location: &Location) -> Result<VerifiedChunk> {
    match frame.get(location.number as usize) {
        Some(chunk) if chunk.id() == id => Ok(chunk.clone()),
        _ => {
            let reason = format!("chunk {id} is not in the frame that the index names");
            Err(location.entry.damage(reason).into())
        }
    }
}
