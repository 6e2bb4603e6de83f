//! FETCH and UID FETCH (RFC 9051 §6.4.5; RFC 3516, RFC 7162 §3.1.4, RFC 8474, RFC 8514, RFC 8970).
//!
//! Messages are taken in batches; what is known of them is written at once, and content is streamed:
//! the header of its literal is written when the shell has opened it, its bytes go through
//! [`Session::pass`]. Only fields of a header are gathered, within a bound.

use super::section::{Plan, fields, needs_summary, part_of, plan};
use super::summary::{EnvelopeOf, PartOf};
use super::tell::{keywords, system};
use super::{Answer, Ask, Change, Session, State, Step, Task};
use crate::base::time::{Mono, Wall};
use crate::imap::encode::fetch::{Fetch, vanished};
use crate::imap::encode::status::{Code, Condition, Word};
use crate::imap::encode::{Wire, structure};
use crate::imap::parse::date::DateTime;
use crate::imap::parse::fetch::{Fetch as FetchCommand, Items, Kind, Section, Text};
use crate::imap::parse::session::Extensions;
use crate::imap::parse::{Messages, Verb, parse};
use crate::imap::set::{self, SeqSet};
use crate::imap::transfer::Decoder;
use crate::mailbox::api::{Alter, Selected};
use crate::mailbox::types::{Flags, Message, UidSet};
use crate::message::mime::Summary;
use std::ops::Range;
use std::rc::Rc;

/// A FETCH under way.
#[derive(Debug)]
pub(super) struct Fetching {
    uid: bool,
    items: Items,
    changed_since: Option<u64>,
    /// The command, if it names sections.
    text: Rc<[u8]>,
    sets_seen: bool,
    summaries: bool,
    ranges: Vec<set::Range>,
    /// Of these ranges.
    range: usize,
    /// The next message.
    next: u32,
    batch: Vec<Entry>,
    /// Of the batch.
    at: usize,
    phase: Phase,
    /// Of the current message: the next section.
    section: usize,
    /// Its response has begun, and nothing is in it yet.
    begun: Option<bool>,
    reading: Reading,
    names: Vec<String>,
    recent: UidSet,
    /// UIDs of messages of which something was shown otherwise than it is written.
    downgraded: SeqSet,
    /// Some content is gone.
    gone: bool,
    /// Some part has an encoding that is not known.
    encoded: bool,
}

/// A message of the batch.
#[derive(Debug)]
struct Entry {
    seq: u32,
    message: Message,
    summary: Option<Vec<u8>>,
    /// This command has changed its flags.
    noted: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Phase {
    Gather,
    Mark,
    Summarise,
    Write,
}

/// What is being read for a section.
#[derive(Debug)]
enum Reading {
    Nothing,
    /// A header; true if more than it follows.
    Header(Vec<u8>, bool),
    /// How long a part is without its encoding.
    Measure {
        range: Range<u64>,
        decoder: Decoder,
        measured: Decoder,
        len: u64,
        nul: bool,
        scratch: Vec<u8>,
    },
    /// Content has been asked for that will be sent so.
    Open(Sending),
}

/// Content on its way to the client.
#[derive(Clone, Debug, Default)]
pub(super) struct Sending {
    /// Bytes that are promised and have not been sent.
    left: u64,
    /// Bytes before these that are not sent.
    skip: u64,
    decoder: Option<Decoder>,
    /// As literal8: NUL may be in it.
    eight: bool,
    scratch: Vec<u8>,
}

fn date(at: Wall) -> DateTime {
    DateTime { seconds: at.seconds() as i64, zone: 0 }
}

impl Sending {
    fn take(&mut self, bytes: &[u8], out: &mut Vec<u8>) {
        let skipped = self.skip.min(bytes.len() as u64);
        self.skip -= skipped;
        let bytes = &bytes[skipped as usize..];
        let bytes = &bytes[..self.left.min(bytes.len() as u64) as usize];
        self.left -= bytes.len() as u64;
        let from = out.len();
        out.extend_from_slice(bytes);
        // RFC 9051 §4.3: NUL cannot be in a literal.
        if !self.eight && memchr::memchr(0, bytes).is_some() {
            out[from..].iter_mut().filter(|b| **b == 0).for_each(|b| *b = b'?');
        }
    }

