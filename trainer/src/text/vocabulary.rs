//! Words to ids: the closed list of the synthetic corpus, and files of published tokenizers.

use std::collections::HashMap;

use data_pipeline::synthetic::VOCABULARY;
use tokenizers::models::bpe::{BPE, Vocab};
use tokenizers::models::wordpiece::WordPiece;
use tokenizers::normalizers::replace::ReplacePattern;
use tokenizers::pre_tokenizers::split::SplitPattern;
use tokenizers::{SplitDelimiterBehavior, decoders, normalizers, pre_tokenizers};

use super::Role;
use crate::TrainerError;
use crate::hub::Hub;
use crate::weights_file::read_checked;

/// The special tokens of the synthetic corpus by id. Padding and OPT's `</s>` have the ids that the models' code relies on, so
/// that both towers of the demo can share one list; id 7 is free.
const SPECIAL: [&str; 7] = ["[PAD]", "<pad>", "</s>", "[UNK]", "[CLS]", "[SEP]", "\n"];
/// The id of its first word.
const FIRST_WORD: i64 = 8;

/// What knows the ids of words.
#[derive(Clone, Debug)]
pub(super) enum Vocabulary {
    /// `builtin:synthetic_words`: one token per word.
    SyntheticWords(HashMap<&'static str, i64>),
    /// A published tokenizer.
    File(Box<tokenizers::Tokenizer>),
}

impl Vocabulary {
    /// `builtin:synthetic_words`; a `tokenizer.json`; or a folder that holds one, or the files of BERT (`vocab.txt`), OPT or
    /// CLIP (`vocab.json`, `merges.txt`).
    ///
    /// # Errors
    /// When there is no such file, or it cannot be understood.
    pub fn open(uri: &str, role: Role) -> Result<Self, TrainerError> {
        match uri.strip_prefix("builtin:") {
            Some("synthetic_words") => Ok(Self::SyntheticWords(VOCABULARY.iter().copied().zip(FIRST_WORD..).collect())),
            Some(_) => Err(TrainerError::Setting {
                found: format!("found the tokenizer {uri}"),
                expected: "builtin:synthetic_words, a tokenizer.json, or a folder with one".into(),
                advice: "Write one of them".into(),
            }),
            None => Ok(Self::File(Box::new(read(uri, role)?))),
        }
    }

    /// Ids that are taken.
    pub fn len(&self) -> usize {
        match self {
            Self::SyntheticWords(_) => FIRST_WORD as usize + VOCABULARY.len(),
            Self::File(tokenizer) => tokenizer.get_vocab_size(true),
        }
    }

    /// The ids of a text without special tokens, and how many of its words are not known.
    pub fn ids(&self, text: &str) -> (Vec<i64>, usize) {
        match self {
            Self::SyntheticWords(ids) => {
                let words: Vec<Option<i64>> = text.split_whitespace().map(|word| ids.get(word).copied()).collect();
                let unknown = words.iter().filter(|id| id.is_none()).count();
                let unknown_id = self.id("[UNK]").expect("invariant: the list has a token for unknown words");
                (words.into_iter().map(|id| id.unwrap_or(unknown_id)).collect(), unknown)
            }
            Self::File(tokenizer) => {
                // Only a pre-tokenizer or a normalizer of a kind that cannot work fails, whatever the text.
                let ids: Vec<i64> = tokenizer
                    .encode(text, false)
                    .map(|encoding| encoding.get_ids().iter().map(|id| i64::from(*id)).collect())
                    .unwrap_or_default();
                let unknown_id = ["[UNK]", "<unk>"].iter().find_map(|token| self.id(token));
                let unknown = ids.iter().filter(|id| Some(**id) == unknown_id).count();
                (ids, unknown)
            }
        }
    }

    /// The id of a token.
    pub fn id(&self, token: &str) -> Option<i64> {
        match self {
            Self::SyntheticWords(ids) => {
                let special = SPECIAL.iter().position(|known| *known == token).map(|id| id as i64);
                special.or_else(|| ids.get(token).copied())
            }
            Self::File(tokenizer) => tokenizer.token_to_id(token).map(i64::from),
        }
    }

