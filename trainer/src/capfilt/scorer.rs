//! What says how well texts fit images: a stage-1 checkpoint, or a CLIP.
//!
//! Letters: `B` images, `n` texts, each of one of the images.

use configs::{Run, Stage};
use data_pipeline::augment::EvalTransform;
use data_pipeline::caption::Cleaner;
use data_pipeline::image::{Flip, REFERENCE_NORMALIZATION, Region, Resampling, RgbImage, resize};
use serde_json::{Value, json};
use tch::{Device, Kind, Tensor, no_grad};

use crate::TrainerError;
use crate::batches;
use crate::error::Result;
use crate::eval::{checkpoint_of, trained, weights_sha256};
use crate::frozen::{FrozenImageEncoder, load_image_encoder};
use crate::model::clip::Clip;
use crate::stage1::{Stage1, Text};
use crate::text::{PadTo, Role, Tokenizer};
use crate::weights::clip;

/// Pairs that the matching head scores at once.
const PAIRS: i64 = 100;

/// What is asked for.
#[derive(Clone, Debug)]
pub struct Request {
    /// A CLIP's weights; or a run's folder or a checkpoint of its first stage.
    pub model: String,
    /// Of a run's folder, the stage.
    pub stage: Option<String>,
    /// Score by the matching head and not by the cosine.
    pub by_match: bool,
}

/// Says how well texts fit images.
pub struct Scorer {
    model: Model,
    /// What it is, and everything that decides over its scores.
    pub facts: Value,
    /// Side of the images in pixels.
    pub side: usize,
    tokenizer: Tokenizer,
    max_tokens: usize,
}

enum Model {
    Stage1 { encoder: FrozenImageEncoder, stage1: Box<Stage1>, by_match: bool },
    Clip(Box<Clip>),
}

impl Scorer {
    /// Reads the model.
    ///
    /// # Errors
    /// When it is neither a CLIP nor a checkpoint of stage 1, or a part of it is missing or damaged.
    pub fn open(request: &Request) -> Result<Self> {
        if clip::is_clip(&request.model)? {
            return Self::open_clip(request);
        }
        let (mut run, _, mut found) = checkpoint_of(&request.model, request.stage.as_deref())?;
        let is_representation = |run: &Run, index: usize| matches!(run.stages[index - 1], Stage::Representation(_));
        if !is_representation(&run, found.about.stage_index) && request.stage.is_none() {
            // A run's folder stands for its newest checkpoint, which is of the last stage as a rule.
            let name = run.stages.iter().find(|stage| matches!(stage, Stage::Representation(_))).map(Stage::name);
            if let Some(name) = name
                .map(str::to_owned)
                .filter(|_| found.uri.trim_end_matches('/') != request.model.trim_end_matches('/'))
            {
                (run, _, found) = checkpoint_of(&request.model, Some(&name))?;
            }
        }
        let snapshot = &found.about;
        if !is_representation(&run, snapshot.stage_index) {
            return Err(TrainerError::Unsupported {
                found: format!("{} is a checkpoint of stage {}", found.uri, snapshot.stage),
                expected: "images and texts are compared by a stage of kind representation; name one with --stage"
                    .into(),
            });
        }
        let device = Device::Cpu;
        let encoder = load_image_encoder(&run, device)?;
        let stage1 = Stage1::new(&trained(&found, device).scope(""), &run.model, false)?;
        let kind = if request.by_match { "itm" } else { "itc" };
        Ok(Self {
            facts: json!({
                "kind": kind, "sha256": weights_sha256(&found), "stage": snapshot.stage, "step": snapshot.step,
                "image_encoder_sha256": encoder.sha256(),
            }),
            side: run.data.image_size,
            tokenizer: Tokenizer::for_qformer(&run.model.qformer)?,
            max_tokens: run.model.qformer.max_text_tokens,
            model: Model::Stage1 { encoder, stage1: Box::new(stage1), by_match: request.by_match },
        })
    }

    fn open_clip(request: &Request) -> Result<Self> {
        if request.by_match || request.stage.is_some() {
            return Err(TrainerError::Unsupported {
                found: format!("--match or --stage with {}, a CLIP", request.model),
                expected: "a run of stage 1: a CLIP has neither a matching head nor stages".into(),
            });
        }
        let loaded = clip::load(&request.model)?;
        let text = loaded.sizes.text;
        let uri = request.model.trim_end_matches('/');
        let is_file = [".safetensors", ".bin", ".pt", ".pth"].iter().any(|end| uri.ends_with(end));
        let folder = if is_file { uri.rsplit_once('/').map_or(".", |(folder, _)| folder) } else { uri };
        Ok(Self {
            facts: json!({ "kind": "clip", "sha256": loaded.sha256, "image_size": loaded.sizes.image_size }),
            side: loaded.sizes.image_size,
            tokenizer: Tokenizer::open(folder, Role::Clip, text.vocab_size)?,
            max_tokens: text.max_tokens,
            model: Model::Clip(Box::new(loaded.model)),
        })
    }

