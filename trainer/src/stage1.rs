//! Stage 1, vision-language representation: what is trained, and its three losses (paper section 3.2).
//!
//! Letters: `b` rows of a slice, `G` of the global batch, `P` visual tokens of width `V`, `Q` queries, `T` text positions,
//! `H` hidden width, `E` projected width.

use configs::Model;
use tch::{Device, Kind, Tensor};

use crate::TrainerError;
use crate::device::upload;
use crate::losses::itc::Features;
use crate::losses::{itm, lm};
use crate::model::layers::{LayerNorm, Linear};
use crate::model::packing::Layout;
use crate::model::qformer::{Build, EPS, ImageKeyValues, QFormer, QueryPass, TextCache, TextParts, starting};
use crate::model::tensors::{Init, Scope, Spec, declare};
use crate::precision::compute_kind;

/// A GPU's fast matrix products have rows of whole 16 bytes: BERT's 30,523 words are padded to a multiple of this.
const GPU_COLUMNS: i64 = 8;

/// Everything that stage 1 trains.
#[derive(Debug)]
pub struct Stage1 {
    qformer: QFormer,
    ln_vision: LayerNorm,
    vision_projection: Linear,
    text_projection: Linear,
    itm_head: Linear,
    caption_head: CaptionHead,
    /// Divisor of the similarities, a learned scalar without bounds.
    pub temperature: Tensor,
}

/// BERT's head over the word embeddings.
#[derive(Debug)]
struct CaptionHead {
    dense: Linear,
    norm: LayerNorm,
    bias: Tensor,
}

/// Token ids of texts, padded on the right.
#[derive(Debug)]
pub struct Text {
    /// `[b, T]`.
    pub ids: Tensor,
    /// `[b, T]`, 1 for tokens and 0 for padding. On the processor, where rows are laid out without waiting for a device; on
    /// another one it is fetched for that.
    pub mask: Tensor,
}

impl Text {
    /// The rows with these numbers.
    ///
    /// # Shapes
    /// `rows`: `[n]`; result: `[n, T]`.
    pub fn rows(&self, rows: &Tensor) -> Self {
        let of = |x: &Tensor| x.index_select(0, &upload(rows, x.device()));
        Self { ids: of(&self.ids), mask: of(&self.mask) }
    }
}

/// What the first passes over a slice give.
#[derive(Debug)]
pub struct Encoded {
    /// For ITC.
    pub features: Features,
    /// The images behind `ln_vision`, `[b, P, V]`.
    image: Tensor,
    keys_values: ImageKeyValues,
    queries: QueryPass,
}

/// The wrong partners of a slice.
#[derive(Debug)]
pub struct NegativeRows {
    /// Frozen outputs of the image drawn for each text, `[b, P, V]`.
    pub patches: Tensor,
    /// The text drawn for each image.
    pub text: Text,
}

impl Stage1 {
    /// Takes the weights from a scope; `training` turns dropout on.
    ///
    /// # Errors
    /// When a weight is missing or has another shape.
    pub fn new(scope: &Scope<'_>, model: &Model, training: bool) -> Result<Self, TrainerError> {
        Self::computed_in(compute_kind(model.qformer.dtype, scope.device()), scope, model, training)
    }

    /// [`Self::new`], computing in the given type.
    ///
    /// # Errors
    /// When a weight is missing or has another shape.
    pub fn computed_in(kind: Kind, scope: &Scope<'_>, model: &Model, training: bool) -> Result<Self, TrainerError> {
        let sizes = &model.qformer;
        let build = Build { text: TextParts::Present, attention: model.attention, kind, training };
        let (hidden, width) = (sizes.hidden_dim as i64, model.image_encoder.sizes().width as i64);
        let projected = sizes.projection_dim as i64;
        let half = scope.computed_in(kind);
        let head = half.at("cls.predictions");
        // torch's default for a new linear layer, as the reference leaves its heads.
        let bound = Init::Uniform(1.0 / (hidden as f64).sqrt());
        let new_head = |name: &str, output| Linear::with_init(&scope.at(name), hidden, output, bound, bound);
        Ok(Self {
            qformer: QFormer::new(&half, sizes, width, build)?,
            ln_vision: LayerNorm::new(&scope.at("vision_model.post_layernorm"), width, sizes.image_norm_eps)?,
            vision_projection: new_head("vision_projection", projected)?,
            text_projection: new_head("text_projection", projected)?,
            itm_head: new_head("itm_head", 2)?,
            caption_head: CaptionHead {
                dense: starting(&head.at("transform.dense"), hidden, hidden, hidden)?,
                norm: LayerNorm::new(&head.at("transform.LayerNorm"), hidden, EPS)?,
                bias: head.weight("bias", &[sizes.vocab_size as i64], Init::Constant(0.0))?,
            },
            temperature: scope.master("temp", &[], Init::Constant(sizes.temperature))?,
        })
    }

    /// The weights that stage 1 trains.
    ///
    /// # Errors
    /// None in practice: nothing is read.
    pub fn specs(model: &Model) -> Result<Vec<Spec>, TrainerError> {
        declare(|scope| Self::new(scope, model, true))
    }

    /// The image and the text passes of a slice.
    ///
    /// # Shapes
    /// `patches`: `[b, P, V]`, the frozen encoder's output.
    pub fn encode(&self, patches: &Tensor, text: &Text) -> Encoded {
        let image = self.normalize(patches);
        let keys_values = self.qformer.image_key_values(&image);
        let queries = self.qformer.queries(&keys_values, patches.size()[0]);
        let features = normalized(&self.vision_projection, &queries.hidden);
        Encoded { features: Features { image: features, text: self.encode_text(text) }, image, keys_values, queries }
    }

