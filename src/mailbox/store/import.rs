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

    /// Waits until all that is known is in the index, or cannot be.
    pub async fn settle(&self) {
        self.indexed().await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mailbox::api::{Content, Mailboxes, Selected, Vanished};
    use crate::mailbox::plan::import::UIDVALIDITY_MAX;
    use crate::mailbox::store::tests::{account, deliver, die, incoming, live, world};

    fn import<'a>(content: &'a [&'a [u8]], uid: u32) -> Import<'a> {
        let message = incoming(Content::Slices(content), content[0].len() as u64, b"s");
        Import { message, flags: Flags::SEEN, keywords: &["k"], uid, saved: Some(Wall(77)) }
    }

    #[test]
    fn a_mailbox_takes_on_an_identity_once_and_uids_rise() {
        let world = world();
        let to = Identity { uidvalidity: 1000, uidnext: 5, modseq: 1 << 40 };
        let a = die(&world, |_, store, _| async move {
            let a = account(&store, "a").await;
            for (bad, refusal) in [
                (Identity { uidvalidity: UIDVALIDITY_MAX + 1, ..to }, Refusal::Limit),
                (Identity { uidnext: u32::MAX, ..to }, Refusal::Limit),
                (Identity { modseq: u64::MAX, ..to }, Refusal::Limit),
            ] {
                assert_eq!(store.identify(a, "INBOX", bad).await.err(), Some(refusal));
            }
            assert_eq!(store.identify(a, "none", to).await.err(), Some(Refusal::NoMailbox));
            let open = store.select(a, "INBOX").await.expect("there");
            store.identify(a, "INBOX", to).await.expect("fine");
            assert_eq!(open.vanished(7), Vanished::Unknown, "opened or not");
            let content: [&[u8]; 1] = [b"A: b\r\n\r\n"];
            let all = [import(&content, 9), import(&content, 0), import(&content, 20)];
            let at = store.import(a, "INBOX", &all).await.expect("fine").value;
            assert_eq!(
                at.iter().map(|a| (a.uid, a.uidvalidity)).collect::<Vec<_>>(),
                [(9, 1000), (10, 1000), (20, 1000)]
            );
            for uid in [4, 20] {
                let refused = store.import(a, "INBOX", &[import(&content, uid)]).await;
                assert_eq!(refused.err(), Some(Refusal::Exists), "UIDs rise");
            }
            let other = Identity { uidvalidity: 1001, ..to };
            assert_eq!(store.identify(a, "INBOX", other).await.err(), Some(Refusal::Exists));
            a
        });
        live(&world, |_, store, _| async move {
            let status = store.status(a, "INBOX").await.expect("there");
            assert_eq!((status.uidvalidity, status.uidnext, status.messages), (1000, 21, 3));
            assert!(status.highest_modseq > 1 << 40);
            let open = store.select(a, "INBOX").await.expect("there");
            let m = open.message(1).expect("there");
            assert_eq!((m.uid, m.flags, m.saved, m.keywords.0), (9, Flags::SEEN, Wall(77), 1));
            assert_eq!(open.vanished(1 << 40), Vanished::Exactly(crate::mailbox::types::UidSet::default()));
            assert_eq!(open.vanished((1 << 40) - 1), Vanished::Unknown);
            assert_eq!(deliver(&store, 1, 10, a).await, 21);
        });
    }
}
