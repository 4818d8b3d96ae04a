//! Which checkpoints stay, and what may be deleted.

use std::collections::BTreeSet;

use super::log::{CommitRecord, Log};
use super::manifest::MANIFEST;
use crate::error::Result;
use crate::storage::Storage;

/// Which checkpoints stay. The last one of every finished stage stays too.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Retention {
    /// The newest so many; at least 1.
    pub keep_last: u64,
    /// Those at multiples of this step, for good.
    pub keep_every_steps: Option<u64>,
}

impl From<&configs::Checkpoint> for Retention {
    fn from(section: &configs::Checkpoint) -> Self {
        Self { keep_last: section.keep_last, keep_every_steps: section.keep_every_steps }
    }
}

impl Retention {
    /// The folders that stay, of `commits` from oldest to newest.
    fn kept<'a>(&self, commits: &'a [CommitRecord]) -> BTreeSet<&'a str> {
        let newest_first = commits.iter().rev();
        let mut kept: BTreeSet<&str> =
            newest_first.clone().take(self.keep_last.max(1) as usize).map(|it| it.folder.as_str()).collect();
        let mut stages = BTreeSet::new();
        for commit in newest_first {
            let last_of_stage = stages.insert(commit.stage_index);
            let multiple = self.keep_every_steps.is_some_and(|every| every > 0 && commit.step % every == 0);
            if last_of_stage || multiple {
                kept.insert(&commit.folder);
            }
        }
        kept
    }
}

/// Deletes what nobody needs, seen from epoch `own`: folders of earlier epochs that were never committed, and with
/// `retention` the committed ones that do not stay. Returns the deleted folders. With entries in the log that cannot
/// be read, nothing is deleted: they may name checkpoints.
pub(super) fn collect(storage: &Storage, log: &Log, own: u64, retention: Option<Retention>) -> Result<Vec<String>> {
    if log.unreadable().next().is_some() {
        return Ok(Vec::new());
    }
    let commits: Vec<CommitRecord> = log.commits().into_iter().map(|(_, _, record)| record).collect();
    let committed: BTreeSet<&str> = commits.iter().map(|commit| commit.folder.as_str()).collect();
    let kept = retention.map_or_else(|| committed.clone(), |retention| retention.kept(&commits));
    let mut deleted = Vec::new();
    for (folder, epoch) in checkpoint_folders(storage)? {
        // A folder of this epoch without a commit is being written.
        let orphan = (log.first_epoch()..own).contains(&epoch) && !committed.contains(folder.as_str());
        let superseded = epoch <= own && committed.contains(folder.as_str()) && !kept.contains(folder.as_str());
        if orphan || superseded {
            storage.delete_folder(&folder, MANIFEST)?;
            deleted.push(folder);
        }
    }
    Ok(deleted)
}

/// The checkpoint folders `stage<N>/step-<step>/<epoch>-<nonce>` with their epochs: committed, unfinished, or empty
/// because a process was killed between making or clearing a folder and what comes next.
fn checkpoint_folders(storage: &Storage) -> Result<Vec<(String, u64)>> {
    let mut found = Vec::new();
    let is_stage = |name: &String| name.strip_prefix("stage").is_some_and(|rest| rest.parse::<usize>().is_ok());
    for stage in storage.folders("")?.into_iter().filter(is_stage) {
        for step in storage.folders(&stage)?.into_iter().filter(|name| name.starts_with("step-")) {
            for attempt in storage.folders(&format!("{stage}/{step}"))? {
                if let Some(epoch) = attempt.split('-').next().and_then(|epoch| epoch.parse().ok()) {
                    found.push((format!("{stage}/{step}/{attempt}"), epoch));
                }
            }
        }
    }
    Ok(found)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn commit(index: usize, stage_index: usize, step: u64) -> CommitRecord {
        let folder = format!("{index}");
        CommitRecord { stage_index, stage: "s".into(), step, folder, manifest_sha256: String::new() }
    }

    #[test]
    fn the_last_the_multiples_and_the_ends_of_stages_stay() {
        let places = [(1, 10), (1, 20), (1, 30), (1, 35), (2, 10), (2, 20), (2, 30)];
        let commits: Vec<_> = places.iter().enumerate().map(|(i, (stage, step))| commit(i, *stage, *step)).collect();
        let kept = |keep_last, keep_every_steps| -> String {
            Retention { keep_last, keep_every_steps }.kept(&commits).into_iter().collect()
        };
        assert_eq!(kept(1, None), "36");
        assert_eq!(kept(2, None), "356");
        assert_eq!(kept(1, Some(20)), "1356");
        assert_eq!(kept(0, None), "36");
    }

    proptest! {
        #[test]
        fn the_newest_always_stays(
            steps in proptest::collection::vec((1usize..4, 0u64..100), 1..30),
            keep_last in 0u64..5,
            every in proptest::option::of(0u64..20),
        ) {
            let commits: Vec<_> = steps.iter().enumerate().map(|(i, (stage, step))| commit(i, *stage, *step)).collect();
            let kept = Retention { keep_last, keep_every_steps: every }.kept(&commits);
            prop_assert!(kept.contains(commits.last().unwrap().folder.as_str()));
            prop_assert!(kept.len() as u64 >= keep_last.min(commits.len() as u64));
        }
    }
}
