//! What one rank writes of a checkpoint: some of the trained tensors, and the moments of the chunks that it owns.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::manifest::{MomentsRecord, TensorRecord};
use super::snapshot::Segment;
use super::tensor_file::{Floats, Member, TensorFile};
use crate::error::Result;
use crate::storage::{Content, Hashed, Patience, Storage};

/// The numbers of one rank.
pub(crate) struct Part<'a> {
    /// Which part it is, from 0.
    pub(crate) index: usize,
    /// How many there are.
    pub(crate) of: usize,
    /// Whole tensors, with their values.
    pub(crate) tensors: Vec<(&'a Segment, &'a dyn Floats)>,
    /// The first value of the flat space whose moments these are.
    pub(crate) first: usize,
    /// Their first moments.
    pub(crate) exp_avg: &'a dyn Floats,
    /// Their second moments.
    pub(crate) exp_avg_sq: &'a dyn Floats,
}

/// What was written of a part; rank 0 makes the manifest of all of them.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct PartRecord {
    pub(super) files: BTreeMap<String, Hashed>,
    pub(super) trainable: Vec<TensorRecord>,
    pub(super) moments: Vec<MomentsRecord>,
}

/// `trainable-00002-of-00004.safetensors`.
fn file_name(what: &str, index: usize, of: usize) -> String {
    format!("{what}-{:05}-of-{of:05}.safetensors", index + 1)
}

/// Writes the files of a part into a checkpoint's folder. A part without tensors, or without moments, has no file of them.
///
/// # Errors
/// Errors of the store, as far as `patience` does not wait them out.
pub(crate) fn write(storage: &Storage, folder: &str, part: &Part<'_>, patience: &Patience) -> Result<PartRecord> {
    let mut record = PartRecord::default();
    let mut send = |name: &str, file: &dyn Content| -> Result<()> {
        let hashed = storage.write_hashed(&format!("{folder}/{name}"), file, patience)?;
        record.files.insert(name.to_owned(), hashed);
        Ok(())
    };
    if !part.tensors.is_empty() {
        let name = file_name("trainable", part.index, part.of);
        let members = part.tensors.iter().map(|(segment, values)| Member {
            name: &segment.name,
            shape: &segment.shape,
            values: *values,
        });
        let file = TensorFile::new(members.collect())?;
        send(&name, &file)?;
        let tensor = |((segment, _), at): (&(&Segment, &dyn Floats), &u64)| TensorRecord {
            name: segment.name.clone(),
            shape: segment.shape.clone(),
            file: name.clone(),
            at: *at,
        };
        record.trainable = part.tensors.iter().zip(file.starts()).map(tensor).collect();
    }
    let len = part.exp_avg.len();
    if len > 0 {
        let name = file_name("moments", part.index, part.of);
        let shape = [len];
        let member = |name, values| Member { name, shape: &shape, values };
        let file = TensorFile::new(vec![member("exp_avg", part.exp_avg), member("exp_avg_sq", part.exp_avg_sq)])?;
        send(&name, &file)?;
        let (exp_avg, exp_avg_sq) = (file.starts()[0], file.starts()[1]);
        record.moments = vec![MomentsRecord { file: name, first: part.first, len, exp_avg, exp_avg_sq }];
    }
    Ok(record)
}
