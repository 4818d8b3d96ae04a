//! The ranks on the page: a table of what each does, and which is slowest.

use serde_json::Value;

use crate::html::{escape, push};
use crate::progress::bytes;
use crate::report::duration;
use crate::report::time::short;

/// Most rows of the table; with more ranks those are shown that failed, are slow or are quiet.
const MOST_ROWS: usize = 64;
/// A rank that has said nothing for so many seconds is marked.
const QUIET_S: f64 = 5.0;
/// A rank that computes so many times as long as the median is marked.
const SLOW: f64 = 1.2;

/// A rank as the supervision noted it last.
#[derive(Debug, PartialEq)]
struct Rank<'a> {
    number: u64,
    host: &'a str,
    does: &'a str,
    step: Option<u64>,
    /// Seconds per step that it does not wait for others.
    own_s: Option<f64>,
    quiet_s: f64,
    resident_bytes: Option<u64>,
    failed: Option<&'a str>,
    is_connected: bool,
}

impl<'a> Rank<'a> {
    fn read(row: &'a Value) -> Self {
        let text = |place: &str| row.pointer(place).and_then(Value::as_str);
        Self {
            number: row["rank"].as_u64().unwrap_or_default(),
            host: text("/host").unwrap_or_default(),
            does: text("/beat/phase").unwrap_or("starting"),
            step: row.pointer("/beat/step").and_then(Value::as_u64),
            own_s: row["own_s_per_step"].as_f64().filter(|s| s.is_finite() && *s > 0.0),
            quiet_s: row["quiet_s"].as_f64().unwrap_or_default(),
            resident_bytes: row.pointer("/beat/resident_bytes").and_then(Value::as_u64),
            failed: text("/failed"),
            is_connected: row["connected"].as_bool().unwrap_or(true),
        }
    }

    /// How many times as long as the median it computes.
    fn factor(&self, median: Option<f64>) -> Option<f64> {
        Some(self.own_s? / median?)
    }

    fn name(&self) -> String {
        match self.host {
            "" => format!("rank {}", self.number),
            host => format!("rank {} on {host}", self.number),
        }
    }

    fn trouble(&self, median: Option<f64>) -> bool {
        self.failed.is_some()
            || !self.is_connected
            || self.quiet_s > QUIET_S
            || self.factor(median).is_some_and(|factor| factor > SLOW)
    }
}

/// The section; nothing where the supervision noted no ranks.
pub fn section(rows: &[Value]) -> String {
    let mut ranks: Vec<Rank<'_>> = rows.iter().map(Rank::read).collect();
    if ranks.is_empty() {
        return String::new();
    }
    let median = median(&ranks);
    let all = ranks.len();
    let mut html = format!("<h2>Ranks</h2>\n<p>{}</p>\n", escape(&summary(&ranks, median)));
    if all > MOST_ROWS {
        ranks.sort_by(|a, b| {
            let own = |rank: &Rank<'_>| rank.own_s.unwrap_or_default();
            b.trouble(median).cmp(&a.trouble(median)).then(own(b).total_cmp(&own(a)))
        });
        ranks.truncate(MOST_ROWS);
        ranks.sort_by_key(|rank| rank.number);
    }
    html.push_str(
        "<div class=\"wide\"><table><tr><th>rank</th><th>host</th><th>does</th><th class=\"n\">step</th>\
         <th class=\"n\">computes per step</th><th class=\"n\">last word</th><th class=\"n\">memory</th></tr>\n",
    );
    ranks.iter().for_each(|rank| row(&mut html, rank, median));
    html.push_str("</table></div>\n");
    if all > MOST_ROWS {
        push(
            &mut html,
            format_args!("<p class=\"soft\">{MOST_ROWS} of {all} ranks: those in trouble and the slowest.</p>\n"),
        );
    }
    html
}

