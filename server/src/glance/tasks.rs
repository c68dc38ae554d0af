//! Tasks, as clients follow imports by them.

use hyper::{Response, StatusCode};
use serde_json::{Value, json};

use super::request::{Call, parse_id};
use super::{ApiError, ApiResult, Body, document, json as json_answer};
use crate::auth::policy::{self, Action};
use crate::catalogue::{Image, Task, TaskStatus, now_ms};

const LIMIT_DEFAULT: usize = 25;
const LIMIT_MAX: usize = 1000;

/// `GET /v2/images/{id}/tasks`
pub(super) fn of_image(call: &Call, id: &str) -> ApiResult<Response<Body>> {
    super::route::expect_no_body(call)?;
    let image = call.image(id).map_err(|_| ApiError::not_found())?;
    let tasks: Vec<Value> = current(&image)
        .map(|task| {
            let mut document = document_of(&image, task);
            document["deleted"] = false.into();
            document["deleted_at"] = Value::Null;
            document
        })
        .collect();
    Ok(json_answer(StatusCode::OK, &json!({"tasks": tasks})))
}

/// `GET /v2/tasks`
pub(super) fn list(call: &Call) -> ApiResult<Response<Body>> {
    may_access(call)?;
    super::route::expect_no_body(call)?;
    let limit = match parameter(call, "limit") {
        None => LIMIT_DEFAULT,
        Some(limit) => limit
            .parse::<usize>()
            .map_err(|_| ApiError::bad_request("limit param must be a non-negative integer"))?
            .min(LIMIT_MAX),
    };
    let images = call.api.catalogue.images();
    let mut tasks: Vec<(&Image, &Task)> = images
        .iter()
        .flat_map(|image| current(image).map(move |task| (&**image, task)))
        .filter(|(_, task)| {
            let is = |name, value: &str| parameter(call, name).is_none_or(|wanted| wanted == value);
            is("status", task.status.as_str()) && is("type", task.kind.as_str())
        })
        .collect();
    tasks.sort_by_key(|(_, task)| std::cmp::Reverse((task.created_at, task.id)));
    let start = match parameter(call, "marker") {
        None => 0,
        Some(marker) => {
            let id = parse_id(marker);
            let at = tasks.iter().position(|(_, task)| Some(task.id) == id);
            1 + at.ok_or_else(|| {
                ApiError::bad_request(format!("Invalid marker: task {marker} is not there."))
            })?
        }
    };
    let page: Vec<_> = tasks[start..].iter().take(limit).collect();
    let documents: Vec<Value> = page
        .iter()
        .map(|(image, task)| {
            let mut document = with_links(document_of(image, task));
            // The list is without what may be long.
            if let Some(document) = document.as_object_mut() {
                document.retain(|key, _| !matches!(key.as_str(), "input" | "result" | "message"));
            }
            document
        })
        .collect();
    let mut answer = json!({
        "tasks": documents,
        "first": super::list::link("/v2/tasks", &call.query, None),
        "schema": "/v2/schemas/tasks",
    });
    if let Some((_, last)) = page.last().filter(|_| page.len() == limit) {
        let next = super::list::link("/v2/tasks", &call.query, Some(&last.id.to_string()));
        answer["next"] = next.into();
    }
    Ok(json_answer(StatusCode::OK, &answer))
}

/// `GET /v2/tasks/{id}`
pub(super) fn show(call: &Call, id: &str) -> ApiResult<Response<Body>> {
    may_access(call)?;
    super::route::expect_no_body(call)?;
    let images = call.api.catalogue.images();
    let wanted = parse_id(id);
    images
        .iter()
        .find_map(|image| {
            let task = current(image).find(|task| Some(task.id) == wanted)?;
            Some(with_links(document_of(image, task)))
        })
        .map(|document| json_answer(StatusCode::OK, &document))
        .ok_or_else(|| ApiError::new(StatusCode::NOT_FOUND, format!("Could not find task {id}")))
}

/// `POST /v2/tasks`: only imports make tasks.
pub(super) async fn create(call: Call) -> ApiResult<Response<Body>> {
    may_access(&call)?;
    let body = call.json().await?;
    let kind = body.get("type").and_then(Value::as_str).unwrap_or_default();
    if !["import", "api_image_import", "location_import"].contains(&kind) {
        return Err(ApiError::bad_request(
            "Provided object does not match schema 'task': the type is not one of ['import', \
             'api_image_import', 'location_import']",
        ));
    }
    Err(ApiError::forbidden(
        "Tasks are made by imports: POST /v2/images/{id}/import.",
    ))
}

fn may_access(call: &Call) -> ApiResult<()> {
    if policy::may_operate(&call.identity, Action::TasksApiAccess) {
        Ok(())
    } else {
        Err(ApiError::denied(Action::TasksApiAccess))
    }
}

fn parameter<'a>(call: &'a Call, name: &str) -> Option<&'a str> {
    let mut pairs = call.query.iter();
    pairs
        .find(|(key, _)| key == name)
        .map(|(_, value)| value.as_str())
}

/// The tasks of an image that have not expired.
fn current(image: &Image) -> impl Iterator<Item = &Task> {
    let now = now_ms();
    image
        .tasks
        .iter()
        .filter(move |task| !task.has_expired(now))
}

fn document_of(image: &Image, task: &Task) -> Value {
    let result = (task.status == TaskStatus::Success).then(|| json!({"image_id": image.id}));
    json!({
        "id": task.id,
        "type": task.kind.as_str(),
        "status": task.status.as_str(),
        // The schema knows no null here.
        "owner": task.owner.as_deref().unwrap_or_default(),
        "user_id": task.user.as_deref().unwrap_or_default(),
        "request_id": task.request,
        "image_id": image.id,
        "input": task.input,
        "result": result,
        "message": task.message,
        "created_at": document::time(task.created_at),
        "updated_at": document::time(task.updated_at),
        "expires_at": task.expires_at.map(document::time),
    })
}

fn with_links(mut document: Value) -> Value {
    document["self"] = format!("/v2/tasks/{}", document["id"].as_str().unwrap_or_default()).into();
    document["schema"] = "/v2/schemas/task".into();
    document
}
