//! A whole fetch: which shards are finished, which parts are missing, and what happens at the same time.

use std::collections::BTreeMap;
use std::ops::Range;
use std::pin::pin;
use std::sync::Arc;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};

use futures::stream::{self, Stream};
use futures::{StreamExt, TryStreamExt};
use serde::Serialize;

use super::blocklist::Blocklist;
use super::input::{Cursor, Input, Source};
use super::options::FetchOptions;
use super::retry;
use super::rows::{Given, schema};
use super::shards::{Found, Origin, ShardFiles, ShardStats, now};
use super::worker::Worker;
use crate::error::Result;
use crate::store::Location;

/// Stats read at the same time.
const STATS_IN_FLIGHT: usize = 32;

/// How far a fetch is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// Rows whose outcome is known, those of earlier runs included.
    pub rows: u64,
    /// Rows to be known.
    pub total: u64,
    /// Rows of this run.
    pub fetched: u64,
    /// Those of them with a picture.
    pub successes: u64,
}

/// What a fetch has made.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct FetchSummary {
    /// Shards that are finished.
    pub shards: u32,
    /// Those of them that were finished before.
    pub shards_kept: u32,
    /// Those of them that a retry has changed.
    pub shards_rewritten: u32,
    /// Rows of the finished shards.
    pub rows: u64,
    /// Rows with a picture.
    pub successes: u64,
    /// Rows without a download.
    pub failed_to_download: u64,
    /// Rows whose download made no picture.
    pub failed_to_resize: u64,
    /// Rows by `success` or reason of failure.
    pub reasons: BTreeMap<String, u64>,
    /// Rows fetched by this run.
    pub rows_fetched: u64,
    /// Bytes downloaded by this run.
    pub bytes_downloaded: u64,
    /// Bytes of the finished shards.
    pub shard_bytes: u64,
    /// The columns of a text list that were read as URLs and captions, in words.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub list_columns: Option<String>,
    /// Columns that the first file of the input lacks, each with a file that has it; they are not in the output.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub not_carried: Vec<String>,
}

impl FetchSummary {
    pub(super) fn add(&mut self, stats: &ShardStats) {
        self.shards += 1;
        self.rows += stats.count;
        self.successes += stats.successes;
        self.failed_to_download += stats.failed_to_download;
        self.failed_to_resize += stats.failed_to_resize;
        self.shard_bytes += stats.shard_bytes;
        for (reason, rows) in &stats.status_dict {
            *self.reasons.entry(reason.clone()).or_default() += rows;
        }
    }
}

/// One shard to be.
#[derive(Clone, Copy, Debug)]
pub(super) struct Plan {
    pub(super) shard: u32,
    /// Number of its first row in the input.
    pub(super) first: u64,
    pub(super) rows: u32,
}

/// A shard of which parts are missing.
struct Pending {
    plan: Plan,
    parts: u32,
    /// Parts of it that are not stored yet.
    missing: AtomicU32,
    began: OnceLock<f64>,
}

/// One part to be fetched; none where only the joining is left.
struct Job {
    pending: Arc<Pending>,
    part: Option<(u32, Range<u32>)>,
}

/// Makes the shards of `out` from the metadata at `input`, or goes on with them. `progress` is told about every row.
///
/// # Errors
/// [`DataError::Setting`](crate::DataError) for options that cannot be met or an output that was begun with others,
/// [`DataError::Store`](crate::DataError), [`DataError::Parquet`](crate::DataError). Rows that fail are no errors.
pub async fn fetch(
    input: &Location,
    out: &Location,
    options: &FetchOptions,
    progress: impl Fn(Progress) + Sync,
) -> Result<FetchSummary> {
    options.validate()?;
    let source = Source::find(input).await?;
    let blocklist = Blocklist::load(options.url_blocklist.as_deref(), options.content_blocklist.as_deref()).await?;
    let origin = Origin::new(&options.settings, blocklist.identity(), source.identity());
    // A list is converted in the output, which must not be another input's.
    origin.check(out).await?;
    let input = Input::open(source, out, &options.settings.columns).await?;
    let format = options.settings.picture.format;
    let files = ShardFiles { out: out.clone(), schema: schema(input.carried(), format)?, format };
    let plans = plan(options, input.rows())?;
    origin.claim(out).await?;
    let found = Found::list(out).await?;
    let worker = Worker::new(options, blocklist, files)?;
    let (kept, pending) = survey(&worker.files, &found, plans).await?;
    let mut summary = if options.retry_failed {
        retry::run(&worker, options, kept, &progress).await?
    } else {
        complete(&worker, options, &input, &found, (kept, pending), &progress).await?
    };
    summary.list_columns = input.note;
    summary.not_carried = input.columns.not_carried;
    summary.rows_fetched = worker.rows.load(Ordering::Relaxed);
    summary.bytes_downloaded = worker.bytes.load(Ordering::Relaxed);
    Ok(summary)
}

fn plan(options: &FetchOptions, rows: u64) -> Result<Vec<Plan>> {
    let size = options.settings.shard_rows;
    let plans = options.shards_of(rows)?.map(|shard| {
        let first = u64::from(shard) * u64::from(size);
        Plan { shard, first, rows: (rows - first).min(size.into()) as u32 }
    });
    Ok(plans.collect())
}

