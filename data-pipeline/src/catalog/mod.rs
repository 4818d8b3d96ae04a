//! The catalogue of a source: its shards, the row groups that they are read in, and which of their rows are used.
//!
//! A row group is what is read at once: in Parquet a row group (or a part of a large one), in a tar a run of samples, in
//! a folder a run of images. It is also the unit of the coarse shuffle. A catalogue is made once ([`index`]), kept as one
//! Parquet file ([`Catalog::save`]), and fixes the order of samples of a run for good.
//!
//! About 50 bytes and one bit per row stay in memory for each row group: 250 MB for LAION-400M (4 million row groups).

mod bad_entries;
mod facts;
mod file;
mod images;
mod index;
mod join;
mod whole;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use arrow::record_batch::RecordBatch;
use lru::LruCache;
use object_store::ObjectMeta;
use serde::{Deserialize, Serialize};

pub use bad_entries::BadEntries;
pub use file::{SavedCatalog, catalog_place};
use images::Images;
pub use index::{IndexProgress, READ_UNIT_BYTES, index, index_some};

use crate::error::{DataError, Result};
use crate::filters::{FILTER_REASONS, Rejected};
use crate::parquet_source::{Part, Shard};
use crate::rows::Rows;
use crate::store::Location;
use crate::tar_source::{self, Roles};

/// Decoded footers that are kept, in bytes: those of about 40 shards of 10,000 rows, and little beside the batches.
const FOOTERS_KEPT: usize = 32 << 20;
/// Bytes of a decoded footer at most, as a rule: that of a synthetic shard of 10,000 rows and 15 columns has 0.74 MB.
const FOOTER_BYTES: usize = 1 << 20;

/// Where the rows of a row group lie in their shard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// In Parquet: the row group, and the first row inside it.
    Parquet {
        /// The Parquet row group.
        row_group: u32,
        /// First row.
        first: u32,
    },
    /// In a tar: the first byte; the row group's `bytes` follow each other.
    Tar {
        /// The first byte.
        offset: u64,
    },
    /// In a folder: the samples of the catalogue from this one on.
    Images {
        /// The first sample.
        first: u64,
    },
}

/// One row group of the catalogue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RowGroup {
    /// Index of the shard.
    pub shard: u32,
    /// Where it lies in the shard.
    pub place: Place,
    /// Rows.
    pub rows: u32,
    /// Rows that pass the filters; only these are in the order.
    pub usable: u32,
    /// Bytes that reading it takes in memory.
    pub bytes: u64,
    /// Rows of the catalogue in front of this row group: `first_row + row` identifies a sample.
    pub first_row: u64,
    /// Where its bits begin in [`Catalog`]'s bits, when some of its rows are left out.
    bits: Option<std::num::NonZeroU32>,
}

/// A shard of the catalogue.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ShardEntry {
    /// Path below the source's URI; empty when the URI is the shard itself.
    pub path: String,
    /// Bytes.
    pub size: u64,
    /// SHA-256 of a Parquet footer; the ETag of a tar. A shard that has another one is not the one that was catalogued.
    pub fingerprint: String,
}

/// A shard that could not be read when the catalogue was made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BadShard {
    /// Its URI.
    pub uri: String,
    /// What is wrong with it.
    pub problem: String,
    /// Whether its rows before the damage are used (a cut tar).
    pub used_in_part: bool,
}

/// The form of a source's files.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Form {
    /// Parquet shards with image bytes.
    Parquet,
    /// Tar shards.
    Tar,
    /// A folder of images, with texts from an annotation file.
    Images,
}

/// What a catalogue was made from. Another description is another catalogue.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Description {
    /// Version of the file.
    pub schema_version: u32,
    /// The form of the files.
    pub form: Form,
    /// Filters and the size of parts, as JSON of the config.
    pub settings: serde_json::Value,
    /// Rows of all shards.
    pub rows: u64,
    /// Rows left out, by reason.
    pub rejected: Rejected,
    /// Images of tars by their format, told from their first bytes.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub formats: BTreeMap<String, u64>,
    /// Shards that could not be read.
    pub bad_shards: Vec<BadShard>,
    /// Whether the source's address is a pattern; the shards' paths are below the folder in front of it then.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub is_pattern: bool,
    /// Entries of annotations that could not be used.
    #[serde(default, skip_serializing_if = "BadEntries::is_empty")]
    pub bad_entries: BadEntries,
}

