//! L1: operations on mailboxes as bytes: the records of a shard's journal and of its archive.
//!
//! Knows the layout and nothing of journals, time or sessions. An operation is one record (or, if it is
//! longer than a record can be, a row of them from [`FIRST`] to one without [`MORE`]) with a list of
//! [`Item`]s. Items are absolute: each says how one thing is from now on, never by how much it changed,
//! so that to read some of them twice changes nothing. Every reader is total: arbitrary bytes give
//! [`Malformed`], never a panic and never an allocation that the bytes did not pay for.
//!
//! * [`MESSAGE`]: a body, and items (who has it). Its id is the body's.
//! * [`CHANGE`]: items. Its id is that of the operation, from the same numbers.
//! * [`ACCOUNT`]: only in the archive: items, all that is to be known of an account and its mailboxes.

use crate::base::time::Wall;
use crate::mailbox::types::{
    AccountId, BodyId, DeliveryId, Flags, Guid, Keywords, MailboxId, Message, Quota, SpecialUse, Status,
    UIDL_MAX,
};
use crate::mailbox::wire::{Input, put, put_bytes, put_step};
use crate::message::body::BodyFlags;

pub use crate::mailbox::wire::Malformed;

/// Kind of a record with a body.
pub const MESSAGE: u8 = 1;
/// Kind of a record without one.
pub const CHANGE: u8 = 2;
/// Kind of a record of the archive: an account.
pub const ACCOUNT: u8 = 3;
/// Version of all kinds; a reader refuses others.
pub const VERSION: u8 = 1;
/// Flag in a record's head: an operation begins here. One that has not ended before never was.
pub const FIRST: u16 = 1;
/// Flag in a record's head: the operation goes on in the next record.
pub const MORE: u16 = 2;

/// Length of the fixed part of a message record in bytes.
pub const HEAD_LEN: usize = 44;

/// One thing that is so from now on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Item<'a> {
    /// An account is there.
    Account {
        /// Which.
        id: AccountId,
        /// Its name.
        name: &'a str,
        /// What it may hold.
        quota: Quota,
        /// It is being removed: it has no name any more, and its mailboxes go.
        removed: bool,
    },
    /// An account is gone. Its mailboxes went before.
    AccountGone(AccountId),
    /// A mailbox is there.
    Mailbox {
        /// Which.
        id: MailboxId,
        /// Whose.
        account: AccountId,
        /// Its name.
        name: &'a str,
        /// Its UIDVALIDITY.
        uidvalidity: u32,
        /// What it is for.
        special: Option<SpecialUse>,
    },
    /// A mailbox is gone. Its messages were expunged before.
    MailboxGone(MailboxId),
    /// A name is subscribed, or not.
    Subscription {
        /// By whom.
        account: AccountId,
        /// The name.
        name: &'a str,
        /// Whether it is.
        on: bool,
    },
    /// A keyword of a mailbox.
    Keyword {
        /// Of which.
        mailbox: MailboxId,
        /// Its bit.
        bit: u8,
        /// The keyword.
        name: &'a str,
    },
    /// Counters of a mailbox after the operation. (Its UIDVALIDITY stands elsewhere and is 0 here.)
    Counters(Status),
    /// A message is so: it is new, or changed.
    Message {
        /// In which mailbox.
        mailbox: MailboxId,
        /// All of it.
        message: Message,
    },
    /// A message is gone.
    Expunged {
        /// From which mailbox.
        mailbox: MailboxId,
        /// Its UID.
        uid: u32,
        /// MODSEQ of the operation.
        modseq: u64,
        /// Its body.
        body: BodyId,
        /// Its marks.
        marks: u8,
        /// When.
        when: Wall,
    },
    /// This hand-over has been taken.
    Delivery {
        /// Which.
        id: DeliveryId,
        /// When.
        when: Wall,
    },
    /// What was expunged from a mailbox up to this MODSEQ is not known: it came from elsewhere.
    Forgotten {
        /// From which.
        mailbox: MailboxId,
        /// Up to which MODSEQ.
        modseq: u64,
    },
}

