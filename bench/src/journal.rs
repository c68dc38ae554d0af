//! The raw record of a run: every figure as one JSON line, written as soon as it is known.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use serde::Serialize;

use crate::machine::Machine;

/// What is measured. The key names it in raw records and plots, and never changes its meaning.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub struct Measure {
    /// Dotted name.
    pub key: &'static str,
    /// What people read in tables.
    pub title: &'static str,
    /// Unit of its values.
    pub unit: Unit,
    /// Which way is good.
    pub better: Better,
}

/// Units of raw values; reports scale them to fit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Unit {
    /// Bytes.
    Bytes,
    /// Seconds.
    Seconds,
    /// Seconds of CPU time per 10⁹ bytes of image.
    SecondsPerGb,
    /// Bytes per second.
    BytesPerSecond,
    /// Requests per second.
    PerSecond,
    /// A bare count.
    Count,
}

/// Direction of an improvement.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Better {
    /// Less is better.
    Less,
    /// More is better.
    More,
}

/// One line of the record.
#[derive(Debug, Serialize)]
#[serde(rename_all = "snake_case")]
enum Line<'a> {
    Run {
        name: &'a str,
        command: String,
        started: String,
        machine: &'a Machine,
    },
    Version {
        of: &'a str,
        version: &'a str,
    },
    Value {
        measure: &'static str,
        unit: Unit,
        subject: &'a str,
        value: f64,
    },
    Times {
        measure: &'static str,
        unit: Unit,
        subject: &'a str,
        seconds: Vec<f64>,
    },
    Missing {
        subject: &'a str,
        reason: String,
    },
    Note {
        text: &'a str,
    },
}

/// What one subject scored in one measure over all repetitions.
#[derive(Debug)]
pub struct Series {
    /// The measure.
    pub measure: &'static Measure,
    /// Who was measured.
    pub subject: String,
    /// One value per repetition, or one per request when `is_distribution`.
    pub values: Vec<f64>,
    /// Whether the values are single requests, to be reported by percentiles.
    pub is_distribution: bool,
}

/// A run in progress: the raw file and, in memory, what the report needs.
#[derive(Debug)]
pub struct Journal {
    /// Name of the experiment.
    pub name: String,
    /// Where the raw record, the report and the plots lie.
    pub dir: PathBuf,
    /// When the run began, UTC.
    pub started: String,
    /// The command as typed.
    pub command: String,
    /// Where it runs.
    pub machine: Machine,
    /// Versions, in the order they were noted.
    pub versions: Vec<(String, String)>,
    /// All series, in the order of their first value.
    pub series: Vec<Series>,
    /// Subjects that could not be measured, with the reason.
    pub missing: Vec<(String, String)>,
    /// Remarks on how to read the figures.
    pub notes: Vec<String>,
    raw: File,
}

impl Journal {
    /// Begins a run: makes `<results>/<date>-<name>` (with a number behind it when that exists) and
    /// writes the first line of its `raw.jsonl`.
    pub fn begin(results: &Path, name: &str) -> Result<Self> {
        let started = jiff::Timestamp::now()
            .strftime("%Y-%m-%dT%H:%M:%SZ")
            .to_string();
        let dir = fresh_dir(results, &format!("{}-{name}", &started[..10]))?;
        let raw = File::create_new(dir.join("raw.jsonl"))?;
        let mut journal = Self {
            name: name.to_owned(),
            dir,
            started: started.clone(),
            command: std::env::args().collect::<Vec<_>>().join(" "),
            machine: Machine::here(),
            versions: Vec::new(),
            series: Vec::new(),
            missing: Vec::new(),
            notes: Vec::new(),
            raw,
        };
        let (command, machine) = (journal.command.clone(), journal.machine.clone());
        journal.write(&Line::Run {
            name,
            command,
            started,
            machine: &machine,
        })?;
        Ok(journal)
    }

    /// Records one value.
    pub fn value(&mut self, measure: &'static Measure, subject: &str, value: f64) -> Result<()> {
        self.write(&Line::Value {
            measure: measure.key,
            unit: measure.unit,
            subject,
            value,
        })?;
        self.series_of(measure, subject, false).values.push(value);
        Ok(())
    }

