//! Writes a corpus: row groups encoded by many threads, appended in order, one shard finishing while the next begins.

use std::sync::Arc;

use futures::{Stream, StreamExt, stream};
use serde::Serialize;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use super::options::SynthOptions;
use super::resume::{Corpus, FORMAT_VERSION, ShardRecord, SplitRecord};
use super::resume::{claim, complete, kept_shard, read_corpus, record_shard, reopen};
use super::shards::{Encoder, RowGroup, ShardPlan, ShardWriter, plan_shards};
use super::splits::{Split, held_out_pairs};
use super::vocabulary::VOCABULARY;
use crate::error::{DataError, Result};
use crate::store::Location;

/// Row groups that are encoded or wait to be written, beyond one per thread. Bounds the memory of a run.
const ROW_GROUPS_AHEAD: usize = 2;

/// How far a run is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// Scenes that are written or were kept, of all splits.
    pub scenes: u64,
    /// Scenes of all splits.
    pub total_scenes: u64,
    /// Bytes written by this run.
    pub bytes_written: u64,
}

/// What a run did.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct CorpusSummary {
    /// Scenes of the corpus, all splits together.
    pub scenes: u64,
    /// Shards of the corpus.
    pub shards: u64,
    /// Bytes of its shards.
    pub bytes: u64,
    /// Scenes that this run rendered; an earlier run did the others.
    pub scenes_rendered: u64,
    /// Shards that this run wrote.
    pub shards_written: u64,
    /// Shards that an earlier run had written.
    pub shards_kept: u64,
    /// The corpus as `corpus.json` describes it.
    #[serde(skip)]
    pub corpus: Corpus,
}

/// Writes a corpus to `out`, or continues one that was interrupted. The same options give the same bytes, whatever the
/// number of threads and interruptions. Runs inside a tokio runtime; calls `progress` after every row group.
///
/// # Errors
/// [`DataError::Setting`] for options that cannot work, or when `out` holds something else, in both cases before
/// anything is written; [`DataError::Store`] when the store refuses. What was written stays for the next run of the
/// same command; no incomplete shard can be seen.
pub async fn write_corpus(
    options: &SynthOptions,
    out: &Location,
    progress: impl Fn(Progress) + Sync,
) -> Result<CorpusSummary> {
    options.validate()?;
    let encoder = Arc::new(Encoder::new(options)?);
    claim(out, options).await?;
    let shards = plan_shards(options);
    let mut tally = Tally { total: shards.iter().map(|plan| u64::from(plan.rows)).sum(), ..Tally::default() };
    let mut records = Vec::with_capacity(shards.len());
    for plan in &shards {
        let kept = kept_shard(out, options, plan).await?;
        if kept.is_some() {
            tally.done += u64::from(plan.rows);
            progress(tally.progress());
        }
        records.push(kept);
    }
    let missing: Vec<ShardPlan> =
        shards.iter().zip(&records).filter(|(_, kept)| kept.is_none()).map(|(plan, _)| *plan).collect();
    if !missing.is_empty() {
        reopen(out, options).await?;
    }
    let written = write_shards(&encoder, options, out, &missing, &mut tally, &progress).await?;
    let mut written = written.into_iter();
    let records = records.into_iter().filter_map(|kept| kept.or_else(|| written.next())).collect();
    let corpus = describe(options, &shards, records);
    if read_corpus(out).await?.as_ref() != Some(&corpus) {
        complete(out, &corpus).await?;
    }
    let bytes_of = |split: &SplitRecord| split.shards.iter().map(|shard| shard.bytes).sum::<u64>();
    Ok(CorpusSummary {
        scenes: tally.total,
        shards: shards.len() as u64,
        bytes: corpus.splits.iter().map(bytes_of).sum(),
        scenes_rendered: missing.iter().map(|plan| u64::from(plan.rows)).sum(),
        shards_written: missing.len() as u64,
        shards_kept: (shards.len() - missing.len()) as u64,
        corpus,
    })
}

/// Running totals.
#[derive(Default)]
struct Tally {
    done: u64,
    total: u64,
    bytes_written: u64,
}

impl Tally {
    fn progress(&self) -> Progress {
        Progress { scenes: self.done, total_scenes: self.total, bytes_written: self.bytes_written }
    }
}

