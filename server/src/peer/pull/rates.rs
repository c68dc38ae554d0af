//! At what rates sites delivered in earlier pulls, so that the next one plans well from its first request.

use std::collections::HashMap;

use parking_lot::Mutex;

/// Sites whose rates are remembered; beyond that all are learnt anew.
const RATES_MAX: usize = 4096;

/// What earlier pulls have shown.
#[derive(Default)]
pub(super) struct Rates {
    seen: Mutex<Seen>,
}

#[derive(Default)]
struct Seen {
    /// Bytes per second on the wire at which sites delivered in their last pulls.
    by_site: HashMap<u64, f64>,
    /// Uncompressed bytes to one on the wire, in the last pull.
    expansion: Option<f64>,
}

impl Rates {
    /// What a site delivered in its last pull, in bytes per second on the wire.
    pub(super) fn of(&self, peer: u64) -> Option<f64> {
        self.seen.lock().by_site.get(&peer).copied()
    }

    /// What a rate on the wire is likely to be in uncompressed bytes: as in the last pull.
    pub(super) fn uncompressed(&self, rate: f64) -> f64 {
        rate * self.seen.lock().expansion.unwrap_or(1.0)
    }

    /// Takes in what a pull has shown, which brought `raw` bytes as `wire`.
    pub(super) fn learn(&self, rates: impl IntoIterator<Item = (u64, f64)>, raw: u64, wire: u64) {
        let mut seen = self.seen.lock();
        if seen.by_site.len() >= RATES_MAX {
            seen.by_site.clear();
        }
        seen.by_site.extend(rates);
        if wire > 0 {
            seen.expansion = Some(raw as f64 / wire as f64);
        }
    }
}
