//! A file's JSON without its contents, and its entries one after the other.
//!
//! Files of annotations have hundreds of megabytes. Only one entry at a time is in memory as JSON.

use std::fmt;

use serde::de::{
    Deserialize, DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor, value::MapAccessDeserializer,
};
use serde_json::Value;

use crate::json;

/// Keys of an object that an outline keeps: more than any layout has, and few of a file whose keys are ids.
const KEYS_KEPT: usize = 32;

/// What tells layouts apart.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Outline {
    /// Whether the file is a list.
    pub(crate) is_list: bool,
    /// The first keys of the file's object.
    pub(crate) keys: Vec<String>,
    /// Keys of the first element of the list, or of the object's first value.
    pub(crate) first: Vec<String>,
}

/// Where an entry stands: under a key of the file's object, in a list, or both.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Spot<'a> {
    pub(crate) key: Option<&'a str>,
    pub(crate) index: Option<usize>,
}

/// `questions[4]`, `[4]` or `data_subtype`.
impl fmt::Display for Spot<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.key.unwrap_or_default())?;
        self.index.map_or(Ok(()), |index| write!(f, "[{index}]"))
    }
}

/// The outline of a file; reads it to its end.
///
/// # Errors
/// What is wrong with the JSON, and where.
pub(crate) fn outline(json: &[u8]) -> Result<Outline, String> {
    serde_json::from_slice(&json::cleaned(json)).map_err(|error| error.to_string())
}

/// Hands every entry to `visit`: the elements of the file's list, or of each list in its object, and the object's other
/// values, empty lists among them.
///
/// # Errors
/// What is wrong with the JSON, and where.
pub(crate) fn entries(json: &[u8], mut visit: impl FnMut(Spot<'_>, Value)) -> Result<(), String> {
    let json = json::cleaned(json);
    let mut reader = serde_json::Deserializer::from_slice(&json);
    let root = Entries { key: None, visit: &mut visit };
    root.deserialize(&mut reader).and_then(|()| reader.end()).map_err(|error| error.to_string())
}

/// Keys of an object; none of anything else.
#[derive(Default)]
struct Keys(Vec<String>);

/// A value of which nothing is kept but what a visitor of lists and objects keeps.
macro_rules! ignore_scalars {
    () => {
        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("JSON")
        }
        fn visit_unit<E>(self) -> Result<Self::Value, E> {
            Ok(Self::Value::default())
        }
        fn visit_bool<E>(self, _: bool) -> Result<Self::Value, E> {
            Ok(Self::Value::default())
        }
        fn visit_u64<E>(self, _: u64) -> Result<Self::Value, E> {
            Ok(Self::Value::default())
        }
        fn visit_i64<E>(self, _: i64) -> Result<Self::Value, E> {
            Ok(Self::Value::default())
        }
        fn visit_f64<E>(self, _: f64) -> Result<Self::Value, E> {
            Ok(Self::Value::default())
        }
        fn visit_str<E>(self, _: &str) -> Result<Self::Value, E> {
            Ok(Self::Value::default())
        }
    };
}

impl<'de> Deserialize<'de> for Keys {
    fn deserialize<D: Deserializer<'de>>(reader: D) -> Result<Self, D::Error> {
        struct Any;
        impl<'de> Visitor<'de> for Any {
            type Value = Keys;
            ignore_scalars!();
            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Keys, A::Error> {
                while list.next_element::<IgnoredAny>()?.is_some() {}
                Ok(Keys::default())
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Keys, A::Error> {
                let mut keys = Keys::default();
                while let Some((key, IgnoredAny)) = map.next_entry::<String, _>()? {
                    keys.0.push(key);
                }
                Ok(keys)
            }
        }
        reader.deserialize_any(Any)
    }
}

impl<'de> Deserialize<'de> for Outline {
    fn deserialize<D: Deserializer<'de>>(reader: D) -> Result<Self, D::Error> {
        struct Any;
        impl<'de> Visitor<'de> for Any {
            type Value = Outline;
            ignore_scalars!();
            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Outline, A::Error> {
                let first = list.next_element::<Keys>()?.unwrap_or_default().0;
                while list.next_element::<IgnoredAny>()?.is_some() {}
                Ok(Outline { is_list: true, keys: Vec::new(), first })
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Outline, A::Error> {
                let mut found = Outline::default();
                while let Some(key) = map.next_key::<String>()? {
                    match found.keys.is_empty() {
                        true => found.first = map.next_value::<Keys>()?.0,
                        false => _ = map.next_value::<IgnoredAny>()?,
                    }
                    if found.keys.len() < KEYS_KEPT {
                        found.keys.push(key);
                    }
                }
                Ok(found)
            }
        }
        reader.deserialize_any(Any)
    }
}

