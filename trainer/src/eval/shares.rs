//! Evaluation on several ranks: each does its share, and all get to know everything.

use std::ops::Range;

use cluster::{Collective, gather_texts};
use tch::{Kind, Tensor};

use super::BATCH;
use super::images::in_batches;
use crate::TrainerError;
use crate::events::{Event, Events};
use crate::slices::owned;

/// The ranks of an evaluation.
#[derive(Clone, Copy)]
pub struct Shares<'a> {
    /// Who is there.
    pub ranks: &'a dyn Collective,
    /// Told of every batch: that a rank is at work.
    pub beat: &'a dyn Fn(),
}

impl Shares<'_> {
    /// Which of `len` things this rank does: whole batches, so that what is computed together does not depend on the ranks.
    pub fn own(&self, len: usize) -> Range<usize> {
        let batches = owned(self.ranks.rank(), self.ranks.world_size(), len.div_ceil(BATCH));
        (batches.start * BATCH).min(len)..(batches.end * BATCH).min(len)
    }

    /// Whether this is the rank that tells the result.
    pub fn is_first(&self) -> bool {
        self.ranks.rank() == 0
    }

    /// The best text of each of `len` things, written a batch at a time: every rank writes its share and is given those of all.
    /// `write` gives the texts of the things with these numbers, best first.
    ///
    /// # Errors
    /// Those of `write`; when ranks cannot talk.
    pub fn written(
        &self,
        len: usize,
        what: String,
        events: Events,
        write: impl Fn(&[usize]) -> Result<Vec<Vec<String>>, TrainerError>,
    ) -> Result<Vec<String>, TrainerError> {
        let own = self.own(len);
        let steps = own.len().div_ceil(BATCH) as u64;
        if self.is_first() {
            events.send(&Event::Phase { name: "evaluate".into(), what, steps });
        }
        let mut texts = Vec::with_capacity(own.len());
        for (step, rows) in in_batches(own, BATCH).enumerate() {
            (self.beat)();
            texts.extend(write(&rows)?.into_iter().map(|mut of_one| of_one.swap_remove(0)));
            if self.is_first() {
                events.progress("evaluate", step as u64 + 1, steps);
            }
        }
        self.texts(&texts)
    }

    /// The texts of all ranks, in the order of the ranks. Every rank calls it.
    fn texts(&self, own: &[String]) -> Result<Vec<String>, TrainerError> {
        let mut all = Vec::new();
        for part in gather_texts(self.ranks, &serde_json::to_string(own)?)? {
            all.extend(serde_json::from_str::<Vec<String>>(&part)?);
        }
        Ok(all)
    }

    /// The rows of all ranks, in the order of the ranks, on the processor. Every rank calls it; ranks may have different
    /// numbers of rows, all of one shape.
    ///
    /// # Shapes
    /// `own`: `[n, …]`, f32.
    ///
    /// # Errors
    /// When ranks cannot talk.
    pub fn rows(&self, own: &Tensor) -> Result<Tensor, TrainerError> {
        let own = own.to_kind(Kind::Float).to_device(tch::Device::Cpu).contiguous();
        if self.ranks.world_size() == 1 {
            return Ok(own);
        }
        let length = |bytes: &[u8]| bytes.try_into().map_or(0, u64::from_le_bytes) as usize;
        let lengths = self.ranks.all_gather(&own.size()[0].to_le_bytes())?;
        let lengths: Vec<usize> = lengths.chunks_exact(8).map(length).collect();
        let row = 4 * own.size()[1..].iter().product::<i64>() as usize;
        let most = lengths.iter().max().copied().unwrap_or(0) * row;
        let mut sent = vec![0; most];
        own.copy_data_u8(&mut sent, own.numel());
        let received = self.ranks.all_gather(&sent)?;
        let shape = |rows: usize| [&[rows as i64], &own.size()[1..]].concat();
        let part = |(rank, rows): (usize, &usize)| {
            let bytes = &received[rank * most..rank * most + rows * row];
            Tensor::from_data_size(bytes, &shape(*rows), Kind::Float)
        };
        Ok(Tensor::cat(&lengths.iter().enumerate().map(part).collect::<Vec<_>>(), 0))
    }
}
