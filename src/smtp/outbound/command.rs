//! L2: the commands that we send, and the refusal to send what is none.
//!
//! An address or parameter can never end its command or add a parameter to it: what could do so
//! is refused here, whatever the parts before have let through.

use super::capability::Capabilities;
use crate::message::body::BodyFlags;
use crate::message::envelope::{EnvelopeView, Notify, Recipient, Ret};
use crate::smtp::reply::put_number;

/// Longest address that is sent, in bytes. RFC 5321 §4.5.3.1.3 allows 256 with brackets.
pub const ADDRESS_MAX: usize = 998;

/// True if `address` can stand between angle brackets: no controls, no space or bracket outside
/// of a quoted string, quotes closed.
#[must_use]
pub fn is_sendable(address: &[u8]) -> bool {
    // Nearly all addresses are plain; asked several times for each.
    let odd = |b: &u8| *b <= b' ' || matches!(*b, b'"' | b'<' | b'>' | b'\\' | 0x7f);
    if !address.iter().fold(false, |any, b| any | odd(b)) {
        return address.len() <= ADDRESS_MAX;
    }
    let mut quoted = false;
    let mut escaped = false;
    for &b in address {
        if b < b' ' || b == 0x7f {
            return false;
        }
        if escaped {
            escaped = false;
            continue;
        }
        match b {
            b'"' => quoted = !quoted,
            b'\\' if quoted => escaped = true,
            b' ' | b'<' | b'>' if !quoted => return false,
            _ => {}
        }
    }
    !quoted && !escaped && address.len() <= ADDRESS_MAX
}

/// True if a parameter value can be sent: visible ASCII, so neither space nor line end.
fn is_value(value: &[u8]) -> bool {
    !value.is_empty() && value.len() <= ADDRESS_MAX && value.iter().all(|b| (b'!'..=b'~').contains(b))
}

/// Appends `EHLO name` or `HELO name`. Bytes of the name that could end the line are left out.
pub fn hello(verb: &str, name: &str, out: &mut Vec<u8>) {
    out.extend_from_slice(verb.as_bytes());
    out.push(b' ');
    out.extend(name.bytes().filter(|b| (b'!'..=b'~').contains(b)));
    out.extend_from_slice(b"\r\n");
}

/// What MAIL says about the message as a whole.
#[derive(Clone, Copy, Debug)]
pub struct MailFacts {
    /// Size in bytes (RFC 1870 §3: with CRLFs, without the dots).
    pub size: u64,
    /// Flags of the body.
    pub flags: BodyFlags,
    /// The transaction needs SMTPUTF8.
    pub smtputf8: bool,
}

/// Appends MAIL with the parameters that the server understands. Panics if the sender is not
/// sendable (checked by the caller, who can refuse).
pub fn mail(envelope: &EnvelopeView<'_>, facts: MailFacts, caps: &Capabilities, out: &mut Vec<u8>) {
    assert!(is_sendable(envelope.sender()), "an unsendable sender got this far");
    out.extend_from_slice(b"MAIL FROM:<");
    out.extend_from_slice(envelope.sender());
    out.push(b'>');
    if caps.size.is_some() {
        out.extend_from_slice(b" SIZE=");
        put_number(out, facts.size);
    }
    if facts.flags.eight_bit() && caps.eight_bit_mime {
        out.extend_from_slice(b" BODY=8BITMIME");
    }
    if facts.smtputf8 && caps.smtputf8 {
        out.extend_from_slice(b" SMTPUTF8");
    }
    if caps.dsn {
        match envelope.options().ret {
            Some(Ret::Full) => out.extend_from_slice(b" RET=FULL"),
            Some(Ret::Headers) => out.extend_from_slice(b" RET=HDRS"),
            None => {}
        }
        if is_value(envelope.envid()) {
            out.extend_from_slice(b" ENVID=");
            out.extend_from_slice(envelope.envid());
        }
    }
    out.extend_from_slice(b"\r\n");
}

