//! `* n FETCH (...)` (RFC 9051 §7.5.2), item by item, and the other responses with a message number.
//!
//! Sections end with a literal's header; their bytes are streamed by whoever has them.

use super::{Wire, astring, flags, literal_header, nstring, number};
use crate::imap::parse::date::{DateTime, write_date_time};
use crate::imap::parse::fetch::{Fields, Kind, Section, Text};
use crate::imap::parse::flags::System;
use crate::imap::set::SeqSet;

/// Writes one FETCH response.
#[derive(Debug)]
pub struct Fetch<'o> {
    out: &'o mut Vec<u8>,
    first: bool,
}

impl<'o> Fetch<'o> {
    /// Begins `* seq FETCH (`.
    pub fn begin(out: &'o mut Vec<u8>, seq: u32) -> Self {
        out.extend_from_slice(b"* ");
        number(out, u64::from(seq));
        out.extend_from_slice(b" FETCH (");
        Fetch { out, first: true }
    }

    /// Goes on with a response whose section has been streamed.
    pub fn resume(out: &'o mut Vec<u8>) -> Self {
        Fetch { out, first: false }
    }

    /// Goes on with a response of which perhaps nothing has been written yet (`first`).
    pub fn go_on(out: &'o mut Vec<u8>, first: bool) -> Self {
        Fetch { out, first }
    }

    /// Nothing has been written yet.
    #[must_use]
    pub fn is_first(&self) -> bool {
        self.first
    }

    /// Ends it.
    pub fn end(self) {
        self.out.extend_from_slice(b")\r\n");
    }

    /// Appends the name of an item and a space; its value must follow in the vector that is returned.
    pub fn item(&mut self, name: &str) -> &mut Vec<u8> {
        if !std::mem::take(&mut self.first) {
            self.out.push(b' ');
        }
        self.out.extend_from_slice(name.as_bytes());
        self.out.push(b' ');
        self.out
    }

    /// UID.
    pub fn uid(&mut self, uid: u32) {
        number(self.item("UID"), u64::from(uid));
    }

    /// FLAGS.
    pub fn flags<'a>(&mut self, system: System, keywords: impl IntoIterator<Item = &'a [u8]>) {
        flags(self.item("FLAGS"), system, keywords);
    }

    /// MODSEQ (RFC 7162 §3.1.4).
    pub fn mod_seq(&mut self, n: u64) {
        let out = self.item("MODSEQ");
        out.push(b'(');
        number(out, n);
        out.push(b')');
    }

    /// INTERNALDATE.
    pub fn internal_date(&mut self, at: DateTime) {
        write_date_time(self.item("INTERNALDATE"), at);
    }

    /// SAVEDATE (RFC 8514 §4.2); none if it is not kept.
    pub fn save_date(&mut self, at: Option<DateTime>) {
        let out = self.item("SAVEDATE");
        match at {
            Some(at) => write_date_time(out, at),
            None => out.extend_from_slice(b"NIL"),
        }
    }

    /// RFC822.SIZE.
    pub fn size(&mut self, octets: u64) {
        number(self.item("RFC822.SIZE"), octets);
    }

    /// EMAILID (RFC 8474 §5.1).
    pub fn email_id(&mut self, id: &[u8]) {
        object(self.item("EMAILID"), Some(id));
    }

    /// THREADID (RFC 8474 §5.2); none if it is not kept.
    pub fn thread_id(&mut self, id: Option<&[u8]>) {
        object(self.item("THREADID"), id);
    }

    /// PREVIEW (RFC 8970 §3.2). Always in UTF-8: in a literal if the client takes no other.
    pub fn preview(&mut self, text: Option<&str>, wire: Wire) {
        nstring(self.item("PREVIEW"), text.map(str::as_bytes), wire);
    }

    /// The name of a section and the header of a literal of `len` octets, which must follow; then
    /// [`Self::resume`]. `eight`: as literal8, for content with NUL (RFC 3516 §4.2).
    pub fn section(&mut self, section: &Section<'_>, len: u64, eight: bool) {
        self.section_name(section);
        if eight {
            self.out.push(b'~');
        }
        literal_header(self.out, len);
    }

    /// A section that is not there: NIL.
    pub fn no_section(&mut self, section: &Section<'_>) {
        self.section_name(section);
        self.out.extend_from_slice(b"NIL");
    }

    /// BINARY.SIZE (RFC 3516 §4.3).
    pub fn binary_size(&mut self, section: &Section<'_>, octets: u64) {
        self.section_name(section);
        number(self.out, octets);
    }

    fn section_name(&mut self, section: &Section<'_>) {
        if !std::mem::take(&mut self.first) {
            self.out.push(b' ');
        }
        name(self.out, section);
        self.out.push(b' ');
    }
}

