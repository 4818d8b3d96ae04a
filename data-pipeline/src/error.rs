//! Everything that can go wrong between an object store and a batch.

use std::sync::Arc;

/// An error of the data pipeline. Messages say what was found, what was expected and what to do.
#[derive(Debug, thiserror::Error)]
pub enum DataError {
    /// A URI that names no store we can open.
    #[error("{uri}: {reason}. Expected a path, file://, s3://bucket/…, gs://bucket/…, az://container/… or http(s)://…")]
    BadUri {
        /// The URI as given.
        uri: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The store could not do what was asked.
    #[error("{uri}: cannot {action}: {source}{advice}")]
    Store {
        /// The object or prefix.
        uri: String,
        /// What was tried: "read", "write", "list" …
        action: &'static str,
        /// What a person can do about it; empty or starting with ". ".
        advice: &'static str,
        /// The store's own error.
        #[source]
        source: Box<object_store::Error>,
    },
    /// A prefix that was expected to hold shards holds none.
    #[error(
        "{uri}: no *{suffix} found ({found}). Check data.sources[].uri, or make shards with `blip2 data synth --out {uri}`"
    )]
    NoShards {
        /// The prefix.
        uri: String,
        /// How their names end.
        suffix: String,
        /// What was found instead.
        found: String,
    },
    /// A shard that is not readable Parquet.
    #[error("{uri}: not a readable Parquet file: {source}. Download or write this shard again, or remove it")]
    Parquet {
        /// The shard.
        uri: String,
        /// The reader's own error.
        #[source]
        source: Arc<parquet::errors::ParquetError>,
    },
    /// An object that is not the one that was read before.
    #[error(
        "{uri}: it changed since it was catalogued: {what}. Restore it, or make the catalogue anew with `blip2 data index`"
    )]
    Changed {
        /// The object.
        uri: String,
        /// What is different.
        what: String,
    },
    /// A file of annotations that cannot be used.
    #[error("{uri}: {problem}")]
    Annotations {
        /// The file.
        uri: String,
        /// The problem, and what was expected.
        problem: String,
    },
    /// A file of a benchmark, or its folder of images, that cannot be used as it is: all that is wrong with it.
    #[error("{uri}: {problems}\n{advice}")]
    Benchmark {
        /// The file or the folder.
        uri: String,
        /// What is wrong with it, and where.
        problems: crate::benchmark::Problems,
        /// What to do.
        advice: &'static str,
    },
    /// A tar that is none, or ends early.
    #[error("{uri}: not a readable tar: {problem}. Download or write this shard again, or remove it")]
    Tar {
        /// The shard.
        uri: String,
        /// What is wrong with it.
        problem: String,
    },
    /// A shard in a form that is not read.
    #[error("{uri}: {problem}. {advice}")]
    NotRead {
        /// The shard.
        uri: String,
        /// The form that was found.
        problem: String,
        /// Advice.
        advice: &'static str,
    },
    /// A source with too many unreadable shards or entries.
    #[error(
        "{uri}: {bad} of {all} {what} cannot be read, more than data.loader.max_bad_fraction = {limit} allows; first: {first}. Mend or remove them, raise the limit, or make the catalogue with `blip2 data index`, which leaves them out"
    )]
    TooManyUnread {
        /// The source.
        uri: String,
        /// Shards or entries.
        what: &'static str,
        /// Unreadable ones.
        bad: u64,
        /// All of them.
        all: u64,
        /// The configured limit.
        limit: f64,
        /// The first problem.
        first: String,
    },
    /// A source without a row that training can use.
    #[error("{uri}: none of its {rows} rows can be used for training ({reasons}). {advice}")]
    NothingUsable {
        /// The source.
        uri: String,
        /// Rows of the source.
        rows: u64,
        /// Rows left out by reason.
        reasons: String,
        /// Advice.
        advice: &'static str,
    },
    /// A catalogue that does not belong to the source or cannot be read.
    #[error("{uri}: {problem}. {advice}")]
    Catalog {
        /// The catalogue.
        uri: String,
        /// What was found.
        problem: String,
        /// What to do.
        advice: &'static str,
    },
    /// A shard whose columns are not those of an image-text shard.
    #[error(
        "{uri}: {problem}; columns found: {columns}. Expected encoded images (`jpg`, `png`, `webp`, `image` …: binary, or a struct with `bytes`) and captions (`caption`, `captions`, `text` …: texts or lists of texts); name others with data.sources[].columns"
    )]
    Schema {
        /// The shard.
        uri: String,
        /// What is missing or of the wrong type.
        problem: String,
        /// The columns that are there.
        columns: String,
    },
    /// Too many samples could not be used.
    #[error(
        "{bad} of {tried} samples that were tried could not be used ({reasons}), more than data.loader.max_bad_fraction = {limit} allows. First ones: {examples}{list}"
    )]
    TooManyBad {
        /// Samples that failed.
        bad: u64,
        /// Samples tried, those that took the place of others included.
        tried: u64,
        /// Count by reason.
        reasons: String,
        /// The configured limit.
        limit: f64,
        /// Addresses of the first failures.
        examples: String,
        /// Where all of them are listed; empty or starting with ". ".
        list: String,
    },
    /// A whole window of rows without a single usable one.
    #[error(
        "{place}: none of the {rows} rows around it can be used (last reason: {reason}). Look at the shard with `blip2 data inspect`"
    )]
    NoUsableRow {
        /// The row that was drawn.
        place: String,
        /// Rows tried.
        rows: u64,
        /// Why the last one failed.
        reason: String,
    },
    /// A setting that cannot work.
    #[error("{0}")]
    Setting(String),
    /// Encoding or rendering failed.
    #[error("cannot encode an image: {0}")]
    Encode(String),
    /// The loader was asked for more after it had failed.
    #[error("the loader stopped at an earlier error; start a new one after mending its cause")]
    Stopped,
    /// A background thread ended without saying why; its own message is on standard error.
    #[error("a background thread of the loader ended unexpectedly")]
    ThreadLost,
}

impl DataError {
    /// Whether it tells of what a shard holds, and not of the store that it is in: trying again would not help, and other
    /// shards are none the worse.
    pub fn is_damage(&self) -> bool {
        matches!(self, Self::Parquet { .. } | Self::Schema { .. } | Self::Tar { .. } | Self::NotRead { .. })
    }
}

/// The result of everything in this crate.
pub type Result<T> = std::result::Result<T, DataError>;
