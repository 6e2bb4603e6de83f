//! L1: a message as a row of the index: where its body is in the archive, what is known of whom.
//!
//! Rows are small (about 25 bytes for one recipient that was never tried) and hold all that the
//! scheduler needs, so that a queue is rebuilt from rows without reading a body. Destinations are
//! named by numbers of the index's own table of names. Every reader is total: arbitrary bytes give
//! [`Malformed`], never a panic and never an allocation that the bytes did not pay for.
//!
//! Row: `version u8 = 1, marks u8, body flags u8, archive segment, offset, length, size, count` (the
//! last five as variable-length numbers), the side file `u64` if the mark for that is set, the number of the
//! name of the domain (variable-length) if all recipients are of one and the mark for that is set, the next
//! hop that an operator has given it (length, bytes) if the mark for that is set, then per recipient `fate
//! u8` and, unless it is done, `destination` and, if it was tried, `attempts, due (ms), code, 3 enhanced,
//! text length` (variable-length) and the text, then, if that is known, the name of the server that replied
//! (length, bytes). Keys: `m` and the id, big endian (rows); `d` and a number (names of destinations); `x`
//! ([`Meta`], one row).

use crate::base::ids::MessageId;
use crate::base::time::Wall;
use crate::message::body::BodyFlags;
use crate::queue::record::{
    DOUBLE_BOUNCE, Fate, HELD, Malformed, Reply, SERVER_MAX, TEXT_MAX, VIA_MAX, WARNED,
};
use crate::storage::archive::Place;

/// Version of the form of rows.
const VERSION: u8 = 1;
/// Mark of a row: the sender is null.
const NULL_SENDER: u8 = 0x10;
/// Mark of a row: the body is in a side file.
const SIDE: u8 = 0x20;
/// Mark of a row: the domain of all recipients follows.
const DOMAIN: u8 = 0x40;
/// Mark of a row: the next hop that an operator has given it follows.
const VIA: u8 = 0x80;
/// Bit of a recipient's fate: it was tried, and what came of it follows.
const TRIED: u8 = 0x10;
/// Bit of a recipient's fate: the name of the server that replied follows at the end.
const NAMED: u8 = 0x20;

/// Prefix of the keys of messages.
pub const MESSAGES: u8 = b'm';
/// Prefix of the keys of names of destinations.
pub const NAMES: u8 = b'd';
/// The key of [`Meta`].
pub const META: &[u8] = b"x";

/// The key of a message.
#[must_use]
pub fn key(id: MessageId) -> [u8; 9] {
    let mut out = [MESSAGES; 9];
    out[1..].copy_from_slice(&id.0.to_be_bytes());
    out
}

/// The message that a key names.
#[must_use]
pub fn id_of(key: &[u8]) -> Option<MessageId> {
    let bytes = key.strip_prefix(&[MESSAGES])?;
    Some(MessageId(u64::from_be_bytes(bytes.try_into().ok()?)))
}

/// The key of the name of destination `number`.
#[must_use]
pub fn name_key(number: u32) -> [u8; 5] {
    let mut out = [NAMES; 5];
    out[1..].copy_from_slice(&number.to_be_bytes());
    out
}

/// The destination that a key names.
#[must_use]
pub fn name_of(key: &[u8]) -> Option<u32> {
    let bytes = key.strip_prefix(&[NAMES])?;
    Some(u32::from_be_bytes(bytes.try_into().ok()?))
}

/// The value of a name: the name and an address that leads there.
#[must_use]
pub fn name_value(name: &str, sample: &[u8]) -> Vec<u8> {
    let len = u16::try_from(name.len()).expect("names of destinations are short");
    [&len.to_le_bytes(), name.as_bytes(), sample].concat()
}

/// What a domain is called among the names.
#[must_use]
pub fn domain_name(domain: &str) -> String {
    format!("@{domain}")
}

/// The domain that a name stands for: of its own, or because it is the destination of a domain.
#[must_use]
pub fn domain_of(name: &str) -> Option<&str> {
    name.strip_prefix('@').or_else(|| name.strip_prefix("mx:"))
}

