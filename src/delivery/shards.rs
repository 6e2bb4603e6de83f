//! L4: the shards that one core owns: opened, delivered into, closed.
//!
//! Takes parcels: finds the account (and makes it when its first mail comes), puts Return-Path and
//! Delivered-To in front, works out the summary, sees mail that runs in a circle. Knows no thread but its
//! own. A shard that cannot be opened refuses ([`Refusal::Damaged`]) and stops nobody else.

use crate::authenticity::results::is_put_aside;
use crate::delivery::post::{Letter, Outcomes, Parcel, Unable};
use crate::mailbox::api::{self, Content, Incoming, Mailboxes, Refusal, Target, Willing};
use crate::mailbox::spread;
use crate::mailbox::store::opening::{Parts, Recovery};
use crate::mailbox::store::{Options, SUMMARY_MAX, Store};
use crate::mailbox::types::{AccountId, DeliveryId, Flags, Quota, SpecialUse};
use crate::message::body::BodyFacts;
use crate::message::headers;
use crate::message::mime::Scanner;
use crate::metrics;
use crate::queue::desk::open::observer;
use crate::runtime::{Runtime, yield_now};
use crate::storage;
use crate::storage::opening::OpenError;
use crate::storage::options::Poison;
use crate::storage::side::{SideError, SideFile, SideReader};
use std::future::{Future, poll_fn};
use std::path::Path;
use std::pin::pin;
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;

/// Where mail goes that is put aside.
const JUNK: &str = "Junk";

/// What every account has from the start, besides INBOX (RFC 6154).
pub const MAILBOXES: [(&str, Option<SpecialUse>); 5] = [
    ("Archive", Some(SpecialUse::Archive)),
    ("Drafts", Some(SpecialUse::Drafts)),
    (JUNK, Some(SpecialUse::Junk)),
    ("Sent", Some(SpecialUse::Sent)),
    ("Trash", Some(SpecialUse::Trash)),
];

/// Bytes of a message that are looked at before others have a turn.
const SCAN_STEP: usize = 256 << 10;
/// How long a parcel waits for a busy disk before it is refused.
const BUSY: Duration = Duration::from_secs(60);
const MOMENT: Duration = Duration::from_millis(200);
/// Longest header that is looked through for Delivered-To, of a message in a side file.
const HEADER_MAX: usize = 1 << 20;

/// What shards are made of.
#[derive(Clone)]
pub struct Setup<R: Runtime> {
    /// The core's runtime.
    pub rt: R,
    /// How the journals work.
    pub storage: storage::Options,
    /// The file system's poison.
    pub poison: Poison,
    /// How the stores work.
    pub options: Options,
    /// What an account may hold.
    pub quota: Quota,
}

struct Shard<R: Runtime> {
    number: u16,
    /// None: it could not be opened.
    store: Option<Store<R>>,
}

struct Inner<R: Runtime> {
    rt: R,
    quota: Quota,
    shards: Vec<Shard<R>>,
}

/// The shards of one core. A handle; clones are the same.
pub struct Shards<R: Runtime>(Rc<Inner<R>>);

impl<R: Runtime> Clone for Shards<R> {
    fn clone(&self) -> Self {
        Shards(self.0.clone())
    }
}

impl<R: Runtime> Shards<R> {
    /// Opens these shards below `data_dir`, one after another; `tell` hears what was found in each.
    pub async fn open(
        data_dir: &Path,
        numbers: &[u16],
        setup: &Setup<R>,
        mut tell: impl FnMut(u16, &Result<Recovery, OpenError>),
    ) -> Self {
        let mut shards = Vec::new();
        for &number in numbers {
            let Setup { rt, storage, poison, options, .. } = setup.clone();
            let dir = spread::directory(data_dir, number);
            let (store, found) = match Store::open(&dir, Parts { rt, storage, poison, options }).await {
                Ok((store, found)) => (Some(store), Ok(found)),
                Err(e) => (None, Err(e)),
            };
            tell(number, &found);
            shards.push(Shard { number, store });
        }
        Shards(Rc::new(Inner { rt: setup.rt.clone(), quota: setup.quota, shards }))
    }

