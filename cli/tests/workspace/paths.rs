//! Reads out of Rust source which paths it names.

use std::collections::BTreeSet;

/// Every `a::b::c` in the code, groups (`a::{b, c::d}`) taken apart; not what stands in comments and literals.
pub(crate) fn paths_named(source: &str) -> BTreeSet<String> {
    let tokens = tokens(source);
    let mut paths = BTreeSet::new();
    let mut at = 0;
    while at < tokens.len() {
        at = read_path(&tokens, at, "", &mut paths);
    }
    paths
}

/// Reads the path that begins at `at`, adds it and every path in its groups, and returns where it ends.
fn read_path(
    tokens: &[String],
    mut at: usize,
    prefix: &str,
    paths: &mut BTreeSet<String>,
) -> usize {
    let mut path = prefix.to_owned();
    let is = |at: usize, what: &str| tokens.get(at).is_some_and(|token| token == what);
    let is_name = |at: usize| tokens.get(at).is_some_and(|token| is_name_start(token));
    if is(at, "::") {
        at += 1;
    }
    if !is_name(at) {
        return at + 1;
    }
    loop {
        path = if path.is_empty() {
            tokens[at].clone()
        } else {
            format!("{path}::{}", tokens[at])
        };
        at += 1;
        if !is(at, "::") {
            break;
        }
        at += 1;
        if is(at, "{") {
            at += 1;
            while at < tokens.len() && !is(at, "}") {
                at = read_path(tokens, at, &path, paths);
            }
            at += 1;
            break;
        }
        if !is_name(at) {
            break;
        }
    }
    if path.contains("::") {
        paths.insert(path);
    }
    at
}

fn is_name_start(token: &str) -> bool {
    token.starts_with(|c: char| c.is_alphabetic() || c == '_')
}

/// Names, `::` and single other characters; without comments, strings, characters and lifetimes.
fn tokens(source: &str) -> Vec<String> {
    let mut tokens = Vec::new();
    let mut rest = source;
    while let Some(first) = rest.chars().next() {
        let before = &source[..source.len() - rest.len()];
        let length = if rest.starts_with("//") {
            rest.find('\n').unwrap_or(rest.len())
        } else if rest.starts_with("/*") {
            block_comment(rest)
        } else if let Some(length) = literal(rest) {
            length
        } else if is_name_start(rest) {
            let name = |c: char| c.is_alphanumeric() || c == '_';
            let length = rest.find(|c| !name(c)).unwrap_or(rest.len());
            tokens.push(rest[..length].to_owned());
            length
        } else if rest.starts_with("::") {
            // Behind a space it does not go on from the word before: `use ::std`.
            if !before.ends_with(char::is_whitespace) {
                tokens.push("::".to_owned());
            }
            2
        } else {
            if !first.is_whitespace() {
                tokens.push(first.to_string());
            }
            first.len_utf8()
        };
        rest = &rest[length..];
    }
    tokens
}

fn block_comment(text: &str) -> usize {
    let mut depth = 0;
    let mut at = 0;
    while at < text.len() {
        if text[at..].starts_with("/*") {
            depth += 1;
            at += 2;
        } else if text[at..].starts_with("*/") {
            depth -= 1;
            at += 2;
            if depth == 0 {
                return at;
            }
        } else {
            at += text[at..].chars().next().map_or(1, char::len_utf8);
        }
    }
    text.len()
}

/// The length of the string, raw string, character or lifetime that `text` begins with.
fn literal(text: &str) -> Option<usize> {
    let unprefixed = text.strip_prefix(['b', 'c']).unwrap_or(text);
    let prefix = text.len() - unprefixed.len();
    if let Some(raw) = unprefixed.strip_prefix('r') {
        let hashes = raw.len() - raw.trim_start_matches('#').len();
        if raw[hashes..].starts_with('"') {
            let end = format!("\"{}", "#".repeat(hashes));
            let body = hashes + 1;
            let close = raw[body..]
                .find(&end)
                .map_or(raw.len(), |at| body + at + end.len());
            return Some(prefix + 1 + close);
        }
    }
    let quote = unprefixed
        .chars()
        .next()
        .filter(|c| matches!(c, '"' | '\''))?;
    let body = &unprefixed[1..];
    let mut escaped = false;
    for (at, c) in body.char_indices() {
        if escaped {
            escaped = false;
        } else if c == '\\' {
            escaped = true;
        } else if c == quote {
            return Some(prefix + 1 + at + 1);
        } else if quote == '\'' && at > 0 && !body.starts_with('\\') {
            // No closing quote behind one character: a lifetime.
            return Some(prefix + 1);
        }
    }
    Some(text.len())
}
