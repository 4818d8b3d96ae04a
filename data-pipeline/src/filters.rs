//! Which rows of a source are used: decided once, when the catalogue is made, from columns that need no decoding.

use std::collections::BTreeMap;

use configs::{Filters, Nsfw};

/// Characters that one caption repeats in a row at most; "!!!!!!!!" is no description.
const MOST_REPEATS: usize = 8;
/// Share of a caption's characters that are letters or spaces at least; part numbers and prices have fewer.
const LEAST_LETTERS: f64 = 0.5;
/// Characters after the last dot of a file's name at most.
const LONGEST_EXTENSION: usize = 4;

/// What is known of a row without decoding its image. Nothing where the source has no such column.
#[derive(Clone, Copy, Debug, Default)]
pub struct Facts<'a> {
    /// img2dataset's status.
    pub status: Option<&'a str>,
    /// Whether the source tells of captions at all.
    pub tells_caption: bool,
    /// The caption; nothing when it is null.
    pub caption: Option<&'a str>,
    /// Sides of the image in pixels, in any order: LAION swaps them.
    pub sides: Option<(u64, u64)>,
    /// LAION's class of unsafe content.
    pub nsfw: Option<&'a str>,
    /// CLIP similarity of image and caption.
    pub similarity: Option<f64>,
}

/// Rows that a filter left out, by reason.
pub type Rejected = BTreeMap<String, u64>;

/// Why a row is not used; nothing when it is.
pub fn reject(filters: &Filters, facts: &Facts<'_>) -> Option<&'static str> {
    if let Some(reason) = facts.status.and_then(refused_by_status) {
        return Some(reason);
    }
    if facts.tells_caption {
        let caption = facts.caption.unwrap_or_default().trim();
        if caption.is_empty() {
            return Some("no_caption");
        }
        let characters = caption.chars().count() as u64;
        if filters.min_caption_chars.is_some_and(|least| characters < least) {
            return Some("caption_too_short");
        }
        if filters.max_caption_chars.is_some_and(|most| characters > most) {
            return Some("caption_too_long");
        }
        if filters.drop_junk_captions && is_junk(caption) {
            return Some("junk_caption");
        }
    }
    if let Some((one, other)) = facts.sides {
        let (short, long) = (one.min(other), one.max(other));
        if filters.min_side.is_some_and(|least| short < least) {
            return Some("image_too_small");
        }
        if filters.max_aspect.is_some_and(|most| long as f64 > short as f64 * most) {
            return Some("image_too_long");
        }
    }
    if filters.max_nsfw.is_some_and(|most| facts.nsfw.is_some_and(|class| suspicion(class) > suspicion_of(most))) {
        return Some("nsfw");
    }
    if filters.min_similarity.is_some_and(|least| facts.similarity.is_some_and(|value| value.is_nan() || value < least))
    {
        return Some("similarity");
    }
    None
}

/// The status of rows that `blip2 data filter` found no caption for.
pub const FILTERED: &str = "filtered";

/// Why a row of this status is not used; nothing when it is.
pub fn refused_by_status(status: &str) -> Option<&'static str> {
    match status {
        "success" => None,
        FILTERED => Some(FILTERED),
        _ => Some("download_failed"),
    }
}

/// How suspect a class of the NSFW column is. What is neither of LAION's three classes counts as undecided.
fn suspicion(class: &str) -> u8 {
    match class.to_ascii_lowercase().as_str() {
        "unlikely" => suspicion_of(Nsfw::Unlikely),
        "nsfw" => suspicion_of(Nsfw::Nsfw),
        _ => suspicion_of(Nsfw::Unsure),
    }
}

fn suspicion_of(class: Nsfw) -> u8 {
    match class {
        Nsfw::Unlikely => 0,
        Nsfw::Unsure => 1,
        Nsfw::Nsfw => 2,
    }
}

