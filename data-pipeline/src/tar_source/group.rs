//! Members of one key, and the samples that they make.
//!
//! WebDataset cuts names at the first dot of the base name: `7.jpg`, `7.caption.txt` and `7.mask.png` have the key `7`. Many
//! sets have keys with dots (`v1.0_7.jpg`, `v1.0_7.txt`), which that rule throws together. A text never goes to an image
//! whose name denies it: names that agree up to their last dot belong together; apart from that a text belongs to the key's
//! only image, or to the one that is called so (`7.image.jpg`).

use bytes::Bytes;

use super::TarSample;

/// Extensions of images. What a file is, its first bytes tell.
const IMAGES: [&str; 14] =
    ["jpg", "jpeg", "jpe", "jfif", "png", "webp", "gif", "bmp", "tif", "tiff", "avif", "heic", "heif", "jxl"];
/// Extensions of captions.
const TEXTS: [&str; 3] = ["txt", "caption", "text"];
/// Words between key and extension that name the image.
const IMAGE_WORDS: [&str; 8] = ["image", "img", "picture", "photo", "rgb", "input", "original", "main"];
/// Words between key and extension that name the caption.
const TEXT_WORDS: [&str; 8] = ["caption", "text", "txt", "alt_text", "alt", "description", "prompt", "en"];
/// Members of a group at most, so that a tar whose names all begin alike is no single group.
const MOST_MEMBERS: usize = 128;

/// A kind of member that makes up a sample.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Image,
    Text,
    Json,
}

struct Member {
    kind: Kind,
    /// Words between the key and the last extension: empty in `7.jpg`, `image` in `7.image.jpg`.
    words: String,
    content: Bytes,
}

/// Members that follow each other and whose names agree up to the first dot of the base name.
pub(super) struct Group {
    pub(super) key: String,
    pub(super) start: u64,
    pub(super) end: u64,
    members: Vec<Member>,
    /// Words of members that stand twice with other contents.
    repeated: Vec<String>,
}

/// Members that the config names as image and caption, by what follows the key.
#[derive(Clone, Debug, Default)]
pub struct Roles {
    /// Such as `jpg` or `left.png`.
    pub image: Option<String>,
    /// Such as `caption.txt`, or a key of the JSON.
    pub caption: Option<String>,
    /// A key of the JSON.
    pub key: Option<String>,
}

impl Roles {
    /// The roles that a source's `columns` name.
    pub fn of(columns: Option<&configs::Columns>) -> Self {
        let Some(columns) = columns else { return Self::default() };
        let bare = |name: &Option<String>| name.as_ref().map(|name| name.trim_start_matches('.').to_owned());
        Self { image: bare(&columns.image), caption: bare(&columns.caption), key: bare(&columns.key) }
    }

    /// The kind of a member, and its words.
    fn kind_of(&self, extension: &str) -> Option<(Kind, String)> {
        let is = |named: &Option<String>| named.as_ref().is_some_and(|named| extension.eq_ignore_ascii_case(named));
        if is(&self.image) {
            return Some((Kind::Image, String::new()));
        }
        if is(&self.caption) {
            return Some((Kind::Text, String::new()));
        }
        let (words, last) = extension.rsplit_once('.').unwrap_or(("", extension));
        let last = last.to_ascii_lowercase();
        let kind = match last.as_str() {
            "json" => Kind::Json,
            last if TEXTS.contains(&last) && self.caption.is_none() => Kind::Text,
            last if IMAGES.contains(&last) && self.image.is_none() => Kind::Image,
            _ => return None,
        };
        Some((kind, words.to_owned()))
    }
}

impl Group {
    pub(super) fn new(key: &str, start: u64) -> Self {
        Self { key: key.to_owned(), start, end: start, members: Vec::new(), repeated: Vec::new() }
    }

    /// Whether a member of this extension begins another group: the sample of names that agree up to their last dot is whole,
    /// and the words of neither name a role.
    pub(super) fn is_closed_to(&self, extension: &str, roles: &Roles) -> bool {
        let Some((_, words)) = roles.kind_of(extension) else { return false };
        let is_key =
            |words: &str| !words.is_empty() && !is_one_of(&IMAGE_WORDS, words) && !is_one_of(&TEXT_WORDS, words);
        let first = self.members.first().map_or("", |member| member.words.as_str());
        let of_first = || self.members.iter().filter(|member| member.words == first).map(|member| member.kind);
        let is_whole = of_first().any(|kind| kind == Kind::Image) && of_first().any(|kind| kind != Kind::Image);
        let is_known = self.members.iter().any(|member| member.words == words);
        self.members.len() >= MOST_MEMBERS || (!is_known && is_key(first) && is_key(&words) && is_whole)
    }

    /// Adds a member that ends at a byte of the tar.
    pub(super) fn add(&mut self, extension: &str, content: Bytes, end: u64, roles: &Roles) {
        self.end = end;
        let Some((kind, words)) = roles.kind_of(extension) else { return };
        // `7.jpg` and `7.jpeg` are two members, too.
        match self.members.iter().find(|known| known.kind == kind && known.words == words) {
            Some(known) if known.content == content => (),
            Some(_) => self.repeated.push(words),
            None => self.members.push(Member { kind, words, content }),
        }
    }

