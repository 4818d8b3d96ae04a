//! One row becomes one sample, or the next usable row of its window takes its place.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use arrow::array::{Array, AsArray, ListArray};

use super::LoaderSettings;
use super::batch::Skipped;
use super::stream::{Ordered, Stream};
use super::windows::WindowDraw;
use crate::error::{DataError, Result};
use crate::order::{Address, WindowId};
use crate::rng::{CounterRng, Purpose};
use crate::rows::Rows;

/// A decoded sample without its pixels, which lie in the batch.
pub(super) struct Sample {
    pub(super) source: usize,
    pub(super) caption: String,
    /// Empty where the source has none.
    pub(super) question: String,
    pub(super) key: String,
    pub(super) id: u64,
    pub(super) encoded_bytes: u64,
    pub(super) skipped: Vec<Skipped>,
}

/// Everything that decoding a sample needs, shared by all decode threads.
pub(super) struct SampleLoader {
    pub(super) settings: LoaderSettings,
    pub(super) stream: Arc<Stream>,
    /// Nanoseconds that decode threads have worked.
    pub(super) decoding: Arc<AtomicU64>,
}

impl SampleLoader {
    /// Decodes the drawn row into `slot`. A row that cannot be used is replaced by a pure function of its address: the
    /// row that the same window's order holds one or more steps' worth of draws later.
    ///
    /// # Errors
    /// [`DataError::NoUsableRow`].
    pub(super) fn load(&self, drawn: &WindowDraw, slot: &mut [f32]) -> Result<Sample> {
        let ordered = &self.stream.sources[drawn.source];
        let (id, offset) = (&drawn.draw.window, drawn.draw.offset);
        let rows_in_window = ordered.order.window_rows(id);
        let stride = self.stream.rows_per_step();
        let mut skipped = Vec::new();
        for attempt in 0..rows_in_window {
            let candidate = substitute(offset, attempt, rows_in_window, stride);
            let address = ordered.address(id, candidate);
            match self.try_row(drawn, address, slot) {
                Ok(mut sample) => {
                    sample.skipped = skipped;
                    return Ok(sample);
                }
                Err(reason) => {
                    let place = ordered.source.catalog.place(address.row_group, address.row);
                    skipped.push(Skipped { source: drawn.source, place, reason });
                }
            }
        }
        let address = ordered.address(id, offset);
        Err(DataError::NoUsableRow {
            place: ordered.source.catalog.place(address.row_group, address.row),
            rows: rows_in_window,
            reason: skipped.pop().map_or_else(|| "none".into(), |last| last.reason),
        })
    }

    fn try_row(&self, drawn: &WindowDraw, address: Address, slot: &mut [f32]) -> std::result::Result<Sample, String> {
        let ordered = &self.stream.sources[drawn.source];
        let rows = drawn.window.rows(address.row_group)?;
        let row = address.row;
        let group = ordered.source.catalog.row_groups[address.row_group];
        let id = ordered.first_sample + group.first_row + row as u64;
        if let Some(reason) = rows.unusable(row) {
            return Err(reason.into());
        }
        let (question, raw) = match &rows.question_lists {
            Some(lists) if self.settings.asks => {
                let (question, answer) = self.asked(lists, row, (address.epoch, id)).ok_or("no_question")?;
                (Some(question), answer)
            }
            _ => {
                let raw = self.caption(ordered, rows, row, (address.epoch, id)).ok_or("no_caption")?;
                (rows.questions.as_ref().map(|all| all.value(row)), raw)
            }
        };
        let question = question.map(|raw| self.settings.captions.question(raw));
        let caption = self.text(raw, question.is_some())?;
        let encoded = rows.images.value(row);
        let LoaderSettings { transform, limits, layout, .. } = &self.settings;
        let mut rng = CounterRng::new(layout.seed, Purpose::Augment, &[address.epoch, id]);
        transform.load(encoded, limits, &mut rng, slot).map_err(|error| error.reason())?;
        let key = rows.keys.as_ref().filter(|k| k.is_valid(row)).map_or("", |k| k.value(row)).to_owned();
        let (source, encoded_bytes, question) = (drawn.source, encoded.len() as u64, question.unwrap_or_default());
        Ok(Sample { source, caption, question, key, id, encoded_bytes, skipped: Vec::new() })
    }

