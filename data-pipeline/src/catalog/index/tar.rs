//! Tar shards: read once from end to end, and cut into runs of samples.

use std::collections::BTreeMap;

use configs::Nsfw;
use object_store::ObjectMeta;
use serde_json::{Map, Value};

use super::{IndexedGroup, IndexedShard, Judge};
use crate::catalog::Place;
use crate::catalog::facts::sides;
use crate::error::{DataError, Result};
use crate::filters::{Facts, class_of, refused_by_status, reject, worst};
use crate::image::{Format, ImageError};
use crate::json;
use crate::store::Location;
use crate::tar_source::{Roles, TarSample, TarSamples, compression, rows_of};

/// Bytes of a run of samples, about: one request of this size is as fast as a store gets.
const RUN_BYTES: u64 = 4 << 20;
/// Samples of a run at most.
const RUN_SAMPLES: usize = 128;
/// Bytes that are requested at once.
const CHUNK: u64 = 8 << 20;

pub(super) async fn index_tar(
    location: &Location,
    meta: &ObjectMeta,
    judge: &Judge<'_>,
    unit: u64,
) -> Result<IndexedShard> {
    let etag = meta.e_tag.clone();
    let roles = Roles::of(judge.columns.as_ref());
    let mut indexed = IndexedShard { fingerprint: etag.clone().unwrap_or_default(), ..IndexedShard::default() };
    let mut run = TarRun { limit: unit.min(RUN_BYTES), ..TarRun::default() };
    let mut reader = TarSamples::with_roles(roles.clone());
    let mut at = 0;
    let mut damage = None;
    while at < meta.size && damage.is_none() {
        let end = (at + CHUNK).min(meta.size);
        let bytes = location.read_range(at..end, etag.as_deref()).await?;
        if at == 0 {
            refuse_compressed(location, &bytes)?;
        }
        reader.push(bytes);
        at = end;
        damage = loop {
            match reader.next_sample() {
                Ok(Some(sample)) => run.add(&sample, (judge, &roles), &mut indexed),
                Ok(None) => break None,
                Err(problem) => break Some(problem),
            }
        };
    }
    match damage.map_or_else(|| reader.finish(), Err) {
        Ok(last) => last.iter().for_each(|sample| run.add(sample, (judge, &roles), &mut indexed)),
        Err(problem) => indexed.damage = Some(problem.to_owned()),
    }
    run.end(&mut indexed);
    if indexed.groups.is_empty() && indexed.damage.is_none() {
        let empty = if meta.size == 0 { "it is empty (0 bytes)" } else { "it holds no sample" };
        indexed.damage = Some(empty.to_owned());
    }
    match indexed.damage.take() {
        Some(problem) if indexed.groups.is_empty() => Err(DataError::Tar { uri: location.uri().into(), problem }),
        damage => Ok(IndexedShard { damage, ..indexed }),
    }
}

/// # Errors
/// [`DataError::NotRead`] for a compressed tar: samples are read from the middle of a shard.
pub(super) fn refuse_compressed(location: &Location, start: &[u8]) -> Result<()> {
    let Some((method, program)) = compression(start) else { return Ok(()) };
    Err(DataError::NotRead {
        uri: location.uri().into(),
        problem: format!("it is compressed with {method}, and samples are read from the middle of a shard"),
        advice: match program {
            "gunzip" => "Unpack it once: `gunzip NAME.tar.gz` (images are compressed already)",
            "bunzip2" => "Unpack it once: `bunzip2 NAME.tar.bz2` (images are compressed already)",
            "unzstd" => "Unpack it once: `unzstd NAME.tar.zst` (images are compressed already)",
            _ => "Unpack it once: `unxz NAME.tar.xz` (images are compressed already)",
        },
    })
}

/// Samples of a tar that will be read at once.
#[derive(Default)]
struct TarRun {
    limit: u64,
    range: Option<(u64, u64)>,
    used: Vec<bool>,
}

