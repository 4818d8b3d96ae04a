//! WebDataset tar shards: members in a row whose names agree up to the first dot of the base name are one sample.
//!
//! The header walk knows ustar, pax (`path`, `size`) and GNU long names, which is what Python's `tarfile`, GNU tar and
//! WebDataset write.

use std::collections::BTreeSet;
use std::str::Utf8Error;

use arrow::array::{BinaryViewArray, StringArray};
use bytes::{Buf, Bytes};
use serde_json::Value;

use crate::parquet_source::Rows;

/// A tar's unit.
const BLOCK: usize = 512;
/// Members above this size are no samples; a shard that has one is damaged as a rule.
const LARGEST_MEMBER: u64 = 1 << 30;
/// Extensions of images, as written by WebDataset and img2dataset.
const IMAGES: [&str; 5] = ["jpg", "jpeg", "png", "webp", "gif"];

/// What the beginning of some bytes of a tar is.
#[derive(Debug, PartialEq)]
enum Step {
    /// A file with its content; `used` bytes belong to it, padding included.
    File { name: String, content: Bytes, used: usize },
    /// Something else of `used` bytes.
    Other { used: usize },
    /// More bytes are needed.
    More,
    /// The end mark.
    End,
    /// No tar.
    Broken(&'static str),
}

/// Reads members one after another, remembering names that stand in members of their own.
#[derive(Default)]
struct Members {
    name: Option<String>,
    size: Option<u64>,
    /// Bytes at the end that are not the tar's: it may end without the padding of its last member.
    padding: usize,
}

impl Members {
    fn step(&mut self, bytes: &Bytes) -> Step {
        let own = bytes.len() - self.padding.min(bytes.len());
        let Some(header) = bytes[..own].get(..BLOCK) else { return Step::More };
        if header.iter().all(|byte| *byte == 0) {
            return Step::End;
        }
        if !has_right_sum(header) {
            return Step::Broken("a header's sum is wrong");
        }
        let Some(size) = number(&header[124..136]) else { return Step::Broken("a member's size is no number") };
        let kind = header[156];
        let is_file = matches!(kind, b'0' | 0 | b'7');
        let size = self.size.filter(|_| is_file).unwrap_or(size);
        if size > LARGEST_MEMBER {
            return Step::Broken("a member is larger than 1 GiB");
        }
        let end = BLOCK + size as usize;
        let used = end.next_multiple_of(BLOCK);
        if bytes.len() < used || own < end {
            return Step::More;
        }
        let content = bytes.slice(BLOCK..end);
        match kind {
            b'L' => self.name = Some(text(&content)),
            b'x' => self.read_pax(&content),
            _ if is_file => {
                let name = self.name.take().unwrap_or_else(|| name(header));
                self.size = None;
                return Step::File { name, content, used };
            }
            _ => (self.name, self.size) = (None, None),
        }
        Step::Other { used }
    }

    /// Records are `<length> <key>=<value>\n`.
    fn read_pax(&mut self, mut records: &[u8]) {
        while let Some(space) = records.iter().position(|byte| *byte == b' ') {
            let length = std::str::from_utf8(&records[..space]).ok().and_then(|digits| digits.parse::<usize>().ok());
            let Some(length) = length.filter(|length| (space + 1..=records.len()).contains(length)) else { return };
            let record = text(&records[space + 1..length]);
            match record.trim_end_matches('\n').split_once('=') {
                Some(("path", value)) => self.name = Some(value.to_owned()),
                Some(("size", value)) => self.size = value.parse().ok(),
                _ => (),
            }
            records = &records[length..];
        }
    }
}

fn text(bytes: &[u8]) -> String {
    let end = bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len());
    String::from_utf8_lossy(&bytes[..end]).into_owned()
}

fn name(header: &[u8]) -> String {
    let prefix = if &header[257..262] == b"ustar" { text(&header[345..500]) } else { String::new() };
    let name = text(&header[..100]);
    if prefix.is_empty() { name } else { format!("{prefix}/{name}") }
}

