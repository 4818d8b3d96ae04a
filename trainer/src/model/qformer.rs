//! The Q-Former: BERT with learned queries that look at an image (paper section 3.1, LAVIS `Qformer.py`).
//!
//! Letters: `B` images or texts, `Q` queries, `T` text positions, `P` visual tokens, `V` their width, `H` hidden width, `M`
//! positions that count, without padding. Weights have the names of Hugging Face's `Blip2ForImageTextRetrieval`.

use configs::{Attention, QFormer as Sizes};
use tch::{Device, Kind, Tensor};

use super::cache::{Look, Own, Shared};
pub use super::cross_attention::ImageKeyValues;
use super::cross_attention::{CrossAttention, Looked};
use super::layers::{AttentionForm, LayerNorm, Linear, Mask, attention, causal_mask, dropout};
use super::packing::Layout;
use super::tensors::{Init, Scope};
use crate::TrainerError;
use crate::device::upload;

/// LayerNorm epsilon of BERT.
pub(crate) const EPS: f64 = 1e-12;
/// What is added to the score of a position that must not be seen (LAVIS `Qformer.py`); its weight is exactly 0.
const HIDDEN: f64 = -10_000.0;
/// Standard deviation that embeddings start with (BERT's `initializer_range`); a norm follows them.
const STD: f64 = 0.02;

/// Standard deviation that matrices start with: BERT's 0.02 at its width of 768, more where a narrower layer sums over
/// fewer inputs. At the demo's width of 128 ITM leaves the loss of a constant answer about 50 steps sooner than with 0.02
/// (docs/decisions/007).
pub(crate) fn start_std(hidden: i64) -> f64 {
    STD * (768.0 / hidden as f64).sqrt()
}

/// Whether the text parts are there: stage 2 leaves them out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TextParts {
    /// Word embeddings and the feed-forward parts of text positions.
    Present,
    /// Queries only.
    Absent,
}

/// The Q-Former with its query tokens and embeddings.
#[derive(Debug)]
pub struct QFormer {
    query_tokens: Tensor,
    embedding_norm: LayerNorm,
    embeddings: Option<Embeddings>,
    layers: Vec<Layer>,
    dropout: f64,
    /// Type of all activations.
    pub kind: Kind,
}

#[derive(Debug)]
struct Embeddings {
    words: Tensor,
    positions: Tensor,
}

#[derive(Debug)]
struct Layer {
    attention: SelfAttention,
    cross: Option<CrossAttention>,
    query_mlp: Mlp,
    text_mlp: Option<Mlp>,
}

#[derive(Debug)]
struct SelfAttention {
    qkv: Linear,
    out: Output,
    form: AttentionForm,
}

#[derive(Debug)]
struct Mlp {
    up: Linear,
    out: Output,
}

/// Projection, dropout, residual, norm: how every part of a BERT layer ends.
#[derive(Debug)]
pub(super) struct Output {
    dense: Linear,
    norm: LayerNorm,
    dropout: f64,
}

/// Keys and values of one layer's self-attention.
#[derive(Debug)]
pub struct KeyValue {
    key: Tensor,
    value: Tensor,
}

/// What the query pass leaves behind.
#[derive(Debug)]
pub struct QueryPass {
    /// `[B, Q, H]`.
    pub hidden: Tensor,
    /// One per layer, for [`QFormer::grounded`].
    pub cache: Vec<KeyValue>,
}

/// What written words left behind.
#[derive(Debug)]
pub struct TextCache {
    layers: Vec<(Shared, Own)>,
    written: i64,
}

impl QFormer {
    /// Takes the weights from a scope; `training` turns dropout on.
    ///
    /// # Errors
    /// When a weight is missing or has another shape.
    pub fn new(scope: &Scope<'_>, sizes: &Sizes, image_width: i64, build: Build) -> Result<Self, TrainerError> {
        let hidden = sizes.hidden_dim as i64;
        let p = if build.training { sizes.dropout } else { 0.0 };
        let embeddings = match build.text {
            TextParts::Absent => None,
            TextParts::Present => {
                let table = |name: &str, rows: usize| {
                    scope.at("embeddings").at(name).master("weight", &[rows as i64, hidden], Init::Normal(STD))
                };
                Some(Embeddings {
                    words: table("word_embeddings", sizes.vocab_size)?,
                    positions: table("position_embeddings", sizes.max_positions)?,
                })
            }
        };
        let layer = |i: usize| Layer::new(&scope.at("qformer.encoder.layer").at(i), sizes, image_width, build, i);
        Ok(Self {
            query_tokens: scope.master(
                "query_tokens",
                &[1, sizes.num_query_tokens as i64, hidden],
                Init::Normal(STD),
            )?,
            embedding_norm: LayerNorm::new(&scope.at("qformer.layernorm"), hidden, EPS)?,
            embeddings,
            layers: (0..sizes.depth).map(layer).collect::<Result<_, _>>()?,
            dropout: p,
            kind: build.kind,
        })
    }

