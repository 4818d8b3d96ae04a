//! Tar shards: read once from end to end, and cut into runs of samples.

use object_store::{GetOptions, GetRange, ObjectMeta};

use super::{IndexedGroup, IndexedShard, Judge};
use crate::catalog::{Place, read};
use crate::error::{DataError, Result};
use crate::filters::{Facts, reject};
use crate::store::Location;
use crate::tar_source::{TarSample, TarSamples};

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
    let mut indexed = IndexedShard { fingerprint: etag.clone().unwrap_or_default(), ..IndexedShard::default() };
    let mut run = TarRun { limit: unit.min(RUN_BYTES), ..TarRun::default() };
    let mut reader = TarSamples::default();
    let mut at = 0;
    let mut damage = None;
    while at < meta.size && damage.is_none() {
        let end = (at + CHUNK).min(meta.size);
        let range = Some(GetRange::Bounded(at..end));
        reader.push(read(location, GetOptions { range, if_match: etag.clone(), ..Default::default() }).await?);
        at = end;
        damage = loop {
            match reader.next_sample() {
                Ok(Some(sample)) => run.add(&sample, judge, &mut indexed),
                Ok(None) => break None,
                Err(problem) => break Some(problem),
            }
        };
    }
    match damage.map_or_else(|| reader.finish(), Err) {
        Ok(last) => last.iter().for_each(|sample| run.add(sample, judge, &mut indexed)),
        Err(problem) => indexed.damage = Some(problem.to_owned()),
    }
    run.end(&mut indexed);
    match indexed.damage.take() {
        Some(problem) if indexed.groups.is_empty() => Err(DataError::Tar { uri: location.uri().into(), problem }),
        damage => Ok(IndexedShard { damage, ..indexed }),
    }
}

/// Samples of a tar that will be read at once.
#[derive(Default)]
struct TarRun {
    limit: u64,
    range: Option<(u64, u64)>,
    used: Vec<bool>,
}

impl TarRun {
    fn add(&mut self, sample: &TarSample, judge: &Judge<'_>, indexed: &mut IndexedShard) {
        let (start, _) = *self.range.get_or_insert((sample.start, sample.end));
        self.range = Some((start, sample.end));
        let metadata = sample.metadata();
        let value = |name: &str| metadata.as_ref()?.as_object()?.iter().find(|(key, _)| key.eq_ignore_ascii_case(name));
        let number = |name: &str| value(name).and_then(|(_, value)| value.as_f64());
        let text = |name: &str| value(name).and_then(|(_, value)| value.as_str());
        // A caption that is no UTF-8 is found and counted when its row is drawn.
        let caption = sample.caption();
        let facts = Facts {
            status: text("status"),
            tells_caption: caption.is_ok(),
            caption: caption.as_ref().ok().and_then(|caption| caption.as_deref()),
            sides: number("width").zip(number("height")).map(|(width, height)| (width as u64, height as u64)),
            nsfw: text("nsfw"),
            similarity: number("similarity"),
        };
        let used = indexed.note(reject(judge.filters, &facts));
        self.used.push(used);
        if sample.end - start >= self.limit || self.used.len() >= RUN_SAMPLES {
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
