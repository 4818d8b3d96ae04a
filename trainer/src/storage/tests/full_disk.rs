//! A disk that is really full: a small tmpfs in a mount namespace of its own.

use std::io::Write;
use std::process::Command;

use super::*;

/// Set where the test runs again inside of the namespace, to the folder that is a small disk there.
const INSIDE: &str = "BLIP2_TEST_FULL_DISK";
const NAME: &str = "storage::tests::full_disk::a_full_disk_is_waited_out_and_no_torn_file_stands";

#[test]
fn a_full_disk_is_waited_out_and_no_torn_file_stands() {
    if let Ok(folder) = std::env::var(INSIDE) {
        return on_small_disk(Path::new(&folder));
    }
    let folder = tempfile::tempdir().unwrap();
    let mount = r#"mount -t tmpfs -o size=4m none "$0" || exit 77; exec "$@""#;
    let mut command = Command::new("unshare");
    command.args(["-Urm", "sh", "-c", mount]).arg(folder.path()).arg(std::env::current_exe().unwrap());
    command.args([NAME, "--exact", "--nocapture"]).env(INSIDE, folder.path());
    let skipped = match command.output() {
        Ok(output) if output.status.success() => {
            let text = String::from_utf8_lossy(&output.stdout);
            assert!(text.contains("1 passed"), "{text}");
            return;
        }
        Ok(output) if output.status.code() == Some(101) => {
            panic!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        }
        Ok(output) => String::from_utf8_lossy(&output.stderr).trim().to_owned(),
        Err(error) => error.to_string(),
    };
    let line = format!("SKIPPED {NAME}: needs unshare and leave to mount a tmpfs: {skipped}\n");
    std::io::stderr().write_all(line.as_bytes()).unwrap();
}

fn on_small_disk(folder: &Path) {
    let place = Location::parse(folder.join("run").to_str().unwrap()).unwrap();
    // Parts smaller and larger than what is left.
    for part_bytes in [100_000, 900_000] {
        let storage = Storage::at(place.clone()).unwrap().with_parts_of(part_bytes);
        let (ballast, content) = (folder.join("ballast"), bytes(2 << 20));
        std::fs::write(&ballast, vec![0; 3 << 20]).unwrap();

        let error = storage.write_hashed("step/file", &content, &Patience::none()).unwrap_err();
        assert!(error.to_string().contains("The disk is full"), "{error}");
        assert_eq!(files(folder), ["ballast"]);

        let (patience, _, said) = patience();
        std::thread::scope(|scope| {
            scope.spawn(|| {
                std::thread::sleep(Duration::from_millis(200));
                assert!(!folder.join("run/step/file").exists(), "it stands although it cannot be whole");
                std::fs::remove_file(&ballast).unwrap();
            });
            let hashed = storage.write_hashed("step/file", &content, &patience).unwrap();
            assert_eq!(hashed.sha256, sha256(&content));
        });
        assert_eq!(storage.read("step/file").unwrap().unwrap(), content);
        assert_eq!(files(folder), ["file"]);
        let said = said.lock().unwrap();
        assert!(said.len() == 2 && said[0].contains("No space left on device"), "{said:?}");
        storage.delete_folder("step", "file").unwrap();
    }
}
