//! L2: what follows EHLO before mail: TLS (RFC 3207) and AUTH.
//!
//! Knows no TLS: the shell does the handshake when it is told to, and says that it is done. Until then
//! nothing of what the server has said in clear text counts: bytes behind its 220 end the connection,
//! and EHLO is said again.

use super::capability::Capabilities;
use super::dialogue::{Close, Dialogue, Expected};
use super::{StartTls, Step};
use crate::base::time::Mono;
use crate::smtp::reply_in::Reply;

impl Dialogue {
    /// EHLO has been answered well, or HELO (`caps` is empty then).
    pub(super) fn after_hello(
        &mut self,
        caps: Capabilities,
        now: Mono,
        reply: &Reply<'_>,
        out: &mut Vec<u8>,
    ) -> Option<Step> {
        self.caps = caps;
        if !self.secured && !self.tls_declined && self.options.starttls != StartTls::Never {
            if self.caps.starttls {
                out.extend_from_slice(b"STARTTLS\r\n");
                self.expect(Expected::StartTls, now);
                return None;
            }
            if self.options.starttls == StartTls::Required {
                return Some(self.end(Close::TlsNotOffered, reply));
            }
        }
        self.begin_login(now, reply, out)
    }

    /// The reply to STARTTLS; `more`: bytes came behind it.
    pub(super) fn on_starttls(
        &mut self,
        now: Mono,
        reply: &Reply<'_>,
        more: bool,
        out: &mut Vec<u8>,
    ) -> Option<Step> {
        match reply.class() {
            // They may be anybody's, and would be taken for answers under TLS (RFC 3207 §4.2).
            2 if more => Some(self.end(Close::Injected, reply)),
            2 => {
                self.caps = Capabilities::default();
                self.secured = true;
                Some(Step::StartTls)
            }
            // RFC 3207 §4: whether to go on is ours to decide.
            4 | 5 if self.options.starttls == StartTls::Required => {
                Some(self.end(Close::TlsRefused(reply.code), reply))
            }
            4 | 5 => {
                self.tls_declined = true;
                self.begin_login(now, reply, out)
            }
            _ => Some(self.end(Close::Unexpected(reply.code), reply)),
        }
    }

    /// The handshake is done. RFC 3207 §4.2: EHLO again.
    pub(super) fn begin_secured(&mut self, now: Mono, out: &mut Vec<u8>) {
        assert!(self.secured && self.expected.is_empty(), "no handshake was asked for");
        self.greet(now, out);
    }
}
