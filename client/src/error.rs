//! What can go wrong between this client and a site.

use std::borrow::Cow;
use std::error::Error as StdError;
use std::fmt;
use std::io;
use std::time::Duration;

use reqwest::StatusCode;
use reqwest::header::{HeaderMap, RETRY_AFTER};
use serde::Deserialize;

/// Longest error text that is kept from a server, in characters; the rest is dropped.
pub const MESSAGE_LEN_MAX: usize = 2000;

/// Result of one request.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why a request failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The endpoint, the token or an argument cannot be put into a request. Nothing was sent.
    #[error("cannot make the request: {reason}")]
    Request {
        /// What is wrong with it.
        reason: String,
    },

    /// No connection could be made. The server has seen nothing.
    #[error("cannot reach {url}: {reason}")]
    Unreachable {
        /// What was asked for.
        url: String,
        /// Root cause.
        reason: String,
    },

    /// The connection ended in the middle. Whether the server has acted is unknown.
    #[error("connection lost at {url}: {reason}")]
    Interrupted {
        /// What was asked for.
        url: String,
        /// Root cause.
        reason: String,
    },

    /// The server kept silent for too long. Whether it has acted is unknown.
    #[error("no answer from {url} within {} s", waited.as_secs())]
    Stalled {
        /// What was asked for.
        url: String,
        /// How long nothing had moved.
        waited: Duration,
    },

    /// The server answered with an error.
    #[error(transparent)]
    Api(#[from] Box<ApiError>),

    /// The server answered with success, but not with what the API promises.
    #[error("unexpected answer from {url}: {reason}")]
    Malformed {
        /// What was asked for.
        url: String,
        /// What is wrong with it.
        reason: String,
    },

    /// The admin API began long work, and the work failed.
    #[error("{message}")]
    Operation {
        /// The server's reason.
        message: String,
        /// The server's advice.
        hint: Option<String>,
    },

    /// No visible image has this id or name.
    #[error("no image has the id or name {name:?}")]
    NoSuchImage {
        /// What was looked for.
        name: String,
    },

    /// Several images have this name.
    #[error("{} images are named {name:?}: {}", ids.len(), ids.join(", "))]
    Ambiguous {
        /// The name.
        name: String,
        /// Ids of the images that have it, newest first; the first page of them.
        ids: Vec<String>,
    },

    /// The bytes to be sent could not be read.
    #[error("cannot read the data to send")]
    Source(#[source] io::Error),
}

impl Error {
    /// Whether the same request may succeed when it is repeated: the connection broke, or the
    /// server said that its trouble passes (408, 429, 500, 502, 503, 504).
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Unreachable { .. } | Self::Interrupted { .. } | Self::Stalled { .. } => true,
            Self::Api(error) => matches!(error.status, 408 | 429 | 500 | 502 | 503 | 504),
            _ => false,
        }
    }

    /// HTTP status, if the server answered with an error.
    pub fn status(&self) -> Option<u16> {
        match self {
            Self::Api(error) => Some(error.status),
            _ => None,
        }
    }

    /// What the user can do about it.
    pub fn hint(&self) -> Option<Cow<'_, str>> {
        match self {
            Self::Unreachable { .. } => {
                Some("is vitraild running there, and is the endpoint right?".into())
            }
            Self::Ambiguous { .. } => Some("name the image by its id".into()),
            Self::Operation { hint, .. } => hint.as_deref().map(Cow::from),
            Self::Api(error) => match (&error.hint, error.status) {
                (Some(hint), _) => Some(hint.as_str().into()),
                (None, 401) => Some("give a valid token".into()),
                _ => None,
            },
            _ => None,
        }
    }

    /// The HTTP library did not even build the request.
    pub(crate) fn invalid(error: &reqwest::Error) -> Self {
        Self::Request {
            reason: root_cause(error),
        }
    }

    /// Sorts a transport error by what the server can have seen of the request.
    pub(crate) fn connection(url: impl ToString, error: &reqwest::Error) -> Self {
        let (url, reason) = (url.to_string(), root_cause(error));
        if error.is_connect() {
            Self::Unreachable { url, reason }
        } else {
            Self::Interrupted { url, reason }
        }
    }
}

/// The innermost cause: the layers above it only name the HTTP library's own parts.
fn root_cause(error: &dyn StdError) -> String {
    let mut cause = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    cause.to_string()
}

/// An error answer of either API.
#[derive(Clone, Debug)]
pub struct ApiError {
    /// Method and URL of the request.
    pub request: String,
    /// HTTP status, 400 to 599 (or an unexpected other one that is no success).
    pub status: u16,
    /// The server's reason as plain text without control characters.
    pub message: String,
    /// The server's advice, if it gave one.
    pub hint: Option<String>,
    /// `x-openstack-request-id`: finds the request in the server's log.
    pub request_id: Option<String>,
    /// `Retry-After` in its form of seconds.
    pub retry_after: Option<Duration>,
}

