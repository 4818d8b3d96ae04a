//! Shards in, shards out: who makes which, what is there already, what came of it.

use std::collections::BTreeMap;

use arrow::array::RecordBatch;
use cluster::{Collective, gather_texts};
use data_pipeline::DataError;
use data_pipeline::catalog::{Catalog, Form};
use data_pipeline::derived::{DerivedShard, Input, note};
use data_pipeline::rows::Rows;
use data_pipeline::store::Location;
use futures::{StreamExt, TryStreamExt};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::images::Seen;
use super::progress::Progress;
use crate::TrainerError;
use crate::error::Result;
use crate::events::Events;
use crate::storage::{Created, Storage, local_path};

/// What all shards of a folder were made with.
const SETTINGS: &str = "capfilt.json";
/// Key of the note in the footer of each shard.
const NOTE: &str = "blip2.capfilt";
/// Version of [`SETTINGS`] and [`NOTE`].
const SCHEMA_VERSION: u32 = 1;
/// Footers that are read at the same time.
const FOOTERS_AT_ONCE: usize = 16;

/// Where shards come from and go to.
#[derive(Clone, Debug)]
pub struct Request {
    /// The shards that are read.
    pub source: String,
    /// The folder of the shards that are made.
    pub out: String,
    /// Only the first so many shards.
    pub limit_shards: Option<usize>,
    /// Threads of each rank: sums may differ in their last bits with their number.
    pub threads: usize,
}

/// What is done to every row group of a source.
pub(super) trait Step {
    /// Its name in results.
    fn task(&self) -> &'static str;

    /// Everything that decides over what is written, beside the source.
    fn settings(&self) -> &Value;

    /// The row group with its new columns.
    fn apply(&self, group: &Group, tally: &mut Tally) -> Result<RecordBatch>;
}

/// A row group.
pub(super) struct Group {
    /// Name of its shard.
    pub shard: String,
    /// Where it lies, for people.
    pub uri: String,
    /// Rows of the shard in front of it.
    pub first_row: u64,
    /// Whether all columns of a Parquet shard are there.
    pub is_parquet: bool,
    /// All columns.
    pub batch: RecordBatch,
    /// What training reads.
    pub rows: Rows,
}

/// What became of rows.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Tally {
    /// Rows written.
    pub rows: u64,
    /// Images among them that are usable.
    pub images: u64,
    /// Texts that were written, or kept.
    pub texts: u64,
    /// Images of which no caption was kept.
    pub filtered: u64,
    /// Rows without a usable image, by reason.
    pub unusable: BTreeMap<String, u64>,
    /// Rows of row groups that cannot be read, which are not written.
    pub lost: u64,
}

impl Tally {
    /// Counts the rows of a row group.
    pub fn add(&mut self, rows: usize, seen: &Seen) {
        let unusable = seen.unusable();
        self.plus(&Self { rows: rows as u64, images: seen.images(), unusable, ..Self::default() });
    }

    fn plus(&mut self, other: &Self) {
        self.rows += other.rows;
        self.images += other.images;
        self.texts += other.texts;
        self.filtered += other.filtered;
        self.lost += other.lost;
        for (reason, rows) in &other.unusable {
            *self.unusable.entry(reason.clone()).or_default() += rows;
        }
    }
}

/// What the footer of a shard says.
#[derive(Debug, Serialize, Deserialize)]
struct Note {
    schema_version: u32,
    source_bytes: u64,
    tally: Tally,
}

/// A shard that cannot be read.
#[derive(Debug, Serialize, Deserialize)]
struct BadShard {
    uri: String,
    problem: String,
}

/// What a rank did.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Report {
    shards: u64,
    tally: Tally,
    bad: Vec<BadShard>,
}

/// Refuses shards that have been through a step already.
pub(super) fn refuse_second_pass(group: &Group, column: &str) -> Result<()> {
    match group.batch.column_by_name(column) {
        None => Ok(()),
        Some(_) => Err(TrainerError::Setting {
            found: format!("{} has a column `{column}`", group.uri),
            expected: "shards that have not been through this command".into(),
            advice: "Name the shards that these were made from".into(),
        }),
    }
}

struct Work<'a> {
    step: &'a dyn Step,
    out: Location,
    runtime: tokio::runtime::Runtime,
}

