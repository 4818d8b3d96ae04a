//! The records of a corpus in the store, and what a rerun may keep.
//!
//! | object | written | says |
//! |---|---|---|
//! | `corpus.partial.json` | first | a corpus with these options is being written (or an old one is being deleted) |
//! | `train/00000.parquet` | appears complete | |
//! | `train/_00000_stats.json` | after its shard | rows, bytes and SHA-256 of the shard, and the options |
//! | `corpus.json` | last; then the first one goes | the corpus is complete |
//!
//! A rerun keeps a shard only if its record has the same options and the bytes in the store have the recorded hash. It
//! reads such a shard once, which takes about a tenth of the time of making it, and trusts no size or time stamp.

use futures::StreamExt;
use object_store::{ObjectStoreExt, PutMode, PutPayload};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::benchmarks;
use super::options::SynthOptions;
use super::shards::ShardPlan;
use super::splits::Split;
use crate::error::{DataError, Result};
use crate::hex::hex;
use crate::store::Location;

/// Raised whenever the same options give other bytes than before.
pub(super) const FORMAT_VERSION: u32 = 1;
const COMPLETE: &str = "corpus.json";
const PARTIAL: &str = "corpus.partial.json";
/// What follows the five digits in the name of a shard.
pub(super) const SHARD_SUFFIX: &str = ".parquet";
/// What follows the five digits in the name of a shard's record, as in img2dataset's.
pub(super) const RECORD_SUFFIX: &str = "_stats.json";
/// What the name of a shard's record starts with: readers of whole folders (pyarrow, Spark) pass such files over.
pub(super) const RECORD_PREFIX: &str = "_";

/// What `corpus.json` says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Corpus {
    /// Version of the corpus format; corpora of different versions differ in their bytes.
    pub format_version: u32,
    /// Version of the program, which Parquet footers repeat.
    pub program_version: String,
    /// What the corpus was made from.
    pub options: SynthOptions,
    /// The splits that hold scenes.
    pub splits: Vec<SplitRecord>,
    /// The colour-shape pairs that training never shows, as `red circle`.
    pub held_out_pairs: Vec<String>,
    /// Every word of captions, questions and answers.
    pub vocabulary: Vec<String>,
}

/// One split in `corpus.json`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SplitRecord {
    /// Its folder.
    pub name: String,
    /// Its scenes.
    pub scenes: u64,
    /// Its shards, in order.
    pub shards: Vec<ShardRecord>,
}

/// One complete shard.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShardRecord {
    /// Name below the corpus.
    pub name: String,
    /// Scenes.
    pub rows: u64,
    /// Size of the file.
    pub bytes: u64,
    /// SHA-256 of the file, hexadecimal.
    pub sha256: String,
}

/// The options and versions that two corpora must share to have the same bytes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Origin {
    format_version: u32,
    program_version: String,
    options: SynthOptions,
}

/// What `corpus.partial.json` says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Partial {
    /// A corpus of this origin is being written.
    Writing(Origin),
    /// Whatever was here is being deleted.
    Clearing,
}

/// What `_…_stats.json` says; the first four fields are img2dataset's.
#[derive(Debug, Serialize, Deserialize)]
struct ShardStats {
    count: u64,
    successes: u64,
    failed_to_download: u64,
    failed_to_resize: u64,
    #[serde(flatten)]
    record: ShardRecord,
    origin: Origin,
}

impl Origin {
    fn of(options: &SynthOptions) -> Self {
        let options = SynthOptions { threads: 0, overwrite: false, ..options.clone() };
        Self { format_version: FORMAT_VERSION, program_version: env!("CARGO_PKG_VERSION").into(), options }
    }
}

/// The record of the complete corpus at `out`; `None` when there is none, or none complete.
///
/// # Errors
/// [`DataError::Store`], or [`DataError::Setting`] when `corpus.json` is no such record.
pub async fn read_corpus(out: &Location) -> Result<Option<Corpus>> {
    read_json(&out.child(COMPLETE)).await
}

