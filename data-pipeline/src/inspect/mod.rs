//! A look at shards: schema, counts, and some samples with their captions.

mod distribution;
mod tried;

use std::collections::BTreeMap;
use std::io::Cursor;

use arrow::array::{Array, AsArray};
use futures::{StreamExt, TryStreamExt};
use serde::Serialize;

use crate::catalog::{Catalog, Form};
use crate::error::{DataError, Result};
use crate::image::{self, DecodeLimits, Format};
use crate::rng::{CounterRng, Purpose};
use crate::rows::Rows;

pub use distribution::{Bin, Distribution};
pub use tried::{Tried, TryOptions, try_samples};

/// Edges of the counts of words per caption.
const WORDS: [u64; 9] = [0, 3, 6, 9, 12, 16, 20, 30, 50];
/// Edges of the counts of bytes per image.
const BYTES: [u64; 10] = [0, 4 << 10, 8 << 10, 16 << 10, 32 << 10, 64 << 10, 128 << 10, 256 << 10, 1 << 20, 4 << 20];
/// Edges of the counts of shorter sides, in pixels; 224, 364 and 490 are sizes of models.
const SIDES: [u64; 9] = [0, 64, 128, 224, 256, 364, 490, 768, 1024];
/// Edges of the counts of longer over shorter sides, in percent.
const ASPECTS: [u64; 7] = [0, 110, 134, 151, 178, 200, 300];

/// Row groups that are read at the same time.
const READS_IN_FLIGHT: usize = 8;

/// How much an inspection reads.
#[derive(Clone, Copy, Debug)]
pub struct InspectOptions {
    /// Samples to show.
    pub samples: usize,
    /// Row groups whose rows are counted, spread evenly over the catalogue; the footers are always counted whole.
    pub row_groups: usize,
    /// Seed that picks the samples.
    pub seed: u64,
}

/// One sample as stored.
#[derive(Clone, Debug, Serialize)]
pub struct SampleView {
    /// Shard URI, row group and row.
    pub place: String,
    /// img2dataset's key, empty when there is none.
    pub key: String,
    /// The captions as stored, the first one first.
    pub captions: Vec<String>,
    /// Encoded bytes; empty when the row has none.
    #[serde(skip)]
    pub image: Vec<u8>,
    /// MIME type found from the bytes.
    pub mime: &'static str,
    /// Width and height in pixels, or why the image cannot be used.
    pub decoded: std::result::Result<(u32, u32), String>,
}

/// What an inspection found.
#[derive(Clone, Debug, Serialize)]
pub struct Inspection {
    /// The prefix.
    pub uri: String,
    /// Shards.
    pub shards: usize,
    /// Row groups.
    pub row_groups: usize,
    /// Rows, from the footers.
    pub rows: u64,
    /// Bytes of all shards.
    pub bytes: u64,
    /// Column names and Arrow types of the first shard.
    pub schema: Vec<(String, String)>,
    /// Shards whose columns differ from the first one's.
    pub other_schemas: Vec<String>,
    /// Rows that were read for the counts below.
    pub rows_read: u64,
    /// Rows by img2dataset status; `(none)` when the shards have no such column or the value is null.
    pub status: BTreeMap<String, u64>,
    /// Rows without image bytes.
    pub without_image: u64,
    /// Rows with a null or blank caption.
    pub without_caption: u64,
    /// Words per caption.
    pub caption_words: Option<Distribution>,
    /// Encoded bytes per image.
    pub image_bytes: Option<Distribution>,
    /// The shorter side of images whose header can be read, in pixels.
    pub short_side: Option<Distribution>,
    /// The longer side over the shorter one, in percent.
    pub aspect_percent: Option<Distribution>,
    /// The samples.
    pub samples: Vec<SampleView>,
}

#[derive(Default)]
struct Counts {
    rows: u64,
    status: BTreeMap<String, u64>,
    without_image: u64,
    without_caption: u64,
    words: Vec<u64>,
    bytes: Vec<u64>,
    short_sides: Vec<u64>,
    aspects: Vec<u64>,
}

impl Counts {
    fn add(&mut self, rows: &Rows) {
        for row in 0..rows.images.len() {
            self.rows += 1;
            let status = rows.status.as_ref().filter(|s| s.is_valid(row)).map_or("(none)", |s| s.value(row));
            *self.status.entry(status.to_owned()).or_default() += 1;
            match rows.images.is_valid(row).then(|| rows.images.value(row).len()) {
                None | Some(0) => self.without_image += 1,
                Some(bytes) => {
                    self.bytes.push(bytes as u64);
                    self.add_sides(rows.images.value(row));
                }
            }
            let words = rows.captions.is_valid(row).then(|| rows.captions.value(row).split_whitespace().count());
            match words {
                None | Some(0) => self.without_caption += 1,
                Some(words) => self.words.push(words as u64),
            }
        }
    }
}

