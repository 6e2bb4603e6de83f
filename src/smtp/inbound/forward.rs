//! XCLIENT and XFORWARD: what an intermediary says of the client it speaks for (as in Postfix's
//! XCLIENT_README and XFORWARD_README).
//!
//! Who may use them the shell decides, once, by the address of the connection. XCLIENT replaces the
//! client: the shell asks its rules again, and the session begins anew. XFORWARD describes the client
//! of one message, for its trace header only. A command is obeyed as a whole or not at all.

use super::{Question, Session, Step};
use crate::base::time::Mono;
use crate::message::domain;
use crate::smtp::parameter::decode_xtext;
use crate::smtp::reply::Reply;
use std::net::{IpAddr, Ipv6Addr};

/// What EHLO offers to intermediaries.
pub(super) const XCLIENT: &str = "XCLIENT NAME ADDR PORT PROTO HELO LOGIN DESTADDR DESTPORT";
pub(super) const XFORWARD: &str = "XFORWARD NAME ADDR PORT PROTO HELO IDENT SOURCE";

/// Longest value of an attribute in bytes, decoded.
const VALUE_MAX: usize = 255;

/// What has been said of something.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub enum Said<T> {
    /// Nothing.
    #[default]
    Not,
    /// That it is not known.
    Unknown,
    /// This.
    Is(T),
}

impl<T> Said<T> {
    /// What it is, if that has been said.
    pub fn known(&self) -> Option<&T> {
        match self {
            Said::Is(value) => Some(value),
            Said::Not | Said::Unknown => None,
        }
    }
}

/// A client, as an intermediary describes it. Values come from xtext and have no control characters.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Claim {
    /// NAME: its host name.
    pub name: Said<Box<[u8]>>,
    /// ADDR; IPv4 is never in IPv6 form.
    pub address: Said<IpAddr>,
    /// PORT.
    pub port: Said<u16>,
    /// PROTO: it speaks ESMTP, not SMTP.
    pub extended: Said<bool>,
    /// HELO: what it has said there.
    pub helo: Said<Box<[u8]>>,
    /// LOGIN: the name under which it has authenticated.
    pub login: Said<Box<[u8]>>,
    /// DESTADDR: the address it has connected to.
    pub server: Said<IpAddr>,
    /// DESTPORT.
    pub server_port: Said<u16>,
}

/// One of the two commands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Kind {
    Client,
    Forward,
}

impl Claim {
    /// Adds what `argument` says. `None`: it is not well formed, or names something else.
    pub(super) fn with(mut self, kind: Kind, argument: &[u8]) -> Option<Self> {
        for attribute in argument.split(|b| *b == b' ').filter(|a| !a.is_empty()) {
            let equals = memchr::memchr(b'=', attribute)?;
            let (name, value) = (attribute[..equals].to_ascii_uppercase(), decode(&attribute[equals + 1..])?);
            match (&name[..], kind) {
                (b"NAME", _) => self.name = said(&value, |v| domain::is_helo(v).then(|| v.into()))?,
                (b"ADDR", _) => self.address = said(&value, address)?,
                (b"PORT", _) => self.port = said(&value, number)?,
                (b"PROTO", _) => self.extended = said(&value, extended)?,
                (b"HELO", _) => self.helo = said(&value, |v| domain::is_helo(v).then(|| v.into()))?,
                (b"LOGIN", Kind::Client) => self.login = said(&value, |v| Some(v.into()))?,
                (b"DESTADDR", Kind::Client) => self.server = said(&value, address)?,
                (b"DESTPORT", Kind::Client) => self.server_port = said(&value, number)?,
                // The id of the message at the intermediary, for logs.
                (b"IDENT", Kind::Forward) => {}
                (b"SOURCE", Kind::Forward) => {
                    said(&value, source)?;
                }
                _ => return None,
            }
        }
        Some(self)
    }
}

