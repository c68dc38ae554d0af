//! A pull as its clients see it: who waits for what, and what has come.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::sync::{Notify, watch};
use vitrail_proto::id::ManifestId;
use vitrail_proto::manifest::Manifest;
use vitrail_proto::runs::Runs;

use super::plan::Plan;

/// A pull as its clients see it.
pub struct PullHandle {
    pub(super) manifest_id: ManifestId,
    pub(super) manifest: Arc<Manifest>,
    /// Whether each chunk, by its first index, is in the store.
    present: Vec<AtomicBool>,
    /// First index of the same chunk, by index.
    first: Vec<u32>,
    done_bytes: AtomicU64,
    arrived: Notify,
    demand: Mutex<Demand>,
    demand_changed: Notify,
    outcome: watch::Sender<Option<Result<(), String>>>,
}

#[derive(Default)]
struct Demand {
    next: u64,
    /// Where clients are, by interest; none for one that waits for everything.
    interests: HashMap<u64, Option<u32>>,
    /// Interests that want the whole image.
    whole: usize,
    last_gone: Option<Instant>,
}

/// Somebody who waits for chunks. The pull may end when all of them are dropped.
pub struct Interest {
    pull: Arc<PullHandle>,
    number: u64,
    whole: bool,
}

impl PullHandle {
    pub(super) fn new(manifest_id: ManifestId, plan: &Plan) -> Arc<Self> {
        Arc::new(Self {
            manifest_id,
            manifest: plan.manifest.clone(),
            present: plan.present.iter().map(|p| AtomicBool::new(*p)).collect(),
            first: plan.first.clone(),
            done_bytes: AtomicU64::new(plan.local_bytes),
            arrived: Notify::new(),
            demand: Mutex::default(),
            demand_changed: Notify::new(),
            outcome: watch::Sender::new(None),
        })
    }

    /// Begins to be interested: in everything, or only in what is waited for.
    pub fn interest(self: &Arc<Self>, whole: bool) -> Interest {
        let mut demand = self.demand.lock();
        let number = demand.next;
        demand.next += 1;
        demand.interests.insert(number, None);
        demand.whole += usize::from(whole);
        drop(demand);
        self.demand_changed.notify_one();
        Interest {
            pull: self.clone(),
            number,
            whole,
        }
    }

    /// Bytes of data that are there, and in all.
    pub fn progress(&self) -> (u64, u64) {
        (
            self.done_bytes.load(Ordering::Relaxed),
            self.manifest.data_size(),
        )
    }

    /// Whether it has ended, well or not.
    pub(super) fn has_ended(&self) -> bool {
        self.outcome.borrow().is_some()
    }

    /// Whether a chunk, by any of its indexes, is in the store.
    pub(super) fn is_present(&self, index: u32) -> bool {
        self.present[self.first[index as usize] as usize].load(Ordering::Acquire)
    }

    /// A chunk, by its first index, is in the store now; `bytes` is what that adds to the progress.
    pub(super) fn set_present(&self, index: u32, bytes: u64) {
        if !self.present[index as usize].swap(true, Ordering::AcqRel) {
            self.done_bytes.fetch_add(bytes, Ordering::Relaxed);
        }
    }

    /// The chunks that are in the store.
    pub(super) fn present_chunks(&self) -> Runs {
        Runs::of((0..self.first.len() as u32).filter(|index| self.is_present(*index)))
    }

    /// Wakes all who wait for chunks.
    pub(super) fn notify_arrived(&self) {
        self.arrived.notify_waiters();
    }

    /// Returns when what is asked for has changed since the last time.
    pub(super) async fn demand_changed(&self) {
        self.demand_changed.notified().await;
    }

    /// Chunk indexes at which clients wait, and whether somebody wants the whole image.
    pub(super) fn demand(&self) -> (Vec<u32>, bool) {
        let demand = self.demand.lock();
        let positions = demand.interests.values().copied().flatten().collect();
        (positions, demand.whole > 0)
    }

    /// How long nobody has been interested.
    pub(super) fn unwanted_for(&self) -> Option<Duration> {
        let demand = self.demand.lock();
        let gone = demand.last_gone.filter(|_| demand.interests.is_empty());
        gone.map(|at| at.elapsed())
    }

    /// The pull has ended.
    pub(super) fn end(&self, result: Result<(), String>) {
        self.outcome.send_replace(Some(result));
        self.notify_arrived();
    }
}

impl Interest {
    /// Waits until these chunks are in the store.
    pub async fn wait(&self, chunks: std::ops::Range<u32>) -> Result<(), String> {
        let pull = &self.pull;
        let mut outcome = pull.outcome.subscribe();
        loop {
            let arrived = pull.arrived.notified();
            let Some(first) = chunks.clone().find(|index| !pull.is_present(*index)) else {
                return Ok(());
            };
            let position = pull.first[first as usize];
            let moved = {
                let mut demand = pull.demand.lock();
                demand.interests.insert(self.number, Some(position)) != Some(Some(position))
            };
            if moved {
                pull.demand_changed.notify_one();
            }
            if let Some(Err(reason)) = outcome.borrow_and_update().clone() {
                return Err(reason);
            }
            tokio::select! {
                () = arrived => {}
                changed = outcome.changed() => if changed.is_err() {
                    return Err("the pull was abandoned".into());
                }
            }
        }
    }

    /// Waits until the pull has ended.
    pub async fn finished(&self) -> Result<(), String> {
        let mut outcome = self.pull.outcome.subscribe();
        let ended = outcome.wait_for(Option::is_some).await;
        match ended.map(|o| o.clone()) {
            Ok(Some(result)) => result,
            _ => Err("the pull was abandoned".into()),
        }
    }

    /// Whether the pull has ended, well or not.
    pub fn has_ended(&self) -> bool {
        self.pull.has_ended()
    }

    /// The pull.
    pub fn pull(&self) -> &Arc<PullHandle> {
        &self.pull
    }
}

impl Drop for Interest {
    fn drop(&mut self) {
        let mut demand = self.pull.demand.lock();
        demand.interests.remove(&self.number);
        demand.whole -= usize::from(self.whole);
        demand.last_gone = Some(Instant::now());
        drop(demand);
        self.pull.demand_changed.notify_one();
    }
}
