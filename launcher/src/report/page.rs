//! The page of `blip2 report`: one file without scripts that needs no network.

use configs::{ImageEncoder, LanguageModel, LanguageModelSizes, Run, Source, Stage, SyntheticSource};

use super::curves::Chart;
use super::gather::{Record, Story};
use super::time::StepTime;
use super::{data, faults, scores};
use crate::html::{escape, push};
use crate::progress::{bytes, count};
use crate::ranks::event::term_order;

/// What pages of runs look like.
pub const STYLE: &str = include_str!("page.css");

/// The whole page.
pub fn html(story: &Story) -> String {
    let name = story.found.config.as_ref().map_or(story.uri.as_str(), |run| run.run.name.as_str());
    let mut page = format!(
        "<!doctype html>\n<html lang=\"en\">\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <title>{0} - BLIP-2</title>\n<style>{STYLE}</style>\n<header><h1>{0}</h1>\n<p class=\"soft\">{1}</p></header>\n",
        escape(name),
        escape(&summary(story))
    );
    page.push_str(&scores::tiles(&story.results));
    if let Some(run) = &story.found.config {
        page.push_str(&departures(run));
    }
    page.push_str(&scores::retrieval(&story.results));
    page.push_str(&scores::captions(&story.results));
    page.push_str(&scores::caption_metrics(&story.results));
    page.push_str(&scores::answers(&story.results));
    page.push_str(&scores::samples(&story.results));
    page.push_str(&curves(story));
    page.push_str(&faults(story));
    if let Some(run) = &story.found.config {
        page.push_str(&facts(run, story));
        push(
            &mut page,
            format_args!(
                "<details><summary>Whole configuration</summary><pre>{}</pre></details>\n",
                escape(&run.to_yaml())
            ),
        );
    }
    push(&mut page, format_args!("<footer class=\"soft\">{}</footer>\n</html>\n", escape(&story.uri)));
    page
}

/// What was trained, in a sentence.
fn summary(story: &Story) -> String {
    let Some(run) = &story.found.config else { return "A BLIP-2 run.".to_owned() };
    let stages = run.stages.iter().map(|stage| format!("{} {} steps", stage.name(), count(stage.steps())));
    let mut text = format!(
        "BLIP-2 pre-training: {}. Seed {}, {} {}.",
        stages.collect::<Vec<_>>().join(", "),
        run.run.seed,
        run.world_size(),
        if run.world_size() == 1 { "rank" } else { "ranks" },
    );
    if story.found.train_seconds > 0.0 {
        text.push_str(&format!(" Both stages took {}.", duration(story.found.train_seconds)));
    }
    if let Some(seconds) = story.demo.as_ref().and_then(|demo| demo["seconds"].as_f64()) {
        text.push_str(&format!(" The demo took {} in all", duration(seconds)));
        let peak = story.demo.as_ref().and_then(|demo| demo["peak_memory_bytes"].as_u64());
        text.push_str(&peak.map_or_else(|| ".".to_owned(), |peak| format!(" and at most {} of memory.", bytes(peak))));
    }
    text
}

/// `4 min 10 s`.
pub fn duration(seconds: f64) -> String {
    let whole = seconds.round() as u64;
    match (whole / 3600, whole / 60 % 60, whole % 60) {
        (0, 0, seconds) => format!("{seconds} s"),
        (0, minutes, seconds) => format!("{minutes} min {seconds} s"),
        (hours, minutes, _) => format!("{hours} h {minutes} min"),
    }
}

