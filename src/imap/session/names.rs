//! Names of mailboxes between the wire and the store, and the patterns of LIST (RFC 9051 §6.3.9).

use super::Session;
use crate::imap::encode::Wire;
use crate::imap::parse::mailbox::{Mailbox, Uses};
use crate::mailbox::api::Selected;
use crate::mailbox::name::{self, INBOX};
use crate::mailbox::types::SpecialUse;

/// A name as the wire writes it.
pub(super) fn encode(name: &str, wire: Wire) -> Vec<u8> {
    match wire {
        Wire::Utf8 => name.as_bytes().to_vec(),
        Wire::Ascii => name::to_utf7(name).into_bytes(),
    }
}

/// The text that bytes of the wire mean. `None`: nothing.
pub(super) fn decode(bytes: &[u8], wire: Wire) -> Option<String> {
    match wire {
        // RFC 6855 §3, RFC 9051 §5.1: UTF-8, and never modified UTF-7.
        Wire::Utf8 => std::str::from_utf8(bytes).ok().map(str::to_owned),
        Wire::Ascii => name::from_utf7(bytes),
    }
}

impl<S: Selected> Session<S> {
    /// The name that a command says, as the store keeps it. `None`: it cannot be one.
    pub(super) fn name(&self, mailbox: &Mailbox<'_>) -> Option<String> {
        name::canonical(&decode(&mailbox.bytes(), self.wire())?)
    }
}

/// What a mailbox is for, as LIST says it.
pub(super) fn uses(special: Option<SpecialUse>) -> Uses {
    let name = match special {
        None => return Uses::default(),
        Some(SpecialUse::Archive) => "\\Archive",
        Some(SpecialUse::Drafts) => "\\Drafts",
        Some(SpecialUse::Junk) => "\\Junk",
        Some(SpecialUse::Sent) => "\\Sent",
        Some(SpecialUse::Trash) => "\\Trash",
    };
    Uses::NAMES.iter().find(|(_, n)| *n == name).map_or(Uses::default(), |(bit, _)| *bit)
}

/// The one use that CREATE names. `Err`: none that can be had, or several.
pub(super) fn special(asked: Uses) -> Result<Option<SpecialUse>, ()> {
    if asked == Uses::default() {
        return Ok(None);
    }
    SpecialUse::ALL.into_iter().find(|s| uses(Some(*s)) == asked).map(Some).ok_or(())
}

/// A pattern with `%` and `*`.
#[derive(Clone, Debug)]
pub(super) struct Pattern(Vec<char>);

impl Pattern {
    /// `reference` stands before `pattern`.
    pub fn new(reference: &str, pattern: &str) -> Self {
        let mut chars: Vec<char> = Vec::new();
        for c in reference.chars().chain(pattern.chars()) {
            match (chars.last(), c) {
                // `**`, `*%` and `%*` are `*`: fewer ways to match.
                (Some('*'), '*' | '%') | (Some('%'), '%') => {}
                (Some('%'), '*') => *chars.last_mut().expect("just seen") = '*',
                _ => chars.push(c),
            }
        }
        // A separator at the end is said by clients that mean the mailbox itself.
        if chars.len() > 1 && chars.last() == Some(&name::SEPARATOR) {
            chars.pop();
        }
        Pattern(chars)
    }

    /// Steps that [`Self::matches`] takes at most with a name of so many bytes.
    pub fn cost(&self, len: usize) -> usize {
        (self.0.len() + 1) * (len + 1)
    }

    /// Whether `name` is meant. INBOX is the same in any case (RFC 9051 §5.1).
    pub fn matches(&self, name: &str) -> bool {
        let inbox = name == INBOX || name::is_below(name, INBOX);
        let p = &self.0;
        // States of the pattern before which the name so far can stand.
        let mut now = vec![false; p.len() + 1];
        now[0] = true;
        let open = |states: &mut [bool]| {
            for i in 0..p.len() {
                // A wildcard can be nothing.
                if states[i] && matches!(p[i], '*' | '%') {
                    states[i + 1] = true;
                }
            }
        };
        open(&mut now);
        for (at, c) in name.chars().enumerate() {
            let mut next = vec![false; p.len() + 1];
            for i in 0..p.len() {
                if !now[i] {
                    continue;
                }
                match p[i] {
                    '*' => next[i] = true,
                    '%' => next[i] |= c != name::SEPARATOR,
                    other if other == c || (inbox && at < INBOX.len() && other.eq_ignore_ascii_case(&c)) => {
                        next[i + 1] = true;
                    }
                    _ => {}
                }
            }
            open(&mut next);
            now = next;
        }
        now[p.len()]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn patterns() {
        for (reference, pattern, name, matches) in [
            ("", "*", "a/b/c", true),
            ("", "%", "a", true),
            ("", "%", "a/b", false),
            ("", "%/%", "a/b", true),
            ("", "a/%", "a/b", true),
            ("", "a/%", "a/b/c", false),
            ("", "a%c", "abc", true),
            ("", "a%c", "a/c", false),
            ("", "*c", "a/b/c", true),
            ("a/", "*", "a/b", true),
            ("a/", "%", "a", false),
            ("", "inbox", "INBOX", true),
            ("", "InBo%", "INBOX", true),
            ("", "inbox/%", "INBOX/x", true),
            ("", "inbox/X", "INBOX/x", false),
            ("", "A", "a", false),
            ("", "a/", "a", true),
            ("", "", "a", false),
            ("", "*%*%*", "a/b", true),
            ("", "caf\u{e9}*", "caf\u{e9}/x", true),
        ] {
            assert_eq!(
                Pattern::new(reference, pattern).matches(name),
                matches,
                "{reference} {pattern} {name}"
            );
        }
    }

    fn naive(pattern: &[u8], name: &[u8]) -> bool {
        match (pattern.split_first(), name.split_first()) {
            (None, None) => true,
            (Some((b'*', rest)), None) => naive(rest, name),
            (Some((b'%', rest)), None) => naive(rest, name),
            (Some((b'*', rest)), Some((_, after))) => naive(rest, name) || naive(pattern, after),
            (Some((b'%', rest)), Some((c, after))) => {
                naive(rest, name) || (*c != b'/' && naive(pattern, after))
            }
            (Some((p, rest)), Some((c, after))) => p == c && naive(rest, after),
            _ => false,
        }
    }

    proptest! {
        #[test]
        fn as_a_naive_matcher(pattern in "[ab/*%]{0,8}[ab*%]", name in "[ab/]{0,8}") {
            let expect = naive(pattern.as_bytes(), name.as_bytes());
            prop_assert_eq!(Pattern::new("", &pattern).matches(&name), expect);
        }

        #[test]
        fn names_come_back(name in "\\PC{0,20}") {
            for wire in [Wire::Ascii, Wire::Utf8] {
                prop_assert_eq!(decode(&encode(&name, wire), wire), Some(name.clone()));
            }
        }
    }

    #[test]
    fn uses_are_those_of_the_store() {
        for use_ in SpecialUse::ALL {
            assert_eq!(special(uses(Some(use_))), Ok(Some(use_)));
        }
        assert_eq!(special(Uses::default()), Ok(None));
        assert!(special(Uses(1)).is_err() && special(Uses(2 | 4)).is_err());
    }
}
