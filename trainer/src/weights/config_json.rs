//! `config.json` as Hugging Face's BLIP-2 has it.

use configs::{LanguageModelSizes, Run};
use serde_json::{Value, json};

/// The tower's epsilon, which Hugging Face uses for the norm behind it, too; here and in LAVIS that one has its own.
const VISION_EPS: f64 = 1e-6;
/// The placeholder of queries in published models.
const OPT_PLACEHOLDER: usize = 50_265;
const T5_PLACEHOLDER: usize = 32_100;

/// The configuration of a run's model; of a retrieval model, or of one with a language model.
pub(super) fn of(run: &Run, is_retrieval: bool) -> Value {
    let model = &run.model;
    let (vision, qformer) = (model.image_encoder.sizes(), &model.qformer);
    let mut config = json!({
        "architectures": [if is_retrieval { "Blip2ForImageTextRetrieval" } else { "Blip2ForConditionalGeneration" }],
        "model_type": "blip-2",
        "num_query_tokens": qformer.num_query_tokens,
        "image_text_hidden_size": qformer.projection_dim,
        "initializer_factor": 1.0,
        "initializer_range": 0.02,
        "vision_config": {
            "model_type": "blip_2_vision_model",
            "hidden_size": vision.width,
            "intermediate_size": vision.mlp_dim,
            "num_hidden_layers": vision.depth,
            "num_attention_heads": vision.heads,
            "image_size": model.image_encoder.image_size(),
            "patch_size": vision.patch_size,
            "hidden_act": "gelu",
            "layer_norm_eps": VISION_EPS,
            "qkv_bias": true,
        },
        "qformer_config": {
            "model_type": "blip_2_qformer",
            "vocab_size": qformer.vocab_size,
            "hidden_size": qformer.hidden_dim,
            "num_hidden_layers": qformer.depth,
            "num_attention_heads": qformer.heads,
            "intermediate_size": qformer.mlp_dim,
            "hidden_act": "gelu",
            "hidden_dropout_prob": qformer.dropout,
            "attention_probs_dropout_prob": qformer.dropout,
            "max_position_embeddings": qformer.max_positions,
            "layer_norm_eps": 1e-12,
            "cross_attention_frequency": qformer.cross_attention_every,
            "encoder_hidden_size": vision.width,
            "use_qformer_text_input": is_retrieval,
        },
    });
    if is_retrieval {
        return config;
    }
    let (text, placeholder, is_decoder) = match model.language_model.sizes() {
        LanguageModelSizes::Opt(sizes) => {
            let text = json!({
                "model_type": "opt",
                "vocab_size": sizes.vocab_size,
                "hidden_size": sizes.hidden_dim,
                "word_embed_proj_dim": sizes.hidden_dim,
                "num_hidden_layers": sizes.depth,
                "num_attention_heads": sizes.heads,
                "ffn_dim": sizes.mlp_dim,
                "max_position_embeddings": sizes.max_positions,
                "do_layer_norm_before": true,
                "activation_function": "relu",
                "dropout": 0.1,
                "attention_dropout": 0.0,
                "pad_token_id": 1,
                "bos_token_id": 2,
                "eos_token_id": 2,
                "tie_word_embeddings": true,
            });
            (text, placeholder(sizes.vocab_size, OPT_PLACEHOLDER), true)
        }
        LanguageModelSizes::T5(sizes) => {
            let text = json!({
                "model_type": "t5",
                "vocab_size": sizes.vocab_size,
                "d_model": sizes.hidden_dim,
                "d_kv": sizes.head_dim,
                "d_ff": sizes.mlp_dim,
                "num_layers": sizes.encoder_depth,
                "num_decoder_layers": sizes.decoder_depth,
                "num_heads": sizes.heads,
                "relative_attention_num_buckets": sizes.position_buckets,
                "relative_attention_max_distance": sizes.max_distance,
                "feed_forward_proj": "gated-gelu",
                "dense_act_fn": "gelu",
                "is_gated_act": true,
                "layer_norm_epsilon": 1e-6,
                "pad_token_id": 0,
                "eos_token_id": 1,
                "decoder_start_token_id": 0,
                "is_encoder_decoder": true,
                "tie_word_embeddings": false,
            });
            (text, placeholder(sizes.vocab_size, T5_PLACEHOLDER), false)
        }
    };
    config["text_config"] = text;
    config["image_token_index"] = placeholder.into();
    config["use_decoder_only_language_model"] = is_decoder.into();
    config
}

/// The published placeholder of queries, or the last token of a smaller vocabulary.
fn placeholder(vocab_size: usize, published: usize) -> usize {
    published.min(vocab_size - 1)
}

/// What of a source's `config.json` decides over results beside sizes.
pub(super) fn hyper_parameters(config: &Value) -> Value {
    let mut kept = serde_json::Map::new();
    let keys =
        ["layer_norm_eps", "hidden_act", "dense_act_fn", "feed_forward_proj", "activation_function", "model_type"];
    let parts = [(None, config), (Some("vision_config"), &config["vision_config"])];
    let more = [(Some("qformer_config"), &config["qformer_config"]), (Some("text_config"), &config["text_config"])];
    for (part, values) in parts.into_iter().chain(more) {
        for key in keys {
            if let Some(value) = values.get(key) {
                let name = part.map_or_else(|| key.to_owned(), |part| format!("{part}.{key}"));
                kept.insert(name, value.clone());
            }
        }
    }
    Value::Object(kept)
}
