//! The closed vocabulary of the corpus: attributes of objects and every word of captions, questions and answers.

use serde::{Deserialize, Serialize};

/// An attribute of an object whose values are words.
macro_rules! attribute {
    ($(#[$doc:meta])* $name:ident { $($variant:ident = $word:literal),+ $(,)? }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(rename_all = "lowercase")]
        pub enum $name {
            $(#[doc = concat!("Written `", $word, "`.")] $variant),+
        }

        impl $name {
            /// Every value, in the order of the word list.
            pub const ALL: &[$name] = &[$($name::$variant),+];

            /// The word for it in captions, questions, answers and scene JSON.
            pub const fn word(self) -> &'static str {
                match self { $($name::$variant => $word),+ }
            }
        }
    };
}

attribute! {
    /// The colour of an object.
    Colour {
        Red = "red", Green = "green", Blue = "blue", Yellow = "yellow",
        Purple = "purple", Orange = "orange", Cyan = "cyan", Pink = "pink",
    }
}
attribute! {
    /// The outline of an object.
    Shape {
        Circle = "circle", Square = "square", Triangle = "triangle",
        Star = "star", Cross = "cross", Ring = "ring",
    }
}
attribute! {
    /// How large an object is; the two ranges do not touch.
    Size { Small = "small", Large = "large" }
}
attribute! {
    /// The pattern inside an object. Captions do not say `plain`; questions do where they need it.
    Texture { Plain = "plain", Striped = "striped", Dotted = "dotted", Checked = "checked" }
}

/// The colour words, in the order of [`Colour::ALL`].
pub const COLOUR_WORDS: [&str; 8] = ["red", "green", "blue", "yellow", "purple", "orange", "cyan", "pink"];
/// The shape words, in the order of [`Shape::ALL`].
pub const SHAPE_WORDS: [&str; 6] = ["circle", "square", "triangle", "star", "cross", "ring"];
/// The plurals of the shape words, in the order of [`Shape::ALL`].
pub const SHAPE_PLURALS: [&str; 6] = ["circles", "squares", "triangles", "stars", "crosses", "rings"];

impl Shape {
    /// The word for several of it.
    pub const fn plural(self) -> &'static str {
        SHAPE_PLURALS[self as usize]
    }
}

/// The word for a small count.
///
/// # Panics
/// When `count` is above 4: no scene holds more objects.
pub(super) fn number_word(count: usize) -> &'static str {
    ["zero", "one", "two", "three", "four"][count]
}

/// `a` or `an`, as the phrase that follows needs it.
pub(super) fn article(phrase: &str) -> &'static str {
    if phrase.starts_with(['a', 'e', 'i', 'o', 'u']) { "an" } else { "a" }
}

/// Every word that captions, questions and answers are made of, sorted. `write_corpus` copies it to `corpus.json`.
pub const VOCABULARY: &[&str] = &[
    "a",
    "above",
    "an",
    "and",
    "are",
    "at",
    "background",
    "below",
    "blue",
    "bottom",
    "center",
    "checked",
    "circle",
    "circles",
    "color",
    "cross",
    "crosses",
    "cyan",
    "dark",
    "dotted",
    "four",
    "green",
    "has",
    "how",
    "image",
    "in",
    "is",
    "large",
    "left",
    "light",
    "many",
    "no",
    "object",
    "objects",
    "of",
    "on",
    "one",
    "orange",
    "photo",
    "picture",
    "pink",
    "plain",
    "purple",
    "red",
    "right",
    "ring",
    "rings",
    "scene",
    "shape",
    "shows",
    "small",
    "square",
    "squares",
    "star",
    "stars",
    "striped",
    "the",
    "there",
    "this",
    "three",
    "top",
    "triangle",
    "triangles",
    "two",
    "what",
    "with",
    "yellow",
    "yes",
];
