//! Sharing: the projects that may use an image, and what they decided about it.

use hyper::{Response, StatusCode};
use serde_json::{Value, json};
use uuid::Uuid;

use super::document::time;
use super::error::shown;
use super::request::Call;
use super::route::expect_no_body;
use super::{ApiError, ApiResult, Body, blocking, empty, json, validate};
use crate::auth::Identity;
use crate::auth::policy::{self, Action};
use crate::catalogue::{Changes, Image, Member, MemberStatus, Visibility};

/// Most members of an image.
const MEMBERS_MAX: usize = 128;

pub(super) fn list(call: &Call, id: &str) -> ApiResult<Response<Body>> {
    expect_no_body(call)?;
    let image = call.image(id)?;
    check_shared(&image)?;
    if !policy::may(&call.identity, Action::GetMembers, &image) {
        return Err(ApiError::denied(Action::GetMembers));
    }
    let members: Vec<Value> = image
        .members
        .iter()
        .filter(|(project, _)| concerns(&call.identity, &image, project))
        .map(|(project, member)| document(image.id, project, member))
        .collect();
    let answer = json!({"members": members, "schema": "/v2/schemas/members"});
    Ok(json(StatusCode::OK, &answer))
}

pub(super) fn show(call: &Call, id: &str, project: &str) -> ApiResult<Response<Body>> {
    expect_no_body(call)?;
    let image = call.image(id)?;
    // What they may not see is not there: this tells nothing about who is a member.
    let member = check_shared(&image)
        .and_then(|()| find(&call.identity, &image, project))
        .map_err(|_| no_member(&image, project))?;
    Ok(json(StatusCode::OK, &document(image.id, project, &member)))
}

pub(super) async fn add(call: Call, id: &str) -> ApiResult<Response<Body>> {
    let (api, who) = (call.api.clone(), call.identity.clone());
    let image = call.image(id);
    let project = text(&call.json().await?, "member")?;
    validate::member(&project)?;
    let image = image?;
    blocking(move || {
        let image = api.catalogue.modify(image.id, |image| {
            check_shared(image)?;
            if !policy::may(&who, Action::AddMember, image) {
                return Err(ApiError::denied(Action::AddMember));
            }
            if image.members.contains_key(&project) {
                return Err(ApiError::conflict(format!(
                    "Member {project} is duplicated for image {}",
                    image.id
                )));
            }
            if image.members.len() >= MEMBERS_MAX {
                return Err(validate::too_many("members", MEMBERS_MAX));
            }
            let mut changes = Changes::new();
            changes.set_member(&project, true);
            Ok::<_, ApiError>(changes)
        })?;
        answer(&image, &project)
    })
    .await?
}

pub(super) async fn decide(call: Call, id: &str, project: &str) -> ApiResult<Response<Body>> {
    let (api, who, project) = (call.api.clone(), call.identity.clone(), project.to_owned());
    let image = call.image(id);
    let status = text(&call.json().await?, "status")?;
    let image = image?;
    blocking(move || {
        let image = api.catalogue.modify(image.id, |image| {
            check_shared(image)?;
            find(&who, image, &project)?;
            if !policy::may(&who, Action::ModifyMember, image) {
                return Err(ApiError::denied(Action::ModifyMember));
            }
            let status = MemberStatus::parse(&status).ok_or_else(|| {
                ApiError::bad_request(
                    "Status must be one of the following: pending, accepted, rejected.",
                )
            })?;
            let mut changes = Changes::new();
            changes.set_decision(&project, status);
            Ok::<_, ApiError>(changes)
        })?;
        answer(&image, &project)
    })
    .await?
}

pub(super) async fn remove(call: Call, id: &str, project: &str) -> ApiResult<Response<Body>> {
    let (api, who, project) = (call.api.clone(), call.identity.clone(), project.to_owned());
    let image = call.image(id)?;
    blocking(move || {
        api.catalogue.modify(image.id, |image| {
            check_shared(image)?;
            find(&who, image, &project)?;
            if !policy::may(&who, Action::DeleteMember, image) {
                return Err(ApiError::denied(Action::DeleteMember));
            }
            let mut changes = Changes::new();
            changes.set_member(&project, false);
            Ok::<_, ApiError>(changes)
        })
    })
    .await??;
    Ok(empty(StatusCode::NO_CONTENT))
}

/// Only shared images have members.
fn check_shared(image: &Image) -> ApiResult<()> {
    if image.visibility == Visibility::Shared {
        Ok(())
    } else {
        Err(ApiError::forbidden("Only shared images have members."))
    }
}

/// A member that the caller may know of.
fn find(who: &Identity, image: &Image, project: &str) -> ApiResult<Member> {
    if !policy::may(who, Action::GetMember, image) {
        return Err(ApiError::denied(Action::GetMember));
    }
    let member = image.members.get(project);
    member
        .filter(|_| concerns(who, image, project))
        .copied()
        .ok_or_else(|| no_member(image, project))
}

/// Whether a membership is the caller's business: the owner's all are, and a member's own is.
fn concerns(who: &Identity, image: &Image, project: &str) -> bool {
    who.is_admin() || policy::owns(who, image) || who.project.as_deref() == Some(project)
}

fn no_member(image: &Image, project: &str) -> ApiError {
    ApiError::new(
        StatusCode::NOT_FOUND,
        format!(
            "{} not found in the member list of the image {}.",
            shown(&project.into()),
            image.id
        ),
    )
}

fn answer(image: &Image, project: &str) -> ApiResult<Response<Body>> {
    let member = image.members.get(project);
    let member = member.ok_or_else(|| no_member(image, project))?;
    Ok(json(StatusCode::OK, &document(image.id, project, member)))
}

/// The API's document of a member.
fn document(image: Uuid, project: &str, member: &Member) -> Value {
    json!({
        "member_id": project,
        "image_id": image.to_string(),
        "status": member.status.as_str(),
        "created_at": time(member.created_at),
        "updated_at": time(member.updated_at),
        "schema": "/v2/schemas/member",
    })
}

/// A text of a body, which must be there.
fn text(body: &Value, key: &str) -> ApiResult<String> {
    match body.get(key).and_then(Value::as_str) {
        Some(text) if !text.is_empty() => Ok(text.to_owned()),
        _ => Err(ApiError::bad_request(format!(
            "Expected a '{key}' key in the request body."
        ))),
    }
}
