//! CapFilt: captions written for shards and ranked, the same bytes on any ranks and after any kill; what is kept trains.
#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise and says what it saw")]

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use arrow::array::{Array, AsArray, BinaryArray, RecordBatch, StringArray};
use arrow::datatypes::{Float32Type, Int32Type};
use data_pipeline::catalog::Catalog;
use data_pipeline::store::Location;
use integration_tests::programs::{all_output, built, checkout, run_within};
use integration_tests::runs::{Victim, drain, kill, launch, overrides};
use parquet::arrow::ArrowWriter;
use serde_json::Value;

/// Rows of each of the six shards.
const ROWS: usize = 40;
/// Of the draws.
const SEED: &[&str] = &["--seed", "3"];
/// Of the spoilt shard, the row that is no image, the one without bytes, and the one that was never fetched.
const BAD: [usize; 3] = [3, 7, 11];

fn blip2<S: AsRef<str>>(words: &[S]) -> Output {
    let mut command = Command::new(built("blip2"));
    run_within(300, command.args(words.iter().map(AsRef::as_ref)))
}

fn done(output: &Output) -> Value {
    assert!(output.status.success(), "{}", all_output(output));
    serde_json::from_slice(&output.stdout).unwrap()
}

fn at(folder: &Path, name: &str) -> String {
    folder.join(name).display().to_string()
}

/// Every column of a shard, row groups joined.
fn read(file: &Path) -> RecordBatch {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let catalog = Catalog::open(&Location::parse(&file.display().to_string()).unwrap(), |_, _| ()).await.unwrap();
        let mut batches = Vec::new();
        for group in 0..catalog.row_groups.len() {
            batches.push(catalog.read_whole(group).await.unwrap().0);
        }
        arrow::compute::concat_batches(&batches[0].schema(), &batches).unwrap()
    })
}

/// Replaces images and status of a shard's bad rows.
fn spoil(file: &Path) {
    let batch = read(file);
    let images = batch.column_by_name("jpg").unwrap().as_binary::<i32>().clone();
    let image = |row: usize| match BAD.iter().position(|bad| *bad == row) {
        Some(0) => Some(&b"<html>no image</html>"[..]),
        Some(_) => None,
        None => Some(images.value(row)),
    };
    let images: BinaryArray = (0..images.len()).map(image).collect();
    let status = (0..images.len()).map(|row| Some(if row == BAD[2] { "failed_to_download" } else { "success" }));
    let mut columns = batch.columns().to_vec();
    columns[batch.schema().index_of("jpg").unwrap()] = Arc::new(images);
    columns[batch.schema().index_of("status").unwrap()] = Arc::new(status.collect::<StringArray>());
    let batch = RecordBatch::try_new(batch.schema(), columns).unwrap();
    let mut writer = ArrowWriter::try_new(fs::File::create(file).unwrap(), batch.schema(), None).unwrap();
    writer.write(&batch).unwrap();
    writer.close().unwrap();
}

/// A folder with the small run in `run`, six shards in `source` of which the second is spoilt, and their captions, which one
/// rank wrote undisturbed, in `captioned`.
fn shared() -> &'static Path {
    static FOLDER: OnceLock<PathBuf> = OnceLock::new();
    FOLDER.get_or_init(|| {
        let folder = tempfile::tempdir().unwrap().keep();
        let trained = run_within(300, &launch(&folder.join("run"), &folder, 1));
        assert!(trained.status.success(), "{}", all_output(&trained));
        let (scenes, rows) = ((6 * ROWS).to_string(), ROWS.to_string());
        let corpus = at(&folder, "corpus");
        let made = ["--scenes", &scenes, "--shard-rows", &rows, "--test-scenes", "0", "--seed", "5", "--json"];
        done(&blip2(&[&["data", "synth", "--out", &corpus][..], &made].concat()));
        fs::rename(folder.join("corpus/train"), folder.join("source")).unwrap();
        spoil(&folder.join("source/00001.parquet"));
        let result = done(&blip2(&caption(&folder, "source", "captioned", SEED)));
        assert_eq!((result["rows"].as_u64(), result["images"].as_u64()), (Some(240), Some(237)), "{result}");
        assert_eq!(result["unusable"], serde_json::json!({"not_an_image": 1, "no_image": 1, "download_failed": 1}));
        folder
    })
}

