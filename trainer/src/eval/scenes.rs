//! The held-out scenes, read from their Parquet shards.

use arrow::array::{Array, AsArray};
use arrow::datatypes::DataType;
use configs::SyntheticSource;
use data_pipeline::augment::EvalTransform;
use data_pipeline::catalog::Catalog;
use data_pipeline::image::{DecodeLimits, decode};
use data_pipeline::store::Location;
use data_pipeline::synthetic::Scene;
use tch::Tensor;

use super::Request;
use crate::TrainerError;

/// Scenes of a test split.
pub struct HeldOut {
    /// `[n, 3, S, S]`, f32, normalised.
    pub pixels: Tensor,
    /// The encoded images.
    pub files: Vec<Vec<u8>>,
    /// The fullest caption of each scene; no two are equal.
    pub captions: Vec<String>,
    /// What is in each.
    pub scenes: Vec<Scene>,
}

impl HeldOut {
    /// Reads the scenes that are asked for.
    ///
    /// # Errors
    /// When the shards cannot be read or do not hold scenes.
    pub fn read(source: &SyntheticSource, request: &Request, image_size: usize) -> Result<Self, TrainerError> {
        let location = Location::parse(source.uri.as_str())?.child(request.split.name());
        let runtime =
            tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(TrainerError::Runtime)?;
        let catalog = runtime.block_on(Catalog::open(&location, |_, _| ()))?;
        let bad = |reason: String| TrainerError::Unsupported {
            found: format!("{}: {reason}", location.uri()),
            expected: "a synthetic corpus of this version; `blip2 data synth --overwrite` makes one".into(),
        };
        let transform = EvalTransform::reference(image_size as u32);
        let (mut values, mut files, mut captions, mut scenes) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        let wanted = request.limit.unwrap_or(usize::MAX);
        for group in 0..catalog.row_groups.len() {
            if scenes.len() >= wanted {
                break;
            }
            let batch = runtime.block_on(catalog.read_columns(group, &["jpg", "caption", "scene"]))?;
            let column = |name: &str, kind: &DataType| {
                let column = batch.column_by_name(name).ok_or_else(|| bad(format!("there is no column {name}")))?;
                arrow::compute::cast(column, kind).map_err(|error| bad(error.to_string()))
            };
            let (jpg, caption, scene) = (
                column("jpg", &DataType::Binary)?,
                column("caption", &DataType::Utf8)?,
                column("scene", &DataType::Utf8)?,
            );
            for row in 0..jpg.len().min(wanted - scenes.len()) {
                let file = jpg.as_binary::<i32>().value(row);
                let image = decode(file, &DecodeLimits::default()).map_err(|error| bad(error.to_string()))?;
                let start = values.len();
                values.resize(start + transform.out_len(), 0.0);
                transform.apply(&image, &mut values[start..]);
                files.push(file.to_vec());
                captions.push(caption.as_string::<i32>().value(row).to_owned());
                let scene = scene.as_string::<i32>().value(row);
                scenes.push(serde_json::from_str(scene).map_err(|error| bad(error.to_string()))?);
            }
        }
        let side = image_size as i64;
        let pixels = Tensor::from_slice(&values).view([scenes.len() as i64, 3, side, side]);
        Ok(Self { pixels, files, captions, scenes })
    }

    /// Scenes.
    pub fn len(&self) -> usize {
        self.scenes.len()
    }
}
