//! L4: the rows of the index are read while mail is taken already.
//!
//! When the index is open (`joining`), its rows are read in order beside all else: parked messages take
//! their places, what the log says of them is entered. An index that is lost, damaged or older than the
//! log's mark is made anew from archive and journal; what may be sent again because of that is counted
//! and told.

use crate::base::ids::MessageId;
use crate::base::time::{Mono, Wall};
use crate::queue::desk::Desk;
use crate::queue::index::{DestId, Key, NOWHERE};
use crate::queue::ledger::Change;
use crate::queue::record::{self, Fate, MessageView, StatesView};
use crate::queue::recover::{self, Found, Said, Way};
pub use crate::queue::recover::{Loaded, Progress};
use crate::queue::row::{self, Meta, RowHead, RowRecipient, RowView};
use crate::queue::state::{self, After, OwnedReply, State};
use crate::queue::stub::{Marks, SEVERAL, Stub};
use crate::runtime::table::{Changes, Rows, ScanLimit, Table};
use crate::runtime::{Runtime, both, yield_now};
use crate::storage::archive::Place;
use crate::storage::record::RecordHead;
use smallvec::SmallVec;
use std::collections::{BTreeMap, BTreeSet};
use std::io;

/// Rows read at a time, and rows that take their places before others may run.
const PAGE: ScanLimit = ScanLimit { rows: 16_384, bytes: 4 << 20 };
const SLICE: usize = 1024;
/// The numbers of transactions of an index made anew are beyond those of all that were lost, so that
/// an old copy that comes back is known for one.
const REBUILT: u64 = 1 << 32;

/// What the rows read so far have come to.
#[derive(Default)]
struct Places {
    loaded: Loaded,
    /// Side files that rows name.
    sides: BTreeSet<u64>,
    /// All rows are read: what is found out once is kept.
    all: bool,
    /// Of the numbers that the index gives to destinations, those that have one by that name today.
    known: Vec<Option<DestId>>,
    /// Of the same numbers, those that are domains, and how the lists call them. 0: not known yet.
    domains: Vec<u32>,
    /// The time, as good as it need be.
    now: Mono,
    wall: Wall,
}

impl Places {
    /// The destination with this number in the index, if there is one by that name today.
    fn known(&mut self, s: &State, number: u32) -> Option<DestId> {
        let slot = number as usize;
        if let Some(Some(d)) = self.known.get(slot) {
            return Some(*d);
        }
        let d = s.schedule.find(s.ledger.name(number)?)?;
        if self.all {
            if self.known.len() <= slot {
                self.known.resize(slot + 1, None);
            }
            // Destinations are not forgotten before everything is loaded.
            self.known[slot] = Some(d);
        }
        Some(d)
    }

    /// How the lists call the domain with this number in the index.
    fn domain(&mut self, s: &mut State, number: u32) -> Option<u32> {
        let slot = number as usize;
        if let Some(domain) = self.domains.get(slot).filter(|domain| **domain != 0) {
            return Some(*domain);
        }
        let name = row::domain_of(s.ledger.name(number)?)?;
        let domain = s.index.chains().domain(name.as_bytes());
        if self.domains.len() <= slot {
            self.domains.resize(slot + 1, 0);
        }
        // Domains are not forgotten before everything is loaded either.
        self.domains[slot] = domain;
        Some(domain)
    }
}

/// What a row says of recipients that are not done.
#[derive(Default)]
struct Open {
    /// Numbers of destinations that may be tried, each once, ascending.
    ready: SmallVec<[u32; 4]>,
    /// When the first is tried again.
    due: Option<Mono>,
    /// The sender is to be told something.
    owed: bool,
    /// The destination of one of them.
    only: Option<u32>,
    /// They go to several.
    several: bool,
    /// Under way when the row was written.
    attempting: u64,
}

