//! The client machine against scripted replies.

use super::*;
use std::cell::RefCell;

struct Numbers {
    left: RefCell<Vec<u64>>,
}

impl Numbers {
    fn new(count: u64) -> Self {
        Numbers { left: RefCell::new((0..count).rev().collect()) }
    }
}

impl Feed for Numbers {
    fn claim(&self) -> Option<(u64, Mono)> {
        self.left.borrow_mut().pop().map(|n| (n, Mono(0)))
    }
    fn give_back(&self, number: u64) {
        self.left.borrow_mut().push(number);
    }
    fn ended(&self) -> bool {
        false
    }
}

fn session(pipelining: bool, recipients: u32, per_session: u64) -> Session {
    Session::new(Rc::new(Profile {
        run: "run".into(),
        helo: "client.test".into(),
        auth: None,
        from: "a@load.test".into(),
        recipient: "b{r}-{n}@load.test".into(),
        recipients,
        starttls: false,
        pipelining,
        messages_per_session: per_session,
        hold_until: Mono(0),
        template: Template::new("run", "a@load.test", "x", 400, false),
    }))
}

/// Runs until the session wants to read; returns what it wrote.
fn written(s: &mut Session, feed: &Numbers, tally: &mut Tally) -> (String, Step) {
    let mut out = String::new();
    loop {
        match s.step(Mono(5), feed, tally) {
            Step::Write => {
                let parts = s.parts().concat();
                out.push_str(std::str::from_utf8(&parts).expect("ASCII"));
                s.wrote(parts.len(), true, Mono(5));
            }
            step => return (out, step),
        }
    }
}

fn reply(s: &mut Session, tally: &mut Tally, text: &str) {
    s.absorb(text.as_bytes(), Mono(1005), 77, tally).expect("replies");
}

const EHLO: &str = "250-mx.test\r\n250-PIPELINING\r\n250 8BITMIME\r\n";

fn greeted(s: &mut Session, feed: &Numbers, tally: &mut Tally) -> String {
    assert_eq!(written(s, feed, tally), (String::new(), Step::Read));
    reply(s, tally, "220 mx.test ESMTP\r\n");
    assert_eq!(written(s, feed, tally).0, "EHLO client.test\r\n");
    reply(s, tally, EHLO);
    written(s, feed, tally).0
}

#[test]
fn one_round_trip_per_message_when_pipelined() {
    let (feed, mut tally) = (Numbers::new(2), Tally::default());
    let mut s = session(true, 2, 10);
    let envelope = greeted(&mut s, &feed, &mut tally);
    assert_eq!(
        envelope,
        "MAIL FROM:<a@load.test>\r\nRCPT TO:<b0-0@load.test>\r\nRCPT TO:<b1-0@load.test>\r\nDATA\r\n"
    );
    reply(&mut s, &mut tally, "250 ok\r\n250 ok\r\n250 ok\r\n354 go\r\n");
    let (wrote, _) = written(&mut s, &feed, &mut tally);
    assert!(wrote.starts_with("X-Ringpost-Load-Id: run-0000000000\r\n"));
    assert!(wrote.contains("\r\n.\r\nMAIL FROM:<a@load.test>\r\nRCPT TO:<b0-1@load.test>\r\n"), "{wrote}");
    assert!(wrote.ends_with("DATA\r\n"));
    reply(&mut s, &mut tally, "250 queued as Q1\r\n250 ok\r\n250 ok\r\n250 ok\r\n354 go\r\n");
    let (wrote, _) = written(&mut s, &feed, &mut tally);
    assert!(wrote.ends_with("\r\n.\r\nQUIT\r\n"), "{wrote}");
    reply(&mut s, &mut tally, "250 queued as Q2\r\n221 bye\r\n");
    assert_eq!(written(&mut s, &feed, &mut tally).1, Step::Close);
    assert_eq!((tally.acknowledged, tally.refused, tally.failed), (2, 0, 0));
    assert_eq!(tally.latency.total(), 2);
    assert_eq!(tally.latency.quantile(1000), 1000);
    assert!(tally.replies.is_empty());
}

#[test]
fn lock_step_waits_for_each_reply() {
    let (feed, mut tally) = (Numbers::new(1), Tally::default());
    let mut s = session(false, 1, 10);
    assert_eq!(greeted(&mut s, &feed, &mut tally), "MAIL FROM:<a@load.test>\r\n");
    reply(&mut s, &mut tally, "250 ok\r\n");
    assert_eq!(written(&mut s, &feed, &mut tally).0, "RCPT TO:<b0-0@load.test>\r\n");
    reply(&mut s, &mut tally, "250 ok\r\n");
    assert_eq!(written(&mut s, &feed, &mut tally).0, "DATA\r\n");
    reply(&mut s, &mut tally, "354 go\r\n");
    assert!(written(&mut s, &feed, &mut tally).0.ends_with("\r\n.\r\n"));
    reply(&mut s, &mut tally, "250 ok\r\n");
    assert_eq!(written(&mut s, &feed, &mut tally).0, "QUIT\r\n");
    assert_eq!(tally.acknowledged, 1);
}

