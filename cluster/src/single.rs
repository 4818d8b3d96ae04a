//! The world of one process: every collective is the identity.

use crate::call::{agree_on_sizes, check_parts};
use crate::{BufferMut, ClusterError, Collective};

/// A world of one; needs no library.
#[derive(Debug, Clone, Copy)]
pub struct Single;

impl Collective for Single {
    fn name(&self) -> &'static str {
        "single"
    }

    fn rank(&self) -> usize {
        0
    }

    fn world_size(&self) -> usize {
        1
    }

    fn barrier(&self) -> Result<(), ClusterError> {
        Ok(())
    }

    fn all_reduce_sum(&self, _buffer: BufferMut<'_>) -> Result<(), ClusterError> {
        Ok(())
    }

    fn broadcast(&self, _bytes: &mut [u8], root: usize) -> Result<(), ClusterError> {
        if root != 0 {
            return Err(ClusterError::NoSuchRank { rank: root, world_size: 1 });
        }
        Ok(())
    }

    fn all_gather(&self, mine: &[u8]) -> Result<Vec<u8>, ClusterError> {
        Ok(mine.to_vec())
    }

    fn all_to_all(&self, parts: &[&[u8]], expected: &[usize]) -> Result<Vec<Vec<u8>>, ClusterError> {
        check_parts(parts, expected, 1)?;
        agree_on_sizes(1, &[vec![parts[0].len() as u64, expected[0] as u64]])?;
        Ok(vec![parts[0].to_vec()])
    }

    fn abort(&self, code: i32) -> ! {
        std::process::exit(code)
    }

    fn finish(&self) -> Result<(), ClusterError> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_rank_keeps_what_it_has() {
        let mut sums = [1.5_f32, -2.0];
        Single.all_reduce_sum(BufferMut::F32(&mut sums)).unwrap();
        assert_eq!(sums, [1.5, -2.0]);
        assert_eq!(Single.all_gather(b"abc").unwrap(), b"abc");
    }

    #[test]
    fn only_rank_0_can_be_the_root() {
        assert!(Single.broadcast(&mut [0], 0).is_ok());
        assert!(matches!(Single.broadcast(&mut [0], 1), Err(ClusterError::NoSuchRank { rank: 1, world_size: 1 })));
    }
}
