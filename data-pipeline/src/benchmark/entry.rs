//! One entry of a file, asked for its fields; what does not fit is noted with its place.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use super::{Id, Problems};

/// Characters of a found value that a message shows.
const SHOWN: usize = 60;

/// An entry, and where its problems are noted.
pub(super) struct Entry<'a> {
    pub(super) place: String,
    fields: Map<String, Value>,
    pub(super) problems: &'a mut Problems,
}

impl<'a> Entry<'a> {
    /// The entry at a place; nothing, and a problem, when it is no object.
    pub(super) fn of(place: String, value: Value, problems: &'a mut Problems) -> Option<Self> {
        match value {
            Value::Object(fields) => Some(Self { place, fields, problems }),
            other => {
                problems.note(place, format!("found {}; expected an object", shown(&other)));
                None
            }
        }
    }

    /// Notes a problem of this entry.
    pub(super) fn note(&mut self, what: String) {
        self.problems.note(&self.place, what);
    }

    /// Whether there is a value under any of the keys; null is none.
    pub(super) fn has(&self, keys: &[&'static str]) -> bool {
        self.key_of(keys).is_some()
    }

    /// A text that is not blank.
    pub(super) fn text(&mut self, key: &'static str) -> Option<String> {
        match self.take(&[key], "a text")? {
            (_, Value::String(text)) if !text.trim().is_empty() => Some(text),
            (key, other) => self.refuse(key, &other, "a text that is not empty"),
        }
    }

    /// A text that may be blank, under the first of the keys that is there.
    pub(super) fn any_text(&mut self, keys: &[&'static str]) -> Option<String> {
        match self.take(keys, "a text")? {
            (_, Value::String(text)) => Some(text),
            (key, other) => self.refuse(key, &other, "a text"),
        }
    }

    /// A text, where there is one.
    pub(super) fn text_if_there(&mut self, key: &'static str) -> Option<String> {
        if self.has(&[key]) { self.text(key) } else { None }
    }

    /// An id, under the first of the keys that is there.
    pub(super) fn id(&mut self, keys: &[&'static str]) -> Option<Id> {
        let (key, value) = self.take(keys, "an id")?;
        match (value.as_u64(), value) {
            (Some(number), _) => Some(Id::Number(number)),
            (_, Value::String(text)) if !text.trim().is_empty() => Some(Id::Text(text)),
            (_, other) => self.refuse(key, &other, "a whole number or a text"),
        }
    }

    /// One text or a list of texts, none of them blank, under the first of the keys that is there.
    pub(super) fn texts(&mut self, keys: &[&'static str]) -> Option<Vec<String>> {
        let expected = "a text, or a list of texts, none of them empty";
        let (key, value) = self.take(keys, expected)?;
        let text = |value: &Value| value.as_str().filter(|text| !text.trim().is_empty()).map(str::to_owned);
        let texts = match &value {
            Value::Array(list) if !list.is_empty() => list.iter().map(text).collect(),
            Value::Array(_) => None,
            one => text(one).map(|text| vec![text]),
        };
        texts.or_else(|| self.refuse(key, &value, expected))
    }

    /// One text under `field` of each object of a list.
    pub(super) fn texts_of(&mut self, key: &'static str, field: &'static str) -> Option<Vec<String>> {
        let (_, value) = self.take(&[key], "a list")?;
        let text = |value: &Value| value.get(field)?.as_str().map(str::to_owned);
        let texts = value.as_array().and_then(|list| list.iter().map(text).collect::<Option<Vec<_>>>());
        texts.or_else(|| self.refuse(key, &value, &format!("a list of objects with the text `{field}`")))
    }

    /// An object's texts under some keys, each where it is there.
    pub(super) fn object_texts<const N: usize>(&mut self, key: &'static str, fields: [&str; N]) -> [Option<String>; N] {
        if !self.has(&[key]) {
            return [const { None }; N];
        }
        match self.fields.remove(key) {
            Some(Value::Object(object)) => fields.map(|field| object.get(field)?.as_str().map(str::to_owned)),
            other => {
                self.refuse::<()>(key, &other.unwrap_or_default(), "an object");
                [const { None }; N]
            }
        }
    }

    fn key_of(&self, keys: &[&'static str]) -> Option<&'static str> {
        keys.iter().copied().find(|key| self.fields.get(*key).is_some_and(|value| !value.is_null()))
    }

    fn take(&mut self, keys: &[&'static str], expected: &str) -> Option<(&'static str, Value)> {
        let Some(key) = self.key_of(keys) else {
            self.note(format!("has no `{}`; expected {expected}", keys.join("` or `")));
            return None;
        };
        Some((key, self.fields.remove(key)?))
    }

    fn refuse<T>(&mut self, key: &str, found: &Value, expected: &str) -> Option<T> {
        self.note(format!("`{key}` is {}; expected {expected}", shown(found)));
        None
    }
}

/// A value as it stands in the file, cut where it is long.
pub(super) fn shown(value: &Value) -> String {
    let text = value.to_string();
    match text.char_indices().nth(SHOWN) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    }
}

/// Where ids came up first. Ids are the same when they are written alike, as a number or as a text.
#[derive(Default)]
pub(super) struct Places(BTreeMap<String, String>);

impl Places {
    /// Keeps the place of an id; the first place of one that is known already.
    pub(super) fn add(&mut self, id: &impl ToString, place: &str) -> Option<&str> {
        match self.0.entry(id.to_string()) {
            std::collections::btree_map::Entry::Vacant(free) => {
                free.insert(place.to_owned());
                None
            }
            std::collections::btree_map::Entry::Occupied(first) => Some(first.into_mut()),
        }
    }
}
