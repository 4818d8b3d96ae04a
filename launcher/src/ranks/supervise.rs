//! From a plan to its end: start the ranks, show what they report, end them with their launcher, say why they failed.

use std::os::unix::process::CommandExt;
use std::process::{Child, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use anyhow::Context;
use rustix::process::Signal;
use serde_json::Value;

use super::control::{Control, Order};
use super::failure::{Culprit, RankFailure};
use super::guard::Guard;
use super::health::Verdict;
use super::hold::Hold;
use super::interrupts::Interrupts;
use super::lines::{self, Line};
use super::mpirun::Scratch;
use super::plan::Plan;
use super::process;
use super::watch::Watch;
use crate::exit::{Interrupted, Preempted};

/// How often signals and the end of the child are looked for.
const TICK: Duration = Duration::from_millis(100);
/// Time that ranks get to end by themselves after Ctrl-C.
const GRACE: Duration = Duration::from_secs(10);
/// Time that a job gets to end by itself after one of its ranks failed, and after the launcher told it to.
const FAILED: Duration = Duration::from_secs(3);
/// Time for the last lines to arrive after the child ended: a process that it left behind may hold the pipes open.
const LAST_LINES: Duration = Duration::from_secs(2);
/// Time for a rank to say what its threads do.
const THREADS: Duration = Duration::from_secs(1);

/// One start of ranks.
pub struct Job<'a> {
    /// What is started.
    pub plan: &'a Plan,
    /// Ctrl-C and other requests to end.
    pub interrupts: &'a Interrupts,
    /// The run that is held, if it is in a local folder.
    pub hold: Option<&'a Hold>,
    /// How the ranks are watched; only training ranks report.
    pub guard: Option<&'a Guard>,
    /// What a person does after a failure, and what an interruption leaves behind.
    pub next: &'static str,
}

/// What came of it.
#[derive(Debug, Default)]
pub struct Outcome {
    /// The answer of a command that has one.
    pub result: Option<Value>,
    /// The largest resident size that each process of this command had, summed, in bytes.
    pub peak_bytes: u64,
}

/// How the child ended.
enum End {
    ByItself(ExitStatus),
    Interrupted,
    Preempted,
    Blamed(Verdict),
}

