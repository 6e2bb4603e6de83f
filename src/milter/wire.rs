//! L2: packets of the milter protocol: a length of four bytes (big endian), a letter, data.
//!
//! Encoding appends to a buffer of the caller. Decoding is total: any bytes give a reply or a [`Fault`].

use super::Fault;

/// The version that we speak.
pub const VERSION: u32 = 6;

/// What a filter may do to a message, as bits (SMFIF_*).
pub mod action {
    /// Add header fields.
    pub const ADD_HEADER: u32 = 0x01;
    /// Replace the body.
    pub const REPLACE_BODY: u32 = 0x02;
    /// Add recipients.
    pub const ADD_RECIPIENT: u32 = 0x04;
    /// Remove recipients.
    pub const DELETE_RECIPIENT: u32 = 0x08;
    /// Change and remove header fields.
    pub const CHANGE_HEADER: u32 = 0x10;
    /// Have the message held.
    pub const QUARANTINE: u32 = 0x20;
    /// Change the sender.
    pub const CHANGE_SENDER: u32 = 0x40;
    /// Add recipients with parameters.
    pub const ADD_RECIPIENT_WITH: u32 = 0x80;
    /// Say which macros it wants at which stage.
    pub const SET_MACROS: u32 = 0x100;
    /// All that we can do for it.
    pub const OFFERED: u32 = 0x1ff;
}

/// What a filter does not want to hear, or does not answer, as bits (SMFIP_*).
pub mod wish {
    /// Do not tell it of connections.
    pub const NO_CONNECT: u32 = 0x01;
    /// Nor of HELO.
    pub const NO_HELO: u32 = 0x02;
    /// Nor of MAIL.
    pub const NO_MAIL: u32 = 0x04;
    /// Nor of RCPT.
    pub const NO_RCPT: u32 = 0x08;
    /// Nor of bodies.
    pub const NO_BODY: u32 = 0x10;
    /// Nor of header fields.
    pub const NO_HEADER: u32 = 0x20;
    /// Nor of the end of a header.
    pub const NO_END_OF_HEADER: u32 = 0x40;
    /// It does not answer header fields.
    pub const SILENT_HEADER: u32 = 0x80;
    /// Do not tell it of unknown commands; we never do.
    pub const NO_UNKNOWN: u32 = 0x100;
    /// Do not tell it of DATA.
    pub const NO_DATA: u32 = 0x200;
    /// It may say that it needs no more of a body.
    pub const SKIP: u32 = 0x400;
    /// It does not answer connections.
    pub const SILENT_CONNECT: u32 = 0x1000;
    /// Nor HELO.
    pub const SILENT_HELO: u32 = 0x2000;
    /// Nor MAIL.
    pub const SILENT_MAIL: u32 = 0x4000;
    /// Nor RCPT.
    pub const SILENT_RCPT: u32 = 0x8000;
    /// Nor DATA.
    pub const SILENT_DATA: u32 = 0x1_0000;
    /// Nor unknown commands.
    pub const SILENT_UNKNOWN: u32 = 0x2_0000;
    /// Nor the end of a header.
    pub const SILENT_END_OF_HEADER: u32 = 0x4_0000;
    /// Nor pieces of a body.
    pub const SILENT_BODY: u32 = 0x8_0000;
    /// Values of header fields go both ways with the blank behind the colon.
    pub const LEADING_SPACE: u32 = 0x10_0000;
    /// All that we understand: not among it is being told of recipients that are refused anyway.
    pub const OFFERED: u32 = 0x1f_f7ff;
}

/// Bytes of a packet of a filter at most, its letter included.
pub const PACKET_MAX: usize = 1 << 20;
/// Bytes of a piece of a body that a filter must be able to take.
pub const CHUNK: usize = 65_535;

/// Appends a packet.
pub fn put(out: &mut Vec<u8>, letter: u8, data: &[&[u8]]) {
    let len: usize = data.iter().map(|d| d.len()).sum();
    let len = u32::try_from(len + 1).expect("commands and their arguments are bounded");
    out.extend_from_slice(&len.to_be_bytes());
    out.push(letter);
    data.iter().for_each(|d| out.extend_from_slice(d));
}

/// Appends values of macros for the command `letter`; those without a value are left out.
pub fn put_macros(out: &mut Vec<u8>, letter: u8, macros: &[(&str, &[u8])]) {
    let mut data = vec![letter];
    for (name, value) in macros.iter().filter(|(_, value)| !value.is_empty()) {
        data.extend_from_slice(name.as_bytes());
        data.push(0);
        data.extend(value.iter().filter(|b| **b != 0));
        data.push(0);
    }
    if data.len() > 1 {
        put(out, b'D', &[&data]);
    }
}

