//! L2: what a server says it can do, read from its EHLO reply (RFC 5321 §4.1.1.1).
//!
//! Unknown keywords and senseless parameters are passed over: they harm nobody.

use crate::auth::mechanism::{Mechanism, Set};
use crate::smtp::parameter::number;
use crate::smtp::reply_in::Reply;

/// The extensions that a server offers.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Capabilities {
    /// PIPELINING (RFC 2920).
    pub pipelining: bool,
    /// 8BITMIME (RFC 6152).
    pub eight_bit_mime: bool,
    /// SMTPUTF8 (RFC 6531).
    pub smtputf8: bool,
    /// DSN (RFC 3461).
    pub dsn: bool,
    /// ENHANCEDSTATUSCODES (RFC 2034); such codes are also understood without it.
    pub enhanced_status_codes: bool,
    /// CHUNKING (RFC 3030).
    pub chunking: bool,
    /// STARTTLS (RFC 3207).
    pub starttls: bool,
    /// AUTH (RFC 4954): the mechanisms that we know of.
    pub auth: Set,
    /// SIZE (RFC 1870): `Some(0)` without a limit that can be read, else the limit in bytes.
    pub size: Option<u64>,
    /// LIMITS RCPTMAX (RFC 9422 §4.2): most recipients of a transaction.
    pub recipients_max: Option<u32>,
    /// LIMITS MAILMAX (RFC 9422 §4.1): most transactions of a session.
    pub transactions_max: Option<u32>,
}

impl Capabilities {
    /// Reads the lines after the first one.
    #[must_use]
    pub fn read(ehlo: &Reply<'_>) -> Self {
        let mut caps = Capabilities::default();
        for line in ehlo.lines().skip(1) {
            caps.read_line(line);
        }
        caps
    }

    fn read_line(&mut self, line: &[u8]) {
        let mut words = line.split(|&b| b == b' ').filter(|w| !w.is_empty());
        let Some(keyword) = words.next() else { return };
        let is = |name: &str| keyword.eq_ignore_ascii_case(name.as_bytes());
        if is("PIPELINING") {
            self.pipelining = true;
        } else if is("8BITMIME") {
            self.eight_bit_mime = true;
        } else if is("SMTPUTF8") {
            self.smtputf8 = true;
        } else if is("DSN") {
            self.dsn = true;
        } else if is("ENHANCEDSTATUSCODES") {
            self.enhanced_status_codes = true;
        } else if is("CHUNKING") {
            self.chunking = true;
        } else if is("STARTTLS") {
            self.starttls = true;
        } else if is("SIZE") {
            self.size = Some(words.next().and_then(number).unwrap_or(0));
        } else if is("AUTH") {
            self.auth = words.filter_map(Mechanism::from_name).fold(self.auth, Set::with);
        } else if is("LIMITS") {
            words.for_each(|w| self.read_limit(w));
        }
    }

    fn read_limit(&mut self, word: &[u8]) {
        let mut halves = word.splitn(2, |&b| b == b'=');
        let (Some(name), Some(value)) = (halves.next(), halves.next()) else { return };
        // RFC 9422 §3: a limit is a positive number of at most six digits.
        let value = number(value).filter(|&n| (1..=999_999).contains(&n)).map(|n| n as u32);
        if name.eq_ignore_ascii_case(b"RCPTMAX") {
            self.recipients_max = value;
        } else if name.eq_ignore_ascii_case(b"MAILMAX") {
            self.transactions_max = value;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Capabilities {
        Capabilities::read(&Reply { code: 250, enhanced: None, text: text.as_bytes() })
    }

    #[test]
    fn reads_what_servers_say() {
        let caps = read(
            "mx PIPELINING\npipelining\nSIZE 1000\n8BITMIME\nLIMITS RCPTMAX=20 MAILMAX=5 X=1\nX-ODD =\n",
        );
        assert_eq!(
            (caps.pipelining, caps.eight_bit_mime, caps.smtputf8, caps.dsn),
            (true, true, false, false)
        );
        assert_eq!((caps.size, caps.recipients_max, caps.transactions_max), (Some(1000), Some(20), Some(5)));
        let caps = read(
            "mx\nSIZE\nLIMITS RCPTMAX=0 MAILMAX=-1\nSIZES 3\nSMTPUTF8 x\nDSN\nSTARTTLS\nCHUNKING\n\
             AUTH plain X",
        );
        assert!(caps.auth.has(Mechanism::Plain) && !caps.auth.has(Mechanism::Login));
        assert_eq!((caps.size, caps.recipients_max, caps.transactions_max), (Some(0), None, None));
        assert!(caps.smtputf8 && caps.dsn && caps.starttls && caps.chunking && !caps.pipelining);
        assert_eq!(read("PIPELINING"), Capabilities::default(), "the first line is the greeting");
        assert_eq!(read("mx\nSIZE 99999999999999999999").size, Some(u64::MAX), "saturated");
        for odd in ["-1", "+5", "x", "999999999999999999999"] {
            assert_eq!(read(&format!("mx\nSIZE {odd}")).size, Some(0), "{odd}");
        }
    }
}
