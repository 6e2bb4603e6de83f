//! L3: lines of protocols as they pass, for operators who watch a peer.
//!
//! One for each core. Nobody watches: one look at a flag. What an operator watches is kept in a bounded list
//! until it is fetched; what does not fit is counted. A watch that nobody asks about ends. Secrets are left
//! out here, whatever a session hands over: of AUTH only the mechanism is shown, what is no command of a
//! known name and what answers a challenge not at all. Bodies are the caller's affair: it does not hand them
//! over.

use crate::base::time::Wall;
use serde::Serialize;
use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::net::IpAddr;
use std::rc::Rc;
use std::time::Duration;

/// Lines kept for one watch.
pub const LINES_MAX: usize = 2000;
/// Bytes of a line that are shown.
const TEXT_MAX: usize = 500;
/// Watches at a time.
const WATCHES_MAX: usize = 8;
/// A watch that nobody has asked about for so long ends.
const FORGOTTEN: Duration = Duration::from_secs(10);

/// Commands that are shown.
const VERBS: [&str; 16] = [
    "EHLO", "HELO", "LHLO", "MAIL", "RCPT", "DATA", "BDAT", "RSET", "NOOP", "VRFY", "HELP", "EXPN", "QUIT",
    "STARTTLS", "XCLIENT", "XFORWARD",
];

/// Who has connected to whom.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Way {
    /// The peer to us.
    In,
    /// We to the peer.
    Out,
}

/// A line.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Line {
    /// RFC 3339.
    pub time: String,
    /// Who has connected to whom.
    pub way: Way,
    /// Address of the peer.
    pub peer: String,
    /// The client has said it; else the server.
    pub client: bool,
    /// What.
    pub text: String,
}

struct Watch {
    number: u64,
    way: Way,
    peer: String,
    lines: VecDeque<Line>,
    dropped: u64,
    asked: Wall,
}

/// What one core shows. A handle; clones are the same.
#[derive(Clone, Default)]
pub struct Tracer(Rc<Inner>);

#[derive(Default)]
struct Inner {
    on: Cell<bool>,
    watches: RefCell<Vec<Watch>>,
}

/// The peer of one connection of ours.
#[derive(Clone)]
pub struct Tap {
    /// Where it goes.
    pub tracer: Tracer,
    /// Its address; none: a socket in the file system.
    pub address: Option<IpAddr>,
    /// Its name.
    pub name: Rc<str>,
}

impl Tracer {
    /// Whether anybody watches anything.
    #[must_use]
    pub fn is_on(&self) -> bool {
        self.0.on.get()
    }

    /// What has been kept for watch `number` since it was asked about last, and how many lines did not fit;
    /// begins the watch if there is none. `peer`: an address, a host name or the end of one, or `*`.
    pub fn ask(&self, number: u64, way: Way, peer: &str, now: Wall) -> (Vec<Line>, u64) {
        let mut watches = self.0.watches.borrow_mut();
        watches.retain(|w| now.since(w.asked) < FORGOTTEN);
        let found = watches.iter_mut().find(|w| w.number == number);
        let answer = match found {
            Some(watch) => {
                watch.asked = now;
                (watch.lines.drain(..).collect(), std::mem::take(&mut watch.dropped))
            }
            None => {
                if watches.len() < WATCHES_MAX {
                    let (lines, peer) = (VecDeque::new(), peer.to_owned());
                    watches.push(Watch { number, way, peer, lines, dropped: 0, asked: now });
                }
                (Vec::new(), 0)
            }
        };
        self.0.on.set(!watches.is_empty());
        answer
    }

    /// These lines have passed, from the client or from the server.
    pub fn told(
        &self,
        way: Way,
        (address, name): (Option<IpAddr>, &str),
        client: bool,
        said: &[u8],
        at: Wall,
    ) {
        if said.is_empty() {
            return;
        }
        let mut watches = self.0.watches.borrow_mut();
        watches.retain(|w| at.since(w.asked) < FORGOTTEN);
        self.0.on.set(!watches.is_empty());
        for watch in watches.iter_mut().filter(|w| w.way == way && is_meant(&w.peer, address, name)) {
            for line in said.split_inclusive(|b| *b == b'\n') {
                if watch.lines.len() == LINES_MAX {
                    watch.dropped += 1;
                    continue;
                }
                let peer = address.map_or_else(|| name.to_owned(), |a| a.to_string());
                watch.lines.push_back(Line {
                    time: at.to_string(),
                    way,
                    peer,
                    client,
                    text: shown(line, client),
                });
            }
        }
    }
}

impl Tap {
    /// These lines have passed, from us or from the server.
    pub fn told(&self, client: bool, said: &[u8], at: impl FnOnce() -> Wall) {
        if self.tracer.is_on() {
            self.tracer.told(Way::Out, (self.address, &self.name), client, said, at());
        }
    }
}

