//! One command line, read in place (RFC 1939 and its extensions).
//!
//! [`parse`] takes a line without its line end and borrows from it. It knows no session: order, limits
//! and which messages there are is the session's. Passwords do not show in what is printed.

use std::fmt;

/// A command.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Command<'a> {
    /// USER with its name.
    User(&'a [u8]),
    /// PASS with its password, which may contain spaces (RFC 1939 §7).
    Pass(Hidden<'a>),
    /// APOP.
    Apop {
        /// The name.
        name: &'a [u8],
        /// MD5 of the banner's timestamp and the password.
        digest: [u8; 16],
    },
    /// AUTH (RFC 5034).
    Auth {
        /// SASL mechanism; empty: which ones are there?
        mechanism: &'a [u8],
        /// Initial response, base64, empty if not given.
        initial: Hidden<'a>,
    },
    /// STLS (RFC 2595).
    Stls,
    /// CAPA (RFC 2449).
    Capa,
    /// STAT.
    Stat,
    /// LIST of one message or of all.
    List(Option<u32>),
    /// UIDL of one message or of all.
    Uidl(Option<u32>),
    /// RETR.
    Retr(u32),
    /// TOP.
    Top {
        /// Which message.
        number: u32,
        /// Lines of its body.
        lines: u32,
    },
    /// DELE.
    Dele(u32),
    /// RSET.
    Rset,
    /// NOOP.
    Noop,
    /// LAST (RFC 1460).
    Last,
    /// QUIT.
    Quit,
    /// UTF8 (RFC 6856 §2).
    Utf8,
    /// LANG: set one, or list them (RFC 6856 §3).
    Lang(Option<&'a [u8]>),
}

/// Bytes that may be a password.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Hidden<'a>(pub &'a [u8]);

impl fmt::Debug for Hidden<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("(hidden)")
    }
}

/// Why a line is not a command that can be obeyed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum BadCommand {
    /// No such command.
    Unknown,
    /// A HTTP request line.
    Http,
    /// Its arguments.
    Arguments,
    /// There can be no such message.
    NoMessage,
}

/// Reads one line without its line end.
///
/// # Errors
/// [`BadCommand`].
pub fn parse(line: &[u8]) -> Result<Command<'_>, BadCommand> {
    let (verb, argument) = match memchr::memchr(b' ', line) {
        Some(space) => (&line[..space], &line[space + 1..]),
        None => (line, &b""[..]),
    };
    // RFC 1939 §3: keywords of three or four characters, in any case. A password keeps its bytes.
    match &verb.to_ascii_uppercase()[..] {
        b"PASS" if argument.is_empty() || argument.contains(&0) => Err(BadCommand::Arguments),
        b"PASS" => Ok(Command::Pass(Hidden(argument))),
        verb if argument.iter().any(|b| b.is_ascii_control()) => {
            Err(if known(verb) { BadCommand::Arguments } else { BadCommand::Unknown })
        }
        verb => rest(verb, argument.trim_ascii()),
    }
}

const VERBS: [&[u8]; 18] = [
    b"USER", b"APOP", b"AUTH", b"STLS", b"CAPA", b"STAT", b"LIST", b"UIDL", b"RETR", b"TOP", b"DELE",
    b"RSET", b"NOOP", b"LAST", b"QUIT", b"UTF8", b"LANG", b"PASS",
];

fn known(verb: &[u8]) -> bool {
    VERBS.contains(&verb)
}

fn rest<'a>(verb: &[u8], argument: &'a [u8]) -> Result<Command<'a>, BadCommand> {
    const HTTP: [&[u8]; 9] =
        [b"GET", b"HEAD", b"POST", b"PUT", b"DELETE", b"CONNECT", b"OPTIONS", b"TRACE", b"PATCH"];
    match verb {
        b"USER" if argument.is_empty() => Err(BadCommand::Arguments),
        b"USER" => Ok(Command::User(argument)),
        b"APOP" => apop(argument),
        b"AUTH" => Ok(auth(argument)),
        b"STLS" => alone(argument, Command::Stls),
        b"CAPA" => alone(argument, Command::Capa),
        b"STAT" => alone(argument, Command::Stat),
        b"LIST" => optional(argument).map(Command::List),
        b"UIDL" => optional(argument).map(Command::Uidl),
        b"RETR" => number(argument).map(Command::Retr),
        b"TOP" => top(argument),
        b"DELE" => number(argument).map(Command::Dele),
        b"RSET" => alone(argument, Command::Rset),
        b"NOOP" => alone(argument, Command::Noop),
        b"LAST" => alone(argument, Command::Last),
        b"QUIT" => alone(argument, Command::Quit),
        b"UTF8" => alone(argument, Command::Utf8),
        b"LANG" => Ok(Command::Lang(Some(argument).filter(|a| !a.is_empty()))),
        _ if HTTP.contains(&verb) => Err(BadCommand::Http),
        _ => Err(BadCommand::Unknown),
    }
}

fn alone<'a>(argument: &[u8], command: Command<'a>) -> Result<Command<'a>, BadCommand> {
    if argument.is_empty() { Ok(command) } else { Err(BadCommand::Arguments) }
}

/// Digits only; saturates, since there are never so many messages or lines.
fn digits(text: &[u8]) -> Result<u32, BadCommand> {
    if text.is_empty() || !text.iter().all(u8::is_ascii_digit) {
        return Err(BadCommand::Arguments);
    }
    Ok(text.iter().fold(0u32, |n, d| n.saturating_mul(10).saturating_add(u32::from(d - b'0'))))
}

