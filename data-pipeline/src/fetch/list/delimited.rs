//! TSV without quoting and CSV as RFC 4180 has it, with and without a header.

use std::collections::BTreeMap;

use csv_core::{ReadRecordResult, Reader, ReaderBuilder, Terminator};
use serde::{Deserialize, Serialize};

use super::MAX_ROW_BYTES;
use super::table::Table;
use crate::fetch::columns::{CAPTION, Role, URL};
use crate::fetch::options::ColumnChoice;

/// Rows that decide the layout.
const SAMPLE_ROWS: usize = 1000;

/// The syntax of a list and the names of its columns.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Layout {
    delimiter: u8,
    has_header: bool,
    names: Vec<String>,
}

impl Layout {
    pub(super) fn names(&self) -> &[String] {
        &self.names
    }

    pub(super) fn delimiter(&self) -> u8 {
        self.delimiter
    }
}

/// The layout of a list as its first rows show it.
#[derive(Debug)]
pub(super) struct Found {
    pub(super) layout: Layout,
    /// The choice by the names of the layout.
    pub(super) choice: ColumnChoice,
    /// The columns that are read as URLs and captions, in words.
    pub(super) note: String,
}

impl Found {
    /// Finds the layout from the start of a list. A column without a name is asked for by its number, from 1.
    ///
    /// # Errors
    /// The reason, when the columns of URLs or captions are ambiguous.
    pub(super) fn find(head: &[u8], is_whole: bool, delimiter: u8, choice: &ColumnChoice) -> Result<Self, String> {
        let rows = sample(head, is_whole, delimiter)?;
        let first = rows.first().ok_or("no complete row at the start, expected rows of a URL and a caption")?;
        match is_header(first, choice) {
            true => Self::with_header(first, delimiter, choice),
            false => Self::without_header(&rows, delimiter, choice),
        }
    }

    fn with_header(header: &[String], delimiter: u8, choice: &ColumnChoice) -> Result<Self, String> {
        let name = |(at, name): (usize, &String)| match name.trim() {
            "" => format!("column_{}", at + 1),
            name => name.to_owned(),
        };
        let names: Vec<String> = header.iter().enumerate().map(name).collect();
        if let Some(twice) = names.iter().enumerate().find_map(|(at, name)| names[..at].contains(name).then_some(name))
        {
            return Err(format!("two columns `{twice}` in the header, expected different names. Rename one"));
        }
        let named = |asked: &String| resolve(asked, &names).map_or(asked.clone(), |at| names[at].clone());
        let choice = ColumnChoice {
            url: choice.url.as_ref().map(named),
            caption: choice.caption.as_ref().map(named),
            dropped: choice.dropped.iter().map(named).collect(),
        };
        let note = "columns as the header names them".to_owned();
        Ok(Self { layout: Layout { delimiter, has_header: true, names }, choice, note })
    }

    fn without_header(rows: &[Vec<String>], delimiter: u8, choice: &ColumnChoice) -> Result<Self, String> {
        let width = usual_width(rows);
        let numbered: Vec<String> = (1..=width).map(|number| format!("column_{number}")).collect();
        let asked = |role: &Role, name: &Option<String>| match name {
            None => Ok(None),
            Some(name) => resolve(name, &numbered).map(Some).ok_or(format!(
                "{width} columns without names, expected `{}` among them. Give {} a number from 1 to {width}",
                name, role.option
            )),
        };
        let urls: Vec<usize> = (0..width).filter(|column| holds_urls(rows, width, *column)).collect();
        let url = match asked(&URL, &choice.url)? {
            Some(url) => url,
            None => only(&URL, &urls, width, "look like URLs")?,
        };
        let others: Vec<usize> = (0..width).filter(|column| *column != url && !urls.contains(column)).collect();
        let caption = match asked(&CAPTION, &choice.caption)? {
            Some(caption) => caption,
            None => only(&CAPTION, &others, width, "may be captions")?,
        };
        let mut names = numbered.clone();
        names[caption] = "caption".to_owned();
        names[url] = "url".to_owned();
        let dropped = choice.dropped.iter().map(|name| {
            let at = resolve(name, &numbered).or_else(|| resolve(name, &names));
            at.map_or(name.clone(), |at| names[at].clone())
        });
        let choice = ColumnChoice {
            url: Some(names[url].clone()),
            caption: Some(names[caption].clone()),
            dropped: dropped.collect(),
        };
        let note = format!(
            "column {} is read as URLs and column {} as captions: there is no header, and its first rows look so",
            url + 1,
            caption + 1
        );
        Ok(Self { layout: Layout { delimiter, has_header: false, names }, choice, note })
    }
}

