//! The stages of a run: what is trained, for how long, on which batches, with which optimiser.

use crate::decode::Place;
use crate::problem::Problems;
use crate::rule::Rule;
use crate::section::{all_defaults, choice, kinds, section};
use crate::validate::{check_batch, check_schedule};

kinds! {
    /// One stage. A `kind` that is not stated is taken from the stage's `name`.
    pub enum Stage or name {
        /// Vision-language representation learning: contrastive, matching and captioning losses on the Q-Former.
        "representation" => Representation(RepresentationStage),
        /// Vision-to-language generation: the frozen language model's loss on text after the projected queries.
        "generative" => Generative(GenerativeStage),
    }
}

section! {
    /// Stage 1 and retrieval fine-tuning.
    pub struct RepresentationStage check check_representation {
        /// Name in paths, metrics and `--set`.
        pub name: String => Rule::Name,
        /// Updates.
        pub steps: u64 => Rule::at_least(1.0),
        /// Samples per update, over all ranks.
        pub global_batch: usize => Rule::at_least(1.0),
        /// Parts that the global batch is cut into; a slice is what one device computes at once, and the result of a
        /// step depends on the slices and not on the ranks.
        pub slices: usize => Rule::within(1.0, 65536.0),
        /// Weights of the losses.
        pub losses: Losses = all_defaults(),
        /// Label smoothing of the contrastive and captioning losses.
        pub label_smoothing: f64 = 0.1 => Rule::below_one(),
        /// How hard negatives are weighted when they are drawn.
        pub negatives: Negatives = Negatives::MaskedSoftmax,
        /// The step from which the matching loss is used; 0 is the reference.
        pub itm_start_step: u64 = 0,
        /// The step from which negatives are hard ones, random before; 0 is the reference.
        pub hard_negatives_start_step: u64 = 0,
        /// Whether all texts of an image count as its matches (fine-tuning on several captions per image).
        pub match_by_image_id: bool = false,
        /// Whether the image encoder is trained too.
        pub train_image_encoder: bool = false,
        /// Updates in a row that may be left out because their gradient is not finite; one more ends the run.
        pub max_skipped_updates: u64 = 3,
        /// The optimiser.
        pub optimizer: Optimizer,
        /// The learning rate over the steps.
        pub lr_schedule: LrSchedule,
    }
}

section! {
    /// Stage 2, caption and VQA fine-tuning.
    pub struct GenerativeStage check check_generative {
        /// Name in paths, metrics and `--set`.
        pub name: String => Rule::Name,
        /// Updates.
        pub steps: u64 => Rule::at_least(1.0),
        /// Samples per update, over all ranks.
        pub global_batch: usize => Rule::at_least(1.0),
        /// Parts that the global batch is cut into; a slice is what one device computes at once, and the result of a
        /// step depends on the slices and not on the ranks.
        pub slices: usize => Rule::within(1.0, 65536.0),
        /// What the language model is given and what it has to produce.
        pub text: GenerativeText = GenerativeText::WholeCaption,
        /// Text in front of the caption, which carries no loss; `{}` stands for the question.
        pub prompt: String = String::new(),
        /// Label smoothing of the language model's loss.
        pub label_smoothing: f64 = 0.0 => Rule::below_one(),
        /// Whether the question is given to the Q-Former too, beside the queries.
        pub qformer_text_input: bool = false,
        /// Whether the image encoder is trained too.
        pub train_image_encoder: bool = false,
        /// The score that the stage before has to reach in its last evaluation (see `evaluation`); the run stops otherwise,
        /// before time goes into a stage that starts from it. Null for no such gate.
        pub needs_score: Option<f64> = None => Rule::at_least(0.0),
        /// Updates in a row that may be left out because their gradient is not finite; one more ends the run.
        pub max_skipped_updates: u64 = 3,
        /// The optimiser.
        pub optimizer: Optimizer,
        /// The learning rate over the steps.
        pub lr_schedule: LrSchedule,
    }
}

