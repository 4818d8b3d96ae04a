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
}
