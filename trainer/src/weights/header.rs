//! The header of a safetensors file, read by itself: where each tensor lies, without the tensors.

use std::collections::BTreeMap;
use std::ops::Range;

use safetensors::Dtype;
use serde::Deserialize;

/// Bytes in front of the header that say how long it is.
pub(super) const PREFIX: u64 = 8;
/// The format's own limit.
const LONGEST_HEADER: u64 = 100_000_000;
/// The entry that is no tensor.
const METADATA: &str = "__metadata__";

/// A tensor as its file tells it.
#[derive(Clone, Debug, PartialEq)]
pub struct Entry {
    /// Type of its numbers.
    pub dtype: Dtype,
    /// Shape.
    pub shape: Vec<usize>,
    /// Bytes of the file.
    pub range: Range<u64>,
}

#[derive(Deserialize)]
struct Written {
    dtype: Dtype,
    shape: Vec<usize>,
    data_offsets: [u64; 2],
}

/// How long the header is.
///
/// # Errors
/// When it would not fit into the file.
pub(super) fn length(prefix: [u8; 8], file: u64) -> Result<u64, String> {
    let length = u64::from_le_bytes(prefix);
    if length > LONGEST_HEADER || length > file.saturating_sub(PREFIX) {
        return Err(format!("its header would have {length} bytes, and the file has {file}"));
    }
    Ok(length)
}

/// The tensors of a header: each of the size that its type and shape ask for, one behind the other up to the file's end.
///
/// # Errors
/// When they are not.
pub(super) fn entries(header: &[u8], file: u64) -> Result<BTreeMap<String, Entry>, String> {
    let mut written: BTreeMap<String, serde_json::Value> =
        serde_json::from_slice(header).map_err(|error| format!("its header is no JSON object: {error}"))?;
    written.remove(METADATA);
    let start = PREFIX + header.len() as u64;
    let mut entries = BTreeMap::new();
    for (name, value) in written {
        let Written { dtype, shape, data_offsets: [from, to] } =
            serde_json::from_value(value).map_err(|error| format!("`{name}` is described wrongly: {error}"))?;
        let bytes =
            bytes_of(dtype, &shape).ok_or_else(|| format!("`{name}` has more numbers than can be: {shape:?}"))?;
        if from > to || to - from != bytes || to > file - start {
            let found = format!("`{name}`, {dtype:?} {shape:?}, would lie at bytes {from} to {to} of {}", file - start);
            return Err(format!("{found}; it has {bytes}"));
        }
        entries.insert(name, Entry { dtype, shape, range: start + from..start + to });
    }
    let mut places: Vec<(&Range<u64>, &String)> = entries.iter().map(|(name, entry)| (&entry.range, name)).collect();
    places.sort_by_key(|(range, _)| (range.start, range.end));
    let mut end = start;
    for (range, name) in places {
        if range.start != end {
            let what = if range.start < end { "overlaps the one before it" } else { "leaves a gap before it" };
            return Err(format!("`{name}` {what}"));
        }
        end = range.end;
    }
    if end != file {
        return Err(format!("its tensors end at byte {end}, and the file has {file}"));
    }
    Ok(entries)
}

/// Bytes of a tensor; none when that is no number.
pub(super) fn bytes_of(dtype: Dtype, shape: &[usize]) -> Option<u64> {
    let numbers = shape.iter().try_fold(1_u64, |product, side| product.checked_mul(*side as u64))?;
    numbers.checked_mul(dtype.bitsize() as u64).map(|bits| bits.div_ceil(8))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(json: &str, data: u64) -> Result<BTreeMap<String, Entry>, String> {
        entries(json.as_bytes(), PREFIX + json.len() as u64 + data)
    }

    #[test]
    fn tensors_lie_one_behind_the_other() {
        let json = r#"{"__metadata__":{"format":"pt"},"b":{"dtype":"BF16","shape":[3],"data_offsets":[8,14]},
            "a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}"#;
        let found = read(json, 14).unwrap();
        let start = PREFIX + json.len() as u64;
        assert_eq!(found["b"], Entry { dtype: Dtype::BF16, shape: vec![3], range: start + 8..start + 14 });
        assert!(read(json, 13).unwrap_err().contains("bytes 8 to 14 of 13"));
        assert!(read(json, 15).unwrap_err().contains("the file has"));
    }

    #[test]
    fn what_lies_wrongly_is_refused() {
        let one = |shape: &str, offsets: &str| {
            format!(
                r#"{{"a":{{"dtype":"F32","shape":[1],"data_offsets":[0,4]}},"b":{{"dtype":"F32","shape":{shape},"data_offsets":{offsets}}}}}"#
            )
        };
        for (shape, offsets, part) in [
            ("[1]", "[0,4]", "overlaps"),
            ("[1]", "[2,6]", "overlaps"),
            ("[1]", "[6,10]", "gap"),
            ("[2]", "[4,8]", "it has 8"),
            ("[1]", "[8,4]", "8 to 4"),
            ("[4611686018427387904, 8]", "[4,8]", "more numbers"),
            ("[-1]", "[4,8]", "described wrongly"),
        ] {
            let message = read(&one(shape, offsets), 10).unwrap_err();
            assert!(message.contains(part), "{shape} {offsets}: {message}");
        }
        assert!(read("[]", 0).unwrap_err().contains("no JSON object"));
    }

    #[test]
    fn a_header_longer_than_its_file_is_refused() {
        assert!(length((1_u64 << 60).to_le_bytes(), 1000).unwrap_err().contains("1152921504606846976"));
        assert!(length(993_u64.to_le_bytes(), 1000).is_err());
        assert_eq!(length(992_u64.to_le_bytes(), 1000), Ok(992));
        assert!(length(0_u64.to_le_bytes(), 4).is_ok_and(|length| length == 0));
    }
}
