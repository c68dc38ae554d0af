//! A request that is being handled.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Limited};
use hyper::body::{Body as _, Incoming};
use hyper::header::{ACCEPT, HeaderName};
use hyper::{HeaderMap, Method};
use uuid::Uuid;

use super::{Api, ApiError, ApiResult};
use crate::auth::Identity;
use crate::auth::policy::{self, Action, Decision};
use crate::catalogue::Image;

/// Longest JSON body in bytes. The largest legal image document has 128 properties of 64 KiB, but no client
/// sends such; Glance's own limit for a whole record is a few hundred KB.
const JSON_LEN_MAX: usize = 1024 * 1024;

/// A request, the caller, and what answers it.
pub(super) struct Call {
    pub(super) api: Arc<Api>,
    pub(super) identity: Arc<Identity>,
    /// `req-` and a UUID, as the answer's header has it.
    pub(super) request_id: String,
    pub(super) method: Method,
    pub(super) headers: HeaderMap,
    pub(super) query: Vec<(String, String)>,
    pub(super) body: Incoming,
}

impl Call {
    /// A header as text; none if it is absent, empty or not text.
    pub(super) fn header(&self, name: &HeaderName) -> Option<&str> {
        text(&self.headers, name)
    }

    /// The whole body, which must be JSON.
    pub(super) async fn json(self) -> ApiResult<serde_json::Value> {
        let bytes = self.bytes().await?;
        if bytes.is_empty() {
            return Err(ApiError::bad_request("Body expected in request."));
        }
        serde_json::from_slice(&bytes).map_err(|error| {
            ApiError::bad_request(format!("Malformed JSON in request body: {error}."))
        })
    }

    async fn bytes(self) -> ApiResult<Bytes> {
        let declared = self.body.size_hint().lower();
        let too_large = || {
            ApiError::too_large(format!(
                "The request body is larger than the {JSON_LEN_MAX} bytes that this request may have."
            ))
        };
        if declared > JSON_LEN_MAX as u64 {
            return Err(too_large());
        }
        let patience = Duration::from_secs(self.api.config.api.idle_timeout_s);
        let body = Limited::new(self.body, JSON_LEN_MAX).collect();
        match tokio::time::timeout(patience, body).await {
            Ok(Ok(body)) => Ok(body.to_bytes()),
            Ok(Err(error)) if error.is::<http_body_util::LengthLimitError>() => Err(too_large()),
            Ok(Err(error)) => Err(ApiError::bad_request(format!(
                "The request body was cut off: {error}."
            ))),
            Err(_) => Err(ApiError::bad_request(format!(
                "The request body did not arrive in {} seconds.",
                patience.as_secs()
            ))),
        }
    }

    /// An image that the caller may see. What is no id names no image.
    pub(super) fn image(&self, id: &str) -> ApiResult<Arc<Image>> {
        parse_id(id)
            .and_then(|id| self.api.catalogue.get(id))
            .filter(|image| policy::sees(&self.identity, image))
            .ok_or_else(|| ApiError::no_image(id))
    }

    /// An image that the caller may do this to.
    pub(super) fn image_for(&self, id: &str, action: Action) -> ApiResult<Arc<Image>> {
        let image = parse_id(id).and_then(|id| self.api.catalogue.get(id));
        let image = image.ok_or_else(|| ApiError::no_image(id))?;
        match policy::decide(&self.identity, action, &image) {
            Decision::Allowed => Ok(image),
            Decision::Denied => Err(ApiError::denied(action)),
            Decision::Hidden => Err(ApiError::no_image(id)),
        }
    }
}

/// The `Accept` header, empty if there is none.
pub(super) fn accept(headers: &HeaderMap) -> String {
    text(headers, &ACCEPT).unwrap_or_default().to_owned()
}

fn text<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a str> {
    headers
        .get(name)
        .and_then(|value| value.to_str().ok())
        .map(str::trim)
        .filter(|t| !t.is_empty())
}

/// An image id in its usual form of 36 characters.
pub(super) fn parse_id(text: &str) -> Option<Uuid> {
    if text.len() == 36 {
        Uuid::try_parse(text).ok()
    } else {
        None
    }
}

/// The pairs of a query string, decoded.
pub(super) fn parse_query(query: &str) -> Vec<(String, String)> {
    query
        .split('&')
        .filter(|pair| !pair.is_empty())
        .map(|pair| {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            (
                decode(&key.replace('+', " ")),
                decode(&value.replace('+', " ")),
            )
        })
        .collect()
}

/// Undoes percent-encoding. What is not a code stays as it is, and bytes that are not UTF-8 become
/// replacement characters.
pub(super) fn decode(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut i = 0;
    while i < bytes.len() {
        let digit = |at: usize| bytes.get(at).and_then(|b| (*b as char).to_digit(16));
        match (bytes[i], digit(i + 1), digit(i + 2)) {
            (b'%', Some(high), Some(low)) => {
                out.push((high << 4 | low) as u8);
                i += 3;
            }
            (byte, _, _) => {
                out.push(byte);
                i += 1;
            }
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

/// Percent-encodes as HTML forms do: letters, digits and `-._~` stay, a space becomes `+`.
pub(super) fn encode(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
                out.push(byte as char);
            }
            b' ' => out.push('+'),
            byte => out.push_str(&format!("%{byte:02X}")),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn queries_round_trip(pairs in proptest::collection::vec((".{1,9}", ".{0,9}"), 0..5)) {
            let query: Vec<_> =
                pairs.iter().map(|(k, v)| format!("{}={}", encode(k), encode(v))).collect();
            prop_assert_eq!(parse_query(&query.join("&")), pairs);
        }
    }

    #[test]
    fn broken_codes_stay() {
        assert_eq!(decode("a%2"), "a%2");
        assert_eq!(decode("%zz%41"), "%zzA");
        assert_eq!(decode("%ff"), "\u{fffd}");
    }

    #[test]
    fn only_the_usual_form_is_an_id() {
        assert!(parse_id("12345678-1234-1234-1234-1234567890AB").is_some());
        assert!(parse_id("{12345678-1234-1234-1234-1234567890AB}").is_none());
        assert!(parse_id("12345678123412341234123456789012").is_none());
    }
}