impl StdError for ApiError {}

impl fmt::Display for ApiError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({}", self.message, self.status)?;
        if let Some(phrase) = canonical_reason(self.status) {
            write!(f, " {phrase}")?;
        }
        if let Some(id) = &self.request_id {
            write!(f, ", {id}")?;
        }
        f.write_str(")")
    }
}

fn canonical_reason(status: u16) -> Option<&'static str> {
    StatusCode::from_u16(status).ok()?.canonical_reason()
}

/// The two bodies of errors: `{"error":{"message","hint"}}` of the admin API and
/// `{"message","code","title"}` of the Image API.
#[derive(Deserialize)]
#[serde(untagged)]
enum ErrorBody {
    Admin { error: AdminError },
    Image { message: String },
}

#[derive(Deserialize)]
pub(crate) struct AdminError {
    pub(crate) message: String,
    pub(crate) hint: Option<String>,
}

impl ApiError {
    /// Reads an error answer. A body that is not one of the APIs' own (a proxy's page) is told
    /// by its status alone.
    pub(crate) fn parse(request: String, status: u16, headers: &HeaderMap, body: &[u8]) -> Self {
        let text = |name: &str| headers.get(name)?.to_str().ok().map(plain_text);
        let (message, hint) = match serde_json::from_slice(body) {
            Ok(ErrorBody::Admin { error }) => (error.message, error.hint),
            Ok(ErrorBody::Image { message }) => (message, None),
            Err(_) => (String::new(), None),
        };
        let message = match plain_text(&message) {
            empty if empty.is_empty() => format!("{request} failed"),
            message => message,
        };
        Self {
            message,
            hint: hint.map(|hint| plain_text(&hint)),
            request_id: text("x-openstack-request-id"),
            retry_after: text(RETRY_AFTER.as_str())
                .and_then(|seconds| seconds.parse().ok())
                .map(Duration::from_secs),
            request,
            status,
        }
    }
}

/// Text of a server as one plain line: the Image API writes errors in HTML, whose line breaks and
/// character references have no place on a terminal, and neither have control characters.
pub(crate) fn plain_text(text: &str) -> String {
    let text = text
        .replace("<br />", " ")
        .replace("&#x27;", "'")
        .replace("&#39;", "'")
        .replace("&quot;", "\"")
        .replace("&lt;", "<")
        .replace("&gt;", ">")
        .replace("&amp;", "&");
    let words = text.split(|c: char| c.is_whitespace() || c.is_control());
    let line = words
        .filter(|word| !word.is_empty())
        .collect::<Vec<_>>()
        .join(" ");
    match line.char_indices().nth(MESSAGE_LEN_MAX) {
        Some((end, _)) => line[..end].to_owned(),
        None => line,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(status: u16, body: &str) -> ApiError {
        let mut headers = HeaderMap::new();
        headers.insert("x-openstack-request-id", "req-1".parse().unwrap());
        headers.insert(RETRY_AFTER, "7".parse().unwrap());
        ApiError::parse(
            "GET http://site/".to_owned(),
            status,
            &headers,
            body.as_bytes(),
        )
    }

    #[test]
    fn image_api_errors_lose_their_html() {
        let body = r#"{"message":"No image &#x27;a&#x27; &lt;b&gt;<br /><br />\n\n\n","code":"404 Not Found","title":"Not Found"}"#;
        let error = parse(404, body);
        assert_eq!(error.message, "No image 'a' <b>");
        assert_eq!(error.to_string(), "No image 'a' <b> (404 Not Found, req-1)");
        assert_eq!(error.retry_after, Some(Duration::from_secs(7)));
    }

    #[test]
    fn admin_errors_carry_their_hint() {
        let error = parse(
            409,
            r#"{"error":{"message":"gc runs","hint":"wait for it"}}"#,
        );
        assert_eq!(error.message, "gc runs");
        assert_eq!(
            Error::Api(Box::new(error)).hint().as_deref(),
            Some("wait for it")
        );
    }

    #[test]
    fn a_foreign_page_is_told_by_its_status() {
        let error = parse(502, "<html>Bad gateway</html>");
        assert_eq!(
            error.to_string(),
            "GET http://site/ failed (502 Bad Gateway, req-1)"
        );
        assert!(Error::Api(Box::new(error)).is_transient());
    }

    #[test]
    fn long_and_hostile_text_is_cut_and_cleaned() {
        let error = parse(
            400,
            &format!(r#"{{"message":"\u001b[2J{}"}}"#, "é".repeat(5000)),
        );
        assert_eq!(error.message.chars().count(), MESSAGE_LEN_MAX);
        assert!(!error.message.contains('\u{1b}'));
    }
}
