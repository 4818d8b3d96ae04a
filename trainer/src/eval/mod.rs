//! Scores of a checkpoint: retrieval, captions and answers, on held-out scenes of the synthetic corpus or on published sets.

pub mod caption;
pub mod decoding;
pub mod during;
mod held_out;
pub mod images;
pub mod retrieval;
pub mod scene_words;
pub mod sets;
pub mod shares;
pub(crate) mod speaker;
pub mod vqa;

use cluster::Collective;
use configs::{ImageEncoder, LanguageModel, Run, Stage};
use data_pipeline::store::Location;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tch::{Device, Tensor};

use crate::TrainerError;
use crate::checkpoint::{Found, NamedArray, RunPrefix, open_checkpoint};
use crate::device;
use crate::events::{Event, Events};
use crate::frozen::FrozenImageEncoder;
use crate::model::tensors::Tensors;
use crate::storage::Storage;
use crate::towers::Towers;
use decoding::Options;
use images::{Images, in_batches};
use sets::{Asked, Captioned, Data};
use shares::Shares;
use speaker::Speaker;

/// Images that go through a model at once.
const BATCH: usize = 32;

/// What is scored.
#[derive(Clone, Debug)]
pub struct Request {
    /// A checkpoint, or a run's folder.
    pub checkpoint: String,
    /// Of a run's folder, the stage; none for the newest checkpoint.
    pub stage: Option<String>,
    /// On which set.
    pub data: Data,
    /// Only the first so many images, or questions.
    pub limit: Option<usize>,
    /// How texts are written, where it is not as the task has it.
    pub options: Options,
    /// Where the result goes with every single answer, a URI; the run's `eval/` folder by default.
    pub output: Option<String>,
}

/// A model as it stands: of a checkpoint, or in the middle of its training.
#[derive(Clone, Copy)]
pub struct Subject<'a> {
    /// The run.
    pub run: &'a Run,
    /// The stage that the weights are of.
    pub stage: &'a Stage,
    /// The trained weights by name.
    pub weights: &'a Tensors,
    /// The frozen towers, and the tokenizers.
    pub towers: &'a Towers,
    /// The image encoder, which may be a trained one.
    pub image_encoder: &'a FrozenImageEncoder,
}

/// A checkpoint with everything that is needed to use it.
pub struct Loaded {
    /// The config of its run.
    pub run: Run,
    /// Where it lies, its place and its values.
    pub found: Found,
    /// The trained weights by name.
    pub weights: Tensors,
    /// The towers; the image encoder with its trained weights, where the checkpoint has them.
    pub towers: Towers,
    /// URI of the run.
    prefix: String,
}

impl Loaded {
    /// Reads a checkpoint, the config of its run, and the towers that the config names.
    ///
    /// # Errors
    /// When one of them is missing or damaged.
    pub fn open(checkpoint: &str, stage: Option<&str>) -> Result<Self, TrainerError> {
        let (run, prefix, found) = checkpoint_of(checkpoint, stage)?;
        let device = device::of_use(&run);
        let weights = trained(&found, device);
        let mut towers = Towers::load(&run, device)?;
        towers.image_encoder = towers.image_encoder.with_trained(&run, &weights)?;
        towers.language_model = towers.language_model.for_writing();
        Ok(Self { run, found, weights, towers, prefix: prefix.uri() })
    }

    /// The model, to be scored.
    pub fn subject(&self) -> Subject<'_> {
        let Self { run, weights, towers, .. } = self;
        Subject { run, stage: self.stage(), weights, towers, image_encoder: &towers.image_encoder }
    }

    /// The stage that the checkpoint belongs to.
    pub fn stage(&self) -> &Stage {
        &self.run.stages[self.found.about.stage_index - 1]
    }

    /// What every result says of where it comes from, before `result`, what was found. With every single answer it is written
    /// to the request's output by the first rank; what is given back names that file in place of the answers.
    ///
    /// # Errors
    /// When the file cannot be written.
    fn told(
        &self,
        shares: Shares<'_>,
        task: &str,
        set: (&str, &str),
        request: &Request,
        result: Value,
    ) -> Result<Value, TrainerError> {
        let snapshot = &self.found.about;
        let mut told = json!({
            "schema_version": 1, "task": task, "set": set.0, "data_sha256": set.1, "limit": request.limit,
            "checkpoint": self.found.uri, "run": self.run.run.name, "model": model_name(&self.run), "stage": snapshot.stage, "step": snapshot.step,
            "weights_sha256": self.weights_sha256(), "image_encoder_sha256": self.towers.image_encoder.sha256(),
            "language_model_sha256": self.towers.language_model.sha256(), "program_version": env!("CARGO_PKG_VERSION"),
        });
        if let Data::HeldOut(split) = &request.data {
            told["split"] = json!(split.name());
            told["scenes"] = result["images"].clone();
        }
        let name = format!("{task}-{}-{}-step-{}.json", set.0, snapshot.stage, snapshot.step);
        let uri = match &request.output {
            Some(uri) => uri.clone(),
            None => format!("{}/eval/{name}", self.prefix.trim_end_matches('/')),
        };
        told["items_uri"] = json!(uri);
        merge(&mut told, result);
        if shares.is_first() {
            write_whole(&uri, &told)?;
        }
        if let Some(told) = told.as_object_mut() {
            told.remove("items");
        }
        Ok(told)
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
    checkpoint_of(checkpoint, None).map(|(run, _, found)| (run, found))
}

