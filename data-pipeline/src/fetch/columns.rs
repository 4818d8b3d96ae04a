//! Columns of the input: their roles, their places in every file, and the types that they have in the output.

use std::collections::BTreeSet;
use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, RecordBatch};
use arrow::datatypes::{DataType, Field, FieldRef, Fields};

use super::captions::{self, Form};
use super::file::ParquetFile;
use super::options::ColumnChoice;
use super::types::{common, exact_cast, is_text};
use crate::error::{DataError, Result};
use crate::rows::first_texts;

/// Something that a column of the input is for.
pub(super) struct Role {
    /// Its values, in a message.
    values: &'static str,
    /// The option that names the column.
    pub(super) option: &'static str,
    /// Usual names in lower case, the likeliest first.
    pub(super) names: &'static [&'static str],
}

/// Addresses of images.
pub(super) const URL: Role =
    Role { values: "URLs", option: "--url-column", names: &["url", "image_url", "img_url", "image_urls"] };
/// Captions.
pub(super) const CAPTION: Role = Role { values: "captions", option: "--caption-column", names: &crate::caption::NAMES };
const DROPPED: Role = Role { values: "that kind to leave out", option: "--drop-column", names: &[] };

impl Role {
    /// The place of the column that `asked` names, or else of the first usual name that is there.
    ///
    /// # Errors
    /// [`DataError::Setting`] with the names that `uri` has when there is no such column.
    pub(super) fn find(&self, uri: &str, fields: &Fields, asked: Option<&str>) -> Result<usize> {
        let names = asked.as_ref().map_or(self.names, std::slice::from_ref);
        names.iter().find_map(|name| position(fields, name)).ok_or_else(|| {
            let there: Vec<&str> = fields.iter().map(|field| field.name().as_str()).collect();
            DataError::Setting(format!(
                "{uri}: no column {} of {}; columns found: {}. Name it with {}",
                names.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(" or "),
                self.values,
                there.join(", "),
                self.option
            ))
        })
    }

    fn wrong_type(&self, file: &ParquetFile, field: &Field, expected: &str) -> DataError {
        DataError::Setting(format!(
            "{}: the column `{}` of {} has the type {}, expected {expected}. Name another column with {}",
            file.location.uri(),
            field.name(),
            self.values,
            field.data_type(),
            self.option
        ))
    }
}

/// The column of exactly this name, or else the first one of this name in another case.
fn position(fields: &Fields, name: &str) -> Option<usize> {
    let exact = fields.iter().position(|field| field.name() == name);
    exact.or_else(|| fields.iter().position(|field| field.name().eq_ignore_ascii_case(name)))
}

/// Columns that some file has and the first one lacks, with the file, but for those that are left out on purpose.
fn not_carried(files: &[&ParquetFile], first: &Fields, dropped: &[String]) -> Vec<String> {
    let mut found: Vec<(&str, &str)> = Vec::new();
    for file in files {
        for field in file.schema().fields() {
            let name = field.name().as_str();
            let is_known = position(first, name).is_some()
                || dropped.iter().any(|dropped| dropped == name)
                || found.iter().any(|(known, _)| *known == name);
            if !is_known {
                found.push((name, file.location.uri()));
            }
        }
    }
    found.into_iter().map(|(name, uri)| format!("{name} ({uri})")).collect()
}

/// Columns that all files have.
pub(super) struct Columns {
    /// Columns of the output before img2dataset's: those carried over with the type that holds the values of all files,
    /// and [`captions::LIST_COLUMN`] where some file has lists.
    pub(super) output: Vec<FieldRef>,
    /// Number of them that are carried over.
    carried: usize,
    /// Columns of other files that the first one lacks, each with a file that has it: they are not in the output.
    pub(super) not_carried: Vec<String>,
    caption: String,
    url: String,
}

/// Places of the columns in one file.
pub(super) struct Places {
    carried: Vec<usize>,
    caption: usize,
    url: usize,
    /// Reasons why a row of a text list has no values.
    bad_line: Option<usize>,
}

impl Places {
    /// All places in the order of the file, each once.
    pub(super) fn projection(&self) -> Vec<usize> {
        let all = self.carried.iter().copied().chain([self.caption, self.url]).chain(self.bad_line);
        all.collect::<BTreeSet<usize>>().into_iter().collect()
    }
}

impl Columns {
    /// The columns that `choice` and the first file decide, and their places in every file. The last column of a
    /// converted list holds its bad lines.
    ///
    /// # Errors
    /// [`DataError::Setting`] when a file lacks a column, or types do not fit.
    pub(super) fn find(files: &[&ParquetFile], choice: &ColumnChoice, is_list: bool) -> Result<(Self, Vec<Places>)> {
        let model = files[0];
        let (uri, fields) = (model.location.uri(), given_fields(model, is_list));
        let url = URL.find(uri, &fields, choice.url.as_deref())?;
        let caption = CAPTION.find(uri, &fields, choice.caption.as_deref())?;
        let mut left_out = vec![fields[url].name(), fields[caption].name()];
        for name in &choice.dropped {
            // Another file may have it alone.
            if position(&fields, name).is_some() || !files.iter().any(|f| position(f.schema().fields(), name).is_some())
            {
                left_out.push(fields[DROPPED.find(uri, &fields, Some(name))?].name());
            }
        }
        let carried: Vec<&FieldRef> = fields.iter().filter(|field| !left_out.contains(&field.name())).collect();
        let mut columns = Self {
            output: Vec::new(),
            carried: carried.len(),
            not_carried: not_carried(files, &fields, &choice.dropped),
            caption: fields[caption].name().clone(),
            url: fields[url].name().clone(),
        };
        let places: Vec<Places> =
            files.iter().map(|file| columns.places(file, &carried, is_list)).collect::<Result<_>>()?;
        for (at, field) in carried.iter().enumerate() {
            let kind = common_type(files, &places, at)?;
            // Notes of other software (pandas' index) would make equal rows different files.
            columns.output.push(FieldRef::new(Field::new(field.name(), kind, true)));
        }
        if columns.has_lists(files, &places)? {
            columns.output.push(captions::list_field());
        }
        Ok((columns, places))
    }

