//! `bench simulate`: a scenario in virtual time, for more sites than can be emulated.
//!
//! The file, the schedules and the report are those of `bench run`. Images are cut as the product cuts them ([`images`]),
//! and a case runs the swarm of `vitrail-sim` ([`case`]): the product's planner at every site, over links that are shared
//! fairly. Only Vitrail is simulated.

mod case;
mod images;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use clap::Args;

use super::file::Scenario;
use super::progress::Progress;
use super::{begin_log, report, this_run};
use crate::machine;
use crate::peers::Cache;

/// Options of `bench simulate`.
#[derive(Args, Clone, Debug)]
pub struct SimulateOptions {
    /// The scenario (bench/scenarios)
    scenario: PathBuf,
    /// One repetition of the part that the file has for a few minutes
    #[arg(long)]
    quick: bool,
    /// Where the result is kept [default: bench/results/DATE-simulate-NAME]
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Only these workloads
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    workloads: Vec<String>,
    /// Directory of images; built when empty [default: corpus in the cache directory]
    #[arg(long, env = "VITRAIL_CORPUS", value_name = "DIR")]
    corpus: Option<PathBuf>,
}

/// Simulates a scenario and draws its report. Fails when a pull failed.
pub fn run(options: &SimulateOptions, cache: &Cache) -> Result<ExitCode> {
    let mut scenario = Scenario::load(&options.scenario, options.quick)?;
    scenario.keep_workloads(&options.workloads)?;
    let corpus = options.corpus.clone();
    let corpus = corpus.unwrap_or_else(|| cache.path("corpus"));
    let files = super::images::prepare(&scenario, &corpus, cache)?;
    eprintln!("cutting the images into chunks");
    let images = images::cut(&scenario, &files)?;

    let run = this_run(&scenario, options.quick, true);
    let name = format!("simulate-{}", scenario.name);
    let mut log = begin_log(options.out.as_deref(), run, &name)?;
    let commit = machine::version("git", &["rev-parse", "HEAD"]);
    log.version("commit", &commit)?;

    let network = scenario.topology.resolve()?;
    let mut progress = Progress::new();
    let total = scenario.workloads.len() * scenario.repetitions as usize;
    let (mut number, mut failed) = (0, false);
    for repetition in 0..scenario.repetitions {
        for workload in &scenario.workloads {
            number += 1;
            let name = format!("{} · {}", workload.name, repetition + 1);
            progress.case(number, total, &name);
            let case = case::run(&scenario, &network, workload, repetition, &images);
            progress.done(&super::summary(&case));
            failed |= !case.is_good();
            log.case(case)?;
        }
    }
    report::publish(&log.dir, &log.results)?;
    Ok(ExitCode::from(u8::from(failed)))
}
