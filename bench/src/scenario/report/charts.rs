//! What is drawn of a workload.

use std::collections::BTreeMap;

use super::summary::{Group, Row};
use super::svg::{Anchor, Svg, ticks};
use crate::journal::Unit;
use crate::report::{VITRAIL, format_value, quantile};
use crate::scenario::file::Scenario;
use crate::scenario::log::Case;

/// Time axes end at this multiple of the median: one slow system must not squeeze all others.
const CUT: f64 = 2.5;

/// Vitrail's colour stands out.
fn colour(system: &str) -> &'static str {
    match system {
        VITRAIL => "#c2183c",
        "glance" => "#6b7280",
        "nginx" => "#2f7d4f",
        "rsync" => "#2563a8",
        "casync" => "#b7791f",
        "bita" => "#7c4dab",
        "bittorrent" => "#0e8a92",
        _ => "#444444",
    }
}

/// Bars of one figure of each system, with the bound of each where there is one.
pub(super) fn bars(
    group: &Group<'_>,
    label: &str,
    unit: Unit,
    value: impl Fn(&Row<'_>) -> f64,
    bound: impl Fn(&Row<'_>) -> Option<f64>,
) -> String {
    const LEFT: f64 = 90.0;
    const RIGHT: f64 = 70.0;
    const BAR: f64 = 26.0;
    const WIDTH: f64 = 460.0;
    let rows: Vec<_> = group
        .rows
        .iter()
        .filter(|row| value(row).is_finite())
        .collect();
    let most = rows.iter().map(|row| value(row)).fold(0.0, f64::max);
    let ticks = ticks(most, 4);
    let end = ticks.last().copied().unwrap_or(1.0);
    let bottom = 8.0 + BAR * rows.len() as f64;
    let x = |value: f64| LEFT + value / end * (WIDTH - LEFT - RIGHT);
    let mut svg = Svg::new(WIDTH, bottom + 26.0);
    for tick in ticks {
        svg.line((x(tick), 4.0), (x(tick), bottom), "grid");
        svg.text(x(tick), bottom + 16.0, Anchor::Middle, &short(tick, unit));
    }
    for (number, row) in rows.into_iter().enumerate() {
        let top = 8.0 + BAR * number as f64;
        let value = value(row);
        svg.text(LEFT - 8.0, top + 15.0, Anchor::End, &row.system);
        svg.rect(
            LEFT,
            top + 2.0,
            x(value) - LEFT,
            BAR - 8.0,
            colour(&row.system),
        );
        if let Some(bound) = bound(row) {
            svg.line((x(bound), top - 1.0), (x(bound), top + BAR - 3.0), "bound");
        }
        svg.text(
            x(value) + 6.0,
            top + 15.0,
            Anchor::Start,
            &format_value(value, unit),
        );
    }
    svg.finish(label)
}

/// The share of pulls that had ended within a time.
pub(super) fn distribution(group: &Group<'_>) -> String {
    const LEFT: f64 = 46.0;
    const RIGHT: f64 = 700.0;
    const TOP: f64 = 10.0;
    const BOTTOM: f64 = 270.0;
    let times: Vec<_> = group
        .rows
        .iter()
        .map(|row| {
            let mut times = row.pull_seconds();
            times.sort_by(f64::total_cmp);
            (row, times)
        })
        .filter(|(_, times)| !times.is_empty())
        .collect();
    let most = times.iter().filter_map(|(_, times)| times.last().copied());
    let ticks = ticks(most.fold(0.0, f64::max), 7);
    let end = ticks.last().copied().unwrap_or(1.0);
    let x = |value: f64| LEFT + value / end * (RIGHT - LEFT);
    let y = |share: f64| BOTTOM - share * (BOTTOM - TOP);
    let mut svg = Svg::new(820.0, BOTTOM + 40.0);
    for tick in ticks {
        svg.line((x(tick), TOP), (x(tick), BOTTOM), "grid");
        svg.text(
            x(tick),
            BOTTOM + 16.0,
            Anchor::Middle,
            &short(tick, Unit::Seconds),
        );
    }
    for share in [0.0, 0.25, 0.5, 0.75, 1.0] {
        svg.line((LEFT, y(share)), (RIGHT, y(share)), "grid");
        let percent = format!("{:.0} %", share * 100.0);
        svg.text(LEFT - 6.0, y(share) + 4.0, Anchor::End, &percent);
    }
    svg.text(
        (LEFT + RIGHT) / 2.0,
        BOTTOM + 34.0,
        Anchor::Middle,
        "time from the planned moment until the image is there",
    );
    for (number, (row, times)) in times.iter().enumerate() {
        let mut points = vec![(x(0.0), y(0.0))];
        for (index, &time) in times.iter().enumerate() {
            let before = index as f64 / times.len() as f64;
            points.push((x(time), y(before)));
            points.push((x(time), y((index + 1) as f64 / times.len() as f64)));
        }
        let colour = colour(&row.system);
        svg.path(&points, colour);
        let at = TOP + 14.0 + 20.0 * number as f64;
        svg.rect(RIGHT + 14.0, at - 9.0, 12.0, 12.0, colour);
        svg.text(RIGHT + 32.0, at + 1.0, Anchor::Start, &row.system);
    }
    svg.finish("Share of pulls that had ended within a time")
}

/// The rate at which bytes came to the receivers over time, one panel for each system, all on one scale; the dashed line
/// is the most that the links allow, the thin upright ones are events.
pub(super) fn timelines(scenario: &Scenario, group: &Group<'_>) -> Vec<(String, String)> {
    let network = scenario.topology.resolve();
    let sites = network.map(|network| network.sites).unwrap_or_default();
    let is_receiver: Vec<bool> = sites
        .iter()
        .map(|site| group.plan.receivers.contains(&site.name))
        .collect();
    let rows: Vec<_> = group
        .rows
        .iter()
        .filter_map(|row| Some((row.system.as_str(), *row.cases.first()?)))
        .map(|(system, case)| (system, case, receive_rates(case, &is_receiver)))
        .collect();
    let limit = |case: &Case| {
        let receivers = group.plan.receivers.len() as f64;
        case.bound
            .map(|bound| bound.bits_per_second * receivers / 1e6)
    };
    let most = rows.iter().flat_map(|(_, case, rates)| {
        let rates = rates.iter().map(|(_, rate)| *rate);
        rates.chain(limit(case))
    });
    let rate_ticks = ticks(most.fold(0.0, f64::max), 3);
    let seconds: Vec<f64> = rows.iter().map(|(_, case, _)| case.seconds).collect();
    let longest = quantile(&seconds, 1.0).min(quantile(&seconds, 0.5) * CUT);
    let time_ticks = ticks(longest, 5);
    let panel = |(system, case, rates): &(&str, &Case, Vec<(f64, f64)>)| {
        let svg = panel(case, rates, limit(case), &rate_ticks, &time_ticks, group);
        ((*system).to_owned(), svg)
    };
    rows.iter().map(panel).collect()
}

fn panel(
    case: &Case,
    rates: &[(f64, f64)],
    limit: Option<f64>,
    rate_ticks: &[f64],
    time_ticks: &[f64],
    group: &Group<'_>,
) -> String {
    const LEFT: f64 = 38.0;
    const RIGHT: f64 = 354.0;
    const TOP: f64 = 10.0;
    const BOTTOM: f64 = 120.0;
    let end = |ticks: &[f64]| ticks.last().copied().unwrap_or(1.0);
    let x = |time: f64| LEFT + time / end(time_ticks) * (RIGHT - LEFT);
    let y = |rate: f64| BOTTOM - rate / end(rate_ticks) * (BOTTOM - TOP);
    let mut svg = Svg::new(378.0, BOTTOM + 24.0);
    for &tick in rate_ticks {
        svg.line((LEFT, y(tick)), (RIGHT, y(tick)), "grid");
        svg.text(LEFT - 5.0, y(tick) + 4.0, Anchor::End, &format!("{tick}"));
    }
    for &tick in time_ticks {
        svg.text(x(tick), BOTTOM + 16.0, Anchor::Middle, &format!("{tick} s"));
    }
    let shown = rates.iter().filter(|(at, _)| *at <= end(time_ticks));
    let points: Vec<_> = shown.map(|(at, rate)| (x(*at), y(*rate))).collect();
    svg.area(&points, BOTTOM, colour(&case.system));
    if case.seconds > end(time_ticks) {
        let text = format!("until {:.0} s →", case.seconds);
        // Below the line of the bound, which may be anywhere.
        let top = limit.map_or(TOP, y);
        svg.text(RIGHT, top + 14.0, Anchor::End, &text);
    }
    if let Some(limit) = limit {
        svg.line((LEFT, y(limit)), (RIGHT, y(limit)), "bound");
    }
    for event in &group.workload.events {
        let at = event.at.as_secs_f64();
        let ends = event.lasts.map(|lasts| at + lasts.as_secs_f64());
        for at in std::iter::once(at).chain(ends) {
            if at <= end(time_ticks) {
                svg.line((x(at), TOP), (x(at), BOTTOM), "event");
            }
        }
    }
    svg.finish(&format!("Mbit/s received over time with {}", case.system))
}

/// Mbit/s between samples, at the middle of each.
fn receive_rates(case: &Case, is_receiver: &[bool]) -> Vec<(f64, f64)> {
    let bytes = |rx: &[u64]| {
        let mine = rx.iter().zip(is_receiver).filter(|(_, is)| **is);
        mine.map(|(bytes, _)| *bytes as f64).sum::<f64>()
    };
    let pairs = case.samples.windows(2);
    let apart = pairs.filter(|pair| pair[1].at - pair[0].at > 0.05);
    apart
        .map(|pair| {
            let seconds = pair[1].at - pair[0].at;
            let rate = (bytes(&pair[1].rx) - bytes(&pair[0].rx)) * 8e-6 / seconds;
            ((pair[0].at + pair[1].at) / 2.0, rate)
        })
        .collect()
}

/// The most sites whose matrix can be read.
const MATRIX_MAX: usize = 64;

/// Bytes of each link: rows send, columns receive. `None` when there are only two sites, or too many.
pub(super) fn links(scenario: &Scenario, case: &Case) -> Option<String> {
    let network = scenario.topology.resolve().ok()?;
    let names: Vec<&str> = network.sites.iter().map(|s| s.name.as_str()).collect();
    if !(3..=MATRIX_MAX).contains(&names.len()) {
        return None;
    }
    let cell = if names.len() > 10 { 17.0 } else { 34.0 };
    let longest = names.iter().map(|name| name.len()).max().unwrap_or(1);
    let left = 12.0 + 6.6 * longest as f64;
    let top = 22.0;
    let bytes: BTreeMap<(&str, &str), f64> = case
        .links
        .iter()
        .map(|link| ((link.from.as_str(), link.to.as_str()), link.bytes as f64))
        .collect();
    let most = bytes.values().copied().fold(1.0, f64::max);
    let size = cell * names.len() as f64;
    let mut svg = Svg::new((left + size + 8.0).max(240.0), top + size + 6.0);
    for (row, from) in names.iter().enumerate() {
        let y = top + cell * row as f64;
        svg.text(left - 6.0, y + cell / 2.0 + 4.0, Anchor::End, from);
        let number = format!("{}", row + 1);
        svg.text(
            left + cell * (row as f64 + 0.5),
            top - 7.0,
            Anchor::Middle,
            &number,
        );
        for (column, to) in names.iter().enumerate() {
            let x = left + cell * column as f64;
            let value = bytes.get(&(*from, *to)).copied().unwrap_or_default();
            let share = (value / most).sqrt();
            let fill = if row == column {
                "#e5e7eb".to_owned()
            } else {
                shade(share)
            };
            svg.rect(x, y, cell - 1.0, cell - 1.0, &fill);
            if cell > 30.0 && value >= 1e5 {
                let text = format!("{:.*}", usize::from(value < 1e7), value / 1e6);
                svg.text(
                    x + cell / 2.0 - 0.5,
                    y + cell / 2.0 + 4.0,
                    Anchor::Middle,
                    &text,
                );
            }
        }
    }
    Some(svg.finish(&format!("Megabytes by link with {}", case.system)))
}

/// From nearly white to a blue on which black text can still be read.
fn shade(share: f64) -> String {
    let mix = |from: f64, to: f64| (from + (to - from) * share.clamp(0.0, 1.0)).round();
    let (r, g, b) = (mix(246.0, 96.0), mix(248.0, 165.0), mix(251.0, 235.0));
    format!("rgb({r},{g},{b})")
}

/// A value on an axis.
fn short(value: f64, unit: Unit) -> String {
    if value == 0.0 {
        return "0".to_owned();
    }
    let text = format_value(value, unit);
    match text.split_once(' ') {
        Some((number, unit)) if number.contains('.') => {
            let number = number.trim_end_matches('0').trim_end_matches('.');
            format!("{number} {unit}")
        }
        _ => text,
    }
}
