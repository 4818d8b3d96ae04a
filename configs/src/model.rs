//! The model: a frozen image encoder, the Q-Former, a frozen language model.

use crate::decode::Place;
use crate::problem::Problems;
use crate::rule::Rule;
use crate::section::{choice, kinds, section};
use crate::uri::{Uri, Weights};

section! {
    /// The three parts of the model and what their trained tensors start from.
    pub struct Model {
        /// The image encoder, frozen unless a stage trains it.
        pub image_encoder: ImageEncoder,
        /// The Q-Former, which is what pre-training trains.
        pub qformer: QFormer,
        /// The frozen language model of stage 2.
        pub language_model: LanguageModel,
        /// A checkpoint whose trained tensors replace the initial ones, for fine-tuning or for stage 2 alone.
        pub start_from: Option<Weights> = None,
        /// How attention is computed. Every choice is deterministic when `cluster.reduction` is `exact`, or is refused.
        pub attention: Attention = Attention::Math,
    }
}

choice! {
    /// How attention is computed.
    pub enum Attention {
        /// Plain matrix products and softmax.
        "math" => Math,
        /// FlashAttention where the head size and the mask allow it, else as `math`.
        "flash" => Flash,
    }
}

choice! {
    /// The number format of weights and activations. Trained weights keep a copy in f32 in any case.
    pub enum Dtype {
        /// bfloat16: 8 bits of precision, the range of f32; needs no loss scaling.
        "bf16" => Bf16,
        /// IEEE half precision: 11 bits of precision, largest value 65504.
        "f16" => F16,
        /// IEEE single precision.
        "f32" => F32,
    }
}

kinds! {
    /// The image encoder.
    pub enum ImageEncoder {
        /// EVA-CLIP ViT-g/14 without its last block: 39 blocks, width 1408.
        "eva_clip_g" => EvaClipG(ImageTower),
        /// CLIP ViT-L/14 without its last block: 23 blocks, width 1024.
        "clip_l" => ClipL(ImageTower),
        /// A tower of stated sizes.
        "custom" => Custom(CustomImageTower),
    }
}

section! {
    /// An image encoder whose sizes follow from its kind.
    pub struct ImageTower {
        /// Weights of the tower.
        pub weights: Weights,
        /// Side of the square input in pixels; position embeddings are interpolated to it when the weights are loaded.
        pub image_size: usize = 224 => Rule::within(1.0, 4096.0),
        /// Number format of weights and activations.
        pub dtype: Dtype = Dtype::Bf16,
        /// Whether blocks are recomputed in the backward pass (only where a stage trains the tower).
        pub recompute: bool = false,
    }
}

section! {
    /// An image encoder of stated sizes.
    pub struct CustomImageTower check check_custom_image_tower {
        /// Weights of the tower; made and cached there if `pretrain` is given and nothing lies there.
        pub weights: Weights,
        /// Side of the square input in pixels.
        pub image_size: usize => Rule::within(1.0, 4096.0),
        /// Number format of weights and activations.
        pub dtype: Dtype = Dtype::Bf16,
        /// Whether blocks are recomputed in the backward pass (only where a stage trains the tower).
        pub recompute: bool = false,
        /// The blocks the tower is built of.
        pub block: ImageBlock = ImageBlock::EvaClip,
        /// Side of a square patch in pixels.
        pub patch_size: usize => Rule::within(1.0, 512.0),
        /// Width of the residual stream.
        pub width: usize => Rule::within(1.0, 65536.0),
        /// Number of blocks.
        pub depth: usize => Rule::within(1.0, 1000.0),
        /// Attention heads per block.
        pub heads: usize => Rule::within(1.0, 1024.0),
        /// Width of the hidden layer of the feed-forward part.
        pub mlp_dim: usize => Rule::within(1.0, 1048576.0),
        /// How the demo trains the tower before it is frozen; null if the weights exist.
        pub pretrain: Option<TowerPretraining> = None,
    }
}

choice! {
    /// The two families of vision blocks.
    pub enum ImageBlock {
        /// EVA-CLIP: erf GELU, no key bias, LayerNorm eps 1e-6, no final norm.
        "eva_clip" => EvaClip,
        /// CLIP: quick GELU, key bias, LayerNorm eps 1e-5, a norm before the first block.
        "clip" => Clip,
    }
}

