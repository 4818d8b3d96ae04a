//! Addresses of files and folders, and files named together with their content hash.

use std::fmt;

use crate::decode::{FromNode, Place};
use crate::problem::{Problems, printable};
use crate::rule::Rule;
use crate::schema::Shape;
use crate::section::section;
use crate::suggest::{listed, nearest};

/// The schemes that an address may have: object stores, the web, files, model hubs and what is built in.
pub const SCHEMES: &[&str] = &["s3", "gs", "az", "abfs", "abfss", "http", "https", "file", "hf", "builtin"];

/// An address: `scheme://...` with one of [`SCHEMES`], `builtin:name`, or a path on this machine (relative to the
/// folder in which the command runs).
#[derive(Clone, Debug, PartialEq, Eq, Hash, serde::Serialize)]
#[serde(transparent)]
pub struct Uri(String);

impl Uri {
    /// An address that the caller knows to be well formed; addresses of people come from configs, which check them.
    pub fn new(text: &str) -> Uri {
        Uri(text.to_owned())
    }

    /// The address as it was written.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The scheme, or `None` for a path on this machine.
    pub fn scheme(&self) -> Option<&str> {
        scheme(&self.0)
    }

    /// The name behind `builtin:`.
    pub fn builtin(&self) -> Option<&str> {
        self.0.strip_prefix("builtin:")
    }
}

impl fmt::Display for Uri {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What an address is, in words.
const ADDRESS: &str = "an address: a path, or scheme://... (s3, gs, az, https, file, hf)";

fn scheme(text: &str) -> Option<&str> {
    match text.split_once(':') {
        Some((scheme, rest)) if rest.starts_with("//") || scheme == "builtin" => Some(scheme),
        _ => None,
    }
}

impl FromNode for Uri {
    fn shape() -> Shape {
        Shape::Special(ADDRESS)
    }

    fn from_node(place: Place<'_>, problems: &mut Problems) -> Option<Self> {
        let expected = |problems: &mut Problems, suggestion| {
            place.refuse(ADDRESS, suggestion, problems);
            None
        };
        let Some(text) = place.node.as_text() else { return expected(problems, None) };
        let text = String::from_node(Place { rule: &Rule::Any, ..place }, problems).filter(|read| read == text)?;
        if text.trim().is_empty() || text.chars().any(|c| c.is_control()) || text.trim() != text {
            return expected(problems, Some("remove spaces around it and control characters".to_owned()));
        }
        if let Some(found) = scheme(&text) {
            let rest = text[found.len() + 1..].trim_start_matches('/');
            if !SCHEMES.contains(&found) {
                let suggestion = match nearest(found, SCHEMES.iter().copied()) {
                    Some(name) => format!("did you mean `{}`?", printable(&text.replacen(found, name, 1), 80)),
                    None => format!("the schemes are {}", listed(SCHEMES.iter().copied())),
                };
                return expected(problems, Some(suggestion));
            }
            if rest.is_empty() {
                return expected(problems, Some(format!("say what stands behind `{found}:`, e.g. s3://bucket/folder")));
            }
        }
        Some(Uri(text))
    }
}

/// A SHA-256 in lower-case hexadecimal digits.
#[derive(Clone, Debug, PartialEq, Eq, Hash, serde::Serialize)]
#[serde(transparent)]
pub struct Sha256(String);

impl Sha256 {
    /// The 64 digits.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromNode for Sha256 {
    fn shape() -> Shape {
        Shape::Special("a SHA-256: 64 hexadecimal digits in lower case")
    }

    fn from_node(place: Place<'_>, problems: &mut Problems) -> Option<Self> {
        let text = place.node.as_text().unwrap_or("");
        let is_digit = |c: char| c.is_ascii_digit() || ('a'..='f').contains(&c);
        if text.len() == 64 && text.chars().all(is_digit) {
            return Some(Sha256(text.to_owned()));
        }
        let lower = text.to_ascii_lowercase();
        let suggestion = if text.len() == 64 && lower.chars().all(is_digit) {
            format!("write it in lower case: {lower}")
        } else if !text.is_empty() && text.chars().all(|c| c.is_ascii_hexdigit()) {
            format!("this has {} digits; `sha256sum FILE` prints all of them", text.chars().count())
        } else {
            "`sha256sum FILE` prints it; null if it is not known".to_owned()
        };
        place.refuse("a SHA-256: 64 hexadecimal digits in lower case", Some(suggestion), problems);
        None
    }
}

section! {
    /// A file of weights and what its content must hash to.
    pub struct Weights {
        /// Where the weights lie.
        pub uri: Uri,
        /// SHA-256 of the file, checked before it is used; null if it is not known.
        pub sha256: Option<Sha256> = None,
    }
}
