//! JSON patches of images, in the two dialects of the API.

use hyper::header::{CONTENT_TYPE, HeaderName, HeaderValue};
use serde_json::Value;

use super::error::shown;
use super::locations::Change;
use super::request::Call;
use super::validate::{self, Kind};
use super::{ApiError, ApiResult};
use crate::auth::Identity;
use crate::auth::policy;
use crate::catalogue::{Changes, Image, Status};

static ACCEPT_PATCH: HeaderName = HeaderName::from_static("accept-patch");
const TYPE_V20: &str = "application/openstack-images-v2.0-json-patch";
const TYPE_V21: &str = "application/openstack-images-v2.1-json-patch";
/// Most operations in a patch: enough to replace every property and tag.
const OPERATIONS_MAX: usize = 1024;

/// A dialect.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Syntax {
    /// `[{"replace": "/name", "value": "x"}]`; adding what is there is an error.
    V20,
    /// `[{"op": "replace", "path": "/name", "value": "x"}]`
    V21,
}

impl Syntax {
    /// The dialect that the request's media type names.
    pub(super) fn of(call: &Call) -> ApiResult<Self> {
        let given = call.header(&CONTENT_TYPE).unwrap_or_default();
        match given.split(';').next().map(str::trim) {
            Some(TYPE_V20) => Ok(Self::V20),
            Some(TYPE_V21) => Ok(Self::V21),
            _ => Err(ApiError::unsupported_type(format!(
                "The request media type {given} is not supported by this server. Image PATCH takes \
                 {TYPE_V21} or {TYPE_V20}."
            ))
            .with(
                ACCEPT_PATCH.clone(),
                HeaderValue::from_static(
                    "application/openstack-images-v2.0-json-patch, \
                     application/openstack-images-v2.1-json-patch",
                ),
            )),
        }
    }
}

/// One change.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Operation {
    op: Op,
    /// Field or property, decoded.
    name: String,
    value: Value,
    locations: Option<Change>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Op {
    /// Fails if it is there.
    AddNew,
    /// Overwrites.
    Add,
    Replace,
    Remove,
}

/// The operations of a body.
pub(super) fn parse(syntax: Syntax, body: &Value) -> ApiResult<Vec<Operation>> {
    let list = body.as_array().ok_or_else(|| {
        ApiError::bad_request("Request body must be a JSON array of operation objects.")
    })?;
    if list.len() > OPERATIONS_MAX {
        return Err(ApiError::too_large(format!(
            "A patch has at most {OPERATIONS_MAX} operations."
        )));
    }
    list.iter()
        .map(|item| parse_operation(syntax, item))
        .collect()
}

fn parse_operation(syntax: Syntax, item: &Value) -> ApiResult<Operation> {
    let bad = |why: &str| ApiError::bad_request(why);
    let object = item
        .as_object()
        .ok_or_else(|| bad("Operations must be JSON objects."))?;
    let (name, path) =
        match syntax {
            Syntax::V21 => {
                let op = object.get("op").and_then(Value::as_str).ok_or_else(|| {
                bad("Unable to find `op` in JSON Schema change. It must be one of the following: \
                     add, remove, replace.")
            })?;
                let path = object.get("path").and_then(Value::as_str);
                (
                    op,
                    path.ok_or_else(|| bad("Unable to find 'path' in JSON Schema change"))?,
                )
            }
            Syntax::V20 => {
                let mut named = object
                    .iter()
                    .filter(|(key, _)| matches!(key.as_str(), "add" | "replace" | "remove"));
                match (named.next(), named.next()) {
                    (Some((op, Value::String(path))), None) => (op.as_str(), path.as_str()),
                    _ => {
                        return Err(bad(
                            "Operation objects must contain exactly one member named \"add\", \
                         \"remove\", or \"replace\".",
                        ));
                    }
                }
            }
        };
    let op = match (name, syntax) {
        ("add", Syntax::V20) => Op::AddNew,
        ("add", Syntax::V21) => Op::Add,
        ("replace", _) => Op::Replace,
        ("remove", _) => Op::Remove,
        (other, _) => {
            return Err(bad(&format!(
                "Invalid operation: `{}`. It must be one of the following: add, remove, replace.",
                other.chars().take(40).collect::<String>()
            )));
        }
    };
    let value = match (op, object.get("value")) {
        (Op::Remove, _) => Value::Null,
        (_, Some(value)) => value.clone(),
        (_, None) => {
            return Err(bad(&format!(
                "Operation \"{name}\" requires a member named \"value\"."
            )));
        }
    };
    if let Some(place) = path.strip_prefix("/locations")
        && (place.is_empty() || place.starts_with('/'))
    {
        return parse_location(op, place, value);
    }
    Ok(Operation {
        op,
        name: parse_pointer(path)?,
        value,
        locations: None,
    })
}

