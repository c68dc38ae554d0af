//! Two results side by side.

use std::path::Path;
use std::process::ExitCode;

use anyhow::{Result, ensure};

use super::file::Scenario;
use super::log::Results;
use super::report::summary::{Row, groups};
use super::report::table::Table;
use crate::journal::Unit;
use crate::report::{format_value, quantile};

/// Prints, for each workload and system that both have, the second result's figures divided by the first's. Fails when one
/// of the ratios is farther from 1 than `within` percent.
pub fn run(a: &Path, b: &Path, within: Option<f64>) -> Result<ExitCode> {
    let results = [Results::read(a)?, Results::read(b)?];
    let scenarios = [
        Scenario::of_run(&results[0].run)?,
        Scenario::of_run(&results[1].run)?,
    ];
    for (name, result) in [("A", &results[0]), ("B", &results[1])] {
        let run = &result.run;
        let simulated = if run.simulated { ", simulated" } else { "" };
        println!(
            "{name}: {} of {}, {}{simulated}",
            run.name, run.started, run.machine.cpu
        );
        for (of, version) in &result.versions {
            println!("   {of} {version}");
        }
    }
    if results[0].run.texts != results[1].run.texts {
        println!("The scenarios differ: compare with care.");
    }
    let [first, second] = [0, 1].map(|index: usize| groups(&scenarios[index], &results[index]));
    let (mut rows, mut far) = (Vec::new(), 0);
    for group in &first {
        let name = &group.workload.name;
        let Some(other) = second.iter().find(|other| other.workload.name == *name) else {
            continue;
        };
        for a in &group.rows {
            if let Some(b) = other.row(&a.system) {
                let ratios = ratios(group.is_storm(), a, b);
                let is_near = |ratio: f64| within.is_none_or(|w| (ratio - 1.0).abs() * 100.0 <= w);
                far += ratios.iter().filter(|ratio| !is_near(**ratio)).count();
                rows.push(row(name, group.is_storm(), a, b, ratios));
            }
        }
    }
    ensure!(
        !rows.is_empty(),
        "the two have no workload and system in common"
    );
    let header = vec![
        "time B/A",
        "pulls B/A",
        "bytes B/A",
        "workload",
        "system",
        "time A",
        "time B",
        "bytes A",
        "bytes B",
    ];
    print!("\n{}", Table { header, rows }.plain());
    if let Some(within) = within {
        println!("{far} ratios are farther than {within} % from 1");
    }
    Ok(ExitCode::from(u8::from(far > 0)))
}

/// What stands for the time of all repetitions.
fn time(storm: bool, row: &Row<'_>) -> f64 {
    row.seconds(storm, if storm { 0.95 } else { 0.5 })
}

/// Of the time, the median pull, and the bytes.
fn ratios(storm: bool, a: &Row<'_>, b: &Row<'_>) -> [f64; 3] {
    let pull = |row: &Row<'_>| quantile(&row.pull_seconds(), 0.5);
    [
        time(storm, b) / time(storm, a),
        pull(b) / pull(a),
        b.received() / a.received(),
    ]
}

fn row(workload: &str, storm: bool, a: &Row<'_>, b: &Row<'_>, ratios: [f64; 3]) -> Vec<String> {
    let time = |row: &Row<'_>| time(storm, row);
    let ratio = |ratio: f64| {
        if ratio.is_finite() {
            format!("{ratio:.3}")
        } else {
            "–".to_owned()
        }
    };
    let mark = |row: &Row<'_>, value: f64, unit| {
        let failed = if row.is_good() { "" } else { " (failures)" };
        format!("{}{failed}", format_value(value, unit))
    };
    vec![
        ratio(ratios[0]),
        ratio(ratios[1]),
        ratio(ratios[2]),
        workload.to_owned(),
        a.system.clone(),
        mark(a, time(a), Unit::Seconds),
        mark(b, time(b), Unit::Seconds),
        mark(a, a.received(), Unit::Bytes),
        mark(b, b.received(), Unit::Bytes),
    ]
}