/// Makes the shards that are not there yet, each on one rank; a result on rank 0, null elsewhere. `model` names the model
/// for people.
///
/// # Errors
/// When the folder holds shards that were made otherwise or from others, nothing can be read, or a store fails.
pub(super) fn run(
    step: &dyn Step,
    request: &Request,
    model: &str,
    ranks: &dyn Collective,
    events: Events,
) -> Result<Value> {
    let (source, out) = (Location::parse(&request.source)?, Location::parse(&request.out)?);
    refuse_overlap(&source, &out)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(TrainerError::Runtime)?;
    let work = Work { step, out, runtime };
    let mut inputs = work.runtime.block_on(Input::list(&source))?;
    inputs.truncate(request.limit_shards.unwrap_or(usize::MAX));
    // Rank 0 looks, so that all agree on what is missing.
    let (mut is_kept, mut before) = (vec![0_u8; inputs.len()], Report::default());
    if ranks.rank() == 0 {
        work.agree_on_settings(request, model)?;
        for (kept, tally) in is_kept.iter_mut().zip(work.finished(&inputs)?) {
            *kept = u8::from(tally.is_some());
            before.shards += u64::from(tally.is_some());
            tally.iter().for_each(|tally| before.tally.plus(tally));
        }
    }
    ranks.broadcast(&mut is_kept, 0)?;
    let missing = inputs.iter().zip(&is_kept).filter(|(_, kept)| **kept == 0).map(|(input, _)| input);
    let own: Vec<&Input> = missing.skip(ranks.rank()).step_by(ranks.world_size()).collect();
    let mut progress = Progress::new(step.task(), own.len(), before.shards, ranks, events);
    let mut report = Report::default();
    for (number, input) in own.iter().enumerate() {
        match work.one(input, |images| progress.images(number, images)) {
            Ok(tally) => {
                report.shards += 1;
                report.tally.plus(&tally);
            }
            // Other shards are none the worse for it.
            Err(TrainerError::Store(error)) if error.is_damage() => {
                let (uri, problem) = (input.location.uri().to_owned(), error.to_string());
                events.message(format!("left out: {problem}"));
                report.bad.push(BadShard { uri, problem });
            }
            Err(error) => return Err(error),
        }
        progress.shard(number + 1);
    }
    let all = gather_texts(ranks, &serde_json::to_string(&report)?)?;
    if ranks.rank() != 0 {
        return Ok(Value::Null);
    }
    let reports = all.iter().map(|text| Ok(serde_json::from_str(text)?)).collect::<Result<Vec<Report>>>()?;
    work.result(request, before, reports)
}

impl Work<'_> {
    /// Notes the settings where there are none, and compares them where there are.
    fn agree_on_settings(&self, request: &Request, model: &str) -> Result<()> {
        let store = Storage::at(self.out.clone())?;
        let own = json!({
            "schema_version": SCHEMA_VERSION, "task": self.step.task(), "settings": self.step.settings(),
            "source": request.source, "model": model,
        });
        let text = serde_json::to_vec_pretty(&own)?;
        if store.create(SETTINGS, text.into())? == Created::Written {
            return Ok(());
        }
        let found: Value = serde_json::from_slice(&store.read(SETTINGS)?.unwrap_or_default())?;
        let mut differences = Vec::new();
        for key in ["schema_version", "task", "settings"] {
            differ(key, &found[key], &own[key], &mut differences);
        }
        if differences.is_empty() {
            return Ok(());
        }
        Err(TrainerError::Setting {
            found: format!("{} says: {}", store.uri(SETTINGS), differences.join("; ")),
            expected: "the settings that the shards there were made with".into(),
            advice: format!("Repeat the command as it was (with {}), or choose another --out", found["model"]),
        })
    }

    /// Of each shard that is there already, what became of its rows.
    fn finished(&self, inputs: &[Input]) -> Result<Vec<Option<Tally>>> {
        let look = |input: &Input| {
            let (place, bytes) = (input.output(&self.out), input.size);
            async move {
                let Some(text) = note(&place, NOTE).await? else { return Ok(None) };
                let found: Note = serde_json::from_str(&text)?;
                if found.source_bytes == bytes {
                    return Ok(Some(found.tally));
                }
                Err(TrainerError::Setting {
                    found: format!("{} was made from a shard of {} bytes", place.uri(), found.source_bytes),
                    expected: format!("one of {bytes} bytes, as the source has now"),
                    advice: "Remove it to have it made again, or choose another --out".into(),
                })
            }
        };
        self.runtime.block_on(futures::stream::iter(inputs).map(look).buffered(FOOTERS_AT_ONCE).try_collect())
    }

    /// Makes one shard; `images` is told how many images were seen so far.
    fn one(&self, input: &Input, mut images: impl FnMut(u64)) -> Result<Tally> {
        let catalog = self.runtime.block_on(Catalog::open(&input.location, |_, _| ()))?;
        let place = input.output(&self.out);
        remove_leftovers(&place);
        let (mut tally, mut shard) = (Tally::default(), None);
        for number in 0..catalog.row_groups.len() {
            let (batch, rows) = match self.runtime.block_on(catalog.read_whole(number)) {
                Ok(whole) => whole,
                Err(error) if error.is_damage() && catalog.row_groups.len() > 1 => {
                    tally.lost += u64::from(catalog.row_groups[number].rows);
                    continue;
                }
                Err(error) => return Err(error.into()),
            };
            let (first_row, uri) = (catalog.row_groups[number].first_row, input.location.uri().to_owned());
            let is_parquet = catalog.description.form == Form::Parquet;
            let group = Group { shard: input.name.clone(), uri, first_row, is_parquet, batch, rows };
            let made = self.step.apply(&group, &mut tally)?;
            let open = match &mut shard {
                Some(open) => open,
                none => none.insert(DerivedShard::start(place.clone(), &made)?),
            };
            self.runtime.block_on(open.append(&made))?;
            images(tally.images);
        }
        let nothing = || TrainerError::Store(DataError::Setting(format!("{}: no row of it can be read", place.uri())));
        let note = Note { schema_version: SCHEMA_VERSION, source_bytes: input.size, tally: tally.clone() };
        self.runtime.block_on(shard.ok_or_else(nothing)?.finish(NOTE, serde_json::to_string(&note)?))?;
        Ok(tally)
    }

    fn result(&self, request: &Request, before: Report, reports: Vec<Report>) -> Result<Value> {
        let made: u64 = reports.iter().map(|report| report.shards).sum();
        let mut tally = before.tally;
        reports.iter().for_each(|report| tally.plus(&report.tally));
        let bad: Vec<BadShard> = reports.into_iter().flat_map(|report| report.bad).collect();
        if made + before.shards == 0
            && let Some(first) = bad.first()
        {
            return Err(TrainerError::Unsupported {
                found: format!("none of the {} shards can be read, such as {}", bad.len(), first.uri),
                expected: first.problem.clone(),
            });
        }
        Ok(json!({
            "schema_version": SCHEMA_VERSION, "task": self.step.task(), "source": request.source, "out": request.out,
            "shards": made + before.shards, "shards_kept": before.shards, "bad_shards": bad, "rows": tally.rows,
            "images": tally.images, "texts": tally.texts, "filtered": tally.filtered, "unusable": tally.unusable,
            "lost_rows": tally.lost, "settings": self.step.settings(),
        }))
    }
}

