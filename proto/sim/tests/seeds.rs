//! Whatever happens, the sites end equal and right.
//!
//! `VITRAIL_SIM_SEEDS=500` runs that many; a failure names its seed, and `VITRAIL_SIM_SEED=n` runs that one alone.

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

use vitrail_sim::{check, faults};

#[test]
fn after_any_history_the_sites_are_equal() {
    for seed in faults::seeds(100) {
        let outcome = catch_unwind(AssertUnwindSafe(|| check::all(&faults::run(seed))));
        if let Err(failure) = outcome {
            eprintln!("replay with VITRAIL_SIM_SEED={seed}");
            resume_unwind(failure);
        }
    }
}

#[test]
fn equal_seeds_give_equal_histories() {
    let traffic = |seed| {
        let mesh = faults::run(seed);
        (0..mesh.sites.len())
            .map(|node| mesh.network.traffic(node))
            .collect::<Vec<_>>()
    };
    assert_eq!(traffic(3), traffic(3));
}
