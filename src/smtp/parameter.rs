//! Parameters of MAIL and RCPT (RFC 1870, 3461, 4954, 6152, 6531) and xtext.
//!
//! Values are checked and left as they stand. What was not offered is refused with 555, what is
//! wrong or repeated with 501. Knows no session.

use crate::message::envelope::{BodyKind, Notify, Ret};
use crate::smtp::command::{Mail, Rcpt};
use crate::smtp::reply::Reply;

/// Longest ENVID= in bytes (RFC 3461 §4.4).
pub const ENVID_MAX: usize = 100;
/// Longest ORCPT= in bytes (RFC 3461 §4.2).
pub const ORCPT_MAX: usize = 500;

/// Reads the parameters of MAIL into `mail`; `rest` is all that follows the path.
///
/// # Errors
/// The reply that refuses the command.
pub fn mail<'a>(rest: &'a [u8], mail: &mut Mail<'a>) -> Result<(), Reply> {
    let mut seen = 0u8;
    each(rest, |name, value| {
        let bit = match (word(name), value) {
            (SIZE, Some(v)) => {
                mail.size = Some(number(v).ok_or(Reply::BAD_PARAMETER)?);
                1
            }
            (BODY, Some(v)) => {
                mail.options.body = body(v)?;
                2
            }
            (SMTPUTF8, None) => {
                mail.options.smtputf8 = true;
                4
            }
            (RET, Some(v)) => {
                mail.options.ret = Some(ret(v)?);
                8
            }
            (ENVID, Some(v)) => {
                mail.envid = v;
                check(v.len() <= ENVID_MAX && is_xtext(v))?;
                16
            }
            // RFC 4954 §5: the name of a peer that is not trusted is checked and forgotten.
            (AUTH, Some(v)) => {
                check(v == b"<>" || is_xtext(v))?;
                32
            }
            (SIZE | BODY | RET | ENVID | AUTH, None) | (SMTPUTF8, Some(_)) => {
                return Err(Reply::BAD_PARAMETER);
            }
            _ => return Err(Reply::UNKNOWN_PARAMETER),
        };
        once(&mut seen, bit)
    })
}

/// Reads the parameters of RCPT into `rcpt`; `rest` is all that follows the path.
///
/// # Errors
/// The reply that refuses the command.
pub fn rcpt<'a>(rest: &'a [u8], rcpt: &mut Rcpt<'a>) -> Result<(), Reply> {
    let mut seen = 0u8;
    each(rest, |name, value| {
        let bit = match (word(name), value) {
            (NOTIFY, Some(v)) => {
                rcpt.notify = notify(v)?;
                1
            }
            (ORCPT, Some(v)) => {
                check(is_orcpt(v))?;
                rcpt.orcpt = v;
                2
            }
            (NOTIFY | ORCPT, None) => return Err(Reply::BAD_PARAMETER),
            _ => return Err(Reply::UNKNOWN_PARAMETER),
        };
        once(&mut seen, bit)
    })
}

/// Calls `visit` with each `name[=value]`; every one must be set off by a space.
fn each<'a>(
    rest: &'a [u8],
    mut visit: impl FnMut(&'a [u8], Option<&'a [u8]>) -> Result<(), Reply>,
) -> Result<(), Reply> {
    if rest.is_empty() {
        return Ok(());
    }
    check(rest[0] == b' ')?;
    for word in rest.split(|&b| b == b' ').filter(|w| !w.is_empty()) {
        match memchr::memchr(b'=', word) {
            Some(equals) => visit(&word[..equals], Some(&word[equals + 1..]))?,
            None => visit(word, None)?,
        }
    }
    Ok(())
}

/// A name as a number: its letters in upper case (RFC 5321 §2.4), one per byte. Names longer than any
/// known one are not recognized (0).
const fn word(name: &[u8]) -> u64 {
    if name.len() > 8 {
        return 0;
    }
    let (mut n, mut i) = (0, 0);
    while i < name.len() {
        n = n << 8 | name[i].to_ascii_uppercase() as u64;
        i += 1;
    }
    n
}

