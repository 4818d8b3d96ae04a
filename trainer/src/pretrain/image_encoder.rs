//! The tiny image encoder, trained to name what lies under each patch, and to say where in its object the patch lies.
//!
//! The place is asked for because it leads to the shape, which is learnt last: a patch can only tell a circle from a
//! square when it knows which part of the outline it sees. After 1,150 steps of 16 pictures, 62 % of patches name the
//! right shape without that question and 76 % with it (one seed, at a weight of 8).

use std::time::Instant;

use configs::{Attention, ImageSizes, Run};
use tch::{Kind, Reduction, Tensor, no_grad};

use super::batches::with_batches;
use super::masters::Masters;
use super::scenes::{ATTRIBUTES, IGNORED, LabelledImages, TrainingScenes};
use super::{Accuracies, Progress, Report, Stream, plan, train, training_kind, weights_seed};
use crate::TrainerError;
use crate::frozen::IMAGE_ENCODER;
use crate::model::eva_vit::EvaVit;
use crate::model::layers::Linear;
use crate::model::{Scope, declare};
use crate::weights_file::{tensors_to_bytes, write_whole};

/// Fresh scenes that the accuracies are taken over, and how many at a time.
const FRESH_SCENES: usize = 512;
const FRESH_BATCH: usize = 64;
/// What each attribute's loss counts, in the order of [`ATTRIBUTES`]. Shape is learned last, so it counts more.
const WEIGHTS: [f64; ATTRIBUTES.len()] = [1.0, 2.0, 0.5, 1.0, 0.5];
/// What the squared error of a place counts, in radii.
const PLACE_WEIGHT: f64 = 10.0; // 8 did better than 2 and 30
/// Of the norm in front of the heads; the one that the Q-Former puts behind the tower has the same.
const EPS: f64 = 1e-5;

/// Trains the image encoder of `run` and writes its weights to `model.image_encoder.weights.uri`.
///
/// # Errors
/// [`TrainerError::Setting`] when the config names no tower that is trained here; those of the store.
pub fn pretrain_image_encoder(run: &Run, progress: &mut dyn FnMut(Progress)) -> Result<Report, TrainerError> {
    let start = Instant::now();
    let encoder = &run.model.image_encoder;
    let plan = plan(encoder.pretrain(), "model.image_encoder")?;
    let scenes = TrainingScenes::new(run)?;
    let shape = Shape { sizes: encoder.sizes(), image_size: encoder.image_size(), kernel: run.model.attention };
    let kind = training_kind(encoder.dtype());
    let specs = declare(|scope| Labeller::new(scope, shape))?;
    let mut masters = Masters::new(&specs, weights_seed(run.run.seed, Stream::ImageEncoder), kind);
    with_batches(
        plan.steps,
        |step| scenes.batch(step, plan.batch),
        |batches| {
            train(plan, &mut masters, progress, |leaves| {
                Ok(Labeller::new(&leaves.scope(""), shape)?.loss(&batches.next()?))
            })
        },
    )?;
    let tower = masters.weights(IMAGE_ENCODER);
    let (loss, accuracies) = evaluate(&masters, shape, &scenes)?;
    let uri = encoder.weights().uri.as_str();
    let sha256 = write_whole(uri, tensors_to_bytes(&tower, uri)?)?;
    Ok(Report { seconds: start.elapsed().as_secs_f64(), loss, accuracies, sha256 })
}

/// What a tower looks like.
#[derive(Clone, Copy)]
struct Shape {
    sizes: ImageSizes,
    image_size: usize,
    kernel: Attention,
}

/// The tower and a linear layer over its normalised outputs: what is easy to read off them for these heads is easy for
/// the Q-Former.
struct Labeller {
    tower: EvaVit,
    heads: Linear,
}

