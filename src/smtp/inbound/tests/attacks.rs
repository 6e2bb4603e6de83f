//! The rows of the attack catalogue that concern a session; the numbers are those of the catalogue.

use super::*;
use crate::smtp::data::BareNewline;

const ENVELOPE: &str = "MAIL FROM:<a@b>\r\nRCPT TO:<c@d>\r\n";

fn production() -> Shell {
    Shell::greeted(Options::production("mx.test"))
}

/// SMTP smuggling: a second transaction within the first.
#[test]
fn row_01_inbound_smuggling() {
    for ending in ["\n.\n", "\n.\r\n", "\r.\r", "\r\n.\n", "\r\n.\r", "\r.\r\n", "\r\n\0.\r\n", "\r\n.\r\r\n"]
    {
        for bare_newline in [BareNewline::Refuse, BareNewline::Normalize] {
            let mut options = Options::production("mx.test");
            options.message.bare_newline = bare_newline;
            let mut s = Shell::greeted(options);
            assert_eq!(s.codes(&format!("{ENVELOPE}DATA\r\n")), "250 250 354");
            let replies = s.say(&format!("a{ending}MAIL FROM:<x@y>\r\nRCPT TO:<z@d>\r\nDATA\r\nb\r\n.\r\n"));
            assert_eq!(
                replies.matches("\r\n").count(),
                1,
                "{ending:?}: one reply for one message: {replies}"
            );
            let expect = match (ending.contains('\0'), bare_newline) {
                (true, _) => "550 5.6.0",
                (false, BareNewline::Refuse) => "550 5.5.2",
                (false, BareNewline::Normalize) => "250 2.0.0",
            };
            assert!(replies.starts_with(expect), "{ending:?}: {replies}");
            assert!(s.stored.iter().all(|m| m.sender == "a@b" && m.body.contains("MAIL FROM:<x@y>")));
            assert!(s.body.is_empty(), "a refused body has been dropped");
            assert_eq!(s.codes("NOOP\r\n"), "250", "in step again");
        }
    }
}

#[test]
fn row_03_bdat_abuse() {
    for size in ["99999999999999999999", "-1", "x", ""] {
        let mut s = production();
        assert_eq!(s.codes(&format!("{ENVELOPE}BDAT {size}\r\nMAIL FROM:<x@y>\r\n")), "250 250 501");
        assert!(s.closed, "what follows a size that cannot be read is never taken for commands");
    }
    let mut s = production();
    assert_eq!(s.codes("BDAT 6\r\nQUIT\r\nBDAT 6 LAST\r\nQUIT\r\nNOOP\r\n"), "503 503 250", "without MAIL");
    assert_eq!(s.codes("MAIL FROM:<a@b>\r\nBDAT 6\r\nQUIT\r\nRSET\r\n"), "250 503 250", "without RCPT");
    assert_eq!(s.codes(&format!("{ENVELOPE}BDAT 6\r\nRSET\r\nBDAT 0 LAST\r\n")), "250 250 250 250");
    assert_eq!(s.stored[0].body, "RSET\r\n", "RSET within a chunk is data");
    assert_eq!(s.codes(&format!("{ENVELOPE}BDAT 3\r\n.\r\nBDAT 2 LAST\r\n\r\n")), "250 250 250 250");
    assert_eq!(s.stored[1].body, ".\r\n\r\n", "a lone dot is data");
    assert_eq!(s.codes(&format!("{ENVELOPE}BDAT 1\r\naDATA\r\n")), "250 250 250 503");
    assert_eq!(s.codes("RSET\r\n"), "250");
    let refused = format!("{ENVELOPE}BDAT 2\r\na\nBDAT 6\r\nQUIT\r\nBDAT 2 LAST\r\nokNOOP\r\n");
    assert_eq!(s.codes(&refused), "250 250 550 503 503 250");
    assert!(s.body.is_empty() && s.stored.len() == 2 && !s.closed);
}

#[test]
fn row_03_bdat_ends_in_a_bare_carriage_return() {
    let mut s = production();
    assert_eq!(s.codes(&format!("{ENVELOPE}BDAT 2 LAST\r\na\rNOOP\r\n")), "250 250 550 250");
    assert_eq!((s.abandoned, s.body.len(), s.stored.len()), (1, 0, 0));
}

#[test]
fn row_03_bdat_too_big() {
    let mut s = Shell::greeted(Options::tiny());
    assert_eq!(s.codes(&format!("{ENVELOPE}BDAT 600\r\n{}", "x".repeat(600))), "250 250 250");
    assert_eq!(s.codes(&format!("BDAT 600 LAST\r\n{}NOOP\r\n", "x".repeat(600))), "552 250");
    assert_eq!((s.abandoned, s.body.len()), (1, 0), "what was collected has been dropped");
    assert_eq!(s.codes(&format!("{ENVELOPE}BDAT 18446744073709551614\r\nQUIT\r\n")), "250 250 552");
    assert!(s.closed, "nobody reads that much to drop it");
}

