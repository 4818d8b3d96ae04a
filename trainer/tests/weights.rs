//! Weights in and out: what comes from others leaves as it came, and what is damaged or dangerous is refused.
#![allow(clippy::unwrap_used, clippy::print_stderr, reason = "a test stops at the first surprise and says what it saw")]

mod reference;

use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::Command;

use configs::{CustomT5, LanguageModel, Run};
use serde_json::json;
use tch::{Kind, Tensor};
use trainer::weight_names::shared_with;
use trainer::weights::{Format, Part, Source, export, import, inspect, load, specs, verify};

use reference::Fixture;
use reference::language_models::{in_lavis_words, opt_sizes, run_of, t5_sizes};

/// The tiny preset with the sizes of a fixture.
fn run_of_fixture(name: &str, fixture: &Fixture) -> Run {
    let given = fixture.json("config.json");
    let mut run = match name {
        "lavis_stage1" => return reference::stage1_run_of(&given),
        _ if name.starts_with("lavis") => run_of(&given),
        "hf_blip2_retrieval" => reference::run_of(
            &in_lavis_words(&given),
            &[
                ("model.qformer.max_positions", given["qformer_config"]["max_position_embeddings"].to_string()),
                ("model.qformer.vocab_size", given["qformer_config"]["vocab_size"].to_string()),
                ("model.qformer.projection_dim", given["image_text_hidden_size"].to_string()),
            ],
        ),
        _ => run_of(&in_lavis_words(&given)),
    };
    let language = if name.starts_with("lavis") { &given["language_model"] } else { &given["text_config"] };
    if name.ends_with("opt") {
        let LanguageModel::CustomOpt(model) = &mut run.model.language_model else { panic!("tiny has a decoder") };
        let sizes = opt_sizes(language);
        (model.vocab_size, model.max_positions) = (sizes.vocab_size, sizes.max_positions);
        (model.depth, model.mlp_dim) = (sizes.depth, sizes.mlp_dim);
    }
    if name.ends_with("t5") {
        let (settings, sizes) = (run.model.language_model.settings(), t5_sizes(language));
        run.model.language_model = LanguageModel::CustomT5(CustomT5 {
            weights: settings.weights.clone(),
            tokenizer: settings.tokenizer.clone(),
            dtype: settings.dtype,
            dropout: 0.0,
            recompute: false,
            max_text_tokens: 32,
            vocab_size: sizes.vocab_size,
            hidden_dim: sizes.hidden_dim,
            encoder_depth: sizes.encoder_depth,
            decoder_depth: sizes.decoder_depth,
            heads: sizes.heads,
            head_dim: sizes.head_dim,
            mlp_dim: sizes.mlp_dim,
            position_buckets: sizes.position_buckets,
            max_distance: sizes.max_distance,
            pretrain: None,
        });
    }
    run
}

/// Brings a fixture in and out again, and compares every tensor byte by byte.
fn round_trip(name: &str, format: Format) {
    let Some(fixture) = Fixture::open(name) else { return };
    let run = run_of_fixture(name, &fixture);
    let folder = tempfile::tempdir().unwrap();
    let place = |name: &str| folder.path().join(name).display().to_string();
    let source = fixture.path("weights.safetensors").display().to_string();
    let imported = import(&source, &run, &place("parts")).unwrap();
    assert!(imported["parts"]["image_encoder"]["tensors"].as_u64().unwrap() > 10, "{imported}");
    export(&place("parts"), Some(&run), format, &place("out")).unwrap();
    let (before, after) = (Source::open(&source).unwrap(), Source::open(&place("out")).unwrap());
    for tensor in after.tensors.keys() {
        assert_eq!(before.read(tensor).unwrap(), after.read(tensor).unwrap(), "{tensor}");
        assert_eq!(before.tensors[tensor].shape, after.tensors[tensor].shape, "{tensor}");
    }
    for tensor in before.tensors.keys().filter(|name| !after.tensors.contains_key(*name)) {
        let shared = shared_with(tensor, |other| before.tensors.contains_key(other));
        let is_buffer = tensor == "Qformer.bert.embeddings.position_ids";
        assert!(shared.is_some() || is_buffer, "{tensor} is lost");
        if let Some(shared) = shared {
            assert_eq!(before.read(tensor).unwrap(), after.read(shared).unwrap(), "{tensor}");
        }
    }
    let verified = verify(&source, &run).unwrap();
    assert_eq!(verified["ok"], true, "{verified}");
}

#[test]
fn weights_of_hugging_face_leave_as_they_came() {
    round_trip("hf_blip2_opt", Format::HuggingFace);
    round_trip("hf_blip2_t5", Format::HuggingFace);
    round_trip("hf_blip2_retrieval", Format::HuggingFace);
}

