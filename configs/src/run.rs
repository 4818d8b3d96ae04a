//! The run: all sections together, and what follows from them.

use crate::cluster::Cluster;
use crate::data::Data;
use crate::decode::Place;
use crate::model::Model;
use crate::problem::Problems;
use crate::rule::Rule;
use crate::section::{all_defaults, choice, section};
use crate::stages::Stage;
use crate::uri::Uri;

/// The version of the schema that this code reads.
pub const SCHEMA_VERSION: u64 = 1;

section! {
    /// One training run, from the first step of its first stage to the last step of its last.
    pub struct Run {
        /// Version of this schema.
        pub schema_version: u64 => Rule::Version(SCHEMA_VERSION as f64),
        /// What the run is called and where it writes.
        pub run: Identity,
        /// The model.
        pub model: Model,
        /// The data.
        pub data: Data,
        /// The stages, in the order in which they run.
        pub stages: Vec<Stage>,
        /// The ranks that compute it.
        pub cluster: Cluster = all_defaults(),
        /// What is saved, and when.
        pub checkpoint: Checkpoint = all_defaults(),
        /// What is reported, and when.
        pub metrics: Metrics = all_defaults(),
        /// What is scored during training, and when.
        pub evaluation: Evaluation = all_defaults(),
    }
}

section! {
    /// Scores during training, on data that is held out. The weights are the same bits with and without. Stage 1 is scored by
    /// retrieval (mean R@1 of both directions, re-ranked), a stage of captions by CIDEr, one of questions by accuracy.
    pub struct Evaluation check check_evaluation {
        /// Steps between evaluations; null for none. The last step of a stage is evaluated, too.
        pub every_steps: Option<u64> = None => Rule::at_least(1.0),
        /// Images, or questions, that are scored: the first ones.
        pub limit: u64 = 200 => Rule::at_least(1.0),
        /// Candidates of each image and text that the matching head scores again.
        pub candidates: u64 = 16 => Rule::at_least(1.0),
        /// Captions or questions of a published set; null for the held-out scenes of the run's synthetic source.
        pub annotations: Option<Uri> = None,
        /// Answers to questions, where they have a file of their own.
        pub answers: Option<Uri> = None,
        /// The folder of the set's images.
        pub images: Option<Uri> = None,
        /// One of the splits of a file that has several.
        pub split: Option<String> = None,
    }
}

section! {
    /// What the run is called and where it writes.
    pub struct Identity {
        /// Name in reports and job lists.
        pub name: String => Rule::Name,
        /// The seed of everything random: data order, crops, dropout, negatives, initial weights.
        pub seed: u64 = 42,
        /// The folder that checkpoints, metrics and reports are written to.
        pub output: Uri,
    }
}

section! {
    /// What is saved, and when. A checkpoint is due when either of the first two says so.
    pub struct Checkpoint {
        /// Steps between checkpoints; null for none by steps.
        pub every_steps: Option<u64> = Some(1000) => Rule::at_least(1.0),
        /// Seconds between checkpoints; null for none by time.
        pub every_s: Option<u64> = Some(600) => Rule::at_least(1.0),
        /// The latest checkpoints that are kept.
        pub keep_last: u64 = 3 => Rule::at_least(1.0),
        /// Checkpoints at multiples of this step are kept for good; null for none.
        pub keep_every_steps: Option<u64> = None => Rule::at_least(1.0),
        /// The best checkpoints of each stage that are kept.
        pub keep_best: u64 = 0,
        /// The loss of which the best have the lowest value, as it was in their step; or `evaluation`, of which they have the
        /// highest score: then checkpoints count whose step was evaluated.
        pub best_by: BestBy = BestBy::Total,
        /// Whether training goes on while a checkpoint is written; if not, every step waits for its checkpoint.
        pub background: bool = true,
    }
}

fn check_evaluation(evaluation: &Evaluation, place: Place<'_>, problems: &mut Problems) {
    let Evaluation { annotations, answers, images, split, .. } = evaluation;
    let needs = |key: &str, problems: &mut Problems| {
        let message = format!("found {key} without annotations; expected the file that it belongs to");
        place.refuse_at(key, message, "name it in `annotations`, or leave both out".to_owned(), problems);
    };
    if annotations.is_none() {
        let others = [("answers", answers.is_some()), ("images", images.is_some()), ("split", split.is_some())];
        others.iter().filter(|(_, there)| *there).for_each(|(key, _)| needs(key, problems));
    } else if images.is_none() {
        let message = "found annotations without images; expected the folder of the set's images".to_owned();
        place.refuse_at("annotations", message, "name it in `images`".to_owned(), problems);
    }
}

choice! {
    /// A loss, or the score of an evaluation.
    pub enum BestBy {
        /// The sum of all.
        "total" => Total,
        /// Image-text contrastive.
        "itc" => Itc,
        /// Image-text matching.
        "itm" => Itm,
        /// Image-grounded text generation.
        "itg" => Itg,
        /// The language model's, in the generative stage.
        "lm" => Lm,
        /// The score of the step's evaluation, of which the highest is best.
        "evaluation" => Evaluation,
    }
}

section! {
    /// What is reported, and when.
    pub struct Metrics {
        /// Steps between two reports.
        pub every_steps: u64 = 20 => Rule::at_least(1.0),
        /// Whether TensorBoard event files are written beside the JSON lines.
        pub tensorboard: bool = true,
    }
}

impl Run {
    /// The resolved config as YAML: every key stated, overrides applied. Reading it gives an equal run.
    pub fn to_yaml(&self) -> String {
        serde_yaml::to_string(self)
            .expect("invariant: a run is made of maps, lists and scalars, which YAML can express")
    }

    /// The stage of this name.
    pub fn stage(&self, name: &str) -> Option<&Stage> {
        self.stages.iter().find(|stage| stage.name() == name)
    }

    /// Ranks over all machines.
    pub fn world_size(&self) -> usize {
        self.cluster.world_size()
    }

    /// Updates over all stages.
    pub fn num_steps(&self) -> u64 {
        self.stages.iter().map(Stage::steps).sum()
    }

    /// The most ranks that can share the run: the smallest number of slices of a stage.
    pub fn max_world_size(&self) -> usize {
        self.stages.iter().map(Stage::slices).min().unwrap_or(1)
    }

    /// Samples that each lane gives to one global batch of `stage`.
    pub fn rows_per_lane(&self, stage: &Stage) -> usize {
        stage.global_batch() / self.data.lanes
    }
}