/// Makes `out` ready for a corpus with these options: an unfinished or complete one with the same options stays.
///
/// # Errors
/// [`DataError::Setting`] when `out` holds anything else, [`DataError::Store`].
pub(super) async fn claim(out: &Location, options: &SynthOptions) -> Result<()> {
    let origin = Origin::of(options);
    if let Some(corpus) = read_corpus(out).await? {
        let found = Origin {
            format_version: corpus.format_version,
            program_version: corpus.program_version,
            options: corpus.options,
        };
        if found == origin {
            return Ok(());
        }
        replace(out, options, &found, "a complete corpus").await?;
    } else {
        match read_json::<Partial>(&out.child(PARTIAL)).await? {
            Some(Partial::Writing(found)) if found == origin => return Ok(()),
            Some(Partial::Writing(found)) => replace(out, options, &found, "an unfinished corpus").await?,
            Some(Partial::Clearing) => clear(out).await?,
            None => refuse_foreign_shards(out).await?,
        }
    }
    create_partial(out, &Partial::Writing(origin)).await
}

/// Deletes the corpus at `out` when the options allow it.
async fn replace(out: &Location, options: &SynthOptions, found: &Origin, what: &str) -> Result<()> {
    if options.overwrite {
        return clear(out).await;
    }
    Err(DataError::Setting(format!(
        "{}: there is {what} made with other options: {}. Nothing was changed. Choose another place, repeat its options \
         to continue it, or ask to overwrite it",
        out.uri(),
        differences(found, &Origin::of(options)).join(", ")
    )))
}

/// `seed 1 instead of 2` for every option that differs.
fn differences(found: &Origin, asked: &Origin) -> Vec<String> {
    let fields = |origin: &Origin| {
        let mut all = serde_json::Map::new();
        all.insert("format_version".into(), origin.format_version.into());
        all.insert("program_version".into(), origin.program_version.clone().into());
        if let Ok(serde_json::Value::Object(options)) = serde_json::to_value(&origin.options) {
            all.extend(options);
        }
        all
    };
    let asked = fields(asked);
    fields(found)
        .iter()
        .filter(|(name, value)| asked.get(*name) != Some(value))
        .map(|(name, value)| format!("{name} {value} instead of {}", asked.get(name).unwrap_or_default()))
        .collect()
}

/// Deletes a synthetic corpus and only it: files of its own names. Leaves a note first, so that an interrupted deletion
/// is continued and never taken for a corpus.
async fn clear(out: &Location) -> Result<()> {
    let benchmark_files = benchmarks::own_files(out).await?;
    let partial = out.child(PARTIAL);
    partial.write(json(&Partial::Clearing)).await?;
    out.child(COMPLETE).delete().await?;
    benchmarks::delete(out, benchmark_files).await?;
    for split in Split::ALL {
        for (prefix, suffix) in [("", SHARD_SUFFIX), (RECORD_PREFIX, RECORD_SUFFIX)] {
            for (place, _) in out.child(split.name()).list(suffix).await? {
                if is_own_name(&place, prefix, suffix) {
                    place.delete().await?;
                }
            }
        }
    }
    partial.delete().await
}

/// Five digits between the two, as `write_corpus` names its files.
fn is_own_name(place: &Location, prefix: &str, suffix: &str) -> bool {
    let number = place.path.filename().and_then(|name| name.strip_prefix(prefix)?.strip_suffix(suffix));
    number.is_some_and(|number| number.len() == 5 && number.bytes().all(|byte| byte.is_ascii_digit()))
}

async fn refuse_foreign_shards(out: &Location) -> Result<()> {
    match out.list(SHARD_SUFFIX).await?.first() {
        None => Ok(()),
        Some((place, _)) => Err(DataError::Setting(format!(
            "{}: there are Parquet files already ({}), and neither {COMPLETE} nor {PARTIAL} says that they are a \
             synthetic corpus. Nothing was changed. Choose another place",
            out.uri(),
            place.uri()
        ))),
    }
}

