//! Any bytes as a session, in any segments: no panic, bounded replies, whole reply lines, and
//! segments make no difference.
#![no_main]

use libfuzzer_sys::fuzz_target;
use ringpost::base::time::Mono;
use ringpost::smtp::inbound::{Answer, AuthMode, AuthOffer, AuthSaid, Options, Question, Session, Step};
use ringpost::smtp::reply::Reply;
use std::rc::Rc;

fuzz_target!(|input: &[u8]| {
    let Some((&segment, wire)) = input.split_first() else { return };
    let whole = run(wire, wire.len().max(1));
    let parts = run(wire, usize::from(segment).max(1));
    assert_eq!(whole.replies.escape_ascii().to_string(), parts.replies.escape_ascii().to_string());
    assert_eq!((whole.messages, whole.closed), (parts.messages, parts.closed));
    assert!(whole.replies.is_empty() || whole.replies.ends_with(b"\r\n"));
    assert!(
        whole
            .replies
            .split_inclusive(|&b| b == b'\n')
            .all(|line| line.len() <= 512 && line[0].is_ascii_digit())
    );
});

#[derive(Default)]
struct Run {
    replies: Vec<u8>,
    messages: Vec<Vec<u8>>,
    closed: bool,
}

fn run(wire: &[u8], segment: usize) -> Run {
    // Segments decide what counts as early, so that check is left out here.
    let options = Options { refuse_bad_pipelining: false, ..Options::tiny() };
    let (mut now, mut r) = (Mono(0), Run::default());
    let mut session = Session::new(Rc::new(options), now);
    session.set_auth(AuthMode::Offered);
    session.offer_auth(AuthOffer { now: "PLAIN LOGIN".into(), under_tls: "EXTERNAL".into() });
    session.banner(now, false, &mut r.replies);
    let (mut at, mut body) = (0, Vec::new());
    for end in (0..wire.len()).step_by(segment).map(|from| (from + segment).min(wire.len())) {
        loop {
            let rest = &wire[at..end];
            let mut out = Vec::new();
            let (used, step) = session.receive(now, rest, &mut out);
            let (more, close) = (step == Step::NeedInput, step == Step::Close);
            match step {
                Step::Ask(Question::Recipient) if session.envelope().count() == 2 => {
                    session.answer(now, Answer::Refuse(Reply::NO_SUCH_USER.into()), &mut out);
                }
                Step::Ask(Question::Auth) => {
                    let answer = match session.auth_said() {
                        AuthSaid::Begin { initial: None, .. } => Answer::Challenge(b"Username:"),
                        AuthSaid::Begin { initial: Some(said), .. } if said.expose().len() > 3 => {
                            Answer::Accept
                        }
                        AuthSaid::Response(said) if said.expose().is_empty() => Answer::Challenge(b""),
                        _ => Answer::Refuse(Reply::AUTH_FAILED.into()),
                    };
                    session.answer(now, answer, &mut out);
                }
                Step::Ask(_) => session.answer(now, Answer::Accept, &mut out),
                Step::Body(run) => body.extend_from_slice(&rest[run]),
                Step::BodyStatic(bytes) => body.extend_from_slice(bytes),
                Step::EndOfMessage => {
                    assert_eq!(session.body_facts().len, body.len() as u64);
                    r.messages.push(std::mem::take(&mut body));
                    session.refused(now, Reply::NO_SPACE.into(), &mut out);
                }
                Step::Abandoned => body.clear(),
                Step::Pause(until) => now = until,
                Step::StartTls => unreachable!("TLS is not offered here"),
                Step::NeedInput | Step::Yield | Step::Close => {}
            }
            assert!(out.len() < 4096, "replies of one call are bounded");
            r.replies.extend_from_slice(&out);
            at += used;
            if close {
                r.closed = true;
                return r;
            }
            if more {
                break;
            }
        }
    }
    r
}
