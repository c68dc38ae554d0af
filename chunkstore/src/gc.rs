//! Garbage collection: plan, then execute. The order of steps is in `docs/FORMAT.md`; keep it.

use std::collections::{BTreeMap, HashSet};

use vitrail_proto::chunk::VerifiedChunk;
use vitrail_proto::codec::Reader;
use vitrail_proto::frame::FrameHead;
use vitrail_proto::id::{ChunkId, ManifestId};

use crate::db::{Batch, Durability};
use crate::error::{Error, Result};
use crate::frame::{EncodedFrame, Encoder, decode};
use crate::pack::{EntryRef, PackId, PackWriter, ScanEnd, read_footer, scan};
use crate::rows::{CHUNKS, FACTS, Location, MANIFESTS, PACKS, PackRow, put_pack_row};
use crate::store::Store;

/// Rows deleted at once, under the leases' lock.
const BATCH_ROWS: usize = 1000;
/// A sealed pack with a smaller live share than 1/2 is rewritten: it costs at most what it frees.
const LIVE_SHARE_MIN: (u64, u64) = (1, 2);
/// Packs below this share of the usual length are merged.
const SMALL_SHARE: u64 = 4;

/// A collection that has begun. From here to its end no lease ends, so roots that are read after
/// [`Collection::begin`] and leases together name everything that is in use.
pub struct Collection {
    store: Store,
}

/// What a collection would do.
///
/// Memory: 8 bytes for each live chunk.
pub struct GcPlan {
    collection: Collection,
    live: Vec<u64>,
    manifests: Vec<ManifestId>,
    /// What the plan says about itself.
    pub summary: GcSummary,
}

/// Figures of a plan, or of a collection that was carried out.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct GcSummary {
    /// Chunks that something names.
    pub live_chunks: u64,
    /// Chunks that nothing names.
    pub dead_chunks: u64,
    /// Their uncompressed bytes.
    pub dead_bytes: u64,
    /// Manifests that no root names.
    pub dead_manifests: u64,
    /// Packs removed because nothing in them was live.
    pub packs_removed: u64,
    /// Packs rewritten.
    pub packs_compacted: u64,
    /// Bytes that the packs on disk became less.
    pub reclaimed_bytes: u64,
}

impl Collection {
    /// Begins. None if a collection is running already.
    pub fn begin(store: &Store) -> Option<Self> {
        let begun = store.inner.leases.begin_collection();
        begun.then(|| Self {
            store: store.clone(),
        })
    }

    /// Marks what `roots` and leases name. `roots` must have been read after the begin.
    pub fn plan(self, roots: impl IntoIterator<Item = ManifestId>) -> Result<GcPlan> {
        let store = &self.store;
        let mut keep: HashSet<ManifestId> = roots.into_iter().collect();
        keep.extend(store.inner.leases.lock().manifests());
        let mut live: Vec<u64> = Vec::new();
        for id in &keep {
            match store.manifest(*id) {
                Ok(manifest) => live.extend(manifest.chunks().map(|(id, _)| id.prefix())),
                // A root that was never fetched to this site needs nothing kept.
                Err(Error::MissingManifest(_)) => {}
                Err(error) => return Err(error),
            }
        }
        live.extend(store.inner.leases.lock().chunk_prefixes());
        live.sort_unstable();
        live.dedup();
        live.shrink_to_fit();

        let mut summary = GcSummary::default();
        for row in store.db().rows(CHUNKS, &[])? {
            let (id, location) = chunk_row(row?)?;
            if live.binary_search(&id.prefix()).is_ok() {
                summary.live_chunks += 1;
            } else {
                summary.dead_chunks += 1;
                summary.dead_bytes += u64::from(location.raw_len);
            }
        }
        let mut manifests = Vec::new();
        for row in store.db().rows(FACTS, &[])? {
            let id = ManifestId::from_bytes(Reader::new(&row?.0).array("manifest id")?);
            if !keep.contains(&id) {
                manifests.push(id);
            }
        }
        summary.dead_manifests = manifests.len() as u64;
        Ok(GcPlan {
            collection: self,
            live,
            manifests,
            summary,
        })
    }
}

