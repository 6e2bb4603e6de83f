//! L1: rows of a shard's index: keys in their order, and what the values are.
//!
//! Every reader is total: arbitrary bytes give [`Malformed`], never a panic and never an allocation that
//! the bytes did not pay for. `docs/storage.md` has the list of keys.

use crate::base::time::Wall;
use crate::mailbox::fresh::Fresh;
use crate::mailbox::types::{
    AccountId, BodyId, DeliveryId, Guid, MailboxId, Quota, SpecialUse, Status, UIDL_MAX, UidSet,
};
use crate::mailbox::wire::{Input, Malformed, put, put_bytes, put_step};
use crate::storage::archive::Place;
use smallvec::SmallVec;

/// Version of the form of rows.
const VERSION: u8 = 1;
/// Version of the form of rows of mailboxes. The first one does not know what is fresh.
const MAILBOX_VERSION: u8 = 2;
/// The key of [`Meta`].
pub const META: &[u8] = b"z";

/// What a row is about. Ordered as its bytes are.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Key {
    tag: u8,
    a: u64,
    b: u64,
}

/// Tag of accounts.
pub const ACCOUNTS: u8 = b'a';
/// Tag of bodies in the archive.
pub const BODIES: u8 = b'b';
/// Tag of hand-overs taken.
pub const DELIVERIES: u8 = b'd';
/// Tag of expunges.
pub const EXPUNGES: u8 = b'e';
/// Tag of messages.
pub const MESSAGES: u8 = b'm';
/// Length of their keys.
pub const MESSAGE_LEN: usize = 9;
/// Tag of references to bodies that several messages have.
pub const REFERENCES: u8 = b'r';
/// Tag of mailboxes.
pub const MAILBOXES: u8 = b'x';

impl Key {
    /// An account.
    #[must_use]
    pub fn account(id: AccountId) -> Self {
        Key { tag: ACCOUNTS, a: u64::from(id.0), b: 0 }
    }

    /// A mailbox.
    #[must_use]
    pub fn mailbox(id: MailboxId) -> Self {
        Key { tag: MAILBOXES, a: u64::from(id.0), b: 0 }
    }

    /// A message.
    #[must_use]
    pub fn message(mailbox: MailboxId, uid: u32) -> Self {
        Key { tag: MESSAGES, a: u64::from(mailbox.0), b: u64::from(uid) }
    }

    /// The expunges of one operation.
    #[must_use]
    pub fn expunge(mailbox: MailboxId, modseq: u64) -> Self {
        Key { tag: EXPUNGES, a: u64::from(mailbox.0), b: modseq }
    }

    /// A body in the archive.
    #[must_use]
    pub fn body(id: BodyId) -> Self {
        Key { tag: BODIES, a: id.0, b: 0 }
    }

    /// That a message has a body.
    #[must_use]
    pub fn reference(body: BodyId, mailbox: MailboxId, uid: u32) -> Self {
        Key { tag: REFERENCES, a: body.0, b: u64::from(mailbox.0) << 32 | u64::from(uid) }
    }

    /// A hand-over that was taken.
    #[must_use]
    pub fn delivery(id: DeliveryId) -> Self {
        Key { tag: DELIVERIES, a: id.message, b: u64::from(id.log) << 32 | u64::from(id.recipient) }
    }

    /// What it is about: one of the tags of this module.
    #[must_use]
    pub fn tag(&self) -> u8 {
        self.tag
    }

    /// The number of account or mailbox, the id of the body or the message.
    #[must_use]
    pub fn a(&self) -> u64 {
        self.a
    }

    /// The UID, the MODSEQ, or the rest.
    #[must_use]
    pub fn b(&self) -> u64 {
        self.b
    }

    /// The hand-over that it is about, if it is one.
    #[must_use]
    pub fn delivery_id(&self) -> DeliveryId {
        DeliveryId { log: (self.b >> 32) as u16, message: self.a, recipient: self.b as u32 }
    }

    /// Bytes of the two numbers.
    fn widths(tag: u8) -> Option<(usize, usize)> {
        Some(match tag {
            ACCOUNTS | MAILBOXES => (4, 0),
            BODIES => (8, 0),
            DELIVERIES | REFERENCES => (8, 8),
            EXPUNGES => (4, 8),
            MESSAGES => (4, 4),
            _ => return None,
        })
    }

