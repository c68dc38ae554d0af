//! What is kept between runs, and what is asked of the disk for gossip.

use std::collections::BTreeMap;
use std::sync::Arc;

use uuid::Uuid;
use vitrail_chunkstore::Store;
use vitrail_chunkstore::db::{Batch, Durability};
use vitrail_proto::codec::Reader;
use vitrail_proto::gossip::{self as core, CatalogueFailed, Holding, Snapshot, Start};
use vitrail_proto::id::ManifestId;
use vitrail_proto::record::{Merge, Record};
use vitrail_proto::runs::Runs;

use super::SPACE;
use crate::catalogue::{Catalogue, CatalogueError};
use crate::peer::serve;

const SNAPSHOT: &[u8] = b"snapshot";
const CLEAN: &[u8] = b"clean";
/// Prefix of the keys of manifests that this site told to hold. The value is empty for all of one, else runs.
const HELD: &[u8] = b"held/";

/// What the store has of a manifest.
pub(in crate::peer) fn held(store: &Store, id: ManifestId) -> Holding {
    let Ok(manifest) = store.manifest(id) else {
        return Holding::None;
    };
    let chunks: Vec<_> = manifest.chunks().collect();
    match serve::held(store, &chunks) {
        Ok(held) if held.count() == chunks.len() as u64 => Holding::Complete,
        Ok(held) if !held.is_empty() => Holding::Part(held),
        _ => Holding::None,
    }
}

/// What an earlier run knew and told.
pub(super) fn read_start(store: &Store) -> anyhow::Result<Start> {
    let snapshot = match store.db().get(SPACE, SNAPSHOT)? {
        None => None,
        Some(bytes) => match Snapshot::decode(&bytes) {
            Ok(snapshot) => Some(snapshot),
            Err(error) => {
                tracing::warn!(%error, "what was known of other sites cannot be read; it is learnt anew");
                None
            }
        },
    };
    let clean = store
        .db()
        .get(SPACE, CLEAN)?
        .is_some_and(|value| value == [1]);
    let mut holdings = BTreeMap::new();
    for row in store.db().rows(SPACE, HELD)? {
        let (key, value) = row?;
        let Some(id) = key.strip_prefix(HELD).and_then(|id| id.try_into().ok()) else {
            break;
        };
        let holding = match value.is_empty() {
            true => Holding::Complete,
            false => Holding::Part(Runs::decode(&mut Reader::new(&value))?),
        };
        holdings.insert(ManifestId::from_bytes(id), holding);
    }
    Ok(Start {
        snapshot,
        clean,
        holdings,
    })
}

/// Writes down what was told of a manifest.
pub(super) fn write_holding(store: &Store, id: ManifestId, holding: &Holding) {
    let mut batch = Batch::new();
    let key = [HELD, id.as_bytes()].concat();
    match holding {
        Holding::None => batch.delete(SPACE, &key),
        Holding::Complete => batch.put(SPACE, &key, Vec::new()),
        Holding::Part(runs) => {
            let mut value = Vec::new();
            runs.encode(&mut value);
            batch.put(SPACE, &key, value);
        }
    }
    write(store, batch);
}

/// Writes the core's state down, if there is a new one. `clean` is said only by the last save of a run.
pub(super) fn write_snapshot(store: &Store, snapshot: Option<Vec<u8>>, clean: bool) {
    let mut batch = Batch::new();
    batch.put(SPACE, CLEAN, vec![u8::from(clean)]);
    if let Some(bytes) = snapshot {
        batch.put(SPACE, SNAPSHOT, bytes);
    }
    write(store, batch);
}

fn write(store: &Store, batch: Batch) {
    if let Err(error) = store.db().write(batch, Durability::Synced) {
        tracing::error!(%error, "what is known of other sites was not written");
    }
}

/// The catalogue as the core sees it.
pub(super) struct Records(pub(super) Arc<Catalogue>);

impl core::Catalogue for Records {
    fn ids(&self) -> Vec<Uuid> {
        self.0.all_ids()
    }

    fn record(&self, id: Uuid) -> Option<Record> {
        self.0.record(id).ok().flatten()
    }

    fn merge(&mut self, record: Record) -> Result<Merge, CatalogueFailed> {
        let id = record.id;
        match self.0.merge(record) {
            // Ours stays as it is. Hanging up on whoever sent it would cut off all the rest as well.
            Err(error @ CatalogueError::TooLong(..)) => {
                tracing::error!(%id, %error, "what other sites wrote to an image is left out");
                Ok(Merge::Unchanged)
            }
            result => result.map_err(failed),
        }
    }

    fn replace(&mut self, record: Record) -> Result<(), CatalogueFailed> {
        self.0.replace(record).map_err(failed)
    }

    fn forget(&mut self, id: Uuid) -> Result<(), CatalogueFailed> {
        self.0.forget(id).map_err(failed)
    }
}

fn failed(error: CatalogueError) -> CatalogueFailed {
    tracing::error!(%error, "a record from elsewhere was not taken");
    CatalogueFailed
}