/// The one candidate for a role.
fn only(role: &Role, candidates: &[usize], width: usize, what: &str) -> Result<usize, String> {
    if let [one] = candidates {
        return Ok(*one);
    }
    let numbers: Vec<String> = candidates.iter().map(|at| (at + 1).to_string()).collect();
    let found = match numbers.as_slice() {
        [] => format!("none of the {width} columns of its first rows"),
        numbers => format!("columns {} of its first rows", numbers.join(" and ")),
    };
    Err(format!(
        "no header, and {found} {what}, expected one column. Name it with {} and its number from 1 to {width}",
        role.option
    ))
}

/// The column of a name, or of a number from 1.
fn resolve(asked: &str, names: &[String]) -> Option<usize> {
    let exact = names.iter().position(|name| name == asked);
    let similar = || names.iter().position(|name| name.eq_ignore_ascii_case(asked));
    let numbered = || asked.parse::<usize>().ok().filter(|number| (1..=names.len()).contains(number)).map(|n| n - 1);
    exact.or_else(similar).or_else(numbered)
}

/// The first rows. Bytes that are no UTF-8 are replaced: these rows are looked at, not kept.
fn sample(head: &[u8], is_whole: bool, delimiter: u8) -> Result<Vec<Vec<String>>, String> {
    let mut rows = Vec::new();
    Parser::new(delimiter).push(head, is_whole, |record| {
        if rows.len() < SAMPLE_ROWS && !record.is_blank() {
            rows.push(record.fields().map(|field| String::from_utf8_lossy(field).into_owned()).collect());
        }
    })?;
    Ok(rows)
}

fn is_header(first: &[String], choice: &ColumnChoice) -> bool {
    let usual = URL.names.iter().chain(CAPTION.names).copied();
    let names: Vec<&str> = usual.chain(choice.url.as_deref()).chain(choice.caption.as_deref()).collect();
    let is_name = |field: &String| names.iter().any(|name| name.eq_ignore_ascii_case(field.trim()));
    !first.iter().any(|field| is_url(field)) && first.iter().any(is_name)
}

/// The number of fields that most rows have.
fn usual_width(rows: &[Vec<String>]) -> usize {
    let mut counts = BTreeMap::new();
    rows.iter().for_each(|row| *counts.entry(row.len()).or_insert(0) += 1);
    counts.into_iter().max_by_key(|(_, rows)| *rows).map_or(0, |(width, _)| width)
}

/// Whether most values of a column look like URLs.
fn holds_urls(rows: &[Vec<String>], width: usize, column: usize) -> bool {
    let values: Vec<&String> = rows.iter().filter(|row| row.len() == width).map(|row| &row[column]).collect();
    values.iter().filter(|value| is_url(value)).count() * 2 > values.len()
}

/// Whether a text looks like a URL: with a scheme, or as `host/path`.
fn is_url(text: &str) -> bool {
    let text = text.trim();
    let has_scheme = |scheme: &str| text.get(..scheme.len()).is_some_and(|start| start.eq_ignore_ascii_case(scheme));
    if text.contains(char::is_whitespace) {
        return false;
    }
    if has_scheme("http://") || has_scheme("https://") {
        return true;
    }
    let Some((host, path)) = text.trim_start_matches("//").split_once('/') else { return false };
    let labels: Vec<&str> = host.split('.').collect();
    let is_label = |label: &&str| !label.is_empty() && label.chars().all(|c| c.is_ascii_alphanumeric() || c == '-');
    let is_top = |label: &&str| label.len() >= 2 && label.chars().all(|c| c.is_ascii_alphabetic());
    !path.is_empty() && labels.len() >= 2 && labels.iter().all(is_label) && labels.last().is_some_and(is_top)
}

/// One record of a list.
pub(super) struct Record<'a> {
    bytes: &'a [u8],
    ends: &'a [usize],
    /// The number of its last line, from 1.
    line: u64,
}

impl<'a> Record<'a> {
    fn fields(&self) -> impl ExactSizeIterator<Item = &'a [u8]> + use<'a> {
        let (bytes, ends) = (self.bytes, self.ends);
        (0..ends.len()).map(move |at| {
            let start = if at == 0 { 0 } else { ends[at - 1] };
            let field = &bytes[start..ends[at]];
            // Lines of Windows end in two bytes.
            if at + 1 == ends.len() { field.strip_suffix(b"\r").unwrap_or(field) } else { field }
        })
    }

    fn is_blank(&self) -> bool {
        self.ends.len() == 1 && self.fields().all(|field| field.trim_ascii().is_empty())
    }
}

