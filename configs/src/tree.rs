//! A YAML document as a tree in which every value and key knows where it came from.

use crate::problem::{Origin, printable};

/// A value and the place it came from.
#[derive(Clone, Debug)]
pub(crate) struct Node {
    pub(crate) origin: Origin,
    pub(crate) value: Value,
}

/// What a node holds.
#[derive(Clone, Debug)]
pub(crate) enum Value {
    Scalar(Scalar),
    List(Vec<Node>),
    Map(Vec<Entry>),
}

/// A single value as it was written. Its type is decided by the one who reads it.
#[derive(Clone, Debug)]
pub(crate) struct Scalar {
    pub(crate) text: String,
    pub(crate) style: Style,
}

/// How a scalar was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Style {
    /// Without quotes in a file: `null`, `true` and numbers have their YAML meaning.
    Plain,
    /// In quotes or as a block: always text.
    Quoted,
    /// Typed behind `--set`, where a shell has eaten the quotes: text, number or `null`, as the key wants it.
    CommandLine,
}

/// One key of a map with its value.
#[derive(Clone, Debug)]
pub(crate) struct Entry {
    pub(crate) key: String,
    pub(crate) key_origin: Origin,
    pub(crate) value: Node,
}

/// What YAML's core schema says a plain scalar is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Meaning {
    Nothing,
    Switch(bool),
    Number,
    Text,
}

impl Scalar {
    /// What the scalar is by itself, before a key wants it to be something.
    pub(crate) fn meaning(&self) -> Meaning {
        if self.style == Style::Quoted {
            return Meaning::Text;
        }
        match self.text.as_str() {
            "" | "~" | "null" | "Null" | "NULL" => Meaning::Nothing,
            "true" | "True" | "TRUE" => Meaning::Switch(true),
            "false" | "False" | "FALSE" => Meaning::Switch(false),
            text if is_number(text) => Meaning::Number,
            _ => Meaning::Text,
        }
    }
}

/// Whether YAML 1.2's core schema reads `text` as a number. Numbers that are too large for a double stay text, as for
/// the writer of the resolved config.
fn is_number(text: &str) -> bool {
    let unsigned = text.strip_prefix(['-', '+']).unwrap_or(text);
    if matches!(unsigned, ".inf" | ".Inf" | ".INF") || matches!(text, ".nan" | ".NaN" | ".NAN") {
        return true;
    }
    unsigned.starts_with(|c: char| c.is_ascii_digit() || c == '.')
        && unsigned.chars().all(|c| c.is_ascii_digit() || matches!(c, '.' | 'e' | 'E' | '+' | '-'))
        && unsigned.parse::<f64>().is_ok_and(f64::is_finite)
}

impl Node {
    /// An empty map that stands at `origin`.
    pub(crate) fn empty_map(origin: Origin) -> Node {
        Node { origin, value: Value::Map(Vec::new()) }
    }

    /// Whether the node is `null` or nothing at all.
    pub(crate) fn is_null(&self) -> bool {
        matches!(&self.value, Value::Scalar(scalar) if scalar.meaning() == Meaning::Nothing)
    }

    /// The text of a scalar.
    pub(crate) fn as_text(&self) -> Option<&str> {
        match &self.value {
            Value::Scalar(scalar) if scalar.meaning() != Meaning::Nothing => Some(&scalar.text),
            _ => None,
        }
    }

    /// The value of `key` if the node is a map that has it.
    pub(crate) fn get(&self, key: &str) -> Option<&Node> {
        match &self.value {
            Value::Map(entries) => entries.iter().find(|entry| entry.key == key).map(|entry| &entry.value),
            _ => None,
        }
    }

    /// The items of a list.
    pub(crate) fn items(&self) -> &[Node] {
        match &self.value {
            Value::List(items) => items,
            _ => &[],
        }
    }

    /// The origin of the value that `keys` leads to, or of the nearest value above it that exists.
    pub(crate) fn origin_of(&self, keys: &[Step<'_>]) -> &Origin {
        let Some((first, rest)) = keys.split_first() else { return &self.origin };
        let next = match first {
            Step::Key(key) => self.get(key),
            Step::Index(index) => self.items().get(*index),
        };
        next.map_or(&self.origin, |node| node.origin_of(rest))
    }

    /// The value in words, for "found ...".
    pub(crate) fn described(&self) -> String {
        match &self.value {
            Value::Map(entries) => match entries.first() {
                None => "an empty map".to_owned(),
                Some(entry) => format!("a map (`{}: ...`)", printable(&entry.key, 40)),
            },
            Value::List(items) => match items.len() {
                0 => "an empty list".to_owned(),
                1 => "a list of 1 value".to_owned(),
                length => format!("a list of {length} values"),
            },
            Value::Scalar(scalar) => {
                let shown = printable(&scalar.text, 60);
                match scalar.meaning() {
                    Meaning::Nothing if scalar.text.is_empty() => "nothing after the `:`".to_owned(),
                    Meaning::Nothing => format!("`{shown}` (no value)"),
                    Meaning::Switch(_) => format!("`{shown}` (true or false)"),
                    Meaning::Number => format!("the number {shown}"),
                    Meaning::Text if scalar.style == Style::Quoted => format!("the text \"{shown}\""),
                    Meaning::Text => format!("the text `{shown}`"),
                }
            }
        }
    }
}

/// One step of the way from a node to a value below it.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Step<'a> {
    Key(&'a str),
    Index(usize),
}

/// The dotted path of `key` below `path`.
pub(crate) fn join(path: &str, key: &str) -> String {
    let plain = !key.is_empty() && key.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '<'));
    let key = if plain { printable(key, 60) } else { format!("\"{}\"", printable(key, 60)) };
    if path.is_empty() { key } else { format!("{path}.{key}") }
}

#[cfg(test)]
mod tests {
    use super::is_number;

    #[test]
    fn numbers_are_those_of_the_core_schema() {
        for text in ["0", "-1", "+2", "1.5", ".5", "1.", "1e-8", "1.0E+3", ".inf", "-.Inf", ".nan"] {
            assert!(is_number(text), "{text}");
        }
        for text in ["", "-", ".", "e5", "1_000", "0x10", "3-00:00:00", "1.2.3", "inf", "NaN", "2.7b", "10 ", "1e999"] {
            assert!(!is_number(text), "{text}");
        }
    }
}
