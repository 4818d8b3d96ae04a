//! Whatever stands in a file or behind `--set`, loading answers with a run or with problems, never with a panic.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use configs::{Origin, Overrides, PRESETS, load_str, preset, schema};
use proptest::prelude::*;

fn any_preset() -> impl Strategy<Value = String> {
    (0..PRESETS.len()).prop_map(|index| PRESETS[index].1.to_owned())
}

/// Pieces that are likely to hit an edge of YAML or of the schema.
fn any_piece() -> impl Strategy<Value = String> {
    prop_oneof![
        proptest::sample::select(vec![
            "",
            " ",
            "\n",
            "\t",
            "- ",
            ": ",
            "{",
            "}",
            "[",
            "]",
            "&a ",
            "*a",
            "!t ",
            "|\n",
            ">\n",
            "\"",
            "'",
            "#",
            "? ",
            "---\n",
            "...\n",
            "<<: ",
            "null",
            "~",
            "true",
            ".nan",
            ".inf",
            "-1",
            "0",
            "1e999",
            "18446744073709551615",
            "999999999999999",
            "kind: ",
            "\u{0}",
            "\u{feff}",
            "é",
            "\u{2028}",
            "\r\n",
            "%YAML 1.2\n",
            "://a:b@c",
            "?sig=",
            "TOKEN=",
        ])
        .prop_map(str::to_owned),
        any::<String>(),
        any::<u64>().prop_map(|number| number.to_string()),
        any::<f64>().prop_map(|number| number.to_string()),
    ]
}

/// Replaces the characters from `start` on, `length` many, both as shares of 10000 of the text.
fn splice(text: &str, start: usize, length: usize, piece: &str) -> String {
    let characters: Vec<char> = text.chars().collect();
    let start = characters.len() * start / 10_000;
    let end = (start + length).min(characters.len());
    characters[..start].iter().chain(&piece.chars().collect::<Vec<_>>()).chain(&characters[end..]).collect()
}

/// Replaces the value in one line of the text.
fn replace_value(text: &str, line: usize, piece: &str) -> String {
    let count = text.lines().count();
    let replaced = text.lines().enumerate().map(|(index, content)| match content.split_once(": ") {
        Some((key, _)) if index == line % count => format!("{key}: {piece}"),
        _ => content.to_owned(),
    });
    replaced.collect::<Vec<_>>().join("\n")
}

