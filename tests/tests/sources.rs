//! Sources in every form that is read without conversion, mixed, filtered, and lost in part.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;

use arrow::array::{ArrayRef, BinaryArray, Float64Array, Int32Array, RecordBatch, StringArray};
use configs::{AnnotatedSource, Filters, LaionSource, Nsfw, ShardSource, Source, Uri};
use data_pipeline::augment::TrainTransform;
use data_pipeline::caption::Cleaner;
use data_pipeline::catalog::{Catalog, READ_UNIT_BYTES, index};
use data_pipeline::image::DecodeLimits;
use data_pipeline::loader::{Batch, Loader, LoaderSettings, LoaderSource};
use data_pipeline::lost::LostRowGroups;
use data_pipeline::order::Layout;
use data_pipeline::store::Location;
use integration_tests::sets::{caption, image, write_coco, write_tars};
use object_store::ObjectStoreExt;
use parquet::arrow::ArrowWriter;
use parquet::file::properties::WriterProperties;

/// Images of every test set.
const IMAGES: usize = 240;

fn block_on<T>(work: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(work)
}

/// Writes columns as one Parquet file with 20 rows in each row group.
fn write_parquet(file: &Path, columns: Vec<(&str, ArrayRef)>) {
    let batch = RecordBatch::try_from_iter_with_nullable(columns.into_iter().map(|(n, c)| (n, c, true))).unwrap();
    let properties = WriterProperties::builder().set_max_row_group_row_count(Some(20)).build();
    std::fs::create_dir_all(file.parent().unwrap()).unwrap();
    let mut writer =
        ArrowWriter::try_new(std::fs::File::create(file).unwrap(), batch.schema(), Some(properties)).unwrap();
    writer.write(&batch).unwrap();
    writer.close().unwrap();
}

fn texts(value: impl Fn(usize) -> String, rows: std::ops::Range<usize>) -> ArrayRef {
    Arc::new(StringArray::from_iter_values(rows.map(value)))
}

/// Parquet shards as img2dataset writes them, 80 rows each; every tenth download failed.
fn parquet_set(folder: &Path) {
    for (shard, first) in (0..IMAGES).step_by(80).enumerate() {
        let rows = first..first + 80;
        let failed = |row: usize| row % 10 == 9;
        let status = move |row: usize| if failed(row) { "failed_to_download" } else { "success" }.to_owned();
        let images = BinaryArray::from_iter(rows.clone().map(|row| (!failed(row)).then(|| image(row))));
        let columns: Vec<(&str, ArrayRef)> = vec![
            ("caption", texts(caption, rows.clone())),
            ("url", texts(|row| format!("http://example.org/{row}"), rows.clone())),
            ("key", texts(|row| format!("{row:09}"), rows.clone())),
            ("status", texts(status, rows.clone())),
            ("width", Arc::new(Int32Array::from_iter_values(rows.clone().map(|row| 100 + row as i32)))),
            ("height", Arc::new(Int32Array::from_iter_values(rows.map(|row| 300 - row as i32 / 2)))),
            ("jpg", Arc::new(images)),
        ];
        write_parquet(&folder.join(format!("{shard:05}.parquet")), columns);
    }
}

fn tar_set(folder: &Path) {
    write_tars(folder, IMAGES, 80);
}

/// A folder of images with an annotation file.
fn folder_set(folder: &Path, annotations: &serde_json::Value, name: impl Fn(usize) -> String) {
    for row in 0..IMAGES {
        let file = folder.join("images").join(name(row));
        std::fs::create_dir_all(file.parent().unwrap()).unwrap();
        std::fs::write(file, image(row)).unwrap();
    }
    std::fs::write(folder.join("annotations.json"), annotations.to_string()).unwrap();
}

fn genome_set(folder: &Path) {
    let entry = |row: usize| serde_json::json!({ "id": row, "regions": [{ "phrase": caption(row) }] });
    let annotations = serde_json::Value::from((0..IMAGES).map(entry).collect::<Vec<_>>());
    // In two folders, which the annotations do not tell.
    folder_set(folder, &annotations, |row| format!("{}/{row}.jpg", ["VG_100K", "VG_100K_2"][row % 2]));
}

