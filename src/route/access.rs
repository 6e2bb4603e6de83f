//! Access maps: what operators have decided about clients, HELO names, senders and recipients.
//!
//! Owns the text form (`key action`), and look-ups that ignore ASCII case and do not fail. Reads no file. A
//! bad line is reported with its number; the rest counts.

use super::map::{BadLine, Table, logical_lines};
use super::tables::{Router, split};
use ipnet::IpNet;
use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;

/// What is done.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Action {
    /// Taken, as far as this goes: later maps and lists are not asked.
    Permit,
    /// Not taken.
    Refuse {
        /// 400 to 599.
        code: u16,
        /// Subject and detail of the enhanced code.
        enhanced: (u16, u16),
        /// Printable ASCII.
        text: Box<str>,
    },
    /// The message is taken and held in the queue.
    Hold(Box<str>),
    /// The message is taken and goes nowhere.
    Discard,
    /// The message goes there, and to nobody else.
    Redirect(Box<[u8]>),
}

/// What a map is about.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// Addresses, networks, names.
    Client,
    /// Names.
    Helo,
    /// Addresses, domains.
    Mail,
}

/// What is looked up.
#[derive(Clone, Copy, Debug)]
pub enum Question<'a> {
    /// A client, by its address and, if that is known, its name.
    Client(IpAddr, Option<&'a [u8]>),
    /// What a client calls itself.
    Helo(&'a [u8]),
    /// Empty: the null sender.
    Sender(&'a [u8]),
    /// A recipient as the client has named it.
    Recipient(&'a [u8]),
}

/// The four maps.
#[derive(Clone, Debug, Default)]
pub struct Access {
    /// Of clients.
    pub client: Map,
    /// Of HELO names.
    pub helo: Map,
    /// Of senders.
    pub sender: Map,
    /// Of recipients.
    pub recipient: Map,
}

/// One map.
#[derive(Clone, Debug, Default)]
pub struct Map {
    names: Table<Action>,
    /// By length of the prefix: the networks of IPv6, those of IPv4 in IPv6 form.
    networks: BTreeMap<u8, HashMap<u128, Action>>,
}

impl Access {
    /// What is done with this one; `None`: nothing.
    #[must_use]
    pub fn find(&self, question: Question<'_>) -> Option<&Action> {
        match question {
            Question::Client(address, name) => {
                let map = &self.client;
                map.of_address(address).or_else(|| name.and_then(|name| map.of_name(name)))
            }
            Question::Helo(name) => self.helo.of_name(name),
            Question::Sender(address) => self.sender.of_mail(address),
            Question::Recipient(address) => self.recipient.of_mail(address),
        }
    }
}

impl Map {
    /// The longest network that has `address`.
    fn of_address(&self, address: IpAddr) -> Option<&Action> {
        let bits = bits(address);
        self.networks.iter().rev().find_map(|(len, all)| all.get(&cut(bits, *len)))
    }

    /// `mail.example.net`, then `.example.net`, then `.net`.
    fn of_name(&self, name: &[u8]) -> Option<&Action> {
        let name = name.strip_suffix(b".").unwrap_or(name);
        let dots = name.iter().enumerate().filter(|(n, b)| **b == b'.' && *n > 0);
        self.names.get(name).or_else(|| dots.map(|(n, _)| &name[n..]).find_map(|end| self.names.get(end)))
    }

    /// `user@example.net`, then its domain as a name.
    fn of_mail(&self, address: &[u8]) -> Option<&Action> {
        let key = if address.is_empty() { NULL_SENDER } else { address };
        let domain = split(address).1;
        self.names.get(key).or_else(|| Some(domain).filter(|d| !d.is_empty()).and_then(|d| self.of_name(d)))
    }

    /// Number of entries.
    #[must_use]
    pub fn len(&self) -> usize {
        self.names.len() + self.networks.values().map(HashMap::len).sum::<usize>()
    }

    /// Some key is a name.
    #[must_use]
    pub fn has_names(&self) -> bool {
        !self.names.is_empty()
    }

    /// True without entries.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn insert(&mut self, key: &[u8], kind: Kind, action: Action) -> Result<bool, String> {
        if kind == Kind::Client
            && let Some((bits, len)) = network(key)?
        {
            let all = self.networks.entry(len).or_default();
            return Ok(!all.contains_key(&bits) && all.insert(bits, action).is_none());
        }
        Ok(self.names.insert(key, action))
    }
}

impl Action {
    /// The same for now: of whom it is meant for could not be said whether this is one.
    #[must_use]
    pub fn for_now(self) -> Action {
        match self {
            Action::Refuse { code: 500.., enhanced, text } => Action::Refuse { code: 451, enhanced, text },
            other => other,
        }
    }
}

/// The key of clients without a name.
pub const NO_NAME: &[u8] = b"unknown";
/// The key of the null sender.
const NULL_SENDER: &[u8] = b"<>";
/// Bytes of a text.
const TEXT_MAX: usize = 400;

fn bits(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(a) => a.to_ipv6_mapped().to_bits(),
        IpAddr::V6(a) => a.to_bits(),
    }
}

fn cut(bits: u128, len: u8) -> u128 {
    if len == 0 { 0 } else { bits & (u128::MAX << (128 - u32::from(len))) }
}

/// The network that a key names; `None`: it is no address. IPv4 is put into IPv6 form.
fn network(key: &[u8]) -> Result<Option<(u128, u8)>, String> {
    let text = std::str::from_utf8(key).unwrap_or_default();
    let bare = text.strip_prefix('[').and_then(|t| t.strip_suffix(']')).unwrap_or(text);
    let net = match (bare.parse::<IpAddr>(), bare.parse::<IpNet>()) {
        (Ok(address), _) => IpNet::from(address),
        (Err(_), Ok(net)) => net,
        (Err(_), Err(_)) if text.contains(['/', ':']) => return Err(format!("{text:?} is not a network")),
        (Err(_), Err(_)) => return Ok(None),
    };
    if net.addr() != net.network() {
        return Err(format!("{text:?} has bits set behind the prefix: is \"{}\" meant?", net.trunc()));
    }
    let six = if net.addr().is_ipv4() { 96 } else { 0 };
    Ok(Some((bits(net.addr()), net.prefix_len() + six)))
}

/// Parses a map: what is good, and the bad lines.
#[must_use]
pub fn parse(text: &[u8], kind: Kind) -> (Map, Vec<BadLine>) {
    let (mut map, mut bad) = (Map::default(), Vec::new());
    for (line, content) in logical_lines(text) {
        let at = content.iter().position(u8::is_ascii_whitespace).unwrap_or(content.len());
        let (key, rest) = content.split_at(at);
        let entered = check_key(key, kind).and_then(|()| action(rest.trim_ascii())).and_then(|action| {
            let new = map.insert(key, kind, action)?;
            let twice = || format!("\"{}\" is here twice; the first one counts", key.escape_ascii());
            if new { Ok(()) } else { Err(twice()) }
        });
        if let Err(message) = entered {
            bad.push(BadLine { line, message });
        }
    }
    (map, bad)
}

fn check_key(key: &[u8], kind: Kind) -> Result<(), String> {
    let shown = key.escape_ascii();
    match (kind, key.contains(&b'@')) {
        (Kind::Client | Kind::Helo, true) => Err(format!("\"{shown}\": no name has an @")),
        (Kind::Mail, true) if split(key).0.is_empty() => {
            Err(format!("\"{shown}\": a domain is written without @"))
        }
        _ if key == b"." => Err("no key".into()),
        _ => Ok(()),
    }
}

fn action(text: &[u8]) -> Result<Action, String> {
    if !text.iter().all(|b| matches!(b, 32..=126)) {
        return Err("an action is printable ASCII".into());
    }
    if text.len() > TEXT_MAX {
        return Err(format!("an action of more than {TEXT_MAX} bytes"));
    }
    let text = std::str::from_utf8(text).expect("ASCII");
    let (word, rest) = text.split_once(' ').unwrap_or((text, ""));
    let rest = rest.trim();
    let or = |usual: &str| if rest.is_empty() { usual.to_owned() } else { rest.to_owned() };
    match word.to_ascii_lowercase().as_str() {
        "permit" | "ok" => none(rest, Action::Permit),
        "discard" => none(rest, Action::Discard),
        "reject" => Ok(refuse(550, &or("Access denied"))),
        "defer" => Ok(refuse(451, &or("Access denied for now, try again later"))),
        "hold" => Ok(Action::Hold(or("access map").into())),
        "redirect" => match split(rest.as_bytes()) {
            (user, domain) if user.is_empty() || domain.is_empty() || rest.contains(' ') => {
                Err(format!("redirect needs an address, not {rest:?}"))
            }
            _ => Ok(Action::Redirect(rest.as_bytes().into())),
        },
        code => match code.parse::<u16>() {
            // RFC 5321 §3.8: 421 says that the connection is closed, which is not for a map to do.
            Ok(code @ (400..=420 | 422..=599)) => Ok(refuse(code, &or("Access denied"))),
            _ => Err(format!(
                "{word:?} is no action: permit, reject, defer, hold, discard, redirect, or 400 to 599"
            )),
        },
    }
}

fn none(rest: &str, action: Action) -> Result<Action, String> {
    if rest.is_empty() { Ok(action) } else { Err(format!("nothing belongs behind this action: {rest:?}")) }
}

/// `text` may begin with an enhanced code (RFC 3463 §2), whose class is that of `code` in any case.
fn refuse(code: u16, text: &str) -> Action {
    let (first, rest) = text.split_once(' ').unwrap_or((text, ""));
    let numbers: Vec<Option<u16>> = first.split('.').map(|n| n.parse().ok()).collect();
    match numbers[..] {
        [Some(4 | 5), Some(subject), Some(detail)] => {
            Action::Refuse { code, enhanced: (subject, detail), text: rest.trim().into() }
        }
        // RFC 3463 §3.8: delivery not authorized.
        _ => Action::Refuse { code, enhanced: (7, 1), text: text.into() },
    }
}

impl Router {
    /// Sets the access maps.
    pub fn set_access(&mut self, access: Option<Access>) {
        self.access = access;
    }

    /// The access maps, if there are any.
    #[must_use]
    pub fn access(&self) -> Option<&Access> {
        self.access.as_ref()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn map(text: &str, kind: Kind) -> Map {
        let (map, bad) = parse(text.as_bytes(), kind);
        assert_eq!(bad, [], "{text}");
        map
    }

    fn hold(text: &str) -> Action {
        Action::Hold(text.into())
    }

    #[test]
    fn clients_by_the_longest_network_then_by_name() {
        let client = map(
            "# ours\n192.0.2.0/24 hold net\n192.0.2.7 hold one\n0.0.0.0/0 hold four\n2001:db8::/32 hold six\n\
             [2001:db8::1] hold single\nMail.Example.net hold name\n.example.net hold below\n",
            Kind::Client,
        );
        assert_eq!((client.len(), client.is_empty()), (7, false));
        let access = Access { client, ..Access::default() };
        let find = |a: &str, name: Option<&str>| {
            let question = Question::Client(a.parse().unwrap(), name.map(str::as_bytes));
            access.find(question).cloned()
        };
        for (address, expected) in [
            ("192.0.2.7", Some("one")),
            ("::ffff:192.0.2.7", Some("one")),
            ("192.0.2.8", Some("net")),
            ("198.51.100.1", Some("four")),
            ("2001:db8::1", Some("single")),
            ("2001:db8::2", Some("six")),
            ("2001:db9::2", None),
        ] {
            assert_eq!(find(address, None), expected.map(hold), "{address}");
        }
        assert_eq!(find("::1", Some("mail.example.NET")), Some(hold("name")));
        assert_eq!(find("::1", Some("a.b.example.net.")), Some(hold("below")));
        assert_eq!((find("::1", Some("example.net")), find("::1", None)), (None, None));
        assert_eq!(find("192.0.2.8", Some("mail.example.net")), Some(hold("net")));
        assert!(access.client.has_names() && !map("192.0.2.7 hold\n", Kind::Client).has_names());
    }

    #[test]
    fn addresses_domains_and_the_null_sender() {
        let sender = map(
            "ann@a.example permit\na.example discard\n.a.example hold\n<> hold null\n\
             b.example redirect x@y.example\n",
            Kind::Mail,
        );
        let access = Access { sender, helo: map("[192.0.2.1] reject\n", Kind::Helo), ..Access::default() };
        let find = |a: &str| access.find(Question::Sender(a.as_bytes())).cloned();
        assert_eq!(find("ANN@A.example"), Some(Action::Permit));
        assert_eq!(
            (find("bob@a.example"), find("b@x.a.example")),
            (Some(Action::Discard), Some(hold("access map")))
        );
        assert_eq!((find(""), find("x"), find("a@c.example")), (Some(hold("null")), None, None));
        assert_eq!(find("z@b.example"), Some(Action::Redirect(b"x@y.example"[..].into())));
        assert!(access.find(Question::Recipient(b"ann@a.example")).is_none());
        assert!(access.find(Question::Helo(b"[192.0.2.1]")).is_some());
    }

    #[test]
    fn actions() {
        let refuse = |code, enhanced, text: &str| Action::Refuse { code, enhanced, text: text.into() };
        for (text, expected) in [
            ("OK", Action::Permit),
            ("REJECT", refuse(550, (7, 1), "Access denied")),
            ("reject Go  away", refuse(550, (7, 1), "Go  away")),
            ("reject 5.1.8 Bad sender", refuse(550, (1, 8), "Bad sender")),
            ("defer", refuse(451, (7, 1), "Access denied for now, try again later")),
            ("550 5.7.27 Null MX", refuse(550, (7, 27), "Null MX")),
            ("451 Later", refuse(451, (7, 1), "Later")),
            ("521", refuse(521, (7, 1), "Access denied")),
            ("550 1.2 x", refuse(550, (7, 1), "1.2 x")),
            ("hold look at it", hold("look at it")),
        ] {
            assert_eq!(action(text.as_bytes()), Ok(expected), "{text}");
        }
        for bad in [
            "",
            "allow",
            "250 ok",
            "600 x",
            "421 bye",
            "permit all",
            "discard x",
            "redirect",
            "redirect x",
            "redirect @y",
            "reject \u{e4}",
        ] {
            assert!(action(bad.as_bytes()).is_err(), "{bad}");
        }
    }

    #[test]
    fn for_now_nothing_is_refused_for_good() {
        let refuse = |code| Action::Refuse { code, enhanced: (7, 25), text: "x".into() };
        for (action, expected) in [(550, 451), (521, 451), (450, 450)] {
            assert_eq!(refuse(action).for_now(), refuse(expected));
        }
        assert_eq!((hold("x").for_now(), Action::Discard.for_now()), (hold("x"), Action::Discard));
    }

    #[test]
    fn bad_lines_have_their_number() {
        let text = b"a@b hold\n192.0.2.1/24 hold\n192.0.2.0/33 hold\n1::2::3 hold\n\
                     ok.example permit\nok.example hold\n\nx\n";
        let (map, bad) = parse(text, Kind::Client);
        assert_eq!((map.len(), bad.iter().map(|b| b.line).collect::<Vec<_>>()), (1, vec![1, 2, 3, 4, 6, 8]));
        assert_eq!(parse(b"@a.example hold\n. hold\n", Kind::Mail).1.len(), 2);
    }

    proptest! {
        #[test]
        fn any_bytes_are_survived(text in prop::collection::vec(any::<u8>(), 0..200), six in any::<bool>()) {
            for kind in [Kind::Client, Kind::Helo, Kind::Mail] {
                let (map, _) = parse(&text, kind);
                let address = if six { IpAddr::from([7u8; 16]) } else { IpAddr::from([7u8; 4]) };
                let _ = (map.of_address(address), map.of_name(&text), map.of_mail(&text));
            }
        }
    }
}
