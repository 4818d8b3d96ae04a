//! Results of evaluations as tables for a terminal.

mod checkpoints;
mod evaluations;

use std::fmt::Write;

use serde_json::Value;

/// The table of a result, or `None` for one of an unknown kind.
pub fn of(result: &Value) -> Option<String> {
    match result["task"].as_str()? {
        "retrieval" => Some(evaluations::retrieval(result)),
        "caption" => Some(evaluations::caption(result)),
        "vqa" => Some(evaluations::vqa(result)),
        "eval_table" => Some(evaluations::paper(result)),
        "describe" => descriptions(result),
        task if task.starts_with("checkpoints_") || task == "bench_checkpoint" => checkpoints::of(result),
        "weights_inspect" => Some(tensors(result)),
        "weights_verify" => Some(differences(result)),
        "weights_import" | "weights_export" => Some(files(result)),
        "data_caption" | "data_filter" => Some(shards(result)),
        _ => None,
    }
}

/// `46.6`, or `-` where there is no number.
pub fn percent(value: &Value) -> String {
    value.as_f64().map_or_else(|| "-".to_owned(), |number| format!("{number:.1}"))
}

fn descriptions(result: &Value) -> Option<String> {
    let mut table = String::new();
    for row in result["images"].as_array()? {
        for caption in row["captions"].as_array()? {
            let _ = writeln!(table, "{}: {}", row["image"].as_str()?, caption.as_str()?);
        }
    }
    Some(table)
}

fn list(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or("-")
}

fn tensors(result: &Value) -> String {
    let mut table = String::new();
    for tensor in list(&result["tensors"]) {
        let _ = writeln!(table, "  {:<90} {:<5} {}", text(&tensor["name"]), text(&tensor["dtype"]), tensor["shape"]);
    }
    let (tensors, files) = (list(&result["tensors"]).count(), list(&result["files"]).count());
    let family = result["family"].as_str().unwrap_or("names of no known family");
    let _ = writeln!(table, "{family}: {} parameters, {tensors} tensors, {files} files", result["parameters"]);
    table
}

fn differences(result: &Value) -> String {
    let mut table = format!("{}: {}\n", text(&result["uri"]), text(&result["family"]));
    for (part, found) in result["parts"].as_object().into_iter().flatten() {
        let of = |kind: &str| list(&found[kind]);
        let _ = writeln!(
            table,
            "  {part}: {} missing, {} extra, {} re-shaped",
            of("missing").count(),
            of("extra").count(),
            of("reshaped").count()
        );
        for name in of("missing") {
            let _ = writeln!(table, "    missing: {}", text(name));
        }
        for name in of("extra") {
            let _ = writeln!(table, "    extra: {}", text(name));
        }
        for one in of("reshaped") {
            let (found, expected) = (&one["found"], &one["expected"]);
            let _ = writeln!(table, "    re-shaped: {} is {found}, expected {expected}", text(&one["name"]));
        }
    }
    for name in list(&result["unknown"]) {
        let _ = writeln!(table, "  unknown: {}", text(name));
    }
    table
}

fn files(result: &Value) -> String {
    let mut table = String::new();
    for (part, file) in result["parts"].as_object().into_iter().flatten() {
        let (tensors, uri) = (&file["tensors"], text(&file["uri"]));
        let _ = writeln!(table, "  {part}: {tensors} tensors in {uri}, sha256 {}", text(&file["sha256"]));
    }
    for file in list(&result["files"]) {
        let _ = writeln!(table, "  {}: {} bytes, sha256 {}", text(&file["name"]), file["bytes"], text(&file["sha256"]));
    }
    for (reason, count) in result["left_out"].as_object().into_iter().flatten() {
        let _ = writeln!(table, "  left out: {count} tensors, each of which {reason}");
    }
    for name in list(&result["left_out"]) {
        let _ = writeln!(table, "  left out: {}", text(name));
    }
    table
}

fn shards(result: &Value) -> String {
    let number = |key: &str| result[key].as_u64().unwrap_or(0);
    let written = if result["task"] == "data_filter" { "kept" } else { "written" };
    let mut table = format!(
        "{}: {} rows in {} shards ({} of them were there), {} images, {} captions {written}\n",
        text(&result["out"]),
        number("rows"),
        number("shards"),
        number("shards_kept"),
        number("images"),
        number("texts"),
    );
    for (reason, rows) in result["unusable"].as_object().into_iter().flatten() {
        let _ = writeln!(table, "  no usable image, {reason}: {rows} rows");
    }
    for (key, words) in [("filtered", "rows of which no caption is kept"), ("lost_rows", "rows that cannot be read")] {
        if number(key) > 0 {
            let _ = writeln!(table, "  {}: {words}", number(key));
        }
    }
    for bad in list(&result["bad_shards"]) {
        let _ = writeln!(table, "  left out: {}", text(&bad["problem"]));
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn each_result_has_its_table() {
        let both = json!({"image_to_text": {"r1": 46.6, "r5": 80.0, "r10": 90.0}, "text_to_image": {"r1": 44.4, "r5": 1, "r10": 2}});
        let result = json!({"task": "retrieval", "split": "test_seen", "scenes": 500, "itc": both, "itm": both, "rerank_k": 16, "chance_r1": 0.2});
        let table = of(&result).unwrap();
        assert!(table.contains("chance R@1 0.2") && table.contains("re-ranked of the best 16"), "{table}");
        assert!(table.contains("46.6   80.0   90.0     44.4    1.0    2.0"), "{table}");
        let row = json!({"name": "pair, all objects", "score": 31.2, "control": 4.1, "objects": 1250});
        let table =
            of(&json!({"task": "caption", "split": "test_unseen", "rows": [row], "captions": ["a red circle"]}))
                .unwrap();
        assert!(table.contains("31.2       4.1      1250"), "{table}");
        let table =
            of(&json!({"task": "describe", "images": [{"image": "a.png", "captions": ["a red circle"]}]})).unwrap();
        assert_eq!(table, "a.png: a red circle\n");
        let result = json!({"task": "data_filter", "out": "a/b", "rows": 7, "shards": 2, "shards_kept": 1, "images": 6, "texts": 9, "unusable": {"no_image": 1}, "filtered": 2});
        let table = of(&result).unwrap();
        assert!(
            table.starts_with("a/b: 7 rows in 2 shards (1 of them were there), 6 images, 9 captions kept"),
            "{table}"
        );
        assert!(table.contains("no_image: 1 rows") && table.contains("2: rows of which no caption"), "{table}");
        assert_eq!(of(&json!({"task": "other"})), None);
    }
}
