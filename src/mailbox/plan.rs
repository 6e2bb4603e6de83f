//! L2: operations as they are planned: what is asked, against all that is committed or staged, becomes
//! the list of items of a record. A plan changes nothing; it must be staged before anything else is planned.
//!
//! No IO, async or clock. Messages are changed only in opened mailboxes, one operation at a time for each
//! (the shell sees to that); new ones may come in meanwhile. Who asks for what cannot be is told why.

use crate::base::time::Wall;
use crate::mailbox::api::{Alter, Appended, Copied, Refusal, Stored, Target};
use crate::mailbox::name;
use crate::mailbox::opened::Opened;
use crate::mailbox::record::{BodyHead, Item, Items};
use crate::mailbox::shard::Shard;
use crate::mailbox::types::{
    ACCOUNT_NAME_MAX, AccountId, BodyId, Flags, Guid, KEYWORD_LEN_MAX, KEYWORDS_MAX, Keywords, MAILBOXES_MAX,
    MailboxId, Message, Quota, SpecialUse, Status, UidSet,
};
use crate::message::body::BodyFlags;
use std::collections::BTreeMap;

pub mod import;

/// Bytes of items of one operation at most; half a million messages and more.
pub const OPERATION_MAX: usize = 16 << 20;
/// Records of one operation at most: all of them must find room in the journal's waiting batches.
const PARTS_MAX: usize = 96;

/// One record of an operation.
#[derive(Debug)]
pub struct Part {
    /// Its id.
    pub id: u64,
    /// The fixed part of the body that it carries.
    pub body: Option<BodyHead>,
    /// Items.
    pub items: Items,
}

/// An operation.
#[derive(Debug, Default)]
pub struct Plan {
    /// Its records, in order.
    pub parts: Vec<Part>,
}

impl Plan {
    /// Bytes of all items.
    #[must_use]
    pub fn len(&self) -> usize {
        self.parts.iter().map(|p| p.items.bytes().len()).sum()
    }

    /// True if it does nothing.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.parts.iter().all(|p| p.body.is_none() && p.items.is_empty())
    }
}

/// What is known of a new message.
#[derive(Clone, Copy, Debug)]
pub struct NewMessage {
    /// Bytes.
    pub size: u64,
    /// Facts about the content.
    pub facts: BodyFlags,
    /// INTERNALDATE.
    pub internal: Wall,
    /// Its GUID, if it has one.
    pub guid: Option<Guid>,
    /// It comes with a UIDL.
    pub uidl: bool,
    /// Its side file; 0: none.
    pub side: u64,
}

/// An operation in the making.
pub struct Draft<'a> {
    shard: &'a Shard,
    now: Wall,
    /// Bytes of items in one record at most.
    limit: usize,
    plan: Plan,
    /// Counters of mailboxes that it touches.
    counters: BTreeMap<MailboxId, Status>,
    /// Names of keywords that it adds.
    keywords: BTreeMap<MailboxId, Vec<String>>,
    /// Bytes and messages that accounts get.
    grown: BTreeMap<AccountId, (u64, u64)>,
    last: u64,
    mailbox: u32,
    uidvalidity: u32,
}

impl<'a> Draft<'a> {
    /// Nothing yet. Records have at most `limit` bytes of items.
    #[must_use]
    pub fn new(shard: &'a Shard, now: Wall, limit: usize) -> Self {
        Draft {
            shard,
            now,
            limit,
            plan: Plan::default(),
            counters: BTreeMap::new(),
            keywords: BTreeMap::new(),
            grown: BTreeMap::new(),
            last: shard.last,
            mailbox: shard.mailbox,
            uidvalidity: shard.uidvalidity,
        }
    }

    /// Ids are times, as far as they can be: 44 bits of milliseconds, 20 of sequence.
    fn next_id(&mut self) -> u64 {
        self.last = (self.now.0 << 20).max(self.last + 1);
        self.last
    }

    fn part(&mut self, body: Option<BodyHead>) -> &mut Part {
        let id = self.next_id();
        self.plan.parts.push(Part { id, body, items: Items::default() });
        self.plan.parts.last_mut().expect("just pushed")
    }