#[test]
fn refusals_are_counted_by_phase_and_code() {
    for pipelining in [true, false] {
        let (feed, mut tally) = (Numbers::new(2), Tally::default());
        let mut s = session(pipelining, 1, 10);
        greeted(&mut s, &feed, &mut tally);
        if pipelining {
            reply(&mut s, &mut tally, "250 ok\r\n550 no\r\n554 no valid recipients\r\n");
        } else {
            reply(&mut s, &mut tally, "250 ok\r\n");
            written(&mut s, &feed, &mut tally);
            reply(&mut s, &mut tally, "550 no\r\n");
        }
        assert_eq!(written(&mut s, &feed, &mut tally).0, "RSET\r\n");
        assert_eq!((tally.failed, tally.replies[&(Phase::Rcpt(0), 550)]), (1, 1));
        reply(&mut s, &mut tally, "250 ok\r\n");
        assert!(written(&mut s, &feed, &mut tally).0.starts_with("MAIL"), "goes on with the next");
    }
}

#[test]
fn an_unwanted_354_gets_an_empty_message() {
    let (feed, mut tally) = (Numbers::new(1), Tally::default());
    let mut s = session(true, 1, 10);
    greeted(&mut s, &feed, &mut tally);
    reply(&mut s, &mut tally, "250 ok\r\n550 no\r\n354 go\r\n");
    assert_eq!(written(&mut s, &feed, &mut tally).0, ".\r\n");
    reply(&mut s, &mut tally, "554 no recipients\r\n");
    assert_eq!((tally.failed, tally.acknowledged), (1, 0));
}

#[test]
fn a_death_after_the_dot_leaves_one_unanswered_and_one_unused() {
    let (feed, mut tally) = (Numbers::new(5), Tally::default());
    let mut s = session(true, 1, 10);
    greeted(&mut s, &feed, &mut tally);
    reply(&mut s, &mut tally, "250 ok\r\n250 ok\r\n354 go\r\n");
    assert_eq!(s.step(Mono(5), &feed, &mut tally), Step::Write);
    let body = s.parts()[0].len() + s.parts()[1].len();
    assert_eq!(feed.left.borrow().len(), 3);
    s.wrote(body + 2, false, Mono(6)); // the dot's line end is missing
    s.abandon(9, &feed, &mut tally);
    assert_eq!((tally.unanswered, tally.failed), (0, 1));
    assert_eq!(feed.left.borrow().len(), 4, "the envelope in hand is returned");

    let mut s = session(true, 1, 10);
    greeted(&mut s, &feed, &mut tally);
    reply(&mut s, &mut tally, "250 ok\r\n250 ok\r\n354 go\r\n");
    written(&mut s, &feed, &mut tally);
    s.abandon(9, &feed, &mut tally);
    assert_eq!((tally.unanswered, tally.failed), (1, 1));
}

#[test]
fn starttls_comes_between_two_hellos() {
    let (feed, mut tally) = (Numbers::new(1), Tally::default());
    let mut s = session(true, 1, 1);
    Rc::get_mut(&mut s.profile).expect("the only owner").starttls = true;
    assert_eq!(greeted(&mut s, &feed, &mut tally), "STARTTLS\r\n");
    reply(&mut s, &mut tally, "220 go\r\n");
    assert_eq!(s.step(Mono(5), &feed, &mut tally), Step::StartTls);
    assert_eq!(written(&mut s, &feed, &mut tally).0, "EHLO client.test\r\n");
    reply(&mut s, &mut tally, EHLO);
    assert!(written(&mut s, &feed, &mut tally).0.starts_with("MAIL FROM:<a@load.test>\r\nRCPT TO:"));
    let mut s = session(true, 1, 1);
    Rc::get_mut(&mut s.profile).expect("the only owner").starttls = true;
    greeted(&mut s, &feed, &mut tally);
    reply(&mut s, &mut tally, "454 not now\r\n");
    assert_eq!(s.step(Mono(5), &feed, &mut tally), Step::Close);
    assert_eq!(tally.replies[&(Phase::StartTls, 454)], 1);
}

#[test]
fn a_farewell_closes_and_returns_the_envelope() {
    let (feed, mut tally) = (Numbers::new(3), Tally::default());
    let mut s = session(true, 1, 10);
    greeted(&mut s, &feed, &mut tally);
    reply(&mut s, &mut tally, "421 4.3.2 shutting down\r\n");
    assert_eq!(s.step(Mono(5), &feed, &mut tally), Step::Close);
    assert_eq!(feed.left.borrow().len(), 3);
    assert_eq!(tally.replies[&(Phase::Mail, 421)], 1);
}

#[test]
fn logs_in_after_ehlo_or_ends() {
    for (answer, goes_on) in [("235 2.7.0 ok\r\n", true), ("535 5.7.8 no\r\n", false)] {
        let (feed, mut tally) = (Numbers::new(1), Tally::default());
        let mut s = session(true, 1, 1);
        Rc::get_mut(&mut s.profile).expect("one session").auth = Some("AUTH PLAIN AGEAYg==".into());
        assert_eq!(greeted(&mut s, &feed, &mut tally), "AUTH PLAIN AGEAYg==\r\n");
        reply(&mut s, &mut tally, answer);
        let (wrote, step) = written(&mut s, &feed, &mut tally);
        assert_eq!((wrote.starts_with("MAIL FROM:"), step == Step::Close), (goes_on, !goes_on));
        assert_eq!(tally.replies.is_empty(), goes_on);
    }
}
