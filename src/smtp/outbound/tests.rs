//! Dialogues as text: `S: ` what the server says, `C: ` what the client must have said by then.
//! Each is played with the server's bytes whole, byte by byte, and split at every place.

mod chunks;
mod lmtp;
mod secure;

use super::stuffing::Stuffer;
use super::*;
use crate::message::body::BodyFlags;
use crate::message::envelope::{BodyKind, Envelope, Notify, SenderOptions};
use crate::smtp::reply_in::ReplyError;
use proptest::prelude::*;
use std::collections::BTreeMap;

const T0: Mono = Mono(1_000);

#[derive(Clone)]
struct Mail {
    envelope: Envelope,
    recipients: Vec<u32>,
    flags: BodyFlags,
    size: u64,
}

fn mail(recipients: &[&str]) -> Mail {
    mail_with("s@from.example", SenderOptions::default(), recipients, 0)
}

fn mail_with(sender: &str, options: SenderOptions, recipients: &[&str], flags: u8) -> Mail {
    let mut envelope = Envelope::default();
    envelope.begin(sender.as_bytes(), options, b"");
    recipients.iter().for_each(|r| envelope.push(r.as_bytes(), Notify::DEFAULT, b""));
    let all = (0..recipients.len() as u32).collect();
    Mail { envelope, recipients: all, flags: BodyFlags(flags), size: 6 }
}

/// A shell that has `mails` to send, and writes down what happens.
struct Shell {
    client: Client,
    mails: Vec<Mail>,
    begun: usize,
    flight: Vec<usize>,
    out: Vec<u8>,
    results: Vec<String>,
    end: Option<Close>,
    /// Mails that something must be done for before they leave.
    held: Vec<usize>,
}

/// What a [`Mail`] holds, as it goes in a chunk.
const CONTENT: &[u8] = b"Hi!!\r\n";

impl Shell {
    fn new(options: &Options, mails: &[Mail]) -> Self {
        Shell {
            client: Client::new(options.clone(), T0),
            mails: mails.to_vec(),
            begun: 0,
            flight: Vec::new(),
            out: Vec::new(),
            results: Vec::new(),
            end: None,
            held: Vec::new(),
        }
    }

    fn feed(&mut self, mut input: &[u8]) {
        while self.end.is_none() {
            let (n, step) = self.client.receive(T0, input, &mut self.out);
            input = &input[n..];
            match step {
                Step::NeedInput => return assert!(input.is_empty() && self.client.deadline().is_some()),
                Step::Ready => {
                    assert!(input.is_empty());
                    if !self.client.has_room() || !self.begin() {
                        self.client.quit(T0, &mut self.out);
                    }
                    self.follow();
                }
                Step::SendBody => {
                    assert!(input.is_empty());
                    match self.client.open_body(&mut self.out) {
                        Framing::Dots => self.out.extend_from_slice(b"Hi!\r\n.\r\n"),
                        Framing::Counted => self.out.extend_from_slice(CONTENT),
                    }
                    self.client.end_body(T0);
                    self.follow();
                }
                Step::Settled => self.settle(),
                Step::StartTls => panic!("not asked for"),
                Step::Close(close) => self.end = Some(close),
            }
        }
    }

    fn follow(&mut self) {
        while self.client.can_follow() && self.begin() {}
    }

    /// Begins the next mail that can be begun.
    fn begin(&mut self) -> bool {
        while let Some(m) = self.mails.get(self.begun).cloned() {
            self.begun += 1;
            let request = Request {
                envelope: m.envelope.view(),
                recipients: &m.recipients,
                flags: m.flags,
                size: m.size,
                at_once: !self.held.contains(&(self.begun - 1)),
            };
            match self.client.begin(T0, &request, &mut self.out) {
                Begun::Sent => {
                    self.flight.push(self.begun - 1);
                    return true;
                }
                Begun::Whole => {
                    assert!(!self.held.contains(&(self.begun - 1)));
                    self.out.extend_from_slice(CONTENT);
                    self.flight.push(self.begun - 1);
                    return true;
                }
                Begun::Refused => self.write_down(self.begun - 1),
            }
        }
        false
    }

