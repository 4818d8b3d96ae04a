//! Evaluation in the middle of training, and the gate between two stages.

use configs::Stage;

use super::{Session, StagePosition};
use crate::TrainerError;
use crate::activity::Phase;
use crate::checkpoint::Found;
use crate::eval::Subject;
use crate::eval::during::During;
use crate::eval::shares::Shares;
use crate::metrics::Record;
use crate::parts::Part;
use crate::precision::compute_kind;
use crate::state::State;
use crate::towers::Towers;

/// What checkpoints and metrics call the score of an evaluation.
pub(super) const EVALUATION: &str = "evaluation";

/// The scores of a stage.
#[derive(Default)]
pub(super) struct Scores {
    /// What the stage of this number is scored on.
    set: Option<(usize, During)>,
    /// The newest score, and the stage and the step that it is of.
    newest: Option<(usize, u64, f64)>,
}

impl Scores {
    /// The score of a step, where it was evaluated.
    pub(super) fn of(&self, at: &StagePosition<'_>) -> Option<(String, f64)> {
        self.newest
            .filter(|(stage, step, _)| (*stage, *step) == (at.index, at.step))
            .map(|it| (EVALUATION.into(), it.2))
    }
}

impl Session<'_> {
    /// Scores the model when that is due; at the stage's last step, too. Nothing that training reads is changed. Every rank
    /// takes part.
    ///
    /// # Errors
    /// When the data that is held out cannot be read, or ranks cannot talk.
    pub fn evaluate_if_due(
        &mut self,
        at: &StagePosition<'_>,
        state: &State,
        towers: &Towers,
    ) -> Result<(), TrainerError> {
        let Some(every) = self.run.evaluation.every_steps else { return Ok(()) };
        if !at.step.is_multiple_of(every) && at.step != at.stage.steps() {
            return Ok(());
        }
        self.activity.enter(Phase::Evaluation);
        let _time = self.parts.enter(Part::Evaluation);
        let during = match self.scores.set.take() {
            Some((stage, during)) if stage == at.index => during,
            _ => During::open(self.run, at.stage)?,
        };
        // The weights have changed since the step took its copies.
        state.begin_step(compute_kind(self.run.model.qformer.dtype, self.device));
        let score = {
            let weights = &*state.parameters();
            let image_encoder = towers.image_encoder.with_trained(self.run, weights)?;
            let subject = Subject { run: self.run, stage: at.stage, weights, towers, image_encoder: &image_encoder };
            let beat = || self.activity.progress();
            during.score(&subject, Shares { ranks: self.ranks, beat: &beat })?
        };
        self.scores.set = Some((at.index, during));
        self.scores.newest = Some((at.index, at.step, score.score));
        self.activity.enter(Phase::Step);
        let Some(writer) = &mut self.writer else { return Ok(()) };
        let values: Vec<(String, f64)> =
            score.parts.iter().map(|(name, value)| (format!("eval/{name}"), *value)).collect();
        let words: Vec<String> = score.parts.iter().map(|(name, value)| format!("{name} {value:.1}")).collect();
        writer.metrics.write(&Record::new(at.index, at.stage.name(), at.step, values))?;
        writer.metrics.flush()?;
        self.events.message(format!("step {} of {}: {}", at.step, at.stage.name(), words.join(", ")));
        Ok(())
    }

    /// Stops the run before a stage whose predecessor has not reached the score that the stage needs.
    ///
    /// # Errors
    /// [`TrainerError::Unsupported`] with both scores.
    pub(super) fn check_gate(&self, at: &StagePosition<'_>, before: Option<&Found>) -> Result<(), TrainerError> {
        let Stage::Generative(stage) = at.stage else { return Ok(()) };
        let Some(needed) = stage.needs_score else { return Ok(()) };
        let score = before.and_then(|found| found.about.metrics.get(EVALUATION).copied());
        match score {
            Some(score) if score >= needed => Ok(()),
            found => Err(TrainerError::Unsupported {
                found: match found {
                    Some(score) => format!("the stage before {} ended with a score of {score:.1}", stage.name),
                    None => format!("the stage before {} has no score of its last step", stage.name),
                },
                expected: format!(
                    "at least {needed} (stages.{}.needs_score) before time goes into this stage; train the stage before \
                     for longer, or change needs_score with --accept-change stages.{}.needs_score",
                    stage.name, stage.name
                ),
            }),
        }
    }
}
