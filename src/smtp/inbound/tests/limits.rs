//! Limits and deadlines.

use super::*;

const ENVELOPE: &str = "MAIL FROM:<a@b>\r\nRCPT TO:<c@d>\r\n";

impl Shell {
    fn wait(&mut self, seconds: u64) -> Option<String> {
        self.now = self.now.after(Duration::from_secs(seconds));
        let mut out = Vec::new();
        match self.session.expire(self.now, &mut out) {
            Step::NeedInput => None,
            Step::Close => {
                self.closed = true;
                Some(String::from_utf8(out).unwrap())
            }
            other => panic!("{other:?}"),
        }
    }

    fn seconds_left(&self) -> u64 {
        self.session.deadline().since(self.now).as_secs()
    }
}

const TIMEOUT: &str = "421 4.4.2 Timeout, closing connection\r\n";

/// Attack catalogue, row 15: one byte a minute does not keep a session open.
#[test]
fn row_15_slow_command() {
    let mut s = Shell::greeted(Options::production("mx.test"));
    for _ in 0..4 {
        s.feed(b"N");
        assert_eq!(s.wait(60), None);
    }
    s.feed(b"N");
    assert_eq!(s.wait(60).as_deref(), Some(TIMEOUT));
    let mut s = Shell::greeted(Options::production("mx.test"));
    assert_eq!(s.wait(299), None);
    s.say("NOOP\r\n");
    assert_eq!(s.wait(299), None, "a whole command starts the time anew");
    assert_eq!(s.wait(1).as_deref(), Some(TIMEOUT));
}

/// Attack catalogue, row 15: a message has its time and a least rate.
#[test]
fn row_15_slow_data() {
    let mut s = Shell::greeted(Options::production("mx.test"));
    s.say(&format!("{ENVELOPE}DATA\r\n"));
    for minute in 1.. {
        s.feed(b"y");
        if s.wait(60).is_some() {
            assert_eq!(minute, 5);
            break;
        }
    }
    let mut s = Shell::greeted(Options::production("mx.test"));
    s.say(&format!("{ENVELOPE}DATA\r\n"));
    for _ in 0..60 {
        s.feed(&[b'y'; 60_000]);
        assert_eq!(s.wait(60), None, "1000 bytes per second are enough");
    }
    assert_eq!(s.wait(240).as_deref(), Some(TIMEOUT), "but nobody rests on what was fast");
    let mut s = Shell::greeted(Options::production("mx.test"));
    s.say(&format!("{ENVELOPE}BDAT 100000\r\n"));
    for minute in 1.. {
        s.feed(b"y");
        if s.wait(60).is_some() {
            assert_eq!(minute, 5);
            break;
        }
    }
}

#[test]
fn a_transaction_that_never_comes_to_the_point() {
    let mut s = Shell::greeted(Options::production("mx.test"));
    s.say("MAIL FROM:<a@b>\r\n");
    for quarter in 1.. {
        s.say("RCPT TO:<c@d>\r\n");
        if s.wait(200).is_some() {
            assert_eq!(quarter, 9, "1800 seconds");
            break;
        }
    }
}

#[test]
fn our_own_time_is_not_counted() {
    let options = Rc::new(Options::production("mx.test"));
    let (mut s, mut out) = (Session::new(options, Mono(0)), Vec::new());
    s.banner(Mono(0), false, &mut out);
    s.receive(Mono(0), b"EHLO x\r\n", &mut out);
    let at = |seconds: u64| Mono(0).after(Duration::from_secs(seconds));
    assert_eq!(s.deadline(), at(300));
    assert_eq!(s.receive(at(10), b"MAIL FROM:<a@b>\r\n", &mut out).1, Step::Ask(Question::Sender));
    assert_eq!(s.deadline(), Mono(u64::MAX), "it is the shell's turn");
    assert_eq!(s.expire(at(5000), &mut out), Step::NeedInput);
    s.answer(at(5000), Answer::Accept, &mut out);
    assert_eq!(s.deadline(), at(5300));
    s.receive(at(5000), b"RCPT TO:<c@d>\r\n", &mut out);
    s.answer(at(9000), Answer::Accept, &mut out);
    assert_eq!(s.deadline(), at(9300), "the time of the envelope does not run meanwhile");
    s.receive(at(9000), b"DATA\r\n", &mut out);
    // RFC 5321 §4.5.3.2.5: 3 minutes for a block of data.
    assert_eq!(s.deadline(), at(9180));
    s.excuse(Duration::from_secs(50));
    assert_eq!(s.deadline(), at(9230));
    assert_eq!(s.receive(at(9230), b".\r\n", &mut out).1, Step::EndOfMessage);
    assert_eq!(s.deadline(), Mono(u64::MAX));
    s.accepted(at(20_000), b"ID", Committed::forged(), &mut out);
    assert_eq!(s.deadline(), at(20_300));
}