    /// Queries per image.
    pub fn num_queries(&self) -> i64 {
        self.query_tokens.size()[1]
    }

    /// The word embeddings, which the captioning head shares.
    ///
    /// # Panics
    /// When the text parts are absent.
    pub fn words(&self) -> &Tensor {
        &self.text_embeddings().words
    }

    fn text_embeddings(&self) -> &Embeddings {
        self.embeddings.as_ref().expect("invariant: only stage 1 passes text, and it builds the text parts")
    }

    /// # Shapes
    /// `image`: `[B, P, V]`, after `ln_vision`.
    pub fn image_key_values(&self, image: &Tensor) -> ImageKeyValues {
        let project = |layer: &Layer| layer.cross.as_ref().map(|cross| cross.key_values(image));
        ImageKeyValues::of(self.layers.iter().map(project).collect())
    }

    /// The queries look at the images: for ITC and stage 2.
    pub fn queries(&self, image: &ImageKeyValues, rows: i64) -> QueryPass {
        let layout = Layout::queries(rows, self.num_queries());
        let (hidden, cache) =
            self.run(&self.embed(&layout, None), &layout, Seen { image: Some(image), ..Seen::default() });
        QueryPass { hidden: layout.unpack(&hidden), cache }
    }

    /// Texts alone, every position seeing every other one of its text: for ITC.
    ///
    /// # Shapes
    /// `ids`: `[B, T]`; `mask`: `[B, T]`, 1 for tokens and 0 for padding; result: the first position of each, `[B, H]`.
    pub fn text(&self, ids: &Tensor, mask: &Tensor) -> Tensor {
        let layout = Layout::texts(mask, 0, ids.device());
        let hidden = self.hide(mask, ids.device()).unsqueeze(1).unsqueeze(1);
        let seen = Seen { mask: Some(&hidden), wanted: Some(1), ..Seen::default() };
        self.run(&self.embed(&layout, Some(ids)), &layout, seen).0
    }

    /// Queries and text together, each seeing all of both: for ITM.
    ///
    /// # Shapes
    /// `ids`, `mask`: `[B, T]`; result: the queries' part, `[B, Q, H]`.
    pub fn joint(&self, image: &ImageKeyValues, ids: &Tensor, mask: &Tensor) -> Tensor {
        let (rows, queries) = (ids.size()[0], self.num_queries());
        let layout = Layout::texts(mask, queries, ids.device());
        let shown = Tensor::zeros([rows, queries], (self.kind, ids.device()));
        let mask = Tensor::cat(&[shown, self.hide(mask, ids.device())], 1).unsqueeze(1).unsqueeze(1);
        let seen = Seen { mask: Some(&mask), image: Some(image), wanted: Some(queries), ..Seen::default() };
        self.run(&self.embed(&layout, Some(ids)), &layout, seen).0.view([rows, queries, -1])
    }

    /// Texts that see all queries, through the keys and values of [`QFormer::queries`], and what stands before
    /// themselves: for ITG.
    ///
    /// Text is padded on the right, so the causal order alone keeps padding from every position that counts.
    ///
    /// # Shapes
    /// `ids`: `[B, T]`; `layout`: of texts alone; result: `[M, H]`.
    pub fn grounded(&self, ids: &Tensor, layout: &Layout, past: &[KeyValue]) -> Tensor {
        let length = ids.size()[1];
        let x = self.embed(layout, Some(ids));
        let mask = causal_mask(length, self.num_queries() + length, HIDDEN, &x);
        self.run(&x, layout, Seen { mask: Some(&mask), past: Some(past), ..Seen::default() }).0
    }

    /// What a text that is written sees of the queries, before its first word.
    ///
    /// # Shapes
    /// `past`: as [`QFormer::queries`] leaves it.
    pub fn begin(&self, past: &[KeyValue]) -> TextCache {
        let shared = |(layer, past): (&Layer, &KeyValue)| {
            (Shared::new([&past.key, &past.value], None, layer.attention.form.heads), Own::default())
        };
        TextCache { layers: self.layers.iter().zip(past).map(shared).collect(), written: 0 }
    }

