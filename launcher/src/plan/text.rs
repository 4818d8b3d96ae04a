//! A plan for people: one page.

use std::collections::BTreeMap;
use std::fmt::Write;

use configs::{Gpu, Run};

use super::Plan;
use super::stage::StagePlan;
use crate::report::duration;

/// Parts of the model, in the order of the data flow, as people call them.
const MODEL_PARTS: [(&str, &str); 3] =
    [("image_encoder", "image encoder"), ("qformer", "Q-Former"), ("language_model", "language model")];

/// Characters of a value in one line.
const WIDTH: usize = 84;

/// The whole page.
pub fn text(run: &Run, plan: &Plan) -> String {
    let mut page = String::new();
    let gpu = plan.gpu.and_then(Gpu::named).map_or_else(String::new, |gpu| format!(", each with one {}", gpu.title));
    let measured = if plan.calibrated { ", timed on this machine" } else { "" };
    let plural = |count: usize, word: &str| format!("{count} {word}{}", if count == 1 { "" } else { "s" });
    let stages = plural(plan.stages.len(), "stage");
    let ranks = plural(plan.ranks, "rank");
    line(&mut page, format_args!("{}: {stages} on {ranks}{gpu}{measured}", run.run.name));
    for stage in &plan.stages {
        page.push('\n');
        add_stage(&mut page, plan, stage);
    }
    if plan.stages.len() > 1 && plan.eta_s.is_some() {
        page.push('\n');
        line(&mut page, format_args!("all stages: {}", time_and_cost(plan.eta_s, plan.cost)));
    }
    if !plan.notes.is_empty() {
        page.push('\n');
        plan.notes.iter().for_each(|note| add_row(&mut page, "note", note));
    }
    page
}

fn add_stage(page: &mut String, plan: &Plan, stage: &StagePlan) {
    let (steps, batch) = (grouped(stage.steps), grouped(stage.global_batch as u64));
    let slices = format!("{} of {}", stage.slices, grouped(stage.slice_size as u64));
    line(page, format_args!("{}: {steps} steps, batches of {batch} images, slices: {slices}", stage.name));
    add_model(page, stage);
    let mut row = |name: &str, value: String| add_row(page, name, &value);
    row("memory per rank", format!("{}: {}", bytes(stage.peak_memory_bytes), parts_of(&stage.memory_bytes)));
    if !stage.host_memory_bytes.is_empty() {
        let total = stage.host_memory_bytes.values().sum();
        row("on its host", format!("{}: {}", bytes(total), parts_of(&stage.host_memory_bytes)));
    }
    if plan.gpu.is_some() {
        row("largest slice", largest_slice(stage));
    }
    let store = |name: &str| decimal(stage.store_bytes.get(name).copied().unwrap_or_default());
    let kb = plan.image_kb;
    row("store", format!("{} a step, {} in all, with {kb:.0} kB an image", store("step"), store("stage")));
    row("network", network(&stage.network_bytes_per_step));
    add_speed(page, plan, stage);
    if let Some(measured) = &stage.measured {
        let error =
            |error: Option<f64>| error.map_or_else(String::new, |error| format!(" (plan {:+.1} %)", 100.0 * error));
        let mut said = Vec::new();
        said.extend(
            measured.images_per_s.map(|speed| format!("{speed:.1} images/s{}", error(measured.images_per_s_error))),
        );
        said.extend(
            measured
                .peak_memory_bytes
                .map(|peak| format!("{} of rank 0{}", bytes(peak as u64), error(measured.peak_memory_error))),
        );
        line(page, format_args!("  {:<16}{}, from {} reports", "measured", said.join(", "), measured.reports));
    }
}

fn largest_slice(stage: &StagePlan) -> String {
    match stage.largest_slice {
        Some(images) if images < stage.slice_size as u64 => {
            let images = grouped(images);
            format!(
                "{images} images fit with one slice for each rank, fewer than the run has; raise `slices` of the stage"
            )
        }
        Some(images) => format!("{} images fit with one slice for each rank", grouped(images)),
        None => "not even one image fits this GPU".to_owned(),
    }
}

fn add_model(page: &mut String, stage: &StagePlan) {
    line(page, format_args!("  {:<16}{:>14}  {:<8}{:>16}{:>14}", "", "parameters", "", "GFLOP, forward", "whole step"));
    let of = |map: &BTreeMap<&'static str, f64>, name: &str| map.get(name).copied().unwrap_or_default();
    let mut row = |name: &str, title: &str, count: u64, state: &str| {
        let (forward, step) = (of(&stage.forward_gflop_per_image, name), of(&stage.gflop_per_image, name));
        line(page, format_args!("  {title:<16}{:>14}  {state:<8}{forward:>16.1}{step:>14.1}", grouped(count)));
    };
    let mut all = 0;
    for (name, title) in MODEL_PARTS {
        let Some(parameters) = stage.parameters.get(name) else { continue };
        all += parameters.count;
        row(name, title, parameters.count, if parameters.trained { "trained" } else { "frozen" });
    }
    row("total", "in all", all, "");
}

fn network(bytes: &BTreeMap<&'static str, u64>) -> String {
    let of = |name: &str| bytes.get(name).copied().unwrap_or_default() as f64;
    if of("total") == 0.0 {
        return "nothing: one rank".to_owned();
    }
    let (gathered, negatives, gradients) = (of("gathered"), of("negatives"), of("gradients"));
    let drawn = if negatives > 0.0 { format!(", drawn images at most {}", decimal(negatives)) } else { String::new() };
    let [total, gradients, gathered] = [of("total"), gradients, gathered].map(decimal);
    format!("{total} received by a rank in a step: gradients {gradients}, weights and features {gathered}{drawn}")
}

