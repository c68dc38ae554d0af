//! From a journal to what people read: a table, a Markdown page, and plots.

use std::fs;

use anyhow::{Result, ensure};

use crate::journal::{Better, Journal, Series, Unit};
use crate::plot;

/// The subject that all others are compared with.
pub const VITRAIL: &str = "vitrail";

/// Prints the table, and writes `REPORT.md` and one SVG per measure into the journal's directory.
/// Fails when it was not a peer but Vitrail that could not be measured.
pub fn publish(journal: &Journal) -> Result<()> {
    let rows = rows(journal);
    print!("{}", plain_table(&rows));
    let plots = plot::all(journal)?;
    finish(journal, &markdown(journal, &rows, &plots))
}

/// [`publish`] with a table of the experiment's own, in Markdown, in place of the usual one and the plots.
pub fn publish_table(journal: &Journal, table: &str) -> Result<()> {
    print!("{table}");
    let page = head(journal) + "All samples are in `raw.jsonl`.\n\n" + table + &tail(journal);
    finish(journal, &page)
}

fn finish(journal: &Journal, page: &str) -> Result<()> {
    for (subject, reason) in &journal.missing {
        println!("missing: {subject}: {reason}");
    }
    fs::write(journal.dir.join("REPORT.md"), page)?;
    eprintln!("written: {}", journal.dir.display());
    ensure!(
        !journal
            .missing
            .iter()
            .any(|(subject, _)| subject == VITRAIL),
        "Vitrail itself failed, see above"
    );
    Ok(())
}

/// One comparison, ready to print.
struct Row {
    /// Vitrail's figure divided by the peer's.
    ratio: String,
    measure: String,
    /// Which way is good.
    better: &'static str,
    vitrail: String,
    peer: String,
    peer_name: String,
}

fn rows(journal: &Journal) -> Vec<Row> {
    let mut rows = Vec::new();
    let mut done = Vec::new();
    for first in &journal.series {
        if done.contains(&first.measure.key) {
            continue;
        }
        done.push(first.measure.key);
        let same: Vec<_> = journal
            .series
            .iter()
            .filter(|series| series.measure == first.measure)
            .collect();
        for &statistic in statistics(first) {
            rows.extend(compare(&same, statistic));
        }
    }
    rows
}

/// A way to sum up a series in one figure.
#[derive(Clone, Copy)]
struct Statistic {
    /// Added to the measure's title.
    suffix: &'static str,
    /// Which quantile, 0 to 1.
    quantile: f64,
    /// Whether the range of values belongs beside it.
    with_range: bool,
}

fn statistics(series: &Series) -> &'static [Statistic] {
    const MEDIAN: &[Statistic] = &[Statistic {
        suffix: "",
        quantile: 0.5,
        with_range: true,
    }];
    const PERCENTILES: &[Statistic] = &[
        Statistic {
            suffix: ", p50",
            quantile: 0.5,
            with_range: false,
        },
        Statistic {
            suffix: ", p99",
            quantile: 0.99,
            with_range: false,
        },
    ];
    if series.is_distribution {
        PERCENTILES
    } else {
        MEDIAN
    }
}

fn compare(same: &[&Series], statistic: Statistic) -> Vec<Row> {
    let Some(first) = same.first() else {
        return Vec::new();
    };
    let measure = first.measure;
    let title = format!("{}{}", measure.title, statistic.suffix);
    let show = |series: &Series| {
        let value = quantile(&series.values, statistic.quantile);
        let mut text = format_value(value, measure.unit);
        if statistic.with_range && series.values.len() > 1 {
            let (low, high) = (quantile(&series.values, 0.0), quantile(&series.values, 1.0));
            let range = [low, high].map(|value| format_value(value, measure.unit));
            text += &format!(" [{}]", range.join(" .. "));
        }
        (value, text)
    };
    let ours = same
        .iter()
        .find(|series| series.subject == VITRAIL)
        .map(|series| show(series));
    let peers: Vec<_> = same
        .iter()
        .filter(|series| series.subject != VITRAIL)
        .collect();
    let row = |ratio: String, peer: String, peer_name: &str| Row {
        ratio,
        measure: title.clone(),
        better: match measure.better {
            Better::Less => "less",
            Better::More => "more",
        },
        vitrail: ours
            .as_ref()
            .map_or("-".to_owned(), |(_, text)| text.clone()),
        peer,
        peer_name: peer_name.to_owned(),
    };
    if peers.is_empty() {
        return vec![row("-".to_owned(), "-".to_owned(), "-")];
    }
    peers
        .into_iter()
        .map(|peer| {
            let (value, text) = show(peer);
            let ratio = ours
                .as_ref()
                .map_or("-".to_owned(), |(ours, _)| format!("{:.3}", ours / value));
            row(ratio, text, &peer.subject)
        })
        .collect()
}

/// The value below which the share `q` of the values lies (nearest rank); NaN when there are none.
pub fn quantile(values: &[f64], q: f64) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let rank = (q * sorted.len() as f64).ceil() as usize;
    sorted
        .get(rank.saturating_sub(1))
        .copied()
        .unwrap_or(f64::NAN)
}