    fn pass(&mut self, bytes: &[u8], last: bool, out: &mut Vec<u8>) {
        match self.decoder.take() {
            None => self.take(bytes, out),
            Some(mut decoder) => {
                let mut scratch = std::mem::take(&mut self.scratch);
                scratch.clear();
                decoder.feed(bytes, last, &mut scratch);
                self.take(&scratch, out);
                (self.decoder, self.scratch) = (Some(decoder), scratch);
            }
        }
    }
}

impl Fetching {
    /// Takes the next messages. True if there may be more.
    fn gather<S: Selected>(&mut self, mailbox: &S, most: usize, looked: usize) -> bool {
        self.batch.clear();
        self.at = 0;
        let (mut seen, mut window) = (0, Vec::new());
        while let Some(r) = self.ranges.get(self.range) {
            let from = self.next.max(r.first);
            if from > r.last {
                self.range += 1;
                continue;
            }
            if self.batch.len() >= most || seen >= looked {
                break;
            }
            window.clear();
            let room = (most - self.batch.len()).min(looked - seen);
            mailbox.window(from, room.min((r.last - from) as usize + 1), &mut window);
            if window.is_empty() {
                self.range += 1;
                continue;
            }
            for (seq, m) in (from..).zip(&window) {
                if self.changed_since.is_none_or(|since| m.modseq > since) {
                    self.batch.push(Entry { seq, message: *m, summary: None, noted: false });
                }
            }
            seen += window.len();
            self.next = from + window.len() as u32;
        }
        self.range < self.ranges.len()
    }

    /// More of what is being read; true if even more is wanted.
    fn piece(&mut self, bytes: &[u8], header_max: u64) -> bool {
        match &mut self.reading {
            Reading::Header(header, _) => {
                header.extend_from_slice(bytes);
                (header.len() as u64) < header_max
            }
            Reading::Measure { measured, len, nul, scratch, .. } => {
                scratch.clear();
                measured.feed(bytes, false, scratch);
                *len += scratch.len() as u64;
                *nul |= memchr::memchr(0, scratch).is_some();
                true
            }
            Reading::Nothing | Reading::Open(_) => false,
        }
    }

