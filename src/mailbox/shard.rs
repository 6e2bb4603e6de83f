//! L2: the state of a shard: what is visible is the fold of the committed records, [`Shard::release`].
//!
//! No IO, async or clock. The same code applies a record when it has been committed and when it is read
//! back after a restart. What is staged and not committed yet is known only as far as the next operation
//! must reckon with it ([`Shard::staged`]): counters, hand-overs, mailboxes that are about to go.
//! A record that cannot be read is [`Malformed`]; state that does not add up is a bug and panics.

use crate::base::time::{Mono, Wall};
use crate::mailbox::bodies::{Bodies, Body, Facts, Fate};
use crate::mailbox::deliveries::Deliveries;
use crate::mailbox::directory::Directory;
use crate::mailbox::ledger::{Freed, Ledger, Said, hold};
use crate::mailbox::opened::{Expunge, Opened, Roll, ViewId};
use crate::mailbox::record::{self, BodyView, Item, ItemsView, Malformed};
use crate::mailbox::row::{self, Key};
use crate::mailbox::types::{AccountId, BodyId, DeliveryId, MailboxId, Message, Status, UidSet, Usage};
use crate::storage::archive::Place;
use crate::storage::record::{Location, RecordHead};
use smallvec::SmallVec;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::rc::Rc;
use std::time::Duration;

/// How long the content of an expunged message is kept for those who have not been told.
const LINGER: Duration = Duration::from_secs(600);

/// What an opened mailbox takes besides its messages, in messages.
const MAILBOX_COST: usize = 8;

/// What a released record did, for the shell.
#[derive(Debug, Default)]
pub struct Effects {
    /// Mailboxes that are not as they were.
    pub mailboxes: BTreeSet<MailboxId>,
    /// Side files that nothing names any more.
    pub sides: Vec<u64>,
    /// Accounts that are gone, and the places of their homes.
    pub homes: Vec<(AccountId, Place)>,
}

/// The body that a record brings.
#[derive(Clone, Debug, Default)]
pub struct NewBody {
    /// Number of its side file; 0: none.
    pub side: u64,
    /// What is stored with it, if that is to be kept.
    pub facts: Option<Rc<Facts>>,
}

/// One record of an operation.
struct Part {
    said: Said,
    items: Box<[u8]>,
    body: Option<(BodyId, NewBody)>,
}

/// A mailbox with operations that are staged.
struct Ahead {
    status: Status,
    flying: u32,
}

/// A body of an expunged message that snapshots still show.
struct Linger {
    mailbox: MailboxId,
    generation: u32,
    since: Mono,
    /// It is in the journal.
    body: Option<Body>,
    /// It has a row that goes with it.
    archived: bool,
    /// The record that expunged it.
    said: Said,
}

/// Messages expunged from one mailbox by one operation.
#[derive(Default)]
struct Gone {
    when: Wall,
    messages: Vec<(u32, BodyId, u8, Said)>,
    said: SmallVec<[Said; 1]>,
}

/// See the module.
#[derive(Default)]
pub struct Shard {
    /// Accounts and mailboxes.
    pub directory: Directory,
    /// What the index does not have.
    pub ledger: Ledger,
    /// Bodies in the journal.
    pub bodies: Bodies,
    /// Hand-overs taken.
    pub deliveries: Deliveries,
    opened: BTreeMap<MailboxId, Opened>,
    /// Opened mailboxes that no session has, since long first.
    idle: VecDeque<MailboxId>,
    resident: usize,
    lingering: BTreeMap<BodyId, Linger>,
    ahead: BTreeMap<MailboxId, Ahead>,
    /// Bytes and messages of accounts that are staged.
    growing: BTreeMap<AccountId, (i64, i64)>,
    taking: BTreeMap<DeliveryId, u32>,
    doomed: BTreeSet<MailboxId>,
    parts: Vec<Part>,
    freed: Freed,
    /// The log is being read back.
    replaying: bool,
    /// Bodies that came and went in the log that is being read back.
    died: Vec<BodyId>,
    /// The greatest id so far.
    pub last: u64,
    /// The greatest number of an account so far.
    pub account: u32,
    /// The greatest number of a mailbox so far.
    pub mailbox: u32,
    /// The greatest UIDVALIDITY so far.
    pub uidvalidity: u32,
}

