//! Transfer encodings taken away (RFC 2045 §6), in pieces: for SEARCH in bodies and for BINARY.
//!
//! Takes what is found in mail: characters that are not of base64 are passed over, a `=` of
//! quoted-printable that means nothing stays. Never fails; what comes out is not longer than what
//! went in, and at most `SPACES_MAX` bytes are kept between two pieces.

/// White space before a line end that is kept until it is known whether the line ends; a longer run is text.
const SPACES_MAX: usize = 1000;

/// Takes an encoding away.
#[derive(Clone, Debug)]
pub struct Decoder(Form);

#[derive(Clone, Debug)]
enum Form {
    Identity,
    Base64 { bits: u32, count: u8, ended: bool },
    Quoted(Vec<u8>),
}

impl Decoder {
    /// For a value of Content-Transfer-Encoding; none means 7bit. `None` for an encoding that is not
    /// known: `NO [UNKNOWN-CTE]` (RFC 3516 §3), and nothing to search in.
    #[must_use]
    pub fn of(encoding: Option<&[u8]>) -> Option<Self> {
        let name = encoding.unwrap_or(b"7bit").trim_ascii();
        let is = |other: &str| name.eq_ignore_ascii_case(other.as_bytes());
        Some(Decoder(if is("base64") {
            Form::Base64 { bits: 0, count: 0, ended: false }
        } else if is("quoted-printable") {
            Form::Quoted(Vec::new())
        } else if is("7bit") || is("8bit") || is("binary") {
            Form::Identity
        } else {
            return None;
        }))
    }

    /// The bytes are as they are: nobody needs to decode them.
    #[must_use]
    pub fn is_identity(&self) -> bool {
        matches!(self.0, Form::Identity)
    }

    /// Appends what the next piece stands for; `last`: the part ends with it.
    pub fn feed(&mut self, bytes: &[u8], last: bool, out: &mut Vec<u8>) {
        match &mut self.0 {
            Form::Identity => out.extend_from_slice(bytes),
            Form::Base64 { bits, count, ended } => base64(bytes, bits, count, ended, out),
            Form::Quoted(kept) => {
                if kept.is_empty() {
                    let rest = quoted(bytes, last, out);
                    kept.extend_from_slice(&bytes[bytes.len() - rest..]);
                } else {
                    let mut all = std::mem::take(kept);
                    all.extend_from_slice(bytes);
                    let rest = quoted(&all, last, out);
                    all.drain(..all.len() - rest);
                    *kept = all;
                }
            }
        }
    }
}

/// RFC 2045 §6.8. Nothing counts behind padding.
fn base64(bytes: &[u8], bits: &mut u32, count: &mut u8, ended: &mut bool, out: &mut Vec<u8>) {
    out.reserve(bytes.len() / 4 * 3 + 3);
    for b in bytes {
        let value = match b {
            b'A'..=b'Z' => b - b'A',
            b'a'..=b'z' => b - b'a' + 26,
            b'0'..=b'9' => b - b'0' + 52,
            b'+' => 62,
            b'/' => 63,
            b'=' => {
                *ended = true;
                continue;
            }
            _ => continue,
        };
        if *ended {
            continue;
        }
        *bits = *bits << 6 | u32::from(value);
        *count += 6;
        if *count >= 8 {
            *count -= 8;
            out.push((*bits >> *count) as u8);
        }
    }
}

/// RFC 2045 §6.7. How many bytes at the end wait for what comes next; none if `last`.
fn quoted(bytes: &[u8], last: bool, out: &mut Vec<u8>) -> usize {
    let mut at = 0;
    while at < bytes.len() {
        let plain = memchr::memchr3(b'=', b'\r', b'\n', &bytes[at..]).unwrap_or(bytes.len() - at);
        let run = &bytes[at..at + plain];
        let end = at + plain;
        match bytes.get(end) {
            // White space at the end of a line has been added on the way (rule 3).
            Some(b'\r' | b'\n') => {
                out.extend_from_slice(without_spaces(run));
                out.push(bytes[end]);
                at = end + 1;
            }
            Some(_) => {
                out.extend_from_slice(run);
                match escape(&bytes[end..], last) {
                    Some((byte, used)) => {
                        out.extend(byte);
                        at = end + used;
                    }
                    None => return bytes.len() - end,
                }
            }
            None => {
                let text = without_spaces(run);
                let spaces = run.len() - text.len();
                if last || spaces > SPACES_MAX {
                    out.extend_from_slice(if last { text } else { run });
                    return 0;
                }
                out.extend_from_slice(text);
                return spaces;
            }
        }
    }
    0
}

