//! Flows that share a link: two of ours, ours beside TCP's, and background beside TCP's.

use std::thread;
use std::time::Duration;

use anyhow::Result;
use vitrail_proto::congestion::Class;

use super::Options;
use super::finding::{Findings, Goal, Key};
use super::flow::{Flow, OURS, Sender, Track};
use super::lab::WideLab;
use super::paths::mbit;
use super::tcp::TcpFlow;
use crate::wan::{LinkSpec, PairSpec, SiteSpec, Topology};

const RATE_MBIT: u64 = 100;

/// Start-up is left out.
const SETTLED: Duration = Duration::from_secs(5);

/// Two senders, `left` and `right`, share the downlink of a receiver, with a queue of one bandwidth
/// × (the longer) round trip.
fn shared_link(left_ms: u64, right_ms: u64) -> Result<Topology> {
    let mut topology = Topology::uniform(2, LinkSpec::default());
    let site = |name: &str| SiteSpec {
        name: name.to_owned(),
        ..SiteSpec::default()
    };
    topology.sites = vec![
        site("left"),
        site("right"),
        SiteSpec {
            down: Some(mbit(RATE_MBIT)?),
            ..site("receiver")
        },
    ];
    for (sender, rtt_ms) in [("left", left_ms), ("right", right_ms)] {
        topology.pairs.push(PairSpec {
            between: [sender.to_owned(), "receiver".to_owned()],
            link: LinkSpec {
                rtt: Some(Duration::from_millis(rtt_ms)),
                ..LinkSpec::default()
            },
        });
    }
    Ok(topology)
}

/// Jain's index of fairness: 1 when all are equal, 1/n when one has all.
fn jain(shares: &[f64]) -> f64 {
    let sum: f64 = shares.iter().sum();
    let squares: f64 = shares.iter().map(|share| share * share).sum();
    sum * sum / (shares.len() as f64 * squares)
}

/// Share of the link that a flow had between two times.
fn share(track: &Track, from: Duration, to: Duration) -> f64 {
    track.rate(from, to) / (RATE_MBIT * 1_000_000) as f64
}

fn key(case: &str, subject: &str, measure: &'static str) -> Key {
    Key {
        part: "company",
        case: case.to_owned(),
        subject: subject.to_owned(),
        measure,
    }
}

/// Part `company`.
pub(super) fn run(options: &Options, findings: &mut Findings) -> Result<()> {
    for _ in 0..options.repetitions() {
        for (case, left_ms, right_ms, least) in [
            ("two of ours, 100 ms", 100, 100, 0.95),
            ("two of ours, 20 and 100 ms", 20, 100, 0.85),
        ] {
            if options.wants(case) {
                ours(
                    case,
                    &shared_link(left_ms, right_ms)?,
                    least,
                    options,
                    findings,
                )?;
            }
        }
        for controller in ["cubic", "bbr"] {
            let case = format!("beside TCP {controller}");
            if options.wants(&case) {
                beside_tcp(&case, controller, options, findings)?;
            }
        }
        for (case, background_first) in [
            ("background joins TCP cubic", false),
            ("TCP cubic joins background", true),
        ] {
            if options.wants(case) {
                background(case, background_first, options, findings)?;
            }
        }
    }
    Ok(())
}

fn ours(
    case: &str,
    topology: &Topology,
    least: f64,
    options: &Options,
    findings: &mut Findings,
) -> Result<()> {
    let lab = WideLab::start(topology)?;
    let receiver = lab.host("receiver")?;
    let senders = [lab.host("left")?, lab.host("right")?];
    let flows = [
        Flow::start(&lab.lab, &senders[0], &receiver, OURS)?,
        Flow::start(&lab.lab, &senders[1], &receiver, OURS)?,
    ];
    let from = lab.now() + SETTLED;
    thread::sleep(SETTLED + options.time(30));
    let to = lab.now();
    let tracks = [flows[0].track()?, flows[1].track()?];
    lab.counters()?;
    let shares = [0, 1].map(|index: usize| share(&tracks[index], from, to));
    let both = shares[0] + shares[1];
    findings.add(
        key(case, "vitrail", "Jain's index"),
        Goal::AtLeast(least),
        jain(&shares),
    )?;
    findings.add(key(case, "vitrail", "goodput of both"), Goal::None, both)?;
    let [left, right] = tracks;
    findings.draw(case, &[("left".into(), left), ("right".into(), right)])
}

