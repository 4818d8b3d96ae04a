//! Nothing that is not a number reaches the weights: an update whose gradient is not finite is left out and reported with
//! its samples, and too many in a row end the run.

use serde_json::{Value, json};
use tch::Tensor;

use crate::TrainerError;
use crate::events::Events;
use crate::slices::SliceMap;
use crate::step::Slice;

/// What was left out so far. Every rank counts alike, as all see the same norm; checkpoints keep the counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FiniteGuard {
    /// Since the last update that was made.
    in_a_row: u64,
    /// In this stage.
    skipped: u64,
}

impl FiniteGuard {
    /// The counts that a checkpoint kept; nothing was left out where it kept none.
    pub fn of_ledger(ledger: &Value) -> Self {
        let count = |name: &str| ledger[name].as_u64().unwrap_or(0);
        Self { in_a_row: count("skipped_in_a_row"), skipped: count("skipped_updates") }
    }

    /// For a checkpoint.
    pub fn ledger(&self) -> Value {
        json!({ "skipped_in_a_row": self.in_a_row, "skipped_updates": self.skipped })
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
            return Ok(true);
        }
        self.in_a_row += 1;
        self.skipped += 1;
        let samples = samples_of_all(slices, map)?;
        events.message(format!(
            "step {step}: the gradient's norm is {grad_norm}; the update is left out ({} in a row, at most {limit}). \
             Rows of the catalogue in this batch: {samples:?}",
            self.in_a_row
        ));
        match self.in_a_row > limit {
            true => Err(TrainerError::NotFinite { step, in_a_row: self.in_a_row, limit, samples }),
            false => Ok(false),
        }
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
    use tch::{Device, Kind};

    use super::*;
    use crate::stage1::Text;

    #[test]
    fn updates_are_left_out_until_the_limit_and_the_error_names_the_samples() {
        let empty = || Tensor::zeros([2, 1], (Kind::Int64, Device::Cpu));
        let text = Text { ids: empty(), mask: empty() };
        let slices = [Slice { index: 0, patches: empty(), text, samples: vec![7, 11], image_ids: None }];
        let map = SliceMap::new(&Single, 1, Reduction::Exact).unwrap();
        let mut guard = FiniteGuard::default();
        let allows = |guard: &mut FiniteGuard, norm: f64| guard.allows(norm, 5, 2, (&slices, &map), Events::Silent);
        assert!(allows(&mut guard, 1.0).unwrap());
        assert!(!allows(&mut guard, f64::NAN).unwrap());
        assert!(!allows(&mut guard, f64::INFINITY).unwrap());
        // An update that is made begins the count anew; a checkpoint keeps it.
        assert!(allows(&mut guard, 1.0).unwrap());
        assert!(!allows(&mut guard, f64::NAN).unwrap() && !allows(&mut guard, f64::NAN).unwrap());
        let mut guard = FiniteGuard::of_ledger(&guard.ledger());
        let error = allows(&mut guard, f64::NAN).unwrap_err().to_string();
        assert!(error.contains("[7, 11]") && error.contains("3 updates in a row"), "{error}");
        assert_eq!(guard.skipped(), 5);
        assert_eq!(FiniteGuard::of_ledger(&Value::Null), FiniteGuard::default());
    }
}
