//! Listing images, page by page.

mod filter;
mod order;

use std::sync::Arc;

use hyper::{Response, StatusCode};
use serde_json::json;

use filter::{Filter, parse_flag};
use order::{Direction, Order, SortKey};

use super::request::{Call, encode, parse_id};
use super::{ApiError, ApiResult, Body, document, json};
use crate::auth::Identity;
use crate::auth::policy::{self, Action};
use crate::catalogue::{Image, MemberStatus, Visibility};

const LIMIT_DEFAULT: usize = 25;
const LIMIT_MAX: usize = 1000;
/// Most filters of a request.
const FILTERS_MAX: usize = 64;

pub(super) fn list(call: &Call) -> ApiResult<Response<Body>> {
    super::route::expect_no_body(call)?;
    if !policy::may_operate(&call.identity, Action::GetImages) {
        return Err(ApiError::denied(Action::GetImages));
    }
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
        "images": page.iter().map(|image| document::image(&call.api, image)).collect::<Vec<_>>(),
        "first": link("/v2/images", &call.query, None),
        "schema": "/v2/schemas/images",
    });
    // A full page may be the last: the next is empty then.
    if let Some(last) = page.last().filter(|_| page.len() == query.limit) {
        answer["next"] = link("/v2/images", &call.query, Some(&last.id.to_string())).into();
    }
    Ok(json(StatusCode::OK, &answer))
}

/// The request's own path and query, with another marker.
pub(super) fn link(path: &str, query: &[(String, String)], marker: Option<&str>) -> String {
    let pairs: Vec<String> = query
        .iter()
        .filter(|(key, _)| key != "marker")
        .map(|(key, value)| (key.as_str(), value.as_str()))
        .chain(marker.map(|marker| ("marker", marker)))
        .map(|(key, value)| format!("{}={}", encode(key), encode(value)))
        .collect();
    if pairs.is_empty() {
        path.into()
    } else {
        format!("{path}?{}", pairs.join("&"))
    }
}

/// What a list request asks for.
struct Query {
    limit: usize,
    marker: Option<String>,
    order: Order,
    filters: Vec<Filter>,
    visibility: Option<Wanted>,
    /// What the caller's project must have decided about what is shared with it; none if that does not matter.
    member_status: Option<MemberStatus>,
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
            member_status: Some(MemberStatus::Accepted),
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
                    let status = MemberStatus::parse(value);
                    if status.is_none() && value != "all" {
                        return Err(ApiError::bad_request(format!("Invalid status: {value}")));
                    }
                    query.member_status = status;
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
        let wanted = match self.visibility {
            None => policy::listed(who, image),
            Some(Wanted::All) => true,
            Some(Wanted::One(visibility)) => image.visibility == visibility,
        };
        wanted
            && image.hidden == self.hidden
            && self.filters.iter().all(|f| f.selects(image))
            && policy::sees(who, image)
            && policy::decided(who, image, self.member_status)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
            link("/v2/images", &query, Some("n")),
            "/v2/images?tag=a&tag=b&sort=name%3Aasc&marker=n"
        );
        assert_eq!(link("/v2/images", &[], None), "/v2/images");
    }
}
