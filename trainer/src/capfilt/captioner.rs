//! The first half: a checkpoint writes captions for every image.

use arrow::array::RecordBatch;
use configs::Stage;
use data_pipeline::augment::EvalTransform;
use data_pipeline::derived::with_columns;
use data_pipeline::rng::{CounterRng, Purpose};
use serde_json::{Value, json};

use super::columns::{SYNTHETIC, constant, texts};
use super::images::{View, in_batches};
use super::job::{Group, Step, Tally, refuse_second_pass};
use crate::error::Result;
use crate::eval::Loaded;
use crate::eval::decoding::Options;
use crate::eval::speaker::Speaker;
use crate::model::tensors::fnv1a;

/// Images whose captions are written at once.
const AT_ONCE: usize = 16;

/// Writes captions.
pub(super) struct Captioner<'a> {
    loaded: &'a Loaded,
    speaker: Speaker<'a>,
    settings: Value,
    sha256: String,
}

impl<'a> Captioner<'a> {
    /// What writes captions with a checkpoint, as `options` say; `told` are the same options in JSON.
    ///
    /// # Errors
    /// When the weights do not fit the model, or the options do not fit together.
    pub fn new(loaded: &'a Loaded, options: &Options, told: &Value, threads: usize) -> Result<Self> {
        let (snapshot, sha256) = (&loaded.found.about, loaded.weights_sha256());
        let mut captioner = json!({
            "weights_sha256": sha256, "stage": snapshot.stage, "step": snapshot.step,
            "image_encoder_sha256": loaded.towers.image_encoder.sha256(),
        });
        if let Stage::Generative(_) = loaded.stage() {
            captioner["language_model_sha256"] = loaded.towers.language_model.sha256().into();
        }
        let settings = json!({
            "captioner": captioner, "decoding": told, "images_at_once": AT_ONCE, "threads": threads,
            "program_version": env!("CARGO_PKG_VERSION"),
        });
        Ok(Self { loaded, speaker: Speaker::of(loaded.subject(), options)?, settings, sha256 })
    }
}

impl Step for Captioner<'_> {
    fn task(&self) -> &'static str {
        "data_caption"
    }

    fn settings(&self) -> &Value {
        &self.settings
    }

    fn apply(&self, group: &Group, tally: &mut Tally) -> Result<RecordBatch> {
        refuse_second_pass(group, SYNTHETIC)?;
        let rows = group.batch.num_rows();
        let transform = EvalTransform::reference(self.loaded.run.data.image_size as u32);
        let view = View { side: transform.image_size as usize, fill: &|image, out| transform.apply(image, out) };
        let mut captions = vec![None; rows];
        let seen = in_batches(&group.rows, &view, AT_ONCE, |numbers, pixels| {
            let patches = self.loaded.towers.image_encoder.forward(pixels);
            let keys: Vec<u64> =
                numbers.iter().map(|row| sample_key(&group.shard, group.first_row + *row as u64)).collect();
            for (row, texts) in numbers.iter().zip(self.speaker.write(&patches, &keys)) {
                tally.texts += texts.len() as u64;
                captions[*row] = Some(texts);
            }
            Ok(())
        })?;
        tally.add(rows, &seen);
        let mut columns = Vec::new();
        if !group.is_parquet {
            columns.push(seen.status());
            columns.extend(seen.sides());
        }
        columns.extend([
            texts(SYNTHETIC, &captions),
            constant("captioner_sha256", &self.sha256, rows),
            constant("captioner_settings", &self.settings.to_string(), rows),
            constant("captioner_version", env!("CARGO_PKG_VERSION"), rows),
        ]);
        Ok(with_columns(&group.batch, columns)?)
    }
}

/// What the draws for a sample are keyed by beside the seed: its shard's name and its row there, whoever reads it.
fn sample_key(shard: &str, row: u64) -> u64 {
    CounterRng::new(fnv1a(shard.bytes()), Purpose::Generate, &[row]).next_u64()
}

#[cfg(test)]
mod tests {
    use super::sample_key;

    #[test]
    fn samples_have_keys_of_their_own() {
        let keys: std::collections::BTreeSet<u64> = ["00000", "00001", "a/00000"]
            .iter()
            .flat_map(|shard| (0..1000).map(|row| sample_key(shard, row)))
            .collect();
        assert_eq!(keys.len(), 3000);
    }
}
