//! Just enough reading of Rust to check rules: code without comments and strings, functions.
//!
//! Owns no rule. It reads the tree of the package; a file that cannot be read is a panic.
#![allow(clippy::disallowed_methods)] // reads the source tree, as a test may

use std::fs;
use std::path::{Path, PathBuf};

/// A source file.
pub struct Source {
    /// Its path relative to the package, with `/`.
    pub path: String,
    /// Its text.
    pub text: String,
    /// Its text with all comments, strings and character literals blanked; same lines.
    pub code: String,
}

/// The folder of the package.
pub fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// All `.rs` files below `folders`, sorted by path.
pub fn sources(folders: &[&str]) -> Vec<Source> {
    let mut paths = Vec::new();
    folders.iter().for_each(|f| collect(&root().join(f), &mut paths));
    paths.sort();
    let read = |path: PathBuf| {
        let text = fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        let relative = path.strip_prefix(root()).expect("below the package");
        let path = relative.to_str().expect("paths are ASCII").to_owned();
        Source { path, code: blank(&text), text }
    };
    paths.into_iter().map(read).collect()
}

fn collect(folder: &Path, paths: &mut Vec<PathBuf>) {
    let Ok(entries) = fs::read_dir(folder) else { return };
    for entry in entries.map(|e| e.expect("readable folder").path()) {
        if entry.is_dir() && entry.file_name().is_some_and(|n| n != "target") {
            collect(&entry, paths);
        } else if entry.extension().is_some_and(|e| e == "rs") {
            paths.push(entry);
        }
    }
}

/// Replaces comments, strings and character literals by spaces, keeping line ends.
pub fn blank(text: &str) -> String {
    let b: Vec<char> = text.chars().collect();
    let mut out = String::with_capacity(text.len());
    let mut at = 0;
    while at < b.len() {
        let end = if b[at..].starts_with(&['/', '/']) {
            (at..b.len()).find(|&i| b[i] == '\n').unwrap_or(b.len())
        } else if b[at..].starts_with(&['/', '*']) {
            block_comment(&b, at)
        } else if let Some(quote) = string_start(&b, at) {
            string_end(&b, at, quote)
        } else if b[at] == '\'' {
            char_end(&b, at)
        } else {
            out.push(b[at]);
            at += 1;
            continue;
        };
        out.extend(b[at..end].iter().map(|&c| if c == '\n' { '\n' } else { ' ' }));
        at = end;
    }
    out
}

fn block_comment(b: &[char], at: usize) -> usize {
    let (mut depth, mut i) = (0usize, at);
    while i < b.len() {
        if b[i..].starts_with(&['/', '*']) {
            (depth, i) = (depth + 1, i + 2);
        } else if b[i..].starts_with(&['*', '/']) {
            (depth, i) = (depth - 1, i + 2);
            if depth == 0 {
                return i;
            }
        } else {
            i += 1;
        }
    }
    b.len()
}

/// If a string literal begins at `at` (with its prefix): number of `#`, or `None` if escaped.
fn string_start(b: &[char], at: usize) -> Option<(usize, Option<usize>)> {
    let word = |c: char| c.is_alphanumeric() || c == '_';
    if at > 0 && word(b[at - 1]) {
        return None;
    }
    let mut i = at;
    while i < b.len() && i < at + 2 && matches!(b[i], 'b' | 'c' | 'r') {
        i += 1;
    }
    let raw = b[at..i].contains(&'r');
    let hashes = b[i..].iter().take_while(|&&c| c == '#').count();
    let open = i + if raw { hashes } else { 0 };
    (b.get(open) == Some(&'"')).then_some((open, raw.then_some(hashes)))
}

fn string_end(b: &[char], at: usize, (open, hashes): (usize, Option<usize>)) -> usize {
    let mut i = open.max(at) + 1;
    while i < b.len() {
        match hashes {
            None if b[i] == '\\' => i += 1,
            None if b[i] == '"' => return i + 1,
            Some(n) if b[i] == '"' && b[i + 1..].iter().take_while(|&&c| c == '#').count() >= n => {
                return i + 1 + n;
            }
            _ => {}
        }
        i += 1;
    }
    b.len()
}

/// The end of a character literal; of a lifetime only the quote.
fn char_end(b: &[char], at: usize) -> usize {
    if b.get(at + 1) == Some(&'\\') {
        let close = (at + 3..b.len()).find(|&i| b[i] == '\'');
        return close.map_or(b.len(), |i| i + 1);
    }
    if b.get(at + 2) == Some(&'\'') { at + 3 } else { at + 1 }
}

