//! The losses: pure functions of tensors, without a word about ranks.
//!
//! Letters: `b` rows of a slice, `G` rows of the global batch, `Q` queries, `E` width of the projections, `T` text
//! positions, `W` words of the vocabulary.

pub mod itc;
pub mod itm;
pub mod lm;
pub mod negatives;