impl Shard {
    /// Records of the log follow, to be read back, until [`Self::replayed`].
    pub fn replay(&mut self) {
        self.replaying = true;
    }

    /// The log has been read. Returns bodies that came and went in it: the archive may have them.
    pub fn replayed(&mut self) -> Vec<BodyId> {
        self.replaying = false;
        // An operation whose end is not there never was.
        self.parts.clear();
        std::mem::take(&mut self.died)
    }

    /// Records of the journal that nothing needs any more.
    pub fn take_freed(&mut self) -> Vec<Location> {
        self.freed.take()
    }

    /// Records of the journal that are needed, each once.
    #[must_use]
    pub fn living(&self) -> BTreeSet<Location> {
        let bodies = self.bodies.iter().map(|(_, b)| b.said.at());
        let parts = self.parts.iter().map(|p| p.said.at());
        self.ledger.said().map(|s| s.at()).chain(bodies).chain(parts).collect()
    }

    /// A record has been committed at `at`. In the order of the journal.
    pub fn release(
        &mut self,
        head: RecordHead,
        at: Location,
        payload: &[u8],
        now: Mono,
    ) -> Result<Effects, Malformed> {
        let (items, body) = record::parse(head.kind, head.version, payload)?;
        let new = |b: BodyView<'_>| NewBody { side: b.head.side, facts: Some(Rc::new(Facts::of(&b))) };
        Ok(self.release_items(head, at, items.bytes(), body.map(new), now))
    }

    /// As [`Self::release`], or read back: `items` of a record that was found sound, and its body if it has
    /// one.
    pub fn release_items(
        &mut self,
        head: RecordHead,
        at: Location,
        items: &[u8],
        body: Option<NewBody>,
        now: Mono,
    ) -> Effects {
        let mut effects = Effects::default();
        self.last = self.last.max(head.id);
        if head.flags & record::FIRST != 0 {
            // One that has no end never was.
            self.parts.clear();
        }
        let said = hold(at, &self.freed);
        let body = body.map(|body| (BodyId(head.id), body));
        self.parts.push(Part { said, items: items.into(), body });
        if head.flags & record::MORE == 0 {
            self.apply(now, &mut effects);
        }
        effects
    }

    fn apply(&mut self, now: Mono, effects: &mut Effects) {
        let parts = std::mem::take(&mut self.parts);
        let mut gone: BTreeMap<(MailboxId, u64), Gone> = BTreeMap::new();
        for part in &parts {
            if let Some((id, new)) = &part.body {
                self.bodies.insert(*id, part.said.clone(), new.side, new.facts.clone());
            }
            let Ok(items) = ItemsView::parse(&part.items) else { continue };
            if !self.replaying {
                self.unstage(&items);
            }
            for item in items.iter() {
                self.apply_item(&item, &part.said, &mut gone, effects);
            }
        }
        let stays = if gone.is_empty() { BTreeSet::new() } else { bodies_named(&parts) };
        for ((mailbox, modseq), gone) in gone {
            self.expunge(mailbox, modseq, gone, &stays, now, effects);
        }
        for mailbox in &effects.mailboxes {
            self.charge(*mailbox);
            if let Some(opened) = self.opened.get_mut(mailbox) {
                opened.came(now);
            }
        }
        for (id, _) in parts.iter().filter_map(|p| p.body.as_ref()) {
            // Nobody has taken it.
            if self.bodies.get(*id).is_some_and(|b| b.refs.is_empty()) {
                self.bury(*id, effects);
            }
        }
    }