    /// Places of these columns in a file's schema, whatever the case of their names.
    fn places(&self, file: &ParquetFile, carried: &[&FieldRef], is_list: bool) -> Result<Places> {
        let fields = file.schema().fields();
        let place = |name: &String| {
            position(fields, name).ok_or_else(|| {
                DataError::Setting(format!(
                    "{}: no column `{name}`, which the first file has. All files need the same columns; leave this \
                     one out with --drop-column {name}",
                    file.location.uri()
                ))
            })
        };
        let mut places = Vec::with_capacity(carried.len());
        for field in carried {
            let at = place(field.name())?;
            if places.contains(&at) {
                return Err(DataError::Setting(format!(
                    "{}: one column `{}`, of which the first file has two. Leave it out with --drop-column {}",
                    file.location.uri(),
                    fields[at].name(),
                    field.name()
                )));
            }
            places.push(at);
        }
        let bad_line = is_list.then(|| fields.len() - 1);
        Ok(Places { carried: places, caption: place(&self.caption)?, url: place(&self.url)?, bad_line })
    }

    /// Whether some file has lists of captions.
    fn has_lists(&self, files: &[&ParquetFile], places: &[Places]) -> Result<bool> {
        let mut lists = false;
        for (file, places) in files.iter().zip(places) {
            let (url, caption) = (file.schema().field(places.url), file.schema().field(places.caption));
            if !is_text(url.data_type()) {
                return Err(URL.wrong_type(file, url, "text"));
            }
            match Form::of(caption.data_type()) {
                Some(form) => lists |= form == Form::List,
                None => return Err(CAPTION.wrong_type(file, caption, "text or a list of texts")),
            }
        }
        Ok(lists)
    }

    /// The columns of rows of a file: those of the output, captions, URLs, and the reasons of bad lines.
    ///
    /// # Errors
    /// [`DataError::Setting`] when a value cannot be kept; `first` is the number of the first of the rows in the file.
    pub(super) fn of(
        &self,
        file: &ParquetFile,
        places: &Places,
        batch: &RecordBatch,
        first: u64,
    ) -> Result<RecordBatch> {
        let projection = places.projection();
        let column = |place: usize| batch.column(projection.partition_point(|other| *other < place));
        let kept = |name: &str, place: usize, option: &str, cast: std::result::Result<ArrayRef, String>| {
            cast.map_err(|reason| {
                DataError::Setting(format!(
                    "{}: column `{name}`, rows {first} to {}: {} values that cannot be kept: {reason}. Mend the file, \
                     or use {option}",
                    file.location.uri(),
                    first + batch.num_rows() as u64 - 1,
                    column(place).data_type()
                ))
            })
        };
        let mut columns = Vec::with_capacity(self.output.len() + 3);
        for (field, place) in self.output.iter().zip(&places.carried) {
            let cast = exact_cast(column(*place), field.data_type());
            let cast = kept(field.name(), *place, &format!("--drop-column {}", field.name()), cast)?;
            columns.push((field.name().as_str(), cast));
        }
        let text = |role: &Role, name: &str, place: usize| {
            kept(name, place, role.option, exact_cast(column(place), &DataType::Utf8))
        };
        if self.output.len() > self.carried {
            let lists = captions::lists(column(places.caption));
            let lists = kept(&self.caption, places.caption, CAPTION.option, lists)?;
            let first_texts: ArrayRef = Arc::new(first_texts(lists.as_list()));
            columns.push((captions::LIST_COLUMN, lists));
            columns.push(("caption", first_texts));
        } else {
            columns.push(("caption", text(&CAPTION, &self.caption, places.caption)?));
        }
        columns.push(("url", text(&URL, &self.url, places.url)?));
        if let Some(place) = places.bad_line {
            columns.push(("bad_line", column(place).clone()));
        }
        let columns = columns.into_iter().map(|(name, column)| (name, column, true));
        RecordBatch::try_from_iter_with_nullable(columns).map_err(|e| DataError::Encode(e.to_string()))
    }
}

/// The fields that the input has; a converted list has one more.
fn given_fields(file: &ParquetFile, is_list: bool) -> Fields {
    let fields = file.schema().fields();
    fields.iter().take(fields.len() - usize::from(is_list)).cloned().collect()
}

/// The type that holds the values of a carried column in all files.
fn common_type(files: &[&ParquetFile], places: &[Places], at: usize) -> Result<DataType> {
    let field = |index: usize| files[index].schema().field(places[index].carried[at]);
    let (mut kind, mut from) = (field(0).data_type().clone(), 0);
    for index in 1..files.len() {
        let Some(both) = common(&kind, field(index).data_type()) else {
            let (name, uri) = (field(0).name(), |file: usize| files[file].location.uri());
            return Err(DataError::Setting(format!(
                "the column `{name}` is {} in {} and {} in {}, and no type holds both exactly. Write it with one type, \
                 or leave it out with --drop-column {name}",
                field(from).data_type(),
                uri(from),
                field(index).data_type(),
                uri(index)
            )));
        };
        if both != kind {
            (kind, from) = (both, index);
        }
    }
    Ok(kind)
}
