//! The pages of the documentation, taken apart: blocks, commands, links, headings.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use crate::programs::checkout;

/// A page in Markdown.
#[derive(Clone, Debug)]
pub struct Page {
    /// Its path in the checkout, such as `docs/data.md`.
    pub name: String,
    /// What it says.
    pub text: String,
}

/// A block between two lines of three back-ticks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Block {
    /// The word behind the back-ticks; empty for none.
    pub language: String,
    /// The line of the page on which it begins, counted from 1.
    pub line: usize,
    /// What is between them.
    pub text: String,
}

/// README.md, CHANGELOG.md, and every page below docs/, sorted.
///
/// # Panics
/// When a page cannot be read.
pub fn all() -> Vec<Page> {
    let mut names = vec!["CHANGELOG.md".to_owned(), "README.md".to_owned()];
    names.extend(below("docs"));
    names.sort();
    names.iter().map(|name| page(name)).collect()
}

/// One page.
///
/// # Panics
/// When it cannot be read.
pub fn page(name: &str) -> Page {
    let text = fs::read_to_string(checkout().join(name)).unwrap_or_else(|error| panic!("{name}: {error}"));
    Page { name: name.to_owned(), text }
}

fn below(folder: &str) -> Vec<String> {
    let entries = fs::read_dir(checkout().join(folder)).unwrap_or_else(|error| panic!("{folder}: {error}"));
    let mut names = Vec::new();
    for entry in entries {
        let entry = entry.unwrap_or_else(|error| panic!("{folder}: {error}"));
        let name = format!("{folder}/{}", entry.file_name().to_string_lossy());
        if entry.path().is_dir() {
            names.extend(below(&name));
        } else if name.ends_with(".md") {
            names.push(name);
        }
    }
    names
}

impl Page {
    /// Its blocks, in order.
    pub fn blocks(&self) -> Vec<Block> {
        let mut blocks: Vec<Block> = Vec::new();
        let mut inside = false;
        for (index, line) in self.text.lines().enumerate() {
            match (line.strip_prefix("```"), inside) {
                (Some(language), false) => {
                    let language = language.trim().to_owned();
                    blocks.push(Block { language, line: index + 1, text: String::new() });
                    inside = true;
                }
                (Some(_), true) => inside = false,
                (None, true) => {
                    if let Some(block) = blocks.last_mut() {
                        block.text += line;
                        block.text.push('\n');
                    }
                }
                (None, false) => {}
            }
        }
        blocks
    }

    /// Everything but its blocks; lines keep their numbers.
    pub fn prose(&self) -> String {
        let mut inside = false;
        let mut prose = String::new();
        for line in self.text.lines() {
            let edge = line.starts_with("```");
            if !inside && !edge {
                prose += line;
            }
            inside ^= edge;
            prose.push('\n');
        }
        prose
    }

    /// What stands between single back-ticks in the prose.
    pub fn code(&self) -> Vec<String> {
        let prose = self.prose();
        let mut all = Vec::new();
        for paragraph in prose.split("\n\n") {
            all.extend(paragraph.split('`').skip(1).step_by(2).map(|code| code.replace('\n', " ")));
        }
        all
    }

    /// Where its links lead, as written.
    pub fn links(&self) -> Vec<String> {
        // Links in code are examples.
        let prose = self.prose();
        let outside: Vec<&str> = prose.split('`').step_by(2).collect();
        let outside = outside.join("x");
        outside.split("](").skip(1).filter_map(|rest| Some(rest.split_once(')')?.0.to_owned())).collect()
    }

    /// The anchors of its headings, as GitHub makes them.
    pub fn anchors(&self) -> BTreeSet<String> {
        let mut times: BTreeMap<String, usize> = BTreeMap::new();
        let mut anchors = BTreeSet::new();
        for line in self.prose().lines() {
            let heading = line.trim_start_matches('#');
            if heading.len() == line.len() || !heading.starts_with(' ') {
                continue;
            }
            let anchor = anchor(heading.trim());
            let before = times.entry(anchor.clone()).or_default();
            anchors.insert(if *before == 0 { anchor } else { format!("{anchor}-{before}") });
            *before += 1;
        }
        anchors
    }

    /// The commands of its blocks: of `sh` all, of others the lines that begin as one or stand behind `$ `.
    pub fn commands(&self) -> Vec<Vec<String>> {
        let blocks = self.blocks();
        let texts = blocks.iter().map(|block| match block.language.as_str() {
            "sh" => block.text.clone(),
            "" | "text" => typed(&block.text),
            _ => String::new(),
        });
        texts.flat_map(|text| commands(&text)).collect()
    }
}

/// The anchor of a heading: lower case, spaces as hyphens, no other punctuation; of a link its text.
pub fn anchor(heading: &str) -> String {
    let mut text = String::new();
    let mut rest = heading;
    while let Some((before, after)) = rest.split_once("](") {
        text += before;
        rest = after.split_once(')').map_or("", |(_, rest)| rest);
    }
    text += rest;
    let kept = text.to_lowercase();
    let kept = kept.chars().filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'));
    kept.map(|c| if c == ' ' { '-' } else { c }).collect()
}

/// The lines of a block that are typed, with their continuations.
fn typed(block: &str) -> String {
    let mut text = String::new();
    let mut goes_on = false;
    for line in block.lines() {
        let command = line.strip_prefix("$ ").unwrap_or(line);
        let first = command.split_whitespace().next().unwrap_or_default();
        let begins = matches!(first.rsplit('/').next(), Some("blip2" | "blip2-rank" | "make" | "python3"));
        if begins || goes_on {
            text += command;
            text.push('\n');
            goes_on = command.ends_with('\\');
        }
    }
    text
}

