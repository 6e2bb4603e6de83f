//! Dialogues with servers that offer CHUNKING: whole messages behind one another, and what becomes
//! of each when some are refused or the connection breaks.

use super::*;

fn chunked(mails: &[Mail], rest: &str) -> Vec<String> {
    play(&options(), mails, &format!("{CHUNKS}{rest}"))
}

fn mails(n: usize) -> Vec<Mail> {
    (0..n).map(|i| mail(&[format!("r{i}@x").as_str()])).collect()
}

/// Commands of mail `n` up to its recipient.
fn envelope(n: usize) -> String {
    format!("C: MAIL FROM:<s@from.example>\nC: RCPT TO:<r{n}@x>\n")
}

/// Mail `n`, whole, behind another. What DATA leaves is clear, what BDAT leaves is not.
fn whole(n: usize) -> String {
    let reset = if n > 1 { "C: RSET\n" } else { "" };
    format!("{reset}{}C: BDAT 6 LAST\nC: Hi!!\n", envelope(n))
}

/// The first mail, which goes by DATA, and the answers to its envelope.
fn opening() -> String {
    format!("{}C: DATA\nS: 250 ok\nS: 250 ok\nS: 354 go\n", envelope(0))
}

/// The first mail with what goes along behind it.
fn batch(n: usize) -> String {
    opening() + "C: Hi!\nC: .\n" + &(1..n).map(whole).collect::<String>()
}

const SECOND: &str = "S: 250 sender\nS: 250 rcpt\nS: 250 2.0.0 taken\n";
const TAKEN: &str = "S: 250 reset\nS: 250 sender\nS: 250 rcpt\nS: 250 2.0.0 taken\n";
const BYE: &str = "C: QUIT\nS: 221 bye";
const DOUBT: &str = "0 4.4.2 connection lost after end of data; message may have been taken (end of data)";

#[test]
fn whole_messages_follow_the_first() {
    let script = batch(3) + "S: 250 2.0.0 taken\n" + SECOND + TAKEN + BYE;
    let got = chunked(&mails(3), &script);
    let taken = |n| format!("{n}.0 Delivered 250 2.0.0 taken (end of data)");
    assert_eq!(got, [taken(0), taken(1), taken(2), "Quit".to_owned()]);
}

#[test]
fn what_is_refused_is_refused_alone() {
    let mut five = mails(5);
    five[2] = mail(&["r2@x", "b@x"]);
    let script = opening()
        + "C: Hi!\nC: .\n"
        + &whole(1)
        + "C: RSET\nC: MAIL FROM:<s@from.example>\nC: RCPT TO:<r2@x>\nC: RCPT TO:<b@x>\n\
           C: BDAT 6 LAST\nC: Hi!!\n"
        + &whole(3)
        + &whole(4)
        + "S: 250 2.0.0 taken\n\
           S: 550 5.7.1 not you\nS: 503 no\nS: 503 no\n\
           S: 250 reset\nS: 250 ok\nS: 550 5.1.1 no\nS: 250 ok\nS: 250 2.0.0 taken\n\
           S: 250 reset\nS: 250 ok\nS: 450 later\nS: 554 no valid recipients\n\
           S: 250 reset\nS: 250 ok\nS: 250 ok\nS: 452 4.3.1 full\n\
           C: QUIT\nS: 221 bye";
    assert_eq!(
        chunked(&five, &script),
        [
            "0.0 Delivered 250 2.0.0 taken (end of data)",
            "1.0 Failed 550 5.7.1 not you (MAIL)",
            "2.0 Failed 550 5.1.1 no (RCPT)",
            "2.1 Delivered 250 2.0.0 taken (end of data)",
            "3.0 Deferred 450 later (RCPT)",
            "4.0 Deferred 452 4.3.1 full (end of data)",
            "Quit"
        ]
    );
}

