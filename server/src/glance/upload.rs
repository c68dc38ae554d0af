//! Uploads of an image's bytes, and of bytes to be imported later.
//!
//! An upload runs in a task of its own, so that it cleans up after itself when its client goes away: the image
//! is queued again and what was stored is left to the collector. At most as many run at once as the memory
//! budget has room for; others wait, their clients held back by TCP, and are told to come again if it
//! takes too long.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::body::{Body as _, Incoming};
use hyper::header::{CONTENT_TYPE, EXPECT, HeaderName};
use hyper::{HeaderMap, Response, StatusCode};
use tokio::sync::OwnedSemaphorePermit;
use tracing::Instrument;
use uuid::Uuid;
use vitrail_proto::record::Value;

use super::import::{self, Asker};
use super::intake::{self, Inspection, LOOK_INTERVAL, Source, Taken};
use super::quota::{self, Quota};
use super::request::Call;
use super::{Api, ApiError, ApiResult, Body, blocking, empty, stores};
use crate::auth::policy::Action;
use crate::catalogue::{Changes, Image, Status, field, now_ms};
use crate::config::ImportMethod;

static IMAGE_SIZE: HeaderName = HeaderName::from_static("x-openstack-image-size");

/// Bytes per second below which a client's body is too slow: it would keep others from uploading.
const RATE_MIN: u64 = 1024;
/// What is read of a refused upload, so that a client that only then looks for the answer finds it: bytes
/// and time.
const DRAIN_BYTES_MAX: u64 = 4 * 1024 * 1024 * 1024;
const DRAIN_TIME_MAX: Duration = Duration::from_secs(30);

/// What the bytes are for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Purpose {
    /// `PUT …/file`: they are the image's.
    Activate,
    /// `PUT …/stage`: they wait to be imported.
    Stage,
}

impl Purpose {
    /// The image's status while they come.
    fn status(self) -> Status {
        match self {
            Self::Activate => Status::Saving,
            Self::Stage => Status::Uploading,
        }
    }

    /// What the quota of its project counts them as.
    fn bytes(self) -> quota::Bytes {
        match self {
            Self::Activate => quota::Bytes::Data,
            Self::Stage => quota::Bytes::Staged,
        }
    }

    fn action(self) -> Action {
        match self {
            Self::Activate => Action::UploadImage,
            Self::Stage => Action::ModifyImage,
        }
    }
}

pub(super) async fn upload(call: Call, id: &str, purpose: Purpose) -> ApiResult<Response<Body>> {
    // From the first change of the image's status on nothing may be dropped half-way, which is what
    // happens to a handler whose client goes away.
    let upload = receive(call, id.to_owned(), purpose).in_current_span();
    tokio::spawn(upload)
        .await
        .map_err(|error| ApiError::internal(&error))?
        .map(|()| empty(StatusCode::NO_CONTENT))
}

async fn receive(mut call: Call, id: String, purpose: Purpose) -> ApiResult<()> {
    match begin(&mut call, &id, purpose).await {
        Ok(upload) => upload.run(call.body).await,
        Err(error) => {
            tracing::warn!(reason = error.message(), "upload refused");
            drain_unless_expecting(&call.headers, call.body);
            Err(error)
        }
    }
}

