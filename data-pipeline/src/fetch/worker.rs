//! One row, and one part of a shard.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use arrow::array::{Array, AsArray, RecordBatch};
use futures::future::try_join_all;

use super::blocklist::Blocklist;
use super::download::Downloader;
use super::options::{FetchOptions, ROW_GROUP_ROWS};
use super::picture::{Studio, digits};
use super::rows::{FAILED_TO_RESIZE, Given, Outcome};
use super::shards::ShardFiles;
use crate::error::Result;

/// The reason of rows that the list of contents blocks; asking for them again would change nothing.
pub(super) const BLOCKED_CONTENT: &str = "blocked_content";

/// The reason of lines of a text list that are no rows; there is nothing to ask for again.
pub(super) const BAD_LINE: &str = "bad_line";

/// Everything that turns rows of the input into rows of the output.
pub(super) struct Worker {
    downloader: Downloader,
    studio: Studio,
    blocklist: Arc<Blocklist>,
    pub(super) files: ShardFiles,
    key_digits: usize,
    /// Rows whose outcome is known in this run.
    pub(super) rows: AtomicU64,
    /// Those of them with a picture.
    pub(super) successes: AtomicU64,
    /// Bytes of their downloads.
    pub(super) bytes: AtomicU64,
}

impl Worker {
    /// Starts threads; asks nobody yet.
    ///
    /// # Errors
    /// [`DataError::Setting`](crate::DataError) when the system lacks something.
    pub(super) fn new(options: &FetchOptions, blocklist: Blocklist, files: ShardFiles) -> Result<Self> {
        let blocklist = Arc::new(blocklist);
        let (settings, effort) = (&options.settings, &options.effort);
        Ok(Self {
            downloader: Downloader::new(&settings.rules, effort, blocklist.clone())?,
            studio: Studio::new(&settings.picture, effort.threads, effort.memory_bytes / 2)?,
            blocklist,
            files,
            key_digits: settings.key_digits(),
            rows: AtomicU64::new(0),
            successes: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
        })
    }

    /// What becomes of one row; `number` is its number in the input.
    ///
    /// # Errors
    /// [`DataError::ThreadLost`](crate::DataError) only: a row that fails is an outcome.
    pub(super) async fn row(&self, url: Option<&str>, number: u64) -> Result<Outcome> {
        let outcome = self.outcome(url, number).await?;
        self.rows.fetch_add(1, Ordering::Relaxed);
        if matches!(outcome, Outcome::Success { .. }) {
            self.successes.fetch_add(1, Ordering::Relaxed);
        }
        Ok(outcome)
    }

    /// The outcome of a line without a row's values.
    fn bad_line(&self, reason: &str) -> Outcome {
        self.rows.fetch_add(1, Ordering::Relaxed);
        Outcome::not_downloaded(format!("{BAD_LINE}: {reason}"))
    }

    async fn outcome(&self, url: Option<&str>, number: u64) -> Result<Outcome> {
        let Some(url) = url.filter(|url| !url.trim().is_empty()) else {
            return Ok(Outcome::not_downloaded("no_url"));
        };
        let download = match self.downloader.download(url, number).await {
            Ok(download) => download,
            Err(failure) => return Ok(Outcome::not_downloaded(failure.reason)),
        };
        self.bytes.fetch_add(download.bytes.len() as u64, Ordering::Relaxed);
        let sha256 = self.studio.sha256(&download.bytes).await?;
        if self.blocklist.blocks_content(&sha256) {
            return Ok(Outcome::not_downloaded(BLOCKED_CONTENT));
        }
        let sha256 = digits(&sha256);
        Ok(match self.studio.make(&download.bytes).await? {
            Ok(picture) => Outcome::Success { picture, sha256 },
            Err(message) => Outcome::Failed { status: FAILED_TO_RESIZE, message, sha256: Some(sha256) },
        })
    }

    /// Fetches the rows of one part and stores it. `rows` are their numbers in the shard, `first` is the number of the
    /// shard's first row in the input.
    pub(super) async fn part(
        &self,
        (shard, part): (u32, u32),
        (first, rows): (u64, Range<u32>),
        given: &Given,
        each: &(dyn Fn() + Sync),
    ) -> Result<()> {
        let urls = given.urls.as_string::<i32>();
        let bad_lines = given.bad_lines.as_ref().map(|column| column.as_string::<i32>());
        let outcomes = rows.clone().enumerate().map(|(at, row)| async move {
            let url = urls.is_valid(at).then(|| urls.value(at));
            let outcome = match bad_lines.filter(|reasons| reasons.is_valid(at)) {
                Some(reasons) => Ok(self.bad_line(reasons.value(at))),
                None => self.row(url, first + u64::from(row)).await,
            };
            each();
            outcome
        });
        let outcomes = try_join_all(outcomes).await?;
        let mut batches: Vec<RecordBatch> = Vec::new();
        for start in (0..outcomes.len()).step_by(ROW_GROUP_ROWS as usize) {
            let length = (outcomes.len() - start).min(ROW_GROUP_ROWS as usize);
            let keys = (start..start + length).map(|at| self.key(shard, rows.start + at as u32)).collect();
            let some = &outcomes[start..start + length];
            batches.push(given.slice(start, length).finish(&self.files.schema, keys, some)?);
        }
        drop(outcomes);
        self.files.write_part(shard, part, &batches).await
    }

    /// img2dataset's key of a row.
    fn key(&self, shard: u32, row: u32) -> String {
        let digits = self.key_digits;
        // Without digits for rows, a shard has one row.
        if digits == 0 { format!("{shard:05}") } else { format!("{shard:05}{row:0digits$}") }
    }
}
