//! Parts of the rules' patterns by name: characters, words, abbreviations, addresses.

/// Parts of patterns by name; each may name earlier ones, and the symbols of the alphabet, in braces.
///
/// Spaces in a pattern mean nothing; `\ ` is one that counts. Words in `(?i: )` match either case.
pub const PARTS: &[(&str, &str)] = &[
    // Characters.
    ("space", r"[\ \t{wide_space}{no_break_space}]"),
    ("line_end", r"(?:\r|\r?\n|[{line_separator}{next_line}\x0b\x0c])"),
    ("blank", r"(?:{space}|{line_end})"),
    ("upper", r"[A-Z{other_upper}{upper_unknown}{upper_symbol}]"),
    ("alpha", r"[A-Za-z{other_upper}{other_letter}]"),
    ("digit", r"[0-9{other_digit}]"),
    ("accented", r"(?:&[aeiouAEIOU](?i:acute|grave|uml);)"),
    ("letter", r"(?:[A-Za-z{other_upper}{other_letter}{mark}{soft_hyphen}]|{accented})"),
    ("alnum", r"(?:{letter}|{digit})"),
    ("plain", r"(?:{alpha}|{digit})"),
    ("single", r"[A-Za-z]"),
    ("amp", r"(?i:&amp;)"),
    ("apostrophe", r"(?:['{close_quote}]|(?i:&apos;))"),
    ("any_apostrophe", r"(?:{apostrophe}|[`{open_quote}{high_quote}])"),
    (
        "quote_sign",
        r"[`{close_quote}{open_quote}{high_quote}{low_quote}{open_angle}{close_angle}{open_double}{close_double}]",
    ),
    ("hyphen", r"[-_{hyphen_like}]"),
    ("in_sentence", r"[,;:{ideographic_comma}]"),
    // Mark-up.
    ("tag_word", r"(?:[A-Za-z][A-Za-z0-9_:.-]*)"),
    ("tag_value", r#"(?:'[^'\r\n]*'|"[^"\r\n]*")"#),
    ("attribute", r"(?:{tag_word}(?:[\ ]*=[\ ]*{tag_value})?)"),
    ("tag", r"(?:< (?: [!?][A-Za-z-][^>\r\n]* | {tag_word}(?:[\ ]+{attribute})*[\ ]*/? | /{tag_word} ) [\ ]*>)"),
    // Words. A period, `!` or `?` between letters is part of one.
    ("word", r"(?:{letter}{alnum}*(?:[.!?]{letter}{alnum}*)*)"),
    ("clitic", r"(?:{apostrophe}(?:[msdMSD]|(?i:re|ve|ll)))"),
    ("not", r"(?:[nN]{any_apostrophe}[tT])"),
    ("elided", r"(?:[dDoOlL]{any_apostrophe}{plain})"),
    ("thing", r"(?:{elided}?{plain}+(?:{hyphen}{elided}?{plain}+)*)"),
    ("thing_with_and", r"(?:[A-Z]+(?:(?:[+&]|{amp})[A-Z]+)+)"),
    ("slash_part", r"(?:[A-Za-z0-9]+(?:-[A-Za-z]+){0,2})"),
    ("slashed", r"(?:{slash_part}(?:\\?/{slash_part}){1,2})"),
    ("initials_inside", r"(?:[A-Za-z](?:\.[A-Za-z])+)"),
    ("hyphened", r"(?:[A-Za-z0-9][A-Za-z0-9.,{soft_hyphen}]* (?:-(?:[A-Za-z0-9{soft_hyphen}]+|{initials_inside}\.))+)"),
    // Numbers.
    ("number", r"(?:{digit}+|{digit}*(?:[.:,{soft_hyphen}{number_mark}]{digit}+)+)"),
    ("date", r"(?:{digit}{1,2}[-/]{digit}{1,2}[-/]{digit}{2,4})"),
    ("fraction_of", r"(?:(?:{digit}{1,4}[-\ {no_break_space}])? {digit}{1,4}(?:\\?/|{fraction_slash}){digit}{1,4})"),
    ("phone_gap", r"[-\ {no_break_space}]"),
    (
        "phone_area",
        r"(?:\([0-9]{2,3}\)[\ {no_break_space}]?|(?:\+\+?)?(?:[0-9]{2,4}{phone_gap})?[0-9]{2,4}{phone_gap})",
    ),
    (
        "phone",
        r"(?: {phone_area}[0-9]{3,4}{phone_gap}?[0-9]{3,5}
            | (?:(?:\+\+?)?[0-9]{2,4}\.)?[0-9]{2,4}\.[0-9]{3,4}\.[0-9]{3,5} )",
    ),
    // Abbreviations. A period behind a closing one may end a sentence as well.
    ("month", r"(?i:jan|feb|mar|apr|jun|jul|aug|sept?|oct|nov|dec)"),
    ("day", r"(?i:mon|tues?|wed|thu(?:rs)?|fri)"),
    (
        "state",
        r"(?: (?i:ala|ariz|calif|colo|conn|ct|dak|fla|ga|ind|kans?|ky|md|mich|minn|mo|mont|neb|nev|okla|penn|tenn)
            | (?i:va|vt|wisc?|wyo) | A(?i:rk|z) | D(?i:el) | I(?i:ll) | L(?i:a) | M(?i:ass|iss) | O(?i:re) | P(?i:a)
            | T(?i:ex) | W(?i:ash) )",
    ),
    ("person", r"(?i:jr|sr|bros|(?:ed|ph)\.d|blvd|rd|esq)"),
    ("company", r"(?:(?i:inc|cos?|corp|ltd|plc|rt|bancorp|bhd|assn|univ|intl|sys)|(?i:pp?t)[ey](?i:s)?)"),
    ("closing", r"(?:{month}|{day}|{state}|{person}|{company}|(?i:etc|al|seq|tel|est|ext|sq|bldg))"),
    (
        "title",
        r"(?i: mr|mrs|ms|mme|mlle|drs?|profs?|sens?|reps?|attys?|lt|col|gen|messrs|govs?|adm|rev|maj|sgt|cpl|pvt|capt
            | ste?|ave|pres|treas|lieut|hon|brig|co?mdr|pfc|spc|sfc|supts?|det|mt|ft|adj|adv|asst
            | assoc|ens|insp|msgr )",
    ),
    ("opening", r"(?:{title}|(?i:m)[ft](?i:g)|(?i:dept|elec|natl|invt|cie|cf|vs|wm|alex|jos|ph))"),
    ("numbering", r"(?i:ca|figs?|prop|nos?|art|pp?|op)"),
    (
        "initials",
        r"(?: {initials_inside} | (?i:canada|sino|korean|eu|japan|non)-(?i:u\.s) | (?i:u\.s\.-(?:u\.k|u\.s\.s\.r)) )",
    ),
    ("sentence", r"(?:{blank}(?:{blank}|{upper}|{tag}))"),
    (
        // Words that begin a sentence behind initials.
        "starter",
        r"(?: A(?i:bout|ccording|dditionally|fter|n|s|t)? | B(?i:ut) | E(?i:arlier) | H(?i:e|er|ere|owever)
            | I(?i:f|n|t) | L(?i:ast) | M(?i:any|ore|r\.|s\.) | N(?i:ow) | O(?i:nce|ne|ther|ur)
            | S(?i:he|ince|o|ome|uch)
            | T(?i:hat|he|heir|hen|here|hese|hey|his) | W(?i:e|hen|hile|hat) | Y(?i:et|ou) | {tag} )",
    ),
    // Addresses and files.
    ("web_end", r#"[^\ \t\n\x0c\r"<>|.!?(){},-]"#),
    ("full_url", r#"(?:(?i:https?)://[^\ \t\n\x0c\r"<>|(){}]+{web_end})"#),
    ("www", r#"(?:(?i:www)\.(?:[^\ \t\n\x0c\r"<>|.!?(){},]+\.)+[a-zA-Z]{2,4})"#),
    // From the comma to the underscore: no capitals, no digits, no hyphen.
    ("host_part", r#"[^\ \t\n\x0c\r"`'<>|.!?(){},-_$]"#),
    ("likely_url", r#"(?:(?:{www}|(?:{host_part}+\.)+(?i:com|net|org|edu))(?:/[^\ \t\n\x0c\r"<>|()]+{web_end})?)"#),
    ("mail_part", r#"[^\ \t\n\x0c\r"<>|(){}.{no_break_space}]"#),
    ("email", r"(?:(?:(?i:&lt;)|<)?[a-zA-Z0-9](?:{mail_part}|\.)*@(?:{mail_part}+\.)*{mail_part}+(?:(?i:&gt;)|>)?)"),
    (
        "extension",
        r"(?i: bat|bmp|c|class|cgi|cpp|dll|docx?|exe|gif|gz|h|html?|jar|java|jpe?g|mov|mp3|pdf|php|pl|png|pptx?|ps|py
            | sql|tar|txt|wav|x|xml|zip|3gp|wm[va]|avi|flv|mp[34g] )",
    ),
    // Faces.
    ("smiley", r"(?:[<>]?[:;=][-o*']?[()DPdpO\\{@|\[\]])"),
    ("face", r"[-\^x=~<>']"),
    ("asian_smiley", r"(?:{face}_{face}|\({face}[_.]?{face}\)|\([\^x=~<>']-[\^x=~<>'`]\))"),
];
