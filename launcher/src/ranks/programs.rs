//! The programs that are started: `blip2-rank`, `mpirun`, and SLURM's.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use anyhow::{Context, bail};

use super::allocation::Standing;

/// Where programs are looked for, and what else the environment says. `main` fills it.
#[derive(Clone, Debug, Default)]
pub struct Programs {
    /// This program, with links resolved.
    pub executable: PathBuf,
    /// `BLIP2_RANK`: the rank program to use instead of the one beside this program.
    pub rank: Option<PathBuf>,
    /// `BLIP2_MPIRUN`: the mpirun to use.
    pub mpirun: Option<PathBuf>,
    /// `PATH`.
    pub path: Option<OsString>,
    /// All variables whose names and values are text.
    pub variables: BTreeMap<String, String>,
    /// Whether srun can start our ranks, or why not, once it was tried.
    pub trial: OnceLock<Result<(), String>>,
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

    /// The program of one rank inside a container image: that of `BLIP2_RANK`, which is not looked for on this host.
    ///
    /// # Errors
    /// As [`Self::rank`] where no variable names it.
    pub fn rank_in_container(&self) -> anyhow::Result<PathBuf> {
        self.rank.clone().map_or_else(|| self.rank(), Ok)
    }

    /// The mpirun that starts several ranks: that of `BLIP2_MPIRUN`; else the one that set-up chose in the checkout
    /// that holds this program (the system's where there is one), as the MPI piece was built for it; else the one that a
    /// package brings in `lib/openmpi`; else the system's.
    ///
    /// # Errors
    /// When there is none.
    pub fn mpirun(&self) -> anyhow::Result<PathBuf> {
        if let Some(named) = &self.mpirun {
            return existing(named, "BLIP2_MPIRUN");
        }
        let chosen = self.executable.ancestors().map(|folder| folder.join(".deps/bin/mpirun"));
        let packaged = self.executable.ancestors().nth(2).map(|package| package.join("lib/openmpi/bin/mpirun"));
        let found = chosen.chain(packaged).find(|path| path.is_file());
        found.or_else(|| self.on_path("mpirun")).context(
            "found no mpirun on PATH, expected one to start several ranks. Install Open MPI, run `make setup`, name it \
             in BLIP2_MPIRUN, or use one rank with --ranks 1",
        )
    }

    /// One of SLURM's programs.
    ///
    /// # Errors
    /// When PATH has none.
    pub fn of_slurm(&self, name: &str) -> anyhow::Result<PathBuf> {
        self.on_path(name).with_context(|| {
            format!(
                "found no {name} on PATH; expected SLURM's. Run this on a machine of the cluster, or load SLURM \
                 (`module load slurm` on many sites)"
            )
        })
    }

    /// The first file of this name in the folders of `PATH`.
    pub fn on_path(&self, name: &str) -> Option<PathBuf> {
        let folders = self.path.iter().flat_map(std::env::split_paths);
        folders.map(|folder| folder.join(name)).find(|path| path.is_file())
    }

    /// The value of a variable that is set and not empty.
    pub fn variable(&self, name: &str) -> Option<&str> {
        self.variables.get(name).map(String::as_str).filter(|value| !value.is_empty())
    }

    /// How this process stands to SLURM.
    pub fn standing(&self) -> Standing {
        Standing::of(|name| self.variable(name).map(str::to_owned))
    }

    /// What reaches other hosts: the command of `BLIP2_RSH`, or ssh that asks nobody.
    pub fn remote_shell(&self) -> Vec<String> {
        let named = self.variable("BLIP2_RSH").unwrap_or("ssh -o BatchMode=yes -o ConnectTimeout=10");
        named.split_whitespace().map(str::to_owned).collect()
    }
}

fn existing(named: &Path, variable: &str) -> anyhow::Result<PathBuf> {
    if !named.is_file() {
        bail!("{variable} names {}, where no file is; set it to a program, or unset it", named.display());
    }
    Ok(named.to_owned())
}
