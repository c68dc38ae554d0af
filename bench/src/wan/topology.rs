//! The file format: a network as people write it down.
//!
//! A [`Topology`] says what is common once and what differs where it differs. [`Topology::resolve`]
//! turns it into a [`Network`], in which every directed pair has its own figures. A key that is not
//! known, a site that does not exist and a value that makes no sense are errors.

use std::path::Path;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::event::TimedEvent;
use super::network::{Network, NetworkError};
use super::units::{QueueLimit, Rate, optional_duration};

/// A network of sites, as written in a TOML file.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Topology {
    /// What people call it.
    pub name: String,
    /// Every rate of the file is multiplied by this; 1 when absent. Round-trip times stay real.
    #[serde(default = "one")]
    pub scale: f64,
    /// Seed of the loss processes.
    #[serde(default)]
    pub seed: u64,
    /// Largest IP packet in bytes; 1,500 when absent.
    #[serde(default = "default_mtu")]
    pub mtu: u16,
    /// Whether the root namespace gets a way to each site that bypasses the emulated network.
    #[serde(default)]
    pub mgmt: bool,
    /// What every pair has unless something below says otherwise.
    #[serde(default)]
    pub link: LinkSpec,
    /// What pairs inside a zone have instead.
    #[serde(default)]
    pub same_zone: LinkSpec,
    /// Published tables, in place of the two above.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub matrix: Option<Matrix>,
    /// The sites, in the order of their addresses.
    pub sites: Vec<SiteSpec>,
    /// Single pairs that differ; the last word.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub pairs: Vec<PairSpec>,
    /// What changes while the network runs.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub events: Vec<TimedEvent>,
}

/// A site and its access link.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct SiteSpec {
    /// Lower-case letters, digits and hyphens.
    pub name: String,
    /// When given, this entry stands for sites `name-1` to `name-count`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub count: Option<u16>,
    /// Group of sites that [`Topology::same_zone`] speaks of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub zone: Option<String>,
    /// Rate from the site to all others together; unlimited when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub up: Option<Rate>,
    /// Rate from all others together to the site; unlimited when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub down: Option<Rate>,
    /// One-way delay of the access link, on top of each pair's round-trip time.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        with = "optional_duration"
    )]
    pub delay: Option<Duration>,
    /// Limit of the queues before `up` and `down`; 1 bdp of the site's longest path when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub queue: Option<QueueLimit>,
}

/// What a path between two sites is like, in both directions; what is absent is inherited.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct LinkSpec {
    /// Round-trip time without queues; half of it each way. 0 when nothing says otherwise.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        with = "optional_duration"
    )]
    pub rtt: Option<Duration>,
    /// Rate of each direction; unlimited when nothing says otherwise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rate: Option<Rate>,
    /// Share of packets lost at random, each direction by itself; 0 when nothing says otherwise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub loss: Option<f64>,
    /// Mean length of a run of lost packets; independent losses when nothing says otherwise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub burst: Option<f64>,
    /// Limit of the queue before `rate`; 1 bdp when nothing says otherwise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub queue: Option<QueueLimit>,
    /// What drops packets beyond a rate, before the queue; none when nothing says otherwise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub policer: Option<PolicerSpec>,
}

/// A token bucket: what comes above its rate is dropped and never queued.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct PolicerSpec {
    /// Bytes pass at this rate for long.
    pub rate: Rate,
    /// What may pass at once; a full packet always may.
    pub bucket: QueueLimit,
}

impl LinkSpec {
    /// `self` with what it lacks taken from `base`.
    #[must_use]
    pub fn or(&self, base: &Self) -> Self {
        Self {
            rtt: self.rtt.or(base.rtt),
            rate: self.rate.or(base.rate),
            loss: self.loss.or(base.loss),
            burst: self.burst.or(base.burst),
            queue: self.queue.or(base.queue),
            policer: self.policer.or(base.policer),
        }
    }
}

/// A pair that differs from the rest.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct PairSpec {
    /// The two sites.
    pub between: [String; 2],
    /// What is different there.
    pub link: LinkSpec,
}

/// Square tables over all sites in the order of [`Topology::sites`]; a row is a sender. The
/// diagonal is ignored.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Matrix {
    /// Round-trip times in milliseconds. Where the two directions were published with different
    /// values, both get the mean.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rtt_ms: Option<Vec<Vec<f64>>>,
    /// Rates in Mbit/s, each direction by itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rate_mbit: Option<Vec<Vec<f64>>>,
}

fn one() -> f64 {
    1.0
}

fn default_mtu() -> u16 {
    1500
}

/// Why a topology could not be had from a file.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TopologyError {
    /// The file could not be read.
    #[error("read topology {path}")]
    Read {
        /// The file.
        path: String,
        /// Why.
        source: std::io::Error,
    },
    /// The text is not such a file.
    #[error("not a topology: {0}")]
    Parse(#[from] toml::de::Error),
}

impl Topology {
    /// Reads a file in TOML.
    pub fn load(path: &Path) -> Result<Self, TopologyError> {
        let text = std::fs::read_to_string(path).map_err(|source| TopologyError::Read {
            path: path.display().to_string(),
            source,
        })?;
        Self::parse(&text)
    }

    /// Reads TOML.
    pub fn parse(text: &str) -> Result<Self, TopologyError> {
        Ok(toml::from_str(text)?)
    }

    /// `count` sites, named `site-1` on, that all see each other through the same `link`; no
    /// access link limits them.
    pub fn uniform(count: u16, link: LinkSpec) -> Self {
        Self {
            name: format!("uniform-{count}"),
            scale: one(),
            seed: 0,
            mtu: default_mtu(),
            mgmt: false,
            link,
            same_zone: LinkSpec::default(),
            matrix: None,
            sites: vec![SiteSpec {
                name: "site".into(),
                count: Some(count),
                ..SiteSpec::default()
            }],
            pairs: Vec::new(),
            events: Vec::new(),
        }
    }

    /// Works out the figures of every site and directed pair.
    pub fn resolve(&self) -> Result<Network, NetworkError> {
        Network::resolve(self)
    }
}
