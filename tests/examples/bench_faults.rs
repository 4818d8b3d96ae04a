//! What faults cost: the loader reads shards over a link of 50 ms, with and without 1 % of the requests answered by 503 and
//! 0.5 % reset, in turn. Prints JSON.
//!
//! `bench_faults FOLDER [ROUNDS [SIZE]]`: SIZE is the side of the pictures that come out (224; smaller ones leave less
//! time to hide a late answer in); FOLDER holds Parquet shards, for example `blip2 data synth`'s `train`. Served by
//! the tests' own small web server: the S3 server of the tests does 40 requests per second, and would hide the difference.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context;
use data_pipeline::augment::TrainTransform;
use data_pipeline::caption::Cleaner;
use data_pipeline::catalog::Catalog;
use data_pipeline::image::DecodeLimits;
use data_pipeline::loader::{Loader, LoaderSettings, LoaderSource};
use data_pipeline::order::Layout;
use data_pipeline::store::Location;
use integration_tests::fault_proxy::{Fault, FaultProxy, Plan};
use integration_tests::static_server::StaticServer;
use serde_json::json;

const LATENCY: Duration = Duration::from_millis(50);
const SHARES: [(Fault, f64); 2] = [(Fault::Unavailable, 0.01), (Fault::ResetWithin, 0.005)];
const BATCH: u64 = 64;
/// Passes over the shards per measurement.
const EPOCHS: u64 = 3;

fn settings(size: u32) -> LoaderSettings {
    LoaderSettings {
        layout: Layout { seed: 11, lanes: 8, window_row_groups: 4, global_batch: BATCH },
        slices: 1,
        transform: TrainTransform::reference(size),
        captions: Cleaner::default(),
        asks: false,
        limits: DecodeLimits::default(),
        decode_threads: 1,
        memory_bytes: 1 << 30,
        max_bad_fraction: 0.0,
        quarantine: None,
    }
}

/// What one pass over the shards came to.
struct Pass {
    images: u64,
    seconds: f64,
    longest_wait: f64,
    requests: u64,
    faults: u64,
}

fn pass(server: &StaticServer, size: u32, plan: Plan) -> anyhow::Result<Pass> {
    let proxy = FaultProxy::start(server.address(), plan);
    let place = Location::parse(&format!("http://{}/train", proxy.address()))?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let catalog = Arc::new(runtime.block_on(Catalog::open(&place, |_, _| ()))?);
    let steps = catalog.rows() * EPOCHS / BATCH;
    let mut loader = Loader::start(vec![LoaderSource::alone(catalog)], settings(size), Arc::default(), 0, 0..1)?;
    // The first batch waits for the first windows in any case; a run waits for it once.
    loader.next_batch()?;
    let began = Instant::now();
    let mut longest_wait: f64 = 0.0;
    for _ in 1..steps {
        let waiting = Instant::now();
        loader.next_batch()?;
        longest_wait = longest_wait.max(waiting.elapsed().as_secs_f64());
    }
    let (images, seconds) = ((steps - 1) * BATCH, began.elapsed().as_secs_f64());
    Ok(Pass { images, seconds, longest_wait, requests: proxy.requests(), faults: proxy.counts().iter().sum() })
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

#[expect(clippy::print_stdout, reason = "the answer")]
fn main() -> anyhow::Result<()> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let folder = words.first().context("usage: bench_faults FOLDER [ROUNDS [SIZE]]")?;
    let rounds: u64 = words.get(1).map_or(Ok(5), |rounds| rounds.parse())?;
    let size: u32 = words.get(2).map_or(Ok(224), |size| size.parse())?;
    let server = StaticServer::of_folder_as("train", Path::new(folder));
    let (mut ratios, mut passes) = (Vec::new(), Vec::new());
    for round in 0..rounds {
        let clean = Plan { seed: round, latency: LATENCY, ..Plan::default() };
        let faulty = Plan { shares: SHARES.to_vec(), ..clean.clone() };
        // Which one goes first alternates, so that a machine that slows down favours neither.
        let (clean, faulty) = if round % 2 == 0 {
            let clean = pass(&server, size, clean)?;
            (clean, pass(&server, size, faulty)?)
        } else {
            let faulty = pass(&server, size, faulty)?;
            (pass(&server, size, clean)?, faulty)
        };
        ratios.push(clean.seconds / faulty.seconds);
        for (name, pass) in [("clean", clean), ("faulty", faulty)] {
            passes.push(json!({
                "round": round, "link": name, "images": pass.images, "images_per_second": pass.images as f64 / pass.seconds,
                "longest_wait_seconds": pass.longest_wait, "requests": pass.requests, "faults": pass.faults,
            }));
        }
    }
    println!(
        "{}",
        json!({
            "schema_version": 1, "image_size": size, "latency_ms": LATENCY.as_millis() as u64, "unavailable": SHARES[0].1, "reset": SHARES[1].1,
            "throughput_ratio_median": median(ratios.clone()), "throughput_ratios": ratios, "passes": passes,
        })
    );
    Ok(())
}
