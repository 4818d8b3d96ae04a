//! `blip2 data fetch` against servers on loopback that answer well, badly, late or never, and through kills.
#![allow(clippy::unwrap_used, clippy::print_stderr, reason = "a test stops at the first surprise and says what it saw")]

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use arrow::array::{Array, ArrayRef, AsArray, Float64Array, Int32Array, Int64Array, RecordBatch, StringArray};
use arrow::datatypes::Int32Type;
use data_pipeline::catalog::Catalog;
use data_pipeline::image::{DecodeLimits, decode};
use data_pipeline::store::Location;
use data_pipeline::synthetic::{SynthOptions, write_corpus};
use integration_tests::programs::{all_output, built, checkout, run_within};
use integration_tests::web::{Reply, Request, Web};
use parquet::arrow::ArrowWriter;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use parquet::file::properties::WriterProperties;

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
}

/// Different JPEGs of 32 x 32 pixels.
fn pictures() -> &'static Vec<Vec<u8>> {
    static PICTURES: OnceLock<Vec<Vec<u8>>> = OnceLock::new();
    PICTURES.get_or_init(|| {
        let folder = tempfile::tempdir().unwrap();
        let place = Location::parse(folder.path().to_str().unwrap()).unwrap();
        let options =
            SynthOptions { scenes: 100, test_scenes: 0, image_size: 32, threads: 1, ..SynthOptions::default() };
        runtime().block_on(async {
            write_corpus(&options, &place, |_| ()).await.unwrap();
            let catalog = Catalog::open(&place, |_, _| ()).await.unwrap();
            let rows = catalog.shards[0].read(0).await.unwrap();
            rows.images.iter().map(|image| image.unwrap().to_vec()).collect()
        })
    })
}

fn fixture(name: &str) -> Vec<u8> {
    fs::read(checkout().join("tests/fixtures/preprocess").join(name)).unwrap()
}

fn ok(body: Vec<u8>) -> Reply {
    Reply::Whole(200, vec![("Content-Type", "image/jpeg".into())], body)
}

fn status(status: u16) -> Reply {
    Reply::Whole(status, Vec::new(), b"sorry".to_vec())
}

fn moved(to: &str) -> Reply {
    Reply::Whole(302, vec![("Location", to.into())], Vec::new())
}

/// A PNG that promises 30,000 x 30,000 pixels in a sound header.
fn bomb() -> Vec<u8> {
    let mut bytes = b"\x89PNG\r\n\x1a\n\0\0\0\x0dIHDR\0\0\x75\x30\0\0\x75\x30\x08\x02\0\0\0".to_vec();
    let mut crc = u32::MAX;
    for byte in &bytes[12..] {
        crc ^= u32::from(*byte);
        for _ in 0..8 {
            crc = if crc & 1 == 1 { (crc >> 1) ^ 0xedb8_8320 } else { crc >> 1 };
        }
    }
    bytes.extend((!crc).to_be_bytes());
    bytes.extend(b"\0\0\0\0IDAT");
    bytes
}

/// The paths that every server of these tests knows.
fn answer(request: &Request) -> Reply {
    let path = request.path.as_str();
    if let Some(number) = path.strip_prefix("/picture/") {
        return ok(pictures()[number.parse::<usize>().unwrap() % 100].clone());
    }
    match path {
        "/chain/3" => moved("/chain/2"),
        "/chain/2" => Reply::Whole(301, vec![("Location", "1".into())], Vec::new()),
        "/chain/1" => moved("/picture/1"),
        "/loop" => moved("/loop"),
        "/nowhere" => moved("http://"),
        "/busy" if request.before == 0 => Reply::Whole(503, vec![("Retry-After", "0".into())], Vec::new()),
        "/late" => {
            std::thread::sleep(Duration::from_millis(300));
            ok(pictures()[2].clone())
        }
        "/busy" | "/unlabelled" => Reply::Whole(200, vec![("Content-Type", "text/html".into())], pictures()[3].clone()),
        "/page.jpg" => ok(b"<!doctype html><title>gone</title>".to_vec()),
        "/empty" => ok(Vec::new()),
        "/short" => Reply::Short(pictures()[4][..200].to_vec(), 500),
        "/cut" => ok(pictures()[4][..400].to_vec()),
        "/stall" => Reply::Stall(pictures()[4][..200].to_vec(), 500),
        "/hang" => Reply::Hang,
        "/bomb" => ok(bomb()),
        "/noai" => Reply::Whole(200, vec![("X-Robots-Tag", "nofollow, NoAI".into())], pictures()[5].clone()),
        "/for-others" => Reply::Whole(200, vec![("X-Robots-Tag", "otherbot: noai".into())], pictures()[5].clone()),
        "/long" => Reply::Unannounced(vec![7; 3 << 20]),
        "/longer" => ok(vec![7; 3 << 20]),
        "/unannounced" => Reply::Unannounced(pictures()[6].clone()),
        "/rgba.png" => ok(fixture("rgba.png")),
        "/exif" => ok(fixture("exif_rotated.jpg")),
        "/tiny" => ok(fixture("tiny.png")),
        "/private/1" => ok(pictures()[7].clone()),
        "/unsafe" => ok(pictures()[8].clone()),
        "/teapot" => status(418),
        "/broken" => status(500),
        _ => status(404),
    }
}