    /// The store of a shard.
    ///
    /// # Errors
    /// [`Refusal::Damaged`]: it could not be opened, or is none of this core.
    pub fn store(&self, shard: u16) -> Result<&Store<R>, Refusal> {
        let found = self.0.shards.iter().find(|s| s.number == shard);
        found.and_then(|s| s.store.as_ref()).ok_or(Refusal::Damaged)
    }

    /// One that could be opened, if any could.
    #[must_use]
    pub fn any(&self) -> Option<&Store<R>> {
        self.0.shards.iter().find_map(|s| s.store.as_ref())
    }

    /// Their durable writes are counted.
    pub fn observe(&self, metrics: &metrics::Core) {
        for store in self.0.shards.iter().filter_map(|s| s.store.as_ref()) {
            store.observe(observer(metrics));
        }
    }

    /// True once a write to any of them has failed.
    #[must_use]
    pub fn is_dead(&self) -> bool {
        self.0.shards.iter().filter_map(|s| s.store.as_ref()).any(Store::is_closed)
    }

    /// Commits what is staged, closes all.
    pub async fn close(&self) {
        for store in self.0.shards.iter().filter_map(|s| s.store.as_ref()) {
            store.close().await;
        }
    }

    /// The account of this name, which somebody else has said exists: made if it is not there yet, and
    /// with the quota that is configured now.
    pub async fn account(&self, shard: u16, name: &str) -> Result<AccountId, Refusal> {
        let store = self.store(shard)?;
        // Others may be making it at the same time.
        for _ in 0..2 {
            if let Some(id) = store.account(name).await {
                return self.keep_quota(store, id).await.map(|()| id);
            }
            match store.create_account(name, &MAILBOXES, self.0.quota).await {
                Ok(made) => return Ok(made.value),
                Err(Refusal::Exists) => {}
                Err(refusal) => return Err(refusal),
            }
        }
        Err(Refusal::Busy)
    }

    async fn keep_quota(&self, store: &Store<R>, id: AccountId) -> Result<(), Refusal> {
        let usage = store.usage(id).await.ok_or(Refusal::NoAccount)?;
        if usage.quota == self.0.quota {
            return Ok(());
        }
        match store.set_quota(id, self.0.quota).await {
            // Without space for that the old one holds.
            Ok(_) | Err(Refusal::Full | Refusal::Busy) => Ok(()),
            Err(refusal) => Err(refusal),
        }
    }

    /// Does the account, which exists, take a message of `size` bytes?
    pub async fn willing(&self, shard: u16, account: &str, size: u64) -> Result<(), Refusal> {
        self.account(shard, account).await?;
        match self.store(shard)?.willing(account, size).await {
            Willing::Yes(_) => Ok(()),
            Willing::No(refusal) => Err(refusal),
        }
    }

    /// Copies each shard into `dir/NNNN`, one after another: number and bytes, or why there is no copy.
    pub async fn backup(&self, dir: &Path) -> Vec<(u16, Result<u64, String>)> {
        let mut done = Vec::new();
        for Shard { number, store } in &self.0.shards {
            let copied = match store {
                Some(store) => {
                    store.backup(&dir.join(format!("{number:04}"))).await.map_err(|e| e.to_string())
                }
                None => Err(Refusal::Damaged.to_string()),
            };
            done.push((*number, copied));
        }
        done
    }

    /// The queue will not hand these over again.
    pub fn settled(&self, shard: u16, ids: &[DeliveryId]) {
        if let Ok(store) = self.store(shard) {
            store.settled(ids);
        }
    }

