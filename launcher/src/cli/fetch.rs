//! `blip2 data fetch`.

use clap::Args;

/// `blip2 data fetch`
#[derive(Debug, Args)]
pub struct FetchArgs {
    /// Metadata with URLs and captions: a Parquet file, a prefix of them, or one TSV, CSV, JSON Lines or JSON file; a path,
    /// s3://, gs://, az://, http(s)://.
    pub input: String,
    /// Where the shards go: a path or an object-store URL (s3://, gs://, az://).
    #[arg(long, value_name = "URI")]
    pub out: String,
    /// Fetch again what failed to download, in finished shards only.
    #[arg(long)]
    pub retry_failed: bool,
    /// Only these shards, `FIRST..END`; machines that share an output take different ones.
    #[arg(long, value_name = "RANGE", value_parser = range)]
    pub shards: Option<std::ops::Range<u32>>,
    /// One JSON object on standard output.
    #[arg(long)]
    pub json: bool,

    /// The column of URLs, in any case, or its number in a list without a header [default: url, image_url, img_url or
    /// image_urls].
    #[arg(long, value_name = "NAME", help_heading = "Input")]
    pub url_column: Option<String>,
    /// The column of captions, texts or lists of texts, in any case or by number [default: caption, captions, text, txt,
    /// alt_text or alt].
    #[arg(long, value_name = "NAME", help_heading = "Input")]
    pub caption_column: Option<String>,
    /// A column that is not carried into the shards; may be repeated.
    #[arg(long, value_name = "NAME", help_heading = "Input")]
    pub drop_column: Vec<String>,

    /// The side that the resize mode speaks of, in pixels.
    #[arg(long, default_value_t = 256, help_heading = "Images")]
    pub image_size: u32,
    /// keep_ratio: the shorter side becomes the size; keep_ratio_largest: the longer; center_crop; border (white bars); no.
    #[arg(long, default_value = "keep_ratio", help_heading = "Images",
        value_parser = ["keep_ratio", "keep_ratio_largest", "center_crop", "border", "no"])]
    pub resize_mode: String,
    /// Leave images alone that are not bigger than the size.
    #[arg(long, help_heading = "Images")]
    pub resize_only_if_bigger: bool,
    /// How images are stored (webp: lossless).
    #[arg(long, default_value = "jpg", help_heading = "Images", value_parser = ["jpg", "png", "webp"])]
    pub encode_format: String,
    /// Quality of JPEG, 1 to 100.
    #[arg(long, default_value_t = 95, help_heading = "Images")]
    pub quality: u8,
    /// Refuse images with a shorter side below this.
    #[arg(long, default_value_t = 0, value_name = "PIXELS", help_heading = "Images")]
    pub min_side: u32,
    /// Refuse images with one side more than this many times the other.
    #[arg(long, default_value_t = 100, value_name = "RATIO", help_heading = "Images")]
    pub max_aspect: u32,
    /// Refuse images with more pixels, before any is decoded.
    #[arg(long, default_value_t = 89_478_485, value_name = "PIXELS", help_heading = "Images")]
    pub max_pixels: u64,
    /// Refuse longer downloads, in MiB.
    #[arg(long, default_value_t = 20, value_name = "MIB", help_heading = "Images")]
    pub max_download_mb: u64,

    /// Rows per shard.
    #[arg(long, default_value_t = 10_000, help_heading = "Output")]
    pub shard_rows: u32,
    /// Rows that are stored together while their shard is unfinished; a multiple of 100.
    #[arg(long, default_value_t = 200, help_heading = "Output")]
    pub part_rows: u32,

    /// The User-Agent header; robots rules are matched with the part before the slash.
    #[arg(long, value_name = "TEXT", help_heading = "Rules")]
    pub user_agent: Option<String>,
    /// Do not read robots.txt.
    #[arg(long, help_heading = "Rules")]
    pub ignore_robots_txt: bool,
    /// Do not obey X-Robots-Tag (noai, noimageai, noindex, noimageindex).
    #[arg(long, help_heading = "Rules")]
    pub ignore_robots_header: bool,
    /// Ask loopback, private, link-local and metadata addresses too.
    #[arg(long, help_heading = "Rules")]
    pub allow_private_addresses: bool,
    /// Never ask for these: a file of URLs, hosts, and SHA-256 or MD5 of URLs, one a line.
    #[arg(long, value_name = "FILE", help_heading = "Rules")]
    pub url_blocklist: Option<String>,
    /// Never keep these: a file of SHA-256 of downloads, one a line.
    #[arg(long, value_name = "FILE", help_heading = "Rules")]
    pub content_blocklist: Option<String>,
    /// Redirects followed for one image.
    #[arg(long, default_value_t = 5, help_heading = "Rules")]
    pub max_redirects: u32,

    /// Requests at the same time.
    #[arg(long, default_value_t = 256, help_heading = "Effort")]
    pub concurrency: u32,
    /// Requests to one host at the same time.
    #[arg(long, default_value_t = 8, help_heading = "Effort")]
    pub per_host: u32,
    /// Least time between the starts of two requests to one host, in milliseconds.
    #[arg(long, default_value_t = 20, value_name = "MS", help_heading = "Effort")]
    pub host_delay_ms: u64,
    /// Seconds to connect.
    #[arg(long, default_value_t = 5, value_name = "S", help_heading = "Effort")]
    pub connect_timeout_s: u64,
    /// Seconds until an answer begins, and again until it is complete.
    #[arg(long, default_value_t = 10, value_name = "S", help_heading = "Effort")]
    pub timeout_s: u64,
    /// Tries of one URL, the first included; only what may pass is tried again.
    #[arg(long, default_value_t = 3, help_heading = "Effort")]
    pub tries: u32,
    /// Pause before the second try in milliseconds, doubled for each further one.
    #[arg(long, default_value_t = 500, value_name = "MS", help_heading = "Effort")]
    pub backoff_ms: u64,
    /// The longest Retry-After that is waited for, in seconds.
    #[arg(long, default_value_t = 30, value_name = "S", help_heading = "Effort")]
    pub max_retry_after_s: u64,
    /// Threads that decode and encode; 0 for one per core.
    #[arg(long, default_value_t = 0, help_heading = "Effort")]
    pub threads: usize,
    /// Memory for downloads and decoded images, in MiB, half each.
    #[arg(long, default_value_t = 2048, value_name = "MIB", help_heading = "Effort")]
    pub memory_mb: u64,
}

fn range(text: &str) -> Result<std::ops::Range<u32>, String> {
    let parsed = text.split_once("..").and_then(|(first, end)| Some(first.parse().ok()?..end.parse().ok()?));
    parsed.ok_or_else(|| format!("found `{text}`, expected FIRST..END such as 0..1000"))
}
