//! `blip2 bench step`: starts the ranks that take the steps, and hands their answer on.

use std::process::Stdio;

use anyhow::{Context, ensure};

use crate::cli::BenchStepArgs;
use crate::ranks::{Plan, Programs};

/// Runs the benchmark; its answer, one JSON object, goes to standard output.
///
/// # Errors
/// Programs that are not found, or ranks that fail.
pub fn run(args: &BenchStepArgs, programs: &Programs) -> anyhow::Result<()> {
    let mut arguments = vec!["bench-step".to_owned(), "--threads".to_owned(), args.threads.to_string()];
    arguments.extend(args.options.iter().cloned());
    let plan = Plan::local(programs, args.ranks as usize, args.threads as usize, arguments)?;
    let status = plan.command().stdin(Stdio::null()).status().with_context(|| format!("cannot start {plan}"))?;
    ensure!(status.success(), "{plan}\nended with {status}");
    Ok(())
}
