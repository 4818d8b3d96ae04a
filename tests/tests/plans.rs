//! What `blip2 launch --dry-run` would start, and what it refuses, in every environment. The programs are stand-ins.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use integration_tests::blip2::{stderr, stdout};
use integration_tests::stand_ins::StandIns;

const OPEN_MPI: &str = "#!/bin/sh\n[ \"$1\" = --version ] && echo 'mpirun (Open MPI) 5.0.11'\n";
const MPICH: &str = "#!/bin/sh\n[ \"$1\" = --version ] && echo 'HYDRA build details:'\n";
/// Starts two ranks that meet.
const SRUN: &str =
    "#!/bin/sh\n[ \"$1\" = --mpi=list ] && { echo none pmix pmix_v4; exit; }\necho '{\"ranks\":[{},{}]}'\n";
/// Knows PMIx, and another one than the MPI piece.
const SRUN_FAILS: &str = "#!/bin/sh\n[ \"$1\" = --mpi=list ] && { echo none pmix; exit; }\necho 'srun: error: PMIx server is too old' >&2\nexit 14\n";
const SRUN_WITHOUT_PMIX: &str = "#!/bin/sh\necho MPI plugin types are none pmi2\n";

/// A batch script on two nodes of one CPU.
const JOB: [(&str, &str); 3] =
    [("SLURM_JOB_ID", "17"), ("SLURM_JOB_NUM_NODES", "2"), ("SLURM_JOB_CPUS_PER_NODE", "1(x2)")];

struct Site<'a> {
    mpirun: Option<&'a str>,
    srun: Option<&'a str>,
    variables: &'a [(&'a str, &'a str)],
}

impl Site<'_> {
    /// The command that a dry run prints, with what it says before, or the error with its exit code.
    fn plan(&self, arguments: &[&str]) -> String {
        let stand_ins = StandIns::new();
        stand_ins.script("blip2-rank", "#!/bin/sh\n");
        let mut command = stand_ins.blip2(&["launch", "tiny", "--dry-run"]);
        command.args(["--set", "data.sources[0].scenes=200"]).args(arguments);
        for (name, text) in [("mpirun", self.mpirun), ("srun", self.srun)] {
            text.iter().for_each(|text| stand_ins.script(name, text));
        }
        // The checkout's own mpirun would be found first.
        command.env("BLIP2_MPIRUN", stand_ins.path().join("mpirun")).envs(self.variables.iter().copied());
        let output = command.output().unwrap();
        if output.status.success() {
            let shown = stand_ins.anonymous(&stdout(&output));
            let kept =
                |line: &&str| line.starts_with("# mpirun") || !(line.starts_with('#') || line.starts_with("export"));
            let lines: Vec<&str> = shown.lines().filter(kept).collect();
            return lines.join("\n").split(" train ").next().unwrap().to_owned();
        }
        stand_ins.anonymous(&format!("{}: {}", output.status.code().unwrap(), stderr(&output)))
    }
}

const HANDED_ON: &str = "-x BLIP2_PID_DIR -x MALLOC_MMAP_MAX_ -x MALLOC_TOP_PAD_ -x MALLOC_TRIM_THRESHOLD_ -x MKL_NUM_THREADS -x \
                         OMP_NUM_THREADS -x ONEDNN_PRIMITIVE_CACHE_CAPACITY";

fn set<'a>(values: &[&'a str]) -> Vec<&'a str> {
    values.iter().flat_map(|value| ["--set", value]).collect()
}

#[test]
fn one_host() {
    let site = Site { mpirun: Some(OPEN_MPI), srun: None, variables: &[] };
    assert_eq!(site.plan(&["--ranks", "1"]), "@HERE@/blip2-rank");
    assert_eq!(site.plan(&[]), "@HERE@/mpirun -n 2 --oversubscribe --bind-to none @HERE@/blip2-rank");
    assert_eq!(Site { mpirun: Some(MPICH), ..site }.plan(&[]), "@HERE@/mpirun -n 2 @HERE@/blip2-rank");
}

#[test]
fn hosts_that_are_named() {
    let variables = [("AWS_SECRET_ACCESS_KEY", "secret"), ("HOME", "/root")];
    let site = Site { mpirun: Some(OPEN_MPI), srun: None, variables: &variables };
    let expected = format!(
        "@HERE@/mpirun -n 2 --host n1:1,n2:1 --map-by slot --bind-to none -x AWS_SECRET_ACCESS_KEY {HANDED_ON} @HERE@/blip2-rank"
    );
    assert_eq!(site.plan(&["--hosts", "n1:1,n2:1"]), expected);
    let mpich = Site { mpirun: Some(MPICH), variables: &[("BLIP2_RSH", "rsh -x")], ..site };
    let planned = mpich.plan(&["--hosts", "n1:1,n2:1"]);
    assert!(
        planned.starts_with("@HERE@/mpirun -n 2 -hosts n1:1,n2:1 -launcher ssh -launcher-exec 'rsh -x' -genvlist "),
        "{planned}"
    );
    // This host alone needs neither agent nor names.
    assert!(site.plan(&["--hosts", "localhost:2"]).contains("mpirun -n 2 --oversubscribe"));
}

