//! What this server can do now: CAPA (RFC 2449), and LANG (RFC 6856 §3).

use super::{Session, Step};
use crate::pop3::reply::{END, Reply, put};

impl Session {
    /// The list is right at every moment: before and after TLS and login (RFC 2449 §5).
    pub(super) fn capa(&mut self, out: &mut Vec<u8>) -> Option<Step> {
        let before_login = self.maildrop.is_none();
        put(out, format_args!("+OK Capability list follows"));
        let plain = ["TOP", "UIDL", "RESP-CODES", "AUTH-RESP-CODE", "PIPELINING"];
        for name in plain {
            put(out, format_args!("{name}"));
        }
        if self.login.offer.passwords {
            put(out, format_args!("USER"));
        }
        if !self.login.offer.mechanisms.is_empty() {
            put(out, format_args!("SASL {}", self.login.offer.mechanisms));
        }
        // RFC 2595 §4, RFC 6856 §2: only where they can be used.
        if before_login && self.offers_tls() {
            put(out, format_args!("STLS"));
        }
        if before_login {
            put(out, format_args!("UTF8 USER"));
        }
        put(out, format_args!("LANG"));
        match self.options.expire {
            Some(days) => put(out, format_args!("EXPIRE {days}")),
            None => put(out, format_args!("EXPIRE NEVER")),
        }
        if self.options.login_delay > 0 {
            put(out, format_args!("LOGIN-DELAY {}", self.options.login_delay));
        }
        put(out, format_args!("IMPLEMENTATION ringpost"));
        out.extend_from_slice(END);
        None
    }

    /// We speak English.
    pub(super) fn language(&mut self, language: Option<&[u8]>, out: &mut Vec<u8>) -> Option<Step> {
        match language {
            None => {
                put(out, format_args!("+OK Language listing follows"));
                put(out, format_args!("en English"));
                out.extend_from_slice(END);
                None
            }
            // `*`: the one we like best.
            Some(tag) if tag == b"*" || tag.eq_ignore_ascii_case(b"en") => {
                put(out, format_args!("+OK en English"));
                None
            }
            Some(_) => self.error(Reply::UNKNOWN_LANGUAGE, out),
        }
    }
}
