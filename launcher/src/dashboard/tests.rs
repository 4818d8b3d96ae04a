use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

use configs::Overrides;
use serde_json::json;

use super::answer::{page_of, report};
use super::live::{Known, Live};
use super::server::{Reply, Server, bind};
use crate::outcome::Outcome;
use crate::ranks::Programs;
use crate::report::faults::Noted;
use crate::report::gather::Record;
use crate::status::{Commit, Found, Outside, Seen, Watcher, status};

const TIMES: &str = r#""time/step": 0.2, "time/data_wait": 0.05, "time/image_encoder": 0.1, "time/other": 0.05,
    "mfu": 0.41, "tflop_per_s": 320.0"#;

fn record(step: u64, name: &str) -> Record {
    let time = 1000 + step;
    serde_json::from_str(&format!(
        r#"{{"time": {time}, "stage": "representation", "step": {step}, "lr": 1e-4,
            "losses": {{"itc": 3.25, "itg": 2.25, "total": 5.5}}, "grad_norm": 2.5, "images_per_s": 131.0, "data/{name}/seen": 640, "data/{name}/skipped": 2,
            "data/{name}/skipped/truncated": 2, {TIMES}}}"#
    ))
    .unwrap()
}

/// A run of the preset tiny that has recorded steps 10 to 100, one a second.
fn found(name: &str) -> Found {
    let mut config = configs::load_str("tiny", configs::preset("tiny").unwrap(), &Overrides::none()).unwrap();
    config.run.name = name.to_owned();
    let commit = Commit {
        launch: 1,
        stage_index: 1,
        stage: "representation".into(),
        step: 90,
        folder: format!("stage1/{name}"),
        uri: format!("runs/x/stage1/{name}"),
        time: 1090.0,
    };
    let rank = |rank: u64| {
        json!({ "rank": rank, "host": name, "quiet_s": 0.2, "connected": true,
            "own_s_per_step": 0.1 + 0.1 * rank as f64, "beat": { "phase": "step", "step": 100 } })
    };
    Found {
        config: Some(config),
        launches: 1,
        launched: 999.0,
        commits: vec![commit],
        records: (1..=10).map(|n| record(10 * n, name)).collect(),
        ranks: Some(json!({ "ranks": [rank(0), rank(1)] })),
        ..Found::default()
    }
}

fn seen(found: Found, launcher_alive: bool, now: f64) -> Seen {
    let status = status(&found, &Outside { job: None, launcher_alive, now }, "runs/x");
    Seen { found, status, is_submitted: false, now }
}

fn page(seen: Seen) -> String {
    let now = seen.now;
    page_of(&Known { seen: Some(Arc::new(seen)), error: None }, now)
}

#[test]
fn a_healthy_run_is_read_at_a_glance() {
    let html = page(seen(found("x"), true, 1104.0));
    for part in [
        "<p class=\"state running\"><b>running</b> <span>last record 4 s ago</span></p>",
        "<b>representation</b> <span>step 100 of",
        "<span>loss</span><b>5.5</b>",
        "<i>itc 3.25  itg 2.25</i>",
        "<span>gradient norm</span><b>2.5</b>",
        "<span>failures</span><b>0</b><i>samples replaced 2</i>",
        "<span>images/s</span><b>131</b>",
        "<b>41 %</b><i>320 TFLOP/s a rank</i>",
        "waiting for data <b>25 %</b>",
        "class=\"chart itc\"",
        "2 ranks. Slowest: rank 1 on x, 200 ms per step; the median is 100 ms.",
        "<td>x</td><td>640</td>",
        "samples replaced: <b>2</b>",
        "<td>14 s ago</td>",
        "<span>since checkpoint</span><b>14 s</b>",
        "left of all stages at the speed so far",
        "http-equiv=\"refresh\" content=\"5\"",
    ] {
        assert!(html.contains(part), "{part:?} is missing in:\n{html}");
    }
    assert!(!html.contains("NaN") && !html.contains("<script"), "{html}");
}