    /// Does something with the current section of the command.
    fn with_section<T>(&self, f: impl FnOnce(&Section<'_>) -> T) -> T {
        let Ok(Verb::Fetch(fetch)) = parse(&self.text).map(|command| command.verb) else {
            panic!("the command has been read before")
        };
        f(&fetch.sections[self.section])
    }

    /// How many sections there are.
    fn sections(&self) -> usize {
        match parse(&self.text).map(|command| command.verb) {
            Ok(Verb::Fetch(fetch)) if !self.text.is_empty() => fetch.sections.len(),
            _ => 0,
        }
    }

    /// The current section ends; nothing of it is written any more.
    fn next_section(&mut self) {
        self.section += 1;
        self.reading = Reading::Nothing;
    }

    fn no_section(&mut self, out: &mut Vec<u8>) {
        let mut writer = Fetch::go_on(out, self.begun.unwrap_or(false));
        self.with_section(|section| {
            if section.kind != Kind::BinarySize {
                writer.no_section(section);
            }
        });
        self.begun = Some(writer.is_first());
        self.next_section();
    }

    fn literal(&mut self, len: u64, eight: bool, out: &mut Vec<u8>) {
        let mut writer = Fetch::go_on(out, self.begun.unwrap_or(false));
        self.with_section(|section| writer.section(section, len, eight));
        self.begun = Some(false);
    }
}

impl<S: Selected> Session<S> {
    pub(super) fn fetch(&mut self, text: &[u8], fetch: FetchCommand<'_>, out: &mut Vec<u8>) -> Option<Step> {
        let Ok(ranges) = self.resolve(&fetch.messages, fetch.uid) else { return self.beyond(out) };
        let mut items = fetch.items;
        if fetch.uid {
            items.0 |= Items::UID.0;
        }
        // RFC 7162 §3.1.4.1.
        if fetch.changed_since.is_some() {
            items.0 |= Items::MODSEQ.0;
        }
        if items.has(Items::MODSEQ) {
            self.aware(out);
        }
        if fetch.vanished {
            if !self.enabled.has(Extensions::QRESYNC) {
                return self.bad("Say ENABLE QRESYNC first", out);
            }
            let known = match &fetch.messages {
                Messages::Set(set) => set,
                Messages::Saved => &self.saved,
            };
            let gone = self.vanished_since(fetch.changed_since.unwrap_or(0), known, 1);
            vanished(out, true, &gone);
        }
        let names = self.mailbox().keywords();
        if items.has(Items::FLAGS) {
            self.tell_keywords(&names, out);
        }
        let chosen = self.chosen.as_ref().expect("selected");
        let shown = Items::ENVELOPE.0 | Items::BODYSTRUCTURE.0 | Items::BODY.0 | Items::PREVIEW.0;
        let fetching = Fetching {
            uid: fetch.uid,
            items,
            changed_since: fetch.changed_since,
            text: if fetch.sections.is_empty() { Rc::from(&b""[..]) } else { Rc::from(text) },
            // RFC 9051 §6.4.5: BODY[...] sets \Seen, as far as anything can be changed.
            sets_seen: !chosen.read_only && fetch.sections.iter().any(|s| !s.peek),
            summaries: items.0 & shown != 0 || fetch.sections.iter().any(needs_summary),
            ranges,
            range: 0,
            next: 1,
            batch: Vec::new(),
            at: 0,
            phase: Phase::Gather,
            section: 0,
            begun: None,
            reading: Reading::Nothing,
            names,
            recent: self.recent(),
            downgraded: SeqSet::default(),
            gone: false,
            encoded: false,
        };
        self.go_on(Task::Fetch(Box::new(fetching)));
        None
    }

    pub(super) fn fetch_on(&mut self, mut f: Box<Fetching>, out: &mut Vec<u8>) -> Option<Step> {
        let mut looked = 0;
        loop {
            match f.phase {
                Phase::Gather => {
                    if looked >= self.options.messages_at_once {
                        return self.pause(Task::Fetch(f));
                    }
                    let most = if f.summaries { self.options.summaries_at_once } else { 256 };
                    let limit = self.options.messages_at_once;
                    let more = f.gather(self.mailbox(), most.min(limit), limit);
                    looked += f.batch.len();
                    match (f.batch.is_empty(), more) {
                        (true, false) => return self.fetched(&f, out),
                        (true, true) => return self.pause(Task::Fetch(f)),
                        (false, _) => f.phase = Phase::Mark,
                    }
                    let unseen = |e: &&Entry| e.message.is_unseen();
                    if f.sets_seen && f.batch.iter().any(|e| unseen(&e)) {
                        let uids = f.batch.iter().filter(unseen).map(|e| e.message.uid).collect();
                        let change = Change {
                            uids,
                            how: Alter::Add,
                            flags: Flags::SEEN,
                            keywords: Vec::new(),
                            unchanged_since: None,
                        };
                        return self.ask(Task::Fetch(f), Ask::Store(change));
                    }
                }
                Phase::Mark if f.summaries => {
                    f.phase = Phase::Summarise;
                    let uids = f.batch.iter().map(|e| e.message.uid).collect();
                    return self.ask(Task::Fetch(f), Ask::Summaries(uids));
                }
                Phase::Mark | Phase::Summarise => f.phase = Phase::Write,
                Phase::Write => {
                    while f.at < f.batch.len() {
                        if out.len() >= self.options.replies_max {
                            return self.pause(Task::Fetch(f));
                        }
                        if let Some(ask) = self.fetch_one(&mut f, out) {
                            return self.ask(Task::Fetch(f), ask);
                        }
                        f.at += 1;
                    }
                    f.phase = Phase::Gather;
                }
            }
        }
    }

