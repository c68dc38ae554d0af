//! `/v2/cache`: copies that came because somebody read the image here, and images to be fetched ahead.
//!
//! A copy that was uploaded here, or that this site was asked to hold, is none of the cache's. A cached one is given up as any
//! other: never the last.

use std::collections::HashMap;

use hyper::header::HeaderName;
use hyper::{Response, StatusCode};
use parking_lot::Mutex;
use serde_json::{Value, json};
use uuid::Uuid;
use vitrail_proto::wire::Evicted;

use super::request::{Call, parse_id};
use super::{
    Api, ApiError, ApiResult, Body, blocking, document, empty, json as json_answer, stores,
};
use crate::auth::policy::{self, Action};
use crate::catalogue::{Image, Intent, Status, now_ms};
use crate::peer::CachedCopy;

static TARGET: HeaderName = HeaderName::from_static("x-image-cache-clear-target");

/// Images that reads are counted for, beyond those that there are.
const COUNTED_EXTRA: usize = 1024;

/// How often images were read here since the daemon started.
#[derive(Default)]
pub(super) struct Reads(Mutex<HashMap<Uuid, Read>>);

#[derive(Clone, Copy, Default)]
struct Read {
    hits: u64,
    /// Milliseconds since 1970.
    last: u64,
}

impl Reads {
    /// An image was read. `images` is how many there are.
    pub(super) fn note(&self, id: Uuid, images: usize) {
        let mut reads = self.0.lock();
        if reads.len() > images + COUNTED_EXTRA {
            // Most are of images that are gone.
            reads.clear();
        }
        let read = reads.entry(id).or_default();
        read.hits += 1;
        read.last = now_ms();
    }

    fn of(&self, id: Uuid) -> Read {
        self.0.lock().get(&id).copied().unwrap_or_default()
    }
}

fn may(call: &Call, action: Action) -> ApiResult<()> {
    if policy::may_operate(&call.identity, action) {
        Ok(())
    } else {
        Err(ApiError::denied(action))
    }
}

/// `GET /v2/cache`
pub(super) async fn list(call: &Call) -> ApiResult<Response<Body>> {
    may(call, Action::CacheList)?;
    super::route::expect_no_body(call)?;
    let cached: Vec<Value> = cached(&call.api)
        .await?
        .iter()
        .enumerate()
        .map(|(index, (image, copy))| {
            let read = call.api.reads.of(image.id);
            json!({
                "id": index + 1,
                "image_id": image.id,
                "hits": read.hits,
                "size": copy.bytes,
                "last_accessed": read.last as f64 / 1000.0,
                "last_modified": copy.pulled_at,
                "checksum": image.data.as_ref().map(document::md5),
            })
        })
        .collect();
    let queued: Vec<Uuid> = queued(&call.api).iter().map(|image| image.id).collect();
    let answer = json!({"cached_images": cached, "queued_images": queued});
    Ok(json_answer(StatusCode::OK, &answer))
}

/// Images that this site has a cached copy of, whole or in part.
async fn cached(api: &Api) -> ApiResult<Vec<(std::sync::Arc<Image>, CachedCopy)>> {
    let Some(peers) = api.peers.clone() else {
        // A site on its own has nothing from elsewhere.
        return Ok(Vec::new());
    };
    let images = api.catalogue.images();
    blocking(move || {
        images
            .into_iter()
            .filter_map(|image| {
                let copy = peers.cached_copy(&image)?;
                Some((image, copy))
            })
            .collect()
    })
    .await
}

/// Images that are to be fetched.
fn queued(api: &Api) -> Vec<std::sync::Arc<Image>> {
    let wanted = api.catalogue.copies().all(Intent::Fetch);
    let mut images = api.catalogue.images();
    images.retain(|image| image.manifest().is_some_and(|id| wanted.contains(&id)));
    images
}

/// `PUT /v2/cache/{id}`
pub(super) async fn queue(call: Call, id: &str) -> ApiResult<Response<Body>> {
    let api = call.api.clone();
    let image = call.image_for(id, Action::CacheImage)?;
    let manifest = image.manifest().filter(|_| image.status == Status::Active);
    let Some(manifest) = manifest else {
        return Err(ApiError::bad_request(
            "Only images with status active can be targeted for queueing",
        ));
    };
    let own = api.catalogue.site();
    if !stores::holding(&api, &image).iter().any(|site| site == own) {
        let catalogue = api.catalogue.clone();
        blocking(move || catalogue.copies().set(manifest, Some(Intent::Fetch))).await??;
    }
    Ok(empty(StatusCode::ACCEPTED))
}

