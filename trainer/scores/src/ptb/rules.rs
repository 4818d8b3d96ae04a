//! The rules of the lexer: what a token looks like, what must follow it, and what becomes of its text.
//!
//! At every place the rule with the longest match wins, what must follow included; of equally long ones the first. The
//! rules were drafted from what is known of the reference's kinds of token and corrected by what it does with texts made
//! for the purpose.

use super::alphabet::NAMES;
use super::parts::PARTS;

/// What becomes of a token's text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rewrite {
    /// It stays.
    Keep,
    /// Soft hyphens go; a token of nothing else becomes `-`.
    Word,
    /// Another text stands for it.
    Fixed(&'static str),
    /// Spaces in it become no-break spaces.
    Spaces,
    /// Parentheses in it become their names, spaces no-break spaces.
    Parentheses,
    /// `&amp;` becomes `&`.
    Ampersands,
    /// Typographic quotes become ASCII ones, pair by pair.
    Quotes,
    /// It becomes `$`, `#` or `cents`.
    Currency,
    /// Fractions of one character become three.
    Fraction,
    /// There is no token.
    Drop,
}

/// Where a token ends within what its rule matched.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// Where the match ends.
    Whole,
    /// After this many characters.
    After(usize),
    /// This many characters before the match's end.
    Before(usize),
    /// Before the first space or line's end.
    Space,
    /// After the last period.
    Period,
    /// Before the last apostrophe.
    Apostrophe,
    /// Before the letter in front of the last apostrophe.
    Not,
}

/// A rule: pattern, where the token ends, whether the next token begins at the token's last character, and its text.
pub struct Rule {
    pub pattern: &'static str,
    pub end: End,
    /// The period that ends the token also ends a sentence, and so is a token of its own once more.
    pub period_again: bool,
    pub rewrite: Rewrite,
}

const fn rule(pattern: &'static str, rewrite: Rewrite) -> Rule {
    Rule { pattern, end: End::Whole, period_again: false, rewrite }
}

const fn ending(pattern: &'static str, end: End, rewrite: Rewrite) -> Rule {
    Rule { pattern, end, period_again: false, rewrite }
}

const fn sentence_end(pattern: &'static str) -> Rule {
    Rule { pattern, end: End::Space, period_again: true, rewrite: Rewrite::Keep }
}

use End::{After, Apostrophe, Before, Not, Period, Space};
use Rewrite::{Ampersands, Currency, Drop, Fixed, Fraction, Keep, Parentheses, Quotes, Spaces, Word};

