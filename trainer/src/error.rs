//! Why a rank could not do its work.

/// An error of this crate.
#[derive(Debug, thiserror::Error)]
pub enum TrainerError {
    /// libtorch reported an error.
    #[error("libtorch failed while {doing}")]
    Torch {
        /// What was being done.
        doing: &'static str,
        /// libtorch's own words.
        #[source]
        source: tch::TchError,
    },
    /// The rank was asked to leave, and did so in order.
    #[error("preempted: a checkpoint of step {step} of stage {stage} is committed; the same command continues from it")]
    Preempted {
        /// The stage.
        stage: String,
        /// Its last step.
        step: u64,
    },
    /// Ranks could not talk.
    #[error(transparent)]
    Cluster(#[from] cluster::ClusterError),
    /// Texts could not be scored.
    #[error(transparent)]
    Scores(#[from] scores::ScoresError),
    /// A report could not be written or read.
    #[error("the report of a rank is not valid JSON")]
    Report(#[from] serde_json::Error),
    /// A check gave another number than it must.
    #[error("{check} gave {found}, expected {expected}: this installation computes wrongly")]
    WrongResult {
        /// What was computed.
        check: &'static str,
        /// What came out.
        found: f64,
        /// What must come out.
        expected: f64,
    },
    /// A model asked for a weight that is not there.
    #[error("the weight `{name}` is missing; the file belongs to another model, or is incomplete")]
    MissingWeight {
        /// Its public name.
        name: String,
    },
    /// A weight has another shape than the config says.
    #[error("the weight `{name}` has shape {found:?}, expected {expected:?}; do the sizes in the config fit the file?")]
    WeightShape {
        /// Its public name.
        name: String,
        /// In the file.
        found: Vec<i64>,
        /// What the config says.
        expected: Vec<i64>,
    },
    /// Training has diverged.
    #[error(
        "step {step}: the gradient is not finite, and {in_a_row} updates in a row would be left out, expected at most \
         {limit}: training has diverged. Lower the peak learning rate, lengthen the warm-up, raise max_skipped_updates, \
         or look at the samples of this step, rows {samples:?} of the catalogue"
    )]
    NotFinite {
        /// Of the stage, from 1.
        step: u64,
        /// Updates that would be left out.
        in_a_row: u64,
        /// The stage's `max_skipped_updates`.
        limit: u64,
        /// Rows of the catalogue in the step's batch.
        samples: Vec<i64>,
    },
    /// The config asks for something that cannot be done.
    #[error("{found}: {expected}")]
    Unsupported {
        /// What the config says.
        found: String,
        /// What works, and what to do.
        expected: String,
    },
    /// A GPU that a rank is to compute on is not there.
    #[error(
        "found {there} GPUs; expected one with the number {number} (GPU {number}), as each rank of a host computes on one of its \
         own with `cluster.backend: nccl`. Start no more ranks than a host has GPUs (`cluster.ranks_per_node`), or take \
         `cluster.backend: mpi` for processors; `blip2-rank self-check` says which libraries and GPUs are found"
    )]
    NoGpu {
        /// Its number, from 0.
        number: usize,
        /// How many there are.
        there: usize,
    },
    /// Samples could not be read, or an object store could not do what was asked.
    #[error(transparent)]
    Store(#[from] data_pipeline::error::DataError),
    /// The thread that talks to object stores could not be set up.
    #[error("cannot set up input and output for object stores; check the limits of this process (`ulimit -n`)")]
    Runtime(#[source] std::io::Error),
    /// The operating system gave no random bytes.
    #[error("the operating system gave no random bytes for a run log entry ({0}); check that /dev/urandom can be read")]
    NoRandomBytes(getrandom::Error),
    /// The store cannot keep two processes from owning one run.
    #[error(
        "{uri}: found {found}; expected a store that writes an object only if it is absent (put-if-absent), by which \
         one process alone owns a run. Use a path, s3:// with conditional writes (`If-None-Match: *`; AWS has them), \
         gs:// or az://"
    )]
    NoPutIfAbsent {
        /// The run.
        uri: String,
        /// What the store did.
        found: String,
    },
    /// Another process has taken over the run.
    #[error(
        "{uri}: found that {holder} took over this run (epoch {found}, ours was {own}); expected to be its only writer. This process must stop; nothing of the new holder was touched"
    )]
    Fenced {
        /// The log entry that says so.
        uri: String,
        /// The new holder, in words.
        holder: String,
        /// The new holder's epoch.
        found: u64,
        /// The epoch of this process.
        own: u64,
    },
    /// Another process holds the run and lives.
    #[error(
        "{uri}: found that {holder} holds this run and lives: its heartbeat counts on. Expected nobody; nothing was touched. Wait for it, end it there, or give this run another run.output"
    )]
    Held {
        /// The run.
        uri: String,
        /// The holder, in words.
        holder: String,
    },
    /// The log entry could not be written although nobody else wrote it.
    #[error(
        "{uri}: found the run log still changing after {tries} tries to append; expected one writer. Check which jobs write to this folder"
    )]
    LogBusy {
        /// The entry that was tried last.
        uri: String,
        /// Tries made.
        tries: u32,
    },
    /// A checkpoint's files are not what its manifest says.
    #[error("{uri}: {reason}. Name another checkpoint, or the run's folder to use its newest one that verifies")]
    BadCheckpoint {
        /// The file or folder.
        uri: String,
        /// What was found and what was expected.
        reason: String,
    },
    /// A run has checkpoints, and not one of them verifies.
    #[error(
        "{uri}: found {count} committed checkpoints and none that verifies ({reasons}). Restore one from a backup, or start in an empty folder"
    )]
    NoUsableCheckpoint {
        /// The run.
        uri: String,
        /// Commits that were tried.
        count: usize,
        /// Why the newest ones do not verify.
        reasons: String,
    },
    /// A place that was expected to hold a checkpoint holds none.
    #[error(
        "{uri}: found neither a manifest.json nor a committed checkpoint; expected a checkpoint folder (…/stage1/step-…/…) or a run's folder. Check the URI"
    )]
    NoCheckpoint {
        /// The URI as given.
        uri: String,
    },
    /// The state that is to be saved contradicts itself.
    #[error("cannot save this state: {0}")]
    BadSnapshot(String),
    /// A line of a metrics file is none.
    #[error("{uri}: line {line} is no metrics record. Restore the file or remove the line")]
    BadMetrics {
        /// The file.
        uri: String,
        /// The line, counted from 1.
        line: usize,
        /// What is wrong with it.
        #[source]
        source: serde_json::Error,
    },
    /// A local file could not be written or read.
    #[error("{path}: cannot {action}: {source}. Check the rights and the free space there")]
    File {
        /// The file.
        path: String,
        /// What was tried: "write", "create" …
        action: &'static str,
        /// The system's own words.
        #[source]
        source: std::io::Error,
    },
    /// A file of weights cannot be used.
    #[error("the weights file {uri} cannot be used: {reason}")]
    WeightsFile {
        /// Where it lies.
        uri: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A file is not the one that the config names.
    #[error(
        "{uri} has the SHA-256 {found}, expected {expected}; bring the file that the config names, or correct `sha256`"
    )]
    OtherContent {
        /// Where it lies.
        uri: String,
        /// Of the file.
        found: String,
        /// In the config.
        expected: String,
    },
    /// The config asks for something that this version cannot do, or that does not fit together.
    #[error("{found}; expected {expected}. {advice}")]
    Setting {
        /// What the config says.
        found: String,
        /// What is possible.
        expected: String,
        /// What to do.
        advice: String,
    },
}

/// The result of everything in this crate.
pub type Result<T> = std::result::Result<T, TrainerError>;
