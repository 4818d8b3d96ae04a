//! Texts to token ids and back.
//!
//! The synthetic corpus has a closed vocabulary, one token per word. Its special tokens have the ids that BERT's and
//! OPT's tokenizers give them where the models' code relies on an id (padding, OPT's `</s>`), so that both towers of
//! the demo can share one list.

use std::collections::HashMap;

use configs::{LanguageModel, QFormer, Uri};
use data_pipeline::synthetic::VOCABULARY;

use crate::TrainerError;

/// What pads texts for the Q-Former, as in BERT.
pub const BERT_PAD: i64 = 0;
/// What pads texts for OPT.
pub const OPT_PAD: i64 = 1;
/// What OPT's texts start with.
pub const OPT_START: i64 = 2;

const UNKNOWN: i64 = 3;
const CLS: i64 = 4;
const SEP: i64 = 5;
const NEWLINE: i64 = 6;
/// The special tokens by id; id 7 is free.
const SPECIAL: [&str; 7] = ["[PAD]", "<pad>", "</s>", "[UNK]", "[CLS]", "[SEP]", "\n"];
/// The id of the first word.
const FIRST_WORD: i64 = 8;

/// Texts as rows of token ids of one length.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TextBatch {
    /// Ids, row by row.
    pub ids: Vec<i64>,
    /// 1 where `ids` holds a token, 0 where it holds padding.
    pub mask: Vec<i64>,
    /// Texts.
    pub rows: usize,
    /// Tokens per row.
    pub len: usize,
    /// Words that the vocabulary does not hold.
    pub unknown_words: usize,
}

impl TextBatch {
    /// The ids as a tensor.
    ///
    /// # Shapes
    /// `[rows, len]`, i64.
    pub fn ids_tensor(&self) -> tch::Tensor {
        tch::Tensor::from_slice(&self.ids).view([self.rows as i64, self.len as i64])
    }

    /// The mask as a tensor.
    ///
    /// # Shapes
    /// `[rows, len]`, i64.
    pub fn mask_tensor(&self) -> tch::Tensor {
        tch::Tensor::from_slice(&self.mask).view([self.rows as i64, self.len as i64])
    }
}

impl TextBatch {
    /// Tokens of the longest text.
    pub fn longest(&self) -> usize {
        let tokens = self.mask.chunks_exact(self.len.max(1)).map(|row| row.iter().filter(|kept| **kept == 1).count());
        tokens.max().unwrap_or(0)
    }
}

/// How long the rows of a batch become.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PadTo {
    /// As long as the longest text.
    Longest,
    /// As long as a text may be.
    Limit,
}

/// What turns texts into token ids.
#[derive(Clone, Debug)]
pub struct Tokenizer {
    kind: TokenizerKind,
    vocab_size: i64,
}

#[derive(Clone, Debug)]
enum TokenizerKind {
    /// `builtin:synthetic_words`: ids by word.
    SyntheticWords(HashMap<&'static str, i64>),
}

impl Tokenizer {
    /// The tokenizer of the Q-Former's text side.
    ///
    /// # Errors
    /// [`TrainerError::Setting`] for a tokenizer that is not known, or one with more tokens than the embedding has rows.
    pub fn for_qformer(qformer: &QFormer) -> Result<Self, TrainerError> {
        Self::open(&qformer.tokenizer, qformer.vocab_size)
    }

    /// The tokenizer of the language model.
    ///
    /// # Errors
    /// [`TrainerError::Setting`] for a tokenizer that is not known, or one with more tokens than the embedding has rows.
    pub fn for_language_model(model: &LanguageModel) -> Result<Self, TrainerError> {
        let rows = match model.sizes() {
            configs::LanguageModelSizes::Opt(sizes) => sizes.vocab_size,
            configs::LanguageModelSizes::T5(sizes) => sizes.vocab_size,
        };
        Self::open(model.settings().tokenizer, rows)
    }

    fn open(uri: &Uri, vocab_size: usize) -> Result<Self, TrainerError> {
        if uri.builtin() != Some("synthetic_words") {
            return Err(TrainerError::Setting {
                found: format!("found the tokenizer {uri}"),
                expected: "builtin:synthetic_words, the only one that this version reads".into(),
                advice: "Write it, or wait for tokenizer.json files to be read".into(),
            });
        }
        // One more for [DEC], which is the last row.
        let needed = FIRST_WORD as usize + VOCABULARY.len() + 1;
        if vocab_size < needed {
            return Err(TrainerError::Setting {
                found: format!("found vocab_size {vocab_size} with the tokenizer {uri}"),
                expected: format!("{needed} or more, a row for every token"),
                advice: format!("Raise vocab_size to {needed}"),
            });
        }
        let ids = VOCABULARY.iter().copied().zip(FIRST_WORD..).collect();
        Ok(Self { kind: TokenizerKind::SyntheticWords(ids), vocab_size: vocab_size as i64 })
    }

