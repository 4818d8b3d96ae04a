//! OPT's decoder in its pre-norm form (all sizes but 350m): ReLU, learned positions, output tied to the word embedding.
//!
//! Letters: `B` rows, `S` positions given, `K` positions known so far, `D` width, `W` words of the vocabulary. Source:
//! transformers `modeling_opt.py`; names are Hugging Face's, below `language_model`.

use configs::{Attention, OptSizes};
use tch::{Kind, Tensor};

use super::layers::{AttentionForm, LayerNorm, Linear, attention, causal_mask, dropout};
use super::tensors::{Init, Scope};
use crate::TrainerError;

/// Rows in front of the position embedding that no position uses (`OPTLearnedPositionalEmbedding`).
const POSITION_OFFSET: i64 = 2;
/// Of every norm.
const EPS: f64 = 1e-5;
/// Standard deviation that embeddings start with (`init_std`).
const STD: f64 = 0.02;

/// The decoder and its output layer.
#[derive(Debug)]
pub struct Opt {
    embed_tokens: Tensor,
    embed_positions: Tensor,
    /// The word embedding in the type of the layers.
    head: Tensor,
    layers: Vec<Layer>,
    final_layer_norm: LayerNorm,
    dropout: f64,
}

/// What earlier positions left behind: the keys and values of every layer, and which positions hold something.
#[derive(Debug)]
pub struct OptCache {
    keys_and_values: Vec<Option<(Tensor, Tensor)>>,
    /// `[B, K]`, 1 where a position holds something.
    mask: Option<Tensor>,
}

impl OptCache {
    /// How many positions are known: `K`.
    pub fn len(&self) -> usize {
        self.mask.as_ref().map_or(0, |mask| mask.size()[1] as usize)
    }

    /// Whether nothing is known yet.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Keeps these rows only, in this order; a row may come several times.
    ///
    /// # Shapes
    /// `rows`: `[B']`, i64.
    pub fn select(&mut self, rows: &Tensor) {
        for (key, value) in self.keys_and_values.iter_mut().flatten() {
            *key = key.index_select(0, rows);
            *value = value.index_select(0, rows);
        }
        self.mask = self.mask.as_ref().map(|mask| mask.index_select(0, rows));
    }
}

impl Opt {
    /// The decoder whose weights lie in `scope`, which is usually called `language_model`. Embeddings may be of a wider
    /// type than the layers.
    ///
    /// # Errors
    /// When a weight is missing or has another shape.
    pub fn new(scope: &Scope<'_>, sizes: OptSizes, kernel: Attention) -> Result<Self, TrainerError> {
        let width = sizes.hidden_dim as i64;
        let decoder = scope.at("model.decoder");
        let rows = sizes.max_positions as i64 + POSITION_OFFSET;
        let embed_tokens =
            decoder.at("embed_tokens").weight("weight", &[sizes.vocab_size as i64, width], Init::Normal(STD))?;
        let embed_positions = decoder.at("embed_positions").weight("weight", &[rows, width], Init::Normal(STD))?;
        let final_layer_norm = LayerNorm::new(&decoder.at("final_layer_norm"), width, EPS)?;
        let layers = decoder.at("layers");
        let layers = (0..sizes.depth)
            .map(|index| Layer::new(&layers.at(index), &sizes, kernel))
            .collect::<Result<Vec<_>, _>>()?;
        let head = embed_tokens.to_kind(layers.first().map_or(embed_tokens.kind(), Layer::kind));
        Ok(Self { embed_tokens, embed_positions, head, layers, final_layer_norm, dropout: 0.0 })
    }

    /// The same with dropout on what every sublayer adds. LAVIS leaves OPT's own (0.1) on in stage 2.
    pub fn with_dropout(self, dropout: f64) -> Self {
        Self { dropout, ..self }
    }

    /// The type of its weights and outputs.
    pub fn kind(&self) -> Kind {
        self.embed_tokens.kind()
    }

    /// The vectors of words.
    ///
    /// # Shapes
    /// `ids`: `[B, S]`, i64; result: `[B, S, D]`.
    pub fn embed_tokens(&self, ids: &Tensor) -> Tensor {
        Tensor::embedding(&self.embed_tokens, ids, -1, false, false).to_kind(self.head.kind())
    }

    /// What the last norm gives. Positions count what the mask holds.
    ///
    /// # Shapes
    /// `inputs_embeds`: `[B, S, D]`; `attention_mask`: `[B, S]`, 1 where a position holds something (all of them when
    /// absent); result: `[B, S, D]`.
    pub fn forward(&self, inputs_embeds: &Tensor, attention_mask: Option<&Tensor>) -> Tensor {
        let (batch, length, _) = inputs_embeds.size3().expect("invariant: inputs are [B, S, D]");
        let visible = visible(attention_mask, length, length, inputs_embeds);
        let positions = match attention_mask {
            Some(mask) => positions(mask),
            None => Tensor::arange(length, (Kind::Int64, inputs_embeds.device())).expand([batch, length], false),
        };
        let mut x = inputs_embeds + self.embed_positions(&positions);
        for layer in &self.layers {
            x = layer.forward(&x, &visible, self.dropout);
        }
        self.final_layer_norm.forward(&x)
    }

