//! Where commands end in the stream: lines, literals, and the messages of APPEND.
//!
//! The shell keeps its unconsumed input contiguous and shows all of it at each call, as it does with
//! SMTP; the framer remembers how far it has looked, so every byte is looked at once in whatever
//! pieces it comes, and hands out lengths instead of copies. A command with its argument literals
//! (RFC 9051 §4.3, RFC 7888) stays in the buffer and is bounded by [`Limits::command`]; the messages
//! of APPEND and REPLACE pass through in pieces ([`Frame::Body`]). What is too long is passed over
//! and answered with BAD, its own bytes never taken for commands; what cannot be passed over within
//! [`Limits::skip`] ends the session. Knows no session; the session answers.

use crate::imap::parse::append::Message;
use crate::imap::parse::input::{LITERAL_BYTES, literal_header};
use crate::imap::parse::{self, TAG_MAX, Verb};
use memchr::memchr;

/// What a command may take.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Limits {
    /// Bytes of a command in all: lines and argument literals.
    pub command: usize,
    /// Bytes of one argument literal.
    pub literal: u64,
    /// Bytes of a non-synchronizing argument literal (LITERAL-: 4096, RFC 7888 §5).
    pub non_synchronizing: u64,
    /// Bytes that are passed over to find the end of a command that was refused.
    pub skip: u64,
}

impl Limits {
    /// Before login: LITERAL-.
    pub const BEFORE_LOGIN: Limits =
        Limits { command: 8 << 10, literal: 4096, non_synchronizing: 4096, skip: 64 << 10 };
    /// After login: LITERAL+. The message that is refused may be long, and is.
    pub const AFTER_LOGIN: Limits =
        Limits { command: 2 << 20, literal: 1 << 20, non_synchronizing: 1 << 20, skip: 256 << 20 };
}

/// A tag that outlives its command.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Tag {
    bytes: [u8; TAG_MAX],
    len: u8,
}

impl Tag {
    /// The tag of `text`; `*` if it has none.
    #[must_use]
    pub fn of(text: &[u8]) -> Self {
        let tag = parse::tag(text);
        let mut bytes = [0; TAG_MAX];
        bytes[..tag.len()].copy_from_slice(tag);
        Tag { bytes, len: tag.len() as u8 }
    }

    /// Its characters.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.bytes[..usize::from(self.len)]
    }
}

impl std::fmt::Debug for Tag {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.bytes().escape_ascii())
    }
}

/// What is at the front of the input. `used` bytes of it are consumed with this answer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Frame {
    /// Nothing yet: more input is needed.
    More {
        /// Bytes passed over.
        used: usize,
    },
    /// The rest of a command that was refused has been passed over: call again with what is behind it.
    Passed {
        /// How many bytes that were.
        used: usize,
    },
    /// The client waits: write a continuation request, then call again with the same input.
    Continue,
    /// `input[..text]` is a command for [`parse::parse`].
    Command {
        /// Its length without the line end.
        text: usize,
        /// With it.
        used: usize,
    },
    /// `input[..used]` is an APPEND or REPLACE up to its first message, for [`parse::parse`], which
    /// is known to take it. Then [`Framer::accept`] or [`Framer::refuse`].
    Message {
        /// Its length.
        used: usize,
    },
    /// `input[..used]` are bytes of the message, in order.
    Body {
        /// How many; at least 1.
        used: usize,
    },
    /// The message is complete, and `input[..text]` follows it, for [`parse::append::next`]. If that is
    /// another message: [`Framer::accept`] or [`Framer::refuse`]; if it is an error and the text ends
    /// with a line feed: [`Framer::abandon`].
    After {
        /// Its length without a line end that ends the command.
        text: usize,
        /// With it.
        used: usize,
    },
    /// A command was too long and has been passed over: answer BAD.
    Bad {
        /// Bytes passed over.
        used: usize,
        /// With this tag; if it is `*` and a message came before, with that of the APPEND.
        tag: Tag,
        /// Why, for the client's user.
        why: &'static str,
    },
    /// Answer BYE and close: where the next command begins cannot be known.
    Bye {
        /// Why, for the client's user.
        why: &'static str,
    },
}

const LONG_LINE: &str = "The command is too long";
const LONG_LITERAL: &str = "The literal is too long";
const ODD_LITERAL: &str = "The length of the literal is not a number below 2^63";

