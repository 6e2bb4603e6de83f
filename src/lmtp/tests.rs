//! Dialogues of LMTP: what is not as in SMTP.

use super::{Answer, Options, Outcome, Question, Session, Step, options};
use crate::base::time::Mono;
use crate::smtp::reply::{Refusal, Reply};
use crate::storage::ticket::Committed;
use proptest::prelude::*;
use std::rc::Rc;

/// A shell that never waits. Recipients that begin with `no` do not exist; `full` are over quota
/// when the message comes; a message that contains `down` ends the session.
struct Shell {
    session: Session,
    replies: String,
    body: Vec<u8>,
    stored: Vec<(Vec<String>, String, &'static str)>,
    closed: bool,
}

const NOW: Mono = Mono(1);

impl Shell {
    fn new(options: Options) -> Self {
        let mut session = Session::lmtp(Rc::new(options), NOW);
        let mut banner = Vec::new();
        assert_eq!(session.banner(NOW, false, &mut banner), Step::NeedInput);
        let replies = String::from_utf8(banner).unwrap();
        Shell { session, replies, body: Vec::new(), stored: Vec::new(), closed: false }
    }

    fn ready() -> Self {
        let mut shell = Shell::new(options("mx.test"));
        shell.say("LHLO relay.test\r\n");
        shell
    }

    fn end_of_message(&mut self, out: &mut Vec<u8>) {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let body = text(&std::mem::take(&mut self.body));
        let recipients: Vec<String> =
            self.session.envelope().view().recipients().map(|r| text(r.address)).collect();
        let full = Refusal::Own { code: 452, enhanced: (2, 2), text: b"Mailbox is full" };
        let outcomes: Vec<Outcome<'_>> = recipients
            .iter()
            .map(|recipient| match () {
                () if body.contains("down") => Outcome::Refused(Reply::SHUTTING_DOWN.into()),
                () if recipient.starts_with("full") => Outcome::Refused(full),
                () => Outcome::Delivered(Committed::forged()),
            })
            .collect();
        let protocol = self.session.protocol().text();
        self.session.settled(NOW, outcomes, out);
        self.stored.push((recipients, body, protocol));
    }

    fn say(&mut self, text: &str) -> String {
        self.segments(text.as_bytes(), usize::MAX)
    }

