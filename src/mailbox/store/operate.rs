//! L4: the interface of the store: what sessions and deliveries ask of a shard.
//!
//! Each operation is planned against what is known now, and staged in the same step.

use crate::mailbox::api::{
    Append, Appended, Content, Delivered, Done, Incoming, Listed, Mailboxes, Refusal, Selected, Target,
    Willing,
};
use crate::mailbox::directory::Mailbox;
use crate::mailbox::name;
use crate::mailbox::plan::NewMessage;
use crate::mailbox::record::HEAD_LEN;
use crate::mailbox::store::large::{self, Writing};
use crate::mailbox::store::{Bytes, Inner, Locked, Open, Store, Wait, answer};
use crate::mailbox::types::{
    AccountId, DeliveryId, MailboxId, Quota, SpecialUse, Status, UIDL_MAX, UidSet, Usage,
};
use crate::message::body::BodyFlags;
use crate::runtime::{Runtime, yield_now};
use crate::storage::options::Urgency;
use crate::storage::side::SideFile;
use std::collections::BTreeMap;
use std::rc::Rc;

/// Bytes of a summary that are kept; a longer one is not.
pub const SUMMARY_MAX: usize = 64 << 10;

/// Holds a maildrop for POP3 until it is dropped.
pub struct Maildrop<R: Runtime> {
    inner: Rc<Inner<R>>,
    account: AccountId,
}

impl<R: Runtime> Drop for Maildrop<R> {
    fn drop(&mut self) {
        self.inner.state.borrow_mut().maildrops.remove(&self.account);
    }
}

/// What the plan must know of a message.
pub(super) fn new_message(m: &Incoming<'_>) -> NewMessage {
    let side = match m.content {
        Content::Slices(_) => 0,
        Content::Large { file, .. } => file.name,
    };
    NewMessage {
        size: m.facts.len,
        facts: BodyFlags(m.facts.bits()),
        internal: m.internal,
        guid: m.guid,
        uidl: !m.uidl.is_empty(),
        side,
    }
}

/// The bytes of a message that go into a record. `head` is room for the part before a side file.
pub(super) fn bytes<'a>(m: &Incoming<'a>, head: &'a [&'a [u8]; 1]) -> Bytes<'a> {
    let content: &'a [&'a [u8]] = match m.content {
        Content::Slices(pieces) => pieces,
        Content::Large { .. } => head,
    };
    let summary = if m.summary.len() <= SUMMARY_MAX { m.summary } else { &[] };
    Bytes { uidl: m.uidl, summary, content }
}

pub(super) fn head_of<'a>(m: &Incoming<'a>) -> [&'a [u8]; 1] {
    match m.content {
        Content::Slices(_) => [&[]],
        Content::Large { head, .. } => [head],
    }
}

pub(super) fn check(m: &Incoming<'_>) {
    let len: u64 = match m.content {
        Content::Slices(pieces) => pieces.iter().map(|p| p.len() as u64).sum(),
        Content::Large { head, file } => head.len() as u64 + file.len,
    };
    assert_eq!(len, m.facts.len, "the facts are those of the content");
    assert!(m.uidl.len() <= UIDL_MAX, "a UIDL has 70 bytes at most");
}

impl<R: Runtime> Store<R> {
    /// A side file for the content of a large message that comes in.
    pub async fn begin_large(
        &self,
    ) -> Result<crate::storage::side::SideWriter<R>, crate::storage::side::SideError> {
        self.0.keeper.create_side().await
    }

    /// A side file that no message has goes.
    pub fn drop_large(&self, file: crate::storage::side::SideFile) {
        self.0.keeper.discard_side(file);
    }

    /// Directory of the journal, to which side files belong.
    #[must_use]
    pub fn journal(&self) -> &std::path::Path {
        self.0.keeper.dir()
    }

    /// A message was refused: its side file goes.
    pub(super) fn drop_content(&self, m: &Incoming<'_>) {
        if let Content::Large { file, .. } = m.content {
            self.0.keeper.discard_side(file);
        }
    }

    pub(super) fn fits_a_record(&self, m: &Incoming<'_>) -> bool {
        let here: usize = match m.content {
            Content::Slices(pieces) => pieces.iter().map(|p| p.len()).sum(),
            Content::Large { head, .. } => head.len(),
        };
        here + m.summary.len() + m.uidl.len() + HEAD_LEN <= self.inline_max() + HEAD_LEN
    }

