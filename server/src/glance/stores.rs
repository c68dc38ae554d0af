//! Sites as the API's stores.
//!
//! An image is in a store when the site has every byte of it, as far as is known here: sites that are cut off count with
//! what they last said. Bytes are always taken in by the site that is asked; stores that are named besides get theirs
//! from it.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use hyper::header::HeaderName;
use hyper::{Response, StatusCode};
use serde_json::json;
use uuid::Uuid;
use vitrail_proto::wire::Evicted;

use super::request::Call;
use super::{Api, ApiError, ApiResult, Body, empty, json};
use crate::auth::policy::{self, Action};
use crate::catalogue::{Image, Status};
use crate::peer::view::SiteView;

/// How long news of a site's copy may be waited for, and how often it is looked for.
const SETTLE_MAX: Duration = Duration::from_secs(5);
const SETTLE_POLL: Duration = Duration::from_millis(25);

/// Names of all stores, this site's first.
pub(super) fn all(api: &Api) -> Vec<String> {
    let own = api.catalogue.site().to_owned();
    let others = api.peers.as_ref().map(|peers| peers.site_names());
    let others = others.into_iter().flatten().filter(|site| *site != own);
    std::iter::once(own.clone()).chain(others).collect()
}

/// Names of the stores that an image is in.
pub(super) fn holding(api: &Api, image: &Image) -> Vec<String> {
    match (&image.data, &api.peers) {
        (None, _) => Vec::new(),
        (Some(data), Some(peers)) => peers.holder_names(data.manifest),
        (Some(_), None) => vec![api.catalogue.site().to_owned()],
    }
}

/// `GET /v2/info/stores`
pub(super) fn list(call: &Call) -> ApiResult<Response<Body>> {
    super::route::expect_no_body(call)?;
    let sites = sites(&call.api);
    let stores: Vec<_> = sites.iter().map(brief).collect();
    Ok(json(StatusCode::OK, &json!({"stores": stores})))
}

/// `GET /v2/info/stores/detail`
pub(super) fn detail(call: &Call) -> ApiResult<Response<Body>> {
    super::route::expect_no_body(call)?;
    if !policy::may_operate(&call.identity, Action::StoresInfoDetail) {
        return Err(ApiError::denied(Action::StoresInfoDetail));
    }
    let stores: Vec<_> = sites(&call.api)
        .iter()
        .map(|site| {
            let mut store = brief(site);
            store["type"] = "vitrail".into();
            // The store that clients should read from is the site that they asked.
            store["weight"] = u32::from(site.own).into();
            store["properties"] = json!({
                "zone": site.zone, "up": site.up, "images": site.images_held, "addresses": site.addresses,
            });
            store
        })
        .collect();
    Ok(json(StatusCode::OK, &json!({"stores": stores})))
}

fn brief(site: &SiteView) -> serde_json::Value {
    let zone = site.zone.as_ref().map(|zone| format!(" in zone {zone}"));
    let description = format!("Vitrail site{}", zone.unwrap_or_default());
    let mut store = json!({"id": site.name, "description": description});
    if site.own {
        // Texts, as in Glance, and absent for the others.
        store["default"] = "true".into();
    }
    store
}

/// Every site, this one first.
fn sites(api: &Api) -> Vec<SiteView> {
    let Some(peers) = &api.peers else {
        let images = api.catalogue.images();
        return vec![SiteView {
            name: api.catalogue.site().to_owned(),
            zone: api.config.site.zone.clone(),
            addresses: Vec::new(),
            own: true,
            up: true,
            images_held: images.iter().filter(|image| image.data.is_some()).count(),
            link: None,
        }];
    };
    let mut sites = peers.sites();
    sites.sort_by_key(|site| !site.own);
    sites
}

/// `DELETE /v2/stores/{store}/{image}`: the site gives up its copy, unless it is the last.
pub(super) async fn delete(call: Call, store: &str, id: &str) -> ApiResult<Response<Body>> {
    let image = call.image_for(id, Action::DeleteImageLocation)?;
    let api = &call.api;
    if !all(api).iter().any(|known| known == store) {
        return Err(ApiError::conflict(format!(
            "The selected store {store} is not available on this node."
        )));
    }
    if !matches!(image.status, Status::Active | Status::Deactivated) {
        return Err(ApiError::conflict(format!(
            "Image {id} is {}; only images with data have copies to delete.",
            image.status
        )));
    }
    match evict(api, store, image.id).await {
        Evicted::Done => Ok(empty(StatusCode::NO_CONTENT)),
        Evicted::NotHeld => Err(ApiError::new(
            StatusCode::NOT_FOUND,
            format!("Image {id} is not stored in store {store}."),
        )),
        Evicted::LastCopy => Err(ApiError::forbidden(
            "Cannot delete image data from the only store containing it. Consider deleting the image \
             instead. Copies at sites that do not answer now do not count.",
        )),
        Evicted::Failed(reason) => Err(ApiError::conflict(format!(
            "Site {store} did not give up its copy of image {id}: {reason}."
        ))),
    }
}

/// Drives a site to give up its copy of an image.
pub(super) async fn evict(api: &Api, store: &str, image: Uuid) -> Evicted {
    let Some(peers) = &api.peers else {
        return Evicted::LastCopy;
    };
    let evicted = peers.evict_at(store, image).await;
    if evicted == Evicted::Done {
        settle(api, image, store, false).await;
    }
    evicted
}

/// Waits a while for the word that a site holds an image, or does no more, so that a client which is told so also sees
/// it here.
pub(super) async fn settle(api: &Api, image: Uuid, store: &str, holds: bool) {
    let deadline = Instant::now() + SETTLE_MAX;
    loop {
        let image = api.catalogue.get(image);
        let holding = image.map(|image| holding(api, &image)).unwrap_or_default();
        if holding.iter().any(|site| site == store) == holds || Instant::now() >= deadline {
            return;
        }
        tokio::time::sleep(SETTLE_POLL).await;
    }
}

/// The store that `x-image-meta-store` names.
pub(super) fn in_header(call: &Call) -> Option<String> {
    static STORE: HeaderName = HeaderName::from_static("x-image-meta-store");
    call.header(&STORE).map(str::to_owned)
}

/// The store that an upload is for: this site, unless the header names another.
pub(super) fn for_upload(call: &Call) -> ApiResult<String> {
    let own = || call.api.catalogue.site().to_owned();
    let store = in_header(call).unwrap_or_else(own);
    if all(&call.api).contains(&store) {
        Ok(store)
    } else {
        Err(ApiError::bad_request(unknown(&store)))
    }
}

pub(super) fn unknown(store: &str) -> String {
    format!("Store for identifier {store} not found")
}

/// A list of stores as records and documents have it.
pub(super) fn join(stores: &BTreeSet<String>) -> String {
    stores
        .iter()
        .map(String::as_str)
        .collect::<Vec<_>>()
        .join(",")
}
