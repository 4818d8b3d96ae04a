//! Texts to token ids and back.

mod vocabulary;

use configs::{LanguageModel, LanguageModelSizes, QFormer};
use data_pipeline::rng::CounterRng;
use tch::Tensor;

use crate::TrainerError;
use vocabulary::Vocabulary;

/// What pads texts for OPT.
pub const OPT_PAD: i64 = 1;
/// What texts for OPT start with.
pub const OPT_START: i64 = 2;

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
    pub fn ids_tensor(&self) -> Tensor {
        Tensor::from_slice(&self.ids).view([self.rows as i64, self.len as i64])
    }

    /// The mask as a tensor.
    ///
    /// # Shapes
    /// `[rows, len]`, i64.
    pub fn mask_tensor(&self) -> Tensor {
        Tensor::from_slice(&self.mask).view([self.rows as i64, self.len as i64])
    }

    /// Tokens of the longest text.
    pub fn longest(&self) -> usize {
        let tokens = self.mask.chunks_exact(self.len.max(1)).map(|row| row.iter().filter(|kept| **kept == 1).count());
        tokens.max().unwrap_or(0)
    }
}

/// What a stage's model is given of captions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Encoded {
    /// All that a decoder or the Q-Former reads, or what an encoder-decoder says.
    pub text: TextBatch,
    /// What an encoder reads.
    pub input: Option<TextBatch>,
    /// What the Q-Former reads beside its queries.
    pub question: Option<TextBatch>,
    /// The first tokens of each row of `text` that carry no loss; empty where all carry one.
    pub prompt_tokens: Vec<i64>,
}

impl From<TextBatch> for Encoded {
    fn from(text: TextBatch) -> Self {
        Self { text, input: None, question: None, prompt_tokens: Vec::new() }
    }
}

impl Encoded {
    /// Tokens of the longest text, of the longest input and of the longest question.
    pub fn longest(&self) -> [usize; 3] {
        let of = |batch: &Option<TextBatch>| batch.as_ref().map_or(0, TextBatch::longest);
        [self.text.longest(), of(&self.input), of(&self.question)]
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

/// Whose tokens these are, which decides how a text is framed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// The Q-Former's: `[CLS]`, the text, `[SEP]`.
    Bert,
    /// OPT's: `</s>`, the text, a line feed, which ends it.
    Opt,
    /// T5's: the text, `</s>`.
    T5,
    /// CLIP's text encoder's: `<|startoftext|>`, the text, `<|endoftext|>`, which pads, too: nothing sees what is behind.
    Clip,
}

impl Role {
    fn name(self) -> &'static str {
        match self {
            Self::Bert => "BERT",
            Self::Opt => "OPT",
            Self::T5 => "T5",
            Self::Clip => "CLIP",
        }
    }

    /// The tokens that start a text, end it and pad it. Nothing stands before a text of T5, whose decoder starts with what
    /// pads, its token 0.
    fn marks(self, vocabulary: &Vocabulary) -> [&'static str; 3] {
        match self {
            Self::Bert => ["[CLS]", "[SEP]", "[PAD]"],
            Self::Opt => ["</s>", "\n", "<pad>"],
            Self::T5 if vocabulary.id("<pad>") == Some(0) => ["<pad>", "</s>", "<pad>"],
            // The list of the synthetic corpus, which all roles share.
            Self::T5 => ["[PAD]", "</s>", "[PAD]"],
            Self::Clip => ["<|startoftext|>", "<|endoftext|>", "<|endoftext|>"],
        }
    }
}

/// What turns texts into token ids.
#[derive(Clone, Debug)]
pub struct Tokenizer {
    vocabulary: Vocabulary,
    role: Role,
    start: i64,
    end: i64,
    pad: i64,
    vocab_size: i64,
}

impl Tokenizer {
    /// The tokenizer of the Q-Former's text side.
    ///
    /// # Errors
    /// [`TrainerError::Setting`] for a tokenizer that is not known, or one with more tokens than the embedding has rows;
    /// [`TrainerError::Store`] when its file cannot be read.
    pub fn for_qformer(qformer: &QFormer) -> Result<Self, TrainerError> {
        Self::open(qformer.tokenizer.as_str(), Role::Bert, qformer.vocab_size)
    }

    /// The tokenizer of the language model.
    ///
    /// # Errors
    /// As [`Tokenizer::for_qformer`].
    pub fn for_language_model(model: &LanguageModel) -> Result<Self, TrainerError> {
        let (role, rows) = match model.sizes() {
            LanguageModelSizes::Opt(sizes) => (Role::Opt, sizes.vocab_size),
            LanguageModelSizes::T5(sizes) => (Role::T5, sizes.vocab_size),
        };
        Self::open(model.settings().tokenizer.as_str(), role, rows)
    }

