//! The frozen language model.

use crate::decode::Place;
use crate::model::{Dtype, TowerPretraining, check_heads};
use crate::problem::Problems;
use crate::rule::Rule;
use crate::section::{choice, kinds, section};
use crate::uri::{Uri, Weights};

kinds! {
    /// The language model of stage 2, frozen.
    pub enum LanguageModel {
        /// A published OPT: decoder only.
        "opt" => Opt(Opt),
        /// A published FlanT5: encoder and decoder.
        "t5" => T5(T5),
        /// A decoder of OPT's form and stated sizes.
        "custom_opt" => CustomOpt(CustomOpt),
        /// An encoder-decoder of T5's form and stated sizes.
        "custom_t5" => CustomT5(CustomT5),
    }
}

section! {
    /// A published OPT.
    pub struct Opt {
        /// Which of the published sizes.
        pub size: OptSize,
        /// Weights of the model.
        pub weights: Weights,
        /// Its tokenizer.
        pub tokenizer: Uri,
        /// Number format of weights and activations.
        pub dtype: Dtype = Dtype::Bf16,
        /// Dropout inside the frozen model while training.
        pub dropout: f64 = 0.0 => Rule::below_one(),
        /// Whether blocks are recomputed in the backward pass, to save memory.
        pub recompute: bool = false,
        /// Tokens of a text, special tokens included; longer texts are cut.
        pub max_text_tokens: usize = 32 => Rule::within(2.0, 1024.0),
    }
}

section! {
    /// A published FlanT5.
    pub struct T5 {
        /// Which of the published sizes.
        pub size: T5Size,
        /// Weights of the model.
        pub weights: Weights,
        /// Its tokenizer.
        pub tokenizer: Uri,
        /// Number format of weights and activations.
        pub dtype: Dtype = Dtype::Bf16,
        /// Dropout inside the frozen model while training.
        pub dropout: f64 = 0.0 => Rule::below_one(),
        /// Whether blocks are recomputed in the backward pass, to save memory.
        pub recompute: bool = false,
        /// Tokens of a text, special tokens included; longer texts are cut.
        pub max_text_tokens: usize = 32 => Rule::within(2.0, 1024.0),
    }
}

section! {
    /// A decoder of OPT's form and stated sizes.
    pub struct CustomOpt check check_custom_opt {
        /// Weights of the model; made and cached there if `pretrain` is given and nothing lies there.
        pub weights: Weights,
        /// Its tokenizer.
        pub tokenizer: Uri,
        /// Number format of weights and activations.
        pub dtype: Dtype = Dtype::Bf16,
        /// Dropout inside the frozen model while training.
        pub dropout: f64 = 0.0 => Rule::below_one(),
        /// Whether blocks are recomputed in the backward pass, to save memory.
        pub recompute: bool = false,
        /// Tokens of a text, special tokens included; longer texts are cut.
        pub max_text_tokens: usize => Rule::within(2.0, 1024.0),
        /// Rows of the word embedding.
        pub vocab_size: usize => Rule::at_least(4.0),
        /// Longest sequence, queries included.
        pub max_positions: usize => Rule::at_least(1.0),
        /// Width of the residual stream.
        pub hidden_dim: usize => Rule::within(1.0, 65536.0),
        /// Number of layers.
        pub depth: usize => Rule::within(1.0, 1000.0),
        /// Attention heads per layer.
        pub heads: usize => Rule::within(1.0, 1024.0),
        /// Width of the hidden layer of the feed-forward part.
        pub mlp_dim: usize => Rule::within(1.0, 1048576.0),
        /// How the demo trains the model before it is frozen; null if the weights exist.
        pub pretrain: Option<TowerPretraining> = None,
    }
}