#[test]
fn row_06_http() {
    for first in ["GET / HTTP/1.1", "POST /x HTTP/1.1", "CONNECT a:25 HTTP/1.1", "options * HTTP/1.1"] {
        let mut s = Shell::new(Options::production("mx.test"));
        let request = format!("{first}\r\nHost: a\r\n\r\nEHLO x\r\n{ENVELOPE}DATA\r\nspam\r\n.\r\n");
        assert_eq!(s.codes(&request), "554", "{first}");
        assert!(s.closed && s.stored.is_empty());
    }
    let mut s = Shell::new(Options::production("mx.test"));
    assert_eq!(s.codes("Host: a\r\nAccept: b\r\nX: c\r\nEHLO x\r\n"), "500 500 500 421");
    assert!(s.closed, "three unknown commands before EHLO");
}

#[test]
fn row_07_08_addresses_and_xtext_go_through_untouched() {
    let mut s = production();
    s.say("MAIL FROM:<$(x)@h>\r\n");
    let replies = s
        .codes("MAIL FROM:<|p@h>\r\nRCPT TO:<${run{x}}@h>\r\nRCPT TO:<../../x@h>\r\nRCPT TO:<;sleep 6;>\r\n");
    assert_eq!(replies, "250 250 250 501");
    assert_eq!(s.codes("RCPT TO:<a@b> ORCPT=rfc822;a+0D+0AX\r\n"), "501");
    s.say("DATA\r\n");
    s.say(".\r\n");
    assert_eq!(s.stored[0].recipients, ["${run{x}}@h", "../../x@h"]);
}

#[test]
fn row_10_recipient_overflow() {
    let mut s = production();
    s.say("MAIL FROM:<a@b>\r\n");
    let many: String = (0..50_000).map(|i| format!("RCPT TO:<r{i}@d>\r\n")).collect();
    let replies = s.say(&many);
    let count = |code: &str| replies.split("\r\n").filter(|l| l.starts_with(code)).count();
    assert_eq!((count("250 "), count("452 4.5.3"), count("421 4.7.0")), (1000, 1020, 1));
    assert!(s.closed && s.session.envelope().count() == 1000);
    let mut s = production();
    s.say("MAIL FROM:<a@b>\r\n");
    let some: String = (0..1500).map(|i| format!("RCPT TO:<r{i}@d>\r\n")).collect();
    s.say(&some);
    assert_eq!(s.codes("DATA\r\n"), "354", "an honest client sends the rest later");
}

#[test]
fn row_13_early_talker() {
    let options = Rc::new(Options::production("mx.test"));
    let mut out = Vec::new();
    let mut s = Session::new(options.clone(), Mono(0));
    assert_eq!(s.banner(Mono(0), true, &mut out), Step::Close);
    assert!(out.starts_with(b"554 5.5.1 "));
    let mut s = Session::new(options.clone(), Mono(0));
    assert_eq!(s.receive(Mono(0), b"EHLO x\r\n", &mut out), (0, Step::Close));
    let mut s = Session::new(Rc::new(Options { refuse_early_talkers: false, ..(*options).clone() }), Mono(0));
    out.clear();
    assert_eq!(s.receive(Mono(0), b"EHLO x\r\n", &mut out), (8, Step::NeedInput));
    assert_eq!(codes(std::str::from_utf8(&out).unwrap()), "220 250");
}

#[test]
fn row_13_pipelining_where_it_is_forbidden() {
    for text in ["EHLO x\r\nMAIL FROM:<a@b>\r\n", "HELO x\r\nNOOP\r\n"] {
        let mut s = Shell::new(Options::production("mx.test"));
        assert!(s.say(text).starts_with("554 5.5.0 ") && s.closed, "{text}");
    }
    let mut s = production();
    assert_eq!(s.codes(&format!("{ENVELOPE}DATA\r\nspam\r\n.\r\n")), "250 250 554");
    assert!(s.closed && s.stored.is_empty());
    let mut s = Shell::new(Shell::loose(Options::production("mx.test")));
    assert_eq!(s.codes(&format!("EHLO x\r\n{ENVELOPE}DATA\r\nham\r\n.\r\n")), "250 250 250 354 250");
}

#[test]
fn row_14_endless_lines() {
    let mut s = production();
    for _ in 0..1000 {
        assert_eq!(s.feed(&[b'x'; 4096]), "");
        assert!(s.buffer.len() <= 1, "constant memory");
    }
    assert_eq!(s.feed(b"\nMAIL FROM:<a@b>\r"), "", "only CRLF ends it");
    assert_eq!(s.feed(b"\n"), "500 5.5.2 Line too long\r\n");
    assert_eq!(s.codes("NOOP\r\n"), "250");
    let longest = format!("NOOP {}\r\n", "x".repeat(2048 - 7));
    assert_eq!(s.codes(&longest), "250");
    assert_eq!(s.codes(&format!("NOOP {}\r\n", "x".repeat(2048 - 6))), "500");
    assert_eq!(s.say("NOOP\n"), "500 5.5.2 Command lines end in CRLF, not in a bare line feed\r\n");
    assert_eq!(s.say("NO\rOP\r\n"), "500 5.5.2 Control character in a command\r\n");
    assert_eq!(s.say("NO\0OP\r\n"), "500 5.5.2 Control character in a command\r\n");
}