/// Notes where two JSON values differ.
fn differ(place: &str, found: &Value, now: &Value, differences: &mut Vec<String>) {
    match (found, now) {
        (Value::Object(before), Value::Object(after)) => {
            let keys: std::collections::BTreeSet<&String> = before.keys().chain(after.keys()).collect();
            keys.into_iter().for_each(|key| differ(&format!("{place}.{key}"), &found[key], &now[key], differences));
        }
        _ if found != now => differences.push(format!("{place} {found}, now {now}")),
        _ => {}
    }
}

/// A folder inside of the other would mix what is read with what is made.
fn refuse_overlap(source: &Location, out: &Location) -> Result<()> {
    let store = |uri: &str| {
        uri.split_once("://").map(|(scheme, rest)| (scheme.to_owned(), rest.split('/').next().map(str::to_owned)))
    };
    let is_below = |a: &Location, b: &Location| a.path.prefix_match(&b.path).is_some();
    if store(source.uri()) == store(out.uri()) && (is_below(source, out) || is_below(out, source)) {
        return Err(TrainerError::Setting {
            found: format!("--out {} and the source {} lie in one another", out.uri(), source.uri()),
            expected: "two folders".into(),
            advice: "Choose another --out".into(),
        });
    }
    Ok(())
}

/// Removes what an earlier process of ours that was killed left of this shard in a local folder: `name#1` and so on.
fn remove_leftovers(place: &Location) {
    let Some(path) = local_path(place) else { return };
    let (Some(folder), Some(name)) = (path.parent(), path.file_name().and_then(|name| name.to_str())) else { return };
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        let other = entry.file_name();
        let rest = other.to_str().and_then(|other| other.strip_prefix(name)?.strip_prefix('#'));
        if rest.is_some_and(|rest| rest.bytes().all(|byte| byte.is_ascii_digit())) {
            // What stays costs some space and nothing else.
            let _left_over = std::fs::remove_file(entry.path());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn differences_are_named_by_their_place() {
        let mut found = Vec::new();
        let (before, now) = (json!({"a": 1, "b": {"c": 2, "d": 3}}), json!({"a": 1, "b": {"c": 4, "d": 3, "e": null}}));
        differ("settings", &before, &now, &mut found);
        assert_eq!(found, ["settings.b.c 2, now 4"]);
    }

    #[test]
    fn a_folder_inside_of_the_other_is_refused() {
        let at = |uri: &str| Location::parse(uri).unwrap();
        for (source, out) in [("a/b", "a/b"), ("a/b", "a/b/c"), ("a/b/c", "a/b")] {
            assert!(refuse_overlap(&at(source), &at(out)).is_err(), "{source} {out}");
        }
        assert!(refuse_overlap(&at("a/b"), &at("a/bc")).is_ok());
    }
}