    /// Delivers a parcel into a shard: one answer for each addressee.
    pub async fn take(&self, shard: u16, parcel: Parcel) -> Outcomes {
        let until = self.0.rt.now().after(BUSY);
        loop {
            let outcomes = self.try_to_take(shard, &parcel).await;
            let busy = |o: &Result<api::Delivered, Unable>| matches!(o, Err(Unable::Refused(Refusal::Busy)));
            if !outcomes.iter().any(busy) || self.0.rt.now() >= until {
                return outcomes;
            }
            let Ok(store) = self.store(shard) else { return outcomes };
            // Who has got it has it by its delivery id, so that all can be handed over once more.
            if !outcomes.iter().all(busy) && parcel.to.iter().any(|a| a.id.is_none()) {
                return outcomes;
            }
            self.moment(store).await;
        }
    }

    /// Waits until the disk has made progress, for a bounded time.
    async fn moment(&self, store: &Store<R>) {
        let rt = &self.0.rt;
        let mut sleep = pin!(rt.sleep_until(rt.now().after(MOMENT)));
        let mut progress = pin!(store.progress());
        poll_fn(|cx| match progress.as_mut().poll(cx) {
            Poll::Ready(()) => Poll::Ready(()),
            Poll::Pending => sleep.as_mut().poll(cx),
        })
        .await;
    }

    async fn try_to_take(&self, shard: u16, parcel: &Parcel) -> Outcomes {
        let mut accounts = Vec::with_capacity(parcel.to.len());
        for to in &parcel.to {
            accounts.push(self.account(shard, &to.resident.account).await.map_err(Unable::Refused));
        }
        let Ok(store) = self.store(shard) else { return all(parcel, Refusal::Damaged) };
        if let Err(refusal) = self.find_loops(parcel, &mut accounts).await {
            return all(parcel, refusal);
        }
        let aside = match &parcel.letter {
            Letter::Memory(bytes) | Letter::Side { head: bytes, .. } => is_put_aside(bytes),
        };
        let targets: Vec<Target<'_>> = accounts
            .iter()
            .zip(&parcel.to)
            .filter_map(|(account, to)| Some((*account.as_ref().ok()?, to)))
            .map(|(account, to)| Target {
                account,
                mailbox: if aside { JUNK } else { &to.resident.mailbox },
                flags: Flags::default(),
                id: to.id,
                promised: to.promised,
            })
            .collect();
        let done = match targets.is_empty() {
            true => Vec::new(),
            false => self.deliver(store, parcel, &targets).await,
        };
        let mut done = done.into_iter();
        let answers = accounts.into_iter().map(|account| {
            account.and_then(|_| done.next().unwrap_or(Err(Refusal::Closed)).map_err(Unable::Refused))
        });
        answers.collect()
    }

