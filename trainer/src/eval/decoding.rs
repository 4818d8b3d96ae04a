//! How texts are written: the options of `blip2 caption` and of evaluations.

use serde::{Deserialize, Serialize};

use crate::TrainerError;
use crate::generate::{Decoding, Rules, Search};

/// How captions are written, as `blip2 caption` names it. What is absent is as in training, and greedy.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Options {
    /// Text that every caption continues.
    pub prompt: String,
    /// Beams of the search.
    pub beams: Option<usize>,
    /// Draws among the most probable tokens that together have this probability.
    pub top_p: Option<f64>,
    /// Draws among so many most probable tokens.
    pub top_k: Option<usize>,
    /// Draws, with scores divided by it.
    pub temperature: Option<f64>,
    /// Key of the draws.
    pub seed: u64,
    /// Tokens at most, the end token included.
    pub max_tokens: Option<usize>,
    /// Tokens before a text may end.
    pub min_tokens: Option<usize>,
    /// Divides what speaks for tokens that are there already.
    pub repetition_penalty: Option<f64>,
    /// Exponent of the length by which beams' scores are divided.
    pub length_penalty: Option<f64>,
    /// Texts for each image.
    pub texts: Option<usize>,
    /// Whose rules beam search follows.
    pub rules: Rules,
}

impl Options {
    /// These options where they say something, and otherwise those of `default`.
    pub fn or(&self, default: &Self) -> Self {
        // Draws and beams exclude each other: who asks for draws takes no beams from the default.
        let draws = self.top_p.is_some() || self.top_k.is_some() || self.temperature.is_some();
        Self {
            prompt: if self.prompt.is_empty() { default.prompt.clone() } else { self.prompt.clone() },
            beams: self.beams.or(if draws { None } else { default.beams }),
            max_tokens: self.max_tokens.or(default.max_tokens),
            min_tokens: self.min_tokens.or(default.min_tokens),
            repetition_penalty: self.repetition_penalty.or(default.repetition_penalty),
            length_penalty: self.length_penalty.or(default.length_penalty),
            ..self.clone()
        }
    }

    /// Texts that end with the token `end`, of `max_tokens` where the options do not say.
    ///
    /// # Errors
    /// When options contradict one another, or lie outside of what they may be.
    pub fn decoding(&self, end: i64, max_tokens: usize) -> Result<Decoding, TrainerError> {
        let refuse =
            |found: String, expected: &str| Err(TrainerError::Unsupported { found, expected: expected.into() });
        let draws = self.top_p.is_some() || self.top_k.is_some() || self.temperature.is_some();
        let (top_p, temperature) = (self.top_p.unwrap_or(1.0), self.temperature.unwrap_or(1.0));
        let beams = self.beams.unwrap_or(1);
        let texts = self.texts.unwrap_or(1);
        let penalty = self.repetition_penalty.unwrap_or(1.0);
        if beams == 0 || (draws && beams > 1) {
            return refuse(format!("--beams {beams}"), "1 or more, and 1 where tokens are drawn");
        }
        if !(top_p > 0.0 && top_p <= 1.0) {
            return refuse(format!("--top-p {top_p}"), "a probability above 0 and at most 1");
        }
        if !(temperature > 0.0 && temperature.is_finite()) {
            return refuse(
                format!("--temperature {temperature}"),
                "a number above 0; for the likeliest text, draw nothing",
            );
        }
        if !(penalty > 0.0 && penalty.is_finite()) {
            return refuse(format!("--repetition-penalty {penalty}"), "a number above 0; 1 changes nothing");
        }
        if texts == 0 || (texts > beams && !draws) {
            let expected = "from 1 to the number of beams, or any number of texts that are drawn";
            return refuse(format!("--texts {texts} with {beams} beams"), expected);
        }
        let max_tokens = self.max_tokens.unwrap_or(max_tokens);
        let min_tokens = self.min_tokens.unwrap_or(0);
        if max_tokens == 0 || min_tokens > max_tokens {
            let found = format!("--max-tokens {max_tokens} with --min-tokens {min_tokens}");
            return refuse(found, "at least 1, and not below --min-tokens");
        }
        let search = match draws {
            true => Search::Sample { temperature, top_k: self.top_k.unwrap_or(0), top_p, seed: self.seed },
            false if beams > 1 => Search::Beams(beams),
            false => Search::Greedy,
        };
        Ok(Decoding {
            search,
            rules: self.rules,
            min_tokens,
            repetition_penalty: penalty,
            length_penalty: self.length_penalty.unwrap_or(1.0),
            texts,
            ..Decoding::greedy(end, max_tokens)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decoding(json: &str) -> Result<Decoding, String> {
        let options: Options = serde_json::from_str(json).map_err(|error| error.to_string())?;
        options.decoding(6, 20).map_err(|error| error.to_string())
    }

    #[test]
    fn options_choose_the_search() {
        assert_eq!(decoding("{}").unwrap(), Decoding::greedy(6, 20));
        let beams = decoding(r#"{"beams": 5, "texts": 2, "rules": "hugging_face", "max_tokens": 9}"#).unwrap();
        assert_eq!((beams.search, beams.texts, beams.rules), (Search::Beams(5), 2, Rules::HuggingFace));
        let drawn = decoding(r#"{"top_p": 0.9, "seed": 3}"#).unwrap();
        assert_eq!(drawn.search, Search::Sample { temperature: 1.0, top_k: 0, top_p: 0.9, seed: 3 });
        assert_eq!(decoding(r#"{"top_k": 5, "texts": 10}"#).unwrap().texts, 10);
    }

    #[test]
    fn options_that_contradict_one_another_are_refused() {
        let wrong = [
            (r#"{"beams": 0}"#, "--beams 0"),
            (r#"{"beams": 2, "top_k": 5}"#, "--beams 2"),
            (r#"{"top_p": 0.0}"#, "--top-p 0"),
            (r#"{"temperature": -1.0}"#, "--temperature -1"),
            (r#"{"repetition_penalty": 0.0}"#, "--repetition-penalty 0"),
            (r#"{"texts": 2}"#, "--texts 2 with 1 beams"),
            (r#"{"min_tokens": 21}"#, "--min-tokens 21"),
            (r#"{"beans": 2}"#, "beans"),
        ];
        for (json, part) in wrong {
            let message = decoding(json).unwrap_err();
            assert!(message.contains(part), "{json}: {message}");
        }
    }
}
