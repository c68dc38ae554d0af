//! Experiments from one file: a network, a schedule of pulls, and the systems that do it.
//!
//! [`Scenario`] is the file. Its workloads become a [`schedule::Plan`] each, a schedule that only the
//! seed decides. A *case* is one workload with one system on a network of its own. All that is learnt
//! goes into a [`log`] as it is learnt, which a killed run goes on from, and from which the [`report`] is drawn.
//!
//! `bench/docs/SCENARIOS.md` tells how to use it and what is measured.

mod bound;
mod case;
mod compare;
mod field;
mod file;
mod images;
mod log;
mod progress;
mod rates;
mod report;
mod schedule;
mod simulate;
mod systems;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use clap::Args;

use crate::journal::Unit;
use crate::machine::Machine;
use crate::peers::Cache;
use crate::process::scratch_dir;
use crate::report::{VITRAIL, format_value};
use crate::wan::check;
use case::Task;
use file::Scenario;
use log::{Case, Check, Log, Run};
use progress::Progress;
use rates::Rates;
use systems::{Kind, Setting};

pub use compare::run as compare;
pub use report::{ReportOptions, run as report};
pub use simulate::{SimulateOptions, run as simulate};

/// How long each probe of the self-check lasts.
const PROBE_TIME: Duration = Duration::from_secs(1);

/// Options of `bench run`.
#[derive(Args, Clone, Debug)]
pub struct RunOptions {
    /// The scenario (bench/scenarios)
    scenario: PathBuf,
    /// One repetition of the part that the file has for a few minutes
    #[arg(long)]
    quick: bool,
    /// Where the result is kept [default: bench/results/DATE-NAME]
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Go on with the run in --out, or with the newest one of this scenario
    #[arg(long)]
    resume: bool,
    /// Only these systems
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    systems: Vec<String>,
    /// Only these workloads
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    workloads: Vec<String>,
    /// Do not measure the network first; bounds are made from the topology
    #[arg(long)]
    unchecked: bool,
    /// Directory of images; built when empty [default: corpus in the cache directory]
    #[arg(long, env = "VITRAIL_CORPUS", value_name = "DIR")]
    corpus: Option<PathBuf>,
    /// Directory of vitraild and vitrail [default: that of this program]
    #[arg(long, value_name = "DIR")]
    programs: Option<PathBuf>,
    /// Scratch space; up to 4 GB for each site of a large image [default: the system's temporary directory]
    #[arg(long, value_name = "DIR")]
    scratch: Option<PathBuf>,
}

/// Where results are kept.
const RESULTS: &str = "bench/results";

/// Runs a scenario, or what is left of it, and draws its report. Fails when Vitrail failed.
pub fn run(options: &RunOptions, cache: Cache) -> Result<ExitCode> {
    let mut scenario = Scenario::load(&options.scenario, options.quick)?;
    if !options.systems.is_empty() {
        scenario.systems.clone_from(&options.systems);
    }
    let kinds = kinds(&scenario)?;
    scenario.keep_workloads(&options.workloads)?;
    let programs = match &options.programs {
        Some(dir) => dir.canonicalize()?,
        None => {
            let own = std::env::current_exe()?;
            own.parent().context("this program lies nowhere")?.into()
        }
    };
    let corpus = options.corpus.clone();
    let corpus = corpus.unwrap_or_else(|| cache.path("corpus"));
    let setting = Setting {
        images: images::prepare(&scenario, &corpus, &cache)?,
        programs,
        cache,
    };
    let mut log = open_log(options, &scenario)?;
    let kinds = install(&kinds, &setting, &mut log)?;
    let rates = if options.unchecked {
        Rates::wanted(&scenario.topology.resolve()?)
    } else {
        self_check(&scenario, &mut log)?
    };
    let scratch = scratch_dir(options.scratch.as_deref())?;
    run_cases(
        &scenario,
        &kinds,
        &setting,
        &rates,
        scratch.path(),
        &mut log,
    )?;
    report::publish(&log.dir, &log.results)?;
    let ours = |case: &&Case| case.system == VITRAIL;
    let missing = log.results.missing.iter().any(|(name, _)| name == VITRAIL);
    Ok(
        if missing
            || log
                .results
                .cases
                .iter()
                .filter(ours)
                .any(|case| !case.is_good())
        {
            eprintln!("Vitrail itself failed, see above");
            ExitCode::FAILURE
        } else {
            ExitCode::SUCCESS
        },
    )
}

/// The systems that a scenario names.
fn kinds(scenario: &Scenario) -> Result<Vec<Kind>> {
    if scenario.systems.is_empty() {
        return Ok(systems::ALL.to_vec());
    }
    let find = |name: &String| {
        let known = || systems::ALL.iter().chain(&systems::POLICIES);
        let kind = known().find(|kind| kind.name == name);
        kind.copied().with_context(|| {
            let known: Vec<_> = known().map(|kind| kind.name).collect();
            format!("no system is called {name}; there are {}", known.join(", "))
        })
    };
    scenario.systems.iter().map(find).collect()
}

fn open_log(options: &RunOptions, scenario: &Scenario) -> Result<Log> {
    let run = this_run(scenario, options.quick, false);
    let results = Path::new(RESULTS);
    if options.resume {
        let dir = match &options.out {
            Some(dir) => dir.clone(),
            None => newest(results, &scenario.name)?,
        };
        eprintln!("going on in {}", dir.display());
        return Log::resume(&dir, &run);
    }
    begin_log(options.out.as_deref(), run, &scenario.name)
}