/// Name, first line (from 1) and number of lines of each function that has a body.
pub fn functions(code: &str) -> Vec<(String, usize, usize)> {
    let b = code.as_bytes();
    let mut found = Vec::new();
    for (at, _) in code.match_indices("fn ") {
        if at > 0 && (b[at - 1].is_ascii_alphanumeric() || b[at - 1] == b'_') {
            continue;
        }
        let name: String = code[at + 3..].chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
        let Some(open) = body_start(&b[at..]).map(|i| at + i) else { continue };
        if name.is_empty() {
            continue;
        }
        let mut depth = 0;
        let close = (open..b.len()).find(|&i| {
            depth += i32::from(b[i] == b'{') - i32::from(b[i] == b'}');
            depth == 0
        });
        let close = close.unwrap_or(b.len() - 1);
        let line = |i: usize| code[..i].bytes().filter(|&c| c == b'\n').count() + 1;
        found.push((name, line(at), line(close) - line(at) + 1));
    }
    found
}

/// Where the body of a function opens; `None` if it has none.
fn body_start(b: &[u8]) -> Option<usize> {
    let mut depth = 0;
    for (i, c) in b.iter().enumerate() {
        match c {
            b'(' | b'[' => depth += 1,
            b')' | b']' => depth -= 1,
            b';' if depth == 0 => return None,
            b'{' if depth == 0 => return Some(i),
            _ => {}
        }
        if depth < 0 {
            return None;
        }
    }
    None
}

/// Each path `crate::a::b...` in `code` as `a/b`, at most two names deep, with its line.
pub fn crate_paths(code: &str) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    for (at, _) in code.match_indices("crate::") {
        if code[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_') {
            continue;
        }
        let line = code[..at].bytes().filter(|&c| c == b'\n').count() + 1;
        let rest = &code[at + 7..];
        for path in expand(rest) {
            found.push((line, path));
        }
    }
    found
}

/// The first two names of the path that `rest` begins with, one path per member of a group.
fn expand(rest: &str) -> Vec<String> {
    let name: String = rest.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
    if let Some(group) = rest.strip_prefix('{') {
        return members(group).iter().flat_map(|m| expand(m)).collect();
    }
    let Some(more) = rest[name.len()..].strip_prefix("::") else { return vec![name] };
    let second = match more.strip_prefix('{') {
        Some(group) => members(group),
        None => vec![more],
    };
    let first_name = |m: &str| m.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect::<String>();
    second.into_iter().map(|m| format!("{name}/{}", first_name(m))).collect()
}

/// The members of a group whose `{` has been read, each from its start.
fn members(group: &str) -> Vec<&str> {
    let (mut depth, mut starts) = (0, vec![0]);
    for (i, c) in group.char_indices() {
        match c {
            '{' => depth += 1,
            '}' if depth == 0 => break,
            '}' => depth -= 1,
            ',' if depth == 0 => starts.push(i + 1),
            _ => {}
        }
    }
    starts.into_iter().map(|s| group[s..].trim_start()).filter(|m| !m.starts_with('}')).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blanks_what_is_not_code() {
        let text = concat!(
            "let a = \"fn x() {\"; // } \u{a7}\n",
            "let c = '{'; /* { /* } */ */ fn f<'a>() { r#\"}\"\"#; b'\\''; }\n"
        );
        let code = blank(text);
        assert_eq!(code.lines().count(), 2);
        assert_eq!(code.matches(['{', '}']).count(), 2, "{code}");
        assert_eq!(functions(&code), [("f".to_owned(), 2, 1)]);
    }

    #[test]
    fn measures_functions_and_expands_paths() {
        let code = "trait T { fn none(&self) -> [u8; 4]; }\nfn two(\n) where A: B {\n  if x { y }\n}\n";
        assert_eq!(functions(code), [("two".to_owned(), 2, 4)]);
        let code = "use crate::a::{b, c::{d, e}, self};\nuse crate::{f, g::h};\ncrate::i::j::k();";
        let paths: Vec<String> = crate_paths(code).into_iter().map(|p| p.1).collect();
        assert_eq!(paths, ["a/b", "a/c", "a/self", "f", "g/h", "i/j"]);
    }
}