/// Reads the value of a name.
#[must_use]
pub fn parse_name(value: &[u8]) -> Option<(&str, &[u8])> {
    let (len, rest) = value.split_first_chunk::<2>()?;
    let (name, sample) = rest.split_at_checked(usize::from(u16::from_le_bytes(*len)))?;
    Some((std::str::from_utf8(name).ok()?, sample))
}

/// What an index says of itself.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Meta {
    /// The log that it belongs to.
    pub log: [u8; 16],
    /// Number of its last transaction.
    pub mark: u64,
    /// No message of the log had a greater id then.
    pub last: MessageId,
    /// Bodies were taken from journal segments up to this sequence.
    pub through: u64,
    /// It was made anew: what it calls under way may have been, unless the log says in this segment or a
    /// later one that it was not. 0: it was not made anew.
    pub doubt: u64,
}

impl Meta {
    /// As stored; without the last number if that is 0.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = vec![VERSION, 0, 0, 0];
        out.extend_from_slice(&self.log);
        out.extend_from_slice(&self.mark.to_le_bytes());
        out.extend_from_slice(&self.last.0.to_le_bytes());
        out.extend_from_slice(&self.through.to_le_bytes());
        if self.doubt != 0 {
            out.extend_from_slice(&self.doubt.to_le_bytes());
        }
        out
    }

    /// Reads it.
    pub fn parse(bytes: &[u8]) -> Result<Self, Malformed> {
        if !matches!(bytes.len(), 44 | 52) || bytes[..4] != [VERSION, 0, 0, 0] {
            return Err(Malformed);
        }
        let number = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"));
        Ok(Meta {
            log: bytes[4..20].try_into().expect("sixteen bytes"),
            mark: number(20),
            last: MessageId(number(28)),
            through: number(36),
            doubt: match bytes.len() {
                44 => 0,
                _ => Some(number(44)).filter(|n| *n != 0).ok_or(Malformed)?,
            },
        })
    }
}

/// One recipient in a row.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct RowRecipient<'a> {
    /// What is known. Fresh: never tried, and not being tried.
    pub fate: Fate,
    /// Number of the name of its destination; of no meaning once it is done.
    pub destination: u32,
    /// Attempts that ended without success.
    pub attempts: u16,
    /// When the next attempt is due, of deferred ones; when that came about which is to be told, of those
    /// that are owed.
    pub due: Wall,
    /// What the last attempt brought.
    pub reply: Reply<'a>,
}

/// A row, read in place.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RowView<'a> {
    /// Where record and body are.
    pub place: Place,
    /// Bytes of trace headers and body.
    pub size: u64,
    /// Side file; 0: none.
    pub side: u64,
    /// Facts about the body.
    pub body: BodyFlags,
    /// [`HELD`], [`WARNED`], [`DOUBLE_BOUNCE`].
    pub marks: u8,
    /// The sender is null.
    pub null_sender: bool,
    /// Number of the name of the domain that all recipients are of; none: of several, or not known.
    pub domain: Option<u32>,
    /// The next hop that an operator has given it; empty: routes say.
    pub via: &'a str,
    /// Number of recipients.
    pub count: u32,
    recipients: &'a [u8],
}

/// The fixed part of a row about to be written.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct RowHead<'a> {
    /// See [`RowView`].
    pub place: Place,
    /// See [`RowView`].
    pub size: u64,
    /// See [`RowView`].
    pub side: u64,
    /// See [`RowView`].
    pub body: BodyFlags,
    /// See [`RowView`].
    pub marks: u8,
    /// See [`RowView`].
    pub null_sender: bool,
    /// See [`RowView`].
    pub domain: Option<u32>,
    /// See [`RowView`].
    pub via: &'a str,
}

