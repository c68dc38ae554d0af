//! Rewriting packs: what is live in sparse ones moves into new ones.

use std::collections::BTreeMap;

use vitrail_proto::chunk::VerifiedChunk;
use vitrail_proto::codec::Reader;
use vitrail_proto::frame::FrameHead;
use vitrail_proto::id::ChunkId;

use crate::db::{Batch, Durability};
use crate::error::{Error, Result};
use crate::frame::{EncodedFrame, Encoder, decode};
use crate::pack::{EntryRef, HEADER_LEN, PackId, read_footer, scan};
use crate::rows::{CHUNKS, Location, PackRow, put_pack_row};
use crate::store::Store;
use crate::writing::OpenPack;

/// Room in bytes for what a rewrite adds besides live chunks: a footer and rows.
const ROOM_MARGIN: u64 = 4 * 1024 * 1024;

/// Where live entries of sparse packs go. Rows move when a new pack is sealed; until then the old places
/// count, and an error leaves them so.
pub(crate) struct Compaction<'a> {
    store: &'a Store,
    pack: Option<OpenPack>,
    encoder: Option<Encoder>,
    /// Rows to move once the new pack is durable: chunk, old place, new place.
    moved: Vec<(ChunkId, Location, Location)>,
    written: u64,
}

impl<'a> Compaction<'a> {
    pub(crate) fn new(store: &'a Store) -> Self {
        Self {
            store,
            pack: None,
            encoder: None,
            moved: Vec::new(),
            written: 0,
        }
    }

    /// Bytes of the packs that were made.
    pub(crate) fn written_bytes(&self) -> u64 {
        self.written
    }

    /// Whether the disk can take the live part of a pack besides it. The store's reserve may be used:
    /// it comes back with the pack.
    pub(crate) fn has_room(&self, row: &PackRow) -> Result<bool> {
        let free = self.store.inner.disk.free_bytes();
        let free = free.map_err(|e| Error::io("asking for free space", e))?;
        Ok(free >= row.len.min(row.raw_bytes) + ROOM_MARGIN)
    }

    pub(crate) fn copy_pack(&mut self, id: PackId, row: &PackRow) -> Result<()> {
        let file = self.store.file(id)?;
        let footer =
            read_footer(&*file, row.len).map_err(|e| Error::io(format!("reading pack {id}"), e))?;
        let mut entries = Vec::new();
        match footer {
            Some(footer) => entries.extend(footer.into_iter().map(|(offset, len, _)| EntryRef {
                pack: id,
                offset,
                len,
            })),
            None => {
                scan(id, &*file, HEADER_LEN, |entry, _| {
                    entries.push(entry);
                    Ok(())
                })?;
            }
        }
        for entry in entries {
            self.copy_entry(entry)?;
        }
        Ok(())
    }

    fn copy_entry(&mut self, entry: EntryRef) -> Result<()> {
        let frame = match self.store.read_entry(entry) {
            Ok(frame) => frame,
            // Its rows stay, so its pack stays, and readers and verify report it.
            Err(Error::Damaged(damage)) => {
                tracing::error!(%damage, "not rewritten");
                return Ok(());
            }
            Err(error) => return Err(error),
        };
        let not_rewritten = |reason: String| {
            tracing::error!(damage = %entry.damage(reason), "not rewritten");
            Ok(())
        };
        let head = match FrameHead::decode(&mut Reader::new(&frame)) {
            Ok(head) => head,
            Err(error) => return not_rewritten(error.to_string()),
        };
        let ids: Vec<_> = head.chunks.iter().map(|chunk| chunk.id).collect();
        let keep: Vec<(usize, Location)> = self
            .store
            .locations(&ids)?
            .into_iter()
            .enumerate()
            .filter_map(|(i, at)| {
                at.filter(|at| at.entry == entry && at.number as usize == i)
                    .map(|at| (i, at))
            })
            .collect();
        if keep.is_empty() {
            return Ok(());
        }
        let frame = if keep.len() == ids.len() {
            EncodedFrame {
                head,
                bytes: frame.to_vec(),
            }
        } else {
            let chunks = match decode(&frame) {
                Ok(chunks) => chunks,
                Err(error) => return not_rewritten(error.to_string()),
            };
            let live: Vec<VerifiedChunk> = keep.iter().map(|(i, _)| chunks[*i].clone()).collect();
            self.encoder()?
                .encode(&live)
                .map_err(|e| Error::io("encoding a frame", e))?
        };
        let new_entry = self.append(&frame)?;
        for (number, (i, old)) in keep.iter().enumerate() {
            let new = Location {
                entry: new_entry,
                number: number as u32,
                raw_len: old.raw_len,
            };
            self.moved.push((ids[*i], *old, new));
        }
        Ok(())
    }

    fn encoder(&mut self) -> Result<&mut Encoder> {
        match &mut self.encoder {
            Some(encoder) => Ok(encoder),
            slot => {
                let encoder = Encoder::new(self.store.inner.options.zstd_level)
                    .map_err(|e| Error::io("making a zstd encoder", e))?;
                Ok(slot.insert(encoder))
            }
        }
    }

    fn append(&mut self, frame: &EncodedFrame) -> Result<EntryRef> {
        if self.pack.as_ref().is_some_and(OpenPack::is_full) {
            self.finish()?;
        }
        let pack = match &mut self.pack {
            Some(pack) => pack,
            slot => slot.insert(self.store.open_pack()?),
        };
        pack.append_copy(frame)
    }

    /// Seals the new pack, then moves the rows that still are where they were.
    pub(crate) fn finish(&mut self) -> Result<()> {
        let Some(pack) = self.pack.take() else {
            return Ok(());
        };
        let id = pack.id();
        let moved = std::mem::take(&mut self.moved);
        self.written += pack.seal()?;
        let _commit = self.store.commit_lock();
        let keys = moved.iter().map(|(id, _, _)| id.as_bytes().as_slice());
        let current = self.store.db().get_many(CHUNKS, keys)?;
        let mut packs = self.store.inner.packs.lock();
        let mut batch = Batch::new();
        let mut touched: BTreeMap<PackId, PackRow> = BTreeMap::new();
        let row_of = |id: &PackId| packs.get(id).copied().unwrap_or_default();
        for ((chunk, old, new), current) in moved.iter().zip(current) {
            if current.as_deref() == Some(&old.encode()[..]) {
                batch.put(CHUNKS, chunk.as_bytes(), new.encode());
                let from = old.entry.pack;
                let row = touched.entry(from).or_insert_with_key(row_of);
                row.remove(old);
                touched.entry(id).or_insert_with_key(row_of).add(new);
            }
        }
        for (id, row) in &touched {
            put_pack_row(&mut batch, *id, row);
        }
        self.store.db().write(batch, Durability::Synced)?;
        packs.extend(touched);
        Ok(())
    }
}
