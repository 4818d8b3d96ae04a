//! Weights from elsewhere and for elsewhere: what labs have is read, checked and written as parts of a run; what was
//! trained is
//! written as others read it.

pub mod clip;
mod config_json;
mod export;
mod families;
mod header;
mod pickle;
mod plan;
mod source;
mod write;

use std::collections::BTreeMap;

use configs::Run;
use data_pipeline::store::Location;
use serde_json::{Value, json};
use tch::Tensor;

use crate::error::{Result, TrainerError};
use crate::frozen::{IMAGE_ENCODER, LANGUAGE_MODEL};
use crate::model::image_tower::ImageTower;
use crate::model::language_tower::LanguageTower;
use crate::model::{Spec, Tensors, declare};
use crate::stage1::Stage1;
use crate::stage2::Stage2;
use crate::storage::Storage;

pub use export::{Format, export};
pub use families::Family;
pub use plan::{Differences, Plan};
pub(crate) use source::Hashed;
pub use source::{Found, Source};
use write::Planned;

/// A part of the model that has a file of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Part {
    /// The image encoder.
    ImageEncoder,
    /// The Q-Former with everything that is trained.
    QFormer,
    /// The language model.
    LanguageModel,
}

impl Part {
    /// All parts.
    pub const ALL: [Self; 3] = [Self::ImageEncoder, Self::QFormer, Self::LanguageModel];

    /// What it is called in file names and messages.
    pub fn name(self) -> &'static str {
        match self {
            Self::ImageEncoder => "image_encoder",
            Self::QFormer => "qformer",
            Self::LanguageModel => "language_model",
        }
    }

    /// The part that a public name belongs to.
    pub fn of(name: &str) -> Self {
        match name {
            _ if name.starts_with("vision_model.post_layernorm.") => Self::QFormer,
            _ if name.starts_with("vision_model.") => Self::ImageEncoder,
            _ if name.starts_with("language_model.") => Self::LanguageModel,
            _ => Self::QFormer,
        }
    }
}

/// What a part of a run's model asks for. Of the Q-Former, what both stages train.
///
/// # Errors
/// None in practice: nothing is read.
pub fn specs(run: &Run, part: Part) -> Result<Vec<Spec>> {
    let model = &run.model;
    match part {
        Part::ImageEncoder => declare(|scope| {
            let encoder = &model.image_encoder;
            ImageTower::new(&scope.at(IMAGE_ENCODER), encoder.sizes(), encoder.image_size(), model.attention)
        }),
        Part::LanguageModel => declare(|scope| {
            LanguageTower::new(&scope.at(LANGUAGE_MODEL), model.language_model.sizes(), model.attention)
        }),
        Part::QFormer => {
            let mut specs = Stage1::specs(model)?;
            let more = Stage2::specs(model)?;
            specs.extend(
                more.into_iter().filter(|spec| !specs.iter().any(|known| known.name == spec.name)).collect::<Vec<_>>(),
            );
            Ok(specs)
        }
    }
}

/// What a file of weights holds, as a JSON object.
///
/// # Errors
/// As [`Source::open`].
pub fn inspect(uri: &str) -> Result<Value> {
    let source = Source::open(uri)?;
    let family = Plan::of(&source).ok().map(|plan| plan.family.name());
    let numbers = |found: &Found| found.shape.iter().map(|side| *side as u64).product::<u64>();
    let tensors: Vec<Value> = source
        .tensors
        .iter()
        .map(|(name, found)| json!({ "name": name, "dtype": format!("{:?}", found.dtype), "shape": found.shape }))
        .collect();
    Ok(json!({
        "schema_version": 1, "task": "weights_inspect", "uri": source.uri, "files": source.files, "family": family,
        "parameters": source.tensors.values().map(numbers).sum::<u64>(), "tensors": tensors,
    }))
}

