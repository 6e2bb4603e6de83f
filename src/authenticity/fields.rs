//! The fields of a header in memory, and those that say in our name what is ours to say.
//!
//! Knows no meaning of a field but that of Authentication-Results. A line that is no field is passed over.

use mail_auth::AuthenticatedMessage;
use std::ops::Range;

/// A field with its folded lines.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Field<'a> {
    /// Without the white space before the colon.
    pub name: &'a [u8],
    /// What stands behind the colon, with the last line's CRLF.
    pub value: &'a [u8],
    /// Where all of it lies in the header.
    pub range: Range<usize>,
}

/// The fields of a header, in order.
pub fn fields(header: &[u8]) -> impl Iterator<Item = Field<'_>> {
    let mut at = 0;
    std::iter::from_fn(move || {
        loop {
            let rest = &header[at..];
            if rest.is_empty() || rest.starts_with(b"\r\n") {
                return None;
            }
            let range = at..at + field_len(rest);
            at = range.end;
            let text = &header[range.clone()];
            if let Some(colon) = memchr::memchr(b':', text) {
                let name = text[..colon].trim_ascii_end();
                return Some(Field { name, value: &text[colon + 1..], range });
            }
        }
    })
}

/// Up to the line end behind which no folded line follows (RFC 5322 §2.2.3).
fn field_len(text: &[u8]) -> usize {
    let next = |lf: &usize| !matches!(text.get(lf + 1), Some(b' ' | b'\t'));
    memchr::memchr_iter(b'\n', text).find(next).map_or(text.len(), |lf| lf + 1)
}

/// Where the fields Authentication-Results lie that say to be from `id` (RFC 8601 §5).
#[must_use]
pub fn in_our_name(header: &[u8], id: &str) -> Vec<Range<usize>> {
    let ours = |f: &Field<'_>| {
        f.name.eq_ignore_ascii_case(b"Authentication-Results")
            && authserv_id(f.value).eq_ignore_ascii_case(id.as_bytes())
    };
    fields(header).filter(ours).map(|f| f.range).collect()
}

/// What is left of a header without `ranges`, which are in order.
pub fn without<'a>(header: &'a [u8], ranges: &'a [Range<usize>]) -> impl Iterator<Item = &'a [u8]> {
    let begins = std::iter::once(0).chain(ranges.iter().map(|r| r.end));
    let ends = ranges.iter().map(|r| r.start).chain([header.len()]);
    begins.zip(ends).map(|(begin, end)| &header[begin..end]).filter(|piece| !piece.is_empty())
}

/// Who says it (RFC 8601 §2.2): a token or a quoted string behind comments and white space.
fn authserv_id(value: &[u8]) -> Vec<u8> {
    let rest = behind_comments(value);
    if rest.first() != Some(&b'"') {
        let ends = |b: &u8| b.is_ascii_whitespace() || matches!(b, b';' | b'(');
        return rest[..rest.iter().position(ends).unwrap_or(rest.len())].to_vec();
    }
    let (mut id, mut quoted) = (Vec::new(), false);
    for &b in &rest[1..] {
        match b {
            _ if quoted => quoted = false,
            b'\\' => {
                quoted = true;
                continue;
            }
            b'"' => break,
            b'\r' | b'\n' => continue,
            _ => {}
        }
        id.push(b);
    }
    id
}

/// Behind white space and comments (RFC 5322 §3.2.2).
fn behind_comments(value: &[u8]) -> &[u8] {
    let (mut depth, mut at) = (0_usize, 0);
    while let Some(&b) = value.get(at) {
        match b {
            b'(' => depth += 1,
            b')' if depth > 0 => depth -= 1,
            b'\\' if depth > 0 => at += 1,
            _ if depth > 0 || b.is_ascii_whitespace() => {}
            _ => break,
        }
        at += 1;
    }
    value.get(at..).unwrap_or_default()
}

/// Domains of the authors (RFC 5322 §3.6.2), each once, lower case, as A-labels.
#[must_use]
pub fn author_domains(message: &AuthenticatedMessage<'_>) -> Vec<String> {
    let mut all = Vec::new();
    for address in message.froms() {
        let domain = address.rsplit_once('@').map_or("", |(_, domain)| domain);
        let domain = mail_auth::common::to_a_label(domain).into_owned();
        if !domain.is_empty() && !all.contains(&domain) {
            all.push(domain);
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_have_their_folded_lines() {
        let header = b"A: 1\r\n 2\r\nno field\r\nB :x\r\n\r\nC: body\r\n";
        let all: Vec<_> = fields(header).map(|f| (f.name, f.value, f.range)).collect();
        assert_eq!(all, [(&b"A"[..], &b" 1\r\n 2\r\n"[..], 0..10), (&b"B"[..], &b"x\r\n"[..], 20..26)]);
        assert_eq!(fields(b"").count() + fields(b"\r\n").count(), 0);
        assert_eq!(fields(b"A: cut").next().unwrap().value, b" cut");
    }

    #[test]
    fn what_is_said_in_our_name_is_found_however_it_is_written() {
        for ours in [
            "Authentication-Results: mx.example;\r\n spf=pass\r\n",
            "authentication-results : (a (b\\) c)) MX.example 1; none\r\n",
            "Authentication-Results:\r\n\t\"mx.ex\\ample\"; none\r\n",
            "Authentication-Results: mx.example(x);none\r\n",
        ] {
            let header = format!("X: 1\r\n{ours}Y: 2\r\n\r\n");
            let found = in_our_name(header.as_bytes(), "mx.example");
            assert_eq!((found.len(), found[0].clone()), (1, 6..6 + ours.len()), "{ours}");
            let left: Vec<u8> = without(header.as_bytes(), &found).flatten().copied().collect();
            assert_eq!(left, b"X: 1\r\nY: 2\r\n\r\n");
        }
        for other in [
            "Authentication-Results: mx.example.net; none\r\n",
            "Authentication-Results: other; x=mx.example\r\n",
            "X-Authentication-Results: mx.example; none\r\n",
            "ARC-Authentication-Results: i=1; mx.example; none\r\n",
            "Authentication-Results: (mx.example\r\n",
        ] {
            assert!(in_our_name(other.as_bytes(), "mx.example").is_empty(), "{other}");
        }
    }

    #[test]
    fn nothing_left_out_is_everything() {
        let all: Vec<&[u8]> = without(b"A: 1\r\n\r\n", &[]).collect();
        assert_eq!(all, [b"A: 1\r\n\r\n"]);
    }
}
