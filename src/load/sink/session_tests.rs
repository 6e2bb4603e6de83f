//! The server machine against scripted clients.

use super::*;
use crate::load::sink::fault::Fault;

#[derive(Default)]
struct Seen(Vec<(String, String, u64)>);

impl Taker for Seen {
    fn take(&mut self, a: &Arrival<'_>) {
        self.0.push((a.from.to_owned(), a.recipients.to_owned(), a.facts.size));
    }
}

struct World {
    profile: Profile,
    faults: Faults,
    counters: Counters,
    seen: Seen,
    session: Session,
}

fn world(pipelining: bool, faults: &[Fault]) -> World {
    World {
        profile: Profile {
            hostname: "sink.test".into(),
            pipelining,
            chunking: true,
            max_size: 1000,
            keep: None,
        },
        faults: Faults::new(faults.to_vec(), 1),
        counters: Counters::default(),
        seen: Seen::default(),
        session: Session::new(),
    }
}

impl World {
    /// Feeds `input`, going on after pauses; the replies and the last step.
    fn say(&mut self, input: &[u8]) -> (String, Next) {
        let (mut out, mut used) = (Vec::new(), 0);
        loop {
            let (n, next) = self.session.feed(
                &input[used..],
                &self.profile,
                &mut self.faults,
                &self.counters,
                &mut self.seen,
                &mut out,
            );
            used += n;
            if !matches!(next, Next::Pause(_)) {
                return (String::from_utf8(out).expect("ASCII"), next);
            }
        }
    }

    fn codes(&mut self, input: &str) -> Vec<String> {
        self.say(input.as_bytes()).0.lines().map(|l| l[..4].to_owned()).collect()
    }
}

const TALK: &str = "EHLO c.test\r\nMAIL FROM:<a@x> SIZE=10 BODY=8BITMIME\r\n\
    RCPT TO:<\"b >\"@x>\r\nRCPT TO:<c@x>\r\nDATA\r\nA: b\r\n\r\n..x\r\n.\r\n\
    MAIL FROM:<>\r\nRCPT TO:<d@x>\r\nDATA\r\n.\r\nQUIT\r\n";

#[test]
fn a_whole_session_split_at_every_byte() {
    for cut in 0..TALK.len() {
        let mut w = world(true, &[]);
        let (mut replies, _) = w.say(&TALK.as_bytes()[..cut]);
        let (rest, next) = w.say(&TALK.as_bytes()[cut..]);
        replies.push_str(&rest);
        let codes: Vec<&str> = replies.lines().filter(|l| !l.starts_with("250-")).map(|l| &l[..3]).collect();
        let want = ["250", "250", "250", "250", "354", "250", "250", "250", "354", "250", "221"];
        assert_eq!((codes.as_slice(), next), (&want[..], Next::Close), "cut at {cut}");
        assert_eq!(
            w.seen.0,
            [("a@x".into(), "\"b%20>\"@x,c@x".into(), 12), (String::new(), "d@x".into(), 0)]
        );
        assert_eq!(w.counters.violations.get(), 0);
    }
}

#[test]
fn commands_out_of_order_and_bad_syntax_count() {
    let mut w = world(true, &[]);
    assert_eq!(w.codes("MAIL FROM:<a@x>\r\n"), ["503 "]);
    w.say(b"HELO c\r\n");
    assert_eq!(w.codes("MAIL FROM: <a@x>\r\n"), ["501 "], "a space after the colon");
    assert_eq!(w.codes("MAIL FROM:<a@x\r\n"), ["501 "]);
    assert_eq!(w.codes("WHAT\r\n"), ["500 "]);
    assert_eq!(w.counters.violations.get(), 4);
    assert_eq!(w.codes("RCPT TO:<a@x>\r\nDATA\r\n"), ["503 ", "503 "]);
    assert_eq!(w.counters.violations.get(), 4, "a refused MAIL makes these, too");
    assert_eq!(w.say("MAIL FROM:<\u{e4}@x>\r\n".as_bytes()).0[..3], *"553");
    assert_eq!(w.say("MAIL FROM:<\u{e4}@x> SMTPUTF8\r\n".as_bytes()).0[..3], *"250");
}

#[test]
fn bare_newlines_are_refused() {
    let mut w = world(true, &[]);
    let (replies, next) = w.say(b"EHLO c\nMAIL FROM:<a@x>\r\n");
    assert!(replies.starts_with("500") && next == Next::Close);
    let mut w = world(true, &[]);
    let codes = w.codes("HELO c\r\nMAIL FROM:<a@x>\r\nRCPT TO:<b@x>\r\nDATA\r\na\nb\r\n.\r\n");
    assert_eq!(codes.last().map(String::as_str), Some("550 "));
    assert!(w.seen.0.is_empty());
    assert_eq!(w.counters.violations.get(), 1);
}

#[test]
fn lines_sizes_and_mistakes_are_bounded() {
    let mut w = world(true, &[]);
    assert_eq!(w.say(&[b'x'; MAX_LINE + 1]).1, Next::Close);
    let mut w = world(true, &[]);
    let body = "x".repeat(1001);
    let codes = w.codes(&format!("HELO c\r\nMAIL FROM:<a@x>\r\nRCPT TO:<b@x>\r\nDATA\r\n{body}\r\n.\r\n"));
    assert_eq!(codes.last().map(String::as_str), Some("552 "));
    let mut w = world(true, &[]);
    assert_eq!(w.say("X\r\n".repeat(MAX_MISTAKES as usize + 1).as_bytes()).1, Next::Close);
    let mut w = world(true, &[]);
    let many = "RCPT TO:<b@x>\r\n".repeat(MAX_RECIPIENTS as usize + 1);
    let codes = w.codes(&format!("HELO c\r\nMAIL FROM:<a@x>\r\n{many}"));
    assert_eq!(codes.last().map(String::as_str), Some("452 "));
}

