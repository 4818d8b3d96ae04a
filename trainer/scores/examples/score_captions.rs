//! Scores the captions of a JSON object on standard input, and writes tokens, scores and seconds as JSON.
//!
//! In: `{"items": [{"id": …, "references": […], "caption": …}]}` and, instead or beside, `{"lines": […]}` to tokenise with
//! punctuation. The peers in `tests/peers` compare with pycocoevalcap through it.
#![allow(clippy::print_stdout, reason = "it is what the program is for")]

use std::error::Error;
use std::time::Instant;

use scores::caption::{CaptionItem, score, score_tokenized, tokenized};
use scores::ptb;
use serde::Deserialize;

#[derive(Deserialize)]
struct Request {
    #[serde(default)]
    items: Vec<CaptionItem>,
    #[serde(default)]
    lines: Vec<String>,
}

fn main() -> Result<(), Box<dyn Error>> {
    let request: Request = serde_json::from_reader(std::io::stdin().lock())?;
    let mut answer = serde_json::Map::new();
    if !request.lines.is_empty() {
        answer.insert("lines".into(), ptb::tokenize_with_punctuation(&request.lines).into());
    }
    if !request.items.is_empty() {
        let began = Instant::now();
        let scores = score(&request.items)?;
        answer.insert("seconds".into(), began.elapsed().as_secs_f64().into());
        let began = Instant::now();
        let tokenized = tokenized(&request.items);
        answer.insert("seconds_of_tokens".into(), began.elapsed().as_secs_f64().into());
        if score_tokenized(&tokenized)? != scores {
            return Err("the scores of the tokens differ from those of the texts".into());
        }
        answer.insert("scores".into(), serde_json::to_value(&scores)?);
        answer.insert("tokenized".into(), serde_json::to_value(&tokenized)?);
    }
    println!("{}", serde_json::Value::Object(answer));
    Ok(())
}