const T_ACCOUNT: u8 = 1;
const T_ACCOUNT_GONE: u8 = 2;
const T_MAILBOX: u8 = 3;
const T_MAILBOX_GONE: u8 = 4;
const T_SUBSCRIPTION: u8 = 5;
const T_KEYWORD: u8 = 6;
const T_COUNTERS: u8 = 7;
const T_MESSAGE: u8 = 8;
const T_EXPUNGED: u8 = 9;
const T_DELIVERY: u8 = 10;
const T_FORGOTTEN: u8 = 11;

/// What numbers of items are told apart from: those of the item before.
#[derive(Clone, Copy, Default, Debug)]
struct Last {
    mailbox: u64,
    uid: u64,
    modseq: u64,
    body: u64,
    internal: u64,
    when: u64,
}

/// A list of items in the making.
#[derive(Clone, Default, Debug)]
pub struct Items {
    bytes: Vec<u8>,
    last: Last,
    count: usize,
}

impl Items {
    /// The bytes so far.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Number of items.
    #[must_use]
    pub fn len(&self) -> usize {
        self.count
    }

    /// True if there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Adds an item.
    pub fn push(&mut self, item: &Item<'_>) {
        self.count += 1;
        let Items { bytes: out, last, .. } = self;
        match *item {
            Item::Account { id, name, quota, removed } => {
                out.extend_from_slice(&[T_ACCOUNT, u8::from(removed)]);
                put(out, u64::from(id.0));
                put(out, quota.bytes);
                put(out, quota.messages);
                put_bytes(out, name.as_bytes());
            }
            Item::AccountGone(id) => {
                out.push(T_ACCOUNT_GONE);
                put(out, u64::from(id.0));
            }
            Item::Mailbox { id, account, name, uidvalidity, special } => {
                out.extend_from_slice(&[T_MAILBOX, special.map_or(0, |s| s as u8)]);
                put_step(out, &mut last.mailbox, u64::from(id.0));
                put(out, u64::from(account.0));
                put(out, u64::from(uidvalidity));
                put_bytes(out, name.as_bytes());
            }
            Item::MailboxGone(id) => {
                out.push(T_MAILBOX_GONE);
                put_step(out, &mut last.mailbox, u64::from(id.0));
            }
            Item::Subscription { account, name, on } => {
                out.extend_from_slice(&[T_SUBSCRIPTION, u8::from(on)]);
                put(out, u64::from(account.0));
                put_bytes(out, name.as_bytes());
            }
            Item::Keyword { mailbox, bit, name } => {
                out.extend_from_slice(&[T_KEYWORD, bit]);
                put_step(out, &mut last.mailbox, u64::from(mailbox.0));
                put_bytes(out, name.as_bytes());
            }
            Item::Counters(s) => {
                out.push(T_COUNTERS);
                put_step(out, &mut last.mailbox, u64::from(s.mailbox.0));
                put_step(out, &mut last.modseq, s.highest_modseq);
                put_counters(out, &s);
            }
            Item::Message { mailbox, message } => {
                out.push(T_MESSAGE);
                put_step(out, &mut last.mailbox, u64::from(mailbox.0));
                put_message(out, last, &message);
            }
            Item::Expunged { mailbox, uid, modseq, body, marks, when } => {
                out.extend_from_slice(&[T_EXPUNGED, marks]);
                put_step(out, &mut last.mailbox, u64::from(mailbox.0));
                put_step(out, &mut last.uid, u64::from(uid));
                put_step(out, &mut last.modseq, modseq);
                put_step(out, &mut last.body, body.0);
                put_step(out, &mut last.when, when.0);
            }
            Item::Delivery { id, when } => {
                out.push(T_DELIVERY);
                put(out, u64::from(id.log));
                put_step(out, &mut last.body, id.message);
                put(out, u64::from(id.recipient));
                put_step(out, &mut last.when, when.0);
            }
            Item::Forgotten { mailbox, modseq } => {
                out.push(T_FORGOTTEN);
                put_step(out, &mut last.mailbox, u64::from(mailbox.0));
                put_step(out, &mut last.modseq, modseq);
            }
        }
    }
}

fn put_counters(out: &mut Vec<u8>, s: &Status) {
    for n in [s.uidnext, s.messages, s.unseen, s.deleted] {
        put(out, u64::from(n));
    }
    put(out, s.bytes);
}