/// Every shard of a source.
pub struct Catalog {
    /// Where the shards lie.
    pub location: Location,
    /// What it was made from.
    pub description: Description,
    /// The shards.
    pub shards: Vec<ShardEntry>,
    /// The row groups of all shards, in shard order.
    pub row_groups: Vec<RowGroup>,
    /// One bit per row, for row groups of which some rows are left out; byte 0 is not used.
    bits: Vec<u8>,
    images: Option<Images>,
    /// Columns that the config names.
    columns: Option<configs::Columns>,
    footers: Mutex<Footers>,
    /// Whether questions about images are read, of Parquet shards that have several for each.
    asks: bool,
}

/// The footers used last.
struct Footers {
    known: LruCache<u32, Arc<Shard>>,
    bytes: usize,
}

impl Catalog {
    /// The same rows with the questions about their images, which the synthetic corpus has beside captions.
    pub fn asking(mut self) -> Self {
        self.asks = self.description.form == Form::Parquet;
        self
    }

    /// Lists shards and reads what tells of their row groups (of tars, everything); all rows are used that were downloaded.
    /// `progress` is told the shards read and their total.
    ///
    /// # Errors
    /// [`DataError::NoShards`] for an empty prefix; otherwise the first shard's error.
    pub async fn open(location: &Location, progress: impl Fn(usize, usize) + Sync) -> Result<Self> {
        index::open(location, &progress).await
    }

    /// The shards that [`Catalog::open`] reads, sorted by path.
    ///
    /// # Errors
    /// [`DataError::NoShards`] for an empty prefix; [`DataError::Store`].
    pub async fn list(location: &Location) -> Result<Vec<(Location, ObjectMeta)>> {
        Ok(index::shards(location).await?.1.shards)
    }

    /// The error of a catalogue without a row that training can use: what its rows lack, and what to do.
    pub fn nothing_usable(&self) -> Option<DataError> {
        if self.usable() > 0 {
            return None;
        }
        let rejected = &self.description.rejected;
        let reasons = rejected.iter().map(|(reason, rows)| format!("{reason}: {rows}")).collect::<Vec<_>>().join(", ");
        let has = |reason: &str| rejected.contains_key(reason);
        let advice = if self.is_emptied_by_filters() {
            "Loosen data.sources[].filters"
        } else if self.description.form == Form::Tar && has("no_image") && has("no_caption") {
            "Images and texts stand apart: the members of a sample must be next to each other, as `tar --sort=name` writes \
             them"
        } else {
            "docs/data.md says what each reason means; `blip2 data inspect` shows the rows"
        };
        let reasons = if reasons.is_empty() { "there is none".to_owned() } else { reasons };
        Some(DataError::NothingUsable { uri: self.location.uri().into(), rows: self.description.rows, reasons, advice })
    }

    /// The error of a source of which more than `limit` of the shards, or of the entries of its annotations, cannot be read.
    pub fn too_many_bad(&self, limit: f64) -> Option<DataError> {
        let Description { bad_shards, bad_entries, .. } = &self.description;
        let shards = self.shards.len() + bad_shards.iter().filter(|shard| !shard.used_in_part).count();
        let texts = self.images.as_ref().map_or(0, |images| images.captions.values().len()) as u64;
        let entries = texts + bad_entries.count;
        let is_too_much = |bad: u64, all: u64| bad as f64 > limit * all as f64;
        let (what, bad, all, first) = match (bad_shards.first(), bad_entries.first.first()) {
            (Some(first), _) if is_too_much(bad_shards.len() as u64, shards as u64) => {
                ("shards", bad_shards.len() as u64, shards as u64, &first.problem)
            }
            (_, Some(first)) if is_too_much(bad_entries.count, entries) => {
                ("entries of the annotations", bad_entries.count, entries, first)
            }
            _ => return None,
        };
        Some(DataError::TooManyUnread { uri: self.location.uri().into(), what, bad, all, limit, first: first.clone() })
    }