/// What the run does otherwise than the reference, as its configuration declares.
fn departures(run: &Run) -> String {
    let mut items = Vec::new();
    for stage in &run.stages {
        let Stage::Representation(stage) = stage else { continue };
        if stage.itm_start_step > 0 {
            items.push(format!(
                "{}: the matching loss is used from step {} on; the reference uses it from the start.",
                stage.name, stage.itm_start_step
            ));
        }
        if stage.hard_negatives_start_step > 0 {
            items.push(format!(
                "{}: negatives are random until step {}, then hard ones; the reference draws hard ones from the start.",
                stage.name, stage.hard_negatives_start_step
            ));
        }
    }
    if let Some(pretrain) = run.model.image_encoder.pretrain() {
        items.push(format!(
            "The image encoder is a small one, trained here for {} steps on the same scenes and then frozen; the \
             reference takes a large one trained elsewhere.",
            count(pretrain.steps)
        ));
    }
    if let Some(pretrain) = run.model.language_model.settings().pretrain {
        items.push(format!(
            "The language model is a small one, trained here for {} steps on captions and then frozen; the reference \
             takes a large one trained elsewhere. In half of the texts it reads, the colour words are exchanged for one \
             another, so that it knows all colours with all shapes, as a large one would. Images show 36 of the 48 pairs. \
             Half of the texts begin with keywords in place of a caption, about as long as the soft prompt of stage 2.",
            count(pretrain.steps)
        ));
    }
    items.extend(run.data.sources.iter().filter_map(|source| match source {
        Source::Synthetic(source) => Some(scenes(source)),
        _ => None,
    }));
    if run.data.shuffle_captions {
        items.push("A control: every image is trained with the caption of another one.".to_owned());
    }
    if items.is_empty() {
        return String::new();
    }
    let items: String = items.iter().map(|item| format!("<li>{}</li>\n", escape(item))).collect();
    format!("<section class=\"note\"><h2>Departures from the reference</h2>\n<ul>\n{items}</ul></section>\n")
}

/// What the generated scenes hold.
fn scenes(source: &SyntheticSource) -> String {
    let objects = match (source.min_objects, source.max_objects) {
        (least, most) if least == most => format!("{most} objects each"),
        (least, most) => format!("{least} to {most} objects each"),
    };
    format!(
        "The data are {} generated scenes with {objects}, {}. Every score is taken over {} scenes that training does not \
         hold; those of unseen pairs each show one combination of colour and shape that training never shows.",
        count(source.scenes),
        if source.patterns { "plain or patterned" } else { "all plain (the corpus can also draw patterned ones)" },
        count(source.test_scenes)
    )
}

/// Sizes and settings.
fn facts(run: &Run, story: &Story) -> String {
    let image = run.model.image_encoder.sizes();
    let qformer = &run.model.qformer;
    let mut rows = vec![
        (
            "image encoder",
            format!(
                "{}: patch {}, width {}, depth {}, heads {}, {} tokens of a {} px image",
                image_name(&run.model.image_encoder),
                image.patch_size,
                image.width,
                image.depth,
                image.heads,
                run.model.image_encoder.num_tokens(),
                run.model.image_encoder.image_size()
            ),
        ),
        (
            "Q-Former",
            format!(
                "{} queries, width {}, depth {}, heads {}, cross-attention every {}",
                qformer.num_query_tokens,
                qformer.hidden_dim,
                qformer.depth,
                qformer.heads,
                qformer.cross_attention_every
            ),
        ),
        ("language model", language_model(&run.model.language_model)),
    ];
    for stage in &run.stages {
        let text =
            format!("{} steps, global batch {}, {} slices", count(stage.steps()), stage.global_batch(), stage.slices());
        rows.push((stage.name(), text));
    }
    rows.push(("ranks", format!("{} with {} threads each", run.world_size(), run.cluster.threads_per_rank)));
    rows.push(("seed", run.run.seed.to_string()));
    if !story.found.resumed.is_empty() {
        rows.push(("resumed", format!("{} times", story.found.resumed.len())));
    }
    let rows: String = rows
        .iter()
        .map(|(name, text)| format!("<tr><th>{}</th><td>{}</td></tr>\n", escape(name), escape(text)))
        .collect();
    format!("<h2>What was trained</h2>\n<div class=\"wide\"><table class=\"facts\">\n{rows}</table></div>\n")
}

fn image_name(tower: &ImageEncoder) -> &'static str {
    tower.kind()
}

fn language_model(model: &LanguageModel) -> String {
    let sizes = match model.sizes() {
        LanguageModelSizes::Opt(s) => {
            format!("width {}, depth {}, heads {}, {} words", s.hidden_dim, s.depth, s.heads, s.vocab_size)
        }
        LanguageModelSizes::T5(s) => format!(
            "width {}, depth {} + {}, heads {}, {} words",
            s.hidden_dim, s.encoder_depth, s.decoder_depth, s.heads, s.vocab_size
        ),
    };
    format!("{}: {sizes}", model.kind())
}

