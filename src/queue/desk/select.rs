//! L4: which messages an operator means, found slice by slice while mail flows.
//!
//! Where a condition says state, destination, site or domain, only the messages of those lists are looked at
//! (`narrowing`), else all. A slice looks at so many messages in memory ([`SLICE`]) and reads so many at
//! most ([`READ`]); whoever asks goes on behind the last one. What is on stable storage counts, nothing
//! else. A message that cannot be read, and would have to be, is counted and left out.

use crate::base::aligned::SharedBytes;
use crate::base::ids::MessageId;
use crate::base::time::{Mono, Wall};
use crate::queue::control::{ControlError, Cursor, Response};
use crate::queue::desk::Desk;
use crate::queue::desk::archiving::together;
use crate::queue::desk::operate::{is_known, paused_reason};
use crate::queue::desk::recall::Source;
use crate::queue::desk::skimming::{BEGINNING, Skimmed};
use crate::queue::desk::verbs::{waits, waits_still};
use crate::queue::index::{DestId, Entry, Key, Phase, Presence, Recipient};
use crate::queue::pick::{HEADER_BYTES, Pick, Resident, Standing, Verb};
use crate::queue::record::MessageView;
use crate::queue::row::{RowRecipient, RowView};
use crate::queue::state::State;
use crate::queue::stub::{SEVERAL, Stub};
use crate::runtime::Runtime;
use crate::storage::side::SideFile;

/// Messages looked at in memory in one slice.
const SLICE: usize = 4000;
/// Messages, or rows, read in one slice.
const READ: usize = 2048;
/// Messages read at a time, and the bytes that are read of them, but for one.
const TOGETHER: usize = 256;
const TOGETHER_BYTES: u64 = 16 << 20;

/// What is known of a message that may be meant.
#[derive(Clone, Copy)]
struct Candidate {
    key: Key,
    id: MessageId,
    size: u64,
    /// It is parked.
    parked: bool,
    /// Its row decides, too: it has several destinations.
    reads_row: bool,
    /// The message decides, too.
    reads_message: bool,
}

/// How many of them are read side by side, if `whole` at their full length.
fn side_by_side(near: &[Candidate], whole: bool) -> usize {
    let mut bytes = 0;
    let fit = near.iter().take(TOGETHER).take_while(|c| {
        bytes += match c.reads_message {
            true if whole => c.size,
            true => c.size.min(BEGINNING.into()),
            false => 0,
        };
        bytes <= TOGETHER_BYTES
    });
    fit.count().max(1)
}

/// What is resident of a message, if that suits.
fn candidate(
    s: &State,
    pick: &Pick,
    verb: Verb,
    (key, id): (Key, MessageId),
    (now, wall): (Mono, Wall),
) -> Option<Candidate> {
    let stub = s.index.stub(key);
    let (size, standing, several) = match (stub, s.index.get(key)) {
        (Some(stub), _) => of_stub(s, stub, now),
        (None, Some(e)) if verb.needs_waiting() && !e.recipients.iter().any(waits) => return None,
        (None, Some(e)) => (e.size, standing(s, e, now), false),
        (None, None) => return None,
    };
    let resident = Resident { arrival: id.arrival(), size, standing };
    let unsuited = !pick.suits(&resident, wall) || !pick.suits_reroute(s.vias.get(id));
    if unsuited || !verb.would_change(standing == Standing::Hold) {
        return None;
    }
    if pick.needs_destinations() && !several && !suits_destinations(s, pick, key) {
        return None;
    }
    let reads_message = match s.index.domain(key) {
        Some(domain) if !pick.suits_domain(domain) => return None,
        Some(_) => pick.needs_more_than_domain(),
        None => pick.needs_message(),
    };
    let reads_row = several && (pick.needs_destinations() || verb.needs_waiting());
    Some(Candidate { key, id, size, parked: stub.is_some(), reads_row, reads_message })
}

impl<R: Runtime> Desk<R> {
    /// The messages of one slice behind `after` that `pick` means and `verb` would change.
    pub(crate) async fn select(
        &self,
        pick: &Pick,
        verb: Verb,
        after: Option<&Cursor>,
    ) -> Result<Response, ControlError> {
        if self.is_closed() {
            return Err(ControlError::Closed);
        }
        let begun = after.filter(|a| a.after.message != MessageId(0));
        let few = match begun {
            Some(cursor) => cursor.few.clone(),
            None => self.narrow(pick).await,
        };
        let after = begun.map_or(MessageId(0), |a| a.after.message);
        let (near, looked, last) = self.near(pick, verb, after, few.as_deref());
        let (mut ids, mut bytes, mut unread) = (Vec::new(), 0, 0);
        let mut near = &near[..];
        while !near.is_empty() {
            let (some, rest) = near.split_at(side_by_side(near, pick.needs_header()));
            near = rest;
            let verdicts = self.verdicts(pick, verb, some).await;
            for (candidate, verdict) in some.iter().zip(verdicts) {
                match verdict {
                    Some(true) => {
                        ids.push(self.queue_id(candidate.id));
                        bytes += candidate.size;
                    }
                    Some(false) => {}
                    None => unread += 1,
                }
            }
        }
        let next = last.map(|id| Cursor { after: self.queue_id(id), few });
        Ok(Response::Selected { ids, bytes, looked, unread, next })
    }