#[test]
fn allocations() {
    let site = Site { mpirun: Some(OPEN_MPI), srun: Some(SRUN), variables: &JOB };
    let two = set(&["cluster.nodes=2", "cluster.ranks_per_node=1"]);
    let srun = "@HERE@/srun --mpi=pmix --nodes=2 --ntasks=2 --ntasks-per-node=1 --cpus-per-task=1 --kill-on-bad-exit=1 \
                --export=ALL --unbuffered --input=0 @HERE@/blip2-rank";
    assert_eq!(site.plan(&two), srun);
    assert_eq!(site.plan(&[&two[..], &["--launcher", "srun"]].concat()), srun);
    let mpirun =
        format!("@HERE@/mpirun -n 2 --map-by ppr:1:node --bind-to none --oversubscribe {HANDED_ON} @HERE@/blip2-rank");
    let planned = site.plan(&[&two[..], &["--launcher", "mpirun"]].concat());
    assert!(planned.ends_with(&mpirun), "{planned}");
    for (srun, why) in [(SRUN_FAILS, "PMIx server is too old"), (SRUN_WITHOUT_PMIX, "this SLURM has no PMIx")] {
        let planned = Site { srun: Some(srun), ..site }.plan(&two);
        assert!(planned.starts_with("# mpirun starts the ranks, not srun: "), "{planned}");
        assert!(planned.contains(why) && planned.ends_with(&mpirun), "{planned}");
    }
    // One rank needs neither; two ranks for one CPU share it.
    assert_eq!(site.plan(&["--ranks", "1"]), "@HERE@/blip2-rank");
    assert!(site.plan(&[]).contains(" --nodes=1 --ntasks=2 --ntasks-per-node=2 --overcommit "), "{}", site.plan(&[]));
    assert!(site.plan(&["--launcher", "local"]).contains("mpirun -n 2 --oversubscribe --bind-to none @HERE@"));
    // In a step, srun's nodes are taken already.
    let step = [&JOB[..], &[("SLURM_STEP_ID", "0"), ("SLURM_STEP_NUM_TASKS", "1")]].concat();
    assert!(Site { variables: &step, ..site }.plan(&[]).contains("mpirun -n 2 --oversubscribe"));
}

#[test]
fn ranks_are_bound_where_cores_suffice() {
    if std::thread::available_parallelism().unwrap().get() < 2 {
        return integration_tests::skip::skip("ranks_are_bound_where_cores_suffice", "needs two cores");
    }
    let wide = [("SLURM_JOB_ID", "17"), ("SLURM_JOB_NUM_NODES", "2"), ("SLURM_JOB_CPUS_PER_NODE", "2(x2)")];
    let site = Site { mpirun: Some(OPEN_MPI), srun: Some(SRUN), variables: &wide };
    let two = set(&["cluster.nodes=2", "cluster.ranks_per_node=1", "cluster.threads_per_rank=2"]);
    assert!(site.plan(&two).contains(" --cpus-per-task=2 "), "{}", site.plan(&two));
    let planned = site.plan(&[&two[..], &["--launcher", "mpirun"]].concat());
    assert!(planned.contains("--map-by ppr:1:node:PE=2 --bind-to core "), "{planned}");
}

#[test]
fn containers() {
    let site = Site { mpirun: Some(OPEN_MPI), srun: Some(SRUN), variables: &JOB };
    let two = ["cluster.nodes=2", "cluster.ranks_per_node=1"];
    let apptainer = set(&[&two[..], &["cluster.slurm.container=apptainer:/images/blip2.sif"]].concat());
    let planned = site.plan(&apptainer);
    assert!(planned.contains("--input=0 apptainer exec --bind "), "{planned}");
    assert!(planned.ends_with(" --bind @HERE@ /images/blip2.sif @HERE@/blip2-rank"), "{planned}");
    let pyxis = set(&[&two[..], &["cluster.slurm.container=pyxis:nvcr.io#org/blip2:1"]].concat());
    let planned = site.plan(&pyxis);
    assert!(planned.contains("--input=0 '--container-image=nvcr.io#org/blip2:1' --container-mounts="), "{planned}");
    let refused = Site { srun: Some(SRUN_WITHOUT_PMIX), ..site }.plan(&pyxis);
    assert!(refused.starts_with("77: ") && refused.contains("no PMIx"), "{refused}");
}

