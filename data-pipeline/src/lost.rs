//! What the outside world took away, and when: row groups that could not be read although they are catalogued.
//!
//! Which samples a step sees may not depend on whether a store answered. A row group that cannot be read is given up for
//! one window (its rows are replaced by others of that window), and this is written down before the step that it touches
//! is delivered. Whoever computes that step again, after a restart or on other ranks, reads the record and gives it up
//! too, even when the store is well again.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use object_store::{PutMode, PutOptions};
use serde::{Deserialize, Serialize};

use crate::error::{DataError, Result};
use crate::order::WindowId;
use crate::store::Location;

/// A row group that was given up in one window.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LostRowGroup {
    /// Name of the source.
    pub source: String,
    /// The window.
    #[serde(flatten)]
    pub window: WindowId,
    /// The row group of the catalogue.
    pub row_group: usize,
    /// Why, in a word that can be counted.
    pub reason: String,
    /// The error in full.
    pub error: String,
    /// The first step that needs the window.
    pub step: u64,
}

impl LostRowGroup {
    fn key(&self) -> Key {
        (self.source.clone(), self.window.clone(), self.row_group)
    }

    fn name(&self) -> String {
        let WindowId { epoch, lane, number } = self.window;
        format!("{}-epoch{epoch}-lane{lane}-window{number}-group{}.json", self.source, self.row_group)
    }
}

type Key = (String, WindowId, usize);

/// The row groups that a run has lost.
#[derive(Default)]
pub struct LostRowGroups {
    place: Option<Location>,
    known: Mutex<BTreeMap<Key, LostRowGroup>>,
}

impl LostRowGroups {
    /// Those that are written below `place`, where later ones go too.
    ///
    /// # Errors
    /// When they cannot be read: without them a step could not be computed again.
    pub async fn open(place: &Location) -> Result<Self> {
        let mut known = BTreeMap::new();
        for (object, _) in place.list(".json").await? {
            let broken = |error: serde_json::Error| DataError::Catalog {
                uri: object.uri().into(),
                problem: format!("a lost row group was recorded here, and cannot be read: {error}"),
                advice: "Restore the file; without it the run cannot be continued with the same samples",
            };
            let found: LostRowGroup = serde_json::from_slice(&object.read().await?).map_err(broken)?;
            known.insert(found.key(), found);
        }
        Ok(Self { place: Some(place.clone()), known: Mutex::new(known) })
    }

    /// One that was recorded before.
    pub fn find(&self, source: &str, window: &WindowId, row_group: usize) -> Option<LostRowGroup> {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.get(&(source.to_owned(), window.clone(), row_group)).cloned()
    }

    /// Writes one down; returns when it is durable. Of two launches that record the same one the first counts.
    ///
    /// # Errors
    /// When it cannot be written.
    pub async fn record(&self, lost: LostRowGroup) -> Result<()> {
        if let Some(place) = &self.place {
            let place = place.child(&lost.name());
            let text = serde_json::to_vec_pretty(&lost).map_err(|error| DataError::Setting(error.to_string()))?;
            let create = PutOptions::from(PutMode::Create);
            match place.store.put_opts(&place.path, text.into(), create).await {
                Ok(_) | Err(object_store::Error::AlreadyExists { .. }) => (),
                Err(error) => return Err(place.error("write", error)),
            }
        }
        self.known.lock().unwrap_or_else(PoisonError::into_inner).insert(lost.key(), lost);
        Ok(())
    }
}

/// The word under which an error that costs a row group is counted; nothing for errors that are no property of one.
pub fn reason(error: &DataError) -> Option<&'static str> {
    match error {
        DataError::Store { .. } => Some("shard_unavailable"),
        DataError::Changed { .. } => Some("shard_changed"),
        DataError::Parquet { .. } | DataError::Tar { .. } | DataError::NotRead { .. } => Some("shard_damaged"),
        DataError::Schema { .. } => Some("shard_columns"),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::reasons::ROW_GROUP_REASONS;

    #[test]
    fn every_error_that_costs_a_row_group_has_its_reason() {
        let (uri, problem) = (String::new(), String::new());
        let parquet = Arc::new(parquet::errors::ParquetError::General(String::new()));
        let missing = object_store::Error::NotFound { path: String::new(), source: "gone".into() };
        let errors = [
            DataError::Store { uri: uri.clone(), action: "read", advice: "", source: Box::new(missing) },
            DataError::Changed { uri: uri.clone(), what: String::new() },
            DataError::Parquet { uri: uri.clone(), source: parquet },
            DataError::Tar { uri: uri.clone(), problem: problem.clone() },
            DataError::NotRead { uri: uri.clone(), problem: problem.clone(), advice: "" },
            DataError::Schema { uri, problem, columns: String::new() },
        ];
        let given: std::collections::BTreeSet<&str> = errors.iter().filter_map(reason).collect();
        assert_eq!(given, ROW_GROUP_REASONS.iter().map(|(name, _)| *name).collect());
        assert_eq!(reason(&DataError::Stopped), None, "not an error of a row group");
    }
}
