//! The server side of one SMTP session at a sink, as a state machine without IO.
//!
//! Owns a small strict server: RFC 5321 commands in order, bounded lines and recipients, replies
//! with enhanced codes, PIPELINING and CHUNKING only where they are offered. It plays the faults it is
//! told to. Bytes come as arguments; replies go to a buffer; each message taken goes to [`Taker`].
//! A client that breaks the rules is answered by the RFC and counted in [`Counters`]: for the relay
//! under test every such count is a finding.

mod chunk;

use super::body::{Body, Facts};
use super::fault::{Faults, Kind, Phase};
use super::stats::Counters;
use crate::load::ledger::push_recipient;
use std::time::Duration;

/// Longest command line, RFC 5321 §4.5.3.1.4 with room for extension parameters.
const MAX_LINE: usize = 4096;
/// Recipients per transaction; more get 452.
const MAX_RECIPIENTS: u32 = 1000;
/// Commands that are no commands, after which a session is closed.
const MAX_MISTAKES: u32 = 20;

/// What all sessions of a sink share.
pub struct Profile {
    /// Name in greeting and EHLO reply.
    pub hostname: String,
    /// Whether PIPELINING is offered.
    pub pipelining: bool,
    /// Whether CHUNKING is offered.
    pub chunking: bool,
    /// Largest message in bytes; 0: any.
    pub max_size: u64,
    /// Bytes of content to keep for the taker; none: no content.
    pub keep: Option<usize>,
}

/// A message that the sink is about to take.
pub struct Arrival<'a> {
    /// Address in MAIL FROM; empty for the null sender.
    pub from: &'a str,
    /// Recipients in ledger form: percent-encoded, joined by commas.
    pub recipients: &'a str,
    /// How many.
    pub recipient_count: u32,
    /// What the body holds.
    pub facts: &'a Facts,
    /// The content, if the profile keeps it.
    pub content: Option<&'a [u8]>,
}

/// Takes messages. Called when the positive reply is written.
pub trait Taker {
    /// Takes one.
    fn take(&mut self, arrival: &Arrival<'_>);
}

/// What the shell does next.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Next {
    /// Send the replies and read on: all input is used.
    Read,
    /// Wait, send the replies, then feed what is left of the input.
    Pause(Duration),
    /// Send the replies and close.
    Close,
    /// Close at once, without sending.
    Drop,
}

/// One session.
pub struct Session {
    line: Vec<u8>,
    greeted: bool,
    from: Option<String>,
    recipients: String,
    recipient_count: u32,
    eight_bit: bool,
    body: Option<Body>,
    /// The chunk whose bytes come next.
    chunk: Option<chunk::Chunk>,
    /// What the chunks so far hold.
    chunks: Option<Body>,
    drop_in_body: bool,
    mistakes: u32,
}

enum After {
    Go,
    Pause(Duration),
    Close,
    Drop,
}

impl Default for Session {
    fn default() -> Self {
        Self::new()
    }
}

impl Session {
    /// A session before its greeting; see [`Session::greet`].
    #[must_use]
    pub fn new() -> Self {
        Session {
            line: Vec::new(),
            greeted: false,
            from: None,
            recipients: String::new(),
            recipient_count: 0,
            eight_bit: false,
            body: None,
            chunk: None,
            chunks: None,
            drop_in_body: false,
            mistakes: 0,
        }
    }

    /// Writes the greeting.
    pub fn greet(&mut self, profile: &Profile, faults: &mut Faults, out: &mut Vec<u8>) -> Next {
        let greeting = format!("220 {} ESMTP load sink", profile.hostname);
        let (text, after) = act(faults, Phase::Connect, &greeting);
        say(out, text);
        match after {
            After::Go if text.starts_with('2') => Next::Read,
            After::Pause(d) if text.starts_with('2') => Next::Pause(d),
            After::Drop => Next::Drop,
            _ => Next::Close,
        }
    }

