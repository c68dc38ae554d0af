//! One workload in virtual time.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::json;
use vitrail_sim::swarm::{Chunk, Network as Links, Path, Pulled, Report, Site, Swarm, Way};

use crate::report::VITRAIL;
use crate::scenario::bound::{Bound, PAYLOAD_SHARE, bound};
use crate::scenario::file::{Scenario, Workload};
use crate::scenario::log::{Case, LinkBytes, PullResult, Sample};
use crate::scenario::rates::Rates;
use crate::scenario::schedule::Plan;
use crate::wan::{Network, Rate, SiteId};

/// With more sites the limits of pairs do not count in the bound: finding the least of all maximum flows would take longer
/// than the simulation.
const FLOW_SITES_MAX: usize = 64;

/// Runs a workload. What cannot be simulated is in the case's `failure`.
pub(super) fn run(
    scenario: &Scenario,
    network: &Network,
    workload: &Workload,
    repetition: u32,
    images: &BTreeMap<String, Vec<Chunk>>,
) -> Case {
    let case = Case::new(&workload.name, VITRAIL, repetition);
    match simulate(scenario, network, workload, images, case.clone()) {
        Ok(case) => case,
        Err(error) => Case {
            failure: format!("{error:#}"),
            ..case
        },
    }
}

fn simulate(
    scenario: &Scenario,
    network: &Network,
    workload: &Workload,
    images: &BTreeMap<String, Vec<Chunk>>,
    case: Case,
) -> Result<Case> {
    ensure!(
        workload.events.is_empty(),
        "what changes in a network is not simulated"
    );
    let plan = Plan::new(scenario, workload, case.repetition);
    let links = links(network);
    let seed = scenario.seed ^ u64::from(case.repetition) << 32;
    let mut swarm = Swarm::new(links.clone(), seed);
    let mut numbers = BTreeMap::new();
    for name in plan.images.iter().chain(&plan.base) {
        let chunks = images.get(name).context("no such image")?;
        numbers.insert(name.as_str(), swarm.image(chunks));
    }
    let site = |name: &String| -> Result<usize> { Ok(network.site(name)?.0) };
    let sites = |names: &[String]| names.iter().map(site).collect::<Result<Vec<usize>>>();
    let (holders, receivers) = (sites(&plan.holders)?, sites(&plan.receivers)?);
    for image in &plan.images {
        for holder in &holders {
            swarm.hold(*holder, numbers[image.as_str()]);
        }
    }
    if let Some(base) = &plan.base {
        for receiver in &receivers {
            swarm.hold_quietly(*receiver, numbers[base.as_str()]);
        }
    }
    let way = if plan.together { Way::Hold } else { Way::Read };
    for pull in &plan.pulls {
        let image = numbers[pull.image.as_str()];
        swarm.pull(site(&pull.site)?, image, pull.at, way);
    }
    let timeout = workload.timeout();
    let last = plan.pulls.iter().map(|pull| pull.at).max();
    let report = swarm.run(last.unwrap_or_default() + timeout).clone();

    let packets = |bytes: u64| (bytes as f64 / PAYLOAD_SHARE) as u64;
    let received: u64 = receivers.iter().map(|to| report.received(*to)).sum();
    let pulls: Vec<PullResult> = report
        .pulls
        .iter()
        .zip(&plan.pulls)
        .map(|(pulled, pull)| result(pulled, &pull.site, &pull.image, timeout))
        .collect();
    let good = pulls.iter().all(|pull| pull.error.is_empty());
    // What has to come, each byte once: unlike a real receipt, a simulation can tell it from what came twice.
    let base = plan.base.as_deref().map(|base| numbers[base]);
    let copies = plan.pulls.iter().map(|pull| numbers[pull.image.as_str()]);
    let copies = copies.map(|image| swarm.copy_bytes(image, base) as f64);
    let payload = copies.sum::<f64>() / plan.pulls.len() as f64;
    let at_once = plan.images.len() == 1 && plan.pulls.iter().all(|pull| pull.at.is_zero());
    let least = if network.sites.len() <= FLOW_SITES_MAX {
        let rates = Rates::wanted(network);
        bound(&rates, &plan.holders, &plan.receivers, payload)
    } else {
        node_bound(&links, &holders, &receivers, payload)
    };
    let name = |site: usize| network.sites[site].name.clone();
    let link = |(&(from, to), &bytes): (&(usize, usize), &u64)| LinkBytes {
        from: name(from),
        to: name(to),
        bytes: packets(bytes),
    };
    let sample = |(at, rx): &(Duration, Vec<u64>)| Sample {
        at: at.as_secs_f64(),
        rx: rx.iter().map(|bytes| packets(*bytes)).collect(),
    };
    Ok(Case {
        seconds: report.time.as_secs_f64(),
        pulls,
        bound: least.filter(|_| at_once && good),
        received_bytes: packets(received),
        wan_bytes: packets(report.links.values().sum()),
        payload_bytes: good.then_some(payload),
        links: report.links.iter().map(link).collect(),
        samples: report.samples.iter().map(sample).collect(),
        facts: facts(&report, &holders, payload),
        ..case
    })
}

/// What only a simulation knows.
fn facts(report: &Report, holders: &[usize], payload: f64) -> serde_json::Value {
    let sent: u64 = holders.iter().map(|holder| report.sent(*holder)).sum();
    json!({
        "holders_sent_copies": sent as f64 / payload,
        "missing_bytes": report.missing_bytes,
        "arrived_bytes": report.arrived_bytes,
        "taken_back_bytes": report.excused_bytes,
    })
}

