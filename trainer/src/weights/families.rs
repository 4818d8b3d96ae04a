//! Which software has written a set of tensors, and what each of them is called here.

use std::collections::BTreeSet;

use crate::weight_names::{joined_bias, lavis_to_hf};

/// Who wrote the names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// A BLIP-2 of Hugging Face, for generation or retrieval: these are the names used here.
    HuggingFace,
    /// A BLIP-2 of LAVIS.
    Lavis,
    /// EVA-CLIP's image encoder alone.
    EvaClip,
    /// OpenAI's CLIP, or its image encoder alone.
    Clip,
    /// Hugging Face's CLIP.
    HuggingFaceClip,
    /// OPT.
    Opt,
    /// T5.
    T5,
    /// BERT, which a Q-Former starts from.
    Bert,
}

impl Family {
    /// All of them, as they are looked for.
    const ALL: [(Self, &'static str); 8] = [
        (Self::Lavis, "Qformer.bert.encoder.layer.0.attention.self.query.weight"),
        (Self::HuggingFace, "qformer.encoder.layer.0.attention.attention.query.weight"),
        (Self::EvaClip, "blocks.0.attn.qkv.weight"),
        (Self::Clip, "transformer.resblocks.0.attn.in_proj_weight"),
        (Self::HuggingFaceClip, "encoder.layers.0.self_attn.q_proj.weight"),
        (Self::Opt, "decoder.layers.0.self_attn.q_proj.weight"),
        (Self::T5, "encoder.block.0.layer.0.SelfAttention.q.weight"),
        (Self::Bert, "encoder.layer.0.attention.self.query.weight"),
    ];

    /// The family whose first layer is among the names, and what stands before its names.
    pub(super) fn of<'n>(names: impl Iterator<Item = &'n str> + Clone) -> Option<(Self, String)> {
        let starts = |known: &str, name: &str| name.strip_suffix(known).map(str::to_owned);
        Self::ALL.iter().find_map(|(family, known)| {
            // The longest beginning: CLIP's text encoder has the same names without `visual.`.
            let found = names.clone().filter_map(|name| starts(known, name));
            let found = found.filter(|start| *family != Self::HuggingFaceClip || !start.contains("text_model"));
            Some((*family, found.filter(|start| start.is_empty() || start.ends_with('.')).max_by_key(String::len)?))
        })
    }

    /// What messages call it.
    pub fn name(self) -> &'static str {
        match self {
            Self::HuggingFace => "BLIP-2 of Hugging Face",
            Self::Lavis => "BLIP-2 of LAVIS",
            Self::EvaClip => "EVA-CLIP",
            Self::Clip => "CLIP of OpenAI",
            Self::HuggingFaceClip => "CLIP of Hugging Face",
            Self::Opt => "OPT",
            Self::T5 => "T5",
            Self::Bert => "BERT",
        }
    }
}

/// A place of a public tensor, whose rows may come from several tensors, one behind the other.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Place {
    pub name: String,
    pub part: usize,
    pub parts: usize,
}

impl Place {
    fn whole(name: String) -> Self {
        Self { name, part: 0, parts: 1 }
    }
}

/// What becomes of a tensor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Fate {
    /// It has places here; two where a Q-Former starts with copies.
    Placed(Vec<Place>),
    /// It belongs to a part that is not used, for this reason.
    LeftOut(&'static str),
    /// Its name is not known.
    Unknown,
}

const TIED: &str = "repeats another tensor";
const UNUSED: &str = "belongs to a part that BLIP-2 does not use";
const LAST_BLOCK: &str = "belongs to the last block, which BLIP-2 leaves out";

/// Decides for every tensor of a source.
pub(super) struct Decisions<'n> {
    family: Family,
    start: String,
    names: BTreeSet<&'n str>,
    /// Blocks of an image encoder that was trained with one more than is used.
    used_blocks: Option<usize>,
}

impl<'n> Decisions<'n> {
    pub fn new(family: Family, start: &str, names: impl Iterator<Item = &'n str>) -> Self {
        let names: BTreeSet<&str> = names.collect();
        let layers = match family {
            Family::EvaClip => Some("blocks."),
            Family::Clip => Some("transformer.resblocks."),
            Family::HuggingFaceClip => Some("encoder.layers."),
            _ => None,
        };
        // EVA-CLIP g has 40 blocks and CLIP L has 24; the second last one's output is what BLIP-2 sees. Towers of other
        // depths are taken as they are.
        let blocks = layers.map(|layers| {
            let number = |name: &&str| name.strip_prefix(start)?.strip_prefix(layers)?.split('.').next()?.parse().ok();
            names.iter().filter_map(number).max().map_or(0, |last: usize| last + 1)
        });
        let used_blocks = blocks.map(|blocks| if blocks == 40 || blocks == 24 { blocks - 1 } else { blocks });
        Self { family, start: start.to_owned(), names, used_blocks }
    }

