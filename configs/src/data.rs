//! The data: sources, their mixture, how they are read, decoded and augmented.

use crate::decode::Place;
use crate::problem::Problems;
use crate::rule::Rule;
use crate::section::{all_defaults, choice, kinds, section};
use crate::uri::Uri;

section! {
    /// Where the samples come from and in which form they reach the model.
    pub struct Data {
        /// Side of the square images in pixels; equal to the image encoder's.
        pub image_size: usize = 224 => Rule::within(1.0, 4096.0),
        /// Independent reading positions per source. A global batch takes the same number of rows from each lane, and
        /// each slice reads the same number of lanes; the order of samples depends on it, so it is fixed for a run.
        pub lanes: usize => Rule::within(1.0, 65536.0),
        /// Row groups per lane in the window in which rows are shuffled.
        pub shuffle_window_row_groups: usize = 16 => Rule::within(1.0, 65536.0),
        /// Whether every image gets the caption of another sample: a control, in which nothing can be learned that
        /// connects images and texts.
        pub shuffle_captions: bool = false,
        /// Reading and decoding.
        pub loader: Loader = all_defaults(),
        /// Random changes to training images.
        pub augment: Augment = all_defaults(),
        /// The sources and their shares.
        pub sources: Vec<Source>,
    }
}

section! {
    /// How shards are read and images are decoded. A run may continue with other threads, memory and `max_bad_fraction`;
    /// the rest decides about samples and pixels.
    pub struct Loader {
        /// Threads that decode images, per rank.
        pub decode_threads: usize = 8 => Rule::within(1.0, 1024.0),
        /// Memory for data in flight, per rank, in MiB.
        pub memory_mb: u64 = 4096 => Rule::at_least(16.0),
        /// Row groups larger than this many MiB are read in parts.
        pub read_unit_mb: u64 = 64 => Rule::at_least(1.0),
        /// The run stops when more than this share of the samples could not be used.
        pub max_bad_fraction: f64 = 0.01 => Rule::within(0.0, 1.0),
        /// Images with more pixels than this are not decoded.
        pub max_image_pixels: u64 = 89_478_485 => Rule::at_least(1.0),
        /// How images are brought to size.
        pub resize: Resize = Resize::Fast,
    }
}

choice! {
    /// How images are brought to size. All are bicubic with a = -0.5.
    pub enum Resize {
        /// Vectorised; within one level of Pillow's result.
        "fast" => Fast,
        /// Pillow's result to the last bit.
        "pillow_exact" => PillowExact,
        /// JPEGs are decoded at a fraction of their size where that is still larger than needed; the fastest.
        "scaled" => Scaled,
    }
}

section! {
    /// Random changes to training images.
    pub struct Augment check check_augment {
        /// Share of the image's area that the random crop keeps: smallest and largest.
        pub scale: [f64; 2] = [0.5, 1.0] => Rule::share(),
        /// Width over height of the random crop: smallest and largest, drawn evenly in the logarithm.
        pub aspect: [f64; 2] = [0.75, 1.333_333_333_333_333_3] => Rule::above(0.0),
        /// Probability of a horizontal flip.
        pub flip: f64 = 0.5 => Rule::within(0.0, 1.0),
    }
}

kinds! {
    /// A set of images with texts.
    pub enum Source {
        /// Parquet shards with image bytes and captions, as img2dataset writes them.
        "parquet" => Parquet(ShardSource),
        /// WebDataset tar shards: images, captions in `.txt`, metadata in `.json`.
        "webdataset" => WebDataset(ShardSource),
        /// LAION metadata in Parquet (URL, TEXT ...) whose images `blip2 data fetch` has brought into shards.
        "laion" => Laion(LaionSource),
        /// COCO captions: an annotation file and a folder of images.
        "coco_captions" => CocoCaptions(AnnotatedSource),
        /// Visual Genome region descriptions: an annotation file and a folder of images.
        "visual_genome" => VisualGenome(AnnotatedSource),
        /// Questions and answers about images in VQAv2's form.
        "vqa" => Vqa(VqaSource),
        /// Rendered scenes; the shards are written to `uri` before training if they are not there.
        "synthetic" => Synthetic(SyntheticSource),
    }
}

section! {
    /// Shards that hold images and captions.
    pub struct ShardSource {
        /// Name in metrics and messages.
        pub name: String => Rule::Name,
        /// The folder of the shards.
        pub uri: Uri,
        /// The catalogue that `blip2 data index` made; null for one of the run's own, made when it starts.
        pub catalog: Option<Uri> = None,
        /// Share of the samples, relative to the other sources.
        pub weight: f64 => Rule::above(0.0),
        /// Of a sample's captions, best first, how many one is drawn from; null for all.
        pub top_captions: Option<usize> = None => Rule::at_least(1.0),
        /// Columns of Parquet, or members of tars, that are read in place of those with the usual names; null for these.
        pub columns: Option<Columns> = None,
        /// Which samples are used.
        pub filters: Filters = all_defaults(),
    }
}