    /// As stored: the tag, then both numbers, big endian, as wide as the tag has them.
    #[must_use]
    pub fn bytes(&self) -> SmallVec<[u8; 24]> {
        let (a, b) = Self::widths(self.tag).expect("a tag of ours");
        let mut out = SmallVec::new();
        out.push(self.tag);
        out.extend_from_slice(&self.a.to_be_bytes()[8 - a..]);
        out.extend_from_slice(&self.b.to_be_bytes()[8 - b..]);
        out
    }

    /// Reads a key.
    #[must_use]
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        let (&tag, rest) = bytes.split_first()?;
        let (a, b) = Self::widths(tag)?;
        if rest.len() != a + b {
            return None;
        }
        Some(Key { tag, a: number(&rest[..a])?, b: number(&rest[a..])? })
    }
}

/// A number of a key: none, four or eight bytes, big endian.
#[must_use]
pub fn number(bytes: &[u8]) -> Option<u64> {
    Some(match *bytes {
        [] => 0,
        [a, b, c, d] => u64::from(u32::from_be_bytes([a, b, c, d])),
        _ => u64::from_be_bytes(bytes.try_into().ok()?),
    })
}

/// The start of the keys of all messages, or all expunges, of a mailbox; of all references to a body.
#[must_use]
pub fn prefix(tag: u8, a: u64) -> SmallVec<[u8; 24]> {
    let mut bytes = Key { tag, a, b: 0 }.bytes();
    let (width, _) = Key::widths(tag).expect("a tag of ours");
    bytes.truncate(1 + width);
    bytes
}

/// The least and the greatest key that start with [`prefix`].
#[must_use]
pub fn range(tag: u8, a: u64) -> (Key, Key) {
    (Key { tag, a, b: 0 }, Key { tag, a, b: u64::MAX })
}

/// What an index says of itself.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Meta {
    /// The log that it belongs to.
    pub log: [u8; 16],
    /// Number of its last transaction.
    pub mark: u64,
    /// No id of the shard was greater then.
    pub last: u64,
    /// The greatest number of an account so far.
    pub account: u32,
    /// The greatest number of a mailbox so far.
    pub mailbox: u32,
    /// The greatest UIDVALIDITY so far.
    pub uidvalidity: u32,
    /// Bodies were taken from journal segments up to this sequence.
    pub through: u64,
}

impl Meta {
    /// As stored.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = vec![VERSION];
        out.extend_from_slice(&self.log);
        put(&mut out, self.mark);
        put(&mut out, self.last);
        for n in [self.account, self.mailbox, self.uidvalidity] {
            put(&mut out, u64::from(n));
        }
        put(&mut out, self.through);
        out
    }

    /// Reads it.
    pub fn parse(bytes: &[u8]) -> Result<Self, Malformed> {
        let mut i = Input(bytes);
        version(&mut i)?;
        let meta = Meta {
            log: i.take(16)?.try_into().map_err(|_| Malformed)?,
            mark: i.number()?,
            last: i.number()?,
            account: i.small()?,
            mailbox: i.small()?,
            uidvalidity: i.small()?,
            through: i.number()?,
        };
        if i.is_empty() { Ok(meta) } else { Err(Malformed) }
    }
}

fn version(i: &mut Input<'_>) -> Result<(), Malformed> {
    if i.byte()? == VERSION { Ok(()) } else { Err(Malformed) }
}

fn end<T>(i: Input<'_>, value: T) -> Result<T, Malformed> {
    if i.is_empty() { Ok(value) } else { Err(Malformed) }
}

/// An account as a row.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct AccountRow {
    /// Its name.
    pub name: String,
    /// What it may hold.
    pub quota: Quota,
    /// It is being removed.
    pub removed: bool,
    /// Where in the archive all is that must be known of it; nowhere: not yet.
    pub home: Place,
    /// The names it is subscribed to.
    pub subscribed: Vec<String>,
}

impl AccountRow {
    /// As stored.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = vec![VERSION, u8::from(self.removed)];
        put_bytes(&mut out, self.name.as_bytes());
        put(&mut out, self.quota.bytes);
        put(&mut out, self.quota.messages);
        put_place(&mut out, self.home);
        self.subscribed.iter().for_each(|name| put_bytes(&mut out, name.as_bytes()));
        out
    }

    /// Reads it.
    pub fn parse(bytes: &[u8]) -> Result<Self, Malformed> {
        let mut i = Input(bytes);
        version(&mut i)?;
        let mut row = AccountRow {
            removed: i.byte()? != 0,
            name: i.text()?.to_owned(),
            quota: Quota { bytes: i.number()?, messages: i.number()? },
            home: place(&mut i)?,
            subscribed: Vec::new(),
        };
        while !i.is_empty() {
            row.subscribed.push(i.text()?.to_owned());
        }
        Ok(row)
    }
}

