//! Two results side by side.

use std::path::Path;

use anyhow::{Result, ensure};

use super::file::Scenario;
use super::log::Results;
use super::report::summary::{Row, groups};
use super::report::table::Table;
use crate::journal::Unit;
use crate::report::format_value;

/// Prints, for each workload and system that both have, the second result's figures divided by the first's.
pub fn run(a: &Path, b: &Path) -> Result<()> {
    let results = [Results::read(a)?, Results::read(b)?];
    let scenarios = [
        Scenario::of_run(&results[0].run)?,
        Scenario::of_run(&results[1].run)?,
    ];
    for (name, result) in [("A", &results[0]), ("B", &results[1])] {
        let run = &result.run;
        println!(
            "{name}: {} of {}, {}",
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
    let mut rows = Vec::new();
    for group in &first {
        let name = &group.workload.name;
        let Some(other) = second.iter().find(|other| other.workload.name == *name) else {
            continue;
        };
        for a in &group.rows {
            if let Some(b) = other.row(&a.system) {
                rows.push(row(name, group.is_storm(), a, b));
            }
        }
    }
    ensure!(
        !rows.is_empty(),
        "the two have no workload and system in common"
    );
    let header = vec![
        "time B/A",
        "bytes B/A",
        "workload",
        "system",
        "time A",
        "time B",
        "bytes A",
        "bytes B",
    ];
    print!("\n{}", Table { header, rows }.plain());
    Ok(())
}

fn row(workload: &str, storm: bool, a: &Row<'_>, b: &Row<'_>) -> Vec<String> {
    let quantile = if storm { 0.95 } else { 0.5 };
    let time = |row: &Row<'_>| row.seconds(storm, quantile);
    let ratio = |a: f64, b: f64| {
        let good = a.is_finite() && b.is_finite();
        if good {
            format!("{:.3}", b / a)
        } else {
            "–".to_owned()
        }
    };
    let mark = |row: &Row<'_>, value: f64, unit| {
        let failed = if row.is_good() { "" } else { " (failures)" };
        format!("{}{failed}", format_value(value, unit))
    };
    vec![
        ratio(time(a), time(b)),
        ratio(a.received(), b.received()),
        workload.to_owned(),
        a.system.clone(),
        mark(a, time(a), Unit::Seconds),
        mark(b, time(b), Unit::Seconds),
        mark(a, a.received(), Unit::Bytes),
        mark(b, b.received(), Unit::Bytes),
    ]
}