/// Cuts pushed bytes into records.
pub(super) struct Parser {
    reader: Reader,
    output: Vec<u8>,
    ends: Vec<usize>,
    /// Lengths of both that belong to the record that has begun.
    written: (usize, usize),
}

impl Parser {
    pub(super) fn new(delimiter: u8) -> Self {
        let reader = ReaderBuilder::new()
            .delimiter(delimiter)
            // Quotation marks in published TSV files are part of the captions.
            .quoting(delimiter != b'\t')
            .terminator(Terminator::Any(b'\n'))
            .build();
        Self { reader, output: vec![0; 64 << 10], ends: vec![0; 64], written: (0, 0) }
    }

    /// Calls `each` with every record that ends in these bytes, or with the list.
    ///
    /// # Errors
    /// The reason, when a record is endless.
    pub(super) fn push(&mut self, input: &[u8], is_last: bool, mut each: impl FnMut(Record)) -> Result<(), String> {
        let mut rest = input;
        while !rest.is_empty() {
            rest = self.step(rest, &mut each)?.0;
        }
        // Empty input means the end.
        while is_last && !self.step(&[], &mut each)?.1 {}
        Ok(())
    }

    /// Reads at most one record; gives the rest of the input, and whether the list has ended.
    fn step<'a>(&mut self, input: &'a [u8], each: &mut impl FnMut(Record)) -> Result<(&'a [u8], bool), String> {
        let (bytes, ends) = self.written;
        let (result, read, wrote, ended) =
            self.reader.read_record(input, &mut self.output[bytes..], &mut self.ends[ends..]);
        let (bytes, ends) = (bytes + wrote, ends + ended);
        self.written = (bytes, ends);
        match result {
            ReadRecordResult::InputEmpty => {}
            ReadRecordResult::OutputFull if bytes < MAX_ROW_BYTES => self.output.resize(self.output.len() * 2, 0),
            ReadRecordResult::OutputEndsFull if ends < MAX_ROW_BYTES => self.ends.resize(self.ends.len() * 2, 0),
            ReadRecordResult::OutputFull | ReadRecordResult::OutputEndsFull => {
                return Err(format!(
                    "line {}: a row of more than {} MiB, expected a URL and a caption. Look for a quotation mark that \
                     is never closed",
                    self.reader.line(),
                    MAX_ROW_BYTES >> 20
                ));
            }
            ReadRecordResult::Record => {
                self.written = (0, 0);
                // The line feed that ends a record counts as a new line.
                let line = self.reader.line() - u64::from(!input.is_empty());
                each(Record { bytes: &self.output[..bytes], ends: &self.ends[..ends], line });
            }
            ReadRecordResult::End => return Ok((&[], true)),
        }
        Ok((&input[read..], false))
    }
}

/// Records on their way into a table.
pub(super) struct Rows {
    width: usize,
    skips_header: bool,
}

impl Rows {
    pub(super) fn new(layout: &Layout) -> Self {
        Self { width: layout.names.len(), skips_header: layout.has_header }
    }

    /// Appends a record as a row; blank lines are none.
    pub(super) fn append(&mut self, record: &Record, table: &mut Table) {
        if record.is_blank() && self.width > 1 || std::mem::take(&mut self.skips_header) {
            return;
        }
        let fields = record.fields();
        let found = fields.len();
        if found != self.width {
            let s = if found == 1 { "" } else { "s" };
            table.append_bad(format!("line {} has {found} field{s}, expected {}", record.line, self.width));
            return;
        }
        match fields.map(std::str::from_utf8).collect::<Result<Vec<&str>, _>>() {
            Ok(texts) => table.append_texts(&texts),
            Err(_) => table.append_bad(format!("line {} is no UTF-8", record.line)),
        }
    }
}

#[cfg(test)]
mod tests {
    use arrow::array::{Array, AsArray};

    use super::*;

    fn choice(url: Option<&str>, caption: Option<&str>) -> ColumnChoice {
        ColumnChoice { url: url.map(Into::into), caption: caption.map(Into::into), dropped: Vec::new() }
    }

    /// The rows of a list pushed in pieces of `step` bytes, with the reasons of bad lines.
    fn rows(text: &[u8], delimiter: u8, step: usize) -> Vec<Vec<Option<String>>> {
        let layout = Found::find(text, true, delimiter, &choice(None, None)).unwrap().layout;
        let (mut table, mut rows) = (Table::of_texts(&layout.names), Rows::new(&layout));
        let mut parser = Parser::new(delimiter);
        let pieces: Vec<&[u8]> = text.chunks(step).collect();
        for (at, piece) in pieces.iter().enumerate() {
            parser.push(piece, at + 1 == pieces.len(), |record| rows.append(&record, &mut table)).unwrap();
        }
        let batch = table.take().unwrap();
        let value = |column: &dyn Array, row| {
            let texts = column.as_string::<i32>();
            texts.is_valid(row).then(|| texts.value(row).to_owned())
        };
        (0..batch.num_rows()).map(|row| batch.columns().iter().map(|c| value(c.as_ref(), row)).collect()).collect()
    }