impl Labeller {
    fn new(scope: &Scope<'_>, shape: Shape) -> Result<Self, TrainerError> {
        let outputs = ATTRIBUTES.iter().map(|(_, values)| values).sum::<i64>() + 2;
        Ok(Self {
            tower: EvaVit::new(&scope.at(IMAGE_ENCODER), shape.sizes, shape.image_size, shape.kernel)?,
            heads: Linear::new(&scope.at("heads"), shape.sizes.width as i64, outputs)?,
        })
    }

    /// What the tower and the heads say about every patch.
    fn answers(&self, images: &LabelledImages) -> Answers {
        let hidden = self.tower.forward(&images.pixels());
        let (_, tokens, width) = hidden.size3().expect("invariant: the tower gives [B, P, V]");
        let patches = hidden.narrow(1, 1, tokens - 1).layer_norm([width], None::<Tensor>, None::<Tensor>, EPS, false);
        let outputs = self.heads.forward(&patches).to_kind(Kind::Float).flatten(0, 1);
        let mut sizes = ATTRIBUTES.map(|(_, values)| values).to_vec();
        sizes.push(2);
        let mut scores = outputs.split_with_sizes(sizes, -1);
        let places = scores.pop().expect("invariant: places are the last output");
        Answers { scores, places }
    }

    fn loss(&self, images: &LabelledImages) -> Tensor {
        let Answers { scores, places } = self.answers(images);
        let losses = scores.iter().enumerate().map(|(attribute, scores)| {
            let labels = images.labels(attribute);
            scores.cross_entropy_loss(&labels, None::<&Tensor>, Reduction::Mean, IGNORED, 0.0) * WEIGHTS[attribute]
        });
        let attributes = losses.reduce(|a, b| a + b).expect("invariant: there are attributes");
        attributes + place_loss(&places, &images.places()) * PLACE_WEIGHT
    }
}

/// What is said about patches.
struct Answers {
    /// The scores of every attribute's values, each `[B · patches, values]`, f32.
    scores: Vec<Tensor>,
    /// `[B · patches, 2]`, f32.
    places: Tensor,
}

/// The mean squared error over the patches that have a place.
///
/// # Shapes
/// Both `[n, 2]`, f32.
fn place_loss(said: &Tensor, truth: &Tensor) -> Tensor {
    let known = truth.isfinite();
    let error = (said - truth.nan_to_num(0.0, 0.0, 0.0)).square() * &known;
    error.sum(Kind::Float) / known.sum(Kind::Float).clamp_min(1.0)
}

