//! The shipped configs, built in so that the command works away from the source tree.

/// The name and the text of each shipped config.
pub const PRESETS: &[(&str, &str)] = &[
    ("tiny", include_str!("../tiny.yaml")),
    ("tiny_long", include_str!("../tiny_long.yaml")),
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
