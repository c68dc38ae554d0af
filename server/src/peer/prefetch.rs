//! Copies that are cached: which there are, and fetching those that are wanted ahead of their readers.

use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;
use uuid::Uuid;
use vitrail_proto::wire::ProgressState;

use super::Peers;
use super::ask::Hold;
use super::serve::held;
use crate::catalogue::{Image, Intent};

/// How long what failed is left alone.
const RETRY_DELAY: Duration = Duration::from_secs(60);

/// A cached copy.
pub struct CachedCopy {
    /// Whether all of it is here.
    pub complete: bool,
    /// Bytes of the image that are here, holes included if all of it is.
    pub bytes: u64,
    /// When the latest pull of it began, in seconds since 1970; 0 if that is not known any more.
    pub pulled_at: f64,
}

impl Peers {
    /// This site's cached copy of an image; none if it has nothing of it, or is to keep what it has. Blocks.
    pub fn cached_copy(&self, image: &Image) -> Option<CachedCopy> {
        let id = image.data.as_ref()?.manifest;
        if self.catalogue.copies().intent(id).is_some() {
            return None;
        }
        let manifest = self.store.manifest(id).ok()?;
        let complete = self.gossip.holds(&self.site, id) == Some(true);
        let bytes = if complete {
            manifest.size()
        } else {
            let chunks: Vec<_> = manifest.chunks().collect();
            let held = held(&self.store, &chunks).ok()?;
            let lens = held.iter().map(|index| u64::from(chunks[index as usize].1));
            lens.sum()
        };
        let receipts = self.receipts.list(Some(image.id));
        let pulled_at = receipts
            .first()
            .and_then(|receipt| receipt.started_at.parse::<jiff::Timestamp>().ok());
        Some(CachedCopy {
            complete,
            bytes,
            pulled_at: pulled_at.map_or(0.0, |at| at.as_second() as f64),
        })
    }

    /// Fetches what is wanted, one image after the other, until the site stops.
    pub(super) async fn prefetch(self: Arc<Self>, stop: CancellationToken) {
        loop {
            let mut failed = false;
            for image in self.wanted_images() {
                let fetched = stop.run_until_cancelled(self.prefetch_one(image)).await;
                match fetched {
                    Some(Ok(())) => tracing::info!(%image, "fetched ahead"),
                    Some(Err(reason)) => {
                        tracing::warn!(%image, reason, "not fetched ahead");
                        failed = true;
                    }
                    None => return,
                }
            }
            let again = async {
                if failed {
                    tokio::time::sleep(RETRY_DELAY).await;
                } else {
                    std::future::pending().await
                }
            };
            tokio::select! {
                () = self.catalogue.copies().wanted() => {}
                () = again => {}
                () = stop.cancelled() => return,
            }
        }
    }

    fn wanted_images(&self) -> Vec<Uuid> {
        let wanted = self.catalogue.copies().all(Intent::Fetch);
        let images = self.catalogue.images().into_iter();
        images
            .filter(|image| image.manifest().is_some_and(|id| wanted.contains(&id)))
            .map(|image| image.id)
            .collect()
    }

    async fn prefetch_one(self: &Arc<Self>, image: Uuid) -> Result<(), String> {
        let mut hold = Hold::begin(self.clone(), image, false);
        loop {
            let progress = hold.next().await;
            match progress.state {
                ProgressState::Running => {}
                ProgressState::Held => return Ok(()),
                ProgressState::Failed => return Err(progress.text),
            }
        }
    }
}
