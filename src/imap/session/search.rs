//! SEARCH and UID SEARCH (RFC 9051 §6.4.4; RFC 4731, RFC 5182, RFC 7162 §3.1.5); SORT and THREAD find
//! their messages in the same way (`order`).
//!
//! Messages are judged one after the other, in turns: by what is known of them, else by their summaries (of
//! several at once), else by their header, else by the text of their parts, which is streamed.

use super::order::Order;
use super::tell::system;
use super::{Answer, Ask, Now, Session, Step, Task};
use crate::imap::charset;
use crate::imap::encode::search::esearch;
use crate::imap::encode::status::{Code, Condition};
use crate::imap::parse::Str;
use crate::imap::parse::search::{Key, Search, Wanted};
use crate::imap::parse::session::Extensions;
use crate::imap::search::{Context, Known, Program, Refused, Run, Verdict};
use crate::imap::set::number;
use crate::imap::transfer::Decoder;
use crate::mailbox::api::Selected;
use crate::mailbox::types::{Message, UidSet};
use crate::message::mime::{Kind, Summary};
use std::collections::VecDeque;
use std::ops::Range;
use std::rc::Rc;
use std::vec::IntoIter;

/// What is done with the messages that are found.
#[derive(Debug)]
pub(super) enum What {
    Search(Option<Wanted>),
    Order(Order),
}

/// A search under way.
#[derive(Debug)]
pub(super) struct Searching {
    pub uid: bool,
    pub what: What,
    program: Rc<Program>,
    run: Run,
    /// EMAILID is a key.
    ids: bool,
    recent: UidSet,
    /// The next message.
    next: u32,
    /// Those before it that are not judged yet, in their order, and those among them that are found.
    open: VecDeque<Open>,
    current: Option<(u32, Message)>,
    /// Its summary.
    summary: Option<Vec<u8>>,
    phase: Phase,
    header: Vec<u8>,
    /// The header of a part is being read: see [`KindOf::Header`].
    gathers: Option<bool>,
    parts: VecDeque<PartOf>,
    decoder: Option<Decoder>,
    scratch: Vec<u8>,
    judged: Option<bool>,
    /// Message sequence numbers.
    pub found: Vec<u32>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Phase {
    Look,
    /// Summaries are asked for.
    Summaries,
    /// They are there.
    Judge,
    Header,
    Parts,
    Body,
    /// All have been found.
    Found,
}

/// A message that waits.
#[derive(Debug)]
enum Open {
    /// It is found.
    Found(u32),
    /// Its summary decides, or says what must be read.
    Undecided(u32, Message, Option<Vec<u8>>),
}

/// A text that is looked through.
#[derive(Debug)]
struct PartOf {
    range: Range<u64>,
    kind: KindOf,
}

#[derive(Debug)]
enum KindOf {
    Text {
        decoder: Decoder,
        charset: Option<Vec<u8>>,
    },
    /// Fields; those of a message within are of the body, too.
    Header {
        of_message: bool,
    },
}

/// Numbers that are being written.
#[derive(Debug)]
pub(super) struct Numbers {
    numbers: IntoIter<u32>,
    mod_seq: Option<u64>,
    uid: bool,
    what: &'static str,
}

impl Searching {
    /// The current message is judged.
    fn judge(&mut self, matches: bool) {
        let (seq, _) = self.current.take().expect("a message is being looked at");
        if matches {
            self.found.push(seq);
        }
        self.parts.clear();
        self.judged = None;
        self.phase = if self.open.is_empty() { Phase::Look } else { Phase::Judge };
    }

    /// Only the first one is asked for, and it is found.
    fn is_enough(&self) -> bool {
        matches!(self.what, What::Search(Some(Wanted::MIN))) && !self.found.is_empty()
    }

    fn verdict(&mut self, verdict: Verdict) {
        match verdict {
            Verdict::Known(matches) => self.judge(matches),
            Verdict::Header => self.phase = Phase::Header,
            Verdict::Body => self.phase = Phase::Parts,
        }
    }