fn counters(input: &mut Input<'_>, mailbox: u32, highest_modseq: u64) -> Result<Status, Malformed> {
    Ok(Status {
        mailbox: MailboxId(mailbox),
        uidvalidity: 0,
        highest_modseq,
        uidnext: input.small()?,
        messages: input.small()?,
        unseen: input.small()?,
        deleted: input.small()?,
        bytes: input.number()?,
        recent: 0,
    })
}

fn put_message(out: &mut Vec<u8>, last: &mut Last, m: &Message) {
    out.extend_from_slice(&[m.flags.0, m.facts.0, m.marks]);
    put_step(out, &mut last.uid, u64::from(m.uid));
    put_step(out, &mut last.modseq, m.modseq);
    put_step(out, &mut last.body, m.body.0);
    put_step(out, &mut last.internal, m.internal.0);
    put_step(out, &mut last.when, m.saved.0);
    put(out, u64::from(m.size));
    put(out, m.keywords.0);
}

fn message(input: &mut Input<'_>, last: &mut Last) -> Result<Message, Malformed> {
    let &[flags, facts, marks] = input.take(3)? else { return Err(Malformed) };
    if flags & !Flags::ALL.0 != 0 {
        return Err(Malformed);
    }
    Ok(Message {
        flags: Flags(flags),
        facts: BodyFlags(facts),
        marks,
        uid: input.small_step(&mut last.uid)?,
        modseq: input.step(&mut last.modseq)?,
        body: BodyId(input.step(&mut last.body)?),
        internal: Wall(input.step(&mut last.internal)?),
        saved: Wall(input.step(&mut last.when)?),
        size: input.small()?,
        keywords: Keywords(input.number()?),
    })
}

/// In the first byte of a row, beside the flags: it has the present form. At first that was the one of items.
const COMPACT: u8 = 0x80;

/// A message as a value of its own (a row of the index), without mailbox and UID.
pub fn put_row(out: &mut Vec<u8>, m: &Message) {
    out.extend_from_slice(&[m.flags.0 | COMPACT, m.facts.0, m.marks]);
    put(out, m.modseq);
    put(out, m.saved.0);
    // Ids of bodies are times, mostly this one.
    put_step(out, &mut (m.saved.0 << 20), m.body.0);
    put_step(out, &mut { m.saved.0 }, m.internal.0);
    put(out, u64::from(m.size));
    put(out, m.keywords.0);
}

/// Reads what [`put_row`] wrote for the message `uid`.
pub fn parse_row(uid: u32, bytes: &[u8]) -> Result<Message, Malformed> {
    let mut input = Input(bytes);
    let m = match bytes.first() {
        Some(first) if first & COMPACT != 0 => compact_row(&mut input, uid)?,
        _ => message(&mut input, &mut Last { uid: u64::from(uid), ..Last::default() })?,
    };
    if input.is_empty() && m.uid == uid { Ok(m) } else { Err(Malformed) }
}

fn compact_row(input: &mut Input<'_>, uid: u32) -> Result<Message, Malformed> {
    let &[flags, facts, marks] = input.take(3)? else { return Err(Malformed) };
    let flags = Flags(flags & !COMPACT);
    if !Flags::ALL.has(flags) {
        return Err(Malformed);
    }
    let (modseq, mut saved) = (input.number()?, input.number()?);
    Ok(Message {
        modseq,
        saved: Wall(saved),
        body: BodyId(input.step(&mut (saved << 20))?),
        internal: Wall(input.step(&mut saved)?),
        size: input.small()?,
        keywords: Keywords(input.number()?),
        uid,
        flags,
        facts: BodyFlags(facts),
        marks,
    })
}

/// A list of items, read in place.
#[derive(Clone, Copy, Debug)]
pub struct ItemsView<'a>(&'a [u8]);

impl<'a> ItemsView<'a> {
    /// Reads the whole of `bytes`.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, Malformed> {
        let (mut input, mut last) = (Input(bytes), Last::default());
        while !input.is_empty() {
            item(&mut input, &mut last)?;
        }
        Ok(ItemsView(bytes))
    }

    /// The bytes it was read from.
    #[must_use]
    pub fn bytes(&self) -> &'a [u8] {
        self.0
    }

    /// The items, as written.
    pub fn iter(&self) -> impl Iterator<Item = Item<'a>> + use<'a> {
        let (mut input, mut last) = (Input(self.0), Last::default());
        std::iter::from_fn(move || if input.is_empty() { None } else { item(&mut input, &mut last).ok() })
    }
}