choice! {
    /// What the language model is given and what it has to produce.
    pub enum GenerativeText {
        /// Given the prompt, produce the whole caption.
        "whole_caption" => WholeCaption,
        /// Given the caption's beginning, produce the rest; where it is cut is drawn up to the middle (LAVIS
        /// issue 139).
        "prefix_split" => PrefixSplit,
        /// Given the question in the prompt, produce the answer.
        "question_answer" => QuestionAnswer,
    }
}

section! {
    /// Weights of the losses; a weight of 0 leaves the loss out.
    pub struct Losses {
        /// Image-text contrastive loss.
        pub itc: f64 = 1.0 => Rule::at_least(0.0),
        /// Image-text matching loss.
        pub itm: f64 = 1.0 => Rule::at_least(0.0),
        /// Image-grounded text generation loss.
        pub itg: f64 = 1.0 => Rule::at_least(0.0),
    }
}

choice! {
    /// How hard negatives are weighted when they are drawn. Both exclude the own pair.
    pub enum Negatives {
        /// LAVIS HEAD: the own pair is masked, then softmax.
        "masked_softmax" => MaskedSoftmax,
        /// LAVIS 1.0.2: softmax, plus 1e-4, the own pair set to 0.
        "softmax_floor" => SoftmaxFloor,
    }
}

kinds! {
    /// The optimiser.
    pub enum Optimizer {
        /// AdamW with decoupled weight decay on tensors of two or more axes.
        "adamw" => AdamW(AdamW),
    }
}

section! {
    /// AdamW.
    pub struct AdamW {
        /// Decay rates of the two moments.
        pub betas: [f64; 2] = [0.9, 0.98] => Rule::below_one(),
        /// Added to the root of the second moment.
        pub eps: f64 = 1.0e-8 => Rule::above(0.0),
        /// Decoupled weight decay.
        pub weight_decay: f64 = 0.05 => Rule::at_least(0.0),
        /// Norm that gradients are clipped to; null for no clipping.
        pub max_grad_norm: Option<f64> = None => Rule::above(0.0),
        /// Factor of the learning rate from one block of a trained image encoder to the one below it.
        pub layer_decay: f64 = 1.0 => Rule::share(),
    }
}

kinds! {
    /// The learning rate over the steps.
    pub enum LrSchedule {
        /// Linear warm-up, then a cosine down to the floor at the last step, both per step.
        "warmup_cosine" => WarmupCosine(WarmupCosine),
        /// LAVIS' schedule: warm-up inside the first epoch only, then a cosine that moves once per epoch.
        "lavis_epoch_cosine" => LavisEpochCosine(LavisEpochCosine),
    }
}

section! {
    /// Linear warm-up and cosine per step.
    pub struct WarmupCosine {
        /// Learning rate at step 0.
        pub start: f64 = 1.0e-6 => Rule::at_least(0.0),
        /// Learning rate after the warm-up.
        pub peak: f64 => Rule::above(0.0),
        /// Learning rate at the last step.
        pub floor: f64 => Rule::at_least(0.0),
        /// Steps of the warm-up.
        pub warmup_steps: u64,
    }
}

section! {
    /// LAVIS' cosine per epoch.
    pub struct LavisEpochCosine {
        /// Learning rate at step 0.
        pub start: f64 = 1.0e-6 => Rule::at_least(0.0),
        /// Learning rate after the warm-up.
        pub peak: f64 => Rule::above(0.0),
        /// Learning rate that the cosine would reach one epoch after the last.
        pub floor: f64 => Rule::at_least(0.0),
        /// Steps of the warm-up.
        pub warmup_steps: u64,
        /// Steps that count as one epoch.
        pub steps_per_epoch: u64 => Rule::at_least(1.0),
    }
}

impl Stage {
    /// Name in paths, metrics and `--set`.
    pub fn name(&self) -> &str {
        match self {
            Stage::Representation(stage) => &stage.name,
            Stage::Generative(stage) => &stage.name,
        }
    }

    /// Updates.
    pub fn steps(&self) -> u64 {
        match self {
            Stage::Representation(stage) => stage.steps,
            Stage::Generative(stage) => stage.steps,
        }
    }

