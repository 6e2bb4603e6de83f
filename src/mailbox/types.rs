//! L1: what the mailbox store talks about: ids, flags, messages, sets of UIDs. Plain values.
//!
//! Knows no bytes on disk and no protocol; limits stand here because everybody must keep them.

use crate::base::time::Wall;
use crate::message::body::BodyFlags;
use smallvec::SmallVec;
use std::fmt;

/// Longest name of an account in bytes.
pub const ACCOUNT_NAME_MAX: usize = 320;
/// Keywords of one mailbox at most: one bit each in [`Keywords`].
pub const KEYWORDS_MAX: usize = 64;
/// Longest keyword in bytes.
pub const KEYWORD_LEN_MAX: usize = 100;
/// Longest POP3 UIDL in bytes (RFC 1939 §7).
pub const UIDL_MAX: usize = 70;
/// Mailboxes of one account at most.
pub const MAILBOXES_MAX: usize = 10_000;

/// An account within its shard. From 1, never used twice.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct AccountId(pub u32);

/// A mailbox within its shard; keeps its id when it is renamed. From 1, never used twice. With the id of
/// the shard's log it makes a MAILBOXID (RFC 8474).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct MailboxId(pub u32);

/// A stored body within its shard: the same for all messages that are copies of one another, so that it
/// makes an EMAILID (RFC 8474). Grows with time, never used twice, never 0.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct BodyId(pub u64);

/// Names a message in the whole world; copies share it. Imported, or made of log id and body id.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Guid(pub [u8; 16]);

/// A hand-over from a queue to a mailbox. A shard takes each once, also over crashes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct DeliveryId {
    /// Number of the queue's log.
    pub log: u16,
    /// Id of the message in it.
    pub message: u64,
    /// Position of the recipient in its envelope.
    pub recipient: u32,
}

/// System flags of a message. `\Recent` is no flag here: it is of a session, not of a message.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Flags(pub u8);

impl Flags {
    /// `\Seen`
    pub const SEEN: Flags = Flags(1);
    /// `\Answered`
    pub const ANSWERED: Flags = Flags(2);
    /// `\Flagged`
    pub const FLAGGED: Flags = Flags(4);
    /// `\Deleted`
    pub const DELETED: Flags = Flags(8);
    /// `\Draft`
    pub const DRAFT: Flags = Flags(16);
    /// All there are.
    pub const ALL: Flags = Flags(31);

    /// Whether all of `other` are set.
    #[must_use]
    pub fn has(self, other: Flags) -> bool {
        self.0 & other.0 == other.0
    }

    /// These and `other`.
    #[must_use]
    pub fn with(self, other: Flags) -> Flags {
        Flags(self.0 | other.0)
    }

    /// These without `other`.
    #[must_use]
    pub fn without(self, other: Flags) -> Flags {
        Flags(self.0 & !other.0)
    }
}

/// Keywords of a message: bit `n` is the mailbox's keyword number `n`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Keywords(pub u64);

/// A message in a mailbox: what is resident of it while the mailbox is open (at most 64 bytes).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Message {
    /// When it was last changed; greater than those of all earlier changes of the mailbox (RFC 7162).
    pub modseq: u64,
    /// Its keywords.
    pub keywords: Keywords,
    /// Its body.
    pub body: BodyId,
    /// INTERNALDATE: when it came in.
    pub internal: Wall,
    /// SAVEDATE: when it came into this mailbox.
    pub saved: Wall,
    /// Its UID.
    pub uid: u32,
    /// Exact size in bytes with CRLF line ends, as it is sent: RFC822.SIZE, POP3 LIST.
    pub size: u32,
    /// System flags.
    pub flags: Flags,
    /// Facts about the body, for example whether lines begin with a dot.
    pub facts: BodyFlags,
    /// [`Message::SHARED`], [`Message::UIDL`].
    pub marks: u8,
}

const _: () = assert!(size_of::<Message>() <= 64);

