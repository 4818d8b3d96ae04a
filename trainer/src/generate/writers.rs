//! The models that write, behind one face.

use tch::{Kind, Tensor};

use crate::model::opt::{Opt, OptCache};
use crate::model::qformer::TextCache;
use crate::model::t5::{T5, T5Cache};
use crate::stage1::Stage1;

/// A model that scores next tokens.
pub trait Writer {
    /// Scores of each input's first token, `[B, W]`. Called once, before anything else.
    fn first(&mut self) -> Tensor;

    /// Scores of the token behind one more token of every row, `[R, W]`.
    ///
    /// # Shapes
    /// `tokens`: `[R]`, `R` a multiple of `B`, the rows of an input side by side; `parents`: `[R]`, the earlier row that
    /// each one continues.
    fn next(&mut self, tokens: &Tensor, parents: &Tensor) -> Tensor;
}

/// OPT behind a soft prompt and a text.
#[derive(Debug)]
pub struct OptWriter<'m> {
    model: &'m Opt,
    first: Tensor,
    cache: OptCache,
}

impl<'m> OptWriter<'m> {
    /// # Shapes
    /// `inputs_embeds`: `[B, S, D]`, in the type of the model; `attention_mask`: `[B, S]`; the last position of every row
    /// holds something.
    pub fn new(model: &'m Opt, inputs_embeds: &Tensor, attention_mask: &Tensor) -> Self {
        let (last, cache) = model.begin(inputs_embeds, attention_mask);
        Self { model, first: model.logits(&last), cache }
    }
}

impl Writer for OptWriter<'_> {
    fn first(&mut self) -> Tensor {
        self.first.shallow_clone()
    }

    fn next(&mut self, tokens: &Tensor, parents: &Tensor) -> Tensor {
        let words = self.model.embed_tokens(&tokens.unsqueeze(1));
        self.model.logits(&self.model.next(&words, parents, &mut self.cache))
    }
}

/// T5's decoder.
#[derive(Debug)]
pub struct T5Writer<'m> {
    model: &'m T5,
    start: Tensor,
    cache: T5Cache,
}

impl<'m> T5Writer<'m> {
    /// A decoder that starts with the token `start`.
    ///
    /// # Shapes
    /// `inputs_embeds`: `[B, S, D]`, what the encoder reads; `attention_mask`: `[B, S]`.
    pub fn new(model: &'m T5, inputs_embeds: &Tensor, attention_mask: &Tensor, start: i64) -> Self {
        let cache = model.begin(&model.encode(inputs_embeds, attention_mask), attention_mask);
        let start = Tensor::full([inputs_embeds.size()[0]], start, (Kind::Int64, inputs_embeds.device()));
        Self { model, start, cache }
    }
}

impl Writer for T5Writer<'_> {
    fn first(&mut self) -> Tensor {
        let start = self.start.shallow_clone();
        self.next(&start, &start)
    }

    fn next(&mut self, tokens: &Tensor, parents: &Tensor) -> Tensor {
        let words = self.model.embed_tokens(&tokens.unsqueeze(1));
        self.model.logits(&self.model.next(&words, parents, &mut self.cache))
    }
}

/// The Q-Former of stage 1.
#[derive(Debug)]
pub struct QFormerWriter<'m> {
    stage1: &'m Stage1,
    start: Tensor,
    cache: TextCache,
}

impl<'m> QFormerWriter<'m> {
    /// Captions that start with the token `start`.
    ///
    /// # Shapes
    /// `patches`: `[B, P, V]`.
    pub fn new(stage1: &'m Stage1, patches: &Tensor, start: i64) -> Self {
        let start = Tensor::full([patches.size()[0]], start, (Kind::Int64, patches.device()));
        Self { stage1, start, cache: stage1.begin_captions(patches) }
    }
}

impl Writer for QFormerWriter<'_> {
    fn first(&mut self) -> Tensor {
        let start = self.start.shallow_clone();
        self.next(&start, &start)
    }

    fn next(&mut self, tokens: &Tensor, parents: &Tensor) -> Tensor {
        self.stage1.next_word_logits(tokens, parents, &mut self.cache)
    }
}
