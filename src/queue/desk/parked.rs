//! L4: operators' changes to messages that have left the journal, from their rows alone.
//!
//! To hold, to let go, to remove and to give up need nothing of a body: the journal says it, the row says it
//! from then on, and the stub follows. The row is entered with the record; a transaction of the index waits
//! for the records before it (`indexing`). A sender is told when there is room; only then the body is read.
//! What has no row that can be read, or is being read back, is left to who asked.

use crate::base::ids::MessageId;
use crate::queue::control::{ControlError, Which};
use crate::queue::desk::Desk;
use crate::queue::desk::operate::{Change, cut, is_named};
use crate::queue::desk::verbs::{NO_REASON, waits_still};
use crate::queue::index::{Key, Presence};
use crate::queue::ledger;
use crate::queue::record::{self, Fate, State as Stored};
use crate::queue::row::{self, RowHead, RowRecipient, RowView};
use crate::queue::state::{About, After, OwnedReply, State};
use crate::queue::stub::{Marks, SEVERAL};
use crate::runtime::Runtime;
use crate::storage::record::Location;
use std::time::Duration;

/// A parked message and its row.
pub(super) struct Known {
    pub key: Key,
    pub id: MessageId,
    pub row: Box<[u8]>,
}

/// What has become of the messages that were to be changed.
#[derive(Default)]
pub(crate) struct Changed {
    /// So many were, or will be when that is on stable storage.
    pub count: u64,
    /// What to wait for.
    pub slip: Option<usize>,
    /// These could not be.
    pub rest: Vec<Key>,
}

impl<R: Runtime> Desk<R> {
    /// Changes those of `keys` that are parked and `which`, if that needs only their rows.
    pub(crate) async fn change_parked(
        &self,
        keys: &[Key],
        change: Change<'_>,
        which: &Which,
    ) -> Result<Changed, ControlError> {
        let mut out = Changed::default();
        let mut parked = Vec::new();
        {
            let s = self.0.state.borrow();
            for key in keys {
                match s.index.stub(*key).filter(|stub| !stub.marks.has(Marks::RECALLING)) {
                    Some(stub) if can_do(&s, *key, change) => parked.push((*key, stub.id)),
                    _ => out.rest.push(*key),
                }
            }
        }
        if parked.is_empty() {
            return Ok(out);
        }
        let Ok(rows) = self.rows(parked.iter().map(|p| p.1)).await else {
            // The other way says what is wrong.
            out.rest = keys.to_vec();
            return Ok(out);
        };
        let mut s = self.0.state.borrow_mut();
        let s = &mut *s;
        if s.dead || s.closing {
            return Err(ControlError::Closed);
        }
        let mut meant = Vec::new();
        for ((key, id), row) in parked.into_iter().zip(rows) {
            let stub = s.index.stub(key).filter(|stub| !stub.marks.has(Marks::RECALLING));
            let view = row.as_deref().and_then(|row| RowView::parse(row).ok());
            match (stub, view) {
                (Some(_), Some(view)) if !would(s, key, &view, change) || !is_meant(s, key, &view, which) => {
                }
                (Some(_), Some(_)) => meant.push(Known { key, id, row: row.expect("just read") }),
                _ => out.rest.push(key),
            }
        }
        out.count = meant.len() as u64;
        let last = meant.len().saturating_sub(1);
        for (n, known) in meant.iter().enumerate() {
            // Records are on stable storage in their order: who waits for the last waits for all.
            let slip = (n == last).then(|| s.slips.take());
            out.slip = slip;
            self.change_row(s, known, change, slip);
        }
        Ok(out)
    }

    fn change_row(&self, s: &mut State, known: &Known, change: Change<'_>, slip: Option<usize>) {
        let Ok(view) = RowView::parse(&known.row) else { return };
        let after = slip.map_or(After::Nothing, |slip| After::Done { side: 0, slip: Some(slip) });
        match change {
            Change::Hold(note) => {
                let row = RowView::with_marks(&known.row, view.marks | record::HELD);
                self.enter_parked(s, known, row);
                self.stop_timer(s, known.key);
                s.index.change_stub(known.key, |stub| stub.held = true);
                self.say_parked(s, known, record::HOLD, cut(note), after);
            }
            Change::Release(note) => {
                let row = RowView::with_marks(&known.row, view.marks & !record::HELD);
                self.enter_parked(s, known, row);
                self.say_parked(s, known, record::RELEASE, cut(note), after);
                self.let_go(s, known.key, &view);
            }
            Change::Bounce(note, reason) => {
                self.give_up_parked(s, known, &view, (cut(note), reason), after);
            }
            Change::Delete(note) => self.bury_one(s, known.key, known.id, &view, (cut(note), slip)),
            Change::Reroute(note, via) => self.reroute_parked(s, known, &view, (cut(note), via), after),
            Change::Flush | Change::Requeue(_) => {}
        }
    }

    /// The row of a parked message is this one from now on.
    pub(super) fn enter_parked(&self, s: &mut State, known: &Known, row: Box<[u8]>) {
        let change = ledger::Change { row: Some(row), key: Some(known.key), ..ledger::Change::default() };
        s.ledger.enter(known.id, change);
        s.index_bell.ring();
    }

    pub(super) fn say_parked(&self, s: &mut State, known: &Known, kind: u8, payload: &[u8], after: After) {
        let about = About::Parked(known.key, known.id);
        self.note_about(s, kind, known.id, payload, None, (about, after));
    }

