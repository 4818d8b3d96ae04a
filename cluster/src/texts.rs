//! Texts between ranks, over any back end.

use crate::{ClusterError, Collective};

/// The text of every rank, in rank order; they may differ in length.
///
/// # Errors
/// When the back end fails.
pub fn gather_texts(ranks: &dyn Collective, own: &str) -> Result<Vec<String>, ClusterError> {
    let lengths = ranks.all_gather(&(own.len() as u64).to_le_bytes())?;
    let length = |bytes: &[u8]| bytes.try_into().map_or(0, |bytes| u64::from_le_bytes(bytes) as usize);
    let lengths: Vec<usize> = lengths.chunks_exact(8).map(length).collect();
    let longest = lengths.iter().copied().max().unwrap_or(0);
    let mut padded = own.as_bytes().to_vec();
    padded.resize(longest, 0);
    let all = ranks.all_gather(&padded)?;
    let text = |(rank, length): (usize, &usize)| {
        let bytes = &all[rank * longest..rank * longest + length];
        String::from_utf8_lossy(bytes).into_owned()
    };
    Ok(lengths.iter().enumerate().map(text).collect())
}

/// The text of rank 0.
///
/// # Errors
/// When the back end fails.
pub fn broadcast_text(ranks: &dyn Collective, text: &str) -> Result<String, ClusterError> {
    let mut length = (text.len() as u64).to_le_bytes();
    ranks.broadcast(&mut length, 0)?;
    let mut bytes = text.as_bytes().to_vec();
    bytes.resize(u64::from_le_bytes(length) as usize, 0);
    ranks.broadcast(&mut bytes, 0)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Single, Threads};

    #[test]
    fn texts_of_any_length_arrive() {
        assert_eq!(gather_texts(&Single, "").unwrap(), [""]);
        std::thread::scope(|scope| {
            for ranks in Threads::world(3) {
                scope.spawn(move || {
                    let own = "é".repeat(ranks.rank());
                    assert_eq!(gather_texts(&ranks, &own).unwrap(), ["", "é", "éé"]);
                    let text = broadcast_text(&ranks, if ranks.rank() == 0 { "of rank 0" } else { "another" });
                    assert_eq!(text.unwrap(), "of rank 0");
                    ranks.finish().unwrap();
                });
            }
        });
    }
}
