//! The evaluation sets of a synthetic corpus, through the readers of published layouts and through the loader.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use configs::{AnnotatedSource, Source, Uri, VqaSource};
use data_pipeline::augment::TrainTransform;
use data_pipeline::benchmark::{QuestionSet, read_captions, read_questions};
use data_pipeline::caption::Cleaner;
use data_pipeline::catalog::{Catalog, READ_UNIT_BYTES, index};
use data_pipeline::image::DecodeLimits;
use data_pipeline::loader::{Batch, Loader, LoaderSettings, LoaderSource};
use data_pipeline::order::Layout;
use data_pipeline::store::Location;
use data_pipeline::synthetic::{
    BenchmarkSizes, Benchmarks, Split, SynthOptions, captions, questions, read_benchmarks, scene, write_benchmarks,
    write_corpus,
};
use futures::TryStreamExt;
use object_store::ObjectStoreExt;
use object_store::memory::InMemory;

const SIZES: BenchmarkSizes = BenchmarkSizes { test_scenes: 70, train_scenes: 150 };

fn small() -> SynthOptions {
    SynthOptions { scenes: 200, test_scenes: 10, threads: 2, image_size: 32, ..SynthOptions::default() }
}

/// A fresh store in memory.
fn memory() -> Location {
    let mut place = Location::parse("/corpus").unwrap();
    place.store = Arc::new(InMemory::new());
    place
}

async fn write(options: &SynthOptions, sizes: BenchmarkSizes, out: &Location) -> Benchmarks {
    write_corpus(options, out, |_| ()).await.unwrap();
    write_benchmarks(options, sizes, out, |done, total| assert!(done <= total)).await.unwrap()
}

async fn all_bytes(out: &Location) -> HashMap<String, bytes::Bytes> {
    let listed: Vec<object_store::ObjectMeta> = out.store.list(Some(&out.path)).try_collect().await.unwrap();
    let mut found = HashMap::new();
    for meta in listed {
        found.insert(meta.location.to_string(), out.store.get(&meta.location).await.unwrap().bytes().await.unwrap());
    }
    found
}

async fn asked(out: &Location, split: Split) -> QuestionSet {
    let file = |kind: &str| out.child(&format!("benchmarks/{kind}_{}.json", split.name()));
    read_questions(&file("questions"), Some(&file("annotations"))).await.unwrap()
}

#[tokio::test]
async fn the_same_options_give_the_same_bytes_on_any_number_of_threads_and_after_other_sizes() {
    let (one, three) = (memory(), memory());
    let made = write(&SynthOptions { threads: 1, ..small() }, SIZES, &one).await;
    write(&SynthOptions { threads: 3, ..small() }, BenchmarkSizes { test_scenes: 90, train_scenes: 200 }, &three).await;
    write(&SynthOptions { threads: 3, ..small() }, SIZES, &three).await;
    let bytes = all_bytes(&one).await;
    // Three shards and their records, corpus.json; images, three files of each split, benchmarks.json.
    assert_eq!(bytes.len(), 7 + 290 + 9 + 1);
    assert!(bytes == all_bytes(&three).await);
    assert_eq!(read_benchmarks(&one).await.unwrap(), Some(made));
}

#[tokio::test]
async fn every_set_says_of_its_scenes_what_the_corpus_says() {
    let out = memory();
    let options = small();
    let made = write(&options, SIZES, &out).await;
    for (split, record) in Split::ALL.into_iter().zip(&made.splits) {
        assert_eq!(record.name, split.name());
        let number = if split == Split::Train { SIZES.train_scenes } else { SIZES.test_scenes };
        let file = out.child(&format!("benchmarks/captions_{}.json", split.name()));
        let set = read_captions(&file, None).await.unwrap();
        assert_eq!((set.images.len() as u64, &set.sha256), (number, &record.captions_sha256));
        let images = set.open_images(&out.child("benchmarks/images")).await.unwrap();
        let asked = asked(&out, split).await;
        assert_eq!(asked.questions.len() as u64, record.questions);
        let mut by_image: BTreeMap<&str, Vec<(&str, &str)>> = BTreeMap::new();
        for question in &asked.questions {
            let answers: BTreeSet<&str> = question.answers.iter().map(String::as_str).collect();
            assert_eq!((question.answers.len(), answers.len()), (10, 1), "ten people agree");
            by_image.entry(&question.file).or_default().push((&question.text, &question.answers[0]));
        }
        for (index, image) in set.images.iter().enumerate() {
            let scene = scene(&options, split, index as u64).unwrap();
            assert_eq!(image.id.to_string(), index.to_string());
            let all = captions(&scene);
            assert_eq!(image.captions.iter().collect::<BTreeSet<_>>().len(), 5);
            assert!(image.captions.iter().all(|text| all.contains(text)));
            let expected = questions(&scene);
            let expected: Vec<_> = expected.iter().map(|q| (q.question.as_str(), q.answer.as_str())).collect();
            assert_eq!(by_image[image.file.as_str()], expected);
            let bytes = images.read(&image.file).await.unwrap();
            assert_eq!(&bytes[..2], b"\xff\xd8", "a JPEG");
        }
        if split != Split::Train {
            let first: BTreeSet<&String> = set.images.iter().map(|image| &image.captions[0]).collect();
            assert_eq!(first.len() as u64, number, "first captions tell the scenes of a test split apart");
        }
        let texts: Vec<&String> = set.images.iter().flat_map(|image| &image.captions).collect();
        let shared = texts.iter().filter(|text| texts.iter().filter(|other| other == text).count() > 1).count();
        assert_eq!(shared as u64, record.shared_captions);
        assert_eq!(texts.len() as u64, record.captions);
    }
}

