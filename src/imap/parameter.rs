//! Parameters of MIME fields as text (RFC 2231): pieces put together, charset and percent signs taken away,
//! so that SEARCH finds the name of a file however it is written. Never fails: what cannot be read stays.

use crate::imap::charset;
use crate::message::mime::parameters;

/// Fields that have parameters.
const FIELDS: [&str; 2] = ["Content-Type", "Content-Disposition"];

/// Appends ` name=value` for each parameter of a field that is written as RFC 2231 has it.
pub fn append(field: &[u8], value: &[u8], out: &mut String) {
    if memchr::memchr(b'*', value).is_none()
        || !FIELDS.iter().any(|f| field.eq_ignore_ascii_case(f.as_bytes()))
    {
        return;
    }
    for (name, value) in parameters(value) {
        let Some(value) = decoded(&name, &value) else { continue };
        let name = name.strip_suffix(b"*").unwrap_or(&name);
        out.push(' ');
        out.push_str(&String::from_utf8_lossy(name));
        out.push('=');
        out.push_str(&value);
    }
}

/// The text of a parameter; `name` ends with `*` if it is encoded (RFC 2231 §4).
fn decoded(name: &[u8], value: &[u8]) -> Option<String> {
    if !name.ends_with(b"*") {
        return Some(charset::text(value, None).into_owned());
    }
    let mut parts = value.splitn(3, |b| *b == b'\'');
    let (label, _language, text) = (parts.next()?, parts.next()?, parts.next()?);
    let mut bytes = Vec::with_capacity(text.len());
    let digit = |b: Option<&u8>| b.and_then(|b| char::from(*b).to_digit(16));
    let mut at = 0;
    while let Some(&b) = text.get(at) {
        match (b, digit(text.get(at + 1)), digit(text.get(at + 2))) {
            (b'%', Some(high), Some(low)) => {
                bytes.push((high * 16 + low) as u8);
                at += 3;
            }
            _ => {
                bytes.push(b);
                at += 1;
            }
        }
    }
    Some(charset::text(&bytes, charset::named(label)).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(field: &str, value: &str) -> String {
        let mut out = String::new();
        append(field.as_bytes(), value.as_bytes(), &mut out);
        out
    }

    #[test]
    fn names_of_files() {
        for (value, text) in [
            ("attachment; filename=x.pdf", ""),
            ("attachment; filename*=utf-8''caf%C3%A9.pdf", " filename=caf\u{e9}.pdf"),
            ("attachment; filename*=iso-8859-1'fr'caf%E9.pdf; size=3", " filename=caf\u{e9}.pdf size=3"),
            ("attachment; filename*0=\"long na\"; filename*1=\"me.pdf\"", " filename=long name.pdf"),
            (
                "attachment;\r\n filename*0*=utf-8''%e6%97; filename*1*=%a5x;\r\n filename*2=\" y%41.pdf\"",
                " filename=\u{65e5}x y%41.pdf",
            ),
            ("attachment; filename*=''%zz%", " filename=%zz%"),
            ("attachment; filename*=no-such-charset''%C3%A9", " filename=\u{e9}"),
            ("attachment; filename*=nothing", ""),
        ] {
            assert_eq!(of("content-Disposition", value), text, "{value}");
        }
        assert_eq!(of("Subject", "x; a*=utf-8''b"), "");
    }
}