/// [`checkpoint_and_config`], of a run's folder the last checkpoint of a stage.
pub(crate) fn checkpoint_of(checkpoint: &str, stage: Option<&str>) -> Result<(Run, RunPrefix, Found), TrainerError> {
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
    Ok((run, prefix, found))
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

/// Retrieval scores of a stage-1 checkpoint. Of held-out scenes, the fullest caption of each is what belongs to it. Every rank
/// calls it.
///
/// # Errors
/// When the checkpoint, the towers or the set cannot be read, the checkpoint is of another stage, or the result cannot be
/// written.
pub fn retrieval(
    request: &Request,
    candidates: usize,
    ranks: &dyn Collective,
    events: Events,
) -> Result<Value, TrainerError> {
    let loaded = Loaded::open(&request.checkpoint, request.stage.as_deref())?;
    let Stage::Representation(_) = loaded.stage() else { return Err(wrong_stage(&loaded, "representation")) };
    let mut set = Captioned::open(&loaded.run, &request.data, request.limit)?;
    if let Data::HeldOut(_) = request.data {
        set = set.with_one_caption();
    }
    let shares = Shares { ranks, beat: &|| () };
    let result = retrieval::score(&loaded.subject(), &set, candidates, shares, events)?;
    loaded.told(shares, "retrieval", (&set.name, &set.sha256), request, result)
}

/// Scores of the captions that a stage-2 checkpoint writes. Every rank calls it.
///
/// # Errors
/// As [`retrieval()`].
pub fn captions(request: &Request, ranks: &dyn Collective, events: Events) -> Result<Value, TrainerError> {
    let loaded = Loaded::open(&request.checkpoint, request.stage.as_deref())?;
    let Stage::Generative(_) = loaded.stage() else { return Err(wrong_stage(&loaded, "generative")) };
    let set = Captioned::open(&loaded.run, &request.data, request.limit)?;
    // The few words of the synthetic corpus are written one by one, as they were from the start.
    let options = match request.data {
        Data::HeldOut(_) => request.options.clone(),
        Data::Files(_) => request.options.or(&caption::published_defaults()),
    };
    let shares = Shares { ranks, beat: &|| () };
    let result = caption::score(&loaded.subject(), &set, &options, shares, events)?;
    loaded.told(shares, "caption", (&set.name, &set.sha256), request, result)
}

/// Accuracies of the answers that a stage-2 checkpoint gives. Every rank calls it.
///
/// # Errors
/// As [`retrieval()`].
pub fn answers(request: &Request, ranks: &dyn Collective, events: Events) -> Result<Value, TrainerError> {
    let loaded = Loaded::open(&request.checkpoint, request.stage.as_deref())?;
    let Stage::Generative(_) = loaded.stage() else { return Err(wrong_stage(&loaded, "generative")) };
    let set = Asked::open(&loaded.run, &request.data, request.limit)?;
    let options = request.options.or(&vqa::defaults(&loaded.subject(), &set));
    let shares = Shares { ranks, beat: &|| () };
    let result = vqa::score(&loaded.subject(), &set, &options, shares, events)?;
    loaded.told(shares, "vqa", (&set.name, &set.sha256), request, result)
}

/// Captions of each encoded image, best first, by the model of the checkpoint's stage.
///
/// # Errors
/// When an image cannot be decoded, or the options do not fit together.
pub fn caption_files(
    checkpoint: &str,
    files: Vec<(String, Vec<u8>)>,
    options: &Options,
    events: Events,
) -> Result<Vec<Vec<String>>, TrainerError> {
    let loaded = Loaded::open(checkpoint, None)?;
    let images = Images::encoded(files, loaded.run.data.image_size);
    let speaker = Speaker::of(loaded.subject(), options)?;
    let steps = images.len().div_ceil(BATCH) as u64;
    let what = format!("writing captions for {} images", images.len());
    events.send(&Event::Phase { name: "evaluate".into(), what, steps });
    let mut captions = Vec::new();
    for (step, rows) in in_batches(0..images.len(), BATCH).enumerate() {
        let patches = loaded.towers.image_encoder.forward(&images.pixels(&rows, loaded.towers.device)?);
        // Draws are keyed by the place among the images that go together.
        let keys: Vec<u64> = (0..rows.len() as u64).collect();
        captions.extend(speaker.write(&patches, &keys));
        events.progress("evaluate", step as u64 + 1, steps);
    }
    Ok(captions)
}

/// The model as the paper's tables call it.
fn model_name(run: &Run) -> String {
    let language_model = match &run.model.language_model {
        LanguageModel::Opt(model) => format!("OPT-{}", model.size.to_string().to_uppercase()),
        LanguageModel::T5(model) => format!("FlanT5-{}", model.size.to_string().to_uppercase()),
        LanguageModel::CustomOpt(_) => "an OPT of stated sizes".into(),
        LanguageModel::CustomT5(_) => "a T5 of stated sizes".into(),
    };
    let image_encoder = match run.model.image_encoder {
        ImageEncoder::EvaClipG(_) => "ViT-g",
        ImageEncoder::ClipL(_) => "ViT-L",
        ImageEncoder::Custom(_) => "a ViT of stated sizes",
    };
    format!("{image_encoder}, {language_model}")
}

/// Writes a file that appears complete or not at all.
fn write_whole(uri: &str, value: &Value) -> Result<(), TrainerError> {
    let (folder, name) = uri.rsplit_once('/').unwrap_or((".", uri));
    let storage = Storage::at(Location::parse(folder)?)?;
    storage.write(name, format!("{value:#}\n").into_bytes().into())
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
