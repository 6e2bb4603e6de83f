//! Dialogues with the machine, through a shell that has a few messages.

use super::{Answer, Fetch, Luggage, Offer, Options, Question, Said, Session, Step, Tls};
use crate::base::security::{Bindings, Security, TlsVersion};
use crate::base::time::Mono;
use crate::pop3::body::Piece;
use crate::pop3::reply::Reply;
use crate::storage::ticket::Committed;
use proptest::prelude::*;
use std::rc::Rc;
use std::time::Duration;

const MAIL: [&str; 3] = [
    "Subject: one\r\n\r\nbody\r\n",
    "Subject: two\r\n\r\n.dot\r\n..\r\nend\r\n",
    "Subject: three\r\n\r\nno end",
];

fn security() -> Security {
    Security {
        version: TlsVersion::Tls13,
        cipher: "TLS13_AES_128_GCM_SHA256",
        resumed: false,
        server_name: None,
        client: None,
        bindings: Bindings::default(),
    }
}

/// A shell that never waits.
struct Shell {
    session: Session,
    now: Mono,
    /// Replies that wait to be sent.
    out: Vec<u8>,
    sent: Vec<u8>,
    mail: Vec<Vec<u8>>,
    deleted: Vec<u32>,
    /// Why deletions are not committed.
    commit: Option<Reply>,
    maildrop: Option<Reply>,
    message: Option<Reply>,
    uidls_until: u32,
    /// The session moves whenever it can.
    moves: bool,
    closed: bool,
    tls: u32,
    asked: Vec<String>,
}

fn shell_with(options: Options, offer: Offer, tls: Tls) -> Shell {
    let mut session = Session::new(Rc::new(options), Mono(0));
    session.offer(offer);
    session.set_tls(tls);
    Shell {
        session,
        now: Mono(0),
        out: Vec::new(),
        sent: Vec::new(),
        mail: MAIL.iter().map(|m| m.as_bytes().to_vec()).collect(),
        deleted: Vec::new(),
        commit: None,
        maildrop: None,
        message: None,
        uidls_until: u32::MAX,
        moves: false,
        closed: false,
        tls: 0,
        asked: Vec::new(),
    }
}

fn offer() -> Offer {
    Offer {
        passwords: true,
        mechanisms: "PLAIN LOGIN".into(),
        under_tls: "EXTERNAL".into(),
        ..Offer::default()
    }
}

fn shell() -> Shell {
    shell_with(Options::production(), offer(), Tls::Off)
}

impl Shell {
    fn answer(&mut self, question: Question) {
        let (now, out) = (self.now, &mut self.out);
        match question {
            Question::Login => {
                let answer = match self.session.said() {
                    Said::Password { login: b"u", password } if password.expose() == b"p w" => Answer::Accept,
                    Said::Apop { login: b"u", digest } if digest[0] == 0xc4 => Answer::Accept,
                    Said::Begin { mechanism, initial: None } if mechanism.eq_ignore_ascii_case("PLAIN") => {
                        Answer::Challenge(b"")
                    }
                    Said::Begin { mechanism: _, initial: None } => Answer::Challenge(b"Username:"),
                    Said::Begin { initial: Some(said), .. } | Said::Response(said)
                        if said.expose() == b"\0u\0p w" =>
                    {
                        Answer::Accept
                    }
                    _ => Answer::Refuse(Reply::AUTH_FAILED),
                };
                self.session.answer(now, answer, out);
            }
            Question::Tls => self.session.answer(now, Answer::Accept, out),
            Question::Maildrop => match self.maildrop {
                Some(reply) => self.session.answer(now, Answer::Refuse(reply), out),
                None => {
                    let sizes = self.mail.iter().map(|m| m.len() as u64).collect();
                    self.session.opened(now, sizes, out);
                }
            },
            Question::Uidls { first, .. } if first > self.uidls_until => {
                self.session.answer(now, Answer::Refuse(Reply::TEMPORARY), out);
            }
            Question::Uidls { first, count } => {
                let uidls: Vec<String> = (first..first + count).map(|n| format!("uid{n}")).collect();
                self.session.uidls(now, &uidls, out);
            }
            Question::Message(_) => match self.message {
                Some(reply) => self.session.answer(now, Answer::Refuse(reply), out),
                None => self.session.found(now, true, out),
            },
            Question::Commit => match self.commit {
                Some(reply) => self.session.answer(now, Answer::Refuse(reply), out),
                None => {
                    self.deleted = self.session.deletions().collect();
                    self.session.deleted(now, Committed::forged(), out);
                }
            },
        }
    }