#[test]
fn row_14_22_endless_header_and_body() {
    let mut s = production();
    s.say(&format!("{ENVELOPE}DATA\r\n"));
    s.say("X: ");
    for _ in 0..600 {
        s.feed(&[b'y'; 65_536]);
        assert!(s.body.len() <= 200_000, "nothing is collected beyond the limit of a field");
    }
    assert_eq!(s.say("\r\n.\r\n"), "552 5.3.4 Message header exceeds the limit\r\n");
    s.say(&format!("{ENVELOPE}DATA\r\n"));
    s.say(&"H: v\r\n".repeat(100_000));
    assert_eq!(s.say("\r\n.\r\n"), "552 5.3.4 Message header exceeds the limit\r\n");
    s.say(&format!("{ENVELOPE}DATA\r\n"));
    let to = format!("To: {}x@y\r\n", "a@b,\r\n\t((((".repeat(100_000));
    s.say(&to);
    assert_eq!(s.say("\r\n.\r\n"), "552 5.3.4 Message header exceeds the limit\r\n");
    s.say(&format!("{ENVELOPE}DATA\r\n"));
    let mut fed = 0;
    while !s.closed && fed < 5000 {
        s.feed(&[b'z'; 65_536]);
        fed += 1;
    }
    assert!(s.closed && fed < 5000, "an endless body ends the session");
    assert!(
        String::from_utf8_lossy(&s.replies)
            .ends_with("552 5.3.4 Message far exceeds the limit, closing connection\r\n")
    );
}

#[test]
fn row_16_client_that_does_not_read() {
    let mut s = Shell::greeted(Options { junk_max: u32::MAX, ..Options::production("mx.test") });
    let replies = s.say(&"NOOP\r\n".repeat(100_000));
    assert_eq!(replies.len(), 100_000 * 14);
    assert!(s.most_waiting <= 64 * 14, "replies wait in bounded memory: {}", s.most_waiting);
    assert!(s.yields >= 100_000 / 64 - 1, "others get their turn: {}", s.yields);
}

#[test]
fn row_18_junk_and_harvest() {
    for command in ["NOOP", "RSET", "VRFY x", "HELP"] {
        let mut s = production();
        let replies = s.say(&format!("{command}\r\n").repeat(10_000));
        assert_eq!(codes(&replies).split(' ').count(), 101, "{command}");
        assert!(
            replies.ends_with("421 4.7.0 Too many commands without mail, closing connection\r\n") && s.closed
        );
    }
    let mut s = production();
    s.say("MAIL FROM:<a@b>\r\n");
    let replies = s.say(&"RCPT TO:<no@d>\r\n".repeat(10_000));
    assert_eq!(codes(&replies).split(' ').count(), 21, "harvesting ends at the error limit");
    assert_eq!((s.closed, s.pauses), (true, 9), "and is slow from the soft limit on");
    let mut s = production();
    for _ in 0..300 {
        s.say(&format!("RSET\r\n{ENVELOPE}DATA\r\n"));
        assert_eq!(s.codes("x\r\n.\r\n"), "250", "honest clients that reset before each message are let be");
    }
}

#[test]
fn row_19_mail_loop() {
    let mut s = production();
    for (hops, code) in [(50, "250"), (51, "554"), (101, "554")] {
        s.say(&format!("{ENVELOPE}DATA\r\n"));
        let reply = s.say(&format!("{}\r\nbody\r\n.\r\n", "Received: from a by b; date\r\n".repeat(hops)));
        assert_eq!(codes(&reply), code, "{hops}");
        assert_eq!(reply.starts_with("554 5.4.6 "), code == "554");
    }
}

#[test]
fn row_21_relay_variants_reach_the_policy_as_they_are() {
    let mut s = production();
    s.say("MAIL FROM:<a@b>\r\n");
    for path in ["<a%b@us>", "<@us:a@b>", "<\"a@b\"@us>", "<a@[127.0.0.1]>"] {
        assert_eq!(s.codes(&format!("RCPT TO:{path}\r\n")), "250", "{path}");
    }
    assert_eq!(s.codes("RCPT TO:<b!a>\r\n"), "501");
    s.say("DATA\r\n");
    s.say(".\r\n");
    assert_eq!(s.stored[0].recipients, ["a%b@us", "a@b", "\"a@b\"@us", "a@[127.0.0.1]"]);
}