#[test]
fn a_message_for_nobody_is_nobodys_whatever_is_said_to_it() {
    for said in ["250 2.0.0 taken", "503 5.5.1 no", "554 no", "451 hm"] {
        let script = batch(2) + "S: 250 ok\nS: 250 ok\nS: 550 5.1.1 no\nS: " + said + "\n" + BYE;
        assert_eq!(chunked(&mails(2), &script)[1], "1.0 Failed 550 5.1.1 no (RCPT)", "{said}");
    }
}

#[test]
fn what_must_be_announced_waits_for_its_recipients() {
    let mut shell = Shell::new(&options(), &mails(4));
    shell.held = vec![1];
    shell.feed(b"220 hi\r\n");
    shell.feed(b"250-hi\r\n250-PIPELINING\r\n250 CHUNKING\r\n");
    shell.out.clear();
    shell.feed(b"250 ok\r\n250 ok\r\n354 go\r\n");
    // The envelope of the second goes along, its message does not, and nothing behind it.
    let text = String::from_utf8(std::mem::take(&mut shell.out)).unwrap();
    assert_eq!(text, "Hi!\r\n.\r\nMAIL FROM:<s@from.example>\r\nRCPT TO:<r1@x>\r\n");
    assert_eq!(shell.begun, 2);
    shell.feed(b"250 taken\r\n250 ok\r\n");
    assert!(shell.out.is_empty());
    shell.feed(b"250 ok\r\n");
    let text = String::from_utf8(std::mem::take(&mut shell.out)).unwrap();
    assert_eq!(text.matches("LAST").count(), 3, "it, and the two behind it: {text}");
    // Refused recipients: it is not sent at all, and the next one begins afresh.
    let mut shell = Shell::new(&options(), &mails(3));
    shell.held = vec![1];
    shell.feed(b"220 hi\r\n");
    shell.feed(b"250-hi\r\n250-PIPELINING\r\n250 CHUNKING\r\n");
    shell.feed(b"250 ok\r\n250 ok\r\n354 go\r\n");
    shell.out.clear();
    shell.feed(b"250 taken\r\n250 ok\r\n550 no\r\n");
    assert_eq!(shell.results.last().unwrap(), "1.0 Failed 550 no (RCPT)");
    assert!(shell.out.starts_with(b"RSET\r\nMAIL") && shell.out.ends_with(b"LAST\r\nHi!!\r\n"));
}

#[test]
fn a_server_that_does_not_know_bdat_gets_data() {
    let again = "C: RSET\nC: MAIL FROM:<s@from.example>\nC: RCPT TO:<r2@x>\nC: DATA\n\
        S: 250 reset\nS: 250 ok\nS: 250 ok\nS: 354 go\nC: Hi!\nC: .\nS: 250 taken\n";
    for code in [500, 501, 502, 503, 504] {
        let script = batch(2) + "S: 250 one\nS: 250 ok\nS: 250 ok\nS: " + &format!("{code} what\n");
        let got = chunked(&mails(2), &(script.clone() + BYE));
        assert_eq!(got[0], "0.0 Delivered 250 one (end of data)");
        assert_eq!(got[1], format!("1.0 NotTried {code} what (end of data)"), "no fault of the message");
        let held = Options { outstanding: 2, ..options() };
        let got = play(&held, &mails(3), &format!("{CHUNKS}{script}{again}{BYE}"));
        assert_eq!(got[2..], ["2.0 Delivered 250 taken (end of data)", "Quit"]);
    }
    // Any other answer is about the message, as one to DATA is.
    for (reply, outcome) in [("451 later", "Deferred"), ("554 5.7.1 no", "Failed")] {
        let script = batch(2) + "S: 250 one\nS: 250 ok\nS: 250 ok\nS: " + reply + "\n" + BYE;
        assert_eq!(chunked(&mails(2), &script)[1], format!("1.0 {outcome} {reply} (end of data)"));
    }
}