    fn fetched(&mut self, f: &Fetching, out: &mut Vec<u8>) -> Option<Step> {
        if !f.downgraded.is_empty() {
            let text = "UTF8=ACCEPT has not been enabled";
            Self::untagged(Some(Code::Downgraded(&f.downgraded)), text, out);
        }
        let no = |word| (Condition::No, Some(Code::Word(word)));
        let ((condition, code), text) = match () {
            () if f.gone => (no(Word::ExpungeIssued), "Some of the messages have been expunged"),
            () if f.encoded => (no(Word::UnknownCte), "An encoding is not known"),
            () => ((Condition::Ok, None), "FETCH completed"),
        };
        self.finish_with(f.uid, condition, code, text, out)
    }

    /// Writes the current message, or asks for what is missing.
    fn fetch_one(&self, f: &mut Fetching, out: &mut Vec<u8>) -> Option<Ask> {
        let bytes = f.batch[f.at].summary.take();
        let summary = bytes.as_deref().and_then(|bytes| Summary::read(bytes).ok());
        if f.begun.is_none() {
            if f.summaries && summary.is_none() {
                f.gone = true;
                return None;
            }
            self.put_items(f, summary.as_ref(), out);
        }
        let count = if f.text.is_empty() { 0 } else { f.sections() };
        let message = f.batch[f.at].message;
        while f.section < count {
            let plan = f.with_section(|section| plan(section, summary.as_ref(), u64::from(message.size)));
            if let Some(ask) = self.begin_section(f, message.uid, plan, out) {
                f.batch[f.at].summary = bytes;
                return Some(ask);
            }
        }
        let mut writer = Fetch::go_on(out, f.begun.unwrap_or(false));
        if writer.is_first() {
            // Nothing else could be said of it.
            writer.uid(message.uid);
        }
        writer.end();
        (f.section, f.begun) = (0, None);
        None
    }

    /// All items that are not content.
    fn put_items(&self, f: &mut Fetching, summary: Option<&Summary<'_>>, out: &mut Vec<u8>) {
        let wire = self.wire();
        let Entry { seq, message: m, noted, .. } = &f.batch[f.at];
        let mut items = f.items;
        if *noted {
            items.0 |= Items::FLAGS.0;
            if self.enabled.has(Extensions::CONDSTORE) {
                items.0 |= Items::MODSEQ.0;
            }
        }
        let has = |item| items.has(item);
        let mut writer = Fetch::begin(out, *seq);
        if has(Items::UID) {
            writer.uid(m.uid);
        }
        if has(Items::FLAGS) {
            writer.flags(system(m, &f.recent), keywords(&f.names, m.keywords));
        }
        if has(Items::MODSEQ) {
            writer.mod_seq(m.modseq);
        }
        if has(Items::INTERNALDATE) {
            writer.internal_date(date(m.internal));
        }
        if has(Items::SIZE) {
            writer.size(u64::from(m.size));
        }
        if has(Items::SAVEDATE) {
            writer.save_date(Some(date(m.saved)));
        }
        if has(Items::EMAILID) {
            writer.email_id(self.email_id(m).as_bytes());
        }
        if has(Items::THREADID) {
            writer.thread_id(None);
        }
        if let Some(summary) = summary
            && put_shown(&mut writer, items, summary, wire)
        {
            f.downgraded.insert(m.uid, m.uid);
        }
        f.begun = Some(writer.is_first());
    }

    /// EMAILID (RFC 8474 §5.1): the same for copies.
    pub(super) fn email_id(&self, m: &Message) -> String {
        format!("M{:016x}-{:x}", self.owner.unwrap_or_default(), m.body.0)
    }

