//! Nothing that is not a number reaches the weights: an update whose gradient is not finite is left out and reported with
//! its samples, and too many in a row end the run.
//!
//! f16 ends at 65,504 and at 6e-8. Where a run computes in it, losses are multiplied by a scale before the backward pass and
//! gradients are divided by it after: the scale is halved when a gradient overflows, and doubled after
//! 2,000 updates without that. It is a power of two, which rounds nothing.

use serde_json::{Value, json};
use tch::{Kind, Tensor};

use crate::TrainerError;
use crate::events::Events;
use crate::slices::SliceMap;
use crate::step::Slice;

/// The scale that an f16 run starts with, as `torch.amp.GradScaler`.
const FIRST_SCALE: f64 = 65_536.0;
/// Updates after which the scale is doubled, as `torch.amp.GradScaler`.
const GROW_AFTER: u64 = 2000;

/// What was left out so far. Every rank counts alike, as all see the same norm; checkpoints keep the counts.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct FiniteGuard {
    /// Since the last update that was made, not counting those that halved the scale.
    in_a_row: u64,
    /// In this stage.
    skipped: u64,
    /// What losses are multiplied by, where something is computed in f16.
    scale: Option<f64>,
    /// Updates since the scale was changed.
    at_this_scale: u64,
}

impl FiniteGuard {
    /// The guard of a stage that begins, whose gradients pass through these types.
    pub fn of_kinds(kinds: &[Kind]) -> Self {
        Self { scale: kinds.contains(&Kind::Half).then_some(FIRST_SCALE), ..Self::default() }
    }

    /// Takes over what a checkpoint kept; a scale that it lacks begins anew.
    pub fn restore(&mut self, ledger: &Value) {
        let count = |name: &str| ledger[name].as_u64().unwrap_or(0);
        *self = Self {
            in_a_row: count("skipped_in_a_row"),
            skipped: count("skipped_updates"),
            scale: self.scale.map(|first| ledger["loss_scale"].as_f64().unwrap_or(first)),
            at_this_scale: count("updates_at_this_loss_scale"),
        };
    }

    /// What losses are multiplied by before the backward pass, and gradients divided by after it.
    pub fn loss_scale(&self) -> f64 {
        self.scale.unwrap_or(1.0)
    }

    /// For a checkpoint.
    pub fn ledger(&self) -> Value {
        let mut ledger = json!({ "skipped_in_a_row": self.in_a_row, "skipped_updates": self.skipped });
        if let Some(scale) = self.scale {
            ledger["loss_scale"] = json!(scale);
            ledger["updates_at_this_loss_scale"] = json!(self.at_this_scale);
        }
        ledger
    }

    /// Updates left out in this stage.
    pub fn skipped(&self) -> u64 {
        self.skipped
    }

    /// Whether the update may be made. Every rank calls it.
    ///
    /// # Errors
    /// [`TrainerError::NotFinite`] when more than `limit` in a row would be left out.
    pub fn allows(
        &mut self,
        grad_norm: f64,
        step: u64,
        limit: u64,
        (slices, map): (&[Slice], &SliceMap<'_>),
        events: Events,
    ) -> Result<bool, TrainerError> {
        if grad_norm.is_finite() {
            self.in_a_row = 0;
            self.grow();
            return Ok(true);
        }
        self.skipped += 1;
        // An overflow of f16 is expected now and then; a broken batch goes on failing when the scale is 1.
        let overflowed = self.shrink();
        self.in_a_row += u64::from(!overflowed);
        let samples = samples_of_all(slices, map)?;
        let why = match overflowed {
            true => format!("the loss scale is halved to {}", self.loss_scale()),
            false => format!("{} in a row, at most {limit}", self.in_a_row),
        };
        events.message(format!(
            "step {step}: the gradient's norm is {grad_norm}; the update is left out ({why}). \
             Rows of the catalogue in this batch: {samples:?}"
        ));
        match self.in_a_row > limit {
            true => Err(TrainerError::NotFinite { step, in_a_row: self.in_a_row, limit, samples }),
            false => Ok(false),
        }
    }

    fn grow(&mut self) {
        let Some(scale) = &mut self.scale else { return };
        self.at_this_scale += 1;
        if self.at_this_scale == GROW_AFTER {
            *scale *= 2.0;
            self.at_this_scale = 0;
        }
    }

    /// Halves the scale; says whether there was one to halve.
    fn shrink(&mut self) -> bool {
        self.at_this_scale = 0;
        let Some(scale) = self.scale.as_mut().filter(|scale| **scale > 1.0) else { return false };
        *scale /= 2.0;
        true
    }
}

/// The rows of the global batch.
fn samples_of_all(slices: &[Slice], map: &SliceMap<'_>) -> Result<Vec<i64>, TrainerError> {
    let own = |slice: &Slice| {
        let rows: Vec<i64> = slice.samples.iter().map(|row| row.cast_signed()).collect();
        Tensor::from_slice(&rows)
    };
    let all = map.gather(&slices.iter().map(own).collect::<Vec<_>>())?;
    let torch = |source| TrainerError::Torch { doing: "reading sample numbers", source };
    Vec::try_from(Tensor::cat(&all, 0)).map_err(torch)
}

#[cfg(test)]
mod tests {
    use cluster::Single;
    use configs::Reduction;
    use tch::Device;