    fn bury(&mut self, id: BodyId, effects: &mut Effects) {
        let Some(body) = self.bodies.remove(id) else { return };
        self.dead(id, &body, effects);
    }

    fn dead(&mut self, id: BodyId, body: &Body, effects: &mut Effects) {
        if body.side != 0 {
            effects.sides.push(body.side);
        }
        if self.replaying {
            self.died.push(id);
        }
    }

    fn apply_item(
        &mut self,
        item: &Item<'_>,
        said: &Said,
        gone: &mut BTreeMap<(MailboxId, u64), Gone>,
        effects: &mut Effects,
    ) {
        match *item {
            Item::Account { id, name, quota, removed } => {
                self.account = self.account.max(id.0);
                self.directory.put_account(id, name, quota, removed);
                self.ledger.touch(Key::account(id), Some(said));
            }
            Item::AccountGone(id) => {
                let home = self.directory.remove_account(id).map(|a| a.home);
                effects.homes.extend(home.filter(|h| h.segment != 0).map(|h| (id, h)));
                self.ledger.delete(Key::account(id), Some(said));
            }
            Item::Mailbox { id, account, name, uidvalidity, special } => {
                self.mailbox = self.mailbox.max(id.0);
                self.uidvalidity = self.uidvalidity.max(uidvalidity);
                if self.directory.put_mailbox(id, account, name, uidvalidity, special) {
                    self.ledger.touch(Key::mailbox(id), Some(said));
                }
            }
            Item::MailboxGone(id) => {
                self.doomed.remove(&id);
                self.directory.remove_mailbox(id);
                self.ledger.delete(Key::mailbox(id), Some(said));
                effects.mailboxes.insert(id);
                if let Some(opened) = self.opened.get_mut(&id) {
                    opened.delete();
                }
            }
            Item::Subscription { account, name, on } => {
                self.directory.subscribe(account, name, on);
                self.ledger.touch(Key::account(account), Some(said));
            }
            Item::Keyword { mailbox, bit, name } => {
                self.put_keyword(mailbox, bit, name, said);
                effects.mailboxes.insert(mailbox);
            }
            Item::Counters(status) => {
                // What else the record says holds it; both go into the index together.
                if self.directory.count(status) {
                    self.ledger.touch(Key::mailbox(status.mailbox), None);
                }
            }
            Item::Message { mailbox, message } => self.put_message(mailbox, message, said, effects),
            Item::Expunged { mailbox, uid, modseq, body, marks, when } => {
                let gone = gone.entry((mailbox, modseq)).or_default();
                gone.when = when;
                gone.messages.push((uid, body, marks, said.clone()));
                if !gone.said.last().is_some_and(|s| Rc::ptr_eq(s, said)) {
                    gone.said.push(said.clone());
                }
            }
            Item::Delivery { id, when } => {
                for old in self.deliveries.insert(id, when) {
                    self.ledger.delete(Key::delivery(old), None);
                }
                let row = row::when_row(when);
                self.ledger.put(Key::delivery(id), row, !self.replaying, Some(said));
            }
            Item::Forgotten { mailbox, modseq } => self.forget(mailbox, modseq, said),
        }
    }

    /// What was expunged from a mailbox up to `modseq` is not known.
    fn forget(&mut self, mailbox: MailboxId, modseq: u64, said: &Said) {
        let Some(m) = self.directory.mailbox_mut(mailbox) else { return };
        m.kept_from = m.kept_from.max(modseq);
        self.ledger.touch(Key::mailbox(mailbox), Some(said));
        let forgotten = self.opened.get_mut(&mailbox).map(|o| o.forget(modseq)).unwrap_or_default();
        forgotten.into_iter().for_each(|m| self.ledger.delete(Key::expunge(mailbox, m), None));
    }

