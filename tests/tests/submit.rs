//! `blip2 submit` and `blip2 status` with stand-ins for SLURM's programs. The scripts are compared with those in
//! `golden/submit/`; `BLIP2_GOLDEN=write` writes them anew.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::path::{Path, PathBuf};
use std::process::Command;

use integration_tests::blip2::{stderr, stdout};
use integration_tests::stand_ins::StandIns;

const SET: [(&str, &[&str]); 5] = [
    ("cpu", &["cluster.ranks_per_node=1"]),
    (
        "nccl",
        &[
            "cluster.backend=nccl",
            "cluster.ranks_per_node=8",
            "cluster.threads_per_rank=8",
            "cluster.slurm.partition=gpu",
            "cluster.slurm.time_limit=3-00:00:00",
            "cluster.slurm.signal_before_end_s=300",
            "data.lanes=16",
            "stages[0].slices=16",
            "stages[1].slices=16",
        ],
    ),
    ("apptainer", &["cluster.ranks_per_node=1", "cluster.slurm.container=apptainer:/images/blip2.sif"]),
    ("pyxis", &["cluster.ranks_per_node=1", "cluster.slurm.container=pyxis:nvcr.io#nvidia/pytorch:25.10-py3"]),
    (
        "extra",
        &[
            "cluster.ranks_per_node=1",
            "cluster.slurm.extra=[--account=vision, --exclude=n7]",
            "cluster.slurm.setup=\"module load openmpi\\nexport OMP_PROC_BIND=true\"",
            "run.output=s3://bucket/runs/tiny",
        ],
    ),
];

fn site() -> StandIns {
    let site = StandIns::new();
    site.script("blip2-rank", "#!/bin/sh\n");
    site
}

fn submit(site: &StandIns, more: &[&str]) -> Command {
    let mut command = site.blip2(&["submit", "tiny", "--nodes", "2"]);
    command.args(more);
    command
}

/// The text with the hash in the names of a job's files left out: it changes with every new key of the configuration.
fn without_hash(text: &str) -> String {
    let mut parts = text.split("job-");
    let first = parts.next().unwrap().to_owned();
    let is_hash = |part: &str| part.len() > 12 && part.bytes().take(12).all(|byte| byte.is_ascii_hexdigit());
    parts.fold(first, |text, part| match is_hash(part) {
        true => format!("{text}job-@HASH@{}", &part[12..]),
        false => format!("{text}job-{part}"),
    })
}

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("golden/submit").join(format!("{name}.sbatch"))
}

#[test]
fn scripts_are_those_that_were_agreed_on() {
    for (name, values) in SET {
        let site = site();
        let mut command = submit(&site, &["--dry-run"]);
        for value in values {
            command.args(["--set", value]);
        }
        let output = command.output().unwrap();
        assert!(output.status.success(), "{name}: {}", stderr(&output));
        let found = without_hash(&site.anonymous(&stdout(&output)));
        if std::env::var("BLIP2_GOLDEN").is_ok_and(|what| what == "write") {
            std::fs::write(golden(name), &found).unwrap();
        }
        let expected = std::fs::read_to_string(golden(name)).unwrap_or_default();
        assert_eq!(found, expected, "{name}; look at the difference, then BLIP2_GOLDEN=write");
        assert!(Command::new("bash").args(["-n", golden(name).to_str().unwrap()]).status().unwrap().success());
        let made: Vec<_> = std::fs::read_dir(site.path()).unwrap().collect();
        assert_eq!(made.len(), 1, "a dry run wrote something: {made:?}");
    }
}

