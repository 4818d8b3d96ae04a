//! Runs that end too early, and what the next one makes of it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use data_pipeline::fetch::{Effort, FetchOptions, PictureOptions, Rules, Settings};
use data_pipeline::store::Location;
use integration_tests::programs::{all_output, run_within};
use integration_tests::web::{Reply, Web};

use crate::site::{
    MIXED, answer, assert_same, contents, done, fetch, mixed, ok, pictures, runtime, slow, status, write_metadata,
};

/// Knuth's generator: moments to kill at, below `bound` milliseconds.
struct Moments(u64);

impl Moments {
    fn next(&mut self, bound: u64) -> Duration {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        Duration::from_millis((self.0 >> 33) % bound)
    }
}

fn rounds() -> usize {
    if std::env::var("BLIP2_TIER").is_ok_and(|tier| tier == "all") { 40 } else { 8 }
}

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

    let (rounds, mut killed, mut moments) = (rounds(), 0, Moments(11));
    let mut out = folder.path().join("killed-0");
    for round in 0..rounds {
        let mut child = with(&out, &["--concurrency=16"]).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        // An undisturbed run of this takes a second.
        std::thread::sleep(moments.next(500));
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
    let mut moments = Moments(5);
    for _ in 0..rounds() {
        let mut command = fetch(&metadata, &out, &[&options[..], &["--retry-failed"]].concat());
        let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        std::thread::sleep(moments.next(60));
        // It may have ended by itself.
        let _killed = child.kill();
        child.wait().unwrap();
    }
    done(&run_within(60, &fetch(&metadata, &out, &[&options[..], &["--retry-failed"]].concat())));
    let after = contents(&out);
    assert!(after["00001.parquet"] == before["00001.parquet"] && after["00000.parquet"] != before["00000.parquet"]);
    let fresh = folder.path().join("fresh");
    done(&run_within(60, &fetch(&metadata, &fresh, &options)));
    assert_same("as if fetched today", &out, &contents(&fresh));
    retry([2, 0, 2, 297]);
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

#[test]
fn a_store_without_folders_gets_the_same_bytes() {
    let folder = tempfile::tempdir().unwrap();
    let (web, other) = (Web::serve("127.0.0.2", slow), Web::serve("127.0.0.3", slow));
    let metadata = folder.path().join("metadata");
    write_metadata(&metadata, &mixed(&web, &other));
    let local = folder.path().join("local");
    done(&run_within(60, &fetch(&metadata, &local, &MIXED)));
    let mut memory = Location::parse("/memory").unwrap();
    memory.store = Arc::new(object_store::memory::InMemory::new());
    let options = FetchOptions {
        settings: Settings {
            shard_rows: 250,
            part_rows: 100,
            picture: PictureOptions { size: 24, ..PictureOptions::default() },
            rules: Rules { private_addresses: true, ..Rules::default() },
            ..Settings::default()
        },
        effort: Effort { backoff_ms: 20, host_delay_ms: 0, tries: 2, timeout_s: 1, ..Effort::default() },
        ..FetchOptions::default()
    };
    let input = Location::parse(metadata.to_str().unwrap()).unwrap();
    let fetched = data_pipeline::fetch::fetch(&input, &memory, &options, |_| ());
    let summary = runtime().block_on(fetched).unwrap();
    assert_eq!((summary.rows, summary.shards, summary.rows_fetched), (650, 3, 650));
    let found = runtime().block_on(memory.list("")).unwrap();
    let names: Vec<String> = found.iter().map(|(place, _)| place.path.filename().unwrap().to_owned()).collect();
    let expected = contents(&local);
    assert_eq!(names.iter().collect::<Vec<_>>(), expected.keys().collect::<Vec<_>>());
    for (place, _) in found {
        let name = place.path.filename().unwrap().to_owned();
        if !name.ends_with("_stats.json") {
            assert!(runtime().block_on(place.read()).unwrap() == expected[&name], "{name} differs");
        }
    }
}
