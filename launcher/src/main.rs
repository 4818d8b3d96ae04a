//! `blip2`, the one command people type.

use std::process::ExitCode;

use clap::Parser;
use launcher::cli::{BenchCommand, Cli, Command, ConfigCommand, DataCommand};
use launcher::{config, data, exit};

fn main() -> ExitCode {
    let cli = Cli::parse();
    let result = match cli.command {
        Command::Config(ConfigCommand::Check(args)) => config::check(&args),
        Command::Config(ConfigCommand::Show(args)) => config::show(&args),
        Command::Data(DataCommand::Synth(args)) => data::synth::run(&args),
        Command::Data(DataCommand::Inspect(args)) => data::inspect::run(&args),
        Command::Bench(BenchCommand::Data(args)) => data::bench::run(&args),
    };
    match result {
        Ok(()) => ExitCode::from(exit::DONE),
        Err(error) => {
            report(&error);
            ExitCode::from(exit::code_of(&error))
        }
    }
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