#[test]
fn without_pipelining_or_when_told_so_chunking_is_not_used() {
    let offer = "S: 220 hi\nC: EHLO mx.example\nS: 250-hi\nS: 250 CHUNKING\n";
    let lines = "C: MAIL FROM:<s@from.example>\nS: 451 a\n".to_owned() + BYE;
    assert_eq!(play(&options(), &mails(1), &(offer.to_owned() + &lines))[0], "0.0 Deferred 451 a (MAIL)");
    let data = envelope(0) + "C: DATA\nS: 451 a\nS: 503 b\nS: 503 c\n" + BYE;
    let off = Options { chunking: false, ..options() };
    assert_eq!(play(&off, &mails(1), &format!("{CHUNKS}{data}"))[0], "0.0 Deferred 451 a (MAIL)");
}

#[test]
fn lost_under_a_batch() {
    // Nothing of the first has left when its recipients are answered.
    let got = chunked(&mails(3), &(envelope(0) + "C: DATA\nLOST"));
    assert_eq!(got, ["0.0 Deferred 0 4.4.2 connection lost (MAIL)"]);
    let doubt = |n| format!("{n}.0 Deferred {DOUBT}");
    assert_eq!(chunked(&mails(3), &(batch(3) + "LOST")), [doubt(0), doubt(1), doubt(2)]);
    let first = "0.0 Delivered 250 one (end of data)".to_owned();
    let script = batch(3) + "S: 250 one\nS: 250 ok\nLOST";
    assert_eq!(chunked(&mails(3), &script), [first.clone(), doubt(1), doubt(2)]);
    // Those whose recipients were all refused are in no doubt.
    let script = batch(3) + "S: 250 one\nS: 250 ok\nS: 550 no\nLOST";
    assert_eq!(chunked(&mails(3), &script), [first, "1.0 Failed 550 no (RCPT)".into(), doubt(2)]);
}

#[test]
fn a_421_in_a_batch() {
    let doubt = |n| format!("{n}.0 Deferred {DOUBT}");
    for (before, phase) in [("", "MAIL"), ("S: 250 ok\n", "RCPT")] {
        let script = batch(3) + "S: 250 one\n" + before + "S: 421 4.3.2 enough";
        let got = chunked(&mails(3), &script);
        assert_eq!(got[1], format!("1.0 Deferred 421 4.3.2 enough ({phase})"));
        assert_eq!(got[2..], [doubt(2), "ServerClosing".into()]);
    }
    // Of one that has not left nothing was risked.
    let mut shell = Shell::new(&options(), &mails(3));
    shell.held = vec![1];
    shell.feed(b"220 hi\r\n");
    shell.feed(b"250-hi\r\n250-PIPELINING\r\n250 CHUNKING\r\n");
    shell.feed(b"250 ok\r\n250 ok\r\n354 go\r\n");
    shell.feed(b"250 one\r\n421 enough\r\n");
    shell.lose(Loss::Connection);
    assert_eq!(shell.results, ["0.0 Delivered 250 one (end of data)", "1 given back"]);
}

