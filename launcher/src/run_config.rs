//! The configuration that a run is under: what it wrote at its start, or what a launch changed since with leave.

use serde::Deserialize;

/// The configuration that a run begins with.
const FIRST: &str = "config.yaml";

/// A take-over in the run's log; of other entries only that they are none.
#[derive(Deserialize)]
struct Entry {
    kind: String,
    #[serde(default)]
    config: Option<String>,
}

/// The file that names the configuration, from the entries of the run's log, the newest first.
pub fn named_by<'a>(entries: impl Iterator<Item = &'a [u8]>) -> String {
    let mut named = entries.filter_map(|bytes| {
        // What another version wrote names no configuration that this one could read.
        let entry: Entry = serde_json::from_slice(bytes).ok()?;
        entry.config.filter(|_| entry.kind == "take_over")
    });
    named.next().unwrap_or_else(|| FIRST.to_owned())
}