/// `DELETE /v2/cache/{id}`
pub(super) async fn delete(call: Call, id: &str) -> ApiResult<Response<Body>> {
    may(&call, Action::CacheDelete)?;
    let api = call.api.clone();
    let image = find(&call, id)?;
    if queued(&api).iter().any(|queued| queued.id == image.id) {
        unqueue(&api, &image).await?;
        return Ok(empty(StatusCode::NO_CONTENT));
    }
    if !cached(&api)
        .await?
        .iter()
        .any(|(cached, _)| cached.id == image.id)
    {
        return Err(not_found(id));
    }
    match drop_copy(&api, &image).await {
        Evicted::Done | Evicted::NotHeld => Ok(empty(StatusCode::NO_CONTENT)),
        Evicted::LastCopy => Err(ApiError::conflict(format!(
            "No other site vouches for a copy of image {id}: this one stays."
        ))),
        Evicted::Failed(reason) => Err(ApiError::conflict(format!(
            "The copy of image {id} stays: {reason}."
        ))),
    }
}

/// `DELETE /v2/cache`
pub(super) async fn clear(call: Call) -> ApiResult<Response<Body>> {
    may(&call, Action::CacheDelete)?;
    let (clears_cache, clears_queue) = match call.header(&TARGET) {
        None => (true, true),
        Some("cache") => (true, false),
        Some("queue") => (false, true),
        Some(_) => {
            return Err(ApiError::bad_request(
                "If provided 'x-image-cache-clear-target' must be 'cache', 'queue' or empty string.",
            ));
        }
    };
    let api = &call.api;
    if clears_queue {
        for image in queued(api) {
            unqueue(api, &image).await?;
        }
    }
    if clears_cache {
        for (image, _) in cached(api).await? {
            // What nobody else has stays.
            let outcome = drop_copy(api, &image).await;
            tracing::debug!(image = %image.id, ?outcome, "cache cleared");
        }
    }
    Ok(empty(StatusCode::NO_CONTENT))
}

/// `POST /v2/cache/clean`: drops copies that are there only in part.
pub(super) async fn clean(call: Call) -> ApiResult<Response<Body>> {
    may(&call, Action::CacheClean)?;
    for (image, copy) in cached(&call.api).await? {
        if !copy.complete {
            let outcome = drop_copy(&call.api, &image).await;
            tracing::debug!(image = %image.id, ?outcome, "cache cleaned");
        }
    }
    Ok(empty(StatusCode::OK))
}

/// `POST /v2/cache/prune`: the cache has no size of its own, so there is never too much in it.
pub(super) fn prune(call: &Call) -> ApiResult<Response<Body>> {
    may(call, Action::CachePrune)?;
    let answer = json!({"total_files_pruned": 0, "total_bytes_pruned": 0});
    Ok(json_answer(StatusCode::OK, &answer))
}

/// `GET /v2/cache/nodes/{id}`: the sites that hold the image.
pub(super) fn nodes(call: &Call, id: &str) -> ApiResult<Response<Body>> {
    may(call, Action::ListCachedNodes)?;
    super::route::expect_no_body(call)?;
    let image = find(call, id)?;
    let sites = stores::holding(&call.api, &image);
    Ok(json_answer(StatusCode::OK, &json!(sites)))
}

async fn unqueue(api: &Api, image: &Image) -> ApiResult<()> {
    let (catalogue, manifest) = (api.catalogue.clone(), image.manifest());
    if let Some(manifest) = manifest {
        blocking(move || catalogue.copies().set(manifest, None)).await??;
    }
    Ok(())
}

async fn drop_copy(api: &Api, image: &Image) -> Evicted {
    stores::evict(api, api.catalogue.site(), image.id).await
}

fn find(call: &Call, id: &str) -> ApiResult<std::sync::Arc<Image>> {
    let found = parse_id(id).and_then(|id| call.api.catalogue.get(id));
    found.ok_or_else(|| not_found(id))
}

fn not_found(id: &str) -> ApiError {
    ApiError::new(StatusCode::NOT_FOUND, format!("Image {id} not found."))
}
