//! OPT's decoder in its pre-norm form (all sizes but 350m): ReLU, learned positions, output tied to the word embedding.
//!
//! Letters: `B` rows, `S` positions, `R` rows that continue them, `D` width, `W` words of the vocabulary. Source:
//! transformers `modeling_opt.py`; names are Hugging Face's, below `language_model`.

use configs::{Attention, OptSizes};
use tch::{Kind, Tensor, no_grad};

use super::cache::{Look, Own, Shared};
use super::layers::{AttentionForm, LayerNorm, Linear, Mask, attention, causal_mask, dropout, for_few_rows, lowest};
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

/// What earlier positions left behind.
#[derive(Debug)]
pub struct OptCache {
    layers: Vec<(Shared, Own)>,
    /// Positions that hold something in each input, `[B]`.
    counts: Tensor,
    /// Positions that each row has added.
    added: i64,
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

    /// The same with weights laid out for writing texts, in as much memory, and without dropout.
    pub fn for_writing(self) -> Self {
        let is_shared = self.head.kind() == self.embed_tokens.kind();
        let Self { embed_tokens, head, layers, .. } = self;
        let head = for_few_rows(head);
        let embed_tokens = if is_shared { head.shallow_clone() } else { embed_tokens };
        let layers = layers.into_iter().map(Layer::for_writing).collect();
        Self { embed_tokens, head, layers, dropout: 0.0, ..self }
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
        self.run(inputs_embeds, attention_mask, self.dropout, |_| ())
    }

    /// [`Opt::forward`], each layer's keys and values `[B, S, D]` being shown to `keep`.
    fn run(
        &self,
        inputs_embeds: &Tensor,
        attention_mask: Option<&Tensor>,
        dropout: f64,
        mut keep: impl FnMut([&Tensor; 2]),
    ) -> Tensor {
        let (batch, length, _) = inputs_embeds.size3().expect("invariant: inputs are [B, S, D]");
        let visible = visible(attention_mask, length, inputs_embeds);
        let positions = match attention_mask {
            Some(mask) => positions(mask),
            None => Tensor::arange(length, (Kind::Int64, inputs_embeds.device())).expand([batch, length], false),
        };
        let visible = if attention_mask.is_none() { Mask::Causal(&visible) } else { Mask::Added(&visible) };
        let mut x = inputs_embeds + self.embed_positions(&positions);
        for layer in &self.layers {
            let (next, [key, value]) = layer.forward(&x, visible, dropout);
            keep([&key, &value]);
            x = next;
        }
        self.final_layer_norm.forward(&x)
    }

    /// A loss over the last norm's outputs, with what it sends back to `inputs_embeds`: the layers' activations are not kept but
    /// computed again, one layer at a time, so that memory holds those of one. Its gradient has the bits of [`Opt::forward`]'s.
    ///
    /// # Panics
    /// When the model drops out.
    ///
    /// # Shapes
    /// `inputs_embeds`: `[B, S, D]`, without padding on the left; `loss`: of `[B, S, D]`, a scalar; result: a scalar.
    pub fn recomputed(&self, inputs_embeds: &Tensor, loss: impl Fn(&Tensor) -> Tensor) -> Tensor {
        assert!(self.dropout == 0.0, "invariant: what drops out is not computed again");
        let (batch, length, _) = inputs_embeds.size3().expect("invariant: inputs are [B, S, D]");
        let visible = visible(None, length, inputs_embeds);
        let positions = Tensor::arange(length, (Kind::Int64, inputs_embeds.device())).expand([batch, length], false);
        let layer = |layer: &Layer, x: &Tensor| layer.forward(x, Mask::Causal(&visible), 0.0).0;
        let mut inputs = vec![inputs_embeds.detach() + self.embed_positions(&positions)];
        no_grad(|| self.layers.iter().for_each(|one| inputs.push(layer(one, &inputs[inputs.len() - 1]))));
        let last = inputs.pop().expect("invariant: there is the input itself").set_requires_grad(true);
        let value = loss(&self.final_layer_norm.forward(&last));
        value.backward();
        let mut gradient = last.grad();
        for (one, input) in self.layers.iter().zip(inputs).rev() {
            let input = input.set_requires_grad(true);
            // The gradient of this sum is `gradient`, sent back through the layer.
            (layer(one, &input) * &gradient).sum(gradient.kind()).backward();
            gradient = input.grad();
        }
        // A number of the loss's value, whose gradient with respect to the input is the one that was found.
        let carrier = (inputs_embeds * gradient).sum(Kind::Float);
        value.detach() + (&carrier - carrier.detach())
    }

    /// The score of every word as the next one.
    ///
    /// # Shapes
    /// `hidden`: `[…, D]`; result: `[…, W]`.
    pub fn logits(&self, hidden: &Tensor) -> Tensor {
        hidden.linear(&self.head, None::<&Tensor>)
    }

