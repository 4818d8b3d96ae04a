//! Where the wall time of a step goes, seen from one rank.
//!
//! One part runs at every moment: the innermost that was entered, or [`Part::Other`] where none was. So the parts of a step
//! add up to its wall time. Time inside of calls to other ranks is taken out of the part that makes them; only an evaluation
//! keeps its own, as it is no work of a step.
//!
//! A GPU computes after the call that asks for it has returned. Its parts can only be told apart by waiting for it where one
//! ends and the next begins, which costs time; so that is done in the steps that are reported, and the others are taken to
//! be shared out as these. A part costs four looks at the clock and nothing else.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tch::Device;

use crate::activity::Activity;
use crate::device::wait_for;

/// What a rank spends the time of a step on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// Waiting for samples.
    DataWait,
    /// The image encoder, with its backward pass where it is trained.
    ImageEncoder,
    /// The Q-Former with the losses of stage 1 and its gradient, forward and backward.
    QFormer,
    /// The frozen language model and its loss, forward and backward.
    LanguageModel,
    /// Calls to other ranks, and waiting for them.
    Communication,
    /// The gradient's norm, and the update.
    Optimizer,
    /// What training waits for of a checkpoint.
    Checkpoint,
    /// Scoring the model on data that is held out.
    Evaluation,
    /// All else: tokens of texts, reports.
    Other,
}

impl Part {
    /// All of them, in the order of a step.
    pub const ALL: [Self; 9] = [
        Self::DataWait,
        Self::ImageEncoder,
        Self::QFormer,
        Self::LanguageModel,
        Self::Communication,
        Self::Optimizer,
        Self::Checkpoint,
        Self::Evaluation,
        Self::Other,
    ];

    /// As metrics call it, behind `time/`.
    pub fn name(self) -> &'static str {
        match self {
            Self::DataWait => "data_wait",
            Self::ImageEncoder => "image_encoder",
            Self::QFormer => "qformer",
            Self::LanguageModel => "language_model",
            Self::Communication => "communication",
            Self::Optimizer => "optimizer",
            Self::Checkpoint => "checkpoint",
            Self::Evaluation => "evaluation",
            Self::Other => "other",
        }
    }

    /// Whether it ends with the device idle, so that it is known without waiting for that.
    fn is_seen_by_host(self) -> bool {
        matches!(self, Self::DataWait | Self::Communication | Self::Checkpoint | Self::Evaluation)
    }
}

/// Time by part, in the order of [`Part::ALL`].
type ByPart = [Duration; Part::ALL.len()];
/// The same in seconds.
type Seconds = [f64; Part::ALL.len()];

/// The clock of one rank's steps; copies show the same.
#[derive(Clone, Debug)]
pub struct Parts(Rc<Clock>);

#[derive(Debug)]
struct Clock {
    device: Device,
    activity: Arc<Activity>,
    tally: RefCell<Tally>,
}

#[derive(Debug)]
struct Tally {
    /// What has not been given to a part yet began then, when so much time had been spent in calls to other ranks.
    since: (Instant, Duration),
    /// What was entered and not left.
    entered: Vec<Part>,
    /// Whether the device is waited for at borders.
    tells_apart: bool,
    /// Of all steps.
    all: ByPart,
    /// Of the steps whose parts were told apart.
    apart: ByPart,
    steps: u64,
}

impl Default for Parts {
    /// Of a rank on a processor, whose calls to others are not noted.
    fn default() -> Self {
        Self::new(Device::Cpu, Arc::default())
    }
}

impl Parts {
    /// Of a rank that computes on `device` and notes its calls to other ranks in `activity`.
    pub fn new(device: Device, activity: Arc<Activity>) -> Self {
        let tally = Tally {
            since: (Instant::now(), activity.calls.standing().waited),
            entered: Vec::new(),
            tells_apart: device == Device::Cpu,
            all: ByPart::default(),
            apart: ByPart::default(),
            steps: 0,
        };
        Self(Rc::new(Clock { device, activity, tally: RefCell::new(tally) }))
    }

    /// Begins the first step of a stage: what was before belongs to no step.
    pub fn begin(&self) {
        self.mark();
        let mut tally = self.0.tally.borrow_mut();
        (tally.all, tally.apart, tally.steps) = Default::default();
    }

    /// Whether the device's parts are told apart from here on, by waiting for it. A processor's always are.
    pub fn tell_apart(&self, tells: bool) {
        let tells = tells || self.0.device == Device::Cpu;
        if self.0.tally.borrow().tells_apart == tells {
            return;
        }
        // What the device was given before belongs to what was before.
        if tells {
            wait_for(self.0.device);
        }
        self.mark();
        self.0.tally.borrow_mut().tells_apart = tells;
    }

    /// Whether the device's parts are told apart now.
    pub fn tells_apart(&self) -> bool {
        self.0.tally.borrow().tells_apart
    }

    /// Time from here on belongs to this part, until the result is dropped.
    pub fn enter(&self, part: Part) -> Running {
        self.mark();
        self.0.tally.borrow_mut().entered.push(part);
        Running(self.clone())
    }

