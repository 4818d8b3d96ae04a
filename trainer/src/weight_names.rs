//! Names of weights: those of the reference (LAVIS) and the public ones (Hugging Face), which are the names used here.

/// Names or starts of names: those of LAVIS, and the public ones.
type Renamed = &'static [(&'static str, &'static str)];

/// Whole names.
const NAMES: Renamed = &[
    ("visual_encoder.cls_token", "vision_model.embeddings.class_embedding"),
    ("visual_encoder.pos_embed", "vision_model.embeddings.position_embedding"),
    ("query_tokens", "query_tokens"),
    // Hugging Face has no place for the temperature.
    ("temp", "temp"),
];

/// Starts of names that are replaced; the first that fits counts. What follows is kept.
const STARTS: Renamed = &[
    ("visual_encoder.patch_embed.proj.", "vision_model.embeddings.patch_embedding."),
    ("ln_vision.", "vision_model.post_layernorm."),
    ("Qformer.bert.embeddings.LayerNorm.", "qformer.layernorm."),
    ("Qformer.bert.embeddings.word_embeddings.", "embeddings.word_embeddings."),
    ("Qformer.bert.embeddings.position_embeddings.", "embeddings.position_embeddings."),
    // Hugging Face has no place for the head that predicts words.
    ("Qformer.cls.predictions.", "cls.predictions."),
    ("vision_proj.", "vision_projection."),
    ("text_proj.", "text_projection."),
    ("itm_head.", "itm_head."),
    ("opt_proj.", "language_projection."),
    ("t5_proj.", "language_projection."),
    ("opt_model.", "language_model."),
    ("t5_model.", "language_model."),
];

/// Starts of names that stand before a layer's number, and what is replaced behind it.
const LAYERS: [(&str, &str, Renamed); 2] = [
    ("visual_encoder.blocks.", "vision_model.encoder.layers.", VISION_LAYER),
    ("Qformer.bert.encoder.layer.", "qformer.encoder.layer.", QFORMER_LAYER),
];

/// Inside a block of the EVA-CLIP tower. `attn.q_bias` and `attn.v_bias` are missing: see [`joined_bias`].
const VISION_LAYER: Renamed = &[
    ("norm1.", "layer_norm1."),
    ("norm2.", "layer_norm2."),
    ("attn.qkv.", "self_attn.qkv."),
    ("attn.proj.", "self_attn.projection."),
    ("mlp.fc1.", "mlp.fc1."),
    ("mlp.fc2.", "mlp.fc2."),
];

/// Inside a layer of the Q-Former.
const QFORMER_LAYER: Renamed = &[
    ("attention.self.", "attention.attention."),
    ("attention.output.", "attention.output."),
    ("crossattention.self.", "crossattention.attention."),
    ("crossattention.output.", "crossattention.output."),
    ("intermediate_query.", "intermediate_query."),
    ("output_query.", "output_query."),
    ("intermediate.", "intermediate."),
    ("output.", "output."),
];

/// Tensors that stand for nothing of their own: a buffer, and aliases of the word embedding and of
/// `cls.predictions.bias`. The language models' tied names are judged by the models themselves.
const DROPPED: &[&str] = &[
    "Qformer.bert.embeddings.position_ids",
    "Qformer.cls.predictions.decoder.weight",
    "Qformer.cls.predictions.decoder.bias",
];

/// The public name of a tensor of a LAVIS checkpoint; `None` for those that have none: buffers, aliases, the halves of
/// an attention bias (see [`joined_bias`]) and what does not belong to the model.
///
/// The table is section 8 of the notes on the reference: every row was checked by loading converted files into
/// transformers 5.23 without a missing or unexpected name. `temp` and `cls.predictions.*`, which transformers has no
/// place for, keep their names.
///
/// ```
/// let name = trainer::weight_names::lavis_to_hf("visual_encoder.blocks.3.attn.proj.bias");
/// assert_eq!(name.as_deref(), Some("vision_model.encoder.layers.3.self_attn.projection.bias"));
/// ```
pub fn lavis_to_hf(name: &str) -> Option<String> {
    if DROPPED.contains(&name) {
        return None;
    }
    if let Some((_, public)) = NAMES.iter().find(|(lavis, _)| *lavis == name) {
        return Some((*public).to_owned());
    }
    replace_start(name, STARTS).or_else(|| layer_name(name))
}

