//! A run is cut off at every one of its writes in turn: its process is killed before the write, when it is done and not yet
//! answered, and in the middle; the next launch goes on from what is committed, and ends with the bits of a run that nothing
//! cut off. Two ranks as threads of one process, so that a cut ends both; files of several parts. On a path, and through
//! servers of the S3 and the Azure protocol.

#![allow(clippy::unwrap_used, clippy::print_stderr, reason = "a test stops at the first surprise and says what it saw")]

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};

use integration_tests::object_servers::ObjectServer;
use integration_tests::programs::{all_output, built};
use integration_tests::runs::{overrides, undisturbed};
use integration_tests::skip::tier_is_all;
use serde_json::Value;

/// Two checkpoints of each stage.
const SCHEDULE: &[&str] = &[
    "stages.representation.steps=6",
    "stages.representation.itm_start_step=2",
    "stages.representation.hard_negatives_start_step=4",
    "stages.generative.steps=4",
    "checkpoint.every_steps=3",
    "checkpoint.keep_last=1",
    "metrics.tensorboard=false",
];

/// Where runs lie.
struct Store<'s> {
    server: Option<&'s ObjectServer>,
    folder: PathBuf,
}

impl Store<'_> {
    fn uri(&self, name: &str) -> String {
        self.server.map_or_else(|| self.folder.join(name).display().to_string(), |server| server.uri(name))
    }

    fn program(&self, name: &str) -> Command {
        match self.server {
            Some(server) => server.command_through(server.address(), &built(name)),
            None => Command::new(built(name)),
        }
    }

    /// Trains, with the store disturbed by a plan.
    fn train(&self, name: &str, plan: Option<&str>) -> Output {
        let mut command = self.program("blip2-rank");
        command.args(["train", "preset:tiny", "--threads", "2"]);
        for set in overrides(Path::new(&self.uri(name)), &undisturbed().0) {
            command.args(["--set", &set]);
        }
        SCHEDULE.iter().for_each(|set| _ = command.args(["--set", set]));
        command.env("OMP_NUM_THREADS", "1").env("MKL_NUM_THREADS", "1");
        command.env("BLIP2_TEST_PART_BYTES", "40000").env("BLIP2_TEST_BACKOFF_MS", "10");
        if let Some(plan) = plan {
            command.env("BLIP2_TEST_STORE", plan);
        }
        command.stdin(Stdio::null()).output().unwrap()
    }

    /// sha256 of each file of the run's last checkpoint.
    fn trained(&self, name: &str) -> BTreeMap<String, String> {
        let mut command = self.program("blip2");
        let output = command.args(["checkpoints", "show", &self.uri(name), "--json"]).output().unwrap();
        assert!(output.status.success(), "{}", all_output(&output));
        let shown: Value = serde_json::from_slice(&output.stdout).unwrap();
        let manifest = &shown["manifest"];
        assert_eq!((manifest["stage"].as_str(), manifest["step"].as_u64()), (Some("generative"), Some(4)), "{name}");
        let files = manifest["files"].as_object().unwrap();
        files.iter().map(|(file, record)| (file.clone(), record["sha256"].as_str().unwrap().to_owned())).collect()
    }

    /// Every file that the run's log names is what it was, and nothing else lies in its stages.
    fn assert_is_clean(&self, name: &str, what: &str) {
        let json = |words: &[&str]| {
            let output = self.program("blip2").arg("checkpoints").args(words).arg("--json").output().unwrap();
            assert!(output.status.success(), "{what}: {}", all_output(&output));
            serde_json::from_slice::<Value>(&output.stdout).unwrap()
        };
        let uri = self.uri(name);
        assert_eq!(json(&["verify", &uri, "--all"])["ok"], true, "{what}");
        let list = json(&["list", &uri]);
        assert_eq!(list["unfinished"].as_array().map(Vec::len), Some(0), "{what}: {list}");
    }

    /// The changes of a run that nothing disturbs: kind and object.
    fn changes(&self) -> (Vec<String>, BTreeMap<String, String>) {
        let counted = self.folder.join("changes");
        let output = self.train("whole", Some(&format!("count:{}", counted.display())));
        assert!(output.status.success(), "{}", all_output(&output));
        let changes = fs::read_to_string(&counted).unwrap().lines().map(str::to_owned).collect();
        (changes, self.trained("whole"))
    }

    /// Cuts a run off at each of these changes, two runs at a time, and goes on. Gives the number of cuts that met something.
    fn cut(&self, points: &[usize], kinds: &[&str]) -> usize {
        let (changes, whole) = self.changes();
        let is_bytes = |change: &String| ["put", "create", "part"].iter().any(|kind| change.starts_with(kind));
        let cuts = points.iter().flat_map(|point| kinds.iter().map(move |kind| (*point, *kind)));
        // Nothing else has a half.
        let cuts: Vec<(usize, &str)> =
            cuts.filter(|(point, kind)| *kind != "half" || changes.get(point - 1).is_some_and(is_bytes)).collect();
        let (changes, whole, next, met) = (&changes, &whole, &AtomicUsize::new(0), &AtomicUsize::new(0));
        std::thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| {
                    while let Some((point, kind)) = cuts.get(next.fetch_add(1, Ordering::Relaxed)) {
                        met.fetch_add(usize::from(self.cut_at(*point, kind, changes, whole)), Ordering::Relaxed);
                    }
                });
            }
        });
        met.load(Ordering::Relaxed)
    }

    /// One cut. The heart beats when it beats, so that the last changes of a run may not come: false then.
    fn cut_at(&self, point: usize, kind: &str, changes: &[String], whole: &BTreeMap<String, String>) -> bool {
        let name = format!("cut-{point}-{kind}");
        let cut = self.train(&name, Some(&format!("cut:{point}:{kind}")));
        let planned = changes.get(point - 1).map_or("nothing", String::as_str);
        let what = format!("cut {kind} change {point} of {}, in a whole run {planned}", changes.len());
        if cut.status.signal() != Some(9) {
            assert!(cut.status.success(), "{what}: {}", all_output(&cut));
            return false;
        }
        let resumed = self.train(&name, None);
        assert!(resumed.status.success(), "{what}: {}", all_output(&resumed));
        assert_eq!(&self.trained(&name), whole, "{what}");
        if point.is_multiple_of(3) {
            self.assert_is_clean(&name, &what);
        }
        let _left = fs::remove_dir_all(self.folder.join(&name));
        true
    }
}

