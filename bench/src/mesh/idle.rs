//! What sites cost that do nothing.

use std::thread;
use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::json;

use super::finding::{Finding, Findings, Goal};
use super::site::{Mesh, Setup};
use super::{Options, uniform};
use crate::wan::Counters;

const RTT: Duration = Duration::from_millis(50);

/// After the start sites still exchange neighbours for nearer ones, and each new connection costs a handshake and a search
/// for the longest packets that its path takes.
const SETTLE_TIME: Duration = Duration::from_secs(300);

/// IP bytes that an idle site may cost in a second, both directions together.
const GOAL: f64 = 150.0;

pub(super) fn run(setup: &Setup, options: &Options, findings: &mut Findings) -> Result<()> {
    for &count in &options.sites {
        let mesh = Mesh::start(setup, &format!("idle-{count}"), uniform(count, RTT, None))?;
        thread::sleep(SETTLE_TIME);
        let before = mesh.counters()?;
        thread::sleep(options.idle);
        let after = mesh.counters()?;
        let seconds = (after.at - before.at).as_secs_f64();
        let rates = rates(&before, &after, seconds)?;
        let sum: f64 = rates.iter().sum();
        let (average, most) = (
            sum / rates.len() as f64,
            rates.iter().copied().fold(0.0, f64::max),
        );
        findings.add(Finding {
            experiment: "idle",
            case: format!("{count} sites, {seconds:.0} s"),
            what: "IP bytes/s of a site, both directions, to 150",
            ratio: average / GOAL,
            goal: Goal::AtMost(1.0),
            detail: json!({
                "bytes_per_second": {"average": average, "most": most, "all": rates},
                "bytes_per_packet": bytes_per_packet(&before, &after),
                "lateness": after.lateness,
            }),
        })?;
    }
    Ok(())
}

/// Tells keep-alives and gossip from what is padded.
fn bytes_per_packet(before: &Counters, after: &Counters) -> f64 {
    let all = |counters: &Counters| {
        let counts = counters.sites.iter().map(|site| site.count.tx);
        counts.fold((0, 0), |(bytes, packets), tx| {
            (bytes + tx.bytes, packets + tx.packets)
        })
    };
    let ((bytes, packets), earlier) = (all(after), all(before));
    (bytes - earlier.0) as f64 / (packets - earlier.1).max(1) as f64
}

/// IP bytes that each site sent and received in a second.
fn rates(before: &Counters, after: &Counters, seconds: f64) -> Result<Vec<f64>> {
    let all = |counters: &Counters, site: &str| {
        let count = counters.site(site).context("no such site")?;
        anyhow::Ok((count.rx.bytes + count.tx.bytes) as f64)
    };
    let sites = after.sites.iter().map(|site| &site.site);
    sites
        .map(|site| Ok((all(after, site)? - all(before, site)?) / seconds))
        .collect()
}
