//! Rewriting of addresses by regular expressions: `/pattern/flags replacement`, as in Postfix's
//! regexp and pcre tables.
//!
//! Owns the text form and its application. Reads no file. The first rule that fits decides, and is
//! applied once. Expressions take time linear in the address whatever they are. A bad line is
//! reported with its number; what a rule makes of an address must be one, otherwise the address
//! is at fault of our map ([`Rewritten::Bad`]).

use super::map::BadLine;
use crate::message::address::Address;
use regex::bytes::{Captures, Regex, RegexBuilder};
use std::sync::Arc;

/// Rules of one file.
const RULES_MAX: usize = 10_000;
/// Memory of one compiled expression, in bytes.
const COMPILED_MAX: usize = 1 << 20;
/// An address of two parts at their limits (RFC 5321 §4.5.3.1) with its `@`, and some more.
const ADDRESS_MAX: usize = 512;

/// What the rules make of an address.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Rewritten {
    /// No rule fits, or it changes nothing.
    Same,
    /// This address instead.
    To(Box<[u8]>),
    /// Something that is no address.
    Bad,
}

/// The rules of a file, in its order. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Rules(Arc<[Rule]>);

#[derive(Debug)]
struct Rule {
    line: usize,
    pattern: Regex,
    /// `!/pattern/`: for addresses that do not fit.
    negated: bool,
    replacement: Box<[Piece]>,
}

/// A part of a replacement.
#[derive(Debug, PartialEq, Eq)]
enum Piece {
    Text(Box<[u8]>),
    /// What the group of this number has matched; nothing if it took no part.
    Group(usize),
}

impl Rules {
    /// True without rules.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// What becomes of `address` (no angle brackets). The null sender stays.
    #[must_use]
    pub fn apply(&self, address: &[u8]) -> Rewritten {
        let Some((_, to)) = self.find(address) else { return Rewritten::Same };
        if to == address {
            Rewritten::Same
        } else if to.len() <= ADDRESS_MAX && Address::parse(&to).is_ok() {
            Rewritten::To(to.into())
        } else {
            Rewritten::Bad
        }
    }

    /// The line of the rule that fits `address`, from 1; for people.
    #[must_use]
    pub fn line(&self, address: &[u8]) -> Option<usize> {
        self.find(address).map(|(line, _)| line)
    }

    fn find(&self, address: &[u8]) -> Option<(usize, Vec<u8>)> {
        if address.is_empty() {
            return None;
        }
        self.0.iter().find_map(|rule| match (rule.pattern.captures(address), rule.negated) {
            (Some(groups), false) => Some((rule.line, rule.replace(&groups))),
            (None, true) => Some((rule.line, rule.text())),
            _ => None,
        })
    }
}

impl Rule {
    fn replace(&self, groups: &Captures<'_>) -> Vec<u8> {
        let mut to = Vec::new();
        for piece in &self.replacement {
            match piece {
                Piece::Text(text) => to.extend_from_slice(text),
                Piece::Group(n) => to.extend_from_slice(groups.get(*n).map_or(b"", |m| m.as_bytes())),
            }
        }
        to
    }

    /// The replacement of a negated rule, which has no groups.
    fn text(&self) -> Vec<u8> {
        let texts = self.replacement.iter().map(|piece| match piece {
            Piece::Text(text) => &**text,
            Piece::Group(_) => b"",
        });
        texts.collect::<Vec<_>>().concat()
    }
}

/// The rules of a file, and its bad lines. `#` begins a comment line; a line that begins with white
/// space continues the one before.
#[must_use]
pub fn parse(text: &[u8]) -> (Rules, Vec<BadLine>) {
    let (mut rules, mut bad) = (Vec::new(), Vec::new());
    for (line, content) in logical_lines(text) {
        if rules.len() == RULES_MAX {
            bad.push(BadLine { line, message: format!("more than {RULES_MAX} rules") });
            break;
        }
        match rule(line, &content) {
            Ok(rule) => rules.push(rule),
            Err(message) => bad.push(BadLine { line, message }),
        }
    }
    (Rules(rules.into()), bad)
}

