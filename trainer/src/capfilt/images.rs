//! The images of a row group: decoded, made ready for a model, a few at a time.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, Int32Array, StringArray};
use arrow::datatypes::{DataType, Field};
use data_pipeline::filters::refused_by_status;
use data_pipeline::image::{DecodeLimits, RgbImage, decode_into};
use data_pipeline::rows::Rows;
use tch::Tensor;

use crate::error::Result;

/// The status of rows whose image cannot be decoded, where the source states none.
const UNDECODABLE: &str = "failed_to_decode";

/// How a model wants its images.
pub(super) struct View<'a> {
    /// Side in pixels.
    pub side: usize,
    /// Fills `[3, side, side]` with an image.
    pub fill: &'a dyn Fn(&RgbImage, &mut [f32]),
}

/// What became of each row's image: its width and height, or why it cannot be used.
pub(super) struct Seen(Vec<std::result::Result<(u32, u32), String>>);

impl Seen {
    /// Rows without a usable image, by reason.
    pub fn unusable(&self) -> BTreeMap<String, u64> {
        let mut reasons = BTreeMap::new();
        self.0.iter().filter_map(|row| row.as_ref().err()).for_each(|reason| {
            *reasons.entry(reason.clone()).or_default() += 1;
        });
        reasons
    }

    /// Images that are usable.
    pub fn images(&self) -> u64 {
        self.0.iter().filter(|row| row.is_ok()).count() as u64
    }

    /// img2dataset's status of each row.
    pub fn status(&self) -> (Field, ArrayRef) {
        let status = self.0.iter().map(|row| Some(if row.is_ok() { "success" } else { UNDECODABLE }));
        (Field::new("status", DataType::Utf8, true), Arc::new(status.collect::<StringArray>()))
    }

    /// img2dataset's `width` and `height`.
    pub fn sides(&self) -> Vec<(Field, ArrayRef)> {
        let side = |name: &str, side: fn(&(u32, u32)) -> u32| {
            let values = self.0.iter().map(|row| row.as_ref().ok().map(|sides| side(sides) as i32));
            (Field::new(name, DataType::Int32, true), Arc::new(values.collect::<Int32Array>()) as ArrayRef)
        };
        vec![side("width", |(width, _)| *width), side("height", |(_, height)| *height)]
    }
}

/// Hands the usable images of a row group to `each` with the numbers of their rows, `at_once` at a time: which ones come
/// together depends on the rows alone, as sums in a model may differ in their last bits with what else is in a batch.
///
/// # Shapes
/// What `each` is given: `[n, 3, side, side]`, f32.
pub(super) fn in_batches(
    rows: &Rows,
    view: &View<'_>,
    at_once: usize,
    mut each: impl FnMut(&[usize], &Tensor) -> Result<()>,
) -> Result<Seen> {
    let values_each = 3 * view.side * view.side;
    let (mut seen, mut decoded) = (Vec::new(), RgbImage::default());
    let (mut numbers, mut values) = (Vec::new(), Vec::new());
    let mut hand_over = |numbers: &mut Vec<usize>, values: &mut Vec<f32>| {
        if !numbers.is_empty() {
            let side = view.side as i64;
            each(numbers, &Tensor::from_slice(values).view([numbers.len() as i64, 3, side, side]))?;
        }
        numbers.clear();
        values.clear();
        Ok::<(), crate::TrainerError>(())
    };
    for row in 0..rows.images.len() {
        let sides = decode(rows, row, &mut decoded);
        if sides.is_ok() {
            numbers.push(row);
            values.resize(numbers.len() * values_each, 0.0);
            (view.fill)(&decoded, &mut values[(numbers.len() - 1) * values_each..]);
        }
        seen.push(sides);
        if numbers.len() == at_once {
            hand_over(&mut numbers, &mut values)?;
        }
    }
    hand_over(&mut numbers, &mut values)?;
    Ok(Seen(seen))
}

fn decode(rows: &Rows, row: usize, decoded: &mut RgbImage) -> std::result::Result<(u32, u32), String> {
    if let Some(status) = &rows.status
        && let Some(reason) = refused_by_status(if status.is_valid(row) { status.value(row) } else { "" })
    {
        return Err(reason.to_owned());
    }
    let image = rows.image(row).ok_or("no_image")?;
    decode_into(image, &DecodeLimits::default(), decoded).map_err(|error| error.reason().to_owned())?;
    Ok((decoded.width, decoded.height))
}
