//! What an emulated network has carried.

use std::time::Duration;

use serde::{Serialize, Serializer};

/// Packets, and their bytes from the IP header on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Count {
    /// How many packets.
    pub packets: u64,
    /// Their bytes.
    pub bytes: u64,
}

impl Count {
    pub(super) fn add(&mut self, len: usize) {
        self.packets += 1;
        self.bytes += len as u64;
    }

    /// What was counted since `earlier`.
    #[must_use]
    pub fn since(self, earlier: Self) -> Self {
        Self {
            packets: self.packets - earlier.packets,
            bytes: self.bytes - earlier.bytes,
        }
    }
}

/// One direction of a pair. A packet is in `sent`, and at the end in one of the others.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct PairCount {
    /// Read from the sender's interface.
    pub sent: Count,
    /// Written to the receiver's interface.
    pub delivered: Count,
    /// Lost at random.
    pub lost: Count,
    /// Found a queue full (up, pair or down), or the policer's bucket empty.
    pub dropped: Count,
    /// Met a cut: a site down or a partition.
    pub cut: Count,
}

/// One site's access link.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct SiteCount {
    /// Read from the site's interface.
    pub tx: Count,
    /// Written to the site's interface.
    pub rx: Count,
    /// Found the queue before `up` full; part of the pairs' `dropped`.
    pub up_dropped: Count,
    /// Found the queue before `down` full; part of the pairs' `dropped`.
    pub down_dropped: Count,
}

/// A [`SiteCount`] with its name.
#[derive(Clone, Debug, Serialize)]
pub struct SiteCounters {
    /// The site.
    pub site: String,
    /// Its figures.
    #[serde(flatten)]
    pub count: SiteCount,
}

/// A [`PairCount`] with its names.
#[derive(Clone, Debug, Serialize)]
pub struct PairCounters {
    /// The sender.
    pub from: String,
    /// The receiver.
    pub to: String,
    /// Its figures.
    #[serde(flatten)]
    pub count: PairCount,
}

/// How much later than due packets were handed over, the emulator's own error.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct Lateness {
    /// Median.
    #[serde(rename = "p50_us", serialize_with = "micros")]
    pub p50: Duration,
    /// 99th percentile.
    #[serde(rename = "p99_us", serialize_with = "micros")]
    pub p99: Duration,
    /// Largest.
    #[serde(rename = "max_us", serialize_with = "micros")]
    pub max: Duration,
}

fn micros<S: Serializer>(time: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_f64(time.as_nanos() as f64 / 1000.0)
}

/// A reading of all counters at one moment.
#[derive(Clone, Debug, Serialize)]
pub struct Counters {
    /// Time since the network was started.
    #[serde(rename = "at_us", serialize_with = "micros")]
    pub at: Duration,
    /// By site.
    pub sites: Vec<SiteCounters>,
    /// By ordered pair.
    pub pairs: Vec<PairCounters>,
    /// Packets to an address of no site, or not IPv4.
    pub unroutable: Count,
    /// Packets beyond the bound on all bytes under way; not 0 means that the run is void.
    pub overflow: Count,
    /// Packets that the receiving kernel refused; not 0 means that the run is void.
    pub refused: Count,
    /// The emulator's own error.
    pub lateness: Lateness,
}

impl Counters {
    /// The figures of one site.
    pub fn site(&self, name: &str) -> Option<&SiteCount> {
        self.sites
            .iter()
            .find(|entry| entry.site == name)
            .map(|entry| &entry.count)
    }

    /// The figures of one direction.
    pub fn pair(&self, from: &str, to: &str) -> Option<&PairCount> {
        self.pairs
            .iter()
            .find(|entry| entry.from == from && entry.to == to)
            .map(|entry| &entry.count)
    }
}
