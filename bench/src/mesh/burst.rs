//! Thousands of packets in a row are lost in the middle of a pull.

use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::json;

use super::finding::{Finding, Findings, Goal};
use super::site::{Mesh, Setup, wait_until};
use super::transfer::{download, random_image};
use super::{Options, uniform};
use crate::wan::{Counters, Event, LinkSpec};

const RTT: Duration = Duration::from_millis(100);
const HOLDER: &str = "site-1";
const PULLER: &str = "site-2";

/// Lost on their way to the puller: everything that 100 Mbit/s carry in 0.36 s.
const PACKETS: u32 = 3000;

/// The client must not notice, and no chunk may come twice.
pub(super) fn run(setup: &Setup, options: &Options, findings: &mut Findings) -> Result<()> {
    let image = random_image(options.image_len(64 << 20), 11);
    let mut topology = uniform(2, RTT, None);
    topology.link = LinkSpec {
        rate: "100Mbit/s".parse().ok(),
        ..topology.link
    };
    let mesh = Mesh::start(setup, "burst", topology)?;
    let (holder, puller) = (mesh.site(HOLDER)?, mesh.site(PULLER)?);
    let id = holder.push("burst", &image)?;
    puller.wait_for_image(&id, &image, &[HOLDER])?;
    let lost_before = lost(&mesh.counters()?)?;
    let received = AtomicU64::new(0);
    let times = thread::scope(|scope| {
        let client = scope.spawn(|| download(puller.api(), &id, &image, &received));
        wait_until("a third of the image", || {
            Ok(received.load(Ordering::Relaxed) > image.len() as u64 / 3)
        })?;
        ensure!(
            !client.is_finished(),
            "over before the burst: take a larger image"
        );
        mesh.network.apply(Event::Burst {
            from: HOLDER.to_owned(),
            to: PULLER.to_owned(),
            packets: PACKETS,
        })?;
        client.join().expect("the client does not panic")
    })?;
    let counters = mesh.counters()?;
    let lost = lost(&counters)? - lost_before;
    ensure!(lost > 0, "nothing was lost: take a larger image");
    let receipt = puller.receipt(&id)?;
    let raw: u64 = receipt["peers"]
        .as_object()
        .map(|peers| peers.values().filter_map(|peer| peer["raw"].as_u64()).sum())
        .unwrap_or_default();
    findings.add(Finding {
        experiment: "burst",
        case: format!("{PACKETS} packets lost in a row"),
        what: "bytes of verified chunks to image",
        ratio: raw as f64 / image.len() as f64,
        goal: Goal::AtMost(1.0),
        detail: json!({
            "image_bytes": image.len(), "raw_bytes": raw, "lost_packets": lost,
            "seconds": times.all.as_secs_f64(), "receipt": receipt, "lateness": counters.lateness,
        }),
    })
}

/// Packets to the puller that were lost so far.
fn lost(counters: &Counters) -> Result<u64> {
    let pair = counters.pair(HOLDER, PULLER).context("no such pair")?;
    Ok(pair.lost.packets)
}