impl Counts {
    /// Reads the header of an image; what has none is found when samples are decoded.
    fn add_sides(&mut self, encoded: &[u8]) {
        let reader = ::image::ImageReader::new(Cursor::new(encoded)).with_guessed_format();
        let Some((width, height)) = reader.ok().and_then(|reader| reader.into_dimensions().ok()) else { return };
        let (short, long) = (u64::from(width.min(height)), u64::from(width.max(height)));
        if short > 0 {
            self.short_sides.push(short);
            self.aspects.push(long * 100 / short);
        }
    }
}

/// Reads row groups spread over the catalogue, counts their rows and picks samples among them.
///
/// # Errors
/// The first store, Parquet or schema error, with the shard's URI.
pub async fn inspect(
    catalog: &Catalog,
    options: InspectOptions,
    progress: impl Fn(usize, usize),
) -> Result<Inspection> {
    let total = catalog.row_groups.len();
    let chosen: Vec<usize> = {
        let count = options.row_groups.clamp(1, total.max(1)).min(total);
        (0..count).map(|i| i * total / count).collect()
    };
    if chosen.is_empty() {
        return Err(DataError::NoShards {
            uri: catalog.location.uri().into(),
            suffix: "row".into(),
            found: "shards without a single row".into(),
        });
    }
    let per_group = options.samples.div_ceil(chosen.len());
    let mut reads = futures::stream::iter(chosen.iter().copied())
        .map(|group| async move { Ok::<_, DataError>((group, catalog.read(group).await?)) })
        .buffered(READS_IN_FLIGHT);
    let (mut counts, mut samples, mut done) = (Counts::default(), Vec::new(), 0);
    while let Some((group, rows)) = reads.try_next().await? {
        counts.add(&rows);
        if samples.len() < options.samples {
            pick(catalog, group, &rows, per_group.min(options.samples - samples.len()), options.seed, &mut samples);
        }
        done += 1;
        progress(done, chosen.len());
    }
    report(catalog, counts, samples).await
}

async fn report(catalog: &Catalog, counts: Counts, samples: Vec<SampleView>) -> Result<Inspection> {
    let (schema, other_schemas) = schemas(catalog).await?;
    Ok(Inspection {
        uri: catalog.location.uri().into(),
        shards: catalog.shards.len(),
        row_groups: catalog.row_groups.len(),
        rows: catalog.rows(),
        bytes: catalog.bytes(),
        schema,
        other_schemas,
        rows_read: counts.rows,
        status: counts.status,
        without_image: counts.without_image,
        without_caption: counts.without_caption,
        caption_words: Distribution::of(counts.words, &WORDS),
        image_bytes: Distribution::of(counts.bytes, &BYTES),
        short_side: Distribution::of(counts.short_sides, &SIDES),
        aspect_percent: Distribution::of(counts.aspects, &ASPECTS),
        samples,
    })
}

/// The columns of the first shard, and the shards that have others. Tars and folders have none.
async fn schemas(catalog: &Catalog) -> Result<(Vec<(String, String)>, Vec<String>)> {
    let (mut schema, mut others) = (Vec::new(), Vec::new());
    if catalog.description.form != Form::Parquet {
        return Ok((schema, others));
    }
    for number in 0..catalog.shards.len() as u32 {
        let shard = catalog.shard(number).await?;
        let columns: Vec<(String, String)> =
            shard.schema().fields().iter().map(|f| (f.name().clone(), f.data_type().to_string())).collect();
        match number {
            0 => schema = columns,
            _ if columns != schema => others.push(shard.location.uri().to_owned()),
            _ => (),
        }
    }
    Ok((schema, others))
}

fn pick(catalog: &Catalog, group: usize, rows: &Rows, count: usize, seed: u64, samples: &mut Vec<SampleView>) {
    let mut places: Vec<usize> = (0..rows.images.len()).collect();
    CounterRng::new(seed, Purpose::Inspect, &[group as u64]).shuffle(&mut places);
    places.truncate(count);
    samples.extend(places.into_iter().map(|row| view(catalog, group, rows, row)));
}

fn view(catalog: &Catalog, group: usize, rows: &Rows, row: usize) -> SampleView {
    let image = if rows.images.is_valid(row) { rows.images.value(row).to_vec() } else { Vec::new() };
    let mut captions = Vec::new();
    if rows.captions.is_valid(row) {
        captions.push(rows.captions.value(row).to_owned());
    }
    if let Some(lists) = rows.all_captions.as_ref().filter(|l| l.is_valid(row)) {
        let list = lists.value(row);
        let more = list.as_string::<i32>().iter().flatten().map(str::to_owned);
        captions.extend(more.filter(|c| Some(c) != captions.first()).collect::<Vec<_>>());
    }
    let mime = Format::sniff(&image).map_or("application/octet-stream", Format::mime);
    let decoded = image::decode(&image, &DecodeLimits::default()).map(|i| (i.width, i.height));
    SampleView {
        place: catalog.place(group, row),
        key: rows.keys.as_ref().filter(|k| k.is_valid(row)).map_or_else(String::new, |k| k.value(row).to_owned()),
        captions,
        image,
        mime,
        decoded: decoded.map_err(|e| e.to_string()),
    }
}
