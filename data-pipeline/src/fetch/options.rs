//! What a fetch is asked for, and which wishes cannot be met.
//!
//! [`Settings`] decide the bytes of the output, are kept beside it and must be the same at every resumption.
//! [`Effort`] decides only how fast and how patiently it is made, and may change.

use std::ops::Range;

use serde::{Deserialize, Serialize};

use crate::error::{DataError, Result};

/// Rows of a row group: what img2dataset writes and what readers fetch at once.
pub const ROW_GROUP_ROWS: u32 = 100;
/// Shard names and keys have five digits for the shard, as those of img2dataset, and sort by name.
const MAX_SHARDS: u64 = 100_000;
/// Rows that may be under way for each request at the same time. A part is stored when its last row is known, and a row
/// of a server that hangs is known only after `tries` timeouts: with fewer rows, all would wait for the slowest.
const ROWS_PER_REQUEST: u32 = 64;
/// Bytes that decoding may take per pixel: four 16-bit channels as stored, and three 8-bit ones.
pub(super) const DECODE_BYTES_PER_PIXEL: u64 = 11;

/// How the picture is fitted to the size; the names are img2dataset's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ResizeMode {
    /// The longer side becomes the size, white bars fill a square.
    Border,
    /// The shorter side becomes the size.
    KeepRatio,
    /// The longer side becomes the size.
    KeepRatioLargest,
    /// The shorter side becomes the size, the middle square is kept.
    CenterCrop,
    /// The picture keeps its size.
    No,
}

/// How pictures are stored; the column has the same name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ImageFormat {
    /// JPEG, chroma halved both ways.
    Jpg,
    /// PNG.
    Png,
    /// Lossless WebP.
    Webp,
}

impl ImageFormat {
    /// The name of the column.
    pub fn column(self) -> &'static str {
        match self {
            Self::Jpg => "jpg",
            Self::Png => "png",
            Self::Webp => "webp",
        }
    }
}

/// Which columns of the metadata are read and how they are called.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ColumnChoice {
    /// The column of URLs; `url`, `image_url`, `img_url` or `image_urls` in any case when not given. A number in a text
    /// list without a header.
    pub url: Option<String>,
    /// The column of captions, texts or lists of texts; `caption`, `captions`, `text`, `txt`, `alt_text` or `alt` in any
    /// case when not given.
    pub caption: Option<String>,
    /// Columns that are not carried into the output.
    pub dropped: Vec<String>,
}

/// What happens to a downloaded picture.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PictureOptions {
    /// The side that `mode` speaks of, in pixels.
    pub size: u32,
    /// How the picture is fitted to it.
    pub mode: ResizeMode,
    /// Leaves pictures alone whose deciding side is not longer than `size`.
    pub only_if_bigger: bool,
    /// How pictures are stored.
    pub format: ImageFormat,
    /// Quality of JPEG, 1 to 100.
    pub quality: u8,
    /// Pictures with a shorter side below this are refused.
    pub min_side: u32,
    /// Pictures with sides further apart than this ratio are refused.
    pub max_aspect: u32,
    /// Pictures whose header promises more pixels are refused before any is decoded.
    pub max_pixels: u64,
}

impl Default for PictureOptions {
    /// img2dataset's, but for `keep_ratio`: its default `border` paints white bars into the training data. The limit of
    /// pixels is where Pillow warns of a decompression bomb.
    fn default() -> Self {
        Self {
            size: 256,
            mode: ResizeMode::KeepRatio,
            only_if_bigger: false,
            format: ImageFormat::Jpg,
            quality: 95,
            min_side: 0,
            max_aspect: 100,
            max_pixels: 89_478_485,
        }
    }
}

/// What is asked of servers, and what is refused.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rules {
    /// The User-Agent header; the part before the first `/` is the name that robots rules are matched with.
    pub user_agent: String,
    /// Whether `robots.txt` is read and obeyed.
    pub robots_txt: bool,
    /// Whether `X-Robots-Tag` (noai, noimageai, noindex, noimageindex) is obeyed.
    pub robots_header: bool,
    /// Whether loopback, private, link-local and metadata addresses may be asked.
    pub private_addresses: bool,
    /// Longer downloads are refused.
    pub max_download_bytes: u64,
    /// Redirects followed for one picture.
    pub max_redirects: u32,
}

