//! The synthetic corpus as its users see it: bytes, schema, splits, wording, answers, resumption and refusals.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use arrow::array::{Array, AsArray, RecordBatch};
use arrow::datatypes::{DataType, Int32Type};
use data_pipeline::caption::Cleaner;
use data_pipeline::store::Location;
use data_pipeline::synthetic::{
    COLOUR_WORDS, Object, Pair, SHAPE_PLURALS, SHAPE_WORDS, Scene, Split, SynthOptions, VOCABULARY, captions,
    held_out_pairs, questions, read_corpus, render, scene, scenes, write_corpus,
};
use futures::TryStreamExt;
use object_store::memory::InMemory;
use object_store::{ObjectStoreExt, PutPayload};
use parquet::arrow::arrow_reader::{ParquetRecordBatchReader, ParquetRecordBatchReaderBuilder};
use parquet::basic::Compression;

fn small() -> SynthOptions {
    SynthOptions {
        scenes: 450,
        test_scenes: 120,
        shard_rows: 200,
        threads: 2,
        image_size: 32,
        ..SynthOptions::default()
    }
}

/// A fresh store in memory.
fn memory() -> Location {
    let mut place = Location::parse("/corpus").unwrap();
    place.store = Arc::new(InMemory::new());
    place
}

async fn write(options: &SynthOptions, out: &Location) -> data_pipeline::synthetic::CorpusSummary {
    write_corpus(options, out, |_| ()).await.unwrap()
}

async fn all_bytes(out: &Location) -> HashMap<String, bytes::Bytes> {
    let mut found = HashMap::new();
    let listed: Vec<object_store::ObjectMeta> = out.store.list(Some(&out.path)).try_collect().await.unwrap();
    for meta in listed {
        let bytes = out.store.get(&meta.location).await.unwrap().bytes().await.unwrap();
        found.insert(meta.location.to_string(), bytes);
    }
    found
}

async fn batches(out: &Location, shard: &str) -> Vec<RecordBatch> {
    let bytes = out.child(shard).read().await.unwrap();
    let reader: ParquetRecordBatchReader = ParquetRecordBatchReaderBuilder::try_new(bytes).unwrap().build().unwrap();
    reader.map(Result::unwrap).collect()
}

fn texts(batch: &RecordBatch, column: &str) -> Vec<String> {
    let column = batch.column_by_name(column).unwrap().as_string::<i32>();
    (0..column.len()).map(|row| column.value(row).to_owned()).collect()
}

#[tokio::test]
async fn the_same_options_give_the_same_bytes_on_any_number_of_threads() {
    let (one, three) = (memory(), memory());
    write(&SynthOptions { threads: 1, ..small() }, &one).await;
    write(&SynthOptions { threads: 3, ..small() }, &three).await;
    let bytes = all_bytes(&one).await;
    // 3 + 1 + 1 shards, a record for each, corpus.json.
    assert_eq!(bytes.len(), 11);
    assert!(bytes == all_bytes(&three).await);

    let other = memory();
    write(&SynthOptions { seed: 43, ..small() }, &other).await;
    assert_ne!(bytes["corpus/train/00000.parquet"], all_bytes(&other).await["corpus/train/00000.parquet"]);
}

#[tokio::test]
async fn a_larger_corpus_extends_a_smaller_one() {
    let (large, small_one) = (memory(), memory());
    write(&small(), &large).await;
    write(&SynthOptions { scenes: 200, test_scenes: 40, ..small() }, &small_one).await;
    let (large, small_one) = (all_bytes(&large).await, all_bytes(&small_one).await);
    assert_eq!(large["corpus/train/00000.parquet"], small_one["corpus/train/00000.parquet"]);
    let options = small();
    for split in Split::ALL {
        let listed: Vec<Scene> = scenes(&options, split).unwrap().take(5).collect();
        for (index, listed) in listed.iter().enumerate() {
            assert_eq!(&scene(&options, split, index as u64).unwrap(), listed);
        }
    }
}

