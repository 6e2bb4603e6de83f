//! SORT and THREAD (RFC 5256): what is compared comes out of the summaries of the messages found.

use super::search::{Searching, What};
use super::{Ask, Now, Session, Step, Task};
use crate::imap::encode::search::thread as put_thread;
use crate::imap::parse::sort::{Algorithm, By, Criterion, Sort, Thread};
use crate::imap::search::sent;
use crate::imap::sort::{self, Keys};
use crate::imap::{casemap, subject, thread};
use crate::mailbox::api::Selected;
use crate::mailbox::types::Message;
use crate::message::mime::{Addresses, Envelope, Summary};
use smallvec::SmallVec;

/// What is to be ordered, and how.
#[derive(Debug)]
pub(super) enum Order {
    Sort(SmallVec<[Criterion; 4]>, Vec<Keys>),
    Thread(Algorithm, Vec<thread::Message>),
}

impl Order {
    /// Messages whose keys are there.
    fn len(&self) -> usize {
        match self {
            Order::Sort(_, keys) => keys.len(),
            Order::Thread(_, messages) => messages.len(),
        }
    }

    fn needs_summaries(&self) -> bool {
        match self {
            Order::Sort(by, _) => by.iter().any(|c| !matches!(c.by, By::Arrival | By::Size)),
            Order::Thread(..) => true,
        }
    }
}

impl<S: Selected> Session<S> {
    pub(super) fn sort(&mut self, now: Now, sort: Sort<'_>, out: &mut Vec<u8>) -> Option<Step> {
        let what = What::Order(Order::Sort(sort.by, Vec::new()));
        self.find(now, sort.uid, what, Some(sort.charset), &sort.keys, out)
    }

    pub(super) fn thread(&mut self, now: Now, thread: Thread<'_>, out: &mut Vec<u8>) -> Option<Step> {
        let what = What::Order(Order::Thread(thread.algorithm, Vec::new()));
        self.find(now, thread.uid, what, Some(thread.charset), &thread.keys, out)
    }

    /// Gathers keys, then writes the result.
    pub(super) fn order_on(&mut self, _now: Now, mut s: Box<Searching>, out: &mut Vec<u8>) -> Option<Step> {
        let What::Order(order) = &s.what else { panic!("a search has no order") };
        let at = order.len();
        if at < s.found.len() {
            let some = &s.found[at..(at + self.options.summaries_at_once).min(s.found.len())];
            if order.needs_summaries() {
                let uids = self.numbers(true, some);
                return self.ask(Task::Search(s), Ask::Summaries(uids));
            }
            let none: Vec<Option<Vec<u8>>> = some.iter().map(|_| None).collect();
            self.take_keys(&mut s, &none);
            return self.pause(Task::Search(s));
        }
        let uid = s.uid;
        match s.what {
            What::Order(Order::Sort(by, mut keys)) => {
                sort::sort(&mut keys, &by);
                let seqs: Vec<u32> = keys.iter().map(|k| k.seq).collect();
                out.extend_from_slice(b"* SORT");
                self.put_numbers(self.numbers(uid, &seqs), uid, "SORT");
                None
            }
            What::Order(Order::Thread(algorithm, messages)) => {
                let forest = match algorithm {
                    Algorithm::OrderedSubject => thread::ordered_subject(&messages),
                    Algorithm::References => thread::references(&messages),
                };
                put_thread(out, &forest);
                self.finish(uid, "THREAD", out)
            }
            What::Search(_) => panic!("a search has no order"),
        }
    }

    /// Keys of the next messages; these are their summaries.
    pub(super) fn take_keys(&self, s: &mut Searching, summaries: &[Option<Vec<u8>>]) {
        let mailbox = self.mailbox();
        let What::Order(order) = &mut s.what else { panic!("a search has no order") };
        let at = order.len();
        for (seq, bytes) in s.found[at..].iter().zip(summaries) {
            let m = mailbox.message(*seq).unwrap_or_default();
            let summary = bytes.as_deref().and_then(|bytes| Summary::read(bytes).ok());
            match order {
                Order::Sort(by, keys) => keys.push(sort_keys(*seq, &m, summary.as_ref(), by)),
                Order::Thread(_, messages) => {
                    let number = if s.uid { m.uid } else { *seq };
                    messages.push(thread_message(number, &m, summary.as_ref()));
                }
            }
        }
    }
}

/// RFC 5256 §2.2: in UTC; INTERNALDATE if there is none that can be read.
fn date(envelope: Option<&Envelope<'_>>, m: &Message) -> i64 {
    let sent = envelope.and_then(|e| e.date).and_then(sent::parse);
    sent.map_or(m.internal.seconds() as i64, |s| s.seconds)
}

fn sort_keys(seq: u32, m: &Message, summary: Option<&Summary<'_>>, by: &[Criterion]) -> Keys {
    let envelope = summary.map(Summary::envelope);
    let wants = |key| by.iter().any(|c| c.by == key);
    let first = |list: Option<Addresses<'_>>| sort::address(list.and_then(|mut l| l.next()?.mailbox));
    let mut keys = Keys {
        seq,
        arrival: m.internal.seconds() as i64,
        size: u64::from(m.size),
        date: date(envelope, m),
        ..Keys::default()
    };
    if wants(By::From) {
        keys.from = first(envelope.map(|e| e.from));
    }
    if wants(By::To) {
        keys.to = first(envelope.map(|e| e.to));
    }
    if wants(By::Cc) {
        keys.cc = first(envelope.map(|e| e.cc));
    }
    if wants(By::Subject) {
        keys.subject = sort::base_subject(envelope.and_then(|e| e.subject));
    }
    keys
}

fn thread_message(number: u32, m: &Message, summary: Option<&Summary<'_>>) -> thread::Message {
    let envelope = summary.map(Summary::envelope);
    let base = subject::base(envelope.and_then(|e| e.subject).unwrap_or_default());
    let mut references: Vec<Box<[u8]>> =
        summary.and_then(|s| s.references()).map(|r| thread::ids(r).collect()).unwrap_or_default();
    // RFC 5256 §3: In-Reply-To counts if there are no References.
    if references.is_empty() {
        let reply = envelope.and_then(|e| e.in_reply_to);
        references.extend(reply.and_then(|r| thread::ids(r).next()));
    }
    thread::Message {
        number,
        date: date(envelope, m),
        subject: casemap::folded(&base.text).into(),
        is_reply: base.is_reply,
        id: envelope.and_then(|e| e.message_id).and_then(|id| thread::ids(id).next()).unwrap_or_default(),
        references,
    }
}