fn uri(folder: &Path) -> Uri {
    Uri::new(&folder.display().to_string())
}

fn shards(folder: &Path, filters: Filters) -> ShardSource {
    ShardSource {
        name: "set".into(),
        uri: uri(folder),
        catalog: None,
        weight: 1.0,
        top_captions: None,
        columns: None,
        filters,
    }
}

fn annotated(folder: &Path) -> AnnotatedSource {
    let (annotations, images) = ("annotations.json".into(), "images".into());
    AnnotatedSource { name: "set".into(), uri: uri(folder), annotations, images, catalog: None, weight: 1.0 }
}

fn make(source: &Source) -> Catalog {
    block_on(index(source, READ_UNIT_BYTES, &|_, _| ())).unwrap()
}

fn settings(lanes: u64) -> LoaderSettings {
    LoaderSettings {
        layout: Layout { seed: 7, lanes, window_row_groups: 4, global_batch: 8 },
        slices: 2,
        transform: TrainTransform::reference(24),
        captions: Cleaner::default(),
        asks: false,
        limits: DecodeLimits::default(),
        decode_threads: 1,
        memory_bytes: 256 << 20,
        max_bad_fraction: 1.0,
        quarantine: None,
    }
}

fn take(loader: &mut Loader, batches: usize) -> Vec<Batch> {
    (0..batches).map(|_| loader.next_batch().unwrap()).collect()
}

/// What a batch holds, in a form that two runs can compare bit by bit.
fn content(batch: &Batch) -> (u64, u64, Vec<u64>, Vec<String>, Vec<u32>) {
    let pixels = batch.images.iter().map(|value| value.to_bits()).collect();
    (batch.step, batch.slice, batch.samples.clone(), batch.captions.clone(), pixels)
}

#[test]
fn every_form_is_read_without_conversion_and_through_its_saved_catalogue() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    parquet_set(&at("parquet"));
    tar_set(&at("tar"));
    write_coco(&at("coco"), IMAGES);
    genome_set(&at("genome"));
    let forms = [
        (Source::Parquet(shards(&at("parquet"), Filters::none())), 216),
        (Source::WebDataset(shards(&at("tar"), Filters::none())), 240),
        (Source::CocoCaptions(annotated(&at("coco"))), 240),
        (Source::VisualGenome(annotated(&at("genome"))), 240),
    ];
    for (source, usable) in forms {
        let made = make(&source);
        assert_eq!((made.rows(), made.usable()), (240, usable), "{source:?}");
        // What is read back has the same bytes when it is saved again.
        let place = Location::parse(&at("catalog.parquet").display().to_string()).unwrap();
        let sha256 = block_on(made.save(&place)).unwrap();
        let loaded = block_on(Catalog::load(&place, &source, READ_UNIT_BYTES)).unwrap();
        assert_eq!(loaded.sha256, sha256);
        assert_eq!(loaded.catalog.row_groups, made.row_groups);
        assert_eq!(block_on(loaded.catalog.save(&place)).unwrap(), sha256);

        let sources = vec![LoaderSource::alone(Arc::new(loaded.catalog))];
        let mut loader = Loader::start(sources, settings(2), Arc::default(), 0, 0..2).unwrap();
        let batches = take(&mut loader, 2 * usable as usize / 8);
        let total = loader.ledger().total();
        assert_eq!((total.seen, total.num_skipped()), (usable, 0), "{source:?}");
        let captions: BTreeSet<&String> = batches.iter().flat_map(|batch| &batch.captions).collect();
        assert_eq!(captions.len() as u64, usable, "each image once in {source:?}");
        for batch in &batches {
            // Keys, captions and images are of one row.
            for (key, caption) in batch.keys.iter().zip(&batch.captions) {
                let row: usize = key.parse().unwrap();
                assert_eq!(*caption, format!("picture number {row}"));
            }
        }
    }
}