    fn banner(&mut self) -> String {
        assert_eq!(self.session.banner(self.now, &mut self.out), Step::NeedInput);
        String::from_utf8(std::mem::take(&mut self.out)).unwrap()
    }

    fn send(&mut self, fetch: Fetch) {
        let message = self.mail[fetch.number as usize - 1].clone();
        let mut rest = &message[..];
        while !rest.is_empty() {
            let (used, piece) = self.session.body().next(rest);
            match piece {
                Piece::Run(run) => self.out.extend_from_slice(&rest[run]),
                Piece::Dot => self.out.push(b'.'),
                Piece::Nothing => {}
            }
            rest = &rest[used..];
        }
        self.session.sent(self.now, &mut self.out);
    }

    fn relocate(&mut self) {
        let options = Rc::clone(&self.session.options);
        let fresh = Session::new(Rc::clone(&options), self.now);
        let luggage: Luggage = std::mem::replace(&mut self.session, fresh).depart();
        let moved = std::thread::scope(|s| s.spawn(move || luggage).join()).expect("it can be sent");
        self.session = Session::arrive(options, moved, self.now);
    }

    /// Shows input; gives what is not consumed.
    fn show(&mut self, input: &[u8]) -> usize {
        let mut at = 0;
        loop {
            let before = self.out.len();
            let (used, step) = self.session.receive(self.now, &input[at..], &mut self.out);
            assert!(self.out.len() - before < 20_000, "replies of one call are bounded");
            at += used;
            if !matches!(step, Step::Ask(_)) {
                self.sent.append(&mut self.out);
            }
            match step {
                Step::NeedInput => return at,
                Step::Ask(question) => {
                    self.asked.push(format!("{question:?}"));
                    if question == Question::Maildrop && self.moves {
                        self.relocate();
                    }
                    self.answer(question);
                }
                Step::Send(fetch) => self.send(fetch),
                Step::Yield => {}
                Step::StartTls => {
                    assert_eq!(at, input.len(), "what came in clear text is gone");
                    self.tls += 1;
                    self.session.secured(self.now, Rc::new(security()));
                    self.session.offer(offer());
                }
                Step::Close => {
                    self.closed = true;
                    return input.len();
                }
            }
        }
    }

    /// Says lines (or parts of them) and gives what is answered.
    fn say(&mut self, text: &str) -> String {
        self.segments(text.as_bytes(), usize::MAX)
    }

    fn segments(&mut self, wire: &[u8], segment: usize) -> String {
        self.sent.clear();
        let mut waiting = Vec::new();
        if wire.is_empty() {
            self.show(b"");
        }
        for bytes in wire.chunks(segment.min(wire.len()).max(1)) {
            if self.closed {
                break;
            }
            waiting.extend_from_slice(bytes);
            let used = self.show(&waiting);
            waiting.drain(..used);
        }
        String::from_utf8_lossy(&self.sent).into_owned()
    }

    fn login(&mut self) {
        self.banner();
        assert!(self.say("USER u\r\nPASS p w\r\n").ends_with("+OK 3 messages (77 octets)\r\n"));
    }
}

