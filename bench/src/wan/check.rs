//! Measures a topology through the running emulator and compares with what was asked for.

use std::time::Duration;

use serde::Serialize;

use super::emulator::{Emulator, Error};
use super::network::{Network, SiteId};
use super::probe::{self, ECHO_PACKET, Flow, Received};
use super::topology::Topology;
use super::units::Rate;

/// How far a round-trip time or a rate may be off.
pub const TOLERANCE: f64 = 0.05;

/// A round-trip time may be off by this much whatever it is: the kernel's own way through two
/// stacks and back, and the wake-up of the prober.
const RTT_FLOOR: Duration = Duration::from_micros(300);

/// A share of losses may be off by this many standard deviations of its sample. With some hundred
/// pairs, a correct emulator fails by chance less than once in a hundred checks.
const LOSS_SIGMAS: f64 = 4.0;

/// A scenario may use this part of what the emulator moves unshaped.
pub const LOAD_MAX: f64 = 0.25;

/// Echoes per ordered pair.
const ECHOES: u32 = 25;

/// What a rate probe sends, as a multiple of the rate that it measures.
const OVERLOAD: f64 = 1.5;

/// Share of a rate that a probe may use without filling its queue.
const UNDERLOAD: f64 = 0.9;

/// Packets per second that one loss probe sends at most; all probe threads share the processors.
const LOSS_PROBE_RATE_MAX: f64 = 4_000.0;

/// Packet lengths of the probes: a rate probe needs some hundred packets even on a slow link.
const PACKET_MIN: usize = 100;
const PACKET_MAX: usize = 1_500;
const RATE_PROBE_PACKETS: f64 = 200.0;

/// One comparison.
#[derive(Clone, Debug, Serialize)]
pub struct Finding {
    /// Of what: `a -> b`, `a <-> b`, `a -> all`, `all -> a`.
    pub subject: String,
    /// In the unit of its [`Section`].
    pub wanted: f64,
    /// Likewise; `None` when nothing came.
    pub measured: Option<f64>,
    /// How far apart they may be.
    pub allowed: f64,
}

impl Finding {
    /// Whether the measured value is close enough.
    pub fn is_ok(&self) -> bool {
        self.measured
            .is_some_and(|measured| (measured - self.wanted).abs() <= self.allowed)
    }

    /// Difference over what was wanted; infinite when nothing came.
    pub fn off(&self) -> f64 {
        match self.measured {
            Some(measured) if measured == self.wanted => 0.0,
            Some(measured) => measured / self.wanted - 1.0,
            None => f64::INFINITY,
        }
    }
}

/// All comparisons of one kind.
#[derive(Clone, Debug, Serialize)]
pub struct Section {
    /// `rtt`, `rate` or `loss`.
    pub kind: &'static str,
    /// `ms`, `Mbit/s` or `%`.
    pub unit: &'static str,
    /// Each of them.
    pub findings: Vec<Finding>,
}

/// What a self-check found.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// The topology.
    pub name: String,
    /// Round-trip times, rates, losses.
    pub sections: Vec<Section>,
    /// Unlimited throughput between two sites, IP bytes of both directions.
    pub ceiling: Rate,
    /// The most that the scenario can carry at once; `None` when nothing limits it.
    pub demand: Option<Rate>,
    /// Whether the thread that moves packets has a real-time priority.
    pub realtime: bool,
    /// Lateness of the emulator during the check.
    pub lateness: super::Lateness,
    /// Packets that were not accounted for, or that the kernel refused; 0 when all is well.
    pub astray: u64,
}

