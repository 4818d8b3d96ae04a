//! Rows of different lengths without their padding: what is computed position by position takes only positions that count,
//! and attention sees them in a grid.
//!
//! Letters: `B` rows, `Q` queries, `T` text positions, `S = Q + T`, `M` positions that count, `D` width.

use tch::{Device, Kind, Tensor};

use crate::device::upload;
use crate::shim::{Rows, moved};

/// Words are packed into a multiple of this number for each row. Libraries that compile or tune a kernel for every shape
/// (oneDNN in bf16, above all) then meet some ten shapes instead of hundreds.
const WORDS_PER_ROW: i64 = 2;

/// Where positions stand: packed, all queries come first, then the texts one after the other and a few spare positions;
/// in the grid, a row has its queries, its text and its padding.
#[derive(Debug)]
pub struct Layout {
    /// `B`.
    pub rows: i64,
    /// `Q`; 0 when there are texts only.
    pub queries: i64,
    length: i64,
    texts: Option<Texts>,
}

#[derive(Debug)]
struct Texts {
    /// Places of the words that count in `[B · T]`; spare positions repeat the first.
    words: Tensor,
    /// Spare positions behind the words.
    spare: i64,
    packed: Rows,
    grid: Rows,
}

impl Layout {
    /// Queries only: packed and grid are the same.
    pub fn queries(rows: i64, queries: i64) -> Self {
        Self { rows, queries, length: queries, texts: None }
    }

    /// Texts, behind queries when there are any.
    ///
    /// # Shapes
    /// `mask`: `[B, T]`, 1 for tokens and 0 for padding; places are found on the processor and then kept on `device`, so a mask
    /// that is there already costs a wait for the device.
    pub fn texts(mask: &Tensor, queries: i64, device: Device) -> Self {
        let mask = mask.to_device(Device::Cpu);
        let (rows, most) = mask.size2().expect("invariant: a mask is [B, T]");
        let length = queries + most;
        let numbers = |from: i64, to: i64| Tensor::arange_start(from, to, (Kind::Int64, mask.device()));
        let words = mask.flatten(0, 1).nonzero().squeeze_dim(1);
        let count = words.size()[0];
        let unit = rows * WORDS_PER_ROW;
        let spare = (unit - count % unit) % unit;
        let of_queries = (numbers(0, rows).unsqueeze(1) * length + numbers(0, queries)).flatten(0, 1);
        let of_words = &words + (words.divide_scalar_mode(most, "floor") + 1) * queries;
        let places = Tensor::cat(&[of_queries, of_words], 0);
        let counted = places.size()[0];
        let nowhere = Tensor::full([rows * length], -1, (Kind::Int64, mask.device()));
        let inverse = nowhere.index_copy(0, &places, &numbers(0, counted));
        let spared = |x: &Tensor| Tensor::cat(&[x, &x.narrow(0, 0, 1).expand([spare], false)], 0);
        let there = |x: Tensor| upload(&x, device);
        let packed = Rows { from: there(spared(&places)), hollow: there(numbers(counted, counted + spare)) };
        let hollow = inverse.lt(0).nonzero().squeeze_dim(1);
        let grid = Rows { from: there(inverse.clamp_min(0)), hollow: there(hollow) };
        Self { rows, queries, length, texts: Some(Texts { words: there(spared(&words)), spare, packed, grid }) }
    }

    /// What `[B, T]` has at the words that count, and `spare` at spare positions: `[M - B · Q]`.
    ///
    /// # Panics
    /// When there are queries only.
    pub fn words(&self, of: &Tensor, spare: i64) -> Tensor {
        let texts = self.packed_texts();
        let taken = of.flatten(0, 1).index_select(0, &texts.words);
        let _ = taken.narrow(0, taken.size()[0] - texts.spare, texts.spare).fill_(spare);
        taken
    }

    /// Where the words stand in their texts, `[M - B · Q]`.
    ///
    /// # Panics
    /// When there are queries only.
    pub fn positions(&self) -> Tensor {
        self.packed_texts().words.remainder(self.length - self.queries)
    }

    fn packed_texts(&self) -> &Texts {
        self.texts.as_ref().expect("invariant: words are asked of a layout with texts")
    }