fn put_place(out: &mut Vec<u8>, at: Place) {
    [at.segment, at.offset, at.len].into_iter().for_each(|n| put(out, u64::from(n)));
}

fn place(i: &mut Input<'_>) -> Result<Place, Malformed> {
    Ok(Place { segment: i.small()?, offset: i.small()?, len: i.small()? })
}

/// A mailbox as a row.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct MailboxRow {
    /// Whose.
    pub account: AccountId,
    /// Its name.
    pub name: String,
    /// What it is for.
    pub special: Option<SpecialUse>,
    /// Its counters.
    pub status: Status,
    /// All expunges with a greater MODSEQ have rows.
    pub kept_from: u64,
    /// Messages that no session has been told of.
    pub fresh: Fresh,
    /// Its keywords, by bit.
    pub keywords: Vec<String>,
}

impl MailboxRow {
    /// As stored.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let s = &self.status;
        let mut out = vec![MAILBOX_VERSION, self.special.map_or(0, |u| u as u8)];
        put(&mut out, u64::from(self.account.0));
        put_bytes(&mut out, self.name.as_bytes());
        for n in [s.uidvalidity, s.uidnext, s.messages, s.unseen, s.deleted] {
            put(&mut out, u64::from(n));
        }
        [s.bytes, s.highest_modseq, self.kept_from].into_iter().for_each(|n| put(&mut out, n));
        self.fresh.put(&mut out);
        self.keywords.iter().for_each(|k| put_bytes(&mut out, k.as_bytes()));
        out
    }

    /// Reads that of `mailbox`.
    pub fn parse(mailbox: MailboxId, bytes: &[u8]) -> Result<Self, Malformed> {
        let mut i = Input(bytes);
        let version = i.byte()?;
        if version != VERSION && version != MAILBOX_VERSION {
            return Err(Malformed);
        }
        let special = match i.byte()? {
            0 => None,
            n => Some(SpecialUse::of(n).ok_or(Malformed)?),
        };
        let (account, name) = (AccountId(i.small()?), i.text()?.to_owned());
        let status = Status {
            mailbox,
            uidvalidity: i.small()?,
            uidnext: i.small()?,
            messages: i.small()?,
            unseen: i.small()?,
            deleted: i.small()?,
            bytes: i.number()?,
            highest_modseq: i.number()?,
            recent: 0,
        };
        let kept_from = i.number()?;
        let fresh = match version {
            VERSION => Fresh::above(status.uidnext),
            _ => Fresh::parse(&mut i)?,
        };
        let mut row = MailboxRow { account, name, special, status, kept_from, fresh, keywords: Vec::new() };
        while !i.is_empty() {
            row.keywords.push(i.text()?.to_owned());
        }
        Ok(row)
    }
}

/// A body in the archive as a row.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct BodyRow<'a> {
    /// Where it is.
    pub place: Place,
    /// Number of its side file; 0: none.
    pub side: u64,
    /// GUID.
    pub guid: Guid,
    /// The UIDL it was imported with, or empty.
    pub uidl: &'a [u8],
    /// What was made of it at delivery.
    pub summary: &'a [u8],
}

impl<'a> BodyRow<'a> {
    /// As stored.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = vec![VERSION];
        put_place(&mut out, self.place);
        put(&mut out, self.side);
        out.extend_from_slice(&self.guid.0);
        put_bytes(&mut out, self.uidl);
        put_bytes(&mut out, self.summary);
        out
    }

    /// Reads it.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, Malformed> {
        let mut i = Input(bytes);
        version(&mut i)?;
        let row = BodyRow {
            place: place(&mut i)?,
            side: i.number()?,
            guid: Guid(i.take(16)?.try_into().map_err(|_| Malformed)?),
            uidl: i.bytes()?,
            summary: i.bytes()?,
        };
        if row.uidl.len() > UIDL_MAX { Err(Malformed) } else { end(i, row) }
    }
}

/// The expunges of one operation as a row.
#[must_use]
pub fn expunge_row(when: Wall, uids: &UidSet) -> Vec<u8> {
    let mut out = vec![VERSION];
    put(&mut out, when.0);
    let mut last = 0;
    for (from, to) in uids.ranges() {
        put_step(&mut out, &mut last, u64::from(*from));
        put_step(&mut out, &mut last, u64::from(*to));
    }
    out
}

