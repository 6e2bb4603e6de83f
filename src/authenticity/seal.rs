//! A set of ARC fields (RFC 8617) for a message that is passed on: what was found out about it here, and a
//! signature and a seal over that.
//!
//! Owns which set comes next, and when there is none. The header is in memory, the body has been hashed.
//! Cannot fail but for a key that does not sign, which is told.

use super::fields::{Field, fields};
use super::keys::Key;
use super::results::Outcome;
use super::sign::{Mail, SIGNED, chosen};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use mail_auth::common::crypto::SigningKey;
use mail_auth::dkim::Canonicalization;

/// RFC 8617 §4.2.1.
const SETS_MAX: usize = 50;
/// The fields of a set, in the order in which they are sealed (RFC 8617 §5.1.1).
const NAMES: [&[u8]; 3] = [b"ARC-Authentication-Results", b"ARC-Message-Signature", b"ARC-Seal"];
/// What an ARC-Message-Signature covers besides; neither seals nor what each server adds.
const ALSO: &str = "DKIM-Signature";
/// Base64 of a line.
const LINE: usize = 72;

/// What is said of the chain before (RFC 8617 §4.4).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Before {
    /// There is none.
    None,
    /// It holds.
    Pass,
    /// It does not.
    Fail,
}

impl Before {
    fn text(self) -> &'static str {
        match self {
            Before::None => "none",
            Before::Pass => "pass",
            Before::Fail => "fail",
        }
    }
}

/// The sets of a header.
struct Sets<'a> {
    /// Fields by set, as in [`NAMES`].
    sets: Vec<[Option<Field<'a>>; 3]>,
    /// Each field is there once in each set, up to the last one.
    whole: bool,
    any: bool,
}

impl<'a> Sets<'a> {
    fn of(header: &'a [u8]) -> Self {
        let mut of = Sets { sets: Vec::new(), whole: true, any: false };
        for field in fields(header) {
            let Some(place) = NAMES.iter().position(|n| field.name.eq_ignore_ascii_case(n)) else { continue };
            of.any = true;
            let Some(i) = instance(field.value) else {
                of.whole = false;
                continue;
            };
            if of.sets.len() < i {
                of.sets.resize_with(i, Default::default);
            }
            of.whole &= of.sets[i - 1][place].replace(field).is_none();
        }
        of.whole &= of.sets.iter().flatten().all(Option::is_some);
        of
    }

    /// The last seal says that the chain had failed before.
    fn is_marked(&self) -> bool {
        let last = self.sets.last().and_then(|set| set[2].as_ref());
        last.is_some_and(|seal| tag(seal.value, b"cv").is_some_and(|cv| cv.eq_ignore_ascii_case(b"fail")))
    }
}

/// The value of a tag (RFC 6376 §3.2).
fn tag<'a>(value: &'a [u8], name: &[u8]) -> Option<&'a [u8]> {
    value.split(|b| *b == b';').find_map(|tag| {
        let at = memchr::memchr(b'=', tag)?;
        (tag[..at].trim_ascii() == name).then(|| tag[at + 1..].trim_ascii())
    })
}

/// Which set a field belongs to.
fn instance(value: &[u8]) -> Option<usize> {
    let digits = std::str::from_utf8(tag(value, b"i")?).ok()?;
    let good = digits.len() <= 2 && digits.bytes().all(|b| b.is_ascii_digit());
    digits.parse().ok().filter(|i| good && (1..=SETS_MAX).contains(i))
}

/// Which set comes next, and what it says of those before; `None`: there is no seal. `found`: what came of
/// the chain as it was received.
fn next(sets: &Sets<'_>, found: Outcome) -> Option<(usize, Before)> {
    let i = sets.sets.len() + 1;
    // RFC 8617 §5.1: behind a seal that says so nobody has anything to add.
    if i > SETS_MAX || sets.is_marked() {
        return None;
    }
    match found {
        _ if !sets.any => Some((1, Before::None)),
        Outcome::Pass if sets.whole => Some((i, Before::Pass)),
        Outcome::Fail | Outcome::Neutral | Outcome::PermError => Some((i, Before::Fail)),
        // It could not be looked at, or filters have changed it since.
        _ => None,
    }
}

