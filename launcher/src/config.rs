//! `blip2 config check | show`.

use configs::{Overrides, Run};

use crate::cli::ConfigArgs;
use crate::data::print_json;

fn load(args: &ConfigArgs) -> anyhow::Result<Run> {
    Ok(configs::load(&args.run, &Overrides::new(&args.set))?)
}

/// Says that a configuration is right, or every problem it has.
///
/// # Errors
/// All problems at once.
#[expect(clippy::print_stdout, reason = "the command's answer")]
pub fn check(args: &ConfigArgs) -> anyhow::Result<()> {
    let run = load(args)?;
    if args.json {
        return print_json(&serde_json::json!({ "schema_version": 1, "ok": true, "name": run.run.name }));
    }
    println!("{}: no problem found", args.run.display());
    Ok(())
}

/// Prints a configuration with every value resolved.
///
/// # Errors
/// All problems at once.
#[expect(clippy::print_stdout, reason = "the command's answer")]
pub fn show(args: &ConfigArgs) -> anyhow::Result<()> {
    let run = load(args)?;
    if args.json {
        return print_json(&run);
    }
    print!("{}", run.to_yaml());
    Ok(())
}
