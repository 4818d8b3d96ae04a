//! T5's encoder and decoder in the form of v1.1 and FlanT5: norms before, no biases, gated feed-forward, relative
//! positions, an output layer of its own.
//!
//! Letters: `B` rows, `R` rows that are written for them, `S` encoder positions, `T` decoder positions, `K` positions that are attended to, `D` width, `W`
//! words. Source: transformers `modeling_t5.py`; names are Hugging Face's, below `language_model`. The gate is the exact
//! GELU, as in the published BLIP-2 models; FlanT5 itself has the tanh approximation (docs/parity.md).

use configs::T5Sizes;
use tch::{Kind, Tensor};

use super::cache::{Look, Own, Shared};
use super::layers::{Linear, causal_mask, dropout, lowest, merge_heads, split_heads};
use super::tensors::{Init, Scope};
use crate::TrainerError;

/// Of every norm.
const EPS: f64 = 1e-6;
/// Standard deviation that weights start with when they are trained from nothing.
const STD: f64 = 0.05;

/// Encoder, decoder and output layer.
#[derive(Debug)]
pub struct T5 {
    words: Tensor,
    encoder: Stack,
    decoder: Stack,
    head: Linear,
    dropout: f64,
}

#[derive(Debug)]
struct Stack {
    blocks: Vec<Block>,
    positions: RelativePositions,
    norm: RmsNorm,
}

#[derive(Debug)]
struct Block {
    attention: (RmsNorm, Attention),
    cross: Option<(RmsNorm, Attention)>,
    mlp: (RmsNorm, GatedMlp),
}

#[derive(Debug)]
struct Attention {
    query: Linear,
    key: Linear,
    value: Linear,
    out: Linear,
    heads: i64,
}

#[derive(Debug)]
struct GatedMlp {
    gate: Linear,
    up: Linear,
    down: Linear,
}

/// What written positions left behind, and what the decoder sees of the encoder.
#[derive(Debug)]
pub struct T5Cache {
    layers: Vec<(Own, Shared)>,
    written: i64,
}

/// Division by the root of the mean square, in f32; no mean is taken off and nothing is added.
#[derive(Debug)]
struct RmsNorm(Tensor);

/// What is added to scores for the distance of two positions, by head.
#[derive(Debug)]
struct RelativePositions {
    /// `[buckets, heads]`.
    weight: Tensor,
    buckets: i64,
    max_distance: i64,
    order: Order,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Order {
    Both,
    Causal,
}

impl T5 {
    /// The model whose weights lie in `scope`, which is usually called `language_model`.
    ///
    /// # Errors
    /// When a weight is missing or has another shape.
    pub fn new(scope: &Scope<'_>, sizes: T5Sizes) -> Result<Self, TrainerError> {
        let (words, width) = (sizes.vocab_size as i64, sizes.hidden_dim as i64);
        let stack = |name: &str, depth: usize, order: Order| Stack::new(&scope.at(name), &sizes, depth, order);
        Ok(Self {
            words: scope.at("shared").weight("weight", &[words, width], Init::Normal(STD))?,
            encoder: stack("encoder", sizes.encoder_depth, Order::Both)?,
            decoder: stack("decoder", sizes.decoder_depth, Order::Causal)?,
            head: linear(scope, "lm_head", width, words)?,
            dropout: 0.0,
        })
    }

    /// The same with dropout where transformers has it: on what goes in, on weights of attention, inside and behind the
    /// feed-forward parts, behind attention and behind the last norm. Generation never drops out.
    pub fn with_dropout(self, dropout: f64) -> Self {
        Self { dropout, ..self }
    }

    /// The same with the decoder's weights laid out for writing texts, in as much memory, and without dropout.
    pub fn for_writing(self) -> Self {
        let Self { decoder, head, .. } = self;
        let blocks = decoder.blocks.into_iter().map(Block::for_writing).collect();
        Self { decoder: Stack { blocks, ..decoder }, head: head.for_few_rows(), dropout: 0.0, ..self }
    }

    /// The type of its weights and outputs.
    pub fn kind(&self) -> Kind {
        self.words.kind()
    }