/// A part of a plan against what a run asks for. Tensors that belong to a stage that the source knows nothing of are
/// not
/// missing, nor are positions of another image size re-shaped: they are fitted when they are loaded.
pub(crate) fn compare(plan: &Plan<'_>, run: &Run, part: Part) -> Result<Option<Differences>> {
    let names: Vec<&str> = plan.names().filter(|name| Part::of(name) == part).collect();
    if names.is_empty() {
        return Ok(None);
    }
    let mut specs = specs(run, part)?;
    if part == Part::QFormer && plan.family != Family::Bert {
        let has = |start: &str| names.iter().any(|name| name.starts_with(start));
        let of_stages = [
            // Names of stage 1 only, of stage 2 only; Hugging Face has no place for temperature and captioning head.
            (has("itm_head."), ["vision_projection.", "text_projection.", "itm_head.", "embeddings."].as_slice()),
            (has("cls.predictions.") && has("temp"), &["cls.predictions.", "temp"]),
            (has("language_projection."), &["language_projection."]),
        ];
        for (known, starts) in of_stages {
            specs.retain(|spec| known || !starts.iter().any(|start| spec.name.starts_with(start)));
        }
        if !has("itm_head.") {
            let of_text = [".intermediate.", ".output.dense.", ".output.LayerNorm."];
            let is_text = |name: &str| !name.contains("attention.") && of_text.iter().any(|part| name.contains(part));
            specs.retain(|spec| !is_text(&spec.name));
        }
    }
    let mut differences = plan.differences(&specs, |name| Part::of(name) == part)?;
    let is_position = |name: &str| name.ends_with("position_embedding") || name.ends_with("positional_embedding");
    differences.reshaped.retain(|(name, ..)| part != Part::ImageEncoder || !is_position(name));
    Ok(Some(differences))
}

/// [`compare`], where a BERT is the start of a Q-Former: the rest is new then, and its vocabulary has one word more.
pub(crate) fn start_differences(plan: &Plan<'_>, run: &Run, part: Part) -> Result<Option<Differences>> {
    let mut found = compare(plan, run, part)?;
    if let (Some(differences), Family::Bert) = (&mut found, plan.family) {
        differences.missing.clear();
        differences.reshaped.retain(|(name, found, expected)| !is_longer_vocabulary(name, found, expected));
    }
    Ok(found)
}

/// Compares a file with what a run asks for: a JSON object with `ok` and every difference.
///
/// # Errors
/// As [`Source::open`].
pub fn verify(uri: &str, run: &Run) -> Result<Value> {
    let source = Source::open(uri)?;
    let plan = Plan::of(&source)?;
    let mut parts = serde_json::Map::new();
    let mut ok = plan.unknown.is_empty();
    for part in Part::ALL {
        if let Some(differences) = compare(&plan, run, part)? {
            ok &= differences.is_empty();
            parts.insert(part.name().to_owned(), described(&differences));
        }
    }
    Ok(json!({
        "schema_version": 1, "task": "weights_verify", "uri": source.uri, "family": plan.family.name(), "ok": ok,
        "parts": parts, "unknown": plan.unknown,
    }))
}

fn described(differences: &Differences) -> Value {
    let reshaped: Vec<Value> = differences
        .reshaped
        .iter()
        .map(|(name, found, expected)| json!({ "name": name, "found": found, "expected": expected }))
        .collect();
    json!({ "missing": differences.missing, "extra": differences.extra, "reshaped": reshaped })
}

