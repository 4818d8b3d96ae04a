//! The configuration that a run is under: what it wrote at its start, or what a launch changed since with leave.

use configs::{Overrides, Run};
use data_pipeline::Result;
use data_pipeline::store::Location;
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

/// The configuration in force; `None` where none is there, or another version of this program wrote it.
///
/// # Errors
/// A store that fails.
pub async fn in_force(output: &Location) -> Result<Option<Run>> {
    let mut name = FIRST.to_owned();
    for (entry, _) in output.child("log").list(".json").await?.into_iter().rev() {
        let bytes = entry.read_if_there().await?.unwrap_or_default();
        // What another version wrote names no configuration that this one could read.
        if let Ok(Entry { kind, config: Some(config) }) = serde_json::from_slice(&bytes)
            && kind == "take_over"
        {
            name = config;
            break;
        }
    }
    let yaml = output.child(&name).read_if_there().await?;
    Ok(yaml.and_then(|yaml| configs::load_str(&name, &String::from_utf8_lossy(&yaml), &Overrides::none()).ok()))
}