    fn put_keyword(&mut self, mailbox: MailboxId, bit: u8, name: &str, said: &Said) {
        self.directory.put_keyword(mailbox, bit, name);
        self.ledger.touch(Key::mailbox(mailbox), Some(said));
        let count = self.directory.mailbox(mailbox).map_or(0, |m| m.keywords.len());
        if let Some(opened) = self.opened.get_mut(&mailbox) {
            opened.set_keywords(count);
        }
    }

    fn put_message(&mut self, mailbox: MailboxId, m: Message, said: &Said, effects: &mut Effects) {
        let Some(known) = self.directory.mailbox(mailbox) else {
            // When the log is read back the mailbox may have gone, and the index knows that already. What
            // became of its message, which may have moved, is said later in the log: until then it has its
            // body.
            if self.replaying {
                self.bodies.refer(m.body, mailbox, m.uid);
            }
            return;
        };
        let new = !self.replaying && m.uid >= known.status.uidnext;
        let mut row = Vec::new();
        record::put_row(&mut row, &m);
        let key = Key::message(mailbox, m.uid);
        match self.opened.get(&mailbox).and_then(|o| o.get(m.uid)) {
            // What is opened and not known to the ledger is in the index.
            Some(_) => self.ledger.replace(key, row, Some(said)),
            None => self.ledger.put(key, row, new, Some(said)),
        }
        self.bodies.refer(m.body, mailbox, m.uid);
        let archived = self.bodies.get(m.body).is_none_or(|b| b.leaving);
        if archived && m.marks & Message::SHARED != 0 {
            let key = Key::reference(m.body, mailbox, m.uid);
            self.ledger.put(key, Vec::new(), false, Some(said));
        }
        if let Some(opened) = self.opened.get_mut(&mailbox) {
            opened.put(m);
        }
        if let Some(known) = self.directory.mailbox_mut(mailbox) {
            known.fresh.come(m.uid);
        }
        effects.mailboxes.insert(mailbox);
    }

    /// `stays`: bodies that messages have by the same operation.
    fn expunge(
        &mut self,
        mailbox: MailboxId,
        modseq: u64,
        gone: Gone,
        stays: &BTreeSet<BodyId>,
        now: Mono,
        effects: &mut Effects,
    ) {
        let uids: UidSet = gone.messages.iter().map(|g| g.0).collect();
        if let Some(known) = self.directory.mailbox_mut(mailbox) {
            gone.messages.iter().for_each(|g| known.fresh.go(g.0));
            let key = Key::expunge(mailbox, modseq);
            let row = row::expunge_row(gone.when, &uids);
            gone.said.iter().for_each(|said| {
                self.ledger.put(key, row.clone(), !self.replaying, Some(said));
            });
        }
        let mut shown = None;
        if let Some(opened) = self.opened.get_mut(&mailbox) {
            opened.expunge(Expunge { modseq, when: gone.when, uids });
            shown = opened.is_viewed().then(|| opened.generation());
            let forgotten = opened.trim(gone.when);
            let kept_from = opened.kept_from();
            if let Some(m) = self.directory.mailbox_mut(mailbox) {
                m.kept_from = kept_from;
            }
            forgotten.into_iter().for_each(|m| self.ledger.delete(Key::expunge(mailbox, m), None));
        }
        for (uid, body, marks, said) in gone.messages {
            self.ledger.delete(Key::message(mailbox, uid), Some(&said));
            let shared = marks & Message::SHARED != 0;
            let fate = self.bodies.forget(body, mailbox, uid);
            let (journaled, archived, needed) = match fate {
                Fate::Needed { leaving } => (None, leaving, true),
                Fate::Dead(dead) => {
                    let leaving = dead.leaving;
                    (Some(dead), leaving, false)
                }
                // What is moved keeps its body, of which the archive has no list as long as one has it.
                Fate::Elsewhere => (None, true, shared || stays.contains(&body)),
            };
            if archived && shared {
                // If it was the last reference, the body goes with it.
                self.ledger.delete(Key::reference(body, mailbox, uid), Some(&said));
            }
            if needed {
                continue;
            }
            let archived = archived && !shared;
            let generation = shown.unwrap_or(0);
            let linger = Linger { mailbox, generation, since: now, body: journaled, archived, said };
            if shown.is_some() {
                self.lingering.insert(body, linger);
            } else {
                self.end(body, linger, effects);
            }
        }
        effects.mailboxes.insert(mailbox);
    }