#[test]
fn large_row_groups_are_read_in_parts() {
    let folder = tempfile::tempdir().unwrap();
    parquet_set(folder.path());
    let source = Source::Parquet(shards(folder.path(), Filters::none()));
    let whole = make(&source);
    // Row groups of 20 rows have about 100 kB here.
    let parts = block_on(index(&source, 40_000, &|_, _| ())).unwrap();
    assert!(parts.row_groups.len() >= 2 * whole.row_groups.len(), "{} row groups", parts.row_groups.len());
    assert!(parts.row_groups.iter().all(|group| group.bytes < 80_000), "{:?}", parts.row_groups);
    let keys = |catalog: &Catalog| -> Vec<String> {
        let rows = (0..catalog.row_groups.len()).map(|group| block_on(catalog.read(group)).unwrap());
        rows.flat_map(|rows| rows.keys.unwrap().iter().map(|key| key.unwrap().to_owned()).collect::<Vec<_>>()).collect()
    };
    assert_eq!(keys(&parts), keys(&whole));
    assert_eq!((parts.rows(), parts.usable()), (whole.rows(), whole.usable()));
}

#[test]
fn filters_leave_rows_out_before_they_are_read_and_count_why() {
    let folder = tempfile::tempdir().unwrap();
    let images = folder.path().join("fetched");
    parquet_set(&images);
    let filters = Filters { min_side: Some(150), min_caption_chars: Some(16), ..Filters::none() };
    let catalog = make(&Source::Parquet(shards(&images, filters.clone())));
    let of = |reason: &str| catalog.description.rejected.get(reason).copied().unwrap_or(0);
    // Every tenth was not downloaded; one-digit numbers make captions of 16 characters; widths begin at 100.
    assert_eq!((of("download_failed"), of("caption_too_short"), of("image_too_small")), (24, 0, 45));
    assert_eq!(catalog.usable(), 240 - 24 - 45);
    let sources = vec![LoaderSource::alone(Arc::new(catalog))];
    let mut loader = Loader::start(sources, settings(2), Arc::default(), 0, 0..2).unwrap();
    for batch in take(&mut loader, 60) {
        assert!(batch.keys.iter().all(|key| key.parse::<usize>().unwrap() >= 50), "{:?}", batch.keys);
        assert!(batch.skipped.is_empty());
    }

    // Metadata that the shards do not repeat are joined by URL.
    let metadata = folder.path().join("metadata/part-00000.parquet");
    let class = |row: usize| ["UNLIKELY", "UNSURE", "NSFW"][row % 3].to_owned();
    let columns: Vec<(&str, ArrayRef)> = vec![
        ("URL", texts(|row| format!("http://example.org/{row}"), 0..IMAGES)),
        ("TEXT", texts(caption, 0..IMAGES)),
        ("NSFW", texts(class, 0..IMAGES)),
        ("similarity", Arc::new(Float64Array::from_iter_values((0..IMAGES).map(|row| row as f64 / 240.0)))),
    ];
    write_parquet(&metadata, columns);
    let filters = Filters { max_nsfw: Some(Nsfw::Unsure), min_similarity: Some(0.5), ..Filters::none() };
    let laion = LaionSource {
        name: "laion".into(),
        uri: uri(metadata.parent().unwrap()),
        fetched: uri(&images),
        catalog: None,
        weight: 1.0,
        top_captions: None,
        filters,
    };
    let catalog = make(&Source::Laion(laion));
    let passes = |row: &usize| row % 3 != 2 && *row >= 120 && row % 10 != 9;
    assert_eq!(catalog.usable(), (0..IMAGES).filter(passes).count() as u64);
    assert!(catalog.description.rejected["nsfw"] > 0 && catalog.description.rejected["similarity"] > 0);
}

#[test]
fn a_catalogue_of_other_filters_or_of_shards_that_changed_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let images = folder.path().join("set");
    parquet_set(&images);
    let place = Location::parse(&folder.path().join("catalog.parquet").display().to_string()).unwrap();
    let source = Source::Parquet(shards(&images, Filters::none()));
    block_on(make(&source).save(&place)).unwrap();
    let other = Source::Parquet(shards(&images, Filters { min_side: Some(3), ..Filters::none() }));
    let error = block_on(Catalog::load(&place, &other, READ_UNIT_BYTES)).err().unwrap().to_string();
    assert!(error.contains("blip2 data index") && error.contains("min_side"), "{error}");

    let catalog = block_on(Catalog::load(&place, &source, READ_UNIT_BYTES)).unwrap().catalog;
    tar_set(&folder.path().join("tar"));
    std::fs::copy(folder.path().join("tar/00000.tar"), images.join("00001.parquet")).unwrap();
    let group = catalog.row_groups.iter().position(|group| group.shard == 1).unwrap();
    let error = block_on(catalog.read(group)).unwrap_err().to_string();
    assert!(error.contains("00001.parquet") && error.contains("changed since it was catalogued"), "{error}");
    // The others are as they were, wherever the catalogue lies.
    assert!(block_on(catalog.read(0)).is_ok());
}