fn add_speed(page: &mut String, plan: &Plan, stage: &StagePlan) {
    let mut row = |name: &str, value: String| add_row(page, name, &value);
    let (Some(images), Some(steps)) = (stage.speed(), stage.steps_per_s) else {
        if let Some(reason) = &stage.no_speed {
            row("speed", format!("not known: {reason}"));
        }
        return;
    };
    let share =
        stage.utilisation.map_or_else(String::new, |share| format!(", {:.1} % of the GPUs' rate", 100.0 * share));
    row("speed", format!("{images:.1} images/s, {steps:.2} steps/s{share}"));
    if stage.waits_for_data() {
        let wanted = stage.decode_threads_wanted(plan.image_kb).unwrap_or_default().ceil();
        row("", format!("decoding is the limit; {wanted:.0} decoding threads over all ranks would keep up"));
    }
    let mut parts: Vec<(&str, f64)> = stage.step_s.iter().map(|(name, seconds)| (*name, *seconds)).collect();
    parts.retain(|(_, seconds)| *seconds > 0.0);
    parts.sort_by(|a, b| b.1.total_cmp(&a.1));
    let parts = parts.iter().map(|(name, seconds)| format!("{} {:.0} ms", words(name), 1e3 * seconds));
    row("a step", format!("{:.0} ms: {}", 1e3 / steps, parts.collect::<Vec<_>>().join(", ")));
    row("time", time_and_cost(stage.seconds(), stage.cost));
}

fn time_and_cost(seconds: Option<f64>, cost: Option<f64>) -> String {
    let days = |seconds: f64| match seconds {
        long if long >= 2.0 * 86_400.0 => format!("{:.1} days", long / 86_400.0),
        short => duration(short),
    };
    let cost = cost.map(|cost| format!("costs {cost:.2}"));
    seconds.map(days).into_iter().chain(cost).collect::<Vec<_>>().join(", ")
}

/// Parts by size, largest first, in GiB or MiB.
fn parts_of(parts: &BTreeMap<&'static str, u64>) -> String {
    let mut parts: Vec<(&str, u64)> =
        parts.iter().filter(|(name, _)| **name != "total").map(|(name, bytes)| (*name, *bytes)).collect();
    parts.sort_by_key(|(name, bytes)| (std::cmp::Reverse(*bytes), *name));
    parts.iter().map(|(name, size)| format!("{} {}", words(name), bytes(*size))).collect::<Vec<_>>().join(", ")
}

fn words(name: &str) -> String {
    match name {
        "qformer" => "Q-Former".to_owned(),
        "cuda_context" => "CUDA context".to_owned(),
        name => name.replace('_', " "),
    }
}

/// Memory: powers of 1,024.
fn bytes(bytes: u64) -> String {
    let mib = bytes as f64 / f64::from(1 << 20);
    if mib >= 1024.0 { format!("{:.1} GiB", mib / 1024.0) } else { format!("{mib:.0} MiB") }
}

/// What travels: powers of 1,000.
fn decimal(bytes: f64) -> String {
    let (size, unit) = [(1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB")]
        .into_iter()
        .find(|(size, _)| bytes >= *size)
        .unwrap_or((1.0, "bytes"));
    format!("{:.1} {unit}", bytes / size)
}

/// `3,744,761,856`.
fn grouped(count: u64) -> String {
    let digits = count.to_string();
    let mut text = String::new();
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// Adds a name and a value, which goes on below itself where it is long; short parts between commas stay together.
fn add_row(page: &mut String, name: &str, value: &str) {
    let together = |part: &str| part.chars().count() < WIDTH / 2;
    let pieces = value.split_inclusive(", ").flat_map(|part| match together(part) {
        true => vec![part],
        false => part.split_inclusive(' ').collect(),
    });
    let (mut name, mut row) = (name, String::new());
    for piece in pieces {
        if !row.is_empty() && row.chars().count() + piece.trim_end().chars().count() > WIDTH {
            line(page, format_args!("  {name:<16}{row}"));
            (name, row) = ("", String::new());
        }
        row.push_str(piece);
    }
    line(page, format_args!("  {name:<16}{row}"));
}

/// Adds a line; writing to a string cannot fail.
fn line(page: &mut String, text: std::fmt::Arguments<'_>) {
    let _ = page.write_fmt(text);
    while page.ends_with(' ') {
        page.pop();
    }
    page.push('\n');
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_easy_to_read() {
        assert_eq!(grouped(7), "7");
        assert_eq!(grouped(1_680), "1,680");
        assert_eq!(grouped(3_744_761_856), "3,744,761,856");
        assert_eq!(bytes(3 << 29), "1.5 GiB");
        assert_eq!(bytes(7 << 20), "7 MiB");
        assert_eq!(decimal(52_080_000.0), "52.1 MB");
        assert_eq!(decimal(12.0), "12.0 bytes");
        assert_eq!(time_and_cost(Some(86_400.0 * 5.55), Some(12.345)), "5.5 days, costs 12.35");
        assert_eq!(time_and_cost(Some(100.0), None), "1 min 40 s");
    }
}
