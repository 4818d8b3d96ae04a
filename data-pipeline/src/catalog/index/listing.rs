//! Shards of a source: a folder, one shard, or a pattern of names.

use std::collections::BTreeSet;

use futures::{StreamExt, TryStreamExt};
use object_store::ObjectMeta;

use crate::catalog::Form;
use crate::error::{DataError, Result};
use crate::store::{Location, Pattern};

/// Requests for single objects that are sent at the same time.
const HEADS_IN_FLIGHT: usize = 16;
/// Endings of tars that are compressed as a whole: found, and refused with that word.
const COMPRESSED: [&str; 8] = [".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.zst", ".tzst", ".tar.xz", ".txz"];
/// Splits of the hub's data sets, as their files are called: `train-00000-of-00004.parquet`.
const SPLITS: [&str; 7] = ["train", "validation", "valid", "val", "dev", "test", "test_private"];

/// Shards that were found.
pub(crate) struct Listing {
    /// The folder that their paths are below, or the one shard.
    pub(crate) base: Location,
    /// The shards, sorted by path.
    pub(crate) shards: Vec<(Location, ObjectMeta)>,
    /// Whether the source's address is a pattern of names below `base`.
    pub(crate) is_pattern: bool,
    /// Names that the pattern spells out and that are not there.
    pub(crate) missing: Vec<String>,
}

impl Listing {
    /// The shards of a form at a place. Hidden files and those of software are none ([`Location::list_data`]).
    ///
    /// # Errors
    /// [`DataError::NoShards`] when there is none; [`DataError::Setting`] when they are several splits of a data set;
    /// [`DataError::Store`].
    pub(crate) async fn find(location: &Location, form: Form) -> Result<Self> {
        let found = match (literal(location, form).await, location.pattern()) {
            // A name may hold the characters of a pattern.
            (Ok(shards), _) if !shards.is_empty() => {
                Self { base: location.clone(), shards, is_pattern: false, missing: Vec::new() }
            }
            (Ok(_) | Err(_), Ok(Some((base, pattern)))) => matching(base, &pattern, form).await?,
            (Err(error), _) | (_, Err(error)) => return Err(error),
            (Ok(_), Ok(None)) => return Err(none(location, form).await),
        };
        if found.shards.is_empty() {
            return Err(none(location, form).await);
        }
        refuse_several_splits(location, &found.shards)?;
        Ok(found)
    }
}

fn suffix(form: Form) -> &'static str {
    if form == Form::Tar { ".tar" } else { ".parquet" }
}

/// Whether a name is that of a shard of a form.
pub(super) fn is_shard(name: &str, form: Form) -> bool {
    let name = name.to_ascii_lowercase();
    name.ends_with(suffix(form)) || form == Form::Tar && COMPRESSED.iter().any(|ending| name.ends_with(ending))
}

/// Shards below a place that is meant as it is written.
async fn literal(location: &Location, form: Form) -> Result<Vec<(Location, ObjectMeta)>> {
    if is_shard(location.path.as_ref(), form) {
        let suffix = location.path.as_ref().rsplit('/').next().unwrap_or_default();
        return location.list(suffix).await.or_else(|error| match &error {
            DataError::Store { source, .. } if matches!(**source, object_store::Error::NotFound { .. }) => {
                Ok(Vec::new())
            }
            _ => Err(error),
        });
    }
    let mut found = location.list_data("").await?;
    found.retain(|(object, _)| is_shard(object.path.as_ref(), form));
    Ok(found)
}

/// Shards that a pattern names below a folder. Those that braces spell out are asked for one by one on web servers, most of
/// which cannot list.
async fn matching(base: Location, pattern: &Pattern, form: Form) -> Result<Listing> {
    let shards = match pattern.names().filter(|_| base.is_web()) {
        Some(names) => spelled_out(&base, names).await?,
        None => {
            let mut found = base.list_data("").await?;
            found.retain(|(object, _)| {
                pattern.matches(base.below(&object.path)) && is_shard(object.path.as_ref(), form)
            });
            found
        }
    };
    let there: BTreeSet<&str> = shards.iter().map(|(object, _)| base.below(&object.path)).collect();
    let missing = pattern.names().into_iter().flatten().filter(|name| !there.contains(name.as_str()));
    let missing = missing.map(|name| format!("{}/{name}", base.uri())).collect();
    Ok(Listing { base, shards, is_pattern: true, missing })
}

