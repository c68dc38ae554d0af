//! Garbage collection: plan, then execute. The order of steps is in `docs/FORMAT.md`; keep it.

use std::collections::{BTreeMap, HashSet};

use vitrail_proto::codec::Reader;
use vitrail_proto::id::{ChunkId, ManifestId};

use crate::compact::Compaction;
use crate::db::{Batch, Durability};
use crate::error::{Error, Result};
use crate::pack::PackId;
use crate::rows::{CHUNKS, FACTS, Location, MANIFESTS, PACKS, PackRow, chunk_row};
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
    live: Marks,
    manifests: Vec<ManifestId>,
    /// What the plan says about itself.
    pub summary: GcSummary,
}

/// Figures of a plan, or of a collection that was carried out. They are the same if nothing was stored,
/// read or leased in between, but for [`GcSummary::reclaimed_bytes`].
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
    /// Bytes that the packs on disk become less; in a plan an estimate.
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
    ///
    /// Fails if a root's manifest is damaged: what it needs is not known then, so nothing may be
    /// collected until it is stored anew or is no root any more.
    pub fn plan(self, roots: impl IntoIterator<Item = ManifestId>) -> Result<GcPlan> {
        let store = &self.store;
        // What writers have left behind is judged like the rest.
        store.commit()?;
        let mut keep: HashSet<ManifestId> = roots.into_iter().collect();
        keep.extend(store.inner.leases.lock().manifests());
        let mut live = Marks::default();
        for id in &keep {
            live.add_manifest(store, *id)?;
        }
        live.prefixes
            .extend(store.inner.leases.lock().chunk_prefixes());
        live.sort();

        let mut summary = GcSummary::default();
        let mut packs = store.inner.packs.lock().clone();
        for row in store.db().rows(CHUNKS, &[])? {
            let (id, location) = chunk_row(&row?)?;
            if live.contains(&id) {
                summary.live_chunks += 1;
            } else {
                summary.dead_chunks += 1;
                summary.dead_bytes += u64::from(location.raw_len);
                if let Some(row) = packs.get_mut(&location.entry.pack) {
                    row.remove(&location);
                }
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
        forecast(store, packs, &mut summary);
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

/// Live chunks by the prefixes of their ids: a collision keeps a dead chunk and never drops a live one.
#[derive(Default)]
struct Marks {
    prefixes: Vec<u64>,
}

impl Marks {
    fn add_manifest(&mut self, store: &Store, id: ManifestId) -> Result<()> {
        match store.manifest(id) {
            Ok(manifest) => {
                let ids = manifest.chunks().map(|(id, _)| id.prefix());
                self.prefixes.extend(ids);
                Ok(())
            }
            // A root that was never fetched to this site needs nothing kept.
            Err(Error::MissingManifest(_)) => Ok(()),
            Err(error) => Err(error),
        }
    }

    fn sort(&mut self) {
        self.prefixes.sort_unstable();
        self.prefixes.dedup();
        self.prefixes.shrink_to_fit();
    }

    fn contains(&self, id: &ChunkId) -> bool {
        self.prefixes.binary_search(&id.prefix()).is_ok()
    }
}

/// What the packs will come to, given their rows after the dead chunks are gone.
fn forecast(store: &Store, mut packs: BTreeMap<PackId, PackRow>, summary: &mut GcSummary) {
    {
        let writing = store.inner.writing.lock();
        let idle: HashSet<PackId> = writing.idle_ids().collect();
        packs.retain(|id, _| idle.contains(id) || !writing.is_busy(*id));
        // The collection begins with sealing these.
        for id in idle {
            packs.entry(id).and_modify(|row| row.sealed = true);
        }
    }
    for row in sparse(packs, store.inner.options.pack_len).values() {
        if row.chunks == 0 {
            summary.packs_removed += 1;
            summary.reclaimed_bytes += row.len;
        } else {
            summary.packs_compacted += 1;
            let dead = row.raw_written.saturating_sub(row.raw_bytes);
            let share = u128::from(row.len) * u128::from(dead) / u128::from(row.raw_written.max(1));
            summary.reclaimed_bytes += share as u64;
        }
    }
}

impl GcPlan {
    /// Carries the plan out; `progress` hears of packs done and packs in all. Rewriting packs needs room
    /// for their live part; where a full disk has none, the rest is still done.
    pub fn execute(mut self, mut progress: impl FnMut(u64, u64)) -> Result<GcSummary> {
        let store = self.collection.store.clone();
        // From here on what is done, which is not what was planned if others have been at work.
        self.summary = GcSummary::default();
        for pack in store.take_idle_packs() {
            pack.seal()?;
        }
        self.delete_manifests(&store)?;
        self.delete_rows(&store)?;
        // First what takes no room and makes some.
        self.summary.packs_removed = self.unlink_empty(&store)?;

        let sparse = sparse(packs_at_rest(&store), store.inner.options.pack_len);
        let total = sparse.len() as u64;
        let mut compaction = Compaction::new(&store);
        for (done, (id, row)) in sparse.iter().enumerate() {
            progress(done as u64, total);
            if !compaction.has_room(row)? {
                compaction.finish()?;
                self.summary.packs_compacted += self.unlink_empty(&store)?;
                if !compaction.has_room(row)? {
                    tracing::warn!(left = total - done as u64, "no room to rewrite packs");
                    break;
                }
            }
            compaction.copy_pack(*id, row)?;
        }
        compaction.finish()?;
        self.summary.packs_compacted += self.unlink_empty(&store)?;
        progress(total, total);
        let written = compaction.written_bytes();
        self.summary.reclaimed_bytes = self.summary.reclaimed_bytes.saturating_sub(written);
        store.db().compact(CHUNKS)?;
        store.db().compact(MANIFESTS)?;
        Ok(self.summary)
    }

    fn delete_manifests(&mut self, store: &Store) -> Result<()> {
        let leases = store.inner.leases.lock();
        let leased: HashSet<ManifestId> = leases.manifests().collect();
        let mut batch = Batch::new();
        for id in &self.manifests {
            if leased.contains(id) {
                // Taken since the mark, by a reader or an ingest of the same bytes. Its rows are still
                // there; who comes after this finds the manifest gone.
                self.live.add_manifest(store, *id)?;
            } else {
                batch.delete(MANIFESTS, id.as_bytes());
                batch.delete(FACTS, id.as_bytes());
                self.summary.dead_manifests += 1;
            }
        }
        self.live.sort();
        store.db().write(batch, Durability::Synced)?;
        // After the write, so that nobody reads one into the cache again.
        for id in self.manifests.iter().filter(|id| !leased.contains(id)) {
            store.forget_manifest(*id);
        }
        Ok(())
    }

    fn delete_rows(&mut self, store: &Store) -> Result<()> {
        let mut dead = Vec::new();
        for row in store.db().rows(CHUNKS, &[])? {
            let (id, location) = chunk_row(&row?)?;
            if self.live.contains(&id) {
                self.summary.live_chunks += 1;
            } else {
                dead.push((id, location));
            }
            if dead.len() == BATCH_ROWS {
                self.delete_unleased(store, &mut dead)?;
            }
        }
        self.delete_unleased(store, &mut dead)
    }

    fn delete_unleased(
        &mut self,
        store: &Store,
        dead: &mut Vec<(ChunkId, Location)>,
    ) -> Result<()> {
        let commit = store.commit_lock();
        let leases = store.inner.leases.lock();
        let unmarked = dead.len();
        dead.retain(|(id, _)| !leases.holds(id));
        self.summary.live_chunks += (unmarked - dead.len()) as u64;
        // Under the leases' lock: a writer that adds the chunk to its lease after this sees it gone.
        let removed = store.remove_rows(&commit, dead)?;
        self.summary.dead_chunks += removed.chunks;
        self.summary.dead_bytes += removed.raw_bytes;
        dead.clear();
        Ok(())
    }

    /// Removes packs without chunks, and tells how many. Their counts say which they may be; the rows
    /// have the last word.
    fn unlink_empty(&mut self, store: &Store) -> Result<u64> {
        let mut empty = packs_at_rest(store);
        empty.retain(|_, row| row.chunks == 0);
        if empty.is_empty() {
            return Ok(0);
        }
        for row in store.db().rows(CHUNKS, &[])? {
            let pack = chunk_row(&row?)?.1.entry.pack;
            if empty.remove(&pack).is_some() {
                tracing::error!(%pack, "a pack without chunks has one; left alone");
            }
        }
        let mut batch = Batch::new();
        for id in empty.keys() {
            batch.delete(PACKS, &id.0.to_be_bytes());
        }
        // Synced, and with it the deletion of the rows that had pointed there.
        store.db().write(batch, Durability::Synced)?;
        for (id, row) in &empty {
            store.inner.packs.lock().remove(id);
            store.remove_pack(*id)?;
            self.summary.reclaimed_bytes += row.len;
        }
        let synced = store.inner.disk.sync_names();
        synced.map_err(|e| Error::io("syncing the pack directory", e))?;
        Ok(empty.len() as u64)
    }
}

/// Packs that nobody writes to and no commit is about to point to.
fn packs_at_rest(store: &Store) -> BTreeMap<PackId, PackRow> {
    let packs = store.inner.packs.lock();
    let writing = store.inner.writing.lock();
    let at_rest = packs.iter().filter(|(id, _)| !writing.is_busy(**id));
    at_rest.map(|(id, row)| (*id, *row)).collect()
}

/// Those of `packs` that are worth rewriting or removing: mostly dead ones; unsealed ones, which a crash
/// left or whose footer is damaged; and small ones, if there are several.
fn sparse(packs: BTreeMap<PackId, PackRow>, pack_len: u64) -> BTreeMap<PackId, PackRow> {
    let (numerator, denominator) = LIVE_SHARE_MIN;
    let (mut sparse, mut rest): (BTreeMap<_, _>, BTreeMap<_, _>) =
        packs.into_iter().partition(|(_, row)| {
            let mostly_dead = row.raw_bytes * denominator < row.raw_written * numerator;
            mostly_dead || row.chunks == 0 || !row.sealed
        });
    rest.retain(|_, row| row.len < pack_len / SMALL_SHARE);
    if rest.len() > 1 {
        sparse.extend(rest);
    }
    sparse
}
