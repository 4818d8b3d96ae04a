//! ROUGE-L: the longest common subsequence of a caption and its references (`rouge.py`).

use super::ngrams::Text;

/// How much more recall counts than precision; the number of COCO's evaluation.
const BETA: f64 = 1.2;

/// The score of a caption: best precision and best recall, each over all references.
pub fn rouge_l(caption: &Text, references: &[Text]) -> f64 {
    let (mut precision, mut recall) = (0.0_f64, 0.0_f64);
    for reference in references {
        let common = common_subsequence(&reference.pieces, &caption.pieces) as f64;
        precision = precision.max(common / caption.pieces.len() as f64);
        recall = recall.max(common / reference.pieces.len() as f64);
    }
    if precision == 0.0 || recall == 0.0 {
        return 0.0;
    }
    ((1.0 + BETA.powi(2)) * precision * recall) / (recall + BETA.powi(2) * precision)
}

/// Length of the longest common subsequence.
fn common_subsequence(a: &[u32], b: &[u32]) -> usize {
    let mut lengths = vec![0; b.len() + 1];
    for word in a {
        let mut diagonal = 0;
        for (at, other) in b.iter().enumerate() {
            let above = lengths[at + 1];
            lengths[at + 1] = if word == other { diagonal + 1 } else { above.max(lengths[at]) };
            diagonal = above;
        }
    }
    lengths[b.len()]
}

#[cfg(test)]
mod tests {
    use super::common_subsequence;

    #[test]
    fn subsequences_may_have_gaps() {
        assert_eq!(common_subsequence(&[1, 2, 3, 4, 5], &[2, 9, 4, 5]), 3);
        assert_eq!(common_subsequence(&[1, 2], &[2, 1]), 1);
        assert_eq!(common_subsequence(&[], &[2, 1]), 0);
    }
}
