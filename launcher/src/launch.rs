//! `blip2 launch`: start or resume a run on this host.

use anyhow::bail;
use configs::Run;

use crate::cli::LaunchArgs;
use crate::corpus;
use crate::exit::Unusable;
use crate::ranks::{HostPolicy, Interrupts, Plan, Programs};
use crate::relaunch;
use crate::source::{RunSource, local_folder};

/// What stays after a failure or an interruption.
pub const NEXT: &str = "committed checkpoints stay; the same command continues from the last one";

/// Starts or resumes a run, or prints what would be started.
///
/// # Errors
/// A wrong configuration, a run that another launcher holds, ranks that failed, an interruption.
#[expect(clippy::print_stdout, reason = "the command's answer")]
pub fn run(args: &LaunchArgs, programs: &Programs) -> anyhow::Result<()> {
    let source = RunSource::find(&args.run);
    let run = source.load(&args.set)?;
    let planner = |_: &HostPolicy| plan(&source, &run, args, programs);
    if args.dry_run {
        return print_plan(&run, &plan(&source, &run, args, programs)?);
    }
    let interrupts = Interrupts::watch_leaving(&run.cluster.preempt_signals)?;
    relaunch::start(&run, &planner, &interrupts, args.log)?;
    let output = run.run.output.as_str();
    println!("{}: done, in {output}; see it with: blip2 report {output}", run.run.name);
    Ok(())
}

/// What starts the run's ranks.
///
/// # Errors
/// More machines than this one, or programs that are not found.
pub fn plan(source: &RunSource, run: &Run, args: &LaunchArgs, programs: &Programs) -> anyhow::Result<Plan> {
    if run.cluster.nodes > 1 && args.ranks.is_none() {
        bail!(Unusable(format!(
            "cluster.nodes is {}; expected 1, as this version starts ranks on this host alone. Set cluster.nodes=1, or \
             say how many ranks to start here with --ranks",
            run.cluster.nodes
        )));
    }
    let configured = run.world_size().min(run.max_world_size());
    let ranks = args.ranks.map_or(configured, |ranks| configured.min(ranks as usize));
    let mut arguments = vec!["train".to_owned(), source.argument()];
    for set in &args.set {
        arguments.extend(["--set".to_owned(), set.clone()]);
    }
    if args.fresh {
        arguments.push("--fresh".to_owned());
    }
    arguments.extend(["--progress", "json", "--exit-on-stdin-eof"].map(str::to_owned));
    let mut plan = Plan::local(programs, ranks, run.cluster.threads_per_rank, arguments)?;
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
    for (name, value) in &plan.variables {
        println!("export {name}={}", crate::ranks::quoted(value));
    }
    println!("{plan}");
    Ok(())
}