/// The commands of a shell's text: the words of each, without comments and redirections.
pub fn commands(text: &str) -> Vec<Vec<String>> {
    let mut shell = Shell::default();
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            '\\' => {
                if let Some(next) = chars.next().filter(|next| *next != '\n') {
                    shell.push(next);
                }
            }
            '\'' | '"' => {
                shell.begun = true;
                while let Some(next) = chars.next().filter(|next| *next != c) {
                    let escaped = c == '"' && next == '\\';
                    shell.push(if escaped { chars.next().unwrap_or(next) } else { next });
                }
            }
            '$' if chars.peek() == Some(&'(') => {
                shell.push(c);
                let mut depth = 0;
                for next in chars.by_ref() {
                    shell.push(next);
                    depth += i32::from(next == '(') - i32::from(next == ')');
                    if depth == 0 {
                        break;
                    }
                }
            }
            '#' if !shell.begun => while chars.next_if(|next| *next != '\n').is_some() {},
            '\n' | ';' => shell.end_command(),
            '|' | '&' if !shell.begun => shell.end_command(),
            '>' if shell.word.chars().all(|c| c.is_ascii_digit()) => {
                while chars.next_if(|next| matches!(next, '>' | '&')).is_some() {}
                shell.redirect();
            }
            c if c.is_whitespace() => shell.end_word(),
            c => shell.push(c),
        }
    }
    shell.end_command();
    shell.commands
}

#[derive(Default)]
struct Shell {
    commands: Vec<Vec<String>>,
    words: Vec<String>,
    word: String,
    begun: bool,
    /// The next word is where output goes.
    redirected: bool,
}

impl Shell {
    fn push(&mut self, c: char) {
        self.word.push(c);
        self.begun = true;
    }

    fn redirect(&mut self) {
        self.word.clear();
        self.begun = false;
        self.redirected = true;
    }

    fn end_word(&mut self) {
        if self.begun {
            let word = std::mem::take(&mut self.word);
            if !std::mem::take(&mut self.redirected) {
                self.words.push(word);
            }
            self.begun = false;
        }
    }

    fn end_command(&mut self) {
        self.end_word();
        if !self.words.is_empty() {
            self.commands.push(std::mem::take(&mut self.words));
        }
    }
}

/// Of a command the name of ours that it starts, and what that is given: `blip2`, `blip2-rank`, `make`, or a script of
/// tests/. Words before it (variables, `until`, `salloc …`) are others'.
pub fn ours(words: &[String]) -> Option<(&str, &[String])> {
    let is_assignment = |word: &String| word.split_once('=').is_some_and(|(name, _)| !name.contains(['-', '/', '[']));
    let first = words.iter().position(|word| !is_assignment(word))?;
    if words[first] == "make" {
        return Some(("make", &words[first + 1..]));
    }
    words.iter().enumerate().find_map(|(at, word)| {
        let name = Path::new(word).file_name()?.to_str()?;
        let is_script = word.starts_with("tests/") && word.ends_with(".py");
        match name {
            "blip2" | "blip2-rank" => Some((name, &words[at + 1..])),
            _ if is_script => Some((word.as_str(), &words[at + 1..])),
            _ => None,
        }
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;

    fn of(text: &str) -> Page {
        Page { name: "page.md".to_owned(), text: text.to_owned() }
    }

    #[test]
    fn a_shells_text_is_words() {
        let text = "a b  # c\nd 'e f' \"g \\\" h\" \\\n  i; j | k && l 2>/dev/null > m\nn=$(o \"p q\" | r) s|t";
        let expected: [&[&str]; 6] =
            [&["a", "b"], &["d", "e f", "g \" h", "i"], &["j"], &["k"], &["l"], &["n=$(o \"p q\" | r)", "s|t"]];
        assert_eq!(commands(text), expected);
        assert_eq!(commands("a 'unfinished\n"), [["a", "unfinished\n"]]);
        assert_eq!(commands(" \n# nothing\n"), Vec::<Vec<String>>::new());
    }

    #[test]
    fn our_programs_are_found_behind_others_words() {
        let found = |text: &str| {
            let words = commands(text).remove(0);
            ours(&words).map(|(name, rest)| format!("{name}: {}", rest.join(" ")))
        };
        assert_eq!(found("until blip2 status x").unwrap(), "blip2: status x");
        assert_eq!(found("A=1 make test B=2").unwrap(), "make: test B=2");
        assert_eq!(found("target/release/blip2-rank self-check").unwrap(), "blip2-rank: self-check");
        assert_eq!(found("python3 tests/peers/soak.py --x").unwrap(), "tests/peers/soak.py: --x");
        assert_eq!(found("apt-get install make"), None);
        assert_eq!(found("ls runs"), None);
    }

    #[test]
    fn a_page_is_taken_apart() {
        let page = of("# A b, `c`!\n\nsee [x\ny](z.md#q) and `[no](link)`\n```sh\nblip2 demo\n```\n## A\n## A\n\
                       ```\nblip2 status a \\\n  --json\nnothing\n```\n```text\n$ make b\nmade\n```\n");
        assert_eq!(page.links(), ["z.md#q"]);
        assert_eq!(page.anchors().into_iter().collect::<Vec<_>>(), ["a", "a-1", "a-b-c"]);
        assert_eq!(page.code(), ["c", "[no](link)"]);
        let commands: Vec<String> = page.commands().iter().map(|words| words.join(" ")).collect();
        assert_eq!(commands, ["blip2 demo", "blip2 status a --json", "make b"]);
        assert_eq!((page.blocks()[0].line, page.blocks()[0].language.as_str()), (5, "sh"));
        assert_eq!(page.prose().lines().count(), page.text.lines().count());
        assert_eq!(anchor("The [data](data.md) path"), "the-data-path");
    }
}
