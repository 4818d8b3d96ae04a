//! Scenes of the training split as pictures with a label for every patch.

use configs::{Resize, Run, Source};
use data_pipeline::DataError;
use data_pipeline::augment::random_crop;
use data_pipeline::image::{Flip, REFERENCE_NORMALIZATION, Region, Resampling, RgbImage, resize};
use data_pipeline::rng::{CounterRng, Purpose};
use data_pipeline::synthetic::{Object, Scene, Split, SynthOptions, Tone, render, scene};
use tch::Tensor;

use super::Stream;
use crate::TrainerError;

/// Stands for "no label here".
pub(super) const IGNORED: i64 = -100;

/// What is predicted for a patch: name, and how many values there are.
pub(super) const ATTRIBUTES: [(&str, i64); 5] =
    [("colour", 8), ("shape", 6), ("size", 2), ("texture", 4), ("ground", GROUNDS)];
/// An object, light ground, dark ground.
const GROUNDS: i64 = 3;

/// The training scenes of a run and how they are looked at.
#[derive(Clone, Debug)]
pub(super) struct TrainingScenes {
    options: SynthOptions,
    seed: u64,
    image_size: u32,
    patch_size: usize,
    scale: [f64; 2],
    aspect: [f64; 2],
    flip: f64,
    resampling: Resampling,
}

/// Pictures and what lies under each of their patches.
pub(super) struct LabelledImages {
    pixels: Vec<f32>,
    /// For each of [`ATTRIBUTES`], a label or [`IGNORED`] per patch.
    labels: [Vec<i64>; ATTRIBUTES.len()],
    /// For every patch, how far its centre lies right of and below the centre of its object, in radii; not a number
    /// where there is no object.
    places: Vec<f32>,
    image_size: i64,
}

impl LabelledImages {
    /// # Shapes
    /// `[B, 3, S, S]`, normalised.
    pub(super) fn pixels(&self) -> Tensor {
        Tensor::from_slice(&self.pixels).view([-1, 3, self.image_size, self.image_size])
    }

    /// Where patches lie in their objects, in radii; not a number on the ground.
    ///
    /// # Shapes
    /// `[B · patches, 2]`, f32.
    pub(super) fn places(&self) -> Tensor {
        Tensor::from_slice(&self.places).view([-1, 2])
    }

    /// # Shapes
    /// `[B · patches]`, i64.
    pub(super) fn labels(&self, attribute: usize) -> Tensor {
        Tensor::from_slice(&self.labels[attribute])
    }
}

/// The options of the corpus that the run trains on.
///
/// # Errors
/// [`TrainerError::Setting`] when no source is synthetic.
pub(super) fn corpus_options(run: &Run) -> Result<SynthOptions, TrainerError> {
    let source = run.data.sources.iter().find_map(|source| match source {
        Source::Synthetic(source) => Some(source),
        _ => None,
    });
    let Some(source) = source else {
        return Err(TrainerError::Setting {
            found: "found no source of kind `synthetic` in data.sources".into(),
            expected: "one: towers are trained on generated scenes only".into(),
            advice: "Add such a source, or bring the towers' weights".into(),
        });
    };
    Ok(SynthOptions {
        scenes: source.scenes,
        test_scenes: source.test_scenes,
        image_size: source.image_size as u32,
        seed: source.seed,
        min_objects: source.min_objects as u8,
        max_objects: source.max_objects as u8,
        patterns: source.patterns,
        ..SynthOptions::default()
    })
}

impl TrainingScenes {
    /// The scenes of the run's synthetic source, seen as the run's training sees them.
    ///
    /// # Errors
    /// [`TrainerError::Setting`] when no source is synthetic.
    pub(super) fn new(run: &Run) -> Result<Self, TrainerError> {
        let augment = &run.data.augment;
        Ok(Self {
            options: corpus_options(run)?,
            seed: run.run.seed,
            image_size: run.model.image_encoder.image_size() as u32,
            patch_size: run.model.image_encoder.sizes().patch_size,
            scale: augment.scale,
            aspect: augment.aspect,
            flip: augment.flip,
            resampling: match run.data.loader.resize {
                Resize::Fast | Resize::Scaled => Resampling::Fast,
                Resize::PillowExact => Resampling::PillowExact,
            },
        })
    }

