//! `/v2/metadefs/namespaces` and `/v2/metadefs/namespaces/{namespace}`

use std::cmp::Ordering;

use hyper::header::{HeaderValue, LOCATION};
use hyper::{Response, StatusCode};
use serde_json::{Map, Value, json};

use super::items::Kind;
use super::{checked, may, namespace_for, no_namespace, prefix, protected};
use crate::auth::policy::{self, Action};
use crate::catalogue::{Definitions, Namespace, now_ms};
use crate::glance::document::time;
use crate::glance::request::Call;
use crate::glance::{ApiError, ApiResult, Body, blocking, empty, json as json_answer, list::link};

const PATH: &str = "/v2/metadefs/namespaces";
/// Namespaces of a page, if the client does not say.
const LIMIT_DEFAULT: usize = 25;
/// Most namespaces of a page.
const LIMIT_MAX: usize = 1000;
/// Most namespaces. Glance ships with 40.
const NAMESPACES_MAX: usize = 1000;

pub(super) fn list(call: &Call) -> ApiResult<Response<Body>> {
    may(&call.identity, Action::GetMetadefNamespaces)?;
    may(&call.identity, Action::ListMetadefResourceTypes)?;
    let asked = |name: &str| {
        let mut pairs = call.query.iter().rev();
        pairs
            .find(|pair| pair.0 == name)
            .map(|pair| pair.1.as_str())
    };
    let bad = |what: &str| Err(ApiError::bad_request(format!("Invalid {what}.")));
    let limit = match asked("limit").map(str::parse::<usize>) {
        None => LIMIT_DEFAULT,
        Some(Ok(limit)) => limit.min(LIMIT_MAX),
        Some(Err(_)) => return bad("limit: it must be a number that is not negative"),
    };
    let order: fn(&Namespace, &Namespace) -> Ordering = match asked("sort_key") {
        None | Some("created_at") => |a, b| a.created.cmp(&b.created),
        Some("updated_at") => |a, b| a.updated_at.cmp(&b.updated_at),
        Some("namespace") => |a, b| a.name.cmp(&b.name),
        Some(_) => return bad("sort_key: it is created_at, updated_at or namespace"),
    };
    let down = match asked("sort_dir") {
        None | Some("desc") => true,
        Some("asc") => false,
        Some(_) => return bad("sort_dir: it is asc or desc"),
    };
    let visibility = asked("visibility");
    if !matches!(visibility, None | Some("public" | "private")) {
        return bad("visibility: it is public or private");
    }
    let types: Option<Vec<&str>> = asked("resource_types").map(|list| list.split(',').collect());
    let mut all = call.api.catalogue.namespaces();
    all.retain(|n| {
        policy::may_define(&call.identity, Action::GetMetadefNamespace, n)
            && visibility.is_none_or(|visibility| (visibility == "public") == n.is_public())
            && types.as_ref().is_none_or(|types| {
                let mut of = n.items(Kind::ResourceTypes.definition());
                of.any(|(name, _)| types.contains(&name))
            })
    });
    all.sort_by(|a, b| if down { order(b, a) } else { order(a, b) });
    if let Some(marker) = asked("marker") {
        let at = all.iter().position(|n| n.name == marker);
        let at = at.ok_or_else(|| no_namespace(marker))?;
        all.drain(..=at);
    }
    let more = limit > 0 && all.len() >= limit;
    all.truncate(limit);
    let shown: Vec<Value> = all
        .iter()
        .map(|n| document(n, &[Kind::ResourceTypes]))
        .collect();
    let mut page = json!({
        "namespaces": shown,
        "first": link(PATH, &call.query, None),
        "schema": "/v2/schemas/metadefs/namespaces",
    });
    if let Some(last) = all.last().filter(|_| more) {
        page["next"] = link(PATH, &call.query, Some(&last.name)).into();
    }
    Ok(json_answer(StatusCode::OK, &page))
}

