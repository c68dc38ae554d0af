//! From method and path to a handler.

use std::sync::Arc;

use hyper::body::{Body as _, Incoming};
use hyper::header::{CONTENT_TYPE, HeaderName, HeaderValue};
use hyper::{Method, Request, Response, StatusCode};
use uuid::Uuid;

use super::request::{Call, accept, decode, parse_id, parse_query};
use super::upload::Purpose;
use super::{
    Api, ApiError, ApiResult, Body, cache, data, full, images, import, list, locations, members,
    metadefs, quota, schema, stores, tags, tasks, upload, versions,
};
use crate::auth::AuthError;
use crate::catalogue::Image;

static REQUEST_ID: HeaderName = HeaderName::from_static("x-openstack-request-id");

/// Answers a request; the name of its route is for metrics.
pub(super) async fn answer(
    api: Arc<Api>,
    request: Request<Incoming>,
    id: Uuid,
) -> (&'static str, Response<Body>) {
    let (parts, body) = request.into_parts();
    let accept = accept(&parts.headers);
    let path = parts.uri.path();
    if let Some(answer) = discovery(&api, path, &parts) {
        return ("discovery", answer);
    }
    let mut segments: Vec<String> = path.split('/').skip(1).map(decode).collect();
    if segments
        .first()
        .is_some_and(|first| versions::is_version(first))
    {
        segments.remove(0);
    }
    let identity = match api.authenticator.identify(&parts.headers).await {
        Ok(identity) => identity,
        Err(error) => {
            let error = turn_away(&api, &error);
            upload::drain_unless_expecting(&parts.headers, body);
            return ("unauthenticated", error.into_response(&accept));
        }
    };
    let call = Call {
        identity,
        api,
        request_id: format!("req-{id}"),
        method: parts.method,
        headers: parts.headers,
        query: parse_query(parts.uri.query().unwrap_or_default()),
        body,
    };
    let segments: Vec<&str> = segments.iter().map(String::as_str).collect();
    if let ["images", id, ref rest @ ..] = segments[..] {
        let reads = *rest == ["file"] && matches!(call.method, Method::GET | Method::HEAD);
        find_elsewhere(&call, id, reads).await;
    }
    let (route, result) = dispatch(call, &segments).await;
    let mut answer = result.unwrap_or_else(|error| {
        tracing::debug!(status = %error.status(), message = error.message(), "refused");
        error.into_response(&accept)
    });
    if let Ok(value) = HeaderValue::from_str(&format!("req-{id}")) {
        answer.headers_mut().insert(REQUEST_ID.clone(), value);
    }
    (route, answer)
}

fn turn_away(api: &Api, error: &AuthError) -> ApiError {
    match error {
        AuthError::Unauthenticated => ApiError::unauthenticated(api.authenticator.challenge()),
        AuthError::Unavailable => ApiError::unavailable(
            "Tokens cannot be checked now, since no Keystone answers. Try again later.",
        ),
    }
}

/// What is answered before anybody asks who is calling.
fn discovery(api: &Api, path: &str, parts: &hyper::http::request::Parts) -> Option<Response<Body>> {
    if path == "/healthcheck" {
        let mut answer = Response::new(full("OK"));
        let text = HeaderValue::from_static("text/plain; charset=UTF-8");
        answer.headers_mut().insert(CONTENT_TYPE, text);
        return Some(answer);
    }
    if parts.method == Method::OPTIONS {
        return Some(super::empty(StatusCode::OK));
    }
    let first = path.split('/').nth(1).unwrap_or_default();
    let by_media_type = versions::asked_by_media_type(&parts.headers);
    if versions::is_version(first) || (by_media_type && !first.is_empty()) {
        return None;
    }
    let status = if first == "versions" {
        StatusCode::OK
    } else {
        StatusCode::MULTIPLE_CHOICES
    };
    Some(versions::document(status, &parts.headers, &api.config.api))
}

/// An image that is unknown here, or whose data somebody wants to read and is not known here, may be known to a site
/// near us whose news has not come yet.
async fn find_elsewhere(call: &Call, id: &str, reads: bool) {
    let Some(peers) = &call.api.peers else { return };
    let Some(id) = parse_id(id) else { return };
    let catalogue = &call.api.catalogue;
    let enough = |image: Option<&Image>| image.is_some_and(|image| !reads || image.data.is_some());
    let known = match catalogue.get(id) {
        Some(image) => enough(Some(&image)),
        None => catalogue.knows(id),
    };
    if !known {
        peers.learn_image(id, enough).await;
    }
}

