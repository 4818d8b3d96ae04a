//! The `blip2` command.
fn main() {}
