//! L1: the queue's records, as bytes: written into the journal, read back at recovery.
//!
//! Knows the layout and nothing of journals, time or delivery. Every reader is total: arbitrary
//! bytes give [`Malformed`], never a panic and never an allocation that the bytes did not pay for.
//! All numbers are little endian; the id of the message is in the journal's record head.
//!
//! * [`MESSAGE`]: fixed head of [`HEAD_LEN`] bytes, indexes reported (`u32` each), recipient states
//!   (as in an outcome), envelope and the login of its sender (at most [`USER_MAX`] bytes; none: nobody
//!   authenticated), the next hop that an operator has given it (at most [`VIA_MAX`] bytes; none: routes
//!   say), then trace headers and body; a body in a side file is named in the head and only the trace
//!   headers are here. A message that was moved within the journal carries its states; it replaces all that
//!   was said of it before.
//! * [`OUTCOME`]: `flags u8, 0 u8 x3, count u32`, then the states of some recipients. With
//!   [`SNAPSHOT`] it replaces every earlier record about the state of the message.
//! * [`ATTEMPT`]: `count u32`, then indexes: these may be in flight from now on.
//! * [`WITHDRAW`], [`HOLD`], [`RELEASE`], [`REMOVED`]: text (who and why), may be empty.
//! * [`REROUTE`]: `length u8`, a next hop of so many bytes (0: routes say), then text as in those before.
//! * [`STOPPED`]: id 0; then ids of messages, 8 bytes each, ascending: nothing that came before is in
//!   flight but, perhaps, recipients of these, which an earlier crash has left in doubt.
//!
//! **What is owed is part of the outcome.** A recipient whose sender is still to be told is
//! [`Fate::Owed`] or [`Fate::Passed`], with what there is to tell: this is the notification until it can be
//! sent, and it names its original by being about it. It is made into a message of its own then.
//!
//! **A notification and the end of what it reports are one record.** Its record names the message
//! it is about (`origin`), the recipients it reports and what became of them ([`Effect`]). Reading it
//! back implies that they have been told of. The outcome record that follows it in the journal only makes
//! the knowledge independent of the notification's own life; a crash between the two changes nothing.

use crate::base::ids::MessageId;
use crate::base::time::Wall;
use crate::message::body::BodyFlags;
use crate::message::envelope::EnvelopeView;
use std::fmt;

/// Kind of a record that holds a message.
pub const MESSAGE: u8 = 1;
/// Kind of a record that holds states of recipients.
pub const OUTCOME: u8 = 2;
/// Kind of a record that announces a retry.
pub const ATTEMPT: u8 = 3;
/// Kind of a record that takes a message back that was never acknowledged.
pub const WITHDRAW: u8 = 4;
/// Kind of a record: an operator holds the message.
pub const HOLD: u8 = 5;
/// Kind of a record: an operator lets it go.
pub const RELEASE: u8 = 6;
/// Kind of a record: an operator removed the message (the audit record).
pub const REMOVED: u8 = 7;
/// Kind of a record: a clean stop; no attempt is under way.
pub const STOPPED: u8 = 8;

/// Kind of a record: an operator sends the message another way.
pub const REROUTE: u8 = 9;

/// Flag in a record's head: the message it is about has its state in the index.
pub const ARCHIVED: u16 = 1;

/// Version of all kinds; a reader refuses others.
pub const VERSION: u8 = 1;

/// Flag of a message: held, by an operator or from its beginning.
pub const HELD: u8 = 1;
/// Flag of a message: its sender has had a delay warning.
pub const WARNED: u8 = 2;
/// Flag of a message: a notification about a notification; nobody is told if it fails.
pub const DOUBLE_BOUNCE: u8 = 4;
/// Flag of an outcome record: replaces all earlier states.
pub const SNAPSHOT: u8 = 128;

