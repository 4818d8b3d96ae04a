//! `blip2 launch`: start or resume a run, on this host, on several, or in a SLURM allocation.

use anyhow::Context;
use configs::{Backend, Run};

use crate::cli::LaunchArgs;
use crate::dashboard::Dashboard;
use crate::ranks::{self, Ask, HostPolicy, Interrupts, Plan, Programs, Wanted};
use crate::source::{RunSource, local_folder};
use crate::{corpus, exit, outcome, relaunch};

/// What stays after a failure or an interruption.
pub const NEXT: &str = "committed checkpoints stay; the same command continues from the last one";

/// Starts or resumes a run, or prints what would be started.
///
/// # Errors
/// A wrong configuration, a run that another launcher holds, ranks that failed, an interruption.
#[expect(clippy::print_stdout, clippy::print_stderr, reason = "the command's answer, and how it came to it")]
pub fn run(args: &LaunchArgs, programs: &Programs) -> anyhow::Result<()> {
    let source = RunSource::find(&args.run);
    let run = source.load(&args.set)?;
    let planner = |hosts: &HostPolicy| plan(&source, &run, args, programs, hosts);
    let first = planner(&HostPolicy::new(&run.cluster.restarts))?;
    if args.dry_run {
        return print_plan(&run, &first);
    }
    for note in &first.notes {
        eprintln!("{note}");
    }
    ranks::check(&first, programs)?;
    let dashboard = args.dashboard.map(|port| Dashboard::of_launch(&run, port, programs)).transpose()?;
    if let Some(dashboard) = &dashboard {
        eprintln!("{}", dashboard.invitation());
    }
    let interrupts = Interrupts::watch_leaving(&run.cluster.preempt_signals)?;
    let ended = relaunch::start(&run, &planner, &interrupts, args.log);
    note_outcome(&run, ended.as_ref().err());
    drop(dashboard);
    ended?;
    let output = run.run.output.as_str();
    println!("{}: done, in {output}; see it with: blip2 report {output}", run.run.name);
    Ok(())
}

/// For `blip2 status`. A launch that was refused because another holds the run says nothing of the run.
fn note_outcome(run: &Run, error: Option<&anyhow::Error>) {
    let code = error.map_or(exit::DONE, exit::code_of);
    if let Some(output) = local_folder(run.run.output.as_str()).filter(|_| code != exit::HELD) {
        let message = error.map_or_else(String::new, |error| format!("{error:#}"));
        outcome::Outcome::now(code, &message).note(&output);
    }
}

/// What starts the run's ranks, on those hosts that have not failed too often.
///
/// # Errors
/// Hosts, nodes and ranks that do not fit together, or programs that are not found.
pub fn plan(
    source: &RunSource,
    run: &Run,
    args: &LaunchArgs,
    programs: &Programs,
    hosts: &HostPolicy,
) -> anyhow::Result<Plan> {
    let wanted = Wanted { hosts: args.hosts.clone(), hostfile: args.hostfile.clone(), starter: args.launcher };
    let place = wanted.place(programs, run.cluster.ranks_per_node)?.without_bad_hosts(hosts, run, programs);
    let (ranks, per_node) = place.ranks(run, args.ranks.map(|ranks| ranks as usize))?;
    let mut arguments = vec!["train".to_owned(), source.argument()];
    for set in &args.set {
        arguments.extend(["--set".to_owned(), set.clone()]);
    }
    if args.fresh {
        arguments.push("--fresh".to_owned());
    }
    for key in &args.accept_changes {
        arguments.extend(["--accept-change".to_owned(), key.clone()]);
    }
    arguments.extend(["--progress", "json", "--exit-on-stdin-eof"].map(str::to_owned));
    let ask = Ask {
        ranks,
        per_node,
        threads: run.cluster.threads_per_rank,
        gpus: run.cluster.backend == Backend::Nccl,
        container: run.cluster.slurm.container(),
        work: std::env::current_dir().context("cannot find the working folder")?,
        arguments,
    };
    let mut plan = Plan::at(&place, programs, &ask)?;
    if let Some(output) = local_folder(run.run.output.as_str()) {
        plan.note_pids_in(&std::path::absolute(output.join("launch"))?);
    }
    Ok(plan)
}

#[expect(clippy::print_stdout, reason = "the command's answer")]
fn print_plan(run: &Run, plan: &Plan) -> anyhow::Result<()> {
    for source in corpus::missing(run)? {
        println!("# first writes {} scenes to {}", source.scenes, source.uri);
    }
    for note in &plan.notes {
        println!("# {note}");
    }
    for (name, value) in &plan.variables {
        println!("export {name}={}", crate::ranks::quoted(value));
    }
    println!("{plan}");
    Ok(())
}
