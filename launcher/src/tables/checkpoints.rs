//! What `blip2 checkpoints` answers, as tables.

use std::fmt::Write;

use indicatif::HumanBytes;
use serde_json::Value;

use super::{list, text};

/// The table of an answer, or `None` for one of an unknown kind.
pub fn of(result: &Value) -> Option<String> {
    match result["task"].as_str()? {
        "checkpoints_list" => Some(listed(result)),
        "checkpoints_show" => Some(shown(result)),
        "checkpoints_verify" => Some(verified(result)),
        "checkpoints_prune" => Some(pruned(result)),
        "bench_checkpoint" => Some(measured(result)),
        _ => None,
    }
}

fn size(bytes: &Value) -> String {
    bytes.as_u64().map_or_else(|| "-".to_owned(), |bytes| HumanBytes(bytes).to_string())
}

fn listed(result: &Value) -> String {
    let mut table = format!(
        "{}\n  {:<16}{:>10}  {:<12}{:>12}{:>10}  where\n",
        text(&result["run"]),
        "stage",
        "step",
        "state",
        "size",
        "total"
    );
    for row in list(&result["checkpoints"]) {
        let total = row["metrics"]["total"].as_f64().map_or_else(|| "-".to_owned(), |total| format!("{total:.4}"));
        let (stage, state, uri) = (text(&row["stage"]), text(&row["state"]), text(&row["uri"]));
        let _ = writeln!(
            table,
            "  {stage:<16}{:>10}  {state:<12}{:>12}{total:>10}  {uri}",
            row["step"].to_string(),
            size(&row["bytes"])
        );
        if let Some(reason) = row["reason"].as_str() {
            let _ = writeln!(table, "    damaged: {reason}");
        }
    }
    for uri in list(&result["unfinished"]) {
        let _ = writeln!(table, "  unfinished, or being written: {}", text(uri));
    }
    for problem in list(&result["unreadable"]) {
        let _ = writeln!(table, "  cannot be read: {}", text(problem));
    }
    for change in list(&result["accepted_changes"]) {
        let (key, was, is) = (text(&change["key"]), text(&change["was"]), text(&change["is"]));
        let _ = writeln!(table, "  accepted change: {key}: {was} -> {is}");
    }
    table
}

fn shown(result: &Value) -> String {
    let manifest = &result["manifest"];
    let mut table = format!(
        "{}\n  stage {} ({}), step {}, {} samples, seed {}\n  {} parameters, {}, format version {}\n",
        text(&result["uri"]),
        manifest["stage_index"],
        text(&manifest["stage"]),
        manifest["step"],
        manifest["samples_seen"],
        manifest["seed"],
        result["parameters"],
        size(&result["bytes"]),
        manifest["format_version"],
    );
    for (name, value) in manifest["metrics"].as_object().into_iter().flatten() {
        let _ = writeln!(table, "  loss {name}: {value}");
    }
    for (name, file) in manifest["files"].as_object().into_iter().flatten() {
        let _ = writeln!(table, "  {name}: {}, sha256 {}", size(&file["size"]), text(&file["sha256"]));
    }
    for (name, sha256) in manifest["frozen"].as_object().into_iter().flatten() {
        let _ = writeln!(table, "  made with {name}, sha256 {}", text(sha256));
    }
    for (name, value) in manifest["facts"].as_object().into_iter().flatten() {
        let _ = writeln!(table, "  {name}: {}", text(value));
    }
    table
}

fn verified(result: &Value) -> String {
    let mut table = String::new();
    for row in list(&result["checkpoints"]) {
        let state = if row["ok"] == true { "whole" } else { "DAMAGED" };
        let _ = writeln!(table, "  {state}: {} ({})", text(&row["uri"]), size(&row["bytes"]));
        for problem in list(&row["problems"]) {
            let _ = writeln!(table, "    {}", text(problem));
        }
    }
    table
}

fn pruned(result: &Value) -> String {
    let words = if result["dry_run"] == true { "would be deleted" } else { "deleted" };
    let mut table: String = list(&result["deleted"]).map(|uri| format!("  {words}: {}\n", text(uri))).collect();
    if table.is_empty() {
        let _ = writeln!(table, "  nothing to delete");
    }
    table
}

fn measured(result: &Value) -> String {
    let number = |key: &str| result[key].as_f64().unwrap_or(f64::NAN);
    format!(
        "{} of {} parameters, {}, medians of {} rounds\n  training stands still for {:.2} s, {:.2} of a copy of memory\n  \
         written at {:.0} MB/s, {:.2} of plain puts\n  read at {:.0} MB/s, {:.2} of plain gets\n",
        size(&result["bytes"]),
        result["parameters"],
        text(&result["store"]),
        list(&result["rounds"]).count(),
        number("stall_s"),
        number("stall_ratio"),
        number("write_mb_per_s"),
        number("write_ratio"),
        number("read_mb_per_s"),
        number("read_ratio"),
    )
}
