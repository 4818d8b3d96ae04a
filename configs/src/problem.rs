//! What is wrong with a config, where it stands, and how it is shown.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use crate::parse::is_invisible;
use crate::secret::redact;

/// The place a value came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// A place in the config file; lines and columns are counted from 1.
    File {
        /// The file as the person named it.
        file: Arc<str>,
        /// Line, from 1.
        line: usize,
        /// Column in characters, from 1.
        column: usize,
        /// How many characters the value or key takes on that line.
        width: usize,
    },
    /// A `--set` argument.
    Set {
        /// Which `--set` it was, from 0.
        index: usize,
        /// The text after `--set`.
        text: Arc<str>,
    },
    /// The file as a whole (it is empty, too large, not UTF-8 ...).
    WholeFile {
        /// The file as the person named it.
        file: Arc<str>,
    },
}

impl Origin {
    /// The key problems are sorted by: the whole file, then places in it, then `--set` arguments.
    fn order(&self) -> (usize, usize, usize) {
        match self {
            Origin::WholeFile { .. } => (0, 0, 0),
            Origin::File { line, column, .. } => (1, *line, *column),
            Origin::Set { index, .. } => (2, *index, 0),
        }
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Origin::File { file, line, column, .. } => write!(f, "{file}:{line}:{column}"),
            Origin::Set { text, .. } => write!(f, "--set {}", printable(&redact(text), 120)),
            Origin::WholeFile { file } => write!(f, "{file}"),
        }
    }
}

/// One mistake in a config.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Where the offending value, key or missing key's section stands.
    pub origin: Origin,
    /// The dotted path, e.g. `stages[0].optimizer.betas[1]`; empty for the file as a whole.
    pub path: String,
    /// What was found and what was expected.
    pub message: String,
    /// What to do about it, where that is known.
    pub suggestion: Option<String>,
    /// The line of the file, filled in when the problem is reported.
    pub excerpt: Option<String>,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: ", self.origin)?;
        if !self.path.is_empty() {
            write!(f, "{}: ", self.path)?;
        }
        writeln!(f, "{}", self.message)?;
        if let (Origin::File { line, column, width, .. }, Some(text)) = (&self.origin, &self.excerpt) {
            writeln!(f, "{line:>5} | {text}")?;
            if *column <= text.chars().count() + 1 {
                let marks = (*width).clamp(1, (text.chars().count() + 1 - (column - 1)).max(1));
                writeln!(f, "      | {}{}", " ".repeat(column - 1), "^".repeat(marks))?;
            }
        }
        if let Some(suggestion) = &self.suggestion {
            writeln!(f, "      = {suggestion}")?;
        }
        Ok(())
    }
}

/// Why a config was refused.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file could not be read at all.
    #[error(
        "{}: cannot read the config: {source}{}",
        path.display(),
        nearest.as_ref().map(|name| format!("\n      = did you mean `{name}`?")).unwrap_or_default()
    )]
    Unreadable {
        /// The file as the person named it.
        path: PathBuf,
        /// A file of a similar name in the same folder, or a preset of that name.
        nearest: Option<String>,
        /// What the system said.
        source: std::io::Error,
    },
    /// The file was read and has mistakes; all of them are listed.
    #[error("{}", ListOfProblems { file, problems })]
    Invalid {
        /// The file as the person named it.
        file: String,
        /// Every mistake, sorted by position.
        problems: Vec<Problem>,
    },
}

impl ConfigError {
    /// Every mistake, sorted by position; empty if the file could not be read.
    pub fn problems(&self) -> &[Problem] {
        match self {
            ConfigError::Unreadable { .. } => &[],
            ConfigError::Invalid { problems, .. } => problems,
        }
    }
}

struct ListOfProblems<'a> {
    file: &'a str,
    problems: &'a [Problem],
}

impl fmt::Display for ListOfProblems<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for problem in self.problems {
            writeln!(f, "{problem}")?;
        }
        match self.problems.len() {
            1 => write!(f, "1 problem in {}; nothing was started", self.file),
            count => write!(f, "{count} problems in {}; nothing was started", self.file),
        }
    }
}

/// The problems found so far.
#[derive(Debug, Default)]
pub(crate) struct Problems {
    found: Vec<Problem>,
}

impl Problems {
    /// Adds one problem.
    pub(crate) fn add(&mut self, origin: &Origin, path: &str, message: impl Into<String>, suggestion: Option<String>) {
        let message = redact(&message.into());
        let suggestion = suggestion.map(|text| redact(&text));
        let problem = Problem { origin: origin.clone(), path: redact(path), message, suggestion, excerpt: None };
        if !self.found.contains(&problem) {
            self.found.push(problem);
        }
    }

    /// Whether nothing was found.
    pub(crate) fn is_empty(&self) -> bool {
        self.found.is_empty()
    }

    /// The problems in the order in which they were found.
    pub(crate) fn into_list(self) -> Vec<Problem> {
        self.found
    }

    /// All problems, sorted by position, each with its line of `source`.
    pub(crate) fn into_error(mut self, file: &str, source: &str) -> ConfigError {
        self.found.sort_by_key(|problem| problem.origin.order());
        let lines: Vec<&str> = source.split('\n').map(|line| line.trim_end_matches('\r')).collect();
        for problem in &mut self.found {
            if let Origin::File { line, .. } = problem.origin {
                problem.excerpt = lines.get(line - 1).and_then(|text| excerpt(text));
            }
        }
        ConfigError::Invalid { file: file.to_owned(), problems: self.found }
    }
}

/// The longest line that is worth showing; longer ones (a minified file) would bury the message.
const LONGEST_EXCERPT: usize = 200;

/// `line` as it may be shown: control characters replaced, none at all if it is long or holds a secret
/// (hiding part of it would move the characters that the marks point at).
fn excerpt(line: &str) -> Option<String> {
    if line.trim().is_empty() || line.chars().count() > LONGEST_EXCERPT || redact(line) != line {
        return None;
    }
    Some(line.chars().map(|c| if is_invisible(c) || c == '\t' { ' ' } else { c }).collect())
}

/// `text` on one line, control characters escaped, cut after `most` characters.
pub(crate) fn printable(text: &str, most: usize) -> String {
    let mut shown = String::new();
    for (count, c) in text.chars().enumerate() {
        if count == most {
            shown.push('…');
            break;
        }
        if is_invisible(c) || c == '\n' || c == '\t' { shown.extend(c.escape_default()) } else { shown.push(c) }
    }
    shown
}
