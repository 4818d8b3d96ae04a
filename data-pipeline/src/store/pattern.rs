//! Patterns of object names: `*`, `**`, `?`, `[…]`, and braces as WebDataset writes them (`{00000..00099}`, `{a,b}`).

use std::collections::BTreeSet;

use globset::{GlobBuilder, GlobSet, GlobSetBuilder};

use super::Location;
use crate::error::{DataError, Result};

/// Characters that begin a pattern.
const SPECIAL: [char; 4] = ['*', '?', '[', '{'];
/// Names that braces may spell out.
const MOST_NAMES: usize = 1 << 20;

/// Names below a folder.
#[derive(Clone, Debug)]
pub struct Pattern {
    globs: GlobSet,
    /// Every name, where braces alone spell them out.
    names: Option<BTreeSet<String>>,
}

impl Pattern {
    /// Whether a name has a character of patterns. It may be meant as it is written.
    pub fn is_in(name: &str) -> bool {
        name.contains(SPECIAL)
    }

    /// A pattern of names below a folder. `*` and `?` do not match `/`; `**` does.
    ///
    /// # Errors
    /// [`DataError::BadUri`] for a pattern that is none, or one that spells out more than a million names.
    pub fn parse(pattern: &str) -> Result<Self> {
        let bad = |reason: String| DataError::BadUri { uri: pattern.into(), reason };
        let names = expand(pattern).ok_or_else(|| bad(format!("the braces name more than {MOST_NAMES} objects")))?;
        if !names.iter().any(|name| name.contains(SPECIAL)) {
            return Ok(Self { globs: GlobSet::empty(), names: Some(names.into_iter().collect()) });
        }
        let mut globs = GlobSetBuilder::new();
        for name in names {
            let glob = GlobBuilder::new(&name).literal_separator(true).backslash_escape(true).build();
            globs.add(glob.map_err(|error| bad(format!("not a pattern of names: {error}")))?);
        }
        let globs = globs.build().map_err(|error| bad(format!("not a pattern of names: {error}")))?;
        Ok(Self { globs, names: None })
    }

    /// Whether a name below the folder is one of the pattern's.
    pub fn matches(&self, name: &str) -> bool {
        self.names.as_ref().map_or_else(|| self.globs.is_match(name), |names| names.contains(name))
    }

    /// The names that braces alone spell out; none for other patterns.
    pub fn names(&self) -> Option<&BTreeSet<String>> {
        self.names.as_ref()
    }
}

impl Location {
    /// The folder in front of the first pattern in this place's URI, and the pattern below it; none where there is none.
    ///
    /// # Errors
    /// As [`Location::parse`] and [`Pattern::parse`].
    pub fn pattern(&self) -> Result<Option<(Self, Pattern)>> {
        let scheme = self.uri.find("://").map_or(0, |at| at + 3);
        let Some(first) = self.uri[scheme..].find(SPECIAL).map(|at| at + scheme) else { return Ok(None) };
        let (folder, pattern) = match self.uri[..first].rfind('/') {
            Some(slash) => (&self.uri[..slash], &self.uri[slash + 1..]),
            None => ("", &self.uri[..]),
        };
        // The root of a file system, the folder that the command runs in.
        let folder = match (folder, self.uri.starts_with('/')) {
            ("", true) => "/",
            ("", false) => ".",
            (folder, _) => folder,
        };
        Ok(Some((Self::parse(folder)?, Pattern::parse(pattern)?)))
    }
}

/// Every text that the braces of a pattern stand for; none when they are too many. Braces that are not closed stay.
fn expand(pattern: &str) -> Option<Vec<String>> {
    let Some((open, close)) = braces(pattern) else { return Some(vec![pattern.to_owned()]) };
    let (before, inside, after) = (&pattern[..open], &pattern[open + 1..close], &pattern[close + 1..]);
    let choices = match range(inside) {
        Some((first, last, width)) => {
            if last.abs_diff(first) >= MOST_NAMES as u64 {
                return None;
            }
            (first..=last).map(|number| format!("{number:0width$}")).collect()
        }
        None => inside.split(',').map(str::to_owned).collect::<Vec<_>>(),
    };
    let rest = expand(after)?;
    if choices.len().saturating_mul(rest.len()) > MOST_NAMES {
        return None;
    }
    Some(choices.iter().flat_map(|choice| rest.iter().map(move |end| format!("{before}{choice}{end}"))).collect())
}

/// The first opening brace with the closing one behind it.
fn braces(pattern: &str) -> Option<(usize, usize)> {
    let close = pattern.find('}')?;
    Some((pattern[..close].rfind('{')?, close))
}

/// `00000..00099`: the ends, and the digits that every number has at least.
fn range(inside: &str) -> Option<(u64, u64, usize)> {
    let (first, last) = inside.split_once("..")?;
    let is_number = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    if !is_number(first) || !is_number(last) {
        return None;
    }
    let width = if first.starts_with('0') { first.len() } else { 0 };
    let (first, last): (u64, u64) = (first.parse().ok()?, last.parse().ok()?);
    (first <= last).then_some((first, last, width))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn braces_spell_out_names() {
        let names = |pattern: &str| Pattern::parse(pattern).unwrap().names.unwrap().into_iter().collect::<Vec<_>>();
        assert_eq!(names("{00008..00011}.tar"), ["00008.tar", "00009.tar", "00010.tar", "00011.tar"]);
        assert_eq!(names("{8..10}-{a,b}"), ["10-a", "10-b", "8-a", "8-b", "9-a", "9-b"]);
        assert_eq!(names("plain}.tar"), ["plain}.tar"]);
        assert!(Pattern::parse("{0..9999999}.tar").unwrap_err().to_string().contains("more than"));
        assert!(Pattern::parse("{0..9999}{0..9999}").is_err());
    }

    #[test]
    fn globs_stay_inside_their_folder() {
        let pattern = Pattern::parse("train-*.parquet").unwrap();
        assert!(pattern.matches("train-00000-of-00002.parquet"));
        assert!(!pattern.matches("validation-0.parquet") && !pattern.matches("train-x/0.parquet"));
        assert!(Pattern::parse("**/*.tar").unwrap().matches("a/b/c.tar"));
        assert!(Pattern::parse("{a,b}/[0-9]?.tar").unwrap().matches("b/07.tar"));
    }

    #[test]
    fn an_address_is_cut_in_front_of_its_pattern() {
        let cut = |uri: &str| {
            let (folder, _) = Location::parse(uri).unwrap().pattern().unwrap().unwrap();
            folder.uri().to_owned()
        };
        assert_eq!(cut("/data/set/{0..3}.tar"), "/data/set");
        assert_eq!(cut("/data/*/0.tar"), "/data");
        assert_eq!(cut("*.tar"), ".");
        assert!(Location::parse("/data/set").unwrap().pattern().unwrap().is_none());
    }
}
