//! One flow on one path: what it moves, what it sends twice, what it does to the queue.

use std::thread;
use std::time::Duration;

use anyhow::{Context, Result};

use super::Options;
use super::finding::{Findings, Goal, Key};
use super::flow::{Flow, OURS, Sender, Track};
use super::lab::WideLab;
use super::tcp::TcpFlow;
use crate::wan::theory::iperf;
use crate::wan::{Event, LinkSpec, PairSpec, PolicerSpec, QueueLimit, Rate, Topology};

/// The path of most cases.
const RATE_MBIT: u64 = 100;
const RTT: Duration = Duration::from_millis(100);

/// Start-up is over after this.
const SETTLED: Duration = Duration::from_secs(5);

const SECOND: Duration = Duration::from_secs(1);

pub(super) fn mbit(rate: u64) -> Result<Rate> {
    Rate::bits_per_sec(rate * 1_000_000).context("a rate of zero")
}

fn link(rate: u64, rtt: Duration, loss: f64) -> Result<LinkSpec> {
    Ok(LinkSpec {
        rate: Some(mbit(rate)?),
        rtt: Some(rtt),
        loss: Some(loss),
        ..LinkSpec::default()
    })
}

fn pair(index: usize) -> [String; 2] {
    [
        format!("site-{}", 2 * index + 1),
        format!("site-{}", 2 * index + 2),
    ]
}

/// One flow on each of these paths, all at once; `events` happen on the first. What was seen of
/// each, with times that count from the start of the flows.
fn run(
    links: &[LinkSpec],
    sender: Sender,
    time: Duration,
    events: &[(Duration, Event)],
) -> Result<Vec<Track>> {
    let mut topology = Topology::uniform(2 * links.len() as u16, LinkSpec::default());
    for (index, link) in links.iter().enumerate() {
        topology.pairs.push(PairSpec {
            between: pair(index),
            link: link.clone(),
        });
    }
    let lab = WideLab::start(&topology)?;
    let mut hosts = Vec::new();
    for index in 0..links.len() {
        let [from, to] = pair(index);
        hosts.push((lab.host(&from)?, lab.host(&to)?));
    }
    let mut events = events.iter().peekable();
    while let Some((_, event)) = events.next_if(|(at, _)| at.is_zero()) {
        lab.emulator.apply(event.clone())?;
    }
    let start = lab.now();
    let flows = hosts
        .iter()
        .map(|(from, to)| Flow::start(&lab.lab, from, to, sender))
        .collect::<Result<Vec<_>>>()?;
    for (at, event) in events {
        thread::sleep((start + *at).saturating_sub(lab.now()));
        lab.emulator.apply(event.clone())?;
    }
    thread::sleep((start + time).saturating_sub(lab.now()));
    let tracks = flows.iter().map(Flow::track).collect::<Result<Vec<_>>>()?;
    lab.counters()?;
    let shift = start.as_secs_f64();
    Ok(tracks
        .into_iter()
        .map(|mut track| {
            track.0.iter_mut().for_each(|sample| sample.at -= shift);
            track
        })
        .collect())
}

fn run_one(link: LinkSpec, sender: Sender, time: Duration) -> Result<Track> {
    let mut tracks = run(&[link], sender, time, &[])?;
    tracks.pop().context("no flow")
}

fn key(part: &'static str, case: &str, sender: &str, measure: &'static str) -> Key {
    Key {
        part,
        case: case.to_owned(),
        subject: sender.to_owned(),
        measure,
    }
}

/// Part `loss`.
pub(super) fn loss(options: &Options, findings: &mut Findings) -> Result<()> {
    let time = SETTLED + options.time(10);
    for (loss, least) in [(0.0, 0.92), (0.001, 0.92), (0.01, 0.92), (0.03, 0.85)] {
        let case = format!("loss {} %", loss * 100.0);
        if !options.wants(&case) {
            continue;
        }
        let mut curves = Vec::new();
        for sender in [OURS, Sender::QuinnCubic, Sender::QuinnBbr] {
            let (ours, runs) = match sender {
                Sender::Vitrail(_) => (true, options.repetitions()),
                _ => (false, options.peer_repetitions),
            };
            for _ in 0..runs {
                let track = run_one(link(RATE_MBIT, RTT, loss)?, sender, time)?;
                let goal = |goal| if ours { goal } else { Goal::None };
                let goodput = track.rate(SETTLED, time) / (RATE_MBIT * 1_000_000) as f64;
                let twice = track.sent_twice(Duration::ZERO, time);
                let name = sender.name();
                findings.add(
                    key("loss", &case, name, "goodput after 5 s"),
                    goal(Goal::AtLeast(least)),
                    goodput,
                )?;
                findings.add(
                    key("loss", &case, name, "share sent twice"),
                    goal(Goal::AtMost(loss + 0.015)),
                    twice,
                )?;
                curves.push((name.to_owned(), track));
            }
        }
        findings.draw(&case, &curves)?;
        for controller in ["cubic", "bbr"] {
            for _ in 0..options.peer_repetitions {
                tcp(controller, loss, &case, options, findings)?;
            }
        }
    }
    Ok(())
}

