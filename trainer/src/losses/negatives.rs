//! Which wrong partner each image and each text is shown in ITM.

use configs::Negatives;
use data_pipeline::rng::CounterRng;
use tch::{Kind, Tensor};

use crate::TrainerError;

/// How likely each row of the global batch is drawn as a negative, `[b, G]`, f32; partners never are, unless there is
/// nothing else.
///
/// # Shapes
/// `similarity`: `[b, G]`, divided by the temperature; `partners`: `[b, G]`, bool.
pub fn weights(similarity: &Tensor, partners: &Tensor, rule: Negatives) -> Tensor {
    let similarity = similarity.to_kind(Kind::Float);
    match rule {
        // LAVIS HEAD.
        Negatives::MaskedSoftmax => similarity.masked_fill(partners, -10_000.0).softmax(1, Kind::Float),
        // LAVIS 1.0.2.
        Negatives::SoftmaxFloor => (similarity.softmax(1, Kind::Float) + 1e-4).masked_fill(partners, 0.0),
    }
}

/// The same chance for every row of the global batch that is no partner: `[b, G]`, f32.
///
/// # Shapes
/// `partners`: `[b, G]`, bool.
pub fn even_weights(partners: &Tensor) -> Tensor {
    partners.logical_not().to_kind(Kind::Float)
}

/// One column per row, with a chance proportional to its weight. A row without usable weights, where features are not
/// finite or nothing may be drawn, gives its first column: such a step has no finite gradient, and every rank leaves its
/// update out.
///
/// # Errors
/// When the weights cannot be read.
pub fn draw(weights: &Tensor, rng: &mut CounterRng) -> Result<Vec<i64>, TrainerError> {
    let (rows, columns) = weights.size2().expect("invariant: weights are [b, G]");
    let weights = Vec::<f32>::try_from(weights.to_kind(Kind::Float).contiguous().view([rows * columns]))
        .map_err(|source| TrainerError::Torch { doing: "reading the weights of negatives", source })?;
    Ok(weights.chunks_exact(columns as usize).map(|row| draw_one(row, rng)).collect())
}

fn draw_one(weights: &[f32], rng: &mut CounterRng) -> i64 {
    let total: f64 = weights.iter().map(|weight| f64::from(*weight)).sum();
    // Drawn in any case, so that later rows do not depend on this one.
    let mut left = rng.unit() * total;
    if !(total.is_finite() && total > 0.0) {
        return 0;
    }
    let mut last = 0;
    for (column, weight) in weights.iter().enumerate().filter(|(_, weight)| **weight > 0.0) {
        last = column as i64;
        left -= f64::from(*weight);
        if left < 0.0 {
            break;
        }
    }
    last
}

#[cfg(test)]
mod tests {
    use data_pipeline::rng::Purpose;
    use tch::Device;

    use super::*;
    use crate::losses::itc::own_rows;

    #[test]
    fn draws_follow_the_weights_and_never_hit_the_own_row() {
        let mut rng = CounterRng::new(1, Purpose::Negatives, &[]);
        let similarity = Tensor::from_slice(&[5.0_f32, 1.0, 0.0, 0.0, 9.0, 0.0]).view([2, 3]);
        for rule in [Negatives::MaskedSoftmax, Negatives::SoftmaxFloor] {
            let weights = weights(&similarity, &own_rows(0, 2, 3, Device::Cpu), rule);
            let mut counts = [0; 3];
            for _ in 0..4000 {
                let drawn = draw(&weights, &mut rng).unwrap();
                assert!(drawn[0] != 0 && drawn[1] != 1);
                counts[drawn[0] as usize] += 1;
            }
            // e : 1, up to the floor of 1e-4.
            let share = f64::from(counts[1]) / 4000.0;
            assert!((share - 0.731).abs() < 0.03, "{rule}: {share}");
        }
    }

    #[test]
    fn even_draws_leave_out_the_own_row_only() {
        let mut rng = CounterRng::new(1, Purpose::Negatives, &[]);
        let mut counts = [0; 4];
        for _ in 0..3000 {
            let drawn = draw(&even_weights(&own_rows(1, 2, 4, Device::Cpu)), &mut rng).unwrap();
            assert!(drawn[0] != 1 && drawn[1] != 2);
            counts[drawn[0] as usize] += 1;
        }
        assert!(counts[1] == 0 && [0, 2, 3].iter().all(|column| (800..1200).contains(&counts[*column])), "{counts:?}");
    }

    #[test]
    fn rows_without_usable_weights_leave_the_others_alone() {
        let draws = |first_row: [f32; 2]| {
            let mut rng = CounterRng::new(1, Purpose::Negatives, &[]);
            let weights = Tensor::from_slice(&[first_row, [1.0, 1.0]].concat()).view([2, 2]);
            draw(&weights, &mut rng).unwrap()
        };
        for unusable in [[f32::NAN, 1.0], [0.0, 0.0], [f32::INFINITY, 1.0]] {
            assert_eq!(draws(unusable), [0, draws([1.0, 1.0])[1]]);
        }
    }
}
