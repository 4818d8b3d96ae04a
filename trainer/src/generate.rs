//! Texts that models write: greedily, by beam search, or drawn.
//!
//! Letters: `B` inputs, `R` rows, as many for each input, `W` words of the vocabulary.

mod beams;
mod scores;
mod writers;

use data_pipeline::rng::{CounterRng, Purpose};
use serde::{Deserialize, Serialize};
use tch::{Device, Kind, Tensor, no_grad};

pub use writers::{OptWriter, QFormerWriter, T5Writer, Writer};

/// How a text is chosen.
#[derive(Clone, Debug, PartialEq)]
pub enum Search {
    /// The most probable next token, again and again.
    Greedy,
    /// Beam search with so many beams.
    Beams(usize),
    /// Every token is drawn.
    Sample {
        /// Scores are divided by it.
        temperature: f64,
        /// Only that many most probable tokens; all for 0.
        top_k: usize,
        /// Only the most probable tokens that together have this probability.
        top_p: f64,
        /// Key of the draws, with the input's own key, the token's place and the text's number.
        seed: u64,
    },
}

/// Whose rules beam search follows where they differ.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Rules {
    /// transformers 4.33, which LAVIS' numbers come from: the start token counts in lengths, and a search may end on the
    /// best candidate of a step even where that one has just ended.
    #[default]
    Lavis,
    /// transformers 5: written tokens count, the end token included, and the best text that goes on decides.
    HuggingFace,
}

/// What is written, and how.
#[derive(Clone, Debug, PartialEq)]
pub struct Decoding {
    /// How a text is chosen.
    pub search: Search,
    /// Whose rules a beam search follows.
    pub rules: Rules,
    /// What ends a text.
    pub end: i64,
    /// Tokens that are written at most, the end token included.
    pub max_tokens: usize,
    /// Tokens that are written before a text may end.
    pub min_tokens: usize,
    /// Divides what speaks for tokens that are there already (CTRL, Keskar et al. 2019); 1 changes nothing.
    pub repetition_penalty: f64,
    /// Exponent of the length by which beams' sums of log probabilities are divided.
    pub length_penalty: f64,
    /// Texts for each input: at most the number of beams, or as many as are to be drawn.
    pub texts: usize,
}

/// A text.
#[derive(Clone, Debug, PartialEq)]
pub struct Written {
    /// Its tokens, without the end token.
    pub tokens: Vec<i64>,
    /// What a beam search ranks it by; the sum of log probabilities over a power of the length. 0 otherwise.
    pub score: f64,
}

impl Decoding {
    /// Greedy, unbounded below, without penalties.
    pub fn greedy(end: i64, max_tokens: usize) -> Self {
        Self {
            search: Search::Greedy,
            rules: Rules::Lavis,
            end,
            max_tokens,
            min_tokens: 0,
            repetition_penalty: 1.0,
            length_penalty: 1.0,
            texts: 1,
        }
    }

    /// The texts of every input, best first. Inputs do not influence each other; draws are keyed by their numbers.
    ///
    /// # Shapes
    /// `seen`: `[B, n]`, the tokens in front that a repetition penalty counts; `n` may be 0.
    pub fn write(&self, writer: &mut dyn Writer, seen: &Tensor) -> Vec<Vec<Written>> {
        let numbers: Vec<u64> = (0..seen.size()[0].unsigned_abs()).collect();
        self.write_keyed(writer, seen, &numbers)
    }

    /// [`Decoding::write`] with draws that are keyed by `keys`, one for each input.
    ///
    /// # Shapes
    /// `seen`: `[B, n]`; `keys`: `B`.
    ///
    /// # Panics
    /// When there is another number of keys.
    pub fn write_keyed(&self, writer: &mut dyn Writer, seen: &Tensor, keys: &[u64]) -> Vec<Vec<Written>> {
        assert_eq!(keys.len() as i64, seen.size()[0], "a key for each input");
        no_grad(|| match &self.search {
            Search::Beams(beams) if *beams > 1 => beams::search(self, *beams, writer, seen),
            _ => self.write_one_by_one(writer, seen, keys),
        })
    }