/// `blip2 data caption` of the shards in `source` into `out`.
fn caption(folder: &Path, source: &str, out: &str, more: &[&str]) -> Vec<String> {
    let words = ["data", "caption", &at(folder, "run"), &at(folder, source), "--out", &at(folder, out), "--json"];
    let draws = ["--texts", "4", "--top-p", "0.9"];
    words.iter().chain(&draws).chain(more).map(|word| (*word).to_owned()).collect()
}

/// `blip2 data filter` of what was captioned, with more options.
fn filter(folder: &Path, out: &str, more: &[&str]) -> Output {
    let (source, scorer, out) = (at(folder, "captioned"), at(folder, "run"), at(folder, out));
    blip2(&[&["data", "filter", &source, "--scorer", &scorer, "--out", &out, "--json"][..], more].concat())
}

/// The bytes of the shards of a folder, and the settings that they were made with.
fn content(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    let files = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).filter(|path| path.is_file());
    files.map(|path| (path.file_name().unwrap().to_string_lossy().into_owned(), fs::read(path).unwrap())).collect()
}

fn assert_same(what: &str, found: &Path, expected: &Path) {
    let (found, expected) = (content(found), content(expected));
    assert_eq!(found.keys().collect::<Vec<_>>(), expected.keys().collect::<Vec<_>>(), "{what}");
    let other: Vec<&String> = found.iter().filter(|(name, bytes)| expected[*name] != **bytes).map(|(n, _)| n).collect();
    assert!(other.is_empty(), "{what}: {other:?} differ");
}

fn texts_of(batch: &RecordBatch, column: &str, row: usize) -> Option<Vec<String>> {
    let lists = batch.column_by_name(column).unwrap().as_list::<i32>();
    lists.is_valid(row).then(|| lists.value(row).as_string::<i32>().iter().map(|t| t.unwrap().to_owned()).collect())
}

fn text_of(batch: &RecordBatch, column: &str, row: usize) -> String {
    batch.column_by_name(column).unwrap().as_string::<i32>().value(row).to_owned()
}

#[test]
fn every_column_is_carried_through_and_captions_are_added() {
    let folder = shared();
    let (before, after) = (read(&folder.join("source/00001.parquet")), read(&folder.join("captioned/00001.parquet")));
    for field in before.schema().fields() {
        assert_eq!(before.column_by_name(field.name()), after.column_by_name(field.name()), "{}", field.name());
    }
    for row in 0..ROWS {
        let texts = texts_of(&after, "synthetic_captions", row);
        assert_eq!(texts.map(|texts| texts.len()), (!BAD.contains(&row)).then_some(4), "row {row}");
    }
    let drawn = texts_of(&after, "synthetic_captions", 0).unwrap();
    assert!(drawn.iter().any(|text| *text != drawn[0]), "{drawn:?}");
    let settings: Value = serde_json::from_str(&text_of(&after, "captioner_settings", 5)).unwrap();
    assert_eq!((&settings["decoding"]["texts"], &settings["decoding"]["seed"]), (&Value::from(4), &Value::from(3)));
    assert_eq!(settings["captioner"]["weights_sha256"], text_of(&after, "captioner_sha256", 5));
    assert_eq!(text_of(&after, "captioner_version", 5), settings["program_version"]);
    // One shard of many gives the same captions as alone, and another seed others.
    done(&blip2(&caption(folder, "source/00001.parquet", "alone", SEED)));
    assert_eq!(content(&folder.join("alone"))["00001.parquet"], content(&folder.join("captioned"))["00001.parquet"]);
    done(&blip2(&caption(folder, "source/00001.parquet", "other", &["--seed", "4"])));
    assert_ne!(texts_of(&read(&folder.join("other/00001.parquet")), "synthetic_captions", 0).unwrap(), drawn);
}