fn flag(b: u8) -> Result<bool, Malformed> {
    match b {
        0 => Ok(false),
        1 => Ok(true),
        _ => Err(Malformed),
    }
}

fn item<'a>(input: &mut Input<'a>, last: &mut Last) -> Result<Item<'a>, Malformed> {
    Ok(match input.byte()? {
        T_ACCOUNT => {
            let removed = flag(input.byte()?)?;
            let id = AccountId(input.small()?);
            let quota = Quota { bytes: input.number()?, messages: input.number()? };
            Item::Account { id, name: input.text()?, quota, removed }
        }
        T_ACCOUNT_GONE => Item::AccountGone(AccountId(input.small()?)),
        T_MAILBOX => {
            let special = match input.byte()? {
                0 => None,
                n => Some(SpecialUse::of(n).ok_or(Malformed)?),
            };
            let id = MailboxId(input.small_step(&mut last.mailbox)?);
            let (account, uidvalidity) = (AccountId(input.small()?), input.small()?);
            Item::Mailbox { id, account, name: input.text()?, uidvalidity, special }
        }
        T_MAILBOX_GONE => Item::MailboxGone(MailboxId(input.small_step(&mut last.mailbox)?)),
        T_SUBSCRIPTION => {
            let on = flag(input.byte()?)?;
            Item::Subscription { account: AccountId(input.small()?), name: input.text()?, on }
        }
        T_KEYWORD => {
            let bit = Some(input.byte()?).filter(|b| *b < 64).ok_or(Malformed)?;
            Item::Keyword {
                bit,
                mailbox: MailboxId(input.small_step(&mut last.mailbox)?),
                name: input.text()?,
            }
        }
        T_COUNTERS => {
            let mailbox = input.small_step(&mut last.mailbox)?;
            let modseq = input.step(&mut last.modseq)?;
            Item::Counters(counters(input, mailbox, modseq)?)
        }
        T_MESSAGE => {
            let mailbox = MailboxId(input.small_step(&mut last.mailbox)?);
            Item::Message { mailbox, message: message(input, last)? }
        }
        T_EXPUNGED => Item::Expunged {
            marks: input.byte()?,
            mailbox: MailboxId(input.small_step(&mut last.mailbox)?),
            uid: input.small_step(&mut last.uid)?,
            modseq: input.step(&mut last.modseq)?,
            body: BodyId(input.step(&mut last.body)?),
            when: Wall(input.step(&mut last.when)?),
        },
        T_DELIVERY => {
            let log = u16::try_from(input.number()?).map_err(|_| Malformed)?;
            let message = input.step(&mut last.body)?;
            let id = DeliveryId { log, message, recipient: input.small()? };
            Item::Delivery { id, when: Wall(input.step(&mut last.when)?) }
        }
        T_FORGOTTEN => Item::Forgotten {
            mailbox: MailboxId(input.small_step(&mut last.mailbox)?),
            modseq: input.step(&mut last.modseq)?,
        },
        _ => return Err(Malformed),
    })
}

/// The fixed part of a message record.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct BodyHead {
    /// GUID.
    pub guid: Guid,
    /// Bytes of all the content.
    pub size: u64,
    /// Number of the side file with the rest of the content; 0: all of it is in the record.
    pub side: u64,
    /// Facts about the content.
    pub facts: BodyFlags,
}

impl BodyHead {
    /// The stored head; the lengths are those of the parts that follow it: items, UIDL, summary.
    #[must_use]
    pub fn encode(&self, items: usize, uidl: usize, summary: usize) -> [u8; HEAD_LEN] {
        let mut out = [0; HEAD_LEN];
        out[..16].copy_from_slice(&self.guid.0);
        out[16..24].copy_from_slice(&self.size.to_le_bytes());
        out[24..32].copy_from_slice(&self.side.to_le_bytes());
        for (at, n) in [(32, items), (36, summary)] {
            let n = u32::try_from(n).expect("parts of a record are below 4 GiB");
            out[at..at + 4].copy_from_slice(&n.to_le_bytes());
        }
        assert!(uidl <= UIDL_MAX, "checked where it came in");
        out[40..42].copy_from_slice(&[self.facts.0, uidl as u8]);
        out
    }
}

