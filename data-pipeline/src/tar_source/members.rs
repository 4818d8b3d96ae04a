//! Members of a tar, header by header: ustar, pax (`path`, `size`) and GNU long names, which is what Python's `tarfile`, GNU
//! tar and WebDataset write.

use bytes::Bytes;

/// A tar's unit.
pub(super) const BLOCK: usize = 512;
/// Members above this size are no samples; a shard that has one is damaged as a rule.
const LARGEST_MEMBER: u64 = 1 << 30;

/// The beginning of some bytes of a tar.
#[derive(Debug, PartialEq)]
pub(super) enum Step {
    /// A file with its content; `used` bytes belong to it, padding included.
    File { name: String, content: Bytes, used: usize },
    /// Something else of `used` bytes.
    Other { used: usize },
    /// More bytes are needed.
    More,
    /// The end mark.
    End,
    /// No tar.
    Broken(&'static str),
}

/// Reads members one after another, remembering names that stand in members of their own.
#[derive(Default)]
pub(super) struct Members {
    name: Option<String>,
    size: Option<u64>,
    /// Bytes at the end that are not the tar's: it may end without the padding of its last member.
    pub(super) padding: usize,
}

impl Members {
    pub(super) fn step(&mut self, bytes: &Bytes) -> Step {
        let own = bytes.len() - self.padding.min(bytes.len());
        let Some(header) = bytes[..own].get(..BLOCK) else { return Step::More };
        if header.iter().all(|byte| *byte == 0) {
            return Step::End;
        }
        if !has_right_sum(header) {
            return Step::Broken("a header's sum is wrong");
        }
        let Some(size) = number(&header[124..136]) else { return Step::Broken("a member's size is no number") };
        let kind = header[156];
        let is_file = matches!(kind, b'0' | 0 | b'7');
        let size = self.size.filter(|_| is_file).unwrap_or(size);
        if size > LARGEST_MEMBER {
            return Step::Broken("a member is larger than 1 GiB");
        }
        let end = BLOCK + size as usize;
        let used = end.next_multiple_of(BLOCK);
        if bytes.len() < used || own < end {
            return Step::More;
        }
        let content = bytes.slice(BLOCK..end);
        match kind {
            b'L' => self.name = Some(text(&content)),
            b'x' => self.read_pax(&content),
            _ if is_file => {
                let name = self.name.take().unwrap_or_else(|| name(header));
                self.size = None;
                return Step::File { name, content, used };
            }
            _ => (self.name, self.size) = (None, None),
        }
        Step::Other { used }
    }

    /// Records are `<length> <key>=<value>\n`.
    fn read_pax(&mut self, mut records: &[u8]) {
        while let Some(space) = records.iter().position(|byte| *byte == b' ') {
            let length = std::str::from_utf8(&records[..space]).ok().and_then(|digits| digits.parse::<usize>().ok());
            let Some(length) = length.filter(|length| (space + 1..=records.len()).contains(length)) else { return };
            let record = text(&records[space + 1..length]);
            match record.trim_end_matches('\n').split_once('=') {
                Some(("path", value)) => self.name = Some(value.to_owned()),
                Some(("size", value)) => self.size = value.parse().ok(),
                _ => (),
            }
            records = &records[length..];
        }
    }
}

/// A name up to its end mark. Bytes that are no UTF-8 are escaped, so that two names never become one.
fn text(bytes: &[u8]) -> String {
    let end = bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len());
    bytes[..end].utf8_chunks().fold(String::new(), |mut text, chunk| {
        text.push_str(chunk.valid());
        text.extend(chunk.invalid().iter().flat_map(|byte| std::ascii::escape_default(*byte)).map(char::from));
        text
    })
}

fn name(header: &[u8]) -> String {
    let prefix = if &header[257..262] == b"ustar" { text(&header[345..500]) } else { String::new() };
    let name = text(&header[..100]);
    if prefix.is_empty() { name } else { format!("{prefix}/{name}") }
}

/// Octal digits, or GNU's base 256 with the first bit set.
fn number(field: &[u8]) -> Option<u64> {
    if field[0] & 0x80 != 0 {
        let (high, low) = field.split_at(field.len() - 8);
        // The field of a header's sum has 8 bytes, which leaves none here.
        let is_small =
            high.split_first().is_some_and(|(mark, rest)| *mark == 0x80 && rest.iter().all(|byte| *byte == 0));
        return is_small.then(|| low.iter().fold(0, |sum, byte| sum << 8 | u64::from(*byte)));
    }
    let digits = text(field);
    u64::from_str_radix(digits.trim(), 8).ok()
}

/// The header's sum counts its own field as spaces.
fn has_right_sum(header: &[u8]) -> bool {
    let sum = |range: std::ops::Range<usize>| header[range].iter().map(|byte| u64::from(*byte)).sum::<u64>();
    number(&header[148..156]) == Some(sum(0..148) + sum(156..BLOCK) + 8 * u64::from(b' '))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_are_no_utf8_stay_different() {
        assert_eq!(text(b"a\xff1.jpg\0x"), "a\\xff1.jpg");
        assert_ne!(text(b"\xff1"), text(b"\xfe1"));
        assert_eq!(text("данные".as_bytes()), "данные");
    }
}
