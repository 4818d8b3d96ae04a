//! One command that starts ranks: program, arguments, variables.

use std::fmt;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::mpirun;
use super::programs::Programs;

/// What is started, before it is.
#[derive(Clone, Debug)]
pub struct Plan {
    /// mpirun, or the rank itself where it is alone.
    pub program: PathBuf,
    /// Its arguments.
    pub arguments: Vec<String>,
    /// Variables that are set for it.
    pub variables: Vec<(&'static str, String)>,
    /// The program of each rank.
    pub rank_program: PathBuf,
    /// How many ranks.
    pub ranks: usize,
}

impl Plan {
    /// `ranks` ranks on this host, each with `threads` threads to compute with and these arguments.
    ///
    /// # Errors
    /// When blip2-rank or, for several ranks, mpirun is not found.
    pub fn local(programs: &Programs, ranks: usize, threads: usize, arguments: Vec<String>) -> anyhow::Result<Self> {
        let rank_program = programs.rank()?;
        let mut plan = Self {
            program: rank_program.clone(),
            arguments,
            variables: ["OMP_NUM_THREADS", "MKL_NUM_THREADS"].map(|name| (name, threads.to_string())).to_vec(),
            rank_program,
            ranks,
        };
        plan.variables.extend(memory_variables());
        if ranks > 1 {
            plan.program = programs.mpirun()?;
            let mut words = mpirun::flags(ranks, mpirun::is_open_mpi(&plan.program));
            words.push(plan.rank_program.display().to_string());
            words.append(&mut plan.arguments);
            plan.arguments = words;
            plan.variables.extend(mpirun::variables());
        }
        Ok(plan)
    }

    /// Has ranks write their process ids into this folder.
    pub fn note_pids_in(&mut self, folder: &Path) {
        self.variables.push(("BLIP2_PID_DIR", folder.display().to_string()));
    }

    /// The command, not started yet.
    pub fn command(&self) -> Command {
        let mut command = Command::new(&self.program);
        command.args(&self.arguments).envs(self.variables.iter().map(|(name, value)| (name, value)));
        command
    }
}

/// How a rank's libraries keep memory. What a person has set stays.
///
/// glibc keeps what a step frees for the next one: by default it goes back to the system and comes again page by page. On
/// two cores the demo's first stage makes 7 to 10 % more steps so, with half the time spent in the system.
///
/// oneDNN, which multiplies in bf16 on CPUs, keeps the kernels that it has compiled, one for each shape, 1,024 by default.
/// The demo's first stage uses about 500 again and again; with room for 512 it takes as long and 2.51 GiB instead of 3.46,
/// together with loaders that keep 256 MB each instead of 512.
fn memory_variables() -> impl Iterator<Item = (&'static str, String)> {
    let wanted = [
        // No block is mapped by itself, however large.
        ("MALLOC_MMAP_MAX_", 0_u64),
        ("MALLOC_TRIM_THRESHOLD_", 4 << 30),
        ("MALLOC_TOP_PAD_", 64 << 20),
        ("ONEDNN_PRIMITIVE_CACHE_CAPACITY", 512),
    ];
    wanted
        .into_iter()
        .filter(|(name, _)| std::env::var_os(name).is_none())
        .map(|(name, value)| (name, value.to_string()))
}

/// As it could be typed into a shell, without the variables.
impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&quoted(&self.program.display().to_string()))?;
        self.arguments.iter().try_for_each(|word| write!(f, " {}", quoted(word)))
    }
}

/// A word as a shell reads it back.
pub fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./:=@%+,[]".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        return word.to_owned();
    }
    format!("'{}'", word.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::quoted;

    #[test]
    fn words_survive_a_shell() {
        assert_eq!(quoted("stages[0].steps=3"), "stages[0].steps=3");
        assert_eq!(quoted("a b"), "'a b'");
        assert_eq!(quoted("it's"), r"'it'\''s'");
        assert_eq!(quoted(""), "''");
    }
}
