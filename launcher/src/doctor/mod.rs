//! `blip2 doctor`: whether a run will work here, before it waits in a queue. Nothing of the run is touched.
//!
//! Checks run in waves: the machine and libraries, stores and disks, then data, weights and a checkpoint, then all
//! ranks together, then
//! a step. Those of a wave run side by side, each in its own time; what others build on and does not work is said once.

mod check;
mod context;
mod libraries;
mod machine;
mod samples;
mod slurm;
mod store;
mod table;

use std::io::Write;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::bail;
use serde_json::json;

use crate::cli::DoctorArgs;
use crate::data::print_json;
use crate::ranks::Programs;
use crate::source::RunSource;
use check::Task;
pub use check::{Check, State};
use context::Context;

/// The check of the rank's program, on which all that ranks look at builds.
const RANK_PROGRAM: &str = "rank_program";
/// What to do where it is not there or does not start.
const INSTALL: &str = "build it (`make build`) or unpack the whole package, name it in BLIP2_RANK, and see what \
                       `blip2-rank self-check` says";
/// What to do where several ranks do not come together.
const MPI_FIX: &str = "install Open MPI and build the MPI piece against it (`make build`), name the piece in \
     BLIP2_MPI_LIBRARY and \
                       its mpirun in BLIP2_MPIRUN; `blip2-rank self-check` says what is found";
/// The GPUs of this host, as what builds on them knows them.
const GPUS: &str = "gpus";
/// Why a login node is not asked for what only nodes have.
const LOGIN_NODE: &str = "jobs run elsewhere and this host has no GPU: look from inside an allocation with --slurm";
/// Time for everything. A check that would begin later is not begun.
const ALL: Duration = Duration::from_secs(115);
/// Time for a step.
const STEP: Duration = Duration::from_secs(50);
/// Seconds for a look at what the models take.
const SPACE_S: u64 = 20;

/// Looks, and prints what was found.
///
/// # Errors
/// A wrong configuration; checks that failed.
pub fn run(args: &DoctorArgs, programs: Programs) -> anyhow::Result<()> {
    let (began, source) = (Instant::now(), RunSource::find(&args.run));
    let run = match source.load(&args.set) {
        Ok(run) => run,
        Err(error) => {
            let fix = "mend what the message names; `blip2 config check` reads it again";
            let check = Check::failure("configuration", error.to_string(), "a configuration without mistakes", fix);
            print(args, &[check], began)?;
            return Err(error.into());
        }
    };
    let found = format!("{}: {} stages, {} ranks", run.run.name, run.stages.len(), run.world_size());
    let mut checks = vec![Check::ok("configuration", found, "a configuration without mistakes")];
    // Who started the node has said so.
    checks.truncate(usize::from(!args.node));
    let mut context = Context::new(run, source.argument(), args.set.clone(), programs);
    (context.samples, context.slurm, context.talks) = (args.samples.max(1), args.slurm, !args.node);
    let context = Arc::new(context);
    checks.extend(look(&context, args));
    print(args, &checks, began)?;
    match checks.iter().filter(|check| check.state == State::Failure).count() {
        // A node's failures are its answer.
        0 => Ok(()),
        _ if args.node => Ok(()),
        failures => bail!("{failures} of {} checks failed; each says above what to do", checks.len()),
    }
}

fn look(context: &Arc<Context>, args: &DoctorArgs) -> Vec<Check> {
    let wanted = |mut tasks: Vec<Task>| {
        tasks.retain(|task| args.only.is_empty() || args.only.iter().any(|group| group == task.group()));
        tasks
    };
    let until = Instant::now() + ALL;
    let wave = |tasks| check::run(context, until, wanted(tasks));
    if args.slurm && !args.node {
        // Whether the run fits the allocation is not for a node to say.
        let fits = Task::new("placement", 5, |context| machine::placement(context).into_iter().take(1).collect());
        let mut checks = wave(vec![fits]);
        checks.extend(slurm::nodes(context, args).into_iter().filter(|check| check.name != "placement"));
        let until = Instant::now() + ALL;
        checks.extend(check::run(context, until, wanted(of_run(context))));
        checks.extend(check::run(context, until, wanted(of_ranks())));
        return checks;
    }
    let mut checks = wave(of_machine());
    checks.extend(wave(of_stores(context)));
    if !args.node {
        checks.extend(wave(of_run(context)));
        checks.extend(wave(of_ranks()));
    }
    // What came before may have taken all the time; a step is worth its own.
    checks.extend(check::run(context, Instant::now() + STEP, wanted(of_step())));
    checks
}

