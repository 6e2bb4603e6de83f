//! Framing: whatever the pieces, the same commands; what is refused is passed over to its end.

use super::*;
use crate::imap::parse::append::{self, Next};
use proptest::prelude::*;

/// What a session sees.
#[derive(Clone, PartialEq, Eq, Debug)]
enum Seen {
    Command(String),
    Continue,
    Append(u64),
    Message(Vec<u8>),
    Bad(String, &'static str),
    Bye(&'static str),
}

/// A session that takes every message (or none), fed piece by piece.
fn session(wire: &[u8], pieces: impl IntoIterator<Item = usize>, limits: Limits, take: bool) -> Vec<Seen> {
    let mut framer = Framer::new(limits);
    let (mut seen, mut buffer, mut fed) = (Vec::new(), Vec::<u8>::new(), 0);
    let mut pieces = pieces.into_iter();
    let mut body: Option<(Vec<u8>, bool)> = None;
    loop {
        let frame = framer.next(&buffer);
        let used = match frame {
            Frame::More { used } => {
                buffer.drain(..used);
                if fed == wire.len() {
                    return seen;
                }
                let end = fed.saturating_add(pieces.next().unwrap_or(usize::MAX)).min(wire.len());
                buffer.extend_from_slice(&wire[fed..end]);
                fed = end;
                continue;
            }
            Frame::Passed { used } => used,
            Frame::Continue => {
                seen.push(Seen::Continue);
                continue;
            }
            Frame::Command { text, used } => {
                seen.push(Seen::Command(buffer[..text].escape_ascii().to_string()));
                used
            }
            Frame::Message { used } => {
                let message = message_of(&buffer[..used]);
                seen.push(Seen::Append(message.len));
                if take {
                    framer.accept(&message);
                    body = Some((Vec::new(), message.utf8));
                } else if !framer.refuse(&message) {
                    seen.push(Seen::Bye("refused"));
                    return seen;
                }
                used
            }
            Frame::Body { used } => {
                body.as_mut().expect("in a message").0.extend_from_slice(&buffer[..used]);
                used
            }
            Frame::After { text, used } => {
                let (bytes, utf8) = body.take().expect("behind a message");
                seen.push(Seen::Message(bytes));
                let is_head = text == used;
                let Some(next) = after(&mut framer, &buffer[..text], utf8, is_head, &mut seen) else {
                    return seen;
                };
                body = next;
                used
            }
            Frame::Bad { used, tag, why } => {
                seen.push(Seen::Bad(format!("{tag:?}"), why));
                used
            }
            Frame::Bye { why } => {
                seen.push(Seen::Bye(why));
                return seen;
            }
        };
        buffer.drain(..used);
    }
}

/// The message of an APPEND or REPLACE.
fn message_of(head: &[u8]) -> Message<'_> {
    match parse::parse(head).expect("the framer has looked").verb {
        Verb::Append(a) => a.message,
        Verb::Replace(r) => r.message,
        other => panic!("{other:?}"),
    }
}

/// What a session does with the text behind a message, which ends with the head of another one if
/// `is_head`: the next message, none, or the end of the session.
fn after(
    framer: &mut Framer,
    text: &[u8],
    utf8: bool,
    is_head: bool,
    seen: &mut Vec<Seen>,
) -> Option<Option<(Vec<u8>, bool)>> {
    match append::next(text, utf8) {
        Ok(Next::End) => seen.push(Seen::Command("end".to_string())),
        Ok(Next::Message(m)) => {
            seen.push(Seen::Append(m.len));
            framer.accept(&m);
            return Some(Some((Vec::new(), m.utf8)));
        }
        Err(_) => {
            seen.push(Seen::Command("error".to_string()));
            if is_head && !framer.abandon(text) {
                seen.push(Seen::Bye("abandoned"));
                return None;
            }
        }
    }
    Some(None)
}

/// In one piece, byte by byte, and in pieces of seven: all the same.
fn seen(wire: &[u8], limits: Limits, take: bool) -> Vec<Seen> {
    let whole = session(wire, [], limits, take);
    assert_eq!(whole, session(wire, std::iter::repeat(1), limits, take), "byte by byte");
    assert_eq!(whole, session(wire, std::iter::repeat(7), limits, take), "by seven");
    whole
}

fn command(text: &str) -> Seen {
    Seen::Command(text.to_string())
}

const SMALL: Limits = Limits { command: 60, literal: 20, non_synchronizing: 10, skip: 200 };

#[test]
fn lines_and_literals() {
    let wire = b"a NOOP\r\nb LOGIN {4}\r\nfr\r\n {1+}\r\nx\r\n\r\nc NOOP\n";
    let expect = [
        command("a NOOP"),
        Seen::Continue,
        command("b LOGIN {4}\\r\\nfr\\r\\n {1+}\\r\\nx"),
        command(""),
        command("c NOOP"),
    ];
    assert_eq!(seen(wire, Limits::BEFORE_LOGIN, true), expect);
    assert_eq!(seen(wire, SMALL, true), expect);
}

#[test]
fn what_only_looks_like_a_literal_is_none() {
    for text in ["a X {}", "a X {x1}", "a X {1 }", "a X {1++}", "a X 1}", "a X {1}x", "a X {+}", "}", "{}"] {
        assert_eq!(seen(format!("{text}\r\n").as_bytes(), SMALL, true), [command(text)], "{text}");
    }
}

#[test]
fn messages_stream_through() {
    let big = [vec![b'm'; 1000], b"\r\nz NOOP\r\n".to_vec()].concat();
    let head = format!("a APPEND x (\\Seen) {{{}}}\r\n", big.len());
    let wire = [head.as_bytes(), &big, b"\r\nb NOOP\r\n"].concat();
    let len = big.len() as u64;
    let expect = [Seen::Append(len), Seen::Message(big.clone()), command("end"), command("b NOOP")];
    assert_eq!(seen(&wire, SMALL, true), expect, "longer than a command may be");
}

#[test]
fn several_messages_and_odd_ones() {
    let wire = b"a APPEND {1+}\r\nx {3+}\r\nabc (\\Seen) {0+}\r\n {2+}\r\n}{\r\nb UID REPLACE 4 x UTF8 \
    (~{1+}\r\n\0)\r\n";
    let expect = [
        Seen::Append(3),
        Seen::Message(b"abc".to_vec()),
        Seen::Append(0),
        Seen::Message(vec![]),
        Seen::Append(2),
        Seen::Message(b"}{".to_vec()),
        command("end"),
        Seen::Append(1),
        Seen::Message(vec![0]),
        command("end"),
    ];
    assert_eq!(seen(wire, SMALL, true), expect);
    // Garbage behind a message, with and without another one.
    let wire = b"a APPEND x {1+}\r\nab\r\nb NOOP\r\nc APPEND x {1+}\r\na y {5+}\r\nz NO\n more\r\nd NOOP\r\n";
    let expect = [
        Seen::Append(1),
        Seen::Message(b"a".to_vec()),
        command("error"),
        command("b NOOP"),
        Seen::Append(1),
        Seen::Message(b"a".to_vec()),
        command("error"),
        command("d NOOP"),
    ];
    assert_eq!(seen(wire, SMALL, true), expect);
}

#[test]
fn refused_messages_are_passed_over_if_they_come() {
    let wire = b"a APPEND x {21+}\r\nz DELETE x\r\n z NOOP\r\n {3+}\r\nabc\r\nb NOOP\r\n";
    assert_eq!(seen(wire, SMALL, false), [Seen::Append(21), command("b NOOP")]);
    // The client that waits does not send it.
    let wire = b"a APPEND x {20}\r\nb NOOP\r\n";
    assert_eq!(seen(wire, SMALL, false), [Seen::Append(20), command("b NOOP")]);
    let wire = b"a APPEND x {201+}\r\n";
    assert_eq!(seen(wire, SMALL, false), [Seen::Append(201), Seen::Bye("refused")]);
}

#[test]
fn an_append_that_is_wrong_is_refused_before_its_message() {
    let wire = b"a APPEND x (\\Odd) {5}\r\nb APPEND x y {5+}\r\nz x\r\n\r\nc NOOP\r\n";
    let expect = [command("a APPEND x (\\\\Odd) {5}"), command("b APPEND x y {5+}"), command("c NOOP")];
    assert_eq!(seen(wire, SMALL, true), expect);
    assert!(parse::parse(b"a APPEND x (\\Odd) {5}").is_err());
}

#[test]
fn long_lines_are_passed_over() {
    let long = "x".repeat(100);
    let wire = format!("a {long}\r\nb NOOP\r\n{long}\r\nc {long} {{8+}}\r\nz NOOP\r\n {long}\r\nd NOOP\r\n");
    let expect = [
        Seen::Bad("a".to_string(), LONG_LINE),
        command("b NOOP"),
        Seen::Bad("*".to_string(), LONG_LINE),
        Seen::Bad("c".to_string(), LONG_LINE),
        command("d NOOP"),
    ];
    let limits = Limits { skip: 300, ..SMALL };
    for pieces in [vec![], vec![1; 2000], vec![7; 300]] {
        assert_eq!(session(wire.as_bytes(), pieces, limits, true), expect);
    }
    // The client waits behind a literal that nobody wants, and gives it up.
    let wire = format!("a {long} {{5}}\r\nb NOOP\r\n");
    assert_eq!(
        seen(wire.as_bytes(), SMALL, true),
        [Seen::Bad("a".to_string(), LONG_LINE), command("b NOOP")]
    );
    // A line without end.
    assert_eq!(seen("x".repeat(1000).as_bytes(), SMALL, true), [Seen::Bye(LONG_LINE)]);
}

/// Attack catalogue, row 24: literals that are announced and never paid for.
#[test]
fn row_24_literals() {
    let one = |text: &str| seen(text.as_bytes(), SMALL, true);
    let bad = |why| Seen::Bad("a".to_string(), why);
    assert_eq!(one("a LOGIN {21}\r\nb NOOP\r\n"), [bad(LONG_LITERAL), command("b NOOP")]);
    assert_eq!(one("a LOGIN {11+}\r\nz NOOP\r\n123 x\r\nb NOOP\r\n"), [bad(LONG_LITERAL), command("b NOOP")]);
    assert_eq!(one("a LOGIN {2000000000}\r\nb NOOP\r\n"), [bad(LONG_LITERAL), command("b NOOP")]);
    assert_eq!(one("a LOGIN {2000000000+}\r\n"), [Seen::Bye(LONG_LITERAL)]);
    for n in ["99999999999999999999", "9223372036854775808", "18446744073709551616"] {
        assert_eq!(one(&format!("a LOGIN {{{n}}}\r\n")), [Seen::Bye(ODD_LITERAL)], "{n}");
    }
    assert_eq!(one("a LOGIN {4294967296}\r\n"), [bad(LONG_LITERAL)]);
    assert_eq!(one("a LOGIN {-1}\r\n"), [command("a LOGIN {-1}")]);
    assert_eq!(one("a LOGIN ~{30}\r\nb NOOP\r\n"), [bad(LONG_LITERAL), command("b NOOP")]);
    // Many small ones together are too long as well.
    let many = format!("a LOGIN{}\r\n", " {2+}\r\nxx".repeat(20));
    let limits = Limits { skip: 1000, ..SMALL };
    assert_eq!(seen(many.as_bytes(), limits, true)[0], bad(LONG_LINE));
    assert_eq!(seen(many.as_bytes(), Limits::BEFORE_LOGIN, true).len(), 1);
}

#[test]
fn plain_lines_of_an_exchange() {
    let mut framer = Framer::new(SMALL);
    assert_eq!(framer.plain(b"AGEA", 20), Frame::More { used: 0 });
    assert_eq!(framer.plain(b"AGEAYg==\r\nrest", 20), Frame::Command { text: 8, used: 10 });
    assert_eq!(framer.plain(b"x {5}\r\n", 20), Frame::Command { text: 5, used: 7 });
    let long = [b'x'; 30];
    assert_eq!(framer.plain(&long, 20), Frame::More { used: 30 });
    let Frame::Bad { used: 4, .. } = framer.plain(b"xx\r\nb NOOP\r\n", 20) else { panic!("too long") };
    assert_eq!(framer.next(b"b NOOP\r\n"), Frame::Command { text: 6, used: 8 });
}

#[test]
fn what_is_dropped_at_starttls_is_forgotten() {
    let mut framer = Framer::new(SMALL);
    assert_eq!(framer.next(b"a LOGIN {5}\r\n"), Frame::Continue);
    framer.reset();
    assert_eq!(framer.next(b"b NOOP\r\n"), Frame::Command { text: 6, used: 8 });
}

const BITS: &[&str] = &[
    "a NOOP\r\n",
    "b LOGIN {3}\r\n",
    "x y",
    " {2+}\r\n",
    "\r\n",
    "\n",
    "\r",
    "{",
    "}",
    "+}",
    "c APPEND x {4}\r\n",
    "c APPEND x {4+}\r\n",
    "UID REPLACE 1 x ",
    "abcd",
    "{9999999999}\r\n",
    "zzzzzzzzzzzzzzzzzzzzzzzzzzz",
    "(",
    "~{1+}\r\n",
];

proptest! {
    #[test]
    fn pieces_do_not_matter(
        bits in prop::collection::vec(prop::sample::select(BITS), 0..25),
        pieces in prop::collection::vec(1usize..20, 0..40),
        take in any::<bool>(),
    ) {
        let wire = bits.concat();
        let whole = session(wire.as_bytes(), [], SMALL, take);
        prop_assert_eq!(&whole, &session(wire.as_bytes(), std::iter::repeat(1), SMALL, take));
        prop_assert_eq!(&whole, &session(wire.as_bytes(), pieces, SMALL, take));
    }
}