    /// What becomes of the tensor called `name`.
    pub fn of(&self, name: &str) -> Fate {
        if let (Family::Bert, Some(head)) = (self.family, name.strip_prefix("cls.predictions.")) {
            return lavis(&format!("Qformer.cls.predictions.{}", modern(head)));
        }
        let Some(inner) = name.strip_prefix(self.start.as_str()) else {
            return if self.is_outside(name) { Fate::LeftOut(UNUSED) } else { Fate::Unknown };
        };
        match self.family {
            Family::HuggingFace => self.hugging_face(inner),
            Family::Lavis => lavis(inner),
            Family::EvaClip => self.eva(inner),
            Family::Clip => self.clip(inner),
            Family::HuggingFaceClip => self.hugging_face_clip(inner),
            Family::Opt => self.opt(inner),
            Family::T5 => t5(inner),
            Family::Bert => bert(inner),
        }
    }

    /// Names of CLIP and BERT that stand outside of what has the family's beginning.
    fn is_outside(&self, name: &str) -> bool {
        match self.family {
            Family::Clip | Family::HuggingFaceClip => true,
            Family::Bert => name.starts_with("cls.seq_relationship."),
            Family::Opt => name == "lm_head.weight",
            _ => false,
        }
    }

    fn hugging_face(&self, name: &str) -> Fate {
        if crate::weight_names::shared_with(name, |other| self.names.contains(other)).is_some() {
            return Fate::LeftOut(TIED);
        }
        let known = ["vision_model.", "qformer.", "language_model.", "embeddings.", "language_projection."];
        let more = ["vision_projection.", "text_projection.", "itm_head.", "query_tokens", "cls.predictions.", "temp"];
        match known.iter().chain(&more).any(|start| name.starts_with(start)) {
            true => Fate::Placed(vec![Place::whole(name.to_owned())]),
            false => Fate::Unknown,
        }
    }

    fn eva(&self, name: &str) -> Fate {
        if ["norm.", "fc_norm.", "head.", "mask_token", "lm_head."].iter().any(|start| name.starts_with(start)) {
            return Fate::LeftOut(UNUSED);
        }
        if self.is_beyond(name, "blocks.") {
            return Fate::LeftOut(LAST_BLOCK);
        }
        lavis(&format!("visual_encoder.{name}"))
    }

    fn clip(&self, name: &str) -> Fate {
        if self.is_beyond(name, "transformer.resblocks.") {
            return Fate::LeftOut(LAST_BLOCK);
        }
        let used = ["class_embedding", "positional_embedding", "conv1.weight", "ln_pre.", "transformer.resblocks."];
        match used.iter().any(|start| name.starts_with(start)) {
            true => Fate::Placed(vec![Place::whole(format!("vision_model.{name}"))]),
            false => Fate::LeftOut(UNUSED),
        }
    }

    /// Hugging Face cuts OpenAI's one projection of queries, keys and values into three.
    fn hugging_face_clip(&self, name: &str) -> Fate {
        let whole = |name: &str| Fate::Placed(vec![Place::whole(format!("vision_model.{name}"))]);
        match name {
            "embeddings.class_embedding" => return whole("class_embedding"),
            "embeddings.position_embedding.weight" => return whole("positional_embedding"),
            "embeddings.patch_embedding.weight" => return whole("conv1.weight"),
            _ => {}
        }
        if let Some(end) = name.strip_prefix("pre_layrnorm.") {
            return whole(&format!("ln_pre.{end}"));
        }
        if self.is_beyond(name, "encoder.layers.") {
            return Fate::LeftOut(LAST_BLOCK);
        }
        let Some((number, rest)) = name.strip_prefix("encoder.layers.").and_then(|rest| rest.split_once('.')) else {
            return Fate::LeftOut(UNUSED);
        };
        match clip_layer(number, rest) {
            Some(Place { name, part, parts }) => {
                Fate::Placed(vec![Place { name: format!("vision_model.{name}"), part, parts }])
            }
            None => Fate::Unknown,
        }
    }

    fn opt(&self, name: &str) -> Fate {
        match name {
            "lm_head.weight" => Fate::LeftOut(TIED),
            _ if name.starts_with("decoder.") => {
                Fate::Placed(vec![Place::whole(format!("language_model.model.{name}"))])
            }
            _ => Fate::Unknown,
        }
    }

