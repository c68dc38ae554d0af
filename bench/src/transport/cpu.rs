//! What the controller costs where nothing else limits: on loopback.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use rustix::time::{ClockId, clock_gettime};

use super::Options;
use super::finding::{Findings, Goal, Key};
use super::flow::{Flow, OURS, Sender};
use super::lab::{Lab, loopback_host};

/// Left out at the start.
const WARM_UP: Duration = Duration::from_millis(500);

/// More pairs of runs than elsewhere: the machine's own noise is large here.
const PAIRS: u32 = 5;

/// Part `cpu`.
pub(super) fn run(options: &Options, findings: &mut Findings) -> Result<()> {
    let pairs = if options.quick {
        2
    } else {
        PAIRS.max(options.repetitions)
    };
    for _ in 0..pairs {
        // Side by side in time, so that both see the same machine.
        let cubic = measure(Sender::QuinnCubic, options)?;
        let ours = measure(OURS, options)?;
        for (sender, measured) in [(OURS, ours), (Sender::QuinnCubic, cubic)] {
            let key = |measure| key(sender.name(), measure);
            findings.add(key("MB/s"), Goal::None, measured.rate / 1e6)?;
            findings.add(key("CPU s/GB, both ends"), Goal::None, measured.cpu_per_gb)?;
        }
        findings.add(
            key(OURS.name(), "goodput over that of quinn cubic"),
            Goal::AtLeast(0.95),
            ours.rate / cubic.rate,
        )?;
    }
    Ok(())
}

fn key(subject: &str, measure: &'static str) -> Key {
    Key {
        part: "cpu",
        case: "loopback".into(),
        subject: subject.into(),
        measure,
    }
}

#[derive(Clone, Copy)]
struct Measured {
    /// Payload, bytes per second.
    rate: f64,
    cpu_per_gb: f64,
}

fn measure(sender: Sender, options: &Options) -> Result<Measured> {
    let lab = Lab::new()?;
    let (from, to) = (loopback_host(&lab)?, loopback_host(&lab)?);
    let flow = Flow::start(&lab, &from, &to, sender)?;
    thread::sleep(WARM_UP);
    let before = (Instant::now(), flow.received(), cpu());
    thread::sleep(options.time(4));
    let after = (Instant::now(), flow.received(), cpu());
    flow.track()?;
    let bytes = (after.1 - before.1) as f64;
    ensure!(bytes > 0.0, "nothing came");
    Ok(Measured {
        rate: bytes / (after.0 - before.0).as_secs_f64(),
        cpu_per_gb: (after.2 - before.2) / (bytes / 1e9),
    })
}

/// Seconds of processor time of this process.
fn cpu() -> f64 {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    time.tv_sec as f64 + time.tv_nsec as f64 / 1e9
}
