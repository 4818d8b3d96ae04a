//! Beginning anew in a folder that holds a run: what there is moves to `before-<n>`, on every store.
//!
//! One entry of the log decides: a take-over that says `fresh` and names the folder. From then on no commit before it
//! counts, whatever has been moved; so the log itself stays, and whoever held the run before stays fenced. Whoever is ended
//! while objects are moved leaves the rest to the next holder, who finds no `moved.json` in the folder and goes on.

use bytes::Bytes;

use super::claim::CONFIG;
use super::lease::Lease;
use super::log::{Log, entry_name};
use crate::error::Result;
use crate::storage::Storage;

/// In the folder of what was set aside: everything has arrived.
const MOVED: &str = "moved.json";
/// What a run leaves beside its stages and configs. Shards and towers that lie in the same folder stay.
const PARTS: [&str; 7] = ["metrics", "tb", "eval", "report.html", "catalog", "lost", "quarantine"];

/// A folder `before-<n>` that is not there yet.
pub(super) fn free_folder(storage: &Storage) -> Result<String> {
    let taken = storage.folders("")?;
    let number = (1_u64..).find(|number| !taken.contains(&format!("before-{number}")));
    Ok(format!("before-{}", number.expect("invariant: some number is free")))
}

/// Moves what is left of the run before the newest fresh start, if anything is. The lease is asked before every object,
/// so that a holder who was replaced meanwhile stops.
///
/// # Errors
/// [`crate::TrainerError::Fenced`], and errors of the store; another call goes on.
pub(super) fn set_aside(storage: &Storage, log: &Log, lease: &Lease) -> Result<()> {
    let Some((number, folder)) = log.fresh() else { return Ok(()) };
    let moved = format!("{folder}/{MOVED}");
    if storage.size(&moved)?.is_some() {
        return Ok(());
    }
    for part in parts(storage, log)? {
        for name in storage.list_or_object(&part)? {
            lease.check()?;
            storage.rename(&name, &format!("{folder}/{name}"))?;
        }
        lease.check()?;
        storage.remove_local_folder(&part);
    }
    // Before the new one takes its place; what a former try has written stays.
    if let Some(config) = storage.read(CONFIG)? {
        storage.create(&format!("{folder}/{CONFIG}"), config)?;
    }
    // With its log the folder is a run again, and so it comes last.
    for entry in (0..number).map(entry_name) {
        if let Some(bytes) = storage.read(&entry)? {
            storage.write(&format!("{folder}/{entry}"), bytes)?;
        }
    }
    lease.check()?;
    if let Some(config) = log.config().map(|name| storage.read(name)).transpose()?.flatten() {
        storage.write(CONFIG, config)?;
    }
    storage.write(&moved, Bytes::from_static(b"{\"format_version\": 1}\n"))
}

/// What the run before may have left, by name of folder or object.
fn parts(storage: &Storage, log: &Log) -> Result<Vec<String>> {
    let is_stage = |name: &String| name.strip_prefix("stage").is_some_and(|rest| rest.parse::<usize>().is_ok());
    let stages = storage.folders("")?.into_iter().filter(is_stage);
    let parts = PARTS.into_iter().map(str::to_owned);
    Ok(stages.chain(parts).chain(log.configs_before_fresh()).collect())
}