impl Default for Rules {
    fn default() -> Self {
        Self {
            user_agent: concat!("blip2-fetch/", env!("CARGO_PKG_VERSION"), " (image-text dataset download)").into(),
            robots_txt: true,
            robots_header: true,
            private_addresses: false,
            max_download_bytes: 20 << 20,
            max_redirects: 5,
        }
    }
}

/// Everything that the bytes of the output depend on, besides the input and the answers of servers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// Columns of the input.
    pub columns: ColumnChoice,
    /// Rows of one shard.
    pub shard_rows: u32,
    /// Rows that are kept together while their shard is unfinished, a multiple of [`ROW_GROUP_ROWS`].
    pub part_rows: u32,
    /// What happens to pictures.
    pub picture: PictureOptions,
    /// What is asked and refused.
    pub rules: Rules,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            columns: ColumnChoice::default(),
            shard_rows: 10_000,
            part_rows: 200,
            picture: PictureOptions::default(),
            rules: Rules::default(),
        }
    }
}

/// How fast and how patiently; free to change between resumptions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Effort {
    /// Requests at the same time.
    pub concurrency: u32,
    /// Requests to one host at the same time.
    pub per_host: u32,
    /// Milliseconds between the starts of two requests to one host.
    pub host_delay_ms: u64,
    /// Seconds until a connection counts as failed.
    pub connect_timeout_s: u64,
    /// Seconds until an answer begins, and again until it is complete.
    pub timeout_s: u64,
    /// Tries of one URL, the first included.
    pub tries: u32,
    /// Milliseconds before the second try; doubled for each further one.
    pub backoff_ms: u64,
    /// The longest `Retry-After`, in seconds, that is waited for.
    pub max_retry_after_s: u64,
    /// Threads that decode and encode; 0 for one per core.
    pub threads: usize,
    /// Bytes that downloads and decoded pictures may take, half each.
    pub memory_bytes: u64,
}

impl Default for Effort {
    fn default() -> Self {
        Self {
            concurrency: 256,
            per_host: 8,
            host_delay_ms: 20,
            connect_timeout_s: 5,
            timeout_s: 10,
            tries: 3,
            backoff_ms: 500,
            max_retry_after_s: 30,
            threads: 0,
            memory_bytes: 2 << 30,
        }
    }
}

/// What a fetch does.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FetchOptions {
    /// What decides the bytes.
    pub settings: Settings,
    /// How fast.
    pub effort: Effort,
    /// Only these shards; all when not given. Machines that share an output take different ones.
    pub shards: Option<Range<u32>>,
    /// Fetches only what failed to download in finished shards.
    pub retry_failed: bool,
    /// A file of URLs, hosts and hashes of URLs that are never asked for.
    pub url_blocklist: Option<String>,
    /// A file of SHA-256 hashes of downloads that are never kept.
    pub content_blocklist: Option<String>,
}

