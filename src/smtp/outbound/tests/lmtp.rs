//! LMTP: the same dialogues, with a reply for each recipient (RFC 2033).

use super::*;

fn lmtp() -> Options {
    Options { lmtp: true, ..options() }
}

const HELLO: &str = "S: 220 hi\nC: LHLO mx.example\nS: 250-hi\nS: 250 PIPELINING\n";
const CHUNKED: &str = "S: 220 hi\nC: LHLO mx.example\nS: 250-hi\nS: 250-PIPELINING\nS: 250 CHUNKING\n";

fn talk(mails: &[Mail], rest: &str) -> Vec<String> {
    play(&lmtp(), mails, &format!("{HELLO}{rest}"))
}

/// A message to `to` as it is begun, all of whom are taken, up to its end.
fn taken(to: &[&str]) -> String {
    let commands: String = to.iter().map(|to| format!("C: RCPT TO:<{to}>\n")).collect();
    let replies = "S: 250 ok\n".repeat(to.len() + 1);
    format!("C: MAIL FROM:<s@from.example>\n{commands}C: DATA\n{replies}S: 354 go\nC: Hi!\nC: .\n")
}

#[test]
fn each_recipient_has_its_own_reply() {
    let got = talk(
        &[mail(&["a@x", "b@x", "c@x", "d@x"]), mail(&["e@x"])],
        "C: MAIL FROM:<s@from.example>
         C: RCPT TO:<a@x>
         C: RCPT TO:<b@x>
         C: RCPT TO:<c@x>
         C: RCPT TO:<d@x>
         C: DATA
         S: 250 ok
         S: 250 ok
         S: 550 5.1.1 no such user
         S: 250 ok
         S: 250 ok
         S: 354 go
         C: Hi!
         C: .
         S: 250 2.0.0 saved
         S: 452-4.2.2 mailbox
         S: 452 4.2.2 is full
         S: 554 5.7.1 not for d
         C: MAIL FROM:<s@from.example>
         C: RCPT TO:<e@x>
         C: DATA
         S: 250 ok
         S: 250 ok
         S: 354 go
         C: Hi!
         C: .
         S: 250 2.0.0 saved e
         C: QUIT
         S: 221 bye",
    );
    // Those that were refused before have no reply: the second is c's neighbour's.
    assert_eq!(
        got,
        [
            "0.0 Delivered 250 2.0.0 saved (end of data)",
            "0.1 Failed 550 5.1.1 no such user (RCPT)",
            "0.2 Deferred 452 4.2.2 mailbox is full (end of data)",
            "0.3 Failed 554 5.7.1 not for d (end of data)",
            "1.0 Delivered 250 2.0.0 saved e (end of data)",
            "Quit"
        ]
    );
}

#[test]
fn one_command_at_a_time() {
    let got = play(
        &lmtp(),
        &[mail(&["a@x", "b@x"])],
        "S: 220 hi
         C: LHLO mx.example
         S: 250 hi
         C: MAIL FROM:<s@from.example>
         S: 250 ok
         C: RCPT TO:<a@x>
         S: 250 ok
         C: RCPT TO:<b@x>
         S: 250 ok
         C: DATA
         S: 354 go
         C: Hi!
         C: .
         S: 451 a
         S: 250 b
         C: QUIT
         S: 221 bye",
    );
    assert_eq!(got, ["0.0 Deferred 451 a (end of data)", "0.1 Delivered 250 b (end of data)", "Quit"]);
}

