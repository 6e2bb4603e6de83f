//! One pass over a message, in pieces of any size: parts, their places, their fields.
//!
//! Keeps numbers, the fields that matter and the beginning of the text; never the message. A header
//! ends where `headers` says that it does: at the empty line or at the first line that is no field;
//! but lines of mbox files are passed over.

use super::boundary::Boundaries;
use super::code::{put_number, put_string};
use super::field::{self, Fields, Name, Shape};
use super::list::List;
use super::preview::Gather;
use super::summary::{CUT, Kind, Place, VERSION};
use super::written;
use super::{BOUNDARY_MAX, DEPTH_MAX, FIELD_MAX, PARTS_MAX, TEXT_MAX};
use memchr::memmem::Finder;
use std::ops::Range;

/// Longest line in bytes that can be a boundary.
const BOUNDARY_LINE: usize = BOUNDARY_MAX + 100;

/// Bytes that are kept of a header line that arrives in pieces.
const LINE_KEPT: usize = FIELD_MAX + 100;

/// Works out the summary of a message.
#[derive(Debug)]
pub struct Scanner {
    /// Where the next byte is.
    here: Mark,
    state: State,
    /// The beginning of a line whose end has not come.
    line: Vec<u8>,
    /// Where it begins.
    line_at: u64,
    /// Bytes of the line end in front of this line.
    line_end: u64,
    /// The last byte before this piece.
    last: u8,
    parts: Vec<Entry>,
    /// Indices of the parts we are in, the outermost first.
    open: Vec<usize>,
    boundaries: Boundaries,
    dashes: Finder<'static>,
    fields: Fields,
    /// A folded line can come.
    in_field: bool,
    /// Fields of parts and envelopes, in the form of a summary.
    text: Vec<u8>,
    /// Where the envelope of the message itself is in `text`.
    envelope: Range<usize>,
    /// References of the message itself.
    references: Option<Vec<u8>>,
    gather: Gather,
    cut: bool,
    /// Flags that say how fields of the message itself are written.
    written: u64,
}

/// A place in the message, and how many line feeds are before it.
#[derive(Clone, Copy, Debug, Default)]
struct Mark {
    at: u64,
    feeds: u64,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum State {
    /// In a header, at the start of a line or within the one that is kept.
    Header,
    /// In a body, at the start of a line or within the beginning that is kept.
    Line,
    /// In a body, in a line that is no boundary.
    Within,
}

#[derive(Clone, Debug)]
struct Entry {
    place: Place,
    body: Mark,
    fields: Range<usize>,
    /// Of the message within.
    envelope: Range<usize>,
    /// The default type of what is within is that of a digest.
    digest: bool,
}

impl Default for Scanner {
    fn default() -> Self {
        Scanner::new()
    }
}

impl Scanner {
    /// At the first byte of a message.
    #[must_use]
    pub fn new() -> Self {
        let mut scanner = Scanner {
            here: Mark::default(),
            state: State::Header,
            line: Vec::new(),
            line_at: 0,
            line_end: 0,
            last: 0,
            parts: Vec::new(),
            open: Vec::new(),
            boundaries: Boundaries::default(),
            dashes: Finder::new(b"\n--"),
            fields: Fields::default(),
            in_field: false,
            text: Vec::new(),
            envelope: 0..0,
            references: None,
            gather: Gather::default(),
            cut: false,
            written: 0,
        };
        scanner.begin_part(Mark::default());
        scanner
    }

    /// Takes the next bytes of the message.
    pub fn feed(&mut self, bytes: &[u8]) {
        let mut rest = bytes;
        while !rest.is_empty() {
            let used = match self.state {
                State::Header => self.header(rest),
                State::Line => self.line_start(rest),
                State::Within => self.within(rest),
            };
            rest = &rest[used..];
        }
    }

    /// The message is complete: appends its summary.
    pub fn finish(mut self, out: &mut Vec<u8>) {
        let line = std::mem::take(&mut self.line);
        let start = Mark { at: self.line_at, ..self.here };
        if !line.is_empty() {
            match self.state {
                State::Header => self.header_line(&line, start, self.here),
                _ => self.body_line(&line, start, self.here),
            }
        }
        while self.state == State::Header {
            self.end_header(self.here);
        }
        self.close(0, self.here, 0);
        self.cut |= self.fields.cut;
        self.put(out);
    }

