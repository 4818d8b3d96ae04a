//! CLIP whole: how similar images and texts are (Radford et al. 2021). The image tower is [`ClipVit`] with every block, a
//! norm of the class token and a projection; the text tower is a causal transformer, read where the text ends.
//!
//! Letters: `B` images, `n` texts, `T` text positions, `D` width of the text tower, `E` projected width. Source:
//! transformers `modeling_clip.py`; names are OpenAI's below `vision_model` and `text_model`.

use configs::{Attention, ImageSizes};
use tch::{Kind, Tensor};

use super::clip_vit::{Block, ClipVit, EPS};
use super::layers::{LayerNorm, Linear, Mask, causal_mask};
use super::tensors::{Init, Scope};
use crate::TrainerError;

/// The sizes of both towers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClipSizes {
    /// The image tower's.
    pub image: ImageSizes,
    /// Side of the images in pixels.
    pub image_size: usize,
    /// The text tower's.
    pub text: ClipTextSizes,
    /// Width that both are projected to.
    pub projection_dim: usize,
}

/// The sizes of a text tower.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClipTextSizes {
    /// Rows of the token embedding.
    pub vocab_size: usize,
    /// Tokens of a text at most, start and end included.
    pub max_tokens: usize,
    /// Width of the residual stream.
    pub width: usize,
    /// Number of blocks.
    pub depth: usize,
    /// Attention heads per block.
    pub heads: usize,
    /// Width of the hidden layer of the feed-forward part.
    pub mlp_dim: usize,
}

/// Both towers.
#[derive(Debug)]
pub struct Clip {
    image: ClipVit,
    image_norm: LayerNorm,
    image_projection: Linear,
    text: TextTower,
    text_projection: Linear,
}

#[derive(Debug)]
struct TextTower {
    tokens: Tensor,
    positions: Tensor,
    blocks: Vec<Block>,
    norm: LayerNorm,
}

impl Clip {
    /// The model whose weights lie in `scope`.
    ///
    /// # Errors
    /// When a weight is missing or has another shape.
    pub fn new(scope: &Scope<'_>, sizes: ClipSizes) -> Result<Self, TrainerError> {
        let (image, text) = (scope.at("vision_model"), scope.at("text_model"));
        let projection = |name: &str, width: usize| {
            let init = Init::Normal(1.0 / (width as f64).sqrt());
            let shape = [sizes.projection_dim as i64, width as i64];
            Ok::<_, TrainerError>(Linear::from_parts(scope.at(name).weight("weight", &shape, init)?, None))
        };
        Ok(Self {
            image: ClipVit::new(&image, sizes.image, sizes.image_size, Attention::Math)?,
            image_norm: LayerNorm::new(&image.at("ln_post"), sizes.image.width as i64, EPS)?,
            image_projection: projection("visual_projection", sizes.image.width)?,
            text: TextTower::new(&text, sizes.text)?,
            text_projection: projection("text_projection", sizes.text.width)?,
        })
    }

    /// Features of images, of length 1.
    ///
    /// # Shapes
    /// `pixels`: `[B, 3, S, S]`, normalised; result: `[B, E]`, f32.
    pub fn encode_image(&self, pixels: &Tensor) -> Tensor {
        let class = self.image.forward(pixels).select(1, 0);
        normalized(&self.image_projection.forward(&self.image_norm.forward(&class)))
    }

    /// Features of texts, of length 1.
    ///
    /// # Shapes
    /// `ids`: `[n, T]`; `ends`: `[n]`, the place of each text's end token; result: `[n, E]`, f32.
    pub fn encode_text(&self, ids: &Tensor, ends: &Tensor) -> Tensor {
        normalized(&self.text_projection.forward(&self.text.forward(ids, ends)))
    }
}

impl TextTower {
    fn new(scope: &Scope<'_>, sizes: ClipTextSizes) -> Result<Self, TrainerError> {
        let width = sizes.width as i64;
        let blocks = scope.at("transformer.resblocks");
        let block = |index| Block::new(&blocks.at(index), (sizes.width, sizes.mlp_dim, sizes.heads), Attention::Math);
        // OpenAI's starting values.
        let tokens = scope.weight("token_embedding", &[sizes.vocab_size as i64, width], Init::Normal(0.02))?;
        let positions = scope.weight("positional_embedding", &[sizes.max_tokens as i64, width], Init::Normal(0.01))?;
        let norm = LayerNorm::new(&scope.at("ln_final"), width, EPS)?;
        Ok(Self { tokens, positions, blocks: (0..sizes.depth).map(block).collect::<Result<_, _>>()?, norm })
    }

    /// The normed residual stream where texts end. No position sees what comes after it, so padding behind the end needs no
    /// mask.
    ///
    /// # Shapes
    /// `ids`: `[n, T]`; `ends`: `[n]`; result: `[n, D]`.
    fn forward(&self, ids: &Tensor, ends: &Tensor) -> Tensor {
        let (rows, length) = ids.size2().expect("invariant: ids are [n, T]");
        let words = Tensor::embedding(&self.tokens, ids, -1, false, false);
        let mut x = words + self.positions.narrow(0, 0, length);
        let mask = causal_mask(length, length, f64::NEG_INFINITY, &x);
        for block in &self.blocks {
            x = block.forward(&x, Mask::Causal(&mask));
        }
        let own = Tensor::arange(rows, (Kind::Int64, ids.device()));
        self.norm.forward(&x.index(&[Some(own), Some(ends.shallow_clone())]))
    }
}

/// # Shapes
/// `x`: `[…, E]`; result: the same, of length 1, f32.
fn normalized(x: &Tensor) -> Tensor {
    let x = x.to_kind(Kind::Float);
    &x / x.norm_scalaropt_dim(2.0, [-1_i64].as_slice(), true)
}