async fn spelled_out(base: &Location, names: &BTreeSet<String>) -> Result<Vec<(Location, ObjectMeta)>> {
    let heads = futures::stream::iter(names).map(|name| async move {
        let object = base.child(name);
        match object.head().await {
            Ok(meta) => Ok(Some((object, meta))),
            Err(DataError::Store { source, .. }) if matches!(*source, object_store::Error::NotFound { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    });
    let found: Vec<_> = heads.buffered(HEADS_IN_FLIGHT).try_collect().await?;
    Ok(found.into_iter().flatten().collect())
}

/// The error of a place without shards: what there is instead.
async fn none(location: &Location, form: Form) -> DataError {
    let folder = location.pattern().ok().flatten().map_or_else(|| location.clone(), |(base, _)| base);
    let others = match folder.list("").await {
        Ok(others) => others,
        Err(error) => return error,
    };
    let is_pattern = folder.uri() != location.uri();
    let found = match others.first() {
        None if is_pattern => "the folder in front of the pattern is empty or does not exist".to_owned(),
        None => "the prefix is empty or does not exist".to_owned(),
        Some((first, _)) if is_pattern => {
            format!(
                "the pattern matches none of the {} objects in {}, such as {}",
                others.len(),
                folder.uri(),
                first.uri()
            )
        }
        Some((first, _)) => format!("{} other objects, such as {}", others.len(), first.uri()),
    };
    DataError::NoShards { uri: location.uri().into(), suffix: suffix(form).into(), found }
}

/// # Errors
/// [`DataError::Setting`] when the files are several splits of one of the hub's sets, so that no test split is trained on.
fn refuse_several_splits(location: &Location, shards: &[(Location, ObjectMeta)]) -> Result<()> {
    let splits: BTreeSet<&str> = shards.iter().filter_map(|(object, _)| split_of(object.path.filename()?)).collect();
    if splits.len() < 2 {
        return Ok(());
    }
    let all = splits.iter().copied().collect::<Vec<_>>().join(", ");
    Err(DataError::Setting(format!(
        "{0}: it holds the splits {all}. Name the one to read with a pattern, such as {0}/**/train-*.parquet",
        location.uri()
    )))
}

/// `train` of `train-00000-of-00004.parquet`, or of `train-00000-of-00004-abcdef.parquet`.
fn split_of(name: &str) -> Option<&str> {
    let (split, rest) = name.split_once('-')?;
    let (number, rest) = rest.split_once("-of-")?;
    let is_number = |text: &str| text.len() == 5 && text.bytes().all(|byte| byte.is_ascii_digit());
    (SPLITS.contains(&split) && is_number(number) && is_number(rest.get(..5)?)).then_some(split)
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn find(folder: &std::path::Path, uri: &str, form: Form) -> Result<(Vec<String>, Vec<String>)> {
        let location = Location::parse(&format!("{}/{uri}", folder.display())).unwrap();
        let found = Listing::find(&location, form).await?;
        let bare = |uri: &str| uri.strip_prefix(&format!("{}/", folder.display())).unwrap().to_owned();
        Ok((
            found.shards.iter().map(|(object, _)| bare(object.uri())).collect(),
            found.missing.iter().map(|uri| bare(uri)).collect(),
        ))
    }

    #[tokio::test]
    async fn folders_single_shards_and_patterns_are_found() {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path();
        for name in
            ["a/0.tar", "a/1.TAR", "a/2.tar.gz", "a/_temporary/0.tar", "a/.hidden.tar", "set[0]/0.tar", "set0/1.tar"]
        {
            std::fs::create_dir_all(folder.join(name).parent().unwrap()).unwrap();
            std::fs::write(folder.join(name), "x").unwrap();
        }
        let shards = |uri| async move { find(folder, uri, Form::Tar).await.unwrap() };
        assert_eq!(shards("a").await.0, ["a/0.tar", "a/1.TAR", "a/2.tar.gz"]);
        assert_eq!(shards("a/0.tar").await.0, ["a/0.tar"]);
        assert_eq!(shards("a/_temporary").await.0, ["a/_temporary/0.tar"], "a folder that is named is no hidden one");
        assert_eq!(shards("set[0]").await.0, ["set[0]/0.tar"], "a name that exists is no pattern");
        assert_eq!(shards("s*/[01].tar").await.0, ["set0/1.tar", "set[0]/0.tar"]);
        assert_eq!(shards("a/{0..2}.tar").await, (vec!["a/0.tar".into()], vec!["a/1.tar".into(), "a/2.tar".into()]));
        let error = find(folder, "a/x*.tar", Form::Tar).await.unwrap_err().to_string();
        assert!(error.contains("pattern matches none"), "{error}");
    }

    #[tokio::test]
    async fn several_splits_are_no_source() {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path();
        std::fs::create_dir_all(folder.join("data")).unwrap();
        for name in ["train-00000-of-00002", "train-00001-of-00002", "validation-00000-of-00001-2cf1"] {
            std::fs::write(folder.join(format!("data/{name}.parquet")), "x").unwrap();
        }
        let error = find(folder, "data", Form::Parquet).await.unwrap_err().to_string();
        assert!(error.contains("train, validation") && error.contains("train-*.parquet"), "{error}");
        assert_eq!(find(folder, "data/train-*.parquet", Form::Parquet).await.unwrap().0.len(), 2);
        assert_eq!(split_of("training-00000-of-00002.parquet"), None);
    }
}