#[test]
fn a_job_is_submitted_with_a_copy_and_found_again() {
    let site = site();
    site.script("sbatch", "#!/bin/sh\necho \"$@\" >>sbatch-arguments\necho '17;here'\n");
    site.script(
        "scontrol",
        "#!/bin/sh\necho \"JobId=17 JobState=$(cat state) Reason=Priority Restarts=0 NodeList=(null)\"\n",
    );
    let config = std::fs::read_to_string(integration_tests::programs::checkout().join("configs/tiny.yaml")).unwrap();
    std::fs::write(site.path().join("mine.yaml"), config.replace("seed: 42", "seed: 43")).unwrap();
    let command =
        || site.blip2(&["submit", "mine.yaml", "--json", "--time", "90", "--set", "cluster.ranks_per_node=1"]);
    let output = command().output().unwrap();
    assert!(output.status.success(), "{}", stderr(&output));
    let note: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((note["job"].as_str(), note["cluster"].as_str()), (Some("17"), Some("here")));
    let script = std::fs::read_to_string(note["script"].as_str().unwrap()).unwrap();
    assert!(script.contains("#SBATCH --time=90\n") && script.contains(note["config"].as_str().unwrap()), "{script}");
    std::fs::write(site.path().join("mine.yaml"), "spoilt: true").unwrap();
    let copy = std::fs::read_to_string(note["config"].as_str().unwrap()).unwrap();
    assert!(copy.contains("seed: 43"), "{copy}");
    let arguments = std::fs::read_to_string(site.path().join("sbatch-arguments")).unwrap();
    assert_eq!(arguments.trim(), format!("--parsable {}", note["script"].as_str().unwrap()));

    std::fs::write(site.path().join("state"), "PENDING").unwrap();
    let status = |arguments: &[&str]| site.blip2(arguments).output().unwrap();
    let shown = status(&["status", "runs/tiny"]);
    assert!(
        stdout(&shown).contains("queued") && stdout(&shown).contains("17: PENDING, Priority"),
        "{}",
        stdout(&shown)
    );
    let json: serde_json::Value = serde_json::from_slice(&status(&["status", "tiny", "--json"]).stdout).unwrap();
    assert_eq!((json["state"].as_str(), json["job"]["job"].as_str()), (Some("queued"), Some("17")));

    std::fs::write(site.path().join("mine.yaml"), config).unwrap();
    let second = command().output().unwrap();
    assert_eq!(second.status.code(), Some(76), "{}", stderr(&second));
    assert!(stderr(&second).contains("scancel 17"), "{}", stderr(&second));
    std::fs::write(site.path().join("state"), "COMPLETED").unwrap();
    assert!(command().output().unwrap().status.success());
}

#[test]
fn what_is_wrong_is_said_before_anything_is_submitted() {
    let site = site();
    let lone = submit(&site, &["--set", "cluster.ranks_per_node=1"]).env("PATH", site.path()).output().unwrap();
    assert_eq!(lone.status.code(), Some(77), "{}", stderr(&lone));
    assert!(stderr(&lone).contains("found no sbatch on PATH"), "{}", stderr(&lone));
    site.script("sbatch", "#!/bin/sh\necho 'sbatch: error: invalid partition specified: gpu' >&2\nexit 1\n");
    for (arguments, code, part) in [
        (&["--set", "cluster.ranks_per_node=1"][..], 1, "invalid partition specified: gpu"),
        (&["--set", "cluster.ranks_per_node=8"], 2, "slices"),
        (&["--time", "tomorrow"], 2, "time_limit"),
        (&["--set", "cluster.slurm.container=blip2.sif"], 2, "apptainer:IMAGE"),
    ] {
        let output = submit(&site, arguments).output().unwrap();
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {}", stderr(&output));
        assert!(stderr(&output).contains(part), "{arguments:?}: {}", stderr(&output));
    }
    assert!(!site.path().join("runs/tiny/launch/slurm.json").exists());
    let nothing = site.blip2(&["status", "nowhere"]).output().unwrap();
    assert_eq!(nothing.status.code(), Some(2), "{}", stderr(&nothing));
    assert!(stderr(&nothing).contains("found nothing of a run"), "{}", stderr(&nothing));
}
