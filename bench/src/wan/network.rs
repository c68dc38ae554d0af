//! A network with every figure worked out: what the emulator runs.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::time::Duration;

use super::event::{Event, TimedEvent};
use super::topology::{LinkSpec, Matrix, SiteSpec, Topology};
use super::units::{QueueLimit, Rate};

/// Sites have the addresses 10.77.N.1 with N from 1 to this.
pub const SITES_MAX: usize = 190;

/// No queue is smaller than this many full packets: less cannot hold what a sender's kernel hands
/// over at once, and would emulate a fault rather than a link.
const QUEUE_PACKETS_MIN: u64 = 10;

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
            [10, 77, net, _] if (1..=SITES_MAX).contains(&usize::from(net)) => {
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
    pub(super) fn resolve(topology: &Topology) -> Result<Self, NetworkError> {
        check_range("scale", topology.scale, topology.scale > 0.0, "above 0")?;
        let mtu_ok = (576..=9000).contains(&topology.mtu);
        check_range("mtu", f64::from(topology.mtu), mtu_ok, "576 to 9000")?;

        let specs = expand_sites(&topology.sites)?;
        let mut ids = BTreeMap::new();
        for (index, spec) in specs.iter().enumerate() {
            check_name(&spec.name)?;
            if ids.insert(spec.name.clone(), SiteId(index)).is_some() {
                return Err(NetworkError::DuplicateSite(spec.name.clone()));
            }
        }

        let links = resolve_links(topology, &specs, &ids)?;
        let count = specs.len();
        let floor = QUEUE_PACKETS_MIN * u64::from(topology.mtu);
        let sites = specs
            .into_iter()
            .enumerate()
            .map(|(index, spec)| {
                let longest = (0..count)
                    .filter(|&other| other != index)
                    .map(|other| links[index * count + other].delay * 2)
                    .max()
                    .unwrap_or_default();
                let port = |rate| port(rate, topology.scale, spec.queue, longest, floor);
                Site {
                    up: port(spec.up),
                    down: port(spec.down),
                    name: spec.name,
                    zone: spec.zone,
                }
            })
            .collect();

        let mut network = Self {
            name: topology.name.clone(),
            seed: topology.seed,
            mtu: topology.mtu,
            mgmt: topology.mgmt,
            sites,
            events: Vec::new(),
            links,
            ids,
        };
        network.events = network.timeline(&topology.events)?;
        Ok(network)
    }

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

    fn timeline(&self, timed: &[TimedEvent]) -> Result<Vec<(Duration, Event)>, NetworkError> {
        let mut events = Vec::new();
        for TimedEvent { at, lasts, event } in timed {
            self.check_event(event)?;
            events.push((*at, event.clone()));
            if let (Some(lasts), Some(undo)) = (lasts, event.undo()) {
                events.push((*at + *lasts, undo));
            }
        }
        events.sort_by_key(|&(at, _)| at);
        Ok(events)
    }
}

fn expand_sites(specs: &[SiteSpec]) -> Result<Vec<SiteSpec>, NetworkError> {
    // Counted first: a count of 65,535 should not build anything.
    let total = specs
        .iter()
        .map(|spec| spec.count.map_or(1, usize::from))
        .sum();
    if !(2..=SITES_MAX).contains(&total) {
        return Err(NetworkError::SiteCount(total));
    }
    let mut expanded = Vec::with_capacity(total);
    for spec in specs {
        match spec.count {
            None => expanded.push(spec.clone()),
            Some(count) => expanded.extend((1..=count).map(|number| SiteSpec {
                name: format!("{}-{number}", spec.name),
                ..spec.clone()
            })),
        }
    }
    Ok(expanded)
}

fn check_name(name: &str) -> Result<(), NetworkError> {
    let fits = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    if (1..=32).contains(&name.len()) && name.chars().all(fits) {
        Ok(())
    } else {
        Err(NetworkError::SiteName(name.into()))
    }
}

fn check_range(
    what: &'static str,
    value: f64,
    fits: bool,
    range: &'static str,
) -> Result<(), NetworkError> {
    if fits && value.is_finite() {
        Ok(())
    } else {
        Err(NetworkError::Range { what, value, range })
    }
}