    pub(super) fn stop_timer(&self, s: &mut State, key: Key) {
        if let Some(Some(timer)) = s.index.change_stub(key, |stub| stub.timer.take()) {
            s.timers.cancel(timer);
        }
    }

    /// The waiting recipients of a parked message are given up; its sender is told when there is room.
    fn give_up_parked(
        &self,
        s: &mut State,
        known: &Known,
        view: &RowView<'_>,
        (note, reason): (&[u8], &str),
        after: After,
    ) {
        let (now, wall) = (self.0.rt.now(), self.0.rt.wall());
        let reason = if reason.is_empty() { NO_REASON } else { reason };
        // RFC 3463 §3.8: delivery not authorized, message refused.
        let reply = OwnedReply::ours([5, 7, 1], reason.as_bytes());
        let given_up = |r: RowRecipient<'_>| waits_still(r.fate);
        let recipients: Vec<RowRecipient<'_>> = view
            .recipients()
            .map(|r| match given_up(r) {
                true => RowRecipient { fate: Fate::Owed, due: wall, reply: reply.view(), ..r },
                false => r,
            })
            .collect();
        let mut row = Vec::new();
        let head = RowHead { marks: view.marks & !record::HELD, ..view.head() };
        row::write(&mut row, &head, recipients.iter().copied());
        self.enter_parked(s, known, row.into());
        self.stop_timer(s, known.key);
        s.index.change_stub(known.key, |stub| {
            (stub.held, stub.ready, stub.destination) = (false, false, SEVERAL);
            stub.marks.set(Marks::IN_DOUBT, false);
        });
        self.record_removal(known.id, note);
        let waiting: Vec<(u32, u16)> = (0..)
            .zip(view.recipients())
            .filter(|(_, r)| given_up(*r))
            .map(|(i, r)| (i, r.attempts))
            .collect();
        self.metrics().bounced.increment(waiting.len() as u64);
        let (mut out, mut count, room) = (Vec::new(), 0u32, self.0.payload_max / 2);
        for (n, (index, attempts)) in waiting.iter().copied().enumerate() {
            if out.is_empty() {
                record::put_states_head(&mut out, 0, 0);
            }
            let stored = Stored { index, fate: Fate::Owed, attempts, due: wall, reply: reply.view() };
            record::put_state(&mut out, &stored);
            count += 1;
            if n + 1 == waiting.len() || out.len() >= room {
                out[4..8].copy_from_slice(&std::mem::take(&mut count).to_le_bytes());
                self.say_parked(s, known, record::OUTCOME, &out, After::Nothing);
                out.clear();
            }
        }
        self.say_parked(s, known, record::RELEASE, note, after);
        s.owed.push_back(known.key);
        s.notice_bell.ring();
        s.look_at(now.after(Duration::from_secs(1)));
    }

    /// What was said of a parked message, by a record at `at`, is on stable storage.
    pub(super) fn tell_parked(&self, s: &mut State, key: Key, id: MessageId, at: Location) {
        match s.index.presence(key) {
            // It has been read back since.
            Presence::Rich => self.enter_row(s, key, Some(at), ledger::Change::default()),
            Presence::Parked => match s.ledger.row(id).flatten().map(Box::from) {
                Some(row) => {
                    let outcomes = [at].into_iter().collect();
                    let change =
                        ledger::Change { row: Some(row), key: Some(key), outcomes, ..Default::default() };
                    s.ledger.enter(id, change);
                    s.index_bell.ring();
                }
                // The index has it already.
                None => self.0.keeper.free(at),
            },
            // It has ended since: that record follows.
            Presence::Gone => s.orphans.entry(id).or_default().push(at),
        }
    }
}

/// Whether the row alone will do.
fn can_do(s: &State, key: Key, change: Change<'_>) -> bool {
    match change {
        Change::Hold(_) | Change::Release(_) | Change::Delete(_) | Change::Bounce(..) => true,
        // Where routes lead depends on addresses.
        Change::Reroute(_, via) => !via.is_empty() && s.index.domain(key).is_some(),
        Change::Flush | Change::Requeue(_) => false,
    }
}

fn would(s: &State, key: Key, view: &RowView<'_>, change: Change<'_>) -> bool {
    let held = s.index.stub(key).is_some_and(|stub| stub.held);
    match change {
        Change::Hold(_) => !held,
        Change::Release(_) => held,
        Change::Bounce(..) | Change::Reroute(..) => view.recipients().any(|r| waits_still(r.fate)),
        Change::Delete(_) | Change::Flush | Change::Requeue(_) => true,
    }
}

fn is_meant(s: &State, key: Key, view: &RowView<'_>, which: &Which) -> bool {
    match which {
        Which::Destination(name) => match s.index.stub(key).map(|stub| stub.destination) {
            Some(SEVERAL) => {
                let open = view.recipients().filter(|r| !r.fate.is_done());
                let names = open.filter_map(|r| s.ledger.name(r.destination));
                names.into_iter().any(|n| match s.schedule.find(n) {
                    Some(d) => is_named(s, d, name),
                    None => n == name,
                })
            }
            Some(d) => is_named(s, d, name),
            None => false,
        },
        Which::All | Which::One(_) | Which::Some(_) => true,
    }
}