    fn settle(&mut self) {
        let n = self.flight.remove(0);
        self.write_down(n);
    }

    fn write_down(&mut self, n: usize) {
        let results = self.client.results();
        let want: Vec<u32> = self.mails[n].recipients.clone();
        assert_eq!(results.iter().map(|r| r.index).collect::<Vec<_>>(), want, "one result for each");
        for r in results {
            let e = r.enhanced.map(|[a, b, c]| format!(" {a}.{b}.{c}")).unwrap_or_default();
            let (text, index) = (String::from_utf8_lossy(r.text), r.index);
            let line = format!("{n}.{index} {:?} {}{e} {text} ({})", r.outcome, r.code, r.phase);
            self.results.push(line);
        }
    }

    fn lose(&mut self, why: Loss) {
        while let Some(ending) = self.client.lost(why) {
            match ending {
                Ending::Settled => self.settle(),
                Ending::GiveBack => {
                    let n = self.flight.remove(0);
                    self.results.push(format!("{n} given back"));
                }
            }
        }
        assert!(self.flight.is_empty());
    }
}

/// Plays a dialogue and gives the results; `LOST` as last line: the connection breaks.
fn play(options: &Options, mails: &[Mail], script: &str) -> Vec<String> {
    let longest = script.len();
    let whole = play_split(options, mails, script, &|text| vec![text.to_vec()]);
    let bytes = play_split(options, mails, script, &|text| text.chunks(1).map(<[u8]>::to_vec).collect());
    assert_eq!(bytes, whole, "byte by byte");
    for k in 1..longest {
        let two = |text: &[u8]| {
            let (a, b) = text.split_at(k.min(text.len()));
            vec![a.to_vec(), b.to_vec()]
        };
        assert_eq!(play_split(options, mails, script, &two), whole, "split at {k}");
    }
    whole
}

fn play_split(
    options: &Options,
    mails: &[Mail],
    script: &str,
    split: &dyn Fn(&[u8]) -> Vec<Vec<u8>>,
) -> Vec<String> {
    let mut shell = Shell::new(options, mails);
    let (mut heard, mut expected) = (Vec::new(), Vec::new());
    let lines = script.lines().map(str::trim).filter(|l| !l.is_empty());
    for line in lines.chain(["C: ", "END"]) {
        if let Some(said) = line.strip_prefix("S: ") {
            if !expected.is_empty() {
                assert_eq!(
                    String::from_utf8_lossy(&shell.out),
                    String::from_utf8_lossy(&expected),
                    "before {said}"
                );
                shell.out.clear();
                expected.clear();
            }
            heard.extend_from_slice(format!("{said}\r\n").as_bytes());
            continue;
        }
        split(&heard).iter().for_each(|piece| shell.feed(piece));
        heard.clear();
        match line.strip_prefix("C: ") {
            Some("") => {}
            Some(command) => expected.extend_from_slice(format!("{command}\r\n").as_bytes()),
            None if line == "LOST" => {
                assert_eq!(shell.out, expected);
                expected.clear();
                shell.out.clear();
                shell.lose(Loss::Connection);
                return shell.results;
            }
            None => assert_eq!(line, "END"),
        }
    }
    assert_eq!(String::from_utf8_lossy(&shell.out), String::from_utf8_lossy(&expected), "at the end");
    if let Some(close) = shell.end {
        shell.lose(match close {
            Close::Unreadable(_) | Close::Unexpected(_) => Loss::Protocol,
            _ => Loss::Connection,
        });
        shell.results.push(format!("{close:?}"));
    }
    shell.results
}

fn options() -> Options {
    Options::new("mx.example")
}