/// Without white space at its end.
fn without_spaces(run: &[u8]) -> &[u8] {
    let spaces = run.iter().rev().take_while(|b| matches!(b, b' ' | b'\t')).count();
    &run[..run.len() - spaces]
}

/// What a `=` at the start of `bytes` stands for, and how many bytes that are; `None` if it cannot be
/// known yet.
fn escape(bytes: &[u8], last: bool) -> Option<(Option<u8>, usize)> {
    const ITSELF: (Option<u8>, usize) = (Some(b'='), 1);
    let spaces = bytes[1..].iter().take_while(|b| matches!(b, b' ' | b'\t')).count();
    match bytes.get(1 + spaces) {
        // A soft line break, perhaps with white space before the line end.
        Some(b'\n') => Some((None, spaces + 2)),
        Some(b'\r') => match bytes.get(2 + spaces) {
            Some(b'\n') => Some((None, spaces + 3)),
            None if !last => None,
            _ => Some((None, spaces + 2)),
        },
        Some(_) if spaces > 0 => Some(ITSELF),
        Some(first) => {
            let Some(high) = char::from(*first).to_digit(16) else { return Some(ITSELF) };
            match bytes.get(2) {
                Some(second) => match char::from(*second).to_digit(16) {
                    Some(low) => Some((Some((high * 16 + low) as u8), 3)),
                    None => Some(ITSELF),
                },
                None if last => Some(ITSELF),
                None => None,
            }
        }
        // At the very end it is a soft line break before nothing.
        None if last => Some((None, spaces + 1)),
        None if spaces > SPACES_MAX => Some(ITSELF),
        None => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn decoded(encoding: &str, bytes: &[u8], cuts: &[usize]) -> Vec<u8> {
        let mut decoder = Decoder::of(Some(encoding.as_bytes())).unwrap();
        let (mut out, mut from) = (Vec::new(), 0);
        for cut in cuts {
            let cut = (*cut).clamp(from, bytes.len());
            decoder.feed(&bytes[from..cut], false, &mut out);
            from = cut;
        }
        decoder.feed(&bytes[from..], true, &mut out);
        out
    }

    #[test]
    fn encodings() {
        for (encoding, bytes, text) in [
            ("7bit", &b"a=3D\r\n"[..], &b"a=3D\r\n"[..]),
            ("BINARY ", b"\0", b"\0"),
            ("base64", b"SGVs\r\nbG8=\r\nignored", b"Hello"),
            ("Base64", b"SGVsbG8", b"Hello"),
            ("base64", b"S-G V*s", b"Hel"),
            ("base64", b"", b""),
            ("quoted-printable", b"a=3Db=C3=A9", b"a=b\xc3\xa9"),
            ("quoted-printable", b"soft=\r\nbreak= \t\r\nagain=\nx", b"softbreakagainx"),
            ("quoted-printable", b"space \t \r\nx \n", b"space\r\nx\n"),
            ("quoted-printable", b"a=zz=4=", b"a=zz=4"),
            ("quoted-printable", b"lower=c3=a9", b"lower\xc3\xa9"),
            ("quoted-printable", b"a= b", b"a= b"),
            ("quoted-printable", b"=", b""),
            ("quoted-printable", b"x=\r", b"x"),
            ("quoted-printable", b"x  ", b"x"),
        ] {
            assert_eq!(decoded(encoding, bytes, &[]), text, "{encoding}: {}", bytes.escape_ascii());
        }
        assert!(Decoder::of(Some(b"x-uuencode")).is_none());
        assert!(Decoder::of(None).unwrap().is_identity());
    }

    #[test]
    fn long_white_space_is_not_kept() {
        let mut decoder = Decoder::of(Some(b"quoted-printable")).unwrap();
        let mut out = Vec::new();
        for _ in 0..100 {
            decoder.feed(&[b' '; 100], false, &mut out);
            let Form::Quoted(kept) = &decoder.0 else { panic!("quoted-printable") };
            assert!(kept.len() <= SPACES_MAX);
        }
    }

    proptest! {
        #[test]
        fn pieces_give_what_the_whole_gives(
            text in "[=aA3 \t\r\nzC]{0,60}",
            mut cuts in prop::collection::vec(0usize..60, 0..8),
        ) {
            cuts.sort_unstable();
            for encoding in ["base64", "quoted-printable"] {
                prop_assert_eq!(
                    decoded(encoding, text.as_bytes(), &cuts),
                    decoded(encoding, text.as_bytes(), &[]),
                    "{}", encoding
                );
            }
        }
    }
}
