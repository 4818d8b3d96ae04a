//! A whole CLIP of Hugging Face's, both towers, to compare images with texts. BLIP-2's own tower, with one block less, is read by
//! [`Plan`](super::Plan).

use std::collections::BTreeMap;

use configs::{ImageBlock, ImageSizes};
use serde_json::Value;
use tch::{Kind, Tensor};

use super::families::clip_layer;
use super::source::Source;
use crate::error::{Result, TrainerError};
use crate::model::Tensors;
use crate::model::clip::{Clip, ClipSizes, ClipTextSizes};
use crate::weights_file::kind_of;

/// The width of a head in every published CLIP, where `config.json` does not state the number of heads.
const HEAD_DIM: usize = 64;
/// The activation that is computed here; transformers' default for a CLIP.
const ACTIVATION: &str = "quick_gelu";

/// A CLIP that was read.
#[derive(Debug)]
pub struct LoadedClip {
    /// The model, in f32 on the CPU.
    pub model: Clip,
    /// Its sizes.
    pub sizes: ClipSizes,
    /// SHA-256 of the weights' files.
    pub sha256: String,
}

/// Whether a URI names weights (a `.safetensors` or PyTorch file, a repository of the hub) or a folder that says of itself that
/// it is a CLIP, rather than a run.
///
/// # Errors
/// [`TrainerError::Store`].
pub fn is_clip(uri: &str) -> Result<bool> {
    let is_file = [".safetensors", ".bin", ".pt", ".pth"].iter().any(|end| uri.ends_with(end));
    if is_file || uri.starts_with("hf://") {
        return Ok(true);
    }
    let store = crate::storage::Storage::at(data_pipeline::store::Location::parse(uri)?)?;
    let Some(text) = store.read("config.json")? else { return Ok(false) };
    Ok(serde_json::from_slice::<Value>(&text).is_ok_and(|config| config["model_type"] == "clip"))
}

/// Reads a CLIP: a folder as Hugging Face lays it out, a repository of its hub, or a file in such a folder.
///
/// # Errors
/// [`TrainerError::WeightsFile`] when it is no CLIP with both towers, or is computed otherwise; [`TrainerError::WeightShape`]
/// when its tensors contradict one another; [`TrainerError::Store`].
pub fn load(uri: &str) -> Result<LoadedClip> {
    let source = Source::open(uri)?;
    let bad = |reason: String| TrainerError::WeightsFile { uri: uri.to_owned(), reason };
    let config = source.config.clone().unwrap_or_default();
    for part in ["vision_config", "text_config"] {
        let activation = config[part]["hidden_act"].as_str().unwrap_or(ACTIVATION);
        if activation != ACTIVATION {
            return Err(bad(format!("its {part} has the activation {activation}, expected {ACTIVATION}")));
        }
    }
    let tensors = public_tensors(&source)?;
    let sizes = sizes(&tensors, &config).map_err(bad)?;
    Ok(LoadedClip { model: Clip::new(&tensors.scope(""), sizes)?, sizes, sha256: source.sha256()? })
}

/// The tensors under the names of [`Clip`], in f32.
fn public_tensors(source: &Source) -> Result<Tensors> {
    let mut parts: BTreeMap<String, Vec<Option<Tensor>>> = BTreeMap::new();
    for (name, found) in &source.tensors {
        let Some((name_here, part, number)) = place(name) else { continue };
        let bad = |reason: String| TrainerError::WeightsFile { uri: source.uri.clone(), reason };
        let kind = kind_of(found.dtype).ok_or_else(|| bad(format!("`{name}` is of type {:?}", found.dtype)))?;
        let shape: Vec<i64> = found.shape.iter().map(|side| *side as i64).collect();
        let tensor = Tensor::f_from_data_size(&source.read(name)?, &shape, kind)
            .map_err(|source| TrainerError::Torch { doing: "reading a tensor of a weights file", source })?;
        parts.entry(name_here).or_insert_with(|| (0..number).map(|_| None).collect())[part] =
            Some(tensor.to_kind(Kind::Float));
    }
    let join = |(name, parts): (String, Vec<Option<Tensor>>)| {
        let number = parts.len();
        let known: Vec<Tensor> = parts.into_iter().flatten().collect();
        match known.as_slice() {
            _ if known.len() < number => Err(TrainerError::MissingWeight { name: format!("a part of {name}") }),
            [only] => Ok((name, only.shallow_clone())),
            several => Ok((name, Tensor::cat(several, 0))),
        }
    };
    parts.into_iter().map(join).collect()
}