#[test]
fn a_session() {
    let mut s = shell();
    assert_eq!(s.banner(), "+OK ringpost POP3 ready\r\n");
    assert_eq!(s.say("USER u\r\n"), "+OK Send your password\r\n");
    assert_eq!(s.say("PASS p w\r\n"), "+OK 3 messages (77 octets)\r\n");
    assert_eq!(s.say("STAT\r\n"), "+OK 3 77\r\n");
    assert_eq!(s.say("LIST\r\n"), "+OK 3 messages (77 octets)\r\n1 22\r\n2 31\r\n3 24\r\n.\r\n");
    assert_eq!(s.say("LIST 2\r\n"), "+OK 2 31\r\n");
    assert_eq!(s.say("UIDL\r\n"), "+OK\r\n1 uid1\r\n2 uid2\r\n3 uid3\r\n.\r\n");
    assert_eq!(s.say("UIDL 3\r\n"), "+OK 3 uid3\r\n");
    assert_eq!(s.say("RETR 1\r\n"), format!("+OK 22 octets\r\n{}.\r\n", MAIL[0]));
    assert_eq!(s.say("RETR 2\r\n"), "+OK 31 octets\r\nSubject: two\r\n\r\n..dot\r\n...\r\nend\r\n.\r\n");
    assert_eq!(s.say("RETR 3\r\n"), "+OK 24 octets\r\nSubject: three\r\n\r\nno end\r\n.\r\n");
    assert_eq!(s.say("TOP 2 1\r\n"), "+OK Top of message follows\r\nSubject: two\r\n\r\n..dot\r\n.\r\n");
    assert_eq!(s.say("DELE 2\r\n"), "+OK Marked to be deleted\r\n");
    for line in ["DELE 2", "RETR 2", "TOP 2 0", "LIST 2", "UIDL 2", "DELE 4"] {
        assert_eq!(s.say(&format!("{line}\r\n")), Reply::NO_MESSAGE.line(), "{line}");
    }
    assert_eq!(s.say("STAT\r\n"), "+OK 2 46\r\n");
    assert_eq!(s.say("LIST\r\n"), "+OK 2 messages (46 octets)\r\n1 22\r\n3 24\r\n.\r\n");
    assert_eq!(s.say("UIDL\r\n"), "+OK\r\n1 uid1\r\n3 uid3\r\n.\r\n");
    assert_eq!(s.say("RSET\r\nSTAT\r\n"), "+OK\r\n+OK 3 77\r\n");
    assert_eq!(s.say("NOOP\r\nDELE 1\r\nDELE 3\r\n").lines().count(), 3);
    assert_eq!(s.say("QUIT\r\nSTAT\r\n"), Reply::BYE_DELETED.line());
    assert!(s.closed && s.deleted == [1, 3]);
}

#[test]
fn quit_deletes_only_what_is_committed() {
    let mut s = shell();
    s.login();
    s.commit = Some(Reply::NOT_DELETED);
    assert_eq!(
        s.say("DELE 1\r\nQUIT\r\n"),
        format!("+OK Marked to be deleted\r\n{}", Reply::NOT_DELETED.line())
    );
    assert!(s.closed && s.deleted.is_empty());
    // Without marks nothing is asked.
    let mut s = shell();
    s.login();
    assert_eq!(s.say("DELE 1\r\nRSET\r\nQUIT\r\n").lines().last(), Some("+OK Bye"));
    assert!(s.closed && !s.asked.iter().any(|q| q.contains("Commit")));
    // RFC 1939 §3: a session that times out deletes nothing and says nothing.
    let mut s = shell();
    s.login();
    s.say("DELE 1\r\n");
    s.out.clear();
    assert_eq!(s.session.expire(Mono(0).after(Duration::from_secs(599))), Step::NeedInput);
    assert_eq!(s.session.expire(Mono(0).after(Duration::from_secs(600))), Step::Close);
    assert!(s.out.is_empty() && s.deleted.is_empty());
}

