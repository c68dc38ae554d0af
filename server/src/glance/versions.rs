//! The versions document. It names exactly what is answered: clients choose features by it.

use hyper::header::{ACCEPT, CONTENT_TYPE, HOST, HeaderValue};
use hyper::{HeaderMap, Response, StatusCode};
use serde_json::json;

use super::{Body, full};
use crate::config::ApiConfig;

/// Versions, the current one first.
const VERSIONS: [&str; 19] = [
    "2.18", "2.17", "2.16", "2.15", "2.14", "2.13", "2.12", "2.11", "2.10", "2.9", "2.8", "2.7",
    "2.6", "2.5", "2.4", "2.3", "2.2", "2.1", "2.0",
];

/// Whether a path's first segment names a version: `v2` or any version that is advertised.
pub(super) fn is_version(segment: &str) -> bool {
    segment == "v2"
        || segment
            .strip_prefix('v')
            .is_some_and(|v| VERSIONS.contains(&v))
}

/// Whether `Accept` names a version of the API, for paths without one.
pub(super) fn asked_by_media_type(headers: &HeaderMap) -> bool {
    headers
        .get(ACCEPT)
        .and_then(|value| value.to_str().ok())
        .and_then(|accept| accept.strip_prefix("application/vnd.openstack.images-"))
        .is_some_and(is_version)
}

/// The document, with links to the host that the client asked, or to the public endpoint.
pub(super) fn document(
    status: StatusCode,
    headers: &HeaderMap,
    config: &ApiConfig,
) -> Response<Body> {
    let href = format!("{}/v2/", base(headers, config));
    let versions: Vec<_> = VERSIONS
        .iter()
        .enumerate()
        .map(|(i, version)| {
            json!({
                "id": format!("v{version}"),
                "status": if i == 0 { "CURRENT" } else { "SUPPORTED" },
                "links": [{"rel": "self", "href": href}],
            })
        })
        .collect();
    let mut answer = Response::new(full(json!({"versions": versions}).to_string()));
    *answer.status_mut() = status;
    let json = HeaderValue::from_static("application/json");
    answer.headers_mut().insert(CONTENT_TYPE, json);
    answer
}

/// The URL of this API as the client sees it.
pub(super) fn base(headers: &HeaderMap, config: &ApiConfig) -> String {
    if let Some(url) = &config.public_endpoint {
        return url.trim_end_matches('/').to_owned();
    }
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    let secure = config.tls_cert.is_some() || text("x-forwarded-proto") == Some("https");
    let scheme = if secure { "https" } else { "http" };
    let host = text("x-forwarded-host")
        .or(text(HOST.as_str()))
        .unwrap_or("localhost");
    format!("{scheme}://{host}")
}
