//! `blip2 launch`, `eval`, `caption`, `demo` and `report` with stand-ins for the rank and for mpirun: shell scripts that
//! speak the ranks' protocol.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use integration_tests::blip2::{stderr, stdout};
use integration_tests::programs::{FEW_SCENES, built};

/// What a training stand-in begins with: the note about itself that every rank writes.
const NOTE: &str = r#"#!/bin/sh
rank=${RANK:-0}
echo "$@" >"$HERE/arguments-$rank"
echo "$OMP_NUM_THREADS $MKL_NUM_THREADS" >"$HERE/threads-$rank"
[ -z "$BLIP2_PID_DIR" ] || printf '{"pid":%s,"start_ticks":%s}' $$ "$(cut -d' ' -f22 /proc/$$/stat)" >"$BLIP2_PID_DIR/rank-$rank.pid"
"#;
/// A short stage.
const TRAINS: &str = r#"
echo '{"event":"phase","name":"representation","what":"training the Q-Former","steps":500}'
echo 'a line of mpirun'
echo '{"event":"progress","name":"representation","step":500,"steps":500,"losses":{"itc":3.1,"total":3.1},"images_per_s":131.0}'
echo '{"event":"checkpoint","stage":"representation","step":500,"uri":"runs/x/stage1"}'
echo '{"event":"done"}'
"#;
/// Never ends by itself.
const WAITS: &str = "while :; do sleep 0.1; done\n";

/// A folder with stand-ins, and the commands that use them.
struct Bench {
    folder: tempfile::TempDir,
}