pub(super) async fn create(call: Call) -> ApiResult<Response<Body>> {
    let (api, who) = (call.api.clone(), call.identity.clone());
    may(&who, Action::AddMetadefNamespace)?;
    let body = call.json().await?;
    checked("namespace", &body)?;
    let name = body["namespace"].as_str().unwrap_or_default().to_owned();
    let mut definitions = Definitions::default();
    definitions.set_name(&name);
    definitions.set_about(&about(&body, who.project.as_deref()))?;
    let mut twice = false;
    for kind in Kind::ALL {
        for (name, value) in kind.within(&body) {
            if name.is_empty() || name.chars().count() > 80 {
                return Err(ApiError::bad_request("A name has 1 to 80 characters."));
            }
            let before = definitions.define(kind.definition(), &name, value, now_ms())?;
            twice |= before;
        }
    }
    if twice {
        return Err(ApiError::conflict("A definition is there twice."));
    }
    let defined = Kind::ALL.map(Kind::field).into_iter();
    let defined: Vec<_> = defined
        .filter_map(|f| Some((f, body.get(f)?.clone())))
        .collect();
    let wanted = name.clone();
    let made = blocking(move || {
        api.catalogue.create_namespace(definitions, || {
            if api.catalogue.namespace(&wanted).is_some() {
                return Err(exists(&wanted));
            }
            if api.catalogue.namespaces().len() >= NAMESPACES_MAX {
                let most = format!("There are {NAMESPACES_MAX} namespaces, which is the limit.");
                return Err(ApiError::too_large(most));
            }
            Ok(())
        })?;
        api.catalogue
            .namespace(&wanted)
            .ok_or_else(|| no_namespace(&wanted))
    })
    .await??;
    let mut shown = document(&made, &[]);
    for (field, value) in defined {
        shown[field] = value;
    }
    let mut answer = json_answer(StatusCode::CREATED, &shown);
    if let Ok(location) = HeaderValue::from_str(&format!("{PATH}/{name}")) {
        answer.headers_mut().insert(LOCATION, location);
    }
    Ok(answer)
}

pub(super) fn show(call: &Call, name: &str) -> ApiResult<Response<Body>> {
    let (api, who) = (&call.api, &call.identity);
    let namespace = namespace_for(&api.catalogue, who, name, Action::GetMetadefNamespace)?;
    let mut shown = document(&namespace, &Kind::ALL);
    let wanted = prefix::asked(&call.query);
    if let Some(prefix) = wanted.and_then(|of| prefix::of(&namespace, of)) {
        prefix::put(prefix, &mut shown);
    }
    Ok(json_answer(StatusCode::OK, &shown))
}

pub(super) async fn update(call: Call, name: &str) -> ApiResult<Response<Body>> {
    let (api, who) = (call.api.clone(), call.identity.clone());
    let found = namespace_for(&api.catalogue, &who, name, Action::ModifyMetadefNamespace);
    let body = call.json().await?;
    checked("namespace", &body)?;
    let id = found?.id;
    let changed = blocking(move || {
        let name = body["namespace"].as_str().unwrap_or_default();
        api.catalogue.modify_namespace(id, |namespace| {
            if name != namespace.name && api.catalogue.namespace(name).is_some() {
                return Err(exists(name));
            }
            let mut definitions = Definitions::default();
            definitions.set_name(name);
            definitions.set_about(&about(&body, namespace.owner()))?;
            Ok(definitions)
        })?;
        api.catalogue
            .namespace(name)
            .ok_or_else(|| no_namespace(name))
    })
    .await??;
    Ok(json_answer(StatusCode::OK, &document(&changed, &[])))
}

pub(super) async fn delete(call: Call, name: &str) -> ApiResult<Response<Body>> {
    let (api, who) = (call.api.clone(), call.identity.clone());
    let namespace = namespace_for(&api.catalogue, &who, name, Action::DeleteMetadefNamespace)?;
    let id = namespace.id;
    blocking(move || api.catalogue.delete_namespace(id, protected)).await??;
    Ok(empty(StatusCode::NO_CONTENT))
}

fn exists(name: &str) -> ApiError {
    ApiError::conflict(format!(
        "The metadata definition namespace={name} already exists."
    ))
}

/// What a document says of a namespace itself.
fn about(body: &Value, owner: Option<&str>) -> Value {
    let mut about = Map::new();
    for field in [
        "display_name",
        "description",
        "visibility",
        "protected",
        "owner",
    ] {
        if let Some(value) = body.get(field) {
            about.insert(field.into(), value.clone());
        }
    }
    about
        .entry("visibility")
        .or_insert_with(|| "private".into());
    about.entry("protected").or_insert_with(|| false.into());
    if let Some(owner) = owner {
        about.entry("owner").or_insert_with(|| owner.into());
    }
    Value::Object(about)
}

/// A namespace as the API shows it, with what is defined in it of these kinds.
fn document(namespace: &Namespace, kinds: &[Kind]) -> Value {
    let mut document = namespace.about.clone();
    if !document.is_object() {
        document = json!({});
    }
    document["namespace"] = namespace.name.as_str().into();
    document["created_at"] = time(namespace.created_at()).into();
    document["updated_at"] = time(namespace.updated_at).into();
    document["self"] = format!("{PATH}/{}", namespace.name).into();
    document["schema"] = "/v2/schemas/metadefs/namespace".into();
    for kind in kinds {
        if namespace.items(kind.definition()).next().is_some() {
            document[kind.field()] = kind.list(namespace);
        }
    }
    document
}