impl FetchOptions {
    /// Checks every field and names all problems at once.
    ///
    /// # Errors
    /// [`DataError::Setting`].
    pub fn validate(&self) -> Result<()> {
        let (s, e, p) = (&self.settings, &self.effort, &self.settings.picture);
        let half = e.memory_bytes / 2;
        let decoding = p.max_pixels.saturating_mul(DECODE_BYTES_PER_PIXEL);
        let agent = s.rules.user_agent.as_bytes();
        let empty = self.shards.as_ref().is_some_and(Range::is_empty);
        let checks = [
            (s.shard_rows > 0, "shard_rows is 0, expected at least 1".into()),
            (
                s.part_rows > 0 && s.part_rows.is_multiple_of(ROW_GROUP_ROWS),
                format!("part_rows is {}, expected a multiple of {ROW_GROUP_ROWS}", s.part_rows),
            ),
            ((1..=8192).contains(&p.size), format!("image_size is {}, expected 1 to 8192 pixels", p.size)),
            ((1..=100).contains(&p.quality), format!("quality is {}, expected 1 to 100", p.quality)),
            (p.max_aspect > 0, "max_aspect is 0, expected at least 1".into()),
            (e.concurrency > 0 && e.per_host > 0, "concurrency and per_host are at least 1".into()),
            (e.tries > 0, "tries is 0, expected at least 1".into()),
            (e.timeout_s > 0 && e.connect_timeout_s > 0, "timeouts are at least 1 s".into()),
            (
                s.rules.max_download_bytes > 0 && s.rules.max_download_bytes <= half,
                format!("max_download_bytes is {}, expected 1 to half the memory, {half}", s.rules.max_download_bytes),
            ),
            (
                decoding <= half,
                format!("max_pixels is {}: decoding takes {decoding} bytes, half the memory is {half}", p.max_pixels),
            ),
            (
                agent.first().is_some_and(|c| *c != b'/') && agent.iter().all(|c| (b' '..=b'~').contains(c)),
                format!(
                    "user_agent is {:?}, expected a name in visible ASCII, such as blip2-fetch/1",
                    s.rules.user_agent
                ),
            ),
            (!empty, format!("shards is {:?}, expected FIRST..END with at least one", self.shards)),
        ];
        let problems: Vec<String> = checks.into_iter().filter(|(holds, _)| !holds).map(|(_, p)| p).collect();
        if problems.is_empty() {
            return Ok(());
        }
        Err(DataError::Setting(format!("nothing can be fetched like this: {}", problems.join("; "))))
    }

    /// Parts that are under way at the same time.
    pub(super) fn parts_in_flight(&self) -> usize {
        let rows = self.effort.concurrency.saturating_mul(ROWS_PER_REQUEST);
        rows.div_ceil(self.settings.part_rows) as usize + 1
    }

    /// The shards that `rows` rows make, within the range asked for.
    pub(super) fn shards_of(&self, rows: u64) -> Result<Range<u32>> {
        let all = rows.div_ceil(self.settings.shard_rows.into());
        if all > MAX_SHARDS {
            return Err(DataError::Setting(format!(
                "{rows} rows make {all} shards, more than the {MAX_SHARDS} that five digits name. Raise shard_rows"
            )));
        }
        let all = all as u32;
        let asked = self.shards.clone().unwrap_or(0..all);
        if asked.start >= all && all > 0 {
            return Err(DataError::Setting(format!("shards {asked:?} were asked for; the input makes 0..{all}")));
        }
        Ok(asked.start..asked.end.min(all))
    }
}

impl Rules {
    /// The name that robots rules are matched with, lower case.
    pub(super) fn agent_name(&self) -> String {
        self.user_agent.split(['/', ' ']).next().unwrap_or_default().to_ascii_lowercase()
    }
}

impl Settings {
    /// Digits of a row's number in a key, as img2dataset's `oom_sample_per_shard`.
    pub(super) fn key_digits(&self) -> usize {
        if self.shard_rows <= 1 { 0 } else { (self.shard_rows - 1).ilog10() as usize + 1 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_are_valid_and_every_problem_is_named() {
        FetchOptions::default().validate().unwrap();
        let mut bad = FetchOptions { shards: Some(3..3), ..FetchOptions::default() };
        bad.settings.part_rows = 150;
        bad.settings.rules.user_agent = "/1".into();
        bad.effort.memory_bytes = 1 << 20;
        let message = bad.validate().unwrap_err().to_string();
        for name in ["part_rows is 150", "user_agent", "max_pixels", "max_download_bytes", "3..3"] {
            assert!(message.contains(name), "{name} is missing in: {message}");
        }
    }

    #[test]
    fn keys_have_the_digits_of_img2dataset() {
        let digits = |shard_rows| Settings { shard_rows, ..Settings::default() }.key_digits();
        assert_eq!([1, 2, 10, 11, 1000, 10_000, 10_001].map(digits), [0, 1, 1, 2, 3, 4, 5]);
    }
}
