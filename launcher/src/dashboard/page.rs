//! The live page: first what a person reads in five seconds, then curves, ranks, data, faults and checkpoints.

use configs::Stage;

use super::answer::{step_time, value};
use super::ranks;
use crate::html::{escape, push};
use crate::progress::count;
use crate::ranks::event::term_order;
use crate::report::faults::{self, counts};
use crate::report::{STYLE, duration, number, sources, stage_charts};
use crate::status::{Seen, State, word};

/// What is added to the style of reports.
const LIVE: &str = include_str!("page.css");
/// A look this old is told as such, in seconds.
const OLD_S: f64 = 20.0;
/// Most checkpoints in the table.
const MOST_CHECKPOINTS: usize = 6;

/// What a page shows.
pub struct View<'a> {
    /// The run as it was seen last.
    pub seen: Option<&'a Seen>,
    /// Why it cannot be seen now.
    pub error: Option<&'a str>,
    /// Seconds since it was seen.
    pub age_s: f64,
    /// Seconds to the next load of the page.
    pub refresh_s: u64,
}

/// The whole page.
pub fn html(view: &View<'_>) -> String {
    let (title, body) = match view.seen {
        Some(seen) => (title(seen), run(seen)),
        None => ("BLIP-2 run".to_owned(), "<header><h1>BLIP-2 run</h1></header>\n".to_owned()),
    };
    format!(
        "<!doctype html>\n<html lang=\"en\">\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <meta http-equiv=\"refresh\" content=\"{}\">\n<title>{}</title>\n<style>{STYLE}{LIVE}</style>\n{}{body}\
         <footer class=\"soft\">{}This page loads itself again every {} s. For programs: \
         <a href=\"/status.json\">status.json</a>.</footer>\n</html>\n",
        view.refresh_s,
        escape(&title),
        notice(view),
        view.seen.map_or_else(String::new, |seen| format!("{}. ", escape(&seen.status.output))),
        view.refresh_s,
    )
}

/// Why what follows is old, or is not there.
fn notice(view: &View<'_>) -> String {
    let old = match view.seen {
        Some(_) => format!(" What follows is from {} ago.", duration(view.age_s)),
        None => String::new(),
    };
    match view.error {
        Some(error) => format!(
            "<section class=\"notice\" role=\"alert\"><b>The run cannot be read.</b> {}.{old} It is tried again at \
             every load.</section>\n",
            escape(error.trim_end_matches('.'))
        ),
        None if view.seen.is_none() => {
            "<section class=\"notice\"><b>The run is being read.</b> Its store takes a while to answer.</section>\n"
                .to_owned()
        }
        None if view.age_s > OLD_S => {
            format!("<section class=\"notice\"><b>The store answers slowly.</b>{old}</section>\n")
        }
        None => String::new(),
    }
}

/// For the browser's tab: the state and how far the stage is.
fn title(seen: &Seen) -> String {
    let status = &seen.status;
    let done = match (status.step, status.steps) {
        (Some(step), Some(steps)) if status.state == State::Running => format!(" {:.0} %", share(step, steps) * 100.0),
        _ => String::new(),
    };
    format!("{}{done} - {}", state_of(seen).0, name(seen))
}

fn name(seen: &Seen) -> &str {
    seen.status.name.as_deref().unwrap_or(&seen.status.output)
}

fn share(done: u64, all: u64) -> f64 {
    if all == 0 { 0.0 } else { (done as f64 / all as f64).min(1.0) }
}

/// One word, which is also the class of its colour, and the reason for it.
fn state_of(seen: &Seen) -> (&'static str, String) {
    let (status, found) = (&seen.status, &seen.found);
    if let Some(stalled) = &status.stalled {
        let known = if status.state == State::Unknown { "; no process or job of it was found" } else { "" };
        return ("stalled", format!("{stalled}{known}"));
    }
    let last = found.record().and_then(|record| record.time).filter(|time| *time >= found.launched);
    let reason = match status.state {
        State::Running => match last {
            Some(time) => format!("last record {} ago", duration((seen.now - time).max(0.0))),
            None => "starting: no record of this launch yet".to_owned(),
        },
        State::Done => match found.train_seconds {
            seconds if seconds > 0.0 => format!("all stages are trained, in {}", duration(seconds)),
            _ => "all stages are trained".to_owned(),
        },
        State::Failed => status.failure.clone().unwrap_or_else(|| "its last launch failed".to_owned()),
        State::Preempted => "it was told to leave; the same command goes on from the last checkpoint".to_owned(),
        State::Queued => {
            let why = status.job.as_ref().and_then(|job| job.reason.clone());
            why.map_or_else(|| "its job waits".to_owned(), |why| format!("its job waits: {why}"))
        }
        State::Unknown => "no process, job or outcome of it was found".to_owned(),
    };
    (word(status.state), reason)
}

