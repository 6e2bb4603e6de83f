//! L2: messages that come from elsewhere and keep what they were known by: UIDs, UIDVALIDITY, save dates.
//!
//! No IO, async or clock. A mailbox takes on the identity of another one only as long as it has never had
//! a message; UIDs rise, whoever gives them. Quotas are not asked: what is moved here was accepted elsewhere.

use crate::base::time::Wall;
use crate::mailbox::api::{Appended, Refusal};
use crate::mailbox::plan::{Draft, NewMessage};
use crate::mailbox::record::Item;
use crate::mailbox::types::{Flags, MailboxId, Message};

/// The greatest UIDVALIDITY that is taken over: those given later must find room above it.
pub const UIDVALIDITY_MAX: u32 = 0xf000_0000;

/// By what clients know a mailbox.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Identity {
    /// Its UIDVALIDITY; 0: the one it has.
    pub uidvalidity: u32,
    /// No UID below this one is given any more.
    pub uidnext: u32,
    /// Clients may have seen MODSEQs up to this one; what was expunged before it is not known here.
    pub modseq: u64,
}

/// A message that comes from elsewhere.
#[derive(Clone, Copy, Debug)]
pub struct Arrival<'a> {
    /// What is known of it.
    pub message: NewMessage,
    /// Its flags.
    pub flags: Flags,
    /// Its keywords.
    pub keywords: &'a [&'a str],
    /// Its UID; 0: the next.
    pub uid: u32,
    /// When it came into that mailbox there; `None`: now.
    pub saved: Option<Wall>,
}

impl Draft<'_> {
    /// A mailbox takes on an identity. [`Refusal::Exists`]: it has had messages under another UIDVALIDITY.
    /// [`Refusal::Limit`]: a number is out of range.
    pub fn identify(&mut self, mailbox: MailboxId, to: Identity) -> Result<(), Refusal> {
        let now = self.shard.ahead(mailbox).ok_or(Refusal::NoMailbox)?;
        let known = self.shard.directory.mailbox(mailbox).ok_or(Refusal::NoMailbox)?;
        if to.uidvalidity > UIDVALIDITY_MAX || to.uidnext == u32::MAX || to.modseq > u64::MAX >> 2 {
            return Err(Refusal::Limit);
        }
        if to.uidvalidity != 0 && to.uidvalidity != now.uidvalidity {
            if now.uidnext != 1 {
                return Err(Refusal::Exists);
            }
            let (account, name, special) = (known.account, &*known.name, known.special);
            self.push(&Item::Mailbox { id: mailbox, account, name, uidvalidity: to.uidvalidity, special });
        }
        let s = self.counters(mailbox)?;
        s.uidnext = s.uidnext.max(to.uidnext);
        if to.modseq >= s.highest_modseq {
            s.highest_modseq = to.modseq + 1;
            self.push(&Item::Forgotten { mailbox, modseq: to.modseq });
        }
        Ok(())
    }

    /// A message comes in. [`Refusal::Exists`]: its UID is not above all there ever were.
    pub fn import(
        &mut self,
        mailbox: MailboxId,
        m: &Arrival<'_>,
        log: [u8; 16],
    ) -> Result<Appended, Refusal> {
        let message = self.body(&m.message, log)?;
        let keywords = self.keywords(mailbox, m.keywords, true)?;
        if m.uid != 0 {
            let s = self.counters(mailbox)?;
            if m.uid < s.uidnext {
                return Err(Refusal::Exists);
            }
            s.uidnext = m.uid;
        }
        let now = self.now;
        self.now = m.saved.unwrap_or(now);
        let added = self.add(mailbox, Message { flags: m.flags, keywords, ..message });
        self.now = now;
        added
    }
}