    fn segments(&mut self, wire: &[u8], segment: usize) -> String {
        let (mut waiting, mut out) = (Vec::new(), Vec::new());
        for bytes in wire.chunks(segment.min(wire.len()).max(1)) {
            waiting.extend_from_slice(bytes);
            while !self.closed {
                let (used, step) = self.session.receive(NOW, &waiting, &mut out);
                match &step {
                    Step::Ask(Question::Recipient)
                        if self.session.envelope().last().unwrap().address.starts_with(b"no") =>
                    {
                        self.session.answer(NOW, Answer::Refuse(Reply::NO_SUCH_USER.into()), &mut out);
                    }
                    Step::Ask(_) => self.session.answer(NOW, Answer::Accept, &mut out),
                    Step::Body(run) => self.body.extend_from_slice(&waiting[run.clone()]),
                    Step::BodyStatic(bytes) => self.body.extend_from_slice(bytes),
                    Step::EndOfMessage => self.end_of_message(&mut out),
                    Step::Abandoned => self.body.clear(),
                    Step::Close => self.closed = true,
                    Step::NeedInput | Step::Yield => {
                        self.replies += &String::from_utf8_lossy(&std::mem::take(&mut out))
                    }
                    Step::Pause(_) | Step::StartTls => panic!("{step:?}"),
                }
                waiting.drain(..used);
                if step == Step::NeedInput {
                    break;
                }
            }
        }
        self.replies += &String::from_utf8_lossy(&out);
        std::mem::take(&mut self.replies)
    }
}

#[test]
fn greeting() {
    let mut s = Shell::new(options("mx.test"));
    assert_eq!(s.say(""), "220 mx.test LMTP ringpost\r\n");
    assert_eq!(s.say("EHLO a\r\n"), Reply::NOT_SMTP.line());
    assert_eq!(s.say("HELO a\r\n"), Reply::NOT_SMTP.line());
    assert_eq!(s.say("MAIL FROM:<a@b>\r\n"), Reply::NEED_HELO.line());
    assert_eq!(s.say("LHLO\r\n"), Reply::HELO_ARGUMENT.line());
    let offers = s.say("LHLO relay.test\r\n");
    let expected = "250-mx.test\r\n250-PIPELINING\r\n250-SIZE 52428800\r\n250-8BITMIME\r\n\
        250-ENHANCEDSTATUSCODES\r\n250-CHUNKING\r\n250 SMTPUTF8\r\n";
    assert_eq!(offers, expected);
    assert_eq!(s.say("MAIL FROM:<a@b> RET=HDRS\r\n"), Reply::UNKNOWN_PARAMETER.line());
    assert_eq!(s.say("MAIL FROM:<a@b>\r\nRCPT TO:<c@d> NOTIFY=SUCCESS\r\n").lines().count(), 2);
    assert_eq!(s.say("QUIT\r\n"), Reply::BYE.line());
}

/// RFC 2033 §4.2: one reply for each recipient that was taken, in their order.
#[test]
fn a_reply_for_each_recipient() {
    let mut s = Shell::ready();
    let taken =
        s.say("MAIL FROM:<a@b>\r\nRCPT TO:<c@d>\r\nRCPT TO:<no@d>\r\nRCPT TO:<full@d>\r\nRCPT TO:<c@d>\r\n");
    assert_eq!(taken.lines().map(|l| &l[..3]).collect::<Vec<_>>(), ["250", "250", "550", "250", "250"]);
    assert_eq!(s.say("DATA\r\n"), Reply::SEND_DATA.line());
    let delivered = Reply::DELIVERED.line();
    assert_eq!(s.say("x\r\n.\r\n"), format!("{delivered}452 4.2.2 Mailbox is full\r\n{delivered}"));
    let recipients = ["c@d", "full@d", "c@d"].map(String::from).to_vec();
    assert_eq!(s.stored, [(recipients, "x\r\n".to_string(), "LMTP")]);
    // The next transaction.
    assert_eq!(s.say("MAIL FROM:<> SMTPUTF8\r\nRCPT TO:<\u{e9}@d>\r\nDATA\r\n").lines().count(), 3);
    assert_eq!(s.say(".\r\n"), delivered);
    assert_eq!(s.stored[1].2, "UTF8LMTP");
}

#[test]
fn no_recipient_no_message() {
    let mut s = Shell::ready();
    let replies = s.say("MAIL FROM:<a@b>\r\nRCPT TO:<no@d>\r\nDATA\r\n");
    assert_eq!(replies.lines().last(), Some(Reply::NEED_RCPT.line().trim_end()));
    assert_eq!(s.say("BDAT 1 LAST\r\nx"), Reply::NEED_RCPT.line());
}

#[test]
fn chunks() {
    let mut s = Shell::ready();
    s.say("MAIL FROM:<a@b>\r\nRCPT TO:<c@d>\r\nRCPT TO:<full@d>\r\n");
    assert_eq!(s.say("BDAT 2\r\nab"), "250 2.0.0 2 octets received\r\n");
    let replies = s.say("BDAT 1 LAST\r\nc");
    assert_eq!(replies, format!("{}452 4.2.2 Mailbox is full\r\n", Reply::DELIVERED.line()));
    assert_eq!(s.stored[0].1, "abc\r\n");
}

/// A message that is refused while it arrives is refused for each recipient at its end.
#[test]
fn refused_for_all() {
    let mut s = Shell::ready();
    let begin = "MAIL FROM:<a@b>\r\nRCPT TO:<c@d>\r\nRCPT TO:<e@d>\r\n";
    s.say(&format!("{begin}DATA\r\n"));
    assert_eq!(s.say("a\nb\r\n.\r\n"), Reply::BARE_NEWLINE.line().repeat(2));
    s.say(begin);
    assert_eq!(s.say("BDAT 3 LAST\r\na\nb"), Reply::BARE_NEWLINE.line().repeat(2));
    s.say(begin);
    // Not the last chunk: one reply, and the transaction is over.
    assert_eq!(s.say("BDAT 4\r\na\nbc"), Reply::BARE_NEWLINE.line());
    assert_eq!(s.say("BDAT 1 LAST\r\nx"), Reply::NEED_MAIL.line());
    assert!(s.stored.is_empty());
}

#[test]
fn the_end_comes_after_all_replies() {
    let mut s = Shell::ready();
    s.say("MAIL FROM:<a@b>\r\nRCPT TO:<c@d>\r\nRCPT TO:<e@d>\r\nDATA\r\n");
    assert_eq!(s.say("down\r\n.\r\nNOOP\r\n"), Reply::SHUTTING_DOWN.line().repeat(2));
    assert!(s.closed);
}

/// What relays say, in any order.
fn line() -> impl Strategy<Value = &'static str> {
    proptest::sample::select(vec![
        "LHLO r\r\n",
        "EHLO r\r\n",
        "MAIL FROM:<a@b>\r\n",
        "RCPT TO:<c@d>\r\n",
        "RCPT TO:<full@d>\r\n",
        "RCPT TO:<no@d>\r\n",
        "DATA\r\n",
        "text\r\n",
        ".\r\n",
        "..\r\n",
        "bare\nlf\r\n",
        "BDAT 3\r\nabc",
        "BDAT 4 LAST\r\nab\r\n",
        "BDAT 3\r\n\n\n\n",
        "RSET\r\n",
        "NOOP\r\n",
        "down\r\n",
        "X\r\n",
    ])
}

proptest! {
    #[test]
    fn segments_make_no_difference(lines in proptest::collection::vec(line(), 0..30), segment in 1usize..50) {
        let wire = ["LHLO r\r\n", &lines.concat()].concat();
        let run = |segment: usize| {
            let mut s = Shell::new(Options { refuse_bad_pipelining: false, ..options("mx.test") });
            (s.segments(wire.as_bytes(), segment), s.stored, s.closed)
        };
        let whole = run(usize::MAX);
        prop_assert_eq!(&whole, &run(1));
        prop_assert_eq!(&whole, &run(segment));
    }
}
