//! Makes catalogues: lists shards, reads what filters need, notes which rows pass.

mod builder;
mod images;
mod parquet;
mod tar;

use std::collections::BTreeSet;

use configs::{Filters, Source};
use futures::{StreamExt, TryStreamExt};
use object_store::ObjectMeta;

use super::join::Metadata;
use super::{Catalog, Form, Place};
use crate::error::{DataError, Result};
use crate::filters::Rejected;
use crate::parquet_source::{Part, Shard};
use crate::store::Location;
pub(crate) use builder::{Builder, NewGroup};

/// Shards that are read at the same time.
const SHARDS_IN_FLIGHT: usize = 16;
/// Part size of large Parquet row groups when nothing else is asked for.
pub const READ_UNIT_BYTES: u64 = 64 << 20;

/// Is told the shards that were read and their total.
pub type IndexProgress<'a> = &'a (dyn Fn(usize, usize) + Sync);

/// Makes the catalogue of a source. Shards that cannot be read are left out and noted in the description.
///
/// # Errors
/// When nothing can be listed or read, or the source has a form that is not read here.
pub async fn index(source: &Source, read_unit_bytes: u64, progress: IndexProgress<'_>) -> Result<Catalog> {
    index_some(source, read_unit_bytes, (usize::MAX, progress)).await
}

/// The catalogue of so many shards at most, spread evenly over a source that has more: for a look, not for training.
///
/// # Errors
/// As [`index`].
pub async fn index_some(
    source: &Source,
    read_unit_bytes: u64,
    (most, progress): (usize, IndexProgress<'_>),
) -> Result<Catalog> {
    let location = source_location(source)?;
    let settings = settings_of(source, read_unit_bytes)?;
    let none = Filters::none();
    let few = (most, progress);
    match source {
        Source::Synthetic(_) => index_shards(Form::Parquet, &location, Judge::by(&none), settings, few).await,
        Source::Parquet(shards) => {
            index_shards(Form::Parquet, &location, Judge::by(&shards.filters), settings, few).await
        }
        Source::WebDataset(shards) => {
            index_shards(Form::Tar, &location, Judge::by(&shards.filters), settings, few).await
        }
        Source::Laion(laion) => {
            let metadata = Metadata::open(&Location::parse(laion.uri.as_str())?, &laion.filters).await?;
            let judge = Judge { filters: &laion.filters, metadata };
            index_shards(Form::Parquet, &location, judge, settings, few).await
        }
        Source::CocoCaptions(annotated) | Source::VisualGenome(annotated) => {
            images::index_images(annotated, &location, settings).await
        }
        Source::Vqa(asked) => images::index_questions(asked, &location, settings).await,
    }
}

/// Where the shards or images of a source lie.
///
/// # Errors
/// [`DataError::BadUri`].
pub(crate) fn source_location(source: &Source) -> Result<Location> {
    let location = Location::parse(source.uri().as_str())?;
    Ok(match source {
        Source::Synthetic(_) => location.child("train"),
        Source::Laion(laion) => Location::parse(laion.fetched.as_str())?,
        Source::CocoCaptions(annotated) | Source::VisualGenome(annotated) => location.child(&annotated.images),
        Source::Vqa(asked) => location.child(&asked.images),
        _ => location,
    })
}

/// What decides which rows a catalogue has: a catalogue with other settings is not this source's.
///
/// # Errors
/// Never in practice: configs are JSON.
pub(crate) fn settings_of(source: &Source, read_unit_bytes: u64) -> Result<serde_json::Value> {
    let filters = match source {
        Source::Parquet(source) | Source::WebDataset(source) => Some(&source.filters),
        Source::Laion(source) => Some(&source.filters),
        _ => None,
    };
    let filters = serde_json::to_value(filters).map_err(|error| DataError::Setting(error.to_string()))?;
    Ok(serde_json::json!({ "filters": filters, "read_unit_bytes": read_unit_bytes }))
}

/// See [`Catalog::open`].
pub(super) async fn open(location: &Location, progress: IndexProgress<'_>) -> Result<Catalog> {
    let settings = serde_json::json!({ "filters": null, "read_unit_bytes": READ_UNIT_BYTES });
    if is_tar(location).await? {
        let none = Filters::none();
        return index_shards(Form::Tar, location, Judge::by(&none), settings, (usize::MAX, progress)).await;
    }
    let found = list(location, ".parquet").await?;
    let total = found.len();
    let mut opened = futures::stream::iter(found)
        .map(|(shard, meta)| async move { Shard::open(shard, meta.size).await })
        .buffered(SHARDS_IN_FLIGHT);
    let mut catalog = Builder::new(Form::Parquet, location, settings);
    while let Some(shard) = opened.try_next().await? {
        let parts = shard.parts(READ_UNIT_BYTES);
        let groups = parts.iter().map(|part| all_used(&shard, part)).collect();
        let indexed = IndexedShard { fingerprint: shard.fingerprint.clone(), groups, ..IndexedShard::default() };
        catalog.add(&shard.location, shard.size, indexed);
        progress(catalog.shards.len(), total);
    }
    catalog.finish(None)
}

/// Whether the samples of a prefix lie in tars. Beside its tars img2dataset puts Parquet files without images.
async fn is_tar(location: &Location) -> Result<bool> {
    if location.list(".tar").await?.is_empty() {
        return Ok(false);
    }
    match location.list(".parquet").await?.into_iter().next() {
        None => Ok(true),
        Some((shard, meta)) => Ok(matches!(Shard::open(shard, meta.size).await, Err(DataError::Schema { .. }))),
    }
}

/// The shards that [`open`] reads, of Parquet or else tars.
pub(super) async fn shards(location: &Location) -> Result<Vec<(Location, ObjectMeta)>> {
    let suffix = if is_tar(location).await? { ".tar" } else { ".parquet" };
    list(location, suffix).await
}

fn all_used(shard: &Shard, part: &Part) -> IndexedGroup {
    let place = Place::Parquet { row_group: part.row_group, first: part.first };
    IndexedGroup { place, bytes: shard.part_bytes(part), used: vec![true; part.rows as usize] }
}

/// The shards of a prefix.
pub(super) async fn list(location: &Location, suffix: &str) -> Result<Vec<(Location, ObjectMeta)>> {
    let mut found = location.list(suffix).await?;
    // Parts of shards that `blip2 data fetch` has not finished, and catalogues beside the data.
    let is_hidden = |(shard, _): &(Location, ObjectMeta)| {
        let below = shard.path.prefix_match(&location.path);
        below.is_some_and(|mut parts| parts.any(|part| part.as_ref().starts_with(['_', '.'])))
    };
    found.retain(|shard| !is_hidden(shard));
    if found.is_empty() {
        let others = location.list("").await?;
        let found = match others.first() {
            None => "the prefix is empty or does not exist".to_owned(),
            Some((first, _)) => format!("{} other objects, such as {}", others.len(), first.uri()),
        };
        return Err(DataError::NoShards { uri: location.uri().into(), suffix: suffix.into(), found });
    }
    Ok(found)
}

/// So many of a list at most: the middle of each of as many equal stretches.
fn spread<T>(all: Vec<T>, most: usize) -> Vec<T> {
    let (len, wanted) = (all.len(), most.max(1));
    if len <= wanted {
        return all;
    }
    let chosen: BTreeSet<usize> = (0..wanted).map(|i| (2 * i + 1) * len / (2 * wanted)).collect();
    all.into_iter().enumerate().filter(|(place, _)| chosen.contains(place)).map(|(_, one)| one).collect()
}

/// Decides about rows.
struct Judge<'a> {
    filters: &'a Filters,
    /// What LAION's metadata say of images whose shards do not repeat it.
    metadata: Metadata,
}