/// Reads the file's value where `key` is none, or else the value under a key of its object.
struct Entries<'a, F> {
    key: Option<&'a str>,
    visit: &'a mut F,
}

impl<F: FnMut(Spot<'_>, Value)> Entries<'_, F> {
    fn whole(self, value: impl Into<Value>) {
        (self.visit)(Spot { key: self.key, index: None }, value.into());
    }
}

impl<'de, F: FnMut(Spot<'_>, Value)> DeserializeSeed<'de> for Entries<'_, F> {
    type Value = ();
    fn deserialize<D: Deserializer<'de>>(self, reader: D) -> Result<(), D::Error> {
        reader.deserialize_any(self)
    }
}

impl<'de, F: FnMut(Spot<'_>, Value)> Visitor<'de> for Entries<'_, F> {
    type Value = ();
    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }
    fn visit_unit<E>(self) -> Result<(), E> {
        self.whole(Value::Null);
        Ok(())
    }
    fn visit_bool<E>(self, value: bool) -> Result<(), E> {
        self.whole(value);
        Ok(())
    }
    fn visit_u64<E>(self, value: u64) -> Result<(), E> {
        self.whole(value);
        Ok(())
    }
    fn visit_i64<E>(self, value: i64) -> Result<(), E> {
        self.whole(value);
        Ok(())
    }
    fn visit_f64<E>(self, value: f64) -> Result<(), E> {
        self.whole(value);
        Ok(())
    }
    fn visit_str<E>(self, value: &str) -> Result<(), E> {
        self.whole(value);
        Ok(())
    }
    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<(), A::Error> {
        let mut index = 0;
        while let Some(value) = list.next_element::<Value>()? {
            (self.visit)(Spot { key: self.key, index: Some(index) }, value);
            index += 1;
        }
        // Nobody is to pass over a value that should not be a list, because the list is empty.
        if index == 0 && self.key.is_some() {
            self.whole(Value::Array(Vec::new()));
        }
        Ok(())
    }
    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        if self.key.is_some() {
            let value = Value::deserialize(MapAccessDeserializer::new(map))?;
            self.whole(value);
            return Ok(());
        }
        while let Some(key) = map.next_key::<String>()? {
            map.next_value_seed(Entries { key: Some(&key), visit: &mut *self.visit })?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spots(json: &str) -> Vec<String> {
        let mut found = Vec::new();
        entries(json.as_bytes(), |spot, value| found.push(format!("{spot} {value}"))).unwrap();
        found
    }

    #[test]
    fn entries_come_one_by_one_with_their_place() {
        assert_eq!(spots(r#"[1, {"a": [2]}]"#), ["[0] 1", r#"[1] {"a":[2]}"#]);
        let object = r#"{"x": [{"a": 1}, null], "y": {"b": [1]}, "z": "t", "e": [], "n": null, "f": -1.5}"#;
        assert_eq!(
            spots(object),
            [r#"x[0] {"a":1}"#, "x[1] null", r#"y {"b":[1]}"#, r#"z "t""#, "e []", "n null", "f -1.5"]
        );
        assert_eq!(spots("3"), [" 3"]);
        assert!(entries(b"[1, 2", |_, _| ()).unwrap_err().contains("EOF while parsing a list at line 1"));
        assert!(entries(b"[1] 2", |_, _| ()).unwrap_err().contains("trailing"));
        assert_eq!(spots("\u{feff}[1, NaN]"), ["[0] 1", "[1] null"]);
    }

    #[test]
    fn outlines_have_the_keys_of_the_file_and_of_its_first_value() {
        let keys = |keys: &[&str]| keys.iter().map(|key| (*key).to_owned()).collect::<Vec<_>>();
        let of = |json: &str| outline(json.as_bytes()).unwrap();
        let list = Outline { is_list: true, keys: vec![], first: keys(&["a", "b"]) };
        assert_eq!(of(r#"[{"a": 1, "b": [2]}, 3, {"c": 1}]"#), list);
        let object = Outline { is_list: false, keys: keys(&["x", "y"]), first: keys(&["a"]) };
        assert_eq!(of(r#"{"x": {"a": 1}, "y": [1, 2]}"#), object);
        assert_eq!(of("true"), Outline::default());
        assert!(outline(b"{\"a\": ").is_err());
    }
}
