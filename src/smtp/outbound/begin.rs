//! L2: what is said about a message, and to whom it cannot be said at all.
//!
//! A message that this server cannot take without being changed is refused here, honestly and
//! before a word is sent; nothing is converted.

use super::Begun;
use super::command::{self, MailFacts};
use super::dialogue::{Dialogue, Expected};
use super::transaction::{Outcome, Phase, Transaction};
use crate::base::time::Mono;
use crate::message::body::BodyFlags;
use crate::message::envelope::{EnvelopeView, Recipient};
use crate::smtp::reply_in::Enhanced;
use std::mem;

/// A message for some of its recipients.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    /// The envelope.
    pub envelope: EnvelopeView<'a>,
    /// Numbers of recipients in the envelope, ascending, at least one.
    pub recipients: &'a [u32],
    /// Flags of the body.
    pub flags: BodyFlags,
    /// Size of the whole message in bytes, without added dots.
    pub size: u64,
}

impl Dialogue {
    pub fn begin(&mut self, now: Mono, request: &Request<'_>, out: &mut Vec<u8>) -> Begun {
        let ready = self.is_open() && self.in_flight == 0 && self.expected.is_empty();
        assert!(ready || self.can_follow(), "no transaction can be begun now");
        let mut tx = mem::take(if self.in_flight == 0 { &mut self.current } else { &mut self.next });
        tx.clear(self.caps.dsn);
        let mut script = mem::take(&mut self.script);
        script.clear();
        self.script_at = 0;
        let at_once = self.pipelined();
        let text = if at_once { &mut *out } else { &mut script };
        let sent = match self.whole_refusal(request) {
            Some((enhanced, why)) => {
                request.recipients.iter().for_each(|&i| _ = tx.add(i));
                let v = tx.own(Outcome::Failed, enhanced, why, Phase::Local);
                tx.decide_rest(&v);
                false
            }
            None => self.write(now, request, &mut tx, text),
        };
        self.script = script;
        if !sent {
            // `settled` is free: its results were read before this call.
            mem::swap(&mut self.settled, &mut tx);
            self.put(tx);
            return Begun::Refused;
        }
        if !at_once {
            self.send_next_line(out);
        }
        self.begun += 1;
        tx.conn_use = self.begun;
        self.put(tx);
        self.in_flight += 1;
        Begun::Sent
    }

    fn put(&mut self, tx: Transaction) {
        *(if self.in_flight == 0 { &mut self.current } else { &mut self.next }) = tx;
    }

    /// Why no recipient can be served, if so.
    fn whole_refusal(&self, r: &Request<'_>) -> Option<(Enhanced, &'static [u8])> {
        if !command::is_sendable(r.envelope.sender()) {
            return Some(([5, 1, 7], b"sender address cannot be sent in a command"));
        }
        // RFC 1870 §6.1 (2)
        if self.caps.size.is_some_and(|max| max > 0 && r.size > max) {
            return Some(([5, 3, 4], b"message is larger than the next hop takes"));
        }
        // RFC 6531 §3.2: to a server without SMTPUTF8 such a message cannot be sent.
        if needs_utf8(r) && !self.caps.smtputf8 {
            return Some(([5, 6, 7], b"next hop does not offer SMTPUTF8"));
        }
        // RFC 6152 §3: convert or give up; a conversion would break signatures.
        if r.flags.eight_bit() && !self.caps.eight_bit_mime {
            return Some(([5, 6, 3], b"next hop does not offer 8BITMIME"));
        }
        None
    }

    /// Writes the commands; false if there is no recipient to send to.
    fn write(&mut self, now: Mono, r: &Request<'_>, tx: &mut Transaction, text: &mut Vec<u8>) -> bool {
        let limit = self.options.recipients_max.min(self.caps.recipients_max.unwrap_or(u32::MAX));
        let utf8 = needs_utf8(r) || chosen(r).any(|(_, a)| !a.address.is_ascii());
        let mut listed = 0;
        for (index, recipient) in chosen(r) {
            listed += 1;
            let slot = tx.add(index);
            if tx.waiting() > limit {
                let v = tx.own(Outcome::NotTried, [4, 5, 3], b"", Phase::Local);
                tx.decide(slot, v);
            } else if !command::is_sendable(recipient.address) {
                let v =
                    tx.own(Outcome::Failed, [5, 1, 3], b"address cannot be sent in a command", Phase::Local);
                tx.decide(slot, v);
            } else if !recipient.address.is_ascii() && !self.caps.smtputf8 {
                let v = tx.own(Outcome::Failed, [5, 6, 7], b"next hop does not offer SMTPUTF8", Phase::Local);
                tx.decide(slot, v);
            } else {
                if tx.waiting() == 1 {
                    self.write_mail(now, r, utf8, text);
                }
                command::rcpt(&recipient, &self.caps, text);
                self.expect(Expected::Rcpt(slot), now);
            }
        }
        assert_eq!(listed, r.recipients.len(), "recipients are ascending and of the envelope");
        if tx.waiting() == 0 {
            return false;
        }
        text.extend_from_slice(b"DATA\r\n");
        self.expect(Expected::Data, now);
        true
    }

    fn write_mail(&mut self, now: Mono, r: &Request<'_>, smtputf8: bool, text: &mut Vec<u8>) {
        if self.needs_reset {
            text.extend_from_slice(b"RSET\r\n");
            self.expect(Expected::Reset, now);
        }
        let facts = MailFacts { size: r.size, flags: r.flags, smtputf8 };
        command::mail(&r.envelope, facts, &self.caps, text);
        self.expect(Expected::Mail, now);
    }
}

/// Sender or header need SMTPUTF8. A header with 8-bit bytes of a message that came without
/// SMTPUTF8 is old practice, and goes as 8BITMIME.
fn needs_utf8(r: &Request<'_>) -> bool {
    !r.envelope.sender().is_ascii() || (r.flags.header_eight_bit() && r.envelope.options().smtputf8)
}

/// The recipients of the request with their numbers.
fn chosen<'a>(r: &Request<'a>) -> impl Iterator<Item = (u32, Recipient<'a>)> {
    let mut wanted = r.recipients.iter().copied().peekable();
    r.envelope
        .recipients()
        .zip(0u32..)
        .filter_map(move |(recipient, index)| wanted.next_if_eq(&index).map(|index| (index, recipient)))
}
