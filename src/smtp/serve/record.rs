//! L4: what a session tells the mail log: messages that were taken, and what was refused.
//!
//! Reads the session and its replies, changes neither. Replies are taken as they were written: what the log
//! says is what the client was told.

use super::session::Talk;
use crate::base::ids::QueueId;
use crate::base::time::Wall;
use crate::events::mail::{Attempt, Client, Fate, MailLog, Reception, Rejection};
use crate::message::envelope::Envelope;
use crate::runtime::Runtime;
use std::time::Duration;

impl<R: Runtime> Talk<'_, R> {
    fn mail_log(&self) -> Option<&MailLog> {
        self.ctx.mail_log.get().filter(|log| log.is_on())
    }

    fn recorded_client(&self) -> Client<'_> {
        let client = self.client();
        Client {
            address: client.address,
            name: client.name.unwrap_or_default(),
            helo: client.helo,
            protocol: self.machine.protocol().text(),
            tls: self.machine.security().map(|s| (s.version.text(), s.cipher)),
            user: self.login.name(),
        }
    }

    /// The message of the transaction is safe.
    pub(super) fn record_taken(&self, id: Option<QueueId>) {
        let Some(log) = self.mail_log() else { return };
        let (envelope, size) = (self.machine.envelope().view(), self.facts().len);
        let client = Some(self.recorded_client());
        log.reception(self.ctx.rt.wall(), &Reception { id, client, envelope, size, about: None });
    }

    /// The message is in the mailboxes of all recipients but those of `left`, without having been queued.
    pub(super) fn record_short(&self, id: QueueId, arrival: Wall, took: Duration, left: Option<&Envelope>) {
        let Some(log) = self.mail_log() else { return };
        let (wall, size) = (self.ctx.rt.wall(), self.facts().len);
        let view = self.machine.envelope().view();
        let is_left =
            |address: &[u8]| left.is_some_and(|l| l.view().recipients().any(|r| r.address == address));
        for to in view.recipients().filter(|r| !is_left(r.address)) {
            let of = InMailbox { id: Some(id), sender: view.sender(), recipient: to.address, size };
            log.attempt(wall, &of.attempt(arrival, took));
        }
    }

    /// What is known of the message before it is answered: the machine forgets it with the answer.
    pub(super) fn keep_for_record(&self) -> Option<Kept> {
        let log = self.mail_log()?;
        let wall = self.ctx.rt.wall();
        Some(Kept {
            log: log.clone(),
            wall,
            envelope: self.machine.envelope().clone(),
            size: self.facts().len,
        })
    }

    /// The message was taken and is thrown away, for `by` says so.
    pub(super) fn record_discarded(&self, id: QueueId, by: &str) {
        let Some(log) = self.mail_log() else { return };
        self.record_taken(Some(id));
        log.removal(self.ctx.rt.wall(), id, format!("discarded: {by}").as_bytes());
    }

    /// The message was refused; the replies from `from` on say so.
    pub(super) fn record_refused(&self, kept: Option<Kept>, from: usize) {
        let (Some(kept), reply) = (kept, line(&self.out[from..])) else { return };
        let (client, sender) = (self.recorded_client(), kept.envelope.view().sender());
        let refused = Rejection { client, command: "DATA", sender, recipient: b"", reply };
        kept.log.rejection(kept.wall, &refused);
    }

    /// The replies from `from` on, if they refuse. `recipient`: the one that came last is meant.
    pub(super) fn record_refusal(&self, command: &'static str, recipient: bool, from: usize) {
        if !matches!(self.out.get(from), Some(b'4' | b'5')) {
            return;
        }
        let (Some(log), reply) = (self.mail_log(), line(&self.out[from..])) else { return };
        let envelope = self.machine.envelope();
        let last = envelope.last().filter(|_| recipient).map(|r| r.address);
        let (client, sender) = (self.recorded_client(), envelope.view().sender());
        let recipient = last.unwrap_or_default();
        log.rejection(self.ctx.rt.wall(), &Rejection { client, command, sender, recipient, reply });
    }

    /// What each recipient was answered (LMTP): the replies from `from` on.
    pub(super) fn record_answers(&self, kept: Option<Kept>, from: usize) {
        let Some(Kept { log, wall, envelope, size }) = kept else { return };
        let envelope = envelope.view();
        let client = self.recorded_client();
        let replies = self.out[from..].split_inclusive(|b| *b == b'\n').map(line);
        if replies.clone().any(|reply| reply.first() == Some(&b'2')) {
            log.reception(wall, &Reception { id: None, client: Some(client), envelope, size, about: None });
        }
        for (to, reply) in envelope.recipients().zip(replies) {
            let (sender, recipient) = (envelope.sender(), to.address);
            if reply.first() != Some(&b'2') {
                log.rejection(wall, &Rejection { client, command: "DATA", sender, recipient, reply });
                continue;
            }
            log.attempt(wall, &InMailbox { id: None, sender, recipient, size }.attempt(wall, Duration::ZERO));
        }
    }
}

/// A message that is being answered.
pub(super) struct Kept {
    log: MailLog,
    wall: Wall,
    envelope: Envelope,
    size: u64,
}

/// A message that is in a mailbox.
struct InMailbox<'a> {
    id: Option<QueueId>,
    sender: &'a [u8],
    recipient: &'a [u8],
    size: u64,
}

impl<'a> InMailbox<'a> {
    fn attempt(&self, arrival: Wall, took: Duration) -> Attempt<'a> {
        Attempt {
            fate: Fate::Delivery,
            id: self.id,
            sender: self.sender,
            recipient: self.recipient,
            size: self.size,
            arrival,
            age: took,
            took,
            queue: "mailbox",
            site: "mailbox",
            local: true,
            server: "",
            attempts: 0,
            reply: (250, [2, 0, 0], b"delivered to its mailbox"),
        }
    }
}

/// The first line, without its end.
fn line(replies: &[u8]) -> &[u8] {
    let end = memchr::memchr(b'\r', replies).unwrap_or(replies.len());
    &replies[..end]
}
