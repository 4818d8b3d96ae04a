//! One launch of a run: its right to write, where it continues, and what it reports.

mod drift;
mod evaluating;
pub(crate) mod kept;
mod reporting;
mod resume;
pub(crate) mod saving;
mod start;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use cluster::Collective;
use configs::{Model, Run, Stage};
use tch::{Device, Kind};

use crate::TrainerError;
use crate::activity::{Activity, Phase};
use crate::checkpoint::{About, Claim, Committed, Found, Lease, Retention, RunPrefix, Standing, Terms};
use crate::events::{Event, Events};
use crate::facts::{self, Facts};
use crate::feed::{self, Feed};
use crate::finite::FiniteGuard;
use crate::frozen::FrozenImageEncoder;
use crate::metrics::{MetricsWriter, SessionStart, TensorBoard};
use crate::model::tensors::{Spec, Tensors};
use crate::parts::{Part, Parts};
use crate::precision::compute_kind;
use crate::slices::SliceMap;
use crate::state::State;
use crate::step::Losses;
use crate::utilisation::Utilisation;
use evaluating::Scores;
use kept::{Copied, restore, segments_of};
use resume::Resumed;
use saving::{Progress, Saving};

/// Longest time between two looks at a checkpoint that is waited for.
const LONGEST_LOOK: Duration = Duration::from_millis(100);

/// How a launch takes the run over.
#[derive(Clone, Debug, Default)]
pub struct Launch {
    /// This process.
    pub claim: Claim,
    /// Keys of the config that may differ from the run's, with all that lies below them.
    pub accept_changes: Vec<String>,
    /// Whether to begin anew.
    pub fresh: bool,
}

/// What a rank brings to a run.
pub struct Rank<'a> {
    /// All ranks, seen from this one.
    pub ranks: &'a dyn Collective,
    /// Where it computes.
    pub device: Device,
    /// What the launcher is told.
    pub events: Events,
    /// What it is doing.
    pub activity: Arc<Activity>,
    /// How rank 0 takes the run over.
    pub launch: &'a Launch,
}

/// A launch, seen from one rank. Only rank 0 writes.
pub struct Session<'a> {
    run: &'a Run,
    /// All ranks of the run.
    pub ranks: &'a dyn Collective,
    /// Where this rank computes.
    pub device: Device,
    /// What the launcher is told.
    pub events: Events,
    /// What this rank is doing.
    pub activity: Arc<Activity>,
    /// Where this rank's time goes.
    pub parts: Parts,
    utilisation: Utilisation,
    prefix: RunPrefix,
    writer: Option<Writer>,
    resume: Option<Resumed>,
    saving: Saving,
    frozen: BTreeMap<String, String>,
    facts: Facts,
    restored: serde_json::Value,
    scores: Scores,
}

struct Writer {
    lease: Arc<Lease>,
    metrics: MetricsWriter,
    last_save: Instant,
    /// The step of its stage.
    last_report: Option<u64>,
}

/// A stage of the run, and where it continues.
pub struct StagePosition<'a> {
    /// Counted from 1.
    pub index: usize,
    /// The stage.
    pub stage: &'a Stage,
    /// Updates done.
    pub step: u64,
}

