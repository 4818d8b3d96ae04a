//! What the models are made of. Letters: `B` rows of a batch, `S` positions, `K` positions that are attended to, `D` width.

use configs::Attention;
use tch::{Device, Kind, Tensor};

use super::tensors::{Init, Scope, cat_rows};
use crate::{TrainerError, generator, shim};

/// `x W^T + b`.
#[derive(Debug)]
pub struct Linear {
    weight: Tensor,
    bias: Option<Tensor>,
}

impl Linear {
    /// A layer from `input` to `output` features with a bias; weights start as normal(0, 0.02), the bias at 0.
    ///
    /// # Errors
    /// When a weight is missing or has another shape.
    pub fn new(scope: &Scope<'_>, input: i64, output: i64) -> Result<Self, TrainerError> {
        Self::with_init(scope, input, output, Init::Normal(0.02), Init::Constant(0.0))
    }

    /// [`Linear::new`] with other starting values.
    ///
    /// # Errors
    /// When a weight is missing or has another shape.
    pub fn with_init(
        scope: &Scope<'_>,
        input: i64,
        output: i64,
        weight: Init,
        bias: Init,
    ) -> Result<Self, TrainerError> {
        let weight = scope.weight("weight", &[output, input], weight)?;
        Ok(Self { weight, bias: Some(scope.weight("bias", &[output], bias)?) })
    }

    /// A layer from tensors that exist already.
    pub fn from_parts(weight: Tensor, bias: Option<Tensor>) -> Self {
        Self { weight, bias }
    }

    /// The same with this bias.
    pub fn with_bias(self, bias: Tensor) -> Self {
        Self { bias: Some(bias), ..self }
    }

    /// Several layers over the same input as one: outputs stand one after the other.
    pub fn fused(parts: &[Linear]) -> Self {
        let weights: Vec<&Tensor> = parts.iter().map(|part| &part.weight).collect();
        let biases: Vec<&Tensor> = parts.iter().filter_map(|part| part.bias.as_ref()).collect();
        assert!(biases.len() == parts.len(), "invariant: layers that are fused have a bias");
        Self { weight: cat_rows(&weights), bias: Some(cat_rows(&biases)) }
    }

    /// The same numbers, laid out for products with few rows, as generation makes them: MKL's kernels for f32 take a fifth to
    /// a half less time with a weight that lies input by input (docs/benchmarks/caption.md).
    pub fn for_few_rows(self) -> Self {
        Self { weight: for_few_rows(self.weight), ..self }
    }

    /// Features that it gives.
    pub fn output_dim(&self) -> i64 {
        self.weight.size()[0]
    }

    /// The type of its weights.
    pub fn kind(&self) -> Kind {
        self.weight.kind()
    }

    /// # Shapes
    /// `x`: `[…, input]`; result: `[…, output]`.
    pub fn forward(&self, x: &Tensor) -> Tensor {
        x.linear(&self.weight, self.bias.as_ref())
    }
}

/// See [`Linear::for_few_rows`].
///
/// # Shapes
/// `weight`: `[output, input]`; result: the same.
pub fn for_few_rows(weight: Tensor) -> Tensor {
    match (weight.kind(), weight.device()) {
        (Kind::Float, Device::Cpu) => weight.tr().contiguous().tr(),
        _ => weight,
    }
}

/// Layer normalisation over the last axis.
#[derive(Debug)]
pub struct LayerNorm {
    weight: Tensor,
    bias: Tensor,
    eps: f64,
}

impl LayerNorm {
    /// # Errors
    /// When a weight is missing or has another shape.
    pub fn new(scope: &Scope<'_>, dim: i64, eps: f64) -> Result<Self, TrainerError> {
        let weight = scope.weight("weight", &[dim], Init::Constant(1.0))?;
        Ok(Self { weight, bias: scope.weight("bias", &[dim], Init::Constant(0.0))?, eps })
    }

    /// # Shapes
    /// `x`: `[…, D]`; result: the same, in the type of `x`. libtorch accumulates in f32.
    pub fn forward(&self, x: &Tensor) -> Tensor {
        x.layer_norm(self.weight.size(), Some(&self.weight), Some(&self.bias), self.eps, false)
    }
}

/// What attention looks like, apart from its projections.
#[derive(Clone, Copy, Debug)]
pub struct AttentionForm {
    /// Heads.
    pub heads: i64,
    /// Which implementation computes it.
    pub kernel: Attention,
    /// Dropout on the attention weights; 0 outside training.
    pub dropout: f64,
}

