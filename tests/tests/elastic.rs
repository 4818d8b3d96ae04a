//! Checkpoints that other numbers of ranks go on from, that were damaged, that find the disk full or the store gone.

#![allow(clippy::unwrap_used, clippy::print_stderr, reason = "a test stops at the first surprise and says what it saw")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use integration_tests::blip2::blip2;
use integration_tests::gate::Gate;
use integration_tests::object_servers::ObjectServer;
use integration_tests::programs::{all_output, built, run_within};
use integration_tests::runs::{
    Victim, assert_same, drain, kill, last_checkpoints, launch, num_commits, overrides, trained, undisturbed,
    wait_for_commits,
};
use integration_tests::skip::skip;
use serde_json::Value;

/// Ranks of each launch; all but the last are killed.
const WORLDS: [usize; 5] = [4, 1, 3, 2, 4];

#[test]
fn a_run_goes_on_with_other_numbers_of_ranks() {
    let (shared, expected) = undisturbed();
    let output = shared.join("elastic");
    for (place, ranks) in WORLDS.iter().enumerate() {
        let mut command = launch(&output, shared, *ranks);
        // What --ranks is the most of.
        command.args(["--set", "cluster.ranks_per_node=4"]);
        if place + 1 == WORLDS.len() {
            let ended = run_within(300, &command);
            assert!(ended.status.success(), "{}", all_output(&ended));
            break;
        }
        // Each launch leaves at least one checkpoint more.
        let commits = num_commits(&output) + 1;
        let mut child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        let reader = drain(&mut child);
        wait_for_commits(&output, commits, &mut child);
        kill(Victim::Launcher, &child, &output);
        child.wait().unwrap();
        reader.join().unwrap();
    }
    assert_same("4, 1, 3, 2 and 4 ranks", &trained(&output), expected);
    assert_eq!(curve(&output), curve(&shared.join("one")), "one clean curve");
    let written = fs::read_dir(&last_checkpoints(&output)[&2]).unwrap().count();
    assert_eq!(written, 4 + 4 + 2, "each of 4 ranks writes two files; an index and a manifest");
}

/// Stage, step and losses of every report, as a reader of the launches' files one after the other has them who drops what a
/// later launch made again.
fn curve(run: &Path) -> Vec<(u64, u64, String)> {
    let mut files: Vec<PathBuf> =
        fs::read_dir(run.join("metrics")).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    let mut curve: Vec<(u64, u64, String)> = Vec::new();
    for line in
        files.iter().flat_map(|file| fs::read_to_string(file).unwrap().lines().map(str::to_owned).collect::<Vec<_>>())
    {
        // The last line of a killed launch may be torn.
        let Ok(line) = serde_json::from_str::<Value>(&line) else { continue };
        let place = |of: &Value| (of["stage_index"].as_u64().unwrap(), of["step"].as_u64().unwrap());
        if line["session_start"].is_object() {
            curve.retain(|(stage, step, _)| (*stage, *step) < place(&line["session_start"]));
        } else {
            let (stage, step) = place(&line);
            curve.push((stage, step, line["losses"].to_string()));
        }
    }
    curve
}

fn json(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {}", all_output(output)))
}

fn copy(from: &Path, to: &Path) {
    let copied = Command::new("cp").arg("-a").arg(from).arg(to).status().unwrap();
    assert!(copied.success());
}