section! {
    /// An encoder-decoder of T5's form and stated sizes.
    pub struct CustomT5 {
        /// Weights of the model; made and cached there if `pretrain` is given and nothing lies there.
        pub weights: Weights,
        /// Its tokenizer.
        pub tokenizer: Uri,
        /// Number format of weights and activations.
        pub dtype: Dtype = Dtype::Bf16,
        /// Dropout inside the frozen model while training.
        pub dropout: f64 = 0.0 => Rule::below_one(),
        /// Whether blocks are recomputed in the backward pass, to save memory.
        pub recompute: bool = false,
        /// Tokens of a text, special tokens included; longer texts are cut.
        pub max_text_tokens: usize => Rule::within(2.0, 1024.0),
        /// Rows of the word embedding.
        pub vocab_size: usize => Rule::at_least(4.0),
        /// Width of the residual stream.
        pub hidden_dim: usize => Rule::within(1.0, 65536.0),
        /// Layers of the encoder.
        pub encoder_depth: usize => Rule::within(1.0, 1000.0),
        /// Layers of the decoder.
        pub decoder_depth: usize => Rule::within(1.0, 1000.0),
        /// Attention heads per layer.
        pub heads: usize => Rule::within(1.0, 1024.0),
        /// Width of one head; heads times this may differ from `hidden_dim`.
        pub head_dim: usize => Rule::within(1.0, 1024.0),
        /// Width of the hidden layer of the gated feed-forward part.
        pub mlp_dim: usize => Rule::within(1.0, 1048576.0),
        /// Buckets of relative positions.
        pub position_buckets: usize = 32 => Rule::within(4.0, 4096.0),
        /// Distance from which on all positions share a bucket.
        pub max_distance: usize = 128 => Rule::within(4.0, 65536.0),
        /// How the demo trains the model before it is frozen; null if the weights exist.
        pub pretrain: Option<TowerPretraining> = None,
    }
}

choice! {
    /// Published sizes of OPT.
    pub enum OptSize {
        /// 12 layers of width 768, for trials.
        "125m" => M125,
        /// 24 layers of width 2048, for trials.
        "1.3b" => B1_3,
        /// 32 layers of width 2560.
        "2.7b" => B2_7,
        /// 32 layers of width 4096.
        "6.7b" => B6_7,
    }
}

choice! {
    /// Published sizes of FlanT5.
    pub enum T5Size {
        /// 8 + 8 layers of width 512, for trials.
        "small" => Small,
        /// 12 + 12 layers of width 768, for trials.
        "base" => Base,
        /// 24 + 24 layers of width 2048.
        "xl" => Xl,
        /// 24 + 24 layers of width 4096.
        "xxl" => Xxl,
    }
}

/// The sizes of a language model, whichever kind states them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LanguageModelSizes {
    /// A decoder of OPT's form.
    Opt(OptSizes),
    /// An encoder-decoder of T5's form.
    T5(T5Sizes),
}

/// The sizes of a decoder of OPT's form.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OptSizes {
    /// Rows of the word embedding.
    pub vocab_size: usize,
    /// Longest sequence, queries included.
    pub max_positions: usize,
    /// Width of the residual stream.
    pub hidden_dim: usize,
    /// Number of layers.
    pub depth: usize,
    /// Attention heads per layer.
    pub heads: usize,
    /// Width of the hidden layer of the feed-forward part.
    pub mlp_dim: usize,
}

/// The sizes of an encoder-decoder of T5's form.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct T5Sizes {
    /// Rows of the word embedding.
    pub vocab_size: usize,
    /// Width of the residual stream.
    pub hidden_dim: usize,
    /// Layers of the encoder.
    pub encoder_depth: usize,
    /// Layers of the decoder.
    pub decoder_depth: usize,
    /// Attention heads per layer.
    pub heads: usize,
    /// Width of one head.
    pub head_dim: usize,
    /// Width of the hidden layer of the gated feed-forward part.
    pub mlp_dim: usize,
    /// Buckets of relative positions, 32 in all published sizes.
    pub position_buckets: usize,
    /// Distance from which on all positions share a bucket, 128 in all published sizes.
    pub max_distance: usize,
}

impl OptSize {
    /// The sizes, from the `config.json` of facebook/opt-{125m,1.3b,2.7b,6.7b}.
    pub fn sizes(self) -> OptSizes {
        let (hidden_dim, depth, heads) = match self {
            OptSize::M125 => (768, 12, 12),
            OptSize::B1_3 => (2048, 24, 32),
            OptSize::B2_7 => (2560, 32, 32),
            OptSize::B6_7 => (4096, 32, 32),
        };
        OptSizes { vocab_size: 50272, max_positions: 2048, hidden_dim, depth, heads, mlp_dim: 4 * hidden_dim }
    }
}