#[test]
fn logins() {
    let mut s = shell();
    s.banner();
    for (line, reply) in [
        ("STAT", Reply::WRONG_STATE),
        ("PASS p w", Reply::NEED_USER),
        ("AUTH NONE", Reply::UNKNOWN_MECHANISM),
        ("AUTH EXTERNAL", Reply::NEEDS_TLS),
        ("AUTH PLAIN !", Reply::NOT_BASE64),
        ("APOP u c4c9334bac560ecc979e58001b3e22fb", Reply::NOT_OFFERED),
        ("STLS", Reply::NOT_OFFERED),
    ] {
        assert_eq!(s.say(&format!("{line}\r\n")), reply.line(), "{line}");
    }
    assert_eq!(s.say("AUTH\r\n"), "+OK Mechanisms follow\r\nPLAIN\r\nLOGIN\r\n.\r\n");
    assert_eq!(s.say("AUTH PLAIN\r\n"), "+ \r\n");
    assert_eq!(s.say("*\r\n"), Reply::AUTH_CANCELLED.line());
    assert_eq!(s.say("AUTH PLAIN\r\n???\r\n"), format!("+ \r\n{}", Reply::NOT_BASE64.line()));
    assert_eq!(s.say("AUTH LOGIN\r\n"), "+ VXNlcm5hbWU6\r\n");
    assert_eq!(s.say("eA==\r\n"), Reply::AUTH_FAILED.line());
    assert_eq!(s.say("USER u\r\nPASS x\r\nPASS p w\r\n").lines().nth(2), Some("-ERR Say USER first"));
    assert_eq!(s.say("AUTH PLAIN AHUAcCB3\r\n"), "+OK 3 messages (77 octets)\r\n");
    for line in ["USER u", "PASS p w", "AUTH PLAIN", "STLS", "UTF8"] {
        assert_eq!(s.say(&format!("{line}\r\n")), Reply::WRONG_STATE.line(), "{line}");
    }
}

#[test]
fn who_guesses_must_connect_again() {
    let mut s = shell();
    s.banner();
    let replies = s.say("USER u\r\nPASS 1\r\nUSER u\r\nPASS 2\r\nUSER u\r\nPASS 3\r\nUSER u\r\nPASS p w\r\n");
    assert_eq!(replies.lines().filter(|l| l.contains("[AUTH]")).count(), 3);
    assert!(s.closed && replies.lines().count() == 6);
}

#[test]
fn apop_is_offered_with_a_timestamp() {
    let timestamp = "<1896.697170952@dbc.mtview.ca.us>";
    let offer = Offer { timestamp: timestamp.into(), ..offer() };
    let mut s = shell_with(Options::production(), offer, Tls::Off);
    assert_eq!(s.banner(), format!("+OK ringpost POP3 ready {timestamp}\r\n"));
    let replies =
        s.say("APOP u 00c9334bac560ecc979e58001b3e22fb\r\nAPOP u c4c9334bac560ecc979e58001b3e22fb\r\n");
    assert_eq!(replies, format!("{}+OK 3 messages (77 octets)\r\n", Reply::AUTH_FAILED.line()));
}

#[test]
fn the_maildrop_can_be_taken() {
    let mut s = shell();
    s.banner();
    s.maildrop = Some(Reply::IN_USE);
    assert_eq!(s.say("USER u\r\nPASS p w\r\n").lines().nth(1), Some(Reply::IN_USE.line().trim_end()));
    s.maildrop = None;
    s.login_again();
}

impl Shell {
    fn login_again(&mut self) {
        assert!(self.say("USER u\r\nPASS p w\r\n").ends_with("octets)\r\n"));
    }
}

#[test]
fn what_was_said_in_clear_text_is_forgotten() {
    let clear =
        Offer { passwords: false, mechanisms: "".into(), under_tls: "PLAIN".into(), ..Offer::default() };
    let mut s = shell_with(Options::production(), clear, Tls::Offered);
    s.banner();
    assert_eq!(s.say("USER u\r\n"), Reply::NEEDS_TLS.line());
    let capa = s.say("CAPA\r\n");
    assert!(
        capa.contains("\r\nSTLS\r\n") && !capa.contains("USER\r\n\r") && !capa.contains("SASL"),
        "{capa}"
    );
    assert!(!capa.contains("\r\nUSER\r\n"));
    // Injected behind STLS: dropped.
    assert_eq!(s.say("UTF8\r\nSTLS\r\nUSER u\r\nPASS p w\r\n").matches("+OK").count(), 2);
    assert_eq!((s.tls, s.session.is_utf8()), (1, false));
    assert_eq!(s.say("STLS\r\n"), Reply::TLS_IS_ON.line());
    let capa = s.say("CAPA\r\n");
    assert!(
        !capa.contains("STLS") && capa.contains("\r\nUSER\r\n") && capa.contains("\r\nSASL PLAIN LOGIN\r\n")
    );
    s.login_again();
    let capa = s.say("CAPA\r\n");
    assert!(!capa.contains("UTF8") && capa.contains("\r\nUIDL\r\n") && capa.ends_with("\r\n.\r\n"));
}

