//! The documentation says what is there: links lead somewhere, commands parse, keys exist, snippets load.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeSet;
use std::path::Path;

use clap::Parser;
use clap::error::ErrorKind;
use configs::schema::{self, SectionSchema, Shape};
use configs::{Overrides, load_str, preset};
use integration_tests::pages::{self, Page};
use integration_tests::programs::checkout;
use launcher::cli::Cli;
use serde_yaml::Value;

/// Every problem that `find` sees in the pages, with the page's name.
fn problems(find: impl Fn(&Page) -> Vec<String>) -> Vec<String> {
    let all = pages::all();
    all.iter().flat_map(|page| find(page).into_iter().map(|found| format!("{}: {found}", page.name))).collect()
}

fn none() -> Vec<String> {
    Vec::new()
}

fn page(text: &str) -> Page {
    Page { name: "docs/page.md".to_owned(), text: text.to_owned() }
}

// Links.

/// The links of a page below `root` that lead nowhere.
fn broken_links(page: &Page, root: &Path) -> Vec<String> {
    let folder = root.join(&page.name).parent().unwrap().to_path_buf();
    let mut broken = Vec::new();
    for link in page.links().into_iter().filter(|link| !link.contains("://") && !link.starts_with("mailto:")) {
        let (path, anchor) = link.split_once('#').map_or((link.as_str(), None), |(path, anchor)| (path, Some(anchor)));
        let target = folder.join(path);
        if !path.is_empty() && !target.exists() {
            broken.push(format!("the link `{link}` leads to no file"));
        } else if let Some(anchor) = anchor {
            let text = if path.is_empty() { page.text.clone() } else { std::fs::read_to_string(&target).unwrap() };
            if !(Page { name: String::new(), text }).anchors().contains(anchor) {
                broken.push(format!("the link `{link}` leads to no heading"));
            }
        }
    }
    broken
}

#[test]
fn links_lead_somewhere() {
    assert_eq!(problems(|page| broken_links(page, &checkout())), none());
}

#[test]
fn a_broken_link_is_seen() {
    let text = "# Here\n[a](#here) [b](data.md) [c](../README.md) [d](https://x.y/z) [e](decisions/)\n\
                [f](none.md) [g](#there) [h](data.md#nowhere) [i](data.md#order)";
    let broken = broken_links(&page(text), &checkout()).join("\n");
    assert_eq!(broken.lines().count(), 3, "{broken}");
    assert!(["`none.md`", "`#there`", "`data.md#nowhere`"].iter().all(|link| broken.contains(link)), "{broken}");
}

/// Pages below docs/ that its README does not lead to; those of a folder that it names count as named.
fn unlisted(readme: &Page, names: &[String]) -> Vec<String> {
    let links: BTreeSet<String> = readme.links().into_iter().collect();
    let is_listed =
        |name: &str| links.contains(name) || name.match_indices('/').any(|(at, _)| links.contains(&name[..=at]));
    let wanted = names.iter().filter_map(|name| name.strip_prefix("docs/")).filter(|name| *name != "README.md");
    wanted.filter(|name| !is_listed(name)).map(str::to_owned).collect()
}

#[test]
fn the_readme_of_docs_names_every_page() {
    let names: Vec<String> = pages::all().into_iter().map(|page| page.name).collect();
    assert_eq!(unlisted(&pages::page("docs/README.md"), &names), none());
    let names = ["docs/a.md", "docs/b/c.md", "docs/d/e.md", "docs/README.md", "README.md"].map(str::to_owned);
    assert_eq!(unlisted(&page("[a](a.md) [b](b/)"), &names), ["d/e.md"]);
}

// Commands.

/// What is wrong with a whole command of one of our programs.
fn wrong_command(words: &[String]) -> Option<String> {
    let (name, arguments) = pages::ours(words)?;
    let wrong = match name {
        "blip2" => parse(arguments).err().map(|error| error.to_string()),
        "blip2-rank" => wrong_rank(arguments),
        "make" => wrong_make(arguments),
        script => (!checkout().join(script).exists()).then(|| "there is no such script".to_owned()),
    };
    let wrong = wrong.or_else(|| wrong_keys(arguments)).or_else(|| missing_file(words));
    wrong.map(|wrong| format!("`{}`: {wrong}", words.join(" ")))
}