/// What this command does, now.
fn this_run(scenario: &Scenario, quick: bool, simulated: bool) -> Run {
    Run {
        name: scenario.name.clone(),
        command: std::env::args().collect::<Vec<_>>().join(" "),
        started: jiff::Timestamp::now()
            .strftime("%Y-%m-%dT%H:%M:%SZ")
            .to_string(),
        machine: Machine::here(),
        seed: scenario.seed,
        quick,
        simulated,
        texts: scenario.texts.clone(),
    }
}

/// Begins a record in `out`, or in a new directory that is called after the day and `name`.
fn begin_log(out: Option<&Path>, run: Run, name: &str) -> Result<Log> {
    if let Some(dir) = out {
        return Log::begin(dir, run);
    }
    let day = run.started.split('T').next().unwrap_or_default();
    let name = |number: u32| match number {
        1 => format!("{day}-{name}"),
        _ => format!("{day}-{name}-{number}"),
    };
    let dir = (1..1_000)
        .map(|number| Path::new(RESULTS).join(name(number)))
        .find(|dir| !dir.exists())
        .context("a thousand runs of today")?;
    Log::begin(&dir, run)
}

/// The directory of the newest run of a scenario.
fn newest(results: &Path, name: &str) -> Result<PathBuf> {
    let entries = fs::read_dir(results).with_context(|| format!("read {}", results.display()))?;
    let mut runs = Vec::new();
    for entry in entries {
        let dir = entry?.path();
        if let Ok(found) = log::Results::read(&dir)
            && found.run.name == name
            && !found.run.simulated
        {
            runs.push((found.run.started, dir));
        }
    }
    let newest = runs.into_iter().max();
    Ok(newest
        .with_context(|| format!("no run of {name} in {}", results.display()))?
        .1)
}

/// The systems that can be had; the others go into the record as missing.
fn install(kinds: &[Kind], setting: &Setting, log: &mut Log) -> Result<Vec<Kind>> {
    let mut there = Vec::new();
    for kind in kinds {
        match (kind.install)(setting) {
            Ok(versions) => {
                for (of, version) in versions {
                    log.version(&of, &version)?;
                }
                there.push(*kind);
            }
            Err(error) => log.missing(kind.name, &format!("{error:#}"))?,
        }
    }
    Ok(there)
}

/// Measures the network, unless the run that goes on has done so; gives the rates that bounds are made from.
fn self_check(scenario: &Scenario, log: &mut Log) -> Result<Rates> {
    if let Some(check) = &log.results.check {
        return Ok(check.rates.clone());
    }
    eprintln!("measuring the network");
    let report = check::check(&scenario.topology, scenario.demand, PROBE_TIME, |_| {})?;
    let faults = report.faults();
    ensure!(
        faults.is_empty(),
        "the network is not what it should be (--unchecked does not look):\n{}",
        faults.join("\n")
    );
    let rates = Rates::measured(&scenario.topology.resolve()?, &report);
    log.check(Check {
        rates: rates.clone(),
        report: serde_json::to_value(report)?,
    })?;
    Ok(rates)
}

fn run_cases(
    scenario: &Scenario,
    kinds: &[Kind],
    setting: &Setting,
    rates: &Rates,
    scratch: &Path,
    log: &mut Log,
) -> Result<()> {
    let mut progress = Progress::new();
    let total = kinds.len() * scenario.workloads.len() * scenario.repetitions as usize;
    let mut number = 0;
    for repetition in 0..scenario.repetitions {
        // Another one begins each time, so that a slow spell hits no system alone.
        let mut kinds = kinds.to_vec();
        let count = kinds.len().max(1);
        kinds.rotate_left(repetition as usize % count);
        for workload in &scenario.workloads {
            for kind in &kinds {
                number += 1;
                if log.results.has(&workload.name, kind.name, repetition) {
                    continue;
                }
                let times = repetition + 1;
                let name = format!("{} · {} · {times}", workload.name, kind.name);
                progress.case(number, total, &name);
                let dir = scratch.join("case");
                fs::create_dir_all(&dir)?;
                let task = Task {
                    workload,
                    kind,
                    repetition,
                };
                let case = case::run(task, scenario, setting, rates, &dir, &progress);
                progress.done(&summary(&case));
                log.case(case)?;
                fs::remove_dir_all(&dir)?;
            }
        }
    }
    Ok(())
}

/// A case in a few words.
fn summary(case: &Case) -> String {
    if !case.failure.is_empty() {
        return format!("FAILED: {}", case.failure);
    }
    let bytes = format_value(case.received_bytes as f64, Unit::Bytes);
    let bound = case.bound.map_or(String::new(), |bound| {
        format!(", {:.2} of the bound", case.seconds / bound.seconds)
    });
    let failed: Vec<_> = case.pulls.iter().filter(|p| !p.error.is_empty()).collect();
    let failed = failed.first().map_or(String::new(), |first| {
        let count = failed.len();
        format!(
            "; {count} FAILED, the first at {}: {}",
            first.site, first.error
        )
    });
    format!("{:.1} s, {bytes}{bound}{failed}", case.seconds)
}
