//! From a file to a run.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;
use std::sync::Arc;

use crate::decode::{FromNode, Place};
use crate::overrides::Overrides;
use crate::parse::{MAX_FILE_BYTES, parse_yaml};
use crate::problem::{ConfigError, Origin, Problems};
use crate::run::Run;
use crate::secret::refuse_secrets;
use crate::suggest::nearest;
use crate::validate::check_run;

/// The run that the file at `path` states, with `overrides` applied.
///
/// # Errors
/// [`ConfigError::Unreadable`] if the file cannot be read; [`ConfigError::Invalid`] with every mistake in it.
pub fn load(path: impl AsRef<Path>, overrides: &Overrides) -> Result<Run, ConfigError> {
    let path = path.as_ref();
    let bytes = read_limited(path).map_err(|source| ConfigError::Unreadable {
        path: path.to_owned(),
        nearest: if source.kind() == io::ErrorKind::NotFound { similar_file(path) } else { None },
        source,
    })?;
    let name = path.display().to_string();
    if bytes.len() as u64 > MAX_FILE_BYTES {
        let message = format!("found more than {MAX_FILE_BYTES} bytes; expected a config, which has a few thousand");
        return Err(whole_file_error(&name, message, "check that this is the file you meant"));
    }
    match std::str::from_utf8(&bytes) {
        Ok(text) => load_str(&name, text, overrides),
        Err(error) => Err(encoding_error(&name, &bytes, error.valid_up_to())),
    }
}

/// The run that `text` states, with `overrides` applied; `name` stands for the file in messages.
///
/// # Errors
/// [`ConfigError::Invalid`] with every mistake.
pub fn load_str(name: &str, text: &str, overrides: &Overrides) -> Result<Run, ConfigError> {
    if text.len() as u64 > MAX_FILE_BYTES {
        let message = format!("found more than {MAX_FILE_BYTES} bytes; expected a config, which has a few thousand");
        return Err(whole_file_error(name, message, "check that this is the file you meant"));
    }
    // Some editors put a byte-order mark in front; it is no part of the text.
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut problems = Problems::default();
    let Some(mut root) = parse_yaml(&Arc::from(name), text, &mut problems) else {
        return Err(problems.into_error(name, text));
    };
    overrides.apply(&mut root, &mut problems);
    refuse_secrets(&root, "", &mut problems);
    let run = Run::from_node(Place::root(&root), &mut problems);
    check_run(&root, &mut problems);
    match run {
        Some(run) if problems.is_empty() => Ok(run),
        _ => Err(problems.into_error(name, text)),
    }
}

/// The bytes of the file, at most one more than are allowed.
fn read_limited(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(path)?.take(MAX_FILE_BYTES + 1).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// A config of a similar name in the same folder, or the shipped one of that name.
fn similar_file(path: &Path) -> Option<String> {
    let folder = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    let wanted = path.file_name()?.to_str()?;
    let mut names: Vec<String> = std::fs::read_dir(folder)
        .into_iter()
        .flatten()
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .filter(|name| name.ends_with(".yaml") || name.ends_with(".yml"))
        .collect();
    names.sort();
    let stem = wanted.trim_end_matches(".yaml").trim_end_matches(".yml");
    let same_stem = names.iter().find(|name| name.trim_end_matches(".yaml").trim_end_matches(".yml") == stem);
    if let Some(name) = same_stem.map(String::as_str).or_else(|| nearest(wanted, names.iter().map(String::as_str))) {
        return Some(path.with_file_name(name).display().to_string());
    }
    nearest(stem, crate::presets::PRESETS.iter().map(|(name, _)| *name)).map(|name| format!("configs/{name}.yaml"))
}

fn whole_file_error(name: &str, message: String, advice: &str) -> ConfigError {
    let mut problems = Problems::default();
    problems.add(&Origin::WholeFile { file: name.into() }, "", message, Some(advice.to_owned()));
    problems.into_error(name, "")
}

/// The error for a file whose byte at `position` is not UTF-8.
fn encoding_error(name: &str, bytes: &[u8], position: usize) -> ConfigError {
    let before = &bytes[..position];
    let line = before.iter().filter(|byte| **byte == b'\n').count() + 1;
    let line_start = before.iter().rposition(|byte| *byte == b'\n').map_or(0, |newline| newline + 1);
    let column = String::from_utf8_lossy(&before[line_start..]).chars().count() + 1;
    let origin = Origin::File { file: name.into(), line, column, width: 1 };
    let message =
        format!("found the byte 0x{:02x}, which is not UTF-8; expected a text file in UTF-8", bytes[position]);
    let advice = if bytes.starts_with(&[0xff, 0xfe]) || bytes.starts_with(&[0xfe, 0xff]) {
        "the file is UTF-16: save it as UTF-8"
    } else {
        "save the file as UTF-8, or replace the character"
    };
    let mut problems = Problems::default();
    problems.add(&origin, "", message, Some(advice.to_owned()));
    problems.into_error(name, "")
}
