//! From the record of a run to what people read: tables on the terminal, a Markdown page, and one HTML page with plots.

mod charts;
mod html;
pub(super) mod summary;
mod svg;
pub(super) mod table;

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Result;
use clap::Args;

use super::file::Scenario;
use super::log::Results;
use crate::journal::Unit;
use crate::report::format_value;
use crate::wan::Rate;
use crate::wan::check::mbit;
use summary::{Group, groups};
use table::table;

/// Options of `bench report`.
#[derive(Args, Clone, Debug)]
pub struct ReportOptions {
    /// Directory of a result
    dir: PathBuf,
}

/// Draws the report of a run again.
pub fn run(options: &ReportOptions) -> Result<()> {
    publish(&options.dir, &Results::read(&options.dir)?)
}

/// Prints the tables and writes `REPORT.md` and `report.html`.
pub(super) fn publish(dir: &Path, results: &Results) -> Result<()> {
    let scenario = Scenario::of_run(&results.run)?;
    let groups = groups(&scenario, results);
    for group in &groups {
        println!("\n{}: {}", group.workload.name, group.text());
        print!("{}", table(group).plain());
    }
    for (system, reason) in &results.missing {
        println!("missing: {system}: {reason}");
    }
    fs::write(dir.join("REPORT.md"), markdown(results, &groups))?;
    let page = html::page(&scenario, results, &groups);
    fs::write(dir.join("report.html"), page)?;
    eprintln!("written: {}", dir.display());
    Ok(())
}

/// How to read the figures.
fn explanation() -> &'static str {
    "Ratios are Vitrail's figure divided by the other system's: below 1, Vitrail takes less. Of several repetitions the median \
     counts; in storms ratios compare the 95th percentile. The bound is the least time that the measured links allow for the \
     bytes that the system has to bring. WAN bytes are IP packets at the interfaces of the receivers, headers and \
     retransmissions included; copies are these bytes divided by those of one copy for each receiver."
}

/// Where, when and what, a line each.
fn about(results: &Results) -> Vec<String> {
    let (run, machine) = (&results.run, &results.run.machine);
    let memory = format_value(machine.memory as f64, Unit::Bytes);
    let mut lines = vec![
        format!("{} · seed {} · {}", run.started, run.seed, run.command),
        format!(
            "{}, {memory}, {}. Load when it began: {}.",
            machine.cpu, machine.system, machine.load
        ),
    ];
    let late = results
        .cases
        .iter()
        .map(|case| case.late_p99_us)
        .fold(0.0, f64::max);
    let late = format_value(late / 1e6, Unit::Seconds);
    let check = match &results.check {
        None => "The network was not measured; bounds are those of the topology.".to_owned(),
        Some(check) => {
            let ceiling = check.report["ceiling"].as_str().unwrap_or_default();
            let ceiling = ceiling.parse::<Rate>().map_or("unknown".to_owned(), mbit);
            format!(
                "The network was measured and found right; the emulator's ceiling is {ceiling}."
            )
        }
    };
    lines.push(format!(
        "{check} Packets were at most {late} late (p99, worst case)."
    ));
    lines
}

fn markdown(results: &Results, groups: &[Group<'_>]) -> String {
    let mut page = format!("# {}\n\n", results.run.name);
    for line in about(results) {
        page += &format!("{line}\n\n");
    }
    page += &format!(
        "{}\n\nPlots are in `report.html`, all samples in `raw.jsonl`.\n",
        explanation()
    );
    for (system, reason) in &results.missing {
        page += &format!("\n**Missing: {system}**: {reason}\n");
    }
    for group in groups {
        let table = table(group).markdown();
        page += &format!(
            "\n## {}\n\n{}\n\n{table}",
            group.workload.name,
            group.text()
        );
        for row in &group.rows {
            let (_, pull) = row.failed_pulls();
            for reason in row.failures.iter().copied().chain(pull) {
                page += &format!("\n{} failed: {}\n", row.system, reason.replace('\n', " "));
            }
        }
    }
    let versions = results.versions.iter();
    let versions: String = versions
        .map(|(of, version)| format!("- {of}: {version}\n"))
        .collect();
    page += &format!(
        "\n## Versions\n\n{versions}\n## Commands\n\n```\n{}```\n",
        html::commands(results)
    );
    page
}
