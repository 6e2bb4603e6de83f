//! Limits and times of a session.

use crate::smtp::data::{BareNewline, Limits, NulBytes};
use crate::smtp::extension::Offer;
use std::rc::Rc;
use std::time::Duration;

/// What a session allows. Shared by the sessions of a listener.
#[derive(Clone, Debug)]
pub struct Options {
    /// Our own name, in greeting and EHLO.
    pub hostname: String,
    /// Time for a TLS handshake.
    pub tls_time: Duration,
    /// Limits of a message; its `size` is also what SIZE offers.
    pub message: Limits,
    /// Longest command line in bytes with CRLF (RFC 5321 §4.5.3.1.4: at least 512 plus extensions).
    /// The input buffer of the shell must hold more than this.
    pub line_max: usize,
    /// Longest line of an AUTH exchange in bytes with CRLF (RFC 4954 §4: 12,288).
    pub auth_line: usize,
    /// Failed authentications of a session that end it.
    pub auth_failures_max: u32,
    /// Recipients of one message (RFC 5321 §4.5.3.1.8: at least 100).
    pub recipients_max: u32,
    /// Recipients above [`Self::recipients_max`] that are answered 452 before each counts as an error.
    pub recipients_overshoot: u32,
    /// Bytes of an envelope from which on recipients are answered 452, whatever their number (room for
    /// 100 of the longest must remain).
    pub envelope_max: usize,
    /// Transactions of one session.
    pub transactions_max: u32,
    /// Commands that bring no mail (NOOP, RSET, VRFY, EXPN, HELP, repeated EHLO) between two
    /// accepted messages; one more ends the session.
    pub junk_max: u32,
    /// Errors between two accepted messages from which on replies are delayed.
    pub errors_soft: u32,
    /// Errors between two accepted messages that end the session.
    pub errors_hard: u32,
    /// Commands before EHLO or HELO that are unknown; so many end the session.
    pub unknown_max: u32,
    /// Delay of replies above [`Self::errors_soft`].
    pub error_delay: Duration,
    /// Time for one command line (RFC 5321 §4.5.3.2.7: 5 min).
    pub command_time: Duration,
    /// Time between two pieces of a message.
    pub block_time: Duration,
    /// Time from MAIL to the beginning of the message.
    pub envelope_time: Duration,
    /// Time for a message, to which the time at [`Self::data_rate`] is added.
    pub data_time: Duration,
    /// Least average rate of a message in bytes per second; 0: none.
    pub data_rate: u64,
    /// Bytes of a refused message that are read and dropped before the session ends.
    pub drop_max: u64,
    /// Commands that are obeyed in a row before [`Step::Yield`](super::Step::Yield).
    pub burst: u32,
    /// Bytes of replies that may wait before [`Step::Yield`](super::Step::Yield).
    pub replies_max: usize,
    /// Bytes before the banner end the session.
    pub refuse_early_talkers: bool,
    /// Bytes behind EHLO, HELO or DATA before their reply end the session (RFC 2920 §3.1).
    pub refuse_bad_pipelining: bool,
}

impl Options {
    /// The defaults of the product.
    #[must_use]
    pub fn production(hostname: &str) -> Self {
        Options {
            hostname: hostname.to_string(),
            tls_time: Duration::from_secs(30),
            message: Limits {
                size: 50 << 20,
                header: 1 << 20,
                field: 100 << 10,
                fields: 1000,
                hops: 50,
                bare_newline: BareNewline::Refuse,
                nul: NulBytes::Refuse,
            },
            line_max: 2048,
            auth_line: 12_288,
            auth_failures_max: 3,
            recipients_max: 1000,
            recipients_overshoot: 1000,
            envelope_max: 256 << 10,
            transactions_max: 1000,
            junk_max: 100,
            errors_soft: 10,
            errors_hard: 20,
            unknown_max: 3,
            error_delay: Duration::from_secs(1),
            command_time: Duration::from_secs(300),
            block_time: Duration::from_secs(180),
            envelope_time: Duration::from_secs(1800),
            data_time: Duration::from_secs(300),
            data_rate: 500,
            drop_max: 256 << 20,
            burst: 64,
            replies_max: 16 << 10,
            refuse_early_talkers: true,
            refuse_bad_pipelining: true,
        }
    }

    /// Small limits, so that tests reach each of them.
    #[must_use]
    pub fn tiny() -> Self {
        let production = Options::production("mx.test");
        Options {
            message: Limits {
                size: 1000,
                header: 400,
                field: 200,
                fields: 10,
                hops: 3,
                ..production.message
            },
            line_max: 600,
            recipients_max: 3,
            recipients_overshoot: 2,
            envelope_max: 2000,
            transactions_max: 4,
            junk_max: 5,
            errors_soft: 2,
            errors_hard: 4,
            unknown_max: 2,
            drop_max: 5000,
            burst: 8,
            replies_max: 1000,
            ..production
        }
    }

    /// What EHLO offers.
    #[must_use]
    pub fn offer(&self) -> Offer {
        Offer {
            // RFC 1870 §4: 0 says that there is no fixed limit.
            size: if self.message.size >= u64::MAX >> 1 { 0 } else { self.message.size },
            recipients: self.recipients_max,
            transactions: self.transactions_max,
            // The session knows these.
            starttls: false,
            dsn: true,
            auth: Rc::from(""),
        }
    }
}
