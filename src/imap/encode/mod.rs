//! Responses as bytes (RFC 9051 §7): strings, flags, numbers; one file per family of responses.
//!
//! Everything is appended to a vector of the caller. Owns the choice between atom, quoted string and
//! literal; what is written is always of the grammar, whatever the values are. Knows no session:
//! whether the client takes UTF-8 is said with each call ([`Wire`]). Cannot fail.

pub mod capability;
pub mod fetch;
pub mod mailbox;
pub mod search;
pub mod status;
pub mod structure;
pub mod surrogate;

#[cfg(test)]
mod tests;

use crate::imap::parse::flags::System;
use crate::imap::parse::input::is_astring_char;

pub use crate::imap::set::number;

/// How text that is not ASCII may be written.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Wire {
    /// IMAP4rev1: in literals only.
    Ascii,
    /// UTF8=ACCEPT (RFC 6855 §3) or IMAP4rev2 was enabled: UTF-8 in quoted strings.
    Utf8,
}

/// The longest quoted string. Longer ones are literals, which clients read faster and with their
/// length known.
const QUOTED_MAX: usize = 4096;

/// Appends a quoted string or a literal.
pub fn string(out: &mut Vec<u8>, text: &[u8], wire: Wire) {
    // No early exit, so that the loops become vector code.
    let (odd, high, escapes) = text.iter().fold((false, false, 0usize), |(odd, high, escapes), &b| {
        let special = b == b'"' || b == b'\\';
        (odd | matches!(b, 0 | b'\r' | b'\n'), high | (b > 127), escapes + usize::from(special))
    });
    let readable = !high || (wire == Wire::Utf8 && std::str::from_utf8(text).is_ok());
    if odd || !readable || text.len() > QUOTED_MAX {
        return literal(out, text);
    }
    out.reserve(text.len() + escapes + 2);
    out.push(b'"');
    if escapes == 0 {
        out.extend_from_slice(text);
    } else {
        for &b in text {
            if b == b'"' || b == b'\\' {
                out.push(b'\\');
            }
            out.push(b);
        }
    }
    out.push(b'"');
}

/// Appends a literal. RFC 9051 §4.3: NUL cannot be in one; `?` stands for it.
pub fn literal(out: &mut Vec<u8>, text: &[u8]) {
    literal_header(out, text.len() as u64);
    let from = out.len();
    out.extend_from_slice(text);
    if memchr::memchr(0, text).is_some() {
        out[from..].iter_mut().filter(|b| **b == 0).for_each(|b| *b = b'?');
    }
}

/// Appends `{len}` and CRLF; exactly that many bytes must follow.
pub fn literal_header(out: &mut Vec<u8>, len: u64) {
    out.push(b'{');
    number(out, len);
    out.extend_from_slice(b"}\r\n");
}

/// Appends an atom if it can be one, else a string.
pub fn astring(out: &mut Vec<u8>, text: &[u8], wire: Wire) {
    let atom = !text.is_empty() && text.iter().all(|b| is_astring_char(*b));
    // NIL would be read as none where a string or none is expected.
    if atom && !text.eq_ignore_ascii_case(b"NIL") {
        out.extend_from_slice(text);
    } else {
        string(out, text, wire);
    }
}

/// Appends a string, or NIL for none.
pub fn nstring(out: &mut Vec<u8>, text: Option<&[u8]>, wire: Wire) {
    match text {
        Some(text) => string(out, text, wire),
        None => out.extend_from_slice(b"NIL"),
    }
}

/// Appends flags in parentheses: system flags, then keywords, which are atoms.
pub fn flags<'a>(out: &mut Vec<u8>, system: System, keywords: impl IntoIterator<Item = &'a [u8]>) {
    out.push(b'(');
    let from = out.len();
    let set = System::NAMES.iter().filter(|(bit, _)| system.has(*bit)).map(|(_, name)| name.as_bytes());
    for flag in set.chain(keywords) {
        if out.len() > from {
            out.push(b' ');
        }
        out.extend_from_slice(flag);
    }
    out.push(b')');
}