const PIPE: &str = "S: 220 hi\nC: EHLO mx.example\nS: 250-hi\nS: 250-PIPELINING\nS: 250 8BITMIME\n";
const CHUNKS: &str = "S: 220 hi\nC: EHLO mx.example\nS: 250-hi\nS: 250-PIPELINING\nS: 250 CHUNKING\n";
const PLAIN: &str = "S: 220 hi\nC: EHLO mx.example\nS: 250 hi\n";

fn piped(mails: &[Mail], rest: &str) -> Vec<String> {
    play(&options(), mails, &format!("{PIPE}{rest}"))
}

fn plain(mails: &[Mail], rest: &str) -> Vec<String> {
    play(&options(), mails, &format!("{PLAIN}{rest}"))
}

#[test]
fn next_envelope_goes_behind_the_body() {
    let got = piped(
        &[mail(&["a@x"]), mail(&["b@x", "c@x"])],
        "C: MAIL FROM:<s@from.example>
         C: RCPT TO:<a@x>
         C: DATA
         S: 250 2.1.0 ok
         S: 250 2.1.5 ok
         S: 354 go
         C: Hi!
         C: .
         C: MAIL FROM:<s@from.example>
         C: RCPT TO:<b@x>
         C: RCPT TO:<c@x>
         C: DATA
         S: 250 2.0.0 queued as 1
         S: 250 ok
         S: 250 ok
         S: 550 5.1.1 no such user
         S: 354 go
         C: Hi!
         C: .
         S: 250 2.0.0 queued as 2
         C: QUIT
         S: 221 bye",
    );
    assert_eq!(
        got,
        [
            "0.0 Delivered 250 2.0.0 queued as 1 (end of data)",
            "1.0 Delivered 250 2.0.0 queued as 2 (end of data)",
            "1.1 Failed 550 5.1.1 no such user (RCPT)",
            "Quit"
        ]
    );
}

#[test]
fn one_by_one_without_pipelining() {
    let got = plain(
        &[mail(&["a@x", "b@x"]), mail(&["c@x"]), mail(&["d@x"])],
        "C: MAIL FROM:<s@from.example>
         S: 250 ok
         C: RCPT TO:<a@x>
         S: 450 4.2.1 later
         C: RCPT TO:<b@x>
         S: 250 ok
         C: DATA
         S: 354 go
         C: Hi!
         C: .
         S: 451 4.3.0 local error
         C: MAIL FROM:<s@from.example>
         S: 250 ok
         C: RCPT TO:<c@x>
         S: 550 5.7.1 no
         C: RSET
         S: 250 ok
         C: MAIL FROM:<s@from.example>
         S: 554 5.7.1 not you
         C: QUIT
         S: 221 bye",
    );
    assert_eq!(
        got,
        [
            "0.0 Deferred 450 4.2.1 later (RCPT)",
            "0.1 Deferred 451 4.3.0 local error (end of data)",
            "1.0 Failed 550 5.7.1 no (RCPT)",
            "2.0 Failed 554 5.7.1 not you (MAIL)",
            "Quit"
        ]
    );
}

#[test]
fn helo_where_ehlo_is_unknown() {
    let got = play(
        &options(),
        &[mail(&["a@x"])],
        "S: 220-hi
         S: 220 there
         C: EHLO mx.example
         S: 502 what
         C: HELO mx.example
         S: 250 hi
         C: MAIL FROM:<s@from.example>
         S: 250 ok
         C: RCPT TO:<a@x>
         S: 251 will forward
         C: DATA
         S: 354
         C: Hi!
         C: .
         S: 250 ok
         C: QUIT
         S: 221 bye",
    );
    assert_eq!(got, ["0.0 Delivered 250 ok (end of data)", "Quit"]);
}

