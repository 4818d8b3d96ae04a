//! `blip2 status --watch`: the same again and again until the run ends.

use std::io::{IsTerminal, Write};
use std::time::{Duration, Instant};

use super::judge::{State, Status};
use super::{UNTOUCHED, Watcher, text};
use crate::data::block_on;
use crate::exit::Interrupted;
use crate::ranks::Interrupts;
use crate::slurm_job::JobState;

/// How often Ctrl-C is looked for.
const TICK: Duration = Duration::from_millis(100);
/// Home, and nothing below: a terminal is drawn again.
const REDRAW: &str = "\x1b[H\x1b[J";

/// How it is shown.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Form {
    /// A screen that is drawn again each time.
    Screen,
    /// A line for each change.
    Lines,
    /// A JSON object for each change, on a line of its own.
    Json,
}

/// Shows a run until it ends.
///
/// # Errors
/// A store that fails at the first look (later ones are told, and tried again), a folder in which nothing of a run is,
/// [`Interrupted`], standard output that is closed.
pub(super) fn run(watcher: &mut Watcher, every: Duration, json: bool) -> anyhow::Result<()> {
    let interrupts = Interrupts::watch()?;
    let form = match (json, std::io::stdout().is_terminal()) {
        (true, _) => Form::Json,
        (false, true) => Form::Screen,
        (false, false) => Form::Lines,
    };
    let mut status = block_on(watcher.look(), UNTOUCHED)?.of_a_run()?.status;
    let mut shown = None;
    loop {
        if form == Form::Screen || shown.as_ref() != Some(&key(&status)) {
            show(&status, form, every)?;
            shown = Some(key(&status));
        }
        if is_over(&status) {
            return Ok(());
        }
        wait(every, &interrupts)?;
        match block_on(watcher.look(), UNTOUCHED) {
            Ok(seen) => status = seen.status,
            Err(error) if error.is::<Interrupted>() => return Err(error),
            Err(error) => warn(&error),
        }
    }
}

/// Whether nothing follows any more: a job that was preempted and waits goes on by itself.
fn is_over(status: &Status) -> bool {
    let waits = status.job.as_ref().is_some_and(JobState::waits);
    matches!(status.state, State::Done | State::Failed) || (status.state == State::Preempted && !waits)
}

/// What counts as a change. Ages and the ranks' last words change at every look.
fn key(status: &Status) -> impl PartialEq + use<> {
    (
        (status.state, status.stalled.is_some(), status.failure.clone(), status.launches),
        (status.stage.clone(), status.step),
        status.last_checkpoint.as_ref().map(|last| last.uri.clone()),
        status.job.as_ref().map(|job| (job.state.clone(), job.restarts)),
    )
}

fn show(status: &Status, form: Form, every: Duration) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    match form {
        Form::Json => serde_json::to_writer(&mut out, status)?,
        Form::Lines => write!(out, "{}", text::line(status))?,
        Form::Screen => {
            write!(out, "{REDRAW}{}", text::text(status))?;
            if !is_over(status) {
                write!(out, "\nevery {} s; Ctrl-C ends this view, not the run", every.as_secs())?;
            }
        }
    }
    writeln!(out)?;
    Ok(out.flush()?)
}

fn wait(time: Duration, interrupts: &Interrupts) -> anyhow::Result<()> {
    let until = Instant::now() + time;
    while Instant::now() < until {
        if interrupts.count() > 0 {
            return Err(Interrupted(UNTOUCHED).into());
        }
        std::thread::sleep(TICK);
    }
    Ok(())
}

#[expect(clippy::print_stderr, reason = "a store that fails for a while is told, and the run is watched on")]
fn warn(error: &anyhow::Error) {
    eprintln!("warning: {error}; tried again");
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::status::{Commit, Found, Outside, status};

    fn at(step: u64, outside: &Outside) -> Status {
        let commit = Commit {
            launch: 1,
            stage_index: 1,
            stage: "representation".into(),
            step,
            folder: "a".into(),
            uri: format!("runs/a/{step}"),
            time: 1.0,
        };
        status(&Found { launches: 1, commits: vec![commit], ..Found::default() }, outside, "runs/a")
    }

    #[test]
    fn ages_are_no_change_and_steps_are() {
        let alive = |now| Outside { launcher_alive: true, now, job: None };
        assert!(key(&at(3, &alive(5.0))) == key(&at(3, &alive(9.0))));
        assert!(key(&at(3, &alive(5.0))) != key(&at(4, &alive(5.0))));
        assert!(key(&at(3, &alive(5.0))) != key(&at(3, &Outside::default())));
    }

    #[test]
    fn a_job_that_waits_for_its_next_start_is_watched_on() {
        let job = |state: &str| {
            Some(JobState { job: "7".into(), state: Some(state.into()), reason: None, nodes: None, restarts: Some(1) })
        };
        let with = |state: &str| at(3, &Outside { job: job(state), ..Outside::default() });
        assert_eq!(with("PENDING").state, State::Preempted);
        assert!(!is_over(&with("PENDING")) && !is_over(&with("RUNNING")) && is_over(&with("CANCELLED")));
    }
}
