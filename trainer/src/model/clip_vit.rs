//! The image encoder of CLIP as BLIP-2 uses it: a norm before the first block, quick GELU, no final norm, one block less
//! than was trained.
//!
//! Letters: `B` images, `S` side in pixels, `P` patches and the class token, `V` width. Source: LAVIS `clip_vit.py`; names
//! are OpenAI's, below `vision_model`: Hugging Face's BLIP-2 has no place for this tower.

use configs::{Attention, ImageSizes};
use tch::{Kind, Tensor};

use super::eva_vit::PatchEmbedding;
use super::layers::{AttentionForm, LayerNorm, Linear, Mask, attention};
use super::tensors::{Init, Scope};
use crate::TrainerError;

/// Of every norm in the tower.
pub(super) const EPS: f64 = 1e-5;

/// The image encoder.
#[derive(Debug)]
pub struct ClipVit {
    patches: PatchEmbedding,
    class_embedding: Tensor,
    position_embedding: Tensor,
    norm: LayerNorm,
    blocks: Vec<Block>,
}

/// One block of either tower.
#[derive(Debug)]
pub(super) struct Block {
    norms: [LayerNorm; 2],
    qkv: Linear,
    out: Linear,
    up: Linear,
    down: Linear,
    form: AttentionForm,
}

impl ClipVit {
    /// The tower whose weights lie in `scope`, which is usually called `vision_model`.
    ///
    /// # Errors
    /// When a weight is missing or has another shape.
    pub fn new(
        scope: &Scope<'_>,
        sizes: ImageSizes,
        image_size: usize,
        kernel: Attention,
    ) -> Result<Self, TrainerError> {
        let width = sizes.width as i64;
        let side = (image_size / sizes.patch_size) as i64;
        // OpenAI's starting values.
        let scale = Init::Normal(1.0 / (width as f64).sqrt());
        let blocks = scope.at("transformer.resblocks");
        Ok(Self {
            patches: PatchEmbedding::without_bias(&scope.at("conv1"), sizes.patch_size as i64, width)?,
            class_embedding: scope.weight("class_embedding", &[width], scale)?,
            position_embedding: scope.weight("positional_embedding", &[side * side + 1, width], scale)?,
            norm: LayerNorm::new(&scope.at("ln_pre"), width, EPS)?,
            blocks: (0..sizes.depth)
                .map(|index| Block::new(&blocks.at(index), (sizes.width, sizes.mlp_dim, sizes.heads), kernel))
                .collect::<Result<_, _>>()?,
        })
    }

    /// What the first block is given, class token first.
    ///
    /// # Shapes
    /// `pixels`: `[B, 3, S, S]`, normalised, any floating-point type; result: `[B, P, V]` in the type of the weights.
    pub fn embed(&self, pixels: &Tensor) -> Tensor {
        let patches = self.patches.forward(&pixels.to_kind(self.class_embedding.kind()));
        let (batch, _, width) = patches.size3().expect("invariant: patches are [B, P, V]");
        let class = self.class_embedding.expand([batch, 1, width], false);
        self.norm.forward(&(Tensor::cat(&[&class, &patches], 1) + &self.position_embedding))
    }

    /// Blocks.
    pub fn depth(&self) -> usize {
        self.blocks.len()
    }

    /// The residual stream behind one block.
    ///
    /// # Shapes
    /// `x` and result: `[B, P, V]`.
    pub fn block(&self, index: usize, x: &Tensor) -> Tensor {
        self.blocks[index].forward(x, Mask::Open)
    }

    /// The residual stream behind the last block, class token first.
    ///
    /// # Shapes
    /// As [`Self::embed`].
    pub fn forward(&self, pixels: &Tensor) -> Tensor {
        (0..self.depth()).fold(self.embed(pixels), |x, index| self.block(index, &x))
    }
}

impl Block {
    /// A block of a width, a hidden width and a number of heads.
    pub fn new(
        scope: &Scope<'_>,
        (width, hidden, heads): (usize, usize, usize),
        kernel: Attention,
    ) -> Result<Self, TrainerError> {
        let (width, hidden) = (width as i64, hidden as i64);
        let attention = scope.at("attn");
        let std = Init::Normal(1.0 / (width as f64).sqrt());
        let qkv = attention.weight("in_proj_weight", &[3 * width, width], std)?;
        let bias = attention.weight("in_proj_bias", &[3 * width], Init::Constant(0.0))?;
        let linear =
            |name: &str, input, output| Linear::with_init(&scope.at(name), input, output, std, Init::Constant(0.0));
        Ok(Self {
            norms: [LayerNorm::new(&scope.at("ln_1"), width, EPS)?, LayerNorm::new(&scope.at("ln_2"), width, EPS)?],
            qkv: Linear::from_parts(qkv, Some(bias)),
            out: linear("attn.out_proj", width, width)?,
            up: linear("mlp.c_fc", width, hidden)?,
            down: linear("mlp.c_proj", hidden, width)?,
            form: AttentionForm { heads: heads as i64, kernel, dropout: 0.0 },
        })
    }

    /// # Shapes
    /// `x`: `[B, P, V]`; `mask`: as [`attention`] takes it.
    pub fn forward(&self, x: &Tensor, mask: Mask<'_>) -> Tensor {
        let qkv = self.qkv.forward(&self.norms[0].forward(x)).chunk(3, -1);
        let x = x + self.out.forward(&attention(&qkv[0], &qkv[1], &qkv[2], mask, self.form));
        let hidden = self.up.forward(&self.norms[1].forward(&x));
        &x + self.down.forward(&quick_gelu(&hidden))
    }
}

/// CLIP's activation.
fn quick_gelu(x: &Tensor) -> Tensor {
    let wide = x.to_kind(Kind::Float);
    (&wide * (&wide * 1.702).sigmoid()).to_kind(x.kind())
}