    /// Those of the slice of which what is resident suits; how many were looked at, and the last. Of `few`,
    /// or of all.
    fn near(
        &self,
        pick: &Pick,
        verb: Verb,
        after: MessageId,
        few: Option<&[MessageId]>,
    ) -> (Vec<Candidate>, u64, Option<MessageId>) {
        let (now, wall) = (self.0.rt.now(), self.0.rt.wall());
        let s = self.0.state.borrow();
        let slice: Vec<(MessageId, Option<Key>)> = match few {
            Some(few) => {
                let from = few.partition_point(|id| *id <= after);
                few[from..].iter().take(SLICE).map(|id| (*id, s.index.find(*id))).collect()
            }
            None => s.index.after(after).take(SLICE).map(|(key, id, _)| (id, Some(key))).collect(),
        };
        let (mut near, mut looked, mut last, mut reads) = (Vec::new(), 0, None, 0);
        for (id, key) in slice {
            if reads == READ {
                break;
            }
            looked += 1;
            last = Some(id);
            let Some(key) = key.filter(|key| is_known(&s, *key)) else { continue };
            if let Some(candidate) = candidate(&s, pick, verb, (key, id), (now, wall)) {
                reads += usize::from(candidate.reads_message || candidate.reads_row);
                near.push(candidate);
            }
        }
        (near, looked, last)
    }

    /// Whether each is meant; `None`: it would have to be read, and cannot be.
    async fn verdicts(&self, pick: &Pick, verb: Verb, some: &[Candidate]) -> Vec<Option<bool>> {
        let reads = |c: &Candidate| c.parked && (c.reads_message || c.reads_row);
        let parked = some.iter().filter(|c| reads(c)).map(|c| c.id).collect::<Vec<_>>();
        let mut rows = match parked.is_empty() {
            true => Vec::new(),
            // What cannot be read is told as unread.
            false => self.rows(parked.iter().copied()).await.unwrap_or_default(),
        }
        .into_iter();
        let rows: Vec<Option<Box<[u8]>>> =
            some.iter().map(|c| if reads(c) { rows.next().flatten() } else { None }).collect();
        let sources = some.iter().zip(&rows).map(|(c, row)| self.source(c, row.as_deref()));
        let read = self.skim(&sources.collect::<Vec<_>>(), pick.needs_header()).await;
        let each = some.iter().zip(rows).zip(read).map(|((c, row), read)| async move {
            if c.reads_row && !self.row_suits(pick, verb, c, row.as_deref())? {
                return Some(false);
            }
            match read {
                _ if !c.reads_message => Some(true),
                Some(Skimmed::Whole(payload)) => self.suits(pick, c, row.as_deref(), &payload).await,
                Some(Skimmed::Beginning(begins, len))
                    if self.is_ruled_out(pick, c, row.as_deref(), &begins, len) =>
                {
                    Some(false)
                }
                _ => self.verdict(pick, c, row).await,
            }
        });
        together(each).await
    }

    /// Where the record of a message is, if it is to be read and not in memory.
    fn source(&self, c: &Candidate, row: Option<&[u8]>) -> Option<(Source, MessageId)> {
        let at = match row {
            _ if !c.reads_message => return None,
            Some(row) => Source::Archive(RowView::parse(row).ok()?.place),
            None => {
                let s = self.0.state.borrow();
                Source::of(s.index.get(c.key).filter(|e| e.payload.is_none())?)
            }
        };
        Some((at, c.id))
    }

    /// Whether the beginning of a payload of `len` bytes says that the message is not meant.
    fn is_ruled_out(
        &self,
        pick: &Pick,
        c: &Candidate,
        row: Option<&[u8]>,
        begins: &[u8],
        len: usize,
    ) -> bool {
        let view = MessageView::parse_begin(begins, len).ok().filter(|_| !pick.needs_header());
        let (Some(view), Some(done)) = (view, self.done(c.key, row)) else { return false };
        let open = |i: usize| done.get(i).is_none_or(|done| !done);
        !pick.suits_message(&view.envelope, view.user, open, b"")
    }

