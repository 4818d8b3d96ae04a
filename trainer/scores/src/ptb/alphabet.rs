//! Characters to symbols: one byte for each group of characters that the rules of the lexer treat alike.
//!
//! ASCII stands for itself. So the automaton reads one byte a character and knows nothing of Unicode's tables.

use std::sync::LazyLock;

use super::ranges::{DIGITS, LETTERS, MARKS, SYMBOLS};

/// Names of the symbols beyond ASCII, for the rules.
pub const NAMES: [(&str, u8); 34] = [
    ("other_upper", OTHER_UPPER),
    ("other_letter", OTHER_LETTER),
    ("mark", MARK),
    ("other_digit", OTHER_DIGIT),
    ("symbol", SYMBOL),
    ("unknown", UNKNOWN),
    ("upper_unknown", UPPER_UNKNOWN),
    ("upper_symbol", UPPER_SYMBOL),
    ("wide_space", WIDE_SPACE),
    ("no_break_space", NO_BREAK_SPACE),
    ("line_separator", LINE_SEPARATOR),
    ("long_dash", LONG_DASH),
    ("dollar_like", DOLLAR_LIKE),
    ("open_quote", OPEN_QUOTE),
    ("high_quote", HIGH_QUOTE),
    ("open_angle", OPEN_ANGLE),
    ("close_quote", CLOSE_QUOTE),
    ("close_angle", CLOSE_ANGLE),
    ("open_double", OPEN_DOUBLE),
    ("close_double", CLOSE_DOUBLE),
    ("hyphen_like", HYPHEN_LIKE),
    ("number_mark", NUMBER_MARK),
    ("next_line", NEXT_LINE),
    ("cents", CENTS),
    ("pounds", POUNDS),
    ("soft_hyphen", SOFT_HYPHEN),
    ("fraction", FRACTION),
    ("dots", DOTS),
    ("fraction_slash", FRACTION_SLASH),
    ("superscript", SUPERSCRIPT),
    ("subscript", SUBSCRIPT),
    ("low_quote", LOW_QUOTE),
    ("ideographic_comma", IDEOGRAPHIC_COMMA),
    ("script_sign", SCRIPT_SIGN),
];

pub const OTHER_UPPER: u8 = 0x80;
pub const OTHER_LETTER: u8 = 0x81;
pub const MARK: u8 = 0x82;
pub const OTHER_DIGIT: u8 = 0x83;
pub const SYMBOL: u8 = 0x84;
/// No token at all: the reference leaves these characters out.
pub const UNKNOWN: u8 = 0x85;
pub const UPPER_UNKNOWN: u8 = 0x86;
pub const UPPER_SYMBOL: u8 = 0x87;
pub const WIDE_SPACE: u8 = 0x88;
pub const NO_BREAK_SPACE: u8 = 0x89;
pub const LINE_SEPARATOR: u8 = 0x8A;
pub const LONG_DASH: u8 = 0x8B;
pub const DOLLAR_LIKE: u8 = 0x8C;
pub const OPEN_QUOTE: u8 = 0x8D;
pub const HIGH_QUOTE: u8 = 0x8E;
pub const OPEN_ANGLE: u8 = 0x8F;
pub const CLOSE_QUOTE: u8 = 0x90;
pub const CLOSE_ANGLE: u8 = 0x91;
pub const OPEN_DOUBLE: u8 = 0x92;
pub const CLOSE_DOUBLE: u8 = 0x93;
pub const HYPHEN_LIKE: u8 = 0x94;
pub const NUMBER_MARK: u8 = 0x95;
/// U+0085 is both a line's end and, as in Windows' code page, three dots.
pub const NEXT_LINE: u8 = 0x96;
pub const CENTS: u8 = 0x97;
pub const POUNDS: u8 = 0x98;
pub const SOFT_HYPHEN: u8 = 0x99;
pub const FRACTION: u8 = 0x9A;
pub const DOTS: u8 = 0x9B;
pub const FRACTION_SLASH: u8 = 0x9C;
pub const SUPERSCRIPT: u8 = 0x9D;
pub const SUBSCRIPT: u8 = 0x9E;
pub const LOW_QUOTE: u8 = 0x9F;
pub const IDEOGRAPHIC_COMMA: u8 = 0xA0;
pub const SCRIPT_SIGN: u8 = 0xA1;

/// Groups that are few characters each; they overrule the long tables.
const FEW: [(u8, &str); 28] = [
    (WIDE_SPACE, "2000-200A 3000"),
    (NO_BREAK_SPACE, "A0"),
    (LINE_SEPARATOR, "2028-2029"),
    (LONG_DASH, "96-97 2013-2015"),
    (DOLLAR_LIKE, "80 A4 20A0 20AC"),
    (OPEN_QUOTE, "91 2018"),
    (HIGH_QUOTE, "201B"),
    (OPEN_ANGLE, "2039"),
    (CLOSE_QUOTE, "92 2019"),
    (CLOSE_ANGLE, "203A"),
    (OPEN_DOUBLE, "93 AB 201C"),
    (CLOSE_DOUBLE, "94 BB 201D"),
    (HYPHEN_LIKE, "58A 2010-2011"),
    (NUMBER_MARK, "66B-66C"),
    (NEXT_LINE, "85"),
    (CENTS, "A2"),
    (POUNDS, "A3"),
    (SOFT_HYPHEN, "AD"),
    (FRACTION, "BC-BE 2153-215E"),
    (DOTS, "2026"),
    (FRACTION_SLASH, "2044"),
    (SUPERSCRIPT, "B2-B3 B9 2070 2074-2079"),
    (SUBSCRIPT, "2080-2089"),
    (UPPER_UNKNOWN, "2160-216F"),
    (UPPER_SYMBOL, "24B6-24CF"),
    (LOW_QUOTE, "201A 201E-201F"),
    (IDEOGRAPHIC_COMMA, "3001"),
    (SCRIPT_SIGN, "207A-207B 208A-208B"),
];

static SYMBOL_OF: LazyLock<Box<[u8]>> = LazyLock::new(|| {
    let mut table = vec![UNKNOWN; 0x1_0000].into_boxed_slice();
    for (symbol, ranges) in [(OTHER_LETTER, LETTERS), (MARK, MARKS), (OTHER_DIGIT, DIGITS), (SYMBOL, SYMBOLS)] {
        fill(&mut table, symbol, ranges);
    }
    for code in 0x80..0x1_0000_u32 {
        let upper = char::from_u32(code).is_some_and(char::is_uppercase);
        if table[code as usize] == OTHER_LETTER && upper {
            table[code as usize] = OTHER_UPPER;
        }
    }
    for (symbol, ranges) in FEW {
        fill(&mut table, symbol, ranges);
    }
    table
});

fn fill(table: &mut [u8], symbol: u8, ranges: &str) {
    let code = |text: &str| usize::from_str_radix(text, 16).expect("invariant: the tables hold hexadecimal numbers");
    for range in ranges.split_whitespace() {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        table[code(first)..=code(last)].fill(symbol);
    }
}

/// The symbol of a character.
pub fn symbol(character: char) -> u8 {
    match u32::from(character) {
        code @ 0..0x80 => code as u8,
        code => SYMBOL_OF.get(code as usize).copied().unwrap_or(UNKNOWN),
    }
}

/// Whether a character is a decimal digit, of any script that the tables know.
pub fn is_digit(character: char) -> bool {
    character.is_ascii_digit() || symbol(character) == OTHER_DIGIT
}