    /// The pictures of one update: training scenes drawn with replacement, cropped and mirrored at random.
    pub(super) fn batch(&self, step: u64, rows: usize) -> Result<LabelledImages, DataError> {
        let mut batch = self.empty();
        for row in 0..rows as u64 {
            let mut rng = CounterRng::new(self.seed, Purpose::Pretrain, &[Stream::ImageEncoder as u64, step, row]);
            let scene = scene(&self.options, Split::Train, rng.below(self.options.scenes))?;
            let side = self.options.image_size;
            let region = random_crop(side, side, self.scale, self.aspect, &mut rng);
            let flip = if rng.chance(self.flip) { Flip::Horizontal } else { Flip::No };
            self.push(&mut batch, &scene, region, flip);
        }
        Ok(batch)
    }

    /// Whole pictures of the training split that no update shows: those behind the corpus' last.
    pub(super) fn fresh(&self, first: u64, rows: usize) -> Result<LabelledImages, DataError> {
        let mut batch = self.empty();
        let side = self.options.image_size;
        for row in 0..rows as u64 {
            let scene = scene(&self.options, Split::Train, self.options.scenes + first + row)?;
            self.push(&mut batch, &scene, Region { top: 0, left: 0, height: side, width: side }, Flip::No);
        }
        Ok(batch)
    }

    fn empty(&self) -> LabelledImages {
        LabelledImages {
            pixels: Vec::new(),
            labels: Default::default(),
            places: Vec::new(),
            image_size: self.image_size.into(),
        }
    }

    fn push(&self, batch: &mut LabelledImages, scene: &Scene, region: Region, flip: Flip) {
        let picture = render(scene, self.options.image_size);
        let image = RgbImage { width: picture.side, height: picture.side, pixels: picture.rgb };
        let side = self.image_size as usize;
        let mut resized = vec![0; 3 * side * side];
        resize(&image, region, self.resampling, (self.image_size, self.image_size), &mut resized);
        let start = batch.pixels.len();
        batch.pixels.resize(start + resized.len(), 0.0);
        REFERENCE_NORMALIZATION.apply(&resized, side, flip, &mut batch.pixels[start..]);
        self.push_labels(batch, scene, region, flip);
    }

    /// One label of each kind and a place for every patch, row by row: that of the object whose disc holds the patch's centre.
    fn push_labels(&self, batch: &mut LabelledImages, scene: &Scene, region: Region, flip: Flip) {
        let patches = self.image_size as usize / self.patch_size;
        let thousandths = |start: u32, extent: u32, part: f64| {
            (f64::from(start) + part * f64::from(extent)) / f64::from(self.options.image_size) * 1000.0
        };
        let centre = |index: usize| (index as f64 + 0.5) / patches as f64;
        for row in 0..patches {
            let y = thousandths(region.top, region.height, centre(row));
            for column in 0..patches {
                let part = if flip == Flip::Horizontal { 1.0 - centre(column) } else { centre(column) };
                let x = thousandths(region.left, region.width, part);
                let object = scene.objects.iter().find(|object| holds(object, x, y));
                for (labels, label) in batch.labels.iter_mut().zip(labels_of(scene, object)) {
                    labels.push(label);
                }
                batch.places.extend(place_in(object, x, y));
            }
        }
    }
}

fn holds(object: &Object, x: f64, y: f64) -> bool {
    (f64::from(object.x) - x).hypot(f64::from(object.y) - y) <= f64::from(object.radius)
}

