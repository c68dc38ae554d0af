//! A network with every figure worked out: what the emulator runs.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::time::Duration;

use super::event::Event;
use super::units::Rate;
use resolve::{check_loss, check_range, resolve_pair};

mod resolve;
#[cfg(test)]
mod tests;

/// Most sites of a network. Its memory grows with their square, about 100 MB at this.
pub const SITES_MAX: usize = 1_024;

/// Sites of an emulated network have the addresses 10.77.N.1 with N from 1 to this.
pub const ADDRESSES_MAX: usize = 190;

/// Index of a site in [`Network::sites`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SiteId(pub usize);

impl SiteId {
    /// The site's address in the emulated network; the whole 10.77.N.0/24 belongs to it.
    pub fn addr(self) -> Ipv4Addr {
        Ipv4Addr::new(10, 77, self.0 as u8 + 1, 1)
    }

    /// The site that `addr` belongs to, whether it exists or not.
    pub fn of_addr(addr: Ipv4Addr) -> Option<Self> {
        match addr.octets() {
            [10, 77, net, _] if (1..=ADDRESSES_MAX).contains(&usize::from(net)) => {
                Some(Self(usize::from(net) - 1))
            }
            _ => None,
        }
    }
}

/// Packet loss on the wire.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Loss {
    /// Long-run share of packets that are lost, from 0 to below 1.
    pub share: f64,
    /// Mean length of a run of lost packets; `None` for independent losses.
    pub burst: Option<f64>,
}

impl Loss {
    /// Variance of the number of lost packets per packet sent, in a long sample. Losses in runs
    /// vary more than independent ones, by (1 + r) / (1 - r) with r the correlation of neighbours.
    pub(super) fn variance(self) -> f64 {
        let independent = self.share * (1.0 - self.share);
        let correlation = self.burst.map_or(0.0, |burst| {
            let end = 1.0 / burst;
            1.0 - end - end * self.share / (1.0 - self.share)
        });
        independent * (1.0 + correlation) / (1.0 - correlation)
    }
}

/// A rate and the queue before it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct PortConfig {
    /// `None`: packets pass at once, and there is no queue.
    pub rate: Option<Rate>,
    /// Bytes that may wait, without the packet that is being sent.
    pub queue_bytes: u64,
}

impl PortConfig {
    /// How long a full queue takes to empty.
    pub(super) fn drain_time(self) -> Duration {
        self.rate.map_or(Duration::ZERO, |rate| {
            rate.time_for(self.queue_bytes as usize)
        })
    }
}

/// A rate beyond which packets are dropped, and how much may come at once.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct PolicerConfig {
    /// Bytes pass at this rate for long.
    pub rate: Rate,
    /// Bytes that may pass at once.
    pub bucket_bytes: u64,
}

/// One site.
#[derive(Clone, Debug)]
pub struct Site {
    /// Unique name.
    pub name: String,
    /// Its zone, if it has one.
    pub zone: Option<String>,
    /// Towards the others.
    pub up: PortConfig,
    /// From the others.
    pub down: PortConfig,
}

/// One direction of a pair.
#[derive(Clone, Debug)]
pub struct Link {
    /// In front of everything else, if there is one.
    pub policer: Option<PolicerConfig>,
    /// One-way propagation delay.
    pub delay: Duration,
    /// The direction's own rate and queue, between the two access links.
    pub port: PortConfig,
    /// Loss behind that rate: a lost packet has used it.
    pub loss: Loss,
}

/// Why a topology makes no network.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum NetworkError {
    /// Less than two or more than [`SITES_MAX`] sites.
    #[error("{0} sites; there must be 2 to {SITES_MAX}")]
    SiteCount(usize),
    /// More than [`ADDRESSES_MAX`] sites in a network that is to be emulated.
    #[error("{0} sites; the emulator has addresses for {ADDRESSES_MAX}")]
    NoAddresses(usize),
    /// A name that is empty, longer than 32, or has other characters than a-z, 0-9 and `-`.
    #[error("bad site name {0:?}: 1 to 32 lower-case letters, digits and hyphens")]
    SiteName(String),
    /// Two sites with one name.
    #[error("two sites are called {0}")]
    DuplicateSite(String),
    /// A name that no site has.
    #[error("no site is called {0:?}")]
    UnknownSite(String),
    /// A pair of a site with itself.
    #[error("{0} is paired with itself")]
    SelfPair(String),
    /// A site in two groups of a partition.
    #[error("{0} is in two groups of a partition")]
    InTwoGroups(String),
    /// A table that is not as wide or high as there are sites.
    #[error("matrix {0} must have {1} rows of {1} entries")]
    MatrixShape(&'static str, usize),
    /// A number outside its range.
    #[error("{what} is {value}; it must be {range}")]
    Range {
        /// Which value.
        what: &'static str,
        /// What it is.
        value: f64,
        /// What it may be.
        range: &'static str,
    },
}

/// Sites, and a [`Link`] for each ordered pair of them.
#[derive(Clone, Debug)]
pub struct Network {
    /// Name of the topology.
    pub name: String,
    /// Seed of the loss processes.
    pub seed: u64,
    /// Largest IP packet in bytes.
    pub mtu: u16,
    /// Whether the root namespace gets a way to each site.
    pub mgmt: bool,
    /// The sites, by [`SiteId`].
    pub sites: Vec<Site>,
    /// Events in order of time, those that take one back included.
    pub events: Vec<(Duration, Event)>,
    links: Vec<Link>,
    ids: BTreeMap<String, SiteId>,
}

