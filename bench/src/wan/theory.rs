//! The emulator against theory: what TCP should do on a path, and what it does.

use std::io;
use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

use serde::Serialize;
use serde_json::Value;

use super::emulator::{Emulator, Error};
use super::probe::{self, ECHO_PACKET};
use super::topology::{LinkSpec, Topology};
use super::units::Rate;

/// Payload of a full TCP segment in 1,500-byte packets: 40 bytes of headers, 12 of timestamps.
const SEGMENT: f64 = 1448.0;
const PACKET: f64 = 1500.0;

/// Slow start and the first loss are left out of every figure.
pub(crate) const WARM_UP: Duration = Duration::from_secs(5);

/// A path and what goes over it. Each has two sites of its own, and all run at once.
#[derive(Clone, Debug, Serialize)]
pub struct Outcome {
    /// Congestion control, as the kernel names it.
    pub controller: &'static str,
    /// Share of packets lost.
    pub loss: f64,
    /// What theory says, payload in Mbit/s; `None` where there is no closed form.
    pub predicted_mbit: Option<f64>,
    /// What came, payload in Mbit/s.
    pub measured_mbit: f64,
    /// Segments sent again.
    pub retransmits: u64,
}

/// What [`run`] found.
#[derive(Clone, Debug, Serialize)]
pub struct Findings {
    /// Rate of every path in Mbit/s of IP packets.
    pub rate_mbit: f64,
    /// Round-trip time that was asked for, in ms.
    pub rtt_ms: f64,
    /// Round-trip times measured between the two sites of each path before the flows, in ms.
    pub measured_rtt_ms: Vec<f64>,
    /// One per path.
    pub outcomes: Vec<Outcome>,
    /// Lateness of the emulator meanwhile.
    pub lateness: super::Lateness,
}

/// How far a round-trip time, and the rate of a path without loss, may be off.
const TOLERANCE: f64 = 0.03;

impl Findings {
    /// Where the emulator itself is off; empty when nowhere. What a controller makes of loss is not
    /// judged: that is its own, and few losses make a noisy sample.
    pub fn faults(&self) -> Vec<String> {
        let rtts = self
            .measured_rtt_ms
            .iter()
            .map(|&ms| ("round-trip time", ms, self.rtt_ms));
        let rates = self.outcomes.iter().filter(|outcome| outcome.loss == 0.0);
        let rates = rates.filter_map(|outcome| {
            Some((
                outcome.controller,
                outcome.measured_mbit,
                outcome.predicted_mbit?,
            ))
        });
        rtts.chain(rates)
            .filter(|&(_, measured, wanted)| (measured / wanted - 1.0).abs() > TOLERANCE)
            .map(|(what, measured, wanted)| format!("{what}: {measured:.2}, wanted {wanted:.2}"))
            .collect()
    }
}

/// The controllers and losses that are run.
const CASES: [(&str, f64); 6] = [
    ("cubic", 0.0),
    ("bbr", 0.0),
    ("reno", 0.001),
    ("cubic", 0.001),
    ("bbr", 0.001),
    ("bbr", 0.01),
];

/// Throughput of an additive-increase controller under independent loss: rate = segment ÷ RTT ×
/// sqrt(3 / 2 ÷ loss), at most the link's share for payload (M. Mathis et al., "The Macroscopic
/// Behavior of the TCP Congestion Avoidance Algorithm", 1997). It also holds for CUBIC where the
/// window is so small that its Reno-friendly region rules (RFC 9438, section 4.3), which is the
/// case here: CUBIC's own mean window, 1.054 × (RTT ÷ loss)^0.75 segments, is less.
fn loss_bound(rtt: Duration, loss: f64, link_mbit: f64) -> f64 {
    let payload_mbit = link_mbit * SEGMENT / PACKET;
    let rtt = rtt.as_secs_f64();
    let reno = (1.5 / loss).sqrt();
    let cubic = 1.054 * (rtt / loss).powf(0.75);
    (reno.max(cubic) * SEGMENT * 8.0 / rtt / 1e6).min(payload_mbit)
}

