//! A run that continues may change how it is computed and reported, and with leave other values, but not the shape of
//! what it trains.

use configs::{Overrides, Run};
use serde_json::Value;

use crate::TrainerError;
use crate::checkpoint::Change;

/// Keys of the model that decide nothing about the shape of what is trained, with all that lies below them.
const SHAPELESS: [&str; 18] = [
    "model.attention",
    "model.start_from",
    "model.image_encoder.weights",
    "model.image_encoder.image_size",
    "model.image_encoder.dtype",
    "model.image_encoder.recompute",
    "model.image_encoder.pretrain",
    "model.qformer.init",
    "model.qformer.tokenizer",
    "model.qformer.image_norm_eps",
    "model.qformer.max_text_tokens",
    "model.qformer.dropout",
    "model.qformer.temperature",
    "model.qformer.dtype",
    "model.language_model.weights",
    "model.language_model.tokenizer",
    "model.language_model.pretrain",
    "model.language_model.max_text_tokens",
];
/// The same of the language model's settings, which stand beside its sizes.
const SHAPELESS_SETTINGS: [&str; 3] =
    ["model.language_model.dtype", "model.language_model.dropout", "model.language_model.recompute"];
const CONTINUE: &str =
    "continue with the config of that run, choose another run.output, or start over in this one with --fresh";

/// In what `run` differs from the config that is in force, `stored`. Every difference must be covered by a key of `accept`;
/// a key covers what lies below it. `accepted` are changes that earlier launches were given leave for: the command that
/// named their keys may be given again.
///
/// # Errors
/// Differences that no key covers or that no key can; keys that cover none; a stored config that cannot be read.
pub(super) fn changes(
    run: &Run,
    stored: &str,
    accept: &[String],
    accepted: &[Change],
) -> Result<Vec<Change>, TrainerError> {
    let output = &run.run.output;
    let unreadable = |error: configs::ConfigError| TrainerError::Unsupported {
        found: format!("the config of the run in {output} cannot be read: {error}"),
        expected: "choose another run.output, or remove what is there".into(),
    };
    let before = configs::load_str("config.yaml", stored, &Overrides::default()).map_err(unreadable)?;
    let changes = differences(&before, run)?;
    let keys: Vec<String> = accept.iter().map(|key| with_numbers(key, run)).collect();
    let refuse = |found: String, expected: String| Err(TrainerError::Unsupported { found, expected });
    let named = |changes: &[&Change]| changes.iter().map(|change| in_words(change)).collect::<Vec<_>>().join("; ");

    let fixed: Vec<(&Change, &str)> =
        changes.iter().filter_map(|change| Some((change, why_fixed(&change.key)?))).collect();
    if let Some((_, why)) = fixed.first() {
        let found = named(&fixed.iter().map(|(change, _)| *change).collect::<Vec<_>>());
        return refuse(
            format!("{output} holds a run with another config: {found}"),
            format!("this cannot change within a run ({why}); {CONTINUE}"),
        );
    }
    let open: Vec<&Change> = changes.iter().filter(|change| !keys.iter().any(|key| covers(key, &change.key))).collect();
    if !open.is_empty() {
        let leave: Vec<String> = open.iter().map(|change| format!("--accept-change '{}'", change.key)).collect();
        return refuse(
            format!("{output} holds a run with another config: {}", named(&open)),
            format!("{CONTINUE}; to go on with the new values, which the run's log then records: {}", leave.join(" ")),
        );
    }
    let idle = |key: &&String| !changes.iter().chain(accepted).any(|change| covers(key, &change.key));
    if let Some(key) = keys.iter().find(idle) {
        let found = if changes.is_empty() { "nothing".to_owned() } else { named(&changes.iter().collect::<Vec<_>>()) };
        return refuse(
            format!("--accept-change {key}: this did not change; found changed: {found}"),
            "name keys that differ from the run's config, as --set takes them, or leave the option out".into(),
        );
    }
    Ok(changes)
}

/// For people: `stages[0].lr_schedule.peak: 0.0001 there, 0.0002 now`.
fn in_words(change: &Change) -> String {
    let value = |value: &str| if value.is_empty() { "nothing".to_owned() } else { value.to_owned() };
    format!("`{}: {} there, {} now`", change.key, value(&change.was), value(&change.is))
}

