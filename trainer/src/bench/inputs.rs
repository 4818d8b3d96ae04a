//! Random pixels and words of the right shape.

use std::ops::Range;

use configs::LanguageModelSizes;
use data_pipeline::rng::{CounterRng, Purpose};
use tch::{Device, Kind, Tensor};

use super::Bench;
use crate::generator::seeded;
use crate::stage1::Text;
use crate::stage2::Words;

/// Batches that are made before and used in turns.
const BATCHES: u64 = 4;
/// Shortest caption with its special tokens.
const SHORTEST: u64 = 6;

/// The special tokens of a tokenizer, and the words between which none is special.
#[derive(Clone)]
struct Marks {
    first: Option<i64>,
    last: i64,
    pad: i64,
    words: Range<u64>,
}

impl Marks {
    /// As in the PyTorch program: BERT's marks around words.
    fn of_bert(vocab_size: usize) -> Self {
        Self { first: Some(101), last: 102, pad: 0, words: 1000..30_521 }.within(vocab_size)
    }

    /// OPT's.
    fn of_opt(vocab_size: usize) -> Self {
        Self { first: Some(2), last: 50_118, pad: 1, words: 1000..50_270 }.within(vocab_size)
    }

    /// T5's, which begin with a word.
    fn of_t5(vocab_size: usize) -> Self {
        Self { first: None, last: 1, pad: 0, words: 1000..32_000 }.within(vocab_size)
    }

    /// The same, or others where a vocabulary is smaller than the published one.
    fn within(self, vocab_size: usize) -> Self {
        let vocab_size = vocab_size as u64;
        match vocab_size >= self.words.end {
            true => self,
            false => Self { first: self.first.map(|_| 2), last: 3, words: 4..vocab_size.max(5), ..self },
        }
    }
}

impl Bench<'_> {
    /// Pixels and captions of a slice of a step.
    pub(super) fn inputs(&self, step: u64, slice: usize) -> (Tensor, Words) {
        let rng = |slice: usize| CounterRng::new(1, Purpose::Inspect, &[step % BATCHES, slice as u64]);
        let (rows, limit) = (self.options.batch / self.options.slices, self.options.text_tokens);
        let shortest = SHORTEST.min(limit as u64);
        let lengths_of = |rng: &mut CounterRng| -> Vec<usize> {
            let drawn = |rng: &mut CounterRng| (shortest + rng.below(limit as u64 - shortest + 1)) as usize;
            (0..rows).map(|_| if self.options.fixed_text { limit } else { drawn(rng) }).collect()
        };
        // All slices are padded alike: to the longest text of the batch.
        let longest = (0..self.options.slices).flat_map(|slice| lengths_of(&mut rng(slice))).max().unwrap_or(limit);
        let padded = if self.options.pad_to_limit { limit } else { longest };
        let mut rng = rng(slice);
        let lengths = lengths_of(&mut rng);
        let side = self.run.data.image_size as i64;
        let generator = seeded(rng.next_u64().cast_signed());
        let pixels = Tensor::randn([rows as i64, 3, side, side], (Kind::Float, self.options.device));
        drop(generator);
        (pixels, self.words(&lengths, padded, &mut rng))
    }

    /// Words of captions of these lengths, as the stage's model is given them.
    fn words(&self, lengths: &[usize], padded: usize, rng: &mut CounterRng) -> Words {
        let of_bert = Marks::of_bert(self.run.model.qformer.vocab_size);
        let words: Words = match (self.options.stage, self.run.model.language_model.sizes()) {
            (1, _) => self.text(lengths, padded, &of_bert, rng).into(),
            (_, LanguageModelSizes::Opt(sizes)) => {
                self.text(lengths, padded, &Marks::of_opt(sizes.vocab_size), rng).into()
            }
            // A caption's beginning for T5's encoder, the rest for its decoder.
            (_, LanguageModelSizes::T5(sizes)) => {
                let (marks, limit) = (Marks::of_t5(sizes.vocab_size), self.options.text_tokens);
                let cut = |length: &usize| match self.options.fixed_text {
                    true => length / 4,
                    false => 1 + rng.below(*length as u64 / 2) as usize,
                };
                let given: Vec<usize> = lengths.iter().map(cut).collect();
                let said: Vec<usize> = lengths.iter().zip(&given).map(|(whole, given)| whole - given).collect();
                let [given_most, said_most] =
                    if self.options.fixed_text { [limit / 4, limit - limit / 4] } else { [limit / 2, padded] };
                Words {
                    input: Some(self.text(&given, given_most, &marks, rng)),
                    text: self.text(&said, said_most, &marks, rng),
                    question: None,
                    prompt_tokens: Vec::new(),
                }
            }
        };
        let asks = matches!(self.stage, configs::Stage::Generative(stage) if stage.qformer_text_input);
        let most = self.run.model.qformer.max_text_tokens;
        let questions: Vec<usize> = lengths.iter().map(|length| *length.min(&most)).collect();
        let question = asks.then(|| self.text(&questions, padded.min(most), &of_bert, rng));
        Words { question, ..words }
    }

    /// Random words of these lengths with a tokenizer's marks, `padded` places for each.
    fn text(&self, lengths: &[usize], padded: usize, marks: &Marks, rng: &mut CounterRng) -> Text {
        let mut ids = Vec::with_capacity(lengths.len() * padded);
        for length in lengths {
            for place in 0..padded {
                ids.push(match (place, marks.first) {
                    (0, Some(first)) => first,
                    _ if place + 1 == *length => marks.last,
                    _ if place < *length => {
                        marks.words.start.cast_signed() + rng.below(marks.words.end - marks.words.start) as i64
                    }
                    _ => marks.pad,
                });
            }
        }
        let (rows, device) = (lengths.len() as i64, self.options.device);
        let ids = Tensor::from_slice(&ids).view([rows, padded as i64]);
        let lengths = Tensor::from_slice(&lengths.iter().map(|length| *length as i64).collect::<Vec<_>>());
        let places = Tensor::arange(padded as i64, (Kind::Int64, Device::Cpu)).unsqueeze(0);
        let mask = places.lt_tensor(&lengths.unsqueeze(1)).to_kind(Kind::Int64);
        Text { ids: ids.to_device(device), mask }
    }
}
