//! docs/configuration.md is what the types say. `BLIP2_BLESS=1 cargo test --release --workspace --test reference`
//! writes it anew.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fmt::Write;
use std::path::Path;

use configs::schema::{self, FieldSchema, KindsSchema, SectionSchema, Shape};
use configs::{Overrides, load_str, preset};
use serde_yaml::Value;

/// The preset whose values the page shows.
const EXAMPLE: &str = "vitg_opt2.7b";

const HEAD: &str = "\
# Configuration

One YAML file is one run. Every key of it stands here, with what it takes, what it means, the value it has where it is
not stated, and its value in the preset `vitg_opt2.7b` (the paper's recipe). The page is made from the types in
`configs/src`, and a test fails when it is not what they say.

- A path names a key as messages and `--set` do: `--set stages[0].steps=100`, or by the name of an item:
  `--set stages.representation.steps=100`. `[]` stands for every item of a list.
- Keys that are not listed are refused, with the nearest name that is. Keys without a default have to be stated; the
  shipped presets state all.
- Sizes of batches count samples over all ranks; a step is one update of the optimiser.
- Secrets never stand in a config: stores take theirs from the environment ([data](data.md)).

`blip2 config check RUN.yaml` reports every mistake at once; `blip2 config show RUN.yaml` prints the file with every
value that was left out.
";

/// A section of the page: one section of the schema, wherever it stands.
struct Part {
    /// Its path, without kinds.
    path: String,
    /// The kinds of it that have these keys, if it has kinds.
    kinds: Vec<&'static str>,
    /// Each place where it stands, with kinds: `stages[]{generative}.optimizer{adamw}`.
    places: Vec<String>,
    content: Content,
}

enum Content {
    Keys(SectionSchema),
    Kinds(KindsSchema),
}

impl Content {
    /// Equal for sections that have nothing different to say.
    fn identity(&self) -> String {
        match self {
            Content::Keys(section) => format!("{section:?}"),
            Content::Kinds(kinds) => format!("{kinds:?}"),
        }
    }
}

/// Adds what stands at `path`, and below it, to `parts`; what is there already gets a further place.
fn collect(shape: &Shape, path: &str, place: &str, parts: &mut Vec<Part>) {
    match shape {
        Shape::List(item, _) => collect(item, &format!("{path}[]"), &format!("{place}[]"), parts),
        Shape::Optional(inner) => collect(inner, path, place, parts),
        Shape::Section(section) => {
            add(Content::Keys(section.clone()), None, path, place, parts);
            collect_below(section, path, place, parts);
        }
        Shape::Kinds(kinds) => {
            let place_of = |kind: &str| format!("{place}{{{kind}}}");
            add(Content::Kinds(kinds.clone()), None, path, place, parts);
            for kind in &kinds.kinds {
                add(Content::Keys(kind.section.clone()), Some(kind.name), path, &place_of(kind.name), parts);
            }
            for kind in &kinds.kinds {
                collect_below(&kind.section, path, &place_of(kind.name), parts);
            }
        }
        _ => {}
    }
}

fn collect_below(section: &SectionSchema, path: &str, place: &str, parts: &mut Vec<Part>) {
    for field in &section.fields {
        collect(&field.shape, &joined(path, field.name), &joined(place, field.name), parts);
    }
}

fn add(content: Content, kind: Option<&'static str>, path: &str, place: &str, parts: &mut Vec<Part>) {
    let identity = content.identity();
    let same = |part: &&mut Part| {
        part.path == path && part.kinds.is_empty() == kind.is_none() && part.content.identity() == identity
    };
    if let Some(part) = parts.iter_mut().find(same) {
        part.places.push(place.to_owned());
        part.kinds.extend(kind.filter(|kind| !part.kinds.contains(kind)));
    } else {
        let (path, places) = (path.to_owned(), vec![place.to_owned()]);
        parts.push(Part { path, kinds: kind.into_iter().collect(), places, content });
    }
}

fn joined(path: &str, key: &str) -> String {
    if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") }
}

/// Every value that stands at a place of the run.
fn values_at<'a>(root: &'a Value, place: &str) -> Vec<&'a Value> {
    let mut found = vec![root];
    for step in place.split('.') {
        let (step, kind) = match step.split_once('{') {
            Some((step, kind)) => (step, kind.strip_suffix('}')),
            None => (step, None),
        };
        let (key, list) = step.strip_suffix("[]").map_or((step, false), |key| (key, true));
        found = found.into_iter().filter_map(|value| value.get(key)).collect();
        if list {
            found = found.into_iter().filter_map(Value::as_sequence).flatten().collect();
        }
        found.retain(|value| kind.is_none_or(|kind| value.get("kind").and_then(Value::as_str) == Some(kind)));
    }
    found
}

