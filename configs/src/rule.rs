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
    /// One number only.
    Exactly(f64),
    /// A text of at least one character.
    NotEmpty,
    /// A text made of letters, digits, `.`, `_` and `-`, because it becomes part of paths and metric names.
    Name,
    /// A SLURM time limit.
    TimeLimit,
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
            Rule::Exactly(value) => value.to_string(),
            Rule::NotEmpty => format!("{base} of at least one character"),
            Rule::Name => format!("{base} of letters, digits, `.`, `_` and `-`, at most 100 characters"),
            Rule::TimeLimit => "a time such as 3-00:00:00 (days-hours:minutes:seconds) or 90 (minutes)".to_owned(),
        }
    }

    /// Whether a number is allowed.
    pub(crate) fn allows_number(&self, value: f64) -> bool {
        match *self {
            Rule::Range { low, above, high, below } => {
                (if above { value > low } else { value >= low }) && (if below { value < high } else { value <= high })
            }
            Rule::Exactly(only) => value == only,
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
            Rule::TimeLimit => is_time_limit(value),
            Rule::Any | Rule::Range { .. } | Rule::Exactly(_) => true,
        }
    }

    /// The nearest allowed number, to be suggested.
    pub(crate) fn nearest_number(&self, value: f64) -> Option<f64> {
        match *self {
            Rule::Exactly(only) if value != only => Some(only),
            Rule::Range { low, above: false, .. } if value < low => Some(low),
            Rule::Range { high, below: false, .. } if value > high => Some(high),
            _ => None,
        }
    }
}

/// Whether `text` is one of SLURM's forms: minutes, minutes:seconds, hours:minutes:seconds, days-hours[:minutes[:seconds]]
/// (sbatch manual, `--time`).
fn is_time_limit(text: &str) -> bool {
    let (days, clock) = match text.split_once('-') {
        Some((days, clock)) => (Some(days), clock),
        None => (None, text),
    };
    let digits = |part: &str| !part.is_empty() && part.len() <= 6 && part.bytes().all(|b| b.is_ascii_digit());
    let parts: Vec<&str> = clock.split(':').collect();
    let not_zero = text.contains(|c: char| ('1'..='9').contains(&c));
    days.is_none_or(digits) && parts.len() <= 3 && parts.iter().all(|part| digits(part)) && not_zero
}

/// The choices of an enumeration, in words.
pub(crate) fn one_of<'a>(names: impl IntoIterator<Item = &'a str>) -> String {
    let listed = listed(names);
    if listed.contains(' ') { format!("one of {listed}") } else { listed }
}

#[cfg(test)]
mod tests {
    use super::{Rule, is_time_limit};

    #[test]
    fn ends_are_kept_or_refused_as_said() {
        assert!(Rule::below_one().allows_number(0.0) && !Rule::below_one().allows_number(1.0));
        assert!(Rule::share().allows_number(1.0) && !Rule::share().allows_number(0.0));
        assert!(!Rule::above(0.0).allows_number(f64::NAN));
        assert!(!Rule::Any.allows_whole(u64::MAX));
    }

    #[test]
    fn time_limits_are_slurms() {
        for text in ["30", "30:00", "12:00:00", "3-00:00:00", "3-12", "3-12:30"] {
            assert!(is_time_limit(text), "{text}");
        }
        for text in ["", "0", "00:00:00", "3 days", "1h", "-1", "1:2:3:4", "3-"] {
            assert!(!is_time_limit(text), "{text}");
        }
    }
}