fn parse(arguments: &[String]) -> Result<(), clap::Error> {
    match Cli::try_parse_from(std::iter::once("blip2").chain(arguments.iter().map(String::as_str))) {
        Err(error) if !matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion) => Err(error),
        _ => Ok(()),
    }
}

/// The commands of `blip2-rank`, from its source: this crate must not link what that links.
fn rank_commands() -> BTreeSet<String> {
    let source = std::fs::read_to_string(checkout().join("trainer/src/arguments.rs")).unwrap();
    let body = source.split_once("pub enum Command {").unwrap().1.split_once("\n}").unwrap().0;
    let lines = body.lines().filter_map(|line| line.strip_prefix("    "));
    lines.filter(|line| line.starts_with(char::is_uppercase)).map(kebab).collect()
}

/// `SelfCheck {` as `self-check`.
fn kebab(variant: &str) -> String {
    let mut name = String::new();
    for c in variant.chars().take_while(|c| c.is_alphanumeric()) {
        if c.is_uppercase() && !name.is_empty() {
            name.push('-');
        }
        name.extend(c.to_lowercase());
    }
    name
}

fn wrong_rank(arguments: &[String]) -> Option<String> {
    let first = arguments.first().map_or("", String::as_str);
    let known = first.starts_with("--") || rank_commands().contains(first);
    (!known).then(|| format!("blip2-rank has no command `{first}`"))
}

fn make_targets() -> BTreeSet<String> {
    let makefile = std::fs::read_to_string(checkout().join("Makefile")).unwrap();
    let is_target = |name: &&str| !name.is_empty() && name.chars().all(|c| c.is_ascii_lowercase() || c == '-');
    let targets = makefile.lines().filter_map(|line| Some(line.split_once(':')?.0)).filter(is_target);
    targets.map(str::to_owned).collect()
}

fn wrong_make(arguments: &[String]) -> Option<String> {
    let targets = make_targets();
    let unknown = arguments.iter().find(|word| !word.contains('=') && !targets.contains(*word))?;
    Some(format!("the Makefile has no target `{unknown}`"))
}

/// Whether a path of keys leads somewhere below a section.
fn knows(shape: &Shape, steps: &[&str]) -> bool {
    let Some((first, rest)) = steps.split_first() else { return true };
    let has =
        |section: &SectionSchema| section.fields.iter().any(|field| field.name == *first && knows(&field.shape, rest));
    match shape {
        Shape::List(item, _) => knows(item, rest),
        Shape::Optional(inner) => knows(inner, steps),
        Shape::Section(section) => has(section),
        Shape::Kinds(kinds) => *first == "kind" && rest.is_empty() || kinds.kinds.iter().any(|kind| has(&kind.section)),
        _ => false,
    }
}

fn is_key(path: &str) -> bool {
    let path = path.replace('[', ".").replace(']', "");
    knows(&schema::run(), &path.split('.').collect::<Vec<_>>())
}

/// A key behind `--set` or `--accept-change` that no config has.
fn wrong_keys(arguments: &[String]) -> Option<String> {
    let pairs = arguments.iter().zip(arguments.iter().skip(1));
    let keys = pairs.filter_map(|(option, value)| match option.as_str() {
        "--set" => Some(value.split_once('=').map_or(value.as_str(), |(key, _)| key)),
        "--accept-change" => Some(value.as_str()),
        _ => None,
    });
    // A word in capitals stands for a key.
    let mut unknown = keys.filter(|key| !key.chars().all(|c| c.is_ascii_uppercase()) && !is_key(key));
    unknown.next().map(|key| format!("no config has the key `{key}`"))
}

/// A preset or a script that a command names and that is not there.
fn missing_file(words: &[String]) -> Option<String> {
    let is_ours = |word: &&String| {
        word.starts_with("configs/") && word.ends_with(".yaml") || word.starts_with("tests/") && word.ends_with(".py")
    };
    let missing = words.iter().filter(is_ours).find(|word| !checkout().join(word).exists());
    let presets = words.iter().filter_map(|word| word.strip_prefix("preset:"));
    let unknown = presets.filter(|name| preset(name).is_none()).map(|name| format!("there is no preset {name}")).next();
    missing.map(|word| format!("there is no {word}")).or(unknown)
}

