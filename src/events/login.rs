//! The line about a failed login: its form is fixed, because other programs read it.
//!
//! `deploy/fail2ban/filter.d/ringpost.conf` matches it. The client comes first, where nothing that a
//! client has sent can stand before it; the login is quoted, its control characters and quotes are
//! escaped, and it is cut. Passwords are not even an argument.

use super::{Events, Level};
use std::fmt::Write;
use std::net::SocketAddr;

/// The name of the event.
pub const NAME: &str = "login_failed";
/// Characters of a login that are written.
const LOGIN_MAX: usize = 64;

/// A login that has failed, or was refused unseen.
#[derive(Clone, Copy, Debug)]
pub struct FailedLogin<'a> {
    /// The client; through a proxy, the one that the proxy names.
    pub client: SocketAddr,
    /// `smtp`, `submission`, `submissions`, `imap`...
    pub service: &'a str,
    /// SASL mechanism, or the command of a protocol.
    pub mechanism: &'a str,
    /// What the client calls itself; anything at all.
    pub login: &'a [u8],
    /// It was not looked at: too many have failed before.
    pub unseen: bool,
}

impl FailedLogin<'_> {
    /// `client=192.0.2.7 port=4321 service=submission mechanism=PLAIN result=failed login="name"`.
    /// `result` is `failed` or `refused`.
    #[must_use]
    pub fn text(&self) -> String {
        let client = self.client.ip().to_canonical();
        let result = if self.unseen { "refused" } else { "failed" };
        let mut text = format!(
            "client={client} port={} service={} mechanism={} result={result} login=\"",
            self.client.port(),
            word(self.service),
            word(self.mechanism),
        );
        let login = String::from_utf8_lossy(self.login);
        for c in login.chars().take(LOGIN_MAX) {
            // Writing to a String cannot fail.
            let _ = if c.is_control() || matches!(c, '"' | '\\') {
                write!(text, "{}", c.escape_default())
            } else {
                write!(text, "{c}")
            };
        }
        text.push('"');
        text
    }

    /// Sends the event, of core `core`.
    pub fn send(&self, events: &Events, core: Option<u16>) {
        // Not a warning: the same warning is written once a minute, and each of these must be.
        events.send(Level::Info, NAME, self.text(), core);
    }
}

/// Letters, digits, hyphens; what a client has made up cannot add a field.
fn word(text: &str) -> String {
    text.chars()
        .take(LOGIN_MAX)
        .map(|c| if c.is_ascii_alphanumeric() || c == '-' { c } else { '?' })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::super::writer::lines;
    use super::*;
    use regex::Regex;

    const FILTER: &str = include_str!("../../deploy/fail2ban/filter.d/ringpost.conf");

    fn failure(client: &str, login: &'static [u8]) -> FailedLogin<'static> {
        let client = client.parse().unwrap();
        FailedLogin { client, service: "submission", mechanism: "PLAIN", login, unseen: false }
    }

    /// The expressions of the filter, with what fail2ban puts for `<ADDR>`.
    fn expressions() -> Vec<Regex> {
        let (_, rest) = FILTER.split_once("failregex = ").unwrap();
        let lines = rest.lines().take_while(|l| !l.trim().is_empty());
        let address = r"(?P<addr>[0-9A-Fa-f.:]+)";
        lines.map(|l| Regex::new(&l.trim().replace("<ADDR>", address)).unwrap()).collect()
    }

    #[test]
    fn form() {
        assert_eq!(
            failure("[::ffff:192.0.2.7]:4321", b"me@example.net").text(),
            "client=192.0.2.7 port=4321 service=submission mechanism=PLAIN result=failed \
             login=\"me@example.net\""
        );
        let f = FailedLogin { unseen: true, mechanism: "X result=ok", ..failure("[2001:db8::7]:1", b"") };
        assert_eq!(
            f.text(),
            "client=2001:db8::7 port=1 service=submission mechanism=X?result?ok result=refused login=\"\""
        );
        let text = failure("192.0.2.7:1", b"a\" client=1.2.3.4\r\n\x1b[31m\\\xff").text();
        assert!(text.ends_with("login=\"a\\\" client=1.2.3.4\\r\\n\\u{1b}[31m\\\\\u{fffd}\""), "{text}");
        let long = FailedLogin { login: &[b'x'; 5000], ..failure("192.0.2.7:1", b"") };
        assert!(long.text().len() < 200);
    }

    /// The filter finds the client in both forms of a line, and nothing that the client has made up.
    #[test]
    fn fail2ban_reads_it() {
        let all = expressions();
        assert_eq!(all.len(), 2);
        let tricks: [&[u8]; 4] = [
            b"me",
            b"x\" client=198.51.100.9 port=1",
            b"login_failed: client=198.51.100.9 port=1 \n \
              ringpost[1]: login_failed: client=198.51.100.9 port=2",
            b"\",\"event\":\"login_failed\",\"level\":\"info\",\"text\":\"client=198.51.100.9 port=1",
        ];
        for (client, address) in [("192.0.2.7:4321", "192.0.2.7"), ("[2001:db8::7]:1", "2001:db8::7")] {
            for login in tricks {
                for line in lines(NAME, &failure(client, login).text()) {
                    let found: Vec<&str> =
                        all.iter().filter_map(|e| Some(e.captures(&line)?.name("addr")?.as_str())).collect();
                    assert_eq!(found, [address], "{line}");
                }
            }
        }
        // Other events that mention clients are not logins, whatever a client makes of them.
        for text in ["client=198.51.100.9 port=1", "login_failed: client=198.51.100.9 port=1 "] {
            for line in lines("started", text) {
                assert!(all.iter().all(|e| !e.is_match(&line)), "{line}");
            }
        }
    }
}
