//! The data path as training will use it: shards in a store, batches out, whatever the threads, ranks and restarts.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::{BTreeSet, HashSet};
use std::sync::Arc;

use arrow::array::{ArrayRef, BinaryArray, RecordBatch, StringArray};
use data_pipeline::DataError;
use data_pipeline::augment::TrainTransform;
use data_pipeline::caption::Cleaner;
use data_pipeline::catalog::Catalog;
use data_pipeline::image::DecodeLimits;
use data_pipeline::loader::{Batch, Loader, LoaderSettings, LoaderSource, SourceLedger};
use data_pipeline::order::Layout;
use data_pipeline::store::Location;
use data_pipeline::synthetic::{SynthOptions, write_corpus};
use object_store::ObjectStoreExt;
use object_store::memory::InMemory;
use parquet::arrow::ArrowWriter;
use parquet::file::properties::WriterProperties;

const SIZE: u32 = 24;

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
}

fn memory() -> Location {
    let mut place = Location::parse("/data").unwrap();
    place.store = Arc::new(InMemory::new());
    place
}

fn corpus(scenes: u64) -> Location {
    let place = memory();
    let options =
        SynthOptions { scenes, test_scenes: 0, shard_rows: 300, threads: 2, image_size: 24, ..SynthOptions::default() };
    runtime().block_on(write_corpus(&options, &place, |_| ())).unwrap();
    place
}

fn open(place: &Location) -> Arc<Catalog> {
    Arc::new(runtime().block_on(Catalog::open(place, |_, _| ())).unwrap())
}

fn settings(threads: usize) -> LoaderSettings {
    LoaderSettings {
        layout: Layout { seed: 7, lanes: 4, window_row_groups: 2, global_batch: 8 },
        slices: 2,
        transform: TrainTransform::reference(SIZE),
        captions: Cleaner::default(),
        asks: false,
        limits: DecodeLimits::default(),
        decode_threads: threads,
        memory_bytes: 64 << 20,
        max_bad_fraction: 0.5,
        quarantine: None,
    }
}

/// What a batch holds, in a form that two runs can compare bit by bit.
fn content(batch: &Batch) -> (u64, u64, Vec<u64>, Vec<String>, Vec<u32>) {
    let pixels = batch.images.iter().map(|value| value.to_bits()).collect();
    (batch.step, batch.slice, batch.samples.clone(), batch.captions.clone(), pixels)
}

fn start(
    catalog: &Arc<Catalog>,
    settings: LoaderSettings,
    first: u64,
    slices: std::ops::Range<u64>,
) -> data_pipeline::Result<Loader> {
    Loader::start(vec![LoaderSource::alone(catalog.clone())], settings, Arc::default(), first, slices)
}

fn run(
    catalog: &Arc<Catalog>,
    settings: LoaderSettings,
    first: u64,
    steps: u64,
    slices: std::ops::Range<u64>,
) -> Vec<Batch> {
    let per_step = slices.end - slices.start;
    let mut loader = start(catalog, settings, first, slices).unwrap();
    (0..steps * per_step).map(|_| loader.next_batch().unwrap()).collect()
}

#[test]
fn an_epoch_delivers_every_row_once_with_one_of_its_captions() {
    let place = corpus(1000);
    let catalog = open(&place);
    assert_eq!(catalog.rows(), 1000);
    let batches = run(&catalog, settings(2), 0, 1000 / 8, 0..2);
    let mut seen = HashSet::new();
    for batch in &batches {
        assert_eq!(batch.len(), 4);
        assert_eq!(batch.images.len(), 4 * 3 * (SIZE * SIZE) as usize);
        assert!(batch.skipped.is_empty());
        for (sample, caption) in batch.samples.iter().zip(&batch.captions) {
            assert!(seen.insert(*sample), "row {sample} came twice");
            let (group, row) = place_of(&catalog, *sample);
            let rows = runtime().block_on(catalog.read(group)).unwrap();
            let captions = rows.all_captions.unwrap().value(row);
            let known: Vec<String> =
                arrow::array::AsArray::as_string::<i32>(&captions).iter().flatten().map(str::to_owned).collect();
            assert!(known.contains(caption), "{caption:?} is not a caption of row {sample}: {known:?}");
        }
        let mean = batch.images.iter().sum::<f32>() / batch.images.len() as f32;
        assert!(batch.images.iter().all(|v| v.is_finite()) && mean.abs() < 2.0, "pixels look wrong: mean {mean}");
    }
    assert_eq!(seen.len(), 1000, "1000 rows divide into 4 lanes without remainder");
}

fn place_of(catalog: &Catalog, sample: u64) -> (usize, usize) {
    let group = catalog.row_groups.partition_point(|g| g.first_row <= sample) - 1;
    (group, (sample - catalog.row_groups[group].first_row) as usize)
}