/// What is wrong with a piece of a command in a sentence: options and words must exist, nothing has to be complete.
fn wrong_mention(code: &str) -> Option<String> {
    let is_option = code.starts_with("--");
    let text = if is_option { code.to_owned() } else { code.replace(['…', '[', ']'], " ") };
    let words = pages::commands(&text).into_iter().next()?;
    let starts = words.iter().position(|word| !word.contains('='))?;
    let (first, rest) = (words[starts].as_str(), &words[starts + 1..]);
    let is_unknown =
        |error: &clap::Error| matches!(error.kind(), ErrorKind::UnknownArgument | ErrorKind::InvalidSubcommand);
    let wrong = match first {
        "blip2" => parse(rest).err().filter(is_unknown).map(|error| error.to_string()),
        "blip2-rank" if !rest.is_empty() => wrong_rank(rest),
        "make" => wrong_make(rest),
        "--set" => wrong_keys(&words),
        _ => None,
    };
    wrong.map(|wrong| format!("`{code}`: {wrong}"))
}

#[test]
fn commands_parse() {
    let seen =
        problems(|page| page.commands().iter().filter_map(|words| Some(pages::ours(words)?.0.to_owned())).collect());
    assert!(seen.len() > 40, "{seen:?}");
    assert_eq!(problems(|page| page.commands().iter().filter_map(|words| wrong_command(words)).collect()), none());
}

#[test]
fn mentions_of_commands_are_of_commands() {
    assert_eq!(problems(|page| page.code().iter().filter_map(|code| wrong_mention(code)).collect()), none());
}

#[test]
fn a_wrong_command_is_seen() {
    let wrong = |text: &str| pages::commands(text).iter().find_map(|words| wrong_command(words));
    for right in [
        "blip2 launch configs/tiny.yaml --ranks 2 --set stages.representation.steps=3",
        "blip2 launch tiny --accept-change stages[0].lr_schedule",
        "A=b blip2 --version",
        "blip2-rank self-check --json",
        "TORCH_CUDA=1 make setup",
        "python3 tests/peers/ablations.py --json x",
        "ls nothing of ours",
    ] {
        assert_eq!(wrong(right), None);
    }
    for (text, reason) in [
        ("blip2 lanch tiny", "lanch"),
        ("blip2 launch tiny --rank 2", "--rank"),
        ("blip2 launch tiny --ranks two", "two"),
        ("blip2 launch", "required"),
        ("blip2 launch tiny --set stages.representation.step=3", "stages.representation.step"),
        ("blip2 launch tiny --set stages[0].losses.itc.x=3", "itc.x"),
        ("blip2 launch tiny --accept-change optimizer", "optimizer"),
        ("blip2 launch configs/none.yaml", "configs/none.yaml"),
        ("blip2 launch preset:none", "preset none"),
        ("blip2-rank selfcheck", "selfcheck"),
        ("make tests", "tests"),
        ("python3 tests/peers/none.py", "script"),
        ("until blip2 stats x; do sleep 1; done", "stats"),
    ] {
        let found = wrong(text);
        assert!(found.as_ref().is_some_and(|found| found.contains(reason)), "{text}: {found:?}");
    }
    assert!(rank_commands().contains("bench-checkpoint") && rank_commands().contains("self-check"));
}

#[test]
fn a_wrong_mention_is_seen() {
    for (code, is_right) in [
        ("blip2 data index", true),
        ("blip2 checkpoints list | show", true),
        ("blip2 bench step -- --stage 2 [--recompute]", true),
        ("blip2 data synth … --benchmarks", true),
        ("blip2 data mend", false),
        ("blip2 data index --fast", false),
        ("make", true),
        ("make it", false),
        ("blip2-rank", true),
        ("blip2-rank fly", false),
        ("--set stages[0].steps=1", true),
        ("--set run.seeds=1", false),
        ("--set KEY=VALUE", true),
        ("other --thing", true),
    ] {
        assert_eq!(wrong_mention(code).is_none(), is_right, "{code}");
    }
}

// Configurations.

