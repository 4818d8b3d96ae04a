//! Whether tokenizers can be read, and fit the models that are given their tokens.

use configs::Run;

use super::{Finding, text};
use crate::text::{PadTo, Tokenizer};

/// A text that every tokenizer makes some tokens of.
const SAMPLE: &str = "a red circle above a blue square";

pub(super) fn look(run: &Run) -> Vec<Finding> {
    let model = &run.model;
    let settings = model.language_model.settings();
    [
        (
            "tokenizer.qformer",
            model.qformer.tokenizer.as_str(),
            Tokenizer::for_qformer(&model.qformer),
            model.qformer.max_text_tokens,
        ),
        (
            "tokenizer.language_model",
            settings.tokenizer.as_str(),
            Tokenizer::for_language_model(&model.language_model),
            settings.max_text_tokens,
        ),
    ]
    .map(|(name, uri, tokenizer, limit)| {
        let expected = "a tokenizer whose tokens all have a row in the model's word embedding";
        let fix = "name the tokenizer that belongs to the model (tokenizer.json or vocab.txt, `hf://owner/name`), \
             and set \
                   vocab_size as its model has it";
        match tokenizer {
            Ok(tokenizer) => {
                let tokens = tokenizer.encode(&[SAMPLE], limit.max(2), PadTo::Longest);
                Finding::ok(name, format!("{uri}: {SAMPLE:?} is {} tokens", tokens.longest()), expected)
            }
            Err(error @ crate::TrainerError::Store(_)) => Finding::error(name, &error, expected, fix),
            Err(error) => Finding::failure(name, [text(&error), expected.to_owned(), fix.to_owned()]),
        }
    })
    .into()
}
