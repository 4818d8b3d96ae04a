//! The entries of a file of annotations one after the other, whatever it is written in: JSON, JSON Lines, CSV or TSV.

use std::borrow::Cow;

use serde_json::Value;

use super::table;
use crate::benchmark::Problems;
use crate::benchmark::outline::{entries, outline};
use crate::json;

/// Lines by which JSON Lines are told from JSON.
const FIRST_LINES: usize = 20;
/// Bytes of a line of JSON Lines at most; files of one line have more.
const LONGEST_LINE: usize = 1 << 20;
/// Keys of the objects that files of annotations are as a whole.
const WHOLE_FILES: [&str; 4] = ["images", "annotations", "questions", "data"];
/// First bytes of compressed files.
const PACKED: [(&[u8], &str); 3] = [(b"\x1f\x8b", "gzip"), (b"PK\x03\x04", "a zip"), (b"\x28\xb5\x2f\xfd", "zstd")];

/// An entry of a file.
pub(super) struct Record<'a> {
    /// The key of the file's object under which it stands.
    pub(super) key: Option<&'a str>,
    /// Its number in its list, or that of its line.
    pub(super) index: Option<usize>,
    /// Place in the file: `annotations[3]`, `[3]` or `line 4`.
    pub(super) place: String,
    /// The entry.
    pub(super) value: Value,
}

/// Hands every entry of a file to `visit`. What an entry lacks costs this entry only: a line that is no JSON, and an entry
/// with bytes that are no UTF-8, are noted.
///
/// # Errors
/// The problem of the file as a whole.
pub(super) fn records(
    uri: &str,
    bytes: &[u8],
    problems: &mut Problems,
    mut visit: impl FnMut(Record<'_>, &mut Problems),
) -> Result<(), String> {
    if let Some((_, kind)) = PACKED.iter().find(|(magic, _)| bytes.starts_with(magic)) {
        return Err(format!("found {kind} file; expected JSON, JSON Lines, CSV or TSV. Unpack it"));
    }
    let text = json::decoded(bytes);
    let is_damaged = matches!(text, Cow::Owned(_));
    let mut checked = |record: Record<'_>, problems: &mut Problems| {
        if is_damaged && record.value.to_string().contains(char::REPLACEMENT_CHARACTER) {
            problems.note(record.place, "has bytes that are no UTF-8; expected a text in UTF-8".into());
        } else {
            visit(record, problems);
        }
    };
    let ends = |suffixes: &[&str]| suffixes.iter().any(|suffix| uri.to_ascii_lowercase().ends_with(suffix));
    match text.iter().find(|byte| !byte.is_ascii_whitespace()) {
        None => Err("the file is empty".into()),
        _ if ends(&[".csv", ".tsv"]) => table::rows(&text, problems, &mut checked),
        Some(b'{') if is_lines(&text) => {
            lines(&text, problems, &mut checked);
            Ok(())
        }
        Some(b'[' | b'{') => whole(&text, problems, &mut checked),
        _ if ends(&[".json", ".jsonl"]) => whole(&text, problems, &mut checked),
        _ => table::rows(&text, problems, &mut checked),
    }
}

fn whole(
    text: &[u8],
    problems: &mut Problems,
    visit: &mut impl FnMut(Record<'_>, &mut Problems),
) -> Result<(), String> {
    let read = entries(text, |spot, value| {
        visit(Record { key: spot.key, index: spot.index, place: spot.to_string(), value }, problems);
    });
    read.map_err(|error| format!("no whole JSON: {error}"))
}

/// Lines that are not blank, with their index.
fn filled_lines(text: &[u8]) -> impl Iterator<Item = (usize, &[u8])> {
    let lines = text.split(|byte| *byte == b'\n').map(<[u8]>::trim_ascii).enumerate();
    lines.filter(|(_, line)| !line.is_empty())
}

/// Whether most of the first lines are objects of their own that are no whole files.
fn is_lines(text: &[u8]) -> bool {
    let first: Vec<&[u8]> = filled_lines(text).map(|(_, line)| line).take(FIRST_LINES).collect();
    let is_entry = |line: &&&[u8]| {
        line.len() <= LONGEST_LINE
            && outline(line).is_ok_and(|found| {
                let is_file = found.keys.iter().any(|key| WHOLE_FILES.contains(&key.as_str()));
                // GQA's file, an object of objects, may be one line.
                !found.is_list && !found.keys.is_empty() && !is_file && (first.len() > 1 || found.first.is_empty())
            })
    };
    first.iter().filter(is_entry).count() * 2 > first.len()
}

fn lines(text: &[u8], problems: &mut Problems, visit: &mut impl FnMut(Record<'_>, &mut Problems)) {
    for (index, line) in filled_lines(text) {
        let place = format!("line {}", index + 1);
        match json::value(line) {
            Ok(value) => visit(Record { key: None, index: Some(index), place, value }, problems),
            Err(error) => {
                let error = error.replace("line 1 column", "column");
                problems.note(place, format!("is no whole JSON: {error}; expected an object"));
            }
        }
    }
}