    fn is_beyond(&self, name: &str, layers: &str) -> bool {
        let number = name.strip_prefix(layers).and_then(|rest| rest.split('.').next()?.parse::<usize>().ok());
        number.zip(self.used_blocks).is_some_and(|(number, used)| number >= used)
    }
}

/// OpenAI's name of a tensor of layer `number` of one of Hugging Face's CLIP towers, below the tower's own name.
pub(super) fn clip_layer(number: &str, rest: &str) -> Option<Place> {
    let layer = format!("transformer.resblocks.{number}");
    for (part, projection) in ["q", "k", "v"].iter().enumerate() {
        if let Some(end) = rest.strip_prefix(&format!("self_attn.{projection}_proj.")) {
            return Some(Place { name: format!("{layer}.attn.in_proj_{end}"), part, parts: 3 });
        }
    }
    let table = [
        ("self_attn.out_proj.", "attn.out_proj."),
        ("layer_norm1.", "ln_1."),
        ("layer_norm2.", "ln_2."),
        ("mlp.fc1.", "mlp.c_fc."),
        ("mlp.fc2.", "mlp.c_proj."),
    ];
    table.iter().find_map(|(from, to)| Some(Place::whole(format!("{layer}.{to}{}", rest.strip_prefix(from)?))))
}

fn lavis(name: &str) -> Fate {
    let bias = |part: usize, query_bias: &str| {
        joined_bias(query_bias).map(|(name, _)| Fate::Placed(vec![Place { name, part, parts: 3 }]))
    };
    if let Some(fate) = bias(0, name) {
        return fate;
    }
    if let Some(layer) = name.strip_suffix(".attn.v_bias") {
        return bias(2, &format!("{layer}.attn.q_bias")).unwrap_or(Fate::Unknown);
    }
    if ["opt_model.lm_head.weight", "t5_model.encoder.embed_tokens.weight", "t5_model.decoder.embed_tokens.weight"]
        .contains(&name)
        || name.starts_with("Qformer.cls.predictions.decoder.")
    {
        return Fate::LeftOut(TIED);
    }
    if name == "Qformer.bert.embeddings.position_ids" || name.ends_with(".k_bias") {
        return Fate::LeftOut(UNUSED);
    }
    lavis_to_hf(name).map_or(Fate::Unknown, |name| Fate::Placed(vec![Place::whole(name)]))
}

fn t5(name: &str) -> Fate {
    match name {
        "encoder.embed_tokens.weight" | "decoder.embed_tokens.weight" => Fate::LeftOut(TIED),
        _ if ["shared.", "encoder.", "decoder.", "lm_head."].iter().any(|start| name.starts_with(start)) => {
            Fate::Placed(vec![Place::whole(format!("language_model.{name}"))])
        }
        _ => Fate::Unknown,
    }
}

/// Today's name of a norm's weight or bias, which old files of BERT call gamma and beta.
fn modern(name: &str) -> String {
    match (name.strip_suffix(".gamma"), name.strip_suffix(".beta")) {
        (Some(norm), _) => format!("{norm}.weight"),
        (_, Some(norm)) => format!("{norm}.bias"),
        _ => name.to_owned(),
    }
}

