//! The page of `blip2 data inspect`: one file that needs no network.

use base64::Engine;
use data_pipeline::inspect::{Distribution, Inspection, SampleView};

use crate::html::{escape, push};
use crate::progress::{bytes, count};

const STYLE: &str = "
:root { color-scheme: light dark; font: 15px/1.45 system-ui, sans-serif; }
body { margin: 2rem auto; max-width: 76rem; padding: 0 1rem; }
h1 { font-size: 1.25rem; overflow-wrap: anywhere; }
h2 { font-size: 1rem; margin: 2rem 0 .5rem; }
table { border-collapse: collapse; }
td, th { text-align: left; padding: .15rem 1.2rem .15rem 0; vertical-align: top; }
td.n { text-align: right; font-variant-numeric: tabular-nums; }
.grid { display: grid; grid-template-columns: repeat(auto-fill, minmax(15rem, 1fr)); gap: 1rem; }
figure { margin: 0; border: 1px solid color-mix(in srgb, currentColor 20%, transparent); border-radius: .4rem; padding: .6rem; }
figure img { width: 100%; aspect-ratio: 1; object-fit: contain; background: color-mix(in srgb, currentColor 8%, transparent); image-rendering: auto; }
figcaption ol { margin: .4rem 0; padding-left: 1.2rem; }
.place, .bad { font-size: .8rem; opacity: .75; overflow-wrap: anywhere; }
.bad { color: #c0392b; opacity: 1; }
td.bar { width: 8rem; }
td.bar i { display: block; height: .8rem; background: #5b8fd0; }
";

/// The whole page.
pub fn html(found: &Inspection) -> String {
    let mut page = format!(
        "<!doctype html>\n<html lang=\"en\">\n<meta charset=\"utf-8\">\n<meta name=\"viewport\" content=\"width=device-width\">\n\
         <title>{0}</title>\n<style>{STYLE}</style>\n<h1>{0}</h1>\n",
        escape(&found.uri)
    );
    page.push_str(&counts(found));
    page.push_str(&distributions(found));
    page.push_str("<h2>Columns</h2>\n<table>\n");
    for (name, data_type) in &found.schema {
        push(&mut page, format_args!("<tr><th>{}</th><td>{}</td></tr>\n", escape(name), escape(data_type)));
    }
    page.push_str("</table>\n");
    if !found.samples.is_empty() {
        push(&mut page, format_args!("<h2>{} samples</h2>\n<div class=\"grid\">\n", found.samples.len()));
        for sample in &found.samples {
            page.push_str(&figure(sample));
        }
        page.push_str("</div>\n");
    }
    page.push_str("</html>\n");
    page
}

fn counts(found: &Inspection) -> String {
    let mut table = String::from("<h2>Counts</h2>\n<table>\n");
    let mut row = |name: &str, value: String| {
        push(&mut table, format_args!("<tr><th>{}</th><td class=\"n\">{}</td></tr>\n", escape(name), escape(&value)));
    };
    row("shards", count(found.shards as u64));
    row("row groups", count(found.row_groups as u64));
    row("rows", count(found.rows));
    row("bytes", bytes(found.bytes));
    row("rows read for the counts below", count(found.rows_read));
    for (status, rows) in &found.status {
        row(&format!("status {status}"), count(*rows));
    }
    row("rows without image", count(found.without_image));
    row("rows without caption", count(found.without_caption));
    table.push_str("</table>\n");
    if !found.other_schemas.is_empty() {
        push(
            &mut table,
            format_args!(
                "<p class=\"bad\">{} shards have other columns than the first one:</p><ul>\n",
                found.other_schemas.len()
            ),
        );
        for shard in found.other_schemas.iter().take(20) {
            push(&mut table, format_args!("<li>{}</li>\n", escape(shard)));
        }
        table.push_str("</ul>\n");
    }
    table
}

fn distributions(found: &Inspection) -> String {
    type Shown = fn(u64) -> String;
    let all: [(&str, &Option<Distribution>, Shown); 4] = [
        ("words per caption", &found.caption_words, |n| n.to_string()),
        ("bytes per image", &found.image_bytes, bytes),
        ("shorter side, pixels", &found.short_side, |n| n.to_string()),
        ("longer over shorter side", &found.aspect_percent, |n| format!("{:.2}", n as f64 / 100.0)),
    ];
    let mut html = String::from("<div class=\"grid\">\n");
    for (name, found, shown) in all {
        let Some(found) = found else { continue };
        let (min, median, max) = (shown(found.min), shown(found.median), shown(found.max));
        push(
            &mut html,
            format_args!(
                "<section><h2>{name}</h2><div class=\"place\">{min} to {max}, half below {median}</div><table>\n"
            ),
        );
        let most = found.bins.iter().map(|bin| bin.count).max().unwrap_or(1).max(1);
        for bin in &found.bins {
            let width = bin.count * 100 / most;
            push(
                &mut html,
                format_args!(
                    "<tr><td>{}</td><td class=\"bar\"><i style=\"width:{width}%\"></i></td><td class=\"n\">{}</td></tr>\n",
                    shown(bin.from),
                    count(bin.count)
                ),
            );
        }
        html.push_str("</table></section>\n");
    }
    html.push_str("</div>\n");
    html
}

fn figure(sample: &SampleView) -> String {
    let mut text = String::from("<figure>\n");
    if !sample.image.is_empty() {
        let data = base64::engine::general_purpose::STANDARD.encode(&sample.image);
        push(&mut text, format_args!("<img alt=\"\" src=\"data:{};base64,{data}\">\n", sample.mime));
    }
    text.push_str("<figcaption>\n<ol>\n");
    for caption in &sample.captions {
        push(&mut text, format_args!("<li>{}</li>\n", escape(caption)));
    }
    text.push_str("</ol>\n");
    match &sample.decoded {
        Ok((width, height)) => push(
            &mut text,
            format_args!("<div class=\"place\">{width} x {height}, {}</div>\n", bytes(sample.image.len() as u64)),
        ),
        Err(reason) => push(&mut text, format_args!("<div class=\"bad\">{}</div>\n", escape(reason))),
    }
    push(
        &mut text,
        format_args!(
            "<div class=\"place\">{} {}</div>\n</figcaption>\n</figure>\n",
            escape(&sample.place),
            escape(&sample.key)
        ),
    );
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    #[test]
    fn captions_cannot_break_out_of_the_page() {
        let hostile = "</li><script>alert(1)</script> & \"x\"";
        let sample = SampleView {
            place: "a/0.parquet row group 0 row 0".into(),
            key: String::new(),
            captions: vec![hostile.into()],
            image: b"not an image".to_vec(),
            mime: "application/octet-stream",
            decoded: Err("not an image".into()),
        };
        let found = Inspection {
            uri: "a".into(),
            shards: 1,
            row_groups: 1,
            rows: 1,
            bytes: 1,
            schema: vec![("caption".into(), "Utf8".into())],
            other_schemas: vec![],
            rows_read: 1,
            status: BTreeMap::new(),
            without_image: 0,
            without_caption: 0,
            caption_words: None,
            image_bytes: None,
            short_side: Distribution::of(vec![100, 300], &[0, 200]),
            aspect_percent: None,
            samples: vec![sample],
        };
        let page = html(&found);
        assert!(!page.contains("<script>"));
        assert!(page.contains("&lt;script&gt;alert(1)"));
        assert!(page.contains("not an image"));
        assert!(page.contains("shorter side") && page.contains("100 to 300, half below 300"), "{page}");
    }
}
