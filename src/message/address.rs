//! Addresses and paths (RFC 5321 §4.1.2), read in place.
//!
//! An address is opaque: nothing in it is expanded, unquoted or folded; `|`, `$`, `/` and `!` are
//! letters like others. The local part is kept byte for byte. What is not an address is refused.

use crate::message::domain;

/// Longest local part in bytes. RFC 5321 §4.5.3.1.1 demands at least 64 and advises against
/// limits; sender addresses with encoded recipients (VERP, SRS) need more.
pub const LOCAL_MAX: usize = 256;

/// An address without angle brackets and source route.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Address<'a> {
    bytes: &'a [u8],
    local: usize,
}

impl<'a> Address<'a> {
    /// The null sender.
    pub const NULL: Address<'static> = Address { bytes: b"", local: 0 };

    /// The address `local@domain` that makes up all of `bytes`.
    ///
    /// # Errors
    /// [`BadAddress`] if `bytes` is anything else, a lone local part included.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, BadAddress> {
        let local = local_part(bytes)?;
        if local > LOCAL_MAX {
            return Err(BadAddress::TooLong);
        }
        match bytes.get(local) {
            Some(b'@') => {}
            None => return Err(BadAddress::NoDomain),
            _ => return Err(BadAddress::Syntax),
        }
        let host = &bytes[local + 1..];
        if host.len() > domain::DOMAIN_MAX {
            return Err(BadAddress::TooLong);
        }
        if !domain::is_domain(host) {
            return Err(BadAddress::Syntax);
        }
        if !bytes.is_ascii() && std::str::from_utf8(bytes).is_err() {
            return Err(BadAddress::NotUtf8);
        }
        Ok(Address { bytes, local })
    }

    /// An address as it is stored in an envelope (empty: the null sender); not checked again.
    #[must_use]
    pub fn stored(bytes: &'a [u8]) -> Self {
        // A domain has no `@`, a quoted local part may.
        Address { bytes, local: memchr::memrchr(b'@', bytes).unwrap_or(bytes.len()) }
    }

    /// The whole address; empty for the null sender.
    #[must_use]
    pub fn bytes(self) -> &'a [u8] {
        self.bytes
    }

    /// All before the last `@`, with its quotes.
    #[must_use]
    pub fn local(self) -> &'a [u8] {
        &self.bytes[..self.local]
    }

    /// All after the last `@`; empty for the null sender and for `postmaster` alone.
    #[must_use]
    pub fn domain(self) -> &'a [u8] {
        self.bytes.get(self.local + 1..).unwrap_or_default()
    }

    /// True for the null sender.
    #[must_use]
    pub fn is_null(self) -> bool {
        self.bytes.is_empty()
    }

    /// True if the address needs SMTPUTF8 (RFC 6531).
    #[must_use]
    pub fn is_international(self) -> bool {
        !self.bytes.is_ascii()
    }
}

/// Why bytes are not an address or a path.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum BadAddress {
    /// Not the syntax of RFC 5321 §4.1.2.
    Syntax,
    /// A local part without a domain.
    NoDomain,
    /// Local part or domain exceed their limit.
    TooLong,
    /// Bytes above 127 that are not UTF-8.
    NotUtf8,
}

/// Reads a path `<...>` from the start of `input`; gives the address and what follows the path.
/// `<>` is the null sender; `<postmaster>` needs no domain (RFC 5321 §4.5.1). A source route
/// is checked and ignored (RFC 5321 §4.1.1.3, appendix F.2).
///
/// # Errors
/// [`BadAddress`] if `input` does not begin with a path.
pub fn path(input: &[u8]) -> Result<(Address<'_>, &[u8]), BadAddress> {
    let inner = input.strip_prefix(b"<").ok_or(BadAddress::Syntax)?;
    if let Some(rest) = inner.strip_prefix(b">") {
        return Ok((Address::NULL, rest));
    }
    let inner = after_route(inner)?;
    let close = closing_bracket(inner).ok_or(BadAddress::Syntax)?;
    let (bytes, rest) = (&inner[..close], &inner[close + 1..]);
    match Address::parse(bytes) {
        Ok(address) => Ok((address, rest)),
        Err(BadAddress::NoDomain) if bytes.eq_ignore_ascii_case(b"postmaster") => {
            Ok((Address { bytes, local: bytes.len() }, rest))
        }
        Err(error) => Err(error),
    }
}