/// Writes LAION-like metadata: two files with row groups of 70 rows.
fn write_metadata(folder: &Path, urls: &[Option<String>]) {
    fs::create_dir_all(folder).unwrap();
    let half = urls.len().div_ceil(2);
    for (number, urls) in urls.chunks(half).enumerate() {
        let first = number * half;
        let ids = (first..first + urls.len()).map(|id| id as i64);
        let columns: Vec<(&str, ArrayRef)> = vec![
            ("SAMPLE_ID", Arc::new(Int64Array::from_iter_values(ids.clone()))),
            ("URL", Arc::new(StringArray::from_iter(urls.iter().cloned()))),
            (
                "TEXT",
                Arc::new(StringArray::from_iter(ids.clone().map(|id| (id % 7 != 3).then(|| format!("text {id}"))))),
            ),
            ("HEIGHT", Arc::new(Int32Array::from_iter(ids.clone().map(|id| (id % 5 != 0).then_some(id as i32))))),
            ("NSFW", Arc::new(StringArray::from_iter_values(ids.clone().map(|_| "UNLIKELY")))),
            ("similarity", Arc::new(Float64Array::from_iter_values(ids.map(|id| id as f64 / 1000.0)))),
        ];
        let batch = RecordBatch::try_from_iter_with_nullable(columns.into_iter().map(|(n, c)| (n, c, true))).unwrap();
        let properties = WriterProperties::builder().set_max_row_group_row_count(Some(70)).build();
        let file = fs::File::create(folder.join(format!("part-{number}.parquet"))).unwrap();
        let mut writer = ArrowWriter::try_new(file, batch.schema(), Some(properties)).unwrap();
        writer.write(&batch).unwrap();
        writer.close().unwrap();
    }
}

/// Settings that suit loopback, for tests that ask for no others.
const USUAL: [&str; 7] = [
    "--timeout-s=1",
    "--tries=2",
    "--backoff-ms=20",
    "--host-delay-ms=0",
    "--threads=2",
    "--image-size=24",
    "--part-rows=100",
];

fn fetch(metadata: &Path, out: &Path, more: &[&str]) -> Command {
    let mut command = Command::new(built("blip2"));
    command.args(["data", "fetch", "--json"]).arg(metadata).arg("--out").arg(out).args(more);
    let name = |option: &'static str| option.split_once('=').map_or(option, |(name, _)| name);
    command.args(USUAL.iter().filter(|usual| !more.iter().any(|option| option.starts_with(name(usual)))));
    command
}

fn done(output: &Output) -> serde_json::Value {
    assert!(output.status.success(), "{}", all_output(output));
    serde_json::from_slice::<serde_json::Value>(&output.stdout).unwrap()["fetch"].take()
}

/// All rows of all shards, read by row groups of 100 as training reads them, in order.
fn read(out: &Path) -> Vec<RecordBatch> {
    let place = Location::parse(out.to_str().unwrap()).unwrap();
    let catalog = runtime().block_on(Catalog::open(&place, |_, _| ())).unwrap();
    let mut batches = Vec::new();
    for shard in &catalog.shards {
        let bytes = runtime().block_on(shard.location.read()).unwrap();
        let reader = ParquetRecordBatchReaderBuilder::try_new(bytes).unwrap();
        let groups: Vec<i64> = reader.metadata().row_groups().iter().map(|group| group.num_rows()).collect();
        assert!(groups.iter().rev().skip(1).all(|rows| *rows == 100) && groups.iter().all(|r| *r <= 100), "{groups:?}");
        batches.extend(reader.with_batch_size(100).build().unwrap().map(Result::unwrap));
    }
    batches
}

