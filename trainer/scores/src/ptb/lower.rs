//! Lower case as Java has it.

/// Appends a text in lower case.
///
/// Java and Rust differ in one letter: a capital sigma becomes the final form where a cased letter stands before it
/// and none after it within a word, and Java's words go on through hyphens and periods between letters.
pub fn append(line: &mut String, text: &str) {
    if text.is_ascii() {
        line.extend(text.bytes().map(|byte| char::from(byte.to_ascii_lowercase())));
    } else if text.contains('Σ') {
        let seen: Vec<char> = text.chars().filter(|&character| !is_format(character)).collect();
        let mut index = 0;
        for character in text.chars() {
            match character {
                'Σ' => line.push(if is_final(&seen, index) { 'ς' } else { 'σ' }),
                other => line.extend(other.to_lowercase()),
            }
            index += usize::from(!is_format(character));
        }
    } else {
        line.extend(text.chars().flat_map(char::to_lowercase));
    }
}

/// Characters that show nothing and that words go on through.
fn is_format(character: char) -> bool {
    matches!(character, '\u{AD}' | '\u{200B}'..='\u{200F}' | '\u{202A}'..='\u{202E}')
        || matches!(character, '\u{2060}'..='\u{2064}' | '\u{FEFF}')
}

fn is_final(characters: &[char], index: usize) -> bool {
    let cased = |character: char| (character.is_lowercase() || character.is_uppercase()) && !"ªº".contains(character);
    let before = (0..index).rev().take_while(|&at| in_word(characters, at)).any(|at| cased(characters[at]));
    let after = (index + 1..characters.len()).take_while(|&at| in_word(characters, at)).any(|at| cased(characters[at]));
    before && !after
}

/// Whether a word goes on through a character.
fn in_word(characters: &[char], at: usize) -> bool {
    let letter = |at: Option<usize>| at.and_then(|at| characters.get(at)).is_some_and(|c| c.is_alphabetic());
    match characters[at] {
        '-' | '.' | '\'' | '\u{2010}' | '\u{2011}' => letter(at.checked_sub(1)) && letter(Some(at + 1)),
        '_' | '\u{300}'..='\u{36F}' => true,
        // Between ideographs and letters a word ends.
        '\u{2E80}'..='\u{9FFF}' => false,
        other => other.is_alphanumeric(),
    }
}

#[cfg(test)]
mod tests {
    use super::append;

    #[test]
    fn sigmas_are_final_where_javas_are() {
        for (text, lower) in [
            ("ΟΔΟΣ", "οδος"),
            ("ΑΣ-a", "ασ-a"),
            ("ΑΣ-5", "ας-5"),
            ("Σ", "σ"),
            ("ΑΣ!a", "ας!a"),
            ("T\u{FEFF}-Σ", "t\u{FEFF}-ς"),
        ] {
            let mut line = String::new();
            append(&mut line, text);
            assert_eq!(line, lower);
        }
    }
}
