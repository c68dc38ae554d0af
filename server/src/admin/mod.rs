//! The admin API. `docs/ADMIN.md` describes it.

mod endpoint;
mod mesh;
mod schema;
mod stream;

use std::num::NonZeroU64;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderValue, StatusCode, header};
use axum::middleware::map_response;
use axum::response::{IntoResponse, Response};
use axum::{Json, Router};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::json;
use vitrail_chunkstore::gc::GcSummary;
use vitrail_chunkstore::verify::VerifyReport;
use vitrail_chunkstore::{Stats, Store};

use crate::catalogue::Catalogue;
use crate::collector::{CollectError, Collector};
use crate::config::Config;
use crate::glance;
use crate::metrics::Metrics;
use crate::peer::Peers;
use crate::scrubber::{ScrubError, Scrubber};
use endpoint::Endpoint;

/// How often long work tells how far it is.
const PROGRESS_INTERVAL: Duration = Duration::from_millis(200);

/// Longest text of a refusal in bytes.
const REFUSAL_LEN_MAX: usize = 16 * 1024;

/// Everything that the admin API shows and does.
pub struct Admin {
    /// The site's records.
    pub catalogue: Arc<Catalogue>,
    /// The site's chunks.
    pub store: Store,
    /// Other sites, in a mesh.
    pub peers: Option<Arc<Peers>>,
    /// Runs collections.
    pub collector: Arc<Collector>,
    /// Reads the store back.
    pub scrubber: Arc<Scrubber>,
    /// What Prometheus reads.
    pub metrics: Arc<Metrics>,
    /// As configured.
    pub config: Arc<Config>,
    /// Set while the Image API listens.
    pub ready: Arc<AtomicBool>,
    /// When the daemon started.
    pub started: (Instant, u64),
}

/// An error as this API shows it.
struct Failure(StatusCode, String, &'static str);

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        let Self(status, message, hint) = self;
        (
            status,
            Json(json!({"error": {"message": message, "hint": hint}})),
        )
            .into_response()
    }
}

impl From<vitrail_chunkstore::Error> for Failure {
    fn from(error: vitrail_chunkstore::Error) -> Self {
        Self(
            StatusCode::INTERNAL_SERVER_ERROR,
            error.to_string(),
            "see the daemon's log",
        )
    }
}

/// The routes.
pub fn router(admin: Arc<Admin>) -> Router {
    endpoint::router(endpoints())
        .fallback(|| async {
            Failure(
                StatusCode::NOT_FOUND,
                "no such path".into(),
                "docs/ADMIN.md lists all paths",
            )
        })
        .layer(map_response(as_failure))
        .with_state(admin)
}

fn endpoints() -> Vec<Endpoint> {
    let uuid = json!({"type": "string", "format": "uuid"});
    let count = json!({"type": "integer", "minimum": 0});
    vec![
        Endpoint::get("/healthz", || async { "ok" }, "Whether the process lives"),
        Endpoint::get("/readyz", readyz, "Whether the Image API listens").refuses(&[503]),
        Endpoint::get("/metrics", metrics, "Metrics for Prometheus"),
        Endpoint::get("/v1/openapi.json", openapi, "This document").answers("Document"),
        Endpoint::get("/v1/status", status, "The site").answers("Status"),
        Endpoint::get("/v1/store", store, "What the store holds").answers("Store"),
        Endpoint::post("/v1/store/gc", gc, "Collects garbage")
            .may_take("GcRequest")
            .streams("GcLine")
            .refuses(&[400]),
        Endpoint::post(
            "/v1/store/scrub",
            scrub_store,
            "Reads everything back at a rate",
        )
        .may_take("ScrubRequest")
        .streams("VerifyLine")
        .refuses(&[400]),
        Endpoint::post(
            "/v1/store/verify",
            verify_store,
            "Reads everything back at once",
        )
        .streams("VerifyLine"),
        Endpoint::get("/v1/sites", mesh::sites, "Every known site")
            .lists("Site")
            .refuses(&[409]),
        Endpoint::get(
            "/v1/sites/{name}",
            mesh::site,
            "A site and the images that it holds",
        )
        .answers("SiteDetail")
        .refuses(&[400, 404, 409]),
        Endpoint::post("/v1/preseed", mesh::preseed, "Brings images to sites")
            .takes("PreseedRequest")
            .streams("PreseedLine")
            .refuses(&[400, 404, 409]),
        Endpoint::get(
            "/v1/receipts",
            mesh::receipts,
            "What pulls cost, the newest first",
        )
        .query("image", uuid)
        .query("limit", count)
        .lists("Receipt")
        .refuses(&[400, 409]),
        Endpoint::get("/v1/limits", mesh::limits, "The limits in force")
            .answers("Limits")
            .refuses(&[409]),
        Endpoint::put(
            "/v1/limits",
            mesh::set_limits,
            "Puts limits in the place of those before",
        )
        .takes("Limits")
        .answers("Limits")
        .refuses(&[400, 409]),
    ]
}