/// See the module.
#[derive(Debug)]
pub struct Framer {
    limits: Limits,
    state: State,
    /// Start of the current line within the input.
    line: usize,
    /// Where to look for its end; beyond the input within a literal.
    scanned: usize,
}

#[derive(Clone, Copy, Debug)]
enum State {
    /// Within a command.
    Command,
    /// Behind a message.
    After,
    /// The shell decides about a message.
    Asked,
    /// Within a message.
    Body { left: u64 },
    /// Within what is passed over.
    Skip(Skip),
}

/// The end of what is passed over may be announced by its last line; only its end is kept.
#[derive(Clone, Copy, Debug)]
struct Skip {
    /// To answer at the end; none if it has been answered.
    answer: Option<(Tag, &'static str)>,
    /// Bytes of a literal to come.
    literal: u64,
    /// Last bytes of the line.
    end: [u8; Skip::KEPT],
    /// How many of them are there.
    kept: usize,
    /// Bytes that may still be passed over.
    budget: u64,
}

impl Skip {
    /// More than `{`, 20 digits, `+}`, CRLF.
    const KEPT: usize = 32;

    fn keep(&mut self, bytes: &[u8]) {
        let bytes = &bytes[bytes.len().saturating_sub(Skip::KEPT)..];
        let stays = self.kept.min(Skip::KEPT - bytes.len());
        self.end.copy_within(self.kept - stays..self.kept, 0);
        self.end[stays..stays + bytes.len()].copy_from_slice(bytes);
        self.kept = stays + bytes.len();
    }
}

/// What a line ends with.
enum Ending {
    /// Nothing: the command ends.
    Line,
    /// The header of a literal.
    Literal { len: u64, synchronizing: bool },
    /// The header of a literal with a length that cannot be.
    Odd,
}

/// `line` with its LF.
fn ending(line: &[u8]) -> Ending {
    let text = line.strip_suffix(b"\n").unwrap_or(line);
    let text = text.strip_suffix(b"\r").unwrap_or(text);
    let Some(head) = text.strip_suffix(b"}") else { return Ending::Line };
    let digits = head.strip_suffix(b"+").unwrap_or(head);
    let count = digits.iter().rev().take_while(|b| b.is_ascii_digit()).count();
    // The header of a literal never has so many; its start may not have been kept.
    if count > 20 {
        return Ending::Odd;
    }
    let at = digits.len() - count;
    if at == 0 || digits[at - 1] != b'{' || count == 0 {
        return Ending::Line;
    }
    match literal_header(&line[at - 1..]) {
        Some((len, _)) => Ending::Literal { len, synchronizing: digits.len() == head.len() },
        None => Ending::Odd,
    }
}

impl Framer {
    /// At the start of a session.
    #[must_use]
    pub fn new(limits: Limits) -> Self {
        Framer { limits, state: State::Command, line: 0, scanned: 0 }
    }

    /// Other limits from the next command on.
    pub fn set_limits(&mut self, limits: Limits) {
        self.limits = limits;
    }

    /// Forgets what it knows of the input, which the shell drops (TLS, compression).
    pub fn reset(&mut self) {
        self.begin(State::Command);
    }

    fn begin(&mut self, state: State) {
        self.state = state;
        (self.line, self.scanned) = (0, 0);
    }

    /// Looks at the unconsumed input.
    pub fn next(&mut self, input: &[u8]) -> Frame {
        match self.state {
            State::Command | State::After => self.lines(input),
            State::Asked => Frame::More { used: 0 },
            State::Body { left } => self.body(input, left),
            State::Skip(skip) => self.pass(input, skip),
        }
    }

    /// The next line as it is, for the answers of the client within AUTHENTICATE and IDLE. At most
    /// `max` bytes; a longer one is passed over and answered with BAD.
    pub fn plain(&mut self, input: &[u8], max: usize) -> Frame {
        if let State::Skip(skip) = self.state {
            return self.pass(input, skip);
        }
        match memchr(b'\n', &input[self.scanned.min(input.len())..]) {
            Some(found) if self.scanned + found <= max => {
                let used = self.scanned + found + 1;
                self.begin(State::Command);
                Frame::Command { text: without_line_end(&input[..used]), used }
            }
            None if input.len() <= max => {
                self.scanned = input.len();
                Frame::More { used: 0 }
            }
            _ => self.skip_line(input, Some((Tag::of(b""), LONG_LINE))),
        }
    }

