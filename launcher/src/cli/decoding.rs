//! How texts are written, for all commands that write some.

use clap::Args;

/// How texts are written. What is not given is as in training, and greedy.
#[derive(Debug, Args, serde::Serialize)]
pub struct DecodingArgs {
    /// Text that the caption continues, or a question to answer.
    #[arg(long)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prompt: Option<String>,
    /// Beams of the search; 1 is greedy.
    #[arg(long, value_name = "N")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub beams: Option<u32>,
    /// Draw every token, among the most probable ones that together have this probability.
    #[arg(long, value_name = "P")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub top_p: Option<f64>,
    /// Draw every token, among the so many most probable ones.
    #[arg(long, value_name = "N")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub top_k: Option<u32>,
    /// Draw every token; scores are divided by this first.
    #[arg(long, value_name = "T")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub temperature: Option<f64>,
    /// Key of what is drawn [default: 0].
    #[arg(long, value_name = "N")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub seed: Option<u64>,
    /// Tokens that are written at most, the end token included.
    #[arg(long, value_name = "N")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_tokens: Option<u32>,
    /// Tokens that are written before a text may end.
    #[arg(long, value_name = "N")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub min_tokens: Option<u32>,
    /// Divides what speaks for tokens that are there already; 1 changes nothing.
    #[arg(long, value_name = "X")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub repetition_penalty: Option<f64>,
    /// Exponent of the length by which beams' scores are divided; above 0, longer texts are preferred.
    #[arg(long, value_name = "X", allow_negative_numbers = true)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub length_penalty: Option<f64>,
    /// Texts for each image: at most as many as beams, or any number of texts that are drawn.
    #[arg(long, value_name = "N")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub texts: Option<u32>,
    /// Whose rules beam search follows: transformers 4.33, as LAVIS' numbers were made, or today's.
    #[arg(long, value_parser = ["lavis", "hugging_face"])]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rules: Option<String>,
}