/// How many there are, and the slowest in words.
fn summary(ranks: &[Rank<'_>], median: Option<f64>) -> String {
    let number = if ranks.len() == 1 { "1 rank.".to_owned() } else { format!("{} ranks.", ranks.len()) };
    let slowest = ranks.iter().filter(|rank| rank.own_s.is_some()).max_by(|a, b| {
        let own = |rank: &Rank<'_>| rank.own_s.unwrap_or_default();
        own(a).total_cmp(&own(b))
    });
    match (slowest.and_then(|rank| Some((rank, rank.own_s?))), median) {
        (Some((rank, own)), Some(median)) if ranks.len() > 1 => {
            format!("{number} Slowest: {}, {} per step; the median is {}.", rank.name(), short(own), short(median))
        }
        _ => number,
    }
}

fn row(html: &mut String, rank: &Rank<'_>, median: Option<f64>) {
    let class = if rank.trouble(median) { " class=\"trouble\"" } else { "" };
    let does = match (rank.failed, rank.is_connected) {
        (Some(failed), _) => format!("failed: {failed}"),
        (None, false) => "not connected".to_owned(),
        (None, true) => rank.does.to_owned(),
    };
    let own = rank.own_s.map_or_else(String::new, |own| match rank.factor(median) {
        Some(factor) if factor > SLOW => format!("{} ({factor:.1} × the median)", short(own)),
        _ => short(own),
    });
    push(
        html,
        format_args!(
            "<tr{class}><td>{}</td><td>{}</td><td>{}</td><td class=\"n\">{}</td><td class=\"n\">{}</td>\
             <td class=\"n\">{}</td><td class=\"n\">{}</td></tr>\n",
            rank.number,
            escape(rank.host),
            escape(&does),
            rank.step.map_or_else(String::new, |step| step.to_string()),
            own,
            if rank.quiet_s < 1.5 { "now".to_owned() } else { format!("{} ago", duration(rank.quiet_s)) },
            rank.resident_bytes.map_or_else(String::new, bytes),
        ),
    );
}

/// The median of what ranks compute per step.
fn median(ranks: &[Rank<'_>]) -> Option<f64> {
    let mut own: Vec<f64> = ranks.iter().filter_map(|rank| rank.own_s).collect();
    own.sort_by(f64::total_cmp);
    // The lower one of two, so that of two ranks the slow one is told.
    own.get(own.len().saturating_sub(1) / 2).copied()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn row(rank: u64, own: f64) -> Value {
        json!({ "rank": rank, "host": "n<1>", "beat": { "phase": "step", "step": 40, "resident_bytes": 2048 },
            "quiet_s": 0.3, "connected": true, "own_s_per_step": own, "failed": null })
    }

    #[test]
    fn the_slowest_rank_is_named() {
        let html = section(&[row(0, 0.1), row(1, 0.1), row(2, 0.25)]);
        assert!(
            html.contains("3 ranks. Slowest: rank 2 on n&lt;1&gt;, 250 ms per step; the median is 100 ms."),
            "{html}"
        );
        assert!(html.contains("<tr class=\"trouble\"><td>2</td>") && html.contains("2.5 × the median"), "{html}");
        assert!(html.contains("<tr><td>0</td><td>n&lt;1&gt;</td><td>step</td><td class=\"n\">40</td>"), "{html}");
        assert_eq!(section(&[]), "");
    }

    #[test]
    fn a_rank_that_failed_says_why_and_many_ranks_stay_short() {
        let mut rows: Vec<Value> = (0..500).map(|rank| row(rank, 0.1)).collect();
        rows[400]["failed"] = json!("the disk is <full>");
        let html = section(&rows);
        assert!(html.contains("failed: the disk is &lt;full&gt;") && html.contains("64 of 500 ranks"), "{html}");
        assert_eq!(html.matches("<tr").count(), 1 + MOST_ROWS);
        // A rank that has not said anything yet.
        let html = section(&[json!({ "rank": 0, "beat": null, "quiet_s": 7.0, "host": null })]);
        assert!(html.contains("starting") && html.contains("7 s ago"), "{html}");
    }
}
