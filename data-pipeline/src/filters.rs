//! Which rows of a source are used: decided once, when the catalogue is made, from columns that need no decoding.

use std::collections::BTreeMap;

use configs::{Filters, Nsfw};

/// Characters that one caption repeats in a row at most; "!!!!!!!!" is no description.
const MOST_REPEATS: usize = 8;
/// Share of a caption's characters that are letters or spaces at least; part numbers and prices have fewer.
const LEAST_LETTERS: f64 = 0.5;
/// Characters after the last dot of a file's name at most.
const LONGEST_EXTENSION: usize = 4;

/// Facts about a row that are known without decoding its image.
#[derive(Clone, Copy, Debug, Default)]
pub struct Facts<'a> {
    /// The reason why the row cannot be used whatever the filters are ([`crate::rows::Rows::unusable`]).
    pub unusable: Option<&'static str>,
    /// The caption that filters judge; none where the source tells of none.
    pub caption: Option<&'a str>,
    /// Sides of the image in pixels, in any order: LAION swaps them.
    pub sides: Option<(u64, u64)>,
    /// Class of unsafe content; none where none can be read.
    pub nsfw: Option<Nsfw>,
    /// CLIP similarity of image and caption; NaN where the row has one that cannot be read, none where the source has none.
    pub similarity: Option<f64>,
}

/// Rows that a filter left out, by reason.
pub type Rejected = BTreeMap<String, u64>;

/// The reason why a row is not used; none when it is.
///
/// A row whose class of unsafe content cannot be read is as unsafe as any: it passes where every class passes.
pub fn reject(filters: &Filters, facts: &Facts<'_>) -> Option<&'static str> {
    if facts.unusable.is_some() {
        return facts.unusable;
    }
    if let Some(caption) = facts.caption.map(str::trim) {
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
    reject_by_metadata(filters, facts)
}

/// The part of [`reject`] that LAION's metadata decide.
pub(crate) fn reject_by_metadata(filters: &Filters, facts: &Facts<'_>) -> Option<&'static str> {
    if let Some(most) = filters.max_nsfw.filter(|most| *most != Nsfw::Nsfw) {
        match facts.nsfw {
            None => return Some("nsfw_unknown"),
            Some(class) if suspicion(class) > suspicion(most) => return Some("nsfw"),
            Some(_) => (),
        }
    }
    let is_below = |least: f64| facts.similarity.is_some_and(|value| value.is_nan() || value < least);
    filters.min_similarity.is_some_and(is_below).then_some("similarity")
}

/// Reasons that filters of a config give; every other reason is the data's own.
pub const FILTER_REASONS: [&str; 8] = [
    "caption_too_short",
    "caption_too_long",
    "junk_caption",
    "image_too_small",
    "image_too_long",
    "nsfw",
    "nsfw_unknown",
    "similarity",
];

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

/// LAION's class of unsafe content; none for any other word, of which it is not known how unsafe it is.
pub fn class_of(word: &str) -> Option<Nsfw> {
    [Nsfw::Unlikely, Nsfw::Unsure, Nsfw::Nsfw]
        .into_iter()
        .find(|class| word.trim().eq_ignore_ascii_case(class.as_str()))
}

/// The worst of several classes of one row; none when one of them cannot be read, or there is none.
pub(crate) fn worst(classes: impl IntoIterator<Item = Option<Nsfw>>) -> Option<Nsfw> {
    let all: Option<Vec<Nsfw>> = classes.into_iter().collect();
    all?.into_iter().max_by_key(|class| suspicion(*class))
}

fn suspicion(class: Nsfw) -> u8 {
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
            min_side: Some(200),
            max_aspect: Some(3.0),
            max_nsfw: Some(Nsfw::Unlikely),
            min_similarity: Some(0.3),
            min_caption_chars: Some(5),
            max_caption_chars: Some(20),
            drop_junk_captions: true,
        }
    }

    fn good() -> Facts<'static> {
        Facts {
            unusable: None,
            caption: Some("a dog runs"),
            sides: Some((400, 250)),
            nsfw: Some(Nsfw::Unlikely),
            similarity: Some(0.3),
        }
    }

    fn reason(change: impl Fn(&mut Facts<'static>)) -> Option<&'static str> {
        let mut facts = good();
        change(&mut facts);
        reject(&filters(), &facts)
    }

    #[test]
    fn each_filter_has_its_reason() {
        assert_eq!(reason(|_| ()), None);
        assert_eq!(reason(|f| f.unusable = Some("no_image")), Some("no_image"));
        assert_eq!(reason(|f| f.caption = Some(" dog ")), Some("caption_too_short"));
        assert_eq!(reason(|f| f.caption = Some("a dog runs in the grass")), Some("caption_too_long"));
        assert_eq!(reason(|f| f.caption = Some("IMG_20991.jpg")), Some("junk_caption"));
        assert_eq!(reason(|f| f.sides = Some((199, 400))), Some("image_too_small"));
        assert_eq!(reason(|f| f.sides = Some((200, 601))), Some("image_too_long"));
        assert_eq!(reason(|f| f.nsfw = Some(Nsfw::Unsure)), Some("nsfw"));
        assert_eq!(reason(|f| f.similarity = Some(0.29)), Some("similarity"));
        assert_eq!(reason(|f| f.similarity = Some(f64::NAN)), Some("similarity"));
    }

    #[test]
    fn facts_that_a_source_lacks_pass_except_for_safety() {
        let lacking = |filters: &Filters| reject(filters, &Facts::default());
        assert_eq!(lacking(&filters()), Some("nsfw_unknown"));
        assert_eq!(lacking(&Filters { max_nsfw: Some(Nsfw::Unsure), ..filters() }), Some("nsfw_unknown"));
        assert_eq!(lacking(&Filters { max_nsfw: Some(Nsfw::Nsfw), ..filters() }), None, "every class passes");
        assert_eq!(lacking(&Filters { max_nsfw: None, ..filters() }), None);
    }

    #[test]
    fn a_class_is_one_of_three_words() {
        assert_eq!(class_of("UNLIKELY"), Some(Nsfw::Unlikely));
        assert_eq!(class_of(" nsfw "), Some(Nsfw::Nsfw));
        for other in ["", "?", "0.98", "false", "safe"] {
            assert_eq!(class_of(other), None, "{other}");
        }
        assert_eq!(worst([Some(Nsfw::Unlikely), Some(Nsfw::Nsfw)]), Some(Nsfw::Nsfw));
        assert_eq!(worst([Some(Nsfw::Unlikely), None]), None);
        assert_eq!(worst([]), None);
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
