//! `blip2 report`: one static page on what a run did, from what it wrote.

mod curves;
mod data;
pub(crate) mod faults;
pub(crate) mod gather;
mod page;
mod scores;
pub(crate) mod time;
mod words;

pub(crate) use curves::number;
pub(crate) use data::table as sources;
pub use page::duration;
pub(crate) use page::{STYLE, stage_charts};

use data_pipeline::store::Location;

use crate::cli::ReportArgs;
use crate::data::block_on;

/// Writes `report.html` into a run's output folder and says where it lies.
///
/// # Errors
/// A folder that holds no run, or a store that fails.
#[expect(clippy::print_stdout, reason = "the command's answer")]
pub fn run(args: &ReportArgs) -> anyhow::Result<()> {
    println!("{}", write(&args.run)?);
    Ok(())
}

/// Writes the report of the run in this folder; returns its place.
///
/// # Errors
/// A folder that holds no run, or a store that fails.
pub fn write(run: &str) -> anyhow::Result<String> {
    let place = Location::parse(run)?;
    let kept = "the report was not written; an earlier one stays";
    let story = block_on(gather::gather(&place), kept)?;
    let page = place.child("report.html");
    block_on(page.write(page::html(&story)), kept)?;
    Ok(page.uri().to_owned())
}
