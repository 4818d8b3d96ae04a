//! The held-out scenes of the synthetic corpus, read from their Parquet shards.

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch};
use arrow::datatypes::DataType;
use configs::SyntheticSource;
use data_pipeline::catalog::Catalog;
use data_pipeline::store::Location;
use data_pipeline::synthetic::{Scene, Split};

use crate::TrainerError;
use crate::storage::runtime;

/// Scenes of a test split.
#[derive(Default)]
pub struct HeldOut {
    /// The encoded images with their names.
    pub files: Vec<(String, Vec<u8>)>,
    /// The captions of each scene, the fullest first; no two scenes have the same one of these.
    pub captions: Vec<Vec<String>>,
    /// Questions about each scene: the question, its answer, and what it asks for.
    pub questions: Vec<Vec<[String; 3]>>,
    /// What is in each.
    pub scenes: Vec<Scene>,
}

impl HeldOut {
    /// Reads the first scenes of a split, all without a `limit`.
    ///
    /// # Errors
    /// When the shards cannot be read or do not hold scenes.
    pub fn read(source: &SyntheticSource, split: Split, limit: Option<usize>) -> Result<Self, TrainerError> {
        let location = Location::parse(source.uri.as_str())?.child(split.name());
        let runtime = runtime()?;
        let catalog = runtime.block_on(Catalog::open(&location, |_, _| ()))?;
        let wanted = limit.unwrap_or(usize::MAX);
        let mut all = Self::default();
        for group in 0..catalog.row_groups.len() {
            if all.scenes.len() >= wanted {
                break;
            }
            let names = ["jpg", "key", "captions", "questions", "scene"];
            let rows = runtime.block_on(catalog.read_columns(group, &names))?;
            all.add(&rows, wanted).map_err(|reason| TrainerError::Unsupported {
                found: format!("{}: {reason}", location.uri()),
                expected: "a synthetic corpus of this version; `blip2 data synth --overwrite` makes one".into(),
            })?;
        }
        Ok(all)
    }

    /// Adds rows, until there are `wanted`; the error is what they lack.
    fn add(&mut self, rows: &RecordBatch, wanted: usize) -> Result<(), String> {
        let column = |name: &str, kind: &DataType| {
            let column = rows.column_by_name(name).ok_or_else(|| format!("there is no column {name}"))?;
            arrow::compute::cast(column, kind).map_err(|error| error.to_string())
        };
        let text = |name: &str| column(name, &DataType::Utf8);
        let (jpg, key, scene) = (column("jpg", &DataType::Binary)?, text("key")?, text("scene")?);
        let lists = |name: &str| {
            let column = rows.column_by_name(name).ok_or_else(|| format!("there is no column {name}"))?;
            column.as_list_opt::<i32>().cloned().ok_or_else(|| format!("column {name} has no lists"))
        };
        let (captions, questions) = (lists("captions")?, lists("questions")?);
        for row in 0..jpg.len().min(wanted - self.scenes.len()) {
            let name = format!("{}.jpg", key.as_string::<i32>().value(row));
            self.files.push((name, jpg.as_binary::<i32>().value(row).to_vec()));
            self.captions.push(texts(&captions.value(row))?);
            let asked = questions.value(row);
            let asked = asked.as_struct_opt().ok_or("column questions has no questions")?;
            let field = |name: &str| texts(asked.column_by_name(name).ok_or_else(|| format!("no field {name}"))?);
            let (question, answer, kind) = (field("question")?, field("answer")?, field("kind")?);
            let each = question.into_iter().zip(answer).zip(kind);
            self.questions.push(each.map(|((question, answer), kind)| [question, answer, kind]).collect());
            let scene = scene.as_string::<i32>().value(row);
            self.scenes.push(serde_json::from_str(scene).map_err(|error| error.to_string())?);
        }
        Ok(())
    }
}

fn texts(column: &ArrayRef) -> Result<Vec<String>, String> {
    let column = arrow::compute::cast(column, &DataType::Utf8).map_err(|error| error.to_string())?;
    Ok(column.as_string::<i32>().iter().map(|text| text.unwrap_or_default().to_owned()).collect())
}
