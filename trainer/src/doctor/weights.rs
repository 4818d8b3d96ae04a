//! Files of weights: there, whole, of the right model, and of the content that the config names.

use std::time::{Duration, Instant};

use configs::{QFormerInit, Run, Weights};

use super::{Finding, size, store_trouble, text};
use crate::checkpoint::RunPrefix;
use crate::error::{Result, TrainerError};
use crate::weights::{Differences, Hashed, Part, Plan, Source, compare, start_differences};
use data_pipeline::store::Trouble;

/// Names that a message lists at most.
const SHOWN: usize = 3;

/// Weights that a config names.
struct Named<'r> {
    name: &'static str,
    weights: &'r Weights,
    part: Option<Part>,
    /// Whether the run makes the file where it is absent.
    is_made: bool,
}

pub(super) fn look(run: &Run, within: Duration) -> Vec<Finding> {
    let model = &run.model;
    let language_model = model.language_model.settings();
    let mut named = vec![
        Named {
            name: "weights.image_encoder",
            weights: model.image_encoder.weights(),
            part: Some(Part::ImageEncoder),
            is_made: model.image_encoder.pretrain().is_some(),
        },
        Named {
            name: "weights.language_model",
            weights: language_model.weights,
            part: Some(Part::LanguageModel),
            is_made: language_model.pretrain.is_some(),
        },
    ];
    if let QFormerInit::Bert(weights) = &model.qformer.init {
        named.push(Named { name: "weights.qformer", weights, part: Some(Part::QFormer), is_made: false });
    }
    let mut findings = Vec::new();
    if let Some(weights) = &model.start_from {
        match start_run(weights) {
            Some(run) => findings.push(start_finding(run, weights.uri.as_str())),
            None => named.push(Named { name: "weights.start_from", weights, part: None, is_made: false }),
        }
    }
    let until = Instant::now() + within;
    findings.extend(named.iter().map(|one| finding(run, one, until)));
    findings
}

/// The run whose checkpoints a start names; nothing where it names a file of weights or the hub.
fn start_run(weights: &Weights) -> Option<&str> {
    let uri = weights.uri.as_str().trim_end_matches('/');
    let is_file = [".safetensors", ".pth", ".pt", ".bin"].iter().any(|ending| uri.ends_with(ending));
    if is_file || uri.starts_with("hf://") {
        return None;
    }
    let of_stage = uri.rsplit_once("/stage").filter(|(_, stage)| stage.parse::<usize>().is_ok());
    Some(of_stage.map_or(uri, |(run, _)| run))
}

fn start_finding(run: &str, uri: &str) -> Finding {
    let (name, expected) = ("weights.start_from", "a checkpoint, or a run that has one");
    let fix = "name a run or checkpoint that is there in model.start_from (`blip2 checkpoints list`)";
    match RunPrefix::open(run).and_then(|run| run.has_checkpoint()) {
        Ok(true) => Finding::ok(name, uri, expected),
        Ok(false) => Finding::failure(name, [format!("no checkpoint at {uri}"), expected.to_owned(), fix.to_owned()]),
        Err(error) => Finding::error(name, &error, expected, fix),
    }
}

fn finding(run: &Run, named: &Named<'_>, until: Instant) -> Finding {
    let uri = named.weights.uri.as_str();
    if uri.starts_with("hf://") {
        let found = format!("{uri} is fetched from the hub when the run starts; it was not looked at");
        let fix = "import it once with `blip2 weights import`, so that nodes need no network and the hash is known";
        return Finding::warning(named.name, [found, "a file that is at hand".into(), fix.into()]);
    }
    match looked_at(run, named, until) {
        Ok(finding) => finding,
        Err(error) => unreadable(named, &error),
    }
}