impl Drop for Collection {
    fn drop(&mut self) {
        self.store.inner.leases.end_collection();
    }
}

impl GcPlan {
    /// Carries the plan out; `progress` hears of packs done and packs in all.
    pub fn execute(mut self, mut progress: impl FnMut(u64, u64)) -> Result<GcSummary> {
        let store = self.collection.store.clone();
        let before = pack_bytes(&store)?;
        // What writers left open can be sealed and judged like the rest; what they hold stays theirs.
        for pack in store.take_idle_packs() {
            if pack.is_empty() {
                store.return_pack(pack)
            } else {
                store.seal(pack)?
            }
        }
        self.delete_manifests(&store)?;
        self.delete_rows(&store)?;

        let sparse = sparse_packs(&store);
        let total = sparse.len() as u64;
        let mut output = Output {
            store: &store,
            pack: None,
            encoder: None,
            moved: Vec::new(),
        };
        for (done, (id, row)) in sparse.iter().enumerate() {
            progress(done as u64, total);
            if row.chunks == 0 {
                self.summary.packs_removed += 1;
            } else {
                output.copy_pack(*id, row)?;
                self.summary.packs_compacted += 1;
            }
        }
        output.finish()?;
        unlink_empty(&store, &sparse)?;
        progress(total, total);
        store.db().compact(CHUNKS)?;
        store.db().compact(MANIFESTS)?;
        self.summary.reclaimed_bytes = before.saturating_sub(pack_bytes(&store)?);
        Ok(self.summary)
    }

    fn delete_manifests(&self, store: &Store) -> Result<()> {
        // Leases may have taken a manifest after the mark: an ingest of the same bytes.
        let leases = store.inner.leases.lock();
        let leased: HashSet<ManifestId> = leases.manifests().collect();
        let mut batch = Batch::new();
        for id in self.manifests.iter().filter(|id| !leased.contains(id)) {
            batch.delete(MANIFESTS, id.as_bytes());
            batch.delete(FACTS, id.as_bytes());
            store.forget_manifest(*id);
        }
        store.db().write(batch, Durability::Synced)
    }

    fn delete_rows(&self, store: &Store) -> Result<()> {
        let mut dead = Vec::new();
        for row in store.db().rows(CHUNKS, &[])? {
            let (id, location) = chunk_row(row?)?;
            if self.live.binary_search(&id.prefix()).is_err() {
                dead.push((id, location));
            }
            if dead.len() == BATCH_ROWS {
                delete_unleased(store, &mut dead)?;
            }
        }
        delete_unleased(store, &mut dead)
    }
}

fn delete_unleased(store: &Store, dead: &mut Vec<(ChunkId, Location)>) -> Result<()> {
    let _commit = store.commit_lock();
    let leases = store.inner.leases.lock();
    dead.retain(|(id, _)| !leases.holds(id));
    // Deleted under the leases' lock: a writer that adds the chunk to its lease after this sees it gone.
    store.remove_rows(dead)?;
    dead.clear();
    Ok(())
}

fn chunk_row(row: crate::db::Row) -> Result<(ChunkId, Location)> {
    let id = ChunkId::from_bytes(Reader::new(&row.0).array("chunk row id")?);
    Ok((id, Location::decode(&row.1)?))
}

fn pack_bytes(store: &Store) -> Result<u64> {
    let files = store
        .inner
        .disk
        .list()
        .map_err(|e| Error::io("listing packs", e))?;
    Ok(files.iter().map(|(_, len)| len).sum())
}

/// Packs worth rewriting or removing, among those that nobody writes to.
fn sparse_packs(store: &Store) -> BTreeMap<PackId, PackRow> {
    let in_use = store.inner.writing.lock().in_use.clone();
    let mut packs = store.inner.packs.lock().clone();
    packs.retain(|id, _| !in_use.contains(id));
    let small_len = store.inner.options.pack_len / SMALL_SHARE;
    let (numerator, denominator) = LIVE_SHARE_MIN;
    let (mut sparse, dense): (BTreeMap<_, _>, BTreeMap<_, _>) =
        packs.into_iter().partition(|(_, row)| {
            row.raw_bytes * denominator < row.raw_written * numerator || row.chunks == 0
        });
    let small: BTreeMap<_, _> = dense
        .into_iter()
        .filter(|(_, row)| row.len < small_len || !row.sealed)
        .collect();
    if small.len() > 1 {
        sparse.extend(small);
    }
    sparse
}