fn texts(batches: &[RecordBatch], column: &str) -> Vec<Option<String>> {
    let text = |batch: &RecordBatch| {
        let column = batch.column_by_name(column).unwrap().as_string::<i32>().clone();
        column.iter().map(|text| text.map(str::to_owned)).collect::<Vec<_>>()
    };
    batches.iter().flat_map(text).collect()
}

/// Every file below the output but those of `local` uploads that were cut off, with the times in stats left out.
fn contents(out: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut found = BTreeMap::new();
    let mut folders = vec![out.to_path_buf()];
    while let Some(folder) = folders.pop() {
        for path in fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()) {
            let name = path.strip_prefix(out).unwrap().to_str().unwrap().to_owned();
            if path.is_dir() {
                folders.push(path);
            } else if name.ends_with("_stats.json") {
                let mut stats: serde_json::Value = serde_json::from_slice(&fs::read(path).unwrap()).unwrap();
                for time in ["start_time", "end_time", "duration"] {
                    assert!(stats.as_object_mut().unwrap().remove(time).unwrap().is_f64());
                }
                found.insert(name, stats.to_string().into_bytes());
            } else if !name.contains('#') {
                // `00000.parquet#1` is an upload to a local folder that a kill has cut off.
                found.insert(name, fs::read(path).unwrap());
            }
        }
    }
    found
}

fn assert_same(what: &str, found: &Path, expected: &BTreeMap<String, Vec<u8>>) {
    let found = contents(found);
    assert_eq!(found.keys().collect::<Vec<_>>(), expected.keys().collect::<Vec<_>>(), "{what}");
    for (name, bytes) in &found {
        assert!(bytes == &expected[name], "{what}: {name} differs");
    }
}

