//! Captions of a scene: several wordings of what it holds, all true, all from the closed vocabulary.
//!
//! The first caption says everything about every object but its place (a lone object's place, too), so that scenes of
//! different content have different first captions. The others leave attributes out, but never a colour or a shape.
//! A colour word always stands directly before its shape word.

use super::scene::{Object, Relation, Scene};
use super::vocabulary::{Texture, article, number_word};
use crate::rng::{CounterRng, Purpose};

/// Counter that keeps the wording of captions apart from that of questions.
const CAPTION_STREAM: u64 = 0;

/// All captions of a scene, six of them and pairwise distinct; the first one is the fullest.
pub fn captions(scene: &Scene) -> Vec<String> {
    let mut rng = CounterRng::new(scene.seed, Purpose::Wording, &[CAPTION_STREAM, scene.split as u64, scene.draw]);
    let mut order: Vec<&Object> = scene.objects.iter().collect();
    let mut captions = vec![first_caption(scene)];
    rng.shuffle(&mut order);
    captions.push(format!("{} {}", lead(&mut rng), list(&order, pair_phrase)));
    rng.shuffle(&mut order);
    captions.push(places(&order));
    rng.shuffle(&mut order);
    captions.push(format!("{} on a {} background", list(&order, full_phrase), scene.background.tone.word()));
    rng.shuffle(&mut order);
    captions.push(counted(&order, &mut rng));
    rng.shuffle(&mut order);
    captions.push(if order.len() == 1 {
        format!("a {} background with {}", scene.background.tone.word(), with_article(&sized_phrase(order[0])))
    } else {
        format!("there is {}", chain(&order, sized_phrase))
    });
    captions
}

/// The first caption of a scene: every object with all its attributes, each related to the next one.
pub(super) fn first_caption(scene: &Scene) -> String {
    let order: Vec<&Object> = scene.objects.iter().collect();
    match order.as_slice() {
        [only] => format!("{} {}", with_article(&full_phrase(only)), at_cell(only)),
        _ => chain(&order, full_phrase),
    }
}

/// `large striped red circle`; a plain texture is not said.
fn full_phrase(object: &Object) -> String {
    match object.texture {
        Texture::Plain => sized_phrase(object),
        texture => format!("{} {} {}", object.size.word(), texture.word(), pair_phrase(object)),
    }
}

/// `large red circle`.
fn sized_phrase(object: &Object) -> String {
    format!("{} {}", object.size.word(), pair_phrase(object))
}

/// `red circle`.
fn pair_phrase(object: &Object) -> String {
    object.pair().words()
}

fn with_article(phrase: &str) -> String {
    format!("{} {phrase}", article(phrase))
}

fn at_cell(object: &Object) -> String {
    match object.cell_words() {
        "center" => "in the center".into(),
        cell => format!("at the {cell}"),
    }
}

/// `a red circle and a blue square`.
fn list(order: &[&Object], phrase: fn(&Object) -> String) -> String {
    order.iter().map(|object| with_article(&phrase(object))).collect::<Vec<_>>().join(" and ")
}

/// `a red circle left of a blue square above a green star`: every relation is between its neighbours.
fn chain(order: &[&Object], phrase: fn(&Object) -> String) -> String {
    let mut text = String::new();
    for (place, object) in order.iter().enumerate() {
        if place > 0 {
            text.push_str(&format!(" {} ", Relation::clearest(order[place - 1], object).words()));
        }
        text.push_str(&with_article(&phrase(object)));
    }
    text
}

/// `a red circle at the top left and a blue square in the center`.
fn places(order: &[&Object]) -> String {
    let place = |object: &&Object| format!("{} {}", with_article(&pair_phrase(object)), at_cell(object));
    order.iter().map(place).collect::<Vec<_>>().join(" and ")
}

/// `three objects two red circles and a blue square`: objects of one pair are counted together.
fn counted(order: &[&Object], rng: &mut CounterRng) -> String {
    let mut groups: Vec<(&Object, usize)> = Vec::new();
    for object in order {
        match groups.iter_mut().find(|(first, _)| first.pair() == object.pair()) {
            Some((_, count)) => *count += 1,
            None => groups.push((object, 1)),
        }
    }
    let group = |(object, count): &(&Object, usize)| match count {
        1 => with_article(&pair_phrase(object)),
        _ => format!("{} {} {}", number_word(*count), object.colour.word(), object.shape.plural()),
    };
    let text = groups.iter().map(group).collect::<Vec<_>>().join(" and ");
    let objects = if order.len() == 1 { "object" } else { "objects" };
    let start = if rng.chance(0.5) { "a scene with" } else { "this image has" };
    format!("{start} {} {objects} {text}", number_word(order.len()))
}

fn lead(rng: &mut CounterRng) -> &'static str {
    rng.choose::<&str>(&["a picture of", "an image of", "a photo of", "this picture shows"])
}
