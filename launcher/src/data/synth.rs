//! `blip2 data synth`: a synthetic corpus at a path or an object-store URL.

use std::time::Instant;

use data_pipeline::store::Location;
use data_pipeline::synthetic::{self, SynthOptions};
use serde_json::json;

use super::{block_on, print_json};
use crate::cli::SynthArgs;
use crate::progress::{Progress, bytes, count};

fn options(args: &SynthArgs) -> SynthOptions {
    SynthOptions {
        scenes: args.scenes,
        test_scenes: args.test_scenes,
        image_size: args.image_size,
        seed: args.seed,
        min_objects: args.min_objects,
        max_objects: args.max_objects,
        patterns: !args.plain,
        jpeg_quality: args.jpeg_quality,
        shard_rows: args.shard_rows,
        threads: args.threads,
        overwrite: args.overwrite,
    }
}

/// Makes the corpus.
///
/// # Errors
/// Options that cannot be met, a place that holds something else, or a store that fails.
pub fn run(args: &SynthArgs) -> anyhow::Result<()> {
    let options = options(args);
    let out = Location::parse(&args.out)?;
    let progress = Progress::start("rendering scenes", "scenes", args.scenes);
    let started = Instant::now();
    let work = synthetic::write_corpus(&options, &out, |p| progress.set(p.scenes, p.total_scenes));
    let summary = block_on(work, "complete shards stay; the same command continues from them")?;
    progress.finish();
    let seconds = started.elapsed().as_secs_f64();
    if args.json {
        return print_json(&json!({ "schema_version": 1, "seconds": seconds, "corpus": summary }));
    }
    print_summary(args, &summary, seconds);
    Ok(())
}

#[expect(clippy::print_stdout, reason = "the command's answer")]
fn print_summary(args: &SynthArgs, summary: &synthetic::CorpusSummary, seconds: f64) {
    let rate = summary.scenes_rendered as f64 / seconds;
    println!(
        "{}: {} scenes in {} shards, {}; {} rendered in {seconds:.1} s ({} scenes/s)",
        args.out,
        count(summary.scenes),
        summary.shards,
        bytes(summary.bytes),
        count(summary.scenes_rendered),
        count(rate as u64),
    );
    println!("look at it: blip2 data inspect {} --html samples.html", args.out);
}
