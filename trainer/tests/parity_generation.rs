//! Texts against LAVIS and Hugging Face, token by token: both kinds of language model, and the Q-Former of stage 1.
#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise and says what it saw")]

mod reference;

use configs::Run;
use serde_json::Value;
use tch::{Kind, Tensor};
use trainer::generate::{Decoding, OptWriter, QFormerWriter, Rules, Search, T5Writer, Writer, Written};
use trainer::model::Tensors;
use trainer::model::opt::Opt;
use trainer::model::t5::T5;
use trainer::stage1::Stage1;
use trainer::stage2::Stage2;

use reference::language_models::{in_lavis_words, opt_sizes, run_of, t5_sizes};
use reference::{Fixture, patches};

/// T5's decoder starts with it.
const T5_START: i64 = 0;
/// What OPT's texts start with.
const OPT_START: i64 = 2;

/// The decoding of a fixture's settings, where `counted` tokens in front count in `min_length`.
fn decoding(settings: &Value, rules: Rules, end: i64, max_tokens: u64, counted: u64) -> Decoding {
    let number = |name: &str| settings[name].as_u64();
    let real = |name: &str| settings[name].as_f64().unwrap_or(1.0);
    let beams = number("num_beams").unwrap() as usize;
    let least = number("min_length").or_else(|| number("min_len")).map_or(0, |least| least.saturating_sub(counted));
    Decoding {
        search: if beams > 1 { Search::Beams(beams) } else { Search::Greedy },
        rules,
        min_tokens: number("min_new_tokens").unwrap_or(least) as usize,
        repetition_penalty: real("repetition_penalty"),
        length_penalty: real("length_penalty"),
        texts: number("num_return_sequences").unwrap_or(1) as usize,
        ..Decoding::greedy(end, max_tokens as usize)
    }
}

/// The texts of recorded rows: what follows the first `skipped` tokens, up to the end token.
fn recorded(rows: &Tensor, skipped: i64, end: i64) -> Vec<Vec<i64>> {
    let length = rows.size()[1] - skipped;
    let all = Vec::<i64>::try_from(rows.narrow(1, skipped, length).contiguous().view([-1])).unwrap();
    let text = |row: &[i64]| row.iter().copied().take_while(|token| *token != end).collect();
    all.chunks_exact(length as usize).map(text).collect()
}

fn assert_texts(what: &str, written: &[Vec<Written>], expected: &[Vec<i64>]) {
    let found: Vec<&[i64]> = written.iter().flatten().map(|text| text.tokens.as_slice()).collect();
    assert_eq!(found, expected, "{what}");
}

/// Everything of a fixture that writes.
struct Model {
    run: Run,
    config: Value,
    expected: Value,
    io: Tensors,
    weights: Tensors,
    prefix: Tensor,
}

impl Model {
    fn open(name: &str, is_lavis: bool) -> Option<Self> {
        let fixture = Fixture::open(name)?;
        let given = fixture.json("config.json");
        let config = if is_lavis { given } else { in_lavis_words(&given) };
        let run = run_of(&config);
        let io = fixture.tensors("io.safetensors");
        let weights = match is_lavis {
            true => fixture.public("weights.safetensors"),
            false => fixture.tensors("weights.safetensors"),
        };
        let image = io.get(if is_lavis { "image" } else { "pixel_values" }).unwrap();
        let stage2 = Stage2::new(&weights.scope(""), &run.model, false).unwrap();
        let prefix = stage2.prefix(&patches(&run, &weights, image), None);
        Some(Self { run, config, expected: fixture.json("expected.json"), io, weights, prefix })
    }

    fn opt(&self) -> Opt {
        let sizes = opt_sizes(&self.config["language_model"]);
        Opt::new(&self.weights.scope("language_model"), sizes, self.run.model.attention).unwrap()
    }

    fn t5(&self) -> T5 {
        T5::new(&self.weights.scope("language_model"), t5_sizes(&self.config["language_model"])).unwrap()
    }

