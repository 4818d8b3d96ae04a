//! The programs that are started: `blip2-rank` and `mpirun`.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};

/// Where programs are looked for. `main` fills it from the environment.
#[derive(Clone, Debug)]
pub struct Programs {
    /// This program, with links resolved.
    pub executable: PathBuf,
    /// `BLIP2_RANK`: the rank program to use instead of the one beside this program.
    pub rank: Option<PathBuf>,
    /// `BLIP2_MPIRUN`: the mpirun to use.
    pub mpirun: Option<PathBuf>,
    /// `PATH`.
    pub path: Option<OsString>,
}

impl Programs {
    /// The program of one rank.
    ///
    /// # Errors
    /// When there is none.
    pub fn rank(&self) -> anyhow::Result<PathBuf> {
        if let Some(named) = &self.rank {
            return existing(named, "BLIP2_RANK");
        }
        let beside = self.executable.with_file_name("blip2-rank");
        if !beside.is_file() {
            bail!(
                "found no {}; expected blip2-rank beside blip2. Build it with `make build`, or name it in BLIP2_RANK",
                beside.display()
            );
        }
        Ok(beside)
    }

    /// The mpirun that starts several ranks: that of `BLIP2_MPIRUN`; else the one that set-up chose in the checkout
    /// that holds this program (the system's where there is one), as the MPI piece was built for it; else the system's.
    ///
    /// # Errors
    /// When there is none.
    pub fn mpirun(&self) -> anyhow::Result<PathBuf> {
        if let Some(named) = &self.mpirun {
            return existing(named, "BLIP2_MPIRUN");
        }
        let chosen = self.executable.ancestors().map(|folder| folder.join(".deps/bin/mpirun"));
        let on_path = self.path.iter().flat_map(std::env::split_paths).map(|folder| folder.join("mpirun"));
        chosen.chain(on_path).find(|path| path.is_file()).context(
            "found no mpirun on PATH, expected one to start several ranks. Install Open MPI, run `make setup`, name it \
             in BLIP2_MPIRUN, or use one rank with --ranks 1",
        )
    }
}

fn existing(named: &Path, variable: &str) -> anyhow::Result<PathBuf> {
    if !named.is_file() {
        bail!("{variable} names {}, where no file is; set it to a program, or unset it", named.display());
    }
    Ok(named.to_owned())
}