    /// Changes the names of an account's mailboxes, or accounts.
    async fn change_names<T>(
        &self,
        make: impl Fn(&mut crate::mailbox::plan::Draft<'_>) -> Result<T, Refusal>,
    ) -> Result<Done<T>, Refusal> {
        let locks = self.lock(&[Locked::Names]).await?;
        self.commit(locks, make).await
    }

    /// The mailbox of an account as it is now.
    pub(super) fn find(&self, account: AccountId, mailbox: &str) -> Result<MailboxId, Refusal> {
        let s = self.0.state.borrow();
        self.draft(&s, self.0.rt.wall()).find(account, mailbox)
    }

    /// Deletes a mailbox with its messages, while nothing can come into it. Once begun it goes on although
    /// nobody waits for it: what was promised to a mailbox that goes would be lost.
    async fn delete_mailbox(&self, account: AccountId, id: MailboxId) -> Result<Done<()>, Refusal> {
        let wait = Wait::new();
        let (store, told) = (self.clone(), wait.clone());
        self.0.rt.spawn_critical(async move {
            store.0.state.borrow_mut().shard.doom(id, true);
            let done = store.delete_doomed(account, id).await;
            if done.is_err() {
                store.0.state.borrow_mut().shard.doom(id, false);
            }
            told.borrow_mut().answer(done.map(|d| vec![d.ticket]));
        });
        let ticket = answer(wait).await?.pop().ok_or(Refusal::Closed)?;
        Ok(Done { ticket, value: () })
    }

    async fn delete_doomed(&self, account: AccountId, id: MailboxId) -> Result<Done<()>, Refusal> {
        // What was staged for it before is visible then, and goes with the rest.
        self.0.keeper.fence().await.map_err(|_| Refusal::Closed)?;
        self.applied().await;
        let mut view = self.view(account, id).await?;
        let mut slice = usize::MAX;
        loop {
            let locks = self.lock(&[Locked::Mailbox(id)]).await?;
            match self.commit(locks, |draft| draft.delete(id)).await {
                Err(Refusal::Limit) if slice > 0 => {
                    // Too many for one operation: some of them go before.
                    slice = (slice / 2).min(view.exists() as usize / 2);
                    let some: UidSet =
                        (1..=slice as u32).filter_map(|seq| view.message(seq)).map(|m| m.uid).collect();
                    match view.expunge(&some, false).await {
                        Ok(_) => slice = usize::MAX,
                        Err(Refusal::Limit) => {}
                        Err(refusal) => return Err(refusal),
                    }
                    view.sync(true);
                }
                done => return done,
            }
        }
    }

    /// Waits until all that is on stable storage now has been applied.
    async fn applied(&self) {
        loop {
            {
                let s = self.0.state.borrow();
                if s.dead || s.commits.front().is_none_or(|c| !c.staged.is_settled()) {
                    return;
                }
            }
            yield_now().await;
        }
    }
}

impl<R: Runtime> Mailboxes for Store<R> {
    type Selected = Open<R>;
    type Maildrop = Maildrop<R>;
    type Large = Writing<R>;

    fn number(&self) -> u64 {
        let log = self.0.keeper.log();
        u64::from_be_bytes(std::array::from_fn(|i| log[i] ^ log[i + 8]))
    }

    async fn large(&self) -> Result<Writing<R>, Refusal> {
        self.has_space()?;
        self.begin_large().await.map(Writing).map_err(large::refusal)
    }

    fn discard(&self, file: SideFile) {
        self.0.keeper.discard_side(file);
    }

    async fn account(&self, name: &str) -> Option<AccountId> {
        self.0.state.borrow().shard.directory.named(name)
    }

    async fn create_account(
        &self,
        name: &str,
        mailboxes: &[(&str, Option<SpecialUse>)],
        quota: Quota,
    ) -> Result<Done<AccountId>, Refusal> {
        self.has_space()?;
        self.change_names(|draft| draft.create_account(name, mailboxes, quota)).await
    }

    async fn rename_account(&self, account: AccountId, to: &str) -> Result<Done<()>, Refusal> {
        self.change_names(|draft| draft.change_account(account, Some(to), None, false)).await
    }

    async fn remove_account(&self, account: AccountId) -> Result<Done<()>, Refusal> {
        let locks = self.lock(&[Locked::Names]).await?;
        // From here on nobody finds it; what a crash leaves is taken away at the next start.
        let _hidden = self.commit(locks, |draft| draft.change_account(account, None, None, true)).await?;
        self.finish_removal(account).await
    }

    async fn set_quota(&self, account: AccountId, quota: Quota) -> Result<Done<()>, Refusal> {
        self.change_names(|draft| draft.change_account(account, None, Some(quota), false)).await
    }

