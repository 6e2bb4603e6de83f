//! Tests of a shard: histories of operations on a journal in memory. What is visible is what a restart
//! finds, at every point; UIDs rise and are never used again; counters are what the messages say.

use super::*;
use crate::mailbox::api::{Alter, Refusal, Target};
use crate::mailbox::plan::{Draft, NewMessage, Plan};
use crate::mailbox::types::{Flags, Keywords, Quota};
use crate::message::body::BodyFlags;
use proptest::prelude::*;
use std::collections::VecDeque;

const LOG: [u8; 16] = [5; 16];
/// Bytes of items in a record: small, so that operations have several.
const LIMIT: usize = 1300;

#[derive(Clone)]
struct Record {
    head: RecordHead,
    at: Location,
    items: Vec<u8>,
    side: Option<u64>,
}

/// A shard with a journal; what is staged waits until it is released.
#[derive(Default)]
struct Bench {
    shard: Shard,
    journal: Vec<Record>,
    staged: VecDeque<Record>,
    clock: u64,
}

/// All that is to be seen of a shard.
type Picture = (Vec<String>, BTreeMap<(MailboxId, u32), Message>);

fn picture(shard: &Shard) -> Picture {
    let mut lines = Vec::new();
    let mut messages = BTreeMap::new();
    for (id, a) in shard.directory.accounts() {
        lines.push(format!("{id:?} {:?}", shard.directory.account_row(id)));
        for mailbox in a.mailboxes.values() {
            lines.push(format!("{mailbox:?} {:?}", shard.directory.mailbox_row(*mailbox)));
            for (uid, row) in shard.ledger.over(row::MESSAGES, u64::from(mailbox.0)) {
                let row = row.map(|row| record::parse_row(uid as u32, row).expect("our own"));
                messages.extend(row.map(|m| ((*mailbox, uid as u32), m)));
            }
        }
    }
    (lines, messages)
}

fn brought(side: Option<u64>) -> Option<NewBody> {
    side.map(|side| NewBody { side, facts: None })
}

fn replay(journal: &[Record]) -> Shard {
    let mut shard = Shard::default();
    shard.replay();
    for r in journal {
        shard.release_items(r.head, r.at, &r.items, brought(r.side), Mono(0));
    }
    shard.replayed();
    shard
}

