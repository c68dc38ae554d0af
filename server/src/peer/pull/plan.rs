//! What a pull has to bring.

use std::collections::HashMap;
use std::sync::Arc;

use vitrail_chunkstore::{Error, Lease, Store};
use vitrail_proto::fetch::Wanted;
use vitrail_proto::id::{ChunkId, ManifestId};
use vitrail_proto::manifest::Manifest;

use crate::peer::serve::held;

pub(super) struct Plan {
    pub(super) manifest: Arc<Manifest>,
    /// Chunk ids, by index.
    pub(super) ids: Vec<ChunkId>,
    /// First index of the same chunk, by index.
    pub(super) first: Vec<u32>,
    /// Whether each chunk is in the store, by index.
    pub(super) present: Vec<bool>,
    /// What is missing, each chunk once.
    pub(super) wanted: Vec<Wanted>,
    /// Bytes of the image's data that are in the store.
    pub(super) local_bytes: u64,
    /// Keeps the manifest and all its chunks.
    pub(super) lease: Arc<Lease>,
}

impl Plan {
    pub(super) fn make(store: &Store, id: ManifestId) -> Result<Self, Error> {
        let lease = Arc::new(store.lease());
        // Its chunks are leased with it, before anybody looks which of them are there.
        lease.add_manifest(id);
        let manifest = store.manifest(id)?;
        let chunks: Vec<(ChunkId, u32)> = manifest.chunks().collect();
        let mut firsts: HashMap<ChunkId, u32> = HashMap::with_capacity(chunks.len());
        let mut first = Vec::with_capacity(chunks.len());
        for (index, (id, _)) in chunks.iter().enumerate() {
            lease.add_chunk(*id);
            first.push(*firsts.entry(*id).or_insert(index as u32));
        }
        let held = held(store, &chunks)?;
        let present: Vec<bool> = (0..chunks.len() as u32).map(|i| held.contains(i)).collect();
        let (mut wanted, mut local_bytes) = (Vec::new(), 0);
        for (index, (_, len)) in chunks.iter().enumerate() {
            if present[index] {
                local_bytes += u64::from(*len);
            } else if first[index] == index as u32 {
                wanted.push(Wanted {
                    index: index as u32,
                    len: *len,
                });
            }
        }
        let ids = chunks.iter().map(|(id, _)| *id).collect();
        Ok(Self {
            manifest,
            ids,
            first,
            present,
            wanted,
            local_bytes,
            lease,
        })
    }
}
