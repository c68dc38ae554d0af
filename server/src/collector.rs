//! When garbage is collected: some time after something was deleted or abandoned, and when an operator asks.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use vitrail_chunkstore::Store;
use vitrail_chunkstore::gc::{Collection, GcSummary};

use crate::catalogue::Catalogue;

/// Runs collections of one store.
pub struct Collector {
    store: Store,
    catalogue: Arc<Catalogue>,
    wanted: Notify,
}

/// A collection that did not happen.
#[derive(Debug, thiserror::Error)]
pub enum CollectError {
    /// Another one runs.
    #[error("a collection is running already")]
    Busy,
    /// The store failed.
    #[error(transparent)]
    Store(#[from] vitrail_chunkstore::Error),
}

impl Collector {
    /// A collector that sleeps.
    pub fn new(store: Store, catalogue: Arc<Catalogue>) -> Self {
        Self {
            store,
            catalogue,
            wanted: Notify::new(),
        }
    }

    /// Something may have become garbage.
    pub fn wake(&self) {
        self.wanted.notify_one();
    }

    /// Collects `delay` after each wake, until `stop`.
    pub async fn run(self: Arc<Self>, delay: Duration, stop: CancellationToken) {
        loop {
            tokio::select! {
                () = self.wanted.notified() => {}
                () = self.catalogue.copies().evicted() => {}
                () = stop.cancelled() => return,
            }
            tokio::select! {
                () = tokio::time::sleep(delay) => {}
                () = stop.cancelled() => return,
            }
            let this = self.clone();
            let collection = tokio::task::spawn_blocking(move || this.collect(false, |_, _| {}));
            let result = tokio::select! {
                result = collection => result,
                // It is safe to be cut off.
                () = stop.cancelled() => return,
            };
            match result {
                Ok(Ok(summary)) => tracing::info!(?summary, "collected"),
                Ok(Err(CollectError::Busy)) => self.wake(),
                Ok(Err(error)) => tracing::error!(%error, "collection failed"),
                Err(error) => tracing::error!(%error, "collection failed"),
            }
        }
    }

    /// Collects now, or only tells what a collection would do. Blocks.
    pub fn collect(
        &self,
        dry_run: bool,
        progress: impl FnMut(u64, u64),
    ) -> Result<GcSummary, CollectError> {
        let collection = Collection::begin(&self.store).ok_or(CollectError::Busy)?;
        // The roots are read after the begin: that order keeps what becomes an image meanwhile.
        let plan = collection.plan(self.catalogue.manifests())?;
        if dry_run {
            return Ok(plan.summary.clone());
        }
        Ok(plan.execute(progress)?)
    }
}
