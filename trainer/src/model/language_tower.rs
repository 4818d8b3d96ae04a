//! The two families of language models behind one face.

use configs::{Attention, LanguageModelSizes};
use tch::{Kind, Tensor};

use super::opt::Opt;
use super::t5::T5;
use super::tensors::Scope;
use crate::TrainerError;

/// A language model.
#[derive(Debug)]
pub enum LanguageTower {
    /// A decoder.
    Opt(Opt),
    /// An encoder and a decoder.
    T5(T5),
}

impl LanguageTower {
    /// The model whose weights lie in `scope`, which is usually called `language_model`. T5's attention adds to its scores
    /// and is always computed the plain way.
    ///
    /// # Errors
    /// When a weight is missing or has another shape.
    pub fn new(scope: &Scope<'_>, sizes: LanguageModelSizes, kernel: Attention) -> Result<Self, TrainerError> {
        Ok(match sizes {
            LanguageModelSizes::Opt(sizes) => Self::Opt(Opt::new(scope, sizes, kernel)?),
            LanguageModelSizes::T5(sizes) => Self::T5(T5::new(scope, sizes)?),
        })
    }

    /// The same with dropout while it is trained through, as LAVIS leaves it on in stage 2.
    pub fn with_dropout(self, dropout: f64) -> Self {
        match self {
            Self::Opt(model) => Self::Opt(model.with_dropout(dropout)),
            Self::T5(model) => Self::T5(model.with_dropout(dropout)),
        }
    }

    /// The same with weights laid out for writing texts, in as much memory, and without dropout.
    pub fn for_writing(self) -> Self {
        match self {
            Self::Opt(model) => Self::Opt(model.for_writing()),
            Self::T5(model) => Self::T5(model.for_writing()),
        }
    }

    /// The type of its weights and outputs.
    pub fn kind(&self) -> Kind {
        match self {
            Self::Opt(model) => model.kind(),
            Self::T5(model) => model.kind(),
        }
    }

    /// The vectors of words.
    ///
    /// # Shapes
    /// `ids`: `[B, S]`, i64; result: `[B, S, D]`.
    pub fn embed_tokens(&self, ids: &Tensor) -> Tensor {
        match self {
            Self::Opt(model) => model.embed_tokens(ids),
            Self::T5(model) => model.embed_tokens(ids),
        }
    }
}
