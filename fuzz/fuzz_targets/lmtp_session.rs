//! Any bytes as an LMTP session, in any segments: no panic, bounded replies, and segments make no
//! difference. No recipient is delivered here: what is asserted is that each has its reply.
#![no_main]

use libfuzzer_sys::fuzz_target;
use ringpost::base::time::Mono;
use ringpost::lmtp::{Answer, Options, Outcome, Question, Session, Step};
use ringpost::smtp::reply::Reply;
use std::rc::Rc;

fuzz_target!(|input: &[u8]| {
    let Some((&segment, wire)) = input.split_first() else { return };
    let whole = run(wire, wire.len().max(1));
    let parts = run(wire, usize::from(segment).max(1));
    assert_eq!(whole.0.escape_ascii().to_string(), parts.0.escape_ascii().to_string());
    assert_eq!(whole.1, parts.1);
    let mut lines = whole.0.split_inclusive(|&b| b == b'\n');
    assert!(lines.all(|line| line.ends_with(b"\r\n") && line.len() <= 512));
});

/// Replies and messages.
fn run(wire: &[u8], segment: usize) -> (Vec<u8>, Vec<Vec<u8>>) {
    // Segments decide what counts as early, so that check is left out here.
    let options = Options { refuse_bad_pipelining: false, ..Options::tiny() };
    let mut now = Mono(0);
    let mut session = Session::lmtp(Rc::new(options), now);
    let (mut replies, mut messages, mut body, mut at) = (Vec::new(), Vec::new(), Vec::new(), 0);
    session.banner(now, false, &mut replies);
    for end in (0..wire.len()).step_by(segment).map(|from| (from + segment).min(wire.len())) {
        loop {
            let rest = &wire[at..end];
            let mut out = Vec::new();
            let (used, step) = session.receive(now, rest, &mut out);
            let (more, close) = (step == Step::NeedInput, step == Step::Close);
            match step {
                Step::Ask(Question::Recipient) if session.envelope().count() == 3 => {
                    session.answer(now, Answer::Refuse(Reply::NO_SUCH_USER.into()), &mut out);
                }
                Step::Ask(_) => session.answer(now, Answer::Accept, &mut out),
                Step::Body(run) => body.extend_from_slice(&rest[run]),
                Step::BodyStatic(bytes) => body.extend_from_slice(bytes),
                Step::EndOfMessage => {
                    messages.push(std::mem::take(&mut body));
                    let count = session.envelope().count() as usize;
                    let outcomes = (0..count).map(|_| Outcome::Refused(Reply::NO_SPACE.into()));
                    // Replies to what came before may be in it.
                    let before = out.len();
                    session.settled(now, outcomes, &mut out);
                    assert_eq!(out[before..].iter().filter(|b| **b == b'\n').count(), count);
                }
                Step::Abandoned => body.clear(),
                Step::Pause(until) => now = until,
                Step::StartTls => unreachable!("TLS is not offered here"),
                Step::NeedInput | Step::Yield | Step::Close => {}
            }
            assert!(out.len() < 4096, "replies of one call are bounded");
            replies.extend_from_slice(&out);
            at += used;
            if close {
                return (replies, messages);
            }
            if more {
                break;
            }
        }
    }
    (replies, messages)
}
