//! Uploads.
//!
//! An upload runs in a task of its own, so that it cleans up after itself when its client goes away: the image
//! is queued again and what was stored is left to the collector. At most as many run at once as the memory
//! budget has room for; others wait, their clients held back by TCP, and are told to come again if it
//! takes too long.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::body::{Body as _, Incoming};
use hyper::header::{CONTENT_TYPE, EXPECT, HeaderName};
use hyper::{HeaderMap, Response, StatusCode};
use tokio::sync::{OwnedSemaphorePermit, mpsc};
use tracing::Instrument;
use uuid::Uuid;
use vitrail_chunkstore::{Ingest, Ingested};
use vitrail_proto::manifest::FormatFacts;
use vitrail_proto::record::Data;

use super::import::Asker;
use super::quota::Quota;
use super::request::Call;
use super::{Api, ApiError, ApiResult, Body, blocking, empty, import, stores};
use crate::auth::policy::Action;
use crate::catalogue::{Changes, Image, Intent, Status, field};
use crate::inspect::{Declared, Inspector, Rules, Verdict};

static IMAGE_SIZE: HeaderName = HeaderName::from_static("x-openstack-image-size");

/// Pieces of a body that wait for the ingest; each is at most a connection's buffer of 64 KiB.
const QUEUE_PIECES: usize = 4;
/// What is read of a refused upload, so that a client that only then looks for the answer finds it: bytes
/// and time.
const DRAIN_BYTES_MAX: u64 = 4 * 1024 * 1024 * 1024;
const DRAIN_TIME_MAX: Duration = Duration::from_secs(30);

/// What goes from the connection to the ingest. A queue that closes without `End` is an upload that was
/// cut off.
enum Piece {
    Data(Bytes),
    End,
}

pub(super) async fn upload(call: Call, id: &str) -> ApiResult<Response<Body>> {
    // From the first change of the image's status on nothing may be dropped half-way, which is what
    // happens to a handler whose client goes away.
    let upload = receive(call, id.to_owned()).in_current_span();
    tokio::spawn(upload)
        .await
        .map_err(|error| ApiError::internal(&error))?
        .map(|()| empty(StatusCode::NO_CONTENT))
}

async fn receive(mut call: Call, id: String) -> ApiResult<()> {
    match begin(&mut call, &id).await {
        Ok(upload) => upload.run(call.body).await,
        Err(error) => {
            tracing::warn!(reason = error.message(), "upload refused");
            drain_unless_expecting(&call.headers, call.body);
            Err(error)
        }
    }
}

/// All checks that need no bytes, then the image is `saving`.
async fn begin(call: &mut Call, id: &str) -> ApiResult<Upload> {
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
    let api = call.api.clone();
    let size_max = api.config.images.size_cap.0;
    if expected_size.is_some_and(|size| size > size_max) {
        return Err(too_large(size_max));
    }
    let store = stores::for_upload(call)?;
    let image = call.image_for(id, Action::UploadImage)?;
    let slot = slot(&api).await?;
    let (catalogue, begun) = (api.catalogue.clone(), api.clone());
    let image =
        blocking(move || {
            catalogue.modify(image.id, |image| {
            if image.status != Status::Queued {
                return Err(ApiError::conflict(format!(
                    "Image status transition from {} to saving is not allowed",
                    image.status
                )));
            }
            if image.disk_format.is_none() || image.container_format.is_none() {
                return Err(ApiError::bad_request(
                    "Properties disk_format, container_format must be set prior to saving data.",
                ));
            }
            if let Some(quota) = quota(&begun, image) {
                quota.check_new_upload(image)?;
                quota.check_size(image, expected_size.unwrap_or(0))?;
            }
            let mut changes = Changes::new();
            let site = catalogue.site().to_owned();
            changes.set_status(Status::Saving).set_text(field::SAVING_AT, Some(site));
            Ok(changes)
        })
        })
        .await??;
    Ok(Upload {
        api,
        image,
        store,
        asker: Asker::of(call),
        expected_size,
        size_max,
        _slot: slot,
    })
}

