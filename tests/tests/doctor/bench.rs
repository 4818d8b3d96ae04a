//! A run that works, a folder beside it, and `blip2 doctor` started so that it meets what was planted.

use std::any::Any;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use integration_tests::programs::{all_output, built, run_within};
use integration_tests::runs::{overrides, undisturbed};
use serde_json::Value;

/// Seconds for one look; a whole one promises two minutes.
pub const LIMIT_S: u32 = 150;

/// How `blip2 doctor` is started so that it meets the fault.
#[derive(Default)]
pub struct Planted {
    pub set: Vec<String>,
    pub env: Vec<(&'static str, String)>,
    /// A script that runs `"$@"` where the fault is; it ends with 99 where this machine does not allow it.
    pub inside: Option<String>,
    /// Whether the script needs a mount namespace of its own.
    pub mounts: bool,
    /// What lives as long as the look.
    pub kept: Option<Box<dyn Any>>,
}

impl Planted {
    pub fn set<const N: usize>(set: [String; N]) -> Self {
        Self { set: set.into(), ..Self::default() }
    }

    pub fn env(name: &'static str, value: impl Into<String>) -> Self {
        Self { env: vec![(name, value.into())], ..Self::default() }
    }

    pub fn with_env(mut self, name: &'static str, value: &str) -> Self {
        self.env.push((name, value.to_owned()));
        self
    }

    pub fn keeping(mut self, kept: impl Any) -> Self {
        self.kept = Some(Box::new(kept));
        self
    }
}

/// A folder of a case's own, beside a run that works.
pub struct Bench {
    pub folder: tempfile::TempDir,
    shared: &'static Path,
}

/// What a look came to.
pub struct Looked {
    pub output: Output,
    pub checks: Vec<Value>,
}

impl Bench {
    pub fn new() -> Self {
        Self { folder: tempfile::tempdir().unwrap(), shared: &undisturbed().0 }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub fn text(&self, name: &str) -> String {
        self.path(name).display().to_string()
    }

    /// A copy of one of the run's own files.
    pub fn copy(&self, name: &str) -> PathBuf {
        let to = self.path(name);
        fs::copy(self.shared.join(name), &to).unwrap();
        to
    }

    /// The command that looks, not started yet.
    pub fn doctor(&self, planted: &Planted, more: &[&str]) -> Command {
        let mut words = vec![built("blip2").display().to_string()];
        words.extend(["doctor", "tiny", "--json"].map(str::to_owned));
        words.extend(more.iter().map(|word| (*word).to_owned()));
        for set in overrides(&self.path("run"), self.shared).iter().chain(&planted.set) {
            words.extend(["--set".to_owned(), set.clone()]);
        }
        let mut command = match (&planted.inside, planted.mounts) {
            (None, _) => Command::new(&words[0]),
            (Some(_), true) => {
                let mut command = Command::new("unshare");
                command.args(["--user", "--map-root-user", "--mount", "sh"]);
                command
            }
            (Some(_), false) => Command::new("sh"),
        };
        match &planted.inside {
            None => command.args(&words[1..]),
            Some(script) => command.args(["-c", script, "sh"]).args(&words),
        };
        command.current_dir(self.folder.path()).envs(planted.env.iter().map(|(name, value)| (name, value)));
        command
    }

    pub fn look(&self, planted: &Planted, more: &[&str]) -> Looked {
        let output = run_within(LIMIT_S, &self.doctor(planted, more));
        let answer: Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
        let checks = answer["checks"].as_array().cloned().unwrap_or_default();
        Looked { output, checks }
    }
}

impl Looked {
    pub fn check(&self, name: &str) -> &Value {
        let found = self.checks.iter().find(|check| check["name"] == name);
        found.unwrap_or_else(|| panic!("no check {name} in:\n{}", all_output(&self.output)))
    }
}
