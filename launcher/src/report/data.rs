//! The report's table of sources: what each gave to each stage, and what could not be used.

use super::gather::Record;
use crate::html::{escape, push};
use crate::progress::{bytes, count};

/// Prefix of the values that count samples: `data/<source>/<what>`.
const PREFIX: &str = "data/";

/// The table of a stage; nothing when its records do not count.
pub fn table(records: &[&Record]) -> String {
    let Some(last) = records.iter().rev().find(|record| record.values.keys().any(|name| name.starts_with(PREFIX)))
    else {
        return String::new();
    };
    let names = last.values.keys().filter_map(|name| name.strip_prefix(PREFIX)?.strip_suffix("/seen"));
    let mut html = String::from(
        "<table><caption>Samples by source</caption><tr><th>source</th><th>seen</th><th>distinct</th>\
         <th>read</th><th>replaced</th><th>reasons</th></tr>\n",
    );
    for name in names {
        let value = |what: &str| {
            let value = last.values.get(&format!("{PREFIX}{name}/{what}"));
            value.and_then(serde_json::Value::as_f64).unwrap_or(0.0) as u64
        };
        let start = format!("{PREFIX}{name}/skipped/");
        let reason = |(key, value): (&String, &serde_json::Value)| {
            Some(format!("{} {}", key.strip_prefix(&start)?, count(value.as_f64()? as u64)))
        };
        let reasons: Vec<String> = last.values.iter().filter_map(reason).collect();
        push(
            &mut html,
            format_args!(
                "<tr><td>{}</td><td>{}</td><td>{}</td><td>{}</td><td>{}</td><td>{}</td></tr>\n",
                escape(name),
                count(value("seen")),
                count(value("distinct")),
                bytes(value("bytes")),
                count(value("skipped")),
                escape(&reasons.join(", "))
            ),
        );
    }
    html.push_str("</table>\n");
    html
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sources_are_rows_with_their_reasons() {
        let line = r#"{"stage": "s", "step": 3, "losses": {}, "data/a/seen": 1200.0, "data/a/distinct": 1100.0,
            "data/a/bytes": 2048.0, "data/a/skipped": 3.0, "data/a/skipped/truncated": 3.0, "data/b<c/seen": 1.0}"#;
        let record: Record = serde_json::from_str(line).unwrap();
        let html = table(&[&record]);
        assert!(
            html.contains("<td>a</td><td>1,200</td><td>1,100</td><td>2.00 KiB</td><td>3</td><td>truncated 3</td>"),
            "{html}"
        );
        assert!(html.contains("b&lt;c"), "{html}");
        assert_eq!(table(&[]), "");
    }
}