/// Skips `@one,@two:`.
fn after_route(mut inner: &[u8]) -> Result<&[u8], BadAddress> {
    if inner.first() != Some(&b'@') {
        return Ok(inner);
    }
    loop {
        let rest = inner.strip_prefix(b"@").ok_or(BadAddress::Syntax)?;
        // A literal may hold colons; commas and the end of the route come after its bracket.
        let from = if rest.first() == Some(&b'[') {
            memchr::memchr(b']', rest).ok_or(BadAddress::Syntax)?
        } else {
            0
        };
        let end = memchr::memchr2(b',', b':', &rest[from..]).ok_or(BadAddress::Syntax)? + from;
        if !domain::is_domain(&rest[..end]) {
            return Err(BadAddress::Syntax);
        }
        inner = &rest[end + 1..];
        if rest[end] == b':' {
            return Ok(inner);
        }
    }
}

/// Index of the `>` that ends the path: the first one after a quoted local part.
fn closing_bracket(inner: &[u8]) -> Option<usize> {
    let from = if inner.first() == Some(&b'"') { quoted(inner).ok()? } else { 0 };
    memchr::memchr(b'>', &inner[from..]).map(|i| i + from)
}

/// Length of the local part at the start of `bytes`: a quoted string or atoms and dots. Dots
/// anywhere are taken: some old mailboxes have them where RFC 5321 has not.
fn local_part(bytes: &[u8]) -> Result<usize, BadAddress> {
    if bytes.first() == Some(&b'"') {
        return quoted(bytes);
    }
    let len = bytes.iter().position(|&b| !LOCAL[usize::from(b)]).unwrap_or(bytes.len());
    if len == 0 { Err(BadAddress::Syntax) } else { Ok(len) }
}

/// Length of the quoted string at the start of `bytes`, quotes included.
fn quoted(bytes: &[u8]) -> Result<usize, BadAddress> {
    let mut i = 1;
    loop {
        match bytes.get(i) {
            Some(b'"') => return Ok(i + 1),
            // RFC 5321: quoted-pairSMTP = "\" followed by any printable ASCII or space.
            Some(b'\\') if matches!(bytes.get(i + 1), Some(32..=126)) => i += 2,
            Some(32..=91 | 93..=126 | 128..) => i += 1,
            _ => return Err(BadAddress::Syntax),
        }
    }
}

/// Bytes of an unquoted local part: atext (RFC 5322 §3.2.3), dots, and UTF-8 (RFC 6531 §3.3).
static LOCAL: [bool; 256] = {
    let mut table = [false; 256];
    let mut b = 33;
    while b < 256 {
        table[b] = !matches!(
            b as u8,
            b'(' | b')' | b'<' | b'>' | b'[' | b']' | b':' | b';' | b'@' | b'\\' | b',' | b'"' | 127
        );
        b += 1;
    }
    table
};

#[cfg(test)]
mod tests {
    use super::*;

    fn parts(text: &str) -> Option<(&str, &str)> {
        let (a, rest) = path(text.as_bytes()).ok()?;
        Some((std::str::from_utf8(a.bytes()).unwrap(), std::str::from_utf8(rest).unwrap()))
    }

