//! Making whole again what this site held whole and of which it lost chunks.
//!
//! Whoever finds a chunk damaged takes it out of the index: a reader, a peer that asked for it, a scrub. From then on it is
//! missing like any other, and one pull brings it. Here that pull is begun when nobody waits for the chunk.
//!
//! What is to be repaired is written down until it is, so that a restart does not forget it.

use std::collections::{BTreeSet, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::sync::Notify;
use vitrail_chunkstore::Store;
use vitrail_chunkstore::db::{Batch, Durability};
use vitrail_proto::gossip::Holding;
use vitrail_proto::id::ManifestId;

use super::gossip::{self, SPACE};
use super::{Peers, serve};

/// Prefix of the keys of manifests that are to be repaired.
const LOST: &[u8] = b"lost/";
/// How often it is looked whether something was found damaged.
const LOOK_INTERVAL: Duration = Duration::from_secs(2);
/// How often a repair is tried again that no other site could help with.
const RETRY_INTERVAL: Duration = Duration::from_secs(300);

/// What is to be repaired.
pub(super) struct Repairs {
    lost: Mutex<BTreeSet<ManifestId>>,
    look: Notify,
    retry: Notify,
}

impl Repairs {
    /// What an earlier run left.
    pub(super) fn open(store: &Store) -> anyhow::Result<Self> {
        let mut lost = BTreeSet::new();
        for row in store.db().rows(SPACE, LOST)? {
            let (key, _) = row?;
            let Some(id) = key.strip_prefix(LOST).and_then(|id| id.try_into().ok()) else {
                break;
            };
            lost.insert(ManifestId::from_bytes(id));
        }
        Ok(Self {
            lost: Mutex::new(lost),
            look: Notify::new(),
            retry: Notify::new(),
        })
    }
}

impl Peers {
    /// Chunks may have been lost: what was held whole is looked at, and repaired.
    pub fn look_for_losses(&self) {
        self.repairs.look.notify_one();
    }

    /// A site can be reached that could not: it may have what is to be repaired.
    pub(super) fn retry_repairs(&self) {
        if !self.repairs.lost.lock().is_empty() {
            self.repairs.retry.notify_one();
        }
    }

    /// The manifests whose chunks must all be here: those that this site told to hold whole, and those that it is
    /// repairing.
    pub fn held_whole(&self) -> HashSet<ManifestId> {
        let mut whole = self.gossip.held_whole();
        whole.extend(self.repairs.lost.lock().iter());
        whole
    }

    /// Repairs until the daemon stops.
    pub(super) async fn repair(self: Arc<Self>) {
        let work = async {
            let mut damaged = 0;
            let mut tried: Option<Instant> = None;
            loop {
                let (look, retry) = tokio::select! {
                    () = self.repairs.look.notified() => (true, true),
                    () = self.repairs.retry.notified() => (false, true),
                    () = tokio::time::sleep(LOOK_INTERVAL) => (false, false),
                };
                let now = self.store.damaged_chunks();
                let found = now != std::mem::replace(&mut damaged, now);
                if look || found {
                    self.find_losses().await;
                }
                if retry || found || tried.is_none_or(|at| at.elapsed() >= RETRY_INTERVAL) {
                    tried = Some(Instant::now());
                    self.repair_losses().await;
                }
            }
        };
        tokio::select! {
            () = work => {}
            () = self.stop.cancelled() => {}
        }
    }

    async fn find_losses(&self) {
        for id in self.gossip.held_whole() {
            let store = self.store.clone();
            let whole =
                serve::blocking(move || gossip::held(&store, id) == Holding::Complete).await;
            if whole == Some(false) {
                self.repairs.lost.lock().insert(id);
                self.note_loss(id, true).await;
                // Others must not count on what is not here.
                self.holding_changed(id).await;
            }
        }
    }

    async fn repair_losses(self: &Arc<Self>) {
        let lost: Vec<ManifestId> = self.repairs.lost.lock().iter().copied().collect();
        for id in lost {
            let wanted = self.catalogue.manifests().contains(&id);
            let repaired = match wanted {
                true => self.repair_one(id).await,
                false => Ok(()),
            };
            match repaired {
                Ok(()) => {
                    self.repairs.lost.lock().remove(&id);
                    self.note_loss(id, false).await;
                    if wanted {
                        self.metrics.repaired.inc();
                        tracing::info!(manifest = %id, "repaired from other sites");
                    }
                }
                Err(reason) => {
                    tracing::error!(manifest = %id, reason, "cannot be repaired now; tried again later");
                }
            }
        }
    }

    async fn repair_one(self: &Arc<Self>, id: ManifestId) -> Result<(), String> {
        let lease = self.store.lease();
        self.ensure_manifest(id, &lease).await?;
        if let Some(interest) = self.pull(id, None, true, None).await? {
            interest.finished().await?;
        }
        self.holding_changed(id).await;
        Ok(())
    }

    async fn note_loss(&self, id: ManifestId, lost: bool) {
        let key = [LOST, id.as_bytes()].concat();
        let mut batch = Batch::new();
        if lost {
            batch.put(SPACE, &key, Vec::new());
        } else {
            batch.delete(SPACE, &key);
        }
        let store = self.store.clone();
        let written = serve::blocking(move || store.db().write(batch, Durability::Buffered)).await;
        if let Some(Err(error)) = written {
            tracing::error!(%error, "what is to be repaired was not written down");
        }
    }
}