/// Length of the fixed part of a message record in bytes.
pub const HEAD_LEN: usize = 56;
/// Length of the fixed part of an outcome record in bytes.
pub const STATES_HEAD_LEN: usize = 8;
/// The greatest length of a reply text that is kept.
pub const TEXT_MAX: usize = 512;
/// The greatest length of the name of the server that replied.
pub const SERVER_MAX: usize = 255;
/// The greatest length of a login that is kept.
pub const USER_MAX: usize = 255;
/// The greatest length of a next hop that an operator gives.
pub const VIA_MAX: usize = 255;
/// Bit of a stored fate: the name of the server that replied follows the text.
const NAMED: u8 = 0x80;

/// The bytes are not a record of this kind and version.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Malformed;

impl fmt::Display for Malformed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("not a queue record of a known form")
    }
}

impl std::error::Error for Malformed {}

/// What is known of a recipient, as stored.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[repr(u8)]
pub enum Fate {
    /// Accepted; nothing was recorded since, an attempt may have been made.
    #[default]
    Fresh = 0,
    /// Waits for another attempt.
    Deferred = 1,
    /// An attempt may be under way.
    Attempting = 2,
    /// Done: the next hop has it.
    Delivered = 3,
    /// Done: refused for good, and the notification that was owed is in the queue.
    Failed = 4,
    /// Refused for good; the sender is still to be told.
    Owed = 5,
    /// The next hop has it, or others instead of it; the sender is still to be told.
    Passed = 6,
}

impl Fate {
    /// True if nothing more happens to the recipient.
    #[must_use]
    pub fn is_done(self) -> bool {
        matches!(self, Fate::Delivered | Fate::Failed)
    }

    /// True if all that is left to do is to tell the sender.
    #[must_use]
    pub fn is_owed(self) -> bool {
        matches!(self, Fate::Owed | Fate::Passed)
    }

    /// The fate that is stored as `b`.
    #[must_use]
    pub fn of(b: u8) -> Option<Self> {
        use Fate::*;
        [Fresh, Deferred, Attempting, Delivered, Failed, Owed, Passed].into_iter().find(|f| *f as u8 == b)
    }
}

/// The last reply of a next hop, or our own reason (code 0).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Reply<'a> {
    /// SMTP code, 0 if no reply was received.
    pub code: u16,
    /// Enhanced code, all zero if there was none.
    pub enhanced: [u16; 3],
    /// Text, at most [`TEXT_MAX`] bytes are kept.
    pub text: &'a [u8],
    /// Name of the server that said so, at most [`SERVER_MAX`] bytes are kept; empty: unknown, or nobody.
    pub server: &'a [u8],
}

/// State of one recipient.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct State<'a> {
    /// Position in the envelope.
    pub index: u32,
    /// What is known.
    pub fate: Fate,
    /// Attempts that ended without success.
    pub attempts: u16,
    /// When the next attempt is due, of deferred recipients; when that came about which is to be told, of
    /// those that are owed.
    pub due: Wall,
    /// Why; not of recipients that are done or fresh.
    pub reply: Reply<'a>,
}

/// Appends the head of an outcome record (or of the states of a message) to `out`.
pub fn put_states_head(out: &mut Vec<u8>, flags: u8, count: u32) {
    out.extend_from_slice(&[flags, 0, 0, 0]);
    out.extend_from_slice(&count.to_le_bytes());
}

/// Appends one state to `out`.
pub fn put_state(out: &mut Vec<u8>, s: &State<'_>) {
    out.extend_from_slice(&s.index.to_le_bytes());
    let told = !(s.fate.is_done() || s.fate == Fate::Fresh);
    let named = told && !s.reply.server.is_empty();
    out.push(s.fate as u8 | if named { NAMED } else { 0 });
    if !told {
        return;
    }
    out.extend_from_slice(&s.attempts.to_le_bytes());
    out.extend_from_slice(&s.due.0.to_le_bytes());
    out.extend_from_slice(&s.reply.code.to_le_bytes());
    for e in s.reply.enhanced {
        out.extend_from_slice(&e.to_le_bytes());
    }
    let text = &s.reply.text[..s.reply.text.len().min(TEXT_MAX)];
    out.extend_from_slice(&(text.len() as u16).to_le_bytes());
    out.extend_from_slice(text);
    if named {
        let server = &s.reply.server[..s.reply.server.len().min(SERVER_MAX)];
        out.push(server.len() as u8);
        out.extend_from_slice(server);
    }
}

