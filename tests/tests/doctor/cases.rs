//! The faults: how each is planted, which check must find it, and what its fix must name.

use std::fs;

use integration_tests::broken::{Defect, defects, shard, without_footer};
use integration_tests::stand_ins::StandIns;
use integration_tests::web::{Reply, Web};

use crate::bench::{Bench, Planted};
use crate::late_store::{late_store, s3};

/// The configs' word for a file that is not there.
const NOWHERE: &str = "/nowhere/at/all";

/// A fault that is planted, and what has to be said of it.
pub struct Case {
    pub name: &'static str,
    /// The group that is looked at.
    pub only: &'static str,
    /// The check that finds it.
    pub check: &'static str,
    pub state: &'static str,
    /// What the finding must name.
    pub found: &'static str,
    /// What the fix must name.
    pub fix: &'static str,
    pub plant: fn(&Bench) -> Planted,
}

/// A parquet source at a folder, in place of the synthetic one, whose rows have captions of so many characters at
/// least.
fn source(folder: &str, min_caption_chars: u64) -> String {
    format!(
        "data.sources=[{{name: photos, kind: parquet, uri: '{folder}', weight: 1.0, \
         filters: {{min_caption_chars: {min_caption_chars}}}}}]"
    )
}

/// An srun that knows another way to start MPI.
fn slurm_without_pmix() -> StandIns {
    let programs = StandIns::new();
    programs.script("srun", "#!/bin/sh\necho 'MPI plugin types are...' >&2\nprintf '\\tnone\\n\\tpmi2\\n' >&2\n");
    programs
}

/// The folders of programs, these first.
pub fn path_with(programs: &StandIns) -> String {
    format!("{}:{}", programs.path().display(), std::env::var("PATH").unwrap())
}

/// The faults.
pub const CASES: &[Case] = &[
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