#[test]
fn pipelining_without_the_offer_counts() {
    let mut w = world(false, &[]);
    let (replies, _) = w.say(b"EHLO c\r\n");
    assert!(!replies.contains("PIPELINING"));
    w.say(b"MAIL FROM:<a@x>\r\n");
    assert_eq!(w.counters.violations.get(), 0);
    w.say(b"RCPT TO:<a@x>\r\nDATA\r\n");
    assert_eq!(w.counters.violations.get(), 1);
}

#[test]
fn faults_strike_where_they_are_told() {
    let always = |kind, phase| [Fault { kind, ppm: 1_000_000, phase }];
    let begin = "HELO c\r\nMAIL FROM:<a@x>\r\nRCPT TO:<b@x>\r\n";
    let whole = format!("{begin}DATA\r\nx\r\n.\r\n");
    let mut w = world(true, &always(Kind::Tempfail, Phase::Rcpt));
    assert_eq!(w.codes(begin)[2], "451 ");
    let mut w = world(true, &always(Kind::Reject, Phase::Dot));
    assert_eq!(w.codes(&whole)[4], "550 ");
    assert!(w.seen.0.is_empty());
    assert_eq!(w.counters.rejects.get(), 1);
    for phase in [Phase::Data, Phase::Dot] {
        let mut w = world(true, &always(Kind::Drop, phase));
        assert_eq!(w.say(whole.as_bytes()).1, Next::Drop);
        assert!(w.seen.0.is_empty());
        assert_eq!(w.counters.dropped.get(), 1);
    }
    let mut w = world(true, &always(Kind::Delay(Duration::from_secs(1)), Phase::Dot));
    let mut out = Vec::new();
    let (used, next) =
        w.session.feed(whole.as_bytes(), &w.profile, &mut w.faults, &w.counters, &mut w.seen, &mut out);
    assert_eq!((used, next), (whole.len(), Next::Pause(Duration::from_secs(1))));
    let mut w = world(true, &always(Kind::Tempfail, Phase::Connect));
    let mut out = Vec::new();
    assert_eq!(w.session.greet(&w.profile, &mut w.faults, &mut out), Next::Close);
    assert!(out.starts_with(b"451"));
}

#[test]
fn chunks_split_at_every_byte() {
    let talk = "EHLO c.test\r\nMAIL FROM:<a@x>\r\nRCPT TO:<b@x>\r\nBDAT 0\r\nBDAT 5\r\nA: b\r\
        BDAT 5 LAST\r\n\n\r\n..RSET\r\nMAIL FROM:<c@x>\r\nBDAT 6 LAST\r\nQUIT\r\n\
        RSET\r\nMAIL FROM:<d@x>\r\nRCPT TO:<e@x>\r\nBDAT 0 LAST\r\nQUIT\r\n";
    for cut in 0..talk.len() {
        let mut w = world(true, &[]);
        let (mut replies, _) = w.say(&talk.as_bytes()[..cut]);
        let (rest, next) = w.say(&talk.as_bytes()[cut..]);
        replies.push_str(&rest);
        let codes: Vec<&str> = replies.lines().filter(|l| !l.starts_with("250-")).map(|l| &l[..3]).collect();
        let want = [
            "250", "250", "250", "250", "250", "250", "250", "250", "554", "250", "250", "250", "250", "221",
        ];
        assert_eq!((codes, next), (want.to_vec(), Next::Close), "cut at {cut}");
        let seen: Vec<_> = w.seen.0.iter().map(|(f, r, n)| (f.as_str(), r.as_str(), *n)).collect();
        assert_eq!(seen, [("a@x", "b@x", 10), ("d@x", "e@x", 0)]);
        assert_eq!(w.counters.violations.get(), 0);
    }
}

#[test]
fn chunks_out_of_order() {
    let mut w = world(true, &[]);
    w.codes("EHLO c.test\r\n");
    // What finds no transaction is thrown away, not obeyed.
    assert_eq!(w.codes("BDAT 6 LAST\r\nQUIT\r\nNOOP\r\n"), ["503 ", "250 "]);
    let mail = "MAIL FROM:<a@x>\r\nRCPT TO:<b@x>\r\n";
    assert_eq!(w.codes(&format!("{mail}BDAT 2\r\nx\nDATA\r\n")), ["250 ", "250 ", "250 ", "503 "]);
    assert_eq!(w.codes("BDAT 0 LAST\r\n"), ["550 "], "a bare LF");
    assert_eq!(w.say(b"BDAT -1 LAST\r\n").1, Next::Close);
    let mut w = world(true, &[]);
    w.profile.chunking = false;
    assert!(!w.say(b"EHLO c.test\r\n").0.contains("CHUNKING"));
    assert_eq!(w.codes("BDAT 0\r\n"), ["500 "]);
    let refused = |phase| Fault { kind: Kind::Reject, ppm: 1_000_000, phase };
    let mut w = world(true, &[refused(Phase::Data)]);
    w.codes("EHLO c.test\r\n");
    assert_eq!(w.codes(&format!("{mail}BDAT 3\r\nabcBDAT 3 LAST\r\nabc")), ["250 ", "250 ", "550 ", "503 "]);
    let mut w = world(true, &[refused(Phase::Dot)]);
    w.codes("EHLO c.test\r\n");
    assert_eq!(w.codes(&format!("{mail}BDAT 0\r\nBDAT 3 LAST\r\nabc")), ["250 ", "250 ", "250 ", "550 "]);
    assert!(w.seen.0.is_empty());
}