    use super::*;
    use crate::stage1::Text;

    #[test]
    fn the_loss_scale_of_f16_is_halved_by_overflows_and_doubled_without_them() {
        let empty = || Tensor::zeros([2, 1], (Kind::Int64, Device::Cpu));
        let slices = [Slice {
            index: 0,
            pixels: None,
            patches: empty(),
            words: Text { ids: empty(), mask: empty() }.into(),
            samples: vec![3],
            image_ids: None,
        }];
        let map = SliceMap::new(&Single, 1, Reduction::Exact).unwrap();
        let allows = |guard: &mut FiniteGuard, norm: f64| guard.allows(norm, 5, 0, (&slices, &map), Events::Silent);
        assert_eq!(FiniteGuard::of_kinds(&[Kind::BFloat16, Kind::Float]).loss_scale(), 1.0);
        let mut guard = FiniteGuard::of_kinds(&[Kind::BFloat16, Kind::Half]);
        assert_eq!(guard.loss_scale(), 65_536.0);
        assert!(!allows(&mut guard, f64::INFINITY).unwrap());
        assert_eq!(guard.loss_scale(), 32_768.0);
        for update in 1..GROW_AFTER {
            // A checkpoint in between keeps the scale and the count.
            let ledger = guard.ledger();
            guard = FiniteGuard::of_kinds(&[Kind::Half]);
            guard.restore(&ledger);
            assert!(allows(&mut guard, 1.0).unwrap() && guard.loss_scale() == 32_768.0, "{update}");
        }
        assert!(allows(&mut guard, 1.0).unwrap());
        assert_eq!(guard.loss_scale(), 65_536.0);
        // A batch that no scale helps ends the run, and the scale can grow again from 1.
        for _ in 0..16 {
            assert!(!allows(&mut guard, f64::NAN).unwrap());
        }
        assert_eq!(guard.loss_scale(), 1.0);
        let error = allows(&mut guard, f64::NAN).unwrap_err().to_string();
        assert!(error.contains("[3]"), "{error}");
        (0..GROW_AFTER).for_each(|_| assert!(allows(&mut guard, 1.0).unwrap()));
        assert_eq!((guard.loss_scale(), guard.skipped()), (2.0, 18));
    }

    #[test]
    fn updates_are_left_out_until_the_limit_and_the_error_names_the_samples() {
        let empty = || Tensor::zeros([2, 1], (Kind::Int64, Device::Cpu));
        let text = Text { ids: empty(), mask: empty() };
        let slices = [Slice {
            index: 0,
            pixels: None,
            patches: empty(),
            words: text.into(),
            samples: vec![7, 11],
            image_ids: None,
        }];
        let map = SliceMap::new(&Single, 1, Reduction::Exact).unwrap();
        let mut guard = FiniteGuard::default();
        let allows = |guard: &mut FiniteGuard, norm: f64| guard.allows(norm, 5, 2, (&slices, &map), Events::Silent);
        assert!(allows(&mut guard, 1.0).unwrap());
        assert!(!allows(&mut guard, f64::NAN).unwrap());
        assert!(!allows(&mut guard, f64::INFINITY).unwrap());
        // An update that is made begins the count anew; a checkpoint keeps it.
        assert!(allows(&mut guard, 1.0).unwrap());
        assert!(!allows(&mut guard, f64::NAN).unwrap() && !allows(&mut guard, f64::NAN).unwrap());
        let ledger = guard.ledger();
        let mut guard = FiniteGuard::default();
        guard.restore(&ledger);
        let error = allows(&mut guard, f64::NAN).unwrap_err().to_string();
        assert!(error.contains("[7, 11]") && error.contains("3 updates in a row"), "{error}");
        assert_eq!(guard.skipped(), 5);
        guard.restore(&Value::Null);
        assert_eq!(guard, FiniteGuard::default());
        // A checkpoint of a program that had no loss scale.
        let mut scaled = FiniteGuard::of_kinds(&[Kind::Half]);
        scaled.restore(&ledger);
        assert_eq!((scaled.loss_scale(), scaled.skipped()), (FIRST_SCALE, 4));
    }
}
