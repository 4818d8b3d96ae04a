//! What changes the scores of next tokens, and how one is drawn of them.

use tch::{Device, Kind, Tensor};

/// Scores of tokens that are there already are divided by `penalty` where they are positive, and multiplied by it otherwise.
///
/// # Shapes
/// `scores`: `[R, W]`; `seen`: `[R, n]`.
pub(super) fn penalized(scores: &Tensor, seen: &Tensor, penalty: f64) -> Tensor {
    if penalty == 1.0 || seen.size()[1] == 0 {
        return scores.shallow_clone();
    }
    let old = scores.gather(1, seen, false);
    let new = (&old * penalty).where_self(&old.lt(0.0), &(&old / penalty));
    scores.scatter(1, seen, &new)
}

/// The tokens that may be drawn, most probable first, with their probabilities before they are made to add up to 1.
pub(super) struct Likely {
    tokens: Vec<i64>,
    probabilities: Vec<f32>,
    kept: usize,
}

/// The `top_k` most probable tokens (all for 0), and of these the first that together have the probability `top_p`.
///
/// # Shapes
/// `scores`: `[R, W]`.
pub(super) fn likely(scores: &Tensor, top_k: usize, top_p: f64) -> Likely {
    let words = scores.size()[1];
    let kept = if top_k == 0 { words } else { (top_k as i64).min(words) };
    let (scores, tokens) = scores.topk(kept, 1, true, true);
    let probabilities = scores.softmax(-1, Kind::Float);
    let before = probabilities.cumsum(1, Kind::Float) - &probabilities;
    // The first one stays in any case.
    let beyond = before.ge(top_p).logical_and(&before.gt(0.0));
    let probabilities = probabilities.masked_fill(&beyond, 0.0);
    let values = |x: &Tensor| x.to_device(Device::Cpu).contiguous().view([-1]);
    Likely {
        tokens: Vec::try_from(values(&tokens)).expect("invariant: tokens are i64"),
        probabilities: Vec::try_from(values(&probabilities)).expect("invariant: probabilities are f32"),
        kept: kept as usize,
    }
}

impl Likely {
    /// One token for each row, where `unit` gives a number in `[0, 1)`.
    pub fn draw(&self, unit: impl Fn(usize) -> f64) -> Vec<i64> {
        let rows = self.tokens.chunks_exact(self.kept).zip(self.probabilities.chunks_exact(self.kept));
        let one = |(row, (tokens, probabilities)): (usize, (&[i64], &[f32]))| {
            let total: f64 = probabilities.iter().map(|p| f64::from(*p)).sum();
            let mut left = unit(row) * total;
            let place = probabilities.iter().position(|p| {
                left -= f64::from(*p);
                left < 0.0
            });
            // Rounding may leave a little; the first is always possible.
            tokens[place.unwrap_or(0)]
        };
        rows.enumerate().map(one).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_said_is_less_likely() {
        let scores = Tensor::from_slice(&[2.0_f32, -2.0, 1.0]).view([1, 3]);
        let seen = Tensor::from_slice(&[0_i64, 1, 0]).view([1, 3]);
        let values = |x: &Tensor| Vec::<f32>::try_from(x.view([-1])).unwrap();
        assert_eq!(values(&penalized(&scores, &seen, 2.0)), [1.0, -4.0, 1.0]);
        assert_eq!(values(&penalized(&scores, &seen, 1.0)), [2.0, -2.0, 1.0]);
    }

    #[test]
    fn draws_stay_among_the_likely_ones() {
        let scores = Tensor::from_slice(&[0.5_f32, 0.3, 0.15, 0.05]).log().view([1, 4]);
        let drawn = |top_k, top_p, unit| likely(&scores, top_k, top_p).draw(|_| unit)[0];
        assert_eq!([0.0, 0.49, 0.51, 0.81, 0.96].map(|unit| drawn(0, 1.0, unit)), [0, 0, 1, 2, 3]);
        // Of the two most probable ones: 5/8 and 3/8.
        assert_eq!([0.0, 0.62, 0.63, 0.999].map(|unit| drawn(2, 1.0, unit)), [0, 0, 1, 1]);
        // 0.5 is not yet 0.6; 0.8 is.
        assert_eq!([0.62, 0.63, 0.999].map(|unit| drawn(0, 0.6, unit)), [0, 1, 1]);
        assert_eq!(drawn(0, 0.1, 0.999), 0);
    }
}
