//! The images of an evaluation set: read, decoded and fitted to the model a batch at a time.

use std::ops::Range;

use data_pipeline::augment::EvalTransform;
use data_pipeline::benchmark::ImageFolder;
use data_pipeline::image::{DecodeLimits, decode};
use futures::{StreamExt, TryStreamExt};
use tch::{Device, Tensor};

use crate::TrainerError;
use crate::storage::runtime;

/// Images that are fetched at once.
const AT_ONCE: usize = 16;

/// Images in the order of their set.
pub struct Images {
    place: Place,
    transform: EvalTransform,
}

enum Place {
    /// Encoded, by name.
    Memory(Vec<(String, Vec<u8>)>),
    /// Names below a folder.
    Folder(Box<ImageFolder>, Vec<String>),
}

impl Images {
    /// Encoded images with their names, for a model of this image size.
    pub fn encoded(files: Vec<(String, Vec<u8>)>, image_size: usize) -> Self {
        Self { place: Place::Memory(files), transform: EvalTransform::reference(image_size as u32) }
    }

    /// Files of a folder.
    pub fn of_folder(folder: ImageFolder, files: Vec<String>, image_size: usize) -> Self {
        let transform = EvalTransform::reference(image_size as u32);
        Self { place: Place::Folder(Box::new(folder), files), transform }
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        match &self.place {
            Place::Memory(files) => files.len(),
            Place::Folder(_, files) => files.len(),
        }
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The encoded bytes of one of those that are in memory.
    pub fn bytes(&self, index: usize) -> Option<&[u8]> {
        match &self.place {
            Place::Memory(files) => files.get(index).map(|(_, bytes)| bytes.as_slice()),
            Place::Folder(..) => None,
        }
    }

    /// What the image encoder is given of some of them.
    ///
    /// # Shapes
    /// Result: `[n, 3, S, S]`, f32, normalised.
    ///
    /// # Errors
    /// When one cannot be read or decoded; all that cannot are named.
    pub fn pixels(&self, rows: &[usize], device: Device) -> Result<Tensor, TrainerError> {
        match &self.place {
            Place::Memory(files) => {
                let chosen: Vec<(&str, &[u8])> =
                    rows.iter().map(|row| (files[*row].0.as_str(), files[*row].1.as_slice())).collect();
                self.decoded(&chosen, device)
            }
            Place::Folder(folder, files) => {
                let read = |row: &usize| {
                    let name = &files[*row];
                    async move { folder.read(name).await.map(|bytes| (name.as_str(), bytes)) }
                };
                let read: Vec<_> = rows.iter().map(read).collect();
                let fetched = futures::stream::iter(read).buffered(AT_ONCE).try_collect::<Vec<_>>();
                let fetched = runtime()?.block_on(fetched)?;
                let chosen: Vec<(&str, &[u8])> = fetched.iter().map(|(name, bytes)| (*name, bytes.as_ref())).collect();
                self.decoded(&chosen, device)
            }
        }
    }

    fn decoded(&self, files: &[(&str, &[u8])], device: Device) -> Result<Tensor, TrainerError> {
        let length = self.transform.out_len();
        let mut values = vec![0.0; files.len() * length];
        let threads = std::thread::available_parallelism().map_or(1, usize::from).min(files.len().max(1));
        let share = files.len().div_ceil(threads).max(1);
        let broken: Vec<String> = std::thread::scope(|scope| {
            let parts = files.chunks(share).zip(values.chunks_mut(share * length));
            let decode = |(files, values): (&[(&str, &[u8])], &mut [f32])| {
                let mut broken = Vec::new();
                for ((name, bytes), slot) in files.iter().zip(values.chunks_exact_mut(length)) {
                    match decode(bytes, &DecodeLimits::default()) {
                        Ok(image) => self.transform.apply(&image, slot),
                        Err(error) => broken.push(format!("{name}: {error}")),
                    }
                }
                broken
            };
            let running: Vec<_> = parts.map(|part| scope.spawn(move || decode(part))).collect();
            running
                .into_iter()
                .flat_map(|part| part.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
                .collect()
        });
        if !broken.is_empty() {
            return Err(TrainerError::Unsupported {
                found: format!("{} images cannot be decoded: {}", broken.len(), broken.join("; ")),
                expected: "JPEG, PNG, WebP or GIF files; a score without them would be no score of the set".into(),
            });
        }
        let side = i64::from(self.transform.image_size);
        Ok(Tensor::from_slice(&values).view([files.len() as i64, 3, side, side]).to_device(device))
    }
}

/// Row numbers of a range, `size` at a time.
pub fn in_batches(rows: Range<usize>, size: usize) -> impl Iterator<Item = Vec<usize>> {
    rows.clone().step_by(size.max(1)).map(move |from| (from..(from + size).min(rows.end)).collect())
}
