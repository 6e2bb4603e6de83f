//! Any commands of an intermediary that may speak for others, in any segments: no panic, nothing hidden
//! in what it says, and segments make no difference.
#![no_main]

use libfuzzer_sys::fuzz_target;
use ringpost::base::time::Mono;
use ringpost::smtp::inbound::{Answer, Claim, Options, Question, Said, Session, Step};
use ringpost::smtp::reply::Reply;
use std::rc::Rc;

fuzz_target!(|input: &[u8]| {
    let Some((&segment, wire)) = input.split_first() else { return };
    let whole = run(wire, wire.len().max(1));
    let parts = run(wire, usize::from(segment).max(1));
    assert_eq!(whole.0.escape_ascii().to_string(), parts.0.escape_ascii().to_string());
    assert_eq!((whole.1, whole.2), (parts.1, parts.2));
});

/// Replies, and what has been said of clients in the end.
fn run(wire: &[u8], segment: usize) -> (Vec<u8>, Option<Claim>, Option<Claim>) {
    let options = Options { refuse_bad_pipelining: false, ..Options::production("mx.test") };
    let (mut now, mut replies) = (Mono(0), Vec::new());
    let mut session = Session::new(Rc::new(options), now);
    session.allow_forwarding();
    session.banner(now, false, &mut replies);
    let mut at = 0;
    'all: for end in (0..wire.len()).step_by(segment).map(|from| (from + segment).min(wire.len())) {
        loop {
            let mut out = Vec::new();
            let (used, step) = session.receive(now, &wire[at..end], &mut out);
            at += used;
            let (more, close) = (step == Step::NeedInput, step == Step::Close);
            match step {
                Step::Ask(Question::Client) => {
                    clean(session.claim().expect("the question is about a claim"));
                    session.answer(now, Answer::Accept, &mut out);
                }
                Step::Ask(_) => session.answer(now, Answer::Accept, &mut out),
                Step::EndOfMessage => session.refused(now, Reply::NO_SPACE.into(), &mut out),
                Step::Pause(until) => now = until,
                _ => {}
            }
            replies.extend_from_slice(&out);
            if close {
                break 'all;
            }
            if more {
                break;
            }
        }
    }
    session.forwarded().into_iter().for_each(clean);
    (replies, session.claim().cloned(), session.forwarded().cloned())
}

fn clean(claim: &Claim) {
    for text in [&claim.name, &claim.helo, &claim.login].into_iter().filter_map(Said::known) {
        assert!(text.len() <= 255 && text.iter().all(|b| *b >= 32 && *b != 127));
        assert!(std::str::from_utf8(text).is_ok());
    }
    if let Some(address) = claim.address.known() {
        assert_eq!(*address, address.to_canonical());
    }
}
