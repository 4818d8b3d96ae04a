//! CSV and TSV of images and texts.

use csv::{ReaderBuilder, StringRecord};
use serde_json::{Map, Value};

use super::captions::{FILE_KEYS, ID_KEYS, TEXT_KEYS};
use super::records::Record;
use crate::benchmark::Problems;

/// Separators that are tried. `|` is that of Flickr30k's `results.csv`.
const SEPARATORS: [u8; 4] = [b'\t', b',', b'|', b';'];
/// Extensions by which a first row without names is told from a header of unknown ones.
const IMAGE_EXTENSIONS: [&str; 11] = ["jpg", "jpeg", "jpe", "jfif", "png", "webp", "gif", "bmp", "tif", "tiff", "avif"];

/// Roles of the columns of a table.
struct Columns {
    separator: u8,
    has_header: bool,
    /// Keys of the columns that are read, and their places; the first two are file and text.
    keys: Vec<(&'static str, usize)>,
    /// Columns of every row.
    width: usize,
}

/// Hands every row to `visit`, as an object of file and text.
///
/// # Errors
/// When it is not told where file and text stand.
pub(super) fn rows(
    text: &[u8],
    problems: &mut Problems,
    visit: &mut impl FnMut(Record<'_>, &mut Problems),
) -> Result<(), String> {
    let columns = columns(text)?;
    let quotes = columns.separator != b'\t' || !swallows_rows(text);
    let mut reader = ReaderBuilder::new();
    reader.delimiter(columns.separator).has_headers(columns.has_header).flexible(true).quoting(quotes);
    for (index, row) in reader.from_reader(text).records().enumerate() {
        let row = row.map_err(|error| format!("no readable table: {error}"))?;
        let place = format!("line {}", row.position().map_or(0, csv::Position::line));
        if row.len() != columns.width {
            problems.note(place, format!("has {} columns; expected {}", row.len(), columns.width));
            continue;
        }
        let field =
            |(key, at): &(&str, usize)| ((*key).to_owned(), Value::from(row.get(*at).unwrap_or_default().trim()));
        let value = Value::Object(columns.keys.iter().map(field).collect::<Map<_, _>>());
        visit(Record { key: None, index: Some(index), place, value }, problems);
    }
    Ok(())
}

/// Whether a quotation mark at the beginning of a field, which is a mark of the text in most TSV, would run over rows.
fn swallows_rows(text: &[u8]) -> bool {
    let rows = ReaderBuilder::new().delimiter(b'\t').has_headers(false).flexible(true).from_reader(text).into_records();
    rows.flatten().any(|row| row.iter().any(|field| field.contains('\n') && field.contains('\t')))
}

fn columns(text: &[u8]) -> Result<Columns, String> {
    let first = |separator: u8| {
        let mut reader = ReaderBuilder::new();
        reader.delimiter(separator).has_headers(false).flexible(true);
        reader.from_reader(text).into_records().next()?.ok()
    };
    for separator in SEPARATORS {
        let Some(header) = first(separator) else { continue };
        let column = |keys: &[&'static str]| keys.iter().find_map(|key| Some((*key, place_of(&header, key)?)));
        if let (Some(file), Some(text)) = (column(&FILE_KEYS), column(&TEXT_KEYS)) {
            let keys = [file, text].into_iter().chain(column(&ID_KEYS)).collect();
            return Ok(Columns { separator, has_header: true, keys, width: header.len() });
        }
    }
    let separator = if first(b'\t').is_some_and(|row| row.len() > 1) { b'\t' } else { b',' };
    let found = first(separator).unwrap_or_default();
    match found.len() {
        2 if is_image(&found[0]) => {
            let keys = vec![(FILE_KEYS[0], 0), (TEXT_KEYS[0], 1)];
            Ok(Columns { separator, has_header: false, keys, width: 2 })
        }
        _ => Err(unknown(&found)),
    }
}

fn place_of(header: &StringRecord, key: &str) -> Option<usize> {
    header.iter().position(|name| name.trim().eq_ignore_ascii_case(key))
}

fn is_image(name: &str) -> bool {
    let extension = name.trim().rsplit_once('.').map(|(_, extension)| extension.to_ascii_lowercase());
    extension.is_some_and(|extension| IMAGE_EXTENSIONS.contains(&extension.as_str()))
}

fn unknown(found: &StringRecord) -> String {
    let cut = |field: &str| format!("`{}`", field.chars().take(40).collect::<String>());
    let fields: Vec<String> = found.iter().take(8).map(cut).collect();
    format!(
        "none of the forms that are read: its first line has the columns {}. Expected CSV or TSV with a header that names the \
         file (`file_name`, `image`, `path` …) and the text (`text`, `caption` …), or two columns without a header, the \
         image's file and its text",
        fields.join(", ")
    )
}