#[test]
fn shards_are_the_same_on_two_ranks_and_after_kills() {
    let folder = shared();
    let expected = folder.join("captioned");
    let on = |out: &str, ranks: &str| caption(folder, "source", out, &[SEED, &["--ranks", ranks]].concat());
    done(&blip2(&on("on_two", "2")));
    assert_same("two ranks", &folder.join("on_two"), &expected);
    for (number, victim) in [Victim::Rank, Victim::Launcher].into_iter().enumerate() {
        let name = format!("killed-{number}");
        let out = folder.join(&name);
        let mut child = Command::new(built("blip2"));
        child.args(on(&name, "2")).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut child = child.spawn().unwrap();
        let _log = drain(&mut child);
        let since = Instant::now();
        let finished = || content_names(&out).iter().filter(|name| name.ends_with(".parquet")).count();
        while finished() < 1 + number {
            assert!(since.elapsed() < Duration::from_secs(100), "no shard after 100 s");
            std::thread::sleep(Duration::from_millis(1));
        }
        kill(victim, &child, &out);
        let _ended = child.wait().unwrap();
        let kept = finished() as u64;
        // On another number of ranks, as it happens.
        let result = done(&blip2(&on(&name, ["2", "1"][number])));
        assert!(result["shards_kept"].as_u64().unwrap() >= 1, "{kept} shards before, {result}");
        assert_eq!((result["shards"].as_u64(), result["texts"].as_u64()), (Some(6), Some(237 * 4)), "{result}");
        assert_same(&format!("after the {victim:?} was killed"), &out, &expected);
    }
}

fn content_names(folder: &Path) -> Vec<String> {
    let names = fs::read_dir(folder).into_iter().flatten().flatten();
    names.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
}

#[test]
fn the_best_captions_are_kept_and_train() {
    let folder = shared();
    let result = done(&filter(folder, "filtered", &[]));
    assert_eq!((result["images"].as_u64(), result["texts"].as_u64()), (Some(237), Some(2 * 237)), "{result}");
    done(&filter(folder, "filtered_on_two", &["--ranks", "2"]));
    assert_same("two ranks", &folder.join("filtered_on_two"), &folder.join("filtered"));
    let (before, after) = (read(&folder.join("captioned/00001.parquet")), read(&folder.join("filtered/00001.parquet")));
    assert_eq!(before.column_by_name("caption"), after.column_by_name("caption"));
    assert_eq!(before.column_by_name("status"), after.column_by_name("status"));
    let mut firsts = Vec::new();
    for row in 0..ROWS {
        let Some(kept) = texts_of(&after, "captions", row) else {
            assert!(BAD.contains(&row));
            continue;
        };
        let similarities = after.column_by_name("similarities").unwrap().as_list::<i32>().value(row);
        let similarities = similarities.as_primitive::<Float32Type>().values().to_vec();
        let sources = texts_of(&after, "caption_sources", row).unwrap();
        assert!(
            kept.len() == 2 && similarities[0] >= similarities[1] && kept[0] != kept[1],
            "{kept:?} {similarities:?}"
        );
        for (text, source) in kept.iter().zip(&sources) {
            let column = if source == "synthetic" { "synthetic_captions" } else { "captions" };
            assert!(texts_of(&before, column, row).unwrap().contains(text), "{text} of {source}");
        }
        firsts.push(similarities[0]);
    }
    // A limit that half of the best captions reach: rows without one are marked and left out by the catalogue.
    firsts.sort_by(f32::total_cmp);
    let limit = firsts[firsts.len() / 2].to_string();
    let result = done(&filter(folder, "limited", &["--min-similarity", &limit]));
    let filtered = result["filtered"].as_u64().unwrap();
    assert!((20..200).contains(&filtered), "{result}");
    let limited = read(&folder.join("limited/00001.parquet"));
    for row in (0..ROWS).filter(|row| !BAD.contains(row)) {
        let is_empty = texts_of(&limited, "captions", row).unwrap().is_empty();
        assert_eq!(text_of(&limited, "status", row), if is_empty { "filtered" } else { "success" });
    }
    train(folder, filtered);
}