#[test]
fn what_was_not_measured_is_left_out() {
    let mut found = found("x");
    found.records.iter_mut().for_each(|record| record.values.clear());
    let html = page(seen(found.clone(), true, 1104.0));
    for part in ["Where a step's time goes", "physical limit", "gradient norm", "Samples by source"] {
        assert!(!html.contains(part), "{part}");
    }
    found.records[9].values.insert("tflop_per_s".into(), json!(1.5));
    assert!(page(seen(found, true, 1104.0)).contains("<span>TFLOP/s</span><b>1.5</b><i>of one rank</i>"));
    // A run that has only begun.
    let begun = Found { launches: 1, launched: 999.0, ..Found::default() };
    let html = page(seen(begun, true, 1000.0));
    assert!(html.contains("starting: no record of this launch yet") && html.contains("None yet."), "{html}");
}

#[test]
fn a_failed_and_a_stalled_run_say_why() {
    let mut failed = found("x");
    let message = "rank 1 on n2 has ended without a word".to_owned();
    failed.outcome = Some(Outcome { schema_version: 1, code: 1, message, time: 1105 });
    failed.faults.failures = vec![Noted { time: 1105.0, text: "rank 1 on n2 has ended".into() }];
    let html = page(seen(failed, false, 1165.0));
    assert!(
        html.contains("<p class=\"state failed\"><b>failed</b> <span>rank 1 on n2 has ended without a word</span></p>"),
        "{html}"
    );
    assert!(html.contains("<th>1 min 0 s ago</th><td>rank 1 on n2 has ended</td>"), "{html}");
    assert!(html.contains("content=\"30\""), "a run that has ended is loaded seldom");

    // A record every 10 s, the last at 1100.
    let html = page(seen(found("x"), true, 1300.0));
    let reason = "no record for 3 min 20 s; usually one comes every 10 s";
    assert!(html.contains(&format!("<p class=\"state stalled\"><b>stalled</b> <span>{reason}</span></p>")), "{html}");
}

#[test]
fn names_from_the_run_stay_text() {
    let hostile = "<script>alert(1)</script>\"'><img src=x onerror=alert(2)>";
    let mut found = found("x");
    let last = found.records.last_mut().unwrap();
    last.losses.insert(hostile.to_owned(), Some(1.0));
    last.values.insert(format!("data/{hostile}/seen"), json!(1));
    last.values.insert(format!("data/{hostile}/skipped/{hostile}"), json!(1));
    found.config.as_mut().unwrap().run.name = hostile.to_owned();
    found.commits[0].folder = hostile.to_owned();
    found.commits[0].stage = hostile.to_owned();
    found.ranks =
        Some(json!({ "ranks": [{ "rank": 0, "host": hostile, "failed": hostile, "beat": { "phase": hostile } }] }));
    found.faults.failures = vec![Noted { time: 1.0, text: hostile.to_owned() }];
    found.faults.changes = found.faults.failures.clone();
    found.outcome = Some(Outcome { schema_version: 1, code: 1, message: hostile.to_owned(), time: 2000 });
    // A stage that the configuration does not have, as another version would write it.
    let mut other = found.clone();
    other.records.iter_mut().for_each(|record| record.stage = hostile.to_owned());
    for (found, alive) in [(found.clone(), true), (found, false), (other.clone(), true), (other, false)] {
        let known = Known { seen: Some(Arc::new(seen(found, alive, 1104.0))), error: Some(hostile.to_owned()) };
        let html = page_of(&known, 1104.0);
        assert!(!html.contains("<script") && !html.contains("<img"), "{html}");
        assert!(html.contains("&lt;script&gt;alert(1)"), "{html}");
    }
}

#[test]
fn a_store_that_fails_is_told_and_the_last_look_stays() {
    let known = Known { seen: Some(Arc::new(seen(found("x"), true, 1104.0))), error: Some("no route to host".into()) };
    let html = page_of(&known, 1224.0);
    assert!(html.contains("no route to host. What follows is from 2 min 0 s ago."), "{html}");
    assert!(html.contains("step 100 of"), "{html}");
    let html = page_of(&Known { seen: None, error: Some("no route to host".into()) }, 0.0);
    assert!(html.contains("<b>The run cannot be read.</b> no route to host."), "{html}");
    assert!(page_of(&Known::default(), 0.0).contains("is being read"));
}