    fn write_one_by_one(&self, writer: &mut dyn Writer, seen: &Tensor, keys: &[u64]) -> Vec<Vec<Written>> {
        // An input is read once, however many texts are drawn for it: their rows part at the first token.
        let texts_each = if matches!(self.search, Search::Sample { .. }) { self.texts.max(1) } else { 1 };
        let rows = keys.len() * texts_each;
        let options = (Kind::Int64, seen.device());
        let several = |x: &Tensor| x.repeat_interleave_self_int(texts_each as i64, 0, None);
        let mut parents = several(&Tensor::arange(keys.len() as i64, options));
        let mut texts = vec![Vec::new(); rows];
        let mut is_open = vec![true; rows];
        let (mut seen, mut scores) = (several(seen), several(&writer.first()));
        let draw = |seed: u64, row: usize, place: usize| {
            let (key, place, number) = (keys[row / texts_each], place as u64, (row % texts_each) as u64);
            let counters: &[u64] = if number == 0 { &[key, place] } else { &[key, place, number] };
            CounterRng::new(seed, Purpose::Generate, counters).unit()
        };
        for place in 0..self.max_tokens {
            scores = self.adjusted(&scores.to_kind(Kind::Float), &seen, place);
            let next = match &self.search {
                Search::Sample { temperature, top_k, top_p, seed } => {
                    let likely = scores::likely(&(scores / *temperature), *top_k, *top_p);
                    Tensor::from_slice(&likely.draw(|row| draw(*seed, row, place))).to_device(seen.device())
                }
                _ => scores.argmax(-1, false),
            };
            // A row that has ended goes on unheard, so that all rows keep one length.
            let tokens = ids_of(&next);
            for ((text, open), token) in texts.iter_mut().zip(&mut is_open).zip(tokens) {
                *open &= token != self.end;
                if *open {
                    text.push(token);
                }
            }
            if !is_open.contains(&true) || place + 1 == self.max_tokens {
                break;
            }
            seen = Tensor::cat(&[seen, next.unsqueeze(1)], 1);
            scores = writer.next(&next, &parents);
            parents = Tensor::arange(rows as i64, options);
        }
        let mut texts = texts.into_iter().map(|tokens| Written { tokens, score: 0.0 });
        keys.iter().map(|_| texts.by_ref().take(texts_each).collect()).collect()
    }

    /// Scores after the penalty for repetition and the least length, which may be changed in place: they are the largest
    /// tensor of a step.
    ///
    /// # Shapes
    /// `scores`: `[R, W]`, f32; `seen`: `[R, n]`.
    fn adjusted(&self, scores: &Tensor, seen: &Tensor, place: usize) -> Tensor {
        let scores = scores::penalized(scores, seen, self.repetition_penalty);
        if place < self.min_tokens {
            let _ = scores.narrow(1, self.end, 1).fill_(f64::NEG_INFINITY);
        }
        scores
    }
}

fn ids_of(x: &Tensor) -> Vec<i64> {
    Vec::try_from(x.to_device(Device::Cpu).contiguous().view([-1])).expect("invariant: tokens are i64")
}

#[cfg(test)]
mod tests {
    use configs::{Attention, OptSizes};

    use super::*;
    use crate::model::opt::Opt;
    use crate::model::{Tensors, declare};

    const SIZES: OptSizes =
        OptSizes { vocab_size: 20, max_positions: 32, hidden_dim: 16, depth: 2, heads: 2, mlp_dim: 32 };

    /// A decoder with four different beginnings of three words.
    fn opt() -> (Opt, Tensor) {
        let specs = declare(|scope| Opt::new(scope, SIZES, Attention::Math)).unwrap();
        // Starting weights are small, so that one token would win everywhere; these are not.
        let tensors: Tensors =
            Tensors::random(&specs, 5, Device::Cpu).iter().map(|(name, x)| (name.to_owned(), x * 20.0)).collect();
        let model = Opt::new(&tensors.scope(""), SIZES, Attention::Math).unwrap();
        let prefix = model.embed_tokens(&Tensor::arange(12, (Kind::Int64, Device::Cpu)).view([4, 3]));
        (model, prefix)
    }

    fn write(decoding: &Decoding, model: &Opt, prefix: &Tensor) -> Vec<Vec<Written>> {
        let rows = prefix.size()[0];
        let mask = Tensor::ones([rows, prefix.size()[1]], (Kind::Int64, Device::Cpu));
        decoding.write(&mut OptWriter::new(model, prefix, &mask), &Tensor::zeros([rows, 0], (Kind::Int64, Device::Cpu)))
    }