impl<'a> Session<'a> {
    /// Takes over the run, and finds its newest checkpoint.
    ///
    /// # Errors
    /// When the output cannot be written, or holds a run with another config.
    pub fn begin(run: &'a Run, rank: Rank<'a>) -> Result<Self, TrainerError> {
        let Rank { ranks, device, events, activity, launch } = rank;
        activity.enter(Phase::Loading);
        let facts = facts::facts(run, device)?;
        facts::agree(&facts, run.cluster.reduction, ranks, events)?;
        let prefix = RunPrefix::open(run.run.output.as_str())?;
        let frozen = BTreeMap::new();
        let (restored, scores) = (serde_json::Value::Null, Scores::default());
        let (writer, resume) = (None, None);
        let saving = Saving::new(&prefix, Retention::from(&run.checkpoint), events)?;
        let parts = Parts::new(device, Arc::clone(&activity));
        let utilisation = Utilisation::new(ranks.world_size(), device);
        let mut session = Self {
            run,
            ranks,
            device,
            events,
            activity,
            parts,
            utilisation,
            prefix,
            writer,
            resume,
            saving,
            frozen,
            facts,
            restored,
            scores,
        };
        let lease = if ranks.rank() == 0 { Some(Arc::new(session.take_over(launch)?)) } else { None };
        session.resume = resume::read(run, &session.prefix, lease.as_deref(), ranks, events)?;
        if let Some(found) = &session.resume {
            let About { stage, step, .. } = &found.about;
            events.message(format!("continuing after step {step} of stage {stage}, from {}", found.uri));
            if let Some(words) = facts::changes(&found.about.facts, &session.facts) {
                events.message(words);
            }
        }
        if let Some(lease) = lease {
            session.saving.retain(&lease)?;
            let (stage_index, step) = session.position();
            let name = run.stages[stage_index - 1].name();
            let start = SessionStart::new(&lease.launch(), stage_index, name, step + 1);
            let tensorboard = if run.metrics.tensorboard { TensorBoard::On } else { TensorBoard::Off };
            let metrics = MetricsWriter::create(run.run.output.as_str(), start, tensorboard)?;
            session.writer = Some(Writer { lease, metrics, last_save: Instant::now(), last_report: None });
        }
        Ok(session)
    }

    fn take_over(&self, launch: &Launch) -> Result<Lease, TrainerError> {
        let mut terms = |run: Option<&Standing>| match run {
            _ if launch.fresh => Ok(Terms::Fresh),
            None => Ok(Terms::GoOn),
            Some(run) => match drift::changes(self.run, &run.config, &launch.accept_changes, &run.accepted)? {
                changes if changes.is_empty() => Ok(Terms::GoOn),
                changes => Ok(Terms::Change(changes)),
            },
        };
        self.prefix.claim(&launch.claim, &self.run.to_yaml(), &mut terms, &mut |line| self.events.message(line))
    }

    /// The stage (from 1) and the step at which this launch continues.
    fn position(&self) -> (usize, u64) {
        let Some(found) = &self.resume else { return (1, 0) };
        let About { stage_index, step, .. } = found.about;
        let finished = self.run.stages.get(stage_index - 1).is_some_and(|stage| step >= stage.steps());
        if finished && stage_index < self.run.stages.len() { (stage_index + 1, 0) } else { (stage_index, step) }
    }