#[test]
fn every_kind_of_answer_becomes_a_row_with_its_reason() {
    let folder = tempfile::tempdir().unwrap();
    let web = Web::serve("127.0.0.2", |request| {
        assert!(request.user_agent.starts_with("blip2-fetch/"), "{}", request.user_agent);
        answer(request)
    });
    let fenced = Web::serve("127.0.0.3", |request| match request.path.as_str() {
        "/robots.txt" => ok(b"User-agent: *\nDisallow: /private/\n".to_vec()),
        _ => answer(request),
    });
    let mute = Web::serve("127.0.0.4", |request| match request.path.as_str() {
        "/robots.txt" => status(503),
        _ => answer(request),
    });
    let blocked = Web::serve("127.0.0.5", answer);
    let redirects_into = |to: &Web, path: &str| {
        let target = to.url(path);
        Web::serve("127.0.0.6", move |request| if request.path == "/robots.txt" { status(404) } else { moved(&target) })
    };
    let (to_fence, to_blocked) = (redirects_into(&fenced, "/private/1"), redirects_into(&blocked, "/picture/1"));
    let closed = { Web::serve("127.0.0.7", answer).host.clone() };
    let (download, resize) = ("failed_to_download", "failed_to_resize");
    let expected: Vec<(Option<String>, &str, Option<&str>)> = vec![
        (Some(web.url("/picture/0")), "success", None),
        (Some(web.url("/chain/3")), "success", None),
        (Some(web.url("/busy")), "success", None),
        (Some(web.url("/late")), "success", None),
        (Some(web.url("/unlabelled")), "success", None),
        (Some(web.url("/for-others")), "success", None),
        (Some(web.url("/unannounced")), "success", None),
        (Some(web.url("/rgba.png")), "success", None),
        (Some(web.url("/exif")), "success", None),
        (Some(fenced.url("/picture/9")), "success", None),
        (Some(web.url("/loop")), download, Some("too_many_redirects")),
        (Some(web.url("/nowhere")), download, Some("invalid_redirect")),
        (Some(web.url("/gone")), download, Some("http_404")),
        (Some(web.url("/teapot")), download, Some("http_418")),
        (Some(web.url("/broken")), download, Some("http_500")),
        (Some(web.url("/empty")), download, Some("empty_body")),
        (Some(web.url("/short")), download, Some("incomplete_body")),
        (Some(web.url("/stall")), download, Some("timeout")),
        (Some(web.url("/hang")), download, Some("timeout")),
        (Some(web.url("/long")), download, Some("too_large")),
        (Some(web.url("/longer")), download, Some("too_large")),
        (Some(web.url("/noai")), download, Some("x_robots_tag")),
        (Some(web.url("/unsafe")), download, Some("blocked_content")),
        (Some(web.url("/blocked.jpg")), download, Some("blocked_url")),
        (Some(blocked.url("/picture/2")), download, Some("blocked_url")),
        (Some(to_blocked.url("/x")), download, Some("blocked_url")),
        (Some(fenced.url("/private/1")), download, Some("robots_txt")),
        (Some(to_fence.url("/x")), download, Some("robots_txt")),
        (Some(mute.url("/picture/1")), download, Some("robots_txt_unreachable")),
        (Some(format!("http://{closed}/picture/1")), download, Some("connection_failed")),
        (Some("ftp://127.0.0.2/a.jpg".into()), download, Some("unsupported_scheme")),
        (Some("no url at all".into()), download, Some("invalid_url")),
        (None, download, Some("no_url")),
        (Some(" ".into()), download, Some("no_url")),
        (Some(web.url("/page.jpg")), resize, Some("not an image")),
        (Some(web.url("/cut")), resize, Some("truncated")),
        (Some(web.url("/bomb")), resize, Some("too_many_pixels")),
        (Some(web.url("/tiny")), resize, Some("image too small")),
    ];
    let urls: Vec<Option<String>> = expected.iter().map(|(url, ..)| url.clone()).collect();
    let (metadata, out) = (folder.path().join("metadata"), folder.path().join("out"));
    write_metadata(&metadata, &urls);
    let (blocklist, contents) = (folder.path().join("urls"), folder.path().join("contents"));
    fs::write(&blocklist, format!("127.0.0.5\n{}\n", web.url("/blocked.jpg"))).unwrap();
    let sha256 = Command::new("sha256sum").stdin(file(folder.path(), &pictures()[8])).output().unwrap();
    fs::write(&contents, sha256.stdout).unwrap();
    let lists =
        [format!("--url-blocklist={}", blocklist.display()), format!("--content-blocklist={}", contents.display())];
    let more = ["--allow-private-addresses", "--max-download-mb=2", "--min-side=24", &lists[0], &lists[1]];
    let summary = done(&run_within(60, &fetch(&metadata, &out, &more)));

    let batches = read(&out);
    assert_eq!(
        batches[0].schema().fields().iter().map(|f| f.name().as_str()).collect::<Vec<_>>(),
        [
            "SAMPLE_ID",
            "HEIGHT",
            "NSFW",
            "similarity",
            "caption",
            "url",
            "key",
            "status",
            "error_message",
            "width",
            "height",
            "original_width",
            "original_height",
            "exif",
            "sha256",
            "jpg",
        ]
    );
    let (statuses, messages) = (texts(&batches, "status"), texts(&batches, "error_message"));
    for (row, (url, status, reason)) in expected.iter().enumerate() {
        let found = messages[row].as_deref().map(|message| message.split(':').next().unwrap());
        assert_eq!((statuses[row].as_deref(), found), (Some(*status), *reason), "{url:?}: {:?}", messages[row]);
    }
    assert_eq!(texts(&batches, "url"), urls);
    assert_eq!(texts(&batches, "key")[13].as_deref(), Some("000000013"));
    let captions = texts(&batches, "caption");
    assert_eq!((captions[2].as_deref(), &captions[3]), (Some("text 2"), &None));
    check_pictures(&batches);
    assert_eq!((summary["successes"].as_u64(), summary["rows"].as_u64()), (Some(10), Some(38)), "{summary}");
    assert_eq!(summary["reasons"]["blocked_url"].as_u64(), Some(3), "{summary}");
    assert_eq!((web.asked("/blocked.jpg"), blocked.asked_in_all(), fenced.asked("/private/1")), (0, 0, 0));
    assert_eq!((web.asked("/robots.txt"), web.asked("/gone"), web.asked("/broken")), (1, 1, 2), "tried again or not");
    let stats: serde_json::Value = serde_json::from_slice(&fs::read(out.join("00000_stats.json")).unwrap()).unwrap();
    assert_eq!(stats["status_dict"]["success"].as_u64(), Some(10), "{stats}");
    assert_eq!(
        (stats["failed_to_download"].as_u64(), stats["failed_to_resize"].as_u64()),
        (Some(24), Some(4)),
        "{stats}"
    );
}

