//! A cut with writes and deletions on both sides, and what healing costs.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use serde_json::json;

use super::finding::{Finding, Findings, Goal};
use super::site::{Mesh, Setup, Site, wait_until};
use super::transfer::random_image;
use super::{Options, uniform};
use crate::wan::Event;

const SIDES: [[&str; 2]; 2] = [["site-1", "site-2"], ["site-3", "site-4"]];
const RTT: Duration = Duration::from_millis(50);

/// Images that each side makes, and images that it deletes, during the cut.
const CHANGES: u64 = 10;

/// Bytes of each image.
const LEN: usize = 64 * 1024;

/// How long an idle network is watched, to know what reconciliation costs beyond that.
const IDLE_TIME: Duration = Duration::from_secs(10);

/// In how much time catalogues should be equal.
const GOAL: Duration = Duration::from_secs(5);

pub(super) fn run(setup: &Setup, options: &Options, findings: &mut Findings) -> Result<()> {
    let mesh = Mesh::start(setup, "partition", uniform(4, RTT, None))?;
    let ends = [mesh.site(SIDES[0][0])?, mesh.site(SIDES[1][0])?];
    let (mut doomed, mut seed) = ([Vec::new(), Vec::new()], 0);
    let mut push = |site: &Site, name: &str| {
        seed += 1;
        site.push(name, &random_image(LEN, seed))
    };
    for _ in 0..CHANGES {
        for (side, site) in ends.iter().enumerate() {
            doomed[side].push(push(site, "before the cut")?);
        }
    }
    wait_until("equal catalogues before the cut", || {
        agree(&mesh, 2 * CHANGES as usize)
    })?;
    let idle = carried(&mesh)?;
    thread::sleep(IDLE_TIME);
    let idle_rate = (carried(&mesh)? - idle) as f64 / IDLE_TIME.as_secs_f64();

    let groups = SIDES.map(|side| side.map(String::from).to_vec()).to_vec();
    mesh.network.apply(Event::Partition { groups })?;
    let cut = Instant::now();
    for _ in 0..CHANGES {
        for (side, site) in ends.iter().enumerate() {
            push(site, "during the cut")?;
            // The other side's images are deleted as well as the own.
            if let Some(id) = doomed[1 - side].pop() {
                site.delete(&id)?;
            }
        }
    }
    thread::sleep(options.cut.saturating_sub(cut.elapsed()));
    ensure!(
        ends[0].catalogue()? != ends[1].catalogue()?,
        "the cut had no effect"
    );
    let cut = cut.elapsed();

    let before = carried(&mesh)?;
    let heal = Instant::now();
    mesh.network.apply(Event::Heal)?;
    wait_until("equal catalogues after the cut", || {
        agree(&mesh, 2 * CHANGES as usize)
    })?;
    let seconds = heal.elapsed().as_secs_f64();
    let bytes = carried(&mesh)? - before;
    let rows = ends[0].catalogue()?;
    ensure!(
        rows.iter().all(|[_, name, _]| name == "during the cut"),
        "a deleted image is there again: {rows:?}"
    );
    let changed = 4 * CHANGES;
    findings.add(Finding {
        experiment: "partition",
        case: format!("{} s cut, {changed} changes", cut.as_secs()),
        what: "time until catalogues are equal to 5 s",
        ratio: seconds / GOAL.as_secs_f64(),
        goal: Goal::AtMost(1.0),
        detail: json!({
            "seconds": seconds, "changed_records": changed,
            "record_bytes": record_len(ends[0])?, "interface_bytes": bytes,
            "idle_bytes_per_second": idle_rate,
            "bytes_beyond_idle": bytes as f64 - idle_rate * seconds,
            "lateness": mesh.counters()?.lateness,
        }),
    })
}

/// Whether all sites list the same images, and as many as they should.
fn agree(mesh: &Mesh, count: usize) -> Result<bool> {
    let mut catalogues = Vec::new();
    for site in mesh.sites() {
        catalogues.push(site.catalogue()?);
    }
    let first = &catalogues[0];
    Ok(first.len() == count && catalogues.iter().all(|catalogue| catalogue == first))
}

/// IP bytes that have come to all sites.
fn carried(mesh: &Mesh) -> Result<u64> {
    let counters = mesh.counters()?;
    Ok(counters.sites.iter().map(|site| site.count.rx.bytes).sum())
}

/// Length of one image's JSON document, as a measure of the difference.
fn record_len(site: &Site) -> Result<usize> {
    let rows = site.catalogue()?;
    let id = rows.first().map_or("", |[id, ..]| id);
    let document = site.api().get(&format!("/v2/images/{id}"))?;
    Ok(document.to_string().len())
}
