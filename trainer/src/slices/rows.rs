//! Rows of the global batch that a slice wants of others, and gradients on their way back.

use tch::Tensor;

use super::wire::{Like, append};
use super::{SliceMap, owner};
use crate::TrainerError;

/// A gradient that came back for a row of this rank.
#[derive(Debug)]
pub struct DrawnGradient {
    /// The slice that drew the row.
    pub drawn_by: usize,
    /// At which place among its draws.
    pub place: usize,
    /// The row of the global batch.
    pub row: i64,
    /// The gradient with respect to the row.
    pub gradient: Tensor,
}

/// Rows of the global batch in the order of one exchange: who wants them, and who holds them.
struct Exchange<'a> {
    map: &'a SliceMap<'a>,
    wanted: &'a [Vec<i64>],
    round: usize,
    rows_per_slice: i64,
}

impl Exchange<'_> {
    fn me(&self) -> usize {
        self.map.ranks.rank()
    }

    fn holder(&self, row: i64) -> usize {
        owner((row / self.rows_per_slice) as usize, self.map.ranks.world_size(), self.map.slices)
    }

    /// The slice that a rank computes in this round.
    fn slice_of(&self, rank: usize) -> Option<usize> {
        self.map.of(rank).nth(self.round)
    }

    fn wanted_by(&self, rank: usize) -> &[i64] {
        self.slice_of(rank).map_or(&[][..], |slice| self.wanted[slice].as_slice())
    }

    /// What another rank wants of this one's rows, as (place among its draws, row).
    fn wanted_of_me(&self, rank: usize) -> impl Iterator<Item = (usize, i64)> {
        let rows = self.wanted_by(rank).iter().copied().enumerate();
        rows.filter(move |(_, row)| rank != self.me() && self.holder(*row) == self.me())
    }

    /// What this rank wants of another's rows, in the same form.
    fn wanted_by_me(&self, rank: usize) -> impl Iterator<Item = (usize, i64)> {
        let rows = self.wanted_by(self.me()).iter().copied().enumerate();
        rows.filter(move |(_, row)| rank != self.me() && self.holder(*row) == rank)
    }

    /// Sends every rank its tensors and gives back what came from each, `expected` tensors like `like`.
    fn swap(
        &self,
        like: &Like,
        sent: impl Fn(usize) -> Vec<Tensor>,
        expected: impl Fn(usize) -> usize,
    ) -> Result<Vec<Vec<Tensor>>, TrainerError> {
        if self.map.ranks.world_size() == 1 {
            return Ok(vec![Vec::new()]);
        }
        let part = |rank: usize| {
            let mut bytes = Vec::new();
            sent(rank).iter().for_each(|tensor| append(&mut bytes, tensor));
            bytes
        };
        let parts: Vec<Vec<u8>> = self.map.all_ranks().map(part).collect();
        let expected: Vec<usize> = self.map.all_ranks().map(|rank| like.bytes * expected(rank)).collect();
        let parts: Vec<&[u8]> = parts.iter().map(Vec::as_slice).collect();
        let received = self.map.ranks.all_to_all(&parts, &expected)?;
        self.map.received(|traffic| traffic.negatives += expected.iter().sum::<usize>());
        Ok(received.iter().map(|bytes| like.read_all(bytes)).collect())
    }
}

impl SliceMap<'_> {
    /// The rows of the global batch that the `round`-th slice of this rank wants, in that order; none when this rank has
    /// no such slice. Every rank calls it for every round, and only rows that are wanted travel.
    ///
    /// # Shapes
    /// `own`: `[b, …]` for each own slice; `wanted`: rows for each slice of the global batch; result: `[n, …]`.
    ///
    /// # Errors
    /// When ranks cannot talk.
    pub fn fetch(&self, own: &[Tensor], wanted: &[Vec<i64>], round: usize) -> Result<Option<Tensor>, TrainerError> {
        let rows_per_slice = own[0].size()[0];
        let exchange = Exchange { map: self, wanted, round, rows_per_slice };
        let (me, first) = (exchange.me(), self.own().start);
        let local = |row: i64| own[(row / rows_per_slice) as usize - first].get(row % rows_per_slice);
        let sent = |rank: usize| exchange.wanted_of_me(rank).map(|(_, row)| local(row)).collect();
        let like = Like::of(&own[0].get(0));
        let travelled = exchange.swap(&like, sent, |rank| exchange.wanted_by_me(rank).count())?;
        let mut travelled: Vec<_> = travelled.into_iter().map(Vec::into_iter).collect();
        let row = |row: &i64| match exchange.holder(*row) {
            rank if rank == me => local(*row),
            rank => travelled[rank].next().expect("invariant: a rank sends every row that is wanted of it"),
        };
        let rows: Vec<Tensor> = exchange.wanted_by(me).iter().map(row).collect();
        Ok((!rows.is_empty()).then(|| Tensor::stack(&rows, 0)))
    }

    /// Sends the gradients of the rows that [`Self::fetch`] gave in a round back to their holders, and gives those of the
    /// rows that this rank holds. Every rank calls it for every round.
    ///
    /// # Shapes
    /// `gradients`: `[n, …]`, of the fetched rows, none where none were fetched; `like`: `[b, …]`, as a slice's rows.
    ///
    /// # Errors
    /// When ranks cannot talk.
    pub fn give_back(
        &self,
        gradients: Option<&Tensor>,
        (wanted, round): (&[Vec<i64>], usize),
        like: &Tensor,
    ) -> Result<Vec<DrawnGradient>, TrainerError> {
        let exchange = Exchange { map: self, wanted, round, rows_per_slice: like.size()[0] };
        let me = exchange.me();
        let gradient =
            |place: usize| gradients.expect("invariant: rows that were fetched have gradients").get(place as i64);
        let sent = |rank: usize| exchange.wanted_by_me(rank).map(|(place, _)| gradient(place)).collect();
        let received = exchange.swap(&Like::of(&like.get(0)), sent, |rank| exchange.wanted_of_me(rank).count())?;
        let mut all = Vec::new();
        for (rank, gradients) in received.into_iter().enumerate() {
            let Some(drawn_by) = exchange.slice_of(rank) else { continue };
            let of_others = exchange.wanted_of_me(rank).zip(gradients);
            all.extend(of_others.map(|((place, row), gradient)| DrawnGradient { drawn_by, place, row, gradient }));
        }
        if let Some(drawn_by) = exchange.slice_of(me) {
            let own = exchange.wanted_by(me).iter().enumerate().filter(|(_, row)| exchange.holder(**row) == me);
            all.extend(own.map(|(place, row)| DrawnGradient { drawn_by, place, row: *row, gradient: gradient(place) }));
        }
        Ok(all)
    }
}