    /// Updates in a row that may be left out because their gradient is not finite.
    pub fn max_skipped_updates(&self) -> u64 {
        match self {
            Stage::Representation(stage) => stage.max_skipped_updates,
            Stage::Generative(stage) => stage.max_skipped_updates,
        }
    }

    /// Samples per update, over all ranks.
    pub fn global_batch(&self) -> usize {
        match self {
            Stage::Representation(stage) => stage.global_batch,
            Stage::Generative(stage) => stage.global_batch,
        }
    }

    /// Parts that the global batch is cut into.
    pub fn slices(&self) -> usize {
        match self {
            Stage::Representation(stage) => stage.slices,
            Stage::Generative(stage) => stage.slices,
        }
    }

    /// Samples of one slice.
    pub fn slice_size(&self) -> usize {
        self.global_batch() / self.slices()
    }

    /// Samples that the stage sees, repeated ones counted again.
    pub fn num_samples(&self) -> u64 {
        self.steps() * self.global_batch() as u64
    }

    /// Whether the image encoder is trained too.
    pub fn train_image_encoder(&self) -> bool {
        match self {
            Stage::Representation(stage) => stage.train_image_encoder,
            Stage::Generative(stage) => stage.train_image_encoder,
        }
    }

    /// The optimiser.
    pub fn optimizer(&self) -> &Optimizer {
        match self {
            Stage::Representation(stage) => &stage.optimizer,
            Stage::Generative(stage) => &stage.optimizer,
        }
    }

    /// The learning rate over the steps.
    pub fn lr_schedule(&self) -> &LrSchedule {
        match self {
            Stage::Representation(stage) => &stage.lr_schedule,
            Stage::Generative(stage) => &stage.lr_schedule,
        }
    }
}

impl LrSchedule {
    /// Learning rates at the start, at the peak and at the end, and the steps of the warm-up.
    pub(crate) fn ends(&self) -> (f64, f64, f64, u64) {
        match self {
            LrSchedule::WarmupCosine(it) => (it.start, it.peak, it.floor, it.warmup_steps),
            LrSchedule::LavisEpochCosine(it) => (it.start, it.peak, it.floor, it.warmup_steps),
        }
    }
}

/// Notes settings of a representation stage that do not fit together.
fn check_representation(stage: &RepresentationStage, place: Place<'_>, problems: &mut Problems) {
    check_batch(stage.global_batch, stage.slices, place, problems);
    check_schedule(&stage.lr_schedule, stage.steps, place, problems);
    let Losses { itc, itm, itg } = stage.losses;
    if itc + itm + itg <= 0.0 {
        let message = "found all three loss weights at 0; expected at least one above 0".to_owned();
        place.refuse_at("losses", message, "the paper has 1.0 for each of itc, itm and itg".to_owned(), problems);
    }
    if itc + itm > 0.0 && stage.global_batch < 2 {
        let message =
            "found global_batch 1 with itc or itm; expected at least 2, because a pair needs another one as its \
                       negative"
                .to_owned();
        place.refuse_at("global_batch", message, "the smallest batch with negatives is 2".to_owned(), problems);
    }
}

/// Notes settings of a generative stage that do not fit together.
fn check_generative(stage: &GenerativeStage, place: Place<'_>, problems: &mut Problems) {
    check_batch(stage.global_batch, stage.slices, place, problems);
    check_schedule(&stage.lr_schedule, stage.steps, place, problems);
    let asks = stage.text == GenerativeText::QuestionAnswer;
    if asks && !stage.prompt.contains("{}") {
        let message = format!(
            "found the prompt \"{}\" with text question_answer; expected `{{}}` for the question",
            stage.prompt
        );
        place.refuse_at("prompt", message, "for example \"Question: {} Answer:\"".to_owned(), problems);
    }
    if !asks && stage.prompt.contains("{}") {
        let message = format!("found `{{}}` in the prompt with text {}; expected no place for a question", stage.text);
        place.refuse_at("prompt", message, "set `text: question_answer`, or remove the `{}`".to_owned(), problems);
    }
    if stage.qformer_text_input && !asks {
        let message = format!("found qformer_text_input with text {}; expected question_answer", stage.text);
        place.refuse_at("qformer_text_input", message, "write false".to_owned(), problems);
    }
}