    /// The vectors of words.
    ///
    /// # Shapes
    /// `ids`: `[B, S]`, i64; result: `[B, S, D]`.
    pub fn embed_tokens(&self, ids: &Tensor) -> Tensor {
        Tensor::embedding(&self.words, ids, -1, false, false)
    }

    /// # Shapes
    /// `inputs_embeds`: `[B, S, D]`; `mask`: `[B, S]`, 1 where a position holds something; result: `[B, S, D]`.
    pub fn encode(&self, inputs_embeds: &Tensor, mask: &Tensor) -> Tensor {
        let length = inputs_embeds.size()[1];
        let scores = self.encoder.positions.scores(length, length) + hide(mask, self.kind());
        self.encoder.forward(inputs_embeds, &scores, None, self.dropout)
    }

    /// The decoder's last norm. Texts are padded on the right: the causal order alone keeps padding from what counts.
    ///
    /// # Shapes
    /// `inputs_embeds`: `[B, T, D]`; `encoded`: `[B, S, D]`; `mask`: `[B, S]`; result: `[B, T, D]`.
    pub fn decode(&self, inputs_embeds: &Tensor, encoded: &Tensor, mask: &Tensor) -> Tensor {
        let length = inputs_embeds.size()[1];
        let scores = self.decoder.positions.scores(length, length)
            + causal_mask(length, length, lowest(self.kind()), inputs_embeds);
        self.decoder.forward(inputs_embeds, &scores, Some((encoded, &hide(mask, self.kind()))), self.dropout)
    }

    /// What the decoder sees of the encoder, before it has written anything.
    ///
    /// # Shapes
    /// `encoded`: `[B, S, D]`; `mask`: `[B, S]`.
    pub fn begin(&self, encoded: &Tensor, mask: &Tensor) -> T5Cache {
        let hidden = hide(mask, self.kind());
        let layer = |block: &Block| {
            let (_, cross) = block.cross.as_ref().expect("invariant: every block of the decoder looks at the encoder");
            let kept = [&cross.key.forward(encoded), &cross.value.forward(encoded)];
            (Own::default(), Shared::new(kept, Some(hidden.shallow_clone()), cross.heads))
        };
        T5Cache { layers: self.decoder.blocks.iter().map(layer).collect(), written: 0 }
    }

    /// The decoder's output for one more position of every row.
    ///
    /// # Shapes
    /// `words`: `[R, 1, D]`, `R` a multiple of `B`, the rows of an input side by side; `parents`: `[R]`, the earlier row
    /// that each one continues; result: `[R, D]`.
    pub fn next(&self, words: &Tensor, parents: &Tensor, cache: &mut T5Cache) -> Tensor {
        cache.written += 1;
        let scores = self.decoder.positions.scores(1, cache.written);
        let mut x = words.shallow_clone();
        for (block, (own, shared)) in self.decoder.blocks.iter().zip(&mut cache.layers) {
            let (norm, attention) = &block.attention;
            let [query, key, value] = attention.project(&norm.forward(&x));
            own.push(parents, [&key, &value], attention.heads);
            let look = |shared, own| Look { shared, own, scale: 1.0, heads: attention.heads };
            x = &x + attention.out.forward(&look(None, Some((&*own, Some(&scores)))).forward(&query));
            if let Some((norm, cross)) = &block.cross {
                let query = cross.query.forward(&norm.forward(&x));
                x = &x + cross.out.forward(&look(Some(&*shared), None).forward(&query));
            }
            let (norm, mlp) = &block.mlp;
            x = &x + mlp.forward(&norm.forward(&x), 0.0);
        }
        self.decoder.norm.forward(&x).select(1, 0)
    }