fn object(out: &mut Vec<u8>, id: Option<&[u8]>) {
    match id {
        Some(id) => {
            out.push(b'(');
            out.extend_from_slice(id);
            out.push(b')');
        }
        None => out.extend_from_slice(b"NIL"),
    }
}

/// The name under which a section is answered: without PEEK, and of a part only where it begins.
fn name(out: &mut Vec<u8>, section: &Section<'_>) {
    let kind: &[u8] = match section.kind {
        Kind::Rfc822 => return out.extend_from_slice(b"RFC822"),
        Kind::Rfc822Header => return out.extend_from_slice(b"RFC822.HEADER"),
        Kind::Rfc822Text => return out.extend_from_slice(b"RFC822.TEXT"),
        Kind::Body => b"BODY[",
        Kind::Binary => b"BINARY[",
        Kind::BinarySize => b"BINARY.SIZE[",
    };
    out.extend_from_slice(kind);
    out.extend_from_slice(section.part.bytes());
    if !section.part.bytes().is_empty() && section.text != Text::Whole {
        out.push(b'.');
    }
    match section.text {
        Text::Whole => {}
        Text::Header => out.extend_from_slice(b"HEADER"),
        Text::Text => out.extend_from_slice(b"TEXT"),
        Text::Mime => out.extend_from_slice(b"MIME"),
        Text::Fields(fields) => field_names(out, "HEADER.FIELDS (", fields),
        Text::FieldsNot(fields) => field_names(out, "HEADER.FIELDS.NOT (", fields),
    }
    out.push(b']');
    if let Some((first, _)) = section.partial {
        out.push(b'<');
        number(out, first);
        out.push(b'>');
    }
}

fn field_names(out: &mut Vec<u8>, name: &str, fields: Fields<'_>) {
    out.extend_from_slice(name.as_bytes());
    for (i, field) in fields.names().enumerate() {
        if i > 0 {
            out.push(b' ');
        }
        astring(out, &field.bytes(), Wire::Ascii);
    }
    out.push(b')');
}

/// Appends `* n EXISTS`.
pub fn exists(out: &mut Vec<u8>, n: u32) {
    numbered(out, n, " EXISTS\r\n");
}

/// Appends `* n RECENT` (RFC 3501 §7.3.2).
pub fn recent(out: &mut Vec<u8>, n: u32) {
    numbered(out, n, " RECENT\r\n");
}

/// Appends `* n EXPUNGE`.
pub fn expunge(out: &mut Vec<u8>, seq: u32) {
    numbered(out, seq, " EXPUNGE\r\n");
}

fn numbered(out: &mut Vec<u8>, n: u32, name: &str) {
    out.extend_from_slice(b"* ");
    number(out, u64::from(n));
    out.extend_from_slice(name.as_bytes());
}

/// Appends `* VANISHED`, with `(EARLIER)` for what vanished before (RFC 7162 §3.2.10). Nothing for an
/// empty set.
pub fn vanished(out: &mut Vec<u8>, earlier: bool, uids: &SeqSet) {
    if uids.is_empty() {
        return;
    }
    out.extend_from_slice(if earlier { b"* VANISHED (EARLIER) " } else { b"* VANISHED " });
    uids.write(out);
    out.extend_from_slice(b"\r\n");
}