impl Message {
    /// Mark: other messages may have the same body.
    pub const SHARED: u8 = 1;
    /// Mark: it has a UIDL of its own, kept with the body; else it is made of UIDVALIDITY and UID.
    pub const UIDL: u8 = 2;

    /// Whether it counts as unseen.
    #[must_use]
    pub fn is_unseen(&self) -> bool {
        !self.flags.has(Flags::SEEN)
    }
}

/// What a mailbox is for (RFC 6154). One mailbox of an account at most has each.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[repr(u8)]
pub enum SpecialUse {
    /// `\Archive`
    Archive = 1,
    /// `\Drafts`
    Drafts = 2,
    /// `\Junk`
    Junk = 3,
    /// `\Sent`
    Sent = 4,
    /// `\Trash`
    Trash = 5,
}

impl SpecialUse {
    /// All of them.
    pub const ALL: [SpecialUse; 5] =
        [SpecialUse::Archive, SpecialUse::Drafts, SpecialUse::Junk, SpecialUse::Sent, SpecialUse::Trash];

    /// The one stored as `n`.
    #[must_use]
    pub fn of(n: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|u| *u as u8 == n)
    }
}

/// How much an account may hold; 0: no limit.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Quota {
    /// Bytes of all messages, each counted in each mailbox it is in.
    pub bytes: u64,
    /// Messages.
    pub messages: u64,
}

/// What an account holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Usage {
    /// Bytes of all messages.
    pub bytes: u64,
    /// Messages.
    pub messages: u64,
    /// What it may hold.
    pub quota: Quota,
}

impl Usage {
    /// Whether so many messages of so many bytes together fit besides.
    #[must_use]
    pub fn admits(&self, messages: u64, bytes: u64) -> bool {
        let fits = |have: u64, more: u64, max: u64| max == 0 || have.saturating_add(more) <= max;
        fits(self.bytes, bytes, self.quota.bytes) && fits(self.messages, messages, self.quota.messages)
    }
}

/// Counters of a mailbox: all of STATUS, without opening it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Status {
    /// The mailbox.
    pub mailbox: MailboxId,
    /// Never the same for two mailboxes that have had the same name in one account.
    pub uidvalidity: u32,
    /// The UID of the next message; greater than all there ever were.
    pub uidnext: u32,
    /// The greatest MODSEQ of any change, 1 at least.
    pub highest_modseq: u64,
    /// Messages.
    pub messages: u32,
    /// Of these, without `\Seen`.
    pub unseen: u32,
    /// Of these, with `\Deleted`.
    pub deleted: u32,
    /// Bytes of all messages.
    pub bytes: u64,
    /// Messages that no session has been told of (RFC 3501 §2.3.2). Only in answers: no record has it.
    pub recent: u32,
}

/// A set of UIDs: ranges with both ends in it, ascending, with gaps between them.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct UidSet(SmallVec<[(u32, u32); 4]>);

impl UidSet {
    /// The set of these ranges, in any order; an end may stand before its start, as in IMAP.
    #[must_use]
    pub fn of(ranges: impl IntoIterator<Item = (u32, u32)>) -> Self {
        let mut all: SmallVec<[(u32, u32); 4]> =
            ranges.into_iter().map(|(a, b)| (a.min(b), a.max(b))).collect();
        all.sort_unstable();
        let mut set = UidSet::default();
        all.into_iter().for_each(|r| set.add(r));
        set
    }

    /// Every UID there can be.
    #[must_use]
    pub fn all() -> Self {
        Self::of([(1, u32::MAX)])
    }

    fn add(&mut self, (from, to): (u32, u32)) {
        match self.0.last_mut() {
            Some(last) if from <= last.1.saturating_add(1) => last.1 = last.1.max(to),
            _ => self.0.push((from, to)),
        }
    }

