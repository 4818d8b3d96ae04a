//! `blip2 status --watch`: the same again and again until the run ends.

use std::io::{IsTerminal, Write};
use std::time::{Duration, Instant};

use serde_json::Value;

use super::judge::{State, Status};
use super::{UNTOUCHED, Watcher, text};
use crate::data::block_on;
use crate::exit::Interrupted;
use crate::ranks::Interrupts;
use crate::slurm_job::JobState;

/// How often Ctrl-C is looked for.
const TICK: Duration = Duration::from_millis(100);
/// Most ranks on a screen: those in trouble come first.
const MOST_RANKS: usize = 16;
/// A rank that has said nothing for so many seconds is in trouble.
const QUIET_S: f64 = 5.0;
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
            let left_out = status.ranks.len().saturating_sub(MOST_RANKS);
            let shown = Status { ranks: first_in_trouble(&status.ranks), ..status.clone() };
            write!(out, "{REDRAW}{}", text::text(&shown))?;
            if left_out > 0 {
                writeln!(out, "  and {left_out} ranks more: blip2 status {}", status.output)?;
            }
            if !is_over(status) {
                write!(out, "\nevery {} s; Ctrl-C ends this view, not the run", every.as_secs())?;
            }
        }
    }
    writeln!(out)?;
    Ok(out.flush()?)
}

/// As many ranks as a screen has room for, those that failed, are slow or quiet before the others.
fn first_in_trouble(ranks: &[Value]) -> Vec<Value> {
    let is_well = |rank: &Value| {
        let is_quiet = rank["quiet_s"].as_f64().is_some_and(|quiet| quiet > QUIET_S);
        rank["failed"].is_null() && rank["slow_factor"].is_null() && !is_quiet
    };
    let mut sorted: Vec<&Value> = ranks.iter().collect();
    sorted.sort_by_key(|rank| is_well(rank));
    sorted.into_iter().take(MOST_RANKS).cloned().collect()
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
    fn ranks_in_trouble_stay_on_the_screen() {
        let rank = |rank: u64, quiet: f64| serde_json::json!({ "rank": rank, "quiet_s": quiet, "failed": null });
        let mut ranks: Vec<Value> = (0..100).map(|number| rank(number, 0.5)).collect();
        (ranks[70], ranks[50]["failed"]) = (rank(70, 9.0), "the disk is full".into());
        let shown: Vec<u64> = first_in_trouble(&ranks).iter().filter_map(|rank| rank["rank"].as_u64()).collect();
        assert_eq!(shown, [50, 70].into_iter().chain(0..14).collect::<Vec<u64>>());
    }

    #[test]
    fn a_watch_has_a_time_of_its_own() {
        use clap::Parser;
        let watch = |more: &[&str]| {
            let words = ["blip2", "status", "runs/a"].into_iter().chain(more.iter().copied());
            match crate::cli::Cli::try_parse_from(words).unwrap().command {
                crate::cli::Command::Status(args) => (args.watch, args.json),
                _ => unreachable!("status was asked for"),
            }
        };
        assert_eq!(watch(&[]), (None, false));
        assert_eq!(watch(&["--watch"]), (Some(2), false));
        assert_eq!(watch(&["--watch", "--json"]), (Some(2), true));
        assert_eq!(watch(&["--json", "--watch", "30"]), (Some(30), true));
        assert!(crate::cli::Cli::try_parse_from(["blip2", "status", "runs/a", "--watch", "0"]).is_err());
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
