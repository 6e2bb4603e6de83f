//! What EHLO offers (RFC 5321 §4.1.1.1).
//!
//! Only what the server really does may be offered: each has its switch here, off by default. Cannot fail.

use crate::smtp::reply::put_number;
use std::rc::Rc;

/// The extensions that are offered.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Offer {
    /// SIZE in bytes (RFC 1870); 0: no limit.
    pub size: u64,
    /// LIMITS RCPTMAX (RFC 9422 §4.2); 0: not announced.
    pub recipients: u32,
    /// LIMITS MAILMAX (RFC 9422 §4.1); 0: not announced.
    pub transactions: u32,
    /// DSN (RFC 3461).
    pub dsn: bool,
    /// STARTTLS (RFC 3207).
    pub starttls: bool,
    /// AUTH mechanisms, separated by spaces (RFC 4954); empty: not offered.
    pub auth: Rc<str>,
}

/// Appends the reply to EHLO. `host` is our own name; `more` are lines for this client alone.
pub fn put_ehlo(out: &mut Vec<u8>, host: &str, offer: &Offer, more: &[&str]) {
    out.extend_from_slice(b"250-");
    out.extend_from_slice(host.as_bytes());
    // RFC 2920, RFC 1870
    out.extend_from_slice(b"\r\n250-PIPELINING\r\n250-SIZE ");
    put_number(out, offer.size);
    // RFC 6152, RFC 2034, RFC 3030 (without BINARYMIME)
    out.extend_from_slice(b"\r\n250-8BITMIME\r\n250-ENHANCEDSTATUSCODES\r\n250-CHUNKING\r\n");
    if offer.dsn {
        out.extend_from_slice(b"250-DSN\r\n");
    }
    if offer.starttls {
        out.extend_from_slice(b"250-STARTTLS\r\n");
    }
    if !offer.auth.is_empty() {
        out.extend_from_slice(b"250-AUTH ");
        out.extend_from_slice(offer.auth.as_bytes());
        out.extend_from_slice(b"\r\n");
    }
    for line in more {
        out.extend_from_slice(b"250-");
        out.extend_from_slice(line.as_bytes());
        out.extend_from_slice(b"\r\n");
    }
    if offer.transactions > 0 || offer.recipients > 0 {
        out.extend_from_slice(b"250-LIMITS");
        for (name, n) in [(" MAILMAX=", offer.transactions), (" RCPTMAX=", offer.recipients)] {
            if n > 0 {
                out.extend_from_slice(name.as_bytes());
                put_number(out, u64::from(n));
            }
        }
        out.extend_from_slice(b"\r\n");
    }
    // RFC 6531
    out.extend_from_slice(b"250 SMTPUTF8\r\n");
}

/// Appends the reply to HELO.
pub fn put_helo(out: &mut Vec<u8>, host: &str) {
    out.extend_from_slice(b"250 ");
    out.extend_from_slice(host.as_bytes());
    out.extend_from_slice(b"\r\n");
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(offer: &Offer) -> String {
        let mut out = Vec::new();
        put_ehlo(&mut out, "mx.example", offer, &["XCLIENT ADDR"]);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn offers() {
        let mut offer = Offer {
            size: 52_428_800,
            recipients: 1000,
            transactions: 99,
            starttls: false,
            dsn: true,
            auth: "".into(),
        };
        assert_eq!(
            lines(&offer),
            "250-mx.example\r\n250-PIPELINING\r\n250-SIZE 52428800\r\n250-8BITMIME\r\n\
             250-ENHANCEDSTATUSCODES\r\n250-CHUNKING\r\n250-DSN\r\n250-XCLIENT ADDR\r\n\
             250-LIMITS MAILMAX=99 RCPTMAX=1000\r\n250 SMTPUTF8\r\n"
        );
        (offer.recipients, offer.transactions, offer.starttls, offer.auth) = (0, 0, true, "PLAIN".into());
        let all = lines(&offer);
        assert!(!all.contains("LIMITS") && all.contains("250-STARTTLS\r\n250-AUTH PLAIN\r\n"), "{all}");
    }

    /// A real client's parser must see each keyword.
    #[test]
    fn another_implementation_reads_it() {
        use smtp_proto::{EXT_8BIT_MIME, EXT_CHUNKING, EXT_DSN, EXT_ENHANCED_STATUS_CODES, EXT_PIPELINING};
        use smtp_proto::{EXT_SIZE, EXT_SMTP_UTF8, EXT_START_TLS, EhloResponse};
        let text = lines(&Offer {
            size: 77,
            recipients: 5,
            transactions: 0,
            starttls: false,
            dsn: true,
            auth: "".into(),
        });
        let read = EhloResponse::parse(&mut text.as_bytes().iter()).unwrap();
        for want in [
            EXT_8BIT_MIME,
            EXT_CHUNKING,
            EXT_DSN,
            EXT_ENHANCED_STATUS_CODES,
            EXT_PIPELINING,
            EXT_SIZE,
            EXT_SMTP_UTF8,
        ] {
            assert!(read.has_capability(want), "{want}");
        }
        assert!(!read.has_capability(EXT_START_TLS));
        assert_eq!((read.hostname.as_str(), read.size), ("mx.example", 77));
    }
}
