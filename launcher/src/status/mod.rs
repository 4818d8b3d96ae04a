//! `blip2 status`: where a run is, from what it wrote and what SLURM says. Reads only.

mod found;
mod judge;
#[cfg(test)]
mod tests;
mod text;

use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use data_pipeline::store::Location;

use crate::cli::StatusArgs;
use crate::data::{block_on, print_json};
use crate::exit::Unusable;
use crate::ranks::{Programs, launcher_alive};
use crate::slurm_job::{JobNote, JobState};
use crate::source::{RunSource, local_folder};
use found::Found;
use judge::{Outside, status};

/// Prints where a run is.
///
/// # Errors
/// A configuration that is wrong, a store that fails, a folder in which nothing of a run is.
#[expect(clippy::print_stdout, reason = "the command's answer")]
pub fn run(args: &StatusArgs, programs: &Programs) -> anyhow::Result<()> {
    let uri = output_of(args)?;
    let output = Location::parse(&uri)?;
    let found = block_on(Found::read(&output), "nothing was changed")?;
    let note = JobNote::read(&output)?;
    if found.is_empty() && note.is_none() {
        return Err(Unusable(format!(
            "{uri}: found nothing of a run; expected its output folder, or its YAML file. Check the path, or start it with \
             `blip2 launch` or `blip2 submit`"
        ))
        .into());
    }
    let outside = Outside {
        job: note.and_then(|note| JobState::ask(programs, &note.job)),
        launcher_alive: local_folder(&uri).is_some_and(|folder| launcher_alive(&folder)),
        now: SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |time| time.as_secs_f64()),
    };
    let status = status(&found, &outside, &uri);
    if args.json {
        return print_json(&status);
    }
    print!("{}", text::text(&status));
    Ok(())
}

/// The output folder that a person names, or that the configuration names that a person names.
fn output_of(args: &StatusArgs) -> anyhow::Result<String> {
    let source = RunSource::find(&args.run);
    let is_folder = args.run.contains("://") || Path::new(&args.run).is_dir();
    let names_run = !is_folder && (matches!(source, RunSource::Preset(_)) || Path::new(&args.run).is_file());
    if names_run {
        return Ok(source.load(&args.set)?.run.output.as_str().to_owned());
    }
    Ok(args.run.clone())
}