/// All checks that need no bytes, then the image has the status of the purpose.
async fn begin(call: &mut Call, id: &str, purpose: Purpose) -> ApiResult<Upload> {
    let api = call.api.clone();
    if purpose == Purpose::Stage && !api.config.import.offers(ImportMethod::GlanceDirect) {
        return Err(ApiError::not_found());
    }
    let given = call.header(&CONTENT_TYPE).unwrap_or_default();
    if given.split(';').next().map(str::trim) != Some("application/octet-stream") {
        return Err(ApiError::unsupported_type(format!(
            "The request media type {given} is not supported by this server. Image data is \
             application/octet-stream."
        )));
    }
    let declared_size = match call.header(&IMAGE_SIZE) {
        None => None,
        Some(text) => Some(text.parse::<u64>().map_err(|_| {
            ApiError::bad_request("Invalid or missing image size in request headers.")
        })?),
    };
    let expected_size = declared_size.or(call.body.size_hint().exact());
    let room = Room::of(&api, purpose);
    if let Some(size) = expected_size {
        room.check(size)?;
    }
    let store = match purpose {
        Purpose::Activate => stores::for_upload(call)?,
        Purpose::Stage => api.catalogue.site().to_owned(),
    };
    let image = call.image_for(id, purpose.action())?;
    let slot = slot(&api).await?;
    let begun = api.clone();
    let image = blocking(move || {
        begun.catalogue.modify(image.id, |image| {
            if image.status != Status::Queued {
                return Err(ApiError::conflict(format!(
                    "Image status transition from {} to {} is not allowed",
                    image.status,
                    purpose.status()
                )));
            }
            let has_formats = image.disk_format.is_some() && image.container_format.is_some();
            if purpose == Purpose::Activate && !has_formats {
                return Err(ApiError::bad_request(
                    "Properties disk_format, container_format must be set prior to saving data.",
                ));
            }
            if let Some(quota) = Quota::of_image(&begun, image) {
                quota.check_new_upload(image)?;
                quota.check_size(image, purpose.bytes(), expected_size.unwrap_or(0))?;
            }
            let mut changes = Changes::new();
            let site = begun.catalogue.site().to_owned();
            changes
                .set_status(purpose.status())
                .set_text(field::SAVING_AT, Some(site));
            Ok(changes)
        })
    })
    .await??;
    Ok(Upload {
        api,
        image,
        purpose,
        store,
        asker: Asker::of(call),
        expected_size,
        room,
        _slot: slot,
    })
}

/// One of the intakes that may run at once.
async fn slot(api: &Api) -> ApiResult<OwnedSemaphorePermit> {
    let patience = Duration::from_secs(api.config.api.idle_timeout_s);
    tokio::time::timeout(patience, api.intakes.clone().acquire_owned())
        .await
        .map_err(|_| {
            ApiError::unavailable("Other uploads use all of [store] memory. Try again later.")
        })?
        .map_err(|error| ApiError::internal(&error))
}

/// How many bytes an upload may have. While it lives its bytes count for others, if they are staged.
struct Room {
    api: Arc<Api>,
    size_max: u64,
    /// Bytes that this site has staged, and how many it may; none for what is not staged.
    staged: Option<(u64, u64)>,
    received: u64,
}

impl Room {
    fn of(api: &Arc<Api>, purpose: Purpose) -> Self {
        let site = api.catalogue.site();
        let staged = (purpose == Purpose::Stage).then(|| {
            let images = api.catalogue.images();
            let here = images.iter().filter_map(|image| image.staged.as_ref());
            let here = here.filter(|staged| staged.site == site);
            (
                here.map(|staged| staged.data.size).sum(),
                api.config.import.staging_cap.0,
            )
        });
        Self {
            api: api.clone(),
            size_max: api.config.images.size_cap.0,
            staged,
            received: 0,
        }
    }

    /// Whether `bytes` in all may come.
    fn check(&self, bytes: u64) -> ApiResult<()> {
        if bytes > self.size_max {
            return Err(ApiError::too_large(format!(
                "The image exceeds the maximum size of {} bytes.",
                self.size_max
            )));
        }
        let others = self.api.staging.load(Ordering::Relaxed) - self.received;
        match self.staged {
            Some((staged, cap)) if staged + others + bytes > cap => {
                Err(ApiError::too_large(format!(
                    "The staging area of this site has room for {} more bytes; import or delete staged images.",
                    cap.saturating_sub(staged + others)
                )))
            }
            _ => Ok(()),
        }
    }

    fn receive(&mut self, received: u64) -> ApiResult<()> {
        self.check(received)?;
        if self.staged.is_some() {
            let more = received - self.received;
            self.api.staging.fetch_add(more, Ordering::Relaxed);
            self.received = received;
        }
        Ok(())
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        self.api.staging.fetch_sub(self.received, Ordering::Relaxed);
    }
}