#[test]
fn not_greeted() {
    assert_eq!(play(&options(), &[], "S: 554 5.7.1 go away"), ["Refused(554)"]);
    assert_eq!(play(&options(), &[], "S: 421 4.7.0 busy"), ["Refused(421)"]);
    assert_eq!(play(&options(), &[], "S: 354 what"), ["Unexpected(354)"]);
    assert_eq!(play(&options(), &[], "S: 220 a\nC: EHLO mx.example\nS: 451 later"), ["Refused(451)"]);
    let helo = "S: 220 a\nC: EHLO mx.example\nS: 500 b\nC: HELO mx.example\nS: 550 c";
    assert_eq!(play(&options(), &[], helo), ["Refused(550)"]);
}

#[test]
fn data_taken_though_no_recipient_was() {
    let envelope = "C: MAIL FROM:<s@from.example>\nC: RCPT TO:<a@x>\nC: RCPT TO:<b@x>\nC: DATA\n";
    let replies = "S: 250 ok\nS: 550 5.1.1 no\nS: 450 4.2.1 later\n";
    let mails = [mail(&["a@x", "b@x"]), mail(&["c@x"])];
    let second = "C: MAIL FROM:<s@from.example>\nC: RCPT TO:<c@x>\nC: DATA\n";
    let tail = "S: 250 ok\nS: 250 ok\nS: 451 no\nC: QUIT\nS: 221 bye";
    let results = [
        "0.0 Failed 550 5.1.1 no (RCPT)",
        "0.1 Deferred 450 4.2.1 later (RCPT)",
        "1.0 Deferred 451 no (DATA)",
        "Quit",
    ];
    for dot_reply in ["554 5.5.1 no valid recipients", "250 2.0.0 fine", "354 again"] {
        let script = format!("{envelope}{replies}S: 354 go\nC: .\nS: {dot_reply}\n{second}{tail}");
        assert_eq!(piped(&mails, &script), results);
    }
    // DATA refused, as it should be: the open transaction is reset.
    let script =
        format!("{envelope}{replies}S: 503 5.5.1 no recipients\nC: RSET\n{second}S: 250 reset\n{tail}");
    assert_eq!(piped(&mails, &script), results);
    // MAIL refused: nothing to reset, whatever is said to the rest.
    let script = format!(
        "{envelope}S: 550 5.7.1 no\nS: 250 ok\nS: 450 hm\nS: 354 go\nC: .\nS: 250 ok\n{second}{tail}"
    );
    let got = piped(&mails, &script);
    assert_eq!(got[..2], ["0.0 Failed 550 5.7.1 no (MAIL)", "0.1 Failed 550 5.7.1 no (MAIL)"]);
}

#[test]
fn full_transactions_leave_the_rest_for_another() {
    let envelope =
        "C: MAIL FROM:<s@from.example>\nC: RCPT TO:<a@x>\nC: RCPT TO:<b@x>\nC: RCPT TO:<c@x>\nC: DATA\n";
    let mails = [mail(&["a@x", "b@x", "c@x"])];
    let tail = "S: 354 go\nC: Hi!\nC: .\nS: 250 ok\nC: QUIT\nS: 221 bye";
    let got =
        piped(&mails, &format!("{envelope}S: 250 ok\nS: 250 ok\nS: 452 4.5.3 full\nS: 552 full\n{tail}"));
    assert_eq!(got[0], "0.0 Delivered 250 ok (end of data)");
    assert_eq!(got[1], "0.1 NotTried 452 4.5.3 full (RCPT)");
    assert_eq!(got[2], "0.2 NotTried 552 full (RCPT)");
    // To the first recipient it is a refusal like others; a full mailbox is not a full transaction.
    let got =
        piped(&mails, &format!("{envelope}S: 250 ok\nS: 552 full\nS: 250 ok\nS: 552 5.2.2 mailbox\n{tail}"));
    assert_eq!(got[0], "0.0 Deferred 552 full (RCPT)");
    assert_eq!(got[2], "0.2 Failed 552 5.2.2 mailbox (RCPT)");
    // Our own limit, and the server's.
    let script = "S: 220 hi
         C: EHLO mx.example
         S: 250-hi
         S: 250-LIMITS RCPTMAX=1 MAILMAX=1
         S: 250 PIPELINING
         C: MAIL FROM:<s@from.example>
         C: RCPT TO:<a@x>
         C: DATA
         S: 250 ok
         S: 250 ok
         S: 354 go
         C: Hi!
         C: .
         S: 250 ok
         C: QUIT
         S: 221 bye";
    let got = play(&options(), &[mails[0].clone(), mails[0].clone()], script);
    assert_eq!(got.len(), 4, "no second transaction: {got:?}");
    assert_eq!(got[1], "0.1 NotTried 0 4.5.3  (before sending)");
}

