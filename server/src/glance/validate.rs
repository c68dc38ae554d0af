//! Checking what clients write into an image's fields, the same for create and update.

use std::collections::BTreeSet;

use serde_json::Value;
use vitrail_proto::record::TEXT_LEN_MAX;

use super::error::shown;
use super::schema::{CONTAINER_FORMATS, DISK_FORMATS};
use super::{ApiError, ApiResult};
use crate::auth::policy::{self, Action};
use crate::catalogue::{Changes, Visibility, field};

/// Most custom properties of an image.
pub(super) const PROPERTIES_MAX: usize = 128;
/// Most tags of an image.
pub(super) const TAGS_MAX: usize = 128;
/// Longest name, tag, owner and property name, in characters.
const NAME_CHARS_MAX: usize = 255;
/// Largest `min_disk` and `min_ram`.
const MINIMUM_MAX: u64 = 2_147_483_647;

/// Fields that only the service writes.
const READ_ONLY: [&str; 15] = [
    "status",
    "checksum",
    "size",
    "virtual_size",
    "os_hash_algo",
    "os_hash_value",
    "created_at",
    "updated_at",
    "self",
    "file",
    "schema",
    "direct_url",
    "stores",
    "id",
    "locations",
];
/// Names that nobody writes.
const RESERVED: [&str; 3] = ["location", "deleted", "deleted_at"];

/// What a name of a field stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    ReadOnly,
    Reserved,
    /// A base field that clients write.
    Base,
    /// A custom property.
    Property,
}

/// What `name` stands for in a document or a patch.
pub(super) fn kind(name: &str) -> Kind {
    if RESERVED.contains(&name) || name.starts_with("os_glance_") {
        return Kind::Reserved;
    }
    if READ_ONLY.contains(&name) {
        return Kind::ReadOnly;
    }
    match name {
        "name" | "visibility" | "owner" | "protected" | "os_hidden" | "min_disk" | "min_ram"
        | "disk_format" | "container_format" | "tags" => Kind::Base,
        _ => Kind::Property,
    }
}

/// The refusal of a value that the schema does not allow.
fn mismatch(why: impl std::fmt::Display) -> ApiError {
    ApiError::bad_request(format!(
        "Provided object does not match schema 'image': {why}"
    ))
}

/// Adds the write of a base field (but `tags`) to `changes`. Whether
/// the caller may write it is not asked here.
pub(super) fn base(changes: &mut Changes, name: &str, value: &Value) -> ApiResult<()> {
    match name {
        "name" => changes.set_text(field::NAME, text_or_null(name, value)?),
        "owner" => changes.set_text(field::OWNER, text_or_null(name, value)?),
        "disk_format" => changes.set_text(field::DISK_FORMAT, one_of(name, value, &DISK_FORMATS)?),
        "container_format" => changes.set_text(
            field::CONTAINER_FORMAT,
            one_of(name, value, &CONTAINER_FORMATS)?,
        ),
        "visibility" => {
            let visibility = value.as_str().and_then(Visibility::parse).ok_or_else(|| {
                mismatch(format!(
                    "{} is not one of ['community', 'public', 'private', 'shared']",
                    shown(value)
                ))
            })?;
            changes.set_text(field::VISIBILITY, Some(visibility.as_str().into()))
        }
        "protected" => changes.set(field::PROTECTED, flag(name, value)?),
        "os_hidden" => changes.set(field::HIDDEN, flag(name, value)?),
        "min_disk" => changes.set(field::MIN_DISK, minimum(name, value)?),
        "min_ram" => changes.set(field::MIN_RAM, minimum(name, value)?),
        _ => {
            return Err(ApiError::bad_request(format!(
                "'{name}' is not a field of images."
            )));
        }
    };
    Ok(())
}

/// What else than changing an image it takes to write this value of this field.
pub(super) fn publishing(name: &str, value: &Value) -> Option<Action> {
    let visibility = value.as_str().filter(|_| name == "visibility");
    visibility
        .and_then(Visibility::parse)
        .and_then(policy::publishing)
}