/// An upload whose image has the status of its purpose.
struct Upload {
    api: Arc<Api>,
    image: Arc<Image>,
    purpose: Purpose,
    /// Site that is to have the image besides this one.
    store: String,
    asker: Asker,
    /// Bytes that the client announced.
    expected_size: Option<u64>,
    room: Room,
    _slot: OwnedSemaphorePermit,
}

impl Upload {
    async fn run(mut self, mut body: Incoming) -> ApiResult<()> {
        let result = match self.receive(&mut body).await {
            Ok(taken) => self.finish(taken).await,
            Err(error) => Err(error),
        };
        if let Err(error) = &result {
            self.api.metrics.uploads_failed.inc();
            tracing::warn!(image = %self.image.id, reason = error.message(), "upload failed");
            tokio::spawn(drain(body));
            self.abandon(error.message()).await;
            self.api.collector.wake();
        }
        result
    }

    async fn receive(&mut self, body: &mut Incoming) -> ApiResult<Taken> {
        let mut client = Client {
            body,
            patience: Patience::new(self.api.config.api.idle_timeout_s),
            received: 0,
            expected: self.expected_size,
        };
        let inspection = match self.purpose {
            Purpose::Activate => Inspection::Now(self.image.clone()),
            Purpose::Stage => Inspection::Later,
        };
        let (api, id, purpose) = (self.api.clone(), self.image.id, self.purpose);
        let room = &mut self.room;
        let mut looked_at = 0;
        intake::take(&api, &mut client, inspection, |received| {
            room.receive(received)?;
            if received - looked_at > LOOK_INTERVAL {
                looked_at = received;
                let image = api.catalogue.get(id);
                let image = image.filter(|image| image.status == purpose.status());
                let image = image.ok_or_else(|| gone(id))?;
                Quota::check(&api, &image, purpose.bytes(), received)?;
            }
            Ok(())
        })
        .await
    }

    /// The image gets its bytes, if it still waits for them.
    async fn finish(&self, taken: Taken) -> ApiResult<()> {
        let (id, purpose, data) = (self.image.id, self.purpose, taken.data());
        let site = self.api.catalogue.site().to_owned();
        let (named, api) = (data.clone(), self.api.clone());
        let result = intake::name(&self.api, id, &data, move |image| {
            if image.status != purpose.status() {
                return Err(gone(id));
            }
            // Others may have used the room meanwhile.
            Quota::check(&api, image, purpose.bytes(), named.size)?;
            let mut changes = Changes::new();
            changes.set_text(field::SAVING_AT, None);
            match purpose {
                Purpose::Activate => changes.set_data(named).set_status(Status::Active),
                Purpose::Stage => changes
                    .set(field::STAGED, Value::Data(named))
                    .set_text(field::STAGED_AT, Some(site)),
            };
            Ok(changes)
        })
        .await;
        match result {
            Err(error) if error.status() == StatusCode::NOT_FOUND => return Err(gone(id)),
            result => result?,
        }
        // Only now, with the manifest named by an image, may the lease end.
        drop(taken);
        tracing::info!(image = %id, size = data.size, manifest = %data.manifest, ?purpose, "uploaded");
        self.copy_further().await;
        Ok(())
    }

    /// Sees to the other store that the upload may be for. The upload itself is complete without it.
    async fn copy_further(&self) {
        let (api, id, store) = (self.api.clone(), self.image.id, self.store.clone());
        if store == api.catalogue.site() {
            return;
        }
        let begun = import::copy(api, id, store.clone(), self.asker.clone()).await;
        if let Err(error) = begun {
            tracing::warn!(image = %id, store, reason = error.message(), "not copied to the store");
        }
    }