/// Where live entries of sparse packs go.
struct Output<'a> {
    store: &'a Store,
    pack: Option<PackWriter>,
    encoder: Option<Encoder>,
    /// Rows to move once the new pack is durable.
    moved: Vec<(ChunkId, Location, Location)>,
}

impl Output<'_> {
    fn copy_pack(&mut self, id: PackId, row: &PackRow) -> Result<()> {
        let file = self.store.file(id)?;
        let footer =
            read_footer(&*file, row.len).map_err(|e| Error::io(format!("reading pack {id}"), e))?;
        let entries: Vec<EntryRef> = match footer {
            Some(entries) => entries
                .into_iter()
                .map(|(offset, len, _)| EntryRef {
                    pack: id,
                    offset,
                    len,
                })
                .collect(),
            None => {
                let mut found = Vec::new();
                let (_, end) = scan(id, &*file, 0, |entry, _, _| {
                    found.push(entry);
                    Ok(())
                })?;
                if let ScanEnd::Damaged(reason) = end {
                    tracing::error!(pack = %id, reason, "rows beyond the damage stay where they are");
                }
                found
            }
        };
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
                tracing::error!(%damage, "not compacted");
                return Ok(());
            }
            Err(error) => return Err(error),
        };
        let head = FrameHead::decode(&mut Reader::new(&frame))?;
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
                Err(error) => {
                    tracing::error!(pack = %entry.pack, offset = entry.offset, %error, "not compacted");
                    return Ok(());
                }
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
        if self
            .pack
            .as_ref()
            .is_some_and(|p| p.len() >= self.store.inner.options.pack_len)
        {
            self.finish()?;
        }
        let pack = match &mut self.pack {
            Some(pack) => pack,
            slot => slot.insert(self.store.take_pack()?),
        };
        pack.append(&frame.head, &frame.bytes)
    }

    /// Seals the new pack, then moves the rows that still are where they were.
    fn finish(&mut self) -> Result<()> {
        let Some(pack) = self.pack.take() else {
            return Ok(());
        };
        let id = pack.id();
        self.store.seal(pack)?;
        let _commit = self.store.commit_lock();
        let moved = std::mem::take(&mut self.moved);
        let keys = moved.iter().map(|(id, _, _)| id.as_bytes().as_slice());
        let current = self.store.db().get_many(CHUNKS, keys)?;
        let mut packs = self.store.inner.packs.lock();
        let mut batch = Batch::new();
        let mut touched = HashSet::from([id]);
        for ((chunk, old, new), current) in moved.iter().zip(current) {
            let unmoved = current.as_deref() == Some(&old.encode()[..]);
            packs.entry(id).or_default().add(new, unmoved);
            if unmoved {
                batch.put(CHUNKS, chunk.as_bytes(), new.encode());
                packs.entry(old.entry.pack).or_default().remove(old);
                touched.insert(old.entry.pack);
            }
        }
        for id in touched {
            put_pack_row(&mut batch, id, &packs[&id]);
        }
        self.store.db().write(batch, Durability::Synced)
    }
}

/// Removes those of `packs` to which no row points any more.
fn unlink_empty(store: &Store, packs: &BTreeMap<PackId, PackRow>) -> Result<()> {
    let mut pointed = HashSet::new();
    for row in store.db().rows(CHUNKS, &[])? {
        pointed.insert(chunk_row(row?)?.1.entry.pack);
    }
    for id in packs.keys().filter(|id| !pointed.contains(id)) {
        let mut batch = Batch::new();
        batch.delete(PACKS, &id.0.to_be_bytes());
        store.db().write(batch, Durability::Synced)?;
        store.inner.packs.lock().remove(id);
        store.forget_pack(*id);
        let name = id.file_name();
        store
            .inner
            .disk
            .remove(&name)
            .map_err(|e| Error::io(format!("removing {name}"), e))?;
    }
    store
        .inner
        .disk
        .sync_names()
        .map_err(|e| Error::io("syncing the pack directory", e))
}
