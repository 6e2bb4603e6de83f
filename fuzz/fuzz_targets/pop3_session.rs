//! Any bytes as a POP3 session, in any segments: no panic, bounded replies, whole lines, and segments
//! make no difference.
#![no_main]

use libfuzzer_sys::fuzz_target;
use ringpost::base::time::Mono;
use ringpost::pop3::body::Piece;
use ringpost::pop3::inbound::{Answer, Offer, Options, Question, Said, Session, Step};
use ringpost::pop3::reply::Reply;
use std::rc::Rc;

const MAIL: [&[u8]; 2] = [b"A: b\r\n\r\n.c\r\n..", b"A: b\r\n\r\n"];

fuzz_target!(|input: &[u8]| {
    let Some((&segment, wire)) = input.split_first() else { return };
    let whole = run(wire, wire.len().max(1));
    let parts = run(wire, usize::from(segment).max(1));
    assert_eq!(whole.0.escape_ascii().to_string(), parts.0.escape_ascii().to_string());
    assert_eq!((whole.1, whole.2), (parts.1, parts.2));
    assert!(whole.0.is_empty() || whole.0.ends_with(b"\r\n"));
    assert!(whole.0.split_inclusive(|&b| b == b'\n').all(|line| line.len() <= 512));
});

/// Replies, what is to be deleted, and whether the session has ended.
fn run(wire: &[u8], segment: usize) -> (Vec<u8>, Vec<u32>, bool) {
    let now = Mono(0);
    let mut session = Session::new(Rc::new(Options::tiny()), now);
    session.offer(Offer {
        passwords: true,
        mechanisms: "PLAIN LOGIN".into(),
        under_tls: "EXTERNAL".into(),
        timestamp: "<1@mx.test>".into(),
    });
    let (mut replies, mut deleted, mut at) = (Vec::new(), Vec::new(), 0);
    for end in (0..wire.len()).step_by(segment).map(|from| (from + segment).min(wire.len())) {
        loop {
            let mut out = Vec::new();
            let (used, step) = session.receive(now, &wire[at..end], &mut out);
            at += used;
            match step {
                Step::Ask(Question::Commit) => deleted = session.deletions().collect(),
                Step::StartTls => unreachable!("TLS is not offered here"),
                _ => {}
            }
            match step {
                Step::Ask(question) => answer(&mut session, question, now, &mut out),
                Step::Send(fetch) => {
                    send(&mut session, MAIL[fetch.number as usize - 1], &mut out);
                    session.sent(now, &mut out);
                }
                _ => {}
            }
            assert!(out.len() < 4096, "replies of one call are bounded");
            replies.extend_from_slice(&out);
            match step {
                Step::Close => return (replies, deleted, true),
                Step::NeedInput => break,
                _ => {}
            }
        }
    }
    (replies, deleted, false)
}

fn answer(session: &mut Session, question: Question, now: Mono, out: &mut Vec<u8>) {
    let answer = match question {
        Question::Login => match session.said() {
            Said::Password { password, .. } if password.expose() == b"p" => Answer::Accept,
            Said::Apop { digest, .. } if digest[0] == 0 => Answer::Accept,
            Said::Begin { initial: None, .. } => Answer::Challenge(b"Username:"),
            Said::Begin { initial: Some(said), .. } if said.expose().len() > 3 => Answer::Accept,
            Said::Response(said) if said.expose().is_empty() => Answer::Challenge(b""),
            _ => Answer::Refuse(Reply::AUTH_FAILED),
        },
        Question::Maildrop => {
            return session.opened(now, MAIL.iter().map(|m| m.len() as u64).collect(), out);
        }
        Question::Uidls { first, count } => {
            let uidls: Vec<String> = (first..first + count).map(|n| n.to_string()).collect();
            return session.uidls(now, &uidls, out);
        }
        Question::Message(_) => return session.found(now, true, out),
        Question::Tls => Answer::Refuse(Reply::TLS_UNAVAILABLE),
        Question::Commit => Answer::Refuse(Reply::NOT_DELETED),
    };
    session.answer(now, answer, out);
}

fn send(session: &mut Session, message: &[u8], out: &mut Vec<u8>) {
    let mut rest = message;
    while !rest.is_empty() {
        let (used, piece) = session.body().next(rest);
        match piece {
            Piece::Run(run) => out.extend_from_slice(&rest[run]),
            Piece::Dot => out.push(b'.'),
            Piece::Nothing => {}
        }
        rest = &rest[used..];
    }
}
