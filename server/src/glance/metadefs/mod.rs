//! Metadata definitions: the catalogue of known properties that Horizon shows beside an image.
//!
//! None are defined. Clients that read them find empty lists and the schemas; nobody can add any.

mod schema;

use hyper::{Method, Response, StatusCode};
use serde_json::{Value, json};

use super::request::Call;
use super::{ApiError, ApiResult, Body, json as json_answer};
use crate::auth::policy::{self, Action};

/// A schema under `/v2/schemas/metadefs/`.
pub(super) fn schema(call: &Call, name: &str) -> ApiResult<Response<Body>> {
    let schema = schema::named(name).ok_or_else(ApiError::not_found)?;
    if call.method != Method::GET {
        return Err(ApiError::method("GET", &call.method));
    }
    super::route::expect_no_body(call)?;
    Ok(json_answer(StatusCode::OK, &schema))
}

/// What is under `/v2/metadefs/`.
pub(super) fn answer(call: &Call, segments: &[&str]) -> ApiResult<Response<Body>> {
    let may = |action| {
        if policy::may_operate(&call.identity, action) {
            Ok(())
        } else if policy::may_operate(&call.identity, Action::GetMetadefNamespace) {
            Err(ApiError::denied(action))
        } else {
            Err(ApiError::not_found())
        }
    };
    match (segments, &call.method) {
        (["namespaces"], &Method::GET) => {
            may(Action::GetMetadefNamespaces)?;
            Ok(namespaces(call))
        }
        (["namespaces"], &Method::POST) => {
            may(Action::AddMetadefNamespace)?;
            Err(ApiError::forbidden(
                "This site keeps no metadata definitions of its own.",
            ))
        }
        (["namespaces"], method) => Err(ApiError::method("GET, POST", method)),
        (["resource_types"], &Method::GET) => {
            may(Action::ListMetadefResourceTypes)?;
            Ok(json_answer(StatusCode::OK, &json!({"resource_types": []})))
        }
        (["resource_types"], method) => Err(ApiError::method("GET", method)),
        (["namespaces", name, ..], _) => Err(ApiError::new(
            StatusCode::NOT_FOUND,
            format!("Metadata definition namespace={name} was not found."),
        )),
        _ => Err(ApiError::not_found()),
    }
}

fn namespaces(call: &Call) -> Response<Body> {
    let list: Value = json!({
        "namespaces": [],
        "first": super::list::link("/v2/metadefs/namespaces", &call.query, None),
        "schema": "/v2/schemas/metadefs/namespaces",
    });
    json_answer(StatusCode::OK, &list)
}
