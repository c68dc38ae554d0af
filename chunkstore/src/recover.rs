//! What opening a store repairs. The order of writes that makes it enough is in `docs/FORMAT.md`.

use std::collections::{BTreeMap, BTreeSet};

use vitrail_proto::codec::Reader;
use vitrail_proto::id::ChunkId;

use crate::db::{Batch, Durability};
use crate::error::{Error, Result};
use crate::pack::{EntryRef, PackId, ScanEnd, read_footer, scan};
use crate::rows::{CHUNKS, Location, PACKS, PackRow, put_pack_row};
use crate::store::Store;

/// Rows written in one batch; bounds memory while an index is rebuilt.
const BATCH_ROWS: usize = 10_000;

/// Brings the index and the packs into agreement.
///
/// Packs longer than their row says are scanned from there; packs without a row are read whole; rows
/// that point to packs or bytes that are gone are dropped. Costs nothing for packs that agree.
pub(crate) fn recover(store: &Store) -> Result<()> {
    let disk = &store.inner.disk;
    let files = disk.list().map_err(|e| Error::io("listing packs", e))?;
    let known = store.inner.packs.lock().clone();
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

    let mut lost = BTreeMap::new();
    for (&id, row) in &known {
        let len = present.get(&id).copied().unwrap_or(0);
        if len < row.len {
            tracing::error!(pack = %id, expected = row.len, found = len, "a pack lost bytes");
            lost.insert(id, len);
        }
    }
    if !lost.is_empty() {
        drop_rows_beyond(store, &lost)?;
    }
    for (&id, &len) in &present {
        let row = known.get(&id).copied().unwrap_or_default();
        if len > row.len {
            index_tail(store, id, row, len)?;
        }
    }
    Ok(())
}

/// Gives rows to the entries of a pack beyond what its row covers, and cuts off a torn end.
fn index_tail(store: &Store, id: PackId, mut row: PackRow, file_len: u64) -> Result<()> {
    let file = store.file(id)?;
    let io = |e| Error::io(format!("recovering pack {id}"), e);
    let mut rows = Vec::new();
    let footer = read_footer(&*file, file_len).map_err(io)?;
    let sealed = footer.is_some();
    if let (0, Some(entries)) = (row.len, &footer) {
        // A sealed pack that the index does not know: its footer tells everything.
        for (offset, len, head) in entries {
            let entry = EntryRef {
                pack: id,
                offset: *offset,
                len: *len,
            };
            for (number, chunk) in head.chunks.iter().enumerate() {
                let location = Location {
                    entry,
                    number: number as u32,
                    raw_len: chunk.len,
                };
                rows.push((chunk.id, location));
            }
            if rows.len() >= BATCH_ROWS {
                add_rows(store, &mut rows, &mut row)?;
            }
        }
    } else {
        let (end, reason) = scan(id, &*file, row.len, |entry, head, _| {
            for (number, chunk) in head.chunks.iter().enumerate() {
                let location = Location {
                    entry,
                    number: number as u32,
                    raw_len: chunk.len,
                };
                rows.push((chunk.id, location));
            }
            if rows.len() >= BATCH_ROWS {
                add_rows(store, &mut rows, &mut row)?;
            }
            Ok(())
        })?;
        if let ScanEnd::Damaged(reason) = reason {
            tracing::info!(pack = %id, at = end, len = file_len, reason, "cut off a torn write");
            if end == 0 {
                store.forget_pack(id);
                return store.inner.disk.remove(&id.file_name()).map_err(io);
            }
            file.truncate(end).and_then(|()| file.sync()).map_err(io)?;
        }
        row.len = end;
    }
    if sealed {
        row.len = file_len;
        row.sealed = true;
    }
    file.sync().map_err(io)?;
    add_rows(store, &mut rows, &mut row)?;
    let mut batch = Batch::new();
    put_pack_row(&mut batch, id, &row);
    store.inner.packs.lock().insert(id, row);
    store.db().write(batch, Durability::Synced)
}

/// Adds the rows that the index does not have.
fn add_rows(store: &Store, rows: &mut Vec<(ChunkId, Location)>, pack: &mut PackRow) -> Result<()> {
    // A chunk may stand twice in what was scanned; the first place wins.
    let mut seen = BTreeSet::new();
    rows.retain(|(id, _)| seen.insert(*id));
    let keys = rows.iter().map(|(id, _)| id.as_bytes().as_slice());
    let existing = store.db().get_many(CHUNKS, keys)?;
    let mut batch = Batch::new();
    for ((id, location), existing) in rows.drain(..).zip(existing) {
        if existing.is_none() {
            batch.put(CHUNKS, id.as_bytes(), location.encode());
        }
        pack.add(&location, existing.is_none());
    }
    store.db().write(batch, Durability::Buffered)
}

/// Drops rows whose bytes are gone: packs by the length that they still have.
fn drop_rows_beyond(store: &Store, lost: &BTreeMap<PackId, u64>) -> Result<()> {
    let mut gone = Vec::new();
    for row in store.db().rows(CHUNKS, &[])? {
        let (key, value) = row?;
        let location = Location::decode(&value)?;
        let end = location.entry.offset + u64::from(location.entry.len);
        if lost.get(&location.entry.pack).is_some_and(|&len| end > len) {
            let id = Reader::new(&key).array("chunk row id")?;
            gone.push((ChunkId::from_bytes(id), location));
        }
        if gone.len() >= BATCH_ROWS {
            store.remove_rows(&gone)?;
            gone.clear();
        }
    }
    store.remove_rows(&gone)?;
    let mut packs = store.inner.packs.lock();
    let mut batch = Batch::new();
    for (id, &len) in lost {
        if len == 0 {
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