impl Report {
    /// What is wrong, in words; empty when nothing is.
    pub fn faults(&self) -> Vec<String> {
        let mut faults = Vec::new();
        for section in &self.sections {
            for finding in section.findings.iter().filter(|finding| !finding.is_ok()) {
                let measured = finding
                    .measured
                    .map_or("nothing".into(), |value| format!("{value:.3}"));
                faults.push(format!(
                    "{} {}: measured {measured}, wanted {:.3} ± {:.3} {}",
                    section.kind, finding.subject, finding.wanted, finding.allowed, section.unit
                ));
            }
        }
        if self.astray > 0 {
            faults.push(format!("{} packets went astray", self.astray));
        }
        let limit = self.ceiling.scaled(LOAD_MAX);
        match self.demand {
            None => faults.push("nothing limits the traffic: say what the scenario needs".into()),
            Some(demand) if demand > limit => faults.push(format!(
                "the traffic may reach {}, above a quarter of the emulator's {}",
                mbit(demand),
                mbit(self.ceiling)
            )),
            Some(_) => {}
        }
        faults
    }
}

/// A rate for people, in Mbit/s.
pub fn mbit(rate: Rate) -> String {
    format!("{:.0} Mbit/s", rate.as_bits_per_sec() as f64 / 1e6)
}

/// Starts the topology, measures it and removes it. `demand` is what the scenario will carry at
/// most; the most that the topology can carry when absent. Each probe of rate and loss lasts
/// `probe_time`, and there are about 2 to 4 per site.
pub fn check(
    topology: &Topology,
    demand: Option<Rate>,
    probe_time: Duration,
    mut progress: impl FnMut(&str),
) -> Result<Report, Error> {
    progress("ceiling");
    let ceiling = probe::ceiling(Duration::from_secs(3))?;
    let emulator = Emulator::start(topology)?;
    let network = emulator.network();

    progress("round-trip times");
    let rtt = check_rtts(&emulator)?;
    let rate = check_rates(&emulator, probe_time, &mut progress)?;
    let (loss, astray) = check_losses(&emulator, probe_time, &mut progress)?;
    let demand = demand.or_else(|| network.traffic_max());
    let (name, realtime) = (network.name.clone(), emulator.is_realtime());
    let counters = emulator.stop()?;
    Ok(Report {
        name,
        sections: vec![rtt, rate, loss],
        ceiling,
        demand,
        realtime,
        lateness: counters.lateness,
        astray: astray + counters.refused.packets + counters.overflow.packets,
    })
}

fn check_rtts(emulator: &Emulator) -> Result<Section, Error> {
    let network = emulator.network();
    let measured = probe::round_trips(emulator, ECHOES)?;
    let findings = network.pairs().filter(|(a, b)| a < b).map(|(a, b)| {
        let wanted = network.rtt(a, b)
            + network.serialisation(a, b, ECHO_PACKET)
            + network.serialisation(b, a, ECHO_PACKET);
        // Both ends measured it; the shorter median is nearer to the path.
        let measured = measured[a.0][b.0]
            .into_iter()
            .chain(measured[b.0][a.0])
            .min();
        let allowed = wanted.mul_f64(TOLERANCE).max(RTT_FLOOR);
        let ms = |time: Duration| time.as_secs_f64() * 1e3;
        Finding {
            subject: format!("{} <-> {}", name(network, a), name(network, b)),
            wanted: ms(wanted),
            measured: measured.map(ms),
            allowed: ms(allowed),
        }
    });
    Ok(Section {
        kind: "rtt",
        unit: "ms",
        findings: findings.collect(),
    })
}

