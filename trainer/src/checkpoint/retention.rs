//! Which checkpoints stay, and what may be deleted.

use std::collections::BTreeSet;

use super::log::{CommitRecord, Log};
use super::manifest::MANIFEST;
use crate::error::Result;
use crate::storage::Storage;

/// Which checkpoints stay. The last one of every finished stage stays too.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Retention {
    /// The newest so many; at least 1.
    pub keep_last: u64,
    /// Those at multiples of this step, for good.
    pub keep_every_steps: Option<u64>,
    /// The best so many of each stage.
    pub keep_best: u64,
    /// What the best have the lowest value of, a loss; or `evaluation`, of which they have the highest.
    pub best_by: String,
}

impl From<&configs::Checkpoint> for Retention {
    fn from(section: &configs::Checkpoint) -> Self {
        let configs::Checkpoint { keep_last, keep_every_steps, keep_best, best_by, .. } = *section;
        Self { keep_last, keep_every_steps, keep_best, best_by: best_by.to_string() }
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
        for stage in stages {
            let of_stage = commits.iter().filter(|commit| commit.stage_index == stage);
            let mut ranked: Vec<(f64, &str)> =
                of_stage.filter_map(|it| Some((*it.metrics.get(&self.best_by)?, it.folder.as_str()))).collect();
            ranked.retain(|(value, _)| value.is_finite());
            ranked.sort_by(|a, b| a.0.total_cmp(&b.0));
            if self.best_by == "evaluation" {
                ranked.reverse();
            }
            kept.extend(ranked.iter().take(self.keep_best as usize).map(|(_, folder)| *folder));
        }
        kept
    }
}

/// Deletes what nobody needs, and returns its folders: see [`superfluous`].
pub(super) fn collect(storage: &Storage, log: &Log, own: u64, retention: Option<&Retention>) -> Result<Vec<String>> {
    let folders = superfluous(storage, log, own, retention)?;
    folders.iter().try_for_each(|folder| storage.delete_folder(folder, MANIFEST))?;
    Ok(folders)
}

/// What nobody needs, seen from epoch `own`: folders of earlier epochs that were never committed, and with `retention` the
/// committed ones that do not stay. With entries in the log that cannot be read there is nothing: they may name
/// checkpoints. Damaged ones stay.
pub(super) fn superfluous(
    storage: &Storage,
    log: &Log,
    own: u64,
    retention: Option<&Retention>,
) -> Result<Vec<String>> {
    if log.unreadable().next().is_some() {
        return Ok(Vec::new());
    }
    let commits: Vec<CommitRecord> = log.commits().into_iter().map(|(_, _, record)| record).collect();
    let committed: BTreeSet<&str> = commits.iter().map(|commit| commit.folder.as_str()).collect();
    let quarantined: BTreeSet<&str> = log.quarantined().iter().map(|it| it.folder.as_str()).collect();
    let kept = retention.map_or_else(|| committed.clone(), |retention| retention.kept(&commits));
    let mut found = Vec::new();
    for (folder, epoch) in checkpoint_folders(storage)? {
        // A folder of this epoch without a commit is being written.
        let named = committed.contains(folder.as_str()) || quarantined.contains(folder.as_str());
        let orphan = (log.first_epoch()..own).contains(&epoch) && !named;
        let superseded = epoch <= own && committed.contains(folder.as_str()) && !kept.contains(folder.as_str());
        if orphan || superseded {
            found.push(folder);
        }
    }
    Ok(found)
}

/// The checkpoint folders `stage<N>/step-<step>/<epoch>-<nonce>` with their epochs: committed, unfinished, or empty
/// because a process was killed between making or clearing a folder and what comes next.
pub(super) fn checkpoint_folders(storage: &Storage) -> Result<Vec<(String, u64)>> {
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
        CommitRecord { stage_index, step, folder, ..CommitRecord::default() }
    }

    #[test]
    fn the_last_the_multiples_and_the_ends_of_stages_stay() {
        let places = [(1, 10), (1, 20), (1, 30), (1, 35), (2, 10), (2, 20), (2, 30)];
        let commits: Vec<_> = places.iter().enumerate().map(|(i, (stage, step))| commit(i, *stage, *step)).collect();
        let kept = |keep_last, keep_every_steps| -> String {
            Retention { keep_last, keep_every_steps, ..Retention::default() }.kept(&commits).into_iter().collect()
        };
        assert_eq!(kept(1, None), "36");
        assert_eq!(kept(2, None), "356");
        assert_eq!(kept(1, Some(20)), "1356");
        assert_eq!(kept(0, None), "36");
    }

    #[test]
    fn the_best_of_each_stage_stay() {
        let losses = [(1, 3.0), (1, 1.0), (1, f64::NAN), (1, 2.0), (1, 2.5), (2, 9.0), (2, 8.0), (2, 9.5)];
        let commits: Vec<_> = losses
            .iter()
            .enumerate()
            .map(|(i, (stage, loss))| {
                let metrics = [("total".to_owned(), *loss)].into();
                CommitRecord { metrics, ..commit(i, *stage, i as u64) }
            })
            .collect();
        let kept = |keep_best, best_by: &str| -> String {
            let retention = Retention { keep_last: 1, keep_best, best_by: best_by.into(), ..Retention::default() };
            retention.kept(&commits).into_iter().collect()
        };
        // 4 and 7 are the last of their stages.
        assert_eq!(kept(0, "total"), "47");
        assert_eq!(kept(1, "total"), "1467");
        assert_eq!(kept(2, "total"), "134567");
        assert_eq!(kept(2, "itc"), "47");
    }

    proptest! {
        #[test]
        fn the_newest_always_stays(
            steps in proptest::collection::vec((1usize..4, 0u64..100), 1..30),
            keep_last in 0u64..5,
            every in proptest::option::of(0u64..20),
        ) {
            let commits: Vec<_> = steps.iter().enumerate().map(|(i, (stage, step))| commit(i, *stage, *step)).collect();
            let kept = Retention { keep_last, keep_every_steps: every, ..Retention::default() }.kept(&commits);
            prop_assert!(kept.contains(commits.last().unwrap().folder.as_str()));
            prop_assert!(kept.len() as u64 >= keep_last.min(commits.len() as u64));
        }
    }
}
