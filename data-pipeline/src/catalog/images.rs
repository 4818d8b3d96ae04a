//! Samples of a folder of images, and how they are read.

use std::collections::{BTreeMap, BTreeSet};

use arrow::array::{AsArray, BinaryViewArray, ListArray, StringArray, StructArray};
use arrow::datatypes::UInt64Type;
use bytes::Bytes;
use futures::{StreamExt, TryStreamExt};

use super::Catalog;
use crate::error::{DataError, Result};
use crate::rows::{Rows, first_texts};

/// Images of a row group that are requested at the same time where every image is an object of its own.
const IMAGES_IN_FLIGHT: usize = 16;

/// Samples of a folder of images: flat columns over all samples.
#[derive(Clone, Debug)]
pub(super) struct Images {
    /// Path below the folder. Samples that share an image follow each other.
    pub(super) files: StringArray,
    pub(super) keys: StringArray,
    pub(super) sizes: Vec<u64>,
    /// Texts of a sample, of which one is drawn: captions, or answers to its question.
    pub(super) captions: ListArray,
    /// What is asked about the image, in sources of questions.
    pub(super) questions: Option<StringArray>,
}

impl Images {
    /// The flat columns of all samples.
    pub(super) fn of(samples: &StructArray) -> Option<Self> {
        let column = |name: &str| samples.column_by_name(name);
        let questions = column("question").map(|questions| questions.as_string_opt::<i32>().cloned());
        Some(Self {
            files: column("file")?.as_string_opt::<i32>()?.clone(),
            keys: column("key")?.as_string_opt::<i32>()?.clone(),
            sizes: column("size")?.as_primitive_opt::<UInt64Type>()?.values().to_vec(),
            captions: column("captions")?.as_list_opt::<i32>()?.clone(),
            questions: match questions {
                None => None,
                Some(texts) => Some(texts?),
            },
        })
    }

    /// The file of a sample.
    pub(super) fn file(&self, sample: usize) -> &str {
        self.files.value(sample)
    }
}

impl Catalog {
    /// Reads a run of samples; an image of several of them once.
    pub(super) async fn read_images(&self, first: usize, rows: usize) -> Result<Rows> {
        let images = self.images.as_ref().expect("invariant: a folder's catalogue has its images");
        let is_another = |sample: &usize| *sample == first || images.file(*sample) != images.file(*sample - 1);
        let distinct: Vec<usize> = (first..first + rows).filter(is_another).collect();
        let reads = futures::stream::iter(distinct.clone())
            .map(|sample| async move { self.read_image(images.file(sample), images.sizes[sample]).await });
        let read: Vec<Option<Bytes>> = reads.buffered(IMAGES_IN_FLIGHT).try_collect().await?;
        let image = |row: usize| read[distinct.partition_point(|sample| *sample <= first + row) - 1].as_deref();
        let captions = images.captions.slice(first, rows);
        Ok(Rows {
            images: (0..rows).map(image).collect::<BinaryViewArray>(),
            captions: first_texts(&captions),
            all_captions: Some(captions),
            question_lists: None,
            questions: images.questions.as_ref().map(|questions| questions.slice(first, rows)),
            status: None,
            keys: Some(images.keys.slice(first, rows)),
            bad_texts: BTreeSet::new(),
            refused: BTreeMap::new(),
        })
    }

    /// The bytes of an image; none when it is gone, which costs its own samples only.
    async fn read_image(&self, file: &str, size: u64) -> Result<Option<Bytes>> {
        let location = self.location.child(file);
        let Some(bytes) = location.read_if_there().await? else { return Ok(None) };
        if bytes.len() as u64 != size {
            let what = format!("{} bytes, not {size}", bytes.len());
            return Err(DataError::Changed { uri: location.uri().into(), what });
        }
        Ok(Some(bytes))
    }
}
