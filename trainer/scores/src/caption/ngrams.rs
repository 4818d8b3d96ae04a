//! Texts as numbers: words, and the runs of one to four words in them.

use rustc_hash::FxHashMap;

use crate::python;

/// Longest run that counts.
pub const ORDERS: usize = 4;

/// A run of words: the numbers of its words, the first in the lowest bits; zero stands for none.
pub type Ngram = u128;

/// A text in numbers.
pub struct Text {
    /// The words between single spaces, as ROUGE-L takes them: an empty text is one empty word.
    pub pieces: Vec<u32>,
    /// The words between any spaces, no-break spaces of tokens included, as BLEU and CIDEr take them.
    pub length: usize,
    /// The runs of each order, each once, as they first occur, with how often they do.
    pub ngrams: [Vec<(Ngram, u32)>; ORDERS],
}

/// Numbers for words, from 1 on.
#[derive(Default)]
pub struct Words<'text> {
    numbers: FxHashMap<&'text str, u32>,
}

impl<'text> Words<'text> {
    fn number(&mut self, word: &'text str) -> u32 {
        let next = self.numbers.len() as u32 + 1;
        *self.numbers.entry(word).or_insert(next)
    }

    /// The text in numbers, not counted yet.
    pub fn text(&mut self, text: &'text str) -> Numbered {
        let pieces: Vec<u32> = text.split(' ').map(|word| self.number(word)).collect();
        let words = python::split(text).map(|word| self.number(word)).collect();
        Numbered { pieces, words }
    }
}

/// A text in numbers before its runs are counted: what one thread does for all texts.
pub struct Numbered {
    pieces: Vec<u32>,
    words: Vec<u32>,
}

impl Numbered {
    /// The text with its runs counted.
    pub fn counted(&self) -> Text {
        let ngrams = std::array::from_fn(|order| counted(&self.words, order + 1));
        Text { pieces: self.pieces.clone(), length: self.words.len(), ngrams }
    }
}

/// The runs of `order` words, each once and as they first occur, with how often they do.
fn counted(words: &[u32], order: usize) -> Vec<(Ngram, u32)> {
    let run = |words: &[u32]| words.iter().rev().fold(0, |run, &word| run << 32 | Ngram::from(word));
    let mut runs: Vec<(Ngram, usize)> = words.windows(order).map(run).zip(0..).collect();
    runs.sort_unstable();
    let mut grouped: Vec<(usize, (Ngram, u32))> =
        runs.chunk_by(|a, b| a.0 == b.0).map(|group| (group[0].1, (group[0].0, group.len() as u32))).collect();
    grouped.sort_unstable();
    grouped.into_iter().map(|(_, counted)| counted).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_are_counted_in_the_order_of_their_first() {
        let counts = |order| -> Vec<u32> { counted(&[5, 3, 5, 3, 9], order).iter().map(|&(_, count)| count).collect() };
        assert_eq!((counts(1), counts(2), counts(4)), (vec![2, 2, 1], vec![2, 1, 1], vec![1, 1]));
        assert_eq!(counted(&[5, 3, 9], 1).iter().map(|&(run, _)| run).collect::<Vec<_>>(), [5, 3, 9]);
        assert!(counted(&[5, 3, 9], 4).is_empty());
    }

    #[test]
    fn a_no_break_space_divides_for_one_and_not_for_the_other() {
        let mut words = Words::default();
        let text = words.text("1\u{A0}1/2 inch").counted();
        assert_eq!((text.pieces.len(), text.length), (2, 3));
    }
}
