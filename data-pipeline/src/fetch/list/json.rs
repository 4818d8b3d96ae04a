//! JSON Lines, a JSON list of objects, and a JSON object of columns.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use arrow::datatypes::{DataType, Field, Fields};
use serde_json::{Map, Value};

use super::table::{Kind, Table};
use super::{Layout, MAX_ROW_BYTES};
use crate::error::{DataError, Result};
use crate::fetch::columns::{CAPTION, URL};
use crate::fetch::options::ColumnChoice;

/// The layout of a JSON file by its start, and a name for it.
///
/// # Errors
/// The reason, when it is none that is read.
pub(super) fn layout(head: &[u8], is_cut: bool) -> std::result::Result<(Layout, &'static str), String> {
    let text = head.trim_ascii_start();
    match text.first() {
        Some(b'[') => Ok((Layout::JsonArray, "a list of objects")),
        Some(b'{') => {
            // An object in its first line, which is not one of columns: JSON Lines under this name.
            let end = text.iter().position(|byte| *byte == b'\n').unwrap_or(text.len());
            let first = serde_json::from_slice::<Map<String, Value>>(&text[..end]).ok();
            let has_more = is_cut || !text[end..].trim_ascii().is_empty();
            let is_row = |row: &Map<String, Value>| has_more || !row.values().all(Value::is_array);
            match first.as_ref().is_some_and(is_row) {
                true => Ok((Layout::JsonLines, "objects, one a line")),
                false => Ok((Layout::JsonColumns, "an object of columns")),
            }
        }
        _ => Err("no JSON list or object at the start, expected objects with a URL and a caption".into()),
    }
}

/// The place of an object in a list.
#[derive(Clone, Copy)]
pub(super) struct Place {
    word: &'static str,
    number: u64,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.word, self.number)
    }
}

/// Cuts pushed bytes into objects.
pub(super) enum Splitter {
    /// At line feeds.
    Lines(Part),
    /// End of the elements of a list.
    Elements(Part, Nesting),
}

/// The element that has begun.
pub(super) struct Part {
    bytes: Vec<u8>,
    place: Place,
}

impl Part {
    fn new(word: &'static str) -> Self {
        Self { bytes: Vec::new(), place: Place { word, number: 1 } }
    }

    fn push(&mut self, bytes: &[u8]) -> std::result::Result<(), String> {
        self.bytes.extend_from_slice(bytes);
        if self.bytes.len() <= MAX_ROW_BYTES {
            return Ok(());
        }
        Err(format!("{}: more than {} MiB, expected an object of a URL and a caption", self.place, MAX_ROW_BYTES >> 20))
    }

    /// Hands the element over, unless it is blank.
    fn end(&mut self, each: &mut impl FnMut(Place, &[u8])) {
        if !self.bytes.trim_ascii().is_empty() {
            each(self.place, &self.bytes);
        }
        self.bytes.clear();
        self.place.number += 1;
    }
}

/// The state of a list of elements.
#[derive(Default)]
pub(super) struct Nesting {
    /// Brackets that are open; 1 between elements.
    depth: usize,
    in_string: bool,
    is_escaped: bool,
    has_ended: bool,
}

impl Splitter {
    pub(super) fn new(layout: &Layout) -> Self {
        match layout {
            Layout::JsonArray => Self::Elements(Part::new("entry"), Nesting::default()),
            _ => Self::Lines(Part::new("line")),
        }
    }

    /// Calls `each` with every object that ends in these bytes, or with the list.
    ///
    /// # Errors
    /// The reason, when an object is endless or the list is cut.
    pub(super) fn push(
        &mut self,
        input: &[u8],
        is_last: bool,
        mut each: impl FnMut(Place, &[u8]),
    ) -> std::result::Result<(), String> {
        match self {
            Self::Lines(part) => {
                let mut rest = input;
                while let Some(end) = memchr::memchr(b'\n', rest) {
                    part.push(&rest[..end])?;
                    part.end(&mut each);
                    rest = &rest[end + 1..];
                }
                part.push(rest)?;
                if is_last {
                    part.end(&mut each);
                }
            }
            Self::Elements(part, nesting) => {
                for byte in input {
                    nesting.step(*byte, part, &mut each)?;
                }
                if is_last && !nesting.has_ended {
                    return Err(format!("it ends inside {}, expected `]`. Download it again", part.place));
                }
            }
        }
        Ok(())
    }
}