/// The curves of every stage.
fn curves(story: &Story) -> String {
    let mut stages: Vec<&str> = Vec::new();
    for record in &story.found.records {
        if !stages.contains(&record.stage.as_str()) {
            stages.push(&record.stage);
        }
    }
    let mut html = String::new();
    for stage in stages {
        let records = story.found.records_of(stage);
        push(&mut html, format_args!("<h2>Training: {}</h2>\n<div class=\"charts\">\n", escape(stage)));
        html.push_str(&stage_charts(story.found.config.as_ref(), stage, &records));
        html.push_str("</div>\n");
        html.push_str(&StepTime::over(&records).map_or_else(String::new, |time| time.figure("Time of a step")));
        html.push_str(&data::table(&records));
    }
    html
}

/// The faults; times count from the first record.
fn faults(story: &Story) -> String {
    let first = story.found.records.iter().find_map(|record| record.time);
    let when = |time: f64| match first {
        Some(first) if time >= first => format!("after {}", duration(time - first)),
        _ => "before the first step".to_owned(),
    };
    faults::section(&story.found, &when)
}

/// Step and value.
type Points = Vec<(u64, f64)>;

/// Points of a curve: those records that have the value, finite.
fn points(records: &[&Record], value: &dyn Fn(&Record) -> Option<f64>) -> Points {
    let finite = |record: &&Record| Some((record.step, value(record).filter(|value| value.is_finite())?));
    records.iter().filter_map(finite).collect()
}

/// The charts of one stage: its loss terms, then what else is measured along the way.
pub fn stage_charts(config: Option<&Run>, name: &str, records: &[&Record]) -> String {
    let stage = config.and_then(|run| run.stage(name));
    let steps = stage.map_or(0, Stage::steps);
    let mut marks: Vec<(u64, &str)> = Vec::new();
    if let Some(Stage::Representation(stage)) = stage {
        marks.extend([(stage.itm_start_step, "matching"), (stage.hard_negatives_start_step, "hard negatives")]);
    }
    marks.retain(|(step, _)| *step > 0);
    let mut html = String::new();
    for term in terms(records) {
        let points = points(records, &|record| *record.losses.get(term)?);
        let marks = if matches!(term, "itm" | "total") { marks.as_slice() } else { &[] };
        let (note, class) = (note_of(term), class_of(term));
        let chart = Chart { title: term, note, points: &points, steps, marks, class, noisy: true };
        html.push_str(&chart.figure());
    }
    let value = |name: &'static str| points(records, &|record| record.values.get(name)?.as_f64());
    let percent =
        |points: Points| -> Points { points.into_iter().map(|(step, value)| (step, 100.0 * value)).collect() };
    let others: [(&str, &str, Points, &str, bool); 4] = [
        ("gradient norm", "", value("grad_norm"), "norm", true),
        ("learning rate", "", points(records, &|record| record.lr), "lr", false),
        ("images/s", "over all ranks", points(records, &|record| record.images_per_s), "speed", false),
        ("physical limit", "% of it", percent(value("mfu")), "speed", false),
    ];
    for (title, note, points, class, noisy) in &others {
        let chart = Chart { title, note, points, steps, marks: &[], class, noisy: *noisy };
        html.push_str(&chart.figure());
    }
    html
}

/// The loss terms of these records in the order for people; a total that repeats the only term is left out.
fn terms<'a>(records: &[&'a Record]) -> Vec<&'a str> {
    let mut terms: Vec<&str> = records.iter().flat_map(|record| record.losses.keys().map(String::as_str)).collect();
    terms.sort_by_key(|term| term_order(term));
    terms.dedup();
    if terms.len() == 2 && terms[1] == "total" {
        terms.pop();
    }
    terms
}

fn note_of(term: &str) -> &'static str {
    match term {
        "itc" => "contrastive loss",
        "itm" => "matching loss",
        "itg" => "captioning loss",
        "lm" => "language-model loss",
        "total" => "sum of the losses",
        _ => "loss",
    }
}

fn class_of(term: &str) -> &'static str {
    match term {
        "itc" => "itc",
        "itm" => "itm",
        "itg" | "lm" => "itg",
        _ => "total",
    }
}
