//! The findings as a table for people: what is well first, failures last with their fix.

use std::fmt::Write;

use super::check::{Check, State};

/// Columns of a line for a terminal, beyond which words go on below.
const WIDTH: usize = 120;

/// The table, with a line that counts.
pub fn text(checks: &[Check], seconds: f64) -> String {
    let name_width = checks.iter().map(|check| check.name.chars().count()).max().unwrap_or(0);
    let mut sorted: Vec<&Check> = checks.iter().collect();
    // Stable: within a state in the order in which things were looked at.
    sorted.sort_by_key(|check| match check.state {
        State::Ok | State::Skipped => 0,
        State::Warning => 1,
        State::Failure => 2,
    });
    let mut table = String::new();
    for check in sorted {
        let start = format!("{:<8} {:<name_width$}  ", check.state.name(), check.name);
        wrapped(&mut table, &start, &check.found);
        if check.state >= State::Warning {
            let below = |word: &str| format!("{:width$}{word:<10}", "", width = start.chars().count());
            wrapped(&mut table, &below("expected:"), &check.expected);
            wrapped(&mut table, &below("fix:"), &check.fix);
        }
    }
    let count = |state: State| checks.iter().filter(|check| check.state == state).count();
    let _ = writeln!(
        table,
        "{} checks in {seconds:.0} s: {} ok, {} skipped, {} warnings, {} failures",
        checks.len(),
        count(State::Ok),
        count(State::Skipped),
        count(State::Warning),
        count(State::Failure)
    );
    table
}

/// Adds words behind a start, and below them where the line is full.
fn wrapped(table: &mut String, start: &str, words: &str) {
    let (mut line, indent) = (start.to_owned(), " ".repeat(start.chars().count()));
    let mut is_empty = true;
    for word in words.split_whitespace() {
        if !is_empty && line.chars().count() + 1 + word.chars().count() > WIDTH {
            let _ = writeln!(table, "{}", line.trim_end());
            (line, is_empty) = (indent.clone(), true);
        }
        if !is_empty {
            line.push(' ');
        }
        line.push_str(word);
        is_empty = false;
    }
    let _ = writeln!(table, "{}", line.trim_end());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_come_last_with_their_fix_and_columns_are_aligned() {
        let checks = [
            Check::failure("gpus", "0 GPUs", "2 GPUs", "ask for GPUs"),
            Check::ok("placement", "2 ranks", "a place"),
            Check::skipped("pmix", "no SLURM"),
            Check::warning("clock", "30 s ahead", "10 s", "set the clock"),
        ];
        let expected = "\
ok       placement  2 ranks
skipped  pmix       no SLURM
warning  clock      30 s ahead
                    expected: 10 s
                    fix:      set the clock
failure  gpus       0 GPUs
                    expected: 2 GPUs
                    fix:      ask for GPUs
4 checks in 3 s: 1 ok, 1 skipped, 1 warnings, 1 failures
";
        assert_eq!(text(&checks, 3.2), expected);
    }

    #[test]
    fn long_words_go_on_below() {
        let check = Check::ok("a", "word ".repeat(60), "");
        let table = text(&[check], 0.0);
        assert!(table.lines().all(|line| line.chars().count() <= WIDTH), "{table}");
        assert!(table.lines().nth(1).unwrap().starts_with("            word"), "{table}");
    }
}
