//! What an experiment found: one line of JSON as soon as it is known, and a table at the end.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use serde::Serialize;
use serde_json::Value;

use crate::machine::Machine;
use crate::wan::Counters;

/// One measurement beside what it is compared with.
#[derive(Debug, Serialize)]
pub(super) struct Finding {
    /// The experiment.
    pub(super) experiment: &'static str,
    /// Under which conditions.
    pub(super) case: String,
    /// What the ratio is of.
    pub(super) what: &'static str,
    /// The measured value divided by what it is compared with.
    pub(super) ratio: f64,
    /// What the ratio should be.
    pub(super) goal: Goal,
    /// The values behind it.
    pub(super) detail: Value,
}

/// What a ratio should be.
#[derive(Clone, Copy, Debug, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Goal {
    AtMost(f64),
    AtLeast(f64),
    /// Only there to compare with.
    None,
}

impl Goal {
    fn text(self) -> String {
        match self {
            Self::AtMost(bound) => format!("<= {bound:.2}"),
            Self::AtLeast(bound) => format!(">= {bound:.2}"),
            Self::None => String::new(),
        }
    }

    fn verdict(self, ratio: f64) -> &'static str {
        match self {
            Self::AtMost(bound) if ratio > bound => "missed",
            Self::AtLeast(bound) if ratio < bound => "missed",
            Self::None => "",
            _ => "met",
        }
    }
}

/// All findings of a run.
#[derive(Debug)]
pub(super) struct Findings {
    all: Vec<Finding>,
    machine: Machine,
    directory: PathBuf,
    raw: File,
}

impl Findings {
    /// Appends to `raw.jsonl` in `directory`; the first line of each run is the machine.
    pub(super) fn new(directory: &Path) -> Result<Self> {
        fs::create_dir_all(directory).with_context(|| format!("make {}", directory.display()))?;
        let path = directory.join("raw.jsonl");
        let raw = File::options().create(true).append(true).open(&path);
        let mut raw = raw.with_context(|| format!("open {}", path.display()))?;
        let machine = Machine::here();
        writeln!(raw, "{}", serde_json::to_string(&machine)?)?;
        Ok(Self {
            all: Vec::new(),
            machine,
            directory: directory.into(),
            raw,
        })
    }

    /// Keeps and shows a finding.
    pub(super) fn add(&mut self, finding: Finding) -> Result<()> {
        let line = serde_json::to_string(&finding)?;
        eprintln!("{line}");
        writeln!(self.raw, "{line}")?;
        self.all.push(finding);
        Ok(())
    }

    /// Writes `REPORT.md`: the run's findings so far.
    pub(super) fn write_report(&self) -> Result<()> {
        let mut page = format!(
            "# Several sites\n\n`{}`\n\nAll values behind the ratios are in `raw.jsonl`.\n\n\
             | ratio | goal | | experiment | case | of |\n|---:|---|---|---|---|---|\n",
            serde_json::to_string(&self.machine)?
        );
        for finding in &self.all {
            page += &format!(
                "| {:.3} | {} | {} | {} | {} | {} |\n",
                finding.ratio,
                finding.goal.text(),
                finding.goal.verdict(finding.ratio),
                finding.experiment,
                finding.case,
                finding.what,
            );
        }
        fs::write(self.directory.join("REPORT.md"), page)?;
        Ok(())
    }

    /// The table, the ratio first.
    pub(super) fn print(&self) {
        println!(
            "{:>7}  {:9} {:6}  {:10} {:32} of",
            "ratio", "goal", "", "experiment", "case"
        );
        for finding in &self.all {
            println!(
                "{:>7.3}  {:9} {:6}  {:10} {:32} {}",
                finding.ratio,
                finding.goal.text(),
                finding.goal.verdict(finding.ratio),
                finding.experiment,
                finding.case,
                finding.what,
            );
        }
    }
}

/// Fails when the emulator could not do what the topology says.
pub(super) fn check_network(counters: &Counters) -> Result<()> {
    let (overflow, refused) = (counters.overflow.packets, counters.refused.packets);
    ensure!(
        overflow == 0 && refused == 0,
        "the emulator could not keep up ({overflow} packets over, {refused} refused): the run is void"
    );
    Ok(())
}
