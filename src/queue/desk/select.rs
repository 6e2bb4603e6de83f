//! L4: which messages an operator means, found slice by slice while mail flows.
//!
//! A slice looks at so many messages in memory ([`SLICE`]) and reads so many at most ([`READ`]); whoever asks
//! goes on behind the last one. What is on stable storage counts, nothing else. A message that cannot be
//! read, and would have to be, is counted and left out.

use crate::base::aligned::SharedBytes;
use crate::base::ids::{MessageId, QueueId};
use crate::base::time::Mono;
use crate::queue::control::{ControlError, Response};
use crate::queue::desk::Desk;
use crate::queue::desk::archiving::together;
use crate::queue::desk::operate::{is_known, paused_reason};
use crate::queue::desk::recall::Source;
use crate::queue::index::{DestId, Entry, Key, Phase, Recipient};
use crate::queue::pick::{HEADER_BYTES, Pick, Resident, Standing, Verb};
use crate::queue::record::MessageView;
use crate::queue::row::RowView;
use crate::queue::state::State;
use crate::queue::stub::{SEVERAL, Stub};
use crate::runtime::Runtime;
use crate::storage::side::SideFile;

/// Messages looked at in memory in one slice.
const SLICE: usize = 4000;
/// Messages read in one slice.
const READ: usize = 512;
/// Messages read at a time.
const TOGETHER: usize = 64;

/// What is known of a message that may be meant.
#[derive(Clone, Copy)]
struct Candidate {
    key: Key,
    id: MessageId,
    size: u64,
    /// It is parked.
    parked: bool,
    /// Where it goes is not known before it is read.
    several: bool,
}

impl<R: Runtime> Desk<R> {
    /// The messages of one slice behind `after` that `pick` means and `verb` would change.
    pub(crate) async fn select(
        &self,
        pick: &Pick,
        verb: Verb,
        after: Option<QueueId>,
    ) -> Result<Response, ControlError> {
        if self.is_closed() {
            return Err(ControlError::Closed);
        }
        let after = after.map_or(MessageId(0), |id| id.message);
        let (near, looked, last) = self.near(pick, verb, after);
        let (mut ids, mut bytes, mut unread) = (Vec::new(), 0, 0);
        for some in near.chunks(TOGETHER) {
            let verdicts = self.verdicts(pick, some).await;
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
        Ok(Response::Selected { ids, bytes, looked, unread, next: last.map(|id| self.queue_id(id)) })
    }

    /// Those of the slice of which what is resident suits; how many were looked at, and the last.
    fn near(&self, pick: &Pick, verb: Verb, after: MessageId) -> (Vec<Candidate>, u64, Option<MessageId>) {
        let (now, wall) = (self.0.rt.now(), self.0.rt.wall());
        let s = self.0.state.borrow();
        let (mut near, mut looked, mut last, mut reads) = (Vec::new(), 0, None, 0);
        for (key, id, _) in s.index.after(after).take(SLICE) {
            if reads == READ {
                break;
            }
            looked += 1;
            last = Some(id);
            if !is_known(&s, key) {
                continue;
            }
            let found = match (s.index.stub(key), s.index.get(key)) {
                (Some(stub), _) => of_stub(&s, stub, now),
                (None, Some(e)) => (e.size, standing(&s, e, now), false),
                (None, None) => continue,
            };
            let (size, standing, several) = found;
            let resident = Resident { arrival: id.arrival(), size, standing };
            let fits = verb.would_change(standing == Standing::Hold) && pick.suits(&resident, wall);
            let fits = fits && (!pick.needs_destinations() || several || suits_destinations(&s, pick, key));
            if fits {
                let several = several && pick.needs_destinations();
                let parked = s.index.stub(key).is_some();
                reads += usize::from(pick.needs_message() || several);
                near.push(Candidate { key, id, size, parked, several });
            }
        }
        (near, looked, last)
    }

    /// Whether each is meant; `None`: it would have to be read, and cannot be.
    async fn verdicts(&self, pick: &Pick, some: &[Candidate]) -> Vec<Option<bool>> {
        let reads = |c: &Candidate| pick.needs_message() || c.several;
        let parked = some.iter().filter(|c| c.parked && reads(c)).map(|c| c.id).collect::<Vec<_>>();
        // What cannot be read is told as unread.
        let mut rows = self.rows(parked.iter().copied()).await.unwrap_or_default().into_iter();
        let rows: Vec<Option<Box<[u8]>>> =
            some.iter().map(|c| if c.parked && reads(c) { rows.next().flatten() } else { None }).collect();
        let each = some.iter().zip(rows).map(|(c, row)| async move {
            if reads(c) { self.verdict(pick, c, row).await } else { Some(true) }
        });
        together(each).await
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
        let view = MessageView::parse(&payload).ok()?;
        let done = self.done(c.key, row.as_deref())?;
        if c.several && !self.several_suit(pick, c.id, row.as_deref(), &payload)? {
            return Some(false);
        }
        let header = match pick.needs_header() {
            true => self.header_of(&view, &payload).await?,
            false => Vec::new(),
        };
        let open = |i: usize| done.get(i).is_none_or(|done| !done);
        Some(!pick.needs_message() || pick.suits_message(&view.envelope, view.user, open, &header))
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

    /// Whether a message with several destinations goes to one that suits.
    fn several_suit(
        &self,
        pick: &Pick,
        id: MessageId,
        row: Option<&[u8]>,
        payload: &SharedBytes,
    ) -> Option<bool> {
        let mut s = self.0.state.borrow_mut();
        // Without a row it is rich by now.
        let Some(row) = row else {
            let key = s.index.find(id)?;
            return Some(suits_destinations(&s, pick, key));
        };
        let view = RowView::parse(row).ok()?;
        let e = self.entry_of(&mut s, id, &view, payload, false)?;
        Some(any_suits(&s, pick, &e))
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

fn is_suitable(s: &State, pick: &Pick, d: DestId) -> bool {
    let there = (d as usize) < s.doors.len();
    there && pick.suits_destination(s.schedule.name(d), s.schedule.pool_name(s.schedule.pool_of(d)))
}
