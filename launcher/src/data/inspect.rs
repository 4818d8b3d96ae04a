//! `blip2 data inspect`: schema, counts and a page of samples.

use anyhow::Context;
use data_pipeline::catalog::Catalog;
use data_pipeline::inspect::{Distribution, InspectOptions, Inspection, inspect};
use data_pipeline::store::Location;
use serde_json::json;

use super::{block_on, page, print_json};
use crate::cli::InspectArgs;
use crate::progress::{Progress, bytes, count};

/// Reads footers and some row groups, prints what they hold, and writes the page.
///
/// # Errors
/// A prefix without shards, a shard that cannot be read, or a page that cannot be written.
pub fn run(args: &InspectArgs) -> anyhow::Result<()> {
    let location = Location::parse(&args.uri)?;
    let footers = Progress::start("reading footers", "shards", 0);
    let rows = Progress::start("reading rows", "row groups", 0);
    let row_groups = if args.row_groups == 0 { usize::MAX } else { args.row_groups };
    let samples = if args.html.is_some() || args.json { args.samples } else { 0 };
    let options = InspectOptions { samples, row_groups, seed: args.seed };
    let work = async {
        let catalog = Catalog::open(&location, |done, total| footers.set(done as u64, total as u64)).await?;
        inspect(&catalog, options, |done, total| rows.set(done as u64, total as u64)).await
    };
    let found = block_on(work, "nothing was written")?;
    footers.finish();
    rows.finish();
    if let Some(file) = &args.html {
        // Written beside and renamed: an interrupted or full disk leaves no half page.
        let beside = file.with_extension("html.tmp");
        std::fs::write(&beside, page::html(&found))
            .and_then(|()| std::fs::rename(&beside, file))
            .inspect_err(|_| drop(std::fs::remove_file(&beside)))
            .with_context(|| format!("cannot write the page {}", file.display()))?;
    }
    if args.json {
        return print_json(&json!({ "schema_version": 1, "inspection": found }));
    }
    print(&found, args);
    Ok(())
}

fn spread(found: Option<&Distribution>) -> String {
    found.map_or_else(|| "-".into(), |s| format!("{} / {} / {}", s.min, s.median, s.max))
}

#[expect(clippy::print_stdout, reason = "the command's answer")]
fn print(found: &Inspection, args: &InspectArgs) {
    println!("{}", found.uri);
    println!(
        "  {} shards, {} row groups, {} rows, {}",
        count(found.shards as u64),
        count(found.row_groups as u64),
        count(found.rows),
        bytes(found.bytes)
    );
    println!("columns");
    for (name, data_type) in &found.schema {
        println!("  {name}: {data_type}");
    }
    for shard in found.other_schemas.iter().take(10) {
        println!("  other columns in {shard}");
    }
    println!("counted in {} of {} rows", count(found.rows_read), count(found.rows));
    for (status, rows) in &found.status {
        println!("  status {status}: {}", count(*rows));
    }
    println!("  without image: {}", count(found.without_image));
    println!("  without caption: {}", count(found.without_caption));
    println!("  words per caption (min / median / max): {}", spread(found.caption_words.as_ref()));
    println!("  bytes per image (min / median / max): {}", spread(found.image_bytes.as_ref()));
    println!("  shorter side in pixels (min / median / max): {}", spread(found.short_side.as_ref()));
    if let Some(file) = &args.html {
        println!("samples: {}", file.display());
    }
}
