//! The figures of a pull, for its receipt.

use std::collections::HashMap;
use std::time::Instant;

use uuid::Uuid;
use vitrail_proto::fetch::Pull;
use vitrail_proto::fetch::bound::{Class, lower_bound};

use super::interest::PullHandle;
use crate::peer::receipt::{PeerBytes, Receipt};

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
    missing_bytes: u64,
    peers: HashMap<u64, (String, PeerBytes)>,
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
        }
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

    /// The receipt of the pull, which has ended with `result`.
    pub(super) fn receipt(
        &self,
        handle: &PullHandle,
        pull: &Pull,
        result: &Result<(), String>,
    ) -> Receipt {
        let manifest = &handle.manifest;
        let wire: u64 = self.peers.values().map(|(_, bytes)| bytes.wire).sum();
        // Rates are of uncompressed bytes; the bound is in bytes of the wire.
        let rates: Vec<(u64, f64)> = self
            .peers
            .iter()
            .filter(|(_, (_, bytes))| bytes.raw > 0)
            .filter_map(|(peer, (_, bytes))| {
                let rate = pull.rate(*peer)?;
                Some((*peer, rate * bytes.wire as f64 / bytes.raw as f64))
            })
            .collect();
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