/// A message record, read in place.
#[derive(Clone, Copy, Debug)]
pub struct BodyView<'a> {
    /// The fixed part.
    pub head: BodyHead,
    /// The items.
    pub items: ItemsView<'a>,
    /// The UIDL it was imported with, or empty.
    pub uidl: &'a [u8],
    /// What was made of it at delivery.
    pub summary: &'a [u8],
    /// The content, or the part of it before the side file.
    pub content: &'a [u8],
}

impl<'a> BodyView<'a> {
    /// Reads the payload of a message record.
    pub fn parse(payload: &'a [u8]) -> Result<Self, Malformed> {
        let mut input = Input(payload);
        let h = input.take(HEAD_LEN)?;
        let u32_at = |at: usize| h[at..at + 4].try_into().map(u32::from_le_bytes).map_err(|_| Malformed);
        let u64_at = |at: usize| h[at..at + 8].try_into().map(u64::from_le_bytes).map_err(|_| Malformed);
        let head = BodyHead {
            guid: Guid(h[..16].try_into().map_err(|_| Malformed)?),
            size: u64_at(16)?,
            side: u64_at(24)?,
            facts: BodyFlags(h[40]),
        };
        let (items, uidl, summary) = (u32_at(32)? as usize, usize::from(h[41]), u32_at(36)? as usize);
        if uidl > UIDL_MAX || h[42..] != [0; 2] {
            return Err(Malformed);
        }
        let items = ItemsView::parse(input.take(items)?)?;
        let (uidl, summary) = (input.take(uidl)?, input.take(summary)?);
        let here = input.0.len() as u64;
        let fits = if head.side == 0 { here == head.size } else { here <= head.size };
        if !fits {
            return Err(Malformed);
        }
        Ok(BodyView { head, items, uidl, summary, content: input.0 })
    }
}

/// The items of a record of any kind, and its body if it has one.
pub fn parse(
    kind: u8,
    version: u8,
    payload: &[u8],
) -> Result<(ItemsView<'_>, Option<BodyView<'_>>), Malformed> {
    match (kind, version) {
        (MESSAGE, VERSION) => BodyView::parse(payload).map(|b| (b.items, Some(b))),
        (CHANGE | ACCOUNT, VERSION) => ItemsView::parse(payload).map(|items| (items, None)),
        _ => Err(Malformed),
    }
}