#[test]
fn weights_of_lavis_leave_as_they_came() {
    round_trip("lavis_stage1", Format::Lavis);
    round_trip("lavis_stage2_opt", Format::Lavis);
    round_trip("lavis_stage2_t5", Format::Lavis);
}

#[test]
fn every_difference_is_listed_and_nothing_is_written() {
    let Some(fixture) = Fixture::open("hf_blip2_opt") else { return };
    let mut run = run_of_fixture("hf_blip2_opt", &fixture);
    run.model.qformer.mlp_dim += 1;
    run.model.qformer.depth += 1;
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("parts");
    let source = fixture.path("weights.safetensors").display().to_string();
    let message = import(&source, &run, &out.display().to_string()).unwrap_err().to_string();
    for part in [
        "missing: qformer.encoder.layer.4.attention.attention.query.weight",
        "re-shaped: qformer.encoder.layer.0.intermediate_query.dense.weight is [72, 32], expected [73, 32]",
    ] {
        assert!(message.contains(part), "{message}");
    }
    run.model.qformer.depth -= 2;
    let message = import(&source, &run, &out.display().to_string()).unwrap_err().to_string();
    assert!(message.contains("extra: qformer.encoder.layer.3.attention.attention.query.weight"), "{message}");
    assert!(!out.exists());
}

/// BERT's names and shapes with numbers of the right kind.
#[test]
fn a_qformer_starts_from_bert() {
    let Some(fixture) = Fixture::open("lavis_stage1") else { return };
    let run = run_of_fixture("lavis_stage1", &fixture);
    let folder = tempfile::tempdir().unwrap();
    let lavis = fixture.tensors("weights.safetensors");
    let is_berts = |name: &str| {
        let new = ["crossattention", "_query.", "position_ids", "decoder."].iter().any(|part| name.contains(part));
        name.starts_with("Qformer.") && !new
    };
    let tensors: Vec<(String, Tensor)> = lavis
        .iter()
        .filter(|(name, _)| is_berts(name))
        .map(|(name, tensor)| {
            // One word less, old names of norms, and what a Q-Former has no use for.
            let is_vocabulary = name.ends_with("word_embeddings.weight") || name.ends_with("predictions.bias");
            let tensor = if is_vocabulary { tensor.narrow(0, 0, tensor.size()[0] - 1) } else { tensor.shallow_clone() };
            let name = name.strip_prefix("Qformer.").unwrap();
            let name = name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta");
            (name, tensor.contiguous())
        })
        .chain([("bert.pooler.dense.bias".to_owned(), Tensor::zeros([4], (Kind::Float, tch::Device::Cpu)))])
        .collect();
    Tensor::write_safetensors(&tensors, folder.path().join("model.safetensors")).unwrap();
    let uri = folder.path().display().to_string();
    let given = load(&uri, Part::QFormer).unwrap();
    let same = |name: &str, other: &str| assert!(given.get(name).unwrap().equal(given.get(other).unwrap()), "{name}");
    let layer = "qformer.encoder.layer.2";
    same(&format!("{layer}.intermediate.dense.weight"), &format!("{layer}.intermediate_query.dense.weight"));
    same(&format!("{layer}.output.LayerNorm.bias"), &format!("{layer}.output_query.LayerNorm.bias"));
    let known = specs(&run, Part::QFormer).unwrap();
    let mut started = 0;
    for spec in &known {
        let random = Tensor::full(spec.shape.as_slice(), 7.0, (Kind::Float, tch::Device::Cpu));
        let Some(found) = given.get(&spec.name) else {
            let is_new = ["crossattention", "query_tokens", "_projection", "itm_head", "temp", "post_layernorm"];
            assert!(is_new.iter().any(|part| spec.name.contains(part)), "{} has no start", spec.name);
            continue;
        };
        let value = trainer::weights::started(&spec.name, &random, found).unwrap();
        assert_eq!(value.size(), spec.shape);
        if spec.name == "embeddings.word_embeddings.weight" {
            assert_eq!(value.get(spec.shape[0] - 1).mean(Kind::Float).double_value(&[]), 7.0, "[DEC] is new");
        }
        started += 1;
    }
    assert!(started > 60, "{started}");
    let imported = import(&uri, &run, &folder.path().join("parts").display().to_string()).unwrap();
    assert_eq!(imported["family"], "BERT");
}

fn refused(path: &Path) -> String {
    inspect(&path.display().to_string()).unwrap_err().to_string()
}