    /// Fills `[3, side, side]` with an image as the model sees it: squeezed to a square for BLIP-2 (LAVIS `blip_image_eval`),
    /// the middle square for CLIP (transformers `CLIPImageProcessor`).
    pub fn view(&self, image: &RgbImage, out: &mut [f32]) {
        match self.model {
            Model::Stage1 { .. } => EvalTransform::reference(self.side as u32).apply(image, out),
            Model::Clip(_) => middle_square(image, self.side as u32, out),
        }
    }

    /// How well texts fit images: the cosine of the most similar query, the probability of a match, or CLIP's cosine.
    ///
    /// # Shapes
    /// `pixels`: `[B, 3, S, S]`; `texts`: for each image its own; result: the same.
    pub fn score(&self, pixels: &Tensor, texts: &[Vec<String>]) -> Vec<Vec<f32>> {
        let flat: Vec<&String> = texts.iter().flatten().collect();
        let owners: Vec<i64> =
            texts.iter().enumerate().flat_map(|(image, own)| own.iter().map(move |_| image as i64)).collect();
        let mut scores = match flat.is_empty() {
            true => Vec::new().into_iter(),
            false => no_grad(|| self.flat_scores(pixels, &flat, &Tensor::from_slice(&owners))).into_iter(),
        };
        texts.iter().map(|own| scores.by_ref().take(own.len()).collect()).collect()
    }

    /// # Shapes
    /// `owners`: `[n]`, each text's image.
    fn flat_scores(&self, pixels: &Tensor, texts: &[&String], owners: &Tensor) -> Vec<f32> {
        let scores = match &self.model {
            Model::Stage1 { encoder, stage1, by_match } => {
                // As captions reach training.
                let clean: Vec<String> = texts.iter().map(|text| Cleaner::default().caption(text)).collect();
                let tokens = self.tokenizer.encode(&clean, self.max_tokens, PadTo::Limit);
                let text = batches::text(&tokens, tokens.longest(), Device::Cpu);
                let patches = encoder.forward(pixels);
                if *by_match {
                    matches(stage1, &patches, &text, owners)
                } else {
                    cosines(stage1, &patches, &text, owners)
                }
            }
            Model::Clip(model) => {
                let tokens = self.tokenizer.encode(texts, self.max_tokens, PadTo::Longest);
                let ends = tokens.mask_tensor().sum_dim_intlist([1_i64].as_slice(), false, Kind::Int64) - 1;
                let text = model.encode_text(&tokens.ids_tensor(), &ends);
                let image = model.encode_image(pixels).index_select(0, owners);
                (image * text).sum_dim_intlist([1_i64].as_slice(), false, Kind::Float)
            }
        };
        Vec::try_from(scores.to_kind(Kind::Float).contiguous()).expect("invariant: scores are f32")
    }
}

/// ITC: an image is as similar to a text as its most similar query.
fn cosines(stage1: &Stage1, patches: &Tensor, text: &Text, owners: &Tensor) -> Tensor {
    let image = stage1.encode_image(&stage1.key_values(patches), patches.size()[0]).index_select(0, owners);
    let each = image * stage1.encode_text(text).unsqueeze(1);
    each.sum_dim_intlist([2_i64].as_slice(), false, Kind::Float).amax([1_i64].as_slice(), false)
}

/// ITM: the probability that they belong together.
fn matches(stage1: &Stage1, patches: &Tensor, text: &Text, owners: &Tensor) -> Tensor {
    let rows = Tensor::arange(owners.size()[0], (Kind::Int64, Device::Cpu));
    let probability = |rows: &Tensor| {
        let images = stage1.key_values(&patches.index_select(0, &owners.index_select(0, rows)));
        stage1.match_logits(&images, &text.rows(rows)).softmax(-1, Kind::Float).select(1, 1)
    };
    Tensor::cat(&rows.split(PAIRS, 0).iter().map(probability).collect::<Vec<_>>(), 0)
}

/// The shorter side resized to `side`, bicubic as Pillow's, then the middle square, normalised.
fn middle_square(image: &RgbImage, side: u32, out: &mut [f32]) {
    let (short, long) = (image.width.min(image.height), image.width.max(image.height));
    // transformers `get_resize_output_image_size`: `int(size * long / short)`.
    let longer = (u64::from(side) * u64::from(long) / u64::from(short)) as u32;
    let (width, height) = if image.width <= image.height { (side, longer) } else { (longer, side) };
    let mut resized = vec![0; 3 * width as usize * height as usize];
    resize(image, Region::whole(image), Resampling::PillowExact, (height, width), &mut resized);
    let (top, left) = ((height - side) as usize / 2, (width - side) as usize / 2);
    let row = |row: usize| {
        let start = 3 * ((top + row) * width as usize + left);
        &resized[start..start + 3 * side as usize]
    };
    let square: Vec<u8> = (0..side as usize).flat_map(row).copied().collect();
    REFERENCE_NORMALIZATION.apply(&square, side as usize, Flip::No, out);
}
