//! Scores and samples of evaluations as HTML.

use serde_json::Value;

use super::words::marked;
use crate::html::{escape, push};
use crate::tables::percent;

/// The splits in the order in which they are shown, with their headings.
const SPLITS: [(&str, &str); 2] = [("test_seen", "seen pairs"), ("test_unseen", "unseen pairs")];

fn of<'a>(results: &'a [Value], task: &'a str, split: &'a str) -> Option<&'a Value> {
    results.iter().find(|result| result["task"] == task && result["split"] == split)
}

/// The first split's retrieval result has it, then the other's.
fn with_split<'a>(results: &'a [Value], task: &'a str) -> Vec<(&'static str, &'a Value)> {
    SPLITS.iter().filter_map(|(split, name)| Some((*name, of(results, task, split)?))).collect()
}

/// The few numbers that stand at the top.
pub fn tiles(results: &[Value]) -> String {
    let mut html = String::new();
    let mut tile = |value: &Value, name: &str, note: String| {
        if value.is_number() {
            let (value, name, note) = (percent(value), escape(name), escape(&note));
            push(
                &mut html,
                format_args!("<div class=\"tile\"><b>{value} %</b><span>{name}</span><i>{note}</i></div>\n"),
            );
        }
    };
    for (name, result) in with_split(results, "retrieval") {
        let note = format!("chance {} %", percent(&result["chance_r1"]));
        tile(&result["itc"]["image_to_text"]["r1"], &format!("image to text R@1, {name}"), note);
    }
    for (name, result) in with_split(results, "caption") {
        let row = &result["rows"][0];
        let what = row["name"].as_str().unwrap_or("score");
        tile(&row["score"], &format!("captions: {what} ({name})"), format!("control {} %", percent(&row["control"])));
    }
    if html.is_empty() { html } else { format!("<div class=\"tiles\">\n{html}</div>\n") }
}

/// A score as a bar behind its number.
fn cell(value: &Value) -> String {
    let width = value.as_f64().unwrap_or(0.0).clamp(0.0, 100.0);
    format!("<td class=\"n\" style=\"--w:{width:.1}%\">{}</td>", percent(value))
}

/// The retrieval table: both splits, both ways of ranking, both directions, with chance.
pub fn retrieval(results: &[Value]) -> String {
    let found = with_split(results, "retrieval");
    let Some((_, first)) = found.first() else { return String::new() };
    let mut html = String::from(
        "<h2>Retrieval</h2>\n<p class=\"soft\">Finding the caption of an image among all captions, and the other way \
         round; share of right answers among the first 1, 5 and 10, in %. ITC: by the contrastive similarity. ITM: its best ones, ranked anew by \
         the matching head.</p>\n<div class=\"wide\"><table>\n\
         <tr><th></th><th></th><th colspan=\"3\">image to text</th><th colspan=\"3\">text to image</th></tr>\n\
         <tr><th></th><th></th><th class=\"n\">R@1</th><th class=\"n\">R@5</th><th class=\"n\">R@10</th>\
         <th class=\"n\">R@1</th><th class=\"n\">R@5</th><th class=\"n\">R@10</th></tr>\n",
    );
    let k = first["rerank_k"].as_u64().map_or_else(String::new, |k| format!(", best {k} re-ranked"));
    for (name, result) in &found {
        for (key, how) in [("itc", "ITC".to_owned()), ("itm", format!("ITM{k}"))] {
            let label = if key == "itc" { *name } else { "" };
            push(&mut html, format_args!("<tr><th>{label}</th><td>{}</td>", escape(&how)));
            for way in ["image_to_text", "text_to_image"] {
                ["r1", "r5", "r10"].iter().for_each(|at| html.push_str(&cell(&result[key][way][at])));
            }
            html.push_str("</tr>\n");
        }
    }
    if let (Some(chance), Some(scenes)) = (first["chance_r1"].as_f64(), first["scenes"].as_u64()) {
        push(&mut html, format_args!("<tr class=\"soft\"><th>chance</th><td>{scenes} scenes</td>"));
        for at in [1.0, 5.0, 10.0, 1.0, 5.0, 10.0] {
            push(&mut html, format_args!("<td class=\"n\">{:.1}</td>", (chance * at).min(100.0)));
        }
        html.push_str("</tr>\n");
    }
    html.push_str("</table></div>\n");
    html
}