fn check_rates(
    emulator: &Emulator,
    probe_time: Duration,
    progress: &mut impl FnMut(&str),
) -> Result<Section, Error> {
    let network = emulator.network();
    let mut findings = Vec::new();
    let rounds = rounds(network);
    for (number, round) in (1..).zip(&rounds) {
        progress(&format!(
            "rates of pairs, round {number} of {}",
            rounds.len()
        ));
        let limited = round.iter().filter_map(|&(from, to)| {
            let rate = network.path_rate(from, to)?;
            Some((rate, rate_flow(from, to, rate.scaled(OVERLOAD), probe_time)))
        });
        let (rates, flows): (Vec<_>, Vec<_>) = limited.unzip();
        let results = run_flows(emulator, &flows, probe_time)?;
        for ((rate, flow), result) in rates.iter().zip(&flows).zip(&results) {
            let subject = format!("{} -> {}", name(network, flow.from), name(network, flow.to));
            let share = 1.0 - network.link(flow.from, flow.to).loss.share;
            findings.push(rate_finding(
                subject,
                rate.scaled(share),
                [(flow, result)].into_iter(),
            ));
        }
    }
    for site in network.site_ids() {
        progress(&format!("rates of {}'s access link", name(network, site)));
        let others = || network.site_ids().filter(move |&other| other != site);
        let (up, down) = (
            network.sites[site.0].up.rate,
            network.sites[site.0].down.rate,
        );
        let up_flows = others().map(|other| (site, other)).collect();
        let down_flows = others().map(|other| (other, site)).collect();
        for (cap, pairs, subject) in [
            (up, up_flows, format!("{} -> all", name(network, site))),
            (down, down_flows, format!("all -> {}", name(network, site))),
        ] {
            let flows = cap.map(|cap| fan_flows(network, cap, pairs, probe_time));
            let (Some(cap), Some(flows)) = (cap, flows.flatten()) else {
                continue;
            };
            let results = run_flows(emulator, &flows, probe_time)?;
            findings.push(rate_finding(subject, cap, flows.iter().zip(&results)));
        }
    }
    Ok(Section {
        kind: "rate",
        unit: "Mbit/s",
        findings,
    })
}

/// Flows that together overload an access link of rate `cap` and nothing else; `None` when the
/// paths through it are too slow for that, or when one of them alone has measured it.
fn fan_flows(
    network: &Network,
    cap: Rate,
    pairs: Vec<(SiteId, SiteId)>,
    probe_time: Duration,
) -> Option<Vec<Flow>> {
    let paths: Vec<_> = pairs
        .into_iter()
        .filter_map(|(from, to)| Some((from, to, network.path_rate(from, to)?)))
        .collect();
    if paths.iter().any(|&(_, _, rate)| rate >= cap) {
        return None;
    }
    let bits = |rate: Rate| rate.as_bits_per_sec() as f64;
    let sum: f64 = paths.iter().map(|&(.., rate)| bits(rate)).sum();
    let share = bits(cap) * OVERLOAD / sum;
    let flow = |(from, to, rate): (SiteId, SiteId, Rate)| {
        rate_flow(from, to, rate.scaled(share), probe_time)
    };
    (share <= UNDERLOAD).then(|| paths.into_iter().map(flow).collect())
}

fn rate_flow(from: SiteId, to: SiteId, rate: Rate, probe_time: Duration) -> Flow {
    let len = rate.bytes_in(probe_time) as f64 / RATE_PROBE_PACKETS;
    Flow {
        from,
        to,
        rate,
        packet_len: (len as usize).clamp(PACKET_MIN, PACKET_MAX),
    }
}

/// What came while all flows did: from the last one's first packet to the first one's last.
fn rate_finding<'a>(
    subject: String,
    wanted: Rate,
    results: impl Iterator<Item = (&'a Flow, &'a Received)> + Clone,
) -> Finding {
    let wanted = wanted.as_bits_per_sec() as f64 / 1e6;
    let first = results
        .clone()
        .map(|(_, received)| received.arrivals.first())
        .max()
        .flatten();
    let last = results
        .clone()
        .map(|(_, received)| received.arrivals.last())
        .min()
        .flatten();
    let measured = first
        .zip(last)
        .filter(|(first, last)| first < last)
        .map(|(first, last)| {
            // The packet that opens the span came in no time.
            let inside = |at: &&Duration| first < *at && *at <= last;
            let bits: usize = results
                .map(|(flow, received)| {
                    received.arrivals.iter().filter(inside).count() * flow.packet_len * 8
                })
                .sum();
            bits as f64 / 1e6 / (*last - *first).as_secs_f64()
        });
    Finding {
        subject,
        wanted,
        measured,
        allowed: wanted * TOLERANCE,
    }
}