impl Nesting {
    fn step(
        &mut self,
        byte: u8,
        part: &mut Part,
        each: &mut impl FnMut(Place, &[u8]),
    ) -> std::result::Result<(), String> {
        if self.in_string {
            self.in_string = self.is_escaped || byte != b'"';
            self.is_escaped = !self.is_escaped && byte == b'\\';
            return part.push(&[byte]);
        }
        match (self.depth, byte) {
            (0, b'[') if !self.has_ended => self.depth = 1,
            (0, _) if byte.is_ascii_whitespace() => {}
            (0, _) => return Err(format!("`{}` outside of its list, expected one list", char::from(byte))),
            (1, b',') => part.end(each),
            (1, b']') => {
                part.end(each);
                (self.depth, self.has_ended) = (0, true);
            }
            _ => {
                match byte {
                    b'"' => self.in_string = true,
                    b'[' | b'{' => self.depth += 1,
                    b']' | b'}' => self.depth = (self.depth - 1).max(1),
                    _ => {}
                }
                part.push(&[byte])?;
            }
        }
        Ok(())
    }
}

/// The kinds of the values of every key.
#[derive(Default)]
pub(super) struct Kinds(BTreeMap<String, Kind>);

impl Kinds {
    /// Counts an object in; bytes that are none have no keys.
    pub(super) fn add_bytes(&mut self, bytes: &[u8]) {
        if let Ok(row) = serde_json::from_slice(bytes) {
            self.add(&row);
        }
    }

    pub(super) fn add(&mut self, row: &Map<String, Value>) {
        for (key, value) in row {
            let kind = Kind::of(value);
            match self.0.get_mut(key) {
                Some(there) => *there = there.and(kind),
                None => _ = self.0.insert(key.clone(), kind),
            }
        }
    }

    pub(super) fn columns(&self) -> impl Iterator<Item = (String, Kind)> {
        self.0.iter().map(|(name, kind)| (name.clone(), *kind))
    }

    /// Refuses URLs and captions that would be JSON under another name.
    ///
    /// # Errors
    /// [`DataError::Setting`].
    pub(super) fn check_roles(&self, uri: &str, choice: &ColumnChoice) -> Result<()> {
        let fields: Fields = self.0.keys().map(|name| Arc::new(Field::new(name, DataType::Utf8, true))).collect();
        for (role, asked, expected) in
            [(&URL, &choice.url, "text"), (&CAPTION, &choice.caption, "text or a list of texts")]
        {
            let name = fields[role.find(uri, &fields, asked.as_deref())?].name();
            if self.0.get(name) == Some(&Kind::Nested) {
                return Err(DataError::Setting(format!(
                    "{uri}: the values of `{name}` are objects, lists of others than texts, or of several types; \
                     expected {expected}. Name another with {}",
                    role.option
                )));
            }
        }
        Ok(())
    }
}

/// Appends an object as a row.
pub(super) fn append(place: Place, bytes: &[u8], table: &mut Table) {
    match serde_json::from_slice::<Map<String, Value>>(bytes) {
        Ok(row) => table.append(row),
        Err(_) => table.append_bad(format!("{place} is no JSON object")),
    }
}

/// The rows of an object of columns, from the first to the last.
pub(super) struct ColumnRows {
    columns: Vec<(String, std::vec::IntoIter<Value>)>,
}

impl ColumnRows {
    /// Parses an object of columns.
    ///
    /// # Errors
    /// The reason, when it is none.
    pub(super) fn parse(bytes: &[u8]) -> std::result::Result<Self, String> {
        let expected = "expected an object of lists of one length, such as image_urls and captions";
        let columns: BTreeMap<String, Vec<Value>> =
            serde_json::from_slice(bytes).map_err(|error| format!("{error}; {expected}"))?;
        let rows = columns.values().next().map_or(0, Vec::len);
        if columns.values().any(|values| values.len() != rows) {
            let lengths = columns.iter().map(|(name, values)| format!("`{name}` {}", values.len()));
            let lengths = lengths.collect::<Vec<_>>().join(", ");
            return Err(format!("lists of different lengths: {lengths}; {expected}"));
        }
        Ok(Self { columns: columns.into_iter().map(|(name, values)| (name, values.into_iter())).collect() })
    }

    /// The kinds of the values that are left.
    pub(super) fn kinds(&self) -> Kinds {
        let kind = |values: &[Value]| values.iter().map(Kind::of).reduce(Kind::and).unwrap_or(Kind::Null);
        Kinds(self.columns.iter().map(|(name, values)| (name.clone(), kind(values.as_slice()))).collect())
    }
}

impl Iterator for ColumnRows {
    type Item = Map<String, Value>;

    fn next(&mut self) -> Option<Self::Item> {
        self.columns.first()?.1.as_slice().first()?;
        Some(self.columns.iter_mut().map(|(name, values)| (name.clone(), values.next().unwrap_or_default())).collect())
    }
}

#[cfg(test)]
mod tests {
    use arrow::array::AsArray;
    use arrow::datatypes::Int64Type;

    use super::*;