#[test]
fn a_421_ends_what_it_was_said_to() {
    let envelope = "C: MAIL FROM:<s@from.example>\nC: RCPT TO:<a@x>\nC: RCPT TO:<b@x>\nC: DATA\n";
    let mails = [mail(&["a@x", "b@x"]), mail(&["c@x"])];
    let got = piped(&mails, &format!("{envelope}S: 250 ok\nS: 550 no\nS: 421 4.7.0 too much"));
    assert_eq!(got, ["0.0 Failed 550 no (RCPT)", "0.1 Deferred 421 4.7.0 too much (RCPT)", "ServerClosing"]);
    let got = piped(&mails, &format!("{envelope}S: 421 4.7.0 too much"));
    assert_eq!(got[1], "0.1 Deferred 421 4.7.0 too much (MAIL)", "the first of its connection counts");
    let body = "S: 250 ok\nS: 250 ok\nS: 250 ok\nS: 354 go\nC: Hi!\nC: .\n";
    let next = "C: MAIL FROM:<s@from.example>\nC: RCPT TO:<c@x>\nC: DATA\n";
    let got = piped(&mails, &format!("{envelope}{body}{next}S: 421 4.3.2 bye"));
    assert_eq!(got[0], "0.0 Deferred 421 4.3.2 bye (end of data)");
    assert_eq!(got[2..], ["1 given back", "ServerClosing"]);
    // To a connection's second message it is no refusal of the message.
    let got = piped(&mails, &format!("{envelope}{body}{next}S: 250 ok\nS: 421 4.7.0 enough"));
    assert_eq!(got[2..], ["1 given back", "ServerClosing"]);
}

#[test]
fn lost_connections() {
    let envelope = "C: MAIL FROM:<s@from.example>\nC: RCPT TO:<a@x>\nC: DATA\n";
    let mails = [mail(&["a@x"]), mail(&["c@x"])];
    let got = piped(&mails, &format!("{envelope}LOST"));
    assert_eq!(got, ["0.0 Deferred 0 4.4.2 connection lost (MAIL)"]);
    let got = piped(&mails, &format!("{envelope}S: 250 ok\nS: 250 ok\nLOST"));
    assert_eq!(got, ["0.0 Deferred 0 4.4.2 connection lost (DATA)"]);
    let body = "S: 250 ok\nS: 250 ok\nS: 354 go\nC: Hi!\nC: .\nC: MAIL FROM:<s@from.example>\n\
        C: RCPT TO:<c@x>\nC: DATA\n";
    let got = piped(&mails, &format!("{envelope}{body}LOST"));
    let doubt =
        "0.0 Deferred 0 4.4.2 connection lost after end of data; message may have been taken (end of data)";
    assert_eq!(got, [doubt, "1 given back"]);
    let got = piped(&mails, &format!("{envelope}{body}S: 250 2.0.0 ok\nLOST"));
    assert_eq!(got, ["0.0 Delivered 250 2.0.0 ok (end of data)", "1 given back"]);
    let got = piped(&mails, &format!("{envelope}{body}S: 250 2.0.0 ok\nS: 250 ok\nLOST"));
    assert_eq!(got[1], "1.0 Deferred 0 4.4.2 connection lost (RCPT)");
}

