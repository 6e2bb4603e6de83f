//! The files in which Dovecot and Courier keep what clients know messages by: UIDs, POP3 UIDLs, keywords,
//! subscriptions. As text in, as values out; a line that cannot be understood is passed over and counted.
//!
//! Dovecot writes `dovecot-uidlist` (version 3; Courier's `courierimapuiddb` is its version 1),
//! `dovecot-keywords` and `subscriptions`; Courier writes `courierpop3dsizelist`, `courierimapsubscribed` and
//! `courierimapkeywords/:list`. Knows no files. Nothing fails.

use crate::mailbox::types::{Guid, UIDL_MAX};
use std::collections::BTreeMap;

/// The greatest UID that is taken over: those given later must find room above it.
pub const UID_MAX: u32 = 0xf000_0000;

/// What is known of a message by the name of its file without flags.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Known {
    /// Its UID; 0: not known.
    pub uid: u32,
    /// Its UIDL; empty: not known.
    pub uidl: Vec<u8>,
    /// Its GUID.
    pub guid: Option<Guid>,
}

/// A list of UIDs.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct UidList {
    /// UIDVALIDITY; 0: not known.
    pub uidvalidity: u32,
    /// The next UID; 0: not known.
    pub uidnext: u32,
    /// Messages by file name without flags.
    pub files: BTreeMap<Vec<u8>, Known>,
    /// Lines that could not be understood.
    pub bad: usize,
}

/// The name of a file without flags.
#[must_use]
pub fn base(file: &[u8]) -> &[u8] {
    &file[..memchr::memchr(b':', file).unwrap_or(file.len())]
}

/// Whether clients can be told this UIDL (RFC 1939 §7).
#[must_use]
pub fn is_uidl(text: &[u8]) -> bool {
    (1..=UIDL_MAX).contains(&text.len()) && text.iter().all(|b| (0x21..=0x7e).contains(b))
}

fn number<T: std::str::FromStr>(text: &[u8]) -> Option<T> {
    std::str::from_utf8(text).ok()?.parse().ok()
}

fn guid(text: &[u8]) -> Option<Guid> {
    let digits = std::str::from_utf8(text).ok().filter(|t| t.len() == 32)?;
    u128::from_str_radix(digits, 16).ok().map(|n| Guid(n.to_be_bytes()))
}

/// Reads `dovecot-uidlist` or `courierimapuiddb`. `None`: it is neither.
#[must_use]
pub fn uid_list(text: &[u8]) -> Option<UidList> {
    let mut lines = text.split(|b| *b == b'\n').filter(|l| !l.is_empty());
    let head: Vec<&[u8]> = lines.next()?.split(|b| *b == b' ').collect();
    let mut list = UidList::default();
    let extended = match head[..] {
        [b"1", validity, next] => {
            (list.uidvalidity, list.uidnext) = (number(validity)?, number(next)?);
            false
        }
        [b"3", ..] => {
            for field in &head[1..] {
                match field.split_first() {
                    Some((b'V', value)) => list.uidvalidity = number(value)?,
                    Some((b'N', value)) => list.uidnext = number(value)?,
                    _ => {}
                }
            }
            true
        }
        _ => return None,
    };
    if list.uidnext > UID_MAX {
        list.uidnext = 0;
    }
    for line in lines {
        match entry(line, extended) {
            Some((file, known)) => drop(list.files.insert(file, known)),
            None => list.bad += 1,
        }
    }
    Some(list)
}

fn entry(line: &[u8], extended: bool) -> Option<(Vec<u8>, Known)> {
    let space = memchr::memchr(b' ', line)?;
    let uid = number(&line[..space]).filter(|uid| (1..=UID_MAX).contains(uid))?;
    let mut known = Known { uid, ..Known::default() };
    let mut rest = &line[space + 1..];
    if extended {
        // Fields until one begins with a colon: the file.
        while rest.first() != Some(&b':') {
            let end = memchr::memchr(b' ', rest)?;
            match rest[..end].split_first() {
                Some((b'P', uidl)) if is_uidl(uidl) => known.uidl = uidl.to_vec(),
                Some((b'G', text)) => known.guid = guid(text),
                _ => {}
            }
            rest = &rest[end + 1..];
        }
        rest = &rest[1..];
    }
    let file = base(rest);
    (!file.is_empty() && !file.contains(&b'/')).then(|| (file.to_vec(), known))
}

/// Reads `courierpop3dsizelist`: UIDLs by file name without flags, as Courier gives them to clients, and the
/// number of lines that could not be understood.
#[must_use]
pub fn courier_uidls(text: &[u8]) -> (BTreeMap<Vec<u8>, Vec<u8>>, usize) {
    let mut lines = text.split(|b| *b == b'\n').filter(|l| !l.is_empty()).peekable();
    let versioned = lines.next_if(|l| l.starts_with(b"/")).is_some();
    let (mut uidls, mut bad) = (BTreeMap::new(), 0);
    for line in lines {
        let mut fields = line.rsplitn(if versioned { 3 } else { 2 }, |b| *b == b' ');
        let numbers = fields.next().unwrap_or_default();
        let file = fields.last().map(base).filter(|f| !f.is_empty());
        let uidl = match versioned {
            // UID, UIDVALIDITY, and since version 3 whether it is in UTF-8.
            true => courier_uidl(numbers),
            false => number::<u64>(numbers).map(|n| format!("UID{n}").into_bytes()),
        };
        match (file, uidl) {
            (Some(file), Some(uidl)) => {
                let uidl = if uidl.is_empty() { courier_name(file) } else { uidl };
                if is_uidl(&uidl) {
                    uidls.insert(file.to_vec(), uidl);
                }
            }
            _ => bad += 1,
        }
    }
    (uidls, bad)
}