    /// The image waits for bytes again.
    async fn abandon(&self, reason: &str) {
        let (catalogue, id) = (self.api.catalogue.clone(), self.image.id);
        let (status, reason) = (self.purpose.status(), reason.to_owned());
        let result = blocking(move || {
            catalogue.modify(id, |image| {
                Ok::<_, ApiError>(if image.status == status {
                    image.abandoned(&reason, now_ms())
                } else {
                    Changes::new()
                })
            })
        })
        .await
        .flatten();
        match result {
            Ok(_) => {}
            Err(error) if error.status() == StatusCode::NOT_FOUND => {}
            Err(error) => {
                tracing::error!(image = %id, reason = error.message(), "not queued again")
            }
        }
    }
}

/// The body of a client's request.
struct Client<'a> {
    body: &'a mut Incoming,
    patience: Patience,
    received: u64,
    /// Bytes that it announced.
    expected: Option<u64>,
}

impl Source for Client<'_> {
    async fn next(&mut self) -> ApiResult<Option<Bytes>> {
        loop {
            let frame = self.patience.wait_for(self.body.frame()).await?;
            let Some(frame) = frame else { break };
            let frame = frame.map_err(|error| {
                ApiError::bad_request(format!(
                    "The upload was cut off after {} bytes: {error}",
                    self.received
                ))
            })?;
            let Ok(data) = frame.into_data() else {
                continue;
            };
            self.received += data.len() as u64;
            self.patience.feed(data.len() as u64);
            let received = self.received;
            if let Some(expected) = self.expected.filter(|&expected| received > expected) {
                return Err(ApiError::bad_request(format!(
                    "Size exceeds: expected {expected} bytes, got {received} bytes"
                )));
            }
            return Ok(Some(data));
        }
        let received = self.received;
        match self.expected.filter(|&expected| received < expected) {
            Some(expected) => Err(ApiError::bad_request(format!(
                "Size is short: expected {expected} bytes, got {received} bytes"
            ))),
            None => Ok(None),
        }
    }
}

/// How long a client is waited for: time in which it is held back does not count.
struct Patience {
    idle_s: u64,
    /// Waited since the client last kept to the rate, and bytes that came in that time.
    waited: Duration,
    bytes: u64,
}

impl Patience {
    fn new(idle_s: u64) -> Self {
        Self {
            idle_s,
            waited: Duration::ZERO,
            bytes: 0,
        }
    }

    /// Waits for more of the body. Fails if less than [`RATE_MIN`] came over all of the idle time.
    async fn wait_for<T>(&mut self, more: impl Future<Output = T>) -> ApiResult<T> {
        let left = Duration::from_secs(self.idle_s).saturating_sub(self.waited);
        let begun = tokio::time::Instant::now();
        let more = tokio::time::timeout(left, more).await.map_err(|_| {
            ApiError::bad_request(format!(
                "The upload is too slow: {} bytes came in {} seconds.",
                self.bytes, self.idle_s
            ))
        })?;
        self.waited += begun.elapsed();
        Ok(more)
    }

    /// This many bytes have come.
    fn feed(&mut self, bytes: u64) {
        self.bytes += bytes;
        if self.bytes >= RATE_MIN * self.idle_s {
            (self.waited, self.bytes) = (Duration::ZERO, 0);
        }
    }
}

fn gone(id: Uuid) -> ApiError {
    ApiError::new(
        StatusCode::GONE,
        format!("Image {id} was deleted while its data was uploaded."),
    )
}

/// Reads the body of a refused request on, unless its client waits to be asked for it (`Expect: 100-continue`), and
/// so sends none now.
pub(super) fn drain_unless_expecting(headers: &HeaderMap, body: Incoming) {
    if !headers.contains_key(EXPECT) && !body.is_end_stream() {
        tokio::spawn(drain(body));
    }
}

/// Reads on for a while, so that the client gets to see the answer: many look for it only when they
/// have sent everything.
async fn drain(mut body: Incoming) {
    let read = async {
        let mut bytes = 0;
        while bytes < DRAIN_BYTES_MAX {
            match body.frame().await {
                Some(Ok(frame)) => bytes += frame.data_ref().map_or(0, |d| d.len() as u64),
                _ => break,
            }
        }
    };
    // Whether it came to the end does not matter.
    let _ended = tokio::time::timeout(DRAIN_TIME_MAX, read).await;
}
