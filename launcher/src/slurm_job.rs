//! A run's job in SLURM: the note about it in the run's folder, and what SLURM says about it.

use std::process::Command;
use std::time::Duration;

use configs::Run;
use data_pipeline::store::Location;
use serde::{Deserialize, Serialize};

use crate::data::block_on;
use crate::ranks::{Programs, process};

/// What `launch/slurm.json` in a run's folder says.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct JobNote {
    /// Version of this note.
    pub schema_version: u32,
    /// The job's id.
    pub job: String,
    /// The cluster's name, where sbatch gives one.
    pub cluster: Option<String>,
    /// The batch script.
    pub script: String,
    /// The copy of the configuration.
    pub config: String,
    /// Where the job writes to.
    pub log: String,
    /// When it was submitted, in seconds since 1970.
    pub submitted: u64,
}

const PLACE: &str = "launch/slurm.json";
/// Time for SLURM to answer.
const PATIENCE: Duration = Duration::from_secs(10);
const KEPT: &str = "the run stays as it is";

impl JobNote {
    /// The note of the run in this folder, if there is one that can be read.
    ///
    /// # Errors
    /// A store that does not answer.
    pub fn read(output: &Location) -> anyhow::Result<Option<Self>> {
        block_on(Self::find(output), KEPT)
    }

    /// The same among other work.
    ///
    /// # Errors
    /// A store that does not answer.
    pub async fn find(output: &Location) -> data_pipeline::Result<Option<Self>> {
        let text = output.child(PLACE).read_if_there().await?;
        Ok(text.and_then(|text| serde_json::from_slice(&text).ok()))
    }

    /// Writes the note.
    ///
    /// # Errors
    /// A store that does not take it.
    pub fn write(&self, output: &Location) -> anyhow::Result<()> {
        let text = serde_json::to_string_pretty(self)? + "\n";
        block_on(output.child(PLACE).write(text), KEPT)
    }
}

/// A job as SLURM sees it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct JobState {
    /// The job's id.
    pub job: String,
    /// SLURM's word, such as PENDING; None when it does not know the job any more.
    pub state: Option<String>,
    /// Why it waits, in SLURM's words.
    pub reason: Option<String>,
    /// The nodes it has.
    pub nodes: Option<String>,
    /// How often it was started again.
    pub restarts: Option<u64>,
}

impl JobState {
    /// Asks SLURM; `None` where SLURM's programs are missing or do not answer.
    pub fn ask(programs: &Programs, job: &str) -> Option<Self> {
        let scontrol = programs.on_path("scontrol")?;
        let mut command = Command::new(scontrol);
        let output = process::output_within(command.args(["--oneliner", "show", "job", job]), PATIENCE).ok()??;
        let text = String::from_utf8_lossy(&output.stdout);
        let unknown = String::from_utf8_lossy(&output.stderr).contains("Invalid job id");
        (output.status.success() || unknown).then(|| Self::read(job, &text))
    }

    fn read(job: &str, text: &str) -> Self {
        let field = |name: &str| {
            let found =
                text.split_whitespace().filter_map(|word| word.split_once('=')).find(|(known, _)| *known == name);
            found.map(|(_, value)| value.to_owned()).filter(|value| value != "(null)" && value != "None")
        };
        Self {
            job: job.to_owned(),
            state: field("JobState"),
            reason: field("Reason"),
            nodes: field("NodeList"),
            restarts: field("Restarts").and_then(|count| count.parse().ok()),
        }
    }

    /// Whether the job waits for its start.
    pub fn waits(&self) -> bool {
        matches!(self.state.as_deref(), Some("PENDING" | "CONFIGURING" | "REQUEUED" | "REQUEUE_HOLD" | "SUSPENDED"))
    }

    /// Whether the job runs.
    pub fn runs(&self) -> bool {
        matches!(self.state.as_deref(), Some("RUNNING" | "COMPLETING"))
    }
}

/// Where a run's output lies.
///
/// # Errors
/// A URI that is none.
pub fn output_of(run: &Run) -> anyhow::Result<Location> {
    Ok(Location::parse(run.run.output.as_str())?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_scontrol_says_is_read() {
        let text = "JobId=17 JobName=tiny UserId=root(0) JobState=PENDING Reason=BeginTime Dependency=(null) Requeue=1 \
                    Restarts=2 BatchFlag=2 NodeList=(null)";
        let state = JobState::read("17", text);
        assert!(state.waits() && !state.runs());
        assert_eq!(
            (state.reason.as_deref(), state.nodes.as_deref(), state.restarts),
            (Some("BeginTime"), None, Some(2))
        );
        assert_eq!(JobState::read("17", "").state, None);
    }
}
