//! Where the time of a step goes: a bar of its parts, as the trainer measures them (`time/<part>`).

use std::collections::BTreeMap;

use serde_json::Value;

use super::gather::Record;
use crate::html::{escape, push};

/// Prefix of the values, in seconds per step.
const PREFIX: &str = "time/";
/// The whole step.
const STEP: &str = "time/step";
/// Work of the decode threads, beside the step and not within it.
const DECODE: &str = "time/decode";
/// The parts in the order of a step, each with its words. Their sum is the step.
const PARTS: [(&str, &str); 9] = [
    ("data_wait", "waiting for data"),
    ("image_encoder", "image encoder"),
    ("qformer", "Q-Former"),
    ("language_model", "language model"),
    ("communication", "communication"),
    ("optimizer", "optimizer"),
    ("checkpoint", "checkpoint"),
    ("evaluation", "evaluation"),
    ("other", "other"),
];
/// Width of the bar in its own units.
const WIDTH: f64 = 1000.0;
/// Shares below this are no rectangle that can be seen; the legend has them.
const VISIBLE: f64 = 0.001;

/// A mean step.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct StepTime {
    /// Seconds of the step.
    pub step_s: f64,
    /// Name and seconds of each part that was measured, in the order of a step.
    pub parts_s: Vec<(&'static str, f64)>,
    /// Seconds of decode threads per step, which pass beside it.
    pub decode_s: Option<f64>,
}

impl StepTime {
    /// The mean over these records of one stage; a record counts as often as it has steps. `None` where nothing was
    /// measured.
    pub fn over(records: &[&Record]) -> Option<Self> {
        let mut before = 0;
        let (mut weight, mut step_s) = (0.0, 0.0);
        let mut sums = [None; PARTS.len()];
        let mut decode = None;
        for record in records {
            let steps = record.step.checked_sub(before).filter(|steps| *steps > 0 && before > 0).unwrap_or(1) as f64;
            before = record.step;
            let Some(step) = seconds(record, STEP) else { continue };
            weight += steps;
            step_s += steps * step;
            for ((part, _), sum) in PARTS.iter().zip(&mut sums) {
                add(sum, seconds(record, &format!("{PREFIX}{part}")).map(|s| steps * s));
            }
            add(&mut decode, seconds(record, DECODE).map(|s| steps * s));
        }
        let parts = PARTS.iter().zip(sums).filter_map(|((part, _), sum)| Some((*part, sum? / weight)));
        let parts_s: Vec<_> = parts.collect();
        (!parts_s.is_empty() && weight > 0.0 && step_s > 0.0).then(|| Self {
            step_s: step_s / weight,
            parts_s,
            decode_s: decode.map(|sum| sum / weight),
        })
    }

    /// Seconds by name, for programs: `step`, its parts, and `decode` beside it.
    pub fn by_name(&self) -> BTreeMap<&'static str, f64> {
        let whole = [("step", self.step_s)].into_iter().chain(self.decode_s.map(|s| ("decode", s)));
        self.parts_s.iter().copied().chain(whole).collect()
    }

    /// The bar with its legend.
    pub fn figure(&self, heading: &str) -> String {
        // Rounding, or a part that another version measures, must not draw beyond the bar.
        let whole = self.parts_s.iter().map(|(_, s)| s).sum::<f64>().max(self.step_s);
        let mut html = format!(
            "<figure class=\"parts\"><figcaption><b>{}</b> <span>{} per step</span></figcaption>\n\
             <svg viewBox=\"0 0 {WIDTH} 30\" preserveAspectRatio=\"none\" role=\"img\" aria-label=\"{} by part\">",
            escape(heading),
            short(self.step_s),
            escape(heading)
        );
        let mut x = 0.0;
        for (part, s) in &self.parts_s {
            let width = WIDTH * s / whole;
            if s / whole >= VISIBLE {
                push(
                    &mut html,
                    format_args!(
                        "<rect class=\"part-{part}\" x=\"{x:.1}\" y=\"0\" width=\"{width:.1}\" height=\"30\">\
                         <title>{}</title></rect>",
                        words(part)
                    ),
                );
            }
            x += width;
        }
        html.push_str("</svg>\n<ul>\n");
        for (part, s) in self.parts_s.iter().filter(|(_, s)| *s > 0.0) {
            push(
                &mut html,
                format_args!(
                    "<li><i class=\"part-{part}\"></i>{} <b>{:.0} %</b> <span>{}</span></li>\n",
                    words(part),
                    100.0 * s / whole,
                    short(*s)
                ),
            );
        }
        html.push_str("</ul>\n");
        if let Some(decode) = self.decode_s {
            push(
                &mut html,
                format_args!(
                    "<p class=\"soft\">Decode threads work {} per step beside it; it costs time only where data are \
                     waited for.</p>\n",
                    short(decode)
                ),
            );
        }
        html.push_str("</figure>\n");
        html
    }
}