    /// Ids and mask of what follows the queries in one of LAVIS' cases.
    fn lavis_prompt(&self, name: &str, prompt: &str) -> [Tensor; 2] {
        if name.starts_with("vqa") {
            return ["vqa.input_ids", "vqa.attention_mask"].map(|name| self.io.get(name).unwrap().shallow_clone());
        }
        let sample = &self.expected["tokenizer_samples"][prompt];
        let ids: Vec<i64> = sample.as_array().unwrap().iter().map(|id| id.as_i64().unwrap()).collect();
        let ids = Tensor::from_slice(&ids)
            .to_device(self.prefix.device())
            .unsqueeze(0)
            .expand([self.prefix.size()[0], -1], false);
        let mask = ids.ones_like();
        [ids, mask]
    }

    /// The queries, then words, with the mask of both.
    fn behind_queries(&self, words: &Tensor, mask: &Tensor) -> [Tensor; 2] {
        let seen = Tensor::ones([mask.size()[0], self.prefix.size()[1]], (Kind::Int64, mask.device()));
        [Tensor::cat(&[&self.prefix, words], 1), Tensor::cat(&[&seen, mask], 1)]
    }

    /// Writes every text that Hugging Face's fixture has recorded; `writer` is given ids and mask behind the queries.
    fn assert_hugging_face<'w>(&self, writer: impl Fn(&Tensor, &Tensor) -> (Box<dyn Writer + 'w>, Option<Tensor>)) {
        let queries = self.prefix.size()[1];
        let cases = self.expected["generation"].as_object().unwrap();
        for (name, settings) in cases {
            let given = |part: &str| self.io.get(&format!("gen.{name}.{part}")).unwrap();
            let (ids, mask) = (given("input_ids"), given("attention_mask"));
            let behind = |x: &Tensor| x.narrow(1, queries, x.size()[1] - queries);
            let (mut writer, seen) = writer(&behind(ids), &behind(mask));
            // A decoder has the whole input in front, and counts it.
            let seen = seen.unwrap_or_else(|| ids.shallow_clone());
            let end = settings["eos_token_id"].as_i64().unwrap();
            let max_tokens = settings["max_new_tokens"].as_u64().unwrap();
            let decoding = decoding(settings, Rules::HuggingFace, end, max_tokens, seen.size()[1] as u64);
            let written = decoding.write(writer.as_mut(), &seen);
            let skipped = settings["prefix_len_in_sequences"].as_i64().unwrap();
            assert_texts(name, &written, &recorded(given("sequences"), skipped, end));
            let scores = settings["sequences_scores"].as_array();
            for (text, score) in written.iter().flatten().zip(scores.into_iter().flatten()) {
                let (found, expected) = (text.score, score.as_f64().unwrap());
                assert!((found - expected).abs() < 1e-4 * expected.abs().max(1.0), "{name}: {found}, not {expected}");
            }
        }
        assert_eq!(cases.len(), 13);
    }

    /// Writes every text that LAVIS' fixture has recorded. Its ids begin with one token that the texts do not have, and that
    /// `min_length` counts.
    fn assert_lavis<'w>(
        &self,
        (start, end): (i64, i64),
        limit: impl Fn(&str, u64) -> u64,
        answers: f64,
        writer: impl Fn(&Tensor, &Tensor) -> Box<dyn Writer + 'w>,
    ) {
        let cases = self.expected["generation"].as_object().unwrap();
        for (name, settings) in cases {
            let [ids, mask] = self.lavis_prompt(name, settings["prompt"].as_str().unwrap());
            let mut writer = writer(&ids, &mask);
            let most = settings["max_length"].as_u64().or_else(|| settings["max_len"].as_u64()).unwrap();
            let mut decoding = decoding(settings, Rules::Lavis, end, limit(name, most), 1);
            // Answers have a length penalty of their own where none is given.
            if name.starts_with("vqa") && settings["length_penalty"].is_null() {
                decoding.length_penalty = answers;
            }
            let seen = Tensor::full([ids.size()[0], 1], start, (Kind::Int64, ids.device()));
            let written = decoding.write(writer.as_mut(), &seen);
            let ids = self.io.get(&format!("gen.{name}.ids")).unwrap();
            assert_texts(name, &written, &recorded(ids, 1, end));
        }
        assert_eq!(cases.len(), 11);
    }
}

