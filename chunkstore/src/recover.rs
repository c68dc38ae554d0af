//! What opening a store repairs. The order of writes that makes it enough is in `docs/FORMAT.md`.

use std::collections::{BTreeMap, HashMap};

use vitrail_proto::frame::FrameHead;
use vitrail_proto::id::ChunkId;

use crate::db::{Batch, Durability};
use crate::error::{Error, Result};
use crate::pack::{EntryRef, HEADER_LEN, PackId, read_footer, scan};
use crate::rows::{CHUNKS, Location, PACKS, PackRow, chunk_row, put_pack_row};
use crate::store::Store;

/// Rows written in one batch; bounds memory while an index is rebuilt.
const BATCH_ROWS: usize = 10_000;

/// Brings the index and the packs into agreement.
///
/// Rows that point to packs or bytes that are gone are dropped; then packs longer than their row says are
/// scanned from there, and packs without a row are read whole. Costs nothing for packs that agree.
pub(crate) fn recover(store: &Store) -> Result<()> {
    let files = store.inner.disk.list();
    let files = files.map_err(|e| Error::io("listing packs", e))?;
    let mut present = BTreeMap::new();
    for (name, len) in files {
        match PackId::from_file_name(&name) {
            Some(id) => {
                present.insert(id, len);
            }
            None => tracing::warn!(name, "not a pack; left alone"),
        }
    }
    if let Some((last, _)) = present.last_key_value() {
        store.reserve_pack_ids(last.0 + 1);
    }
    drop_lost_rows(store, &present)?;
    let known = store.inner.packs.lock().clone();
    // A chunk that stands twice was healed or moved, and the later place is the good one.
    for (&id, &len) in present.iter().rev() {
        let row = known.get(&id).copied();
        if row.is_none_or(|row| len > row.len) {
            index_tail(store, id, row.unwrap_or_default(), len)?;
        }
    }
    Ok(())
}

/// Gives rows to the entries of a pack beyond what its row covers, and cuts off a torn end.
fn index_tail(store: &Store, id: PackId, row: PackRow, file_len: u64) -> Result<()> {
    let file = store.file(id)?;
    let io = |e| Error::io(format!("recovering pack {id}"), e);
    // A row never points to bytes that a crash can take away.
    file.sync().map_err(io)?;
    let known_len = row.len;
    let footer = read_footer(&*file, file_len).map_err(io)?;
    let sealed = footer.is_some();
    let mut tail = Tail {
        store,
        rows: HashMap::new(),
        row,
    };
    let mut end = file_len;
    match footer {
        // A sealed pack that the index does not know: its footer tells everything.
        Some(entries) if known_len == 0 => {
            for (offset, len, head) in entries {
                let pack = id;
                tail.add(EntryRef { pack, offset, len }, &head)?;
            }
        }
        _ => {
            let found = scan(id, &*file, known_len, |entry, head| tail.add(entry, &head))?;
            if let Some(damage) = found.damage {
                tracing::warn!(%damage, "not a whole entry");
            }
            if !sealed {
                end = found.end;
            }
        }
    }
    if end == 0 {
        return store.remove_pack(id);
    }
    if end < file_len {
        tracing::info!(pack = %id, from = file_len, to = end, "cut off a torn end");
        file.truncate(end).and_then(|()| file.sync()).map_err(io)?;
    }
    tail.flush()?;
    let row = PackRow {
        len: end,
        sealed: sealed || row.sealed,
        ..tail.row
    };
    let mut batch = Batch::new();
    put_pack_row(&mut batch, id, &row);
    store.db().write(batch, Durability::Synced)?;
    store.inner.packs.lock().insert(id, row);
    Ok(())
}

/// Entries found in a pack, on their way to the index.
struct Tail<'a> {
    store: &'a Store,
    rows: HashMap<ChunkId, Location>,
    row: PackRow,
}

impl Tail<'_> {
    fn add(&mut self, entry: EntryRef, head: &FrameHead) -> Result<()> {
        self.row.raw_written += u64::from(head.raw_len());
        self.rows.extend(Location::of_frame(entry, head));
        if self.rows.len() >= BATCH_ROWS {
            self.flush()?;
        }
        Ok(())
    }

    /// Adds the rows that the index does not have.
    fn flush(&mut self) -> Result<()> {
        let rows: Vec<_> = self.rows.drain().collect();
        let keys = rows.iter().map(|(id, _)| id.as_bytes().as_slice());
        let existing = self.store.db().get_many(CHUNKS, keys)?;
        let mut batch = Batch::new();
        for ((id, location), existing) in rows.iter().zip(existing) {
            let encoded = location.encode();
            match existing {
                // From a recovery that was cut short: it did not get to count it.
                Some(bytes) if bytes == encoded => {}
                Some(_) => continue,
                None => batch.put(CHUNKS, id.as_bytes(), encoded),
            }
            self.row.add(location);
        }
        self.store.db().write(batch, Durability::Buffered)
    }
}

/// Drops rows whose bytes are gone; `present` are the packs with the lengths that they have.
fn drop_lost_rows(store: &Store, present: &BTreeMap<PackId, u64>) -> Result<()> {
    let mut lost = BTreeMap::new();
    for (&id, row) in store.inner.packs.lock().iter() {
        let len = present.get(&id).copied().unwrap_or(0);
        if len < row.len {
            tracing::error!(pack = %id, expected = row.len, found = len, "a pack lost bytes");
            lost.insert(id, len);
        }
    }
    if lost.is_empty() {
        return Ok(());
    }
    let commit = store.commit_lock();
    let mut gone = Vec::new();
    for row in store.db().rows(CHUNKS, &[])? {
        let (id, location) = chunk_row(&row?)?;
        let end = location.entry.offset + u64::from(location.entry.len);
        if lost.get(&location.entry.pack).is_some_and(|&len| end > len) {
            gone.push((id, location));
        }
        if gone.len() >= BATCH_ROWS {
            store.remove_rows(&commit, &gone)?;
            gone.clear();
        }
    }
    store.remove_rows(&commit, &gone)?;
    let mut packs = store.inner.packs.lock();
    let mut batch = Batch::new();
    for (id, &len) in &lost {
        if len < HEADER_LEN {
            packs.remove(id);
            batch.delete(PACKS, &id.0.to_be_bytes());
        } else if let Some(row) = packs.get_mut(id) {
            row.len = len;
            row.sealed = false;
            put_pack_row(&mut batch, *id, row);
        }
    }
    store.db().write(batch, Durability::Synced)
}