fn result(pulled: &Pulled, site: &str, image: &str, timeout: Duration) -> PullResult {
    let error = match pulled.time {
        Some(time) if time <= timeout => "",
        Some(_) => "it took too long",
        None => "it found no holder, or did not end in time",
    };
    PullResult {
        at: pulled.at.as_secs_f64(),
        site: site.to_owned(),
        image: image.to_owned(),
        seconds: pulled.time.unwrap_or(timeout).as_secs_f64(),
        error: error.to_owned(),
    }
}

/// The network as payload sees it. Losses, queues and policers are left out.
fn links(network: &Network) -> Links {
    let payload = |rate: Option<Rate>| {
        let bytes = |rate: Rate| rate.as_bits_per_sec() as f64 / 8.0 * PAYLOAD_SHARE;
        rate.map_or(f64::INFINITY, bytes)
    };
    let mut zones = BTreeMap::new();
    for zone in network.sites.iter().filter_map(|site| site.zone.as_ref()) {
        let next = zones.len();
        zones.entry(zone).or_insert(next);
    }
    let site = |site: &crate::wan::Site| Site {
        up: payload(site.up.rate),
        down: payload(site.down.rate),
        zone: site.zone.as_ref().map(|zone| zones[zone]),
    };
    Links::new(network.sites.iter().map(site).collect(), |from, to| {
        let link = network.link(SiteId(from), SiteId(to));
        Path {
            delay: link.delay,
            rate: payload(link.port.rate),
        }
    })
}

/// The bound by the limits of sites alone.
fn node_bound(
    links: &Links,
    holders: &[usize],
    receivers: &[usize],
    payload: f64,
) -> Option<Bound> {
    let rate = links.rate_most(holders, receivers);
    let nearest = |to: &usize| holders.iter().map(|holder| links.rtt(*holder, *to)).min();
    let latency = receivers.iter().filter_map(nearest).max()? * 3 / 2;
    Some(Bound {
        seconds: payload / rate + latency.as_secs_f64(),
        payload_bytes: payload,
        bits_per_second: rate * 8.0 / PAYLOAD_SHARE,
    })
    .filter(|_| rate.is_finite() && rate > 0.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scenario::log::samples::run as a_run;

    /// An origin and three sites, of which a preseed and a storm are simulated.
    const FILE: &str = r#"
name = "small"
topology = { name = "net", link = { rtt = "50ms" }, sites = [
    { name = "origin", up = "40Mbit/s", down = "40Mbit/s" },
    { name = "edge", count = 3, up = "40Mbit/s", down = "40Mbit/s" },
] }
[images]
layer = { from = "bookworm-base", len = "8MiB", count = 4 }
[[workloads]]
name = "preseed"
work = { kind = "preseed", image = "layer-2", base = "layer-1", holders = ["origin"] }
[[workloads]]
name = "storm"
work = { kind = "storm", images = "layer", holders = ["origin"], pulls = 20, per-second = 1.0 }
[[workloads]]
name = "halved"
work = { kind = "preseed", image = "layer-1", holders = ["origin"] }
events = [{ at = "1s", event = { kind = "site-rate", site = "origin", factor = 0.5 } }]
"#;

    /// Images of 16 MiB whose first half is the same in all, and which travel as they are.
    fn images() -> BTreeMap<String, Vec<Chunk>> {
        let image = |number: u64| {
            let chunk = |index: u64| Chunk {
                name: if index < 128 {
                    index
                } else {
                    number << 16 | index
                },
                len: 64 << 10,
                wire: 64 << 10,
            };
            (format!("layer-{number}"), (0..256).map(chunk).collect())
        };
        (1..=4).map(image).collect()
    }

    #[test]
    fn a_workload_becomes_a_case_with_a_bound() {
        let run_of = |text: &str| {
            let scenario = Scenario::of_run(&a_run(text)).unwrap();
            let network = scenario.topology.resolve().unwrap();
            let case = |index: usize| {
                let workload = &scenario.workloads[index];
                run(&scenario, &network, workload, 0, &images())
            };
            [case(0), case(1), case(2)]
        };
        let [preseed, storm, halved] = run_of(FILE);
        assert!(preseed.is_good(), "{preseed:?}");
        // Each gets the half that it lacks; what is taken back near the end may come twice.
        let half = 3.0 * f64::from(8 << 20) / PAYLOAD_SHARE;
        let copies = preseed.received_bytes as f64 / half;
        assert!((1.0..1.1).contains(&copies), "{copies}");
        let bound = preseed.bound.unwrap().seconds;
        assert!(preseed.seconds >= bound, "{bound}: {preseed:?}");
        // From the origin alone it takes three times the bound.
        assert!(preseed.seconds < 3.5 * bound, "{bound}: {preseed:?}");
        assert_eq!(preseed.samples[0].rx.len(), 4);

        assert!(storm.is_good(), "{storm:?}");
        assert_eq!(storm.pulls.len(), 20);
        assert!(storm.bound.is_none());
        // Nobody pulls what is there: at most all of four images for each site, the common half once.
        let most = (3.0 * (8.0 + 4.0 * 8.0) * f64::from(1 << 20) / PAYLOAD_SHARE) as u64;
        assert!(storm.received_bytes < most * 11 / 10, "{storm:?}");

        assert!(halved.failure.contains("not simulated"), "{halved:?}");
    }
}