/// Where a tensor of Hugging Face's belongs: name, part, number of parts; none for what is not used.
fn place(name: &str) -> Option<(String, usize, usize)> {
    let whole = |name: &str| Some((name.to_owned(), 0, 1));
    let (tower, rest) = match name.split_once('.') {
        Some((tower @ ("vision_model" | "text_model"), rest)) => (tower, rest),
        _ => return ["visual_projection.weight", "text_projection.weight"].contains(&name).then(|| whole(name))?,
    };
    if let Some((number, rest)) = rest.strip_prefix("encoder.layers.").and_then(|rest| rest.split_once('.')) {
        let layer = clip_layer(number, rest)?;
        return Some((format!("{tower}.{}", layer.name), layer.part, layer.parts));
    }
    let table = [
        ("embeddings.class_embedding", "class_embedding"),
        ("embeddings.position_embedding.weight", "positional_embedding"),
        ("embeddings.patch_embedding.weight", "conv1.weight"),
        ("embeddings.token_embedding.weight", "token_embedding"),
        ("pre_layrnorm.weight", "ln_pre.weight"),
        ("pre_layrnorm.bias", "ln_pre.bias"),
        ("post_layernorm.weight", "ln_post.weight"),
        ("post_layernorm.bias", "ln_post.bias"),
        ("final_layer_norm.weight", "ln_final.weight"),
        ("final_layer_norm.bias", "ln_final.bias"),
    ];
    let (_, here) = table.iter().find(|(there, _)| *there == rest)?;
    whole(&format!("{tower}.{here}"))
}

/// The sizes as the tensors have them; the number of heads as `config.json` states it.
fn sizes(tensors: &Tensors, config: &Value) -> std::result::Result<ClipSizes, String> {
    let shape_of = |name: &str| -> std::result::Result<Vec<usize>, String> {
        let found = tensors.get(name).map(|tensor| tensor.size().iter().map(|side| *side as usize).collect());
        found.ok_or_else(|| format!("it has no `{name}`; expected a CLIPModel with both towers"))
    };
    let depth = |tower: &str| {
        let blocks = format!("{tower}.transformer.resblocks.");
        let number = |name: &str| name.strip_prefix(&blocks)?.split('.').next()?.parse::<usize>().ok();
        tensors.iter().filter_map(|(name, _)| number(name)).max().map_or(0, |last| last + 1)
    };
    let heads = |part: &str, width: usize| {
        let stated = config[part]["num_attention_heads"].as_u64().map(|heads| heads as usize);
        let heads = stated.unwrap_or(width / HEAD_DIM);
        match heads > 0 && width.is_multiple_of(heads) {
            true => Ok(heads),
            false => Err(format!("its {part} has {heads} heads for a width of {width}, expected a divisor of it")),
        }
    };
    let mlp = |tower: &str| shape_of(&format!("{tower}.transformer.resblocks.0.mlp.c_fc.weight"));
    let (patch, positions) = (shape_of("vision_model.conv1.weight")?, shape_of("vision_model.positional_embedding")?);
    let (tokens, places) = (shape_of("text_model.token_embedding")?, shape_of("text_model.positional_embedding")?);
    let projection = shape_of("visual_projection.weight")?;
    let ([width, _, _, patch_size], [vocab_size, text_width]) = (&patch[..], &tokens[..]) else {
        return Err(format!("its patches are {patch:?} and its tokens {tokens:?}, expected 4 and 2 axes"));
    };
    let side = (positions[0].saturating_sub(1) as f64).sqrt().round() as usize;
    Ok(ClipSizes {
        image: ImageSizes {
            block: ImageBlock::Clip,
            patch_size: *patch_size,
            width: *width,
            depth: depth("vision_model"),
            heads: heads("vision_config", *width)?,
            mlp_dim: mlp("vision_model")?[0],
        },
        image_size: side * patch_size,
        text: ClipTextSizes {
            vocab_size: *vocab_size,
            max_tokens: places[0],
            width: *text_width,
            depth: depth("text_model"),
            heads: heads("text_config", *text_width)?,
            mlp_dim: mlp("text_model")?[0],
        },
        projection_dim: projection[0],
    })
}