impl Bench {
    fn draft(&self) -> Draft<'_> {
        Draft::new(&self.shard, Wall(1_000_000 + self.clock), LIMIT)
    }

    fn stage(&mut self, plan: Plan) {
        self.clock += 1;
        let count = plan.parts.len();
        for (n, part) in plan.parts.iter().enumerate() {
            let first = if n == 0 { record::FIRST } else { 0 };
            let more = if n + 1 < count { record::MORE } else { 0 };
            let kind = if part.body.is_some() { record::MESSAGE } else { record::CHANGE };
            let head = RecordHead { kind, version: record::VERSION, flags: first | more, id: part.id };
            let at = Location { segment: 1, offset: (self.journal.len() + self.staged.len()) as u32, len: 1 };
            let items = part.items.bytes().to_vec();
            self.staged.push_back(Record { head, at, items, side: part.body.map(|b| b.side) });
            self.shard.staged(part.id, &ItemsView::parse(part.items.bytes()).expect("our own"));
        }
    }

    fn release(&mut self) -> bool {
        let Some(r) = self.staged.pop_front() else { return false };
        self.journal.push(r.clone());
        self.shard.release_items(r.head, r.at, &r.items, brought(r.side), Mono(0));
        true
    }

    fn settle(&mut self) {
        while self.release() {}
    }

    fn account(&mut self, name: &str, quota: Quota) -> AccountId {
        let mut draft = self.draft();
        let id = draft.create_account(name, &[("Trash", None), ("a/b", None)], quota).expect("free");
        let plan = draft.finish().expect("small");
        self.stage(plan);
        self.settle();
        id
    }

    fn deliver(&mut self, targets: &[Target<'_>]) -> Vec<Result<Option<u32>, Refusal>> {
        let mut draft = self.draft();
        let answers = draft.deliver(&new(100), targets, LOG);
        let plan = draft.finish().expect("small");
        self.stage(plan);
        answers.into_iter().map(|a| a.map(|at| at.map(|at| at.uid))).collect()
    }

    fn find(&self, account: AccountId, name: &str) -> MailboxId {
        self.draft().find(account, name).expect("there")
    }

    fn open(&mut self, mailbox: MailboxId) {
        if self.shard.opened(mailbox).is_none() {
            self.shard.open(mailbox, Vec::new(), BTreeMap::new(), Wall(0)).expect("sound rows");
        }
    }

    /// What must hold whenever nothing is staged.
    fn check(&self) {
        let (_, messages) = picture(&self.shard);
        for (id, a) in self.shard.directory.accounts() {
            assert_eq!(self.shard.usage_ahead(id), Some(a.usage()), "nothing is staged");
            for mailbox in a.mailboxes.values() {
                let s = self.shard.directory.mailbox(*mailbox).expect("there").status;
                assert_eq!(self.shard.ahead(*mailbox), Some(s));
                let here: Vec<&Message> =
                    messages.iter().filter(|(k, _)| k.0 == *mailbox).map(|(_, m)| m).collect();
                let count = |f: &dyn Fn(&Message) -> bool| here.iter().filter(|m| f(m)).count() as u32;
                assert_eq!(s.messages, count(&|_| true));
                assert_eq!(s.unseen, count(&|m| m.is_unseen()));
                assert_eq!(s.deleted, count(&|m| m.flags.has(Flags::DELETED)));
                assert_eq!(s.bytes, here.iter().map(|m| u64::from(m.size)).sum::<u64>());
                assert!(here.iter().all(|m| m.uid < s.uidnext && m.modseq <= s.highest_modseq));
                if let Some(o) = self.shard.opened(*mailbox) {
                    let all = o.among(&UidSet::all()).copied().collect::<Vec<_>>();
                    assert_eq!(all, here.into_iter().copied().collect::<Vec<_>>());
                }
            }
        }
        for ((mailbox, uid), m) in &messages {
            let body = self.shard.bodies.get(m.body).expect("a message has its body");
            assert!(body.refs.contains(&(*mailbox, *uid)));
            assert!(body.refs.len() == 1 || m.marks & Message::SHARED != 0);
        }
        let bodies: BTreeSet<BodyId> = messages.values().map(|m| m.body).collect();
        assert_eq!(self.shard.bodies.len(), bodies.len(), "a body has a message");
    }
}

fn new(size: u64) -> NewMessage {
    NewMessage { size, facts: BodyFlags(1), internal: Wall(7), guid: None, uidl: false, side: 0 }
}

fn to(account: AccountId) -> Target<'static> {
    Target { account, mailbox: "", flags: Flags::default(), id: None, promised: false }
}

#[test]
fn nothing_shows_before_it_is_committed_and_uids_are_given_once() {
    let mut b = Bench::default();
    let a = b.account("a", Quota::default());
    let inbox = b.find(a, "inbox");
    b.open(inbox);
    assert_eq!(b.deliver(&[to(a)]), [Ok(Some(1))]);
    assert_eq!(b.deliver(&[to(a), to(a)]), [Ok(Some(2)), Ok(Some(3))]);
    let status = |b: &Bench| b.shard.directory.mailbox(inbox).expect("there").status;
    assert_eq!((status(&b).messages, status(&b).uidnext, status(&b).highest_modseq), (0, 1, 1));
    b.release();
    assert_eq!((status(&b).messages, b.shard.opened(inbox).map(Opened::len)), (1, Some(1)));
    b.settle();
    assert_eq!((status(&b).messages, status(&b).uidnext, status(&b).highest_modseq), (3, 4, 3));
    b.check();
}

