//! Rates and round trips over time, as SVG.

use std::path::Path;

use anyhow::{Result, anyhow};
use plotters::prelude::*;
use serde::Serialize;

use super::flow::{Control, Track};

const SIZE: (u32, u32) = (860, 480);
const FONT: (&str, u32) = ("sans-serif", 14);

/// Seconds that one point sums up.
const STEP: f64 = 0.2;

/// What is drawn of a flow.
#[derive(Debug, Serialize)]
pub(super) struct Curve {
    subject: String,
    /// Seconds, Mbit/s of payload.
    rate: Vec<(f64, f64)>,
    /// Seconds, milliseconds; empty where round trips are not known.
    rtt: Vec<(f64, f64)>,
    /// Seconds, and our controller's mind.
    control: Vec<(f64, Control)>,
}

impl Curve {
    pub(super) fn of(subject: &str, track: &Track) -> Self {
        let (mut rate, mut rtt, mut control) = (Vec::new(), Vec::new(), Vec::new());
        let mut samples = track.0.iter();
        if let Some(mut from) = samples.next() {
            for sample in samples {
                if sample.at - from.at < STEP {
                    continue;
                }
                let bits = (sample.received - from.received) as f64 * 8.0;
                rate.push((sample.at, bits / (sample.at - from.at) / 1e6));
                if sample.rtt > 0.0 {
                    rtt.push((sample.at, sample.rtt * 1e3));
                }
                control.extend(sample.control.map(|control| (sample.at, control)));
                from = sample;
            }
        }
        Self {
            subject: subject.to_owned(),
            rate,
            rtt,
            control,
        }
    }
}

/// Draws rates above and round trips below.
pub(super) fn draw(path: &Path, title: &str, curves: &[Curve]) -> Result<()> {
    try_draw(path, title, curves).map_err(|error| anyhow!("draw {}: {error}", path.display()))
}

fn try_draw(path: &Path, title: &str, curves: &[Curve]) -> Result<(), Box<dyn std::error::Error>> {
    let canvas = SVGBackend::new(path, SIZE).into_drawing_area();
    canvas.fill(&WHITE)?;
    type Points = fn(&Curve) -> &[(f64, f64)];
    let panels: [(&str, Points); 2] = [
        ("Mbit/s of payload", |curve| &curve.rate),
        ("round trip, ms", |curve| &curve.rtt),
    ];
    for (area, (unit, points)) in canvas.split_evenly((2, 1)).iter().zip(panels) {
        let all = || curves.iter().flat_map(points);
        let end = all().map(|point| point.0).fold(1.0, f64::max);
        let top = all().map(|point| point.1).fold(1.0, f64::max) * 1.1;
        let mut chart = ChartBuilder::on(area)
            .caption(format!("{title}: {unit}"), FONT)
            .margin(8)
            .y_label_area_size(50)
            .x_label_area_size(26)
            .build_cartesian_2d(0.0..end, 0.0..top)?;
        // plotters never comes back when there are 0 light lines.
        chart.configure_mesh().max_light_lines(1).draw()?;
        for (index, curve) in curves.iter().enumerate() {
            let colour = Palette99::pick(index).to_rgba();
            chart
                .draw_series(LineSeries::new(points(curve).iter().copied(), colour))?
                .label(curve.subject.clone())
                .legend(move |(x, y)| PathElement::new([(x, y), (x + 16, y)], colour));
        }
        chart
            .configure_series_labels()
            .position(SeriesLabelPosition::LowerRight)
            .background_style(WHITE)
            .draw()?;
    }
    canvas.present()?;
    Ok(())
}