fn check_loss(share: f64, burst: Option<f64>) -> Result<Loss, NetworkError> {
    check_range("loss", share, (0.0..1.0).contains(&share), "0 to below 1")?;
    if let Some(burst) = burst {
        check_range("burst", burst, burst >= 1.0, "at least 1")?;
        // A run must end as often as one begins, which the good state cannot do above this.
        let fits = share <= burst / (burst + 1.0);
        check_range("loss", share, fits, "at most burst / (burst + 1)")?;
    }
    Ok(Loss { share, burst })
}

fn port(
    rate: Option<Rate>,
    scale: f64,
    queue: Option<QueueLimit>,
    rtt: Duration,
    floor: u64,
) -> PortConfig {
    let rate = rate.map(|rate| rate.scaled(scale));
    let limit = queue.unwrap_or(QueueLimit::Bdp(1.0));
    PortConfig {
        rate,
        queue_bytes: rate.map_or(0, |rate| limit.bytes(rate, rtt, floor)),
    }
}

fn resolve_pair(
    ids: &BTreeMap<String, SiteId>,
    between: &[String; 2],
) -> Result<(SiteId, SiteId), NetworkError> {
    let id = |name: &String| {
        ids.get(name)
            .copied()
            .ok_or_else(|| NetworkError::UnknownSite(name.clone()))
    };
    let [a, b] = between;
    match (id(a)?, id(b)?) {
        (a_id, b_id) if a_id == b_id => Err(NetworkError::SelfPair(a.clone())),
        pair => Ok(pair),
    }
}

/// The links by sender and receiver; those from a site to itself are there but unused.
fn resolve_links(
    topology: &Topology,
    sites: &[SiteSpec],
    ids: &BTreeMap<String, SiteId>,
) -> Result<Vec<Link>, NetworkError> {
    let mut overrides = BTreeMap::new();
    for pair in &topology.pairs {
        let (a, b) = resolve_pair(ids, &pair.between)?;
        overrides.insert((a.0.min(b.0), a.0.max(b.0)), &pair.link);
    }
    let matrix = topology.matrix.clone().unwrap_or_default();
    check_square("rtt-ms", matrix.rtt_ms.as_deref(), sites.len())?;
    check_square("rate-mbit", matrix.rate_mbit.as_deref(), sites.len())?;
    let floor = QUEUE_PACKETS_MIN * u64::from(topology.mtu);

    let mut links = Vec::with_capacity(sites.len() * sites.len());
    for (from, sender) in sites.iter().enumerate() {
        for (to, receiver) in sites.iter().enumerate() {
            let mut spec = topology.link.clone();
            if sender.zone.is_some() && sender.zone == receiver.zone {
                spec = topology.same_zone.or(&spec);
            }
            if from != to {
                spec = matrix_entry(&matrix, from, to)?.or(&spec);
            }
            if let Some(differs) = overrides.get(&(from.min(to), from.max(to))) {
                spec = differs.or(&spec);
            }
            let access = sender.delay.unwrap_or_default() + receiver.delay.unwrap_or_default();
            let delay = spec.rtt.unwrap_or_default() / 2 + access;
            links.push(Link {
                delay,
                port: port(spec.rate, topology.scale, spec.queue, delay * 2, floor),
                loss: check_loss(spec.loss.unwrap_or_default(), spec.burst)?,
            });
        }
    }
    Ok(links)
}

fn check_square(
    name: &'static str,
    rows: Option<&[Vec<f64>]>,
    count: usize,
) -> Result<(), NetworkError> {
    let square = |rows: &[Vec<f64>]| rows.len() == count && rows.iter().all(|r| r.len() == count);
    if rows.is_none_or(square) {
        Ok(())
    } else {
        Err(NetworkError::MatrixShape(name, count))
    }
}

fn matrix_entry(matrix: &Matrix, from: usize, to: usize) -> Result<LinkSpec, NetworkError> {
    let mut spec = LinkSpec::default();
    if let Some(rows) = &matrix.rtt_ms {
        let mean = (rows[from][to] + rows[to][from]) / 2.0;
        check_range(
            "rtt-ms",
            mean,
            (0.0..=1e6).contains(&mean),
            "0 to 1,000,000",
        )?;
        spec.rtt = Some(Duration::from_secs_f64(mean / 1000.0));
    }
    if let Some(rows) = &matrix.rate_mbit {
        let mbit = rows[from][to];
        check_range("rate-mbit", mbit, mbit > 0.0, "above 0")?;
        spec.rate = Rate::bits_per_sec((mbit * 1e6).round() as u64);
    }
    Ok(spec)
}

#[cfg(test)]
mod tests;
