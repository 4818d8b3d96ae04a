//! The columns of a Parquet shard that filters look at.

use arrow::array::{Array, ArrayRef, AsArray, StringArray};
use arrow::datatypes::{DataType, Float64Type, Schema, UInt64Type};
use arrow::record_batch::RecordBatch;

use crate::filters::{Facts, class_of, worst};

/// The columns that filters look at, of a part.
#[derive(Default)]
pub(super) struct FactColumns {
    /// Every column of that name, whatever its case.
    nsfw: Vec<StringArray>,
    url: Option<StringArray>,
    sides: Option<(ArrayRef, ArrayRef)>,
    similarity: Option<ArrayRef>,
}

impl FactColumns {
    /// Those of some columns that a schema has, in its own spelling: LAION writes `NSFW`, others `nsfw`. Of `width` and
    /// `height`, those that `blip2 data fetch` and img2dataset write for the image as it is stored; LAION's `WIDTH` and
    /// `HEIGHT`, which are of the page's image, only where there are no others.
    pub(super) fn names<'a>(schema: &'a Schema, wanted: &[&str]) -> Vec<&'a str> {
        let sides = sides(names_of(schema));
        let is_side = |name: &str| ["width", "height"].iter().any(|side| name.eq_ignore_ascii_case(side));
        let is_own_side = |name: &str| sides.is_some_and(|(width, height)| name == width || name == height);
        names_of(schema)
            .filter(|name| wanted.iter().any(|wanted| name.eq_ignore_ascii_case(wanted)))
            .filter(|name| !is_side(name) || is_own_side(name))
            .collect()
    }

    /// The columns of a batch, whatever their exact types. What a type cannot hold is null: not known.
    pub(super) fn of(batch: &RecordBatch) -> Self {
        let schema = batch.schema();
        let all = |name: &str, kind: &DataType| -> Vec<ArrayRef> {
            let places =
                schema.fields().iter().enumerate().filter(|(_, field)| field.name().eq_ignore_ascii_case(name));
            places.filter_map(|(place, _)| arrow::compute::cast(batch.column(place), kind).ok()).collect()
        };
        let text = |name| all(name, &DataType::Utf8).into_iter().map(|found| found.as_string::<i32>().clone());
        let one = |name, kind| all(name, kind).into_iter().next();
        let sides = sides(names_of(&schema)).and_then(|(width, height)| {
            let side = |name| arrow::compute::cast(batch.column_by_name(name)?, &DataType::UInt64).ok();
            side(width).zip(side(height))
        });
        Self {
            nsfw: text("nsfw").collect(),
            url: text("url").next(),
            sides,
            similarity: one("similarity", &DataType::Float64),
        }
    }

    pub(super) fn url(&self, row: usize) -> Option<&str> {
        self.url.as_ref().filter(|all| all.is_valid(row)).map(|all| all.value(row))
    }

    /// The facts of a row, beside its usability and its caption.
    pub(super) fn facts(&self, row: usize) -> Facts<'static> {
        let side = |side: &ArrayRef| {
            let side = side.as_primitive::<UInt64Type>();
            side.is_valid(row).then(|| side.value(row))
        };
        let class = |all: &StringArray| all.is_valid(row).then(|| class_of(all.value(row))).flatten();
        let similarity = self.similarity.as_ref().map(|all| all.as_primitive::<Float64Type>());
        Facts {
            sides: self.sides.as_ref().and_then(|(width, height)| side(width).zip(side(height))),
            nsfw: worst(self.nsfw.iter().map(class)),
            similarity: similarity.map(|all| if all.is_valid(row) { all.value(row) } else { f64::NAN }),
            ..Facts::default()
        }
    }
}

/// The names of an image's sides: `width` and `height`, or both in one other spelling.
pub(super) fn sides<'a>(names: impl Iterator<Item = &'a str> + Clone) -> Option<(&'a str, &'a str)> {
    let find = |is_it: fn(&str, &str) -> bool, side| names.clone().find(|name| is_it(name, side));
    let pair = |is_it| find(is_it, "width").zip(find(is_it, "height"));
    pair(|name, side| name == side)
        .or_else(|| pair(|name, side| name == side.to_ascii_uppercase()))
        .or_else(|| pair(|name, side| name.eq_ignore_ascii_case(side)))
}

fn names_of(schema: &Schema) -> impl Iterator<Item = &str> + Clone {
    schema.fields().iter().map(|field| field.name().as_str())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{Float64Array, Int32Array};
    use configs::Nsfw;

    use super::*;

    fn batch(columns: Vec<(&str, ArrayRef)>) -> RecordBatch {
        RecordBatch::try_from_iter_with_nullable(columns.into_iter().map(|(name, column)| (name, column, true)))
            .unwrap()
    }

    #[test]
    fn the_sides_are_those_of_the_stored_image() {
        let number = |value: i32| Arc::new(Int32Array::from(vec![value])) as ArrayRef;
        let real = |value: f64| Arc::new(Float64Array::from(vec![value])) as ArrayRef;
        let sides = |batch: &RecordBatch| {
            let names = FactColumns::names(batch.schema_ref(), &["width", "height"]).join(" ");
            (names, FactColumns::of(batch).facts(0).sides)
        };
        let both =
            batch(vec![("HEIGHT", real(9.0)), ("WIDTH", real(8.0)), ("width", number(3)), ("height", number(4))]);
        assert_eq!(sides(&both), ("width height".into(), Some((3, 4))));
        let laion = batch(vec![("HEIGHT", real(9.0)), ("WIDTH", real(8.0)), ("Width", number(1))]);
        assert_eq!(sides(&laion), ("HEIGHT WIDTH".into(), Some((8, 9))));
        assert_eq!(sides(&batch(vec![("Width", real(f64::NAN)), ("Height", number(2))])).1, None);
    }

    #[test]
    fn a_fact_that_cannot_be_read_is_not_known() {
        let columns: Vec<(&str, ArrayRef)> = vec![
            ("NSFW", Arc::new(StringArray::from(vec![Some("UNLIKELY"), Some("0.1"), None]))),
            ("similarity", Arc::new(StringArray::from(vec![Some("0.3"), Some("high"), None]))),
        ];
        let found = FactColumns::of(&batch(columns));
        assert_eq!((found.facts(0).nsfw, found.facts(0).similarity), (Some(Nsfw::Unlikely), Some(0.3)));
        for row in [1, 2] {
            assert_eq!(found.facts(row).nsfw, None);
            assert!(found.facts(row).similarity.unwrap().is_nan());
        }
        assert_eq!(FactColumns::default().facts(0).similarity, None);
    }
}
