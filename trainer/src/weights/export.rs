//! Weights as others read them: a folder of Hugging Face's, or a file with LAVIS' names.

use std::collections::BTreeMap;

use configs::{ImageBlock, LanguageModelSizes, Run, Stage};
use data_pipeline::store::Location;
use safetensors::Dtype;
use serde_json::{Value, json};

use super::plan::Plan;
use super::source::Source;
use super::write::{Planned, write};
use super::{Part, config_json};
use crate::checkpoint::{Found, NamedArray};
use crate::error::{Result, TrainerError};
use crate::eval::checkpoint_and_config;
use crate::model::eva_vit::has_no_key_bias;
use crate::storage::Storage;
use crate::weight_names::public_to_lavis;

/// Bytes of one file at most, as Hugging Face cuts them.
const SHARD: u64 = 5_000_000_000;

/// Who is to read the weights.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// transformers: `config.json` and `model.safetensors`, in several files with an index where it is large.
    HuggingFace,
    /// LAVIS: one file with its names.
    Lavis,
}

/// Where the values of a tensor come from.
enum Values<'a> {
    Trained(&'a NamedArray),
    File(usize),
}

/// The tensors of a whole model under public names.
struct Whole<'a> {
    plans: &'a [Plan<'a>],
    values: BTreeMap<String, (Planned, Values<'a>)>,
}

impl Whole<'_> {
    fn read(&self, name: &str) -> Result<Vec<u8>> {
        match &self.values[name].1 {
            Values::Trained(array) => Ok(array.values.iter().flat_map(|value| value.to_le_bytes()).collect()),
            Values::File(file) => self.plans[*file].bytes(name),
        }
    }
}

/// Writes a checkpoint's model, or the parts that [`super::import`] wrote into a folder, for others to read. `run` is the config of
/// such parts; a checkpoint has its own.
///
/// # Errors
/// When the model has parts that the format has no place for, or files cannot be read or written.
pub fn export(uri: &str, run: Option<&Run>, format: Format, output: &str) -> Result<Value> {
    let checkpoint: Option<(Run, Found)> = if run.is_none() { Some(checkpoint_and_config(uri)?) } else { None };
    let run = run.or(checkpoint.as_ref().map(|(run, _)| run)).expect("invariant: a config is given or found");
    let towers = match &checkpoint {
        Some((_, found)) => {
            let is_generative = matches!(run.stages[found.about.stage_index - 1], Stage::Generative(_));
            let language_model = run.model.language_model.settings().weights.uri.as_str();
            let files = [Some(run.model.image_encoder.weights().uri.as_str()), is_generative.then_some(language_model)];
            files.into_iter().flatten().map(Source::open).collect::<Result<Vec<_>>>()?
        }
        None => parts_of(uri)?,
    };
    let plans = towers.iter().map(Plan::of).collect::<Result<Vec<_>>>()?;
    let mut whole = Whole { plans: &plans, values: BTreeMap::new() };
    for (file, plan) in plans.iter().enumerate() {
        for name in plan.names() {
            let (dtype, shape) = plan.form(name)?;
            let planned = Planned { name: name.to_owned(), dtype, shape };
            whole.values.insert(name.to_owned(), (planned, Values::File(file)));
        }
    }
    for array in checkpoint.iter().flat_map(|(_, found)| &found.trainable) {
        let planned = Planned { name: array.name.clone(), dtype: Dtype::F32, shape: array.shape.clone() };
        whole.values.insert(array.name.clone(), (planned, Values::Trained(array)));
    }
    let storage = Storage::at(Location::parse(output)?)?;
    match format {
        Format::HuggingFace => hugging_face(&whole, run, &storage),
        Format::Lavis => lavis(&whole, run, &storage),
    }
}

/// The files of [`super::import`] in a folder.
fn parts_of(folder: &str) -> Result<Vec<Source>> {
    let storage = Storage::at(Location::parse(folder)?)?;
    let mut sources = Vec::new();
    for part in Part::ALL {
        let file = format!("{}.safetensors", part.name());
        if storage.size(&file)?.is_some() {
            sources.push(Source::open(&storage.uri(&file))?);
        }
    }
    match sources.is_empty() {
        true => Err(TrainerError::WeightsFile {
            uri: folder.to_owned(),
            reason: "it has no image_encoder.safetensors, qformer.safetensors or language_model.safetensors".into(),
        }),
        false => Ok(sources),
    }
}

