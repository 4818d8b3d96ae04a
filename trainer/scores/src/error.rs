//! Everything that can make a score impossible.

/// An error of the scores. Messages say what was found, what was expected and what to do.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ScoresError {
    /// There is nothing to score.
    #[error("no {what} to score: expected one at least. Check the file of annotations and its filters")]
    Nothing {
        /// What there is none of: "captions", "answers".
        what: &'static str,
    },
    /// An item without anything to compare with.
    #[error("{id}: no {what}; expected one at least. Leave the item out, or give what it is compared with")]
    NoReference {
        /// The image or question.
        id: String,
        /// What it lacks: "references", "ground truths".
        what: &'static str,
    },
    /// Two items with one id.
    #[error("{id}: two items have this id; expected one caption or answer for each. Leave out what was scored twice")]
    Duplicate {
        /// The image or question.
        id: String,
    },
}