    /// Width of the features of ITC, `E`.
    pub fn feature_dim(&self) -> i64 {
        self.text_projection.output_dim()
    }

    /// The image features of ITC, `[b, Q, E]`, f32.
    pub fn encode_image(&self, keys_values: &ImageKeyValues, rows: i64) -> Tensor {
        normalized(&self.vision_projection, &self.qformer.queries(keys_values, rows).hidden)
    }

    /// The text features of ITC, `[b, E]`, f32.
    pub fn encode_text(&self, text: &Text) -> Tensor {
        normalized(&self.text_projection, &self.qformer.text(&text.ids, &text.mask))
    }

    /// What cross-attention sees of images.
    pub fn key_values(&self, patches: &Tensor) -> ImageKeyValues {
        self.qformer.image_key_values(&self.normalize(patches))
    }

    /// `ln_vision`, which LAVIS computes in f32.
    fn normalize(&self, patches: &Tensor) -> Tensor {
        self.ln_vision.forward(&patches.to_kind(Kind::Float)).to_kind(self.qformer.kind)
    }

    /// Logits of "they do not belong together" and "they do" for pairs of images and texts, `[b, 2]`, f32.
    pub fn match_logits(&self, images: &ImageKeyValues, text: &Text) -> Tensor {
        let queries = self.qformer.joint(images, &text.ids, &text.mask).to_kind(Kind::Float);
        // The mean of the logits is the logit of the mean.
        self.itm_head.forward(&queries.mean_dim([1_i64].as_slice(), false, Kind::Float))
    }

    /// ITM: own pairs, own images with drawn texts, own texts with drawn images. Keys and values of the own images are those
    /// of `encoded` where they are computed once, and computed again for each use otherwise.
    pub fn matching_loss(
        &self,
        encoded: &Encoded,
        text: &Text,
        negatives: &NegativeRows,
        project_once: bool,
    ) -> Tensor {
        let images = match project_once {
            // Drawn images are projected anew, also those of this slice, so that bits do not depend on who holds them.
            true => {
                let drawn = self.key_values(&negatives.patches);
                ImageKeyValues::looked_at(&[(&encoded.keys_values, 2), (&drawn, 1)])
            }
            false => {
                let drawn = self.normalize(&negatives.patches);
                self.qformer.image_key_values(&Tensor::cat(&[&encoded.image, &encoded.image, &drawn], 0))
            }
        };
        let texts = Text {
            ids: Tensor::cat(&[&text.ids, &negatives.text.ids, &text.ids], 0),
            mask: Tensor::cat(&[&text.mask, &negatives.text.mask, &text.mask], 0),
        };
        itm::matching(&self.match_logits(&images, &texts))
    }

    /// ITG: the text word by word, given the queries. \[CLS\] is replaced by `decoder_start`.
    pub fn captioning_loss(&self, encoded: &Encoded, text: &Text, decoder_start: i64, label_smoothing: f64) -> Tensor {
        let length = text.ids.size()[1];
        let start = text.ids.narrow(1, 0, 1).full_like(decoder_start);
        // The last token of a text predicts nothing, and no other one sees it.
        let ids = Tensor::cat(&[start, text.ids.narrow(1, 1, length - 2)], 1);
        let layout = Layout::texts(&text.mask.narrow(1, 1, length - 1), 0, text.ids.device());
        let labels = layout.words(&text.ids.narrow(1, 1, length - 1), lm::IGNORED);
        let hidden = self.qformer.grounded(&ids, &layout, &encoded.queries.cache);
        lm::next_word(&self.word_logits(&hidden), &labels, label_smoothing)
    }

    /// What writes captions of these images, word by word.
    ///
    /// # Shapes
    /// `patches`: `[b, P, V]`.
    pub fn begin_captions(&self, patches: &Tensor) -> TextCache {
        self.qformer.begin(&self.qformer.queries(&self.key_values(patches), patches.size()[0]).cache)
    }

    /// The score of every word behind one more word of every row.
    ///
    /// # Shapes
    /// `ids`, `parents`: as [`QFormer::next`]; result: `[R, W]`.
    pub fn next_word_logits(&self, ids: &Tensor, parents: &Tensor, cache: &mut TextCache) -> Tensor {
        self.word_logits(&self.qformer.next(ids, parents, cache))
    }

    /// # Shapes
    /// `hidden`: `[n, H]`; result: `[n, W]`.
    fn word_logits(&self, hidden: &Tensor) -> Tensor {
        let CaptionHead { dense, norm, bias } = &self.caption_head;
        let hidden = norm.forward(&dense.forward(hidden).gelu("none"));
        let words = self.qformer.words();
        let count = words.size()[0];
        let missing = (-count).rem_euclid(GPU_COLUMNS);
        if hidden.device() == Device::Cpu || missing == 0 {
            return hidden.linear(&words.to_kind(self.qformer.kind), Some(bias));
        }
        let words = words.to_kind(self.qformer.kind).constant_pad_nd([0, 0, 0, missing]);
        hidden.linear(&words, Some(&bias.constant_pad_nd([0, missing]))).narrow(1, 0, count)
    }
}

/// # Shapes
/// `x`: `[…, H]`; result: `[…, E]` of length 1, f32.
fn normalized(projection: &Linear, x: &Tensor) -> Tensor {
    let projected = projection.forward(&x.to_kind(Kind::Float));
    // torch's `normalize`: the length is at least 1e-12.
    let length = projected.norm_scalaropt_dim(2.0, [-1_i64].as_slice(), true).clamp_min(1e-12);
    projected / length
}