impl Open {
    /// `retry` turns the time of a retry into one of this process.
    fn of(view: &RowView<'_>, retry: impl Fn(Wall) -> Mono) -> Open {
        let mut open = Open::default();
        for r in view.recipients() {
            match r.fate {
                Fate::Delivered | Fate::Failed => continue,
                Fate::Owed | Fate::Passed => open.owed = true,
                Fate::Fresh => open.ready.push(r.destination),
                Fate::Attempting => {
                    open.attempting += 1;
                    open.ready.push(r.destination);
                }
                Fate::Deferred => {
                    let at = retry(r.due);
                    open.due = Some(open.due.map_or(at, |d| d.min(at)));
                }
            }
            open.several |= open.only.is_some_and(|n| n != r.destination);
            open.only = Some(r.destination);
        }
        if open.ready.len() > 1 {
            open.ready.sort_unstable();
            open.ready.dedup();
        }
        open
    }
}

impl<R: Runtime> Desk<R> {
    /// How far it is if it makes its index anew.
    #[must_use]
    pub fn progress(&self) -> Progress {
        self.0.state.borrow().progress
    }

    /// Reads the whole index; runs beside everything else.
    pub(crate) async fn load_index(self, lost: bool) {
        let result = self.read_index(lost).await;
        self.say_loaded(result);
        self.give_up_stop().await;
    }

    fn say_loaded(&self, result: io::Result<Loaded>) {
        let mut s = self.0.state.borrow_mut();
        match result {
            Ok(loaded) => {
                s.loaded = true;
                s.index.chains().may_forget();
                self.0.metrics.queue_loading.set(0.0);
                s.found = Some(loaded);
            }
            Err(_) if s.closing => {}
            Err(_) => {
                // Messages that are not known cannot be promised anything: like a failed disk.
                self.0.poison.set();
                self.die(&mut s, After::Nothing);
            }
        }
        s.index_bell.ring();
        s.mover_bell.ring();
        s.crowd.wake_all();
    }

    /// The record of a clean stop is not needed once the rows say the same. Without space they do not: then
    /// the next start may call in doubt what is not.
    async fn give_up_stop(&self) {
        if self.0.state.borrow().stopped.is_none() {
            return;
        }
        self.index_settled().await;
        let mut s = self.0.state.borrow_mut();
        if let Some(at) = s.stopped.take().filter(|_| !s.dead && !s.closing) {
            self.0.keeper.free(at);
        }
    }

    async fn read_index(&self, lost: bool) -> io::Result<Loaded> {
        let mut places = Places { all: true, ..Places::default() };
        if lost {
            places.loaded.rebuilt = Some(self.rebuild_rows().await?);
        }
        let scan = async |after: &[u8]| self.0.table().scan(&[row::MESSAGES], after, PAGE).await;
        let mut rows = scan(&[row::MESSAGES]).await?;
        while let Some(last) = rows.last_key() {
            // The next rows are read while these take their places.
            let (next, taken) = both(scan(last), self.take_places(&rows, &mut places)).await;
            taken?;
            rows = next?;
        }
        let Places { mut loaded, mut sides, .. } = places;
        self.settle_leftovers();
        self.0.vault.counted();
        {
            let s = self.0.state.borrow();
            sides.extend(s.index.sides());
        }
        if loaded.unreadable == 0 {
            // Else some of them may belong to what is still to be had by hand.
            loaded.orphans = self.0.keeper.remove_orphan_sides(&sides).await?;
        }
        Ok(loaded)
    }

    async fn take_places(&self, rows: &Rows, places: &mut Places) -> io::Result<()> {
        let mut rows = rows.iter().peekable();
        while rows.peek().is_some() {
            {
                let mut s = self.0.state.borrow_mut();
                let s = &mut *s;
                if s.closing || s.dead {
                    return Err(io::ErrorKind::Interrupted.into());
                }
                (places.now, places.wall) = (self.0.rt.now(), self.0.rt.wall());
                for (key, value) in rows.by_ref().take(SLICE) {
                    self.take_row(s, key, value, places);
                }
                self.recall_due(s);
            }
            yield_now().await;
        }
        Ok(())
    }