    /// The samples of the group. All have its whole range of bytes.
    pub(super) fn samples(self, roles: &Roles) -> Vec<TarSample> {
        let images: Vec<&str> = self.of(Kind::Image).map(|member| member.words.as_str()).collect();
        let main = match images.as_slice() {
            [] => None,
            [only] => Some(*only),
            several => self.main_image(several),
        };
        // Images whose own texts stand beside them are samples of their own.
        let is_whole = |words: &str| self.find(Kind::Text, words).or(self.find(Kind::Json, words)).is_some();
        let others = images.iter().copied().filter(|words| Some(*words) != main && is_whole(words));
        let others: Vec<&str> = others.collect();
        let mut samples: Vec<TarSample> = match main {
            // The words are parts of keys: no member goes without a word.
            None if !others.is_empty() => self.words().into_iter().map(|words| self.own_sample(words, roles)).collect(),
            _ => {
                let problem = (images.len() > 1 && main.is_none()).then_some("ambiguous_image");
                let of_key = self.sample_of_key(main, problem, roles);
                std::iter::once(of_key).chain(others.iter().map(|words| self.own_sample(words, roles))).collect()
            }
        };
        if let Some(last) = samples.last_mut() {
            last.ends_group = true;
        }
        samples
    }

    /// The words of images and texts, each once, in the order of the members.
    fn words(&self) -> Vec<&str> {
        let mut found: Vec<&str> = Vec::new();
        for member in self.members.iter().filter(|member| member.kind != Kind::Json) {
            if !found.contains(&member.words.as_str()) {
                found.push(&member.words);
            }
        }
        found
    }

    fn of(&self, kind: Kind) -> impl Iterator<Item = &Member> {
        self.members.iter().filter(move |member| member.kind == kind)
    }

    fn find(&self, kind: Kind, words: &str) -> Option<&Member> {
        self.of(kind).find(|member| member.words == words)
    }

    /// The image of the key itself among several: the one without words, or the one that is called so.
    fn main_image<'a>(&self, images: &[&'a str]) -> Option<&'a str> {
        let named = |word: &&str| images.iter().copied().find(|words| words.eq_ignore_ascii_case(word));
        images.iter().copied().find(|words| words.is_empty()).or_else(|| IMAGE_WORDS.iter().find_map(named))
    }

    /// The sample of the group's key, with the text that belongs to its image.
    fn sample_of_key(&self, image: Option<&str>, problem: Option<&'static str>, roles: &Roles) -> TarSample {
        let own = |kind| image.and_then(|words| self.find(kind, words));
        let is_main = image.is_none_or(|words| words.is_empty() || is_one_of(&IMAGE_WORDS, words));
        let named = || self.of(Kind::Text).find(|member| is_one_of(&TEXT_WORDS, &member.words));
        let only = || {
            let mut texts = self.of(Kind::Text);
            texts.next().filter(|_| is_main && texts.next().is_none())
        };
        let text = own(Kind::Text).or_else(|| self.find(Kind::Text, "")).or_else(named).or_else(only);
        let json = own(Kind::Json).or_else(|| self.find(Kind::Json, ""));
        // Words that no text without words shares are a part of the key.
        let is_of_key = is_main || text.or(json).is_some_and(|member| member.words.is_empty());
        let words = image.filter(|_| !is_of_key).unwrap_or_default();
        let image = image.and_then(|words| self.find(Kind::Image, words));
        TarSample {
            problem: problem.or(self.repeats(&[image, text, json])),
            ..self.sample(words, image, text, json, roles)
        }
    }

    /// The sample of names that agree up to their last dot.
    fn own_sample(&self, words: &str, roles: &Roles) -> TarSample {
        let [image, text, json] = [Kind::Image, Kind::Text, Kind::Json].map(|kind| self.find(kind, words));
        TarSample { problem: self.repeats(&[image, text, json]), ..self.sample(words, image, text, json, roles) }
    }

    /// The reason of a sample one of whose members stands twice with other contents.
    fn repeats(&self, members: &[Option<&Member>]) -> Option<&'static str> {
        let is_repeated = |member: &&Member| self.repeated.contains(&member.words);
        members.iter().copied().flatten().find(is_repeated).map(|_| "repeated_key")
    }

    fn sample(
        &self,
        words: &str,
        image: Option<&Member>,
        text: Option<&Member>,
        json: Option<&Member>,
        roles: &Roles,
    ) -> TarSample {
        let content = |member: Option<&Member>| member.map(|member| member.content.clone());
        TarSample {
            key: if words.is_empty() { self.key.clone() } else { format!("{}.{words}", self.key) },
            image: content(image),
            text: content(text),
            json: content(json),
            caption_key: roles.caption.clone(),
            problem: None,
            start: self.start,
            end: self.end,
            ends_group: false,
        }
    }
}

fn is_one_of(known: &[&str], words: &str) -> bool {
    known.iter().any(|word| words.eq_ignore_ascii_case(word))
}

/// The key and the extension of a member, as WebDataset cuts them; none for folders and hidden files.
pub(super) fn split_name(name: &str) -> Option<(&str, &str)> {
    let base = name.rfind('/').map_or(0, |slash| slash + 1);
    let dot = base + name[base..].find('.').filter(|dot| *dot > 0)?;
    Some((&name[..dot], &name[dot + 1..]))
}