/// One of the uploads that may run at once.
async fn slot(api: &Api) -> ApiResult<OwnedSemaphorePermit> {
    let patience = Duration::from_secs(api.config.api.idle_timeout_s);
    tokio::time::timeout(patience, api.uploads.clone().acquire_owned())
        .await
        .map_err(|_| {
            ApiError::unavailable("Other uploads use all of [store] memory. Try again later.")
        })?
        .map_err(|error| ApiError::internal(&error))
}

/// The quota that an image counts for.
fn quota<'a>(api: &'a Api, image: &'a Image) -> Option<Quota<'a>> {
    Quota::of(&api.config.quotas, &api.catalogue, image.owner.as_deref())
}

fn too_large(size_max: u64) -> ApiError {
    ApiError::too_large(format!(
        "The image exceeds the maximum size of {size_max} bytes."
    ))
}

/// An upload whose image is `saving`.
struct Upload {
    api: Arc<Api>,
    image: Arc<Image>,
    /// Site that is to have the image besides this one.
    store: String,
    asker: Asker,
    /// Bytes that the client announced.
    expected_size: Option<u64>,
    size_max: u64,
    _slot: OwnedSemaphorePermit,
}

impl Upload {
    async fn run(self, mut body: Incoming) -> ApiResult<()> {
        let (pieces, queue) = mpsc::channel(QUEUE_PIECES);
        let store = self.api.store.clone();
        let image = self.image.clone();
        let require_match = self.api.config.images.require_format_match;
        let span = tracing::Span::current();
        let ingest = tokio::task::spawn_blocking(move || {
            span.in_scope(|| ingest(&store, &image, require_match, queue))
        });
        let received = self.receive(&mut body, pieces).await;
        let ingested = ingest
            .await
            .map_err(|error| ApiError::internal(&error))
            .flatten();
        // A refusal of the content explains why receiving stopped; otherwise the connection does.
        let result = match (received, ingested) {
            (Ok(()), Ok(ingested)) => self.activate(ingested).await,
            (_, Err(error)) if error.status() != StatusCode::BAD_REQUEST => Err(error),
            (Err(error), _) | (Ok(()), Err(error)) => Err(error),
        };
        if let Err(error) = &result {
            self.api.metrics.uploads_failed.inc();
            tracing::warn!(image = %self.image.id, reason = error.message(), "upload failed");
            tokio::spawn(drain(body));
            self.abandon().await;
            self.api.collector.wake();
        }
        result
    }

    async fn receive(&self, body: &mut Incoming, pieces: mpsc::Sender<Piece>) -> ApiResult<()> {
        let idle = Duration::from_secs(self.api.config.api.idle_timeout_s);
        let mut received = 0u64;
        let mut until_check = 0u64;
        loop {
            let frame = tokio::time::timeout(idle, body.frame())
                .await
                .map_err(|_| {
                    ApiError::bad_request(format!(
                        "The upload stopped: no byte came for {} seconds.",
                        idle.as_secs()
                    ))
                })?;
            let frame = match frame {
                None => break,
                Some(frame) => frame.map_err(|error| {
                    ApiError::bad_request(format!(
                        "The upload was cut off after {received} bytes: {error}"
                    ))
                })?,
            };
            let Ok(data) = frame.into_data() else {
                continue;
            };
            received += data.len() as u64;
            until_check += data.len() as u64;
            self.api.metrics.received_bytes.inc_by(data.len() as u64);
            if let Some(expected) = self.expected_size.filter(|&expected| received > expected) {
                return Err(ApiError::bad_request(format!(
                    "Size exceeds: expected {expected} bytes, got {received} bytes"
                )));
            }
            if received > self.size_max {
                return Err(too_large(self.size_max));
            }
            if until_check > 64 << 20 {
                until_check = 0;
                self.still_wanted(received)?;
            }
            if pieces.send(Piece::Data(data)).await.is_err() {
                // The ingest has ended early and says why.
                return Err(ApiError::bad_request("The upload was refused."));
            }
        }
        if let Some(expected) = self.expected_size.filter(|&expected| received < expected) {
            return Err(ApiError::bad_request(format!(
                "Size is short: expected {expected} bytes, got {received} bytes"
            )));
        }
        // If nobody listens any more, the ingest says why.
        if pieces.send(Piece::End).await.is_err() {
            return Err(ApiError::bad_request("The upload was refused."));
        }
        Ok(())
    }

