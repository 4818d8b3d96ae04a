//! From the text of a YAML file to a tree, within limits that keep a hostile or broken file harmless.

use std::collections::HashMap;
use std::sync::Arc;

use saphyr_parser::{Event, Marker, Parser, ScalarStyle, ScanError, Span, StrInput};

use crate::problem::{Origin, Problems, printable};
use crate::tree::{Entry, Node, Scalar, Style, Value, join};

/// The largest config that is read: the shipped ones have a few kilobytes.
pub(crate) const MAX_FILE_BYTES: u64 = 1 << 20;
/// The deepest nesting that is read: the schema needs 7.
const MAX_DEPTH: usize = 32;
/// The most values that are read, aliases counted as often as they are used: the schema needs a few hundred.
const MAX_VALUES: usize = 20_000;

/// Reads `text` into a tree; `None` if it has a syntax error or passes a limit, which is then in `problems`.
pub(crate) fn parse_yaml(file: &Arc<str>, text: &str, problems: &mut Problems) -> Option<Node> {
    let mut builder = Builder {
        file,
        text,
        parser: Parser::new_from_str(text),
        anchors: HashMap::new(),
        num_values: 0,
        path: Vec::new(),
        problems,
    };
    builder.document().ok()
}

/// Stands for "a problem was reported and reading stopped".
struct Stopped;

struct Builder<'a> {
    file: &'a Arc<str>,
    text: &'a str,
    parser: Parser<'a, StrInput<'a>>,
    anchors: HashMap<usize, Node>,
    num_values: usize,
    path: Vec<String>,
    problems: &'a mut Problems,
}

impl<'a> Builder<'a> {
    fn document(&mut self) -> Result<Node, Stopped> {
        let mut root = None;
        loop {
            let (event, span) = self.next()?;
            match event {
                Event::StreamStart | Event::DocumentEnd | Event::Nothing => {}
                Event::DocumentStart(_) if root.is_some() => {
                    let message = "found a second document; expected one document per file";
                    return self.stop(self.at(span), message, "put the second run into a file of its own");
                }
                Event::DocumentStart(_) => {
                    let (event, span) = self.next()?;
                    root = Some(self.node(event, span, 0)?);
                }
                Event::StreamEnd => break,
                _ => return self.stop(self.at(span), "found a value outside of a document", "remove it"),
            }
        }
        match root {
            Some(node) if !node.is_null() => Ok(node),
            _ => {
                let origin = Origin::WholeFile { file: self.file.clone() };
                self.stop(origin, "found an empty file; expected a run", "start from one of the presets in configs/")
            }
        }
    }

    fn next(&mut self) -> Result<(Event<'a>, Span), Stopped> {
        match self.parser.next_event() {
            Some(Ok(event)) => Ok(event),
            Some(Err(error)) => Err(self.syntax_error(&error)),
            None => Ok((Event::StreamEnd, Span::default())),
        }
    }

    fn node(&mut self, event: Event<'a>, span: Span, depth: usize) -> Result<Node, Stopped> {
        let origin = self.at(span);
        self.count(1, &origin)?;
        if depth > MAX_DEPTH {
            let message = format!("found values nested more than {MAX_DEPTH} deep; the deepest config needs 7 levels");
            return self.stop(origin, &message, "look for brackets that are opened and never closed");
        }
        let (anchor, tag, value) = match event {
            Event::Alias(anchor) => return self.alias(anchor, origin, depth),
            Event::Scalar(text, style, anchor, tag) => {
                let style = if style == ScalarStyle::Plain { Style::Plain } else { Style::Quoted };
                self.refuse_invisible(&text, &origin);
                (anchor, tag, Value::Scalar(Scalar { text: text.into_owned(), style }))
            }
            Event::SequenceStart(anchor, tag) => (anchor, tag, Value::List(self.list(depth)?)),
            Event::MappingStart(anchor, tag) => (anchor, tag, Value::Map(self.map(depth)?)),
            _ => return self.stop(origin, "found the end of the file in the middle of a value", "complete the value"),
        };
        if let Some(tag) = tag {
            let message =
                format!("found the YAML tag `{}`; tags have no meaning in a config", printable(&tag.to_string(), 60));
            let path = self.path.join("");
            self.problems.add(&origin, &path, message, Some("remove the tag and write the plain value".to_owned()));
        }
        let node = Node { origin, value };
        if anchor > 0 {
            self.anchors.insert(anchor, node.clone());
        }
        Ok(node)
    }

