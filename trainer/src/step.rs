//! The gradients of one step of each stage: what every slice computes, and what slices tell each other.
//!
//! Letters: `b` rows of a slice, `G` rows of the global batch, `P` visual tokens of width `V`.

use configs::{GenerativeStage, Model, RepresentationStage};
use data_pipeline::rng::{CounterRng, Purpose};
use tch::{Kind, Tensor};

use crate::TrainerError;
use crate::generator::{Seeded, seeded};
use crate::losses::itc::{self, Contrast, Features, contrast};
use crate::losses::negatives;
use crate::model::language_tower::LanguageTower;
use crate::parts::Part;
use crate::precision::compute_kind;
use crate::slices::SliceMap;
use crate::stage1::{Encoded as Passes, NegativeRows, Stage1, Text};
use crate::stage2::{Stage2, Words};
use crate::state::State;
use crate::trained_image_encoder;

/// One slice of one step on its device.
#[derive(Debug)]
pub struct Slice {
    /// Its number in the global batch.
    pub index: usize,
    /// The image encoder's output, `[b, P, V]`; a leaf of the losses where the encoder is trained.
    pub patches: Tensor,
    /// What it was given, `[b, 3, S, S]`, where it is trained.
    pub pixels: Option<Tensor>,
    /// The captions.
    pub words: Words,
    /// Numbers of the samples in the run: rows of its catalogues, one behind the other.
    pub samples: Vec<u64>,
    /// Numbers of the images, `[b]`, i64, where captions of one image are all its partners; each caption is its image's
    /// only partner otherwise.
    pub image_ids: Option<Tensor>,
}

impl Slice {
    /// The row of the global batch that its first row is; slices are equally long.
    pub(crate) fn first_row(&self) -> i64 {
        self.index as i64 * self.patches.size()[0]
    }
}

/// What a step computes besides its gradient.
#[derive(Debug)]
pub struct Losses {
    /// What the terms are called.
    pub names: &'static [&'static str],
    /// The terms of each own slice and, last, their weighted sum: `[n]`, f32, without gradient.
    pub slices: Vec<Tensor>,
}

/// Names of the losses of stage 1.
pub const REPRESENTATION_LOSSES: &[&str] = &["itc", "itm", "itg", "total"];
/// Names of the losses of stage 2.
pub const GENERATIVE_LOSSES: &[&str] = &["lm", "total"];

/// Which step this is, for everything random.
#[derive(Clone, Copy, Debug)]
pub struct StepKey {
    /// The run's seed.
    pub seed: u64,
    /// The stage, from 1.
    pub stage: u64,
    /// The step of the stage.
    pub step: u64,
}

impl StepKey {
    /// The step behind this one.
    pub fn next(self) -> Self {
        Self { step: self.step + 1, ..self }
    }

    /// Makes dropout of the coming passes of a slice a function of the step, the slice and their number, until the result
    /// is dropped. Nothing may wait for other ranks before that.
    fn dropout(&self, slice: usize, pass: u64) -> Seeded {
        let key = [self.stage, self.step, slice as u64, pass];
        seeded(CounterRng::new(self.seed, Purpose::Dropout, &key).next_u64().cast_signed())
    }
}

/// The passes over a slice whose dropout is drawn together.
mod pass {
    /// Queries and text by themselves.
    pub const FEATURES: u64 = 0;
    /// Matching and captioning.
    pub const LOSSES: u64 = 1;
    /// All of stage 2.
    pub const GENERATIVE: u64 = 2;
}

/// The losses of stage 1 and the mean gradient over all slices, of the chunks that this rank updates.
///
/// The wrong partners are drawn on the processor, and until it has launched what follows a GPU would have nothing to do:
/// `meanwhile` is called there, once, to give it other work.
///
/// # Errors
/// When ranks cannot talk, or libtorch fails.
pub fn representation(
    state: &State,
    (model, stage): (&Model, &RepresentationStage),
    slices: &[Slice],
    map: &SliceMap<'_>,
    key: StepKey,
    meanwhile: &mut dyn FnMut(),
) -> Result<(Losses, Tensor), TrainerError> {
    let draw = |slice: usize, partners: &Tensor, itc: &Contrast| draw_negatives(stage, key, slice, partners, itc);
    let variant = Variant { model, stage, choose: &draw, project_once: true };
    representation_with(state, &variant, slices, map, key, meanwhile)
}

