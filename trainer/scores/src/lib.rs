//! Scores of captions and answers, equal to those of the reference software: pure functions of texts, without Java.
//!
//! [`caption`] gives BLEU, ROUGE-L and CIDEr of captions as `pycocoevalcap` 1.2 does, from tokens of [`ptb`];
//! [`vqa`] and [`gqa`] give accuracies of answers. `docs/scores.md` says where they agree and what is not offered.
//!
//! ```
//! use scores::caption::{CaptionItem, score};
//!
//! let references = vec!["A dog runs on the beach.".to_owned(), "The dog is running.".to_owned()];
//! let item = |id: &str, caption: &str| CaptionItem {
//!     id: id.to_owned(),
//!     references: references.clone(),
//!     caption: caption.to_owned(),
//! };
//! let scores = score(&[item("1", "a dog runs on the beach"), item("2", "two cats")])?;
//! assert!(scores.items[0].bleu[3] > 0.99 && scores.items[1].rouge_l == 0.0);
//! # Ok::<(), scores::ScoresError>(())
//! ```

pub mod answers;
pub mod caption;
mod error;
pub mod gqa;
mod parallel;
pub mod ptb;
mod python;
pub mod vqa;

pub use error::ScoresError;
