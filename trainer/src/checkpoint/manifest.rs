//! `manifest.json`: what a checkpoint holds, where each number lies, and size and sha256 of each of its files.

mod v1;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::part::PartRecord;
use super::snapshot::About;
use crate::error::Result as StoreResult;
use crate::storage::{Hashed, Storage};

/// The version of the manifest that this code writes. It reads that one and every older one, back to the first.
pub const FORMAT_VERSION: u32 = 2;
/// The manifest's name in a checkpoint's folder.
pub(super) const MANIFEST: &str = "manifest.json";
/// Says in which file each trained tensor lies, as Hugging Face does.
pub(super) const TRAINABLE_INDEX: &str = "trainable.safetensors.index.json";

/// A checkpoint, without its numbers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Manifest {
    pub(super) format_version: u32,
    pub(super) epoch: u64,
    pub(super) nonce: String,
    #[serde(flatten)]
    pub(super) about: About,
    /// Where each trained tensor lies.
    pub(super) trainable: Vec<TensorRecord>,
    /// Where the moments of each range of the flat space lie, in its order.
    pub(super) moments: Vec<MomentsRecord>,
    pub(super) files: BTreeMap<String, Hashed>,
}

/// A trained tensor.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct TensorRecord {
    pub(super) name: String,
    pub(super) shape: Vec<usize>,
    /// The file that has it.
    pub(super) file: String,
    /// Its first byte there; values are f32, the lowest byte first.
    pub(super) at: u64,
}

impl TensorRecord {
    /// Its bytes in its file.
    pub(super) fn len(&self) -> u64 {
        4 * self.shape.iter().product::<usize>() as u64
    }
}

/// The moments of a range of the flat space.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct MomentsRecord {
    /// The file that has them.
    pub(super) file: String,
    /// The first value of the range.
    pub(super) first: usize,
    /// Values in it.
    pub(super) len: usize,
    /// The first byte of the first moments in the file.
    pub(super) exp_avg: u64,
    /// The first byte of the second moments.
    pub(super) exp_avg_sq: u64,
}

/// What a file in memory must be: one part.
pub(super) fn hashed(bytes: &[u8]) -> Hashed {
    of_one_part(bytes.len() as u64, sha256(bytes))
}

fn of_one_part(size: u64, sha256: String) -> Hashed {
    Hashed { size, part_bytes: size.max(1), parts: if size > 0 { vec![sha256.clone()] } else { Vec::new() }, sha256 }
}

/// Whether the sums are those of all parts.
fn check_parts(name: &str, file: &Hashed) -> Result<(), String> {
    let expected = file.size.checked_div(file.part_bytes).map(|_| file.size.div_ceil(file.part_bytes));
    let found = file.parts.len() as u64;
    match expected == Some(found) {
        true => Ok(()),
        false => Err(format!(
            "{name}: found sums of {found} parts of {} bytes, expected those of {} bytes",
            file.part_bytes, file.size
        )),
    }
}

/// sha256 in hexadecimal digits.
pub(super) fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

impl Manifest {
    /// The manifest of a state that was written in these parts.
    pub(super) fn new(about: About, epoch: u64, nonce: &str, parts: Vec<PartRecord>) -> Self {
        let mut manifest = Self {
            format_version: FORMAT_VERSION,
            epoch,
            nonce: nonce.to_owned(),
            about,
            trainable: Vec::new(),
            moments: Vec::new(),
            files: BTreeMap::new(),
        };
        for PartRecord { files, trainable, moments } in parts {
            manifest.files.extend(files);
            manifest.trainable.extend(trainable);
            manifest.moments.extend(moments);
        }
        manifest
    }

    /// The bytes of [`TRAINABLE_INDEX`].
    pub(super) fn trainable_index(&self) -> serde_json::Result<Vec<u8>> {
        let total: u64 = self.trainable.iter().map(TensorRecord::len).sum();
        let map: BTreeMap<&str, &str> = self.trainable.iter().map(|it| (it.name.as_str(), it.file.as_str())).collect();
        serde_json::to_vec_pretty(&serde_json::json!({ "metadata": { "total_size": total }, "weight_map": map }))
    }

    /// Reads a manifest of this version or an older one, whose files lie in `folder`. The inner error is a reason for
    /// people.
    ///
    /// # Errors
    /// Errors of the store: older versions leave something to the headers of the files.
    pub(super) fn read(bytes: &[u8], storage: &Storage, folder: &str) -> StoreResult<Result<Self, String>> {
        let manifest = match version(bytes) {
            Ok(1) => v1::read(bytes, storage, folder)?,
            Ok(FORMAT_VERSION) => serde_json::from_slice(bytes)
                .map_err(|error| format!("not a manifest of version {FORMAT_VERSION} ({error})")),
            Ok(other) => Err(format!(
                "found format_version {other}, expected 1 to {FORMAT_VERSION}: a newer version of this program has written it"
            )),
            Err(reason) => Err(reason),
        };
        Ok(manifest.and_then(|manifest: Self| manifest.check().map(|()| manifest)))
    }

    /// Checks that all places lie in their files, that every trained tensor is there, and all moments, once.
    fn check(&self) -> Result<(), String> {
        self.about.check()?;
        self.files.iter().try_for_each(|(name, file)| check_parts(name, file))?;
        let inside = |file: &str, at: u64, len: u64| {
            let size = self.files.get(file).map(|file| file.size);
            match size.filter(|size| at.checked_add(len).is_some_and(|end| end <= *size)) {
                Some(_) => Ok(()),
                None => Err(format!("found {len} bytes at {at} of {file}, expected a place in its {size:?} bytes")),
            }
        };
        let named: BTreeMap<&str, &TensorRecord> = self.trainable.iter().map(|it| (it.name.as_str(), it)).collect();
        if named.len() != self.trainable.len() || named.len() != self.about.segments.len() {
            let (found, expected) = (self.trainable.len(), self.about.segments.len());
            return Err(format!("found {found} tensors, expected {expected}, one for each segment"));
        }
        for segment in &self.about.segments {
            match named.get(segment.name.as_str()) {
                Some(record) if record.shape == segment.shape => inside(&record.file, record.at, record.len())?,
                found => {
                    return Err(format!("found {found:?} for `{}`, expected shape {:?}", segment.name, segment.shape));
                }
            }
        }
        let mut end = 0;
        let mut moments: Vec<&MomentsRecord> = self.moments.iter().collect();
        moments.sort_by_key(|it| it.first);
        for MomentsRecord { file, first, len, exp_avg, exp_avg_sq } in moments {
            if *first != end || *len > self.about.flat_len - end {
                return Err(format!("found moments of {len} values from {first} on, expected them from {end} on"));
            }
            let bytes = (*len as u64).saturating_mul(4);
            inside(file, *exp_avg, bytes)?;
            inside(file, *exp_avg_sq, bytes)?;
            end += len;
        }
        if end != self.about.flat_len {
            return Err(format!("found moments of {end} values, expected {}", self.about.flat_len));
        }
        Ok(())
    }
}

/// The version of a manifest; the error is a reason for people.
fn version(bytes: &[u8]) -> Result<u32, String> {
    #[derive(Deserialize)]
    struct Version {
        format_version: u32,
    }
    let found: Version = serde_json::from_slice(bytes).map_err(|error| format!("not a manifest ({error})"))?;
    Ok(found.format_version)
}
