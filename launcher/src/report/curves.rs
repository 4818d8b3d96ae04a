//! Curves as inline SVG, light enough for a page without scripts.

use crate::html::{escape, push};

/// Size of a chart in its own units; the page scales it.
const WIDTH: f64 = 420.0;
const HEIGHT: f64 = 210.0;
/// Room around the curves: left for numbers, below for steps.
const LEFT: f64 = 46.0;
const RIGHT: f64 = 24.0;
const TOP: f64 = 12.0;
const BOTTOM: f64 = 26.0;
/// Most points of a line; more cannot be told apart at this size.
const MOST_POINTS: usize = 300;
/// Fewest points for which a smoothed line is drawn.
const SMOOTH_FROM: usize = 24;

/// One chart.
pub struct Chart<'a> {
    /// Its heading.
    pub title: &'a str,
    /// What the heading does not say.
    pub note: &'a str,
    /// Step and value.
    pub points: &'a [(u64, f64)],
    /// The last step of the axis.
    pub steps: u64,
    /// Steps with something to mark, and what.
    pub marks: &'a [(u64, &'a str)],
    /// The colour: a class of the page.
    pub class: &'a str,
    /// Whether the values are noisy and a smoothed line helps.
    pub noisy: bool,
}

impl Chart<'_> {
    /// The chart as a figure of the page; nothing when it has no points.
    pub fn figure(&self) -> String {
        let Some((_, last)) = self.points.last() else { return String::new() };
        let axis = Axis::over(self.points.iter().map(|(_, value)| *value));
        let smooth = smoothed(self.points);
        let shown =
            if self.noisy && self.points.len() >= SMOOTH_FROM { smooth.last().map_or(*last, |p| p.1) } else { *last };
        let mut svg = format!(
            "<figure class=\"chart {}\"><figcaption><b>{}</b> <span>{}</span><em>{}</em></figcaption>\
             <svg viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\" aria-label=\"{} over steps\">\n",
            self.class,
            escape(self.title),
            escape(self.note),
            number(shown),
            escape(self.title)
        );
        self.grid(&mut svg, &axis);
        let raw = self.path(self.points, &axis);
        if self.noisy && self.points.len() >= SMOOTH_FROM {
            push(
                &mut svg,
                format_args!("<path class=\"raw\" d=\"{raw}\"/>\n<path d=\"{}\"/>\n", self.path(&smooth, &axis)),
            );
        } else {
            push(&mut svg, format_args!("<path d=\"{raw}\"/>\n"));
        }
        svg.push_str("</svg></figure>\n");
        svg
    }

    fn x(&self, step: u64) -> f64 {
        LEFT + (WIDTH - LEFT - RIGHT) * step as f64 / self.last_step() as f64
    }

    fn last_step(&self) -> u64 {
        self.points.iter().map(|(step, _)| *step).max().unwrap_or(1).max(self.steps).max(1)
    }

    fn grid(&self, svg: &mut String, axis: &Axis) {
        for tick in axis.ticks() {
            let y = axis.y(tick);
            push(svg, format_args!("<path class=\"grid\" d=\"M{LEFT} {y:.1}H{}\"/>", WIDTH - RIGHT));
            push(
                svg,
                format_args!("<text x=\"{}\" y=\"{:.1}\" class=\"y\">{}</text>\n", LEFT - 6.0, y + 4.0, number(tick)),
            );
        }
        let gap = nice(self.last_step() as f64 / 4.0).max(1.0);
        let mut step = 0.0;
        while step <= self.last_step() as f64 {
            let x = self.x(step as u64);
            push(svg, format_args!("<text x=\"{x:.1}\" y=\"{}\" class=\"x\">{}</text>\n", HEIGHT - 8.0, short(step)));
            step += gap;
        }
        for (step, text) in self.marks {
            let x = self.x(*step);
            push(svg, format_args!("<path class=\"mark\" d=\"M{x:.1} {TOP}V{}\"/>", HEIGHT - BOTTOM));
            push(
                svg,
                format_args!("<text x=\"{:.1}\" y=\"{}\" class=\"mark\">{}</text>\n", x + 4.0, TOP + 8.0, escape(text)),
            );
        }
    }

    fn path(&self, points: &[(u64, f64)], axis: &Axis) -> String {
        let mut path = String::new();
        let every = points.len().div_ceil(MOST_POINTS).max(1);
        let last = points.len() - 1;
        for (place, (step, value)) in
            points.iter().enumerate().filter(|(place, _)| place % every == 0 || *place == last)
        {
            let to = if place == 0 { 'M' } else { 'L' };
            push(&mut path, format_args!("{to}{:.1} {:.1}", self.x(*step), axis.y(*value)));
        }
        path
    }
}

