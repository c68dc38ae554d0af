//! The figures of a pull, for its receipt.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::future::join_all;
use uuid::Uuid;
use vitrail_proto::fetch::Pull;
use vitrail_proto::fetch::bound::{Class, lower_bound};
use vitrail_proto::wire::PathFigures;

use super::interest::PullHandle;
use super::rates::Rates;
use crate::peer::ask::ask_path;
use crate::peer::links::Link;
use crate::peer::receipt::{PeerBytes, Receipt};

/// Bytes on the wire from which on a site's rate is believed: less is over before the path is full.
const SEEN_MIN: u64 = 4 * 1024 * 1024;
/// How long a receipt waits for what holders tell of their paths.
const PATH_TIMEOUT: Duration = Duration::from_secs(2);

/// What a pull has cost so far.
pub(super) struct Account {
    /// The pull's number.
    pub(super) number: u64,
    image: Option<Uuid>,
    site: String,
    /// When the pull began.
    pub(super) epoch: Instant,
    started_ms: u64,
    local_bytes: u64,
    pub(super) missing_bytes: u64,
    peers: HashMap<u64, (String, PeerBytes)>,
    /// Rates that were known before the pull, in bytes per second on the wire.
    known: HashMap<u64, f64>,
    /// What sites said of their paths when the pull, or the last connection of it, began.
    paths: HashMap<u64, PathFigures>,
}

impl Account {
    pub(super) fn new(
        number: u64,
        image: Option<Uuid>,
        site: String,
        local_bytes: u64,
        missing_bytes: u64,
    ) -> Self {
        Self {
            number,
            image,
            site,
            epoch: Instant::now(),
            started_ms: crate::catalogue::now_ms(),
            local_bytes,
            missing_bytes,
            peers: HashMap::new(),
            known: HashMap::new(),
            paths: HashMap::new(),
        }
    }

    /// A site's rate in earlier pulls.
    pub(super) fn know_rate(&mut self, peer: u64, rate: Option<f64>) {
        self.known.extend(rate.map(|rate| (peer, rate)));
    }

    /// What a site says of its path as the pull begins.
    pub(super) fn know_path(&mut self, peer: u64, figures: PathFigures) {
        self.paths.insert(peer, figures);
        if let Some(rate) = figures.rate {
            self.known.entry(peer).or_insert(rate as f64);
        }
    }

    /// Asks the sites that told of their paths before what has become of them, and writes it into the receipt.
    pub(super) async fn ask_paths(&self, links: &[Arc<Link>], receipt: &mut Receipt) {
        let told = links.iter().filter_map(|link| {
            let before = self.paths.get(&link.number)?;
            Some(async move {
                let asked = tokio::time::timeout(PATH_TIMEOUT, ask_path(link)).await;
                let now = asked.ok()?.ok()?;
                Some((&link.site, now.since(before)))
            })
        });
        for (site, figures) in join_all(told).await.into_iter().flatten() {
            if let Some(bytes) = receipt.peers.get_mut(site) {
                bytes.path = Some(figures.into());
            }
        }
    }

    /// Rates that sites were seen to deliver at, in bytes per second on the wire, but for those of whom there was little.
    fn seen_rates(&self, pull: &Pull) -> Vec<(u64, f64)> {
        let seen = self.peers.iter().filter_map(|(peer, (_, bytes))| {
            // The planner's rates are of uncompressed bytes.
            let ratio = bytes.wire as f64 / bytes.raw.max(1) as f64;
            let rate = pull.rate(*peer).filter(|_| bytes.wire >= SEEN_MIN)?;
            Some((*peer, rate * ratio))
        });
        seen.collect()
    }

    /// Hands on what later pulls can use.
    pub(super) fn teach(&self, rates: &Rates, pull: &Pull) {
        let bytes = || self.peers.values().map(|(_, bytes)| bytes);
        let raw = bytes().map(|bytes| bytes.raw).sum();
        let wire = bytes().map(|bytes| bytes.wire).sum();
        rates.learn(self.seen_rates(pull), raw, wire);
    }

    /// A frame of `wire` bytes has come from a site, with `raw` bytes of chunks in it.
    pub(super) fn add(&mut self, peer: u64, site: &str, wire: u64, raw: u64) {
        let (_, bytes) = self
            .peers
            .entry(peer)
            .or_insert_with(|| (site.to_owned(), PeerBytes::default()));
        bytes.wire += wire;
        bytes.raw += raw;
    }

    /// The receipt of the pull, which has ended with `result`, and in which holders were `dropped`.
    pub(super) fn receipt(
        &self,
        handle: &PullHandle,
        pull: &Pull,
        dropped: Vec<String>,
        result: &Result<(), String>,
    ) -> Receipt {
        let manifest = &handle.manifest;
        let wire: u64 = self.peers.values().map(|(_, bytes)| bytes.wire).sum();
        // As they were before the pull, or the pull would be measured against itself; new sites have no other.
        let mut rates: BTreeMap<u64, f64> = self.seen_rates(pull).into_iter().collect();
        rates.extend(&self.known);
        let rates: Vec<(u64, f64)> = rates.into_iter().collect();
        let all = Class {
            holders: (0..rates.len()).collect(),
            bytes: wire,
        };
        let bound = lower_bound(&rates, &[all], None);
        let name = |peer: &u64| self.peers.get(peer).map(|(name, _)| name.clone());
        Receipt {
            pull: self.number,
            image: self.image,
            manifest: handle.manifest_id.to_string(),
            site: self.site.clone(),
            started_at: crate::glance::document::time(self.started_ms),
            seconds: self.epoch.elapsed().as_secs_f64(),
            image_bytes: manifest.size(),
            hole_bytes: manifest.size() - manifest.data_size(),
            local_bytes: self.local_bytes,
            peers: self.peers.values().cloned().collect(),
            encoding: "zstd frames",
            bound_seconds: (wire > 0 && bound.seconds > 0.0).then_some(bound.seconds),
            bottleneck: bound.bottleneck.iter().filter_map(name).collect(),
            dropped,
            outcome: match result {
                Ok(()) => "complete".into(),
                Err(reason) => format!(
                    "{reason} ({} of {} bytes arrived)",
                    self.missing_bytes - pull.left_bytes(),
                    self.missing_bytes
                ),
            },
        }
    }
}