#[test]
fn programs_are_told_what_status_says_and_more() {
    let seen = seen(found("x"), true, 1104.0);
    let told = report(&seen);
    let plain = serde_json::to_value(&seen.status).unwrap();
    for (key, value) in plain.as_object().unwrap() {
        assert_eq!(told.get(key), Some(value), "{key}");
    }
    assert_eq!((told["state"].as_str(), told["mfu"].as_f64()), (Some("running"), Some(0.41)));
    assert_eq!(told["times"]["last_record"].as_f64(), Some(1100.0));
    let close = |name: &str, wanted: f64| (told["step_time_s"][name].as_f64().unwrap() - wanted).abs() < 1e-9;
    assert!(close("step", 0.2) && close("image_encoder", 0.1), "{told}");
    assert_eq!(told["faults"]["counts"]["samples_replaced"].as_u64(), Some(2));
}

fn server() -> Server {
    let answer = |path: &str| (path == "/").then(|| Reply::html("<p>here</p>".repeat(50_000)));
    Server::start(bind(0).unwrap(), answer).unwrap()
}

fn connect(port: u16) -> TcpStream {
    let stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    stream
}

fn ask(port: u16, request: &str) -> String {
    let mut stream = connect(port);
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

fn get(port: u16, path: &str) -> String {
    ask(port, &format!("GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n\r\n"))
}

#[test]
fn only_what_is_there_is_served_and_only_read() {
    let server = server();
    let port = server.port();
    let page = get(port, "/?a=b");
    assert!(page.starts_with("HTTP/1.1 200 OK\r\n") && page.ends_with("<p>here</p>"), "{}", &page[..300]);
    assert!(page.contains("Content-Length: 550000\r\n") && page.contains("default-src 'none'"), "{}", &page[..600]);
    assert!(!page.contains("script-src"), "what is not named falls under default-src");
    let head = ask(port, "HEAD / HTTP/1.1\r\nHost: localhost\r\n\r\n");
    assert!(head.contains("Content-Length: 550000\r\n") && head.ends_with("\r\n\r\n"), "{head}");
    for (request, status) in [
        ("GET /../etc/passwd HTTP/1.1\r\n\r\n", "404"),
        ("GET /status HTTP/1.0\r\n\r\n", "404"),
        ("POST / HTTP/1.1\r\nContent-Length: 5\r\n\r\nhello", "405"),
        ("DELETE / HTTP/1.1\r\n\r\n", "405"),
        ("GET / HTTP/1.1\r\nHost: run.example.org\r\n\r\n", "403"),
        ("GET / HTTP/1.1\r\nHost: 127.0.0.1.example.org:80\r\n\r\n", "403"),
        ("GET / HTTP/1.1\r\nhost: LOCALHOST:8000\r\n\r\n", "200"),
        ("GET http://127.0.0.1/ HTTP/1.1\r\n\r\n", "400"),
        ("GET /\r\n\r\n", "400"),
        ("\r\n\r\n", "400"),
    ] {
        let answer = ask(port, request);
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{request:?}: {}", &answer[..60]);
    }
    let answer = ask(port, &format!("GET / HTTP/1.1\r\nX: {}\r\n", "x".repeat(20_000)));
    assert!(answer.starts_with("HTTP/1.1 431 "), "{answer}");
}

#[test]
fn silent_and_broken_clients_hold_up_nobody() {
    let server = server();
    let port = server.port();
    let mut silent = connect(port);
    let mut half = connect(port);
    half.write_all(b"GET / HT").unwrap();
    let unread: Vec<TcpStream> = (0..8)
        .map(|_| {
            let mut stream = connect(port);
            stream.write_all(b"GET / HTTP/1.1\r\n\r\n").unwrap();
            stream
        })
        .collect();
    connect(port).shutdown(Shutdown::Both).unwrap();
    let since = Instant::now();
    assert!(get(port, "/").starts_with("HTTP/1.1 200"));
    assert!(since.elapsed() < Duration::from_secs(3), "{:?}", since.elapsed());
    // They are let go of in the end.
    let mut rest = Vec::new();
    assert_eq!(silent.read_to_end(&mut rest).unwrap_or(0), 0);
    assert!(half.read_to_end(&mut rest).is_ok() && rest.is_empty(), "{rest:?}");
    drop(unread);
    let since = Instant::now();
    drop(server);
    assert!(since.elapsed() < Duration::from_secs(2), "the server ends at once");
    assert!(TcpStream::connect(("127.0.0.1", port)).is_err(), "and gives its port back");
}

#[test]
fn too_many_clients_are_told_to_come_back() {
    let server = server();
    let silent: Vec<TcpStream> = (0..32).map(|_| connect(server.port())).collect();
    let mut last = String::new();
    // The 503 may arrive before the request has left.
    let _reset = connect(server.port()).read_to_string(&mut last);
    assert!(last.starts_with("HTTP/1.1 503 "), "{last}");
    drop(silent);
    let until = Instant::now() + Duration::from_secs(10);
    while !get(server.port(), "/").starts_with("HTTP/1.1 200") {
        assert!(Instant::now() < until, "the connections that have gone still count");
    }
}

#[test]
fn a_port_in_use_is_refused_with_the_fix() {
    let taken = bind(0).unwrap();
    let error = bind(taken.local_addr().unwrap().port()).unwrap_err();
    let text = error.to_string();
    assert!(text.contains("is in use") && text.contains("Take another, or 0"), "{text}");
    assert_eq!(crate::exit::code_of(&error), crate::exit::USAGE);
    assert!(taken.local_addr().unwrap().ip().is_loopback());
}

/// A store that refuses everything.
fn refusing() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else { return };
            let mut request = [0; 4096];
            let _length = stream.read(&mut request);
            let _gone = stream.write_all(b"HTTP/1.1 405 No\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
        }
    });
    port
}