/// Runs all cases for `duration` after a warm-up of 5 s, on paths of `rate` and `rtt`.
pub fn run(rate: Rate, rtt: Duration, duration: Duration) -> Result<Findings, Error> {
    let iperf3 = Command::new("iperf3")
        .arg("--version")
        .stdout(Stdio::null())
        .status();
    if !iperf3.is_ok_and(|status| status.success()) {
        return Err(Error::Unavailable(
            "iperf3 is not installed (Debian: iperf3)".into(),
        ));
    }
    let link = LinkSpec {
        rtt: Some(rtt),
        rate: Some(rate),
        ..LinkSpec::default()
    };
    let mut topology = Topology::uniform(2 * CASES.len() as u16, link);
    for (index, (_, loss)) in CASES.into_iter().enumerate() {
        topology.pairs.push(super::PairSpec {
            between: sites_of(index),
            link: LinkSpec {
                loss: Some(loss),
                ..LinkSpec::default()
            },
        });
    }
    let emulator = Emulator::start(&topology)?;
    let network = emulator.network();

    let all = probe::round_trips(&emulator, 25)?;
    let mut measured_rtt_ms = Vec::new();
    for index in 0..CASES.len() {
        let (a, b) = network.pair(&sites_of(index))?;
        let echo = network.serialisation(a, b, ECHO_PACKET) * 2;
        let rtt = all[a.0][b.0]
            .into_iter()
            .chain(all[b.0][a.0])
            .min()
            .unwrap_or_default();
        measured_rtt_ms.push(rtt.saturating_sub(echo).as_secs_f64() * 1e3);
    }

    let results: Vec<_> = thread::scope(|scope| {
        let emulator = &emulator;
        let flows: Vec<_> = CASES
            .iter()
            .enumerate()
            .map(|(index, (controller, _))| {
                scope.spawn(move || iperf(emulator, &sites_of(index), controller, duration))
            })
            .collect();
        flows
            .into_iter()
            .map(|flow| {
                flow.join()
                    .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
            })
            .collect()
    });

    let rate_mbit = rate.as_bits_per_sec() as f64 / 1e6;
    let mut outcomes = Vec::new();
    for ((controller, loss), result) in CASES.into_iter().zip(results) {
        let (measured_mbit, retransmits) = result?;
        let predicted_mbit = match controller {
            "bbr" if loss > 0.0 => None,
            _ if loss == 0.0 => Some(rate_mbit * SEGMENT / PACKET),
            _ => Some(loss_bound(rtt, loss, rate_mbit)),
        };
        outcomes.push(Outcome {
            controller,
            loss,
            predicted_mbit,
            measured_mbit,
            retransmits,
        });
    }
    let lateness = emulator.stop()?.lateness;
    let rtt_ms = rtt.as_secs_f64() * 1e3;
    Ok(Findings {
        rate_mbit,
        rtt_ms,
        measured_rtt_ms,
        outcomes,
        lateness,
    })
}

fn sites_of(index: usize) -> [String; 2] {
    [
        format!("site-{}", 2 * index + 1),
        format!("site-{}", 2 * index + 2),
    ]
}

/// Payload in Mbit/s at the receiver, and segments sent again, after the warm-up.
pub(crate) fn iperf(
    emulator: &Emulator,
    [client, server]: &[String; 2],
    controller: &str,
    duration: Duration,
) -> Result<(f64, u64), Error> {
    let failed = |source| Error::Io {
        what: format!("run iperf3 with {controller}"),
        source,
    };
    let mut command = Command::new("iperf3");
    command
        .args(["--server", "--one-off"])
        .stdin(Stdio::null())
        .stdout(Stdio::null());
    let mut listening = emulator.exec_in(server, command)?;
    // It says nothing when it listens; the kernel answers a connection long before this is over.
    thread::sleep(Duration::from_millis(500));

    let mut command = Command::new("iperf3");
    command
        .args(["--client", &emulator.addr(server)?.to_string(), "--json"])
        .args(["--congestion", controller])
        .args(["--omit", &WARM_UP.as_secs().to_string()])
        .args(["--time", &duration.as_secs().to_string()])
        .stdin(Stdio::null())
        .stdout(Stdio::piped());
    let output = emulator
        .exec_in(client, command)?
        .wait_with_output()
        .map_err(failed)?;
    listening.wait().map_err(failed)?;

    let report: Value = serde_json::from_slice(&output.stdout).map_err(|e| failed(e.into()))?;
    let end = &report["end"];
    let bits = end["sum_received"]["bits_per_second"].as_f64();
    let again = end["sum_sent"]["retransmits"].as_u64();
    match (bits, again) {
        (Some(bits), Some(again)) => Ok((bits / 1e6, again)),
        _ => Err(failed(io::Error::other(report["error"].to_string()))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bound_is_that_of_the_paper_and_never_above_the_link() {
        let rtt = Duration::from_millis(100);
        // 1448 B × 8 ÷ 0.1 s × sqrt(1.5 ÷ 0.01) = 1.4187 Mbit/s.
        assert!((loss_bound(rtt, 0.01, 100.0) - 1.4187).abs() < 1e-3);
        // 1 loss in 1,000,000: CUBIC's own region, 1.054 × (0.1 ÷ 1e-6)^0.75 = 5927 segments.
        assert!((loss_bound(rtt, 1e-6, 1e4) - 686.6).abs() < 1.0);
        assert!((loss_bound(rtt, 1e-6, 100.0) - 96.53).abs() < 0.01);
    }
}
