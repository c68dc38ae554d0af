//! How much of a long path with losses a pull from one holder uses, beside TCP.

use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::json;

use super::finding::{Finding, Findings, Goal};
use super::site::{Mesh, Setup};
use super::transfer::{download, random_image};
use super::{Options, uniform};
use crate::wan::{Emulator, LinkSpec, Rate, Topology, theory};

const RATE: &str = "100Mbit/s";
const RTT: Duration = Duration::from_millis(100);
const LOSS: f64 = 0.001;

/// The start, which is left out, as in [`theory`].
const WARM_UP: Duration = theory::WARM_UP;

/// How long TCP is measured.
const TCP_TIME: Duration = Duration::from_secs(20);

/// How often the puller's counter is read.
const SAMPLE_INTERVAL: Duration = Duration::from_millis(200);

/// The image must last for some seconds after the start.
const LEN_MIN: usize = 160 << 20;

fn path(sites: u16, rate: Rate) -> Topology {
    let mut topology = uniform(sites, RTT, None);
    topology.link = LinkSpec {
        rate: Some(rate),
        loss: Some(LOSS),
        ..topology.link
    };
    topology
}

pub(super) fn run(setup: &Setup, options: &Options, findings: &mut Findings) -> Result<()> {
    let rate: Rate = RATE.parse()?;
    let link_mbit = rate.as_bits_per_sec() as f64 / 1e6;
    let mut add = |case: &str, mbit: f64, goal, detail| {
        findings.add(Finding {
            experiment: "goodput",
            case: case.into(),
            what: "payload rate to link rate, 100 Mbit/s, 100 ms, 0.1 % loss",
            ratio: mbit / link_mbit,
            goal,
            detail,
        })
    };

    let image = random_image(options.image_len(0).max(LEN_MIN), 9);
    let mesh = Mesh::start(setup, "vitrail", path(2, rate))?;
    let (holder, puller) = (mesh.site("site-1")?, mesh.site("site-2")?);
    let id = holder.push("goodput", &image)?;
    puller.wait_for_image(&id, &image, &[holder.name()])?;
    let received = AtomicU64::new(0);
    let samples = thread::scope(|scope| {
        let client = scope.spawn(|| download(puller.api(), &id, &image, &received));
        let start = Instant::now();
        let mut samples = Vec::new();
        while !client.is_finished() {
            samples.push((start.elapsed(), puller.payload_rx()?));
            thread::sleep(SAMPLE_INTERVAL);
        }
        client.join().expect("the client does not panic")?;
        Ok::<_, anyhow::Error>(samples)
    })?;
    // The last byte to the client comes after the last from the peer: leave out the tail.
    let total = samples.last().context("no samples")?.1;
    samples_rate(&samples, total).and_then(|mbit| {
        let detail = json!({
            "payload_mbit": mbit, "image_bytes": image.len(), "payload_bytes": total,
            "client_bytes": received.load(Ordering::Relaxed),
            "seconds": puller.receipt(&id)?["seconds"], "lateness": mesh.counters()?.lateness,
        });
        add("vitrail", mbit, Goal::AtLeast(0.9), detail)
    })?;
    drop(mesh);

    let emulator = Emulator::start(&path(2, rate))?;
    let sites = ["site-1".to_owned(), "site-2".to_owned()];
    for controller in ["cubic", "bbr"] {
        let (mbit, again) = theory::iperf(&emulator, &sites, controller, TCP_TIME)?;
        let detail = json!({"payload_mbit": mbit, "retransmits": again});
        add(&format!("tcp {controller}"), mbit, Goal::None, detail)?;
    }
    Ok(())
}

/// Mean rate in Mbit/s from the end of the warm-up until the last byte came.
fn samples_rate(samples: &[(Duration, u64)], total: u64) -> Result<f64> {
    let from = samples.iter().find(|(at, _)| *at >= WARM_UP);
    let to = samples.iter().find(|(_, bytes)| *bytes == total);
    let (from, to) = (from.context("over in the warm-up")?, to.context("no end")?);
    let seconds = to.0.saturating_sub(from.0).as_secs_f64();
    ensure!(seconds > 0.0, "over in the warm-up: take a larger image");
    Ok((to.1 - from.1) as f64 * 8.0 / 1e6 / seconds)
}
