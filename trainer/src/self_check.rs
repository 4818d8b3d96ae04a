//! What this installation can do: which libraries were found, and a small sum through each of them.

use std::fmt::Write;
use std::path::{Path, PathBuf};

use cluster::{BufferMut, Collective, Launcher, MpiPiece, Topology, gather_texts, nccl_rs};
use serde::{Deserialize, Serialize};
use tch::{Cuda, Kind, Tensor};

use crate::TrainerError;
use crate::libraries::{CudaLibrary, torch_folder, torch_version};

/// The whole job's report; `--json` prints it.
#[derive(Debug, Serialize, Deserialize)]
pub struct Report {
    /// Version of this layout.
    pub schema_version: u32,
    /// One entry per rank, in rank order.
    pub ranks: Vec<RankReport>,
}

/// What one rank found.
#[derive(Debug, Serialize, Deserialize)]
pub struct RankReport {
    /// Who started the rank, as the environment says.
    pub launcher: Launcher,
    /// This rank.
    pub rank: usize,
    /// All ranks.
    pub world_size: usize,
    /// This rank on its host.
    pub local_rank: usize,
    /// The libtorch in this process.
    pub libtorch: Libtorch,
    /// libtorch's CUDA part.
    pub cuda_library: CudaLibrary,
    /// GPUs that libtorch sees.
    pub cuda_devices: i64,
    /// NCCL.
    pub nccl: Optional,
    /// The MPI piece and the MPI library under it.
    pub mpi: Optional,
    /// Sum of the entries of A·Aᵀ for A = [[0, 1, 2], [3, 4, 5]], computed by libtorch: 83.
    pub tensor_result: f64,
    /// The collective back end.
    pub backend: String,
    /// Sum of rank + 1 over all ranks, computed by the back end.
    pub all_reduce_result: f64,
}

/// The libtorch in this process.
#[derive(Debug, Serialize, Deserialize)]
pub struct Libtorch {
    /// Its version.
    pub version: String,
    /// Its folder.
    pub path: Option<PathBuf>,
}

/// A library that need not be there.
#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum Optional {
    /// It was loaded.
    Found {
        /// What the library says of itself.
        version: String,
        /// What was loaded.
        path: PathBuf,
    },
    /// It was not.
    Absent {
        /// Why not.
        reason: String,
    },
}

/// Where to look for the libraries that need not be there.
#[derive(Debug)]
pub struct Candidates {
    /// Paths of the MPI piece.
    pub mpi_pieces: Vec<PathBuf>,
    /// A configured NCCL; none for the copy beside libtorch or the system's.
    pub nccl: Option<PathBuf>,
}

/// Looks at everything on this rank, checks the sums, and collects the reports of all ranks.
///
/// # Errors
/// When libtorch or a collective fails or computes a wrong sum. An optional library that is not there is
/// no error.
pub fn self_check(
    topology: &Topology,
    ranks: &dyn Collective,
    cuda_library: CudaLibrary,
    candidates: &Candidates,
) -> Result<Report, TrainerError> {
    let torch = torch_folder();
    let report = RankReport {
        launcher: topology.launcher,
        rank: ranks.rank(),
        world_size: ranks.world_size(),
        local_rank: topology.local_rank,
        libtorch: Libtorch {
            version: torch.as_deref().map_or_else(|| "unknown".to_owned(), torch_version),
            path: torch.clone(),
        },
        cuda_library,
        cuda_devices: Cuda::device_count(),
        nccl: find_nccl(candidates.nccl.as_deref(), torch.as_deref()),
        mpi: find_mpi(&candidates.mpi_pieces),
        tensor_result: tensor_sum()?,
        backend: ranks.name().to_owned(),
        all_reduce_result: sum_over_ranks(ranks)?,
    };
    let all = gather_texts(ranks, &serde_json::to_string(&report)?)?;
    let ranks = all.iter().map(|text| Ok(serde_json::from_str(text)?)).collect::<Result<_, TrainerError>>()?;
    Ok(Report { schema_version: 1, ranks })
}

fn find_nccl(configured: Option<&Path>, torch: Option<&Path>) -> Optional {
    let version = nccl_rs::Nccl::load(&nccl_rs::candidates(configured, torch))
        .and_then(|library| Ok((library.version()?, library.path().to_path_buf())));
    match version {
        Ok((version, path)) => Optional::Found { version: version.to_string(), path },
        Err(error) => Optional::Absent { reason: error.to_string() },
    }
}

fn find_mpi(pieces: &[PathBuf]) -> Optional {
    match MpiPiece::load(pieces) {
        Ok(piece) => Optional::Found { version: piece.library_version(), path: piece.path().to_path_buf() },
        Err(error) => Optional::Absent { reason: error.to_string() },
    }
}

fn tensor_sum() -> Result<f64, TrainerError> {
    let torch = |source| TrainerError::Torch { doing: "multiplying two small matrices", source };
    let matrix = Tensor::from_slice(&[0.0_f32, 1.0, 2.0, 3.0, 4.0, 5.0]).f_view([2, 3]).map_err(torch)?;
    let product = matrix.f_matmul(&matrix.f_transpose(0, 1).map_err(torch)?).map_err(torch)?;
    let found = product.f_sum(Kind::Double).and_then(|sum| sum.f_double_value(&[])).map_err(torch)?;
    expect("a product of two small matrices", found, 83.0)
}

/// Sum of rank + 1 over all ranks.
///
/// # Errors
/// A wrong sum, or ranks that cannot talk.
pub(crate) fn sum_over_ranks(ranks: &dyn Collective) -> Result<f64, TrainerError> {
    let mut sum = [ranks.rank() as f64 + 1.0];
    ranks.all_reduce_sum(BufferMut::F64(&mut sum))?;
    let size = ranks.world_size() as f64;
    expect("a sum over all ranks", sum[0], size * (size + 1.0) / 2.0)
}

fn expect(check: &'static str, found: f64, expected: f64) -> Result<f64, TrainerError> {
    if found == expected { Ok(found) } else { Err(TrainerError::WrongResult { check, found, expected }) }
}

impl Report {
    /// The report for people.
    pub fn text(&self) -> String {
        let mut out = String::new();
        for rank in &self.ranks {
            rank.write(&mut out).expect("invariant: writing to a String cannot fail");
        }
        out
    }
}

impl RankReport {
    fn write(&self, out: &mut String) -> std::fmt::Result {
        writeln!(out, "rank {} of {} (launcher: {})", self.rank, self.world_size, self.launcher)?;
        let path = self.libtorch.path.as_deref().unwrap_or(Path::new("?"));
        writeln!(out, "  libtorch    {} in {}", self.libtorch.version, path.display())?;
        match &self.cuda_library {
            CudaLibrary::Loaded { path } => {
                writeln!(out, "  CUDA        loaded from {}; {} devices", path.display(), self.cuda_devices)?;
            }
            CudaLibrary::Absent { reason } => writeln!(out, "  CUDA        not loaded: {reason}")?,
        }
        for (name, library) in [("NCCL", &self.nccl), ("MPI", &self.mpi)] {
            match library {
                Optional::Found { version, path } => {
                    writeln!(out, "  {name:<11} {version} through {}", path.display())?
                }
                Optional::Absent { reason } => writeln!(out, "  {name:<11} not loaded: {reason}")?,
            }
        }
        writeln!(out, "  tensor      sum of a small matrix product is {}", self.tensor_result)?;
        writeln!(out, "  all-reduce  {} over the back end {}", self.all_reduce_result, self.backend)
    }
}