    fn lines(&mut self, input: &[u8]) -> Frame {
        loop {
            let found = input.get(self.scanned..).and_then(|rest| memchr(b'\n', rest));
            let Some(found) = found else {
                if input.len() > self.limits.command {
                    return self.skip_line(input, Some((self.tag(input), LONG_LINE)));
                }
                self.scanned = self.scanned.max(input.len());
                return Frame::More { used: 0 };
            };
            let used = self.scanned + found + 1;
            if used > self.limits.command {
                return self.skip_line(input, Some((self.tag(input), LONG_LINE)));
            }
            let line = self.line;
            match ending(&input[line..used]) {
                Ending::Line => return self.whole(input, used),
                Ending::Odd => return Frame::Bye { why: ODD_LITERAL },
                Ending::Literal { len, synchronizing } => {
                    if let Some(frame) = self.literal(input, used, len, synchronizing) {
                        return frame;
                    }
                }
            }
        }
    }

    /// The tag of the command; behind a message only the session knows it.
    fn tag(&self, input: &[u8]) -> Tag {
        // Within what every way of cutting the input shows; a tag that does not end there is none.
        let seen = &input[..input.len().min(self.limits.command)];
        let is_whole = matches!(self.state, State::Command) && memchr(b' ', seen).is_some();
        Tag::of(if is_whole { seen } else { b"" })
    }

    /// The command ends at `used`.
    fn whole(&mut self, input: &[u8], used: usize) -> Frame {
        let text = without_line_end(&input[..used]);
        let frame = match self.state {
            State::After => Frame::After { text, used },
            _ => Frame::Command { text, used },
        };
        self.begin(State::Command);
        frame
    }

    /// A literal of `len` bytes begins at `at`. No frame: it is an argument; look for the next line end.
    fn literal(&mut self, input: &[u8], at: usize, len: u64, synchronizing: bool) -> Option<Frame> {
        if matches!(self.state, State::After) {
            self.begin(State::Asked);
            return Some(Frame::After { text: at, used: at });
        }
        match message_at(&input[..at]) {
            Some(true) => {
                self.begin(State::Asked);
                return Some(Frame::Message { used: at });
            }
            // A long message may follow what is wrong already: it is not waited for.
            Some(false) => return Some(self.refuse_literal(input, at, len, synchronizing, None)),
            None => {}
        }
        let most = if synchronizing { self.limits.literal } else { self.limits.non_synchronizing };
        let room = (self.limits.command - at) as u64;
        if len > most || len > room {
            let why = if len > most { LONG_LITERAL } else { LONG_LINE };
            return Some(self.refuse_literal(input, at, len, synchronizing, Some(why)));
        }
        (self.line, self.scanned) = (at + len as usize, at + len as usize);
        synchronizing.then_some(Frame::Continue)
    }

    /// Refuses the command whose literal begins at `at`. Without `why`, the session finds out by parsing.
    fn refuse_literal(
        &mut self,
        input: &[u8],
        at: usize,
        len: u64,
        synchronizing: bool,
        why: Option<&'static str>,
    ) -> Frame {
        // The client waits for the continuation and takes a tagged answer for a refusal (RFC 9051 §4.3).
        let frame = match why {
            None => Frame::Command { text: without_line_end(&input[..at]), used: at },
            Some(why) => Frame::Bad { used: at, tag: self.tag(input), why },
        };
        self.begin(State::Command);
        if !synchronizing && !self.skip_literal(len, self.limits.skip) {
            return Frame::Bye { why: LONG_LITERAL };
        }
        frame
    }

    /// Passes over a literal and what follows it. False if that is too much.
    fn skip_literal(&mut self, len: u64, budget: u64) -> bool {
        let skip = Skip { answer: None, literal: len, end: [0; Skip::KEPT], kept: 0, budget };
        self.begin(State::Skip(skip));
        len <= budget
    }

