//! The raw record of a run, and how a run goes on from it.
//!
//! `raw.jsonl` has one line for each thing learnt, written when it is known. What a killed run leaves is a whole
//! number of lines and perhaps a torn one, which is cut off.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::bound::Bound;
use super::rates::Rates;
use crate::machine::Machine;

const RAW: &str = "raw.jsonl";

/// One line.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Line {
    Run(Run),
    Version { of: String, version: String },
    Check(Check),
    Missing { system: String, reason: String },
    Case(Box<Case>),
}

/// What a run is.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Run {
    /// Name of the scenario.
    pub(super) name: String,
    /// As typed.
    pub(super) command: String,
    /// UTC.
    pub(super) started: String,
    /// Where.
    pub(super) machine: Machine,
    /// Of schedules and losses.
    pub(super) seed: u64,
    /// Whether only the file's quick part was run.
    pub(super) quick: bool,
    /// Whether it was simulated in virtual time.
    #[serde(default)]
    pub(super) simulated: bool,
    /// The scenario and the topology that it names.
    pub(super) texts: Vec<String>,
}

/// What the self-check said.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Check {
    /// The rates that bounds are made from.
    pub(super) rates: Rates,
    /// The report of `bench wan check`.
    pub(super) report: Value,
}

/// One workload with one system.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Case {
    /// The workload's name.
    pub(super) workload: String,
    /// The system's name.
    pub(super) system: String,
    /// Counts from 0.
    pub(super) repetition: u32,
    /// Why the case has no figures; empty when it has.
    pub(super) failure: String,
    /// From the first pull's moment to the end of the last.
    pub(super) seconds: f64,
    /// Each pull, in the order of the schedule.
    pub(super) pulls: Vec<PullResult>,
    /// The least time.
    pub(super) bound: Option<Bound>,
    /// IP bytes that came to the receivers.
    pub(super) received_bytes: u64,
    /// IP bytes that came anywhere.
    pub(super) wan_bytes: u64,
    /// Bytes of one copy as the system ships it; `None` when that is only seen at the interface.
    pub(super) payload_bytes: Option<f64>,
    /// IP bytes that came over each link that carried any.
    pub(super) links: Vec<LinkBytes>,
    /// What had come to each site by when.
    pub(super) samples: Vec<Sample>,
    /// 99th percentile of the emulator's lateness, in microseconds.
    pub late_p99_us: f64,
    /// An example of each command that was measured.
    pub(super) commands: Vec<String>,
    /// What the system itself says.
    pub(super) facts: Value,
}

/// One pull.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct PullResult {
    /// Planned moment, in seconds.
    pub(super) at: f64,
    /// Where.
    pub(super) site: String,
    /// What.
    pub(super) image: String,
    /// From the planned moment to the end; for a failed one, until it failed.
    pub(super) seconds: f64,
    /// Empty when the right bytes came.
    pub(super) error: String,
}

/// IP bytes from one site to another.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct LinkBytes {
    /// Sender.
    pub(super) from: String,
    /// Receiver.
    pub(super) to: String,
    /// Delivered.
    pub(super) bytes: u64,
}

/// A reading of the counters.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Sample {
    /// Seconds after the start.
    pub(super) at: f64,
    /// IP bytes that have come to each site since the start, in the order of the topology.
    pub(super) rx: Vec<u64>,
}

/// All that is in a record.
#[derive(Debug)]
pub(super) struct Results {
    /// What the run is.
    pub(super) run: Run,
    /// Versions of all that took part.
    pub(super) versions: Vec<(String, String)>,
    /// The self-check, once made.
    pub(super) check: Option<Check>,
    /// Systems that could not be had, with the reason.
    pub(super) missing: Vec<(String, String)>,
    /// Cases in the order in which they were done.
    pub(super) cases: Vec<Case>,
}

impl Results {
    /// Reads the record of a run.
    pub(super) fn read(dir: &Path) -> Result<Self> {
        let path = dir.join(RAW);
        let text = fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
        let mut lines = text.lines().map(serde_json::from_str::<Line>);
        let Some(Ok(Line::Run(run))) = lines.next() else {
            bail!("{} does not begin with a run", path.display());
        };
        let mut results = Self::new(run);
        for line in lines {
            results.add(line.with_context(|| format!("a line of {}", path.display()))?);
        }
        Ok(results)
    }

    pub(super) fn new(run: Run) -> Self {
        Self {
            run,
            versions: Vec::new(),
            check: None,
            missing: Vec::new(),
            cases: Vec::new(),
        }
    }

    fn add(&mut self, line: Line) {
        match line {
            Line::Run(run) => self.run = run,
            Line::Version { of, version } => self.versions.push((of, version)),
            Line::Check(check) => self.check = Some(check),
            Line::Missing { system, reason } => self.missing.push((system, reason)),
            Line::Case(case) => {
                let is_same = |old: &Case| {
                    (&old.workload, &old.system, old.repetition)
                        == (&case.workload, &case.system, case.repetition)
                };
                self.cases.retain(|old| !is_same(old));
                self.cases.push(*case);
            }
        }
    }

    /// Whether this case has been done and gave figures.
    pub(super) fn has(&self, workload: &str, system: &str, repetition: u32) -> bool {
        self.cases.iter().any(|case| {
            (case.workload.as_str(), case.system.as_str()) == (workload, system)
                && case.repetition == repetition
                && case.failure.is_empty()
        })
    }
}

/// The record of a run in progress.
#[derive(Debug)]
pub(super) struct Log {
    /// Where it lies.
    pub(super) dir: PathBuf,
    /// What is in it.
    pub(super) results: Results,
    file: File,
}