/// What a value is, in the cell of a table.
fn shown(value: &Value) -> Option<String> {
    match value {
        Value::Mapping(_) => None,
        Value::Sequence(items) if items.iter().any(Value::is_mapping) => None,
        value => Some(format!("`{}`", serde_json::to_string(value).unwrap())),
    }
}

/// The different values of a key at all places of its section, in their order.
fn example(root: &Value, part: &Part, field: &FieldSchema) -> String {
    let mut texts: Vec<String> = Vec::new();
    for place in &part.places {
        for text in values_at(root, &joined(place, field.name)).into_iter().filter_map(shown) {
            if !texts.contains(&text) {
                texts.push(text);
            }
        }
    }
    texts.join(", ")
}

/// Whether keys hang below.
fn is_section(shape: &Shape) -> bool {
    match shape {
        Shape::Section(_) | Shape::Kinds(_) => true,
        Shape::List(inner, _) | Shape::Optional(inner) => is_section(inner),
        _ => false,
    }
}

/// What a key takes. A section is linked, not repeated.
fn takes(field: &FieldSchema, path: &str) -> String {
    if !is_section(&field.shape) {
        return field.shape.in_words(&field.rule);
    }
    let (heading, many) = match field.shape {
        Shape::List(..) => (format!("{path}[]"), "a list of sections"),
        _ => (path.to_owned(), "a section"),
    };
    let or_null = if matches!(field.shape, Shape::Optional(_)) { ", or null" } else { "" };
    format!("[{many}](#{}){or_null}", anchor(&heading))
}

/// What a key means, with what each of its words means.
fn means(field: &FieldSchema) -> String {
    let mut text = field.doc.clone();
    let mut shape = &field.shape;
    while let Shape::List(inner, _) | Shape::Optional(inner) = shape {
        shape = inner;
    }
    if let Shape::Choice(choices) = shape {
        for (word, doc) in choices {
            write!(text, "<br>`{word}`: {doc}").unwrap();
        }
    }
    text
}

fn default(field: &FieldSchema) -> String {
    match &field.default {
        None => String::new(),
        Some(text) if is_section(&field.shape) && text != "null" => "its keys' defaults".to_owned(),
        Some(text) => format!("`{text}`"),
    }
}

/// The anchor that a heading gets: lower case, spaces as hyphens, no other punctuation.
fn anchor(heading: &str) -> String {
    let kept = heading.to_lowercase();
    kept.chars()
        .filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'))
        .map(|c| if c == ' ' { '-' } else { c })
        .collect()
}

fn row(cells: &[String]) -> String {
    let cells: Vec<String> = cells.iter().map(|cell| cell.replace('|', "\\|")).collect();
    format!("| {} |\n", cells.join(" | "))
}

fn listed(words: &[&str]) -> String {
    let quoted: Vec<String> = words.iter().map(|word| format!("`{word}`")).collect();
    match quoted.split_last() {
        Some((last, rest)) if !rest.is_empty() => format!("{} or {last}", rest.join(", ")),
        _ => quoted.concat(),
    }
}

fn write_part(part: &Part, root: &Value, page: &mut String) {
    match &part.content {
        Content::Kinds(kinds) => {
            writeln!(page, "\n## `{}`\n\n{}\n", part.path, kinds.doc).unwrap();
            page.push_str("| `kind` | what it is |\n| --- | --- |\n");
            for kind in &kinds.kinds {
                page.push_str(&row(&[format!("`{}`", kind.name), kind.doc.clone()]));
            }
        }
        Content::Keys(section) => {
            if part.kinds.is_empty() {
                let title = if part.path.is_empty() { "The file".to_owned() } else { format!("`{}`", part.path) };
                writeln!(page, "\n## {title}\n\n{}", section.doc).unwrap();
            } else {
                writeln!(page, "\n### `{}` of kind {}\n\n{}", part.path, listed(&part.kinds), section.doc).unwrap();
            }
            if section.fields.is_empty() {
                page.push_str("\nIt has no further keys.\n");
                return;
            }
            writeln!(page, "\n| key | takes | means | default | `{EXAMPLE}` |\n| --- | --- | --- | --- | --- |")
                .unwrap();
            for field in &section.fields {
                let path = joined(&part.path, field.name);
                page.push_str(&row(&[
                    format!("`{path}`"),
                    takes(field, &path),
                    means(field),
                    default(field),
                    example(root, part, field),
                ]));
            }
        }
    }
}