#[test]
fn batches_do_not_depend_on_threads_ranks_or_restarts() {
    let catalog = open(&corpus(650));
    let steps = 200; // crosses two epochs of 650 / 8 = 81 steps
    let straight: Vec<_> = run(&catalog, settings(1), 0, steps, 0..2).iter().map(content).collect();
    let threaded: Vec<_> = run(&catalog, settings(3), 0, steps, 0..2).iter().map(content).collect();
    assert!(straight == threaded, "three decode threads changed the batches");

    let resumed: Vec<_> = run(&catalog, settings(2), 137, steps - 137, 0..2).iter().map(content).collect();
    assert!(straight[2 * 137..] == resumed[..], "starting at step 137 changed the batches");

    let first: Vec<_> = run(&catalog, settings(1), 0, steps, 0..1).iter().map(content).collect();
    let second: Vec<_> = run(&catalog, settings(1), 0, steps, 1..2).iter().map(content).collect();
    let merged: Vec<_> = first.into_iter().zip(second).flat_map(|(a, b)| [a, b]).collect();
    assert!(straight == merged, "two ranks of one slice each changed the batches");
}

#[test]
fn another_seed_gives_other_batches() {
    // The proof that the comparison above can fail.
    let catalog = open(&corpus(300));
    let mut other = settings(1);
    other.layout.seed += 1;
    let a: Vec<_> = run(&catalog, settings(1), 0, 10, 0..2).iter().map(content).collect();
    let b: Vec<_> = run(&catalog, other, 0, 10, 0..2).iter().map(content).collect();
    assert!(a != b);
}

/// Shards of 100 rows where row `i` is broken as `breakage(i)` says.
fn shard(rows: usize, breakage: impl Fn(usize) -> &'static str) -> bytes::Bytes {
    let good =
        std::fs::read(integration_tests::programs::checkout().join("tests/fixtures/preprocess/gradient.jpg")).unwrap();
    let images: Vec<Option<Vec<u8>>> = (0..rows)
        .map(|i| match breakage(i) {
            "null" => None,
            "empty" => Some(Vec::new()),
            "truncated" => Some(good[..good.len() / 2].to_vec()),
            "html" => Some(b"<!doctype html><title>404</title>".to_vec()),
            _ => Some(good.clone()),
        })
        .collect();
    let captions: Vec<Option<&str>> = (0..rows)
        .map(|i| match breakage(i) {
            "no caption" => None,
            "blank caption" => Some(" ... "),
            _ => Some("A photo of nothing much."),
        })
        .collect();
    let status: Vec<&str> =
        (0..rows).map(|i| if breakage(i) == "failed" { "failed_to_download" } else { "success" }).collect();
    let columns: Vec<(&str, ArrayRef)> = vec![
        ("caption", Arc::new(StringArray::from(captions))),
        ("status", Arc::new(StringArray::from(status))),
        ("jpg", Arc::new(BinaryArray::from_iter(images))),
    ];
    let batch = RecordBatch::try_from_iter_with_nullable(columns.into_iter().map(|(n, c)| (n, c, true))).unwrap();
    let properties = WriterProperties::builder().set_max_row_group_row_count(Some(100)).build();
    let mut bytes = Vec::new();
    let mut writer = ArrowWriter::try_new(&mut bytes, batch.schema(), Some(properties)).unwrap();
    writer.write(&batch).unwrap();
    writer.close().unwrap();
    bytes.into()
}

const BREAKAGES: [(&str, &str); 7] = [
    ("null", "no_image"),
    ("empty", "no_image"),
    ("truncated", "truncated"),
    ("html", "not_an_image"),
    ("no caption", "no_caption"),
    ("blank caption", "no_caption"),
    ("failed", "download_failed"),
];

fn broken_every(n: usize) -> impl Fn(usize) -> &'static str {
    move |i| if i.is_multiple_of(n) { BREAKAGES[i / n % BREAKAGES.len()].0 } else { "good" }
}

fn ledger(catalog: &Arc<Catalog>, threads: usize, steps: u64) -> (SourceLedger, Vec<Vec<u64>>) {
    let mut loader = start(catalog, settings(threads), 0, 0..2).unwrap();
    let samples = (0..steps * 2).map(|_| loader.next_batch().unwrap().samples).collect();
    (loader.ledger().total(), samples)
}

#[test]
fn bad_samples_are_replaced_counted_by_reason_and_the_same_for_everyone() {
    let place = memory();
    runtime().block_on(place.child("0.parquet").write(shard(800, broken_every(10)))).unwrap();
    let catalog = open(&place);
    let (found, samples) = ledger(&catalog, 1, 100); // one epoch: 800 rows in 100 steps of 8
    assert_eq!(found.seen, 800);
    // Every one of the 80 bad rows is drawn once; a replacement may be bad too and is counted again.
    assert!((80..=100).contains(&found.num_skipped()), "{found:?}");
    let expected: BTreeSet<&str> = BREAKAGES.iter().map(|(_, reason)| *reason).collect();
    assert_eq!(found.skipped.keys().map(String::as_str).collect::<BTreeSet<_>>(), expected);
    assert!(samples.iter().flatten().all(|row| !row.is_multiple_of(10)), "a bad row was delivered");

    let (again, same_samples) = ledger(&catalog, 3, 100);
    assert_eq!(found, again);
    assert_eq!(samples, same_samples, "replacements depend on the number of threads");
}

