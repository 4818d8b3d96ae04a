//! Published tokenizers' files against the ids that LAVIS has recorded.
#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise and says what it saw")]

mod reference;

use serde_json::Value;
use trainer::text::{PadTo, Role, Tokenizer};

use reference::Fixture;

fn open(fixture: &Fixture, file: &str, role: Role) -> Tokenizer {
    let uri = fixture.path(file).display().to_string();
    Tokenizer::open(&uri, role, 1 << 20).unwrap()
}

fn assert_samples(fixture: &Fixture, tokenizer: &Tokenizer) {
    let expected = fixture.json("expected.json");
    let samples = expected["tokenizer_samples"].as_object().unwrap();
    for (text, ids) in samples {
        let ids: Vec<i64> = serde_json::from_value(ids.clone()).unwrap();
        assert_eq!(tokenizer.prompt(text), ids, "{text:?}");
        let whole = tokenizer.decode(&ids);
        assert!(whole.trim() == text.trim() || ids.contains(&2), "{text:?} came back as {whole:?}");
    }
    assert!(samples.len() > 3);
}

#[test]
fn opt_has_the_ids_of_lavis_from_either_kind_of_file() {
    let Some(fixture) = Fixture::open("lavis_stage2_opt") else { return };
    let end = &fixture.json("expected.json")["eos_token_id_used"];
    let files = tempfile::tempdir().unwrap();
    for name in ["vocab.json", "merges.txt"] {
        std::fs::copy(fixture.path(name), files.path().join(name)).unwrap();
    }
    let uri = files.path().display().to_string();
    for tokenizer in [open(&fixture, "tokenizer.json", Role::Opt), Tokenizer::open(&uri, Role::Opt, 1 << 20).unwrap()] {
        assert_samples(&fixture, &tokenizer);
        assert_eq!(Value::from(tokenizer.end()), *end);
        let recorded = fixture.tensors("io.safetensors");
        for case in ["caption", "caption_truncated"] {
            let texts: Vec<String> =
                serde_json::from_value(fixture.json("expected.json")["cases"][case]["text_input"].clone()).unwrap();
            let expected = recorded.get(&format!("{case}.input_ids")).unwrap();
            let found = tokenizer.encode(&texts, expected.size()[1] as usize, PadTo::Longest);
            assert_eq!(found.ids_tensor(), *expected, "{case}");
            assert_eq!(found.mask_tensor(), *recorded.get(&format!("{case}.attention_mask")).unwrap(), "{case}");
        }
    }
}

#[test]
fn t5_has_the_ids_of_lavis() {
    let Some(fixture) = Fixture::open("lavis_stage2_t5") else { return };
    let tokenizer = open(&fixture, "tokenizer.json", Role::T5);
    assert_samples(&fixture, &tokenizer);
    let recorded = fixture.tensors("io.safetensors");
    for (part, side) in [("text_input", "input"), ("text_output", "output")] {
        let texts: Vec<String> =
            serde_json::from_value(fixture.json("expected.json")["cases"]["prefix"][part].clone()).unwrap();
        let expected = recorded.get(&format!("prefix.{side}_ids")).unwrap();
        assert_eq!(tokenizer.encode(&texts, 100, PadTo::Longest).ids_tensor(), *expected, "{part}");
    }
}

#[test]
fn bert_has_the_ids_of_lavis() {
    let Some(fixture) = Fixture::open("lavis_stage1") else { return };
    let folder = fixture.path("").display().to_string();
    let tokenizer = Tokenizer::open(&folder, Role::Bert, 1 << 20).unwrap();
    let config = fixture.json("config.json");
    let texts: Vec<String> = serde_json::from_value(fixture.json("expected.json")["texts"].clone()).unwrap();
    let recorded = fixture.tensors("io.safetensors");
    let found = tokenizer.encode(&texts, config["max_txt_len"].as_u64().unwrap() as usize, PadTo::Limit);
    assert_eq!(found.ids_tensor(), *recorded.get("input_ids").unwrap());
    assert_eq!(found.mask_tensor(), *recorded.get("attention_mask").unwrap());
}
