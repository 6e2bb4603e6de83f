//! L4: making an index anew from the archive, when it is lost. What the journal says comes on top.
//!
//! Nothing that was accepted is lost. Messages are as they were when their bodies were copied: flags
//! changed since, and moves, are forgotten as far as the journal does not say them, and what was expunged
//! comes back if its body is still there. UIDs that were given since the accounts' last homes are passed
//! over, so that none is used twice.

use crate::base::time::Wall;
use crate::mailbox::fresh::Fresh;
use crate::mailbox::record::{self, BodyView, Item, ItemsView};
use crate::mailbox::row::{self, BodyRow, Key, Meta};
use crate::mailbox::shard::Shard;
use crate::mailbox::store::Progress;
use crate::mailbox::store::orphans::Named;
use crate::mailbox::types::{BodyId, Flags, MailboxId, Message, Status};
use crate::runtime::table::{Changes, Table};
use crate::runtime::{Disk, Runtime};
use crate::storage::archive::{Archive, Place};
use crate::storage::keeper::Keeper;
use crate::storage::record::RecordHead;
use crate::storage::recover::RecoveryReport;
use crate::storage::walk::Damage;
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::atomic::Ordering;

/// Rows in one transaction.
const BATCH: usize = 20_000;
/// The numbers of transactions of an index made anew are beyond those of all that were lost.
const REBUILT: u64 = 1 << 32;
/// UIDs that are passed over: more than a mailbox can have given since its account's home was written and
/// lost again, unless it took a million messages in that time.
const UID_GAP: u32 = 1 << 20;
/// What gives a UID or a MODSEQ takes more bytes of the journal than this.
const ITEM_LEAST: u64 = 16;

#[derive(Default)]
struct Found {
    /// Accounts: id of the record, place, items.
    homes: BTreeMap<u32, (u64, Place, Vec<u8>)>,
    counts: BTreeMap<MailboxId, Status>,
    changes: Changes,
    messages: u64,
    bodies: u64,
    last: u64,
    mailbox: u32,
}

impl Found {
    fn visit(&mut self, head: RecordHead, place: Place, payload: &[u8]) {
        self.last = self.last.max(head.id);
        match (head.kind, BodyView::parse(payload)) {
            (record::ACCOUNT, _) => self.account(head, place, payload),
            (record::MESSAGE, Ok(view)) => self.body(head, place, &view),
            _ => {}
        }
    }

    fn account(&mut self, head: RecordHead, place: Place, payload: &[u8]) {
        let Ok(items) = ItemsView::parse(payload) else { return };
        let Some(Item::Account { id, .. }) = items.iter().next() else { return };
        let newer = self.homes.get(&id.0).is_none_or(|h| h.0 <= head.id);
        if newer {
            self.homes.insert(id.0, (head.id, place, payload.to_vec()));
        }
    }

    fn body(&mut self, head: RecordHead, place: Place, view: &BodyView<'_>) {
        let id = BodyId(head.id);
        self.bodies += 1;
        let row = BodyRow {
            place,
            side: view.head.side,
            guid: view.head.guid,
            uidl: view.uidl,
            summary: view.summary,
        };
        self.changes.put(&Key::body(id).bytes(), &row.encode());
        for item in view.items.iter() {
            let Item::Message { mailbox, message } = item else { continue };
            let mut value = Vec::new();
            record::put_row(&mut value, &message);
            self.changes.put(&Key::message(mailbox, message.uid).bytes(), &value);
            if message.marks & Message::SHARED != 0 {
                self.changes.put(&Key::reference(id, mailbox, message.uid).bytes(), &[]);
            }
            self.mailbox = self.mailbox.max(mailbox.0);
        }
    }
}

/// What has been made.
pub(super) struct Made {
    /// What the index says of itself.
    pub meta: Meta,
    /// Messages found.
    pub messages: u64,
    /// Damages of the archive: segment, first and last byte.
    pub damages: Vec<(u32, u32, u32)>,
    /// Places of the archive that are damaged, or left so by a crash: likewise.
    pub doubts: Vec<(u32, u32, u32)>,
    /// See [`Named::adopt`].
    pub adopted: Option<String>,
}