/// All rules; see [`End`] and [`Rewrite`].
pub const RULES: &[Rule] = &[
    ending(r"(?i:cannot)", Before(3), Keep),
    ending(r"(?i:gonna|gotta|lemme|gimme|wanna)", Before(2), Keep),
    ending(r"'(?i:tis)", Before(2), Keep),
    ending(r"'(?i:twas)", Before(3), Keep),
    rule(r"{tag}", Spaces),
    rule(r"(?i:&(?:md|mdash|ndash);)|[{long_dash}]", Fixed("--")),
    rule(r"{amp}", Fixed("&")),
    rule(r"(?i:&(?:ht|tl|ur|lr|qc|ql|qr|odq|cdq);)|&\#[0-9]+;", Keep),
    ending(r"{word}{clitic}", Apostrophe, Word),
    ending(r"[A-Za-z{soft_hyphen}]*[A-MO-Za-mo-z]{soft_hyphen}*{not}", Not, Word),
    rule(r"{word}", Word),
    // Words with an apostrophe that stay whole.
    rule(r"{apostrophe}(?i:n){apostrophe}? | {apostrophe}(?i:em|till?|cause) | {apostrophe}[2-9]0(?i:s)", Keep),
    rule(r"[lLdDjJ]{apostrophe} | (?i:dunkin|somethin|ol){apostrophe} | (?i:o){any_apostrophe}(?i:o)", Keep),
    rule(r"[A-HJ-XZn]{any_apostrophe}{alpha}{2}{alpha}*", Keep),
    rule(r"{alpha}*{alpha}[aeiouyAEIOUY]{any_apostrophe}[aeiouA-Z]{alpha}*", Keep),
    rule(r"(?i:cont'd)\.? | (?i:'twas|nor'easter|c'mon|e'er|s'mores|ev'ry|li'l|nat'l)", Keep),
    ending(r"(?i:y){apostrophe}{alpha}", Before(1), Keep),
    rule(r"{full_url}", Keep),
    rule(r"{likely_url}", Keep),
    rule(r"{email}", Keep),
    rule(r"@[a-zA-Z_][a-zA-Z_0-9]*|\#{letter}+", Keep),
    ending(r"{clitic}[^A-Za-z]", Before(1), Quotes),
    rule(r"{not}", Quotes),
    rule(r"{date}", Keep),
    rule(r"[-+]?{number}", Word),
    rule(r"(?i:c)\+\+|[CFcf]\#", Keep),
    rule(r"[{script_sign}]?(?:[{superscript}]+|[{subscript}]+)", Keep),
    rule(r"{fraction_of}", Spaces),
    rule(r"[{fraction}]", Fraction),
    rule(r"-(?i:rrb|lrb|rcb|lcb|rsb|lsb)- | (?i:c\.d\.s|pro-|anti-)", Keep),
    rule(r"(?i:s)(?:&|{amp})(?i:p-500|ls)", Ampersands),
    rule(r"(?i:cap){apostrophe}(?i:n) | (?i:c){apostrophe}(?i:est)", Keep),
    rule(r"{slashed}", Keep),
    rule(r"[A-Z]*\$|\#", Keep),
    rule(r"[{dollar_like}{cents}{pounds}]", Currency),
    sentence_end(r"{initials}\.{blank}+{starter}{blank}"),
    ending(r"{single}\.{blank}+{starter}{blank}", After(1), Keep),
    ending(r"(?:(?i:co)|(?i:pt)[ey])\.{space}(?i:ltd|lim)", Space, Keep),
    sentence_end(r"{closing}\.{sentence}"),
    ending(r"{closing}\..{2}", Before(2), Keep),
    rule(r"{closing}\.", Keep),
    rule(r"{opening}\.", Keep),
    ending(r"{numbering}\.{blank}?{digit}", Period, Keep),
    rule(r"(?:{initials}|{single})\.?", Keep),
    ending(r"{apostrophe}[0-9][0-9]{blank}", Before(1), Keep),
    ending(r"{alnum}+(?:\.{alnum}+)*\.{extension}(?:{blank}|[.?!,])", Before(1), Keep),
    ending(r"{word}\.{in_sentence}", Before(1), Word),
    rule(r"{phone}", Parentheses),
    ending(r#"(?:"|(?i:&quot;))[A-Za-z0-9$]"#, Before(1), Fixed("``")),
    rule(r#""|(?i:&quot;)"#, Fixed("''")),
    rule(r"<|(?i:&lt;)", Fixed("<")),
    rule(r">|(?i:&gt;)", Fixed(">")),
    ending(r"{smiley}[^A-Za-z0-9]", Before(1), Parentheses),
    rule(r"{asian_smiley}", Parentheses),
    rule(r"[()]", Parentheses),
    rule(r"\[", Fixed("-lsb-")),
    rule(r"\]", Fixed("-rsb-")),
    rule(r"\{", Fixed("-lcb-")),
    rule(r"\}", Fixed("-rcb-")),
    rule(r"-", Keep),
    rule(r"-{2,4}", Fixed("--")),
    rule(r"-{5,}", Keep),
    rule(r"\.{3,5}|\.(?:[\ {no_break_space}]\.){2,4}|[{dots}{next_line}]", Fixed("...")),
    rule(r"\*+|(?:\\\*){1,3}|\#+|_+", Keep),
    rule(r"{in_sentence}", Keep),
    rule(r"[?!]+", Keep),
    rule(r"[.=/]|@+", Keep),
    ending(r"{hyphened}\.{in_sentence}", Before(1), Word),
    rule(r"{hyphened}", Word),
    ending(r"{thing}\.{in_sentence}", Before(1), Word),
    rule(r"{thing}", Word),
    ending(r"{thing_with_and}\.{in_sentence}", Before(1), Ampersands),
    rule(r"{thing_with_and}", Ampersands),
    ending(r"'[A-Za-z][^\ \t\n\r{no_break_space}]", After(1), Fixed("`")),
    rule(r"{clitic}", Quotes),
    rule(r"{apostrophe} | '' | {quote_sign}{1,2}", Quotes),
    rule(r"<<|>>", Keep),
    rule(r"[{script_sign}+%&~\^|\\$'{symbol}{upper_symbol}{fraction_slash}]", Keep),
    rule(r"{space}+|(?i:&nbsp;)", Drop),
];

/// The patterns of all rules, with every name replaced.
pub fn patterns() -> Vec<String> {
    let mut known: Vec<(String, String)> =
        NAMES.iter().map(|(name, symbol)| (format!("{{{name}}}"), format!("\\x{symbol:02x}"))).collect();
    let expand = |known: &[(String, String)], pattern: &str| {
        known.iter().fold(pattern.to_owned(), |text, (name, part)| text.replace(name, part))
    };
    for (name, part) in PARTS {
        let part = expand(&known, part);
        known.push((format!("{{{name}}}"), part));
    }
    RULES.iter().map(|rule| expand(&known, rule.pattern)).collect()
}