section! {
    /// Names of columns of Parquet, or of members of tars by what follows the key; null for the usual ones.
    pub struct Columns {
        /// Encoded images: binary, or a struct with binary `bytes`; in tars an extension, such as `left.png`.
        pub image: Option<String> = None => Rule::NotEmpty,
        /// Captions: texts or lists of texts; in tars an extension, such as `caption.txt`, or a key of the JSON.
        pub caption: Option<String> = None => Rule::NotEmpty,
        /// Keys of samples; in tars a key of the JSON.
        pub key: Option<String> = None => Rule::NotEmpty,
    }
}

section! {
    /// LAION metadata and the shards fetched from it.
    pub struct LaionSource {
        /// Name in metrics and messages.
        pub name: String => Rule::Name,
        /// The folder of the metadata.
        pub uri: Uri,
        /// The folder into which `blip2 data fetch` writes the shards that are trained on.
        pub fetched: Uri,
        /// The catalogue that `blip2 data index` made; null for one of the run's own, made when it starts.
        pub catalog: Option<Uri> = None,
        /// Share of the samples, relative to the other sources.
        pub weight: f64 => Rule::above(0.0),
        /// Of a sample's captions, best first, how many one is drawn from; null for all.
        pub top_captions: Option<usize> = None => Rule::at_least(1.0),
        /// Which samples are used.
        pub filters: Filters = all_defaults(),
    }
}

section! {
    /// An annotation file and a folder of images.
    pub struct AnnotatedSource {
        /// Name in metrics and messages.
        pub name: String => Rule::Name,
        /// The folder that holds both.
        pub uri: Uri,
        /// The annotation file below `uri`.
        pub annotations: String => Rule::NotEmpty,
        /// The folder of images below `uri`.
        pub images: String = "images".to_owned(),
        /// The catalogue that `blip2 data index` made; null for one of the run's own, made when it starts.
        pub catalog: Option<Uri> = None,
        /// Share of the samples, relative to the other sources.
        pub weight: f64 => Rule::above(0.0),
    }
}

section! {
    /// Questions and answers about images.
    pub struct VqaSource {
        /// Name in metrics and messages.
        pub name: String => Rule::Name,
        /// The folder that holds questions, annotations and images.
        pub uri: Uri,
        /// The file of questions below `uri`.
        pub questions: String => Rule::NotEmpty,
        /// The file of answers below `uri`.
        pub annotations: String => Rule::NotEmpty,
        /// The folder of images below `uri`.
        pub images: String = "images".to_owned(),
        /// Share of the samples, relative to the other sources.
        pub weight: f64 => Rule::above(0.0),
    }
}

section! {
    /// Rendered scenes, a pure function of these settings.
    pub struct SyntheticSource check check_synthetic {
        /// Name in metrics and messages.
        pub name: String => Rule::Name,
        /// The folder into which the shards are written.
        pub uri: Uri,
        /// Share of the samples, relative to the other sources.
        pub weight: f64 = 1.0 => Rule::above(0.0),
        /// Of a scene's captions, the fullest first, how many one is drawn from; null for all.
        pub top_captions: Option<usize> = None => Rule::at_least(1.0),
        /// Scenes to train on.
        pub scenes: u64 => Rule::at_least(1.0),
        /// Scenes of each of the two test splits: colour-shape pairs seen in training, and held-out ones.
        pub test_scenes: u64 = 500 => Rule::within(0.0, 1e6),
        /// Side of the rendered images in pixels.
        pub image_size: usize = 64 => Rule::within(16.0, 2048.0),
        /// Fewest objects of a scene.
        pub min_objects: usize = 1 => Rule::within(1.0, 4.0),
        /// Most objects of a scene.
        pub max_objects: usize = 4 => Rule::within(1.0, 4.0),
        /// Whether objects may be striped, dotted or checked; without patterns scenes are easier.
        pub patterns: bool = true,
        /// Quality of the JPEG images.
        pub jpeg_quality: usize = 90 => Rule::within(1.0, 100.0),
        /// Rows of one shard.
        pub shard_rows: u64 = 10_000 => Rule::within(1.0, 4e9),
        /// Seed of the scenes and of the held-out pairs.
        pub seed: u64 = 42,
    }
}

