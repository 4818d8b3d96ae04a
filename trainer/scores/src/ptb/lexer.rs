//! The lexer: at every place the longest match of all rules, found by one automaton that is built as it is needed.

use std::sync::LazyLock;

use regex_automata::hybrid::LazyStateID;
use regex_automata::hybrid::dfa::{Cache, Config, DFA};
use regex_automata::util::syntax;
use regex_automata::{Anchored, MatchKind, nfa::thompson, util::start};

use super::alphabet;
use super::rules::{self, End, RULES, Rewrite, Rule};

/// Room for the automaton's states, so that it is never forgotten and built again; few texts need a tenth of it.
const CACHE_BYTES: usize = 64 << 20;

static AUTOMATON: LazyLock<DFA> = LazyLock::new(|| {
    DFA::builder()
        .configure(Config::new().match_kind(MatchKind::All).cache_capacity(CACHE_BYTES))
        .syntax(syntax::Config::new().unicode(false).utf8(false).dot_matches_new_line(true).ignore_whitespace(true))
        .thompson(thompson::Config::new().utf8(false))
        .build_many(&rules::patterns())
        .expect("invariant: the rules are patterns that the automaton can hold, see the unit test")
});

/// What a lexer keeps between texts: the states of the automaton that it has met.
pub struct Lexer {
    cache: Cache,
    symbols: Vec<u8>,
    /// Where each character begins in the text, and where the text ends.
    offsets: Vec<usize>,
}

/// A token of a text: what becomes of it, and its place in bytes.
pub struct Token {
    pub rewrite: Rewrite,
    pub begin: usize,
    pub end: usize,
}

impl Lexer {
    pub fn new() -> Self {
        Self { cache: AUTOMATON.create_cache(), symbols: Vec::new(), offsets: Vec::new() }
    }

    /// Gives the tokens that begin in the first `length` bytes of `text`; what follows is only looked at.
    pub fn tokens(&mut self, text: &str, length: usize, mut take: impl FnMut(Token)) {
        self.symbols.clear();
        self.offsets.clear();
        for (offset, character) in text.char_indices() {
            self.symbols.push(alphabet::symbol(character));
            self.offsets.push(offset);
        }
        self.offsets.push(text.len());
        let mut at = 0;
        while self.offsets[at] < length {
            let Some((rule, matched)) = self.longest(at) else {
                at += 1;
                continue;
            };
            let size = token_size(rule.end, &self.symbols[at..at + matched]);
            take(Token { rewrite: rule.rewrite, begin: self.offsets[at], end: self.offsets[at + size] });
            at += if rule.period_again { size - 1 } else { size };
        }
    }

    /// The rule with the longest match from `at` on, the first of equals, and how many characters it matched.
    fn longest(&mut self, at: usize) -> Option<(&'static Rule, usize)> {
        let automaton = &*AUTOMATON;
        let config = start::Config::new().anchored(Anchored::Yes);
        let mut state = automaton.start_state(&mut self.cache, &config).ok()?;
        let mut found = None;
        // A match is reported one symbol late, so the end of the text counts as a symbol.
        for (read, &symbol) in self.symbols[at..].iter().enumerate() {
            state = automaton.next_state(&mut self.cache, state, symbol).ok()?;
            if state.is_tagged() {
                if state.is_match() {
                    found = Some((self.first_rule(state), read));
                } else if state.is_dead() {
                    return found;
                }
            }
        }
        state = automaton.next_eoi_state(&mut self.cache, state).ok()?;
        if state.is_match() {
            found = Some((self.first_rule(state), self.symbols.len() - at));
        }
        found
    }

    fn first_rule(&self, state: LazyStateID) -> &'static Rule {
        let count = AUTOMATON.match_len(&self.cache, state);
        let first = (0..count).map(|index| AUTOMATON.match_pattern(&self.cache, state, index).as_usize()).min();
        &RULES[first.expect("invariant: a matching state has a pattern")]
    }
}

/// How many characters of a match are the token.
fn token_size(end: End, matched: &[u8]) -> usize {
    let last = |symbols: &[u8]| matched.iter().rposition(|symbol| symbols.contains(symbol));
    let apostrophe = || {
        let plain = last(&[b'\'', b'`', alphabet::CLOSE_QUOTE, alphabet::OPEN_QUOTE, alphabet::HIGH_QUOTE]);
        // The other way to write one is `&apos;`.
        plain.or_else(|| last(b"&")).unwrap_or(matched.len())
    };
    match end {
        End::Whole => matched.len(),
        End::After(count) => count,
        End::Before(count) => matched.len() - count,
        End::Space => matched.iter().position(|&symbol| is_blank(symbol)).unwrap_or(matched.len()),
        End::Period => last(b".").map_or(matched.len(), |period| period + 1),
        End::Apostrophe => apostrophe(),
        End::Not => apostrophe() - 1,
    }
}

fn is_blank(symbol: u8) -> bool {
    symbol.is_ascii_whitespace()
        || symbol == 0x0B
        || [alphabet::WIDE_SPACE, alphabet::NO_BREAK_SPACE, alphabet::LINE_SEPARATOR, alphabet::NEXT_LINE]
            .contains(&symbol)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rules_make_an_automaton() {
        assert_eq!(AUTOMATON.pattern_len(), RULES.len());
    }
}