/// Fills an empty index from the archive. `named`: what the journal names, and whether it is damaged.
pub(super) async fn rebuild<R: Runtime>(
    table: &<R as Disk>::Table,
    vault: &Archive<R>,
    keeper: &Keeper<R>,
    (named, damaged): (&Named, bool),
    progress: &Progress,
) -> io::Result<Made> {
    let mut found = Found::default();
    let (mut damages, mut doubts) = (Vec::new(), Vec::new());
    let segments = vault.segments();
    progress.of.store(segments.len() as u64, Ordering::Relaxed);
    for segment in segments {
        let scanned = vault.scan(segment, |head, place, payload| found.visit(head, place, payload)).await;
        match &scanned {
            Ok(s) => {
                damages.extend(s.damages.iter().map(|d| (segment, d.from, d.to)));
                doubts.extend(s.doubts.iter().map(|d| (segment, d.from, d.to)));
            }
            // A segment that cannot be read gives what it can.
            Err(_) => damages.push((segment, 0, u32::MAX)),
        }
        progress.segments.fetch_add(1, Ordering::Relaxed);
        progress.bodies.store(found.bodies, Ordering::Relaxed);
        if scanned.is_err() || found.changes.len() >= BATCH {
            table.commit(std::mem::take(&mut found.changes)).await?;
        }
    }
    table.commit(std::mem::take(&mut found.changes)).await?;
    count(table, &mut found).await?;
    let mut shard = Shard::default();
    let mut homes = BTreeMap::new();
    for (account, (_, place, items)) in &found.homes {
        shard.replay();
        let head = RecordHead {
            kind: record::CHANGE,
            version: record::VERSION,
            flags: record::FIRST,
            id: found.last,
        };
        let nowhere = crate::storage::record::Location { segment: 0, offset: 0, len: 0 };
        shard.release_items(head, nowhere, items, None, Default::default());
        homes.insert(*account, *place);
    }
    (shard.last, shard.mailbox) = (found.last, shard.mailbox.max(found.mailbox));
    let mut adopted = None;
    // The last record of a run is an account's home: in doubt it is taken for lost, and no mail with it.
    if damaged || !damages.is_empty() || !doubts.is_empty() {
        let counted: BTreeSet<MailboxId> = found.counts.keys().copied().collect();
        adopted = named.adopt(&mut shard, &counted, time_of(found.last));
    }
    write_directory(table, &mut shard, &found, &homes).await?;
    let meta = Meta {
        log: keeper.log(),
        mark: keeper.mark() + REBUILT,
        last: found.last,
        account: shard.account,
        mailbox: shard.mailbox,
        uidvalidity: shard.uidvalidity,
        // Bodies of any segment so far may be in the archive.
        through: keeper.newest(),
    };
    let mut last = Changes::new();
    last.put(row::META, &meta.encode());
    table.commit(last).await?;
    Ok(Made { meta, messages: found.messages, damages, doubts, adopted })
}

/// When a record was written: ids are times.
fn time_of(id: u64) -> Wall {
    Wall(id >> 20)
}

/// Counts the messages that there are now: of a body that was copied twice only the last counts.
async fn count<T: Table>(table: &T, found: &mut Found) -> io::Result<()> {
    let (counts, messages) = (&mut found.counts, &mut found.messages);
    super::opening::each_row(table, row::MESSAGES, |key, value| {
        let uid = key.b() as u32;
        let m = record::parse_row(uid, value).map_err(|_| io::ErrorKind::InvalidData)?;
        *messages += 1;
        let s = counts.entry(MailboxId(key.a() as u32)).or_default();
        s.messages += 1;
        s.unseen += u32::from(m.is_unseen());
        s.deleted += u32::from(m.flags.has(Flags::DELETED));
        s.bytes += u64::from(m.size);
        s.uidnext = s.uidnext.max(uid.saturating_add(1));
        s.highest_modseq = s.highest_modseq.max(m.modseq);
        Ok(())
    })
    .await
}

/// As many UIDs, and MODSEQs, of a mailbox as damages of the journal may have held: a client may know them,
/// the index need not. `unread`: records that verify, of at most `payload_max` bytes each, and cannot be
/// read.
pub(super) fn gap(report: &RecoveryReport, unread: usize, payload_max: usize) -> u32 {
    if report.damage_count > report.damages.len() as u64 {
        return UID_GAP;
    }
    let lost = |d: &Damage| match u64::from(d.to.saturating_sub(d.from)) {
        // The whole segment is missing.
        0 => u64::from(UID_GAP),
        bytes => bytes.div_ceil(ITEM_LEAST),
    };
    let unread = (unread as u64).saturating_mul(payload_max as u64).div_ceil(ITEM_LEAST);
    let all = report.damages.iter().map(lost).fold(unread, u64::saturating_add);
    all.min(u64::from(UID_GAP)) as u32
}

