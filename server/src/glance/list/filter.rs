//! Conditions on the images of a list.

use std::cmp::Ordering;
use std::collections::BTreeSet;

use super::super::{ApiError, ApiResult, document};
use crate::catalogue::Image;

/// A condition on images.
pub(super) enum Filter {
    /// A text is one of these.
    Text(Text, BTreeSet<String>),
    /// A number equals.
    Number(Number, u64),
    /// A number is at least, or at most.
    Bound(Number, Ordering, u64),
    Protected(bool),
    Tag(String),
    Time(Time, Comparison, u64),
    Property(String, String),
}

#[derive(Clone, Copy)]
pub(super) enum Text {
    Name,
    Id,
    Status,
    ContainerFormat,
    DiskFormat,
    Checksum,
    HashValue,
    HashAlgorithm,
    Owner,
}

#[derive(Clone, Copy)]
pub(super) enum Number {
    Size,
    MinRam,
    MinDisk,
}

#[derive(Clone, Copy)]
pub(super) enum Time {
    Created,
    Updated,
}

#[derive(Clone, Copy)]
pub(super) enum Comparison {
    Equal,
    NotEqual,
    Greater,
    GreaterOrEqual,
    Less,
    LessOrEqual,
}

impl Filter {
    pub(super) fn parse(key: &str, value: &str) -> ApiResult<Self> {
        let number = |value: &str| {
            value.parse::<u64>().map_err(|_| {
                ApiError::bad_request(format!("Parameter '{key}' value '{value}' is not a number"))
            })
        };
        let text = match key {
            "name" => Some(Text::Name),
            "id" => Some(Text::Id),
            "status" => Some(Text::Status),
            "container_format" => Some(Text::ContainerFormat),
            "disk_format" => Some(Text::DiskFormat),
            _ => None,
        };
        if let Some(field) = text {
            let mut values = parse_values(key, value)?;
            if key == "id" {
                values = values.iter().map(|v| v.to_ascii_lowercase()).collect();
            }
            return Ok(Self::Text(field, values));
        }
        let one = |field| Ok(Self::Text(field, BTreeSet::from([value.to_owned()])));
        let numeric = |name: &str| match name {
            "size" => Some(Number::Size),
            "min_ram" => Some(Number::MinRam),
            "min_disk" => Some(Number::MinDisk),
            _ => None,
        };
        match key {
            "checksum" => one(Text::Checksum),
            "os_hash_value" => one(Text::HashValue),
            "os_hash_algo" => one(Text::HashAlgorithm),
            "owner" => one(Text::Owner),
            "protected" => Ok(Self::Protected(parse_flag(key, value)?)),
            "tag" => Ok(Self::Tag(value.to_owned())),
            "created_at" => parse_time(Time::Created, value),
            "updated_at" => parse_time(Time::Updated, value),
            _ => {
                if let Some(field) = numeric(key) {
                    return Ok(Self::Number(field, number(value)?));
                }
                let bound = [("_min", Ordering::Less), ("_max", Ordering::Greater)]
                    .into_iter()
                    .find_map(|(suffix, excluded)| Some((key.strip_suffix(suffix)?, excluded)));
                match bound.map(|(name, excluded)| (numeric(name), excluded)) {
                    Some((Some(field), excluded)) => {
                        Ok(Self::Bound(field, excluded, number(value)?))
                    }
                    Some((None, _)) => Err(ApiError::bad_request(format!(
                        "'{key}': only size, min_ram and min_disk have bounds"
                    ))),
                    None => Ok(Self::Property(key.to_owned(), value.to_owned())),
                }
            }
        }
    }

    pub(super) fn selects(&self, image: &Image) -> bool {
        match self {
            Self::Text(field, values) => {
                let data = image.data.as_ref();
                let own = match field {
                    Text::Name => image.name.clone(),
                    Text::Id => Some(image.id.to_string()),
                    Text::Status => Some(image.status.as_str().to_owned()),
                    Text::ContainerFormat => image.container_format.clone(),
                    Text::DiskFormat => image.disk_format.clone(),
                    Text::Checksum => data.map(document::md5),
                    Text::HashValue => data.map(document::sha512),
                    Text::HashAlgorithm => data.map(|_| "sha512".to_owned()),
                    Text::Owner => image.owner.clone(),
                };
                own.is_some_and(|own| values.contains(&own))
            }
            Self::Number(field, value) => field.of(image) == Some(*value),
            Self::Bound(field, excluded, value) => field
                .of(image)
                .is_some_and(|own| own.cmp(value) != *excluded),
            Self::Protected(value) => image.protected == *value,
            Self::Tag(tag) => image.tags.contains(tag),
            Self::Time(field, comparison, value) => {
                let own = match field {
                    Time::Created => image.created_at,
                    Time::Updated => image.updated_at,
                } / 1000;
                match comparison {
                    Comparison::Equal => own == *value,
                    Comparison::NotEqual => own != *value,
                    Comparison::Greater => own > *value,
                    Comparison::GreaterOrEqual => own >= *value,
                    Comparison::Less => own < *value,
                    Comparison::LessOrEqual => own <= *value,
                }
            }
            Self::Property(key, value) => image.properties.get(key) == Some(value),
        }
    }
}

