//! From a workload to a schedule: which site pulls which image when.
//!
//! The same workload, seed and repetition give the same schedule, so that every system of a run, and every
//! later run, does the same at the same times.

use std::time::Duration;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use super::file::{Scenario, Work, Workload};

/// One image at one site.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Pull {
    /// When, from the start of the workload.
    pub(super) at: Duration,
    /// Where.
    pub(super) site: String,
    /// What.
    pub(super) image: String,
}

/// A workload with nothing left to chance.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Plan {
    /// Sites that have `images` at the start.
    pub(super) holders: Vec<String>,
    /// Sites that pull.
    pub(super) receivers: Vec<String>,
    /// What the holders have.
    pub(super) images: Vec<String>,
    /// What the receivers have.
    pub(super) base: Option<String>,
    /// All pulls, the first one first.
    pub(super) pulls: Vec<Pull>,
    /// Whether the pulls are one act, to be done in the system's own way.
    pub(super) together: bool,
}

impl Plan {
    /// The plan of a workload of `scenario`.
    pub(super) fn new(scenario: &Scenario, workload: &Workload, repetition: u32) -> Self {
        let holders = workload.work.holders().to_vec();
        let others = || {
            let network = scenario.topology.resolve();
            let sites = network.map(|network| network.sites).unwrap_or_default();
            let names = sites.into_iter().map(|site| site.name);
            names.filter(|name| !holders.contains(name)).collect()
        };
        let at_once = |sites: &[String], clients: usize, image: &str| {
            let pull = |site: &String| Pull {
                at: Duration::ZERO,
                site: site.clone(),
                image: image.to_owned(),
            };
            let all = sites.iter().flat_map(|site| vec![pull(site); clients]);
            all.collect::<Vec<_>>()
        };
        match &workload.work {
            Work::Pull {
                image,
                at,
                clients,
                base,
                ..
            } => Self {
                receivers: at.clone(),
                images: vec![image.clone()],
                base: base.clone(),
                pulls: at_once(at, *clients, image),
                together: false,
                holders,
            },
            Work::Preseed {
                image, to, base, ..
            } => {
                let receivers = to.clone().unwrap_or_else(others);
                Self {
                    images: vec![image.clone()],
                    base: base.clone(),
                    pulls: at_once(&receivers, 1, image),
                    together: true,
                    receivers,
                    holders,
                }
            }
            Work::Storm {
                images,
                at,
                pulls,
                per_second,
                zipf,
                ..
            } => {
                let receivers = at.clone().unwrap_or_else(others);
                let images = scenario.sets[images].clone();
                let seed = scenario.seed ^ u64::from(repetition) << 32;
                Self {
                    pulls: storm(seed, &receivers, &images, *pulls, *per_second, *zipf),
                    images,
                    base: None,
                    together: false,
                    receivers,
                    holders,
                }
            }
        }
    }
}

/// Poisson arrivals at a mean rate of `per_second`; sites evenly; image number n with a probability in
/// proportion to 1 / n^zipf.
fn storm(
    seed: u64,
    sites: &[String],
    images: &[String],
    pulls: usize,
    per_second: f64,
    zipf: f64,
) -> Vec<Pull> {
    let mut random = StdRng::seed_from_u64(seed);
    let weights: Vec<f64> = (1..=images.len())
        .map(|rank| (rank as f64).powf(-zipf))
        .collect();
    let total: f64 = weights.iter().sum();
    let mut at = 0.0;
    let mut next = || {
        let uniform: f64 = random.random();
        // 1 - uniform is never 0.
        at -= (1.0 - uniform).ln() / per_second;
        let site = random.random_range(0..sites.len());
        let mut left = random.random::<f64>() * total;
        let drawn = weights.iter().position(|weight| {
            left -= weight;
            left < 0.0
        });
        Pull {
            at: Duration::from_secs_f64(at),
            site: sites[site].clone(),
            // Rounding may leave a little behind the last one.
            image: images[drawn.unwrap_or(images.len() - 1)].clone(),
        }
    };
    (0..pulls).map(|_| next()).collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::scenario::file::own_files;

    #[test]
    fn same_seed_same_schedule() {
        for path in own_files() {
            let scenario = Scenario::load(&path, false).unwrap();
            let mut reseeded = scenario.clone();
            reseeded.seed += 1;
            for workload in &scenario.workloads {
                let plan = Plan::new(&scenario, workload, 0);
                assert_eq!(plan, Plan::new(&scenario, workload, 0));
                if matches!(workload.work, Work::Storm { .. }) {
                    assert_ne!(plan.pulls, Plan::new(&scenario, workload, 1).pulls);
                    assert_ne!(plan.pulls, Plan::new(&reseeded, workload, 0).pulls);
                }
            }
        }
    }

    #[test]
    fn a_storm_has_the_shape_that_was_asked_for() {
        let sites: Vec<String> = (0..4).map(|n| format!("site-{n}")).collect();
        let images: Vec<String> = (1..=10).map(|n| format!("image-{n}")).collect();
        let pulls = storm(7, &sites, &images, 20_000, 5.0, 1.0);
        assert!(pulls.is_sorted_by_key(|pull| pull.at));

        // Standard errors of these shares are below 1 % of 20,000.
        let seconds = pulls[pulls.len() - 1].at.as_secs_f64();
        assert!((seconds / 4_000.0 - 1.0).abs() < 0.03, "{seconds}");
        let mut by_image = BTreeMap::new();
        let mut by_site = BTreeMap::new();
        for pull in &pulls {
            *by_image.entry(&pull.image).or_insert(0.0) += 1.0;
            *by_site.entry(&pull.site).or_insert(0.0) += 1.0;
        }
        let harmonic: f64 = (1..=10).map(|n| 1.0 / f64::from(n)).sum();
        for rank in [1.0, 2.0, 10.0] {
            let share = by_image[&format!("image-{rank}")] / 20_000.0;
            let wanted = 1.0 / rank / harmonic;
            assert!((share - wanted).abs() < 0.015, "{rank}: {share}");
        }
        assert!(
            by_site
                .values()
                .all(|count| (count - 5_000.0_f64).abs() < 300.0)
        );
        // Memoryless: the gaps' standard deviation is their mean.
        let gaps: Vec<f64> = pulls
            .windows(2)
            .map(|pair| (pair[1].at - pair[0].at).as_secs_f64())
            .collect();
        let mean = gaps.iter().sum::<f64>() / gaps.len() as f64;
        let variance = gaps.iter().map(|gap| (gap - mean).powi(2)).sum::<f64>() / gaps.len() as f64;
        assert!((variance.sqrt() / mean - 1.0).abs() < 0.05);
    }
}
