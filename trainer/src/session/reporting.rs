//! What is told of the steps: losses, speed, and where the time went.

use configs::Stage;

use super::{Outcome, Session, StagePosition, Writer};
use crate::TrainerError;
use crate::activity::Phase;
use crate::events::{Event, losses};
use crate::feed;
use crate::memory;
use crate::metrics::Record;
use crate::parts::Times;

impl Session<'_> {
    /// The steps of a stage begin.
    pub fn begin_steps(&self, at: &StagePosition<'_>) {
        self.activity.enter_stage(Phase::Step, at.stage.name(), at.step);
        self.parts.tell_apart(self.is_reported(at.stage, at.step + 1));
        self.parts.begin();
    }

    fn is_reported(&self, stage: &Stage, step: u64) -> bool {
        step.is_multiple_of(self.run.metrics.every_steps) || step == stage.steps() || step == 1
    }

    /// Notes that a step is done, and reports it when that is due. Every rank takes part, as losses are means over all slices.
    ///
    /// # Errors
    /// When a value is not finite, or metrics cannot be written.
    pub fn report(&mut self, at: &StagePosition<'_>, outcome: &Outcome<'_>) -> Result<(), TrainerError> {
        self.activity.step_done(at.step);
        self.parts.step_done();
        if self.is_reported(at.stage, at.step) {
            self.write_report(at, outcome)?;
        }
        self.parts.tell_apart(self.is_reported(at.stage, at.step + 1));
        Ok(())
    }

    fn write_report(&mut self, at: &StagePosition<'_>, outcome: &Outcome<'_>) -> Result<(), TrainerError> {
        let means = outcome.losses.means(outcome.slices)?;
        let totals = outcome.feed.totals(self.ranks, at.step)?;
        let (times, decoding) = (self.parts.take(), outcome.feed.take_decode_time());
        let Some(writer) = &mut self.writer else { return Ok(()) };
        let names = outcome.losses.names;
        let mut values: Vec<(String, f64)> =
            names.iter().zip(&means).map(|(name, value)| (format!("loss/{name}"), *value)).collect();
        values.extend([("lr".to_owned(), outcome.learning_rate), ("grad_norm".to_owned(), outcome.grad_norm)]);
        if outcome.skipped > 0 {
            values.push(("skipped_updates".to_owned(), outcome.skipped as f64));
        }
        values.extend(memory::metrics(self.device));
        values.extend(feed::metrics(&totals));
        let speed = writer.images_per_s(at, &times);
        if let Some(rate) = speed {
            values.push(("images_per_s".to_owned(), rate));
            values.extend(self.utilisation.metrics(&self.run.model, at.stage, rate));
        }
        values.extend(times.metrics());
        values.push(("time/decode".to_owned(), decoding.as_secs_f64() / times.steps() as f64));
        values.extend(self.saving.counts.metrics());
        writer.metrics.write(&Record::new(at.index, at.stage.name(), at.step, values))?;
        writer.metrics.flush()?;
        if let Some(warning) = writer.metrics.take_warning() {
            self.events.message(warning);
        }
        self.events.send(&Event::Progress {
            name: at.stage.name().to_owned(),
            step: at.step,
            steps: at.stage.steps(),
            losses: losses(names, &means),
            lr: Some(outcome.learning_rate),
            images_per_s: speed,
        });
        Ok(())
    }
}

impl Writer {
    /// Images over all ranks and second since the last report, not counting time in evaluations; none at the first report of a
    /// launch or a stage, whose first steps are slower.
    fn images_per_s(&mut self, at: &StagePosition<'_>, times: &Times) -> Option<f64> {
        let last = self.last_report.replace(at.step);
        let _earlier = last.filter(|step| *step < at.step)?;
        Some(at.stage.global_batch() as f64 / times.training())
    }
}