/// An exponential moving average that is fair to the first points.
fn smoothed(points: &[(u64, f64)]) -> Vec<(u64, f64)> {
    let keep = (1.0 - 12.0 / points.len() as f64).clamp(0.0, 0.95);
    let (mut sum, mut weight) = (0.0, 0.0);
    points
        .iter()
        .map(|(step, value)| {
            sum = keep * sum + value;
            weight = keep * weight + 1.0;
            (*step, sum / weight)
        })
        .collect()
}

/// The vertical axis.
struct Axis {
    low: f64,
    high: f64,
    gap: f64,
}

impl Axis {
    fn over(values: impl Iterator<Item = f64>) -> Self {
        let (least, most) = values.fold((f64::INFINITY, f64::NEG_INFINITY), |(a, b), v| (a.min(v), b.max(v)));
        // Curves of positive numbers stand on 0 unless that would flatten them.
        let least = if least > 0.0 && least < 0.6 * most { 0.0 } else { least };
        let span = if most > least { most - least } else { most.abs().max(1e-9) };
        let gap = nice(span / 3.0);
        Self { low: (least / gap).floor() * gap, high: (most / gap + 1e-9).ceil() * gap, gap }
    }

    fn ticks(&self) -> impl Iterator<Item = f64> {
        let count = ((self.high - self.low) / self.gap).round() as usize;
        (0..=count).map(|tick| self.low + tick as f64 * self.gap)
    }

    fn y(&self, value: f64) -> f64 {
        let span = (self.high - self.low).max(f64::MIN_POSITIVE);
        TOP + (HEIGHT - TOP - BOTTOM) * (1.0 - (value - self.low) / span)
    }
}

/// The nearest of 1, 2, 5, 10 … at or above.
fn nice(value: f64) -> f64 {
    let power = 10_f64.powf(value.log10().floor());
    [1.0, 2.0, 5.0, 10.0].into_iter().map(|step| step * power).find(|step| *step >= value * 0.999).unwrap_or(value)
}

/// Three digits or so.
pub fn number(value: f64) -> String {
    let size = value.abs();
    if value == 0.0 {
        "0".to_owned()
    } else if !(1e-2..1e5).contains(&size) {
        format!("{value:.1e}").replace(".0e", "e")
    } else {
        let digits = (2 - size.log10().floor() as i32).clamp(0, 4) as usize;
        let text = format!("{value:.digits$}");
        if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.').to_owned() } else { text }
    }
}

/// Steps on the axis: `500`, `1.5k`.
fn short(step: f64) -> String {
    if step < 10_000.0 { format!("{step:.0}") } else { format!("{}k", number(step / 1000.0)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn axes_have_few_round_numbers() {
        let axis = Axis::over([0.61, 5.9].into_iter());
        assert_eq!(axis.ticks().collect::<Vec<_>>(), [0.0, 2.0, 4.0, 6.0]);
        assert!(axis.y(0.0) > axis.y(6.0));
        let flat = Axis::over([3.0, 3.0].into_iter());
        assert!(flat.ticks().count() >= 2 && flat.y(3.0).is_finite());
        assert!(Axis::over([0.0].into_iter()).y(0.0).is_finite());
        assert_eq!([number(131.4), number(0.001), number(1e-6), number(5.9)], ["131", "1e-3", "1e-6", "5.9"]);
        assert_eq!([nice(0.3), nice(125.0)], [0.5, 200.0]);
    }

    #[test]
    fn a_long_curve_stays_light() {
        let points: Vec<_> = (0..100_000).map(|step| (step, 1.0 / (1.0 + step as f64))).collect();
        let chart = Chart { title: "itc", note: "", points: &points, steps: 0, marks: &[], class: "itc", noisy: true };
        let figure = chart.figure();
        assert!(figure.len() < 20_000, "{}", figure.len());
        assert!(!figure.contains("NaN") && !figure.contains("inf"));
        assert_eq!(Chart { points: &[], ..chart }.figure(), "");
    }
}
