//! Lets `blip2-rank` and every test of this crate find libtorch without LD_LIBRARY_PATH.

use std::env;

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    // In a package: bin/blip2-rank beside lib/torch/lib (and lib/nvidia, which libtorch finds by itself).
    println!("cargo:rustc-link-arg=-Wl,-rpath,$ORIGIN/../lib/torch/lib");
    // While developing: the libtorch that torch-sys was built against.
    if let Ok(folder) = env::var("DEP_TCH_LIBTORCH_LIB") {
        println!("cargo:rustc-link-arg=-Wl,-rpath,{folder}");
    }
}