/// Whether a caption describes nothing, in whatever language: no letter, fewer letters and spaces than other characters,
/// one character many times in a row, or a single word that is a URL or the name of a file.
pub fn is_junk(caption: &str) -> bool {
    let (mut all, mut letters, mut spaces, mut run, mut longest_run) = (0_usize, 0_usize, 0_usize, 0, 0);
    let mut last = None;
    for character in caption.chars() {
        all += 1;
        letters += usize::from(character.is_alphabetic());
        spaces += usize::from(character.is_whitespace());
        run = if last == Some(character) { run + 1 } else { 1 };
        longest_run = longest_run.max(run);
        last = Some(character);
    }
    letters == 0
        || ((letters + spaces) as f64) < LEAST_LETTERS * all as f64
        || longest_run > MOST_REPEATS
        || (spaces == 0 && (caption.contains("://") || caption.starts_with("www.") || is_file_name(caption)))
}

fn is_file_name(word: &str) -> bool {
    let Some((stem, extension)) = word.rsplit_once('.') else { return false };
    let is_extension = |text: &str| text.chars().all(|c| c.is_ascii_alphanumeric());
    !stem.is_empty() && (2..=LONGEST_EXTENSION).contains(&extension.len()) && is_extension(extension)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filters() -> Filters {
        Filters {
            min_side: Some(100),
            max_aspect: Some(3.0),
            max_nsfw: Some(Nsfw::Unlikely),
            min_similarity: Some(0.3),
            min_caption_chars: Some(3),
            max_caption_chars: Some(20),
            drop_junk_captions: true,
        }
    }

    fn good() -> Facts<'static> {
        Facts {
            status: Some("success"),
            tells_caption: true,
            caption: Some("a red bicycle"),
            sides: Some((200, 300)),
            nsfw: Some("UNLIKELY"),
            similarity: Some(0.31),
        }
    }

    #[test]
    fn each_filter_names_its_reason() {
        let reason = |change: fn(&mut Facts<'static>)| {
            let mut facts = good();
            change(&mut facts);
            reject(&filters(), &facts)
        };
        assert_eq!(reason(|_| ()), None);
        assert_eq!(reason(|f| f.status = Some("failed_to_download")), Some("download_failed"));
        assert_eq!(reason(|f| f.status = Some(FILTERED)), Some("filtered"));
        assert_eq!(reason(|f| f.caption = None), Some("no_caption"));
        assert_eq!(reason(|f| f.caption = Some(" \n")), Some("no_caption"));
        assert_eq!(reason(|f| f.caption = Some("ab")), Some("caption_too_short"));
        assert_eq!(reason(|f| f.caption = Some("a caption of more than twenty")), Some("caption_too_long"));
        assert_eq!(reason(|f| f.caption = Some("IMG_0001.JPG")), Some("junk_caption"));
        assert_eq!(reason(|f| f.sides = Some((99, 200))), Some("image_too_small"));
        assert_eq!(reason(|f| f.sides = Some((301, 100))), Some("image_too_long"));
        assert_eq!(reason(|f| f.nsfw = Some("UNSURE")), Some("nsfw"));
        assert_eq!(reason(|f| f.nsfw = Some("?")), Some("nsfw"));
        assert_eq!(reason(|f| f.similarity = Some(0.29)), Some("similarity"));
        assert_eq!(reason(|f| f.similarity = Some(f64::NAN)), Some("similarity"));
    }

    #[test]
    fn what_a_source_does_not_tell_passes() {
        assert_eq!(reject(&filters(), &Facts::default()), None);
    }

    #[test]
    fn junk_is_junk_in_every_language() {
        for junk in
            ["12345", "$ 19.99 - 20%", "http://a.example/b", "www.example.org", "dsc_12.jpeg", "aaaaaaaaaaaa", "#!?"]
        {
            assert!(is_junk(junk), "{junk}");
        }
        for fine in
            ["a dog", "собака на траве", "草の上の犬", "كلب على العشب", "bmw z4 2015, 3.0 l", "No. 5", "Dr.", "cat..."]
        {
            assert!(!is_junk(fine), "{fine}");
        }
    }
}
