//! What was found: a raw line as soon as it is known, and at the end medians beside their goals.

use std::fmt::Write as _;
use std::fs::{self, File};
use std::io::Write as _;
use std::path::{Path, PathBuf};

use anyhow::Result;
use serde::Serialize;
use serde_json::json;

use super::curves::{self, Curve};
use super::flow::Track;
use crate::journal::fresh_dir;
use crate::machine::Machine;
use crate::report::quantile;

/// What a figure should be.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Goal {
    AtMost(f64),
    AtLeast(f64),
    Between(f64, f64),
    /// Only there to compare with.
    None,
}

impl Goal {
    fn text(self) -> String {
        match self {
            Self::AtMost(most) => format!("<= {most}"),
            Self::AtLeast(least) => format!(">= {least}"),
            Self::Between(least, most) => format!("{least} to {most}"),
            Self::None => String::new(),
        }
    }

    fn verdict(self, value: f64) -> &'static str {
        let met = match self {
            Self::AtMost(most) => value <= most,
            Self::AtLeast(least) => value >= least,
            Self::Between(least, most) => (least..=most).contains(&value),
            Self::None => return "",
        };
        if met { "met" } else { "MISSED" }
    }
}

/// What a figure is of. Equal ones are repetitions of each other.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(super) struct Key {
    pub(super) part: &'static str,
    pub(super) case: String,
    /// Who was measured.
    pub(super) subject: String,
    pub(super) measure: &'static str,
}

struct Row {
    key: Key,
    goal: Goal,
    values: Vec<f64>,
}

/// All figures of a run.
pub(super) struct Findings {
    dir: PathBuf,
    raw: File,
    rows: Vec<Row>,
    plots: Vec<String>,
    missing: Vec<String>,
}

impl Findings {
    /// Begins a run in a new directory under `results`.
    pub(super) fn begin(results: &Path) -> Result<Self> {
        let date = jiff::Timestamp::now().strftime("%Y-%m-%d").to_string();
        let dir = fresh_dir(results, &format!("{date}-transport"))?;
        let raw = File::create_new(dir.join("raw.jsonl"))?;
        let mut findings = Self {
            dir,
            raw,
            rows: Vec::new(),
            plots: Vec::new(),
            missing: Vec::new(),
        };
        let command: Vec<String> = std::env::args().collect();
        findings.line(&json!({"run": {"command": command, "machine": Machine::here()}}))?;
        Ok(findings)
    }

    /// Keeps one figure.
    pub(super) fn add(&mut self, key: Key, goal: Goal, value: f64) -> Result<()> {
        self.line(&json!({"key": key, "goal": goal, "value": value}))?;
        let Key {
            case,
            subject,
            measure,
            ..
        } = &key;
        let verdict = goal.verdict(value);
        eprintln!("  {value:8.3} {verdict:6} {case}, {subject}: {measure}");
        match self.rows.iter_mut().find(|row| row.key == key) {
            Some(row) => row.values.push(value),
            None => self.rows.push(Row {
                key,
                goal,
                values: vec![value],
            }),
        }
        Ok(())
    }

    /// Something that could not be measured.
    pub(super) fn missing(&mut self, what: &str, error: &anyhow::Error) -> Result<()> {
        let text = format!("{what}: {error:#}");
        eprintln!("  missing: {text}");
        self.line(&json!({"missing": text}))?;
        self.missing.push(text);
        Ok(())
    }

    /// Draws the rates and round trips of flows that ran side by side or one after the other.
    pub(super) fn draw(&mut self, name: &str, tracks: &[(String, Track)]) -> Result<()> {
        let drawn: Vec<Curve> = tracks
            .iter()
            .map(|(subject, track)| Curve::of(subject, track))
            .collect();
        self.line(&json!({"curves": name, "of": drawn}))?;
        let file = format!("{}.svg", name.replace([' ', ',', '/', '%'], "-"));
        if !self.plots.contains(&file) {
            curves::draw(&self.dir.join(&file), name, &drawn)?;
            self.plots.push(file);
        }
        Ok(())
    }

    fn line(&mut self, value: &serde_json::Value) -> Result<()> {
        writeln!(self.raw, "{value}")?;
        Ok(())
    }

    /// Prints the table and writes `REPORT.md`.
    pub(super) fn publish(&self) -> Result<()> {
        let mut page = String::from("# Transport\n\n");
        let machine = Machine::here();
        writeln!(
            page,
            "{}, {}, load {}.\n",
            machine.cpu, machine.system, machine.load
        )?;
        page += "Medians, with the range of all repetitions. Goodput is payload over the link's rate \
                 in IP bits, of which headers leave 0.958. All samples are in `raw.jsonl`.\n\n";
        page += "| median | range | goal | | part | case | subject | measure |\n|---|---|---|---|---|---|---|---|\n";
        for row in &self.rows {
            let Key {
                part,
                case,
                subject,
                measure,
            } = &row.key;
            let [low, median, high] = [0.0, 0.5, 1.0].map(|q| quantile(&row.values, q));
            let (goal, verdict) = (row.goal.text(), row.goal.verdict(median));
            writeln!(
                page,
                "| {median:.3} | {low:.3}-{high:.3} ({}) | {goal} | {verdict} | {part} | {case} | {subject} | {measure} |",
                row.values.len()
            )?;
            println!(
                "{median:8.3}  {goal:12} {verdict:6} {part:8} {case:34} {subject:18} {measure}"
            );
        }
        for text in &self.missing {
            writeln!(page, "\nMissing: {text}")?;
            println!("missing: {text}");
        }
        for file in &self.plots {
            writeln!(page, "\n![{file}]({file})")?;
        }
        fs::write(self.dir.join("REPORT.md"), page)?;
        eprintln!("written: {}", self.dir.display());
        Ok(())
    }
}
