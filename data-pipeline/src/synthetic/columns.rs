//! The columns of a shard: img2dataset's schema, the rows of one row group, and how Parquet stores them.

use std::sync::Arc;

use arrow::array::{ArrayRef, BinaryBuilder, Int32Array, ListBuilder, StringArray, StringBuilder, StructBuilder};
use arrow::array::{RecordBatch, new_null_array};
use arrow::datatypes::{DataType, Field, Fields, Schema, SchemaRef};
use parquet::basic::{Compression, ZstdLevel};
use parquet::file::properties::{EnabledStatistics, WriterProperties};
use parquet::schema::types::ColumnPath;

use super::questions::Question;
use crate::error::{DataError, Result};

/// Rows of a row group: what img2dataset writes and what readers fetch at once.
pub(super) const ROW_GROUP_ROWS: u32 = 100;

/// The columns of one row group being filled.
pub(super) struct Columns {
    captions: ListBuilder<StringBuilder>,
    questions: ListBuilder<StructBuilder>,
    pub(super) scene: StringBuilder,
    caption: StringBuilder,
    pub(super) url: StringBuilder,
    pub(super) key: StringBuilder,
    pub(super) sha256: StringBuilder,
    pub(super) jpg: BinaryBuilder,
}

impl Default for Columns {
    fn default() -> Self {
        let rows = ROW_GROUP_ROWS as usize;
        let text = || StringBuilder::with_capacity(rows, rows * 64);
        let questions = StructBuilder::from_fields(question_fields(), 8 * rows);
        Self {
            captions: ListBuilder::new(StringBuilder::with_capacity(6 * rows, rows * 600)).with_field(Field::new(
                "element",
                DataType::Utf8,
                true,
            )),
            questions: ListBuilder::new(questions).with_field(Field::new(
                "element",
                DataType::Struct(question_fields()),
                true,
            )),
            scene: StringBuilder::with_capacity(rows, rows * 512),
            caption: text(),
            url: text(),
            key: text(),
            sha256: text(),
            jpg: BinaryBuilder::with_capacity(rows, rows * 3000),
        }
    }
}

impl Columns {
    /// Adds the captions of the next row.
    pub(super) fn captions(&mut self, captions: &[String]) {
        for caption in captions {
            self.captions.values().append_value(caption);
        }
        self.captions.append(true);
        self.caption.append_value(&captions[0]);
    }

    /// Adds the questions of the next row.
    pub(super) fn questions(&mut self, questions: &[Question]) {
        let list = self.questions.values();
        for question in questions {
            let texts = [question.question.as_str(), &question.answer, question.kind.name()];
            for (field, text) in texts.into_iter().enumerate() {
                list.field_builder::<StringBuilder>(field)
                    .expect("invariant: the fields of a question are strings")
                    .append_value(text);
            }
            list.append(true);
        }
        self.questions.append(true);
    }

    /// The rows so far as one batch with pictures of the given side.
    pub(super) fn finish(mut self, schema: &SchemaRef, side: u32) -> Result<RecordBatch> {
        let jpg: ArrayRef = Arc::new(self.jpg.finish());
        let rows = jpg.len();
        let side: ArrayRef = Arc::new(Int32Array::from(vec![side as i32; rows]));
        let constant = |text: &str| Arc::new(StringArray::from(vec![text; rows])) as ArrayRef;
        let columns = vec![
            Arc::new(self.captions.finish()) as ArrayRef,
            Arc::new(self.questions.finish()),
            Arc::new(self.scene.finish()),
            Arc::new(self.caption.finish()),
            Arc::new(self.url.finish()),
            Arc::new(self.key.finish()),
            constant("success"),
            new_null_array(&DataType::Utf8, rows),
            side.clone(),
            side.clone(),
            side.clone(),
            side,
            constant("{}"),
            Arc::new(self.sha256.finish()),
            jpg,
        ];
        RecordBatch::try_new(schema.clone(), columns).map_err(|e| DataError::Encode(e.to_string()))
    }
}

fn question_fields() -> Fields {
    ["question", "answer", "kind"].map(|name| Field::new(name, DataType::Utf8, true)).to_vec().into()
}

/// img2dataset's columns in its order, additional columns first.
pub(super) fn schema() -> SchemaRef {
    let list_of = |element: DataType| DataType::List(Arc::new(Field::new("element", element, true)));
    let text = |name: &str| Field::new(name, DataType::Utf8, true);
    let number = |name: &str| Field::new(name, DataType::Int32, true);
    Arc::new(Schema::new(vec![
        Field::new("captions", list_of(DataType::Utf8), true),
        Field::new("questions", list_of(DataType::Struct(question_fields())), true),
        text("scene"),
        text("caption"),
        text("url"),
        text("key"),
        text("status"),
        text("error_message"),
        number("width"),
        number("height"),
        number("original_width"),
        number("original_height"),
        text("exif"),
        text("sha256"),
        Field::new("jpg", DataType::Binary, true),
    ]))
}

/// Text columns zstd; images as they are, for they are compressed; nothing that depends on the time or the machine.
pub(super) fn writer_properties() -> WriterProperties {
    let mut properties = WriterProperties::builder()
        .set_created_by(concat!("blip2-data-pipeline version ", env!("CARGO_PKG_VERSION")).into())
        .set_compression(Compression::ZSTD(ZstdLevel::try_new(3).expect("invariant: 3 is a zstd level")))
        .set_max_row_group_row_count(Some(ROW_GROUP_ROWS as usize))
        .set_statistics_enabled(EnabledStatistics::None)
        .set_offset_index_disabled(true)
        .set_column_compression(ColumnPath::from("jpg"), Compression::UNCOMPRESSED);
    for unique in ["scene", "caption", "url", "key", "sha256", "jpg"] {
        properties = properties.set_column_dictionary_enabled(ColumnPath::from(unique), false);
    }
    properties.build()
}
