//! `blip2 bench data`: the data path from shards to normalised batches, timed.

use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context, bail};
use data_pipeline::augment::TrainTransform;
use data_pipeline::caption::Cleaner;
use data_pipeline::catalog::Catalog;
use data_pipeline::image::{DecodeLimits, Resampling, jpeg_decoder};
use data_pipeline::loader::{Loader, LoaderSettings, LoaderSource, SourceLedger};
use data_pipeline::order::Layout;
use data_pipeline::store::Location;
use serde_json::json;

use super::{block_on, print_json};
use crate::cli::BenchDataArgs;
use crate::progress::{Progress, count};

/// Most lanes of a benchmark: enough for reads to overlap, few enough for small corpora.
const MOST_LANES: u64 = 8;
/// Row groups shuffled together.
const WINDOW_ROW_GROUPS: u64 = 4;
/// Clock ticks per second of /proc; fixed in the Linux kernel's interface to programs.
const TICKS_PER_SECOND: f64 = 100.0;

/// User and system seconds of this process, all threads.
fn cpu_seconds() -> anyhow::Result<(f64, f64)> {
    let stat = std::fs::read_to_string("/proc/self/stat").context("cannot read this process's times")?;
    // The command name, in parentheses, may hold spaces; fields 14 and 15 are counted after it.
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    let ticks = |i: usize| fields.get(i).and_then(|f| f.parse::<f64>().ok()).context("unexpected /proc/self/stat");
    Ok((ticks(11)? / TICKS_PER_SECOND, ticks(12)? / TICKS_PER_SECOND))
}

/// A line of this process's status, in MiB: `VmHWM` is the largest resident size so far, `VmRSS` that of now.
fn status_mib(name: &str) -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find(|line| line.starts_with(name))?;
    Some(line.split_whitespace().nth(1)?.parse::<u64>().ok()? / 1024)
}

fn peak_mib() -> Option<u64> {
    status_mib("VmHWM:")
}

fn settings(args: &BenchDataArgs) -> anyhow::Result<LoaderSettings> {
    let resampling = match args.resize.as_str() {
        "fast" => Resampling::Fast,
        "scaled" => Resampling::Scaled,
        "pillow_exact" => Resampling::PillowExact,
        other => {
            bail!(data_pipeline::DataError::Setting(format!("--resize {other}: expected fast, scaled or pillow_exact")))
        }
    };
    let lanes = (1..=MOST_LANES).rev().find(|lanes| args.batch.is_multiple_of(*lanes)).unwrap_or(1);
    Ok(LoaderSettings {
        layout: Layout { seed: 42, lanes, window_row_groups: WINDOW_ROW_GROUPS, global_batch: args.batch },
        slices: 1,
        transform: TrainTransform { resampling, ..TrainTransform::reference(args.image_size) },
        captions: Cleaner::default(),
        asks: false,
        limits: DecodeLimits::default(),
        decode_threads: args.threads,
        memory_bytes: args.memory_mb << 20,
        max_bad_fraction: 1.0,
        quarantine: None,
    })
}

/// What one timed pass over the data came to.
struct Measured {
    images: u64,
    wall: f64,
    user: f64,
    system: f64,
    first_batch: f64,
    ledger: SourceLedger,
    /// Resident MiB after each tenth of the images.
    resident: Vec<u64>,
}

/// The catalogue, and the seconds that reading it took. With `--rows` the shards count again and again until there are so
/// many rows, and the catalogue goes through a file, as that of a run does.
async fn open(args: &BenchDataArgs) -> data_pipeline::Result<(Catalog, f64)> {
    let location = Location::parse(&args.uri)?;
    let started = Instant::now();
    let catalog = Catalog::open(&location, |_, _| ()).await?;
    if args.rows == 0 {
        return Ok((catalog, started.elapsed().as_secs_f64()));
    }
    let folder = std::env::temp_dir().join(format!("blip2-bench-{}", std::process::id()));
    let place = Location::parse(&folder.join("catalog.parquet").display().to_string())?;
    catalog.repeated(args.rows).save(&place).await?;
    let started = Instant::now();
    let loaded = Catalog::load_from(&place, location).await;
    let seconds = started.elapsed().as_secs_f64();
    // Only this command knows of the folder.
    let _removed = std::fs::remove_dir_all(&folder);
    Ok((loaded?.catalog, seconds))
}

