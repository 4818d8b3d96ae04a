//! The answers to a question, in every published form.

use serde_json::Value;

use crate::benchmark::entry::{Entry, text_in};

/// Keys of a list of answers, or of one.
const KEYS: [&str; 4] = ["answers", "direct_answers", "answer", "multiple_choice_answer"];
/// Keys of an answer inside an object; OK-VQA has both.
const FIELDS: [&str; 2] = ["answer", "raw_answer"];

/// The answers of an entry: a text, a list of texts or of objects with an `answer`, a text that holds a list as Python
/// writes it, or the right one of `choices`. Nothing when the entry has none of the keys; none when what is there cannot
/// be used, which is noted.
pub(super) fn answers(entry: &mut Entry<'_>) -> Option<Vec<String>> {
    if let Some((key, value)) = entry.value(&KEYS) {
        return Some(entry.good_texts_in(key, listed(value), answer).unwrap_or_default());
    }
    let (_, choices) = entry.value(&["choices"])?;
    let (key, right) = entry.value(&["correct_choice_idx"])?;
    let choices = listed(choices);
    let index = right.as_u64().and_then(|index| usize::try_from(index).ok());
    let chosen = index.and_then(|index| answer(choices.get(index)?));
    match chosen {
        Some(text) => Some(vec![text]),
        None => {
            entry.refuse::<()>(key, &right, "the index of one of the `choices`");
            Some(Vec::new())
        }
    }
}

/// A text, or a number as a text.
fn answer(value: &Value) -> Option<String> {
    match value {
        Value::Number(number) => Some(number.to_string()),
        other => text_in(other, &FIELDS),
    }
}

/// A list for a text that holds one; any other value as it is.
fn listed(value: Value) -> Value {
    match value.as_str().and_then(python_list) {
        Some(texts) => Value::from(texts),
        None => value,
    }
}

/// The texts of a list as Python's `repr` writes it: `['red', "it's", 'a\\b']`.
fn python_list(text: &str) -> Option<Vec<String>> {
    let mut rest = text.trim().strip_prefix('[')?.strip_suffix(']')?.trim();
    let mut texts = Vec::new();
    while !rest.is_empty() {
        let (one, behind) = python_text(rest)?;
        texts.push(one);
        rest = behind.trim_start();
        match rest.strip_prefix(',') {
            Some(more) => rest = more.trim_start(),
            None if rest.is_empty() => break,
            None => return None,
        }
    }
    (!texts.is_empty()).then_some(texts)
}

/// The text between quotation marks at the beginning, and what is behind it.
fn python_text(text: &str) -> Option<(String, &str)> {
    let quote = text.chars().next().filter(|first| ['\'', '"'].contains(first))?;
    let mut out = String::new();
    let mut chars = text.char_indices().skip(1);
    while let Some((at, one)) = chars.next() {
        match one {
            one if one == quote => return Some((out, &text[at + 1..])),
            '\\' => match chars.next()?.1 {
                'n' => out.push('\n'),
                't' => out.push('\t'),
                kept @ ('\\' | '\'' | '"') => out.push(kept),
                other => out.extend(['\\', other]),
            },
            one => out.push(one),
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::benchmark::Problems;

    /// The answers and the problems of an entry.
    fn of(json: &str) -> (Option<Vec<String>>, Vec<String>) {
        let mut problems = Problems::default();
        let value = serde_json::from_str(json).unwrap();
        let found = answers(&mut Entry::of("[0]".into(), value, &mut problems).unwrap());
        (found, problems.first().to_vec())
    }

    #[test]
    fn answers_of_every_published_form_are_read() {
        for (json, expected) in [
            (
                r#"{"answers": [{"answer": "net", "answer_id": 1}, {"answer": "", "raw_answer": "nets"}]}"#,
                vec!["net", "nets"],
            ),
            (r#"{"answers": ["nokia", "toshiba"]}"#, vec!["nokia", "toshiba"]),
            (r#"{"answer": ["a", "b"]}"#, vec!["a", "b"]),
            (r#"{"answer": "no", "fullAnswer": "No."}"#, vec!["no"]),
            (r#"{"answer": 2}"#, vec!["2"]),
            (r#"{"answer": "[sic]"}"#, vec!["[sic]"]),
            (r#"{"direct_answers": ["ice", "snow"], "choices": ["x"], "correct_choice_idx": 0}"#, vec!["ice", "snow"]),
            (r#"{"direct_answers": "['ice', \"it's\", 'a\\'b',]"}"#, vec!["ice", "it's", "a'b"]),
            (r#"{"choices": ["rain", "hail"], "correct_choice_idx": 1}"#, vec!["hail"]),
            (r#"{"choices": "['rain', 'hail']", "correct_choice_idx": 0, "direct_answers": null}"#, vec!["rain"]),
            (r#"{"multiple_choice_answer": "red"}"#, vec!["red"]),
        ] {
            let expected: Vec<String> = expected.into_iter().map(str::to_owned).collect();
            assert_eq!(of(json), (Some(expected), vec![]), "{json}");
        }
    }

    #[test]
    fn what_is_no_answer_is_noted() {
        assert_eq!(of(r#"{"question": "who"}"#), (None, vec![]));
        assert_eq!(of(r#"{"answers": null, "choices": ["a"]}"#), (None, vec![]));
        assert_eq!(of(r#"{"answers": []}"#), (Some(vec![]), vec![]));
        let expected = "[0].answers[1]: found null; expected a text that is not empty".to_owned();
        assert_eq!(of(r#"{"answers": ["a", null, "b"]}"#), (Some(vec!["a".into(), "b".into()]), vec![expected]));
        let (none, problems) = of(r#"{"answer": {"text": "a"}}"#);
        assert_eq!((none, problems.len()), (Some(vec![]), 1));
        let expected = "[0]: `correct_choice_idx` is 3; expected the index of one of the `choices`".to_owned();
        assert_eq!(of(r#"{"choices": ["a"], "correct_choice_idx": 3}"#), (Some(vec![]), vec![expected]));
    }
}
