//! WebDataset tar shards: members in a row whose names agree up to the first dot of the base name are one sample.

mod group;
mod members;
#[cfg(test)]
mod tests;

use std::collections::VecDeque;

use arrow::array::{BinaryViewArray, ListBuilder, StringArray, StringBuilder};
use bytes::{Buf, Bytes};
use serde_json::Value;

use crate::caption::{self, is_blank};
use crate::json;
use crate::rows::Rows;
pub use group::Roles;
use group::{Group, split_name};
use members::{BLOCK, Members, Step};

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
    /// The key of the JSON that has the caption, where the config names one.
    caption_key: Option<String>,
    /// The reason why its members cannot be told apart, where they cannot.
    pub problem: Option<&'static str>,
    /// First byte of the first header of its group.
    pub start: u64,
    /// Behind the last byte of its group.
    pub end: u64,
    /// Whether it is the last sample of its group: samples of one group are read together.
    pub ends_group: bool,
}

/// The texts of a sample of a tar.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TarTexts {
    /// One caption, or the first of several.
    pub caption: Option<String>,
    /// Several captions, of JSON that has a list.
    pub list: Vec<String>,
    /// Whether there is a caption that is no UTF-8.
    pub is_bad: bool,
}

impl TarSample {
    /// The metadata; none when they are absent or no JSON. A number that Python wrote as `NaN` is null.
    pub fn metadata(&self) -> Option<Value> {
        json::value(self.json.as_ref()?).ok()
    }

    /// The captions: the text file, or else what the metadata have under a usual name of captions.
    pub fn texts(&self) -> TarTexts {
        if let Some(text) = &self.text {
            let text = std::str::from_utf8(text.strip_prefix(b"\xef\xbb\xbf").unwrap_or(text));
            let (caption, is_bad) = (text.ok().map(str::to_owned), text.is_err());
            return TarTexts { caption, is_bad, ..TarTexts::default() };
        }
        let metadata = self.metadata();
        let is_texts = |value: &&Value| value.is_string() || value.is_array();
        let found = metadata.as_ref().and_then(Value::as_object).and_then(|facts| match &self.caption_key {
            Some(key) => facts.get(key),
            None => caption::NAMES.iter().find_map(|name| json::find(facts, name).filter(is_texts)),
        });
        // JSON that is no UTF-8 is read with replacement characters; a text that has one is not the one that was written.
        let is_damaged = self.json.as_ref().is_some_and(|json| std::str::from_utf8(json).is_err());
        let is_whole = |text: &&str| !(is_damaged && text.contains(char::REPLACEMENT_CHARACTER));
        let texts: Vec<&str> = match found {
            Some(Value::String(text)) => vec![text],
            Some(Value::Array(texts)) => texts.iter().filter_map(Value::as_str).collect(),
            _ => Vec::new(),
        };
        let list: Vec<String> = texts.iter().copied().filter(is_whole).map(str::to_owned).collect();
        let (is_bad, is_list) = (list.len() < texts.len(), found.is_some_and(Value::is_array));
        let caption = list.iter().find(|text| !is_list || !is_blank(text)).cloned();
        TarTexts { caption, list: if is_list { list } else { Vec::new() }, is_bad }
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
    current: Option<Group>,
    /// Samples of groups that are whole.
    ready: VecDeque<TarSample>,
    roles: Roles,
    ended: bool,
}

impl TarSamples {
    /// Samples of the members that a config names.
    pub fn with_roles(roles: Roles) -> Self {
        Self { roles, ..Self::default() }
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
        while self.ready.is_empty() && !self.ended {
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
                    self.add(&name, content, start);
                }
                Step::Other { .. } => (),
                Step::More => return Ok(None),
                Step::End => self.ended = true,
                Step::Broken(what) => return Err(what),
            }
        }
        Ok(self.ready.pop_front())
    }

    /// The samples that the last bytes belong to, when no byte follows.
    ///
    /// # Errors
    /// When the tar ends in the middle of a member.
    pub fn finish(&mut self) -> Result<Vec<TarSample>, &'static str> {
        self.members.padding = self.buffer.len().next_multiple_of(BLOCK) - self.buffer.len();
        self.push(vec![0; self.members.padding].into());
        let mut last = Vec::new();
        while let Some(sample) = self.next_sample()? {
            last.push(sample);
        }
        if !self.ended && !self.buffer.is_empty() {
            return Err("it ends in the middle of a member");
        }
        self.close();
        last.extend(self.ready.drain(..));
        Ok(last)
    }

    /// Adds a file to the group that it belongs to; the group before is whole when another one begins.
    fn add(&mut self, name: &str, content: Bytes, start: u64) {
        let Some((key, extension)) = split_name(name) else { return };
        let is_own = |group: &Group| group.key == key && !group.is_closed_to(extension, &self.roles);
        if self.current.as_ref().is_some_and(|group| !is_own(group)) {
            self.close();
        }
        let group = self.current.get_or_insert_with(|| Group::new(key, start));
        group.add(extension, content, self.at, &self.roles);
    }

    fn close(&mut self) {
        if let Some(group) = self.current.take() {
            self.ready.extend(group.samples(&self.roles));
        }
    }
}