    /// More of what is being read; true if even more is wanted.
    pub fn piece(&mut self, bytes: &[u8], header_max: u64) -> bool {
        if self.phase == Phase::Header {
            let from = self.header.len().saturating_sub(3);
            self.header.extend_from_slice(bytes);
            let ended = memchr::memmem::find(&self.header[from..], b"\r\n\r\n").is_some();
            return !ended && (self.header.len() as u64) < header_max;
        }
        if self.gathers.is_some() {
            self.header.extend_from_slice(bytes);
            return (self.header.len() as u64) < header_max;
        }
        self.text(bytes, false)
    }

    fn text(&mut self, bytes: &[u8], last: bool) -> bool {
        let Some(decoder) = &mut self.decoder else { return false };
        self.scratch.clear();
        decoder.feed(bytes, last, &mut self.scratch);
        if let Verdict::Known(matches) = self.run.body(&self.scratch, last) {
            self.judged = Some(matches);
        }
        self.judged.is_none()
    }

    /// Begins with a text: what of the message is to be read.
    fn begin(&mut self, part: PartOf, header_max: u64) -> Range<u64> {
        match part.kind {
            KindOf::Text { decoder, charset } => {
                self.run.part(charset.as_deref());
                self.decoder = Some(decoder);
                part.range
            }
            KindOf::Header { of_message } => {
                self.header.clear();
                self.gathers = Some(of_message);
                part.range.start..part.range.end.min(part.range.start + header_max)
            }
        }
    }

    /// The header of a part has been read.
    fn part_header(&mut self, of_message: bool) {
        if let Verdict::Known(matches) = self.run.fields(&self.header, of_message) {
            self.judged = Some(matches);
        }
    }

    /// The texts of a message: those of its parts, and the headers of parts and of messages within.
    fn take_parts(&mut self, summary: Option<&Summary<'_>>) {
        let identity = || Decoder::of(None).expect("7bit is known");
        let Some(summary) = summary else { return };
        // The header of the first one is that of the message, that of the next is that of the message within.
        let (mut known, headers) = (true, self.run.wants_part_headers());
        for part in summary.parts() {
            if !known && headers {
                let kind = KindOf::Header { of_message: false };
                self.parts.push_back(PartOf { range: part.header..part.body, kind });
            }
            known = false;
            match part.kind {
                // RFC 2046 §5.2: reports, pieces and references are text as well.
                Kind::Basic if !part.media.eq_ignore_ascii_case(b"message") => {}
                Kind::Text | Kind::Basic => {
                    let decoder = Decoder::of(part.encoding).unwrap_or_else(identity);
                    let charset = part.params.get("charset").map(<[u8]>::to_vec);
                    let kind = KindOf::Text { decoder, charset };
                    self.parts.push_back(PartOf { range: part.body..part.end, kind });
                }
                Kind::Message => {
                    if let Some(inner) = part.children().next() {
                        let kind = KindOf::Header { of_message: true };
                        self.parts.push_back(PartOf { range: inner.header..inner.body, kind });
                        known = true;
                    }
                }
                Kind::Multipart => {}
            }
        }
    }
}

impl<S: Selected> Session<S> {
    pub(super) fn search(&mut self, now: Now, search: Search<'_>, out: &mut Vec<u8>) -> Option<Step> {
        let charset = search.charset;
        // RFC 6855 §3: all is UTF-8 then.
        if charset.is_some() && self.enabled.has(Extensions::UTF8_ACCEPT) {
            return self.bad("No CHARSET: UTF8=ACCEPT is enabled", out);
        }
        self.find(now, search.uid, What::Search(search.wanted), charset, &search.keys, out)
    }

