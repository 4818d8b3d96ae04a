//! What a launcher has seen of one start of its ranks.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::beats::Beats;
use super::control::{Control, Order, Told};
use super::event::Event;
use super::failure::Culprit;
use super::faults;
use super::guard::Guard;
use super::health::Verdict;
use super::lines::Line;
use super::process;
use super::said::Said;
use super::supervise::Outcome;
use super::view::View;

/// Lines of standard error that are kept for the message of a failure.
const KEPT_LINES: usize = 50;
/// Time between two pings, and between two writes of the table of ranks.
const SECOND: Duration = Duration::from_secs(1);
/// A launcher that did not come to look for so long was stopped itself.
const ASLEEP: Duration = Duration::from_secs(5);

/// What was seen so far.
pub struct Watch<'a> {
    /// Shows it.
    pub view: View,
    /// The answer so far.
    pub outcome: Outcome,
    /// The last lines on standard error.
    pub tail: VecDeque<String>,
    /// Whether a checkpoint was committed.
    pub progressed: bool,
    /// Streams of the child that have ended.
    pub streams_ended: usize,
    /// The ranks.
    pub beats: Beats,
    /// The way to the ranks, where they have one.
    pub control: Option<Control>,
    /// Since when ranks are to leave.
    pub leaving: Option<Instant>,
    /// Whether the launcher itself was asked, and not a rank: starters of ranks ask them so when one has failed.
    pub was_asked: bool,
    /// Whether the launcher is ending the job, so that its starter's complaints are no news.
    pub ending: bool,
    guard: Option<&'a Guard>,
    named: bool,
    started: Instant,
    next_second: Instant,
    next_memory: Instant,
    last_look: Instant,
}

impl<'a> Watch<'a> {
    /// Of so many ranks that start now.
    pub fn new(ranks: usize, guard: Option<&'a Guard>, control: Option<Control>) -> Self {
        let log = guard.map(|guard| guard.log).unwrap_or_default();
        Self {
            view: View::new(log, ranks),
            outcome: Outcome::default(),
            tail: VecDeque::new(),
            progressed: false,
            streams_ended: 0,
            beats: Beats::new(ranks),
            control,
            leaving: None,
            was_asked: false,
            ending: false,
            guard,
            named: false,
            started: Instant::now(),
            next_second: Instant::now(),
            next_memory: Instant::now(),
            last_look: Instant::now(),
        }
    }

    /// Takes what arrived.
    pub fn take(&mut self, line: Line) {
        match line {
            Line::Output(text) => match Event::read(&text) {
                Some(Event::Result { result }) => {
                    self.view.finish();
                    self.outcome.result = Some(result);
                }
                Some(event) => {
                    self.progressed |= matches!(event, Event::Checkpoint { .. });
                    self.view.show(&event);
                }
                None => self.view.line(&text),
            },
            Line::Error(text) => {
                // What the starter of the ranks says of an end that has been explained is no news.
                if !(self.ending || self.named) {
                    self.view.line(&text);
                }
                if self.tail.len() == KEPT_LINES {
                    self.tail.pop_front();
                }
                self.tail.push_back(text);
            }
            Line::StreamEnd => self.streams_ended += 1,
            Line::Told(told) => self.take_told(told),
        }
    }

    fn take_told(&mut self, told: Told) {
        match &told {
            Told::Said(rank, Said::Lines { lines }) => {
                lines.iter().for_each(|line| self.view.rank_line(*rank, line));
            }
            // A rank that comes late has not heard.
            Told::Said(rank, Said::Hello(_)) if self.leaving.is_some() => self.tell(*rank, Order::Leave),
            _ => {}
        }
        self.beats.take(told);
        if !self.named
            && !self.ending
            && !self.was_asked
            && let Some(verdict) = self.beats.first_failure()
        {
            self.named = true;
            self.view.finish();
            self.view.failure(verdict.culprits.first().copied(), &verdict.line);
        }
    }

    /// What is due every second: ranks hear that their launcher is there, and the table is written.
    pub fn every_second(&mut self) {
        if self.last_look.elapsed() > ASLEEP {
            self.beats.forgive_silence();
        }
        self.last_look = Instant::now();
        if self.last_look < self.next_second {
            return;
        }
        self.next_second = self.last_look + SECOND;
        if self.last_look >= self.next_memory {
            self.outcome.peak_bytes = self.outcome.peak_bytes.max(process::peak_resident_of_family());
            // A look at every process of the machine takes milliseconds, and peaks only grow: rarer as time goes on.
            self.next_memory = self.last_look + (self.started.elapsed() / 4).clamp(SECOND, 20 * SECOND);
        }
        if let Some(control) = &self.control {
            control.tell_all(Order::Ping);
        }
        if let Some(line) = self.beats.straggler() {
            self.view.problem(&line);
        }
        self.write_table();
    }

    /// Writes the table of ranks, which appears whole.
    pub fn write_table(&self) {
        let Some(guard) = self.guard else { return };
        let (path, beside) = (guard.folder.join("ranks.json"), guard.folder.join("ranks.json.tmp"));
        // Of the table people miss one second.
        let _full =
            std::fs::write(&beside, self.beats.table().to_string()).and_then(|()| std::fs::rename(&beside, &path));
    }

    /// Has the ranks write a checkpoint and leave.
    pub fn leave(&mut self, was_asked: bool) {
        (self.leaving, self.was_asked) = (Some(Instant::now()), was_asked);
        self.view.line("asked to leave: the ranks write a checkpoint and end …");
        if let Some(control) = &self.control {
            control.tell_all(Order::Leave);
        }
    }

    /// Tells one rank.
    pub fn tell(&self, rank: usize, order: Order) {
        if let Some(control) = &self.control {
            control.tell(rank, order);
        }
    }

    /// Names the culprit, unless it was named, and keeps a record.
    pub fn note(&mut self, verdict: &Verdict) {
        if !self.named {
            self.named = true;
            self.view.finish();
            self.view.failure(verdict.culprits.first().copied(), &verdict.line);
        }
        let Some(guard) = self.guard else { return };
        match faults::save(&guard.folder.join("faults"), verdict, &self.beats, &process::host()) {
            Ok(folder) => self.view.line(&format!("what was seen of it is in {}", folder.display())),
            Err(error) => self.view.problem(&format!("warning: no record of the failure could be kept: {error}")),
        }
    }

    /// The culprit with what matters for another try.
    pub fn culprit(&self, verdict: Verdict) -> Culprit {
        let first = verdict.culprits.first().and_then(|rank| self.beats.ranks.get(*rank));
        let failed = first.and_then(|state| state.failed.as_ref());
        let place =
            first.and_then(|state| state.beat.as_ref()).map(|beat| (beat.stage.clone(), beat.step)).unwrap_or_default();
        Culprit {
            host: first.and_then(|state| Some(state.hello.as_ref()?.host.clone())),
            code: self.beats.code(),
            again: failed.is_none_or(|failed| failed.again),
            error: failed.map(|failed| format!("{} {}: {}", place.0, place.1, failed.message)),
            verdict,
        }
    }
}
