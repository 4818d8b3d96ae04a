//! What is broken is counted under its reason and replaced, and no other sample moves.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeMap;
use std::sync::Arc;

use data_pipeline::augment::TrainTransform;
use data_pipeline::caption::Cleaner;
use data_pipeline::catalog::Catalog;
use data_pipeline::image::DecodeLimits;
use data_pipeline::loader::{Loader, LoaderSettings, LoaderSource};
use data_pipeline::order::Layout;
use data_pipeline::store::Location;
use integration_tests::broken::{
    Defect, defects, rewrite, shard, vanish, with_flipped_image, with_flipped_page, without_footer,
};
use object_store::memory::InMemory;

/// Rows of a shard and of its row groups: all are delivered once in an epoch of 12 steps of 8.
const ROWS: usize = 96;
const GROUP: usize = 12;
const STEPS: u64 = 12;
/// The row that is broken where one is.
const BROKEN: u64 = 17;

fn block_on<T>(work: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(work)
}

fn place(shard: Vec<u8>) -> Location {
    let mut place = Location::parse("/data").unwrap();
    place.store = Arc::new(InMemory::new());
    block_on(place.child("0.parquet").write(shard)).unwrap();
    place
}

fn catalog(place: &Location) -> Arc<Catalog> {
    Arc::new(block_on(Catalog::open(place, |_, _| ())).unwrap())
}

/// The samples of an epoch in their order, and what was skipped by reason. A window holds all row groups of a lane, so that
/// something is left of it when a shard is lost.
fn epoch(catalog: &Arc<Catalog>) -> (Vec<u64>, BTreeMap<String, u64>) {
    let settings = LoaderSettings {
        layout: Layout { seed: 7, lanes: 2, window_row_groups: 8, global_batch: 8 },
        slices: 2,
        transform: TrainTransform::reference(24),
        captions: Cleaner::default(),
        asks: false,
        limits: DecodeLimits::default(),
        decode_threads: 2,
        memory_bytes: 256 << 20,
        // A substitute that is lost too counts again.
        max_bad_fraction: f64::INFINITY,
        quarantine: None,
    };
    let sources = vec![LoaderSource::alone(catalog.clone())];
    let mut loader = Loader::start(sources, settings, Arc::default(), 0, 0..2).unwrap();
    let samples = (0..STEPS * 2).flat_map(|_| loader.next_batch().unwrap().samples).collect();
    (samples, loader.ledger().total().skipped)
}

fn clean() -> Vec<u64> {
    let (samples, skipped) = epoch(&catalog(&place(shard(ROWS, GROUP, |_| None))));
    assert!(skipped.is_empty());
    let mut sorted = samples.clone();
    sorted.sort_unstable();
    assert_eq!(sorted, (0..ROWS as u64).collect::<Vec<_>>());
    samples
}

/// Asserts that samples are the clean ones except where `is_lost` says that the clean one is lost.
fn assert_others_stay(found: &[u64], clean: &[u64], is_lost: impl Fn(u64) -> bool, name: &str) {
    for (found, expected) in found.iter().zip(clean) {
        assert!(!is_lost(*found), "{name}: sample {found} was delivered");
        assert!(found == expected || is_lost(*expected), "{name}: sample {found} came in place of {expected}");
    }
}

#[test]
fn a_broken_row_is_counted_by_its_reason_and_moves_no_other() {
    let clean = clean();
    for defect in defects() {
        let Defect { name, reason, .. } = &defect;
        let shard = shard(ROWS, GROUP, |row| (row as u64 == BROKEN).then_some(&defect));
        let (samples, skipped) = epoch(&catalog(&place(shard)));
        let expected: BTreeMap<String, u64> = reason.iter().map(|reason| ((*reason).to_owned(), 1)).collect();
        assert_eq!(skipped, expected, "{name}");
        assert_others_stay(&samples, &clean, |sample| reason.is_some() && sample == BROKEN, name);
    }
}

#[test]
fn all_defects_at_once_are_each_counted() {
    let (clean, defects) = (clean(), defects());
    // Every third row of the shard.
    let defect_of = |row: usize| row.is_multiple_of(3).then(|| defects.get(row / 3)).flatten();
    let (samples, skipped) = epoch(&catalog(&place(shard(ROWS, GROUP, defect_of))));
    let is_lost = |sample: u64| defect_of(sample as usize).is_some_and(|defect| defect.reason.is_some());
    assert_others_stay(&samples, &clean, is_lost, "all");
    for reason in defects.iter().filter_map(|defect| defect.reason) {
        let at_least = defects.iter().filter(|defect| defect.reason == Some(reason)).count() as u64;
        // A substitute may be broken too, and is counted again.
        assert!(skipped.get(reason).is_some_and(|count| *count >= at_least), "{reason}: {skipped:?}");
    }
}

#[test]
fn a_flipped_bit_in_an_image_costs_its_row() {
    let clean = clean();
    let flipped = with_flipped_image(&shard(ROWS, GROUP, |_| None), BROKEN as usize);
    let (samples, skipped) = epoch(&catalog(&place(flipped)));
    assert_eq!(skipped, BTreeMap::from([("not_an_image".to_owned(), 1)]));
    assert_others_stay(&samples, &clean, |sample| sample == BROKEN, "a flipped bit");
}

#[test]
fn a_flipped_bit_in_a_page_costs_its_row_group() {
    let clean = clean();
    let (samples, skipped) = epoch(&catalog(&place(with_flipped_page(&shard(ROWS, GROUP, |_| None), 3))));
    assert_eq!(skipped.keys().collect::<Vec<_>>(), ["shard_damaged"]);
    let is_lost = |sample: u64| sample / GROUP as u64 == 3;
    assert_others_stay(&samples, &clean, is_lost, "a flipped page");
}

#[test]
fn a_shard_without_footer_is_refused_by_name() {
    let cut = place(without_footer(&shard(ROWS, GROUP, |_| None)));
    let message = block_on(Catalog::open(&cut, |_, _| ())).err().unwrap().to_string();
    assert!(message.contains("/data/0.parquet: not a readable Parquet file"), "{message}");
}

/// Two shards, of which the second is lost after they were catalogued: its samples give way to the first one's.
fn lose(reason: &str, lose: impl AsyncFn(&Location)) {
    let whole = || {
        let place = place(shard(ROWS / 2, GROUP, |_| None));
        block_on(place.child("1.parquet").write(shard(ROWS / 2, GROUP, |_| None))).unwrap();
        place
    };
    let (clean, _) = epoch(&catalog(&whole()));
    let place = whole();
    let catalog = catalog(&place);
    block_on(lose(&place.child("1.parquet")));
    let (samples, skipped) = epoch(&catalog);
    assert_eq!(skipped.keys().collect::<Vec<_>>(), [reason]);
    assert_others_stay(&samples, &clean, |sample| sample >= ROWS as u64 / 2, reason);
}

#[test]
fn a_shard_that_vanishes_costs_its_rows() {
    lose("shard_unavailable", async |shard| vanish(shard).await.unwrap());
}

#[test]
fn a_shard_that_is_rewritten_costs_its_rows() {
    lose("shard_changed", async |shard| rewrite(shard, ROWS / 2, GROUP).await.unwrap());
}
