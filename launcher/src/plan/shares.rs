//! How ranks share the slices of a batch, as `trainer/src/slices.rs` has it.

use std::ops::Range;

/// The contiguous share of a rank; shares differ by one slice at most.
pub fn owned(rank: usize, ranks: usize, slices: usize) -> Range<usize> {
    rank * slices / ranks..(rank + 1) * slices / ranks
}

/// Slices of the rank that has most of them.
pub fn most_slices(ranks: usize, slices: usize) -> usize {
    slices.div_ceil(ranks.max(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_largest_share_is_the_ceiling() {
        for slices in 1..40 {
            for ranks in 1..=slices {
                let most = (0..ranks).map(|rank| owned(rank, ranks, slices).len()).max();
                assert_eq!(most, Some(most_slices(ranks, slices)), "{ranks} ranks, {slices} slices");
            }
        }
    }
}