    /// Records the times of single requests.
    pub fn times(
        &mut self,
        measure: &'static Measure,
        subject: &str,
        times: &[Duration],
    ) -> Result<()> {
        let seconds: Vec<f64> = times.iter().map(Duration::as_secs_f64).collect();
        self.series_of(measure, subject, true)
            .values
            .extend(&seconds);
        self.write(&Line::Times {
            measure: measure.key,
            unit: measure.unit,
            subject,
            seconds,
        })
    }

    /// Records a version of something that takes part.
    pub fn version(&mut self, of: &str, version: &str) -> Result<()> {
        self.versions.push((of.to_owned(), version.to_owned()));
        self.write(&Line::Version { of, version })
    }

    /// Records that a subject could not be measured.
    pub fn missing(&mut self, subject: &str, error: &anyhow::Error) -> Result<()> {
        let reason = format!("{error:#}");
        eprintln!("missing: {subject}: {reason}");
        self.missing.push((subject.to_owned(), reason.clone()));
        self.write(&Line::Missing { subject, reason })
    }

    /// Records a remark that belongs beside the figures.
    pub fn note(&mut self, text: &str) -> Result<()> {
        self.notes.push(text.to_owned());
        self.write(&Line::Note { text })
    }

    fn series_of(
        &mut self,
        measure: &'static Measure,
        subject: &str,
        is_distribution: bool,
    ) -> &mut Series {
        let known = |series: &Series| series.measure == measure && series.subject == subject;
        let index = self.series.iter().position(known).unwrap_or_else(|| {
            let subject = subject.to_owned();
            self.series.push(Series {
                measure,
                subject,
                values: Vec::new(),
                is_distribution,
            });
            self.series.len() - 1
        });
        &mut self.series[index]
    }

    fn write(&mut self, line: &Line<'_>) -> Result<()> {
        let mut text = serde_json::to_string(line)?;
        text.push('\n');
        self.raw
            .write_all(text.as_bytes())
            .context("write the raw record")
    }
}

/// Makes `<results>/<name>`, with a number behind it when that exists.
pub(crate) fn fresh_dir(results: &Path, name: &str) -> Result<PathBuf> {
    fs::create_dir_all(results).with_context(|| format!("create {}", results.display()))?;
    for number in 1..1000 {
        let suffix = if number == 1 {
            String::new()
        } else {
            format!("-{number}")
        };
        let dir = results.join(format!("{name}{suffix}"));
        match fs::create_dir(&dir) {
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {}
            made => return made.map(|()| dir).context("create the run's directory"),
        }
    }
    anyhow::bail!("a thousand runs of {name} in {}", results.display())
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIZE: Measure = Measure {
        key: "size",
        title: "Size",
        unit: Unit::Bytes,
        better: Better::Less,
    };
    const LATENCY: Measure = Measure {
        key: "latency",
        title: "Latency",
        unit: Unit::Seconds,
        better: Better::Less,
    };

    #[test]
    fn every_figure_is_one_line_and_runs_do_not_collide() {
        let results = tempfile::tempdir().unwrap();
        let mut journal = Journal::begin(results.path(), "test").unwrap();
        journal.value(&SIZE, "a", 1.0).unwrap();
        journal.value(&SIZE, "b", 2.0).unwrap();
        journal.value(&SIZE, "a", 3.0).unwrap();
        journal
            .times(
                &LATENCY,
                "a",
                &[Duration::from_millis(1), Duration::from_millis(2)],
            )
            .unwrap();
        journal
            .missing("c", &anyhow::anyhow!("no such package"))
            .unwrap();

        assert_eq!(journal.series.len(), 3);
        assert_eq!(journal.series[0].values, [1.0, 3.0]);
        let raw = fs::read_to_string(journal.dir.join("raw.jsonl")).unwrap();
        let lines: Vec<serde_json::Value> = raw
            .lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect();
        assert_eq!(lines.len(), 6);
        assert_eq!(
            lines[4]["times"]["seconds"],
            serde_json::json!([0.001, 0.002])
        );
        assert_eq!(lines[5]["missing"]["reason"], "no such package");

        let second = Journal::begin(results.path(), "test").unwrap();
        assert_ne!(second.dir, journal.dir);
    }
}