    /// The tokenizer at `uri`, for a model whose word embedding has so many rows.
    ///
    /// # Errors
    /// As [`Tokenizer::for_qformer`].
    pub fn open(uri: &str, role: Role, vocab_size: usize) -> Result<Self, TrainerError> {
        let vocabulary = Vocabulary::open(uri, role)?;
        // One more for [DEC], which is the last row.
        let needed = vocabulary.len() + usize::from(role == Role::Bert && vocabulary.id("[DEC]").is_none());
        if vocab_size < needed {
            return Err(TrainerError::Setting {
                found: format!("found vocab_size {vocab_size} with the tokenizer {uri}"),
                expected: format!("{needed} or more, a row for every token"),
                advice: format!("Raise vocab_size to {needed}"),
            });
        }
        let mark = |token: &str| {
            // A line feed is a byte: tokenizers of bytes write it in their own way.
            let found = vocabulary.id(token).or_else(|| match vocabulary.ids(token).0[..] {
                [id] if token == "\n" => Some(id),
                _ => None,
            });
            found.ok_or_else(|| TrainerError::Setting {
                found: format!("the tokenizer {uri} has no token {token:?}"),
                expected: format!("the tokenizer of {}", role.name()),
                advice: "Write the one that belongs to the model".into(),
            })
        };
        let [start, end, pad] = role.marks(&vocabulary);
        let (start, end, pad) = (mark(start)?, mark(end)?, mark(pad)?);
        Ok(Self { vocabulary, role, start, end, pad, vocab_size: vocab_size as i64 })
    }

    /// Texts in the frame of the tokenizer's role, cut to `max_tokens` and padded on the right. BERT's, T5's and CLIP's end
    /// stays where a text is cut; OPT's is cut away, as in the reference.
    ///
    /// # Panics
    /// When `max_tokens` is below 2.
    pub fn encode<T: AsRef<str>>(&self, texts: &[T], max_tokens: usize, pad_to: PadTo) -> TextBatch {
        assert!(max_tokens >= 2, "a text has a start or an end, and a word");
        let mut unknown_words = 0;
        let framed: Vec<Vec<i64>> = texts
            .iter()
            .map(|text| {
                let (words, unknown) = self.vocabulary.ids(text.as_ref());
                unknown_words += unknown;
                self.frame(words, max_tokens)
            })
            .collect();
        let longest = framed.iter().map(Vec::len).max().unwrap_or(0);
        self.padded(framed, if pad_to == PadTo::Limit { max_tokens } else { longest }, unknown_words)
    }

    /// Texts that go on from prompts of their own, and how many tokens each prompt has. A prompt and what follows, its end
    /// included, are cut to `max_tokens` each, so that no prompt cuts its text away; rows are padded to twice as many.
    pub fn continued(&self, prompts: &[String], texts: &[String], max_tokens: usize) -> (TextBatch, Vec<i64>) {
        let mut unknown_words = 0;
        let row = |(prompt, text): (&String, &String)| {
            let mut row = self.prompt(prompt);
            row.truncate(max_tokens);
            let prompt_tokens = row.len() as i64;
            // A word inside of a text begins with its space in vocabularies of bytes.
            let (mut words, unknown) = self.vocabulary.ids(&format!(" {text}"));
            unknown_words += unknown;
            words.truncate(max_tokens - 1);
            (row.into_iter().chain(words).chain([self.end]).collect(), prompt_tokens)
        };
        let (rows, prompt_tokens): (Vec<Vec<i64>>, Vec<i64>) = prompts.iter().zip(texts).map(row).unzip();
        (self.padded(rows, 2 * max_tokens, unknown_words), prompt_tokens)
    }

    fn padded(&self, framed: Vec<Vec<i64>>, len: usize, unknown_words: usize) -> TextBatch {
        let mut batch = TextBatch { ids: Vec::new(), mask: Vec::new(), rows: framed.len(), len, unknown_words };
        for row in framed {
            let padding = len - row.len();
            batch.mask.extend(std::iter::repeat_n(1, row.len()).chain(std::iter::repeat_n(0, padding)));
            batch.ids.extend(row.into_iter().chain(std::iter::repeat_n(self.pad, padding)));
        }
        batch
    }