    #[test]
    fn records_are_the_same_however_they_are_cut() {
        let tsv = b"a \"red\" bus\thttp://a.b/1.jpg\r\n\nonly one\n\"b\thttp://a.b/2.jpg\n\xff\thttp://a.b/3\nc, d\thttp://a.b/4";
        let some = |text: &str| Some(text.to_owned());
        let expected = vec![
            vec![some("a \"red\" bus"), some("http://a.b/1.jpg"), None],
            vec![None, None, some("line 3 has 1 field, expected 2")],
            vec![some("\"b"), some("http://a.b/2.jpg"), None],
            vec![None, None, some("line 5 is no UTF-8")],
            vec![some("c, d"), some("http://a.b/4"), None],
        ];
        for step in [1, 2, 7, 1000] {
            assert_eq!(rows(tsv, b'\t', step), expected, "pieces of {step}");
        }
        let csv = b"url,caption\nhttp://a.b/1,\"one, \"\"two\"\"\nthree\"\r\nhttp://a.b/2,b,c\nhttp://a.b/3,\n";
        let expected = vec![
            vec![some("http://a.b/1"), some("one, \"two\"\nthree"), None],
            vec![None, None, some("line 4 has 3 fields, expected 2")],
            vec![some("http://a.b/3"), some(""), None],
        ];
        for step in [1, 3, 1000] {
            assert_eq!(rows(csv, b',', step), expected, "pieces of {step}");
        }
    }

    #[test]
    fn the_column_of_urls_is_found_or_asked_for() {
        let find = |text: &str, url, caption| Found::find(text.as_bytes(), true, b'\t', &choice(url, caption));
        let names = |text: &str, url, caption| find(text, url, caption).unwrap().layout.names;
        assert_eq!(names("a cat\thttp://a.b/c.jpg\n", None, None), ["caption", "url"]);
        assert_eq!(names("HTTPS://a.b/c.jpg\ta cat\n", None, None), ["url", "caption"]);
        assert_eq!(names("a.b.com/c.jpg\tand/or a cat\n", None, None), ["url", "caption"]);
        let ids = "1\thttp://a.b/c.jpg\ta cat\n";
        assert!(find(ids, None, None).unwrap_err().contains("--caption-column"));
        assert_eq!(names(ids, None, Some("3")), ["column_1", "url", "caption"]);
        let two = "http://a.b/page\thttp://a.b/c.jpg\ta cat\n";
        let refused = find(two, None, None).unwrap_err();
        assert!(refused.contains("columns 1 and 2") && refused.contains("--url-column"), "{refused}");
        assert_eq!(names(two, Some("2"), None), ["column_1", "url", "caption"]);
        assert!(find(two, Some("4"), None).unwrap_err().contains("1 to 3"));
        assert!(find("a cat\tb\n", None, None).unwrap_err().contains("--url-column"));
        // One column in both roles.
        let both = find("http://a.b/c.jpg\n", None, Some("1")).unwrap();
        assert_eq!((both.choice.url.unwrap(), both.choice.caption.unwrap()), ("url".into(), "url".into()));
    }

    #[test]
    fn a_header_is_known_by_its_names() {
        let find = |text: &str, url| Found::find(text.as_bytes(), true, b',', &choice(url, None)).unwrap();
        let found = find(",URL,Alt_Text\n0,http://a.b/1,a\n", None);
        assert_eq!(found.layout.names, ["column_1", "URL", "Alt_Text"]);
        assert!(found.layout.has_header);
        assert!(find("photo,words\nhttp://a.b/1,a\n", Some("photo")).layout.has_header);
        assert!(!find("http://a.b/1,text\n", None).layout.has_header);
        let twice = Found::find(b"url,url\n", true, b',', &choice(None, None)).unwrap_err();
        assert!(twice.contains("two columns `url`"), "{twice}");
    }

    #[test]
    fn an_endless_row_is_refused() {
        let text = [&b"http://a.b/1,\""[..], &vec![b'a'; MAX_ROW_BYTES + 1]].concat();
        let refused = Parser::new(b',').push(&text, true, |_| ()).unwrap_err();
        assert!(refused.contains("quotation mark"), "{refused}");
    }
}
