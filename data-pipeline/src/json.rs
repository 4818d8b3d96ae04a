//! JSON as people have it: with a byte order mark, in UTF-16, and with what Python's `json` writes beyond the standard.
//!
//! Python writes `NaN`, `Infinity` and `-Infinity` for numbers that JSON does not have, and `\ud83d` for half of a
//! surrogate pair. Both are read here as what they stand for: no value, and a character that is lost.

use std::borrow::Cow;

use memchr::memmem;
use serde_json::{Map, Value};

/// Bare words that Python's `json` writes and JSON does not have.
const NO_NUMBERS: [&[u8]; 3] = [b"NaN", b"Infinity", b"-Infinity"];
/// The replacement character as an escape, in place of half of a surrogate pair; of the same length.
const LOST: &[u8] = b"\\ufffd";

/// A value, read as the standard has it or else from its [`cleaned`] bytes.
///
/// # Errors
/// The problem of the JSON, with its place.
pub(crate) fn value(json: &[u8]) -> Result<Value, String> {
    serde_json::from_slice(json)
        .or_else(|_| serde_json::from_slice(&cleaned(json)))
        .map_err(|error: serde_json::Error| error.to_string())
}

/// The value of a key in any case, the exact one first.
pub(crate) fn find<'a>(fields: &'a Map<String, Value>, name: &str) -> Option<&'a Value> {
    let others = || fields.iter().find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value);
    fields.get(name).or_else(others)
}

/// Bytes of the same JSON that a strict reader takes: [`decoded`], with `null` for `NaN`, `Infinity` and `-Infinity`
/// outside texts, and U+FFFD for half of a surrogate pair. What is no JSON otherwise stays so. JSON in order is borrowed.
pub(crate) fn cleaned(json: &[u8]) -> Cow<'_, [u8]> {
    let json = decoded(json);
    match mended(&json) {
        Some(mended) => Cow::Owned(mended),
        None => json,
    }
}

/// Bytes of the same text in UTF-8 without a byte order mark: UTF-16 is told by its byte order mark, and what is no
/// UTF-8 becomes U+FFFD.
pub(crate) fn decoded(text: &[u8]) -> Cow<'_, [u8]> {
    let wide = |bytes: &[u8], unit: fn([u8; 2]) -> u16| {
        // An odd byte at the end is half of a character.
        let units = bytes.chunks(2).map(|pair| pair.try_into().map_or(0xfffd, unit));
        let text: String = char::decode_utf16(units).map(|one| one.unwrap_or(char::REPLACEMENT_CHARACTER)).collect();
        Cow::Owned(text.into_bytes())
    };
    match text {
        [0xff, 0xfe, rest @ ..] => wide(rest, u16::from_le_bytes),
        [0xfe, 0xff, rest @ ..] => wide(rest, u16::from_be_bytes),
        [0xef, 0xbb, 0xbf, rest @ ..] => utf8(rest),
        all => utf8(all),
    }
}

fn utf8(text: &[u8]) -> Cow<'_, [u8]> {
    match String::from_utf8_lossy(text) {
        Cow::Borrowed(_) => Cow::Borrowed(text),
        Cow::Owned(lossy) => Cow::Owned(lossy.into_bytes()),
    }
}

/// The bytes with their mistakes replaced; nothing where there is none.
fn mended(json: &[u8]) -> Option<Vec<u8>> {
    // A few fast searches spare nearly every file the walk.
    let suspects: [&[u8]; 4] = [b"NaN", b"Infinity", b"\\ud", b"\\uD"];
    if suspects.iter().all(|suspect| memmem::find(json, suspect).is_none()) {
        return None;
    }
    let (mut out, mut copied, mut at, mut in_text) = (Vec::new(), 0, 0, false);
    while let Some(byte) = json.get(at) {
        let rest = &json[at..];
        let (length, instead): (usize, Option<&[u8]>) = match (in_text, byte) {
            (_, b'"') => {
                in_text = !in_text;
                (1, None)
            }
            (true, b'\\') => escape(rest),
            (false, b'N' | b'I' | b'-') => match NO_NUMBERS.iter().find(|word| rest.starts_with(word)) {
                Some(word) => (word.len(), Some(b"null")),
                None => (1, None),
            },
            _ => (1, None),
        };
        if let Some(instead) = instead {
            out.extend_from_slice(&json[copied..at]);
            out.extend_from_slice(instead);
            copied = at + length;
        }
        at += length;
    }
    (copied > 0).then(|| {
        out.extend_from_slice(&json[copied..]);
        out
    })
}

