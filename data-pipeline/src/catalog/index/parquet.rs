//! Parquet shards: the columns that filters look at, row group by row group.

use std::collections::BTreeMap;

use arrow::array::{BinaryViewArray, StringArray};
use object_store::ObjectMeta;

use super::{IndexedGroup, IndexedShard, Judge, all_used};
use crate::catalog::facts::FactColumns;
use crate::error::Result;
use crate::filters::{Facts, reject};
use crate::parquet_source::{NullImages, Part, Shard};
use crate::rows::Rows;
use crate::store::Location;

/// The columns that filters look at, beside status and captions.
const FACTS: &[&str] = &["width", "height", "nsfw", "similarity"];

pub(super) async fn index_parquet(
    location: &Location,
    meta: &ObjectMeta,
    judge: &Judge<'_>,
    unit: u64,
) -> Result<IndexedShard> {
    let shard = Shard::open(location.clone(), meta.size, judge.columns.as_ref()).await?;
    let mut indexed = IndexedShard { fingerprint: shard.fingerprint.clone(), ..IndexedShard::default() };
    for part in shard.parts(unit) {
        let (rows, facts) = known_rows(&shard, &part, judge).await?;
        let used = (0..part.rows as usize).map(|row| {
            let unusable = rows.unusable(row);
            let caption = rows.texts(row).first().copied();
            let facts_of_row = Facts { unusable, caption, ..facts.facts(row) };
            let facts_of_row = judge.metadata.complete(facts_of_row, facts.url(row));
            indexed.note(reject(judge.filters, &facts_of_row))
        });
        let used = used.collect();
        indexed.groups.push(IndexedGroup { used, ..all_used(&shard, &part) });
    }
    Ok(indexed)
}

/// The rows of a part as far as they are known without their images, and the facts about them.
async fn known_rows(shard: &Shard, part: &Part, judge: &Judge<'_>) -> Result<(Rows, FactColumns)> {
    let mut names = FactColumns::names(shard.schema(), FACTS);
    if judge.metadata.is_asked() {
        names.extend(FactColumns::names(shard.schema(), &["url"]));
    }
    let columns = &shard.columns;
    let texts = [&columns.status, &columns.caption].into_iter().flatten().map(String::as_str);
    names.extend(texts);
    let read = match names.is_empty() {
        true => None,
        false => Some(shard.read_mended(part, &names).await?),
    };
    let mut rows = shard.without_images(part, read.as_ref())?;
    // Lists are read where they are all there is, and where a row's own caption is none.
    let is_needed = columns.caption.is_none() || (0..rows.len()).any(|row| rows.texts(row).is_empty());
    if let Some(name) = columns.captions.as_deref().filter(|_| is_needed) {
        shard.add_lists(&mut rows, &shard.read_mended(part, &[name]).await?, name)?;
    }
    // A status tells of images; without one the images tell themselves, where the footer says that some are null.
    match shard.null_images(part) {
        NullImages::All => rows.images = BinaryViewArray::new_null(rows.len()),
        NullImages::Some if columns.status.is_none() => rows.images = shard.read(part).await?.images,
        _ => (),
    }
    let facts = read.map(|(batch, _)| FactColumns::of(&batch)).unwrap_or_default();
    Ok((rows, facts))
}

impl Shard {
    /// Rows with the texts of a batch, and with an image each: of these nothing was read.
    fn without_images(&self, part: &Part, read: Option<&crate::parquet_source::Mended>) -> Result<Rows> {
        let count = part.rows as usize;
        let text = |name: &Option<String>| -> Result<Option<StringArray>> {
            match (name, read) {
                (Some(name), Some((batch, _))) => self.texts_of(batch, name).map(Some),
                _ => Ok(None),
            }
        };
        let bad = self.columns.caption.as_ref().and_then(|name| read?.1.get(name)).cloned();
        Ok(Rows {
            images: BinaryViewArray::from_iter_values(std::iter::repeat_n(b"?", count)),
            captions: text(&self.columns.caption)?.unwrap_or_else(|| StringArray::new_null(count)),
            all_captions: None,
            questions: None,
            question_lists: None,
            status: text(&self.columns.status)?,
            keys: None,
            bad_texts: bad.unwrap_or_default(),
            refused: BTreeMap::new(),
        })
    }
}