impl<'a> Judge<'a> {
    fn by(filters: &'a Filters) -> Self {
        Self { filters, metadata: Metadata::default() }
    }
}

#[derive(Default)]
struct IndexedShard {
    fingerprint: String,
    groups: Vec<IndexedGroup>,
    rejected: Rejected,
    damage: Option<String>,
}

struct IndexedGroup {
    place: Place,
    bytes: u64,
    used: Vec<bool>,
}

impl IndexedShard {
    /// Counts the reason why a row is left out; whether it is used.
    fn note(&mut self, reason: Option<&'static str>) -> bool {
        if let Some(reason) = reason {
            *self.rejected.entry(reason.to_owned()).or_default() += 1;
        }
        reason.is_none()
    }
}

async fn index_shards(
    form: Form,
    location: &Location,
    judge: Judge<'_>,
    settings: serde_json::Value,
    (most, progress): (usize, IndexProgress<'_>),
) -> Result<Catalog> {
    let found = spread(list(location, if form == Form::Tar { ".tar" } else { ".parquet" }).await?, most);
    let total = found.len();
    let read_unit = settings["read_unit_bytes"].as_u64().unwrap_or(READ_UNIT_BYTES);
    let judge = &judge;
    let mut indexed = futures::stream::iter(found)
        .map(|(shard, meta)| async move {
            let indexed = match form {
                Form::Tar => tar::index_tar(&shard, &meta, judge, read_unit).await,
                _ => parquet::index_parquet(&shard, &meta, judge, read_unit).await,
            };
            (shard, meta.size, indexed)
        })
        .buffered(SHARDS_IN_FLIGHT);
    let mut catalog = Builder::new(form, location, settings);
    let (mut done, mut first_error) = (0, None);
    while let Some((shard, size, indexed)) = indexed.next().await {
        match indexed {
            Ok(indexed) => catalog.add(&shard, size, indexed),
            Err(error) if error.is_damage() => {
                catalog.leave_out(&shard, &error);
                first_error.get_or_insert(error);
            }
            // A store that does not answer is no property of the data.
            Err(error) => return Err(error),
        }
        done += 1;
        progress(done, total);
    }
    catalog.finish(first_error)
}

#[cfg(test)]
mod tests {
    use super::spread;

    #[test]
    fn some_of_many_are_spread_and_few_are_all() {
        assert_eq!(spread((0..10).collect(), 2), [2, 7]);
        assert_eq!(spread((0..3).collect(), 5), [0, 1, 2]);
        assert_eq!(spread((0..1000).collect::<Vec<_>>(), 32).len(), 32);
    }
}
