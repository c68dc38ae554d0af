//! What writers share: the packs they append to, and the commit that makes their chunks durable.
//!
//! Locks are taken in this order: commit, leases, pack rows, [`Writing`]. None of the last three is held
//! while a file is read, written or synced.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::ops::{Deref, DerefMut};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use vitrail_proto::id::ChunkId;

use crate::db::{Batch, Durability};
use crate::disk::DiskFile;
use crate::error::{Error, Result};
use crate::frame::EncodedFrame;
use crate::pack::{EntryRef, PackId, PackWriter};
use crate::rows::{CHUNKS, Location, META, NEXT_PACK, PackRow, put_pack_row};
use crate::store::Store;

/// Chunks at which a pack is sealed, however short they are: bounds its footer to 2.4 MB.
const PACK_CHUNKS_MAX: u64 = 64 * 1024;

/// What writers have done since the last commit, and the packs that they append to.
#[derive(Default)]
pub(crate) struct Writing {
    /// Chunks that the index does not name yet. Their packs are dirty.
    pub(crate) pending: HashMap<ChunkId, Location>,
    /// Packs with bytes that no commit has covered.
    dirty: BTreeMap<PackId, Dirty>,
    /// Packs that somebody appends to, or may. No other pack ever grows.
    open: HashSet<PackId>,
    /// Open packs that nobody has in hand.
    idle: Vec<PackWriter>,
}

#[derive(Clone)]
struct Dirty {
    file: Arc<dyn DiskFile>,
    len: u64,
    raw_written: u64,
}

impl Writing {
    /// Whether rows may yet come to point to this pack. Once false it stays so.
    pub(crate) fn is_busy(&self, id: PackId) -> bool {
        self.open.contains(&id) || self.dirty.contains_key(&id)
    }

    /// Packs that a collection will seal before it looks at any.
    pub(crate) fn idle_ids(&self) -> impl Iterator<Item = PackId> {
        self.idle.iter().map(PackWriter::id)
    }
}

impl Store {
    /// Makes every chunk put so far durable and visible after a crash. After an error they stay as they
    /// are and the next commit tries again.
    pub fn commit(&self) -> Result<()> {
        let _commit = self.inner.commit.lock();
        self.check_poisoned()?;
        let (pending, dirty) = {
            let writing = self.inner.writing.lock();
            let pending: Vec<_> = writing.pending.iter().map(|(id, at)| (*id, *at)).collect();
            (pending, writing.dirty.clone())
        };
        if dirty.is_empty() {
            return Ok(());
        }
        for (id, dirty) in &dirty {
            self.sync_pack(*id, &*dirty.file)?;
        }
        let keys = pending.iter().map(|(id, _)| id.as_bytes().as_slice());
        let existing = self.inner.db.get_many(CHUNKS, keys)?;

        let mut packs = self.inner.packs.lock();
        let mut rows: BTreeMap<PackId, PackRow> = BTreeMap::new();
        for (id, dirty) in &dirty {
            let row = PackRow {
                len: dirty.len,
                raw_written: dirty.raw_written,
                ..packs.get(id).copied().unwrap_or_default()
            };
            rows.insert(*id, row);
        }
        let mut batch = Batch::new();
        for ((id, location), existing) in pending.iter().zip(existing) {
            // Two writers may have stored a chunk at the same time; the first row stays.
            if existing.is_none() {
                batch.put(CHUNKS, id.as_bytes(), location.encode());
                rows.entry(location.entry.pack).or_default().add(location);
            }
        }
        for (id, row) in &rows {
            put_pack_row(&mut batch, *id, row);
        }
        self.inner.db.write(batch, Durability::Synced)?;
        packs.extend(rows);
        drop(packs);

        let mut writing = self.inner.writing.lock();
        for (id, location) in &pending {
            if writing.pending.get(id) == Some(location) {
                writing.pending.remove(id);
            }
        }
        for (id, committed) in &dirty {
            // A pack that has grown since stays dirty.
            if writing
                .dirty
                .get(id)
                .is_some_and(|d| d.len == committed.len)
            {
                writing.dirty.remove(id);
            }
        }
        Ok(())
    }

    /// No longer takes a pack for sealed, so that the next collection rewrites it.
    pub(crate) fn unseal(&self, id: PackId) -> Result<()> {
        let mut packs = self.inner.packs.lock();
        let Some(row) = packs.get_mut(&id) else {
            return Ok(());
        };
        row.sealed = false;
        let mut batch = Batch::new();
        put_pack_row(&mut batch, id, row);
        self.inner.db.write(batch, Durability::Buffered)
    }

    /// Syncs a pack. After a failed sync the system may have dropped what was written and say nothing
    /// at the next one, so nothing more is written until the store is opened again.
    fn sync_pack(&self, id: PackId, file: &dyn DiskFile) -> Result<()> {
        file.sync().map_err(|error| {
            self.inner.poisoned.store(true, Ordering::SeqCst);
            Error::io(format!("syncing pack {id}"), error)
        })
    }

    pub(crate) fn check_poisoned(&self) -> Result<()> {
        match self.inner.poisoned.load(Ordering::SeqCst) {
            true => Err(Error::Poisoned),
            false => Ok(()),
        }
    }