/// What stage 1 computes, with choices that belong to tests and benchmarks.
pub struct Variant<'a> {
    /// The model.
    pub model: &'a Model,
    /// The stage.
    pub stage: &'a RepresentationStage,
    /// Chooses the wrong partners.
    pub choose: &'a Chooser<'a>,
    /// Whether keys and values of a slice's own images are computed once and used by all its passes, or at each use.
    pub project_once: bool,
}

/// [`representation`] with the variant's choices.
///
/// # Errors
/// When ranks cannot talk, or libtorch fails.
pub fn representation_with(
    state: &State,
    variant: &Variant<'_>,
    slices: &[Slice],
    map: &SliceMap<'_>,
    key: StepKey,
    meanwhile: &mut dyn FnMut(),
) -> Result<(Losses, Tensor), TrainerError> {
    let _time = map.time(Part::QFormer);
    state.begin_step(compute_kind(variant.model.qformer.dtype, state.weights.device()));
    let step = Representation { state, variant, key, map };
    // One graph at a time is kept: a rank with several slices repeats their first passes below.
    let mut kept = None;
    let mut features = Vec::with_capacity(slices.len());
    for slice in slices {
        let passes = step.encode(slice)?;
        let Features { image, text } = &passes.1.features;
        features.push(Features { image: image.detach(), text: text.detach() });
        kept = (slices.len() == 1).then_some(passes);
    }
    let global = step.gather(slices, &features)?;
    let draws = step.draw(slices, &features, &global)?;
    meanwhile();
    let patches: Vec<Tensor> = slices.iter().map(|slice| slice.patches.detach()).collect();
    let trains_encoder = variant.stage.train_image_encoder;
    let mut returned = Vec::new();
    let mut losses = Vec::with_capacity(slices.len());
    let mut gradient = map.sum();
    for round in 0..map.rounds() {
        let drawn = draws.as_ref().map(|draws| map.fetch(&patches, &draws.images_of_all, round)).transpose()?.flatten();
        let negatives = draws.as_ref().zip(drawn).map(|(draws, patches)| NegativeRows {
            patches: patches.set_requires_grad(trains_encoder),
            text: global.text.rows(&Tensor::from_slice(&draws.own[round].texts)),
        });
        if let Some(slice) = slices.get(round) {
            let passes = kept.take().map_or_else(|| step.encode(slice), Ok)?;
            let (terms, total) = step.losses(slice, &passes, &global, negatives.as_ref());
            backward(&total, state);
            losses.push(terms);
            gradient.add(slice.index, state.take_gradients());
        }
        if let Some(draws) = draws.as_ref().filter(|_| trains_encoder) {
            let gradients = negatives.map(|negatives| negatives.patches.grad());
            let wanted = (draws.images_of_all.as_slice(), round);
            returned.extend(map.give_back(gradients.as_ref(), wanted, &patches[0])?);
        }
    }
    let mut gradient = gradient.mean(state.finite.loss_scale())?;
    if trains_encoder {
        gradient += trained_image_encoder::gradient(state, variant.model, slices, &returned, map)?;
    }
    Ok((Losses { names: REPRESENTATION_LOSSES, slices: losses }, gradient))
}

/// Chooses the wrong partners of a slice: given its number, the partners of its rows (`[b, G]`, bool) and its similarities.
pub type Chooser<'a> = dyn Fn(usize, &Tensor, &Contrast) -> Result<Draws, TrainerError> + 'a;

/// Wrong partners of a slice, as rows of the global batch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Draws {
    /// An image for every text.
    pub images: Vec<i64>,
    /// A text for every image.
    pub texts: Vec<i64>,
}

struct Representation<'a> {
    state: &'a State,
    variant: &'a Variant<'a>,
    map: &'a SliceMap<'a>,
    key: StepKey,
}

/// What every slice knows of the global batch, `G` rows in slice order, without gradient.
struct Global {
    features: Features,
    text: Text,
    image_ids: Option<Tensor>,
}

