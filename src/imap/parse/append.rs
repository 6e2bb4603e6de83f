//! APPEND (RFC 9051 §6.3.12, MULTIAPPEND RFC 3502, UTF8 RFC 6855 §4, BINARY RFC 3516 §4.4) and
//! REPLACE (RFC 8508).
//!
//! Messages are never in memory: the framing stops at the literal of each. What stands before the
//! first one is a command ([`Append`], [`Replace`]); what stands behind one is a [`Next`].

use super::Parsed;
use super::date::{self, DateTime};
use super::flags::{self, Flags};
use super::input::Input;
use super::mailbox::{self, Mailbox};

/// What is said of a message before its bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Message<'a> {
    /// Its flags.
    pub flags: Flags<'a>,
    /// INTERNALDATE, if given.
    pub date: Option<DateTime>,
    /// Its length in octets.
    pub len: u64,
    /// Sent as literal8: NUL is allowed (RFC 3516 §4.4).
    pub binary: bool,
    /// Within `UTF8 (...)`: its header may be in UTF-8 (RFC 6855 §4). A `)` follows the bytes.
    pub utf8: bool,
    /// The client does not wait for a continuation (RFC 7888).
    pub non_synchronizing: bool,
}

/// APPEND up to the bytes of the first message.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Append<'a> {
    /// Where to.
    pub mailbox: Mailbox<'a>,
    /// The first message.
    pub message: Message<'a>,
}

/// REPLACE up to the bytes of the message.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Replace<'a> {
    /// The number is a UID.
    pub uid: bool,
    /// Which message is replaced (`None`: `*`, the last).
    pub number: Option<u32>,
    /// Where to.
    pub mailbox: Mailbox<'a>,
    /// The message.
    pub message: Message<'a>,
}

/// What follows the bytes of a message.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Next<'a> {
    /// The command ends.
    End,
    /// Another message (RFC 3502).
    Message(Message<'a>),
}

const MESSAGE: &str = "a message as a literal: {length} at the end of the line";

pub(super) fn append<'a>(input: &mut Input<'a>) -> Parsed<Append<'a>> {
    let mailbox = mailbox::spaced(input)?;
    Ok(Append { mailbox, message: message(input)? })
}

pub(super) fn replace<'a>(input: &mut Input<'a>, uid: bool) -> Parsed<Replace<'a>> {
    input.space("a message number")?;
    let number = if input.eat(b'*') { None } else { Some(input.nz_number("a message number")?) };
    let mailbox = mailbox::spaced(input)?;
    Ok(Replace { uid, number, mailbox, message: message(input)? })
}

/// What follows a message, up to its line end or the bytes of the next message. `utf8` as in the
/// [`Message`] that ends.
///
/// # Errors
/// [`super::Bad`], with places counted from the start of `text`.
pub fn next(text: &[u8], utf8: bool) -> Parsed<Next<'_>> {
    let mut input = Input::new(text);
    if utf8 {
        input.need(b')', ") after the message")?;
    }
    if input.is_at_end() {
        input.end()?;
        return Ok(Next::End);
    }
    message(&mut input).map(Next::Message)
}

/// ` [flags ][date ]literal` or ` ... UTF8 (literal`: up to and with the line end of its header.
fn message<'a>(input: &mut Input<'a>) -> Parsed<Message<'a>> {
    input.space(MESSAGE)?;
    let mut flags = Flags::default();
    let mut date = None;
    if input.peek() == Some(b'(') {
        flags = flags::list(input)?;
        input.space(MESSAGE)?;
    }
    if input.peek() == Some(b'"') {
        date = Some(date::date_time(input)?);
        input.space(MESSAGE)?;
    }
    let utf8 = input.keyword("UTF8");
    if utf8 {
        input.space("a literal8 in parentheses")?;
        input.need(b'(', "a literal8 in parentheses")?;
    }
    let binary = input.eat(b'~');
    // RFC 6855 §4: in UTF8 (...) it is a literal8.
    if utf8 && !binary {
        return Err(input.bad("a literal8: ~{length}"));
    }
    input.need(b'{', MESSAGE)?;
    let len = input.number64(MESSAGE)?;
    let non_synchronizing = input.eat(b'+');
    input.need(b'}', MESSAGE)?;
    input.eat(b'\r');
    input.need(b'\n', MESSAGE)?;
    if !input.rest().is_empty() {
        return Err(input.bad("nothing behind the header of the message"));
    }
    Ok(Message { flags, date, len, binary, utf8, non_synchronizing })
}
