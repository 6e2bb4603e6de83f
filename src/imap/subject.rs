//! The base subject (RFC 5256 §2.1): what replies and forwards of one message have in common.

use crate::imap::words;

/// A subject without what mail programs add to it.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Base {
    /// The text that is left.
    pub text: String,
    /// Something was taken away that marks a reply or a forward.
    pub is_reply: bool,
}

/// The base subject of the value of a field Subject.
#[must_use]
pub fn base(value: &[u8]) -> Base {
    // Step 1: encoded words to UTF-8, white space to single spaces.
    let decoded = words::decoded(value);
    let mut clean = String::with_capacity(decoded.len());
    for c in decoded.chars() {
        let c = if matches!(c, '\t' | '\r' | '\n') { ' ' } else { c };
        if !(c == ' ' && clean.ends_with(' ')) {
            clean.push(c);
        }
    }
    let mut rest = clean.as_str();
    let mut is_reply = false;
    loop {
        // Step 2: trailers.
        loop {
            rest = rest.trim_end_matches(' ');
            match strip_suffix(rest, "(fwd)") {
                Some(before) => (rest, is_reply) = (before, true),
                None => break,
            }
        }
        // Steps 3 to 5: leaders and blobs, until nothing changes.
        loop {
            rest = rest.trim_start_matches(' ');
            if let Some(after) = leader(rest) {
                (rest, is_reply) = (after, true);
                continue;
            }
            // Without these blobs there is no leader either: it may begin with any number of them.
            while let Some(after) = blob(rest).filter(|after| !after.is_empty()) {
                rest = after;
            }
            break;
        }
        // Step 6: `[fwd: ...]` around it all.
        match strip_prefix(rest, "[fwd:").and_then(|r| r.strip_suffix(']')) {
            Some(inner) => (rest, is_reply) = (inner, true),
            None => return Base { text: rest.to_string(), is_reply },
        }
    }
}

fn strip_prefix<'a>(text: &'a str, prefix: &str) -> Option<&'a str> {
    let (head, rest) = text.split_at_checked(prefix.len())?;
    head.eq_ignore_ascii_case(prefix).then_some(rest)
}

fn strip_suffix<'a>(text: &'a str, suffix: &str) -> Option<&'a str> {
    let (rest, tail) = text.split_at_checked(text.len().checked_sub(suffix.len())?)?;
    tail.eq_ignore_ascii_case(suffix).then_some(rest)
}

/// `[...]` and the spaces behind it.
fn blob(text: &str) -> Option<&str> {
    let inner = text.strip_prefix('[')?;
    let end = inner.find(['[', ']'])?;
    Some(inner[end..].strip_prefix(']')?.trim_start_matches(' '))
}

/// `*subj-blob subj-refwd`: blobs, `re` or `fw` or `fwd`, a blob, a colon.
fn leader(text: &str) -> Option<&str> {
    let mut rest = text;
    while let Some(after) = blob(rest) {
        rest = after;
    }
    ["re", "fwd", "fw"].iter().find_map(|word| {
        let after = strip_prefix(rest, word)?.trim_start_matches(' ');
        blob(after).unwrap_or(after).strip_prefix(':')
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base_subjects() {
        for (value, text, is_reply) in [
            ("", "", false),
            ("Hello", "Hello", false),
            ("  a \t b  ", "a b", false),
            ("Re: a", "a", true),
            ("RE:a", "a", true),
            ("re : a", "a", true),
            ("Fw: a", "a", true),
            ("FWD: a", "a", true),
            ("Re[2]: a", "a", true),
            ("Re: Re: Fwd: a", "a", true),
            ("[list] a", "a", false),
            ("[list] Re: [list] a", "a", true),
            ("[list][other] Re: a", "a", true),
            ("[list]", "[list]", false),
            ("Re: [list]", "[list]", true),
            ("a (fwd)", "a", true),
            ("a (FWD) (fwd) ", "a", true),
            ("[fwd: a]", "a", true),
            ("[Fwd: Re: a (fwd)]", "a", true),
            ("Re: [fwd: [x] a]", "a", true),
            ("Regarding a", "Regarding a", false),
            ("Re", "Re", false),
            ("Re:", "", true),
            ("=?utf-8?Q?Re:_=C3=A9?=", "\u{e9}", true),
            ("[a[b] c", "[a[b] c", false),
            ("(fwd)", "", true),
            ("\u{e9}\u{e9}\u{e9}", "\u{e9}\u{e9}\u{e9}", false),
        ] {
            assert_eq!(base(value.as_bytes()), Base { text: text.to_string(), is_reply }, "{value}");
        }
    }

    #[test]
    fn long_ones_take_no_time_that_grows_with_the_square() {
        // 200,000 steps of the loops; a copy at each would be 10^10 bytes.
        let text = base("re:".repeat(200_000).as_bytes());
        assert!(text.is_reply && text.text.is_empty());
        let text = base(format!("{}x", "[a]".repeat(200_000)).as_bytes());
        assert_eq!(text.text, "x");
    }
}