/// Writes a row into `out`, which is emptied.
pub fn write<'a>(
    out: &mut Vec<u8>,
    head: &RowHead<'_>,
    recipients: impl ExactSizeIterator<Item = RowRecipient<'a>>,
) {
    out.clear();
    let mut marks = head.marks & (HELD | WARNED | DOUBLE_BOUNCE);
    marks |= if head.null_sender { NULL_SENDER } else { 0 };
    marks |= if head.side != 0 { SIDE } else { 0 };
    marks |= if head.domain.is_some() { DOMAIN } else { 0 };
    marks |= if head.via.is_empty() { 0 } else { VIA };
    out.extend_from_slice(&[VERSION, marks, head.body.0]);
    let place = head.place;
    for n in [place.segment.into(), place.offset.into(), place.len.into(), head.size] {
        put(out, n);
    }
    put(out, recipients.len() as u64);
    if head.side != 0 {
        out.extend_from_slice(&head.side.to_le_bytes());
    }
    if let Some(domain) = head.domain {
        put(out, domain.into());
    }
    if !head.via.is_empty() {
        put(out, head.via.len() as u64);
        out.extend_from_slice(head.via.as_bytes());
    }
    for r in recipients {
        put_recipient(out, &r);
    }
}

fn put_recipient(out: &mut Vec<u8>, r: &RowRecipient<'_>) {
    if r.fate.is_done() {
        return out.push(r.fate as u8);
    }
    let tried = r.attempts != 0 || r.due != Wall(0) || r.reply != Reply::default();
    let named = !r.reply.server.is_empty();
    out.push(r.fate as u8 | if tried { TRIED } else { 0 } | if named { NAMED } else { 0 });
    put(out, r.destination.into());
    if !tried {
        return;
    }
    put(out, r.attempts.into());
    put(out, r.due.0);
    put(out, r.reply.code.into());
    r.reply.enhanced.iter().for_each(|e| put(out, (*e).into()));
    let text = &r.reply.text[..r.reply.text.len().min(TEXT_MAX)];
    put(out, text.len() as u64);
    out.extend_from_slice(text);
    if named {
        let server = &r.reply.server[..r.reply.server.len().min(SERVER_MAX)];
        put(out, server.len() as u64);
        out.extend_from_slice(server);
    }
}

impl<'a> RowView<'a> {
    /// Reads the whole of `bytes`.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, Malformed> {
        let (&[version, marks, body], mut rest) = bytes.split_first_chunk::<3>().ok_or(Malformed)?;
        let known = HELD | WARNED | DOUBLE_BOUNCE | NULL_SENDER | SIDE | DOMAIN | VIA;
        if version != VERSION || marks & !known != 0 {
            return Err(Malformed);
        }
        let place = Place { segment: small(&mut rest)?, offset: small(&mut rest)?, len: small(&mut rest)? };
        let size = number(&mut rest)?;
        let count = small(&mut rest)?;
        let mut side = 0;
        if marks & SIDE != 0 {
            let (bytes, after) = rest.split_first_chunk::<8>().ok_or(Malformed)?;
            (side, rest) = (u64::from_le_bytes(*bytes), after);
            if side == 0 {
                return Err(Malformed);
            }
        }
        let domain = if marks & DOMAIN != 0 { Some(small(&mut rest)?) } else { None };
        let via = if marks & VIA != 0 { via(&mut rest)? } else { "" };
        let view = RowView {
            place,
            size,
            side,
            body: BodyFlags(body),
            marks: marks & (HELD | WARNED | DOUBLE_BOUNCE),
            null_sender: marks & NULL_SENDER != 0,
            domain,
            via,
            count,
            recipients: rest,
        };
        for _ in 0..count {
            recipient(&mut rest)?;
        }
        if rest.is_empty() { Ok(view) } else { Err(Malformed) }
    }

    /// In the order of the envelope.
    pub fn recipients(&self) -> impl Iterator<Item = RowRecipient<'a>> + use<'a> {
        let mut rest = self.recipients;
        std::iter::from_fn(move || if rest.is_empty() { None } else { recipient(&mut rest).ok() })
    }

    /// The part that is not about recipients.
    #[must_use]
    pub fn head(&self) -> RowHead<'a> {
        let RowView { place, size, side, body, marks, null_sender, domain, via, .. } = *self;
        RowHead { place, size, side, body, marks, null_sender, domain, via }
    }

    /// The same row with other marks, of the three that [`RowView::marks`] has.
    #[must_use]
    pub fn with_marks(row: &[u8], marks: u8) -> Box<[u8]> {
        let mut out: Box<[u8]> = row.into();
        let own = HELD | WARNED | DOUBLE_BOUNCE;
        if let Some(stored) = out.get_mut(1) {
            *stored = *stored & !own | marks & own;
        }
        out
    }
}