    /// Takes `input`: how many bytes were used, and what to do next.
    pub fn feed(
        &mut self,
        input: &[u8],
        profile: &Profile,
        faults: &mut Faults,
        counters: &Counters,
        taker: &mut impl Taker,
        out: &mut Vec<u8>,
    ) -> (usize, Next) {
        let mut used = 0;
        while used < input.len() || self.chunk.is_some_and(|c| c.is_complete()) {
            let rest = &input[used..];
            let after = if self.chunk.is_some() {
                let (n, after) = self.chunk_bytes(rest, profile, faults, counters, taker, out);
                used += n;
                after
            } else if self.body.is_some() {
                let (n, after) = self.body_bytes(rest, profile, faults, counters, taker, out);
                used += n;
                after
            } else {
                let Some(n) = self.collect(rest) else {
                    counters.violations.add(1);
                    say(out, "500 5.5.2 Line too long");
                    return (input.len(), Next::Close);
                };
                used += n;
                if !self.line.ends_with(b"\n") {
                    return (used, Next::Read);
                }
                let line = std::mem::take(&mut self.line);
                let after = self.command(&line, profile, faults, counters, out);
                self.line = line;
                self.line.clear();
                let waits = self.chunk.is_none() && matches!(after, After::Go);
                if !profile.pipelining && used < input.len() && waits {
                    // The client did not wait for the reply although it was not told that it may.
                    counters.violations.add(1);
                }
                after
            };
            match after {
                After::Go => {}
                After::Pause(d) => return (used, Next::Pause(d)),
                After::Close => return (used, Next::Close),
                After::Drop => return (used, Next::Drop),
            }
        }
        (used, Next::Read)
    }

    /// Adds bytes up to a line end to `self.line`; how many, none if the line gets too long.
    fn collect(&mut self, input: &[u8]) -> Option<usize> {
        let n = memchr::memchr(b'\n', input).map_or(input.len(), |i| i + 1);
        if self.line.len() + n > MAX_LINE {
            return None;
        }
        self.line.extend_from_slice(&input[..n]);
        Some(n)
    }

    fn command(
        &mut self,
        line: &[u8],
        profile: &Profile,
        faults: &mut Faults,
        counters: &Counters,
        out: &mut Vec<u8>,
    ) -> After {
        let Some(text) = line.strip_suffix(b"\r\n").filter(|t| memchr::memchr2(b'\r', 0, t).is_none()) else {
            counters.violations.add(1);
            say(out, "500 5.5.2 Bare CR, LF or NUL in a command");
            return After::Close;
        };
        let end = text.iter().position(|&b| b == b' ').unwrap_or(text.len());
        let (verb, argument) = (&text[..end], text[end..].trim_ascii());
        let is = |word: &str| verb.eq_ignore_ascii_case(word.as_bytes());
        let mut after = After::Go;
        if is("MAIL") {
            after = self.mail(argument, faults, counters, out);
        } else if is("RCPT") {
            after = self.rcpt(argument, faults, counters, out);
        } else if is("DATA") {
            after = self.data(profile, faults, counters, out);
        } else if is("BDAT") && profile.chunking {
            after = self.bdat(argument, profile, faults, counters, out);
        } else if is("EHLO") {
            self.reset();
            self.greeted = true;
            ehlo(profile, out);
        } else if is("HELO") {
            self.reset();
            self.greeted = true;
            say(out, &format!("250 {}", profile.hostname));
        } else if is("RSET") {
            self.reset();
            say(out, "250 2.0.0 Ok");
        } else if is("NOOP") {
            say(out, "250 2.0.0 Ok");
        } else if is("VRFY") {
            say(out, "252 2.0.0 Send and see");
        } else if is("QUIT") {
            say(out, "221 2.0.0 Bye");
            after = After::Close;
        } else {
            after = self.mistake(counters, out, "500 5.5.2 Not a command known here");
        }
        after
    }