#[tokio::test]
async fn answers_are_of_vqas_types() {
    let out = memory();
    write(&small(), SIZES, &out).await;
    let set = asked(&out, Split::TestSeen).await;
    let mut types: BTreeMap<(&str, &str), BTreeSet<&str>> = BTreeMap::new();
    for question in &set.questions {
        let key = (question.question_type.as_deref().unwrap(), question.answer_type.as_deref().unwrap());
        types.entry(key).or_default().insert(&question.answers[0]);
    }
    let found: Vec<(&str, &str)> = types.keys().copied().collect();
    let expected = [
        ("colour", "other"),
        ("count", "number"),
        ("existence", "yes/no"),
        ("relation", "other"),
        ("relation", "yes/no"),
        ("shape", "other"),
    ];
    assert_eq!(found, expected);
    assert!(types[&("count", "number")].iter().all(|answer| ["one", "two", "three", "four"].contains(answer)));
}

#[tokio::test]
async fn pictures_are_those_of_the_corpus() {
    use arrow::array::{Array, AsArray};
    use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;

    let out = memory();
    write(&small(), BenchmarkSizes { test_scenes: 10, train_scenes: 200 }, &out).await;
    for (split, rows) in [(Split::Train, 200), (Split::TestUnseen, 10)] {
        let bytes = out.child(&format!("{}/00000.parquet", split.name())).read().await.unwrap();
        let reader = ParquetRecordBatchReaderBuilder::try_new(bytes).unwrap().with_batch_size(rows).build().unwrap();
        let batch = reader.map(Result::unwrap).next().unwrap();
        let pictures = batch.column_by_name("jpg").unwrap().as_binary::<i32>().clone();
        assert_eq!(pictures.len(), rows);
        for row in 0..rows {
            let file = out.child(&format!("benchmarks/images/COCO_{}_{row:012}.jpg", split.name()));
            assert!(file.read().await.unwrap() == pictures.value(row), "{split:?} {row}");
        }
    }
}

#[tokio::test]
async fn sets_are_refused_without_their_corpus_beside_foreign_files_and_with_impossible_sizes() {
    let out = memory();
    let refusal = async |options: &SynthOptions, sizes| {
        write_benchmarks(options, sizes, &out, |_, _| ()).await.unwrap_err().to_string()
    };
    assert!(refusal(&small(), SIZES).await.contains("there is no complete corpus"));
    write(&small(), SIZES, &out).await;
    let other = SynthOptions { seed: 1, ..small() };
    assert!(refusal(&other, SIZES).await.contains("a corpus of other options"));
    let message = refusal(&small(), BenchmarkSizes { test_scenes: 0, train_scenes: 201 }).await;
    let expected = "benchmarks cannot be made: benchmark_scenes is 0, expected 1 to 20000; benchmark_train_scenes is 201, \
                    expected at most 200: the training scenes of the corpus, and no more than that limit";
    assert_eq!(message, expected);

    let foreign = out.child("benchmarks/images/COCO_val2014_000000000042.jpg");
    foreign.write("jpeg").await.unwrap();
    let before = all_bytes(&out).await;
    assert!(refusal(&small(), SIZES).await.contains("COCO_val2014_000000000042.jpg: this is no file of benchmarks"));
    let error = write_corpus(&SynthOptions { overwrite: true, ..other.clone() }, &out, |_| ()).await.unwrap_err();
    assert!(error.to_string().contains("Nothing was changed"), "{error}");
    assert!(before == all_bytes(&out).await);

    // Another corpus takes the sets of the old one with it.
    foreign.delete().await.unwrap();
    write_corpus(&SynthOptions { overwrite: true, ..other }, &out, |_| ()).await.unwrap();
    assert!(all_bytes(&out).await.keys().all(|name| !name.contains("benchmarks")));
}

fn sources(out: &Location) -> [Source; 2] {
    let uri = Uri::new(&format!("{}/benchmarks", out.uri()));
    let annotated = AnnotatedSource {
        name: "captions".into(),
        uri: uri.clone(),
        annotations: "captions_train.json".into(),
        images: "images".into(),
        catalog: None,
        weight: 1.0,
    };
    let asked = VqaSource {
        name: "questions".into(),
        uri,
        questions: "questions_train.json".into(),
        annotations: "annotations_train.json".into(),
        images: "images".into(),
        weight: 1.0,
    };
    [Source::CocoCaptions(annotated), Source::Vqa(asked)]
}