/// The tags that a list names; duplicates collapse.
pub(super) fn tags(value: &Value) -> ApiResult<BTreeSet<String>> {
    let list = value
        .as_array()
        .ok_or_else(|| mismatch(format!("{} is not of type 'array'", shown(value))))?;
    let mut tags = BTreeSet::new();
    for item in list {
        let tag = item
            .as_str()
            .ok_or_else(|| mismatch(format!("{} is not of type 'string'", shown(item))))?;
        tags.insert(self::tag(tag)?);
        if tags.len() > TAGS_MAX {
            return Err(too_many("tags", TAGS_MAX));
        }
    }
    Ok(tags)
}

/// A tag.
pub(super) fn tag(tag: &str) -> ApiResult<String> {
    check_text("tag", tag, NAME_CHARS_MAX)?;
    Ok(tag.to_owned())
}

/// The project of a member.
pub(super) fn member(project: &str) -> ApiResult<()> {
    check_text("member", project, NAME_CHARS_MAX)
}

/// The name and value of a custom property.
pub(super) fn property(name: &str, value: &Value) -> ApiResult<String> {
    if name.chars().count() > NAME_CHARS_MAX {
        return Err(ApiError::bad_request(
            "Custom property should not be greater than 255 characters.",
        ));
    }
    check_text("property name", name, NAME_CHARS_MAX)?;
    let text = value
        .as_str()
        .ok_or_else(|| mismatch(format!("{} is not of type 'string'", shown(value))))?;
    if text.len() > TEXT_LEN_MAX {
        return Err(ApiError::bad_request(format!(
            "The value of property '{name}' is longer than {TEXT_LEN_MAX} bytes."
        )));
    }
    check_text(name, text, usize::MAX)?;
    Ok(text.to_owned())
}

/// The refusal of more than `max` of something.
pub(super) fn too_many(what: &str, max: usize) -> ApiError {
    ApiError::too_large(format!(
        "The limit has been exceeded on the number of allowed image {what}: {max}."
    ))
}

fn text_or_null(name: &str, value: &Value) -> ApiResult<Option<String>> {
    match value {
        Value::Null => Ok(None),
        Value::String(text) => {
            check_text(name, text, NAME_CHARS_MAX)?;
            Ok(Some(text.clone()))
        }
        other => Err(mismatch(format!(
            "{} is not of type 'null', 'string' in '{name}'",
            shown(other)
        ))),
    }
}

/// Refuses what the reference cannot store either: too long a text, and characters beyond the
/// basic plane.
fn check_text(name: &str, text: &str, chars_max: usize) -> ApiResult<()> {
    if text.chars().count() > chars_max {
        return Err(mismatch(format!(
            "{} is too long for '{name}'",
            shown(&Value::from(text))
        )));
    }
    if text.chars().any(|c| c.len_utf8() > 3) {
        return Err(ApiError::bad_request(format!(
            "{name} has characters beyond U+FFFF."
        )));
    }
    Ok(())
}

fn one_of(name: &str, value: &Value, allowed: &[&str]) -> ApiResult<Option<String>> {
    match value {
        Value::Null => Ok(None),
        Value::String(text) if allowed.contains(&text.as_str()) => Ok(Some(text.clone())),
        other => Err(mismatch(format!(
            "{} is not one of {allowed:?} for '{name}'",
            shown(other)
        ))),
    }
}

fn flag(name: &str, value: &Value) -> ApiResult<vitrail_proto::record::Value> {
    let flag = value.as_bool();
    flag.map(vitrail_proto::record::Value::Bool).ok_or_else(|| {
        mismatch(format!(
            "{} is not of type 'boolean' in '{name}'",
            shown(value)
        ))
    })
}

fn minimum(name: &str, value: &Value) -> ApiResult<vitrail_proto::record::Value> {
    if value.as_i64().is_some_and(|n| n < 0) {
        return Err(ApiError::bad_request(format!(
            "Invalid value '{value}' for parameter '{name}': Cannot be a negative value"
        )));
    }
    let number = value.as_u64().ok_or_else(|| {
        mismatch(format!(
            "{} is not of type 'integer' in '{name}'",
            shown(value)
        ))
    })?;
    if number > MINIMUM_MAX {
        return Err(ApiError::bad_request(format!(
            "Invalid value '{number}' for parameter '{name}': at most {MINIMUM_MAX}"
        )));
    }
    Ok(vitrail_proto::record::Value::Int(number))
}