/// The finished shards with their stats, and the others.
async fn survey(files: &ShardFiles, found: &Found, plans: Vec<Plan>) -> Result<(Vec<(Plan, ShardStats)>, Vec<Plan>)> {
    let states = stream::iter(plans).map(|plan| async move {
        let stats = found.finished(files, plan.shard, plan.rows.into()).await?;
        if stats.is_some() {
            files.remove_parts(plan.shard, found.parts(plan.shard)).await?;
        }
        Ok::<_, crate::DataError>((plan, stats))
    });
    let states: Vec<_> = states.buffered(STATS_IN_FLIGHT).try_collect().await?;
    let (mut kept, mut pending) = (Vec::new(), Vec::new());
    for (plan, stats) in states {
        match stats {
            Some(stats) => kept.push((plan, stats)),
            None => pending.push(plan),
        }
    }
    Ok((kept, pending))
}

/// Fetches every missing part and joins every shard whose last part that was.
async fn complete(
    worker: &Worker,
    options: &FetchOptions,
    input: &Input,
    found: &Found,
    (kept, pending): (Vec<(Plan, ShardStats)>, Vec<Plan>),
    progress: &(impl Fn(Progress) + Sync),
) -> Result<FetchSummary> {
    let mut summary = FetchSummary { shards_kept: kept.len() as u32, ..FetchSummary::default() };
    let mut before = 0;
    for (_, stats) in &kept {
        summary.add(stats);
        before += stats.count;
    }
    let part_rows = options.settings.part_rows;
    let all = before + pending.iter().map(|plan| u64::from(plan.rows)).sum::<u64>();
    let stored: u64 = pending.iter().map(|plan| stored_rows(plan, found, part_rows)).sum();
    let each = || {
        let fetched = worker.rows.load(Ordering::Relaxed);
        let successes = worker.successes.load(Ordering::Relaxed);
        progress(Progress { rows: before + stored + fetched, total: all, fetched, successes });
    };
    each();
    let jobs = pending.into_iter().flat_map(|plan| jobs(plan, found, part_rows));
    let running = with_rows(input.cursor(), jobs)
        .map_ok(|(job, given)| run(worker, job, given, &each))
        .try_buffer_unordered(options.parts_in_flight());
    let mut finished = pin!(running);
    while let Some(stats) = finished.try_next().await? {
        if let Some(stats) = stats {
            summary.add(&stats);
        }
    }
    Ok(summary)
}

fn parts_of(plan: &Plan, part_rows: u32) -> impl Iterator<Item = (u32, Range<u32>)> + use<> {
    let rows = plan.rows;
    (0..rows.div_ceil(part_rows)).map(move |part| (part, part * part_rows..((part + 1) * part_rows).min(rows)))
}

fn stored_rows(plan: &Plan, found: &Found, part_rows: u32) -> u64 {
    let there = found.parts(plan.shard);
    parts_of(plan, part_rows).filter(|(part, _)| there.contains(part)).map(|(_, rows)| rows.len() as u64).sum()
}

fn jobs(plan: Plan, found: &Found, part_rows: u32) -> Vec<Job> {
    let there = found.parts(plan.shard);
    let missing: Vec<_> = parts_of(&plan, part_rows).filter(|(part, _)| !there.contains(part)).collect();
    let pending = Arc::new(Pending {
        plan,
        parts: plan.rows.div_ceil(part_rows),
        missing: AtomicU32::new(missing.len().max(1) as u32),
        began: OnceLock::new(),
    });
    if missing.is_empty() {
        return vec![Job { pending, part: None }];
    }
    missing.into_iter().map(|part| Job { pending: pending.clone(), part: Some(part) }).collect()
}

/// Every job with the rows of its part, read one job after another when the next job may start.
fn with_rows<'a>(
    cursor: Cursor<'a>,
    jobs: impl Iterator<Item = Job> + 'a,
) -> impl Stream<Item = Result<(Job, Option<Given>)>> + 'a {
    stream::try_unfold((cursor, jobs), |(mut cursor, mut jobs)| async move {
        let Some(job) = jobs.next() else { return Ok(None) };
        let given = match &job.part {
            None => None,
            Some((_, rows)) => {
                let first = job.pending.plan.first;
                Some(cursor.read(first + u64::from(rows.start)..first + u64::from(rows.end)).await?)
            }
        };
        Ok(Some(((job, given), (cursor, jobs))))
    })
}

/// Fetches a part; the stats of its shard, when that is complete now.
async fn run(worker: &Worker, job: Job, given: Option<Given>, each: &(dyn Fn() + Sync)) -> Result<Option<ShardStats>> {
    let pending = &job.pending;
    let began = *pending.began.get_or_init(now);
    if let (Some((part, rows)), Some(given)) = (job.part, given) {
        worker.part((pending.plan.shard, part), (pending.plan.first, rows), &given, each).await?;
    }
    if pending.missing.fetch_sub(1, Ordering::AcqRel) > 1 {
        return Ok(None);
    }
    worker.files.join(pending.plan.shard, 0..pending.parts, began).await.map(Some)
}