#[test]
fn a_shard_that_is_no_parquet_is_left_out_and_told() {
    let folder = tempfile::tempdir().unwrap();
    parquet_set(folder.path());
    std::fs::write(folder.path().join("00001.parquet"), b"<html>not here</html>").unwrap();
    let catalog = make(&Source::Parquet(shards(folder.path(), Filters::none())));
    let [bad] = catalog.description.bad_shards.as_slice() else { panic!("{:?}", catalog.description) };
    assert!(bad.uri.ends_with("00001.parquet") && !bad.used_in_part, "{bad:?}");
    assert_eq!(catalog.usable(), 144);

    let tars = tempfile::tempdir().unwrap();
    tar_set(tars.path());
    let whole = std::fs::read(tars.path().join("00002.tar")).unwrap();
    std::fs::write(tars.path().join("00002.tar"), &whole[..whole.len() / 2]).unwrap();
    let catalog = make(&Source::WebDataset(shards(tars.path(), Filters::none())));
    let [bad] = catalog.description.bad_shards.as_slice() else { panic!("{:?}", catalog.description) };
    assert!(bad.uri.ends_with("00002.tar") && bad.used_in_part && bad.problem.contains("middle"), "{bad:?}");
    assert!((170..220).contains(&catalog.usable()), "{}", catalog.usable());
}

#[test]
fn mixed_sources_are_the_same_stream_on_any_ranks_and_from_any_step() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    parquet_set(&at("parquet"));
    tar_set(&at("tar"));
    write_coco(&at("coco"), IMAGES);
    let sources = [
        (Source::Parquet(shards(&at("parquet"), Filters::none())), 5.0),
        (Source::WebDataset(shards(&at("tar"), Filters::none())), 2.0),
        (Source::CocoCaptions(annotated(&at("coco"))), 1.0),
    ];
    let sources: Vec<LoaderSource> = sources
        .iter()
        .map(|(source, weight)| LoaderSource { weight: *weight, ..LoaderSource::alone(Arc::new(make(source))) })
        .collect();
    let run = |first: u64, steps: usize, slices: std::ops::Range<u64>| {
        let count = steps * (slices.end - slices.start) as usize;
        let mut loader = Loader::start(sources.clone(), settings(4), Arc::default(), first, slices).unwrap();
        let batches: Vec<_> = take(&mut loader, count).iter().map(content).collect();
        (batches, loader.ledger().clone(), loader.drawn_before(first + steps as u64))
    };
    let (whole, ledger, drawn) = run(0, 100, 0..2);
    let (resumed, _, _) = run(61, 39, 0..2);
    assert!(whole[2 * 61..] == resumed[..], "starting at step 61 changed the batches");
    let (first, second) = (run(0, 100, 0..1).0, run(0, 100, 1..2).0);
    let merged: Vec<_> = first.into_iter().zip(second).flat_map(|(a, b)| [a, b]).collect();
    assert!(whole == merged, "two ranks changed the batches");
    for (source, (drawn, distinct)) in ledger.sources.iter().zip(&drawn) {
        assert_eq!(source.seen, *drawn);
        assert!(distinct <= drawn);
    }
    // 800 draws of shares 5:2:1, from blocks that are not whole: within 4 standard deviations.
    let seen: Vec<u64> = ledger.sources.iter().map(|source| source.seen).collect();
    assert!(seen[0].abs_diff(500) < 56 && seen[1].abs_diff(200) < 50 && seen[2].abs_diff(100) < 38, "{seen:?}");
}