/// Every change, or about so many of them, spread out; another place each time that the number of changes differs.
fn points(of: usize, about: usize) -> Vec<usize> {
    let step = (of / about.max(1)).max(1);
    (1 + of % step..=of).step_by(step).collect()
}

fn in_folder(name: &str) -> PathBuf {
    let folder = undisturbed().0.join(name);
    fs::create_dir_all(&folder).unwrap();
    folder
}

#[test]
fn a_run_on_a_path_survives_a_cut_at_every_write() {
    let store = Store { server: None, folder: in_folder("path") };
    let changes = store.changes().0;
    for kind in ["put", "create", "part", "complete", "delete"] {
        assert!(changes.iter().any(|change| change.starts_with(kind)), "no {kind} among {changes:#?}");
    }
    let (points, kinds) = match tier_is_all() {
        true => (points(changes.len(), changes.len()), vec!["before", "after", "half"]),
        false => (points(changes.len(), 5), vec!["half", "after"]),
    };
    let cuts = store.cut(&points, &kinds);
    eprintln!("a path: {} changes in a run, cut off {cuts} times", changes.len());
    // Every kind met every place, but for a few at the end; `half` only where bytes are written.
    assert!(cuts >= points.len() * (kinds.len() - 1) * 9 / 10, "{cuts} cuts");
}

fn on_a_server(server: Option<ObjectServer>, name: &str) {
    let Some(server) = server else { return };
    let store = Store { server: Some(&server), folder: in_folder(name) };
    let changes = store.changes().0;
    let points = points(changes.len(), 20);
    let cuts = store.cut(&points, &["before", "after"]);
    eprintln!("{name}: {} changes in a run, cut off {cuts} times", changes.len());
    assert!(cuts >= points.len() * 2 * 9 / 10, "{cuts} cuts");
}

#[test]
fn a_run_on_s3_survives_cuts_at_its_writes() {
    on_a_server(ObjectServer::s3("a_run_on_s3_survives_cuts_at_its_writes"), "s3");
}

#[test]
fn a_run_on_azure_survives_cuts_at_its_writes() {
    on_a_server(ObjectServer::azure("a_run_on_azure_survives_cuts_at_its_writes"), "azure");
}

#[test]
fn lost_doubled_and_reordered_answers_change_nothing() {
    let store = Store { server: None, folder: in_folder("answers") };
    let whole = store.changes().1;
    let seeds = if tier_is_all() { 5 } else { 1 };
    for plan in ["lost", "twice", "shuffle"] {
        for seed in 1..=seeds {
            let name = format!("{plan}-{seed}");
            let output = store.train(&name, Some(&format!("{plan}:{seed}")));
            assert!(output.status.success(), "{name}: {}", all_output(&output));
            assert_eq!(store.trained(&name), whole, "{name}");
            store.assert_is_clean(&name, &name);
        }
    }
}
