//! L4: the mailboxes of one shard on a disk: a journal, an archive and an index around [`Shard`].
//!
//! An operation is planned and staged in one step, and done when its last record is committed: only then
//! it is applied, and whoever waits is told. Its parts: `opening` reads a shard back; `operate` is the
//! interface; `selected` is a session's mailbox; `reading` gives content, `near` has what was read ahead;
//! `indexing` keeps the index,
//! `archiving` takes bodies out of the journal, `tidying` cleans the archive, `rebuild` makes a lost
//! index anew, `backup` copies it all.
//!
//! A failed write is for ever: nothing is taken any more, who waits is told, reading goes on. State that
//! does not add up is a bug and panics.

mod archiving;
pub mod backup;
pub mod import;
mod indexing;
mod large;
mod near;
pub mod opening;
mod operate;
mod orphans;
mod reading;
mod rebuild;
mod selected;
mod tidying;

#[cfg(test)]
mod reading_tests;
#[cfg(test)]
mod selected_tests;
#[cfg(test)]
mod tests;

pub use large::Writing;
pub use operate::{Maildrop, SUMMARY_MAX};
pub use reading::Content;
pub use selected::Open;

use crate::base::time::Wall;
use crate::mailbox::api::{self, Refusal};
use crate::mailbox::ledger::Ledger;
use crate::mailbox::plan::{Draft, Plan};
use crate::mailbox::record::{self, ItemsView};
use crate::mailbox::row::Key;
use crate::mailbox::shard::{Effects, Shard};
use crate::mailbox::types::{AccountId, BodyId, MailboxId};
use crate::queue::bell::{Bell, Crowd};
use crate::runtime::Runtime;
use crate::runtime::table::TableOptions;
use crate::storage::archive::{self, Archive, Place};
use crate::storage::group::{CommitError, Durable, Staged};
use crate::storage::journal::StageError;
use crate::storage::keeper::{Keeper, Observer};
use crate::storage::options::{Poison, Urgency};
use crate::storage::record::RecordHead;
use crate::storage::side::SideFile;
use crate::storage::space::Shortage;
use crate::storage::ticket::Committed;
use smallvec::SmallVec;
use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::future::poll_fn;
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::task::{Context, Poll, Waker};

/// How a store works.
#[derive(Clone, Debug)]
pub struct Options {
    /// How the archive is laid out.
    pub archive: archive::Options,
    /// How the index is kept.
    pub table: TableOptions,
    /// Messages of opened mailboxes that stay in memory (64 bytes each) although no session has them.
    pub resident_max: usize,
    /// Changes that wait for the index at most; each takes about 150 bytes of memory.
    pub changes_max: usize,
    /// Bytes of memory for what mail programs ask of messages in the journal (summary, UIDL): about 500 for
    /// each. What does not fit is read from the journal.
    pub facts_max: usize,
    /// What becomes of an index that is lost or unsound.
    pub index: Index,
    /// How far the making of an index is; for whoever wants to tell.
    pub progress: Arc<Progress>,
}

/// What is done about the index when a shard is opened.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Index {
    /// It is made anew if it is lost or unsound.
    #[default]
    Mend,
    /// It is made anew.
    Anew,
    /// The shard is not opened without a sound one.
    Demand,
}

/// How far the making of an index is.
#[derive(Debug, Default)]
pub struct Progress {
    /// Archive segments read.
    pub segments: AtomicU64,
    /// Of so many.
    pub of: AtomicU64,
    /// Bodies found.
    pub bodies: AtomicU64,
}

impl Default for Options {
    fn default() -> Self {
        Options {
            archive: archive::Options::production(64 << 20),
            table: TableOptions::default(),
            resident_max: 1 << 20,
            changes_max: 200_000,
            facts_max: 16 << 20,
            index: Index::default(),
            progress: Arc::default(),
        }
    }
}

/// What is waited for: tickets, as many as there are answers; or the end.
struct Wait {
    answer: Option<Result<Vec<Committed>, Refusal>>,
    waker: Option<Waker>,
}

type Waiting = Rc<RefCell<Wait>>;