#[tokio::test]
async fn the_schema_is_that_of_img2dataset() {
    let out = memory();
    let summary = write(&small(), &out).await;
    let shard = &summary.corpus.splits[0].shards[0];
    let bytes = out.child(&shard.name).read().await.unwrap();
    let reader = ParquetRecordBatchReaderBuilder::try_new(bytes.clone()).unwrap();
    let columns: Vec<(String, DataType)> =
        reader.schema().fields().iter().map(|field| (field.name().clone(), field.data_type().clone())).collect();
    assert!(
        matches!(&columns[0], (name, DataType::List(item)) if name == "captions" && *item.data_type() == DataType::Utf8)
    );
    assert!(matches!(&columns[1], (name, DataType::List(item)) if name == "questions"
        && matches!(item.data_type(), DataType::Struct(fields)
            if fields.iter().map(|f| f.name().as_str()).eq(["question", "answer", "kind"]))));
    let expected: Vec<(String, DataType)> = [
        ("scene", DataType::Utf8),
        ("caption", DataType::Utf8),
        ("url", DataType::Utf8),
        ("key", DataType::Utf8),
        ("status", DataType::Utf8),
        ("error_message", DataType::Utf8),
        ("width", DataType::Int32),
        ("height", DataType::Int32),
        ("original_width", DataType::Int32),
        ("original_height", DataType::Int32),
        ("exif", DataType::Utf8),
        ("sha256", DataType::Utf8),
        ("jpg", DataType::Binary),
    ]
    .map(|(name, kind)| (name.to_owned(), kind))
    .to_vec();
    assert_eq!(columns[2..], expected);

    let metadata = reader.metadata();
    let rows: Vec<i64> = metadata.row_groups().iter().map(|group| group.num_rows()).collect();
    assert_eq!(rows, [100, 100]);
    let jpg = metadata.row_group(0).columns().last().unwrap();
    assert_eq!((jpg.compression(), jpg.dictionary_page_offset()), (Compression::UNCOMPRESSED, None));
    assert_eq!((shard.rows, shard.bytes), (200, bytes.len() as u64));

    for batch in batches(&out, &shard.name).await {
        let jpg = batch.column_by_name("jpg").unwrap().as_binary::<i32>();
        let (sha256, captions) = (texts(&batch, "sha256"), batch.column_by_name("captions").unwrap().as_list::<i32>());
        for (row, caption) in texts(&batch, "caption").iter().enumerate() {
            let image = image::load_from_memory(jpg.value(row)).unwrap();
            assert_eq!((image.width(), image.height()), (32, 32));
            assert_eq!(sha256[row], sha256_of(jpg.value(row)));
            assert_eq!(captions.value(row).as_string::<i32>().value(0), caption);
            assert!(captions.value(row).len() >= 5);
        }
        assert!(texts(&batch, "status").iter().all(|status| status == "success"));
        assert_eq!(batch.column_by_name("error_message").unwrap().null_count(), batch.num_rows());
        assert!(batch.column_by_name("width").unwrap().as_primitive::<Int32Type>().values().iter().all(|&w| w == 32));
    }
    assert_eq!(&texts(&batches(&out, "train/00002.parquet").await[0], "key")[..2], ["00002000", "00002001"]);
}

