//! What the tests share: a site with every kind of answer, metadata that names it, the command, and its output.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::{Command, Output};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use arrow::array::{ArrayRef, AsArray, Float64Array, Int32Array, Int64Array, RecordBatch, StringArray};
use data_pipeline::catalog::Catalog;
use data_pipeline::store::Location;
use data_pipeline::synthetic::{SynthOptions, write_corpus};
use integration_tests::programs::{all_output, built, checkout};
use integration_tests::web::{Reply, Request, Web};
use parquet::arrow::ArrowWriter;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use parquet::file::properties::WriterProperties;

/// A runtime of one thread.
pub fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
}

/// Different JPEGs of 32 x 32 pixels.
pub fn pictures() -> &'static Vec<Vec<u8>> {
    static PICTURES: OnceLock<Vec<Vec<u8>>> = OnceLock::new();
    PICTURES.get_or_init(|| {
        let folder = tempfile::tempdir().unwrap();
        let place = Location::parse(folder.path().to_str().unwrap()).unwrap();
        let options =
            SynthOptions { scenes: 100, test_scenes: 0, image_size: 32, threads: 1, ..SynthOptions::default() };
        runtime().block_on(async {
            write_corpus(&options, &place, |_| ()).await.unwrap();
            let catalog = Catalog::open(&place, |_, _| ()).await.unwrap();
            let rows = catalog.read(0).await.unwrap();
            rows.images.iter().map(|image| image.unwrap().to_vec()).collect()
        })
    })
}

/// A file of the fixtures.
pub fn fixture(name: &str) -> Vec<u8> {
    fs::read(checkout().join("tests/fixtures/preprocess").join(name)).unwrap()
}

/// The picture that was asked for.
pub fn ok(body: Vec<u8>) -> Reply {
    Reply::Whole(200, vec![("Content-Type", "image/jpeg".into())], body)
}

/// Nothing but a status.
pub fn status(status: u16) -> Reply {
    Reply::Whole(status, Vec::new(), b"sorry".to_vec())
}

/// A redirect.
pub fn moved(to: &str) -> Reply {
    Reply::Whole(302, vec![("Location", to.into())], Vec::new())
}

/// A PNG that promises 30,000 x 30,000 pixels in a sound header.
pub fn bomb() -> Vec<u8> {
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
pub fn answer(request: &Request) -> Reply {
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
pub fn write_metadata(folder: &Path, urls: &[Option<String>]) {
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
pub const USUAL: [&str; 7] = [
    "--timeout-s=1",
    "--tries=2",
    "--backoff-ms=20",
    "--host-delay-ms=0",
    "--threads=2",
    "--image-size=24",
    "--part-rows=100",
];

/// `blip2 data fetch` with these options and the usual ones.
pub fn fetch(metadata: &Path, out: &Path, more: &[&str]) -> Command {
    let mut command = Command::new(built("blip2"));
    command.args(["data", "fetch", "--json"]).arg(metadata).arg("--out").arg(out).args(more);
    let name = |option: &'static str| option.split_once('=').map_or(option, |(name, _)| name);
    command.args(USUAL.iter().filter(|usual| !more.iter().any(|option| option.starts_with(name(usual)))));
    command
}

/// What a command that must succeed has printed.
pub fn done(output: &Output) -> serde_json::Value {
    assert!(output.status.success(), "{}", all_output(output));
    serde_json::from_slice::<serde_json::Value>(&output.stdout).unwrap()["fetch"].take()
}

/// All rows of all shards, read by row groups of 100 as training reads them, in order.
pub fn read(out: &Path) -> Vec<RecordBatch> {
    let place = Location::parse(out.to_str().unwrap()).unwrap();
    let catalog = runtime().block_on(Catalog::open(&place, |_, _| ())).unwrap();
    let mut batches = Vec::new();
    for shard in 0..catalog.shards.len() as u32 {
        let bytes = runtime().block_on(catalog.shard_location(shard).read()).unwrap();
        let reader = ParquetRecordBatchReaderBuilder::try_new(bytes).unwrap();
        let groups: Vec<i64> = reader.metadata().row_groups().iter().map(|group| group.num_rows()).collect();
        assert!(groups.iter().rev().skip(1).all(|rows| *rows == 100) && groups.iter().all(|r| *r <= 100), "{groups:?}");
        batches.extend(reader.with_batch_size(100).build().unwrap().map(Result::unwrap));
    }
    batches
}

/// A column of text.
pub fn texts(batches: &[RecordBatch], column: &str) -> Vec<Option<String>> {
    let text = |batch: &RecordBatch| {
        let column = batch.column_by_name(column).unwrap().as_string::<i32>().clone();
        column.iter().map(|text| text.map(str::to_owned)).collect::<Vec<_>>()
    };
    batches.iter().flat_map(text).collect()
}

/// Every file below the output but those of `local` uploads that were cut off, with the times in stats left out.
pub fn contents(out: &Path) -> BTreeMap<String, Vec<u8>> {
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

/// The output is the one that was expected.
pub fn assert_same(what: &str, found: &Path, expected: &BTreeMap<String, Vec<u8>>) {
    let found = contents(found);
    assert_eq!(found.keys().collect::<Vec<_>>(), expected.keys().collect::<Vec<_>>(), "{what}");
    for (name, bytes) in &found {
        assert!(bytes == &expected[name], "{what}: {name} differs");
    }
}

/// 650 rows of two hosts, a third of which fail in ways that take no time.
pub fn mixed(web: &Web, other: &Web) -> Vec<Option<String>> {
    let path = |row: usize| match row % 9 {
        0 => "/gone".to_owned(),
        3 => "/page.jpg".to_owned(),
        6 => format!("/flaky/{row}"),
        _ => format!("/picture/{row}"),
    };
    (0..650).map(|row| Some([web, other][row % 2].url(&path(row)))).collect()
}

/// [`answer`], a little slow, and busy when a `/flaky/` path is asked for the first time.
pub fn slow(request: &Request) -> Reply {
    std::thread::sleep(Duration::from_millis(15));
    match request.path.strip_prefix("/flaky/") {
        Some(_) if request.before == 0 => status(502),
        Some(row) => ok(pictures()[row.parse::<usize>().unwrap() % 100].clone()),
        None => answer(request),
    }
}

/// Settings for [`mixed`].
pub const MIXED: [&str; 2] = ["--allow-private-addresses", "--shard-rows=250"];