    /// A step is done.
    pub fn step_done(&self) {
        self.0.tally.borrow_mut().steps += 1;
    }

    /// The time of the steps since this was asked last, or since [`Parts::begin`].
    pub fn take(&self) -> Times {
        self.mark();
        let mut tally = self.0.tally.borrow_mut();
        let [all, apart] = [&tally.all, &tally.apart].map(|times| times.map(|time| time.as_secs_f64()));
        let steps = tally.steps.max(1);
        (tally.all, tally.apart, tally.steps) = Default::default();
        Times { steps, seconds: shared_out(&all, &apart).map(|seconds| seconds / steps as f64) }
    }

    /// Gives the time since the last mark to the part that runs.
    fn mark(&self) {
        let Clock { device, activity, tally } = &*self.0;
        let tally = &mut *tally.borrow_mut();
        if tally.tells_apart {
            wait_for(*device);
        }
        let now = (Instant::now(), activity.calls.standing().waited);
        let (began, waited_before) = std::mem::replace(&mut tally.since, now);
        let whole = now.0 - began;
        let running = tally.entered.last().copied().unwrap_or(Part::Other);
        let called = match running {
            Part::Evaluation => Duration::ZERO,
            _ => now.1.saturating_sub(waited_before).min(whole),
        };
        for (part, time) in [(running, whole - called), (Part::Communication, called)] {
            tally.all[part as usize] += time;
            if tally.tells_apart {
                tally.apart[part as usize] += time;
            }
        }
    }
}

/// Seconds of all steps: what the device did, shared out as in the steps in which that was told apart.
fn shared_out(all: &Seconds, apart: &Seconds) -> Seconds {
    let of_device = |times: &Seconds| -> f64 {
        Part::ALL.iter().zip(times).filter(|(part, _)| !part.is_seen_by_host()).map(|(_, time)| time).sum()
    };
    let (whole, told_apart) = (of_device(all), of_device(apart));
    let mut times = *all;
    if told_apart > 0.0 {
        for (place, part) in Part::ALL.iter().enumerate().filter(|(_, part)| !part.is_seen_by_host()) {
            times[place] = whole * (apart[*part as usize] / told_apart);
        }
    }
    times
}

/// A part that runs until this is dropped.
#[derive(Debug)]
#[must_use = "the part ends when this is dropped"]
pub struct Running(Parts);

impl Drop for Running {
    fn drop(&mut self) {
        self.0.mark();
        self.0.0.tally.borrow_mut().entered.pop();
    }
}

/// Mean seconds of a step by part.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Times {
    steps: u64,
    seconds: Seconds,
}

impl Times {
    /// Seconds of one part.
    pub fn of(&self, part: Part) -> f64 {
        self.seconds[part as usize]
    }

    /// The steps that it is the mean of.
    pub fn steps(&self) -> u64 {
        self.steps
    }

    /// Seconds of all parts: the wall time of a step.
    pub fn step(&self) -> f64 {
        self.seconds.iter().sum()
    }

    /// Seconds of a step without the evaluations between steps.
    pub fn training(&self) -> f64 {
        self.step() - self.of(Part::Evaluation)
    }

    /// Seconds by part, in the order of [`Part::ALL`].
    pub fn seconds(&self) -> [f64; Part::ALL.len()] {
        self.seconds
    }

