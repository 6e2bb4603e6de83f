//! Addresses of a field, as ENVELOPE gives them (RFC 5322 §3.4, §4.4; RFC 9051 §7.5.2).
//!
//! Takes whatever stands there: what is no address becomes one with a domain or a local part that
//! says that it is missing, so that nothing of the field is lost and groups stay recognisable.

use super::code::put_string;
use super::field::Cursor;

/// Addresses and marks of groups in one list; more are cut off.
pub(super) const ADDRESSES_MAX: usize = 5000;
/// What stands for a domain that is not there (as in Dovecot).
pub(super) const NO_DOMAIN: &[u8] = b"MISSING_DOMAIN";
/// What stands for a local part that is not there (as in Dovecot).
pub(super) const NO_MAILBOX: &[u8] = b"MISSING_MAILBOX";

/// A list that grows.
#[derive(Debug, Default)]
pub(super) struct List {
    pub count: usize,
    pub bytes: Vec<u8>,
    /// There was more.
    pub cut: bool,
}

impl List {
    fn add(
        &mut self,
        name: Option<&[u8]>,
        route: Option<&[u8]>,
        mailbox: Option<&[u8]>,
        host: Option<&[u8]>,
    ) {
        if self.count >= ADDRESSES_MAX {
            self.cut = true;
            return;
        }
        self.count += 1;
        for text in [name, route, mailbox, host] {
            put_string(&mut self.bytes, text);
        }
    }

    fn end_group(&mut self) {
        self.add(None, None, None, None);
    }

    /// Adds the addresses of a field; its value is unfolded.
    pub fn read(&mut self, value: &[u8]) {
        let mut cursor = Cursor::new(value);
        let mut in_group = false;
        loop {
            let mut comment = Vec::new();
            cursor.skip_space(Some(&mut comment));
            match cursor.peek() {
                None => break,
                Some(b',') => cursor.skip(1),
                Some(b';') => {
                    cursor.skip(1);
                    if std::mem::take(&mut in_group) {
                        self.end_group();
                    }
                }
                Some(_) => self.one(&mut cursor, &mut in_group, comment),
            }
            if self.cut {
                break;
            }
        }
        if in_group {
            self.end_group();
        }
    }

    /// One address, or the begin of a group.
    fn one(&mut self, cursor: &mut Cursor<'_>, in_group: &mut bool, mut comment: Vec<u8>) {
        let mut phrase = Phrase::default();
        let next = phrase.read(cursor, &mut comment);
        let mut name = Some(phrase.spaced.clone()).filter(|n| !n.is_empty());
        let (mut route, mut mailbox, mut host) = (None, None, None);
        match next {
            Some(b':') if !*in_group => {
                cursor.skip(1);
                *in_group = true;
                return self.add(None, None, Some(&name.unwrap_or_default()), None);
            }
            Some(b'<') => {
                cursor.skip(1);
                (route, mailbox, host) = angle(cursor, &mut comment);
            }
            Some(b'@') => {
                name = Some(phrase.before().to_vec()).filter(|n| !n.is_empty());
                mailbox = Some(phrase.local().to_vec());
                cursor.skip(1);
                host = Some(cursor.domain(&mut comment));
            }
            // A special character where none belongs, alone: it is dropped.
            Some(b) if name.is_none() && !matches!(b, b',' | b';') => return cursor.skip(1),
            _ if name.is_none() => {}
            // More than one word is what people are called.
            _ if phrase.words > 1 => {}
            _ => mailbox = name.take(),
        }
        // What stands behind it, up to the next address.
        while let Some(b) = cursor.after_space(&mut comment).filter(|b| !matches!(b, b',' | b';')) {
            match b {
                b'"' => _ = cursor.quoted(&mut Vec::new()),
                _ => cursor.skip(1),
            }
        }
        let comment = Some(comment).filter(|c| !c.is_empty());
        if mailbox.is_none() && host.is_none() && name.is_none() && comment.is_none() && next != Some(b'<') {
            return;
        }
        let given = |text: &Option<Vec<u8>>| text.as_ref().is_some_and(|t| !t.is_empty());
        let mailbox = if given(&mailbox) { mailbox } else { Some(NO_MAILBOX.to_vec()) };
        let host = if given(&host) { host } else { Some(NO_DOMAIN.to_vec()) };
        let name = name.or(comment);
        self.add(name.as_deref(), route.as_deref(), mailbox.as_deref(), host.as_deref());
    }
}