/// Takes the place. Two runs that start at the same moment with different options cannot both take it, where the store
/// can create exclusively.
async fn create_partial(out: &Location, partial: &Partial) -> Result<()> {
    let place = out.child(PARTIAL);
    let payload = PutPayload::from(json(partial));
    match place.store.put_opts(&place.path, payload, PutMode::Create.into()).await {
        Ok(_) => Ok(()),
        Err(object_store::Error::NotImplemented { .. } | object_store::Error::NotSupported { .. }) => {
            place.write(json(partial)).await
        }
        Err(object_store::Error::AlreadyExists { .. })
            if read_json::<Partial>(&place).await?.as_ref() == Some(partial) =>
        {
            Ok(())
        }
        Err(source) => Err(place.error("write", source)),
    }
}

/// The record of a shard that is complete and intact; `None` when it must be written.
pub(super) async fn kept_shard(
    out: &Location,
    options: &SynthOptions,
    plan: &ShardPlan,
) -> Result<Option<ShardRecord>> {
    // A record that cannot be read is no record: the shard is made again.
    let Ok(Some(stats)) = read_json::<ShardStats>(&out.child(&plan.record_name())).await else { return Ok(None) };
    let record = stats.record;
    if stats.origin != Origin::of(options) || record.name != plan.name() || record.rows != u64::from(plan.rows) {
        return Ok(None);
    }
    let place = out.child(&plan.name());
    let got = match place.store.get(&place.path).await {
        Ok(got) => got,
        Err(object_store::Error::NotFound { .. }) => return Ok(None),
        Err(source) => return Err(place.error("read", source)),
    };
    if got.meta.size != record.bytes {
        return Ok(None);
    }
    let mut sha256 = Sha256::new();
    let mut stream = got.into_stream();
    while let Some(bytes) = stream.next().await {
        sha256.update(&bytes.map_err(|source| place.error("read", source))?);
    }
    Ok((hex(&sha256.finalize()) == record.sha256).then_some(record))
}

/// Records a shard as complete.
pub(super) async fn record_shard(
    out: &Location,
    options: &SynthOptions,
    plan: &ShardPlan,
    record: &ShardRecord,
) -> Result<()> {
    let stats = ShardStats {
        count: record.rows,
        successes: record.rows,
        failed_to_download: 0,
        failed_to_resize: 0,
        record: record.clone(),
        origin: Origin::of(options),
    };
    out.child(&plan.record_name()).write(json(&stats)).await
}

/// Takes back the statement that the corpus is complete, before a damaged shard is written again.
pub(super) async fn reopen(out: &Location, options: &SynthOptions) -> Result<()> {
    if read_corpus(out).await?.is_some() {
        out.child(PARTIAL).write(json(&Partial::Writing(Origin::of(options)))).await?;
        out.child(COMPLETE).delete().await?;
    }
    Ok(())
}

/// Declares the corpus complete.
pub(super) async fn complete(out: &Location, corpus: &Corpus) -> Result<()> {
    out.child(COMPLETE).write(json(corpus)).await?;
    out.child(PARTIAL).delete().await
}

/// The object at `place`; `None` when there is none.
pub(super) async fn read_json<T: DeserializeOwned>(place: &Location) -> Result<Option<T>> {
    let Some(bytes) = place.read_if_there().await? else { return Ok(None) };
    serde_json::from_slice(&bytes).map(Some).map_err(|error| {
        DataError::Setting(format!(
            "{}: not a record of a synthetic corpus of this version: {error}. Choose another place, or delete it",
            place.uri()
        ))
    })
}

pub(super) fn json(value: &impl Serialize) -> Vec<u8> {
    let mut bytes = serde_json::to_vec_pretty(value).expect("invariant: records are plain data");
    bytes.push(b'\n');
    bytes
}
