//! The admin API. `docs/ADMIN.md` describes it.

mod mesh;
mod stream;

use std::num::NonZeroU64;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use axum::body::Bytes;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
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

/// How often long work tells how far it is.
const PROGRESS_INTERVAL: Duration = Duration::from_millis(200);

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
    Router::new()
        .route("/healthz", get(|| async { "ok" }))
        .route("/readyz", get(readyz))
        .route("/metrics", get(metrics))
        .route("/v1/status", get(status))
        .route("/v1/store", get(store))
        .route("/v1/store/gc", post(gc))
        .route("/v1/store/scrub", post(scrub_store))
        .route("/v1/store/verify", post(verify_store))
        .route("/v1/sites", get(mesh::sites))
        .route("/v1/sites/{name}", get(mesh::site))
        .route("/v1/preseed", post(mesh::preseed))
        .route("/v1/receipts", get(mesh::receipts))
        .route("/v1/limits", get(mesh::limits).put(mesh::set_limits))
        .fallback(|| async {
            Failure(
                StatusCode::NOT_FOUND,
                "no such path".into(),
                "docs/ADMIN.md lists all paths",
            )
        })
        .with_state(admin)
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
    serde_json::from_slice(body).map_err(|error| {
        let message = format!("the request body: {error}");
        Failure(StatusCode::BAD_REQUEST, message, hint)
    })
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