/// The second value is how many packets neither came nor were lost on purpose.
fn check_losses(
    emulator: &Emulator,
    probe_time: Duration,
    progress: &mut impl FnMut(&str),
) -> Result<(Section, u64), Error> {
    let network = emulator.network();
    let (mut findings, mut astray) = (Vec::new(), 0);
    let (mut sent_all, mut lost_all, mut wanted_all, mut variance_all) = (0, 0, 0.0, 0.0);
    let rounds = rounds(network);
    for (number, round) in (1..).zip(&rounds) {
        progress(&format!("losses, round {number} of {}", rounds.len()));
        let flows: Vec<_> = round
            .iter()
            .map(|&(from, to)| {
                let fast = LOSS_PROBE_RATE_MAX * PACKET_MIN as f64 * 8.0;
                let free = network
                    .path_rate(from, to)
                    .map(|rate| rate.scaled(UNDERLOAD));
                let rate = Rate::bits_per_sec(fast as u64)
                    .into_iter()
                    .chain(free)
                    .min();
                Flow {
                    from,
                    to,
                    rate: rate.expect("not zero"),
                    packet_len: PACKET_MIN,
                }
            })
            .collect();
        let before = emulator.counters()?;
        let results = run_flows(emulator, &flows, probe_time)?;
        let after = emulator.counters()?;
        for (flow, result) in flows.iter().zip(&results) {
            let (from, to) = (name(network, flow.from), name(network, flow.to));
            let lost_in = |counters: &super::Counters| {
                counters
                    .pair(from, to)
                    .map_or(0, |count| count.lost.packets)
            };
            let lost = result.sent - result.arrivals.len() as u64;
            astray += lost.abs_diff(lost_in(&after) - lost_in(&before));

            let loss = network.link(flow.from, flow.to).loss;
            let sent = result.sent as f64;
            let variance = sent * loss.variance();
            sent_all += result.sent;
            lost_all += lost;
            wanted_all += sent * loss.share;
            variance_all += variance;
            findings.push(Finding {
                subject: format!("{from} -> {to}"),
                wanted: loss.share * 100.0,
                measured: Some(lost as f64 / sent * 100.0),
                allowed: (loss.share * TOLERANCE).max(LOSS_SIGMAS * variance.sqrt() / sent) * 100.0,
            });
        }
    }
    let sent = sent_all as f64;
    let wanted = wanted_all / sent;
    findings.push(Finding {
        subject: format!("all {sent_all} packets"),
        wanted: wanted * 100.0,
        measured: Some(lost_all as f64 / sent * 100.0),
        allowed: (wanted * TOLERANCE).max(LOSS_SIGMAS * variance_all.sqrt() / sent) * 100.0,
    });
    Ok((
        Section {
            kind: "loss",
            unit: "%",
            findings,
        },
        astray,
    ))
}

/// Runs flows, waiting afterwards for whatever their overload left in a queue.
fn run_flows(
    emulator: &Emulator,
    flows: &[Flow],
    probe_time: Duration,
) -> Result<Vec<Received>, Error> {
    let network = emulator.network();
    let drain = |flow: &Flow| {
        let ports = network.path_ports(flow.from, flow.to);
        let queues: Duration = ports.iter().map(|port| port.drain_time()).sum();
        queues + network.link(flow.from, flow.to).delay
    };
    let patience = flows.iter().map(drain).max().unwrap_or_default();
    probe::run_flows(
        emulator,
        flows,
        probe_time,
        patience + Duration::from_millis(100),
    )
}

/// All ordered pairs, in rounds in which each site sends to one other and receives from one.
fn rounds(network: &Network) -> Vec<Vec<(SiteId, SiteId)>> {
    let count = network.sites.len();
    let round = |step| {
        (0..count)
            .map(move |from| (SiteId(from), SiteId((from + step) % count)))
            .collect()
    };
    (1..count).map(round).collect()
}

fn name(network: &Network, site: SiteId) -> &str {
    &network.sites[site.0].name
}

#[cfg(test)]
mod tests;
