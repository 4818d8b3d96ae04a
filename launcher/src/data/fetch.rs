//! `blip2 data fetch`: the images of LAION-like metadata, as shards.

use std::time::Instant;

use data_pipeline::fetch::{
    ColumnChoice, Effort, FetchOptions, FetchSummary, ImageFormat, PictureOptions, ResizeMode, Rules, Settings, fetch,
};
use data_pipeline::store::Location;
use serde_json::json;

use super::{block_on, print_json};
use crate::cli::FetchArgs;
use crate::progress::{Progress, bytes, count};

/// Characters of a source's name; configs take 100.
const MAX_NAME_CHARS: usize = 60;
/// Reasons that are printed; `--json` has all.
const REASONS_SHOWN: usize = 20;

fn options(args: &FetchArgs) -> FetchOptions {
    let mode = match args.resize_mode.as_str() {
        "border" => ResizeMode::Border,
        "keep_ratio_largest" => ResizeMode::KeepRatioLargest,
        "center_crop" => ResizeMode::CenterCrop,
        "no" => ResizeMode::No,
        _ => ResizeMode::KeepRatio,
    };
    let format = match args.encode_format.as_str() {
        "png" => ImageFormat::Png,
        "webp" => ImageFormat::Webp,
        _ => ImageFormat::Jpg,
    };
    let picture = PictureOptions {
        size: args.image_size,
        mode,
        only_if_bigger: args.resize_only_if_bigger,
        format,
        quality: args.quality,
        min_side: args.min_side,
        max_aspect: args.max_aspect,
        max_pixels: args.max_pixels,
    };
    let columns = ColumnChoice {
        url: args.url_column.clone(),
        caption: args.caption_column.clone(),
        dropped: args.drop_column.clone(),
    };
    FetchOptions {
        settings: Settings {
            columns,
            shard_rows: args.shard_rows,
            part_rows: args.part_rows,
            picture,
            rules: rules(args),
        },
        effort: effort(args),
        shards: args.shards.clone(),
        retry_failed: args.retry_failed,
        url_blocklist: args.url_blocklist.clone(),
        content_blocklist: args.content_blocklist.clone(),
    }
}

fn rules(args: &FetchArgs) -> Rules {
    Rules {
        user_agent: args.user_agent.clone().unwrap_or_else(|| Rules::default().user_agent),
        robots_txt: !args.ignore_robots_txt,
        robots_header: !args.ignore_robots_header,
        private_addresses: args.allow_private_addresses,
        max_download_bytes: args.max_download_mb << 20,
        max_redirects: args.max_redirects,
    }
}

fn effort(args: &FetchArgs) -> Effort {
    Effort {
        concurrency: args.concurrency,
        per_host: args.per_host,
        host_delay_ms: args.host_delay_ms,
        connect_timeout_s: args.connect_timeout_s,
        timeout_s: args.timeout_s,
        tries: args.tries,
        backoff_ms: args.backoff_ms,
        max_retry_after_s: args.max_retry_after_s,
        threads: args.threads,
        memory_bytes: args.memory_mb << 20,
    }
}

/// Fetches the images, or goes on.
///
/// # Errors
/// Options that cannot be met, an output that was begun with others, or a store that fails. Images that cannot be had
/// are counted, not errors.
pub fn run(args: &FetchArgs) -> anyhow::Result<()> {
    let options = options(args);
    let (input, out) = (Location::parse(&args.input)?, Location::parse(&args.out)?);
    let progress = Progress::start("fetching images", "rows", 0);
    let started = Instant::now();
    let work = fetch(&input, &out, &options, |p| progress.set(p.rows, p.total));
    let summary = block_on(work, "finished shards and parts stay; the same command continues from them")?;
    progress.finish();
    let seconds = started.elapsed().as_secs_f64();
    if args.json {
        return print_json(&json!({ "schema_version": 1, "seconds": seconds, "fetch": summary }));
    }
    print_summary(args, &summary, seconds);
    print_source(args, &summary);
    Ok(())
}

/// Prints what the shards are to a config.
#[expect(clippy::print_stdout, reason = "the command's answer")]
fn print_source(args: &FetchArgs, summary: &FetchSummary) {
    for column in &summary.not_carried {
        println!("not carried, as the first file has no such column: {column}");
    }
    if let Some(columns) = &summary.list_columns {
        println!("{}: {columns}", args.input);
    }
    println!("for data.sources of a config:\n  - {}", source(&args.out));
}