    async fn usage(&self, account: AccountId) -> Option<Usage> {
        let s = self.0.state.borrow();
        s.shard.directory.account(account).filter(|a| !a.removed).map(|a| a.usage())
    }

    async fn willing(&self, account: &str, size: u64) -> Willing {
        if self.is_closed() {
            return Willing::No(Refusal::Closed);
        }
        let found = {
            let s = self.0.state.borrow();
            let id = s.shard.directory.named(account);
            id.and_then(|id| Some((id, s.shard.usage_ahead(id)?)))
        };
        match (found, self.has_space()) {
            (None, _) => Willing::No(Refusal::NoAccount),
            (Some(_), Err(refusal)) => Willing::No(refusal),
            (Some((_, usage)), _) if !usage.admits(1, size) => Willing::No(Refusal::OverQuota),
            (Some((id, _)), _) => Willing::Yes(id),
        }
    }

    fn inline_max(&self) -> usize {
        self.0.payload_max - self.items_max() - HEAD_LEN
    }

    async fn deliver(
        &self,
        message: Incoming<'_>,
        targets: &[Target<'_>],
    ) -> Vec<Result<Delivered, Refusal>> {
        check(&message);
        let all = |refusal: Refusal| targets.iter().map(|_| Err(refusal)).collect();
        if !self.fits_a_record(&message) {
            self.drop_content(&message);
            return all(Refusal::Limit);
        }
        let now = self.0.rt.wall();
        let (answers, staged) = {
            let mut s = self.0.state.borrow_mut();
            let s = &mut *s;
            let mut draft = self.draft(s, now);
            let answers = draft.deliver(&new_message(&message), targets, self.0.keeper.log());
            let accepted = answers.iter().filter(|a| a.is_ok()).count();
            let needed = answers.iter().any(|a| matches!(a, Ok(Some(_))));
            let head = head_of(&message);
            let staged = match draft.finish() {
                Err(refusal) => Err((refusal, Vec::new())),
                // Nobody takes it: there is nothing to be committed.
                Ok(_) if accepted == 0 => Err((Refusal::NoMailbox, Vec::new())),
                Ok(plan) => {
                    let bytes = [bytes(&message, &head)];
                    self.stage(s, &plan, &bytes, Urgency::NewMail, Vec::new(), accepted)
                }
            };
            (answers, staged.map(|wait| (wait, needed)))
        };
        let tickets = match staged {
            Ok((wait, needed)) => {
                if !needed {
                    self.drop_content(&message);
                }
                answer(wait).await
            }
            Err((refusal, _)) => {
                self.drop_content(&message);
                Err(refusal)
            }
        };
        match tickets {
            Err(refusal) => answers.into_iter().map(|a| a.and(Err(refusal))).collect(),
            Ok(tickets) => {
                let mut tickets = tickets.into_iter();
                let mut delivered = |at| {
                    let ticket = tickets.next().ok_or(Refusal::Closed)?;
                    Ok(Delivered { ticket, at })
                };
                answers.into_iter().map(|a| a.and_then(&mut delivered)).collect()
            }
        }
    }

    fn settled(&self, ids: &[DeliveryId]) {
        let mut s = self.0.state.borrow_mut();
        ids.iter().for_each(|id| s.shard.settled(id));
        self.give_up(&mut s);
    }

    async fn list(&self, account: AccountId) -> Result<Vec<Listed>, Refusal> {
        let s = self.0.state.borrow();
        let owner = s.shard.directory.account(account).filter(|a| !a.removed).ok_or(Refusal::NoAccount)?;
        let mut names: BTreeMap<&str, Option<MailboxId>> = BTreeMap::new();
        for (name, id) in &owner.mailboxes {
            names.insert(name, Some(*id));
            let mut above = name::parent(name);
            while let Some(parent) = above {
                names.entry(parent).or_default();
                above = name::parent(parent);
            }
        }
        for name in &owner.subscribed {
            names.entry(name).or_default();
        }
        let listed = |(name, id): (&str, Option<MailboxId>)| {
            let mailbox = id.and_then(|id| s.shard.directory.mailbox(id));
            Listed {
                name: name.to_owned(),
                status: mailbox.map(Mailbox::counters),
                children: owner.has_below(name),
                subscribed: owner.subscribed.contains(name),
                special: mailbox.and_then(|m| m.special),
            }
        };
        Ok(names.into_iter().map(listed).collect())
    }

    async fn status(&self, account: AccountId, mailbox: &str) -> Result<Status, Refusal> {
        let id = self.find(account, mailbox)?;
        let s = self.0.state.borrow();
        s.shard.directory.mailbox(id).map(Mailbox::counters).ok_or(Refusal::NoMailbox)
    }

    async fn create(
        &self,
        account: AccountId,
        mailbox: &str,
        special: Option<SpecialUse>,
    ) -> Result<Done<MailboxId>, Refusal> {
        self.has_space()?;
        self.change_names(|draft| draft.create(account, mailbox, special)).await
    }

    async fn delete(&self, account: AccountId, mailbox: &str) -> Result<Done<()>, Refusal> {
        let names = self.lock(&[Locked::Names]).await?;
        let id = self.find(account, mailbox)?;
        // RFC 9051 §6.3.5: INBOX is always there.
        if name::canonical(mailbox).as_deref() == Some(name::INBOX) {
            return Err(Refusal::BadName);
        }
        let done = self.delete_mailbox(account, id).await;
        drop(names);
        done
    }

    async fn rename(&self, account: AccountId, mailbox: &str, to: &str) -> Result<Done<()>, Refusal> {
        self.has_space()?;
        let mut locks = self.lock(&[Locked::Names]).await?;
        let id = self.find(account, mailbox)?;
        let _view = self.view(account, id).await?;
        locks.extend(self.lock(&[Locked::Mailbox(id)]).await?);
        self.commit(locks, |draft| draft.rename(account, mailbox, to)).await
    }

    async fn subscribe(&self, account: AccountId, mailbox: &str, on: bool) -> Result<Done<()>, Refusal> {
        self.change_names(|draft| draft.subscribe(account, mailbox, on)).await
    }

    async fn append(
        &self,
        account: AccountId,
        mailbox: &str,
        messages: &[Append<'_>],
    ) -> Result<Done<Vec<Appended>>, Refusal> {
        let appended = self.append_all(account, mailbox, messages, None).await;
        if appended.is_err() {
            messages.iter().for_each(|m| self.drop_content(&m.message));
        }
        appended
    }

    async fn select(&self, account: AccountId, mailbox: &str) -> Result<Open<R>, Refusal> {
        let id = self.find(account, mailbox)?;
        self.view(account, id).await
    }

    fn maildrop(&self, account: AccountId) -> Result<Maildrop<R>, Refusal> {
        let mut s = self.0.state.borrow_mut();
        if s.shard.directory.account(account).is_none_or(|a| a.removed) {
            return Err(Refusal::NoAccount);
        }
        match s.maildrops.insert(account) {
            true => Ok(Maildrop { inner: self.0.clone(), account }),
            false => Err(Refusal::InUse),
        }
    }
}

impl<R: Runtime> Store<R> {
    /// `replaced`: what is expunged with it.
    pub(super) async fn append_all(
        &self,
        account: AccountId,
        mailbox: &str,
        messages: &[Append<'_>],
        replaced: Option<(MailboxId, u32)>,
    ) -> Result<Done<Vec<Appended>>, Refusal> {
        messages.iter().for_each(|m| check(&m.message));
        if messages.is_empty() || !messages.iter().all(|m| self.fits_a_record(&m.message)) {
            return Err(Refusal::Limit);
        }
        let id = self.find(account, mailbox)?;
        // Keywords may be added: one at a time.
        let source = replaced.map_or(id, |(source, _)| source);
        let locks = self.lock(&[Locked::Mailbox(id), Locked::Mailbox(source)]).await?;
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
                .map(|m| draft.append(account, id, &new_message(&m.message), (m.flags, m.keywords), log))
                .collect::<Result<Vec<Appended>, Refusal>>()
                .and_then(|at| match replaced {
                    Some((from, uid))
                        if draft.expunge(from, &[uid].into_iter().collect(), false)?.is_empty() =>
                    {
                        Err(Refusal::Expunged)
                    }
                    _ => Ok((at, draft.finish()?)),
                });
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

    /// Takes away what is left of an account that is being removed.
    pub(super) async fn finish_removal(&self, account: AccountId) -> Result<Done<()>, Refusal> {
        let names = self.lock(&[Locked::Names]).await?;
        loop {
            let next = {
                let s = self.0.state.borrow();
                let owner = s.shard.directory.account(account).ok_or(Refusal::NoAccount)?;
                owner.mailboxes.values().next().copied()
            };
            let Some(mailbox) = next else { break };
            let _gone = self.delete_mailbox(account, mailbox).await?;
        }
        self.commit(names, |draft| {
            draft.end_account(account);
            Ok(())
        })
        .await
    }
}