#[test]
fn what_does_not_fit_is_refused_with_the_fix() {
    let site = Site { mpirun: Some(OPEN_MPI), srun: Some(SRUN), variables: &JOB };
    let outside = Site { variables: &[], ..site };
    let step = [&JOB[..], &[("SLURM_STEP_ID", "0"), ("SLURM_STEP_NUM_TASKS", "4")]].concat();
    let in_step = Site { variables: &step, ..site };
    let without = Site { mpirun: None, ..outside };
    let slurm_without = Site { mpirun: None, srun: Some(SRUN_WITHOUT_PMIX), ..site };
    let nodes = set(&["cluster.nodes=2", "cluster.ranks_per_node=1"]);
    let many = set(&[
        "cluster.nodes=4",
        "cluster.ranks_per_node=1",
        "data.lanes=4",
        "stages[0].slices=4",
        "stages[1].slices=4",
    ]);
    for (site, arguments, parts) in [
        (&outside, nodes.clone(), ["2: ", "cluster.nodes is 2", "blip2 submit"]),
        (&site, many, ["2: ", "SLURM job 17 has 2", "cluster.nodes=2"]),
        (&outside, vec!["--hosts", "n1:2,n2:2"], ["2: ", "found 4 ranks; expected at most 2", "--ranks 2"]),
        (&outside, vec!["--hosts", "n1:0"], ["2: ", "--hosts: found `n1:0`", "n1:2"]),
        (&outside, vec!["--launcher", "srun"], ["2: ", "no SLURM allocation", "blip2 submit"]),
        (&in_step, vec![], ["2: ", "started 4 times by srun", "without srun"]),
        (&without, vec![], ["1: ", "BLIP2_MPIRUN names", "where no file is"]),
        (&slurm_without, nodes.clone(), ["77: ", "has no PMIx", "mpirun"]),
        (&slurm_without, [&nodes[..], &["--launcher", "srun"]].concat(), ["77: ", "has no PMIx", "--launcher mpirun"]),
    ] {
        let refused = site.plan(&arguments);
        assert!(refused.starts_with(parts[0]), "{arguments:?}: {refused}");
        assert!(parts[1..].iter().all(|part| refused.contains(part)), "{arguments:?}: {refused}");
    }
}

#[test]
fn gpus_are_counted_before_ranks_start() {
    let stand_ins = StandIns::new();
    stand_ins.script("blip2-rank", "#!/bin/sh\necho started >started\n");
    let mut command = stand_ins.blip2(&["launch", "tiny", "--ranks", "1", "--set", "cluster.backend=nccl"]);
    let output = command.env("CUDA_VISIBLE_DEVICES", "").output().unwrap();
    let message = stderr(&output);
    assert_eq!(output.status.code(), Some(77), "{message}");
    assert!(
        message.contains("found 0 GPUs (CUDA_VISIBLE_DEVICES) for 1 ranks") && message.contains("backend=mpi"),
        "{message}"
    );
    assert!(!stand_ins.path().join("started").exists() && !stand_ins.path().join("runs").exists());
}

#[test]
fn hosts_are_asked_before_ranks_start() {
    let stand_ins = StandIns::new();
    stand_ins.script("blip2-rank", "#!/bin/sh\n");
    stand_ins
        .script("mpirun", "#!/bin/sh\n[ \"$1\" = --version ] && { echo Open MPI; exit; }\necho started >started\n");
    stand_ins.script(
        "rsh",
        "#!/bin/sh\n[ $1 = n2 ] && { echo 'ssh: no route to host' >&2; exit 255; }\n[ $1 = n3 ] && exit 41\necho 0\n",
    );
    let launch = |hosts: &str| {
        let mut command = stand_ins.blip2(&["launch", "tiny", "--hosts", hosts, "--set", "data.sources[0].scenes=200"]);
        command.env("BLIP2_MPIRUN", stand_ins.path().join("mpirun")).env("BLIP2_RSH", "rsh");
        command.output().unwrap()
    };
    for (hosts, part) in
        [("n1:1,n2:1", "n2: the host does not answer"), ("n1:1,n3:1", "n3: the host answers and has no program")]
    {
        let output = launch(hosts);
        assert_eq!(output.status.code(), Some(77), "{}", stderr(&output));
        assert!(stderr(&output).contains(part), "{}", stderr(&output));
        assert!(!stand_ins.path().join("started").exists());
    }
    assert_eq!(launch("n1:1,n4:1").status.code(), Some(0));
    assert!(stand_ins.path().join("started").exists());
}