#[test]
fn opt_writes_what_hugging_face_writes() {
    let Some(model) = Model::open("hf_blip2_opt", false) else { return };
    let opt = model.opt();
    model.assert_hugging_face(|ids, mask| {
        let [inputs, mask] = model.behind_queries(&opt.embed_tokens(ids), mask);
        (Box::new(OptWriter::new(&opt, &inputs, &mask)), None)
    });
}

#[test]
fn t5_writes_what_hugging_face_writes() {
    let Some(model) = Model::open("hf_blip2_t5", false) else { return };
    let t5 = model.t5();
    model.assert_hugging_face(|ids, mask| {
        let [inputs, mask] = model.behind_queries(&t5.embed_tokens(ids), mask);
        let seen = Tensor::full([ids.size()[0], 1], T5_START, (Kind::Int64, ids.device()));
        (Box::new(T5Writer::new(&t5, &inputs, &mask, T5_START)), Some(seen))
    });
}

#[test]
fn opt_writes_what_lavis_writes() {
    let Some(model) = Model::open("lavis_stage2_opt", true) else { return };
    let opt = model.opt();
    let end = model.expected["eos_token_id_used"].as_i64().unwrap();
    // `max_length` counts the start token, `max_len` of answers does not.
    let limit = |name: &str, most| if name.starts_with("vqa") { most } else { most - 1 };
    model.assert_lavis((OPT_START, end), limit, 0.0, |ids, mask| {
        let [inputs, mask] = model.behind_queries(&opt.embed_tokens(ids), mask);
        Box::new(OptWriter::new(&opt, &inputs, &mask))
    });
}

#[test]
fn t5_writes_what_lavis_writes() {
    let Some(model) = Model::open("lavis_stage2_t5", true) else { return };
    let t5 = model.t5();
    let end = model.expected["tokenizer_samples"][""][0].as_i64().unwrap();
    model.assert_lavis(
        (T5_START, end),
        |_, most| most,
        -1.0,
        |ids, mask| {
            let [inputs, mask] = model.behind_queries(&t5.embed_tokens(ids), mask);
            Box::new(T5Writer::new(&t5, &inputs, &mask, T5_START))
        },
    );
}

#[test]
fn the_qformer_writes_what_lavis_writes() {
    let (Some(fixture), Some(texts)) = (Fixture::open("lavis_stage1"), Fixture::open("lavis_stage1_generate")) else {
        return;
    };
    let (config, expected, io) =
        (fixture.json("config.json"), texts.json("expected.json"), texts.tensors("io.safetensors"));
    let run = reference::stage1_run_of(&config);
    let weights = fixture.public("weights.safetensors");
    let stage1 = Stage1::new(&weights.scope(""), &run.model, false).unwrap();
    let patches = patches(&run, &weights, fixture.tensors("io.safetensors").get("image").unwrap());
    let token = |name: &str| config[name].as_i64().unwrap();
    let (start, end) = (token("bos_token_id"), token("sep_token_id"));
    for (name, settings) in expected["generation"].as_object().unwrap() {
        let most = settings["max_length"].as_u64().unwrap();
        let decoding = decoding(settings, Rules::Lavis, end, most - 1, 1);
        let seen = Tensor::full([patches.size()[0], 1], start, (Kind::Int64, patches.device()));
        let written = decoding.write(&mut QFormerWriter::new(&stage1, &patches, start), &seen);
        assert_texts(name, &written, &recorded(io.get(&format!("{name}.ids")).unwrap(), 1, end));
    }
}