    fn list(&mut self, depth: usize) -> Result<Vec<Node>, Stopped> {
        let mut items = Vec::new();
        loop {
            let (event, span) = self.next()?;
            if event == Event::SequenceEnd {
                return Ok(items);
            }
            self.path.push(format!("[{}]", items.len()));
            items.push(self.node(event, span, depth + 1)?);
            self.path.pop();
        }
    }

    fn map(&mut self, depth: usize) -> Result<Vec<Entry>, Stopped> {
        let mut entries: Vec<Entry> = Vec::new();
        loop {
            let (event, span) = self.next()?;
            if event == Event::MappingEnd {
                return Ok(entries);
            }
            let key_node = self.node(event, span, depth + 1)?;
            let Value::Scalar(key) = key_node.value else {
                let message = "found a list or a map as a key; expected a name";
                return self.stop(key_node.origin, message, "write `name: value`; quote text that has braces in it");
            };
            let step = join("", &key.text);
            self.path.push(if self.path.is_empty() { step } else { format!(".{step}") });
            let (event, span) = self.next()?;
            let mut value = self.node(event, span, depth + 1)?;
            let is_below = line_of(&value.origin) != line_of(&key_node.origin);
            if value.is_null() || matches!(value.value, Value::Map(_)) || is_below {
                // A section is best pointed at by its name: its first line is often far from what is missing.
                value.origin = key_node.origin.clone();
            }
            let entry = Entry { key: key.text, key_origin: key_node.origin, value };
            match entries.iter().find(|other| other.key == entry.key) {
                Some(first) => self.duplicate(&first.key_origin.clone(), &entry),
                None => entries.push(entry),
            }
            self.path.pop();
        }
    }

    fn duplicate(&mut self, first: &Origin, entry: &Entry) {
        let line = line_of(first);
        let message = format!("found the key `{}` a second time; expected it once", printable(&entry.key, 60));
        let suggestion = format!("it was stated first in line {line}: remove one of the two");
        self.problems.add(&entry.key_origin, &self.path.join(""), message, Some(suggestion));
    }

    /// A copy of the value that the alias stands for.
    fn alias(&mut self, anchor: usize, origin: Origin, depth: usize) -> Result<Node, Stopped> {
        let Some(node) = self.anchors.get(&anchor).cloned() else {
            return self.stop(origin, "found an alias inside of its own anchor", "write the value out");
        };
        let (values, levels) = extent(&node);
        self.count(values, &origin)?;
        if depth + levels > MAX_DEPTH {
            return self.stop(
                origin,
                &format!("found an alias nested more than {MAX_DEPTH} deep"),
                "write the value out",
            );
        }
        Ok(node)
    }

    fn count(&mut self, values: usize, origin: &Origin) -> Result<(), Stopped> {
        self.num_values += values;
        if self.num_values <= MAX_VALUES {
            return Ok(());
        }
        let message =
            format!("found more than {MAX_VALUES} values once aliases are written out; a config has a few hundred");
        self.stop(origin.clone(), &message, "look for aliases of aliases (`*name`), or for data that is not a config")
    }

    /// Notes a character that no editor shows and that YAML 1.1 and 1.2 read differently.
    fn refuse_invisible(&mut self, text: &str, origin: &Origin) {
        if let Some(character) = text.chars().find(|c| is_invisible(*c)) {
            let message =
                format!("found the invisible character U+{:04X} in a text; expected none", u32::from(character));
            let advice = "type the text anew: such characters come along when text is copied".to_owned();
            self.problems.add(origin, &self.path.join(""), message, Some(advice));
        }
    }

    fn stop<T>(&mut self, origin: Origin, message: &str, suggestion: &str) -> Result<T, Stopped> {
        self.problems.add(&origin, &self.path.join(""), message, Some(suggestion.to_owned()));
        Err(Stopped)
    }

