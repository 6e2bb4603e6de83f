//! Limits and times of a session, and what it offers.

use std::time::Duration;

/// What a session allows. Shared by the sessions of a listener.
#[derive(Clone, Debug)]
pub struct Options {
    /// Longest command line in bytes with its line end (RFC 2449 §4: at least 255). The input buffer
    /// of the shell must hold more than this, and more than [`Self::auth_line`].
    pub line_max: usize,
    /// Longest line of an AUTH exchange in bytes with its line end (RFC 5034 §4: as in SMTP, 12,288).
    pub auth_line: usize,
    /// Failed logins of a session that end it.
    pub failures_max: u32,
    /// Refused commands between two messages that end the session.
    pub errors_max: u32,
    /// Commands before the login; one more ends the session.
    pub commands_before_login: u32,
    /// Time for a TLS handshake.
    pub tls_time: Duration,
    /// Time for each command before the login.
    pub login_time: Duration,
    /// Time for each command after the login (RFC 1939 §3: at least 10 min).
    pub idle_time: Duration,
    /// Time without progress while a message is sent.
    pub send_time: Duration,
    /// Commands that are obeyed in a row before [`Step::Yield`](super::Step::Yield).
    pub burst: u32,
    /// Bytes of replies that may wait before [`Step::Yield`](super::Step::Yield).
    pub replies_max: usize,
    /// Messages whose UIDLs are asked for at once.
    pub uidls_at_once: u32,
    /// LAST is obeyed (RFC 1460; not in RFC 1939).
    pub last: bool,
    /// Least seconds between two logins, for CAPA (RFC 2449 §6.5); 0: not announced. The shell
    /// enforces it.
    pub login_delay: u32,
    /// Days for which messages are kept, for CAPA (RFC 2449 §6.7); none: for ever.
    pub expire: Option<u32>,
}

impl Options {
    /// The defaults of the product.
    #[must_use]
    pub fn production() -> Self {
        Options {
            line_max: 2048,
            auth_line: 12_288,
            failures_max: 3,
            errors_max: 20,
            commands_before_login: 100,
            tls_time: Duration::from_secs(30),
            login_time: Duration::from_secs(180),
            idle_time: Duration::from_secs(600),
            send_time: Duration::from_secs(600),
            burst: 64,
            replies_max: 16 << 10,
            uidls_at_once: 1000,
            last: false,
            login_delay: 0,
            expire: None,
        }
    }

    /// Small limits, so that tests reach each of them.
    #[must_use]
    pub fn tiny() -> Self {
        Options {
            line_max: 100,
            auth_line: 200,
            errors_max: 4,
            commands_before_login: 12,
            burst: 8,
            replies_max: 300,
            uidls_at_once: 2,
            last: true,
            ..Options::production()
        }
    }
}
