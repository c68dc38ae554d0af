//! How long a client waits for the first byte of an image that its site has never seen.

use std::sync::atomic::AtomicU64;
use std::time::Duration;

use anyhow::Result;
use serde_json::json;

use super::Options;
use super::finding::{Finding, Findings, Goal};
use super::site::{Mesh, Setup};
use super::transfer::{download, random_image};
use crate::wan::Topology;

const TOPOLOGY: &str = include_str!("../../topologies/ibm-5.toml");

/// Where images are pushed.
const ORIGIN: &str = "dallas";

/// Bytes of each image: enough that its end plays no part in its start.
const LEN: usize = 4 << 20;

/// The largest chunk: what has to come before a client can have a verified byte.
const CHUNK_LEN: usize = vitrail_proto::chunk::CHUNK_LEN_MAX as usize;

pub(super) fn run(setup: &Setup, options: &Options, findings: &mut Findings) -> Result<()> {
    let mesh = Mesh::start(setup, "ibm-5", Topology::parse(TOPOLOGY)?)?;
    let origin = mesh.site(ORIGIN)?;
    for (number, puller) in mesh.sites().filter(|s| s.name() != ORIGIN).enumerate() {
        let network = mesh.network.network();
        let (a, b) = (network.site(ORIGIN)?, network.site(puller.name())?);
        let rtt = network.rtt(a, b);
        let chunk = network
            .path_rate(a, b)
            .map_or(Duration::ZERO, |rate| rate.time_for(CHUNK_LEN));
        let allowed = rtt * 2 + chunk;
        let mut times = Vec::new();
        for repetition in 0..options.repetitions {
            let seed = (number as u64) << 32 | u64::from(repetition);
            let image = random_image(LEN, seed);
            let id = origin.push("first-byte", &image)?;
            puller.wait_for_image(&id, &image, &[ORIGIN])?;
            times.push(download(puller.api(), &id, &image, &AtomicU64::new(0))?.first_byte);
        }
        let mut sorted = times.clone();
        sorted.sort();
        let median = sorted[sorted.len() / 2];
        findings.add(Finding {
            experiment: "first-byte",
            case: format!("{ORIGIN} to {}", puller.name()),
            what: "time to the first byte to 2 RTT and a chunk",
            ratio: median.as_secs_f64() / allowed.as_secs_f64(),
            goal: Goal::AtMost(1.0),
            detail: json!({
                "rtt_ms": millis(rtt), "chunk_ms": millis(chunk), "allowed_ms": millis(allowed),
                "first_byte_ms": times.iter().map(|t| millis(*t)).collect::<Vec<_>>(),
                "lateness": mesh.counters()?.lateness,
            }),
        })?;
    }
    Ok(())
}

fn millis(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}