const SIZE: u64 = word(b"SIZE");
const BODY: u64 = word(b"BODY");
const SMTPUTF8: u64 = word(b"SMTPUTF8");
const RET: u64 = word(b"RET");
const ENVID: u64 = word(b"ENVID");
const AUTH: u64 = word(b"AUTH");
const NOTIFY: u64 = word(b"NOTIFY");
const ORCPT: u64 = word(b"ORCPT");

fn check(good: bool) -> Result<(), Reply> {
    if good { Ok(()) } else { Err(Reply::BAD_PARAMETER) }
}

fn once(seen: &mut u8, bit: u8) -> Result<(), Reply> {
    check(*seen & bit == 0)?;
    *seen |= bit;
    Ok(())
}

/// A decimal number of at most 20 digits (RFC 1870 §4), saturated. `None` for anything else.
#[must_use]
pub fn number(digits: &[u8]) -> Option<u64> {
    if digits.is_empty() || digits.len() > 20 || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    Some(digits.iter().fold(0u64, |n, d| n.saturating_mul(10).saturating_add(u64::from(d - b'0'))))
}

fn body(value: &[u8]) -> Result<BodyKind, Reply> {
    if value.eq_ignore_ascii_case(b"8BITMIME") {
        Ok(BodyKind::EightBitMime)
    } else if value.eq_ignore_ascii_case(b"7BIT") {
        Ok(BodyKind::SevenBit)
    } else {
        Err(Reply::BAD_PARAMETER) // BINARYMIME (RFC 3030) is not offered
    }
}

fn ret(value: &[u8]) -> Result<Ret, Reply> {
    if value.eq_ignore_ascii_case(b"FULL") {
        Ok(Ret::Full)
    } else if value.eq_ignore_ascii_case(b"HDRS") {
        Ok(Ret::Headers)
    } else {
        Err(Reply::BAD_PARAMETER)
    }
}

/// NEVER alone, or a list of SUCCESS, FAILURE, DELAY (RFC 3461 §4.1).
fn notify(value: &[u8]) -> Result<Notify, Reply> {
    if value.eq_ignore_ascii_case(b"NEVER") {
        return Ok(Notify::NEVER);
    }
    let mut set = Notify::DEFAULT;
    for word in value.split(|&b| b == b',') {
        let known =
            [(&b"SUCCESS"[..], Notify::SUCCESS), (b"FAILURE", Notify::FAILURE), (b"DELAY", Notify::DELAY)];
        let (_, bit) = known
            .into_iter()
            .find(|(name, _)| word.eq_ignore_ascii_case(name))
            .ok_or(Reply::BAD_PARAMETER)?;
        set = Notify(set.0 | bit.0);
    }
    Ok(set)
}

/// `type;address` (RFC 3461 §4.2); type `utf-8` may hold UTF-8 (RFC 6533 §3).
fn is_orcpt(value: &[u8]) -> bool {
    let Some(semicolon) = memchr::memchr(b';', value) else { return false };
    let (kind, address) = (&value[..semicolon], &value[semicolon + 1..]);
    let atom = |b: &u8| b.is_ascii_alphanumeric() || *b == b'-';
    if value.len() > ORCPT_MAX || kind.is_empty() || !kind.iter().all(atom) || address.is_empty() {
        return false;
    }
    let utf8 = kind.eq_ignore_ascii_case(b"utf-8") && std::str::from_utf8(address).is_ok();
    is_xtext_with(address, utf8)
}

/// True for xtext (RFC 3461 §4) that decodes to printable ASCII: no control can be hidden in it.
#[must_use]
pub fn is_xtext(text: &[u8]) -> bool {
    is_xtext_with(text, false)
}

fn is_xtext_with(text: &[u8], high: bool) -> bool {
    let mut i = 0;
    while let Some(&b) = text.get(i) {
        match b {
            b'+' => match text.get(i + 1..i + 3).and_then(decode_pair) {
                Some(32..=126) => i += 3,
                _ => return false,
            },
            b'=' => return false,
            33..=126 => i += 1,
            128.. if high => i += 1,
            _ => return false,
        }
    }
    true
}

fn decode_pair(pair: &[u8]) -> Option<u8> {
    let digit = |b: u8| char::from(b).to_digit(16);
    u8::try_from(digit(pair[0])? * 16 + digit(pair[1])?).ok()
}