fn said<T>(value: &[u8], read: impl Fn(&[u8]) -> Option<T>) -> Option<Said<T>> {
    let unknown = [&b"[UNAVAILABLE]"[..], b"[TEMPUNAVAIL]"].iter().any(|u| value.eq_ignore_ascii_case(u));
    if unknown { Some(Said::Unknown) } else { read(value).map(Said::Is) }
}

/// The bytes that xtext (RFC 3461 §4) stands for, if it is well formed and hides no control character.
fn decode(text: &[u8]) -> Option<Vec<u8>> {
    let hex = |at: usize| text.get(at).is_some_and(u8::is_ascii_hexdigit);
    let good = |(i, b): (usize, &u8)| match b {
        b'+' => hex(i + 1) && hex(i + 2),
        b'=' => false,
        33..=126 => true,
        _ => false,
    };
    if text.is_empty() || !text.iter().enumerate().all(good) {
        return None;
    }
    let mut value = Vec::with_capacity(text.len());
    decode_xtext(text, &mut value);
    let clean = value.iter().all(|b| *b >= 32 && *b != 127) && std::str::from_utf8(&value).is_ok();
    (clean && value.len() <= VALUE_MAX).then_some(value)
}

fn address(value: &[u8]) -> Option<IpAddr> {
    let text = std::str::from_utf8(value).ok()?;
    match text.split_at_checked(5) {
        Some((tag, rest)) if tag.eq_ignore_ascii_case("IPV6:") => {
            rest.parse::<Ipv6Addr>().ok().map(|a| IpAddr::V6(a).to_canonical())
        }
        _ => text.parse::<IpAddr>().ok().map(|a| a.to_canonical()),
    }
}

fn number(value: &[u8]) -> Option<u16> {
    let digits = value.iter().all(u8::is_ascii_digit);
    std::str::from_utf8(value).ok().filter(|_| digits)?.parse().ok()
}

fn extended(value: &[u8]) -> Option<bool> {
    match &value.to_ascii_uppercase()[..] {
        b"SMTP" => Some(false),
        b"ESMTP" => Some(true),
        _ => None,
    }
}

fn source(value: &[u8]) -> Option<()> {
    let known = [&b"LOCAL"[..], b"REMOTE"].iter().any(|s| value.eq_ignore_ascii_case(s));
    known.then_some(())
}

impl Session {
    /// The client may speak for others. To be said before the first command.
    pub fn allow_forwarding(&mut self) {
        self.forwarder = true;
    }

    /// What has been said of the client with XCLIENT, all commands together. To be looked at on
    /// [`Question::Client`]; it counts once that is answered with yes.
    #[must_use]
    pub fn claim(&self) -> Option<&Claim> {
        self.claim.as_deref()
    }

    /// The login of the client, if a forwarder has named one.
    #[must_use]
    pub fn claimed_login(&self) -> Option<&[u8]> {
        self.claim.as_ref()?.login.known().map(|login| &login[..])
    }

    /// What has been said of the client of the next message (XFORWARD).
    #[must_use]
    pub fn forwarded(&self) -> Option<&Claim> {
        self.forwarded.as_deref()
    }

    /// The limits of a session whose client has changed.
    pub fn set_options(&mut self, options: std::rc::Rc<super::Options>) {
        self.options = options;
    }

    pub(super) fn xclient(&mut self, now: Mono, argument: &[u8], out: &mut Vec<u8>) -> Option<Step> {
        match self.claimed(Kind::Client, self.claim.as_deref(), argument) {
            Ok(claim) => {
                if let Some(close) = self.count_junk(out) {
                    return Some(close);
                }
                self.claim = Some(Box::new(claim));
                self.ask(now, Question::Client)
            }
            Err(reply) => self.error(now, reply, out),
        }
    }

    pub(super) fn xforward(&mut self, now: Mono, argument: &[u8], out: &mut Vec<u8>) -> Option<Step> {
        match self.claimed(Kind::Forward, self.forwarded.as_deref(), argument) {
            Ok(claim) => {
                self.forwarded = Some(Box::new(claim));
                self.junk(Reply::OK, out)
            }
            Err(reply) => self.error(now, reply, out),
        }
    }

