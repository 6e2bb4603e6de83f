//! One command line, read in place (RFC 5321 §4.1 and its extensions).
//!
//! [`parse`] takes a line without its CRLF and borrows from it; nothing is copied, unquoted or
//! decoded. It knows no session: order, limits and permissions are the session's. Every error has the
//! reply that belongs to it.

use crate::base::scan;
use crate::message::address::{self, Address, BadAddress};
use crate::message::domain;
use crate::message::envelope::{Notify, SenderOptions};
use crate::smtp::parameter;
use crate::smtp::reply::Reply;

/// A command.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Command<'a> {
    /// EHLO with its domain or address literal.
    Ehlo(&'a [u8]),
    /// HELO with its domain.
    Helo(&'a [u8]),
    /// LHLO with its domain (RFC 2033 §4.1), not checked: with SMTP it is the wrong protocol.
    Lhlo(&'a [u8]),
    /// MAIL.
    Mail(Mail<'a>),
    /// RCPT.
    Rcpt(Rcpt<'a>),
    /// DATA.
    Data,
    /// BDAT (RFC 3030).
    Bdat {
        /// Octets that follow the command line.
        len: u64,
        /// This is the last chunk.
        last: bool,
    },
    /// RSET.
    Rset,
    /// NOOP, with or without an argument.
    Noop,
    /// VRFY with its argument.
    Vrfy(&'a [u8]),
    /// EXPN with its argument.
    Expn(&'a [u8]),
    /// HELP, with or without an argument.
    Help,
    /// QUIT.
    Quit,
    /// STARTTLS (RFC 3207).
    StartTls,
    /// AUTH (RFC 4954).
    Auth {
        /// SASL mechanism.
        mechanism: &'a [u8],
        /// Initial response, base64, empty if not given.
        initial: &'a [u8],
    },
    /// XCLIENT with its attributes.
    Xclient(&'a [u8]),
    /// XFORWARD with its attributes.
    Xforward(&'a [u8]),
}

/// MAIL and its parameters.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Mail<'a> {
    /// Reverse path; null for `<>`.
    pub sender: Address<'a>,
    /// SIZE= (RFC 1870), saturated.
    pub size: Option<u64>,
    /// BODY=, SMTPUTF8, RET=.
    pub options: SenderOptions,
    /// ENVID= as given (xtext, checked); empty if not.
    pub envid: &'a [u8],
}

/// RCPT and its parameters.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Rcpt<'a> {
    /// Forward path; only `postmaster` may come without a domain.
    pub recipient: Address<'a>,
    /// NOTIFY=.
    pub notify: Notify,
    /// ORCPT= as given (`rfc822;xtext`, checked); empty if not.
    pub orcpt: &'a [u8],
}

/// Why a line is not a command that can be obeyed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum BadCommand {
    /// No such verb.
    Unknown,
    /// A HTTP request line.
    Http,
    /// BDAT without a size that can be trusted: the session cannot go on.
    ChunkSize,
    /// Anything else; the session can go on.
    Refused(Reply),
}

impl BadCommand {
    /// The reply that belongs to it.
    #[must_use]
    pub fn reply(self) -> Reply {
        match self {
            BadCommand::Unknown => Reply::UNKNOWN_COMMAND,
            BadCommand::Http => Reply::NOT_HTTP,
            BadCommand::ChunkSize => Reply::BDAT_SYNTAX,
            BadCommand::Refused(reply) => reply,
        }
    }
}

impl From<Reply> for BadCommand {
    fn from(reply: Reply) -> Self {
        BadCommand::Refused(reply)
    }
}

/// Reads one line without its CRLF.
///
/// # Errors
/// [`BadCommand`], with the reply that belongs to it.
pub fn parse(line: &[u8]) -> Result<Command<'_>, BadCommand> {
    if scan::has_control(line) {
        return Err(Reply::CONTROL_CHARACTER.into());
    }
    let (verb, argument) = match memchr::memchr(b' ', line) {
        Some(space) => (&line[..space], &line[space + 1..]),
        None => (line, &b""[..]),
    };
    let Ok(four) = <[u8; 4]>::try_from(verb) else { return parse_long_verb(verb, argument) };
    // RFC 5321 §2.4: verbs are not case sensitive.
    match &four.map(|b| b.to_ascii_uppercase()) {
        b"MAIL" => mail(argument).map(Command::Mail),
        b"RCPT" => rcpt(argument).map(Command::Rcpt),
        b"DATA" => alone(argument, Command::Data),
        b"BDAT" => bdat(argument),
        b"EHLO" => helo(argument).map(Command::Ehlo),
        b"HELO" => helo(argument).map(Command::Helo),
        b"LHLO" => Ok(Command::Lhlo(argument.trim_ascii())),
        b"RSET" => alone(argument, Command::Rset),
        b"NOOP" => Ok(Command::Noop),
        b"QUIT" => alone(argument, Command::Quit),
        b"VRFY" => some(argument).map(Command::Vrfy),
        b"EXPN" => some(argument).map(Command::Expn),
        b"HELP" => Ok(Command::Help),
        b"AUTH" => auth(argument),
        b"POST" | b"HEAD" => Err(BadCommand::Http),
        _ => Err(BadCommand::Unknown),
    }
}

fn parse_long_verb<'a>(verb: &[u8], argument: &'a [u8]) -> Result<Command<'a>, BadCommand> {
    const HTTP: [&str; 7] = ["GET", "PUT", "CONNECT", "OPTIONS", "DELETE", "PATCH", "TRACE"];
    if verb.eq_ignore_ascii_case(b"STARTTLS") {
        return alone(argument, Command::StartTls);
    }
    if verb.eq_ignore_ascii_case(b"XCLIENT") {
        return some(argument).map(Command::Xclient);
    }
    if verb.eq_ignore_ascii_case(b"XFORWARD") {
        return some(argument).map(Command::Xforward);
    }
    if HTTP.iter().any(|h| verb.eq_ignore_ascii_case(h.as_bytes())) {
        return Err(BadCommand::Http);
    }
    Err(BadCommand::Unknown)
}

/// A command that takes no argument. White space behind it is tolerated (RFC 5321 §4.1.1).
fn alone<'a>(argument: &[u8], command: Command<'a>) -> Result<Command<'a>, BadCommand> {
    if argument.trim_ascii().is_empty() { Ok(command) } else { Err(Reply::NO_ARGUMENT.into()) }
}