    /// Log probabilities of the token behind a beginning and a text.
    fn log_probabilities(model: &Opt, prefix: &Tensor, text: &[i64]) -> Vec<f64> {
        let written = model.embed_tokens(&Tensor::from_slice(text).view([1, -1]));
        let hidden = model.forward(&Tensor::cat(&[prefix, &written], 1), None);
        let scores = model.logits(&hidden.select(1, hidden.size()[1] - 1)).log_softmax(-1, Kind::Double);
        Vec::try_from(scores.view([-1])).unwrap()
    }

    #[test]
    fn a_text_is_what_repeated_forward_passes_choose() {
        let (model, prefix) = opt();
        let texts = write(&Decoding::greedy(-1, 10), &model, &prefix);
        for (row, text) in texts.iter().enumerate() {
            let tokens = &text[0].tokens;
            for place in 0..tokens.len() {
                let scores = log_probabilities(&model, &prefix.narrow(0, row as i64, 1), &tokens[..place]);
                let best = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
                assert!(scores[tokens[place] as usize] > best - 1e-5);
            }
            assert_eq!(tokens.len(), 10);
        }
        let end = texts[0][0].tokens[4];
        for (ended, text) in write(&Decoding::greedy(end, 10), &model, &prefix).iter().zip(&texts) {
            let text = &text[0].tokens;
            let length = text.iter().position(|token| *token == end).unwrap_or(text.len());
            assert_eq!(ended[0].tokens, text[..length]);
        }
    }

    /// With as many beams as texts can begin, a search over two tokens finds the best of all.
    #[test]
    fn a_wide_search_finds_the_best_text_of_all() {
        let (model, prefix) = opt();
        for rules in [Rules::Lavis, Rules::HuggingFace] {
            let search = Search::Beams(SIZES.vocab_size);
            let decoding = Decoding { search, rules, length_penalty: 0.0, texts: 3, ..Decoding::greedy(-1, 2) };
            for (row, found) in write(&decoding, &model, &prefix).iter().enumerate() {
                let prefix = prefix.narrow(0, row as i64, 1);
                let mut all = Vec::new();
                for (first, sum) in log_probabilities(&model, &prefix, &[]).into_iter().enumerate() {
                    let second = log_probabilities(&model, &prefix, &[first as i64]);
                    all.extend(
                        second.iter().enumerate().map(|(second, p)| (sum + p, vec![first as i64, second as i64])),
                    );
                }
                all.sort_by(|a, b| b.0.total_cmp(&a.0));
                for (found, (sum, tokens)) in found.iter().zip(&all) {
                    assert_eq!(&found.tokens, tokens, "{rules:?}");
                    assert!((found.score - sum).abs() < 1e-4);
                }
                assert_eq!(found.len(), 3);
            }
        }
    }

    #[test]
    fn drawn_texts_depend_on_seed_and_row_only() {
        let (model, prefix) = opt();
        let search = |seed| Search::Sample { temperature: 1.5, top_k: 0, top_p: 0.95, seed };
        let draw = |seed, prefix: &Tensor| {
            write(&Decoding { search: search(seed), ..Decoding::greedy(-1, 12) }, &model, prefix)
        };
        let all = draw(1, &prefix);
        assert_eq!(draw(1, &prefix), all);
        assert_ne!(draw(2, &prefix), all);
        assert_eq!(draw(1, &prefix.narrow(0, 0, 2)), all[..2]);
        // Several texts of an input: the first is the one that is drawn alone, and a key belongs to its input.
        let three = Decoding { search: search(1), texts: 3, ..Decoding::greedy(-1, 12) };
        let several = write(&three, &model, &prefix);
        assert!(several.iter().zip(&all).all(|(several, one)| several.len() == 3 && several[0] == one[0]));
        // Some inputs leave little to draw.
        assert!(several.iter().any(|texts| texts[0] != texts[1] && texts[1] != texts[2] && texts[0] != texts[2]));
        let mask = Tensor::ones([2, 3], (Kind::Int64, Device::Cpu));
        let seen = Tensor::zeros([2, 0], (Kind::Int64, Device::Cpu));
        let last = prefix.narrow(0, 2, 2);
        assert_eq!(three.write_keyed(&mut OptWriter::new(&model, &last, &mask), &seen, &[2, 3]), several[2..]);
        // Drawn coldly, a text is the likeliest one.
        let cold = Search::Sample { temperature: 1e-4, top_k: 0, top_p: 1.0, seed: 1 };
        let cold = write(&Decoding { search: cold, ..Decoding::greedy(-1, 12) }, &model, &prefix);
        assert_eq!(cold, write(&Decoding::greedy(-1, 12), &model, &prefix));
    }
}