    /// The score of every word as the next one.
    ///
    /// # Shapes
    /// `hidden`: `[…, D]`; result: `[…, W]`.
    pub fn logits(&self, hidden: &Tensor) -> Tensor {
        hidden.linear(&self.head, None::<&Tensor>)
    }

    /// A cache that knows nothing.
    pub fn cache(&self) -> OptCache {
        OptCache { keys_and_values: self.layers.iter().map(|_| None).collect(), mask: None }
    }

    /// [`Opt::forward`] for positions that follow those in `cache`, which knows them afterwards. Never drops out.
    ///
    /// # Shapes
    /// `inputs_embeds`: `[B, S, D]`; `attention_mask`: `[B, S]`, of the new positions only; result: `[B, S, D]`.
    pub fn step(&self, inputs_embeds: &Tensor, attention_mask: Option<&Tensor>, cache: &mut OptCache) -> Tensor {
        let (batch, length, _) = inputs_embeds.size3().expect("invariant: inputs are [B, S, D]");
        let device = inputs_embeds.device();
        let new = match attention_mask {
            Some(mask) => mask.to_kind(Kind::Int64),
            None => Tensor::ones([batch, length], (Kind::Int64, device)),
        };
        let mask = match &cache.mask {
            Some(old) => Tensor::cat(&[old, &new], 1),
            None => new,
        };
        let known = mask.size()[1];
        let visible = visible(Some(&mask), length, known, inputs_embeds);
        let positions = positions(&mask).narrow(1, known - length, length);
        let mut x = inputs_embeds + self.embed_positions(&positions);
        for (layer, slot) in self.layers.iter().zip(&mut cache.keys_and_values) {
            x = layer.step(&x, &visible, slot);
        }
        cache.mask = Some(mask);
        self.final_layer_norm.forward(&x)
    }

    fn embed_positions(&self, positions: &Tensor) -> Tensor {
        let rows = positions + POSITION_OFFSET;
        Tensor::embedding(&self.embed_positions, &rows, -1, false, false).to_kind(self.head.kind())
    }
}

/// The position of everything that a mask `[B, K]` holds, counted from 0; -1 elsewhere, as in the reference.
fn positions(mask: &Tensor) -> Tensor {
    let mask = mask.to_kind(Kind::Int64);
    mask.cumsum(1, Kind::Int64) * mask - 1
}

/// What is added to scores: 0 where the last `length` of `known` positions may look, else the type's lowest value.
///
/// # Shapes
/// `mask`: `[B, known]`; result: `[1 or B, 1, length, known]` in the type of `like`.
fn visible(mask: Option<&Tensor>, length: i64, known: i64, like: &Tensor) -> Tensor {
    let lowest = if like.kind() == Kind::Half { -65504.0 } else { -3.38e38 };
    let causal = causal_mask(length, known, lowest, like).view([1, 1, length, known]);
    match mask {
        None => causal,
        Some(mask) => {
            let empty = mask.eq(0).view([-1, 1, 1, known]);
            causal.expand([mask.size()[0], 1, length, known], false).masked_fill(&empty, lowest)
        }
    }
}

/// One layer: attention and feed-forward, each behind a norm and added to its input.
#[derive(Debug)]
struct Layer {
    self_attn_layer_norm: LayerNorm,
    /// Queries, keys and values of one product.
    qkv: Linear,
    out_proj: Linear,
    final_layer_norm: LayerNorm,
    fc1: Linear,
    fc2: Linear,
    form: AttentionForm,
    kind: Kind,
}

impl Layer {
    fn new(scope: &Scope<'_>, sizes: &OptSizes, kernel: Attention) -> Result<Self, TrainerError> {
        let (width, hidden) = (sizes.hidden_dim as i64, sizes.mlp_dim as i64);
        let of_attention = |name: &str| Linear::new(&scope.at("self_attn").at(name), width, width);
        let (query, key, value) = (of_attention("q_proj")?, of_attention("k_proj")?, of_attention("v_proj")?);
        let qkv = Linear::fused(&[query, key, value]);
        Ok(Self {
            self_attn_layer_norm: LayerNorm::new(&scope.at("self_attn_layer_norm"), width, EPS)?,
            kind: qkv.kind(),
            qkv,
            out_proj: of_attention("out_proj")?,
            final_layer_norm: LayerNorm::new(&scope.at("final_layer_norm"), width, EPS)?,
            fc1: Linear::new(&scope.at("fc1"), width, hidden)?,
            fc2: Linear::new(&scope.at("fc2"), hidden, width)?,
            form: AttentionForm { heads: sizes.heads as i64, kernel, dropout: 0.0 },
        })
    }