#[test]
fn what_is_outstanding_is_bounded() {
    let begun_with = |options: &Options, size: u64, count: usize| {
        let mut many = mails(count);
        many.iter_mut().for_each(|m| m.size = size);
        let mut shell = Shell::new(options, &many);
        shell.feed(b"220 hi\r\n");
        shell.feed(b"250-hi\r\n250-PIPELINING\r\n250 CHUNKING\r\n");
        shell.feed(b"250 ok\r\n250 ok\r\n354 go\r\n");
        (shell.begun, 1 + String::from_utf8(shell.out).unwrap().matches(" LAST").count())
    };
    assert_eq!(begun_with(&options(), 6, 50), (16, 16));
    assert_eq!(begun_with(&Options { outstanding: 3, ..options() }, 6, 50), (3, 3));
    assert_eq!(begun_with(&Options { transactions_max: 5, ..options() }, 6, 50), (5, 5));
    // One: the envelope of the next goes along, its message does not.
    assert_eq!(begun_with(&Options { outstanding: 1, ..options() }, 6, 50), (2, 1));
    // 256 KiB.
    assert_eq!(begun_with(&options(), 60_000, 50), (3, 3));
    assert_eq!(begun_with(&options(), 128 * 1024, 50), (2, 2));
    // Larger ones one by one, the envelope of the next behind each.
    assert_eq!(begun_with(&options(), 128 * 1024 + 1, 50), (2, 1));
    assert_eq!(begun_with(&options(), 1 << 30, 50), (2, 1));
    // Replies on their way to us.
    let names: Vec<String> = (0..50).map(|i| format!("r{i}@x")).collect();
    let many: Vec<Mail> =
        (0..50).map(|_| mail(&names.iter().map(String::as_str).collect::<Vec<_>>())).collect();
    let mut shell = Shell::new(&options(), &many);
    shell.feed(b"220 hi\r\n");
    shell.feed(b"250-hi\r\n250-PIPELINING\r\n250 CHUNKING\r\n");
    shell.feed(&[&b"250 ok\r\n".repeat(51)[..], b"354 go\r\n"].concat());
    assert_eq!(shell.begun, 5);
}

#[test]
fn after_a_silence_the_server_is_asked_first() {
    let mut client = Client::new(options(), T0);
    let mut out = Vec::new();
    client.receive(T0, b"220 hi\r\n", &mut out);
    client.receive(T0, b"250-hi\r\n250-PIPELINING\r\n250 CHUNKING\r\n", &mut out);
    let m = mail(&["a@x"]);
    let mut now = T0;
    for (wait, asked) in [(0, true), (1000, false), (1001, true), (1, false)] {
        now = now.after(Duration::from_millis(wait));
        let request = Request {
            envelope: m.envelope.view(),
            recipients: &m.recipients,
            flags: m.flags,
            size: m.size,
            at_once: true,
        };
        out.clear();
        let begun = client.begin(now, &request, &mut out);
        assert_eq!(begun, if asked { Begun::Sent } else { Begun::Whole }, "after {wait} ms");
        assert_eq!(out.ends_with(b"DATA\r\n"), asked);
        if asked {
            let step = client.receive(now, b"250 ok\r\n250 ok\r\n354 go\r\n", &mut out).1;
            assert_eq!(step, Step::SendBody);
            assert_eq!(client.open_body(&mut out), Framing::Dots);
            client.end_body(now);
        } else {
            client.receive(now, b"250 ok\r\n250 ok\r\n", &mut out);
        }
        assert_eq!(client.receive(now, b"250 taken\r\n", &mut out).1, Step::Settled);
        assert_eq!(client.results()[0].outcome, Outcome::Delivered);
        assert_eq!(client.receive(now, b"", &mut out).1, Step::Ready);
    }
}

#[test]
fn replies_in_advance_or_in_surplus_end_the_connection() {
    let open = |rest: &[u8]| {
        let mut shell = Shell::new(&options(), &mails(2));
        shell.feed(b"220 hi\r\n");
        shell.feed(b"250-hi\r\n250-PIPELINING\r\n250 CHUNKING\r\n");
        shell.feed(rest);
        let end = shell.end;
        shell.lose(Loss::Protocol);
        (end, shell.results)
    };
    // Before the message has left.
    let (end, results) = open(b"250 ok\r\n250 ok\r\n354 go\r\n250 taken\r\n");
    assert_eq!(end, Some(Close::Unexpected(250)));
    assert!(results.iter().all(|r| r.contains("Deferred 0 4.5.0")), "{results:?}");
    // One reply too many, when everything has been answered.
    let mut shell = Shell::new(&options(), &mails(1));
    shell.feed(b"220 hi\r\n");
    shell.feed(b"250-hi\r\n250-PIPELINING\r\n250 CHUNKING\r\n");
    shell.feed(b"250 ok\r\n250 ok\r\n354 go\r\n");
    shell.mails = mails(2);
    let (n, step) = shell.client.receive(T0, b"250 taken\r\n250 taken\r\n", &mut shell.out);
    assert_eq!((n, step), (11, Step::Settled));
    assert_eq!(
        shell.client.receive(T0, b"250 taken\r\n", &mut shell.out).1,
        Step::Close(Close::Unexpected(250))
    );
    // A 354 is never an answer here, and RSET is taken or the connection is over.
    let second = "S: 250 one\nS: 250 ok\nS: 250 ok\nS: 250 two\n";
    for odd in ["S: 354 go", &format!("{second}S: 500 what"), &format!("{second}S: 250 reset\nS: 354 go")] {
        let got = chunked(&mails(3), &(batch(3) + odd));
        assert!(got.last().unwrap().starts_with("Unexpected("), "{got:?}");
        assert!(got[got.len() - 2].starts_with("2.0 Deferred 0 4.5.0"), "{got:?}");
    }
}