fn sha256_of(bytes: &[u8]) -> String {
    use sha2::Digest;
    sha2::Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The pairs that a text names: a colour word directly before a shape word.
fn named_pairs(text: &str) -> Vec<Pair> {
    let words: Vec<&str> = text.split(' ').collect();
    let mut pairs = Vec::new();
    for two in words.windows(2) {
        let colour = COLOUR_WORDS.iter().position(|word| *word == two[0]);
        let shape = (0..6).find(|&shape| two[1] == SHAPE_WORDS[shape] || two[1] == SHAPE_PLURALS[shape]);
        if let (Some(colour), Some(shape)) = (colour, shape) {
            pairs.push(Pair {
                colour: data_pipeline::synthetic::Colour::ALL[colour],
                shape: data_pipeline::synthetic::Shape::ALL[shape],
            });
        }
    }
    pairs
}

#[tokio::test]
async fn training_shards_neither_show_nor_name_a_held_out_pair() {
    let out = memory();
    let summary = write(&SynthOptions { scenes: 2_000, image_size: 16, ..small() }, &out).await;
    let held_out: HashSet<Pair> = held_out_pairs(42).into_iter().collect();
    let words: Vec<String> = held_out_pairs(42).iter().map(|pair| pair.words()).collect();
    assert_eq!(summary.corpus.held_out_pairs, words);
    let mut seen = HashSet::new();
    for split in &summary.corpus.splits {
        for shard in &split.shards {
            for batch in batches(&out, &shard.name).await {
                let captions = batch.column_by_name("captions").unwrap().as_list::<i32>();
                let asked = batch.column_by_name("questions").unwrap().as_list::<i32>();
                for (row, json) in texts(&batch, "scene").iter().enumerate() {
                    let scene: Scene = serde_json::from_str(json).unwrap();
                    let shown: BTreeSet<Pair> = scene.objects.iter().map(Object::pair).collect();
                    for caption in captions.value(row).as_string::<i32>().iter().flatten() {
                        assert_eq!(named_pairs(caption).into_iter().collect::<BTreeSet<_>>(), shown, "{caption}");
                    }
                    let novel = shown.iter().filter(|pair| held_out.contains(pair)).count();
                    assert_eq!(novel, usize::from(split.name == "test_unseen"), "{json}");
                    if split.name == "train" {
                        let questions = asked.value(row);
                        for column in questions.as_struct().columns() {
                            for text in column.as_string::<i32>().iter().flatten() {
                                assert!(named_pairs(text).iter().all(|pair| !held_out.contains(pair)), "{text}");
                            }
                        }
                        seen.extend(shown);
                    }
                }
            }
        }
    }
    assert_eq!(seen.len(), 36, "every seen pair occurs in training");
}

#[test]
fn test_splits_are_distinct_and_disjoint_from_training() {
    let options = SynthOptions { scenes: 50_000, ..SynthOptions::default() };
    let content = |scene: &Scene| {
        let mut all: Vec<_> = scene.objects.iter().map(|o| (o.size, o.texture, o.colour, o.shape)).collect();
        all.sort_unstable();
        (all, (scene.objects.len() == 1).then(|| scene.objects[0].cell()))
    };
    let training: Vec<Scene> = scenes(&options, Split::Train).unwrap().collect();
    let contents: HashSet<_> = training.iter().map(content).collect();
    let firsts: HashSet<String> = training.iter().map(|scene| captions(scene)[0].clone()).collect();
    let sizes = (1..=4).map(|n| training.iter().filter(|scene| scene.objects.len() == n).count());
    // A quarter each, standard deviation 97; the reserved contents change that by less than one.
    assert!(sizes.into_iter().all(|count| count.abs_diff(12_500) < 600));
    let mut all_firsts = HashSet::new();
    for split in [Split::TestSeen, Split::TestUnseen] {
        let test: Vec<Scene> = scenes(&options, split).unwrap().collect();
        assert_eq!(test.len(), 500);
        for scene in &test {
            let first = captions(scene)[0].clone();
            assert!(!contents.contains(&content(scene)) && !firsts.contains(&first), "{first}");
            assert!(all_firsts.insert(first));
        }
        let distinct: HashSet<_> = test.iter().map(|scene| format!("{:?}", scene.objects)).collect();
        assert_eq!(distinct.len(), 500);
    }
}

#[test]
fn captions_are_clean_distinct_and_of_the_vocabulary() {
    let options = SynthOptions { scenes: 20_000, ..SynthOptions::default() };
    let mut used = HashSet::new();
    let mut longest = 0;
    let cleaner = Cleaner::default();
    for split in Split::ALL {
        for scene in scenes(&options, split).unwrap() {
            let captions = captions(&scene);
            assert_eq!(captions.iter().collect::<HashSet<_>>().len(), 6, "{captions:?}");
            for caption in &captions {
                assert_eq!(&cleaner.caption(caption), caption);
                longest = longest.max(caption.split(' ').count());
                used.extend(caption.split(' ').map(str::to_owned));
            }
            for question in questions(&scene) {
                assert_eq!(cleaner.question(&question.question), question.question);
                used.extend(question.question.split(' ').map(str::to_owned));
                used.extend(question.answer.split(' ').map(str::to_owned));
            }
        }
    }
    assert_eq!(longest, 31);
    let vocabulary: HashSet<String> = VOCABULARY.iter().map(|word| (*word).to_owned()).collect();
    assert_eq!(used, vocabulary);
    assert!(VOCABULARY.is_sorted());
}

/// The objects that a noun phrase fits, found by looking at every word.
fn fitting<'a>(scene: &'a Scene, phrase: &str) -> Vec<&'a Object> {
    let fits = |object: &&Object| {
        phrase.split(' ').all(|word| match word {
            "object" | "objects" => true,
            "small" | "large" => object.size.word() == word,
            "plain" | "striped" | "dotted" | "checked" => object.texture.word() == word,
            _ if COLOUR_WORDS.contains(&word) => object.colour.word() == word,
            _ => object.shape.word() == word || SHAPE_PLURALS[object.shape as usize] == word,
        })
    };
    scene.objects.iter().filter(fits).collect()
}

