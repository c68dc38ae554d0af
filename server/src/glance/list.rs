//! Listing images: filters, order and pages.

use std::cmp::Ordering;
use std::collections::BTreeSet;
use std::sync::Arc;

use hyper::{Response, StatusCode};
use serde_json::json;

use super::request::{Call, encode, parse_id};
use super::{ApiError, ApiResult, Body, document, json};
use crate::auth::Identity;
use crate::auth::policy;
use crate::catalogue::{Image, Visibility};

const LIMIT_DEFAULT: usize = 25;
const LIMIT_MAX: usize = 1000;
/// Most filters of a request.
const FILTERS_MAX: usize = 64;
/// Most columns that a list is ordered by: there are no more.
const SORT_KEYS_MAX: usize = 8;

pub(super) fn list(call: &Call) -> ApiResult<Response<Body>> {
    super::route::expect_no_body(call)?;
    let query = Query::parse(&call.query)?;
    let mut images = call.api.catalogue.images();
    if !query.order.is_default() {
        images.sort_by(|a, b| query.order.compare(a, b));
    }
    let start = match &query.marker {
        None => 0,
        Some(marker) => {
            let id = parse_id(marker);
            let at = images
                .iter()
                .position(|image| Some(image.id) == id && policy::sees(&call.identity, image));
            1 + at.ok_or_else(|| {
                ApiError::bad_request(format!("Invalid marker: image {marker} is not there."))
            })?
        }
    };
    let page: Vec<&Arc<Image>> = images[start..]
        .iter()
        .filter(|image| query.selects(&call.identity, image))
        .take(query.limit)
        .collect();
    let mut answer = json!({
        "images": page.iter().map(|image| document::image(image)).collect::<Vec<_>>(),
        "first": link(&call.query, None),
        "schema": "/v2/schemas/images",
    });
    // A full page may be the last: the next is empty then.
    if let Some(last) = page.last().filter(|_| page.len() == query.limit) {
        answer["next"] = link(&call.query, Some(&last.id.to_string())).into();
    }
    Ok(json(StatusCode::OK, &answer))
}

/// The request's own query, with another marker.
fn link(query: &[(String, String)], marker: Option<&str>) -> String {
    let pairs: Vec<String> = query
        .iter()
        .filter(|(key, _)| key != "marker")
        .map(|(key, value)| (key.as_str(), value.as_str()))
        .chain(marker.map(|marker| ("marker", marker)))
        .map(|(key, value)| format!("{}={}", encode(key), encode(value)))
        .collect();
    if pairs.is_empty() {
        "/v2/images".into()
    } else {
        format!("/v2/images?{}", pairs.join("&"))
    }
}

/// What a list request asks for.
struct Query {
    limit: usize,
    marker: Option<String>,
    order: Order,
    filters: Vec<Filter>,
    visibility: Option<Wanted>,
    hidden: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Wanted {
    All,
    One(Visibility),
}

impl Query {
    fn parse(pairs: &[(String, String)]) -> ApiResult<Self> {
        let mut query = Self {
            limit: LIMIT_DEFAULT,
            marker: None,
            order: Order::default(),
            filters: Vec::new(),
            visibility: None,
            hidden: false,
        };
        let (mut sort, mut keys, mut directions) = (None, Vec::new(), Vec::new());
        for (key, value) in pairs {
            match key.as_str() {
                "limit" => {
                    let limit = value.parse::<usize>().map_err(|_| {
                        ApiError::bad_request("limit param must be a non-negative integer")
                    })?;
                    query.limit = limit.min(LIMIT_MAX);
                }
                "marker" => query.marker = Some(value.clone()),
                "sort" => sort = Some(value.as_str()),
                "sort_key" => keys.push(SortKey::parse(value.trim())?),
                "sort_dir" => directions.push(Direction::parse(value.trim())?),
                "visibility" => {
                    query.visibility = Some(match (value.as_str(), Visibility::parse(value)) {
                        ("all", _) => Wanted::All,
                        (_, Some(visibility)) => Wanted::One(visibility),
                        _ => {
                            return Err(ApiError::bad_request(format!(
                                "Invalid visibility value: {value}"
                            )));
                        }
                    });
                }
                "member_status" => {
                    if !["pending", "accepted", "rejected", "all"].contains(&value.as_str()) {
                        return Err(ApiError::bad_request(format!("Invalid status: {value}")));
                    }
                }
                "os_hidden" => query.hidden = parse_flag(key, value)?,
                "changes-since" => {
                    return Err(ApiError::bad_request(
                        "changes-since is not a filter of this API.",
                    ));
                }
                _ => query.filters.push(Filter::parse(key, value)?),
            }
        }
        if query.filters.len() > FILTERS_MAX {
            return Err(ApiError::bad_request(format!(
                "A list takes at most {FILTERS_MAX} filters."
            )));
        }
        query.order = Order::parse(sort, keys, directions)?;
        Ok(query)
    }

