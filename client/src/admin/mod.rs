//! Admin API of one site: its state, the upkeep of its store, and the mesh around it.

mod mesh;
mod operation;

pub use mesh::{
    HeldImage, Limit, Limits, Link, PathFigures, PeerBytes, PreseedProgress, PreseedReport,
    PreseedState, Receipt, Site, SiteDetail, Target,
};
pub use operation::{Event, LINE_LEN_MAX, Operation, Progress};

use reqwest::Method;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::client::{Api, Client};
use crate::error::Result;

/// The admin API of one site. All methods fail with [`crate::Error::Unreachable`],
/// [`crate::Error::Interrupted`] or [`crate::Error::Api`].
#[derive(Clone, Copy, Debug)]
pub struct AdminApi<'a> {
    client: &'a Client,
}

impl<'a> AdminApi<'a> {
    pub(crate) fn new(client: &'a Client) -> Self {
        Self { client }
    }

    /// What the site is and holds.
    pub async fn status(&self) -> Result<SiteStatus> {
        self.get(&["v1", "status"]).await
    }

    /// What the store holds and takes on disk.
    pub async fn store_stats(&self) -> Result<StoreStats> {
        self.get(&["v1", "store"]).await
    }

    /// Frees the space of chunks that no image needs; with `dry_run` only counts them.
    ///
    /// # Errors
    /// 409 if it runs already.
    pub async fn gc(&self, dry_run: bool) -> Result<Operation<GcReport>> {
        let request = self
            .client
            .request(Api::Admin, Method::POST, &["v1", "store", "gc"]);
        Operation::start(self.client, request.json(&json!({ "dry_run": dry_run }))).await
    }

    /// Reads and checks every pack and every manifest.
    pub async fn verify(&self) -> Result<Operation<VerifyReport>> {
        let request = self
            .client
            .request(Api::Admin, Method::POST, &["v1", "store", "verify"]);
        Operation::start(self.client, request).await
    }

    /// Reads and checks the same, at `rate` bytes per second; at the site's own rate if none is given, and as fast as
    /// its disk allows if that is 0. In a mesh the site then fetches what was damaged from others.
    ///
    /// # Errors
    /// An operator's scrub or verification runs already.
    pub async fn scrub(&self, rate: Option<u64>) -> Result<Operation<VerifyReport>> {
        let request = self
            .client
            .request(Api::Admin, Method::POST, &["v1", "store", "scrub"]);
        Operation::start(self.client, request.json(&json!({ "rate": rate }))).await
    }

    async fn get<T: DeserializeOwned>(&self, path: &[&str]) -> Result<T> {
        let request = self.client.request(Api::Admin, Method::GET, path);
        self.client.document(request).await
    }
}

/// State of a site.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct SiteStatus {
    /// Name of the site.
    pub site: String,
    /// Zone that it lies in, if it has one.
    pub zone: Option<String>,
    /// Version of the daemon.
    pub version: String,
    /// RFC 3339, UTC.
    pub started_at: String,
    /// Seconds since then.
    pub uptime_s: u64,
    /// Image records that are not deleted.
    pub images: u64,
    /// Its store.
    pub store: StoreStats,
}

/// Figures of a store. Sizes are bytes.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct StoreStats {
    /// Version of the store's format on disk.
    pub format: u32,
    /// Stored manifests; images of equal content share one.
    pub manifests: u64,
    /// Images with data.
    pub images: u64,
    /// Distinct chunks.
    pub chunks: u64,
    /// Pack files.
    pub packs: u64,
    /// Sum of the sizes of all manifests.
    pub logical_bytes: u64,
    /// The same without holes.
    pub data_bytes: u64,
    /// Uncompressed bytes of the distinct chunks.
    pub unique_bytes: u64,
    /// Bytes of packs on disk.
    pub pack_bytes: u64,
    /// Bytes of index and metadata on disk.
    pub index_bytes: u64,
    /// All that lies on disk: packs and index.
    pub disk_bytes: u64,
    /// Limit on `pack_bytes`, if one is set.
    pub capacity_bytes: Option<u64>,
    /// Free space of the file system.
    pub free_bytes: u64,
    /// Chunks that were found damaged since the daemon started.
    pub damaged_chunks: u64,
}

/// What a garbage collection did, or with `dry_run` would do.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct GcReport {
    /// Whether it only counted.
    pub dry_run: bool,
    /// Chunks that no manifest names.
    pub dead_chunks: u64,
    /// Their bytes in the packs.
    pub dead_bytes: u64,
    /// Manifests that no image names.
    pub dead_manifests: u64,
    /// Packs that held nothing else.
    pub packs_removed: u64,
    /// Packs that were rewritten without them.
    pub packs_compacted: u64,
    /// Bytes of disk given back.
    pub reclaimed_bytes: u64,
    /// Chunks that remain.
    pub live_chunks: u64,
}

/// What a verification read and found.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct VerifyReport {
    /// Packs read.
    pub packs: u64,
    /// Compressed frames read.
    pub frames: u64,
    /// Chunks whose hash was checked.
    pub chunks: u64,
    /// Bytes of packs read.
    pub bytes: u64,
    /// Manifests whose chunks were looked up.
    pub manifests: u64,
    /// Manifests that are here in part; what they lack is not missing.
    #[serde(default)]
    pub partial_manifests: u64,
    /// Places in packs that cannot be read.
    pub damaged: Vec<Damage>,
    /// Ids of manifests that are not what was written, in hex.
    #[serde(default)]
    pub damaged_manifests: Vec<String>,
    /// Chunks that a manifest needs whole and no pack holds.
    pub missing: Vec<MissingChunk>,
    /// Nothing is damaged and nothing is missing.
    pub ok: bool,
}

/// A place in a pack that cannot be read.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Damage {
    /// Number of the pack.
    pub pack: u64,
    /// Byte in it.
    pub offset: u64,
    /// What is wrong there.
    pub reason: String,
}

/// A chunk that is gone.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct MissingChunk {
    /// Id of a manifest that names it, in hex.
    pub manifest: String,
    /// Id of the chunk, in hex.
    pub chunk: String,
}