#[test]
fn a_hand_over_is_taken_once() {
    let mut b = Bench::default();
    let a = b.account("a", Quota::default());
    let id = DeliveryId { log: 3, message: 99, recipient: 1 };
    let target = Target { id: Some(id), ..to(a) };
    assert_eq!(b.deliver(&[target, target]), [Ok(Some(1)), Ok(None)], "twice in one");
    assert_eq!(b.deliver(&[target]), [Ok(None)], "the first is staged");
    b.settle();
    assert_eq!(b.deliver(&[target]), [Ok(None)], "it is committed");
    b.settle();
    b.check();
    let again = Bench { shard: replay(&b.journal), journal: b.journal, ..Bench::default() };
    assert!(again.shard.has_taken(&id), "it was, before the restart");
    let mut settled = again;
    settled.shard.settled(&id);
    assert!(!settled.shard.has_taken(&id));
}

#[test]
fn quotas_reckon_with_what_is_staged_and_promises_are_kept() {
    let mut b = Bench::default();
    let a = b.account("a", Quota { bytes: 250, messages: 0 });
    assert_eq!(b.deliver(&[to(a), to(a), to(a)]), [Ok(Some(1)), Ok(Some(2)), Err(Refusal::OverQuota)]);
    assert_eq!(b.deliver(&[to(a)]), [Err(Refusal::OverQuota)]);
    assert_eq!(b.deliver(&[Target { promised: true, ..to(a) }]), [Ok(Some(3))]);
    assert_eq!(b.deliver(&[to(AccountId(77))]), [Err(Refusal::NoAccount)]);
    b.settle();
    b.check();
    let trash = b.find(a, "Trash");
    let inbox = b.find(a, "INBOX");
    b.open(inbox);
    assert_eq!(b.draft().copy(inbox, &UidSet::all(), trash, false).err(), Some(Refusal::OverQuota));
    assert!(b.draft().copy(inbox, &UidSet::all(), trash, true).is_ok(), "what is moved is there already");
}

#[test]
fn flags_change_as_asked_and_not_what_has_changed_since() {
    let mut b = Bench::default();
    let a = b.account("a", Quota::default());
    let inbox = b.find(a, "INBOX");
    b.deliver(&[to(a), to(a)]);
    b.settle();
    b.open(inbox);
    let mut store = |how, flags, keywords: &[&str], since| {
        let mut draft = b.draft();
        let stored = draft.store(inbox, &UidSet::all(), (how, flags, keywords), since).expect("there");
        let plan = draft.finish().expect("small");
        b.stage(plan);
        b.settle();
        b.check();
        stored
    };
    let stored = store(Alter::Add, Flags::SEEN, &["$Junk", "$junk"], None);
    assert_eq!((stored.modseq, stored.now.len(), stored.now[0].keywords), (Some(3), 2, Keywords(1)));
    assert_eq!(store(Alter::Add, Flags::SEEN, &[], None).modseq, None, "nothing to do");
    let stored = store(Alter::Replace, Flags::DELETED, &["other"], Some(2));
    assert_eq!((stored.modified.len(), stored.modseq), (2, None));
    let stored = store(Alter::Replace, Flags::DELETED, &["other"], Some(3));
    assert_eq!((stored.now[1].flags, stored.now[1].keywords.0), (Flags::DELETED, 2));
    let stored = store(Alter::Remove, Flags::ALL, &["OTHER", "unknown"], None);
    assert_eq!((stored.now[0].flags, stored.now[0].keywords.0), (Flags::default(), 0));
    for bad in ["\\Seen", "a b", "", "(", "caf\u{e9}"] {
        let refused = b.draft().store(inbox, &UidSet::all(), (Alter::Add, Flags::default(), &[bad]), None);
        assert_eq!(refused, Err(Refusal::Limit), "{bad}");
    }
    let many: Vec<String> = (0..63).map(|n| format!("k{n}")).collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    let refused = b.draft().store(inbox, &UidSet::all(), (Alter::Add, Flags::default(), &many), None);
    assert_eq!(refused, Err(Refusal::Limit));
}

