//! Records as lines of JSON; records and fields have the names of KumoMTA's log, as far as it has the like.
//!
//! Written by hand: a record costs a fraction of a microsecond. Text of peers becomes UTF-8 (what is not
//! is replaced), is cut, and its quotes, backslashes and control characters are escaped, so that no peer can
//! add a field or a line.

use super::{
    Attempt, Client, Complaint, Fate, NAMED_MAX, Reception, Rejection, Returned, Stamp, cut, put_number,
};
use crate::base::ids::QueueId;
use crate::base::time::Wall;
use std::io::Write;
use std::net::IpAddr;

/// The name of a field, in one piece.
macro_rules! name {
    ($out:expr, $field:literal) => {
        $out.extend_from_slice(concat!(",\"", $field, "\":").as_bytes())
    };
}

macro_rules! number {
    ($out:expr, $field:literal, $n:expr) => {{
        name!($out, $field);
        put_number($out, $n);
    }};
}

macro_rules! string {
    ($out:expr, $field:literal, $text:expr) => {{
        name!($out, $field);
        quoted($out, $text);
    }};
}

fn begin(out: &mut Vec<u8>, stamp: &Stamp, at: Wall, core: u16, kind: &str) {
    out.extend_from_slice(b"{\"type\":\"");
    out.extend_from_slice(kind.as_bytes());
    out.extend_from_slice(b"\",\"time\":\"");
    stamp.put(out, at);
    out.extend_from_slice(b"\",\"timestamp\":");
    stamp.put_seconds(out, at);
    number!(out, "core", core.into());
}

fn end(out: &mut Vec<u8>) {
    out.extend_from_slice(b"}\n");
}

fn quoted(out: &mut Vec<u8>, text: &[u8]) {
    let text = cut(text);
    out.push(b'"');
    if is_plain(text) {
        out.extend_from_slice(text);
    } else {
        for c in String::from_utf8_lossy(text).chars() {
            // Writing to a Vec cannot fail.
            let _ = match c {
                '"' | '\\' => write!(out, "\\{c}"),
                c if c.is_control() => write!(out, "\\u{:04x}", c as u32),
                c => write!(out, "{c}"),
            };
        }
    }
    out.push(b'"');
}

/// False if a byte is a quote, a backslash, a control character or none of ASCII. Eight at a time: nearly all
/// texts are short.
fn is_plain(text: &[u8]) -> bool {
    const ONES: u64 = u64::MAX / 255;
    const HIGH: u64 = ONES << 7;
    // The high bit of a byte that is zero is set; others may be, above one that is.
    let zero = |x: u64| x.wrapping_sub(ONES) & !x & HIGH;
    let odd = |x: u64| {
        let below = x.wrapping_sub(ONES * 0x20) & !x;
        let above = x.wrapping_add(ONES) | x;
        ((below | above) & HIGH) | zero(x ^ (ONES * b'"' as u64)) | zero(x ^ (ONES * b'\\' as u64))
    };
    let (eights, rest) = text.as_chunks::<8>();
    // The last eight may overlap those before; what is shorter is put together.
    let last = match text.last_chunk::<8>() {
        Some(last) => u64::from_le_bytes(*last),
        None => rest.iter().fold(ONES * b' ' as u64, |eight, b| eight << 8 | u64::from(*b)),
    };
    eights.iter().fold(odd(last), |any, eight| any | odd(u64::from_le_bytes(*eight))) == 0
}

macro_rules! id {
    ($out:expr, $field:literal, $id:expr) => {{
        $out.extend_from_slice(concat!(",\"", $field, "\":\"").as_bytes());
        $out.extend_from_slice(&$id.text());
        $out.push(b'"');
    }};
}

fn address(out: &mut Vec<u8>, address: IpAddr) {
    match address {
        IpAddr::V4(ip) => {
            let [a, b, c, d] = ip.octets();
            put_number(out, a.into());
            for part in [b, c, d] {
                out.push(b'.');
                put_number(out, part.into());
            }
        }
        // Writing to a Vec cannot fail.
        IpAddr::V6(ip) => drop(write!(out, "{ip}")),
    }
}

