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
    /// Training has diverged.
    #[error(
        "{what} are not finite: training has diverged. Lower the peak learning rate, lengthen the warm-up, or look at \
         the samples of this step"
    )]
    NotFinite {
        /// What was looked at.
        what: &'static str,
    },
    /// Samples could not be read.
    #[error(transparent)]
    Data(#[from] data_pipeline::DataError),
    /// The config asks for something that cannot be done.
    #[error("{found}: {expected}")]
    Unsupported {
        /// What the config says.
        found: String,
        /// What works, and what to do.
        expected: String,
    },
}
