//! L4: what the queue tells the mail log: attempts as they end, what is late, given up or removed, reports.
//!
//! Adds nothing to what is known: names and replies are those of the outcome. Nothing here can fail, and
//! nothing waits.

use crate::base::time::{Mono, Wall};
use crate::delivery::relay::{Outcome, RecipientResult};
use crate::events::mail::{Attempt, Fate, MailLog, Reception};
use crate::message::envelope::EnvelopeView;
use crate::queue::desk::settle::Item;
use crate::queue::desk::{Desk, NewMessage};
use crate::queue::index::{DestId, Entry, Key};
use crate::queue::record::{Effect, MessageView};
use crate::queue::routing::Target;
use crate::queue::state::{self, Notice, Report, State};
use crate::runtime::Runtime;
use std::time::Duration;

/// When an attempt ended, and whether the message's time was over then.
pub(crate) struct Ended {
    pub now: Mono,
    pub wall: Wall,
    pub expired: bool,
}

impl<R: Runtime> Desk<R> {
    /// Where attempts and outcomes are recorded; to be said once, before anything is sent.
    pub fn set_mail_log(&self, log: MailLog) {
        // A second time is a bug that changes nothing.
        let _ = self.0.mail_log.set(log);
    }

    pub(crate) fn mail_log(&self) -> Option<&MailLog> {
        self.0.mail_log.get().filter(|log| log.is_on())
    }

    /// An attempt has ended so.
    pub(crate) fn record_attempts(
        &self,
        s: &State,
        item: &Item<R>,
        results: &[RecipientResult<'_>],
        at: &Ended,
    ) {
        let Some(log) = self.mail_log() else { return };
        let id = item.id.message;
        let age = s.ages.age(at.now, at.wall, id, item.arrival);
        let (queue, site) = self.names_of(s, item.destination);
        let local = is_local(s, item.destination);
        let envelope = item.envelope();
        let mut recipients = envelope.recipients().enumerate();
        for result in results {
            let index = result.index as usize;
            // Results come in the order of recipients.
            let found = recipients.by_ref().find(|(i, _)| *i == index).map(|(_, r)| r.address);
            let recipient = found.or_else(|| envelope.recipients().nth(index).map(|r| r.address));
            let fate = match result.outcome {
                Outcome::NotTried => continue,
                Outcome::Delivered => Fate::Delivery,
                Outcome::Deferred if at.expired => Fate::Expiration,
                Outcome::Deferred => Fate::TransientFailure,
                Outcome::Failed => Fate::Bounce,
            };
            let tried = s.index.get(item.key).and_then(|e| e.recipients.get(index)).map_or(0, |r| r.attempts);
            log.attempt(
                at.wall,
                &Attempt {
                    fate,
                    id: Some(item.id),
                    sender: envelope.sender(),
                    recipient: recipient.unwrap_or_default(),
                    size: item.size,
                    arrival: item.arrival,
                    age,
                    took: at.now.since(item.taken),
                    queue,
                    site,
                    local,
                    server: item.server.as_deref().unwrap_or_default(),
                    attempts: tried,
                    reply: (result.code, result.enhanced.unwrap_or_default(), result.text),
                },
            );
        }
    }

    fn names_of<'a>(&self, s: &'a State, d: DestId) -> (&'a str, &'a str) {
        match d >= state::LOCAL {
            // There is no route.
            true => ("", ""),
            false => (s.schedule.name(d), s.schedule.pool_name(s.schedule.pool_of(d))),
        }
    }

    /// These recipients were given up without an attempt: who they are is read back for that.
    pub(crate) fn record_given_up(&self, key: Key, d: DestId, reports: &[Report]) {
        if self.mail_log().is_none() {
            return;
        }
        let (desk, reports) = (self.clone(), reports.to_vec());
        self.0.rt.spawn(async move {
            let Some(payload) = desk.read_back(key).await else { return };
            let Ok(view) = MessageView::parse(&payload) else { return };
            let (Some(log), s) = (desk.mail_log(), desk.0.state.borrow()) else { return };
            let Some(e) = s.index.get(key) else { return };
            for report in &reports {
                desk.record_untried(log, &s, (e, &view), Fate::Expiration, (report, Some(d)));
            }
        });
    }

    /// The sender of the message of `notice` has been told that these recipients are late.
    pub(crate) fn record_delayed(&self, notice: &Notice, view: &MessageView<'_>, told: &[&Report]) {
        let (Some(log), s) = (self.mail_log(), self.0.state.borrow()) else { return };
        let Some(e) = s.index.get(notice.key) else { return };
        told.iter().for_each(|r| self.record_untried(log, &s, (e, view), Fate::Delayed, (r, None)));
    }

    /// What has become of a recipient without an attempt. Without a destination: of its own.
    fn record_untried(
        &self,
        log: &MailLog,
        s: &State,
        (e, view): (&Entry, &MessageView<'_>),
        fate: Fate,
        (report, d): (&Report, Option<DestId>),
    ) {
        let (now, wall, arrival) = (self.0.rt.now(), self.0.rt.wall(), view.head.arrival);
        let index = report.index as usize;
        let own = e.recipients.get(index);
        let d = d.or(own.map(|r| r.destination)).unwrap_or(state::NO_ROUTE);
        let (queue, site) = self.names_of(s, d);
        // Of what is given up nobody was asked.
        let said = fate == Fate::Delayed && report.reply.code > 0;
        let server = std::str::from_utf8(&report.reply.server).ok().filter(|_| said).unwrap_or_default();
        let attempt = Attempt {
            fate,
            id: Some(self.queue_id(e.id)),
            sender: view.envelope.sender(),
            recipient: view.envelope.recipients().nth(index).map(|r| r.address).unwrap_or_default(),
            size: e.size,
            arrival,
            age: s.ages.age(now, wall, e.id, arrival),
            took: Duration::ZERO,
            queue,
            site,
            local: is_local(s, d),
            server,
            attempts: own.map_or(0, |r| r.attempts),
            reply: (report.reply.code, report.reply.enhanced, &report.reply.text),
        };
        log.attempt(wall, &attempt);
    }

    /// A report about another message has been put into the queue.
    pub(crate) fn record_report(&self, m: &NewMessage<'_>) {
        let (Some(log), Some((envelope, _))) = (self.mail_log(), EnvelopeView::parse(m.envelope)) else {
            return;
        };
        let about = (m.effect != Effect::None).then(|| self.queue_id(m.origin));
        let id = Some(self.queue_id(m.id));
        log.reception(m.arrival, &Reception { id, client: None, envelope, size: m.len, about });
    }

    /// An operator has removed a message.
    pub(crate) fn record_removal(&self, id: crate::base::ids::MessageId, note: &[u8]) {
        if let Some(log) = self.mail_log() {
            log.removal(self.0.rt.wall(), self.queue_id(id), note);
        }
    }
}

/// True of mailboxes here.
fn is_local(s: &State, d: DestId) -> bool {
    let door = s.doors.get(d as usize);
    door.is_some_and(|d| matches!(d.hop.targets[..], [Target::Mailbox(_)]))
}
