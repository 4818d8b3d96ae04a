//! What img2dataset downloads is what we read, and what we download is what its readers read. Needs the set-up of `make test-all`.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::Command;

use arrow::array::{Array, AsArray};
use data_pipeline::catalog::Catalog;
use data_pipeline::store::Location;
use integration_tests::blip2::{blip2, fetch_python, stderr};
use integration_tests::programs::{all_output, built, checkout, run_within};
use serde_json::Value;

/// Pictures that can be had, of 300: `answer` in run_img2dataset.py.
const SUCCESSES: u64 = 250;
/// Two processes of img2dataset on a busy machine; 30 s on a quiet one.
const LIMIT_S: u32 = 300;

#[test]
fn downloads_of_img2dataset_and_of_ours_are_read_by_both() {
    let Some(python) = fetch_python("downloads_of_img2dataset_and_of_ours_are_read_by_both") else { return };
    let folder = tempfile::tempdir().unwrap();
    let mut download = Command::new(&python);
    download.args(["-W", "ignore"]).arg(checkout().join("tests/peers/run_img2dataset.py"));
    download.arg(folder.path()).arg(built("blip2"));
    let downloaded = run_within(LIMIT_S, &download);
    assert!(downloaded.status.success(), "{}", all_output(&downloaded));
    let expected: Value = serde_json::from_slice(&std::fs::read(folder.path().join("expected.json")).unwrap()).unwrap();

    // Its Parquet keeps the rows that failed; its tars do not, and lie beside Parquet files without images.
    let failed: BTreeSet<&str> = BTreeSet::from(["download_failed"]);
    for (format, rows, reasons) in
        [("parquet", 300, failed.clone()), ("webdataset", SUCCESSES, BTreeSet::new()), ("ours", 300, failed)]
    {
        let place = folder.path().join(format);
        let place = place.to_str().unwrap();
        let looked = blip2(&["data", "inspect", place, "--json"]);
        assert!(looked.status.success(), "{}", stderr(&looked));
        let seen: Value = serde_json::from_slice(&looked.stdout).unwrap();
        assert_eq!(seen["inspection"]["rows"], rows, "{format}");
        assert_eq!(seen["inspection"]["without_image"], rows - SUCCESSES, "{format}");
        assert_eq!(seen["inspection"]["without_caption"], 0, "{format}");

        // Three epochs: every picture that can be had decodes, and only failed downloads are skipped.
        let delivered = Command::new(built("examples/deliver")).args(["read", "shards", place, "56"]).output().unwrap();
        assert!(delivered.status.success(), "{}", stderr(&delivered));
        let delivered: Value = serde_json::from_slice(&delivered.stdout).unwrap();
        assert_eq!(delivered["seen"], 56 * 16, "{format}");
        let found: BTreeSet<&str> = delivered["reasons"].as_object().unwrap().keys().map(String::as_str).collect();
        assert_eq!(found, reasons, "{format}");
    }
    let captions: BTreeMap<String, String> = serde_json::from_value(expected["captions"].clone()).unwrap();
    assert_eq!(captions.len() as u64, SUCCESSES);
    for format in ["parquet", "ours"] {
        assert_eq!(captions_by_url(&folder.path().join(format)), captions, "{format}");
        let mut read = Command::new(&python);
        read.args(["-W", "ignore"]).arg(checkout().join("tests/peers/read_fetched.py")).arg(folder.path().join(format));
        read.args(["300", &SUCCESSES.to_string()]).arg(folder.path().join("parquet"));
        let read = run_within(LIMIT_S, &read);
        assert!(read.status.success(), "{format}: {}", all_output(&read));
    }
}

/// The captions of the rows that succeeded, by URL, as the catalogue and its shards give them.
fn captions_by_url(folder: &Path) -> BTreeMap<String, String> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let place = Location::parse(folder.to_str().unwrap()).unwrap();
    let catalog = runtime.block_on(Catalog::open(&place, |_, _| ())).unwrap();
    let mut captions = BTreeMap::new();
    for group in 0..catalog.row_groups.len() {
        let rows = runtime.block_on(catalog.read(group)).unwrap();
        let urls = runtime.block_on(catalog.read_columns(group, &["url"])).unwrap();
        let urls = urls.column(0).as_string_opt::<i32>().unwrap();
        for row in (0..rows.images.len()).filter(|row| rows.images.is_valid(*row)) {
            captions.insert(urls.value(row).to_owned(), rows.captions.value(row).to_owned());
        }
    }
    captions
}