    /// Begins to look for messages.
    pub(super) fn find(
        &mut self,
        now: Now,
        uid: bool,
        what: What,
        charset: Option<Str<'_>>,
        keys: &[Key<'_>],
        out: &mut Vec<u8>,
    ) -> Option<Step> {
        if keys.iter().any(|k| matches!(k, Key::ModSeq(_))) {
            self.aware(out);
        }
        let mailbox = self.mailbox();
        let names = mailbox.keywords();
        let exists = mailbox.exists();
        let context = Context {
            exists,
            uid_max: mailbox.message(exists).map_or(0, |m| m.uid),
            saved: &self.saved,
            now: now.wall.seconds() as i64,
            keyword: &|name| {
                let same = |n: &String| n.as_bytes().eq_ignore_ascii_case(name);
                names.iter().position(same).map(|bit| bit as u32)
            },
        };
        let charset = charset.map(|c| c.bytes().into_owned());
        match Program::new(keys, charset.as_deref(), &context) {
            Ok(program) => {
                let program = Rc::new(program);
                let searching = Searching {
                    uid,
                    what,
                    run: program.run(),
                    program,
                    ids: keys.iter().any(|k| matches!(k, Key::EmailId(_))),
                    recent: self.recent(),
                    next: 1,
                    open: VecDeque::new(),
                    current: None,
                    summary: None,
                    phase: Phase::Look,
                    header: Vec::new(),
                    gathers: None,
                    parts: VecDeque::new(),
                    decoder: None,
                    scratch: Vec::new(),
                    judged: None,
                    found: Vec::new(),
                };
                self.go_on(Task::Search(Box::new(searching)));
                None
            }
            Err(refused) => self.search_refused(refused, &what, uid, out),
        }
    }

    fn search_refused(
        &mut self,
        refused: Refused,
        what: &What,
        uid: bool,
        out: &mut Vec<u8>,
    ) -> Option<Step> {
        // RFC 5182 §2.1: then the saved result is empty.
        if matches!(what, What::Search(Some(wanted)) if wanted.has(Wanted::SAVE)) {
            self.save([]);
        }
        match refused {
            Refused::Charset => {
                let code = Some(Code::BadCharset(&charset::NAMES));
                self.finish_with(uid, Condition::No, code, "This charset is not known", out)
            }
            Refused::Beyond => self.beyond(out),
        }
    }

    pub(super) fn search_on(&mut self, now: Now, mut s: Box<Searching>, out: &mut Vec<u8>) -> Option<Step> {
        let mut looked = 0;
        loop {
            match s.phase {
                Phase::Look => {
                    if looked >= self.options.messages_at_once {
                        return self.pause(Task::Search(s));
                    }
                    looked += self.look(&mut s, self.options.messages_at_once - looked);
                }
                Phase::Summaries => {
                    let undecided = s.open.iter().filter_map(|o| match o {
                        Open::Undecided(_, m, _) => Some(m.uid),
                        Open::Found(_) => None,
                    });
                    let uids = undecided.collect();
                    return self.ask(Task::Search(s), Ask::Summaries(uids));
                }
                Phase::Judge => self.judge_next(&mut s),
                Phase::Header => {
                    s.header.clear();
                    let (_, m) = s.current.expect("a message is being looked at");
                    let range = 0..u64::from(m.size).min(self.options.header_max);
                    return self.ask(Task::Search(s), Ask::Read { uid: m.uid, range });
                }
                Phase::Parts => {
                    let bytes = s.summary.take();
                    s.take_parts(bytes.as_deref().and_then(|bytes| Summary::read(bytes).ok()).as_ref());
                    s.phase = Phase::Body;
                }
                Phase::Body => {
                    let (_, m) = s.current.expect("a message is being looked at");
                    match s.parts.pop_front() {
                        Some(part) => {
                            let range = s.begin(part, self.options.header_max);
                            return self.ask(Task::Search(s), Ask::Read { uid: m.uid, range });
                        }
                        None => {
                            let matches = s.run.end();
                            s.judge(matches);
                            looked += 1;
                        }
                    }
                }
                Phase::Found => return self.found(now, s, out),
            }
        }
    }

    /// Judges messages by what is known of them; stops when enough of them are undecided. How many it were.
    fn look(&self, s: &mut Searching, most: usize) -> usize {
        let mut batch = Vec::new();
        let mailbox = self.mailbox();
        mailbox.window(s.next, most, &mut batch);
        if batch.is_empty() || s.is_enough() {
            s.phase = Phase::Found;
            return 0;
        }
        let summaries = s.program.uses_summary();
        let (mut seen, mut undecided) = (0, 0);
        for m in &batch {
            let seq = s.next;
            let verdict = self.begin(s, seq, m);
            s.next += 1;
            seen += 1;
            match verdict {
                Verdict::Known(false) => {}
                Verdict::Known(true) if undecided == 0 => s.found.push(seq),
                Verdict::Known(true) => s.open.push_back(Open::Found(seq)),
                Verdict::Header | Verdict::Body if summaries => {
                    s.open.push_back(Open::Undecided(seq, *m, None));
                    undecided += 1;
                }
                verdict => {
                    s.current = Some((seq, *m));
                    s.verdict(verdict);
                    return seen;
                }
            }
            if undecided >= self.options.summaries_at_once || s.is_enough() {
                break;
            }
        }
        if undecided > 0 {
            s.phase = Phase::Summaries;
        }
        seen
    }

    /// Begins with a message.
    fn begin(&self, s: &mut Searching, seq: u32, m: &Message) -> Verdict {
        let id = if s.ids { self.email_id(m) } else { String::new() };
        s.run.begin(&Known {
            seq,
            uid: m.uid,
            system: system(m, &s.recent),
            keywords: m.keywords.0,
            internal: m.internal.seconds() as i64,
            saved: Some(m.saved.seconds() as i64),
            size: u64::from(m.size),
            mod_seq: m.modseq,
            email_id: id.as_bytes(),
            thread_id: b"",
        })
    }

    /// Judges the next of those whose summaries are there.
    fn judge_next(&self, s: &mut Searching) {
        let next = if s.is_enough() { None } else { s.open.pop_front() };
        match next {
            None => {
                s.open.clear();
                s.phase = Phase::Look;
            }
            Some(Open::Found(seq)) => s.found.push(seq),
            Some(Open::Undecided(seq, m, bytes)) => {
                let mut verdict = self.begin(s, seq, &m);
                s.current = Some((seq, m));
                if let Some(summary) = bytes.as_deref().and_then(|bytes| Summary::read(bytes).ok()) {
                    verdict = s.run.summary(&summary);
                }
                s.summary = bytes;
                s.verdict(verdict);
            }
        }
    }

    pub(super) fn search_answer(&mut self, mut s: Box<Searching>, answer: Answer<'_, S>) {
        match (s.phase, answer) {
            (Phase::Found, Answer::Summaries(summaries)) => {
                self.take_keys(&mut s, &summaries);
            }
            (Phase::Header, Answer::Read(Ok(()))) => {
                let header = std::mem::take(&mut s.header);
                let verdict = s.run.header(&header);
                s.header = header;
                s.verdict(verdict);
            }
            (Phase::Summaries, Answer::Summaries(summaries)) => {
                let undecided = s.open.iter_mut().filter_map(|o| match o {
                    Open::Undecided(_, _, summary) => Some(summary),
                    Open::Found(_) => None,
                });
                undecided.zip(summaries).for_each(|(open, summary)| *open = summary);
                s.phase = Phase::Judge;
            }
            (Phase::Body, Answer::Read(Ok(()))) => {
                match s.gathers.take() {
                    Some(of_message) => s.part_header(of_message),
                    None if s.judged.is_none() => _ = s.text(b"", true),
                    None => {}
                }
                s.decoder = None;
                if let Some(matches) = s.judged {
                    s.judge(matches);
                }
            }
            // It is gone, so it is not found.
            (_, Answer::Read(Err(_))) => s.judge(false),
            (phase, _) => panic!("no answer to SEARCH in {phase:?}"),
        }
        self.go_on(Task::Search(s));
    }

    /// All messages are found.
    fn found(&mut self, now: Now, s: Box<Searching>, out: &mut Vec<u8>) -> Option<Step> {
        match s.what {
            What::Search(wanted) => self.results(&s, wanted, out),
            What::Order(_) => self.order_on(now, s, out),
        }
    }

    /// Message sequence numbers as the command wants them.
    pub(super) fn numbers(&self, uid: bool, found: &[u32]) -> Vec<u32> {
        if !uid {
            return found.to_vec();
        }
        let mailbox = self.mailbox();
        found.iter().filter_map(|seq| mailbox.message(*seq)).map(|m| m.uid).collect()
    }

    fn results(&mut self, s: &Searching, wanted: Option<Wanted>, out: &mut Vec<u8>) -> Option<Step> {
        let ends = Wanted(Wanted::MIN.0 | Wanted::MAX.0);
        let few = wanted.is_some_and(|w| w.0 & ends.0 != 0 && !w.has(Wanted::ALL) && !w.has(Wanted::COUNT));
        // RFC 5182 §2.4, RFC 4731 §3.2: with MIN and MAX only, it is these that count.
        let counted: Vec<u32> = match (few, &s.found[..]) {
            (true, [first, .., last]) => {
                let has = |w| wanted.is_some_and(|all| all.has(w));
                let pair = [(has(Wanted::MIN), *first), (has(Wanted::MAX), *last)];
                pair.iter().filter(|(has, _)| *has).map(|(_, seq)| *seq).collect()
            }
            _ => s.found.clone(),
        };
        if wanted.is_some_and(|w| w.has(Wanted::SAVE)) {
            let uids = self.numbers(true, &counted);
            self.save(uids);
        }
        let mailbox = self.mailbox();
        let mod_seqs = counted.iter().filter_map(|seq| mailbox.message(*seq)).map(|m| m.modseq);
        let mod_seq = s.program.has_mod_seq().then(|| mod_seqs.max()).flatten();
        let numbers = self.numbers(s.uid, &s.found);
        let wanted = wanted.or_else(|| self.is_rev2().then_some(Wanted::ALL));
        match wanted {
            None => {
                out.extend_from_slice(b"* SEARCH");
                let numbers = Numbers { numbers: numbers.into_iter(), mod_seq, uid: s.uid, what: "SEARCH" };
                self.go_on(Task::Numbers(numbers));
                return None;
            }
            // RFC 5182 §2.4: nothing to say.
            Some(Wanted::SAVE) => {}
            Some(wanted) => esearch(out, self.tag.bytes(), s.uid, wanted, &numbers, mod_seq),
        }
        self.finish(s.uid, "SEARCH", out)
    }

    /// Writes numbers behind `* SORT`.
    pub(super) fn put_numbers(&mut self, numbers: Vec<u32>, uid: bool, what: &'static str) {
        let numbers = Numbers { numbers: numbers.into_iter(), mod_seq: None, uid, what };
        self.go_on(Task::Numbers(numbers));
    }

    pub(super) fn numbers_on(&mut self, mut n: Numbers, out: &mut Vec<u8>) -> Option<Step> {
        while let Some(next) = n.numbers.next() {
            out.push(b' ');
            number(out, u64::from(next));
            if out.len() >= self.options.replies_max {
                return self.pause(Task::Numbers(n));
            }
        }
        if let Some(mod_seq) = n.mod_seq {
            out.extend_from_slice(b" (MODSEQ ");
            number(out, mod_seq);
            out.push(b')');
        }
        out.extend_from_slice(b"\r\n");
        self.finish(n.uid, n.what, out)
    }
}
