//! STATUS (RFC 9051 §6.3.11) and its items, also those of RFC 7162, 7889, 8438, 8474.

use super::Parsed;
use super::input::{Input, capitals};
use super::mailbox::{self, Mailbox};

/// Items of STATUS. A set.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Items(pub u16);

impl Items {
    /// MESSAGES.
    pub const MESSAGES: Items = Items(1);
    /// RECENT (RFC 3501).
    pub const RECENT: Items = Items(2);
    /// UIDNEXT.
    pub const UIDNEXT: Items = Items(4);
    /// UIDVALIDITY.
    pub const UIDVALIDITY: Items = Items(8);
    /// UNSEEN.
    pub const UNSEEN: Items = Items(16);
    /// DELETED.
    pub const DELETED: Items = Items(32);
    /// SIZE (RFC 8438).
    pub const SIZE: Items = Items(64);
    /// HIGHESTMODSEQ (RFC 7162).
    pub const HIGHESTMODSEQ: Items = Items(128);
    /// APPENDLIMIT (RFC 7889).
    pub const APPENDLIMIT: Items = Items(256);
    /// MAILBOXID (RFC 8474).
    pub const MAILBOXID: Items = Items(512);
    /// DELETED-STORAGE (RFC 9208).
    pub const DELETED_STORAGE: Items = Items(1024);

    /// Their names, in the order in which they are answered.
    pub const NAMES: [(Items, &'static str); 11] = [
        (Items::MESSAGES, "MESSAGES"),
        (Items::RECENT, "RECENT"),
        (Items::UIDNEXT, "UIDNEXT"),
        (Items::UIDVALIDITY, "UIDVALIDITY"),
        (Items::UNSEEN, "UNSEEN"),
        (Items::DELETED, "DELETED"),
        (Items::SIZE, "SIZE"),
        (Items::HIGHESTMODSEQ, "HIGHESTMODSEQ"),
        (Items::APPENDLIMIT, "APPENDLIMIT"),
        (Items::MAILBOXID, "MAILBOXID"),
        (Items::DELETED_STORAGE, "DELETED-STORAGE"),
    ];

    /// All of `other` are in it.
    #[must_use]
    pub fn has(self, other: Items) -> bool {
        self.0 & other.0 == other.0
    }
}

/// STATUS.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Status<'a> {
    /// Which mailbox.
    pub mailbox: Mailbox<'a>,
    /// What of it.
    pub items: Items,
}

pub(super) fn status<'a>(input: &mut Input<'a>) -> Parsed<Status<'a>> {
    let mailbox = mailbox::spaced(input)?;
    input.space("a list of items")?;
    let items = items(input)?;
    input.end()?;
    Ok(Status { mailbox, items })
}

/// `(item item)`.
pub(super) fn items(input: &mut Input<'_>) -> Parsed<Items> {
    const ITEM: &str = "an item of STATUS, such as MESSAGES or UIDNEXT";
    input.need(b'(', "a list of items")?;
    let mut items = Items::default();
    loop {
        let from = input.at();
        let mut space = [0; 24];
        let word = capitals(input.word(), &mut space);
        match Items::NAMES.iter().find(|(_, name)| word == name.as_bytes()) {
            Some((item, _)) => items.0 |= item.0,
            None => return input.bad_at(from, ITEM),
        }
        if input.eat(b')') {
            return Ok(items);
        }
        input.space("a space between items, or )")?;
    }
}