    fn kind(&self) -> Kind {
        self.kind
    }

    fn forward(&self, x: &Tensor, visible: &Tensor, p: f64) -> Tensor {
        let qkv = self.qkv.forward(&self.self_attn_layer_norm.forward(x)).chunk(3, -1);
        let attended = attention(&qkv[0], &qkv[1], &qkv[2], Some(visible), self.form);
        self.feed_forward(&(x + dropout(self.out_proj.forward(&attended), p)), p)
    }

    fn step(&self, x: &Tensor, visible: &Tensor, known: &mut Option<(Tensor, Tensor)>) -> Tensor {
        let qkv = self.qkv.forward(&self.self_attn_layer_norm.forward(x)).chunk(3, -1);
        let (key, value) = match known.take() {
            Some((key, value)) => (Tensor::cat(&[&key, &qkv[1]], 1), Tensor::cat(&[&value, &qkv[2]], 1)),
            None => (qkv[1].contiguous(), qkv[2].contiguous()),
        };
        let attended = attention(&qkv[0], &key, &value, Some(visible), self.form);
        *known = Some((key, value));
        self.feed_forward(&(x + self.out_proj.forward(&attended)), 0.0)
    }

    fn feed_forward(&self, x: &Tensor, p: f64) -> Tensor {
        let hidden = self.fc1.forward(&self.final_layer_norm.forward(x)).relu();
        x + dropout(self.fc2.forward(&hidden), p)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Tensors;
    use crate::model::eva_vit::largest_difference;
    use crate::weight_names::lavis_to_hf;
    use crate::weights_file::tensors_from_bytes;

    fn fixture(name: &str) -> Tensors {
        let path = format!("{}/../tests/fixtures/lavis_stage2_opt/{name}.safetensors", env!("CARGO_MANIFEST_DIR"));
        tensors_from_bytes(&std::fs::read(&path).unwrap(), &path).unwrap()
    }

    fn model(kernel: Attention) -> Opt {
        let sizes = OptSizes { vocab_size: 340, max_positions: 96, hidden_dim: 48, depth: 2, heads: 4, mlp_dim: 96 };
        let lavis = fixture("weights");
        let weights: Tensors =
            lavis.iter().filter_map(|(name, x)| Some((lavis_to_hf(name)?, x.shallow_clone()))).collect();
        Opt::new(&weights.scope("language_model"), sizes, kernel).unwrap()
    }

    /// Differences at positions that hold something; the others mean nothing.
    fn difference_where(mask: &Tensor, a: &Tensor, b: &Tensor) -> f64 {
        let mask = mask.unsqueeze(-1).to_kind(Kind::Float);
        largest_difference(&(a * &mask), &(b * &mask))
    }

    #[test]
    fn logits_equal_the_reference() {
        let io = fixture("io");
        for kernel in [Attention::Math, Attention::Flash] {
            let model = model(kernel);
            for case in ["caption", "caption_truncated", "caption_prompt"] {
                let given = |name: &str| io.get(&format!("{case}.{name}")).unwrap();
                let mask = given("lm_attention_mask");
                let logits = model.logits(&model.forward(given("inputs_embeds"), Some(mask)));
                // f32 with sums in another order; the fixture's own tolerance.
                assert!(difference_where(mask, &logits, given("logits")) < 2e-5, "{case} {kernel:?}");
            }
            let ids = io.get("caption.input_ids").unwrap();
            let embedded = io.get("caption.inputs_embeds").unwrap().narrow(1, 5, ids.size()[1]);
            assert_eq!(largest_difference(&model.embed_tokens(ids), &embedded), 0.0);
        }
    }

    #[test]
    fn steps_with_a_cache_equal_the_whole() {
        let io = fixture("io");
        let model = model(Attention::Math);
        let embeds = io.get("caption.inputs_embeds").unwrap();
        let length = embeds.size()[1];
        // Left padding as for questions behind the queries: holes in the middle.
        let mask = Tensor::ones([3, length], (Kind::Int64, embeds.device()));
        let _ = mask.get(1).narrow(0, 5, 3).fill_(0);
        let whole = model.forward(embeds, Some(&mask));
        let mut cache = model.cache();
        assert!(cache.is_empty());
        let mut parts = Vec::new();
        for (start, count) in [(0, 9), (9, 1), (10, 1), (11, length - 11)] {
            let new = mask.narrow(1, start, count);
            parts.push(model.step(&embeds.narrow(1, start, count), Some(&new), &mut cache));
        }
        assert_eq!(cache.len() as i64, length);
        // The same sums over matrices of other shapes.
        assert!(difference_where(&mask, &Tensor::cat(&parts, 1), &whole) < 1e-5);
        cache.select(&Tensor::from_slice(&[2_i64, 2]));
        let next = embeds.narrow(1, 0, 1).index_select(0, &Tensor::from_slice(&[2_i64, 2]));
        assert_eq!(model.step(&next, None, &mut cache).size(), [2, 1, 48]);
    }
}