/// The compression of a file by its first bytes, with the program that takes it off.
pub fn compression(bytes: &[u8]) -> Option<(&'static str, &'static str)> {
    match bytes {
        [0x1f, 0x8b, ..] => Some(("gzip", "gunzip")),
        [b'B', b'Z', b'h', ..] => Some(("bzip2", "bunzip2")),
        [0x28, 0xb5, 0x2f, 0xfd, ..] => Some(("zstd", "unzstd")),
        [0xfd, b'7', b'z', b'X', b'Z', 0, ..] => Some(("xz", "unxz")),
        _ => None,
    }
}

/// The samples of a stretch of a tar as rows.
///
/// # Errors
/// What is wrong with the bytes.
pub fn rows(bytes: Bytes, expected: usize, roles: &Roles) -> Result<Rows, &'static str> {
    let mut reader = TarSamples::with_roles(roles.clone());
    reader.push(bytes);
    let mut samples = Vec::with_capacity(expected);
    while let Some(sample) = reader.next_sample()? {
        samples.push(sample);
    }
    samples.extend(reader.finish()?);
    if samples.len() != expected {
        return Err("it holds another number of samples than the catalogue says");
    }
    Ok(rows_of(&samples, roles))
}

/// Samples as rows.
pub fn rows_of(samples: &[TarSample], roles: &Roles) -> Rows {
    let texts: Vec<TarTexts> = samples.iter().map(TarSample::texts).collect();
    let mut lists = ListBuilder::new(StringBuilder::new());
    for own in &texts {
        lists.append_value(own.list.iter().map(Some));
    }
    let has_lists = texts.iter().any(|own| !own.list.is_empty());
    let key = |sample: &TarSample| {
        let named = roles.key.as_ref().and_then(|name| sample.metadata()?.get(name).cloned());
        Some(match named {
            Some(Value::String(text)) => text,
            Some(value) if !value.is_null() => value.to_string(),
            _ => sample.key.clone(),
        })
    };
    Rows {
        images: samples.iter().map(|sample| sample.image.as_deref()).collect::<BinaryViewArray>(),
        captions: texts.iter().map(|own| own.caption.as_deref()).collect::<StringArray>(),
        all_captions: has_lists.then(|| lists.finish()),
        questions: None,
        question_lists: None,
        status: None,
        keys: Some(samples.iter().map(key).collect()),
        bad_texts: texts.iter().enumerate().filter(|(_, own)| own.is_bad).map(|(row, _)| row).collect(),
        refused: samples.iter().enumerate().filter_map(|(row, sample)| Some((row, sample.problem?))).collect(),
    }
}
