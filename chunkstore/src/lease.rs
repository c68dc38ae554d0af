//! Leases: what work in flight needs and a collection must not take.
//!
//! The order that makes this safe, whatever the timing: a writer adds a chunk to its lease *before* it asks
//! whether the store has it; a collection deletes a row only under the lock of the leases, after looking
//! there; and while a collection runs, leases that end are kept until it ends, since the manifest that
//! replaces them may have come too late to be marked.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use parking_lot::{Mutex, MutexGuard};
use vitrail_proto::id::{ChunkId, ManifestId};

/// Keeps chunks and manifests from being collected while it exists.
///
/// Memory: about 60 bytes for each chunk in it.
pub struct Lease {
    number: u64,
    leases: Arc<Leases>,
}

#[derive(Default)]
pub(crate) struct Leases {
    inner: Mutex<Inner>,
}

#[derive(Default)]
pub(crate) struct Inner {
    next: u64,
    held: HashMap<u64, Held>,
    collecting: bool,
}

#[derive(Default)]
struct Held {
    chunks: HashSet<ChunkId>,
    manifests: HashSet<ManifestId>,
    /// Its owner is gone; it stays until the collection ends.
    ended: bool,
}

impl Leases {
    pub(crate) fn begin(self: &Arc<Self>) -> Lease {
        let mut inner = self.inner.lock();
        let number = inner.next;
        inner.next += 1;
        inner.held.insert(number, Held::default());
        Lease {
            number,
            leases: self.clone(),
        }
    }

    /// From now on no lease ends. False if a collection runs already.
    pub(crate) fn begin_collection(&self) -> bool {
        !std::mem::replace(&mut self.inner.lock().collecting, true)
    }

    pub(crate) fn end_collection(&self) {
        let mut inner = self.inner.lock();
        inner.collecting = false;
        inner.held.retain(|_, held| !held.ended);
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock()
    }
}

impl Inner {
    pub(crate) fn holds(&self, chunk: &ChunkId) -> bool {
        self.held.values().any(|held| held.chunks.contains(chunk))
    }

    pub(crate) fn chunk_prefixes(&self) -> impl Iterator<Item = u64> {
        self.held
            .values()
            .flat_map(|held| held.chunks.iter().map(ChunkId::prefix))
    }

    pub(crate) fn manifests(&self) -> impl Iterator<Item = ManifestId> {
        self.held
            .values()
            .flat_map(|held| held.manifests.iter().copied())
    }
}

impl Lease {
    /// Adds a chunk. False if it was in this lease before.
    pub fn add_chunk(&self, id: ChunkId) -> bool {
        self.with(|held| held.chunks.insert(id))
    }

    /// Adds a manifest and, if the store has it, all its chunks. The caller asks for the manifest after
    /// this: if it is there, its chunks are safe; if not, they have to be added one by one.
    pub fn add_manifest(&self, id: ManifestId) {
        self.with(|held| held.manifests.insert(id));
    }

    fn with<T>(&self, act: impl FnOnce(&mut Held) -> T) -> T {
        act(self
            .leases
            .inner
            .lock()
            .held
            .entry(self.number)
            .or_default())
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        let mut inner = self.leases.inner.lock();
        if !inner.collecting {
            inner.held.remove(&self.number);
        } else if let Some(held) = inner.held.get_mut(&self.number) {
            held.ended = true;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lease_that_ends_during_a_collection_holds_until_its_end() {
        let leases = Arc::new(Leases::default());
        let id = ChunkId::of(b"x");
        let lease = leases.begin();
        assert!(lease.add_chunk(id));
        assert!(!lease.add_chunk(id));
        assert!(leases.begin_collection());
        assert!(!leases.begin_collection());
        drop(lease);
        assert!(leases.lock().holds(&id));
        leases.end_collection();
        assert!(!leases.lock().holds(&id));
    }
}