    fn frame(&self, mut words: Vec<i64>, max_tokens: usize) -> Vec<i64> {
        match self.role {
            Role::Bert | Role::Clip => {
                words.truncate(max_tokens - 2);
                [vec![self.start], words, vec![self.end]].concat()
            }
            Role::Opt => {
                let mut row = [vec![self.start], words, vec![self.end]].concat();
                row.truncate(max_tokens);
                row
            }
            Role::T5 => {
                words.truncate(max_tokens - 1);
                [words, vec![self.end]].concat()
            }
        }
    }

    /// What a prompt is to the model: for OPT `</s>` and its words, which the text goes on from; for T5 the words and `</s>`,
    /// which the encoder reads.
    pub fn prompt(&self, text: &str) -> Vec<i64> {
        let (words, _) = self.vocabulary.ids(text);
        match self.role {
            Role::T5 => [words, vec![self.end]].concat(),
            Role::Bert | Role::Opt | Role::Clip => [vec![self.start], words].concat(),
        }
    }

    /// How many words of a text the vocabulary does not hold.
    pub fn unknown_words(&self, text: &str) -> usize {
        self.vocabulary.ids(text).1
    }

    /// The id of one token, if the vocabulary holds it.
    pub fn id(&self, token: &str) -> Option<i64> {
        self.vocabulary.id(token)
    }

    /// The text of `ids`, special tokens left out.
    pub fn decode(&self, ids: &[i64]) -> String {
        self.vocabulary.decode(ids)
    }

    /// The token of one id, for messages and tests.
    pub fn token(&self, id: i64) -> String {
        if self.role == Role::Bert && id == self.decoder_start() {
            return "[DEC]".into();
        }
        self.vocabulary.token(id).unwrap_or_else(|| "[free]".into())
    }

    /// What texts start with when the model writes them: for the Q-Former `[DEC]`, the last row, as in the reference; for the
    /// others what they start with otherwise.
    pub fn decoder_start(&self) -> i64 {
        match self.role {
            Role::Bert => self.vocabulary.id("[DEC]").unwrap_or(self.vocab_size - 1),
            Role::Opt | Role::T5 | Role::Clip => self.start,
        }
    }

    /// What fills rows up.
    pub fn pad(&self) -> i64 {
        self.pad
    }

    /// What ends a text.
    pub fn end(&self) -> i64 {
        self.end
    }
}

/// A caption behind its prompt, with one space between them.
pub fn joined(prompt: &str, caption: &str) -> String {
    [prompt.trim_end(), caption].into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join(" ")
}

/// A question in its prompt, whose `{}` it takes the place of. What comes next follows behind a space.
pub fn asked(prompt: &str, question: &str) -> String {
    prompt.replace("{}", question).trim_end().to_owned()
}

/// A caption's beginning, which an encoder is given, and the rest, which the decoder says. Where it is cut is drawn evenly
/// from behind the first word to the middle (the authors, LAVIS issue 139, who leave open whether words or tokens count); a
/// caption of one word has no beginning.
pub fn split_caption(caption: &str, rng: &mut CounterRng) -> (String, String) {
    let words: Vec<&str> = caption.split_whitespace().collect();
    let most = words.len() / 2;
    let cut = if most == 0 { 0 } else { 1 + rng.below(most as u64) as usize };
    (words[..cut].join(" "), words[cut..].join(" "))
}

#[cfg(test)]
mod tests {
    use data_pipeline::rng::Purpose;
    use data_pipeline::synthetic::VOCABULARY;

    use super::*;

    fn run(preset: &str) -> configs::Run {
        configs::load_str(preset, configs::preset(preset).unwrap(), &configs::Overrides::default()).unwrap()
    }

    fn tokenizer(role: Role) -> Tokenizer {
        Tokenizer::open(run("tiny").model.qformer.tokenizer.as_str(), role, 80).unwrap()
    }

    fn tokens(tokenizer: &Tokenizer, batch: &TextBatch, row: usize) -> Vec<String> {
        batch.ids[row * batch.len..(row + 1) * batch.len].iter().map(|id| tokenizer.token(*id)).collect()
    }

