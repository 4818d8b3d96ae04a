//! Lets the MPI piece find the MPI it was built against without LD_LIBRARY_PATH: asks `$MPICC -show`
//! for the library folders and puts them into the rpath.

use std::env;
use std::process::Command;

fn main() {
    println!("cargo:rerun-if-env-changed=MPICC");
    println!("cargo:rerun-if-changed=build.rs");
    // In a package that brings an MPI along: lib/libblip2_mpi.so beside lib/openmpi.
    println!("cargo:rustc-link-arg=-Wl,-rpath,$ORIGIN/openmpi/lib");
    let mpicc = env::var("MPICC").unwrap_or_else(|_| "mpicc".to_owned());
    // A site whose MPI comes from pkg-config or Cray's compiler driver has no wrapper; its loader
    // configuration finds the library there.
    let Ok(shown) = Command::new(&mpicc).arg("-show").output() else {
        println!("cargo:warning={mpicc} could not be run; the MPI piece gets no rpath");
        return;
    };
    let line = String::from_utf8_lossy(&shown.stdout).into_owned();
    for folder in line.split_whitespace().filter_map(|word| word.strip_prefix("-L")) {
        println!("cargo:rustc-link-arg=-Wl,-rpath,{folder}");
    }
}
