//! One row becomes one sample, or the next usable row of its window takes its place.

use std::cell::RefCell;
use std::sync::Arc;

use arrow::array::{Array, AsArray};

use super::LoaderSettings;
use super::batch::Skipped;
use super::windows::WindowDraw;
use crate::catalog::Catalog;
use crate::error::{DataError, Result};
use crate::image::{self, RgbImage};
use crate::order::{Address, Order};
use crate::parquet_source::Rows;
use crate::rng::{CounterRng, Purpose};

thread_local! {
    /// Pixels of the image being decoded; the memory is used again by the next one.
    static DECODED: RefCell<RgbImage> = const { RefCell::new(RgbImage { width: 0, height: 0, pixels: Vec::new() }) };
}

/// A decoded sample without its pixels, which lie in the batch.
pub(super) struct Sample {
    pub(super) caption: String,
    pub(super) key: String,
    pub(super) id: u64,
    pub(super) encoded_bytes: u64,
    pub(super) skipped: Vec<Skipped>,
}

/// Everything that decoding a sample needs, shared by all decode threads.
pub(super) struct SampleLoader {
    pub(super) settings: LoaderSettings,
    pub(super) catalog: Arc<Catalog>,
    pub(super) order: Arc<Order>,
}

impl SampleLoader {
    /// Decodes the drawn row into `slot`. A row that cannot be used is replaced by a pure function of its address: the
    /// row that the same window's order holds one or more steps' worth of draws later.
    ///
    /// # Errors
    /// [`DataError::Setting`] when no row of the window can be used.
    pub(super) fn load(&self, drawn: &WindowDraw, slot: &mut [f32]) -> Result<Sample> {
        let (id, offset) = (&drawn.draw.window, drawn.draw.offset);
        let rows_in_window = self.order.window_rows(id);
        let stride = self.order.rows_per_step();
        let mut skipped = Vec::new();
        for attempt in 0..rows_in_window {
            // In a window shorter than a step's draws the stride would revisit rows; it then walks one by one.
            let step = if stride < rows_in_window { stride } else { 1 };
            let candidate = (offset + attempt / step.max(1) + attempt * step) % rows_in_window;
            let candidate = if attempt == 0 { offset } else { candidate };
            let address = self.order.address(id, candidate);
            match self.try_row(drawn, address, slot) {
                Ok(mut sample) => {
                    sample.skipped = skipped;
                    return Ok(sample);
                }
                Err(reason) => skipped.push(Skipped { place: self.place(address), reason }),
            }
        }
        let last = skipped.last().map_or("", |s| s.reason);
        Err(DataError::Setting(format!(
            "no usable row among the {rows_in_window} rows around {} (last reason: {last}). Look at the shard with `blip2 data inspect`",
            self.place(self.order.address(id, offset))
        )))
    }

    fn place(&self, address: Address) -> String {
        let group = self.catalog.row_groups[address.row_group];
        let uri = self.catalog.shards[group.shard].location.uri();
        format!("{uri} row group {} row {}", group.index, address.row)
    }

    fn try_row(
        &self,
        drawn: &WindowDraw,
        address: Address,
        slot: &mut [f32],
    ) -> std::result::Result<Sample, &'static str> {
        let rows = drawn.window.rows(address.row_group).ok_or("row_group_not_read")?;
        let row = address.row;
        if let Some(status) = &rows.status
            && (status.is_null(row) || status.value(row) != "success")
        {
            return Err("download_failed");
        }
        if rows.images.is_null(row) || rows.images.value(row).is_empty() {
            return Err("no_image");
        }
        let group = self.catalog.row_groups[address.row_group];
        let id = group.first_row + row as u64;
        let raw = self.caption(rows, row, address.epoch, id).ok_or("no_caption")?;
        let caption = self.settings.captions.caption(raw);
        if caption.len() == self.settings.captions.prompt.len() {
            return Err("no_caption");
        }
        let encoded = rows.images.value(row);
        DECODED.with_borrow_mut(|decoded| {
            image::decode_into(encoded, &self.settings.limits, decoded).map_err(|e| e.reason())?;
            let mut rng = CounterRng::new(self.settings.layout.seed, Purpose::Augment, &[address.epoch, id]);
            self.settings.transform.apply(decoded, &mut rng, slot);
            Ok::<(), &'static str>(())
        })?;
        let key = rows.keys.as_ref().filter(|k| k.is_valid(row)).map_or("", |k| k.value(row));
        Ok(Sample { caption, key: key.to_owned(), id, encoded_bytes: encoded.len() as u64, skipped: Vec::new() })
    }

    /// The row's caption; one drawn by counter when there are several.
    fn caption<'a>(&self, rows: &'a Rows, row: usize, epoch: u64, id: u64) -> Option<&'a str> {
        if let Some(lists) = &rows.all_captions
            && lists.is_valid(row)
            && lists.value_length(row) > 0
        {
            let start = lists.value_offsets()[row] as usize;
            let count = lists.value_length(row) as u64;
            let drawn =
                CounterRng::new(self.settings.layout.seed, Purpose::Caption, &[epoch, id]).below(count) as usize;
            let all = lists.values().as_string::<i32>();
            if all.is_valid(start + drawn) {
                return Some(all.value(start + drawn));
            }
        }
        rows.captions.is_valid(row).then(|| rows.captions.value(row))
    }
}