type Text = Option<Vec<u8>>;

/// What stands behind `<`: route, local part, domain.
fn angle(cursor: &mut Cursor<'_>, comment: &mut Vec<u8>) -> (Text, Text, Text) {
    let mut route = None;
    if cursor.after_space(comment) == Some(b'@') {
        // RFC 5322 §4.4: `@one,@two:`
        let text = cursor.until(|b| matches!(b, b':' | b'>' | b'<'));
        route = Some(text.iter().copied().filter(|b| !b.is_ascii_whitespace()).collect());
        if cursor.peek() == Some(b':') {
            cursor.skip(1);
        }
    }
    let mut phrase = Phrase::default();
    phrase.read(cursor, comment);
    // Specials that belong nowhere; a comma may be within an address that is not closed.
    while let Some(b':' | b';' | b'<') = cursor.peek() {
        cursor.skip(1);
        phrase = Phrase::default();
        phrase.read(cursor, comment);
    }
    let mut host = None;
    if cursor.peek() == Some(b'@') {
        cursor.skip(1);
        host = Some(cursor.domain(comment));
    }
    if cursor.after_space(comment) == Some(b'>') {
        cursor.skip(1);
    }
    (route, Some(phrase.local().to_vec()), host)
}

/// Words in a row.
#[derive(Debug, Default)]
struct Phrase {
    /// With a space between them, without quotes.
    spaced: Vec<u8>,
    /// Without spaces: a local part (RFC 5322 §4.4 allows them around its dots).
    joined: Vec<u8>,
    words: u32,
    /// Where the last words that only dots connect begin: in `spaced` and in `joined`.
    last: (usize, usize),
}

impl Phrase {
    /// The local part before an `@`: nobody's address is made of two words, but people forget brackets.
    fn local(&self) -> &[u8] {
        &self.joined[self.last.1..]
    }

    /// The words before that.
    fn before(&self) -> &[u8] {
        self.spaced[..self.last.0].trim_ascii_end()
    }

