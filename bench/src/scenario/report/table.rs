//! The table of a workload, ratios first.

use super::summary::{Group, Row};
use crate::journal::Unit;
use crate::report::{VITRAIL, format_value};

/// Cells of text under a header.
#[derive(Debug)]
pub(crate) struct Table {
    pub(crate) header: Vec<&'static str>,
    pub(crate) rows: Vec<Vec<String>>,
}

/// What stands where there is nothing to say.
const NOTHING: &str = "–";

/// The table of a workload: how Vitrail compares with each system, then each system's own figures.
pub(crate) fn table(group: &Group<'_>) -> Table {
    let storm = group.is_storm();
    let mut header = vec!["time ratio", "bytes ratio", "system"];
    header.extend(if storm {
        ["p50", "p95", "p99"].as_slice()
    } else {
        ["time", "worst", "÷ bound"].as_slice()
    });
    header.extend(["WAN bytes in", "copies", "failed"]);
    let ours = group.row(VITRAIL).filter(|row| !row.cases.is_empty());
    let row = |row: &Row<'_>| {
        let ratio = |ours: Option<f64>, theirs: f64| match ours.map(|ours| ours / theirs) {
            Some(ratio) if ratio.is_finite() && row.system != VITRAIL => format!("{ratio:.2}"),
            _ => NOTHING.to_owned(),
        };
        // In a storm the tail is what people wait for.
        let compared = if storm { 0.95 } else { 0.5 };
        let time = |row: &Row<'_>| row.seconds(storm, compared);
        let seconds = |q| show(row.seconds(storm, q), Unit::Seconds);
        let plain =
            |value: Option<f64>| value.map_or(NOTHING.to_owned(), |value| format!("{value:.2}"));
        let mut cells = vec![
            ratio(ours.map(time), time(row)),
            ratio(ours.map(|ours| ours.received()), row.received()),
            row.system.clone(),
        ];
        if storm {
            cells.extend([0.5, 0.95, 0.99].map(seconds));
        } else {
            cells.extend([seconds(0.5), seconds(1.0), plain(row.of_bound())]);
        }
        cells.push(show(row.received(), Unit::Bytes));
        cells.push(plain(
            row.copies(group.plan.receivers.len()).filter(|_| !storm),
        ));
        cells.push(failed(row));
        cells
    };
    Table {
        header,
        rows: group.rows.iter().map(row).collect(),
    }
}

fn failed(row: &Row<'_>) -> String {
    let (pulls, _) = row.failed_pulls();
    match (pulls, row.failures.len()) {
        (0, 0) => String::new(),
        (pulls, 0) => format!("{pulls} pulls"),
        (0, runs) => format!("{runs} runs"),
        (pulls, runs) => format!("{pulls} pulls, {runs} runs"),
    }
}

fn show(value: f64, unit: Unit) -> String {
    if value.is_finite() {
        format_value(value, unit)
    } else {
        NOTHING.to_owned()
    }
}

impl Table {
    /// With columns in line, for a terminal.
    pub(crate) fn plain(&self) -> String {
        let header: Vec<String> = self.header.iter().map(|cell| (*cell).to_owned()).collect();
        let all = || std::iter::once(&header).chain(&self.rows);
        let width = |column: usize| {
            let widths = all().map(|row| row[column].chars().count());
            widths.max().unwrap_or_default()
        };
        let line = |row: &Vec<String>| {
            let cells = row.iter().enumerate();
            let cells: Vec<_> = cells
                .map(|(column, cell)| {
                    let width = width(column);
                    format!("{cell:>width$}")
                })
                .collect();
            cells.join("  ").trim_end().to_owned() + "\n"
        };
        all().map(line).collect()
    }

    /// As Markdown.
    pub(crate) fn markdown(&self) -> String {
        let line = |cells: &[String]| format!("| {} |\n", cells.join(" | "));
        let header: Vec<String> = self.header.iter().map(|cell| (*cell).to_owned()).collect();
        let rule = vec!["---:".to_owned(); header.len()];
        let rows: String = self.rows.iter().map(|row| line(row)).collect();
        line(&header) + &line(&rule) + &rows
    }
}