    fn skip_line(&mut self, input: &[u8], answer: Option<(Tag, &'static str)>) -> Frame {
        let budget = self.limits.skip.max(self.limits.command as u64);
        let mut skip = Skip { answer, literal: 0, end: [0; Skip::KEPT], kept: 0, budget };
        // The line may end in what has been looked at.
        let begun = &input[self.line.min(input.len())..self.scanned.min(input.len())];
        skip.keep(begun);
        skip.budget = skip.budget.saturating_sub(begun.len() as u64);
        let from = self.scanned.min(input.len());
        self.begin(State::Skip(skip));
        match self.pass(&input[from..], skip) {
            Frame::More { used } => Frame::More { used: from + used },
            Frame::Bad { used, tag, why } => Frame::Bad { used: from + used, tag, why },
            Frame::Passed { used } => Frame::Passed { used: from + used },
            other => other,
        }
    }

    /// Passes over bytes until the refused command has ended.
    fn pass(&mut self, input: &[u8], mut skip: Skip) -> Frame {
        let mut used = 0;
        loop {
            let literal = usize::try_from(skip.literal).unwrap_or(usize::MAX).min(input.len() - used);
            skip.literal -= literal as u64;
            used += literal;
            let rest = &input[used..];
            let found = if skip.literal > 0 { None } else { memchr(b'\n', rest) };
            let line = &rest[..found.map_or(rest.len(), |lf| lf + 1)];
            let passed = (literal + line.len()) as u64;
            if passed > skip.budget {
                return Frame::Bye { why: LONG_LINE };
            }
            skip.budget -= passed;
            skip.keep(line);
            used += line.len();
            if found.is_none() {
                self.state = State::Skip(skip);
                return Frame::More { used };
            }
            match ending(&skip.end[..skip.kept]) {
                Ending::Odd => return Frame::Bye { why: ODD_LITERAL },
                Ending::Literal { len, synchronizing: false } if len > skip.budget => {
                    return Frame::Bye { why: LONG_LITERAL };
                }
                Ending::Literal { len, synchronizing: false } => {
                    (skip.literal, skip.kept) = (len, 0);
                }
                // The client waits behind a synchronizing literal and gives up at the answer.
                Ending::Line | Ending::Literal { .. } => {
                    self.begin(State::Command);
                    return match skip.answer {
                        Some((tag, why)) => Frame::Bad { used, tag, why },
                        None => Frame::Passed { used },
                    };
                }
            }
        }
    }

    fn body(&mut self, input: &[u8], left: u64) -> Frame {
        if left == 0 {
            self.begin(State::After);
            return self.lines(input);
        }
        let used = usize::try_from(left).unwrap_or(usize::MAX).min(input.len());
        if used == 0 {
            return Frame::More { used: 0 };
        }
        self.state = State::Body { left: left - used as u64 };
        Frame::Body { used }
    }

    /// The message is taken: its bytes come next. If the client waits, a continuation request is
    /// written first.
    pub fn accept(&mut self, message: &Message<'_>) {
        self.begin(State::Body { left: message.len });
    }

    /// The message is not taken, and the command has been answered. Its bytes are passed over if they
    /// come at all. False: that is too much, close.
    #[must_use]
    pub fn refuse(&mut self, message: &Message<'_>) -> bool {
        self.begin(State::Command);
        !message.non_synchronizing || self.skip_literal(message.len, self.limits.skip)
    }

    /// The text behind a message that announces another one is wrong and has been answered. `text` is
    /// that text. False: too much would have to be passed over, close.
    #[must_use]
    pub fn abandon(&mut self, text: &[u8]) -> bool {
        self.begin(State::Command);
        match ending(text) {
            Ending::Literal { len, synchronizing: false } => self.skip_literal(len, self.limits.skip),
            Ending::Odd => false,
            Ending::Line | Ending::Literal { .. } => true,
        }
    }
}

/// Length of `line` without CRLF or LF at its end.
fn without_line_end(line: &[u8]) -> usize {
    let text = line.strip_suffix(b"\n").unwrap_or(line);
    text.strip_suffix(b"\r").unwrap_or(text).len()
}

/// What the literal behind `text` is, which ends with its header: the message of an APPEND or REPLACE
/// (`Some(true)`), an argument (`None`), or in an APPEND or REPLACE that is wrong already.
fn message_at(text: &[u8]) -> Option<bool> {
    let mut words = text.split(|b| *b == b' ').skip(1);
    let mut verb = words.next()?;
    if verb.eq_ignore_ascii_case(b"UID") {
        verb = words.next()?;
    }
    if !verb.eq_ignore_ascii_case(b"APPEND") && !verb.eq_ignore_ascii_case(b"REPLACE") {
        return None;
    }
    match parse::parse(text) {
        Ok(command) => Some(matches!(command.verb, Verb::Append(_) | Verb::Replace(_))),
        Err(bad) if bad.expected == LITERAL_BYTES => None,
        Err(_) => Some(false),
    }
}

#[cfg(test)]
#[path = "line_tests.rs"]
mod tests;