/// Shards of one row group each.
fn small_shards(folder: &Path) -> Source {
    for shard in 0..12 {
        let rows = shard * 20..(shard + 1) * 20;
        let columns: Vec<(&str, ArrayRef)> = vec![
            ("caption", texts(caption, rows.clone())),
            ("key", texts(|row| row.to_string(), rows.clone())),
            ("jpg", Arc::new(BinaryArray::from_iter_values(rows.map(image)))),
        ];
        write_parquet(&folder.join(format!("{shard:05}.parquet")), columns);
    }
    Source::Parquet(shards(folder, Filters::none()))
}

#[test]
fn a_lost_shard_costs_its_own_rows_and_every_later_launch_loses_the_same() {
    let folder = tempfile::tempdir().unwrap();
    let (data, lost) = (folder.path().join("set"), folder.path().join("lost"));
    let source = small_shards(&data);
    let catalog = Arc::new(make(&source));
    let lost = Location::parse(&lost.display().to_string()).unwrap();
    let start = |first: u64, slices: std::ops::Range<u64>| {
        let known = Arc::new(block_on(LostRowGroups::open(&lost)).unwrap());
        Loader::start(vec![LoaderSource::alone(catalog.clone())], settings(2), known, first, slices).unwrap()
    };
    let steps = 30; // an epoch: 240 rows in steps of 8
    let clean: Vec<_> = take(&mut start(0, 0..2), 2 * steps).iter().map(content).collect();

    let gone = data.join("00004.parquet");
    let bytes = std::fs::read(&gone).unwrap();
    std::fs::remove_file(&gone).unwrap();
    let mut loader = start(0, 0..2);
    let without: Vec<_> = take(&mut loader, 2 * steps).iter().map(content).collect();
    let ledger = loader.ledger().total();
    drop(loader);
    assert!(ledger.skipped["shard_unavailable"] >= 20, "{ledger:?}");
    let is_lost = |sample: u64| (80..100).contains(&sample);
    for (clean, without) in clean.iter().zip(&without) {
        for (place, (sample, other)) in clean.2.iter().zip(&without.2).enumerate() {
            if is_lost(*sample) {
                assert!(!is_lost(*other), "a lost row was delivered");
            } else {
                assert_eq!(sample, other, "another sample moved");
                assert_eq!(clean.3[place], without.3[place]);
            }
        }
    }

    // The store is well again: what was lost stays lost in the steps that lost it, on other ranks and from other steps.
    std::fs::write(&gone, bytes).unwrap();
    let again: Vec<_> = take(&mut start(11, 0..2), 2 * (steps - 11)).iter().map(content).collect();
    assert!(without[2 * 11..] == again[..], "a restart read what had been lost");
    let (first, second) = (take(&mut start(0, 0..1), steps), take(&mut start(0, 1..2), steps));
    let merged: Vec<_> = first.iter().zip(&second).flat_map(|(a, b)| [content(a), content(b)]).collect();
    assert!(without == merged, "other ranks read what had been lost");
    // A run that knows nothing of it reads everything.
    let sources = vec![LoaderSource::alone(catalog.clone())];
    let mut unaware = Loader::start(sources, settings(2), Arc::default(), 0, 0..2).unwrap();
    assert!(clean == take(&mut unaware, 2 * steps).iter().map(content).collect::<Vec<_>>());
    // Steps for which nothing was read ahead read it again.
    let later = take(&mut start(1_000_000, 0..2), 2 * steps);
    assert!(later.iter().any(|batch| batch.samples.iter().any(|sample| is_lost(*sample))));
}

#[test]
fn a_shard_that_is_rewritten_under_way_is_lost_like_one_that_is_gone() {
    let folder = tempfile::tempdir().unwrap();
    let source = small_shards(folder.path());
    let catalog = Arc::new(make(&source));
    let other = tempfile::tempdir().unwrap();
    parquet_set(other.path());
    std::fs::copy(other.path().join("00000.parquet"), folder.path().join("00004.parquet")).unwrap();
    let cut = std::fs::read(folder.path().join("00007.parquet")).unwrap();
    // The footer is whole; the pages in front are not.
    let mut damaged = cut.clone();
    damaged[4..cut.len() / 2].fill(0);
    std::fs::write(folder.path().join("00007.parquet"), damaged).unwrap();
    let sources = vec![LoaderSource::alone(catalog)];
    let mut loader = Loader::start(sources, settings(2), Arc::default(), 0, 0..2).unwrap();
    take(&mut loader, 60);
    let skipped: BTreeMap<String, u64> = loader.ledger().total().skipped;
    assert!(skipped["shard_changed"] >= 20 && skipped["shard_damaged"] >= 20, "{skipped:?}");
}