    /// Writes the current section, or asks for what is missing.
    fn begin_section(&self, f: &mut Fetching, uid: u32, plan: Plan, out: &mut Vec<u8>) -> Option<Ask> {
        match plan {
            Plan::Nothing => {
                f.no_section(out);
                None
            }
            Plan::Encoded => {
                f.encoded = true;
                f.no_section(out);
                None
            }
            Plan::Bytes(range) => {
                let partial = f.with_section(|section| section.partial);
                let part = part_of(partial, range.end - range.start);
                self.open(f, uid, range.start + part.start..range.start + part.end, None, out)
            }
            Plan::Fields(range, has_body) => {
                let end = range.end.min(range.start + self.options.header_max);
                f.reading = Reading::Header(Vec::new(), has_body || end < range.end);
                Some(Ask::Read { uid, range: range.start..end })
            }
            Plan::Decoded(range, decoder) => {
                let measured = decoder.clone();
                f.reading = Reading::Measure {
                    range: range.clone(),
                    decoder,
                    measured,
                    len: 0,
                    nul: false,
                    scratch: Vec::new(),
                };
                Some(Ask::Read { uid, range })
            }
        }
    }

    /// Asks for `range`, or writes an empty literal.
    fn open(
        &self,
        f: &mut Fetching,
        uid: u32,
        range: Range<u64>,
        sending: Option<Sending>,
        out: &mut Vec<u8>,
    ) -> Option<Ask> {
        let len = sending.as_ref().map_or(range.end - range.start, |s| s.left);
        if len == 0 {
            f.literal(0, false, out);
            f.next_section();
            return None;
        }
        f.reading = Reading::Open(sending.unwrap_or(Sending { left: len, ..Sending::default() }));
        Some(Ask::Open { uid, range })
    }

    pub(super) fn fetch_answer(&mut self, mut f: Box<Fetching>, answer: Answer<'_, S>, out: &mut Vec<u8>) {
        match answer {
            Answer::Stored(Ok(done)) => {
                let modseq = done.value.modseq;
                if let (Some(modseq), Some(chosen)) = (modseq, &mut self.chosen) {
                    chosen.mailbox.told(modseq);
                }
                for m in &done.value.now {
                    let found = f.batch.binary_search_by_key(&m.uid, |e| e.message.uid);
                    if let Ok(at) = found {
                        f.batch[at].message = *m;
                        f.batch[at].noted = Some(m.modseq) == modseq;
                    }
                }
            }
            // What cannot be changed can be read all the same.
            Answer::Stored(Err(_)) => {}
            Answer::Summaries(summaries) => {
                for (entry, summary) in f.batch.iter_mut().zip(summaries) {
                    entry.summary = summary;
                }
            }
            Answer::Read(Err(_)) => {
                f.gone = true;
                f.no_section(out);
            }
            Answer::Read(Ok(())) => return self.section_read(f, out),
            _ => panic!("no answer to FETCH"),
        }
        self.go_on(Task::Fetch(f));
    }

    /// What a section needs has been read, or opened.
    fn section_read(&mut self, mut f: Box<Fetching>, out: &mut Vec<u8>) {
        match std::mem::replace(&mut f.reading, Reading::Nothing) {
            Reading::Nothing => panic!("nothing was to be read"),
            Reading::Header(header, more) => {
                let (text, partial) = f.with_section(|section| {
                    let text = match section.text {
                        Text::Fields(names) => fields(&header, names, false, more),
                        Text::FieldsNot(names) => fields(&header, names, true, more),
                        _ => Vec::new(),
                    };
                    (text, section.partial)
                });
                let part = part_of(partial, text.len() as u64);
                let text = &text[part.start as usize..part.end as usize];
                f.literal(text.len() as u64, false, out);
                let mut sending = Sending { left: text.len() as u64, ..Sending::default() };
                sending.take(text, out);
                f.next_section();
            }
            Reading::Measure { range, decoder, mut measured, mut len, mut nul, mut scratch } => {
                scratch.clear();
                measured.feed(b"", true, &mut scratch);
                len += scratch.len() as u64;
                nul |= memchr::memchr(0, &scratch).is_some();
                let (kind, partial) = f.with_section(|section| (section.kind, section.partial));
                if kind == Kind::BinarySize {
                    let mut writer = Fetch::go_on(out, f.begun.unwrap_or(false));
                    f.with_section(|section| writer.binary_size(section, len));
                    f.begun = Some(false);
                    f.next_section();
                } else {
                    let part = part_of(partial, len);
                    let sending = Sending {
                        left: part.end - part.start,
                        skip: part.start,
                        decoder: Some(decoder),
                        eight: nul,
                        scratch: Vec::new(),
                    };
                    let uid = f.batch[f.at].message.uid;
                    if let Some(ask) = self.open(&mut f, uid, range, Some(sending), out) {
                        self.ask(Task::Fetch(f), ask);
                        return;
                    }
                }
            }
            Reading::Open(sending) => {
                f.literal(sending.left, sending.eight, out);
                f.next_section();
                self.sending = sending;
                self.task = Task::Fetch(f);
                self.state = State::Sending;
                return;
            }
        }
        self.go_on(Task::Fetch(f));
    }