    /// Whether what the row of a message to several destinations says of them suits.
    fn row_suits(&self, pick: &Pick, verb: Verb, c: &Candidate, row: Option<&[u8]>) -> Option<bool> {
        let s = self.0.state.borrow();
        if let Some(e) = s.index.get(c.key) {
            // It has been read back meanwhile.
            return Some(!pick.needs_destinations() || any_suits(&s, pick, e));
        }
        if s.index.presence(c.key) == Presence::Gone {
            return Some(false);
        }
        let view = RowView::parse(row?).ok()?;
        let waits = !verb.needs_waiting() || view.recipients().any(|r| waits_still(r.fate));
        let suits = |r: RowRecipient<'_>| {
            let name = s.ledger.name(r.destination).filter(|name| !name.is_empty() && !r.fate.is_done());
            name.is_some_and(|name| match s.schedule.find(name) {
                Some(d) => is_suitable(&s, pick, d),
                None => pick.suits_destination(name, name),
            })
        };
        Some(waits && (!pick.needs_destinations() || view.recipients().any(suits)))
    }

    async fn verdict(&self, pick: &Pick, c: &Candidate, row: Option<Box<[u8]>>) -> Option<bool> {
        let (row, payload) = match row {
            Some(row) => {
                let place = RowView::parse(&row).ok()?.place;
                match self.read_source(Source::Archive(place), c.id).await {
                    Some(payload) => (Some(row), payload),
                    // It may have been copied within the archive meanwhile.
                    None => self.read_parked(c.id).await.map(|(row, payload)| (Some(row), payload))?,
                }
            }
            // It may have been parked or recalled meanwhile.
            None => match self.read_back(c.key).await {
                Some(payload) => (None, payload),
                None => self.read_parked(c.id).await.map(|(row, payload)| (Some(row), payload))?,
            },
        };
        self.suits(pick, c, row.as_deref(), &payload).await
    }

    /// Whether a message with this record is meant.
    async fn suits(
        &self,
        pick: &Pick,
        c: &Candidate,
        row: Option<&[u8]>,
        payload: &SharedBytes,
    ) -> Option<bool> {
        let view = MessageView::parse(payload).ok()?;
        let done = self.done(c.key, row)?;
        let header = match pick.needs_header() {
            true => self.header_of(&view, payload).await?,
            false => Vec::new(),
        };
        let open = |i: usize| done.get(i).is_none_or(|done| !done);
        Some(pick.suits_message(&view.envelope, view.user, open, &header))
    }

    /// Which recipients are done.
    fn done(&self, key: Key, row: Option<&[u8]>) -> Option<Vec<bool>> {
        match row {
            Some(row) => Some(RowView::parse(row).ok()?.recipients().map(|r| r.fate.is_done()).collect()),
            None => {
                let s = self.0.state.borrow();
                Some(s.index.get(key)?.recipients.iter().map(|r| r.phase.is_done()).collect())
            }
        }
    }

    /// Trace headers and header of a message, as far as they are looked at.
    async fn header_of(&self, view: &MessageView<'_>, payload: &SharedBytes) -> Option<Vec<u8>> {
        let mut header = payload[view.content_at.0..view.content_at.1].to_vec();
        let in_record = header.len() as u64;
        if view.head.side != 0 {
            let side = SideFile { name: view.head.side, len: view.head.size.saturating_sub(in_record) };
            let mut reader = self.open_side(side).await.ok()?;
            while header.len() < HEADER_BYTES {
                let Some(piece) = reader.next().await.ok()? else { break };
                let room = piece.len().min(HEADER_BYTES - header.len());
                header.extend_from_slice(&piece[..room]);
            }
        }
        Some(header)
    }
}

/// Where a message stands, as lists say it.
pub(crate) fn standing(s: &State, e: &Entry, now: Mono) -> Standing {
    let busy = |r: &Recipient| match r.phase {
        // What waits for a destination that cannot be reached is deferred, as in the metrics.
        Phase::Ready => paused_reason(s, r, now).is_none(),
        Phase::Flight => true,
        phase => phase.is_owed() && r.due == Mono(0),
    };
    if e.switches.held {
        Standing::Hold
    } else if e.recipients.iter().any(busy) {
        Standing::Active
    } else {
        Standing::Deferred
    }
}

/// Size and standing of a parked message; whether its destinations are not known.
fn of_stub(s: &State, stub: &Stub, now: Mono) -> (u64, Standing, bool) {
    let several = stub.destination == SEVERAL;
    let sent = |d: DestId| {
        let r = Recipient { destination: d, phase: Phase::Ready, ..Recipient::default() };
        several || paused_reason(s, &r, now).is_none()
    };
    let standing = match stub {
        Stub { held: true, .. } => Standing::Hold,
        Stub { ready: true, destination, .. } if sent(*destination) => Standing::Active,
        _ => Standing::Deferred,
    };
    (stub.size, standing, several)
}

fn suits_destinations(s: &State, pick: &Pick, key: Key) -> bool {
    match s.index.stub(key) {
        Some(stub) => is_suitable(s, pick, stub.destination),
        None => s.index.get(key).is_some_and(|e| any_suits(s, pick, e)),
    }
}

fn any_suits(s: &State, pick: &Pick, e: &Entry) -> bool {
    e.recipients.iter().any(|r| !r.phase.is_done() && is_suitable(s, pick, r.destination))
}

pub(super) fn is_suitable(s: &State, pick: &Pick, d: DestId) -> bool {
    let there = (d as usize) < s.doors.len();
    there && pick.suits_destination(s.schedule.name(d), s.schedule.pool_name(s.schedule.pool_of(d)))
}