/// A reply that is said twice puts each one behind it in the place of the next.
#[test]
fn a_reply_to_rcpt_is_none_to_the_end_of_data() {
    let first = opening().replace("250 ok\nS: 250 ok", "250 ok\nS: 250 accepted");
    let two = first + "C: Hi!\nC: .\n" + &whole(1) + "S: 250 taken as 1\n";
    let got = |rest: &str| chunked(&mails(2), &format!("{two}{rest}"));
    let doubt =
        "1.0 Deferred 0 4.5.0 connection lost after end of data; message may have been taken (end of data)";
    // The last one would have been the answer.
    for rest in [
        "S: 250 ok\nS: 250 accepted\nS: 250 accepted\nS: 554 no",
        "S: 250 ok\nS: 250 ok\nS: 250 accepted\nS: 554 no",
        "S: 250 taken as 1\nS: 250 ok\nS: 250 accepted\nS: 554 no",
        "S: 250 2.1.0 ok\nS: 250 2.1.5 ok\nS: 250 2.1.5 ok\nS: 554 no",
    ] {
        assert_eq!(got(rest)[1..], [doubt, "Unexpected(250)"], "{rest}");
    }
    // What was said of recipients was said of others.
    let rest = "S: 250 taken as 1\nS: 550 no such sender\nS: 250 accepted\nS: 250 ok";
    assert_eq!(got(rest)[1..], [doubt, "Unexpected(250)"]);
    let rest = "S: 250 ok\nS: 250 accepted\nS: 250 taken as 2\n";
    assert_eq!(got(&format!("{rest}{BYE}"))[1..], ["1.0 Delivered 250 taken as 2 (end of data)", "Quit"]);
}

/// What a server has said to the parts of one message.
#[derive(Default, Clone, Debug)]
struct Said {
    mail: bool,
    rcpt: Vec<bool>,
    end: Option<bool>,
}

/// A server that answers each command, chunks and all, with the next of `replies`.
struct Server {
    input: Vec<u8>,
    /// What is said to each message in turn of its MAIL.
    book: Vec<Said>,
    in_data: bool,
}

impl Server {
    /// Takes bytes; false when there is nothing left to say.
    fn hear(
        &mut self,
        bytes: &[u8],
        mut say: impl FnMut(&str) -> Option<&'static str>,
        out: &mut Vec<u8>,
    ) -> bool {
        self.input.extend_from_slice(bytes);
        while let Some(end) = memchr::memmem::find(&self.input, b"\r\n") {
            let line = String::from_utf8(self.input[..end].to_vec()).unwrap();
            let mut used = end + 2;
            if self.in_data && line != "." {
                self.input.drain(..used);
                continue;
            }
            let chunk = line
                .strip_prefix("BDAT ")
                .map(|r| (r.trim_end_matches(" LAST").parse().unwrap(), r.ends_with("LAST")));
            if let Some((size, _)) = chunk {
                let size: usize = size;
                if self.input.len() < used + size {
                    return true;
                }
                used += size;
            }
            self.input.drain(..used);
            let Some(reply) = say(&line) else { return false };
            out.extend_from_slice(reply.as_bytes());
            let good = reply.starts_with('2');
            let verb = line.split([' ', ':']).next().unwrap();
            match (verb, chunk) {
                ("MAIL", _) => self.book.push(Said { mail: good, ..Said::default() }),
                ("RCPT", _) => self.book.last_mut().unwrap().rcpt.push(good),
                ("DATA", _) => self.in_data = reply.starts_with('3'),
                (".", _) => {
                    self.in_data = false;
                    self.book.last_mut().unwrap().end = Some(good);
                }
                (_, Some((_, true))) => self.book.last_mut().unwrap().end = Some(good),
                _ => {}
            }
        }
        true
    }
}