/// States of recipients, read in place.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct StatesView<'a> {
    /// [`HELD`], [`WARNED`], [`DOUBLE_BOUNCE`].
    pub flags: u8,
    /// True if these replace all earlier states.
    pub snapshot: bool,
    entries: &'a [u8],
}

impl<'a> StatesView<'a> {
    /// Reads the whole of `bytes`.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, Malformed> {
        let mut rest = bytes;
        let &[flags, 0, 0, 0] = take(&mut rest, 4)? else { return Err(Malformed) };
        let count = u32_of(&mut rest)?;
        let view = StatesView { flags: flags & !SNAPSHOT, snapshot: flags & SNAPSHOT != 0, entries: rest };
        for _ in 0..count {
            state(&mut rest)?;
        }
        if rest.is_empty() { Ok(view) } else { Err(Malformed) }
    }

    /// The states, as written.
    pub fn states(&self) -> impl Iterator<Item = State<'a>> + use<'a> {
        let mut rest = self.entries;
        std::iter::from_fn(move || if rest.is_empty() { None } else { state(&mut rest).ok() })
    }
}

fn state<'a>(rest: &mut &'a [u8]) -> Result<State<'a>, Malformed> {
    let index = u32_of(rest)?;
    let first = take(rest, 1)?[0];
    let fate = Fate::of(first & !NAMED).ok_or(Malformed)?;
    let mut s = State { index, fate, attempts: 0, due: Wall(0), reply: Reply::default() };
    if fate.is_done() || fate == Fate::Fresh {
        return if first & NAMED == 0 { Ok(s) } else { Err(Malformed) };
    }
    s.attempts = u16_of(rest)?;
    s.due = Wall(u64_of(rest)?);
    s.reply.code = u16_of(rest)?;
    for e in &mut s.reply.enhanced {
        *e = u16_of(rest)?;
    }
    let len = usize::from(u16_of(rest)?);
    if len > TEXT_MAX {
        return Err(Malformed);
    }
    s.reply.text = take(rest, len)?;
    if first & NAMED != 0 {
        let len = usize::from(take(rest, 1)?[0]);
        s.reply.server = take(rest, len)?;
        if len == 0 {
            return Err(Malformed);
        }
    }
    Ok(s)
}

/// What a notification says of the recipients it reports.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[repr(u8)]
pub enum Effect {
    /// The message is no notification of ours.
    #[default]
    None = 0,
    /// They have failed.
    Failed = 1,
    /// They are late; the sender was warned.
    Warned = 2,
    /// They were passed on.
    Delivered = 3,
}

/// The fixed part of a message record.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct MessageHead {
    /// When it was accepted.
    pub arrival: Wall,
    /// Bytes of trace headers and body together.
    pub size: u64,
    /// Number of the side file that holds the body; 0: the body is in the record.
    pub side: u64,
    /// The message that this notification is about; 0: none.
    pub origin: MessageId,
    /// Facts about the body.
    pub body: BodyFlags,
    /// [`HELD`], [`WARNED`], [`DOUBLE_BOUNCE`].
    pub flags: u8,
    /// What the notification says.
    pub effect: Effect,
    /// Bytes of trace headers.
    pub trace_len: u32,
    /// Bytes of the next hop that an operator has given it, [`VIA_MAX`] at most.
    pub via_len: u16,
}