/// What positions may look at.
#[derive(Clone, Copy, Debug)]
pub enum Mask<'a> {
    /// Everything.
    Open,
    /// Added to the scores, broadcast to `[B, heads, S, K]`, in the type of the queries.
    Added(&'a Tensor),
    /// The same, being the causal order of as many positions as are attended to, and nothing else: fused kernels know that
    /// order and compute half of the scores.
    Causal(&'a Tensor),
}

/// Scaled dot-product attention, scaled by one over the root of the head's width.
///
/// # Shapes
/// `query`: `[B, S, D]`; `key`, `value`: `[B, K, D]`; result: `[B, S, D]`.
pub fn attention(query: &Tensor, key: &Tensor, value: &Tensor, mask: Mask<'_>, form: AttentionForm) -> Tensor {
    let [query, key, value] = [query, key, value].map(|x| split_heads(x, form.heads));
    let out = match form.kernel {
        Attention::Math => plain_attention(&query, &key, &value, mask, form.dropout),
        Attention::Flash => {
            let (mask, causal) = match mask {
                Mask::Open => (None, false),
                Mask::Added(mask) => (Some(mask), false),
                Mask::Causal(_) => (None, true),
            };
            Tensor::scaled_dot_product_attention(&query, &key, &value, mask, form.dropout, causal, None, false)
        }
    };
    merge_heads(&out)
}

/// [`attention`] of all tokens of an image to each other. On a GPU, outside of gradients, the fused kernel is cuDNN's, which takes two thirds of the time of libtorch's choice at 257 tokens and 88 features a head (docs/gpu.md).
///
/// # Shapes
/// `query`, `key`, `value`, result: `[B, P, D]`.
pub fn image_attention(query: &Tensor, key: &Tensor, value: &Tensor, form: AttentionForm) -> Tensor {
    let is_half = matches!(query.kind(), Kind::BFloat16 | Kind::Half);
    if matches!(query.device(), Device::Cuda(_)) && form.kernel == Attention::Flash && is_half && !query.requires_grad()
    {
        let [query, key, value] = [query, key, value].map(|x| split_heads(x, form.heads));
        if let Some(out) = shim::cudnn_attention(&query, &key, &value) {
            return merge_heads(&out);
        }
    }
    attention(query, key, value, Mask::Open, form)
}

fn plain_attention(query: &Tensor, key: &Tensor, value: &Tensor, mask: Mask<'_>, dropout: f64) -> Tensor {
    let scale = 1.0 / (query.size()[3] as f64).sqrt();
    let scores = (query * scale).matmul(&key.transpose(2, 3));
    let scores = match mask {
        Mask::Added(mask) | Mask::Causal(mask) => scores + mask,
        Mask::Open => scores,
    };
    let weights = scores.softmax(-1, scores.kind());
    self::dropout(weights, dropout).matmul(value)
}

/// `[B, S, D]` to `[B, heads, S, D / heads]`.
pub(super) fn split_heads(x: &Tensor, heads: i64) -> Tensor {
    let (b, s, d) = x.size3().expect("invariant: attention works on [B, S, D]");
    x.view([b, s, heads, d / heads]).transpose(1, 2)
}

/// `[B, heads, S, d]` to `[B, S, heads · d]`.
pub(super) fn merge_heads(x: &Tensor) -> Tensor {
    let (b, heads, s, d) = x.size4().expect("invariant: attention gives [B, heads, S, d]");
    x.transpose(1, 2).reshape([b, s, heads * d])
}

/// Dropout while training, under a seed; the input itself when `p` is 0.
pub fn dropout(x: Tensor, p: f64) -> Tensor {
    if p > 0.0 { generator::dropout(&x, p) } else { x }
}

/// The lowest value that bf16 and f32, or f16, have room for (bf16's is -3.3895e38): added to a score, it leaves a weight of 0.
pub(super) fn lowest(kind: Kind) -> f64 {
    if kind == Kind::Half { -65504.0 } else { -3.38e38 }
}

/// `x` with every position of a causal order that lies ahead hidden: `[S, K]`, 0 where position `K - S + i` may look,
/// `hidden` elsewhere.
pub fn causal_mask(s: i64, k: i64, hidden: f64, like: &Tensor) -> Tensor {
    Tensor::full([s, k], hidden, (Kind::Float, like.device())).triu(k - s + 1).to_kind(like.kind())
}
