//! One line for each kind of request: how Vitrail compares with each Glance, and the figures.

use std::fmt::Write as _;

use super::kinds::{GROUPS, Kind};
use super::{MARIADB, SQLITE};
use crate::journal::{Journal, Measure, Unit};
use crate::report::{VITRAIL, format_value, quantile};

const PEERS: [&str; 2] = [SQLITE, MARIADB];

/// The page's tables: what it comes to, and every kind.
pub(super) fn render(journal: &Journal) -> String {
    let groups = GROUPS.iter().map(|group| {
        let rows: String = group
            .kinds
            .iter()
            .filter_map(|kind| row(journal, kind))
            .collect();
        if rows.is_empty() {
            return String::new();
        }
        format!("\n## {}\n\n{HEADER}{rows}", group.title)
    });
    let groups: String = groups.collect();
    summary(journal) + &groups + &crowd(journal)
}

const HEADER: &str = "| request | latency p50, Vitrail ÷ Glance | p99 | requests per CPU second | p50 / p99: Vitrail | Glance, SQLite | \
     Glance, MariaDB | requests per CPU second: Vitrail | Glance, SQLite | Glance, MariaDB | and MariaDB itself, per request |\n\
     |---|---|---|---|---|---|---|---|---|---|---|\n";

fn row(journal: &Journal, kind: &Kind) -> Option<String> {
    let ours = values(journal, &kind.latency, VITRAIL)?;
    let both = |figure: &dyn Fn(&str) -> Option<String>| {
        let cells = PEERS.map(|peer| figure(peer).unwrap_or_else(|| "–".to_owned()));
        cells.join(" · ")
    };
    let latency = |q: f64| {
        both(&|peer| {
            let theirs = values(journal, &kind.latency, peer)?;
            Some(ratio(quantile(ours, q) / quantile(theirs, q)))
        })
    };
    let per_cpu = both(&|peer| {
        Some(ratio(
            value(journal, &kind.per_cpu, VITRAIL)? / value(journal, &kind.per_cpu, peer)?,
        ))
    });
    let times = |subject| {
        values(journal, &kind.latency, subject).map_or("–".to_owned(), |values| {
            let figures = [0.5, 0.99].map(|q| format_value(quantile(values, q), Unit::Seconds));
            figures.join(" / ")
        })
    };
    let rate = |subject| {
        value(journal, &kind.per_cpu, subject).map_or("–".to_owned(), |value| {
            format_value(value, Unit::PerSecond)
        })
    };
    let database = value(journal, &kind.database_cpu, MARIADB)
        .map_or("–".to_owned(), |value| format_value(value, Unit::Seconds));
    let cells = [
        kind.latency.title.to_owned(),
        latency(0.5),
        latency(0.99),
        per_cpu,
        times(VITRAIL),
        times(SQLITE),
        times(MARIADB),
        rate(VITRAIL),
        rate(SQLITE),
        rate(MARIADB),
        database,
    ];
    Some(format!("| {} |\n", cells.join(" | ")))
}

/// How many kinds are faster, and the least that lists and shows gain.
fn summary(journal: &Journal) -> String {
    let mut text = String::new();
    for peer in PEERS {
        let mut kinds = 0;
        let mut slower = Vec::new();
        let mut least: Option<(f64, &str)> = None;
        for kind in GROUPS.iter().flat_map(|group| group.kinds) {
            let Some((ours, theirs)) =
                values(journal, &kind.latency, VITRAIL).zip(values(journal, &kind.latency, peer))
            else {
                continue;
            };
            kinds += 1;
            if [0.5, 0.99]
                .iter()
                .any(|&q| quantile(ours, q) >= quantile(theirs, q))
            {
                slower.push(kind.latency.title);
            }
            let gain = value(journal, &kind.per_cpu, VITRAIL)
                .zip(value(journal, &kind.per_cpu, peer))
                .map(|(ours, theirs)| ours / theirs);
            let is_read = kind.key.starts_with("list") || kind.key.starts_with("show");
            if let Some(gain) = gain.filter(|_| is_read)
                && least.is_none_or(|(least, _)| gain < least)
            {
                least = Some((gain, kind.latency.title));
            }
        }
        if kinds == 0 {
            continue;
        }
        let faster = kinds - slower.len();
        let share = 100.0 * faster as f64 / kinds as f64;
        write!(
            text,
            "- Beside {peer}: {faster} of {kinds} kinds of requests ({share:.0}%) are faster at p50 and at p99."
        )
        .ok();
        if !slower.is_empty() {
            write!(text, " Not: {}.", slower.join("; ")).ok();
        }
        if let Some((gain, title)) = least {
            write!(
                text,
                " Lists and shows: at least {gain:.1} times the requests per CPU second (least: {title})."
            )
            .ok();
        }
        text.push('\n');
    }
    text
}

/// Requests of several clients at once.
fn crowd(journal: &Journal) -> String {
    let mut rows = String::new();
    for series in &journal.series {
        let measure = series.measure;
        if !measure.key.starts_with("api.crowd.") || series.subject != VITRAIL {
            continue;
        }
        let Some(ours) = value(journal, measure, VITRAIL) else {
            continue;
        };
        for peer in PEERS {
            if let Some(theirs) = value(journal, measure, peer) {
                let [ours_text, theirs_text] =
                    [ours, theirs].map(|value| format_value(value, measure.unit));
                writeln!(
                    rows,
                    "| {} | {} | {ours_text} | {theirs_text} | {peer} |",
                    measure.title,
                    ratio(ours / theirs)
                )
                .ok();
            }
        }
    }
    if rows.is_empty() {
        return rows;
    }
    format!(
        "\n## Several clients\n\n| requests per second | ratio | Vitrail | peer | |\n|---|---|---|---|---|\n{rows}"
    )
}

fn values<'a>(journal: &'a Journal, measure: &Measure, subject: &str) -> Option<&'a [f64]> {
    let mut all = journal.series.iter();
    let series = all.find(|one| one.measure.key == measure.key && one.subject == subject)?;
    Some(&series.values)
}

fn value(journal: &Journal, measure: &Measure, subject: &str) -> Option<f64> {
    values(journal, measure, subject)?.first().copied()
}

fn ratio(value: f64) -> String {
    if value >= 10.0 {
        format!("{value:.0}")
    } else {
        format!("{value:.3}")
    }
}