impl MessageHead {
    /// The stored head; the lengths are those of the parts that follow it.
    #[must_use]
    pub fn encode(&self, reported: usize, states: usize, envelope: usize) -> [u8; HEAD_LEN] {
        let mut out = [0u8; HEAD_LEN];
        out[0..8].copy_from_slice(&self.arrival.0.to_le_bytes());
        out[8..16].copy_from_slice(&self.size.to_le_bytes());
        out[16..24].copy_from_slice(&self.side.to_le_bytes());
        out[24..32].copy_from_slice(&self.origin.0.to_le_bytes());
        out[32..36].copy_from_slice(&[self.body.0, self.flags, self.effect as u8, 0]);
        for (at, n) in [(36, reported), (40, states), (44, envelope), (48, self.trace_len as usize)] {
            let n = u32::try_from(n).expect("parts of a record are below 4 GiB");
            out[at..at + 4].copy_from_slice(&n.to_le_bytes());
        }
        out[52..54].copy_from_slice(&self.via_len.to_le_bytes());
        out
    }
}

/// A message record, read in place.
#[derive(Clone, Copy, Debug)]
pub struct MessageView<'a> {
    /// The fixed part.
    pub head: MessageHead,
    /// States of recipients if the message was moved; else all are fresh.
    pub states: Option<StatesView<'a>>,
    /// The envelope.
    pub envelope: EnvelopeView<'a>,
    /// The login under which it was sent; empty: without one.
    pub user: &'a [u8],
    /// The next hop that an operator has given it; empty: routes say.
    pub via: &'a str,
    /// Where the envelope and the login behind it lie in the payload.
    pub envelope_at: (usize, usize),
    /// Where trace headers and body (or the trace headers alone) lie in the payload.
    pub content_at: (usize, usize),
    reported: &'a [u8],
}

impl<'a> MessageView<'a> {
    /// Reads the payload of a message record.
    pub fn parse(payload: &'a [u8]) -> Result<Self, Malformed> {
        Self::parse_begin(payload, payload.len())
    }

    /// Reads the payload of a message record, of `len` bytes, of which at least what is in front of the
    /// content is here. [`Self::content_at`] is what is here of that.
    pub fn parse_begin(payload: &'a [u8], len: usize) -> Result<Self, Malformed> {
        let mut rest = payload;
        let missing = len.checked_sub(payload.len()).ok_or(Malformed)?;
        let mut h = take(&mut rest, HEAD_LEN)?;
        let h = &mut h;
        let mut head = MessageHead {
            arrival: Wall(u64_of(h)?),
            size: u64_of(h)?,
            side: u64_of(h)?,
            origin: MessageId(u64_of(h)?),
            ..MessageHead::default()
        };
        let &[body, flags, effect, 0] = take(h, 4)? else { return Err(Malformed) };
        head.body = BodyFlags(body);
        head.flags = flags;
        head.effect = match effect {
            0 => Effect::None,
            1 => Effect::Failed,
            2 => Effect::Warned,
            3 => Effect::Delivered,
            _ => return Err(Malformed),
        };
        let [reported, states, envelope] = [u32_of(h)?, u32_of(h)?, u32_of(h)?].map(|n| n as usize);
        head.trace_len = u32_of(h)?;
        head.via_len = u16_of(h)?;
        if reported % 4 != 0 || take(h, 2)? != [0; 2] {
            return Err(Malformed);
        }
        let reported = take(&mut rest, reported)?;
        let states = match take(&mut rest, states)? {
            b"" => None,
            bytes => Some(StatesView::parse(bytes)?),
        };
        let start = payload.len() - rest.len();
        let bytes = take(&mut rest, envelope)?;
        let (envelope, used) = EnvelopeView::parse(bytes).ok_or(Malformed)?;
        let user = &bytes[used..];
        let via = via_of(take(&mut rest, head.via_len.into())?)?;
        let held = if head.side == 0 { head.size } else { u64::from(head.trace_len) };
        let content = (rest.len() + missing) as u64;
        if user.len() > USER_MAX || content != held || u64::from(head.trace_len) > head.size {
            return Err(Malformed);
        }
        let (at, from) = (start + bytes.len(), start + bytes.len() + via.len());
        Ok(MessageView {
            head,
            states,
            envelope,
            user,
            via,
            envelope_at: (start, at),
            content_at: (from, payload.len()),
            reported,
        })
    }

