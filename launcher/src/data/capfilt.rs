//! `blip2 data caption` and `blip2 data filter`: ranks that make shards from shards.

use anyhow::Context;
use data_pipeline::store::Location;
use serde_json::{Value, json};

use crate::cli::{CaptionShardsArgs, FilterArgs, MadeShardsArgs};
use crate::eval::answer;
use crate::exit::Unusable;
use crate::ranks::{Hold, Interrupts, Job, Plan, Programs};
use crate::source::local_folder;

/// What stays after a failure or an interruption.
const NEXT: &str = "finished shards stay; the same command continues with the others";
/// Captions of each image (BLIP-2, section 3.4).
const TEXTS: u64 = 10;
/// Nucleus sampling, as CapFilt writes captions (BLIP, section 4.3).
const TOP_P: f64 = 0.9;

/// `blip2 data caption`.
///
/// # Errors
/// Options that contradict one another, shards that were made otherwise, ranks that fail, an interruption.
pub fn caption(args: &CaptionShardsArgs, programs: &Programs) -> anyhow::Result<()> {
    let decoding = decoding(serde_json::to_value(&args.decoding)?)?;
    let mut words = ["capfilt", "caption", &args.run, "--source", &args.source].map(str::to_owned).to_vec();
    words.extend(args.stage.iter().flat_map(|stage| ["--stage".to_owned(), stage.clone()]));
    words.extend(["--decoding".to_owned(), decoding.to_string()]);
    run(words, &args.source, &args.made, programs)
}

/// `blip2 data filter`.
///
/// # Errors
/// As [`caption`].
pub fn filter(args: &FilterArgs, programs: &Programs) -> anyhow::Result<()> {
    let mut words = ["capfilt", "filter", &args.scorer, "--source", &args.source].map(str::to_owned).to_vec();
    words.extend(args.stage.iter().flat_map(|stage| ["--stage".to_owned(), stage.clone()]));
    words.extend(args.by_match.then(|| "--match".to_owned()));
    words.extend(["--top".to_owned(), args.top.to_string()]);
    words.extend(args.min_similarity.iter().flat_map(|least| ["--min-similarity".to_owned(), least.to_string()]));
    run(words, &args.source, &args.made, programs)
}

/// The options of decoding with CapFilt's own where nothing else is said: ten texts, drawn unless a search has beams.
fn decoding(mut told: Value) -> anyhow::Result<Value> {
    let is_drawn = ["top_p", "top_k", "temperature"].iter().any(|key| !told[key].is_null());
    let beams = told["beams"].as_u64();
    if beams.is_none() && !is_drawn {
        told["top_p"] = json!(TOP_P);
    }
    if told["texts"].is_null() {
        told["texts"] = json!(beams.map_or(TEXTS, |beams| TEXTS.min(beams)));
    }
    if beams.is_some_and(|beams| is_drawn || told["texts"].as_u64() > Some(beams)) {
        let expected = "--beams with as many --texts at most, or --top-p, --top-k and --temperature without beams";
        return Err(Unusable(format!("found {told}; expected {expected}")).into());
    }
    Ok(told)
}

fn run(mut words: Vec<String>, source: &str, made: &MadeShardsArgs, programs: &Programs) -> anyhow::Result<()> {
    // Told here, a mistake in them is one of the command line.
    Location::parse(source)?;
    Location::parse(&made.out)?;
    let MadeShardsArgs { out, ranks, threads, limit_shards, json } = made;
    words.extend(["--out".to_owned(), out.clone(), "--threads".to_owned(), threads.to_string()]);
    words.extend(limit_shards.iter().flat_map(|limit| ["--limit-shards".to_owned(), limit.to_string()]));
    words.push("--exit-on-stdin-eof".to_owned());
    let mut plan = Plan::local(programs, *ranks as usize, *threads as usize, words)?;
    // In a local folder, one command at a time, which ends the ranks of one that was killed.
    let hold = local_folder(out).map(|folder| Hold::take(&folder)).transpose()?;
    if let Some(hold) = &hold {
        plan.note_pids_in(hold.folder());
        hold.end_ranks(&plan.rank_program)?;
    }
    let mut outcome =
        Job { plan: &plan, interrupts: &Interrupts::watch()?, hold: hold.as_ref(), guard: None, next: NEXT }.run()?;
    let result = outcome.result.take().with_context(|| {
        format!("{plan}\nended well and reported no result; expected one. Is this blip2-rank of another version?")
    })?;
    answer(&result, *json)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ten_texts_are_drawn_where_nothing_is_said() {
        let of = |told: Value| decoding(told).unwrap();
        assert_eq!(of(json!({})), json!({"top_p": 0.9, "texts": 10}));
        assert_eq!(of(json!({"top_k": 5, "seed": 3})), json!({"top_k": 5, "seed": 3, "texts": 10}));
        assert_eq!(of(json!({"beams": 3})), json!({"beams": 3, "texts": 3}));
        assert_eq!(of(json!({"beams": 12, "texts": 2})), json!({"beams": 12, "texts": 2}));
        for wrong in [json!({"beams": 3, "texts": 4}), json!({"beams": 3, "top_p": 0.5})] {
            let error = decoding(wrong).unwrap_err();
            assert!(error.is::<Unusable>() && error.to_string().contains("--beams"), "{error}");
        }
    }
}
