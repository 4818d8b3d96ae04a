//! The image encoder of EVA-CLIP as BLIP-2 uses it: pre-norm blocks, no key bias, no final norm.
//!
//! Letters: `B` images, `S` side in pixels, `P` patches and the class token, `V` width. Source: LAVIS `eva_vit.py`;
//! names are Hugging Face's, below `vision_model`.

use configs::{Attention, ImageSizes};
use tch::Tensor;

use super::layers::{AttentionForm, LayerNorm, Linear, image_attention};
use super::tensors::{Init, Scope};
use crate::TrainerError;

/// Of every norm in the tower.
const EPS: f64 = 1e-6;

/// Standard deviation that weights start with: LAVIS' 0.02 at the published width of 1408, more where a narrower layer
/// sums over fewer inputs.
fn start_std(width: i64) -> f64 {
    0.02 * (1408.0 / width as f64).sqrt()
}

/// The image encoder.
#[derive(Debug)]
pub struct EvaVit {
    patches: PatchEmbedding,
    class_embedding: Tensor,
    position_embedding: Tensor,
    blocks: Vec<Block>,
}

impl EvaVit {
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
        let embeddings = scope.at("embeddings");
        let layers = scope.at("encoder.layers");
        Ok(Self {
            patches: PatchEmbedding::new(&embeddings.at("patch_embedding"), sizes.patch_size as i64, width)?,
            class_embedding: embeddings.weight("class_embedding", &[1, 1, width], Init::Normal(start_std(width)))?,
            position_embedding: embeddings.weight(
                "position_embedding",
                &[1, side * side + 1, width],
                Init::Normal(start_std(width)),
            )?,
            blocks: (0..sizes.depth)
                .map(|index| Block::new(&layers.at(index), index, &sizes, kernel))
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
        Tensor::cat(&[&class, &patches], 1) + &self.position_embedding
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
        self.blocks[index].forward(x)
    }

    /// The residual stream behind the last block, class token first.
    ///
    /// # Shapes
    /// As [`Self::embed`].
    pub fn forward(&self, pixels: &Tensor) -> Tensor {
        (0..self.depth()).fold(self.embed(pixels), |x, index| self.block(index, &x))
    }
}

/// The convolution whose stride is its size, as one matrix product over cut-out patches: on a CPU in bf16 a
/// convolution takes several times as long.
#[derive(Debug)]
pub(super) struct PatchEmbedding {
    linear: Linear,
    patch_size: i64,
}

impl PatchEmbedding {
    fn new(scope: &Scope<'_>, patch_size: i64, width: i64) -> Result<Self, TrainerError> {
        let Self { mut linear, patch_size } = Self::without_bias(scope, patch_size, width)?;
        linear = linear.with_bias(scope.weight("bias", &[width], Init::Constant(0.0))?);
        Ok(Self { linear, patch_size })
    }

    pub fn without_bias(scope: &Scope<'_>, patch_size: i64, width: i64) -> Result<Self, TrainerError> {
        let weight = scope.weight("weight", &[width, 3, patch_size, patch_size], Init::Normal(start_std(width)))?;
        Ok(Self { linear: Linear::from_parts(weight.reshape([width, 3 * patch_size * patch_size]), None), patch_size })
    }