    /// The content of an expunged message is given up.
    fn end(&mut self, id: BodyId, linger: Linger, effects: &mut Effects) {
        if linger.archived {
            // Its side file goes with its row.
            return self.ledger.delete(Key::body(id), Some(&linger.said));
        }
        if let Some(body) = linger.body {
            self.dead(id, &body, effects);
        }
    }

    /// Gives up content that no snapshot shows any more, or that has been kept long enough: also what is
    /// in the journal up to segment `emptied`, which is wanted.
    pub fn expire(&mut self, now: Mono, emptied: u64) -> Effects {
        let mut effects = Effects::default();
        let opened = &self.opened;
        let over = self.lingering.extract_if(.., |_, l| {
            let floor = opened.get(&l.mailbox).map_or(u32::MAX, Opened::floor);
            let body = l.body.as_ref().map_or(u64::MAX, |b| b.said.at().segment);
            let oldest = body.min(l.said.at().segment);
            l.generation <= floor || oldest <= emptied || now.since(l.since) > LINGER
        });
        for (id, linger) in over.collect::<Vec<_>>() {
            self.end(id, linger, &mut effects);
        }
        effects
    }

    /// The record in the journal that has this body, if it is there.
    #[must_use]
    pub fn journaled(&self, id: BodyId) -> Option<&Body> {
        self.bodies.get(id).or_else(|| self.lingering.get(&id)?.body.as_ref())
    }

    /// A hand-over will not come again.
    pub fn settled(&mut self, id: &DeliveryId) {
        if self.deliveries.remove(id) {
            self.ledger.delete(Key::delivery(*id), None);
        }
    }

    /// An opened mailbox.
    #[must_use]
    pub fn opened(&self, mailbox: MailboxId) -> Option<&Opened> {
        self.opened.get(&mailbox)
    }

    /// An opened mailbox.
    pub fn opened_mut(&mut self, mailbox: MailboxId) -> Option<&mut Opened> {
        self.opened.get_mut(&mailbox)
    }

    /// The session of a snapshot is told of all its messages: those that it is the first to be told of are
    /// its own. Gives how many it has if they are not as many as it was told last.
    pub fn meet(&mut self, mailbox: MailboxId, view: ViewId) -> Option<u32> {
        let opened = self.opened.get_mut(&mailbox)?;
        let (takes, last) = opened.meets(view)?;
        let known = self.directory.mailbox_mut(mailbox)?;
        let uids = if takes && !known.fresh.is_empty() {
            // With the next transaction of the index: no record says so.
            self.ledger.touch(Key::mailbox(mailbox), None);
            known.fresh.take(last)
        } else {
            known.fresh.up_to(last)
        };
        opened.met(view, &uids)
    }