/// What headers of IP, UDP and QUIC leave of a link for payload: 1,418 of 1,480 bytes.
const PAYLOAD_SHARE: f64 = 0.958;

/// Part `theory`.
pub(super) fn theory(options: &Options, findings: &mut Findings) -> Result<()> {
    let rtt = Duration::from_millis(50);
    let time = SETTLED + options.time(30);
    for loss in [0.0, 0.001, 0.01] {
        let case = format!("{RATE_MBIT} Mbit/s, 50 ms, loss {} %", loss * 100.0);
        for _ in 0..options.repetitions() {
            let track = run_one(link(RATE_MBIT, rtt, loss)?, OURS, time)?;
            let goodput = track.rate(SETTLED, time) / (RATE_MBIT * 1_000_000) as f64;
            findings.add(
                key(
                    "theory",
                    &case,
                    OURS.name(),
                    "of the payload that gets through",
                ),
                Goal::AtLeast(0.97),
                goodput / (PAYLOAD_SHARE * (1.0 - loss)),
            )?;
            let (_, least) = track.rtt(SETTLED, time, 0.95);
            findings.add(
                key(
                    "theory",
                    &case,
                    OURS.name(),
                    "smallest round trip, of 50 ms",
                ),
                Goal::Between(1.0, 1.03),
                least / rtt.as_secs_f64(),
            )?;
        }
    }
    Ok(())
}

fn tcp(
    controller: &str,
    loss: f64,
    case: &str,
    options: &Options,
    findings: &mut Findings,
) -> Result<()> {
    let measured = (|| {
        let topology = Topology::uniform(2, link(RATE_MBIT, RTT, loss)?);
        let lab = WideLab::start(&topology)?;
        Ok(iperf(
            &lab.emulator,
            &pair(0),
            controller,
            options.time(10),
        )?)
    })();
    let name = format!("tcp {controller} (iperf3)");
    match measured {
        Ok((payload_mbit, _)) => findings.add(
            key("loss", case, &name, "goodput after 5 s"),
            Goal::None,
            payload_mbit / RATE_MBIT as f64,
        ),
        Err(error) => findings.missing(&format!("{case}, {name}"), &error),
    }
}

/// Part `grid`.
pub(super) fn grid(options: &Options, findings: &mut Findings) -> Result<()> {
    const LOSSES: [f64; 3] = [0.0, 0.001, 0.01];
    for rtt_ms in [2, 5, 20, 100, 300] {
        let rtt = Duration::from_millis(rtt_ms);
        // Slow paths run side by side; the fast ones have the machine to themselves.
        let slow: Vec<(u64, f64)> = LOSSES.iter().flat_map(|&l| [(5, l), (20, l)]).collect();
        let fast = [100, 400].map(|rate| LOSSES.map(|loss| vec![(rate, loss)]));
        let batches = std::iter::once(slow).chain(fast.into_iter().flatten());
        for batch in batches {
            let named = |&(rate, loss): &(u64, f64)| {
                format!("{rate} Mbit/s, {rtt_ms} ms, loss {} %", loss * 100.0)
            };
            if !batch.iter().map(named).any(|case| options.wants(&case)) {
                continue;
            }
            let settled = (20 * rtt).max(2 * SECOND);
            let time = settled + options.time(4).max(4 * rtt);
            let links = batch
                .iter()
                .map(|&(rate, loss)| link(rate, rtt, loss))
                .collect::<Result<Vec<_>>>()?;
            for _ in 0..options.repetitions() {
                let tracks = run(&links, OURS, time, &[])?;
                for (cell, track) in batch.iter().zip(tracks) {
                    let least = if cell.0 == 400 { 0.80 } else { 0.85 };
                    findings.add(
                        key(
                            "grid",
                            &named(cell),
                            OURS.name(),
                            "goodput after 20 round trips",
                        ),
                        Goal::AtLeast(least),
                        track.rate(settled, time) / (cell.0 * 1_000_000) as f64,
                    )?;
                }
            }
        }
    }
    Ok(())
}

