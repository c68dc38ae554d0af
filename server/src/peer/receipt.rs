//! What a pull cost.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use parking_lot::Mutex;
use serde::Serialize;
use uuid::Uuid;
use vitrail_proto::wire::PathFigures;

/// Receipts that are remembered.
const RECEIPTS_MAX: usize = 1000;

/// What a pull cost. Bytes are uncompressed unless they are called wire bytes.
#[derive(Debug, Clone, Serialize)]
pub struct Receipt {
    /// Number of the pull at this site since it started.
    pub pull: u64,
    /// The image, if the pull was for one.
    pub image: Option<Uuid>,
    /// The manifest.
    pub manifest: String,
    /// The site that pulled.
    pub site: String,
    /// When it began, RFC 3339.
    pub started_at: String,
    /// How long it took.
    pub seconds: f64,
    /// Bytes of the image, holes included.
    pub image_bytes: u64,
    /// Bytes of it that are holes.
    pub hole_bytes: u64,
    /// Bytes that the site had already.
    pub local_bytes: u64,
    /// Bytes from other sites, by name.
    pub peers: BTreeMap<String, PeerBytes>,
    /// How bytes were encoded on the wire.
    pub encoding: &'static str,
    /// No pull could have been faster, with the rates of earlier pulls, or of this one for a site that had none; none
    /// if nothing was fetched.
    pub bound_seconds: Option<f64>,
    /// The sites whose links bind that; empty if it is our own.
    pub bottleneck: Vec<String>,
    /// Holders that were left, or not reached, and why: `NAME: reason`. The last 8.
    pub dropped: Vec<String>,
    /// `complete`, or why it ended otherwise.
    pub outcome: String,
}

/// What came from one site.
#[derive(Debug, Clone, Default, Serialize)]
pub struct PeerBytes {
    /// Uncompressed.
    pub raw: u64,
    /// As received, QUIC's and IP's own bytes not counted.
    pub wire: u64,
    /// How the path was on which it came, by the site that sent; none if that did not tell, or the connection was lost.
    pub path: Option<PathView>,
}

/// One direction of a connection during a pull, with all that was sent on it, as its sender saw it.
#[derive(Debug, Clone, Serialize)]
pub struct PathView {
    /// What the path was found to carry, in bytes per second.
    pub rate: Option<u64>,
    /// Round trip in milliseconds, smoothed.
    pub rtt_ms: Option<f64>,
    /// Smallest round trip seen lately, in milliseconds.
    pub rtt_min_ms: Option<f64>,
    /// Packets sent and lost.
    pub packets_sent: u64,
    /// As above.
    pub packets_lost: u64,
    /// Bytes in packets that were lost, and so sent again.
    pub bytes_sent_twice: u64,
    /// What the congestion controller did at the end.
    pub state: &'static str,
}

impl From<PathFigures> for PathView {
    fn from(figures: PathFigures) -> Self {
        let ms = |time: Duration| time.as_secs_f64() * 1000.0;
        Self {
            rate: figures.rate,
            rtt_ms: figures.rtt.map(ms),
            rtt_min_ms: figures.rtt_min.map(ms),
            packets_sent: figures.packets_sent,
            packets_lost: figures.packets_lost,
            bytes_sent_twice: figures.bytes_lost,
            state: figures.state.name(),
        }
    }
}

/// The last receipts.
#[derive(Default)]
pub struct Receipts {
    list: Mutex<VecDeque<Receipt>>,
}

impl Receipts {
    /// Remembers a receipt and logs it.
    pub fn add(&self, receipt: Receipt) {
        let wire: u64 = receipt.peers.values().map(|p| p.wire).sum();
        tracing::info!(
            pull = receipt.pull,
            image = receipt.image.map(tracing::field::display),
            seconds = receipt.seconds,
            local = receipt.local_bytes,
            holes = receipt.hole_bytes,
            wire,
            bound = receipt.bound_seconds,
            outcome = receipt.outcome,
            "pull ended"
        );
        let mut list = self.list.lock();
        if list.len() == RECEIPTS_MAX {
            list.pop_front();
        }
        list.push_back(receipt);
    }

    /// Receipts, the newest first, of one image or of all.
    pub fn list(&self, image: Option<Uuid>) -> Vec<Receipt> {
        let list = self.list.lock();
        let matches = |r: &&Receipt| image.is_none() || r.image == image;
        list.iter().rev().filter(matches).cloned().collect()
    }
}