fn add(sum: &mut Option<f64>, more: Option<f64>) {
    if let Some(more) = more {
        *sum = Some(sum.unwrap_or(0.0) + more);
    }
}

fn seconds(record: &Record, name: &str) -> Option<f64> {
    record.values.get(name).and_then(Value::as_f64).filter(|s| s.is_finite() && *s >= 0.0)
}

fn words(part: &str) -> &'static str {
    PARTS.iter().find(|(name, _)| *name == part).map_or("other", |(_, words)| *words)
}

/// `12.3 ms`, `1.50 s`.
pub fn short(seconds: f64) -> String {
    let ms = seconds * 1e3;
    match ms {
        ms if ms >= 10_000.0 => format!("{seconds:.1} s"),
        ms if ms >= 1_000.0 => format!("{seconds:.2} s"),
        ms if ms >= 100.0 => format!("{ms:.0} ms"),
        ms if ms >= 10.0 => format!("{ms:.1} ms"),
        ms => format!("{ms:.2} ms"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(step: u64, more: &str) -> Record {
        serde_json::from_str(&format!(r#"{{"stage": "s", "step": {step}, "losses": {{}}{more}}}"#)).unwrap()
    }

    #[test]
    fn records_count_as_often_as_they_have_steps() {
        let first = record(1, r#", "time/step": 5.0, "time/data_wait": 4.0, "time/qformer": 1.0"#);
        let second =
            record(10, r#", "time/step": 1.0, "time/data_wait": 0.25, "time/qformer": 0.75, "time/decode": 2.0"#);
        let mean = StepTime::over(&[&first, &second]).unwrap();
        // One step of 5 s and nine of 1 s.
        assert!((mean.step_s - 1.4).abs() < 1e-9, "{mean:?}");
        assert_eq!(mean.parts_s.iter().map(|(part, _)| *part).collect::<Vec<_>>(), ["data_wait", "qformer"]);
        assert!((mean.parts_s[0].1 - 0.625).abs() < 1e-9 && (mean.parts_s[1].1 - 0.775).abs() < 1e-9, "{mean:?}");
        // Only the second record has it.
        assert_eq!(mean.decode_s, Some(1.8));
        let names: Vec<_> = mean.by_name().into_keys().collect();
        assert_eq!(names, ["data_wait", "decode", "qformer", "step"]);
    }

    #[test]
    fn the_bar_is_as_wide_as_the_step() {
        let one =
            record(5, r#", "time/step": 0.2, "time/data_wait": 0.05, "time/image_encoder": 0.1, "time/other": 0.05"#);
        let figure = StepTime::over(&[&one]).unwrap().figure("Time of a step");
        assert!(figure.contains(r#"class="part-data_wait" x="0.0" y="0" width="250.0""#), "{figure}");
        assert!(figure.contains(r#"class="part-image_encoder" x="250.0" y="0" width="500.0""#), "{figure}");
        assert!(figure.contains("waiting for data <b>25 %</b> <span>50.0 ms</span>"), "{figure}");
        assert!(figure.contains("200 ms per step") && !figure.contains("Decode threads"), "{figure}");
    }

    #[test]
    fn nothing_measured_is_no_bar() {
        assert_eq!(StepTime::over(&[]), None);
        assert_eq!(StepTime::over(&[&record(1, "")]), None);
        assert_eq!(StepTime::over(&[&record(1, r#", "time/step": null, "time/qformer": 0.1"#)]), None);
        assert_eq!(StepTime::over(&[&record(1, r#", "time/step": 0.0, "time/qformer": 0.0"#)]), None);
    }
}
