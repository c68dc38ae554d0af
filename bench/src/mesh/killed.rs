//! SIGKILL in the middle of a pull.

use std::sync::atomic::AtomicU64;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::json;

use super::finding::{Finding, Findings, Goal};
use super::site::{Mesh, Setup, wait_until};
use super::transfer::{download, random_image};
use super::{Options, uniform};

const HOLDERS: [&str; 2] = ["site-1", "site-2"];
const PULLER: &str = "site-3";
/// Bytes of an image: what is under way at the kill is a small part of it.
const LEN: u64 = 256_000_000;
const RTT: Duration = Duration::from_millis(50);

pub(super) fn run(setup: &Setup, options: &Options, findings: &mut Findings) -> Result<()> {
    holder(setup, options, findings)?;
    puller(setup, options, findings)
}

/// A mesh with an image at both holders, of which the puller knows.
fn prepare(setup: &Setup, options: &Options, case: &str, image: &[u8]) -> Result<(Mesh, String)> {
    let mesh = Mesh::start(setup, case, uniform(3, RTT, Some(options.uplink)))?;
    // Equal bytes make equal manifests: both hold both images.
    mesh.site(HOLDERS[0])?.push("killed", image)?;
    let id = mesh.site(HOLDERS[1])?.push("killed", image)?;
    mesh.site(PULLER)?.wait_for_image(&id, image, &HOLDERS)?;
    Ok((mesh, id))
}

/// One of two holders dies; the client must not notice.
fn holder(setup: &Setup, options: &Options, findings: &mut Findings) -> Result<()> {
    let image = random_image(options.image_len(LEN), 1);
    let (mut mesh, id) = prepare(setup, options, "holder", &image)?;
    let before = mesh.interface_rx(PULLER)?;
    let api = mesh.site(PULLER)?.api().clone();
    let times = thread::scope(|scope| {
        let client = scope.spawn(|| download(&api, &id, &image, &AtomicU64::new(0)));
        wait_for_half(&mesh, image.len())?;
        ensure!(!client.is_finished(), "over before the half was seen");
        mesh.kill(HOLDERS[0])?;
        client.join().expect("the client does not panic")
    })?;
    let payload = mesh.site(PULLER)?.payload_rx()?;
    findings.add(Finding {
        experiment: "killed",
        case: "holder half-way".into(),
        what: "payload received to image",
        ratio: payload as f64 / image.len() as f64,
        goal: Goal::AtMost(1.03),
        detail: json!({
            "image_bytes": image.len(), "payload_bytes": payload,
            "interface_bytes": mesh.interface_rx(PULLER)? - before,
            "seconds": times.all.as_secs_f64(), "receipt": mesh.site(PULLER)?.receipt(&id)?,
            "lateness": mesh.counters()?.lateness,
        }),
    })
}

/// The puller dies, starts again, and is asked again.
fn puller(setup: &Setup, options: &Options, findings: &mut Findings) -> Result<()> {
    let image = random_image(options.image_len(LEN), 2);
    let (mut mesh, id) = prepare(setup, options, "puller", &image)?;
    let before = mesh.interface_rx(PULLER)?;
    let api = mesh.site(PULLER)?.api().clone();
    let at_kill = thread::scope(|scope| {
        let client = scope.spawn(|| download(&api, &id, &image, &AtomicU64::new(0)));
        let at_kill = wait_for_half(&mesh, image.len())?;
        mesh.kill(PULLER)?;
        let died = client.join().expect("the client does not panic");
        ensure!(died.is_err(), "over before the half was seen");
        Ok(at_kill)
    })?;
    let restart = Instant::now();
    mesh.restart(PULLER)?;
    mesh.site(PULLER)?.wait_for_image(&id, &image, &HOLDERS)?;
    let restart = restart.elapsed();
    let times = download(&api, &id, &image, &AtomicU64::new(0))?;
    let after = mesh.site(PULLER)?.payload_rx()?;
    let sent: u64 = HOLDERS
        .iter()
        .map(|name| mesh.site(name)?.payload_tx())
        .sum::<Result<_>>()?;
    findings.add(Finding {
        experiment: "killed",
        case: "puller half-way".into(),
        what: "payload received in both lives to image",
        ratio: (at_kill + after) as f64 / image.len() as f64,
        goal: Goal::AtMost(1.03),
        detail: json!({
            "image_bytes": image.len(), "payload_bytes_before": at_kill,
            "payload_bytes_after": after, "holders_payload_sent_bytes": sent,
            "interface_bytes": mesh.interface_rx(PULLER)? - before,
            "restart_seconds": restart.as_secs_f64(), "seconds_after": times.all.as_secs_f64(),
            "receipt": mesh.site(PULLER)?.receipt(&id)?, "lateness": mesh.counters()?.lateness,
        }),
    })
}

/// Waits until the puller has received half of an image; returns how much it had then.
fn wait_for_half(mesh: &Mesh, len: usize) -> Result<u64> {
    let puller = mesh.site(PULLER)?;
    let mut seen = 0;
    wait_until("half of the image", || {
        seen = puller.payload_rx().context("read the puller's counter")?;
        Ok(seen >= len as u64 / 2)
    })?;
    Ok(seen)
}
