//! The towers that pre-training leaves as they are.

use configs::{Dtype, Run, Weights};
use tch::{Device, Kind, Tensor, no_grad};

use crate::TrainerError;
use crate::ahead::Ahead;
use crate::model::Tensors;
use crate::model::image_tower::{ImageTower, fit_positions};
use crate::model::language_tower::LanguageTower;
use crate::precision::{compute_kind, kind_of};
use crate::weights::{Part, Plan, Source};

/// What the names of the image encoder's weights start with.
pub const IMAGE_ENCODER: &str = "vision_model";
/// What the names of the language model's weights start with.
pub const LANGUAGE_MODEL: &str = "language_model";

/// An image encoder whose weights stay as they were loaded.
#[derive(Debug)]
pub struct FrozenImageEncoder {
    tower: ImageTower,
    weights: Tensors,
    sha256: String,
}

impl FrozenImageEncoder {
    /// What the tower makes of images, outside any gradient.
    ///
    /// # Shapes
    /// `pixels`: `[B, 3, S, S]`, normalised; result: `[B, P, V]` in the type that the device computes in.
    pub fn forward(&self, pixels: &Tensor) -> Tensor {
        no_grad(|| self.tower.forward(pixels))
    }

    /// The same tower for work ahead of steps of `run`.
    ///
    /// # Errors
    /// None in practice: the weights have fitted before.
    pub(crate) fn ahead(&self, run: &Run, device: Device) -> Result<Ahead<'_>, TrainerError> {
        Ahead::new(&self.tower, device, || tower(run, &self.weights))
    }

    /// SHA-256 of the file that the weights came from.
    pub fn sha256(&self) -> &str {
        &self.sha256
    }

    /// The weights by public name.
    pub fn weights(&self) -> &Tensors {
        &self.weights
    }

    /// The tower with the trained weights of a checkpoint in place of its own, where the checkpoint has them.
    ///
    /// # Errors
    /// When one has another shape.
    pub fn with_trained(&self, run: &Run, trained: &Tensors) -> Result<Self, TrainerError> {
        let mut weights = self.weights.cast(self.kind());
        for (name, tensor) in trained.iter().filter(|(name, _)| Part::of(name) == Part::ImageEncoder) {
            weights.insert(name, tensor.detach().to_kind(self.kind()));
        }
        Ok(Self { tower: tower(run, &weights)?, weights, sha256: self.sha256.clone() })
    }

    /// The type that its weights are held in.
    fn kind(&self) -> Kind {
        self.weights.iter().next().map_or(Kind::Float, |(_, tensor)| tensor.kind())
    }
}

/// A language model whose weights stay as they were loaded. Gradients pass through it to its inputs.
#[derive(Debug)]
pub struct FrozenLanguageModel {
    model: LanguageTower,
    sha256: String,
}

impl FrozenLanguageModel {
    /// The same with weights laid out for writing texts.
    pub fn for_writing(self) -> Self {
        Self { model: self.model.for_writing(), ..self }
    }

    /// The model; none of its weights takes a gradient.
    pub fn model(&self) -> &LanguageTower {
        &self.model
    }

    /// SHA-256 of the file that the weights came from.
    pub fn sha256(&self) -> &str {
        &self.sha256
    }
}

/// The image encoder of `run`, on `device`, its positions fitted to the config's image size.
///
/// # Errors
/// When the file cannot be read, has another SHA-256 than the config states, or does not fit the sizes.
pub fn load_image_encoder(run: &Run, device: Device) -> Result<FrozenImageEncoder, TrainerError> {
    let encoder = &run.model.image_encoder;
    let (mut weights, sha256) = load(encoder.weights(), Part::ImageEncoder, encoder.dtype(), device)?;
    fit_positions(&mut weights, IMAGE_ENCODER, encoder.sizes(), encoder.image_size())?;
    Ok(FrozenImageEncoder { tower: tower(run, &weights)?, weights, sha256 })
}

fn tower(run: &Run, weights: &Tensors) -> Result<ImageTower, TrainerError> {
    let encoder = &run.model.image_encoder;
    ImageTower::new(&weights.scope(IMAGE_ENCODER), encoder.sizes(), encoder.image_size(), run.model.attention)
}

/// The language model of `run`, on `device`, with the dropout that the config names.
///
/// # Errors
/// When the file cannot be read, has another SHA-256 than the config states, or does not fit the sizes.
pub fn load_language_model(run: &Run, device: Device) -> Result<FrozenLanguageModel, TrainerError> {
    let model = &run.model.language_model;
    let settings = model.settings();
    let (tensors, sha256) = load(settings.weights, Part::LanguageModel, settings.dtype, device)?;
    let tower = LanguageTower::new(&tensors.scope(LANGUAGE_MODEL), model.sizes(), run.model.attention)?;
    Ok(FrozenLanguageModel { model: tower.with_dropout(settings.dropout), sha256 })
}

/// A part's weights, read tensor by tensor: beside the model itself, one tensor at a time is in memory. They may lie in any file
/// that [`crate::weights`] understands.
fn load(weights: &Weights, part: Part, dtype: Dtype, device: Device) -> Result<(Tensors, String), TrainerError> {
    let (source, sha256) = Source::open_checked(weights)?;
    let plan = Plan::of(&source)?;
    // Held by value in the config's format; where the device computes in another one, that one holds the same values.
    let held = |tensor: Tensor| tensor.to_kind(kind_of(dtype)).to_kind(compute_kind(dtype, device)).to_device(device);
    let names = plan.names().filter(|name| Part::of(name) == part);
    let tensors =
        names.map(|name| Ok((name.to_owned(), held(plan.tensor(name)?)))).collect::<Result<_, TrainerError>>()?;
    Ok((tensors, sha256))
}