/// The length of the escape at the beginning, both halves of a pair together, and what is written in its place.
fn escape(rest: &[u8]) -> (usize, Option<&'static [u8]>) {
    match unit(rest) {
        Some(0xd800..=0xdbff) => match unit(&rest[6..]) {
            Some(0xdc00..=0xdfff) => (12, None),
            _ => (6, Some(LOST)),
        },
        Some(0xdc00..=0xdfff) => (6, Some(LOST)),
        // The byte behind the backslash may be a quotation mark.
        _ => (2.min(rest.len()), None),
    }
}

/// The code unit of `\uXXXX` at the beginning.
fn unit(rest: &[u8]) -> Option<u16> {
    let digits = std::str::from_utf8(rest.strip_prefix(b"\\u")?.get(..4)?).ok()?;
    if digits.starts_with('+') { None } else { u16::from_str_radix(digits, 16).ok() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn wide(text: &str, unit: fn(u16) -> [u8; 2]) -> Vec<u8> {
        "\u{feff}".encode_utf16().chain(text.encode_utf16()).flat_map(unit).collect()
    }

    #[test]
    fn words_that_are_no_numbers_are_null_outside_texts_only() {
        let text = r#"{"a": NaN, "b": [Infinity, -Infinity, -1, NaN], "NaN": "an Infinity pool, \"NaN\"", "c\\": NaN}"#;
        let expected = json!({"a": null, "b": [null, null, -1, null], "NaN": "an Infinity pool, \"NaN\"", "c\\": null});
        assert_eq!(value(text.as_bytes()).unwrap(), expected);
        assert_eq!(value(b"NaN").unwrap(), Value::Null);
    }

    #[test]
    fn byte_order_marks_and_utf_16_are_read() {
        let (text, expected) = (r#"{"x": "été 图像 😀"}"#, json!({"x": "été 图像 😀"}));
        for bytes in [
            [b"\xef\xbb\xbf", text.as_bytes()].concat(),
            wide(text, u16::to_le_bytes),
            wide(text, u16::to_be_bytes),
            wide("{\"x\": \"été 图像 😀\", \"y\": NaN}", u16::to_le_bytes),
        ] {
            assert_eq!(value(&bytes).unwrap()["x"], expected["x"]);
        }
    }

    #[test]
    fn half_a_surrogate_pair_and_bytes_that_are_no_utf_8_cost_one_character() {
        let text = br#"["\ud83d\ude00", "\ud83d", "\ude00\ud83d\ude00", "\\ud83d", "\u00e9"]"#;
        assert_eq!(value(text).unwrap(), json!(["😀", "\u{fffd}", "\u{fffd}😀", "\\ud83d", "é"]));
        assert_eq!(value(b"[\"caf\xe9\", \"tea\"]").unwrap(), json!(["caf\u{fffd}", "tea"]));
    }

    #[test]
    fn json_in_order_is_borrowed_and_what_is_none_is_refused() {
        for text in [r#"{"a": "NaN"}"#, r#"["😀", "\ud83d\ude00"]"#, "[1]", ""] {
            assert!(matches!(cleaned(text.as_bytes()), Cow::Borrowed(same) if same == text.as_bytes()), "{text}");
        }
        for text in ["[1", "{\"a\": nan}", "Na", "\"\\", "\"\\ud8", "[-", "[NaN,]", "\"\\u+12", ""] {
            assert!(value(text.as_bytes()).is_err(), "{text}");
        }
        assert!(value(b"[1,\n x]").unwrap_err().contains("line 2 column 2"));
    }
}