/// Octal digits, or GNU's base 256 with the first bit set.
fn number(field: &[u8]) -> Option<u64> {
    if field[0] & 0x80 != 0 {
        let (high, low) = field.split_at(field.len() - 8);
        // The field of a header's sum has 8 bytes, which leaves none here.
        let is_small =
            high.split_first().is_some_and(|(mark, rest)| *mark == 0x80 && rest.iter().all(|byte| *byte == 0));
        return is_small.then(|| low.iter().fold(0, |sum, byte| sum << 8 | u64::from(*byte)));
    }
    let digits = text(field);
    u64::from_str_radix(digits.trim(), 8).ok()
}

/// The header's sum counts its own field as spaces.
fn has_right_sum(header: &[u8]) -> bool {
    let sum = |range: std::ops::Range<usize>| header[range].iter().map(|byte| u64::from(*byte)).sum::<u64>();
    number(&header[148..156]) == Some(sum(0..148) + sum(156..BLOCK) + 8 * u64::from(b' '))
}

/// One sample of a tar.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct TarSample {
    /// What the names of its members have in common.
    pub key: String,
    /// The encoded image.
    pub image: Option<Bytes>,
    /// The content of its `.txt`.
    pub text: Option<Bytes>,
    /// The content of its `.json`.
    pub json: Option<Bytes>,
    /// First byte of its first header.
    pub start: u64,
    /// Behind its last byte.
    pub end: u64,
}

impl TarSample {
    /// The metadata; nothing when it is absent or no JSON.
    pub fn metadata(&self) -> Option<Value> {
        serde_json::from_slice(self.json.as_ref()?).ok()
    }

    /// The caption: `.txt`, or `caption` of the metadata.
    ///
    /// # Errors
    /// When it is no UTF-8.
    pub fn caption(&self) -> Result<Option<String>, Utf8Error> {
        match &self.text {
            Some(text) => std::str::from_utf8(text).map(|text| Some(text.to_owned())),
            None => Ok(self.metadata().and_then(|found| Some(found.get("caption")?.as_str()?.to_owned()))),
        }
    }
}

/// Cuts a tar that arrives piece by piece into samples.
#[derive(Default)]
pub struct TarSamples {
    members: Members,
    buffer: Bytes,
    /// Place of the buffer's first byte.
    at: u64,
    /// Where the headers of the next file begin.
    file_start: Option<u64>,
    current: Option<TarSample>,
    ended: bool,
}

impl TarSamples {
    /// Begins at a byte of the tar where a member starts.
    pub fn starting_at(at: u64) -> Self {
        Self { at, ..Self::default() }
    }

    /// Adds the bytes that follow.
    pub fn push(&mut self, bytes: Bytes) {
        self.buffer = if self.buffer.is_empty() { bytes } else { [&self.buffer[..], &bytes[..]].concat().into() };
    }