#[test]
fn shutdown_at_a_command_boundary() {
    let mut s = Shell::greeted(Options::production("mx.test"));
    let mut out = Vec::new();
    assert_eq!(s.session.shutdown(&mut out), Step::Close);
    assert_eq!(out, b"421 4.3.2 Shutting down, try again shortly\r\n");
    let mut s = Shell::greeted(Options::production("mx.test"));
    s.say(&format!("{ENVELOPE}DATA\r\n"));
    out.clear();
    assert_eq!(s.session.shutdown(&mut out), Step::NeedInput);
    assert_eq!(s.codes("x\r\n.\r\nNOOP\r\n"), "250 421", "what is in hand is finished");
    assert!(s.closed && out.is_empty() && s.stored.len() == 1);
}

#[test]
fn sizes() {
    let mut s = Shell::greeted(Options::tiny());
    assert_eq!(s.say("MAIL FROM:<a@b> SIZE=1001\r\n"), "552 5.3.4 Message size exceeds the limit\r\n");
    s.say("MAIL FROM:<a@b> SIZE=1000\r\nRCPT TO:<c@d>\r\nDATA\r\n");
    assert_eq!(s.say(&format!("\r\n{}\r\n.\r\n", "x".repeat(996))), "250 2.0.0 Ok: queued as ID1\r\n");
    s.say(&format!("{ENVELOPE}DATA\r\n"));
    let reply = s.say(&format!("\r\n{}\r\n.\r\n", "x".repeat(997)));
    assert_eq!(reply, "552 5.3.4 Message size exceeds the limit\r\n");
    assert_eq!((s.stored.len(), s.body.len()), (1, 0));
}

#[test]
fn a_body_that_grows_too_big_is_abandoned_at_once() {
    let mut s = Shell::greeted(Options::tiny());
    s.say(&format!("{ENVELOPE}DATA\r\n"));
    s.say(&format!("\r\n{}\r\n", "x".repeat(900)));
    assert_eq!((s.body.len(), s.abandoned), (904, 0));
    s.say(&"y".repeat(200));
    assert_eq!((s.body.len(), s.abandoned), (0, 1));
    assert_eq!(s.codes("\r\n.\r\nNOOP\r\n"), "552 250");
}

#[test]
fn recipients_transactions_and_errors() {
    let mut s = Shell::greeted(Options::tiny());
    s.say("MAIL FROM:<a@b>\r\n");
    assert_eq!(s.codes(&"RCPT TO:<c@d>\r\n".repeat(4)), "250 250 250 452");
    s.say("DATA\r\n");
    assert_eq!(s.codes("x\r\n.\r\n"), "250");
    assert_eq!(s.stored[0].recipients.len(), 3);
    for _ in 0..3 {
        assert_eq!(s.codes("MAIL FROM:<a@b>\r\nRSET\r\n"), "250 250");
    }
    assert_eq!(s.say("MAIL FROM:<a@b>\r\n"), "421 4.7.0 Too many messages in this session, reconnect\r\n");
    let mut s = Shell::greeted(Options::tiny());
    assert_eq!(s.codes("X\r\nX\r\n"), "500 500");
    assert_eq!(s.pauses, 0);
    assert_eq!(s.codes("X\r\nNOOP\r\n"), "500 250");
    assert_eq!(s.pauses, 1);
    assert_eq!(s.codes("X\r\n"), "500 421");
    assert!(s.closed);
}

#[test]
fn envelopes_are_bounded_in_bytes() {
    let mut s = Shell::greeted(Options { recipients_max: 1000, ..Options::tiny() });
    s.say("MAIL FROM:<a@b> SIZE=7\r\n");
    assert_eq!(s.session.declared_size(), Some(7));
    let long = format!("RCPT TO:<{}@d>\r\n", "x".repeat(250));
    assert_eq!(s.codes(&long.repeat(9)), "250 250 250 250 250 250 250 250 452");
    s.say("RSET\r\n");
    assert_eq!(s.codes(&format!("MAIL FROM:<a@b>\r\n{long}")), "250 250");
    assert_eq!(s.session.declared_size(), None);
    let longest = 1 + 2 + 512 + 2 + 500;
    assert!(Options::production("x").envelope_max >= 100 * longest, "RFC 5321 4.5.3.1.8");
}

#[test]
fn an_accepted_message_forgives_errors() {
    let mut s = Shell::greeted(Options { transactions_max: 100, ..Options::tiny() });
    for _ in 0..10 {
        s.say("X\r\n");
        s.say(&format!("{ENVELOPE}DATA\r\n"));
        assert_eq!(s.codes("x\r\n.\r\n"), "250");
    }
    assert!(!s.closed && s.pauses == 0 && s.seconds_left() == 300);
}

#[test]
fn a_session_without_traffic_is_small() {
    assert!(size_of::<Session>() <= 1024, "{}", size_of::<Session>());
}