#[test]
fn giving_up_after_354_gives_back() {
    let mut shell = Shell::new(&options(), &[mail(&["a@x"])]);
    shell.feed(b"220 hi\r\n");
    shell.feed(b"250-hi\r\n250 PIPELINING\r\n");
    let (mut out, replies) = (Vec::new(), b"250 ok\r\n250 ok\r\n354 go\r\n");
    let (n, step) = shell.client.receive(T0, replies, &mut out);
    assert_eq!((n, step, shell.client.phase()), (replies.len(), Step::SendBody, Phase::Body));
    shell.lose(Loss::GivenUp);
    assert_eq!(shell.results, ["0 given back"]);
}

#[test]
fn replies_without_sense_never_deliver() {
    let envelope = "C: MAIL FROM:<s@from.example>\nC: RCPT TO:<a@x>\nC: DATA\n";
    let mails = [mail(&["a@x"])];
    let ok = "S: 250 ok\nS: 250 ok\n";
    let odd = |rest: &str| piped(&mails, &format!("{envelope}{rest}"));
    let lines = |phase| format!("0.0 Deferred 0 4.5.0 next hop's replies make no sense ({phase})");
    assert_eq!(odd("S: 354 ok"), [lines("MAIL"), "Unexpected(354)".into()]);
    assert_eq!(odd("S: 250 ok\nS: 354 ok"), [lines("RCPT"), "Unexpected(354)".into()]);
    assert_eq!(odd(&format!("{ok}S: 250 ok")), [lines("DATA"), "Unexpected(250)".into()]);
    let doubt =
        "0.0 Deferred 0 4.5.0 connection lost after end of data; message may have been taken (end of data)";
    assert_eq!(odd(&format!("{ok}S: 354 go\nC: Hi!\nC: .\nS: 354 more")), [doubt, "Unexpected(354)"]);
    assert_eq!(odd(&format!("{ok}S: 354 go\nC: Hi!\nC: .\nS: x")), [doubt, "Unreadable(Malformed)"]);
}

#[test]
fn replies_in_advance_are_noticed_before_the_body_goes() {
    let mut shell = Shell::new(&options(), &[mail(&["a@x"])]);
    shell.feed(b"220 hi\r\n");
    shell.feed(b"250-hi\r\n250 PIPELINING\r\n");
    shell.feed(b"250 ok\r\n250 ok\r\n354 go\r\n250 taken\r\n");
    assert_eq!(shell.end, Some(Close::Unexpected(250)));
    shell.lose(Loss::Protocol);
    assert!(shell.results[0].starts_with("0.0 Deferred 0 4.5.0"));
    let mut shell = Shell::new(&options(), &[mail(&["a@x"])]);
    shell.feed(b"220 hi\r\n");
    shell.feed(b"250 hi\r\n25");
    assert_eq!((shell.end, shell.begun), (Some(Close::Unexpected(0)), 0));
}

#[test]
fn hostile_servers_are_bounded() {
    let endless = b"250-x\r\n".repeat(1_000_000);
    let long_line = vec![b'2'; 100_000];
    let cases: [(&[u8], ReplyError); 4] = [
        (b"5\r\n", ReplyError::Malformed),
        (&endless, ReplyError::TooLong),
        (&long_line, ReplyError::LineTooLong),
        (b"\0\0\0\r\n", ReplyError::Malformed),
    ];
    for (bytes, error) in cases {
        let mut shell = Shell::new(&options(), &[mail(&["a@x"])]);
        shell.feed(b"220 hi\r\n");
        shell.feed(b"250-hi\r\n250 PIPELINING\r\n");
        shell.feed(bytes);
        assert_eq!(shell.end, Some(Close::Unreadable(error)));
        shell.lose(Loss::Protocol);
        assert_eq!(shell.results.len(), 1);
        assert!(shell.results[0].starts_with("0.0 Deferred 0 4.5.0"), "{:?}", shell.results);
    }
}