/// The source of shards at `uri` as one line of YAML.
fn source(uri: &str) -> String {
    let uri = uri.trim_end_matches('/');
    format!("{{ name: {}, kind: parquet, uri: {}, weight: 1.0 }}", scalar(&source_name(uri)), scalar(uri))
}

/// A text as a scalar of YAML, with quotation marks where it could be read as something else.
fn scalar(text: &str) -> String {
    const WORDS: [&str; 9] = ["null", "true", "false", "yes", "no", "on", "off", "y", "n"];
    let is_plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '/' | '.' | '_' | '-' | ':');
    let begins_plain = text.starts_with(|c: char| c.is_ascii_alphabetic() || c == '/');
    let is_word = WORDS.iter().any(|word| word.eq_ignore_ascii_case(text));
    match begins_plain && !is_word && !text.ends_with(':') && text.chars().all(is_plain) {
        true => text.to_owned(),
        false => serde_json::Value::from(text).to_string(),
    }
}

/// A name that configs take (letters, digits, `.`, `_`, `-`), from the last folder of `uri`.
fn source_name(uri: &str) -> String {
    let folder = uri.rsplit(['/', ':']).next().unwrap_or_default();
    let is_kept = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    let name: String = folder.chars().map(|c| if is_kept(c) { c } else { '_' }).take(MAX_NAME_CHARS).collect();
    match name.trim_start_matches(['.', '-', '_']) {
        "" => "fetched".to_owned(),
        name => name.to_owned(),
    }
}

#[expect(clippy::print_stdout, reason = "the command's answer")]
fn print_summary(args: &FetchArgs, summary: &FetchSummary, seconds: f64) {
    println!(
        "{}: {} shards with {} rows, {}; {} rows fetched in {seconds:.1} s ({}/s), {} downloaded",
        args.out,
        summary.shards,
        count(summary.rows),
        bytes(summary.shard_bytes),
        count(summary.rows_fetched),
        count((summary.rows_fetched as f64 / seconds) as u64),
        bytes(summary.bytes_downloaded),
    );
    if args.retry_failed {
        println!("{} shards written anew, {} unchanged", summary.shards_rewritten, summary.shards_kept);
    }
    println!(
        "{} images, {} failed to download, {} failed to resize",
        count(summary.successes),
        count(summary.failed_to_download),
        count(summary.failed_to_resize)
    );
    let mut reasons: Vec<_> = summary.reasons.iter().filter(|(reason, _)| *reason != "success").collect();
    reasons.sort_by_key(|(reason, rows)| (std::cmp::Reverse(**rows), (*reason).clone()));
    for (reason, rows) in reasons.iter().take(REASONS_SHOWN) {
        println!("  {reason}: {}", count(**rows));
    }
    if reasons.len() > REASONS_SHOWN {
        println!("  and {} more reasons; --json has them all", reasons.len() - REASONS_SHOWN);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_printed_source_is_one_that_configs_take() {
        for (uri, name) in [
            ("shards/cc3m", "cc3m"),
            ("s3://bucket/laion400m/", "laion400m"),
            ("s3://bucket", "bucket"),
            ("a folder/été 1", "t__1"),
            ("../.hidden", "hidden"),
            ("2024", "2024"),
            ("/x/null", "null"),
            ("..", "fetched"),
            ("x/a: b, {c}", "b___c_"),
        ] {
            let found: serde_yaml::Value = serde_yaml::from_str(&source(uri)).unwrap();
            assert_eq!(found["name"].as_str(), Some(name), "{}", source(uri));
            assert_eq!(found["uri"].as_str(), Some(uri.trim_end_matches('/')), "{}", source(uri));
            assert_eq!((found["kind"].as_str(), found["weight"].as_f64()), (Some("parquet"), Some(1.0)));
            let tiny = configs::preset("tiny").unwrap();
            let start = tiny.find("  sources:\n").unwrap() + "  sources:\n".len();
            let length: usize = tiny[start..].lines().take_while(|l| l.starts_with("   ")).map(|l| l.len() + 1).sum();
            let config = format!("{}    - {}\n{}", &tiny[..start], source(uri), &tiny[start + length..]);
            let loaded = configs::load_str("config", &config, &configs::Overrides::none());
            assert!(loaded.is_ok(), "{}: {:?}", source(uri), loaded.err());
        }
    }
}