impl Wait {
    fn new() -> Waiting {
        Rc::new(RefCell::new(Wait { answer: None, waker: None }))
    }

    fn answer(&mut self, answer: Result<Vec<Committed>, Refusal>) {
        self.answer = Some(answer);
        if let Some(w) = self.waker.take() {
            w.wake();
        }
    }
}

/// A staged record.
struct Pending<R: Runtime> {
    staged: Staged,
    head: RecordHead,
    /// Who waits, of the last record of an operation, and for how many tickets.
    wait: Option<(Waiting, usize)>,
    /// What nobody else may change until then.
    _locks: Vec<Lock<R>>,
}

/// What only one operation at a time may change.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Locked {
    /// Names: accounts, mailboxes, subscriptions.
    Names,
    /// The messages of a mailbox, and its keywords.
    Mailbox(MailboxId),
}

/// Held until it is dropped. (By weak handle: what is staged holds locks, and is itself part of the store.)
struct Lock<R: Runtime> {
    inner: Weak<Inner<R>>,
    what: Locked,
}

impl<R: Runtime> Drop for Lock<R> {
    fn drop(&mut self) {
        let Some(inner) = self.inner.upgrade() else { return };
        // Locks are dropped outside of any borrow of the state.
        let mut s = inner.state.borrow_mut();
        s.locks.remove(&self.what);
        s.crowd.wake_all();
    }
}

struct State<R: Runtime> {
    shard: Shard,
    commits: VecDeque<Pending<R>>,
    commit_bell: Bell,
    index_bell: Bell,
    mover_bell: Bell,
    /// Who waits for anything else.
    crowd: Crowd,
    /// Who waits for news of a mailbox.
    watch: BTreeMap<MailboxId, Crowd>,
    locks: BTreeSet<Locked>,
    maildrops: BTreeSet<AccountId>,
    /// Reads of rows that must not see half of a transaction's end.
    cold_reads: usize,
    finishing: bool,
    /// Places in the archive that the index is to name: of bodies that leave the journal, or were copied
    /// within the archive.
    leaving: BTreeMap<BodyId, Place>,
    /// Bodies that the transaction under way takes away with their last reference.
    dropping: BTreeSet<BodyId>,
    /// Places in the archive that are dead once the row with this key has been written.
    dying: Vec<(Key, Place)>,
    /// Bodies were taken from journal segments up to this one.
    through: u64,
    /// The archive's living have been counted.
    counted: bool,
    /// Somebody waits for the transaction with this number.
    wanted: u64,
    /// The mover is at work.
    moving: bool,
    /// The mover must not be: a copy is being made.
    held: bool,
    index_short: bool,
    index_ended: bool,
    mover_ended: bool,
    closing: bool,
    dead: bool,
}

pub(crate) struct Inner<R: Runtime> {
    rt: R,
    keeper: Keeper<R>,
    vault: Archive<R>,
    table: R::Table,
    poison: Poison,
    payload_max: usize,
    options: Options,
    state: RefCell<State<R>>,
    near: RefCell<near::Near>,
}

/// One shard. A handle; clones are the same.
pub struct Store<R: Runtime>(Rc<Inner<R>>);

impl<R: Runtime> Clone for Store<R> {
    fn clone(&self) -> Self {
        Store(self.0.clone())
    }
}

/// The content of an operation's body, as pieces.
struct Bytes<'a> {
    uidl: &'a [u8],
    summary: &'a [u8],
    content: &'a [&'a [u8]],
}