/// An operation on `locations`, which is the only field with places in it.
fn parse_location(op: Op, place: &str, value: Value) -> ApiResult<Operation> {
    let bad = || {
        ApiError::bad_request(format!(
            "Invalid JSON pointer for this resource: '/locations{}'",
            cut(place)
        ))
    };
    let place = place.strip_prefix('/');
    let change = match (op, place) {
        (Op::Add | Op::AddNew, Some(place)) if place == "-" || place.parse::<usize>().is_ok() => {
            Change::Add(value.clone())
        }
        (Op::Add | Op::AddNew | Op::Replace, None) => Change::Replace(value.clone()),
        (Op::Remove, Some(place)) => Change::Remove(place.parse().map_err(|_| bad())?),
        (Op::Remove, None) => Change::Replace(Value::Array(Vec::new())),
        _ => return Err(bad()),
    };
    Ok(Operation {
        op,
        name: "locations".into(),
        value,
        locations: Some(change),
    })
}

/// The change of `locations`, if that is what the patch is about.
pub(super) fn of_locations(operations: &[Operation]) -> ApiResult<Option<Change>> {
    let changes: Vec<&Change> = operations
        .iter()
        .filter_map(|operation| operation.locations.as_ref())
        .collect();
    match (changes.as_slice(), operations.len()) {
        ([], _) => Ok(None),
        ([change], 1) => Ok(Some((*change).clone())),
        _ => Err(ApiError::bad_request(
            "A patch of locations has one operation and no others.",
        )),
    }
}

/// The only segment of a JSON pointer.
fn parse_pointer(pointer: &str) -> ApiResult<String> {
    let bad = |why: &str| ApiError::bad_request(why);
    let Some(mut path) = pointer.strip_prefix('/') else {
        return Err(bad(&format!(
            "Pointer `{pointer}` does not start with \"/\"."
        )));
    };
    // Glance takes //x for x.
    path = path.trim_start_matches('/');
    if path.contains('/') {
        return Err(bad(&format!(
            "Invalid JSON pointer for this resource: '{pointer}'"
        )));
    }
    let mut out = String::with_capacity(path.len());
    let mut chars = path.chars();
    while let Some(c) = chars.next() {
        match (c, (c == '~').then(|| chars.next())) {
            ('~', Some(Some('0'))) => out.push('~'),
            ('~', Some(Some('1'))) => out.push('/'),
            ('~', _) => {
                return Err(bad(&format!(
                    "Pointer `{pointer}` contains \"~\" not part of a recognized escape sequence."
                )));
            }
            (c, _) => out.push(c),
        }
    }
    if out.is_empty() {
        return Err(bad(&format!(
            "Invalid JSON pointer for this resource: '{pointer}'"
        )));
    }
    Ok(out)
}

