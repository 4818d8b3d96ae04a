//! Makes catalogues: lists shards, reads what filters need, notes which rows pass.

mod builder;
mod images;
mod listing;
mod parquet;
mod tar;

use std::collections::{BTreeMap, BTreeSet};

use configs::{Columns, Filters, ShardSource, Source};
use futures::{StreamExt, TryStreamExt};
use object_store::ObjectMeta;

use super::join::Metadata;
use super::{BadShard, Catalog, Form, Place};
use crate::error::{DataError, Result};
use crate::filters::Rejected;
use crate::parquet_source::{Part, Shard};
use crate::store::Location;
pub(crate) use builder::{Builder, NewGroup};
pub(crate) use listing::Listing;
use listing::is_shard;

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
        Source::Parquet(shards) => index_shards(Form::Parquet, &location, Judge::of(shards), settings, few).await,
        Source::WebDataset(shards) => index_shards(Form::Tar, &location, Judge::of(shards), settings, few).await,
        Source::Laion(laion) => {
            let metadata = Metadata::open(&Location::parse(laion.uri.as_str())?, &laion.filters).await?;
            let judge = Judge { metadata, ..Judge::by(&laion.filters) };
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
        Source::CocoCaptions(annotated) | Source::VisualGenome(annotated) => {
            images::folder(location, &annotated.images)
        }
        Source::Vqa(asked) => images::folder(location, &asked.images),
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
    let value = |error: serde_json::Error| DataError::Setting(error.to_string());
    let filters = serde_json::to_value(filters).map_err(value)?;
    let mut settings = serde_json::json!({ "filters": filters, "read_unit_bytes": read_unit_bytes });
    let columns = match source {
        Source::Parquet(source) | Source::WebDataset(source) => source.columns.as_ref(),
        _ => None,
    };
    if let Some(columns) = columns {
        settings["columns"] = serde_json::to_value(columns).map_err(value)?;
    }
    Ok(settings)
}

/// The columns that settings of [`settings_of`] name.
pub(crate) fn columns_of(settings: &serde_json::Value) -> Option<Columns> {
    let columns = settings.get("columns")?;
    let name = |key: &str| columns[key].as_str().map(str::to_owned);
    Some(Columns { image: name("image"), caption: name("caption"), key: name("key") })
}

/// See [`Catalog::open`].
pub(super) async fn open(location: &Location, progress: IndexProgress<'_>) -> Result<Catalog> {
    let settings = serde_json::json!({ "filters": null, "read_unit_bytes": READ_UNIT_BYTES });
    let none = Filters::none();
    let (form, found) = shards(location).await?;
    if form == Form::Tar {
        return index_found(form, found, Judge::by(&none), settings, (usize::MAX, progress)).await;
    }
    let total = found.shards.len();
    let mut opened = futures::stream::iter(found.shards)
        .map(|(shard, meta)| async move { Shard::open(shard, meta.size, None).await })
        .buffered(SHARDS_IN_FLIGHT);
    let mut catalog = Builder::new(Form::Parquet, &found.base, settings);
    while let Some(shard) = opened.try_next().await? {
        let parts = shard.parts(READ_UNIT_BYTES);
        let groups = parts.iter().map(|part| all_used(&shard, part)).collect();
        let indexed = IndexedShard { fingerprint: shard.fingerprint.clone(), groups, ..IndexedShard::default() };
        catalog.add(&shard.location, shard.size, indexed);
        progress(catalog.shards.len(), total);
    }
    catalog.finish(None)
}

/// The shards of a place: its tars, or else its Parquet files. Beside its tars img2dataset puts Parquet files without
/// images.
pub(super) async fn shards(location: &Location) -> Result<(Form, Listing)> {
    // One shard that is named says its form; a web server need not list then.
    for form in [Form::Parquet, Form::Tar] {
        if is_shard(location.path.as_ref(), form) {
            return Ok((form, Listing::find(location, form).await?));
        }
    }
    let tars = Listing::find(location, Form::Tar).await;
    let parquet = Listing::find(location, Form::Parquet).await;
    match (tars, parquet) {
        (Ok(tars), Err(DataError::NoShards { .. })) => Ok((Form::Tar, tars)),
        (Ok(tars), Ok(parquet)) => {
            let (shard, meta) = parquet.shards[0].clone();
            match Shard::open(shard, meta.size, None).await {
                Err(DataError::Schema { .. }) => Ok((Form::Tar, tars)),
                _ => Ok((Form::Parquet, parquet)),
            }
        }
        (_, parquet) => Ok((Form::Parquet, parquet?)),
    }
}

fn all_used(shard: &Shard, part: &Part) -> IndexedGroup {
    let place = Place::Parquet { row_group: part.row_group, first: part.first };
    IndexedGroup { place, bytes: shard.part_bytes(part), used: vec![true; part.rows as usize] }
}

/// The Parquet files of a place.
///
/// # Errors
/// As [`Listing::find`].
pub(super) async fn parquet_files(location: &Location) -> Result<Vec<(Location, ObjectMeta)>> {
    Ok(Listing::find(location, Form::Parquet).await?.shards)
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
    /// Columns or members that the config names.
    columns: Option<Columns>,
    /// Facts of LAION's metadata about images whose shards do not repeat them.
    metadata: Metadata,
}

impl<'a> Judge<'a> {
    fn of(shards: &'a ShardSource) -> Self {
        Self { columns: shards.columns.clone(), ..Self::by(&shards.filters) }
    }

    fn by(filters: &'a Filters) -> Self {
        Self { filters, columns: None, metadata: Metadata::default() }
    }
}

#[derive(Default)]
struct IndexedShard {
    fingerprint: String,
    groups: Vec<IndexedGroup>,
    rejected: Rejected,
    /// Images by their format, where all were looked at.
    formats: BTreeMap<String, u64>,
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
    few: (usize, IndexProgress<'_>),
) -> Result<Catalog> {
    index_found(form, Listing::find(location, form).await?, judge, settings, few).await
}

async fn index_found(
    form: Form,
    listing: Listing,
    judge: Judge<'_>,
    settings: serde_json::Value,
    (most, progress): (usize, IndexProgress<'_>),
) -> Result<Catalog> {
    let found = spread(listing.shards, most);
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
    let mut catalog = Builder::new(form, &listing.base, settings);
    catalog.description.is_pattern = listing.is_pattern;
    catalog.description.bad_shards.extend(listing.missing.into_iter().map(|uri| BadShard {
        problem: format!("{uri}: the pattern names it, and it is not there"),
        uri,
        used_in_part: false,
    }));
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