impl Bench {
    /// With a rank that does this.
    fn new(rank: &str) -> Self {
        let bench = Self { folder: tempfile::tempdir().unwrap() };
        bench.script("blip2-rank", &format!("{NOTE}{rank}"));
        bench
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn text(&self, name: &str) -> String {
        std::fs::read_to_string(self.path(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
    }

    fn script(&self, name: &str, text: &str) {
        // Written by another process: a program that this one still has open for writing, in a child that another test is
        // just forking, could not be started.
        let mut writer = Command::new("sh");
        writer.args(["-c", "printf %s \"$1\" >\"$2\"", "sh", text]).arg(self.path(name));
        assert!(writer.status().unwrap().success());
        std::fs::set_permissions(self.path(name), std::fs::Permissions::from_mode(0o755)).unwrap();
    }

    fn blip2(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(built("blip2"));
        command.args(arguments).current_dir(self.folder.path()).env("HERE", self.folder.path());
        command.env("BLIP2_RANK", self.path("blip2-rank")).env("BLIP2_MPIRUN", self.path("mpirun"));
        command
    }

    /// `blip2 launch tiny` with a small corpus.
    fn launch(&self, more: &[&str]) -> Command {
        let mut command = self.blip2(&["launch", "tiny"]);
        command.args(FEW_SCENES).args(more);
        command
    }

    /// Starts a command whose ranks wait, and returns once they run.
    fn started(&self, mut command: Command) -> Child {
        let child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        until("the rank's note", || self.pid(0).is_some());
        child
    }

    /// The process that the note of a rank names.
    fn pid(&self, rank: usize) -> Option<u32> {
        let text = std::fs::read(self.path(&format!("runs/tiny/launch/rank-{rank}.pid"))).ok()?;
        let note: serde_json::Value = serde_json::from_slice(&text).ok()?;
        Some(note["pid"].as_u64()? as u32)
    }
}

fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let end = Instant::now() + Duration::from_secs(30);
    while !holds() {
        assert!(Instant::now() < end, "{what}: waited 30 s in vain");
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn runs(pid: u32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    !stat.is_empty() && !stat.contains(") Z ")
}

fn start_ticks(pid: u32) -> String {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    stat.rsplit(')').next().unwrap().split_whitespace().nth(19).unwrap().to_owned()
}

fn kill(signal: &str, pid: u32) {
    assert!(Command::new("kill").args([signal, &pid.to_string()]).status().unwrap().success());
}

fn code(output: &Output) -> Option<i32> {
    output.status.code()
}

#[test]
fn one_rank_is_a_plain_child_that_is_told_everything() {
    let bench = Bench::new(TRAINS);
    let output = bench.launch(&["--ranks", "1", "--fresh", "--set", "run.seed=7"]).output().unwrap();
    assert_eq!(code(&output), Some(0), "{}", stderr(&output));
    let expected = format!(
        "train preset:tiny {} --set run.seed=7 --fresh --progress json --exit-on-stdin-eof",
        FEW_SCENES.join(" ")
    );
    assert_eq!(bench.text("arguments-0").trim(), expected);
    assert_eq!(bench.text("threads-0").trim(), "1 1");
    assert!(bench.path("runs/tiny/shards/corpus.json").exists(), "the corpus was not written");
    let shown = stderr(&output);
    for part in [
        "training the Q-Former (500 steps)",
        "a line of mpirun",
        "500 of 500 steps",
        "itc 3.100",
        "checkpoint at step 500",
    ] {
        assert!(shown.contains(part), "{part:?} is missing in:\n{shown}");
    }
    assert!(!shown.contains("{\"event\""), "{shown}");
    assert!(stdout(&output).contains("blip2 report runs/tiny"), "{}", stdout(&output));
}

#[test]
fn several_ranks_are_started_by_mpirun() {
    let bench = Bench::new(TRAINS);
    bench.script(
        "mpirun",
        "#!/bin/sh\n[ \"$1\" = --version ] && { echo 'mpirun (Open MPI) 5.0'; exit; }\nprintf '%s\\n' \"$*\" >\"$HERE/mpirun-arguments\"\n\
         while [ \"${1##*/}\" != blip2-rank ]; do shift; done\nRANK=1 \"$@\" >/dev/null\nexec \"$@\"\n",
    );
    let output = bench.launch(&[]).output().unwrap();
    assert_eq!(code(&output), Some(0), "{}", stderr(&output));
    assert!(bench.text("mpirun-arguments").starts_with("-n 2 --oversubscribe --bind-to none /"));
    assert_eq!(bench.text("arguments-0"), bench.text("arguments-1"));
}

#[test]
fn failures_say_which_command_why_and_what_next() {
    let bench = Bench::new("echo 'error: the disk is full' >&2\nexit $CODE\n");
    for (rank, expected) in [("3", 1), ("2", 2), ("75", 75), ("76", 76), ("77", 77)] {
        let output = bench.launch(&["--ranks", "1"]).env("CODE", rank).output().unwrap();
        assert_eq!(code(&output), Some(expected), "{}", stderr(&output));
        let message = stderr(&output).split_once("blip2: ").unwrap().1.to_owned();
        for part in [
            "blip2-rank train preset:tiny",
            &format!("exit code {rank}"),
            "the disk is full",
            "the same command continues",
        ] {
            assert!(message.contains(part), "{part:?} is missing in:\n{message}");
        }
    }
    let missing = bench.launch(&["--ranks", "1"]).env("BLIP2_RANK", "none/blip2-rank").output().unwrap();
    assert_eq!(code(&missing), Some(1));
    assert!(stderr(&missing).contains("BLIP2_RANK names none/blip2-rank"), "{}", stderr(&missing));
}

#[test]
fn wrong_configurations_start_nothing() {
    let bench = Bench::new(TRAINS);
    for (arguments, message) in [
        (&["launch", "tinny"][..], "tinny"),
        (&["launch", "tiny", "--set", "run.seed=red"], "run.seed"),
        (&["launch", "vitg_opt2.7b"], "cluster.nodes"),
        (&["launch", "tiny", "--ranks", "0"], "--ranks"),
    ] {
        let output = bench.blip2(arguments).output().unwrap();
        assert_eq!(code(&output), Some(2), "{arguments:?}: {}", stderr(&output));
        assert!(stderr(&output).contains(message), "{arguments:?}: {}", stderr(&output));
    }
    assert!(!bench.path("arguments-0").exists() && !bench.path("runs").exists());
}

#[test]
fn a_dry_run_prints_the_command_and_touches_nothing() {
    let bench = Bench::new(TRAINS);
    let output = bench.launch(&["--ranks", "1", "--dry-run"]).output().unwrap();
    assert_eq!(code(&output), Some(0), "{}", stderr(&output));
    for part in [
        "# first writes 200 scenes to runs/tiny/shards",
        "export OMP_NUM_THREADS=1",
        "train preset:tiny",
        "BLIP2_PID_DIR=",
    ] {
        assert!(stdout(&output).contains(part), "{part:?} is missing in:\n{}", stdout(&output));
    }
    assert!(!bench.path("runs").exists() && !bench.path("arguments-0").exists());
}

#[test]
fn sigterm_has_the_rank_leave_and_says_how_to_continue() {
    let bench = Bench::new(WAITS);
    let launcher = bench.started(bench.launch(&["--ranks", "1"]));
    let rank = bench.pid(0).unwrap();
    kill("-TERM", launcher.id());
    let output = launcher.wait_with_output().unwrap();
    assert_eq!(code(&output), Some(75), "{}", stderr(&output));
    assert!(stderr(&output).contains("the same command continues"), "{}", stderr(&output));
    assert!(!runs(rank));
}

#[test]
fn a_rank_ends_with_a_launcher_that_is_killed() {
    let bench = Bench::new(WAITS);
    let mut launcher = bench.started(bench.launch(&["--ranks", "1"]));
    let rank = bench.pid(0).unwrap();
    kill("-KILL", launcher.id());
    launcher.wait().unwrap();
    until("the end of the rank", || !runs(rank));
}

#[test]
fn ranks_that_outlive_mpirun_are_ended() {
    let bench = Bench::new(WAITS);
    bench.script(
        "mpirun",
        "#!/bin/sh\n[ \"$1\" = --version ] && exit\necho $$ >\"$HERE/mpirun-pid\"\n\
         while [ \"${1##*/}\" != blip2-rank ]; do shift; done\nsetsid \"$@\" &\nwait\n",
    );
    let launcher = bench.started(bench.launch(&[]));
    let rank = bench.pid(0).unwrap();
    kill("-KILL", bench.text("mpirun-pid").trim().parse().unwrap());
    let output = launcher.wait_with_output().unwrap();
    assert_eq!(code(&output), Some(1), "{}", stderr(&output));
    assert!(stderr(&output).contains("signal 9"), "{}", stderr(&output));
    assert!(!runs(rank));
}

#[test]
fn ranks_of_an_earlier_launch_are_ended_and_nobody_else() {
    let bench = Bench::new(TRAINS);
    let notes = bench.path("runs/tiny/launch");
    std::fs::create_dir_all(&notes).unwrap();
    std::fs::create_dir_all(bench.path("left")).unwrap();
    let start = |name: &str| {
        bench.script(name, &format!("#!/bin/sh\n{WAITS}"));
        let child = Command::new(bench.path(name)).spawn().unwrap();
        let name = Path::new(name).file_name().unwrap().to_str().unwrap().to_owned();
        until("the program's name", || {
            std::fs::read_to_string(format!("/proc/{}/comm", child.id())).is_ok_and(|comm| comm.trim() == name)
        });
        child
    };
    let (mut left, mut other, mut later) =
        (start("left/blip2-rank"), start("left/bystander"), start("left/blip2-rank"));
    let note = |rank: usize, pid: u32, ticks: &str| {
        let text = format!("{{\"pid\":{pid},\"start_ticks\":{ticks}}}");
        std::fs::write(notes.join(format!("rank-{rank}.pid")), text).unwrap();
    };
    note(0, left.id(), &start_ticks(left.id()));
    note(1, other.id(), &start_ticks(other.id()));
    // The id was given to another process since.
    note(2, later.id(), "1");
    let output = bench.launch(&["--ranks", "1"]).output().unwrap();
    assert_eq!(code(&output), Some(0), "{}", stderr(&output));
    assert!(stderr(&output).contains("ended 1 ranks"), "{}", stderr(&output));
    let ran = [runs(left.id()), runs(other.id()), runs(later.id())];
    for child in [&mut left, &mut other, &mut later] {
        let _already_ended = child.kill();
        child.wait().unwrap();
    }
    assert_eq!(ran, [false, true, true]);
}

#[test]
fn a_run_has_one_launcher() {
    let bench = Bench::new(WAITS);
    let launcher = bench.started(bench.launch(&["--ranks", "1"]));
    let second = bench.launch(&["--ranks", "1"]).output().unwrap();
    assert_eq!(code(&second), Some(76), "{}", stderr(&second));
    assert!(stderr(&second).contains(&launcher.id().to_string()), "{}", stderr(&second));
    assert!(runs(bench.pid(0).unwrap()), "the first launcher's rank was ended");
    kill("-INT", launcher.id());
    assert_eq!(code(&launcher.wait_with_output().unwrap()), Some(130));
}

/// A rank that trains, scores and describes.
const ALL: &str = r#"
case "$1" in
train)
  mkdir -p runs/tiny/metrics
  if [ ! -e runs/tiny/metrics/0.jsonl ]; then
    echo '{"session_start":{"stage":"representation","stage_index":1,"step":0}}
{"schema_version":1,"time":10.0,"stage":"representation","step":10,"losses":{"itc":3.0,"total":3.0},"lr":0.001,"images_per_s":100.0}
{"schema_version":1,"time":20.0,"stage":"representation","step":20,"losses":{"itc":2.0,"total":2.0},"lr":0.001,"images_per_s":100.0}' >runs/tiny/metrics/0.jsonl
  fi
  sleep 0.05
  echo '{"event":"done"}' ;;
eval)
  echo "$@" >>"$HERE/evaluations"
  task=$2 split=test_seen output=
  while [ $# -gt 0 ]; do
    case "$1" in --split) split=$2 ;; --output) output=$2 ;; esac
    shift
  done
  if [ "$task" = retrieval ]; then
    both='{"image_to_text":{"r1":46.6,"r5":80,"r10":90},"text_to_image":{"r1":44.4,"r5":80,"r10":90}}'
    result='"itc":'$both',"itm":'$both',"rerank_k":16,"chance_r1":0.2'
  else
    result='"rows":[{"name":"pair, all objects","score":31.2,"control":4.1,"objects":12}],"examples":[{"image_png_base64":"AAAA","truth":"a red circle","generated":"a red star"}],"captions":["a red star"]'
  fi
  echo '{"event":"message","text":"reading"}'
  result='{"schema_version":1,"task":"'$task'","split":"'$split'","scenes":500,'$result'}'
  [ -z "$output" ] || { mkdir -p "$(dirname "$output")" && echo "$result" >"$output"; }
  echo '{"event":"result","result":'$result'}' ;;
caption) echo '{"event":"result","result":{"schema_version":1,"task":"describe","images":[{"image":"a.png","caption":"a red circle","captions":["a red circle"]}]}}' ;;
esac
"#;