impl<R: Runtime> Store<R> {
    /// True once nothing is taken any more.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        let s = self.0.state.borrow();
        s.dead || s.closing
    }

    /// Waits until the disk has made progress: after [`Refusal::Busy`] it may take more then.
    pub async fn progress(&self) {
        self.0.keeper.progress().await;
    }

    /// Bytes of items that one record may have: the rest is for a body.
    fn items_max(&self) -> usize {
        (self.0.payload_max / 4).min(1 << 18)
    }

    fn draft<'a>(&self, s: &'a State<R>, now: Wall) -> Draft<'a> {
        Draft::new(&s.shard, now, self.items_max())
    }

    /// Takes locks, in their order, when they are free.
    async fn lock(&self, what: &[Locked]) -> Result<Vec<Lock<R>>, Refusal> {
        let mut sorted: SmallVec<[Locked; 2]> = what.into();
        sorted.sort_unstable();
        sorted.dedup();
        let mut held = Vec::new();
        for what in sorted {
            poll_fn(|cx| {
                let mut s = self.0.state.borrow_mut();
                if s.dead || s.closing {
                    return Poll::Ready(Err(Refusal::Closed));
                }
                if s.locks.insert(what) {
                    return Poll::Ready(Ok(()));
                }
                s.crowd.join(cx);
                Poll::Pending
            })
            .await?;
            held.push(Lock { inner: Rc::downgrade(&self.0), what });
        }
        Ok(held)
    }

    /// Stages an operation: all of its records, or none that counts. `answers`: so many tickets.
    fn stage(
        &self,
        s: &mut State<R>,
        plan: &Plan,
        bytes: &[Bytes<'_>],
        urgency: Urgency,
        locks: Vec<Lock<R>>,
        answers: usize,
    ) -> Result<Waiting, (Refusal, Vec<Lock<R>>)> {
        if s.dead || s.closing {
            return Err((Refusal::Closed, locks));
        }
        if urgency == Urgency::NewMail && self.0.vault.is_short() {
            // It looks again, and tidies if it can.
            s.mover_bell.ring();
            return Err((Refusal::Full, locks));
        }
        let mut records: Vec<(RecordHead, Staged)> = Vec::new();
        let mut bodies = bytes.iter();
        let count = plan.parts.len();
        let mut failed = None;
        for (n, part) in plan.parts.iter().enumerate() {
            let first = if n == 0 { record::FIRST } else { 0 };
            let more = if n + 1 < count { record::MORE } else { 0 };
            let kind = if part.body.is_some() { record::MESSAGE } else { record::CHANGE };
            let head = RecordHead { kind, version: record::VERSION, flags: first | more, id: part.id };
            let items = part.items.bytes();
            let staged = match part.body {
                None => self.0.keeper.stage(head, &[items], None, urgency),
                Some(body) => {
                    let bytes = bodies.next().expect("each body has its bytes");
                    let fixed = body.encode(items.len(), bytes.uidl.len(), bytes.summary.len());
                    let mut pieces: SmallVec<[&[u8]; 16]> = SmallVec::new();
                    pieces.extend([&fixed[..], items, bytes.uidl, bytes.summary]);
                    pieces.extend(bytes.content.iter().copied());
                    self.0.keeper.stage(head, &pieces, None, urgency)
                }
            };
            match staged {
                Ok(staged) => records.push((head, staged)),
                Err(e) => {
                    failed = Some(refused(s, e));
                    break;
                }
            }
        }
        let wait = Wait::new();
        if failed.is_none() {
            for part in &plan.parts {
                let items = ItemsView::parse(part.items.bytes()).expect("of our own making");
                s.shard.staged(part.id, &items);
            }
        }
        let last = records.len();
        let mut locks = Some(locks);
        for (n, (head, staged)) in records.into_iter().enumerate() {
            let ends = failed.is_none() && n + 1 == last;
            let held = if ends { locks.take().unwrap_or_default() } else { Vec::new() };
            let wait = ends.then(|| (wait.clone(), answers));
            // One that has no end is not applied; the next operation clears it away.
            s.commits.push_back(Pending { staged, head, wait, _locks: held });
        }
        s.commit_bell.ring();
        match failed {
            Some(refusal) => Err((refusal, locks.unwrap_or_default())),
            None => Ok(wait),
        }
    }

    /// Stages a change that frees space or keeps it, waiting for room; gives its ticket.
    async fn commit<T>(
        &self,
        locks: Vec<Lock<R>>,
        make: impl Fn(&mut Draft<'_>) -> Result<T, Refusal>,
    ) -> Result<api::Done<T>, Refusal> {
        let mut locks = locks;
        loop {
            let now = self.0.rt.wall();
            let staged = {
                let mut s = self.0.state.borrow_mut();
                let s = &mut *s;
                let mut draft = self.draft(s, now);
                match make(&mut draft).and_then(|value| Ok((value, draft.finish()?))) {
                    Err(refusal) => Err((refusal, locks)),
                    Ok((value, plan)) => {
                        self.stage(s, &plan, &[], Urgency::Archived, locks, 1).map(|wait| (value, wait))
                    }
                }
            };
            match staged {
                Ok((value, wait)) => {
                    let mut tickets = answer(wait).await?;
                    let ticket = tickets.pop().ok_or(Refusal::Closed)?;
                    return Ok(api::Done { ticket, value });
                }
                Err((Refusal::Busy, held)) => {
                    locks = held;
                    self.0.keeper.progress().await;
                }
                // The locks go here, outside of the borrow.
                Err((refusal, _held)) => return Err(refusal),
            }
        }
    }

    /// New mail needs space that changes do not.
    fn has_space(&self) -> Result<(), Refusal> {
        match self.0.keeper.shortage() {
            None if self.0.vault.is_short() => {
                self.0.state.borrow_mut().mover_bell.ring();
                Err(Refusal::Full)
            }
            None => Ok(()),
            Some(shortage) => {
                if shortage == Shortage::Full {
                    self.0.state.borrow_mut().mover_bell.ring();
                }
                Err(refusal(shortage.into()))
            }
        }
    }

    /// The task that learns of commits, in order, and applies them.
    async fn follow_commits(self) {
        poll_fn(|cx| self.poll_commits(cx)).await;
    }

    fn poll_commits(&self, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            let done = {
                let mut s = self.0.state.borrow_mut();
                let s = &mut *s;
                match s.commits.front_mut() {
                    Some(first) => match first.staged.poll(cx.waker()) {
                        Poll::Ready(result) => Some(result),
                        Poll::Pending => None,
                    },
                    None if s.closing => {
                        s.index_bell.ring();
                        s.crowd.wake_all();
                        return Poll::Ready(());
                    }
                    None if s.commit_bell.poll(cx).is_ready() => continue,
                    None => None,
                }
            };
            let Some(result) = done else { return Poll::Pending };
            let pending = self.0.state.borrow_mut().commits.pop_front().expect("just seen");
            self.committed(pending, result, cx);
        }
    }

    fn committed(&self, pending: Pending<R>, result: Result<Durable, CommitError>, cx: &Context<'_>) {
        let Pending { mut staged, head, wait, _locks } = pending;
        let answer = match result {
            Err(CommitError) => {
                self.die();
                Err(Refusal::Closed)
            }
            Ok(durable) => {
                let mut s = self.0.state.borrow_mut();
                let now = self.0.rt.now();
                let effects = s.shard.release(head, durable.location, &durable.payload, now);
                let effects = effects.expect("a record of our own making");
                self.follow(&mut s, effects);
                let mut tickets = vec![durable.ticket];
                for _ in 1..wait.as_ref().map_or(1, |w| w.1) {
                    if let Poll::Ready(Ok(more)) = staged.poll(cx.waker()) {
                        tickets.push(more.ticket);
                    }
                }
                Ok(tickets)
            }
        };
        if let Some((wait, _)) = wait {
            wait.borrow_mut().answer(answer);
        }
    }

    /// What is to be done when a record has been applied.
    fn follow(&self, s: &mut State<R>, effects: Effects) {
        for mailbox in effects.mailboxes {
            if let Some(crowd) = s.watch.get_mut(&mailbox) {
                crowd.wake_all();
            }
        }
        self.discard(&effects.sides);
        if s.counted {
            // Before, a home that nobody has is not counted.
            s.dying.extend(effects.homes.into_iter().map(|(id, home)| (Key::account(id), home)));
        }
        self.give_up(s);
        if s.shard.ledger.len() > self.0.options.changes_max || s.is_wanted() {
            s.index_bell.ring();
        }
        if self.crowded().is_some() {
            s.mover_bell.ring();
        }
    }

    fn discard(&self, sides: &[u64]) {
        sides.iter().for_each(|name| self.0.keeper.discard_side(SideFile { name: *name, len: 0 }));
    }

    /// Records that nothing holds any more.
    fn give_up(&self, s: &mut State<R>) {
        for at in s.shard.take_freed() {
            self.0.keeper.free(at);
        }
    }

    /// The segment that should be emptied, if any. What lives in it goes into the archive, not forward: when
    /// space runs out that gains a segment also of a log that lives as a whole. While the disk is short the
    /// log is made as short as can be: what is empty is given back.
    fn crowded(&self) -> Option<u64> {
        let keeper = &self.0.keeper;
        let short = || keeper.oldest_living().filter(|_| self.0.vault.is_short());
        keeper.overflow().or_else(|| keeper.pressure()).or_else(|| keeper.scarcity()).or_else(short)
    }

    /// A write has failed: nothing is taken any more.
    fn die(&self) {
        self.0.poison.set();
        let mut s = self.0.state.borrow_mut();
        s.dead = true;
        for crowd in s.watch.values_mut() {
            crowd.wake_all();
        }
        s.crowd.wake_all();
        s.index_bell.ring();
        s.mover_bell.ring();
        s.commit_bell.ring();
    }

    /// Commits what is staged, brings the index up to date as far as it can be, closes all files.
    pub async fn close(&self) {
        {
            let mut s = self.0.state.borrow_mut();
            s.closing = true;
            s.commit_bell.ring();
            s.index_bell.ring();
            s.mover_bell.ring();
            s.crowd.wake_all();
        }
        poll_fn(|cx| {
            let mut s = self.0.state.borrow_mut();
            if s.index_ended && s.mover_ended {
                return Poll::Ready(());
            }
            s.crowd.join(cx);
            Poll::Pending
        })
        .await;
        // What was committed is safe, whatever this says.
        let _ = crate::runtime::table::Table::close(self.0.table.clone()).await;
        self.0.vault.close().await;
        self.0.keeper.close().await;
    }

    /// `observer` is told of every durable write of the journal.
    pub fn observe(&self, observer: Observer) {
        self.0.keeper.observe(observer);
    }
}

