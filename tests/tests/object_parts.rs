//! Objects written in parts, on the file system, an S3 server and Azurite: whole or not there wherever the writer is
//! killed, and after an outage only what is missing is sent again.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::io::Write;
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use integration_tests::blip2::stderr;
use integration_tests::gate::Gate;
use integration_tests::object_servers::ObjectServer;
use integration_tests::programs::{all_output, built};

const PART_BYTES: u64 = 65_536;
/// Parts of the object that is written through an outage: more than are sent at once.
const NUM_PARTS: u64 = 20;
/// Parts of the objects whose writers are killed: each change costs several processes.
const FEW_PARTS: u64 = 4;
/// An outage must end a request within this time; a server on a busy machine takes a while.
const LIMIT: Duration = Duration::from_secs(60);
const SIGKILL: i32 = 9;

/// The size of an object of so many parts, the last one not full.
fn bytes(num_parts: u64) -> String {
    (num_parts * PART_BYTES - 1000).to_string()
}

/// A place to write to.
enum Store<'s> {
    Path(PathBuf),
    Server(&'s ObjectServer),
}

impl Store<'_> {
    fn uri(&self, run: &str) -> String {
        match self {
            Self::Path(folder) => folder.join(run).display().to_string(),
            Self::Server(server) => server.uri(run),
        }
    }

    fn work(&self, arguments: &[&str]) -> Command {
        let program = built("examples/store_work");
        let mut command = match self {
            Self::Server(server) => server.command_through(server.address(), &program),
            Self::Path(_) => Command::new(program),
        };
        command.args(arguments);
        command.env("BLIP2_TEST_PART_BYTES", PART_BYTES.to_string()).env("BLIP2_TEST_BACKOFF_MS", "20");
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    fn write(&self, run: &str, disturbance: Option<&str>) -> Output {
        let mut command = self.work(&["write", &self.uri(run), "step/file", &bytes(FEW_PARTS)]);
        if let Some(disturbance) = disturbance {
            command.env("BLIP2_TEST_STORE", disturbance);
        }
        command.output().unwrap()
    }

    fn read(&self, run: &str, sums: &[u8]) -> Output {
        let mut child = self.work(&["read", &self.uri(run), "step/file"]).stdin(Stdio::piped()).spawn().unwrap();
        child.stdin.take().unwrap().write_all(sums).unwrap();
        child.wait_with_output().unwrap()
    }

    /// Kills a writer at each of its changes; whatever stands then is whole, and the next writer succeeds.
    fn is_never_torn(&self, name: &str) {
        let notes = tempfile::NamedTempFile::new().unwrap();
        let undisturbed = self.write("undisturbed", Some(&format!("count:{}", notes.path().display())));
        assert!(undisturbed.status.success(), "{}", all_output(&undisturbed));
        let sums = undisturbed.stdout;
        let changes = std::fs::read_to_string(notes.path()).unwrap().lines().count();
        assert_eq!(changes as u64, FEW_PARTS + 2, "begin, parts and end");
        let moments: &[&str] =
            if matches!(self, Self::Path(_)) { &["before", "half", "after"] } else { &["before", "after"] };
        let mut stand = 0;
        for number in 1..=changes {
            for moment in moments {
                let (run, plan) = (format!("cut-{number}-{moment}"), format!("cut:{number}:{moment}"));
                let killed = self.write(&run, Some(&plan));
                assert_eq!(killed.status.signal(), Some(SIGKILL), "{plan}: {}", all_output(&killed));
                let found = self.read(&run, &sums);
                let done = number == changes && *moment == "after";
                assert_eq!(found.status.success(), done, "{plan}: {}", all_output(&found));
                assert!(done || stderr(&found).contains("the file is missing"), "{plan}: {}", stderr(&found));
                stand += u32::from(done);
                let again = self.write(&run, None);
                assert_eq!(again.stdout, sums, "{plan}: {}", all_output(&again));
                assert!(self.read(&run, &sums).status.success(), "{plan}");
            }
        }
        assert_eq!(stand, 1, "one of the cuts comes after the end");
        let report = format!("{name}: {} cut points, none torn\n", changes * moments.len());
        std::io::stderr().write_all(report.as_bytes()).unwrap();
    }
}

/// A server that does not answer in the middle of an object gets only what it lacks when it is back.
fn outages_cost_only_what_is_missing(server: &ObjectServer, begins_uploads: bool) {
    let store = Store::Server(server);
    let gate = Gate::start(server.address(), 6);
    let (uri, bytes) = (store.uri("outage"), bytes(NUM_PARTS));
    let program = built("examples/store_work");
    let mut command = server.command_through(gate.address(), &program);
    command.args(["write", &uri, "step/file", &bytes]);
    command.env("BLIP2_TEST_PART_BYTES", PART_BYTES.to_string()).env("BLIP2_TEST_BACKOFF_MS", "50");
    // The store's own tries end soon, so that those that follow them are seen.
    command.env("BLIP2_TEST_STORE_BUDGET_MS", "100").stdout(Stdio::piped()).stderr(Stdio::piped());
    let child = command.spawn().unwrap();
    let began = Instant::now();
    while gate.refused() < 40 {
        assert!(began.elapsed() < LIMIT, "{} requests were refused", gate.refused());
        std::thread::sleep(Duration::from_millis(10));
    }
    gate.open();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{}", all_output(&output));
    let text = stderr(&output);
    assert_eq!(text.matches("Trying again until it works").count(), 1, "{text}");
    assert_eq!(text.matches("works again after").count(), 1, "{text}");
    assert_eq!(gate.parts(), NUM_PARTS, "parts taken by the server");
    assert_eq!(gate.uploads(), u64::from(begins_uploads), "uploads begun");
    assert!(store.read("outage", &output.stdout).status.success());
}

fn has_put_if_absent(store: &Store) {
    let probed = store.work(&["probe", &store.uri("probe")]).output().unwrap();
    assert!(probed.status.success(), "{}", all_output(&probed));
}

#[test]
fn a_file_is_never_torn() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::Path(folder.path().to_owned());
    has_put_if_absent(&store);
    store.is_never_torn("file system");
}

#[test]
fn an_object_on_s3_is_never_torn_and_resumes() {
    let Some(server) = ObjectServer::s3("an_object_on_s3_is_never_torn_and_resumes") else { return };
    has_put_if_absent(&Store::Server(&server));
    outages_cost_only_what_is_missing(&server, true);
    Store::Server(&server).is_never_torn("S3 server");
}

#[test]
fn an_object_on_azure_is_never_torn_and_resumes() {
    let Some(server) = ObjectServer::azure("an_object_on_azure_is_never_torn_and_resumes") else { return };
    has_put_if_absent(&Store::Server(&server));
    outages_cost_only_what_is_missing(&server, false);
    Store::Server(&server).is_never_torn("Azurite");
}