/// Whether `a` is `relation` of `b`: `None` where nobody should be asked.
fn related(a: &Object, relation: &str, b: &Object) -> Option<bool> {
    let (from, to) = match relation {
        "left of" => (a.x, b.x),
        "right of" => (b.x, a.x),
        "above" => (a.y, b.y),
        "below" => (b.y, a.y),
        other => panic!("{other} is no relation"),
    };
    (from.abs_diff(to) >= 100).then_some(from < to)
}

fn split_relation(text: &str) -> (&str, &str, &str) {
    let found = ["left of", "right of", "above", "below"]
        .into_iter()
        .find_map(|relation| text.split_once(relation).map(|(a, b)| (a.trim(), relation, b.trim())));
    found.unwrap_or_else(|| panic!("no relation in {text}"))
}

/// The answer to a question, from the scene alone.
fn answer_to(scene: &Scene, question: &str) -> String {
    let the = |phrase: &str| -> Object {
        let found = fitting(scene, phrase.strip_prefix("the ").unwrap());
        assert_eq!(found.len(), 1, "{question}: {phrase} is not one object of {scene:?}");
        *found[0]
    };
    let yes_no = |truth: bool| if truth { "yes" } else { "no" }.to_owned();
    if let Some(rest) = question.strip_prefix("how many ") {
        let phrase = rest.strip_suffix(" are there").or_else(|| rest.strip_suffix(" are in the picture")).unwrap();
        return ["zero", "one", "two", "three", "four"][fitting(scene, phrase).len()].into();
    }
    if let Some(phrase) = question.strip_prefix("what color is ") {
        return the(phrase).colour.word().into();
    }
    if let Some(phrase) = question.strip_prefix("what shape is ") {
        return the(phrase).shape.word().into();
    }
    if let Some(phrase) = question.strip_prefix("is there a ").or_else(|| question.strip_prefix("is there an ")) {
        return yes_no(!fitting(scene, phrase).is_empty());
    }
    if let Some(rest) = question.strip_prefix("what is ") {
        let (_, relation, of) = split_relation(rest);
        let of = the(of);
        let others = scene.objects.iter().filter(|other| **other != of);
        let there: Vec<&Object> = others.filter(|o| related(o, relation, &of).expect("a clear relation")).collect();
        assert_eq!(there.len(), 1, "{question} {scene:?}");
        return format!("{} {}", there[0].colour.word(), there[0].shape.word());
    }
    let (a, relation, b) = split_relation(question.strip_prefix("is ").unwrap());
    yes_no(related(&the(a), relation, &the(b)).expect("a clear relation"))
}

