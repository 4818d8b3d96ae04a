//! `manifest.json`: what a checkpoint holds, with the size and sha256 of each of its files.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::snapshot::{NamedArray, Segment, Snapshot};

/// The version of the manifest that this code writes and reads.
pub const FORMAT_VERSION: u32 = 1;
/// The manifest's name in a checkpoint's folder.
pub(super) const MANIFEST: &str = "manifest.json";

/// A checkpoint, without its tensors.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Manifest {
    pub(super) format_version: u32,
    pub(super) epoch: u64,
    pub(super) nonce: String,
    pub(super) stage_index: usize,
    pub(super) stage: String,
    pub(super) step: u64,
    pub(super) seed: u64,
    pub(super) samples_seen: u64,
    pub(super) adamw_count: u64,
    /// The trained tensors in the order of the snapshot.
    pub(super) trainable: Vec<TensorRecord>,
    pub(super) segments: Vec<Segment>,
    pub(super) frozen: BTreeMap<String, String>,
    pub(super) facts: BTreeMap<String, String>,
    pub(super) ledger: serde_json::Value,
    pub(super) files: BTreeMap<String, FileRecord>,
}

/// Name and shape of a trained tensor.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct TensorRecord {
    pub(super) name: String,
    pub(super) shape: Vec<usize>,
}

/// What a file must be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct FileRecord {
    /// Bytes.
    pub(super) size: u64,
    pub(super) sha256: String,
}

impl FileRecord {
    pub(super) fn of(bytes: &[u8]) -> Self {
        Self { size: bytes.len() as u64, sha256: sha256(bytes) }
    }
}

/// sha256 in hexadecimal digits.
pub(super) fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

impl Manifest {
    /// The manifest of `snapshot` whose files are `files`.
    pub(super) fn new(snapshot: &Snapshot, epoch: u64, nonce: &str, files: BTreeMap<String, FileRecord>) -> Self {
        let record = |array: &NamedArray| TensorRecord { name: array.name.clone(), shape: array.shape.clone() };
        Self {
            format_version: FORMAT_VERSION,
            epoch,
            nonce: nonce.to_owned(),
            stage_index: snapshot.stage_index,
            stage: snapshot.stage.clone(),
            step: snapshot.step,
            seed: snapshot.seed,
            samples_seen: snapshot.samples_seen,
            adamw_count: snapshot.adamw_count,
            trainable: snapshot.trainable.iter().map(record).collect(),
            segments: snapshot.segments.clone(),
            frozen: snapshot.frozen.clone(),
            facts: snapshot.facts.clone(),
            ledger: snapshot.ledger.clone(),
            files,
        }
    }

    /// Reads a manifest; the error is a reason for people.
    pub(super) fn parse(bytes: &[u8]) -> Result<Self, String> {
        #[derive(Deserialize)]
        struct Version {
            format_version: u32,
        }
        let found: Version = serde_json::from_slice(bytes).map_err(|error| format!("not a manifest ({error})"))?;
        if found.format_version != FORMAT_VERSION {
            return Err(format!("found format_version {}, expected {FORMAT_VERSION}", found.format_version));
        }
        serde_json::from_slice(bytes).map_err(|error| format!("not a manifest of version {FORMAT_VERSION} ({error})"))
    }

    /// The snapshot with these tensors.
    pub(super) fn into_snapshot(self, tensors: Tensors) -> Snapshot {
        Snapshot {
            stage_index: self.stage_index,
            stage: self.stage,
            step: self.step,
            seed: self.seed,
            samples_seen: self.samples_seen,
            adamw_count: self.adamw_count,
            trainable: tensors.trainable,
            exp_avg: tensors.exp_avg,
            exp_avg_sq: tensors.exp_avg_sq,
            segments: self.segments,
            frozen: self.frozen,
            facts: self.facts,
            ledger: self.ledger,
        }
    }
}

/// The tensors of a checkpoint.
#[derive(Debug, Default)]
pub(super) struct Tensors {
    pub(super) trainable: Vec<NamedArray>,
    pub(super) exp_avg: Vec<f32>,
    pub(super) exp_avg_sq: Vec<f32>,
}
