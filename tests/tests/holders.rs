//! Two processes want one run: one of them trains it, the other ends with 76 and says who has it. Real ranks, on a path and
//! through servers of the S3 and the Azure protocol, with clocks a day apart and with a holder that is paused.

#![allow(clippy::unwrap_used, clippy::print_stderr, reason = "a test stops at the first surprise and says what it saw")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use integration_tests::object_servers::ObjectServer;
use integration_tests::programs::{all_output, built, checkout, run_within};
use integration_tests::runs::{assert_same, launch, log_entries, overrides, trained, undisturbed};
use integration_tests::skip::tier_is_all;
use serde_json::Value;

/// Beats every 100 ms; silence after 3 s.
const RHYTHM: &str = "100:3000";
/// Seconds in which a process of a race must end.
const LIMIT_S: u64 = 240;
const DAY_S: i64 = 86_400;

/// Where a run lies.
enum Place<'s> {
    Path(PathBuf),
    Server(&'s ObjectServer, String),
}

impl Place<'_> {
    fn uri(&self) -> String {
        match self {
            Self::Path(path) => path.display().to_string(),
            Self::Server(server, name) => server.uri(name),
        }
    }

    /// Where a copy of the run lies: runs of one name in two stores, whose tests run side by side, have one each.
    fn copy(&self, what: &str) -> PathBuf {
        undisturbed().0.join(format!("{what}-{}", self.uri().replace(['/', ':'], "-")))
    }

    /// The run as a folder: itself, or fetched.
    fn folder(&self) -> PathBuf {
        match self {
            Self::Path(path) => path.clone(),
            Self::Server(server, _) => {
                let folder = self.copy("fetched");
                let _none_yet = fs::remove_dir_all(&folder);
                fetch(server, &self.uri(), &folder);
                folder
            }
        }
    }

    /// The entries of the run's log.
    fn log(&self) -> Vec<Value> {
        match self {
            Self::Path(path) => log(path),
            Self::Server(server, _) => {
                let folder = self.copy("log-of");
                fetch(server, &format!("{}/log", self.uri()), &folder.join("log"));
                log(&folder)
            }
        }
    }

    /// A rank that trains the small run there, as if on the machine `host`.
    fn rank(&self, host: &str) -> Command {
        let program = built("blip2-rank");
        let mut command = match self {
            Self::Path(_) => Command::new(program),
            Self::Server(server, _) => server.command_through(server.address(), &program),
        };
        command.arg("train").arg("preset:tiny").args(["--progress", "json"]);
        for set in overrides(Path::new(&self.uri()), &undisturbed().0) {
            command.args(["--set", &set]);
        }
        command.env("OMP_NUM_THREADS", "1").env("MKL_NUM_THREADS", "1");
        command.env("BLIP2_TEST_BOOT_ID", host).env("BLIP2_TEST_HEARTBEAT_MS", RHYTHM);
        command
    }
}

fn fetch(server: &ObjectServer, uri: &str, folder: &Path) {
    let output = server.run(&built("examples/deliver"), &["fetch", uri, &folder.display().to_string()]);
    assert!(output.status.success(), "{}", all_output(&output));
}

/// The library that shifts a process's clock.
fn skew_library() -> &'static Path {
    static LIBRARY: OnceLock<PathBuf> = OnceLock::new();
    LIBRARY.get_or_init(|| {
        let library = undisturbed().0.join("clock_skew.so");
        let source = checkout().join("tests/peers/clock_skew.c");
        let mut compile = Command::new("cc");
        compile.args(["-shared", "-fPIC", "-O1", "-o"]).arg(&library).arg(source).arg("-ldl");
        let output = compile.output().unwrap();
        assert!(output.status.success(), "{}", all_output(&output));
        library
    })
}

fn start(command: &mut Command) -> Child {
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap()
}