    /// # Shapes
    /// `pixels`: `[B, 3, S, S]`; result: `[B, P - 1, V]`, row by row.
    pub fn forward(&self, pixels: &Tensor) -> Tensor {
        let (batch, channels, height, width) = pixels.size4().expect("invariant: pixels are [B, 3, S, S]");
        let (rows, columns, side) = (height / self.patch_size, width / self.patch_size, self.patch_size);
        let patches = pixels
            .reshape([batch, channels, rows, side, columns, side])
            .permute([0, 2, 4, 1, 3, 5])
            .reshape([batch, rows * columns, channels * side * side]);
        self.linear.forward(&patches)
    }
}

/// One block: attention and feed-forward, each added to its input.
#[derive(Debug)]
struct Block {
    layer_norm1: LayerNorm,
    qkv: Linear,
    projection: Linear,
    layer_norm2: LayerNorm,
    fc1: Linear,
    fc2: Linear,
    form: AttentionForm,
}

impl Block {
    fn new(scope: &Scope<'_>, index: usize, sizes: &ImageSizes, kernel: Attention) -> Result<Self, TrainerError> {
        let (width, hidden) = (sizes.width as i64, sizes.mlp_dim as i64);
        // LAVIS `fix_init_weight`: what adds to the residual stream starts smaller in later blocks.
        let residual = Init::Normal(start_std(width) / (2.0 * (index + 1) as f64).sqrt());
        let starting = |name: &str, output| {
            Linear::with_init(&scope.at(name), width, output, Init::Normal(start_std(width)), Init::Constant(0.0))
        };
        let adding =
            |name: &str, input| Linear::with_init(&scope.at(name), input, width, residual, Init::Constant(0.0));
        Ok(Self {
            layer_norm1: LayerNorm::new(&scope.at("layer_norm1"), width, EPS)?,
            // The key third of the bias is 0 for good: EVA has none. It would not change a result, as it adds the same
            // to all scores of a query.
            qkv: starting("self_attn.qkv", 3 * width)?,
            projection: adding("self_attn.projection", width)?,
            layer_norm2: LayerNorm::new(&scope.at("layer_norm2"), width, EPS)?,
            fc1: starting("mlp.fc1", hidden)?,
            fc2: adding("mlp.fc2", hidden)?,
            form: AttentionForm { heads: sizes.heads as i64, kernel, dropout: 0.0 },
        })
    }

    fn forward(&self, x: &Tensor) -> Tensor {
        let qkv = self.qkv.forward(&self.layer_norm1.forward(x)).chunk(3, -1);
        let attended = image_attention(&qkv[0], &qkv[1], &qkv[2], self.form);
        let x = x + self.projection.forward(&attended);
        // The exact GELU, by the error function.
        let hidden = self.fc1.forward(&self.layer_norm2.forward(&x)).gelu("none");
        &x + self.fc2.forward(&hidden)
    }
}

/// The name of a bias whose key third (the second of three) is 0 and stays so, as [`EvaVit`] calls it.
pub fn has_no_key_bias(name: &str) -> bool {
    name.ends_with("self_attn.qkv.bias")
}

/// Sets the key third of a bias of queries, keys and values, or of its gradient, to 0.
pub fn clear_key_bias(bias: &Tensor) {
    let width = bias.size()[0] / 3;
    let _ = bias.narrow(0, width, width).fill_(0.0);
}

/// The largest absolute difference of two tensors, for tests.
#[cfg(test)]
pub(crate) fn largest_difference(a: &Tensor, b: &Tensor) -> f64 {
    (a.to_kind(tch::Kind::Double) - b.to_kind(tch::Kind::Double)).abs().max().double_value(&[])
}

#[cfg(test)]
mod tests {
    use tch::Device;

    use super::*;
    use crate::model::{Spec, Tensors};

    #[test]
    fn patches_are_the_convolution() {
        let spec =
            |name: &str, shape: &[i64]| Spec { name: name.into(), shape: shape.to_vec(), init: Init::Normal(1.0) };
        let specs = [spec("weight", &[5, 3, 4, 4]), spec("bias", &[5]), spec("pixels", &[2, 3, 12, 12])];
        let tensors = Tensors::random(&specs, 3, Device::Cpu);
        let pixels = tensors.get("pixels").unwrap().shallow_clone();
        let found = PatchEmbedding::new(&tensors.scope(""), 4, 5).unwrap().forward(&pixels);
        let weight = tensors.get("weight").unwrap();
        let expected = pixels.conv2d(weight, tensors.get("bias"), [4, 4], [0, 0], [1, 1], 1);
        // Sums of 48 products of unit normals in f32, in two orders.
        assert!(largest_difference(&found, &expected.flatten(2, 3).transpose(1, 2)) < 1e-5);
    }
}
