//! `blip2 data synth`: a synthetic corpus at a path or an object-store URL.

use std::time::Instant;

use data_pipeline::store::Location;
use data_pipeline::synthetic::{self, BenchmarkSizes, Benchmarks, SynthOptions};
use serde_json::json;

use super::{block_on, print_json};
use crate::cli::SynthArgs;
use crate::progress::{Progress, bytes, count};

/// Scenes of the set for fine-tuning when nothing else is asked for.
const DEFAULT_TRAIN_SCENES: u64 = 2000;

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
    let (options, sizes) = (options(args), benchmark_sizes(args));
    if let Some(sizes) = sizes {
        sizes.validate(&options)?;
    }
    let out = Location::parse(&args.out)?;
    let progress = Progress::start("rendering scenes", "scenes", args.scenes);
    let started = Instant::now();
    let work = synthetic::write_corpus(&options, &out, |p| progress.set(p.scenes, p.total_scenes));
    let summary = block_on(work, "complete shards stay; the same command continues from them")?;
    progress.finish();
    let seconds = started.elapsed().as_secs_f64();
    let benchmarks = sizes.map(|sizes| write_benchmarks(&options, sizes, &out)).transpose()?;
    if args.json {
        let printed = json!({
            "schema_version": 1, "seconds": seconds, "corpus": summary, "benchmarks": benchmarks,
        });
        return print_json(&printed);
    }
    print_summary(args, &summary, seconds);
    if let Some(benchmarks) = &benchmarks {
        print_benchmarks(args, benchmarks);
    }
    Ok(())
}

/// How many scenes the evaluation sets have, where some are asked for.
fn benchmark_sizes(args: &SynthArgs) -> Option<BenchmarkSizes> {
    let train_scenes = args.benchmark_train_scenes.unwrap_or(DEFAULT_TRAIN_SCENES.min(args.scenes));
    args.benchmarks.then_some(BenchmarkSizes { test_scenes: args.benchmark_scenes, train_scenes })
}

fn write_benchmarks(options: &SynthOptions, sizes: BenchmarkSizes, out: &Location) -> anyhow::Result<Benchmarks> {
    let progress = Progress::start("writing evaluation sets", "scenes", 2 * sizes.test_scenes + sizes.train_scenes);
    let work = synthetic::write_benchmarks(options, sizes, out, |done, total| progress.set(done, total));
    let benchmarks = block_on(work, "the corpus is complete; the same command writes the evaluation sets anew")?;
    progress.finish();
    Ok(benchmarks)
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

#[expect(clippy::print_stdout, reason = "the command's answer")]
fn print_benchmarks(args: &SynthArgs, benchmarks: &Benchmarks) {
    println!("{}/benchmarks:", args.out.trim_end_matches('/'));
    for split in &benchmarks.splits {
        println!(
            "  {}: {} images, {} captions ({} of them shared by several images), {} questions",
            split.name,
            count(split.scenes),
            count(split.captions),
            count(split.shared_captions),
            count(split.questions),
        );
    }
}
