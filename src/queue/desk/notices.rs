//! L4: the desk's side of notifications: what is owed, queued, or must wait.
//!
//! A notification is staged before the outcome that it stands for, in one step: the first implies
//! the second, so that a crash between them is no difference.

use crate::base::aligned::SharedBytes;
use crate::base::time::Wall;
use crate::delivery::bounce::OWED_RETRY;
use crate::queue::desk::archiving::places;
use crate::queue::desk::recall::Source;
use crate::queue::desk::{Desk, DoubleBounce, NewMessage};
use crate::queue::index::{Key, Phase};
use crate::queue::record::{self, Effect, Fate, Reply, State as Stored};
use crate::queue::state::{After, Indexes, Notice, OwnedReply, Report};
use crate::runtime::Runtime;
use crate::storage::journal::StageError;
use crate::storage::keeper::ReadError;
use crate::storage::options::Urgency;
use crate::storage::side::{SideFile, SideReader};
use std::collections::BTreeMap;
use std::future::poll_fn;
use std::task::Poll;
use std::time::Duration;

/// Notifications made at a time.
const TELLING_MAX: usize = 16;

impl<R: Runtime> Desk<R> {
    /// The next notification to be made; `None`: closing. [`Self::told`] must follow.
    pub(crate) async fn next_notice(&self) -> Option<Notice> {
        poll_fn(|cx| {
            let mut s = self.0.state.borrow_mut();
            loop {
                if s.closing || s.dead {
                    return Poll::Ready(None);
                }
                if s.telling < TELLING_MAX
                    && let Some(n) = s.notices.pop_front()
                {
                    s.telling += 1;
                    return Poll::Ready(Some(n));
                }
                if s.notice_bell.poll(cx).is_pending() {
                    return Poll::Pending;
                }
            }
        })
        .await
    }

    /// A notice from [`Self::next_notice`] has been dealt with.
    pub(crate) fn told(&self) {
        let mut s = self.0.state.borrow_mut();
        s.telling -= 1;
        s.notice_bell.ring();
        s.crowd.wake_all();
    }

    /// Our name.
    #[must_use]
    pub fn hostname(&self) -> &str {
        &self.0.options.hostname
    }

    pub(crate) fn postmaster(&self) -> &str {
        &self.0.options.postmaster
    }

    /// Most bytes of a message that its bounce returns.
    pub(crate) fn bounce_size(&self) -> usize {
        self.0.options.bounce_size
    }

    pub(crate) fn double_bounce(&self) -> DoubleBounce {
        self.0.options.double_bounce
    }

    pub(crate) fn lifetime(&self, null_sender: bool) -> Duration {
        if null_sender { self.0.options.bounce_lifetime } else { self.0.options.lifetime }
    }

    /// Opens a side file of this queue.
    pub async fn open_side(&self, side: SideFile) -> Result<SideReader<R>, ReadError> {
        self.0.keeper.open_side(side).await
    }

    /// The record of a message, from memory or from the journal.
    pub(crate) async fn read_back(&self, key: Key) -> Option<SharedBytes> {
        // A message may be moved while it is read; then its new place is tried.
        for _ in 0..3 {
            let (at, id) = {
                let s = self.0.state.borrow();
                let e = s.index.get(key)?;
                if let Some(payload) = &e.payload {
                    return Some(payload.clone());
                }
                (Source::of(e), e.id)
            };
            if let Some(payload) = self.read_source(at, id).await {
                return Some(payload);
            }
        }
        None
    }

    /// What is to be said of the recipients of `key` that are owed a notification.
    pub(crate) async fn owed_reports(&self, key: Key) -> Vec<Report> {
        let owed: Vec<u32> = {
            let s = self.0.state.borrow();
            let Some(e) = s.index.get(key) else { return Vec::new() };
            let owed = |r: &(usize, &crate::queue::index::Recipient)| r.1.phase == Phase::Owed;
            e.recipients.iter().enumerate().filter(owed).map(|r| r.0 as u32).collect()
        };
        let replies = self.replies_to(key).await;
        let unknown = || OwnedReply::ours([5, 0, 0], b"delivery has failed");
        owed.into_iter()
            .map(|index| Report { index, reply: replies.get(&index).cloned().unwrap_or_else(unknown) })
            .collect()
    }

