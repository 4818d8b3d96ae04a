//! The schema of a run, recorded by the sections themselves: what the configuration reference is made from.

use crate::decode::FromNode;
use crate::rule::{Rule, one_of};
use crate::run::Run;
use crate::suggest::listed;

/// What a value looks like in YAML.
#[derive(Clone, Debug)]
pub enum Shape {
    /// Text.
    Text,
    /// A whole number, 0 or more.
    Whole,
    /// A number.
    Number,
    /// `true` or `false`.
    Switch,
    /// One of some words, each with what it means.
    Choice(Vec<(&'static str, String)>),
    /// Text in a form of its own, described in words.
    Special(&'static str),
    /// A list, of a fixed length if one is given.
    List(Box<Shape>, Option<usize>),
    /// A value or `null`.
    Optional(Box<Shape>),
    /// A section with keys.
    Section(SectionSchema),
    /// A section whose keys depend on its `kind`.
    Kinds(KindsSchema),
}

/// The keys of a section.
#[derive(Clone, Debug)]
pub struct SectionSchema {
    /// What the section is.
    pub doc: String,
    /// Its keys in the order in which they are documented.
    pub fields: Vec<FieldSchema>,
}

/// One key of a section.
#[derive(Clone, Debug)]
pub struct FieldSchema {
    /// The key.
    pub name: &'static str,
    /// What it means.
    pub doc: String,
    /// What its value looks like.
    pub shape: Shape,
    /// Which values are allowed.
    pub rule: Rule,
    /// The value it has when it is not stated, as JSON; `None` if it has to be stated.
    pub default: Option<String>,
}

/// A section that comes in several kinds.
#[derive(Clone, Debug)]
pub struct KindsSchema {
    /// What the section is.
    pub doc: String,
    /// Each kind, in the order in which they are documented.
    pub kinds: Vec<KindSchema>,
}

/// One kind of a section.
#[derive(Clone, Debug)]
pub struct KindSchema {
    /// The word after `kind:`.
    pub name: &'static str,
    /// What the section is when it is of this kind.
    pub doc: String,
    /// Its keys besides `kind`.
    pub section: SectionSchema,
}

/// One line of the configuration reference.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reference {
    /// The dotted path; `[]` stands for each item of a list, `{opt}` for the keys of kind `opt`.
    pub path: String,
    /// What is expected, in words.
    pub expected: String,
    /// The allowed words, if only some are.
    pub allowed: Vec<String>,
    /// The default as JSON; `None` if the key has to be stated (or is a section, whose keys say it).
    pub default: Option<String>,
    /// What the key means.
    pub doc: String,
}

impl Shape {
    /// The shape and its limits in words, e.g. "a whole number of at least 1".
    pub fn in_words(&self, rule: &Rule) -> String {
        match self {
            Shape::Text => rule.expected("text"),
            Shape::Whole if *rule == Rule::Any => Rule::at_least(0.0).expected("a whole number"),
            Shape::Whole => rule.expected("a whole number"),
            Shape::Number => rule.expected("a number"),
            Shape::Switch => "true or false".to_owned(),
            Shape::Choice(choices) => one_of(choices.iter().map(|(name, _)| *name)),
            Shape::Special(words) => (*words).to_owned(),
            Shape::List(item, None) => format!("a list (each item: {})", item.in_words(rule)),
            Shape::List(item, Some(length)) => format!("a list of {length} values (each: {})", item.in_words(rule)),
            Shape::Optional(inner) => format!("{}, or null", inner.in_words(rule)),
            Shape::Section(schema) => {
                format!(
                    "a section with the keys {}",
                    listed(schema.fields.iter().map(|field| field.name)).replace(" or ", " and ")
                )
            }
            Shape::Kinds(schema) => {
                format!("a section with `kind`: {}", listed(schema.kinds.iter().map(|kind| kind.name)))
            }
        }
    }

    fn list_below(&self, path: &str, all: &mut Vec<Reference>) {
        match self {
            Shape::List(item, _) => item.list_below(&format!("{path}[]"), all),
            Shape::Optional(inner) => inner.list_below(path, all),
            Shape::Section(schema) => schema.list_below(path, all),
            Shape::Kinds(schema) => {
                for kind in &schema.kinds {
                    kind.section.list_below(&format!("{path}{{{}}}", kind.name), all);
                }
            }
            _ => {}
        }
    }
}

impl SectionSchema {
    fn list_below(&self, path: &str, all: &mut Vec<Reference>) {
        for field in &self.fields {
            let path = if path.is_empty() { field.name.to_owned() } else { format!("{path}.{}", field.name) };
            let allowed = match &field.shape {
                Shape::Choice(choices) => choices.iter().map(|(name, _)| (*name).to_owned()).collect(),
                Shape::Kinds(schema) => schema.kinds.iter().map(|kind| kind.name.to_owned()).collect(),
                _ => Vec::new(),
            };
            all.push(Reference {
                path: path.clone(),
                expected: field.shape.in_words(&field.rule),
                allowed,
                default: field.default.clone(),
                doc: field.doc.clone(),
            });
            field.shape.list_below(&path, all);
        }
    }
}

/// What a whole run looks like: the root that the sections hang from.
pub fn run() -> Shape {
    Run::shape()
}

/// Every key of a run in the order of the sections.
pub fn reference() -> Vec<Reference> {
    let mut all = Vec::new();
    run().list_below("", &mut all);
    all
}

/// Where a key that is not known here would be known, as advice.
pub(crate) fn elsewhere(key: &str) -> Option<String> {
    let renamed = OTHER_NAMES.iter().find(|(other, _)| key.eq_ignore_ascii_case(other));
    if let Some((_, ours)) = renamed {
        return Some(format!("here that is called {ours}"));
    }
    let mut places: Vec<String> = Vec::new();
    for line in reference() {
        let Some((section, name)) = line.path.rsplit_once('.') else { continue };
        let section = match section.strip_suffix('}').and_then(|section| section.rsplit_once('{')) {
            Some((section, kind)) => format!("{section} of kind {kind}"),
            None => section.to_owned(),
        };
        if name == key && !places.contains(&section) {
            places.push(section);
        }
    }
    match places.len() {
        0 => None,
        1..=3 => Some(format!("`{key}` is a key of {}", places.join(" and of "))),
        _ => None,
    }
}

/// What other training code calls our keys.
const OTHER_NAMES: &[(&str, &str)] = &[
    ("accum_grad_iters", "`stages[].slices`: a slice is what one device computes at once"),
    ("batch_size", "`stages[].global_batch`, over all ranks"),
    ("batch_size_train", "`stages[].global_batch`, over all ranks"),
    ("beta1", "`stages[].optimizer.betas`"),
    ("beta2", "`stages[].optimizer.betas`"),
    ("cross_attention_freq", "`model.qformer.cross_attention_every`"),
    ("epochs", "`stages[].steps`: length is stated in steps"),
    ("gradient_accumulation_steps", "`stages[].slices`: a slice is what one device computes at once"),
    ("grad_clip", "`stages[].optimizer.max_grad_norm`"),
    ("init_lr", "`stages[].lr_schedule.peak`"),
    ("learning_rate", "`stages[].lr_schedule.peak`"),
    ("lr", "`stages[].lr_schedule.peak`"),
    ("max_epoch", "`stages[].steps`: length is stated in steps"),
    ("max_iters", "`stages[].steps`"),
    ("max_lr", "`stages[].lr_schedule.peak`"),
    ("max_steps", "`stages[].steps`"),
    ("max_txt_len", "`model.qformer.max_text_tokens` and `model.language_model.max_text_tokens`"),
    ("min_lr", "`stages[].lr_schedule.floor`"),
    ("num_query_token", "`model.qformer.num_query_tokens`"),
    ("num_workers", "`data.loader.decode_threads`"),
    ("output_dir", "`run.output`"),
    ("use_grad_checkpoint", "`recompute` of a tower"),
    ("vit_precision", "`model.image_encoder.dtype`"),
    ("warmup_lr", "`stages[].lr_schedule.start`"),
    ("world_size", "`cluster.nodes` and `cluster.ranks_per_node`"),
];