async fn openapi() -> Json<serde_json::Value> {
    Json(endpoint::document(&endpoints()))
}

/// What the router refuses by itself gets the form of every other error.
async fn as_failure(answer: Response) -> Response {
    let json = HeaderValue::from_static("application/json");
    if !answer.status().is_client_error()
        || answer.headers().get(header::CONTENT_TYPE) == Some(&json)
    {
        return answer;
    }
    let (mut parts, body) = answer.into_parts();
    let text = axum::body::to_bytes(body, REFUSAL_LEN_MAX).await;
    let text = text.map(|text| String::from_utf8_lossy(&text).into_owned());
    let message = text.ok().filter(|text| !text.is_empty());
    let reason = || parts.status.canonical_reason().unwrap_or("refused");
    let message = message.unwrap_or_else(|| reason().to_lowercase());
    let error =
        json!({"error": {"message": message, "hint": "docs/ADMIN.md tells what can be asked"}});
    parts.headers.insert(header::CONTENT_TYPE, json);
    parts.headers.remove(header::CONTENT_LENGTH);
    Response::from_parts(parts, error.to_string().into())
}

async fn readyz(State(admin): State<Arc<Admin>>) -> Response {
    if admin.ready.load(Ordering::SeqCst) {
        "ready".into_response()
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, "not ready").into_response()
    }
}

async fn stats(admin: &Arc<Admin>) -> Result<Stats, Failure> {
    let store = admin.store.clone();
    let stats = glance::blocking(move || store.stats()).await;
    Ok(stats.map_err(|_| {
        Failure(
            StatusCode::INTERNAL_SERVER_ERROR,
            "internal error".into(),
            "see the daemon's log",
        )
    })??)
}

async fn metrics(State(admin): State<Arc<Admin>>) -> Result<Response, Failure> {
    let stats = stats(&admin).await?;
    admin
        .metrics
        .set_store(&stats, admin.catalogue.len(), admin.store.memory().used());
    if let Some(peers) = &admin.peers {
        admin.metrics.set_gossip_refused(peers.gossip_refused());
        peers.links.observe();
    }
    let text = admin.metrics.render().map_err(|error| {
        Failure(
            StatusCode::INTERNAL_SERVER_ERROR,
            error.to_string(),
            "see the daemon's log",
        )
    })?;
    Ok(([(header::CONTENT_TYPE, "text/plain; version=0.0.4")], text).into_response())
}

/// The store statistics of `docs/ADMIN.md`.
#[derive(Serialize)]
struct StoreStats {
    format: u32,
    manifests: u64,
    images: usize,
    chunks: u64,
    packs: u64,
    logical_bytes: u64,
    data_bytes: u64,
    unique_bytes: u64,
    pack_bytes: u64,
    index_bytes: u64,
    disk_bytes: u64,
    capacity_bytes: Option<u64>,
    free_bytes: u64,
    damaged_chunks: u64,
}

impl StoreStats {
    fn new(stats: &Stats, images: usize) -> Self {
        Self {
            format: stats.format,
            manifests: stats.manifests,
            images,
            chunks: stats.chunks,
            packs: stats.packs,
            logical_bytes: stats.logical_bytes,
            data_bytes: stats.data_bytes,
            unique_bytes: stats.unique_bytes,
            pack_bytes: stats.pack_bytes,
            index_bytes: stats.index_bytes,
            disk_bytes: stats.pack_bytes + stats.index_bytes,
            capacity_bytes: stats.capacity_bytes,
            free_bytes: stats.free_bytes,
            damaged_chunks: stats.damaged_chunks,
        }
    }
}

async fn store(State(admin): State<Arc<Admin>>) -> Result<Json<StoreStats>, Failure> {
    Ok(Json(StoreStats::new(
        &stats(&admin).await?,
        admin.catalogue.len(),
    )))
}

async fn status(State(admin): State<Arc<Admin>>) -> Result<Json<serde_json::Value>, Failure> {
    let stats = stats(&admin).await?;
    let images = admin.catalogue.len();
    let (instant, unix_ms) = admin.started;
    Ok(Json(json!({
        "site": admin.config.site.name,
        "zone": admin.config.site.zone,
        "version": env!("CARGO_PKG_VERSION"),
        "started_at": glance::document::time(unix_ms),
        "uptime_s": instant.elapsed().as_secs(),
        "images": images,
        "store": StoreStats::new(&stats, images),
    })))
}

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct GcRequest {
    dry_run: bool,
}

