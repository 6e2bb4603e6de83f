//! Fields of a header that a summary is made of: which they are, how they are kept while the header
//! arrives, and what those of MIME say (RFC 2045 §5, §6; RFC 2183; RFC 3282).

use super::code::{put_number, put_string};
use super::continued;
use super::{BOUNDARY_MAX, FIELD_MAX, PARAMS_MAX, TEXT_MAX};

macro_rules! names {
    ($( $name:ident = $text:literal, )*) => {
        /// A field that matters.
        #[derive(Clone, Copy, PartialEq, Eq, Debug)]
        pub(super) enum Name { $( $name, )* }

        impl Name {
            /// The field of that name, in any case.
            pub fn of(name: &[u8]) -> Option<Name> {
                $( if name.eq_ignore_ascii_case($text) { return Some(Name::$name); } )*
                None
            }
        }
    };
}

names! {
    Type = b"content-type",
    Encoding = b"content-transfer-encoding",
    Disposition = b"content-disposition",
    Id = b"content-id",
    Description = b"content-description",
    Language = b"content-language",
    Location = b"content-location",
    Md5 = b"content-md5",
    Date = b"date",
    Subject = b"subject",
    From = b"from",
    Sender = b"sender",
    ReplyTo = b"reply-to",
    To = b"to",
    Cc = b"cc",
    Bcc = b"bcc",
    InReplyTo = b"in-reply-to",
    MessageId = b"message-id",
    References = b"references",
}

impl Name {
    /// It says something of the part, not of the message.
    pub fn is_of_part(self) -> bool {
        (self as u8) <= Name::Md5 as u8
    }
}

/// The fields of one header that matter, without folding.
#[derive(Debug, Default)]
pub(super) struct Fields {
    /// Name, and where its value ends.
    fields: Vec<(Name, usize)>,
    values: Vec<u8>,
    /// Where the value of the current field begins; none if it does not matter.
    current: Option<usize>,
    /// Some field has been cut.
    pub cut: bool,
}

/// The length of the name of a field that `line` begins; none if it is no field.
pub(super) fn name_len(line: &[u8]) -> Option<usize> {
    let len = line.iter().position(|&b| !matches!(b, 33..=57 | 59..=126))?;
    // RFC 5322 §4.5: white space may stand in front of the colon.
    let rest = line[len..].trim_ascii_start();
    (len > 0 && rest.first() == Some(&b':')).then_some(len)
}

impl Fields {
    /// Forgets them; keeps the memory.
    pub fn clear(&mut self) {
        self.fields.clear();
        self.values.clear();
        self.current = None;
    }

    /// The first line of a field, whose name has `len` bytes. `of_message`: those that say something of
    /// the message matter too.
    pub fn begin(&mut self, line: &[u8], len: usize, of_message: bool) {
        self.current = None;
        let Some(name) = Name::of(&line[..len]).filter(|n| of_message || n.is_of_part()) else { return };
        let colon = memchr::memchr(b':', line).map_or(line.len(), |c| c + 1);
        self.current = Some(self.values.len());
        self.fields.push((name, 0));
        self.add(line[colon..].trim_ascii());
    }

    /// A folded line of the current field.
    pub fn go_on(&mut self, line: &[u8]) {
        if self.current.is_none() {
            return;
        }
        // RFC 5322 §2.2.3: unfolding takes the line end away and leaves the white space.
        let text = line.trim_ascii();
        if !text.is_empty() {
            let space = line.len() - line.trim_ascii_start().len();
            let is_first = self.current == Some(self.values.len());
            if !is_first {
                self.add(b" ");
                self.add(&line[1..space]);
            }
            self.add(text);
        }
    }

    fn add(&mut self, text: &[u8]) {
        let Some(start) = self.current else { return };
        let room = (start + FIELD_MAX).min(TEXT_MAX).saturating_sub(self.values.len());
        self.cut |= text.len() > room;
        self.values.extend_from_slice(&text[..text.len().min(room)]);
        if let Some(last) = self.fields.last_mut() {
            last.1 = self.values.len();
        }
    }

    /// All fields of that name, in order.
    pub fn all(&self, name: Name) -> impl DoubleEndedIterator<Item = &[u8]> {
        let starts = std::iter::once(0).chain(self.fields.iter().map(|f| f.1)).take(self.fields.len());
        let ranges: Vec<_> = starts.zip(&self.fields).filter(|(_, f)| f.0 == name).collect();
        ranges.into_iter().map(|(start, (_, end))| &self.values[start..*end])
    }

    /// The first field of that name that says something.
    fn first(&self, name: Name) -> Option<&[u8]> {
        self.all(name).find(|value| !value.is_empty())
    }
}

/// What the header of a part says of it.
#[derive(Debug)]
pub(super) struct Shape {
    pub media: Vec<u8>,
    pub subtype: Vec<u8>,
    pub params: Vec<(Vec<u8>, Vec<u8>)>,
    pub encoding: Vec<u8>,
    pub is_attachment: bool,
}