/// Where a point lies in an object, from its centre and in its radii.
fn place_in(object: Option<&Object>, x: f64, y: f64) -> [f32; 2] {
    let in_radii = |object: &Object| {
        let part = |at: f64, centre: u16| ((at - f64::from(centre)) / f64::from(object.radius)) as f32;
        [part(x, object.x), part(y, object.y)]
    };
    object.map_or([f32::NAN; 2], in_radii)
}

/// The labels of a patch in the order of [`ATTRIBUTES`].
fn labels_of(scene: &Scene, object: Option<&Object>) -> [i64; ATTRIBUTES.len()] {
    match object {
        Some(object) => [object.colour as i64, object.shape as i64, object.size as i64, object.texture as i64, 0],
        None => {
            let ground = if scene.background.tone == Tone::Light { 1 } else { 2 };
            [IGNORED, IGNORED, IGNORED, IGNORED, ground]
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use data_pipeline::synthetic::{Colour, Pair, Shape, held_out_pairs};

    use super::*;

    fn scenes() -> TrainingScenes {
        let overrides = configs::Overrides::new(["data.augment.flip=0.5"]);
        TrainingScenes::new(&configs::load_str("tiny", configs::preset("tiny").unwrap(), &overrides).unwrap()).unwrap()
    }

    #[test]
    fn no_label_names_a_held_out_pair() {
        let scenes = scenes();
        let held_out: HashSet<Pair> = held_out_pairs(scenes.options.seed).into_iter().collect();
        let mut seen = HashSet::new();
        for step in 0..20 {
            for batch in [scenes.batch(step, 32).unwrap(), scenes.fresh(32 * step, 32).unwrap()] {
                for (&colour, &shape) in batch.labels[0].iter().zip(&batch.labels[1]) {
                    assert_eq!(colour == IGNORED, shape == IGNORED);
                    if colour != IGNORED {
                        let pair = Pair { colour: Colour::ALL[colour as usize], shape: Shape::ALL[shape as usize] };
                        assert!(!held_out.contains(&pair), "{pair:?} in step {step}");
                        seen.insert(pair);
                    }
                }
            }
        }
        assert_eq!(seen.len(), 48 - held_out.len());
    }

    #[test]
    fn labels_follow_the_pixels() {
        let scenes = scenes();
        let batch = scenes.batch(0, 16).unwrap();
        // The red channel of patches on yellow objects is brighter than of those on blue ones, mirrored or not.
        let patches = batch.pixels().narrow(1, 0, 1).avg_pool2d([8, 8], [8, 8], [0, 0], false, true, None::<i64>);
        let red = Vec::<f32>::try_from(patches.reshape([-1])).unwrap();
        let mean = |colour: Colour| {
            let of: Vec<f32> =
                batch.labels[0].iter().zip(&red).filter(|(l, _)| **l == colour as i64).map(|(_, r)| *r).collect();
            of.iter().sum::<f32>() / of.len() as f32
        };
        assert!(mean(Colour::Yellow) > mean(Colour::Blue) + 0.5);
        assert_eq!(batch.labels[4].len(), 16 * 64);
        // A patch has a place where it has a colour, and that place is inside the object's disc.
        for (&colour, place) in batch.labels[0].iter().zip(batch.places.chunks_exact(2)) {
            assert_eq!(colour == IGNORED, place[0].is_nan() && place[1].is_nan());
            assert!(colour == IGNORED || place[0].hypot(place[1]) <= 1.0 + 1e-5, "{place:?}");
        }
    }

    #[test]
    fn the_same_step_gives_the_same_batch() {
        let (a, b, c) = (scenes().batch(3, 4).unwrap(), scenes().batch(3, 4).unwrap(), scenes().batch(4, 4).unwrap());
        assert_eq!((&a.pixels, &a.labels), (&b.pixels, &b.labels));
        assert_ne!(a.labels, c.labels);
    }
}