impl Global {
    /// Which rows are partners of the slice's.
    fn partners(&self, slice: &Slice) -> Tensor {
        match (&slice.image_ids, &self.image_ids) {
            (Some(own), Some(all)) => itc::same_image(own, all),
            _ => {
                let (rows, columns) = (slice.patches.size()[0], self.text.ids.size()[0]);
                itc::own_rows(slice.first_row(), rows, columns, slice.patches.device())
            }
        }
    }
}

/// The wrong partners of a step.
struct AllDraws {
    /// For each own slice.
    own: Vec<Draws>,
    /// The images drawn by each slice of the global batch: their owners must know what to send.
    images_of_all: Vec<Vec<i64>>,
}

impl Representation<'_> {
    /// The model and its first passes over a slice.
    fn encode(&self, slice: &Slice) -> Result<(Stage1, Passes), TrainerError> {
        let stage1 = Stage1::new(&self.state.parameters().scope(""), self.variant.model, true)?;
        let _generator = self.key.dropout(slice.index, pass::FEATURES);
        let encoded = stage1.encode(&slice.patches, &slice.words.text);
        Ok((stage1, encoded))
    }

    fn gather(&self, slices: &[Slice], features: &[Features]) -> Result<Global, TrainerError> {
        let all = |own: Vec<Tensor>| Ok::<_, TrainerError>(Tensor::cat(&self.map.gather(&own)?, 0));
        let image_ids: Option<Vec<Tensor>> =
            slices.iter().map(|slice| Some(slice.image_ids.as_ref()?.shallow_clone())).collect();
        let (image, text) = features.iter().map(|own| (own.image.shallow_clone(), own.text.shallow_clone())).unzip();
        Ok(Global {
            features: Features { image: all(image)?, text: all(text)? },
            text: Text {
                ids: all(slices.iter().map(|slice| slice.words.text.ids.shallow_clone()).collect())?,
                mask: all(slices.iter().map(|slice| slice.words.text.mask.shallow_clone()).collect())?,
            },
            image_ids: image_ids.map(all).transpose()?,
        })
    }

    /// Draws wrong partners by the features' similarities; none while ITM rests.
    fn draw(&self, slices: &[Slice], own: &[Features], global: &Global) -> Result<Option<AllDraws>, TrainerError> {
        if self.variant.stage.losses.itm <= 0.0 || self.key.step < self.variant.stage.itm_start_step {
            return Ok(None);
        }
        let temperature =
            self.state.parameters().get("temp").expect("invariant: stage 1 trains a temperature").detach();
        let of_slice = |(slice, features): (&Slice, &Features)| {
            let partners = global.partners(slice);
            let itc = contrast(features, &global.features, &temperature, &partners, self.variant.stage.label_smoothing);
            (self.variant.choose)(slice.index, &partners, &itc)
        };
        let own = slices.iter().zip(own).map(of_slice).collect::<Result<Vec<Draws>, _>>()?;
        let images: Vec<Tensor> = own.iter().map(|draws| Tensor::from_slice(&draws.images)).collect();
        let read = |rows: &Tensor| {
            Vec::try_from(rows).map_err(|source| TrainerError::Torch { doing: "reading the drawn negatives", source })
        };
        let images_of_all = self.map.gather(&images)?.iter().map(read).collect::<Result<_, _>>()?;
        Ok(Some(AllDraws { own, images_of_all }))
    }

    /// The terms and their weighted sum, which carries the gradient.
    fn losses(
        &self,
        slice: &Slice,
        (stage1, encoded): &(Stage1, Passes),
        global: &Global,
        negatives: Option<&NegativeRows>,
    ) -> (Tensor, Tensor) {
        let _generator = self.key.dropout(slice.index, pass::LOSSES);
        let smoothing = self.variant.stage.label_smoothing;
        let partners = global.partners(slice);
        let itc = contrast(&encoded.features, &global.features, &stage1.temperature, &partners, smoothing).loss;
        let weights = &self.variant.stage.losses;
        let zero = || Tensor::zeros([], (Kind::Float, slice.patches.device()));
        let once = self.variant.project_once;
        let itm =
            negatives.map_or_else(zero, |negatives| stage1.matching_loss(encoded, &slice.words.text, negatives, once));
        let itg = match weights.itg > 0.0 {
            true => {
                let decoder_start = self.variant.model.qformer.vocab_size as i64 - 1;
                stage1.captioning_loss(encoded, &slice.words.text, decoder_start, smoothing)
            }
            false => zero(),
        };
        let total = &itc * weights.itc + &itm * weights.itm + &itg * weights.itg;
        (Tensor::stack(&[&itc, &itm, &itg, &total], 0).detach(), total)
    }
}