    /// Adds a UID.
    pub fn insert(&mut self, uid: u32) {
        if self.0.last().is_none_or(|last| last.1 <= uid) {
            return self.add((uid, uid));
        }
        let at = self.0.partition_point(|r| r.1 < uid);
        if self.0[at].0 <= uid {
            return;
        }
        let meets_next = self.0[at].0 == uid + 1;
        match at.checked_sub(1).filter(|before| self.0[*before].1 + 1 == uid) {
            Some(before) if meets_next => {
                self.0[before].1 = self.0[at].1;
                self.0.remove(at);
            }
            Some(before) => self.0[before].1 = uid,
            None if meets_next => self.0[at].0 = uid,
            None => self.0.insert(at, (uid, uid)),
        }
    }

    /// Takes a UID out.
    pub fn remove(&mut self, uid: u32) {
        let at = self.0.partition_point(|r| r.1 < uid);
        let Some(&(from, to)) = self.0.get(at).filter(|r| r.0 <= uid) else { return };
        match (from == uid, to == uid) {
            (true, true) => drop(self.0.remove(at)),
            (true, false) => self.0[at].0 = uid + 1,
            (false, true) => self.0[at].1 = uid - 1,
            (false, false) => {
                self.0[at].1 = uid - 1;
                self.0.insert(at + 1, (uid + 1, to));
            }
        }
    }

    /// Takes all UIDs below `from` out.
    pub fn cut(&mut self, from: u32) {
        self.0.retain(|r| r.1 >= from);
        if let Some(first) = self.0.first_mut() {
            first.0 = first.0.max(from);
        }
    }

    /// Adds a range of UIDs that are greater than all in the set.
    pub fn push_range(&mut self, from: u32, to: u32) {
        assert!(from <= to && self.0.last().is_none_or(|l| l.1 < from), "in ascending order");
        self.add((from, to));
    }

    /// Adds a UID that is not smaller than any in the set.
    pub fn push(&mut self, uid: u32) {
        assert!(self.0.last().is_none_or(|l| l.1 <= uid), "in ascending order");
        self.add((uid, uid));
    }

    /// The ranges.
    #[must_use]
    pub fn ranges(&self) -> &[(u32, u32)] {
        &self.0
    }

    /// Whether `uid` is in it.
    #[must_use]
    pub fn has(&self, uid: u32) -> bool {
        let after = self.0.partition_point(|r| r.0 <= uid);
        after > 0 && uid <= self.0[after - 1].1
    }

    /// True if there is nothing in it.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Number of UIDs.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.0.iter().map(|r| u64::from(r.1 - r.0) + 1).sum()
    }

    /// The UIDs, ascending.
    pub fn iter(&self) -> impl Iterator<Item = u32> {
        self.0.iter().flat_map(|r| r.0..=r.1)
    }
}

impl FromIterator<u32> for UidSet {
    fn from_iter<T: IntoIterator<Item = u32>>(uids: T) -> Self {
        UidSet::of(uids.into_iter().map(|u| (u, u)))
    }
}

impl fmt::Display for UidSet {
    /// As IMAP writes it: `1:3,7`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, (from, to)) in self.0.iter().enumerate() {
            let comma = if i > 0 { "," } else { "" };
            match from == to {
                true => write!(f, "{comma}{from}")?,
                false => write!(f, "{comma}{from}:{to}")?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn sets_are_ranges_in_order() {
        let set = UidSet::of([(9, 7), (1, 2), (3, 3), (8, 12), (20, 20)]);
        assert_eq!(set.ranges(), [(1, 3), (7, 12), (20, 20)]);
        assert_eq!((set.to_string().as_str(), set.len()), ("1:3,7:12,20", 10));
        let members: BTreeSet<u32> = set.iter().collect();
        assert!((0..30).all(|u| set.has(u) == members.contains(&u)));
        assert_eq!(members.iter().copied().collect::<UidSet>(), set);
        assert!(UidSet::default().is_empty() && !UidSet::default().has(1) && UidSet::all().has(u32::MAX));
    }

    #[test]
    fn quotas() {
        let mut usage = Usage { bytes: 90, messages: 9, quota: Quota { bytes: 100, messages: 10 } };
        assert!(usage.admits(1, 10) && !usage.admits(1, 11) && !usage.admits(2, 1));
        usage.quota = Quota::default();
        assert!(usage.admits(u64::MAX, u64::MAX));
    }
}
