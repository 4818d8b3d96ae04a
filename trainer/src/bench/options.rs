//! What is measured, and the run that it makes.

use std::path::PathBuf;

use configs::{Overrides, Run, Stage};
use tch::Device;

use crate::TrainerError;

/// What is measured.
#[derive(Clone, Debug)]
pub struct Options {
    /// `mid`, or a published size such as `vitg_opt2.7b`; where `run` is given, what to call that.
    pub preset: String,
    /// A run to take the model and the stage from, with types, dropout and lengths of texts; the options that state these
    /// are those of the run then ([`Options::of_run`]).
    pub run: Option<Box<Run>>,
    /// Where everything is computed.
    pub device: Device,
    /// 1 or 2; of a run, its first stage of that kind.
    pub stage: usize,
    /// Images per step, over all ranks.
    pub batch: usize,
    /// Slices of the batch.
    pub slices: usize,
    /// Steps that are timed, and steps before them.
    pub steps: [usize; 2],
    /// `f32` or `bf16`.
    pub dtype: String,
    /// `math` or `flash`.
    pub attention: String,
    /// Of the Q-Former, and of the language model.
    pub dropout: [f64; 2],
    /// Tokens of a caption at most.
    pub text_tokens: usize,
    /// Whether all captions are that long; of 6 to so many tokens otherwise.
    pub fixed_text: bool,
    /// Whether captions are padded to `text_tokens` even where the longest of the batch is shorter.
    pub pad_to_limit: bool,
    /// Whether keys and values of an image are computed once per step, or at each use.
    pub project_once: bool,
    /// Whether the language model's activations are computed again instead of kept.
    pub recompute: bool,
    /// Times each step with the exact reduction and with the library's all-reduce, in turns.
    pub compare_reductions: bool,
    /// Waits for the device behind every part of a step, and times each.
    pub phases: bool,
    /// Where to write what one more step does, operation by operation.
    pub trace: Option<PathBuf>,
}

impl Options {
    /// 10 steps of the preset `mid` as `bench-step` takes them when nothing else is asked for, on the processor.
    pub fn of_mid(stage: usize) -> Self {
        Self {
            preset: "mid".to_owned(),
            run: None,
            device: Device::Cpu,
            stage,
            batch: 8,
            slices: 1,
            steps: [10, 3],
            dtype: "f32".to_owned(),
            attention: "math".to_owned(),
            dropout: [0.1; 2],
            text_tokens: 32,
            fixed_text: false,
            pad_to_limit: false,
            project_once: true,
            recompute: false,
            compare_reductions: false,
            phases: false,
            trace: None,
        }
    }

    /// One step, on the processor, of a run's first stage of a kind, 1 or 2, with a batch of one of its slices. `name` is what
    /// reports call the run.
    ///
    /// # Errors
    /// [`TrainerError::Unsupported`] when the run has no such stage.
    pub fn of_run(name: &str, run: Run, stage: usize) -> Result<Self, TrainerError> {
        let model = &run.model;
        let language_model = model.language_model.settings();
        Ok(Self {
            preset: name.to_owned(),
            batch: stage_of(&run, stage)?.slice_size(),
            steps: [1, 0],
            dtype: model.qformer.dtype.to_string(),
            attention: model.attention.to_string(),
            dropout: [model.qformer.dropout, language_model.dropout],
            text_tokens: if stage == 1 { model.qformer.max_text_tokens } else { language_model.max_text_tokens },
            recompute: language_model.recompute,
            run: Some(Box::new(run)),
            ..Self::of_mid(stage)
        })
    }

    /// The run that is measured, at its most costly: matching with hard negatives from the first step on.
    ///
    /// # Errors
    /// Options that do not fit together.
    pub(super) fn run(&self) -> Result<Run, TrainerError> {
        if self.slices == 0 || !self.batch.is_multiple_of(self.slices) {
            return Err(TrainerError::Unsupported {
                found: format!("--batch {} in --slices {}", self.batch, self.slices),
                expected: "slices that are equally long; choose a multiple".into(),
            });
        }
        let Some(run) = &self.run else { return self.of_preset() };
        let mut run = Run::clone(run);
        for stage in &mut run.stages {
            if let Stage::Representation(stage) = stage {
                (stage.itm_start_step, stage.hard_negatives_start_step) = (0, 0);
            }
        }
        Ok(run)
    }

    /// The stage of a run that is measured.
    pub(super) fn stage_of<'r>(&self, run: &'r Run) -> Result<&'r Stage, TrainerError> {
        stage_of(run, self.stage)
    }

    fn of_preset(&self) -> Result<Run, TrainerError> {
        let preset = self.preset.as_str();
        let stage = |name: &str| {
            [("global_batch", self.batch), ("slices", self.slices)]
                .map(|(key, value)| format!("stages.{name}.{key}={value}"))
        };
        let formats =
            ["image_encoder", "qformer", "language_model"].map(|part| format!("model.{part}.dtype={}", self.dtype));
        let others = [
            format!("model.attention={}", self.attention),
            format!("model.qformer.dropout={}", self.dropout[0]),
            format!("model.language_model.dropout={}", if self.recompute { 0.0 } else { self.dropout[1] }),
            format!("model.language_model.recompute={}", self.recompute),
            format!("model.qformer.max_text_tokens={}", self.text_tokens),
            format!("data.lanes={}", self.slices),
            "cluster.nodes=1".to_owned(),
            "cluster.ranks_per_node=1".to_owned(),
            "cluster.backend=single".to_owned(),
        ];
        let sets = formats.into_iter().chain(others).chain(stage("representation")).chain(stage("generative"));
        let names = || configs::PRESETS.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(", ");
        let text = configs::preset(preset).ok_or_else(|| TrainerError::Unsupported {
            found: format!("--preset {preset}"),
            expected: format!("one of {}", names()),
        })?;
        configs::load_str(preset, text, &Overrides::new(sets)).map_err(|error| TrainerError::Unsupported {
            found: error.to_string(),
            expected: "options that make a run".into(),
        })
    }
}

/// The first stage of a kind.
fn stage_of(run: &Run, kind: usize) -> Result<&Stage, TrainerError> {
    let is_wanted = |stage: &&Stage| matches!(stage, Stage::Representation(_)) == (kind == 1);
    run.stages.iter().find(is_wanted).ok_or_else(|| TrainerError::Unsupported {
        found: format!("--stage {kind} of {}, which has no such stage", run.run.name),
        expected: "1 for a stage of kind representation, 2 for one of kind generative".into(),
    })
}
