//! Named tensors, and how a model takes its weights from them.
//!
//! A model is built from a [`Scope`]: it asks for every weight by name and shape. Asked with
//! [`declare`], the same constructor lists what the model needs, so names, shapes and starting values are
//! written once.

use std::cell::RefCell;
use std::collections::BTreeMap;

use tch::{Device, Kind, Tensor};

use crate::TrainerError;
use crate::generator::seeded;

/// Tensors by name, in name order.
#[derive(Debug, Default)]
pub struct Tensors {
    by_name: BTreeMap<String, Tensor>,
    copies: Option<(Kind, BTreeMap<String, Tensor>)>,
}

/// How a weight that is trained from nothing starts.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Init {
    /// Normal with mean 0 and this standard deviation.
    Normal(f64),
    /// Uniform between minus and plus this bound.
    Uniform(f64),
    /// This value throughout.
    Constant(f64),
}

/// What a model needs of one weight.
#[derive(Clone, Debug, PartialEq)]
pub struct Spec {
    /// Public name.
    pub name: String,
    /// Shape.
    pub shape: Vec<i64>,
    /// Starting values.
    pub init: Init,
}

impl Tensors {
    /// Adds a tensor, or replaces the one of that name.
    pub fn insert(&mut self, name: impl Into<String>, tensor: Tensor) {
        self.by_name.insert(name.into(), tensor);
    }

    /// The tensor of that name.
    pub fn get(&self, name: &str) -> Option<&Tensor> {
        self.by_name.get(name)
    }

    /// The same, with copies in another type for models that compute in it: [`Scope::weight`] then gives these.
    pub fn with_copies(self, kind: Kind, copies: BTreeMap<String, Tensor>) -> Self {
        Self { copies: Some((kind, copies)), ..self }
    }

    /// The copy of the tensor of that name in this type.
    pub fn copy(&self, name: &str, kind: Kind) -> Option<&Tensor> {
        self.copies.as_ref().filter(|(other, _)| *other == kind)?.1.get(name)
    }

    /// Names and tensors in name order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Tensor)> {
        self.by_name.iter().map(|(name, tensor)| (name.as_str(), tensor))
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.by_name.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.by_name.is_empty()
    }

    /// The same tensors in another floating-point type; gradients flow through. A tensor that has the type already is
    /// shared, not copied.
    pub fn cast(&self, kind: Kind) -> Self {
        let cast = |(name, tensor): (&String, &Tensor)| {
            (name.clone(), if tensor.kind() == kind { tensor.shallow_clone() } else { tensor.to_kind(kind) })
        };
        self.by_name.iter().map(cast).collect()
    }

    /// New values for every spec, each keyed by the seed and its own name only.
    pub fn random(specs: &[Spec], seed: u64, device: Device) -> Self {
        let start = |spec: &Spec| (spec.name.clone(), random_tensor(spec, seed).to_device(device));
        specs.iter().map(start).collect()
    }

    /// Where a model looks for its weights: names that start with `prefix` (empty, or without the final dot).
    pub fn scope(&self, prefix: &str) -> Scope<'_> {
        Scope { source: Source::Given(self), prefix: prefix.to_owned(), compute: None }
    }
}

impl FromIterator<(String, Tensor)> for Tensors {
    fn from_iter<I: IntoIterator<Item = (String, Tensor)>>(pairs: I) -> Self {
        Self { by_name: pairs.into_iter().collect(), copies: None }
    }
}

fn random_tensor(spec: &Spec, seed: u64) -> Tensor {
    let _generator = seeded(key(seed, &spec.name));
    let options = (Kind::Float, Device::Cpu);
    match spec.init {
        Init::Normal(std) => Tensor::randn(&spec.shape, options) * std,
        Init::Uniform(bound) => (Tensor::rand(&spec.shape, options) * 2.0 - 1.0) * bound,
        Init::Constant(value) => Tensor::full(&spec.shape, value, options),
    }
}

fn key(seed: u64, name: &str) -> i64 {
    fnv1a(seed.to_le_bytes().into_iter().chain(name.bytes())).cast_signed()
}

/// FNV-1a: stable for good, unlike the standard library's hasher.
pub(crate) fn fnv1a(bytes: impl Iterator<Item = u8>) -> u64 {
    bytes.fold(0xcbf2_9ce4_8422_2325, |hash: u64, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3))
}

/// A place in a name space from which a model takes its weights.
#[derive(Clone, Debug)]
pub struct Scope<'a> {
    source: Source<'a>,
    prefix: String,
    compute: Option<Kind>,
}

