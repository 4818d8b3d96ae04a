//! A safetensors file of float32 tensors whose bytes are made piece by piece, so that it never lies in memory whole.
//! Python's `safetensors` and Hugging Face read it.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use safetensors::tensor::{Dtype, Metadata, TensorInfo};
use tch::{Kind, Tensor};

use crate::error::{Result, TrainerError};
use crate::storage::Content;

/// Float32 values, as bytes that may be read at any place, any number of times.
pub(crate) trait Floats: Sync {
    /// How many.
    fn len(&self) -> usize;

    /// The bytes from this one on, lowest first.
    fn fill(&self, at: u64, into: &mut [u8]);
}

impl Floats for Vec<f32> {
    fn len(&self) -> usize {
        self.as_slice().len()
    }

    fn fill(&self, at: u64, into: &mut [u8]) {
        let at = at as usize;
        if at.is_multiple_of(4) {
            let (quads, rest) = into.as_chunks_mut::<4>();
            let values = &self[at / 4..];
            quads.iter_mut().zip(values).for_each(|(quad, value)| *quad = value.to_le_bytes());
            if let Some(value) = values.get(quads.len()) {
                rest.copy_from_slice(&value.to_le_bytes()[..rest.len()]);
            }
        } else {
            let byte = |place: usize| self[place / 4].to_le_bytes()[place % 4];
            into.iter_mut().enumerate().for_each(|(i, into)| *into = byte(at + i));
        }
    }
}

/// A part of a tensor in the memory of processors, of which nothing changes meanwhile.
pub(crate) struct Kept {
    /// Its bytes, `[4 n]`. A tensor may be used from one thread at a time.
    bytes: Mutex<Tensor>,
    len: usize,
}

impl Kept {
    /// # Shapes
    /// `values`: `[n]`, f32, contiguous, in the memory of processors.
    pub(crate) fn of(values: &Tensor) -> Self {
        Self { bytes: Mutex::new(values.view_dtype(Kind::Uint8)), len: values.numel() }
    }
}

impl Floats for Kept {
    fn len(&self) -> usize {
        self.len
    }

    fn fill(&self, at: u64, into: &mut [u8]) {
        let bytes = self.bytes.lock().unwrap_or_else(PoisonError::into_inner);
        bytes.narrow(0, at as i64, into.len() as i64).copy_data_u8(into, into.len());
    }
}

/// One tensor of a file.
pub(crate) struct Member<'a> {
    /// Its name.
    pub(crate) name: &'a str,
    /// Its axes.
    pub(crate) shape: &'a [usize],
    /// Its values, last axis fastest.
    pub(crate) values: &'a dyn Floats,
}

/// The file.
pub(crate) struct TensorFile<'a> {
    header: Vec<u8>,
    members: Vec<Member<'a>>,
    /// Where the values of each member begin, counted from the start of the file.
    starts: Vec<u64>,
    len: u64,
}

impl<'a> TensorFile<'a> {
    /// A file with these tensors, in this order.
    ///
    /// # Errors
    /// [`TrainerError::BadSnapshot`] when they make no safetensors file.
    pub(crate) fn new(members: Vec<Member<'a>>) -> Result<Self> {
        let mut end = 0;
        let mut infos = Vec::with_capacity(members.len());
        for Member { name, shape, values } in &members {
            let start = end;
            end += 4 * values.len();
            let info = TensorInfo { dtype: Dtype::F32, shape: shape.to_vec(), data_offsets: (start, end) };
            infos.push(((*name).to_owned(), info));
        }
        let bad = |error| TrainerError::BadSnapshot(format!("the tensors make no safetensors file ({error})"));
        // transformers refuses files that do not say for which framework they were written.
        let about = HashMap::from([("format".to_owned(), "pt".to_owned())]);
        let mut text = serde_json::to_vec(&Metadata::new(Some(about), infos).map_err(bad)?)?;
        text.resize(text.len().next_multiple_of(8), b' ');
        let mut header = (text.len() as u64).to_le_bytes().to_vec();
        header.extend(text);
        let mut len = header.len() as u64;
        let mut starts = Vec::with_capacity(members.len());
        for member in &members {
            starts.push(len);
            len += 4 * member.values.len() as u64;
        }
        Ok(Self { header, members, starts, len })
    }

    /// Where the values of each tensor begin, counted from the start of the file.
    pub(crate) fn starts(&self) -> &[u64] {
        &self.starts
    }
}

impl Content for TensorFile<'_> {
    fn len(&self) -> u64 {
        self.len
    }

    fn fill(&self, at: u64, into: &mut [u8]) {
        let header = self.header.get(at as usize..).unwrap_or_default();
        let taken = header.len().min(into.len());
        into[..taken].copy_from_slice(&header[..taken]);
        let (mut at, mut into) = (at + taken as u64, &mut into[taken..]);
        // The last one that begins here or before; empty tensors begin where the next does.
        let mut index = self.starts.partition_point(|start| *start <= at).saturating_sub(1);
        while !into.is_empty() && index < self.members.len() {
            let (values, inside) = (self.members[index].values, at - self.starts[index]);
            let left = (4 * values.len() as u64).saturating_sub(inside);
            let taken = (left as usize).min(into.len());
            let (now, later) = into.split_at_mut(taken);
            values.fill(inside, now);
            (at, into, index) = (at + taken as u64, later, index + 1);
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use proptest::prelude::*;
    use safetensors::SafeTensors;

    use super::*;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]

        #[test]
        fn any_piece_is_that_of_the_whole_and_libraries_read_it(
            lens in proptest::collection::vec(0usize..9, 0..6),
            piece in 1usize..40,
        ) {
            let names: Vec<String> = (0..lens.len()).map(|i| format!("tensor.{i}")).collect();
            let shapes: Vec<[usize; 1]> = lens.iter().map(|len| [*len]).collect();
            let values: Vec<Vec<f32>> = lens.iter().enumerate().map(|(i, len)| (0..*len).map(|j| (i * 10 + j) as f32 - 0.5).collect()).collect();
            let kept: Vec<Kept> = values.iter().map(|values| Kept::of(&Tensor::from_slice(values))).collect();
            let of = |i: usize| -> &dyn Floats { if i.is_multiple_of(2) { &kept[i] } else { &values[i] } };
            let members = (0..lens.len()).map(|i| Member { name: &names[i], shape: &shapes[i], values: of(i) });
            let file = TensorFile::new(members.collect()).unwrap();
            let mut whole = vec![0; Content::len(&file) as usize];
            file.fill(0, &mut whole);
            let mut pieces = Vec::new();
            while pieces.len() < whole.len() {
                let mut next = vec![0; piece.min(whole.len() - pieces.len())];
                file.fill(pieces.len() as u64, &mut next);
                pieces.extend(next);
            }
            prop_assert_eq!(&whole, &pieces);
            let read = SafeTensors::deserialize(&whole).unwrap();
            prop_assert_eq!(read.len(), lens.len());
            for (i, start) in file.starts().iter().enumerate() {
                let bytes: Vec<u8> = values[i].iter().flat_map(|value| value.to_le_bytes()).collect();
                prop_assert_eq!(read.tensor(&names[i]).unwrap().data(), &bytes);
                prop_assert_eq!(&whole[*start as usize..][..bytes.len()], &bytes);
            }
        }
    }
}
