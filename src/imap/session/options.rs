//! Limits and times of a session, and what it offers.

use std::time::Duration;

/// What a session allows. Shared by the sessions of a listener.
#[derive(Clone, Debug)]
pub struct Options {
    /// Failed logins of a session that end it.
    pub failures_max: u32,
    /// Commands in a row that were answered with BAD, after which the session ends.
    pub errors_max: u32,
    /// Commands before the login; one more ends the session.
    pub commands_before_login: u32,
    /// Longest line of an AUTHENTICATE exchange in bytes with its line end.
    pub auth_line: usize,
    /// Time for a TLS handshake.
    pub tls_time: Duration,
    /// Time for each command before the login.
    pub login_time: Duration,
    /// Time for each command after the login (RFC 9051 §5.4: at least 30 min).
    pub idle_time: Duration,
    /// Time without progress while a message is sent or received.
    pub send_time: Duration,
    /// Time after which something is said within IDLE, so that nobody on the way takes the connection
    /// for dead. Outlook counts on it.
    pub keepalive: Duration,
    /// Commands that are obeyed in a row before [`Step::Yield`](super::Step::Yield).
    pub burst: u32,
    /// Bytes of responses that may wait before [`Step::Yield`](super::Step::Yield).
    pub replies_max: usize,
    /// Messages that are looked at in a row before [`Step::Yield`](super::Step::Yield).
    pub messages_at_once: usize,
    /// Messages whose summaries are asked for at once.
    pub summaries_at_once: usize,
    /// Messages that are changed by one operation of the store.
    pub changes_at_once: usize,
    /// Bytes of a header that are looked at; what stands behind is no field for FETCH and SEARCH.
    pub header_max: u64,
    /// The largest message that APPEND takes, in bytes (RFC 7889); none: as the disk allows.
    pub append_limit: Option<u64>,
    /// Messages of one APPEND (RFC 3502).
    pub append_messages: usize,
}

impl Options {
    /// The defaults of the product.
    #[must_use]
    pub fn production() -> Self {
        Options {
            failures_max: 3,
            errors_max: 20,
            commands_before_login: 100,
            auth_line: 12_288,
            tls_time: Duration::from_secs(30),
            login_time: Duration::from_secs(180),
            idle_time: Duration::from_secs(1860),
            send_time: Duration::from_secs(600),
            keepalive: Duration::from_secs(120),
            burst: 64,
            replies_max: 32 << 10,
            messages_at_once: 4096,
            summaries_at_once: 32,
            changes_at_once: 4096,
            header_max: 1 << 20,
            append_limit: Some(64 << 20),
            append_messages: 100,
        }
    }

    /// Small limits, so that tests reach each of them.
    #[must_use]
    pub fn tiny() -> Self {
        Options {
            errors_max: 4,
            commands_before_login: 12,
            auth_line: 200,
            burst: 8,
            replies_max: 300,
            messages_at_once: 3,
            summaries_at_once: 2,
            changes_at_once: 2,
            header_max: 2000,
            append_limit: Some(100_000),
            append_messages: 4,
            ..Options::production()
        }
    }
}
