//! Several hosts through mpirun, the hosts being network namespaces (`hosts/network`).

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use integration_tests::blip2::stderr;
use integration_tests::programs::{all_output, built, run_within};
use integration_tests::runs::{assert_same, launch, overrides, trained};
use integration_tests::skip::{skip, tier_is_all};

/// Start, 24 and 12 steps, and end take about 15 s; a slow machine under load gets many times that.
const LIMIT_S: u32 = 300;

fn network() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("hosts/network")
}

/// Whether this machine can play several; says so aloud where it cannot.
fn possible(test: &str) -> bool {
    if !tier_is_all() {
        skip(test, "takes a minute; run `make test-all`");
        return false;
    }
    let tried = Command::new(network()).args(["2", "true"]).output();
    let works = tried.as_ref().is_ok_and(|output| output.status.success());
    if !works {
        let why = tried.map_or_else(|error| error.to_string(), |output| stderr(&output).trim().to_owned());
        skip(test, &format!("needs unshare, ip (iproute2) and leave to make network namespaces: {why}"));
    }
    works
}

/// `blip2 launch` of a small run, on a machine with two other hosts. `script` runs there, with the command as its arguments.
fn command_on_hosts(hosts: &str, script: &str, output: &Path, shared: &Path) -> Command {
    let mut command = Command::new(network());
    command.args(["2", "sh", "-c", script, "sh"]).arg(built("blip2")).args(["launch", "tiny", "--hosts", hosts]);
    for set in overrides(output, shared) {
        command.args(["--set", &set]);
    }
    command
}

fn on_hosts(hosts: &str, script: &str, output: &Path, shared: &Path) -> Output {
    run_within(LIMIT_S, &command_on_hosts(hosts, script, output, shared))
}

const LAUNCH: &str = "BLIP2_RSH=$HOSTS_DIR/on exec \"$@\"";

#[test]
fn two_hosts_train_the_same_bits_as_one() {
    if !possible("two_hosts_train_the_same_bits_as_one") {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let (one, two) = (folder.path().join("one"), folder.path().join("two"));
    let here = run_within(LIMIT_S, &launch(&one, folder.path(), 1));
    assert!(here.status.success(), "{}", all_output(&here));
    let there = on_hosts("h1:1,h2:1", LAUNCH, &two, folder.path());
    assert!(there.status.success(), "{}", all_output(&there));
    assert_same("two hosts", &trained(&two), &trained(&one));
}

/// Parts h2 from the others once the first checkpoint is committed, for eight seconds.
const PARTED: &str = r#"
BLIP2_RSH=$HOSTS_DIR/on "$@" &
launcher=$!
until ls "$OUTPUT"/log/*.json 2>/dev/null | grep -q 00000001; do kill -0 $launcher || exit 99; sleep 0.05; done
ip -n h2 link set eth0 down
sleep 8
ip -n h2 link set eth0 up
wait $launcher
"#;

#[test]
fn a_host_that_is_cut_off_is_named_and_the_run_goes_on() {
    if !possible("a_host_that_is_cut_off_is_named_and_the_run_goes_on") {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let (one, two) = (folder.path().join("one"), folder.path().join("two"));
    let here = run_within(LIMIT_S, &launch(&one, folder.path(), 1));
    assert!(here.status.success(), "{}", all_output(&here));
    let more = ["cluster.restarts.max=10", "cluster.timeouts_s.silence=3", "cluster.timeouts_s.start=30"];
    let mut command = command_on_hosts("h1:1,h2:1", PARTED, &two, folder.path());
    command.args(more.iter().flat_map(|set| ["--set", set])).env("OUTPUT", &two);
    let there = run_within(LIMIT_S, &command);
    assert!(there.status.success(), "{}", all_output(&there));
    assert!(stderr(&there).contains("on h2"), "{}", stderr(&there));
    assert_same("a host that was cut off", &trained(&two), &trained(&one));
}

#[test]
fn a_host_that_is_not_there_is_named_before_ranks_start() {
    if !possible("a_host_that_is_not_there_is_named_before_ranks_start") {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let output = on_hosts("h1:1,h7:1", LAUNCH, &folder.path().join("run"), folder.path());
    assert_eq!(output.status.code(), Some(77), "{}", all_output(&output));
    assert!(stderr(&output).contains("h7: the host does not answer"), "{}", stderr(&output));
    assert!(!folder.path().join("run/log").exists());
}