#[test]
fn dribbling_does_not_move_the_deadline() {
    let mut client = Client::new(options(), T0);
    let mut out = Vec::new();
    let deadline = client.deadline();
    assert_eq!(deadline, Some(T0.after(Duration::from_secs(300))));
    for (i, byte) in b"220 hello".iter().enumerate() {
        let now = T0.after(Duration::from_secs(60 * i as u64));
        assert_eq!(client.receive(now, &[*byte], &mut out), (1, Step::NeedInput));
        assert_eq!(client.deadline(), deadline);
    }
}

#[test]
fn what_the_server_cannot_take_is_refused_here() {
    let utf8 = SenderOptions { body: BodyKind::EightBitMime, smtputf8: true, ret: None };
    let none = SenderOptions::default();
    let mut big = mail(&["a@x"]);
    big.size = 1001;
    let mails = [
        mail_with("s@x", none, &["a@x"], 2),
        mail_with("s@x", utf8, &["a@x"], 4),
        mail_with("d\u{f6}ner@x", utf8, &["a@x"], 0),
        mail_with("s@x\r\nDATA", none, &["a@x"], 0),
        big,
        mail_with("s@x", utf8, &["d\u{f6}ner@x", "b@x>\r\n"], 0),
        mail_with("s@x", utf8, &["d\u{f6}ner@x", "a@x", "b@x> NOTIFY=NEVER"], 0),
    ];
    let got = play(
        &options(),
        &mails,
        "S: 220 hi
         C: EHLO mx.example
         S: 250-hi
         S: 250 SIZE 1000
         C: MAIL FROM:<s@x> SIZE=6
         S: 250 ok
         C: RCPT TO:<a@x>
         S: 250 ok
         C: DATA
         S: 354 go
         C: Hi!
         C: .
         S: 250 ok
         C: QUIT
         S: 221 bye",
    );
    let codes: Vec<_> = got.iter().map(|l| l.split(' ').take(4).collect::<Vec<_>>().join(" ")).collect();
    assert_eq!(
        codes,
        [
            "0.0 Failed 0 5.6.3",
            "1.0 Failed 0 5.6.7",
            "2.0 Failed 0 5.6.7",
            "3.0 Failed 0 5.1.7",
            "4.0 Failed 0 5.3.4",
            "5.0 Failed 0 5.6.7",
            "5.1 Failed 0 5.1.3",
            "6.0 Failed 0 5.6.7",
            "6.1 Delivered 250 ok",
            "6.2 Failed 0 5.1.3",
            "Quit"
        ]
    );
    // An 8-bit header without SMTPUTF8 is old practice and needs 8BITMIME only.
    let got = piped(
        &[mail_with("s@x", none, &["a@x"], 2 | 4)],
        "C: MAIL FROM:<s@x> BODY=8BITMIME\nC: RCPT TO:<a@x>\nC: DATA\nS: 250 a\nS: 250 b\nS: 451 c\n\
            C: QUIT\nS: 221 d",
    );
    assert_eq!(got[0], "0.0 Deferred 451 c (DATA)");
}