    /// What next hops last said of the recipients of a rich message that are not done with.
    pub(crate) async fn replies_to(&self, key: Key) -> BTreeMap<u32, OwnedReply> {
        let (id, said) = {
            let s = self.0.state.borrow();
            let Some(e) = s.index.get(key) else { return BTreeMap::new() };
            if let Some(archived) = &e.archived {
                return archived.replies.iter().cloned().collect();
            }
            (e.id, places(e))
        };
        self.replies(id, &said).await
    }

    /// True if `key` is still there.
    pub(crate) fn is_owed(&self, key: Key) -> bool {
        self.0.state.borrow().index.get(key).is_some()
    }

    /// Stages a notification.
    pub(crate) fn submit_notification(&self, m: &NewMessage<'_>) -> Result<(), StageError> {
        let mut s = self.0.state.borrow_mut();
        self.stage_message(&mut s, m, Urgency::Bounce, None)?;
        self.0.metrics.dsn_sent.increment(1);
        Ok(())
    }

    /// What `notice` reports has been told, or is to be told to nobody. Call it in the same step
    /// as [`Self::submit_notification`].
    pub(crate) fn notified(&self, notice: &Notice, fate: Fate) {
        if notice.effect == Effect::Delivered {
            return;
        }
        let mut s = self.0.state.borrow_mut();
        let s = &mut *s;
        let mut out = Vec::new();
        if notice.effect == Effect::Warned {
            record::put_states_head(&mut out, record::WARNED, 0);
            s.index.change(notice.key, |e| e.switches.telling = false);
            return self.note(s, record::OUTCOME, notice.id, &out, None, After::Nothing);
        }
        record::put_states_head(&mut out, 0, notice.reports.len() as u32);
        let done = s.index.change(notice.key, |e| {
            for report in &notice.reports {
                let r = &mut e.recipients[report.index as usize];
                r.phase = Phase::Failed;
                let reply = Reply::default();
                let s = Stored { index: report.index, fate, attempts: 0, due: Wall(0), reply };
                record::put_state(&mut out, &s);
            }
            e.is_done()
        });
        match done {
            None => {}
            Some(true) => self.release(s, notice.key, record::OUTCOME, &out, None),
            Some(false) => self.note(s, record::OUTCOME, notice.id, &out, None, After::Nothing),
        }
    }

    /// The notification cannot be queued now: the journal keeps what is owed and why.
    pub(crate) fn owe(&self, notice: &Notice) {
        if notice.effect == Effect::Warned {
            let mut s = self.0.state.borrow_mut();
            s.index.change(notice.key, |e| e.switches.telling = false);
            s.park(notice.key, self.0.rt.now());
        }
        if notice.effect != Effect::Failed {
            return;
        }
        let due = self.0.rt.now().after(OWED_RETRY);
        let mut s = self.0.state.borrow_mut();
        let s = &mut *s;
        let mut out = Vec::new();
        let mut indexes = Indexes::new();
        let owed = s.index.change(notice.key, |e| {
            for r in e.recipients.iter_mut().filter(|r| r.phase == Phase::Owed) {
                r.due = due;
            }
            record::put_states_head(&mut out, 0, notice.reports.len() as u32);
            for report in &notice.reports {
                let attempts = e.recipients[report.index as usize].attempts;
                if let Some(archived) = &mut e.archived {
                    archived.reply(report.index, report.reply.clone());
                }
                let reply = report.reply.view();
                let fate = Fate::Owed;
                let s = Stored { index: report.index, fate, attempts, due: Wall(0), reply };
                record::put_state(&mut out, &s);
                indexes.push(report.index);
            }
        });
        if owed.is_none() {
            return;
        }
        // Said once, it stays so until it has been made.
        if !indexes.is_empty() && !notice.written {
            let after = After::Said { key: notice.key, indexes };
            self.note(s, record::OUTCOME, notice.id, &out, None, after);
        }
        s.arm(notice.key);
    }
}
