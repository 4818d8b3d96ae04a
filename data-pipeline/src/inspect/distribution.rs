//! How some numbers are spread: smallest, middle, largest, and counts between fixed edges.

use serde::Serialize;

/// Numbers from `from` on, up to the next bin.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Bin {
    /// The lower edge, included.
    pub from: u64,
    /// Numbers.
    pub count: u64,
}

/// How some numbers are spread.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Distribution {
    /// Smallest.
    pub min: u64,
    /// Middle.
    pub median: u64,
    /// Largest.
    pub max: u64,
    /// Counts from each edge to the next one; the last bin has no end.
    pub bins: Vec<Bin>,
}

impl Distribution {
    /// The distribution of some numbers over bins that begin at `edges`, of which the first one is 0; nothing for none.
    pub fn of(mut values: Vec<u64>, edges: &[u64]) -> Option<Self> {
        values.sort_unstable();
        let below = |edge: u64| values.partition_point(|value| *value < edge);
        let ends = edges.iter().skip(1).map(|edge| below(*edge)).chain([values.len()]);
        let bins = edges.iter().zip(ends).map(|(from, end)| Bin { from: *from, count: (end - below(*from)) as u64 });
        let bins = bins.collect();
        Some(Self { min: *values.first()?, median: values[values.len() / 2], max: *values.last()?, bins })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_counted_between_edges() {
        let found = Distribution::of(vec![9, 0, 3, 4, 4, 100], &[0, 4, 8]).unwrap();
        assert_eq!((found.min, found.median, found.max), (0, 4, 100));
        assert_eq!(found.bins.iter().map(|bin| (bin.from, bin.count)).collect::<Vec<_>>(), [(0, 2), (4, 2), (8, 2)]);
        assert_eq!(Distribution::of(Vec::new(), &[0, 4]), None);
    }
}