#[test]
fn content_lingers_for_those_who_still_see_it() {
    let mut b = Bench::default();
    let a = b.account("a", Quota::default());
    let inbox = b.find(a, "INBOX");
    b.deliver(&[to(a)]);
    b.settle();
    b.open(inbox);
    let view = b.shard.opened_mut(inbox).expect("open").enter();
    let body = b.shard.opened(inbox).and_then(|o| o.get(1)).expect("there").body;
    let mut draft = b.draft();
    draft.expunge(inbox, &UidSet::all(), false).expect("there");
    let plan = draft.finish().expect("small");
    b.stage(plan);
    b.settle();
    b.check();
    b.shard.expire(Mono(0), 0);
    assert!(b.shard.journaled(body).is_some(), "the client has not been told");
    b.shard.opened_mut(inbox).expect("open").sync(view, true);
    b.shard.expire(Mono(0), 0);
    assert!(b.shard.journaled(body).is_none());
    assert_eq!(b.shard.too_many(0), None, "a session has it");
    b.shard.opened_mut(inbox).expect("open").leave(view);
    b.shard.left(inbox);
    b.shard.left(inbox);
    assert_eq!((b.shard.too_many(1000), b.shard.too_many(0), b.shard.too_many(0)), (None, Some(inbox), None));
    b.shard.close(inbox);
    assert_eq!(b.shard.resident(), 0);
}

#[test]
fn a_body_of_the_archive_stays_when_its_message_moves_and_goes_with_it() {
    let mut b = Bench::default();
    let a = b.account("a", Quota::default());
    let (inbox, trash) = (b.find(a, "INBOX"), b.find(a, "Trash"));
    b.deliver(&[to(a)]);
    b.settle();
    b.open(inbox);
    b.open(trash);
    let body = b.shard.opened(inbox).and_then(|o| o.get(1)).expect("there").body;
    // The archive has it now, and the index has said so.
    b.shard.bodies.remove(body);
    b.shard.ledger.take(false, |_| None, |_, _| {});
    b.shard.ledger.done(1);
    let mut draft = b.draft();
    draft.copy(inbox, &UidSet::all(), trash, true).expect("there");
    let plan = draft.finish().expect("small");
    b.stage(plan);
    b.settle();
    assert_eq!(b.shard.ledger.get(&Key::body(body)), None, "the message that was moved has it");
    let mut draft = b.draft();
    draft.expunge(trash, &UidSet::all(), false).expect("there");
    let plan = draft.finish().expect("small");
    b.stage(plan);
    b.settle();
    assert_eq!(b.shard.ledger.get(&Key::body(body)), Some(None), "nobody has it any more");
}

/// The index may be newer than the beginning of the log: a mailbox of which that speaks is gone.
#[test]
fn what_moved_out_of_a_mailbox_that_is_gone_keeps_its_body() {
    let mut b = Bench::default();
    let a = b.account("a", Quota::default());
    let (from, trash) = (b.find(a, "a/b"), b.find(a, "Trash"));
    b.deliver(&[Target { mailbox: "a/b", ..to(a) }]);
    b.settle();
    [from, trash].into_iter().for_each(|mailbox| b.open(mailbox));
    let body = b.shard.opened(from).and_then(|o| o.get(1)).expect("there").body;
    let mut draft = b.draft();
    draft.copy(from, &UidSet::all(), trash, true).expect("there");
    let plan = draft.finish().expect("small");
    b.stage(plan);
    b.settle();
    let mut draft = b.draft();
    draft.delete(from).expect("opened");
    let plan = draft.finish().expect("small");
    b.stage(plan);
    b.settle();
    let mut again = Shard::default();
    let account = b.shard.directory.account_row(a).expect("there");
    again.directory.load_account(a, &account);
    let mailbox = b.shard.directory.mailbox_row(trash).expect("there");
    again.directory.load_mailbox(trash, &mailbox);
    again.replay();
    for r in b.journal.iter().filter(|r| r.head.id >= body.0) {
        again.release_items(r.head, r.at, &r.items, brought(r.side), Mono(0));
    }
    assert!(again.replayed().is_empty(), "none has died");
    let refs = again.bodies.get(body).expect("the message that was moved has it").refs.clone();
    assert_eq!(refs.to_vec(), [(trash, 1)]);
}

