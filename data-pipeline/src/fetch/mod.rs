//! Metadata of image-text pairs (URLs and captions) to shards of pictures, as img2dataset makes them.
//!
//! The bytes of the output depend on the input, the settings and the answers of servers alone: rows stand in the order
//! of the input, whatever the concurrency, the order of the answers or the number of kills. Read in this order:
//! `run` (what is done when), `input` (files and rows, with `columns`, `types` and `captions` for what they mean, and
//! `list` for text lists), `worker` (one part, one row), `download` (one URL, with `robots`, `address`, `hosts` and
//! `blocklist` for what may not be asked and how often), `picture` (bytes to a picture), `shards` (parts, shards,
//! resumption), `retry`.

mod address;
mod blocklist;
mod captions;
mod columns;
mod download;
mod file;
mod hosts;
mod input;
mod list;
mod options;
mod picture;
mod retry;
mod robots;
mod rows;
mod run;
mod shards;
mod types;
mod worker;

pub use options::{
    ColumnChoice, Effort, FetchOptions, ImageFormat, PictureOptions, ROW_GROUP_ROWS, ResizeMode, Rules, Settings,
};
pub use run::{FetchSummary, Progress, fetch};
pub use shards::ShardStats;
