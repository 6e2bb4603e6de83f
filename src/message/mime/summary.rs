//! A summary, read in place: what ENVELOPE, BODYSTRUCTURE, PREVIEW and BODY[section] need.
//!
//! [`Summary::read`] checks everything once; afterwards nothing can fail. All offsets are of the
//! message as it is stored. Strings are as they stand in the message, without folding: encoded words
//! are not decoded, bytes above 127 can occur.

use super::code::{Damaged, Reader, put_number, put_string};
use super::written::{self, Written};

/// Version of the format; its first byte.
pub(super) const VERSION: u8 = 1;
/// A flag: see [`Summary::is_cut`].
pub(super) const CUT: u64 = 1;

/// The summary of a message.
#[derive(Clone, Copy, Debug)]
pub struct Summary<'a> {
    flags: u64,
    size: u64,
    preview: &'a str,
    references: Option<&'a [u8]>,
    envelope: Envelope<'a>,
    /// All parts, the root first.
    parts: &'a [u8],
}

/// How a part is built.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// Neither of the others (`body-type-basic` of RFC 9051 §9).
    Basic,
    /// `text/...`: has [`Part::lines`].
    Text,
    /// `message/rfc822`, `message/global`: has [`Part::lines`], [`Part::envelope`] and exactly one
    /// child, which is the root of that message.
    Message,
    /// `multipart/...`: has children. None if its boundary never came: `BODYSTRUCTURE` needs one, so
    /// an empty `text/plain` has to stand there.
    Multipart,
}

/// A part of a message (RFC 2045 §2.5), or the whole of it.
#[derive(Clone, Copy, Debug)]
pub struct Part<'a> {
    /// How it is built.
    pub kind: Kind,
    /// Where its header begins.
    pub header: u64,
    /// Where its body begins, behind the empty line.
    pub body: u64,
    /// Where its body ends: in front of the CRLF of the boundary.
    pub end: u64,
    /// Line feeds in its body.
    pub lines: u64,
    /// Type, as it is written; `text` if there is none that can be read.
    pub media: &'a [u8],
    /// Subtype, as it is written; `plain` if there is none that can be read.
    pub subtype: &'a [u8],
    /// Parameters of Content-Type. A text without `charset` is in US-ASCII (RFC 2046 §4.1.2).
    pub params: Params<'a>,
    /// Content-ID.
    pub id: Option<&'a [u8]>,
    /// Content-Description.
    pub description: Option<&'a [u8]>,
    /// Content-Transfer-Encoding, as it is written; none means 7bit (RFC 2045 §6.1).
    pub encoding: Option<&'a [u8]>,
    /// Content-MD5.
    pub md5: Option<&'a [u8]>,
    /// Content-Disposition.
    pub disposition: Option<Disposition<'a>>,
    /// Content-Language.
    pub language: Strings<'a>,
    /// Content-Location.
    pub location: Option<&'a [u8]>,
    envelope: Option<Envelope<'a>>,
    descendants: usize,
    /// What follows this part; its descendants first.
    rest: &'a [u8],
}

/// Content-Disposition (RFC 2183).
#[derive(Clone, Copy, Debug)]
pub struct Disposition<'a> {
    /// `attachment`, `inline`, ...; as it is written.
    pub kind: &'a [u8],
    /// Its parameters.
    pub params: Params<'a>,
}

/// The fields of ENVELOPE (RFC 9051 §7.5.2).
#[derive(Clone, Copy, Debug)]
pub struct Envelope<'a> {
    /// Date, as it is written.
    pub date: Option<&'a [u8]>,
    /// Subject.
    pub subject: Option<&'a [u8]>,
    /// From.
    pub from: Addresses<'a>,
    /// Sender, if it is there; see [`Self::sender`].
    pub own_sender: Addresses<'a>,
    /// Reply-To, if it is there; see [`Self::reply_to`].
    pub own_reply_to: Addresses<'a>,
    /// To.
    pub to: Addresses<'a>,
    /// Cc.
    pub cc: Addresses<'a>,
    /// Bcc.
    pub bcc: Addresses<'a>,
    /// In-Reply-To, as it is written.
    pub in_reply_to: Option<&'a [u8]>,
    /// Message-ID, as it is written.
    pub message_id: Option<&'a [u8]>,
}

/// A mailbox, or the begin or the end of a group, in the form that ENVELOPE gives them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Address<'a> {
    /// Display name, without quotes; or the comment behind the address.
    pub name: Option<&'a [u8]>,
    /// Source route (obsolete).
    pub route: Option<&'a [u8]>,
    /// Local part; of a group's begin: its name; of a group's end: none.
    pub mailbox: Option<&'a [u8]>,
    /// Domain; none at begin and end of a group, and only there.
    pub host: Option<&'a [u8]>,
}

