//! `blip2 doctor` passes a run that works, and finds faults that are really planted: each in a real file, limit, store, port or
//! program, and each with the fix named.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::any::Any;
use std::collections::BTreeMap;
use std::fs;
use std::io::{BufReader, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::{Arc, Mutex};

use integration_tests::blip2::stderr;
use integration_tests::broken::{Defect, defects, shard, without_footer};
use integration_tests::connections::Connections;
use integration_tests::http::{Message, read_message};
use integration_tests::programs::{all_output, built, run_within};
use integration_tests::runs::{overrides, undisturbed};
use integration_tests::skip::skip;
use integration_tests::stand_ins::StandIns;
use integration_tests::web::{Reply, Web};
use serde_json::Value;

/// Seconds for one look; a whole one promises two minutes.
const LIMIT_S: u32 = 120;
/// The configs' word for a file that is not there.
const NOWHERE: &str = "/nowhere/at/all";

/// A fault that is planted, and what has to be said of it.
struct Case {
    name: &'static str,
    /// The group that is looked at.
    only: &'static str,
    /// The check that finds it.
    check: &'static str,
    state: &'static str,
    /// What the finding must name.
    found: &'static str,
    /// What the fix must name.
    fix: &'static str,
    plant: fn(&Bench) -> Planted,
}

/// How `blip2 doctor` is started so that it meets the fault.
#[derive(Default)]
struct Planted {
    set: Vec<String>,
    env: Vec<(&'static str, String)>,
    /// A script that runs `"$@"` where the fault is; it ends with 99 where this machine does not allow it.
    inside: Option<String>,
    /// Whether the script needs a mount namespace of its own.
    mounts: bool,
    /// What lives as long as the look.
    kept: Option<Box<dyn Any>>,
}

impl Planted {
    fn set<const N: usize>(set: [String; N]) -> Self {
        Self { set: set.into(), ..Self::default() }
    }

    fn env(name: &'static str, value: impl Into<String>) -> Self {
        Self { env: vec![(name, value.into())], ..Self::default() }
    }

    fn keeping(mut self, kept: impl Any) -> Self {
        self.kept = Some(Box::new(kept));
        self
    }
}

/// A folder of a case's own, beside a run that works.
struct Bench {
    folder: tempfile::TempDir,
    shared: &'static Path,
}

/// What a look came to.
struct Looked {
    output: Output,
    checks: Vec<Value>,
}

impl Bench {
    fn new() -> Self {
        Self { folder: tempfile::tempdir().unwrap(), shared: &undisturbed().0 }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn text(&self, name: &str) -> String {
        self.path(name).display().to_string()
    }

    /// A copy of one of the run's own files.
    fn copy(&self, name: &str) -> PathBuf {
        let to = self.path(name);
        fs::copy(self.shared.join(name), &to).unwrap();
        to
    }

    /// The command that looks, not started yet.
    fn doctor(&self, planted: &Planted, more: &[&str]) -> Command {
        let mut words = vec![built("blip2").display().to_string()];
        words.extend(["doctor", "tiny", "--json"].map(str::to_owned));
        words.extend(more.iter().map(|word| (*word).to_owned()));
        for set in overrides(&self.path("run"), self.shared).iter().chain(&planted.set) {
            words.extend(["--set".to_owned(), set.clone()]);
        }
        let mut command = match (&planted.inside, planted.mounts) {
            (None, _) => Command::new(&words[0]),
            (Some(_), true) => {
                let mut command = Command::new("unshare");
                command.args(["--user", "--map-root-user", "--mount", "sh"]);
                command
            }
            (Some(_), false) => Command::new("sh"),
        };
        match &planted.inside {
            None => command.args(&words[1..]),
            Some(script) => command.args(["-c", script, "sh"]).args(&words),
        };
        command.current_dir(self.folder.path()).envs(planted.env.iter().map(|(name, value)| (name, value)));
        command
    }

    fn look(&self, planted: &Planted, more: &[&str]) -> Looked {
        let output = run_within(LIMIT_S, &self.doctor(planted, more));
        let answer: Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
        let checks = answer["checks"].as_array().cloned().unwrap_or_default();
        Looked { output, checks }
    }
}

impl Looked {
    fn check(&self, name: &str) -> &Value {
        let found = self.checks.iter().find(|check| check["name"] == name);
        found.unwrap_or_else(|| panic!("no check {name} in:\n{}", all_output(&self.output)))
    }
}

/// A parquet source at a folder, in place of the synthetic one, whose rows have captions of so many characters at least.
fn source(folder: &str, min_caption_chars: u64) -> String {
    format!(
        "data.sources=[{{name: photos, kind: parquet, uri: '{folder}', weight: 1.0, \
         filters: {{min_caption_chars: {min_caption_chars}}}}}]"
    )
}

/// What the ranks and the launcher need for the S3 of a test.
fn s3(address: &str) -> Vec<(&'static str, String)> {
    [
        ("AWS_ENDPOINT_URL", format!("http://{address}")),
        ("AWS_ACCESS_KEY_ID", "test".into()),
        ("AWS_SECRET_ACCESS_KEY", "test".into()),
        ("AWS_REGION", "us-east-1".into()),
        ("AWS_ALLOW_HTTP", "true".into()),
        ("AWS_DISABLE_BULK_DELETE", "true".into()),
        ("BLIP2_TEST_STORE_BUDGET_MS", "3000".into()),
    ]
    .into()
}

/// An S3 in memory whose clock is an hour behind.
fn late_store() -> Connections {
    let mut date = Command::new("date");
    date.args(["--utc", "--date=1 hour ago", "+%a, %d %b %Y %H:%M:%S GMT"]).env("LC_ALL", "C");
    let date = String::from_utf8(date.output().unwrap().stdout).unwrap().trim().to_owned();
    let objects: Arc<Mutex<BTreeMap<String, Vec<u8>>>> = Arc::default();
    Connections::serve(move |stream: TcpStream| {
        let mut writer = stream.try_clone()?;
        let mut reader = BufReader::new(stream);
        while let Some(request) = read_message(&mut reader, None)? {
            writer.write_all(&answer(&request, &mut objects.lock().unwrap(), &date))?;
        }
        Ok(())
    })
}

fn answer(request: &Message, objects: &mut BTreeMap<String, Vec<u8>>, date: &str) -> Vec<u8> {
    let (method, path) = request.target();
    let key = path.trim_start_matches("/bucket").trim_start_matches('/').to_owned();
    let (status, body) = match method {
        "PUT" if request.header("if-none-match").is_some() && objects.contains_key(&key) => ("412 x", Vec::new()),
        "PUT" => {
            objects.insert(key, request.body.clone());
            ("200 x", Vec::new())
        }
        "DELETE" => {
            objects.remove(&key);
            ("204 x", Vec::new())
        }
        _ if key.is_empty() => ("200 x", listing(request, objects)),
        _ => match objects.get(&key) {
            None => ("404 x", Vec::new()),
            Some(bytes) => match request.header("range").and_then(|range| part(range, bytes.len())) {
                None => ("200 x", bytes.clone()),
                Some((from, to)) => {
                    let head = format!(
                        "HTTP/1.1 206 x\r\nETag: \"e\"\r\nLast-Modified: {date}\r\nContent-Range: bytes {from}-{}/{}\r\nContent-Length: {}\r\n\r\n",
                        to - 1,
                        bytes.len(),
                        to - from
                    );
                    return [head.into_bytes(), bytes[from..to].to_vec()].concat();
                }
            },
        },
    };
    if status.starts_with("204") {
        return b"HTTP/1.1 204 x\r\n\r\n".to_vec();
    }
    let head =
        format!("HTTP/1.1 {status}\r\nETag: \"e\"\r\nLast-Modified: {date}\r\nContent-Length: {}\r\n\r\n", body.len());
    let body = if method == "HEAD" { Vec::new() } else { body };
    [head.into_bytes(), body].concat()
}

/// First byte and the one behind the last of `bytes=a-b`.
fn part(range: &str, len: usize) -> Option<(usize, usize)> {
    let (from, to) = range.strip_prefix("bytes=")?.split_once('-')?;
    Some((from.parse().ok()?, (to.parse::<usize>().ok()? + 1).min(len)))
}

fn listing(request: &Message, objects: &BTreeMap<String, Vec<u8>>) -> Vec<u8> {
    let query =
        request.start.split(' ').nth(1).and_then(|target| target.split_once('?')).map_or("", |(_, query)| query);
    let prefix = query.split('&').find_map(|pair| pair.strip_prefix("prefix=")).unwrap_or("").replace("%2F", "/");
    let found: Vec<_> = objects.iter().filter(|(key, _)| key.starts_with(&prefix)).collect();
    let contents: String = found
        .iter()
        .map(|(key, bytes)| {
            format!(
                "<Contents><Key>{key}</Key><LastModified>2026-01-01T00:00:00.000Z</LastModified><ETag>\"e\"</ETag>\
                 <Size>{}</Size></Contents>",
                bytes.len()
            )
        })
        .collect();
    format!(
        "<?xml version=\"1.0\"?><ListBucketResult><Name>bucket</Name><KeyCount>{}</KeyCount>\
         <IsTruncated>false</IsTruncated>{contents}</ListBucketResult>",
        found.len()
    )
    .into_bytes()
}

/// The faults.
const CASES: &[Case] = &[
    Case {
        name: "a hash that is not the file's",
        only: "weights",
        check: "weights.image_encoder",
        state: "failure",
        found: "has the sha256",
        fix: "correct `sha256`",
        plant: |_| Planted::set([format!("model.image_encoder.weights.sha256={}", "ab".repeat(32))]),
    },
    Case {
        name: "a missing file of weights",
        only: "weights",
        check: "weights.language_model",
        state: "failure",
        found: "there is no such file",
        fix: "weights.uri",
        plant: |_| {
            Planted::set([
                "model.language_model.pretrain=null".into(),
                format!("model.language_model.weights.uri={NOWHERE}.safetensors"),
            ])
        },
    },
    Case {
        name: "weights of another shape",
        only: "weights",
        check: "weights.image_encoder",
        state: "failure",
        found: "expected [",
        fix: "blip2 weights verify",
        plant: |_| Planted::set(["model.image_encoder.mlp_dim=128".into()]),
    },
    Case {
        name: "a safetensors file that is cut off",
        only: "weights",
        check: "weights.language_model",
        state: "failure",
        found: "language_model.safetensors",
        fix: "copy it again",
        plant: |bench| {
            let path = bench.copy("language_model.safetensors");
            let bytes = fs::read(&path).unwrap();
            fs::write(&path, &bytes[..bytes.len() / 2]).unwrap();
            Planted::set([format!("model.language_model.weights.uri={}", path.display())])
        },
    },
    Case {
        name: "a tokenizer that is none",
        only: "tokenizers",
        check: "tokenizer.qformer",
        state: "failure",
        found: "tokenizer.json",
        fix: "the tokenizer that belongs to the model",
        plant: |bench| {
            fs::write(bench.path("tokenizer.json"), "{ \"model\": 7").unwrap();
            Planted::set([format!("model.qformer.tokenizer={}", bench.text("tokenizer.json"))])
        },
    },
    Case {
        name: "a shard that cannot be read",
        only: "samples",
        check: "samples.photos",
        state: "failure",
        found: "00001.parquet",
        fix: "write the shard again",
        plant: |bench| {
            let good = shard(40, 20, |_| None);
            fs::create_dir(bench.path("shards")).unwrap();
            fs::write(bench.path("shards/00000.parquet"), &good).unwrap();
            fs::write(bench.path("shards/00001.parquet"), without_footer(&good)).unwrap();
            Planted::set([source(&bench.text("shards"), 1)])
        },
    },
    Case {
        name: "too many samples that cannot be used",
        only: "samples",
        check: "samples.photos",
        state: "failure",
        found: "truncated",
        fix: "data.loader.max_bad_fraction",
        plant: |bench| {
            let all = defects();
            let cut: &Defect = all.iter().find(|defect| defect.name == "truncated JPEG").unwrap();
            fs::create_dir(bench.path("shards")).unwrap();
            let bad = |row: usize| row.is_multiple_of(4).then_some(cut);
            fs::write(bench.path("shards/00000.parquet"), shard(40, 20, bad)).unwrap();
            Planted::set([source(&bench.text("shards"), 1)])
        },
    },
    Case {
        name: "filters that leave no row",
        only: "samples",
        check: "samples.photos",
        state: "failure",
        found: "caption_too_short: 40",
        fix: "loosen data.sources.photos.filters",
        plant: |bench| {
            fs::create_dir(bench.path("shards")).unwrap();
            fs::write(bench.path("shards/00000.parquet"), shard(40, 20, |_| None)).unwrap();
            Planted::set([source(&bench.text("shards"), 1000)])
        },
    },
    Case {
        name: "a source that is not there",
        only: "store",
        check: "store.photos",
        state: "failure",
        found: "no object there",
        fix: "check the URI",
        plant: |_| Planted::set([source(NOWHERE, 1)]),
    },
    Case {
        name: "credentials that have expired",
        only: "store",
        check: "store.output",
        state: "failure",
        found: "credentials that have expired",
        fix: "renew the credentials",
        plant: |_| {
            let said = "<Error><Code>ExpiredToken</Code><Message>The provided token has expired.</Message></Error>";
            let store = Web::serve("127.0.0.1", |_| Reply::Whole(400, Vec::new(), said.into()));
            let planted = Planted { env: s3(&store.host), ..Planted::set(["run.output=s3://bucket/run".into()]) };
            planted.keeping(store)
        },
    },
    Case {
        name: "credentials that are refused",
        only: "store",
        check: "store.output",
        state: "failure",
        found: "credentials that the store refuses",
        fix: "AWS_SECRET_ACCESS_KEY",
        plant: |_| {
            let said = "<Error><Code>SignatureDoesNotMatch</Code></Error>";
            let store = Web::serve("127.0.0.1", |_| Reply::Whole(403, Vec::new(), said.into()));
            let planted = Planted { env: s3(&store.host), ..Planted::set(["run.output=s3://bucket/run".into()]) };
            planted.keeping(store)
        },
    },
    Case {
        name: "a store that never answers",
        only: "store",
        check: "store.output",
        state: "failure",
        found: "no answer within 8 s",
        fix: "AWS_ENDPOINT_URL",
        plant: |_| {
            let store = Web::serve("127.0.0.1", |_| Reply::Hang);
            let planted = Planted { env: s3(&store.host), ..Planted::set(["run.output=s3://bucket/run".into()]) };
            // The tries would end before the check does.
            let is_budget = |name: &str| name == "BLIP2_TEST_STORE_BUDGET_MS";
            let env = planted.env.iter().filter(|(name, _)| !is_budget(name)).cloned().collect();
            Planted { env, ..planted }.keeping(store)
        },
    },
    Case {
        name: "a clock that is an hour off",
        only: "store",
        check: "clock",
        state: "failure",
        found: "s ahead of the store's",
        fix: "set this machine's clock",
        plant: |_| {
            let store = late_store();
            let env = s3(&store.address().to_string());
            Planted { env, ..Planted::set(["run.output=s3://bucket/run".into()]) }.keeping(store)
        },
    },
    Case {
        name: "an output that cannot be written to",
        only: "store",
        check: "store.output",
        state: "failure",
        found: "no rights on this path",
        fix: "rights of the folder",
        plant: |bench| {
            fs::write(bench.path("file"), "a file where a folder is to be").unwrap();
            Planted::set([format!("run.output={}", bench.text("file/run"))])
        },
    },
    Case {
        name: "a full disk",
        only: "space",
        check: "disk.output",
        state: "failure",
        found: "free at",
        fix: "free some space",
        plant: |bench| {
            fs::create_dir(bench.path("disk")).unwrap();
            let script = format!("mount -t tmpfs -o size=64k none '{}' || exit 99; exec \"$@\"", bench.text("disk"));
            let set = vec![format!("run.output={}", bench.text("disk/run"))];
            Planted { set, inside: Some(script), mounts: true, ..Planted::default() }
        },
    },
    Case {
        name: "tiny shared memory",
        only: "space",
        check: "shared_memory",
        state: "failure",
        found: "free",
        fix: "--shm-size",
        plant: |_| {
            let script = "mount -t tmpfs -o size=1m none /dev/shm || exit 99; exec \"$@\"";
            Planted { inside: Some(script.into()), mounts: true, ..Planted::default() }
        },
    },
    Case {
        name: "no folder for temporary files",
        only: "space",
        check: "disk.tmp",
        state: "failure",
        found: NOWHERE,
        fix: "TMPDIR",
        plant: |_| Planted::env("TMPDIR", NOWHERE),
    },
    Case {
        name: "a limit on open files",
        only: "limits",
        check: "limits.open_files",
        state: "failure",
        found: "64",
        fix: "ulimit -n",
        plant: |_| Planted { inside: Some("ulimit -n 64 || exit 99; exec \"$@\"".into()), ..Planted::default() },
    },
    Case {
        name: "a port that cannot be opened",
        only: "ports",
        check: "ports",
        state: "failure",
        found: "192.0.2.7",
        fix: "BLIP2_ADDRESS",
        // No host has this address (RFC 5737).
        plant: |_| Planted::env("BLIP2_ADDRESS", "192.0.2.7"),
    },
    Case {
        name: "a SLURM without PMIx, where mpirun takes its place",
        only: "pmix",
        check: "pmix",
        state: "warning",
        found: "has no PMIx",
        fix: "--launcher mpirun",
        plant: |_| {
            let programs = slurm_without_pmix();
            let planted = Planted::env("PATH", path_with(&programs));
            Planted { set: vec!["cluster.slurm.partition=gpu".into()], ..planted }
                .with_env("BLIP2_MPIRUN", "/bin/true")
                .keeping(programs)
        },
    },
    Case {
        name: "a SLURM without PMIx and no mpirun",
        only: "pmix",
        check: "pmix",
        state: "failure",
        found: "no mpirun can take its place",
        fix: "--mpi=pmix",
        plant: |_| {
            let programs = slurm_without_pmix();
            let planted = Planted::env("PATH", path_with(&programs));
            Planted { set: vec!["cluster.slurm.partition=gpu".into()], ..planted }
                .with_env("BLIP2_MPIRUN", NOWHERE)
                .keeping(programs)
        },
    },
    Case {
        name: "no GPUs",
        only: "gpus",
        check: "gpus",
        state: "failure",
        found: "0 GPUs (CUDA_VISIBLE_DEVICES)",
        fix: "cluster.backend=mpi",
        plant: |_| Planted { set: vec!["cluster.backend=nccl".into()], ..Planted::env("CUDA_VISIBLE_DEVICES", "-1") },
    },
    Case {
        name: "fewer GPUs than ranks",
        only: "gpus",
        check: "gpus",
        state: "failure",
        found: "1 GPUs (CUDA_VISIBLE_DEVICES)",
        fix: "cluster.ranks_per_node=1",
        plant: |_| Planted { set: vec!["cluster.backend=nccl".into()], ..Planted::env("CUDA_VISIBLE_DEVICES", "0") },
    },
    Case {
        name: "memory that is not there",
        only: "placement",
        check: "memory.loader",
        state: "failure",
        found: "free",
        fix: "data.loader.memory_mb",
        plant: |_| Planted::set(["data.loader.memory_mb=999999999".into()]),
    },
    Case {
        name: "a missing MPI library",
        only: "libraries",
        check: "mpi",
        state: "failure",
        found: NOWHERE,
        fix: "BLIP2_MPI_LIBRARY",
        plant: |_| Planted::env("BLIP2_MPI_LIBRARY", NOWHERE),
    },
    Case {
        name: "a missing mpirun",
        only: "ranks",
        check: "ranks",
        state: "failure",
        found: "BLIP2_MPIRUN",
        fix: "Open MPI",
        plant: |_| Planted::env("BLIP2_MPIRUN", NOWHERE),
    },
    Case {
        name: "a program of the ranks that does not start",
        only: "libraries",
        check: "rank_program",
        state: "failure",
        found: "libtorch_cpu.so is missing",
        fix: "make build",
        plant: |_| {
            let programs = StandIns::new();
            programs.script("blip2-rank", "#!/bin/sh\necho 'libtorch_cpu.so is missing' >&2\nexit 127\n");
            Planted::env("BLIP2_RANK", programs.path().join("blip2-rank").display().to_string()).keeping(programs)
        },
    },
    Case {
        name: "a rank that dies in its step",
        only: "step",
        check: "step",
        state: "failure",
        found: "CUDA out of memory",
        fix: "slices",
        plant: |_| {
            let programs = StandIns::new();
            programs.script("blip2-rank", "#!/bin/sh\necho 'error: CUDA out of memory. Tried 9 GiB' >&2\nexit 1\n");
            Planted::env("BLIP2_RANK", programs.path().join("blip2-rank").display().to_string()).keeping(programs)
        },
    },
];

impl Planted {
    fn with_env(mut self, name: &'static str, value: &str) -> Self {
        self.env.push((name, value.to_owned()));
        self
    }
}

/// An srun that knows another way to start MPI.
fn slurm_without_pmix() -> StandIns {
    let programs = StandIns::new();
    programs.script("srun", "#!/bin/sh\necho 'MPI plugin types are...' >&2\nprintf '\\tnone\\n\\tpmi2\\n' >&2\n");
    programs
}

fn path_with(programs: &StandIns) -> String {
    format!("{}:{}", programs.path().display(), std::env::var("PATH").unwrap())
}

/// Plants a fault, looks, and checks that it is found with its fix.
fn examine(case: &Case) {
    let bench = Bench::new();
    let planted = (case.plant)(&bench);
    let looked = bench.look(&planted, &["--samples", "50", "--only", case.only]);
    let code = looked.output.status.code();
    let refused = planted.mounts && stderr(&looked.output).contains("unshare");
    if planted.inside.is_some() && (code == Some(99) || refused) {
        return skip(&format!("doctor: {}", case.name), "this machine does not allow what plants the fault");
    }
    let check = looked.check(case.check);
    assert_eq!(check["state"], case.state, "{}: {check}", case.name);
    let [found, fix] = ["found", "fix"].map(|key| check[key].as_str().unwrap());
    assert!(found.contains(case.found), "{}: {:?} is missing in: {check}", case.name, case.found);
    assert!(fix.contains(case.fix), "{}: {:?} is missing in: {check}", case.name, case.fix);
    let expected = i32::from(case.state == "failure");
    assert_eq!(code, Some(expected), "{}: {}", case.name, all_output(&looked.output));
}

/// Looks at the cases of which the number leaves this rest; two tests share the cores of a small machine.
fn examine_half(rest: usize) {
    CASES.iter().skip(rest).step_by(2).for_each(examine);
}

#[test]
fn planted_faults_are_found_with_their_fix() {
    examine_half(0);
}

#[test]
fn more_planted_faults_are_found_with_their_fix() {
    examine_half(1);
}

#[test]
fn every_case_is_another_fault() {
    let names: std::collections::BTreeSet<&str> = CASES.iter().map(|case| case.name).collect();
    assert_eq!(names.len(), CASES.len());
    assert!(CASES.iter().filter(|case| case.state == "failure").count() >= 15);
}

#[test]
fn a_run_that_works_passes_and_nothing_of_it_is_touched() {
    let bench = Bench::new();
    let looked = bench.look(&Planted::default(), &["--samples", "50"]);
    assert_eq!(looked.output.status.code(), Some(0), "{}", all_output(&looked.output));
    let bad: Vec<&Value> = looked.checks.iter().filter(|check| check["state"] == "failure").collect();
    assert!(bad.is_empty(), "{bad:?}");
    let passed = [
        "configuration",
        "placement",
        "limits.open_files",
        "ports",
        "rank_program",
        "mpi",
        "store.output",
        "store.synthetic",
        "disk.output",
        "samples.synthetic",
        "weights.image_encoder",
        "weights.language_model",
        "tokenizer.qformer",
        "tokenizer.language_model",
        "output.run",
        "checkpoint",
        "ranks",
        "ports.ranks",
        "step.representation",
        "step.generative",
    ];
    for name in passed {
        // A busy machine may be slow, and says so.
        let is_fine = ["ok", "warning"].iter().any(|state| looked.check(name)["state"] == *state);
        assert!(is_fine, "{}", looked.check(name));
    }
    assert!(looked.check("bandwidth")["found"].as_str().unwrap().contains("GB/s"), "{}", looked.check("bandwidth"));
    assert!(looked.check("checkpoint")["found"].as_str().unwrap().contains("refused"));
    let left: Vec<_> = fs::read_dir(bench.path("run")).into_iter().flatten().flatten().map(|it| it.path()).collect();
    assert!(left.is_empty(), "{left:?}");
    // Progress goes to the other stream.
    assert!(stderr(&looked.output).contains("doctor: weights"), "{}", stderr(&looked.output));
}

#[test]
fn a_table_ends_with_failures_and_their_fix() {
    let bench = Bench::new();
    let planted = Planted::env("BLIP2_ADDRESS", "192.0.2.7");
    let mut command = bench.doctor(&planted, &["--only", "ports,placement"]);
    let words: Vec<String> = command.get_args().map(|word| word.to_string_lossy().into_owned()).collect();
    command = Command::new(built("blip2"));
    command.args(words.iter().filter(|word| *word != "--json")).current_dir(bench.folder.path());
    command.env("BLIP2_ADDRESS", "192.0.2.7");
    let output = run_within(LIMIT_S, &command);
    assert_eq!(output.status.code(), Some(1));
    let table = String::from_utf8_lossy(&output.stdout).into_owned();
    let (well, failed) = table.split_once("failure  ports").unwrap_or_else(|| panic!("{table}"));
    assert!(well.contains("ok       placement") && failed.contains("fix:      name an address"), "{table}");
    assert!(table.trim_end().ends_with("1 failures"), "{table}");
}

#[test]
fn a_wrong_configuration_is_told_with_code_2() {
    let bench = Bench::new();
    let looked = bench.look(&Planted::set(["run.seed=red".into()]), &[]);
    assert_eq!(looked.output.status.code(), Some(2), "{}", all_output(&looked.output));
    let check = looked.check("configuration");
    assert_eq!(check["state"], "failure");
    assert!(check["found"].as_str().unwrap().contains("run.seed"), "{check}");
    assert!(check["fix"].as_str().unwrap().contains("blip2 config check"), "{check}");
    let unknown = bench.look(&Planted::default(), &["--only", "moon"]);
    assert_eq!(unknown.output.status.code(), Some(2), "{}", all_output(&unknown.output));
}
