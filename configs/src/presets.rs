//! The shipped configs, built in so that the command works away from the source tree.

/// The name and the text of each shipped config.
pub const PRESETS: &[(&str, &str)] = &[
    ("tiny", include_str!("../tiny.yaml")),
    ("tiny_long", include_str!("../tiny_long.yaml")),
    ("mid", include_str!("../mid.yaml")),
    ("vitg_opt2.7b", include_str!("../vitg_opt2.7b.yaml")),
    ("vitg_opt6.7b", include_str!("../vitg_opt6.7b.yaml")),
    ("vitg_flant5xl", include_str!("../vitg_flant5xl.yaml")),
    ("vitg_flant5xxl", include_str!("../vitg_flant5xxl.yaml")),
    ("vitl_opt2.7b", include_str!("../vitl_opt2.7b.yaml")),
    ("vitl_opt6.7b", include_str!("../vitl_opt6.7b.yaml")),
    ("vitl_flant5xl", include_str!("../vitl_flant5xl.yaml")),
    ("vitl_flant5xxl", include_str!("../vitl_flant5xxl.yaml")),
    ("finetune_caption", include_str!("../finetune_caption.yaml")),
    ("finetune_vqa", include_str!("../finetune_vqa.yaml")),
    ("finetune_retrieval", include_str!("../finetune_retrieval.yaml")),
    ("tiny_finetune_caption", include_str!("../tiny_finetune_caption.yaml")),
    ("tiny_finetune_vqa", include_str!("../tiny_finetune_vqa.yaml")),
    ("tiny_finetune_retrieval", include_str!("../tiny_finetune_retrieval.yaml")),
    ("ablation_without_itc", include_str!("../ablation_without_itc.yaml")),
    ("ablation_without_itm", include_str!("../ablation_without_itm.yaml")),
    ("ablation_without_itg", include_str!("../ablation_without_itg.yaml")),
    ("ablation_without_stage1", include_str!("../ablation_without_stage1.yaml")),
    ("ablation_num_query_tokens_2", include_str!("../ablation_num_query_tokens_2.yaml")),
    ("ablation_num_query_tokens_16", include_str!("../ablation_num_query_tokens_16.yaml")),
    ("ablation_cross_attention_every_1", include_str!("../ablation_cross_attention_every_1.yaml")),
    ("ablation_cross_attention_every_4", include_str!("../ablation_cross_attention_every_4.yaml")),
];

/// The text of the shipped config of this name, without `.yaml`.
pub fn preset(name: &str) -> Option<&'static str> {
    PRESETS.iter().find(|(other, _)| *other == name).map(|(_, text)| *text)
}

/// Overrides of the preset `tiny` at which a whole run takes seconds, dropout on; every part of it is the real one. For
/// checks and tests, which add their own batches and steps.
pub const SMALL: &[&str] = &[
    "data.sources[0].scenes=400",
    "data.sources[0].test_scenes=40",
    "data.sources[0].shard_rows=200",
    "data.shuffle_window_row_groups=1",
    "model.image_encoder.width=32",
    "model.image_encoder.depth=2",
    "model.image_encoder.mlp_dim=64",
    "model.image_encoder.pretrain.steps=4",
    "model.image_encoder.pretrain.batch=4",
    "model.language_model.hidden_dim=32",
    "model.language_model.depth=1",
    "model.language_model.mlp_dim=64",
    "model.language_model.pretrain.steps=4",
    "model.language_model.pretrain.batch=4",
    "model.qformer.hidden_dim=32",
    "model.qformer.depth=2",
    "model.qformer.mlp_dim=64",
    "model.qformer.projection_dim=16",
    "model.qformer.dropout=0.1",
];