impl TarRun {
    fn add(&mut self, sample: &TarSample, (judge, roles): (&Judge<'_>, &Roles), indexed: &mut IndexedShard) {
        let (start, _) = *self.range.get_or_insert((sample.start, sample.end));
        self.range = Some((start, sample.end));
        let metadata = sample.metadata();
        let metadata = metadata.as_ref().and_then(Value::as_object);
        let rows = rows_of(std::slice::from_ref(sample), roles);
        let by_status = metadata.and_then(|facts| json::find(facts, "status")?.as_str()).and_then(refused_by_status);
        let unusable = by_status.or_else(|| rows.unusable(0)).or_else(|| sniff(sample, &mut indexed.formats));
        let facts = Facts { unusable, caption: rows.texts(0).first().copied(), ..facts_of(metadata) };
        let used = indexed.note(reject(judge.filters, &facts));
        self.used.push(used);
        if sample.ends_group && (sample.end - start >= self.limit || self.used.len() >= RUN_SAMPLES) {
            self.end(indexed);
        }
    }

    fn end(&mut self, indexed: &mut IndexedShard) {
        if let Some((start, end)) = self.range.take() {
            let used = std::mem::take(&mut self.used);
            indexed.groups.push(IndexedGroup { place: Place::Tar { offset: start }, bytes: end - start, used });
        }
    }
}

/// Counts a sample's image by the format of its first bytes; the reason where they say that it cannot be decoded.
fn sniff(sample: &TarSample, formats: &mut BTreeMap<String, u64>) -> Option<&'static str> {
    match Format::sniff(sample.image.as_deref().unwrap_or_default()) {
        Ok(format) => {
            *formats.entry(format.name().to_owned()).or_default() += 1;
            None
        }
        Err(ImageError::Empty) => Some("no_image"),
        Err(error) => Some(error.reason()),
    }
}

/// The facts that filters judge, of a sample's JSON.
fn facts_of(metadata: Option<&Map<String, Value>>) -> Facts<'static> {
    let Some(facts) = metadata else { return Facts::default() };
    let similarity = json::find(facts, "similarity").map(|value| number(value).unwrap_or(f64::NAN));
    let side = |name: &str| facts.get(name).and_then(number).filter(|side| side.is_finite() && *side >= 0.0);
    let sides = sides(facts.keys().map(String::as_str)).and_then(|(width, height)| side(width).zip(side(height)));
    let classes = facts.iter().filter(|(key, _)| key.eq_ignore_ascii_case("nsfw"));
    let class = |value: &Value| -> Option<Nsfw> { class_of(value.as_str()?) };
    Facts {
        sides: sides.map(|(width, height)| (width as u64, height as u64)),
        nsfw: worst(classes.map(|(_, value)| class(value))),
        similarity,
        ..Facts::default()
    }
}

/// A number, also one that is written as a text.
fn number(value: &Value) -> Option<f64> {
    value.as_f64().or_else(|| value.as_str()?.trim().parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts(json: &str) -> Facts<'static> {
        facts_of(crate::json::value(json.as_bytes()).unwrap().as_object())
    }

    #[test]
    fn a_nan_costs_its_own_field() {
        let found = facts(r#"{"NSFW": "NSFW", "punsafe": NaN, "similarity": NaN, "width": NaN, "height": 4}"#);
        assert_eq!(found.nsfw, Some(Nsfw::Nsfw));
        assert!(found.similarity.unwrap().is_nan());
        assert_eq!(found.sides, None);
        assert_eq!(facts(r#"{"NSFW": NaN}"#).nsfw, None);
        assert_eq!(facts(r#"{"NSFW": "UNLIKELY", "nsfw": "UNSURE"}"#).nsfw, Some(Nsfw::Unsure));
    }

    #[test]
    fn the_sides_are_those_of_the_stored_image() {
        let json = r#"{"WIDTH": 90.0, "HEIGHT": 80.0, "width": 256, "height": "200", "original_width": 9}"#;
        assert_eq!(facts(json).sides, Some((256, 200)));
        assert_eq!(facts(r#"{"WIDTH": 90.0, "HEIGHT": 80.0}"#).sides, Some((90, 80)));
    }
}
