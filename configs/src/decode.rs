//! From the tree to typed values: every mistake is noted and reading goes on with the next key.

use crate::problem::{Origin, Problems, printable};
use crate::rule::Rule;
use crate::schema::{SectionSchema, Shape};
use crate::suggest::{listed, nearest};
use crate::tree::{Entry, Meaning, Node, Scalar, Step, Style, Value, join};

/// A node to be read: where it stands in the config and what its key allows.
#[derive(Clone, Copy)]
pub(crate) struct Place<'a> {
    pub(crate) node: &'a Node,
    pub(crate) path: &'a str,
    pub(crate) rule: &'a Rule,
}

/// A type that can be read from a config.
pub(crate) trait FromNode: Sized {
    /// What the type looks like in YAML.
    fn shape() -> Shape;

    /// The value at `place`, or `None` after noting why not.
    fn from_node(place: Place<'_>, problems: &mut Problems) -> Option<Self>;
}

impl<'a> Place<'a> {
    /// The root of a config.
    pub(crate) fn root(node: &'a Node) -> Place<'a> {
        Place { node, path: "", rule: &Rule::Any }
    }

    /// Notes that something else than `expected` stands here.
    pub(crate) fn refuse(&self, expected: &str, suggestion: Option<String>, problems: &mut Problems) {
        let message = format!("found {}; expected {expected}", self.node.described());
        problems.add(&self.node.origin, self.path, message, suggestion);
    }

    /// Notes that the value of `key` below this place does not fit the ones beside it.
    pub(crate) fn refuse_at(&self, key: &str, message: String, advice: String, problems: &mut Problems) {
        let origin = self.node.origin_of(&[Step::Key(key)]);
        problems.add(origin, &join(self.path, key), message, Some(advice));
    }

    fn scalar(&self) -> Option<&'a Scalar> {
        match &self.node.value {
            Value::Scalar(scalar) => Some(scalar),
            _ => None,
        }
    }
}

/// The default of a key, if it has one, as a function.
pub(crate) type DefaultOf<T> = Option<fn() -> T>;

/// The keys of one section while they are read.
pub(crate) struct Fields<'a> {
    place: Place<'a>,
    entries: &'a [Entry],
}

