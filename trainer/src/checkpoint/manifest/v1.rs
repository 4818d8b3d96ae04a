//! Manifests of version 1: one rank had written everything, and the files themselves say where each tensor lies.

use std::collections::BTreeMap;

use safetensors::tensor::{Dtype, Metadata, TensorInfo};
use serde::Deserialize;

use super::{FORMAT_VERSION, Manifest, MomentsRecord, TensorRecord, of_one_part};
use crate::checkpoint::snapshot::{About, Segment};
use crate::error::Result as StoreResult;
use crate::storage::{Hashed, Storage};

const TRAINABLE: &str = "trainable-00001-of-00001.safetensors";
const MOMENTS: &str = "moments-00001-of-00001.safetensors";
/// The most that a header may have, as the safetensors library has it.
const MAX_HEADER: u64 = 100_000_000;

#[derive(Deserialize)]
struct ManifestV1 {
    epoch: u64,
    nonce: String,
    stage_index: usize,
    stage: String,
    step: u64,
    seed: u64,
    samples_seen: u64,
    adamw_count: u64,
    segments: Vec<Segment>,
    frozen: BTreeMap<String, String>,
    facts: BTreeMap<String, String>,
    ledger: serde_json::Value,
    files: BTreeMap<String, FileV1>,
}

#[derive(Deserialize)]
struct FileV1 {
    size: u64,
    sha256: String,
}

/// Reads it as if this version had written it: each file is one part.
pub(super) fn read(bytes: &[u8], storage: &Storage, folder: &str) -> StoreResult<Result<Manifest, String>> {
    let old: ManifestV1 = match serde_json::from_slice(bytes) {
        Ok(old) => old,
        Err(error) => return Ok(Err(format!("not a manifest of version 1 ({error})"))),
    };
    let files: BTreeMap<String, Hashed> =
        old.files.into_iter().map(|(name, FileV1 { size, sha256 })| (name, of_one_part(size, sha256))).collect();
    let mut headers = Vec::new();
    for name in [TRAINABLE, MOMENTS] {
        let Some(size) = files.get(name).map(|file| file.size) else { return Ok(Err(format!("it names no {name}"))) };
        match header(storage, &format!("{folder}/{name}"), size)? {
            Ok(header) => headers.push(header),
            Err(reason) => return Ok(Err(format!("{name}: {reason}"))),
        }
    }
    let place = |header: &Header, file: &str, name: &str| {
        let info = header.metadata.info(name).filter(|info| info.dtype == Dtype::F32);
        let info = info.ok_or_else(|| format!("{file}: found no `{name}` of float32"))?;
        Ok::<(TensorInfo, u64), String>((info.clone(), header.data.saturating_add(info.data_offsets.0 as u64)))
    };
    let tensor = |segment: &Segment| {
        let (info, at) = place(&headers[0], TRAINABLE, &segment.name)?;
        Ok(TensorRecord { name: segment.name.clone(), shape: info.shape, file: TRAINABLE.into(), at })
    };
    Ok((|| {
        let trainable = old.segments.iter().map(tensor).collect::<Result<_, String>>()?;
        let (info, exp_avg) = place(&headers[1], MOMENTS, "exp_avg")?;
        let (other, exp_avg_sq) = place(&headers[1], MOMENTS, "exp_avg_sq")?;
        let [len] = info.shape[..] else { return Err(format!("{MOMENTS}: found {:?}, expected one axis", info.shape)) };
        if other.shape != info.shape {
            return Err(format!("{MOMENTS}: found {:?} and {:?}, expected one shape", info.shape, other.shape));
        }
        let about = About {
            stage_index: old.stage_index,
            stage: old.stage,
            step: old.step,
            seed: old.seed,
            samples_seen: old.samples_seen,
            adamw_count: old.adamw_count,
            flat_len: len,
            segments: old.segments,
            frozen: old.frozen,
            facts: old.facts,
            ledger: old.ledger,
            metrics: BTreeMap::new(),
        };
        let moments = vec![MomentsRecord { file: MOMENTS.into(), first: 0, len, exp_avg, exp_avg_sq }];
        Ok(Manifest {
            format_version: FORMAT_VERSION,
            epoch: old.epoch,
            nonce: old.nonce,
            about,
            trainable,
            moments,
            files,
        })
    })())
}

/// The header of a safetensors file.
struct Header {
    metadata: Metadata,
    /// Where the data begin.
    data: u64,
}

/// Reads a header. It is not verified here: what it leads to is read and verified with the whole file.
fn header(storage: &Storage, name: &str, expected: u64) -> StoreResult<Result<Header, String>> {
    match storage.size(name)? {
        Some(size) if size == expected && size >= 8 => {}
        Some(size) => return Ok(Err(format!("found {size} bytes, expected {expected}"))),
        None => return Ok(Err("the file is missing".into())),
    }
    let start = storage.read_range(name, 0..8)?;
    let mut len = [0; 8];
    len.copy_from_slice(&start);
    let len = u64::from_le_bytes(len);
    if len > MAX_HEADER.min(expected - 8) {
        return Ok(Err(format!("found a header of {len} bytes in a file of {expected}")));
    }
    let whole = storage.read_range(name, 0..8 + len)?;
    let metadata = serde_json::from_slice(&whole[8..]).map_err(|error| format!("not a safetensors file ({error})"));
    Ok(metadata.map(|metadata| Header { metadata, data: 8 + len }))
}
