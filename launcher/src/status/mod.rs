//! `blip2 status`: where a run is, from what it wrote and what SLURM says. Reads only.

mod found;
mod judge;
#[cfg(test)]
mod tests;
mod text;
mod watch;

use std::path::Path;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use data_pipeline::store::Location;

pub(crate) use found::{Found, Reader};
pub(crate) use judge::{State, Status};
pub(crate) use text::state as word;
#[cfg(test)]
pub(crate) use {
    found::Commit,
    judge::{Outside, status},
};

use crate::cli::StatusArgs;
use crate::data::{block_on, print_json};
use crate::exit::Unusable;
use crate::ranks::{Programs, launcher_alive};
use crate::slurm_job::{JobNote, JobState};
use crate::source::{RunSource, local_folder};

/// SLURM is asked again after so long: its administrators do not like to be asked more often.
const ASK_AGAIN: Duration = Duration::from_secs(30);

/// What an interruption of a reader leaves.
const UNTOUCHED: &str = "nothing was changed";

/// Prints where a run is.
///
/// # Errors
/// A configuration that is wrong, a store that fails, a folder in which nothing of a run is.
#[expect(clippy::print_stdout, reason = "the command's answer")]
pub fn run(args: &StatusArgs, programs: &Programs) -> anyhow::Result<()> {
    let mut watcher = Watcher::of(&output_of(&args.run, &args.set)?, programs)?;
    if let Some(seconds) = args.watch {
        return watch::run(&mut watcher, Duration::from_secs(seconds), args.json);
    }
    let status = block_on(watcher.look(), UNTOUCHED)?.of_a_run()?.status;
    if args.json {
        return print_json(&status);
    }
    print!("{}", text::text(&status));
    Ok(())
}

/// The output folder that a person names, or that the configuration names that a person names.
///
/// # Errors
/// A configuration that is wrong.
pub(crate) fn output_of(run: &str, set: &[String]) -> anyhow::Result<String> {
    let source = RunSource::find(run);
    let is_folder = run.contains("://") || Path::new(run).is_dir();
    let names_run = !is_folder && (matches!(source, RunSource::Preset(_)) || Path::new(run).is_file());
    if names_run {
        return Ok(source.load(set)?.run.output.as_str().to_owned());
    }
    Ok(run.to_owned())
}

/// Looks at a run, again and again.
pub(crate) struct Watcher {
    uri: String,
    reader: Reader,
    programs: Programs,
    output: Location,
    /// Whether this very process launches the run.
    pub is_ours: bool,
    job: Option<Asked>,
}

/// What was known of the run's job when SLURM was asked last.
struct Asked {
    when: Instant,
    is_submitted: bool,
    state: Option<JobState>,
}

/// A run as it was seen.
#[derive(Clone)]
pub(crate) struct Seen {
    /// What its folder says.
    pub found: Found,
    /// What follows from it.
    pub status: Status,
    /// Whether there is a note of a job, whatever SLURM says of that.
    pub is_submitted: bool,
    /// When, in seconds since 1970.
    pub now: f64,
}

impl Watcher {
    /// Of the run in this folder.
    ///
    /// # Errors
    /// A URI that is none.
    pub fn of(uri: &str, programs: &Programs) -> anyhow::Result<Self> {
        let output = Location::parse(uri)?;
        let reader = Reader::new(&output);
        Ok(Self { uri: uri.to_owned(), reader, programs: programs.clone(), output, is_ours: false, job: None })
    }

    /// Looks.
    ///
    /// # Errors
    /// A store that fails.
    pub async fn look(&mut self) -> data_pipeline::Result<Seen> {
        let found = self.reader.read().await?;
        if self.job.as_ref().is_none_or(|asked| asked.when.elapsed() >= ASK_AGAIN) {
            let note = JobNote::find(&self.output).await?;
            let is_submitted = note.is_some();
            let state = note.and_then(|note| JobState::ask(&self.programs, &note.job));
            self.job = Some(Asked { when: Instant::now(), is_submitted, state });
        }
        let outside = judge::Outside {
            job: self.job.as_ref().and_then(|asked| asked.state.clone()),
            launcher_alive: self.is_ours || local_folder(&self.uri).is_some_and(|folder| launcher_alive(&folder)),
            now: now(),
        };
        let status = judge::status(&found, &outside, &self.uri);
        let is_submitted = self.job.as_ref().is_some_and(|asked| asked.is_submitted);
        Ok(Seen { found, status, is_submitted, now: outside.now })
    }
}

impl Seen {
    /// Itself, where there is anything of a run.
    ///
    /// # Errors
    /// [`Unusable`] where nothing is.
    pub fn of_a_run(self) -> anyhow::Result<Self> {
        if self.found.is_empty() && !self.is_submitted {
            return Err(Unusable(format!(
                "{}: found nothing of a run; expected its output folder, or its YAML file. Check the path, or start it \
                 with `blip2 launch` or `blip2 submit`",
                self.status.output
            ))
            .into());
        }
        Ok(self)
    }
}

/// Seconds since 1970.
pub(crate) fn now() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |time| time.as_secs_f64())
}