    fn take_row(&self, s: &mut State, key: &[u8], value: &[u8], places: &mut Places) {
        let (Some(id), Ok(view)) = (row::id_of(key), RowView::parse(value)) else {
            places.loaded.unreadable += 1;
            return;
        };
        if s.ledger.row(id).is_some() {
            return;
        }
        if let Some(key) = s.index.find(id) {
            if s.index.get(key).is_some_and(|e| e.archived.is_none()) {
                // The clock was set back, and a message of today has its id: for whoever looks into it.
                self.0.vault.keep(view.place);
                places.loaded.unreadable += 1;
            }
            return;
        }
        let there = self.0.vault.keep(view.place);
        if view.side != 0 {
            places.sides.insert(view.side);
        }
        let sure = s.rows_sure && !s.rows_doubted.contains(&id);
        let said = s.said.remove(&id);
        // What a clean stop has cleared up the row must say, too, before that is forgotten.
        let cleared = sure && there && view.recipients().any(|r| r.fate == Fate::Attempting);
        let Some(said) = said.or_else(|| cleared.then(Vec::new)) else {
            match there {
                true => self.take_place(s, id, &view, sure, places),
                false => places.loaded.unreadable += 1,
            }
            return;
        };
        let outcomes = said.iter().filter_map(|said| said.at).collect();
        let Some(row) = renewed(&view, &said, sure) else {
            let dead = Some(view.place).filter(|_| there).into_iter().collect();
            s.ledger.enter(id, Change { outcomes, dead, ..Change::default() });
            places.sides.remove(&view.side);
            return;
        };
        if there {
            let view = RowView::parse(&row).expect("just written");
            self.take_place(s, id, &view, false, places);
            if said.iter().any(|said| said.kind == record::REROUTE) {
                // The row says yet where it went before.
                s.recalls.extend(s.index.find(id));
            }
        } else {
            places.loaded.unreadable += 1;
        }
        let key = s.index.find(id);
        let row = Some(row.into());
        s.ledger.enter(id, Change { row, key, outcomes, ..Change::default() });
    }

    /// Parks a message where its row says. `sure`: what it calls under way was not.
    fn take_place(&self, s: &mut State, id: MessageId, view: &RowView<'_>, sure: bool, places: &mut Places) {
        let (now, wall) = (places.now, places.wall);
        places.loaded.parked += 1;
        let held = view.marks & record::HELD != 0;
        let mut stub = Stub {
            id,
            size: view.size,
            timer: None,
            destination: SEVERAL,
            ready: false,
            held,
            marks: marks(view),
        };
        let Open { ready, due, owed, only, several, attempting } =
            Open::of(view, |at| now.after(self.retry_in(at, wall)));
        if !sure && attempting > 0 {
            places.loaded.in_doubt += attempting;
            stub.marks.set(Marks::IN_DOUBT, true);
        }
        if let (Some(n), false, false) = (only, several, owed) {
            stub.destination = places.known(s, n).unwrap_or(SEVERAL);
        }
        let unknown = ready.iter().any(|n| places.known(s, *n).is_none());
        stub.ready = !ready.is_empty() && !unknown;
        let key = s.index.insert_parked(stub);
        if !view.via.is_empty() {
            s.vias.set(id, view.via);
        }
        if let Some(domain) = view.domain.and_then(|n| places.domain(s, n)) {
            s.index.put_into_domain(key, domain);
        }
        if !held {
            self.seat(s, key, Open { ready, due, owed, only, several, attempting }, unknown, places);
        }
    }

    /// A parked message that is not held takes its places in lists, and gets its timer.
    fn seat(&self, s: &mut State, key: Key, open: Open, unknown: bool, places: &mut Places) {
        let (now, Open { ready, due, owed, several, .. }) = (places.now, open);
        if owed && ready.is_empty() {
            // Its sender is told when there is room.
            s.owed.push_back(key);
            s.notice_bell.ring();
        } else if owed || unknown {
            // Or it has to be routed anew.
            s.recalls.push_back(key);
        } else {
            let mut all = true;
            for n in ready {
                let d = places.known(s, n).expect("just seen");
                all &= s.place(d, key, several, now);
            }
            if !all {
                s.index.change_stub(key, |stub| stub.marks.set(Marks::ABSENT, true));
            }
        }
        if let Some(due) = due {
            let timer = s.timers.insert(state::tick_of(due), key);
            s.index.change_stub(key, |stub| stub.timer = Some(timer));
            s.look_at(due);
        }
    }