    /// Fails if `len` more bytes would exceed the capacity or the disk's reserve.
    pub(crate) fn check_room(&self, len: u64) -> Result<()> {
        if let Some(capacity) = self.inner.options.capacity {
            let used = self.used_bytes();
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
        if free < reserve.saturating_add(len) {
            return Err(Error::Full(format!(
                "the disk has {free} bytes free, of which {reserve} are reserved"
            )));
        }
        Ok(())
    }

    /// Bytes of all packs, committed or not.
    fn used_bytes(&self) -> u64 {
        let packs = self.inner.packs.lock();
        let writing = self.inner.writing.lock();
        let committed: u64 = packs
            .iter()
            .filter(|(id, _)| !writing.dirty.contains_key(id))
            .map(|(_, row)| row.len)
            .sum();
        committed + writing.dirty.values().map(|dirty| dirty.len).sum::<u64>()
    }

    /// A pack to append to: one that another writer left, or a new one.
    pub(crate) fn open_pack(&self) -> Result<OpenPack> {
        let idle = self.inner.writing.lock().idle.pop();
        let pack = match idle {
            Some(pack) => pack,
            None => {
                let pack = self.create_pack()?;
                self.inner.writing.lock().open.insert(pack.id());
                pack
            }
        };
        Ok(OpenPack::new(self, pack))
    }

    fn create_pack(&self) -> Result<PackWriter> {
        self.check_poisoned()?;
        let id = {
            let mut next = self.inner.next_pack.lock();
            let id = PackId(*next);
            let mut batch = Batch::new();
            batch.put(META, NEXT_PACK, (id.0 + 1).to_le_bytes().to_vec());
            self.inner.db.write(batch, Durability::Buffered)?;
            *next += 1;
            id
        };
        PackWriter::create(&*self.inner.disk, id)
    }

    /// Takes the packs that nobody has in hand.
    pub(crate) fn take_idle_packs(&self) -> Vec<OpenPack> {
        let idle = std::mem::take(&mut self.inner.writing.lock().idle);
        idle.into_iter()
            .map(|pack| OpenPack::new(self, pack))
            .collect()
    }
}

/// A pack in one writer's hand. Dropped, it goes to the next writer, unless it is closed.
pub(crate) struct OpenPack {
    store: Store,
    /// Empty only while it is dropped.
    pack: Option<PackWriter>,
}

impl OpenPack {
    fn new(store: &Store, pack: PackWriter) -> Self {
        Self {
            store: store.clone(),
            pack: Some(pack),
        }
    }

    /// Whether it should be sealed.
    pub(crate) fn is_full(&self) -> bool {
        self.len() >= self.store.inner.options.pack_len || self.chunks() >= PACK_CHUNKS_MAX
    }

    /// Appends a frame and makes its chunks readable here; chunks that are pending already stay where
    /// they are.
    pub(crate) fn append(&mut self, frame: &EncodedFrame) -> Result<()> {
        let entry = self.write(&frame.head, &frame.bytes)?;
        let mut writing = self.store.inner.writing.lock();
        for (id, location) in Location::of_frame(entry, &frame.head) {
            writing.pending.entry(id).or_insert(location);
        }
        self.mark_dirty(&mut writing);
        Ok(())
    }

    /// Appends a frame whose chunks stay where the index has them.
    pub(crate) fn append_copy(&mut self, frame: &EncodedFrame) -> Result<EntryRef> {
        let entry = self.write(&frame.head, &frame.bytes)?;
        self.mark_dirty(&mut self.store.inner.writing.lock());
        Ok(entry)
    }

    fn mark_dirty(&self, writing: &mut Writing) {
        let dirty = Dirty {
            file: self.file().clone(),
            len: self.len(),
            raw_written: self.raw_bytes(),
        };
        writing.dirty.insert(self.id(), dirty);
    }

    /// Commits, then closes the pack for good. Returns its length in bytes.
    pub(crate) fn seal(mut self) -> Result<u64> {
        self.store.commit()?;
        self.write_footer()?;
        let (id, len) = (self.id(), self.len());
        self.store.sync_pack(id, &**self.file())?;
        let _commit = self.store.inner.commit.lock();
        let mut packs = self.store.inner.packs.lock();
        let row = PackRow {
            len,
            sealed: true,
            ..packs.get(&id).copied().unwrap_or_default()
        };
        let mut batch = Batch::new();
        put_pack_row(&mut batch, id, &row);
        // Should a crash take this write away, the footer tells the next open.
        self.store.inner.db.write(batch, Durability::Buffered)?;
        packs.insert(id, row);
        Ok(len)
    }
}

impl Deref for OpenPack {
    type Target = PackWriter;

    fn deref(&self) -> &PackWriter {
        self.pack.as_ref().expect("there until it is dropped")
    }
}

impl DerefMut for OpenPack {
    fn deref_mut(&mut self) -> &mut PackWriter {
        self.pack.as_mut().expect("there until it is dropped")
    }
}

impl Drop for OpenPack {
    fn drop(&mut self) {
        let Some(pack) = self.pack.take() else {
            return;
        };
        let mut writing = self.store.inner.writing.lock();
        if !pack.is_empty() && !pack.closed() {
            writing.idle.push(pack);
            return;
        }
        writing.open.remove(&pack.id());
        drop(writing);
        // No row points here and none ever will.
        if pack.is_empty()
            && let Err(error) = self.store.remove_pack(pack.id())
        {
            tracing::warn!(pack = %pack.id(), %error, "an empty pack stays until the next open");
        }
    }
}
