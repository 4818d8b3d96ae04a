//! `blip2`, the one command people type.

use std::env;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context;
use clap::Parser;
use launcher::cli::{BenchCommand, Cli, Command, ConfigCommand, DataCommand, VerifyCommand};
use launcher::ranks::Programs;
use launcher::{
    bench_step, checkpoints, config, dashboard, data, demo, doctor, eval, exit, launch, plan, report, status, submit,
    verify, weights,
};

fn main() -> ExitCode {
    let cli = Cli::parse();
    let result = run(cli.command);
    match result {
        Ok(()) => ExitCode::from(exit::DONE),
        Err(error) => {
            report(&error);
            ExitCode::from(exit::code_of(&error))
        }
    }
}

fn run(command: Command) -> anyhow::Result<()> {
    match command {
        Command::Demo(args) => demo::run(&args, &programs()?),
        Command::Doctor(args) => doctor::run(&args, programs()?),
        Command::Launch(args) => launch::run(&args, &programs()?),
        Command::Submit(args) => submit::run(&args, &programs()?),
        Command::Plan(args) => plan::run(&args, &programs()?),
        Command::Status(args) => status::run(&args, &programs()?),
        Command::Dashboard(args) => dashboard::run(&args, &programs()?),
        Command::Eval(command) => eval::run(&command, programs),
        Command::Report(args) => report::run(&args),
        Command::Caption(args) => eval::caption(&args, &programs()?),
        Command::Checkpoints(command) => checkpoints::run(command, &programs()?),
        Command::Weights(command) => weights::run(&command, &programs()?),
        Command::Config(ConfigCommand::Check(args)) => config::check(&args),
        Command::Config(ConfigCommand::Show(args)) => config::show(&args),
        Command::Data(DataCommand::Synth(args)) => data::synth::run(&args),
        Command::Data(DataCommand::Index(args)) => data::index::run(&args),
        Command::Data(DataCommand::Inspect(args)) => data::inspect::run(&args),
        Command::Data(DataCommand::Fetch(args)) => data::fetch::run(&args),
        Command::Data(DataCommand::Caption(args)) => data::capfilt::caption(&args, &programs()?),
        Command::Data(DataCommand::Filter(args)) => data::capfilt::filter(&args, &programs()?),
        Command::Verify(VerifyCommand::Exactness(args)) => verify::exactness(&args, &programs()?),
        Command::Bench(BenchCommand::Data(args)) => data::bench::run(&args),
        Command::Bench(BenchCommand::Step(args)) => bench_step::run(&args, &programs()?),
        Command::Bench(BenchCommand::Checkpoint(args)) => checkpoints::bench(&args, &programs()?),
    }
}

/// Where the programs are that commands start. Only here is the environment read.
fn programs() -> anyhow::Result<Programs> {
    let named = |variable: &str| env::var_os(variable).filter(|path| !path.is_empty()).map(PathBuf::from);
    Ok(Programs {
        executable: env::current_exe().context("cannot find the path of this program")?,
        rank: named("BLIP2_RANK"),
        mpirun: named("BLIP2_MPIRUN"),
        path: env::var_os("PATH"),
        variables: env::vars_os()
            .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
            .collect(),
        ..Programs::default()
    })
}

/// Prints the chain of causes once.
#[expect(clippy::print_stderr, reason = "main prints errors")]
fn report(error: &anyhow::Error) {
    // Many library errors repeat their source in their own text; a cause that was already said is left out.
    let mut said = error.to_string();
    for cause in error.chain().skip(1) {
        let text = cause.to_string();
        if !said.contains(&text) {
            said = format!("{said}: {text}");
        }
    }
    eprintln!("blip2: {said}");
}
