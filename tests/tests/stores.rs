//! Object stores as users have them: servers of the S3 and the Azure protocol hold corpora, commands and library read
//! them, and what is delivered is the same as from a folder, with and without faults in between.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::net::SocketAddr;
use std::path::Path;
use std::process::Output;
use std::time::Duration;

use integration_tests::blip2::{blip2, stderr};
use integration_tests::fault_proxy::{FAULTS, FaultProxy, Plan};
use integration_tests::object_servers::ObjectServer;
use integration_tests::programs::built;
use integration_tests::sets::{write_coco, write_tars};

/// Rows of the corpus that commands write.
const ROWS: u64 = 600;

/// A form of data that the loader reads.
struct Format {
    name: &'static str,
    /// What `deliver` calls it.
    form: &'static str,
    /// Writes `rows` samples below a folder.
    write: fn(&Path, usize),
    rows: usize,
    /// Batches of 16 to read: more than an epoch.
    steps: u64,
}

const FORMATS: [Format; 3] = [
    Format { name: "parquet", form: "shards", write: write_parquet, rows: 600, steps: 80 },
    Format { name: "tar", form: "shards", write: |folder, rows| write_tars(folder, rows, 50), rows: 600, steps: 80 },
    // One request per image: fewer.
    Format { name: "coco", form: "coco", write: write_coco, rows: 64, steps: 6 },
];

fn write_parquet(folder: &Path, rows: usize) {
    let whole = folder.with_extension("whole");
    let (out, scenes) = (whole.to_str().unwrap(), rows.to_string());
    succeeds(&blip2(&[
        "data",
        "synth",
        "--out",
        out,
        "--scenes",
        &scenes,
        "--test-scenes",
        "0",
        "--shard-rows",
        "200",
    ]));
    std::fs::rename(whole.join("train"), folder).unwrap();
}

const SMALL: [&str; 6] = ["--scenes", "600", "--test-scenes", "50", "--shard-rows", "200"];

fn succeeds(output: &Output) -> serde_json::Value {
    assert!(output.status.success(), "{}", stderr(output));
    serde_json::from_slice(&output.stdout).unwrap_or_default()
}

/// Commands write a corpus to the store, look at it and time it.
fn commands_work(server: &ObjectServer) {
    let run = |arguments: &[&str]| succeeds(&server.run(&built("blip2"), arguments));
    let (corpus, train) = (server.uri("corpus"), server.uri("corpus/train"));
    run(&[&["data", "synth", "--out", &corpus][..], &SMALL].concat());
    assert_eq!(run(&["data", "inspect", &train, "--json"])["inspection"]["rows"], ROWS);
    let timed = run(&["bench", "data", &train, "--image-size", "64", "--json"]);
    assert!(timed["images_per_second"].as_f64().unwrap() > 0.0, "{timed}");

    // Keys of any characters are read under the names that the store lists.
    let names = "names/\u{e9}t\u{e9} \u{56fe}\u{50cf}/part#2/100%/set[0]/a~1/{x}/a*b/a|b^c/a?b&c";
    run(&[&["data", "synth", "--out", &server.uri(names)][..], &SMALL].concat());
    if server.uri("").starts_with("s3://") {
        run(&[&["data", "synth", "--out", &server.uri("names//empty")][..], &SMALL].concat());
    }
    for place in [server.uri("names"), server.uri(names) + "/train"] {
        let found = &run(&["data", "inspect", &place, "--json"])["inspection"];
        assert!(found["rows"].as_u64() >= Some(ROWS), "{place}: {found}");
    }

    let nowhere = server.uri("corpus/train").replace("bucket", "nobucket");
    let gone = server.run(&built("blip2"), &["data", "inspect", &nowhere]);
    assert_eq!(gone.status.code(), Some(1), "{}", stderr(&gone));
    assert!(stderr(&gone).contains(&nowhere), "{}", stderr(&gone));
}

/// Faults of all kinds, 40 % of the requests.
fn faulty(server: SocketAddr) -> FaultProxy {
    let shares = FAULTS.map(|fault| (fault, 0.08)).to_vec();
    FaultProxy::start(server, Plan { seed: 5, shares, stall: Duration::from_millis(50), ..Plan::default() })
}

/// Every format is delivered from the store, and through faults, as it is from a folder.
fn deliveries_are_the_same(server: &ObjectServer) {
    let folder = tempfile::tempdir().unwrap();
    let proxy = faulty(server.address());
    for Format { name, form, write, rows, steps } in FORMATS {
        let local = folder.path().join(name);
        write(&local, rows);
        let (local, uri) = (local.to_str().unwrap(), server.uri(name));
        succeeds(&server.run(&built("examples/deliver"), &["copy", local, &uri]));

        let deliver = |address, place: &str| {
            let words = ["read", form, place, &steps.to_string()];
            succeeds(&server.run_through(address, &built("examples/deliver"), &words))
        };
        let expected = deliver(server.address(), local);
        assert_eq!((&expected["rows"], &expected["seen"]), (&rows.into(), &(steps * 16).into()), "{expected}");
        assert_eq!(expected["reasons"], serde_json::json!({}), "{name}");
        assert_eq!(deliver(server.address(), &uri), expected, "{uri}");
        assert_eq!(deliver(proxy.address(), &uri), expected, "{uri} through faults");
    }
    let counts = proxy.counts();
    assert!(counts.iter().all(|count| *count > 0), "too few of {} requests failed: {counts:?}", proxy.requests());
}

#[test]
fn corpora_on_s3() {
    let Some(server) = ObjectServer::s3("corpora_on_s3") else { return };
    commands_work(&server);
    deliveries_are_the_same(&server);
}

#[test]
fn corpora_on_azure() {
    let Some(server) = ObjectServer::azure("corpora_on_azure") else { return };
    commands_work(&server);
    deliveries_are_the_same(&server);
}