/// What differs and is mathematics, by key.
fn differences(before: &Run, now: &Run) -> Result<Vec<Change>, TrainerError> {
    let mut mathematics = now.clone();
    mathematics.cluster = before.cluster.clone();
    mathematics.checkpoint = before.checkpoint.clone();
    mathematics.metrics = before.metrics.clone();
    mathematics.evaluation = before.evaluation.clone();
    mathematics.run.name.clone_from(&before.run.name);
    // The folder that holds the run, however it is written or wherever it was moved.
    mathematics.run.output = before.run.output.clone();
    // What else stands there decides about samples and pixels.
    mathematics.data.loader.decode_threads = before.data.loader.decode_threads;
    mathematics.data.loader.memory_mb = before.data.loader.memory_mb;
    mathematics.data.loader.max_bad_fraction = before.data.loader.max_bad_fraction;
    let mut changes = Vec::new();
    compare("", Some(&serde_json::to_value(before)?), Some(&serde_json::to_value(&mathematics)?), &mut changes);
    Ok(changes)
}

fn compare(key: &str, was: Option<&Value>, is: Option<&Value>, changes: &mut Vec<Change>) {
    match (was, is) {
        (was, is) if was == is => {}
        (Some(Value::Object(was)), Some(Value::Object(is))) => {
            let added = is.keys().filter(|name| !was.contains_key(*name));
            for name in was.keys().chain(added) {
                let below = if key.is_empty() { name.clone() } else { format!("{key}.{name}") };
                compare(&below, was.get(name), is.get(name), changes);
            }
        }
        // Pairs such as AdamW's betas are one value.
        (Some(Value::Array(was)), Some(Value::Array(is))) if was.iter().chain(is).all(Value::is_object) => {
            for index in 0..was.len().max(is.len()) {
                compare(&format!("{key}[{index}]"), was.get(index), is.get(index), changes);
            }
        }
        _ => changes.push(Change { key: key.to_owned(), was: text(was), is: text(is) }),
    }
}

fn text(value: Option<&Value>) -> String {
    match value {
        None => String::new(),
        Some(Value::String(text)) if !text.is_empty() => text.clone(),
        Some(value) => value.to_string(),
    }
}

/// Why a key cannot change while a run lasts, whatever is accepted.
fn why_fixed(key: &str) -> Option<&'static str> {
    let shapeless = || SHAPELESS.iter().chain(&SHAPELESS_SETTINGS).any(|free| covers(free, key));
    if covers("model", key) {
        return (!shapeless()).then_some("it decides the shape of what is trained, or of what that was trained beside");
    }
    let of_stage = key.strip_prefix("stages[")?.split_once(']')?.1;
    match of_stage.trim_start_matches('.') {
        "" => Some("checkpoints say at which of the stages they stand"),
        "name" | "kind" => Some("checkpoints are found by it"),
        "slices" => Some("checkpoints hold AdamW's moments as the slices cut them"),
        _ => None,
    }
}

/// Whether `key` is `of`, or lies above it.
fn covers(key: &str, of: &str) -> bool {
    of.strip_prefix(key).is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '[']))
}