#[test]
fn tls_from_the_first_byte() {
    let mut s = shell_with(Options::production(), Offer::default(), Tls::Implicit);
    assert_eq!(s.session.begin_tls(s.now), Step::StartTls);
    s.session.secured(s.now, Rc::new(security()));
    s.session.offer(offer());
    assert_eq!(s.say("STLS\r\n"), format!("+OK ringpost POP3 ready\r\n{}", Reply::TLS_IS_ON.line()));
}

#[test]
fn capabilities() {
    let options = Options { expire: Some(30), login_delay: 5, ..Options::production() };
    let mut s = shell_with(options, offer(), Tls::Off);
    let capa = s.say("CAPA\r\n");
    let expected = "+OK ringpost POP3 ready\r\n+OK Capability list follows\r\nTOP\r\nUIDL\r\nRESP-CODES\r\n\
        AUTH-RESP-CODE\r\nPIPELINING\r\nUSER\r\nSASL PLAIN LOGIN\r\nUTF8 USER\r\nLANG\r\nEXPIRE 30\r\n\
        LOGIN-DELAY 5\r\nIMPLEMENTATION ringpost\r\n.\r\n";
    assert_eq!(capa, expected);
    assert_eq!(s.say("LANG\r\n"), "+OK Language listing follows\r\nen English\r\n.\r\n");
    assert_eq!(s.say("LANG EN\r\nLANG *\r\n"), "+OK en English\r\n+OK en English\r\n");
    assert_eq!(s.say("LANG x-klingon\r\n"), Reply::UNKNOWN_LANGUAGE.line());
    assert_eq!(s.say("UTF8\r\n"), Reply::UTF8_ON.line());
    assert!(s.session.is_utf8());
}

#[test]
fn messages_that_cannot_be_sent() {
    let mut s = shell();
    s.login();
    s.message = Some(Reply::GONE);
    assert_eq!(s.say("RETR 1\r\nTOP 1 0\r\n"), Reply::GONE.line().repeat(2));
    // UIDLs that fail at the start, and in the middle of the list, where no reply can stand.
    let mut s = shell_with(Options::tiny(), offer(), Tls::Off);
    s.login();
    s.uidls_until = 0;
    assert_eq!(s.say("UIDL\r\n"), Reply::TEMPORARY.line());
    s.uidls_until = 2;
    assert_eq!(s.say("UIDL\r\n"), "+OK\r\n1 uid1\r\n2 uid2\r\n");
    assert!(s.closed);
}

#[test]
fn all_is_bounded() {
    let mut s = shell_with(Options::tiny(), offer(), Tls::Off);
    s.login();
    assert_eq!(s.say("LAST\r\nRETR 2\r\nLAST\r\n").lines().last(), Some("+OK 2"));
    let long = "x".repeat(1000);
    assert_eq!(s.say(&format!("{long}\r\nNOOP\r\n")), format!("{}+OK\r\n", Reply::LINE_TOO_LONG.line()));
    assert_eq!(s.say("X\r\nX\r\nX\r\n").lines().count(), 4);
    assert!(s.closed);

    let mut s = shell_with(Options::tiny(), offer(), Tls::Off);
    assert!(s.say(&"CAPA\r\n".repeat(100)).ends_with(Reply::TOO_MANY_COMMANDS.line()) && s.closed);
    let mut s = shell();
    assert!(s.say("GET / HTTP/1.1\r\nUSER u\r\n").ends_with(Reply::NOT_HTTP.line()) && s.closed);

    // Many messages: as many lines as fit, then others have their turn.
    let mut s = shell_with(Options::tiny(), offer(), Tls::Off);
    s.mail = vec![Vec::new(); 1000];
    s.say("USER u\r\nPASS p w\r\n");
    let mut out = Vec::new();
    assert_eq!(s.session.receive(s.now, b"LIST\r\n", &mut out).1, Step::Yield);
    assert!(out.len() < 400);
    assert_eq!(s.say("").lines().last(), Some("."));
    assert_eq!(s.say("UIDL\r\n").lines().count(), 1002);
}

