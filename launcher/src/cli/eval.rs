//! `blip2 eval`: scores of checkpoints and of predictions, and the paper's tables.

use clap::{Args, Subcommand};

use super::DecodingArgs;

/// `blip2 eval …`
#[derive(Debug, Subcommand)]
pub enum EvalCommand {
    /// Find the caption of an image among all, and the image of a caption.
    Retrieval(RetrievalArgs),
    /// Write captions and compare them with people's: BLEU, ROUGE-L, CIDEr.
    Caption(EvalArgs),
    /// Answer questions and compare with people's answers, by VQA's rules or GQA's.
    Vqa(EvalArgs),
    /// Score captions or answers that lie in a file, without any model.
    Score(ScoreArgs),
    /// Print a table of the paper: your rows, the paper's, the difference.
    Table(TableArgs),
}

/// `blip2 eval retrieval`
#[derive(Debug, Args)]
pub struct RetrievalArgs {
    /// What every evaluation is told.
    #[command(flatten)]
    pub eval: EvalArgs,
    /// Candidates of each image and text, the best by contrast, that the matching head scores again.
    #[arg(long, value_name = "K", default_value_t = 128, value_parser = clap::value_parser!(u64).range(1..))]
    pub candidates: u64,
}

/// `blip2 eval retrieval | caption | vqa`
#[derive(Debug, Args)]
pub struct EvalArgs {
    /// A checkpoint, or a run's output folder (its last checkpoint).
    pub checkpoint: String,
    /// Of a run's output folder, take the last checkpoint of this stage.
    #[arg(long, value_name = "NAME")]
    pub stage: Option<String>,
    /// The captions or questions of a published set (COCO, Flickr30k, NoCaps, VQAv2, OK-VQA, GQA), a path or an object
    /// store's URI; the held-out scenes of the run's own corpus when not given.
    #[arg(long, value_name = "URI", requires = "images")]
    pub annotations: Option<String>,
    /// The answers, where questions and answers are in two files (VQAv2, OK-VQA).
    #[arg(long, value_name = "URI", requires = "annotations")]
    pub answers: Option<String>,
    /// The folder of its images, a path or an object store's URI.
    #[arg(long, value_name = "URI", requires = "annotations")]
    pub images: Option<String>,
    /// One of the splits of a file that has several (Karpathy's); of held-out scenes, test_seen or test_unseen.
    #[arg(long, value_name = "NAME")]
    pub split: Option<String>,
    /// Use only the first N images, or questions.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub limit: Option<u64>,
    /// Share the work among N ranks of this machine.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..=1024))]
    pub ranks: u64,
    /// How texts are written; the defaults of each task are in the result, and in docs/evaluation.md.
    #[command(flatten)]
    pub decoding: DecodingArgs,
    /// Where the result goes with every single answer, a path or a URI; the run's eval/ folder when not given.
    #[arg(long, value_name = "URI")]
    pub output: Option<String>,
    /// One JSON object on standard output.
    #[arg(long)]
    pub json: bool,
}

/// `blip2 eval score`
#[derive(Debug, Args)]
pub struct ScoreArgs {
    /// The predictions: [{"image_id", "caption"}], [{"question_id", "answer"}] or [{"questionId", "prediction"}].
    pub predictions: String,
    /// The captions or questions of the set that they are of.
    #[arg(long, value_name = "URI")]
    pub annotations: String,
    /// The answers, where questions and answers are in two files (VQAv2, OK-VQA).
    #[arg(long, value_name = "URI")]
    pub answers: Option<String>,
    /// One of the splits of a file that has several (Karpathy's).
    #[arg(long, value_name = "NAME")]
    pub split: Option<String>,
    /// One JSON object on standard output.
    #[arg(long)]
    pub json: bool,
}

/// `blip2 eval table`
#[derive(Debug, Args)]
pub struct TableArgs {
    /// Which of the paper's tables.
    #[arg(value_parser = clap::value_parser!(u8).range(1..=6))]
    pub table: u8,
    /// Results of evaluations: files, or runs whose eval/ folder holds some.
    #[arg(value_name = "RESULT")]
    pub results: Vec<String>,
    /// One JSON object on standard output.
    #[arg(long)]
    pub json: bool,
}