#[test]
fn a_changed_byte_in_any_file_is_named_and_costs_one_checkpoint() {
    let (shared, expected) = undisturbed();
    let whole = shared.join("two-ranks");
    let ended = run_within(300, &launch(&whole, shared, 2));
    assert!(ended.status.success(), "{}", all_output(&ended));
    let newest = last_checkpoints(&whole)[&2].clone();
    let mut files: Vec<String> =
        fs::read_dir(&newest).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    files.sort();
    assert_eq!(files.len(), 6, "{files:?}");
    for file in &files {
        let output = shared.join(format!("damaged-{file}"));
        copy(&whole, &output);
        let damaged = output.join(newest.strip_prefix(&whole).unwrap()).join(file);
        let mut bytes = fs::read(&damaged).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 0x10;
        fs::write(&damaged, bytes).unwrap();
        let uri = output.display().to_string();

        let verified = blip2(&["checkpoints", "verify", &uri, "--json"]);
        assert_eq!(verified.status.code(), Some(1), "{}", all_output(&verified));
        let found = json(&verified);
        let problems = found["checkpoints"][0]["problems"].to_string();
        assert!(found["ok"] == false && problems.contains(file.as_str()), "{found}");

        let resumed = run_within(300, &launch(&output, shared, 2));
        let said = all_output(&resumed);
        assert!(resumed.status.success(), "{said}");
        assert!(said.contains("passed over") && said.contains(file.as_str()) && said.contains("sha256"), "{said}");
        assert_same(file, &trained(&output), expected);
        assert_eq!(curve(&output), curve(&shared.join("one")), "one clean curve, {file}");
        let list = json(&blip2(&["checkpoints", "list", &uri, "--json"]));
        let states: Vec<&str> =
            list["checkpoints"].as_array().unwrap().iter().filter_map(|row| row["state"].as_str()).collect();
        assert_eq!(states.iter().filter(|state| **state == "quarantined").count(), 1, "{list}");
        assert!(damaged.exists(), "what is in quarantine stays");
        let pruned = json(&blip2(&["checkpoints", "prune", &uri, "--quarantined", "--json"]));
        assert!(pruned["deleted"].to_string().contains(newest.file_name().unwrap().to_str().unwrap()), "{pruned}");
        assert!(!damaged.exists());
        let verified = blip2(&["checkpoints", "verify", &uri, "--all", "--json"]);
        assert!(verified.status.success(), "{}", all_output(&verified));
    }
}

/// A rank by itself that trains the small run, slowly enough to be disturbed in the middle.
fn rank(output: &str) -> Command {
    let mut command = Command::new(built("blip2-rank"));
    slow(&mut command, output);
    command
}

fn slow(command: &mut Command, output: &str) {
    command.args(["train", "preset:tiny"]);
    for set in overrides(Path::new(output), &undisturbed().0) {
        command.args(["--set", &set]);
    }
    command.env("OMP_NUM_THREADS", "1").env("MKL_NUM_THREADS", "1");
    command.env("BLIP2_TEST_FAULT", "slow-100:0:1").env("BLIP2_TEST_BACKOFF_MS", "100");
    command.stdin(Stdio::null());
}

#[test]
fn a_store_that_is_gone_for_a_while_is_waited_for() {
    let (shared, expected) = undisturbed();
    for (kind, words) in [("down", "warning"), ("full", "No space left")] {
        // On a busy machine a run may not have come to its first checkpoint when the store is back: then it is gone later.
        let met = [1, 2, 4, 8].into_iter().any(|times| {
            let plan = format!("{kind}:{}:{}", 2000 * times, 3500 * times);
            let output = shared.join(plan.replace(':', "-"));
            let ended = rank(&output.display().to_string()).env("BLIP2_TEST_STORE", &plan).output().unwrap();
            let said = all_output(&ended);
            assert!(ended.status.success(), "{plan}: {said}");
            assert_same(&plan, &trained(&output), expected);
            let warned = said.contains("warning: ");
            assert!(!warned || said.contains(words) && said.contains("works again after"), "{plan}: {said}");
            warned
        });
        assert!(met, "{kind}: no run met the store while it was gone");
    }
}