fn some(argument: &[u8]) -> Result<&[u8], BadCommand> {
    let argument = argument.trim_ascii();
    if argument.is_empty() { Err(Reply::NEEDS_ARGUMENT.into()) } else { Ok(argument) }
}

fn helo(argument: &[u8]) -> Result<&[u8], BadCommand> {
    let name = argument.trim_ascii();
    if domain::is_helo(name) { Ok(name) } else { Err(Reply::HELO_ARGUMENT.into()) }
}

/// `BDAT size [LAST]` (RFC 3030 §2).
fn bdat(argument: &[u8]) -> Result<Command<'_>, BadCommand> {
    let argument = argument.trim_ascii();
    let (size, rest) = match memchr::memchr(b' ', argument) {
        Some(space) => (&argument[..space], argument[space + 1..].trim_ascii_start()),
        None => (argument, &b""[..]),
    };
    let last = rest.eq_ignore_ascii_case(b"LAST");
    if !last && !rest.is_empty() {
        return Err(BadCommand::ChunkSize);
    }
    let len = parameter::number(size).filter(|&n| n < u64::MAX).ok_or(BadCommand::ChunkSize)?;
    Ok(Command::Bdat { len, last })
}

/// `AUTH mechanism [initial-response]` (RFC 4954 §4).
fn auth(argument: &[u8]) -> Result<Command<'_>, BadCommand> {
    let argument = some(argument)?;
    let (mechanism, initial) = match memchr::memchr(b' ', argument) {
        Some(space) => (&argument[..space], argument[space + 1..].trim_ascii_start()),
        None => (argument, &b""[..]),
    };
    Ok(Command::Auth { mechanism, initial })
}

/// `MAIL FROM:<path> [parameters]`.
fn mail(argument: &[u8]) -> Result<Mail<'_>, BadCommand> {
    let path = after_keyword(argument, b"FROM:").ok_or(Reply::MAIL_SYNTAX)?;
    let (sender, rest) = address::path(path).map_err(|_| Reply::BAD_SENDER)?;
    // RFC 5321 §4.1.1.2: the null sender or a mailbox; `postmaster` alone is a recipient only.
    if !sender.is_null() && sender.domain().is_empty() {
        return Err(Reply::BAD_SENDER.into());
    }
    let mut mail = Mail { sender, size: None, options: SenderOptions::default(), envid: b"" };
    parameter::mail(rest, &mut mail)?;
    if sender.is_international() && !mail.options.smtputf8 {
        return Err(Reply::NEEDS_SMTPUTF8.into());
    }
    Ok(mail)
}