impl Number {
    fn of(self, image: &Image) -> Option<u64> {
        match self {
            Self::Size => image.size(),
            Self::MinRam => Some(image.min_ram),
            Self::MinDisk => Some(image.min_disk),
        }
    }
}

/// The values of an equality, or of `in:a,"b,c"`.
fn parse_values(key: &str, value: &str) -> ApiResult<BTreeSet<String>> {
    let Some((operator, list)) = value.split_once(':') else {
        return Ok(BTreeSet::from([value.to_owned()]));
    };
    match operator {
        "in" => split_quoted(list)
            .map(|values| values.into_iter().collect())
            .ok_or_else(|| ApiError::bad_request(format!("Invalid filter value {value}"))),
        "eq" => Ok(BTreeSet::from([list.to_owned()])),
        other => Err(ApiError::bad_request(format!(
            "Unable to filter '{key}' by unknown operator '{other}'"
        ))),
    }
}

/// Splits at commas outside of double quotes; none if a quote is not closed.
fn split_quoted(list: &str) -> Option<Vec<String>> {
    let mut values = vec![String::new()];
    let mut quoted = false;
    for c in list.chars() {
        match c {
            '"' => quoted = !quoted,
            ',' if !quoted => values.push(String::new()),
            c => {
                if let Some(value) = values.last_mut() {
                    value.push(c);
                }
            }
        }
    }
    (!quoted).then_some(values)
}

fn parse_time(field: Time, value: &str) -> ApiResult<Filter> {
    let (comparison, time) = match value.split_once(':') {
        Some(("eq", time)) => (Comparison::Equal, time),
        Some(("neq", time)) => (Comparison::NotEqual, time),
        Some(("gt", time)) => (Comparison::Greater, time),
        Some(("gte", time)) => (Comparison::GreaterOrEqual, time),
        Some(("lt", time)) => (Comparison::Less, time),
        Some(("lte", time)) => (Comparison::LessOrEqual, time),
        _ => (Comparison::Equal, value),
    };
    let seconds = parse_iso(time).ok_or_else(|| {
        ApiError::bad_request(format!(
            "Invalid time value '{time}': use 2026-11-24T08:19:30Z"
        ))
    })?;
    Ok(Filter::Time(field, comparison, seconds))
}

/// Seconds since 1970 of an ISO 8601 time; without an offset it is UTC.
fn parse_iso(text: &str) -> Option<u64> {
    let seconds = match text.parse::<jiff::Timestamp>() {
        Ok(time) => time.as_second(),
        Err(_) => {
            let time = text.parse::<jiff::civil::DateTime>().ok()?;
            jiff::tz::Offset::UTC.to_timestamp(time).ok()?.as_second()
        }
    };
    u64::try_from(seconds).ok()
}

/// `true` or `false`.
pub(super) fn parse_flag(key: &str, value: &str) -> ApiResult<bool> {
    match (key, value) {
        (_, "true") => Ok(true),
        (_, "false") => Ok(false),
        // The openstack command capitalises it.
        ("os_hidden", "True") => Ok(true),
        ("os_hidden", "False") => Ok(false),
        _ => Err(ApiError::bad_request(format!(
            "Invalid value '{value}' for '{key}': use true or false"
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_may_be_quoted() {
        let values = |text| parse_values("name", text).unwrap();
        assert!(values(r#"in:"a,b",c"#).iter().eq(["a,b", "c"]));
        assert!(values("plain").iter().eq(["plain"]));
        assert!(parse_values("name", "xx:plain").is_err());
        assert!(parse_values("name", "in:\"open").is_err());
    }

    #[test]
    fn times() {
        assert_eq!(parse_iso("1970-01-01T00:01:00Z"), Some(60));
        assert_eq!(parse_iso("1970-01-01T00:01:00"), Some(60));
        assert_eq!(parse_iso("1970-01-02"), Some(86_400));
        assert_eq!(parse_iso("1970-01-01T01:00:00+01:00"), Some(0));
        assert_eq!(parse_iso("foo"), None);
    }
}