    fn put(&self, out: &mut Vec<u8>) {
        out.push(VERSION);
        put_number(out, self.written | if self.cut { CUT } else { 0 });
        put_number(out, self.here.at);
        put_string(out, Some(self.gather.found().as_bytes()));
        put_string(out, self.references.as_deref());
        out.extend_from_slice(&self.text[self.envelope.clone()]);
        let mut before = 0;
        for part in &self.parts {
            part.place.put(out, before);
            before = part.place.header;
            out.extend_from_slice(&self.text[part.fields.clone()]);
            if part.place.kind == Kind::Message {
                // The envelope of its only child, which comes next.
                out.extend_from_slice(&self.text[part.envelope.clone()]);
            }
        }
    }

    /// In a header.
    fn header(&mut self, rest: &[u8]) -> usize {
        let (used, complete) = match memchr::memchr(b'\n', rest) {
            Some(lf) => (lf + 1, true),
            None => (rest.len(), false),
        };
        if self.line.is_empty() {
            self.line_at = self.here.at;
        }
        let start = Mark { at: self.line_at, ..self.here };
        self.here.at += used as u64;
        if !complete {
            self.keep(&rest[..used]);
            return used;
        }
        let after = Mark { at: self.here.at, feeds: self.here.feeds + 1 };
        if self.line.is_empty() {
            self.header_line(&rest[..used], start, after);
        } else {
            self.keep(&rest[..used]);
            let line = std::mem::take(&mut self.line);
            self.header_line(&line, start, after);
        }
        used
    }

    /// Keeps a part of a header line: of one that is too long its beginning and its end.
    fn keep(&mut self, bytes: &[u8]) {
        let room = LINE_KEPT - self.line.len();
        self.line.extend_from_slice(&bytes[..bytes.len().min(room)]);
        if bytes.len() > room {
            self.cut = true;
            if bytes.ends_with(b"\n") {
                self.line.truncate(LINE_KEPT - 2);
                self.line.extend_from_slice(b"\r\n");
            }
        }
    }

    /// A line of a header, with its line end: from `start` to `after`.
    fn header_line(&mut self, line: &[u8], start: Mark, after: Mark) {
        while self.state == State::Header {
            let text = line.strip_suffix(b"\n").unwrap_or(line);
            let text = text.strip_suffix(b"\r").unwrap_or(text);
            if text.is_empty() {
                self.end_line(line, after);
                return self.end_header(after);
            }
            let is_folded = self.in_field && matches!(text[0], b' ' | b'\t');
            let is_boundary = !self.boundaries.is_empty() && self.boundaries.find(text).is_some();
            let name = if is_boundary { None } else { field::name_len(text) };
            match name {
                _ if is_folded => self.fields.go_on(text),
                // The envelope of a mbox file, which some bring along.
                None if text.starts_with(b"From ") || text.starts_with(b">From ") => self.in_field = false,
                Some(len) => {
                    self.in_field = true;
                    let of_message = self.is_message_root();
                    self.fields.begin(text, len, of_message);
                }
                None => {
                    self.end_header(start);
                    continue;
                }
            }
            return self.end_line(line, after);
        }
        // It was no line of the header.
        self.body_line(line, start, after);
    }

    /// The current part is a message, or the root of one.
    fn is_message_root(&self) -> bool {
        match self.open.len() {
            0 | 1 => true,
            n => self.parts[self.open[n - 2]].place.kind == Kind::Message,
        }
    }

    /// A line has been taken.
    fn end_line(&mut self, line: &[u8], after: Mark) {
        self.here.feeds = after.feeds;
        self.line_end = match line {
            [.., b'\r', b'\n'] => 2,
            [b'\n'] if self.last == b'\r' => 2,
            [.., b'\n'] => 1,
            _ => 0,
        };
        self.last = line.last().copied().unwrap_or(self.last);
    }

    /// A part begins.
    fn begin_part(&mut self, at: Mark) {
        let place =
            Place { kind: Kind::Basic, descendants: 0, header: at.at, body: at.at, end: at.at, lines: 0 };
        self.open.push(self.parts.len());
        self.parts.push(Entry { place, body: at, fields: 0..0, envelope: 0..0, digest: false });
        self.cut |= self.fields.cut;
        self.fields.clear();
        self.in_field = false;
        self.state = State::Header;
    }