    /// The score of every word as the next one.
    ///
    /// # Shapes
    /// `hidden`: `[…, D]`; result: `[…, W]`.
    pub fn logits(&self, hidden: &Tensor) -> Tensor {
        self.head.forward(hidden)
    }
}

/// What is added to scores: `[B, 1, 1, S]`.
fn hide(mask: &Tensor, kind: Kind) -> Tensor {
    let hidden = mask.eq(0).unsqueeze(1).unsqueeze(1);
    hidden.zeros_like().to_kind(kind).masked_fill(&hidden, lowest(kind))
}

impl Stack {
    fn new(scope: &Scope<'_>, sizes: &T5Sizes, depth: usize, order: Order) -> Result<Self, TrainerError> {
        let blocks = scope.at("block");
        let first = blocks.at(0).at("layer.0.SelfAttention.relative_attention_bias");
        let shape = [sizes.position_buckets as i64, sizes.heads as i64];
        Ok(Self {
            blocks: (0..depth)
                .map(|index| Block::new(&blocks.at(index).at("layer"), sizes, order))
                .collect::<Result<_, _>>()?,
            positions: RelativePositions {
                weight: first.weight("weight", &shape, Init::Normal(STD))?,
                buckets: shape[0],
                max_distance: sizes.max_distance as i64,
                order,
            },
            norm: RmsNorm::new(&scope.at("final_layer_norm"), sizes)?,
        })
    }

    fn forward(&self, x: &Tensor, scores: &Tensor, encoded: Option<(&Tensor, &Tensor)>, p: f64) -> Tensor {
        let mut x = dropout(x.shallow_clone(), p);
        for block in &self.blocks {
            let (norm, attention) = &block.attention;
            let own = norm.forward(&x);
            x = &x + dropout(attention.forward(&own, &own, scores, p), p);
            if let (Some((norm, cross)), Some((encoded, hidden))) = (&block.cross, encoded) {
                x = &x + dropout(cross.forward(&norm.forward(&x), encoded, hidden, p), p);
            }
            let (norm, mlp) = &block.mlp;
            x = &x + dropout(mlp.forward(&norm.forward(&x), p), p);
        }
        dropout(self.norm.forward(&x), p)
    }
}

impl Block {
    fn new(scope: &Scope<'_>, sizes: &T5Sizes, order: Order) -> Result<Self, TrainerError> {
        let norm = |place: usize| RmsNorm::new(&scope.at(place).at("layer_norm"), sizes);
        let attention = |place: usize, name: &str| Attention::new(&scope.at(place).at(name), sizes);
        let last = if order == Order::Causal { 2 } else { 1 };
        Ok(Self {
            attention: (norm(0)?, attention(0, "SelfAttention")?),
            cross: match order {
                Order::Causal => Some((norm(1)?, attention(1, "EncDecAttention")?)),
                Order::Both => None,
            },
            mlp: (norm(last)?, GatedMlp::new(&scope.at(last).at("DenseReluDense"), sizes)?),
        })
    }
}

impl Block {
    fn for_writing(self) -> Self {
        let attention = |(norm, attention): (RmsNorm, Attention)| (norm, attention.for_writing());
        let (norm, GatedMlp { gate, up, down }) = self.mlp;
        let [gate, up, down] = [gate, up, down].map(Linear::for_few_rows);
        Self {
            attention: attention(self.attention),
            cross: self.cross.map(attention),
            mlp: (norm, GatedMlp { gate, up, down }),
        }
    }
}

/// A layer without bias.
fn linear(scope: &Scope<'_>, name: &str, input: i64, output: i64) -> Result<Linear, TrainerError> {
    let std = 1.0 / (input as f64).sqrt();
    Ok(Linear::from_parts(scope.at(name).weight("weight", &[output, input], Init::Normal(std))?, None))
}

impl Attention {
    fn new(scope: &Scope<'_>, sizes: &T5Sizes) -> Result<Self, TrainerError> {
        let (width, inner) = (sizes.hidden_dim as i64, (sizes.heads * sizes.head_dim) as i64);
        Ok(Self {
            query: linear(scope, "q", width, inner)?,
            key: linear(scope, "k", width, inner)?,
            value: linear(scope, "v", width, inner)?,
            out: linear(scope, "o", inner, width)?,
            heads: sizes.heads as i64,
        })
    }

    fn for_writing(self) -> Self {
        let Self { query, key, value, out, heads } = self;
        let [query, key, value, out] = [query, key, value, out].map(Linear::for_few_rows);
        Self { query, key, value, out, heads }
    }

    fn project(&self, x: &Tensor) -> [Tensor; 3] {
        [self.query.forward(x), self.key.forward(x), self.value.forward(x)]
    }