/// Lines with their continuations, and the numbers of the first.
fn logical_lines(text: &[u8]) -> Vec<(usize, Vec<u8>)> {
    let mut lines: Vec<(usize, Vec<u8>)> = Vec::new();
    for (n, raw) in text.split(|b| *b == b'\n').enumerate() {
        let content = raw.trim_ascii();
        if content.is_empty() || content[0] == b'#' {
            continue;
        }
        match lines.last_mut() {
            Some((_, last)) if raw[0].is_ascii_whitespace() => {
                last.push(b' ');
                last.extend_from_slice(content);
            }
            _ => lines.push((n + 1, content.to_vec())),
        }
    }
    lines
}

fn rule(line: usize, content: &[u8]) -> Result<Rule, String> {
    let (negated, rest) = match content.strip_prefix(b"!") {
        Some(rest) => (true, rest.trim_ascii_start()),
        None => (false, content),
    };
    let form = || "not of the form /pattern/flags replacement".to_owned();
    let Some((&delimiter, rest)) = rest.split_first() else { return Err(form()) };
    if delimiter.is_ascii_alphanumeric() || matches!(delimiter, b'\\' | b'#') {
        return Err(form());
    }
    let end = end_of_pattern(rest, delimiter).ok_or_else(form)?;
    let (pattern, rest) = (&rest[..end], &rest[end + 1..]);
    let split = rest.iter().position(u8::is_ascii_whitespace).ok_or_else(|| "no replacement".to_owned())?;
    let (flags, replacement) = (&rest[..split], rest[split..].trim_ascii());
    let pattern = expression(pattern, delimiter, flags)?;
    let replacement = pieces(replacement, pattern.captures_len(), negated)?;
    Ok(Rule { line, pattern, negated, replacement })
}

fn end_of_pattern(text: &[u8], delimiter: u8) -> Option<usize> {
    let mut escaped = false;
    text.iter().position(|b| {
        let ends = *b == delimiter && !escaped;
        escaped = *b == b'\\' && !escaped;
        ends
    })
}

fn expression(pattern: &[u8], delimiter: u8, flags: &[u8]) -> Result<Regex, String> {
    let text = std::str::from_utf8(pattern).map_err(|_| "the pattern is not UTF-8".to_owned())?;
    let delimiter = char::from(delimiter);
    // What the delimiter's escape stands for is the delimiter.
    let text = if delimiter == '/' { text.replace("\\/", "/") } else { text.to_owned() };
    let (mut fold, mut extended, mut dot_all) = (true, false, false);
    for flag in flags {
        match flag {
            b'i' => fold = !fold,
            b'x' => extended = !extended,
            b's' => dot_all = !dot_all,
            other => return Err(format!("the flag {:?} is not known: i, s, x", char::from(*other))),
        }
    }
    RegexBuilder::new(&text)
        .unicode(false)
        .case_insensitive(fold)
        .ignore_whitespace(extended)
        .dot_matches_new_line(dot_all)
        .size_limit(COMPILED_MAX)
        .build()
        .map_err(|e| format!("the pattern is wrong: {}", one_line(&e.to_string())))
}

/// The last line of the library's message says what is wrong, those before show where.
fn one_line(message: &str) -> String {
    message.lines().next_back().unwrap_or_default().trim_start_matches("error: ").to_owned()
}

/// `$1`, `${1}` and `$(1)` are groups, `$$` is a dollar.
fn pieces(text: &[u8], groups: usize, negated: bool) -> Result<Box<[Piece]>, String> {
    if text.is_empty() {
        return Err("no replacement".into());
    }
    // The message may not have asked for SMTPUTF8.
    if !text.is_ascii() {
        return Err("the replacement is not ASCII".into());
    }
    let (mut pieces, mut plain, mut rest) = (Vec::new(), Vec::new(), text);
    while let Some((&b, after)) = rest.split_first() {
        rest = after;
        if b != b'$' {
            plain.push(b);
            continue;
        }
        if let Some(after) = rest.strip_prefix(b"$") {
            plain.push(b'$');
            rest = after;
            continue;
        }
        let (n, after) =
            group(rest).ok_or_else(|| "a dollar is written $$, a group $1 or ${1}".to_owned())?;
        if negated {
            return Err("a rule for what does not fit has no groups".into());
        }
        if n >= groups {
            return Err(format!("there is no group ${n} in the pattern"));
        }
        if !plain.is_empty() {
            pieces.push(Piece::Text(std::mem::take(&mut plain).into()));
        }
        pieces.push(Piece::Group(n));
        rest = after;
    }
    if !plain.is_empty() {
        pieces.push(Piece::Text(plain.into()));
    }
    Ok(pieces.into())
}

