//! `blip2 dashboard`, `blip2 launch --dashboard`, `blip2 status --watch` and the report, on a folder as a run writes
//! it.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use integration_tests::blip2::{blip2, stderr, stdout};
use integration_tests::programs::{FEW_SCENES, all_output, built, run_within};
use integration_tests::skip::skip;
use integration_tests::stand_ins::StandIns;
use serde_json::{Value, json};

/// Browsers that draw a page without a screen.
const BROWSERS: [&str; 4] = ["chromium", "chromium-browser", "google-chrome", "google-chrome-stable"];

fn now() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs_f64()
}

/// A run of the preset tiny in its first stage: 150 of its steps in records of ten, one a second, the last just now.
struct Run {
    folder: tempfile::TempDir,
}

impl Run {
    fn new() -> Self {
        let run = Self { folder: tempfile::tempdir().unwrap() };
        let now = now();
        run.write("config.yaml", configs::preset("tiny").unwrap());
        let entry = |time: f64, rest: &str| format!("{{\"format_version\":1,\"epoch\":1,\"time\":{time},{rest}}}");
        run.write("log/00000000.json", &entry(now - 20.0, r#""kind":"take_over","holder":{"host":"n1","pid":1}"#));
        let commit =
            r#""kind":"commit","stage_index":1,"stage":"representation","step":100,"folder":"stage1/step-100/1-a""#;
        run.write("log/00000001.json", &entry(now - 5.0, commit));
        let mut lines = "{\"session_start\":{\"stage\":\"representation\",\"stage_index\":1,\"step\":1}}\n".to_owned();
        for n in 1..=15 {
            lines += &format!("{}\n", record(10 * n, now - 15.0 + n as f64));
        }
        run.write("metrics/000001-a.jsonl", &lines);
        run.write("launch/faults/1/fault.json", r#"{"line": "rank 1 on <b>n2</b> has ended without a word"}"#);
        let rank = |rank: u64| {
            json!({ "rank": rank, "host": "n1", "beat": { "phase": "step", "step": 150, "resident_bytes": 1 << 30 },
                "quiet_s": 0.4, "connected": true, "own_s_per_step": 0.1 * (1 + rank) as f64 })
        };
        run.write("launch/ranks.json", &json!({ "seconds": 20.0, "ranks": [rank(0), rank(1)] }).to_string());
        run
    }

    fn write(&self, name: &str, text: &str) {
        let path = self.folder.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        // Whole or not at all, as a reader may come at any moment.
        let beside = path.with_extension("tmp");
        std::fs::write(&beside, text).unwrap();
        std::fs::rename(beside, path).unwrap();
    }

    fn uri(&self) -> &str {
        self.folder.path().to_str().unwrap()
    }

    /// Has it end as a launcher notes it.
    fn fail(&self) {
        let outcome =
            json!({ "schema_version": 1, "code": 1, "message": "the disk is full", "time": now() as u64 + 1 });
        self.write("launch/outcome.json", &outcome.to_string());
    }
}

fn record(step: u64, time: f64) -> Value {
    let loss = 6.0 / (1.0 + step as f64 / 100.0);
    json!({
        "schema_version": 1, "time": time, "stage_index": 1, "stage": "representation", "step": step,
        "losses": { "itc": loss, "itm": 0.6, "itg": 2.0, "total": loss + 2.6 }, "lr": 1e-4, "grad_norm": 12.5,
        "images_per_s": 131.0, "skipped_updates": 1, "tflop_per_s": 1.5, "mfu": 0.37,
        "data/scenes/seen": step * 8, "data/scenes/distinct": step * 8, "data/scenes/bytes": step * 1000,
        "data/scenes/skipped": 3, "data/scenes/skipped/truncated": 3,
        "time/data_wait": 0.01, "time/image_encoder": 0.05, "time/qformer": 0.02, "time/language_model": 0.0,
        "time/communication": 0.01, "time/optimizer": 0.005, "time/checkpoint": 0.0, "time/evaluation": 0.0,
        "time/other": 0.005, "time/step": 0.1, "time/decode": 0.08,
    })
}

/// A process that is ended with this value.
struct Ended(Child);

impl Drop for Ended {
    fn drop(&mut self) {
        let _gone = self.0.kill();
        let _reaped = self.0.wait();
    }
}

/// The port in the line that names the page.
fn port_in(line: &str) -> u16 {
    let rest = line.split("http://127.0.0.1:").nth(1).unwrap_or_else(|| panic!("no address in {line:?}"));
    rest.split('/').next().unwrap().parse().unwrap()
}

/// `blip2 dashboard` on a run, and its port.
fn dashboard(run: &str) -> (Ended, u16) {
    let mut command = Command::new(built("blip2"));
    let child = command.args(["dashboard", run, "--port", "0"]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
    let mut child = Ended(child.unwrap());
    let mut line = String::new();
    BufReader::new(child.0.stdout.take().unwrap()).read_line(&mut line).unwrap();
    assert!(line.contains("ssh -N -L"), "{line}");
    let port = port_in(&line);
    (child, port)
}

/// The head and the body of an answer.
fn get(port: u16, path: &str) -> (String, String) {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    write!(stream, "GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    (head.to_owned(), body.to_owned())
}

#[test]
fn the_page_and_programs_are_told_the_same() {
    let run = Run::new();
    let (mut child, port) = dashboard(run.uri());
    let (head, page) = get(port, "/");
    assert!(head.starts_with("HTTP/1.1 200") && head.contains("Content-Security-Policy: default-src 'none'"), "{head}");
    for part in [
        "<b>running</b>",
        "step 150 of",
        "<span>loss</span><b>5</b>",
        "<b>37 %</b>",
        "image encoder <b>50 %</b>",
        "Slowest: rank 1 on n1, 200 ms per step",
        "rank 1 on &lt;b&gt;n2&lt;/b&gt; has ended without a word",
        "<td>scenes</td><td>1,200</td>",
        "stage1/step-100/1-a",
    ] {
        assert!(page.contains(part), "{part:?} is missing in:\n{page}");
    }
    assert!(!page.contains("<script") && !page.contains("http://"), "the page loads nothing");

    let told: Value = serde_json::from_str(&get(port, "/status.json").1).unwrap();
    let status: Value = serde_json::from_slice(&blip2(&["status", run.uri(), "--json"]).stdout).unwrap();
    for key in ["schema_version", "state", "stage", "step", "steps", "losses", "images_per_s", "launches", "ranks"] {
        assert_eq!(told[key], status[key], "{key}");
    }
    assert_eq!((told["state"].as_str(), told["step"].as_u64()), (Some("running"), Some(150)));
    assert!((told["step_time_s"]["image_encoder"].as_f64().unwrap() - 0.05).abs() < 1e-9, "{told}");

    // What a run writes is there a little later.
    run.fail();
    until("the page says that the run failed", || {
        get(port, "/").1.contains("<b>failed</b> <span>the disk is full</span>")
    });

    let asked = Command::new("kill").args(["-INT", &child.0.id().to_string()]).status().unwrap();
    assert!(asked.success());
    until("Ctrl-C ends it", || child.0.try_wait().unwrap().is_some());
    assert_eq!(child.0.wait().unwrap().code(), Some(130));
    assert!(TcpStream::connect(("127.0.0.1", port)).is_err());
}

fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let end = Instant::now() + Duration::from_secs(60);
    while !holds() {
        assert!(Instant::now() < end, "{what}: waited 60 s in vain");
        std::thread::sleep(Duration::from_millis(100));
    }
}

#[test]
fn a_port_in_use_and_a_folder_without_a_run_are_refused() {
    let run = Run::new();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    let output = blip2(&["dashboard", run.uri(), "--port", &port]);
    assert_eq!(output.status.code(), Some(2), "{}", all_output(&output));
    assert!(stderr(&output).contains(&format!("port {port} of 127.0.0.1 is in use")), "{}", stderr(&output));
    let empty = tempfile::tempdir().unwrap();
    let output = blip2(&["dashboard", empty.path().to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(2), "{}", all_output(&output));
    assert!(stderr(&output).contains("found nothing of a run"), "{}", stderr(&output));
}

/// A browser without a screen; `None`, said aloud, where there is none.
fn browser(test: &str) -> Option<&'static str> {
    let found = BROWSERS.into_iter().find(|name| {
        let asked = Command::new(name).arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status();
        asked.is_ok_and(|status| status.success())
    });
    if found.is_none() {
        skip(test, "no chromium or google-chrome on PATH");
    }
    found
}

fn browse(browser: &str, profile: &Path, more: &[String]) -> std::process::Output {
    let mut command = Command::new(browser);
    command.args(["--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--no-first-run"]);
    command.args(["--disable-dev-shm-usage", "--window-size=1100,1560"]);
    command.arg(format!("--user-data-dir={}", profile.display())).args(more);
    run_within(120, &command)
}

#[test]
fn a_browser_draws_the_page() {
    let Some(browser) = browser("a_browser_draws_the_page") else { return };
    let run = Run::new();
    let (_child, port) = dashboard(run.uri());
    let place = tempfile::tempdir().unwrap();
    let url = format!("http://127.0.0.1:{port}/");
    let picture: PathBuf = place.path().join("page.png");
    let output =
        browse(browser, &place.path().join("first"), &[format!("--screenshot={}", picture.display()), url.clone()]);
    assert!(picture.exists(), "{}", all_output(&output));
    let drawn = image::open(&picture).unwrap().to_rgb8();
    assert_eq!((drawn.width(), drawn.height()), (1100, 1560));
    // A page that is not blank has many colours, and is not all background.
    let mut colours = std::collections::HashMap::new();
    drawn.pixels().for_each(|pixel| *colours.entry(pixel.0).or_insert(0_u32) += 1);
    let most = colours.values().max().copied().unwrap_or(0);
    assert!(colours.len() > 50 && f64::from(most) < 0.97 * 1100.0 * 1560.0, "{} colours, {most} of one", colours.len());

    let output = browse(browser, &place.path().join("second"), &["--dump-dom".to_owned(), url]);
    let dom = stdout(&output);
    for part in ["<b>running</b>", "<span>loss</span><b>5</b>", "aria-label=\"itc over steps\"", "step 150 of"] {
        assert!(dom.contains(part), "{part:?} is missing in:\n{dom}");
    }
}

#[test]
fn a_watch_ends_with_the_run() {
    let run = Run::new();
    for json in [false, true] {
        let mut command = Command::new(built("blip2"));
        command.args(["status", run.uri(), "--watch", "1"]).args(json.then_some("--json"));
        let mut child = Ended(command.stdout(Stdio::piped()).spawn().unwrap());
        let mut lines = BufReader::new(child.0.stdout.take().unwrap()).lines();
        let first = lines.next().unwrap().unwrap();
        // The same step is no news; the failure is.
        std::thread::sleep(Duration::from_secs(2));
        run.fail();
        let rest: Vec<String> = lines.map(Result::unwrap).collect();
        assert_eq!(child.0.wait().unwrap().code(), Some(0));
        assert_eq!(rest.len(), 1, "{first}\n{rest:?}");
        if json {
            let state = |line: &str| serde_json::from_str::<Value>(line).unwrap()["state"].clone();
            assert_eq!((state(&first), state(&rest[0])), (json!("running"), json!("failed")));
        } else {
            assert!(first.starts_with("tiny: running  representation 150/"), "{first}");
            assert!(rest[0].starts_with("tiny: failed") && rest[0].contains("the disk is full"), "{rest:?}");
        }
        std::fs::remove_file(run.folder.path().join("launch/outcome.json")).unwrap();
    }
}

#[test]
fn the_report_has_the_same_bar_and_faults() {
    let run = Run::new();
    let output = blip2(&["report", run.uri()]);
    assert!(output.status.success(), "{}", all_output(&output));
    let page = std::fs::read_to_string(run.folder.path().join("report.html")).unwrap();
    for part in [
        "class=\"part-image_encoder\"",
        "image encoder <b>50 %</b>",
        "samples replaced: <b>3</b>",
        "&lt;b&gt;n2&lt;/b&gt;",
    ] {
        assert!(page.contains(part), "{part:?} is missing");
    }
    assert!(!page.contains("http-equiv") && !page.contains("<script"));
}

/// A rank that does nothing until it is told to end.
const WAITS: &str =
    "#!/bin/sh\necho >\"$0.began\"\nwhile [ ! -e \"$0.go\" ]; do sleep 0.05; done\necho '{\"event\":\"done\"}'\n";
#[test]
fn a_launch_serves_the_page_as_long_as_it_lasts() {
    let site = StandIns::new();
    site.script("blip2-rank", WAITS);
    let launch = |port: &str| {
        let mut command = site.blip2(&["launch", "tiny", "--ranks", "1", "--dashboard", port]);
        command.args(FEW_SCENES);
        command
    };
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let refused = launch(&taken.local_addr().unwrap().port().to_string()).output().unwrap();
    assert_eq!(refused.status.code(), Some(2), "{}", all_output(&refused));
    assert!(stderr(&refused).contains("is in use") && stderr(&refused).contains("or 0 to"), "{}", stderr(&refused));
    assert!(!site.path().join("blip2-rank.began").exists(), "ranks were started all the same");

    let mut child = Ended(launch("0").stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap());
    let mut lines = BufReader::new(child.0.stderr.take().unwrap()).lines();
    let invitation = lines.find_map(|line| line.ok().filter(|line| line.starts_with("dashboard: "))).unwrap();
    let port = port_in(&invitation);
    let rest = std::thread::spawn(move || lines.map_while(Result::ok).collect::<Vec<_>>());
    until("the rank begins", || site.path().join("blip2-rank.began").exists());
    let (_, page) = get(port, "/");
    assert!(page.contains("<b>running</b> <span>starting: no record of this launch yet</span>"), "{page}");
    // A client that says nothing does not keep the launcher.
    let _silent = TcpStream::connect(("127.0.0.1", port)).unwrap();
    std::fs::write(site.path().join("blip2-rank.go"), "").unwrap();
    let status = child.0.wait().unwrap();
    assert_eq!(status.code(), Some(0), "{:?}", rest.join().unwrap());
    assert!(TcpStream::connect(("127.0.0.1", port)).is_err(), "the page has ended with the launch");
}