impl Log {
    /// Begins a record in an empty directory, which is made if needed.
    pub(super) fn begin(dir: &Path, run: Run) -> Result<Self> {
        fs::create_dir_all(dir).with_context(|| format!("create {}", dir.display()))?;
        let path = dir.join(RAW);
        let file = File::create_new(&path)
            .with_context(|| format!("{} is there: --resume goes on", path.display()))?;
        fs::write(dir.join("scenario.toml"), &run.texts[0])?;
        let mut log = Self {
            dir: dir.to_owned(),
            results: Results::new(run.clone()),
            file,
        };
        log.write(Line::Run(run))?;
        Ok(log)
    }

    /// Goes on with the record in `dir`, which must be one of the same scenario.
    pub(super) fn resume(dir: &Path, run: &Run) -> Result<Self> {
        let path = dir.join(RAW);
        let text = fs::read(&path).with_context(|| format!("read {}", path.display()))?;
        let whole = text
            .iter()
            .rposition(|&byte| byte == b'\n')
            .map_or(0, |end| end + 1);
        let file = File::options().append(true).open(&path)?;
        file.set_len(whole as u64)?;
        let results = Results::read(dir)?;
        let kind = |run: &Run| (run.quick, run.simulated);
        let is_same = results.run.texts == run.texts && kind(&results.run) == kind(run);
        ensure!(is_same, "{} is of another scenario", dir.display());
        Ok(Self {
            dir: dir.to_owned(),
            results,
            file,
        })
    }

    /// Records a version, unless it is there already.
    pub(super) fn version(&mut self, of: &str, version: &str) -> Result<()> {
        let entry = (of.to_owned(), version.to_owned());
        if self.results.versions.contains(&entry) {
            return Ok(());
        }
        let (of, version) = entry;
        self.write(Line::Version { of, version })
    }

    /// Records the self-check.
    pub(super) fn check(&mut self, check: Check) -> Result<()> {
        self.write(Line::Check(check))
    }

    /// Records a system that cannot be measured.
    pub(super) fn missing(&mut self, system: &str, reason: &str) -> Result<()> {
        eprintln!("missing: {system}: {reason}");
        if self
            .results
            .missing
            .iter()
            .any(|(known, _)| known == system)
        {
            return Ok(());
        }
        let (system, reason) = (system.to_owned(), reason.to_owned());
        self.write(Line::Missing { system, reason })
    }

    /// Records what a case gave.
    pub(super) fn case(&mut self, case: Case) -> Result<()> {
        self.write(Line::Case(Box::new(case)))
    }

    fn write(&mut self, line: Line) -> Result<()> {
        let mut text = serde_json::to_string(&line)?;
        text.push('\n');
        self.file
            .write_all(text.as_bytes())
            .context("write the raw record")?;
        self.results.add(line);
        Ok(())
    }
}

impl Case {
    /// Whether it has figures, and every pull ended well.
    pub(super) fn is_good(&self) -> bool {
        self.failure.is_empty() && self.pulls.iter().all(|pull| pull.error.is_empty())
    }

    /// One that has no figures yet.
    pub(super) fn new(workload: &str, system: &str, repetition: u32) -> Self {
        Self {
            workload: workload.to_owned(),
            system: system.to_owned(),
            repetition,
            failure: String::new(),
            seconds: 0.0,
            pulls: Vec::new(),
            bound: None,
            received_bytes: 0,
            wan_bytes: 0,
            payload_bytes: None,
            links: Vec::new(),
            samples: Vec::new(),
            late_p99_us: 0.0,
            commands: Vec::new(),
            facts: Value::Null,
        }
    }
}

/// Records to test with.
#[cfg(test)]
pub(super) mod samples {
    use super::*;

    pub(in crate::scenario) fn run(text: &str) -> Run {
        Run {
            name: "test".into(),
            command: "bench run".into(),
            started: "2026-01-01T00:00:00Z".into(),
            machine: Machine::here(),
            seed: 1,
            quick: false,
            simulated: false,
            texts: vec![text.into()],
        }
    }

    pub(in crate::scenario) fn case(system: &str, failure: &str) -> Case {
        Case {
            failure: failure.into(),
            ..Case::new("cold", system, 0)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::samples::{case, run};
    use super::*;

    #[test]
    fn a_killed_run_goes_on_where_it_was() {
        let parent = tempfile::tempdir().unwrap();
        let dir = parent.path().join("run");
        let mut log = Log::begin(&dir, run("a")).unwrap();
        log.version("nginx", "1").unwrap();
        log.case(case("vitrail", "")).unwrap();
        drop(log);
        // Killed in the middle of a line.
        let mut raw = fs::read(dir.join(RAW)).unwrap();
        let whole = raw.len();
        raw.extend(b"{\"case\":{\"workload\":\"co");
        fs::write(dir.join(RAW), raw).unwrap();

        assert!(Log::begin(&dir, run("a")).is_err());
        assert!(Log::resume(&dir, &run("b")).is_err());
        let mut log = Log::resume(&dir, &run("a")).unwrap();
        assert_eq!(fs::metadata(dir.join(RAW)).unwrap().len(), whole as u64);
        assert!(log.results.has("cold", "vitrail", 0));
        assert!(!log.results.has("cold", "nginx", 0));
        assert!(!log.results.has("cold", "vitrail", 1));
        log.case(case("nginx", "no port")).unwrap();
        assert!(!log.results.has("cold", "nginx", 0));
        log.case(case("nginx", "")).unwrap();
        log.version("nginx", "1").unwrap();

        let results = Results::read(&dir).unwrap();
        assert_eq!(results.versions, [("nginx".into(), "1".into())]);
        let systems: Vec<_> = results.cases.iter().map(|case| &case.system).collect();
        assert_eq!(systems, ["vitrail", "nginx"]);
    }
}