/// BERT's names inside its own beginning, `bert.` or none. The feed-forward parts of queries start as copies of the text's
/// (LAVIS `blip2_qformer.py`).
fn bert(name: &str) -> Fate {
    let name = modern(name);
    if name.starts_with("pooler.") || name.starts_with("embeddings.token_type_embeddings.") {
        return Fate::LeftOut(UNUSED);
    }
    if name.starts_with("embeddings.position_ids") {
        return Fate::LeftOut(UNUSED);
    }
    let Some(public) = lavis_to_hf(&format!("Qformer.bert.{name}")) else { return Fate::Unknown };
    let query = [
        (".intermediate.", ".intermediate_query."),
        (".output.dense.", ".output_query.dense."),
        (".output.LayerNorm.", ".output_query.LayerNorm."),
    ];
    let is_attention = public.contains(".attention.");
    let copy = query.iter().filter(|_| !is_attention).find(|(text, _)| public.contains(text));
    let copied = copy.map(|(text, query)| Place::whole(public.replacen(text, query, 1)));
    Fate::Placed([Place::whole(public)].into_iter().chain(copied).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fate(names: &[&str], name: &str) -> Fate {
        let (family, start) = Family::of(names.iter().copied()).unwrap();
        Decisions::new(family, &start, names.iter().copied()).of(name)
    }

    fn placed(name: &str) -> Fate {
        Fate::Placed(vec![Place::whole(name.to_owned())])
    }

    #[test]
    fn families_are_told_by_their_first_layer() {
        let of = |names: &[&str]| Family::of(names.iter().copied());
        for (family, known) in Family::ALL {
            assert_eq!(of(&["other", known]), Some((family, String::new())), "{known}");
        }
        let visual = "visual.transformer.resblocks.0.attn.in_proj_weight";
        let text = "transformer.resblocks.0.attn.in_proj_weight";
        assert_eq!(of(&[text, visual]), Some((Family::Clip, "visual.".into())));
        assert_eq!(of(&["model.decoder.layers.0.self_attn.q_proj.weight"]), Some((Family::Opt, "model.".into())));
        assert_eq!(of(&["bert.encoder.layer.0.attention.self.query.weight"]), Some((Family::Bert, "bert.".into())));
        assert_eq!(of(&["weight"]), None);
    }

    #[test]
    fn the_last_block_of_a_published_tower_is_left_out() {
        let blocks: Vec<String> = (0..40).map(|i| format!("blocks.{i}.attn.qkv.weight")).collect();
        let names: Vec<&str> = blocks.iter().map(String::as_str).chain(["blocks.0.attn.q_bias"]).collect();
        assert_eq!(fate(&names, "blocks.39.norm1.weight"), Fate::LeftOut(LAST_BLOCK));
        assert_eq!(fate(&names, "blocks.38.norm1.weight"), placed("vision_model.encoder.layers.38.layer_norm1.weight"));
        let bias = "vision_model.encoder.layers.0.self_attn.qkv.bias".to_owned();
        assert_eq!(
            fate(&names, "blocks.0.attn.v_bias"),
            Fate::Placed(vec![Place { name: bias.clone(), part: 2, parts: 3 }])
        );
        assert_eq!(fate(&names, "blocks.0.attn.q_bias"), Fate::Placed(vec![Place { name: bias, part: 0, parts: 3 }]));
        assert_eq!(fate(&names, "head.weight"), Fate::LeftOut(UNUSED));
        assert_eq!(fate(&names, "something"), Fate::Unknown);
    }

    #[test]
    fn the_three_projections_of_hugging_faces_clip_are_joined() {
        let names = ["vision_model.encoder.layers.0.self_attn.q_proj.weight", "text_model.embeddings.x"];
        let place = |part| {
            let name = "vision_model.transformer.resblocks.0.attn.in_proj_weight".to_owned();
            Fate::Placed(vec![Place { name, part, parts: 3 }])
        };
        for (part, letter) in ["q", "k", "v"].iter().enumerate() {
            let name = format!("vision_model.encoder.layers.0.self_attn.{letter}_proj.weight");
            assert_eq!(fate(&names, &name), place(part));
        }
        assert_eq!(fate(&names, "vision_model.pre_layrnorm.bias"), placed("vision_model.ln_pre.bias"));
        assert_eq!(fate(&names, "text_model.embeddings.x"), Fate::LeftOut(UNUSED));
        assert_eq!(fate(&names, "vision_model.post_layernorm.bias"), Fate::LeftOut(UNUSED));
    }

    #[test]
    fn a_qformer_starts_with_two_copies_of_berts_feed_forward_part() {
        let names = ["bert.encoder.layer.0.attention.self.query.weight"];
        let found = fate(&names, "bert.encoder.layer.3.output.LayerNorm.gamma");
        let layer = "qformer.encoder.layer.3";
        let places = [format!("{layer}.output.LayerNorm.weight"), format!("{layer}.output_query.LayerNorm.weight")];
        assert_eq!(found, Fate::Placed(places.map(Place::whole).to_vec()));
        assert_eq!(
            fate(&names, "bert.encoder.layer.3.attention.output.dense.bias"),
            placed("qformer.encoder.layer.3.attention.output.dense.bias")
        );
        assert_eq!(fate(&names, "bert.embeddings.LayerNorm.beta"), placed("qformer.layernorm.bias"));
        assert_eq!(fate(&names, "bert.pooler.dense.weight"), Fate::LeftOut(UNUSED));
        let head = "cls.predictions.transform.LayerNorm";
        assert_eq!(fate(&names, &format!("{head}.beta")), placed(&format!("{head}.bias")));
        assert_eq!(fate(&names, "cls.predictions.decoder.weight"), Fate::LeftOut(TIED));
        assert_eq!(fate(&names, "cls.seq_relationship.bias"), Fate::LeftOut(UNUSED));
    }
}