/// A server that answers anything with anything, and does its own book-keeping.
fn reply_strategy() -> impl Strategy<Value = &'static str> {
    prop_oneof![
        8 => Just("250 2.0.0 ok\r\n"),
        5 => Just("354 go\r\n"),
        2 => Just("550-5.1.1 no\r\n550 5.1.1 no\r\n"),
        2 => Just("450 later\r\n"),
        1 => Just("452 full\r\n"),
        1 => Just("552 full\r\n"),
        1 => Just("503 order\r\n"),
        1 => Just("421 bye\r\n"),
        1 => Just("junk\r\n"),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, ..ProptestConfig::default() })]

    #[test]
    fn random_servers(
        pipelining: bool,
        counts in prop::collection::vec(1usize..5, 1..5),
        replies in prop::collection::vec(reply_strategy(), 0..60),
        cuts in prop::collection::vec(1usize..20, 1..8),
        honest in 0usize..60,
    ) {
        let names = ["a@x", "b@x", "c@x", "d@x"];
        let mails: Vec<Mail> = counts.iter().map(|&n| mail(&names[..n])).collect();
        let mut shell = Shell::new(&options(), &mails);
        shell.feed(b"220 hi\r\n");
        shell.feed(if pipelining { b"250-hi\r\n250 PIPELINING\r\n" } else { b"250 hi\r\n" });
        shell.out.drain(..shell.out.windows(2).position(|w| w == b"\r\n").unwrap() + 2);
        // The server answers each command: at first with sense, later at random. Final dots that
        // got a 2xx are counted; only those may deliver.
        let (mut dots, mut turn) = (0, 0);
        let mut replies = replies.into_iter();
        let mut cut = cuts.iter().cycle();
        'talk: while shell.end.is_none() {
            let text = std::mem::take(&mut shell.out);
            prop_assert!(!text.is_empty(), "hangs: nothing said, nothing over");
            let (mut answer, mut in_data) = (Vec::new(), text.starts_with(b"Hi!"));
            for line in text.split_inclusive(|&b| b == b'\n') {
                let dot = in_data && line == b".\r\n";
                if in_data && !dot {
                    continue;
                }
                turn += 1;
                let sense = if line == b"DATA\r\n" { "354 go\r\n" } else { "250 ok\r\n" };
                let Some(reply) = (if turn <= honest { Some(sense) } else { replies.next() }) else {
                    shell.feed(&answer);
                    shell.lose(Loss::Connection);
                    break 'talk;
                };
                dots += usize::from(dot && reply.starts_with('2'));
                in_data = false;
                answer.extend_from_slice(reply.as_bytes());
            }
            let mut rest = &answer[..];
            while !rest.is_empty() && shell.end.is_none() {
                let n = rest.len().min(*cut.next().unwrap());
                shell.feed(&rest[..n]);
                rest = &rest[n..];
            }
        }
        shell.lose(Loss::Protocol);
        let mut delivered = BTreeMap::new();
        let mut decided = std::collections::BTreeSet::new();
        for line in &shell.results {
            let (who, what) = line.split_once(' ').unwrap();
            prop_assert!(decided.insert(who.to_owned()), "two results: {line}");
            if what.starts_with("Delivered") {
                *delivered.entry(who.split('.').next().unwrap().to_owned()).or_insert(0) += 1;
            }
        }
        prop_assert!(delivered.len() <= dots, "{} delivered, {dots} dots taken", delivered.len());
    }

    #[test]
    fn random_bytes_end_or_wait(bytes in prop::collection::vec(any::<u8>(), 0..2000)) {
        let mut shell = Shell::new(&options(), &[mail(&["a@x"])]);
        shell.feed(b"220 hi\r\n");
        shell.feed(b"250-hi\r\n250 PIPELINING\r\n");
        shell.feed(&bytes);
        shell.lose(Loss::Connection);
        prop_assert!(shell.results.iter().all(|r| !r.contains("Delivered")));
    }

    #[test]
    fn stuffing_round_trips(body in "([a.]{0,3}\r\n){0,20}", cut in 0usize..80) {
        let (a, b) = body.as_bytes().split_at(cut.min(body.len()));
        let (mut stuffer, mut wire) = (Stuffer::default(), Vec::new());
        stuffer.push(a, &mut wire);
        stuffer.push(b, &mut wire);
        wire.extend_from_slice(stuffer.end());
        let end = if wire.starts_with(b".\r\n") { 0 } else {
            memchr::memmem::find(&wire, b"\r\n.\r\n").unwrap() + 2
        };
        prop_assert_eq!(end + 3, wire.len(), "the message ends at its end only");
        let text = String::from_utf8(wire[..end].to_vec()).unwrap();
        let back: String = text.split_inclusive('\n').map(|l| l.strip_prefix('.').unwrap_or(l)).collect();
        prop_assert_eq!(back, body);
    }
}
