//! Normalisation of answers as VQA's evaluation does it, with its quirks.

use std::collections::HashMap;
use std::sync::LazyLock;

use crate::{ptb, python};

/// Marks that go or become spaces; the apostrophe, the colon, `$`, `%`, `&` and `*` stay.
const MARKS: &str = ";/[]\"{}()=+\\_->@`,?!<";

/// The evaluation passes a regular expression's flag where the number of replacements goes: 32 periods are removed.
const PERIODS: usize = 32;

const ARTICLES: [&str; 3] = ["a", "an", "the"];

const NUMBERS: [(&str, &str); 12] = [
    ("none", "0"),
    ("zero", "0"),
    ("one", "1"),
    ("two", "2"),
    ("three", "3"),
    ("four", "4"),
    ("five", "5"),
    ("six", "6"),
    ("seven", "7"),
    ("eight", "8"),
    ("nine", "9"),
    ("ten", "10"),
];

/// The contractions that the evaluation restores, where one of their apostrophes is missing.
///
/// Its list also has `let's` and `she's`, which stand for themselves, and those of "I", which no lower-case word is.
const CONTRACTIONS: &str = "ain't aren't can't could've couldn't couldn't've didn't doesn't don't hadn't hadn't've \
    hasn't haven't he'd he'd've he's how'd how'll how's isn't it'd it'd've it'll ma'am mightn't mightn't've might've \
    mustn't must've needn't not've o'clock oughtn't 'ow's'at shan't she'd've should've shouldn't shouldn't've \
    somebody'd've somebody'll somebody's someone'd someone'd've someone'll someone's something'd something'd've \
    something'll that's there'd there'd've there're there's they'd they'd've they'll they're they've 'twas wasn't \
    we'd've we've weren't what'll what're what's what've when's where'd where's where've who'd who'd've who'll who's \
    who've why'll why're why's won't would've wouldn't wouldn't've y'all y'all'll y'all'd've you'd you'd've you'll \
    you're you've";

static RESTORED: LazyLock<HashMap<String, &'static str>> = LazyLock::new(|| {
    let missing_one = |whole: &'static str| {
        let without = move |(at, _)| (format!("{}{}", &whole[..at], &whole[at + 1..]), whole);
        whole.match_indices('\'').map(without)
    };
    let mut restored: HashMap<String, &'static str> = CONTRACTIONS.split(' ').flat_map(missing_one).collect();
    // A mistake of the list.
    restored.insert("somebody'd".into(), "somebodyd");
    restored
});

/// An answer on one line without spaces around it; the first step.
pub fn clean(answer: &str) -> String {
    python::trim(&answer.replace(['\n', '\t'], " ")).to_owned()
}

/// An answer without punctuation.
///
/// A mark becomes a space, or nothing if anywhere in the answer it stands beside a space or a comma stands between two
/// digits. Of the periods that no digit follows, the first 32 go.
pub fn punctuation(answer: &str) -> String {
    let characters: Vec<char> = answer.chars().collect();
    let comma_in_number =
        characters.windows(3).any(|three| three[1] == ',' && ptb::is_digit(three[0]) && ptb::is_digit(three[2]));
    let beside_space = |mark: char| characters.windows(2).any(|two| two == [mark, ' '] || two == [' ', mark]);
    let goes: Vec<(char, bool)> = MARKS.chars().map(|mark| (mark, comma_in_number || beside_space(mark))).collect();
    let mut without_marks = String::with_capacity(answer.len());
    for &character in &characters {
        match goes.iter().find(|(mark, _)| *mark == character) {
            Some((_, true)) => {}
            Some((_, false)) => without_marks.push(' '),
            None => without_marks.push(character),
        }
    }
    let mut rest = without_marks.chars().peekable();
    let (mut removed, mut text) = (0, String::with_capacity(without_marks.len()));
    while let Some(character) = rest.next() {
        let before_digit = rest.peek().is_some_and(|&next| ptb::is_digit(next));
        if character == '.' && !before_digit && removed < PERIODS {
            removed += 1;
        } else {
            text.push(character);
        }
    }
    text
}

/// An answer in lower case, with digits for number words, without articles, with the apostrophes of contractions, and
/// single spaces.
pub fn digits_and_articles(answer: &str) -> String {
    let lower = answer.to_lowercase();
    let words = python::split(&lower).map(|word| {
        let number = NUMBERS.iter().find(|(name, _)| *name == word);
        number.map_or(word, |(_, digits)| digits)
    });
    let words = words.filter(|word| !ARTICLES.contains(word));
    words.map(|word| RESTORED.get(word).copied().unwrap_or(word)).collect::<Vec<_>>().join(" ")
}

/// An answer after both steps, [`punctuation`] and [`digits_and_articles`]: what answers are compared by.
pub fn normalize(answer: &str) -> String {
    digits_and_articles(&punctuation(answer))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marks_go_or_become_spaces() {
        assert_eq!(punctuation("red/white"), "red white");
        assert_eq!(punctuation("red, white-ish"), "red white ish");
        assert_eq!(punctuation("1,000-ish"), "1000ish");
        assert_eq!(punctuation("5. 3.5 .5 a.b"), "5 3.5 .5 ab");
    }

    #[test]
    fn only_32_periods_go() {
        assert_eq!(punctuation(&".".repeat(40)), ".".repeat(8));
    }

    #[test]
    fn words_are_restored() {
        assert_eq!(normalize("Dont know the Two"), "don't know 2");
        assert_eq!(normalize("hed've somebody'd yall'd've lets oclock"), "he'd've somebodyd y'all'd've lets o'clock");
    }
}
