//! Locations: where an image's bytes are, one for each site that holds it, and bytes to be taken over from a URL.
//!
//! An image's bytes are always at sites. The URL of a web server that somebody adds as a location is where they are
//! taken from once, in the background, as by `web-download`.

use std::sync::Arc;

use hyper::{Response, StatusCode};
use serde_json::{Value, json};
use vitrail_proto::wire::Evicted;

use super::import::{self, Asker, web};
use super::request::Call;
use super::{Api, ApiError, ApiResult, Body, empty, json as json_answer, stores};
use crate::auth::Identity;
use crate::auth::policy::{self, Action};
use crate::catalogue::{Image, Status};
use crate::config::ImportMethod;

/// The locations of an image, in the order of its stores.
pub(super) fn of(api: &Api, image: &Image) -> Vec<Value> {
    let sites = stores::holding(api, image).into_iter();
    sites
        .map(|site| json!({"url": format!("vitrail://{site}/{}", image.id), "metadata": {"store": site}}))
        .collect()
}

/// `GET /v2/images/{id}/locations`
pub(super) fn list(call: &Call, id: &str) -> ApiResult<Response<Body>> {
    super::route::expect_no_body(call)?;
    let image = call.image_for(id, Action::FetchImageLocation)?;
    Ok(json_answer(StatusCode::OK, &of(&call.api, &image).into()))
}

/// `POST /v2/images/{id}/locations`
pub(super) async fn add(call: Call, id: &str) -> ApiResult<Response<Body>> {
    let found = call.image(id);
    let (api, who, asker) = (call.api.clone(), call.identity.clone(), Asker::of(&call));
    let body = call.json().await?;
    let location = Location::parse(&body)?;
    let image = found?;
    if !policy::may(&who, Action::AddImageLocation, &image) {
        return Err(ApiError::denied(Action::AddImageLocation));
    }
    if image.status != Status::Queued {
        return Err(ApiError::conflict(format!(
            "It's not allowed to add locations if image status is {}.",
            image.status
        )));
    }
    let is_http = ["http:", "https:"]
        .iter()
        .any(|s| location.url.starts_with(s));
    if !is_http && !policy::may_operate(&who, Action::FetchImageLocation) {
        return Err(ApiError::forbidden(
            "http store must be enabled to use location API by normal user.",
        ));
    }
    location.take_over(api, &image, asker).await?;
    Ok(empty(StatusCode::ACCEPTED))
}

/// A location that somebody gives.
struct Location {
    url: String,
    sha512: Option<Vec<u8>>,
}

impl Location {
    fn parse(value: &Value) -> ApiResult<Self> {
        let mismatch = |why: &str| {
            ApiError::bad_request(format!(
                "Provided object does not match schema 'location': {why}"
            ))
        };
        let url = value
            .get("url")
            .and_then(Value::as_str)
            .ok_or_else(|| mismatch("'url' is a required property"))?;
        let given = value.get("validation_data");
        // Clients send an empty object for none.
        let given = given.filter(|data| data.as_object().is_none_or(|data| !data.is_empty()));
        let sha512 = match given {
            None | Some(Value::Null) => None,
            Some(data) => {
                let text = |key: &str| data.get(key).and_then(Value::as_str);
                let (Some("sha512"), Some(hash)) = (text("os_hash_algo"), text("os_hash_value"))
                else {
                    return Err(mismatch(
                        "validation_data needs 'os_hash_algo', which is sha512 here, and 'os_hash_value'",
                    ));
                };
                let hash = hex::decode(hash).ok().filter(|hash| hash.len() == 64);
                Some(hash.ok_or_else(|| mismatch("'os_hash_value' is not a sha512"))?)
            }
        };
        Ok(Self {
            url: url.to_owned(),
            sha512,
        })
    }

    /// Begins to take the bytes over.
    async fn take_over(self, api: Arc<Api>, image: &Image, asker: Asker) -> ApiResult<()> {
        let url = Some(self.url.as_str())
            .filter(|_| api.config.import.offers(ImportMethod::WebDownload))
            .and_then(|url| web::filtered(url, &api.config.import))
            .ok_or_else(|| ApiError::bad_request("Invalid location"))?;
        import::take_over(api, image.id, url, self.sha512, asker).await
    }
}

/// A change of `locations` by a patch.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Change {
    /// Add one.
    Add(Value),
    /// Put others in the place of all.
    Replace(Value),
    /// Remove the one at this index.
    Remove(usize),
}

/// Carries out a change by a patch of an image that the caller may modify.
pub(super) async fn change(
    api: &Arc<Api>,
    who: &Identity,
    image: &Image,
    change: Change,
    asker: Asker,
) -> ApiResult<()> {
    let forbidden = |why: &str| Err(ApiError::forbidden(why));
    if !api.config.images.show_multiple_locations {
        return forbidden("It's not allowed to update locations if locations are invisible.");
    }
    let added = match change {
        Change::Remove(index) => return remove(api, who, image, index).await,
        Change::Add(value) => value,
        Change::Replace(Value::Array(list)) => match &list[..] {
            [] => {
                return forbidden(
                    "Access was denied to this resource. Cannot set locations to empty list.",
                );
            }
            // What clients do that change the metadata of one: there is nothing to change here.
            same if same.len() == of(api, image).len() && has_same_urls(same, &of(api, image)) => {
                return Ok(());
            }
            [one] => one.clone(),
            _ => {
                return Err(ApiError::conflict(
                    "An image takes its data over from one location.",
                ));
            }
        },
        Change::Replace(_) => return Err(ApiError::bad_request("'locations' is a list")),
    };
    let location = Location::parse(&added)?;
    if web::filtered(&location.url, &api.config.import).is_none() {
        return Err(ApiError::bad_request("Invalid location"));
    }
    if image.status != Status::Queued {
        return Err(ApiError::conflict(format!(
            "It's not allowed to add locations if image status is {}: its data is at its sites.",
            image.status
        )));
    }
    location.take_over(api.clone(), image, asker).await
}

fn has_same_urls(given: &[Value], own: &[Value]) -> bool {
    given
        .iter()
        .zip(own)
        .all(|(a, b)| a.get("url") == b.get("url"))
}

/// The site gives up its copy.
async fn remove(api: &Arc<Api>, who: &Identity, image: &Image, index: usize) -> ApiResult<()> {
    if !policy::may(who, Action::DeleteImageLocation, image) {
        return Err(ApiError::denied(Action::DeleteImageLocation));
    }
    let sites = stores::holding(api, image);
    let site = sites
        .get(index)
        .ok_or_else(|| ApiError::bad_request(format!("Invalid position {index} for locations")))?;
    match stores::evict(api, site, image.id).await {
        Evicted::Done => Ok(()),
        Evicted::LastCopy => Err(ApiError::forbidden(
            "Access was denied to this resource. Cannot delete the last location.",
        )),
        Evicted::NotHeld => Err(ApiError::conflict(format!("Site {site} has no copy."))),
        Evicted::Failed(reason) => Err(ApiError::conflict(format!(
            "Site {site} did not give up its copy: {reason}."
        ))),
    }
}