    /// The output at one more word of every row, as [`QFormer::grounded`] gives it.
    ///
    /// # Shapes
    /// `ids`: `[R]`, `R` a multiple of the images, the rows of an image side by side; `parents`: `[R]`, the earlier row
    /// that each one continues; result: `[R, H]`.
    pub fn next(&self, ids: &Tensor, parents: &Tensor, cache: &mut TextCache) -> Tensor {
        let Embeddings { words, positions } = self.text_embeddings();
        let embedded = Tensor::embedding(words, ids, -1, false, false) + positions.get(cache.written);
        let mut x = self.embedding_norm.forward(&embedded.to_kind(self.kind));
        for (layer, (shared, own)) in self.layers.iter().zip(&mut cache.layers) {
            let [query, key, value] = thirds(&layer.attention.qkv.forward(&x.unsqueeze(1)));
            let heads = layer.attention.form.heads;
            own.push(parents, [&key, &value], heads);
            let scale = 1.0 / (query.size()[2] as f64 / heads as f64).sqrt();
            let look = Look { shared: Some(shared), own: Some((own, None)), scale, heads };
            x = layer.forward(&layer.attention.out.forward(&look.forward(&query).select(1, 0), &x), 0, None);
        }
        cache.written += 1;
        x
    }

    /// `[B, T]` of what is added to scores.
    fn hide(&self, mask: &Tensor, device: Device) -> Tensor {
        upload(&((mask - 1).to_kind(self.kind) * -HIDDEN), device)
    }

    /// Queries, then text; one norm over both (LAVIS `BertEmbeddings`: no token types, no positions for queries).
    ///
    /// # Shapes
    /// `ids`: `[B, T]`; result: `[M, H]`.
    fn embed(&self, layout: &Layout, ids: Option<&Tensor>) -> Tensor {
        let queries =
            (layout.queries > 0).then(|| self.query_tokens.expand([layout.rows, -1, -1], false).flatten(0, 1));
        let words = ids.map(|ids| {
            let Embeddings { words, positions } = self.text_embeddings();
            let of = |table: &Tensor, rows: &Tensor| Tensor::embedding(table, rows, -1, false, false);
            of(words, &layout.words(ids, 0)) + of(positions, &layout.positions())
        });
        let parts: Vec<Tensor> = [queries, words].into_iter().flatten().collect();
        dropout(self.embedding_norm.forward(&Tensor::cat(&parts, 0).to_kind(self.kind)), self.dropout)
    }

    /// # Shapes
    /// `x`: `[M, H]`; result: the same, or the wanted positions, `[B · wanted, H]`.
    fn run(&self, x: &Tensor, layout: &Layout, seen: Seen<'_>) -> (Tensor, Vec<KeyValue>) {
        let mut x = x.shallow_clone();
        let mut cache = Vec::with_capacity(self.layers.len());
        for (i, layer) in self.layers.iter().enumerate() {
            let wanted = seen.wanted.filter(|_| i + 1 == self.layers.len());
            let images = seen.image.and_then(|images| images.layer(i));
            let attended = layer.attention.forward(&x, layout, seen.mask, seen.past.map(|past| &past[i]), wanted);
            x = layer.forward(&attended.0, layout.rows * layout.queries, images.as_deref());
            cache.push(attended.1);
        }
        (x, cache)
    }
}

/// What positions see besides each other, and which of them are wanted in the end.
#[derive(Clone, Copy, Default)]
struct Seen<'a> {
    /// Added to the scores of self-attention.
    mask: Option<&'a Tensor>,
    /// What queries see of images.
    image: Option<&'a ImageKeyValues>,
    /// Keys and values, layer by layer, that stand before a text's own.
    past: Option<&'a [KeyValue]>,
    /// The first positions of each row that are wanted; all when none. The last layer computes no others.
    wanted: Option<i64>,
}

/// How a Q-Former is built.
#[derive(Clone, Copy, Debug)]
pub struct Build {
    /// Whether the text parts are there.
    pub text: TextParts,
    /// How attention is computed.
    pub attention: Attention,
    /// Type of activations.
    pub kind: Kind,
    /// Whether dropout is on.
    pub training: bool,
}

impl Layer {
    fn new(
        scope: &Scope<'_>,
        sizes: &Sizes,
        image_width: i64,
        build: Build,
        index: usize,
    ) -> Result<Self, TrainerError> {
        let p = if build.training { sizes.dropout } else { 0.0 };
        let hidden = sizes.hidden_dim as i64;
        let mlp = |up: &str, down: &str| Mlp::new(scope, [up, down], hidden, sizes.mlp_dim as i64, p);
        let form = AttentionForm { heads: sizes.heads as i64, kernel: build.attention, dropout: p };
        let crosses = index.is_multiple_of(sizes.cross_attention_every);
        Ok(Self {
            attention: SelfAttention::new(&scope.at("attention"), hidden, form)?,
            cross: match crosses {
                true => Some(CrossAttention::new(&scope.at("crossattention"), hidden, image_width, form)?),
                false => None,
            },
            query_mlp: mlp("intermediate_query", "output_query")?,
            text_mlp: match build.text {
                TextParts::Present => Some(mlp("intermediate", "output")?),
                TextParts::Absent => None,
            },
        })
    }