    /// The header of the current part has ended, its body begins at `body`.
    fn end_header(&mut self, body: Mark) {
        let index = *self.open.last().expect("a header has a part");
        let outer = self.open.len().checked_sub(2).map(|i| self.open[i]);
        let digest = outer.is_some_and(|o| self.parts[o].digest);
        let mut shape = Shape::of(&self.fields, digest);
        let may_hold = self.open.len() <= DEPTH_MAX && self.parts.len() < PARTS_MAX;
        let is_message = shape.is("message", "rfc822") || shape.is("message", "global");
        let is_multipart = shape.media.eq_ignore_ascii_case(b"multipart");
        let kind = match () {
            () if is_multipart && may_hold && shape.boundary().is_some() => Kind::Multipart,
            () if is_message && may_hold => Kind::Message,
            // Most are text that somebody has put together badly.
            () if is_multipart && shape.boundary().is_none() => {
                shape.turn_into("text", "plain");
                Kind::Text
            }
            () if is_multipart || is_message => {
                shape.turn_into("application", "octet-stream");
                Kind::Basic
            }
            () if shape.media.eq_ignore_ascii_case(b"text") => Kind::Text,
            () => Kind::Basic,
        };
        self.put_fields(index, &shape);
        let part = &mut self.parts[index];
        part.place.kind = kind;
        part.place.body = body.at;
        part.body = body;
        part.digest = kind == Kind::Multipart && shape.is("multipart", "digest");
        self.state = State::Line;
        match kind {
            Kind::Multipart => self.boundaries.push(shape.boundary().unwrap_or_default(), index),
            Kind::Message => self.begin_part(body),
            Kind::Text if !self.is_within_message() => self.gather.begin(index, &shape),
            Kind::Text | Kind::Basic => {}
        }
    }

    /// The current part is of a message within the message.
    fn is_within_message(&self) -> bool {
        self.open.iter().any(|&i| self.parts[i].place.kind == Kind::Message)
    }

    /// Writes what the fields of a header say into the text of the summary.
    fn put_fields(&mut self, index: usize, shape: &Shape) {
        let whole = self.text.len() < TEXT_MAX;
        self.cut |= !whole;
        let start = self.text.len();
        shape.put(&mut self.text, &self.fields, whole);
        self.parts[index].fields = start..self.text.len();
        if !self.is_message_root() {
            return;
        }
        let start = self.text.len();
        if whole {
            self.put_envelope();
        } else {
            self.text.extend_from_slice(&[0; 10]);
        }
        let envelope = start..self.text.len();
        match self.open.len().checked_sub(2) {
            // It is written with the part that is the message.
            Some(outer) => self.parts[self.open[outer]].envelope = envelope,
            None => {
                self.written = written::flags(&self.fields, &self.text[envelope.clone()]);
                self.envelope = envelope;
                self.references = self.fields.all(Name::References).next_back().map(<[u8]>::to_vec);
            }
        }
    }

    /// The order is that of the format.
    fn put_envelope(&mut self) {
        // Of several the last counts, addresses of all are taken together (as in Dovecot): none of
        // them is hidden from one who looks at the envelope only.
        let (fields, text) = (&self.fields, &mut self.text);
        put_string(text, fields.all(Name::Date).next_back());
        put_string(text, fields.all(Name::Subject).next_back());
        for name in [Name::From, Name::Sender, Name::ReplyTo, Name::To, Name::Cc, Name::Bcc] {
            let mut list = List::default();
            fields.all(name).for_each(|value| list.read(value));
            self.cut |= list.cut;
            put_number(text, list.count as u64);
            text.extend_from_slice(&list.bytes);
        }
        put_string(text, fields.all(Name::InReplyTo).next_back());
        put_string(text, fields.all(Name::MessageId).next_back());
    }

