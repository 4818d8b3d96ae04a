//! One entry of a file, asked for its fields; what does not fit is noted with its place.

use std::collections::BTreeMap;

use serde_json::{Map, Number, Value};

use super::{Id, Problems};

/// Characters of a found value that a message shows.
const SHOWN: usize = 60;
/// Whole numbers up to this one, 2^53, are floats without a loss.
const EXACT: f64 = 9_007_199_254_740_992.0;

/// An entry, and where its problems are noted.
pub(crate) struct Entry<'a> {
    pub(crate) place: String,
    fields: Map<String, Value>,
    pub(crate) problems: &'a mut Problems,
}

impl<'a> Entry<'a> {
    /// The entry at a place; nothing, and a problem, when it is no object.
    pub(crate) fn of(place: String, value: Value, problems: &'a mut Problems) -> Option<Self> {
        match value {
            Value::Object(fields) => Some(Self { place, fields, problems }),
            other => {
                problems.note(place, format!("found {}; expected an object", shown(&other)));
                None
            }
        }
    }

    /// Notes a problem of this entry.
    pub(crate) fn note(&mut self, what: String) {
        self.problems.note(&self.place, what);
    }

    /// Whether there is a value under any of the keys; null is none.
    pub(crate) fn has(&self, keys: &[&'static str]) -> bool {
        self.key_of(keys).is_some()
    }

    /// A text that is not blank.
    pub(crate) fn text(&mut self, key: &'static str) -> Option<String> {
        self.text_of(&[key])
    }

    /// A text that is not blank, under the first of the keys that is there.
    pub(crate) fn text_of(&mut self, keys: &[&'static str]) -> Option<String> {
        match self.take(keys, "a text")? {
            (_, Value::String(text)) if !text.trim().is_empty() => Some(text),
            (key, other) => self.refuse(key, &other, "a text that is not empty"),
        }
    }

    /// A text that may be blank, under the first of the keys that is there.
    pub(crate) fn any_text(&mut self, keys: &[&'static str]) -> Option<String> {
        match self.take(keys, "a text")? {
            (_, Value::String(text)) => Some(text),
            (key, other) => self.refuse(key, &other, "a text"),
        }
    }

    /// A text, where there is one.
    pub(crate) fn text_if_there(&mut self, key: &'static str) -> Option<String> {
        if self.has(&[key]) { self.text(key) } else { None }
    }

    /// An id, under the first of the keys that is there.
    pub(crate) fn id(&mut self, keys: &[&'static str]) -> Option<Id> {
        let (key, value) = self.take(keys, "an id")?;
        match (value.as_number().and_then(whole), value) {
            (Some(id), _) => Some(id),
            (_, Value::String(text)) if !text.trim().is_empty() => Some(Id::Text(text)),
            (_, other) => self.refuse(key, &other, "a whole number or a text"),
        }
    }

    /// One text or a list of texts, none of them blank, under the first of the keys that is there.
    pub(crate) fn texts(&mut self, keys: &[&'static str]) -> Option<Vec<String>> {
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

    /// The texts under the first of the keys that is there: one text, or a list of texts or of objects that have one under
    /// one of the `fields`. Blank and malformed ones are noted, and left out where others remain.
    pub(crate) fn good_texts(&mut self, keys: &[&'static str], fields: &[&str]) -> Option<Vec<String>> {
        let (key, value) = self.take(keys, "a text")?;
        self.good_texts_in(key, value, |value| text_in(value, fields))
    }

    /// The texts that `read` finds in a value: in each element of a list, or in what is no list. Where it finds none, that
    /// is noted.
    pub(crate) fn good_texts_in(
        &mut self,
        key: &str,
        value: Value,
        read: impl Fn(&Value) -> Option<String>,
    ) -> Option<Vec<String>> {
        let expected = "a text that is not empty, or a list of such texts";
        let Value::Array(list) = &value else {
            return read(&value).map(|text| vec![text]).or_else(|| self.refuse(key, &value, expected));
        };
        let texts: Vec<Option<String>> = list.iter().map(read).collect();
        if !list.is_empty() && texts.iter().all(Option::is_none) {
            return self.refuse(key, &value, expected);
        }
        for (index, (_, value)) in texts.iter().zip(list).enumerate().filter(|(_, (text, _))| text.is_none()) {
            let place = format!("{}.{key}[{index}]", self.place);
            self.problems.note(place, format!("found {}; expected a text that is not empty", shown(value)));
        }
        Some(texts.into_iter().flatten().collect())
    }

    /// The value under the first of the keys that is there; null is none.
    pub(crate) fn value(&mut self, keys: &[&'static str]) -> Option<(&'static str, Value)> {
        let key = self.key_of(keys)?;
        Some((key, self.fields.remove(key)?))
    }

    /// One text under `field` of each object of a list.
    pub(crate) fn texts_of(&mut self, key: &'static str, field: &'static str) -> Option<Vec<String>> {
        let (_, value) = self.take(&[key], "a list")?;
        let text = |value: &Value| value.get(field)?.as_str().map(str::to_owned);
        let texts = value.as_array().and_then(|list| list.iter().map(text).collect::<Option<Vec<_>>>());
        texts.or_else(|| self.refuse(key, &value, &format!("a list of objects with the text `{field}`")))
    }

    /// An object's texts under some keys, each where it is there.
    pub(crate) fn object_texts<const N: usize>(&mut self, key: &'static str, fields: [&str; N]) -> [Option<String>; N] {
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
        if self.key_of(keys).is_none() {
            let null = keys.iter().find(|key| self.fields.contains_key(**key));
            self.note(match null {
                Some(key) => format!("`{key}` is null; expected {expected}"),
                None => format!("has no `{}`; expected {expected}", keys.join("` or `")),
            });
        }
        self.value(keys)
    }

    /// Notes that a value is another than expected.
    pub(crate) fn refuse<T>(&mut self, key: &str, found: &Value, expected: &str) -> Option<T> {
        self.note(format!("`{key}` is {}; expected {expected}", shown(found)));
        None
    }
}

/// The id that a number is: whole, with a fraction of 0 as well, which pandas writes where a column has gaps.
fn whole(number: &Number) -> Option<Id> {
    let of_float = || {
        let value = number.as_f64().filter(|value| value.fract() == 0.0 && value.abs() <= EXACT)? as i64;
        Some(u64::try_from(value).map_or(Id::Negative(value), Id::Number))
    };
    number.as_u64().map(Id::Number).or_else(|| number.as_i64().map(Id::Negative)).or_else(of_float)
}

/// A text that is not blank, or that of an object under the first of the fields that has one.
pub(crate) fn text_in(value: &Value, fields: &[&str]) -> Option<String> {
    let text = |value: &Value| value.as_str().filter(|text| !text.trim().is_empty()).map(str::to_owned);
    match value {
        Value::Object(object) => fields.iter().find_map(|field| object.get(*field).and_then(text)),
        other => text(other),
    }
}

/// A value as it stands in the file, cut where it is long.
pub(crate) fn shown(value: &Value) -> String {
    let text = value.to_string();
    match text.char_indices().nth(SHOWN) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    }
}

/// Where ids came up first. Ids are the same when they are written alike, as a number or as a text.
#[derive(Default)]
pub(crate) struct Places(BTreeMap<String, String>);

impl Places {
    /// Keeps the place of an id; the first place of one that is known already.
    pub(crate) fn add(&mut self, id: &impl ToString, place: &str) -> Option<&str> {
        match self.0.entry(id.to_string()) {
            std::collections::btree_map::Entry::Vacant(free) => {
                free.insert(place.to_owned());
                None
            }
            std::collections::btree_map::Entry::Occupied(first) => Some(first.into_mut()),
        }
    }
}
