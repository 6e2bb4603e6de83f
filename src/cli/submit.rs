//! A small SMTP client for programs of this host: one message over one connection, in clear text.
//!
//! Used by `sendmail` and `queue import`. Owns where the server is and what its replies mean for an exit
//! code. Nothing is kept here: what cannot be submitted is said, and stays with whoever called.

#![allow(clippy::disallowed_methods, reason = "a program for operators and scripts speaks SMTP to this host")]

use super::Exit;
use crate::config::Config;
use crate::config::raw::{AuthMode, Protocol};
use crate::smtp::inbound::Tls;
use std::io::{self, BufRead, BufReader, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream, ToSocketAddrs};
use std::time::Duration;

/// Where SMTP is spoken, instead of what the configuration says.
pub const VARIABLE: &str = "RINGPOST_SMTP";
/// How long the server may take for a reply; the end of data waits for the disk.
const PATIENCE: Duration = Duration::from_secs(300);
/// Bytes of a line of a reply.
const LINE_MAX: u64 = 4096;

/// A message to submit.
#[derive(Debug, Default)]
pub struct Mail {
    /// Sender; empty: the null sender.
    pub sender: String,
    /// Recipients.
    pub recipients: Vec<String>,
    /// Parameters of MAIL, each with a blank in front.
    pub mail_options: String,
    /// Parameters of RCPT, each with a blank in front.
    pub rcpt_options: String,
    /// The message; any line ends.
    pub content: Vec<u8>,
}

/// Why a message was not taken, or not for all.
#[derive(Debug, PartialEq, Eq)]
pub struct Trouble {
    /// For scripts.
    pub exit: Exit,
    /// For people.
    pub text: String,
}

impl Trouble {
    fn new(exit: Exit, text: impl Into<String>) -> Self {
        Trouble { exit, text: text.into() }
    }

    /// What a refusal means.
    fn of_reply(what: &str, reply: &Reply) -> Self {
        let exit = match (reply.code, &*reply.text) {
            (400..=499, _) => Exit::TempFail,
            (_, text) if text.contains("5.1.1") || text.contains("5.1.2") => Exit::NoUser,
            (_, text) if text.contains("5.7.") => Exit::NoPermission,
            (552 | 554, _) => Exit::Data,
            _ => Exit::Unavailable,
        };
        Trouble::new(exit, format!("{what}: {}", reply.text))
    }
}

impl From<io::Error> for Trouble {
    fn from(e: io::Error) -> Self {
        Trouble::new(Exit::TempFail, format!("the connection to the mail server broke: {e}"))
    }
}

struct Reply {
    code: u16,
    /// Its lines, joined.
    text: String,
}

/// Where programs of this host submit mail: what the environment says, else the first listener for SMTP that
/// neither needs a login nor TLS, else port 25 of this host.
#[must_use]
pub fn server(config: Option<&Config>) -> String {
    if let Ok(named) = std::env::var(VARIABLE) {
        return named;
    }
    let open = |l: &&crate::config::resolve::Listener| {
        let plain = matches!(l.tls, Tls::Off | Tls::Offered);
        l.protocol == Protocol::Smtp && plain && l.auth != AuthMode::Required
    };
    let found = config.and_then(|c| c.listeners.iter().filter(open).find_map(|l| l.addresses.first()));
    let usual = SocketAddr::new(Ipv4Addr::LOCALHOST.into(), 25);
    near(found.copied().unwrap_or(usual)).to_string()
}

/// All addresses of a host include its own.
fn near(mut address: SocketAddr) -> SocketAddr {
    match address.ip() {
        IpAddr::V4(a) if a.is_unspecified() => address.set_ip(Ipv4Addr::LOCALHOST.into()),
        IpAddr::V6(a) if a.is_unspecified() => address.set_ip(Ipv6Addr::LOCALHOST.into()),
        _ => {}
    }
    address
}

/// Connects.
///
/// # Errors
/// Nobody answers: try again later.
pub fn connect(server: &str) -> Result<TcpStream, Trouble> {
    let failed = |e: io::Error| {
        let text = format!("no mail server answers at {server}: {e} (is `ringpost serve` running?)");
        Trouble::new(Exit::TempFail, text)
    };
    let addresses = server.to_socket_addrs().map_err(failed)?;
    let mut last = io::ErrorKind::NotFound.into();
    for address in addresses {
        match TcpStream::connect(address) {
            Ok(stream) => return Ok(stream),
            Err(e) => last = e,
        }
    }
    Err(failed(last))
}

struct Session {
    input: BufReader<TcpStream>,
    extensions: String,
}

impl Session {
    fn begin(server: &str) -> Result<Session, Trouble> {
        let stream = connect(server)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        let mut session = Session { input: BufReader::new(stream), extensions: String::new() };
        session.expect("greeting", 220)?;
        let reply = session.say("EHLO localhost")?;
        if reply.code != 250 {
            return Err(Trouble::of_reply("EHLO", &reply));
        }
        session.extensions = reply.text.to_ascii_uppercase();
        Ok(session)
    }

    fn say(&mut self, line: &str) -> Result<Reply, Trouble> {
        if line.bytes().any(|b| matches!(b, b'\r' | b'\n' | 0)) {
            return Err(Trouble::new(Exit::Usage, "an address or parameter with a line end in it"));
        }
        let stream = self.input.get_mut();
        stream.write_all(format!("{line}\r\n").as_bytes())?;
        self.reply()
    }

