//! Which record of SPF counts, and what of it (RFC 7208 §4.5, §4.6).
//!
//! Owns the looks that `mail-auth` does not take: one record, no more; terms and lengths of prefixes that
//! there are. Knows no name servers. A record that cannot be used is an error for good.

use super::known::{no_record, no_use};
use mail_auth::Error;
use mail_auth::common::parse::TxtRecordParser;
use mail_auth::spf::{Macro, Mechanism, Spf};

/// What stands behind a name that the mechanism `exists` asks for: to `mail-auth` it is then an address of
/// any kind, and whether it is there is said by whoever is asked for it.
pub const EXISTS: &str = "._exists.";

/// The policy among these texts of a name.
///
/// # Errors
/// There is none, or it is of no use.
pub fn policy(texts: &[Box<[u8]>]) -> Result<Spf, Error> {
    let mut records = texts.iter().filter(|text| is_policy(text));
    match (records.next(), records.next()) {
        (None, _) => Err(no_record()),
        (Some(record), None) if terms_are_known(record) => {
            let mut spf = Spf::parse(record).map_err(|_| no_use())?;
            // Nobody is told the explanation.
            spf.exp = None;
            for directive in &mut spf.directives {
                if let Mechanism::Exists { macro_string } = &directive.mechanism {
                    let macro_string = marked(macro_string.clone());
                    directive.mechanism = Mechanism::A { macro_string, ip4_mask: 0, ip6_mask: 0 };
                }
            }
            Ok(spf)
        }
        // RFC 7208 §4.5: one record, no more.
        _ => Err(no_use()),
    }
}

fn marked(name: Macro) -> Macro {
    let mark = Macro::Literal(EXISTS.as_bytes().into());
    let mut parts = match name {
        Macro::List(parts) => parts.into_vec(),
        Macro::None => Vec::new(),
        one => vec![one],
    };
    parts.push(mark);
    Macro::List(parts.into())
}

/// Whether it is a record of SPF (RFC 7208 §3.3, §4.5).
fn is_policy(text: &[u8]) -> bool {
    let (version, behind) = text.split_at(text.len().min(6));
    version.eq_ignore_ascii_case(b"v=spf1") && behind.first().is_none_or(|b| *b == b' ')
}

/// Each term is a mechanism that there is, or a modifier; modifiers that nobody knows are passed over
/// (RFC 7208 §6).
fn terms_are_known(record: &[u8]) -> bool {
    const MECHANISMS: [&[u8]; 8] = [b"all", b"include", b"a", b"mx", b"ptr", b"ip4", b"ip6", b"exists"];
    record.split(|b| *b == b' ').skip(1).filter(|term| !term.is_empty()).all(|term| {
        let bare = term.strip_prefix(b"+").or_else(|| term.strip_prefix(b"-"));
        let bare = bare.or_else(|| term.strip_prefix(b"?")).or_else(|| term.strip_prefix(b"~"));
        let bare = bare.unwrap_or(term);
        let end = bare.iter().position(|b| matches!(b, b':' | b'/' | b'=')).unwrap_or(bare.len());
        let (name, behind) = bare.split_at(end);
        match behind.first() {
            Some(b'=') => !name.is_empty() && bare.len() == term.len(),
            _ => MECHANISMS.iter().any(|m| name.eq_ignore_ascii_case(m)) && lengths_fit(name, behind),
        }
    })
}

/// Whether the lengths of prefixes behind a mechanism are possible (RFC 7208 §5.6).
fn lengths_fit(name: &[u8], behind: &[u8]) -> bool {
    let fits = |digits: &[u8], most: u8| {
        let number = std::str::from_utf8(digits).ok().filter(|d| d.bytes().all(|b| b.is_ascii_digit()));
        number.and_then(|d| d.parse::<u8>().ok()).is_some_and(|n| n <= most)
    };
    // Macros may have slashes of their own.
    let slash = memchr::memchr(b'/', behind).filter(|_| !behind.contains(&b'%'));
    let Some(slash) = slash else { return true };
    let lengths = &behind[slash + 1..];
    if name.eq_ignore_ascii_case(b"ip6") {
        return fits(lengths, 128);
    }
    match memchr::memmem::find(&behind[slash..], b"//") {
        Some(at) => {
            (at == 0 || fits(&behind[slash + 1..slash + at], 32)) && fits(&behind[slash + at + 2..], 128)
        }
        None => fits(lengths, 32),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(list: &[&str]) -> Result<Spf, Error> {
        policy(&list.iter().map(|t| t.as_bytes().into()).collect::<Vec<Box<[u8]>>>())
    }

    #[test]
    fn one_record_of_known_terms() {
        assert_eq!(of(&[]), Err(no_record()));
        assert_eq!(of(&["other", "v=spf10 -all"]), Err(no_record()));
        assert_eq!(of(&["v=spf1 -all", "v=spf1 +all"]), Err(no_use()));
        for bad in ["v=spf1 nonsense:x", "v=spf1 ip4:192.0.2.1/33", "v=spf1 a/33", "v=spf1 ip6:::1/129"] {
            assert_eq!(of(&[bad]), Err(no_use()), "{bad}");
        }
        for good in ["V=SPF1 +ALL", "v=spf1", "v=spf1 future=1 a//64 -all", "v=spf1 ip6:::1/128"] {
            assert!(of(&[good]).is_ok(), "{good}");
        }
    }

    #[test]
    fn exists_is_marked_and_nothing_is_explained() {
        let spf = of(&["v=spf1 exists:%{i}.x.test exists:y.test exp=z.test -all"]).unwrap();
        assert_eq!((spf.exp, spf.directives.len()), (None, 3));
        for directive in &spf.directives[..2] {
            let Mechanism::A { macro_string: Macro::List(parts), ip4_mask: 0, ip6_mask: 0 } =
                &directive.mechanism
            else {
                panic!("{directive:?}")
            };
            assert_eq!(parts.last(), Some(&Macro::Literal(EXISTS.as_bytes().into())));
        }
    }
}