    fn syntax_error(&mut self, error: &ScanError) -> Stopped {
        let origin = self.position(*error.marker(), 1);
        let message = format!("this is not YAML: {}", error.info());
        let hint = syntax_hint(self.text, error.marker().line(), error.info());
        self.problems.add(&origin, &self.path.join(""), message, Some(hint));
        Stopped
    }

    fn at(&self, span: Span) -> Origin {
        let width = if span.start.line() == span.end.line() { span.len() } else { 1 };
        self.position(span.start, width)
    }

    fn position(&self, marker: Marker, width: usize) -> Origin {
        Origin::File { file: self.file.clone(), line: marker.line().max(1), column: marker.col() + 1, width }
    }
}

/// Control characters other than tab and line feed, Unicode's line ends and byte-order marks.
pub(crate) fn is_invisible(c: char) -> bool {
    (c.is_control() && !matches!(c, '\t' | '\n')) || matches!(c, '\u{2028}' | '\u{2029}' | '\u{feff}')
}

/// How many values `node` holds, itself included, and how many levels it has.
fn extent(node: &Node) -> (usize, usize) {
    let add = |(values, levels): (usize, usize), child: &Node| {
        let (more, deeper) = extent(child);
        (values + more, levels.max(deeper + 1))
    };
    match &node.value {
        Value::Scalar(_) => (1, 0),
        Value::List(items) => items.iter().fold((1, 0), add),
        Value::Map(entries) => entries.iter().map(|entry| &entry.value).fold((1, 0), add),
    }
}

/// The line of a place in a file.
fn line_of(origin: &Origin) -> usize {
    match origin {
        Origin::File { line, .. } => *line,
        Origin::Set { .. } | Origin::WholeFile { .. } => 0,
    }
}

/// The usual cause of a syntax error that was noticed in line `number`: it is in that line or in the one before it.
fn syntax_hint(text: &str, number: usize, info: &str) -> String {
    if info.contains("unknown anchor") {
        return "`*name` needs an `&name` above it; put text that starts with `*` in quotes".to_owned();
    }
    let mut lines: Vec<(usize, &str)> = text.lines().enumerate().take(number).map(|(i, line)| (i + 1, line)).collect();
    lines.retain(|(_, line)| !line.trim().is_empty() && !line.trim_start().starts_with('#'));
    for (line_number, line) in lines.into_iter().rev().take(2) {
        if let Some(cause) = cause_in(line) {
            return if line_number == number { cause } else { format!("in line {line_number}, {cause}") };
        }
    }
    "look at the indentation of this line and of the one before it".to_owned()
}

/// What is suspicious about `line`, as advice.
fn cause_in(line: &str) -> Option<String> {
    let content = line.trim_start();
    let indentation = &line[..line.len() - content.len()];
    let content = content.split(" #").next().unwrap_or(content);
    let (_, value) = content.split_once(": ").unwrap_or(("", content));
    let is_quoted = value.starts_with(['"', '\'']);
    let advice = if indentation.contains('\t') {
        "indent with spaces: YAML allows no tabs there"
    } else if value.starts_with(['@', '`', '%']) {
        "put text that starts with `@`, `%` or a back-tick in quotes"
    } else if has_glued_colon(content.trim_start_matches("- ")) {
        "put a space after the colon: `name: value`"
    } else if is_quoted && value.matches(['"', '\'']).count() % 2 == 1 {
        "close the quote"
    } else if !is_quoted && value.starts_with('[') && value.matches('[').count() != value.matches(']').count() {
        "look for a missing `]` or `,`"
    } else if !is_quoted && value.starts_with('{') && value.matches('{').count() != value.matches('}').count() {
        "look for a missing `}` or `,`"
    } else if !is_quoted && !value.starts_with(['[', '{']) && value.contains(": ") {
        "put text that holds `: ` in quotes"
    } else {
        return None;
    };
    Some(advice.to_owned())
}

/// Whether `content` looks like `name:value`.
fn has_glued_colon(content: &str) -> bool {
    content.split_once(':').is_some_and(|(name, value)| {
        !name.is_empty()
            && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
            && value.starts_with(|c: char| !c.is_whitespace() && c != '/')
    })
}