    /// What follows self-attention.
    ///
    /// # Shapes
    /// `x`: `[M, H]`, the first `queries` of them queries; result: the same.
    fn forward(&self, x: &Tensor, queries: i64, images: Option<&[Looked<'_>]>) -> Tensor {
        let texts = x.size()[0] - queries;
        let mut parts = Vec::with_capacity(2);
        if queries > 0 {
            let queries = x.narrow(0, 0, queries);
            let looked = match (&self.cross, images) {
                (Some(cross), Some(images)) => cross.forward(&queries, images),
                _ => queries,
            };
            parts.push(self.query_mlp.forward(&looked));
        }
        if texts > 0 {
            let mlp = self.text_mlp.as_ref().expect("invariant: only a Q-Former with text parts is given text");
            parts.push(mlp.forward(&x.narrow(0, queries, texts)));
        }
        if parts.len() == 1 { parts.remove(0) } else { Tensor::cat(&parts, 0) }
    }
}

/// A linear layer of a Q-Former of width `hidden` with its starting values.
pub(crate) fn starting(scope: &Scope<'_>, input: i64, output: i64, hidden: i64) -> Result<Linear, TrainerError> {
    Linear::with_init(scope, input, output, Init::Normal(start_std(hidden)), Init::Constant(0.0))
}

impl SelfAttention {
    fn new(scope: &Scope<'_>, hidden: i64, form: AttentionForm) -> Result<Self, TrainerError> {
        let part = |name: &str| starting(&scope.at("attention").at(name), hidden, hidden, hidden);
        Ok(Self {
            qkv: Linear::fused(&[part("query")?, part("key")?, part("value")?]),
            out: Output::new(&scope.at("output"), hidden, hidden, form.dropout)?,
            form,
        })
    }

    /// # Shapes
    /// `x`: `[M, H]`; result: the same, or `[B · wanted, H]`, and keys and values `[B, S, H]`.
    fn forward(
        &self,
        x: &Tensor,
        layout: &Layout,
        mask: Option<&Tensor>,
        past: Option<&KeyValue>,
        wanted: Option<i64>,
    ) -> (Tensor, KeyValue) {
        let [query, key, value] = thirds(&layout.unpack(&self.qkv.forward(x)));
        let all = past.map(|past| (Tensor::cat(&[&past.key, &key], 1), Tensor::cat(&[&past.value, &value], 1)));
        let (all_keys, all_values) = all.unwrap_or_else(|| (key.shallow_clone(), value.shallow_clone()));
        let mask = mask.map_or(Mask::Open, Mask::Added);
        let out = match wanted {
            None => self.out.forward(&layout.pack(&attention(&query, &all_keys, &all_values, mask, self.form)), x),
            Some(wanted) => {
                let query = query.narrow(1, 0, wanted);
                let seen = attention(&query, &all_keys, &all_values, mask, self.form);
                self.out.forward(&seen.flatten(0, 1), &layout.first(x, wanted))
            }
        };
        (out, KeyValue { key, value })
    }
}

fn thirds(x: &Tensor) -> [Tensor; 3] {
    // One operation: its gradient puts the thirds side by side, where three cuts would add three tensors that are mostly 0.
    x.chunk(3, 2).try_into().expect("invariant: queries, keys and values are equally wide")
}

impl Mlp {
    fn new(scope: &Scope<'_>, names: [&str; 2], hidden: i64, inner: i64, p: f64) -> Result<Self, TrainerError> {
        let [up, down] = names;
        Ok(Self {
            up: starting(&scope.at(up).at("dense"), hidden, inner, hidden)?,
            out: Output::new(&scope.at(down), inner, hidden, p)?,
        })
    }

    fn forward(&self, x: &Tensor) -> Tensor {
        self.out.forward(&self.up.forward(x).gelu("none"), x)
    }
}

impl Output {
    pub(super) fn new(scope: &Scope<'_>, input: i64, hidden: i64, dropout: f64) -> Result<Self, TrainerError> {
        let dense = starting(&scope.at("dense"), input, hidden, hidden)?;
        Ok(Self { dense, norm: LayerNorm::new(&scope.at("LayerNorm"), hidden, EPS)?, dropout })
    }

    pub(super) fn forward(&self, x: &Tensor, residual: &Tensor) -> Tensor {
        self.norm.forward(&(dropout(self.dense.forward(x), self.dropout) + residual))
    }
}