#[test]
fn too_many_bad_samples_stop_the_run_with_reasons_and_places() {
    let place = memory();
    runtime().block_on(place.child("0.parquet").write(shard(400, broken_every(4)))).unwrap();
    let mut strict = settings(1);
    strict.max_bad_fraction = 0.01;
    let mut loader = start(&open(&place), strict, 0, 0..2).unwrap();
    let error = (0..100).find_map(|_| loader.next_batch().err()).expect("a quarter of the rows is bad");
    let message = error.to_string();
    assert!(matches!(error, DataError::TooManyBad { .. }), "{message}");
    for part in ["max_bad_fraction = 0.01", "not_an_image", "/data/0.parquet row group"] {
        assert!(message.contains(part), "{part:?} is missing in: {message}");
    }
}

#[test]
fn a_window_without_a_usable_row_is_an_error_and_not_a_hang() {
    let place = memory();
    runtime().block_on(place.child("0.parquet").write(shard(100, |_| "html"))).unwrap();
    let mut loader = start(&open(&place), settings(1), 0, 0..2).unwrap();
    let message = loader.next_batch().unwrap_err().to_string();
    assert!(message.contains("can be used") && message.contains("not_an_image"), "{message}");
}

#[test]
fn a_source_that_vanishes_stops_the_run_and_is_named() {
    let place = corpus(300);
    let catalog = open(&place);
    let shard = place.child("train/00000.parquet");
    runtime().block_on(shard.store.delete(&shard.path)).unwrap();
    let mut loader = start(&catalog, settings(1), 0, 0..2).unwrap();
    let message = loader.next_batch().unwrap_err().to_string();
    assert!(message.contains("/data/train/00000.parquet") && message.contains("Check the URI"), "{message}");
    assert!(loader.next_batch().is_err(), "a loader that failed stays failed");

    let cut = memory();
    let whole = shard_bytes(&corpus(300), "train/00000.parquet");
    runtime().block_on(cut.child("0.parquet").write(whole.slice(..whole.len() - 100))).unwrap();
    let message = runtime().block_on(Catalog::open(&cut, |_, _| ())).err().unwrap().to_string();
    assert!(message.contains("/data/0.parquet: not a readable Parquet file"), "{message}");
}

fn shard_bytes(place: &Location, name: &str) -> bytes::Bytes {
    runtime().block_on(place.child(name).read()).unwrap()
}

#[test]
fn a_flipped_bit_is_an_error_or_a_counted_sample_and_never_a_panic() {
    let whole = shard(100, |_| "good");
    for position in (0..whole.len()).step_by(997) {
        let mut flipped = whole.to_vec();
        flipped[position] ^= 0x10;
        let place = memory();
        runtime().block_on(place.child("0.parquet").write(flipped)).unwrap();
        let Ok(catalog) = runtime().block_on(Catalog::open(&place, |_, _| ())) else { continue };
        let Ok(mut loader) = start(&Arc::new(catalog), settings(1), 0, 0..2) else { continue };
        let mut taken = 0;
        while taken < 24 && loader.next_batch().is_ok() {
            taken += 1;
        }
    }
}

#[test]
fn settings_that_cannot_work_are_refused_with_advice() {
    let catalog = open(&corpus(300));
    let refused = |change: fn(&mut LoaderSettings)| {
        let mut wrong = settings(1);
        change(&mut wrong);
        start(&catalog, wrong, 0, 0..2).err().expect("must be refused").to_string()
    };
    let small = refused(|s| s.memory_bytes = 1 << 16);
    assert!(small.contains("memory_mb") && small.contains("Raise memory_mb"), "{small}");
    let lanes = refused(|s| s.layout.lanes = 3);
    assert!(lanes.contains("multiple of slices"), "{lanes}");
    let empty = refused(|s| (s.layout.lanes, s.layout.global_batch) = (4096, 8192));
    assert!(empty.contains("every lane needs at least one row"), "{empty}");
}

#[test]
fn dropping_a_loader_in_the_middle_ends_its_threads() {
    let catalog = open(&corpus(650));
    let before = threads();
    for taken in 0..20 {
        let mut loader = start(&catalog, settings(2), taken * 3, 0..2).unwrap();
        for _ in 0..taken {
            loader.next_batch().unwrap();
        }
    }
    for _ in 0..50 {
        if threads() <= before + 2 {
            return;
        }
        std::thread::sleep(std::time::Duration::from_millis(100));
    }
    panic!("{} threads before, {} after", before, threads());
}

/// Threads of this process with the loader's names; other tests of this binary run beside this one and have them too,
/// so the count is of those that stay.
fn threads() -> usize {
    std::fs::read_dir("/proc/self/task").unwrap().count()
}
