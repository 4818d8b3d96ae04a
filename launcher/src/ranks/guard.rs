//! How the ranks of a run are watched: limits, folders, and what ranks are told in variables.

use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use configs::Run;

use super::health::Limits;
use super::view::Log;
use crate::exit::Unusable;
use crate::source::local_folder;

/// A rank that hears nothing of its launcher for so many times the time that the launcher allows it ends the job.
const PATIENCE: u64 = 10;

/// What one launch is watched with.
#[derive(Clone, Debug)]
pub struct Guard {
    /// How long what may take.
    pub limits: Limits,
    /// Time from a request to leave to the end of the job.
    pub leave_within: Duration,
    /// What of the ranks' lines is shown.
    pub log: Log,
    /// Where the launcher keeps the table of ranks and records of failures.
    pub folder: PathBuf,
    /// Where ranks keep their standard error.
    pub logs: PathBuf,
    /// The address of this host that ranks reach.
    pub host: IpAddr,
    /// This start of the ranks, from 1.
    pub launch: u64,
    silence_s: u64,
    max_log_mb: u64,
    signals: String,
}

impl Guard {
    /// The variables that ranks are given; a starter that passes on only what it is told must pass on these.
    pub const VARIABLES: [&'static str; 8] = [
        "BLIP2_CONTROL",
        "BLIP2_CONTROL_TOKEN",
        "BLIP2_CONTROL_SILENCE_S",
        "BLIP2_LAUNCH",
        "BLIP2_LEAVE_WITHIN_S",
        "BLIP2_LOG_DIR",
        "BLIP2_LOG_MAX_MB",
        "BLIP2_PREEMPT_SIGNALS",
    ];

    /// For a run whose ranks are all on this host.
    ///
    /// # Errors
    /// A folder for logs that cannot be written to.
    pub fn new(run: &Run, log: Log) -> anyhow::Result<Self> {
        let cluster = &run.cluster;
        let output = local_folder(run.run.output.as_str());
        let folder = match &output {
            Some(output) => std::path::absolute(output.join("launch"))?,
            None => std::env::temp_dir().join("blip2").join(&run.run.name),
        };
        let logs = cluster.logs.folder.as_ref().map_or_else(|| Ok(folder.join("logs")), std::path::absolute)?;
        for folder in [&folder, &logs] {
            check_writable(folder)?;
        }
        let signals: Vec<&str> = cluster.preempt_signals.iter().map(|signal| signal.as_str()).collect();
        Ok(Self {
            limits: Limits::new(&cluster.timeouts_s),
            leave_within: Duration::from_secs(cluster.slurm.signal_before_end_s),
            log,
            folder,
            logs,
            host: IpAddr::V4(Ipv4Addr::LOCALHOST),
            launch: 1,
            silence_s: cluster.timeouts_s.silence,
            max_log_mb: cluster.logs.max_mb,
            signals: if signals.is_empty() { "none".to_owned() } else { signals.join(",") },
        })
    }

    /// What ranks are told besides where the launcher listens.
    pub fn variables(&self) -> Vec<(&'static str, String)> {
        vec![
            ("BLIP2_CONTROL_SILENCE_S", (self.silence_s * PATIENCE).to_string()),
            ("BLIP2_LAUNCH", self.launch.to_string()),
            ("BLIP2_LEAVE_WITHIN_S", self.leave_within.as_secs().to_string()),
            ("BLIP2_LOG_DIR", self.logs.display().to_string()),
            ("BLIP2_LOG_MAX_MB", self.max_log_mb.to_string()),
            ("BLIP2_PREEMPT_SIGNALS", self.signals.clone()),
        ]
    }
}

fn check_writable(folder: &Path) -> anyhow::Result<()> {
    let probe = folder.join(format!(".writable-{}", std::process::id()));
    let tried = std::fs::create_dir_all(folder)
        .and_then(|()| std::fs::write(&probe, ""))
        .and_then(|()| std::fs::remove_file(&probe));
    tried.map_err(|error| {
        Unusable(format!(
            "found that {} cannot be written to ({error}); expected a folder for the logs of the ranks. Set \
             cluster.logs.folder to one, or make room there",
            folder.display()
        ))
        .into()
    })
}
