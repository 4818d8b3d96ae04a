//! Lets `blip2-rank` and every test of this crate find libtorch without LD_LIBRARY_PATH, and compiles the C++ shim.

use std::env;
use std::path::Path;

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    // In a package: bin/blip2-rank beside lib/torch/lib (and lib/nvidia, which libtorch finds by itself).
    println!("cargo:rustc-link-arg=-Wl,-rpath,$ORIGIN/../lib/torch/lib");
    // While developing: the libtorch that torch-sys was built against.
    if let Ok(folder) = env::var("DEP_TCH_LIBTORCH_LIB") {
        println!("cargo:rustc-link-arg=-Wl,-rpath,{folder}");
        compile_shim(&Path::new(&folder).with_file_name("include"));
    }
}

/// libtorch's headers warn about themselves: they are the system's, whose warnings nobody reads.
fn compile_shim(include: &Path) {
    println!("cargo:rerun-if-changed=shim/shim.cpp");
    cc::Build::new()
        .cpp(true)
        .std("c++17")
        .warnings(false)
        .flag("-isystem")
        .flag(include)
        .file("shim/shim.cpp")
        .compile("blip2_shim");
}