#[test]
fn names_are_made_moved_and_taken_away() {
    let mut b = Bench::default();
    let a = b.account("a", Quota::default());
    let names = |b: &Bench| -> Vec<String> {
        let account = b.shard.directory.account(a).expect("there");
        account.mailboxes.keys().map(|n| n.to_string()).collect()
    };
    assert_eq!(names(&b), ["INBOX", "Trash", "a", "a/b"]);
    let refused = |b: &Bench, from: &str, to: &str| b.draft().rename(a, from, to).err();
    assert_eq!(refused(&b, "a", "Trash"), Some(Refusal::Exists));
    assert_eq!(refused(&b, "a", "a/c"), Some(Refusal::BadName));
    assert_eq!(refused(&b, "zzz", "c"), Some(Refusal::NoMailbox));
    assert_eq!(b.draft().create(a, "Inbox", None).err(), Some(Refusal::Exists));
    let before = b.shard.directory.mailbox(b.find(a, "a/b")).expect("there").status.uidvalidity;
    let mut draft = b.draft();
    draft.rename(a, "a", "x/y").expect("fine");
    let plan = draft.finish().expect("small");
    b.stage(plan);
    b.settle();
    assert_eq!(names(&b), ["INBOX", "Trash", "x", "x/y", "x/y/b"]);
    let moved = b.shard.directory.mailbox(b.find(a, "x/y/b")).expect("there").status.uidvalidity;
    assert_eq!(moved, before, "a mailbox keeps its UIDs");
    let mut draft = b.draft();
    let again = draft.create(a, "a/b", None).expect("free again");
    let plan = draft.finish().expect("small");
    b.stage(plan);
    b.settle();
    assert!(
        b.shard.directory.mailbox(again).expect("there").status.uidvalidity > before,
        "a name never repeats"
    );
    // INBOX stays, its messages go.
    b.deliver(&[to(a), to(a)]);
    b.settle();
    b.open(b.find(a, "INBOX"));
    let mut draft = b.draft();
    draft.rename(a, "INBOX", "old").expect("fine");
    let plan = draft.finish().expect("small");
    b.stage(plan);
    b.settle();
    b.check();
    let counts = ["INBOX", "old"].map(|n| b.shard.directory.mailbox(b.find(a, n)).expect("there").status);
    assert_eq!(counts.map(|s| (s.messages, s.uidnext)), [(0, 3), (2, 3)]);
}