fn run(seen: &Seen) -> String {
    let (state, reason) = state_of(seen);
    let mut page = format!(
        "<header class=\"live\"><p class=\"state {state}\"><b>{state}</b> <span>{}</span></p><h1>{}</h1></header>\n",
        escape(&reason),
        escape(name(seen))
    );
    page.push_str(&stages(seen));
    page.push_str(&tiles(seen));
    page.push_str(&step_time(seen).map_or_else(String::new, |time| time.figure("Where a step's time goes")));
    if let Some(record) = seen.found.record() {
        let records = seen.found.records_of(&record.stage);
        let charts = stage_charts(seen.found.config.as_ref(), &record.stage, &records);
        push(&mut page, format_args!("<h2>{}</h2>\n<div class=\"charts\">\n{charts}</div>\n", escape(&record.stage)));
    }
    page.push_str(&ranks::section(&seen.status.ranks));
    if let Some(record) = seen.found.record() {
        page.push_str(&sources(&seen.found.records_of(&record.stage)));
    }
    let ago = |time: f64| format!("{} ago", duration((seen.now - time).max(0.0)));
    page.push_str(&faults::section(&seen.found, &ago));
    page.push_str(&checkpoints(seen, &ago));
    page
}

/// A bar for each stage, and the time left.
fn stages(seen: &Seen) -> String {
    let status = &seen.status;
    let Some(now) = &status.stage else { return String::new() };
    let step = status.step.unwrap_or(0);
    let all = seen.found.config.as_ref().map_or(&[][..], |config| &config.stages);
    let mut html = String::from("<section class=\"stages\">\n");
    let place = all.iter().position(|stage| stage.name() == now);
    for (index, stage) in all.iter().enumerate() {
        let done = match place {
            Some(place) if index < place => stage.steps(),
            Some(place) if index == place => step,
            _ => 0,
        };
        bar(&mut html, stage.name(), done, stage.steps(), place == Some(index));
    }
    if place.is_none() {
        // A tower that is trained before the stages, or a configuration that this version does not read.
        push(&mut html, format_args!("<p><b>{}</b> step {}</p>\n", escape(now), count(step)));
    }
    if let Some(left) = status.eta_s.filter(|_| status.state == State::Running) {
        let whole = if all.len() > 1 { "of all stages " } else { "" };
        push(
            &mut html,
            format_args!("<p class=\"left\"><b>{}</b> left {whole}at the speed so far</p>\n", duration(left)),
        );
    }
    html.push_str("</section>\n");
    html
}

fn bar(html: &mut String, name: &str, done: u64, steps: u64, is_now: bool) {
    let percent = share(done, steps) * 100.0;
    push(
        html,
        format_args!(
            "<div class=\"stage{}\"><p><b>{}</b> <span>step {} of {}</span> <i>{percent:.0} %</i></p>\
             <svg viewBox=\"0 0 100 4\" preserveAspectRatio=\"none\" role=\"img\" aria-label=\"{percent:.0} percent\">\
             <rect x=\"0\" y=\"0\" width=\"{percent:.2}\" height=\"4\"/></svg></div>\n",
            if is_now { " now" } else { "" },
            escape(name),
            count(done),
            count(steps),
        ),
    );
}