/// Reads it.
pub fn parse_expunge(bytes: &[u8]) -> Result<(Wall, UidSet), Malformed> {
    let mut i = Input(bytes);
    version(&mut i)?;
    let when = Wall(i.number()?);
    let (mut last, mut ranges) = (0, Vec::new());
    while !i.is_empty() {
        ranges.push((i.small_step(&mut last)?, i.small_step(&mut last)?));
    }
    Ok((when, UidSet::of(ranges)))
}

/// When a hand-over was taken, as a row.
#[must_use]
pub fn when_row(when: Wall) -> Vec<u8> {
    let mut out = vec![VERSION];
    put(&mut out, when.0);
    out
}

/// Reads it.
pub fn parse_when(bytes: &[u8]) -> Result<Wall, Malformed> {
    let mut i = Input(bytes);
    version(&mut i)?;
    let when = Wall(i.number()?);
    end(i, when)
}

/// For the fuzzer: nothing may panic.
pub fn fuzz_entry(data: &[u8]) {
    if let Some(key) = Key::parse(data) {
        assert_eq!(key.bytes()[..], *data);
    }
    let _ = (Meta::parse(data), AccountRow::parse(data), MailboxRow::parse(MailboxId(1), data));
    let _ = (BodyRow::parse(data), parse_expunge(data), parse_when(data));
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn rows_read_back() {
        let meta =
            Meta { log: [3; 16], mark: 9, last: 1 << 60, account: 4, mailbox: 5, uidvalidity: 6, through: 7 };
        assert_eq!(Meta::parse(&meta.encode()), Ok(meta));
        let account = AccountRow {
            name: "a@b.example".to_owned(),
            quota: Quota { bytes: 1 << 30, messages: 5 },
            removed: true,
            home: Place { segment: 1, offset: 2, len: 3 },
            subscribed: vec!["INBOX".to_owned(), "\u{e9}".to_owned()],
        };
        assert_eq!(AccountRow::parse(&account.encode()), Ok(account));
        let mailbox = MailboxRow {
            account: AccountId(7),
            name: "x/y".to_owned(),
            special: Some(SpecialUse::Junk),
            status: Status {
                mailbox: MailboxId(8),
                uidvalidity: 1,
                uidnext: 2,
                highest_modseq: 3,
                messages: 4,
                unseen: 5,
                deleted: 6,
                bytes: 7,
                recent: 0,
            },
            kept_from: 9,
            fresh: Fresh::above(2),
            keywords: vec!["$Junk".to_owned()],
        };
        let bytes = mailbox.encode();
        assert_eq!(MailboxRow::parse(MailboxId(8), &bytes), Ok(mailbox.clone()));
        // As it was written by the first versions: all there is has been told of.
        let mut old = bytes.clone();
        old[0] = VERSION;
        let at = old.windows(3).position(|w| w == [9, 2, 0]).expect("behind the history") + 1;
        old.drain(at..at + 2);
        assert_eq!(MailboxRow::parse(MailboxId(8), &old), Ok(mailbox));
        old[0] = 3;
        assert_eq!(MailboxRow::parse(MailboxId(8), &old), Err(Malformed));
        let body = BodyRow { side: 5, uidl: b"u", summary: b"sum", ..BodyRow::default() };
        assert_eq!(BodyRow::parse(&body.encode()), Ok(body));
        let uids = UidSet::of([(1, 5), (9, 9)]);
        assert_eq!(parse_expunge(&expunge_row(Wall(8), &uids)), Ok((Wall(8), uids)));
    }

    proptest! {
        #[test]
        fn keys_are_in_the_order_of_their_bytes(
            numbers in proptest::collection::vec((0u8..7, 0u64..300, 0u64..300), 2),
        ) {
            let key = |&(tag, a, b): &(u8, u64, u64)| match tag {
                0 => Key::account(AccountId(a as u32)),
                1 => Key::mailbox(MailboxId(a as u32)),
                2 => Key::message(MailboxId(a as u32), b as u32),
                3 => Key::expunge(MailboxId(a as u32), b),
                4 => Key::body(BodyId(a)),
                5 => Key::reference(BodyId(a), MailboxId(b as u32), a as u32),
                _ => Key::delivery(DeliveryId { log: b as u16, message: a, recipient: b as u32 }),
            };
            let (a, b) = (key(&numbers[0]), key(&numbers[1]));
            prop_assert_eq!(a.cmp(&b), a.bytes().cmp(&b.bytes()));
            prop_assert_eq!(Key::parse(&a.bytes()), Some(a));
            prop_assert!(a.bytes().starts_with(&prefix(a.tag(), a.a())));
        }

        #[test]
        fn readers_are_total(bytes in proptest::collection::vec(any::<u8>(), 0..80)) {
            fuzz_entry(&bytes);
        }
    }
}