/// Counts all messages anew, in rows and in what lies over them: when what was lost and what was found
/// may not fit together. `gap`: so many UIDs and MODSEQs of each mailbox are passed over, and no expunges
/// are known any more. Returns mailboxes whose counters were not right: the journal says otherwise, and
/// must be told.
pub(super) async fn recount<T: Table>(table: &T, shard: &mut Shard, gap: u32) -> io::Result<Vec<MailboxId>> {
    let mut wrong = Vec::new();
    let mut counts: BTreeMap<MailboxId, Status> = BTreeMap::new();
    let mut add = |mailbox: MailboxId, m: &Message| {
        let s = counts.entry(mailbox).or_default();
        s.messages += 1;
        s.unseen += u32::from(m.is_unseen());
        s.deleted += u32::from(m.flags.has(Flags::DELETED));
        s.bytes += u64::from(m.size);
        s.uidnext = s.uidnext.max(m.uid.saturating_add(1));
        s.highest_modseq = s.highest_modseq.max(m.modseq);
    };
    super::opening::each_row(table, row::MESSAGES, |key, value| {
        if shard.ledger.get(&key).is_none() {
            let m = record::parse_row(key.b() as u32, value).map_err(|_| io::ErrorKind::InvalidData)?;
            add(MailboxId(key.a() as u32), &m);
        }
        Ok(())
    })
    .await?;
    let all: Vec<MailboxId> =
        shard.directory.accounts().flat_map(|(_, a)| a.mailboxes.values().copied()).collect();
    for mailbox in &all {
        for (uid, value) in shard.ledger.over(row::MESSAGES, u64::from(mailbox.0)) {
            let m = value.and_then(|value| record::parse_row(uid as u32, value).ok());
            m.into_iter().for_each(|m| add(*mailbox, &m));
        }
    }
    for mailbox in all {
        let Some(m) = shard.directory.mailbox(mailbox) else { continue };
        let (known, counted) = (m.status, counts.get(&mailbox).copied().unwrap_or_default());
        let status = Status {
            uidvalidity: known.uidvalidity,
            uidnext: known.uidnext.max(counted.uidnext).saturating_add(gap),
            highest_modseq: known.highest_modseq.max(counted.highest_modseq) + u64::from(gap),
            mailbox,
            ..counted
        };
        if status != known {
            shard.directory.count(status);
            if let Some(m) = shard.directory.mailbox_mut(mailbox).filter(|_| gap > 0) {
                m.kept_from = status.highest_modseq;
            }
            shard.ledger.touch(Key::mailbox(mailbox), None);
            wrong.push(mailbox);
        }
    }
    Ok(wrong)
}

/// Rows of accounts and mailboxes.
async fn write_directory<T: Table>(
    table: &T,
    shard: &mut Shard,
    found: &Found,
    homes: &BTreeMap<u32, Place>,
) -> io::Result<()> {
    let mut changes = Changes::new();
    let accounts: Vec<_> = shard.directory.accounts().map(|(id, a)| (id, a.mailboxes.clone())).collect();
    for (id, mailboxes) in accounts {
        for mailbox in mailboxes.values() {
            let counted = found.counts.get(mailbox).copied().unwrap_or_default();
            let Some(m) = shard.directory.mailbox(*mailbox) else { continue };
            let status = Status {
                mailbox: *mailbox,
                uidvalidity: m.status.uidvalidity,
                uidnext: m.status.uidnext.max(counted.uidnext).saturating_add(UID_GAP),
                highest_modseq: m.status.highest_modseq.max(counted.highest_modseq) + u64::from(UID_GAP),
                ..counted
            };
            shard.directory.count(status);
            if let Some(m) = shard.directory.mailbox_mut(*mailbox) {
                // What was expunged is not known any more.
                m.kept_from = status.highest_modseq;
                // Nor who has been told of what is there: it is old mail, most likely.
                m.fresh = Fresh::above(status.uidnext);
            }
            let value = shard.directory.mailbox_row(*mailbox).map(|r| r.encode());
            value.into_iter().for_each(|row| changes.put(&Key::mailbox(*mailbox).bytes(), &row));
        }
        if let Some(mut row) = shard.directory.account_row(id) {
            row.home = homes.get(&id.0).copied().unwrap_or_default();
            changes.put(&Key::account(id).bytes(), &row.encode());
        }
        if changes.len() >= BATCH {
            table.commit(std::mem::take(&mut changes)).await?;
        }
    }
    table.commit(changes).await
}

#[cfg(test)]
mod tests {
    use super::*;

    fn damage(from: u32, to: u32) -> Damage {
        Damage { sequence: 1, from, to, first_batch: 1, next_batch: 2, ids: Vec::new() }
    }

    #[test]
    fn as_many_are_passed_over_as_the_damage_may_have_held() {
        let damages = vec![damage(4096, 8192), damage(8192, 8193)];
        let mut report = RecoveryReport { damage_count: 2, damages, ..RecoveryReport::default() };
        assert_eq!(gap(&report, 0, 1 << 20), 256 + 1);
        assert_eq!(gap(&report, 1, 160), 256 + 1 + 10, "a record that cannot be read");
        report.damages[1] = damage(0, 0);
        assert_eq!(gap(&report, 0, 1 << 20), UID_GAP, "a segment is missing");
        report.damages.pop();
        assert_eq!(gap(&report, 0, 1 << 20), UID_GAP, "more than are named");
        assert_eq!(gap(&RecoveryReport::default(), 0, 1 << 20), 0);
    }
}
