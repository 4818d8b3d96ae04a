//! `--set path=value`: changes to a config from the command line, made before its values get their types, so that
//! every check and every message applies to them too.

use std::sync::Arc;

use crate::parse::is_invisible;
use crate::problem::{Origin, Problems, printable};
use crate::suggest::{listed, nearest};
use crate::tree::{Entry, Node, Scalar, Style, Value, join};

/// The `--set` arguments of one command, in order; a later one wins over an earlier one.
///
/// A path is made of keys with `.` between them; an item of a list is named by its position (`stages[0]`, `stages.0`)
/// or by its `name` (`stages.representation`). A value is a single word or text as typed, or YAML if it starts with
/// `[`, `{` or a quote.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Overrides {
    texts: Vec<String>,
}

impl Overrides {
    /// Overrides from the texts behind `--set`, each `path=value`. They are checked when a config is loaded with them.
    pub fn new<T: Into<String>>(texts: impl IntoIterator<Item = T>) -> Overrides {
        Overrides { texts: texts.into_iter().map(Into::into).collect() }
    }

    /// No overrides.
    pub fn none() -> Overrides {
        Overrides::default()
    }

    /// The texts behind `--set`.
    pub fn texts(&self) -> &[String] {
        &self.texts
    }

    /// Changes the tree; what cannot be applied is noted.
    pub(crate) fn apply(&self, root: &mut Node, problems: &mut Problems) {
        for (index, text) in self.texts.iter().enumerate() {
            let origin = Origin::Set { index, text: Arc::from(text.as_str()) };
            let Some((path, value)) = text.split_once('=') else {
                let advice = match text.trim().split_once([' ', ':']) {
                    Some((path, value)) => {
                        format!("write --set {}={}", printable(path, 60), printable(value.trim(), 60))
                    }
                    None => format!("write --set {}=VALUE", printable(text.trim(), 60)),
                };
                problems.add(&origin, "", "found no `=`; expected path=value", Some(advice));
                continue;
            };
            let Some(steps) = split_path(path.trim()) else {
                let message = format!("found the path `{}`; expected keys with `.` between them", printable(path, 60));
                let advice = "for example stages[0].steps or stages.representation.steps".to_owned();
                problems.add(&origin, "", message, Some(advice));
                continue;
            };
            if let Some(value) = read_value(value, &origin, problems) {
                assign(root, &steps, "", value, problems);
            }
        }
    }
}

/// The keys and positions of a path, in order; `None` if it is malformed.
fn split_path(path: &str) -> Option<Vec<&str>> {
    let mut steps = Vec::new();
    for part in path.split('.') {
        let (key, mut positions) = part.split_at(part.find('[').unwrap_or(part.len()));
        if key.is_empty() {
            return None;
        }
        steps.push(key);
        while let Some(rest) = positions.strip_prefix('[') {
            let (position, after) = rest.split_once(']')?;
            if position.is_empty() {
                return None;
            }
            steps.push(position);
            positions = after;
        }
        if !positions.is_empty() {
            return None;
        }
    }
    Some(steps)
}

/// The value behind `=`.
fn read_value(text: &str, origin: &Origin, problems: &mut Problems) -> Option<Node> {
    if !text.trim_start().starts_with(['[', '{', '"', '\'']) {
        if let Some(character) = text.chars().find(|c| is_invisible(*c)) {
            let message = format!("found the invisible character U+{:04X} in the value", u32::from(character));
            problems.add(origin, "", message, Some("type the value anew".to_owned()));
            return None;
        }
        let scalar = Scalar { text: text.to_owned(), style: Style::CommandLine };
        return Some(Node { origin: origin.clone(), value: Value::Scalar(scalar) });
    }
    let mut found = Problems::default();
    match crate::parse::parse_yaml(&Arc::from("--set"), text, &mut found) {
        Some(mut node) if found.is_empty() => {
            move_origins(&mut node, origin);
            Some(node)
        }
        _ => {
            for problem in found.into_list() {
                let advice = problem.suggestion.map(|advice| advice.trim_start_matches("in line 1, ").to_owned());
                problems.add(origin, &problem.path, format!("in the value, {}", problem.message), advice);
            }
            None
        }
    }
}