    fn mail(
        &mut self,
        argument: &[u8],
        faults: &mut Faults,
        counters: &Counters,
        out: &mut Vec<u8>,
    ) -> After {
        if !self.greeted || self.from.is_some() {
            return self.mistake(counters, out, "503 5.5.1 Not now");
        }
        let Some((path, parameters)) = path(argument, b"FROM:") else {
            return self.mistake(counters, out, "501 5.5.4 MAIL FROM:<address>");
        };
        let has = |word: &[u8]| parameters.split(|&b| b == b' ').any(|p| p.eq_ignore_ascii_case(word));
        self.eight_bit = has(b"BODY=8BITMIME");
        if !path.is_ascii() && !has(b"SMTPUTF8") {
            // RFC 6531 §3.4: such an address needs the parameter.
            return self.mistake(counters, out, "553 5.6.7 SMTPUTF8 needed");
        }
        let (text, after) = act(faults, Phase::Mail, "250 2.1.0 Ok");
        if text.starts_with('2') {
            let mut from = String::new();
            push_recipient(&mut from, path);
            self.from = Some(from);
        } else {
            counters.played(text);
        }
        say(out, text);
        after
    }

    fn rcpt(
        &mut self,
        argument: &[u8],
        faults: &mut Faults,
        counters: &Counters,
        out: &mut Vec<u8>,
    ) -> After {
        if self.from.is_none() {
            // With pipelining, RCPT and DATA follow a refused MAIL; that is no mistake.
            say(out, "503 5.5.1 MAIL first");
            return After::Go;
        }
        let Some((path, _)) = path(argument, b"TO:").filter(|(p, _)| !p.is_empty()) else {
            return self.mistake(counters, out, "501 5.5.4 RCPT TO:<address>");
        };
        if self.recipient_count >= MAX_RECIPIENTS {
            say(out, "452 4.5.3 Too many recipients");
            return After::Go;
        }
        let (text, after) = act(faults, Phase::Rcpt, "250 2.1.5 Ok");
        if text.starts_with('2') {
            push_recipient(&mut self.recipients, path);
            self.recipient_count += 1;
        } else {
            counters.played(text);
        }
        say(out, text);
        after
    }

    fn data(
        &mut self,
        profile: &Profile,
        faults: &mut Faults,
        counters: &Counters,
        out: &mut Vec<u8>,
    ) -> After {
        if self.chunks.is_some() {
            // RFC 3030 §2: not both in one transaction.
            return self.mistake(counters, out, "503 5.5.1 BDAT was used");
        }
        if self.from.is_none() || self.recipient_count == 0 {
            let text =
                if self.from.is_none() { "503 5.5.1 MAIL first" } else { "554 5.5.1 No valid recipients" };
            say(out, text);
            return After::Go;
        }
        let strike = faults.strike(Phase::Data);
        match strike.end {
            Some(Kind::Tempfail | Kind::Reject) => {
                let text = refusal(strike.end).unwrap_or_default();
                counters.played(text);
                self.reset();
                say(out, text);
            }
            end => {
                self.drop_in_body = end == Some(Kind::Drop);
                let notification = self.from.as_deref() == Some("");
                self.body = Some(Body::new(notification, profile.keep));
                say(out, "354 End data with <CR><LF>.<CR><LF>");
            }
        }
        pause_or(strike.delay, After::Go)
    }

    fn body_bytes(
        &mut self,
        input: &[u8],
        profile: &Profile,
        faults: &mut Faults,
        counters: &Counters,
        taker: &mut impl Taker,
        out: &mut Vec<u8>,
    ) -> (usize, After) {
        if self.drop_in_body {
            counters.dropped.add(1);
            return (0, After::Drop);
        }
        let Some(body) = &mut self.body else { return (0, After::Close) };
        let (used, ended) = body.feed(input);
        if !ended {
            return (used, After::Go);
        }
        let Some(body) = self.body.take() else { return (used, After::Close) };
        (used, self.end_of_data(body, profile, faults, counters, taker, out))
    }