    /// Names and values for metrics: `time/step`, and `time/` with the name of each part.
    pub fn metrics(&self) -> Vec<(String, f64)> {
        let parts = Part::ALL.iter().map(|part| (format!("time/{}", part.name()), self.of(*part)));
        std::iter::once(("time/step".to_owned(), self.step())).chain(parts).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::thread::sleep;

    use cluster::{Collective, Observed, Threads};

    use super::*;

    const TICK: Duration = Duration::from_millis(20);

    #[test]
    fn parts_add_up_to_the_wall_time_and_the_innermost_one_runs() {
        let parts = Parts::default();
        sleep(TICK);
        let outer = Instant::now();
        parts.begin();
        let inner = Instant::now();
        for _ in 0..2 {
            sleep(TICK);
            let _qformer = parts.enter(Part::QFormer);
            sleep(TICK);
            {
                let _language_model = parts.enter(Part::LanguageModel);
                sleep(2 * TICK);
            }
            sleep(TICK);
            parts.step_done();
        }
        let least = inner.elapsed().as_secs_f64() / 2.0;
        let times = parts.take();
        let most = outer.elapsed().as_secs_f64() / 2.0;
        assert!(times.step() >= least - 1e-6 && times.step() <= most + 1e-6, "{times:?}: {least} to {most}");
        let tick = TICK.as_secs_f64();
        for (part, ticks) in [(Part::Other, 1.0), (Part::QFormer, 2.0), (Part::LanguageModel, 2.0)] {
            assert!(times.of(part) >= ticks * tick, "{part:?}: {times:?}");
        }
        for part in [Part::DataWait, Part::ImageEncoder, Part::Communication, Part::Optimizer, Part::Evaluation] {
            assert!(times.of(part) == 0.0, "{part:?}: {times:?}");
        }
        // What was taken is gone, and the part that was left does not run on.
        sleep(TICK);
        parts.step_done();
        let times = parts.take();
        assert!(times.of(Part::Other) >= tick && times.of(Part::QFormer) == 0.0, "{times:?}");
    }

    #[test]
    fn time_before_a_stage_belongs_to_no_step() {
        let parts = Parts::default();
        let _evaluation = parts.enter(Part::Evaluation);
        sleep(TICK);
        parts.begin();
        assert!(parts.take().step() < TICK.as_secs_f64());
    }

    #[test]
    fn calls_to_other_ranks_are_taken_out_of_the_part_that_makes_them() {
        let one = |ranks: Threads, part: Part| {
            move || {
                let activity = Arc::new(Activity::default());
                let observed = Observed::new(&ranks, &activity.calls);
                let parts = Parts::new(Device::Cpu, Arc::clone(&activity));
                if ranks.rank() == 1 {
                    sleep(5 * TICK);
                }
                parts.begin();
                let began = Instant::now();
                {
                    let _part = parts.enter(part);
                    sleep(TICK);
                    observed.barrier().unwrap();
                }
                parts.step_done();
                let (times, wall) = (parts.take(), began.elapsed().as_secs_f64());
                ranks.finish().unwrap();
                (times, wall)
            }
        };
        let of_rank_0 = |part: Part| {
            std::thread::scope(|scope| {
                let ranks: Vec<_> = Threads::world(2).into_iter().map(|ranks| scope.spawn(one(ranks, part))).collect();
                ranks.into_iter().map(|rank| rank.join().unwrap()).collect::<Vec<_>>()[0]
            })
        };
        let (times, wall) = of_rank_0(Part::QFormer);
        let tick = TICK.as_secs_f64();
        // Rank 0 waits for the other one, which begins five ticks later; a tick of play for the start of threads.
        assert!(times.of(Part::Communication) >= 4.0 * tick, "{times:?}");
        assert!(times.of(Part::QFormer) >= tick && times.of(Part::QFormer) <= wall - 4.0 * tick, "{times:?}");
        assert!(times.step() <= wall + 1e-6, "{times:?} of {wall}");
        // An evaluation keeps its calls, so that the speed of training is that of training.
        let (times, _) = of_rank_0(Part::Evaluation);
        assert!(times.of(Part::Evaluation) >= 5.0 * tick && times.training() < tick, "{times:?}");
    }

    #[test]
    fn what_a_device_did_unseen_is_shared_out_as_in_the_steps_that_were_told_apart() {
        let (mut all, mut apart) = ([0.0; Part::ALL.len()], [0.0; Part::ALL.len()]);
        for (part, of_all, of_apart) in [
            (Part::DataWait, 2.0, 0.5),
            (Part::Evaluation, 3.0, 0.0),
            (Part::ImageEncoder, 0.5, 1.0),
            (Part::QFormer, 0.5, 2.0),
            (Part::Optimizer, 19.0, 1.0),
        ] {
            (all[part as usize], apart[part as usize]) = (of_all, of_apart);
        }
        let times = Times { steps: 1, seconds: shared_out(&all, &apart) };
        assert_eq!((times.of(Part::DataWait), times.of(Part::Evaluation)), (2.0, 3.0));
        assert_eq!([Part::ImageEncoder, Part::QFormer, Part::Optimizer].map(|part| times.of(part)), [5.0, 10.0, 5.0]);
        assert_eq!((times.step(), times.training()), (25.0, 22.0));
        // A processor's parts are told apart in all steps; without any, nothing is made up.
        for apart in [all, [0.0; Part::ALL.len()]] {
            let same = shared_out(&all, &apart);
            assert!(same.iter().zip(&all).all(|(a, b)| (a - b).abs() < 1e-12), "{same:?}");
        }
    }

    #[test]
    fn a_part_costs_less_than_two_microseconds() {
        // Some tens of parts in a step: 0.1 ms at most, 0.5 % of a step of 20 ms. The best of some rounds, as tests share a machine.
        let parts = Parts::default();
        let round = || {
            let began = Instant::now();
            for _ in 0..1000 {
                let _part = parts.enter(Part::QFormer);
            }
            began.elapsed() / 1000
        };
        let cost = (0..20).map(|_| round()).min().unwrap();
        assert!(cost < Duration::from_micros(2), "{cost:?}");
    }

    #[test]
    fn every_part_has_a_name_of_its_own_in_metrics() {
        let metrics = Times { steps: 3, seconds: [1.0; Part::ALL.len()] }.metrics();
        let names: std::collections::BTreeSet<&str> = metrics.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!((names.len(), metrics.len()), (10, 10));
        assert_eq!(metrics[0], ("time/step".to_owned(), 9.0));
        assert!(Part::ALL.iter().enumerate().all(|(place, part)| *part as usize == place));
    }
}
