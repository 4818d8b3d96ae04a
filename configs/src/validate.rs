//! What must hold between sections, and the nearest values for which it does.
//!
//! Each check runs on the sections that could be read, so that one mistake does not hide the next.

use std::collections::BTreeMap;

use crate::cluster::Cluster;
use crate::data::Data;
use crate::decode::{FromNode, Place};
use crate::language_model::LanguageModelSizes;
use crate::model::Model;
use crate::problem::Problems;
use crate::rule::Rule;
use crate::run::{BestBy, Checkpoint, Evaluation};
use crate::stages::{GenerativeText, LrSchedule, Stage};
use crate::tree::{Node, Step};

/// The sections of a run that could be read.
struct Parts<'a> {
    root: &'a Node,
    model: Option<Model>,
    data: Option<Data>,
    /// Each with its position in the list.
    stages: Vec<(usize, Stage)>,
    cluster: Option<Cluster>,
    checkpoint: Option<Checkpoint>,
    evaluation: Option<Evaluation>,
}

/// Notes everything that does not fit between the sections below `root`.
pub(crate) fn check_run(root: &Node, problems: &mut Problems) {
    let parts = Parts::read(root);
    parts.check_lists(problems);
    parts.check_names(problems);
    parts.check_image_size(problems);
    parts.check_lanes(problems);
    parts.check_ranks(problems);
    parts.check_questions(problems);
    parts.check_positions(problems);
    parts.check_image_encoder(problems);
    parts.check_evaluation(problems);
    parts.check_checkpoints(problems);
}

/// The section at `key`, without noting what is wrong with it: that was noted when the run was read.
fn section<T: FromNode>(root: &Node, key: &str) -> Option<T> {
    let node = root.get(key)?;
    T::from_node(Place { node, path: key, rule: &Rule::Any }, &mut Problems::default())
}

