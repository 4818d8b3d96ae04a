//! A folder of images with an annotation file.

use arrow::array::{ListBuilder, StringArray, StringBuilder};
use configs::AnnotatedSource;

use super::{Builder, IndexedGroup, IndexedShard};
use crate::annotations::{self, Folder};
use crate::catalog::{Catalog, Form, Images, Place};
use crate::error::{DataError, Result};
use crate::store::Location;

/// Images of a run, about as many as a row group of img2dataset has.
const RUN: usize = 64;

pub(super) async fn index_images(
    source: &AnnotatedSource,
    images: &Location,
    settings: serde_json::Value,
) -> Result<Catalog> {
    let file = Location::parse(source.uri.as_str())?.child(&source.annotations);
    let annotated = annotations::parse(file.uri(), &file.read().await?)?;
    let folder = Folder::list(images).await?;
    let mut catalog = Builder::new(Form::Images, images, settings);
    let (mut files, mut keys, mut sizes, mut missing) = (Vec::new(), Vec::new(), Vec::new(), 0);
    let mut captions = ListBuilder::new(StringBuilder::new());
    for sample in &annotated {
        let Some((path, size)) = folder.find(&sample.file) else {
            missing += 1;
            continue;
        };
        files.push(path.to_owned());
        keys.push(sample.key.as_str());
        sizes.push(size);
        captions.append_value(sample.captions.iter().map(Some));
    }
    if files.is_empty() {
        let found = format!("none of the {} annotated images, such as {}", annotated.len(), annotated[0].file);
        return Err(DataError::NoShards { uri: images.uri().into(), suffix: annotated[0].file.clone(), found });
    }
    let groups = sizes.chunks(RUN).enumerate().map(|(run, sizes)| IndexedGroup {
        place: Place::Images { first: (run * RUN) as u64 },
        bytes: sizes.iter().sum(),
        used: vec![true; sizes.len()],
    });
    let indexed = IndexedShard { groups: groups.collect(), ..IndexedShard::default() };
    catalog.add(images, sizes.iter().sum(), indexed);
    catalog.description.rows += missing;
    if missing > 0 {
        catalog.description.rejected.insert("image_missing".into(), missing);
    }
    catalog.images = Some(Images {
        files: StringArray::from(files),
        keys: StringArray::from(keys),
        sizes,
        captions: captions.finish(),
    });
    catalog.finish(None)
}