#[test]
fn who_was_not_answered_is_in_doubt_and_nobody_else() {
    let lost = "connection lost after end of data; message may have been taken (end of data)";
    let got = talk(
        &[mail(&["a@x", "b@x", "c@x"]), mail(&["d@x"])],
        &format!("{}S: 250 a\nLOST", taken(&["a@x", "b@x", "c@x"])),
    );
    assert_eq!(
        got,
        [
            "0.0 Delivered 250 a (end of data)".into(),
            format!("0.1 Deferred 0 4.4.2 {lost}"),
            format!("0.2 Deferred 0 4.4.2 {lost}")
        ]
    );
    // 421 is about all that are left.
    let got = talk(
        &[mail(&["a@x", "b@x", "c@x"])],
        &format!("{}S: 250 a\nS: 421 4.3.2 going down", taken(&["a@x", "b@x", "c@x"])),
    );
    assert_eq!(got[0], "0.0 Delivered 250 a (end of data)");
    assert_eq!(
        got[1..3].join("+"),
        "0.1 Deferred 421 4.3.2 going down (end of data)+\
        0.2 Deferred 421 4.3.2 going down (end of data)"
    );
    assert_eq!(got[3], "ServerClosing");
    // Nothing is sent that could be answered in a recipient's place: the client waits.
    let mut shell = Shell::new(&lmtp(), &[mail(&["a@x", "b@x"]), mail(&["c@x"])]);
    shell.feed(b"220 hi\r\n");
    shell.feed(b"250-hi\r\n250 PIPELINING\r\n");
    shell.feed(b"250 ok\r\n250 ok\r\n250 ok\r\n354 go\r\n");
    shell.out.clear();
    shell.feed(b"250 a\r\n");
    assert!(shell.out.is_empty() && shell.results.is_empty() && shell.client.deadline().is_some());
}

#[test]
fn one_reply_too_many_ends_the_connection() {
    let mut shell = Shell::new(&lmtp(), &[mail(&["a@x"]), mail(&["b@x"])]);
    shell.feed(b"220 hi\r\n");
    shell.feed(b"250-hi\r\n250 PIPELINING\r\n");
    shell.feed(b"250 ok\r\n250 ok\r\n354 go\r\n");
    shell.feed(b"250 a\r\n250 b\r\n");
    assert_eq!(shell.end, Some(Close::Unexpected(250)));
    assert_eq!(shell.results, ["0.0 Delivered 250 a (end of data)"]);
}

#[test]
fn a_server_of_smtp_is_not_greeted_twice() {
    let got = play(&lmtp(), &[mail(&["a@x"])], "S: 220 hi\nC: LHLO mx.example\nS: 500 5.5.1 what");
    assert_eq!(got, ["Refused(500)"]);
}

#[test]
fn nobody_is_taken() {
    let refused = "C: MAIL FROM:<s@from.example>
         C: RCPT TO:<a@x>
         C: DATA
         S: 250 ok
         S: 550 5.1.1 no\n";
    let got = talk(&[mail(&["a@x"])], &format!("{refused}S: 503 5.5.1 nobody\nC: QUIT\nS: 221 bye"));
    assert_eq!(got, ["0.0 Failed 550 5.1.1 no (RCPT)", "Quit"]);
    // RFC 2033 forbids this; how many replies the dot would get is not known.
    let got = talk(&[mail(&["a@x"])], &format!("{refused}S: 354 go"));
    assert_eq!(got, ["0.0 Failed 550 5.1.1 no (RCPT)", "Unexpected(354)"]);
}

