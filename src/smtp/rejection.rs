//! A refusal in words that somebody else has chosen (a filter, a policy server), kept until it is said.
//!
//! Reads `550 5.7.1 text` in the forms that such programs use. Cannot be anything but a refusal: other codes
//! are no refusal and are not read. What is not printable is replaced when it is written ([`Refusal`]).

use crate::smtp::reply::{LINE_MAX, Refusal};

/// A refusal.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Rejection {
    /// 400..=599.
    pub code: u16,
    /// Subject and detail of the enhanced code (RFC 3463).
    pub enhanced: (u16, u16),
    /// The text.
    pub text: Box<[u8]>,
}

impl Rejection {
    /// One of ours.
    #[must_use]
    pub fn new(code: u16, enhanced: (u16, u16), text: &[u8]) -> Self {
        Rejection { code, enhanced, text: text.into() }
    }

    /// Reads `550 5.7.1 text` or `550 text`, perhaps of several lines, all with the same code; they become
    /// one. `None`: it is no refusal.
    #[must_use]
    pub fn parse(reply: &[u8]) -> Option<Self> {
        let mut found: Option<Rejection> = None;
        let mut text = Vec::new();
        for line in reply.split(|b| *b == b'\n') {
            let line = line.trim_ascii();
            if line.is_empty() && found.is_some() {
                continue;
            }
            let (digits, rest) = line.split_first_chunk::<3>()?;
            let code = number(digits)?;
            if !(400..=599).contains(&code) || !matches!(rest.first(), None | Some(b' ' | b'-')) {
                return None;
            }
            let rest = rest.get(1..).unwrap_or_default().trim_ascii_start();
            let (enhanced, rest) = enhanced(rest, code / 100).unwrap_or(((7, 1), rest));
            match &found {
                None => found = Some(Rejection::new(code, enhanced, b"")),
                Some(first) if first.code != code => return None,
                Some(_) => text.push(b' '),
            }
            if text.len() < LINE_MAX {
                text.extend_from_slice(rest);
            }
        }
        let mut found = found?;
        if text.is_empty() {
            text.extend_from_slice(if code_is_permanent(found.code) {
                b"Refused"
            } else {
                b"Try again later"
            });
        }
        found.text = text.into();
        Some(found)
    }

    /// As a session says it.
    #[must_use]
    pub fn refusal(&self) -> Refusal<'_> {
        Refusal::Own { code: self.code, enhanced: self.enhanced, text: &self.text }
    }
}

fn code_is_permanent(code: u16) -> bool {
    code >= 500
}

fn number(digits: &[u8]) -> Option<u16> {
    if digits.is_empty() || digits.len() > 3 {
        return None;
    }
    digits.iter().try_fold(0, |n, d| d.is_ascii_digit().then(|| n * 10 + u16::from(d - b'0')))
}

/// Subject and detail of the enhanced code of this class that `text` begins with, and what follows.
fn enhanced(text: &[u8], class: u16) -> Option<((u16, u16), &[u8])> {
    let end = text.iter().position(|b| *b == b' ').unwrap_or(text.len());
    let mut numbers = text[..end].split(|b| *b == b'.').map(number);
    let found = (numbers.next()??, numbers.next()??, numbers.next()??);
    if numbers.next().is_some() || found.0 != class {
        return None;
    }
    Some(((found.1, found.2), text[end..].trim_ascii_start()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(reply: &str) -> Option<String> {
        let mut out = Vec::new();
        Rejection::parse(reply.as_bytes())?.refusal().put(&mut out);
        Some(String::from_utf8(out).unwrap())
    }

    #[test]
    fn forms() {
        for (reply, line) in [
            ("550 5.7.1 no", "550 5.7.1 no\r\n"),
            ("451 4.7.0 later\r\n", "451 4.7.0 later\r\n"),
            ("554 spam", "554 5.7.1 spam\r\n"),
            ("450", "450 4.7.1 Try again later\r\n"),
            ("550 ", "550 5.7.1 Refused\r\n"),
            ("550 4.7.1 not its class", "550 5.7.1 4.7.1 not its class\r\n"),
            ("550-5.7.1 one\r\n550 5.7.1 two", "550 5.7.1 one two\r\n"),
            ("421 4.3.2 bye", "421 4.3.2 bye\r\n"),
            ("550 5.7.1 a\x1b[31m\u{e9}", "550 5.7.1 a?[31m??\r\n"),
        ] {
            assert_eq!(said(reply).as_deref(), Some(line), "{reply}");
        }
        for none in ["", "250 ok", "5x0 no", "550x", "55", "600 no", "550-a\r\n450 b", "\n550 a"] {
            assert_eq!(said(none), None, "{none:?}");
        }
        assert_eq!(said(&format!("550 {}", "x".repeat(5000))).unwrap().len(), LINE_MAX);
    }
}
