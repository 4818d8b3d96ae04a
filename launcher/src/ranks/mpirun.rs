//! How mpirun is told to start ranks on this host.

use std::path::{Path, PathBuf};
use std::process::Command;

/// Flags for `ranks` ranks on this host, the program to come after them.
pub fn flags(ranks: usize, open_mpi: bool) -> Vec<String> {
    let mut flags = vec!["-n".to_owned(), ranks.to_string()];
    if open_mpi {
        // More ranks than cores are allowed, and nobody is bound to a core: ranks have threads that read and decode.
        flags.extend(["--oversubscribe", "--bind-to", "none"].map(str::to_owned));
    }
    flags
}

/// Variables for mpirun and its ranks on this host.
pub fn variables() -> Vec<(&'static str, String)> {
    [
        // Containers often run everything as root; Open MPI asks for both.
        ("OMPI_ALLOW_RUN_AS_ROOT", "1"),
        ("OMPI_ALLOW_RUN_AS_ROOT_CONFIRM", "1"),
        // A rank that waits gives its core to the threads that decode images.
        ("OMPI_MCA_mpi_yield_when_idle", "1"),
        // All ranks are on this host. Open MPI 5 hands the first one on to PMIx, and complains when PMIx is told as well.
        ("OMPI_MCA_oob_tcp_if_include", "lo"),
        ("OMPI_MCA_btl_tcp_if_include", "lo"),
    ]
    .map(|(name, value)| (name, value.to_owned()))
    .to_vec()
}

/// Whether this mpirun is Open MPI's; MPICH's takes none of its flags.
pub fn is_open_mpi(mpirun: &Path) -> bool {
    let version = Command::new(mpirun).arg("--version").output();
    version.is_ok_and(|output| String::from_utf8_lossy(&output.stdout).contains("Open MPI"))
}

/// A folder for the temporary files of one mpirun, removed with it.
///
/// Open MPI names its folders after its process id and fails on one that an mpirun of the same id left when it was
/// killed, as happens in a container that is started again.
pub struct Scratch(PathBuf);

impl Scratch {
    /// Makes the folder.
    ///
    /// # Errors
    /// When the system's folder for temporary files cannot be written to.
    pub fn make() -> std::io::Result<Self> {
        let nanos = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, |t| t.as_nanos());
        let folder = std::env::temp_dir().join(format!("blip2-{}-{nanos}", std::process::id()));
        std::fs::create_dir(&folder)?;
        Ok(Self(folder))
    }

    /// The folder.
    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // What cannot be removed lies among other temporary files.
        let _left_behind = std::fs::remove_dir_all(&self.0);
    }
}