/// What captioning papers report: captions against people's, both splits.
pub fn caption_metrics(results: &[Value]) -> String {
    const MEASURES: [(&str, &str); 6] = [
        ("bleu_1", "BLEU-1"),
        ("bleu_2", "BLEU-2"),
        ("bleu_3", "BLEU-3"),
        ("bleu_4", "BLEU-4"),
        ("rouge_l", "ROUGE-L"),
        ("cider", "CIDEr"),
    ];
    let found: Vec<_> =
        with_split(results, "caption").into_iter().filter(|(_, result)| result["metrics"].is_object()).collect();
    if found.is_empty() {
        return String::new();
    }
    let mut html = String::from(
        "<p class=\"soft\">The same captions against all captions of their scenes, as captioning papers report it (times 100; \
         METEOR and SPICE are not offered).</p>\n<div class=\"wide\"><table>\n<tr><th></th>",
    );
    MEASURES.iter().for_each(|(_, name)| push(&mut html, format_args!("<th class=\"n\">{name}</th>")));
    html.push_str("</tr>\n");
    for (name, result) in found {
        push(&mut html, format_args!("<tr><th>{name}</th>"));
        for (key, _) in MEASURES {
            let score =
                result["metrics"][key].as_f64().map_or_else(|| "-".to_owned(), |it| format!("{:.1}", 100.0 * it));
            push(&mut html, format_args!("<td class=\"n plain\">{score}</td>"));
        }
        html.push_str("</tr>\n");
    }
    html.push_str("</table></div>\n");
    html
}

/// The answers to questions, by what is asked for, both splits side by side.
pub fn answers(results: &[Value]) -> String {
    let found = with_split(results, "vqa");
    let Some((_, first)) = found.first() else { return String::new() };
    let mut html = String::from(
        "<h2>Questions</h2>\n<p class=\"soft\">Answers to questions about held-out scenes, share of right ones by VQA's \
         rules, in %. Where the run was not trained on questions this is zero-shot: a language model that knows \
         captions only answers few.</p>\n<div class=\"wide\"><table>\n<tr><th></th>",
    );
    found.iter().for_each(|(name, _)| push(&mut html, format_args!("<th class=\"n\">{name}</th>")));
    html.push_str("</tr>\n");
    let types = first["metrics"]["lavis"]["per_question_type"].as_object();
    let kinds = types.into_iter().flat_map(|types| types.keys().map(String::as_str));
    for kind in std::iter::once("all").chain(kinds) {
        push(&mut html, format_args!("<tr><th>{}</th>", escape(kind)));
        for (_, result) in &found {
            let scores = &result["metrics"]["lavis"];
            html.push_str(&cell(if kind == "all" { &scores["overall"] } else { &scores["per_question_type"][kind] }));
        }
        html.push_str("</tr>\n");
    }
    html.push_str("</table></div>\n");
    html
}

/// The caption scores, each beside its control.
pub fn captions(results: &[Value]) -> String {
    let found = with_split(results, "caption");
    if found.is_empty() {
        return String::new();
    }
    let mut html = String::from(
        "<h2>Captions</h2>\n<p class=\"soft\">Of the objects in the scenes, the share that the generated caption names, \
         in %. The control scores every scene with the caption of another one: what is above it comes from the image.\
         </p>\n<div class=\"pair\">\n",
    );
    for (name, result) in found {
        push(
            &mut html,
            format_args!(
                "<div class=\"wide\"><table>\n<tr><th>scenes with {name}</th><th class=\"n\">score</th>\
                 <th class=\"n\">control</th><th class=\"n\">objects</th></tr>\n"
            ),
        );
        for row in result["rows"].as_array().into_iter().flatten() {
            let objects = row["objects"].as_u64().map_or_else(|| "-".to_owned(), |count| count.to_string());
            push(
                &mut html,
                format_args!(
                    "<tr><td>{}</td>{}{}<td class=\"n plain\">{objects}</td></tr>\n",
                    escape(row["name"].as_str().unwrap_or("-")),
                    cell(&row["score"]),
                    cell(&row["control"])
                ),
            );
        }
        html.push_str("</table></div>\n");
    }
    html.push_str("</div>\n");
    html
}

/// Held-out images with the generated caption beside the truth.
pub fn samples(results: &[Value]) -> String {
    let mut html = String::new();
    for (name, result) in with_split(results, "caption") {
        let Some(examples) = result["examples"].as_array().filter(|examples| !examples.is_empty()) else { continue };
        push(&mut html, format_args!("<h3>Held-out scenes with {name}</h3>\n<div class=\"grid\">\n"));
        examples.iter().for_each(|example| html.push_str(&sample(example)));
        html.push_str("</div>\n");
    }
    if html.is_empty() {
        return html;
    }
    format!(
        "<h2>What the model says</h2>\n<p class=\"soft\">Pairs of colour and shape in the generated caption: \
         <b class=\"right\">in the scene</b>, <b class=\"wrong\">not in the scene</b>. In the true caption: \
         <b class=\"missed\">missed</b>.</p>\n{html}"
    )
}

fn sample(example: &Value) -> String {
    let text = |key: &str| example[key].as_str().unwrap_or_default();
    let image = text("image_jpeg_base64");
    // Only the alphabet of base64 may stand inside the attribute.
    let image = if image.chars().all(|c| c.is_ascii_alphanumeric() || "+/=".contains(c)) { image } else { "" };
    format!(
        "<figure class=\"sample\"><img alt=\"\" loading=\"lazy\" src=\"data:image/jpeg;base64,{image}\">\
         <figcaption><p>{}</p><p class=\"soft\">{}</p></figcaption></figure>\n",
        marked(text("generated"), text("truth"), "right", "wrong"),
        marked(text("truth"), text("generated"), "found", "missed")
    )
}
