//! Real object-store servers on the loopback interface, which `make test-all` sets up.

use std::io::{BufRead, BufReader, PipeReader};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::sync::mpsc::{Sender, channel};
use std::time::Duration;

use crate::blip2::peers_python;
use crate::programs::{all_output, checkout};
use crate::skip::skip;

/// The account and key that Azurite is shipped with; they are public.
const AZURITE_ACCOUNT: &str = "devstoreaccount1";
const AZURITE_KEY: &str = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw==";
/// Seconds until a server must listen: Python and Node.js on a busy machine.
const START_S: u64 = 60;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    S3,
    Azure,
}

/// A server with an empty bucket or container called `bucket`; ended by its own handle, whatever happens to the test.
pub struct ObjectServer {
    kind: Kind,
    process: Child,
    address: SocketAddr,
}

impl Drop for ObjectServer {
    fn drop(&mut self) {
        // The process may have ended already.
        let _ended = self.process.kill();
        let _reaped = self.process.wait();
    }
}

impl ObjectServer {
    /// moto, a server of the S3 protocol; `None`, said aloud, where it is not set up.
    pub fn s3(test: &str) -> Option<Self> {
        let program = peers_python(test)?.with_file_name("moto_server");
        let mut command = Command::new(program);
        command.args(["-H", "127.0.0.1", "-p", "0"]);
        // Parts of a tiny model's checkpoints are smaller than S3's 5 MiB.
        command.env("S3_UPLOAD_PART_MIN_SIZE", "1");
        Some(Self::start(Kind::S3, command))
    }

    /// Azurite, Microsoft's stand-in for Azure Blob storage; `None`, said aloud, where it is not set up.
    pub fn azure(test: &str) -> Option<Self> {
        let place = checkout().join(".deps/azurite");
        if std::env::var("BLIP2_TIER").is_ok_and(|tier| tier == "all") && place.join("node").exists() {
            let mut command = Command::new(place.join("node"));
            command.arg(place.join("node_modules/azurite/dist/src/blob/main.js"));
            // The library asks in a newer version of the protocol than Azurite knows.
            command.args(["--skipApiVersionCheck", "--inMemoryPersistence", "--disableTelemetry", "--silent"]);
            command.args(["--blobHost", "127.0.0.1", "--blobPort", "0"]);
            return Some(Self::start(Kind::Azure, command));
        }
        skip(test, "needs Azurite; run `make test-all`");
        None
    }

    /// Starts a server on a port that the system chooses, which the server prints: a port chosen here could be taken by
    /// another test before the server has it.
    fn start(kind: Kind, mut command: Command) -> Self {
        let (output, to_output) = std::io::pipe().expect("a pipe");
        let to_stderr = to_output.try_clone().expect("a pipe's end can be cloned");
        command.stdin(Stdio::null()).stdout(to_output).stderr(to_stderr);
        let process = command.spawn().unwrap_or_else(|error| panic!("{command:?} cannot be started: {error}"));
        let (found, address) = channel();
        std::thread::spawn(move || watch(output, &found));
        let mut server = Self { kind, process, address: SocketAddr::from(([127, 0, 0, 1], 0)) };
        match address.recv_timeout(Duration::from_secs(START_S)) {
            Ok(address) => server.address = address,
            Err(_) => panic!("{command:?} named no address within {START_S} s"),
        }
        server.make_bucket();
        server
    }

    fn make_bucket(&self) {
        let script = checkout().join("tests/peers/make_bucket.py");
        let mut command = Command::new("python3");
        command.arg(script).arg(self.address.to_string());
        if self.kind == Kind::Azure {
            command.args([AZURITE_ACCOUNT, AZURITE_KEY]);
        }
        let made = command.output().expect("python3, which set-up needs, runs");
        assert!(made.status.success(), "{}", all_output(&made));
    }

    /// Where the server listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The URI of a path in the bucket.
    pub fn uri(&self, path: &str) -> String {
        match self.kind {
            Kind::S3 => format!("s3://bucket/{path}"),
            Kind::Azure => format!("az://bucket/{path}"),
        }
    }

    /// Runs a program for which this server's scheme means `address`: the server itself, or a proxy in front of it.
    ///
    /// # Panics
    /// When the program cannot be started.
    pub fn run_through(&self, address: SocketAddr, program: &Path, arguments: &[&str]) -> Output {
        let mut command = self.command_through(address, program);
        command.args(arguments);
        command.output().unwrap_or_else(|error| panic!("{command:?} cannot be started: {error}"))
    }

    /// A program, not started yet, for which this server's scheme means `address`.
    pub fn command_through(&self, address: SocketAddr, program: &Path) -> Command {
        let endpoint = format!("http://{address}");
        let mut command = Command::new(program);
        match self.kind {
            Kind::S3 => command
                .env("AWS_ENDPOINT_URL", endpoint)
                .env("AWS_ACCESS_KEY_ID", "test")
                .env("AWS_SECRET_ACCESS_KEY", "test")
                .env("AWS_REGION", "us-east-1")
                .env("AWS_ALLOW_HTTP", "true"),
            Kind::Azure => command.env("AZURE_STORAGE_USE_EMULATOR", "true").env("AZURITE_BLOB_STORAGE_URL", endpoint),
        };
        command
    }

    /// [`Self::run_through`] with nothing in between.
    pub fn run(&self, program: &Path, arguments: &[&str]) -> Output {
        self.run_through(self.address, program, arguments)
    }
}

/// Tells the address that a server says it listens on, then reads on so that the server never waits for a reader.
fn watch(output: PipeReader, found: &Sender<SocketAddr>) {
    for line in BufReader::new(output).lines().map_while(Result::ok) {
        let address = line.split("http://").nth(1).and_then(|rest| rest.split_whitespace().next()?.parse().ok());
        // Azurite says "is starting on" with port 0 first.
        if let Some(address) = address.filter(|address: &SocketAddr| address.port() != 0) {
            let _told_already = found.send(address);
        }
    }
}
