//! The Image API, version 2, as Glance speaks it.
//!
//! [`Api::handle`] takes a request to an answer; [`route`] finds the handler. Where clients can see a
//! difference (codes, headers, JSON, order, transitions) the answers are those of Glance, series
//! 2026.1.

mod cache;
mod data;
pub(crate) mod document;
mod error;
mod images;
mod import;
mod intake;
mod list;
mod locations;
mod members;
mod metadefs;
mod patch;
mod quota;
mod range;
mod request;
mod route;
mod schema;
mod stores;
mod tags;
mod tasks;
mod upload;
mod validate;
mod versions;

use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full};
use hyper::header::{CONTENT_LENGTH, HeaderValue};
use hyper::{Request, Response, StatusCode};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::Instrument;
use uuid::Uuid;
use vitrail_chunkstore::Store;
use vitrail_chunkstore::ingest::INGEST_MEMORY;

use crate::auth::Authenticator;
use crate::catalogue::Catalogue;
use crate::collector::Collector;
use crate::config::Config;
use crate::content::Content;
use crate::metrics::Metrics;
use crate::peer::Peers;

pub use error::{ApiError, ApiResult};

/// Body of every answer.
pub type Body = UnsyncBoxBody<Bytes, Box<dyn std::error::Error + Send + Sync>>;

/// Most intakes at once. Each keeps a blocking thread, of which the runtime has 512 for everything.
const INTAKES_MAX: u64 = 128;
/// Longest path in bytes that the log shows.
const LOGGED_PATH_MAX: usize = 300;

/// Everything that handlers use.
pub struct Api {
    pub(crate) catalogue: Arc<Catalogue>,
    pub(crate) store: Store,
    pub(crate) content: Content,
    pub(crate) peers: Option<Arc<Peers>>,
    pub(crate) authenticator: Authenticator,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) collector: Arc<Collector>,
    pub(crate) config: Arc<Config>,
    /// Intakes that may run at once.
    pub(crate) intakes: Arc<Semaphore>,
    /// Bytes of uploads under way that are to be staged.
    pub(crate) staging: AtomicU64,
    reads: cache::Reads,
    /// Imports and copies.
    pub(crate) background: TaskTracker,
    /// Ends them.
    pub(crate) stop: CancellationToken,
}

impl Api {
    /// The API of one site.
    pub fn new(
        catalogue: Arc<Catalogue>,
        content: Content,
        metrics: Arc<Metrics>,
        collector: Arc<Collector>,
        authenticator: Authenticator,
        config: Arc<Config>,
        stop: CancellationToken,
    ) -> Self {
        let intakes_max = (config.store.memory.0 / INGEST_MEMORY).clamp(1, INTAKES_MAX);
        Self {
            catalogue,
            store: content.store().clone(),
            peers: content.peers().cloned(),
            content,
            authenticator,
            metrics,
            collector,
            config,
            intakes: Arc::new(Semaphore::new(intakes_max as usize)),
            staging: AtomicU64::new(0),
            reads: cache::Reads::default(),
            background: TaskTracker::new(),
            stop,
        }
    }

    /// Waits until nothing goes on in the background, after the token given to [`Api::new`] was cancelled.
    pub async fn stopped(&self) {
        self.background.close();
        self.background.wait().await;
    }

    /// Answers a request. Never fails: errors are answers.
    pub async fn handle(
        self: Arc<Self>,
        request: Request<hyper::body::Incoming>,
    ) -> Response<Body> {
        let started = Instant::now();
        let id = Uuid::new_v4();
        let method = request.method().clone();
        let path = request.uri().path().to_owned();
        let span = tracing::info_span!("request", id = %format_args!("req-{id}"));
        let metrics = self.metrics.clone();
        let (route, answer) = route::answer(self, request, id)
            .instrument(span.clone())
            .await;
        let took = started.elapsed();
        metrics.request(route, answer.status().as_u16(), took);
        span.in_scope(|| log(&method, &path, answer.status(), took));
        answer
    }
}

fn log(method: &hyper::Method, path: &str, status: StatusCode, took: Duration) {
    let ms = took.as_secs_f64() * 1000.0;
    let path = &path[..path.floor_char_boundary(LOGGED_PATH_MAX)];
    if status.is_server_error() {
        tracing::error!(%method, path, status = status.as_u16(), ms, "answered");
    } else {
        tracing::info!(%method, path, status = status.as_u16(), ms, "answered");
    }
}

pub(crate) fn full(bytes: impl Into<Bytes>) -> Body {
    Full::new(bytes.into())
        .map_err(|never| match never {})
        .boxed_unsync()
}

/// An answer without a body.
fn empty(status: StatusCode) -> Response<Body> {
    let mut answer = Response::new(full(""));
    *answer.status_mut() = status;
    answer
        .headers_mut()
        .insert(CONTENT_LENGTH, HeaderValue::from_static("0"));
    answer
}

/// An answer of JSON.
fn json(status: StatusCode, value: &serde_json::Value) -> Response<Body> {
    let mut answer = Response::new(full(value.to_string()));
    *answer.status_mut() = status;
    let json = HeaderValue::from_static("application/json");
    answer
        .headers_mut()
        .insert(hyper::header::CONTENT_TYPE, json);
    answer
}

/// Runs work that may wait for the disk off the async threads.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> ApiResult<T> {
    let span = tracing::Span::current();
    tokio::task::spawn_blocking(move || span.in_scope(work))
        .await
        .map_err(|error| ApiError::internal(&error))
}
