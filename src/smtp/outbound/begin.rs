//! L2: what is said about a message, and to whom it cannot be said at all.
//!
//! A message that this server cannot take without being changed is refused here, honestly and
//! before a word is sent; nothing is converted.
//!
//! Four ways to say it. One command at a time. All at once up to DATA. With CHUNKING: all at once
//! up to RCPT, so that the message leaves only for recipients that were taken; or whole, message
//! and all, behind others that have not been answered. The first message of a connection, and the
//! first after a silence, goes by DATA nevertheless: of a dead connection nothing has been risked
//! then. (To ask with an empty chunk would do, too, but Postfix refuses those.)

use super::command::{self, MailFacts};
use super::dialogue::{Dialogue, Expected};
use super::transaction::{Outcome, Phase, Transaction};
use super::{Begun, Framing};
use crate::base::time::Mono;
use crate::message::body::BodyFlags;
use crate::message::envelope::{EnvelopeView, Recipient};
use crate::smtp::reply_in::Enhanced;
use std::mem;
use std::time::Duration;

/// Largest message that leaves with its envelope: of a larger one it is worth a round trip to know
/// first that it is wanted.
pub const WHOLE_MAX: u64 = 128 * 1024;
/// Most bytes of messages without their last reply, but for a single larger one.
const OUTSTANDING_MAX: u64 = 256 * 1024;
/// Most replies waited for behind which another transaction is begun: while we send, nobody reads
/// them, and they must fit into the buffers on their way.
const REPLIES_MAX: usize = 200;
/// A connection that was silent for so long may be dead.
const SILENCE: Duration = Duration::from_secs(1);

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
    /// The message is at hand and may leave at once: nothing is to be done before its end of data.
    pub at_once: bool,
}

impl Dialogue {
    pub fn begin(&mut self, now: Mono, request: &Request<'_>, out: &mut Vec<u8>) -> Begun {
        let ready = self.is_open() && self.open.is_empty() && self.expected.is_empty();
        assert!(ready || self.can_follow(), "no transaction can be begun now");
        let mut tx = self.spare.pop().unwrap_or_default();
        tx.clear(self.caps.dsn);
        self.choose_form(now, request, &mut tx);
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
            self.spare.push(tx);
            return Begun::Refused;
        }
        if !at_once {
            self.send_next_line(out);
        }
        self.begun += 1;
        tx.conn_use = self.begun;
        let whole = tx.whole;
        self.bytes += tx.size;
        self.open.push_back(tx);
        if whole { Begun::Whole } else { Begun::Sent }
    }

    fn choose_form(&self, now: Mono, r: &Request<'_>, tx: &mut Transaction) {
        tx.size = r.size;
        if !self.chunked() || self.must_wait(now) {
            return;
        }
        tx.framing = Framing::Counted;
        // What the replies leave of a transaction that failed differs from server to server.
        tx.unclosed = true;
        let fits = r.size <= WHOLE_MAX && self.bytes + r.size <= OUTSTANDING_MAX;
        tx.whole = r.at_once && fits && self.options.outstanding > 1;
    }

    /// True if the message is to wait until the server has shown that it is there.
    fn must_wait(&self, now: Mono) -> bool {
        self.open.is_empty() && (self.begun == 0 || now.since(self.since) > SILENCE)
    }

    /// RFC 2920 §3.1: the last lines of a message and the next commands may go together.
    pub fn can_follow(&self) -> bool {
        let open = self.open.len();
        if !self.pipelined() || !self.has_room() || open == 0 {
            return false;
        }
        // Some servers give one reply for two recipients that are the same (RFC 2033 §4.2 forbids it):
        // the answer to a command behind it would be taken for a recipient's.
        if self.options.lmtp {
            return false;
        }
        // The end of the message before it must be on its way.
        if self.expected.back() != Some(&Expected::FinalDot) || self.body_wanted {
            return false;
        }
        if !self.chunked() {
            return open == 1 && self.expected.len() == 1;
        }
        let few = (open as u32) < self.options.outstanding.max(2) && self.expected.len() <= REPLIES_MAX;
        few && (open == 1 || self.bytes <= OUTSTANDING_MAX - WHOLE_MAX)
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
        self.write_end(now, tx, text);
        true
    }

    fn write_mail(&mut self, now: Mono, r: &Request<'_>, smtputf8: bool, text: &mut Vec<u8>) {
        // Behind one that is not answered: whatever becomes of it, this one must begin afresh, or
        // its recipients could be taken for the transaction before (RFC 3030 §2 wants RSET too).
        let unsure = self.open.back().is_some_and(|before| before.framing == Framing::Counted);
        if self.needs_reset || unsure {
            text.extend_from_slice(b"RSET\r\n");
            self.expect(Expected::Reset, now);
        }
        let facts = MailFacts { size: r.size, flags: r.flags, smtputf8 };
        command::mail(&r.envelope, facts, &self.caps, text);
        self.expect(Expected::Mail, now);
    }

    /// Writes what comes behind the recipients.
    fn write_end(&mut self, now: Mono, tx: &Transaction, text: &mut Vec<u8>) {
        match tx.framing {
            Framing::Dots => {
                text.extend_from_slice(b"DATA\r\n");
                self.expect(Expected::Data, now);
            }
            Framing::Counted if tx.whole => {
                command::last_chunk(tx.size, text);
                self.expect(Expected::FinalDot, now);
            }
            Framing::Counted => {}
        }
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
