//! The first directory of a TIFF or BigTIFF file: numbered fields with lists of numbers.

use super::super::ImageError;

/// Lengths and positions within a file.
struct Widths {
    /// Bytes of a position.
    position: usize,
    /// Bytes of the number of entries.
    count: usize,
    /// Position of the first directory's position.
    first: usize,
}

const CLASSIC: Widths = Widths { position: 4, count: 2, first: 4 };
const BIG: Widths = Widths { position: 8, count: 8, first: 8 };

/// The fields of one directory, of which no value is read before it is asked for.
pub(super) struct Directory<'a> {
    bytes: &'a [u8],
    /// Whether the most significant byte of a number comes first.
    pub(super) is_big_endian: bool,
    entries: Vec<Entry>,
}

struct Entry {
    tag: u16,
    /// Bytes of a value; 0 for values that are no unsigned integers.
    size: usize,
    count: usize,
    /// Position of the values.
    at: usize,
}

impl<'a> Directory<'a> {
    /// # Errors
    /// `Truncated` when the directory does not lie within the file.
    pub(super) fn read(bytes: &'a [u8]) -> Result<Self, ImageError> {
        let mut directory = Self { bytes, is_big_endian: bytes.starts_with(b"M"), entries: Vec::new() };
        let widths = if directory.number_at(2, 2)? == 43 { BIG } else { CLASSIC };
        let start = directory.position_at(widths.first, widths.position)?;
        let count = directory.position_at(start, widths.count)?;
        let entry_bytes = 4 + 2 * widths.position;
        let table = start.saturating_add(widths.count);
        // A count that is a lie must not reserve memory.
        if count.saturating_mul(entry_bytes) > bytes.len().saturating_sub(table) {
            return Err(ImageError::Truncated);
        }
        for entry in (0..count).map(|index| table + index * entry_bytes) {
            let kind = directory.number_at(entry + 2, 2)?;
            let count = directory.position_at(entry + 4, widths.position)?;
            // BYTE and UNDEFINED, SHORT, LONG, LONG8.
            let size = match kind {
                1 | 7 => 1,
                3 => 2,
                4 => 4,
                16 => 8,
                _ => 0,
            };
            let place = entry + 4 + widths.position;
            let is_inside = count.saturating_mul(size) <= widths.position;
            let at = if is_inside { place } else { directory.position_at(place, widths.position)? };
            directory.entries.push(Entry { tag: directory.number_at(entry, 2)? as u16, size, count, at });
        }
        Ok(directory)
    }

    /// All values of a field; nothing when the file does not have it.
    ///
    /// # Errors
    /// `Truncated` when the values do not lie within the file, `Corrupt` when they are no unsigned integers.
    pub(super) fn numbers(&self, tag: u16) -> Result<Option<Vec<u64>>, ImageError> {
        let Some(entry) = self.entry(tag)? else { return Ok(None) };
        let end = entry.count.checked_mul(entry.size).and_then(|length| entry.at.checked_add(length));
        let values = end.and_then(|end| self.bytes.get(entry.at..end)).ok_or(ImageError::Truncated)?;
        Ok(Some(values.chunks_exact(entry.size).map(|value| self.number(value)).collect()))
    }

    /// The first value of a field; nothing when the file does not have it, or has no value of it.
    ///
    /// # Errors
    /// Those of [`numbers`](Self::numbers).
    pub(super) fn first(&self, tag: u16) -> Result<Option<u64>, ImageError> {
        match self.entry(tag)? {
            Some(entry) if entry.count > 0 => self.number_at(entry.at, entry.size).map(Some),
            _ => Ok(None),
        }
    }

    /// The bytes of a field; none when the file does not have it.
    ///
    /// # Errors
    /// Those of [`numbers`](Self::numbers).
    pub(super) fn bytes(&self, tag: u16) -> Result<&'a [u8], ImageError> {
        match self.entry(tag)? {
            Some(entry) if entry.size == 1 => {
                self.bytes.get(entry.at..entry.at.saturating_add(entry.count)).ok_or(ImageError::Truncated)
            }
            Some(_) => Err(ImageError::Corrupt(format!("the TIFF field {tag} holds no bytes"))),
            None => Ok(&[]),
        }
    }

    fn entry(&self, tag: u16) -> Result<Option<&Entry>, ImageError> {
        match self.entries.iter().find(|entry| entry.tag == tag) {
            Some(entry) if entry.size == 0 => {
                Err(ImageError::Corrupt(format!("the TIFF field {tag} holds no unsigned integers")))
            }
            entry => Ok(entry),
        }
    }

    fn position_at(&self, at: usize, size: usize) -> Result<usize, ImageError> {
        // What does not fit lies beyond any file.
        Ok(usize::try_from(self.number_at(at, size)?).unwrap_or(usize::MAX))
    }

    fn number_at(&self, at: usize, size: usize) -> Result<u64, ImageError> {
        let bytes = self.bytes.get(at..at.saturating_add(size)).ok_or(ImageError::Truncated)?;
        Ok(self.number(bytes))
    }

    fn number(&self, bytes: &[u8]) -> u64 {
        let append = |number: u64, byte: &u8| number << 8 | u64::from(*byte);
        if self.is_big_endian { bytes.iter().fold(0, append) } else { bytes.iter().rev().fold(0, append) }
    }
}