impl<'a> Parts<'a> {
    fn read(root: &'a Node) -> Parts<'a> {
        let stages = root.get("stages").map(Node::items).unwrap_or_default();
        let read_stage = |node: &Node| Stage::from_node(Place::root(node), &mut Problems::default());
        Parts {
            root,
            model: section(root, "model"),
            data: section(root, "data"),
            stages: stages.iter().enumerate().filter_map(|(i, node)| Some((i, read_stage(node)?))).collect(),
            cluster: section(root, "cluster"),
            checkpoint: section(root, "checkpoint"),
            evaluation: section(root, "evaluation"),
        }
    }

    fn note(&self, path: &str, keys: &[Step<'_>], message: String, advice: String, problems: &mut Problems) {
        problems.add(self.root.origin_of(keys), path, message, Some(advice));
    }

    /// Lists that must not be empty.
    fn check_lists(&self, problems: &mut Problems) {
        let data = self.root.get("data").and_then(|data| data.get("sources"));
        for (path, keys, list, advice) in [
            (
                "stages",
                &[Step::Key("stages")][..],
                self.root.get("stages"),
                "add `- name: representation` with its keys",
            ),
            ("data.sources", &[Step::Key("data"), Step::Key("sources")][..], data, "add `- name: ...` with its keys"),
        ] {
            if list.is_some_and(|node| matches!(node.value, crate::tree::Value::List(_)) && node.items().is_empty()) {
                let message = "found an empty list; expected at least one item".to_owned();
                self.note(path, keys, message, advice.to_owned(), problems);
            }
        }
    }

    /// Names that must not be given twice. They are read from the tree, because a stage with a mistake has a name too.
    fn check_names(&self, problems: &mut Problems) {
        let lists: [(&str, &[Step<'_>]); 2] =
            [("stages", &[Step::Key("stages")]), ("data.sources", &[Step::Key("data"), Step::Key("sources")])];
        for (path, keys) in lists {
            let list = keys.iter().try_fold(self.root, |node, step| match step {
                Step::Key(key) => node.get(key),
                Step::Index(index) => node.items().get(*index),
            });
            let mut first_of: BTreeMap<&str, usize> = BTreeMap::new();
            for (index, item) in list.map(Node::items).unwrap_or_default().iter().enumerate() {
                let Some(node) = item.get("name") else { continue };
                let Some(name) = node.as_text() else { continue };
                if let Some(first) = first_of.get(name) {
                    let shown = crate::problem::printable(name, 60);
                    let message =
                        format!("found the name `{shown}`, which {path}[{first}] has too; expected unique names");
                    let advice = format!("for example `{shown}_{}`", index + 1);
                    problems.add(&node.origin, &format!("{path}[{index}].name"), message, Some(advice));
                } else {
                    first_of.insert(name, index);
                }
            }
        }
    }

    /// Images must have the size the encoder wants, and patches must tile it.
    fn check_image_size(&self, problems: &mut Problems) {
        let Some(model) = &self.model else { return };
        let (size, patch) = (model.image_encoder.image_size(), model.image_encoder.sizes().patch_size);
        let keys = [Step::Key("model"), Step::Key("image_encoder"), Step::Key("image_size")];
        let path = "model.image_encoder.image_size";
        if !size.is_multiple_of(patch) {
            let message = format!("found {size} with patch size {patch}; expected a multiple of the patch size");
            self.note(path, &keys, message, nearest_multiples(size, patch), problems);
        }
        if let Some(data) = self.data.as_ref().filter(|data| data.image_size != size) {
            let message = format!(
                "found {} while {path} is {size}; expected the same, because the loader makes what the encoder takes",
                data.image_size
            );
            let keys = [Step::Key("data"), Step::Key("image_size")];
            let advice = format!("write {size} here, or {} there", data.image_size);
            self.note("data.image_size", &keys, message, advice, problems);
        }
    }

    /// A global batch takes the same number of rows from each lane, and a slice reads whole lanes.
    fn check_lanes(&self, problems: &mut Problems) {
        let Some(data) = &self.data else { return };
        let fits = |stage: &Stage, lanes: usize| {
            lanes.is_multiple_of(stage.slices()) && stage.global_batch().is_multiple_of(lanes)
        };
        // Stages whose slices do not divide their batch were noted already.
        let sound: Vec<&(usize, Stage)> =
            self.stages.iter().filter(|(_, stage)| stage.global_batch().is_multiple_of(stage.slices())).collect();
        let Some((index, stage)) = sound.iter().find(|(_, stage)| !fits(stage, data.lanes)) else { return };
        let message = format!(
            "found {} lanes; expected a multiple of the slices that divides the global batch of every stage, but \
             stages[{index}] (`{}`) has {} slices and global_batch {}",
            data.lanes,
            crate::problem::printable(stage.name(), 60),
            stage.slices(),
            stage.global_batch()
        );
        let largest = sound.iter().map(|(_, stage)| stage.global_batch()).min().unwrap_or(1);
        let choices = (1..=largest).filter(|lanes| sound.iter().all(|(_, stage)| fits(stage, *lanes)));
        let advice = nearest_choices(data.lanes, choices);
        self.note("data.lanes", &[Step::Key("data"), Step::Key("lanes")], message, advice, problems);
    }

    /// A rank owns at least one slice.
    fn check_ranks(&self, problems: &mut Problems) {
        let Some(cluster) = &self.cluster else { return };
        let world_size = cluster.world_size();
        for (index, stage) in self.stages.iter().filter(|(_, stage)| stage.slices() < world_size) {
            let message = format!(
                "found {} slices for {world_size} ranks (nodes {} x ranks_per_node {}); expected at least one slice \
                 per rank",
                stage.slices(),
                cluster.nodes,
                cluster.ranks_per_node
            );
            let batch = stage.global_batch();
            let choices = (world_size..=batch).filter(|slices| batch.is_multiple_of(*slices));
            let advice = format!(
                "use at most {} ranks, or more slices ({})",
                stage.slices(),
                nearest_choices(world_size, choices)
            );
            let keys = [Step::Key("stages"), Step::Index(*index), Step::Key("slices")];
            self.note(&format!("stages[{index}].slices"), &keys, message, advice, problems);
        }
    }

    /// Questions come from sources that have them, and a source of questions serves no other stage.
    fn check_questions(&self, problems: &mut Problems) {
        let Some(data) = &self.data else { return };
        for (index, stage) in &self.stages {
            let asks = matches!(stage, Stage::Generative(stage) if stage.text == GenerativeText::QuestionAnswer);
            for (position, source) in data.sources.iter().enumerate() {
                let only_questions = matches!(source, crate::data::Source::Vqa(_));
                let (message, advice) = if asks && !source.has_questions() {
                    (format!("found kind {}, which has no questions; stages[{index}] asks some", source.kind()), "vqa")
                } else if !asks && only_questions {
                    (format!("found kind vqa, which has no captions; stages[{index}] wants some"), "coco_captions")
                } else {
                    continue;
                };
                let keys = [Step::Key("data"), Step::Key("sources"), Step::Index(position), Step::Key("kind")];
                let advice = format!("use a source of kind {advice}, or another `text` in the stage");
                self.note(&format!("data.sources[{position}].kind"), &keys, message, advice, problems);
            }
        }
    }

    /// A stage goes on with the image encoder that the stage before has trained only if it trains it, too.
    fn check_image_encoder(&self, problems: &mut Problems) {
        for (before, (index, stage)) in self.stages.iter().zip(self.stages.iter().skip(1)) {
            if before.1.train_image_encoder() && !stage.train_image_encoder() {
                let message = format!(
                    "found a frozen image encoder after stages[{}], which trains it; expected the trained one to go on",
                    before.0
                );
                let keys = [Step::Key("stages"), Step::Index(*index)];
                let advice =
                    "write `train_image_encoder: true`, or export the first stage's weights and start another run";
                let path = format!("stages[{index}].train_image_encoder");
                self.note(&path, &keys, message, advice.to_owned(), problems);
            }
        }
    }

    /// What depends on evaluations needs some.
    fn check_evaluation(&self, problems: &mut Problems) {
        match (self.root.get("evaluation"), &self.evaluation) {
            (None, _) => {}
            (Some(_), Some(evaluation)) if evaluation.every_steps.is_none() => {}
            _ => return,
        }
        let advice = "write for example `evaluation: { every_steps: 1000 }`".to_owned();
        for (index, stage) in &self.stages {
            if let Stage::Generative(stage) = stage
                && let Some(score) = stage.needs_score
            {
                let message = format!("found needs_score {score} without evaluations; expected evaluation.every_steps");
                let keys = [Step::Key("stages"), Step::Index(*index), Step::Key("needs_score")];
                self.note(&format!("stages[{index}].needs_score"), &keys, message, advice.clone(), problems);
            }
        }
        if self.checkpoint.as_ref().is_some_and(|it| it.best_by == BestBy::Evaluation) {
            let message = "found best_by evaluation without evaluations; expected evaluation.every_steps".to_owned();
            let keys = [Step::Key("checkpoint"), Step::Key("best_by")];
            self.note("checkpoint.best_by", &keys, message, advice, problems);
        }
    }

    /// A decoder needs a position for every query and every token.
    fn check_positions(&self, problems: &mut Problems) {
        let Some(model) = &self.model else { return };
        let LanguageModelSizes::Opt(sizes) = model.language_model.sizes() else { return };
        let asks = |stage: &Stage| matches!(stage, Stage::Generative(it) if it.text == GenerativeText::QuestionAnswer);
        let (queries, limit) = (model.qformer.num_query_tokens, model.language_model.settings().max_text_tokens);
        // A question and its answer have that many each.
        let tokens = if self.stages.iter().any(|(_, stage)| asks(stage)) { 2 * limit } else { limit };
        if queries + tokens > sizes.max_positions {
            let message = format!(
                "found max_text_tokens {tokens} after {queries} queries; expected at most {} positions in all",
                sizes.max_positions
            );
            let advice = format!("write {} or less", sizes.max_positions.saturating_sub(queries));
            let keys = [Step::Key("model"), Step::Key("language_model"), Step::Key("max_text_tokens")];
            self.note("model.language_model.max_text_tokens", &keys, message, advice, problems);
        }
    }

    /// Checkpoints that are kept for good have to be written in the first place.
    fn check_checkpoints(&self, problems: &mut Problems) {
        let Some(Checkpoint { every_steps: Some(every), keep_every_steps: Some(keep), .. }) = self.checkpoint else {
            return;
        };
        if !keep.is_multiple_of(every) {
            let message = format!("found {keep} with every_steps {every}; expected a multiple of it");
            let keys = [Step::Key("checkpoint"), Step::Key("keep_every_steps")];
            let below = keep / every * every;
            let advice = match below {
                0 => format!("the nearest choice is {every}"),
                _ => format!("the nearest choices are {below} and {}", below + every),
            };
            self.note("checkpoint.keep_every_steps", &keys, message, advice, problems);
        }
    }
}

/// Notes a global batch that slices do not share equally.
pub(crate) fn check_batch(global_batch: usize, slices: usize, place: Place<'_>, problems: &mut Problems) {
    if global_batch.is_multiple_of(slices) {
        return;
    }
    let message = format!("found global_batch {global_batch} with {slices} slices; expected a multiple of the slices");
    let divisors = (1..=global_batch).filter(|count| global_batch.is_multiple_of(*count));
    let advice = format!(
        "global_batch: {}; or slices: {}",
        nearest_multiples(global_batch, slices),
        nearest_choices(slices, divisors)
    );
    place.refuse_at("global_batch", message, advice, problems);
}

/// Notes a learning-rate schedule that goes the wrong way or is longer than its stage.
pub(crate) fn check_schedule(schedule: &LrSchedule, steps: u64, place: Place<'_>, problems: &mut Problems) {
    let (start, peak, floor, warmup_steps) = schedule.ends();
    let Some(node) = place.node.get("lr_schedule") else { return };
    let path = crate::tree::join(place.path, "lr_schedule");
    let place = Place { node, path: &path, rule: &Rule::Any };
    for (key, value) in [("start", start), ("floor", floor)] {
        if value > peak {
            let message = format!("found {key} {value:e} above peak {peak:e}; expected at most the peak");
            place.refuse_at(
                key,
                message,
                format!("write at most {peak:e} (the paper: peak 1e-4, floor 1e-5, start 1e-6)"),
                problems,
            );
        }
    }
    if warmup_steps > steps {
        let message =
            format!("found warmup_steps {warmup_steps} in a stage of {steps} steps; expected at most the steps");
        let advice = format!("for example {}, a twentieth of the stage", steps / 20);
        place.refuse_at("warmup_steps", message, advice, problems);
    }
}

/// The multiples of `unit` on both sides of `found`, in words.
fn nearest_multiples(found: usize, unit: usize) -> String {
    let below = found / unit * unit;
    let above = below.saturating_add(unit);
    if below == 0 {
        format!("the nearest choice is {above}")
    } else {
        format!("the nearest choices are {below} and {above}")
    }
}

/// The largest choice below `found` and the smallest above it, in words; `choices` ascend.
pub(crate) fn nearest_choices(found: usize, choices: impl Iterator<Item = usize>) -> String {
    let (mut below, mut above) = (None, None);
    // A number of this size is a mistake that other messages name; searching its divisors would take minutes.
    for choice in choices.take_while(|choice| *choice < 10_000_000) {
        if choice < found {
            below = Some(choice);
        } else if choice > found {
            above = Some(choice);
            break;
        } else {
            below = Some(choice);
        }
    }
    match (below, above) {
        (Some(below), Some(above)) => format!("the nearest choices are {below} and {above}"),
        (Some(one), None) | (None, Some(one)) => format!("the nearest choice is {one}"),
        (None, None) => "no value fits: change the global batches or the slices".to_owned(),
    }
}