/// Every problem must point into the text and be printable.
fn check(text: &str, overrides: &Overrides) {
    match load_str("any.yaml", text, overrides) {
        Ok(run) => assert_eq!(load_str("again.yaml", &run.to_yaml(), &Overrides::none()).unwrap(), run),
        Err(error) => {
            assert!(!error.problems().is_empty());
            assert!(error.to_string().contains("nothing was started"));
            for problem in error.problems() {
                assert!(!problem.message.contains('\n'), "{problem}");
                if let Origin::File { line, column, .. } = problem.origin {
                    assert!(line >= 1 && column >= 1 && line <= text.split('\n').count() + 1, "{problem}");
                }
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn spliced_presets_never_panic(
        text in any_preset(),
        cuts in prop::collection::vec((0..10_000_usize, 0..40_usize, any_piece()), 1..4),
    ) {
        let text = cuts.iter().fold(text, |text, (start, length, piece)| splice(&text, *start, *length, piece));
        check(&text, &Overrides::none());
    }

    #[test]
    fn replaced_values_never_panic(
        text in any_preset(),
        changes in prop::collection::vec((any::<usize>(), any_piece()), 1..4),
    ) {
        let text = changes.iter().fold(text, |text, (line, piece)| replace_value(&text, *line, piece));
        check(&text, &Overrides::none());
    }

    #[test]
    fn any_text_never_panics(text in any::<String>(), pieces in prop::collection::vec(any_piece(), 0..30)) {
        check(&text, &Overrides::none());
        check(&pieces.concat(), &Overrides::none());
    }

    #[test]
    fn any_override_never_panics(
        index in any::<prop::sample::Index>(),
        value in any_piece(),
        text in any::<String>(),
    ) {
        let reference = schema::reference();
        let path = index.get(&reference).path.replace("[]", "[0]");
        let path: String = path.split('{').map(|part| part.split_once('}').map_or(part, |(_, rest)| rest)).collect();
        let overrides = Overrides::new([format!("{path}={value}"), text]);
        check(preset("tiny").unwrap(), &overrides);
        let overrides = Overrides::new([format!("{path}={value}")]);
        check(preset("vitg_opt2.7b").unwrap(), &overrides);
    }

    #[test]
    fn batches_that_fit_load_and_others_say_what_fits(batch in 1..400_usize, slices in 1..40_usize, lanes in 1..400_usize) {
        let overrides = Overrides::new([
            "cluster.backend=single".to_owned(),
            "cluster.ranks_per_node=1".to_owned(),
            format!("data.lanes={lanes}"),
            format!("stages[0].global_batch={batch}"),
            format!("stages[1].global_batch={batch}"),
            format!("stages[0].slices={slices}"),
            format!("stages[1].slices={slices}"),
        ]);
        let fits = batch >= 2 && batch % slices == 0 && lanes % slices == 0 && batch % lanes == 0;
        prop_assert_eq!(load_str("any.yaml", preset("tiny").unwrap(), &overrides).is_ok(), fits);
    }
}

#[test]
fn huge_numbers_are_answered_at_once() {
    let huge = "999999999999999";
    for path in [
        "stages[0].global_batch",
        "stages[0].slices",
        "data.lanes",
        "cluster.nodes",
        "cluster.ranks_per_node",
        "model.qformer.heads",
        "model.qformer.vocab_size",
        "stages[0].steps",
    ] {
        let started = std::time::Instant::now();
        check(preset("tiny").unwrap(), &Overrides::new([format!("{path}={huge}")]));
        assert!(started.elapsed().as_secs() < 5, "{path} took {:?}", started.elapsed());
    }
}

#[test]
fn overrides_are_typed_as_the_key_wants() {
    let overrides = Overrides::new([
        "run.name=2024",
        "stages.representation.steps=100",
        "stages.1.prompt=Question: a # b",
        "stages[1].lr_schedule.floor=0",
        "stages[0].optimizer.betas=[0.8, 0.9]",
        "stages[0].optimizer.max_grad_norm=1",
        "checkpoint.every_s=null",
        "run.seed=1",
        "run.seed=2",
    ]);
    let run = load_str("tiny.yaml", preset("tiny").unwrap(), &overrides).unwrap_or_else(|error| panic!("{error}"));
    assert_eq!((run.run.name.as_str(), run.run.seed, run.checkpoint.every_s), ("2024", 2, None));
    assert_eq!(run.stages[0].steps(), 100);
    let configs::Stage::Generative(stage) = &run.stages[1] else { panic!("stage 2 is generative") };
    assert_eq!(stage.prompt, "Question: a # b");
    let configs::Optimizer::AdamW(adamw) = run.stages[0].optimizer();
    assert_eq!((adamw.betas, adamw.max_grad_norm), ([0.8, 0.9], Some(1.0)));
}

/// Found by the properties above: texts that the writer of the resolved config leaves bare must be read as texts.
#[test]
fn texts_that_look_like_huge_numbers_read_back() {
    check(preset("tiny").unwrap(), &Overrides::new(["model.language_model.weights.uri=1e999"]));
    check(preset("tiny").unwrap(), &Overrides::new(["run.output=.inf", "model.qformer.tokenizer=0x10"]));
}

#[test]
fn the_reference_documents_every_key() {
    let reference = schema::reference();
    assert!(reference.len() > 150);
    for line in &reference {
        assert!(!line.doc.is_empty() && !line.expected.is_empty(), "{}", line.path);
    }
    let betas = reference.iter().find(|line| line.path == "stages[]{generative}.optimizer{adamw}.betas").unwrap();
    assert_eq!(betas.default.as_deref(), Some("[0.9,0.98]"));
    let dtype = reference.iter().find(|line| line.path == "model.qformer.dtype").unwrap();
    assert_eq!(dtype.allowed, ["bf16", "f16", "f32"]);
}

/// The example of the contract between the parts, completed where it has dots.
#[test]
fn the_contracts_form_is_read() {
    let text = r#"
schema_version: 1
run:      { name: vitg-opt2.7b, seed: 42, output: s3://bucket/runs/vitg-opt2.7b }
model:
  image_encoder:  { kind: eva_clip_g, weights: { uri: a.safetensors, sha256: null }, image_size: 224, dtype: bf16 }
  qformer:        { init: { kind: bert, uri: bert }, num_query_tokens: 32, cross_attention_every: 2, projection_dim: 256, max_text_tokens: 32, dropout: 0.1 }
  language_model: { kind: opt, size: 2.7b, weights: { uri: opt }, tokenizer: opt, dtype: bf16, dropout: 0.0, recompute: false }
data:
  image_size: 224
  lanes: 80
  shuffle_window_row_groups: 16
  loader: { decode_threads: 8, memory_mb: 4096, max_bad_fraction: 0.01, resize: fast }
  augment: { scale: [0.5, 1.0], flip: 0.5 }
  sources:
    - { name: laion, kind: parquet, uri: s3://bucket/laion400m/, weight: 115.0, filters: { min_side: 200, max_nsfw: unlikely } }
    - { name: coco,  kind: coco_captions, uri: coco, annotations: a.json, weight: 0.6 }
stages:
  - { name: representation, steps: 250000, global_batch: 1680, slices: 16, losses: { itc: 1.0, itm: 1.0, itg: 1.0 }, label_smoothing: 0.1,
      negatives: masked_softmax, optimizer: &adamw { kind: adamw, betas: [0.9, 0.98], eps: 1.0e-8, weight_decay: 0.05, max_grad_norm: null },
      lr_schedule: &schedule { kind: warmup_cosine, start: 1.0e-6, peak: 1.0e-4, floor: 1.0e-5, warmup_steps: 2000 } }
  - { name: generative, steps: 80000, global_batch: 1920, slices: 16, prompt: "", optimizer: *adamw, lr_schedule: *schedule }
cluster:
  backend: nccl
  reduction: exact
  nodes: 2
  ranks_per_node: 8
  threads_per_rank: 8
  timeouts_s: { start: 600, first_step: 1800, step: 120 }
  slurm: { partition: gpu, time_limit: 3-00:00:00, signal_before_end_s: 300, extra: [], setup: "", container: null }
checkpoint: { every_steps: 1000, every_s: 600, keep_last: 3, keep_every_steps: 25000 }
metrics:    { every_steps: 20, tensorboard: true }
"#;
    let run = load_str("contract.yaml", text, &Overrides::none()).unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(run.stages[0].slice_size(), 105);
    assert_eq!(run.rows_per_lane(&run.stages[1]), 24);
}