    fn selects(&self, who: &Identity, image: &Image) -> bool {
        let visible = match self.visibility {
            None => policy::lists(who, image),
            Some(Wanted::All) => policy::sees(who, image),
            Some(Wanted::One(visibility)) => {
                image.visibility == visibility && policy::sees(who, image)
            }
        };
        visible && image.hidden == self.hidden && self.filters.iter().all(|f| f.selects(image))
    }
}

fn parse_flag(key: &str, value: &str) -> ApiResult<bool> {
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

/// A column by which lists are ordered.
#[derive(Clone, Copy, PartialEq, Eq)]
enum SortKey {
    Name,
    Status,
    ContainerFormat,
    DiskFormat,
    Size,
    Id,
    CreatedAt,
    UpdatedAt,
}

impl SortKey {
    fn parse(text: &str) -> ApiResult<Self> {
        Ok(match text {
            "name" => Self::Name,
            "status" => Self::Status,
            "container_format" => Self::ContainerFormat,
            "disk_format" => Self::DiskFormat,
            "size" => Self::Size,
            "id" => Self::Id,
            "created_at" => Self::CreatedAt,
            "updated_at" => Self::UpdatedAt,
            other => {
                return Err(ApiError::bad_request(format!(
                    "Invalid sort key: {other}. It must be one of the following: name, status, \
                     container_format, disk_format, size, id, created_at, updated_at."
                )));
            }
        })
    }

    /// Ascending; what is absent comes last.
    fn compare(self, a: &Image, b: &Image) -> Ordering {
        fn absent_last<T: Ord>(a: Option<T>, b: Option<T>) -> Ordering {
            match (a, b) {
                (Some(a), Some(b)) => a.cmp(&b),
                (a, b) => b.is_some().cmp(&a.is_some()),
            }
        }
        match self {
            Self::Name => absent_last(a.name.as_ref(), b.name.as_ref()),
            Self::Status => a.status.as_str().cmp(b.status.as_str()),
            Self::ContainerFormat => {
                absent_last(a.container_format.as_ref(), b.container_format.as_ref())
            }
            Self::DiskFormat => absent_last(a.disk_format.as_ref(), b.disk_format.as_ref()),
            Self::Size => absent_last(a.size(), b.size()),
            Self::Id => a.id.cmp(&b.id),
            Self::CreatedAt => a.created_at.cmp(&b.created_at),
            Self::UpdatedAt => a.updated_at.cmp(&b.updated_at),
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Direction {
    Ascending,
    Descending,
}

impl Direction {
    fn parse(text: &str) -> ApiResult<Self> {
        match text {
            "asc" => Ok(Self::Ascending),
            "desc" => Ok(Self::Descending),
            other => Err(ApiError::bad_request(format!(
                "Invalid sort direction: {other}. It must be one of the following: asc, desc."
            ))),
        }
    }
}

/// A total order: the columns asked for, then age, then id, so that markers work.
#[derive(Default)]
struct Order {
    keys: Vec<(SortKey, Direction)>,
}

impl Order {
    fn parse(
        sort: Option<&str>,
        keys: Vec<SortKey>,
        directions: Vec<Direction>,
    ) -> ApiResult<Self> {
        let keys = match sort {
            Some(_) if !keys.is_empty() || !directions.is_empty() => {
                return Err(ApiError::bad_request(
                    "Old and new sorting syntax cannot be combined: use sort, or sort_key and \
                     sort_dir.",
                ));
            }
            Some(sort) => sort
                .split(',')
                .map(|item| {
                    let (key, direction) = item.trim().split_once(':').unwrap_or((item, "desc"));
                    Ok((
                        SortKey::parse(key.trim())?,
                        Direction::parse(direction.trim())?,
                    ))
                })
                .collect::<ApiResult<Vec<_>>>()?,
            None => {
                let all = match directions[..] {
                    [] => vec![Direction::Descending; keys.len().max(1)],
                    [one] => vec![one; keys.len().max(1)],
                    _ => directions,
                };
                let keys = if keys.is_empty() {
                    vec![SortKey::CreatedAt]
                } else {
                    keys
                };
                if all.len() != keys.len() {
                    return Err(ApiError::bad_request(
                        "Number of sort dirs does not match the number of sort keys",
                    ));
                }
                keys.into_iter().zip(all).collect()
            }
        };
        if keys.len() > SORT_KEYS_MAX {
            return Err(ApiError::bad_request(format!(
                "A list is ordered by at most {SORT_KEYS_MAX} columns."
            )));
        }
        Ok(Self { keys })
    }

    /// Whether it is the catalogue's own order.
    fn is_default(&self) -> bool {
        matches!(
            self.keys[..],
            [] | [(SortKey::CreatedAt, Direction::Descending)]
        )
    }

    fn compare(&self, a: &Image, b: &Image) -> Ordering {
        let last = self
            .keys
            .last()
            .map_or(Direction::Descending, |(_, direction)| *direction);
        let ties = [(SortKey::CreatedAt, last), (SortKey::Id, last)];
        for (key, direction) in self.keys.iter().chain(&ties) {
            let order = match direction {
                Direction::Ascending => key.compare(a, b),
                Direction::Descending => key.compare(b, a),
            };
            if order != Ordering::Equal {
                return order;
            }
        }
        Ordering::Equal
    }
}

/// A condition on images.
enum Filter {
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
enum Text {
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
enum Number {
    Size,
    MinRam,
    MinDisk,
}

#[derive(Clone, Copy)]
enum Time {
    Created,
    Updated,
}

#[derive(Clone, Copy)]
enum Comparison {
    Equal,
    NotEqual,
    Greater,
    GreaterOrEqual,
    Less,
    LessOrEqual,
}

impl Filter {
    fn parse(key: &str, value: &str) -> ApiResult<Self> {
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

    fn selects(&self, image: &Image) -> bool {
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

    #[test]
    fn links_keep_every_key() {
        let query = [
            ("tag", "a"),
            ("tag", "b"),
            ("marker", "m"),
            ("sort", "name:asc"),
        ]
        .map(|(k, v)| (k.to_owned(), v.to_owned()));
        assert_eq!(
            link(&query, Some("n")),
            "/v2/images?tag=a&tag=b&sort=name%3Aasc&marker=n"
        );
        assert_eq!(link(&[], None), "/v2/images");
    }
}
