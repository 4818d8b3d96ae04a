//! A source's tensors under public names: renamed, joined, checked against what a model asks for.

use std::collections::BTreeMap;

use safetensors::Dtype;
use tch::Tensor;

use super::families::{Decisions, Family, Fate};
use super::source::Source;
use crate::error::{Result, TrainerError};
use crate::model::Spec;
use crate::model::eva_vit::has_no_key_bias;
use crate::weights_file::kind_of;

/// What becomes of the tensors of a source.
#[derive(Debug)]
pub struct Plan<'s> {
    source: &'s Source,
    /// Who wrote them.
    pub family: Family,
    /// By public name, the tensors whose rows stand one behind the other; none where there is none.
    joined: BTreeMap<String, Vec<Option<&'s str>>>,
    /// Tensors that are not used, and why.
    pub left_out: BTreeMap<&'s str, &'static str>,
    /// Tensors whose names mean nothing here.
    pub unknown: Vec<&'s str>,
}

/// How a source differs from what a model asks for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Differences {
    /// Asked for, and not there.
    pub missing: Vec<String>,
    /// There, and not asked for.
    pub extra: Vec<String>,
    /// Of another shape: name, found, expected.
    pub reshaped: Vec<(String, Vec<i64>, Vec<i64>)>,
}

impl Differences {
    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

impl<'s> Plan<'s> {
    /// Decides for every tensor of `source`.
    ///
    /// # Errors
    /// [`TrainerError::WeightsFile`] when none of the known families has such names.
    pub fn of(source: &'s Source) -> Result<Self> {
        let names = source.tensors.keys().map(String::as_str);
        let is_public = |name: &str| ["vision_model.", "language_model."].iter().any(|start| name.starts_with(start));
        let known = Family::of(names.clone());
        // A tower of this program by itself has public names and no Q-Former to tell it by.
        let (family, start) = match known {
            _ if names.clone().all(is_public) && !is_clip(source) => (Family::HuggingFace, String::new()),
            Some(known) => known,
            None => {
                return Err(TrainerError::WeightsFile {
                    uri: source.uri.clone(),
                    reason: "its names are of no known family (BLIP-2 of Hugging Face or LAVIS, EVA-CLIP, CLIP, OPT, T5, BERT)"
                        .into(),
                });
            }
        };
        let decisions = Decisions::new(family, &start, names.clone());
        let mut plan = Self { source, family, joined: BTreeMap::new(), left_out: BTreeMap::new(), unknown: Vec::new() };
        for name in names {
            match decisions.of(name) {
                Fate::Unknown => plan.unknown.push(name),
                Fate::LeftOut(reason) => drop(plan.left_out.insert(name, reason)),
                Fate::Placed(places) => {
                    for place in places {
                        let parts = plan.joined.entry(place.name).or_insert_with(|| vec![None; place.parts]);
                        parts[place.part] = Some(name);
                    }
                }
            }
        }
        Ok(plan)
    }

    /// The public names.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.joined.keys().map(String::as_str)
    }

    /// The parts of a tensor; where EVA-CLIP has no key bias, the query bias stands for as many zeros.
    fn parts(&self, name: &str) -> Result<Vec<(&'s str, bool)>> {
        let parts = self.joined.get(name).ok_or_else(|| TrainerError::MissingWeight { name: name.to_owned() })?;
        let is_zero = |place: usize| place == 1 && has_no_key_bias(name) && parts.len() == 3;
        let part = |(place, part): (usize, &Option<&'s str>)| match (part, parts[0]) {
            (Some(part), _) => Ok((*part, false)),
            (None, Some(like)) if is_zero(place) => Ok((like, true)),
            _ => Err(TrainerError::MissingWeight { name: format!("{name} (part {} of {})", place + 1, parts.len()) }),
        };
        parts.iter().enumerate().map(part).collect()
    }

    /// Type and shape of a tensor.
    ///
    /// # Errors
    /// [`TrainerError::MissingWeight`] when a part of it is not there.
    pub fn form(&self, name: &str) -> Result<(Dtype, Vec<usize>)> {
        let parts = self.parts(name)?;
        let found: Vec<_> = parts.iter().map(|(part, _)| &self.source.tensors[*part]).collect();
        let mut shape = found[0].shape.clone();
        if found.len() > 1 {
            shape[0] = found.iter().map(|part| part.shape[0]).sum();
        }
        Ok((found[0].dtype, shape))
    }

    /// A tensor's bytes, of [`Plan::form`].
    ///
    /// # Errors
    /// [`TrainerError::MissingWeight`], [`TrainerError::Store`].
    pub fn bytes(&self, name: &str) -> Result<Vec<u8>> {
        let mut bytes = Vec::new();
        for (part, is_zero) in self.parts(name)? {
            let read = self.source.read(part)?;
            match is_zero {
                true => bytes.resize(bytes.len() + read.len(), 0),
                false if bytes.is_empty() => bytes = read,
                false => bytes.extend(read),
            }
        }
        Ok(bytes)
    }

    /// A tensor on the CPU, in the type of the source.
    ///
    /// # Errors
    /// As [`Plan::bytes`]; [`TrainerError::WeightsFile`] for a type that libtorch has not.
    pub fn tensor(&self, name: &str) -> Result<Tensor> {
        let (dtype, shape) = self.form(name)?;
        let shape: Vec<i64> = shape.iter().map(|side| *side as i64).collect();
        let kind = kind_of(dtype).ok_or_else(|| TrainerError::WeightsFile {
            uri: self.source.uri.clone(),
            reason: format!("`{name}` is of type {dtype:?}, which is not read"),
        })?;
        Tensor::f_from_data_size(&self.bytes(name)?, &shape, kind)
            .map_err(|source| TrainerError::Torch { doing: "reading a tensor of a weights file", source })
    }

    /// How the tensors whose names `is_asked` chooses differ from what a model asks for.
    ///
    /// # Errors
    /// [`TrainerError::MissingWeight`] when a part of a joined tensor is not there.
    pub fn differences(&self, specs: &[Spec], is_asked: impl Fn(&str) -> bool) -> Result<Differences> {
        let mut differences = Differences::default();
        for spec in specs {
            if !self.joined.contains_key(&spec.name) {
                differences.missing.push(spec.name.clone());
                continue;
            }
            let found: Vec<i64> = self.form(&spec.name)?.1.iter().map(|side| *side as i64).collect();
            if found != spec.shape {
                differences.reshaped.push((spec.name.clone(), found, spec.shape.clone()));
            }
        }
        let is_known = |name: &str| specs.iter().any(|spec| spec.name == name);
        differences.extra = self.names().filter(|name| is_asked(name) && !is_known(name)).map(str::to_owned).collect();
        Ok(differences)
    }
}

/// Whether these are the names of Hugging Face's CLIP, which begin as public ones do.
fn is_clip(source: &Source) -> bool {
    source.tensors.keys().any(|name| name.starts_with("vision_model.pre_layrnorm."))
}