    /// `[CLS]`, the words, `[SEP]`; cut to `max_tokens` with `[SEP]` kept, padded to `max_tokens`.
    ///
    /// # Panics
    /// When `max_tokens` is below 2.
    pub fn encode_bert<T: AsRef<str>>(&self, texts: &[T], max_tokens: usize) -> TextBatch {
        assert!(max_tokens >= 2, "a text for the Q-Former has [CLS] and [SEP]");
        let frame = |mut words: Vec<i64>| {
            words.truncate(max_tokens - 2);
            [vec![CLS], words, vec![SEP]].concat()
        };
        self.encode(texts, frame, BERT_PAD, |_| max_tokens)
    }

    /// `</s>`, the words, a line feed, which ends a text; cut to `max_tokens` (the cut may take the line feed away, as
    /// in the reference), padded on the right.
    pub fn encode_opt<T: AsRef<str>>(&self, texts: &[T], max_tokens: usize, pad_to: PadTo) -> TextBatch {
        let frame = |words: Vec<i64>| {
            let mut row = [vec![OPT_START], words, vec![NEWLINE]].concat();
            row.truncate(max_tokens);
            row
        };
        let length = |longest| if pad_to == PadTo::Limit { max_tokens } else { longest };
        self.encode(texts, frame, OPT_PAD, length)
    }

    /// `</s>` and the words: what a text that OPT continues begins with.
    ///
    /// # Errors
    /// When the vocabulary does not hold a word.
    pub fn encode_opt_prompt(&self, prompt: &str) -> Result<Vec<i64>, TrainerError> {
        let mut unknown_words = 0;
        let words = self.words(prompt, &mut unknown_words);
        if unknown_words > 0 {
            return Err(TrainerError::Unsupported {
                found: format!("{unknown_words} words of {prompt:?} are not in the vocabulary"),
                expected: "a prompt of words that the language model knows".into(),
            });
        }
        Ok([vec![OPT_START], words].concat())
    }

    fn encode<T: AsRef<str>>(
        &self,
        texts: &[T],
        frame: impl Fn(Vec<i64>) -> Vec<i64>,
        pad: i64,
        length: impl Fn(usize) -> usize,
    ) -> TextBatch {
        let mut unknown_words = 0;
        let words: Vec<Vec<i64>> = texts.iter().map(|text| self.words(text.as_ref(), &mut unknown_words)).collect();
        let framed: Vec<Vec<i64>> = words.into_iter().map(frame).collect();
        let len = length(framed.iter().map(Vec::len).max().unwrap_or(0));
        let mut batch = TextBatch { ids: Vec::new(), mask: Vec::new(), rows: framed.len(), len, unknown_words };
        for row in framed {
            let padding = len - row.len();
            batch.mask.extend(std::iter::repeat_n(1, row.len()).chain(std::iter::repeat_n(0, padding)));
            batch.ids.extend(row.into_iter().chain(std::iter::repeat_n(pad, padding)));
        }
        batch
    }

    /// The ids of the words of a text, without special tokens.
    fn words(&self, text: &str, unknown_words: &mut usize) -> Vec<i64> {
        let TokenizerKind::SyntheticWords(ids) = &self.kind;
        let id = |word: &str| {
            ids.get(word).copied().unwrap_or_else(|| {
                *unknown_words += 1;
                UNKNOWN
            })
        };
        text.split_whitespace().map(id).collect()
    }

    /// The id of one word, if the vocabulary holds it.
    pub fn word_id(&self, word: &str) -> Option<i64> {
        let TokenizerKind::SyntheticWords(ids) = &self.kind;
        ids.get(word).copied()
    }

    /// The words of `ids` with spaces between them, special tokens left out.
    pub fn decode(&self, ids: &[i64]) -> String {
        let word = |id: &i64| usize::try_from(id - FIRST_WORD).ok().and_then(|index| VOCABULARY.get(index).copied());
        ids.iter().filter_map(word).collect::<Vec<_>>().join(" ")
    }