/// For the fuzzer: nothing may panic, and what reads must write to the same bytes.
pub fn fuzz_entry(data: &[u8]) {
    if let Ok(items) = ItemsView::parse(data) {
        let mut again = Items::default();
        items.iter().for_each(|i| again.push(&i));
        assert_eq!(again.bytes(), data);
    }
    if let Ok(b) = BodyView::parse(data) {
        let items = b.items.bytes();
        let head = b.head.encode(items.len(), b.uidl.len(), b.summary.len());
        assert_eq!([&head[..], items, b.uidl, b.summary, b.content].concat(), data);
    }
    if let Ok(m) = parse_row(5, data) {
        let mut again = Vec::new();
        match data[0] & COMPACT {
            0 => put_message(&mut again, &mut Last { uid: 5, ..Last::default() }, &m),
            _ => put_row(&mut again, &m),
        }
        assert_eq!(again, data);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn sample_message(n: u64) -> Message {
        Message {
            modseq: 1000 - n % 7,
            keywords: Keywords(n.wrapping_mul(n)),
            body: BodyId(0x9000_0000_0000_0000 ^ n << 20),
            internal: Wall(1_767_225_600_000 + n),
            saved: Wall(1_767_225_600_000 - n * 5),
            uid: u32::MAX - n as u32,
            size: (n as u32).wrapping_mul(77),
            flags: Flags(n as u8 & 31),
            facts: BodyFlags(n as u8 & 15),
            marks: n as u8 & 3,
        }
    }

    fn sample() -> Vec<Item<'static>> {
        let (mailbox, account) = (MailboxId(9), AccountId(3));
        let status = Status {
            mailbox,
            uidvalidity: 0,
            uidnext: 44,
            highest_modseq: u64::MAX,
            messages: 4,
            unseen: 3,
            deleted: 2,
            bytes: 1 << 40,
            recent: 0,
        };
        let quota = Quota { bytes: u64::MAX, messages: 7 };
        let id = DeliveryId { log: 2703, message: u64::MAX, recipient: 99 };
        vec![
            Item::Account { id: account, name: "a@b.example", quota, removed: false },
            Item::Mailbox { id: mailbox, account, name: "Caf\u{e9}/x", uidvalidity: 1, special: None },
            Item::Mailbox {
                id: MailboxId(1),
                account,
                name: "T",
                uidvalidity: u32::MAX,
                special: Some(SpecialUse::Trash),
            },
            Item::Subscription { account, name: "INBOX", on: true },
            Item::Keyword { mailbox, bit: 63, name: "$Junk" },
            Item::Message { mailbox, message: sample_message(1) },
            Item::Message { mailbox, message: sample_message(200) },
            Item::Expunged { mailbox, uid: 3, modseq: 8, body: BodyId(4), marks: 1, when: Wall(6) },
            Item::Delivery { id, when: Wall(5) },
            Item::Forgotten { mailbox, modseq: 7 },
            Item::Counters(status),
            Item::MailboxGone(mailbox),
            Item::AccountGone(account),
        ]
    }

    fn encoded() -> Items {
        let mut items = Items::default();
        sample().iter().for_each(|i| items.push(i));
        items
    }

    #[test]
    fn items_read_back_and_no_cut_is_taken_for_the_whole() {
        let items = encoded();
        let view = ItemsView::parse(items.bytes()).unwrap();
        assert_eq!(view.iter().collect::<Vec<_>>(), sample());
        for cut in 0..items.bytes().len() {
            let short = ItemsView::parse(&items.bytes()[..cut]).map_or(0, |v| v.iter().count());
            assert!(short < sample().len(), "cut at {cut}");
        }
        let small = Item::Message { mailbox: MailboxId(9), message: sample_message(3) };
        let mut pair = Items::default();
        pair.push(&small);
        let first = pair.bytes().len();
        pair.push(&small);
        assert!(first <= 48 && pair.bytes().len() - first <= 18, "{first}, {}", pair.bytes().len());
    }

    #[test]
    fn a_body_reads_back_and_its_parts_must_fit() {
        let items = encoded();
        let head = BodyHead { guid: Guid([7; 16]), size: 4, side: 0, facts: BodyFlags(3) };
        let bytes =
            [&head.encode(items.bytes().len(), 4, 3), items.bytes(), b"uidl", b"sum", b"body"].concat();
        let (view, body) = parse(MESSAGE, VERSION, &bytes).unwrap();
        let body = body.unwrap();
        assert_eq!(
            (body.head, body.uidl, body.summary, body.content),
            (head, &b"uidl"[..], &b"sum"[..], &b"body"[..])
        );
        assert_eq!(view.iter().count(), items.len());
        assert!((0..bytes.len()).all(|cut| BodyView::parse(&bytes[..cut]).is_err()));
        assert!(parse(MESSAGE, 2, &bytes).is_err() && parse(9, VERSION, &bytes).is_err());
    }

    proptest! {
        #[test]
        fn readers_are_total(bytes in proptest::collection::vec(any::<u8>(), 0..120)) {
            fuzz_entry(&bytes);
        }

        #[test]
        fn damaged_records_never_panic(at: usize, with: u8) {
            let items = encoded();
            let head = BodyHead { size: 4, ..BodyHead::default() };
            let mut bytes = [&head.encode(items.bytes().len(), 0, 0), items.bytes(), b"body"].concat();
            let at = at % bytes.len();
            bytes[at] = with;
            fuzz_entry(&bytes);
            fuzz_entry(&bytes[HEAD_LEN..]);
        }

        #[test]
        fn rows_read_back(n in 0u64..u64::MAX >> 30, uid: u32) {
            let m = Message { uid, ..sample_message(n) };
            let mut row = Vec::new();
            put_row(&mut row, &m);
            prop_assert_eq!(parse_row(uid, &row), Ok(m));
            prop_assert!(parse_row(uid, &row[..row.len() - 1]).is_err());
            // As it was written by the first versions.
            let mut old = Vec::new();
            put_message(&mut old, &mut Last { uid: u64::from(uid), ..Last::default() }, &m);
            prop_assert_eq!(parse_row(uid, &old), Ok(m));
        }
    }
}
