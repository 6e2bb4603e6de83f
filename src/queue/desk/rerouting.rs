//! L4: messages that operators send another way: by a next hop of their own, whatever routes say.
//!
//! The journal says it, a row says it, a message that is copied carries it, so it outlasts restarts and goes
//! with a log that is adopted. Where a next hop leads is asked of the tables each time a message is routed.
//! A parked message is changed by its row if its domain is known; else it is read back first.

use crate::base::ids::MessageId;
use crate::queue::desk::Desk;
use crate::queue::desk::archiving::together;
use crate::queue::desk::parked::Known;
use crate::queue::desk::verbs::waits_still;
use crate::queue::index::{DestId, Key};
use crate::queue::record::{self, Fate};
use crate::queue::row::{self, RowHead, RowRecipient, RowView};
use crate::queue::state::{After, State};
use crate::queue::via;
use crate::runtime::Runtime;

/// Messages read at a time.
const TOGETHER: usize = 64;

impl<R: Runtime> Desk<R> {
    /// The destination of an address of a message that goes by `via`, or as routes say if that is empty or
    /// means nothing any more.
    pub(crate) fn destination_by(&self, s: &mut State, via: &str, address: &[u8]) -> DestId {
        let by = || self.0.routing.borrow().via(via, address);
        match if via.is_empty() { None } else { by() } {
            Some(hop) => self.door(s, hop, &via::sample(via, address)),
            None => self.destination(s, address),
        }
    }

    /// The destination of an address of the message `id`.
    pub(crate) fn destination_of(&self, s: &mut State, id: MessageId, address: &[u8]) -> DestId {
        match s.vias.get(id).map(str::to_owned) {
            Some(via) => self.destination_by(s, &via, address),
            None => self.destination(s, address),
        }
    }

    /// Rerouted messages that the journal had at the start are routed, and take their places. Beside
    /// everything else: their addresses have to be read.
    pub(super) fn route_again(&self) {
        let keys = std::mem::take(&mut self.0.state.borrow_mut().reroutes);
        if keys.is_empty() {
            return;
        }
        let desk = self.clone();
        self.0.rt.spawn(async move {
            for some in keys.chunks(TOGETHER) {
                let read = together(some.iter().map(|key| desk.read_back(*key))).await;
                let now = desk.0.rt.now();
                let mut s = desk.0.state.borrow_mut();
                let s = &mut *s;
                for (key, payload) in some.iter().zip(read) {
                    // What cannot be read now goes where routes say until it is read to be sent.
                    payload.iter().for_each(|payload| desk.route_anew(s, *key, payload));
                    if s.index.get(*key).is_some_and(|e| !e.switches.held) {
                        desk.line_up(s, *key, now);
                    }
                    s.arm(*key);
                    desk.tell(s, *key, Vec::new(), None);
                }
            }
        });
    }

    /// The message `key`, whose recipients have been routed so, goes by `via` from now on, and is tried now
    /// unless it is held. `after` follows when that is on stable storage.
    pub(super) fn reroute(&self, s: &mut State, key: Key, (note, via): (&[u8], &str), after: After) {
        let Some((id, held)) = s.index.get(key).map(|e| (e.id, e.switches.held)) else { return };
        let now = self.0.rt.now();
        let mut out = Vec::new();
        record::put_reroute(&mut out, via, note);
        self.note(s, record::REROUTE, id, &out, None, after);
        if !held {
            self.flush(s, key, now);
            self.line_up(s, key, now);
        }
    }

    /// As [`Self::reroute`], of a parked message by its row. All its recipients are of one domain.
    pub(super) fn reroute_parked(
        &self,
        s: &mut State,
        known: &Known,
        view: &RowView<'_>,
        (note, via): (&[u8], &str),
        after: After,
    ) {
        let wall = self.0.rt.wall();
        let domain = s.index.domain(known.key).unwrap_or_default();
        // Of the address only the domain counts for a next hop.
        let address = [b"postmaster@", domain].concat();
        let d = self.destination_by(s, via, &address);
        let destination = s.number(d);
        let now_there = |r: RowRecipient<'_>| waits_still(r.fate);
        let recipients: Vec<RowRecipient<'_>> = view
            .recipients()
            .map(|r| match (now_there(r), r.fate) {
                (true, Fate::Deferred) => RowRecipient { destination, due: wall, ..r },
                (true, _) => RowRecipient { destination, ..r },
                (false, _) => r,
            })
            .collect();
        let mut row = Vec::new();
        row::write(&mut row, &RowHead { via, ..view.head() }, recipients.iter().copied());
        s.vias.set(known.id, via);
        let mut out = Vec::new();
        record::put_reroute(&mut out, via, note);
        let held = s.index.stub(known.key).is_some_and(|stub| stub.held);
        if let Ok(view) = RowView::parse(&row) {
            // Where it goes is seen anew when a held message is let go.
            self.let_go(s, known.key, &view);
        }
        if held {
            self.stop_timer(s, known.key);
            s.index.change_stub(known.key, |stub| stub.held = true);
        }
        self.enter_parked(s, known, row.into());
        self.say_parked(s, known, record::REROUTE, &out, after);
    }
}
