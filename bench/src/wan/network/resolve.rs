//! From a [`Topology`] to a [`Network`].

use std::collections::BTreeMap;
use std::time::Duration;

use super::super::event::{Event, TimedEvent};
use super::super::topology::{LinkSpec, Matrix, SiteSpec, Topology};
use super::super::units::{QueueLimit, Rate};
use super::{
    Link, Loss, Network, NetworkError, PolicerConfig, PortConfig, SITES_MAX, Site, SiteId,
};

/// No queue is smaller than this many full packets: less cannot hold what a sender's kernel hands
/// over at once, and would emulate a fault rather than a link.
const QUEUE_PACKETS_MIN: u64 = 10;

impl Network {
    pub(in super::super) fn resolve(topology: &Topology) -> Result<Self, NetworkError> {
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

pub(super) fn check_range(
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

pub(super) fn check_loss(share: f64, burst: Option<f64>) -> Result<Loss, NetworkError> {
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

pub(super) fn resolve_pair(
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
            let policer = spec.policer.map(|policer| {
                let rate = policer.rate.scaled(topology.scale);
                // A smaller bucket would let no full packet pass.
                let bucket_bytes = policer.bucket.bytes(rate, delay * 2, topology.mtu.into());
                PolicerConfig { rate, bucket_bytes }
            });
            links.push(Link {
                policer,
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
        check_range("rate-mbit", mbit, mbit >= 1e-6, "at least 0.000001")?;
        spec.rate = Rate::bits_per_sec((mbit * 1e6).round() as u64);
    }
    Ok(spec)
}