impl T5Size {
    /// The sizes, from the `config.json` of google/flan-t5-{small,base,xl,xxl}.
    pub fn sizes(self) -> T5Sizes {
        let (hidden_dim, depth, heads, mlp_dim) = match self {
            T5Size::Small => (512, 8, 6, 1024),
            T5Size::Base => (768, 12, 12, 2048),
            T5Size::Xl => (2048, 24, 32, 5120),
            T5Size::Xxl => (4096, 24, 64, 10240),
        };
        T5Sizes {
            vocab_size: 32128,
            hidden_dim,
            encoder_depth: depth,
            decoder_depth: depth,
            heads,
            head_dim: 64,
            mlp_dim,
            position_buckets: 32,
            max_distance: 128,
        }
    }
}

/// What every kind of language model states.
#[derive(Clone, Copy, Debug)]
pub struct LanguageModelSettings<'a> {
    /// Weights of the model.
    pub weights: &'a Weights,
    /// Its tokenizer.
    pub tokenizer: &'a Uri,
    /// Number format of weights and activations.
    pub dtype: Dtype,
    /// Dropout inside the frozen model while training.
    pub dropout: f64,
    /// Whether blocks are recomputed in the backward pass.
    pub recompute: bool,
    /// Tokens of a text, special tokens included.
    pub max_text_tokens: usize,
    /// How the demo trains the model before it is frozen.
    pub pretrain: Option<&'a TowerPretraining>,
}

/// The settings of `$model` with `$pretrain`.
macro_rules! settings_of {
    ($model:expr, $pretrain:expr) => {
        LanguageModelSettings {
            weights: &$model.weights,
            tokenizer: &$model.tokenizer,
            dtype: $model.dtype,
            dropout: $model.dropout,
            recompute: $model.recompute,
            max_text_tokens: $model.max_text_tokens,
            pretrain: $pretrain,
        }
    };
}

impl LanguageModel {
    /// The sizes of the model.
    pub fn sizes(&self) -> LanguageModelSizes {
        match self {
            LanguageModel::Opt(model) => LanguageModelSizes::Opt(model.size.sizes()),
            LanguageModel::T5(model) => LanguageModelSizes::T5(model.size.sizes()),
            LanguageModel::CustomOpt(model) => LanguageModelSizes::Opt(OptSizes {
                vocab_size: model.vocab_size,
                max_positions: model.max_positions,
                hidden_dim: model.hidden_dim,
                depth: model.depth,
                heads: model.heads,
                mlp_dim: model.mlp_dim,
            }),
            LanguageModel::CustomT5(model) => LanguageModelSizes::T5(T5Sizes {
                vocab_size: model.vocab_size,
                hidden_dim: model.hidden_dim,
                encoder_depth: model.encoder_depth,
                decoder_depth: model.decoder_depth,
                heads: model.heads,
                head_dim: model.head_dim,
                mlp_dim: model.mlp_dim,
                position_buckets: model.position_buckets,
                max_distance: model.max_distance,
            }),
        }
    }

    /// Width of the residual stream: what the Q-Former's outputs are projected to.
    pub fn hidden_dim(&self) -> usize {
        match self.sizes() {
            LanguageModelSizes::Opt(sizes) => sizes.hidden_dim,
            LanguageModelSizes::T5(sizes) => sizes.hidden_dim,
        }
    }

    /// What every kind of language model states.
    pub fn settings(&self) -> LanguageModelSettings<'_> {
        match self {
            LanguageModel::Opt(model) => settings_of!(model, None),
            LanguageModel::T5(model) => settings_of!(model, None),
            LanguageModel::CustomOpt(model) => settings_of!(model, model.pretrain.as_ref()),
            LanguageModel::CustomT5(model) => settings_of!(model, model.pretrain.as_ref()),
        }
    }
}

/// Notes sizes of a decoder that do not fit together.
fn check_custom_opt(model: &CustomOpt, place: Place<'_>, problems: &mut Problems) {
    check_heads(place, "hidden_dim", model.hidden_dim, model.heads, problems);
}