fn client(out: &mut Vec<u8>, c: &Client<'_>) {
    name!(out, "peer_address");
    out.extend_from_slice(b"{\"name\":");
    quoted(out, c.name);
    out.extend_from_slice(b",\"addr\":\"");
    address(out, c.address);
    out.extend_from_slice(b"\"}");
    string!(out, "helo", c.helo);
    string!(out, "reception_protocol", c.protocol.as_bytes());
    if let Some((version, cipher)) = c.tls {
        string!(out, "tls_protocol_version", version.as_bytes());
        string!(out, "tls_cipher", cipher.as_bytes());
    }
    if let Some(user) = c.user {
        string!(out, "user", user.as_bytes());
    }
}

pub(super) fn reception(out: &mut Vec<u8>, stamp: &Stamp, at: Wall, core: u16, r: &Reception<'_>) {
    begin(out, stamp, at, core, "Reception");
    if let Some(of) = r.id {
        id!(out, "id", of);
    }
    string!(out, "sender", r.envelope.sender());
    let mut recipients = r.envelope.recipients().map(|r| r.address);
    let first = recipients.next().unwrap_or_default();
    name!(out, "recipient");
    match recipients.next() {
        None => quoted(out, first),
        Some(second) => {
            out.push(b'[');
            quoted(out, first);
            let mut count = 1;
            for r in std::iter::once(second).chain(recipients) {
                count += 1;
                if count <= NAMED_MAX {
                    out.push(b',');
                    quoted(out, r);
                }
            }
            out.push(b']');
            number!(out, "recipients", count as u64);
        }
    }
    number!(out, "size", r.size);
    match &r.client {
        Some(c) => client(out, c),
        None => string!(out, "reception_protocol", b"internal"),
    }
    if let Some(about) = r.about {
        id!(out, "about", about);
    }
    end(out);
}

fn response(out: &mut Vec<u8>, (code, [class, subject, detail], content): (u16, [u16; 3], &[u8])) {
    name!(out, "response");
    out.extend_from_slice(b"{\"code\":");
    put_number(out, code.into());
    if class > 0 {
        name!(out, "enhanced_code");
        out.extend_from_slice(b"{\"class\":");
        put_number(out, class.into());
        number!(out, "subject", subject.into());
        number!(out, "detail", detail.into());
        out.push(b'}');
    }
    string!(out, "content", content);
    out.push(b'}');
}

pub(super) fn attempt(out: &mut Vec<u8>, stamp: &Stamp, at: Wall, core: u16, a: &Attempt<'_>) {
    let kind = match a.fate {
        Fate::Delivery => "Delivery",
        Fate::TransientFailure => "TransientFailure",
        Fate::Delayed => "Delayed",
        Fate::Bounce => "Bounce",
        Fate::Expiration => "Expiration",
    };
    begin(out, stamp, at, core, kind);
    if let Some(of) = a.id {
        id!(out, "id", of);
    }
    string!(out, "sender", a.sender);
    string!(out, "recipient", a.recipient);
    string!(out, "queue", a.queue.as_bytes());
    string!(out, "site", a.site.as_bytes());
    number!(out, "size", a.size);
    response(out, a.reply);
    if !a.server.is_empty() {
        name!(out, "peer_address");
        out.extend_from_slice(b"{\"name\":");
        quoted(out, a.server.as_bytes());
        out.push(b'}');
    }
    string!(out, "delivery_protocol", if a.local { b"mailbox" } else { b"ESMTP" });
    number!(out, "num_attempts", a.attempts.into());
    number!(out, "created", a.arrival.seconds());
    number!(out, "delay_ms", a.age.as_millis() as u64);
    number!(out, "attempt_ms", a.took.as_millis() as u64);
    end(out);
}

