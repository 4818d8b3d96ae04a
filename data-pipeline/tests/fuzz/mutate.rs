//! Changes of bytes that find mistakes in readers: flips, cuts, splices, inserts, and numbers where lengths may stand.

/// Numbers drawn from a seed and a case: SplitMix64.
pub struct Draws(u64);

impl Draws {
    pub fn new(seed: u64, case: u64) -> Self {
        let mut draws = Self(seed ^ case.wrapping_mul(0xd134_2543_de82_ef95));
        draws.next();
        draws
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `end`, or 0.
    pub fn below(&mut self, end: usize) -> usize {
        if end == 0 { 0 } else { (self.next() % end as u64) as usize }
    }

    /// A place in some bytes: anywhere, or near an end, where headers and footers are.
    fn place(&mut self, length: usize) -> usize {
        match self.below(4) {
            0 => self.below(length.min(64)),
            1 => length - 1 - self.below(length.min(1500)),
            _ => self.below(length),
        }
    }
}

/// Values that lengths and counts break at.
const EDGES: [u64; 12] = [0, 1, 2, 0x7f, 0x80, 0xff, 0x7fff, 0xffff, 0x7fff_ffff, 0xffff_ffff, 1 << 40, u64::MAX];

/// One seed with one to four changes.
pub fn mutate(seeds: &[Vec<u8>], draws: &mut Draws) -> Vec<u8> {
    let mut bytes = seeds[draws.below(seeds.len())].clone();
    for _ in 0..=draws.below(4) {
        change(&mut bytes, seeds, draws);
    }
    bytes
}

fn change(bytes: &mut Vec<u8>, seeds: &[Vec<u8>], draws: &mut Draws) {
    if bytes.is_empty() {
        bytes.push(draws.next() as u8);
    }
    let at = draws.place(bytes.len());
    match draws.below(9) {
        0 | 1 => bytes[at] ^= 1 << draws.below(8),
        2 => bytes[at] = [0, 1, 0x7f, 0x80, 0xff, draws.next() as u8][draws.below(6)],
        3 => bytes.truncate(at),
        4 => {
            let end = (at + 1 + draws.below(64)).min(bytes.len());
            bytes.drain(at..end);
        }
        5 => {
            let new: Vec<u8> = (0..=draws.below(32)).map(|_| draws.next() as u8).collect();
            bytes.splice(at..at, new);
        }
        6 => {
            let other = &seeds[draws.below(seeds.len())];
            let from = draws.below(other.len());
            let piece = other[from..(from + draws.below(2000)).min(other.len())].to_vec();
            let end = (at + piece.len() * draws.below(2)).min(bytes.len());
            bytes.splice(at..end, piece);
        }
        7 => write_number(bytes, at, draws),
        // Thrift and many others: a number in groups of seven bits.
        _ => {
            let mut left = EDGES[draws.below(EDGES.len())];
            let mut varint = Vec::new();
            while left >= 0x80 {
                varint.push(left as u8 | 0x80);
                left >>= 7;
            }
            varint.push(left as u8);
            let end = (at + varint.len() * draws.below(2)).min(bytes.len());
            bytes.splice(at..end, varint);
        }
    }
}

/// Writes an edge, or a neighbour of the file's own length, over 1, 2, 4 or 8 bytes in either order.
fn write_number(bytes: &mut [u8], at: usize, draws: &mut Draws) {
    let value = match draws.below(3) {
        0 => (bytes.len() as u64).wrapping_add(draws.below(5) as u64).wrapping_sub(2),
        _ => EDGES[draws.below(EDGES.len())],
    };
    let width = 1 << draws.below(4);
    let number = match draws.below(2) {
        0 => value.to_le_bytes()[..width].to_vec(),
        _ => value.to_be_bytes()[8 - width..].to_vec(),
    };
    for (byte, new) in bytes[at..].iter_mut().zip(number) {
        *byte = new;
    }
}