/// Trains the small run on shards that were filtered, and looks at what its catalogue left out.
fn train(folder: &Path, filtered: u64) {
    let mut words =
        vec!["config".to_owned(), "show".to_owned(), at(&checkout(), "configs/tiny.yaml"), "--json".to_owned()];
    words.extend(
        overrides(&folder.join("run_on_filtered"), folder).into_iter().flat_map(|set| ["--set".to_owned(), set]),
    );
    let mut run = done(&blip2(&words.iter().map(String::as_str).collect::<Vec<_>>()));
    run["data"]["sources"] = serde_json::json!([
        { "name": "filtered", "kind": "parquet", "uri": at(folder, "limited"), "weight": 1.0, "top_captions": 2 }
    ]);
    let config = at(folder, "on_filtered.yaml");
    fs::write(&config, run.to_string()).unwrap();
    let indexed = done(&blip2(&["data", "index", &config, "--json"]));
    let source = &indexed["sources"][0];
    assert_eq!(source["rejected"], serde_json::json!({ "filtered": filtered, "download_failed": 1 }), "{source}");
    assert_eq!(source["usable"].as_u64(), Some(239 - filtered));
    let trained = blip2(&["launch", &config]);
    assert!(trained.status.success(), "{}", all_output(&trained));
}

#[test]
fn a_matching_head_scores_between_0_and_1() {
    let folder = shared();
    let result = done(&filter(folder, "matched", &["--match", "--top", "3", "--limit-shards", "1", "--threads", "2"]));
    assert_eq!((result["settings"]["scorer"]["kind"].as_str(), result["shards"].as_u64()), (Some("itm"), Some(1)));
    let matched = read(&folder.join("matched/00000.parquet"));
    let scores = matched.column_by_name("similarities").unwrap().as_list::<i32>().values().clone();
    assert!(
        scores.len() == 3 * ROWS
            && scores.as_primitive::<Float32Type>().iter().all(|s| (0.0..=1.0).contains(&s.unwrap()))
    );
}

#[test]
fn what_contradicts_shards_that_are_there_is_refused() {
    let folder = shared();
    let refused = |words: &[&str], code: i32, part: &str| {
        let output = blip2(words);
        assert_eq!(output.status.code(), Some(code), "{}", all_output(&output));
        assert!(all_output(&output).contains(part), "{part}: {}", all_output(&output));
    };
    let own = |words: &[String], part: &str| refused(&words.iter().map(String::as_str).collect::<Vec<_>>(), 1, part);
    own(&caption(folder, "source", "captioned", &["--seed", "4"]), "settings.decoding.seed 3, now 4");
    own(&caption(folder, "source", "source/inside", SEED), "lie in one another");
    assert!(!folder.join("source/inside/capfilt.json").exists());
    own(&caption(folder, "captioned", "again", SEED), "has a column `synthetic_captions`");
    let again = at(folder, "again");
    let (run, source) = (at(folder, "run"), at(folder, "source"));
    let beams = ["--beams", "3", "--texts", "4"];
    refused(&[&["data", "caption", &run, &source, "--out", &again][..], &beams].concat(), 2, "--beams");
    refused(&["data", "filter", &source, "--scorer", &at(folder, "nothing"), "--out", &again], 1, "nothing");
    let stage2 = ["--stage", "generative"];
    refused(
        &[&["data", "filter", &source, "--scorer", &run, "--out", &again][..], &stage2].concat(),
        1,
        "representation",
    );
}