fn hugging_face(whole: &Whole<'_>, run: &Run, storage: &Storage) -> Result<Value> {
    if run.model.image_encoder.sizes().block == ImageBlock::Clip {
        return Err(TrainerError::Unsupported {
            found: "an image encoder of CLIP".into(),
            expected: "one of EVA-CLIP; Hugging Face's BLIP-2 has no place for CLIP's. Export it with --format lavis"
                .into(),
        });
    }
    let is_retrieval = !whole.values.contains_key("language_projection.weight");
    let has_no_place = |name: &str| name == "temp" || name.starts_with("cls.predictions.");
    let (left_out, kept): (Vec<_>, Vec<_>) =
        whole.values.values().map(|(it, _)| it).partition(|it| has_no_place(&it.name));
    let mut shards: Vec<(u64, Vec<&Planned>)> = vec![(0, Vec::new())];
    for tensor in kept {
        let bytes = tensor.bytes()?;
        if shards.last().is_some_and(|(size, tensors)| size + bytes > SHARD && !tensors.is_empty()) {
            shards.push((0, Vec::new()));
        }
        if let Some((size, tensors)) = shards.last_mut() {
            *size += bytes;
            tensors.push(tensor);
        }
    }
    let count = shards.len();
    let mut files = Vec::new();
    let mut map = serde_json::Map::new();
    for (number, (_, tensors)) in shards.iter().enumerate() {
        let name = match count {
            1 => "model.safetensors".to_owned(),
            _ => format!("model-{:05}-of-{count:05}.safetensors", number + 1),
        };
        let file = write(storage, &name, tensors, &|name| whole.read(name))?;
        map.extend(tensors.iter().map(|tensor| (tensor.name.clone(), Value::from(name.clone()))));
        files.push(json!({ "name": file.name, "bytes": file.bytes, "sha256": file.sha256 }));
    }
    if count > 1 {
        let total: u64 = shards.iter().map(|(size, _)| size).sum();
        let index = json!({ "metadata": { "total_size": total }, "weight_map": map });
        storage.write("model.safetensors.index.json", serde_json::to_vec_pretty(&index)?.into())?;
    }
    let config = config_json::of(run, is_retrieval);
    storage.write("config.json", serde_json::to_vec_pretty(&config)?.into())?;
    Ok(json!({
        "schema_version": 1, "task": "weights_export", "format": "hugging_face", "output": storage.uri(""),
        "architecture": config["architectures"][0], "files": files,
        "left_out": left_out.iter().map(|it| &it.name).collect::<Vec<_>>(),
    }))
}

/// LAVIS cuts EVA-CLIP's bias in parts and names tied tensors twice.
fn lavis(whole: &Whole<'_>, run: &Run, storage: &Storage) -> Result<Value> {
    let is_t5 = matches!(run.model.language_model.sizes(), LanguageModelSizes::T5(_));
    // By LAVIS' name: the public one, and which third of its bytes.
    let mut sources: BTreeMap<String, (&str, Option<usize>)> = BTreeMap::new();
    let mut planned = Vec::new();
    for (public, (tensor, _)) in &whole.values {
        let place = |name: String, third: Option<usize>| (name, third);
        let names = match public_to_lavis(public, is_t5) {
            Some(name) if has_no_key_bias(public) => {
                let layer = name.trim_end_matches("qkv.bias");
                vec![place(format!("{layer}q_bias"), Some(0)), place(format!("{layer}v_bias"), Some(2))]
            }
            Some(name) => {
                let tied = tied_in_lavis(public, is_t5).iter().map(|name| place((*name).to_owned(), None));
                [place(name, None)].into_iter().chain(tied).collect()
            }
            None => {
                return Err(TrainerError::Unsupported {
                    found: format!("the tensor {public}"),
                    expected: "one that LAVIS has a name for".into(),
                });
            }
        };
        for (name, third) in names {
            let mut shape = tensor.shape.clone();
            if third.is_some() {
                shape[0] /= 3;
            }
            planned.push(Planned { name: name.clone(), dtype: tensor.dtype, shape });
            sources.insert(name, (public, third));
        }
    }
    let read = |name: &str| {
        let (public, third) = sources[name];
        let bytes = whole.read(public)?;
        Ok(match third {
            Some(third) => bytes[third * bytes.len() / 3..(third + 1) * bytes.len() / 3].to_vec(),
            None => bytes,
        })
    };
    let file = write(storage, "model.safetensors", &planned.iter().collect::<Vec<_>>(), &read)?;
    Ok(json!({
        "schema_version": 1, "task": "weights_export", "format": "lavis", "output": storage.uri(""),
        "files": [{ "name": file.name, "bytes": file.bytes, "sha256": file.sha256 }], "left_out": [],
    }))
}

/// The names under which LAVIS keeps a tensor once more.
fn tied_in_lavis(public: &str, is_t5: bool) -> &'static [&'static str] {
    match public {
        "cls.predictions.bias" => &["Qformer.cls.predictions.decoder.bias"],
        "embeddings.word_embeddings.weight" => &["Qformer.cls.predictions.decoder.weight"],
        "language_model.model.decoder.embed_tokens.weight" => &["opt_model.lm_head.weight"],
        "language_model.shared.weight" if is_t5 => {
            &["t5_model.encoder.embed_tokens.weight", "t5_model.decoder.embed_tokens.weight"]
        }
        _ => &[],
    }
}