/// A file system of its own that is full until the run has said so.
#[test]
fn a_disk_that_is_full_is_waited_for() {
    let (shared, expected) = undisturbed();
    let (disk, output) = (shared.join("disk"), shared.join("from-the-disk"));
    fs::create_dir_all(&disk).unwrap();
    let command = rank(&disk.join("run").display().to_string());
    let words: Vec<String> =
        command.get_args().map(|word| format!("'{}'", word.to_str().unwrap().replace('\'', r"'\''"))).collect();
    let script = format!(
        "set -e; mount -t tmpfs -o size=4m tmpfs '{disk}'; ({program} {words} 2>'{said}' >/dev/null; echo $? >'{code}') & \
         until ls '{disk}'/run/log/00000001.json >/dev/null 2>&1; do sleep 0.02; done; \
         cat /dev/zero >'{disk}/filler' 2>/dev/null || true; \
         until grep -q 'No space left' '{said}' || [ -e '{code}' ]; do sleep 0.05; done; sleep 0.5; \
         df '{disk}' | tail -1 >&2; rm '{disk}/filler'; wait; cp -r '{disk}/run' '{output}'",
        disk = disk.display(),
        program = built("blip2-rank").display(),
        words = words.join(" "),
        said = shared.join("disk.said").display(),
        code = shared.join("disk.code").display(),
        output = output.display(),
    );
    let mut unshare = Command::new("unshare");
    unshare.args(["--user", "--map-root-user", "--mount", "true"]);
    if !unshare.output().is_ok_and(|tried| tried.status.success()) {
        return skip("a_disk_that_is_full_is_waited_for", "no user namespaces here");
    }
    let mut unshare = Command::new("unshare");
    unshare.args(["--user", "--map-root-user", "--mount", "sh", "-c", &script]).stdin(Stdio::null());
    for (name, value) in command.get_envs() {
        unshare.env(name, value.unwrap());
    }
    let ended = run_within(120, &unshare);
    let said = fs::read_to_string(shared.join("disk.said")).unwrap_or_default();
    let code = fs::read_to_string(shared.join("disk.code")).unwrap_or_default();
    assert!(ended.status.success() && code.trim() == "0", "{code} {said} {}", all_output(&ended));
    assert!(said.contains("No space left") && said.contains("works again after"), "{said}");
    assert_same("a full disk", &trained(&output), expected);
    let metrics: Vec<PathBuf> = fs::read_dir(output.join("metrics")).unwrap().map(|it| it.unwrap().path()).collect();
    let lines = fs::read_to_string(&metrics[0]).unwrap();
    assert_eq!(lines.lines().filter(|line| line.contains("\"losses\"")).count(), 11, "every report is there: {lines}");
}

/// The client's own tries, a minute else, end soon here.
#[test]
fn an_s3_server_that_is_gone_is_waited_for() {
    let Some(server) = ObjectServer::s3("an_s3_server_that_is_gone_is_waited_for") else { return };
    let (shared, expected) = undisturbed();
    let gate = Gate::start(server.address(), 4);
    let uri = server.uri("outage");
    let said = shared.join("outage.said");
    let mut command = server.command_through(gate.address(), &built("blip2-rank"));
    slow(&mut command, &uri);
    command.env("BLIP2_TEST_PART_BYTES", "40000").env("BLIP2_TEST_STORE_BUDGET_MS", "500");
    let mut child = command.stdout(Stdio::null()).stderr(fs::File::create(&said).unwrap()).spawn().unwrap();
    let since = Instant::now();
    while !fs::read_to_string(&said).unwrap().contains("warning: ") {
        assert!(child.try_wait().unwrap().is_none(), "{}", fs::read_to_string(&said).unwrap());
        assert!(since.elapsed() < Duration::from_secs(240), "no warning within 240 s");
        std::thread::sleep(Duration::from_millis(200));
    }
    std::thread::sleep(Duration::from_secs(5));
    gate.open();
    let code = child.wait().unwrap();
    let text = fs::read_to_string(&said).unwrap();
    assert!(code.success() && text.contains("works again after"), "{text}");
    let fetched = shared.join("outage-fetched");
    let deliver = built("examples/deliver");
    let done = server.run(&deliver, &["fetch", &uri, &fetched.display().to_string()]);
    assert!(done.status.success(), "{}", all_output(&done));
    assert_same("an outage", &trained(&fetched), expected);
}
