//! What generation remembers: keys and values that the continuations of one input share, and those of each of them.
//!
//! Letters: `B` inputs, `R` rows, as many for each input, `D` width, `S` shared positions, `T` own positions.

use tch::{Kind, Tensor};

use super::layers::{merge_heads, split_heads};

/// Keys and values of positions that all rows of an input see; they are kept once and never re-ordered.
#[derive(Debug)]
pub(super) struct Shared {
    /// `[B, heads, D / heads, S]`.
    keys: Tensor,
    /// `[B, heads, S, D / heads]`.
    values: Tensor,
    /// `[B, 1, 1, S]`, added to scores.
    hidden: Option<Tensor>,
}

impl Shared {
    /// # Shapes
    /// `key`, `value`: `[B, S, D]`; `hidden`: `[B, 1, 1, S]`, what is added to the scores.
    pub fn new([key, value]: [&Tensor; 2], hidden: Option<Tensor>, heads: i64) -> Self {
        Self {
            keys: split_heads(key, heads).transpose(2, 3).contiguous(),
            values: split_heads(value, heads).contiguous(),
            hidden,
        }
    }

    /// `query`: `[R, heads, 1, d]`; result: `[R, heads, 1, S]`.
    fn scores(&self, query: &Tensor) -> Tensor {
        let scores = self.group(query).matmul(&self.keys);
        let scores = if let Some(hidden) = &self.hidden { scores + hidden } else { scores };
        ungroup(&scores)
    }

    /// `weights`: `[R, heads, 1, S]`; result: `[R, heads, 1, d]`.
    fn mix(&self, weights: &Tensor) -> Tensor {
        ungroup(&self.group(weights).matmul(&self.values))
    }

    /// `[R, heads, 1, n]` to `[B, heads, R / B, n]`.
    fn group(&self, x: &Tensor) -> Tensor {
        let (inputs, size) = (self.keys.size()[0], x.size());
        x.reshape([inputs, size[0] / inputs, size[1], size[3]]).transpose(1, 2)
    }
}

/// `[B, heads, R / B, n]` to `[R, heads, 1, n]`.
fn ungroup(x: &Tensor) -> Tensor {
    let size = x.size();
    x.transpose(1, 2).reshape([size[0] * size[2], size[1], 1, size[3]])
}

/// Keys and values of each row's own positions.
#[derive(Debug, Default)]
pub(super) struct Own {
    /// `[R, heads, T, D / heads]`, keys and values.
    kept: Option<[Tensor; 2]>,
}

impl Own {
    /// Continues these rows, and adds a position to each.
    ///
    /// # Shapes
    /// `parents`: `[R]`; `added`: `[R, 1, D]`, keys and values.
    pub fn push(&mut self, parents: &Tensor, added: [&Tensor; 2], heads: i64) {
        let added = added.map(|x| split_heads(x, heads));
        self.kept = Some(match self.kept.take() {
            None => added.map(|x| x.contiguous()),
            Some(kept) => {
                let join = |i: usize| Tensor::cat(&[&kept[i].index_select(0, parents), &added[i]], 2);
                [join(0), join(1)]
            }
        });
    }
}

/// How the newest position of each row looks at what is kept.
#[derive(Clone, Copy, Debug)]
pub(super) struct Look<'a> {
    /// What rows of an input share, before their own positions.
    pub shared: Option<&'a Shared>,
    /// Own positions, and what is added to their scores, `[1, heads, 1, T]`.
    pub own: Option<(&'a Own, Option<&'a Tensor>)>,
    /// What scores are multiplied with.
    pub scale: f64,
    /// Heads.
    pub heads: i64,
}

impl Look<'_> {
    /// # Shapes
    /// `query`: `[R, 1, D]`; result: the same.
    pub fn forward(&self, query: &Tensor) -> Tensor {
        let query = split_heads(&(query * self.scale), self.heads);
        let kept = self.own.and_then(|(own, bias)| Some((own.kept.as_ref()?, bias)));
        let own_scores = kept.map(|([keys, _], bias)| {
            let scores = query.matmul(&keys.transpose(2, 3));
            if let Some(bias) = bias { scores + bias } else { scores }
        });
        let scores = [self.shared.map(|shared| shared.scores(&query)), own_scores];
        let lengths = scores.each_ref().map(|part| part.as_ref().map_or(0, |part| part.size()[3]));
        let scores: Vec<Tensor> = scores.into_iter().flatten().collect();
        let weights = Tensor::cat(&scores, 3).softmax(-1, Kind::Float).to_kind(query.kind());
        let shared = self.shared.map(|shared| shared.mix(&weights.narrow(3, 0, lengths[0])));
        let own = kept.map(|([_, values], _)| weights.narrow(3, lengths[0], lengths[1]).matmul(values));
        let seen = [shared, own].into_iter().flatten().reduce(|a, b| a + b);
        merge_heads(&seen.expect("invariant: a position sees at least itself or what is shared"))
    }
}
