//! Texts that a language model writes behind the Q-Former's outputs.
//!
//! Letters: `B` rows, `Q` queries, `D` width.

use tch::{Kind, Tensor, no_grad};

use crate::model::opt::Opt;
use crate::text::{OPT_START, Tokenizer};

/// The most probable next token, again and again.
#[derive(Clone, Copy, Debug)]
pub struct Greedy {
    /// What stands between the queries and the text.
    pub start: i64,
    /// What ends a text.
    pub end: i64,
    /// Tokens that a text has at most.
    pub max_tokens: usize,
}

impl Greedy {
    /// Captions as stage 2 trains them: `</s>` in front, ended by a line feed.
    pub fn captions(tokenizer: &Tokenizer, max_tokens: usize) -> Self {
        Self { start: OPT_START, end: tokenizer.opt_end(), max_tokens }
    }

    /// The tokens written for every row, without `start` and `end`. Rows do not influence each other.
    ///
    /// # Shapes
    /// `prefix`: `[B, Q, D]`, in the type of the model.
    pub fn write(&self, model: &Opt, prefix: &Tensor) -> Vec<Vec<i64>> {
        no_grad(|| self.write_rows(model, prefix))
    }

    fn write_rows(&self, model: &Opt, prefix: &Tensor) -> Vec<Vec<i64>> {
        let rows = prefix.size()[0];
        let mut texts = vec![Vec::new(); rows as usize];
        let mut is_open = vec![true; rows as usize];
        let mut cache = model.cache();
        let start = Tensor::full([rows, 1], self.start, (Kind::Int64, prefix.device()));
        let mut inputs = Tensor::cat(&[prefix, &model.embed_tokens(&start)], 1);
        for _ in 0..self.max_tokens {
            let hidden = model.step(&inputs, None, &mut cache);
            let last = hidden.select(1, hidden.size()[1] - 1);
            let next = model.logits(&last).argmax(-1, false);
            // A row that has ended goes on unheard, so that all rows keep one length.
            let tokens: Vec<i64> = Vec::try_from(&next).expect("invariant: argmax gives one i64 per row");
            for ((text, open), token) in texts.iter_mut().zip(&mut is_open).zip(tokens) {
                *open &= token != self.end;
                if *open {
                    text.push(token);
                }
            }
            if !is_open.contains(&true) {
                break;
            }
            inputs = model.embed_tokens(&next.unsqueeze(1));
        }
        texts
    }
}

#[cfg(test)]
mod tests {
    use configs::{Attention, OptSizes};
    use tch::Device;

    use super::*;
    use crate::model::{Tensors, declare};

    const SIZES: OptSizes =
        OptSizes { vocab_size: 20, max_positions: 32, hidden_dim: 16, depth: 2, heads: 2, mlp_dim: 32 };

    #[test]
    fn a_text_is_what_repeated_forward_passes_choose() {
        let specs = declare(|scope| Opt::new(scope, SIZES, Attention::Math)).unwrap();
        // Starting weights are small, so that one token would win everywhere; these are not.
        let tensors: Tensors =
            Tensors::random(&specs, 5, Device::Cpu).iter().map(|(name, x)| (name.to_owned(), x * 20.0)).collect();
        let model = Opt::new(&tensors.scope(""), SIZES, Attention::Math).unwrap();
        let prefix = model.embed_tokens(&Tensor::arange(12, (Kind::Int64, Device::Cpu)).view([4, 3]));
        let unending = Greedy { start: 2, end: -1, max_tokens: 10 };
        let texts = unending.write(&model, &prefix);
        for (row, text) in texts.iter().enumerate() {
            let mut ids = vec![2];
            for &token in text {
                let prefix = prefix.narrow(0, row as i64, 1);
                let written = model.embed_tokens(&Tensor::from_slice(&ids).unsqueeze(0));
                let hidden = model.forward(&Tensor::cat(&[prefix, written], 1), None);
                let scores = model.logits(&hidden.select(1, hidden.size()[1] - 1));
                assert_eq!(scores.argmax(-1, false).int64_value(&[0]), token);
                ids.push(token);
            }
            assert_eq!(text.len(), 10);
        }
        let end = texts[0][4];
        for (ended, text) in (Greedy { end, ..unending }).write(&model, &prefix).iter().zip(&texts) {
            let length = text.iter().position(|token| *token == end).unwrap_or(text.len());
            assert_eq!(ended, &text[..length]);
        }
    }
}