/// Part `cold`.
pub(super) fn cold(options: &Options, findings: &mut Findings) -> Result<()> {
    const BYTES: u64 = 10_000_000;
    let time = 5 * SECOND;
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    let mut curves = Vec::new();
    for _ in 0..options.repetitions() {
        let track = run_one(link(RATE_MBIT, RTT, 0.0)?, OURS, time)?;
        ours.push(track.time_of(BYTES).context("10 MB did not come in 5 s")?);
        curves.push((OURS.name().to_owned(), track));
        for controller in ["bbr", "cubic"] {
            let lab = WideLab::start(&Topology::uniform(2, link(RATE_MBIT, RTT, 0.0)?))?;
            let start = lab.now().as_secs_f64();
            let flow = TcpFlow::start(&lab, "site-1", "site-2", controller)?;
            thread::sleep(time);
            let mut track = flow.track();
            track.0.iter_mut().for_each(|sample| sample.at -= start);
            let seconds = track.time_of(BYTES);
            if controller == "bbr" {
                theirs.push(seconds.context("TCP BBR did not bring 10 MB in 5 s")?);
            }
            let name = format!("tcp {controller}");
            findings.add(
                key("cold", "first 10 MB", &name, "seconds from the dial"),
                Goal::None,
                seconds.unwrap_or(f64::INFINITY),
            )?;
            curves.push((name, track));
        }
    }
    let bbr = crate::report::quantile(&theirs, 0.5);
    for seconds in ours {
        let seconds_key = key("cold", "first 10 MB", OURS.name(), "seconds from the dial");
        findings.add(seconds_key, Goal::None, seconds)?;
        let ratio = key("cold", "first 10 MB", OURS.name(), "time over TCP BBR's");
        findings.add(ratio, Goal::AtMost(1.25), seconds / bbr)?;
    }
    findings.draw("first 10 MB", &curves)
}

/// Part `queue`.
pub(super) fn queue(options: &Options, findings: &mut Findings) -> Result<()> {
    let time = SETTLED + options.time(15);
    let clean = link(RATE_MBIT, RTT, 0.0)?;
    let shallow = LinkSpec {
        queue: Some(QueueLimit::Time(Duration::from_millis(10))),
        ..clean.clone()
    };
    for _ in 0..options.repetitions() {
        if options.wants("queue 1 bdp") {
            let track = run_one(clean.clone(), OURS, time)?;
            let (high, least) = track.rtt(SETTLED, time, 0.95);
            findings.add(
                key(
                    "queue",
                    "queue 1 bdp",
                    OURS.name(),
                    "p95 of round trips over the least",
                ),
                Goal::AtMost(1.35),
                high / least,
            )?;
            findings.draw("queue 1 bdp", &[(OURS.name().to_owned(), track)])?;
        }
        if options.wants("queue 10 ms") {
            let track = run_one(shallow.clone(), OURS, time)?;
            findings.add(
                key("queue", "queue 10 ms", OURS.name(), "goodput after 5 s"),
                Goal::AtLeast(0.85),
                track.rate(SETTLED, time) / (RATE_MBIT * 1_000_000) as f64,
            )?;
            findings.draw("queue 10 ms", &[(OURS.name().to_owned(), track)])?;
        }
        for bucket_kib in [16, 32, 64, 256] {
            let case = format!("policer 20 Mbit/s, bucket {bucket_kib} KiB");
            if !options.wants(&case) {
                continue;
            }
            let policed = LinkSpec {
                policer: Some(PolicerSpec {
                    rate: mbit(20)?,
                    bucket: QueueLimit::Bytes(bucket_kib << 10),
                }),
                ..clean.clone()
            };
            let track = run_one(policed, OURS, time)?;
            findings.add(
                key("queue", &case, OURS.name(), "goodput after 5 s"),
                Goal::AtLeast(0.80),
                track.rate(SETTLED, time) / 20e6,
            )?;
            findings.add(
                key("queue", &case, OURS.name(), "share sent twice"),
                Goal::AtMost(0.05),
                track.sent_twice(Duration::ZERO, time),
            )?;
            findings.draw(&case, &[(OURS.name().to_owned(), track)])?;
        }
    }
    Ok(())
}

/// Part `steps`.
pub(super) fn steps(options: &Options, findings: &mut Findings) -> Result<()> {
    let rate = |factor| Event::PairRate {
        between: pair(0),
        factor,
    };
    let [site, _] = pair(0);
    let (down, up) = (
        Event::SiteDown { site: site.clone() },
        Event::SiteUp { site },
    );
    let at = Duration::from_secs(8);
    let cases = [
        ("halves", vec![(at, rate(0.5))], at, 0.5),
        (
            "doubles",
            vec![(Duration::ZERO, rate(0.5)), (at, rate(1.0))],
            at,
            1.0,
        ),
        (
            "gone for 5 s",
            vec![(at, down), (at + SETTLED, up)],
            at + SETTLED,
            1.0,
        ),
    ];
    for (case, events, change, factor) in cases {
        if !options.wants(case) {
            continue;
        }
        for _ in 0..options.repetitions() {
            let (from, to) = (change + 3 * SECOND, change + 6 * SECOND);
            let track = run(&[link(RATE_MBIT, RTT, 0.0)?], OURS, to, &events)?
                .pop()
                .context("no flow")?;
            findings.add(
                key(
                    "steps",
                    case,
                    OURS.name(),
                    "goodput from 3 s after the change",
                ),
                Goal::AtLeast(0.9),
                track.rate(from, to) / ((RATE_MBIT * 1_000_000) as f64 * factor),
            )?;
            findings.draw(case, &[(OURS.name().to_owned(), track)])?;
        }
    }
    Ok(())
}
