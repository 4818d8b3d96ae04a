//! How the Q-Former's queries look at images, and what they see there.
//!
//! Letters: `B` images, `Q` queries, `P` visual tokens of width `V`, `H` hidden width.

use tch::Tensor;

use super::layers::{AttentionForm, Linear, Mask, attention};
use super::qformer::{Output, starting};
use super::tensors::Scope;
use crate::TrainerError;

/// Queries on one side, keys and values of visual tokens on the other.
#[derive(Debug)]
pub(super) struct CrossAttention {
    query: Linear,
    key_value: Linear,
    out: Output,
    form: AttentionForm,
}

/// Keys and values of the visual tokens of one set of images or more, each looked at by one row of queries or more.
#[derive(Debug)]
pub struct ImageKeyValues(Vec<ImageSet>);

/// Keys and values of `B` images.
#[derive(Debug)]
struct ImageSet {
    /// `[B, P, 2H]` for each layer with cross-attention.
    layers: Vec<Option<Tensor>>,
    /// Rows of queries that look at each image.
    looks: i64,
}

/// Keys and values of a set of images in one layer, `[B, P, 2H]`, and the rows of queries that look at each of them.
pub(super) type Looked<'a> = (&'a Tensor, i64);

impl ImageKeyValues {
    /// Of one set of images, looked at once.
    ///
    /// # Shapes
    /// `layers`: `[B, P, 2H]`, where a layer has cross-attention.
    pub(super) fn of(layers: Vec<Option<Tensor>>) -> Self {
        Self(vec![ImageSet { layers, looks: 1 }])
    }

    /// Several sets of images, each with the number of times that it is looked at: the rows of queries are those that look at
    /// the first set, image by image, as often as that is; then those of the second one, and so on. Nothing is copied.
    pub fn looked_at(sets: &[(&Self, i64)]) -> Self {
        let again = |(images, looks): &(&Self, i64)| {
            let looks = *looks;
            images
                .0
                .iter()
                .map(move |set| ImageSet {
                    layers: set.layers.iter().map(|it| it.as_ref().map(Tensor::shallow_clone)).collect(),
                    looks: looks * set.looks,
                })
                .collect::<Vec<_>>()
        };
        Self(sets.iter().flat_map(again).collect())
    }

    /// The images of a single set with these numbers, each as often as it is named.
    ///
    /// # Shapes
    /// `rows`: `[n]`, i64, where the images are.
    pub fn rows(&self, rows: &Tensor) -> Self {
        let of_set = |set: &ImageSet| {
            let layer = |of_layer: &Option<Tensor>| Some(of_layer.as_ref()?.index_select(0, rows));
            ImageSet { layers: set.layers.iter().map(layer).collect(), looks: set.looks }
        };
        Self(self.0.iter().map(of_set).collect())
    }

    /// What is seen in one layer; nothing where that has no cross-attention.
    pub(super) fn layer(&self, index: usize) -> Option<Vec<Looked<'_>>> {
        self.0.iter().map(|set| Some((set.layers[index].as_ref()?, set.looks))).collect()
    }
}

impl CrossAttention {
    pub(super) fn new(
        scope: &Scope<'_>,
        hidden: i64,
        image_width: i64,
        form: AttentionForm,
    ) -> Result<Self, TrainerError> {
        let part = |name: &str, input| starting(&scope.at("attention").at(name), input, hidden, hidden);
        Ok(Self {
            query: part("query", hidden)?,
            key_value: Linear::fused(&[part("key", image_width)?, part("value", image_width)?]),
            out: Output::new(&scope.at("output"), hidden, hidden, form.dropout)?,
            form,
        })
    }

    /// Keys and values of images.
    ///
    /// # Shapes
    /// `image`: `[B, P, V]`; result: `[B, P, 2H]`.
    pub(super) fn key_values(&self, image: &Tensor) -> Tensor {
        self.key_value.forward(image)
    }

    /// # Shapes
    /// `x`: `[B · Q, H]`, where `B` rows look at `images`; result: the same.
    pub(super) fn forward(&self, x: &Tensor, images: &[Looked<'_>]) -> Tensor {
        let rows = |(image, looks): &Looked<'_>| looks * image.size()[0];
        let queries = x.size()[0] / images.iter().map(rows).sum::<i64>();
        let query = self.query.forward(x);
        let seen = match images {
            [one] => self.look(&query, *one),
            several => {
                let lengths: Vec<i64> = several.iter().map(|set| queries * rows(set)).collect();
                let parts = query.split_with_sizes(lengths, 0);
                let seen: Vec<Tensor> = parts.iter().zip(several).map(|(part, set)| self.look(part, *set)).collect();
                Tensor::cat(&seen, 0)
            }
        };
        self.out.forward(&seen, x)
    }

    /// All rows of queries that look at an image look at once, as one longer row: its keys and values are read once.
    ///
    /// # Shapes
    /// `query`: `[looks · B · Q, H]`; result: the same.
    fn look(&self, query: &Tensor, (image, looks): Looked<'_>) -> Tensor {
        let (rows, width) = (image.size()[0], image.size()[2] / 2);
        let halves = image.chunk(2, 2);
        let query = query.view([looks, rows, -1, width]).transpose(0, 1).reshape([rows, -1, width]);
        let seen = attention(&query, &halves[0], &halves[1], Mask::Open, self.form);
        seen.view([rows, looks, -1, width]).transpose(0, 1).reshape([-1, width])
    }
}