    fn end_of_data(
        &mut self,
        body: Body,
        profile: &Profile,
        faults: &mut Faults,
        counters: &Counters,
        taker: &mut impl Taker,
        out: &mut Vec<u8>,
    ) -> After {
        let (facts, content) = body.finish();
        let strike = faults.strike(Phase::Dot);
        let mut end = After::Go;
        if facts.bare_newline {
            counters.violations.add(1);
            say(out, "550 5.5.2 Bare CR or LF in the message");
        } else if profile.max_size > 0 && facts.size > profile.max_size {
            counters.oversized.add(1);
            say(out, "552 5.3.4 Message too big");
        } else if let Some(text) = refusal(strike.end) {
            counters.played(text);
            say(out, text);
        } else if strike.end == Some(Kind::Drop) {
            counters.dropped.add(1);
            end = After::Drop;
        } else {
            if facts.eight_bit && !self.eight_bit {
                counters.undeclared_eight_bit.add(1);
            }
            taker.take(&Arrival {
                from: self.from.as_deref().unwrap_or(""),
                recipients: &self.recipients,
                recipient_count: self.recipient_count,
                facts: &facts,
                content: content.as_deref(),
            });
            say(out, "250 2.0.0 Ok");
        }
        self.reset();
        pause_or(strike.delay, end)
    }

    fn mistake(&mut self, counters: &Counters, out: &mut Vec<u8>, text: &str) -> After {
        counters.violations.add(1);
        self.mistakes += 1;
        if self.mistakes > MAX_MISTAKES {
            say(out, "421 4.7.0 Too many mistakes");
            return After::Close;
        }
        say(out, text);
        After::Go
    }

    fn reset(&mut self) {
        self.from = None;
        self.recipients.clear();
        self.recipient_count = 0;
        self.chunks = None;
        self.eight_bit = false;
    }
}

/// The reply at `phase`: `good`, or what the fault that strikes says.
fn act<'a>(faults: &mut Faults, phase: Phase, good: &'a str) -> (&'a str, After) {
    let strike = faults.strike(phase);
    match strike.end {
        Some(Kind::Drop) => ("", After::Drop),
        end => (refusal(end).unwrap_or(good), pause_or(strike.delay, After::Go)),
    }
}

fn pause_or(delay: Duration, end: After) -> After {
    match end {
        After::Go if !delay.is_zero() => After::Pause(delay),
        end => end,
    }
}

fn refusal(end: Option<Kind>) -> Option<&'static str> {
    match end {
        Some(Kind::Tempfail) => Some("451 4.7.1 Played: try again"),
        Some(Kind::Reject) => Some("550 5.7.1 Played: refused"),
        _ => None,
    }
}

fn say(out: &mut Vec<u8>, text: &str) {
    if !text.is_empty() {
        out.extend_from_slice(text.as_bytes());
        out.extend_from_slice(b"\r\n");
    }
}

fn ehlo(profile: &Profile, out: &mut Vec<u8>) {
    say(out, &format!("250-{}", profile.hostname));
    if profile.pipelining {
        say(out, "250-PIPELINING");
    }
    if profile.chunking {
        say(out, "250-CHUNKING");
    }
    say(out, &format!("250-SIZE {}", profile.max_size));
    for word in ["250-8BITMIME", "250-SMTPUTF8", "250-DSN", "250 ENHANCEDSTATUSCODES"] {
        say(out, word);
    }
}

/// The path and the parameters of `FROM:<path> parameters` or `TO:<path> parameters`.
fn path<'a>(argument: &'a [u8], word: &[u8]) -> Option<(&'a [u8], &'a [u8])> {
    let (head, rest) = argument.split_at_checked(word.len())?;
    if !head.eq_ignore_ascii_case(word) {
        return None;
    }
    // RFC 5321 §3.3 allows no space here; a strict sink shows who sends one.
    let rest = rest.strip_prefix(b"<")?;
    let (mut quoted, mut escaped) = (false, false);
    let end = rest.iter().position(|&b| {
        let plain = !escaped;
        escaped = quoted && plain && b == b'\\';
        if b == b'"' && plain {
            quoted = !quoted;
        }
        b == b'>' && !quoted
    })?;
    let (path, parameters) = (&rest[..end], &rest[end + 1..]);
    let spaced = parameters.is_empty() || parameters.starts_with(b" ");
    (spaced && path.len() <= 1024).then(|| (path, parameters.trim_ascii()))
}

#[cfg(test)]
#[path = "session_tests.rs"]
mod tests;
