//! What the first stage of a run starts from: random values, weights by themselves, or another run's checkpoint.

use cluster::{Collective, broadcast_text};
use configs::{Model, QFormerInit, Stage};
use tch::Kind;

use super::kept::tensor_of;
use crate::TrainerError;
use crate::checkpoint::{Found, RunPrefix, open_checkpoint};
use crate::events::Events;
use crate::frozen::{FrozenImageEncoder, IMAGE_ENCODER};
use crate::model::image_tower::fit_positions;
use crate::model::tensors::Tensors;
use crate::state::State;
use crate::weights::{self, Part};

/// More stages than any run has.
const MOST_STAGES: usize = 64;
/// Where weights lie by themselves, whatever else is there.
const WEIGHTS_ENDINGS: [&str; 4] = [".safetensors", ".pth", ".pt", ".bin"];

/// The checkpoints that `model.start_from` names, none where it names nothing, or weights by themselves: a checkpoint; the
/// newest of a stage, `<run>/stage<N>`; or a run, of which the last one of every stage is taken, oldest first, so that what
/// a later stage left out comes from an earlier one. Rank 0 chooses, as the other run may go on meanwhile; every rank calls it.
///
/// # Errors
/// A checkpoint that does not verify, a run without one that does, and errors of the store.
pub(super) fn checkpoints(model: &Model, ranks: &dyn Collective) -> Result<Vec<Found>, TrainerError> {
    let Some(start) = model.start_from.as_ref().map(|weights| weights.uri.as_str()) else { return Ok(Vec::new()) };
    let is_file = WEIGHTS_ENDINGS.iter().any(|ending| start.ends_with(ending));
    if is_file || start.starts_with("hf://") {
        return Ok(Vec::new());
    }
    let start = start.trim_end_matches('/');
    let of_stage = start.rsplit_once("/stage").and_then(|(run, stage)| Some((run, stage.parse::<usize>().ok()?)));
    let (run, stages) = match of_stage {
        Some((run, stage)) => (run, stage..=stage),
        None => (start, 1..=MOST_STAGES),
    };
    let prefix = RunPrefix::open(run)?;
    if prefix.is_checkpoint()? {
        return Ok(vec![open_checkpoint(run)?]);
    }
    let mut found = Vec::new();
    for stage in stages {
        let of_stage = if ranks.rank() == 0 { prefix.latest(Some(stage))? } else { None };
        match shared(of_stage, ranks)? {
            Some(of_stage) => found.push(of_stage),
            None => break,
        }
    }
    Ok(found)
}

/// What rank 0 found, on every rank.
///
/// # Errors
/// As [`open_checkpoint`]; ranks that cannot be reached.
pub(super) fn shared(found: Option<Found>, ranks: &dyn Collective) -> Result<Option<Found>, TrainerError> {
    let uri = broadcast_text(ranks, found.as_ref().map_or("", |found| &found.uri))?;
    match found {
        Some(found) => Ok(Some(found)),
        None if uri.is_empty() => Ok(None),
        None => open_checkpoint(&uri).map(Some),
    }
}

/// Where the stage trains the image encoder, puts the weights of the tower that the config names in place of random ones.
pub(super) fn put_image_encoder(stage: &Stage, tower: &FrozenImageEncoder, random: &mut Tensors) {
    if stage.train_image_encoder() {
        for (name, weight) in tower.weights().iter().filter(|(name, _)| Part::of(name) == Part::ImageEncoder) {
            random.insert(name, weight.to_kind(Kind::Float));
        }
    }
}

/// Puts the values of a BERT, and with `start_from` those of the weights that it names, in place of random ones.
///
/// # Errors
/// Weights that cannot be read or that have another shape.
pub(super) fn put_weights(
    model: &Model,
    start_from: bool,
    random: &mut Tensors,
    events: Events,
) -> Result<(), TrainerError> {
    let trains = |part: Part| random.iter().any(|(name, _)| Part::of(name) == part);
    let parts: Vec<Part> = Part::ALL.into_iter().filter(|part| trains(*part)).collect();
    let bert = if let QFormerInit::Bert(bert) = &model.qformer.init { Some(bert) } else { None };
    for source in [bert, model.start_from.as_ref().filter(|_| start_from)].into_iter().flatten() {
        let mut given = weights::load_start(source, &parts)?;
        fit(model, &mut given)?;
        let mut taken = 0;
        for (name, given) in given.iter() {
            let Some(old) = random.get(name) else { continue };
            let value = weights::started(name, old, &given.to_kind(Kind::Float))?.to_device(old.device());
            random.insert(name, value);
            taken += 1;
        }
        events.message(format!("{taken} of {} tensors start from {}", random.len(), source.uri));
    }
    Ok(())
}

/// Puts the values of a checkpoint's tensors in place of those that the stage trains under the same names. Returns how many.
///
/// # Errors
/// [`TrainerError::WeightShape`] when one has another shape.
pub(super) fn put_checkpoint(model: &Model, state: &mut State, found: &Found) -> Result<usize, TrainerError> {
    let mut given: Tensors = found.trainable.iter().map(|array| (array.name.clone(), tensor_of(array))).collect();
    fit(model, &mut given)?;
    let mut taken = 0;
    for (name, tensor) in given.iter() {
        if let Some(segment) = state.segments.iter().find(|segment| segment.name == name)
            && segment.shape != tensor.size()
        {
            let expected = segment.shape.clone();
            return Err(TrainerError::WeightShape { name: name.to_owned(), found: tensor.size(), expected });
        }
        taken += usize::from(state.set(name, tensor));
    }
    Ok(taken)
}

/// Fits the positions of an image encoder among `given` to the model's image size.
fn fit(model: &Model, given: &mut Tensors) -> Result<(), TrainerError> {
    fit_positions(given, IMAGE_ENCODER, model.image_encoder.sizes(), model.image_encoder.image_size())
}
