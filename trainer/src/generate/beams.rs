//! Beam search by the rules of two versions of transformers (see [`Rules`]).

use tch::{Kind, Tensor};

use super::{Decoding, Rules, Writer, Written, ids_of};

/// The texts of one input.
struct Beams {
    /// Texts that go on, best first: tokens, and the sum of their log probabilities.
    running: Vec<(Vec<i64>, f64)>,
    /// Texts that have ended, best first.
    ended: Vec<Written>,
    is_done: bool,
}

/// A token behind a running text.
#[derive(Clone, Copy)]
struct Candidate {
    sum: f64,
    parent: usize,
    token: i64,
}

pub(super) fn search(decoding: &Decoding, beams: usize, writer: &mut dyn Writer, seen: &Tensor) -> Vec<Vec<Written>> {
    let inputs = seen.size()[0];
    let mut all: Vec<Beams> = (0..inputs)
        .map(|_| Beams { running: vec![(Vec::new(), 0.0)], ended: Vec::new(), is_done: decoding.max_tokens == 0 })
        .collect();
    let mut seen = seen.shallow_clone();
    let mut scores = writer.first();
    for place in 0..decoding.max_tokens {
        let rows = scores.size()[0] / inputs;
        let log_probabilities = scores.to_kind(Kind::Float).log_softmax(-1, Kind::Float);
        let mut adjusted = decoding.adjusted(&log_probabilities, &seen, place);
        let words = adjusted.size()[1];
        let sums: Vec<f32> = all.iter().flat_map(|one| (0..rows as usize).map(|row| one.sum(row))).collect();
        let sums = adjusted.g_add_(&Tensor::from_slice(&sums).to_device(seen.device()).unsqueeze(1));
        let count = (2 * beams as i64).min(rows * words);
        let (sums, places) = sums.view([inputs, rows * words]).topk(count, 1, true, true);
        let sums: Vec<f64> = Vec::try_from(sums.to_kind(Kind::Double).to_device(tch::Device::Cpu).view([-1]))
            .expect("invariant: sums are numbers");
        let candidates: Vec<Candidate> = sums
            .into_iter()
            .zip(ids_of(&places))
            .map(|(sum, place)| Candidate { sum, parent: (place / words) as usize, token: place % words })
            .collect();
        let mut next = Vec::with_capacity(all.len() * beams);
        for (input, (one, candidates)) in all.iter_mut().zip(candidates.chunks_exact(count as usize)).enumerate() {
            let chosen = one.advance(decoding, beams, place, candidates);
            next.extend(chosen.into_iter().map(|(parent, token)| ((input as i64 * rows + parent as i64), token)));
        }
        if place + 1 == decoding.max_tokens || all.iter().all(|one| one.is_done) {
            break;
        }
        let (parents, tokens): (Vec<i64>, Vec<i64>) = next.into_iter().unzip();
        let [parents, tokens] = [parents, tokens].map(|list| Tensor::from_slice(&list).to_device(seen.device()));
        seen = Tensor::cat(&[seen.index_select(0, &parents), tokens.unsqueeze(1)], 1);
        scores = writer.next(&tokens, &parents);
    }
    all.into_iter().map(|one| one.finish(decoding, beams)).collect()
}

impl Beams {
    /// The sum of a row's log probabilities.
    fn sum(&self, row: usize) -> f32 {
        self.running[row].1 as f32
    }

    /// Ends some candidates and goes on with others: for each beam the row it continues, and its token. `place` tokens
    /// were written before.
    fn advance(
        &mut self,
        decoding: &Decoding,
        beams: usize,
        place: usize,
        candidates: &[Candidate],
    ) -> Vec<(usize, i64)> {
        let tokens_of = |candidate: &Candidate, running: &[(Vec<i64>, f64)]| running[candidate.parent].0.clone();
        let is_last = decoding.rules == Rules::HuggingFace && place + 1 == decoding.max_tokens;
        let mut chosen = Vec::with_capacity(beams);
        for (rank, candidate) in candidates.iter().enumerate() {
            let ends = candidate.token == decoding.end;
            if (ends || is_last) && rank < beams && !self.is_done {
                let mut tokens = tokens_of(candidate, &self.running);
                if !ends {
                    tokens.push(candidate.token);
                }
                self.end(tokens, candidate.sum / length_power(decoding, place + 1), beams);
            }
            if !ends && chosen.len() < beams {
                chosen.push(*candidate);
            }
        }
        // Fewer words than beams: rows must stay as many, and the worst ones are never chosen again.
        while chosen.len() < beams {
            chosen.push(Candidate { sum: f64::from(f32::MIN), ..chosen.last().copied().unwrap_or(candidates[0]) });
        }
        let with = |candidate: &Candidate, running: &[(Vec<i64>, f64)]| {
            let mut tokens = tokens_of(candidate, running);
            tokens.push(candidate.token);
            (tokens, candidate.sum)
        };
        self.running = chosen.iter().map(|candidate| with(candidate, &self.running)).collect();
        // Whether nothing that goes on can still be better than the worst text that has ended.
        let (best, length) = match decoding.rules {
            Rules::Lavis => (candidates[0].sum, place + 2),
            Rules::HuggingFace => (chosen[0].sum, place + 1),
        };
        let is_full = self.ended.len() == beams;
        let worst = self.ended.last().map_or(f64::NEG_INFINITY, |text| text.score);
        self.is_done |= is_full && worst >= best / length_power(decoding, length);
        chosen.iter().map(|candidate| (candidate.parent, candidate.token)).collect()
    }

    fn end(&mut self, tokens: Vec<i64>, score: f64, beams: usize) {
        let place = self.ended.partition_point(|text| text.score >= score);
        self.ended.insert(place, Written { tokens, score });
        self.ended.truncate(beams);
    }

    /// The best texts. By LAVIS' rules what still runs at the length limit ends there, one token longer than it counts
    /// where it ends by itself.
    fn finish(mut self, decoding: &Decoding, beams: usize) -> Vec<Written> {
        if decoding.rules == Rules::Lavis && !self.is_done {
            for (tokens, sum) in std::mem::take(&mut self.running) {
                let score = sum / length_power(decoding, tokens.len() + 1);
                self.end(tokens, score, beams);
            }
        }
        self.ended.truncate(decoding.texts.max(1));
        self.ended
    }
}

fn length_power(decoding: &Decoding, length: usize) -> f64 {
    (length as f64).powf(decoding.length_penalty)
}