section! {
    /// Limits on the samples that are used; null for none. Samples without the column in question pass, except for
    /// `max_nsfw`: a sample that is not known to be safe is left out.
    pub struct Filters {
        /// Shortest side of the image in pixels.
        pub min_side: Option<u64> = None => Rule::at_least(1.0),
        /// Longest side over shortest side.
        pub max_aspect: Option<f64> = None => Rule::at_least(1.0),
        /// The most suspect class of the NSFW column that is still used; rows without a readable class are left out.
        pub max_nsfw: Option<Nsfw> = None,
        /// Lowest CLIP similarity of image and caption.
        pub min_similarity: Option<f64> = None => Rule::within(-1.0, 1.0),
        /// Shortest caption in characters.
        pub min_caption_chars: Option<u64> = None => Rule::at_least(1.0),
        /// Longest caption in characters.
        pub max_caption_chars: Option<u64> = None => Rule::at_least(1.0),
        /// Whether captions that describe nothing in any language are left out: URLs, names of files, numbers.
        pub drop_junk_captions: bool = false,
    }
}

impl Filters {
    /// Filters that leave nothing out.
    pub fn none() -> Self {
        Self {
            min_side: None,
            max_aspect: None,
            max_nsfw: None,
            min_similarity: None,
            min_caption_chars: None,
            max_caption_chars: None,
            drop_junk_captions: false,
        }
    }
}

choice! {
    /// LAION's classes of unsafe content, the least suspect first.
    pub enum Nsfw {
        /// Probably safe.
        "unlikely" => Unlikely,
        /// Not decided.
        "unsure" => Unsure,
        /// Probably not safe.
        "nsfw" => Nsfw,
    }
}

impl Source {
    /// Name in metrics and messages.
    pub fn name(&self) -> &str {
        match self {
            Source::Parquet(source) | Source::WebDataset(source) => &source.name,
            Source::Laion(source) => &source.name,
            Source::CocoCaptions(source) | Source::VisualGenome(source) => &source.name,
            Source::Vqa(source) => &source.name,
            Source::Synthetic(source) => &source.name,
        }
    }

    /// The folder of the source.
    pub fn uri(&self) -> &Uri {
        match self {
            Source::Parquet(source) | Source::WebDataset(source) => &source.uri,
            Source::Laion(source) => &source.uri,
            Source::CocoCaptions(source) | Source::VisualGenome(source) => &source.uri,
            Source::Vqa(source) => &source.uri,
            Source::Synthetic(source) => &source.uri,
        }
    }

    /// Share of the samples, relative to the other sources.
    pub fn weight(&self) -> f64 {
        match self {
            Source::Parquet(source) | Source::WebDataset(source) => source.weight,
            Source::Laion(source) => source.weight,
            Source::CocoCaptions(source) | Source::VisualGenome(source) => source.weight,
            Source::Vqa(source) => source.weight,
            Source::Synthetic(source) => source.weight,
        }
    }

    /// The catalogue that the config names.
    pub fn catalog(&self) -> Option<&Uri> {
        match self {
            Source::Parquet(source) | Source::WebDataset(source) => source.catalog.as_ref(),
            Source::Laion(source) => source.catalog.as_ref(),
            Source::CocoCaptions(source) | Source::VisualGenome(source) => source.catalog.as_ref(),
            Source::Vqa(_) | Source::Synthetic(_) => None,
        }
    }

    /// Of a sample's captions, best first, how many one is drawn from.
    pub fn top_captions(&self) -> Option<usize> {
        match self {
            Source::Parquet(source) | Source::WebDataset(source) => source.top_captions,
            Source::Laion(source) => source.top_captions,
            Source::Synthetic(source) => source.top_captions,
            Source::CocoCaptions(_) | Source::VisualGenome(_) | Source::Vqa(_) => None,
        }
    }

    /// Whether the source has questions and answers.
    pub fn has_questions(&self) -> bool {
        matches!(self, Source::Vqa(_) | Source::Synthetic(_))
    }
}

impl Data {
    /// The share of each source, adding up to 1.
    pub fn shares(&self) -> Vec<f64> {
        let total: f64 = self.sources.iter().map(Source::weight).sum();
        self.sources.iter().map(|source| source.weight() / total).collect()
    }
}

/// Notes numbers of objects that are swapped.
fn check_synthetic(source: &SyntheticSource, place: Place<'_>, problems: &mut Problems) {
    if source.min_objects > source.max_objects {
        let message =
            format!("found {} with max_objects {}; expected at most that", source.min_objects, source.max_objects);
        place.refuse_at("min_objects", message, format!("write {} or less", source.max_objects), problems);
    }
}

/// Notes ranges whose ends are swapped.
fn check_augment(augment: &Augment, place: Place<'_>, problems: &mut Problems) {
    for (key, [low, high]) in [("scale", augment.scale), ("aspect", augment.aspect)] {
        if low > high {
            let message = format!("found [{low:?}, {high:?}]; expected the smaller end first");
            place.refuse_at(key, message, format!("write [{high:?}, {low:?}]"), problems);
        }
    }
}