    /// Scores are not divided by the root of the head's width.
    fn forward(&self, x: &Tensor, seen: &Tensor, scores: &Tensor, p: f64) -> Tensor {
        let [query, key, value] = [self.query.forward(x), self.key.forward(seen), self.value.forward(seen)]
            .map(|x| split_heads(&x, self.heads));
        let scores = query.matmul(&key.transpose(2, 3)) + scores;
        let weights = scores.softmax(-1, Kind::Float).to_kind(scores.kind());
        self.out.forward(&merge_heads(&dropout(weights, p).matmul(&value)))
    }
}

impl GatedMlp {
    fn new(scope: &Scope<'_>, sizes: &T5Sizes) -> Result<Self, TrainerError> {
        let (width, inner) = (sizes.hidden_dim as i64, sizes.mlp_dim as i64);
        Ok(Self {
            gate: linear(scope, "wi_0", width, inner)?,
            up: linear(scope, "wi_1", width, inner)?,
            down: linear(scope, "wo", inner, width)?,
        })
    }

    fn forward(&self, x: &Tensor, p: f64) -> Tensor {
        self.down.forward(&dropout(self.gate.forward(x).gelu("none") * self.up.forward(x), p))
    }
}

impl RmsNorm {
    fn new(scope: &Scope<'_>, sizes: &T5Sizes) -> Result<Self, TrainerError> {
        Ok(Self(scope.weight("weight", &[sizes.hidden_dim as i64], Init::Constant(1.0))?))
    }

    fn forward(&self, x: &Tensor) -> Tensor {
        let square = x.to_kind(Kind::Float).square().mean_dim([-1_i64].as_slice(), true, Kind::Float);
        (x * (square + EPS).rsqrt()).to_kind(self.0.kind()) * &self.0
    }
}

impl RelativePositions {
    /// Those of the last `length` of `seen` positions: `[1, heads, length, seen]`.
    fn scores(&self, length: i64, seen: i64) -> Tensor {
        let options = (Kind::Int64, self.weight.device());
        let own = Tensor::arange_start(seen - length, seen, options).unsqueeze(1);
        let distance = Tensor::arange(seen, options).unsqueeze(0) - own;
        let buckets = self.bucket(&distance);
        Tensor::embedding(&self.weight, &buckets, -1, false, false).permute([2, 0, 1]).unsqueeze(0)
    }

    /// The bucket of how far ahead the seen position lies: near ones have buckets of their own, far ones share them by
    /// the logarithm of their distance.
    fn bucket(&self, distance: &Tensor) -> Tensor {
        let (buckets, first, far) = match self.order {
            Order::Both => {
                let half = self.buckets / 2;
                (half, distance.gt(0).to_kind(Kind::Int64) * half, distance.abs())
            }
            Order::Causal => (self.buckets, distance.zeros_like(), -distance.clamp_max(0)),
        };
        let exact = buckets / 2;
        let share = (far.to_kind(Kind::Float) / exact as f64).log() / (self.max_distance as f64 / exact as f64).ln();
        let shared = ((share * (buckets - exact) as f64).to_kind(Kind::Int64) + exact).clamp_max(buckets - 1);
        first + far.where_self(&far.lt(exact), &shared)
    }
}

#[cfg(test)]
mod tests {
    use tch::Device;

    use super::*;

    #[test]
    fn distances_have_the_buckets_of_transformers() {
        let positions = |order| RelativePositions {
            weight: Tensor::zeros([32, 1], (Kind::Float, Device::Cpu)),
            buckets: 32,
            max_distance: 128,
            order,
        };
        let distance = Tensor::from_slice(&[-200_i64, -64, -20, -8, -7, -1, 0, 1, 7, 8, 20, 64, 200]);
        let buckets = |order| Vec::<i64>::try_from(positions(order).bucket(&distance)).unwrap();
        // `T5Attention._relative_position_bucket` of transformers 5.23 for the same distances.
        assert_eq!(buckets(Order::Both), [15, 14, 10, 8, 7, 1, 0, 17, 23, 24, 26, 30, 31]);
        assert_eq!(buckets(Order::Causal), [31, 26, 17, 8, 7, 1, 0, 0, 0, 0, 0, 0, 0]);
    }
}