    /// Reads what texts begin with: the last position's output, and what continuations need of it. Never drops out.
    ///
    /// # Shapes
    /// `inputs_embeds`: `[B, S, D]`, padded on the left; `attention_mask`: `[B, S]`; result: `[B, D]`.
    pub fn begin(&self, inputs_embeds: &Tensor, attention_mask: &Tensor) -> (Tensor, OptCache) {
        let empty = attention_mask.eq(0).view([-1, 1, 1, inputs_embeds.size()[1]]);
        let hidden = empty.zeros_like().to_kind(self.head.kind()).masked_fill(&empty, lowest(self.head.kind()));
        let mut layers = Vec::with_capacity(self.layers.len());
        let output = self.run(inputs_embeds, Some(attention_mask), 0.0, |kept| {
            let heads = self.layers[layers.len()].form.heads;
            layers.push((Shared::new(kept, Some(hidden.shallow_clone()), heads), Own::default()));
        });
        let counts = attention_mask.to_kind(Kind::Int64).sum_dim_intlist([1_i64].as_slice(), false, Kind::Int64);
        (output.select(1, output.size()[1] - 1), OptCache { layers, counts, added: 0 })
    }

    /// The output of one more position of every row. Never drops out.
    ///
    /// # Shapes
    /// `words`: `[R, 1, D]`, `R` a multiple of `B`, the rows of an input side by side; `parents`: `[R]`, the earlier row
    /// that each one continues; result: `[R, D]`.
    pub fn next(&self, words: &Tensor, parents: &Tensor, cache: &mut OptCache) -> Tensor {
        let rows_of_one = words.size()[0] / cache.counts.size()[0];
        let positions = (&cache.counts + cache.added).unsqueeze(1).expand([-1, rows_of_one], false).reshape([-1, 1]);
        let mut x = words + self.embed_positions(&positions);
        for (layer, (shared, own)) in self.layers.iter().zip(&mut cache.layers) {
            let [query, key, value] = layer.project(&x);
            let heads = layer.form.heads;
            own.push(parents, [&key, &value], heads);
            let scale = 1.0 / (query.size()[2] as f64 / heads as f64).sqrt();
            let look = Look { shared: Some(shared), own: Some((own, None)), scale, heads };
            x = layer.finish(&x, &look.forward(&query), 0.0);
        }
        cache.added += 1;
        self.final_layer_norm.forward(&x).select(1, 0)
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

/// What is added to scores: 0 where a position may look, else the type's lowest value.
///
/// # Shapes
/// `mask`: `[B, S]`; result: `[1 or B, 1, S, S]` in the type of `like`.
fn visible(mask: Option<&Tensor>, length: i64, like: &Tensor) -> Tensor {
    let lowest = lowest(like.kind());
    let causal = causal_mask(length, length, lowest, like).view([1, 1, length, length]);
    match mask {
        None => causal,
        Some(mask) => {
            let empty = mask.eq(0).view([-1, 1, 1, length]);
            causal.expand([mask.size()[0], 1, length, length], false).masked_fill(&empty, lowest)
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

    fn for_writing(self) -> Self {
        let Self { qkv, out_proj, fc1, fc2, .. } = self;
        let [qkv, out_proj, fc1, fc2] = [qkv, out_proj, fc1, fc2].map(Linear::for_few_rows);
        Self { qkv, out_proj, fc1, fc2, ..self }
    }

    /// The layer's output, and its keys and values.
    fn forward(&self, x: &Tensor, visible: Mask<'_>, p: f64) -> (Tensor, [Tensor; 2]) {
        let [query, key, value] = self.project(x);
        let attended = attention(&query, &key, &value, visible, self.form);
        (self.finish(x, &attended, p), [key, value])
    }

    fn project(&self, x: &Tensor) -> [Tensor; 3] {
        let qkv = self.qkv.forward(&self.self_attn_layer_norm.forward(x));
        qkv.chunk(3, 2).try_into().expect("invariant: queries, keys and values are equally wide")
    }

    /// What follows attention.
    fn finish(&self, x: &Tensor, attended: &Tensor, p: f64) -> Tensor {
        let x = x + dropout(self.out_proj.forward(attended), p);
        let hidden = self.fc1.forward(&self.final_layer_norm.forward(&x)).relu();
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
        let numbers = |values: &[i64]| Tensor::from_slice(values);
        let (first, mut cache) = model.begin(&embeds.narrow(1, 0, 9), &mask.narrow(1, 0, 9));
        // Each input goes on twice, and rows change their places on the way.
        let twice = numbers(&[0, 0, 1, 1, 2, 2]);
        let mut found = vec![first.index_select(0, &twice)];
        let expected = whole.index_select(0, &twice);
        for place in 9..length {
            let words = embeds.narrow(1, place, 1).index_select(0, &twice);
            let parents = if place == 9 { twice.shallow_clone() } else { numbers(&[1, 0, 2, 2, 5, 4]) };
            found.push(model.next(&words, &parents, &mut cache));
        }
        // The same sums over matrices of other shapes.
        let expected = expected.narrow(1, 8, length - 8);
        assert!(largest_difference(&Tensor::stack(&found, 1), &expected) < 1e-5);
    }
}
