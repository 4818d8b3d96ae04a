//! Fetches again what failed to download, in finished shards.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;

use arrow::array::{Array, AsArray};
use futures::{StreamExt, TryStreamExt, stream};

use super::file::read_error;
use super::options::{FetchOptions, ROW_GROUP_ROWS};
use super::rows::{FAILED_TO_DOWNLOAD, Given, Outcome, counted};
use super::run::{FetchSummary, Plan, Progress};
use super::shards::{ShardStats, now};
use super::worker::{BAD_LINE, BLOCKED_CONTENT, Worker};
use crate::error::Result;

/// Rows that are asked for at the same time, for each request that may be under way.
const ROWS_PER_REQUEST: usize = 4;

/// Tries the failed rows of the finished shards once more, shard by shard; a shard is written anew only if the status of
/// one of its rows is another now.
pub(super) async fn run(
    worker: &Worker,
    options: &FetchOptions,
    finished: Vec<(Plan, ShardStats)>,
    progress: &(impl Fn(Progress) + Sync),
) -> Result<FetchSummary> {
    let total = finished.iter().map(|(_, stats)| stats.failed_to_download).sum();
    let each = || {
        let fetched = worker.rows.load(Ordering::Relaxed);
        progress(Progress { rows: fetched, total, fetched, successes: worker.successes.load(Ordering::Relaxed) });
    };
    let mut summary = FetchSummary::default();
    for (plan, stats) in finished {
        let again = match stats.failed_to_download {
            0 => None,
            _ => retry_shard(worker, options, plan, &stats, &each).await?,
        };
        match again {
            None => summary.shards_kept += 1,
            Some(_) => summary.shards_rewritten += 1,
        }
        summary.add(again.as_ref().unwrap_or(&stats));
    }
    Ok(summary)
}

/// The new stats of a shard; `None` when nothing has changed.
async fn retry_shard(
    worker: &Worker,
    options: &FetchOptions,
    plan: Plan,
    stats: &ShardStats,
    each: &(dyn Fn() + Sync),
) -> Result<Option<ShardStats>> {
    let start = now();
    let failed = failed_rows(worker, plan.shard, stats).await?;
    let mut outcomes = stream::iter(failed)
        .map(|(row, url)| async move {
            let outcome = worker.row(url.as_deref(), plan.first + row as u64).await;
            each();
            Ok::<_, crate::DataError>((row, outcome?))
        })
        .buffer_unordered(options.effort.concurrency as usize * ROWS_PER_REQUEST);
    let mut changed = BTreeMap::new();
    while let Some((row, outcome)) = outcomes.try_next().await? {
        if outcome.status() != FAILED_TO_DOWNLOAD {
            changed.insert(row, outcome);
        }
    }
    if changed.is_empty() {
        return Ok(None);
    }
    rewrite(worker, plan.shard, stats.shard_bytes, changed, start).await.map(Some)
}

/// The rows that failed to download, with their URLs.
async fn failed_rows(worker: &Worker, shard: u32, stats: &ShardStats) -> Result<Vec<(usize, Option<String>)>> {
    let file = worker.files.open_shard(shard, stats.shard_bytes).await?;
    let schema = &worker.files.schema;
    let columns: Vec<usize> =
        ["url", "status", "error_message"].iter().filter_map(|name| schema.index_of(name).ok()).collect();
    let mut batches = file.read_from(0, &columns, ROW_GROUP_ROWS as usize)?;
    let (mut failed, mut first) = (Vec::new(), 0);
    while let Some(batch) = batches.try_next().await.map_err(|e| read_error(&file.location, e))? {
        let [urls, statuses, messages] = [0, 1, 2].map(|column| batch.column(column).as_string::<i32>());
        for row in 0..batch.num_rows() {
            let is_final = [BLOCKED_CONTENT, BAD_LINE].contains(&counted(messages.value(row)));
            if statuses.value(row) == FAILED_TO_DOWNLOAD && !is_final {
                failed.push((first + row, urls.is_valid(row).then(|| urls.value(row).to_owned())));
            }
        }
        first += batch.num_rows();
    }
    Ok(failed)
}

/// Writes a shard with the new outcomes of some rows in the place of the old one.
async fn rewrite(
    worker: &Worker,
    shard: u32,
    size: u64,
    mut changed: BTreeMap<usize, Outcome>,
    start: f64,
) -> Result<ShardStats> {
    let files = &worker.files;
    let file = files.open_shard(shard, size).await?;
    let all: Vec<usize> = (0..files.schema.fields().len()).collect();
    let mut batches = file.read_from(0, &all, ROW_GROUP_ROWS as usize)?;
    let mut writer = files.start_shard(shard)?;
    let mut first = 0;
    while let Some(batch) = batches.try_next().await.map_err(|e| read_error(&file.location, e))? {
        let rows = first..first + batch.num_rows();
        first = rows.end;
        if changed.range(rows.clone()).next().is_none() {
            writer.append(&batch).await?;
            continue;
        }
        let outcomes: Result<Vec<Outcome>> = rows
            .clone()
            .map(|row| changed.remove(&row).map_or_else(|| Outcome::read(&batch, row - rows.start), Ok))
            .collect();
        let (given, keys) = Given::read(&batch);
        writer.append(&given.finish(&files.schema, keys, &outcomes?)?).await?;
    }
    let stats = writer.finish(start).await?;
    files.write_stats(shard, &stats).await?;
    Ok(stats)
}