/// The public name of an attention bias whose query part, `name`, LAVIS keeps apart: the public one is
/// `q_bias`, as many zeros, `v_bias`, one after the other. Gives back that name and the name of the value part.
///
/// ```
/// let (public, value_part) =
///     trainer::weight_names::joined_bias("visual_encoder.blocks.0.attn.q_bias").expect("it is one");
/// assert_eq!(public, "vision_model.encoder.layers.0.self_attn.qkv.bias");
/// assert_eq!(value_part, "visual_encoder.blocks.0.attn.v_bias");
/// ```
pub fn joined_bias(name: &str) -> Option<(String, String)> {
    let layer = name.strip_suffix(".attn.q_bias")?;
    Some((lavis_to_hf(&format!("{layer}.attn.qkv.bias"))?, format!("{layer}.attn.v_bias")))
}

/// LAVIS' name of a public one; `None` for what it has no name for. The bias of an image encoder's attention keeps one name,
/// which LAVIS has in parts ([`joined_bias`]); OpenAI's names of CLIP, which LAVIS uses too, lose their beginning only.
///
/// ```
/// let name = trainer::weight_names::public_to_lavis("qformer.encoder.layer.0.attention.attention.key.bias", false);
/// assert_eq!(name.as_deref(), Some("Qformer.bert.encoder.layer.0.attention.self.key.bias"));
/// ```
pub fn public_to_lavis(name: &str, is_t5: bool) -> Option<String> {
    if let Some((lavis, _)) = NAMES.iter().find(|(_, public)| *public == name) {
        return Some((*lavis).to_owned());
    }
    let is_other_model = |lavis: &str| lavis.starts_with(if is_t5 { "opt_" } else { "t5_" });
    let start = STARTS.iter().filter(|(lavis, _)| !is_other_model(lavis));
    let start = start.filter_map(|(lavis, public)| Some(format!("{lavis}{}", name.strip_prefix(public)?))).next();
    let layer = || {
        LAYERS.iter().find_map(|(lavis, public, inside)| {
            let (number, rest) = name.strip_prefix(public)?.split_once('.')?;
            number.parse::<u32>().ok()?;
            let renamed = inside.iter().find_map(|(from, to)| Some(format!("{from}{}", rest.strip_prefix(to)?)));
            Some(format!("{lavis}{number}.{}", renamed?))
        })
    };
    start.or_else(layer).or_else(|| Some(format!("visual_encoder.{}", name.strip_prefix("vision_model.")?)))
}

/// The tensor whose values a public name repeats: embeddings that are tied to another one. `exists` says which names there
/// are: FlanT5 has a head of its own.
///
/// ```
/// use trainer::weight_names::shared_with;
///
/// let shared = shared_with("language_model.encoder.embed_tokens.weight", |name| name == "language_model.shared.weight");
/// assert_eq!(shared, Some("language_model.shared.weight"));
/// ```
pub fn shared_with(name: &str, exists: impl Fn(&str) -> bool) -> Option<&'static str> {
    let shared = match name {
        "language_model.lm_head.weight" => "language_model.model.decoder.embed_tokens.weight",
        "language_model.encoder.embed_tokens.weight" | "language_model.decoder.embed_tokens.weight" => {
            "language_model.shared.weight"
        }
        _ => return None,
    };
    exists(shared).then_some(shared)
}

fn replace_start(name: &str, table: Renamed) -> Option<String> {
    table.iter().find_map(|(from, to)| Some(format!("{to}{}", name.strip_prefix(from)?)))
}