/// A file with these bytes, opened.
fn file(folder: &Path, bytes: &[u8]) -> Stdio {
    fs::write(folder.join("bytes"), bytes).unwrap();
    fs::File::open(folder.join("bytes")).unwrap().into()
}

/// Pictures are where `success` is, have the size that the columns say, and are what was served.
fn check_pictures(batches: &[RecordBatch]) {
    for batch in batches {
        let images = batch.column_by_name("jpg").unwrap().as_binary::<i32>();
        let statuses = batch.column_by_name("status").unwrap().as_string::<i32>();
        let number = |name: &str| batch.column_by_name(name).unwrap().as_primitive::<Int32Type>();
        for row in 0..batch.num_rows() {
            assert_eq!(images.is_valid(row), statuses.value(row) == "success", "row {row}");
            assert_eq!(images.is_valid(row), number("width").is_valid(row), "row {row}");
            if images.is_valid(row) {
                let image = decode(images.value(row), &DecodeLimits::default()).unwrap();
                let size = (number("width").value(row), number("height").value(row));
                assert_eq!((image.width as i32, image.height as i32), size);
                assert_eq!(size.0.min(size.1), 24);
            }
        }
    }
    let first = batches[0].column_by_name("jpg").unwrap().as_binary::<i32>().value(0).to_vec();
    let served = decode(&pictures()[0], &DecodeLimits::default()).unwrap();
    let stored = decode(&first, &DecodeLimits::default()).unwrap();
    let mean = |pixels: &[u8]| pixels.iter().map(|level| f64::from(*level)).sum::<f64>() / pixels.len() as f64;
    // Resizing and JPEG keep the mean level; another picture's differs by more.
    assert!((mean(&served.pixels) - mean(&stored.pixels)).abs() < 1.5);
    let exif = texts(batches, "exif");
    assert!(exif[8].as_deref().unwrap().contains("\"Image Orientation\""), "{exif:?}");
    assert_eq!(exif[0].as_deref(), Some("{}"));
}

/// 650 rows of two hosts, a third of which fail in ways that take no time.
fn mixed(web: &Web, other: &Web) -> Vec<Option<String>> {
    let path = |row: usize| match row % 9 {
        0 => "/gone".to_owned(),
        3 => "/page.jpg".to_owned(),
        6 => format!("/flaky/{row}"),
        _ => format!("/picture/{row}"),
    };
    (0..650).map(|row| Some([web, other][row % 2].url(&path(row)))).collect()
}

/// [`answer`], a little slow, and busy when a `/flaky/` path is asked for the first time.
fn slow(request: &Request) -> Reply {
    std::thread::sleep(Duration::from_millis(15));
    match request.path.strip_prefix("/flaky/") {
        Some(_) if request.before == 0 => status(502),
        Some(row) => ok(pictures()[row.parse::<usize>().unwrap() % 100].clone()),
        None => answer(request),
    }
}

const MIXED: [&str; 2] = ["--allow-private-addresses", "--shard-rows=250"];