    fn claimed(&self, kind: Kind, before: Option<&Claim>, argument: &[u8]) -> Result<Claim, Reply> {
        if !self.forwarder {
            return Err(Reply::NO_FORWARDER);
        }
        if self.transaction.is_some() || self.transfer.is_some() {
            return Err(Reply::WITHIN_TRANSACTION);
        }
        let before = before.cloned().unwrap_or_default();
        before.with(kind, argument).ok_or(Reply::BAD_ATTRIBUTE)
    }

    /// The client is another one now: everything begins anew, with the greeting.
    pub(super) fn restart(&mut self, out: &mut Vec<u8>) {
        self.hello = super::Hello::None;
        self.helo.clear();
        self.forwarded = None;
        self.counts.unknown = 0;
        // Who has authenticated before was not this client.
        self.auth.authenticated = self.claimed_login().is_some();
        self.put_banner(out);
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::Shell;
    use super::super::{Answer, Options};
    use super::*;
    use proptest::prelude::*;

    fn claim(kind: Kind, argument: &str) -> Option<Claim> {
        Claim::default().with(kind, argument.as_bytes())
    }

    #[test]
    fn attributes() {
        let c = claim(
            Kind::Client,
            "NAME=a.example addr=192.0.2.7 PORT=40000 PROTO=ESMTP HELO=b+2Bc LOGIN=me+40here+C3+A9 \
             DESTADDR=IPV6:2001:db8::1 DESTPORT=25",
        )
        .unwrap();
        assert_eq!(c.name.known().unwrap()[..], *b"a.example");
        assert_eq!(c.address, Said::Is("192.0.2.7".parse().unwrap()));
        assert_eq!((c.port, c.extended), (Said::Is(40_000), Said::Is(true)));
        assert_eq!(c.helo.known().unwrap()[..], *b"b+c");
        assert_eq!(c.login.known().unwrap()[..], *"me@here\u{e9}".as_bytes());
        assert_eq!((c.server, c.server_port), (Said::Is("2001:db8::1".parse().unwrap()), Said::Is(25)));
        let c =
            claim(Kind::Client, "ADDR=IPV6:::ffff:192.0.2.7 NAME=[UNAVAILABLE] HELO=[tempunavail]").unwrap();
        assert_eq!(c.address, Said::Is("192.0.2.7".parse().unwrap()), "IPv4 in IPv6 form is IPv4");
        assert_eq!((c.name, c.helo, c.port), (Said::Unknown, Said::Unknown, Said::Not));
        let c = claim(Kind::Forward, "IDENT=4F1 SOURCE=REMOTE PROTO=smtp").unwrap();
        assert_eq!(c, Claim { extended: Said::Is(false), ..Claim::default() });
        for bad in [
            "NAME",
            "NAME=",
            "=x",
            "FOO=bar",
            "ADDR=1.2.3",
            "ADDR=IPV6:1.2.3.4",
            "ADDR=[192.0.2.7]",
            "PORT=65536",
            "PORT=-1",
            "PORT=+31+3",
            "PROTO=LMTP",
            "HELO=a+0Ab",
            "NAME=a+20b",
            "LOGIN=a+00",
            "LOGIN=a+7F",
            "LOGIN=+FF",
            "LOGIN=a=b",
            "LOGIN=+4",
            "DESTPORT=x",
            "IDENT=x",
            "SOURCE=LOCAL",
            "ADDR=1.2.3.4 FOO=1",
        ] {
            assert_eq!(claim(Kind::Client, bad), None, "{bad}");
        }
        for bad in ["LOGIN=me", "DESTADDR=192.0.2.1", "SOURCE=ELSEWHERE"] {
            assert_eq!(claim(Kind::Forward, bad), None, "{bad}");
        }
        assert!(claim(Kind::Client, &format!("LOGIN={}", "a".repeat(256))).is_none());
    }

    fn forwarder() -> Shell {
        let mut s = Shell::new(Options::production("mx.test"));
        s.session.allow_forwarding();
        s
    }

    #[test]
    fn a_client_is_replaced_and_the_session_begins_anew() {
        let mut s = forwarder();
        let offer = s.say("EHLO proxy.test\r\n");
        assert!(offer.contains(&format!("250-{XCLIENT}\r\n250-{XFORWARD}\r\n")), "{offer}");
        assert_eq!(s.say("XCLIENT ADDR=192.0.2.7 NAME=a.test\r\n"), "220 mx.test ESMTP ringpost\r\n");
        assert_eq!(s.codes("MAIL FROM:<a@b>\r\n"), "503", "EHLO again");
        // What is not said again stays.
        assert_eq!(s.codes("XCLIENT NAME=[UNAVAILABLE] HELO=c.test\r\n"), "220");
        let claim = s.session.claim().unwrap();
        assert_eq!((claim.address.known().is_some(), &claim.name), (true, &Said::Unknown));
        assert_eq!(s.codes("EHLO c.test\r\n"), "250");
        assert_eq!(s.codes("MAIL FROM:<a@b>\r\n"), "250");
        assert_eq!(s.codes("XCLIENT NAME=x\r\nXFORWARD NAME=x\r\n"), "503 503");
        assert_eq!(s.codes("RSET\r\nXCLIENT FOO=x\r\nXCLIENT\r\n"), "250 501 501");
        assert_eq!(s.codes("MAIL FROM:<a@b>\r\n"), "250", "a bad command changes nothing");
    }

    #[test]
    fn xforward_is_for_one_message() {
        let mut s = forwarder();
        s.say("EHLO filter.test\r\n");
        assert_eq!(s.codes("XFORWARD NAME=a.test ADDR=192.0.2.7\r\nXFORWARD HELO=h.test\r\n"), "250 250");
        let said = s.session.forwarded().unwrap().clone();
        assert!(said.address.known().is_some() && said.helo.known().is_some());
        assert_eq!(s.codes("MAIL FROM:<a@b>\r\nRCPT TO:<c@d>\r\n"), "250 250");
        assert_eq!(s.session.forwarded(), Some(&said));
        assert_eq!(s.codes("DATA\r\n"), "354");
        assert_eq!(s.codes(".\r\n"), "250");
        assert_eq!(s.session.forwarded(), None);
    }

    /// Attack catalogue, row 12.
    #[test]
    fn row_12_nobody_else_may() {
        let mut s = Shell::greeted(Options::production("mx.test"));
        assert_eq!(s.say("XCLIENT ADDR=127.0.0.1 LOGIN=root\r\n")[..9], *"550 5.7.0");
        assert_eq!(s.say("XFORWARD ADDR=127.0.0.1\r\n")[..9], *"550 5.7.0");
        assert_eq!((s.session.claim(), s.session.forwarded()), (None, None));
        assert!(!s.say("EHLO x\r\n").contains("XCLIENT"));
    }

    #[test]
    fn a_client_that_is_refused() {
        let mut s = forwarder();
        let mut out = Vec::new();
        let (used, step) = s.session.receive(s.now, b"XCLIENT ADDR=192.0.2.7\r\n", &mut out);
        assert_eq!((used, step), (24, Step::Ask(Question::Client)));
        s.session.answer(s.now, Answer::Refuse(Reply::TOO_OFTEN.into()), &mut out);
        assert_eq!(s.session.receive(s.now, b"", &mut out).1, Step::Close);
        assert!(out.starts_with(b"421 4.7.0"));
    }

    proptest! {
        #[test]
        fn never_panics_and_hides_nothing(argument in prop::collection::vec(any::<u8>(), 0..200)) {
            for kind in [Kind::Client, Kind::Forward] {
                if let Some(c) = Claim::default().with(kind, &argument) {
                    for text in [&c.name, &c.helo, &c.login].into_iter().filter_map(Said::known) {
                        prop_assert!(text.iter().all(|b| *b >= 32 && *b != 127) && text.len() <= VALUE_MAX);
                    }
                }
            }
        }
    }
}