    /// The next bytes of what [`Ask::Read`] has asked for. False: that is enough.
    pub fn piece(&mut self, bytes: &[u8]) -> bool {
        match &mut self.task {
            Task::Fetch(f) => f.piece(bytes, self.options.header_max),
            Task::Search(s) => s.piece(bytes, self.options.header_max),
            _ => false,
        }
    }

    /// The next bytes of the content of [`Step::Send`]: appends what of them is sent. False: nothing more
    /// is wanted.
    pub fn pass(&mut self, bytes: &[u8], out: &mut Vec<u8>) -> bool {
        self.sending.pass(bytes, false, out);
        self.sending.left > 0
    }

    /// As [`Self::pass`], if what is sent of the bytes can be sent as they are: which of them, and
    /// whether more is wanted.
    pub fn pass_whole(&mut self, bytes: &[u8]) -> Option<(Range<usize>, bool)> {
        let sending = &mut self.sending;
        let skip = sending.skip.min(bytes.len() as u64) as usize;
        let len = sending.left.min((bytes.len() - skip) as u64) as usize;
        let range = skip..skip + len;
        if sending.decoder.is_some() || (!sending.eight && memchr::memchr(0, &bytes[range.clone()]).is_some())
        {
            return None;
        }
        sending.skip -= skip as u64;
        sending.left -= len as u64;
        Some((range, sending.left > 0))
    }

    /// The content has ended. If it was too short, the session can only be closed.
    pub fn sent(&mut self, now: Mono, out: &mut Vec<u8>) {
        assert!(matches!(self.state, State::Sending), "nothing was to be sent");
        self.sending.pass(b"", true, out);
        self.since = now;
        let short = self.sending.left > 0;
        self.sending = Sending::default();
        self.state = if short { State::Closing } else { State::Running };
    }

    /// The set of UIDs that a result is saved as.
    pub(super) fn save(&mut self, uids: impl IntoIterator<Item = u32>) {
        let mut saved = SeqSet::default();
        uids.into_iter().for_each(|uid| saved.insert(uid, uid));
        self.saved = saved;
    }
}

/// Items that are made of a summary. True if something is shown otherwise than it is written.
fn put_shown(writer: &mut Fetch<'_>, items: Items, summary: &Summary<'_>, wire: Wire) -> bool {
    let mut other = false;
    if items.has(Items::ENVELOPE) {
        other |= structure::envelope(writer.item("ENVELOPE"), &EnvelopeOf(*summary.envelope()), wire);
    }
    if items.has(Items::BODYSTRUCTURE) {
        other |= structure::structure(writer.item("BODYSTRUCTURE"), &PartOf(summary.root()), true, wire);
    }
    if items.has(Items::BODY) {
        other |= structure::structure(writer.item("BODY"), &PartOf(summary.root()), false, wire);
    }
    if items.has(Items::PREVIEW) {
        writer.preview(Some(summary.preview()), wire);
    }
    other
}