impl<'a> Fields<'a> {
    /// The keys at `place`, or `None` after noting that no section stands there.
    pub(crate) fn open(place: Place<'a>, problems: &mut Problems) -> Option<Fields<'a>> {
        match &place.node.value {
            Value::Map(entries) => Some(Fields { place, entries }),
            Value::List(_) => {
                let advice = "write `key: value` lines without the leading `-`".to_owned();
                place.refuse("a section with keys", Some(advice), problems);
                None
            }
            Value::Scalar(_) if place.node.is_null() => {
                let advice = "give it keys, indented below it, or remove the line".to_owned();
                place.refuse("a section with keys", Some(advice), problems);
                None
            }
            Value::Scalar(_) => {
                place.refuse("a section with keys", None, problems);
                None
            }
        }
    }

    /// The value of `key`, its default, or `None` after noting what is wrong.
    pub(crate) fn read<T: FromNode>(
        &self,
        key: &str,
        default: DefaultOf<T>,
        rule: &Rule,
        problems: &mut Problems,
    ) -> Option<T> {
        let path = join(self.place.path, key);
        match self.entries.iter().find(|entry| entry.key == key) {
            Some(entry) => T::from_node(Place { node: &entry.value, path: &path, rule }, problems),
            None => default.map(|build| build()).or_else(|| {
                let message = format!("the key `{key}` is missing; expected {}", T::shape().in_words(rule));
                problems.add(
                    &self.place.node.origin,
                    &path,
                    message,
                    Some(format!("add `{key}: ...` to this section")),
                );
                None
            }),
        }
    }

    /// The kind of the section, one of `kinds`, or `None` after noting what is wrong. Where `kind` is not stated, the
    /// key `fallback` may name it.
    pub(crate) fn kind(
        &self,
        kinds: &[&'static str],
        fallback: Option<&str>,
        problems: &mut Problems,
    ) -> Option<&'static str> {
        let choices: Vec<(&'static str, &'static str)> = kinds.iter().map(|kind| (*kind, *kind)).collect();
        if let Some(node) = self.place.node.get("kind") {
            let path = join(self.place.path, "kind");
            return read_choice(Place { node, path: &path, rule: &Rule::Any }, &choices, problems);
        }
        let named = fallback.and_then(|key| self.place.node.get(key)).and_then(Node::as_text);
        if let Some((kind, _)) = choices.iter().find(|(kind, _)| Some(*kind) == named) {
            return Some(kind);
        }
        let message = format!("the key `kind` is missing; expected {}", crate::rule::one_of(kinds.iter().copied()));
        let suggestion = named.and_then(|name| nearest(name, kinds.iter().copied()));
        let suggestion = suggestion.or(kinds.first().copied()).map(|kind| format!("add, for example, `kind: {kind}`"));
        problems.add(&self.place.node.origin, &join(self.place.path, "kind"), message, suggestion);
        None
    }

    /// Notes every key that neither `schema` nor `known` has.
    pub(crate) fn refuse_unknown(&self, schema: &SectionSchema, known: &[&str], problems: &mut Problems) {
        let names: Vec<&str> = schema.fields.iter().map(|field| field.name).chain(known.iter().copied()).collect();
        for entry in self.entries.iter().filter(|entry| !names.contains(&entry.key.as_str())) {
            let path = join(self.place.path, &entry.key);
            let is_stated = |name: &str| self.entries.iter().any(|other| other.key == name);
            let free: Vec<&str> = names.iter().copied().filter(|name| !is_stated(name)).collect();
            let is_set = matches!(entry.key_origin, Origin::Set { .. });
            let expected = match (is_set, free.is_empty()) {
                (true, _) => format!("the keys here are {}", listed(names.iter().copied()).replace(" or ", " and ")),
                (false, true) => "all keys of this section are stated already".to_owned(),
                (false, false) => {
                    format!("keys not stated yet: {}", listed(free.iter().copied()).replace(" or ", " and "))
                }
            };
            let message = format!("unknown key `{}`; {expected}", printable(&entry.key, 60));
            let likely = if is_set { &names } else { &free };
            let suggestion = if entry.key == "<<" {
                Some("merge keys are not read: state the keys here, or use `*name` for the whole section".to_owned())
            } else if let Some(name) = nearest(&entry.key, likely.iter().copied()) {
                Some(format!("did you mean `{name}`?"))
            } else if let Some(advice) = crate::schema::elsewhere(&entry.key) {
                Some(advice)
            } else {
                let stated = nearest(&entry.key, names.iter().copied());
                stated.map(|name| format!("did you mean `{name}`, which is stated already?"))
            };
            problems.add(&entry.key_origin, &path, message, suggestion);
        }
    }
}

/// Reads one of several named words.
pub(crate) fn read_choice<T: Copy>(
    place: Place<'_>,
    choices: &[(&'static str, T)],
    problems: &mut Problems,
) -> Option<T> {
    let text = place.node.as_text().unwrap_or("");
    if let Some((_, value)) = choices.iter().find(|(name, _)| *name == text) {
        return Some(*value);
    }
    let names = || choices.iter().map(|(name, _)| *name);
    let suggestion = nearest(text, names()).map(|name| format!("did you mean `{name}`?"));
    place.refuse(&crate::rule::one_of(names()), suggestion, problems);
    None
}

impl FromNode for String {
    fn shape() -> Shape {
        Shape::Text
    }

    fn from_node(place: Place<'_>, problems: &mut Problems) -> Option<Self> {
        let expected = place.rule.expected("text");
        let Some(scalar) = place.scalar() else {
            let advice = "put text that starts with `{` or `[` in quotes".to_owned();
            place.refuse(&expected, Some(advice), problems);
            return None;
        };
        match scalar.meaning() {
            Meaning::Nothing
                if scalar.style == Style::CommandLine && scalar.text.is_empty() && place.rule.allows_text("") =>
            {
                Some(String::new())
            }
            Meaning::Nothing => {
                let advice = "write \"\" for an empty text".to_owned();
                let allowed = place.rule.allows_text("");
                place.refuse(&expected, allowed.then_some(advice), problems);
                None
            }
            Meaning::Number | Meaning::Switch(_) if scalar.style == Style::Plain && *place.rule != Rule::TimeLimit => {
                let advice = format!("put it in quotes: \"{}\"", printable(&scalar.text, 60));
                place.refuse(&expected, Some(advice), problems);
                None
            }
            _ if !place.rule.allows_text(&scalar.text) => {
                let cleaned: String = scalar
                    .text
                    .chars()
                    .map(|c| if c.is_ascii_alphanumeric() || matches!(c, '.' | '_') { c } else { '-' })
                    .collect();
                let cleaned = cleaned.trim_matches(['-', '.']).to_owned();
                let suggest = *place.rule == Rule::Name && place.rule.allows_text(&cleaned);
                place.refuse(&expected, suggest.then(|| format!("for example `{cleaned}`")), problems);
                None
            }
            _ => Some(scalar.text.clone()),
        }
    }
}

impl FromNode for bool {
    fn shape() -> Shape {
        Shape::Switch
    }

    fn from_node(place: Place<'_>, problems: &mut Problems) -> Option<Self> {
        if let Some(Meaning::Switch(value)) = place.scalar().map(Scalar::meaning) {
            return Some(value);
        }
        let suggestion = match place.node.as_text().unwrap_or("").to_ascii_lowercase().as_str() {
            "yes" | "on" | "y" | "1" | "true" => Some("write true".to_owned()),
            "no" | "off" | "n" | "0" | "false" => Some("write false".to_owned()),
            _ => None,
        };
        place.refuse("true or false", suggestion, problems);
        None
    }
}

impl FromNode for f64 {
    fn shape() -> Shape {
        Shape::Number
    }

    fn from_node(place: Place<'_>, problems: &mut Problems) -> Option<Self> {
        let expected = place.rule.expected("a number");
        let value = place.scalar().filter(|scalar| scalar.meaning() == Meaning::Number).map(parse_number);
        match value {
            Some(value) if value.is_finite() && place.rule.allows_number(value) => Some(value),
            Some(value) if value.is_finite() => {
                let suggestion =
                    place.rule.nearest_number(value).map(|near| format!("the nearest allowed value is {near}"));
                place.refuse(&expected, suggestion, problems);
                None
            }
            Some(_) => {
                place.refuse(&expected, Some("NaN and infinity are refused".to_owned()), problems);
                None
            }
            None => {
                place.refuse(&expected, number_hint(place), problems);
                None
            }
        }
    }
}

/// The number a scalar states; not finite for `.nan` and `.inf`.
fn parse_number(scalar: &Scalar) -> f64 {
    scalar.text.parse().unwrap_or(f64::NAN)
}

impl FromNode for u64 {
    fn shape() -> Shape {
        Shape::Whole
    }

    fn from_node(place: Place<'_>, problems: &mut Problems) -> Option<Self> {
        let rule = if *place.rule == Rule::Any { &Rule::at_least(0.0) } else { place.rule };
        let expected = rule.expected("a whole number");
        let number = place.scalar().filter(|scalar| scalar.meaning() == Meaning::Number);
        let Some(scalar) = number else {
            place.refuse(&expected, number_hint(place), problems);
            return None;
        };
        let digits = scalar.text.strip_prefix('+').unwrap_or(&scalar.text);
        match digits.parse::<u64>() {
            Ok(value) if rule.allows_whole(value) => Some(value),
            _ => {
                let value = parse_number(scalar);
                let suggestion = if let Rule::Version(version) = rule {
                    Some(format!("this program reads version {version} only"))
                } else if !rule.allows_number(value) {
                    rule.nearest_number(value).map(|near| format!("the nearest allowed value is {near}"))
                } else if value > 1e15 {
                    Some("that is more than 10^15: a slip of the finger?".to_owned())
                } else {
                    let rounded = value.round();
                    Some(format!("write {}", if rule.allows_number(rounded) { rounded } else { value.ceil() }))
                };
                place.refuse(&expected, suggestion, problems);
                None
            }
        }
    }
}

impl FromNode for usize {
    fn shape() -> Shape {
        Shape::Whole
    }

    fn from_node(place: Place<'_>, problems: &mut Problems) -> Option<Self> {
        // Values are at most 10^15, which fits where the framework runs (64 bits).
        u64::from_node(place, problems).and_then(|value| usize::try_from(value).ok())
    }
}

/// What to write where a number was meant.
fn number_hint(place: Place<'_>) -> Option<String> {
    let scalar = place.scalar()?;
    if scalar.meaning() == Meaning::Nothing {
        return None;
    }
    if scalar.text.starts_with(|c: char| c.is_ascii_digit()) && scalar.text.parse() == Ok(f64::INFINITY) {
        return Some("that is too large for a double".to_owned());
    }
    let plain: String = scalar.text.chars().filter(|c| !matches!(c, '_' | ',' | ' ')).collect();
    let is_number = |text: &str| Scalar { text: text.to_owned(), style: Style::Plain }.meaning() == Meaning::Number;
    if scalar.style == Style::Quoted && is_number(&scalar.text) {
        return Some(format!("remove the quotes: {}", printable(&scalar.text, 40)));
    }
    if is_number(&plain) {
        return Some(format!("write {}", printable(&plain, 40)));
    }
    let (digits, factor) = match plain.to_ascii_lowercase() {
        text if text.ends_with('k') => (text.trim_end_matches('k').to_owned(), 1e3),
        text if text.ends_with('m') => (text.trim_end_matches('m').to_owned(), 1e6),
        text if text.ends_with('%') => (text.trim_end_matches('%').to_owned(), 1e-2),
        _ => return None,
    };
    is_number(&digits).then(|| digits.parse::<f64>().ok().map(|value| format!("write {}", value * factor))).flatten()
}

impl<T: FromNode> FromNode for Option<T> {
    fn shape() -> Shape {
        Shape::Optional(Box::new(T::shape()))
    }

    fn from_node(place: Place<'_>, problems: &mut Problems) -> Option<Self> {
        if place.node.is_null() { Some(None) } else { T::from_node(place, problems).map(Some) }
    }
}

impl<T: FromNode> FromNode for Vec<T> {
    fn shape() -> Shape {
        Shape::List(Box::new(T::shape()), None)
    }

    fn from_node(place: Place<'_>, problems: &mut Problems) -> Option<Self> {
        read_items(place, None, problems)
    }
}

impl<T: FromNode + Copy, const N: usize> FromNode for [T; N] {
    fn shape() -> Shape {
        Shape::List(Box::new(T::shape()), Some(N))
    }

    fn from_node(place: Place<'_>, problems: &mut Problems) -> Option<Self> {
        let items: Vec<T> = read_items(place, Some(N), problems)?;
        items.try_into().ok()
    }
}

/// All items of a list, or `None` after noting what is wrong with some of them.
fn read_items<T: FromNode>(place: Place<'_>, length: Option<usize>, problems: &mut Problems) -> Option<Vec<T>> {
    let expected = || Shape::List(Box::new(T::shape()), length).in_words(place.rule);
    let Value::List(items) = &place.node.value else {
        let advice = match &place.node.value {
            Value::Map(_) => Some("start each item with `- `".to_owned()),
            Value::Scalar(scalar) if scalar.meaning() != Meaning::Nothing => {
                Some(format!("write [{}]", printable(&scalar.text, 40))).filter(|_| length.is_none())
            }
            _ => length.is_none().then(|| "write [] for an empty list".to_owned()),
        };
        place.refuse(&expected(), advice, problems);
        return None;
    };
    let mut all = Some(Vec::with_capacity(items.len()));
    for (index, item) in items.iter().enumerate() {
        let path = format!("{}[{index}]", place.path);
        let value = T::from_node(Place { node: item, path: &path, rule: place.rule }, problems);
        all = all.zip(value).map(|(mut values, value)| {
            values.push(value);
            values
        });
    }
    if length.is_some_and(|length| length != items.len()) {
        place.refuse(&expected(), None, problems);
        return None;
    }
    all
}