pub(super) fn rejection(out: &mut Vec<u8>, stamp: &Stamp, at: Wall, core: u16, r: &Rejection<'_>) {
    begin(out, stamp, at, core, "Rejection");
    string!(out, "command", r.command.as_bytes());
    string!(out, "sender", r.sender);
    if !r.recipient.is_empty() {
        string!(out, "recipient", r.recipient);
    }
    let code = r.reply.get(..3).and_then(|c| std::str::from_utf8(c).ok()?.parse().ok());
    name!(out, "response");
    out.extend_from_slice(b"{\"code\":");
    put_number(out, code.unwrap_or(0));
    string!(out, "content", r.reply.get(4..).unwrap_or_default());
    out.push(b'}');
    client(out, &r.client);
    end(out);
}

pub(super) fn removal(out: &mut Vec<u8>, stamp: &Stamp, at: Wall, core: u16, of: QueueId, reason: &[u8]) {
    begin(out, stamp, at, core, "AdminBounce");
    id!(out, "id", of);
    string!(out, "reason", reason);
    end(out);
}

macro_rules! said {
    ($out:expr, $field:literal, $text:expr) => {
        if !$text.is_empty() {
            string!($out, $field, $text);
        }
    };
}

fn list(out: &mut Vec<u8>, all: &[Vec<u8>]) {
    out.push(b'[');
    for (n, text) in all.iter().enumerate() {
        if n > 0 {
            out.push(b',');
        }
        quoted(out, text);
    }
    out.push(b']');
}

pub(super) fn complaint(out: &mut Vec<u8>, stamp: &Stamp, at: Wall, core: u16, c: &Complaint<'_>) {
    begin(out, stamp, at, core, "Feedback");
    id!(out, "id", c.id);
    string!(out, "sender", c.sender);
    string!(out, "recipient", c.recipient);
    let f = c.feedback;
    said!(out, "message_id", &f.message);
    name!(out, "feedback_report");
    out.extend_from_slice(b"{\"feedback_type\":");
    quoted(out, &f.kind);
    string!(out, "user_agent", &f.agent);
    string!(out, "version", &f.version);
    said!(out, "arrival_date", &f.arrival);
    number!(out, "incidents", f.incidents);
    said!(out, "original_envelope_id", &f.envelope);
    said!(out, "original_mail_from", &f.sender);
    said!(out, "reporting_mta", &f.reporting);
    said!(out, "source_ip", &f.source);
    name!(out, "original_rcpt_to");
    list(out, &f.recipients);
    name!(out, "reported_domain");
    list(out, &f.domains);
    name!(out, "reported_uri");
    list(out, &f.uris);
    name!(out, "authentication_results");
    list(out, &f.results);
    out.push(b'}');
    end(out);
}

pub(super) fn returned(out: &mut Vec<u8>, stamp: &Stamp, at: Wall, core: u16, r: &Returned<'_>) {
    // As KumoMTA calls it: out of band.
    begin(out, stamp, at, core, "OOB");
    id!(out, "id", r.id);
    // A bounce comes to the sender of what has bounced.
    string!(out, "sender", r.to);
    string!(out, "recipient", &r.of.address);
    said!(out, "original_recipient", &r.of.original);
    said!(out, "verp_recipient", r.named);
    string!(out, "action", r.of.action.text().as_bytes());
    let code = r.of.said.get(..3).filter(|code| code.iter().all(u8::is_ascii_digit));
    let code = code.and_then(|code| std::str::from_utf8(code).ok()?.parse().ok());
    response(out, (code.unwrap_or(0), r.of.status, &r.of.said));
    if !r.of.server.is_empty() {
        name!(out, "peer_address");
        out.extend_from_slice(b"{\"name\":");
        quoted(out, &r.of.server);
        out.push(b'}');
    }
    said!(out, "reporting_mta", &r.delivery.reporting);
    said!(out, "original_envelope_id", &r.delivery.envelope);
    said!(out, "message_id", &r.delivery.message);
    end(out);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_at_every_place_is_told_apart() {
        for length in 0..20 {
            let mut text = vec![b'~'; length];
            assert!(is_plain(&text));
            for at in 0..length {
                for byte in 0..=255 {
                    text[at] = byte;
                    let plain = matches!(byte, 0x20..=0x7e) && byte != b'"' && byte != b'\\';
                    assert_eq!(is_plain(&text), plain, "{text:?}");
                }
                text[at] = b' ';
            }
        }
    }
}