    /// In a body, at the start of a line.
    fn line_start(&mut self, rest: &[u8]) -> usize {
        let may_be = |line: &[u8]| line.iter().take(2).all(|&b| b == b'-');
        if self.boundaries.is_empty() || (self.line.is_empty() && !may_be(rest)) {
            self.state = State::Within;
            return 0;
        }
        let room = &rest[..rest.len().min(BOUNDARY_LINE - self.line.len())];
        let (used, complete) = match memchr::memchr(b'\n', room) {
            Some(lf) => (lf + 1, true),
            None => (room.len(), false),
        };
        if self.line.is_empty() {
            self.line_at = self.here.at;
        }
        let start = Mark { at: self.line_at, ..self.here };
        self.here.at += used as u64;
        self.line.extend_from_slice(&rest[..used]);
        if complete {
            let line = std::mem::take(&mut self.line);
            let after = Mark { at: self.here.at, feeds: start.feeds + 1 };
            self.body_line(&line, start, after);
            // Its memory serves the next one, unless that has begun.
            if self.line.is_empty() {
                self.line = line;
                self.line.clear();
            }
        } else if !may_be(&self.line) || self.line.len() >= BOUNDARY_LINE {
            let line = std::mem::take(&mut self.line);
            self.content(&line);
            self.state = State::Within;
        }
        used
    }

    /// A whole line of a body, from `start` to `after`: a boundary or not.
    fn body_line(&mut self, line: &[u8], start: Mark, after: Mark) {
        let text = line.strip_suffix(b"\n").unwrap_or(line);
        let text = text.strip_suffix(b"\r").unwrap_or(text);
        let is_whole = text.len() < line.len();
        let hit = if text.len() <= BOUNDARY_LINE { self.boundaries.find(text) } else { None };
        let hit = hit.filter(|hit| hit.closing || self.parts.len() < PARTS_MAX);
        let Some(hit) = hit else {
            self.content(line);
            self.state = State::Line;
            return;
        };
        let depth = self.open.iter().position(|&i| i == hit.part).expect("boundaries are of open parts");
        self.close(depth + 1, start, self.line_end);
        self.boundaries.keep(hit.depth + usize::from(!hit.closing));
        self.end_line(line, after);
        self.state = State::Line;
        if !hit.closing && is_whole {
            self.begin_part(after);
        }
    }

    /// In a body, in a line that is no boundary.
    fn within(&mut self, rest: &[u8]) -> usize {
        let (used, state) = match () {
            () if self.boundaries.is_empty() => (rest.len(), State::Within),
            () => match self.dashes.find(rest) {
                Some(lf) => (lf + 1, State::Line),
                // The next piece may go on with what makes a boundary of it.
                None => match rest {
                    [.., b'\n'] => (rest.len(), State::Line),
                    [.., b'\n', b'-'] => (rest.len() - 1, State::Line),
                    _ => (rest.len(), State::Within),
                },
            },
        };
        self.here.at += used as u64;
        self.content(&rest[..used]);
        self.state = state;
        used
    }

    /// Bytes of a body that are no boundary; `here` is already behind them.
    fn content(&mut self, bytes: &[u8]) {
        let feeds = memchr::memchr_iter(b'\n', bytes).count() as u64;
        self.end_line(bytes, Mark { at: self.here.at, feeds: self.here.feeds + feeds });
        if self.gather.wants(self.open.last().copied()) {
            self.gather.take(bytes);
        }
    }

    /// Ends the open parts from `depth` on at `at`; `line_end` bytes in front of it are not theirs.
    fn close(&mut self, depth: usize, at: Mark, line_end: u64) {
        let mut limit = u64::MAX;
        let parts = self.parts.len();
        for &index in &self.open[depth..] {
            let Entry { place, body, .. } = &mut self.parts[index];
            let (mut end, mut lines) = (body.at, 0);
            if at.at > body.at {
                end = (at.at - line_end).max(body.at);
                lines = (at.feeds - body.feeds).saturating_sub(u64::from(line_end > 0));
            }
            // A header that a boundary has ended reaches up to it; not so those within one another.
            place.end = end.min(limit);
            place.body = place.body.min(limit);
            place.header = place.header.min(limit);
            place.lines = if place.end == place.body { 0 } else { lines };
            place.descendants = parts - index - 1;
            limit = place.end;
        }
        if let Some(&last) = self.open[depth..].last()
            && self.gather.wants(Some(last))
        {
            self.gather.end();
        }
        self.open.truncate(depth);
    }
}