#[test]
fn stopping() {
    let mut s = shell();
    s.login();
    s.out.clear();
    assert_eq!(s.session.shutdown(&mut s.out), Step::Close);
    assert_eq!(s.out, Reply::SHUTTING_DOWN.line().as_bytes());
    // In the middle of a question: after it.
    let mut s = shell();
    s.login();
    let (_, step) = s.session.receive(s.now, b"RETR 1\r\nSTAT\r\n", &mut s.out);
    assert!(matches!(step, Step::Ask(_)));
    assert_eq!(s.session.shutdown(&mut s.out), Step::NeedInput);
    let end = format!("body\r\n.\r\n{}", Reply::SHUTTING_DOWN.line());
    assert!(s.say("STAT\r\n").ends_with(&end) && s.closed);
}

#[test]
fn deadlines() {
    let o = Options::production();
    let mut s = shell();
    s.banner();
    assert_eq!(s.session.deadline(), Mono(0).after(o.login_time));
    s.now = Mono(5_000_000_000);
    s.say("NOOP\r");
    assert_eq!(s.session.deadline(), Mono(0).after(o.login_time), "a part of a line is no command");
    s.say("\n");
    s.say("USER u\r\nPASS p w\r\n");
    assert_eq!(s.session.deadline(), s.now.after(o.idle_time));
    s.session.excuse(Duration::from_secs(1));
    assert_eq!(s.session.deadline(), s.now.after(o.idle_time + Duration::from_secs(1)));
    let (_, step) = s.session.receive(s.now, b"RETR 1\r\n", &mut s.out);
    assert_eq!(
        (step, s.session.deadline()),
        (Step::Ask(Question::Message(Fetch { number: 1, lines: None })), Mono(u64::MAX))
    );
    s.session.found(s.now, false, &mut s.out);
    s.now = Mono(9_000_000_000);
    s.session.progress(s.now);
    assert_eq!(s.session.deadline(), s.now.after(o.send_time));
}

/// What clients say, in any order.
fn line() -> impl Strategy<Value = String> {
    let fixed = vec![
        "USER u",
        "PASS p w",
        "PASS x",
        "AUTH PLAIN AHUAcCB3",
        "AUTH PLAIN",
        "AHUAcCB3",
        "*",
        "CAPA",
        "STAT",
        "LIST",
        "LIST 2",
        "UIDL",
        "UIDL 1",
        "RETR 1",
        "RETR 2",
        "TOP 3 1",
        "DELE 1",
        "DELE 2",
        "RSET",
        "NOOP",
        "LAST",
        "UTF8",
        "LANG",
        "LANG en",
        "QUIT",
        "STLS",
        "",
    ];
    prop_oneof![20 => proptest::sample::select(fixed).prop_map(str::to_string), 1 => "[ -~]{0,120}"]
}

proptest! {
    /// Byte by byte, in one segment, and with a move at the login: the same.
    #[test]
    fn segments_make_no_difference(
        lines in proptest::collection::vec(line(), 0..30), login: bool, segment in 1usize..50, bare: bool,
    ) {
        let end = if bare { "\n" } else { "\r\n" };
        let start = if login { ["USER u", end, "PASS p w", end].concat() } else { String::new() };
        let wire = start + &lines.iter().map(|line| format!("{line}{end}")).collect::<String>();
        let run = |segment: usize, moves: bool| {
            let mut s = shell_with(Options::tiny(), offer(), Tls::Off);
            s.moves = moves;
            let replies = s.segments(wire.as_bytes(), segment);
            (replies, s.closed, s.deleted)
        };
        let whole = run(usize::MAX, false);
        prop_assert_eq!(&whole, &run(1, false));
        prop_assert_eq!(&whole, &run(segment, true));
        prop_assert_eq!(&whole, &run(usize::MAX, true));
    }
}
