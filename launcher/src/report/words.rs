//! Captions side by side: which colour-shape pairs the generated one has right.

use data_pipeline::synthetic::{COLOUR_WORDS, SHAPE_PLURALS, SHAPE_WORDS};

use crate::html::{escape, push};

/// A colour word directly before a shape word, as every caption of the corpus has them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Pair {
    colour: usize,
    shape: usize,
}

fn pair(words: &[&str]) -> Option<Pair> {
    let [colour, shape] = words else { return None };
    let colour = COLOUR_WORDS.iter().position(|word| word == colour)?;
    let shape = (0..SHAPE_WORDS.len()).find(|i| SHAPE_WORDS[*i] == *shape || SHAPE_PLURALS[*i] == *shape)?;
    Some(Pair { colour, shape })
}

fn pairs(text: &str) -> Vec<Pair> {
    let words: Vec<&str> = text.split_whitespace().collect();
    words.windows(2).filter_map(pair).collect()
}

/// `text` as HTML with its pairs marked: of class `right` when `other` has the pair too (as often), else of `wrong`.
pub fn marked(text: &str, other: &str, right: &str, wrong: &str) -> String {
    let mut left = pairs(other);
    let words: Vec<&str> = text.split_whitespace().collect();
    let (mut html, mut at) = (String::new(), 0);
    while at < words.len() {
        if at > 0 {
            html.push(' ');
        }
        let Some(found) = words.get(at..at + 2).and_then(pair) else {
            html.push_str(&escape(words[at]));
            at += 1;
            continue;
        };
        let class = match left.iter().position(|pair| *pair == found) {
            Some(place) => {
                left.swap_remove(place);
                right
            }
            None => wrong,
        };
        push(&mut html, format_args!("<b class=\"{class}\">{} {}</b>", escape(words[at]), escape(words[at + 1])));
        at += 2;
    }
    html
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pairs_are_right_as_often_as_the_truth_has_them() {
        let html = marked("a red circle and a red circle <b>", "red circles left of a blue star", "right", "wrong");
        assert_eq!(html, "a <b class=\"right\">red circle</b> and a <b class=\"wrong\">red circle</b> &lt;b&gt;");
        assert_eq!(marked("", "a red circle", "right", "wrong"), "");
    }
}
