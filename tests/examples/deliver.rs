//! What the library delivers from a place, as digests that two places can be compared by; and a folder copied to a place.
//!
//! `deliver read FORM URI STEPS` prints one line of JSON, where FORM is `shards` (Parquet or tar) or `coco`; `deliver copy
//! FOLDER URI` copies the files below a folder, `deliver fetch URI FOLDER` what lies at a place. Stores are chosen by the environment, so each is a process of its own.

use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context, bail};
use configs::{AnnotatedSource, Source, Uri};
use data_pipeline::augment::TrainTransform;
use data_pipeline::caption::Cleaner;
use data_pipeline::catalog::{Catalog, READ_UNIT_BYTES, index};
use data_pipeline::image::DecodeLimits;
use data_pipeline::loader::{Loader, LoaderSettings, LoaderSource};
use data_pipeline::order::Layout;
use data_pipeline::store::Location;
use sha2::{Digest, Sha256};

fn settings() -> LoaderSettings {
    LoaderSettings {
        layout: Layout { seed: 11, lanes: 4, window_row_groups: 2, global_batch: 16 },
        slices: 2,
        transform: TrainTransform::reference(32),
        captions: Cleaner::default(),
        asks: false,
        limits: DecodeLimits::default(),
        decode_threads: 2,
        memory_bytes: 256 << 20,
        max_bad_fraction: 1.0,
        quarantine: None,
    }
}

fn runtime() -> anyhow::Result<tokio::runtime::Runtime> {
    Ok(tokio::runtime::Builder::new_current_thread().enable_all().build()?)
}

fn hex(digest: Sha256) -> String {
    digest.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}

fn catalog(form: &str, uri: &str) -> anyhow::Result<Catalog> {
    let silent = |_, _| ();
    match form {
        "shards" => Ok(runtime()?.block_on(Catalog::open(&Location::parse(uri)?, silent))?),
        "coco" => {
            let (annotations, images) = ("annotations.json".into(), "images".into());
            let (name, uri) = ("set".into(), Uri::new(uri));
            let source = AnnotatedSource { name, uri, annotations, images, catalog: None, weight: 1.0 };
            Ok(runtime()?.block_on(index(&Source::CocoCaptions(source), READ_UNIT_BYTES, &silent))?)
        }
        other => bail!("FORM is `{other}`; expected `shards` or `coco`"),
    }
}

fn read(form: &str, uri: &str, steps: u64) -> anyhow::Result<serde_json::Value> {
    let began = Instant::now();
    let catalog = Arc::new(catalog(form, uri)?);
    let rows = catalog.rows();
    let mut loader = Loader::start(vec![LoaderSource::alone(catalog)], settings(), Arc::default(), 0, 0..2)?;
    let (mut samples, mut captions, mut pixels) = (Sha256::new(), Sha256::new(), Sha256::new());
    for _ in 0..steps * 2 {
        let batch = loader.next_batch()?;
        batch.samples.iter().for_each(|sample| samples.update(sample.to_le_bytes()));
        batch.captions.iter().for_each(|caption| captions.update(format!("{caption}\n")));
        batch.images.iter().for_each(|value| pixels.update(value.to_le_bytes()));
    }
    let ledger = loader.ledger().total();
    eprintln(&format!("{uri}: {} samples in {:.2} s", ledger.seen, began.elapsed().as_secs_f64()));
    Ok(serde_json::json!({
        "rows": rows, "seen": ledger.seen, "reasons": ledger.skipped,
        "samples": hex(samples), "captions": hex(captions), "pixels": hex(pixels),
    }))
}

fn copy(folder: &Path, to: &Location) -> anyhow::Result<()> {
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        let place = to.child(entry.file_name().to_str().context("a file name that is not UTF-8")?);
        if entry.path().is_dir() {
            copy(&entry.path(), &place)?;
        } else {
            runtime()?.block_on(place.write(std::fs::read(entry.path())?))?;
        }
    }
    Ok(())
}

fn fetch(from: &Location, folder: &Path) -> anyhow::Result<()> {
    let runtime = runtime()?;
    for (place, _) in runtime.block_on(from.list(""))? {
        let name = place.path.as_ref().strip_prefix(from.path.as_ref()).unwrap_or_default().trim_start_matches('/');
        let file = folder.join(name);
        std::fs::create_dir_all(file.parent().context("a file lies in a folder")?)?;
        // A run that goes on deletes what was listed.
        if let Some(bytes) = runtime.block_on(place.read_if_there())? {
            std::fs::write(&file, bytes)?;
        }
    }
    Ok(())
}

#[expect(clippy::print_stderr, reason = "for whoever runs it by hand")]
fn eprintln(line: &str) {
    eprintln!("{line}");
}

#[expect(clippy::print_stdout, reason = "the answer")]
fn main() -> anyhow::Result<()> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    match words.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["read", form, uri, steps] => {
            println!("{}", read(form, uri, steps.parse().context("STEPS must be a number")?)?)
        }
        ["copy", folder, uri] => copy(Path::new(folder), &Location::parse(uri)?)?,
        ["fetch", uri, folder] => fetch(&Location::parse(uri)?, Path::new(folder))?,
        _ => bail!("usage: deliver read FORM URI STEPS | deliver copy FOLDER URI | deliver fetch URI FOLDER"),
    }
    Ok(())
}