fn made() -> String {
    let run = load_str(EXAMPLE, preset(EXAMPLE).unwrap(), &Overrides::none()).unwrap();
    let root: Value = serde_yaml::from_str(&run.to_yaml()).unwrap();
    let mut parts = Vec::new();
    collect(&schema::run(), "", "", &mut parts);
    let mut page = HEAD.to_owned();
    for part in &parts {
        write_part(part, &root, &mut page);
    }
    page
}

#[test]
fn the_page_is_what_the_types_say() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/configuration.md");
    let made = made();
    if std::env::var_os("BLIP2_BLESS").is_some_and(|value| value == "1") {
        std::fs::write(&path, &made).unwrap();
        return;
    }
    let there = std::fs::read_to_string(&path).unwrap_or_default();
    let differs = made.lines().zip(there.lines()).find(|(made, there)| made != there);
    assert!(
        made == there,
        "docs/configuration.md is not what the types say (first difference: {differs:?}); write it anew with\n\
         BLIP2_BLESS=1 cargo test --release --workspace --test reference"
    );
}

#[test]
fn every_key_stands_on_the_page() {
    let page = made();
    for line in schema::reference() {
        // Kinds are in headings, not in paths.
        let mut path = String::new();
        let mut inside = false;
        for c in line.path.chars() {
            match c {
                '{' => inside = true,
                '}' => inside = false,
                c if !inside => path.push(c),
                _ => {}
            }
        }
        assert!(page.contains(&format!("\n| `{path}` | ")), "{path} is missing");
        assert!(!line.doc.is_empty(), "{path} is not described");
    }
}

#[test]
fn every_value_of_the_preset_stands_on_the_page() {
    let page = made();
    let cell = |key: &str| {
        let line = page.lines().find(|line| line.starts_with(&format!("| `{key}` |"))).unwrap();
        line.trim_end_matches(" |").rsplit(" | ").next().unwrap().to_owned()
    };
    assert_eq!(cell("model.qformer.num_query_tokens"), "`32`");
    assert_eq!(cell("cluster.ranks_per_node"), "`8`");
    assert_eq!(cell("stages[].global_batch"), "`1680`");
    assert_eq!(cell("stages[].lr_schedule.peak"), "`0.0001`", "one value of both stages");
    assert_eq!(cell("data.sources[].weight"), "`3.0`, `10.2`, `0.9`, `115.0`");
    assert_eq!(cell("model.qformer"), "", "a section has its values below");
}

#[test]
fn links_lead_to_headings() {
    let page = made();
    let headings: Vec<String> = page.lines().filter_map(|line| line.strip_prefix("## ")).map(anchor).collect();
    let mut links = 0;
    for rest in page.split("](#").skip(1) {
        let target = rest.split(')').next().unwrap().to_owned();
        assert!(headings.contains(&target), "no heading for #{target}");
        links += 1;
    }
    assert!(links > 20, "{links} links");
}

#[test]
fn places_name_items_of_their_kind_alone() {
    let root: Value =
        serde_yaml::from_str("a: [{kind: x, b: 1}, {kind: y, b: 2}, {kind: x, b: 3}]\nc: {d: [1, 2]}").unwrap();
    let numbers = |place: &str| values_at(&root, place).iter().filter_map(|value| value.as_u64()).collect::<Vec<_>>();
    assert_eq!(numbers("a[]{x}.b"), [1, 3]);
    assert_eq!(numbers("a[]{y}.b"), [2]);
    assert_eq!(numbers("a[]{z}.b"), Vec::<u64>::new());
    assert_eq!(numbers("c.none"), Vec::<u64>::new());
    assert_eq!(shown(values_at(&root, "c.d")[0]), Some("`[1,2]`".to_owned()));
    assert_eq!(shown(values_at(&root, "a")[0]), None);
}
