//! The gate that keeps the rooms of the house apart: who may depend on whom, what lies at the top, what no file says.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::process::Command;

use integration_tests::programs::{all_output, checkout};
use integration_tests::skip::skip;
use serde_json::Value;

/// Each room and the rooms it may use, as in docs/tour.md. Tests may use everything.
const MAY_USE: [(&str, &[&str]); 8] = [
    ("configs", &[]),
    ("cluster", &["nccl-rs"]),
    ("nccl-rs", &[]),
    ("cluster-mpi", &[]),
    ("data-pipeline", &["configs"]),
    ("launcher", &["configs", "data-pipeline", "scores"]),
    ("scores", &[]),
    ("trainer", &["cluster", "configs", "data-pipeline", "scores"]),
];

/// Third-party crates that only these rooms may reach, directly or through others.
const RESERVED: [(&str, &[&str]); 3] = [("torch-sys", &["trainer"]), ("tch", &["trainer"]), ("mpi", &["cluster-mpi"])];

/// What may lie at the top of the repository, besides dot-files.
const TOP: [&str; 13] = [
    "CHANGELOG.md",
    "Cargo.lock",
    "Cargo.toml",
    "LICENSE",
    "Makefile",
    "README.md",
    "cluster",
    "configs",
    "data-pipeline",
    "docs",
    "launcher",
    "tests",
    "trainer",
];

/// The packages by name with the names of what they use outside of tests, dependencies of dependencies included.
struct Graph {
    direct: BTreeMap<String, BTreeSet<String>>,
}

/// The triple of this machine: packages for others need not be on the disk.
fn host() -> String {
    let output = Command::new("rustc").arg("-vV").output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    text.lines().find_map(|line| line.strip_prefix("host: ")).unwrap().to_owned()
}

impl Graph {
    fn read() -> Self {
        let output = Command::new(env!("CARGO"))
            .args([
                "metadata",
                "--format-version",
                "1",
                "--offline",
                "--locked",
                "--filter-platform",
                &host(),
                "--manifest-path",
            ])
            .arg(checkout().join("Cargo.toml"))
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", all_output(&output));
        let found: Value = serde_json::from_slice(&output.stdout).unwrap();
        let names: HashMap<&str, &str> = found["packages"]
            .as_array()
            .unwrap()
            .iter()
            .map(|package| (package["id"].as_str().unwrap(), package["name"].as_str().unwrap()))
            .collect();
        let mut direct: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        for node in found["resolve"]["nodes"].as_array().unwrap() {
            let used = node["deps"].as_array().unwrap().iter().filter(|dependency| {
                dependency["dep_kinds"].as_array().unwrap().iter().any(|kind| kind["kind"] != "dev")
            });
            let used = used.map(|dependency| names[dependency["pkg"].as_str().unwrap()].to_owned());
            direct.entry(names[node["id"].as_str().unwrap()].to_owned()).or_default().extend(used);
        }
        Self { direct }
    }

    fn reachable(&self, from: &str) -> BTreeSet<String> {
        let (mut seen, mut open) = (BTreeSet::new(), vec![from.to_owned()]);
        while let Some(name) = open.pop() {
            for used in &self.direct[&name] {
                if seen.insert(used.clone()) {
                    open.push(used.clone());
                }
            }
        }
        seen
    }

    /// Every rule that is broken.
    fn violations(&self) -> Vec<String> {
        let mut broken = Vec::new();
        for (room, allowed) in MAY_USE {
            for used in self.direct[room].iter().filter(|used| MAY_USE.iter().any(|(ours, _)| ours == used)) {
                if !allowed.contains(&used.as_str()) {
                    broken.push(format!("{room} uses {used}; it may use {allowed:?}"));
                }
            }
            let reachable = self.reachable(room);
            for (krate, rooms) in RESERVED {
                if reachable.contains(krate) && !rooms.contains(&room) {
                    broken.push(format!("{room} reaches {krate}, which is for {rooms:?} alone"));
                }
            }
        }
        broken
    }
}

#[test]
fn dependencies_point_the_right_way() {
    assert_eq!(Graph::read().violations(), Vec::<String>::new());
}

#[test]
fn the_gate_sees_a_wrong_arrow() {
    let mut graph = Graph::read();
    graph.direct.get_mut("data-pipeline").unwrap().insert("trainer".into());
    let broken = graph.violations().join("\n");
    assert!(broken.contains("data-pipeline uses trainer"), "{broken}");
    assert!(broken.contains("launcher reaches torch-sys"), "{broken}");
}

/// The tracked files; `None`, said aloud, when this is no git checkout.
fn tracked(test: &str) -> Option<Vec<String>> {
    let listed = Command::new("git").arg("-C").arg(checkout()).args(["ls-files", "-z"]).output();
    match listed {
        Ok(output) if output.status.success() => {
            let text = String::from_utf8(output.stdout).unwrap();
            Some(text.split('\0').filter(|name| !name.is_empty()).map(str::to_owned).collect())
        }
        _ => {
            skip(test, "not a git checkout");
            None
        }
    }
}

#[test]
fn the_top_level_is_that_of_the_design() {
    let Some(files) = tracked("the_top_level_is_that_of_the_design") else { return };
    let top: BTreeSet<&str> =
        files.iter().map(|f| f.split('/').next().unwrap()).filter(|f| !f.starts_with('.')).collect();
    let allowed: BTreeSet<&str> = TOP.into_iter().collect();
    assert_eq!(top.difference(&allowed).collect::<Vec<_>>(), Vec::<&&str>::new());
}

#[test]
fn no_file_names_a_machine_or_a_registry_host() {
    let Some(files) = tracked("no_file_names_a_machine_or_a_registry_host") else { return };
    // Put together here, so that this file does not hold them itself.
    let forbidden = [
        ["/ro", "ot/"],
        ["/wo", "rk/"],
        ["pypi", ".org"],
        ["pythonhosted", ".org"],
        ["npmjs", ".org"],
        ["arti", "factory"],
    ];
    let mut found = Vec::new();
    for file in files.iter().filter(|file| !file.starts_with("tests/fixtures/") && *file != "Cargo.lock") {
        let Ok(text) = std::fs::read_to_string(checkout().join(file)) else { continue };
        found.extend(
            forbidden
                .iter()
                .map(|parts| parts.concat())
                .filter(|word| text.contains(word))
                .map(|word| format!("{file}: {word}")),
        );
    }
    assert_eq!(found, Vec::<String>::new());
}