/// A value with a unit prefix that leaves three or four digits.
pub fn format_value(value: f64, unit: Unit) -> String {
    let scaled = |steps: &[(f64, &str)]| {
        let fits = |&&(scale, _): &&(f64, &str)| value >= scale;
        let (scale, name) = steps
            .iter()
            .find(fits)
            .or(steps.last())
            .copied()
            .unwrap_or((1.0, ""));
        let digits = value / scale;
        let decimals = if digits >= 100.0 {
            0
        } else if digits >= 10.0 {
            1
        } else {
            2
        };
        format!("{digits:.decimals$} {name}")
    };
    match unit {
        Unit::Bytes => scaled(&[(1e9, "GB"), (1e6, "MB"), (1e3, "kB"), (1.0, "B")]),
        Unit::BytesPerSecond => scaled(&[(1e9, "GB/s"), (1e6, "MB/s"), (1e3, "kB/s")]),
        Unit::Seconds => scaled(&[(1.0, "s"), (1e-3, "ms"), (1e-6, "µs"), (1e-9, "ns")]),
        Unit::SecondsPerGb => scaled(&[(1.0, "s/GB"), (1e-3, "ms/GB")]),
        Unit::PerSecond => format!("{value:.0}/s"),
        Unit::Count => format!("{value}"),
    }
}

const HEADER: [&str; 6] = [
    "ratio",
    "measure",
    "better",
    "vitrail",
    "peer",
    "name of peer",
];

impl Row {
    fn cells(&self) -> [&str; HEADER.len()] {
        [
            &self.ratio,
            &self.measure,
            self.better,
            &self.vitrail,
            &self.peer,
            &self.peer_name,
        ]
    }
}

fn plain_table(rows: &[Row]) -> String {
    let table: Vec<_> = std::iter::once(HEADER)
        .chain(rows.iter().map(Row::cells))
        .collect();
    let width = |column: usize| {
        let cells = table.iter().map(|row| row[column].chars().count());
        cells.max().unwrap_or_default()
    };
    let widths: Vec<_> = (0..HEADER.len()).map(width).collect();
    let mut text = String::new();
    for row in &table {
        let cells = row.iter().zip(&widths);
        let line: Vec<_> = cells
            .map(|(cell, width)| format!("{cell:width$}"))
            .collect();
        text.push_str(line.join("  ").trim_end());
        text.push('\n');
    }
    text
}

fn head(journal: &Journal) -> String {
    let machine = &journal.machine;
    format!(
        "# {}, {}\n\n    {}\n\n{}, {}, {}. Load when it began: {}.\n\n",
        journal.name,
        journal.started,
        journal.command,
        machine.cpu,
        format_value(machine.memory as f64, Unit::Bytes),
        machine.system,
        machine.load,
    )
}

fn markdown(journal: &Journal, rows: &[Row], plots: &[String]) -> String {
    let mut page = head(journal);
    page += "The ratio is Vitrail's figure divided by the peer's. Figures are medians, with the range of the \
             repetitions in brackets. All samples are in `raw.jsonl`.\n\n";
    let table = [HEADER, ["---"; HEADER.len()]];
    for cells in table.into_iter().chain(rows.iter().map(Row::cells)) {
        page += &format!("| {} |\n", cells.join(" | "));
    }
    let images: Vec<_> = plots
        .iter()
        .map(|file| format!("\n![{file}]({file})\n"))
        .collect();
    page + &tail(journal) + &images.concat()
}

/// What is missing, notes and versions.
fn tail(journal: &Journal) -> String {
    let mut page = String::new();
    let mut list = |title: &str, lines: Vec<String>| {
        if !lines.is_empty() {
            let lines: Vec<_> = lines.iter().map(|line| format!("- {line}\n")).collect();
            page += &format!("\n## {title}\n\n{}", lines.concat());
        }
    };
    let pair = |(name, text): &(String, String)| format!("{name}: {text}");
    list("Missing", journal.missing.iter().map(pair).collect());
    list("Notes", journal.notes.clone());
    list("Versions", journal.versions.iter().map(pair).collect());
    page
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_nearest_ranks() {
        let values: Vec<f64> = (1..=100).rev().map(f64::from).collect();
        assert_eq!(quantile(&values, 0.5), 50.0);
        assert_eq!(quantile(&values, 0.99), 99.0);
        assert_eq!(quantile(&values, 0.0), 1.0);
        assert_eq!(quantile(&values, 1.0), 100.0);
        assert!(quantile(&[], 0.5).is_nan());
    }

    #[test]
    fn values_are_scaled_to_fit() {
        assert_eq!(format_value(3.221e9, Unit::Bytes), "3.22 GB");
        assert_eq!(format_value(0.000_25, Unit::Seconds), "250 µs");
        assert_eq!(format_value(0.0, Unit::Bytes), "0.00 B");
    }
}