/// Waits for a process that says little.
fn end(mut child: Child) -> Output {
    let since = Instant::now();
    while child.try_wait().unwrap().is_none() {
        if since.elapsed() > Duration::from_secs(LIMIT_S) {
            child.kill().unwrap();
            panic!("a process did not end within {LIMIT_S} s: {}", all_output(&child.wait_with_output().unwrap()));
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    child.wait_with_output().unwrap()
}

fn signal(name: &str, child: &Child) {
    assert!(Command::new("kill").args([name, &child.id().to_string()]).status().unwrap().success());
}

/// The entries of a run's log.
fn log(folder: &Path) -> Vec<Value> {
    log_entries(folder).iter().map(|name| serde_json::from_slice(&fs::read(name).unwrap()).unwrap()).collect()
}

/// Boot ids of the processes that took the run over; stops where a commit counts that is not of the newest of them.
fn holders(what: &str, log: &[Value]) -> Vec<String> {
    let mut holders = Vec::new();
    let mut newest = 0;
    for entry in log {
        let epoch = entry["epoch"].as_u64().unwrap();
        if entry["kind"] == "take_over" {
            assert_eq!(epoch, newest + 1, "{what}: {log:#?}");
            newest = epoch;
            holders.push(entry["holder"]["boot_id"].as_str().unwrap().to_owned());
        } else {
            assert_eq!(epoch, newest, "{what}: a commit of a holder that was replaced: {log:#?}");
        }
    }
    holders
}

fn assert_refused(what: &str, output: &Output) {
    assert_eq!(output.status.code(), Some(76), "{what}: {}", all_output(output));
    let said = all_output(output);
    assert!(said.contains("holds this run and lives") && said.contains("another run.output"), "{what}: {said}");
}

/// Both start at the same moment, one with a clock that is `skew` seconds off.
fn both_at_once(what: &str, place: &Place<'_>, skew: i64) {
    let mut skewed = place.rank("a");
    if skew != 0 {
        skewed.env("LD_PRELOAD", skew_library()).env("SKEW_S", skew.to_string());
    }
    let (first, second) = (start(&mut skewed), start(&mut place.rank("b")));
    let outputs = [end(first), end(second)];
    let folder = place.folder();
    let log = log(&folder);
    let winner = holders(what, &log);
    assert_eq!(winner.len(), 1, "{what}: {}{}", all_output(&outputs[0]), all_output(&outputs[1]));
    let (won, lost) = if winner == ["a"] { (&outputs[0], &outputs[1]) } else { (&outputs[1], &outputs[0]) };
    assert!(won.status.success(), "{what}: {}", all_output(won));
    assert_refused(what, lost);
    // The clock was off indeed.
    if winner == ["a"] {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs_f64();
        let off = log[0]["time"].as_f64().unwrap() - now;
        assert!((off - skew as f64).abs() < 3600.0, "{what}: the clock was {off} s off");
    }
    assert_same(what, &trained(&folder), &undisturbed().1);
    eprintln!("{what}: {} trained, clock {skew} s off", winner[0]);
}

/// A holder is paused while it trains; another takes over; then the first one goes on.
fn paused(what: &str, place: &Place<'_>, wait_for_commit: bool) {
    let old = start(&mut place.rank("a"));
    let watch = |what: &str, holds: &dyn Fn(&[Value]) -> bool| {
        let since = Instant::now();
        while !holds(&place.log()) {
            assert!(since.elapsed() < Duration::from_secs(LIMIT_S), "{what} in vain");
            std::thread::sleep(Duration::from_millis(10));
        }
    };
    let commits = |log: &[Value]| log.iter().filter(|entry| entry["kind"] == "commit").count();
    watch("waited for a commit of the first", &|log| commits(log) >= 1);
    signal("-STOP", &old);
    let new = start(&mut place.rank("b"));
    watch("waited for the second to take over", &|log| log.iter().any(|entry| entry["epoch"] == 2));
    if wait_for_commit {
        watch("waited for a commit of the second", &|log| {
            log.iter().any(|entry| entry["epoch"] == 2 && entry["kind"] == "commit")
        });
    }
    signal("-CONT", &old);
    let outputs = [end(old), end(new)];
    assert_eq!(outputs[0].status.code(), Some(76), "{what}: {}", all_output(&outputs[0]));
    assert!(all_output(&outputs[0]).contains("took over this run"), "{what}: {}", all_output(&outputs[0]));
    assert!(outputs[1].status.success(), "{what}: {}", all_output(&outputs[1]));
    let folder = place.folder();
    assert_eq!(holders(what, &log(&folder)), ["a", "b"]);
    let beat: Value = serde_json::from_slice(&fs::read(folder.join("heartbeat.json")).unwrap()).unwrap();
    assert_eq!((&beat["epoch"], &beat["left"]), (&2.into(), &true.into()), "{what}: {beat}");
    assert_same(what, &trained(&folder), &undisturbed().1);
    eprintln!("{what}: the paused holder stopped");
}

/// So many rounds, of drawn kinds; every kind is drawn from three rounds on.
fn race(store: &str, rounds: usize, server: Option<&ObjectServer>) {
    let mut drawn: u64 = 11;
    let mut kinds = [0; 4];
    for round in 0..rounds {
        // Knuth's generator.
        drawn = drawn.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let kind = if round < 4 { round } else { (drawn >> 33) as usize % 4 };
        let what = format!("{store}, round {round}");
        let name = format!("race-{round}");
        let place = match server {
            None => Place::Path(undisturbed().0.join(&name)),
            Some(server) => Place::Server(server, name),
        };
        match kind {
            0 => both_at_once(&what, &place, 0),
            1 => both_at_once(&what, &place, if drawn >> 40 & 1 == 0 { DAY_S } else { -DAY_S }),
            _ => paused(&what, &place, kind == 2),
        }
        kinds[kind] += 1;
        fs::remove_dir_all(place.folder()).unwrap();
    }
    eprintln!(
        "{store}: {rounds} rounds: {} at once, {} with clocks a day apart, {} paused",
        kinds[0],
        kinds[1],
        kinds[2] + kinds[3]
    );
}

#[test]
fn of_two_that_want_a_run_on_a_path_one_trains_it() {
    let rounds = if tier_is_all() { 100 } else { 4 };
    race("path", rounds, None);
}

#[test]
fn of_two_that_want_a_run_on_s3_one_trains_it() {
    let Some(server) = ObjectServer::s3("of_two_that_want_a_run_on_s3_one_trains_it") else { return };
    race("S3", 8, Some(&server));
    begins_anew(&server);
}

#[test]
fn of_two_that_want_a_run_on_azure_one_trains_it() {
    let Some(server) = ObjectServer::azure("of_two_that_want_a_run_on_azure_one_trains_it") else { return };
    race("Azure", 8, Some(&server));
    begins_anew(&server);
}

/// A finished run in a store begins anew, with what there was beside it.
fn begins_anew(server: &ObjectServer) {
    let place = Place::Server(server, "anew".to_owned());
    for fresh in [&[][..], &["--fresh"]] {
        let output = end(start(place.rank("a").args(fresh)));
        assert!(output.status.success(), "{}", all_output(&output));
    }
    let folder = place.folder();
    let before = folder.join("before-1");
    let mut log = log(&folder);
    assert!(log.iter().any(|entry| entry["fresh"] == "before-1"), "{log:#?}");
    assert_same("the run before", &trained(&before), &undisturbed().1);
    assert_same("the run that began anew", &trained(&folder), &undisturbed().1);
    assert!(before.join("metrics").exists() && before.join("config.yaml").exists());
    log.retain(|entry| entry["kind"] == "take_over");
    assert_eq!(log.len(), 2);
}

#[test]
fn a_launcher_passes_on_that_another_machine_holds_the_run() {
    let (shared, _) = undisturbed();
    let output = shared.join("held");
    let place = Place::Path(output.clone());
    // Commits rarely, so that it lives until it is ended below.
    let mut holder = start(place.rank("a").args(["--set", "stages.representation.steps=100000"]));
    let since = Instant::now();
    while !output.join("heartbeat.json").exists() {
        assert!(since.elapsed() < Duration::from_secs(LIMIT_S) && holder.try_wait().unwrap().is_none());
        std::thread::sleep(Duration::from_millis(10));
    }
    for ranks in [1, 2] {
        let mut second = launch(&output, shared, ranks);
        second.args(["--set", "stages.representation.steps=100000", "--set", "cluster.restarts.max=3"]);
        second.env("BLIP2_TEST_BOOT_ID", "b").env("BLIP2_TEST_HEARTBEAT_MS", RHYTHM);
        let refused = run_within(120, &second);
        assert_refused(&format!("{ranks} ranks"), &refused);
        assert!(!all_output(&refused).contains("started again in"), "{}", all_output(&refused));
    }
    assert!(holder.try_wait().unwrap().is_none(), "the holder was disturbed");
    signal("-KILL", &holder);
    holder.wait().unwrap();
    assert_eq!(log(&output).iter().filter(|entry| entry["kind"] == "take_over").count(), 1);
}