    #[test]
    fn paths() {
        for (text, address, rest) in [
            ("<>", "", ""),
            ("<> SIZE=1", "", " SIZE=1"),
            ("<a@b.example> X", "a@b.example", " X"),
            ("<Post.Master+x=y@B.Example>", "Post.Master+x=y@B.Example", ""),
            ("<postMaster>", "postMaster", ""),
            ("<@us:a@b>", "a@b", ""),
            ("<@us,@[IPv6:::1],@them.example:a@b>", "a@b", ""),
            ("<\"a b\\\"@>\"@c>x", "\"a b\\\"@>\"@c", "x"),
            ("<a@[192.0.2.1]>", "a@[192.0.2.1]", ""),
            ("<a@[IPv6:2001:db8::1]>", "a@[IPv6:2001:db8::1]", ""),
            ("<a..b.@c>", "a..b.@c", ""),
            ("<\u{e9}@\u{e9}.example>", "\u{e9}@\u{e9}.example", ""),
        ] {
            assert_eq!(parts(text), Some((address, rest)), "{text}");
        }
        for bad in [
            "",
            "a@b",
            "<a@b",
            "<a>",
            "<@a>",
            "<@a:>",
            "<@a,b:c@d>",
            "<a@>",
            "<@@a:b@c>",
            "<a b@c>",
            "<a@b c>",
            "<a@b@c>",
            "<\"a@b>",
            "<\"a\"b@c>",
            "<a@[1.2.3]>",
            "<a@.b>",
            "<a@b.>",
            "< a@b>",
            "<a@b >",
            "<<a@b>",
            "<a\0b@c>",
            "<a\x7f@c>",
            "<\"a\tb\"@c>",
            "<a,b@c>",
            "<@a b:c@d>",
            "<@[:a@b>",
        ] {
            assert_eq!(parts(bad), None, "{bad:?}");
        }
        assert_eq!(path(b"<\xff@b>"), Err(BadAddress::NotUtf8));
        assert_eq!(path(b"<bob>"), Err(BadAddress::NoDomain));
    }

    /// Attack catalogue, row 7: addresses that shells and expanders would run.
    #[test]
    fn row_07_command_execution_from_addresses() {
        for text in ["<${run{x}}@h>", "<|prog@h>", "<../../x@h>", "<`id`@h>", "<$(id)@h>"] {
            match path(text.as_bytes()) {
                Ok((a, _)) => {
                    assert_eq!(a.bytes(), &text.as_bytes()[1..text.len() - 1], "kept as opaque bytes")
                }
                Err(e) => assert_eq!((text, e), ("<$(id)@h>", BadAddress::Syntax)),
            }
        }
        assert_eq!(path(b"<;sleep 6;>"), Err(BadAddress::Syntax));
    }

    /// Attack catalogue, row 21: who the domain is must be unmistakable for the relay decision.
    #[test]
    fn row_21_open_relay_variants() {
        for (text, local, host) in [
            ("<a%b@us>", "a%b", "us"),
            ("<@us:a@b>", "a", "b"),
            ("<\"a@b\"@us>", "\"a@b\"", "us"),
            ("<a@[127.0.0.1]>", "a", "[127.0.0.1]"),
            ("<b!a@us>", "b!a", "us"),
        ] {
            let (a, _) = path(text.as_bytes()).unwrap();
            assert_eq!((a.local(), a.domain()), (local.as_bytes(), host.as_bytes()), "{text}");
            assert_eq!(Address::stored(a.bytes()), a, "{text}");
        }
        assert_eq!(path(b"<b!a>"), Err(BadAddress::NoDomain));
    }

    #[test]
    fn lengths() {
        let ok = format!("<{}@{}b>", "a".repeat(LOCAL_MAX), "a.".repeat(127));
        assert!(path(ok.as_bytes()).is_ok());
        let local = format!("<{}@b>", "a".repeat(LOCAL_MAX + 1));
        assert_eq!(path(local.as_bytes()), Err(BadAddress::TooLong));
        let host = format!("<a@{}b>", "a.".repeat(128));
        assert_eq!(path(host.as_bytes()), Err(BadAddress::TooLong));
    }

    #[test]
    fn stored_forms() {
        assert!(Address::stored(b"").is_null() && Address::stored(b"").domain().is_empty());
        let p = Address::stored(b"postmaster");
        assert_eq!((p.local(), p.domain()), (&b"postmaster"[..], &b""[..]));
        assert!(Address::stored("\u{e9}@a".as_bytes()).is_international());
    }
}
