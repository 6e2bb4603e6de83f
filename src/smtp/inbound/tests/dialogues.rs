//! Whole dialogues: every command in and out of order, every reply.

use super::*;
use crate::message::envelope::{Notify, Ret};

const ENVELOPE: &str = "MAIL FROM:<a@b>\r\nRCPT TO:<c@d>\r\n";

fn production() -> Shell {
    Shell::greeted(Options::production("mx.test"))
}

#[test]
fn a_message_with_all_replies() {
    let mut s = Shell::new(Options::production("mx.test"));
    assert_eq!(
        s.say("EHLO client.test\r\n"),
        "250-mx.test\r\n250-PIPELINING\r\n250-SIZE 52428800\r\n250-8BITMIME\r\n250-ENHANCEDSTATUSCODES\r\n\
         250-CHUNKING\r\n250-DSN\r\n250-LIMITS MAILMAX=1000 RCPTMAX=1000\r\n250 SMTPUTF8\r\n"
    );
    assert_eq!(s.session.helo(), b"client.test");
    assert_eq!(s.say("MAIL FROM:<a@b> BODY=8BITMIME RET=HDRS ENVID=e\r\n"), "250 2.1.0 Sender ok\r\n");
    assert_eq!(s.say("RCPT TO:<c@d> NOTIFY=NEVER ORCPT=rfc822;x\r\n"), "250 2.1.5 Recipient ok\r\n");
    let view = s.session.envelope().view();
    assert_eq!((view.envid(), view.options().ret), (&b"e"[..], Some(Ret::Headers)));
    let recipient = view.recipients().next().unwrap();
    assert_eq!((recipient.notify, recipient.orcpt), (Notify::NEVER, &b"rfc822;x"[..]));
    assert_eq!(s.say("DATA\r\n"), "354 End data with <CR><LF>.<CR><LF>\r\n");
    assert_eq!(s.say("Subject: x\r\n\r\n..dot\r\n.\r\n"), "250 2.0.0 Ok: queued as ID1\r\n");
    assert_eq!(s.say("QUIT\r\n"), "221 2.0.0 Bye\r\n");
    assert!(s.closed);
    let m = &s.stored[0];
    assert_eq!((m.sender.as_str(), m.recipients.join(","), m.protocol), ("a@b", "c@d".to_string(), "ESMTP"));
    assert_eq!(m.body, "Subject: x\r\n\r\n.dot\r\n");
    assert_eq!((m.facts.len, m.facts.has_dot_lines, m.facts.long_lines), (20, true, false));
}

#[test]
fn pipelined_messages_in_one_write() {
    let mut s = production();
    assert_eq!(s.codes(&format!("{ENVELOPE}DATA\r\n")), "250 250 354");
    assert_eq!(s.codes(&format!("one\r\n.\r\n{ENVELOPE}DATA\r\n")), "250 250 250 354");
    assert_eq!(s.codes("two\r\n.\r\nQUIT\r\n"), "250 221");
    assert_eq!(s.stored.iter().map(|m| m.body.as_str()).collect::<Vec<_>>(), ["one\r\n", "two\r\n"]);
}

#[test]
fn protocols() {
    let mut s = Shell::new(Options::production("mx.test"));
    assert_eq!(s.say("HELO old\r\n"), "250 mx.test\r\n");
    s.say(&format!("{ENVELOPE}DATA\r\n"));
    s.say(".\r\n");
    s.say("EHLO new\r\n");
    s.say("MAIL FROM:<\u{e9}@b> SMTPUTF8\r\nRCPT TO:<\u{e8}@d>\r\nDATA\r\n");
    s.say(".\r\n");
    s.say(&format!("{ENVELOPE}DATA\r\n"));
    s.say(".\r\n");
    assert_eq!(s.stored.iter().map(|m| m.protocol).collect::<Vec<_>>(), ["SMTP", "UTF8SMTP", "ESMTP"]);
    assert_eq!(s.stored[0].body, "", "an empty message is one");
}

#[test]
fn commands_out_of_order() {
    let mut s = Shell::new(Options::production("mx.test"));
    assert_eq!(s.say("MAIL FROM:<a@b>\r\n"), "503 5.5.1 Say EHLO first\r\n");
    s.say("EHLO x\r\n");
    assert_eq!(s.say("RCPT TO:<c@d>\r\n"), "503 5.5.1 Need MAIL first\r\n");
    assert_eq!(s.say("DATA\r\n"), "503 5.5.1 Need MAIL first\r\n");
    assert_eq!(s.codes("MAIL FROM:<a@b>\r\n"), "250");
    assert_eq!(s.say("MAIL FROM:<a@b>\r\n"), "503 5.5.1 Nested MAIL\r\n");
    assert_eq!(s.say("DATA\r\n"), "503 5.5.1 Need RCPT first\r\n");
    assert_eq!(s.say("RCPT TO:<no@d>\r\n"), "550 5.1.1 No such user here\r\n");
    assert_eq!(s.say("DATA\r\n"), "554 5.5.1 No valid recipients\r\n");
    assert_eq!(s.codes("RCPT TO:<c@d>\r\nRSET\r\n"), "250 250");
    assert_eq!(s.say("RCPT TO:<c@d>\r\n"), "503 5.5.1 Need MAIL first\r\n");
    assert_eq!(s.codes("MAIL FROM:<>\r\n"), "250", "the null sender");
    s.say("EHLO again\r\n");
    assert_eq!(s.say("DATA\r\n"), "503 5.5.1 Need MAIL first\r\n", "EHLO begins anew");
    assert!(s.stored.is_empty());
}

