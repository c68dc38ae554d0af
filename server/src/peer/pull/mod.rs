//! Carrying out pulls: one for each manifest, whatever the number of clients that wait for it.
//!
//! A pull lives while somebody is interested in it ([`Interest`]), and ends when everything is there and durable, when it
//! cannot go on, or some time after the last interest has gone. Chunks that arrived stay in the store either way.
//!
//! `plan` finds out what is missing, `task` drives the planner of `vitrail-proto`, `holders` brings sites into the pull,
//! `storing` writes what comes, `account` keeps the figures of the receipt, `rates` what the next pull can learn of
//! them, `telling` says when other sites hear what has come.

mod account;
mod holders;
mod interest;
mod plan;
mod rates;
mod storing;
mod task;
mod telling;

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;
use uuid::Uuid;
use vitrail_proto::id::ManifestId;
use vitrail_proto::runs::Runs;

use super::Peers;
use super::serve::blocking;
pub use interest::{Interest, PullHandle};
use plan::Plan;
use rates::Rates;
use task::Task;

/// All pulls of this site.
#[derive(Default)]
pub(super) struct Pulls {
    active: Mutex<HashMap<ManifestId, Arc<PullHandle>>>,
    next: AtomicU64,
    rates: Rates,
}

impl Pulls {
    /// Joins the pull that runs for a manifest.
    fn join(&self, id: ManifestId, whole: bool) -> Option<Interest> {
        let active = self.active.lock();
        let handle = active.get(&id).filter(|pull| !pull.has_ended())?;
        Some(handle.interest(whole))
    }

    /// What is here of a manifest that is being pulled.
    pub(super) fn present(&self, id: ManifestId) -> Option<Runs> {
        let pull = self.active.lock().get(&id).cloned();
        Some(pull?.present_chunks())
    }

    fn remove(&self, handle: &Arc<PullHandle>) {
        let mut active = self.active.lock();
        // Another may have begun since this one ended.
        if active
            .get(&handle.manifest_id)
            .is_some_and(|pull| Arc::ptr_eq(pull, handle))
        {
            active.remove(&handle.manifest_id);
        }
    }
}

impl Peers {
    /// The pull of a manifest that the store has, begun if it does not run. None if nothing is missing.
    /// One that begins asks for the chunk `at` first, or for any.
    pub async fn pull(
        self: &Arc<Self>,
        id: ManifestId,
        image: Option<Uuid>,
        whole: bool,
        at: Option<u32>,
    ) -> Result<Option<Interest>, String> {
        if let Some(interest) = self.pulls.join(id, whole) {
            return Ok(Some(interest));
        }
        let store = self.store.clone();
        let plan = blocking(move || Plan::make(&store, id)).await;
        let plan = plan.ok_or("planning failed")?.map_err(|e| e.to_string())?;
        if plan.wanted.is_empty() {
            return Ok(None);
        }
        let handle = PullHandle::new(id, &plan);
        let interest = handle.interest(whole);
        {
            let mut active = self.pulls.active.lock();
            if let Some(running) = active.get(&id).filter(|pull| !pull.has_ended()) {
                return Ok(Some(running.interest(whole)));
            }
            active.insert(id, handle.clone());
        }
        let number = self.pulls.next.fetch_add(1, Ordering::Relaxed);
        let task = Task::new(self.clone(), handle, plan, number, image, at);
        self.tasks.spawn(task.run());
        Ok(Some(interest))
    }
}