/// A reply in surplus that comes late stands in the place of the reply to MAIL, and each one behind it in
/// that of the next command: at DATA it shows. BDAT, which may be answered as RCPT is, would hide it.
#[test]
fn replies_out_of_step_deliver_nothing() {
    let mails = [mail(&["a@x", "b@x"]), mail(&["c@x"])];
    let first = format!("{CHUNKED}{}S: 250 a\nS: 250 b\n", taken(&["a@x", "b@x"]));
    let got = play(
        &lmtp(),
        &mails,
        &format!(
            "{first}C: MAIL FROM:<s@from.example>\nC: RCPT TO:<c@x>\nC: DATA\n\
             S: 250 b once more\nS: 250 sender ok\nS: 250 recipient ok"
        ),
    );
    assert_eq!(got[..2], ["0.0 Delivered 250 a (end of data)", "0.1 Delivered 250 b (end of data)"]);
    assert!(got[2].starts_with("1.0 Deferred 0 4.5.0"), "{got:?}");
    assert_eq!(got[3..], ["Unexpected(250)"]);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1000, ..ProptestConfig::default() })]

    /// Whatever the server answers, and however few replies there are: who is delivered got a 2xx of its
    /// own, in the place of a recipient that was taken.
    #[test]
    fn books_agree(
        chunking: bool,
        counts in prop::collection::vec(1usize..5, 1..6),
        replies in prop::collection::vec(reply_strategy(), 0..60),
        missing in prop::collection::vec(0usize..12, 0..3),
        cut in 1usize..40,
    ) {
        let names = ["a@x", "b@x", "c@x", "d@x"];
        let mails: Vec<Mail> = counts.iter().map(|&n| mail(&names[..n])).collect();
        let mut shell = Shell::new(&lmtp(), &mails);
        shell.feed(b"220 hi\r\n");
        shell.out.clear();
        shell.feed(if chunking { b"250-hi\r\n250-PIPELINING\r\n250 CHUNKING\r\n" } else { b"250 hi\r\n" });
        let mut server = Server::default();
        let mut replies = replies.into_iter();
        while shell.end.is_none() {
            let text = std::mem::take(&mut shell.out);
            let mut answer = Vec::new();
            let more = server.hear(&text, &mut replies, &missing, &mut answer);
            // Nothing said and nothing over: it waits for replies that will not come.
            if text.is_empty() || !more {
                shell.feed(&answer);
                shell.lose(Loss::Deadline);
                break;
            }
            answer.chunks(cut).for_each(|piece| if shell.end.is_none() { shell.feed(piece) });
        }
        shell.lose(Loss::Protocol);
        for line in shell.results.iter().filter(|l| l.contains("Delivered")) {
            let (mail, index) = line.split(' ').next().unwrap().split_once('.').unwrap();
            let who = (mail.parse::<usize>().unwrap(), index.parse::<usize>().unwrap());
            prop_assert!(server.taken.contains(&who), "{line}: {:?}", server.taken);
        }
    }
}

/// A server that answers with whatever comes next, but to an end of data for each recipient that it took.
#[derive(Default)]
struct Server {
    mails: usize,
    listed: usize,
    accepted: Vec<usize>,
    in_data: bool,
    dots: usize,
    /// Recipients, by message and number, whose own reply was a 2xx.
    taken: Vec<(usize, usize)>,
}

impl Server {
    /// Takes commands; false when there is nothing left to say. `missing`: ends of data that get one
    /// reply too few.
    fn hear(
        &mut self,
        text: &[u8],
        replies: &mut impl Iterator<Item = &'static str>,
        missing: &[usize],
        out: &mut Vec<u8>,
    ) -> bool {
        for line in text.split_inclusive(|&b| b == b'\n') {
            let line = std::str::from_utf8(line).unwrap().trim_end();
            let ends = self.in_data && line == "." || line.starts_with("BDAT");
            if ends {
                if !self.end(replies, missing, out) {
                    return false;
                }
                continue;
            }
            if self.in_data || line == "Hi!!" {
                continue;
            }
            let Some(reply) = replies.next() else { return false };
            let reply = match line {
                "DATA" if reply.starts_with("250") && !self.accepted.is_empty() => "354 go\r\n",
                _ => reply,
            };
            out.extend_from_slice(reply.as_bytes());
            let good = reply.starts_with('2');
            if line.starts_with("MAIL") {
                self.mails += 1;
                (self.listed, self.accepted) = (0, Vec::new());
            } else if line.starts_with("RCPT") {
                self.accepted.extend(good.then_some(self.listed));
                self.listed += 1;
            } else if line == "DATA" {
                self.in_data = reply.starts_with('3');
            }
        }
        true
    }

    fn end(
        &mut self,
        replies: &mut impl Iterator<Item = &'static str>,
        missing: &[usize],
        out: &mut Vec<u8>,
    ) -> bool {
        self.in_data = false;
        self.dots += 1;
        let mut accepted = std::mem::take(&mut self.accepted);
        if missing.contains(&self.dots) {
            accepted.pop();
        }
        for index in accepted {
            let Some(reply) = replies.next() else { return false };
            out.extend_from_slice(reply.as_bytes());
            if reply.starts_with('2') {
                self.taken.push((self.mails - 1, index));
            }
        }
        true
    }
}
