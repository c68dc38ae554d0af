//! A few shapes of SVG, and axes with round numbers.
//!
//! Text is black and shapes have classes or colours of their own; the page's style sheet does the rest.

use std::fmt::Write as _;

/// A drawing in progress.
#[derive(Debug)]
pub(super) struct Svg {
    width: f64,
    height: f64,
    body: String,
}

/// Where a text is held.
#[derive(Clone, Copy, Debug)]
pub(super) enum Anchor {
    Start,
    Middle,
    End,
}

impl Svg {
    /// An empty drawing of this many pixels.
    pub(super) fn new(width: f64, height: f64) -> Self {
        Self {
            width,
            height,
            body: String::new(),
        }
    }

    /// A filled rectangle.
    pub(super) fn rect(&mut self, x: f64, y: f64, width: f64, height: f64, fill: &str) {
        let width = width.max(0.0);
        self.add(format_args!(
            r#"<rect x="{x:.1}" y="{y:.1}" width="{width:.1}" height="{height:.1}" fill="{fill}"/>"#
        ));
    }

    /// A straight line; `class` is `axis`, `grid`, `bound` or `event`.
    pub(super) fn line(&mut self, from: (f64, f64), to: (f64, f64), class: &str) {
        let ((x1, y1), (x2, y2)) = (from, to);
        self.add(format_args!(
            r#"<line x1="{x1:.1}" y1="{y1:.1}" x2="{x2:.1}" y2="{y2:.1}" class="{class}"/>"#
        ));
    }

    /// A line through points.
    pub(super) fn path(&mut self, points: &[(f64, f64)], colour: &str) {
        let points = list(points);
        self.add(format_args!(
            r#"<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="2"/>"#
        ));
    }

    /// The area between points and a base line.
    pub(super) fn area(&mut self, points: &[(f64, f64)], base: f64, colour: &str) {
        let (Some(first), Some(last)) = (points.first(), points.last()) else {
            return;
        };
        let outline = [&[(first.0, base)], points, &[(last.0, base)]].concat();
        let outline = list(&outline);
        self.add(format_args!(
            r#"<polygon points="{outline}" fill="{colour}" fill-opacity="0.25" stroke="none"/>"#
        ));
        self.path(points, colour);
    }

    /// A text whose base line is at `y`.
    pub(super) fn text(&mut self, x: f64, y: f64, anchor: Anchor, text: &str) {
        let anchor = match anchor {
            Anchor::Start => "start",
            Anchor::Middle => "middle",
            Anchor::End => "end",
        };
        let text = escape(text);
        self.add(format_args!(
            r#"<text x="{x:.1}" y="{y:.1}" text-anchor="{anchor}">{text}</text>"#
        ));
    }

    /// The drawing as an element of a page. `label` is for those who cannot see it.
    pub(super) fn finish(self, label: &str) -> String {
        format!(
            r#"<svg viewBox="0 0 {w} {h}" width="{w}" height="{h}" role="img" aria-label="{label}">{body}</svg>"#,
            w = self.width,
            h = self.height,
            label = escape(label),
            body = self.body,
        )
    }

    fn add(&mut self, element: std::fmt::Arguments<'_>) {
        self.body
            .write_fmt(element)
            .expect("writing to a string cannot fail");
    }
}

fn list(points: &[(f64, f64)]) -> String {
    let points: Vec<_> = points
        .iter()
        .map(|(x, y)| format!("{x:.1},{y:.1}"))
        .collect();
    points.join(" ")
}

/// Text as it may stand in a page.
pub(super) fn escape(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
        .replace('"', "&quot;")
}

/// Round numbers from 0 to at least `max`, about `count` of them; `max` itself may be 0.
pub(super) fn ticks(max: f64, count: usize) -> Vec<f64> {
    let max = if max.is_finite() && max > 0.0 {
        max
    } else {
        1.0
    };
    let rough = max / count.max(1) as f64;
    let magnitude = 10_f64.powf(rough.log10().floor());
    let step = [1.0, 2.0, 2.5, 5.0, 10.0]
        .into_iter()
        .map(|factor| factor * magnitude)
        .find(|step| *step >= rough * (1.0 - 1e-9))
        .unwrap_or(rough);
    let steps = (max / step - 1e-9).ceil() as usize;
    (0..=steps).map(|n| n as f64 * step).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_round_and_cover_everything() {
        assert_eq!(ticks(80.0, 4), [0.0, 20.0, 40.0, 60.0, 80.0]);
        assert_eq!(ticks(0.9, 3), [0.0, 0.5, 1.0]);
        for max in [1e-9, 0.37, 1.0, 7.3, 12_345.0, 9.99e9] {
            let ticks = ticks(max, 5);
            assert!(
                *ticks.last().unwrap() >= max * (1.0 - 1e-6),
                "{max}: {ticks:?}"
            );
            assert!((2..=8).contains(&ticks.len()), "{max}: {ticks:?}");
        }
        assert_eq!(ticks(0.0, 2), [0.0, 0.5, 1.0]);
    }

    #[test]
    fn what_people_write_cannot_become_markup() {
        let mut svg = Svg::new(10.0, 10.0);
        svg.text(0.0, 0.0, Anchor::Start, "<script>\"&");
        assert!(svg.finish("a").contains("&lt;script&gt;&quot;&amp;</text>"));
    }
}