fn relaxed<'a>(fields: impl Iterator<Item = (&'a [u8], &'a [u8])>, out: &mut Vec<u8>) {
    Canonicalization::Relaxed.canonicalize_headers(fields, out);
}

/// A field of ours in the form that is signed.
fn relaxed_own(field: &[u8], out: &mut Vec<u8>) {
    relaxed(fields(field).map(|f| (f.name, f.value)), out);
}

/// Signs `text` and then the field, whose last tag is `b=` with nothing behind it; completes the field.
fn complete(field: &mut Vec<u8>, mut text: Vec<u8>, key: &Key) -> bool {
    // RFC 6376 §3.7: without a line end, which the field has not got yet.
    relaxed_own(field, &mut text);
    let Ok(value) = key.secret.sign(&text[..]) else { return false };
    for line in STANDARD.encode(value).as_bytes().chunks(LINE) {
        field.extend_from_slice(b"\r\n\t");
        field.extend_from_slice(line);
    }
    field.extend_from_slice(b"\r\n");
    true
}

/// Appends a set of three fields. `results`: what stands behind the colon of our Authentication-Results, with
/// its CRLF; `found`: what came of the chain as it was received. `None`: there is no seal.
pub fn put(out: &mut Vec<u8>, key: &Key, mail: &Mail<'_>, results: &[u8], found: Outcome) -> Option<Before> {
    let sets = Sets::of(mail.header);
    let (i, before) = next(&sets, found)?;
    let (algorithm, domain, selector, now) = (key.algorithm(), &key.domain, &key.selector, mail.now);
    let said = [format!("ARC-Authentication-Results: i={i};").as_bytes(), results].concat();

    let mut text = Vec::with_capacity(2048);
    let names = chosen(mail, SIGNED.iter().copied().chain([ALSO]), &mut text);
    let mut signature = format!(
        "ARC-Message-Signature: i={i}; a={algorithm}; c=relaxed/relaxed; d={domain};\r\n\ts={selector}; \
         t={now};\r\n\th="
    );
    let mut column = 0;
    for (n, name) in names.iter().enumerate() {
        if n > 0 {
            signature.push(':');
        }
        if column + name.len() > LINE {
            signature.push_str("\r\n\t");
            column = 0;
        }
        signature.push_str(name);
        column += name.len() + 1;
    }
    signature.push_str(&format!(";\r\n\tbh={};\r\n\tb=", STANDARD.encode(mail.body)));
    let mut signature = signature.into_bytes();
    if !complete(&mut signature, text, key) {
        return None;
    }

    let cv = before.text();
    let seal =
        format!("ARC-Seal: i={i}; a={algorithm}; cv={cv}; d={domain};\r\n\ts={selector}; t={now};\r\n\tb=");
    let mut seal = seal.into_bytes();
    let mut text = Vec::with_capacity(2048);
    // RFC 8617 §5.1.2: of a chain that does not hold, only our own set is sealed.
    if before == Before::Pass {
        let all = sets.sets.iter().flatten().flatten();
        relaxed(all.map(|field| (field.name, field.value)), &mut text);
    }
    relaxed_own(&said, &mut text);
    relaxed_own(&signature, &mut text);
    if !complete(&mut seal, text, key) {
        return None;
    }
    for field in [seal, signature, said] {
        out.extend_from_slice(&field);
    }
    Some(before)
}

/// As [`put`], with the set for itself.
#[must_use]
pub fn set(key: &Key, mail: &Mail<'_>, results: &[u8], found: Outcome) -> (Option<Before>, Vec<u8>) {
    let mut out = Vec::with_capacity(2048);
    let before = put(&mut out, key, mail, results, found);
    (before, out)
}

#[cfg(test)]
mod tests {
    use super::super::keys::generate;
    use super::*;

