//! L2: the dialogue with one filter over one connection: what it is told, what it answers.
//!
//! Commands are appended to a buffer of the caller; each says whether the filter will answer it. What the
//! filter has negotiated away is not sent, and what it has said not to answer is not waited for, so that
//! such commands go out together with the next one. [`Client::receive`] takes what has come in and gives one
//! step at a time. A [`Fault`] ends the connection.

use super::macros::Macros;
use super::wire::{self, Reply, action, wish};
use super::{Change, Fault};
use crate::message::address::Address;
use crate::smtp::rejection::Rejection as Refused;
use std::net::IpAddr;

pub use crate::smtp::rejection::Rejection;

/// What a filter is told of, in this order.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Stage {
    /// Versions and wishes.
    Options,
    /// A client has connected.
    Connect,
    /// HELO or EHLO.
    Helo,
    /// MAIL.
    Mail,
    /// RCPT.
    Rcpt,
    /// DATA.
    Data,
    /// A header field.
    Header,
    /// The end of the header.
    EndOfHeader,
    /// A piece of the body.
    Body,
    /// The end of the message.
    EndOfBody,
}

impl Stage {
    /// Its letter, what a filter says that does not want it, and what one that does not answer it.
    fn terms(self) -> (u8, u32, u32) {
        match self {
            Stage::Options => (b'O', 0, 0),
            Stage::Connect => (b'C', wish::NO_CONNECT, wish::SILENT_CONNECT),
            Stage::Helo => (b'H', wish::NO_HELO, wish::SILENT_HELO),
            Stage::Mail => (b'M', wish::NO_MAIL, wish::SILENT_MAIL),
            Stage::Rcpt => (b'R', wish::NO_RCPT, wish::SILENT_RCPT),
            Stage::Data => (b'T', wish::NO_DATA, wish::SILENT_DATA),
            Stage::Header => (b'L', wish::NO_HEADER, wish::SILENT_HEADER),
            Stage::EndOfHeader => (b'N', wish::NO_END_OF_HEADER, wish::SILENT_END_OF_HEADER),
            Stage::Body => (b'B', wish::NO_BODY, wish::SILENT_BODY),
            Stage::EndOfBody => (b'E', 0, 0),
        }
    }
}

/// What a filter has decided.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Answer {
    /// Go on; at the end of a message: it is good.
    Continue,
    /// It is good, and the filter need hear no more: of the message, or of the connection.
    Accept,
    /// Refused: the recipient, the message, or the connection.
    Refuse(Refused),
    /// To be taken and thrown away.
    Discard,
}