fn courier_uidl(numbers: &[u8]) -> Option<Vec<u8>> {
    let mut parts = numbers.split(|b| *b == b':');
    let uid: u64 = number(parts.next()?)?;
    let validity: u64 = number(parts.next()?)?;
    Some(match (uid, validity) {
        // The name of the file is the UIDL then.
        (0, _) => Vec::new(),
        (_, 0) => format!("UID{uid}").into_bytes(),
        _ => format!("UID{uid}-{validity}").into_bytes(),
    })
}

/// The name of a file as Courier's oldest UIDLs have it.
fn courier_name(file: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    for b in file {
        match b {
            b'\'' | b'"' | b'+' => out.extend_from_slice(format!("+{b:02X}").as_bytes()),
            0x21..=0x7e => out.push(*b),
            _ => out.extend_from_slice(format!("+{b:02X}").as_bytes()),
        }
    }
    out
}

/// Reads `dovecot-keywords`: names by number.
#[must_use]
pub fn keywords(text: &str) -> BTreeMap<usize, String> {
    let line = |l: &str| {
        let (n, name) = l.split_once(' ')?;
        Some((n.parse().ok()?, name.to_owned()))
    };
    text.lines().filter_map(line).collect()
}

/// Reads `courierimapkeywords/:list`: keywords by file name without flags.
#[must_use]
pub fn courier_keywords(text: &str) -> BTreeMap<Vec<u8>, Vec<String>> {
    let (names, files) = text.split_once("\n\n").unwrap_or((text, ""));
    let names: Vec<&str> = names.lines().collect();
    let line = |l: &str| {
        let (file, numbers) = l.rsplit_once(':')?;
        let known = numbers.split(' ').filter_map(|n| names.get(n.parse::<usize>().ok()?));
        Some((base(file.as_bytes()).to_vec(), known.map(|k| (*k).to_owned()).collect()))
    };
    files.lines().filter_map(line).collect()
}

/// Reads `subscriptions` or `courierimapsubscribed`: names with `.` between levels, as they are written.
#[must_use]
pub fn subscriptions(text: &str) -> Vec<String> {
    let mut lines = text.lines().filter(|l| !l.is_empty()).peekable();
    // Version 2 of Dovecot's has tabs between levels.
    let tabs = lines.next_if(|l| *l == "V\t2").is_some();
    let name = |line: &str| {
        let line = if tabs { line.replace('\t', ".") } else { line.replace('/', ".") };
        match line.get(..6) {
            Some(prefix) if prefix.eq_ignore_ascii_case("INBOX.") => line[6..].to_owned(),
            _ => line,
        }
    };
    lines.map(name).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dovecots_list() {
        let text = b"3 V1275660208 N25022 G3085f01b7f11094c501100008c4a11c1\n\
            25006 :1276528487.M364837P9451.kurkku,S=1355,W=1394:2,\n\
            25017 W2481 Pold-uidl Gff85f01b7f11094c501100008c4a11c1 :1276533073.M242911P3632.kurkku:2,F\n\
            nonsense\n0 :x\n7 W1\n";
        let list = uid_list(text).expect("it is one");
        assert_eq!(
            (list.uidvalidity, list.uidnext, list.files.len(), list.bad),
            (1_275_660_208, 25_022, 2, 3)
        );
        let known = &list.files[&b"1276533073.M242911P3632.kurkku"[..]];
        assert_eq!((known.uid, known.uidl.as_slice()), (25_017, &b"old-uidl"[..]));
        assert_eq!(known.guid.map(|g| (g.0[0], g.0[15])), Some((0xff, 0xc1)));
        assert_eq!(list.files[&b"1276528487.M364837P9451.kurkku,S=1355,W=1394"[..]].uid, 25_006);
        assert_eq!(uid_list(b"2 1 2\n"), None);
    }

    #[test]
    fn couriers_lists() {
        let list = uid_list(b"1 1000 8\n3 a.b\n7 c.d:2,S\n").expect("it is one");
        assert_eq!((list.uidvalidity, list.uidnext), (1000, 8));
        assert_eq!(list.files[&b"c.d"[..]].uid, 7);
        let (uidls, bad) = courier_uidls(b"/3 9 1000\na.b,S=3:2,S 3 4:1000:0\nc.d 5 0:0\nx 6 5:0\nbad\n");
        assert_eq!(uidls[&b"a.b,S=3"[..]], b"UID4-1000");
        assert_eq!((uidls[&b"c.d"[..]].as_slice(), uidls[&b"x"[..]].as_slice()), (&b"c.d"[..], &b"UID5"[..]));
        assert_eq!((uidls.len(), bad), (3, 1));
        assert_eq!(courier_uidls(b"a.b 3\n").0[&b"a.b"[..]], b"UID3");
        let keywords = courier_keywords("$Junk\nwork\n\na.b:0 1\nc.d:1\n");
        assert_eq!(
            (keywords[&b"a.b"[..]].len(), keywords[&b"c.d"[..]].as_slice()),
            (2, &["work".to_owned()][..])
        );
    }

    #[test]
    fn names_of_keywords_and_subscriptions() {
        assert_eq!(keywords("0 $Forwarded\n3 a b\nx\n")[&3], "a b");
        assert_eq!(subscriptions("INBOX\nINBOX.Sent.Old\nA\n"), ["INBOX", "Sent.Old", "A"]);
        assert_eq!(subscriptions("V\t2\n\nSent\tOld\n"), ["Sent.Old"]);
        assert!(is_uidl(b"a") && !is_uidl(b"") && !is_uidl(b"a b") && !is_uidl(&[b'x'; 71]));
    }
}