#[test]
fn small_commands() {
    let mut s = production();
    assert_eq!(s.say("NOOP\r\n"), "250 2.0.0 Ok\r\n");
    assert_eq!(s.say("VRFY root\r\n"), "252 2.5.2 Cannot verify, send mail to find out\r\n");
    assert!(s.say("HELP\r\n").starts_with("214 2.0.0 "));
    assert_eq!(s.say("EXPN list\r\n"), "502 5.5.1 Command not implemented\r\n");
    assert_eq!(s.say("STARTTLS\r\n"), "502 5.5.1 Not offered here\r\n");
    assert_eq!(s.say("AUTH PLAIN AGEAYg==\r\n"), "502 5.5.1 Not offered here\r\n");
    assert_eq!(s.say("LHLO x\r\n"), "500 5.5.1 This is SMTP, say EHLO\r\n");
    assert_eq!(s.say("RCPT TO:<\u{e9}@b>\r\n"), "503 5.5.1 Need MAIL first\r\n");
    s.say("MAIL FROM:<a@b>\r\n");
    assert_eq!(s.say("RCPT TO:<\u{e9}@b>\r\n"), "553 5.6.7 Non-ASCII address needs SMTPUTF8\r\n");
    assert_eq!(s.say("DATA\r\n"), "554 5.5.1 No valid recipients\r\n");
}

#[test]
fn refusals_by_policy() {
    let mut s = production();
    assert_eq!(s.say("MAIL FROM:<bad@b>\r\n"), "550 5.7.1 Not you\r\n");
    assert_eq!(s.codes("RCPT TO:<c@d>\r\n"), "503", "there is no transaction");
    assert_eq!(
        s.codes("MAIL FROM:<a@b>\r\nRCPT TO:<c@d>\r\nRCPT TO:<no@d>\r\nRCPT TO:<e@f>\r\n"),
        "250 250 550 250"
    );
    s.say("DATA\r\n");
    assert_eq!(s.say("full\r\n.\r\n"), "452 4.3.1 Not enough storage, try again later\r\n");
    assert_eq!(s.codes("DATA\r\n"), "503", "the transaction is over");
    s.say("MAIL FROM:<a@b>\r\nRCPT TO:<no@d>\r\nRCPT TO:<e@f>\r\nDATA\r\n");
    s.say("x\r\n.\r\n");
    assert_eq!(s.stored[0].recipients, ["e@f"]);
    assert_eq!(s.codes("MAIL FROM:<gone@b>\r\nNOOP\r\n"), "421");
    assert!(s.closed, "421 ends the session");
}

#[test]
fn chunks() {
    let mut s = production();
    let replies =
        s.say(&format!("{ENVELOPE}BDAT 5\r\nab\r\n.BDAT 4\r\n\r\nxyBDAT 0\r\nBDAT 3 LAST\r\nzzzNOOP\r\n"));
    assert_eq!(
        replies.replace("\r\n", "|"),
        "250 2.1.0 Sender ok|250 2.1.5 Recipient ok|250 2.0.0 5 octets received|250 2.0.0 4 octets received|\
         250 2.0.0 0 octets received|250 2.0.0 Ok: queued as ID1|250 2.0.0 Ok|"
    );
    assert_eq!(s.stored[0].body, "ab\r\n.\r\nxyzzz\r\n", "no dot counts; CRLF at the end");
    assert!(s.stored[0].facts.has_dot_lines);
    assert_eq!(s.codes(&format!("{ENVELOPE}BDAT 3\r\nabcBDAT 0 LAST\r\n")), "250 250 250 250");
    assert_eq!(s.stored[1].body, "abc\r\n");
    assert_eq!(
        s.codes(&format!("{ENVELOPE}BDAT 2\r\na\rBDAT 1\r\n\nBDAT 0 LAST\r\n")),
        "250 250 250 250 250"
    );
    assert_eq!(s.stored[2].body, "a\r\n", "CRLF across chunks");
    assert_eq!(s.codes(&format!("{ENVELOPE}BDAT 0 LAST\r\n")), "250 250 250");
    assert_eq!(s.stored[3].body, "");
}

#[test]
fn between_chunks() {
    let mut s = production();
    s.say(&format!("{ENVELOPE}BDAT 1\r\na"));
    assert_eq!(s.say("DATA\r\n"), "503 5.5.1 Not between BDAT chunks\r\n");
    assert_eq!(s.codes("RCPT TO:<e@f>\r\nMAIL FROM:<a@b>\r\nNOOP\r\n"), "503 503 250");
    assert_eq!(s.codes("BDAT 1 LAST\r\nb"), "250");
    assert_eq!((s.stored[0].body.as_str(), s.abandoned), ("ab\r\n", 0));
    s.say(&format!("{ENVELOPE}BDAT 1\r\na"));
    assert_eq!(s.codes("RSET\r\nBDAT 1 LAST\r\nb"), "250 503");
    assert_eq!((s.abandoned, s.body.len()), (1, 0), "the shell has dropped the chunk");
    s.say(&format!("{ENVELOPE}BDAT 1\r\na"));
    s.say("EHLO x\r\n");
    assert_eq!((s.abandoned, s.stored.len()), (2, 1));
}

#[test]
fn normalizing_newlines() {
    let mut options = Shell::loose(Options::production("mx.test"));
    options.message.bare_newline = crate::smtp::data::BareNewline::Normalize;
    let mut s = Shell::greeted(options);
    assert_eq!(s.codes(&format!("{ENVELOPE}DATA\r\na\nb\rc\n.\nd\r\n.\r\n")), "250 250 354 250");
    assert_eq!(s.stored[0].body, "a\r\nb c\r\n.\r\nd\r\n");
    assert_eq!(s.codes(&format!("{ENVELOPE}BDAT 4 LAST\r\na\nb\r")), "250 250 250");
    assert_eq!(s.stored[1].body, "a\r\nb \r\n");
}
