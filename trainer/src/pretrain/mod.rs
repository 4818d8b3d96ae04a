//! The tiny towers: trained on the training split of the synthetic corpus, once, and then frozen.
//!
//! A published run starts from towers that others trained for weeks. The demo has none, so it trains small ones from
//! the same scenes that the Q-Former is trained on later: the image encoder to name what lies under each patch, the
//! language model to continue captions. No image or label of a held-out colour-shape pair is ever shown; the language
//! model does read such pairs (see [`language_model`]). The result follows from the config and the processor's
//! instruction set.

mod batches;
pub mod image_encoder;
pub mod language_model;
mod masters;
mod scenes;

use std::time::Instant;

use configs::{Dtype, TowerPretraining};
use tch::{Device, Kind, Tensor};

pub use image_encoder::pretrain_image_encoder;
pub use language_model::pretrain_language_model;

use crate::TrainerError;
use crate::model::Tensors;
use crate::precision::compute_kind;
use masters::Masters;

/// How far a training is.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Progress {
    /// Updates done.
    pub step: u64,
    /// Updates in all.
    pub steps: u64,
    /// Of the last batch.
    pub loss: f64,
    /// Images or documents per second since the start.
    pub samples_per_s: f64,
}

/// Shares of what was got right, by what it is.
pub type Accuracies = Vec<(&'static str, f64)>;

/// What a training did.
#[derive(Clone, Debug, PartialEq)]
pub struct Report {
    /// Wall time of the whole, in seconds.
    pub seconds: f64,
    /// Loss over fresh scenes of the training split.
    pub loss: f64,
    /// What was got right over the same scenes, as shares of 1, by what it is.
    pub accuracies: Accuracies,
    /// SHA-256 of the file that was written.
    pub sha256: String,
}

/// Keeps the streams of the two towers, of training and of evaluation apart.
#[derive(Clone, Copy)]
enum Stream {
    ImageEncoder = 1,
    LanguageModel = 2,
}

/// Seed of a tower's starting weights: the run's seed, told apart from that of the Q-Former.
fn weights_seed(seed: u64, stream: Stream) -> u64 {
    data_pipeline::rng::CounterRng::new(seed, data_pipeline::rng::Purpose::Pretrain, &[stream as u64]).next_u64()
}

/// The type in which a tower is trained; half precision would need loss scaling.
fn training_kind(dtype: Dtype) -> Kind {
    match compute_kind(dtype, Device::Cpu) {
        Kind::Half => Kind::Float,
        kind => kind,
    }
}

/// Warm-up over the first twentieth of the steps, then a cosine down to a tenth of the peak.
fn learning_rate(plan: &TowerPretraining, step: u64) -> f64 {
    const FLOOR: f64 = 0.1;
    let warmup = plan.steps.div_ceil(20);
    if step < warmup {
        return plan.learning_rate * (step + 1) as f64 / warmup as f64;
    }
    let part = (step - warmup) as f64 / (plan.steps - warmup).max(1) as f64;
    plan.learning_rate * (FLOOR + (1.0 - FLOOR) * 0.5 * (1.0 + (std::f64::consts::PI * part).cos()))
}

/// All updates of a tower. `loss_of` computes the loss of one step from weights that take gradients.
fn train(
    plan: &TowerPretraining,
    masters: &mut Masters,
    progress: &mut dyn FnMut(Progress),
    mut loss_of: impl FnMut(&Tensors) -> Result<Tensor, TrainerError>,
) -> Result<(), TrainerError> {
    let start = Instant::now();
    for step in 0..plan.steps {
        let leaves = masters.leaves();
        let loss = loss_of(&leaves)?;
        loss.backward();
        masters.update(&leaves, learning_rate(plan, step));
        let done = step + 1;
        progress(Progress {
            step: done,
            steps: plan.steps,
            loss: loss.double_value(&[]),
            samples_per_s: (done as usize * plan.batch) as f64 / start.elapsed().as_secs_f64(),
        });
    }
    Ok(())
}

/// The training of a tower, or an error that says where to write one.
fn plan<'a>(plan: Option<&'a TowerPretraining>, key: &str) -> Result<&'a TowerPretraining, TrainerError> {
    plan.ok_or_else(|| TrainerError::Setting {
        found: format!("found no {key}.pretrain, or null"),
        expected: "steps, batch and learning_rate, as only a tower of stated sizes has them".into(),
        advice: format!("Bring weights to {key}.weights.uri, or copy `pretrain` from configs/tiny.yaml"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_learning_rate_rises_and_falls() {
        let plan = TowerPretraining { steps: 100, batch: 1, learning_rate: 2.0 };
        assert_eq!(learning_rate(&plan, 0), 0.4);
        assert_eq!(learning_rate(&plan, 4), 2.0);
        assert_eq!(learning_rate(&plan, 5), 2.0);
        assert!((learning_rate(&plan, 99) - 0.2).abs() < 0.01);
        let single = TowerPretraining { steps: 1, ..plan };
        assert_eq!(learning_rate(&single, 0), 2.0);
    }
}