fn via<'a>(rest: &mut &'a [u8]) -> Result<&'a str, Malformed> {
    let len = usize::from(tiny(rest)?);
    let (via, after) =
        rest.split_at_checked(len).filter(|_| (1..=VIA_MAX).contains(&len)).ok_or(Malformed)?;
    *rest = after;
    std::str::from_utf8(via).map_err(|_| Malformed)
}

fn recipient<'a>(rest: &mut &'a [u8]) -> Result<RowRecipient<'a>, Malformed> {
    let (&first, after) = rest.split_first().ok_or(Malformed)?;
    *rest = after;
    let fate = Fate::of(first & !(TRIED | NAMED)).ok_or(Malformed)?;
    let mut r = RowRecipient { fate, ..RowRecipient::default() };
    if fate.is_done() {
        return if first & (TRIED | NAMED) == 0 { Ok(r) } else { Err(Malformed) };
    }
    r.destination = small(rest)?;
    if first & TRIED == 0 {
        return if first & NAMED == 0 { Ok(r) } else { Err(Malformed) };
    }
    r.attempts = tiny(rest)?;
    r.due = Wall(number(rest)?);
    r.reply.code = tiny(rest)?;
    for e in &mut r.reply.enhanced {
        *e = tiny(rest)?;
    }
    let len = usize::from(tiny(rest)?);
    if len > TEXT_MAX {
        return Err(Malformed);
    }
    (r.reply.text, *rest) = rest.split_at_checked(len).ok_or(Malformed)?;
    if first & NAMED != 0 {
        let len = usize::from(tiny(rest)?);
        if len == 0 || len > SERVER_MAX {
            return Err(Malformed);
        }
        (r.reply.server, *rest) = rest.split_at_checked(len).ok_or(Malformed)?;
    }
    Ok(r)
}

/// Appends a number in groups of seven bits, the lowest first.
fn put(out: &mut Vec<u8>, mut n: u64) {
    while n >= 0x80 {
        out.push(n as u8 | 0x80);
        n >>= 7;
    }
    out.push(n as u8);
}

fn number(rest: &mut &[u8]) -> Result<u64, Malformed> {
    let mut n = 0u64;
    for shift in (0..64).step_by(7) {
        let (&byte, after) = rest.split_first().ok_or(Malformed)?;
        *rest = after;
        let bits = u64::from(byte & 0x7f);
        if bits << shift >> shift != bits {
            return Err(Malformed);
        }
        n |= bits << shift;
        if byte & 0x80 == 0 {
            // One form for each number, so that what is read is written the same.
            return if byte == 0 && shift > 0 { Err(Malformed) } else { Ok(n) };
        }
    }
    Err(Malformed)
}

fn small(rest: &mut &[u8]) -> Result<u32, Malformed> {
    u32::try_from(number(rest)?).map_err(|_| Malformed)
}

fn tiny(rest: &mut &[u8]) -> Result<u16, Malformed> {
    u16::try_from(number(rest)?).map_err(|_| Malformed)
}

