//! Whether list and show wait for other sites.

use std::time::{Duration, Instant};

use anyhow::Result;
use serde_json::json;

use super::finding::{Finding, Findings, Goal};
use super::site::{Mesh, Setup};
use super::{Options, uniform};
use crate::report::quantile;

/// Images in the catalogue, all of them made at another site.
const IMAGES: usize = 100;

/// Requests of each kind.
const REQUESTS: usize = 500;

pub(super) fn run(setup: &Setup, _options: &Options, findings: &mut Findings) -> Result<()> {
    let mut base: Option<[f64; 2]> = None;
    for rtt_ms in [0, 100, 300] {
        let topology = uniform(3, Duration::from_millis(rtt_ms), None);
        let mesh = Mesh::start(setup, &format!("flat-{rtt_ms}"), topology)?;
        let (origin, asked) = (mesh.site("site-1")?, mesh.site("site-2")?);
        let record = json!({"name": "flat", "disk_format": "raw", "container_format": "bare"});
        for _ in 0..IMAGES {
            origin.api().create(&record)?;
        }
        super::site::wait_until("all records", || Ok(asked.catalogue()?.len() == IMAGES))?;
        let ids: Vec<_> = asked.catalogue()?.into_iter().map(|[id, ..]| id).collect();

        let (mut list, mut show) = (Vec::new(), Vec::new());
        for id in ids.iter().cycle().take(REQUESTS) {
            for (times, path) in [
                (&mut list, "/v2/images?limit=100".to_owned()),
                (&mut show, format!("/v2/images/{id}")),
            ] {
                let start = Instant::now();
                asked.api().get(&path)?;
                times.push(start.elapsed().as_secs_f64() * 1e3);
            }
        }
        let medians = [&list, &show].map(|times| quantile(times, 0.5));
        let base = *base.get_or_insert(medians);
        for (kind, (times, base)) in ["list", "show"]
            .into_iter()
            .zip([&list, &show].into_iter().zip(base))
        {
            let median = quantile(times, 0.5);
            findings.add(Finding {
                experiment: "flat",
                case: format!("{kind}, {rtt_ms} ms"),
                what: "median latency to that at 0 ms",
                ratio: median / base,
                goal: if rtt_ms > 0 {
                    Goal::AtMost(1.1)
                } else {
                    Goal::None
                },
                detail: json!({
                    "p50_ms": median, "p99_ms": quantile(times, 0.99), "requests": times.len(),
                    "images": IMAGES,
                }),
            })?;
        }
    }
    Ok(())
}
