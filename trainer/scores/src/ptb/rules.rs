//! The rules of the lexer: what a token looks like, what must follow it, and what becomes of its text.
//!
//! Written from what the reference does with texts made for the purpose. At every place the rule with the longest match
//! wins, what must follow included; of equally long ones the first. Words in patterns match either case, classes of
//! characters do not, as in the reference: `[A]z` is not `az`.

use super::alphabet::NAMES;

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

/// Parts of patterns by name; each may name earlier ones.
const PARTS: &[(&str, &str)] = &[
    ("space", r"[ \t{wide_space}{no_break_space}]"),
    ("line_end", r"(?:\r|\r?\n|[{line_separator}{next_line}\x0b\x0c])"),
    ("blank", r"(?:{space}|{line_end})"),
    ("upper", r"[A-Z{other_upper}{upper_unknown}{upper_symbol}]"),
    ("alpha", r"[A-Za-z{other_upper}{other_letter}]"),
    ("digit", r"[0-9{other_digit}]"),
    ("accented", r"(?:&[aeiouAEIOU](?i:acute|grave|uml);)"),
    ("letter", r"(?:[A-Za-z{other_upper}{other_letter}{mark}{soft_hyphen}]|{accented})"),
    ("alnum", r"(?:{letter}|{digit})"),
    ("amp", r"(?:(?i:&amp;))"),
    ("apostrophe", r"(?:['{close_quote}]|(?i:&apos;))"),
    ("any_apostrophe", r"(?:{apostrophe}|[`{open_quote}{high_quote}])"),
    ("hyphen", r"[-_{hyphen_like}]"),
    ("dots_and_letters", r"(?:[A-Za-z](?:\.[A-Za-z])+)"),
    ("tag_word", r"(?:[A-Za-z][A-Za-z0-9_:.-]*)"),
    ("tag_value", r#"(?:'[^'\r\n]*'|"[^"\r\n]*")"#),
    (
        "tag",
        r"(?:<(?:[!?][A-Za-z-][^>\r\n]*|{tag_word}(?:[ ]+(?:{tag_word}|{tag_word}[ ]*=[ ]*{tag_value}))*[ ]*/?|/{tag_word})[ ]*>)",
    ),
    ("sentence", r"(?:{blank}(?:{blank}|{upper}|{tag}))"),
    ("word", r"(?:{letter}{alnum}*(?:[.!?]{letter}{alnum}*)*)"),
    ("clitic", r"(?:{apostrophe}(?:[msdMSD]|(?i:re|ve|ll)))"),
    ("not", r"(?:[nN]{any_apostrophe}[tT])"),
    ("number", r"(?:{digit}+|{digit}*(?:[.:,{soft_hyphen}{number_mark}]{digit}+)+)"),
    ("date", r"(?:{digit}{1,2}[-/]{digit}{1,2}[-/]{digit}{2,4})"),
    ("fraction_of", r"(?:(?:{digit}{1,4}[- {no_break_space}])?{digit}{1,4}(?:\\?/|{fraction_slash}){digit}{1,4})"),
    ("plain", r"(?:{alpha}|{digit})"),
    ("elided", r"(?:[dDoOlL]{any_apostrophe}{plain})"),
    ("thing", r"(?:{elided}?{plain}+(?:{hyphen}{elided}?{plain}+)*)"),
    ("thing_with_and", r"(?:[A-Z]+(?:(?:[+&]|{amp})[A-Z]+)+)"),
    ("slashed", r"(?:[A-Za-z0-9]+(?:-[A-Za-z]+){0,2}(?:\\?/[A-Za-z0-9]+(?:-[A-Za-z]+){0,2}){1,2})"),
    ("hyphened", r"(?:[A-Za-z0-9][A-Za-z0-9.,{soft_hyphen}]*(?:-(?:[A-Za-z0-9{soft_hyphen}]+|{dots_and_letters}\.))+)"),
    ("month", r"(?i:jan|feb|mar|apr|jun|jul|aug|sept?|oct|nov|dec)"),
    ("day", r"(?i:mon|tues?|wed|thu(?:rs)?|fri)"),
    (
        "state",
        r"(?:(?i:ala|ariz|calif|colo|conn|ct|dak|fla|ga|ind|kans?|ky|md|mich|minn|mo|mont|neb|nev|okla|penn|tenn|va|vt|wisc?|wyo)|[A](?i:z)|[A](?i:rk)|[D](?i:el)|[I](?i:ll)|[L](?i:a)|[M](?i:ass|iss)|[O](?i:re)|[P](?i:a)|[T](?i:ex)|[W](?i:ash))",
    ),
    (
        "title",
        r"(?:(?i:mr|mrs|ms|mme|mlle|drs?|profs?|sens?|reps?|attys?|lt|col|gen|messrs|govs?|adm|rev|maj|sgt|cpl|pvt|capt|ste?|ave|pres|treas|lieut|hon|brig|co?mdr|pfc|spc|sfc|supts?|det|mt|ft|adj|adv|asst|assoc|ens|insp|msgr))",
    ),
    ("person", r"(?i:jr|sr|bros|(?:ed|ph)\.d|blvd|rd|esq)"),
    ("company", r"(?:(?i:inc|cos?|corp|ltd|plc|rt|bancorp|bhd|assn|univ|intl|sys)|(?i:pp?t)[ey](?i:s)?)"),
    ("closing", r"(?:{month}|{day}|{state}|{person}|{company}|(?i:etc|al|seq|tel|est|ext|sq|bldg))"),
    ("opening", r"(?:{title}|(?i:m)[ft](?i:g)|(?i:dept|elec|natl|invt|cie|cf|vs|wm|alex|jos|ph))"),
    ("numbering", r"(?i:ca|figs?|prop|nos?|art|pp?|op)"),
    (
        "initials",
        r"(?:{dots_and_letters}|(?i:canada|sino|korean|eu|japan|non)-(?i:u\.s)|(?i:u\.s\.-(?:u\.k|u\.s\.s\.r)))",
    ),
    ("single", r"(?:[A-Za-z])"),
    (
        "starter",
        r"(?:[A](?i:bout)|[A](?i:ccording)|[A](?i:dditionally)|[A](?i:fter)|[A](?i:n)?|[A](?i:s)|[A](?i:t)|[B](?i:ut)|[E](?i:arlier)|[H](?i:e)|[H](?i:er)|[H](?i:ere)|[H](?i:owever)|[I](?i:f)|[I](?i:n)|[I](?i:t)|[L](?i:ast)|[M](?i:any)|[M](?i:ore)|[M](?i:r\.)|[M](?i:s\.)|[N](?i:ow)|[O](?i:nce)|[O](?i:ne)|[O](?i:ther)|[O](?i:ur)|[S](?i:he)|[S](?i:ince)|[S](?i:o)|[S](?i:ome)|[S](?i:uch)|[T](?i:hat)|[T](?i:he)|[T](?i:heir)|[T](?i:hen)|[T](?i:here)|[T](?i:hese)|[T](?i:hey)|[T](?i:his)|[W](?i:e)|[W](?i:hen)|[W](?i:hile)|[W](?i:hat)|[Y](?i:et)|[Y](?i:ou)|{tag})",
    ),
    (
        "phone",
        r"(?:(?:\([0-9]{2,3}\)[ {no_break_space}]?|(?:\+\+?)?(?:[0-9]{2,4}[- {no_break_space}])?[0-9]{2,4}[- {no_break_space}])[0-9]{3,4}[- {no_break_space}]?[0-9]{3,5}|(?:(?:\+\+?)?[0-9]{2,4}\.)?[0-9]{2,4}\.[0-9]{3,4}\.[0-9]{3,5})",
    ),
    ("smiley", r"(?:[<>]?[:;=][-o*']?[()DPdpO\\{@|\[\]])"),
    ("asian_smiley", r"(?:[-\^x=~<>']_[-\^x=~<>']|\([-\^x=~<>'][_.]?[-\^x=~<>']\)|\([\^x=~<>']-[\^x=~<>'\x60]\))"),
    (
        "extension",
        r"(?i:bat|bmp|c|class|cgi|cpp|dll|docx?|exe|gif|gz|h|html?|jar|java|jpe?g|mov|mp3|pdf|php|pl|png|pptx?|ps|py|sql|tar|txt|wav|x|xml|zip|3gp|wm[va]|avi|flv|mp[34g])",
    ),
    ("web_end", r#"[^ \t\n\x0c\r"<>|.!?(){},-]"#),
    ("web_rest", r#"[^ \t\n\x0c\r"<>|(){}]"#),
    ("full_url", r"(?:(?i:https?)://{web_rest}+{web_end})"),
    (
        "likely_url",
        r#"(?:(?:(?i:www)\.(?:[^ \t\n\x0c\r"<>|.!?(){},]+\.)+[a-zA-Z]{2,4}|(?:[^ \t\n\x0c\r"\x60'<>|.!?(){},-_$]+\.)+(?i:com|net|org|edu))(?:/[^ \t\n\x0c\r"<>|()]+{web_end})?)"#,
    ),
    (
        "email",
        r#"(?:(?:(?i:&lt;)|<)?[a-zA-Z0-9][^ \t\n\x0c\r"<>|(){}{no_break_space}]*@(?:[^ \t\n\x0c\r"<>|(){}.{no_break_space}]+\.)*[^ \t\n\x0c\r"<>|(){}.{no_break_space}]+(?:(?i:&gt;)|>)?)"#,
    ),
    ("in_sentence", r"[,;:{ideographic_comma}]"),
];

/// All rules; see [`End`] and [`Rewrite`].
pub const RULES: &[Rule] = &[
    ending(r"(?i:cannot)", Before(3), Keep),
    ending(r"(?i:gonna|gotta|lemme|gimme|wanna)", Before(2), Keep),
    ending(r"'(?i:tis)", Before(2), Keep),
    ending(r"'(?i:twas)", Before(3), Keep),
    rule(r"{tag}", Spaces),
    rule(r"(?i:&(?:md|mdash|ndash);)|[{long_dash}]", Fixed("--")),
    rule(r"{amp}", Fixed("&")),
    rule(r"(?i:&(?:ht|tl|ur|lr|qc|ql|qr|odq|cdq);)|&#[0-9]+;", Keep),
    ending(r"{word}{clitic}", Apostrophe, Word),
    ending(r"[A-Za-z{soft_hyphen}]*[A-MO-Za-mo-z]{soft_hyphen}*{not}", Not, Word),
    rule(r"{word}", Word),
    rule(
        r"{apostrophe}(?i:n){apostrophe}?|[lLdDjJ]{apostrophe}|(?i:dunkin){apostrophe}|(?i:somethin){apostrophe}|(?i:ol){apostrophe}|{apostrophe}(?i:em)|[A-HJ-XZn]{any_apostrophe}{alpha}{2}{alpha}*|{apostrophe}[2-9]0(?i:s)|{apostrophe}(?i:till?)|{alpha}*{alpha}[aeiouyAEIOUY]{any_apostrophe}[aeiouA-Z]{alpha}*|{apostrophe}(?i:cause)|(?i:cont'd)\.?|(?i:'twas|nor'easter|c'mon|e'er|s'mores|ev'ry|li'l|nat'l)|(?i:o){any_apostrophe}(?i:o)",
        Keep,
    ),
    ending(r"(?i:y){apostrophe}{alpha}", Before(1), Keep),
    rule(r"{full_url}", Keep),
    rule(r"{likely_url}", Keep),
    rule(r"{email}", Keep),
    rule(r"@[a-zA-Z_][a-zA-Z_0-9]*|#{letter}+", Keep),
    ending(r"{clitic}[^A-Za-z]", Before(1), Quotes),
    rule(r"{not}", Quotes),
    rule(r"{date}", Keep),
    rule(r"[-+]?{number}", Word),
    rule(r"(?i:c)\+\+|[CFcf]#", Keep),
    rule(r"[{script_sign}]?(?:[{superscript}]+|[{subscript}]+)", Keep),
    rule(r"{fraction_of}", Spaces),
    rule(r"[{fraction}]", Fraction),
    rule(
        r"-(?i:rrb|lrb|rcb|lcb|rsb|lsb)-|(?i:c\.d\.s)|(?i:pro-|anti-)|(?i:s)(?:&|{amp})(?i:p-500)|(?i:s)(?:&|{amp})(?i:ls)|(?i:cap){apostrophe}(?i:n)|(?i:c){apostrophe}(?i:est)",
        Ampersands,
    ),
    rule(r"{slashed}", Keep),
    rule(r"[A-Z]*\$|#", Keep),
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
    rule(r"\.{3,5}|\.(?:[ {no_break_space}]\.){2,4}|[{dots}{next_line}]", Fixed("...")),
    rule(r"\*+|(?:\\\*){1,3}|#+|_+", Keep),
    rule(r"{in_sentence}", Keep),
    rule(r"[?!]+", Keep),
    rule(r"[.=/]|@+", Keep),
    ending(r"{hyphened}\.{in_sentence}", Before(1), Word),
    rule(r"{hyphened}", Word),
    ending(r"{thing}\.{in_sentence}", Before(1), Word),
    rule(r"{thing}", Word),
    ending(r"{thing_with_and}\.{in_sentence}", Before(1), Ampersands),
    rule(r"{thing_with_and}", Ampersands),
    ending(r"'[A-Za-z][^ \t\n\r{no_break_space}]", After(1), Fixed("`")),
    rule(r"{clitic}", Quotes),
    rule(
        r"{apostrophe}|''|[\x60{close_quote}{open_quote}{high_quote}{low_quote}{open_angle}{close_angle}{open_double}{close_double}]{1,2}",
        Quotes,
    ),
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