/// Bytes of the first packet in `input`, once all of it is there.
pub fn complete(input: &[u8]) -> Result<Option<usize>, Fault> {
    let Some((head, rest)) = input.split_first_chunk::<4>() else { return Ok(None) };
    let len = u32::from_be_bytes(*head) as usize;
    if !(1..=PACKET_MAX).contains(&len) {
        return Err(Fault::Length);
    }
    Ok((rest.len() >= len).then_some(4 + len))
}

/// What a filter says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Reply<'a> {
    /// What it wants of us.
    Options {
        /// Its version.
        version: u32,
        /// What it may do: [`action`].
        actions: u32,
        /// What it does not want: [`wish`].
        wishes: u32,
    },
    /// Go on.
    Continue,
    /// Taken; it need hear no more.
    Accept,
    /// Refused for good.
    Reject,
    /// Refused for now.
    TempFail,
    /// To be taken and thrown away.
    Discard,
    /// Enough of this body.
    Skip,
    /// Still at it.
    Progress,
    /// It is being shut down, or cannot serve the connection.
    Refuses,
    /// Refused with this reply.
    Code(&'a [u8]),
    /// A field at the end.
    AddHeader(&'a [u8], &'a [u8]),
    /// A field at this place.
    InsertHeader(u32, &'a [u8], &'a [u8]),
    /// Another value for the field of this number; an empty one removes it.
    ChangeHeader(u32, &'a [u8], &'a [u8]),
    /// Another sender.
    ChangeSender(&'a [u8]),
    /// One more recipient.
    AddRecipient(&'a [u8]),
    /// One recipient less.
    DeleteRecipient(&'a [u8]),
    /// The next piece of a new body.
    Body(&'a [u8]),
    /// To be held, for this reason.
    Quarantine(&'a [u8]),
}

/// Reads a packet: a letter and its data.
pub fn decode(packet: &[u8]) -> Result<Reply<'_>, Fault> {
    let (letter, data) = packet.split_first().ok_or(Fault::Length)?;
    let plain = |reply| if data.is_empty() { Ok(reply) } else { Err(Fault::Form) };
    match letter {
        b'O' => {
            let (version, rest) = number(data)?;
            let (actions, rest) = number(rest)?;
            // What may follow: see [`lists`].
            let (wishes, _) = number(rest)?;
            Ok(Reply::Options { version, actions, wishes })
        }
        b'c' => plain(Reply::Continue),
        b'a' => plain(Reply::Accept),
        b'r' => plain(Reply::Reject),
        b't' => plain(Reply::TempFail),
        b'd' => plain(Reply::Discard),
        b's' => plain(Reply::Skip),
        b'p' => plain(Reply::Progress),
        b'4' | b'f' => plain(Reply::Refuses),
        b'y' => Ok(Reply::Code(strings::<1>(data)?[0])),
        b'h' => {
            let [name, value] = strings::<2>(data)?;
            Ok(Reply::AddHeader(name, value))
        }
        b'i' | b'm' => {
            let (index, rest) = number(data)?;
            let [name, value] = strings::<2>(rest)?;
            let insert = *letter == b'i';
            Ok(if insert {
                Reply::InsertHeader(index, name, value)
            } else {
                Reply::ChangeHeader(index, name, value)
            })
        }
        b'e' => Ok(Reply::ChangeSender(first_string(data)?)),
        b'+' => Ok(Reply::AddRecipient(strings::<1>(data)?[0])),
        b'2' => Ok(Reply::AddRecipient(first_string(data)?)),
        b'-' => Ok(Reply::DeleteRecipient(strings::<1>(data)?[0])),
        b'b' => Ok(Reply::Body(data)),
        b'q' => Ok(Reply::Quarantine(strings::<1>(data)?[0])),
        _ => Err(Fault::Unexpected),
    }
}

/// The lists of macros behind a filter's options: the number of a stage, and names.
pub fn lists(packet: &[u8]) -> Result<Vec<(u32, &[u8])>, Fault> {
    /// Letter, version, actions, wishes.
    const OPTIONS: usize = 13;
    let mut rest = packet.get(OPTIONS..).unwrap_or_default();
    let mut lists = Vec::new();
    while !rest.is_empty() {
        let (stage, names) = number(rest)?;
        let end = memchr::memchr(0, names).ok_or(Fault::Form)?;
        // One for each of the seven stages.
        if lists.len() == 7 {
            return Err(Fault::Form);
        }
        lists.push((stage, &names[..end]));
        rest = &names[end + 1..];
    }
    Ok(lists)
}

fn number(data: &[u8]) -> Result<(u32, &[u8]), Fault> {
    let (bytes, rest) = data.split_first_chunk::<4>().ok_or(Fault::Form)?;
    Ok((u32::from_be_bytes(*bytes), rest))
}

/// So many strings, each with a NUL behind it, and nothing else.
fn strings<const N: usize>(data: &[u8]) -> Result<[&[u8]; N], Fault> {
    let mut all = data.strip_suffix(b"\0").ok_or(Fault::Form)?.split(|b| *b == 0);
    let mut out = [&b""[..]; N];
    for place in &mut out {
        *place = all.next().ok_or(Fault::Form)?;
    }
    if all.next().is_some() { Err(Fault::Form) } else { Ok(out) }
}

/// The first of one or two strings: parameters may follow an address.
fn first_string(data: &[u8]) -> Result<&[u8], Fault> {
    strings::<1>(data).map(|[one]| one).or_else(|_| strings::<2>(data).map(|[one, _]| one))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packets_out() {
        let mut out = Vec::new();
        put(&mut out, b'L', &[b"Subject\0", b"x\0"]);
        assert_eq!(out, b"\0\0\0\x0bLSubject\0x\0");
        out.clear();
        put_macros(&mut out, b'M', &[("i", b""), ("{mail_addr}", b"a\0@b")]);
        assert_eq!(out, b"\0\0\0\x12DM{mail_addr}\0a@b\0");
        out.clear();
        put_macros(&mut out, b'M', &[("i", b"")]);
        assert_eq!(out, b"", "no macros, no packet");
    }

    #[test]
    fn lengths() {
        assert_eq!(complete(b"\0\0\0"), Ok(None));
        assert_eq!(complete(b"\0\0\0\x02a"), Ok(None));
        assert_eq!(complete(b"\0\0\0\x01a\0"), Ok(Some(5)));
        assert_eq!(complete(b"\0\0\0\0"), Err(Fault::Length));
        assert_eq!(complete(b"HTTP/1.1 200"), Err(Fault::Length));
        assert_eq!(complete(b"\0\x10\0\x01"), Err(Fault::Length));
        assert_eq!(complete(b"\0\x10\0\0"), Ok(None));
    }

    #[test]
    fn lists_of_macros() {
        let options = b"O\0\0\0\x06\0\0\x01\0\0\0\0\0";
        let of = |tail: &[u8]| lists(&[&options[..], tail].concat()).map(|all| all.len());
        assert_eq!((lists(b"O"), lists(options)), (Ok(vec![]), Ok(vec![])));
        let both = [&options[..], b"\0\0\0\x02i {auth_type}\0\0\0\0\x05\0"].concat();
        assert_eq!(lists(&both), Ok(vec![(2, &b"i {auth_type}"[..]), (5, b"")]));
        for bad in [&b"\0\0\0"[..], b"\0\0\0\x02i", b"\0\0\0\x02i\0x"] {
            assert_eq!(of(bad), Err(Fault::Form), "{}", bad.escape_ascii());
        }
        assert_eq!(
            (of(&b"\0\0\0\x02i\0".repeat(7)), of(&b"\0\0\0\x02i\0".repeat(8))),
            (Ok(7), Err(Fault::Form))
        );
    }

    #[test]
    fn replies() {
        for (packet, reply) in [
            (
                &b"O\0\0\0\x06\0\0\0\x01\0\x10\0\0"[..],
                Ok(Reply::Options { version: 6, actions: 1, wishes: 0x10_0000 }),
            ),
            (b"O\0\0\0\x06\0\0\0\x01\0\0\0", Err(Fault::Form)),
            (b"c", Ok(Reply::Continue)),
            (b"cx", Err(Fault::Form)),
            (b"y550 5.7.1 no\0", Ok(Reply::Code(b"550 5.7.1 no"))),
            (b"y550 5.7.1 no", Err(Fault::Form)),
            (b"hX\0\0", Ok(Reply::AddHeader(b"X", b""))),
            (b"hX\0", Err(Fault::Form)),
            (b"hX\0a\0b\0", Err(Fault::Form)),
            (b"i\0\0\0\x01X\0y\0", Ok(Reply::InsertHeader(1, b"X", b"y"))),
            (b"m\0\0\0\x02X\0\0", Ok(Reply::ChangeHeader(2, b"X", b""))),
            (b"m\0\0X\0\0", Err(Fault::Form)),
            (b"e<a@b>\0", Ok(Reply::ChangeSender(b"<a@b>"))),
            (b"e<a@b>\0SIZE=3\0", Ok(Reply::ChangeSender(b"<a@b>"))),
            (b"2<a@b>\0NOTIFY=NEVER\0", Ok(Reply::AddRecipient(b"<a@b>"))),
            (b"+<a@b>\0", Ok(Reply::AddRecipient(b"<a@b>"))),
            (b"-<a@b>\0", Ok(Reply::DeleteRecipient(b"<a@b>"))),
            (b"ba\0b", Ok(Reply::Body(b"a\0b"))),
            (b"qwhy\0", Ok(Reply::Quarantine(b"why"))),
            (b"4", Ok(Reply::Refuses)),
            (b"z", Err(Fault::Unexpected)),
            (b"", Err(Fault::Length)),
        ] {
            assert_eq!(decode(packet), reply, "{}", packet.escape_ascii());
        }
    }
}