    /// Whether the image still waits for its bytes, and has room for those that came.
    fn still_wanted(&self, received: u64) -> ApiResult<()> {
        match self.api.catalogue.get(self.image.id) {
            Some(image) if image.status == Status::Saving => match quota(&self.api, &image) {
                Some(quota) => quota.check_size(&image, received),
                None => Ok(()),
            },
            _ => Err(gone(self.image.id)),
        }
    }

    /// The image gets its bytes, if it still waits for them.
    async fn activate(&self, ingested: Stored) -> ApiResult<()> {
        let (api, id) = (self.api.clone(), self.image.id);
        let manifest_id = ingested.ingested.id;
        blocking(move || {
            let manifest = &ingested.ingested.manifest;
            let data = Data {
                manifest: manifest_id,
                size: manifest.size(),
                virtual_size: ingested.virtual_size,
                md5: *manifest.md5(),
                sha512: *manifest.sha512(),
            };
            tracing::info!(
                image = %id,
                size = data.size,
                stored = ingested.ingested.stored_bytes,
                manifest = %data.manifest,
                "image is active"
            );
            api.catalogue
                .copies()
                .set(manifest_id, Some(Intent::Keep))?;
            let result = api.catalogue.modify(id, |image| {
                if image.status != Status::Saving {
                    return Err(gone(id));
                }
                // Others may have used the room meanwhile.
                if let Some(quota) = quota(&api, image) {
                    quota.check_size(image, data.size)?;
                }
                let mut changes = Changes::new();
                changes
                    .set_data(data)
                    .set_status(Status::Active)
                    .set_text(field::SAVING_AT, None);
                Ok(changes)
            });
            match result {
                Err(error) if error.status() == StatusCode::NOT_FOUND => Err(gone(id)),
                result => result.map(|_| ()),
            }
            // Only now, with the manifest named by an image, may the lease end.
        })
        .await??;
        if let Some(peers) = &self.api.peers {
            peers.holding_changed(manifest_id).await;
        }
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
    async fn abandon(&self) {
        let (catalogue, id) = (self.api.catalogue.clone(), self.image.id);
        let result = blocking(move || {
            catalogue.modify(id, |image| {
                let mut changes = Changes::new();
                if image.status == Status::Saving {
                    changes
                        .set_status(Status::Queued)
                        .set_text(field::SAVING_AT, None);
                }
                Ok::<_, ApiError>(changes)
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

fn gone(id: Uuid) -> ApiError {
    ApiError::new(
        StatusCode::GONE,
        format!("Image {id} was deleted while its data was uploaded."),
    )
}

/// An image in the store, with what its declared format makes of it.
struct Stored {
    ingested: Ingested,
    virtual_size: Option<u64>,
}

/// Inspects and stores what comes through the queue. Runs on a blocking thread.
fn ingest(
    store: &vitrail_chunkstore::Store,
    image: &Image,
    require_match: bool,
    mut queue: mpsc::Receiver<Piece>,
) -> ApiResult<Stored> {
    let declared = Declared {
        disk_format: image.disk_format.as_deref().unwrap_or_default(),
        container_format: image.container_format.as_deref().unwrap_or_default(),
    };
    let rules = Rules {
        require_match,
        ..Rules::default()
    };
    let refused =
        |refusal: crate::inspect::Refusal| ApiError::unsupported_type(refusal.to_string());
    let mut inspector = Inspector::new();
    let mut ingest = Ingest::begin(store)?;
    loop {
        match queue.blocking_recv() {
            Some(Piece::Data(data)) => {
                inspector.push(&data);
                if let Some(refusal) = inspector.refusal_so_far(declared, rules) {
                    return Err(refused(refusal));
                }
                ingest.push(&data)?;
            }
            Some(Piece::End) => break,
            None => return Err(ApiError::bad_request("The upload was cut off.")),
        }
    }
    let facts = inspector.finish();
    let Verdict { virtual_size } = facts.judge(declared, rules).map_err(refused)?;
    let format = FormatFacts {
        name: facts.format.name().to_owned(),
        virtual_size: facts.virtual_size,
    };
    Ok(Stored {
        ingested: ingest.finish(format)?,
        virtual_size,
    })
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
