//! Creating, showing, changing and deleting images.

use hyper::header::{HeaderName, HeaderValue, LOCATION};
use hyper::{Response, StatusCode};
use uuid::Uuid;

use super::error::shown;
use super::import::Asker;
use super::quota::Quota;
use super::request::{Call, parse_id};
use super::route::expect_no_body;
use super::validate::{self, Kind};
use super::{
    ApiError, ApiResult, Body, blocking, document, empty, import, json, locations, patch, stores,
    versions,
};
use crate::auth::policy::{self, Action};
use crate::catalogue::{Changes, Image, Status, field};

static IMPORT_METHODS: HeaderName = HeaderName::from_static("openstack-image-import-methods");
static STORE_IDS: HeaderName = HeaderName::from_static("openstack-image-store-ids");

pub(super) async fn create(call: Call) -> ApiResult<Response<Body>> {
    let (api, who) = (call.api.clone(), call.identity.clone());
    let base = versions::base(&call.headers, &api.config.api);
    let body = call.json().await?;
    let document = body
        .as_object()
        .ok_or_else(|| ApiError::bad_request("The request body must be a JSON object."))?;

    let owner = match document.get("owner") {
        Some(owner) => owner.as_str(),
        None => who.project.as_deref(),
    };
    let mut changes = Changes::new();
    changes.set_text(field::OWNER, who.project.clone());
    changes.set_text(field::VISIBILITY, Some("shared".into()));
    let mut id = Uuid::new_v4();
    let mut properties = 0;
    for (name, value) in document {
        match validate::kind(name) {
            _ if name == "id" => {
                id = value.as_str().and_then(parse_id).ok_or_else(|| {
                    ApiError::bad_request(format!(
                        "Provided object does not match schema 'image': {} is not a UUID",
                        shown(value)
                    ))
                })?;
            }
            _ if name == "locations" => {
                return Err(ApiError::forbidden("Attribute 'locations' is reserved."));
            }
            Kind::ReadOnly => {
                return Err(ApiError::forbidden(format!(
                    "Attribute '{name}' is read-only."
                )));
            }
            Kind::Reserved => {
                return Err(ApiError::forbidden(format!(
                    "Access was denied to this resource. Attribute '{name}' is reserved."
                )));
            }
            Kind::Base if name == "tags" => {
                for tag in validate::tags(value)? {
                    changes.set_tag(&tag, true);
                }
            }
            Kind::Base => {
                if let Some(action) = validate::publishing(name, value)
                    && !policy::may_for(&who, action, owner)
                {
                    return Err(ApiError::denied(action));
                }
                validate::base(&mut changes, name, value)?;
            }
            Kind::Property => {
                properties += 1;
                if properties > validate::PROPERTIES_MAX {
                    return Err(validate::too_many("properties", validate::PROPERTIES_MAX));
                }
                changes.set_property(name, Some(validate::property(name, value)?));
            }
        }
    }
    if !policy::may_for(&who, Action::AddImage, owner) {
        return Err(match document.get("owner") {
            Some(owner) if owner.as_str() != who.project.as_deref() => {
                ApiError::forbidden(format!(
                    "You are not permitted to create images owned by {}",
                    shown(owner)
                ))
            }
            _ => ApiError::denied(Action::AddImage),
        });
    }
    changes.set_status(Status::Queued);
    let owner = owner.map(ToOwned::to_owned);
    let making = api.clone();
    let image = blocking(move || {
        let api = &making;
        let quota = Quota::of(&api.config.quotas, &api.catalogue, owner.as_deref());
        let allow = || quota.map_or(Ok(()), |quota| quota.check_new_image());
        api.catalogue.create(id, changes, allow)
    })
    .await??;

    let mut answer = json(StatusCode::CREATED, &document::image(&api, &image));
    let location = format!("{base}/v2/images/{}", image.id);
    if let Ok(value) = HeaderValue::from_str(&location) {
        answer.headers_mut().insert(LOCATION, value);
    }
    for (name, list) in [
        (&IMPORT_METHODS, import::methods(&api).join(",")),
        (&STORE_IDS, stores::all(&api).join(",")),
    ] {
        if let Ok(value) = HeaderValue::from_str(&list) {
            answer.headers_mut().insert(name.clone(), value);
        }
    }
    Ok(answer)
}

pub(super) fn show(call: &Call, id: &str) -> ApiResult<Response<Body>> {
    expect_no_body(call)?;
    let image = call.image(id)?;
    Ok(json(StatusCode::OK, &document::image(&call.api, &image)))
}

pub(super) async fn update(call: Call, id: &str) -> ApiResult<Response<Body>> {
    let syntax = patch::Syntax::of(&call)?;
    let image = call.image_for(id, Action::ModifyImage);
    let (api, who) = (call.api.clone(), call.identity.clone());
    let catalogue = api.catalogue.clone();
    let asker = Asker::of(&call);
    // Read before anything is refused: a connection whose body was left unread cannot be kept.
    let operations = patch::parse(syntax, &call.json().await?)?;
    let image = image?;
    if let Some(change) = patch::of_locations(&operations)? {
        locations::change(&api, &who, &image, change, asker).await?;
        let image = catalogue.get(image.id).unwrap_or(image);
        return Ok(json(StatusCode::OK, &document::image(&api, &image)));
    }
    let image = blocking(move || {
        // Checked again on the image as it is now: all operations happen, or none.
        catalogue.modify(image.id, |image| patch::apply(&operations, image, &who))
    })
    .await??;
    Ok(json(StatusCode::OK, &document::image(&api, &image)))
}

pub(super) async fn delete(call: Call, id: &str) -> ApiResult<Response<Body>> {
    let image = call.image(id).map_err(|_| {
        ApiError::new(
            StatusCode::NOT_FOUND,
            format!("Failed to find image {id} to delete"),
        )
    })?;
    if !policy::may(&call.identity, Action::DeleteImage, &image) {
        return Err(ApiError::denied(Action::DeleteImage));
    }
    let api = call.api.clone();
    blocking(move || {
        api.catalogue.delete(image.id, |image: &Image| {
            if image.protected {
                return Err(ApiError::forbidden(format!(
                    "Image {} is protected and cannot be deleted.",
                    image.id
                )));
            }
            Ok(())
        })?;
        api.collector.wake();
        Ok(empty(StatusCode::NO_CONTENT))
    })
    .await?
}

pub(super) async fn act(call: Call, id: &str, action: &str) -> ApiResult<Response<Body>> {
    let (rule, target) = match action {
        "deactivate" => (Action::Deactivate, Status::Deactivated),
        _ => (Action::Reactivate, Status::Active),
    };
    let image = call.image_for(id, rule)?;
    let (api, action) = (call.api.clone(), action.to_owned());
    blocking(move || {
        api.catalogue.modify(image.id, |image| {
            let mut changes = Changes::new();
            match image.status {
                Status::Active | Status::Deactivated if image.status == target => {}
                Status::Active | Status::Deactivated => {
                    changes.set_status(target);
                }
                status => {
                    return Err(ApiError::forbidden(format!(
                        "Not allowed to {action} image in status '{status}'"
                    )));
                }
            }
            Ok(changes)
        })
    })
    .await??;
    Ok(empty(StatusCode::NO_CONTENT))
}
