//! The nearest valid name for a misspelt one.

/// The candidate nearest to `found`, if one is near enough to be what was meant.
pub(crate) fn nearest<'a>(found: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let folded = fold(found);
    if folded.is_empty() || folded.len() > 100 {
        return None;
    }
    let mut best: Option<(usize, &str)> = None;
    for candidate in candidates {
        let target = fold(candidate);
        let distance = if is_part(&folded, &target) { 1 } else { strsim::damerau_levenshtein(&folded, &target) };
        let allowed = (folded.chars().count().max(target.chars().count()) / 3).max(1);
        if distance <= allowed && best.is_none_or(|(shortest, _)| distance < shortest) {
            best = Some((distance, candidate));
        }
    }
    best.map(|(_, candidate)| candidate)
}

/// Lower case, with `-` and spaces as `_`.
fn fold(name: &str) -> String {
    name.to_lowercase().replace(['-', ' '], "_")
}

/// Whether one name is the other with words left out, e.g. `warmup` for `warmup_steps`.
fn is_part(found: &str, target: &str) -> bool {
    let (short, long) = if found.len() < target.len() { (found, target) } else { (target, found) };
    short.len() >= 3 && short != long && format!("_{long}_").contains(&format!("_{short}_"))
}

/// `names` as a list in words, each in back-ticks.
pub(crate) fn listed<'a>(names: impl IntoIterator<Item = &'a str>) -> String {
    let quoted: Vec<String> = names.into_iter().map(|name| format!("`{name}`")).collect();
    match quoted.split_last() {
        None => String::new(),
        Some((last, [])) => last.clone(),
        Some((last, rest)) => format!("{} or {last}", rest.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::{listed, nearest};

    #[test]
    fn near_names_are_found_and_far_ones_are_not() {
        let names = ["warmup_steps", "start", "peak", "floor", "kind"];
        assert_eq!(nearest("warmup", names), Some("warmup_steps"));
        assert_eq!(nearest("flor", names), Some("floor"));
        assert_eq!(nearest("Warmup-Steps", names), Some("warmup_steps"));
        assert_eq!(nearest("linear_warmup_steps_lr", names), Some("warmup_steps"));
        assert_eq!(nearest("colour", names), None);
        assert_eq!(nearest("", names), None);
    }

    #[test]
    fn lists_read_as_words() {
        assert_eq!(listed(["a", "b", "c"]), "`a`, `b` or `c`");
        assert_eq!(listed(["a"]), "`a`");
    }
}