/// One random operation; nothing else is under way in the mailboxes that it changes.
fn operate(b: &mut Bench, accounts: &[AccountId], what: u8, n: u64) {
    let a = accounts[n as usize % accounts.len()];
    if what >= 4 {
        b.settle();
    }
    let names: Vec<String> =
        b.shard.directory.account(a).expect("there").mailboxes.keys().map(|n| n.to_string()).collect();
    let name = &names[(n / 3) as usize % names.len()];
    let other = &names[(n / 7) as usize % names.len()];
    if what < 4 {
        let all: Vec<Target<'_>> = accounts.iter().map(|a| to(*a)).collect();
        let id = DeliveryId { log: 1, message: n % 40, recipient: 0 };
        let one = [Target { mailbox: name, id: Some(id), ..to(a) }];
        b.deliver(if what == 0 { &all } else { &one });
        return;
    }
    let (mailbox, target) = (b.find(a, name), b.find(a, other));
    b.open(mailbox);
    let uids = UidSet::of([(1 + n as u32 % 5, 4 + n as u32 % 9)]);
    let keyword = format!("k{}", n % 6);
    let mut draft = b.draft();
    let done = match what {
        4 => draft.append(a, mailbox, &new(n % 50), (Flags::SEEN, &[&keyword]), LOG).map(drop),
        5 => draft.store(mailbox, &uids, (Alter::Add, Flags::DELETED, &[&keyword]), None).map(drop),
        6 => draft.store(mailbox, &uids, (Alter::Replace, Flags(n as u8 & 31), &[]), Some(n % 9)).map(drop),
        7 => draft.expunge(mailbox, &uids, true).map(drop),
        8 => draft.copy(mailbox, &uids, target, false).map(drop),
        9 => draft.copy(mailbox, &uids, target, true).map(drop),
        10 => draft.create(a, &format!("n{}", n % 9), None).map(drop),
        11 if name != "INBOX" => draft.delete(mailbox),
        11 | 12 => draft.rename(a, name, &format!("r{}", n % 9)),
        _ => draft.subscribe(a, other, n.is_multiple_of(2)),
    };
    if done.is_ok()
        && let Ok(plan) = draft.finish()
    {
        b.stage(plan);
    }
    if what == 11 {
        b.settle();
        if b.shard.directory.mailbox(mailbox).is_none() {
            b.shard.close(mailbox);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]
    #[test]
    fn a_restart_finds_what_was_visible_at_every_point(
        steps in proptest::collection::vec((0u8..14, any::<u32>()), 1..60),
        late in any::<u64>(),
    ) {
        let mut b = Bench::default();
        let accounts = ["a", "b", "c"].map(|n| b.account(n, Quota::default()));
        let mut seen: BTreeMap<u32, (MailboxId, u32)> = BTreeMap::new();
        let mut checked = 0;
        for (i, (what, n)) in steps.into_iter().enumerate() {
            operate(&mut b, &accounts, what, u64::from(n));
            // Deliveries wait for one another now and then.
            while late >> (i % 64) & 1 == 0 && b.release() {
                // What is visible is what the records so far say.
                let again = replay(&b.journal);
                prop_assert_eq!(picture(&again), picture(&b.shard));
                checked += 1;
            }
            if b.staged.is_empty() {
                b.check();
            }
            for (_, a) in b.shard.directory.accounts() {
                for id in a.mailboxes.values() {
                    let s = b.shard.directory.mailbox(*id).expect("there").status;
                    let (mailbox, uidnext) = seen.insert(s.uidvalidity, (*id, s.uidnext)).unwrap_or((*id, 0));
                    prop_assert!(mailbox == *id && s.uidnext >= uidnext, "UIDs rise, UIDVALIDITY is its own");
                }
            }
        }
        b.settle();
        b.check();
        let again = replay(&b.journal);
        prop_assert_eq!(picture(&again), picture(&b.shard));
        prop_assert_eq!(again.bodies.len(), b.shard.bodies.len());
        // To read it twice, as when the index knows some of it already, changes nothing.
        let mut twice = replay(&b.journal);
        twice.replay();
        for r in &b.journal {
            twice.release_items(r.head, r.at, &r.items, brought(r.side), Mono(0));
        }
        twice.replayed();
        prop_assert_eq!(picture(&twice), picture(&b.shard));
        prop_assert!(checked > 0 || late != 0);
    }
}

#[test]
fn what_lies_over_rows_replaces_adds_and_takes_away() {
    let message = |uid: u32, modseq: u64| Message { uid, modseq, ..Message::default() };
    let row = |uid: u32| {
        let mut row = Vec::new();
        record::put_row(&mut row, &message(uid, 9));
        row
    };
    let (two, six, nine) = (row(2), row(6), row(9));
    let over = [(2, Some(&two[..])), (3, None), (4, None), (6, Some(&six[..])), (9, Some(&nine[..]))];
    let rows = || [1, 2, 3, 5, 7].map(|uid| message(uid, 1)).to_vec();
    let all = laid_over(rows(), 6, over.into_iter()).expect("sound");
    let seen: Vec<(u32, u64)> = all.iter().map(|m| (m.uid, m.modseq)).collect();
    assert_eq!(seen, [(1, 1), (2, 9), (5, 1), (6, 9), (7, 1), (9, 9)]);
    assert_eq!(laid_over(rows(), 5, std::iter::empty()).map(|all| all.len()), Ok(5));
    assert_eq!(laid_over(rows(), 5, [(1, Some(&b"?"[..]))].into_iter()), Err(Malformed));
}
