//! CIDEr with the penalty for lengths, clipped counts and ten times the mean (CIDEr-D; `cider_scorer.py`).

use std::f64::consts::E;

use rustc_hash::{FxHashMap, FxHashSet};

use super::ngrams::{Ngram, ORDERS, Text};

/// Standard deviation of the penalty for a caption's length, in words.
const SIGMA: f64 = 6.0;

/// In how many images' references each run of words occurs.
pub struct Frequencies {
    images: FxHashMap<Ngram, u32>,
    log_count: f64,
}

/// The weighted runs of a text and what their similarity is divided by.
struct Vector {
    weights: [Vec<(Ngram, f64)>; ORDERS],
    norms: [f64; ORDERS],
    /// As in the reference, the number of runs of two words.
    length: f64,
}

impl Frequencies {
    /// The frequencies in the references of a set of captions.
    pub fn of(items: &[(Text, Vec<Text>)]) -> Self {
        let mut images: FxHashMap<Ngram, u32> = FxHashMap::default();
        let mut seen: FxHashSet<Ngram> = FxHashSet::default();
        for (_, references) in items {
            seen.clear();
            for (ngram, _) in references.iter().flat_map(|reference| reference.ngrams.iter().flatten()) {
                if seen.insert(*ngram) {
                    *images.entry(*ngram).or_default() += 1;
                }
            }
        }
        Self { images, log_count: (items.len() as f64).ln() }
    }

    /// The score of a caption: mean similarity with its references, ten times.
    pub fn cider(&self, caption: &Text, references: &[Text]) -> f64 {
        let caption = self.vector(caption);
        let mut sums = [0.0; ORDERS];
        for reference in references {
            let mut reference = self.vector(reference);
            for weights in &mut reference.weights {
                weights.sort_unstable_by_key(|(ngram, _)| *ngram);
            }
            let similarities = similarities(&caption, &reference);
            for (sum, similarity) in sums.iter_mut().zip(similarities) {
                *sum += similarity;
            }
        }
        crate::python::mean(&sums) / references.len() as f64 * 10.0
    }

    fn vector(&self, text: &Text) -> Vector {
        let weigh = |&(ngram, count): &(Ngram, u32)| {
            let images = self.images.get(&ngram).copied().unwrap_or(0).max(1);
            (ngram, f64::from(count) * (self.log_count - f64::from(images).ln()))
        };
        let weights = text.ngrams.each_ref().map(|ngrams| ngrams.iter().map(weigh).collect::<Vec<_>>());
        let norms =
            weights.each_ref().map(|weights| weights.iter().map(|(_, weight)| weight.powi(2)).sum::<f64>().sqrt());
        Vector { weights, norms, length: text.ngrams[1].iter().map(|&(_, count)| f64::from(count)).sum() }
    }
}

/// The similarity of each order: a cosine whose caption's weights are clipped, times the penalty for lengths.
///
/// The reference's runs are sorted; the caption's stand as they occur, for that is the order of the sum.
fn similarities(caption: &Vector, reference: &Vector) -> [f64; ORDERS] {
    let delta = caption.length - reference.length;
    let penalty = E.powf(-delta.powi(2) / (2.0 * SIGMA.powi(2)));
    std::array::from_fn(|order| {
        let of_reference = &reference.weights[order];
        let mut sum = 0.0;
        for (ngram, weight) in &caption.weights[order] {
            if let Ok(at) = of_reference.binary_search_by_key(ngram, |(ngram, _)| *ngram) {
                let other = of_reference[at].1;
                sum += weight.min(other) * other;
            }
        }
        let (a, b) = (caption.norms[order], reference.norms[order]);
        let cosine = if a != 0.0 && b != 0.0 { sum / (a * b) } else { sum };
        cosine * penalty
    })
}