#[test]
fn damaged_files_are_refused() {
    let Some(fixture) = Fixture::open("hf_blip2_opt") else { return };
    let whole = fs::read(fixture.path("weights.safetensors")).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str, bytes: &[u8]| {
        let path = folder.path().join(name);
        fs::write(&path, bytes).unwrap();
        path
    };
    assert!(refused(&file("cut.safetensors", &whole[..whole.len() - 5])).contains("cut.safetensors"));
    assert!(refused(&file("header.safetensors", &whole[..100])).contains("its header would have"));
    assert!(refused(&file("empty.safetensors", &[])).contains("0 bytes"));
    let long = [&(1_u64 << 60).to_le_bytes()[..], &whole[8..]].concat();
    assert!(refused(&file("long.safetensors", &long)).contains("1152921504606846976"));
    let header = r#"{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},"b":{"dtype":"F32","shape":[2],"data_offsets":[4,12]}}"#;
    let overlapping = [&(header.len() as u64).to_le_bytes()[..], header.as_bytes(), &[0; 12]].concat();
    assert!(refused(&file("overlapping.safetensors", &overlapping)).contains("`b` overlaps"));
    let index =
        json!({ "weight_map": { "a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors" } });
    file("model.safetensors.index.json", index.to_string().as_bytes());
    let one = r#"{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}"#;
    let one = [&(one.len() as u64).to_le_bytes()[..], one.as_bytes(), &[0; 8]].concat();
    file("model-00001-of-00002.safetensors", &one);
    assert!(refused(folder.path()).contains("model-00002-of-00002.safetensors cannot be used: there is no such file"));
    file("model-00002-of-00002.safetensors", &one);
    assert!(refused(folder.path()).contains("in another file, too"));
    let outside = json!({ "weight_map": { "a": "../secret.safetensors" } });
    file("model.safetensors.index.json", outside.to_string().as_bytes());
    assert!(refused(folder.path()).contains("../secret.safetensors"));
    assert!(refused(&folder.path().join("missing")).contains("model.safetensors.index.json"));
}

#[test]
fn a_checkpoint_with_code_is_refused_and_the_code_does_not_run() {
    let folder = tempfile::tempdir().unwrap();
    let witness = folder.path().join("ran");
    let command = format!("touch {}", witness.display());
    let length = (command.len() as u32).to_le_bytes();
    let evil = [&b"cos\nsystem\n(X"[..], &length, command.as_bytes(), b"tR."].concat();
    let path = folder.path().join("evil.pth");
    let mut archive = zip::ZipWriter::new(fs::File::create(&path).unwrap());
    archive.start_file("evil/data.pkl", zip::write::SimpleFileOptions::default()).unwrap();
    archive.write_all(&evil).unwrap();
    archive.finish().unwrap();
    let message = refused(&path);
    assert!(message.contains("os.system") && message.contains("nothing of it was run"), "{message}");
    assert!(!witness.exists());
    let text = folder.path().join("text.pth");
    fs::write(&text, "no archive").unwrap();
    assert!(refused(&text).contains("no zip archive"));
}

/// What `torch.save` writes is read as what it saved.
#[test]
fn a_checkpoint_of_pytorch_is_read() {
    let Some(fixture) = Fixture::open("lavis_stage1") else { return };
    let python = Path::new(env!("CARGO_MANIFEST_DIR")).join("../.deps/python-bench/bin/python");
    if !(std::env::var("BLIP2_TIER").is_ok_and(|tier| tier == "all") && python.exists()) {
        eprintln!("SKIPPED: a_checkpoint_of_pytorch_is_read: needs PyTorch; run `make test-all`");
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let (saved, checkpoint) = (fixture.path("weights.safetensors"), folder.path().join("checkpoint.pth"));
    let program = "import sys, torch, collections, safetensors.torch as s\n\
        model = collections.OrderedDict(s.load_file(sys.argv[1]))\n\
        model['shared'] = model['query_tokens'][0, 1:3]\n\
        model['half'] = torch.nn.Parameter(model['temp'].half())\n\
        optimizer = {'state': {0: {'exp_avg': torch.ones(3)}}, 'param_groups': [{'lr': 1e-4, 'betas': (0.9, 0.98)}]}\n\
        torch.save({'model': model, 'optimizer': optimizer, 'epoch': 3, 'config': {'run': {'seed': 42}}}, sys.argv[2])";
    let done = Command::new(python).args(["-c", program]).args([&saved, &checkpoint]).output().unwrap();
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    let (before, after) = [&saved, &checkpoint].map(|path| Source::open(&path.display().to_string()).unwrap()).into();
    for name in before.tensors.keys() {
        assert_eq!(before.read(name).unwrap(), after.read(name).unwrap(), "{name}");
        assert_eq!(before.tensors[name].shape, after.tensors[name].shape, "{name}");
    }
    let row = before.tensors["query_tokens"].shape[2] * 4;
    assert_eq!(after.read("shared").unwrap(), before.read("query_tokens").unwrap()[row..3 * row]);
    assert_eq!(after.read("half").unwrap().len(), 2);
    assert_eq!(after.tensors.len(), before.tensors.len() + 2);
}
