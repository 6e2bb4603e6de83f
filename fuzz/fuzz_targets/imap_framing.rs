//! Any stream of IMAP: the same frames in one piece and in two, nothing beyond the input, always an end.
#![no_main]

use libfuzzer_sys::fuzz_target;
use ringpost::imap::line::{Frame, Framer, Limits};
use ringpost::imap::parse::append::{self, Next};
use ringpost::imap::parse::{self, Verb};

const LIMITS: Limits = Limits { command: 100, literal: 30, non_synchronizing: 20, skip: 300 };

fuzz_target!(|data: &[u8]| {
    let Some((&cut, wire)) = data.split_first() else { return };
    let cut = usize::from(cut).min(wire.len());
    let whole = session(wire, wire.len());
    assert_eq!(whole, session(wire, cut), "pieces do not matter");
});

/// What a session sees, written down; the first piece has `cut` bytes.
fn session(wire: &[u8], cut: usize) -> Vec<String> {
    let mut framer = Framer::new(LIMITS);
    let (mut seen, mut at, mut end, mut steps) = (Vec::new(), 0, cut, 0);
    let mut message: Option<(Vec<u8>, bool)> = None;
    loop {
        steps += 1;
        assert!(steps <= 4 * wire.len() + 10, "every step consumes something");
        let input = &wire[at..end];
        let frame = framer.next(input);
        let used = match frame {
            Frame::More { used } => {
                at += used;
                if end == wire.len() {
                    return seen;
                }
                end = wire.len();
                continue;
            }
            Frame::Passed { used } => used,
            Frame::Continue => {
                seen.push("continue".to_string());
                0
            }
            Frame::Command { text, used } => {
                assert!(text <= used);
                seen.push(input[..text].escape_ascii().to_string());
                used
            }
            Frame::Message { used } => {
                let m = match parse::parse(&input[..used]).expect("known to be right").verb {
                    Verb::Append(a) => a.message,
                    Verb::Replace(r) => r.message,
                    other => panic!("{other:?}"),
                };
                framer.accept(&m);
                message = Some((Vec::new(), m.utf8));
                used
            }
            Frame::Body { used } => {
                assert!(used > 0);
                message.as_mut().expect("a message").0.extend_from_slice(&input[..used]);
                used
            }
            Frame::After { text, used } => {
                let (bytes, utf8) = message.take().expect("a message");
                seen.push(format!("message {}", bytes.escape_ascii()));
                match append::next(&input[..text], utf8) {
                    Ok(Next::Message(m)) => {
                        framer.accept(&m);
                        message = Some((Vec::new(), m.utf8));
                    }
                    Err(_) if text == used && !framer.abandon(&input[..text]) => return seen,
                    Ok(Next::End) | Err(_) => {}
                }
                used
            }
            Frame::Bad { used, tag, why } => {
                seen.push(format!("bad {tag:?} {why}"));
                used
            }
            Frame::Bye { why } => {
                seen.push(why.to_string());
                return seen;
            }
        };
        assert!(used <= input.len(), "within the input");
        at += used;
    }
}