    /// Opens a mailbox: `rows` are the index's messages by UID, `expunges` its history, both before what the
    /// ledger says. Gives the MODSEQs of expunges that are too old to be kept. `Err`: a row is damaged.
    pub fn open(
        &mut self,
        mailbox: MailboxId,
        rows: impl Into<Roll>,
        expunges: BTreeMap<u64, (Wall, UidSet)>,
        wall: Wall,
    ) -> Result<(), Malformed> {
        let Some(known) = self.directory.mailbox(mailbox) else { return Err(Malformed) };
        let mut expunges = expunges;
        let over = self.ledger.each_over(row::MESSAGES, u64::from(mailbox.0));
        let messages = laid_over(rows, known.status.messages, over)?;
        for (modseq, row) in self.ledger.over(row::EXPUNGES, u64::from(mailbox.0)) {
            match row {
                Some(row) => drop(expunges.insert(modseq, row::parse_expunge(row)?)),
                None => drop(expunges.remove(&modseq)),
            }
        }
        let history = expunges.into_iter().map(|(modseq, (when, uids))| Expunge { modseq, when, uids });
        let (modseq, keywords) = (known.status.highest_modseq, known.keywords.len());
        let history = history.filter(|e| e.modseq > known.kept_from).collect();
        let mut opened = Opened::new(messages, history, known.kept_from, modseq, keywords);
        let forgotten = opened.trim(wall);
        if !forgotten.is_empty() {
            self.directory.mailbox_mut(mailbox).expect("just seen").kept_from = opened.kept_from();
            forgotten.into_iter().for_each(|m| self.ledger.delete(Key::expunge(mailbox, m), None));
            self.ledger.touch(Key::mailbox(mailbox), None);
        }
        self.opened.insert(mailbox, opened);
        self.charge(mailbox);
        Ok(())
    }

    /// Closes a mailbox that no session has.
    pub fn close(&mut self, mailbox: MailboxId) {
        let Some(opened) = self.opened.remove(&mailbox) else { return };
        assert!(!opened.is_viewed(), "a session has it");
        self.resident -= opened.charged;
        if opened.idle {
            self.idle.retain(|id| *id != mailbox);
        }
    }

    /// A session has left a mailbox: it may be closed when memory is wanted.
    pub fn left(&mut self, mailbox: MailboxId) {
        self.charge(mailbox);
        if let Some(opened) = self.opened.get_mut(&mailbox)
            && !opened.is_viewed()
            && !opened.idle
        {
            opened.idle = true;
            self.idle.push_back(mailbox);
        }
    }

    /// The mailbox that no session has had for the longest time, if more than `max` messages are in
    /// memory, or it has been deleted. It is for the caller to close it, or to say that it was left again.
    pub fn too_many(&mut self, max: usize) -> Option<MailboxId> {
        while self.resident > max
            || self.idle.back().and_then(|id| self.opened.get(id)).is_some_and(Opened::is_deleted)
        {
            let id = if self.resident > max { self.idle.pop_front()? } else { self.idle.pop_back()? };
            let Some(opened) = self.opened.get_mut(&id) else { continue };
            opened.idle = false;
            if !opened.is_viewed() {
                return Some(id);
            }
        }
        None
    }

    /// Counts what a mailbox takes in memory now.
    fn charge(&mut self, mailbox: MailboxId) {
        if let Some(opened) = self.opened.get_mut(&mailbox) {
            let now = opened.slots() + MAILBOX_COST;
            self.resident = self.resident + now - opened.charged;
            opened.charged = now;
        }
    }

    /// What opened mailboxes take in memory, in messages.
    #[must_use]
    pub fn resident(&self) -> usize {
        self.resident
    }

    /// Counters of a mailbox with everything that is staged.
    #[must_use]
    pub fn ahead(&self, mailbox: MailboxId) -> Option<Status> {
        match self.ahead.get(&mailbox) {
            Some(ahead) => Some(ahead.status),
            None => self.directory.mailbox(mailbox).map(|m| m.status),
        }
    }

    /// What an account holds with everything that is staged.
    #[must_use]
    pub fn usage_ahead(&self, account: AccountId) -> Option<Usage> {
        let usage = self.directory.account(account)?.usage();
        let (bytes, messages) = self.growing.get(&account).copied().unwrap_or_default();
        Some(Usage {
            bytes: usage.bytes.saturating_add_signed(bytes),
            messages: usage.messages.saturating_add_signed(messages),
            ..usage
        })
    }

    /// Whether a hand-over has been taken, or is staged.
    #[must_use]
    pub fn has_taken(&self, id: &DeliveryId) -> bool {
        self.deliveries.has(id) || self.taking.contains_key(id)
    }