impl<R: Runtime> State<R> {
    fn new(shard: Shard, through: u64) -> Self {
        State {
            shard,
            commits: VecDeque::new(),
            commit_bell: Bell::default(),
            index_bell: Bell::default(),
            mover_bell: Bell::default(),
            crowd: Crowd::default(),
            watch: BTreeMap::new(),
            locks: BTreeSet::new(),
            maildrops: BTreeSet::new(),
            cold_reads: 0,
            finishing: false,
            leaving: BTreeMap::new(),
            dropping: BTreeSet::new(),
            dying: Vec::new(),
            through,
            counted: false,
            wanted: 0,
            moving: false,
            held: false,
            index_short: false,
            index_ended: false,
            mover_ended: false,
            closing: false,
            dead: false,
        }
    }

    fn ledger(&mut self) -> &mut Ledger {
        &mut self.shard.ledger
    }

    /// Somebody waits for a transaction of the index.
    fn is_wanted(&self) -> bool {
        self.wanted > self.shard.ledger.mark()
    }
}

/// Waits for the answer to an operation.
async fn answer(wait: Waiting) -> Result<Vec<Committed>, Refusal> {
    poll_fn(|cx| {
        let mut w = wait.borrow_mut();
        match w.answer.take() {
            Some(answer) => Poll::Ready(answer),
            None => {
                w.waker = Some(cx.waker().clone());
                Poll::Pending
            }
        }
    })
    .await
}

/// Why nothing is staged. What is dead in the archive may be worth something then.
fn refused<R: Runtime>(s: &mut State<R>, e: StageError) -> Refusal {
    if e == StageError::Full {
        s.mover_bell.ring();
    }
    refusal(e)
}

fn refusal(e: StageError) -> Refusal {
    match e {
        StageError::Full => Refusal::Full,
        StageError::Busy => Refusal::Busy,
        StageError::Poisoned => Refusal::Closed,
        StageError::TooLarge => Refusal::Limit,
    }
}