    /// The stages that have steps left, in order.
    pub fn stages_left(&self) -> Vec<StagePosition<'a>> {
        let (current, done) = self.position();
        let stages = self.run.stages.iter().enumerate().skip(current - 1);
        stages
            .map(|(i, stage)| StagePosition { index: i + 1, stage, step: if i + 1 == current { done } else { 0 } })
            .filter(|position| position.step < position.stage.steps())
            .collect()
    }

    /// A frozen file that the run depends on, for manifests.
    ///
    /// # Errors
    /// When the checkpoint that the run continues from was made with another one.
    pub fn note_frozen(&mut self, name: &str, sha256: &str) -> Result<(), TrainerError> {
        self.frozen.insert(name.to_owned(), sha256.to_owned());
        let before = self.resume.as_ref().and_then(|found| found.about.frozen.get(name));
        match before.filter(|before| *before != sha256) {
            None => Ok(()),
            Some(before) => Err(TrainerError::Unsupported {
                found: format!("{name} has SHA-256 {sha256}; the checkpoint was made with {before}"),
                expected: "the same file; bring it back, or start over with --fresh".into(),
            }),
        }
    }

    /// Decisions from outside that the checkpoint keeps, for the stage that continues; null when none does.
    pub fn restored(&self) -> &serde_json::Value {
        &self.restored
    }

    /// The training state at which a stage continues: its checkpoint, or random values under those of the stage before.
    ///
    /// # Errors
    /// When the checkpoint of the stage before is gone or does not fit.
    pub fn build_state(
        &mut self,
        position: &StagePosition<'_>,
        specs: &[Spec],
        image_encoder: &FrozenImageEncoder,
        slices: &SliceMap<'_>,
    ) -> Result<State, TrainerError> {
        let seed = self.run.run.seed.wrapping_add(position.index as u64);
        let mut start = Tensors::random(specs, seed, self.device);
        start::put_image_encoder(position.stage, image_encoder, &mut start);
        let begins = (position.index, position.step) == (1, 0);
        let given = if begins { start::checkpoints(&self.run.model, self.ranks)? } else { Vec::new() };
        if begins {
            start::put_weights(&self.run.model, given.is_empty(), &mut start, self.events)?;
        }
        let mut state = State::new(specs, &start, slices.len(), slices.chunks(), self.device);
        state.finite = FiniteGuard::of_kinds(&back_propagated(&self.run.model, position.stage, self.device));
        if let Some(writer) = &mut self.writer {
            writer.last_save = Instant::now();
        }
        self.saving.prepare(Copied::room(&state, slices, [self.ranks.rank(), self.ranks.world_size()]));
        if position.step > 0 {
            let found = self.resume.take().expect("invariant: a stage continues from a checkpoint");
            restore(&mut state, &found, slices)?;
            self.restored = found.about.ledger;
            return Ok(state);
        }
        self.restored = serde_json::Value::Null;
        let before = match position.index {
            1 => given,
            // What the stage before left out, such as the Q-Former's text parts, comes from the one before that.
            index => {
                (1..index).filter_map(|stage| self.shared_checkpoint(stage).transpose()).collect::<Result<_, _>>()?
            }
        };
        self.check_gate(position, before.last().filter(|_| position.index > 1))?;
        for found in before {
            let taken = start::put_checkpoint(&self.run.model, &mut state, &found)?;
            self.events.message(format!("{taken} of {} tensors start from {}", state.segments.len(), found.uri));
        }
        Ok(state)
    }

    /// The newest checkpoint of a stage, chosen by rank 0 and read by every rank.
    fn shared_checkpoint(&self, stage: usize) -> Result<Option<Found>, TrainerError> {
        let found = if self.ranks.rank() == 0 { self.prefix.latest(Some(stage))? } else { None };
        start::shared(found, self.ranks)
    }

    /// Begins a checkpoint when one is due, and commits the one that is being written when all ranks have stored their parts.
    /// At the end of a stage, or when a rank was asked to leave, it waits until this step's checkpoint stands. Every rank
    /// takes part.
    ///
    /// # Errors
    /// When it cannot be written, or another launch has taken over the run; [`TrainerError::Preempted`].
    pub fn checkpoint_if_due(
        &mut self,
        at: &StagePosition<'_>,
        state: &State,
        outcome: &Outcome<'_>,
    ) -> Result<(), TrainerError> {
        let _time = self.parts.enter(Part::Checkpoint);
        let settings = &self.run.checkpoint;
        let by_steps = settings.every_steps.is_some_and(|every| at.step.is_multiple_of(every));
        let by_time =
            |writer: &Writer| settings.every_s.is_some_and(|every| writer.last_save.elapsed().as_secs() >= every);
        let due = by_steps || self.writer.as_ref().is_some_and(by_time);
        let asked = self.exchange([u8::from(due), u8::from(self.activity.is_to_leave())])?;
        let leave = asked.leave;
        if asked.all_written {
            self.saving.commit(self.writer.as_ref().map(|writer| &writer.lease), self.ranks)?;
        }
        if leave || at.step == at.stage.steps() || (asked.due && !settings.background) {
            self.activity.enter(Phase::Checkpoint);
            // The one that is on its way first: it may be all that there is time for.
            self.wait_for_commit()?;
            self.begin_checkpoint(at, state, outcome)?;
            self.wait_for_commit()?;
            self.activity.enter(Phase::Step);
        } else if asked.due && asked.all_idle {
            self.begin_checkpoint(at, state, outcome)?;
        } else if asked.due {
            self.saving.counts.skipped += 1;
            self.writer.iter_mut().for_each(|writer| writer.last_save = Instant::now());
        }
        match leave {
            true => Err(TrainerError::Preempted { stage: at.stage.name().to_owned(), step: at.step }),
            false => Ok(()),
        }
    }

    /// Tells the other ranks what this one wants and how far its part of the checkpoint is.
    fn exchange(&mut self, [due, leave]: [u8; 2]) -> Result<Asked, TrainerError> {
        let events = self.events;
        let own = self.saving.poll(|committed| {
            let Committed { uri, stage, step, .. } = committed;
            events.send(&Event::Checkpoint { stage, step, uri });
        })?;
        let all = self.ranks.all_gather(&[due, leave, own as u8])?;
        let ranks = || all.chunks_exact(3);
        Ok(Asked {
            due: all[0] == 1,
            leave: ranks().any(|rank| rank[1] == 1),
            all_idle: ranks().all(|rank| rank[2] == Progress::Idle as u8),
            all_written: ranks().all(|rank| rank[2] == Progress::Written as u8),
        })
    }

    /// Waits until no checkpoint is being written. Ranks go on telling each other, so that none seems to hang while another
    /// waits for its store.
    fn wait_for_commit(&mut self) -> Result<(), TrainerError> {
        let mut wait = Duration::from_millis(1);
        loop {
            let asked = self.exchange([0, 0])?;
            if asked.all_idle {
                return Ok(());
            }
            if asked.all_written {
                self.saving.commit(self.writer.as_ref().map(|writer| &writer.lease), self.ranks)?;
            }
            self.activity.progress();
            std::thread::sleep(wait);
            wait = (2 * wait).min(LONGEST_LOOK);
        }
    }

    fn begin_checkpoint(
        &mut self,
        at: &StagePosition<'_>,
        state: &State,
        outcome: &Outcome<'_>,
    ) -> Result<(), TrainerError> {
        let slices = outcome.slices;
        let totals = outcome.feed.totals(self.ranks, at.step)?;
        let means = outcome.losses.means(slices)?;
        let metrics = outcome.losses.names.iter().map(|name| (*name).to_owned()).zip(means);
        let mut ledger = state.finite.ledger();
        feed::keep(&totals, &mut ledger);
        let about = About {
            stage_index: at.index,
            stage: at.stage.name().to_owned(),
            step: at.step,
            seed: self.run.run.seed,
            samples_seen: at.step * at.stage.global_batch() as u64,
            adamw_count: state.updates,
            flat_len: state.len() as usize,
            segments: segments_of(state),
            frozen: self.frozen.clone(),
            facts: self.facts.clone(),
            ledger,
            metrics: metrics.chain(self.scores.of(at)).filter(|(_, value)| value.is_finite()).collect(),
        };
        let lease = self.writer.as_ref().map(|writer| &*writer.lease);
        self.saving.start(about, (lease, self.ranks), |room| room.copy(state, slices))?;
        self.writer.iter_mut().for_each(|writer| writer.last_save = Instant::now());
        Ok(())
    }
}