/// `stages.NAME.…`, which `--set` takes too, with the stage's number.
fn with_numbers(key: &str, run: &Run) -> String {
    let Some(below) = key.strip_prefix("stages.") else { return key.to_owned() };
    let mut names = run.stages.iter().map(configs::Stage::name).enumerate();
    match names.find(|(_, name)| covers(name, below)) {
        Some((number, name)) => format!("stages[{number}]{}", &below[name.len()..]),
        None => key.to_owned(),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;

    fn tiny(sets: &[&str]) -> Run {
        configs::load_str("tiny.yaml", configs::preset("tiny").unwrap(), &Overrides::new(sets.iter().copied())).unwrap()
    }

    fn outcome(sets: &[&str], accept: &[&str]) -> Result<Vec<Change>, String> {
        let accept: Vec<String> = accept.iter().map(|key| (*key).to_owned()).collect();
        changes(&tiny(sets), &tiny(&[]).to_yaml(), &accept, &[]).map_err(|error| error.to_string())
    }

    const PEAK: &str = "stages[0].lr_schedule.peak=0.0003";

    #[test]
    fn what_is_no_mathematics_may_change() {
        let elsewhere = ["run.name=other", "run.output=other", "cluster.ranks_per_node=1", "metrics.every_steps=7"];
        let loader = ["checkpoint.every_steps=3", "data.loader.decode_threads=3", "data.loader.memory_mb=77"];
        assert_eq!(outcome(&[&elsewhere[..], &loader].concat(), &[]), Ok(Vec::new()));
    }

    #[test]
    fn every_changed_key_is_named_with_both_values_and_the_way_on() {
        let error = outcome(&[PEAK, "run.seed=9", "stages[1].optimizer.betas=[0.5, 0.6]"], &[]).unwrap_err();
        let was = &tiny(&[]).stages[0].lr_schedule().clone();
        let peak = serde_json::to_value(was).unwrap()["peak"].to_string();
        for part in [
            &format!("`stages[0].lr_schedule.peak: {peak} there, 0.0003 now`"),
            "`run.seed: 42 there, 9 now`",
            "`stages[1].optimizer.betas: [0.9,0.98] there, [0.5,0.6] now`",
            "--accept-change 'stages[0].lr_schedule.peak'",
            "--fresh",
        ] {
            assert!(error.contains(part), "{part} is missing in: {error}");
        }
        assert_eq!(error.matches(" there, ").count(), 3, "{error}");
    }

    #[test]
    fn a_key_covers_what_lies_below_it_and_every_difference_must_be_covered() {
        let sets = [PEAK, "stages[0].steps=70"];
        for keys in [
            &["stages[0].lr_schedule.peak", "stages[0].steps"][..],
            &["stages[0]"],
            &["stages"],
            &["stages.representation"],
            &["stages.representation.lr_schedule", "stages.representation.steps"],
        ] {
            let found = outcome(&sets, keys).unwrap();
            assert_eq!(found.len(), 2, "{keys:?}: {found:?}");
            assert_eq!((found[1].key.as_str(), found[1].is.as_str()), ("stages[0].steps", "70"));
        }
        let error = outcome(&sets, &["stages[0].steps"]).unwrap_err();
        assert!(error.contains("peak") && !error.contains("steps: "), "{error}");
        // A name that only begins alike covers nothing.
        assert!(outcome(&sets, &["stages[0].lr", "stages[0].step"]).is_err());
    }

    #[test]
    fn a_key_that_did_not_change_is_an_error_unless_an_earlier_launch_changed_it() {
        let error = outcome(&[PEAK], &["stages[0].lr_schedule.peak", "run.seed"]).unwrap_err();
        assert!(error.contains("--accept-change run.seed: this did not change"), "{error}");
        let error = outcome(&[], &["run.seed"]).unwrap_err();
        assert!(error.contains("found changed: nothing"), "{error}");
        let (now, accept) = (tiny(&[PEAK]), ["stages[0].lr_schedule.peak".to_owned()]);
        let accepted = changes(&now, &tiny(&[]).to_yaml(), &accept, &[]).unwrap();
        assert_eq!(changes(&now, &now.to_yaml(), &accept, &accepted).unwrap(), Vec::new());
        assert!(changes(&now, &now.to_yaml(), &accept, &[]).is_err());
    }

    #[test]
    fn what_gives_the_state_its_shape_never_changes() {
        for (set, why) in [
            ("model.qformer.hidden_dim=192", "shape"),
            ("model.qformer.num_query_tokens=3", "shape"),
            ("model.language_model.depth=1", "shape"),
            ("stages[0].slices=4", "moments"),
            ("stages[0].name=other", "found by it"),
        ] {
            let key = set.split_once('=').unwrap().0;
            let more = if set.contains("name") { vec![set, "stages[0].kind=representation"] } else { vec![set] };
            let error = outcome(&more, &[key, "model", "stages"]).unwrap_err();
            assert!(error.contains("cannot change within a run") && error.contains(why), "{set}: {error}");
        }
        for set in ["model.qformer.dropout=0.3", "model.language_model.dropout=0.3", "model.qformer.temperature=0.1"] {
            let key = set.split_once('=').unwrap().0;
            assert_eq!(outcome(&[set], &[key]).unwrap().len(), 1, "{set}");
        }
    }

    #[test]
    fn a_stage_more_or_less_is_refused() {
        let mut longer = tiny(&[]);
        longer.stages.pop();
        let error = changes(&longer, &tiny(&[]).to_yaml(), &["stages".into()], &[]).unwrap_err().to_string();
        assert!(error.contains("`stages[1]: {") && error.contains("nothing now"), "{error}");
        assert!(error.contains("at which of the stages"), "{error}");
    }

    #[test]
    fn a_section_that_appears_is_one_change() {
        let found = outcome(&["model.start_from={uri: runs/other, sha256: null}"], &["model.start_from"]).unwrap();
        assert_eq!((found.len(), found[0].was.as_str()), (1, "null"));
    }
}