section! {
    /// The training that a tiny tower gets on the training split of the synthetic corpus before it is frozen.
    pub struct TowerPretraining {
        /// Updates.
        pub steps: u64 => Rule::at_least(1.0),
        /// Samples per update.
        pub batch: usize => Rule::within(1.0, 65536.0),
        /// Peak learning rate; warm-up over the first twentieth, then a cosine down to a tenth.
        pub learning_rate: f64 => Rule::above(0.0),
    }
}

/// The sizes of an image encoder, whichever kind states them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ImageSizes {
    /// The blocks the tower is built of.
    pub block: ImageBlock,
    /// Side of a square patch in pixels.
    pub patch_size: usize,
    /// Width of the residual stream.
    pub width: usize,
    /// Number of blocks.
    pub depth: usize,
    /// Attention heads per block.
    pub heads: usize,
    /// Width of the hidden layer of the feed-forward part.
    pub mlp_dim: usize,
}

impl ImageEncoder {
    /// The sizes of the tower. Sources: LAVIS `eva_vit.py` (g/14 built with 39 of 40 blocks, MLP 1408 * 4.3637) and
    /// `clip_vit.py` (L/14 built with 23 of 24 blocks).
    pub fn sizes(&self) -> ImageSizes {
        match self {
            ImageEncoder::EvaClipG(_) => ImageSizes {
                block: ImageBlock::EvaClip,
                patch_size: 14,
                width: 1408,
                depth: 39,
                heads: 16,
                mlp_dim: 6144,
            },
            ImageEncoder::ClipL(_) => {
                ImageSizes { block: ImageBlock::Clip, patch_size: 14, width: 1024, depth: 23, heads: 16, mlp_dim: 4096 }
            }
            ImageEncoder::Custom(tower) => ImageSizes {
                block: tower.block,
                patch_size: tower.patch_size,
                width: tower.width,
                depth: tower.depth,
                heads: tower.heads,
                mlp_dim: tower.mlp_dim,
            },
        }
    }

    /// Side of the square input in pixels.
    pub fn image_size(&self) -> usize {
        match self {
            ImageEncoder::EvaClipG(tower) | ImageEncoder::ClipL(tower) => tower.image_size,
            ImageEncoder::Custom(tower) => tower.image_size,
        }
    }

    /// Visual tokens per image: the patches and the class token.
    pub fn num_tokens(&self) -> usize {
        let side = self.image_size() / self.sizes().patch_size;
        side * side + 1
    }

    /// Weights of the tower.
    pub fn weights(&self) -> &Weights {
        match self {
            ImageEncoder::EvaClipG(tower) | ImageEncoder::ClipL(tower) => &tower.weights,
            ImageEncoder::Custom(tower) => &tower.weights,
        }
    }

    /// Number format of weights and activations.
    pub fn dtype(&self) -> Dtype {
        match self {
            ImageEncoder::EvaClipG(tower) | ImageEncoder::ClipL(tower) => tower.dtype,
            ImageEncoder::Custom(tower) => tower.dtype,
        }
    }

    /// Whether blocks are recomputed in the backward pass.
    pub fn recompute(&self) -> bool {
        match self {
            ImageEncoder::EvaClipG(tower) | ImageEncoder::ClipL(tower) => tower.recompute,
            ImageEncoder::Custom(tower) => tower.recompute,
        }
    }

    /// How the demo trains the tower before it is frozen.
    pub fn pretrain(&self) -> Option<&TowerPretraining> {
        match self {
            ImageEncoder::EvaClipG(_) | ImageEncoder::ClipL(_) => None,
            ImageEncoder::Custom(tower) => tower.pretrain.as_ref(),
        }
    }
}