/// What has come from a filter.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Step<'a> {
    /// There is nothing yet.
    NeedInput,
    /// It is still at work.
    Progress,
    /// The header is to be changed.
    Header(Change),
    /// The message has another sender, an address or nobody.
    Sender(&'a [u8]),
    /// It has one more recipient.
    AddRecipient(&'a [u8]),
    /// It has this recipient no more; exactly or nearly as it was told.
    DeleteRecipient(&'a [u8]),
    /// The next piece of a body that replaces the one there is.
    Body(&'a [u8]),
    /// The message is to be held, for this reason.
    Quarantine(&'a [u8]),
    /// The answer that was waited for.
    Answer(Answer),
}

/// The client of one connection.
#[derive(Debug, Default)]
pub struct Client {
    actions: u32,
    wishes: u32,
    waits: Option<Stage>,
    /// It needs no more of this body.
    enough: bool,
    /// It has been told of a transaction, and has not heard its end.
    open: bool,
    macros: Macros,
}

const REJECTED: &[u8] = b"Refused by local policy";
const DEFERRED: &[u8] = b"Service unavailable, try again later";

impl Client {
    /// Begins: what we have to offer.
    pub fn negotiate(&mut self, out: &mut Vec<u8>) {
        let numbers = [wire::VERSION, action::OFFERED, wish::OFFERED].map(u32::to_be_bytes);
        wire::put(out, b'O', &[&numbers[0], &numbers[1], &numbers[2]]);
        self.waits = Some(Stage::Options);
    }

    /// Appends a command with its macros. True if the filter will answer it.
    fn command(
        &mut self,
        stage: Stage,
        macros: &[(&'static str, &[u8])],
        data: &[&[u8]],
        out: &mut Vec<u8>,
    ) -> bool {
        let (letter, unwanted, silent) = stage.terms();
        // What it does not want to hear of it may want to know later.
        let macros = self.macros.with(stage, macros);
        if self.wishes & unwanted != 0 {
            return false;
        }
        wire::put_macros(out, letter, &macros);
        wire::put(out, letter, data);
        let waits = self.wishes & silent == 0;
        self.waits = waits.then_some(stage);
        waits
    }

    /// A client has connected, from this address; `name` if it has one.
    pub fn connect(
        &mut self,
        macros: &[(&'static str, &[u8])],
        name: Option<&[u8]>,
        address: (IpAddr, u16),
        out: &mut Vec<u8>,
    ) -> bool {
        let text = address.0.to_string();
        let literal = match address.0 {
            IpAddr::V4(_) => format!("[{text}]"),
            IpAddr::V6(_) => format!("[IPv6:{text}]"),
        };
        let family: &[u8] = if address.0.is_ipv4() { b"4" } else { b"6" };
        let name = name.unwrap_or(literal.as_bytes());
        let port = address.1.to_be_bytes();
        let data = [name, b"\0", family, &port, text.as_bytes(), b"\0"];
        self.command(Stage::Connect, macros, &data, out)
    }

    /// HELO or EHLO.
    pub fn helo(&mut self, macros: &[(&'static str, &[u8])], name: &[u8], out: &mut Vec<u8>) -> bool {
        self.command(Stage::Helo, macros, &[name, b"\0"], out)
    }

    /// MAIL, with its parameters. What was open is ended first.
    pub fn mail(
        &mut self,
        macros: &[(&'static str, &[u8])],
        sender: &[u8],
        parameters: &[Vec<u8>],
        out: &mut Vec<u8>,
    ) -> bool {
        self.abort(out);
        (self.open, self.enough) = (true, false);
        let mut data: Vec<&[u8]> = vec![b"<", sender, b">\0"];
        parameters.iter().for_each(|p| data.extend([&p[..], b"\0"]));
        self.command(Stage::Mail, macros, &data, out)
    }

    /// RCPT, with its parameters.
    pub fn rcpt(
        &mut self,
        macros: &[(&'static str, &[u8])],
        recipient: &[u8],
        parameters: &[Vec<u8>],
        out: &mut Vec<u8>,
    ) -> bool {
        let mut data: Vec<&[u8]> = vec![b"<", recipient, b">\0"];
        parameters.iter().for_each(|p| data.extend([&p[..], b"\0"]));
        self.command(Stage::Rcpt, macros, &data, out)
    }

    /// DATA.
    pub fn data(&mut self, macros: &[(&'static str, &[u8])], out: &mut Vec<u8>) -> bool {
        self.command(Stage::Data, macros, &[], out)
    }

    /// A field, as [`super::Header::seen`] gives it.
    pub fn header(&mut self, name: &[u8], value: &[u8], out: &mut Vec<u8>) -> bool {
        let blank = matches!(value.first(), Some(b' ' | b'\t')) && !self.keeps_space();
        let value: Vec<u8> = value[usize::from(blank)..]
            .iter()
            // Lines end in LF alone here, and strings in NUL.
            .filter(|b| !matches!(b, b'\r' | 0))
            .copied()
            .collect();
        self.command(Stage::Header, &[], &[name, b"\0", &value, b"\0"], out)
    }

    /// The end of the header.
    pub fn end_of_header(&mut self, macros: &[(&'static str, &[u8])], out: &mut Vec<u8>) -> bool {
        self.command(Stage::EndOfHeader, macros, &[], out)
    }

    /// True if the filter wants to see (more of) the body.
    #[must_use]
    pub fn wants_body(&self) -> bool {
        self.wishes & wish::NO_BODY == 0 && !self.enough
    }

    /// A piece of the body, at most [`wire::CHUNK`] bytes.
    pub fn body(&mut self, piece: &[u8], out: &mut Vec<u8>) -> bool {
        debug_assert!(piece.len() <= wire::CHUNK);
        self.wants_body() && self.command(Stage::Body, &[], &[piece], out)
    }

    /// The end of the message. It is always answered.
    pub fn end_of_body(&mut self, macros: &[(&'static str, &[u8])], out: &mut Vec<u8>) {
        self.command(Stage::EndOfBody, macros, &[], out);
    }

    /// Ends a transaction that the filter has been told of.
    pub fn abort(&mut self, out: &mut Vec<u8>) {
        if std::mem::take(&mut self.open) {
            wire::put(out, b'A', &[]);
        }
    }

    /// Ends the connection.
    pub fn quit(&mut self, out: &mut Vec<u8>) {
        wire::put(out, b'Q', &[]);
    }

    /// Values of header fields come with the blank behind the colon.
    #[must_use]
    pub fn keeps_space(&self) -> bool {
        self.wishes & wish::LEADING_SPACE != 0
    }

    /// Takes what has come in and is not consumed yet; gives how much is consumed now, and one step.
    pub fn receive<'a>(&mut self, input: &'a [u8]) -> Result<(usize, Step<'a>), Fault> {
        let Some(used) = wire::complete(input)? else { return Ok((0, Step::NeedInput)) };
        let reply = wire::decode(&input[4..used])?;
        let stage = self.waits.ok_or(Fault::Unexpected)?;
        let step = match (stage, reply) {
            (Stage::Options, Reply::Options { version, actions, wishes }) => {
                self.agree(version, actions, wishes)?;
                wire::lists(&input[4..used])?.iter().for_each(|(at, names)| self.macros.choose(*at, names));
                Step::Answer(Answer::Continue)
            }
            (_, Reply::Refuses) => return Err(Fault::Refuses),
            (Stage::Options, _) => return Err(Fault::Unexpected),
            (_, Reply::Progress) => Step::Progress,
            (_, Reply::Continue) => Step::Answer(Answer::Continue),
            (_, Reply::Accept) => Step::Answer(Answer::Accept),
            (_, Reply::Reject) => Step::Answer(Answer::Refuse(Refused::new(550, (7, 1), REJECTED))),
            (_, Reply::TempFail) => Step::Answer(Answer::Refuse(Refused::new(451, (7, 1), DEFERRED))),
            (_, Reply::Code(text)) => {
                Step::Answer(Answer::Refuse(Refused::parse(&single_percents(text)).ok_or(Fault::Code)?))
            }
            (_, Reply::Discard) if stage >= Stage::Mail => Step::Answer(Answer::Discard),
            (Stage::Body, Reply::Skip) => {
                self.enough = true;
                Step::Answer(Answer::Continue)
            }
            (Stage::EndOfBody, change) => self.change(change)?,
            _ => return Err(Fault::Unexpected),
        };
        if matches!(step, Step::Answer(_)) {
            self.waits = None;
            self.open &= stage != Stage::EndOfBody;
        }
        Ok((used, step))
    }

    fn agree(&mut self, version: u32, actions: u32, wishes: u32) -> Result<(), Fault> {
        // Older filters know less; what they do not know they leave out.
        let known = (2..=wire::VERSION).contains(&version);
        if !known || actions & !action::OFFERED != 0 || wishes & !wish::OFFERED != 0 {
            return Err(Fault::Version);
        }
        // DATA came with version 4.
        let data = if version < 4 { wish::NO_DATA } else { 0 };
        (self.actions, self.wishes) = (actions, wishes | data);
        Ok(())
    }

    /// What a filter wants to be changed; only at the end of the message, and only what it has announced.
    fn change<'a>(&self, reply: Reply<'a>) -> Result<Step<'a>, Fault> {
        let (needs, step) = match reply {
            Reply::AddHeader(name, value) => {
                (action::ADD_HEADER, Step::Header(Change::Add(name.into(), value.into())))
            }
            // Filters that change header fields may insert some, too.
            Reply::InsertHeader(place, name, value) => (
                action::ADD_HEADER | action::CHANGE_HEADER,
                Step::Header(Change::Insert(place, name.into(), value.into())),
            ),
            Reply::ChangeHeader(number, name, value) => {
                (action::CHANGE_HEADER, Step::Header(Change::Set(number, name.into(), value.into())))
            }
            Reply::ChangeSender(a) => (action::CHANGE_SENDER, Step::Sender(address(a, true)?)),
            Reply::AddRecipient(a) => {
                (action::ADD_RECIPIENT | action::ADD_RECIPIENT_WITH, Step::AddRecipient(address(a, false)?))
            }
            Reply::DeleteRecipient(a) => (action::DELETE_RECIPIENT, Step::DeleteRecipient(bare(a))),
            Reply::Body(piece) => (action::REPLACE_BODY, Step::Body(piece)),
            Reply::Quarantine(reason) => (action::QUARANTINE, Step::Quarantine(reason)),
            _ => return Err(Fault::Unexpected),
        };
        if self.actions & needs == 0 { Err(Fault::NotAgreed) } else { Ok(step) }
    }
}

/// Without angle brackets.
fn bare(address: &[u8]) -> &[u8] {
    let inner = address.trim_ascii();
    inner.strip_prefix(b"<").and_then(|a| a.strip_suffix(b">")).unwrap_or(inner)
}

/// The address, checked; `null`: it may be nobody's.
fn address(text: &[u8], null: bool) -> Result<&[u8], Fault> {
    let inner = bare(text);
    if inner.is_empty() && null {
        return Ok(inner);
    }
    Address::parse(inner).map(Address::bytes).map_err(|_| Fault::Address)
}

/// Texts of filters are formats of printf: a percent sign is written twice.
fn single_percents(text: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(text.len());
    let mut bytes = text.iter().copied().peekable();
    while let Some(b) = bytes.next() {
        out.push(b);
        if b == b'%' {
            bytes.next_if_eq(&b'%');
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn packet(letter: u8, data: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        wire::put(&mut out, letter, &[data]);
        out
    }

    fn agreed(actions: u32, wishes: u32) -> Client {
        let (mut client, mut out) = (Client::default(), Vec::new());
        client.negotiate(&mut out);
        assert_eq!(out, b"\0\0\0\x0dO\0\0\0\x06\0\0\x01\xff\0\x1f\xf7\xff");
        let mut data = 6u32.to_be_bytes().to_vec();
        data.extend(actions.to_be_bytes());
        data.extend(wishes.to_be_bytes());
        let options = packet(b'O', &data);
        assert_eq!(client.receive(&options), Ok((options.len(), Step::Answer(Answer::Continue))));
        client
    }

    fn answer(client: &mut Client, letter: u8, data: &[u8]) -> Result<Answer, Fault> {
        let bytes = packet(letter, data);
        match client.receive(&bytes)? {
            (n, Step::Answer(answer)) if n == bytes.len() => Ok(answer),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_whole_message() {
        let (mut c, mut out) = (agreed(0x1ff & action::OFFERED, 0), Vec::new());
        let from = ("192.0.2.1".parse().unwrap(), 0x1234);
        assert!(c.connect(&[("j", b"mx")], None, from, &mut out));
        assert_eq!(out, b"\0\0\0\x07DCj\0mx\0\0\0\0\x1aC[192.0.2.1]\x004\x124192.0.2.1\0");
        assert_eq!(answer(&mut c, b'c', b""), Ok(Answer::Continue));
        assert!(c.helo(&[], b"me", &mut out));
        assert_eq!(answer(&mut c, b'c', b""), Ok(Answer::Continue));
        out.clear();
        assert!(c.mail(&[], b"a@b", &[b"SIZE=3".to_vec()], &mut out));
        assert_eq!(out, b"\0\0\0\x0eM<a@b>\0SIZE=3\0");
        assert_eq!(answer(&mut c, b'c', b""), Ok(Answer::Continue));
        assert!(c.rcpt(&[], b"c@d", &[], &mut out));
        assert_eq!(
            answer(&mut c, b'y', b"550 5.1.1 no %%s\0"),
            Ok(Answer::Refuse(Rejection::new(550, (1, 1), b"no %s")))
        );
        out.clear();
        assert!(c.header(b"S", b" a\r\n\tb", &mut out));
        assert_eq!(out, b"\0\0\0\x08LS\0a\n\tb\0");
        assert_eq!(answer(&mut c, b'c', b""), Ok(Answer::Continue));
        assert!(c.body(b"x", &mut out));
        assert_eq!(answer(&mut c, b's', b""), Ok(Answer::Continue));
        assert!(!c.wants_body() && !c.body(b"y", &mut out));
        c.end_of_body(&[], &mut out);
        let both = [packet(b'p', b""), packet(b'-', b"<c@d>\0")].concat();
        assert_eq!(c.receive(&both), Ok((5, Step::Progress)));
        assert_eq!(c.receive(&both[5..]), Ok((11, Step::DeleteRecipient(b"c@d"))));
        assert_eq!(answer(&mut c, b'a', b""), Ok(Answer::Accept));
        out.clear();
        c.abort(&mut out);
        assert_eq!(out, b"", "the message has ended");
        assert_eq!(c.receive(&packet(b'c', b"")), Err(Fault::Unexpected), "nothing was asked");
    }

    #[test]
    fn macros_are_the_filters_choice() {
        let (mut c, mut out) = (Client::default(), Vec::new());
        c.negotiate(&mut out);
        let lists = b"\0\0\0\x06\0\0\x01\0\0\0\0\x02\0\0\0\x00j\0\0\0\0\x03{cipher} j\0";
        assert!(c.receive(&packet(b'O', lists)).is_ok());
        let from = ("192.0.2.1".parse().unwrap(), 7);
        out.clear();
        assert!(c.connect(&[("j", b"mx"), ("v", b"1")], None, from, &mut out));
        assert!(out.starts_with(b"\0\0\0\x07DCj\0mx\0\0\0\0"), "{}", out.escape_ascii());
        assert!(!c.helo(&[("{cipher}", b"AES")], b"me", &mut out), "it does not want to hear of it");
        out.clear();
        assert!(c.rcpt(&[("{rcpt_addr}", b"a@b")], b"a@b", &[], &mut out));
        assert_eq!(out, b"\0\0\0\x14DR{cipher}\0AES\0j\0mx\0\0\0\0\x07R<a@b>\0");
        let mut c = Client::default();
        c.negotiate(&mut out);
        assert_eq!(c.receive(&packet(b'O', &lists[..lists.len() - 1])), Err(Fault::Form));
    }

    #[test]
    fn what_is_not_wanted_is_not_said_and_what_is_not_answered_is_not_waited_for() {
        let (mut c, mut out) =
            (agreed(0, wish::NO_HELO | wish::SILENT_HEADER | wish::LEADING_SPACE), Vec::new());
        assert!(!c.helo(&[("j", b"mx")], b"me", &mut out));
        assert_eq!(out, b"");
        assert!(!c.header(b"S", b" a", &mut out));
        assert_eq!(out, b"\0\0\0\x06LS\0 a\0");
        assert!(c.mail(&[], b"", &[], &mut out));
        assert_eq!(answer(&mut c, b'd', b""), Ok(Answer::Discard));
        out.clear();
        assert!(c.mail(&[], b"", &[], &mut out), "what was open is ended");
        assert_eq!(out, b"\0\0\0\x01A\0\0\0\x04M<>\0");
    }

    #[test]
    fn what_has_no_place_is_a_fault() {
        let ended = |actions| {
            let (mut c, mut out) = (agreed(actions, 0), Vec::new());
            c.end_of_body(&[], &mut out);
            c
        };
        let mut c = ended(action::ADD_HEADER);
        assert_eq!(c.receive(&packet(b'b', b"x")), Err(Fault::NotAgreed));
        assert_eq!(c.receive(&packet(b'q', b"x\0")), Err(Fault::NotAgreed));
        assert!(c.receive(&packet(b'i', b"\0\0\0\x01A\0b\0")).is_ok());
        assert_eq!(c.receive(&packet(b's', b"")), Err(Fault::Unexpected));
        assert_eq!(c.receive(&packet(b'y', b"250 ok\0")), Err(Fault::Code));
        assert_eq!(c.receive(&packet(b'4', b"")), Err(Fault::Refuses));
        let mut c = ended(0xff);
        assert_eq!(c.receive(&packet(b'+', b"<nobody>\0")), Err(Fault::Address));
        assert_eq!(c.receive(&packet(b'e', b"<>\0")), Ok((8, Step::Sender(b""))));
        let (mut c, mut out) = (agreed(0xff, 0), Vec::new());
        c.helo(&[], b"me", &mut out);
        assert_eq!(c.receive(&packet(b'd', b"")), Err(Fault::Unexpected), "there is no message yet");
        assert_eq!(c.receive(&packet(b'b', b"x")), Err(Fault::Unexpected));
        let mut c = Client::default();
        c.negotiate(&mut out);
        assert_eq!(c.receive(&packet(b'c', b"")), Err(Fault::Unexpected));
        let numbers = b"\0\0\0\x06\0\0\x02\0\0\0\0\0";
        assert_eq!(c.receive(&packet(b'O', numbers)), Err(Fault::Version));
    }
}