/// Writes the given shards in order.
async fn write_shards(
    encoder: &Arc<Encoder>,
    options: &SynthOptions,
    out: &Location,
    shards: &[ShardPlan],
    tally: &mut Tally,
    progress: &(impl Fn(Progress) + Sync),
) -> Result<Vec<ShardRecord>> {
    let pool = pool(options.threads)?;
    let groups =
        shards.iter().copied().flat_map(|plan| plan.row_groups().map(move |(first, rows)| (plan, first, rows)));
    let mut groups = stream::iter(groups)
        .map(|(plan, first, rows)| {
            let encoder = encoder.clone();
            in_pool(&pool, move || encoder.row_group(plan, first, rows))
        })
        .buffered(pool.current_num_threads() + ROW_GROUPS_AHEAD);
    let mut records = Vec::with_capacity(shards.len());
    let mut finishing: Option<JoinHandle<Result<ShardRecord>>> = None;
    for &plan in shards {
        let mut writer = encoder.start_shard(out, plan)?;
        let filled = fill(&mut writer, plan, &mut groups, tally, progress).await;
        // Whatever happened, the shard before this one ends first: its upload is completed or given up, not cut off.
        match filled.and(joined(finishing.take()).await) {
            Ok(record) => records.extend(record),
            Err(error) => {
                writer.abort().await;
                return Err(error);
            }
        }
        finishing = Some(tokio::spawn(finish(writer, out.clone(), options.clone(), plan)));
    }
    records.extend(joined(finishing).await?);
    Ok(records)
}

/// Appends all row groups of one shard.
async fn fill(
    writer: &mut ShardWriter,
    plan: ShardPlan,
    groups: &mut (impl Stream<Item = Result<RowGroup>> + Unpin),
    tally: &mut Tally,
    progress: &(impl Fn(Progress) + Sync),
) -> Result<()> {
    for _ in plan.row_groups() {
        let group = groups.next().await.unwrap_or(Err(DataError::ThreadLost))?;
        let (rows, before) = (group.rows, writer.bytes());
        writer.append(group).await?;
        tally.done += u64::from(rows);
        tally.bytes_written += writer.bytes() - before;
        progress(tally.progress());
    }
    Ok(())
}

/// Threads that render and encode; 0 stands for one per core.
///
/// # Errors
/// [`DataError::Setting`] when the system does not start them.
pub(super) fn pool(threads: usize) -> Result<rayon::ThreadPool> {
    rayon::ThreadPoolBuilder::new()
        .num_threads(threads)
        .thread_name(|number| format!("synth-{number}"))
        .build()
        .map_err(|error| DataError::Setting(format!("cannot start {threads} threads: {error}")))
}

/// What the work gives, once a thread of the pool has done it. It starts when called, not when first polled.
pub(super) fn in_pool<T, F>(pool: &rayon::ThreadPool, work: F) -> impl Future<Output = Result<T>> + use<T, F>
where
    T: Send + 'static,
    F: FnOnce() -> Result<T> + Send + 'static,
{
    let (sender, receiver) = oneshot::channel();
    pool.spawn(move || {
        // Nobody waits any more when the run has failed elsewhere.
        let _run_is_over = sender.send(work());
    });
    async move { receiver.await.unwrap_or(Err(DataError::ThreadLost)) }
}

/// Completes the upload of a shard, then its record.
async fn finish(writer: ShardWriter, out: Location, options: SynthOptions, plan: ShardPlan) -> Result<ShardRecord> {
    let record = writer.finish().await?;
    record_shard(&out, &options, &plan, &record).await?;
    Ok(record)
}

async fn joined(task: Option<JoinHandle<Result<ShardRecord>>>) -> Result<Option<ShardRecord>> {
    match task {
        None => Ok(None),
        Some(task) => task.await.unwrap_or(Err(DataError::ThreadLost)).map(Some),
    }
}

fn describe(options: &SynthOptions, shards: &[ShardPlan], records: Vec<ShardRecord>) -> Corpus {
    let mut splits: Vec<SplitRecord> = Vec::new();
    for split in Split::ALL.into_iter().filter(|split| split.scenes(options) > 0) {
        let of_split = shards.iter().zip(&records).filter(|(plan, _)| plan.split == split);
        splits.push(SplitRecord {
            name: split.name().into(),
            scenes: split.scenes(options),
            shards: of_split.map(|(_, record)| record.clone()).collect(),
        });
    }
    Corpus {
        format_version: FORMAT_VERSION,
        program_version: env!("CARGO_PKG_VERSION").into(),
        options: SynthOptions { threads: 0, overwrite: false, ..options.clone() },
        splits,
        held_out_pairs: held_out_pairs(options.seed).into_iter().map(|pair| pair.words()).collect(),
        vocabulary: VOCABULARY.iter().map(|word| (*word).into()).collect(),
    }
}
