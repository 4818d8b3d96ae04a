//! Tokens of captions as `pycocoevalcap`'s `PTBTokenizer` gives them: Stanford's tokenizer 3.4.1 with lower case and
//! without the punctuation that the scores leave out.
//!
//! `rules.rs` says what a token looks like, `lexer.rs` finds the longest one, `rewrite.rs` changes its text. How far it
//! agrees with the reference, and how that is checked, says `docs/scores.md`.

mod alphabet;
mod lexer;
mod lower;
mod parts;
mod ranges;
mod rewrite;
mod rules;

use crate::parallel::map_chunks;
use crate::python;
pub(crate) use alphabet::is_digit;
use lexer::Lexer;

/// Tokens that are left out, as `pycocoevalcap` lists them.
///
/// The list has `-LRB-` and its like in capitals, so the brackets of tokens in lower case stay. That is how scores are
/// computed.
const PUNCTUATION: [&str; 13] = ["''", "'", "``", "`", ".", "?", "!", ",", ":", "-", "--", "...", ";"];

/// Captions that a thread takes at a time.
const CHUNK: usize = 1024;

/// The words of every caption, joined by single spaces, in the order given.
///
/// Where the reference looks beyond the end of a line (a few abbreviations do), the next caption counts, as it does
/// there: callers who want the same tokens give the captions in the same order. Line ends within a caption are spaces.
pub fn tokenize<S: AsRef<str> + Sync>(captions: &[S]) -> Vec<String> {
    lines(captions, |token| !PUNCTUATION.contains(&token))
}

/// All tokens of every caption, punctuation included, joined by single spaces, in the order given; see [`tokenize`].
pub fn tokenize_with_punctuation<S: AsRef<str> + Sync>(captions: &[S]) -> Vec<String> {
    lines(captions, |_| true)
}

fn lines<S: AsRef<str> + Sync>(captions: &[S], wanted: impl Fn(&str) -> bool + Sync) -> Vec<String> {
    map_chunks(captions.len(), CHUNK, Lexer::new, |lexer, range| {
        let text = Text::of(captions, range.start, range.end);
        let mut lines = vec![String::new(); range.len()];
        let mut token_text = String::new();
        let mut line = 0;
        lexer.tokens(&text.joined, text.ends[range.len() - 1], |token| {
            while text.ends[line] <= token.begin {
                line += 1;
            }
            token_text.clear();
            rewrite::append(&mut token_text, token.rewrite, &text.joined[token.begin..token.end]);
            if !token_text.is_empty() && wanted(&token_text) {
                if !lines[line].is_empty() {
                    lines[line].push(' ');
                }
                lines[line].push_str(&token_text);
            }
        });
        // The reference strips the line, with Python's idea of a space.
        for line in &mut lines {
            line.truncate(python::trim_end(line).len());
        }
        lines
    })
}

/// Captions as lines of one text, with as much of what follows as the rules can look at.
struct Text {
    joined: String,
    /// Where each caption ends.
    ends: Vec<usize>,
}

impl Text {
    fn of<S: AsRef<str>>(captions: &[S], first: usize, end: usize) -> Self {
        let (mut joined, mut ends) = (String::new(), Vec::with_capacity(end - first));
        for (index, caption) in captions.iter().enumerate().skip(first) {
            if index > first {
                joined.push('\n');
            }
            // These end lines for the lexer; only between captions may lines end.
            joined.extend(caption.as_ref().chars().map(|character| match character {
                '\n' | '\r' | '\u{B}' | '\u{C}' | '\u{2028}' | '\u{2029}' => ' ',
                other => other,
            }));
            ends.push(joined.len());
            // No rule looks beyond the first word of a later caption and the line's end behind it.
            if index > end && !caption.as_ref().trim().is_empty() {
                break;
            }
        }
        Self { joined, ends }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(caption: &str) -> String {
        tokenize(&[caption, "x"])[0].clone()
    }

    #[test]
    fn contractions_fall_apart() {
        assert_eq!(words("The dog's toys can't be cannot, they'll"), "the dog 's toys ca n't be can not they 'll");
        assert_eq!(words("I'm gonna; 'tis o'clock"), "i 'm gon na 't is o'clock");
    }

    #[test]
    fn abbreviations_keep_their_period() {
        assert_eq!(words("Mr. Smith vs. St. Louis at 5 p.m."), "mr. smith vs. st. louis at 5 p.m.");
        assert_eq!(words("a dog.cat no. 5 no. five."), "a dog.cat no. 5 no five");
    }

    #[test]
    fn punctuation_goes_and_brackets_stay() {
        assert_eq!(words("\"A dog\" (left), [x] -- a... b?"), "a dog -lrb- left -rrb- -lsb- x -rsb- a. b");
    }

    #[test]
    fn the_next_line_decides_about_a_period_twice() {
        let with = |next: &str| tokenize_with_punctuation(&["at Acme Inc.", next])[0].clone();
        assert_eq!([with("A dog"), with("a dog"), with("")], ["at acme inc. .", "at acme inc.", "at acme inc."]);
        assert_eq!(tokenize_with_punctuation(&["at Acme Inc. A dog"])[0], "at acme inc. . a dog");
    }

    #[test]
    fn chunks_do_not_matter() {
        let captions: Vec<String> = (0..3 * CHUNK).map(|index| format!("U.S. number {index} etc.")).collect();
        let all = tokenize_with_punctuation(&captions);
        for (index, line) in all.iter().enumerate() {
            assert_eq!(*line, tokenize_with_punctuation(&captions[index..captions.len().min(index + 3)])[0]);
        }
    }

    #[test]
    fn nothing_gives_nothing() {
        assert_eq!(tokenize::<&str>(&[]), Vec::<String>::new());
        assert_eq!(tokenize(&["", " ", "a"]), ["", "", "a"]);
    }
}