    /// The token of an id.
    pub fn token(&self, id: i64) -> Option<String> {
        match self {
            Self::SyntheticWords(_) => {
                let at = |list: &[&str], index: i64| list.get(usize::try_from(index).ok()?).map(|it| (*it).to_owned());
                at(&SPECIAL, id).or_else(|| at(VOCABULARY, id - FIRST_WORD))
            }
            Self::File(tokenizer) => tokenizer.id_to_token(u32::try_from(id).ok()?),
        }
    }

    /// The text of ids, special tokens left out.
    pub fn decode(&self, ids: &[i64]) -> String {
        match self {
            Self::SyntheticWords(_) => {
                let words = ids.iter().filter(|id| **id >= FIRST_WORD).filter_map(|id| self.token(*id));
                words.collect::<Vec<_>>().join(" ")
            }
            Self::File(tokenizer) => {
                let ids: Vec<u32> = ids.iter().filter_map(|id| u32::try_from(*id).ok()).collect();
                tokenizer.decode(&ids, true).unwrap_or_default()
            }
        }
    }
}

fn read(uri: &str, role: Role) -> Result<tokenizers::Tokenizer, TrainerError> {
    let damaged = |file: &str, reason: &dyn std::fmt::Display| TrainerError::Setting {
        found: format!("{file} is no tokenizer of this kind: {reason}"),
        expected: format!("the tokenizer of {}", role.name()),
        advice: "Download it again".into(),
    };
    let whole = |file: &str| {
        let (bytes, _) = read_checked(file, None)?;
        let mut tokenizer = tokenizers::Tokenizer::from_bytes(&bytes).map_err(|error| damaged(file, &error))?;
        // A file may ask for padding and cutting, which here belong to those who frame texts.
        tokenizer.with_padding(None).with_truncation(None).map_err(|error| damaged(file, &error))?;
        Ok(tokenizer)
    };
    if let Some(hub) = Hub::of(uri)? {
        let wanted: &[&str] = match role {
            Role::Bert => &["tokenizer.json", "vocab.txt"],
            Role::Opt | Role::Clip => &["tokenizer.json", "vocab.json", "merges.txt"],
            Role::T5 => &["tokenizer.json"],
        };
        let mut folder = None;
        for name in wanted {
            folder = hub.file(name)?.and_then(|file| file.parent().map(std::path::Path::to_path_buf)).or(folder);
        }
        let folder = folder.ok_or_else(|| damaged(uri, &format!("it has none of {}", wanted.join(", "))))?;
        return read(&folder.display().to_string(), role);
    }
    if uri.ends_with(".json") {
        return whole(uri);
    }
    let file = |name: &str| format!("{}/{name}", uri.trim_end_matches('/'));
    let missing = match whole(&file("tokenizer.json")) {
        Err(error @ TrainerError::Setting { .. }) => return Err(error),
        Ok(tokenizer) => return Ok(tokenizer),
        Err(error) => error,
    };
    let text = |name: &str| {
        let (bytes, _) = read_checked(&file(name), None)?;
        String::from_utf8(bytes.to_vec()).map_err(|error| damaged(&file(name), &error))
    };
    match role {
        Role::Bert => {
            let (pieces, _) = read_checked(&file("vocab.txt"), None)?;
            word_pieces(&pieces).map_err(|reason| damaged(&file("vocab.txt"), &reason))
        }
        Role::Opt | Role::Clip => {
            let (vocabulary, merges) = (text("vocab.json")?, text("merges.txt")?);
            let build = if role == Role::Clip { clip_byte_pairs } else { byte_pairs };
            build(&vocabulary, &merges).map_err(|reason| damaged(&file("vocab.json"), &reason))
        }
        // T5's other file is a binary one of sentencepiece; every published T5 has tokenizer.json beside it.
        Role::T5 => Err(missing),
    }
}

/// BERT's tokenizer, lower-casing, from its list of word pieces, one in each line.
fn word_pieces(lines: &[u8]) -> tokenizers::Result<tokenizers::Tokenizer> {
    let model = WordPiece::builder().vocab(WordPiece::read_bytes(lines)?).unk_token("[UNK]".into()).build()?;
    let mut tokenizer = tokenizers::Tokenizer::new(model);
    let special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"].map(|token| tokenizers::AddedToken::from(token, true));
    let _added = tokenizer.add_special_tokens(special);
    tokenizer.with_normalizer(Some(normalizers::bert::BertNormalizer::new(true, true, None, true)))?;
    tokenizer.with_pre_tokenizer(Some(pre_tokenizers::bert::BertPreTokenizer));
    tokenizer.with_decoder(Some(decoders::wordpiece::WordPiece::default()));
    Ok(tokenizer)
}

fn tokens_and_merges(vocabulary: &str, merges: &str) -> tokenizers::Result<(Vocab, Vec<(String, String)>)> {
    let pair = |line: &str| line.split_once(' ').map(|(a, b)| (a.to_owned(), b.trim_end().to_owned()));
    let merges = merges.lines().filter(|line| !line.starts_with("#version") && !line.is_empty()).filter_map(pair);
    Ok((serde_json::from_str(vocabulary)?, merges.collect()))
}

/// CLIP's tokenizer from its list of tokens and of merges, lower-casing, as transformers converts it
/// (`convert_slow_tokenizer.py`, `CLIPConverter`).
fn clip_byte_pairs(vocabulary: &str, merges: &str) -> tokenizers::Result<tokenizers::Tokenizer> {
    let (tokens, merges) = tokens_and_merges(vocabulary, merges)?;
    let model = BPE::builder().vocab_and_merges(tokens, merges).end_of_word_suffix("</w>".into());
    let mut tokenizer = tokenizers::Tokenizer::new(model.unk_token("<|endoftext|>".into()).build()?);
    let special = ["<|startoftext|>", "<|endoftext|>"].map(|token| tokenizers::AddedToken::from(token, true));
    let _added = tokenizer.add_special_tokens(special);
    let spaces = normalizers::replace::Replace::new(ReplacePattern::Regex(r"\s+".into()), " ")?;
    let steps = [normalizers::unicode::NFC.into(), spaces.into(), normalizers::utils::Lowercase.into()];
    tokenizer.with_normalizer(Some(normalizers::utils::Sequence::new(steps.to_vec())))?;
    let words = SplitPattern::Regex(r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+".into());
    let split = pre_tokenizers::split::Split::new(words, SplitDelimiterBehavior::Removed, true)?;
    let bytes = pre_tokenizers::byte_level::ByteLevel::new(false, true, true);
    let steps = vec![split.into(), bytes.into()];
    tokenizer.with_pre_tokenizer(Some(pre_tokenizers::sequence::Sequence::new(steps)));
    tokenizer.with_decoder(Some(decoders::byte_level::ByteLevel::default()));
    Ok(tokenizer)
}

/// OPT's tokenizer from its list of tokens and of merges.
fn byte_pairs(vocabulary: &str, merges: &str) -> tokenizers::Result<tokenizers::Tokenizer> {
    let (tokens, merges) = tokens_and_merges(vocabulary, merges)?;
    let model = BPE::builder().vocab_and_merges(tokens, merges).build()?;
    let mut tokenizer = tokenizers::Tokenizer::new(model);
    let special = ["<s>", "<pad>", "</s>", "<unk>"].map(|token| tokenizers::AddedToken::from(token, true));
    let _added = tokenizer.add_special_tokens(special);
    tokenizer.with_pre_tokenizer(Some(pre_tokenizers::byte_level::ByteLevel::new(false, true, true)));
    tokenizer.with_decoder(Some(decoders::byte_level::ByteLevel::default()));
    Ok(tokenizer)
}
