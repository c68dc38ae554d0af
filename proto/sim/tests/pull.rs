//! Whatever holders do, a pull completes, and nothing comes twice without need.
//!
//! `VITRAIL_SIM_SEEDS` and `VITRAIL_SIM_SEED` as in `seeds.rs`.

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

use vitrail_proto::fetch::BLOCK_LEN;
use vitrail_sim::faults::seeds;
use vitrail_sim::pull::{Report, run};

fn check(report: &Report) {
    let again = report.arrived_bytes - report.wanted_bytes;
    assert!(again <= report.excused_bytes, "{report:?}");
    if report.calm {
        // What holders take from one another at the end.
        let most = report.wanted_bytes / 33 + 5 * BLOCK_LEN;
        assert!(again <= most, "{again} bytes again: {report:?}");
    }
}

#[test]
fn whatever_holders_do_a_pull_completes() {
    for seed in seeds(1000) {
        let outcome = catch_unwind(AssertUnwindSafe(|| check(&run(seed))));
        if let Err(failure) = outcome {
            eprintln!("replay with VITRAIL_SIM_SEED={seed}");
            resume_unwind(failure);
        }
    }
}

#[test]
fn equal_seeds_give_equal_pulls() {
    assert_eq!(run(3), run(3));
}
