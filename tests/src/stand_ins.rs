//! A folder with stand-ins for programs: shell scripts that play mpirun, srun, sbatch or a rank.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::programs::built;

/// The folder, removed with this value.
pub struct StandIns {
    folder: tempfile::TempDir,
}

impl StandIns {
    /// An empty folder.
    ///
    /// # Panics
    /// When it cannot be made.
    pub fn new() -> Self {
        Self { folder: tempfile::tempdir().expect("a temporary folder") }
    }

    /// The folder, with links resolved.
    ///
    /// # Panics
    /// When it is gone.
    pub fn path(&self) -> PathBuf {
        self.folder.path().canonicalize().expect("the folder is there")
    }

    /// Writes a script.
    ///
    /// # Panics
    /// When it cannot be written.
    pub fn script(&self, name: &str, text: &str) {
        // Written by another process: a program that this one still has open for writing, in a child that another test is
        // just forking, could not be started.
        let mut writer = Command::new("sh");
        writer.args(["-c", "printf %s \"$1\" >\"$2\"", "sh", text]).arg(self.path().join(name));
        assert!(writer.status().expect("sh starts").success(), "{name} cannot be written");
        let executable = std::fs::Permissions::from_mode(0o755);
        std::fs::set_permissions(self.path().join(name), executable).expect("the script is ours");
    }

    /// `blip2` in this folder, with the system's programs and these, and no other variables.
    pub fn blip2(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(built("blip2"));
        command.args(arguments).current_dir(self.path()).env_clear();
        command.env("PATH", format!("{}:/usr/bin:/bin", self.path().display()));
        command.env("BLIP2_RANK", self.path().join("blip2-rank"));
        command
    }

    /// A text with this folder as @HERE@ and the folder of the built programs as @BIN@.
    pub fn anonymous(&self, text: &str) -> String {
        let bin = built("blip2").parent().map(Path::to_path_buf).unwrap_or_default();
        text.replace(&self.path().display().to_string(), "@HERE@").replace(&bin.display().to_string(), "@BIN@")
    }
}

impl Default for StandIns {
    fn default() -> Self {
        Self::new()
    }
}