    /// The next whole sample; nothing when more bytes are needed, or none is left.
    ///
    /// # Errors
    /// What is wrong with the tar from here on.
    pub fn next_sample(&mut self) -> Result<Option<TarSample>, &'static str> {
        while !self.ended {
            let step = self.members.step(&self.buffer);
            let used = match &step {
                Step::File { used, .. } | Step::Other { used } => *used,
                _ => 0,
            };
            self.buffer.advance(used);
            let start = *self.file_start.get_or_insert(self.at);
            self.at += used as u64;
            match step {
                Step::File { name, content, .. } => {
                    self.file_start = None;
                    if let Some(done) = self.add(&name, content, start) {
                        return Ok(Some(done));
                    }
                }
                Step::Other { .. } => (),
                Step::More => return Ok(None),
                Step::End => self.ended = true,
                Step::Broken(what) => return Err(what),
            }
        }
        Ok(None)
    }

    /// The samples that the last bytes belong to, when no byte follows.
    ///
    /// # Errors
    /// When the tar ends in the middle of a member.
    pub fn finish(&mut self) -> Result<Vec<TarSample>, &'static str> {
        self.members.padding = self.buffer.len().next_multiple_of(BLOCK) - self.buffer.len();
        self.push(vec![0; self.members.padding].into());
        let mut last: Vec<TarSample> = self.next_sample()?.into_iter().collect();
        if !self.ended && !self.buffer.is_empty() {
            return Err("it ends in the middle of a member");
        }
        last.extend(self.current.take());
        Ok(last)
    }

    /// Adds a file to the sample that it belongs to; the sample before is done when another one begins.
    fn add(&mut self, name: &str, content: Bytes, start: u64) -> Option<TarSample> {
        let (key, extension) = split_name(name)?;
        let is_next = self.current.as_ref().is_some_and(|current| current.key != key);
        let done = if is_next { self.current.take() } else { None };
        let sample =
            self.current.get_or_insert_with(|| TarSample { key: key.to_owned(), start, ..TarSample::default() });
        sample.end = self.at;
        let extension = extension.to_ascii_lowercase();
        // Of two members of one kind the first one counts, as a repeated name is a mistake in WebDataset.
        match extension.as_str() {
            "txt" => sample.text.get_or_insert(content),
            "json" => sample.json.get_or_insert(content),
            image if IMAGES.contains(&image) => sample.image.get_or_insert(content),
            _ => return done,
        };
        done
    }
}

/// The key and the extension of a member, as WebDataset cuts them; nothing for folders and hidden files.
fn split_name(name: &str) -> Option<(&str, &str)> {
    let base = name.rfind('/').map_or(0, |slash| slash + 1);
    let dot = base + name[base..].find('.').filter(|dot| *dot > 0)?;
    Some((&name[..dot], &name[dot + 1..]))
}

