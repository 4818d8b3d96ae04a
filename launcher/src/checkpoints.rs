//! `blip2 checkpoints`: one rank that looks after the checkpoints of a run.

use anyhow::bail;

use crate::cli::{
    BenchCheckpointArgs, CheckpointArgs, CheckpointsCommand, PruneArgs, VerifyCheckpointsArgs, WeightsCommand,
};
use crate::eval::{answer, one_rank};
use crate::ranks::{Interrupts, Programs};
use crate::weights;

/// `blip2 checkpoints list | show | verify | prune | export`.
///
/// # Errors
/// A rank that fails, damage that `verify` found, or an interruption.
pub fn run(command: CheckpointsCommand, programs: &Programs) -> anyhow::Result<()> {
    let (words, json) = match command {
        CheckpointsCommand::List(CheckpointArgs { uri, json }) => (vec!["list".to_owned(), uri], json),
        CheckpointsCommand::Show(CheckpointArgs { uri, json }) => (vec!["show".to_owned(), uri], json),
        CheckpointsCommand::Verify(VerifyCheckpointsArgs { uri, all, json }) => {
            let all = all.then(|| "--all".to_owned());
            (["verify".to_owned(), uri].into_iter().chain(all).collect(), json)
        }
        CheckpointsCommand::Prune(args) => (prune(&args), args.json),
        CheckpointsCommand::Export(args) => return weights::run(&WeightsCommand::Export(args), programs),
    };
    let words = [vec!["checkpoints".to_owned()], words].concat();
    let (result, _) = one_rank(words, programs, &Interrupts::watch()?)?;
    answer(&result, json)?;
    if result["ok"] == false {
        bail!(
            "a checkpoint is damaged; every file is named above. A launch passes it over and goes on from the one before"
        );
    }
    Ok(())
}

/// `blip2 bench checkpoint`.
///
/// # Errors
/// A rank that fails, or an interruption.
pub fn bench(args: &BenchCheckpointArgs, programs: &Programs) -> anyhow::Result<()> {
    let BenchCheckpointArgs { uri, preset, rounds, json } = args;
    let words = ["bench-checkpoint", uri, "--preset", preset, "--rounds", &rounds.to_string()].map(str::to_owned);
    let (result, _) = one_rank(words.to_vec(), programs, &Interrupts::watch()?)?;
    answer(&result, *json)
}

fn prune(args: &PruneArgs) -> Vec<String> {
    let PruneArgs { uri, keep_last, keep_every_steps, keep_best, quarantined, dry_run, json: _ } = args;
    let mut words = vec!["prune".to_owned(), uri.clone()];
    for (name, value) in [("last", keep_last), ("every-steps", keep_every_steps), ("best", keep_best)] {
        words.extend(value.iter().flat_map(|value| [format!("--keep-{name}"), value.to_string()]));
    }
    for (name, set) in [("--quarantined", quarantined), ("--dry-run", dry_run)] {
        words.extend(set.then(|| name.to_owned()));
    }
    words
}