/// Appends RCPT. Panics if the address is not sendable (checked by the caller, who can refuse).
pub fn rcpt(recipient: &Recipient<'_>, caps: &Capabilities, out: &mut Vec<u8>) {
    assert!(is_sendable(recipient.address), "an unsendable address got this far");
    out.extend_from_slice(b"RCPT TO:<");
    out.extend_from_slice(recipient.address);
    out.push(b'>');
    if caps.dsn {
        notify(recipient.notify, out);
        if is_value(recipient.orcpt) {
            out.extend_from_slice(b" ORCPT=");
            out.extend_from_slice(recipient.orcpt);
        }
    }
    out.extend_from_slice(b"\r\n");
}

/// Appends BDAT for a message that goes in one chunk (RFC 3030 §2).
pub fn last_chunk(size: u64, out: &mut Vec<u8>) {
    out.extend_from_slice(b"BDAT ");
    put_number(out, size);
    out.extend_from_slice(b" LAST\r\n");
}

/// RFC 3461 §4.1: NEVER stands alone.
fn notify(n: Notify, out: &mut Vec<u8>) {
    if n.0 & 0b1111 == 0 {
        return;
    }
    out.extend_from_slice(b" NOTIFY=");
    if n.has(Notify::NEVER) {
        out.extend_from_slice(b"NEVER");
        return;
    }
    let mut comma: &[u8] = b"";
    for (bit, name) in [(Notify::SUCCESS, "SUCCESS"), (Notify::FAILURE, "FAILURE"), (Notify::DELAY, "DELAY")]
    {
        if n.has(bit) {
            out.extend_from_slice(comma);
            out.extend_from_slice(name.as_bytes());
            comma = b",";
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::envelope::{BodyKind, Envelope, SenderOptions};

    #[test]
    fn unsendable_addresses_are_refused() {
        for bad in [
            "a@b\r\nDATA",
            "a\n@b",
            "a\0@b",
            "a@b>",
            "a@b> NOTIFY=NEVER",
            "<a@b",
            "a b@c",
            "\"a@b",
            "\"a\\",
            "a\x7f@b",
            "\"a\r\n\"@b",
        ] {
            assert!(!is_sendable(bad.as_bytes()), "{bad:?}");
        }
        assert!(!is_sendable(&[b'a'; ADDRESS_MAX + 1]));
        for good in ["", "a@b", "\"a > b\"@c", "\"a\\\"b\"@c", "|prog@h", "${run{x}}@h", "d\u{f6}ner@h"] {
            assert!(is_sendable(good.as_bytes()), "{good:?}");
        }
    }

    #[test]
    fn parameters_only_where_offered() {
        let mut e = Envelope::default();
        let options = SenderOptions { body: BodyKind::EightBitMime, smtputf8: true, ret: Some(Ret::Headers) };
        e.begin(b"a@b", options, b"id+2B1");
        e.push(b"c@d", Notify(2 | 8), b"rfc822;c@d");
        e.push(b"e@f", Notify::NEVER, b"rfc822;e f");
        let facts = MailFacts { size: 10_240, flags: BodyFlags(2 | 4), smtputf8: true };
        let write = |caps: &Capabilities| {
            let mut out = Vec::new();
            mail(&e.view(), facts, caps, &mut out);
            e.view().recipients().for_each(|r| rcpt(&r, caps, &mut out));
            String::from_utf8(out).unwrap()
        };
        let all = Capabilities {
            size: Some(0),
            eight_bit_mime: true,
            smtputf8: true,
            dsn: true,
            ..Capabilities::default()
        };
        assert_eq!(
            write(&all),
            "MAIL FROM:<a@b> SIZE=10240 BODY=8BITMIME SMTPUTF8 RET=HDRS ENVID=id+2B1\r\n\
             RCPT TO:<c@d> NOTIFY=SUCCESS,DELAY ORCPT=rfc822;c@d\r\nRCPT TO:<e@f> NOTIFY=NEVER\r\n"
        );
        assert_eq!(write(&Capabilities::default()), "MAIL FROM:<a@b>\r\nRCPT TO:<c@d>\r\nRCPT TO:<e@f>\r\n");
        let mut out = Vec::new();
        hello("EHLO", "mx.example\r\nQUIT", &mut out);
        assert_eq!(out, b"EHLO mx.exampleQUIT\r\n");
        out.clear();
        put_number(&mut out, 0);
        assert_eq!(out, b"0");
    }
}