/// Negatives by similarity, or any before the stage's `hard_negatives_start_step`.
///
/// # Errors
/// When a row has no partner that is wrong.
pub fn draw_negatives(
    stage: &RepresentationStage,
    key: StepKey,
    slice: usize,
    partners: &Tensor,
    itc: &Contrast,
) -> Result<Draws, TrainerError> {
    let mut rng = CounterRng::new(key.seed, Purpose::Negatives, &[key.stage, key.step, slice as u64]);
    let mut rows = |similarity: &Tensor| {
        let weights = match key.step >= stage.hard_negatives_start_step {
            true => negatives::weights(similarity, partners, stage.negatives),
            false => negatives::even_weights(partners),
        };
        negatives::draw(&weights, &mut rng)
    };
    // The reference draws an image for every text first, then a text for every image.
    Ok(Draws { images: rows(&itc.text_to_image)?, texts: rows(&itc.image_to_text)? })
}

/// The loss of stage 2 and the mean gradient over all slices, of the chunks that this rank updates.
///
/// # Errors
/// When ranks cannot talk.
pub fn generative(
    state: &State,
    model: &Model,
    stage: &GenerativeStage,
    language_model: &LanguageTower,
    slices: &[Slice],
    map: &SliceMap<'_>,
    key: StepKey,
) -> Result<(Losses, Tensor), TrainerError> {
    let _time = map.time(Part::QFormer);
    state.begin_step(compute_kind(model.qformer.dtype, state.weights.device()));
    let mut losses = Vec::with_capacity(slices.len());
    let mut gradient = map.sum();
    for slice in slices {
        let stage2 = Stage2::of_stage(&state.parameters().scope(""), model, stage, true)?;
        let generator = key.dropout(slice.index, pass::GENERATIVE);
        let prefix = stage2.prefix(&slice.patches, slice.words.question.as_ref());
        // The graph is cut at the soft prompt, so that each model's passes can be timed: first the language model's way back,
        // then the Q-Former's from the gradient that it leaves there. The chain rule hands on the same tensor without a cut.
        let prompt = prefix.detach().set_requires_grad(true);
        let loss = {
            let _time = map.time(Part::LanguageModel);
            let loss = stage2.prompted_loss(language_model, &prompt, &slice.words, stage.label_smoothing);
            drop(generator);
            backward(&loss, state);
            loss
        };
        send_back(&prefix, &prompt.grad());
        losses.push(Tensor::stack(&[&loss, &loss], 0).detach());
        gradient.add(slice.index, state.take_gradients());
    }
    let mut gradient = gradient.mean(state.finite.loss_scale())?;
    if stage.train_image_encoder {
        gradient += trained_image_encoder::gradient(state, model, slices, &[], map)?;
    }
    Ok((Losses { names: GENERATIVE_LOSSES, slices: losses }, gradient))
}

/// Back-propagates a loss, multiplied by the run's loss scale: gradients carry it until they are averaged.
fn backward(loss: &Tensor, state: &State) {
    match state.finite.loss_scale() {
        1.0 => loss.backward(),
        scale => (loss * scale).backward(),
    }
}

/// Back-propagates from an output whose gradient is known, scale included.
fn send_back(output: &Tensor, gradient: &Tensor) {
    // The gradient of this sum with respect to `output` is `gradient`, times 1.
    (output * gradient).sum(gradient.kind()).backward();
}

impl Losses {
    /// The mean of every term over all slices, in the order of `names`. Waits for the device.
    ///
    /// # Errors
    /// When ranks cannot talk.
    pub fn means(&self, map: &SliceMap<'_>) -> Result<Vec<f64>, TrainerError> {
        let all = Tensor::stack(&map.gather(&self.slices)?, 0).to_kind(Kind::Double);
        let means = all.mean_dim([0_i64].as_slice(), false, Kind::Double);
        Vec::try_from(means).map_err(|source| TrainerError::Torch { doing: "reading the losses", source })
    }
}