fn any_reply() -> impl Strategy<Value = &'static str> {
    prop_oneof![
        30 => Just("250 2.0.0 ok\r\n"),
        1 => Just("354 go\r\n"),
        2 => Just("550-5.1.1 no\r\n550 5.1.1 no\r\n"),
        2 => Just("450 later\r\n"),
        1 => Just("452 full\r\n"),
        1 => Just("503 order\r\n"),
        1 => Just("421 bye\r\n"),
        1 => Just("junk\r\n"),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, ..ProptestConfig::default() })]

    /// Whatever is answered: who is delivered is exactly known to the server, too, as taken; and who
    /// is to be taken again at once was not.
    #[test]
    fn books_agree(
        counts in prop::collection::vec(1usize..4, 1..20),
        held in prop::collection::vec(0usize..20, 0..4),
        replies in prop::collection::vec(any_reply(), 0..120),
        cuts in prop::collection::vec(1usize..60, 1..8),
        outstanding in 1u32..20,
    ) {
        let names = ["a@x", "b@x", "c@x"];
        let all: Vec<Mail> = counts.iter().map(|&n| mail(&names[..n])).collect();
        let mut shell = Shell::new(&Options { outstanding, ..options() }, &all);
        shell.held = held;
        shell.feed(b"220 hi\r\n");
        shell.out.clear();
        shell.feed(b"250-hi\r\n250-PIPELINING\r\n250 CHUNKING\r\n");
        let mut server = Server { input: Vec::new(), book: Vec::new(), in_data: false };
        let mut replies = replies.into_iter();
        let mut cut = cuts.iter().cycle();
        while shell.end.is_none() {
            let text = std::mem::take(&mut shell.out);
            prop_assert!(!text.is_empty(), "hangs: nothing said, nothing over");
            let mut answer = Vec::new();
            let more = server.hear(&text, |line| match replies.next() {
                Some("250 2.0.0 ok\r\n") if line == "DATA" => Some("354 go\r\n"),
                reply => reply,
            }, &mut answer);
            let mut rest = &answer[..];
            while !rest.is_empty() && shell.end.is_none() {
                let n = rest.len().min(*cut.next().unwrap());
                shell.feed(&rest[..n]);
                rest = &rest[n..];
            }
            if !more {
                shell.lose(Loss::Connection);
                break;
            }
        }
        shell.lose(Loss::Protocol);
        // Each mail was begun once, in order; one that was not begun has no entry in the book.
        let mut seen = std::collections::BTreeSet::new();
        for line in &shell.results {
            let (who, what) = line.split_once(' ').unwrap();
            let (mail, index) = who.split_once('.').unwrap_or((who, "0"));
            let (mail, index): (usize, usize) = (mail.parse().unwrap(), index.parse().unwrap());
            prop_assert!(seen.insert((mail, index)), "two results: {line}");
            let said = server.book.get(mail).cloned().unwrap_or_default();
            let taken = said.mail && said.rcpt.get(index) == Some(&true) && said.end == Some(true);
            if what.starts_with("Delivered") {
                prop_assert!(taken, "{line}: {said:?}");
            } else if what.starts_with("given back") || what.starts_with("NotTried") {
                prop_assert!(!taken, "{line}: {said:?}");
            }
        }
        prop_assert_eq!(shell.flight.len(), 0);
    }

    /// Two replies that are said twice, by a server that says something else to the end of data than to an
    /// envelope: nobody is delivered whom it has not taken.
    #[test]
    fn replies_said_twice_lose_nothing(
        counts in prop::collection::vec(1usize..4, 1..20),
        kinds in prop::collection::vec(0usize..8, 0..120),
        doubled in prop::collection::vec(0usize..60, 2),
        enhanced in any::<bool>(),
        outstanding in 1u32..20,
    ) {
        let names = ["a@x", "b@x", "c@x"];
        let all: Vec<Mail> = counts.iter().map(|&n| mail(&names[..n])).collect();
        let mut shell = Shell::new(&Options { outstanding, ..options() }, &all);
        shell.feed(b"220 hi\r\n");
        shell.out.clear();
        shell.feed(b"250-hi\r\n250-PIPELINING\r\n250 CHUNKING\r\n");
        let mut server = Server { input: Vec::new(), book: Vec::new(), in_data: false };
        let mut kinds = kinds.into_iter().enumerate();
        // The first message is taken: it shows what the server says.
        let mut ended = false;
        while shell.end.is_none() {
            let text = std::mem::take(&mut shell.out);
            prop_assert!(!text.is_empty(), "hangs: nothing said, nothing over");
            let mut answer = Vec::new();
            let more = server.hear(&text, |line| {
                let (n, kind) = kinds.next()?;
                let (kind, twice) = (if ended { kind } else { 7 }, doubled.contains(&n));
                ended |= line == ".";
                let good = match (line.split([' ', ':']).next().unwrap(), enhanced) {
                    ("MAIL", false) => ["250 OK\r\n", "250 OK\r\n250 OK\r\n"],
                    ("RCPT", false) => ["250 Accepted\r\n", "250 Accepted\r\n250 Accepted\r\n"],
                    ("RSET", false) => ["250 Reset\r\n", "250 Reset\r\n250 Reset\r\n"],
                    ("MAIL", true) => ["250 2.1.0 Ok\r\n", "250 2.1.0 Ok\r\n250 2.1.0 Ok\r\n"],
                    ("RCPT", true) => ["250 2.1.5 Ok\r\n", "250 2.1.5 Ok\r\n250 2.1.5 Ok\r\n"],
                    ("RSET", true) => ["250 2.0.0 Ok\r\n", "250 2.0.0 Ok\r\n250 2.0.0 Ok\r\n"],
                    ("DATA", _) => ["354 go\r\n", "354 go\r\n354 go\r\n"],
                    (_, false) => ["250 OK id=1\r\n", "250 OK id=1\r\n250 OK id=1\r\n"],
                    (_, true) => ["250 2.0.0 Queued\r\n", "250 2.0.0 Queued\r\n250 2.0.0 Queued\r\n"],
                };
                Some(match kind {
                    0 if !line.starts_with("RSET") && twice => "550 no\r\n550 no\r\n",
                    0 if !line.starts_with("RSET") => "550 5.1.1 no\r\n",
                    1 if !line.starts_with("RSET") => "450 later\r\n",
                    _ => good[usize::from(twice)],
                })
            }, &mut answer);
            shell.feed(&answer);
            if !more {
                shell.lose(Loss::Connection);
                break;
            }
        }
        shell.lose(Loss::Protocol);
        for line in shell.results.iter().filter(|line| line.contains(" Delivered")) {
            let (mail, index) = line.split_once(' ').unwrap().0.split_once('.').unwrap();
            let said = &server.book[mail.parse::<usize>().unwrap()];
            let taken = said.mail && said.rcpt[index.parse::<usize>().unwrap()] && said.end == Some(true);
            prop_assert!(taken, "{line}: {said:?}");
        }
        prop_assert_eq!(shell.flight.len(), 0);
    }
}
