//! What filters may do to the transaction whose message has ended: give it another envelope, or have it
//! thrown away.
//!
//! Calls at any other time are bugs of the shell and panic.

use super::{Session, State};
use crate::base::time::Mono;
use crate::message::envelope::Envelope;
use crate::smtp::data::Limits;
use crate::smtp::reply::put_queued;

impl Session {
    /// The limits of messages in this session.
    #[must_use]
    pub fn limits(&self) -> Limits {
        self.options.message
    }

    /// The message of [`Step::EndOfMessage`](super::Step::EndOfMessage) has another sender or other
    /// recipients than its client has named; at least one.
    pub fn replace_envelope(&mut self, envelope: Envelope) {
        assert!(matches!(self.state, State::Ended(_)), "no message has ended");
        assert!(envelope.count() > 0, "a message without recipients is discarded");
        self.envelope = envelope;
    }

    /// The message of [`Step::EndOfMessage`](super::Step::EndOfMessage) is thrown away without telling the
    /// client, because a filter says so. This is the one positive reply to a message without a proof that it
    /// is on stable storage: there is nothing to be stored.
    pub fn discarded(&mut self, now: Mono, id: &[u8], out: &mut Vec<u8>) {
        assert!(!self.is_lmtp, "with LMTP there are no filters");
        self.end_message(now);
        put_queued(out, id);
    }
}
