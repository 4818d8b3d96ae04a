//! BLEU with the reference length closest to the caption's (`bleu_scorer.py`).

use std::hint::black_box;
use std::ops::Add;

use rustc_hash::FxHashMap;

use super::ngrams::{Ngram, ORDERS, Text};

/// Added to the numbers of matches, so that no match still gives zero (`tiny`).
const TINY: f64 = 1e-15;
/// Added to what is divided by (`small`).
const SMALL: f64 = 1e-9;

/// What BLEU is computed from: of one caption, or summed over a set.
#[derive(Debug, Clone, Copy, Default)]
pub struct Counts {
    length: u64,
    reference_length: u64,
    guesses: [u64; ORDERS],
    correct: [u64; ORDERS],
}

impl Counts {
    pub fn of(caption: &Text, references: &[Text]) -> Self {
        let distance = |reference: &Text| (reference.length.abs_diff(caption.length), reference.length);
        let closest = references.iter().map(distance).min().map_or(0, |(_, length)| length);
        let correct = |order: usize| {
            // Of a run, as many are correct as the reference has that has most of them.
            let mut most: FxHashMap<Ngram, u32> = FxHashMap::default();
            for &(ngram, count) in references.iter().flat_map(|reference| &reference.ngrams[order]) {
                let most = most.entry(ngram).or_default();
                *most = count.max(*most);
            }
            let clipped = |&(ngram, count): &(Ngram, u32)| u64::from(count.min(most.get(&ngram).copied().unwrap_or(0)));
            caption.ngrams[order].iter().map(clipped).sum()
        };
        Self {
            length: caption.length as u64,
            reference_length: closest as u64,
            guesses: std::array::from_fn(|order| caption.length.saturating_sub(order) as u64),
            correct: std::array::from_fn(correct),
        }
    }

    /// BLEU-1 to BLEU-4.
    pub fn bleu(&self) -> [f64; ORDERS] {
        let ratio = (self.length as f64 + TINY) / (self.reference_length as f64 + SMALL);
        let brevity = if ratio < 1.0 { (1.0 - 1.0 / ratio).exp() } else { 1.0 };
        let mut product = 1.0_f64;
        std::array::from_fn(|order| {
            product *= (self.correct[order] as f64 + TINY) / (self.guesses[order] as f64 + SMALL);
            // A compiler that sees the exponent takes a square root for BLEU-2, which rounds otherwise than the power
            // that the reference computes.
            product.powf(black_box(1.0 / (order + 1) as f64)) * brevity
        })
    }
}

impl Add for Counts {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self {
            length: self.length + other.length,
            reference_length: self.reference_length + other.reference_length,
            guesses: std::array::from_fn(|order| self.guesses[order] + other.guesses[order]),
            correct: std::array::from_fn(|order| self.correct[order] + other.correct[order]),
        }
    }
}
