//! The trace header that is put before every message (RFC 5321 §4.4, RFC 3848).
//!
//! Writes into a buffer of the caller without allocating once it has grown. What the peer said is
//! made harmless first; nothing here can fail.

use crate::base::security::Security;
use crate::message::date;
use std::io::Write;
use std::net::IpAddr;

/// What a Received field says.
#[derive(Clone, Copy, Debug)]
pub struct Trace<'a> {
    /// Argument of EHLO or HELO.
    pub helo: &'a [u8],
    /// Address of the peer.
    pub client: IpAddr,
    /// Name of the peer, if it has been confirmed both ways; else "unknown" is written.
    pub name: Option<&'a [u8]>,
    /// Nothing is said of the peer: one of our own users, who may be at home.
    pub hidden: bool,
    /// Our own name.
    pub host: &'a str,
    /// The keyword after `with`, such as ESMTP (RFC 3848, RFC 6531 §4.3).
    pub protocol: &'a str,
    /// Queue id.
    pub id: &'a [u8],
    /// What TLS has established; none in clear text.
    pub security: Option<&'a Security>,
    /// The recipient, if there is only one: with several, naming one would tell it to the others.
    pub recipient: Option<&'a [u8]>,
    /// When it was received.
    pub date: &'a [u8; date::LEN],
}

/// Appends the field, folded, with its CRLF.
pub fn put(out: &mut Vec<u8>, t: &Trace<'_>) {
    if t.hidden {
        out.extend_from_slice(b"Received: by ");
    } else {
        out.extend_from_slice(b"Received: from ");
        put_clean(out, t.helo);
        out.extend_from_slice(b" (");
        put_clean(out, t.name.unwrap_or(b"unknown"));
        out.push(b' ');
        put_literal(out, t.client);
        out.extend_from_slice(b")\r\n\tby ");
    }
    put_clean(out, t.host.as_bytes());
    out.extend_from_slice(b" (ringpost) with ");
    out.extend_from_slice(t.protocol.as_bytes());
    out.extend_from_slice(b" id ");
    put_clean(out, t.id);
    // RFC 6531 §3.7.3: an international address only in an international message.
    let may_stand = |r: &&[u8]| !r.is_empty() && (r.is_ascii() || t.protocol.starts_with("UTF8"));
    let recipient = t.recipient.filter(may_stand);
    if let Some(recipient) = recipient {
        out.extend_from_slice(b"\r\n\tfor <");
        out.extend_from_slice(recipient);
        out.push(b'>');
    }
    // RFC 8314 §4.3: the clause has the cipher; the version is a comment.
    if let Some(security) = t.security {
        for part in ["\r\n\ttls ", security.cipher, " (", security.version.text(), ")"] {
            out.extend_from_slice(part.as_bytes());
        }
    }
    let short = recipient.is_some() || t.security.is_some();
    out.extend_from_slice(if short { b"; " } else { b";\r\n\t" });
    out.extend_from_slice(t.date);
    out.extend_from_slice(b"\r\n");
}

/// Appends `[192.0.2.1]` or `[IPv6:2001:db8::1]` (RFC 5321 §4.1.3). An IPv4 peer on an IPv6 socket
/// is written as IPv4.
pub fn put_literal(out: &mut Vec<u8>, address: IpAddr) {
    match address.to_canonical() {
        IpAddr::V4(a) => {
            // By hand: formatting costs as much as all else of the field.
            for (n, part) in a.octets().into_iter().enumerate() {
                out.push(if n == 0 { b'[' } else { b'.' });
                if part >= 100 {
                    out.push(b'0' + part / 100);
                }
                if part >= 10 {
                    out.push(b'0' + part / 10 % 10);
                }
                out.push(b'0' + part % 10);
            }
            out.push(b']');
        }
        IpAddr::V6(a) => write!(out, "[IPv6:{a}]").expect("a vector takes everything"),
    }
}

/// Appends a name; bytes that do not belong into names and literals become question marks.
fn put_clean(out: &mut Vec<u8>, name: &[u8]) {
    out.extend(name.iter().map(|b| CLEAN[usize::from(*b)]));
}

