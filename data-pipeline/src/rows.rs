//! Rows as they are read from a source of any form, and the rule that says which of them can be used.

use std::collections::{BTreeMap, BTreeSet};

use arrow::array::{Array, AsArray, BinaryViewArray, ListArray, StringArray};

use crate::caption::is_blank;
use crate::filters::refused_by_status;

/// The rows that are read at once.
#[derive(Clone, Debug)]
pub struct Rows {
    /// Encoded images; null where the download failed. Views of the pages as read: images are not copied once more.
    pub images: BinaryViewArray,
    /// Captions; may be null. Where the source has lists alone, the first text of each.
    pub captions: StringArray,
    /// Several captions per image, when the source has them.
    pub all_captions: Option<ListArray>,
    /// A question about each image, in sources of questions; the captions are its answers.
    pub questions: Option<StringArray>,
    /// Several questions about each image with an answer each, of shards whose questions were asked for.
    pub question_lists: Option<ListArray>,
    /// Per-row status, when the source has it.
    pub status: Option<StringArray>,
    /// Per-row key, when the source has it.
    pub keys: Option<StringArray>,
    /// Rows of which a caption is no UTF-8; it is null.
    pub bad_texts: BTreeSet<usize>,
    /// Rows that cannot be used for a reason that their form tells: members of a tar that do not belong together.
    pub refused: BTreeMap<usize, &'static str>,
}

impl Rows {
    /// Number of rows.
    pub fn len(&self) -> usize {
        self.images.len()
    }

    /// Whether there is no row.
    pub fn is_empty(&self) -> bool {
        self.images.is_empty()
    }

    /// Bytes that these rows hold in memory.
    pub fn bytes(&self) -> usize {
        self.images.get_array_memory_size() + self.captions.get_array_memory_size()
    }

    /// The encoded image of a row; none where it has no byte.
    pub fn image(&self, row: usize) -> Option<&[u8]> {
        self.images.is_valid(row).then(|| self.images.value(row)).filter(|bytes| !bytes.is_empty())
    }

    /// The texts of a row that one is drawn from: those of its list that are not blank, or else its caption. Of a
    /// question, its answers.
    pub fn texts(&self, row: usize) -> Vec<&str> {
        let is_usable = |text: &&str| if self.questions.is_some() { !text.trim().is_empty() } else { !is_blank(text) };
        if let Some(lists) = &self.all_captions {
            let texts: Vec<&str> = texts_at(lists, row).filter(is_usable).collect();
            if !texts.is_empty() {
                return texts;
            }
        }
        self.captions.is_valid(row).then(|| self.captions.value(row)).filter(is_usable).into_iter().collect()
    }

    /// The reason why a row cannot be used, from all that is known before its image is decoded; none when it can be.
    /// Indexes, the doctor's samples and the loader ask this.
    pub fn unusable(&self, row: usize) -> Option<&'static str> {
        // A null status is no success.
        let status = self.status.as_ref().map(|all| if all.is_valid(row) { all.value(row) } else { "" });
        let by_source = status.and_then(refused_by_status).or_else(|| self.refused.get(&row).copied());
        by_source.or_else(|| match (self.image(row), self.texts(row).is_empty()) {
            (None, _) => Some("no_image"),
            (Some(_), false) => None,
            (Some(_), true) => Some(self.no_text(row)),
        })
    }

    /// The reason of a row without a usable text.
    fn no_text(&self, row: usize) -> &'static str {
        match (self.questions.is_some(), self.bad_texts.contains(&row)) {
            (true, _) => "no_answer",
            (false, true) => "caption_not_utf8",
            (false, false) => "no_caption",
        }
    }
}

/// The texts of a row's list that are not null.
fn texts_at(lists: &ListArray, row: usize) -> impl Iterator<Item = &str> {
    let values = lists.values().as_string::<i32>();
    let length = if lists.is_valid(row) { lists.value_length(row) as usize } else { 0 };
    let start = lists.value_offsets()[row] as usize;
    (start..start + length).filter(|at| values.is_valid(*at)).map(|at| values.value(at))
}

/// The first text of each list that is not blank.
pub(crate) fn first_texts(lists: &ListArray) -> StringArray {
    (0..lists.len()).map(|row| texts_at(lists, row).find(|text| !is_blank(text))).collect()
}

#[cfg(test)]
mod tests {
    use arrow::array::{ListBuilder, StringBuilder};

    use super::*;

    fn lists(rows: &[&[Option<&str>]]) -> ListArray {
        let mut lists = ListBuilder::new(StringBuilder::new());
        rows.iter().for_each(|row| lists.append_value(row.iter().copied()));
        lists.finish()
    }

    fn rows() -> Rows {
        Rows {
            images: BinaryViewArray::from_iter([Some(&b"x"[..]), Some(b"x"), Some(b"x"), Some(b""), None]),
            captions: StringArray::from(vec![Some("own"), Some("own"), Some(" ... "), Some("own"), Some("own")]),
            all_captions: Some(lists(&[&[Some("a"), Some("b")], &[Some(""), Some("..."), None], &[], &[], &[]])),
            questions: None,
            question_lists: None,
            status: None,
            keys: None,
            bad_texts: BTreeSet::new(),
            refused: BTreeMap::new(),
        }
    }

    #[test]
    fn blank_texts_are_none() {
        let rows = rows();
        assert_eq!(rows.texts(0), ["a", "b"]);
        assert_eq!(rows.texts(1), ["own"], "a list of blanks gives way to the caption");
        assert_eq!(rows.texts(2), [""; 0]);
        let first = first_texts(rows.all_captions.as_ref().unwrap());
        assert_eq!(first.iter().collect::<Vec<_>>(), [Some("a"), None, None, None, None]);
    }

    #[test]
    fn every_reason_that_needs_no_decoding() {
        let reasons = |rows: &Rows| (0..rows.len()).map(|row| rows.unusable(row)).collect::<Vec<_>>();
        let mut rows = rows();
        assert_eq!(reasons(&rows), [None, None, Some("no_caption"), Some("no_image"), Some("no_image")]);
        rows.bad_texts.insert(2);
        assert_eq!(rows.unusable(2), Some("caption_not_utf8"));
        rows.refused.insert(0, "repeated_key");
        assert_eq!(rows.unusable(0), Some("repeated_key"));
        rows.status =
            Some(StringArray::from(vec![Some("success"), Some("filtered"), Some("failed_to_resize"), None, None]));
        assert_eq!(rows.unusable(1), Some("filtered"));
        assert_eq!(rows.unusable(2), Some("download_failed"));
        assert_eq!(rows.unusable(3), Some("download_failed"), "a null status is no success");
        let mut asked = self::rows();
        asked.questions = Some(StringArray::from(vec!["q"; 5]));
        assert_eq!(asked.unusable(2), None, "an answer of points is an answer");
        asked.captions = StringArray::from(vec![Some(" "); 5]);
        assert_eq!(asked.unusable(2), Some("no_answer"));
    }
}