impl Shape {
    /// Reads it. `digest`: the default is that of a multipart/digest (RFC 2046 §5.1.5).
    pub fn of(fields: &Fields, digest: bool) -> Self {
        let media = fields.first(Name::Type).and_then(content_type);
        let default = || if digest { ("message", "rfc822") } else { ("text", "plain") };
        let (media, subtype, params) = media.unwrap_or_else(|| {
            // RFC 2045 §5.2: also in place of what cannot be read.
            let (media, subtype) = default();
            (media.as_bytes().to_vec(), subtype.as_bytes().to_vec(), Vec::new())
        });
        let token = |name| fields.first(name).map(|value| Cursor::new(value).first_token().to_vec());
        let encoding = token(Name::Encoding).unwrap_or_default();
        let disposition = token(Name::Disposition).unwrap_or_default();
        let is_attachment = disposition.eq_ignore_ascii_case(b"attachment");
        Shape { media, subtype, params, encoding, is_attachment }
    }

    /// It is another type.
    pub fn turn_into(&mut self, media: &str, subtype: &str) {
        self.media = media.as_bytes().to_vec();
        self.subtype = subtype.as_bytes().to_vec();
        self.params.clear();
    }

    pub fn is(&self, media: &str, subtype: &str) -> bool {
        self.media.eq_ignore_ascii_case(media.as_bytes())
            && self.subtype.eq_ignore_ascii_case(subtype.as_bytes())
    }

    pub fn param(&self, name: &str) -> Option<&[u8]> {
        let is = |p: &&(Vec<u8>, Vec<u8>)| p.0.eq_ignore_ascii_case(name.as_bytes());
        self.params.iter().find(is).map(|p| &p.1[..])
    }

    /// The boundary, if it is one that can be looked for.
    pub fn boundary(&self) -> Option<&[u8]> {
        // RFC 2046 §5.1.1: it does not end in a space; a line with it may.
        let boundary = self.param("boundary")?.trim_ascii_end();
        (1..=BOUNDARY_MAX).contains(&boundary.len()).then_some(boundary)
    }

    /// Appends the fields of a part in the form of a summary; none but its type if not `whole`.
    pub fn put(&self, out: &mut Vec<u8>, fields: &Fields, whole: bool) {
        put_string(out, Some(&self.media));
        put_string(out, Some(&self.subtype));
        if !whole {
            out.extend_from_slice(&[0; 8]);
            return;
        }
        put_params(out, &self.params);
        put_string(out, fields.first(Name::Id));
        put_string(out, fields.first(Name::Description));
        put_string(out, Some(&self.encoding[..]).filter(|e| !e.is_empty()));
        put_string(out, fields.first(Name::Md5));
        let mut disposition = fields.first(Name::Disposition).map(Cursor::new);
        let kind = disposition.as_mut().map(|d| d.first_token()).filter(|kind| !kind.is_empty());
        put_string(out, kind);
        if let Some(mut rest) = disposition.filter(|_| kind.is_some()) {
            put_params(out, &rest.params());
        }
        let languages = languages(fields.first(Name::Language).unwrap_or_default());
        put_number(out, languages.len() as u64);
        for language in languages {
            put_string(out, Some(language));
        }
        put_string(out, fields.first(Name::Location));
    }
}

/// What stands between commas and comments (RFC 3282 §2).
fn languages(value: &[u8]) -> Vec<&[u8]> {
    let (mut cursor, mut found) = (Cursor::new(value), Vec::new());
    while found.len() < PARAMS_MAX {
        cursor.skip_space(None);
        match cursor.peek() {
            None => break,
            Some(b',' | b'(') => cursor.skip(1),
            Some(_) => found.push(cursor.until(|b| matches!(b, b',' | b'(') || b.is_ascii_whitespace())),
        }
    }
    found
}

fn put_params(out: &mut Vec<u8>, params: &[(Vec<u8>, Vec<u8>)]) {
    put_number(out, params.len() as u64);
    for (name, value) in params {
        put_string(out, Some(name));
        put_string(out, Some(value));
    }
}

/// The parameters of the value of a MIME field, as BODYSTRUCTURE shows them: pieces are put together, names
/// of encoded ones end with `*` (RFC 2231).
#[must_use]
pub fn parameters(value: &[u8]) -> Vec<(Vec<u8>, Vec<u8>)> {
    Cursor::new(&value[..value.len().min(FIELD_MAX)]).params()
}

type Media = (Vec<u8>, Vec<u8>, Vec<(Vec<u8>, Vec<u8>)>);

/// `type/subtype; parameters` (RFC 2045 §5.1); none if it cannot be read.
fn content_type(value: &[u8]) -> Option<Media> {
    let mut cursor = Cursor::new(value);
    let media = cursor.first_token();
    cursor.skip_space(None);
    if media.is_empty() || cursor.peek() != Some(b'/') {
        return None;
    }
    cursor.skip(1);
    let subtype = cursor.first_token();
    (!subtype.is_empty()).then(|| (media.to_vec(), subtype.to_vec(), cursor.params()))
}

/// Reads the value of a structured field (RFC 5322 §3.2) from the front.
#[derive(Clone, Copy, Debug)]
pub(super) struct Cursor<'a>(&'a [u8]);

