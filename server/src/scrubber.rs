//! Scrubbing: reading the whole store back now and then, slowly, so that damage is found before a reader finds it and
//! while other sites still have what was lost.
//!
//! The next scrub begins one period after the last one ended, which the time of a file in the data directory tells. One
//! that is cut off begins anew. What is found damaged leaves the index, and the mesh's repair fetches it.

use std::collections::HashSet;
use std::num::NonZeroU64;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime};

use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;
use vitrail_chunkstore::Store;
use vitrail_chunkstore::verify::{Progress, Scrub, VerifyReport};
use vitrail_proto::id::ManifestId;

use crate::config::StoreConfig;
use crate::metrics::Metrics;
use crate::peer::Peers;

/// Its time of change is the end of the last scrub.
const FILE: &str = "scrubbed";
/// After a failure it is tried again sooner than after a period.
const RETRY_DELAY: Duration = Duration::from_secs(3600);

/// Runs scrubs of one store: one in the background, and one that an operator asks for.
pub struct Scrubber {
    store: Store,
    peers: Option<Arc<Peers>>,
    metrics: Arc<Metrics>,
    /// As configured; none is as fast as the disk allows.
    rate: Option<NonZeroU64>,
    /// None for never.
    period: Option<Duration>,
    file: PathBuf,
    /// Held by the one that an operator asked for.
    asked: Mutex<()>,
}

/// A scrub that did not come to its end.
#[derive(Debug, thiserror::Error)]
pub enum ScrubError {
    /// Another one runs.
    #[error("a scrub is running already")]
    Busy,
    /// The store failed, or the scrub was stopped.
    #[error(transparent)]
    Store(#[from] vitrail_chunkstore::Error),
}

impl Scrubber {
    /// A scrubber of the store in `data_dir`.
    pub fn new(
        config: &StoreConfig,
        data_dir: PathBuf,
        store: Store,
        peers: Option<Arc<Peers>>,
        metrics: Arc<Metrics>,
    ) -> Self {
        let seconds = NonZeroU64::new(config.scrub_period_s);
        Self {
            store,
            peers,
            metrics,
            rate: NonZeroU64::new(config.scrub_rate.0),
            period: seconds.map(|seconds| Duration::from_secs(seconds.get())),
            file: data_dir.join(FILE),
            asked: Mutex::new(()),
        }
    }

    /// Scrubs every period, until `stop`.
    pub async fn run(self: Arc<Self>, stop: CancellationToken) {
        let Some(period) = self.period else {
            return;
        };
        let mut wait = self.due_in(period);
        loop {
            tokio::select! {
                () = tokio::time::sleep(wait) => {}
                () = stop.cancelled() => return,
            }
            let (this, ended) = (self.clone(), Arc::new(AtomicBool::new(false)));
            let flag = ended.clone();
            let scrub = tokio::task::spawn_blocking(move || this.scrub(this.rate, &flag, |_| {}));
            let result = tokio::select! {
                result = scrub => result,
                () = stop.cancelled() => {
                    ended.store(true, Ordering::Relaxed);
                    return;
                }
            };
            wait = period;
            match result {
                Ok(Ok(_)) => {}
                Ok(Err(error)) => {
                    tracing::error!(%error, "the scrub failed");
                    wait = period.min(RETRY_DELAY);
                }
                Err(error) => {
                    tracing::error!(%error, "the scrub failed");
                    wait = period.min(RETRY_DELAY);
                }
            }
        }
    }

    /// A new store has nothing that could have rotted, so the first scrub waits for a period too.
    fn due_in(&self, period: Duration) -> Duration {
        let last = std::fs::metadata(&self.file).and_then(|file| file.modified());
        let last = last.unwrap_or_else(|_| {
            self.note_end();
            SystemTime::now()
        });
        let since = SystemTime::now().duration_since(last).unwrap_or_default();
        period.saturating_sub(since)
    }

    fn note_end(&self) {
        if let Err(error) = std::fs::write(&self.file, "") {
            tracing::warn!(%error, file = %self.file.display(), "cannot note that a scrub ended");
        }
    }

    /// Scrubs now, at any rate, for an operator, until `stop` is true. Blocks.
    pub fn scrub_now(
        &self,
        rate: Option<NonZeroU64>,
        stop: &AtomicBool,
        progress: impl FnMut(Progress),
    ) -> Result<VerifyReport, ScrubError> {
        let _asked = self.asked.try_lock().ok_or(ScrubError::Busy)?;
        Ok(self.scrub(rate, stop, progress)?)
    }

    fn scrub(
        &self,
        rate: Option<NonZeroU64>,
        stop: &AtomicBool,
        mut progress: impl FnMut(Progress),
    ) -> Result<VerifyReport, vitrail_chunkstore::Error> {
        let begun = Instant::now();
        let whole = self.held_whole();
        let scrub = Scrub {
            rate,
            whole: whole.as_ref(),
            stop: Some(stop),
        };
        let mut counted = 0;
        let result = scrub.run(&self.store, |at| {
            self.metrics.scrubbed_bytes.inc_by(at.done_bytes - counted);
            counted = at.done_bytes;
            progress(at);
        });
        if let Some(peers) = &self.peers {
            peers.look_for_losses();
        }
        let report = result?;
        self.note_end();
        self.metrics.scrub_ended(crate::catalogue::now_ms() / 1000);
        tracing::info!(
            seconds = begun.elapsed().as_secs(),
            bytes = report.bytes,
            damaged = report.damaged.len(),
            damaged_manifests = report.damaged_manifests.len(),
            missing = report.missing.len(),
            "scrubbed"
        );
        Ok(report)
    }

    /// The rate that is configured.
    pub fn rate(&self) -> Option<NonZeroU64> {
        self.rate
    }

    /// What must be here whole: in a mesh what this site told that it holds, on its own everything.
    fn held_whole(&self) -> Option<HashSet<ManifestId>> {
        self.peers.as_ref().map(|peers| peers.held_whole())
    }
}