    async fn deliver(
        &self,
        store: &Store<R>,
        parcel: &Parcel,
        targets: &[Target<'_>],
    ) -> Vec<Result<api::Delivered, Refusal>> {
        let refused = |refusal: Refusal| targets.iter().map(|_| Err(refusal)).collect();
        let head = head(parcel);
        let facts = facts(parcel, &head);
        let mut scanner = Scanner::new();
        scanner.feed(&head);
        if let Letter::Memory(bytes) = &parcel.letter {
            self.scan(&mut scanner, bytes).await;
        }
        let (mut summary, mut file) = (Vec::new(), None);
        if matches!(parcel.letter, Letter::Side { .. }) {
            file = match self.copy(store, &parcel.letter, |piece| scanner.feed(piece)).await {
                Ok(file) => Some(file),
                Err(refusal) => return refused(refusal),
            };
        }
        scanner.finish(&mut summary);
        let slices = match &parcel.letter {
            Letter::Memory(bytes) => [&head[..], &bytes[..]],
            Letter::Side { .. } => [&head[..], &[]],
        };
        let here = slices.iter().map(|s| s.len()).sum::<usize>() + summary.len().min(SUMMARY_MAX);
        if file.is_none() && here > store.inline_max() {
            file = match self.copy(store, &parcel.letter, |_| {}).await {
                Ok(file) => Some(file),
                Err(refusal) => return refused(refusal),
            };
        }
        let content = match file {
            None => Content::Slices(&slices),
            Some(file) => Content::Large { head: &head, file },
        };
        let incoming =
            Incoming { content, facts, summary: &summary, internal: parcel.arrival, guid: None, uidl: b"" };
        store.deliver(incoming, targets).await
    }

    async fn scan(&self, scanner: &mut Scanner, bytes: &[u8]) {
        for (n, step) in bytes.chunks(SCAN_STEP).enumerate() {
            if n > 0 {
                yield_now().await;
            }
            scanner.feed(step);
        }
    }

    /// Copies a letter into a side file of the shard; `see` is shown each piece.
    async fn copy(
        &self,
        store: &Store<R>,
        letter: &Letter,
        mut see: impl FnMut(&[u8]),
    ) -> Result<SideFile, Refusal> {
        let failed = |e: SideError| match e {
            SideError::Full => Refusal::Full,
            SideError::Poisoned => Refusal::Closed,
        };
        let mut writer = store.begin_large().await.map_err(failed)?;
        let head = match letter {
            Letter::Memory(bytes) | Letter::Side { head: bytes, .. } => bytes,
        };
        for step in head.chunks(SCAN_STEP) {
            see(step);
            writer.write(step).await.map_err(failed)?;
        }
        if let Letter::Side { journal, file, .. } = letter {
            let reader = SideReader::open(&self.0.rt, journal, *file).await;
            let mut reader = reader.map_err(|_| Refusal::Damaged)?;
            while let Some(piece) = reader.next().await.map_err(|_| Refusal::Damaged)? {
                see(&piece);
                writer.write(&piece).await.map_err(failed)?;
            }
        }
        writer.finish().await.map_err(failed)
    }

    /// Addressees whom the message has reached before do not get it again: it runs in a circle.
    async fn find_loops(
        &self,
        parcel: &Parcel,
        accounts: &mut [Result<AccountId, Unable>],
    ) -> Result<(), Refusal> {
        let mut from_side = Vec::new();
        let header = match &parcel.letter {
            Letter::Memory(bytes) => &bytes[..],
            Letter::Side { head, journal, file } => {
                from_side.extend_from_slice(head);
                let reader = SideReader::open(&self.0.rt, journal, *file).await;
                let mut reader = reader.map_err(|_| Refusal::Damaged)?;
                while from_side.len() < HEADER_MAX && memchr::memmem::find(&from_side, b"\r\n\r\n").is_none()
                {
                    let Some(piece) = reader.next().await.map_err(|_| Refusal::Damaged)? else { break };
                    from_side.extend_from_slice(&piece);
                }
                &from_side
            }
        };
        for field in headers::fields(header).filter(|f| f.is("Delivered-To")) {
            let before = field.value.trim_ascii();
            for (account, to) in accounts.iter_mut().zip(&parcel.to) {
                if to.address.eq_ignore_ascii_case(before) {
                    *account = Err(Unable::Loop);
                }
            }
        }
        Ok(())
    }
}

fn all(parcel: &Parcel, refusal: Refusal) -> Outcomes {
    parcel.to.iter().map(|_| Err(Unable::Refused(refusal))).collect()
}

/// What the final delivery puts in front (RFC 5321 §4.4: Return-Path). Several recipients share one
/// content, so that none of them may be named in it.
fn head(parcel: &Parcel) -> Vec<u8> {
    let mut head = Vec::with_capacity(64 + parcel.sender.len());
    head.extend_from_slice(b"Return-Path: <");
    head.extend_from_slice(&parcel.sender);
    head.extend_from_slice(b">\r\n");
    if let [only] = &parcel.to[..] {
        head.extend_from_slice(b"Delivered-To: ");
        head.extend_from_slice(&only.address);
        head.extend_from_slice(b"\r\n");
    }
    head
}

fn facts(parcel: &Parcel, head: &[u8]) -> BodyFacts {
    let wide = !head.is_ascii();
    BodyFacts {
        len: head.len() as u64 + parcel.letter.size(),
        has_dot_lines: parcel.flags.has_dot_lines(),
        eight_bit: parcel.flags.eight_bit() || wide,
        header_eight_bit: parcel.flags.header_eight_bit() || wide,
        hops: 0,
        long_lines: parcel.flags.long_lines(),
    }
}