/// The samples of a stretch of a tar as rows.
///
/// # Errors
/// What is wrong with the bytes.
pub fn rows(bytes: Bytes, expected: usize) -> Result<Rows, &'static str> {
    let mut reader = TarSamples::default();
    reader.push(bytes);
    let mut samples = Vec::with_capacity(expected);
    while let Some(sample) = reader.next_sample()? {
        samples.push(sample);
    }
    samples.extend(reader.finish()?);
    if samples.len() != expected {
        return Err("it holds another number of samples than the catalogue says");
    }
    let mut bad_texts = BTreeSet::new();
    let caption = |(row, sample): (usize, &TarSample)| {
        sample.caption().unwrap_or_else(|_not_utf8| {
            bad_texts.insert(row);
            None
        })
    };
    let captions: StringArray = samples.iter().enumerate().map(caption).collect();
    Ok(Rows {
        images: samples.iter().map(|sample| sample.image.as_deref()).collect::<BinaryViewArray>(),
        captions,
        all_captions: None,
        questions: None,
        question_lists: None,
        status: None,
        keys: Some(samples.iter().map(|sample| Some(sample.key.as_str())).collect()),
        bad_texts,
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A ustar member.
    fn member(name: &str, kind: u8, content: &[u8]) -> Vec<u8> {
        let mut header = tar::Header::new_ustar();
        header.set_path(name).unwrap();
        header.set_size(content.len() as u64);
        header.set_entry_type(tar::EntryType::new(kind));
        header.set_cksum();
        let mut bytes = [&header.as_bytes()[..], content].concat();
        bytes.resize(bytes.len().next_multiple_of(BLOCK), 0);
        bytes
    }

    fn tar() -> Vec<u8> {
        let long = format!("{}/c.jpg", "folder".repeat(30));
        let record = |key: &str, value: &str| {
            let rest = format!(" {key}={value}\n");
            let length = rest.len() + 3;
            format!("{length}{rest}")
        };
        [
            member("a/", b'5', b""),
            member("a/1.jpg", b'0', b"picture"),
            member("a/1.txt", b'0', b"one"),
            member("a/1.txt", b'0', b"again"),
            member("a/2.json", b'0', br#"{"caption": "two", "width": 3}"#),
            member("a/2.cls.png", b'0', b"not an image's name"),
            member("a/2.png", b'0', b"second"),
            member("PaxHeaders/x", b'x', record("path", &long).as_bytes()),
            member("short", b'0', b"third"),
            member("././@LongLink", b'L', format!("{}\0", long.replace(".jpg", ".txt")).as_bytes()),
            member("short", b'0', &[0xff, 0xfe]),
            vec![0; 2 * BLOCK],
        ]
        .concat()
    }

    #[test]
    fn members_of_one_name_are_one_sample() {
        let rows = rows(tar().into(), 3).unwrap();
        let image = |row: usize| rows.images.value(row);
        assert_eq!((image(0), image(1), image(2)), (&b"picture"[..], &b"second"[..], &b"third"[..]));
        assert_eq!((rows.captions.value(0), rows.captions.value(1)), ("one", "two"));
        assert_eq!(rows.bad_texts, BTreeSet::from([2]));
        let keys = rows.keys.unwrap();
        assert_eq!((keys.value(0), keys.value(1)), ("a/1", "a/2"));
        assert!(keys.value(2).ends_with("folder/c"));
    }

    #[test]
    fn a_tar_may_arrive_in_any_pieces() {
        let whole = tar();
        for piece in [1, 7, 511, 512, 513, 4096] {
            let mut reader = TarSamples::default();
            let mut found = Vec::new();
            for bytes in whole.chunks(piece) {
                reader.push(Bytes::copy_from_slice(bytes));
                while let Some(sample) = reader.next_sample().unwrap() {
                    found.push(sample);
                }
            }
            found.extend(reader.finish().unwrap());
            assert_eq!(found.len(), 3, "pieces of {piece}");
            // Every sample can be read by itself.
            for sample in found {
                let part = Bytes::copy_from_slice(&whole[sample.start as usize..sample.end as usize]);
                assert_eq!(rows(part, 1).unwrap().images.value(0), sample.image.unwrap().as_ref());
            }
        }
    }

    #[test]
    fn a_cut_tar_gives_its_whole_samples_and_says_so() {
        let whole = tar();
        let mut reader = TarSamples::default();
        reader.push(Bytes::copy_from_slice(&whole[..whole.len() - 4 * BLOCK + 1]));
        assert_eq!(reader.next_sample().unwrap().unwrap().key, "a/1");
        assert_eq!(reader.next_sample().unwrap().unwrap().key, "a/2");
        assert_eq!(reader.next_sample().unwrap(), None);
        assert!(reader.finish().unwrap_err().contains("middle of a member"));
    }

    proptest! {
        #[test]
        fn damaged_tars_are_told_and_never_panic(at in 0_usize..6000, value: u8, cut in 0_usize..7000) {
            let mut bytes = tar();
            if let Some(byte) = bytes.get_mut(at) {
                *byte = value;
            }
            bytes.truncate(cut);
            let _any_answer = rows(bytes.into(), 3);
        }
    }

    #[test]
    fn a_sum_in_base_256_is_no_sum() {
        // Found by tests/fuzz: the field has 8 bytes, and nothing in front of the number.
        let mut bytes = member("a.jpg", b'0', b"picture");
        bytes[148] = 0x80;
        assert!(rows(bytes.into(), 1).unwrap_err().contains("sum is wrong"));
    }

    #[test]
    fn names_are_cut_at_the_first_dot_of_the_base_name() {
        assert_eq!(split_name("a.b/c.d.e"), Some(("a.b/c", "d.e")));
        assert_eq!(split_name("c"), None);
        assert_eq!(split_name("a/.hidden"), None);
    }
}
