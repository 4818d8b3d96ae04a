//! Scores of checkpoints and predictions, and the paper's tables.

use std::fmt::Write;

use serde_json::Value;

use super::percent;

fn heading(result: &Value) -> String {
    let text = |key: &str| result[key].as_str().unwrap_or("-").to_owned();
    let scenes = result["scenes"].as_u64().map_or_else(String::new, |scenes| format!(", {scenes} scenes"));
    let set = result["split"].as_str().map_or_else(|| text("set"), str::to_owned);
    format!("{} on {set}{scenes}", text("task"))
}

pub(super) fn retrieval(result: &Value) -> String {
    let mut table = format!("{} (all in %; chance R@1 {})\n", heading(result), percent(&result["chance_r1"]));
    let _ = writeln!(table, "  {:<24}{:>21}  {:>21}", "", "image to text", "text to image");
    let _ = writeln!(table, "  {:<24}{:>7}{:>7}{:>7}  {:>7}{:>7}{:>7}", "", "R@1", "R@5", "R@10", "R@1", "R@5", "R@10");
    let k = result["rerank_k"].as_u64().map_or_else(String::new, |k| format!(" of the best {k}"));
    for (key, name) in [("itc", "contrastive".to_owned()), ("itm", format!("re-ranked{k}"))] {
        let _ = write!(table, "  {name:<24}");
        for (way, gap) in [("image_to_text", "  "), ("text_to_image", "\n")] {
            for at in ["r1", "r5", "r10"] {
                let _ = write!(table, "{:>7}", percent(&result[key][way][at]));
            }
            table.push_str(gap);
        }
    }
    table
}

pub(super) fn caption(result: &Value) -> String {
    let mut table = format!("{}\n", heading(result));
    if let Some(metrics) = result["metrics"].as_object() {
        let _ = writeln!(
            table,
            "  {:<24}{:>8}{:>8}{:>8}{:>8}{:>9}{:>8}",
            "against people's", "BLEU-1", "BLEU-2", "BLEU-3", "BLEU-4", "ROUGE-L", "CIDEr"
        );
        let _ = writeln!(table, "{}", scores_of("all", &result["metrics"]));
        for (domain, of_domain) in metrics.iter().filter(|(name, _)| name.starts_with("domain/")) {
            let _ = writeln!(table, "{}", scores_of(&domain["domain/".len()..], of_domain));
        }
    }
    for (name, reason) in result["settings"]["not_offered"].as_object().into_iter().flatten() {
        let _ = writeln!(table, "  {name} is not offered: {}", reason.as_str().unwrap_or_default());
    }
    if result["rows"].is_null() {
        return table;
    }
    table.push_str("  objects named rightly, in %\n");
    let _ = writeln!(table, "  {:<24}{:>8}{:>10}{:>10}", "", "score", "control", "objects");
    for row in result["rows"].as_array().into_iter().flatten() {
        let objects = row["objects"].as_u64().map_or_else(|| "-".to_owned(), |count| count.to_string());
        let (score, control) = (percent(&row["score"]), percent(&row["control"]));
        let _ = writeln!(table, "  {:<24}{score:>8}{control:>10}{objects:>10}", row["name"].as_str().unwrap_or("-"));
    }
    table.push_str("  control: the same, with the captions of other images\n");
    table
}

/// A line of caption scores, times 100 as papers print them.
fn scores_of(name: &str, metrics: &Value) -> String {
    let score =
        |key: &str| metrics[key].as_f64().map_or_else(|| "-".to_owned(), |score| format!("{:.1}", 100.0 * score));
    format!(
        "  {name:<24}{:>8}{:>8}{:>8}{:>8}{:>9}{:>8}",
        score("bleu_1"),
        score("bleu_2"),
        score("bleu_3"),
        score("bleu_4"),
        score("rouge_l"),
        score("cider")
    )
}

/// Accuracies under every set of rules, by type.
pub(super) fn vqa(result: &Value) -> String {
    let mut table = format!("{} (accuracy in %)\n", heading(result));
    let Some(metrics) = result["metrics"].as_object() else {
        table.push_str("  the set has no answers to compare with; those that were given are in the result\n");
        return table;
    };
    for (rules, found) in metrics {
        let _ = writeln!(table, "  {:<24}{:>8}", format!("by the rules of {rules}"), percent(&found["overall"]));
        for by in ["per_answer_type", "per_question_type"] {
            for (kind, accuracy) in found[by].as_object().into_iter().flatten() {
                let _ = writeln!(table, "    {kind:<22}{:>8}", percent(accuracy));
            }
        }
    }
    table
}

/// A table of the paper, its rows and ours.
pub(super) fn paper(result: &Value) -> String {
    let list = |key: &str| result[key].as_array().map(Vec::as_slice).unwrap_or_default();
    let titles: Vec<&str> = list("columns").iter().filter_map(Value::as_str).collect();
    let widths: Vec<usize> = titles.iter().map(|title| title.len().max(6) + 2).collect();
    let mut table = format!("table {}: {}\n", result["table"], result["title"].as_str().unwrap_or_default());
    let mut row = |name: &str, cells: &[String]| {
        let _ = write!(table, "  {name:<44}");
        for (cell, width) in cells.iter().zip(&widths) {
            let _ = write!(table, "{cell:>width$}");
        }
        table.push('\n');
    };
    let cells = |row: &Value, form: &dyn Fn(f64) -> String| -> Vec<String> {
        let all = row.as_array().map(Vec::as_slice).unwrap_or_default();
        all.iter().map(|cell| cell.as_f64().map_or_else(|| "-".to_owned(), form)).collect()
    };
    row("", &titles.iter().map(|title| (*title).to_owned()).collect::<Vec<_>>());
    for paper in list("paper") {
        let name = format!("paper  {}", paper["model"].as_str().unwrap_or_default());
        row(&name, &cells(&paper["cells"], &|score| format!("{score:.1}")));
    }
    for own in list("ours") {
        let text = |key: &str| own[key].as_str().unwrap_or("-").to_owned();
        let name = format!("yours  {} ({})", text("run"), text("model"));
        row(&name, &cells(&own["cells"], &|score| format!("{score:.1}")));
        if let Some(paper) = own["paper_row"].as_str() {
            let name = format!("       minus the paper's {paper}");
            row(&name, &cells(&own["difference"], &|score| format!("{score:+.1}")));
        }
    }
    let missing: Vec<&str> = list("missing").iter().filter_map(Value::as_str).collect();
    if !missing.is_empty() {
        let _ = writeln!(table, "  no result for: {}", missing.join(", "));
    }
    let _ = writeln!(table, "  {}", result["note"].as_str().unwrap_or_default());
    table.push_str("  the paper's numbers are as recalled: check them against the paper before you quote them\n");
    table
}
