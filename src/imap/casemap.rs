//! i;unicode-casemap (RFC 5051): what SEARCH, SORT and THREAD compare.
//!
//! Each character is mapped to its simple titlecase form and then decomposed, canonically and for
//! compatibility; what comes out is compared byte by byte as UTF-8. Cannot fail.

use unicode_normalization::char::decompose_compatible;

/// Appends the mapped form of `text` as UTF-8.
pub fn fold(text: &str, out: &mut Vec<u8>) {
    out.reserve(text.len());
    let mut rest = text;
    while !rest.is_empty() {
        let ascii = rest.bytes().take_while(u8::is_ascii).count();
        let from = out.len();
        out.extend_from_slice(&rest.as_bytes()[..ascii]);
        out[from..].make_ascii_uppercase();
        rest = &rest[ascii..];
        let end = rest.find(|c: char| c.is_ascii()).unwrap_or(rest.len());
        rest[..end].chars().for_each(|c| fold_char(c, out));
        rest = &rest[end..];
    }
}

/// The mapped form of `text`.
#[must_use]
pub fn folded(text: &str) -> Vec<u8> {
    let mut out = Vec::new();
    fold(text, &mut out);
    out
}

fn fold_char(c: char, out: &mut Vec<u8>) {
    decompose_compatible(titlecase(c), |d| {
        let mut utf8 = [0; 4];
        out.extend_from_slice(d.encode_utf8(&mut utf8).as_bytes());
    });
}

/// RFC 5051 §2 step 2a: the simple titlecase mapping of UnicodeData. That is the uppercase one but for
/// those listed here; a full mapping of several characters is none.
fn titlecase(c: char) -> char {
    let up = |by: u32| char::from_u32(c as u32 + by).unwrap_or(c);
    match c {
        // Digraphs have a form of their own.
        '\u{1c4}'..='\u{1c6}' => '\u{1c5}',
        '\u{1c7}'..='\u{1c9}' => '\u{1c8}',
        '\u{1ca}'..='\u{1cc}' => '\u{1cb}',
        '\u{1f1}'..='\u{1f3}' => '\u{1f2}',
        // Georgian has capitals, but no titlecase.
        '\u{10d0}'..='\u{10fa}' | '\u{10fd}'..='\u{10ff}' => c,
        // Greek with iota: full uppercase is two characters.
        '\u{1f80}'..='\u{1f87}' | '\u{1f90}'..='\u{1f97}' | '\u{1fa0}'..='\u{1fa7}' => up(8),
        '\u{1fb3}' | '\u{1fc3}' | '\u{1ff3}' => up(9),
        _ => {
            let mut upper = c.to_uppercase();
            match (upper.next(), upper.next()) {
                (Some(one), None) => one,
                _ => c,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn text(s: &str) -> String {
        String::from_utf8(folded(s)).unwrap()
    }

    #[test]
    fn mapped_forms() {
        for (from, to) in [
            ("", ""),
            ("Hello, World! 1", "HELLO, WORLD! 1"),
            ("\u{e9}", "E\u{301}"),
            ("\u{c9}", "E\u{301}"),
            ("e\u{301}", "E\u{301}"),
            ("\u{fb01}x", "fiX"),
            ("\u{df}", "\u{df}"),
            ("\u{1c6}", "Dz\u{30c}"),
            ("\u{1c4}", "Dz\u{30c}"),
            ("\u{10d0}", "\u{10d0}"),
            ("\u{1fb3}", "\u{391}\u{345}"),
            ("\u{ff21}", "A"),
            ("\u{43f}\u{440}", "\u{41f}\u{420}"),
            ("a\u{e9}b\u{e8}c", "AE\u{301}BE\u{300}C"),
        ] {
            assert_eq!(text(from), to, "{}", from.escape_unicode());
        }
    }

    proptest! {
        #[test]
        fn case_and_concatenation_do_not_matter(
            a in "\\PC{0,20}",
            b in "[a-zA-Z\u{e0}-\u{ff}\u{400}-\u{45f}]{0,20}",
        ) {
            prop_assert_eq!(text(&format!("{a}{b}")), text(&a) + &text(&b));
            // U+00DF has no simple mapping, and U+00FF and U+00B5 none within these.
            if !b.contains('\u{df}') {
                prop_assert_eq!(text(&b.to_uppercase()), text(&b.to_lowercase()));
            }
        }
    }
}
