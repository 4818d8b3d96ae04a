//! What Python and numpy do differently from Rust: spaces, sums, rounding.

/// Whether Python's `str.split` and `str.strip` take a character for a space.
pub fn is_space(character: char) -> bool {
    character.is_whitespace() || ('\u{1C}'..='\u{1F}').contains(&character)
}

/// The words of a text, as `str.split()` gives them.
pub fn split(text: &str) -> impl Iterator<Item = &str> {
    text.split(is_space).filter(|word| !word.is_empty())
}

/// The text without spaces around it, as `str.strip()` gives it.
pub fn trim(text: &str) -> &str {
    text.trim_matches(is_space)
}

/// The text without spaces behind it, as `str.rstrip()` gives it.
pub fn trim_end(text: &str) -> &str {
    text.trim_end_matches(is_space)
}

/// The mean of some numbers with the additions in numpy's order (`pairwise_sum` in numpy's `loops_utils.h.src`: blocks
/// of at most 128 with eight partial sums, halves beyond), so that it has the same bits.
pub fn mean(values: &[f64]) -> f64 {
    pairwise_sum(values) / values.len() as f64
}

fn pairwise_sum(values: &[f64]) -> f64 {
    match values.len() {
        0..8 => values.iter().fold(0.0, |sum, value| sum + value),
        8..=128 => {
            let whole = values.len() - values.len() % 8;
            let mut r: [f64; 8] = std::array::from_fn(|lane| values[lane]);
            for block in values[8..whole].chunks_exact(8) {
                for (sum, value) in r.iter_mut().zip(block) {
                    *sum += value;
                }
            }
            let sum = ((r[0] + r[1]) + (r[2] + r[3])) + ((r[4] + r[5]) + (r[6] + r[7]));
            values[whole..].iter().fold(sum, |sum, value| sum + value)
        }
        count => {
            let half = count / 2 - (count / 2) % 8;
            pairwise_sum(&values[..half]) + pairwise_sum(&values[half..])
        }
    }
}

/// A number rounded to two decimals as Python's `round(number, 2)` does: to the nearest decimal of the exact value.
pub fn round2(number: f64) -> f64 {
    // Formatting rounds the exact binary value correctly, ties to even, as Python does.
    format!("{number:.2}").parse().expect("invariant: a formatted number is a number")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spaces_are_pythons() {
        assert_eq!(split("a\u{1C}b\u{A0} c\u{85}").collect::<Vec<_>>(), ["a", "b", "c"]);
        assert_eq!((trim(" a\u{1F}"), trim_end(" a ")), ("a", " a"));
    }

    /// Expected: `round(x, 2)` of Python 3.11.
    #[test]
    fn rounding_is_pythons() {
        for (number, rounded) in [(2.675, 2.67), (0.125, 0.12), (0.375, 0.38), (100.0 / 3.0, 33.33), (66.665, 66.67)] {
            assert_eq!(round2(number), rounded, "{number}");
        }
    }

    /// Expected: `numpy.mean` of `[1 / (i + 1) for i in range(n)]`, numpy 2.4.
    #[test]
    fn means_are_numpys() {
        let values: Vec<f64> = (0..1000).map(|index| 1.0 / f64::from(index + 1)).collect();
        for (count, mean_of) in [(4, 0.5208333333333333), (100, 0.05187377517639621), (1000, 0.007485470860550345)] {
            assert_eq!(mean(&values[..count]), mean_of, "{count}");
        }
    }
}
