//! The two families of image encoders behind one face.

use configs::{Attention, ImageBlock, ImageSizes};
use tch::{Kind, Tensor, no_grad};

use super::clip_vit::ClipVit;
use super::eva_vit::EvaVit;
use super::tensors::{Scope, Tensors};
use crate::TrainerError;

/// Images on their way through the blocks of a tower, outside any gradient.
#[derive(Debug)]
pub struct Passing {
    x: Tensor,
    blocks: usize,
}

/// How far images have come through a tower.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Share {
    /// Half of the blocks are behind them.
    Half,
    /// All of them are.
    All,
}

/// An image encoder.
#[derive(Debug)]
pub enum ImageTower {
    /// EVA-CLIP.
    Eva(EvaVit),
    /// CLIP.
    Clip(ClipVit),
}

impl ImageTower {
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
        Ok(match sizes.block {
            ImageBlock::EvaClip => Self::Eva(EvaVit::new(scope, sizes, image_size, kernel)?),
            ImageBlock::Clip => Self::Clip(ClipVit::new(scope, sizes, image_size, kernel)?),
        })
    }

    /// The residual stream behind the last block, class token first.
    ///
    /// # Shapes
    /// `pixels`: `[B, 3, S, S]`, normalised, any floating-point type; result: `[B, P, V]` in the type of the weights.
    pub fn forward(&self, pixels: &Tensor) -> Tensor {
        match self {
            Self::Eva(tower) => tower.forward(pixels),
            Self::Clip(tower) => tower.forward(pixels),
        }
    }

    /// Begins what [`Self::forward`] does, outside any gradient.
    pub fn begin(&self, pixels: &Tensor) -> Passing {
        Passing { x: no_grad(|| self.embed(pixels)), blocks: 0 }
    }

    /// Lets images pass blocks until a share of all is behind them.
    pub fn pass(&self, images: &mut Passing, share: Share) {
        let until = match share {
            Share::Half => self.depth() / 2,
            Share::All => self.depth(),
        };
        while images.blocks < until {
            images.x = no_grad(|| self.block(images.blocks, &images.x));
            images.blocks += 1;
        }
    }

    /// The output for images, once they have passed the blocks that are left.
    ///
    /// # Shapes
    /// Result: as [`Self::forward`] gives it.
    pub fn end(&self, mut images: Passing) -> Tensor {
        self.pass(&mut images, Share::All);
        images.x
    }

    fn embed(&self, pixels: &Tensor) -> Tensor {
        match self {
            Self::Eva(tower) => tower.embed(pixels),
            Self::Clip(tower) => tower.embed(pixels),
        }
    }

    fn depth(&self) -> usize {
        match self {
            Self::Eva(tower) => tower.depth(),
            Self::Clip(tower) => tower.depth(),
        }
    }

    fn block(&self, index: usize, x: &Tensor) -> Tensor {
        match self {
            Self::Eva(tower) => tower.block(index, x),
            Self::Clip(tower) => tower.block(index, x),
        }
    }

    /// Sends the gradient of the output back to the weights, through activations that are computed again: all at once, or,
    /// with `by_block`, one block at a time, which keeps the blocks' inputs only.
    ///
    /// # Shapes
    /// `pixels`: as [`Self::forward`] takes them; `gradient`: `[B, P, V]`.
    pub fn backward(&self, pixels: &Tensor, gradient: &Tensor, by_block: bool) {
        // The gradient of this sum with respect to `output` is `gradient`.
        let send = |output: &Tensor, gradient: &Tensor| (output * gradient).sum(gradient.kind()).backward();
        if !by_block {
            return send(&self.forward(pixels), gradient);
        }
        let mut inputs = no_grad(|| vec![self.embed(pixels)]);
        no_grad(|| (1..self.depth()).for_each(|index| inputs.push(self.block(index - 1, &inputs[index - 1]))));
        let mut gradient = gradient.shallow_clone();
        for (index, input) in inputs.into_iter().enumerate().take(self.depth()).rev() {
            let input = input.set_requires_grad(true);
            send(&self.block(index, &input), &gradient);
            gradient = input.grad();
        }
        send(&self.embed(pixels), &gradient);
    }
}

/// Fits the position embedding of a tower's weights to another image size, as the tower's family does it: bicubic in f32,
/// the class token's position kept, corners aligned by CLIP only (LAVIS `interpolate_pos_embed`, `clip_vit.py`).
///
/// # Errors
/// When the embedding is no square grid with a class token.
pub fn fit_positions(
    weights: &mut Tensors,
    prefix: &str,
    sizes: ImageSizes,
    image_size: usize,
) -> Result<(), TrainerError> {
    let name = match sizes.block {
        ImageBlock::EvaClip => format!("{prefix}.embeddings.position_embedding"),
        ImageBlock::Clip => format!("{prefix}.positional_embedding"),
    };
    let side = (image_size / sizes.patch_size) as i64;
    // A missing one is reported by the tower itself.
    let Some(found) = weights.get(&name).map(Tensor::shallow_clone) else { return Ok(()) };
    let (rows, width) = match found.size()[..] {
        [1, rows, width] | [rows, width] => (rows, width),
        _ => (0, 0),
    };
    let known = ((rows - 1).max(0) as f64).sqrt().round() as i64;
    if rows < 2 || known * known + 1 != rows {
        return Err(TrainerError::WeightShape {
            name,
            found: found.size(),
            expected: vec![side * side + 1, sizes.width as i64],
        });
    }
    if known != side {
        let flat = found.view([rows, width]);
        let resized = resized(&flat, [known, side], sizes.block == ImageBlock::Clip);
        let shape = if found.dim() == 3 { vec![1, side * side + 1, width] } else { vec![side * side + 1, width] };
        weights.insert(name, resized.view(shape.as_slice()));
    }
    Ok(())
}

/// `[1 + from², V]` to `[1 + to², V]`, in the type that it has.
fn resized(positions: &Tensor, [from, to]: [i64; 2], align_corners: bool) -> Tensor {
    let width = positions.size()[1];
    let grid = positions.narrow(0, 1, from * from).to_kind(Kind::Float);
    let grid = grid.view([1, from, from, width]).permute([0, 3, 1, 2]);
    let grid = grid.upsample_bicubic2d([to, to], align_corners, None, None);
    let grid = grid.permute([0, 2, 3, 1]).reshape([to * to, width]).to_kind(positions.kind());
    Tensor::cat(&[positions.narrow(0, 0, 1), grid], 0)
}
