//! What writers share: the packs they append to, and the commit that makes their chunks durable.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use vitrail_proto::id::ChunkId;

use crate::db::{Batch, Durability};
use crate::disk::DiskFile;
use crate::error::{Error, Result};
use crate::frame::EncodedFrame;
use crate::pack::{PackId, PackWriter};
use crate::rows::{CHUNKS, Location, META, NEXT_PACK, PackRow, put_pack_row};
use crate::store::Store;

/// What writers have done since the last commit, and the packs they have open.
#[derive(Default)]
pub(crate) struct Writing {
    pub(crate) pending: HashMap<ChunkId, Location>,
    dirty: BTreeMap<PackId, Dirty>,
    idle: Vec<PackWriter>,
    pub(crate) in_use: HashSet<PackId>,
}

struct Dirty {
    file: Arc<dyn DiskFile>,
    len: u64,
}

impl Store {
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
    pub(crate) fn check_room(&self, len: u64) -> Result<()> {
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
}