    /// A parked message that was held waits like others again, as its row says.
    pub(super) fn let_go(&self, s: &mut State, key: Key, view: &RowView<'_>) {
        let (now, wall) = (self.0.rt.now(), self.0.rt.wall());
        let longest = self.0.options.retry.longest();
        let mut places = Places { now, wall, ..Places::default() };
        let open = Open::of(view, |at| now.after(at.since(wall).min(longest)));
        let unknown = open.ready.iter().any(|n| places.known(s, *n).is_none());
        if let Some(Some(timer)) = s.index.change_stub(key, |stub| stub.timer.take()) {
            s.timers.cancel(timer);
        }
        let only = open.only.filter(|_| !open.several && !open.owed);
        let destination = only.and_then(|n| places.known(s, n)).unwrap_or(SEVERAL);
        s.index.change_stub(key, |stub| {
            (stub.held, stub.ready) = (false, !open.ready.is_empty() && !unknown);
            stub.destination = destination;
        });
        self.seat(s, key, open, unknown, &mut places);
        self.recall_due(s);
    }

    /// Of what the log says of indexed messages, what no row was found for: they have gone, and the
    /// index knows it.
    fn settle_leftovers(&self) {
        let said = std::mem::take(&mut self.0.state.borrow_mut().said);
        said.values().flatten().filter_map(|said| said.at).for_each(|at| self.0.keeper.free(at));
    }

    /// Makes rows of what the archive holds, for an index that was lost. Which of the messages were
    /// sent since their bodies were copied is not known, but for what the log still says.
    async fn rebuild_rows(&self) -> io::Result<u64> {
        let mut count = 0;
        let sides = self.0.keeper.sides().await?;
        let segments = self.0.vault.segments();
        let of = segments.len();
        for (read, segment) in segments.into_iter().enumerate() {
            self.0.state.borrow_mut().progress = Progress { segments: read, of, messages: count };
            let mut changes = Changes::new();
            let visit =
                |head, place, payload: &[u8]| self.row_again(&mut changes, &sides, head, place, payload);
            self.0.vault.scan(segment, visit).await.map_err(io::Error::other)?;
            if !changes.is_empty() {
                count += changes.len() as u64;
                self.commit_in_time(changes).await?;
            }
        }
        self.0.state.borrow_mut().progress = Progress { segments: of, of, messages: count };
        // The names are new ones: none of the old rows is left that could use others.
        let mut changes = Changes::new();
        let meta = {
            let s = self.0.state.borrow();
            for (number, name, sample) in s.ledger.names().iter() {
                changes.put(&row::name_key(number), &row::name_value(name, sample));
            }
            let mark = s.ledger.mark() + REBUILT;
            Meta { log: self.0.keeper.log(), mark, last: s.last_id, through: u64::MAX, doubt: s.doubt }
        };
        changes.put(row::META, &meta.encode());
        self.commit_in_time(changes).await?;
        let mut s = self.0.state.borrow_mut();
        s.journaled.clear();
        s.ledger.renewed(meta.mark);
        drop(s);
        self.0.keeper.set_mark(meta.mark);
        Ok(count)
    }
}

impl<R: Runtime> Desk<R> {
    /// Adds the row of an archived record, as far as its own states go.
    fn row_again(
        &self,
        changes: &mut Changes,
        sides: &BTreeSet<u64>,
        head: RecordHead,
        place: Place,
        payload: &[u8],
    ) {
        let id = MessageId(head.id);
        if head.kind != record::MESSAGE || head.version != record::VERSION {
            return;
        }
        let Ok(view) = MessageView::parse(payload) else { return };
        let mut s = self.0.state.borrow_mut();
        let s = &mut *s;
        s.last_id = s.last_id.max(id);
        if s.journaled.contains(&id) {
            return;
        }
        let mut found = Found::of(&view, NOWHERE, |_| Way::None);
        let mut replies = BTreeMap::new();
        if let Some(states) = view.states {
            found.take_states(&states);
            states.states().filter(|s| s.reply != record::Reply::default()).for_each(|s| {
                replies.insert(s.index, OwnedReply::of(&s));
            });
        }
        // Its side file goes when it has ended.
        if found.is_done() || found.side != 0 && !sides.contains(&found.side) {
            return;
        }
        let head = RowHead {
            place,
            size: found.size,
            side: found.side,
            body: found.body,
            marks: found.marks,
            null_sender: found.null_sender,
            domain: None,
            via: view.via,
        };
        let mut numbers = Vec::with_capacity(found.recipients.len());
        let domain = state::domain_of_all(view.envelope.recipients().map(|r| r.address));
        let domain = domain.and_then(|d| Some(row::domain_name(std::str::from_utf8(&d).ok()?)));
        let head = RowHead { domain: domain.map(|name| s.ledger.number(&name, b"")), ..head };
        for (r, to) in found.recipients.iter_mut().zip(view.envelope.recipients()) {
            // It may have been tried, and even delivered, since its body was copied.
            if !r.fate.is_done() && !r.fate.is_owed() {
                r.fate = Fate::Attempting;
            }
            let d = self.destination_by(s, view.via, to.address);
            numbers.push(s.number(d));
        }
        let mut row = Vec::new();
        row::write(&mut row, &head, row_recipients(&found, &replies, &numbers).into_iter());
        changes.put(&row::key(id), &row);
    }
}

