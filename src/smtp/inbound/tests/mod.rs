//! Tests of the session: a shell in memory, and what it is driven with.

mod attacks;
mod auth;
mod dialogues;
mod limits;
mod splits;
mod starttls;

use super::*;

/// A message that the shell has stored.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Stored {
    pub sender: String,
    pub recipients: Vec<String>,
    pub body: String,
    pub facts: BodyFacts,
    pub protocol: &'static str,
}

/// A shell in memory. Recipients that begin with `no` do not exist, senders that begin with `bad` are
/// refused; a body that contains `full` meets a full disk.
pub struct Shell {
    pub session: Session,
    pub now: Mono,
    pub buffer: Vec<u8>,
    pub replies: Vec<u8>,
    pub body: Vec<u8>,
    pub stored: Vec<Stored>,
    pub closed: bool,
    pub yields: u32,
    pub pauses: u32,
    pub abandoned: u32,
    pub handshakes: u32,
    /// TLS cannot be had.
    pub no_tls: bool,
    /// Most bytes of replies that waited at once.
    pub most_waiting: usize,
}

impl Shell {
    pub fn new(options: Options) -> Self {
        let now = Mono(1_000_000_000);
        let mut shell = Shell {
            session: Session::new(Rc::new(options), now),
            now,
            buffer: Vec::new(),
            replies: Vec::new(),
            body: Vec::new(),
            stored: Vec::new(),
            closed: false,
            yields: 0,
            pauses: 0,
            abandoned: 0,
            handshakes: 0,
            no_tls: false,
            most_waiting: 0,
        };
        let mut out = Vec::new();
        assert_eq!(shell.session.banner(now, false, &mut out), Step::NeedInput);
        assert_eq!(out, format!("220 {} ESMTP ringpost\r\n", shell.session.options.hostname).as_bytes());
        shell
    }

    /// A session that has said EHLO.
    pub fn greeted(options: Options) -> Self {
        let mut shell = Shell::new(options);
        shell.say("EHLO client.test\r\n");
        shell
    }

    /// Options under which everything may be sent at once.
    pub fn loose(options: Options) -> Options {
        Options { refuse_bad_pipelining: false, ..options }
    }

    /// Feeds text; gives the new replies.
    pub fn say(&mut self, text: &str) -> String {
        self.feed(text.as_bytes())
    }

    pub fn feed(&mut self, bytes: &[u8]) -> String {
        let before = self.replies.len();
        self.buffer.extend_from_slice(bytes);
        while !self.closed && self.turn() {}
        String::from_utf8_lossy(&self.replies[before..]).into_owned()
    }

    /// The codes of the new replies, continuation lines left out.
    pub fn codes(&mut self, text: &str) -> String {
        codes(&self.say(text))
    }

    /// Calls `receive` once and does what it says; false if it needs input.
    fn turn(&mut self) -> bool {
        let mut out = Vec::new();
        let input = std::mem::take(&mut self.buffer);
        let mut at = 0;
        let more = loop {
            let (used, step) = self.session.receive(self.now, &input[at..], &mut out);
            assert!(used <= input.len() - at);
            self.most_waiting = self.most_waiting.max(out.len());
            match step {
                Step::NeedInput => {
                    at += used;
                    break false;
                }
                Step::Ask(question) => self.ask(question, &mut out),
                Step::Body(run) => self.body.extend_from_slice(&input[at..][run]),
                Step::BodyStatic(bytes) => self.body.extend_from_slice(bytes),
                Step::EndOfMessage => self.store(&mut out),
                Step::Abandoned => {
                    self.abandoned += 1;
                    self.body.clear();
                }
                Step::Yield => {
                    self.yields += 1;
                    at += used;
                    break true;
                }
                Step::Pause(until) => {
                    assert!(until > self.now);
                    (self.now, self.pauses) = (until, self.pauses + 1);
                    at += used;
                    break true;
                }
                Step::StartTls => {
                    assert_eq!(at + used, input.len(), "nothing in clear text is left");
                    self.body.clear();
                    self.handshakes += 1;
                    self.session.secured(self.now, Rc::new(security()));
                }
                Step::Close => {
                    self.closed = true;
                    break false;
                }
            }
            at += used;
        };
        self.buffer = input[at..].to_vec();
        self.replies.extend_from_slice(&out);
        more
    }

    fn ask(&mut self, question: Question, out: &mut Vec<u8>) {
        let view = self.session.envelope().view();
        let answer = match question {
            Question::Sender if view.sender().starts_with(b"bad") => {
                Answer::Refuse(Refusal::Own { code: 550, enhanced: (7, 1), text: b"Not you" })
            }
            Question::Sender if view.sender().starts_with(b"gone") => {
                Answer::Refuse(Reply::STORAGE_FAILED.into())
            }
            Question::Recipient if self.session.envelope().last().unwrap().address.starts_with(b"no") => {
                Answer::Refuse(Reply::NO_SUCH_USER.into())
            }
            Question::Auth => return auth::ask(self, out),
            Question::Tls if self.no_tls => Answer::Refuse(Reply::TLS_UNAVAILABLE.into()),
            _ => Answer::Accept,
        };
        self.session.answer(self.now, answer, out);
    }

    fn store(&mut self, out: &mut Vec<u8>) {
        let text = |b: &[u8]| String::from_utf8_lossy(b).into_owned();
        let body = text(&std::mem::take(&mut self.body));
        if body.contains("full") {
            return self.session.refused(self.now, Reply::NO_SPACE.into(), out);
        }
        let view = self.session.envelope().view();
        self.stored.push(Stored {
            sender: text(view.sender()),
            recipients: view.recipients().map(|r| text(r.address)).collect(),
            facts: self.session.body_facts(),
            protocol: self.session.protocol().text(),
            body,
        });
        let id = format!("ID{}", self.stored.len());
        self.session.accepted(self.now, id.as_bytes(), Committed::forged(), out);
    }
}

/// What a handshake brought.
pub fn security() -> Security {
    Security {
        version: crate::base::security::TlsVersion::Tls13,
        cipher: "TLS_AES_128_GCM_SHA256",
        resumed: false,
        server_name: None,
        client: None,
        bindings: Default::default(),
    }
}

/// The codes of replies, continuation lines left out.
pub fn codes(replies: &str) -> String {
    assert!(replies.is_empty() || replies.ends_with("\r\n"), "whole lines: {replies:?}");
    let last = replies.split_terminator("\r\n").filter(|l| l.as_bytes()[3] == b' ');
    last.map(|l| &l[..3]).collect::<Vec<_>>().join(" ")
}