    fn push(&mut self, item: &Item<'_>) {
        let full = self.plan.parts.last().is_none_or(|p| p.items.bytes().len() + 1100 > self.limit);
        let part = if full { self.part(None) } else { self.plan.parts.last_mut().expect("there is one") };
        part.items.push(item);
    }

    /// The counters of a mailbox as the operation leaves them. At the first touch it gets its MODSEQ.
    fn counters(&mut self, mailbox: MailboxId) -> Result<&mut Status, Refusal> {
        if !self.counters.contains_key(&mailbox) {
            let mut status = self.shard.ahead(mailbox).ok_or(Refusal::NoMailbox)?;
            status.highest_modseq += 1;
            self.counters.insert(mailbox, status);
        }
        Ok(self.counters.get_mut(&mailbox).expect("just put"))
    }

    /// A message comes into a mailbox; gives its UID.
    fn add(&mut self, mailbox: MailboxId, message: Message) -> Result<Appended, Refusal> {
        let (now, s) = (self.now, self.counters(mailbox)?);
        if s.uidnext == u32::MAX {
            return Err(Refusal::Limit);
        }
        let at = Appended { mailbox, uidvalidity: s.uidvalidity, uid: s.uidnext };
        let message = Message { uid: s.uidnext, modseq: s.highest_modseq, saved: now, ..message };
        s.uidnext += 1;
        count(s, &message, true);
        self.push(&Item::Message { mailbox, message });
        Ok(at)
    }

    /// A message leaves a mailbox.
    fn remove(&mut self, mailbox: MailboxId, m: &Message) -> Result<(), Refusal> {
        let (when, s) = (self.now, self.counters(mailbox)?);
        count(s, m, false);
        let modseq = s.highest_modseq;
        self.push(&Item::Expunged { mailbox, uid: m.uid, modseq, body: m.body, marks: m.marks, when });
        Ok(())
    }

    /// The operation, with the counters that it leaves.
    pub fn finish(mut self) -> Result<Plan, Refusal> {
        for status in std::mem::take(&mut self.counters).into_values() {
            self.push(&Item::Counters(status));
        }
        if self.plan.parts.is_empty() {
            self.part(None);
        }
        let large = self.plan.parts.len() > PARTS_MAX || self.plan.len() > OPERATION_MAX;
        if large { Err(Refusal::Limit) } else { Ok(self.plan) }
    }

    fn fits(&mut self, account: AccountId, messages: u64, bytes: u64) -> Result<(), Refusal> {
        let usage = self.shard.usage_ahead(account).ok_or(Refusal::NoAccount)?;
        let grown = self.grown.entry(account).or_default();
        let (more, all) = (grown.0 + bytes, grown.1 + messages);
        if !usage.admits(all, more) {
            return Err(Refusal::OverQuota);
        }
        *grown = (more, all);
        Ok(())
    }

    /// The mailbox of an account.
    pub fn find(&self, account: AccountId, mailbox: &str) -> Result<MailboxId, Refusal> {
        let owner = self.shard.directory.account(account).filter(|a| !a.removed);
        let owner = owner.ok_or(Refusal::NoAccount)?;
        let name = name::canonical(mailbox).ok_or(Refusal::NoMailbox)?;
        let found = owner.find(&name).filter(|id| !self.shard.is_doomed(*id));
        found.ok_or(Refusal::NoMailbox)
    }