/// Parses a body that may be left out.
fn parse<T: Default + DeserializeOwned>(body: &Bytes, hint: &'static str) -> Result<T, Failure> {
    if body.is_empty() {
        return Ok(T::default());
    }
    parse_object(body).map_err(|error| {
        let message = format!("the request body: {error}");
        Failure(StatusCode::BAD_REQUEST, message, hint)
    })
}

/// Parses a JSON object. Without the check a list would do as well: serde takes its items for fields.
fn parse_object<T: DeserializeOwned>(body: &[u8]) -> anyhow::Result<T> {
    let value: serde_json::Value = serde_json::from_slice(body)?;
    anyhow::ensure!(value.is_object(), "it is no JSON object");
    Ok(serde_json::from_value(value)?)
}

async fn gc(State(admin): State<Arc<Admin>>, body: Bytes) -> Result<Response, Failure> {
    let request: GcRequest = parse(&body, "send {\"dry_run\": true} or nothing")?;
    Ok(stream::run(move |out| {
        let progress = |done, total| out.progress("packs", done, total, "packs");
        match admin.collector.collect(request.dry_run, progress) {
            Ok(summary) => out.result(&gc_result(&summary, request.dry_run)),
            Err(error @ CollectError::Busy) => out.error(&error, "wait for it to end"),
            Err(error) => out.error(&error, "see the daemon's log"),
        }
    }))
}

fn gc_result(summary: &GcSummary, dry_run: bool) -> serde_json::Value {
    json!({
        "dry_run": dry_run,
        "live_chunks": summary.live_chunks,
        "dead_chunks": summary.dead_chunks,
        "dead_bytes": summary.dead_bytes,
        "dead_manifests": summary.dead_manifests,
        "packs_removed": summary.packs_removed,
        "packs_compacted": summary.packs_compacted,
        "reclaimed_bytes": summary.reclaimed_bytes,
    })
}

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct ScrubRequest {
    /// Bytes per second; 0 is as fast as the disk allows.
    rate: Option<u64>,
}

async fn scrub_store(State(admin): State<Arc<Admin>>, body: Bytes) -> Result<Response, Failure> {
    let request: ScrubRequest = parse(&body, "send {\"rate\": bytes per second} or nothing")?;
    let rate = request.rate.map_or(admin.scrubber.rate(), NonZeroU64::new);
    Ok(read_back(admin, rate))
}

async fn verify_store(State(admin): State<Arc<Admin>>) -> Response {
    read_back(admin, None)
}

fn read_back(admin: Arc<Admin>, rate: Option<NonZeroU64>) -> Response {
    stream::run(move |out| {
        let stop = AtomicBool::new(false);
        let mut told = Instant::now();
        let progress = |p: vitrail_chunkstore::verify::Progress| {
            // Nobody would see how it ends.
            stop.store(out.is_gone(), Ordering::Relaxed);
            if told.elapsed() >= PROGRESS_INTERVAL {
                told = Instant::now();
                out.progress("packs", p.done_bytes, p.total_bytes, "bytes");
            }
        };
        match admin.scrubber.scrub_now(rate, &stop, progress) {
            Ok(report) => out.result(&verify_result(&report)),
            Err(error @ ScrubError::Busy) => out.error(&error, "wait for it to end"),
            Err(error) => out.error(&error, "see the daemon's log"),
        }
    })
}

fn verify_result(report: &VerifyReport) -> serde_json::Value {
    let damaged: Vec<_> = report
        .damaged
        .iter()
        .map(|d| json!({"pack": d.pack.0, "offset": d.offset, "reason": d.reason}))
        .collect();
    let damaged_manifests: Vec<_> = report
        .damaged_manifests
        .iter()
        .map(ToString::to_string)
        .collect();
    let missing: Vec<_> = report
        .missing
        .iter()
        .map(|(manifest, chunk)| json!({"manifest": manifest.to_string(), "chunk": chunk.to_string()}))
        .collect();
    json!({
        "packs": report.packs,
        "frames": report.frames,
        "chunks": report.chunks,
        "bytes": report.bytes,
        "manifests": report.manifests,
        "partial_manifests": report.partial_manifests,
        "damaged": damaged,
        "damaged_manifests": damaged_manifests,
        "missing": missing,
        "ok": report.ok(),
    })
}
