//! What ranks receive from each other in one step, counted as `trainer/src/slices/traffic.rs` counts it.

use configs::parameters::Tensors;
use configs::{Model, Reduction, Stage};

use super::shares::{most_slices, owned};

/// Bytes that the rank which receives most of them gets from others in one step.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Traffic {
    /// Features, texts, drawn numbers, losses and parts of the norm of all slices, and the updated weights.
    pub gathered: u64,
    /// The image encoder's outputs of drawn images, at most; where it is trained their gradients, too.
    pub negatives: u64,
    /// Sums of gradients.
    pub gradients: u64,
}

impl Traffic {
    /// All of it.
    pub fn total(&self) -> u64 {
        self.gathered + self.negatives + self.gradients
    }
}

/// Who exchanges what.
#[derive(Clone, Copy, Debug)]
pub struct Exchange<'a> {
    /// The model.
    pub model: &'a Model,
    /// The stage.
    pub stage: &'a Stage,
    /// How gradients are summed.
    pub reduction: Reduction,
    /// Ranks.
    pub ranks: usize,
    /// Tokens of the longest text of a batch.
    pub text_tokens: usize,
    /// Bytes of a number of the image encoder's output.
    pub element: u64,
}

impl Exchange<'_> {
    /// The bytes of one step, the losses' report included.
    pub fn traffic(&self) -> Traffic {
        if self.ranks < 2 {
            return Traffic::default();
        }
        let others = self.ranks as u64 - 1;
        // Ranks with fewer slices send padding in place of the missing ones.
        let gathered =
            |bytes_of_slice: u64| others * most_slices(self.ranks, self.stage.slices()) as u64 * bytes_of_slice;
        let flat = Tensors::trained(self.model, self.stage).flat_len(self.stage.slices());
        let backward_passes = 1 + u64::from(self.stage.train_image_encoder());
        match self.reduction {
            Reduction::Exact => Traffic {
                gathered: gathered(self.of_slice() + 4 * flat / self.stage.slices() as u64),
                negatives: self.negatives(),
                gradients: backward_passes * self.gradients(4 * flat / self.stage.slices() as u64),
            },
            // A ring: every rank receives all but its own part twice.
            Reduction::AllReduce => Traffic {
                gathered: gathered(self.of_slice()),
                negatives: self.negatives(),
                gradients: backward_passes * 2 * others * 4 * flat / self.ranks as u64,
            },
        }
    }

    /// What every slice tells all ranks, without its weights.
    fn of_slice(&self) -> u64 {
        let rows = self.stage.slice_size() as u64;
        // Longest texts, before the slices are padded; the squares of a chunk.
        let always = 3 * 8 + 8;
        let Stage::Representation(stage) = self.stage else { return always + 2 * 4 };
        let qformer = &self.model.qformer;
        let features = 4 * qformer.projection_dim as u64 * (qformer.num_query_tokens as u64 + 1);
        let texts = 2 * 8 * self.text_tokens as u64;
        let drawn = if stage.losses.itm > 0.0 { 8 } else { 0 };
        let numbers = if stage.match_by_image_id { 8 } else { 0 };
        always + 4 * 4 + rows * (features + texts + drawn + numbers)
    }

    /// All images that a rank's slices draw, as if none were its own.
    fn negatives(&self) -> u64 {
        let Stage::Representation(stage) = self.stage else { return 0 };
        if stage.losses.itm <= 0.0 {
            return 0;
        }
        let encoder = &self.model.image_encoder;
        let image = (encoder.num_tokens() * encoder.sizes().width) as u64 * self.element;
        let drawn = (most_slices(self.ranks, self.stage.slices()) * self.stage.slice_size()) as u64;
        drawn * image * if stage.train_image_encoder { 2 } else { 1 }
    }

    /// A rank receives, for each of its chunks, one partial sum for each whole subtree of slices that another rank has.
    fn gradients(&self, chunk: u64) -> u64 {
        let slices = self.stage.slices();
        let sums: Vec<usize> = (0..self.ranks)
            .map(|rank| {
                let range = owned(rank, self.ranks, slices);
                whole_subtrees(0, slices, range.start, range.end)
            })
            .collect();
        let all: usize = sums.iter().sum();
        let received = |rank: usize| (all - sums[rank]) as u64 * owned(rank, self.ranks, slices).len() as u64 * chunk;
        (0..self.ranks).map(received).max().unwrap_or(0)
    }
}

