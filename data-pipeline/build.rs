//! Tells the crate which JPEG decoder it is linked with, and warns when that one is slow.

use std::{env, fs, path::Path};

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    // `turbojpeg-sys` names its include directory; a decoder found by other means has none to look into.
    println!("cargo:rerun-if-env-changed=DEP_TURBOJPEG_INCLUDE");
    let include = env::var("DEP_TURBOJPEG_INCLUDE").unwrap_or_default();
    let config = include.split(',').find_map(|dir| fs::read_to_string(Path::new(dir).join("jconfig.h")).ok());
    let decoder = match env::var_os("CARGO_FEATURE_LIBJPEG_TURBO") {
        Some(_) => describe(config.as_deref()),
        None => without_libjpeg(),
    };
    println!("cargo:rustc-env=BLIP2_JPEG_DECODER={decoder}");
}

fn without_libjpeg() -> String {
    println!(
        "cargo:warning=built without libjpeg-turbo: zune-jpeg decodes JPEG, a fifth slower, with pixels that differ \
         from Pillow's by a few levels. To change that, install cmake and build with default features."
    );
    "zune-jpeg (pixels differ from libjpeg-turbo's)".to_owned()
}

fn describe(config: Option<&str>) -> String {
    let Some(config) = config else { return "libjpeg-turbo (version and SIMD unknown)".to_owned() };
    let defined = |name: &str| {
        config.lines().find_map(|line| line.strip_prefix("#define")?.trim().strip_prefix(name)).map(str::trim)
    };
    let version = defined("LIBJPEG_TURBO_VERSION ").unwrap_or("of unknown version");
    if defined("WITH_SIMD").is_some() {
        return format!("libjpeg-turbo {version} with SIMD");
    }
    println!(
        "cargo:warning=libjpeg-turbo is built without SIMD: JPEG decoding will be two to three times slower. \
         Run `make setup`, which brings nasm, then `cargo clean -p turbojpeg-sys` and build again."
    );
    format!("libjpeg-turbo {version} without SIMD")
}