/// What a snippet says that no config has; `…` stands for more of the same.
fn unknown_keys(value: &Value, shape: &Shape, path: &str, found: &mut Vec<String>) {
    match shape {
        Shape::Optional(inner) if !value.is_null() => unknown_keys(value, inner, path, found),
        Shape::List(item, _) => {
            value.as_sequence().into_iter().flatten().for_each(|value| unknown_keys(value, item, path, found));
        }
        Shape::Section(section) => keys_of(value, &[section], path, found),
        Shape::Kinds(kinds) => {
            let stated = value.get("kind").and_then(Value::as_str);
            let meant = kinds.kinds.iter().filter(|kind| stated.is_none_or(|stated| stated == kind.name));
            let sections: Vec<&SectionSchema> = meant.map(|kind| &kind.section).collect();
            if sections.is_empty() {
                found.push(format!("{path} has no kind {stated:?}"));
            }
            keys_of(value, &sections, path, found);
        }
        _ => {}
    }
}

fn keys_of(value: &Value, sections: &[&SectionSchema], path: &str, found: &mut Vec<String>) {
    for (key, value) in value.as_mapping().into_iter().flatten() {
        let key = key.as_str().unwrap_or_default();
        let mut fields = sections.iter().flat_map(|section| &section.fields).filter(|field| field.name == key);
        match fields.next() {
            Some(field) => unknown_keys(value, &field.shape, &format!("{path}.{key}"), found),
            None if matches!(key, "…" | "kind") => {}
            None => found.push(format!("{path} has no key `{key}`")),
        }
    }
}

/// All sections of a run: a snippet may begin at any.
fn sections(shape: &Shape, all: &mut Vec<Shape>) {
    let fields: Vec<&schema::FieldSchema> = match shape {
        Shape::Optional(inner) | Shape::List(inner, _) => return sections(inner, all),
        Shape::Section(section) => section.fields.iter().collect(),
        Shape::Kinds(kinds) => kinds.kinds.iter().flat_map(|kind| &kind.section.fields).collect(),
        _ => return,
    };
    all.push(shape.clone());
    for field in fields {
        sections(&field.shape, all);
    }
}

/// What is wrong with a snippet of YAML: a whole run must load, a part must have keys of one section.
fn wrong_snippet(text: &str) -> Option<String> {
    let value: Value = match serde_yaml::from_str(text) {
        Ok(value) => value,
        Err(error) => return Some(format!("no YAML: {error}")),
    };
    if value.get("schema_version").is_some() {
        return load_str("snippet", text, &Overrides::none()).err().map(|error| error.to_string());
    }
    let mut all = Vec::new();
    sections(&schema::run(), &mut all);
    let tries = all.iter().map(|shape| {
        let mut found = Vec::new();
        unknown_keys(&value, shape, "the section", &mut found);
        found
    });
    let nearest = tries.min_by_key(Vec::len)?;
    (!nearest.is_empty()).then(|| nearest.join("; "))
}

#[test]
fn snippets_of_configurations_fit_the_schema() {
    let find = |page: &Page| -> Vec<String> {
        let blocks = page.blocks().into_iter().filter(|block| block.language == "yaml");
        blocks.filter_map(|block| Some(format!("line {}: {}", block.line, wrong_snippet(&block.text)?))).collect()
    };
    assert_eq!(problems(find), none());
}

#[test]
fn a_wrong_snippet_is_seen() {
    let tiny = preset("tiny").unwrap();
    assert_eq!(wrong_snippet(tiny), None);
    assert!(wrong_snippet(&tiny.replace("schema_version: 1", "schema_version: 1\nsurprise: 2")).is_some());
    for right in [
        "checkpoint: { every_steps: 5, … }",
        "sources:\n  - { name: a, kind: vqa, questions: q.json }",
        "stages:\n  - { name: generative, needs_score: 60.0, … }\ndata: { lanes: 4 }",
        "lr_schedule: { kind: warmup_cosine, peak: 1.0e-4 }",
    ] {
        assert_eq!(wrong_snippet(right), None, "{right}");
    }
    for wrong in [
        "checkpoint: { every_step: 5 }",
        "sources:\n  - { name: a, kind: coco, uri: x }",
        "sources:\n  - { name: a, kind: vqa, captions: q.json }",
        "stages:\n  - { learning_rate: 1 }",
        "a: [",
    ] {
        assert!(wrong_snippet(wrong).is_some(), "{wrong}");
    }
}