    #[test]
    fn texts_for_the_qformer_are_framed_and_padded() {
        let tokenizer = tokenizer(Role::Bert);
        let batch = tokenizer.encode(&["a red circle", "a zebra"], 6, PadTo::Limit);
        assert_eq!(tokens(&tokenizer, &batch, 0), ["[CLS]", "a", "red", "circle", "[SEP]", "[PAD]"]);
        assert_eq!(tokens(&tokenizer, &batch, 1), ["[CLS]", "a", "[UNK]", "[SEP]", "[PAD]", "[PAD]"]);
        assert_eq!(batch.mask, [1, 1, 1, 1, 1, 0, 1, 1, 1, 1, 0, 0]);
        assert_eq!((batch.rows, batch.len, batch.unknown_words, batch.longest()), (2, 6, 1, 5));
        let cut = tokenizer.encode(&["a large red circle"], 4, PadTo::Limit);
        assert_eq!(tokens(&tokenizer, &cut, 0), ["[CLS]", "a", "large", "[SEP]"]);
        assert_eq!(tokenizer.token(tokenizer.decoder_start()), "[DEC]");
    }

    #[test]
    fn texts_for_opt_end_with_a_line_feed_unless_cut() {
        let tokenizer = tokenizer(Role::Opt);
        let batch = tokenizer.encode(&["a red circle", "a star"], 5, PadTo::Longest);
        assert_eq!(tokens(&tokenizer, &batch, 0), ["</s>", "a", "red", "circle", "\n"]);
        assert_eq!(tokens(&tokenizer, &batch, 1), ["</s>", "a", "star", "\n", "<pad>"]);
        let cut = tokenizer.encode(&["a red circle"], 4, PadTo::Longest);
        assert_eq!(tokens(&tokenizer, &cut, 0), ["</s>", "a", "red", "circle"]);
        assert_eq!(tokenizer.encode(&["a"], 5, PadTo::Limit).len, 5);
        assert_eq!(tokenizer.encode::<&str>(&[], 5, PadTo::Longest).ids, [] as [i64; 0]);
        assert_eq!(tokenizer.prompt("a red").len(), 3);
    }

    #[test]
    fn texts_for_t5_keep_their_end() {
        let tokenizer = tokenizer(Role::T5);
        let batch = tokenizer.encode(&["a large red circle", "a"], 4, PadTo::Longest);
        assert_eq!(tokens(&tokenizer, &batch, 0), ["a", "large", "red", "</s>"]);
        assert_eq!(tokens(&tokenizer, &batch, 1), ["a", "</s>", "[PAD]", "[PAD]"]);
        assert_eq!(tokenizer.decoder_start(), 0);
        assert_eq!(tokenizer.encode(&[""], 4, PadTo::Longest).ids, [tokenizer.end()]);
    }

    #[test]
    fn every_word_survives_and_specials_are_left_out() {
        let tokenizer = tokenizer(Role::Opt);
        let text = VOCABULARY.join(" ");
        let batch = tokenizer.encode(&[&text], 100, PadTo::Limit);
        assert_eq!((tokenizer.decode(&batch.ids), batch.unknown_words), (text, 0));
        assert_eq!(tokenizer.decode(&[79, tokenizer.end(), 7, -1, 1_000_000]), "");
        assert_eq!(tokenizer.id("zebra"), None);
    }

    #[test]
    fn captions_are_cut_behind_the_first_word_and_before_the_middle() {
        let mut cuts = [0; 4];
        for sample in 0..300 {
            let mut rng = CounterRng::new(1, Purpose::Prefix, &[2, 3, sample]);
            let (given, said) = split_caption("one two three four five six seven", &mut rng);
            assert_eq!(joined(&given, &said), "one two three four five six seven");
            cuts[given.split_whitespace().count()] += 1;
        }
        assert!(cuts[0] == 0 && cuts[1..].iter().all(|count| (70..130).contains(count)), "{cuts:?}");
        let mut rng = CounterRng::new(1, Purpose::Prefix, &[0]);
        assert_eq!(split_caption("one", &mut rng), (String::new(), "one".to_owned()));
        assert_eq!(split_caption("one two", &mut rng), ("one".to_owned(), "two".to_owned()));
    }

    #[test]
    fn what_cannot_be_opened_says_why() {
        let mut qformer = run("tiny").model.qformer;
        qformer.vocab_size = 70;
        let message = Tokenizer::for_qformer(&qformer).unwrap_err().to_string();
        assert!(message.contains("70") && message.contains("77"), "{message}");
        let folder = tempfile::tempdir().unwrap();
        let open = |name: &str, role| {
            let uri = folder.path().join(name).display().to_string();
            Tokenizer::open(&uri, role, 400).unwrap_err().to_string()
        };
        assert!(open("missing", Role::T5).contains("tokenizer.json"));
        std::fs::write(folder.path().join("tokenizer.json"), "{").unwrap();
        let message = open("tokenizer.json", Role::Opt);
        assert!(message.contains("tokenizer.json") && message.contains("OPT"), "{message}");
    }
}