/// What all ranks said between two steps.
struct Asked {
    /// A checkpoint is due, as rank 0 sees it.
    due: bool,
    /// Some rank was asked to leave.
    leave: bool,
    /// No rank is writing a checkpoint.
    all_idle: bool,
    /// Every rank has stored its part.
    all_written: bool,
}

/// What a step came to.
pub struct Outcome<'a> {
    /// The losses.
    pub losses: &'a Losses,
    /// The slices that they are means over.
    pub slices: &'a SliceMap<'a>,
    /// Where the samples came from.
    pub feed: &'a Feed,
    /// Norm of the mean gradient.
    pub grad_norm: f64,
    /// The learning rate of the update.
    pub learning_rate: f64,
    /// Updates of the stage that were left out so far because their gradient was not finite.
    pub skipped: u64,
}

/// The types that gradients of a stage pass through.
fn back_propagated(model: &Model, stage: &Stage, device: Device) -> Vec<Kind> {
    let mut dtypes = vec![model.qformer.dtype];
    if matches!(stage, Stage::Generative(_)) {
        dtypes.push(model.language_model.settings().dtype);
    }
    if stage.train_image_encoder() {
        dtypes.push(model.image_encoder.dtype());
    }
    dtypes.into_iter().map(|dtype| compute_kind(dtype, device)).collect()
}