/// An epoch of a source in steps of eight samples.
fn epoch(catalog: Catalog) -> Vec<Batch> {
    let steps = catalog.usable() / 8;
    let settings = LoaderSettings {
        layout: Layout { seed: 7, lanes: 1, window_row_groups: 4, global_batch: 8 },
        slices: 1,
        transform: TrainTransform::reference(24),
        captions: Cleaner::default(),
        asks: false,
        limits: DecodeLimits::default(),
        decode_threads: 1,
        memory_bytes: 256 << 20,
        max_bad_fraction: 0.0,
        quarantine: None,
    };
    let sources = vec![LoaderSource::alone(Arc::new(catalog))];
    let mut loader = Loader::start(sources, settings, Arc::default(), 0, 0..1).unwrap();
    (0..steps).map(|_| loader.next_batch().unwrap()).collect()
}

/// The corpus in a folder with a URL, and what its runtime gives.
fn written(folder: &std::path::Path) -> (tokio::runtime::Runtime, Location) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let out = Location::parse(&format!("file://{}", folder.display())).unwrap();
    runtime.block_on(write(&small(), SIZES, &out));
    (runtime, out)
}

#[test]
fn fine_tuning_reads_the_sets_of_training_scenes() {
    let folder = tempfile::tempdir().unwrap();
    let (runtime, out) = written(folder.path());
    let [captioned, asked_about] = sources(&out);
    let place = out.child("catalog.parquet");
    let catalog = |source: &Source| {
        let made = runtime.block_on(index(source, READ_UNIT_BYTES, &|_, _| ())).unwrap();
        runtime.block_on(made.save(&place)).unwrap();
        runtime.block_on(Catalog::load(&place, source, READ_UNIT_BYTES)).unwrap().catalog
    };
    let clean = Cleaner::default();

    let set = runtime.block_on(read_captions(&out.child("benchmarks/captions_train.json"), None)).unwrap();
    let by_file: BTreeMap<&str, &[String]> = set.images.iter().map(|i| (i.file.as_str(), &i.captions[..])).collect();
    let batches = epoch(catalog(&captioned));
    for batch in &batches {
        for (key, caption) in batch.keys.iter().zip(&batch.captions) {
            assert!(by_file[key.as_str()].iter().any(|text| clean.caption(text) == *caption), "{key}: {caption}");
        }
        assert!(batch.questions.iter().all(String::is_empty));
    }

    let set = runtime.block_on(asked(&out, Split::Train));
    let by_id: BTreeMap<String, (&str, &str)> =
        set.questions.iter().map(|q| (q.id.to_string(), (q.text.as_str(), q.answers[0].as_str()))).collect();
    let catalog = catalog(&asked_about);
    assert_eq!(catalog.usable(), set.questions.len() as u64);
    let mut seen = BTreeSet::new();
    for batch in epoch(catalog) {
        for (key, (question, answer)) in batch.keys.iter().zip(batch.questions.iter().zip(&batch.captions)) {
            assert_eq!(by_id[key], (question.as_str(), answer.as_str()));
            seen.insert(key.clone());
        }
    }
    assert!(set.questions.len() - seen.len() < 8, "an epoch has every question but a remainder");
}

#[test]
fn an_answer_is_drawn_as_often_as_people_gave_it_and_stays_as_it_is_written() {
    let folder = tempfile::tempdir().unwrap();
    let (runtime, out) = written(folder.path());
    let questions: Vec<String> =
        (0..150).map(|n| format!(r#"{{"image_id": {n}, "question": "What IS it?", "question_id": {n}}}"#)).collect();
    let answer = |text: &str| format!(r#"{{"answer": "{text}"}}"#);
    let answers = [vec![answer("3.50 (ca.)"); 7], vec![answer("Net"); 3]].concat().join(",");
    let annotations: Vec<String> =
        (0..150).map(|n| format!(r#"{{"image_id": {n}, "answers": [{answers}], "question_id": {n}}}"#)).collect();
    for (kind, entries) in [("questions", questions), ("annotations", annotations)] {
        let json = format!(r#"{{"data_subtype": "train", "{kind}": [{}]}}"#, entries.join(","));
        runtime.block_on(out.child(&format!("benchmarks/{kind}_train.json")).write(json)).unwrap();
    }
    let [_, asked] = sources(&out);
    let catalog = runtime.block_on(index(&asked, READ_UNIT_BYTES, &|_, _| ())).unwrap();
    let mut drawn: BTreeMap<String, u64> = BTreeMap::new();
    for batch in epoch(catalog) {
        batch.captions.iter().for_each(|answer| *drawn.entry(answer.clone()).or_default() += 1);
        assert!(batch.questions.iter().all(|question| question == "what is it?"));
    }
    assert_eq!(drawn.len(), 2);
    // 144 draws with a chance of 0.7: 100.8, within four standard deviations of 5.5.
    assert!(drawn["3.50 (ca.)"].abs_diff(101) < 22, "{drawn:?}");
}