fn measure(
    catalog: Arc<Catalog>,
    settings: LoaderSettings,
    (first_step, images): (u64, u64),
    progress: &Progress,
) -> anyhow::Result<Measured> {
    let batch = settings.layout.global_batch;
    let steps = (images / batch).max(1);
    let mut resident = Vec::new();
    let (user, system) = cpu_seconds()?;
    let started = Instant::now();
    let mut loader = Loader::start(vec![LoaderSource::alone(catalog)], settings, Arc::default(), first_step, 0..1)?;
    let mut first_batch = 0.0;
    for step in 0..steps {
        loader.next_batch()?;
        if step == 0 {
            first_batch = started.elapsed().as_secs_f64();
        }
        progress.set((step + 1) * batch, steps * batch);
        if (step + 1) * 10 / steps > step * 10 / steps {
            resident.extend(status_mib("VmRSS:"));
        }
    }
    let wall = started.elapsed().as_secs_f64();
    let ledger = loader.ledger().total();
    drop(loader);
    let (user_end, system_end) = cpu_seconds()?;
    Ok(Measured {
        images: steps * batch,
        wall,
        user: user_end - user,
        system: system_end - system,
        first_batch,
        ledger,
        resident,
    })
}

/// Reads the shards and prints images per second.
///
/// # Errors
/// Shards that cannot be read, or settings that do not fit them.
pub fn run(args: &BenchDataArgs) -> anyhow::Result<()> {
    let settings = settings(args)?;
    let (catalog, catalog_seconds) = block_on(open(args), "nothing was written")?;
    let catalog = Arc::new(catalog);
    let images = if args.images == 0 { catalog.rows() } else { args.images };
    let progress = Progress::start("reading", "images", images);
    let m = measure(catalog.clone(), settings, (args.first_step, images), &progress)?;
    progress.finish();
    let per_cpu = m.images as f64 / (m.user + m.system);
    if args.json {
        return print_json(&json!({
            "schema_version": 1, "decoder": jpeg_decoder(), "threads": args.threads, "batch": args.batch,
            "image_size": args.image_size, "resize": args.resize, "images": m.images, "wall_seconds": m.wall,
            "images_per_second": m.images as f64 / m.wall, "first_batch_seconds": m.first_batch,
            "user_seconds": m.user, "system_seconds": m.system, "images_per_cpu_second": per_cpu,
            "peak_resident_mib": peak_mib(), "resident_mib": m.resident, "catalog_rows": catalog.rows(),
            "catalog_seconds": catalog_seconds, "first_step": args.first_step, "skipped": m.ledger.num_skipped(), "reasons": m.ledger.skipped,
        }));
    }
    print(args, &m, per_cpu, catalog_seconds);
    Ok(())
}

#[expect(clippy::print_stdout, reason = "the command's answer")]
fn print(args: &BenchDataArgs, m: &Measured, per_cpu: f64, catalog_seconds: f64) {
    println!(
        "{}: {} images in {:.2} s, {:.0} images/s with {} decode threads ({})",
        args.uri,
        count(m.images),
        m.wall,
        m.images as f64 / m.wall,
        args.threads,
        jpeg_decoder()
    );
    println!(
        "  {per_cpu:.0} images per CPU second (user {:.2} s, system {:.2} s), catalogue after {:.3} s, first batch \
         {:.3} s later, peak {} MiB, {} skipped",
        m.user,
        m.system,
        catalog_seconds,
        m.first_batch,
        peak_mib().unwrap_or(0),
        m.ledger.num_skipped()
    );
}
