//! What people ask about the checkpoints of a run, as JSON: `blip2 checkpoints list | show | verify | prune`.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::log::Log;
use super::manifest::MANIFEST;
use super::retention::{self, Retention};
use super::{Claim, RunPrefix, Stored, Terms, open_stored};
use crate::error::{Result, TrainerError};
use crate::events::Events;

/// Which checkpoints stay, where it is not as the run's config says.
#[derive(Clone, Copy, Debug, Default)]
pub struct Keep {
    /// The newest so many.
    pub last: Option<u64>,
    /// Those at multiples of this step.
    pub every_steps: Option<u64>,
    /// The best so many of each stage.
    pub best: Option<u64>,
}

/// What is to be deleted.
#[derive(Clone, Copy, Debug, Default)]
pub struct Prune {
    /// Which checkpoints stay.
    pub keep: Keep,
    /// Whether damaged ones go.
    pub quarantined: bool,
    /// Whether it is only said what would be deleted.
    pub dry_run: bool,
}

/// Every checkpoint that the log names, and what else lies beside them.
///
/// # Errors
/// [`TrainerError::NoCheckpoint`] where no run is; errors of the store.
pub fn list(uri: &str) -> Result<Value> {
    let run = RunPrefix::open(uri)?;
    let log = Log::read(&run.storage)?;
    if log.is_empty() {
        return Err(TrainerError::NoCheckpoint { uri: uri.to_owned() });
    }
    let mut folders: BTreeMap<String, u64> = retention::checkpoint_folders(&run.storage)?.into_iter().collect();
    let damaged: BTreeMap<&str, &str> =
        log.quarantined().iter().map(|it| (it.folder.as_str(), it.reason.as_str())).collect();
    let mut rows = Vec::new();
    for (_, entry, record) in log.all_commits() {
        let there = folders.remove(&record.folder).is_some();
        let state = match (damaged.contains_key(record.folder.as_str()), there) {
            (_, false) => "deleted",
            (true, true) => "quarantined",
            (false, true) => "kept",
        };
        rows.push(json!({
            "stage_index": record.stage_index, "stage": record.stage, "step": record.step, "state": state,
            "reason": damaged.get(record.folder.as_str()), "epoch": entry.epoch, "time": entry.time,
            "bytes": Some(record.bytes).filter(|bytes| *bytes > 0), "metrics": record.metrics,
            "uri": run.storage.uri(&record.folder),
        }));
    }
    let newest = rows.iter().rposition(|row| row["state"] == "kept");
    if let Some(newest) = newest {
        rows[newest]["state"] = "newest".into();
    }
    let unfinished: Vec<String> = folders.keys().map(|folder| run.storage.uri(folder)).collect();
    let unreadable: Vec<String> =
        log.unreadable().map(|(number, reason)| format!("log entry {number}: {reason}")).collect();
    Ok(json!({
        "schema_version": 1, "task": "checkpoints_list", "run": run.uri(), "checkpoints": rows,
        "unfinished": unfinished, "unreadable": unreadable, "accepted_changes": log.changes(),
    }))
}

/// All that is known of one checkpoint, or of a run's newest.
///
/// # Errors
/// As [`open_stored`].
pub fn show(uri: &str) -> Result<Value> {
    let stored = open_stored(uri)?;
    let about = stored.about();
    let parameters: usize = about.segments.iter().map(super::Segment::len).sum();
    Ok(json!({
        "schema_version": 1, "task": "checkpoints_show", "uri": stored.uri(), "parameters": parameters,
        "bytes": stored.files().map(|(_, size)| size).sum::<u64>(), "manifest": stored.manifest(),
    }))
}