macro_rules! sequences {
    ($( $(#[$doc:meta])* $name:ident: $item:ty, $one:expr; )*) => { $(
        $(#[$doc])*
        #[derive(Clone, Copy, Debug)]
        pub struct $name<'a> {
            left: usize,
            bytes: Reader<'a>,
        }

        impl<'a> $name<'a> {
            fn take(reader: &mut Reader<'a>) -> Result<Self, Damaged> {
                let left = reader.count()?;
                let bytes = reader.region(|reader| (0..left).try_for_each(|_| $one(reader).map(drop)))?;
                Ok(Self { left, bytes: Reader(bytes) })
            }

            fn put(self, out: &mut Vec<u8>) {
                put_number(out, self.left as u64);
                out.extend_from_slice(self.bytes.0);
            }

            /// True if there is none.
            #[must_use]
            pub fn is_empty(&self) -> bool {
                self.left == 0
            }
        }

        impl<'a> Iterator for $name<'a> {
            type Item = $item;

            fn next(&mut self) -> Option<Self::Item> {
                self.left = self.left.checked_sub(1)?;
                // It has been read before, when it was checked.
                $one(&mut self.bytes).ok()
            }
        }
    )* };
}

sequences! {
    /// Addresses and marks of groups, in order.
    Addresses: Address<'a>, address;
    /// Parameters: name as it is written, value without quotes.
    Params: (&'a [u8], &'a [u8]), parameter;
    /// Strings.
    Strings: &'a [u8], given;
}

fn given<'a>(reader: &mut Reader<'a>) -> Result<&'a [u8], Damaged> {
    reader.string()?.ok_or(Damaged)
}

fn parameter<'a>(reader: &mut Reader<'a>) -> Result<(&'a [u8], &'a [u8]), Damaged> {
    Ok((given(reader)?, given(reader)?))
}

fn address<'a>(reader: &mut Reader<'a>) -> Result<Address<'a>, Damaged> {
    let (name, route) = (reader.string()?, reader.string()?);
    let (mailbox, host) = (reader.string()?, reader.string()?);
    Ok(Address { name, route, mailbox, host })
}

impl<'a> Params<'a> {
    /// The first parameter of that name, in any case.
    #[must_use]
    pub fn get(mut self, name: &str) -> Option<&'a [u8]> {
        self.find(|(n, _)| n.eq_ignore_ascii_case(name.as_bytes())).map(|(_, value)| value)
    }
}

impl<'a> Envelope<'a> {
    pub(super) fn take(reader: &mut Reader<'a>) -> Result<Self, Damaged> {
        Ok(Envelope {
            date: reader.string()?,
            subject: reader.string()?,
            from: Addresses::take(reader)?,
            own_sender: Addresses::take(reader)?,
            own_reply_to: Addresses::take(reader)?,
            to: Addresses::take(reader)?,
            cc: Addresses::take(reader)?,
            bcc: Addresses::take(reader)?,
            in_reply_to: reader.string()?,
            message_id: reader.string()?,
        })
    }

    fn put(&self, out: &mut Vec<u8>) {
        put_string(out, self.date);
        put_string(out, self.subject);
        for list in [self.from, self.own_sender, self.own_reply_to, self.to, self.cc, self.bcc] {
            list.put(out);
        }
        put_string(out, self.in_reply_to);
        put_string(out, self.message_id);
    }

    /// Sender, or From if there is none (RFC 9051 §7.5.2).
    #[must_use]
    pub fn sender(&self) -> Addresses<'a> {
        if self.own_sender.is_empty() { self.from } else { self.own_sender }
    }

    /// Reply-To, or From if there is none (RFC 9051 §7.5.2).
    #[must_use]
    pub fn reply_to(&self) -> Addresses<'a> {
        if self.own_reply_to.is_empty() { self.from } else { self.own_reply_to }
    }
}

impl Kind {
    fn number(self) -> u8 {
        match self {
            Kind::Basic => 0,
            Kind::Text => 1,
            Kind::Message => 2,
            Kind::Multipart => 3,
        }
    }
}

/// What stands in front of the fields of a part.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place {
    pub kind: Kind,
    pub descendants: usize,
    pub header: u64,
    pub body: u64,
    pub end: u64,
    pub lines: u64,
}

