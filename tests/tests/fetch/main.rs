//! `blip2 data fetch` against servers on loopback that answer well, badly, late or never, and through kills.
#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise and says what it saw")]

mod answers;
mod lists;
mod resume;
mod site;