/// What is written of each byte.
const CLEAN: [u8; 256] = {
    let mut clean = [b'?'; 256];
    let mut b = 0;
    while b < 256 {
        if matches!(
            b as u8,
            b'0'..=b'9' | b'A'..=b'Z' | b'a'..=b'z' | b'-' | b'_' | b'.' | b':' | b'[' | b']'
        ) {
            clean[b] = b as u8;
        }
        b += 1;
    }
    clean
};

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::time::Wall;
    use crate::message::headers;

    fn text(edit: impl FnOnce(&mut Trace<'_>)) -> String {
        let date = date::text(Wall(1_795_417_200_000));
        let mut t = Trace {
            helo: b"client.example",
            client: "192.0.2.7".parse().unwrap(),
            name: None,
            hidden: false,
            host: "mx1.example.net",
            protocol: "ESMTP",
            id: b"0BCD00000000F0",
            security: None,
            recipient: Some(b"a@b.example"),
            date: &date,
        };
        edit(&mut t);
        let mut out = Vec::new();
        put(&mut out, &t);
        assert_eq!(headers::fields(&out).count(), 1, "one field");
        assert_eq!(headers::fields(&out).next().unwrap().raw, out, "nothing beside it");
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn one_recipient() {
        assert_eq!(
            text(|_| ()),
            "Received: from client.example (unknown [192.0.2.7])\r\n\
             \tby mx1.example.net (ringpost) with ESMTP id 0BCD00000000F0\r\n\
             \tfor <a@b.example>; Mon, 23 Nov 2026 07:00:00 +0000\r\n"
        );
    }

    #[test]
    fn several_recipients_and_ipv6() {
        let t = text(|t| {
            t.recipient = None;
            t.client = "2001:db8::1".parse().unwrap();
            t.name = Some(b"client.example");
        });
        assert!(t.starts_with("Received: from client.example (client.example [IPv6:2001:db8::1])\r\n\tby "));
        assert!(
            t.ends_with("id 0BCD00000000F0;\r\n\tMon, 23 Nov 2026 07:00:00 +0000\r\n")
                && !t.contains("for <")
        );
        assert!(text(|t| t.client = "::ffff:192.0.2.7".parse().unwrap()).contains(" [192.0.2.7])"));
    }

    #[test]
    fn a_hidden_client() {
        let t = text(|t| (t.hidden, t.name) = (true, Some(&b"home.example"[..])));
        assert!(t.starts_with("Received: by mx1.example.net (ringpost) with ESMTP id "), "{t}");
        assert!(!t.contains("192.0.2.7") && !t.contains("client.example") && !t.contains("home"), "{t}");
    }

    #[test]
    fn under_tls() {
        let security = Security {
            version: crate::base::security::TlsVersion::Tls13,
            cipher: "TLS_AES_128_GCM_SHA256",
            resumed: false,
            server_name: None,
            client: None,
            bindings: Default::default(),
        };
        // `text` wants the field to outlive the call: a leak of a few bytes.
        let security: &'static Security = Box::leak(Box::new(security));
        let t = text(|t| (t.security, t.protocol) = (Some(security), "ESMTPS"));
        assert!(t.ends_with(
            " with ESMTPS id 0BCD00000000F0\r\n\tfor <a@b.example>\r\n\
             \ttls TLS_AES_128_GCM_SHA256 (TLSv1.3); Mon, 23 Nov 2026 07:00:00 +0000\r\n"
        ));
        let t = text(|t| (t.security, t.recipient) = (Some(security), None));
        assert!(t.contains(" id 0BCD00000000F0\r\n\ttls TLS_AES_128_GCM_SHA256 (TLSv1.3); Mon"), "{t}");
    }

    /// Attack catalogue, row 36: what the peer says cannot break out of its place.
    #[test]
    fn row_36_injection_through_helo() {
        let t = text(|t| t.helo = b"a) by evil (\"%s'\x1b[31m\r\nX: y");
        assert!(t.starts_with("Received: from a??by?evil????s??[31m??X:?y (unknown "), "{t}");
    }

    #[test]
    fn international_recipients_only_where_they_may_stand() {
        let r = "\u{e9}@b.example".as_bytes();
        assert!(!text(|t| t.recipient = Some(r)).contains("for <"));
        let t = text(|t| (t.recipient, t.protocol) = (Some(r), "UTF8SMTP"));
        assert!(t.contains("for <\u{e9}@b.example>;"));
    }
}