section! {
    /// The Q-Former. The defaults are BERT-base's sizes and the paper's settings.
    pub struct QFormer check check_qformer {
        /// What its tensors start from.
        pub init: QFormerInit,
        /// Tokenizer of its text side.
        pub tokenizer: Uri = Uri::new("hf://google-bert/bert-base-uncased"),
        /// Learned queries, whose outputs are the image's representation.
        pub num_query_tokens: usize = 32 => Rule::within(1.0, 4096.0),
        /// Every how many layers one has cross-attention to the image, counted from the first layer.
        pub cross_attention_every: usize = 2 => Rule::at_least(1.0),
        /// Epsilon of the norm over the image encoder's outputs: 1e-5 in LAVIS, 1e-6 in Hugging Face's models.
        pub image_norm_eps: f64 = 1.0e-5 => Rule::above(0.0),
        /// Width of the space in which images and texts are compared.
        pub projection_dim: usize = 256 => Rule::within(1.0, 65536.0),
        /// Tokens of a text, special tokens included; longer texts are cut.
        pub max_text_tokens: usize = 32 => Rule::at_least(3.0),
        /// Dropout on hidden states and attention weights while training.
        pub dropout: f64 = 0.1 => Rule::below_one(),
        /// Width of the residual stream.
        pub hidden_dim: usize = 768 => Rule::within(1.0, 65536.0),
        /// Number of layers.
        pub depth: usize = 12 => Rule::within(1.0, 1000.0),
        /// Attention heads per layer.
        pub heads: usize = 12 => Rule::within(1.0, 1024.0),
        /// Width of the hidden layer of the feed-forward parts.
        pub mlp_dim: usize = 3072 => Rule::within(1.0, 1048576.0),
        /// Rows of the word embedding, the added decoder-start token included.
        pub vocab_size: usize = 30523 => Rule::at_least(4.0),
        /// Rows of the position embedding.
        pub max_positions: usize = 512 => Rule::at_least(1.0),
        /// Start value of the learned temperature of the contrastive loss.
        pub temperature: f64 = 0.07 => Rule::above(0.0),
        /// Number format of activations; the trained weights are kept in f32 besides.
        pub dtype: Dtype = Dtype::Bf16,
    }
}

kinds! {
    /// What the Q-Former starts from.
    pub enum QFormerInit {
        /// BERT: text layers and word embeddings are copied, query layers from their text twins;
        /// cross-attention is new.
        "bert" => Bert(Weights),
        /// Normal(0, 0.02) throughout, keyed by the run's seed.
        "random" => Random(RandomInit),
    }
}

/// A random start has no keys of its own.
#[derive(Clone, Debug, PartialEq, serde::Serialize)]
pub struct RandomInit {}

impl crate::section::Keys for RandomInit {
    fn schema() -> crate::schema::SectionSchema {
        crate::schema::SectionSchema { doc: "A random start.".to_owned(), fields: Vec::new() }
    }

    fn read(_: &crate::decode::Fields<'_>, _: Place<'_>, _: &mut Problems) -> Option<Self> {
        Some(RandomInit {})
    }
}

/// Notes sizes of a tower that do not fit together.
fn check_custom_image_tower(tower: &CustomImageTower, place: Place<'_>, problems: &mut Problems) {
    check_heads(place, "width", tower.width, tower.heads, problems);
}

/// Notes sizes of the Q-Former that do not fit together.
fn check_qformer(qformer: &QFormer, place: Place<'_>, problems: &mut Problems) {
    check_heads(place, "hidden_dim", qformer.hidden_dim, qformer.heads, problems);
    if qformer.max_text_tokens > qformer.max_positions {
        let message = format!(
            "found max_text_tokens {} with max_positions {}; expected a position for every token",
            qformer.max_text_tokens, qformer.max_positions
        );
        place.refuse_at("max_text_tokens", message, format!("write {} or less", qformer.max_positions), problems);
    }
    if qformer.cross_attention_every > qformer.depth {
        let message = format!(
            "found cross_attention_every {} with depth {}; expected at most the depth",
            qformer.cross_attention_every, qformer.depth
        );
        let advice = format!("write {} to have cross-attention in the first layer only", qformer.depth);
        place.refuse_at("cross_attention_every", message, advice, problems);
    }
}

/// Notes a width that heads cannot share equally.
pub(crate) fn check_heads(place: Place<'_>, key: &str, width: usize, heads: usize, problems: &mut Problems) {
    if !width.is_multiple_of(heads) {
        let message = format!("found {heads} heads for {key} {width}; expected a number that divides {width}");
        let advice = crate::validate::nearest_choices(heads, (1..=width).filter(|count| width.is_multiple_of(*count)));
        place.refuse_at("heads", message, advice, problems);
    }
}

pub use crate::language_model::LanguageModel;