/// Makes `origin` the origin of `node` and of everything below it.
fn move_origins(node: &mut Node, origin: &Origin) {
    node.origin = origin.clone();
    match &mut node.value {
        Value::Scalar(_) => {}
        Value::List(items) => items.iter_mut().for_each(|item| move_origins(item, origin)),
        Value::Map(entries) => {
            for entry in entries {
                entry.key_origin = origin.clone();
                move_origins(&mut entry.value, origin);
            }
        }
    }
}

/// Puts `value` at the end of `steps` below `node`. Keys on the way that are absent are made; whether they are keys of
/// the schema is seen when the tree is read.
fn assign(node: &mut Node, steps: &[&str], path: &str, value: Node, problems: &mut Problems) {
    let Some((step, rest)) = steps.split_first() else {
        *node = value;
        return;
    };
    if node.is_null() {
        *node = Node::empty_map(value.origin.clone());
    }
    let described = node.described();
    match &mut node.value {
        Value::Map(entries) => {
            let path = join(path, step);
            let position = entries.iter().position(|entry| entry.key == *step).unwrap_or_else(|| {
                let origin = value.origin.clone();
                let empty = Node::empty_map(origin.clone());
                entries.push(Entry { key: (*step).to_owned(), key_origin: origin, value: empty });
                entries.len() - 1
            });
            assign(&mut entries[position].value, rest, &path, value, problems);
        }
        Value::List(items) => {
            if let Some(position) = find_item(items, step, path, &value.origin, problems) {
                assign(&mut items[position], rest, &format!("{path}[{position}]"), value, problems);
            }
        }
        Value::Scalar(_) => {
            let message =
                format!("found {described} at `{path}`; expected a section that has the key `{}`", printable(step, 60));
            problems.add(&value.origin, path, message, Some(format!("write {path}=... to change the value itself")));
        }
    }
}

/// The position of the item that `step` names.
fn find_item(items: &[Node], step: &str, path: &str, origin: &Origin, problems: &mut Problems) -> Option<usize> {
    let name_of = |item: &Node| item.get("name").and_then(Node::as_text).map(str::to_owned);
    if let Ok(position) = step.parse::<usize>() {
        if position < items.len() {
            return Some(position);
        }
        let message = format!("found the position {position} in a list of {}; positions count from 0", items.len());
        let advice = items.len().checked_sub(1).map(|last| format!("the last item is {path}[{last}]"));
        problems.add(origin, path, message, advice);
        return None;
    }
    if let Some(position) = items.iter().position(|item| name_of(item).as_deref() == Some(step)) {
        return Some(position);
    }
    let names: Vec<String> = items.iter().filter_map(name_of).collect();
    let expected = match names.is_empty() {
        true => format!("a position from 0 to {}", items.len().saturating_sub(1)),
        false => format!("a position or a name: {}", listed(names.iter().map(String::as_str))),
    };
    let message = format!("found no item `{}` in `{path}`; expected {expected}", printable(step, 60));
    let advice = nearest(step, names.iter().map(String::as_str)).map(|name| format!("did you mean `{path}.{name}`?"));
    problems.add(origin, path, message, advice);
    None
}

#[cfg(test)]
mod tests {
    use super::split_path;

    #[test]
    fn paths_split_into_keys_and_positions() {
        assert_eq!(split_path("a.b"), Some(vec!["a", "b"]));
        assert_eq!(split_path("stages[0].betas[1]"), Some(vec!["stages", "0", "betas", "1"]));
        for path in ["", ".", "a.", ".a", "a[", "a[]", "a[0]b", "[0]"] {
            assert_eq!(split_path(path), None, "{path}");
        }
    }
}
