//! Which values a key takes beyond having the right type.

use crate::suggest::listed;

/// A limit on the values of a key. For a list it holds for each element.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Rule {
    /// Every value of the type.
    Any,
    /// Numbers between two ends.
    Range {
        /// The lower end.
        low: f64,
        /// Whether the lower end itself is refused.
        above: bool,
        /// The upper end; infinity for none.
        high: f64,
        /// Whether the upper end itself is refused.
        below: bool,
    },
    /// The one version that is read.
    Version(f64),
    /// A text of at least one character.
    NotEmpty,
    /// A text made of letters, digits, `.`, `_` and `-`, because it becomes part of paths and metric names.
    Name,
    /// A SLURM time limit.
    TimeLimit,
    /// One command-line option of sbatch.
    SbatchOption,
}

/// The largest whole number that is read: every larger one is a slip of the finger, and sums of such stay exact.
const LARGEST: f64 = 1e15;

impl Rule {
    /// Numbers from `low` upwards.
    pub const fn at_least(low: f64) -> Rule {
        Rule::Range { low, above: false, high: f64::INFINITY, below: false }
    }

    /// Numbers above `low`.
    pub const fn above(low: f64) -> Rule {
        Rule::Range { low, above: true, high: f64::INFINITY, below: false }
    }

    /// Numbers from `low` to `high`, both included.
    pub const fn within(low: f64, high: f64) -> Rule {
        Rule::Range { low, above: false, high, below: false }
    }

    /// Numbers from 0 up to, not including, 1.
    pub const fn below_one() -> Rule {
        Rule::Range { low: 0.0, above: false, high: 1.0, below: true }
    }

    /// Numbers above 0 and at most 1.
    pub const fn share() -> Rule {
        Rule::Range { low: 0.0, above: true, high: 1.0, below: false }
    }

    /// What is expected, in words; `base` is the type, e.g. "a whole number".
    pub fn expected(&self, base: &str) -> String {
        match *self {
            Rule::Any => base.to_owned(),
            Rule::Range { low, above, high, below } => {
                let low = if above { format!("above {low}") } else { format!("of at least {low}") };
                if high.is_infinite() {
                    format!("{base} {low}")
                } else if below {
                    format!("{base} {low} and below {high}")
                } else {
                    format!("{base} {low} and at most {high}")
                }
            }
            Rule::Version(value) => value.to_string(),
            Rule::NotEmpty => format!("{base} of at least one character"),
            Rule::Name => format!("{base} of letters, digits, `.`, `_` and `-`, at most 100 characters"),
            Rule::SbatchOption => "one sbatch option, which starts with `-`, e.g. --account=vision".to_owned(),
            Rule::TimeLimit => "a time such as 3-00:00:00 (days-hours:minutes:seconds) or 90 (minutes)".to_owned(),
        }
    }

    /// Whether a number is allowed.
    pub(crate) fn allows_number(&self, value: f64) -> bool {
        match *self {
            Rule::Range { low, above, high, below } => {
                (if above { value > low } else { value >= low }) && (if below { value < high } else { value <= high })
            }
            Rule::Version(only) => value == only,
            _ => true,
        }
    }

    /// Whether a whole number is allowed.
    pub(crate) fn allows_whole(&self, value: u64) -> bool {
        // Numbers up to LARGEST are exact in f64.
        (value as f64) <= LARGEST && self.allows_number(value as f64)
    }

    /// Whether a text is allowed.
    pub(crate) fn allows_text(&self, value: &str) -> bool {
        match self {
            Rule::NotEmpty => !value.is_empty(),
            Rule::Name => {
                !value.is_empty()
                    && value.len() <= 100
                    && value.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-'))
                    && !value.starts_with(['.', '-'])
            }
            Rule::TimeLimit => time_limit_s(value).is_some_and(|seconds| seconds > 0),
            Rule::SbatchOption => value.starts_with('-') && !value.contains('\n'),
            Rule::Any | Rule::Range { .. } | Rule::Version(_) => true,
        }
    }

    /// The nearest allowed number, to be suggested.
    pub(crate) fn nearest_number(&self, value: f64) -> Option<f64> {
        match *self {
            Rule::Range { low, above: false, .. } if value < low => Some(low),
            Rule::Range { high, below: false, .. } if value > high => Some(high),
            _ => None,
        }
    }
}

/// The seconds of a SLURM time: minutes, minutes:seconds, hours:minutes:seconds, days-hours, days-hours:minutes or
/// days-hours:minutes:seconds (sbatch manual, `--time`); `None` for other texts.
pub(crate) fn time_limit_s(text: &str) -> Option<u64> {
    let number = |part: &str| {
        let is_number = (1..=6).contains(&part.len()) && part.bytes().all(|byte| byte.is_ascii_digit());
        is_number.then(|| part.parse::<u64>().ok()).flatten()
    };
    let (days, clock) = match text.split_once('-') {
        Some((days, clock)) => (Some(number(days)?), clock),
        None => (None, text),
    };
    let parts = clock.split(':').map(number).collect::<Option<Vec<u64>>>()?;
    let (hours, minutes, seconds) = match (days, parts.as_slice()) {
        (_, [hours, minutes, seconds]) => (*hours, *minutes, *seconds),
        (Some(_), [hours, minutes]) => (*hours, *minutes, 0),
        (Some(_), [hours]) => (*hours, 0, 0),
        (None, [minutes, seconds]) => (0, *minutes, *seconds),
        (None, [minutes]) => (0, *minutes, 0),
        _ => return None,
    };
    Some(((days.unwrap_or(0) * 24 + hours) * 60 + minutes) * 60 + seconds)
}

/// The choices of an enumeration, in words.
pub(crate) fn one_of<'a>(names: impl IntoIterator<Item = &'a str>) -> String {
    let listed = listed(names);
    if listed.contains(' ') { format!("one of {listed}") } else { listed }
}

#[cfg(test)]
mod tests {
    use super::{Rule, time_limit_s};

    #[test]
    fn ends_are_kept_or_refused_as_said() {
        assert!(Rule::below_one().allows_number(0.0) && !Rule::below_one().allows_number(1.0));
        assert!(Rule::share().allows_number(1.0) && !Rule::share().allows_number(0.0));
        assert!(!Rule::above(0.0).allows_number(f64::NAN));
        assert!(!Rule::Any.allows_whole(u64::MAX));
    }

    #[test]
    fn time_limits_are_slurms() {
        let known =
            [("30", 1800), ("30:10", 1810), ("12:00:00", 43_200), ("3-00:00:00", 259_200), ("1-12:30", 131_400)];
        for (text, seconds) in known {
            assert_eq!(time_limit_s(text), Some(seconds), "{text}");
        }
        for text in ["", "3 days", "1h", "-1", "1:2:3:4", "3-", "9999999"] {
            assert_eq!(time_limit_s(text), None, "{text}");
        }
        assert!(!Rule::TimeLimit.allows_text("00:00:00"));
    }
}