#[test]
fn every_answer_follows_from_the_scene_and_no_question_is_ambiguous() {
    let options = SynthOptions { scenes: 20_000, ..SynthOptions::default() };
    let mut answers: HashMap<(&'static str, String), u32> = HashMap::new();
    for split in Split::ALL {
        for scene in scenes(&options, split).unwrap() {
            for question in questions(&scene) {
                assert_eq!(answer_to(&scene, &question.question), question.answer, "{} {scene:?}", question.question);
                *answers.entry((question.kind.name(), question.answer)).or_default() += 1;
            }
        }
    }
    let count = |kind: &str, answer: &str| *answers.iter().find(|((k, a), _)| *k == kind && a == answer).unwrap().1;
    for (kind, answer) in [("colour", "pink"), ("shape", "ring"), ("count", "four"), ("relation", "red circle")] {
        assert!(count(kind, answer) > 100, "{kind} {answer}");
    }
    for kind in ["existence", "relation"] {
        assert_eq!(count(kind, "yes"), count(kind, "no"), "a blind answer to {kind} questions must not pay");
    }
}

#[test]
fn relations_in_captions_hold() {
    let options = SynthOptions { scenes: 5_000, min_objects: 2, max_objects: 2, ..SynthOptions::default() };
    for scene in scenes(&options, Split::Train).unwrap() {
        let first = captions(&scene)[0].clone();
        let (_, relation, _) = split_relation(&first);
        assert_eq!(related(&scene.objects[0], relation, &scene.objects[1]), Some(true), "{first}");
    }
}

#[test]
fn objects_are_inside_and_apart() {
    let options = SynthOptions { scenes: 20_000, ..SynthOptions::default() };
    for scene in scenes(&options, Split::Train).unwrap() {
        for (place, a) in scene.objects.iter().enumerate() {
            assert!(a.x.min(a.y) > a.radius && a.x.max(a.y) + a.radius < 1000);
            for b in &scene.objects[..place] {
                let distance = f64::from(a.x.abs_diff(b.x)).hypot(f64::from(a.y.abs_diff(b.y)));
                assert!(distance > f64::from(a.radius + b.radius), "{scene:?}");
            }
        }
    }
}

#[test]
fn pictures_show_their_objects() {
    let options = SynthOptions::default();
    let named: [(&str, [i32; 3]); 8] = [
        ("red", [230, 30, 30]),
        ("green", [40, 170, 60]),
        ("blue", [40, 80, 240]),
        ("yellow", [250, 220, 30]),
        ("purple", [140, 50, 190]),
        ("orange", [250, 140, 20]),
        ("cyan", [40, 210, 220]),
        ("pink", [250, 140, 200]),
    ];
    let plain = |object: &&Object| object.texture.word() == "plain" && object.shape.word() != "ring";
    for index in 0..200 {
        let scene = scene(&options, Split::Train, index).unwrap();
        let picture = render(&scene, 64);
        assert_eq!(picture.rgb.len(), 64 * 64 * 3);
        for object in scene.objects.iter().filter(plain) {
            let (x, y) = (usize::from(object.x) * 64 / 1000, usize::from(object.y) * 64 / 1000);
            let pixel: [u8; 3] = picture.rgb[(y * 64 + x) * 3..][..3].try_into().unwrap();
            let distance = |(_, colour): &&(&str, [i32; 3])| -> i32 {
                (0..3).map(|c| (i32::from(pixel[c]) - colour[c]).pow(2)).sum()
            };
            let nearest = named.iter().min_by_key(distance).unwrap().0;
            assert_eq!(nearest, object.colour.word(), "{object:?} {pixel:?}");
        }
    }
}

#[tokio::test]
async fn an_interrupted_run_continues_and_damaged_shards_are_made_again() {
    let reference = memory();
    write(&small(), &reference).await;
    let reference = all_bytes(&reference).await;

    // A run that is dropped in the middle of its second shard.
    let folder = tempfile::tempdir().unwrap();
    let out = Location::parse(folder.path().join("corpus").to_str().unwrap()).unwrap();
    let done = AtomicU64::new(0);
    let options = small();
    let run = write_corpus(&options, &out, |progress| done.store(progress.scenes, Ordering::Relaxed));
    let cut_off = async {
        while done.load(Ordering::Relaxed) < 300 {
            tokio::task::yield_now().await;
        }
    };
    tokio::select! {
        _ = run => panic!("the run was to be interrupted"),
        () = cut_off => (),
    }
    assert!(read_corpus(&out).await.unwrap().is_none());
    let parquet = out.list(".parquet").await.unwrap();
    assert!(parquet.len() < 5);
    for (place, _) in parquet {
        let bytes = place.read().await.unwrap();
        let relative = place.path.as_ref().split("corpus/").last().unwrap().to_owned();
        assert_eq!(bytes, reference[&format!("corpus/{relative}")], "a shard that can be seen is complete");
    }
    write(&small(), &out).await;
    assert_same_files(&out, &reference).await;

    // Complete: nothing is written. Then one shard lost, one changed without a change of size, one record lost.
    let again = write(&small(), &out).await;
    assert_eq!((again.shards_written, again.shards_kept, again.scenes_rendered), (0, 5, 0));
    assert_eq!((again.scenes, again.shards), (690, 5));
    let lost = out.child("train/00000.parquet");
    lost.store.delete(&lost.path).await.unwrap();
    let changed = out.child("train/00001.parquet");
    let mut bytes = changed.read().await.unwrap().to_vec();
    bytes[1000] ^= 1;
    changed.write(bytes).await.unwrap();
    let record = out.child("test_seen/_00000_stats.json");
    record.store.delete(&record.path).await.unwrap();
    let again = write(&small(), &out).await;
    assert_eq!((again.shards_written, again.shards_kept), (3, 2));
    assert_same_files(&out, &reference).await;
}

async fn assert_same_files(out: &Location, reference: &HashMap<String, bytes::Bytes>) {
    let found: HashMap<String, bytes::Bytes> = all_bytes(out)
        .await
        .into_iter()
        .map(|(path, bytes)| (format!("corpus/{}", path.split("corpus/").last().unwrap()), bytes))
        .collect();
    assert_eq!(found.keys().collect::<BTreeSet<_>>(), reference.keys().collect::<BTreeSet<_>>());
    assert!(found == *reference);
}

#[tokio::test]
async fn another_corpus_is_refused_or_replaced_when_asked() {
    let out = memory();
    write(&small(), &out).await;
    let before = all_bytes(&out).await;
    let other = SynthOptions { seed: 7, scenes: 100, ..small() };
    let message = write_corpus(&other, &out, |_| ()).await.unwrap_err().to_string();
    for part in ["/corpus", "seed 42 instead of 7", "scenes 450 instead of 100", "Nothing was changed", "overwrite"] {
        assert!(message.contains(part), "{part} is missing in: {message}");
    }
    assert!(before == all_bytes(&out).await);

    // A file of the user's own in the same place survives.
    out.child("train/notes.txt").write("mine").await.unwrap();
    write(&SynthOptions { overwrite: true, ..other.clone() }, &out).await;
    let fresh = memory();
    write(&other, &fresh).await;
    fresh.child("train/notes.txt").write("mine").await.unwrap();
    assert!(all_bytes(&out).await == all_bytes(&fresh).await);

    // An interrupted deletion is continued.
    out.child("corpus.partial.json").write("\"clearing\"").await.unwrap();
    let corpus = out.child("corpus.json");
    corpus.store.delete(&corpus.path).await.unwrap();
    assert_eq!(write(&small(), &out).await.shards_kept, 0);
}

#[tokio::test]
async fn shards_of_somebody_else_are_never_touched() {
    for overwrite in [false, true] {
        let out = memory();
        let foreign = out.child("train/00000.parquet");
        foreign.store.put(&foreign.path, PutPayload::from_static(b"laion")).await.unwrap();
        let options = SynthOptions { overwrite, ..small() };
        let message = write_corpus(&options, &out, |_| ()).await.unwrap_err().to_string();
        assert!(message.contains("train/00000.parquet") && message.contains("Nothing was changed"), "{message}");
        assert_eq!(all_bytes(&out).await.len(), 1);
    }
}

#[tokio::test]
async fn impossible_options_fail_before_anything_is_written() {
    let options = [
        SynthOptions { scenes: 0, ..small() },
        SynthOptions { image_size: 15, ..small() },
        SynthOptions { image_size: 2049, ..small() },
        SynthOptions { min_objects: 0, ..small() },
        SynthOptions { min_objects: 3, max_objects: 2, ..small() },
        SynthOptions { max_objects: 5, ..small() },
        SynthOptions { shard_rows: 0, ..small() },
        SynthOptions { jpeg_quality: 101, ..small() },
        SynthOptions { max_objects: 1, test_scenes: 3_000, ..small() },
    ];
    for options in options {
        let out = memory();
        assert!(write_corpus(&options, &out, |_| ()).await.is_err(), "{options:?}");
        assert!(all_bytes(&out).await.is_empty());
    }
    let out = memory();
    let tiny = SynthOptions { scenes: 1, test_scenes: 0, ..small() };
    assert_eq!(write(&tiny, &out).await.corpus.splits.len(), 1);
    assert_eq!(write(&SynthOptions { seed: 1, overwrite: true, ..tiny }, &out).await.shards_written, 1);
}