/// Writes the parts of a run's model that a source has, `<output>/<part>.safetensors` under public names, and
/// `weights.json`, which says where they come from. A BERT gives the start of a Q-Former, without its new parts.
///
/// # Errors
/// [`TrainerError::WeightsFile`] with every missing, extra and re-shaped tensor when the source is of another model; as
/// [`Source::open`]; [`TrainerError::Store`].
pub fn import(uri: &str, run: &Run, output: &str) -> Result<Value> {
    let source = Source::open(uri)?;
    let plan = Plan::of(&source)?;
    let mut wrong = Vec::new();
    for part in Part::ALL {
        let Some(differences) = start_differences(&plan, run, part)? else { continue };
        wrong.extend(differences.missing.iter().map(|name| format!("missing: {name}")));
        wrong.extend(differences.extra.iter().map(|name| format!("extra: {name}")));
        let reshaped = differences.reshaped.iter();
        wrong.extend(
            reshaped.map(|(name, found, expected)| format!("re-shaped: {name} is {found:?}, expected {expected:?}")),
        );
    }
    wrong.extend(plan.unknown.iter().map(|name| format!("unknown: {name}")));
    if !wrong.is_empty() {
        return Err(TrainerError::WeightsFile {
            uri: source.uri.clone(),
            reason: format!("it is not the model of the config; nothing was written\n  {}", wrong.join("\n  ")),
        });
    }
    let storage = Storage::at(Location::parse(output)?)?;
    let mut files = serde_json::Map::new();
    for part in Part::ALL {
        let names: Vec<&str> = plan.names().filter(|name| Part::of(name) == part).collect();
        if names.is_empty() {
            continue;
        }
        let planned = names
            .iter()
            .map(|name| plan.form(name).map(|(dtype, shape)| Planned { name: (*name).to_owned(), dtype, shape }))
            .collect::<Result<Vec<_>>>()?;
        let file = format!("{}.safetensors", part.name());
        let written = write::write(&storage, &file, &planned.iter().collect::<Vec<_>>(), &|name| plan.bytes(name))?;
        files.insert(
            part.name().to_owned(),
            json!({ "uri": storage.uri(&file), "sha256": written.sha256, "bytes": written.bytes, "tensors": names.len() }),
        );
    }
    let mut left_out: BTreeMap<&str, usize> = BTreeMap::new();
    plan.left_out.values().for_each(|reason| *left_out.entry(*reason).or_default() += 1);
    let manifest = json!({
        "schema_version": 1, "task": "weights_import", "source": source.uri, "source_files": source.files,
        "family": plan.family.name(), "parts": files, "left_out": left_out,
        "hyper_parameters": source.config.as_ref().map(config_json::hyper_parameters),
    });
    storage.write("weights.json", serde_json::to_vec_pretty(&manifest)?.into())?;
    Ok(manifest)
}

/// Whether a tensor lacks rows only, as a BERT's vocabulary lacks `[DEC]`.
fn is_longer_vocabulary(name: &str, found: &[i64], expected: &[i64]) -> bool {
    ["embeddings.word_embeddings.weight", "cls.predictions.bias"].contains(&name)
        && found.len() == expected.len()
        && found[0] < expected[0]
        && found[1..] == expected[1..]
}

/// What parts of a model are to start with, by public name.
///
/// # Errors
/// As [`Source::open_checked`] and [`Plan::tensor`].
pub fn load_start(weights: &configs::Weights, parts: &[Part]) -> Result<Tensors> {
    load_parts(&Source::open_checked(weights)?.0, parts)
}

/// A part of what lies at `uri`, by public name.
///
/// # Errors
/// As [`Source::open`] and [`Plan::tensor`].
pub fn load(uri: &str, part: Part) -> Result<Tensors> {
    load_parts(&Source::open(uri)?, &[part])
}

fn load_parts(source: &Source, parts: &[Part]) -> Result<Tensors> {
    let plan = Plan::of(source)?;
    plan.names()
        .filter(|name| parts.contains(&Part::of(name)))
        .map(|name| Ok((name.to_owned(), plan.tensor(name)?)))
        .collect()
}

/// The values that the tensor `name` of a Q-Former starts with, given random ones; rows that a BERT's vocabulary
/// lacks stay
/// random.
///
/// # Errors
/// [`TrainerError::WeightShape`] when the shapes differ otherwise.
pub fn started(name: &str, random: &Tensor, given: &Tensor) -> Result<Tensor> {
    let (expected, found) = (random.size(), given.size());
    if expected == found {
        return Ok(given.shallow_clone());
    }
    if !is_longer_vocabulary(name, &found, &expected) {
        return Err(TrainerError::WeightShape { name: name.to_owned(), found, expected });
    }
    let rest = random.narrow(0, found[0], expected[0] - found[0]);
    Ok(Tensor::cat(&[&given.to_kind(random.kind()).to_device(random.device()), &rest], 0))
}
