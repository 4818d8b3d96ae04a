//! The run that a person names: a file, or one of the presets that are built in.

use std::path::{Path, PathBuf};

use configs::{ConfigError, Overrides, Run};

/// What stands before a preset's name where a path could stand as well.
const PRESET: &str = "preset:";

/// Where a run's configuration comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RunSource {
    /// A YAML file.
    File(PathBuf),
    /// A preset, by name.
    Preset(&'static str),
}

impl RunSource {
    /// The file of this path, or the preset of this name. What is neither counts as a path, so that the error names it.
    pub fn find(text: &str) -> Self {
        if Path::new(text).is_file() {
            return Self::File(text.into());
        }
        let name = text.strip_prefix(PRESET).unwrap_or(text);
        match configs::PRESETS.iter().find(|(known, _)| *known == name) {
            Some((known, _)) => Self::Preset(known),
            None => Self::File(text.into()),
        }
    }

    /// The run with overrides applied.
    ///
    /// # Errors
    /// A file that cannot be read, or every mistake in the configuration.
    pub fn load(&self, set: &[String]) -> Result<Run, ConfigError> {
        let overrides = Overrides::new(set);
        match self {
            Self::File(path) => configs::load(path, &overrides),
            Self::Preset(name) => {
                configs::load_str(&self.argument(), configs::preset(name).unwrap_or_default(), &overrides)
            }
        }
    }

    /// How ranks are told: a path, or `preset:tiny`.
    pub fn argument(&self) -> String {
        match self {
            Self::File(path) => path.display().to_string(),
            Self::Preset(name) => format!("{PRESET}{name}"),
        }
    }
}

/// The folder on this machine that a URI names; `None` for an object store.
pub fn local_folder(uri: &str) -> Option<PathBuf> {
    if let Some(path) = uri.strip_prefix("file://") {
        return Some(path.into());
    }
    (!uri.contains("://")).then(|| uri.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_presets_and_paths_are_told_apart() {
        assert_eq!(RunSource::find("tiny"), RunSource::Preset("tiny"));
        assert_eq!(RunSource::find("preset:tiny").argument(), "preset:tiny");
        assert_eq!(RunSource::find("no/such.yaml"), RunSource::File("no/such.yaml".into()));
        let seven = RunSource::find("tiny").load(&["run.seed=7".into()]).unwrap();
        assert_eq!(seven.run.seed, 7);
        assert!(RunSource::find("tinny").load(&[]).unwrap_err().to_string().contains("tinny"));
    }

    #[test]
    fn only_paths_are_local() {
        assert_eq!(local_folder("runs/a"), Some("runs/a".into()));
        assert_eq!(local_folder("file:///tmp/a"), Some("/tmp/a".into()));
        assert_eq!(local_folder("s3://bucket/a"), None);
    }
}
