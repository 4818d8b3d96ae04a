//! Scores of a checkpoint on the held-out scenes of the synthetic corpus.

pub mod caption;
pub mod retrieval;
pub mod scene_words;
mod scenes;

use configs::{Run, Source, Stage};
use data_pipeline::augment::EvalTransform;
use data_pipeline::image::{DecodeLimits, decode};
use data_pipeline::synthetic::Split;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tch::{Device, Tensor};

use crate::TrainerError;
use crate::checkpoint::{Found, NamedArray, RunPrefix, open_checkpoint};
use crate::device;
use crate::events::Events;
use crate::model::tensors::Tensors;
use crate::towers::Towers;
use scenes::HeldOut;

/// Images that go through a model at once.
const BATCH: i64 = 50;

/// What is scored.
#[derive(Clone, Debug)]
pub struct Request {
    /// A checkpoint, or a run's folder.
    pub checkpoint: String,
    /// Of a run's folder, the stage; none for the newest checkpoint.
    pub stage: Option<String>,
    /// Which scenes.
    pub split: Split,
    /// Only the first so many.
    pub limit: Option<usize>,
}

/// A checkpoint with everything that is needed to use it.
pub struct Loaded {
    /// The config of its run.
    pub run: Run,
    /// Where it lies, its place and its values.
    pub found: Found,
    /// The trained weights by name.
    pub weights: Tensors,
    /// The frozen towers.
    pub towers: Towers,
}

impl Loaded {
    /// Reads a checkpoint, the config of its run, and the towers that the config names.
    ///
    /// # Errors
    /// When one of them is missing or damaged.
    pub fn open(checkpoint: &str, stage: Option<&str>) -> Result<Self, TrainerError> {
        let (run, found) = checkpoint_of(checkpoint, stage)?;
        let device = device::of_use(&run);
        let weights = trained(&found, device);
        let mut towers = Towers::load(&run, device)?;
        towers.image_encoder = towers.image_encoder.with_trained(&run, &weights)?;
        towers.language_model = towers.language_model.for_writing();
        Ok(Self { run, found, weights, towers })
    }

    /// The stage that the checkpoint belongs to.
    pub fn stage(&self) -> &Stage {
        &self.run.stages[self.found.about.stage_index - 1]
    }

    /// Facts that every result repeats.
    fn facts(&self, task: &str, request: &Request, scenes: usize) -> Value {
        let snapshot = &self.found.about;
        json!({
            "schema_version": 1, "task": task, "split": request.split.name(), "scenes": scenes,
            "checkpoint": self.found.uri, "stage": snapshot.stage, "step": snapshot.step,
            "weights_sha256": self.weights_sha256(), "program_version": env!("CARGO_PKG_VERSION"),
        })
    }

    /// SHA-256 over names and values of the trained weights, in name order.
    pub fn weights_sha256(&self) -> String {
        weights_sha256(&self.found)
    }
}

/// The trained weights of a checkpoint by name.
pub(crate) fn trained(found: &Found, device: Device) -> Tensors {
    let tensor = |array: &NamedArray| {
        let shape: Vec<i64> = array.shape.iter().map(|axis| *axis as i64).collect();
        (array.name.clone(), Tensor::from_slice(&array.values).view(shape.as_slice()).to_device(device))
    };
    found.trainable.iter().map(tensor).collect()
}