fn beside_tcp(
    case: &str,
    controller: &str,
    options: &Options,
    findings: &mut Findings,
) -> Result<()> {
    let lab = WideLab::start(&shared_link(100, 100)?)?;
    let (receiver, sender) = (lab.host("receiver")?, lab.host("left")?);
    let tcp = match TcpFlow::start(&lab, "right", "receiver", controller) {
        Ok(flow) => flow,
        Err(error) => return findings.missing(case, &error),
    };
    let flow = Flow::start(&lab.lab, &sender, &receiver, OURS)?;
    let from = lab.now() + SETTLED;
    thread::sleep(SETTLED + options.time(30));
    let to = lab.now();
    let (own, other) = (flow.track()?, tcp.track());
    lab.counters()?;
    let fair = Goal::Between(0.30, 0.70);
    let name = format!("tcp {controller}");
    let share_of = "share of the link";
    findings.add(key(case, "vitrail", share_of), fair, share(&own, from, to))?;
    findings.add(key(case, &name, share_of), fair, share(&other, from, to))?;
    findings.add(
        key(case, "vitrail", "share sent twice"),
        Goal::None,
        own.sent_twice(from, to),
    )?;
    findings.draw(case, &[("vitrail".into(), own), (name, other)])
}

/// Whoever comes second comes after 5 s; TCP leaves after its time.
fn background(
    case: &str,
    background_first: bool,
    options: &Options,
    findings: &mut Findings,
) -> Result<()> {
    const RECOVERY: Duration = Duration::from_secs(3);
    const AFTER: Duration = Duration::from_secs(4);
    let sender = Sender::Vitrail(Class::Background);
    let lab = WideLab::start(&shared_link(100, 100)?)?;
    let (receiver, host) = (lab.host("receiver")?, lab.host("left")?);
    let start_flow = || Flow::start(&lab.lab, &host, &receiver, sender);
    let start_tcp = || TcpFlow::start(&lab, "right", "receiver", "cubic");
    let (flow, tcp);
    if background_first {
        flow = start_flow()?;
        thread::sleep(SETTLED);
        tcp = start_tcp()?;
    } else {
        tcp = start_tcp()?;
        thread::sleep(SETTLED);
        flow = start_flow()?;
    }
    let from = lab.now();
    thread::sleep(options.time(20));
    let left = lab.now();
    let other = tcp.track();
    drop(tcp);
    thread::sleep(RECOVERY + AFTER);
    let end = lab.now();
    let own = flow.track()?;
    lab.counters()?;
    findings.add(
        key(case, sender.name(), "share while it runs"),
        Goal::AtMost(0.15),
        share(&own, from, left),
    )?;
    findings.add(
        key(case, "tcp cubic", "share meanwhile"),
        Goal::None,
        share(&other, from, left),
    )?;
    findings.add(
        key(case, sender.name(), "share from 3 s after"),
        Goal::AtLeast(0.90),
        share(&own, left + RECOVERY, end),
    )?;
    findings.draw(
        case,
        &[(sender.name().into(), own), ("tcp cubic".into(), other)],
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn jains_index_is_that_of_the_definition() {
        assert_eq!(jain(&[1.0, 1.0]), 1.0);
        assert_eq!(jain(&[1.0, 0.0]), 0.5);
        assert!((jain(&[3.0, 1.0]) - 0.8).abs() < 1e-12);
    }
}
