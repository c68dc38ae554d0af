//! Metadata definitions: the catalogue of known properties that Horizon shows beside an image.

mod check;
mod items;
mod namespaces;
mod prefix;
mod schema;

use std::sync::Arc;

use hyper::{Method, Response, StatusCode};
use serde_json::{Value, json};

use super::request::Call;
use super::{ApiError, ApiResult, Body, json as json_answer};
use crate::auth::Identity;
use crate::auth::policy::{self, Action};
use crate::catalogue::{Catalogue, Namespace};

/// What clients may not set.
const READ_ONLY: [&str; 4] = ["created_at", "updated_at", "self", "schema"];

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
pub(super) async fn answer(call: Call, segments: &[&str]) -> ApiResult<Response<Body>> {
    match *segments {
        ["namespaces"] => match call.method {
            Method::GET => namespaces::list(&call),
            Method::POST => namespaces::create(call).await,
            _ => Err(ApiError::method("GET, POST", &call.method)),
        },
        ["namespaces", name] => match call.method {
            Method::GET => namespaces::show(&call, name),
            Method::PUT => namespaces::update(call, name).await,
            Method::DELETE => namespaces::delete(call, name).await,
            _ => Err(ApiError::method("GET, PUT, DELETE", &call.method)),
        },
        ["namespaces", namespace, kind, ref rest @ ..] => {
            let kind = items::Kind::named(kind).ok_or_else(ApiError::not_found)?;
            match *rest {
                [] => items::all(call, namespace, kind).await,
                [name] => items::one(call, namespace, kind, name).await,
                _ => Err(ApiError::not_found()),
            }
        }
        ["resource_types"] if call.method == Method::GET => items::resource_types(&call),
        ["resource_types"] => Err(ApiError::method("GET", &call.method)),
        _ => Err(ApiError::not_found()),
    }
}

/// Whether they may do what is about no namespace.
fn may(who: &Identity, action: Action) -> ApiResult<()> {
    if policy::may_operate(who, action) {
        Ok(())
    } else if policy::may_operate(who, Action::GetMetadefNamespace) {
        Err(ApiError::denied(action))
    } else {
        Err(ApiError::not_found())
    }
}

/// A namespace that the caller may do this to.
fn namespace_for(
    catalogue: &Catalogue,
    who: &Identity,
    name: &str,
    action: Action,
) -> ApiResult<Arc<Namespace>> {
    let readable = |n: &Arc<Namespace>| policy::may_define(who, Action::GetMetadefNamespace, n);
    let namespace = catalogue.namespace(name).filter(readable);
    let namespace = namespace.ok_or_else(|| no_namespace(name))?;
    if policy::may_define(who, action, &namespace) {
        Ok(namespace)
    } else {
        Err(ApiError::denied(action))
    }
}

fn no_namespace(name: &str) -> ApiError {
    ApiError::new(
        StatusCode::NOT_FOUND,
        format!("Metadata definition namespace={name} was not found."),
    )
}

fn protected(namespace: &Namespace) -> ApiResult<()> {
    if namespace.is_protected() {
        let name = &namespace.name;
        return Err(ApiError::forbidden(format!(
            "Metadata definition namespace {name} is protected and cannot be deleted."
        )));
    }
    Ok(())
}

/// A document that fits the schema and sets nothing that is read-only.
fn checked(schema: &str, document: &Value) -> ApiResult<()> {
    if let Some(field) = READ_ONLY.into_iter().find(|f| document.get(f).is_some()) {
        return Err(ApiError::forbidden(format!(
            "Attribute '{field}' is read-only."
        )));
    }
    let schema = schema::named(schema).unwrap_or_else(|| json!({}));
    check::check(&schema, document).map_err(ApiError::bad_request)
}
