//! What an import does once it holds the image.

use std::collections::BTreeSet;
use std::sync::Arc;

use uuid::Uuid;

use super::super::{Api, ApiError, ApiResult, blocking, stores};
use super::Method;
use crate::catalogue::{Changes, Image, Task, TaskStatus, field, now_ms};

/// An import under way.
pub(super) struct Work {
    api: Arc<Api>,
    image: Uuid,
    task: Task,
    /// Stores that are still to come.
    open: BTreeSet<String>,
    /// Stores that failed, and why.
    failed: BTreeSet<String>,
    reasons: Vec<String>,
}

impl Work {
    pub(super) fn new(api: Arc<Api>, image: Uuid, task: Task, open: BTreeSet<String>) -> Self {
        Self {
            api,
            image,
            task,
            open,
            failed: BTreeSet::new(),
            reasons: Vec::new(),
        }
    }

    /// Goes on in the background, until the daemon stops.
    pub(super) fn spawn(self, method: Method) {
        let (background, stop) = (self.api.background.clone(), self.api.stop.clone());
        background.spawn(async move {
            let (api, image, task) = (self.api.clone(), self.image, self.task.clone());
            let ended = stop.run_until_cancelled_owned(self.run(method)).await;
            let result = ended.unwrap_or_else(|| Err("this site is stopping".into()));
            end(&api, image, &task, result).await;
        });
    }

    /// Tells how it went.
    async fn run(mut self, method: Method) -> Result<String, String> {
        match method {
            Method::CopyImage => {}
        }
        self.copy().await;
        if !self.failed.is_empty() {
            return Err(self.reasons.join("; "));
        }
        let size = self.api.catalogue.get(self.image).and_then(|i| i.size());
        Ok(format!("Copied {} MiB", size.unwrap_or(0) >> 20))
    }

    /// Brings the image to the stores that are still to come.
    async fn copy(&mut self) {
        let sites: Vec<String> = self.open.iter().cloned().collect();
        let Some(peers) = self.api.peers.clone().filter(|_| !sites.is_empty()) else {
            self.open.clear();
            return;
        };
        let (mut lines, result) = peers.preseed(vec![self.image], sites);
        while let Some(line) = lines.recv().await {
            match line.state {
                "held" => self.arrived(&line.site).await,
                "failed" => self.missed(&line.site, &line.reason).await,
                _ => {}
            }
        }
        // Lines may have been dropped; the result has all.
        let ended = result.await.map(|result| result.sites).unwrap_or_default();
        for line in ended {
            match line.state {
                "held" => self.arrived(&line.site).await,
                _ => self.missed(&line.site, &line.reason).await,
            }
        }
    }

    async fn arrived(&mut self, site: &str) {
        if self.open.remove(site) {
            self.tell().await;
        }
    }

    async fn missed(&mut self, site: &str, reason: &str) {
        if self.open.remove(site) {
            self.failed.insert(site.to_owned());
            self.reasons.push(format!("{site}: {reason}"));
            self.tell().await;
        }
    }

    /// Writes down which stores are open and which failed.
    async fn tell(&self) {
        let (open, failed) = (stores::join(&self.open), stores::join(&self.failed));
        let told = change(&self.api, self.image, &self.task, move |_| {
            let mut changes = Changes::new();
            changes
                .set_text(field::IMPORTING_TO, Some(open))
                .set_text(field::FAILED_IMPORT, Some(failed));
            changes
        });
        if let Err(error) = told.await {
            tracing::warn!(image = %self.image, reason = error.message(), "progress was not written");
        }
    }
}

/// Ends the import and lets go of the image.
async fn end(api: &Arc<Api>, id: Uuid, task: &Task, result: Result<String, String>) {
    match &result {
        Ok(message) => tracing::info!(image = %id, message, "import ended"),
        Err(reason) => tracing::warn!(image = %id, reason, "import failed"),
    }
    let ended = task.clone();
    let written = change(api, id, task, move |image| match result {
        Err(reason) => image.abandoned(&reason, now_ms()),
        Ok(message) => {
            let mut changes = Changes::new();
            changes
                .set_task(&ended.ended(TaskStatus::Success, message, now_ms()))
                .set_text(field::IMPORT_TASK, None)
                .set_text(field::IMPORT_AT, None)
                .set_text(field::IMPORTING_TO, Some(String::new()));
            changes
        }
    });
    if let Err(error) = written.await {
        tracing::warn!(image = %id, reason = error.message(), "the import's end was not written");
    }
}

/// Changes the image, if the task still holds it.
async fn change(
    api: &Arc<Api>,
    id: Uuid,
    task: &Task,
    changes: impl FnOnce(&Image) -> Changes + Send + 'static,
) -> ApiResult<()> {
    let (catalogue, task) = (api.catalogue.clone(), task.id);
    blocking(move || {
        catalogue.modify(id, |image| {
            if image
                .import
                .as_ref()
                .is_none_or(|import| import.task != task)
            {
                return Err(ApiError::conflict("the import no longer holds the image"));
            }
            Ok(changes(image))
        })
    })
    .await??;
    Ok(())
}