#[derive(Clone, Debug)]
enum Source<'a> {
    Given(&'a Tensors),
    Declared(&'a RefCell<Vec<Spec>>),
}

/// Lists the weights that the model built by `build` asks for.
///
/// # Errors
/// Those of `build`.
pub fn declare<M>(build: impl FnOnce(&Scope<'_>) -> Result<M, TrainerError>) -> Result<Vec<Spec>, TrainerError> {
    let specs = RefCell::new(Vec::new());
    build(&Scope { source: Source::Declared(&specs), prefix: String::new(), compute: None })?;
    Ok(specs.into_inner())
}

/// A tensor of a shape that holds one number only.
fn stand_in(shape: &[i64]) -> Tensor {
    Tensor::zeros(&[] as &[i64], (Kind::Float, Device::Cpu)).expand(shape, false)
}

/// The rows of several tensors as one. Of stand-ins, a stand-in.
pub(crate) fn cat_rows(parts: &[&Tensor]) -> Tensor {
    if parts.iter().any(|part| part.stride().iter().any(|step| *step != 0)) {
        return Tensor::cat(parts, 0);
    }
    let rows = parts.iter().map(|part| part.size()[0]).sum();
    stand_in(&[&[rows], &parts[0].size()[1..]].concat())
}

impl Scope<'_> {
    /// The scope called `name` inside this one.
    pub fn at(&self, name: impl std::fmt::Display) -> Self {
        Self { source: self.source.clone(), prefix: self.full(&name.to_string()), compute: self.compute }
    }

    /// The same scope, whose [`Scope::weight`] gives copies in this type: weights are kept in f32 and computed with
    /// in half precision. One copy serves all uses by one model, as the reference's autocast keeps one.
    pub fn computed_in(&self, kind: Kind) -> Self {
        Self { compute: Some(kind), ..self.clone() }
    }

    /// Where the weights are; a list of what a model needs is nowhere, and counts as the processor's.
    pub fn device(&self) -> Device {
        match self.source {
            Source::Given(tensors) => tensors.iter().next().map_or(Device::Cpu, |(_, tensor)| tensor.device()),
            Source::Declared(_) => Device::Cpu,
        }
    }

    /// The weight called `name`, in the type to compute with.
    ///
    /// # Errors
    /// When it is missing or has another shape.
    pub fn weight(&self, name: &str, shape: &[i64], init: Init) -> Result<Tensor, TrainerError> {
        let weight = self.master(name, shape, init)?;
        Ok(match (self.compute, self.source.clone()) {
            (Some(kind), Source::Given(tensors)) if kind != weight.kind() => {
                let copy = tensors.copy(&self.full(name), kind);
                copy.map_or_else(|| weight.to_kind(kind), Tensor::shallow_clone)
            }
            _ => weight,
        })
    }

    /// The weight called `name`, in the type in which it is kept.
    ///
    /// # Errors
    /// When it is missing or has another shape.
    pub fn master(&self, name: &str, shape: &[i64], init: Init) -> Result<Tensor, TrainerError> {
        let name = self.full(name);
        match self.source {
            Source::Declared(specs) => {
                specs.borrow_mut().push(Spec { name, shape: shape.to_vec(), init });
                Ok(stand_in(shape))
            }
            Source::Given(tensors) => {
                let found = tensors.get(&name);
                let tensor = found.ok_or_else(|| TrainerError::MissingWeight { name: name.clone() })?;
                if tensor.size() != shape {
                    return Err(TrainerError::WeightShape { name, found: tensor.size(), expected: shape.to_vec() });
                }
                Ok(tensor.shallow_clone())
            }
        }
    }

    fn full(&self, name: &str) -> String {
        if self.prefix.is_empty() { name.to_owned() } else { format!("{}.{name}", self.prefix) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_model_lists_its_weights_and_then_finds_them() {
        let build = |scope: &Scope<'_>| scope.at("layer").at(3).weight("weight", &[2, 3], Init::Normal(0.02));
        let specs = declare(build).unwrap();
        assert_eq!(specs[0].name, "layer.3.weight");
        let tensors = Tensors::random(&specs, 7, Device::Cpu);
        assert_eq!(build(&tensors.scope("")).unwrap().size(), [2, 3]);
        let error = tensors.scope("").weight("layer.3.weight", &[3, 2], Init::Constant(0.0)).unwrap_err().to_string();
        assert!(error.contains("layer.3.weight") && error.contains("[2, 3]") && error.contains("[3, 2]"), "{error}");
        assert!(tensors.scope("other").weight("weight", &[1], Init::Constant(0.0)).is_err());
    }

    #[test]
    fn starting_values_depend_on_the_seed_and_the_name_only() {
        let spec = |name: &str| Spec { name: name.into(), shape: vec![4], init: Init::Normal(1.0) };
        let values = |specs: &[Spec], seed, name: &str| {
            Vec::<f32>::try_from(Tensors::random(specs, seed, Device::Cpu).get(name).unwrap()).unwrap()
        };
        let both = [spec("a"), spec("b")];
        assert_eq!(values(&both, 1, "b"), values(&[spec("b")], 1, "b"));
        assert_ne!(values(&both, 1, "b"), values(&both, 1, "a"));
        assert_ne!(values(&both, 1, "b"), values(&both, 2, "b"));
    }
}