    /// Whether filters of the config, and nothing else, have left every row out.
    pub fn is_emptied_by_filters(&self) -> bool {
        let is_filter = |reason: &String| FILTER_REASONS.contains(&reason.as_str());
        self.usable() == 0 && self.description.rows > 0 && self.description.rejected.keys().all(is_filter)
    }

    /// The same shards again and again until there are `rows` rows: what benchmarks of large sets read.
    ///
    /// # Panics
    /// When there is no row.
    #[must_use]
    pub fn repeated(mut self, rows: u64) -> Self {
        let once = self.row_groups.clone();
        assert!(self.rows() > 0, "a catalogue without rows cannot be repeated");
        for group in once.iter().cycle().copied() {
            let first_row = self.rows();
            if first_row >= rows {
                break;
            }
            self.row_groups.push(RowGroup { first_row, ..group });
        }
        self.description.rows = self.rows();
        self
    }

    /// Rows of all shards, used or not.
    pub fn rows(&self) -> u64 {
        self.row_groups.last().map_or(0, |last| last.first_row + u64::from(last.rows))
    }

    /// Rows that pass the filters.
    pub fn usable(&self) -> u64 {
        self.row_groups.iter().map(|group| u64::from(group.usable)).sum()
    }

    /// Bytes of all shards.
    pub fn bytes(&self) -> u64 {
        self.shards.iter().map(|shard| shard.size).sum()
    }

    /// Bytes of decoded footers that are kept at most.
    pub(crate) fn footer_memory(&self) -> u64 {
        FOOTERS_KEPT.min(self.shards.len() * FOOTER_BYTES) as u64
    }

    /// The row inside the row group that is its `n`-th usable one.
    ///
    /// # Panics
    /// When the row group has no more than `n` usable rows.
    pub fn row_of(&self, row_group: usize, n: usize) -> usize {
        let group = &self.row_groups[row_group];
        let Some(bits) = self.bits_of(group) else { return n };
        let mut left = n;
        for (byte, bits) in bits.iter().enumerate() {
            let ones = bits.count_ones() as usize;
            if left < ones {
                let bit = (0..8).filter(|bit| bits >> bit & 1 == 1).nth(left);
                return byte * 8 + bit.expect("invariant: the byte has more ones than are left");
            }
            left -= ones;
        }
        panic!("row group {row_group} has no usable row {n}")
    }

    /// The bits of a row group, when some of its rows are left out.
    fn bits_of(&self, group: &RowGroup) -> Option<&[u8]> {
        let start = group.bits?.get() as usize;
        Some(&self.bits[start..start + group.rows.div_ceil(8) as usize])
    }

    /// Where a row is, for people.
    pub fn place(&self, row_group: usize, row: usize) -> String {
        let group = &self.row_groups[row_group];
        let uri = self.shard_location(group.shard).uri().to_owned();
        match group.place {
            Place::Parquet { row_group, first } => format!("{uri} row group {row_group} row {}", first as usize + row),
            Place::Tar { offset } => format!("{uri} sample {row} from byte {offset} on"),
            Place::Images { first } => {
                let images = self.images.as_ref().expect("invariant: a folder's catalogue has its images");
                format!("{uri}/{}", images.file(first as usize + row))
            }
        }
    }

    /// Where a shard lies.
    pub fn shard_location(&self, shard: u32) -> Location {
        match self.shards[shard as usize].path.as_str() {
            "" => self.location.clone(),
            path => self.location.child(path),
        }
    }