async fn dispatch(call: Call, segments: &[&str]) -> (&'static str, ApiResult<Response<Body>>) {
    let method = call.method.clone();
    let not_allowed = |allowed| Err(ApiError::method(allowed, &method));
    match *segments {
        ["images"] => match method {
            Method::GET => ("images.list", list::list(&call)),
            Method::POST => ("images.create", images::create(call).await),
            _ => ("images", not_allowed("GET, POST")),
        },
        ["images", id] => match method {
            Method::GET => ("images.show", images::show(&call, id)),
            Method::PATCH => ("images.update", images::update(call, id).await),
            Method::DELETE => ("images.delete", images::delete(call, id).await),
            _ => ("images.one", not_allowed("GET, PATCH, DELETE")),
        },
        ["images", id, "file"] => match method {
            Method::GET | Method::HEAD => ("images.download", data::download(call, id).await),
            Method::PUT => (
                "images.upload",
                upload::upload(call, id, Purpose::Activate).await,
            ),
            _ => ("images.file", not_allowed("GET, HEAD, PUT")),
        },
        ["images", id, "members"] => match method {
            Method::GET => ("members.list", members::list(&call, id)),
            Method::POST => ("members.add", members::add(call, id).await),
            _ => ("members", not_allowed("GET, POST")),
        },
        ["images", id, "members", project] => match method {
            Method::GET => ("members.show", members::show(&call, id, project)),
            Method::PUT => ("members.decide", members::decide(call, id, project).await),
            Method::DELETE => ("members.remove", members::remove(call, id, project).await),
            _ => ("members.one", not_allowed("GET, PUT, DELETE")),
        },
        ["images", id, "tags", tag] => match method {
            Method::PUT => ("images.tag", tags::put(call, id, tag).await),
            Method::DELETE => ("images.untag", tags::delete(call, id, tag).await),
            _ => ("images.tags", not_allowed("PUT, DELETE")),
        },
        [
            "images",
            id,
            "actions",
            action @ ("deactivate" | "reactivate"),
        ] => match method {
            Method::POST => ("images.action", images::act(call, id, action).await),
            _ => ("images.action", not_allowed("POST")),
        },
        ["images", id, "stage"] => match method {
            Method::PUT => (
                "images.stage",
                upload::upload(call, id, Purpose::Stage).await,
            ),
            _ => ("images.stage", not_allowed("PUT")),
        },
        ["info", "usage"] => match method {
            Method::GET => ("info.usage", quota::usage(&call)),
            _ => ("info.usage", not_allowed("GET")),
        },
        ["images", id, "import"] => match method {
            Method::POST => ("images.import", import::import(call, id).await),
            _ => ("images.import", not_allowed("POST")),
        },
        ["images", id, "tasks"] => match method {
            Method::GET => ("images.tasks", tasks::of_image(&call, id)),
            _ => ("images.tasks", not_allowed("GET")),
        },
        ["tasks"] => match method {
            Method::GET => ("tasks.list", tasks::list(&call)),
            Method::POST => ("tasks.create", tasks::create(call).await),
            _ => ("tasks", not_allowed("GET, POST")),
        },
        ["tasks", id] => match method {
            Method::GET => ("tasks.show", tasks::show(&call, id)),
            _ => ("tasks.show", not_allowed("GET")),
        },
        ["images", id, "locations"] => match method {
            Method::GET => ("images.locations", locations::list(&call, id)),
            Method::POST => ("images.locate", locations::add(call, id).await),
            // As Glance says, though it answers GET too.
            _ => ("images.locations", not_allowed("POST")),
        },
        ["cache"] => match method {
            Method::GET => ("cache.list", cache::list(&call).await),
            Method::DELETE => ("cache.clear", cache::clear(call).await),
            _ => ("cache", not_allowed("GET, DELETE")),
        },
        ["cache", "clean"] if method == Method::POST => ("cache.clean", cache::clean(call).await),
        ["cache", "prune"] if method == Method::POST => ("cache.prune", cache::prune(&call)),
        ["cache", "nodes", id] => match method {
            Method::GET => ("cache.nodes", cache::nodes(&call, id)),
            _ => ("cache.nodes", not_allowed("GET")),
        },
        ["cache", id] => match method {
            Method::PUT => ("cache.queue", cache::queue(call, id).await),
            Method::DELETE => ("cache.delete", cache::delete(call, id).await),
            _ => ("cache.one", not_allowed("PUT, DELETE")),
        },
        ["metadefs", ref rest @ ..] => ("metadefs", metadefs::answer(call, rest).await),
        ["schemas", "metadefs", name] => ("schemas", metadefs::schema(&call, name)),
        ["info", "import"] => match method {
            Method::GET => ("info.import", import::info(&call)),
            _ => ("info.import", not_allowed("GET")),
        },
        ["info", "stores"] => match method {
            Method::GET => ("info.stores", stores::list(&call)),
            _ => ("info.stores", not_allowed("GET")),
        },
        ["info", "stores", "detail"] => match method {
            Method::GET => ("info.stores", stores::detail(&call)),
            _ => ("info.stores", not_allowed("GET")),
        },
        ["stores", store, id] => match method {
            Method::DELETE => ("stores.delete", stores::delete(call, store, id).await),
            _ => ("stores", not_allowed("DELETE")),
        },
        ["schemas", name] => match (schema::named(name), &method) {
            (None, _) => ("schemas", Err(ApiError::not_found())),
            (Some(schema), &Method::GET) => (
                "schemas",
                expect_no_body(&call).map(|()| super::json(StatusCode::OK, &schema)),
            ),
            _ => ("schemas", not_allowed("GET")),
        },
        _ => ("unknown", Err(ApiError::not_found())),
    }
}

/// Refuses a body where none is meant.
pub(super) fn expect_no_body(call: &Call) -> ApiResult<()> {
    if call.body.is_end_stream() {
        Ok(())
    } else {
        Err(ApiError::bad_request(
            "A body is not expected with this request.",
        ))
    }
}
