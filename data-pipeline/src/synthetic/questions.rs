//! Questions about a scene with one short answer each.
//!
//! A question is asked only when the scene leaves no doubt: a noun phrase in the singular with "the" fits exactly one
//! object, relations are asked only where the centres are far enough apart. No question of a training scene names a
//! held-out pair, not even to deny it.

use serde::{Deserialize, Serialize};

use super::scene::{Object, Relation, Scene};
use super::splits::{Pair, PairSets, Split};
use super::vocabulary::{Colour, Shape, Size, Texture, article, number_word};
use crate::rng::{CounterRng, Purpose};

/// Counter that keeps the wording of questions apart from that of captions.
const QUESTION_STREAM: u64 = 1;

/// A question about a scene.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Question {
    /// Its text, without a question mark, lower case.
    pub question: String,
    /// Its one answer: a number word, a colour, a shape, a colour and a shape, `yes` or `no`.
    pub answer: String,
    /// What it asks for.
    pub kind: QuestionKind,
}

/// What a question asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum QuestionKind {
    /// How many.
    Count,
    /// Which colour.
    Colour,
    /// Which shape.
    Shape,
    /// Where two objects are with respect to each other.
    Relation,
    /// Whether something is there.
    Existence,
}

impl QuestionKind {
    /// The name of the kind, as in the column `questions`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Count => "count",
            Self::Colour => "colour",
            Self::Shape => "shape",
            Self::Relation => "relation",
            Self::Existence => "existence",
        }
    }
}

/// A noun phrase: the attributes that are said. Fits every object that has them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct NounPhrase {
    size: Option<Size>,
    texture: Option<Texture>,
    colour: Option<Colour>,
    shape: Option<Shape>,
}

impl NounPhrase {
    fn fits(&self, object: &Object) -> bool {
        self.size.is_none_or(|size| size == object.size)
            && self.texture.is_none_or(|texture| texture == object.texture)
            && self.colour.is_none_or(|colour| colour == object.colour)
            && self.shape.is_none_or(|shape| shape == object.shape)
    }

    fn count(&self, scene: &Scene) -> usize {
        scene.objects.iter().filter(|object| self.fits(object)).count()
    }

    /// The phrase with `noun` where no shape is said.
    fn words(&self, noun: &'static str) -> String {
        let adjectives = [self.size.map(Size::word), self.texture.map(Texture::word), self.colour.map(Colour::word)];
        let noun = self.shape.map_or(noun, Shape::word);
        adjectives.into_iter().flatten().chain([noun]).collect::<Vec<_>>().join(" ")
    }

    fn plural(&self) -> String {
        let adjectives = [self.size.map(Size::word), self.texture.map(Texture::word), self.colour.map(Colour::word)];
        let noun = self.shape.map_or("objects", Shape::plural);
        adjectives.into_iter().flatten().chain([noun]).collect::<Vec<_>>().join(" ")
    }
}

/// The questions of a scene: two on counts, up to two each on colour and shape, up to three on relations, two on
/// existence.
pub fn questions(scene: &Scene) -> Vec<Question> {
    questions_with(scene, &PairSets::new(scene.seed))
}

/// As [`questions`], with the pair sets of the scene's seed at hand.
pub(super) fn questions_with(scene: &Scene, pairs: &PairSets) -> Vec<Question> {
    let mut rng = CounterRng::new(scene.seed, Purpose::Wording, &[QUESTION_STREAM, scene.split as u64, scene.draw]);
    let mut asked = Vec::with_capacity(10);
    ask_counts(scene, &mut rng, &mut asked);
    let mut order: Vec<&Object> = scene.objects.iter().collect();
    rng.shuffle(&mut order);
    for object in order.iter().take(2) {
        ask_colour(scene, object, &mut asked);
        ask_shape(scene, object, &mut asked);
    }
    if let [a, b, ..] = order.as_slice() {
        ask_relations(scene, (a, b), &mut rng, &mut asked);
    }
    for present in [true, false] {
        ask_existence(scene, pairs, present, &mut rng, &mut asked);
    }
    asked
}

/// The shortest phrase that fits only this object, built from `base` by adding size and texture; `None` when there is
/// none.
fn refer(scene: &Scene, object: &Object, base: NounPhrase) -> Option<NounPhrase> {
    let (size, texture) = (Some(object.size), Some(object.texture));
    [base, NounPhrase { size, ..base }, NounPhrase { texture, ..base }, NounPhrase { size, texture, ..base }]
        .into_iter()
        .find(|phrase| phrase.count(scene) == 1)
}

