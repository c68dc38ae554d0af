//! One page with everything in it: no scripts, no other files.

use std::fmt::Write as _;

use super::charts;
use super::summary::{Group, Row};
use super::svg::escape;
use super::table::table;
use super::{about, explanation};
use crate::journal::Unit;
use crate::report::VITRAIL;
use crate::scenario::file::Scenario;
use crate::scenario::log::Results;

const STYLE: &str = include_str!("page.css");

/// The page of a run.
pub(super) fn page(scenario: &Scenario, results: &Results, groups: &[Group<'_>]) -> String {
    let run = &results.run;
    let mut body = format!("<h1>{}</h1>", escape(&run.name));
    for line in about(results) {
        body += &format!("<p class=\"muted\">{}</p>", escape(&line));
    }
    for (system, reason) in &results.missing {
        let (system, reason) = (escape(system), escape(reason));
        body += &format!("<p class=\"warning\"><b>{system}</b> is missing: {reason}</p>");
    }
    body += &format!("<p>{}</p>", escape(explanation(results)));
    for group in groups {
        body += &section(scenario, group);
    }
    body += &appendix(results);
    format!(
        "<!DOCTYPE html><html lang=\"en\"><head><meta charset=\"utf-8\">\
         <meta name=\"viewport\" content=\"width=device-width\"><title>{}</title>\
         <style>{STYLE}</style></head><body>{body}</body></html>\n",
        escape(&run.name)
    )
}

fn section(scenario: &Scenario, group: &Group<'_>) -> String {
    let mut html = format!(
        "<h2>{}</h2><p class=\"muted\">{}</p>{}",
        escape(&group.workload.name),
        escape(&group.text()),
        html_table(group),
    );
    for row in &group.rows {
        let (_, pull) = row.failed_pulls();
        for reason in row.failures.iter().copied().chain(pull) {
            let (system, reason) = (escape(&row.system), escape(reason));
            html += &format!("<p class=\"warning\"><b>{system}</b> failed: {reason}</p>");
        }
    }
    let storm = group.is_storm();
    let (time, quantile) = if storm {
        ("95 % of pulls within", 0.95)
    } else {
        ("Time", 0.5)
    };
    let bound = |row: &Row<'_>| Some(row.seconds(storm, quantile) / row.of_bound()?);
    let times = charts::bars(
        group,
        time,
        Unit::Seconds,
        |row| row.seconds(storm, quantile),
        bound,
    );
    let bytes = charts::bars(group, "Bytes", Unit::Bytes, |row| row.received(), |_| None);
    let time = if storm {
        time.to_owned()
    } else {
        format!("{time}; dashed: the bound")
    };
    html += "<div class=\"row\">";
    html += &figure(&time, &times);
    html += &figure("WAN bytes that came to the receivers", &bytes);
    html += "</div>";
    // Fewer make steps, not a distribution.
    if group.plan.pulls.len() > 4 {
        html += &figure(
            "Share of pulls that had ended within a time",
            &charts::distribution(group),
        );
    }
    html += "<h3>Mbit/s into the receivers over time</h3><div class=\"row\">";
    for (system, svg) in charts::timelines(scenario, group) {
        html += &figure(&system, &svg);
    }
    html += "</div>";
    html + &link_matrices(scenario, group)
}

fn link_matrices(scenario: &Scenario, group: &Group<'_>) -> String {
    let matrices: String = group
        .rows
        .iter()
        .filter_map(|row| {
            let svg = charts::links(scenario, row.cases.first()?)?;
            Some(figure(&row.system, &svg))
        })
        .collect();
    if matrices.is_empty() {
        return matrices;
    }
    let title = "Megabytes by link: rows send, columns receive, in the same order";
    format!("<details><summary>{title}</summary><div class=\"row\">{matrices}</div></details>")
}

fn figure(caption: &str, svg: &str) -> String {
    let caption = escape(caption);
    format!("<figure><figcaption>{caption}</figcaption>{svg}</figure>")
}

fn html_table(group: &Group<'_>) -> String {
    let table = table(group);
    let mut html = String::from("<table><tr>");
    for cell in &table.header {
        let class = if *cell == "system" {
            " class=\"system\""
        } else {
            ""
        };
        html += &format!("<th{class}>{cell}</th>");
    }
    html += "</tr>";
    for (row, cells) in group.rows.iter().zip(&table.rows) {
        html += if row.system == VITRAIL {
            "<tr class=\"ours\">"
        } else {
            "<tr>"
        };
        for (column, cell) in cells.iter().enumerate() {
            let class = match (column, cell.parse::<f64>()) {
                (0 | 1, Ok(ratio)) if ratio < 0.95 => "ratio good",
                (0 | 1, Ok(ratio)) if ratio > 1.05 => "ratio bad",
                (0 | 1, _) => "ratio",
                (2, _) => "system",
                _ if table.header[column] == "failed" => "bad",
                _ => "",
            };
            html += &format!("<td class=\"{class}\">{}</td>", escape(cell));
        }
        html += "</tr>";
    }
    html + "</table>"
}

/// What nobody reads unless they want to know how.
fn appendix(results: &Results) -> String {
    let mut html = String::from("<h2>How it was made</h2>");
    let mut fold = |title: &str, text: String| {
        let text = escape(&text);
        write!(
            html,
            "<details><summary>{title}</summary><pre>{text}</pre></details>"
        )
        .expect("writing to a string cannot fail");
    };
    let pair = |(name, text): &(String, String)| format!("{name}: {text}\n");
    fold("Versions", results.versions.iter().map(pair).collect());
    fold("Commands", commands(results));
    for text in &results.run.texts {
        let title = if std::ptr::eq(text, &results.run.texts[0]) {
            "Scenario"
        } else {
            "Topology"
        };
        fold(title, text.clone());
    }
    if let Some(check) = &results.check {
        let lines = check.report["sections"].as_array().into_iter().flatten();
        let findings = lines.flat_map(|section| {
            let kind = section["kind"].as_str().unwrap_or_default();
            let unit = section["unit"].as_str().unwrap_or_default();
            let findings = section["findings"].as_array().into_iter().flatten();
            findings.map(move |finding| {
                let number = |key: &str| finding[key].as_f64().unwrap_or(f64::NAN);
                let subject = finding["subject"].as_str().unwrap_or_default();
                let (wanted, measured) = (number("wanted"), number("measured"));
                format!("{kind} {subject}: wanted {wanted:.3}, measured {measured:.3} {unit}\n")
            })
        });
        fold("Self-check of the network", findings.collect());
    }
    html
}

/// One example of each measured command, by system.
pub(super) fn commands(results: &Results) -> String {
    let mut lines: Vec<String> = Vec::new();
    for case in &results.cases {
        for command in &case.commands {
            let program = command.split(' ').next().unwrap_or_default();
            let prefix = format!("{}: {program} ", case.system);
            if !lines.iter().any(|line| line.starts_with(&prefix)) {
                lines.push(format!("{}: {command}", case.system));
            }
        }
    }
    lines.join("\n") + "\n"
}