/// A tar and a Parquet shard of nothing else than img2dataset's least columns, with a text that is no UTF-8.
#[test]
fn tars_become_parquet_and_bad_texts_cost_nothing_else() {
    let folder = shared();
    let files = folder.join("files");
    fs::create_dir_all(&files).unwrap();
    let picture = |name: &str| fs::read(checkout().join("tests/fixtures/preprocess").join(name)).unwrap();
    let images = [Some(picture("gradient.jpg")), None, Some(b"none".to_vec()), Some(picture("rgba.png"))];
    for (number, image) in images.iter().enumerate() {
        fs::write(files.join(format!("{number}.txt")), format!("text {number}")).unwrap();
        if let Some(image) = image {
            fs::write(files.join(format!("{number}.jpg")), image).unwrap();
        }
    }
    fs::create_dir_all(folder.join("tars")).unwrap();
    let mut tar = Command::new("tar");
    tar.args(["--sort=name", "-cf", &at(folder, "tars/first.tar"), "-C", &at(folder, "files"), "."]);
    assert!(tar.status().unwrap().success());
    let result = done(&blip2(&caption(folder, "tars", "from_tars", SEED)));
    assert_eq!(result["unusable"], serde_json::json!({"no_image": 1, "not_an_image": 1}), "{result}");
    let made = read(&folder.join("from_tars/first.parquet"));
    let status: Vec<String> = (0..4).map(|row| text_of(&made, "status", row)).collect();
    assert_eq!(status, ["success", "failed_to_decode", "failed_to_decode", "success"]);
    assert_eq!((text_of(&made, "caption", 3), text_of(&made, "key", 3)), ("text 3".into(), "./3".into()));
    let width = made.column_by_name("width").unwrap().as_primitive::<Int32Type>();
    assert!(width.value(0) > 0 && width.is_null(1));

    fs::create_dir_all(folder.join("bad_texts")).unwrap();
    let texts = [&b"fine"[..], b"\xff\xfe", b"good", b"last"];
    let images: Vec<&[u8]> = images.iter().map(|image| image.as_deref().unwrap_or_default()).collect();
    write_texts(&folder.join("bad_texts/0.parquet"), [&texts, &images]);
    done(&blip2(&caption(folder, "bad_texts", "from_bad_texts", SEED)));
    let made = read(&folder.join("from_bad_texts/0.parquet"));
    let captions = made.column_by_name("caption").unwrap().as_string::<i32>();
    assert_eq!(captions.iter().collect::<Vec<_>>(), [Some("fine"), None, Some("good"), Some("last")]);
    assert!(made.column_by_name("status").is_none() && texts_of(&made, "synthetic_captions", 0).is_some());
}

/// Writes captions and images as Parquet that calls the captions texts, whatever their bytes.
fn write_texts(file: &Path, columns: [&[&[u8]]; 2]) {
    use parquet::data_type::{ByteArray, ByteArrayType};
    use parquet::file::writer::SerializedFileWriter;
    use parquet::schema::parser::parse_message_type;

    let schema = parse_message_type("message m { required binary caption (UTF8); required binary jpg; }").unwrap();
    let file = fs::File::create(file).unwrap();
    let mut writer = SerializedFileWriter::new(file, Arc::new(schema), Arc::default()).unwrap();
    let mut group = writer.next_row_group().unwrap();
    for column in columns {
        let values: Vec<ByteArray> = column.iter().map(|value| ByteArray::from(value.to_vec())).collect();
        let mut out = group.next_column().unwrap().unwrap();
        out.typed::<ByteArrayType>().write_batch(&values, None, None).unwrap();
        out.close().unwrap();
    }
    group.close().unwrap();
    writer.close().unwrap();
}