fn ask_counts(scene: &Scene, rng: &mut CounterRng, asked: &mut Vec<Question>) {
    let object = rng.choose(&scene.objects);
    let one_attribute = match rng.below(4) {
        0 => NounPhrase { colour: Some(object.colour), ..NounPhrase::default() },
        1 => NounPhrase { shape: Some(object.shape), ..NounPhrase::default() },
        2 => NounPhrase { size: Some(object.size), ..NounPhrase::default() },
        _ => NounPhrase { texture: Some(object.texture), ..NounPhrase::default() },
    };
    for phrase in [NounPhrase::default(), one_attribute] {
        let end = *rng.choose(&["are there", "are in the picture"]);
        asked.push(Question {
            question: format!("how many {} {end}", phrase.plural()),
            answer: number_word(phrase.count(scene)).into(),
            kind: QuestionKind::Count,
        });
    }
}

fn ask_colour(scene: &Scene, object: &Object, asked: &mut Vec<Question>) {
    let base = NounPhrase { shape: Some(object.shape), ..NounPhrase::default() };
    if let Some(phrase) = refer(scene, object, base) {
        asked.push(Question {
            question: format!("what color is the {}", phrase.words("object")),
            answer: object.colour.word().into(),
            kind: QuestionKind::Colour,
        });
    }
}

fn ask_shape(scene: &Scene, object: &Object, asked: &mut Vec<Question>) {
    let base = NounPhrase { colour: Some(object.colour), ..NounPhrase::default() };
    if let Some(phrase) = refer(scene, object, base) {
        asked.push(Question {
            question: format!("what shape is the {}", phrase.words("object")),
            answer: object.shape.word().into(),
            kind: QuestionKind::Shape,
        });
    }
}

/// One question that is true, one that is false, and "what is left of …" where exactly one object is.
fn ask_relations(scene: &Scene, (a, b): (&Object, &Object), rng: &mut CounterRng, asked: &mut Vec<Question>) {
    let pair = |object: &Object| NounPhrase {
        colour: Some(object.colour),
        shape: Some(object.shape),
        ..NounPhrase::default()
    };
    let Some(of_b) = refer(scene, b, pair(b)) else { return };
    if let Some(of_a) = refer(scene, a, pair(a)) {
        for (truth, answer) in [(true, "yes"), (false, "no")] {
            let fitting: Vec<Relation> =
                Relation::ALL.into_iter().filter(|relation| relation.holds(a, b) == Some(truth)).collect();
            let relation = rng.choose(&fitting).words();
            asked.push(Question {
                question: format!("is the {} {relation} the {}", of_a.words("object"), of_b.words("object")),
                answer: answer.into(),
                kind: QuestionKind::Relation,
            });
        }
    }
    let relation = *rng.choose(&Relation::ALL);
    let others = || scene.objects.iter().filter(|other| !std::ptr::eq(*other, b));
    let known = others().all(|other| relation.holds(other, b).is_some());
    let mut fitting = others().filter(|other| relation.holds(other, b) == Some(true));
    if let (true, Some(only), None) = (known, fitting.next(), fitting.next()) {
        asked.push(Question {
            question: format!("what is {} the {}", relation.words(), of_b.words("object")),
            answer: only.pair().words(),
            kind: QuestionKind::Relation,
        });
    }
}

/// Asks for a pair, a colour or a shape that is there, or for one that is not.
fn ask_existence(scene: &Scene, pairs: &PairSets, present: bool, rng: &mut CounterRng, asked: &mut Vec<Question>) {
    let pair = if present { rng.choose(&scene.objects).pair() } else { absent_pair(scene, pairs, rng) };
    let (colour, shape) = (Some(pair.colour), Some(pair.shape));
    let mut phrase = match rng.below(4) {
        0 => NounPhrase { colour, ..NounPhrase::default() },
        1 => NounPhrase { shape, ..NounPhrase::default() },
        _ => NounPhrase { colour, shape, ..NounPhrase::default() },
    };
    if !present && phrase.count(scene) > 0 {
        phrase = NounPhrase { colour, shape, ..NounPhrase::default() };
    }
    let words = phrase.words("object");
    asked.push(Question {
        question: format!("is there {} {words}", article(&words)),
        answer: if present { "yes" } else { "no" }.into(),
        kind: QuestionKind::Existence,
    });
}

/// A pair that the scene does not hold; half of the time one whose colour and shape both occur in it, where possible.
fn absent_pair(scene: &Scene, pairs: &PairSets, rng: &mut CounterRng) -> Pair {
    let held_out: &[Pair] = if scene.split == Split::TestUnseen { &pairs.held_out } else { &[] };
    let mut absent: Vec<Pair> = pairs.seen.iter().chain(held_out).copied().collect();
    absent.retain(|pair| scene.objects.iter().all(|object| object.pair() != *pair));
    if rng.chance(0.5) {
        let has_colour = |pair: &Pair| scene.objects.iter().any(|object| object.colour == pair.colour);
        let has_shape = |pair: &Pair| scene.objects.iter().any(|object| object.shape == pair.shape);
        let mixed: Vec<Pair> = absent.iter().filter(|pair| has_colour(pair) && has_shape(pair)).copied().collect();
        if !mixed.is_empty() {
            return *rng.choose(&mixed);
        }
    }
    *rng.choose(&absent)
}
