//! What an import does once it holds the image.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use hyper::StatusCode;
use reqwest::Url;
use uuid::Uuid;
use vitrail_proto::record::{Data, Value};

use super::Method;
use super::web::Download;
use crate::catalogue::{Changes, Image, Status, Task, TaskStatus, field, now_ms};
use crate::glance::intake::{self, Inspection, LOOK_INTERVAL};
use crate::glance::quota::{Bytes, Quota};
use crate::glance::{Api, ApiError, ApiResult, blocking, stores};

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
            let result = ended.unwrap_or_else(|| Err("this site is stopping".to_owned().into()));
            end(&api, image, &task, result).await;
            // What was taken in may be of no use.
            api.collector.wake();
        });
    }

    /// Tells how it went.
    async fn run(mut self, method: Method) -> Result<String, Failure> {
        match method {
            Method::CopyImage => {}
            Method::GlanceDirect => self.import_staged().await?,
            Method::WebDownload(url, sha512) => {
                let time_max = Duration::from_secs(self.api.config.import.download_time_max_s);
                tokio::time::timeout(time_max, self.download(url, sha512))
                    .await
                    .map_err(|_| format!("it took longer than {} s", time_max.as_secs()))??;
            }
        }
        self.copy().await;
        if !self.failed.is_empty() {
            return Err(self.reasons.join("; ").into());
        }
        let size = self.api.catalogue.get(self.image).and_then(|i| i.size());
        Ok(format!("Copied {} MiB", size.unwrap_or(0) >> 20))
    }

    /// Makes what was staged the image's bytes.
    async fn import_staged(&mut self) -> Result<(), Failure> {
        let image = self
            .api
            .catalogue
            .get(self.image)
            .ok_or("it was deleted".to_owned())?;
        let staged = image
            .staged
            .as_ref()
            .ok_or("nothing is staged".to_owned())?;
        let lease = self.api.store.lease();
        lease.add_manifest(staged.data.manifest);
        let virtual_size = intake::inspect_staged(&self.api, &image, &staged.data).await?;
        let data = Data {
            virtual_size,
            ..staged.data.clone()
        };
        self.activate(data).await
    }

    /// Takes in what a URL leads to.
    async fn download(&mut self, url: Url, sha512: Option<Vec<u8>>) -> Result<(), Failure> {
        let api = self.api.clone();
        let image = api
            .catalogue
            .get(self.image)
            .ok_or("it was deleted".to_owned())?;
        let owned = image.clone();
        let slot = api.intakes.acquire().await;
        let _slot = slot.map_err(|error| error.to_string())?;
        let idle = Duration::from_secs(api.config.api.idle_timeout_s);
        let mut source = Download::open(url, &api.config.import, idle).await?;
        let size_max = api.config.images.size_cap.0;
        let mut looked_at = 0;
        let mut check = |bytes: u64| {
            if bytes > size_max {
                return Err(ApiError::too_large(format!(
                    "the data exceeds the maximum size of {size_max} bytes"
                )));
            }
            if bytes - looked_at > LOOK_INTERVAL {
                looked_at = bytes;
                Quota::check(&api, &owned, Bytes::Data, bytes)?;
            }
            Ok(())
        };
        let announced = source.len().unwrap_or(0);
        check(announced)?;
        Quota::check(&api, &owned, Bytes::Data, announced)?;
        let taken = intake::take(&api, &mut source, Inspection::Now(image), check).await?;
        let data = taken.data();
        if sha512.is_some_and(|wanted| wanted != data.sha512) {
            return Err(Failure::from(
                "the data has another hash than was given".to_owned(),
            ));
        }
        self.activate(data).await
        // The lease ends here, with the manifest named by the image.
    }

    /// The image gets its bytes, which are at this site.
    async fn activate(&mut self, data: Data) -> Result<(), Failure> {
        self.open.remove(self.api.catalogue.site());
        let (open, task, named) = (stores::join(&self.open), self.task.id, data.clone());
        let api = self.api.clone();
        intake::name(&self.api, self.image, &data, move |image| {
            held_by(image, task)?;
            Quota::check(&api, image, Bytes::Data, named.size)?;
            let mut changes = Changes::new();
            changes
                .set_data(named)
                .set_status(Status::Active)
                .set(field::STAGED, Value::Null)
                .set_text(field::IMPORTING_TO, Some(open));
            Ok(changes)
        })
        .await?;
        Ok(())
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
            stores::settle(&self.api, self.image, site, true).await;
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

/// Why an import failed.
#[derive(Debug)]
struct Failure {
    reason: String,
    /// The content was refused, so what is staged is of no use.
    refused: bool,
}

impl From<String> for Failure {
    fn from(reason: String) -> Self {
        Self {
            reason,
            refused: false,
        }
    }
}

impl From<ApiError> for Failure {
    fn from(error: ApiError) -> Self {
        Self {
            reason: error.message().to_owned(),
            refused: error.status() == StatusCode::UNSUPPORTED_MEDIA_TYPE,
        }
    }
}

/// Ends the import and lets go of the image.
async fn end(api: &Arc<Api>, id: Uuid, task: &Task, result: Result<String, Failure>) {
    match &result {
        Ok(message) => tracing::info!(image = %id, message, "import ended"),
        Err(failure) => tracing::warn!(image = %id, reason = failure.reason, "import failed"),
    }
    let ended = task.clone();
    let written = change(api, id, task, move |image| match result {
        Err(failure) => {
            let mut changes = image.abandoned(&failure.reason, now_ms());
            if failure.refused {
                changes.set(field::STAGED, Value::Null);
                changes.set_status(Status::Queued);
            }
            changes
        }
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
            held_by(image, task)?;
            Ok::<_, ApiError>(changes(image))
        })
    })
    .await??;
    Ok(())
}

fn held_by(image: &Image, task: Uuid) -> ApiResult<()> {
    match &image.import {
        Some(import) if import.task == task => Ok(()),
        _ => Err(ApiError::conflict("the import no longer holds the image")),
    }
}