    /// The clean caption, or the answer to a question, which stays as it is published (as in LAVIS): cleaning would take
    /// the points out of `3.50`.
    fn text(&self, raw: &str, is_answer: bool) -> std::result::Result<String, &'static str> {
        if is_answer {
            let answer = raw.trim();
            return if answer.is_empty() { Err("no_answer") } else { Ok(answer.to_owned()) };
        }
        let caption = self.settings.captions.caption(raw);
        if caption.len() == self.settings.captions.prompt.len() { Err("no_caption") } else { Ok(caption) }
    }

    /// One of the row's questions with its answer, drawn by counter.
    fn asked<'a>(&self, lists: &'a ListArray, row: usize, (epoch, id): (u64, u64)) -> Option<(&'a str, &'a str)> {
        let count = (lists.is_valid(row)).then(|| lists.value_length(row) as u64).filter(|count| *count > 0)?;
        let drawn = CounterRng::new(self.settings.layout.seed, Purpose::Caption, &[epoch, id]).below(count) as usize;
        let place = lists.value_offsets()[row] as usize + drawn;
        let text = |name: &str| {
            let texts = lists.values().as_struct().column_by_name(name)?.as_string_opt::<i32>()?;
            texts.is_valid(place).then(|| texts.value(place))
        };
        Some((text("question")?, text("answer")?))
    }

    /// The row's caption; one drawn by counter when there are several. Of a question's answers every one has the same
    /// chance, so an answer that seven of ten people gave has seven tenths: the weight it has in LAVIS.
    fn caption<'a>(&self, ordered: &Ordered, rows: &'a Rows, row: usize, (epoch, id): (u64, u64)) -> Option<&'a str> {
        let texts = rows.texts(row);
        let count = ordered.source.top_captions.map_or(texts.len(), |top| texts.len().min(top.max(1)));
        let mut rng = CounterRng::new(self.settings.layout.seed, Purpose::Caption, &[epoch, id]);
        match count {
            0 | 1 => texts.first().copied(),
            _ => Some(texts[rng.below(count as u64) as usize]),
        }
    }
}

impl Ordered {
    /// The row at `offset` of a window's shuffled order, as it is numbered in its row group.
    fn address(&self, id: &WindowId, offset: u64) -> Address {
        let address = self.order.address(id, offset);
        Address { row: self.source.catalog.row_of(address.row_group, address.row), ..address }
    }
}

/// The offset that is tried as number `attempt` in place of `offset`: whole steps further on, so that a step does not
/// deliver a row twice, then the rows between; all `rows` offsets once for `attempt` in `0..rows`.
fn substitute(offset: u64, attempt: u64, rows: u64, rows_per_step: u64) -> u64 {
    let stride = if rows_per_step < rows { rows_per_step } else { 1 };
    let (mut divisor, mut rest) = (rows, stride);
    while rest > 0 {
        (divisor, rest) = (rest, divisor % rest);
    }
    let round = rows / divisor;
    (offset + attempt * stride + attempt / round) % rows
}

#[cfg(test)]
mod tests {
    use super::substitute;

    #[test]
    fn every_row_of_a_window_is_tried_once_beginning_with_the_drawn_one() {
        for (rows, stride) in [(1, 1), (7, 2), (100, 8), (100, 30), (5, 9), (64, 64), (96, 60)] {
            for offset in [0, rows / 2, rows - 1] {
                let mut tried: Vec<u64> = (0..rows).map(|attempt| substitute(offset, attempt, rows, stride)).collect();
                assert_eq!(tried[0], offset);
                tried.sort_unstable();
                assert_eq!(tried, (0..rows).collect::<Vec<_>>(), "rows {rows}, stride {stride}");
            }
        }
    }

    #[test]
    fn the_first_substitutes_belong_to_other_steps() {
        assert_eq!((1..4).map(|attempt| substitute(3, attempt, 100, 8)).collect::<Vec<_>>(), [11, 19, 27]);
    }
}
