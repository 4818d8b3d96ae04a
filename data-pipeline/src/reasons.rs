//! Every reason why a row, or all rows of a row group, are not used: the words of counts, metrics, checkpoints, quarantine
//! lists and reports, which never change.

use crate::image;

/// Reasons of rows, with what each means in one line. Those of encoded images are [`image::REASONS`].
pub const ROW_REASONS: &[(&str, &str)] = &[
    ("download_failed", "img2dataset's `status` is not `success`"),
    ("filtered", "`blip2 data filter` kept none of its captions"),
    ("no_image", "no bytes of an image: null, empty, or a sample of a tar without an image"),
    ("image_missing", "the annotated image is not in the folder under its name"),
    ("image_ambiguous", "Visual Genome's id is the name of two different files"),
    ("ambiguous_image", "a sample of a tar has several images, and no text, name or `columns.image` tells which"),
    ("repeated_key", "a sample of a tar has two different members of one name"),
    ("no_caption", "no caption, or one of which cleaning leaves nothing"),
    ("caption_not_utf8", "its only caption is no UTF-8"),
    ("no_question", "no question about the image, in sources of questions"),
    ("no_answer", "no answer to the question"),
    ("caption_too_short", "filter `min_caption_chars`"),
    ("caption_too_long", "filter `max_caption_chars`"),
    ("junk_caption", "filter `drop_junk_captions`"),
    ("image_too_small", "filter `min_side`"),
    ("image_too_long", "filter `max_aspect`"),
    ("nsfw", "filter `max_nsfw`: a class above it"),
    ("nsfw_unknown", "filter `max_nsfw`: no class, or none of LAION's three; unknown is unsafe"),
    ("similarity", "filter `min_similarity`: below it, or a value that is no number"),
];

/// Reasons of row groups, which cost all of their rows.
pub const ROW_GROUP_REASONS: &[(&str, &str)] = &[
    ("shard_unavailable", "the store fails after its retries"),
    ("shard_changed", "the shard is not the one that was catalogued"),
    ("shard_damaged", "the shard's bytes are damaged"),
    ("shard_columns", "the shard lacks a column"),
];

/// Every reason with its meaning.
pub fn all() -> impl Iterator<Item = (&'static str, &'static str)> {
    ROW_REASONS.iter().chain(image::REASONS).chain(ROW_GROUP_REASONS).copied()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::filters::FILTER_REASONS;

    #[test]
    fn reasons_are_told_apart_and_those_of_filters_are_among_them() {
        let names: BTreeSet<&str> = all().map(|(name, _)| name).collect();
        assert_eq!(names.len(), all().count());
        assert!(FILTER_REASONS.iter().all(|reason| names.contains(reason)));
    }

    /// The table of docs/data.md is this one.
    #[test]
    fn the_page_has_every_reason_with_its_meaning() {
        let page = include_str!("../../docs/data.md");
        let rows: Vec<&str> = page.lines().filter(|line| line.starts_with("| `")).collect();
        for (name, meaning) in all() {
            let row = format!("| `{name}` | {meaning} |");
            assert!(rows.contains(&row.as_str()), "docs/data.md lacks the row\n{row}");
        }
    }
}