    /// Reads up to a special character, which is given.
    fn read(&mut self, cursor: &mut Cursor<'_>, comment: &mut Vec<u8>) -> Option<u8> {
        loop {
            let space = cursor.skip_space(Some(comment));
            let next = cursor.peek();
            let mut word = Vec::new();
            match next {
                Some(b'"') => _ = cursor.quoted(&mut word),
                Some(b'\\' | b'[' | b']' | b')' | b'>') => {
                    // They stand in no word, but people write them.
                    if next == Some(b'>') {
                        return next;
                    }
                    word.extend(next);
                    cursor.skip(1);
                }
                Some(b'<' | b'@' | b',' | b';' | b':') | None => return next,
                Some(_) => word.extend_from_slice(cursor.atom()),
            }
            if space && !self.spaced.is_empty() {
                self.spaced.push(b' ');
                if !self.joined.ends_with(b".") && !word.starts_with(b".") {
                    self.last = (self.spaced.len(), self.joined.len());
                }
            }
            self.words += u32::from(space || self.words == 0);
            self.spaced.extend_from_slice(&word);
            self.joined.extend_from_slice(&word);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::code::Reader;
    use super::*;

    fn list(value: &str) -> String {
        let mut list = List::default();
        list.read(value.as_bytes());
        let mut reader = Reader(&list.bytes);
        let mut one = || match reader.string().unwrap() {
            None => "NIL".to_string(),
            Some(text) => format!("{:?}", String::from_utf8_lossy(text)),
        };
        (0..list.count).map(|_| format!("({} {} {} {})", one(), one(), one(), one())).collect()
    }

    #[test]
    fn addresses() {
        for (value, expected) in [
            ("a@b.example", r#"(NIL NIL "a" "b.example")"#),
            ("A B <a@b>", r#"("A B" NIL "a" "b")"#),
            ("\"B, A\" <a@b>,c@d", r#"("B, A" NIL "a" "b")(NIL NIL "c" "d")"#),
            (r#""A \"q\" \\" <a@b>"#, r#"("A \"q\" \\" NIL "a" "b")"#),
            ("=?utf-8?q?A_B?= <a@b>", r#"("=?utf-8?q?A_B?=" NIL "a" "b")"#),
            ("J. R. Dobbs <a@b>", r#"("J. R. Dobbs" NIL "a" "b")"#),
            ("a@b (A (nested) \\) B)", r#"("A (nested) ) B" NIL "a" "b")"#),
            ("\"x y\"@b", r#"(NIL NIL "x y" "b")"#),
            ("a . b @ c . d", r#"(NIL NIL "a.b" "c.d")"#),
            ("a@[192.0.2.1]", r#"(NIL NIL "a" "[192.0.2.1]")"#),
            ("<@one,@two:a@b>", r#"(NIL "@one,@two" "a" "b")"#),
            ("undisclosed-recipients:;", r#"(NIL NIL "undisclosed-recipients" NIL)(NIL NIL NIL NIL)"#),
            (
                "G G: a@b, C <c@d>; e@f",
                concat!(
                    r#"(NIL NIL "G G" NIL)(NIL NIL "a" "b")("C" NIL "c" "d")(NIL NIL NIL NIL)"#,
                    r#"(NIL NIL "e" "f")"#
                ),
            ),
            ("G: a@b", r#"(NIL NIL "G" NIL)(NIL NIL "a" "b")(NIL NIL NIL NIL)"#),
            ("", ""),
            (" , ,; ", ""),
            (",a@b,,", r#"(NIL NIL "a" "b")"#),
        ] {
            assert_eq!(list(value), expected, "{value}");
        }
    }

    #[test]
    fn what_is_no_address() {
        for (value, expected) in [
            ("root", r#"(NIL NIL "root" "MISSING_DOMAIN")"#),
            ("John Doe", r#"("John Doe" NIL "MISSING_MAILBOX" "MISSING_DOMAIN")"#),
            ("A <>", r#"("A" NIL "MISSING_MAILBOX" "MISSING_DOMAIN")"#),
            ("<>", r#"(NIL NIL "MISSING_MAILBOX" "MISSING_DOMAIN")"#),
            ("A <a>", r#"("A" NIL "a" "MISSING_DOMAIN")"#),
            ("A <a@b", r#"("A" NIL "a" "b")"#),
            ("a@", r#"(NIL NIL "a" "MISSING_DOMAIN")"#),
            ("@b", r#"(NIL NIL "MISSING_MAILBOX" "b")"#),
            ("A B a.b@c", r#"("A B" NIL "a.b" "c")"#),
            ("A a@b>", r#"("A" NIL "a" "b")"#),
            ("A <x a@b>", r#"("A" NIL "a" "b")"#),
            ("<mailto:a@b>", r#"(NIL NIL "a" "b")"#),
            ("a@b c@d, e@f", r#"(NIL NIL "a" "b")(NIL NIL "e" "f")"#),
            ("A [x] <a@b>", r#"("A [x]" NIL "a" "b")"#),
            ("\"open <a@b>", r#"(NIL NIL "open <a@b>" "MISSING_DOMAIN")"#),
            ("(comment", r#""#),
            (">", ""),
            ("a@b>, c@d", r#"(NIL NIL "a" "b")(NIL NIL "c" "d")"#),
        ] {
            assert_eq!(list(value), expected, "{value}");
        }
    }

    #[test]
    fn long_lists_are_cut() {
        let mut list = List::default();
        list.read(&b"a,".repeat(ADDRESSES_MAX));
        assert!(!list.cut && list.count == ADDRESSES_MAX);
        list.read(b"b");
        assert!(list.cut && list.count == ADDRESSES_MAX);
    }
}