#[test]
fn the_bytes_do_not_depend_on_concurrency_or_kills() {
    let folder = tempfile::tempdir().unwrap();
    let (web, other) = (Web::serve("127.0.0.2", slow), Web::serve("127.0.0.3", slow));
    let metadata = folder.path().join("metadata");
    write_metadata(&metadata, &mixed(&web, &other));
    let with = |out: &Path, more: &[&str]| fetch(&metadata, out, &[&MIXED[..], more].concat());
    let straight = folder.path().join("straight");
    let summary = done(&run_within(60, &with(&straight, &["--concurrency=3", "--threads=1"])));
    let expected = contents(&straight);
    let names: Vec<&str> = expected.keys().map(String::as_str).collect();
    assert_eq!(
        names,
        [
            "00000.parquet",
            "00000_stats.json",
            "00001.parquet",
            "00001_stats.json",
            "00002.parquet",
            "00002_stats.json",
            "fetch.json",
        ]
    );
    assert_eq!((summary["shards"].as_u64(), summary["successes"].as_u64()), (Some(3), Some(505)), "{summary}");

    let crowded = folder.path().join("crowded");
    done(&run_within(60, &with(&crowded, &["--concurrency=64", "--per-host=40"])));
    assert_same("64 requests at once", &crowded, &expected);

    let rounds = if std::env::var("BLIP2_TIER").is_ok_and(|tier| tier == "all") { 40 } else { 8 };
    let (mut killed, mut drawn) = (0, 11_u64);
    let mut out = folder.path().join("killed-0");
    for round in 0..rounds {
        let mut child = with(&out, &["--concurrency=16"]).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        // Knuth's generator; an undisturbed run of this takes a second.
        drawn = drawn.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        std::thread::sleep(Duration::from_millis((drawn >> 33) % 500));
        if child.try_wait().unwrap().is_none() {
            child.kill().unwrap();
            killed += 1;
        }
        let finished = child.wait().unwrap().success();
        if finished || round % 4 == 3 {
            done(&run_within(60, &with(&out, &[])));
            assert_same(&format!("after {killed} kills"), &out, &expected);
            out = folder.path().join(format!("killed-{}", round + 1));
        }
    }
    assert!(killed * 2 >= rounds, "{killed} of {rounds} runs were killed");
    // Nothing is left to be done, so nobody is asked.
    let before = web.asked_in_all();
    let again = done(&run_within(60, &with(&straight, &[])));
    assert_eq!((again["shards_kept"].as_u64(), again["rows_fetched"].as_u64()), (Some(3), Some(0)), "{again}");
    assert_eq!(web.asked_in_all(), before);
}

