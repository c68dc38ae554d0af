//! Errors as clients expect them.

use hyper::header::{ALLOW, CONTENT_TYPE, HeaderName, HeaderValue, RETRY_AFTER, WWW_AUTHENTICATE};
use hyper::{Response, StatusCode};

use super::{Body, full};
use crate::catalogue::CatalogueError;

/// Result of a handler.
pub type ApiResult<T> = Result<T, ApiError>;

/// Longest message in characters; what clients sent may be part of it.
const MESSAGE_CHARS_MAX: usize = 1000;

/// A refusal or a failure, with what the client is told.
#[derive(Debug)]
pub struct ApiError {
    status: StatusCode,
    message: String,
    headers: Vec<(HeaderName, HeaderValue)>,
}

impl ApiError {
    /// An error with this status; `message` says what, where and what to do.
    pub fn new(status: StatusCode, message: impl Into<String>) -> Self {
        Self {
            status,
            message: cut(message.into(), MESSAGE_CHARS_MAX),
            headers: Vec::new(),
        }
    }

    pub(super) fn bad_request(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, message)
    }

    pub(super) fn forbidden(message: impl Into<String>) -> Self {
        Self::new(StatusCode::FORBIDDEN, message)
    }

    pub(super) fn conflict(message: impl Into<String>) -> Self {
        Self::new(StatusCode::CONFLICT, message)
    }

    pub(super) fn too_large(message: impl Into<String>) -> Self {
        Self::new(StatusCode::PAYLOAD_TOO_LARGE, message)
    }

    pub(super) fn unsupported_type(message: impl Into<String>) -> Self {
        Self::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, message)
    }

    /// No such resource.
    pub(super) fn not_found() -> Self {
        Self::new(StatusCode::NOT_FOUND, "The resource could not be found.")
    }

    /// No such image, or none that the caller may know of.
    pub(super) fn no_image(id: impl std::fmt::Display) -> Self {
        Self::new(
            StatusCode::NOT_FOUND,
            format!("No image found with ID {id}"),
        )
    }

    /// The resource has other methods.
    pub(super) fn method(allowed: &'static str, method: &hyper::Method) -> Self {
        Self::new(
            StatusCode::METHOD_NOT_ALLOWED,
            format!("The method {method} is not allowed for this resource."),
        )
        .with(ALLOW, HeaderValue::from_static(allowed))
    }

    /// There is no valid token; `challenge` tells where to get one.
    pub(super) fn unauthenticated(challenge: Option<String>) -> Self {
        let error = Self::new(
            StatusCode::UNAUTHORIZED,
            "This server could not verify that you are authorized to access the document you \
             requested: the token is missing, wrong or has expired.",
        );
        match challenge.and_then(|text| HeaderValue::try_from(text).ok()) {
            Some(challenge) => error.with(WWW_AUTHENTICATE, challenge),
            None => error,
        }
    }

    /// Not allowed by policy.
    pub(super) fn denied(action: crate::auth::policy::Action) -> Self {
        Self::forbidden(format!(
            "You are not authorized to complete {} action.",
            action.as_str()
        ))
    }

    /// Something that should not happen. The client learns no detail; the log has it.
    pub(super) fn internal(error: &dyn std::fmt::Display) -> Self {
        tracing::error!(%error, "internal error");
        Self::new(
            StatusCode::INTERNAL_SERVER_ERROR,
            "The server has erred; its log has the details under this request's id.",
        )
    }

    /// Cannot be done now.
    pub(super) fn unavailable(message: impl Into<String>) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, message)
            .with(RETRY_AFTER, HeaderValue::from_static("10"))
    }

    pub(super) fn with(mut self, name: HeaderName, value: HeaderValue) -> Self {
        self.headers.push((name, value));
        self
    }

    pub(super) fn status(&self) -> StatusCode {
        self.status
    }

    pub(super) fn message(&self) -> &str {
        &self.message
    }

    /// The answer, in the form that the client's `Accept` asks for.
    pub(super) fn into_response(self, accept: &str) -> Response<Body> {
        let title = self.status.canonical_reason().unwrap_or("Error");
        let code = format!("{} {title}", self.status.as_u16());
        let (kind, body) = if accept.contains("application/json") {
            let message = format!("{}<br /><br />\n\n\n", escape(&self.message));
            let value = serde_json::json!({"message": message, "code": code, "title": title});
            ("application/json", value.to_string())
        } else if accept.contains("html") || accept.contains("*/*") {
            let message = escape(&self.message);
            let page = format!(
                "<html>\n <head>\n  <title>{code}</title>\n </head>\n <body>\n  <h1>{code}</h1>\n  \
                 {message}<br /><br />\n\n\n\n </body>\n</html>"
            );
            ("text/html; charset=UTF-8", page)
        } else {
            (
                "text/plain; charset=UTF-8",
                format!("{code}\n\n{}\n\n   ", self.message),
            )
        };
        let mut answer = Response::new(full(body));
        *answer.status_mut() = self.status;
        let headers = answer.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(kind));
        headers.extend(
            self.headers
                .into_iter()
                .map(|(name, value)| (Some(name), value)),
        );
        answer
    }
}

/// A JSON value as an error message shows it, cut to a readable length.
pub(super) fn shown(value: &serde_json::Value) -> String {
    cut(value.to_string(), 80)
}

fn cut(mut text: String, chars_max: usize) -> String {
    if let Some((at, _)) = text.char_indices().nth(chars_max) {
        text.truncate(at);
        text.push('…');
    }
    text
}

fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#x27;"),
            c => out.push(c),
        }
    }
    out
}

impl From<CatalogueError> for ApiError {
    fn from(error: CatalogueError) -> Self {
        match error {
            CatalogueError::Exists(id) => Self::conflict(format!("Image ID {id} already exists!")),
            CatalogueError::NotFound(id) => Self::no_image(id),
            // By name it was there when the request began.
            CatalogueError::NoNamespace(_) => Self::new(
                StatusCode::NOT_FOUND,
                "Metadata definition namespace was not found: it has just been deleted.",
            ),
            CatalogueError::TooManyFields | CatalogueError::TooLong(..) => {
                Self::too_large(error.to_string())
            }
            CatalogueError::Store(error) => error.into(),
        }
    }
}

impl From<vitrail_chunkstore::Error> for ApiError {
    fn from(error: vitrail_chunkstore::Error) -> Self {
        match error {
            vitrail_chunkstore::Error::Full(why) => {
                Self::too_large(format!("There is not enough space on this site: {why}"))
            }
            error @ vitrail_chunkstore::Error::Poisoned => {
                tracing::error!(%error, "the disk failed; restart the daemon once it is mended");
                Self::unavailable(
                    "This site's disk failed and takes no data until its daemon restarts.",
                )
            }
            other => Self::internal(&other),
        }
    }
}
