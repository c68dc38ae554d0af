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
fn explanation(results: &Results) -> &'static str {
    if results.run.simulated {
        return "Simulated in virtual time: every site runs the product's planner, links are shared max-min fairly, and real \
                images are cut by the product's chunker. Nothing is lost or late, and processors and disks take no time. \
                The bound is the least time that the topology's links allow for the bytes that have to come. WAN bytes \
                are payload ÷ 0.96; copies are these bytes divided by those of one copy for each receiver.";
    }

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
    if run.simulated {
        return lines;
    }
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
        explanation(results)
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scenario::log::samples::{case, run};
    use crate::scenario::log::{Case, PullResult, Sample};

    const SCENARIO: &str = r#"
name = "test"
topology = { name = "two", sites = [{ name = "a", up = "8Mbit/s" }, { name = "b" }, { name = "c" }] }
images = { image = { from = "bookworm-base" } }
workloads = [{ name = "cold", work = { kind = "pull", image = "image", holders = ["a"], at = ["b"] } }]
"#;

    fn good(system: &str, seconds: f64, received_bytes: u64) -> Case {
        let pull = PullResult {
            at: 0.0,
            site: "b".into(),
            image: "image".into(),
            seconds,
            error: String::new(),
        };
        let sample = |at| Sample {
            at,
            rx: vec![0, (at / seconds * received_bytes as f64) as u64, 0],
        };
        Case {
            seconds,
            pulls: vec![pull],
            received_bytes,
            samples: [0.0, seconds / 2.0, seconds].map(sample).into(),
            ..case(system, "")
        }
    }

    fn results() -> Results {
        let mut results = Results::new(run(SCENARIO));
        let cases = [
            good("vitrail", 10.0, 4_000_000),
            good("nginx", 40.0, 8_000_000),
            case("rsync", "no <port>"),
        ];
        results.cases.extend(cases);
        results.missing.push(("casync".into(), "no package".into()));
        results
    }

    #[test]
    fn ratios_are_ours_by_theirs_and_failures_are_named() {
        let results = results();
        let scenario = Scenario::of_run(&results.run).unwrap();
        let groups = groups(&scenario, &results);
        let table = table(&groups[0]);
        let cells = |system: &str| {
            let row = table.rows.iter().find(|row| row[2] == system).unwrap();
            [row[0].as_str(), &row[1], &row[3], &row[8]]
        };
        assert_eq!(cells("vitrail"), ["–", "–", "10.0 s", ""]);
        assert_eq!(cells("nginx"), ["0.25", "0.50", "40.0 s", ""]);
        assert_eq!(cells("rsync"), ["–", "–", "–", "1 runs"]);
    }

    #[test]
    fn the_page_stands_alone_and_keeps_nothing_back() {
        let results = results();
        let dir = tempfile::tempdir().unwrap();
        publish(dir.path(), &results).unwrap();
        let page = fs::read_to_string(dir.path().join("report.html")).unwrap();
        for foreign in ["<script", "<link", "src=", "href=", "@import", "url("] {
            assert!(!page.contains(foreign), "{foreign}");
        }
        let markdown = fs::read_to_string(dir.path().join("REPORT.md")).unwrap();
        for text in [&page, &markdown] {
            for word in ["vitrail", "nginx", "rsync", "casync", "no package", "0.25"] {
                assert!(text.contains(word), "{word}");
            }
        }
        assert!(page.contains("no &lt;port&gt;"));
        // Bars of time and bytes, and a timeline and a matrix of links for each of the two.
        assert_eq!(page.matches("<svg").count(), 6);
    }
}