/// What an error of opening or reading says.
fn unreadable(named: &Named<'_>, error: &TrainerError) -> Finding {
    let (expected, said) = ("a file of weights that can be read", text(error));
    let is_missing = said.contains("there is no such file")
        || said.contains("there is neither")
        || store_trouble(error) == Some(Trouble::Missing);
    if is_missing && named.is_made {
        return Finding::skipped(named.name, format!("{} is made by the run (pretrain)", named.weights.uri));
    }
    let fix = match is_missing {
        true => "bring the file there, or correct `weights.uri` in the config",
        false => {
            "the file is cut off, damaged or of another kind: copy it again, or import it with `blip2 weights import`"
        }
    };
    match is_missing {
        true => Finding::failure(named.name, [said, expected.to_owned(), fix.to_owned()]),
        false => Finding::error(named.name, error, expected, fix),
    }
}

fn looked_at(run: &Run, named: &Named<'_>, until: Instant) -> Result<Finding> {
    let Named { name, weights, part, .. } = *named;
    let source = Source::open(weights.uri.as_str())?;
    let plan = Plan::of(&source)?;
    if let Some(part) = part {
        let found = match part {
            Part::QFormer => start_differences(&plan, run, part)?,
            _ => compare(&plan, run, part)?,
        };
        if let Some(wrong) = wrong(found.as_ref(), part, &source.uri) {
            let expected = format!("the {} that the config describes", part.name().replace('_', " "));
            let fix = "name the weights of this model, or set the sizes (kind, width, depth, vocab_size) as the \
                 file has them; \
                       `blip2 weights verify` lists every difference";
            return Ok(Finding::failure(name, [wrong, expected, fix.into()]));
        }
    }
    let bytes = size(source.bytes()?);
    let family = plan.family.name();
    let Some(expected) = weights.sha256.as_ref().map(configs::Sha256::as_str) else {
        let found = format!("{}: {family}, {bytes}; the config states no sha256", source.uri);
        return Ok(Finding::ok(name, found, "weights of this model"));
    };
    Ok(match source.sha256_until(until)? {
        Hashed::Whole(found) if found == expected => Finding::ok(
            name,
            format!("{}: {family}, {bytes}, of the stated sha256", source.uri),
            format!("sha256 {expected}"),
        ),
        Hashed::Whole(found) => Finding::failure(
            name,
            [
                format!("{} has the sha256 {found}", source.uri),
                format!("sha256 {expected}"),
                "bring the file that the config names (copy it again), or correct `sha256` in the config".into(),
            ],
        ),
        Hashed::Part(done) => Finding::warning(
            name,
            [
                format!("{} of {bytes} hashed in the time there was; the header is right", size(done)),
                format!("sha256 {expected}"),
                format!("check it by hand: `sha256sum {}`; the run checks it when it starts", source.uri),
            ],
        ),
    })
}

/// What differs from what the config asks for, in words.
fn wrong(found: Option<&Differences>, part: Part, uri: &str) -> Option<String> {
    let Some(found) = found else { return Some(format!("{uri} holds no {}", part.name().replace('_', " "))) };
    let missing = found.missing.iter().map(|name| format!("{name} is missing"));
    let reshaped = found.reshaped.iter().map(|(name, is, expected)| format!("{name} is {is:?}, expected {expected:?}"));
    let all: Vec<String> = reshaped.chain(missing).collect();
    (!all.is_empty()).then(|| {
        let shown = all.iter().take(SHOWN).cloned().collect::<Vec<_>>().join("; ");
        format!("{uri}: {} tensors differ: {shown}{}", all.len(), if all.len() > SHOWN { "; …" } else { "" })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_start_is_a_run_a_stage_of_it_or_a_file() {
        let of = |uri: &str| {
            let weights = Weights { uri: configs::Uri::new(uri), sha256: None };
            start_run(&weights).map(str::to_owned)
        };
        assert_eq!(of("runs/a/"), Some("runs/a".into()));
        assert_eq!(of("s3://b/runs/a/stage1"), Some("s3://b/runs/a".into()));
        assert_eq!(of("runs/stages"), Some("runs/stages".into()));
        assert_eq!((of("a.pth"), of("hf://a/b")), (None, None));
    }
}