/// The writes that `operations` make on `image`, each seeing those before it.
pub(super) fn apply(operations: &[Operation], image: &Image, who: &Identity) -> ApiResult<Changes> {
    let mut changes = Changes::new();
    let mut properties = image.properties.clone();
    let mut tags = image.tags.clone();
    for Operation {
        op, name, value, ..
    } in operations
    {
        match validate::kind(name) {
            Kind::ReadOnly => {
                return Err(ApiError::forbidden(format!(
                    "Attribute '{name}' is read-only."
                )));
            }
            Kind::Reserved => {
                return Err(ApiError::forbidden(format!(
                    "Attribute '{name}' is reserved."
                )));
            }
            Kind::Base if *op == Op::Remove => {
                return Err(ApiError::forbidden(format!(
                    "Access was denied to this resource. Property {name} may not be removed."
                )));
            }
            Kind::Base if *op == Op::AddNew => {
                return Err(conflict(&format!("Property {name} already present.")));
            }
            Kind::Base if name == "tags" => {
                let new = validate::tags(value)?;
                for tag in tags.difference(&new) {
                    changes.set_tag(tag, false);
                }
                for tag in new.difference(&tags) {
                    changes.set_tag(tag, true);
                }
                tags = new;
            }
            Kind::Base => {
                if name.ends_with("_format") && image.status != Status::Queued {
                    return Err(ApiError::forbidden(format!(
                        "Attribute {name} can be only replaced for a queued image."
                    )));
                }
                if name == "owner" && !who.is_admin() && value.as_str() != who.project.as_deref() {
                    return Err(ApiError::forbidden(
                        "Access was denied to this resource. Owner can't be updated by non admin.",
                    ));
                }
                if let Some(action) = validate::publishing(name, value)
                    && !policy::may(who, action, image)
                {
                    return Err(ApiError::denied(action));
                }
                validate::base(&mut changes, name, value)?;
            }
            Kind::Property => {
                let there = properties.contains_key(name);
                match op {
                    Op::AddNew if there => {
                        return Err(conflict(&format!(
                            "Property {} already present.",
                            cut(name)
                        )));
                    }
                    Op::Replace | Op::Remove if !there => {
                        return Err(conflict(&format!("Property {} does not exist.", cut(name))));
                    }
                    Op::Remove => {
                        properties.remove(name);
                        changes.set_property(name, None);
                    }
                    _ => {
                        let text = validate::property(name, value)?;
                        properties.insert(name.clone(), text.clone());
                        changes.set_property(name, Some(text));
                    }
                }
            }
        }
    }
    if properties.len() > validate::PROPERTIES_MAX && properties.len() > image.properties.len() {
        return Err(validate::too_many("properties", validate::PROPERTIES_MAX));
    }
    Ok(changes)
}

fn conflict(why: &str) -> ApiError {
    ApiError::conflict(format!(
        "There was a conflict when trying to complete your request. {why}"
    ))
}

fn cut(name: &str) -> String {
    shown(&Value::from(name)).trim_matches('"').to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use hyper::StatusCode;
    use serde_json::json;

    fn status(result: ApiResult<impl Sized>) -> StatusCode {
        result.err().map_or(StatusCode::OK, |e| e.status())
    }

    #[test]
    fn pointers() {
        assert_eq!(parse_pointer("/a~1b~0c").unwrap(), "a/b~c");
        assert_eq!(parse_pointer("//x").unwrap(), "x");
        for bad in ["x", "", "/", "/a/b", "/tags/-", "/a~2", "/a~"] {
            assert_eq!(status(parse_pointer(bad)), StatusCode::BAD_REQUEST, "{bad}");
        }
    }

    #[test]
    fn dialects_do_not_mix() {
        let v21 = json!([{"op": "add", "path": "/x", "value": "1"}]);
        let v20 = json!([{"add": "/x", "value": "1"}]);
        assert_eq!(parse(Syntax::V21, &v21).unwrap()[0].op, Op::Add);
        assert_eq!(parse(Syntax::V20, &v20).unwrap()[0].op, Op::AddNew);
        assert_eq!(status(parse(Syntax::V20, &v21)), StatusCode::BAD_REQUEST);
        assert_eq!(status(parse(Syntax::V21, &v20)), StatusCode::BAD_REQUEST);
    }

    #[test]
    fn bodies_that_are_no_patches() {
        for bad in [
            json!({}),
            json!(["x"]),
            json!([{"op": "test", "path": "/x", "value": 1}]),
            json!([{"op": "move", "path": "/x", "from": "/y"}]),
            json!([{"op": "add", "path": "/x"}]),
            json!([{"op": "add", "value": "x"}]),
            json!([{"path": "/x", "value": "x"}]),
        ] {
            assert_eq!(
                status(parse(Syntax::V21, &bad)),
                StatusCode::BAD_REQUEST,
                "{bad}"
            );
        }
    }
}