/// `RCPT TO:<path> [parameters]`.
fn rcpt(argument: &[u8]) -> Result<Rcpt<'_>, BadCommand> {
    let path = after_keyword(argument, b"TO:").ok_or(Reply::RCPT_SYNTAX)?;
    let (recipient, rest) = match address::path(path) {
        // RFC 5321 §4.1.1.3: a forward path is never empty.
        Ok((address, _)) if address.is_null() => return Err(Reply::BAD_RECIPIENT.into()),
        Ok(found) => found,
        Err(BadAddress::Syntax | BadAddress::NoDomain | BadAddress::TooLong | BadAddress::NotUtf8) => {
            return Err(Reply::BAD_RECIPIENT.into());
        }
    };
    let mut rcpt = Rcpt { recipient, notify: Notify::DEFAULT, orcpt: b"" };
    parameter::rcpt(rest, &mut rcpt)?;
    Ok(rcpt)
}

/// What follows `FROM:` or `TO:`. Spaces after the colon are tolerated, as everybody does.
fn after_keyword<'a>(argument: &'a [u8], keyword: &[u8]) -> Option<&'a [u8]> {
    let (head, rest) = argument.split_at_checked(keyword.len())?;
    head.eq_ignore_ascii_case(keyword).then(|| rest.trim_ascii_start())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::envelope::{BodyKind, Ret};
    use proptest::prelude::*;

    fn refused(line: &str) -> String {
        parse(line.as_bytes()).unwrap_err().reply().line().trim_end().to_string()
    }

    fn mail_of(line: &str) -> Mail<'_> {
        match parse(line.as_bytes()) {
            Ok(Command::Mail(mail)) => mail,
            other => panic!("{line}: {other:?}"),
        }
    }

    fn rcpt_of(line: &str) -> Rcpt<'_> {
        match parse(line.as_bytes()) {
            Ok(Command::Rcpt(rcpt)) => rcpt,
            other => panic!("{line}: {other:?}"),
        }
    }

    #[test]
    fn verbs() {
        for (line, command) in [
            ("EHLO a.example", Command::Ehlo(b"a.example")),
            ("ehlo  [192.0.2.1] ", Command::Ehlo(b"[192.0.2.1]")),
            ("HeLo x", Command::Helo(b"x")),
            ("LHLO x", Command::Lhlo(b"x")),
            ("DATA", Command::Data),
            ("data ", Command::Data),
            ("BDAT 12", Command::Bdat { len: 12, last: false }),
            ("bdat 0  last", Command::Bdat { len: 0, last: true }),
            ("RSET", Command::Rset),
            ("NOOP", Command::Noop),
            ("noop whatever", Command::Noop),
            ("VRFY a b", Command::Vrfy(b"a b")),
            ("EXPN list", Command::Expn(b"list")),
            ("HELP", Command::Help),
            ("HELP MAIL", Command::Help),
            ("QUIT", Command::Quit),
            ("StartTLS", Command::StartTls),
            ("AUTH PLAIN =", Command::Auth { mechanism: b"PLAIN", initial: b"=" }),
            ("XCLIENT ADDR=1 NAME=x", Command::Xclient(b"ADDR=1 NAME=x")),
            ("xforward NAME=x", Command::Xforward(b"NAME=x")),
            ("AUTH LOGIN", Command::Auth { mechanism: b"LOGIN", initial: b"" }),
        ] {
            assert_eq!(parse(line.as_bytes()), Ok(command), "{line}");
        }
    }

    #[test]
    fn refusals() {
        for (line, reply) in [
            ("", "500 5.5.2"),
            ("HELOx a", "500 5.5.2"),
            ("X", "500 5.5.2"),
            ("NOOP\tx", "500 5.5.2"),
            ("MAIL FROM:<a@b>\0", "500 5.5.2"),
            ("EHLO", "501 5.5.4"),
            ("EHLO a b", "501 5.5.4"),
            ("DATA x", "501 5.5.4"),
            ("RSET x", "501 5.5.4"),
            ("QUIT x", "501 5.5.4"),
            ("VRFY", "501 5.5.4"),
            ("AUTH", "501 5.5.4"),
            ("MAIL", "501 5.5.4"),
            ("MAIL TO:<a@b>", "501 5.5.4"),
            ("MAIL FROM <a@b>", "501 5.5.4"),
            ("MAIL FROM:a@b", "501 5.1.7"),
            ("MAIL FROM:<a>", "501 5.1.7"),
            ("MAIL FROM:<postmaster>", "501 5.1.7"),
            ("MAIL FROM:<a@b>SIZE=1", "501 5.5.4"),
            ("RCPT FROM:<a@b>", "501 5.5.4"),
            ("RCPT TO:<>", "501 5.1.3"),
            ("RCPT TO:<a>", "501 5.1.3"),
            ("RCPT TO:<;sleep 6;>", "501 5.1.3"),
            ("MAIL FROM:<\u{e9}@b>", "553 5.6.7"),
            ("GET / HTTP/1.1", "554 5.5.1"),
            ("post / HTTP/1.0", "554 5.5.1"),
            ("CONNECT x:25 HTTP/1.1", "554 5.5.1"),
        ] {
            assert!(refused(line).starts_with(reply), "{line:?}: {}", refused(line));
        }
    }

    #[test]
    fn mail_and_its_parameters() {
        let m = mail_of(
            "MAIL FROM: <A.b@C.example>  size=1000 BODY=8bitmime SMTPUTF8 RET=HDRS ENVID=a+2Bb AUTH=<>",
        );
        assert_eq!((m.sender.bytes(), m.size, m.envid), (&b"A.b@C.example"[..], Some(1000), &b"a+2Bb"[..]));
        let options = SenderOptions { body: BodyKind::EightBitMime, smtputf8: true, ret: Some(Ret::Headers) };
        assert_eq!(m.options, options);
        assert!(mail_of("mail from:<>").sender.is_null());
        assert_eq!(mail_of("MAIL FROM:<@us,@them:a@b> BODY=7BIT").sender.bytes(), b"a@b");
        assert_eq!(mail_of("MAIL FROM:<\u{e9}@b> SMTPUTF8").sender.bytes(), "\u{e9}@b".as_bytes());
    }

    #[test]
    fn rcpt_and_its_parameters() {
        let r = rcpt_of("RCPT TO:<\"x y\"@b> NOTIFY=success,DELAY ORCPT=rfc822;x+20y@b");
        assert_eq!((r.recipient.bytes(), r.orcpt), (&b"\"x y\"@b"[..], &b"rfc822;x+20y@b"[..]));
        assert!(r.notify.has(Notify::SUCCESS) && r.notify.has(Notify::DELAY) && !r.notify.on_failure());
        assert_eq!(rcpt_of("rcpt to:<Postmaster>").recipient.bytes(), b"Postmaster");
        assert_eq!(rcpt_of("rcpt to:<a@[IPv6:::1]>").recipient.domain(), b"[IPv6:::1]");
    }

    /// Attack catalogue, row 3: sizes that overflow, are negative or not there.
    #[test]
    fn row_03_bdat_sizes() {
        for line in [
            "BDAT",
            "BDAT ",
            "BDAT -1",
            "BDAT +1",
            "BDAT x",
            "BDAT 0x10",
            "BDAT 1 FIRST",
            "BDAT 1 LAST x",
            "BDAT LAST",
            "BDAT 99999999999999999999",
            "BDAT 18446744073709551616",
            "BDAT 184467440737095516150",
            "BDAT 1,0",
        ] {
            assert_eq!(parse(line.as_bytes()), Err(BadCommand::ChunkSize), "{line}");
        }
        let len = u64::MAX - 1;
        assert_eq!(parse(format!("BDAT {len}").as_bytes()), Ok(Command::Bdat { len, last: false }));
        assert!(refused("BDAT -1").starts_with("501 "));
    }

    proptest! {
        #[test]
        fn never_panics(line in prop::collection::vec(any::<u8>(), 0..300)) {
            let _ = parse(&line);
        }

        #[test]
        fn never_panics_on_nearly_good_lines(
            verb in prop::sample::select(vec!["MAIL FROM:", "RCPT TO:", "BDAT ", "EHLO ", "AUTH "]),
            rest in "[<>@\"\\\\\\[\\]:;,. =+a-fA-FSIZEBODY0-9\u{e9}]{0,60}",
        ) {
            let line = format!("{verb}{rest}");
            if let Ok(Command::Mail(mail)) = parse(line.as_bytes()) {
                let sender = std::str::from_utf8(mail.sender.bytes()).unwrap();
                prop_assert!(line.contains(sender), "taken as it stands");
            }
        }
    }
}
