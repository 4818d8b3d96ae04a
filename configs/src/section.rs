//! The three macros in which the types of a config are written down.
//!
//! `section!` is a struct of documented keys, `kinds!` a choice between sections by their `kind`, `choice!` a choice
//! between words. Each gives the type, its reader, which notes every mistake, and its schema, so that a key is added in
//! one place only.

/// A section: `/// doc`, `pub key: Type = default => rule,`. A key without `= default` has to be stated. `check f` runs
/// `f(&section, place, problems)` on a section that was read without a mistake.
macro_rules! section {
    (
        $(#[doc = $doc:literal])+
        pub struct $name:ident $(check $check:path)? {
            $( $(#[doc = $field_doc:literal])+ pub $field:ident : $ty:ty $(= $default:expr)? $(=> $rule:expr)? ),+ $(,)?
        }
    ) => {
        $(#[doc = $doc])+
        #[derive(Clone, Debug, PartialEq, serde::Serialize)]
        pub struct $name {
            $( $(#[doc = $field_doc])+ pub $field: $ty, )+
        }

        impl $crate::section::Keys for $name {
            fn schema() -> $crate::schema::SectionSchema {
                $crate::schema::SectionSchema {
                    doc: $crate::section::joined(&[$($doc),+]),
                    fields: vec![$( $crate::schema::FieldSchema {
                        name: stringify!($field),
                        doc: $crate::section::joined(&[$($field_doc),+]),
                        shape: <$ty as $crate::decode::FromNode>::shape(),
                        rule: $crate::section::section!(@rule $($rule)?),
                        default: $crate::section::section!(@default_text $ty $(, $default)?),
                    } ),+],
                }
            }

            fn read(
                fields: &$crate::decode::Fields<'_>,
                place: $crate::decode::Place<'_>,
                problems: &mut $crate::problem::Problems,
            ) -> Option<Self> {
                $( let $field: Option<$ty> = fields.read(
                    stringify!($field),
                    $crate::section::section!(@default $ty $(, $default)?),
                    &$crate::section::section!(@rule $($rule)?),
                    problems,
                ); )+
                let section = $name { $( $field: $field?, )+ };
                $( $check(&section, place, problems); )?
                let _ = place;
                Some(section)
            }
        }

        impl $crate::decode::FromNode for $name {
            fn shape() -> $crate::schema::Shape {
                $crate::schema::Shape::Section(<Self as $crate::section::Keys>::schema())
            }

            fn from_node(
                place: $crate::decode::Place<'_>,
                problems: &mut $crate::problem::Problems,
            ) -> Option<Self> {
                let fields = $crate::decode::Fields::open(place, problems)?;
                fields.refuse_unknown(&<Self as $crate::section::Keys>::schema(), &[], problems);
                <Self as $crate::section::Keys>::read(&fields, place, problems)
            }
        }
    };
    (@rule) => { $crate::rule::Rule::Any };
    (@rule $rule:expr) => { $rule };
    (@default $ty:ty) => { None };
    (@default $ty:ty, $default:expr) => { Some((|| $default) as fn() -> $ty) };
    (@default_text $ty:ty) => { None };
    (@default_text $ty:ty, $default:expr) => {{
        let default: $ty = $default;
        serde_json::to_string(&default).ok()
    }};
}

/// A section whose keys depend on its `kind`: `/// doc`, `"name" => Variant(Section),`. `or name` lets another key of
/// the section stand for a `kind` that is not stated.
macro_rules! kinds {
    (
        $(#[doc = $doc:literal])+
        pub enum $name:ident $(or $fallback:ident)? {
            $( $(#[doc = $variant_doc:literal])+ $tag:literal => $variant:ident($section:ty) ),+ $(,)?
        }
    ) => {
        $(#[doc = $doc])+
        #[derive(Clone, Debug, PartialEq, serde::Serialize)]
        #[serde(tag = "kind")]
        pub enum $name {
            $( $(#[doc = $variant_doc])+ #[serde(rename = $tag)] $variant($section), )+
        }

        impl $name {
            /// The name of the kind as it stands in a config.
            pub fn kind(&self) -> &'static str {
                match self {
                    $( $name::$variant(_) => $tag, )+
                }
            }
        }

        impl $crate::decode::FromNode for $name {
            fn shape() -> $crate::schema::Shape {
                $crate::schema::Shape::Kinds($crate::schema::KindsSchema {
                    doc: $crate::section::joined(&[$($doc),+]),
                    kinds: vec![$( $crate::schema::KindSchema {
                        name: $tag,
                        doc: $crate::section::joined(&[$($variant_doc),+]),
                        section: <$section as $crate::section::Keys>::schema(),
                    } ),+],
                })
            }

            fn from_node(
                place: $crate::decode::Place<'_>,
                problems: &mut $crate::problem::Problems,
            ) -> Option<Self> {
                let fields = $crate::decode::Fields::open(place, problems)?;
                let fallback: Option<&str> = None $( .or(Some(stringify!($fallback))) )?;
                let kind = fields.kind(&[$($tag),+], fallback, problems)?;
                match kind {
                    $( $tag => {
                        fields.refuse_unknown(&<$section as $crate::section::Keys>::schema(), &["kind"], problems);
                        <$section as $crate::section::Keys>::read(&fields, place, problems).map($name::$variant)
                    } )+
                    _ => None,
                }
            }
        }
    };
}

/// A choice between words: `/// doc`, `"word" => Variant,`.
macro_rules! choice {
    (
        $(#[doc = $doc:literal])+
        pub enum $name:ident {
            $( $(#[doc = $variant_doc:literal])+ $word:literal => $variant:ident ),+ $(,)?
        }
    ) => {
        $(#[doc = $doc])+
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize)]
        pub enum $name {
            $( $(#[doc = $variant_doc])+ #[serde(rename = $word)] $variant, )+
        }

        impl $name {
            /// The word as it stands in a config.
            pub fn as_str(self) -> &'static str {
                match self {
                    $( $name::$variant => $word, )+
                }
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(self.as_str())
            }
        }

        impl $crate::decode::FromNode for $name {
            fn shape() -> $crate::schema::Shape {
                $crate::schema::Shape::Choice(vec![$( ($word, $crate::section::joined(&[$($variant_doc),+])) ),+])
            }

            fn from_node(
                place: $crate::decode::Place<'_>,
                problems: &mut $crate::problem::Problems,
            ) -> Option<Self> {
                $crate::decode::read_choice(place, &[$( ($word, $name::$variant) ),+], problems)
            }
        }
    };
}

pub(crate) use {choice, kinds, section};

use crate::decode::{Fields, Place};
use crate::problem::{Origin, Problems};
use crate::schema::SectionSchema;
use crate::tree::Node;

/// A section's keys, apart from the question which section it is.
pub(crate) trait Keys: Sized {
    /// The keys.
    fn schema() -> SectionSchema;

    /// The section from its keys, or `None` after noting what is wrong.
    fn read(fields: &Fields<'_>, place: Place<'_>, problems: &mut Problems) -> Option<Self>;
}

/// The section that an absent one stands for: every key at its default.
pub(crate) fn all_defaults<T: Keys>() -> T {
    let node = Node::empty_map(Origin::WholeFile { file: "".into() });
    let mut problems = Problems::default();
    let place = Place::root(&node);
    Fields::open(place, &mut problems)
        .and_then(|fields| T::read(&fields, place, &mut problems))
        .expect("invariant: every key of a section that may be absent has a default")
}

/// Doc-comment lines as one text.
pub(crate) fn joined(lines: &[&str]) -> String {
    lines.iter().map(|line| line.trim()).collect::<Vec<_>>().join(" ").trim().to_owned()
}