    fn opened(&self, mailbox: MailboxId) -> Result<&'a Opened, Refusal> {
        self.shard.opened(mailbox).filter(|o| !o.is_deleted()).ok_or(Refusal::NoMailbox)
    }

    /// Begins with a new body.
    fn body(&mut self, m: &NewMessage, log: [u8; 16]) -> Result<Message, Refusal> {
        let size = u32::try_from(m.size).map_err(|_| Refusal::Limit)?;
        let head = BodyHead { guid: Guid::default(), size: m.size, side: m.side, facts: m.facts };
        let part = self.part(Some(head));
        let id = BodyId(part.id);
        part.body = Some(BodyHead { guid: m.guid.unwrap_or_else(|| guid(log, id)), ..head });
        let marks = if m.uidl { Message::UIDL } else { 0 };
        Ok(Message { body: id, size, facts: m.facts, internal: m.internal, marks, ..Message::default() })
    }

    /// A delivery: one answer per target. `log`: the shard's.
    pub fn deliver(
        &mut self,
        m: &NewMessage,
        targets: &[Target<'_>],
        log: [u8; 16],
    ) -> Vec<Result<Option<Appended>, Refusal>> {
        let message = match self.body(m, log) {
            Ok(message) => message,
            Err(refusal) => return targets.iter().map(|_| Err(refusal)).collect(),
        };
        let mut accepted: Vec<Result<Option<MailboxId>, Refusal>> =
            targets.iter().map(|t| self.accept(t, m.size)).collect();
        // A hand-over that is named twice is one.
        for n in 1..targets.len() {
            let twice = targets[n].id.is_some() && targets[..n].iter().any(|t| t.id == targets[n].id);
            if twice && accepted[n].is_ok() {
                accepted[n] = Ok(None);
            }
        }
        let taken = accepted.iter().flatten().flatten().count();
        if taken == 0 {
            // The body is for nobody.
            self.plan.parts.clear();
        }
        let many = taken > 1;
        let marks = message.marks | if many { Message::SHARED } else { 0 };
        let when = self.now;
        accepted
            .into_iter()
            .zip(targets)
            .map(|(accepted, t)| {
                let Some(mailbox) = accepted? else { return Ok(None) };
                let at = self.add(mailbox, Message { flags: t.flags, marks, ..message })?;
                if let Some(id) = t.id {
                    self.push(&Item::Delivery { id, when });
                }
                Ok(Some(at))
            })
            .collect()
    }

    /// Where a target's message goes; `None`: it has been there already.
    fn accept(&mut self, t: &Target<'_>, size: u64) -> Result<Option<MailboxId>, Refusal> {
        if t.id.is_some_and(|id| self.shard.has_taken(&id)) {
            return Ok(None);
        }
        let wanted =
            if t.mailbox.is_empty() { Err(Refusal::NoMailbox) } else { self.find(t.account, t.mailbox) };
        let mailbox = match wanted {
            Err(Refusal::NoMailbox) => self.find(t.account, name::INBOX)?,
            other => other?,
        };
        if !t.promised {
            self.fits(t.account, 1, size)?;
        }
        Ok(Some(mailbox))
    }

    /// One of the messages of an APPEND.
    pub fn append(
        &mut self,
        account: AccountId,
        mailbox: MailboxId,
        m: &NewMessage,
        (flags, keywords): (Flags, &[&str]),
        log: [u8; 16],
    ) -> Result<Appended, Refusal> {
        self.fits(account, 1, m.size)?;
        let message = self.body(m, log)?;
        let keywords = self.keywords(mailbox, keywords, true)?;
        self.add(mailbox, Message { flags, keywords, ..message })
    }

    /// The bits of keywords; those that are not there yet are added if `make`, else passed over.
    fn keywords(&mut self, mailbox: MailboxId, names: &[&str], make: bool) -> Result<Keywords, Refusal> {
        let known = &self.shard.directory.mailbox(mailbox).ok_or(Refusal::NoMailbox)?.keywords;
        let mut bits = 0;
        for name in names {
            let added = self.keywords.entry(mailbox).or_default();
            let all = known.iter().map(|k| &**k).chain(added.iter().map(String::as_str));
            // RFC 9051 §2.3.2: keywords are the same in any case.
            let bit = match all.clone().position(|k| k.eq_ignore_ascii_case(name)) {
                Some(bit) => bit,
                None if !make => continue,
                None => {
                    let bit = all.count();
                    if bit >= KEYWORDS_MAX || !is_keyword(name) {
                        return Err(Refusal::Limit);
                    }
                    added.push((*name).to_owned());
                    self.push(&Item::Keyword { mailbox, bit: bit as u8, name });
                    bit
                }
            };
            bits |= 1 << bit;
        }
        Ok(Keywords(bits))
    }

    /// STORE.
    pub fn store(
        &mut self,
        mailbox: MailboxId,
        uids: &UidSet,
        (how, flags, keywords): (Alter, Flags, &[&str]),
        unchanged_since: Option<u64>,
    ) -> Result<Stored, Refusal> {
        let opened = self.opened(mailbox)?;
        let keywords = self.keywords(mailbox, keywords, how != Alter::Remove)?;
        let mut stored = Stored::default();
        for m in opened.among(uids) {
            if unchanged_since.is_some_and(|since| m.modseq > since) {
                stored.modified.push(m.uid);
                continue;
            }
            let (flags, keywords) = match how {
                Alter::Add => (m.flags.with(flags), Keywords(m.keywords.0 | keywords.0)),
                Alter::Remove => (m.flags.without(flags), Keywords(m.keywords.0 & !keywords.0)),
                Alter::Replace => (flags, keywords),
            };
            if (flags, keywords) == (m.flags, m.keywords) {
                stored.now.push(*m);
                continue;
            }
            let s = self.counters(mailbox)?;
            let modseq = s.highest_modseq;
            let message = Message { flags, keywords, modseq, ..*m };
            count(s, m, false);
            count(s, &message, true);
            stored.modseq = Some(modseq);
            stored.now.push(message);
            self.push(&Item::Message { mailbox, message });
        }
        Ok(stored)
    }

    /// EXPUNGE; POP3's QUIT with `marked` false.
    pub fn expunge(&mut self, mailbox: MailboxId, uids: &UidSet, marked: bool) -> Result<UidSet, Refusal> {
        let mut gone = UidSet::default();
        for m in self.opened(mailbox)?.among(uids) {
            if !marked || m.flags.has(Flags::DELETED) {
                self.remove(mailbox, m)?;
                gone.push(m.uid);
            }
        }
        Ok(gone)
    }

    /// COPY, or MOVE.
    pub fn copy(
        &mut self,
        from: MailboxId,
        uids: &UidSet,
        to: MailboxId,
        moving: bool,
    ) -> Result<Copied, Refusal> {
        let source = self.shard.directory.mailbox(from).ok_or(Refusal::NoMailbox)?;
        let account = source.account;
        let mut copied = Copied {
            uidvalidity: self.shard.ahead(to).ok_or(Refusal::NoMailbox)?.uidvalidity,
            uids: Vec::new(),
        };
        let mut bits: BTreeMap<u64, Keywords> = BTreeMap::new();
        for m in self.opened(from)?.among(uids) {
            let keywords = match bits.get(&m.keywords.0) {
                _ if from == to => m.keywords,
                Some(known) => *known,
                None => {
                    let set = (0..KEYWORDS_MAX).filter(|bit| m.keywords.0 >> bit & 1 != 0);
                    let names: Vec<&str> =
                        set.filter_map(|bit| source.keywords.get(bit)).map(|k| &**k).collect();
                    let there = self.keywords(to, &names, true)?;
                    bits.insert(m.keywords.0, there);
                    there
                }
            };
            if !moving {
                self.fits(account, 1, u64::from(m.size))?;
            }
            // A copy is another message of a maildrop: it cannot have the same UIDL.
            let marks = if moving { m.marks } else { m.marks & !Message::UIDL | Message::SHARED };
            let at = self.add(to, Message { keywords, marks, ..*m })?;
            copied.uids.push((m.uid, at.uid));
            if moving {
                self.remove(from, m)?;
            } else if m.marks & Message::SHARED == 0 {
                let message = Message { marks: m.marks | Message::SHARED, ..*m };
                self.push(&Item::Message { mailbox: from, message });
            }
        }
        Ok(copied)
    }

    fn mailbox(&mut self, account: AccountId, name: &str, special: Option<SpecialUse>) -> MailboxId {
        // It never repeats in the shard, so never for a name.
        let seconds = u32::try_from(self.now.seconds()).unwrap_or(u32::MAX);
        self.uidvalidity = seconds.max(self.uidvalidity.saturating_add(1));
        self.mailbox += 1;
        let id = MailboxId(self.mailbox);
        let uidvalidity = self.uidvalidity;
        self.push(&Item::Mailbox { id, account, name, uidvalidity, special });
        id
    }

    /// A new account with INBOX and these mailboxes, all subscribed.
    pub fn create_account(
        &mut self,
        name: &str,
        mailboxes: &[(&str, Option<SpecialUse>)],
        quota: Quota,
    ) -> Result<AccountId, Refusal> {
        self.free_account_name(name)?;
        let id = AccountId(self.shard.account.checked_add(1).ok_or(Refusal::Limit)?);
        self.push(&Item::Account { id, name, quota, removed: false });
        let mut names: BTreeMap<String, Option<SpecialUse>> = BTreeMap::new();
        names.insert(name::INBOX.to_owned(), None);
        for (mailbox, special) in mailboxes {
            let mailbox = name::canonical(mailbox).ok_or(Refusal::BadName)?;
            let mut above = name::parent(&mailbox);
            while let Some(parent) = above {
                names.entry(parent.to_owned()).or_default();
                above = name::parent(parent);
            }
            names.insert(mailbox, *special);
        }
        for (mailbox, special) in &names {
            self.mailbox(id, mailbox, *special);
            self.push(&Item::Subscription { account: id, name: mailbox, on: true });
        }
        Ok(id)
    }

    fn free_account_name(&self, name: &str) -> Result<(), Refusal> {
        let sound = !name.is_empty() && name.len() <= ACCOUNT_NAME_MAX && !name.chars().any(char::is_control);
        if !sound {
            return Err(Refusal::BadName);
        }
        if self.shard.directory.named(name).is_some() { Err(Refusal::Exists) } else { Ok(()) }
    }

    /// An account is called so from now on, may hold so much, or is being removed (without a name).
    pub fn change_account(
        &mut self,
        id: AccountId,
        name: Option<&str>,
        quota: Option<Quota>,
        removed: bool,
    ) -> Result<(), Refusal> {
        let account = self.shard.directory.account(id).filter(|a| !a.removed).ok_or(Refusal::NoAccount)?;
        if let Some(name) = name
            && *name != *account.name
        {
            self.free_account_name(name)?;
        }
        let kept: &str = if removed { "" } else { &account.name };
        let (name, quota) = (name.unwrap_or(kept), quota.unwrap_or(account.quota));
        self.push(&Item::Account { id, name, quota, removed });
        Ok(())
    }

    /// An account without mailboxes is gone.
    pub fn end_account(&mut self, id: AccountId) {
        self.push(&Item::AccountGone(id));
    }

    /// CREATE, with all mailboxes above it.
    pub fn create(
        &mut self,
        account: AccountId,
        mailbox: &str,
        special: Option<SpecialUse>,
    ) -> Result<MailboxId, Refusal> {
        let owner = self.shard.directory.account(account).filter(|a| !a.removed).ok_or(Refusal::NoAccount)?;
        let name = name::canonical(mailbox).ok_or(Refusal::BadName)?;
        if owner.find(&name).is_some() {
            return Err(Refusal::Exists);
        }
        let taken = |id: &MailboxId| self.shard.directory.mailbox(*id).and_then(|m| m.special) == special;
        if special.is_some() && owner.mailboxes.values().any(taken) {
            return Err(Refusal::Exists);
        }
        let mut missing = Vec::new();
        let mut above = name::parent(&name);
        while let Some(parent) = above.filter(|p| owner.find(p).is_none()) {
            missing.push(parent);
            above = name::parent(parent);
        }
        if owner.mailboxes.len() + missing.len() >= MAILBOXES_MAX {
            return Err(Refusal::Limit);
        }
        for parent in missing.into_iter().rev() {
            self.mailbox(account, parent, None);
        }
        Ok(self.mailbox(account, &name, special))
    }

    /// The counters of these mailboxes are as they are known now.
    pub fn counted(&mut self, mailboxes: &[MailboxId]) -> Result<(), Refusal> {
        mailboxes.iter().try_for_each(|id| self.counters(*id).map(drop))
    }

    /// A mailbox goes with its messages. It is opened, takes nothing any more, and nothing is staged for it.
    pub fn delete(&mut self, mailbox: MailboxId) -> Result<(), Refusal> {
        let opened = self.opened(mailbox)?;
        for m in opened.among(&UidSet::all()) {
            self.remove(mailbox, m)?;
        }
        self.counters.remove(&mailbox);
        self.push(&Item::MailboxGone(mailbox));
        Ok(())
    }

    /// RENAME; of INBOX: its messages move (it is opened then).
    pub fn rename(&mut self, account: AccountId, mailbox: &str, to: &str) -> Result<(), Refusal> {
        let from = name::canonical(mailbox).ok_or(Refusal::NoMailbox)?;
        let id = self.find(account, &from)?;
        let to = name::canonical(to).ok_or(Refusal::BadName)?;
        if from == name::INBOX {
            let target = self.create(account, &to, None)?;
            return self.empty_into(id, target);
        }
        if name::is_below(&to, &from) {
            return Err(Refusal::BadName);
        }
        let owner = self.shard.directory.account(account).ok_or(Refusal::NoAccount)?;
        let below = owner.mailboxes.iter().filter(|(n, _)| name::is_below(n, &from));
        let moved: Vec<(String, MailboxId)> =
            below.map(|(n, id)| ([&to, &n[from.len()..]].concat(), *id)).chain([(to.clone(), id)]).collect();
        let bad = |(name, _): &(String, MailboxId)| name::canonical(name).is_none();
        if moved.iter().any(bad) {
            return Err(Refusal::BadName);
        }
        if moved.iter().any(|(name, _)| owner.find(name).is_some()) {
            return Err(Refusal::Exists);
        }
        let mut missing = Vec::new();
        let mut above = name::parent(&to);
        while let Some(parent) = above.filter(|p| owner.find(p).is_none()) {
            missing.push(parent);
            above = name::parent(parent);
        }
        for parent in missing.into_iter().rev() {
            self.mailbox(account, parent, None);
        }
        for (name, id) in moved {
            let m = self.shard.directory.mailbox(id).ok_or(Refusal::NoMailbox)?;
            let (uidvalidity, special) = (m.status.uidvalidity, m.special);
            self.push(&Item::Mailbox { id, account, name: &name, uidvalidity, special });
        }
        Ok(())
    }

    /// All messages of `from` go into `target`, which this operation has made.
    fn empty_into(&mut self, from: MailboxId, target: MailboxId) -> Result<(), Refusal> {
        let status = Status {
            mailbox: target,
            uidvalidity: self.uidvalidity,
            uidnext: 1,
            highest_modseq: 2,
            ..Status::default()
        };
        self.counters.insert(target, status);
        let keywords = &self.shard.directory.mailbox(from).ok_or(Refusal::NoMailbox)?.keywords;
        for (bit, name) in keywords.iter().enumerate() {
            self.push(&Item::Keyword { mailbox: target, bit: bit as u8, name });
        }
        for m in self.opened(from)?.among(&UidSet::all()) {
            self.add(target, *m)?;
            self.remove(from, m)?;
        }
        Ok(())
    }

    /// SUBSCRIBE, UNSUBSCRIBE.
    pub fn subscribe(&mut self, account: AccountId, mailbox: &str, on: bool) -> Result<(), Refusal> {
        let owner = self.shard.directory.account(account).filter(|a| !a.removed).ok_or(Refusal::NoAccount)?;
        let name = name::canonical(mailbox).ok_or(Refusal::BadName)?;
        if on && owner.subscribed.len() >= MAILBOXES_MAX {
            return Err(Refusal::Limit);
        }
        self.push(&Item::Subscription { account, name: &name, on });
        Ok(())
    }
}

fn count(s: &mut Status, m: &Message, comes: bool) {
    let step = |n: &mut u32, by: bool| match (by, comes) {
        (false, _) => {}
        (true, true) => *n = n.saturating_add(1),
        (true, false) => *n = n.saturating_sub(1),
    };
    step(&mut s.messages, true);
    step(&mut s.unseen, m.is_unseen());
    step(&mut s.deleted, m.flags.has(Flags::DELETED));
    let size = u64::from(m.size);
    s.bytes = if comes { s.bytes.saturating_add(size) } else { s.bytes.saturating_sub(size) };
}

/// Whether a keyword can be one (RFC 9051 §9: an atom; a backslash begins system flags).
fn is_keyword(name: &str) -> bool {
    let special = |b: u8| b"(){%*\"\\]".contains(&b);
    !name.is_empty()
        && name.len() <= KEYWORD_LEN_MAX
        && name.bytes().all(|b| b.is_ascii_graphic() && !special(b))
}

fn guid(log: [u8; 16], id: BodyId) -> Guid {
    let mut out = log;
    out[8..].copy_from_slice(&id.0.to_be_bytes());
    Guid(out)
}
