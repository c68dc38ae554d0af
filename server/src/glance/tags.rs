//! Tags, one by one.

use hyper::{Response, StatusCode};

use super::request::Call;
use super::{ApiError, ApiResult, Body, blocking, empty, validate};
use crate::auth::policy::Action;
use crate::catalogue::Changes;

pub(super) async fn put(call: Call, id: &str, tag: &str) -> ApiResult<Response<Body>> {
    let image = call.image_for(id, Action::ModifyImage)?;
    let tag = validate::tag(tag)?;
    let api = call.api.clone();
    blocking(move || {
        api.catalogue.modify(image.id, |image| {
            let mut changes = Changes::new();
            if !image.tags.contains(&tag) {
                if image.tags.len() >= validate::TAGS_MAX {
                    return Err(validate::too_many("tags", validate::TAGS_MAX));
                }
                changes.set_tag(&tag, true);
            }
            Ok(changes)
        })
    })
    .await??;
    Ok(empty(StatusCode::NO_CONTENT))
}

pub(super) async fn delete(call: Call, id: &str, tag: &str) -> ApiResult<Response<Body>> {
    let image = call.image_for(id, Action::ModifyImage)?;
    let (api, tag) = (call.api.clone(), tag.to_owned());
    blocking(move || {
        api.catalogue.modify(image.id, |image| {
            if !image.tags.contains(&tag) {
                return Err(ApiError::not_found());
            }
            let mut changes = Changes::new();
            changes.set_tag(&tag, false);
            Ok(changes)
        })
    })
    .await??;
    Ok(empty(StatusCode::NO_CONTENT))
}