impl Place {
    /// Appends it; `before` is where the header of the part before it begins.
    pub fn put(&self, out: &mut Vec<u8>, before: u64) {
        out.push(self.kind.number());
        put_number(out, self.descendants as u64);
        put_number(out, self.header - before);
        put_number(out, self.body - self.header);
        put_number(out, self.end - self.body);
        put_number(out, self.lines);
    }

    fn take(reader: &mut Reader<'_>, before: u64) -> Result<Self, Damaged> {
        let kind = match reader.byte()? {
            0 => Kind::Basic,
            1 => Kind::Text,
            2 => Kind::Message,
            3 => Kind::Multipart,
            _ => return Err(Damaged),
        };
        let descendants = reader.count()?;
        let mut after = |from: u64| from.checked_add(reader.number()?).ok_or(Damaged);
        let header = after(before)?;
        let body = after(header)?;
        let end = after(body)?;
        Ok(Place { kind, descendants, header, body, end, lines: reader.number()? })
    }
}

impl<'a> Part<'a> {
    fn take(reader: &mut Reader<'a>, before: u64) -> Result<Self, Damaged> {
        let place = Place::take(reader, before)?;
        let (media, subtype) = (given(reader)?, given(reader)?);
        let params = Params::take(reader)?;
        let (id, description) = (reader.string()?, reader.string()?);
        let (encoding, md5) = (reader.string()?, reader.string()?);
        let disposition = match reader.string()? {
            Some(kind) => Some(Disposition { kind, params: Params::take(reader)? }),
            None => None,
        };
        let (language, location) = (Strings::take(reader)?, reader.string()?);
        let envelope = match place.kind {
            Kind::Message => Some(Envelope::take(reader)?),
            _ => None,
        };
        let Place { kind, descendants, header, body, end, lines } = place;
        Ok(Part {
            kind,
            header,
            body,
            end,
            lines,
            media,
            subtype,
            params,
            id,
            description,
            encoding,
            md5,
            disposition,
            language,
            location,
            envelope,
            descendants,
            rest: reader.0,
        })
    }

    fn put(&self, out: &mut Vec<u8>, before: u64) {
        let Part { kind, descendants, header, body, end, lines, .. } = *self;
        Place { kind, descendants, header, body, end, lines }.put(out, before);
        put_string(out, Some(self.media));
        put_string(out, Some(self.subtype));
        self.params.put(out);
        for text in [self.id, self.description, self.encoding, self.md5] {
            put_string(out, text);
        }
        put_string(out, self.disposition.map(|d| d.kind));
        if let Some(disposition) = self.disposition {
            disposition.params.put(out);
        }
        self.language.put(out);
        put_string(out, self.location);
        if let Some(envelope) = &self.envelope {
            envelope.put(out);
        }
    }

    /// Bytes of the body.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.end - self.body
    }

    /// The envelope of the message within; of [`Kind::Message`] only.
    #[must_use]
    pub fn envelope(&self) -> Option<&Envelope<'a>> {
        self.envelope.as_ref()
    }

    /// The parts directly within this one, in order.
    #[must_use]
    pub fn children(&self) -> Children<'a> {
        Children { left: self.descendants, before: self.header, bytes: Reader(self.rest) }
    }
}

/// The parts directly within a part.
#[derive(Clone, Copy, Debug)]
pub struct Children<'a> {
    /// Descendants that have not been passed.
    left: usize,
    before: u64,
    bytes: Reader<'a>,
}

impl<'a> Iterator for Children<'a> {
    type Item = Part<'a>;

    fn next(&mut self) -> Option<Part<'a>> {
        self.left = self.left.checked_sub(1)?;
        // It has been read before, when it was checked.
        let part = Part::take(&mut self.bytes, self.before).ok()?;
        self.before = part.header;
        for _ in 0..part.descendants {
            self.left = self.left.checked_sub(1)?;
            self.before = Part::take(&mut self.bytes, self.before).ok()?.header;
        }
        Some(part)
    }
}

impl<'a> Summary<'a> {
    /// Reads and checks a summary.
    ///
    /// # Errors
    /// [`Damaged`] if the bytes are no summary of this version: work it out anew from the message.
    pub fn read(bytes: &'a [u8]) -> Result<Self, Damaged> {
        let mut reader = Reader(bytes);
        if reader.byte()? != VERSION {
            return Err(Damaged);
        }
        let flags = reader.number()?;
        let size = reader.number()?;
        let preview = std::str::from_utf8(given(&mut reader)?).map_err(|_| Damaged)?;
        let references = reader.string()?;
        let envelope = Envelope::take(&mut reader)?;
        let parts = reader.0;
        check(parts, size)?;
        Ok(Summary { flags, size, preview, references, envelope, parts })
    }

