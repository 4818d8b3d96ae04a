//! `blip2 eval table`: a table of the paper with rows from results beside the paper's.

use std::collections::BTreeMap;

use anyhow::{Context, bail};
use data_pipeline::store::Location;
use serde_json::{Value, json};

use super::paper::{Column, PaperTable, TABLES};
use crate::cli::TableArgs;
use crate::data::block_on;

/// What an interruption leaves behind.
const KEPT: &str = "nothing was written";

/// A table as a JSON object, with the paper's rows, those of the results, and what is missing.
///
/// # Errors
/// When results cannot be read.
pub fn table(args: &TableArgs) -> anyhow::Result<Value> {
    let table = &TABLES[usize::from(args.table) - 1];
    let mut results = Vec::new();
    for place in &args.results {
        for (file, text) in block_on(read(place), KEPT)? {
            let result = serde_json::from_slice::<Value>(&text);
            results.push(result.with_context(|| format!("{file} holds no JSON; expected a result of `blip2 eval`"))?);
        }
    }
    if let (true, Some(place)) = (results.is_empty(), args.results.first()) {
        bail!("{place} has no eval/*.json; expected a run that was evaluated, or a file. `blip2 eval` writes them");
    }
    Ok(filled(args.table, table, &results))
}

/// The results in a file, or in a run's folder, with their names.
async fn read(place: &str) -> data_pipeline::error::Result<Vec<(String, Vec<u8>)>> {
    let location = Location::parse(place)?;
    if place.ends_with(".json") {
        return Ok(vec![(place.to_owned(), location.read().await?.to_vec())]);
    }
    let mut results = Vec::new();
    for (file, _) in location.child("eval").list(".json").await? {
        results.push((file.uri().to_owned(), file.read().await?.to_vec()));
    }
    Ok(results)
}

fn filled(number: u8, table: &PaperTable, results: &[Value]) -> Value {
    let text = |value: &Value| value.as_str().unwrap_or("-").to_owned();
    let mut rows: BTreeMap<(String, String, String, u64), Vec<Option<f64>>> = BTreeMap::new();
    for result in results {
        let (task, set) = (text(&result["task"]), text(&result["set"]));
        let key = (
            text(&result["run"]),
            text(&result["model"]),
            text(&result["stage"]),
            result["step"].as_u64().unwrap_or_default(),
        );
        for (place, column) in table.columns.iter().enumerate().filter(|(_, column)| column.is_of(&task, &set)) {
            let cells = rows.entry(key.clone()).or_insert_with(|| vec![None; table.columns.len()]);
            cells[place] = value(column, result).or(cells[place]);
        }
    }
    let ours = rows.into_iter().map(|((run, model, stage, step), cells)| {
        let paper = table.rows.iter().find(|(known, _)| model == *known || model.starts_with(&format!("{known},")));
        let difference: Vec<Option<f64>> = match paper {
            Some((_, paper)) => {
                cells.iter().zip(*paper).map(|(own, paper)| Some(own.as_ref()? - paper.as_ref()?)).collect()
            }
            None => vec![None; cells.len()],
        };
        json!({
            "run": run, "model": model, "stage": stage, "step": step, "cells": cells, "difference": difference,
            "paper_row": paper.map(|(model, _)| *model),
        })
    });
    let ours: Vec<Value> = ours.collect();
    let has = |place: usize| ours.iter().any(|row| row["cells"][place].is_number());
    let titles: Vec<&str> = table.columns.iter().map(|column| column.title).collect();
    let missing: Vec<&str> =
        titles.iter().enumerate().filter(|(place, _)| !has(*place)).map(|(_, title)| *title).collect();
    let paper: Vec<Value> = table.rows.iter().map(|(model, cells)| json!({ "model": model, "cells": cells })).collect();
    json!({
        "schema_version": 1, "task": "eval_table", "table": number, "title": table.title, "columns": titles,
        "paper": paper, "ours": ours, "missing": missing, "note": table.note,
    })
}

fn value(column: &Column, result: &Value) -> Option<f64> {
    Some(result.pointer(column.value)?.as_f64()? * column.scale)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_stand_beside_the_papers_row_of_their_model() {
        let result = json!({
            "task": "vqa", "set": "v2_OpenEnded_mscoco_val2014_questions", "run": "mine", "model": "ViT-g, OPT-2.7B",
            "stage": "generative", "step": 80_000, "metrics": { "lavis": { "overall": 53.0 } },
        });
        let found = filled(2, &TABLES[1], &[result]);
        let row = &found["ours"][0];
        assert_eq!((row["cells"][0].as_f64(), row["difference"][0].as_f64()), (Some(53.0), Some(-0.5)));
        assert!(row["cells"][1].is_null() && row["difference"][1].is_null());
        assert_eq!(found["missing"], json!(["VQAv2 test-dev", "OK-VQA test", "GQA test-dev"]));
    }

    #[test]
    fn retrieval_takes_the_row_of_the_image_encoder() {
        let metrics = json!({ "itm": { "image_to_text": { "r1": 85.0 }, "text_to_image": { "r1": 68.0 } } });
        let result = json!({
            "task": "retrieval", "set": "coco_karpathy_test", "run": "mine", "model": "ViT-g, OPT-2.7B",
            "stage": "retrieval", "step": 1, "metrics": metrics,
        });
        let found = filled(5, &TABLES[4], &[result]);
        assert_eq!(found["ours"][0]["paper_row"], "ViT-g");
        assert!((found["ours"][0]["difference"][6].as_f64().unwrap() + 0.4).abs() < 1e-9);
    }
}