impl Job<'_> {
    /// Runs the plan to its end.
    ///
    /// # Errors
    /// A program that cannot be started, [`RankFailure`], [`Preempted`] or [`Interrupted`].
    pub fn run(&self) -> anyhow::Result<Outcome> {
        if self.interrupts.count() > 0 {
            return Err(Interrupted(self.next).into());
        }
        let scratch =
            if self.plan.ranks > 1 { Some(Scratch::make().context("cannot make a temporary folder")?) } else { None };
        let (sender, lines) = channel();
        let reports = sender.clone();
        let listen = |guard: &Guard| Control::listen(guard.host, move |told| reports.send(Line::Told(told)).is_ok());
        let control = self.guard.map(listen).transpose()?;
        let mut child = self.start(scratch.as_ref(), control.as_ref())?;
        // Ranks watch their standard input: it ends with this process, however this process ends.
        let open_input = child.stdin.take();
        lines::read(&mut child, sender)?;
        let mut watch = Watch::new(self.plan.ranks, self.guard, control);
        let ended = self.follow(&mut child, &lines, &mut watch);
        watch.view.finish();
        watch.write_table();
        drop(open_input);
        watch.control = None;
        if !matches!(&ended, Ok(End::ByItself(status)) if status.success()) {
            // Ranks outlive an mpirun that was killed.
            if let Some(hold) = self.hold {
                hold.end_ranks(&self.plan.rank_program)?;
            }
        }
        self.conclude(ended?, watch)
    }

    fn conclude(&self, ended: End, mut watch: Watch<'_>) -> anyhow::Result<Outcome> {
        let (status, verdict) = match ended {
            End::ByItself(status) if status.success() => return Ok(watch.outcome),
            End::Interrupted => return Err(Interrupted(self.next).into()),
            End::Preempted => return Err(Preempted(self.next).into()),
            // Whatever kept them from leaving in order, they were asked to leave.
            _ if watch.was_asked || watch.beats.left_in_order() => return Err(Preempted(self.next).into()),
            End::ByItself(status) => (Some(status), watch.beats.first_failure()),
            End::Blamed(verdict) => (None, Some(verdict)),
        };
        if let (Some(verdict), Some(_)) = (&verdict, status) {
            watch.note(verdict);
        }
        let mut tail: Vec<String> = std::mem::take(&mut watch.tail).into();
        let first = verdict.as_ref().and_then(|verdict| watch.beats.ranks.get(*verdict.culprits.first()?));
        if let Some(state) = first.filter(|state| !state.lines.is_empty()) {
            tail = state.lines.iter().cloned().collect();
        }
        let culprit: Option<Culprit> = verdict.map(|verdict| watch.culprit(verdict));
        let (command, progressed) = (self.plan.to_string(), watch.progressed);
        Err(RankFailure { command, status, tail, next: self.next, culprit, progressed }.into())
    }

    fn start(&self, scratch: Option<&Scratch>, control: Option<&Control>) -> anyhow::Result<Child> {
        let mut plan = self.plan.clone();
        plan.variables.extend(control.iter().flat_map(|control| control.variables()));
        plan.variables.extend(self.guard.iter().flat_map(|guard| guard.variables()));
        let mut command = plan.command();
        if let Some(scratch) = scratch {
            command.env("TMPDIR", scratch.path());
        }
        // A group of its own: Ctrl-C reaches the launcher alone, which then ends the ranks in order.
        command.process_group(0).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let end_with_launcher = || {
            rustix::process::set_parent_process_death_signal(Some(Signal::TERM))?;
            Ok(())
        };
        // SAFETY: between fork and exec the closure makes one system call and touches no memory of the parent.
        unsafe { command.pre_exec(end_with_launcher) };
        command.spawn().with_context(|| format!("cannot start {}", self.plan.program.display()))
    }

    /// Shows what arrives until the child has ended.
    fn follow(&self, child: &mut Child, lines: &Receiver<Line>, watch: &mut Watch<'_>) -> anyhow::Result<End> {
        let mut next_look = Instant::now();
        loop {
            match lines.recv_timeout(TICK) {
                Ok(line) => watch.take(line),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => std::thread::sleep(TICK),
            }
            if Instant::now() < next_look {
                continue;
            }
            next_look = Instant::now() + TICK;
            watch.every_second();
            if self.interrupts.count() > 0 {
                watch.view.finish();
                watch.view.line("ending the ranks …");
                self.end(child, lines, watch, GRACE)?;
                return Ok(End::Interrupted);
            }
            if let Some(status) = child.try_wait()? {
                let until = Instant::now() + LAST_LINES;
                while watch.streams_ended < 2 || watch.beats.any_connected() {
                    let Ok(line) = lines.recv_timeout(until.saturating_duration_since(Instant::now())) else { break };
                    watch.take(line);
                }
                return Ok(End::ByItself(status));
            }
            if let Some(guard) = self.guard
                && let Some(end) = self.look_after(guard, child, lines, watch)?
            {
                return Ok(end);
            }
        }
    }

    /// Ends a job that was asked to leave and has nothing to save, or that does not go on.
    fn look_after(
        &self,
        guard: &Guard,
        child: &mut Child,
        lines: &Receiver<Line>,
        watch: &mut Watch<'_>,
    ) -> anyhow::Result<Option<End>> {
        let was_asked = self.interrupts.leaves() > 0;
        if (was_asked && !watch.was_asked) || (watch.leaving.is_none() && watch.beats.any_leaving()) {
            watch.leave(was_asked);
        }
        if let Some(since) = watch.leaving {
            let idle = !watch.beats.any_connected() || watch.beats.nothing_to_save();
            if since.elapsed() > guard.leave_within || (idle && watch.beats.code().is_none()) {
                self.end(child, lines, watch, FAILED)?;
                return Ok(Some(End::Preempted));
            }
        }
        let failed = || watch.beats.first_failure().filter(|_| watch.beats.failed_since(FAILED));
        let Some(verdict) = watch.beats.verdict(&guard.limits).or_else(failed) else { return Ok(None) };
        for rank in &verdict.culprits {
            watch.tell(*rank, Order::Threads);
        }
        let until = Instant::now() + THREADS;
        let has_said =
            |watch: &Watch<'_>| verdict.culprits.iter().all(|rank| watch.beats.ranks[*rank].threads.is_some());
        while !has_said(watch)
            && let Ok(line) = lines.recv_timeout(until.saturating_duration_since(Instant::now()))
        {
            watch.take(line);
        }
        watch.note(&verdict);
        self.end(child, lines, watch, FAILED)?;
        Ok(Some(End::Blamed(verdict)))
    }

    /// Asks the ranks and the child to end, and ends the child by force after a while, or at once at a second Ctrl-C.
    fn end(
        &self,
        child: &mut Child,
        lines: &Receiver<Line>,
        watch: &mut Watch<'_>,
        grace: Duration,
    ) -> anyhow::Result<()> {
        watch.ending = true;
        if let Some(control) = &watch.control {
            control.tell_all(Order::End);
        }
        if self.guard.is_some() && grace == FAILED {
            // A rank that is stopped hears nothing, and its starter would wait for it.
            let local = watch.beats.processes_on(&process::host());
            let alive = local.values().filter(|(pid, ticks)| process::runs(*pid, *ticks));
            alive.for_each(|(pid, _)| process::signal(*pid, Signal::KILL));
        }
        process::signal(child.id(), Signal::TERM);
        let until = Instant::now() + grace;
        while child.try_wait()?.is_none() {
            if Instant::now() > until || self.interrupts.count() > 1 {
                process::signal_group(child.id(), Signal::KILL);
                child.wait()?;
                break;
            }
            if let Ok(line) = lines.recv_timeout(TICK) {
                watch.take(line);
            }
        }
        while let Ok(line) = lines.recv_timeout(TICK) {
            watch.take(line);
        }
        Ok(())
    }
}
