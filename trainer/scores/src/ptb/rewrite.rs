//! What becomes of the text of a token: names of brackets, ASCII quotes, lower case.

use super::lower;
use super::rules::Rewrite;

/// Appends the token's text, rewritten and in lower case, to `line`.
pub fn append(line: &mut String, rewrite: Rewrite, token: &str) {
    match rewrite {
        Rewrite::Fixed(text) => line.push_str(text),
        Rewrite::Drop => {}
        Rewrite::Currency => line.push_str(match token {
            "\u{A2}" => "cents",
            "\u{A3}" => "#",
            _ => "$",
        }),
        Rewrite::Fraction => line.push_str(match token {
            "\u{BC}" => "1/4",
            "\u{BD}" => "1/2",
            "\u{BE}" => "3/4",
            "\u{2153}" => "1/3",
            "\u{2154}" => "2/3",
            other => other,
        }),
        Rewrite::Quotes => quotes(line, token),
        Rewrite::Spaces => lower::append(line, &token.replace(' ', "\u{A0}")),
        Rewrite::Ampersands => lower::append(line, &token.replace("&amp;", "&")),
        Rewrite::Parentheses => {
            lower::append(line, &token.replace('(', "-lrb-").replace(')', "-rrb-").replace(' ', "\u{A0}"));
        }
        Rewrite::Word => match token.replace('\u{AD}', "") {
            empty if empty.is_empty() => line.push('-'),
            word => lower::append(line, &word),
        },
        Rewrite::Keep => lower::append(line, token),
    }
}

/// Typographic quotes and entities as ASCII.
fn quotes(line: &mut String, token: &str) {
    for character in token.replace("&apos;", "'").chars() {
        match character {
            '\u{91}' | '\u{2018}' | '\u{201B}' | '\u{2039}' => line.push('`'),
            '\u{92}' | '\u{2019}' | '\u{203A}' => line.push('\''),
            '\u{93}' | '\u{AB}' | '\u{201C}' => line.push_str("``"),
            '\u{94}' | '\u{BB}' | '\u{201D}' => line.push_str("''"),
            other => lower::append(line, other.encode_utf8(&mut [0; 4])),
        }
    }
}