fn group(text: &[u8]) -> Option<(usize, &[u8])> {
    let (inner, close) = match text.first()? {
        b'{' => (&text[1..], Some(b'}')),
        b'(' => (&text[1..], Some(b')')),
        _ => (text, None),
    };
    let digits = inner.iter().take_while(|b| b.is_ascii_digit()).take(2).count();
    let n = std::str::from_utf8(&inner[..digits]).ok()?.parse().ok()?;
    let rest = &inner[digits..];
    match close {
        None => Some((n, rest)),
        Some(close) => rest.strip_prefix(&[close]).map(|rest| (n, rest)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn to(rules: &str, address: &str) -> String {
        let (rules, bad) = parse(rules.as_bytes());
        assert_eq!(bad, []);
        match rules.apply(address.as_bytes()) {
            Rewritten::Same => "=".into(),
            Rewritten::To(to) => String::from_utf8(to.into()).unwrap(),
            Rewritten::Bad => "bad".into(),
        }
    }

    #[test]
    fn the_first_rule_that_fits_is_applied_once() {
        let rules = "# from Postfix\n/^(.*)@old\\.example$/ $1@new.example\n\n/^(.)[^@]*@new\\.example$/\n  \
                     ${1}@short.example\n/^/ all@else.example\n";
        assert_eq!(to(rules, "Ann.Other@OLD.example"), "Ann.Other@new.example");
        assert_eq!(to(rules, "bob@new.example"), "b@short.example");
        assert_eq!(to(rules, "x@y.example"), "all@else.example");
        assert_eq!(to(rules, "all@else.example"), "=");
        assert_eq!(to(rules, ""), "=", "the null sender stays");
        let (rules, _) = parse(rules.as_bytes());
        assert_eq!((rules.line(b"bob@new.example"), rules.line(b"")), (Some(4), None));
    }

    #[test]
    fn flags_delimiters_groups_and_negation() {
        assert_eq!(to("/^ann@/i x@y.example", "ANN@z.example"), "=", "i turns folding off");
        assert_eq!(to("/^ann@/ x@y.example", "ANN@z.example"), "x@y.example");
        assert_eq!(to("|^a/b@(.*)$| c$$@$(1)", "a/b@z.example"), "c$@z.example");
        assert_eq!(to("/^a\\/b@(.*)$/ c@$1", "a/b@z.example"), "c@z.example");
        assert_eq!(to("/^a(x)?b@(.*)$/ c$1@$2", "ab@z.example"), "c@z.example");
        assert_eq!(to("!/@z\\.example$/ other@z.example", "a@y.example"), "other@z.example");
        assert_eq!(to("!/@z\\.example$/ other@z.example", "a@z.example"), "=");
        assert_eq!(to("/^ a ( . ) @ /x $1@z.example", "ab@y.example"), "b@z.example");
    }

    #[test]
    fn what_is_no_address_is_our_fault() {
        assert_eq!(to("/^(.*)@/ $1", "a@z.example"), "bad");
        assert_eq!(to("/^(.*)@(.*)$/ $1$1$1$1$1@$2", &format!("{}@z.example", "a".repeat(60))), "bad");
        assert_eq!(to("/^.*$/ a b@z.example", "a@z.example"), "bad");
    }

    #[test]
    fn bad_lines_are_told_with_their_numbers() {
        for (line, part) in [
            ("a@b c@d", "form"),
            ("/open", "form"),
            ("/a/", "no replacement"),
            ("/a/ ", "no replacement"),
            ("/a/ \u{e4}@y.example", "not ASCII"),
            ("/a/q x@y", "flag 'q'"),
            ("/(/ x@y", "unclosed group"),
            ("/a/ $1@y", "no group $1"),
            ("/a/ $x@y", "written $$"),
            ("/(a)/ ${1@y", "written $$"),
            ("!/(a)/ $1@y", "no groups"),
            ("if /a/", "form"),
            ("/\\w{500}{500}{500}/ x@y", "wrong"),
        ] {
            let (rules, bad) = parse(format!("# one\n{line}\n").as_bytes());
            assert_eq!(
                (rules.is_empty(), bad.len(), bad.first().map(|b| b.line)),
                (true, 1, Some(2)),
                "{line}"
            );
            assert!(bad[0].message.contains(part), "{line}: {}", bad[0].message);
        }
        let many = "/a/ x@y.example\n".repeat(RULES_MAX + 2);
        assert_eq!(parse(many.as_bytes()).1.len(), 1);
    }
}