    /// A mailbox is about to go, or stays after all.
    pub fn doom(&mut self, mailbox: MailboxId, doomed: bool) {
        match doomed {
            true => self.doomed.insert(mailbox),
            false => self.doomed.remove(&mailbox),
        };
    }

    /// A mailbox that is about to go takes nothing any more.
    #[must_use]
    pub fn is_doomed(&self, mailbox: MailboxId) -> bool {
        self.doomed.contains(&mailbox)
    }

    /// These items have been staged.
    pub fn staged(&mut self, id: u64, items: &ItemsView<'_>) {
        self.last = self.last.max(id);
        for item in items.iter() {
            match item {
                Item::Account { id, .. } => self.account = self.account.max(id.0),
                Item::Mailbox { id, uidvalidity, .. } => {
                    self.mailbox = self.mailbox.max(id.0);
                    self.uidvalidity = self.uidvalidity.max(uidvalidity);
                }
                Item::Delivery { id, .. } => *self.taking.entry(id).or_default() += 1,
                Item::Counters(status) => self.count_ahead(status),
                _ => {}
            }
        }
    }

    fn count_ahead(&mut self, status: Status) {
        let Some(before) = self.ahead(status.mailbox) else { return };
        let account = self.directory.mailbox(status.mailbox).map(|m| m.account);
        if let Some(account) = account {
            let grown = self.growing.entry(account).or_default();
            grown.0 += status.bytes as i64 - before.bytes as i64;
            grown.1 += i64::from(status.messages) - i64::from(before.messages);
        }
        let ahead = self.ahead.entry(status.mailbox).or_insert(Ahead { status, flying: 0 });
        ahead.status = Status { uidvalidity: before.uidvalidity, ..status };
        ahead.flying += 1;
    }

    /// These items are committed: what was known of them ahead is forgotten.
    fn unstage(&mut self, items: &ItemsView<'_>) {
        for item in items.iter() {
            match item {
                Item::Delivery { id, .. } => {
                    if let Some(count) = self.taking.get_mut(&id) {
                        *count -= 1;
                        if *count == 0 {
                            self.taking.remove(&id);
                        }
                    }
                }
                Item::Counters(status) => self.count_behind(status),
                _ => {}
            }
        }
    }

    fn count_behind(&mut self, status: Status) {
        if let Some(ahead) = self.ahead.get_mut(&status.mailbox) {
            ahead.flying -= 1;
            if ahead.flying == 0 {
                self.ahead.remove(&status.mailbox);
            }
        }
        let Some(m) = self.directory.mailbox(status.mailbox) else { return };
        if let Some(grown) = self.growing.get_mut(&m.account) {
            grown.0 -= status.bytes as i64 - m.status.bytes as i64;
            grown.1 -= i64::from(status.messages) - i64::from(m.status.messages);
            if *grown == (0, 0) {
                self.growing.remove(&m.account);
            }
        }
    }
}

/// Messages by UID, and what lies over them, as one list.
fn laid_over<'a>(
    rows: impl Into<Roll>,
    count: u32,
    over: impl Iterator<Item = (u64, Option<&'a [u8]>)>,
) -> Result<Roll, Malformed> {
    let mut all = rows.into();
    let over = over.map(|(uid, row)| {
        let uid = u32::try_from(uid).map_err(|_| Malformed)?;
        Ok((uid, row.map(|row| record::parse_row(uid, row)).transpose()?))
    });
    all.lay_over(count as usize, over)?;
    Ok(all)
}

/// Bodies of the messages that an operation puts into mailboxes.
fn bodies_named(parts: &[Part]) -> BTreeSet<BodyId> {
    let items = parts.iter().filter_map(|p| ItemsView::parse(&p.items).ok());
    let bodies = items.map(|items| {
        let body = |item| if let Item::Message { message, .. } = item { Some(message.body) } else { None };
        items.iter().filter_map(body).collect::<Vec<_>>()
    });
    bodies.flatten().collect()
}

#[cfg(test)]
#[path = "shard_tests.rs"]
mod tests;