fn layer_name(name: &str) -> Option<String> {
    LAYERS.iter().find_map(|(from, to, inside)| {
        let (number, rest) = name.strip_prefix(from)?.split_once('.')?;
        number.parse::<u32>().ok()?;
        Some(format!("{to}{number}.{}", replace_start(rest, inside)?))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_row_of_the_table_is_translated() {
        let rows = [
            ("visual_encoder.cls_token", "vision_model.embeddings.class_embedding"),
            ("visual_encoder.patch_embed.proj.weight", "vision_model.embeddings.patch_embedding.weight"),
            ("visual_encoder.blocks.38.norm2.bias", "vision_model.encoder.layers.38.layer_norm2.bias"),
            ("visual_encoder.blocks.0.attn.qkv.weight", "vision_model.encoder.layers.0.self_attn.qkv.weight"),
            ("visual_encoder.blocks.1.mlp.fc2.weight", "vision_model.encoder.layers.1.mlp.fc2.weight"),
            ("ln_vision.weight", "vision_model.post_layernorm.weight"),
            ("query_tokens", "query_tokens"),
            ("Qformer.bert.embeddings.LayerNorm.bias", "qformer.layernorm.bias"),
            ("Qformer.bert.embeddings.word_embeddings.weight", "embeddings.word_embeddings.weight"),
            (
                "Qformer.bert.encoder.layer.2.attention.self.key.bias",
                "qformer.encoder.layer.2.attention.attention.key.bias",
            ),
            (
                "Qformer.bert.encoder.layer.11.crossattention.output.LayerNorm.weight",
                "qformer.encoder.layer.11.crossattention.output.LayerNorm.weight",
            ),
            (
                "Qformer.bert.encoder.layer.0.output_query.dense.weight",
                "qformer.encoder.layer.0.output_query.dense.weight",
            ),
            ("Qformer.bert.encoder.layer.0.output.dense.weight", "qformer.encoder.layer.0.output.dense.weight"),
            ("Qformer.cls.predictions.transform.LayerNorm.bias", "cls.predictions.transform.LayerNorm.bias"),
            ("Qformer.cls.predictions.bias", "cls.predictions.bias"),
            ("temp", "temp"),
            ("vision_proj.weight", "vision_projection.weight"),
            ("text_proj.bias", "text_projection.bias"),
            ("itm_head.weight", "itm_head.weight"),
            ("t5_proj.bias", "language_projection.bias"),
            ("opt_model.model.decoder.layers.0.fc1.bias", "language_model.model.decoder.layers.0.fc1.bias"),
            ("t5_model.shared.weight", "language_model.shared.weight"),
        ];
        for (lavis, public) in rows {
            assert_eq!(lavis_to_hf(lavis).as_deref(), Some(public), "{lavis}");
        }
    }

    #[test]
    fn public_names_lead_back() {
        for name in [
            "vision_model.embeddings.class_embedding",
            "vision_model.encoder.layers.38.self_attn.projection.bias",
            "vision_model.post_layernorm.weight",
            "query_tokens",
            "qformer.layernorm.bias",
            "qformer.encoder.layer.11.crossattention.output.LayerNorm.weight",
            "qformer.encoder.layer.0.output_query.dense.weight",
            "cls.predictions.transform.LayerNorm.bias",
            "language_projection.bias",
            "language_model.shared.weight",
        ] {
            for is_t5 in [false, true] {
                let lavis = public_to_lavis(name, is_t5).unwrap();
                assert_eq!(lavis_to_hf(&lavis).as_deref(), Some(name), "{lavis}");
                assert!(!lavis.starts_with(if is_t5 { "opt_" } else { "t5_" }));
            }
        }
        assert_eq!(public_to_lavis("something", false), None);
        let clip = "vision_model.transformer.resblocks.3.ln_1.weight";
        assert_eq!(public_to_lavis(clip, false).as_deref(), Some("visual_encoder.transformer.resblocks.3.ln_1.weight"));
    }

    #[test]
    fn what_has_no_public_counterpart_has_no_name() {
        let nameless = [
            "Qformer.bert.embeddings.position_ids",
            "Qformer.cls.predictions.decoder.weight",
            "Qformer.cls.predictions.decoder.bias",
            "visual_encoder.blocks.0.attn.q_bias",
            "visual_encoder.blocks.x.norm1.weight",
            "visual_encoder.head.weight",
            "temperature",
        ];
        for name in nameless {
            assert_eq!(lavis_to_hf(name), None, "{name}");
        }
        assert_eq!(joined_bias("visual_encoder.blocks.0.attn.v_bias"), None);
    }
}
