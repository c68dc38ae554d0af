//! Rates of sites and paths as the self-check measured them.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::wan::Network;
use crate::wan::check::Report;

/// Rates in bits per second of packets; what is absent has no limit.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(super) struct Rates {
    up: BTreeMap<String, f64>,
    down: BTreeMap<String, f64>,
    /// By sender and receiver: the least of uplink, pair and downlink.
    path: BTreeMap<String, BTreeMap<String, f64>>,
    rtt_ms: BTreeMap<String, BTreeMap<String, f64>>,
}

impl Rates {
    /// What the topology says.
    pub(super) fn wanted(network: &Network) -> Self {
        let mut rates = Self::default();
        for site in &network.sites {
            let bits = |port: crate::wan::PortConfig| port.rate.map(|r| r.as_bits_per_sec() as f64);
            if let Some(up) = bits(site.up) {
                rates.up.insert(site.name.clone(), up);
            }
            if let Some(down) = bits(site.down) {
                rates.down.insert(site.name.clone(), down);
            }
        }
        for (a, b) in network.pairs() {
            let (from, to) = (&network.sites[a.0].name, &network.sites[b.0].name);
            if let Some(rate) = network.path_rate(a, b) {
                let row = rates.path.entry(from.clone()).or_default();
                row.insert(to.clone(), rate.as_bits_per_sec() as f64);
            }
            let row = rates.rtt_ms.entry(from.clone()).or_default();
            row.insert(to.clone(), network.rtt(a, b).as_secs_f64() * 1e3);
        }
        rates
    }

    /// What was measured; where nothing was, because a faster link cannot be filled, what the topology says.
    pub(super) fn measured(network: &Network, report: &Report) -> Self {
        let mut rates = Self::wanted(network);
        for section in report
            .sections
            .iter()
            .filter(|section| section.kind == "rate")
        {
            for finding in &section.findings {
                let (Some(measured), Some((from, to))) =
                    (finding.measured, finding.subject.split_once(" -> "))
                else {
                    continue;
                };
                let bits = measured * 1e6;
                match (from, to) {
                    ("all", site) => {
                        rates.down.insert(site.to_owned(), bits);
                    }
                    (site, "all") => {
                        rates.up.insert(site.to_owned(), bits);
                    }
                    (from, to) => {
                        let row = rates.path.entry(from.to_owned()).or_default();
                        row.insert(to.to_owned(), bits);
                    }
                }
            }
        }
        rates
    }

    /// From a site to all others together.
    pub(super) fn up(&self, site: &str) -> f64 {
        self.up.get(site).copied().unwrap_or(f64::INFINITY)
    }

    /// From all others together to a site.
    pub(super) fn down(&self, site: &str) -> f64 {
        self.down.get(site).copied().unwrap_or(f64::INFINITY)
    }

    /// From one site to another.
    pub(super) fn path(&self, from: &str, to: &str) -> f64 {
        let row = self.path.get(from);
        row.and_then(|row| row.get(to))
            .copied()
            .unwrap_or(f64::INFINITY)
    }

    /// Between two sites.
    pub(super) fn rtt(&self, a: &str, b: &str) -> Duration {
        let row = self.rtt_ms.get(a);
        let ms = row.and_then(|row| row.get(b)).copied().unwrap_or_default();
        Duration::from_secs_f64(ms / 1e3)
    }
}