/// The numbers that are looked at first.
fn tiles(seen: &Seen) -> String {
    let mut tiles: Vec<(String, String, String)> = Vec::new();
    let mut add = |what: &str, shown: String, more: String| tiles.push((what.to_owned(), shown, more));
    if let Some(record) = seen.found.record() {
        let mut terms: Vec<_> = record.losses.iter().collect();
        terms.sort_by_key(|(name, _)| term_order(name));
        let shown = |loss: &Option<f64>| loss.map_or_else(|| "not finite".to_owned(), number);
        if let Some((_, loss)) = terms.last() {
            let parts = terms[..terms.len() - 1].iter().filter(|_| terms.len() > 2);
            let parts: Vec<String> = parts.map(|(name, loss)| format!("{name} {}", shown(loss))).collect();
            add("loss", shown(loss), parts.join("  "));
        }
        if let Some(norm) = record.values.get("grad_norm") {
            add("gradient norm", norm.as_f64().map_or_else(|| "not finite".to_owned(), number), String::new());
        }
        add("learning rate", record.lr.map_or_else(|| "-".to_owned(), number), String::new());
        let batch = seen.found.config.as_ref().and_then(|config| config.stage(&record.stage)).map(Stage::global_batch);
        let batch = batch.map_or_else(String::new, |batch| format!("global batch {batch}"));
        add("images/s", record.images_per_s.map_or_else(|| "-".to_owned(), number), batch);
        match (value(record, "mfu"), value(record, "tflop_per_s").map(number)) {
            (Some(mfu), tflop) => {
                let tflop = tflop.map_or_else(String::new, |tflop| format!("{tflop} TFLOP/s a rank"));
                add("physical limit", format!("{:.0} %", 100.0 * mfu), tflop);
            }
            // What the processor can do is not known.
            (None, Some(tflop)) => add("TFLOP/s", tflop, "of one rank".to_owned()),
            (None, None) => {}
        }
    }
    match &seen.status.last_checkpoint {
        Some(last) => add("since checkpoint", age(last.age_s), format!("{}, step {}", last.stage, last.step)),
        None => add("checkpoint", "none".to_owned(), "a crash would lose everything".to_owned()),
    }
    let mut counts = counts(&seen.found).into_iter().filter(|(_, number)| *number > 0).peekable();
    if counts.peek().is_some() {
        let (failures, others): (Vec<_>, Vec<_>) = counts.partition(|(what, _)| *what == "failures");
        let others: Vec<String> =
            others.into_iter().map(|(what, number)| format!("{what} {}", count(number))).collect();
        let failures = failures.first().map_or(0, |(_, number)| *number);
        add("failures", count(failures), others.join(", "));
    }
    let tiles: String = tiles
        .iter()
        .map(|(what, shown, more)| {
            let (what, shown, more) = (escape(what), escape(shown), escape(more));
            format!("<div class=\"tile\"><span>{what}</span><b>{shown}</b><i>{more}</i></div>\n")
        })
        .collect();
    format!("<div class=\"tiles\">\n{tiles}</div>\n")
}

/// `12 s`, `4 min`, `3 h`: short enough for a tile.
fn age(seconds: f64) -> String {
    match seconds {
        s if s < 90.0 => format!("{s:.0} s"),
        s if s < 5400.0 => format!("{:.0} min", s / 60.0),
        s => format!("{:.0} h", s / 3600.0),
    }
}

fn checkpoints(seen: &Seen, ago: &dyn Fn(f64) -> String) -> String {
    let commits = &seen.found.commits;
    if commits.is_empty() {
        return "<h2>Checkpoints</h2>\n<p class=\"soft\">None yet.</p>\n".to_owned();
    }
    let mut html = String::from(
        "<h2>Checkpoints</h2>\n<div class=\"wide\"><table><tr><th>stage</th><th class=\"n\">step</th><th>committed</th>\
         <th>place</th></tr>\n",
    );
    for commit in commits.iter().rev().take(MOST_CHECKPOINTS) {
        push(
            &mut html,
            format_args!(
                "<tr><td>{}</td><td class=\"n\">{}</td><td>{}</td><td class=\"soft\">{}</td></tr>\n",
                escape(&commit.stage),
                count(commit.step),
                escape(&ago(commit.time)),
                escape(&commit.folder)
            ),
        );
    }
    push(
        &mut html,
        format_args!(
            "</table></div>\n<p class=\"soft\">{} committed in all; older ones may have been removed since.</p>\n",
            count(commits.len() as u64)
        ),
    );
    html
}