    /// Indexes, in the origin's envelope, of the recipients that this notification reports.
    pub fn reported(&self) -> impl Iterator<Item = u32> + use<'a> {
        let mut rest = self.reported;
        std::iter::from_fn(move || u32_of(&mut rest).ok())
    }
}

/// Appends an attempt record's payload to `out`.
pub fn put_attempt(out: &mut Vec<u8>, recipients: &[u32]) {
    out.extend_from_slice(&(recipients.len() as u32).to_le_bytes());
    for r in recipients {
        out.extend_from_slice(&r.to_le_bytes());
    }
}

/// Appends the payload of a [`REROUTE`] record to `out`. `via` is cut to what can be kept; whoever lets one
/// in sees to it that it need not be.
pub fn put_reroute(out: &mut Vec<u8>, via: &str, note: &[u8]) {
    let via = &via[..via.floor_char_boundary(VIA_MAX)];
    out.push(via.len() as u8);
    out.extend_from_slice(via.as_bytes());
    out.extend_from_slice(note);
}

/// The next hop of a [`REROUTE`] record.
pub fn reroute(payload: &[u8]) -> Result<&str, Malformed> {
    let mut rest = payload;
    let len = take(&mut rest, 1)?[0];
    via_of(take(&mut rest, len.into())?)
}

fn via_of(bytes: &[u8]) -> Result<&str, Malformed> {
    std::str::from_utf8(bytes).ok().filter(|via| via.len() <= VIA_MAX).ok_or(Malformed)
}

/// The messages of a [`STOPPED`] record.
pub fn stopped(payload: &[u8]) -> Result<impl Iterator<Item = MessageId> + use<'_>, Malformed> {
    let (ids, rest) = payload.as_chunks();
    let ids = ids.iter().map(|id| MessageId(u64::from_le_bytes(*id)));
    if rest.is_empty() { Ok(ids) } else { Err(Malformed) }
}

/// The recipients of an attempt record.
pub fn attempt(payload: &[u8]) -> Result<impl Iterator<Item = u32> + use<'_>, Malformed> {
    let mut rest = payload;
    let count = u32_of(&mut rest)? as usize;
    if count.checked_mul(4) != Some(rest.len()) {
        return Err(Malformed);
    }
    Ok(std::iter::from_fn(move || u32_of(&mut rest).ok()))
}

fn take<'a>(rest: &mut &'a [u8], n: usize) -> Result<&'a [u8], Malformed> {
    let (head, tail) = rest.split_at_checked(n).ok_or(Malformed)?;
    *rest = tail;
    Ok(head)
}

fn u16_of(rest: &mut &[u8]) -> Result<u16, Malformed> {
    Ok(u16::from_le_bytes(take(rest, 2)?.try_into().map_err(|_| Malformed)?))
}

fn u32_of(rest: &mut &[u8]) -> Result<u32, Malformed> {
    Ok(u32::from_le_bytes(take(rest, 4)?.try_into().map_err(|_| Malformed)?))
}