    /// `[M, D]` to `[B, S, D]`; padding becomes 0.
    pub fn unpack(&self, x: &Tensor) -> Tensor {
        let grid = match &self.texts {
            Some(texts) => moved(x, &texts.grid, &texts.packed),
            None => x.shallow_clone(),
        };
        grid.view([self.rows, self.length, -1])
    }

    /// `[B, S, D]` to `[M, D]`; spare positions become 0.
    pub fn pack(&self, x: &Tensor) -> Tensor {
        let x = x.flatten(0, 1);
        match &self.texts {
            Some(texts) => moved(&x, &texts.packed, &texts.grid),
            None => x,
        }
    }

    /// The first positions of each row, all of which count: `[M, D]` to `[B · count, D]`.
    pub fn first(&self, x: &Tensor, count: i64) -> Tensor {
        match &self.texts {
            Some(texts) if count != self.queries => {
                x.index_select(0, &texts.grid.from.view([self.rows, -1]).narrow(1, 0, count).flatten(0, 1))
            }
            _ => x.narrow(0, 0, self.rows * count),
        }
    }
}

#[cfg(test)]
mod tests {
    use tch::{Device, Kind, Tensor};

    use super::Layout;

    /// Two queries before each of three texts of 3, 1 and 2 words.
    #[test]
    fn what_counts_goes_to_the_grid_and_returns() {
        let mask = Tensor::from_slice(&[1_i64, 1, 1, 1, 0, 0, 1, 1, 0]).view([3, 3]);
        let layout = Layout::texts(&mask, 2, Device::Cpu);
        let ids = Tensor::arange_start(10, 19, (Kind::Int64, tch::Device::Cpu)).view([3, 3]);
        let whole = |x: Tensor| Vec::<i64>::try_from(x.view([-1])).unwrap();
        assert_eq!(whole(layout.words(&ids, -100)), [10, 11, 12, 13, 16, 17]);
        assert_eq!(whole(layout.positions()), [0, 1, 2, 0, 0, 1]);
        let packed = Tensor::arange_start(1, 13, (Kind::Float, tch::Device::Cpu)).view([12, 1]);
        let grid = layout.unpack(&packed);
        assert_eq!(whole(grid.to_kind(Kind::Int64)), [1, 2, 7, 8, 9, 3, 4, 10, 0, 0, 5, 6, 11, 12, 0]);
        assert_eq!(layout.pack(&grid), packed);
        assert_eq!(whole(layout.first(&packed, 2).to_kind(Kind::Int64)), [1, 2, 3, 4, 5, 6]);
    }

    /// Seven words of three rows are packed into twelve places; nothing comes back from the spare ones.
    #[test]
    fn spare_positions_neither_give_nor_take() {
        let mask = Tensor::from_slice(&[1_i64, 1, 1, 1, 0, 0, 1, 1, 1]).view([3, 3]);
        let layout = Layout::texts(&mask, 0, Device::Cpu);
        let ids = mask.cumsum(1, Kind::Int64);
        let words = Vec::<i64>::try_from(layout.words(&ids, -100)).unwrap();
        assert_eq!(words, [1, 2, 3, 1, 1, 2, 3, -100, -100, -100, -100, -100]);
        let x = Tensor::ones([12, 2], (Kind::Float, tch::Device::Cpu)).set_requires_grad(true);
        let grid = layout.unpack(&x);
        grid.sum(Kind::Float).backward();
        assert_eq!(f64::try_from(x.grad().sum(Kind::Float)).unwrap(), 14.0);
        assert_eq!(f64::try_from(x.grad().narrow(0, 7, 5).abs().sum(Kind::Float)).unwrap(), 0.0);
        assert_eq!(f64::try_from(layout.pack(&grid).narrow(0, 7, 5).abs().sum(Kind::Float)).unwrap(), 0.0);
        let first = layout.first(&Tensor::arange(12, (Kind::Int64, tch::Device::Cpu)).view([12, 1]), 1);
        assert_eq!(Vec::<i64>::try_from(first.view([-1])).unwrap(), [0, 3, 4]);
    }
}
