//! Ranks in a container image: the words that stand before their program, or before srun's.

use std::path::Path;

use configs::Container;

/// What runs the rank's program inside an Apptainer image. `bound` are folders that the ranks need at the same path.
pub fn apptainer(image: &str, gpus: bool, bound: &[&Path]) -> Vec<String> {
    let mut words = vec!["apptainer".to_owned(), "exec".to_owned()];
    if gpus {
        words.push("--nv".to_owned());
    }
    for folder in bound {
        words.extend(["--bind".to_owned(), folder.display().to_string()]);
    }
    words.push(image.to_owned());
    words
}

/// srun's options for a Pyxis image.
pub fn pyxis(image: &str, bound: &[&Path], work: &Path) -> Vec<String> {
    let mounts: Vec<String> = bound.iter().map(|folder| format!("{0}:{0}", folder.display())).collect();
    vec![
        format!("--container-image={image}"),
        format!("--container-mounts={}", mounts.join(",")),
        format!("--container-workdir={}", work.display()),
    ]
}

/// Words for either: those before the rank's program, and those for srun.
pub fn words(
    container: Option<Container<'_>>,
    gpus: bool,
    rank_program: &Path,
    work: &Path,
) -> (Vec<String>, Vec<String>) {
    // The package (bin/ and lib/) or the build folder of the rank, and where the run is started.
    let package = rank_program.ancestors().nth(2).filter(|folder| folder.is_absolute() && folder.parent().is_some());
    let mut bound: Vec<&Path> = package.into_iter().chain([work]).collect();
    bound.dedup();
    match container {
        None => (Vec::new(), Vec::new()),
        Some(Container::Apptainer(image)) => (apptainer(image, gpus, &bound), Vec::new()),
        Some(Container::Pyxis(image)) => (Vec::new(), pyxis(image, &bound, work)),
    }
}
