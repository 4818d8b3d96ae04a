//! Config errors: one golden file per kind of mistake.
//!
//! `golden/config_errors/KIND.yaml` is the mistake, `KIND.expected` what is printed. First lines `# set: a.b=c` stand
//! for `--set` arguments. A change of wording is accepted with
//! `BLIP2_BLESS=1 cargo test --release -p integration-tests --test config_errors`.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;
use std::path::{Path, PathBuf};

use configs::{ConfigError, Overrides};

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("golden/config_errors")
}

/// The kinds of mistakes, sorted.
fn kinds() -> Vec<String> {
    let mut kinds: Vec<String> = fs::read_dir(folder())
        .unwrap()
        .filter_map(|entry| entry.unwrap().file_name().into_string().unwrap().strip_suffix(".yaml").map(str::to_owned))
        .collect();
    kinds.sort();
    kinds
}

/// The `--set` arguments that the first lines of a file state.
fn overrides(bytes: &[u8]) -> Overrides {
    let text = String::from_utf8_lossy(bytes);
    Overrides::new(text.lines().map_while(|line| line.strip_prefix("# set: ")))
}

/// What loading the file prints, with the folder's name left out.
fn printed(kind: &str) -> String {
    let path = folder().join(format!("{kind}.yaml"));
    let overrides = overrides(&fs::read(&path).unwrap());
    match configs::load(&path, &overrides) {
        Ok(_) => panic!("{kind}.yaml is a correct config"),
        Err(error) => format!("{error}\n").replace(&format!("{}/", folder().display()), ""),
    }
}

#[test]
fn every_kind_of_mistake_prints_what_is_expected() {
    let bless = std::env::var_os("BLIP2_BLESS").is_some();
    let mut differing = Vec::new();
    for kind in kinds() {
        let printed = printed(&kind);
        let path = folder().join(format!("{kind}.expected"));
        if bless {
            fs::write(&path, &printed).unwrap();
        } else if fs::read_to_string(&path).unwrap_or_default() != printed {
            differing.push(format!("--- {kind}.expected differs; printed was\n{printed}"));
        }
    }
    let expectations = fs::read_dir(folder())
        .unwrap()
        .filter(|entry| entry.as_ref().unwrap().path().extension().is_some_and(|extension| extension == "expected"))
        .count();
    assert_eq!(expectations, kinds().len(), "an expectation without its mistake");
    assert!(differing.is_empty(), "{}\nif the change is wanted, run again with BLIP2_BLESS=1", differing.join("\n"));
}

#[test]
fn a_missing_file_names_the_nearest_one() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("vitg_opt2.7b.yaml"), "").unwrap();
    let error = configs::load(folder.path().join("vitg_op2.7b.yaml"), &Overrides::none()).unwrap_err();
    assert!(matches!(error, ConfigError::Unreadable { .. }));
    let message = error.to_string();
    assert!(message.contains("vitg_op2.7b.yaml: cannot read the config"), "{message}");
    assert!(message.contains("did you mean") && message.contains("vitg_opt2.7b.yaml`"), "{message}");
}

#[test]
fn a_folder_is_not_a_config() {
    let folder = tempfile::tempdir().unwrap();
    let message = configs::load(folder.path(), &Overrides::none()).unwrap_err().to_string();
    assert!(message.contains("cannot read the config"), "{message}");
}

#[test]
fn a_huge_file_is_refused_before_it_is_parsed() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("huge.yaml");
    fs::write(&path, "a: 1\n".repeat(400_000)).unwrap();
    let message = configs::load(&path, &Overrides::none()).unwrap_err().to_string();
    assert!(message.contains("found more than 1048576 bytes"), "{message}");
}

#[test]
fn problems_carry_their_place_path_and_advice() {
    let text = configs::preset("tiny").unwrap().replace("patch_size:", "pach_size:");
    let error = configs::load_str("tiny.yaml", &text, &Overrides::none()).unwrap_err();
    let paths: Vec<&str> = error.problems().iter().map(|problem| problem.path.as_str()).collect();
    assert_eq!(paths, ["model.image_encoder.patch_size", "model.image_encoder.pach_size"]);
    assert_eq!(error.problems()[1].suggestion.as_deref(), Some("did you mean `patch_size`?"));
}