/// For the fuzzer: what can be read is written to the same bytes; nothing panics.
pub fn fuzz_entry(data: &[u8]) {
    if let Ok(view) = RowView::parse(data) {
        let recipients: Vec<_> = view.recipients().collect();
        assert_eq!(recipients.len(), view.count as usize);
        let mut again = Vec::new();
        write(&mut again, &view.head(), recipients.iter().copied());
        // A tried recipient without anything to say of it is written in the shorter form.
        assert_eq!(RowView::parse(&again).map(|v| v.recipients().collect()), Ok(recipients));
        assert!(again.len() <= data.len());
    }
    if let Ok(meta) = Meta::parse(data) {
        assert_eq!(meta.encode(), data);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn head() -> RowHead<'static> {
        let place = Place { segment: 3, offset: 70_000, len: 1400 };
        let (body, domain) = (BodyFlags(2), None);
        RowHead { place, size: 1300, side: 0, body, marks: WARNED, null_sender: false, domain, via: "" }
    }

    #[test]
    fn one_that_was_never_tried_is_small() {
        let mut out = Vec::new();
        let fresh = RowRecipient { destination: 5, ..RowRecipient::default() };
        write(&mut out, &head(), [fresh].into_iter());
        assert!(out.len() <= 16, "{} bytes", out.len());
        let view = RowView::parse(&out).unwrap();
        assert_eq!((view.head(), view.recipients().collect::<Vec<_>>()), (head(), vec![fresh]));
        assert_eq!(parse_name(&name_value("hop:25", b"a@b")), Some(("hop:25", &b"a@b"[..])));
        let id = MessageId(0x0123_4567_89ab_cdef);
        assert_eq!(id_of(&key(id)), Some(id));
        assert_eq!((name_of(&name_key(77)), id_of(b"d1"), name_of(b"m")), (Some(77), None, None));
        assert!(key(MessageId(255)) < key(MessageId(256)));
    }

    #[test]
    fn everything_said_is_kept() {
        let server = b"mx.next.example";
        let reply = Reply { code: 451, enhanced: [4, 7, 1], text: b"greylisted, come back", server };
        let list = [
            RowRecipient { fate: Fate::Deferred, destination: 300, attempts: 7, due: Wall(1 << 41), reply },
            RowRecipient { fate: Fate::Delivered, ..RowRecipient::default() },
            RowRecipient { fate: Fate::Owed, reply, ..RowRecipient::default() },
            RowRecipient { fate: Fate::Passed, due: Wall(7), ..RowRecipient::default() },
            RowRecipient { fate: Fate::Attempting, attempts: 1, ..RowRecipient::default() },
        ];
        let mut out = vec![9; 9];
        let marks = HELD | DOUBLE_BOUNCE;
        let h =
            RowHead { side: 1 << 40, null_sender: true, marks, domain: Some(300), via: "hop:25", ..head() };
        write(&mut out, &h, list.into_iter());
        let view = RowView::parse(&out).unwrap();
        let marked = RowView::with_marks(&out, WARNED);
        let other = RowHead { marks: WARNED, ..h };
        assert_eq!(RowView::parse(&marked).map(|v| (v.head(), v.recipients)), Ok((other, view.recipients)));
        let domains = ["@a.b", "mx:a.b", "a.b:25"].map(domain_of);
        assert_eq!((domains, domain_name("a.b")), ([Some("a.b"), Some("a.b"), None], "@a.b".to_owned()));
        assert_eq!((view.head(), view.count, view.recipients().collect::<Vec<_>>()), (h, 5, list.to_vec()));
        for n in 0..out.len() {
            assert!(RowView::parse(&out[..n]).is_err(), "cut at {n}");
        }
        for doubt in [0, 9] {
            let meta = Meta { log: [8; 16], mark: 5, last: MessageId(6), through: 8, doubt };
            assert_eq!(Meta::parse(&meta.encode()), Ok(meta));
            assert!(Meta::parse(&meta.encode()[1..]).is_err());
        }
    }

    proptest! {
        #[test]
        fn arbitrary_bytes(data in proptest::collection::vec(any::<u8>(), 0..200)) {
            fuzz_entry(&data);
            let mut row = vec![VERSION, 0, 0];
            row.extend(&data);
            fuzz_entry(&row);
        }
    }
}