impl Network {
    /// The site of that name.
    pub fn site(&self, name: &str) -> Result<SiteId, NetworkError> {
        self.ids
            .get(name)
            .copied()
            .ok_or_else(|| NetworkError::UnknownSite(name.into()))
    }

    /// All sites in order.
    pub fn site_ids(&self) -> impl Iterator<Item = SiteId> + use<> {
        (0..self.sites.len()).map(SiteId)
    }

    /// All ordered pairs of different sites, by sender.
    pub fn pairs(&self) -> impl Iterator<Item = (SiteId, SiteId)> + use<> {
        let count = self.sites.len();
        (0..count)
            .flat_map(move |from| (0..count).map(move |to| (SiteId(from), SiteId(to))))
            .filter(|(from, to)| from != to)
    }

    /// The direction from one site to another.
    pub fn link(&self, from: SiteId, to: SiteId) -> &Link {
        &self.links[from.0 * self.sites.len() + to.0]
    }

    /// Round-trip time of an empty network between two sites, without serialisation.
    pub fn rtt(&self, a: SiteId, b: SiteId) -> Duration {
        self.link(a, b).delay + self.link(b, a).delay
    }

    /// The lowest of the three rates on the way from one site to another.
    pub fn path_rate(&self, from: SiteId, to: SiteId) -> Option<Rate> {
        self.path_ports(from, to)
            .iter()
            .filter_map(|port| port.rate)
            .min()
    }

    /// How long a packet of `len` bytes is being sent on the way, by all three ports together.
    pub(super) fn serialisation(&self, from: SiteId, to: SiteId, len: usize) -> Duration {
        self.path_ports(from, to)
            .iter()
            .filter_map(|port| port.rate)
            .map(|rate| rate.time_for(len))
            .sum()
    }

    /// The three ports on the way from one site to another.
    pub(super) fn path_ports(&self, from: SiteId, to: SiteId) -> [PortConfig; 3] {
        [
            self.sites[from.0].up,
            self.link(from, to).port,
            self.sites[to.0].down,
        ]
    }

    /// The most that all sites together can send or receive; `None` when nothing limits it.
    pub fn traffic_max(&self) -> Option<Rate> {
        // Infinity stands for no limit.
        let bits = |rate: Option<Rate>| rate.map_or(f64::INFINITY, |r| r.as_bits_per_sec() as f64);
        let sum = |access: &dyn Fn(&Site) -> Option<Rate>,
                   pair: &dyn Fn(SiteId, SiteId) -> Option<Rate>| {
            self.site_ids()
                .map(|site| {
                    let pairs = self.site_ids().filter(|&other| other != site);
                    let pairs: f64 = pairs.map(|other| bits(pair(site, other))).sum();
                    pairs.min(bits(access(&self.sites[site.0])))
                })
                .sum::<f64>()
        };
        let sent = sum(&|site| site.up.rate, &|site, to| {
            self.link(site, to).port.rate
        });
        let received = sum(&|site| site.down.rate, &|site, from| {
            self.link(from, site).port.rate
        });
        let least = sent.min(received);
        if least.is_finite() {
            Rate::bits_per_sec(least as u64)
        } else {
            None
        }
    }

    /// Checks what serde cannot: that the sites exist and the numbers make sense.
    pub fn check_event(&self, event: &Event) -> Result<(), NetworkError> {
        let pair = |between: &[String; 2]| self.pair(between).map(drop);
        match event {
            Event::PairRate { between, factor } => {
                pair(between)?;
                check_range("factor", *factor, *factor > 0.0, "above 0")
            }
            Event::SiteRate { site, factor } => {
                self.site(site)?;
                check_range("factor", *factor, *factor > 0.0, "above 0")
            }
            Event::Rtt { between, .. } => pair(between),
            Event::Burst { from, to, .. } => pair(&[from.clone(), to.clone()]),
            Event::Loss {
                between,
                loss,
                burst,
            } => {
                between.as_ref().map_or(Ok(()), pair)?;
                check_loss(loss.unwrap_or_default(), *burst).map(drop)
            }
            Event::SiteDown { site } | Event::SiteUp { site } => self.site(site).map(drop),
            Event::Partition { groups } => self.partition(groups).map(drop),
            Event::Heal => Ok(()),
        }
    }

    /// The two sites of a pair.
    pub fn pair(&self, between: &[String; 2]) -> Result<(SiteId, SiteId), NetworkError> {
        resolve_pair(&self.ids, between)
    }

    /// The group number of each site; sites in no group have number 0.
    pub(super) fn partition(&self, groups: &[Vec<String>]) -> Result<Vec<usize>, NetworkError> {
        let mut group_of = vec![0; self.sites.len()];
        for (number, group) in (1..).zip(groups) {
            for name in group {
                let site = self.site(name)?;
                if std::mem::replace(&mut group_of[site.0], number) != 0 {
                    return Err(NetworkError::InTwoGroups(name.clone()));
                }
            }
        }
        Ok(group_of)
    }
}
