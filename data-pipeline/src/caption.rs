//! Cleaning of captions and questions, byte for byte as the reference (LAVIS `blip_processors.py`).

/// Characters that the reference takes out: its regular expression `[.!\"()*#:;~]`.
const REMOVED: [char; 10] = ['.', '!', '"', '(', ')', '*', '#', ':', ';', '~'];

/// Names of captions in columns and metadata, the likeliest first. Any case is read.
pub(crate) const NAMES: [&str; 6] = ["caption", "captions", "text", "txt", "alt_text", "alt"];

/// Words a text keeps at most, in the reference's default.
pub const DEFAULT_MAX_WORDS: usize = 50;

/// Bytes of a raw text that are looked at. The reference has no limit; no caption of 50 words comes near this one,
/// and it bounds what a hostile row can cost.
pub const MAX_RAW_BYTES: usize = 1 << 16;

/// Cleans captions and questions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cleaner {
    /// Words a text keeps at most; words are what single spaces separate.
    pub max_words: usize,
    /// Put in front of every caption, for example "a photo of "; not counted in `max_words`.
    pub prompt: String,
}

impl Default for Cleaner {
    fn default() -> Self {
        Self { max_words: DEFAULT_MAX_WORDS, prompt: String::new() }
    }
}

impl Cleaner {
    /// The prompt and the cleaned caption: lower case, each removed character a space, runs of two or more white-space
    /// characters one space, line feeds taken off the end, then spaces off both ends, then the first `max_words`.
    ///
    /// A single tab or line feed inside stays, as does every other character.
    pub fn caption(&self, raw: &str) -> String {
        let mut spaced = String::with_capacity(self.prompt.len() + raw.len().min(MAX_RAW_BYTES));
        let lowered = lower(raw);
        let mut characters = lowered.chars().map(|c| if is_removed(c) { ' ' } else { c }).peekable();
        while let Some(character) = characters.next() {
            let mut run = 1;
            while is_python_space(character) && characters.next_if(|next| is_python_space(*next)).is_some() {
                run += 1;
            }
            spaced.push(if run > 1 { ' ' } else { character });
        }
        let stripped = spaced.trim_end_matches('\n').trim_matches(' ');
        format!("{}{}", self.prompt, first_words(stripped, self.max_words))
    }

    /// The cleaned question: lower case, the characters taken out without a trace, spaces taken off the end, then the
    /// first `max_words`. Inner white space and the question mark stay; no prompt.
    pub fn question(&self, raw: &str) -> String {
        let mut text = lower(raw);
        text.retain(|c| !is_removed(c));
        first_words(text.trim_end_matches(' '), self.max_words).to_owned()
    }
}

/// Whether nothing is left of a caption once it is cleaned: white space and characters that are taken out.
pub fn is_blank(raw: &str) -> bool {
    raw[..raw.floor_char_boundary(MAX_RAW_BYTES)].chars().all(|c| is_removed(c) || is_python_space(c))
}

/// Python's `str.lower` of the first [`MAX_RAW_BYTES`]: full Unicode lower-casing with the final-sigma rule.
///
/// Rust's tables are of a newer Unicode version than Python 3.11's (14.0); only characters assigned later differ.
fn lower(raw: &str) -> String {
    raw[..raw.floor_char_boundary(MAX_RAW_BYTES)].to_lowercase()
}

fn is_removed(character: char) -> bool {
    REMOVED.contains(&character)
}

/// Python's `\s` in a text pattern, that is `str.isspace`: Unicode white space and the four information separators.
fn is_python_space(character: char) -> bool {
    character.is_whitespace() || ('\u{1c}'..='\u{1f}').contains(&character)
}

/// Python's `" ".join(text.split(" ")[:max_words])`.
fn first_words(text: &str, max_words: usize) -> &str {
    match max_words.checked_sub(1) {
        None => "",
        Some(kept_spaces) => text.match_indices(' ').nth(kept_spaces).map_or(text, |(at, _)| &text[..at]),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    // Expected values: LAVIS' three expressions run by Python 3.11.
    #[test]
    fn white_space_is_pythons() {
        let clean = |raw: &str| Cleaner::default().caption(raw);
        assert_eq!(clean("a\u{a0}\u{3000}b"), "a b", "Unicode spaces are white space");
        assert_eq!(clean("a\u{1c}\u{1f}b"), "a b", "so are the information separators, which Rust does not count");
        assert_eq!(
            clean("a\u{1c}b\u{200b}\u{200b}c"),
            "a\u{1c}b\u{200b}\u{200b}c",
            "one stays; zero width is no space"
        );
        assert_eq!(clean("\u{a0} x \u{a0}"), "x", "runs at the ends become spaces and go");
        assert_eq!(clean("\tx\t"), "\tx\t", "a single tab stays, also at the ends");
        assert_eq!(clean("x \n"), "x");
        assert_eq!(clean(" x\n"), "x");
        assert_eq!(clean("x.\n."), "x");
    }

    #[test]
    fn lower_case_is_pythons() {
        let question = |raw: &str| Cleaner::default().question(raw);
        assert_eq!(question("ΟΔΟΣ ΣΑΣ İ ẞ Ǆ"), "οδος σας i\u{307} ß ǆ");
    }

    #[test]
    fn words_are_what_single_spaces_separate() {
        let cleaner = |max_words| Cleaner { max_words, prompt: String::new() };
        assert_eq!(cleaner(2).question("a  b c"), "a ", "the empty word between two spaces counts");
        assert_eq!(cleaner(1).caption("a b"), "a");
        assert_eq!(cleaner(0).caption("a b"), "");
        assert_eq!(cleaner(3).caption("a b c"), "a b c");
    }

    #[test]
    fn a_huge_caption_costs_little() {
        let cleaner = Cleaner::default();
        for raw in [" ".repeat(10 << 20), "Σ'".repeat(5 << 20), "..\n".repeat(3 << 20), "é".repeat(5 << 20)] {
            assert!(cleaner.caption(&raw).len() <= MAX_RAW_BYTES);
            assert!(cleaner.question(&raw).len() <= MAX_RAW_BYTES);
        }
    }

    proptest! {
        #[test]
        fn a_caption_is_blank_when_cleaning_leaves_nothing(raw in "[ .!\\n\\u{a0}#a~]{0,8}") {
            // A single tab or line feed inside is all that cleaning may leave of a blank one.
            let clean = Cleaner::default().caption(&raw);
            prop_assert_eq!(is_blank(&raw), clean.trim().is_empty());
        }

        #[test]
        fn a_clean_caption_has_no_removed_character_and_few_words(raw: String, max_words in 1usize..6) {
            let clean = Cleaner { max_words, prompt: String::new() }.caption(&raw);
            prop_assert!(!clean.contains(REMOVED));
            prop_assert!(clean.split(' ').count() <= max_words);
            prop_assert!(!clean.contains("  ") && !clean.starts_with(' ') && !clean.ends_with(' '));
        }
    }
}