    /// Writes it anew; the same bytes.
    pub fn put(&self, out: &mut Vec<u8>) {
        out.push(VERSION);
        put_number(out, self.flags);
        put_number(out, self.size);
        put_string(out, Some(self.preview.as_bytes()));
        put_string(out, self.references);
        self.envelope.put(out);
        let mut before = 0;
        for part in self.parts() {
            part.put(out, before);
            before = part.header;
        }
    }

    /// Bytes of the message.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Some fields are missing or incomplete, because there was too much of them.
    #[must_use]
    pub fn is_cut(&self) -> bool {
        self.flags & CUT != 0
    }

    /// The text of a field of the message.
    #[must_use]
    pub fn field(&self, name: &[u8]) -> Written<'a> {
        if self.is_cut() {
            return Written::Unknown;
        }
        written::field(name, self.flags, &self.envelope, self.references)
    }

    /// The beginning of the text, at most [`PREVIEW_MAX`](super::PREVIEW_MAX) characters on one line
    /// (RFC 8970 §3); empty if the message has no text.
    #[must_use]
    pub fn preview(&self) -> &'a str {
        self.preview
    }

    /// References, as it is written; for threads.
    #[must_use]
    pub fn references(&self) -> Option<&'a [u8]> {
        self.references
    }

    /// The envelope of the message.
    #[must_use]
    pub fn envelope(&self) -> &Envelope<'a> {
        &self.envelope
    }

    /// The message as a part.
    #[must_use]
    pub fn root(&self) -> Part<'a> {
        Part::take(&mut Reader(self.parts), 0).expect("checked when it was read")
    }

    /// All parts: each in front of those within it.
    pub fn parts(&self) -> impl Iterator<Item = Part<'a>> {
        let (mut reader, mut before) = (Reader(self.parts), 0);
        std::iter::from_fn(move || {
            let part = Part::take(&mut reader, before).ok()?;
            before = part.header;
            Some(part)
        })
    }

    /// The part with these numbers (RFC 9051 §6.4.5.1): each at least 1; none means the message itself.
    /// A message without parts has one part, 1, which is its text.
    #[must_use]
    pub fn section(&self, numbers: &[u32]) -> Option<Part<'a>> {
        let mut part = self.root();
        // A message stands for its own parts.
        let mut whole = true;
        for &number in numbers {
            let index = usize::try_from(number.checked_sub(1)?).ok()?;
            let within = match part.kind {
                Kind::Message if !whole => part.children().next()?,
                _ => part,
            };
            let is_message = whole || part.kind == Kind::Message;
            part = match within.kind {
                Kind::Multipart => within.children().nth(index)?,
                _ if is_message && index == 0 => within,
                _ => return None,
            };
            whole = false;
        }
        Some(part)
    }
}

/// Checks the tree of parts: numbers of descendants, places within one another.
fn check(bytes: &[u8], size: u64) -> Result<(), Damaged> {
    let (mut reader, mut before) = (Reader(bytes), 0);
    // Of each part around the current one: descendants left, and where it ends.
    let mut around: Vec<(usize, u64, Kind)> = Vec::new();
    loop {
        let part = Part::take(&mut reader, before)?;
        let limit = around.last().map_or(size, |a| a.1);
        let fits = part.end <= limit && part.lines <= part.size() && part.header >= before;
        let is_inner = matches!(part.kind, Kind::Message | Kind::Multipart);
        let counts = part.descendants == 0 || is_inner;
        if !fits || !counts || (part.kind == Kind::Message && part.descendants == 0) {
            return Err(Damaged);
        }
        before = part.header;
        for a in &mut around {
            // This part is within all of them.
            a.0 = a.0.checked_sub(1).ok_or(Damaged)?;
        }
        // A message has one child, to which all that is left belongs.
        let bad_share = |a: &(usize, u64, Kind)| {
            part.descendants > a.0 || (a.2 == Kind::Message && part.descendants < a.0)
        };
        if around.last().is_some_and(bad_share) {
            return Err(Damaged);
        }
        if part.descendants > 0 {
            around.push((part.descendants, part.end, part.kind));
        }
        while around.last().is_some_and(|a| a.0 == 0) {
            around.pop();
        }
        if around.is_empty() {
            return if reader.0.is_empty() { Ok(()) } else { Err(Damaged) };
        }
        if around.len() > super::DEPTH_MAX + 1 {
            return Err(Damaged);
        }
    }
}