impl<'a> Cursor<'a> {
    pub fn new(value: &'a [u8]) -> Self {
        Cursor(value)
    }

    pub fn peek(&self) -> Option<u8> {
        self.0.first().copied()
    }

    pub fn skip(&mut self, n: usize) {
        self.0 = self.0.get(n..).unwrap_or_default();
    }

    /// Takes all up to the first byte that is the end.
    pub fn until(&mut self, is_end: impl Fn(u8) -> bool) -> &'a [u8] {
        let end = self.0.iter().position(|&b| is_end(b)).unwrap_or(self.0.len());
        let (text, rest) = self.0.split_at(end);
        self.0 = rest;
        text
    }

    /// Takes white space and comments; true if there was any. A comment that says something takes
    /// the place of `comment`.
    pub fn skip_space(&mut self, mut comment: Option<&mut Vec<u8>>) -> bool {
        let before = self.0.len();
        loop {
            self.until(|b| !b.is_ascii_whitespace());
            if self.peek() != Some(b'(') {
                return self.0.len() < before;
            }
            let mut text = Vec::new();
            let closed = self.comment(&mut text);
            if let Some(comment) = comment.as_deref_mut()
                && closed
                && !text.trim_ascii().is_empty()
            {
                *comment = text.trim_ascii().to_vec();
            }
        }
    }

    /// The next byte that is neither white space nor a comment.
    pub fn after_space(&mut self, comment: &mut Vec<u8>) -> Option<u8> {
        self.skip_space(Some(comment));
        self.peek()
    }

    /// A comment, with those within it; false if it does not end.
    fn comment(&mut self, text: &mut Vec<u8>) -> bool {
        let mut depth = 0usize;
        while let Some(b) = self.peek() {
            self.skip(1);
            match b {
                b'\\' => {
                    text.extend(self.peek());
                    self.skip(1);
                    continue;
                }
                b'(' => depth += 1,
                b')' => depth -= 1,
                _ => {}
            }
            match (b, depth) {
                (_, 0) => return true,
                (b'(', 1) => {}
                _ => text.push(b),
            }
        }
        false
    }

    /// A quoted string, without its quotes; false if it does not end.
    pub fn quoted(&mut self, text: &mut Vec<u8>) -> bool {
        self.skip(1);
        while let Some(b) = self.peek() {
            self.skip(1);
            match b {
                b'"' => return true,
                b'\\' => {
                    text.extend(self.peek());
                    self.skip(1);
                }
                _ => text.push(b),
            }
        }
        false
    }

    /// What has neither white space nor specials of RFC 5322 §3.2.3, dots excepted.
    pub fn atom(&mut self) -> &'a [u8] {
        self.until(|b| b.is_ascii_whitespace() || b"()<>[]:;@\\,\"".contains(&b))
    }

    /// A domain or address literal, without white space and comments.
    pub fn domain(&mut self, comment: &mut Vec<u8>) -> Vec<u8> {
        let mut out = Vec::new();
        loop {
            let space = self.skip_space(Some(comment));
            match self.peek() {
                Some(b'[') => {
                    let literal = self.until(|b| matches!(b, b']' | b'>' | b','));
                    out.extend(literal.iter().filter(|b| !b.is_ascii_whitespace()));
                    if self.peek() == Some(b']') {
                        out.push(b']');
                        self.skip(1);
                    }
                }
                // White space may stand around dots only.
                Some(b) if space && !out.is_empty() && b != b'.' && out.last() != Some(&b'.') => return out,
                _ => match self.atom() {
                    b"" => return out,
                    atom => out.extend_from_slice(atom),
                },
            }
        }
    }

    /// The first token (RFC 2045 §5.1); empty if something else stands there.
    pub fn first_token(&mut self) -> &'a [u8] {
        self.skip_space(None);
        self.until(|b| b.is_ascii_whitespace() || b.is_ascii_control() || b"()<>@,;:\\\"/[]?=".contains(&b))
    }

    /// Parameters up to the end. What is no parameter is passed over; pieces of one are put together.
    pub fn params(&mut self) -> Vec<(Vec<u8>, Vec<u8>)> {
        let mut params = Vec::new();
        while params.len() < PARAMS_MAX && self.next_param() {
            let name = self.first_token();
            self.skip_space(None);
            if name.is_empty() || self.peek() != Some(b'=') {
                continue;
            }
            self.skip(1);
            self.skip_space(None);
            let mut value = Vec::new();
            if self.peek() == Some(b'"') {
                self.quoted(&mut value);
            } else {
                // Many leave the quotes out where they are needed.
                value.extend_from_slice(self.until(|b| b == b';' || b.is_ascii_whitespace()));
            }
            params.push((name.to_vec(), value));
        }
        continued::join(params)
    }

    /// Goes behind the next semicolon.
    fn next_param(&mut self) -> bool {
        loop {
            self.until(|b| matches!(b, b';' | b'"' | b'('));
            match self.peek() {
                None => return false,
                Some(b'"') => _ = self.quoted(&mut Vec::new()),
                Some(b'(') => _ = self.skip_space(None),
                Some(_) => {
                    self.skip(1);
                    return true;
                }
            }
        }
    }
}