    fn split(layout: &Layout, text: &str, step: usize) -> std::result::Result<Vec<String>, String> {
        let (mut splitter, mut found) = (Splitter::new(layout), Vec::new());
        let pieces: Vec<&[u8]> = text.as_bytes().chunks(step).collect();
        for (at, piece) in pieces.iter().enumerate() {
            splitter.push(piece, at + 1 == pieces.len(), |place, bytes| {
                found.push(format!("{place}: {}", String::from_utf8_lossy(bytes.trim_ascii())));
            })?;
        }
        Ok(found)
    }

    #[test]
    fn objects_are_the_same_however_they_are_cut() {
        let lines = "{\"a\": 1}\r\n\n{\"b\": \"]\"}";
        let array = "[ {\"a\": \"}\\\"]\"},\n 7, {\"b\": [1, {}]}\n]\n";
        for step in [1, 3, 100] {
            assert_eq!(
                split(&Layout::JsonLines, lines, step).unwrap(),
                ["line 1: {\"a\": 1}", "line 3: {\"b\": \"]\"}"]
            );
            let entries = ["entry 1: {\"a\": \"}\\\"]\"}", "entry 2: 7", "entry 3: {\"b\": [1, {}]}"];
            assert_eq!(split(&Layout::JsonArray, array, step).unwrap(), entries);
        }
        assert!(split(&Layout::JsonArray, &array[..30], 100).unwrap_err().contains("entry 3"));
        assert!(split(&Layout::JsonArray, "[] {}", 100).unwrap_err().contains("outside"));
    }

    #[test]
    fn the_start_tells_the_layout() {
        let of = |text: &str, is_cut| layout(text.as_bytes(), is_cut).unwrap().0;
        assert_eq!(of(" [{", true), Layout::JsonArray);
        assert_eq!(of("{\"url\": \"a\"}\n{\"url\"", false), Layout::JsonLines);
        assert_eq!(of("{\"url\": \"a\"}\n", false), Layout::JsonLines);
        assert_eq!(of("{\"image_urls\": [\"a\"], \"captions\": [\"b\"]}\n", false), Layout::JsonColumns);
        assert_eq!(of("{\"image_urls\": [\"a\", ", true), Layout::JsonColumns);
        assert!(layout(b"url,caption", false).is_err());
    }

    #[test]
    fn an_object_of_columns_becomes_rows() {
        let rows = ColumnRows::parse(br#"{"image_urls": ["a", "b"], "captions": ["c", null], "user_ids": [7, 8]}"#);
        let rows = rows.unwrap();
        let mut table = Table::new(rows.kinds().columns());
        rows.for_each(|row| table.append(row));
        let batch = table.take().unwrap();
        let text = |name: &str| batch.column_by_name(name).unwrap().as_string::<i32>().iter().collect::<Vec<_>>();
        assert_eq!(text("image_urls"), [Some("a"), Some("b")]);
        assert_eq!(text("captions"), [Some("c"), None]);
        let ids = batch.column_by_name("user_ids").unwrap().as_primitive::<Int64Type>();
        assert_eq!(ids.values().to_vec(), [7, 8]);
        let uneven = ColumnRows::parse(br#"{"a": [1], "b": []}"#).err().unwrap();
        assert!(uneven.contains("`a` 1, `b` 0"), "{uneven}");
        assert!(ColumnRows::parse(br#"{"a": {"0": 1}}"#).is_err());
    }

    #[test]
    fn captions_of_objects_are_refused_and_other_values_are_kept() {
        let mut kinds = Kinds::default();
        let lines =
            [r#"{"url": "a", "caption": ["b", "c"], "id": 1}"#, "{", r#"{"url": "d", "id": "x3", "n": {"m": 0.5}}"#];
        lines.iter().for_each(|line| kinds.add_bytes(line.as_bytes()));
        kinds.check_roles("list", &ColumnChoice::default()).unwrap();
        let nested = ColumnChoice { caption: Some("n".into()), ..ColumnChoice::default() };
        let refused = kinds.check_roles("list", &nested).unwrap_err().to_string();
        assert!(refused.contains("`n`") && refused.contains("--caption-column"), "{refused}");
        let mut table = Table::new(kinds.columns());
        lines.iter().for_each(|line| append(Place { word: "line", number: 2 }, line.as_bytes(), &mut table));
        let batch = table.take().unwrap();
        let text = |name: &str| batch.column_by_name(name).unwrap().as_string::<i32>().iter().collect::<Vec<_>>();
        assert_eq!(text("id"), [Some("1"), None, Some("x3")]);
        assert_eq!(text("n"), [None, None, Some("{\"m\":0.5}")]);
        assert_eq!(text("bad_line"), [None, Some("line 2 is no JSON object"), None]);
        let captions = batch.column_by_name("caption").unwrap().as_list::<i32>();
        assert_eq!(captions.value(0).as_string::<i32>().iter().collect::<Vec<_>>(), [Some("b"), Some("c")]);
    }
}