fn u64_of(rest: &mut &[u8]) -> Result<u64, Malformed> {
    Ok(u64::from_le_bytes(take(rest, 8)?.try_into().map_err(|_| Malformed)?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::envelope::{Envelope, Notify, SenderOptions};
    use proptest::prelude::*;

    fn sample() -> Vec<u8> {
        let mut e = Envelope::default();
        e.begin(b"a@b.example", SenderOptions::default(), b"");
        e.push(b"c@d.example", Notify::DEFAULT, b"");
        e.push(b"e@f.example", Notify::NEVER, b"");
        let mut states = Vec::new();
        put_states_head(&mut states, HELD | SNAPSHOT, 2);
        put_state(&mut states, &deferred(1, b"451 4.3.0 later"));
        let done =
            State { index: 0, fate: Fate::Delivered, attempts: 0, due: Wall(0), reply: Reply::default() };
        put_state(&mut states, &done);
        let head = MessageHead {
            arrival: Wall(77),
            size: 9,
            origin: MessageId(5),
            body: BodyFlags(3),
            flags: HELD,
            effect: Effect::Failed,
            trace_len: 4,
            side: 0,
            via_len: 6,
        };
        let mut out = head.encode(8, states.len(), e.bytes().len() + 2).to_vec();
        out.extend([1u32, 3].iter().flat_map(|n| n.to_le_bytes()));
        out.extend(&states);
        out.extend(e.bytes());
        out.extend(b"mehop:25T: xbody\n");
        out
    }

    fn deferred(index: u32, text: &[u8]) -> State<'_> {
        let reply = Reply { code: 451, enhanced: [4, 3, 0], text, server: b"mx.next.example" };
        State { index, fate: Fate::Deferred, attempts: 3, due: Wall(99), reply }
    }

    #[test]
    fn message_reads_back_and_no_prefix_passes() {
        let bytes = sample();
        let m = MessageView::parse(&bytes).unwrap();
        assert_eq!((m.head.arrival, m.head.size, m.head.origin), (Wall(77), 9, MessageId(5)));
        assert_eq!(m.reported().collect::<Vec<_>>(), [1, 3]);
        assert_eq!((m.envelope.sender(), m.user, m.via), (&b"a@b.example"[..], &b"me"[..], "hop:25"));
        assert_eq!(&bytes[m.content_at.0..m.content_at.1], b"T: xbody\n");
        let states = m.states.unwrap();
        assert!(states.snapshot && states.flags == HELD);
        let list: Vec<_> = states.states().collect();
        assert_eq!(list[0], deferred(1, b"451 4.3.0 later"));
        assert_eq!(list[1].fate, Fate::Delivered);
        for cut in 0..bytes.len() {
            assert!(MessageView::parse(&bytes[..cut]).is_err(), "cut at {cut}");
        }
    }

    #[test]
    fn a_text_is_cut_and_an_attempt_reads_back() {
        let mut out = Vec::new();
        put_states_head(&mut out, 0, 1);
        put_state(&mut out, &deferred(0, &[b'x'; 600]));
        assert_eq!(StatesView::parse(&out).unwrap().states().next().unwrap().reply.text.len(), TEXT_MAX);
        let mut a = Vec::new();
        put_attempt(&mut a, &[4, 9]);
        assert_eq!(attempt(&a).unwrap().collect::<Vec<_>>(), [4, 9]);
        assert!(attempt(&a[..11]).is_err());
        let mut r = Vec::new();
        put_reroute(&mut r, "mx", b"me: why");
        assert_eq!((reroute(&r), reroute(&r[..2]), reroute(b"\0who")), (Ok("mx"), Err(Malformed), Ok("")));
    }

    proptest! {
        #[test]
        fn readers_are_total(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = MessageView::parse(&bytes).map(|m| m.reported().count());
            let _ = StatesView::parse(&bytes).map(|s| s.states().count());
            let _ = attempt(&bytes).map(Iterator::count);
            let _ = reroute(&bytes);
        }

        #[test]
        fn damaged_messages_never_panic(at in 0usize..300, with in any::<u8>()) {
            let mut bytes = sample();
            let at = at % bytes.len();
            bytes[at] = with;
            if let Ok(m) = MessageView::parse(&bytes) {
                let _ = (m.reported().count(), m.states.map(|s| s.states().count()));
                let _ = m.envelope.recipients().count();
            }
        }
    }
}