fn is_meant(peer: &str, address: Option<IpAddr>, name: &str) -> bool {
    let ends = || {
        let at = name.len().checked_sub(peer.len() + 1);
        at.is_some_and(|at| {
            name.as_bytes()[at] == b'.' && name.as_bytes()[at + 1..].eq_ignore_ascii_case(peer.as_bytes())
        })
    };
    let by_address = peer.parse::<IpAddr>().ok().is_some_and(|p| Some(p.to_canonical()) == address);
    peer == "*" || by_address || name.eq_ignore_ascii_case(peer) || ends()
}

/// A line without what is secret, and without what steers a terminal.
fn shown(line: &[u8], client: bool) -> String {
    let text: String = String::from_utf8_lossy(&line[..line.len().min(TEXT_MAX)]).trim_end().to_owned();
    let text: String = text.chars().map(|c| if c.is_control() { '?' } else { c }).collect();
    let mut words = text.split(' ');
    let verb = words.next().unwrap_or("");
    match client {
        true if verb.eq_ignore_ascii_case("AUTH") => match (words.next(), words.next()) {
            (Some(mechanism), Some(_)) => format!("AUTH {mechanism} (not shown)"),
            (Some(mechanism), None) => format!("AUTH {mechanism}"),
            (None, _) => text,
        },
        true if VERBS.iter().any(|v| v.eq_ignore_ascii_case(verb)) => text,
        true => "(not shown)".to_owned(),
        false if text.starts_with("334") => "334 (not shown)".to_owned(),
        false => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer(last: u8) -> (Option<IpAddr>, &'static str) {
        (Some([192, 0, 2, last].into()), "mx.a.example")
    }

    fn texts(lines: &[Line]) -> Vec<&str> {
        lines.iter().map(|l| &*l.text).collect()
    }

    #[test]
    fn a_watch_has_what_it_asks_for_and_ends_when_forgotten() {
        let tracer = Tracer::default();
        assert!(!tracer.is_on());
        assert_eq!(tracer.ask(1, Way::In, "192.0.2.1", Wall(0)), (Vec::new(), 0));
        assert!(tracer.is_on());
        tracer.told(Way::In, peer(1), true, b"EHLO a\r\nMAIL FROM:<x>\r\n", Wall(1));
        tracer.told(Way::In, peer(2), true, b"EHLO b\r\n", Wall(1));
        tracer.told(Way::Out, peer(1), true, b"EHLO c\r\n", Wall(1));
        tracer.told(Way::In, peer(1), false, b"250 ok\x1b[2J\r\n", Wall(1));
        let (lines, dropped) = tracer.ask(1, Way::In, "192.0.2.1", Wall(2));
        assert_eq!((texts(&lines), dropped), (vec!["EHLO a", "MAIL FROM:<x>", "250 ok?[2J"], 0));
        assert_eq!((lines[0].client, lines[2].client, &*lines[0].peer), (true, false, "192.0.2.1"));
        for _ in 0..LINES_MAX + 7 {
            tracer.told(Way::In, peer(1), true, b"NOOP\r\n", Wall(3));
        }
        let (lines, dropped) = tracer.ask(1, Way::In, "192.0.2.1", Wall(4));
        assert_eq!((lines.len(), dropped), (LINES_MAX, 7));
        tracer.told(Way::In, peer(1), true, b"NOOP\r\n", Wall(4 + 10_000));
        assert!(!tracer.is_on());
    }

    #[test]
    fn secrets_are_not_shown() {
        for (line, client, expect) in [
            (&b"AUTH PLAIN AGEAYg==\r\n"[..], true, "AUTH PLAIN (not shown)"),
            (b"auth login\r\n", true, "AUTH login"),
            (b"cGFzc3dvcmQ=\r\n", true, "(not shown)"),
            (b"MAILcGFzc3dvcmQ=\r\n", true, "(not shown)"),
            (b"mail from:<a@b>\r\n", true, "mail from:<a@b>"),
            (b"334 UGFzc3dvcmQ6\r\n", false, "334 (not shown)"),
            (b"250-STARTTLS\r\n", false, "250-STARTTLS"),
        ] {
            assert_eq!(shown(line, client), expect);
        }
    }

    #[test]
    fn peers_are_named_by_address_name_or_its_end() {
        let is = |peer: &str| is_meant(peer, Some([192, 0, 2, 1].into()), "mx.A.example");
        for (peer, expect) in [
            ("*", true),
            ("192.0.2.1", true),
            ("::ffff:192.0.2.1", true),
            ("192.0.2.2", false),
            ("MX.a.example", true),
            ("a.example", true),
            ("x.a.example", false),
            ("example.", false),
            ("", false),
        ] {
            assert_eq!(is(peer), expect, "{peer}");
        }
    }
}