/// How many of the largest nodes of the tree over `start..start + len` lie inside `from..to`; the left child has the largest
/// power of two below `len` (`trainer/src/slices/sum.rs`).
fn whole_subtrees(start: usize, len: usize, from: usize, to: usize) -> usize {
    if from <= start && start + len <= to {
        return 1;
    }
    if len == 1 || start + len <= from || to <= start {
        return 0;
    }
    let left = len.next_power_of_two() / 2;
    whole_subtrees(start, left, from, to) + whole_subtrees(start + left, len - left, from, to)
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::super::tests::preset;
    use super::*;

    /// The counters of real steps of `mid`, 4 images on each rank, as docs/benchmarks/step.md tells of them.
    #[test]
    fn bytes_are_those_that_ranks_counted() {
        let counted: Value = serde_json::from_str(include_str!("../../../docs/benchmarks/step.json")).unwrap();
        let rows = counted["traffic"].as_array().unwrap();
        assert_eq!(rows.len(), 3);
        // The longest captions of those batches.
        for (row, text_tokens) in rows.iter().zip([31, 31, 32]) {
            let ranks = row["world_size"].as_u64().unwrap() as usize;
            let run = preset(
                "mid",
                &[
                    &format!("stages.representation.global_batch={}", 4 * ranks),
                    &format!("stages.representation.slices={ranks}"),
                ],
            );
            let (model, stage) = (&run.model, &run.stages[0]);
            let exchange = Exchange { model, stage, reduction: Reduction::Exact, ranks, text_tokens, element: 4 };
            let found = exchange.traffic();
            assert_eq!(found.gradients, row["gradients_bytes"], "{ranks} ranks");
            // The benchmark knows how long its texts are; ranks of a run tell each other.
            let lengths = 24 * (ranks as u64 - 1);
            assert_eq!(found.gathered - lengths, row["gathered_bytes"], "{ranks} ranks");
            assert_eq!(found.negatives, row["bytes_of_one_slice"], "{ranks} ranks");
            assert!(found.negatives >= row["negatives_bytes"].as_u64().unwrap(), "{ranks} ranks");
        }
    }

    #[test]
    fn one_rank_receives_nothing_and_shares_need_not_be_equal() {
        let run = preset("vitg_opt2.7b", &[]);
        let of = |ranks: usize, stage: usize, reduction| {
            let (model, stage) = (&run.model, &run.stages[stage]);
            Exchange { model, stage, reduction, ranks, text_tokens: 32, element: 2 }.traffic()
        };
        assert_eq!(of(1, 0, Reduction::Exact), Traffic::default());
        assert_eq!(of(16, 1, Reduction::Exact).negatives, 0);
        // 5 ranks for 16 slices: some have 4 slices, and their subtrees are cut.
        assert!(of(5, 0, Reduction::Exact).gradients > of(4, 0, Reduction::Exact).gradients);
        let [exact, all_reduce] = [Reduction::Exact, Reduction::AllReduce].map(|kind| of(16, 0, kind).total());
        assert!((exact as f64 / all_reduce as f64 - 1.0).abs() < 0.05, "{exact} and {all_reduce}");
    }

    #[test]
    fn subtrees_are_those_of_the_sum() {
        assert_eq!(whole_subtrees(0, 8, 0, 8), 1);
        assert_eq!(whole_subtrees(0, 8, 0, 3), 2);
        assert_eq!(whole_subtrees(0, 8, 3, 6), 2);
        assert_eq!(whole_subtrees(0, 6, 4, 6), 1);
    }
}