/// A message number (RFC 1939 §5: from 1).
fn number(text: &[u8]) -> Result<u32, BadCommand> {
    match digits(text)? {
        0 => Err(BadCommand::NoMessage),
        n => Ok(n),
    }
}

fn optional(argument: &[u8]) -> Result<Option<u32>, BadCommand> {
    if argument.is_empty() { Ok(None) } else { number(argument).map(Some) }
}

/// The first word and what follows it.
fn split(argument: &[u8]) -> (&[u8], &[u8]) {
    match memchr::memchr(b' ', argument) {
        Some(space) => (&argument[..space], argument[space + 1..].trim_ascii_start()),
        None => (argument, b""),
    }
}

fn top(argument: &[u8]) -> Result<Command<'_>, BadCommand> {
    let (message, lines) = split(argument);
    let (lines, number) = (digits(lines)?, number(message)?);
    Ok(Command::Top { number, lines })
}

fn auth(argument: &[u8]) -> Command<'_> {
    let (mechanism, initial) = split(argument);
    Command::Auth { mechanism, initial: Hidden(initial) }
}

/// RFC 1939 §7: `APOP name digest`, 32 hexadecimal digits.
fn apop(argument: &[u8]) -> Result<Command<'_>, BadCommand> {
    let (name, text) = split(argument);
    let (pairs, odd) = text.as_chunks::<2>();
    if name.is_empty() || pairs.len() != 16 || !odd.is_empty() {
        return Err(BadCommand::Arguments);
    }
    let mut digest = [0; 16];
    for (byte, pair) in digest.iter_mut().zip(pairs) {
        let [high, low] = pair.map(|b| char::from(b).to_digit(16));
        let value = high.zip(low).map(|(high, low)| high << 4 | low).ok_or(BadCommand::Arguments)?;
        *byte = value as u8;
    }
    Ok(Command::Apop { name, digest })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn commands() {
        for (line, command) in [
            ("USER a b", Command::User(b"a b")),
            ("user  a ", Command::User(b"a")),
            ("PASS  a b ", Command::Pass(Hidden(b" a b "))),
            ("AUTH", Command::Auth { mechanism: b"", initial: Hidden(b"") }),
            ("auth plain =", Command::Auth { mechanism: b"plain", initial: Hidden(b"=") }),
            ("STLS", Command::Stls),
            ("capa", Command::Capa),
            ("Stat ", Command::Stat),
            ("LIST", Command::List(None)),
            ("LIST 1", Command::List(Some(1))),
            ("UIDL 99999999999999999999", Command::Uidl(Some(u32::MAX))),
            ("RETR 1", Command::Retr(1)),
            ("TOP 1 0", Command::Top { number: 1, lines: 0 }),
            ("TOP 2  10", Command::Top { number: 2, lines: 10 }),
            ("DELE 3", Command::Dele(3)),
            ("RSET", Command::Rset),
            ("NOOP", Command::Noop),
            ("LAST", Command::Last),
            ("QUIT", Command::Quit),
            ("UTF8", Command::Utf8),
            ("LANG", Command::Lang(None)),
            ("LANG en", Command::Lang(Some(b"en"))),
        ] {
            assert_eq!(parse(line.as_bytes()), Ok(command), "{line}");
        }
        let digest = "APOP mrose c4c9334bac560ecc979e58001b3e22fb";
        let Ok(Command::Apop { name, digest }) = parse(digest.as_bytes()) else { panic!("{digest}") };
        assert_eq!((name, digest[0], digest[15]), (&b"mrose"[..], 0xc4, 0xfb));
    }

    #[test]
    fn refusals() {
        for (line, bad) in [
            ("", BadCommand::Unknown),
            ("XYZ", BadCommand::Unknown),
            ("RETRX 1", BadCommand::Unknown),
            ("GET / HTTP/1.1", BadCommand::Http),
            ("post /", BadCommand::Http),
            ("USER", BadCommand::Arguments),
            ("PASS", BadCommand::Arguments),
            ("PASS a\0b", BadCommand::Arguments),
            ("USER a\tb", BadCommand::Arguments),
            ("STAT 1", BadCommand::Arguments),
            ("RETR", BadCommand::Arguments),
            ("RETR -1", BadCommand::Arguments),
            ("RETR 1 2", BadCommand::Arguments),
            ("RETR 0", BadCommand::NoMessage),
            ("TOP 1", BadCommand::Arguments),
            ("TOP 1 x", BadCommand::Arguments),
            ("TOP 0 1", BadCommand::NoMessage),
            ("APOP a", BadCommand::Arguments),
            ("APOP a xyz", BadCommand::Arguments),
            ("APOP a 0123456789abcdef0123456789abcdeg", BadCommand::Arguments),
        ] {
            assert_eq!(parse(line.as_bytes()), Err(bad), "{line}");
        }
    }

    #[test]
    fn passwords_are_not_printed() {
        for line in ["PASS hunter2", "AUTH PLAIN hunter2"] {
            assert!(!format!("{:?}", parse(line.as_bytes())).contains("hunter2"));
        }
    }

    proptest! {
        #[test]
        fn any_line(line in proptest::collection::vec(any::<u8>(), 0..64)) {
            if let Ok(Command::Retr(n) | Command::Dele(n) | Command::Top { number: n, .. }) = parse(&line) {
                prop_assert!(n > 0);
            }
        }
    }
}
