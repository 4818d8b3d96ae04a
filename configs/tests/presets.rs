//! The shipped configs: they validate, state every key, name their sources and differ where they say they do.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeMap;

use configs::{LanguageModelSizes, Overrides, PRESETS, Run, load_str, preset};
use serde_yaml::Value;

fn read(name: &str) -> Run {
    let text = preset(name).unwrap();
    load_str(&format!("configs/{name}.yaml"), text, &Overrides::none()).unwrap_or_else(|error| panic!("{error}"))
}

fn recipes() -> impl Iterator<Item = (&'static str, &'static str)> {
    PRESETS.iter().copied().filter(|(name, _)| name.starts_with("vit"))
}

/// Every scalar of a YAML document by its path.
fn leaves(value: &Value, path: &str, all: &mut BTreeMap<String, Value>) {
    match value {
        Value::Mapping(map) if !map.is_empty() => {
            for (key, value) in map {
                leaves(value, &format!("{path}.{}", key.as_str().unwrap()), all);
            }
        }
        Value::Sequence(items) if !items.is_empty() => {
            for (index, value) in items.iter().enumerate() {
                leaves(value, &format!("{path}[{index}]"), all);
            }
        }
        other => {
            all.insert(path.to_owned(), other.clone());
        }
    }
}

fn leaves_of(text: &str) -> BTreeMap<String, Value> {
    let mut all = BTreeMap::new();
    leaves(&serde_yaml::from_str(text).unwrap(), "", &mut all);
    all
}

#[test]
fn every_file_is_built_in() {
    let mut files: Vec<String> = std::fs::read_dir(env!("CARGO_MANIFEST_DIR"))
        .unwrap()
        .filter_map(|entry| entry.unwrap().file_name().into_string().ok())
        .filter_map(|name| name.strip_suffix(".yaml").map(str::to_owned))
        .collect();
    files.sort();
    let mut names: Vec<&str> = PRESETS.iter().map(|(name, _)| *name).collect();
    names.sort_unstable();
    assert_eq!(files, names);
}

#[test]
fn all_validate_and_are_named_after_their_file() {
    for (name, _) in PRESETS {
        assert_eq!(read(name).run.name, *name);
    }
}

#[test]
fn all_state_every_key() {
    for (name, text) in PRESETS {
        let stated: Vec<String> = leaves_of(text).into_keys().collect();
        let resolved: Vec<String> = leaves_of(&read(name).to_yaml()).into_keys().collect();
        assert_eq!(stated, resolved, "{name}");
    }
}

#[test]
fn resolved_yaml_reads_back_as_the_same_run() {
    for (name, _) in PRESETS {
        let run = read(name);
        let again = load_str("resolved.yaml", &run.to_yaml(), &Overrides::none()).unwrap();
        assert_eq!(run, again, "{name}");
    }
}

#[test]
fn every_value_of_the_recipes_has_its_source() {
    let known = [
        "paper",
        "BLIP",
        "LAVIS",
        "BERT-base config.json",
        "Pillow",
        "ours",
        "as published",
        "million",
        "stage-",
        "questions of",
    ];
    let checked = PRESETS.iter().filter(|(name, _)| name.starts_with("vit") || name.starts_with("finetune"));
    for (name, text) in checked {
        for line in text.lines().filter(|line| !line.trim_start().starts_with('#') && !line.trim_end().ends_with(':')) {
            let source = line.split_once(" # ").map(|(_, source)| source).unwrap_or_else(|| panic!("{name}: {line}"));
            assert!(known.iter().any(|known| source.starts_with(known)), "{name}: {line}");
        }
    }
}

#[test]
fn recipes_have_the_papers_numbers() {
    for (name, _) in recipes() {
        let run = read(name);
        let is_t5 = matches!(run.model.language_model.sizes(), LanguageModelSizes::T5(_));
        assert_eq!(is_t5, name.contains("flant5"));
        let batches: Vec<usize> = run.stages.iter().map(|stage| stage.global_batch()).collect();
        let first = if name.starts_with("vitg") { 1680 } else { 2320 };
        assert_eq!(batches, [first, if is_t5 { 1520 } else { 1920 }], "{name}");
        assert_eq!(run.stages.iter().map(|stage| stage.steps()).collect::<Vec<_>>(), [250_000, 80_000]);
        assert_eq!(run.model.image_encoder.num_tokens(), 257);
        assert_eq!((run.world_size(), run.max_world_size()), (16, 16));
    }
}

#[test]
fn ablations_differ_from_tiny_in_what_they_say() {
    let allowed: &[(&str, &[&str])] = &[
        ("ablation_without_itc", &[".stages[0].losses.itc", ".stages[0].hard_negatives_start_step"]),
        ("ablation_without_itm", &[".stages[0].losses.itm"]),
        ("ablation_without_itg", &[".stages[0].losses.itg"]),
        ("ablation_num_query_tokens_2", &[".model.qformer.num_query_tokens"]),
        ("ablation_num_query_tokens_16", &[".model.qformer.num_query_tokens"]),
        ("ablation_cross_attention_every_1", &[".model.qformer.cross_attention_every"]),
        ("ablation_cross_attention_every_4", &[".model.qformer.cross_attention_every"]),
    ];
    let tiny = leaves_of(&read("tiny").to_yaml());
    for (name, keys) in allowed {
        let ablation = leaves_of(&read(name).to_yaml());
        let mut different: Vec<&str> = ablation
            .iter()
            .filter(|(path, value)| tiny.get(*path) != Some(value))
            .map(|(path, _)| path.as_str())
            .collect();
        different.retain(|path| !path.starts_with(".run."));
        different.sort_unstable();
        let mut expected = keys.to_vec();
        expected.sort_unstable();
        assert_eq!(different, expected, "{name}");
        assert_eq!(ablation.len(), tiny.len(), "{name}");
    }
    let (tiny, ablation) = (read("tiny"), read("ablation_without_stage1"));
    assert_eq!(tiny.stages[1..], ablation.stages[..]);
    assert_eq!((&tiny.model, &tiny.data), (&ablation.model, &ablation.data));
}
