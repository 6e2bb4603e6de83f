//! The client machine against a server that says anything: it always wants something that has a
//! deadline or is over, gives one result for each recipient, and delivers only after an end of data
//! of that message has left, by dot or chunk.
#![no_main]

use libfuzzer_sys::fuzz_target;
use ringpost::base::time::Mono;
use ringpost::message::body::BodyFlags;
use ringpost::message::envelope::{Envelope, Notify, SenderOptions};
use ringpost::smtp::outbound::{Begun, Client, Ending, Framing, Loss, Options, Outcome, Request, Step};
use std::collections::VecDeque;

const NOW: Mono = Mono(1);
const MESSAGES: usize = 40;
const BODY: &[u8] = b"Hi!!\r\n";

struct Shell {
    client: Client,
    out: Vec<u8>,
    begun: usize,
    /// For each message in flight, oldest first: its end of data has left.
    flight: VecDeque<bool>,
    lmtp: bool,
}

impl Shell {
    fn begin(&mut self) -> bool {
        while self.begun < MESSAGES {
            self.begun += 1;
            let count = self.begun as u32 % 3 + 1;
            let mut envelope = Envelope::default();
            envelope.begin(b"s@x", SenderOptions::default(), b"id");
            (0..count).for_each(|_| envelope.push("r\u{f6}@y".as_bytes(), Notify::SUCCESS, b"rfc822;r"));
            envelope.push(b"plain@y", Notify::DEFAULT, b"");
            let recipients: Vec<u32> = (0..=count).collect();
            let flags = BodyFlags((self.begun as u8) & 6);
            let request = Request {
                envelope: envelope.view(),
                recipients: &recipients,
                flags,
                size: BODY.len() as u64,
                at_once: self.begun % 5 != 0,
            };
            let before = self.out.len();
            // With LMTP nothing is said that could be answered in a recipient's place.
            assert!(!self.lmtp || self.flight.is_empty());
            match self.client.begin(NOW, &request, &mut self.out) {
                Begun::Sent => {
                    self.flight.push_back(false);
                    return true;
                }
                Begun::Whole => {
                    assert!(request.at_once && self.client.capabilities().chunking && !self.lmtp);
                    self.out.extend_from_slice(BODY);
                    self.flight.push_back(true);
                    return true;
                }
                Begun::Refused => {
                    assert_eq!(self.out.len(), before);
                    let results = self.client.results();
                    assert!(results.iter().all(|r| r.outcome == Outcome::Failed && r.code == 0));
                }
            }
        }
        false
    }

    fn settle(&mut self) {
        let ended = self.flight.pop_front().expect("a message is in flight");
        let results = self.client.results();
        assert!(results.windows(2).all(|w| w[0].index + 1 == w[1].index));
        if results.iter().any(|r| r.outcome == Outcome::Delivered) {
            assert!(ended, "delivered without an end of data");
        }
    }

    /// False: the connection is over.
    fn feed(&mut self, mut input: &[u8]) -> bool {
        loop {
            let (n, step) = self.client.receive(NOW, input, &mut self.out);
            assert!(n <= input.len());
            input = &input[n..];
            match step {
                Step::NeedInput => {
                    assert!(input.is_empty() && self.client.deadline().is_some());
                    return true;
                }
                Step::Ready => {
                    if !self.client.has_room() || !self.begin() {
                        self.client.quit(NOW, &mut self.out);
                    }
                    while self.client.can_follow() && self.begin() {}
                }
                Step::SendBody => {
                    match self.client.open_body(&mut self.out) {
                        Framing::Dots => self.out.extend_from_slice(b"Hi!!\r\n.\r\n"),
                        Framing::Counted => self.out.extend_from_slice(BODY),
                    }
                    self.client.end_body(NOW);
                    assert!(!self.flight[0], "sent twice");
                    self.flight[0] = true;
                    while self.client.can_follow() && self.begin() {}
                }
                Step::StartTls => unreachable!("it is not asked for"),
                Step::Settled => self.settle(),
                Step::Close(_) => return false,
            }
        }
    }
}

fuzz_target!(|data: &[u8]| {
    let Some((&first, text)) = data.split_first() else { return };
    let (size, lmtp) = (first & 0x7f, first & 0x80 != 0);
    let client = Client::new(Options { lmtp, ..Options::new("fuzz.example") }, NOW);
    let mut shell = Shell { client, out: Vec::new(), begun: 0, flight: VecDeque::new(), lmtp };
    let mut open = true;
    for piece in text.chunks(usize::from(size).max(1)) {
        open = open && shell.feed(piece);
    }
    while let Some(ending) = shell.client.lost(Loss::Connection) {
        match ending {
            Ending::Settled => shell.settle(),
            Ending::GiveBack => {
                assert_eq!(shell.flight.pop_front(), Some(false), "what may be taken is not given back");
            }
        }
    }
    assert!(shell.flight.is_empty());
    assert!(shell.out.split(|&b| b == b'\n').all(|l| l.is_empty() || l.ends_with(b"\r")));
});
