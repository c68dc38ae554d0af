//! Plots of a journal as SVG: bars for values, cumulative distributions for times of requests.

use std::path::Path;

use anyhow::{Result, anyhow};
use plotters::coord::Shift;
use plotters::prelude::*;

use crate::journal::{Journal, Measure, Series, Unit};
use crate::report::{VITRAIL, format_value, quantile};

const SIZE: (u32, u32) = (720, 360);
const FONT: (&str, u32) = ("sans-serif", 14);

type Canvas<'a> = DrawingArea<SVGBackend<'a>, Shift>;

/// Draws every measure that has more than one subject, and returns the files' names.
pub fn all(journal: &Journal) -> Result<Vec<String>> {
    let mut files = Vec::new();
    for first in &journal.series {
        let file = format!("{}.svg", first.measure.key);
        let same: Vec<_> = journal
            .series
            .iter()
            .filter(|series| series.measure == first.measure)
            .collect();
        if same.len() < 2 || files.contains(&file) {
            continue;
        }
        let draw = if first.is_distribution {
            distributions
        } else {
            bars
        };
        draw(&journal.dir.join(&file), first.measure, &same)
            .map_err(|error| anyhow!("draw {file}: {error}"))?;
        files.push(file);
    }
    Ok(files)
}

type Drawn = Result<(), Box<dyn std::error::Error>>;

fn canvas(path: &Path) -> Result<Canvas<'_>, Box<dyn std::error::Error>> {
    let canvas = SVGBackend::new(path, SIZE).into_drawing_area();
    canvas.fill(&WHITE)?;
    Ok(canvas)
}

/// Minor lines between two labels. plotters never comes back when it is 0.
const LIGHT_LINES: usize = 1;

/// Vitrail's colour stands out; peers share the rest.
fn colour(subject: &str, index: usize) -> RGBColor {
    const PEERS: [RGBColor; 5] = [
        RGBColor(120, 120, 120),
        RGBColor(70, 130, 180),
        RGBColor(190, 140, 60),
        RGBColor(140, 100, 160),
        RGBColor(90, 150, 90),
    ];
    if subject == VITRAIL {
        RGBColor(200, 30, 60)
    } else {
        PEERS[index % PEERS.len()]
    }
}

/// One bar for each of `same`, which must not be empty.
fn bars(path: &Path, measure: &Measure, same: &[&Series]) -> Drawn {
    let medians: Vec<f64> = same
        .iter()
        .map(|series| quantile(&series.values, 0.5))
        .collect();
    let top = medians.iter().copied().fold(0.0, f64::max) * 1.15;
    let canvas = canvas(path)?;
    let mut chart = ChartBuilder::on(&canvas)
        .caption(measure.title, FONT)
        .margin(10)
        .y_label_area_size(110)
        .x_label_area_size(30)
        .build_cartesian_2d(0.0..top, (0..same.len() - 1).into_segmented())?;
    chart
        .configure_mesh()
        .disable_y_mesh()
        .max_light_lines(LIGHT_LINES)
        .x_labels(6)
        .x_label_formatter(&|value| format_value(*value, measure.unit))
        .y_label_formatter(&|at| match at {
            SegmentValue::CenterOf(index) => same
                .get(*index)
                .map(|series| series.subject.clone())
                .unwrap_or_default(),
            _ => String::new(),
        })
        .draw()?;
    for (index, (series, &median)) in same.iter().zip(&medians).enumerate() {
        let corners = [
            (0.0, SegmentValue::Exact(index)),
            (median, SegmentValue::Exact(index + 1)),
        ];
        let mut bar = Rectangle::new(corners, colour(&series.subject, index).filled());
        bar.set_margin(5, 5, 0, 0);
        chart.draw_series([bar])?;
        let text = format_value(median, measure.unit);
        let at = (median, SegmentValue::CenterOf(index));
        chart.draw_series([Text::new(text, at, FONT)])?;
    }
    canvas.present()?;
    Ok(())
}

fn distributions(path: &Path, measure: &Measure, same: &[&Series]) -> Drawn {
    let edge = |q: f64| same.iter().map(move |series| quantile(&series.values, q));
    let low = edge(0.0).fold(f64::INFINITY, f64::min).max(1e-9);
    let high = edge(1.0).fold(low * 2.0, f64::max);
    let canvas = canvas(path)?;
    let mut chart = ChartBuilder::on(&canvas)
        .caption(
            format!("{}: share of requests within a time", measure.title),
            FONT,
        )
        .margin(10)
        .y_label_area_size(50)
        .x_label_area_size(30)
        .build_cartesian_2d((low..high).log_scale(), 0.0..1.0)?;
    chart
        .configure_mesh()
        .max_light_lines(LIGHT_LINES)
        .x_label_formatter(&|value| format_value(*value, Unit::Seconds))
        .draw()?;
    for (index, series) in same.iter().enumerate() {
        let colour = colour(&series.subject, index);
        let points = (0..=200).map(|step| {
            let share = f64::from(step) / 200.0;
            (quantile(&series.values, share), share)
        });
        chart
            .draw_series(LineSeries::new(points, colour.stroke_width(2)))?
            .label(series.subject.clone())
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 20, y)], colour));
    }
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::LowerRight)
        .background_style(WHITE)
        .border_style(BLACK)
        .draw()?;
    canvas.present()?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::journal::Better;

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
    fn each_measure_with_two_subjects_becomes_a_plot_that_names_them() {
        let results = tempfile::tempdir().unwrap();
        let mut journal = Journal::begin(results.path(), "test").unwrap();
        for (subject, value) in [(VITRAIL, 3e8), ("casync", 4e8), ("restic", 5e8)] {
            journal.value(&SIZE, subject, value).unwrap();
        }
        for subject in [VITRAIL, "nginx"] {
            let times: Vec<_> = (1..50).map(Duration::from_micros).collect();
            journal.times(&LATENCY, subject, &times).unwrap();
        }
        assert_eq!(all(&journal).unwrap(), ["size.svg", "latency.svg"]);
        let bars = std::fs::read_to_string(journal.dir.join("size.svg")).unwrap();
        assert!(
            ["vitrail", "casync", "restic"]
                .iter()
                .all(|name| bars.contains(name))
        );
        let lines = std::fs::read_to_string(journal.dir.join("latency.svg")).unwrap();
        assert!(["vitrail", "nginx"].iter().all(|name| lines.contains(name)));
    }
}