/// See [`Loaded::weights_sha256`].
pub(crate) fn weights_sha256(found: &Found) -> String {
    let mut arrays: Vec<_> = found.trainable.iter().collect();
    arrays.sort_by(|a, b| a.name.cmp(&b.name));
    let mut hash = Sha256::new();
    for array in arrays {
        hash.update(array.name.as_bytes());
        array.values.iter().for_each(|value| hash.update(value.to_le_bytes()));
    }
    hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A checkpoint and the config of its run, without any tower.
///
/// # Errors
/// When one of them is missing or damaged.
pub fn checkpoint_and_config(checkpoint: &str) -> Result<(Run, Found), TrainerError> {
    checkpoint_of(checkpoint, None)
}

/// [`checkpoint_and_config`], of a run's folder the last checkpoint of a stage.
pub(crate) fn checkpoint_of(checkpoint: &str, stage: Option<&str>) -> Result<(Run, Found), TrainerError> {
    let (run, prefix) = config_of(checkpoint)?;
    let found = match stage {
        None => open_checkpoint(checkpoint)?,
        Some(name) => {
            let index = run.stages.iter().position(|stage| stage.name() == name).ok_or_else(|| {
                let known: Vec<&str> = run.stages.iter().map(Stage::name).collect();
                TrainerError::Unsupported {
                    found: format!("--stage {name}"),
                    expected: format!("the run has the stages {}", known.join(", ")),
                }
            })?;
            prefix.latest(Some(index + 1))?.ok_or_else(|| TrainerError::NoCheckpoint { uri: checkpoint.into() })?
        }
    };
    Ok((run, found))
}

/// The config of the run that `checkpoint` is, or that it belongs to: `<run>/stage1/step-…/<epoch>-<nonce>`.
fn config_of(checkpoint: &str) -> Result<(Run, RunPrefix), TrainerError> {
    let mut place = checkpoint.trim_end_matches('/');
    for _ in 0..4 {
        let prefix = RunPrefix::open(place)?;
        if let Some(text) = prefix.config()? {
            let run = configs::load_str("config.yaml", &text, &configs::Overrides::default());
            let run = run.map_err(|error| TrainerError::Unsupported {
                found: format!("{place}/config.yaml cannot be read: {error}"),
                expected: "a run of this version".into(),
            })?;
            return Ok((run, prefix));
        }
        let Some((parent, _)) = place.rsplit_once('/').filter(|(parent, _)| !parent.is_empty()) else { break };
        place = parent;
    }
    Err(TrainerError::NoCheckpoint { uri: checkpoint.into() })
}

/// Retrieval scores of a stage-1 checkpoint.
///
/// # Errors
/// When the checkpoint, the towers or the scenes cannot be read, or the checkpoint is of another stage.
pub fn retrieval(request: &Request, events: Events) -> Result<Value, TrainerError> {
    let loaded = Loaded::open(&request.checkpoint, request.stage.as_deref())?;
    let Stage::Representation(_) = loaded.stage() else { return Err(wrong_stage(&loaded, "representation")) };
    let scenes = HeldOut::read(synthetic_source(&loaded.run)?, request, loaded.run.data.image_size)?;
    let mut result = loaded.facts("retrieval", request, scenes.len());
    merge(&mut result, retrieval::score(&loaded, &scenes, events)?);
    Ok(result)
}

/// Scores of the captions that a stage-2 checkpoint writes.
///
/// # Errors
/// As [`retrieval()`].
pub fn captions(request: &Request, events: Events) -> Result<Value, TrainerError> {
    let loaded = Loaded::open(&request.checkpoint, request.stage.as_deref())?;
    let Stage::Generative(_) = loaded.stage() else { return Err(wrong_stage(&loaded, "generative")) };
    let scenes = HeldOut::read(synthetic_source(&loaded.run)?, request, loaded.run.data.image_size)?;
    let mut result = loaded.facts("caption", request, scenes.len());
    merge(&mut result, caption::score(&loaded, &scenes, events)?);
    Ok(result)
}

/// Captions of each encoded image, best first, by the model of the checkpoint's stage.
///
/// # Errors
/// When an image cannot be decoded, or the options do not fit together.
pub fn caption_files(
    checkpoint: &str,
    files: &[Vec<u8>],
    options: &caption::Options,
    events: Events,
) -> Result<Vec<Vec<String>>, TrainerError> {
    let loaded = Loaded::open(checkpoint, None)?;
    let transform = EvalTransform::reference(loaded.run.data.image_size as u32);
    let mut values = vec![0.0; files.len() * transform.out_len()];
    for (number, (file, slot)) in files.iter().zip(values.chunks_exact_mut(transform.out_len())).enumerate() {
        let image = decode(file, &DecodeLimits::default()).map_err(|error| TrainerError::Unsupported {
            found: format!("image number {} cannot be decoded: {error}", number + 1),
            expected: "a JPEG, PNG, WebP or GIF file".into(),
        })?;
        transform.apply(&image, slot);
    }
    let side = loaded.run.data.image_size as i64;
    let pixels = Tensor::from_slice(&values).view([files.len() as i64, 3, side, side]);
    caption::write(&loaded, &pixels, options, events)
}

fn merge(result: &mut Value, more: Value) {
    if let (Some(result), Value::Object(more)) = (result.as_object_mut(), more) {
        result.extend(more);
    }
}

fn wrong_stage(loaded: &Loaded, expected: &str) -> TrainerError {
    TrainerError::Unsupported {
        found: format!("{} is a checkpoint of stage {}", loaded.found.uri, loaded.found.about.stage),
        expected: format!("this task needs a stage of kind {expected}; choose one with --stage"),
    }
}

fn synthetic_source(run: &Run) -> Result<&configs::SyntheticSource, TrainerError> {
    run.data
        .sources
        .iter()
        .find_map(|source| if let Source::Synthetic(it) = source { Some(it) } else { None })
        .ok_or_else(|| TrainerError::Unsupported {
            found: "the run has no source of kind synthetic".into(),
            expected: "its held-out scenes are what is scored so far; other data sets come with the evaluation part"
                .into(),
        })
}