#[test]
fn evaluations_print_a_table_or_the_result() {
    let bench = Bench::new(ALL);
    let output =
        bench.blip2(&["eval", "retrieval", "some/run", "--split", "test_unseen", "--limit", "9"]).output().unwrap();
    assert_eq!(code(&output), Some(0), "{}", stderr(&output));
    assert!(stdout(&output).contains("retrieval on test_unseen, 500 scenes") && stdout(&output).contains("46.6"));
    assert!(stderr(&output).contains("reading"));
    assert_eq!(
        bench.text("arguments-0").trim(),
        "eval retrieval some/run --split test_unseen --limit 9 --candidates 128"
    );
    let cores = std::thread::available_parallelism().unwrap();
    assert_eq!(bench.text("threads-0").trim(), format!("{cores} {cores}"));

    let output = bench.blip2(&["eval", "caption", "some/run"]).output().unwrap();
    assert!(stdout(&output).contains("pair, all objects") && stdout(&output).contains("31.2"), "{}", stdout(&output));

    let output = bench.blip2(&["eval", "caption", "some/run", "--stage", "generative", "--json"]).output().unwrap();
    let result: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(result["rows"][0]["score"], 31.2);
    assert_eq!(bench.text("arguments-0").trim(), "eval caption some/run --stage generative --decoding {}");

    let output =
        bench.blip2(&["caption", "some/run", "a.png", "--prompt", "a photo of", "--beams", "5"]).output().unwrap();
    assert_eq!(stdout(&output), "a.png: a red circle\n");
    let decoding = r#"{"prompt":"a photo of","beams":5}"#;
    assert_eq!(bench.text("arguments-0").trim(), format!("caption some/run a.png --decoding {decoding}"));

    let silent = Bench::new("exit 0\n");
    let output = silent.blip2(&["eval", "caption", "some/run"]).output().unwrap();
    assert_eq!(code(&output), Some(1));
    assert!(stderr(&output).contains("no result"), "{}", stderr(&output));
}