/// The loss and the share of right patches per attribute over scenes that were not trained on.
fn evaluate(masters: &Masters, shape: Shape, scenes: &TrainingScenes) -> Result<(f64, Accuracies), TrainerError> {
    no_grad(|| {
        let labeller = Labeller::new(&masters.leaves().scope(""), shape)?;
        let (mut loss, mut right, mut labelled) = (0.0, [0.0; ATTRIBUTES.len()], [0.0; ATTRIBUTES.len()]);
        for first in (0..FRESH_SCENES).step_by(FRESH_BATCH) {
            let images = scenes.fresh(first as u64, FRESH_BATCH)?;
            loss += labeller.loss(&images).double_value(&[]) * FRESH_BATCH as f64 / FRESH_SCENES as f64;
            for (attribute, scores) in labeller.answers(&images).scores.iter().enumerate() {
                let labels = images.labels(attribute);
                right[attribute] += scores.argmax(-1, false).eq_tensor(&labels).sum(Kind::Int64).double_value(&[]);
                labelled[attribute] += labels.not_equal(IGNORED).sum(Kind::Int64).double_value(&[]);
            }
        }
        let accuracies = ATTRIBUTES.iter().zip(right.iter().zip(&labelled));
        Ok((loss, accuracies.map(|((name, _), (right, labelled))| (*name, right / labelled.max(1.0))).collect()))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frozen::load_image_encoder;
    use crate::precision::compute_kind;

    fn run(folder: &std::path::Path, steps: usize) -> Run {
        let weights = folder.join("tower.safetensors").display().to_string();
        let overrides = configs::Overrides::new([
            format!("model.image_encoder.weights.uri={weights}"),
            format!("model.image_encoder.pretrain.steps={steps}"),
            "model.image_encoder.pretrain.batch=8".into(),
            "model.image_encoder.width=32".into(),
            "model.image_encoder.mlp_dim=64".into(),
            "model.image_encoder.depth=2".into(),
        ]);
        configs::load_str("tiny", configs::preset("tiny").unwrap(), &overrides).unwrap()
    }

    #[test]
    fn a_tower_learns_is_saved_and_comes_out_the_same_again() {
        let folder = tempfile::tempdir().unwrap();
        let run = run(folder.path(), 40);
        // Threads that wait for one another take minutes where other tests keep the cores busy.
        tch::set_num_threads(1);
        let mut losses = Vec::new();
        let first = pretrain_image_encoder(&run, &mut |progress| losses.push(progress.loss)).unwrap();
        assert_eq!(losses.len(), 40);
        assert!(losses[35..].iter().sum::<f64>() < 0.93 * losses[..5].iter().sum::<f64>(), "{losses:?}");
        let tower = load_image_encoder(&run, tch::Device::Cpu).unwrap();
        assert_eq!(tower.sha256(), first.sha256);
        let output = tower.forward(&Tensor::zeros([2, 3, 64, 64], (Kind::Float, tch::Device::Cpu)));
        assert_eq!(
            (output.size(), output.kind(), output.requires_grad()),
            (vec![2, 65, 32], compute_kind(configs::Dtype::Bf16, tch::Device::Cpu), false)
        );
        let again = pretrain_image_encoder(&run, &mut |_| {}).unwrap();
        assert_eq!((first.sha256, first.loss, first.accuracies), (again.sha256, again.loss, again.accuracies));
    }

    #[test]
    fn the_key_bias_stays_zero() {
        let folder = tempfile::tempdir().unwrap();
        let run = run(folder.path(), 3);
        pretrain_image_encoder(&run, &mut |_| {}).unwrap();
        let uri = run.model.image_encoder.weights().uri.as_str();
        let tensors = crate::weights_file::tensors_from_bytes(&std::fs::read(uri).unwrap(), uri).unwrap();
        let bias = tensors.get("vision_model.encoder.layers.1.self_attn.qkv.bias").unwrap();
        let largest = |start| bias.narrow(0, start, 32).abs().max().double_value(&[]);
        assert_eq!(largest(32), 0.0);
        assert!(largest(0) > 0.0 && largest(64) > 0.0);
        assert_eq!(tensors.iter().filter(|(name, _)| !name.starts_with("vision_model.")).count(), 0);
    }

    /// Not a test: trains the tower of `tiny` and prints what came of it. `PRETRAIN_OVERRIDES` holds overrides with
    /// spaces between them.
    #[test]
    #[ignore = "takes minutes"]
    #[allow(clippy::print_stdout, reason = "its output is its purpose")]
    fn print_the_accuracies_of_the_demo() {
        let folder = tempfile::tempdir().unwrap();
        let weights = folder.path().join("tower.safetensors").display().to_string();
        let extra = std::env::var("PRETRAIN_OVERRIDES").unwrap_or_default();
        let overrides = [format!("model.image_encoder.weights.uri={weights}")];
        let overrides =
            configs::Overrides::new(overrides.into_iter().chain(extra.split_whitespace().map(String::from)));
        let run = configs::load_str("tiny", configs::preset("tiny").unwrap(), &overrides).unwrap();
        tch::set_num_threads(1);
        let report = pretrain_image_encoder(&run, &mut |progress| {
            if progress.step % 100 == 0 {
                println!("{progress:?}");
            }
        });
        println!("{extra} {report:?}");
    }
}