    fn key(rsa: Option<usize>) -> Key {
        Key::parse("mx.example", "s", generate(rsa).unwrap().as_bytes()).unwrap()
    }

    const HEADER: &str = "DKIM-Signature: v=1; d=a.example; b=x\r\nFrom: joe@a.example\r\nX-Other: 1\r\n\r\n";

    fn sealed(header: &str, found: Outcome, key: &Key) -> Option<(Before, String)> {
        let mail = Mail { front: b"Received: x\r\n", header: header.as_bytes(), body: &[1; 32], now: 7 };
        let mut out = Vec::new();
        let before = put(&mut out, key, &mail, b" mx.example;\r\n\tspf=pass\r\n", found)?;
        Some((before, String::from_utf8(out).unwrap()))
    }

    #[test]
    fn a_set_says_what_was_found_and_what_it_covers() {
        let (before, text) = sealed(HEADER, Outcome::None, &key(Some(2048))).unwrap();
        assert_eq!(before, Before::None);
        for part in [
            "ARC-Authentication-Results: i=1; mx.example;\r\n\tspf=pass\r\n",
            "ARC-Message-Signature: i=1; a=rsa-sha256; c=relaxed/relaxed; d=mx.example;\r\n\ts=s; t=7;\r\n\t\
             h=From:From:DKIM-Signature;\r\n\tbh=AQEBAQ",
            "ARC-Seal: i=1; a=rsa-sha256; cv=none; d=mx.example;\r\n\ts=s; t=7;\r\n\tb=",
        ] {
            assert!(text.contains(part), "{part:?} is not in {text}");
        }
        assert!(text.starts_with("ARC-Seal:") && text.lines().all(|l| l.len() <= 78), "{text}");
        assert!(!text.contains("Received") && !text.contains("X-Other"));
    }

    #[test]
    fn chains_go_on_or_are_marked_and_end() {
        use Outcome::{Fail, Neutral, Pass, PermError, Policy, TempError};
        let key = key(None);
        let header = |sets: usize| {
            (0..sets).fold(HEADER.to_owned(), |header, _| {
                let found = if header.contains("ARC-") { Pass } else { Outcome::None };
                sealed(&header, found, &key).unwrap().1 + &header
            })
        };
        let of = |header: &str, found: Outcome| {
            sealed(header, found, &key).map(|(before, text)| {
                let from = text.find("i=").unwrap() + 2;
                (before, text[from..].split(';').next().unwrap().parse::<u32>().unwrap())
            })
        };
        let two = header(2);
        assert_eq!(of(&two, Pass), Some((Before::Pass, 3)));
        for found in [Fail, Neutral, PermError] {
            assert_eq!(of(&two, found), Some((Before::Fail, 3)));
        }
        for found in [TempError, Policy, Outcome::None] {
            assert_eq!(of(&two, found), None, "{found:?}");
        }
        // What was marked stays as it is.
        let marked = sealed(&two, Fail, &key).unwrap().1 + &two;
        assert_eq!((of(&marked, Fail), of(&marked, Pass)), (None, None));
        // A set that is not whole is none that holds.
        let torn = two.replacen("ARC-Message-Signature: i=1", "X-Signature: i=1", 1);
        assert_eq!((of(&torn, Pass), of(&torn, Fail)), (None, Some((Before::Fail, 3))));
        let twice = format!("ARC-Seal: i=2; cv=pass\r\n{two}");
        assert_eq!((of(&twice, Pass), of(&twice, Fail)), (None, Some((Before::Fail, 3))));
        for strange in
            ["ARC-Seal: cv=none\r\n", "ARC-Seal: i=0\r\n", "ARC-Seal: i=+1\r\n", "ARC-Seal: i=51\r\n"]
        {
            let header = format!("{strange}{HEADER}");
            assert_eq!((of(&header, Pass), of(&header, Fail)), (None, Some((Before::Fail, 1))), "{strange}");
        }
        let fifty = header(50);
        assert_eq!((of(&fifty, Pass), of(&header(49), Pass)), (None, Some((Before::Pass, 50))));
    }
}