    fn reply(&mut self) -> Result<Reply, Trouble> {
        let mut text = String::new();
        loop {
            let mut line = Vec::new();
            let mut bounded = io::Read::take(&mut self.input, LINE_MAX);
            if bounded.read_until(b'\n', &mut line)? == 0 {
                return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
            }
            let line = String::from_utf8_lossy(&line);
            let line = line.trim_end();
            if !text.is_empty() {
                text.push('\n');
            }
            text.push_str(line);
            if line.as_bytes().get(3) != Some(&b'-') {
                let code = line.get(..3).and_then(|c| c.parse().ok()).unwrap_or(500);
                return Ok(Reply { code, text });
            }
        }
    }

    fn expect(&mut self, what: &str, code: u16) -> Result<Reply, Trouble> {
        let reply = self.reply()?;
        if reply.code == code { Ok(reply) } else { Err(Trouble::of_reply(what, &reply)) }
    }

    fn has(&self, extension: &str) -> bool {
        self.extensions.lines().any(|line| line.get(4..).is_some_and(|rest| rest == extension))
    }
}

/// Submits a message. `Ok`: it is on stable storage there; the reply, and what was said of recipients that
/// were refused.
///
/// # Errors
/// Nobody was taken, or the message was not.
pub fn submit(server: &str, mail: &Mail) -> Result<(String, Vec<Trouble>), Trouble> {
    let mut session = Session::begin(server)?;
    let mut from = format!("MAIL FROM:<{}>", mail.sender);
    if session.has("8BITMIME") && !mail.content.is_ascii() {
        from.push_str(" BODY=8BITMIME");
    }
    let international = !mail.sender.is_ascii() || mail.recipients.iter().any(|r| !r.is_ascii());
    if session.has("SMTPUTF8") && international {
        from.push_str(" SMTPUTF8");
    }
    let dsn = session.has("DSN");
    if dsn {
        from.push_str(&mail.mail_options);
    }
    let reply = session.say(&from)?;
    if reply.code != 250 {
        return Err(Trouble::of_reply(&format!("sender {:?}", mail.sender), &reply));
    }
    let mut refused = Vec::new();
    for to in &mail.recipients {
        let options = if dsn { &*mail.rcpt_options } else { "" };
        let reply = session.say(&format!("RCPT TO:<{to}>{options}"))?;
        if !matches!(reply.code, 250 | 251) {
            refused.push(Trouble::of_reply(to, &reply));
        }
    }
    if refused.len() == mail.recipients.len() {
        return Err(refused.pop().unwrap_or_else(|| Trouble::new(Exit::Usage, "no recipients")));
    }
    let reply = session.say("DATA")?;
    if reply.code != 354 {
        return Err(Trouble::of_reply("DATA", &reply));
    }
    session.input.get_mut().write_all(&wire(&mail.content))?;
    let reply = session.expect("message", 250)?;
    // It is safe there, whatever comes of this.
    let _ = session.say("QUIT");
    Ok((reply.text, refused))
}

/// As it goes over the wire (RFC 5321 §4.5.2): lines end in CRLF, dots at their beginning are doubled, a dot
/// alone ends it.
fn wire(content: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(content.len() + content.len() / 32 + 8);
    let mut rest = content;
    while !rest.is_empty() {
        let end = rest.iter().position(|b| matches!(b, b'\r' | b'\n')).unwrap_or(rest.len());
        if rest[0] == b'.' {
            out.push(b'.');
        }
        out.extend_from_slice(&rest[..end]);
        out.extend_from_slice(b"\r\n");
        let both = rest[end..].starts_with(b"\r\n");
        rest = rest.get(end + 1 + usize::from(both)..).unwrap_or_default();
    }
    out.extend_from_slice(b".\r\n");
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_end_as_they_must() {
        for (content, expect) in [
            (&b""[..], &b".\r\n"[..]),
            (b"a\nb", b"a\r\nb\r\n.\r\n"),
            (b"a\r\n.b\r\n", b"a\r\n..b\r\n.\r\n"),
            (b".\n\n.", b"..\r\n\r\n..\r\n.\r\n"),
            (b"a\rb\n", b"a\r\nb\r\n.\r\n"),
        ] {
            assert_eq!(wire(content), expect, "{}", content.escape_ascii());
        }
    }

    #[test]
    fn replies_become_exit_codes() {
        let of = |code, text: &str| Trouble::of_reply("x", &Reply { code, text: text.into() }).exit;
        assert_eq!(of(450, "450 4.2.1 later"), Exit::TempFail);
        assert_eq!(of(550, "550 5.1.1 who"), Exit::NoUser);
        assert_eq!(of(554, "554 5.7.1 relay"), Exit::NoPermission);
        assert_eq!(of(552, "552 5.3.4 large"), Exit::Data);
        assert_eq!(of(500, "500 what"), Exit::Unavailable);
    }

    #[test]
    fn the_listener_of_the_configuration_is_found() {
        let text = "[server]\nhostname = \"mx.a.example\"\n[relay]\nsmarthost = \"192.0.2.1\"\n\
                    [[listener]]\nprotocol = \"smtp\"\naddress = \"0.0.0.0:2525\"\n";
        let (config, _) = Config::parse(text, "t").expect("good");
        assert_eq!(server(Some(&config)), "127.0.0.1:2525");
        assert_eq!(server(None), "127.0.0.1:25");
        assert_eq!(near("[::]:25".parse().expect("an address")).to_string(), "[::1]:25");
    }
}