    /// The special token or word of one id, for messages and tests.
    pub fn token(&self, id: i64) -> &'static str {
        let at = |list: &[&'static str], index: i64| usize::try_from(index).ok().and_then(|i| list.get(i).copied());
        if id == self.decoder_start() {
            return "[DEC]";
        }
        at(&SPECIAL, id).or_else(|| at(VOCABULARY, id - FIRST_WORD)).unwrap_or("[free]")
    }

    /// What the Q-Former's texts start with when it writes them: `[DEC]`, the last row, as in the reference.
    pub fn decoder_start(&self) -> i64 {
        self.vocab_size - 1
    }

    /// What the Q-Former's texts start with otherwise.
    pub fn cls(&self) -> i64 {
        CLS
    }

    /// What the Q-Former's texts end with.
    pub fn sep(&self) -> i64 {
        SEP
    }

    /// What ends a text that OPT writes: the line feed.
    pub fn opt_end(&self) -> i64 {
        NEWLINE
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(preset: &str) -> configs::Run {
        configs::load_str(preset, configs::preset(preset).unwrap(), &configs::Overrides::default()).unwrap()
    }

    fn tokenizer() -> Tokenizer {
        Tokenizer::for_qformer(&run("tiny").model.qformer).unwrap()
    }

    fn tokens(batch: &TextBatch, row: usize) -> Vec<&'static str> {
        let tokenizer = tokenizer();
        batch.ids[row * batch.len..(row + 1) * batch.len].iter().map(|id| tokenizer.token(*id)).collect()
    }

    #[test]
    fn texts_for_the_qformer_are_framed_and_padded() {
        let batch = tokenizer().encode_bert(&["a red circle", "a zebra"], 6);
        assert_eq!(tokens(&batch, 0), ["[CLS]", "a", "red", "circle", "[SEP]", "[PAD]"]);
        assert_eq!(tokens(&batch, 1), ["[CLS]", "a", "[UNK]", "[SEP]", "[PAD]", "[PAD]"]);
        assert_eq!(batch.mask, [1, 1, 1, 1, 1, 0, 1, 1, 1, 1, 0, 0]);
        assert_eq!((batch.rows, batch.len, batch.unknown_words), (2, 6, 1));
        let cut = tokenizer().encode_bert(&["a large red circle"], 4);
        assert_eq!(tokens(&cut, 0), ["[CLS]", "a", "large", "[SEP]"]);
    }

    #[test]
    fn texts_for_opt_end_with_a_line_feed_unless_cut() {
        let batch = tokenizer().encode_opt(&["a red circle", "a star"], 5, PadTo::Longest);
        assert_eq!(tokens(&batch, 0), ["</s>", "a", "red", "circle", "\n"]);
        assert_eq!(tokens(&batch, 1), ["</s>", "a", "star", "\n", "<pad>"]);
        let cut = tokenizer().encode_opt(&["a red circle"], 4, PadTo::Longest);
        assert_eq!(tokens(&cut, 0), ["</s>", "a", "red", "circle"]);
        assert_eq!(tokenizer().encode_opt(&["a"], 5, PadTo::Limit).len, 5);
        assert_eq!(tokenizer().encode_opt::<&str>(&[], 5, PadTo::Longest).ids, [] as [i64; 0]);
    }

    #[test]
    fn every_word_survives_and_specials_are_left_out() {
        let tokenizer = tokenizer();
        let text = VOCABULARY.join(" ");
        let batch = tokenizer.encode_opt(&[&text], 100, PadTo::Limit);
        assert_eq!((tokenizer.decode(&batch.ids), batch.unknown_words), (text, 0));
        assert_eq!(tokenizer.decode(&[tokenizer.decoder_start(), tokenizer.cls(), 7, -1, 1_000_000]), "");
        assert_eq!(tokenizer.word_id("zebra"), None);
    }

    #[test]
    fn what_cannot_be_opened_says_why() {
        let mut qformer = run("tiny").model.qformer;
        qformer.vocab_size = 70;
        let message = Tokenizer::for_qformer(&qformer).unwrap_err().to_string();
        assert!(message.contains("70") && message.contains("77"), "{message}");
        let published = run("vitg_opt2.7b").model.language_model;
        let message = Tokenizer::for_language_model(&published).unwrap_err().to_string();
        assert!(message.contains("builtin:synthetic_words"), "{message}");
    }
}