#[test]
fn the_demo_goes_to_its_report_and_does_nothing_twice() {
    let bench = Bench::new(ALL);
    let demo = || bench.blip2(&["demo", "--set", "cluster.ranks_per_node=1"]).args(FEW_SCENES).output().unwrap();
    let output = demo();
    assert_eq!(code(&output), Some(0), "{}", stderr(&output));
    let shown = stdout(&output);
    for part in ["retrieval on test_seen", "caption on test_unseen", "report: runs/tiny/report.html", "memory"] {
        assert!(shown.contains(part), "{part:?} is missing in:\n{shown}");
    }
    let evaluations: String = [
        ("retrieval", "representation", " --candidates 16"),
        ("caption", "generative", ""),
        ("vqa", "generative", " --limit 500"),
    ]
    .into_iter()
    .flat_map(|(task, stage, more)| {
        let of = move |split: &str| {
            let output = format!("runs/tiny/eval/{task}-{split}.json");
            format!("eval {task} runs/tiny --stage {stage} --split {split}{more} --output {output}\n")
        };
        ["test_seen", "test_unseen"].map(of)
    })
    .collect();
    assert_eq!(bench.text("evaluations"), evaluations);
    let page = bench.text("runs/tiny/report.html");
    assert!(page.contains("<b class=\"wrong\">red star</b>") && page.contains("<b class=\"missed\">red circle</b>"));
    assert!(
        page.contains("<svg") && !page.contains("http://") && !page.contains("https://") && !page.contains("<script")
    );

    assert_eq!(code(&demo()), Some(0));
    assert_eq!(bench.text("evaluations"), evaluations, "something was scored twice");
    std::fs::remove_file(bench.path("runs/tiny/eval/caption-test_seen.json")).unwrap();
    assert_eq!(code(&demo()), Some(0));
    assert_eq!(bench.text("evaluations").lines().count(), 7, "what is missing is done, and nothing else");
}

#[test]
fn a_report_needs_a_run() {
    let bench = Bench::new(TRAINS);
    let output = bench.blip2(&["report", "nowhere"]).output().unwrap();
    assert_eq!(code(&output), Some(2), "{}", stderr(&output));
    assert!(stderr(&output).contains("nowhere"), "{}", stderr(&output));
    assert!(!bench.path("nowhere").exists());
}