/// Reads every byte of a checkpoint, of a run's newest one, or with `all` of all that the run still has, and compares it
/// with the sums of its manifest. `ok` is false when one is damaged.
///
/// # Errors
/// As [`open_stored`]; a store that does not answer.
pub fn verify(uri: &str, all: bool, events: Events) -> Result<Value> {
    let run = RunPrefix::open(uri)?;
    let mut opened: Vec<(String, Result<Stored>)> = Vec::new();
    if run.storage.size(MANIFEST)?.is_some() {
        opened.push((run.uri(), Stored::open(&run.storage, "", None)));
    } else {
        let there: BTreeMap<String, u64> = retention::checkpoint_folders(&run.storage)?.into_iter().collect();
        let log = Log::read(&run.storage)?;
        let commits = log.commits().into_iter().map(|(_, _, record)| record);
        let mut commits: Vec<_> = commits.filter(|record| there.contains_key(&record.folder)).collect();
        if !all {
            commits.drain(..commits.len().saturating_sub(1));
        }
        opened.extend(commits.iter().map(|record| (run.storage.uri(&record.folder), run.stored(record))));
    }
    if opened.is_empty() {
        return Err(TrainerError::NoCheckpoint { uri: uri.to_owned() });
    }
    let mut rows = Vec::new();
    for (uri, stored) in opened {
        let (about, bytes, problems) = match stored {
            Ok(stored) => {
                let total: u64 = stored.files().map(|(_, size)| size).sum();
                let about = stored.about();
                events.message(format!("verifying {uri}, {} MiB", total >> 20));
                let problems = stored.verify()?;
                (Some((about.stage.clone(), about.step)), total, problems)
            }
            Err(TrainerError::BadCheckpoint { uri, reason }) => (None, 0, vec![format!("{uri}: {reason}")]),
            Err(error) => return Err(error),
        };
        let (stage, step) = about.unzip();
        rows.push(json!({
            "uri": uri, "stage": stage, "step": step, "bytes": bytes, "ok": problems.is_empty(), "problems": problems,
        }));
    }
    let ok = rows.iter().all(|row| row["ok"] == true);
    Ok(json!({ "schema_version": 1, "task": "checkpoints_verify", "ok": ok, "checkpoints": rows }))
}

/// Deletes what retention does not keep, and what launches left unfinished. Takes the run over for that, so that no launch
/// may be running.
///
/// # Errors
/// [`TrainerError::Held`] while a launch is running; [`TrainerError::NoCheckpoint`] where no run is; errors of the store.
pub fn prune(uri: &str, prune: &Prune, claim: &Claim, events: Events) -> Result<Value> {
    let run = RunPrefix::open(uri)?;
    let log = Log::read(&run.storage)?;
    let Some(config) = run.config()?.filter(|_| !log.is_empty()) else {
        return Err(TrainerError::NoCheckpoint { uri: uri.to_owned() });
    };
    let retention = retention_of(&run, &config, prune.keep)?;
    let damaged: Vec<String> = match prune.quarantined {
        true => log.quarantined().iter().map(|it| it.folder.clone()).collect(),
        false => Vec::new(),
    };
    let mut folders = if prune.dry_run {
        retention::superfluous(&run.storage, &log, log.next_epoch(), Some(&retention))?
    } else {
        let mut say = |line| events.message(line);
        let lease = run.claim(claim, &config, &mut |_| Ok(Terms::GoOn), &mut say)?;
        let mut deleted = lease.collected().map(<[String]>::to_vec).unwrap_or_default();
        deleted.extend(lease.retain(&retention)?);
        for folder in &damaged {
            lease.delete(folder)?;
        }
        deleted
    };
    folders.extend(damaged);
    folders.sort();
    folders.dedup();
    let deleted: Vec<String> = folders.iter().map(|folder| run.storage.uri(folder)).collect();
    Ok(json!({
        "schema_version": 1, "task": "checkpoints_prune", "dry_run": prune.dry_run, "deleted": deleted,
    }))
}

/// The retention of a run's config, changed as is wanted.
fn retention_of(run: &RunPrefix, config: &str, keep: Keep) -> Result<Retention> {
    let config = configs::load_str("config.yaml", config, &configs::Overrides::default());
    let config = config.map_err(|error| TrainerError::Unsupported {
        found: format!("the config of {} cannot be read: {error}", run.uri()),
        expected: "a run of this version".into(),
    })?;
    let config = Retention::from(&config.checkpoint);
    Ok(Retention {
        keep_last: keep.last.unwrap_or(config.keep_last),
        keep_every_steps: keep.every_steps.or(config.keep_every_steps),
        keep_best: keep.best.unwrap_or(config.keep_best),
        best_by: config.best_by,
    })
}