    /// Reads a row group.
    ///
    /// # Errors
    /// [`DataError::Store`] when the store fails after its retries, [`DataError::Parquet`] and [`DataError::Tar`] when
    /// the bytes are damaged, [`DataError::Changed`] when the shard is not the catalogued one.
    pub async fn read(&self, row_group: usize) -> Result<Rows> {
        let group = &self.row_groups[row_group];
        match group.place {
            Place::Parquet { .. } => self.read_parquet(group).await,
            Place::Tar { offset } => self.read_tar(group, offset).await,
            Place::Images { first } => self.read_images(first as usize, group.rows as usize).await,
        }
    }

    /// Reads some columns of a Parquet row group.
    ///
    /// # Errors
    /// As [`Catalog::read`]; [`DataError::Schema`] when a column is missing.
    ///
    /// # Panics
    /// When the source is no Parquet.
    pub async fn read_columns(&self, row_group: usize, names: &[&str]) -> Result<RecordBatch> {
        let group = &self.row_groups[row_group];
        assert!(self.description.form == Form::Parquet, "columns are Parquet's");
        self.shard(group.shard).await?.read_columns(&part(group), names).await
    }

    /// A Parquet shard with its footer, which is read when it is not at hand.
    ///
    /// # Errors
    /// As [`Catalog::read`].
    pub async fn shard(&self, shard: u32) -> Result<Arc<Shard>> {
        let footers = || self.footers.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = footers().known.get(&shard) {
            return Ok(known.clone());
        }
        let entry = &self.shards[shard as usize];
        let location = self.shard_location(shard);
        let opened = Arc::new(Shard::open(location.clone(), entry.size, self.columns.as_ref()).await?);
        if opened.fingerprint != entry.fingerprint {
            return Err(DataError::Changed { uri: location.uri().into(), what: "its footer is another one".into() });
        }
        footers().add(shard, opened.clone());
        Ok(opened)
    }

    async fn read_parquet(&self, group: &RowGroup) -> Result<Rows> {
        match self.read_part(group).await {
            // Written again under way: the footer at hand is of the old one. The new one may hold the same rows.
            Err(DataError::Changed { .. }) => {
                self.footers.lock().unwrap_or_else(PoisonError::into_inner).forget(group.shard);
                self.read_part(group).await
            }
            other => other,
        }
    }

    async fn read_part(&self, group: &RowGroup) -> Result<Rows> {
        let shard = self.shard(group.shard).await?;
        let mut rows = shard.read(&part(group)).await?;
        if self.asks {
            rows.question_lists = Some(shard.questions(&part(group)).await?);
        }
        Ok(rows)
    }

    async fn read_tar(&self, group: &RowGroup, offset: u64) -> Result<Rows> {
        let location = self.shard_location(group.shard);
        let entry = &self.shards[group.shard as usize];
        // The last run of a tar without its end mark lacks a few bytes of padding.
        let range = offset..(offset + group.bytes).min(entry.size);
        let etag = Some(entry.fingerprint.as_str()).filter(|etag| !etag.is_empty());
        let bytes = location.read_range(range, etag).await?;
        tar_source::rows(bytes, group.rows as usize, &Roles::of(self.columns.as_ref()))
            .map_err(|problem| DataError::Tar { uri: location.uri().into(), problem: problem.into() })
    }
}

fn part(group: &RowGroup) -> Part {
    match group.place {
        Place::Parquet { row_group, first } => Part { row_group, first, rows: group.rows },
        other => panic!("invariant: a Parquet source has Parquet places, not {other:?}"),
    }
}

impl Default for Footers {
    fn default() -> Self {
        Self { known: LruCache::unbounded(), bytes: 0 }
    }
}

impl Footers {
    fn forget(&mut self, shard: u32) {
        self.bytes -= self.known.pop(&shard).map_or(0, |old| old.footer_bytes());
    }

    fn add(&mut self, shard: u32, opened: Arc<Shard>) {
        // Two readers may have opened it at the same time.
        self.forget(shard);
        self.bytes += opened.footer_bytes();
        self.known.put(shard, opened);
        while self.bytes > FOOTERS_KEPT && self.known.len() > 1 {
            self.bytes -= self.known.pop_lru().map_or(0, |(_, oldest)| oldest.footer_bytes());
        }
    }
}