#[test]
fn a_caption_that_is_no_utf8_costs_its_own_row() {
    let folder = tempfile::tempdir().unwrap();
    // Written as bytes and called text by the footer's schema alone, as careless writers do.
    let captions = (0..40).map(|row| if row == 7 { vec![0xff, 0xfe, b'x'] } else { caption(row).into_bytes() });
    let columns: Vec<(&str, ArrayRef)> = vec![
        ("caption", Arc::new(BinaryArray::from_iter_values(captions))),
        ("jpg", Arc::new(BinaryArray::from_iter_values((0..40).map(image)))),
    ];
    let file = folder.path().join("0.parquet");
    write_text_parquet(&file, columns);
    let catalog = make(&Source::Parquet(shards(folder.path(), Filters::none())));
    assert_eq!(catalog.description.rejected, BTreeMap::from([("caption_not_utf8".to_owned(), 1)]));
    // The index finds it; a catalogue that has all rows leaves it to the loader.
    let all =
        block_on(Catalog::open(&Location::parse(&folder.path().display().to_string()).unwrap(), |_, _| ())).unwrap();
    for (catalog, skipped) in [(catalog, 0), (all, 1)] {
        let mut loader =
            Loader::start(vec![LoaderSource::alone(Arc::new(catalog))], settings(2), Arc::default(), 0, 0..2).unwrap();
        let batches = take(&mut loader, 10);
        let ledger = loader.ledger().total();
        assert_eq!(ledger.skipped.get("caption_not_utf8").copied().unwrap_or(0), skipped);
        assert!(batches.iter().all(|batch| !batch.samples.contains(&7)));
    }
}

/// Writes bytes in a column that the file's schema calls text.
fn write_text_parquet(file: &Path, columns: Vec<(&str, ArrayRef)>) {
    use parquet::data_type::{ByteArray, ByteArrayType};
    use parquet::file::writer::SerializedFileWriter;
    use parquet::schema::parser::parse_message_type;

    let schema = "message m { required binary caption (UTF8); required binary jpg; }";
    let schema = Arc::new(parse_message_type(schema).unwrap());
    let mut writer = SerializedFileWriter::new(std::fs::File::create(file).unwrap(), schema, Arc::default()).unwrap();
    let mut group = writer.next_row_group().unwrap();
    for (_, column) in columns {
        let column = arrow::array::AsArray::as_binary::<i32>(&column).clone();
        let values: Vec<ByteArray> = column.iter().map(|value| ByteArray::from(value.unwrap().to_vec())).collect();
        let mut out = group.next_column().unwrap().unwrap();
        out.typed::<ByteArrayType>().write_batch(&values, None, None).unwrap();
        out.close().unwrap();
    }
    group.close().unwrap();
    writer.close().unwrap();
}

#[test]
fn a_missing_image_of_a_folder_costs_its_own_sample() {
    let folder = tempfile::tempdir().unwrap();
    write_coco(folder.path(), IMAGES);
    std::fs::remove_file(folder.path().join("images/000000000005.jpg")).unwrap();
    let source = Source::CocoCaptions(annotated(folder.path()));
    let catalog = make(&source);
    assert_eq!((catalog.usable(), catalog.description.rejected["image_missing"]), (239, 1));
    // One that goes later is found when it is drawn.
    let place = Location::parse(&folder.path().join("images/000000000006.jpg").display().to_string()).unwrap();
    block_on(place.store.delete(&place.path)).unwrap();
    let sources = vec![LoaderSource::alone(Arc::new(catalog))];
    let mut loader = Loader::start(sources, settings(2), Arc::default(), 0, 0..2).unwrap();
    take(&mut loader, 58);
    assert_eq!(loader.ledger().total().skipped, BTreeMap::from([("no_image".to_owned(), 1)]));
}