/// What each machine has.
fn of_machine() -> Vec<Task> {
    vec![
        Task::new("placement", 5, machine::placement),
        Task::new("gpus", 10, machine::gpus),
        Task::new("limits", 5, machine::limits),
        Task::new("ports", 10, machine::ports),
        Task::new("pmix", 15, libraries::pmix),
        Task::new("libraries", 30, libraries::libraries),
    ]
}

/// Memory and disks; the output's store, and that of every source.
fn of_stores(context: &Context) -> Vec<Task> {
    let sources = context.run.data.sources.iter().enumerate();
    let sources = sources
        .map(|(number, source)| Task::new(store::of_source(source), 45, move |context| store::source(context, number)));
    let space = Task::new("space", 30, |context| {
        let mut checks = machine::space(context);
        checks.extend(context.ask_rank("memory.model", "space", SPACE_S));
        checks
    });
    [Task::new(store::OUTPUT, 45, store::output), space].into_iter().chain(sources).collect()
}

/// What is looked at once for a run: data, weights, tokenizers, a checkpoint.
fn of_run(context: &Context) -> Vec<Task> {
    let sources = context.run.data.sources.iter().enumerate();
    let samples = sources.map(|(number, source)| {
        Task::new(format!("samples.{}", source.name()), 45, move |context| samples::samples(context, number))
    });
    let of_rank = [
        Task::new("weights", 35, |context| context.ask_rank("weights", "weights", 25)),
        Task::new("tokenizers", 30, |context| context.ask_rank("tokenizers", "tokenizers", 20)),
        Task::new("checkpoint", 45, |context| match context.is_broken(store::OUTPUT) {
            true => vec![Check::skipped("checkpoint", "the output's store does not work, as said")],
            false => context.ask_rank("checkpoint", "checkpoint", 35),
        }),
    ];
    samples.chain(of_rank).collect()
}

/// All ranks together.
fn of_ranks() -> Vec<Task> {
    vec![Task::new("ranks", libraries::MEETING_S + 10, libraries::meeting)]
}

/// A step on this machine.
fn of_step() -> Vec<Task> {
    vec![Task::new("step", 50, |context| match () {
        () if context.is_login_node() => vec![Check::skipped("step", LOGIN_NODE)],
        () if context.is_broken(GPUS) => vec![Check::skipped("step", "there are too few GPUs, as said")],
        () => context.ask_rank("step", "step", 45),
    })]
}

#[expect(clippy::print_stdout, reason = "the command's answer")]
fn print(args: &DoctorArgs, checks: &[Check], began: Instant) -> anyhow::Result<()> {
    let seconds = began.elapsed().as_secs_f64();
    if args.node {
        // One line, in one piece: nodes print side by side.
        let line = format!("{}\n", json!({ "host": slurm::node_name(), "checks": checks }));
        std::io::stdout().write_all(line.as_bytes())?;
        return Ok(());
    }
    if !args.json {
        print!("{}", table::text(checks, seconds));
        return Ok(());
    }
    let ok = checks.iter().all(|check| check.state != State::Failure);
    print_json(&json!({ "schema_version": 1, "checks": checks, "ok": ok, "seconds": seconds }))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::cli::GROUPS;

    #[test]
    fn every_task_belongs_to_a_group_that_can_be_asked_for() {
        let context = Context::for_tests(&[]);
        let tasks = [of_machine(), of_stores(&context), of_run(&context), of_ranks(), of_step()].into_iter().flatten();
        let tasks: Vec<Task> = tasks.collect();
        let groups: BTreeSet<&str> = tasks.iter().map(Task::group).collect();
        assert_eq!(groups, BTreeSet::from(GROUPS));
    }
}
