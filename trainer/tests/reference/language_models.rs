//! Sizes of the fixtures' language models.

use configs::{OptSizes, Run, T5Sizes};
use serde_json::{Value, json};

/// The tiny preset with the fixture's sizes, in f32.
pub fn run_of(config: &Value) -> Run {
    let language = &config["language_model"];
    super::run_of(
        config,
        &[
            ("model.language_model.dtype", "f32".to_owned()),
            ("model.language_model.hidden_dim", one_of(language, "hidden_size", "d_model").to_string()),
            ("model.language_model.heads", one_of(language, "num_attention_heads", "num_heads").to_string()),
            ("model.qformer.image_norm_eps", config["ln_vision_eps"].to_string()),
        ],
    )
}

fn one_of<'a>(value: &'a Value, name: &str, other: &str) -> &'a Value {
    value.get(name).unwrap_or_else(|| &value[other])
}

/// Hugging Face's configuration in LAVIS' words.
pub fn in_lavis_words(config: &Value) -> Value {
    let (vision, qformer) = (&config["vision_config"], &config["qformer_config"]);
    json!({
        "vision": {
            "image_size": vision["image_size"], "patch_size": vision["patch_size"], "embed_dim": vision["hidden_size"],
            "depth": vision["num_hidden_layers"], "num_heads": vision["num_attention_heads"],
            "mlp_hidden": vision["intermediate_size"],
        },
        "ln_vision_eps": vision["layer_norm_eps"],
        "qformer": {
            "hidden_size": qformer["hidden_size"], "num_hidden_layers": qformer["num_hidden_layers"],
            "num_attention_heads": qformer["num_attention_heads"], "intermediate_size": qformer["intermediate_size"],
            "cross_attention_freq": qformer["cross_attention_frequency"],
        },
        "num_query_token": config["num_query_tokens"],
        "language_model": config["text_config"],
    })
}

/// T5's sizes in Hugging Face's configuration.
pub fn t5_sizes(language: &Value) -> T5Sizes {
    let size = |key: &str| language[key].as_u64().unwrap() as usize;
    T5Sizes {
        vocab_size: size("vocab_size"),
        hidden_dim: size("d_model"),
        encoder_depth: size("num_layers"),
        decoder_depth: size("num_decoder_layers"),
        heads: size("num_heads"),
        head_dim: size("d_kv"),
        mlp_dim: size("d_ff"),
        position_buckets: size("relative_attention_num_buckets"),
        max_distance: size("relative_attention_max_distance"),
    }
}

/// OPT's sizes in Hugging Face's configuration, which need not fit the preset's tokenizer.
pub fn opt_sizes(language: &Value) -> OptSizes {
    let size = |key: &str| language[key].as_u64().unwrap() as usize;
    OptSizes {
        vocab_size: size("vocab_size"),
        max_positions: size("max_position_embeddings"),
        hidden_dim: size("hidden_size"),
        depth: size("num_hidden_layers"),
        heads: size("num_attention_heads"),
        mlp_dim: size("ffn_dim"),
    }
}
