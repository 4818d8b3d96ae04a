//! `blip2-rank eval`.

use anyhow::{Context, Result};
use clap::Subcommand;
use data_pipeline::synthetic::Split;
use trainer::eval::Request;
use trainer::eval::sets::{Data, Files};

/// What is scored.
#[derive(Subcommand)]
pub enum EvalCommand {
    /// Images and captions find each other.
    Retrieval {
        #[command(flatten)]
        arguments: EvalArguments,
        /// Candidates of each row that the matching head scores.
        #[arg(long, default_value_t = 128)]
        candidates: usize,
    },
    /// Captions are written, and compared with those of people and with what is in the picture.
    Caption(EvalArguments),
    /// Questions are answered.
    Vqa(EvalArguments),
}

/// `blip2-rank eval …`
#[derive(clap::Args)]
pub struct EvalArguments {
    /// A checkpoint, or a run's folder.
    pub checkpoint: String,
    /// Of a run's folder, the stage.
    #[arg(long)]
    pub stage: Option<String>,
    /// Which held-out scenes, where no annotations are given; with them, one of their splits.
    #[arg(long)]
    pub split: Option<String>,
    /// Captions or questions, as they are published.
    #[arg(long, requires = "images")]
    pub annotations: Option<String>,
    /// Answers to questions, where they have a file of their own.
    #[arg(long, requires = "annotations")]
    pub answers: Option<String>,
    /// The folder of their images.
    #[arg(long, requires = "annotations")]
    pub images: Option<String>,
    /// Only the first so many.
    #[arg(long)]
    pub limit: Option<usize>,
    /// How texts are written: a JSON object with the options of `blip2 caption`.
    #[arg(long, default_value = "{}")]
    pub decoding: String,
    /// Where the result goes with every single answer.
    #[arg(long)]
    pub output: Option<String>,
}

impl EvalArguments {
    /// # Errors
    /// For a split that there is not, or options that cannot be read.
    pub fn request(&self) -> Result<Request> {
        let data = match (&self.annotations, &self.images) {
            (Some(annotations), Some(images)) => Data::Files(Files {
                annotations: annotations.clone(),
                answers: self.answers.clone(),
                images: images.clone(),
                split: self.split.clone(),
            }),
            _ => {
                let name = self.split.as_deref().unwrap_or("test_seen");
                let split = Split::ALL.into_iter().find(|split| split.name() == name);
                Data::HeldOut(split.with_context(|| format!("--split {name}: expected test_seen or test_unseen"))?)
            }
        };
        let options = serde_json::from_str(&self.decoding)
            .with_context(|| format!("found --decoding {}; expected the options of `blip2 caption`", self.decoding))?;
        Ok(Request {
            checkpoint: self.checkpoint.clone(),
            stage: self.stage.clone(),
            data,
            limit: self.limit,
            options,
            output: self.output.clone(),
        })
    }
}