#[test]
fn stored_parts_are_not_fetched_again_and_damage_is_mended() {
    let folder = tempfile::tempdir().unwrap();
    let (web, other) = (Web::serve("127.0.0.2", slow), Web::serve("127.0.0.3", slow));
    let (metadata, out) = (folder.path().join("metadata"), folder.path().join("out"));
    write_metadata(&metadata, &mixed(&web, &other));
    let run = || done(&run_within(60, &fetch(&metadata, &out, &MIXED)));
    run();
    let expected = contents(&out);
    let mend = |rows: u64, what: &str| {
        let summary = run();
        assert_eq!(summary["rows_fetched"].as_u64(), Some(rows), "{what}: {summary}");
        assert_same(what, &out, &expected);
    };
    fs::remove_file(out.join("00001_stats.json")).unwrap();
    mend(0, "stats are counted again");
    fs::write(out.join("00001_stats.json"), "{").unwrap();
    mend(0, "stats that cannot be read are counted again");
    let whole = fs::read(out.join("00002.parquet")).unwrap();
    fs::write(out.join("00002.parquet"), &whole[..whole.len() / 2]).unwrap();
    mend(150, "a shard that was cut is fetched again");
    fs::remove_file(out.join("00000.parquet")).unwrap();
    mend(250, "a shard that is gone is fetched again");

    // A run that ends between parts: only what is missing is asked for.
    let partial = folder.path().join("partial");
    let mut child = fetch(&metadata, &partial, &[&MIXED[..], &["--concurrency=2"]].concat());
    let mut child = child.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let parts = || {
        fs::read_dir(partial.join("_parts/00000")).map_or(0, |parts| {
            parts.flatten().filter(|part| part.file_name().to_str().is_some_and(|name| name.ends_with(".part"))).count()
        })
    };
    let since = Instant::now();
    while parts() < 1 {
        assert!(since.elapsed() < Duration::from_secs(30) && child.try_wait().unwrap().is_none(), "no part appeared");
        std::thread::sleep(Duration::from_millis(1));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    let stored = 100 * parts() as u64;
    let summary = done(&run_within(60, &fetch(&metadata, &partial, &MIXED)));
    assert!(summary["rows_fetched"].as_u64().unwrap() <= 650 - stored, "{stored} rows were stored: {summary}");
    assert_same("after a kill", &partial, &expected);
}

#[test]
fn failed_rows_are_retried_and_only_shards_that_change_are_written() {
    let folder = tempfile::tempdir().unwrap();
    let healed = Arc::new(AtomicBool::new(false));
    let web = {
        let healed = healed.clone();
        Web::serve("127.0.0.2", move |request| match request.path.strip_prefix("/sick/") {
            Some(_) if !healed.load(Ordering::Relaxed) => status(503),
            Some(row) => ok(pictures()[row.parse::<usize>().unwrap() % 100].clone()),
            None => answer(request),
        })
    };
    let path = |row: usize| match row {
        10 | 120 | 121 => format!("/sick/{row}"),
        20 | 250 => "/gone".to_owned(),
        30 => "/page.jpg".to_owned(),
        _ => format!("/picture/{row}"),
    };
    let urls: Vec<Option<String>> = (0..300).map(|row| Some(web.url(&path(row)))).collect();
    let (metadata, out) = (folder.path().join("metadata"), folder.path().join("out"));
    write_metadata(&metadata, &urls);
    let options = ["--allow-private-addresses", "--shard-rows=150", "--max-retry-after-s=0"];
    let first = done(&run_within(60, &fetch(&metadata, &out, &options)));
    assert_eq!(first["failed_to_download"].as_u64(), Some(5), "{first}");
    let before = contents(&out);
    let retry = |expected: [u64; 4]| {
        let summary = done(&run_within(60, &fetch(&metadata, &out, &[&options[..], &["--retry-failed"]].concat())));
        let found =
            ["rows_fetched", "shards_rewritten", "failed_to_download", "successes"].map(|n| summary[n].as_u64());
        assert_eq!(found, expected.map(Some), "{summary}");
    };
    retry([5, 0, 5, 294]);
    assert_same("nothing has changed", &out, &before);
    healed.store(true, Ordering::Relaxed);
    retry([5, 1, 2, 297]);
    let after = contents(&out);
    assert!(after["00001.parquet"] == before["00001.parquet"] && after["00000.parquet"] != before["00000.parquet"]);
    let fresh = folder.path().join("fresh");
    done(&run_within(60, &fetch(&metadata, &fresh, &options)));
    assert_same("as if fetched today", &out, &contents(&fresh));
    retry([2, 0, 2, 297]);
}

#[test]
fn other_settings_or_inputs_are_refused_and_nothing_changes() {
    let folder = tempfile::tempdir().unwrap();
    let web = Web::serve("127.0.0.2", answer);
    let urls: Vec<Option<String>> = (0..20).map(|row| Some(web.url(&format!("/picture/{row}")))).collect();
    let (metadata, out) = (folder.path().join("metadata"), folder.path().join("out"));
    write_metadata(&metadata, &urls);
    let allowed = "--allow-private-addresses";
    done(&run_within(60, &fetch(&metadata, &out, &[allowed])));
    let before = contents(&out);
    let refused = |metadata: &Path, out: &Path, more: &[&str], parts: &[&str]| {
        let output = run_within(60, &fetch(metadata, out, more));
        let said = all_output(&output);
        assert_eq!(output.status.code(), Some(2), "{said}");
        parts.iter().for_each(|part| assert!(said.contains(part), "{part:?} is missing in: {said}"));
    };
    let size = ["settings.picture.quality was 95 and is 90", "Nothing was changed"];
    refused(&metadata, &out, &[allowed, "--quality=90"], &size);
    let other = folder.path().join("other");
    write_metadata(&other, &urls[1..]);
    refused(&other, &out, &[allowed], &["input[0]", "begun with another input"]);
    assert_same("refused", &out, &before);
    refused(&metadata, &metadata, &[allowed], &["there are Parquet files already"]);
    let columns = ["--url-column", "--caption-column=ALT"];
    refused(
        &metadata,
        &folder.path().join("x"),
        &columns[1..],
        &["no column `ALT`", "SAMPLE_ID, URL, TEXT", columns[1].split_once('=').unwrap().0],
    );
    refused(&metadata, &folder.path().join("x"), &["--part-rows=150"], &["part_rows is 150"]);
    // Effort may change, and so may the place of the input.
    let moved = folder.path().join("moved");
    fs::rename(&metadata, &moved).unwrap();
    done(&run_within(60, &fetch(&moved, &out, &[allowed, "--concurrency=3", "--timeout-s=2"])));
}

#[test]
fn addresses_that_are_not_public_are_never_asked() {
    let folder = tempfile::tempdir().unwrap();
    let web = Web::serve("127.0.0.1", answer);
    let port = web.host.rsplit(':').next().unwrap();
    let hosts = ["127.0.0.1", "localhost", "0x7f000001", "[::ffff:127.0.0.1]", "169.254.169.254", "10.0.0.1"];
    let urls: Vec<Option<String>> = hosts.iter().map(|host| Some(format!("http://{host}:{port}/picture/1"))).collect();
    let (metadata, out) = (folder.path().join("metadata"), folder.path().join("out"));
    write_metadata(&metadata, &urls);
    let summary = done(&run_within(60, &fetch(&metadata, &out, &[])));
    assert_eq!(summary["reasons"]["private_address"].as_u64(), Some(6), "{summary}");
    assert_eq!(web.asked_in_all(), 0);
}

#[test]
fn hosts_are_asked_no_faster_than_allowed_and_busy_ones_less() {
    let folder = tempfile::tempdir().unwrap();
    let busy_answers = Arc::new(AtomicUsize::new(0));
    let (calm, busy) = (Web::serve("127.0.0.2", slow), {
        let count = busy_answers.clone();
        Web::serve("127.0.0.3", move |request| match request.path.as_str() {
            "/robots.txt" => status(404),
            _ if count.fetch_add(1, Ordering::Relaxed) == 0 => {
                Reply::Whole(429, vec![("Retry-After", "1".into())], Vec::new())
            }
            _ => answer(request),
        })
    });
    let urls: Vec<Option<String>> =
        (0..60).map(|row| Some([&calm, &busy][row % 2].url(&format!("/picture/{row}")))).collect();
    let (metadata, out) = (folder.path().join("metadata"), folder.path().join("out"));
    write_metadata(&metadata, &urls);
    let pace = ["--allow-private-addresses", "--per-host=3", "--host-delay-ms=10", "--concurrency=50"];
    let summary = done(&run_within(60, &fetch(&metadata, &out, &pace)));
    assert_eq!(summary["successes"].as_u64(), Some(60), "{summary}");
    assert!(calm.most_at_once() <= 3, "{} at once", calm.most_at_once());
    let starts = calm.starts();
    let took = *starts.last().unwrap() - starts[0];
    assert!(took >= Duration::from_millis(290), "31 requests 10 ms apart took {took:?}");
    let starts = busy.starts();
    let longest = starts.windows(2).map(|pair| pair[1] - pair[0]).max().unwrap();
    assert!(longest >= Duration::from_millis(900), "the pause that was asked for: {longest:?}");
}

#[test]
fn a_person_may_end_it_and_go_on() {
    let folder = tempfile::tempdir().unwrap();
    let web = Web::serve("127.0.0.2", |request| match request.path.as_str() {
        "/robots.txt" => status(404),
        "/hang" if request.before == 0 => Reply::Hang,
        "/hang" => ok(pictures()[1].clone()),
        _ => answer(request),
    });
    let urls = vec![Some(web.url("/hang")), Some(web.url("/picture/2"))];
    let (metadata, out) = (folder.path().join("metadata"), folder.path().join("out"));
    write_metadata(&metadata, &urls);
    let options = ["--allow-private-addresses", "--timeout-s=30"];
    let child = fetch(&metadata, &out, &options).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let since = Instant::now();
    while web.asked("/hang") == 0 {
        assert!(since.elapsed() < Duration::from_secs(30), "nobody asked");
        std::thread::sleep(Duration::from_millis(5));
    }
    assert!(Command::new("kill").arg(child.id().to_string()).status().unwrap().success());
    let ended = child.wait_with_output().unwrap();
    assert_eq!(ended.status.code(), Some(130), "{}", all_output(&ended));
    assert!(all_output(&ended).contains("the same command continues"), "{}", all_output(&ended));
    assert_eq!(done(&run_within(60, &fetch(&metadata, &out, &options)))["successes"].as_u64(), Some(2));
}

#[test]
fn machines_share_an_output_by_taking_different_shards() {
    let folder = tempfile::tempdir().unwrap();
    let (web, other) = (Web::serve("127.0.0.2", slow), Web::serve("127.0.0.3", slow));
    let metadata = folder.path().join("metadata");
    write_metadata(&metadata, &mixed(&web, &other));
    let (alone, shared): (PathBuf, PathBuf) = (folder.path().join("alone"), folder.path().join("shared"));
    done(&run_within(60, &fetch(&metadata, &alone, &MIXED)));
    let range = |range: &str| {
        let mut command = fetch(&metadata, &shared, &[&MIXED[..], &["--shards", range]].concat());
        command.stdout(Stdio::null()).spawn().unwrap()
    };
    for mut child in [range("0..1"), range("1..9")] {
        assert!(child.wait().unwrap().success());
    }
    assert_same("two processes", &shared, &contents(&alone));
}
