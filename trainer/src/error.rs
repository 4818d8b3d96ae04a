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
    /// Ranks could not talk.
    #[error(transparent)]
    Cluster(#[from] cluster::ClusterError),
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
    /// The data could not be read or written.
    #[error(transparent)]
    Data(#[from] data_pipeline::DataError),
    /// The system gave no runtime for input and output.
    #[error("input and output could not be started")]
    Runtime {
        /// The system's own words.
        #[source]
        source: std::io::Error,
    },
}
