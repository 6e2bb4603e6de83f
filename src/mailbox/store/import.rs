//! L4: taking mail over from elsewhere: another server's mailboxes, a backup, another shard.
//!
//! As an APPEND, but UIDs, UIDVALIDITY and save dates are given, and quotas are not asked. For programs
//! of operators; no session does this.

use crate::base::time::Wall;
use crate::mailbox::api::{Appended, Done, Incoming, Refusal};
use crate::mailbox::plan::import::{Arrival, Identity};
use crate::mailbox::record::HEAD_LEN;
use crate::mailbox::store::operate::{bytes, check, head_of, new_message};
use crate::mailbox::store::{Bytes, Locked, Store, answer};
use crate::mailbox::types::{AccountId, Flags};
use crate::runtime::Runtime;
use crate::storage::options::Urgency;

/// A message that is taken over.
#[derive(Clone, Copy, Debug)]
pub struct Import<'a> {
    /// The message.
    pub message: Incoming<'a>,
    /// Its flags.
    pub flags: Flags,
    /// Its keywords.
    pub keywords: &'a [&'a str],
    /// Its UID, above all there ever were in the mailbox; 0: the next.
    pub uid: u32,
    /// When it came into the mailbox it comes from; `None`: now.
    pub saved: Option<Wall>,
}

impl<R: Runtime> Store<R> {
    /// Accounts and their names.
    #[must_use]
    pub fn accounts(&self) -> Vec<(AccountId, String)> {
        let s = self.0.state.borrow();
        let all = s.shard.directory.accounts().filter(|(_, a)| !a.removed);
        all.map(|(id, a)| (id, a.name.to_string())).collect()
    }

    /// A mailbox takes on an identity, if it has never had a message ([`Refusal::Exists`] otherwise).
    pub async fn identify(
        &self,
        account: AccountId,
        mailbox: &str,
        to: Identity,
    ) -> Result<Done<()>, Refusal> {
        let id = self.find(account, mailbox)?;
        let locks = self.lock(&[Locked::Names, Locked::Mailbox(id)]).await?;
        self.commit(locks, |draft| draft.identify(id, to)).await
    }

    /// Takes messages over, all or none: one operation. What is refused may be tried again as it is
    /// ([`Refusal::Busy`], [`Refusal::Full`]): side files stay.
    pub async fn import(
        &self,
        account: AccountId,
        mailbox: &str,
        messages: &[Import<'_>],
    ) -> Result<Done<Vec<Appended>>, Refusal> {
        messages.iter().for_each(|m| check(&m.message));
        if messages.is_empty() || !messages.iter().all(|m| self.fits_a_record(&m.message)) {
            return Err(Refusal::Limit);
        }
        let id = self.find(account, mailbox)?;
        let locks = self.lock(&[Locked::Mailbox(id)]).await?;
        let (now, log) = (self.0.rt.wall(), self.0.keeper.log());
        let heads: Vec<[&[u8]; 1]> = messages.iter().map(|m| head_of(&m.message)).collect();
        let contents: Vec<Bytes<'_>> =
            messages.iter().zip(&heads).map(|(m, head)| bytes(&m.message, head)).collect();
        let staged = {
            let mut s = self.0.state.borrow_mut();
            let s = &mut *s;
            let mut draft = self.draft(s, now);
            let planned = messages
                .iter()
                .map(|m| {
                    let (message, flags, keywords) = (new_message(&m.message), m.flags, m.keywords);
                    let arrival = Arrival { message, flags, keywords, uid: m.uid, saved: m.saved };
                    draft.import(id, &arrival, log)
                })
                .collect::<Result<Vec<Appended>, Refusal>>()
                .and_then(|at| Ok((at, draft.finish()?)));
            match planned {
                Err(refusal) => Err((refusal, locks)),
                Ok(_) if s.shard.is_doomed(id) => Err((Refusal::NoMailbox, locks)),
                Ok((at, plan)) => {
                    self.stage(s, &plan, &contents, Urgency::NewMail, locks, 1).map(|wait| (at, wait))
                }
            }
        };
        // Locks of a refused one go here, outside of the borrow.
        let (value, wait) = staged.map_err(|(refusal, _held)| refusal)?;
        let ticket = answer(wait).await?.pop().ok_or(Refusal::Closed)?;
        Ok(Done { ticket, value })
    }

    /// Bytes of content, summary and UIDL that a message may have in memory: the rest of one that has
    /// more goes into a side file ([`Self::begin_large`]).
    #[must_use]
    pub fn import_max(&self) -> usize {
        self.0.payload_max - self.items_max() - HEAD_LEN
    }

    /// Waits until the journal may have room again.
    pub async fn room(&self) {
        self.0.keeper.progress().await;
    }

    /// Waits until all that is known is in the index, or cannot be.
    pub async fn settle(&self) {
        self.indexed().await;
    }
}
