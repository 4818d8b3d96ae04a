//! From the config to batches on a device.

use std::ops::Range;
use std::sync::Arc;

use configs::{Data, Resize, Source, Stage};
use data_pipeline::augment::TrainTransform;
use data_pipeline::caption::Cleaner;
use data_pipeline::catalog::Catalog;
use data_pipeline::image::{DecodeLimits, Resampling};
use data_pipeline::loader::{Batch, Loader, LoaderSettings};
use data_pipeline::order::Layout;
use data_pipeline::store::Location;
use tch::{Device, Kind, Tensor};

use crate::TrainerError;
use crate::model::tensors::fnv1a;
use crate::stage1::Text;
use crate::stage2::Words;
use crate::text::{Encoded, TextBatch};

/// The shards of the run's source.
///
/// # Errors
/// When they cannot be listed, or the config mixes several sources.
pub fn open_catalog(data: &Data) -> Result<Arc<Catalog>, TrainerError> {
    let [source] = data.sources.as_slice() else {
        return Err(TrainerError::Unsupported {
            found: format!("data.sources has {} entries", data.sources.len()),
            expected: "one source can be trained on so far; mixing comes with the data plane".into(),
        });
    };
    let location = match source {
        Source::Synthetic(source) => Location::parse(source.uri.as_str())?.child("train"),
        Source::Parquet(source) if !has_filters(&source.filters) => Location::parse(source.uri.as_str())?,
        other => {
            return Err(TrainerError::Unsupported {
                found: format!("data.sources[0] is `{}`, or has filters", other.name()),
                expected: "kinds `synthetic` and `parquet` without filters can be trained on so far".into(),
            });
        }
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(TrainerError::Runtime)?;
    Ok(Arc::new(runtime.block_on(Catalog::open(&location, |_, _| ()))?))
}

/// Whether any row could be left out.
fn has_filters(filters: &configs::Filters) -> bool {
    serde_json::to_value(filters)
        .is_ok_and(|all| all.as_object().is_some_and(|keys| keys.values().any(|v| !v.is_null())))
}

/// Starts reading a stage at one of its steps, for some of its slices.
///
/// # Errors
/// When the settings do not fit the shards.
pub fn build_loader(
    data: &Data,
    stage: &Stage,
    seed: u64,
    catalog: Arc<Catalog>,
    first_step: u64,
    slices: Range<usize>,
) -> Result<Loader, TrainerError> {
    let resampling = match data.loader.resize {
        Resize::PillowExact => Resampling::PillowExact,
        Resize::Fast => Resampling::Fast,
        Resize::Scaled => Resampling::Scaled,
    };
    let top_captions = match &data.sources[0] {
        Source::Synthetic(source) => source.top_captions,
        Source::Parquet(source) => source.top_captions,
        _ => None,
    };
    let settings = LoaderSettings {
        layout: Layout {
            seed,
            lanes: data.lanes as u64,
            window_row_groups: data.shuffle_window_row_groups as u64,
            global_batch: stage.global_batch() as u64,
        },
        slices: stage.slices() as u64,
        transform: TrainTransform {
            resampling,
            scale: data.augment.scale,
            aspect: data.augment.aspect,
            flip: data.augment.flip,
            ..TrainTransform::reference(data.image_size as u32)
        },
        captions: Cleaner::default(),
        top_captions,
        limits: DecodeLimits { max_pixels: data.loader.max_image_pixels, ..DecodeLimits::default() },
        decode_threads: data.loader.decode_threads,
        memory_bytes: data.loader.memory_mb << 20,
        max_bad_fraction: data.loader.max_bad_fraction,
    };
    Ok(Loader::start(catalog, settings, first_step, slices.start as u64..slices.end as u64)?)
}

/// The images of a batch.
///
/// # Shapes
/// Result: `[b, 3, S, S]`, f32.
pub fn pixels(batch: &Batch, image_size: usize, device: Device) -> Tensor {
    let side = image_size as i64;
    Tensor::from_slice(&batch.images).view([batch.len() as i64, 3, side, side]).to_device(device)
}

/// Token ids on a device, without the columns that only hold padding in every text of the global batch.
///
/// # Shapes
/// `length`: the longest text of the global batch; result: `[b, length]`.
pub fn text(tokens: &TextBatch, length: usize, device: Device) -> Text {
    let tensor = |values: &[i64]| {
        let all = Tensor::from_slice(values).view([tokens.rows as i64, tokens.len as i64]);
        all.narrow(1, 0, length as i64).contiguous().to_device(device)
    };
    Text { ids: tensor(&tokens.ids), mask: tensor(&tokens.mask).to_kind(Kind::Int64) }
}

/// What a stage's model is given of the captions of a slice, on a device.
///
/// # Shapes
/// `lengths`: the longest text and the longest input of the global batch.
pub fn words(tokens: &Encoded, [length, input_length]: [usize; 2], device: Device) -> Words {
    Words {
        text: text(&tokens.text, length, device),
        input: tokens.input.as_ref().map(|input| text(input, input_length, device)),
        prompt_tokens: tokens.prompt_tokens as i64,
    }
}

/// A number for the image of each row: equal where keys are equal, or, in shards without keys, where rows are.
pub fn image_ids(batch: &Batch, device: Device) -> Tensor {
    let id = |(key, row): (&String, &u64)| match key.as_str() {
        "" => row.cast_signed(),
        key => fnv1a(key.bytes()).cast_signed(),
    };
    let ids: Vec<i64> = batch.keys.iter().zip(&batch.samples).map(id).collect();
    Tensor::from_slice(&ids).to_device(device)
}