fn row_recipients<'a>(
    found: &Found,
    replies: &'a BTreeMap<u32, OwnedReply>,
    numbers: &[u32],
) -> Vec<RowRecipient<'a>> {
    let of = |(i, r): (usize, &recover::Recipient)| match r.fate.is_done() {
        true => RowRecipient { fate: r.fate, ..RowRecipient::default() },
        false => RowRecipient {
            fate: r.fate,
            destination: numbers.get(i).copied().unwrap_or_default(),
            attempts: r.attempts,
            due: if r.fate == Fate::Deferred || r.fate.is_owed() { r.due } else { Wall(0) },
            reply: replies.get(&(i as u32)).map(OwnedReply::view).unwrap_or_default(),
        },
    };
    found.recipients.iter().enumerate().map(of).collect()
}

/// A row after what the log says of its message; `None`: it has gone. `sure`: what the row calls
/// under way was not.
fn renewed(view: &RowView<'_>, said: &[Said], sure: bool) -> Option<Vec<u8>> {
    let mut found = Found {
        size: view.size,
        side: view.side,
        body: view.body,
        marks: view.marks,
        null_sender: view.null_sender,
        via: view.via.into(),
        ..Found::default()
    };
    let mut numbers = Vec::new();
    for r in view.recipients() {
        let fate = match r.fate {
            Fate::Attempting if sure && r.attempts > 0 => Fate::Deferred,
            Fate::Attempting if sure => Fate::Fresh,
            fate => fate,
        };
        numbers.push(r.destination);
        found.recipients.push(recover::Recipient {
            way: Way::None,
            fate,
            attempts: r.attempts,
            due: r.due,
            said: NOWHERE,
            in_doubt: fate == Fate::Attempting,
        });
    }
    for record in said {
        // Records that cannot be read were counted when the log was.
        if found.apply(record.kind, &record.payload, NOWHERE) == Ok(true) {
            return None;
        }
    }
    let replies = replies(view, said);
    let head = RowHead { marks: found.marks, via: &found.via, ..view.head() };
    let mut row = Vec::new();
    row::write(&mut row, &head, row_recipients(&found, &replies, &numbers).into_iter());
    Some(row)
}

/// The last replies to recipients, from the row and then from what the log says.
pub(super) fn replies(view: &RowView<'_>, said: &[Said]) -> BTreeMap<u32, OwnedReply> {
    let mut out = BTreeMap::new();
    for (i, r) in view.recipients().enumerate() {
        if r.reply != record::Reply::default() {
            let at = if r.fate.is_owed() { r.due } else { Wall(0) };
            out.insert(i as u32, OwnedReply::from(r.reply).at(at));
        }
    }
    for record in said.iter().filter(|s| s.kind == record::OUTCOME) {
        let Ok(states) = StatesView::parse(&record.payload) else { continue };
        for s in states.states().filter(|s| s.reply != record::Reply::default()) {
            out.insert(s.index, OwnedReply::of(&s));
        }
    }
    out
}

fn marks(view: &RowView<'_>) -> Marks {
    let mut out = Marks::default();
    out.set(Marks::WARNED, view.marks & record::WARNED != 0);
    out.set(Marks::DOUBLE_BOUNCE, view.marks & record::DOUBLE_BOUNCE != 0);
    out.set(Marks::NULL_SENDER, view.null_sender);
    out
}