/// Appends what `text` stands for. Bytes that are not xtext are copied as they are.
pub fn decode_xtext(text: &[u8], out: &mut Vec<u8>) {
    let mut i = 0;
    while let Some(&b) = text.get(i) {
        match text.get(i + 1..i + 3).filter(|_| b == b'+').and_then(decode_pair) {
            Some(decoded) => {
                out.push(decoded);
                i += 3;
            }
            None => {
                out.push(b);
                i += 1;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::smtp::command::{Command, parse};

    fn code(line: &str) -> String {
        match parse(line.as_bytes()) {
            Ok(_) => "ok".to_string(),
            Err(e) => e.reply().line()[..9].to_string(),
        }
    }

    #[test]
    fn values() {
        let id = "x".repeat(101);
        for (parameters, expect) in [
            ("SIZE=0", "ok"),
            ("SIZE=99999999999999999999", "ok"),
            ("SIZE=999999999999999999999", "501 5.5.4"),
            ("SIZE=", "501 5.5.4"),
            ("SIZE=-1", "501 5.5.4"),
            ("SIZE", "501 5.5.4"),
            ("SIZE=1 SIZE=1", "501 5.5.4"),
            ("BODY=BINARYMIME", "501 5.5.4"),
            ("SMTPUTF8=1", "501 5.5.4"),
            ("RET=NONE", "501 5.5.4"),
            ("RET=full", "ok"),
            ("ENVID=", "ok"),
            (&format!("ENVID={id}"), "501 5.5.4"),
            ("ENVID=a=b", "501 5.5.4"),
            ("AUTH=a+40b", "ok"),
            ("REQUIRETLS", "555 5.5.4"),
            ("MT-PRIORITY=3", "555 5.5.4"),
            ("X=", "555 5.5.4"),
            ("=X", "555 5.5.4"),
        ] {
            assert_eq!(code(&format!("MAIL FROM:<a@b> {parameters}")), expect, "{parameters}");
        }
        for (parameters, expect) in [
            ("NOTIFY=NEVER", "ok"),
            ("NOTIFY=NEVER,DELAY", "501 5.5.4"),
            ("NOTIFY=", "501 5.5.4"),
            ("NOTIFY=SUCCESS,,DELAY", "501 5.5.4"),
            ("ORCPT=rfc822;a@b", "ok"),
            ("ORCPT=utf-8;\u{e9}@b", "ok"),
            ("ORCPT=utf-8;\u{e9}+0D@b", "501 5.5.4"),
            ("ORCPT=rfc822;\u{e9}@b", "501 5.5.4"),
            ("ORCPT=a@b", "501 5.5.4"),
            ("ORCPT=;a", "501 5.5.4"),
            ("ORCPT=rfc822;a ORCPT=rfc822;a", "501 5.5.4"),
            ("SIZE=1", "555 5.5.4"),
        ] {
            assert_eq!(code(&format!("RCPT TO:<a@b> {parameters}")), expect, "{parameters}");
        }
    }

    /// Attack catalogue, row 8: CR, LF and NUL hidden in xtext.
    #[test]
    fn row_08_metadata_injection() {
        for hidden in ["a+0D+0AX", "a+0a", "+00", "+7F", "+80", "+", "+4", "+4g", "a+0D"] {
            assert_eq!(code(&format!("RCPT TO:<a@b> ORCPT=rfc822;{hidden}")), "501 5.5.4", "{hidden}");
            assert_eq!(code(&format!("MAIL FROM:<a@b> ENVID={hidden}")), "501 5.5.4", "{hidden}");
            assert_eq!(code(&format!("MAIL FROM:<a@b> AUTH={hidden}")), "501 5.5.4", "{hidden}");
        }
    }

    #[test]
    fn numbers_and_decoding() {
        assert_eq!(number(b"18446744073709551615"), Some(u64::MAX));
        assert_eq!(number(b"99999999999999999999"), Some(u64::MAX));
        assert_eq!((number(b"007"), number(b""), number(b"1 ")), (Some(7), None, None));
        let mut out = Vec::new();
        decode_xtext(b"a+2Bb+3Dc+", &mut out);
        assert_eq!(out, b"a+b=c+");
    }

    /// Another implementation must read the same out of lines that both accept.
    #[test]
    fn agrees_with_another_implementation() {
        use smtp_proto::{MAIL_BODY_8BITMIME, MAIL_RET_FULL, MAIL_RET_HDRS, MAIL_SMTPUTF8, Request};
        let addresses =
            ["", "a@b.example", "Some.One+tag=x@Example.NET", "x!y%z@b", "u@[192.0.2.1]", "a@xn--x"];
        let parameters = [
            "",
            " SIZE=12345",
            " BODY=8BITMIME",
            " BODY=7BIT SIZE=1",
            " SMTPUTF8",
            " RET=FULL ENVID=QQ314159",
            " RET=HDRS",
            " size=5 body=8bitmime smtputf8 ret=hdrs envid=a",
        ];
        // Quoted local parts are left out: the other one takes the quotes away.
        let mut compared = 0;
        for (address, parameters) in addresses.iter().flat_map(|a| parameters.iter().map(move |p| (a, p))) {
            let line = format!("MAIL FROM:<{address}>{parameters}");
            let Ok(Command::Mail(ours)) = parse(line.as_bytes()) else { panic!("{line}") };
            let wire = format!("{line}\r\n");
            let Ok(Request::Mail { from }) = Request::parse(&mut wire.as_bytes().iter()) else { continue };
            compared += 1;
            assert_eq!(from.address.as_bytes(), ours.sender.bytes(), "{line}");
            assert_eq!(from.size as u64, ours.size.unwrap_or(0), "{line}");
            assert_eq!(
                from.flags & MAIL_BODY_8BITMIME != 0,
                ours.options.body == BodyKind::EightBitMime,
                "{line}"
            );
            assert_eq!(from.flags & MAIL_SMTPUTF8 != 0, ours.options.smtputf8, "{line}");
            assert_eq!(from.flags & MAIL_RET_FULL != 0, ours.options.ret == Some(Ret::Full), "{line}");
            assert_eq!(from.flags & MAIL_RET_HDRS != 0, ours.options.ret == Some(Ret::Headers), "{line}");
            assert_eq!(from.env_id.as_deref().unwrap_or("").as_bytes(), ours.envid, "{line}");
        }
        assert!(compared >= 40, "only {compared} lines were accepted by both");
    }

    #[test]
    fn agrees_with_another_implementation_on_recipients() {
        use smtp_proto::{
            RCPT_NOTIFY_DELAY, RCPT_NOTIFY_FAILURE, RCPT_NOTIFY_NEVER, RCPT_NOTIFY_SUCCESS, Request,
        };
        let bits = [
            (RCPT_NOTIFY_DELAY, Notify::DELAY),
            (RCPT_NOTIFY_FAILURE, Notify::FAILURE),
            (RCPT_NOTIFY_NEVER, Notify::NEVER),
            (RCPT_NOTIFY_SUCCESS, Notify::SUCCESS),
        ];
        for parameters in [
            "",
            " NOTIFY=NEVER",
            " NOTIFY=SUCCESS,FAILURE,DELAY",
            " notify=delay",
            " ORCPT=rfc822;x@y",
            " NOTIFY=FAILURE ORCPT=rfc822;Carol@Ivory.EDU",
        ] {
            let line = format!("RCPT TO:<a.b@c.example>{parameters}");
            let Ok(Command::Rcpt(ours)) = parse(line.as_bytes()) else { panic!("{line}") };
            let wire = format!("{line}\r\n");
            let Ok(Request::Rcpt { to }) = Request::parse(&mut wire.as_bytes().iter()) else {
                panic!("{line}")
            };
            assert_eq!(to.address.as_bytes(), ours.recipient.bytes(), "{line}");
            for (theirs, mine) in bits {
                assert_eq!(to.flags & theirs != 0, ours.notify.has(mine), "{line}");
            }
            let orcpt = ours.orcpt.split(|&b| b == b';').nth(1).unwrap_or_default();
            assert_eq!(to.orcpt.as_deref().unwrap_or("").as_bytes(), orcpt, "{line}");
        }
    }
}
