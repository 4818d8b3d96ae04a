//! `blip2 weights`: one rank that reads, checks and writes weights.

use anyhow::bail;

use crate::cli::{ExportArgs, ImportArgs, InspectWeightsArgs, VerifyWeightsArgs, WeightsCommand};
use crate::eval::{answer, one_rank};
use crate::ranks::{Interrupts, Programs};
use crate::source::RunSource;

/// `blip2 weights inspect | verify | import | export`.
///
/// # Errors
/// A mistake in the config, weights that differ from it, a rank that fails, or an interruption.
pub fn run(command: &WeightsCommand, programs: &Programs) -> anyhow::Result<()> {
    let (words, json) = match command {
        WeightsCommand::Inspect(InspectWeightsArgs { weights, json }) => {
            (vec!["inspect".to_owned(), weights.clone()], *json)
        }
        WeightsCommand::Verify(VerifyWeightsArgs { weights, model, json }) => {
            (with_config(vec!["verify".to_owned(), weights.clone()], &model.config, &model.set)?, *json)
        }
        WeightsCommand::Import(ImportArgs { weights, model, output, json }) => {
            let words = vec!["import".to_owned(), weights.clone(), "--output".to_owned(), output.clone()];
            (with_config(words, &model.config, &model.set)?, *json)
        }
        WeightsCommand::Export(ExportArgs { weights, config, set, format, output, json }) => {
            let words = ["export", weights, "--output", output, "--format", format].map(str::to_owned).to_vec();
            let words = match config {
                Some(config) => with_config(words, config, set)?,
                None => words,
            };
            (words, *json)
        }
    };
    let words = [vec!["weights".to_owned()], words].concat();
    let (result, _) = one_rank(words, programs, &Interrupts::watch()?)?;
    answer(&result, json)?;
    if result["ok"] == false {
        bail!("the weights are not those of the config; every difference is listed above");
    }
    Ok(())
}

/// Checks the config here, where its mistakes are told best, and names it to the rank.
fn with_config(mut words: Vec<String>, config: &str, set: &[String]) -> anyhow::Result<Vec<String>> {
    let source = RunSource::find(config);
    source.load(set)?;
    words.extend(["--config".to_owned(), source.argument()]);
    words.extend(set.iter().flat_map(|text| ["--set".to_owned(), text.clone()]));
    Ok(words)
}