#[test]
fn a_store_that_refuses_ends_nothing() {
    let uri = format!("http://127.0.0.1:{}/run", refusing());
    let live = Live::start(Watcher::of(&uri, &Programs::default()).unwrap()).unwrap();
    for _ in 0..2 {
        // A slow machine may take longer than one wait.
        let until = Instant::now() + Duration::from_secs(30);
        let mut known = live.known();
        while known.error.is_none() && Instant::now() < until {
            known = live.known();
        }
        let error = known.error.unwrap();
        assert!(known.seen.is_none() && error.contains(&uri), "{error}");
        std::thread::sleep(Duration::from_secs(2));
    }
}

#[test]
fn what_a_run_writes_is_seen_at_the_next_look() {
    let folder = std::env::temp_dir().join(format!("blip2-live-{}", std::process::id()));
    std::fs::create_dir_all(folder.join("metrics")).unwrap();
    let line = |step: u64| format!("{{\"time\":1000,\"stage\":\"a\",\"step\":{step},\"losses\":{{\"itc\":1.0}}}}\n");
    std::fs::write(folder.join("metrics/1.jsonl"), line(1)).unwrap();
    let live = Live::start(Watcher::of(folder.to_str().unwrap(), &Programs::default()).unwrap()).unwrap();
    let until = Instant::now() + Duration::from_secs(30);
    let wait_for = |step: u64| {
        while live.known().seen.and_then(|seen| seen.status.step) != Some(step) {
            assert!(Instant::now() < until, "step {step} is not seen");
            std::thread::sleep(Duration::from_millis(50));
        }
    };
    wait_for(1);
    std::fs::write(folder.join("metrics/1.jsonl"), line(1) + &line(2)).unwrap();
    wait_for(2);
    std::fs::remove_dir_all(folder).unwrap();
}
